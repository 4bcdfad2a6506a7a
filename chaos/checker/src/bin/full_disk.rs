//! The full disk drill: a real node on a real small filesystem that somebody else fills to the last byte while
//! consumers hold messages.
#![allow(clippy::print_stdout)] // its output is its product

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use ron_checker::clock::{self, Clock};
use ron_checker::http::{Answer, Client, Failure, Request, Target};
use ron_checker::node::{Addresses, Node, Setup, TENANT};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

/// Size of the filesystem, MiB.
const DISK_MIB: u64 = 256;
/// Messages in flight when the disk fills up.
const LEASED: usize = 10_000;
/// Messages that stay in the queue.
const LEFT: usize = 500;
const READY_LIMIT: Duration = Duration::from_secs(30);
/// How soon the node must notice that the disk is full, or that it no longer is.
const NOTICED_IN: Duration = Duration::from_secs(5);

/// Exit code of a drill that could not be carried out, so that nobody takes that for a finding.
const NOT_DONE: u8 = 77;

/// Fills a node's disk to the brim. Exit 1 if a promise was broken; 77 if no filesystem could be mounted.
#[derive(Parser, Debug)]
#[command(name = "full_disk")]
struct Args {
    /// The ron-node binary.
    #[arg(long)]
    node: PathBuf,
    /// The ronctl binary.
    #[arg(long)]
    ronctl: PathBuf,
    /// A new directory for the filesystem, its mount point and the log.
    #[arg(long)]
    dir: PathBuf,
    /// The control: nothing is held ready for settling, and no room kept free.
    #[arg(long)]
    unprepared: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let mounted = match Mounted::new(&args.dir) {
        Ok(mounted) => mounted,
        Err(error) => {
            println!("full_disk: NOT DONE, a filesystem of its own cannot be mounted here: {error:#}");
            return NOT_DONE.into();
        }
    };
    match drill(&args, &mounted) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("FAILED: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// An ext4 filesystem in a file, until it is dropped.
struct Mounted {
    point: PathBuf,
}

impl Mounted {
    fn new(dir: &Path) -> Result<Mounted> {
        let (image, point) = (dir.join("disk.img"), dir.join("disk"));
        fs::create_dir_all(&point)?;
        File::create_new(&image).context("the directory holds another run")?.set_len(DISK_MIB << 20)?;
        said(Command::new("mkfs.ext4").args(["-q", "-m", "0"]).arg(&image))?;
        said(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&point))?;
        Ok(Mounted { point })
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(error) = said(Command::new("umount").arg(&self.point)) {
            println!("full_disk: {error:#}");
        }
    }
}

fn said(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("run {:?}", command.get_program()))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

/// Somebody else who takes every byte there is.
struct Hog {
    path: PathBuf,
    file: File,
    bytes: u64,
}

impl Drop for Hog {
    fn drop(&mut self) {
        if let Err(error) = self.file.set_len(0).and_then(|()| fs::remove_file(&self.path)) {
            println!("full_disk: {}: {error}", self.path.display());
        }
    }
}

impl Hog {
    fn new(dir: &Path) -> Result<Hog> {
        let path = dir.join("hog");
        Ok(Hog { file: File::create_new(&path)?, path, bytes: 0 })
    }

    /// Writes until not one more byte fits.
    fn fill(&mut self) -> Result<()> {
        let mut size = 1 << 20;
        loop {
            match self.file.write(&vec![7; size]) {
                Ok(n) if n > 0 => self.bytes += n as u64,
                Ok(_) => size /= 2,
                Err(error) if error.kind() == std::io::ErrorKind::StorageFull => {
                    // what the filesystem promised but did not place yet must be placed, too
                    let _ = self.file.sync_data();
                    size /= 2;
                }
                Err(error) => return Err(error).context("fill the disk"),
            }
            if size == 0 {
                return Ok(());
            }
        }
    }
}

struct Api {
    client: Client,
    bearer: String,
}

impl Api {
    fn call(&mut self, method: &str, path: &str, body: &[u8]) -> Result<(Answer, Value)> {
        let headers = [("Authorization", self.bearer.as_str()), ("Content-Type", "application/json")];
        let path = format!("/v1/{TENANT}/{path}");
        let request = Request { method, path: &path, headers: &headers, body };
        let answer = self.client.call(&request).map_err(|failure| match failure {
            Failure::NotSent(error) | Failure::Unknown(error) => anyhow::anyhow!("{method} {path}: {error}"),
        })?;
        let value = serde_json::from_slice(&answer.body).unwrap_or(Value::Null);
        Ok((answer, value))
    }

    fn done(&mut self, method: &str, path: &str, body: &Value) -> Result<Value> {
        let (answer, value) = self.call(method, path, body.to_string().as_bytes())?;
        ensure!(answer.status == 200, "{method} {path}: {} {value}", answer.status);
        Ok(value)
    }

    fn send(&mut self, first: usize, count: usize) -> Result<()> {
        for from in (first..first + count).step_by(250) {
            let batch: Vec<Value> = (from..(from + 250).min(first + count))
                .map(|n| json!({"payload": message(n), "content_type": "text/plain"}))
                .collect();
            let value = self.done("POST", "jobs/enqueue/batch", &json!({"messages": batch}))?;
            let results = value["results"]
                .as_array()
                .map_or(0, |all| all.iter().filter(|result| result["msg_id"].is_string()).count());
            ensure!(results == batch.len(), "a batch was not accepted whole: {value}");
        }
        Ok(())
    }

    /// Receives up to `most`: receipts and payloads.
    fn take(&mut self, most: usize) -> Result<Vec<(String, String)>> {
        let ask = json!({"max_messages": most, "visibility_ms": 3_600_000});
        let value = self.done("POST", "jobs/recv", &ask)?;
        let messages = value["messages"].as_array().context("no messages")?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Ok(messages.iter().map(|message| (text(&message["receipt"]), text(&message["payload"]))).collect())
    }

    fn ack(&mut self, receipts: &[&str]) -> Result<()> {
        let value = self.done("POST", "jobs/ack", &json!({"receipts": receipts}))?;
        let ok = value["results"].as_array().is_some_and(|all| all.iter().all(|result| result["ok"] == true));
        ensure!(ok, "an ack was refused: {value}");
        Ok(())
    }
}

fn message(n: usize) -> String {
    format!("{n:06}-{}", "x".repeat(500))
}

fn drill(args: &Args, mounted: &Mounted) -> Result<()> {
    let setup = Setup {
        node: fs::canonicalize(&args.node)?,
        ronctl: fs::canonicalize(&args.ronctl)?,
        dir: fs::canonicalize(&mounted.point)?,
        amnesia: false,
        dedup_window_ms: 300_000,
    };
    setup.write()?;
    let config = fs::read_to_string(setup.config())?;
    // The journal takes no room once it is there; a small one has to be emptied again and again, and that does.
    let unprepared = if args.unprepared { "reserve = 0\nballast = 0\n" } else { "" };
    let mailbox = format!("[store]\njournal = \"64KiB\"\n{unprepared}[mailbox]\nmax_inflight = 20000\n");
    fs::write(setup.config(), config.replacen("[mailbox]\n", &mailbox, 1))?;
    let log = fs::canonicalize(&args.dir)?.join("node.log"); // a full disk must not cost us the log
    let clock = Clock::start();
    let mut node = Node::start(setup.command(), &log, &clock)?;
    let addresses = node.wait_ready(READY_LIMIT)?;
    let bearer = format!("Bearer {}", setup.mint()?);
    let mut api = api_of(&addresses, &bearer);
    api.send(0, LEASED + LEFT)?;
    let mut held = Vec::new();
    while held.len() < LEASED {
        let taken = api.take((LEASED - held.len()).min(250))?;
        ensure!(!taken.is_empty(), "only {} messages came", held.len());
        held.extend(taken);
    }
    println!("{} messages sent, {} of them in flight", LEASED + LEFT, held.len());

    let mut hog = Hog::new(&setup.dir)?;
    hog.fill()?;
    println!("the disk is full: somebody else took {} MiB, to the last byte", hog.bytes >> 20);
    if !args.unprepared {
        shed(&mut api, &addresses)?;
    }
    for some in held.chunks(100) {
        let receipts: Vec<&str> = some.iter().map(|(receipt, _)| receipt.as_str()).collect();
        api.ack(&receipts)?;
        hog.fill()?; // whatever an ack may have made free is gone again
    }
    let value = api.done("GET", "jobs", &Value::Null)?;
    ensure!(value["vis"] == 0, "{value}");
    println!("{} messages acked while the disk was full, each fsynced", held.len());
    drop(hog);

    let accepted = clock::poll(NOTICED_IN, Duration::from_millis(50), || api.send(LEASED + LEFT, 1).ok());
    accepted.context("sends are still refused after there was room again")?;
    ensure!(readyz(&addresses)?.0 == 200, "readyz: {:?}", readyz(&addresses)?);
    println!("room again: sends are accepted, without a restart");
    node.kill()?;
    let mut node = Node::start(setup.command(), &log, &clock)?;
    let addresses = node.wait_ready(READY_LIMIT)?;
    nothing_lost(&mut api_of(&addresses, &bearer), &held)?;
    node.kill()
}

/// Sends are refused, and readiness says why.
fn shed(api: &mut Api, addresses: &Addresses) -> Result<()> {
    let refused = clock::poll(NOTICED_IN, Duration::from_millis(50), || {
        let (answer, value) = api.call("POST", "jobs/enqueue", b"\"one more\"").ok()?;
        (answer.status != 200).then_some((answer, value))
    });
    let (answer, value) = refused.context("sends go on")?;
    ensure!(answer.status == 503 && value["reason"] == "STORAGE", "send: {} {value}", answer.status);
    let retry = answer.header("retry-after").and_then(|text| text.parse::<u64>().ok());
    ensure!(retry.is_some_and(|seconds| seconds >= 1), "no Retry-After: {answer:?}");
    ensure!(readyz(addresses)?.0 == 503, "readyz says nothing of the disk");
    ensure!(readyz(addresses)?.1["missing"] == json!(["disk"]), "{:?}", readyz(addresses)?);
    println!("sends get 503 STORAGE, readyz 503 with \"disk\" missing");

    Ok(())
}

/// No acked message comes back, and every other one does.
fn nothing_lost(api: &mut Api, held: &[(String, String)]) -> Result<()> {
    let acked: BTreeSet<&str> = held.iter().map(|(_, payload)| payload.as_str()).collect();
    let mut left = BTreeSet::new();
    loop {
        let taken = api.take(250)?;
        if taken.is_empty() {
            break;
        }
        for (_, payload) in taken {
            ensure!(!acked.contains(payload.as_str()), "an acked message came back: {}", &payload[..6]);
            left.insert(payload);
        }
    }
    let right = (0..=LEASED + LEFT).map(message).filter(|payload| !acked.contains(payload.as_str()));
    let lost: Vec<String> = right.filter(|payload| !left.contains(payload)).collect();
    ensure!(lost.is_empty(), "{} messages are lost", lost.len());
    println!("after SIGKILL: none of the acked came back, none of the other {} is lost", left.len());
    Ok(())
}

fn api_of(addresses: &Addresses, bearer: &str) -> Api {
    let client = Client::new(Target::Tcp(addresses.mailbox), Duration::from_secs(20));
    Api { client, bearer: bearer.to_owned() }
}

fn readyz(addresses: &Addresses) -> Result<(u16, Value)> {
    let mut client = Client::new(Target::Tcp(addresses.mailbox_admin), Duration::from_secs(5));
    let request = Request { method: "GET", path: "/readyz", headers: &[], body: b"" };
    match client.call(&request) {
        Ok(answer) => Ok((answer.status, serde_json::from_slice(&answer.body)?)),
        Err(Failure::NotSent(error) | Failure::Unknown(error)) => bail!("readyz: {error}"),
    }
}
