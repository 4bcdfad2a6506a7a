//! What the driver reads off a shard and its steps.

use crate::ids::Slot;
use crate::message::{Phase, StateOp};
use crate::shard::{PeekState, Peeked, Shard, Step};
use std::collections::BTreeMap;

/// All of a state, page by page.
pub(super) fn walk(shard: &Shard, state: PeekState, limit: usize) -> Vec<Peeked> {
    let mut all: Vec<Peeked> = Vec::new();
    loop {
        let page = shard.peek(state, all.last().map(|last| last.sort_key), limit);
        if page.is_empty() {
            return all;
        }
        assert!(
            page.len() <= limit && page[0].sort_key > all.last().map_or((0, Slot(0)), |last| last.sort_key)
        );
        all.extend(page);
    }
}

/// The ends of the delays that a nack drew.
pub(super) fn drawn(step: &Step) -> BTreeMap<u64, u64> {
    let mut ends = BTreeMap::new();
    for op in &step.ops {
        if let StateOp::Set { slot, state, .. } = op
            && state.phase == Phase::Delayed
        {
            ends.insert(slot.0, state.at.0);
        }
    }
    ends
}
