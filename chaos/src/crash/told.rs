//! What clients say to the store, and what the answers mean.

use bytes::Bytes;
use ron_core::ids::{ContentHash, Slot};
use ron_core::message::{DedupClaim, MessageMeta, NewMessage};
use ron_core::reason::Reason;
use ron_core::shard::{DeliveryRef, Leased, NackMode};
use ron_core::time::Millis;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A message as its sender means it.
#[derive(Debug)]
pub struct Draft {
    /// The bytes.
    pub payload: Bytes,
    /// What is kept beside them.
    pub meta: MessageMeta,
    /// Delay, ms; 0 = none.
    pub delay_ms: u64,
    /// Time to live, ms.
    pub ttl_ms: Option<u64>,
    /// (scope and text of the key, claim).
    pub claim: Option<(String, DedupClaim)>,
}

impl Draft {
    /// The message to submit.
    #[must_use]
    pub fn message(&self) -> NewMessage {
        NewMessage {
            payload: self.payload.clone(),
            payload_hash: ContentHash::of(&self.payload),
            meta: self.meta.clone(),
            delay_ms: self.delay_ms,
            ttl_ms: self.ttl_ms,
            dedup: self.claim.as_ref().map(|(_, claim)| *claim),
        }
    }
}

/// How deliveries were settled.
#[derive(Debug, Clone)]
pub enum How {
    /// Done.
    Ack,
    /// Given back, with the delay or else the drawn backoffs, and the note.
    Nack(NackMode, Option<u64>, Option<String>, BTreeMap<Slot, Millis>),
    /// More time, ms.
    Extend(u64),
}

/// A settling and what was answered.
#[derive(Debug, Clone)]
pub struct Settling {
    /// How.
    pub how: How,
    /// Which.
    pub deliveries: Vec<DeliveryRef>,
    /// One a delivery.
    pub results: Vec<Result<(), Reason>>,
}

/// What one unit of a commit means once the commit is answered.
#[derive(Debug, Clone, Default)]
pub struct Effect {
    /// Whose.
    pub shard: u32,
    /// Messages sent.
    pub puts: Vec<Arc<Draft>>,
    /// Deliveries settled.
    pub settling: Option<Settling>,
    /// Whether the shard then noticed what time it was.
    pub timed: bool,
    /// Messages handed out, with the visibility asked for.
    pub grants: Vec<(Leased, u64)>,
}

/// What a workload brought about, to see that it brings about everything.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Messages stored.
    pub stored: u64,
    /// Of them, in more than one part.
    pub large: u64,
    /// Duplicates recognised.
    pub duplicates: u64,
    /// Keys with another body refused.
    pub conflicts: u64,
    /// Hand-outs.
    pub delivered: u64,
    /// Acks.
    pub acked: u64,
    /// Given back: `fail`, `release`, `reject`.
    pub failed: u64,
    /// See `failed`.
    pub released: u64,
    /// See `failed`.
    pub rejected: u64,
    /// Leases made longer.
    pub extended: u64,
    /// Receipts refused.
    pub refused: u64,
    /// Dead letters of deadlines that passed.
    pub timed_out: u64,
    /// Ended by their TTL.
    pub expired: u64,
}

impl Tally {
    /// Both together.
    pub fn add(&mut self, other: &Tally) {
        self.stored += other.stored;
        self.large += other.large;
        self.duplicates += other.duplicates;
        self.conflicts += other.conflicts;
        self.delivered += other.delivered;
        self.acked += other.acked;
        self.failed += other.failed;
        self.released += other.released;
        self.rejected += other.rejected;
        self.extended += other.extended;
        self.refused += other.refused;
        self.timed_out += other.timed_out;
        self.expired += other.expired;
    }
}
