//! Lease clocks that stand still: told to the store by shards and by whoever looks after them, written with its next
//! commit.

use super::EngineCell;
use crate::store::engine::Engine;
use ron_core::ids::ShardId;
use ron_core::time::Millis;
use std::collections::BTreeMap;
use std::sync::PoisonError;

impl EngineCell {
    /// The lease clocks of `shard` stand still since `since`. The next commit says so: until there is one, the
    /// store was last alive before that.
    pub(crate) fn stands_still(&self, shard: ShardId, since: Millis) {
        self.stilled().entry(shard).or_insert(since);
    }

    /// It turned out that the lease clocks of `shard` had gone on at `over`, and stopped `again`.
    pub(crate) fn went_on(&self, shard: ShardId, over: Millis, again: Option<Millis>) {
        let mut stilled = self.stilled();
        if stilled.get(&shard).is_some_and(|since| *since <= over) {
            match again {
                Some(again) => drop(stilled.insert(shard, again)),
                None => drop(stilled.remove(&shard)),
            }
        }
    }

    fn stilled(&self) -> std::sync::MutexGuard<'_, BTreeMap<ShardId, Millis>> {
        self.stilled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn tell_stilled(&self, engine: &mut Engine) -> BTreeMap<ShardId, Millis> {
        let stilled = self.stilled().clone();
        stilled.iter().for_each(|(shard, since)| engine.stands_still(*shard, *since));
        stilled
    }

    pub(super) fn stilled_written(&self, written: &BTreeMap<ShardId, Millis>) {
        if !written.is_empty() {
            self.stilled().retain(|shard, since| written.get(shard) != Some(since));
        }
    }
}
