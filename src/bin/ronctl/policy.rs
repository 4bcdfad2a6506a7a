//! `ronctl policy check|show|reload|apply`: the policy file, and what of it is in force.

use crate::args;
use crate::client::{Call, Client};
use crate::failure::Failure;
use crate::output::Output;
use clap::Subcommand;
use ron_node::policy::read_policy;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::Duration;

/// What to do with the policy.
#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// Tell every problem of a policy file, without a node; exit 78 if there is one
    Check {
        /// The file
        file: PathBuf,
    },
    /// Show what is in force
    Show,
    /// Have the node read its policy file again; a bad one changes nothing
    Reload,
    /// Relax the policy by a preset for a while: brownout-1, or one of the file
    Apply {
        /// The preset's name
        preset: String,
        /// When it ends by itself, at most 24h
        #[arg(long, value_parser = args::duration)]
        ttl: Duration,
    },
}

/// Runs the command; `node` is asked for only by those that need one.
///
/// # Errors
/// What the command says, or that no node answers.
pub(crate) async fn run(
    command: PolicyCommand,
    node: impl FnOnce() -> Result<Client, Failure>,
    out: Output,
) -> Result<(), Failure> {
    let call = match command {
        PolicyCommand::Check { file } => return check(&file, out),
        PolicyCommand::Show => Call::get("/ctl/policy"),
        PolicyCommand::Reload => Call::json("/ctl/policy/reload", &json!({})),
        PolicyCommand::Apply { preset, ttl } => {
            let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
            Call::json("/ctl/policy/apply", &json!({ "preset": preset, "ttl_ms": ttl_ms }))
        }
    };
    let policy: Value = node()?.read(call).await?;
    if out.json { out.value(&policy) } else { show(&policy, out) }
}

fn check(file: &std::path::Path, out: Output) -> Result<(), Failure> {
    let read = read_policy(file);
    if out.json {
        let problems = read.as_ref().err().map_or(&[][..], |bad| &bad.problems);
        out.value(&json!({ "ok": problems.is_empty(), "problems": problems }))?;
    }
    match read {
        Ok((policy, id)) if !out.json => {
            let (rules, tenants) = (policy.rules(), policy.tenants().count());
            out.line(format!("ok: version {}, {rules} rules, {tenants} tenants, {id}", policy.revision()))
        }
        Ok(_) => Ok(()),
        Err(bad) => Err(Failure::Config(bad.to_string().replace("; ", "\n  "))),
    }
}

fn show(policy: &Value, out: Output) -> Result<(), Failure> {
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Null => "–".to_owned(),
        other => other.to_string(),
    };
    let preset = match policy["preset"]["name"].as_str() {
        Some(name) => {
            format!("{name}, ends in {} s", policy["preset"]["ends_in_ms"].as_u64().unwrap_or(0) / 1000)
        }
        None => "–".to_owned(),
    };
    out.pairs(&[
        ("policy_version", text(&policy["version"])),
        ("file", text(&policy["file"])),
        ("id", text(&policy["id"])),
        ("version of the file", text(&policy["revision"])),
        ("default", text(&policy["default"])),
        ("rules", text(&policy["rules"])),
        ("preset", preset),
    ])?;
    let quotas = ["rps", "burst", "bytes_per_s", "max_inflight", "max_depth", "max_topics", "weight"];
    let tenants = policy["tenants"].as_object().cloned().unwrap_or_default();
    if tenants.is_empty() {
        return Ok(());
    }
    let row = |(name, table): (&String, &Value)| {
        std::iter::once(name.clone()).chain(quotas.iter().map(|key| text(&table[*key]))).collect()
    };
    let header: Vec<&str> = std::iter::once("tenant").chain(quotas).collect();
    out.table(&header, tenants.iter().map(row).collect())
}
