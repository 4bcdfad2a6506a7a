//! A timer for an actor.
//!
//! It sends the actor a tick. One that is already in the mailbox when its timer is moved or cancelled cannot
//! be called back, so each carries a generation, and [`Timer::accept`] says whether it still counts. Periodic
//! work re-arms from its handler: an interval would send a burst after a stall.

use ractor::{ActorRef, Message};
use ron_core::time::Millis;
use std::time::Duration;
use tokio::task::AbortHandle;

/// One timer. Dropped with its actor, it is cancelled: what waits to be sent holds the address it goes to,
/// and with it the channels of an actor that is gone.
#[derive(Debug, Default)]
pub struct Timer {
    armed: Option<Armed>,
    generation: u64,
}

#[derive(Debug)]
struct Armed {
    generation: u64,
    at: Millis,
    task: AbortHandle,
}

impl Drop for Armed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Timer {
    /// Sends `wrap(generation)` to `actor` at node time `at`, at once if that is past. Leaves a timer alone
    /// that fires at `at` or before: cheap to call after every message. A tick may thus come early; the
    /// handler looks at what is due and arms again.
    pub fn arm_by<M: Message>(
        &mut self,
        now: Millis,
        at: Millis,
        actor: &ActorRef<M>,
        wrap: impl FnOnce(u64) -> M + Send + 'static,
    ) {
        if self.armed.as_ref().is_some_and(|armed| armed.at <= at) {
            return;
        }
        self.generation += 1;
        let generation = self.generation;
        let after = Duration::from_millis(at.since(now));
        let task = actor.send_after(after, move || wrap(generation)).abort_handle();
        self.armed = Some(Armed { generation, at, task });
    }

    /// Whether a tick that arrived still counts; if so the timer is spent.
    #[must_use]
    pub fn accept(&mut self, generation: u64) -> bool {
        self.armed.take_if(|armed| armed.generation == generation).is_some()
    }

    /// Cancels it, if it is armed.
    pub fn cancel(&mut self) {
        self.armed = None;
    }
}
