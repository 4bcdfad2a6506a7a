//! The webhook drill: providers send at a steady pace and again what was not accepted, the node is killed in the
//! midst of it, and then ten times as much comes as it takes.
#![allow(clippy::print_stdout)] // its output is its product

use anyhow::{Result, anyhow, ensure};
use clap::Parser;
use ron_checker::api::{Api, percentile};
use ron_checker::clock::{self, Clock, Micros};
use ron_checker::drill::{Place, end};
use ron_checker::hooks::event::{Event, Provider};
use ron_checker::hooks::judge::{Totals, judge};
use ron_checker::hooks::sender::{Attempt, Plan, Sending, Told};
use ron_checker::hooks::stored::{Stored, drain};
use ron_checker::node::{Addresses, Node, Setup};
use std::ops::Range;
use std::process::ExitCode;
use std::time::Duration;

const READY_LIMIT: Duration = Duration::from_secs(60);
/// Sent all at once before the node is killed, so that it dies with requests aboard.
const ABOARD: usize = 64;
/// It is killed when so many wait for their answers, or a moment later.
const ABOARD_MIN: usize = 16;
/// What the senders may take beyond the time that is asked for.
const LATE_MAX: Duration = Duration::from_secs(120);
/// After a start the backlog has this long to be caught up with before latencies count again, µs.
const SETTLED: Micros = 1_000_000;

/// Sends webhooks. Exit 1 if one is lost or stored twice, or they take too long; 77 if the drill could not be carried
/// out.
#[derive(Parser, Debug)]
#[command(name = "webhooks")]
struct Args {
    #[command(flatten)]
    place: Place,
    /// Events a second.
    #[arg(long, default_value_t = 500)]
    rate: u64,
    /// How long, s.
    #[arg(long, default_value_t = 600)]
    seconds: u64,
    /// SIGKILLs, spread over that time.
    #[arg(long, default_value_t = 1)]
    kills: u64,
    /// The burst: so many times the rate; the node's `max_rps` is twice the rate.
    #[arg(long, default_value_t = 10)]
    burst: u64,
    /// How long, s; 0 = none.
    #[arg(long, default_value_t = 10)]
    burst_seconds: u64,
    /// From an event's time to the 202, ms; while the node is down and a second after are not counted.
    #[arg(long, default_value_t = 20.0)]
    p95_ms: f64,
    /// The same.
    #[arg(long, default_value_t = 60.0)]
    p99_ms: f64,
    /// Makes bodies unlike those of other runs.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn main() -> ExitCode {
    end("webhooks", drill(&Args::parse()))
}

/// The node, through its lives.
struct House {
    setup: Setup,
    clock: Clock,
    rate: u64,
    node: Node,
    addresses: Addresses,
}

impl House {
    fn open(args: &Args) -> Result<House> {
        let setup = args.place.setup()?;
        let (clock, rate) = (Clock::start(), args.rate);
        let (node, addresses) = start(&setup, &clock, rate)?;
        Ok(House { setup, clock, rate, node, addresses })
    }

    /// SIGKILL, and a start; from when until when nothing listened.
    fn restart(&mut self) -> Result<Range<Micros>> {
        let from = self.clock.now();
        self.node.kill()?;
        (self.node, self.addresses) = start(&self.setup, &self.clock, self.rate)?;
        Ok(from..self.clock.now())
    }

    fn drained(&self) -> Result<Vec<Stored>> {
        let mut api = Api::new(self.addresses.mailbox, &self.setup.mint()?);
        let mut stored = Vec::new();
        for provider in [Provider::Github, Provider::Stripe] {
            drain(&mut api, provider.topic(), &mut stored)?;
        }
        Ok(stored)
    }
}

fn start(setup: &Setup, clock: &Clock, rate: u64) -> Result<(Node, Addresses)> {
    let mut command = setup.command();
    // as an operator would set it who expects `rate`
    command.env("RON_INTEROP__LIMITS__MAX_RPS", (2 * rate).to_string());
    command.env("RON_INTEROP__LIMITS__BURST_RPS", rate.to_string());
    let mut node = Node::start(command, &setup.log(), clock)?;
    let addresses = node.wait_ready(READY_LIMIT)?;
    Ok((node, addresses))
}

fn drill(args: &Args) -> Result<Vec<String>> {
    let mut house = House::open(args)?;
    let mut faults = Vec::new();
    let (steady, outages) = steady(args, &mut house)?;
    let took = latencies(&steady, &outages);
    let name = format!("{}/s for {} s, {} kills", args.rate, args.seconds, outages.len());
    let slow = say(&name, &took, &steady);
    if slow.p95_ms > args.p95_ms || slow.p99_ms > args.p99_ms {
        faults.push(format!("p95 {:.1} ms and p99 {:.1} ms to the 202", slow.p95_ms, slow.p99_ms));
    }
    say("the same, with the outages", &latencies(&steady, &[]), &steady);
    let mut told = steady;
    if args.burst_seconds > 0 {
        let burst = burst(args, &house, told.len());
        say(
            &format!("{} times that for {} s", args.burst, args.burst_seconds),
            &latencies(&burst, &[]),
            &burst,
        );
        judge_burst(args, &judge(&burst, &[]).0, &mut faults);
        told.extend(burst);
    }
    let stored = house.drained()?;
    let (totals, broken) = judge(&told, &stored);
    println!(
        "{} events, {} accepted, {} stored: {} broken promises",
        totals.events,
        totals.accepted,
        stored.len(),
        broken.len()
    );
    faults.extend(broken);
    house.node.kill()?;
    Ok(faults)
}

type History = Vec<(Event, Vec<Attempt>)>;

/// The steady load with its kills; when the node was down.
fn steady(args: &Args, house: &mut House) -> Result<(History, Vec<Range<Micros>>)> {
    let (clock, length) = (house.clock, args.seconds * 1_000_000);
    let began = clock.now() + 200_000;
    let kills: Vec<Micros> = (1..=args.kills).map(|n| began + length * n / (args.kills + 1)).collect();
    let mut times: Vec<Micros> =
        (0..args.rate * args.seconds).map(|n| began + n * 1_000_000 / args.rate).collect();
    times.extend(kills.iter().flat_map(|at| [*at; ABOARD]));
    times.sort_unstable();
    let (run, connections) = (args.seed, ABOARD * 2);
    let plan = Plan { times, run, first: 0, retries: true, repeat_every: 50, connections };
    let sending = Sending::new(plan, clock, house.addresses.interop);
    let outages = std::thread::scope(|scope| {
        let sender = scope.spawn(|| sending.run());
        let outages: Result<Vec<Range<Micros>>> = kills.iter().map(|at| kill(*at, house, &sending)).collect();
        let over = began + length + u64::try_from(LATE_MAX.as_micros()).unwrap_or(u64::MAX);
        let limit = Duration::from_micros(over.saturating_sub(clock.now()));
        let step = Duration::from_millis(50);
        if outages.is_err() || clock::poll(limit, step, || sender.is_finished().then_some(())).is_none() {
            sending.stop();
        }
        sender.join().map_err(|_| anyhow!("a sender panicked"))?;
        outages
    })?;
    Ok((sending.into_told(), outages))
}

/// Kills the node at that time, when requests are aboard.
fn kill(at: Micros, house: &mut House, sending: &Sending) -> Result<Range<Micros>> {
    clock::sleep(Duration::from_micros(at.saturating_sub(house.clock.now())));
    let aboard = || (sending.under_way() >= ABOARD_MIN).then_some(());
    let _ = clock::poll(Duration::from_millis(50), Duration::from_micros(20), aboard);
    let under_way = sending.under_way();
    let outage = house.restart()?;
    sending.move_to(house.addresses.interop);
    let ms = (outage.end - outage.start) / 1000;
    println!("SIGKILL with {under_way} requests under way; ready again after {ms} ms");
    ensure!(under_way > 0, "the node was killed with nothing aboard, which proves nothing");
    Ok(outage)
}

/// More than the node takes, and nothing of it twice.
fn burst(args: &Args, house: &House, first: usize) -> History {
    let began = house.clock.now() + 200_000;
    let rate = args.rate * args.burst;
    let times = (0..rate * args.burst_seconds).map(|n| began + n * 1_000_000 / rate).collect();
    let run = args.seed;
    let plan = Plan { times, run, first, retries: false, repeat_every: 0, connections: 256 };
    let sending = Sending::new(plan, house.clock, house.addresses.interop);
    sending.run();
    sending.into_told()
}

/// The excess is shed, what is within the limit is not, and nobody is left without an answer.
fn judge_burst(args: &Args, totals: &Totals, faults: &mut Vec<String>) {
    if totals.limited + totals.shed == 0 {
        faults.push("nothing of the burst was shed".to_owned());
    }
    let within = usize::try_from(2 * args.rate * args.burst_seconds).unwrap_or(usize::MAX);
    if totals.accepted * 10 < within * 8 {
        faults.push(format!(
            "{} of the burst were accepted, of {within} that the limit allows",
            totals.accepted
        ));
    }
    if totals.unknown + totals.not_sent > 0 {
        faults.push(format!("{} of the burst got no answer", totals.unknown + totals.not_sent));
    }
}

/// From an event's time to its first 202, ms; those due while the node was down, or just back, are left out.
fn latencies(told: &History, outages: &[Range<Micros>]) -> Vec<u64> {
    let counted = |due: Micros| !outages.iter().any(|out| (out.start..out.end + SETTLED).contains(&due));
    let one = |(_, attempts): &(Event, Vec<Attempt>)| {
        let due = attempts.first()?.due;
        let accepted = attempts.iter().find(|attempt| matches!(attempt.told, Told::Accepted { .. }))?;
        // a request that the kill caught was due before it
        let caught = outages.iter().any(|out| due < out.start && accepted.ended > out.start);
        (counted(due) && !caught).then(|| accepted.ended.saturating_sub(due))
    };
    told.iter().filter_map(one).collect()
}

struct Slow {
    p95_ms: f64,
    p99_ms: f64,
}

fn say(name: &str, took: &[u64], told: &History) -> Slow {
    let totals = judge(told, &[]).0;
    let mut sorted = took.to_vec();
    let mut ms = |percent: f64| percentile(&mut sorted, percent) as f64 / 1000.0;
    let (p50, p95, p99, max) = (ms(50.0), ms(95.0), ms(99.0), ms(100.0));
    println!(
        "{name}: p50 {p50:.1} p95 {p95:.1} p99 {p99:.1} max {max:.1} ms to the 202 of {} events; {} sent again, {} \
         duplicates, {} unknown, {} not sent, {} times 429, {} times 503",
        took.len(),
        totals.again,
        totals.duplicates,
        totals.unknown,
        totals.not_sent,
        totals.limited,
        totals.shed,
    );
    Slow { p95_ms: p95, p99_ms: p99 }
}
