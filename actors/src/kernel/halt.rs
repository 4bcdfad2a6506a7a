//! Ending children: asked first, killed when they do not listen.

use super::child::{ChildKind, StopMode};
use futures::StreamExt;
use futures::future::join_all;
use futures::stream;
use ractor::ActorCell;
use std::sync::Arc;
use std::time::Duration;

/// Dynamic children that are stopped at the same time.
const TOGETHER_MAX: usize = 64;

/// How long a kill may take: it works at the child's next `await`. One that never gets there is left behind.
const KILL_WAIT: Duration = Duration::from_secs(1);

/// A child to be ended.
#[derive(Clone)]
pub(super) struct Halting {
    pub(super) name: Arc<str>,
    pub(super) generation: u64,
    pub(super) kind: ChildKind,
    /// Its place in the order of start.
    pub(super) order: u64,
    pub(super) stop: StopMode,
    pub(super) timeout: Duration,
    pub(super) cell: ActorCell,
}

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// As asked.
    Stopped,
    /// It had to be killed.
    Killed,
}

/// Asks one child to stop, waits, and kills it after its timeout.
pub(super) async fn one(child: &Halting) -> Outcome {
    match &child.stop {
        StopMode::Stop => child.cell.stop(None),
        StopMode::Drain => {
            let _ = child.cell.drain();
        }
        StopMode::Ask(ask) => ask(&child.cell),
    }
    // `stop_and_wait` would return at once if somebody else had asked before
    if child.cell.wait(Some(child.timeout)).await.is_ok() {
        return Outcome::Stopped;
    }
    let killed = child.cell.kill_and_wait(Some(KILL_WAIT)).await;
    tracing::warn!(child = %child.name, dead = killed.is_ok(), "child did not stop in time and was killed");
    Outcome::Killed
}

/// Ends the dynamic children, many at a time, then the fixed ones, the last started first.
pub(super) async fn in_order(children: Vec<Halting>, mut tell: impl FnMut(&Halting, Outcome)) {
    let (dynamic, mut fixed): (Vec<_>, Vec<_>) =
        children.into_iter().partition(|c| c.kind == ChildKind::Dynamic);
    let end = async |child: Halting| {
        let outcome = one(&child).await;
        (child, outcome)
    };
    let mut ending = stream::iter(dynamic).map(end).buffer_unordered(TOGETHER_MAX);
    while let Some((child, outcome)) = ending.next().await {
        tell(&child, outcome);
    }
    fixed.sort_by_key(|child| std::cmp::Reverse(child.order));
    for child in fixed {
        let outcome = one(&child).await;
        tell(&child, outcome);
    }
}

/// Kills all at once and waits until they are dead, or [`KILL_WAIT`].
pub(super) async fn kill_all(cells: impl Iterator<Item = ActorCell>) {
    join_all(cells.map(|cell| async move { cell.kill_and_wait(Some(KILL_WAIT)).await.is_ok() })).await;
}
