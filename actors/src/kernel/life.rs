//! One child in its supervisor's books.
//!
//! `Starting → Up → (exit) → Waiting → Starting …`, `→ Quarantined → (release) → Starting`, and from anywhere
//! `→ Halting → gone`.

use super::child::{ChildSpec, ChildStatus};
use super::halt::Halting;
use super::supervisor::StartError;
use ractor::{ActorCell, ActorStatus, RpcReplyPort};
use ron_core::restart::{ExitKind, RestartState};
use ron_core::time::Millis;
use std::sync::Arc;
use tokio::task::AbortHandle;

/// Longest reason that is passed on, in characters.
const REASON_MAX: usize = 256;

/// How and why a child ended.
pub(super) struct Exit {
    pub(super) kind: ExitKind,
    pub(super) reason: Arc<str>,
}

impl Exit {
    pub(super) fn new(kind: ExitKind, reason: &str) -> Self {
        Self { kind, reason: reason.chars().take(REASON_MAX).collect::<String>().into() }
    }
}

/// A task that ends with its owner.
pub(super) struct Task(pub(super) AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

pub(super) enum Phase {
    Starting { _task: Task },
    Up { cell: ActorCell },
    Waiting { at: Millis, _timer: Task },
    Quarantined,
    Halting { cell: ActorCell, _task: Option<Task> },
}

pub(super) type StartReply = RpcReplyPort<Result<(), StartError>>;

/// Who waits for a child's first start.
pub(super) enum Waiter {
    Nobody,
    Caller(StartReply),
    Boot,
}

pub(super) struct Child {
    pub(super) spec: ChildSpec,
    pub(super) order: u64,
    pub(super) generation: u64,
    pub(super) phase: Phase,
    pub(super) restart: RestartState,
    pub(super) crashes: u64,
    pub(super) first_start: Waiter,
    /// To be stopped as soon as its spawn has reported.
    pub(super) stop_wanted: bool,
    /// To be killed as soon as its spawn has reported.
    pub(super) kill_wanted: bool,
    pub(super) stop_waiters: Vec<RpcReplyPort<bool>>,
    /// A start under the same name that came while this one was on its way out.
    pub(super) successor: Option<(ChildSpec, StartReply)>,
}

impl Child {
    pub(super) fn status(&self) -> ChildStatus {
        match &self.phase {
            Phase::Starting { .. } => ChildStatus::Starting,
            Phase::Up { .. } => ChildStatus::Up,
            Phase::Waiting { at, .. } => ChildStatus::Restarting { at: *at },
            Phase::Quarantined => ChildStatus::Quarantined,
            Phase::Halting { .. } => ChildStatus::Stopping,
        }
    }

    /// Whether it is about to go: asked to stop, or dead with its exit still unread.
    pub(super) fn is_leaving(&self) -> bool {
        match &self.phase {
            Phase::Up { cell } => cell.get_status() >= ActorStatus::Draining,
            Phase::Halting { .. } => true,
            Phase::Starting { .. } | Phase::Waiting { .. } | Phase::Quarantined => self.stop_wanted,
        }
    }

    pub(super) fn halting(&self, cell: ActorCell) -> Halting {
        Halting {
            name: Arc::clone(&self.spec.name),
            generation: self.generation,
            kind: self.spec.kind,
            order: self.order,
            stop: self.spec.stop.clone(),
            timeout: self.spec.stop_timeout,
            cell,
        }
    }
}
