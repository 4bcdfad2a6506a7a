//! `ronctl config reload`: has the node read everything again, and says what came of it.

use crate::client::{Call, Client};
use crate::failure::Failure;
use crate::output::Output;
use clap::Args;
use serde_json::{Value, json};
use std::time::Duration;

/// New providers are started before the answer comes.
const STARTS: Duration = Duration::from_secs(30);

/// How.
#[derive(Debug, Args)]
pub(crate) struct ReloadArgs {
    /// Also if requests are refused for it that were signed in good faith: for a secret that leaked
    #[arg(long)]
    force: bool,
}

/// Runs the command.
///
/// # Errors
/// Exit code 78 with every problem, and then nothing is changed; no node; the node's refusal.
pub(crate) async fn run(args: &ReloadArgs, mut node: Client, out: Output) -> Result<(), Failure> {
    let call = Call::json("/ctl/config/reload", &json!({ "force": args.force })).and_wait(STARTS);
    let answer = node.call(call).await?;
    let refused = (!answer.status.is_success()).then(|| answer.refused());
    if let Some(refused) = refused.filter(|refused| refused.reason == "MALFORMED") {
        // a line each, the hints below theirs
        let text = refused.error.replace('\n', "\n  ");
        return Err(Failure::Config(format!("not reloaded, nothing is changed:\n  {text}")));
    }
    let report: Value = answer.read()?;
    if out.json { out.value(&report) } else { show(&report, out) }
}

fn show(report: &Value, out: Output) -> Result<(), Failure> {
    let list = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let shown = |list: Vec<String>| if list.is_empty() { "–".to_owned() } else { list.join(", ") };
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let secrets = report["secrets"].as_array().into_iter().flatten().map(|secret| {
        format!("{}/{} {}", text(&secret["provider"]), text(&secret["kid"]), text(&secret["what"]))
    });
    let providers = &report["providers"];
    let signed = |sign: &str, key: &str| {
        list(&providers[key]).into_iter().map(|name| format!("{sign}{name}")).collect::<Vec<_>>()
    };
    out.pairs(&[
        ("version", report["version"].to_string()),
        ("in force now", shown(list(&report["applied"]))),
        ("needs a restart", shown(list(&report["restart"]))),
        ("providers", shown([signed("+", "added"), signed("-", "removed")].concat())),
        ("secrets", shown(secrets.collect())),
    ])?;
    for name in list(&providers["down"]) {
        out.line(format!("warning: the verifier of {name} did not start; it is tried again"))?;
    }
    for text in list(&report["forced"]) {
        out.line(format!("forced: {text}"))?;
    }
    Ok(())
}
