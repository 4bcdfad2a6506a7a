//! Crash images: power failures under the real store, judged against what its clients were told.

#![allow(clippy::print_stdout, reason = "a command-line tool")]

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use ron_chaos::crash::{Plan, run};
use std::process::ExitCode;

/// Power failures under the real store, judged against what its clients were told. Exit 1 if a promise broke.
#[derive(Debug, Parser)]
struct Args {
    /// Images to judge, those during recoveries included.
    #[arg(long, default_value_t = 20_000)]
    images: u64,
    /// Seed of the first workload.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Images in one workload.
    #[arg(long, default_value_t = 300)]
    per_workload: u64,
    /// Rounds of one workload.
    #[arg(long, default_value_t = 120)]
    rounds: u32,
    /// Leave `sync_data` out: this must fail.
    #[arg(long)]
    no_sync: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let bar = ProgressBar::new(args.images);
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len} images  {per_sec}  {eta}") {
        bar.set_style(style);
    }
    let plan = Plan {
        seed: args.seed,
        images: args.images,
        per_workload: args.per_workload,
        rounds: args.rounds,
        drop_syncs: args.no_sync,
    };
    // Panics are counted and reported below, with the seed.
    std::panic::set_hook(Box::new(|_| ()));
    let summary = run(plan, &mut |done| bar.set_position(done));
    bar.finish_and_clear();
    let judged = summary.judged;
    println!(
        "{} images of {} workloads ({} commits, {} disk operations): {} held, {} violations",
        summary.images(),
        summary.workloads,
        summary.commits,
        summary.ops,
        judged.images,
        summary.violations(),
    );
    println!(
        "{} of them crashed a recovery; in {} the commit in flight had landed; {} live messages compared; \
         {:.0} images/s",
        judged.recoveries,
        judged.landed,
        judged.messages,
        summary.images() as f64 / bar.elapsed().as_secs_f64().max(0.001),
    );
    println!("{:?}, {} commits of background work", summary.tally, summary.tidied);
    for (kind, count) in &summary.broken {
        println!("  {kind:?}: {count}");
    }
    let sync = if args.no_sync { " --no-sync" } else { "" };
    for (seed, violation) in &summary.violations {
        let text: String = violation.to_string().chars().take(1_000).collect();
        println!("{text}");
        let (per_workload, rounds) = (args.per_workload, args.rounds);
        println!(
            "  replay: crash --seed {seed} --images {per_workload} --per-workload {per_workload} \
             --rounds {rounds}{sync}"
        );
    }
    ExitCode::from(u8::from(summary.violations() > 0))
}
