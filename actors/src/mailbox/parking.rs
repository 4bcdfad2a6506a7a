//! A shard's time: the timer for what its state machine waits for, and its end when nobody has used it for a while.
//!
//! An idle queue has no actor: what it holds is in the store, and the next message starts one. An actor that ends must
//! not take messages with it. So it takes its address back first, and sends itself a last message: whatever was sent to
//! the address before lies in front of that one, and keeps it alive.

use super::loading::Phase;
use super::messages::ShardMsg;
use super::shard::{ShardRef, ShardState};
use ron_core::shard::{Command, park_after};
use ron_core::time::Millis;

/// How often a shard whose receives wait for room in its tenant's `max_inflight` looks for some, ms.
const STARVING_LOOKS_EVERY_MS: u64 = 50;

/// How long an actor waits for its first message, at least, ms.
const UNUSED_STAYS_MS: u64 = 5_000;

impl ShardState {
    /// Sets the timer for the next moment the state machine asks for.
    pub(super) fn arm(&mut self, myself: &ShardRef) {
        let Phase::Ready(loaded) = &self.phase else { return };
        let starving = self.args.entry.is_starving(&loaded.shard);
        let wake_at = match (self.park_at(self.park_after_ms()), loaded.shard.wake_at()) {
            // The topic that makes room is another one: nobody tells this one.
            (_, Some(due)) if starving => due.min(self.args.clock.now().plus(STARVING_LOOKS_EVERY_MS)),
            (Some(park_at), _) => park_at,
            (None, Some(due)) => due,
            // A commit is owed, and sets the timer when it is done: until then there is nothing to wake up for.
            (None, None) => return,
        };
        self.arm_at(myself, wake_at);
    }

    fn arm_at(&mut self, myself: &ShardRef, wake_at: Millis) {
        // A timer that fires early finds nothing to do and is set again: cheaper than one for every command.
        self.timer.arm_by(self.args.clock.now(), wake_at, myself, ShardMsg::Tick);
    }

    /// Whoever started it may be gone, and nothing may come.
    pub(super) fn arm_for_leaving(&mut self, myself: &ShardRef) {
        self.arm_at(myself, self.used.plus(self.park_after_ms().max(UNUSED_STAYS_MS)));
    }

    fn park_after_ms(&self) -> u64 {
        park_after(self.args.config.park_after_ms.max(1), self.args.directory.awake())
    }

    /// When the shard may end, if nobody uses it for so long. What is due soon is waited for instead; what is due later
    /// is seen to by whoever looks after the queues.
    fn park_at(&self, idle_ms: u64) -> Option<Millis> {
        // The end of an empty topic owes the shard nothing, so it looks idle; its actor leaves on its own.
        if self.closing.is_some() {
            return None;
        }
        let park_at = self.used.plus(idle_ms);
        match &self.phase {
            Phase::Ready(loaded) => {
                let far = |due: Millis| due.since(park_at) > idle_ms;
                let idle = loaded.shard.idle() && loaded.tasks.running().is_none();
                (idle && loaded.shard.wake_at().is_none_or(far)).then_some(park_at)
            }
            // Whoever had it started may be a while yet.
            Phase::Parked => Some(park_at.max(self.used.plus(UNUSED_STAYS_MS))),
            Phase::Loading(_) | Phase::Recovering | Phase::Gone => None,
        }
    }

    pub(super) fn on_tick(&mut self, myself: &ShardRef) {
        self.leave_if_idle(myself, self.park_after_ms());
        match self.phase {
            Phase::Ready(_) => self.apply_and_carry(myself, Command::Tick),
            Phase::Parked | Phase::Loading(_) | Phase::Recovering | Phase::Gone => {}
        }
    }

    /// Begins to end if nobody has used it for so long.
    pub(super) fn leave_if_idle(&mut self, myself: &ShardRef, idle_ms: u64) {
        if self.park_at(idle_ms).is_none_or(|at| at > self.now()) {
            return;
        }
        if let Phase::Ready(loaded) = &self.phase {
            self.args.entry.figures.set_due(loaded.shard.wake_at());
        }
        self.phase = Phase::Parked;
        self.args.entry.publisher.down();
        // Its own mailbox is open as long as it lives.
        let _ = myself.cast(ShardMsg::Leave);
    }

    /// Ends, unless something came before its address was taken back.
    pub(super) fn leave_or_stay(&mut self, myself: &ShardRef) {
        match self.phase {
            Phase::Parked => myself.stop(None),
            Phase::Loading(_) | Phase::Recovering | Phase::Ready(_) => {
                self.args.entry.publisher.publish(myself.clone());
            }
            Phase::Gone => {}
        }
    }
}
