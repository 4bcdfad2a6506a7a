//! `ronctl clock accept`: lets a node expire things again after a start whose wall clock was in doubt.

use crate::client::{Call, Client};
use crate::failure::Failure;
use crate::output::Output;
use clap::Subcommand;
use serde::{Deserialize, Serialize};

/// What to do about the node's clock.
#[derive(Debug, Subcommand)]
pub(crate) enum ClockCommand {
    /// Let things expire again: the wall clock at the node's start did not go with the time it had saved last
    Accept,
}

/// The two times that did not go together.
#[derive(Debug, Serialize, Deserialize)]
struct Accepted {
    saved: String,
    wall: String,
}

/// Runs `ronctl clock`.
///
/// # Errors
/// The node's refusal, as when its clock is not in doubt, or [`Failure::Unreachable`].
pub(crate) async fn run(command: ClockCommand, mut node: Client, out: Output) -> Result<(), Failure> {
    let ClockCommand::Accept = command;
    let accepted: Accepted = node.read(Call::post("/ctl/clock/accept", "")).await?;
    if out.json {
        return out.value(&accepted);
    }
    let Accepted { saved, wall } = accepted;
    out.line(format!("accepted: the wall clock at start was {wall}, the last saved time {saved}"))?;
    out.line("TTLs, retention and idempotency keys end again by node time".to_owned())
}
