//! `ronctl tail`, `ronctl quarantine` and `ronctl amnesia`: what happens in the node, what it has given up on, and
//! whether it forgets.

use crate::args;
use crate::client::{Call, Client};
use crate::failure::{Failure, failed};
use crate::output::{Output, warn};
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use std::time::Duration;

/// What to show of what happens.
#[derive(Debug, Args)]
pub(crate) struct TailArgs {
    /// Only events under it: kernel, mailbox, interop, or a longer one such as mailbox.dlq [without it: all]
    #[arg(long, value_name = "TOPIC", default_value = "")]
    topic: String,
    /// Begin with what happened in this time; the node remembers 15 minutes, at most 10,000 events
    #[arg(long, value_parser = args::duration, default_value = "0s")]
    since: Duration,
    /// End after what has already happened
    #[arg(long)]
    no_follow: bool,
}

/// What to do about what is in quarantine.
#[derive(Debug, Subcommand)]
pub(crate) enum QuarantineCommand {
    /// List queues and providers whose actors crashed too often and wait for an operator
    List,
    /// Let some out, each with its whole restart budget
    Release {
        /// As `list` prints them: TENANT/TOPIC, or a provider's name
        #[arg(value_name = "NAME", required_unless_present = "all")]
        names: Vec<String>,
        /// Everything that is in quarantine
        #[arg(long, conflicts_with = "names")]
        all: bool,
    },
}

/// Runs `ronctl tail`: a line an event, as they come, until interrupted or the node ends.
///
/// # Errors
/// The node's refusal, or that no node answers.
pub(crate) async fn tail(tail: TailArgs, mut node: Client, out: Output) -> Result<(), Failure> {
    let (since_ms, follow) = (tail.since.as_millis(), !tail.no_follow);
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if !tail.topic.chars().all(plain) {
        return Err(failed(format!("--topic {}: letters, digits, `.`, `_` and `-`", tail.topic)));
    }
    let path = format!("/ctl/tail?topic={}&since_ms={since_ms}&follow={follow}", tail.topic);
    let mut lines = node.lines(Call::get(path)).await?;
    while let Some(line) = lines.next().await? {
        if line.is_empty() {
            continue; // the node has nothing to say, and says so
        }
        let event: Value = serde_json::from_slice(&line)
            .map_err(|err| failed(format!("the node's line is not what was expected: {err}")))?;
        if out.json { out.value(&event)? } else { out.line(readable(&event))? }
    }
    if follow {
        warn("the node ended");
    }
    Ok(())
}

/// An event for people: time, topic, and the rest as `name=value`.
fn readable(event: &Value) -> String {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let rest = event.as_object().into_iter().flatten();
    let rest = rest.filter(|(name, _)| !matches!(name.as_str(), "ts" | "topic" | "event"));
    let rest: String = rest.map(|(name, value)| format!(" {name}={}", text(value))).collect();
    format!("{}  {:26} {}{rest}", text(&event["ts"]), text(&event["topic"]), text(&event["event"]))
}

/// Runs `ronctl quarantine`.
///
/// # Errors
/// The node's refusal, or that no node answers.
pub(crate) async fn quarantine(
    command: QuarantineCommand,
    mut node: Client,
    out: Output,
) -> Result<(), Failure> {
    let listed: Value = node.read(Call::get("/ctl/quarantine")).await?;
    let held = listed["quarantined"].as_array().cloned().unwrap_or_default();
    let held: Vec<String> = held.iter().filter_map(|name| name.as_str().map(str::to_owned)).collect();
    let names = match command {
        QuarantineCommand::List if out.json => return out.value(&listed),
        QuarantineCommand::List if held.is_empty() => return out.line("nothing is in quarantine"),
        QuarantineCommand::List => return held.iter().try_for_each(|name| out.line(name)),
        QuarantineCommand::Release { all: true, .. } if held.is_empty() && !out.json => {
            return out.line("nothing is in quarantine");
        }
        QuarantineCommand::Release { all: true, .. } => held,
        QuarantineCommand::Release { names, .. } => names,
    };
    let mut released = Vec::new();
    for name in names {
        let done: Value = node.read(Call::json("/ctl/quarantine/release", &json!({ "name": name }))).await?;
        if !out.json {
            out.line(format!("{name}  released"))?;
        }
        released.push(done["released"].clone());
    }
    if out.json { out.value(&json!({ "released": released })) } else { Ok(()) }
}

/// What to do about amnesia.
#[derive(Debug, Clone, Copy, Subcommand)]
pub(crate) enum AmnesiaCommand {
    /// Have the node inspect its own process for what amnesia promises; exit 0 only if everything holds
    Verify,
}

/// Runs `ronctl amnesia`.
///
/// # Errors
/// Something is exposed or cannot be seen, or that no node answers.
pub(crate) async fn amnesia(_: AmnesiaCommand, mut node: Client, out: Output) -> Result<(), Failure> {
    let found: Value = node.read(Call::get("/ctl/amnesia")).await?;
    let items = found["items"].as_array().cloned().unwrap_or_default();
    if out.json {
        out.value(&found)?;
    } else {
        let text = |value: &Value| value.as_str().unwrap_or("–").to_owned();
        let row = |item: &Value| vec![text(&item["item"]), text(&item["state"]), text(&item["detail"])];
        out.table(&["item", "state", "detail"], items.iter().map(row).collect())?;
    }
    let bad = items.iter().filter(|item| item["state"] != "ok").count();
    match (bad, items.is_empty()) {
        (0, false) => Ok(()),
        (0, true) => Err(failed("the node found nothing to look at")),
        (bad, _) => Err(failed(format!("{bad} of {} items are not ok", items.len()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_readable_on_one_line() {
        let event = json!({"ts": "2026-01-01T00:00:00.000Z", "topic": "mailbox.dlq.moved", "event": "DlqMoved",
            "queue": "acme/jobs", "n": 2});
        let line = "2026-01-01T00:00:00.000Z  mailbox.dlq.moved          DlqMoved n=2 queue=acme/jobs";
        assert_eq!(readable(&event), line);
    }
}
