//! What happened to a message, for whoever asks later. Told beside what must be durable; decides nothing.

use super::Step;
use super::kept::{Corpse, Msg};
use crate::ids::Slot;
use crate::time::Millis;

/// What can happen to a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum What {
    /// Stored.
    Enqueued,
    /// Handed out.
    Delivered,
    /// Given more time.
    Extended,
    /// Given back, the attempt too.
    Released,
    /// Given back as failed.
    Failed,
    /// Not settled in time.
    TimedOut,
    /// Moved to the dead-letter queue.
    DeadLettered,
    /// Ready again after it was a dead letter.
    Reprocessed,
    /// Done.
    Acked,
    /// Ended by its TTL or by retention.
    Expired,
    /// Ended by a purge.
    Purged,
}

/// What happened to one message, or to neighbours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The first of them.
    pub first: Slot,
    /// How many.
    pub count: u16,
    /// What.
    pub what: What,
    /// Hand-outs that counted when it happened.
    pub attempt: u32,
    /// When they were enqueued; 0 = not known here.
    pub enqueued: Millis,
    /// The consumer's words, or why it is a dead letter.
    pub reason: Option<Box<str>>,
}

impl Step {
    pub(super) fn tell(&mut self, slot: Slot, msg: &Msg, what: What) {
        self.tell_why(slot, msg, what, None);
    }

    pub(super) fn tell_why(&mut self, slot: Slot, msg: &Msg, what: What, why: Option<&str>) {
        let (attempt, enqueued, reason) = (msg.attempt, msg.enqueued, why.map(Into::into));
        self.events.push(Event { first: slot, count: 1, what, attempt, enqueued, reason });
    }

    /// Of a dead letter.
    pub(super) fn tell_of_dead(&mut self, slot: Slot, corpse: &Corpse, what: What) {
        let (attempt, enqueued) = (corpse.attempt, corpse.enqueued);
        self.events.push(Event { first: slot, count: 1, what, attempt, enqueued, reason: None });
    }

    /// Of neighbours that were never handed out.
    pub(super) fn tell_run(&mut self, first: Slot, count: u16, what: What, enqueued: Millis) {
        self.events.push(Event { first, count, what, attempt: 0, enqueued, reason: None });
    }
}
