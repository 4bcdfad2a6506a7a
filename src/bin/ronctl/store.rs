//! `ronctl store check|stats|compact|scrub`: for the file of a stopped node, but stats and scrub.

use crate::client::{Call, Client};
use crate::failure::{Failure, failed};
use crate::locate::Places;
use crate::output::Output;
use clap::{Args, Subcommand};
use ron_actors::store::{StoreError, offline};
use ron_node::node::STORE_FILE;
use ron_node::upkeep::shown_findings;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A large store takes its time.
const PATIENCE: Duration = Duration::from_secs(3600);

/// What to do with the store.
#[derive(Debug, Subcommand)]
pub(crate) enum StoreCommand {
    /// Read every row of a stopped node's store, check it, and check what the rows say of each other; writes nothing
    Check(FileArgs),
    /// Count what is in the store: of a running node what it knows, of a stopped one every table
    Stats(FileArgs),
    /// Have a running node read all of its store now; damaged messages go to their dead-letter queues
    Scrub,
    /// Give the free space of a stopped node's store back to the file system
    Compact(FileArgs),
}

/// Which file.
#[derive(Debug, Args)]
pub(crate) struct FileArgs {
    /// The node's data directory [without it: that of --config, else of the control socket, else ./data]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// This file, instead of the one in the data directory
    #[arg(long, conflicts_with = "data_dir")]
    file: Option<PathBuf>,
}

/// Runs the command.
///
/// # Errors
/// What the node or the file says; exit code 1 if something is damaged.
pub(crate) async fn run(
    command: StoreCommand,
    node: impl FnOnce() -> Result<Client, Failure>,
    places: impl Fn(Option<&Path>) -> Result<Places, Failure>,
    out: Output,
) -> Result<(), Failure> {
    let file = |args: &FileArgs| match &args.file {
        Some(file) => Ok(file.clone()),
        None => places(args.data_dir.as_deref()).map(|places| places.data_dir.join(STORE_FILE)),
    };
    match command {
        StoreCommand::Check(args) => {
            let file = file(&args)?;
            let findings = offline::check(&file).map_err(|error| refused(&file, error))?;
            shown_check(&shown_findings(&findings), out)
        }
        StoreCommand::Stats(args) => stats(&args, node, file, out).await,
        StoreCommand::Scrub => {
            let call = Call::post("/ctl/store/scrub", "").and_wait(PATIENCE);
            shown_check(&node()?.read(call).await?, out)
        }
        StoreCommand::Compact(args) => {
            let file = file(&args)?;
            let (before, after) = offline::compact(&file).map_err(|error| refused(&file, error))?;
            let said = json!({ "file": file, "bytes_before": before, "bytes_after": after });
            if out.json { out.value(&said) } else { out.pairs(&told(&said)) }
        }
    }
}

async fn stats(
    args: &FileArgs,
    node: impl FnOnce() -> Result<Client, Failure>,
    file: impl Fn(&FileArgs) -> Result<PathBuf, Failure>,
    out: Output,
) -> Result<(), Failure> {
    if args.file.is_none() && args.data_dir.is_none() {
        match node()?.read::<Value>(Call::get("/ctl/store/stats")).await {
            Err(Failure::Unreachable(_)) => {}
            said => {
                let said = said?;
                return if out.json { out.value(&said) } else { out.pairs(&told(&said)) };
            }
        }
    }
    let file = file(args)?;
    let stats = offline::stats(&file).map_err(|error| refused(&file, error))?;
    let table = |table: &offline::TableStats| {
        json!({
            "table": table.name,
            "rows": table.rows,
            "stored_bytes": table.stored_bytes,
            "page_bytes": table.page_bytes,
        })
    };
    let said = json!({
        "file": file,
        "file_bytes": stats.file_bytes,
        "used_bytes": stats.used_bytes,
        "free_bytes": stats.free_bytes(),
        "topics": stats.topics,
        "messages": stats.messages,
        "dedup_keys": stats.dedup_keys,
        "chunks": stats.chunks,
        "stragglers": stats.stragglers,
        "tables": stats.tables.iter().map(table).collect::<Vec<_>>(),
    });
    if out.json {
        return out.value(&said);
    }
    out.pairs(&told(&said))?;
    let row = |table: &offline::TableStats| {
        let numbers = [table.rows, table.stored_bytes, table.page_bytes];
        std::iter::once(table.name.to_owned()).chain(numbers.map(|n| n.to_string())).collect()
    };
    out.table(&["table", "rows", "stored_bytes", "page_bytes"], stats.tables.iter().map(row).collect())
}

fn refused(file: &Path, error: StoreError) -> Failure {
    match error {
        StoreError::Locked => failed(format!("a node is running on {}: stop it first", file.display())),
        other => failed(format!("{}: {other}", file.display())),
    }
}

/// Prints what a check found.
///
/// # Errors
/// Exit code 1 if something is damaged.
pub(crate) fn shown_check(findings: &Value, out: Output) -> Result<(), Failure> {
    let damages = findings["damages"].as_u64().unwrap_or(0);
    if out.json {
        out.value(findings)?;
    } else {
        for damage in findings["damaged"].as_array().into_iter().flatten() {
            out.line(damage.as_str().unwrap_or_default())?;
        }
        out.line(format!(
            "{} rows, {} messages, {} bytes read; {damages} damages",
            findings["rows"], findings["messages"], findings["bytes"]
        ))?;
    }
    if damages == 0 { Ok(()) } else { Err(failed(format!("{damages} damages found"))) }
}

/// The plain values of an object, by name.
pub(crate) fn told(said: &Value) -> Vec<(&str, String)> {
    let mut pairs = Vec::new();
    for (name, value) in said.as_object().into_iter().flatten() {
        match value {
            Value::Array(_) | Value::Object(_) | Value::Null => {}
            Value::String(text) => pairs.push((name.as_str(), text.clone())),
            other => pairs.push((name.as_str(), other.to_string())),
        }
    }
    pairs
}
