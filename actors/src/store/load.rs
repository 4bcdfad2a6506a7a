//! Loading one shard: a snapshot taken at its place in the store's queue, scanned off the queue.
//!
//! The load goes through the queue so that a commit left behind by the shard's killed predecessor lands before
//! the snapshot, or is refused by the new epoch.

use super::ShardEpoch;
use super::codec::{ChunkStates, Head};
use super::engine::{Dirty, Engine, chunk_states};
use super::error::StoreError;
use super::fold::by_place;
use super::schema::{HEAD, STATE};
use redb::{ReadTransaction, ReadableDatabase};
use ron_core::ids::{ShardId, Slot};
use ron_core::message::{MsgState, Recovered};
use ron_core::reprocess::Task;
use ron_core::shard::TopicState;
use std::collections::BTreeMap;
use tokio::sync::OwnedSemaphorePermit;

/// A snapshot to load one shard from.
#[derive(Debug)]
pub struct LoadJob {
    txn: ReadTransaction,
    shard: ShardId,
    /// What the shard must sign its work with from now on.
    pub epoch: ShardEpoch,
    /// (chunk, changes that its state row does not have yet), ascending.
    chunks: Vec<(u64, Dirty)>,
    /// Those that are kept in memory alone.
    ram: BTreeMap<u64, (Head, Dirty)>,
    /// Live idempotency keys.
    pub dedup_keys: u64,
    /// What an operator set for the topic; `None` = it does not exist yet.
    pub topic: Option<TopicState>,
    /// Whether the topic was deleted: it comes back under another number, if at all.
    pub deleted: bool,
    /// Its tasks, by number.
    pub tasks: BTreeMap<u64, Task>,
    /// One of the loads that may go on at a time.
    _turn: Option<OwnedSemaphorePermit>,
}

impl Engine {
    /// Opens a snapshot for `shard` and makes its older writers ghosts.
    ///
    /// # Errors
    /// The database's.
    pub(crate) fn snapshot(&mut self, shard: ShardId) -> Result<LoadJob, StoreError> {
        let epoch = self.epochs.get(&shard).copied().unwrap_or_default().loaded();
        self.epochs.insert(shard, epoch);
        let known =
            self.by_shard.get(&shard).map(|known| known.alive(|chunk| self.chunks.contains_key(&chunk)));
        let mut known = known.unwrap_or_default();
        known.sort_unstable(); // those taken over from another engine came last
        let ram = known.iter().filter_map(|chunk| Some((*chunk, self.volatile.chunk(*chunk)?))).collect();
        let chunks = known.into_iter().map(|chunk| (chunk, self.unfolded(chunk))).collect();
        let txn = self.db.begin_read()?;
        let dedup_keys = self.dedup.live(shard);
        let topic = self.topics.get(&shard).map(|row| row.state);
        let deleted = self.is_deleted(shard);
        let tasks = self.tasks.get(&shard).cloned().unwrap_or_default();
        Ok(LoadJob { txn, shard, epoch, chunks, ram, dedup_keys, topic, deleted, tasks, _turn: None })
    }
}

impl LoadJob {
    /// The same, holding its turn for as long as it lives.
    pub(super) fn within(self, turn: OwnedSemaphorePermit) -> LoadJob {
        LoadJob { _turn: Some(turn), ..self }
    }

    /// Whether there is nothing to read: the topic is new, or holds no message.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty() && self.ram.is_empty()
    }

    /// The state of one message, if it is there and was ever handed out. Blocks.
    ///
    /// # Errors
    /// The database's, or a damaged row.
    pub fn state_of(&self, slot: Slot) -> Result<Option<MsgState>, StoreError> {
        let (chunk, place) = (slot.chunk(), slot.idx());
        if let Some((_, kept)) = self.ram.get(&chunk) {
            return Ok(kept.get(&place).copied().flatten());
        }
        let Some((_, unfolded)) = self.chunks.iter().find(|(one, _)| *one == chunk) else { return Ok(None) };
        if let Some(state) = unfolded.get(&place) {
            return Ok(*state);
        }
        let states = self.txn.open_table(STATE)?;
        let folded = states.get(chunk)?.map(|row| chunk_states(chunk, row.value())).transpose()?;
        Ok(folded.and_then(|folded| by_place(&folded).get(&place).copied().flatten()))
    }

    /// Calls `each` with every live message of the shard, in the order of their places. Blocks.
    ///
    /// # Errors
    /// The database's, or a damaged row.
    pub fn run(mut self, each: &mut dyn FnMut(Recovered)) -> Result<(), StoreError> {
        let heads = self.txn.open_table(HEAD)?;
        let states = self.txn.open_table(STATE)?;
        for (chunk, unfolded) in self.chunks {
            let (head, fate) = match self.ram.remove(&chunk) {
                Some(kept) => kept,
                None => {
                    let Some(row) = heads.get(chunk)? else { continue };
                    let head = Head::decode(chunk, row.value())?;
                    let folded = match states.get(chunk)? {
                        Some(row) => chunk_states(chunk, row.value())?,
                        None => ChunkStates::default(),
                    };
                    let mut fate = by_place(&folded);
                    fate.extend(unfolded);
                    (head, fate)
                }
            };
            for run in head.runs.iter().filter(|run| run.shard == self.shard) {
                for idx in run.first..run.first.saturating_add(run.count) {
                    let state = match fate.get(&idx) {
                        Some(None) => continue,
                        Some(Some(state)) => Some(*state),
                        None => None,
                    };
                    if let Some(message) = head.recovered(chunk, idx, state) {
                        each(message);
                    }
                }
            }
        }
        Ok(())
    }
}
