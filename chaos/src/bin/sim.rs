//! Simulates the node from seeds: one line a seed, or the broken promise and how to see it again.

#![allow(clippy::print_stdout, reason = "a command line tool")]

use clap::Parser;
use ron_chaos::sim::{self, Options};
use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Simulates the node from seeds.
#[derive(Debug, Parser)]
struct Args {
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Operations of the clients, each seed.
    #[arg(long, default_value_t = 1_000)]
    steps: u64,
    /// How many seeds, from the first on.
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// Seeds at the same time, each on a thread of its own.
    #[arg(long, default_value_t = 1)]
    threads: u64,
    /// Print the event hashes only.
    #[arg(long)]
    print_hash: bool,
    /// Print how often each event and outcome was reached.
    #[arg(long)]
    report: bool,
    /// Print every event.
    #[arg(long)]
    trace: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let (next, failed) = (AtomicU64::new(0), AtomicBool::new(false));
    let totals = Mutex::new(BTreeMap::<String, u64>::new());
    let work = || {
        while !failed.load(Ordering::Relaxed) {
            let n = next.fetch_add(1, Ordering::Relaxed);
            if n >= args.seeds {
                return;
            }
            let options = Options { seed: args.seed + n, steps: args.steps, trace: args.trace, ..Options::default() };
            match sim::run(&options) {
                Ok(report) => {
                    if args.trace {
                        print!("{}", report.lines);
                    }
                    let sim::Report { seed, hash, events, node_ms, counts, .. } = report;
                    if args.print_hash {
                        println!("{seed} {hash}");
                    } else {
                        println!("seed={seed} hash={hash} events={events} node_ms={node_ms}");
                    }
                    if let Ok(mut totals) = totals.lock() {
                        counts.into_iter().for_each(|(what, n)| *totals.entry(what).or_default() += n);
                    }
                }
                Err(failure) => {
                    failed.store(true, Ordering::Relaxed);
                    println!("{failure}");
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..args.threads.max(1) {
            scope.spawn(work);
        }
    });
    if args.report
        && let Ok(totals) = totals.lock()
    {
        totals.iter().for_each(|(what, n)| println!("{n:>10} {what}"));
    }
    if failed.into_inner() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
