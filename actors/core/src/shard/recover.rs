//! Rebuilding a shard from what the store holds.

use super::kept::{Corpse, Msg};
use super::{Paused, Settings, Shard};
use crate::ids::Slot;
use crate::message::{Phase, Recovered};
use crate::time::Millis;

/// Least time a lease has left when the shard is back, if the topic's own visibility is not shorter, ms.
const LEASE_LEFT_MS: u64 = 5_000;

/// Takes the live messages of a shard one by one, in slot order, and becomes the shard.
///
/// Lease clocks stand still while nobody could ack (SPEC §4.2): a lease that was in flight when the shard
/// went down keeps the time it had left, and at least 5 s or the topic's visibility. The next
/// [`super::Command::Tick`] writes that down. Delays and TTLs run on.
#[derive(Debug)]
pub struct Recovery {
    shard: Shard,
    now: Millis,
    stood_still_ms: u64,
    first_moved: Option<(Slot, Millis)>,
}

impl Recovery {
    /// Begins at `now`, after `stood_still_ms` in which the shard could not commit.
    #[must_use]
    pub fn new(settings: Settings, paused: Paused, now: Millis, stood_still_ms: u64) -> Recovery {
        let mut shard = Shard::new(settings);
        shard.paused = paused;
        shard.recovered_at = now;
        Recovery { shard, now, stood_still_ms, first_moved: None }
    }

    /// Takes one message; slots rise from call to call.
    pub fn push(&mut self, found: Recovered) {
        let slot = found.stored.slot;
        let mut msg = Msg::new(&found.stored);
        let Some(state) = found.state else {
            return self.shard.accept(self.now, &found.stored);
        };
        self.shard.tally.accepted += 1;
        msg.at = state.at;
        let given_back = matches!(state.phase, Phase::Ready | Phase::Delayed);
        msg.attempt = if crate::planted!(AttemptLostInCrash) && given_back { 0 } else { state.attempt };
        let fewer = crate::planted!(DeliveryRebuiltFromAttempt);
        msg.delivery = if fewer { state.attempt } else { state.delivery };
        msg.settled = state.settled;
        msg.noted = state.noted;
        self.shard.tail = self.shard.tail.max((slot, 0));
        if let Some(revived) = state.revived {
            let ttl_ms = found.stored.ttl_ms();
            (msg.after, msg.turn, msg.before) = (revived.after, revived.turn, revived.deliveries);
            msg.since = revived.at;
            msg.expires = if ttl_ms == 0 { Millis::NEVER } else { revived.at.plus(u64::from(ttl_ms)) };
            self.shard.tail = self.shard.tail.max((revived.after, revived.turn));
        }
        match state.phase {
            Phase::Leased if !crate::planted!(LeaseLostInCrash) => self.push_leased(slot, msg),
            Phase::Delayed if state.at > self.now && !crate::planted!(RetryDelayLostInCrash) => {
                self.shard.file_delayed(slot, msg);
            }
            Phase::Ready | Phase::Delayed | Phase::Leased => self.shard.file_ready(slot, msg),
            Phase::Dead => self.shard.file_dead(slot, Corpse::of(&msg, found.stored.ttl_ms())),
        }
    }

    /// A lease whose deadline had to be moved, and the deadline that is stored: as long as the store shows that, what
    /// the first tick writes has not landed.
    #[must_use]
    pub fn first_moved(&self) -> Option<(Slot, Millis)> {
        self.first_moved
    }

    /// The shard. Its first [`Shard::wake_at`] may be now.
    #[must_use]
    pub fn finish(self) -> Shard {
        self.shard
    }

    fn push_leased(&mut self, slot: Slot, mut msg: Msg) {
        let went_down = Millis(self.now.0.saturating_sub(self.stood_still_ms));
        if msg.at > went_down {
            let left_ms = LEASE_LEFT_MS.min(self.shard.settings.visibility_ms);
            let deadline = msg.at.plus(self.stood_still_ms).max(self.now.plus(left_ms));
            if deadline != msg.at {
                self.first_moved.get_or_insert((slot, msg.at));
                msg.at = deadline;
                self.shard.moved.push(slot);
            }
            self.shard.file_leased(slot, msg);
        } else if self.shard.exhausted(&msg).is_some() {
            // stays in flight with its past deadline: the next tick dead-letters it, durably and once
            self.shard.file_leased(slot, msg);
        } else {
            self.shard.file_ready(slot, msg);
        }
    }
}
