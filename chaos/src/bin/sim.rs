//! Simulates the node from seeds: one line a seed, or the broken promise and how to see it again. With `--bugs` it
//! checks the checkers: every planted bug must be found by two of three sets of seeds, and nothing without one.

#![allow(clippy::print_stdout, reason = "a command line tool")]

use clap::Parser;
use ron_chaos::sim::{self, Failure, Options, Report};
use ron_core::planted::Bug;
use std::collections::BTreeMap;
use std::io::Write;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// With it a simulation takes three quarters of the time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Simulates the node from seeds.
#[derive(Debug, Parser)]
struct Args {
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Operations of the clients, each seed.
    #[arg(long, default_value_t = 1_000)]
    steps: u64,
    /// How many seeds, from the first on; with --bugs, of each of the three sets.
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// Seeds at the same time, each on a thread of its own.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Print the event hashes only.
    #[arg(long)]
    print_hash: bool,
    /// Print how often each event, outcome, and call in each state was reached.
    #[arg(long)]
    report: bool,
    /// Print every event.
    #[arg(long)]
    trace: bool,
    /// Write what the clients of the last seed saw to this file, as JSON lines (for `judge`).
    #[arg(long)]
    history: Option<std::path::PathBuf>,
    /// Plant this bug in all seeds; with --bugs, these.
    #[arg(long, value_parser = bug, value_delimiter = ',')]
    bug: Vec<Bug>,
    /// Plant every bug, or those of --bug, one by one, and count the sets of seeds that find it.
    #[arg(long)]
    bugs: bool,
}

fn bug(name: &str) -> Result<Bug, String> {
    let all = || Bug::ALL.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    Bug::parse(name).ok_or_else(|| format!("no such bug; there are {}", all()))
}

fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    if args.bugs { Ok(hunt(&args)) } else { simulate(&args) }
}

/// Does `count` pieces of work on the threads asked for.
fn on_threads(args: &Args, count: usize, work: impl Fn(usize) -> bool + Sync) {
    let (next, over) = (AtomicUsize::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for _ in 0..args.threads.max(1) {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= count {
                        return;
                    }
                    if !work(n) {
                        over.store(true, Ordering::Relaxed);
                    }
                }
            });
        }
    });
}

fn run(args: &Args, seed: u64, bug: Option<Bug>) -> Result<Report, Box<Failure>> {
    sim::run(&Options { seed, steps: args.steps, trace: args.trace, bug, ..Options::default() })
}

fn simulate(args: &Args) -> anyhow::Result<ExitCode> {
    let failed = AtomicBool::new(false);
    let totals = Mutex::new(BTreeMap::<String, u64>::new());
    let last = Mutex::new(Vec::new());
    on_threads(args, usize::try_from(args.seeds)?, |n| {
        let ran = run(args, args.seed + n as u64, args.bug.first().copied());
        let (seen, fine) = match ran {
            Ok(report) => {
                show(args, &report);
                if args.report
                    && let Ok(mut totals) = totals.lock()
                {
                    let reached = ron_history::reached(&report.history);
                    let all = report.counts.into_iter().chain(reached);
                    all.for_each(|(what, n)| *totals.entry(what).or_default() += n);
                }
                (report.history, true)
            }
            Err(failure) => {
                failed.store(true, Ordering::Relaxed);
                println!("{failure}");
                (failure.history, false)
            }
        };
        if let Ok(mut last) = last.lock() {
            *last = seen;
        }
        fine
    });
    if let (Some(path), Ok(last)) = (&args.history, last.into_inner()) {
        let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
        for record in last {
            writeln!(file, "{}", serde_json::to_string(&record)?)?;
        }
        file.flush()?;
    }
    if let (true, Ok(totals)) = (args.report, totals.into_inner()) {
        totals.iter().for_each(|(what, n)| println!("{n:>10} {what}"));
    }
    Ok(if failed.into_inner() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn show(args: &Args, report: &Report) {
    let Report { seed, hash, events, node_ms, lines, .. } = report;
    print!("{lines}");
    if args.print_hash {
        println!("{seed} {hash}");
    } else {
        println!("seed={seed} hash={hash} events={events} node_ms={node_ms}");
    }
}

/// Seeds between the beginnings of two sets.
const SETS_APART: u64 = 1_000_000;
const SETS: u64 = 3;

/// For each bug, and for none, the first seed of each set that finds something.
fn hunt(args: &Args) -> ExitCode {
    let planted = if args.bug.is_empty() { Bug::ALL.to_vec() } else { args.bug.clone() };
    let bugs: Vec<Option<Bug>> = std::iter::once(None).chain(planted.into_iter().map(Some)).collect();
    let found = Mutex::new(BTreeMap::<(usize, u64), (u64, String)>::new());
    on_threads(args, bugs.len() * SETS as usize, |n| {
        let (bug, set) = (n / SETS as usize, n as u64 % SETS);
        let seeds = (0..args.seeds).map(|n| args.seed + set * SETS_APART + n);
        let caught =
            seeds.into_iter().find_map(|seed| Some((seed, run(args, seed, bugs[bug]).err()?.complaint)));
        if let (Some(caught), Ok(mut found)) = (caught, found.lock()) {
            found.insert((bug, set), caught);
        }
        true
    });
    let Ok(found) = found.into_inner() else { return ExitCode::FAILURE };
    let mut good = true;
    for (place, bug) in bugs.iter().enumerate() {
        let caught: Vec<&(u64, String)> = (0..SETS).filter_map(|set| found.get(&(place, set))).collect();
        let name = bug.map_or_else(|| "(none)".to_owned(), |bug| bug.to_string());
        let fine = if bug.is_some() { caught.len() >= 2 } else { caught.is_empty() };
        good &= fine;
        let seeds: Vec<String> = caught.iter().map(|(seed, _)| seed.to_string()).collect();
        let verdict = if fine { "ok" } else { "NOT OK" };
        println!(
            "{name:<28} found by {} of {SETS} sets {verdict:<6} seeds {}",
            caught.len(),
            seeds.join(" ")
        );
        if let Some((_, complaint)) = caught.first() {
            println!("    {}", complaint.chars().take(160).collect::<String>());
        }
    }
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
