//! A script of operations, run again and again: each time another operation of the disk fails, with an I/O error or for
//! want of space, once or three times in a row; then pairs of them, sampled. After each the node must come back by
//! itself, with no restart, no quarantine, no message lost and no wrong byte delivered.

#![allow(clippy::print_stdout, reason = "a command line tool")]

use clap::Parser;
use ron_chaos::sim::{self, Fault, Options};
use std::io::ErrorKind;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Fails every operation of the disk under a script, one after the other.
#[derive(Debug, Parser)]
struct Args {
    /// Which script.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Operations of the script.
    #[arg(long, default_value_t = 300)]
    steps: u64,
    /// Only every so manieth operation of the disk.
    #[arg(long, default_value_t = 1)]
    every: u64,
    /// Pairs of failing operations.
    #[arg(long, default_value_t = 1_000)]
    pairs: u64,
    /// Runs at the same time.
    #[arg(long, default_value_t = 1)]
    threads: usize,
}

/// How an operation fails: with what, how many times, and what a failed sync leaves.
const KINDS: [(ErrorKind, u64, bool); 4] = [
    (ErrorKind::Other, 1, false),
    (ErrorKind::StorageFull, 1, true),
    (ErrorKind::Other, 3, true),
    (ErrorKind::StorageFull, 3, false),
];

fn fault(after: u64, (kind, times, kept): (ErrorKind, u64, bool)) -> Fault {
    Fault { on: None, after, times, kind, kept }
}

/// SplitMix64, for the pairs.
fn mix(x: u64) -> u64 {
    let x = x.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x ^ (x >> 31)
}

fn run(args: &Args, faults: Vec<Fault>) -> Result<(u64, u64), String> {
    let text = format!("{faults:?}");
    let options = Options { seed: args.seed, steps: args.steps, faults: Some(faults), ..Options::default() };
    sim::run(&options).map(|report| report.disk_ops).map_err(|failure| format!("{failure}\nfaults: {text}"))
}

fn main() -> ExitCode {
    let args = Args::parse();
    let ops = match run(&args, Vec::new()) {
        Ok((ops, _)) => ops,
        Err(failure) => {
            println!("without a fault: {failure}");
            return ExitCode::FAILURE;
        }
    };
    let mut cases: Vec<Vec<Fault>> = Vec::new();
    for after in (0..ops).step_by(usize::try_from(args.every.max(1)).unwrap_or(1)) {
        cases.extend(KINDS.iter().map(|kind| vec![fault(after, *kind)]));
    }
    for n in 0..args.pairs {
        let random = [mix(4 * n), mix(4 * n + 1), mix(4 * n + 2), mix(4 * n + 3)];
        let one = |at: u64, kind: u64| fault(at % ops.max(1), KINDS[(kind % 4) as usize]);
        cases.push(vec![one(random[0], random[1]), one(random[2], random[3])]);
    }
    let (next, broken, struck) = (AtomicUsize::new(0), AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..args.threads.max(1) {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    match run(&args, case.clone()) {
                        Ok((_, failed)) => drop(struck.fetch_add(u64::from(failed > 0), Ordering::Relaxed)),
                        Err(failure) => {
                            if broken.fetch_add(1, Ordering::Relaxed) < 5 {
                                println!("{failure}");
                            }
                        }
                    }
                }
            });
        }
    });
    let (runs, broken, struck) = (cases.len() as u64, broken.into_inner(), struck.into_inner());
    println!("{ops} operations of the disk, {runs} runs, {struck} with a fault that struck, {broken} broken");
    // a fault that strikes nothing proves nothing
    let enough = struck * 2 > runs;
    if broken == 0 && enough { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
