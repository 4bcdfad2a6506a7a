//! The Micronode drill: how much memory an idle node with the Micronode profile takes, and that a day's work leaves
//! nothing of it in any file.
#![allow(clippy::print_stdout)] // its output is its product

use anyhow::{Context, Result, anyhow, ensure};
use clap::Parser;
use data_encoding::HEXLOWER;
use ron_checker::api::{Api, text};
use ron_checker::clock::{self, Clock};
use ron_checker::http::{Client, Request, Target};
use ron_checker::node::{Addresses, Node, Setup, TENANT};
use ron_checker::rng::Rng;
use ron_checker::sign;
use ron_checker::trace::amnesia::inspect;
use ron_checker::trace::canary::{Canary, Scanner};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

const READY_LIMIT: Duration = Duration::from_secs(60);
/// A node is idle after this long without a request.
const IDLE_AFTER: Duration = Duration::from_secs(4);
const SECRET_NAME: &str = "DRILL_GITHUB_SECRET";
/// File systems that are windows into the kernel, and no place to leave anything.
const NO_FILES: [&str; 14] = [
    "proc",
    "sysfs",
    "cgroup",
    "cgroup2",
    "devpts",
    "mqueue",
    "securityfs",
    "debugfs",
    "tracefs",
    "bpf",
    "pstore",
    "configfs",
    "fusectl",
    "binfmt_misc",
];
/// Exit code of a drill that could not be carried out, so that nobody takes that for a finding.
const NOT_DONE: u8 = 77;

/// Runs a node with the Micronode profile through a day's work. Exit 1 if it takes too much memory, or something of
/// the work is found in a file; 77 if the drill could not be carried out (it must be root to see all that).
#[derive(Parser, Debug)]
#[command(name = "micronode")]
struct Args {
    /// The ron-node binary; a release build, or its size says nothing.
    #[arg(long)]
    node: PathBuf,
    /// The ronctl binary.
    #[arg(long)]
    ronctl: PathBuf,
    /// A new directory for configurations and logs.
    #[arg(long)]
    dir: PathBuf,
    /// Events an hour: each is sent or comes as a webhook, is received and settled.
    #[arg(long, default_value_t = 600)]
    per_hour: u64,
    /// Hours of work, done as fast as they go.
    #[arg(long, default_value_t = 24)]
    hours: u64,
    /// Most resident memory of the idle node, bytes.
    #[arg(long, default_value_t = 20_000_000)]
    rss_max: u64,
    /// The same when it is idle again after the work, with its dead letters, keys and histories in memory.
    #[arg(long, default_value_t = 40_000_000)]
    rss_after_max: u64,
    /// Decides what is sent.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn main() -> ExitCode {
    match drill(&Args::parse()) {
        Ok(faults) if faults.is_empty() => ExitCode::SUCCESS,
        Ok(faults) => {
            faults.iter().for_each(|fault| println!("  {fault}"));
            println!("FAILED: {} faults", faults.len());
            ExitCode::FAILURE
        }
        Err(error) => {
            println!("micronode: NOT DONE: {error:#}");
            NOT_DONE.into()
        }
    }
}

/// What one node showed.
struct Seen {
    /// Resident when idle, before and after the work, bytes.
    resident: [u64; 2],
    write_bytes: u64,
    writable_files: Vec<String>,
    found: Vec<String>,
}

fn drill(args: &Args) -> Result<Vec<String>> {
    let micro = observe(args, "micronode", args.hours)?;
    let control = observe(args, "macronode", 1)?;
    let mut faults = Vec::new();
    let [before, after] = [micro.resident[0], micro.resident[1]];
    for (when, bytes, most) in [("before", before, args.rss_max), ("after", after, args.rss_after_max)] {
        if bytes > most {
            faults.push(format!("idle {when} the work it takes {bytes} bytes, and {most} are allowed"));
        }
    }
    if micro.write_bytes > 0 {
        faults.push(format!("it wrote {} bytes", micro.write_bytes));
    }
    faults.extend(micro.writable_files.iter().map(|file| format!("it can write to {file}")));
    faults.extend(micro.found.iter().map(|what| format!("found: {what}")));
    // a search that finds nothing of a durable node's finds nothing anywhere
    if control.write_bytes == 0 || control.writable_files.is_empty() || control.found.is_empty() {
        faults.push("the same search finds nothing of a durable node: it is blind".to_owned());
    }
    Ok(faults)
}

/// What must not be found, new for each node: nothing of it is in any file before.
struct Things {
    payload: String,
    webhook: String,
    attribute: String,
    key: String,
    note: String,
    secret: String,
}

impl Things {
    fn new(clock: &Clock, seed: u64) -> Things {
        let mut rng = Rng::new(seed ^ clock.now(), u64::from(std::process::id()));
        let mut one = || {
            let mut bytes = [0; 20];
            rng.fill(&mut bytes);
            HEXLOWER.encode(&bytes)
        };
        let (payload, webhook, attribute, key, note, secret) = (one(), one(), one(), one(), one(), one());
        Things { payload, webhook, attribute, key, note, secret }
    }

    fn canaries(&self, token: &str) -> Vec<Canary> {
        vec![
            Canary::new("a payload", &self.payload),
            Canary::new("a webhook's payload", &self.webhook),
            Canary::new("an attribute", &self.attribute),
            Canary::new("an idempotency key", &self.key),
            Canary::new("a consumer's note", &self.note),
            Canary::new("a webhook secret", &self.secret),
            Canary::new("a token", token),
        ]
    }
}

fn observe(args: &Args, profile: &str, hours: u64) -> Result<Seen> {
    let micro = profile == "micronode";
    let dir = args.dir.join(profile);
    fs::create_dir_all(&dir)?;
    let setup = Setup {
        node: fs::canonicalize(&args.node).context("--node")?,
        ronctl: fs::canonicalize(&args.ronctl).context("--ronctl")?,
        dir: fs::canonicalize(&dir)?,
        amnesia: micro,
        dedup_window_ms: 300_000,
    };
    fs::write(setup.config(), config(&setup))?;
    let clock = Clock::start();
    let things = Things::new(&clock, args.seed);
    let since = fs::metadata(setup.config())?.ctime();
    let mut command = setup.command();
    command.args(["--profile", profile]).env(SECRET_NAME, &things.secret);
    let mut node = Node::start(command, &setup.log(), &clock)?;
    let addresses = node.wait_ready(READY_LIMIT)?;
    let token = setup.mint_over(&socket(&setup, &addresses))?;
    clock::sleep(IDLE_AFTER);
    let before = resident(node.pid(), "VmRSS")?;
    let mut work = Work::new(&addresses, &token, &things);
    let began = clock.now();
    for hour in 0..hours {
        work.hour(args.per_hour, hour)?;
    }
    let took = clock.now() - began;
    clock::sleep(IDLE_AFTER);
    let after = resident(node.pid(), "VmRSS")?;
    let peak = resident(node.pid(), "VmHWM")?;
    let inspection = inspect(i32::try_from(node.pid())?);
    let places = writable_mounts(node.pid())?;
    let searched = search(&Scanner::new(&things.canaries(&token)), &places, since);
    println!(
        "{profile}: idle {:.1} MB resident before, {:.1} MB after {hours} h of {} events ({} requests in {:.0} s), peak \
         {:.1} MB; write_bytes {}; {} files changed meanwhile on {} file systems, {} MiB of them searched, {} hits",
        before as f64 / 1e6,
        after as f64 / 1e6,
        args.per_hour,
        work.requests,
        took as f64 / 1e6,
        peak as f64 / 1e6,
        inspection.write_bytes.map_or_else(|| "unreadable".to_owned(), |bytes| bytes.to_string()),
        searched.files,
        places.len(),
        searched.bytes >> 20,
        searched.found.len(),
    );
    node.kill()?;
    Ok(Seen {
        resident: [before, after],
        write_bytes: inspection.write_bytes.context("/proc/PID/io cannot be read")?,
        writable_files: inspection.writable_files,
        found: searched.found,
    })
}

fn config(setup: &Setup) -> String {
    let data_dir = setup.data_dir().display().to_string();
    // The day passes in a minute or two: rates that are a matter of the clock would refuse it.
    format!(
        "[node]\ndata_dir = {data_dir:?}\n\
         [interop]\nbind_addr = \"127.0.0.1:0\"\nmetrics_addr = \"127.0.0.1:0\"\n\
         [interop.limits]\nmax_rps = 100000\nburst_rps = 100000\n\
         [interop.providers.github]\nscheme = \"github\"\ntenant = \"{TENANT}\"\ntopic = \"hooks\"\nenabled = true\n\
         secrets = [{{ kid = \"2026-11\", env = \"{SECRET_NAME}\" }}]\n\
         [mailbox]\nlisten = \"127.0.0.1:0\"\noap_listen = \"127.0.0.1:0\"\nmetrics_addr = \"127.0.0.1:0\"\n\
         [log]\nformat = \"json\"\n"
    )
}

/// Where `ronctl` finds the node.
fn socket(setup: &Setup, addresses: &Addresses) -> OsString {
    if setup.amnesia {
        let uid = rustix::process::getuid().as_raw();
        return format!("@ron-node.{uid}.{}", addresses.mailbox.port()).into();
    }
    setup.data_dir().join("ronctl.sock").into()
}

/// A figure of /proc/PID/status, bytes.
fn resident(pid: u32, name: &str) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let kib: u64 =
        line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok()).context("no such figure")?;
    Ok(kib * 1024)
}

/// What a small device does all day.
struct Work<'a> {
    api: Api,
    interop: Client,
    admins: [Target; 2],
    things: &'a Things,
    requests: u64,
}

impl Work<'_> {
    fn new<'a>(addresses: &Addresses, token: &str, things: &'a Things) -> Work<'a> {
        Work {
            api: Api::new(addresses.mailbox, token),
            interop: Client::new(Target::Tcp(addresses.interop), Duration::from_secs(20)),
            admins: [Target::Tcp(addresses.interop_admin), Target::Tcp(addresses.mailbox_admin)],
            things,
            requests: 0,
        }
    }

    /// Events, each received and settled; every fourth is a webhook. A scrape and a look at readiness a minute.
    fn hour(&mut self, events: u64, hour: u64) -> Result<()> {
        for n in 0..events {
            let id = format!("{hour}-{n}");
            let topic = if n % 4 == 3 { self.webhook(&id)? } else { self.send(&id, n % 20 == 0)? };
            let got = self.api.recv(topic, &json!({"max_messages": 10, "visibility_ms": 60_000}))?;
            ensure!(!got.is_empty(), "event {id} did not come out of {topic}");
            let receipts: Vec<&str> = got.iter().map(|message| text(message, "receipt")).collect();
            let (call, more) = match n % 100 {
                50 => ("nack", json!({"mode": "reject", "reason": self.things.note})),
                _ => ("ack", json!({})),
            };
            for result in self.api.settle(topic, call, &receipts, &more)? {
                ensure!(result["ok"] == true, "{call} of event {id}: {result}");
            }
            self.requests += 3;
            if n * 60 / events != (n + 1) * 60 / events {
                self.minute()?;
            }
        }
        Ok(())
    }

    fn send(&mut self, id: &str, keyed: bool) -> Result<&'static str> {
        let body = format!("{{\"reading\":\"{id}\",\"text\":\"{}\"}}", self.things.payload);
        let key = format!("{}-{id}", self.things.key);
        let mut headers =
            vec![("Content-Type", "application/json"), ("X-Attr-Kind", self.things.attribute.as_str())];
        if keyed {
            headers.push(("Idempotency-Key", key.as_str()));
        }
        let sent = self.api.try_call("POST", "readings/enqueue", &headers, body.as_bytes());
        let sent = sent.map_err(|failure| anyhow!("send: {failure:?}"))?;
        ensure!(sent.status == 200, "send: {} {}", sent.status, String::from_utf8_lossy(&sent.body));
        Ok("readings")
    }

    fn webhook(&mut self, id: &str) -> Result<&'static str> {
        let body = format!("{{\"action\":\"opened\",\"id\":\"{id}\",\"text\":\"{}\"}}", self.things.webhook);
        let signature = sign::github(&self.things.secret, body.as_bytes());
        let headers = [("X-Hub-Signature-256", signature.as_str()), ("Content-Type", "application/json")];
        let request =
            Request { method: "POST", path: "/webhooks/github", headers: &headers, body: body.as_bytes() };
        let answer = self.interop.call(&request).map_err(|failure| anyhow!("webhook: {failure:?}"))?;
        ensure!(answer.status == 202, "webhook: {} {}", answer.status, String::from_utf8_lossy(&answer.body));
        Ok("hooks")
    }

    fn minute(&mut self) -> Result<()> {
        for admin in self.admins.clone() {
            for path in ["/metrics", "/readyz"] {
                let mut client = Client::new(admin.clone(), Duration::from_secs(20));
                let answer = client.call(&Request { method: "GET", path, headers: &[], body: b"" });
                ensure!(answer.is_ok_and(|answer| answer.status == 200), "{path}");
                self.requests += 1;
            }
        }
        let stat = self.api.done("GET", "readings", &Value::Null)?;
        ensure!(stat["ready"] == 0 && stat["vis"] == 0, "{stat}");
        self.requests += 1;
        Ok(())
    }
}

/// Mount points that the process could write to.
fn writable_mounts(pid: u32) -> Result<Vec<PathBuf>> {
    let mounts = fs::read_to_string(format!("/proc/{pid}/mounts"))?;
    let mut points = Vec::new();
    for line in mounts.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let [_, point, kind, options, ..] = fields[..] else { continue };
        if !NO_FILES.contains(&kind) && options.split(',').any(|option| option == "rw") {
            points.push(PathBuf::from(point.replace("\\040", " ")));
        }
    }
    ensure!(!points.is_empty(), "no writable file system");
    Ok(points)
}

struct Searched {
    files: u64,
    bytes: u64,
    found: Vec<String>,
}

/// Searches every file on these file systems that was changed at or after `since` (ctime, s): others hold nothing of
/// what was made up later.
fn search(scanner: &Scanner, points: &[PathBuf], since: i64) -> Searched {
    let mut searched = Searched { files: 0, bytes: 0, found: Vec::new() };
    let mut seen = BTreeSet::new();
    for point in points {
        let Ok(about) = fs::symlink_metadata(point) else { continue };
        let mut left = vec![point.clone()];
        if about.is_file() {
            one(scanner, point, since, &mut seen, &mut searched);
            continue;
        }
        while let Some(dir) = left.pop() {
            // what goes away while it is looked for was somebody else's
            for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
                let Ok(found) = entry.metadata() else { continue };
                if found.is_dir() && found.dev() == about.dev() {
                    left.push(entry.path());
                } else if found.is_file() {
                    one(scanner, &entry.path(), since, &mut seen, &mut searched);
                }
            }
        }
    }
    searched
}

fn one(scanner: &Scanner, path: &Path, since: i64, seen: &mut BTreeSet<(u64, u64)>, searched: &mut Searched) {
    let Ok(about) = fs::metadata(path) else { return };
    if about.ctime() < since || !seen.insert((about.dev(), about.ino())) {
        return;
    }
    searched.files += 1;
    searched.bytes += about.len();
    match fs::File::open(path).and_then(|file| scanner.read(file)) {
        Ok(found) => searched.found.extend(found.iter().map(|name| format!("{name} in {}", path.display()))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => searched.found.push(format!("{} can't be searched: {error}", path.display())),
    }
}
