//! Dedup.
use crate::ids::{ShardId, Slot};
use crate::message::{DedupClaim, OtherBody};
use crate::time::Millis;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
/// Row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DedupRow {
    /// s
    pub shard: ShardId,
    /// k
    pub key: u128,
    /// b
    pub body: u128,
    /// s
    pub slot: Slot,
    /// e
    pub enqueued: Millis,
    /// x
    pub expires: Millis,
}
/// Verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// n
    New,
    /// d
    Duplicate {
        /// s
        slot: Slot,
        /// e
        enqueued: Millis,
        /// o
        other_body: bool,
    },
    /// c
    Conflict,
    /// f
    Full,
}
/// Dedup.
#[derive(Debug)]
pub struct Dedup {
    node_max: usize,
    topic_max: usize,
    map: HashMap<(ShardId, u128), DedupRow>,
    live: HashMap<ShardId, u64>,
}
impl Dedup {
    /// n
    #[must_use]
    pub fn new(node_max: usize, topic_max: usize) -> Dedup {
        Dedup { node_max, topic_max, map: HashMap::new(), live: HashMap::new() }
    }
    /// c
    pub fn check(&mut self, now: Millis, shard: ShardId, claim: &DedupClaim) -> Verdict {
        match self.map.get(&(shard, claim.key)) {
            Some(row) if row.expires > now => {
                let other_body = row.body != claim.body;
                if other_body && claim.same_key_other_body == OtherBody::Conflict {
                    Verdict::Conflict
                } else {
                    Verdict::Duplicate { slot: row.slot, enqueued: row.enqueued, other_body }
                }
            }
            Some(_) => Verdict::New,
            None if self.map.len() >= self.node_max || self.live(shard) as usize >= self.topic_max => {
                Verdict::Full
            }
            None => Verdict::New,
        }
    }
    /// i
    pub fn insert(
        &mut self,
        shard: ShardId,
        claim: &DedupClaim,
        slot: Slot,
        enqueued: Millis,
        expires: Millis,
    ) {
        self.restore(DedupRow { shard, key: claim.key, body: claim.body, slot, enqueued, expires });
    }
    /// r
    pub fn restore(&mut self, row: DedupRow) {
        if self.map.insert((row.shard, row.key), row).is_none() {
            *self.live.entry(row.shard).or_default() += 1;
        }
    }
    /// f
    pub fn forget_before(&mut self, now: Millis) {
        let live = &mut self.live;
        self.map.retain(|_, row| {
            let keep = row.expires > now;
            if !keep {
                *live.entry(row.shard).or_default() -= 1;
            }
            keep
        });
    }
    /// l
    #[must_use]
    pub fn live(&self, shard: ShardId) -> u64 {
        self.live.get(&shard).copied().unwrap_or(0)
    }
    /// l
    #[must_use]
    pub fn len(&self) -> usize {
        self.map.len()
    }
}
