//! How long it takes until the last of a topic's subscribers can receive what was sent to it.
//!
//! The time runs from before the send until the node's own `fanout_lag` says that nobody waits for a copy; it is asked
//! again and again, and what asking takes is in the figure. Afterwards each subscriber is counted: the figure is worth
//! nothing if one was missed or got a copy twice.

use super::site::{self, Commits};
use super::{TENANT, TOKEN_TTL_MS, report};
use crate::ambient;
use crate::client::{Call, Client, Door};
use crate::control;
use crate::failure::{Failure, failed};
use crate::output::{Output, watched};
use crate::own_node::OwnNode;
use clap::Args;
use hdrhistogram::Histogram;
use indicatif::ProgressBar;
use ron_core::capability::Op;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::Duration;
use tokio::time::timeout;

/// The topic that is sent to.
const SOURCE: &str = "news";
/// Subscribers that one call may add (SPEC §4).
const CALL_MAX: u32 = 1_000;
/// Between two looks at the lag.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// The most that one fanout may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// How to measure.
#[derive(Debug, Args)]
pub(crate) struct FanoutArgs {
    /// Subscribers of the topic that is sent to
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    subscribers: u32,
    /// Sends, one after the other
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    sends: u32,
    /// From the end of one fanout to the next send, so that what follows one is not in the next one's time
    #[arg(long, default_value = "1s", value_parser = crate::args::duration)]
    pause: Duration,
    /// Bytes of a message
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    size: u32,
    /// Where the node's directory is made, so that the figures are of that disk [default: the temporary directory]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Runs `ronctl bench fanout`, on a node of its own.
///
/// # Errors
/// If the node fails, a fanout does not end, or a subscriber has not exactly one copy of each message.
pub(super) async fn run(args: FanoutArgs, out: Output) -> Result<(), Failure> {
    let mut node = OwnNode::prepare(args.dir.as_deref())?;
    node.configure("", &format!("max_topics = {}", args.subscribers + 10), "")?;
    node.start().await?;
    let ops = [Op::Enqueue, Op::Stat, Op::Admin];
    let minted = control::mint_for(&mut node.control(), TENANT, &ops, TOKEN_TTL_MS).await?;
    let mut fanout = Fanout {
        mailbox: Client::new(Door::Tcp(node.address("mailbox")?)).with_token(&minted.token),
        admin: Client::new(Door::Tcp(node.address("mailbox_admin")?)),
        body: ambient::random::<64>()?.iter().copied().cycle().take(args.size as usize).collect(),
    };
    fanout.subscribe(args.subscribers).await?;
    fanout.send().await?; // makes the subscribers' topics
    let most = PATIENCE.as_micros() as u64;
    let mut took = Histogram::<u64>::new_with_bounds(1, most, 3)
        .map_err(|error| failed(format!("a histogram: {error}")))?;
    let bar = if watched() { ProgressBar::new(args.sends.into()) } else { ProgressBar::hidden() };
    let before = fanout.commits().await?;
    for _ in 0..args.sends {
        tokio::time::sleep(args.pause).await;
        took.saturating_record(fanout.send().await?.as_micros() as u64);
        bar.inc(1);
    }
    let commits = fanout.commits().await?.0 - before.0;
    bar.finish_and_clear();
    fanout.count(args.subscribers, args.sends + 1).await?;
    present(&args, &took, commits, out)
}

struct Fanout {
    mailbox: Client,
    admin: Client,
    body: Vec<u8>,
}

impl Fanout {
    async fn subscribe(&mut self, subscribers: u32) -> Result<(), Failure> {
        let all: Vec<Value> = (0..subscribers).map(|n| json!({ "topic": subscriber(n) })).collect();
        for some in all.chunks(CALL_MAX as usize) {
            let call = Call::put_json(format!("/v1/{TENANT}/{SOURCE}/subscribers"), &json!({ "add": some }));
            self.mailbox.read::<Value>(call).await?;
        }
        Ok(())
    }

    /// Sends one message; the time until all have it.
    async fn send(&mut self) -> Result<Duration, Failure> {
        let call = Call::post(format!("/v1/{TENANT}/{SOURCE}/enqueue"), self.body.clone());
        let began = ambient::now();
        let sent: Value = self.mailbox.read(call.header("content-type", "application/octet-stream")).await?;
        if sent["durability"] != "fsync" {
            return Err(failed(format!("a send that is not durable does not count: {sent}")));
        }
        let all_have_it = async {
            while self.metric("fanout_lag").await? > 0.0 {
                tokio::time::sleep(LOOK_EVERY).await;
            }
            Ok(began.elapsed())
        };
        timeout(PATIENCE, all_have_it)
            .await
            .map_err(|_| failed(format!("a fanout did not end in {} s", PATIENCE.as_secs())))?
    }

    async fn metric(&mut self, name: &str) -> Result<f64, Failure> {
        let answer = self.admin.call(Call::get("/metrics")).await?;
        Ok(report::counter(&String::from_utf8_lossy(&answer.body), name))
    }

    async fn commits(&mut self) -> Result<Commits, Failure> {
        site::commits(&mut self.admin).await
    }

    /// Each subscriber has one copy of each message.
    async fn count(&mut self, subscribers: u32, messages: u32) -> Result<(), Failure> {
        for n in 0..subscribers {
            let path = format!("/v1/{TENANT}/{}", subscriber(n));
            let stat: Value = self.mailbox.read(Call::get(&path)).await?;
            if stat["ready"] != messages {
                return Err(failed(format!("{path} should have {messages} messages ready: {stat}")));
            }
        }
        Ok(())
    }
}

fn subscriber(n: u32) -> String {
    format!("s{n:05}")
}

fn present(args: &FanoutArgs, took: &Histogram<u64>, commits: u64, out: Output) -> Result<(), Failure> {
    let ms = |micros: u64| micros as f64 / 1e3;
    let [p50, p95, p99] = [0.5, 0.95, 0.99].map(|at| ms(took.value_at_quantile(at)));
    let (max, copies) = (ms(took.max()), u64::from(args.subscribers) * u64::from(args.sends));
    if out.json {
        return out.value(&json!({
            "subscribers": args.subscribers, "sends": args.sends, "size": args.size, "copies": copies,
            "commits": commits, "p50_ms": p50, "p95_ms": p95, "p99_ms": p99, "max_ms": max,
        }));
    }
    out.pairs(&[
        ("subscribers", args.subscribers.to_string()),
        ("sends", format!("{} of {} bytes", args.sends, args.size)),
        ("copies", format!("{copies}, each counted once at its subscriber")),
        ("commits", commits.to_string()),
        ("until the last has it", format!("p50 {p50:.1}  p95 {p95:.1}  p99 {p99:.1}  max {max:.1} ms")),
    ])
}
