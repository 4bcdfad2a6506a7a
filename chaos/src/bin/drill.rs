//! `drill`: fault drills against a whole node in this process.

#![allow(clippy::print_stdout)]

use anyhow::{Result, bail};
use clap::{Parser, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use ron_chaos::drill::{fanout, kills, quarantine};
use std::time::Duration;

/// Fault drills against ron-node.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    /// Print the whole report as JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    drill: Drill,
}

#[derive(Debug, Subcommand)]
enum Drill {
    /// Kill 100 actors within their restart budgets, then one past its budget
    Kills {
        /// How many of them are the store; each but the first takes a minute
        #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=20))]
        store: u8,
        /// Longest time until a killed actor answers again, ms
        #[arg(long, default_value_t = 200)]
        back_ms: u64,
        /// Runs until nothing is late in one: a neighbour on the machine can spoil one. All are printed
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=10))]
        tries: u8,
    },
    /// Kill the node while messages are copied to subscribers, and the list of them changes
    Fanout {
        /// How many kills
        #[arg(long, default_value_t = 200)]
        kills: usize,
        /// Topics that subscribe
        #[arg(long, default_value_t = 300)]
        subscribers: usize,
        /// What differs from run to run
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
}

#[tokio::main]
async fn main() -> Result<()> {
    let cli = Cli::parse();
    match cli.drill {
        Drill::Kills { store, back_ms, tries } => {
            let limit = Duration::from_millis(back_ms);
            let plan = kills::Plan { back_within: limit, ..kills::Plan::hundred(usize::from(store)) };
            for left in (0..tries).rev() {
                let late = kills(cli.json, plan).await?;
                if late.is_empty() {
                    break;
                }
                if left == 0 {
                    bail!("late in each of {tries} runs:\n  {}", late.join("\n  "));
                }
                if !cli.json {
                    println!("once more, because\n  {}", late.join("\n  "));
                }
            }
            Ok(())
        }
        Drill::Fanout { kills, subscribers, seed } => {
            let plan = fanout::Plan { kills, subscribers, seed };
            tokio::task::spawn_blocking(move || copies(cli.json, plan)).await?
        }
    }
}

fn copies(json: bool, plan: fanout::Plan) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let report = fanout::run(dir.path(), plan)?;
    if json {
        println!("{}", serde_json::to_value(&report)?);
    } else {
        println!(
            "{} kills, {} inside a fanout, {} of them with the list changed",
            report.kills, report.inside, report.edited
        );
        println!(
            "{} actors killed, {} messages sent, {} copies came out",
            report.actors, report.sent, report.copies
        );
    }
    if !report.faults.is_empty() {
        bail!("{} faults:\n  {}", report.faults.len(), report.faults.join("\n  "));
    }
    Ok(())
}

/// One run; children that were back late.
async fn kills(json: bool, plan: kills::Plan) -> Result<Vec<String>> {
    let dir = tempfile::tempdir()?;
    let bar = ProgressBar::new(100).with_style(ProgressStyle::with_template("{bar:40} {pos}/{len} {msg}")?);
    let first = dir.path().join("kills");
    let report = kills::run(&first, plan, |kill| {
        bar.set_message(format!("{} back after {:.0} ms", kill.child, kill.back_ms));
        bar.inc(1);
    });
    let report = Box::pin(report).await?;
    bar.finish_and_clear();
    let second = Box::pin(quarantine::run(&dir.path().join("quarantine"))).await?;
    if json {
        println!("{}", serde_json::json!({ "kills": report, "quarantine": second }));
    } else {
        let (calls, median, p99, worst) = report.bystanders;
        println!("{} actors killed, {} with uncommitted requests aboard", report.kills.len(), report.aboard);
        println!("slowest back: {:.0} ms", report.slowest_back_ms);
        println!(
            "others: {calls} calls, none refused; median {median:.1} ms, p99 {p99:.1} ms, worst {worst:.1} ms"
        );
        println!(
            "{} messages answered, {} deliveries, {} acked, {} lost",
            report.balance.answered,
            report.balance.deliveries,
            report.balance.acked,
            report.balance.lost.len()
        );
        let [shard, verifier] = second.kills;
        println!(
            "past the budget: a shard quarantined after {shard} kills, a verifier after {verifier}; both alone,"
        );
        println!("and both released");
    }
    let faults = [report.faults, second.faults].concat();
    if !faults.is_empty() {
        bail!("{} faults:\n  {}", faults.len(), faults.join("\n  "));
    }
    Ok(report.late)
}
