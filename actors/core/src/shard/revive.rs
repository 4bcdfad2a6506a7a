//! Dead letters that are brought back, or ended, by an operator (SPEC §4, reprocess and purge of the DLQ).
//!
//! A dead letter that is reprocessed keeps its id and its delivery counter and is otherwise like new: it stands
//! behind all that was there, its attempts begin at 0, its TTL and ready retention run again.

use super::kept::{Corpse, Msg};
use super::{Buried, Reply, Shard, Step, What};
use crate::ids::Slot;
use crate::message::{Phase, Settled, StateOp};
use crate::reason::{Reason, Refusal};
use crate::time::Millis;
use std::ops::Bound;

/// What is said of an id that names no dead letter.
#[must_use]
pub fn no_such_letter() -> Refusal {
    Refusal::new(Reason::NotFound, "no dead letter of this topic has this id")
}

impl Shard {
    /// Makes dead letters ready again, in the order given, as many as `max_depth` leaves room for.
    pub(super) fn reprocess(&mut self, now: Millis, slots: &[Slot], step: &mut Step) -> Reply {
        let mut moved = 0;
        for (done, &slot) in slots.iter().enumerate() {
            if !self.dead.contains_key(&slot) {
                continue;
            }
            if self.depth() >= self.settings.max_depth {
                return Reply::Reprocessed { moved, left: slots.len() - done };
            }
            if let Some(corpse) = self.take_dead(slot) {
                self.revive(now, slot, &corpse, step);
                moved += 1;
            }
        }
        Reply::Reprocessed { moved, left: 0 }
    }

    /// Ends dead letters; returns how many.
    pub(super) fn purge_dead(&mut self, slots: &[Slot], step: &mut Step) -> u64 {
        let before = step.counts.purged;
        for &slot in slots {
            if let Some(corpse) = self.take_dead(slot) {
                step.tell_of_dead(slot, &corpse, What::Purged);
                step.ops.push(StateOp::DeadGone { slot });
                step.counts.purged += 1;
            }
        }
        let purged = step.counts.purged - before;
        self.tally.purged += purged;
        purged
    }

    /// One ticket for both: the room, and the end of the dead letter.
    pub(super) fn replace(&mut self, now: Millis, slot: Slot, step: &mut Step) {
        if !self.dead.contains_key(&slot) {
            step.reply = Reply::Refused(no_such_letter());
            return;
        }
        self.reserve(1, step);
        if let Some(ticket) = step.ticket {
            self.purge_dead(&[slot], step);
            self.writes.push_back((ticket, now));
        }
    }

    /// Up to `limit` dead letters behind `after`, in slot order.
    #[must_use]
    pub fn buried(&self, after: Option<Slot>, limit: usize) -> Vec<Buried> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let seen =
            |(&slot, corpse): (&Slot, &Corpse)| Buried { slot, enqueued: corpse.enqueued, at: corpse.at };
        self.dead.range((from, Bound::Unbounded)).take(limit).map(seen).collect()
    }

    /// What is known of one dead letter; `None` if it is none.
    #[must_use]
    pub fn buried_at(&self, slot: Slot) -> Option<Buried> {
        self.dead.get(&slot).map(|corpse| Buried { slot, enqueued: corpse.enqueued, at: corpse.at })
    }

    /// The last place that was ever taken: whoever is reprocessed from now on stands behind it.
    #[must_use]
    pub fn tail(&self) -> (Slot, u32) {
        self.tail
    }

    /// From now on only reprocessed messages behind this place count in [`super::Counts::dead_again`].
    pub fn watch_from(&mut self, place: (Slot, u32)) {
        self.watched_from = place;
        self.tail = self.tail.max(place);
    }

    fn take_dead(&mut self, slot: Slot) -> Option<Corpse> {
        let corpse = self.dead.remove(&slot)?;
        self.buried.remove(&(corpse.at, slot));
        Some(corpse)
    }

    fn revive(&mut self, now: Millis, slot: Slot, corpse: &Corpse, step: &mut Step) {
        self.tail.1 += 1;
        let (after, turn) = self.tail;
        let msg = Msg {
            at: Millis(0),
            enqueued: corpse.enqueued,
            since: now,
            expires: if corpse.ttl_ms == 0 { Millis::NEVER } else { now.plus(u64::from(corpse.ttl_ms)) },
            after,
            turn,
            before: corpse.delivery,
            len: corpse.len,
            attempt: 0,
            delivery: corpse.delivery,
            settled: Settled::Revived,
            noted: false,
            group: corpse.group,
        };
        step.tell(slot, &msg, What::Reprocessed);
        if !crate::planted!(ReprocessNotWritten) {
            step.ops.push(StateOp::Revived { slot, state: msg.state(Phase::Ready) });
        }
        step.counts.revived += 1;
        self.file_ready(slot, msg);
    }
}
