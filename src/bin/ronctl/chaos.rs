//! `ronctl chaos inject|list|clear`: faults in a node that allows them, to see it and its operators cope.

use crate::args;
use crate::client::{Call, Client};
use crate::failure::Failure;
use crate::output::Output;
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};
use std::time::Duration;

/// What to do about faults.
#[derive(Debug, Subcommand)]
pub(crate) enum ChaosCommand {
    /// Inject one; all but a kill end by themselves (the node must have `chaos.enabled = true`)
    Inject(InjectArgs),
    /// List those in force
    List,
    /// End one, or all
    Clear {
        /// Its number in `chaos list` [without it: all]
        id: Option<u32>,
    },
}

/// The service, as operators know them. They share one process and one store.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Target {
    SvcMailbox,
    SvcInterop,
}

/// What can be injected.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Fault {
    /// Each fsync of the store takes --ms longer
    Latency,
    /// Of the store's fsyncs --percent fail with an I/O error
    Error,
    /// --percent of every processor is used up
    Cpu,
    /// --child is killed, once
    Kill,
}

/// Arguments of `chaos inject`.
#[derive(Debug, Args)]
pub(crate) struct InjectArgs {
    /// The service that is meant
    #[arg(long)]
    target: Target,
    /// What to inject
    #[arg(long)]
    fault: Fault,
    /// For how long, at most 1h [default: 60s]
    #[arg(long, value_parser = args::duration)]
    duration: Option<Duration>,
    /// Of `latency`: milliseconds, at most 10000 [default: 300]
    #[arg(long)]
    ms: Option<u64>,
    /// Of `error` and `cpu`: out of a hundred [default: 5 and 60]
    #[arg(long)]
    percent: Option<u8>,
    /// Of `kill`: a queue as TENANT/TOPIC or `store` of svc-mailbox, a provider of svc-interop
    #[arg(long)]
    child: Option<String>,
}

/// Runs `ronctl chaos`.
///
/// # Errors
/// The node's refusal, as when its configuration allows no faults, or [`Failure::Unreachable`].
pub(crate) async fn run(command: ChaosCommand, mut node: Client, out: Output) -> Result<(), Failure> {
    match command {
        ChaosCommand::Inject(args) => {
            let done: Value = node.read(Call::json("/ctl/chaos/inject", &request(args))).await?;
            match (out.json, done["killed"].as_str()) {
                (true, _) => out.value(&done),
                (false, Some(child)) => out.line(format!("{child}  killed")),
                (false, None) => out.line(readable(&done)),
            }
        }
        ChaosCommand::List => {
            let listed: Value = node.read(Call::get("/ctl/chaos")).await?;
            let faults = listed["faults"].as_array().cloned().unwrap_or_default();
            match (out.json, faults.is_empty()) {
                (true, _) => out.value(&listed),
                (false, true) if listed["enabled"] == true => out.line("no fault is in force"),
                (false, true) => out.line("no fault is in force, and none is allowed (`chaos.enabled`)"),
                (false, false) => faults.iter().try_for_each(|fault| out.line(readable(fault))),
            }
        }
        ChaosCommand::Clear { id } => {
            let cleared: Value = node.read(Call::json("/ctl/chaos/clear", &json!({ "id": id }))).await?;
            if out.json { out.value(&cleared) } else { out.line(format!("{} cleared", cleared["cleared"])) }
        }
    }
}

fn request(args: InjectArgs) -> Value {
    let InjectArgs { target, fault, duration, ms, percent, child } = args;
    let name = |value: Option<clap::builder::PossibleValue>| value.map(|value| value.get_name().to_owned());
    let all = json!({
        "target": name(target.to_possible_value()),
        "fault": name(fault.to_possible_value()),
        "duration_ms": duration.map(|duration| duration.as_millis() as u64),
        "ms": ms,
        "percent": percent,
        "child": child,
    });
    let given = all.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null());
    given.map(|(name, value)| (name.clone(), value.clone())).collect::<serde_json::Map<_, _>>().into()
}

/// A fault for people.
fn readable(fault: &Value) -> String {
    let text = |name: &str| fault[name].as_str().unwrap_or("–").to_owned();
    let amount = match (fault["ms"].as_u64(), fault["percent"].as_u64()) {
        (Some(ms), _) => format!("+{ms} ms"),
        (None, percent) => format!("{} %", percent.unwrap_or_default()),
    };
    let id = fault["id"].as_u64().unwrap_or_default();
    let left = fault["left_ms"].as_u64().unwrap_or_default().div_ceil(1000);
    format!("{id:>3}  {:11}  {:7}  {amount}  {left} s left", text("target"), text("fault"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_what_was_given_and_no_more() {
        let args = InjectArgs {
            target: Target::SvcMailbox,
            fault: Fault::Cpu,
            duration: Some(Duration::from_secs(300)),
            ms: None,
            percent: Some(60),
            child: None,
        };
        let asked = json!({"target": "svc-mailbox", "fault": "cpu", "duration_ms": 300_000, "percent": 60});
        assert_eq!(request(args), asked);
    }

    #[test]
    fn a_fault_is_readable_on_one_line() {
        let fault =
            json!({"id": 2, "target": "svc-interop", "fault": "latency", "ms": 300, "left_ms": 58_001});
        assert_eq!(readable(&fault), "  2  svc-interop  latency  +300 ms  59 s left");
    }
}
