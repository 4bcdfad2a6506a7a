//! The brownout drill: strangers flood the node with forged webhooks and nobody notices; then its store turns slow and
//! fails now and then, new messages are shed, and everything else goes on; and it ends by itself.
#![allow(clippy::print_stdout)] // its output is its product

use anyhow::{Context, Result, anyhow};
use clap::Parser;
use ron_checker::api::{Api, percentile, ronctl};
use ron_checker::clock::{self, Clock, Micros};
use ron_checker::drill::{Place, end};
use ron_checker::hooks::event::{Event, Provider};
use ron_checker::hooks::flood::Flood;
use ron_checker::hooks::judge::judge;
use ron_checker::hooks::patron::{READYZ, Served, Visited, visit};
use ron_checker::hooks::sender::{Attempt, Plan, Sending, Told};
use ron_checker::hooks::stored::drain;
use ron_checker::http::{Client, Request, Target};
use ron_checker::node::{Addresses, Node, Setup};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const READY_LIMIT: Duration = Duration::from_secs(60);
/// The topic whose messages are read and settled all the time.
const READ_TOPIC: &str = "read";
/// Who read, settle and shake hands at the same time.
const PATRONS: usize = 4;
/// The longest that a drill may take: what the senders plan for, s.
const LONGEST_S: u64 = 1800;
/// A brownout ends within this after its cause (SPEC §7).
const RECOVERY_MAX: Duration = Duration::from_secs(300);
/// A fault of this kind is seen within this.
const TRIP_MAX: Duration = Duration::from_secs(240);
/// What senders do not get an answer to within this after a switch may be of the time before it, µs.
const SETTLED: Micros = 1_500_000;

/// Floods, and makes the store slow and faulty. Exit 1 if the node copes with it otherwise than it promises; 77 if the
/// drill could not be carried out.
#[derive(Parser, Debug)]
#[command(name = "brownout")]
struct Args {
    #[command(flatten)]
    place: Place,
    /// Events of providers a second.
    #[arg(long, default_value_t = 500)]
    rate: u64,
    /// Forged requests a minute.
    #[arg(long, default_value_t = 100_000)]
    forged: u64,
    /// Each of its phases takes so long, s: no flood, flood, brownout, and after it.
    #[arg(long, default_value_t = 60)]
    phase_seconds: u64,
    /// From an event's time to its 202 while no fault is in force, ms.
    #[arg(long, default_value_t = 120.0)]
    p95_ms: f64,
    /// The same.
    #[arg(long, default_value_t = 300.0)]
    p99_ms: f64,
    /// The control: no fault is injected, so that no brownout comes.
    #[arg(long)]
    no_fault: bool,
}

fn main() -> ExitCode {
    end("brownout", drill(&Args::parse()))
}

/// When what was in force.
#[derive(Debug, Default)]
struct Times {
    calm: Range<Micros>,
    flooded: Range<Micros>,
    injected: Micros,
    /// Shedding was first seen, and last.
    shedding: Option<Range<Micros>>,
    cleared: Micros,
    after: Range<Micros>,
    faults: Vec<String>,
}

fn drill(args: &Args) -> Result<Vec<String>> {
    let setup = args.place.setup()?;
    let clock = Clock::start();
    let mut command = setup.command();
    command.env("RON_CHAOS__ENABLED", "true");
    let mut node = Node::start(command, &setup.log(), &clock)?;
    let addresses = node.wait_ready(READY_LIMIT)?;
    let token = setup.mint()?;
    let mut api = Api::new(addresses.mailbox, &token);
    // more than the patrons take in all phases
    for n in 0..(args.phase_seconds + 12) * 400 {
        api.send(READ_TOPIC, None, &format!("message {n}"))?;
    }
    let began = clock.now() + 200_000;
    let times = (0..args.rate * LONGEST_S).map(|n| began + n * 1_000_000 / args.rate).collect();
    let plan = Plan { times, run: 1, first: 0, retries: false, repeat_every: 0, connections: 256 };
    let sending = Sending::new(plan, clock, addresses.interop);
    let visited = Visited {
        mailbox: addresses.mailbox,
        interop: addresses.interop,
        admin: addresses.interop_admin,
        token: &token,
        topic: READ_TOPIC,
    };
    let stage = Stage { args, setup: &setup, clock, addresses, times: Times::default() };
    let (times, forged, served) = play(stage, &sending, visited)?;
    let told = sending.into_told();
    let mut faults = judge_all(args, &times, &told, &served, &forged);
    let mut api = Api::new(addresses.mailbox, &token); // the other's connection was idle for too long
    let mut stored = Vec::new();
    for provider in [Provider::Github, Provider::Stripe] {
        drain(&mut api, provider.topic(), &mut stored)?;
    }
    let (totals, broken) = judge(&told, &stored);
    println!(
        "{} accepted, {} stored, {} times 503: {} broken promises",
        totals.accepted,
        stored.len(),
        totals.shed,
        broken.len()
    );
    faults.extend(broken);
    node.kill()?;
    Ok(faults)
}

/// Plays all phases, with everybody there; when what was, how the forged ones were answered, and who was served.
fn play(
    mut stage: Stage<'_>,
    sending: &Sending,
    visited: Visited<'_>,
) -> Result<(Times, BTreeMap<String, u64>, Vec<Served>)> {
    let (clock, interop) = (stage.clock, stage.addresses.interop);
    let (over, dry) = (AtomicBool::new(false), AtomicBool::new(false));
    let flood = Flood { rate: stage.args.forged / 60, connections: 32, seed: 2 };
    std::thread::scope(|scope| {
        let senders = scope.spawn(|| sending.run());
        let patrons: Vec<_> = (0..PATRONS).map(|_| scope.spawn(|| visit(clock, visited, &over))).collect();
        let played = stage.calm().and_then(|()| {
            let flood = scope.spawn(|| flood.run(clock, interop, &dry));
            let played = stage.flooded().and_then(|()| stage.faulty()).and_then(|()| stage.recovers());
            dry.store(true, Ordering::SeqCst);
            let forged = flood.join().map_err(|_| anyhow!("the flood panicked"));
            played.and(forged)
        });
        over.store(true, Ordering::SeqCst);
        sending.stop();
        senders.join().map_err(|_| anyhow!("a sender panicked"))?;
        let mut served = Vec::new();
        for patron in patrons {
            served.extend(patron.join().map_err(|_| anyhow!("a patron panicked"))?);
        }
        Ok((stage.times, played?, served))
    })
}

/// What is done to the node, one phase after the other.
struct Stage<'a> {
    args: &'a Args,
    setup: &'a Setup,
    clock: Clock,
    addresses: Addresses,
    times: Times,
}

impl Stage<'_> {
    fn phase(&self) -> Range<Micros> {
        let began = self.clock.now();
        clock::sleep(Duration::from_secs(self.args.phase_seconds));
        began..self.clock.now()
    }

    fn look(&self) -> Result<Look> {
        look(self.addresses.interop_admin)
    }

    fn calm(&mut self) -> Result<()> {
        self.times.calm = self.phase();
        self.should_shed(false, "before anything is done to it")
    }

    fn flooded(&mut self) -> Result<()> {
        self.times.flooded = self.phase();
        self.should_shed(false, "under the flood")
    }

    /// The store turns slow and faulty, and stays so for a phase after new messages are shed.
    fn faulty(&mut self) -> Result<()> {
        if !self.args.no_fault {
            for fault in [["latency", "--ms", "300"], ["error", "--percent", "5"]] {
                let [kind, name, value] = fault;
                let fault = format!("--fault={kind}");
                let order =
                    ["chaos", "inject", "--target", "svc-mailbox", &fault, name, value, "--duration", "20m"];
                ronctl(self.setup, &order)?;
            }
        }
        self.times.injected = self.clock.now();
        let limit = if self.args.no_fault { Duration::from_secs(self.args.phase_seconds) } else { TRIP_MAX };
        let Some(at) = self.seen(limit, true)? else {
            self.times.faults.push(format!("no brownout within {limit:?} of the fault"));
            return Ok(());
        };
        println!("new messages are shed {:.1} s after the fault", (at - self.times.injected) as f64 / 1e6);
        let _ = self.phase();
        self.should_shed(true, "while the fault is in force")?;
        self.times.shedding = Some(at..self.clock.now());
        Ok(())
    }

    /// The fault ends; the flood and the providers go on.
    fn recovers(&mut self) -> Result<()> {
        if !self.args.no_fault {
            ronctl(self.setup, &["chaos", "clear"])?;
        }
        self.times.cleared = self.clock.now();
        match self.seen(RECOVERY_MAX, false)? {
            None => self.times.faults.push(format!("still shedding {RECOVERY_MAX:?} after the fault")),
            Some(at) => {
                println!(
                    "new messages are taken {:.1} s after its end",
                    (at - self.times.cleared) as f64 / 1e6
                );
            }
        }
        self.times.after = self.phase();
        self.should_shed(false, "after it")
    }

    /// When shedding is first seen to be so; `None` after `limit`.
    fn seen(&self, limit: Duration, shedding: bool) -> Result<Option<Micros>> {
        let mut failed = None;
        let seen = clock::poll(limit, Duration::from_millis(100), || match self.look() {
            Ok(look) if look.brownout == shedding => Some(self.clock.now()),
            Ok(_) => None,
            Err(error) => {
                failed = Some(error);
                Some(0)
            }
        });
        failed.map_or(Ok(seen), Err)
    }

    fn should_shed(&mut self, shedding: bool, when: &str) -> Result<()> {
        let look = self.look()?;
        if look.brownout != shedding || look.ready == shedding {
            self.times.faults.push(format!("{when}: {look:?}"));
        }
        Ok(())
    }
}

/// What the node says of itself.
#[derive(Debug)]
struct Look {
    brownout: bool,
    ready: bool,
}

fn look(admin: SocketAddr) -> Result<Look> {
    let mut client = Client::new(Target::Tcp(admin), Duration::from_secs(10));
    let mut get = |path: &str| {
        let answer = client.call(&Request { method: "GET", path, headers: &[], body: b"" });
        answer.map_err(|failure| anyhow!("{path}: {failure:?}"))
    };
    let ready = get("/readyz")?.status == 200;
    let metrics = get("/metrics")?.body;
    let metrics = String::from_utf8_lossy(&metrics);
    let value = metrics.lines().find_map(|line| line.strip_prefix("svc_interop_brownout_active "));
    Ok(Look { brownout: value.context("svc_interop_brownout_active is missing")?.trim() == "1", ready })
}

fn judge_all(
    args: &Args,
    times: &Times,
    told: &[(Event, Vec<Attempt>)],
    served: &[Served],
    forged: &BTreeMap<String, u64>,
) -> Vec<String> {
    let mut faults = times.faults.clone();
    for (name, phase) in
        [("no flood", &times.calm), ("flood", &times.flooded), ("flood, after the fault", &times.after)]
    {
        judge_healthy(args, name, phase, told, &mut faults);
    }
    if let Some(shedding) = &times.shedding {
        judge_shed(shedding, told, &mut faults);
        judge_served(shedding, served, &mut faults);
    }
    println!("forged: {forged:?}");
    let reached: u64 = forged.get("401 SIGNATURE_INVALID").copied().unwrap_or_default();
    let all: u64 = forged.values().sum();
    let seconds = (times.after.end.saturating_sub(times.flooded.start)) / 1_000_000;
    if reached != all || all * 10 < args.forged * seconds / 60 * 9 {
        faults.push(format!("of {all} forged requests in {seconds} s {reached} reached the verification"));
    }
    faults
}

/// While no fault is in force nothing is refused, and in time.
fn judge_healthy(
    args: &Args,
    name: &str,
    phase: &Range<Micros>,
    told: &[(Event, Vec<Attempt>)],
    faults: &mut Vec<String>,
) {
    let due = told.iter().filter_map(|(_, attempts)| attempts.first()).filter(|one| phase.contains(&one.due));
    let (mut took, mut refused) = (Vec::new(), 0);
    for attempt in due {
        match attempt.told {
            Told::Accepted { .. } => took.push(attempt.ended.saturating_sub(attempt.due)),
            _ => refused += 1,
        }
    }
    let mut ms = |percent: f64| percentile(&mut took, percent) as f64 / 1000.0;
    let (p50, p95, p99) = (ms(50.0), ms(95.0), ms(99.0));
    println!("{name}: {} accepted, {refused} not; p50 {p50:.1} p95 {p95:.1} p99 {p99:.1} ms", took.len());
    let wanted = (phase.end - phase.start) * args.rate / 1_000_000;
    if refused > 0 || u64::try_from(took.len()).unwrap_or_default() * 10 < wanted * 9 {
        faults.push(format!("{name}: of {wanted} events {} were accepted and {refused} not", took.len()));
    }
    if p95 > args.p95_ms || p99 > args.p99_ms {
        faults.push(format!("{name}: p95 {p95:.1} ms, p99 {p99:.1} ms"));
    }
}

/// While it sheds, every new message is refused, and as it should be.
fn judge_shed(shedding: &Range<Micros>, told: &[(Event, Vec<Attempt>)], faults: &mut Vec<String>) {
    let mut said: BTreeMap<String, u64> = BTreeMap::new();
    let inside = shedding.start + SETTLED..shedding.end.saturating_sub(SETTLED);
    for (_, attempts) in told {
        for attempt in attempts.iter().filter(|one| inside.contains(&one.due)) {
            let name = match &attempt.told {
                Told::Refused { status, reason, .. } => format!("{status} {reason}"),
                other => format!("{other:?}"),
            };
            *said.entry(name).or_default() += 1;
        }
    }
    println!("brownout: sends {said:?}");
    if said.len() != 1 || !said.contains_key("503 DEGRADED") {
        faults.push(format!("not all of the sends are shed as DEGRADED: {said:?}"));
    }
}

/// While it sheds, what reads or settles is served. The store itself may fail some of them: 5 % of its syncs do, and
/// after each it is opened anew, on a device that takes 300 ms for a sync.
fn judge_served(shedding: &Range<Micros>, served: &[Served], faults: &mut Vec<String>) {
    let mut by: BTreeMap<&str, (Vec<u64>, u64, u64)> = BTreeMap::new();
    for one in served.iter().filter(|one| shedding.contains(&one.at)) {
        let (took, failed, refused) = by.entry(one.what).or_default();
        match one.said.as_str() {
            "200" => took.push(one.took),
            said if said.starts_with("503 STORAGE") => *failed += 1,
            // readiness says so without a reason
            said if one.what == READYZ && said.starts_with("503") => *failed += 1,
            said => {
                *refused += 1;
                println!("brownout: {}: {said:?}", one.what);
            }
        }
    }
    for (what, (mut took, failed, refused)) in by.clone() {
        let p99 = percentile(&mut took, 99.0) as f64 / 1000.0;
        println!(
            "brownout: {what}: {} served, p99 {p99:.0} ms; {failed} failed by the store, {refused} refused",
            took.len()
        );
        if took.len() < 3 || refused > 0 || failed > u64::try_from(took.len()).unwrap_or_default() {
            faults.push(format!("{what}: {} served, {failed} failed, {refused} refused", took.len()));
        }
    }
    for what in ["stat", "peek", "recv", "ack", READYZ, "handshake"] {
        if !by.contains_key(what) {
            faults.push(format!("no {what} was tried"));
        }
    }
}
