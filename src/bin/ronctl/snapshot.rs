//! `ronctl snapshot create|list|verify|restore`. The first three ask the node; a restore wants it stopped.

use crate::ambient;
use crate::client::{Call, Client};
use crate::failure::{Failure, failed};
use crate::locate::Places;
use crate::output::Output;
use crate::store::{shown_check, told};
use clap::{Args, Subcommand};
use ron_actors::audit::AuditError;
use ron_actors::audit::files::DIR;
use ron_actors::audit::offline::Offline;
use ron_actors::entropy::{Entropy, OsEntropy};
use ron_actors::store::{Plan, Replaced, Restored, TopicRestored, list_snapshots, offline};
use ron_core::audit::{Decision, Entry, Kind, OK};
use ron_core::reason::Reason;
use ron_node::node::STORE_FILE;
use ron_node::upkeep::shown_findings;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A large store takes its time.
const PATIENCE: Duration = Duration::from_secs(3600);

/// What to do with snapshots.
#[derive(Debug, Subcommand)]
pub(crate) enum SnapshotCommand {
    /// Take one now; it is on the device and verified when this returns
    Create,
    /// List those there are, also of a stopped node
    List,
    /// Read all of one and check it
    Verify {
        /// A name of `snapshot list`, or a file
        snapshot: String,
    },
    /// Put a store made of a snapshot into the place of a stopped node's; the old one is kept aside
    Restore(RestoreArgs),
}

/// Arguments of `snapshot restore`.
#[derive(Debug, Args)]
pub(crate) struct RestoreArgs {
    /// A name of `snapshot list`, or a file
    snapshot: PathBuf,
    /// The stopped node's data directory [without it: that of --config, else of the control socket, else ./data]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Do it; without it only what would happen is told
    #[arg(long)]
    yes: bool,
}

/// Runs the command.
///
/// # Errors
/// What the node or the file says; exit code 1 if a snapshot is damaged, 2 if `--yes` is missing.
pub(crate) async fn run(
    command: SnapshotCommand,
    node: impl FnOnce() -> Result<Client, Failure>,
    places: impl Fn(Option<&Path>) -> Result<Places, Failure>,
    out: Output,
) -> Result<(), Failure> {
    match command {
        SnapshotCommand::Create => {
            let call = Call::post("/ctl/snapshot/create", "").and_wait(PATIENCE);
            let taken: Value = node()?.read(call).await?;
            if out.json { out.value(&taken) } else { out.pairs(&told(&taken)) }
        }
        SnapshotCommand::List => list(node, places, out).await,
        SnapshotCommand::Verify { snapshot } => verify(&snapshot, node, places, out).await,
        SnapshotCommand::Restore(args) => restore(&args, places, out),
    }
}

async fn verify(
    snapshot: &str,
    node: impl FnOnce() -> Result<Client, Failure>,
    places: impl Fn(Option<&Path>) -> Result<Places, Failure>,
    out: Output,
) -> Result<(), Failure> {
    let here = |file: &Path| {
        let findings =
            offline::check(file).map_err(|error| failed(format!("{}: {error}", file.display())))?;
        Ok::<Value, Failure>(shown_findings(&findings))
    };
    let findings = if Path::new(snapshot).is_file() {
        here(Path::new(snapshot))?
    } else {
        let call = Call::json("/ctl/snapshot/verify", &json!({ "name": snapshot }));
        match node()?.read(call.and_wait(PATIENCE)).await {
            // a stopped node has snapshots, too
            Err(Failure::Unreachable(why)) => {
                let named = places(None)?.snapshot_dir.join(snapshot);
                if !named.is_file() {
                    return Err(Failure::Unreachable(why));
                }
                here(&named)?
            }
            read => read?,
        }
    };
    shown_check(&findings, out)
}

async fn list(
    node: impl FnOnce() -> Result<Client, Failure>,
    places: impl Fn(Option<&Path>) -> Result<Places, Failure>,
    out: Output,
) -> Result<(), Failure> {
    let listed = match node()?.read::<Value>(Call::get("/ctl/snapshots")).await {
        // a stopped node has snapshots, too
        Err(Failure::Unreachable(_)) => {
            let all =
                list_snapshots(&places(None)?.snapshot_dir).map_err(|error| failed(error.to_string()))?;
            json!({ "snapshots": all.iter().map(ron_node::upkeep::shown_snapshot).collect::<Vec<_>>() })
        }
        listed => listed?,
    };
    if out.json {
        return out.value(&listed);
    }
    let columns = ["name", "taken_at", "messages", "bytes", "path"];
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Null => "unreadable".to_owned(),
        other => other.to_string(),
    };
    let row = |one: &Value| columns.map(|name| text(&one[name])).to_vec();
    out.table(&columns, listed["snapshots"].as_array().into_iter().flatten().map(row).collect())
}

fn restore(
    args: &RestoreArgs,
    places: impl Fn(Option<&Path>) -> Result<Places, Failure>,
    out: Output,
) -> Result<(), Failure> {
    let places = places(args.data_dir.as_deref())?;
    let named = places.snapshot_dir.join(&args.snapshot);
    let snapshot = if args.snapshot.is_file() { &args.snapshot } else { &named };
    if !places.data_dir.is_dir() {
        return Err(failed(format!("{} is not a directory", places.data_dir.display())));
    }
    let store = places.data_dir.join(STORE_FILE);
    let plan = Plan::make(snapshot, &store).map_err(|error| failed(error.to_string()))?;
    let mut said = shown_plan(&plan, snapshot, &store);
    if !args.yes {
        if out.json {
            out.value(&said)?;
        } else {
            tell(&said, out)?;
        }
        return Err(Failure::Usage("nothing was changed: add --yes to do it".to_owned()));
    }
    let mut bits = [0; 40];
    OsEntropy.fill(&mut bits).map_err(|error| failed(error.to_string()))?;
    let unaudited = |error: AuditError| failed(format!("nothing was changed: {error}"));
    let audit_dir = places.data_dir.join(DIR);
    let mut log = Offline::open(&audit_dir, &OsEntropy, ambient::wall()).map_err(unaudited)?;
    log.intent(restore_entry(&said)).map_err(unaudited)?;
    let restored = plan.carry_out(bits, ambient::wall());
    let mut entry = restore_entry(&said);
    if restored.is_err() {
        (entry.decision, entry.reason) = (Decision::Failed, Reason::Storage.code());
    }
    let told = log.add(entry);
    let Restored { store: _, aside, next_sequence } = restored.map_err(|error| failed(error.to_string()))?;
    told.map_err(|error| {
        failed(format!("it was restored, but the audit log only has that it was to be: {error}"))
    })?;
    said["done"] = json!(true);
    said["kept_aside"] = json!(aside);
    said["next_sequence"] = json!(next_sequence);
    if out.json { out.value(&said) } else { tell(&said, out) }
}

/// The audit log's record of a restore: what comes back, and what is forgotten.
fn restore_entry(said: &Value) -> Entry {
    let mut entry = Entry::new(ambient::wall(), Kind::Operator, Decision::Done, OK);
    entry.more.op = Some("snapshot.restore".into());
    entry.more.uid = Some(rustix::process::geteuid().as_raw());
    entry.more.pid = i32::try_from(std::process::id()).ok();
    let known = |name: &str| said[name].as_u64().map_or("?".to_owned(), |n| n.to_string());
    entry.detail(&format!(
        "of {}: {} messages come back, {} once more, {} are forgotten; keys: {} come back, {} are forgotten",
        said["taken_at"].as_str().unwrap_or("?"),
        known("come_back"),
        known("come_again"),
        known("forgotten"),
        known("keys_come_back"),
        known("keys_forgotten"),
    ))
}

fn shown_plan(plan: &Plan, snapshot: &Path, store: &Path) -> Value {
    let sum = |of: fn(&TopicRestored) -> u64| plan.topics.values().map(of).sum::<u64>();
    let replaces = match &plan.replaces {
        None => "nothing: there is no store yet".to_owned(),
        Some(Replaced::Same) => "the store that it was taken of, as it is now".to_owned(),
        Some(Replaced::Another) => "another store, all of which is set aside".to_owned(),
        Some(Replaced::Unreadable(why)) => format!("a store that cannot be read ({why})"),
    };
    // Of a store that cannot be read nobody knows what it held: null, and never 0.
    let known = !matches!(plan.replaces, Some(Replaced::Unreadable(_)));
    let known = |n: u64| known.then_some(n);
    let topics = plan.topics.iter().map(|(name, topic)| {
        json!({
            "topic": name,
            "come_back": topic.back,
            "come_again": known(topic.again),
            "in_flight": topic.in_flight,
            "forgotten": known(topic.forgotten),
        })
    });
    json!({
        "done": false,
        "snapshot": snapshot,
        "taken_at": plan.mark.taken_at.rfc3339(),
        "age_s": ambient::wall().since(plan.mark.taken_at) / 1000,
        "store": store,
        "replaces": replaces,
        "come_back": sum(|topic| topic.back),
        "come_again": known(sum(|topic| topic.again)),
        "in_flight": sum(|topic| topic.in_flight),
        "forgotten": known(sum(|topic| topic.forgotten)),
        "ram_messages_left_out": plan.mark.ram_messages,
        "keys_come_back": plan.keys_back,
        "keys_forgotten": known(plan.keys_forgotten),
        "topics": topics.collect::<Vec<_>>(),
    })
}

fn tell(said: &Value, out: Output) -> Result<(), Failure> {
    let number = |name: &str| match said[name].as_u64() {
        Some(n) => n.to_string(),
        None => "an unknown number of".to_owned(),
    };
    let text = |name: &str| said[name].as_str().unwrap_or("–").to_owned();
    let done = said["done"] == true;
    let mut pairs = vec![
        ("snapshot", format!("{}, taken {} ({} s ago)", text("snapshot"), text("taken_at"), number("age_s"))),
        ("into the place of", format!("{}: {}", text("store"), text("replaces"))),
        ("comes back", format!("{} messages, as they were then", number("come_back"))),
        ("", format!("{} had been acked or had ended since, and come once more", number("come_again"))),
        ("", format!("{} of them were in flight then, and are ready at once", number("in_flight"))),
        ("is forgotten", format!("{} messages that were sent since", number("forgotten"))),
        (
            "is not in it",
            format!(
                "{} messages that were in memory alone then (durability ram)",
                number("ram_messages_left_out")
            ),
        ),
        (
            "keys",
            format!("{} come back; forgotten: {} keys", number("keys_come_back"), number("keys_forgotten")),
        ),
        ("receipts", "all given out so far are stale".to_owned()),
        ("stays", "capabilities, keys, revocations".to_owned()),
    ];
    if done {
        pairs.push(("kept aside", text("kept_aside")));
    }
    out.pairs(&pairs)?;
    let columns = ["topic", "come_back", "come_again", "in_flight", "forgotten"];
    let cell = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Null => "?".to_owned(),
        other => other.to_string(),
    };
    let rows: Vec<Vec<String>> = said["topics"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|topic| columns.map(|name| cell(&topic[name])).to_vec())
        .collect();
    if rows.is_empty() { Ok(()) } else { out.table(&columns, rows) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(subcommand)]
        command: SnapshotCommand,
    }

    #[test]
    fn a_restore_does_nothing_unless_it_is_said() {
        let read = |words: &[&str]| Line::try_parse_from([&["x"], words].concat());
        match read(&["restore", "a.redb"]).unwrap().command {
            SnapshotCommand::Restore(args) => assert!(!args.yes),
            other => panic!("{other:?}"),
        }
        assert!(read(&["restore"]).is_err() && read(&["create", "x"]).is_err());
    }
}
