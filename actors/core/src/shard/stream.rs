//! Streams: one consumer that receives again and again, and holds no more unsettled deliveries than it said.
//!
//! A stream is not durable and owns no message: when it ends its deliveries stay leased until they are settled or
//! their deadlines pass.

use super::kept::Msg;
use super::{Reply, Shard, Step, StreamId};
use crate::ids::Slot;
use crate::reason::{Reason, Refusal};
use std::collections::BTreeMap;

/// A stream's bound, and how much of it is used.
#[derive(Debug, Clone, Copy)]
struct Credit {
    most: u32,
    held: u32,
}

/// The streams that are open, and the leases that count against them.
#[derive(Debug, Default)]
pub(super) struct Streams {
    open: BTreeMap<StreamId, Credit>,
    holders: BTreeMap<Slot, StreamId>,
}

impl Streams {
    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    pub(super) fn is_open(&self, stream: StreamId) -> bool {
        self.open.contains_key(&stream)
    }

    /// How many more deliveries the stream may hold.
    pub(super) fn credit(&self, stream: StreamId) -> u32 {
        self.open.get(&stream).map_or(0, |credit| credit.most.saturating_sub(credit.held))
    }

    /// Whose delivery this lease is, if a stream's.
    pub(super) fn holder(&self, slot: Slot) -> Option<StreamId> {
        self.holders.get(&slot).copied()
    }

    pub(super) fn hold(&mut self, slot: Slot, stream: StreamId) {
        if let Some(credit) = self.open.get_mut(&stream) {
            credit.held += 1;
            self.holders.insert(slot, stream);
        }
    }

    /// The lease has ended; returns the stream whose credit that gives back.
    pub(super) fn let_go(&mut self, slot: Slot) -> Option<StreamId> {
        let stream = self.holders.remove(&slot)?;
        let credit = self.open.get_mut(&stream)?;
        credit.held = credit.held.saturating_sub(1);
        Some(stream)
    }

    /// Whether each stream holds as many leases as are known to be its, and they are leases.
    pub(super) fn consistent(&self, leased: &BTreeMap<Slot, Msg>) -> bool {
        let of = |stream: &StreamId| self.holders.values().filter(|holder| *holder == stream).count();
        let within = |credit: &Credit| credit.held <= credit.most;
        self.holders.iter().all(|(slot, stream)| leased.contains_key(slot) && self.is_open(*stream))
            && self.open.iter().all(|(stream, credit)| within(credit) && of(stream) == credit.held as usize)
    }
}

impl Shard {
    pub(super) fn open_stream(&mut self, stream: StreamId, max_inflight: u32, step: &mut Step) {
        if self.streams.open.len() >= self.settings.max_waiters as usize {
            let text = "too many streams are open on the topic: close some, or use recv";
            step.reply = Reply::Refused(Refusal::new(Reason::Backpressure, text));
            return;
        }
        self.streams.open.insert(stream, Credit { most: max_inflight, held: 0 });
    }

    pub(super) fn close_stream(&mut self, stream: StreamId) {
        self.streams.open.remove(&stream);
        self.streams.holders.retain(|_, holder| *holder != stream);
        self.waiters.remove_all_of(stream);
    }

    /// The lease of `slot` has ended: its stream may have another message for it.
    pub(super) fn give_credit_back(&mut self, slot: Slot) {
        if let Some(stream) = self.streams.let_go(slot) {
            self.waiters.bring_back(stream);
        }
    }
}
