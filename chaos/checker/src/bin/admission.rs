//! The admission drill: bombs and hundreds of slow connections at the provider that honest senders use, too.
//! The node's memory stays bounded, every bomb gets its refusal, and nobody honest notices.
#![allow(clippy::print_stdout)] // its output is its product

use anyhow::{Context, Result, anyhow, ensure};
use clap::Parser;
use ron_checker::admission::{bombs, slow};
use ron_checker::clock::{self, Clock, Micros};
use ron_checker::drill::{Place, end};
use ron_checker::http::{Client, Failure, Request, Target};
use ron_checker::node::{Addresses, GITHUB_SECRET, Node, Setup};
use ron_checker::sign;
use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

const READY_LIMIT: Duration = Duration::from_secs(60);
/// A silent node is given up after this.
const TIMEOUT: Duration = Duration::from_secs(20);
/// How much the peak of resident memory may grow, by the issue.
const GROWTH_MAX_MIB: u64 = 64;
/// Under this much, µs, a p99 is not compared with the one before: two processors are shared with all
/// attackers.
const P99_FLOOR: Micros = 60_000;
/// Senders with a connection each that they keep, and how often each of them sends, µs.
const KEPT: usize = 4;
const EVERY: Micros = 40_000;
/// Those who throw bombs.
const THROWERS: usize = 3;

/// Throws bombs and keeps slow connections while honest webhooks come, 125 a second. Exit 1 if memory grew
/// too much, a bomb was not refused as it should, or an honest webhook was refused or late; 77 if the drill
/// could not be carried out.
#[derive(Parser, Debug)]
#[command(name = "admission")]
struct Args {
    #[command(flatten)]
    place: Place,
    /// Slow connections of all kinds. The node has room for 512 connections.
    #[arg(long, default_value_t = 500)]
    slow: usize,
    /// Seconds of honest load before, and again during the attack.
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// The control: a node whose bounds are as wide as its configuration can make them.
    #[arg(long)]
    no_caps: bool,
}

fn main() -> ExitCode {
    end("admission", drill(&Args::parse()))
}

fn drill(args: &Args) -> Result<Vec<String>> {
    let setup = args.place.setup()?;
    configure(&setup, args.no_caps)?;
    let clock = Clock::start();
    let mut node = Node::start(setup.command(), &setup.log(), &clock)?;
    let addresses = node.wait_ready(READY_LIMIT)?;
    let mut faults = Vec::new();

    let quiet = Load::start(addresses.interop, clock, "before");
    clock::sleep(Duration::from_secs(args.seconds));
    let quiet = quiet.end()?;
    let before = peak(node.pid())?;

    let attack = Attack::start(addresses.interop, args.slow);
    clock::sleep(Duration::from_secs(3)); // until all are there
    let under = Load::start(addresses.interop, clock, "during");
    clock::sleep(Duration::from_secs(args.seconds));
    let alive = attack.alive.load(Ordering::SeqCst);
    let under = under.end()?;
    let (ends, thrown) = attack.end()?;
    let growth = peak(node.pid())?.saturating_sub(before) >> 20;

    println!(
        "memory: {} MiB at most before, {growth} MiB more under attack ({alive} slow connections open at its end)",
        before >> 20
    );
    println!("before: {quiet}\nduring: {under}");
    println!(
        "slow connections: {} opened, {} not; they ended with: {}",
        ends.opened,
        ends.not_opened,
        told(&ends)
    );
    println!("bombs:");
    thrown.iter().for_each(|(name, answers)| println!("  {name}: {answers:?}"));
    if growth > GROWTH_MAX_MIB {
        faults.push(format!("memory grew by {growth} MiB, over {GROWTH_MAX_MIB}"));
    }
    judge_honest(&quiet, &under, &mut faults);
    judge_bombs(&thrown, &mut faults);
    judge_slow(&ends, alive, args.slow, &mut faults);
    judge_after(&addresses, clock, &mut faults)?;
    node.kill()?;
    Ok(faults)
}

/// The limits are the node's own, but for those that honest senders would meet.
fn configure(setup: &Setup, no_caps: bool) -> Result<()> {
    let text = fs::read_to_string(setup.config())?;
    let limits = text.lines().find(|line| line.starts_with("limits = ")).context("no limits")?;
    let (wide, ratio) = match no_caps {
        true => (
            ", max_unverified = 1000000, unverified_bytes = \"64GiB\", header_timeout = \"10m\", \
             body_timeout = \"10m\", body_min_rate = 1",
            10_000,
        ),
        false => ("", 10),
    };
    let conns = if no_caps { 1_000_000 } else { 512 };
    let own = format!(
        "limits = {{ max_conns = {conns}, max_rps = 1000000, burst_rps = 1000000{wide} }}\n\
         decompression = {{ max_ratio = {ratio} }}"
    );
    let topic = "topic = \"hooks-github\"\n";
    ensure!(text.contains(topic), "no such topic");
    let text =
        text.replace(limits, &own).replace(topic, &format!("{topic}encodings = [\"gzip\", \"zstd\"]\n"));
    Ok(fs::write(setup.config(), text)?)
}

/// The peak of resident memory, bytes.
fn peak(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib: u64 = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok()).context("no VmHWM")?;
    Ok(kib * 1024)
}

/// What became of honest webhooks.
#[derive(Default)]
struct Outcome {
    /// How long each took from when it was due, µs; sorted.
    took: Vec<Micros>,
    /// Those of it that came over a connection of their own.
    fresh: Vec<Micros>,
    refused: Vec<String>,
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ms = |took: &[Micros], part: f64| at(took, part) as f64 / 1000.0;
        let (n, refused) = (self.took.len(), self.refused.len());
        let (half, most) = (ms(&self.took, 0.5), ms(&self.took, 0.99));
        write!(f, "{n} honest webhooks, {refused} refused; p50 {half:.1} ms, p99 {most:.1} ms")?;
        write!(f, " (over new connections p50 {:.1}, p99 {:.1})", ms(&self.fresh, 0.5), ms(&self.fresh, 0.99))
    }
}

impl Outcome {
    fn p99(&self) -> Micros {
        at(&self.took, 0.99)
    }
}

fn at(sorted: &[Micros], part: f64) -> Micros {
    let at = (sorted.len() as f64 * part) as usize;
    sorted.get(at).or(sorted.last()).copied().unwrap_or(Micros::MAX)
}

/// Honest senders: some keep a connection, one opens a new one each time, as providers do.
struct Load {
    over: Arc<AtomicBool>,
    senders: Vec<JoinHandle<Outcome>>,
}

impl Load {
    fn start(addr: SocketAddr, clock: Clock, phase: &'static str) -> Load {
        let over = Arc::new(AtomicBool::new(false));
        let sender = |n: usize| {
            let (over, kept) = (over.clone(), n < KEPT);
            std::thread::spawn(move || honest(addr, clock, &over, kept, &format!("{phase}-{n}")))
        };
        let senders = (0..=KEPT).map(sender).collect();
        Load { over, senders }
    }

    fn end(self) -> Result<Outcome> {
        self.over.store(true, Ordering::SeqCst);
        let mut all = Outcome::default();
        for sender in self.senders {
            let one = sender.join().map_err(|_| anyhow!("a sender panicked"))?;
            all.took.extend(one.took);
            all.fresh.extend(one.fresh);
            all.refused.extend(one.refused);
        }
        all.took.sort_unstable();
        all.fresh.sort_unstable();
        Ok(all)
    }
}

/// Sends a webhook whenever one is due, late ones at once.
fn honest(addr: SocketAddr, clock: Clock, over: &AtomicBool, kept: bool, name: &str) -> Outcome {
    let fresh = || Client::new(Target::Tcp(addr), TIMEOUT);
    let (mut client, mut outcome, mut due) = (fresh(), Outcome::default(), clock.now());
    for n in 0.. {
        if over.load(Ordering::SeqCst) {
            break;
        }
        if !kept {
            client = fresh();
        }
        match deliver(&mut client, &format!("{name}-{n}")) {
            Ok(()) => {
                let took = clock.now().saturating_sub(due);
                outcome.took.push(took);
                outcome.fresh.extend((!kept).then_some(took));
            }
            Err(what) => outcome.refused.push(format!("{name}-{n}: {what}")),
        }
        due += EVERY;
        clock::sleep(Duration::from_micros(due.saturating_sub(clock.now())));
    }
    outcome
}

/// One webhook as GitHub sends it.
fn deliver(client: &mut Client, id: &str) -> Result<(), String> {
    let body = format!("{{\"action\":\"opened\",\"id\":\"{id}\",\"filler\":\"{}\"}}", "z".repeat(500));
    let signature = sign::github(GITHUB_SECRET, body.as_bytes());
    let headers = [
        ("X-GitHub-Event", "push"),
        ("X-GitHub-Delivery", id),
        ("X-Hub-Signature-256", signature.as_str()),
        ("Content-Type", "application/json"),
    ];
    let request =
        Request { method: "POST", path: "/webhooks/github", headers: &headers, body: body.as_bytes() };
    let answer = client.call(&request).map_err(|failure| format!("{failure:?}"))?;
    match answer.status {
        202 => Ok(()),
        status => Err(format!("{status} {}", String::from_utf8_lossy(&answer.body))),
    }
}

/// For each bomb, how often it got which answer.
type Thrown = BTreeMap<String, BTreeMap<String, u64>>;

struct Attack {
    over: Arc<AtomicBool>,
    alive: Arc<AtomicU64>,
    slow: JoinHandle<slow::Ends>,
    throwers: Vec<JoinHandle<Thrown>>,
}

impl Attack {
    fn start(addr: SocketAddr, count: usize) -> Attack {
        let (over, alive) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stop, open) = (over.clone(), alive.clone());
        let slow = std::thread::spawn(move || slow::waste(addr, count, &stop, &open));
        let thrower = |n: usize| {
            let over = over.clone();
            std::thread::spawn(move || throw_all(addr, &over, n))
        };
        let throwers = (0..THROWERS).map(thrower).collect();
        Attack { over, alive, slow, throwers }
    }

    fn end(self) -> Result<(slow::Ends, Thrown)> {
        self.over.store(true, Ordering::SeqCst);
        let ends = self.slow.join().map_err(|_| anyhow!("the slow connections panicked"))?;
        let mut all = Thrown::new();
        for thrower in self.throwers {
            for (name, answers) in thrower.join().map_err(|_| anyhow!("a thrower panicked"))? {
                for (answer, count) in answers {
                    *all.entry(name.clone()).or_default().entry(answer).or_default() += count;
                }
            }
        }
        Ok((ends, all))
    }
}

/// Throws the corpus again and again.
fn throw_all(addr: SocketAddr, over: &AtomicBool, first: usize) -> Thrown {
    let (corpus, mut thrown) = (bombs::corpus(), Thrown::new());
    let mut client = Client::new(Target::Tcp(addr), TIMEOUT);
    for bomb in corpus.iter().cycle().skip(first * 5) {
        if over.load(Ordering::SeqCst) {
            break;
        }
        let answer = match bombs::throw(&mut client, bomb) {
            Err(Failure::NotSent(error)) => format!("not connected: {error}"),
            Err(Failure::Unknown(_)) => "closed".to_owned(),
            Ok(answer) => {
                let said: serde_json::Value = serde_json::from_slice(&answer.body).unwrap_or_default();
                let reason = said["reason"].as_str().unwrap_or("no reason");
                let right = (answer.status, reason) == bomb.refusal;
                if right { "as it should".to_owned() } else { format!("{} {reason}", answer.status) }
            }
        };
        *thrown.entry(bomb.name.to_owned()).or_default().entry(answer).or_default() += 1;
        clock::sleep(Duration::from_millis(10));
    }
    thrown
}

fn told(ends: &slow::Ends) -> String {
    let one = |((kind, status), count): (&(slow::Kind, u16), &u64)| match status {
        0 => format!("{kind:?} closed {count}"),
        status => format!("{kind:?} {status} {count}"),
    };
    ends.ends.iter().map(one).collect::<Vec<_>>().join(", ")
}

fn judge_honest(quiet: &Outcome, under: &Outcome, faults: &mut Vec<String>) {
    for (phase, outcome) in [("before", quiet), ("during", under)] {
        let refused = outcome.refused.iter().take(5);
        faults
            .extend(refused.map(|what| format!("an honest webhook was refused {phase} the attack: {what}")));
    }
    let bound = (3 * quiet.p99()).max(P99_FLOOR);
    if under.p99() > bound {
        let ms = |micros: Micros| micros as f64 / 1000.0;
        faults.push(format!("p99 is {:.1} ms under attack, over {:.1} ms", ms(under.p99()), ms(bound)));
    }
    if under.took.len() * 2 < quiet.took.len() {
        faults.push("hardly any honest webhooks came under attack: the drill shows too little".into());
    }
}

fn judge_bombs(thrown: &Thrown, faults: &mut Vec<String>) {
    for (name, answers) in thrown {
        let right = answers.get("as it should").copied().unwrap_or(0);
        let all: u64 = answers.values().sum();
        if right == 0 || right * 10 < all * 8 {
            faults.push(format!("{name}: {right} of {all} answered as it should: {answers:?}"));
        }
        // where slow connections have taken all room, that is an answer, too, and so is the end of a connection that
        // never had anything accepted on it
        let other = answers
            .iter()
            .filter(|(answer, _)| !["as it should", "503 BACKPRESSURE", "closed"].contains(&answer.as_str()));
        faults.extend(other.map(|(answer, count)| format!("{name}: {count} times {answer}")));
    }
    if thrown.len() != bombs::corpus().len() {
        faults.push(format!("{} kinds of bombs were thrown: the drill shows too little", thrown.len()));
    }
}

fn judge_slow(ends: &slow::Ends, alive: u64, count: usize, faults: &mut Vec<String>) {
    let cut =
        |status: u16| ends.ends.iter().filter(|((_, one), _)| *one == status).map(|(_, n)| n).sum::<u64>();
    if cut(408) + cut(503) + cut(0) == 0 {
        faults.push("no slow connection was cut".into());
    }
    let wrong = ends.ends.iter().filter(|((_, status), _)| ![0, 400, 408, 503].contains(status));
    faults.extend(wrong.map(|((kind, status), n)| format!("{kind:?}: {n} times answered {status}")));
    if alive * 2 < count as u64 {
        faults.push(format!("{alive} of {count} slow connections were there: the drill shows too little"));
    }
}

/// With the attackers gone, nothing is held for them.
fn judge_after(addresses: &Addresses, clock: Clock, faults: &mut Vec<String>) -> Result<()> {
    let mut admin = Client::new(Target::Tcp(addresses.interop_admin), TIMEOUT);
    let series = "svc_interop_inflight{route=\"/webhooks/{provider}\"} ";
    let idle = clock::poll(Duration::from_secs(15), Duration::from_millis(200), || {
        let ask = Request { method: "GET", path: "/metrics", headers: &[], body: b"" };
        let text = String::from_utf8(admin.call(&ask).ok()?.body).ok()?;
        let held = text.lines().find_map(|line| line.strip_prefix(series))?;
        (held == "0").then_some(())
    });
    if idle.is_none() {
        faults.push("webhooks are still held 15 s after the attack".into());
    }
    let mut client = Client::new(Target::Tcp(addresses.interop), TIMEOUT);
    for n in 0..20 {
        if let Err(what) = deliver(&mut client, &format!("after-{}-{n}", clock.now())) {
            faults.push(format!("an honest webhook was refused after the attack: {what}"));
        }
    }
    Ok(())
}
