//! Traces a node with amnesia on through every route, reload, refusal and SIGTERM, and reports whatever it
//! opened for writing; then a durable node in the same way, in which the same search must find something.
#![allow(clippy::print_stdout)] // its output is its product

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use ron_checker::clock::Clock;
use ron_checker::node::{Addresses, Node, Setup, TENANT};
use ron_checker::trace::amnesia::{self, Exposure, Inspection};
use ron_checker::trace::drive::{Drive, canaries};
use ron_checker::trace::{self, canary};
use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// A traced node is several times slower.
const LIMIT: Duration = Duration::from_secs(60);

/// Shows that a node with amnesia on writes nothing.
#[derive(Parser, Debug)]
#[command(name = "amnesia_trace")]
struct Args {
    /// The ron-node binary.
    #[arg(long)]
    node: PathBuf,
    /// The ronctl binary.
    #[arg(long)]
    ronctl: PathBuf,
    /// A new directory for traces, logs and data.
    #[arg(long)]
    dir: PathBuf,
    /// The result as JSON.
    #[arg(long)]
    json: bool,
}

/// What one node showed.
#[derive(Debug, Serialize)]
struct Report {
    amnesia: bool,
    system_calls: usize,
    requests: u64,
    exposures: Vec<String>,
    exposure_count: usize,
    writable_files: Vec<String>,
    write_bytes: Option<u64>,
    canaries_in_files: Vec<String>,
    canaries_in_output: Vec<String>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            println!("amnesia_trace: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<bool> {
    let subject = observe(args, true).context("with amnesia on")?;
    let control = observe(args, false).context("durable, as a control")?;
    let clean = subject.exposure_count == 0
        && subject.writable_files.is_empty()
        && subject.write_bytes.unwrap_or(0) == 0
        && subject.canaries_in_files.is_empty()
        && subject.canaries_in_output.is_empty();
    // a search that finds nothing in a durable node finds nothing anywhere
    let seeing = control.exposures.iter().any(|text| text.starts_with("opened for writing"))
        && control.exposures.iter().any(|text| text.starts_with("file written"))
        && !control.writable_files.is_empty()
        && !control.canaries_in_files.is_empty();
    if args.json {
        println!(
            "{}",
            serde_json::json!({ "clean": clean, "seeing": seeing, "amnesia": subject, "durable": control })
        );
    } else {
        print(&subject);
        print(&control);
        println!("amnesia {}", if clean { "holds" } else { "is BROKEN" });
        println!(
            "the same search {} in a durable node",
            if seeing { "finds its writes" } else { "is BLIND" }
        );
    }
    Ok(clean && seeing)
}

fn print(report: &Report) {
    let mode = if report.amnesia { "amnesia" } else { "durable" };
    let Report { system_calls, requests, exposure_count, write_bytes, .. } = report;
    let bytes = write_bytes.map_or_else(|| "unreadable".to_owned(), |bytes| bytes.to_string());
    println!(
        "{mode}: {requests} requests, {system_calls} calls, {exposure_count} forbidden, write_bytes {bytes}"
    );
    let shown = if report.amnesia { usize::MAX } else { 8 };
    let lists =
        [&report.exposures, &report.writable_files, &report.canaries_in_files, &report.canaries_in_output];
    for line in lists.into_iter().flat_map(|list| list.iter().take(shown)) {
        println!("  {line}");
    }
}

/// Runs one node under strace, uses it in every way, ends it, and says what it left behind.
fn observe(args: &Args, amnesia: bool) -> Result<Report> {
    let dir = args.dir.join(if amnesia { "amnesia" } else { "durable" });
    fs::create_dir_all(&dir)?;
    let dir = fs::canonicalize(&dir)?;
    let setup = Setup {
        node: fs::canonicalize(&args.node).context("--node")?,
        ronctl: fs::canonicalize(&args.ronctl).context("--ronctl")?,
        dir: dir.clone(),
        amnesia,
        dedup_window_ms: 300_000,
    };
    setup.write()?;
    // places where a node could leave things unasked
    let (home, temp, trace_file) = (dir.join("home"), dir.join("tmp"), dir.join("trace"));
    fs::create_dir_all(&home)?;
    fs::create_dir_all(&temp)?;
    let mut command = setup.command();
    command.current_dir(&home).env("TMPDIR", &temp).env("HOME", &home);
    if amnesia {
        command.env("AMNESIA", "on");
    }
    let program = command.get_program().to_owned();
    let traced = trace::strace(&command, amnesia::CALLS, 256, &trace_file);
    let mut node = Node::start(traced, &setup.log(), &Clock::start())?;
    let addresses = node.wait_ready(LIMIT)?;
    let pid = trace::traced_pid(node.pid(), &program)?;
    let socket = socket(&setup, &addresses);
    let token = setup.mint_over(&socket)?;
    let mut drive = Drive::new(&addresses, &token);
    let used = use_it(&setup, &socket, pid, &mut drive);
    let Inspection { writable_files, write_bytes } = amnesia::inspect(pid);
    let metrics = drive.metrics()?;
    signal(pid, Signal::TERM)?;
    let status = node.wait_exit(LIMIT)?;
    used?;
    ensure!(status.success(), "the node ended with {status} after SIGTERM");

    let calls = trace::read(BufReader::new(File::open(&trace_file)?))?;
    let exposures = amnesia::exposures(&calls);
    let canaries = canaries(&token);
    let places = [setup.data_dir(), home, temp];
    let mut canaries_in_output = canary::search(&canaries, "/metrics", &metrics);
    for log in [setup.log(), setup.log().with_extension("err")] {
        canaries_in_output.extend(canary::search_path(&canaries, &log));
    }
    Ok(Report {
        amnesia,
        system_calls: calls.len(),
        requests: drive.requests,
        exposure_count: exposures.len(),
        exposures: one_of_each(&exposures),
        writable_files,
        write_bytes,
        canaries_in_files: places.iter().flat_map(|place| canary::search_path(&canaries, place)).collect(),
        canaries_in_output,
    })
}

/// Every kind of exposure, and at most three of each.
fn one_of_each(exposures: &[Exposure]) -> Vec<String> {
    let mut shown: Vec<String> = Vec::new();
    for exposure in exposures {
        let same = shown.iter().filter(|text| text.starts_with(exposure.kind)).count();
        if same < 3 {
            shown.push(exposure.to_string());
        }
    }
    shown
}

/// Where `ronctl` finds the node.
fn socket(setup: &Setup, addresses: &Addresses) -> OsString {
    if setup.amnesia {
        let uid = rustix::process::getuid().as_raw();
        return format!("@ron-node.{uid}.{}", addresses.mailbox.port()).into();
    }
    setup.data_dir().join("ronctl.sock").into()
}

fn signal(pid: i32, signal: Signal) -> Result<()> {
    let Some(pid) = Pid::from_raw(pid) else { bail!("the node has no process id") };
    kill_process(pid, signal).context("signal the node")
}

fn use_it(setup: &Setup, socket: &std::ffi::OsStr, pid: i32, drive: &mut Drive) -> Result<()> {
    drive.use_all()?;
    drive.misuse_all()?;
    let ronctl = |arguments: &[&str]| {
        let output = setup.ronctl().env("RON_SOCKET", socket).args(arguments).output();
        output.context("run ronctl").map(|output| output.status.success())
    };
    ensure!(ronctl(&["status", "--json"])?, "ronctl status failed");
    ensure!(ronctl(&["topic", "list", TENANT])?, "ronctl topic list failed");
    // refused in amnesia, or not there yet: what counts is what they open
    for arguments in [&["snapshot", "create"][..], &["config", "reload"], &["amnesia", "verify"]] {
        let _ = ronctl(arguments)?;
    }
    signal(pid, Signal::HUP)?;
    // after a reload everything goes on
    drive.use_all()?;
    drive.misuse_all()?;
    ensure!(Path::new(&format!("/proc/{pid}")).exists(), "the node is gone");
    Ok(())
}
