//! Traces a durable node under one client and shows that every answer left after a completed sync of its
//! write.
#![allow(clippy::print_stdout)] // its output is its product

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use ron_checker::clock::Clock;
use ron_checker::node::{Node, Setup};
use ron_checker::trace::drive::Drive;
use ron_checker::trace::{self, sync};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File};
use std::io::BufReader;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// A traced node is several times slower.
const LIMIT: Duration = Duration::from_secs(60);

/// Shows that answered means fsynced.
#[derive(Parser, Debug)]
#[command(name = "sync_trace")]
struct Args {
    /// The ron-node binary.
    #[arg(long)]
    node: PathBuf,
    /// The ronctl binary.
    #[arg(long)]
    ronctl: PathBuf,
    /// A new directory for the trace, the log and the data.
    #[arg(long)]
    dir: PathBuf,
    /// Cycles of send, receive, extend, nack, receive and ack.
    #[arg(long, default_value_t = 40)]
    cycles: u64,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            println!("sync_trace: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<bool> {
    fs::create_dir_all(&args.dir)?;
    let setup = Setup {
        node: args.node.clone(),
        ronctl: args.ronctl.clone(),
        dir: fs::canonicalize(&args.dir)?,
        amnesia: false,
        dedup_window_ms: 300_000,
    };
    setup.write()?;
    let trace_file = setup.dir.join("trace");
    let command = setup.command();
    let program = command.get_program().to_owned();
    let traced = trace::strace(&command, sync::CALLS, 32, &trace_file);
    let mut node = Node::start(traced, &setup.log(), &Clock::start())?;
    let addresses = node.wait_ready(LIMIT)?;
    let pid = trace::traced_pid(node.pid(), &program)?;
    let token = setup.mint()?;
    let mut drive = Drive::new(&addresses, &token);
    // every one of these answers promises something
    for cycle in 0..args.cycles {
        let topic = format!("topic-{}", cycle % 5);
        drive.enqueue(&topic, &format!("message {cycle}"))?;
        let receipts = drive.recv(&topic)?;
        drive.settle(&topic, "extend", &receipts[0], ",\"visibility_ms\":20000")?;
        drive.settle(&topic, "nack", &receipts[0], ",\"mode\":\"release\"")?;
        let receipts = drive.recv(&topic)?;
        drive.settle(&topic, "ack", &receipts[0], "")?;
    }
    let Some(pid) = Pid::from_raw(pid) else { bail!("the node has no process id") };
    kill_process(pid, Signal::TERM).context("SIGTERM")?;
    node.wait_exit(LIMIT)?;

    let calls = trace::read(BufReader::new(File::open(&trace_file)?))?;
    // The store alone, and what it is renewed in: the audit log beside it is synced within a second, as it promises.
    let store = setup.data_dir().join("store.redb");
    let report = sync::judge(&calls, &store.display().to_string(), drive.requests);
    println!(
        "{} answers, {} writes to the store, {} syncs, {} answers before their sync",
        report.answers,
        report.store_writes,
        report.syncs,
        report.unsynced.len()
    );
    ensure!(report.answers >= drive.requests, "{} requests were sent", drive.requests);
    if !report.unsynced.is_empty() {
        println!("unsynced answers, by number: {:?}", report.unsynced);
    }
    Ok(report.unsynced.is_empty())
}
