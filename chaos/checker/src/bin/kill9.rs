//! The kill -9 drill: a real node under load is killed again and again, and everything that clients were
//! told is compared with everything that they saw.
#![allow(clippy::print_stdout)] // its output is its product

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::Parser;
use ron_checker::check::{self, Tally};
use ron_checker::clock::{self, Clock};
use ron_checker::history::{History, Limits, Line, read_journal};
use ron_checker::journal::Journal;
use ron_checker::load::plan::FIFO;
use ron_checker::load::{Clients, Load, Shared, drain};
use ron_checker::node::{Node, Setup};
use ron_checker::rng::Rng;
use serde::Serialize;
use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// A kill of an idle node proves nothing.
const IN_FLIGHT_MIN: u64 = 100;
/// A node that is not ready by then has failed; SPEC promises 2 s of a normal start.
const READY_LIMIT: Duration = Duration::from_secs(30);
/// Most violations printed in full.
const PRINTED_MAX: usize = 20;

/// Exit code of a drill that could not be carried out, so that nobody takes that for a finding.
const NOT_DONE: u8 = 2;

/// A fault of the node that ends the drill: as much a finding as a broken promise.
#[derive(Debug)]
struct Found(&'static str);

impl std::fmt::Display for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

/// Kills a node under load and checks that nothing promised was lost. Exit 1 if something was, or if the node did
/// not come back; 2 if the drill could not be carried out.
#[derive(Parser, Debug)]
#[command(name = "kill9")]
struct Args {
    /// The ron-node binary.
    #[arg(long, required_unless_present = "recheck")]
    node: Option<PathBuf>,
    /// The ronctl binary.
    #[arg(long, required_unless_present = "recheck")]
    ronctl: Option<PathBuf>,
    /// How often the node is killed under load.
    #[arg(long, default_value_t = 10)]
    rounds: u64,
    /// Longest time under load before a kill, in seconds.
    #[arg(long, default_value_t = 3)]
    seconds_per_round: u64,
    /// Decides what is sent and when the node is killed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// A new directory for the node's data, its log and the journal.
    #[arg(long, required_unless_present = "recheck")]
    dir: Option<PathBuf>,
    /// Clients that send.
    #[arg(long, default_value_t = 140)]
    producers: u64,
    /// Clients that receive.
    #[arg(long, default_value_t = 40)]
    consumers: u64,
    /// Percent of the clients that speak OAP/1.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(0..=100))]
    over_oap: u64,
    /// The summary as JSON.
    #[arg(long)]
    json: bool,
    /// Judges this journal again instead of running anything.
    #[arg(long, conflicts_with_all = ["node", "ronctl", "dir"])]
    recheck: Option<PathBuf>,
}

/// One kill.
#[derive(Debug, Clone, Copy, Serialize)]
struct Round {
    load_ms: u64,
    in_flight: u64,
    writes_in_flight: u64,
    killed_again_during_start: bool,
    /// From the last start to the ready line.
    ready_ms: u64,
    /// From the last start to the first answered receive.
    first_recv_ms: u64,
}

#[derive(Debug, Serialize)]
struct Summary {
    seed: u64,
    rounds: Vec<Round>,
    operations: usize,
    accepted: u64,
    duplicates: u64,
    sends_unknown: u64,
    deliveries: u64,
    recvs_unknown: u64,
    settled: u64,
    stale: u64,
    settles_unknown: u64,
    refused: u64,
    violations: usize,
}

fn main() -> ExitCode {
    let args = Args::parse();
    match drill(&args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) if error.is::<Found>() => {
            println!("FAILED: {error:#} (seed {})", args.seed);
            ExitCode::FAILURE
        }
        Err(error) => {
            println!("kill9: {error:#} (seed {})", args.seed);
            NOT_DONE.into()
        }
    }
}

fn drill(args: &Args) -> Result<bool> {
    if let Some(path) = &args.recheck {
        let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
        return judge(args, &read_journal(BufReader::new(file))?, Vec::new());
    }
    let (Some(node), Some(ronctl), Some(dir)) = (&args.node, &args.ronctl, &args.dir) else {
        bail!("--node, --ronctl and --dir are needed");
    };
    let setup = Setup {
        node: node.clone(),
        ronctl: ronctl.clone(),
        dir: dir.clone(),
        amnesia: false,
        dedup_window_ms: 12 * 3_600_000,
    };
    ensure!(!setup.data_dir().exists(), "{} holds the data of another run", dir.display());
    setup.write()?;
    let (history, rounds) = run(args, &setup)?;
    judge(args, &history, rounds)
}

/// Runs the load through all kills, drains, and gives what happened.
fn run(args: &Args, setup: &Setup) -> Result<(History, Vec<Round>)> {
    let clock = Clock::start();
    let limits = Limits {
        seed: args.seed,
        max_attempts: 5,
        max_deliveries: 50,
        dedup_window_ms: setup.dedup_window_ms,
        durability: "fsync".to_owned(),
        fifo_topics: vec![FIFO.to_owned()],
    };
    let mut rng = Rng::new(args.seed, 0);
    watch(args);
    let mut node = Node::start(setup.command(), &setup.log(), &clock)?;
    let addresses = node.wait_ready(READY_LIMIT)?;
    let token = setup.mint()?;
    let journal = Journal::create(&setup.dir.join("journal.jsonl"), clock, limits)?;
    let shared = Arc::new(Shared::new(args.seed, clock, journal, token));
    shared.cluster.up(addresses);
    let load = Load::start(
        &shared,
        Clients { producers: args.producers, consumers: args.consumers, over_oap: args.over_oap },
    );

    let mut rounds = Vec::new();
    let outcome = (0..args.rounds).try_for_each(|number| {
        let round = kill_and_restart(args, setup, &shared, &mut rng, &mut node)?;
        if !args.json {
            println!("round {:>3}: {round:?}", number + 1);
        }
        rounds.push(round);
        anyhow::Ok(())
    });
    if let Err(error) = outcome {
        shared.cluster.over();
        load.stop();
        return Err(error);
    }
    load.stop();
    let drain_s = 60 + args.rounds * args.seconds_per_round * 5;
    drain::drain(&shared, drain_s * 1_000_000);
    // what was settled while draining must be settled after a kill, too
    let empty_ready_ms = restart(setup, &shared, &mut node)?;
    drain::record(&shared);
    stop_orderly(&mut node)?;
    shared.cluster.over();
    ensure!(clock.stepped_by().abs() < 1_000_000, "the wall clock was stepped: deadlines can't be compared");
    let shared = Arc::try_unwrap(shared).ok().context("a client is still running")?;
    if !args.json {
        println!("ready with all topics drained after {empty_ready_ms} ms");
    }
    Ok((shared.journal.finish().context("write the journal")?, rounds))
}

/// Ends the drill with an error if it takes far too long: a killed process that does not die, or a client
/// that never ends, must not hold up whoever waits for the result.
fn watch(args: &Args) {
    let limit = Duration::from_secs(300 + args.rounds * (args.seconds_per_round + 40));
    let seed = args.seed;
    std::thread::spawn(move || {
        clock::sleep(limit);
        println!("kill9: not done after {limit:?} (seed {seed})");
        std::process::exit(NOT_DONE.into());
    });
}

/// Lets the load run, kills the node in the middle of it, and starts it again.
fn kill_and_restart(
    args: &Args,
    setup: &Setup,
    shared: &Arc<Shared>,
    rng: &mut Rng,
    node: &mut Node,
) -> Result<Round> {
    let load_ms = rng.between(300, (args.seconds_per_round * 1000).max(301));
    clock::sleep(Duration::from_millis(load_ms));
    let in_flight = || {
        let writes = shared.writes_in_flight.load(Ordering::SeqCst);
        (writes + shared.recvs_in_flight.load(Ordering::SeqCst), writes)
    };
    let busy = clock::poll(Duration::from_secs(10), Duration::from_micros(200), || {
        Some(in_flight()).filter(|(_, writes)| *writes >= IN_FLIGHT_MIN)
    });
    let Some((in_flight, writes_in_flight)) = busy else {
        bail!("only {:?} requests (all, writes) in flight: the load is too small", in_flight());
    };
    node.kill()?;
    shared.cluster.down();
    shared.journal.note(Line::Killed { at: shared.clock.now(), in_flight, writes_in_flight });
    let killed_again_during_start = rng.percent(25);
    if killed_again_during_start {
        // recovery must survive a kill as well
        *node = Node::start(setup.command(), &setup.log(), &shared.clock)?;
        clock::sleep(Duration::from_millis(rng.between(1, 250)));
        node.kill()?;
    }
    let ready_ms = start(setup, shared, node)?;
    let first = clock::poll(READY_LIMIT, Duration::from_millis(1), || shared.cluster.first_recv());
    let first = first.context(Found("no receive was answered after the restart"))?;
    let first_recv_ms = first.saturating_sub(node.started) / 1000;
    Ok(Round { load_ms, in_flight, writes_in_flight, killed_again_during_start, ready_ms, first_recv_ms })
}

/// SIGKILL and start, without any load; gives the milliseconds until the node was ready.
fn restart(setup: &Setup, shared: &Arc<Shared>, node: &mut Node) -> Result<u64> {
    node.kill()?;
    shared.cluster.down();
    shared.journal.note(Line::Killed { at: shared.clock.now(), in_flight: 0, writes_in_flight: 0 });
    start(setup, shared, node)
}

/// Starts the node; gives the milliseconds until it was ready.
fn start(setup: &Setup, shared: &Arc<Shared>, node: &mut Node) -> Result<u64> {
    *node = Node::start(setup.command(), &setup.log(), &shared.clock)?;
    let addresses = node.wait_ready(READY_LIMIT).context(Found("the killed node did not come back"))?;
    let at = shared.clock.now();
    shared.journal.note(Line::Ready { at, after: at - node.started });
    shared.cluster.up(addresses);
    Ok((at - node.started) / 1000)
}

/// SIGTERM must end the node in order.
fn stop_orderly(node: &mut Node) -> Result<()> {
    let pid = i32::try_from(node.pid()).ok().and_then(rustix::process::Pid::from_raw);
    let pid = pid.context("the node has no process id")?;
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).context("SIGTERM")?;
    let found = Found("SIGTERM did not end the node in order");
    match node.wait_exit(Duration::from_secs(20)) {
        Ok(status) if status.code() == Some(0) => Ok(()),
        Ok(status) => Err(anyhow!("{status}").context(found)),
        Err(error) => Err(error.context(found)),
    }
}

/// Checks the history and prints the result; true if every promise was kept.
fn judge(args: &Args, history: &History, rounds: Vec<Round>) -> Result<bool> {
    let violations = check::check(history);
    let Tally {
        accepted,
        duplicates,
        sends_unknown,
        deliveries,
        recvs_unknown,
        settled,
        stale,
        settles_unknown,
        refused,
    } = check::tally(history);
    let summary = Summary {
        seed: history.limits.seed,
        rounds,
        operations: history.operations.len(),
        accepted,
        duplicates,
        sends_unknown,
        deliveries,
        recvs_unknown,
        settled,
        stale,
        settles_unknown,
        refused,
        violations: violations.len(),
    };
    if args.json {
        println!("{}", serde_json::to_string(&summary)?);
    } else {
        print_summary(&summary);
    }
    for violation in violations.iter().take(PRINTED_MAX) {
        println!("{}", check::show(history, violation));
    }
    if violations.is_empty() {
        return Ok(true);
    }
    let seed = history.limits.seed;
    println!("FAILED: {} broken promises, seed {seed}", violations.len());
    Ok(false)
}

fn print_summary(summary: &Summary) {
    let column = |of: fn(&Round) -> u64| {
        let mut all: Vec<u64> = summary.rounds.iter().map(of).collect();
        all.sort_unstable();
        let median = all.get(all.len() / 2).copied().unwrap_or_default();
        let (low, high) = (all.first().copied().unwrap_or_default(), all.last().copied().unwrap_or_default());
        format!("{low} / {median} / {high}")
    };
    let Summary { seed, operations, accepted, duplicates, sends_unknown, .. } = summary;
    let Summary { deliveries, recvs_unknown, settled, stale, settles_unknown, refused, .. } = summary;
    println!("seed {seed}, {} rounds, {operations} requests (min / median / max)", summary.rounds.len());
    println!("  in flight at the kill     {}", column(|round| round.in_flight));
    println!("  of these writes           {}", column(|round| round.writes_in_flight));
    println!("  ready after, ms           {}", column(|round| round.ready_ms));
    println!("  first receive after, ms   {}", column(|round| round.first_recv_ms));
    println!("  sends      {accepted} accepted, {duplicates} duplicates, {sends_unknown} unknown");
    println!("  receives   {deliveries} deliveries, {recvs_unknown} requests unknown");
    println!("  settlings  {settled} ok, {stale} refused, {settles_unknown} unknown");
    println!("  {refused} requests refused; {} broken promises", summary.violations);
}
