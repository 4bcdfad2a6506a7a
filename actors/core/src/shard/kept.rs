//! What a shard keeps of a message in memory, and where that stands among the others.

use super::fresh::Front;
use crate::ids::Slot;
use crate::message::{MsgState, Phase, Revived, Settled, StoredAt};
use crate::time::Millis;

/// A live message that is not plain fresh.
#[derive(Debug, Clone, Copy)]
pub(super) struct Msg {
    /// The lease's deadline or the delay's due time; 0 when ready.
    pub(super) at: Millis,
    pub(super) enqueued: Millis,
    /// When it became available: its enqueue, the end of its delay, or its reprocessing. Retention runs from here.
    pub(super) since: Millis,
    /// End of its TTL; [`Millis::NEVER`] if it has none.
    pub(super) expires: Millis,
    /// Behind which slot it stands, if it was reprocessed; else its own.
    pub(super) after: Slot,
    /// Its turn there, from 1; 0 = it was never reprocessed, and stands at its own slot.
    pub(super) turn: u32,
    /// Hand-outs before it was reprocessed.
    pub(super) before: u32,
    pub(super) len: u32,
    pub(super) attempt: u32,
    pub(super) delivery: u32,
    pub(super) settled: Settled,
    pub(super) noted: bool,
    /// [`StoredAt::group`].
    pub(super) group: u64,
}

/// Where a message stands among the others that are not dead, whether it is ready or not: slot and turn.
pub(super) type Place = (Slot, u32);

impl Msg {
    /// A message that was never handed out.
    pub(super) fn new(stored: &StoredAt) -> Msg {
        Msg {
            at: Millis(0),
            enqueued: stored.enqueued,
            since: stored.due.filter(|_| !crate::planted!(RetentionEatsDelayed)).unwrap_or(stored.enqueued),
            expires: stored.expires.unwrap_or(Millis::NEVER),
            after: stored.slot,
            turn: 0,
            before: 0,
            len: stored.len,
            attempt: 0,
            delivery: 0,
            settled: Settled::No,
            noted: false,
            group: stored.group,
        }
    }

    /// Where it stands: this alone says what is served before what, in a topic and in a group.
    pub(super) fn place(&self) -> Place {
        (self.after, self.turn)
    }

    /// Its time to live, ms; 0 = none.
    pub(super) fn ttl_ms(&self) -> u32 {
        if self.expires == Millis::NEVER {
            return 0;
        }
        let from = if self.turn > 0 { self.since } else { self.enqueued };
        u32::try_from(self.expires.since(from).max(1)).unwrap_or(u32::MAX)
    }

    /// One that stood among the fresh.
    pub(super) fn fresh(front: &Front, group: u64) -> Msg {
        let (slot, enqueued, len) = (front.slot, front.enqueued, front.len);
        Msg::new(&StoredAt { slot, enqueued, len, due: None, expires: None, group })
    }

    /// What the store keeps of it.
    pub(super) fn state(&self, phase: Phase) -> MsgState {
        MsgState {
            phase,
            at: self.at,
            attempt: self.attempt,
            delivery: self.delivery,
            settled: self.settled,
            noted: self.noted,
            revived: (self.turn > 0).then_some(Revived {
                at: self.since,
                after: self.after,
                turn: self.turn,
                deliveries: self.before,
            }),
        }
    }
}

/// What is kept of a dead letter, so that its receipts are judged, and it is brought back, without reading the
/// store.
#[derive(Debug, Clone, Copy)]
pub(super) struct Corpse {
    pub(super) at: Millis,
    pub(super) enqueued: Millis,
    pub(super) len: u32,
    /// 0 = none.
    pub(super) ttl_ms: u32,
    pub(super) attempt: u32,
    pub(super) delivery: u32,
    pub(super) settled: Settled,
    /// [`StoredAt::group`].
    pub(super) group: u64,
}

impl Corpse {
    /// Of a message that died at `msg.at`.
    pub(super) fn of(msg: &Msg, ttl_ms: u32) -> Corpse {
        let Msg { at, enqueued, len, attempt, delivery, settled, group, .. } = *msg;
        Corpse { at, enqueued, len, ttl_ms, attempt, delivery, settled, group }
    }
}
