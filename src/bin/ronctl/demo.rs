//! `ronctl demo`: the node's main job on real input, told step by step. A node of its own on free ports,
//! signed webhooks of every provider shipped, a consumer, a SIGKILL in the middle of the load; nothing is
//! left behind.

use crate::ambient::{self, millis};
use crate::failure::{Failure, failed};
use crate::output::Output;
use crate::sender::Kind;
use clap::Args;
use crash::Load;
use serde_json::{Value, json};
use stage::Stage;
use tokio::signal::unix::{SignalKind, signal};

mod crash;
mod queue;
mod stage;
mod webhooks;

/// How much to show.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Messages sent while the node is killed
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(100..=100_000))]
    messages: u32,
    /// Senders at work at the kill, each with a connection of its own
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(2..=256))]
    connections: u16,
}

/// Runs `ronctl demo`.
///
/// # Errors
/// The first step that did not go as promised.
pub(crate) async fn run(args: DemoArgs, out: Output) -> Result<(), Failure> {
    let mut told = Told { out, steps: Vec::new() };
    let mut stage = Stage::prepare()?; // may build the node first, which is no part of the demo's time
    let began = ambient::now();
    let ended = tokio::select! {
        ended = play(&args, &mut stage, &mut told) => ended,
        () = interrupted() => Err(failed("interrupted")),
    };
    let seconds = began.elapsed().as_secs_f64();
    if out.json {
        let error = ended.as_ref().err().map(ToString::to_string);
        out.value(&json!({ "ok": ended.is_ok(), "seconds": seconds, "error": error, "steps": told.steps }))?;
    } else if ended.is_ok() {
        out.line(format!("\nAll {} steps as promised, in {seconds:.1} s.", told.steps.len()))?;
    }
    ended
}

async fn play(args: &DemoArgs, stage: &mut Stage, told: &mut Told) -> Result<(), Failure> {
    told.title("A node of our own, on free ports, its store in a temporary directory")?;
    let ready = stage.node.start().await;
    told.step("start", ready.map(|took| format!("ready in {:.0} ms", millis(took))))?;
    let minted = stage.mint().await;
    told.step("capability", minted.map(|id| format!("minted for tenant {}, id {id}", stage::TENANT)))?;

    told.title("Webhooks, signed as each provider signs: verified, deduplicated, fsynced, then answered")?;
    for kind in Kind::ALL {
        told.step(kind.name(), webhooks::round_trip(stage, kind).await)?;
    }
    told.step("sent twice", webhooks::duplicate(stage).await)?;
    told.step("bad signature", webhooks::bad_signature(stage).await)?;
    told.step("an hour old", webhooks::stale(stage).await)?;
    told.step("slack handshake", webhooks::slack_handshake(stage).await)?;
    told.step("discord handshake", webhooks::discord_handshake(stage).await)?;

    told.title("A crash in the middle of the load")?;
    crash(args, stage, told).await?;

    told.title("A message that nobody can work on")?;
    told.step("poison", queue::poison(stage).await)?;
    let stopped = stage.node.stop().await.and_then(|status| match status.code() {
        Some(0) => Ok("drained on SIGTERM, exit code 0".to_owned()),
        _ => Err(failed(format!("the node ended with {status}"))),
    });
    told.step("stop", stopped)
}

/// Half the load, SIGKILL, restart, the other half; then everything is counted.
async fn crash(args: &DemoArgs, stage: &mut Stage, told: &mut Told) -> Result<(), Failure> {
    let leased = queue::lease(stage).await;
    let leased = told.check("lease", leased, |_| "a message is leased for two minutes".to_owned())?;
    let load = Load::new(args.messages as usize, args.connections.into())?;
    let before = load.until_killed(stage).await;
    told.check("SIGKILL", before, |before| {
        format!("{} messages answered, {} requests in flight", before.answered, before.in_flight)
    })?;
    let restarted = ambient::now();
    let ready = stage.node.start().await;
    let leased = match ready {
        Ok(ready) => queue::lease_stands(stage, leased).await.map(|text| (ready, restarted.elapsed(), text)),
        Err(failure) => Err(failure),
    };
    let (_, _, lease) = told.check("restart", leased, |(ready, first, _)| {
        format!(
            "ready after {:.0} ms, its first calls answered after {:.0} ms",
            millis(*ready),
            millis(*first)
        )
    })?;
    told.step("the lease", Ok(lease))?;
    let after = load.retry(stage).await;
    told.check("the senders", after, |after| {
        format!(
            "retried {} unanswered ({} had been stored: recognised), sent the rest: {:.0}/s, \
             p50 {:.1} ms, p99 {:.1} ms",
            after.retried, after.recognised, after.rate_per_s, after.p50_ms, after.p99_ms
        )
    })?;
    let received = load.all_there(stage).await;
    told.check("the consumer", received, |received| {
        format!("{received} of {} received once, byte for byte; nothing lost, nothing twice", args.messages)
    })?;
    Ok(())
}

/// The steps so far, printed as they end.
struct Told {
    out: Output,
    steps: Vec<Value>,
}

impl Told {
    fn title(&self, text: &str) -> Result<(), Failure> {
        if self.out.json { Ok(()) } else { self.out.line(format!("\n{text}")) }
    }

    fn step(&mut self, name: &str, outcome: Result<String, Failure>) -> Result<(), Failure> {
        self.check(name, outcome, String::clone).map(drop)
    }

    /// Tells how a step went; its result, for the steps after it.
    fn check<T>(
        &mut self,
        name: &str,
        outcome: Result<T, Failure>,
        tell: impl FnOnce(&T) -> String,
    ) -> Result<T, Failure> {
        let (ok, text) = match &outcome {
            Ok(value) => (true, tell(value)),
            Err(failure) => (false, failure.to_string()),
        };
        self.steps.push(json!({ "step": name, "ok": ok, "text": text }));
        if !self.out.json {
            let mark = if ok { '✓' } else { '✗' };
            self.out.line(format!("  {mark} {name:18} {text}"))?;
        }
        outcome.map_err(|_| failed(format!("the demo ends at \"{name}\": {text}")))
    }
}

/// Returns when the user, or whoever started us, wants an end; what was started is then ended by its drop.
async fn interrupted() {
    let signals = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()));
    match signals {
        (Ok(mut interrupt), Ok(mut terminate)) => {
            tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
        }
        // without handlers the signals end the process themselves
        _ => std::future::pending().await,
    }
}
