//! The topics, as RAM knows them beside their rows.

use super::engine::TopicRow;
use ron_core::ids::{QueueKey, ShardId};
use ron_core::shard::TopicState;
use std::collections::BTreeMap;

/// See the module. Nearly no topic has settings of its own, which are ten times as large as a name: only
/// those that do have room for them, for there may be a hundred thousand.
#[derive(Debug, Default)]
pub(crate) struct Topics(BTreeMap<ShardId, Kept>);

#[derive(Debug)]
struct Kept {
    key: QueueKey,
    /// `None` = as nobody ever set anything.
    own: Option<Box<TopicState>>,
}

impl Kept {
    fn state(&self) -> TopicState {
        self.own.as_deref().copied().unwrap_or_default()
    }
}

impl Topics {
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn contains(&self, shard: ShardId) -> bool {
        self.0.contains_key(&shard)
    }

    /// The topic's name.
    pub(crate) fn key(&self, shard: ShardId) -> Option<&QueueKey> {
        self.0.get(&shard).map(|kept| &kept.key)
    }

    /// What an operator set for it.
    pub(crate) fn state(&self, shard: ShardId) -> Option<TopicState> {
        self.0.get(&shard).map(Kept::state)
    }

    /// Whether its row is this one.
    pub(crate) fn has(&self, shard: ShardId, row: &TopicRow) -> bool {
        self.0.get(&shard).is_some_and(|kept| kept.key == row.key && kept.state() == row.state)
    }

    /// Its row is this one from now on.
    pub(crate) fn insert(&mut self, shard: ShardId, row: &TopicRow) {
        let own = (row.state != TopicState::default()).then(|| Box::new(row.state));
        self.0.insert(shard, Kept { key: row.key.clone(), own });
    }

    pub(crate) fn remove(&mut self, shard: ShardId) {
        self.0.remove(&shard);
    }

    /// All rows, by number.
    pub(crate) fn rows(&self) -> impl Iterator<Item = (ShardId, TopicRow)> {
        self.0.iter().map(|(shard, kept)| (*shard, TopicRow { key: kept.key.clone(), state: kept.state() }))
    }
}
