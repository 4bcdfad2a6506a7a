//! Loading one shard, as it is at its place in the store's queue.
//!
//! The load goes through the queue so that a commit left behind by the shard's killed predecessor lands
//! before it, or is refused by the new epoch. What a shard with little in it holds is read right there, by
//! the thread that commits: a transaction and the chunks' heads are shared by all loads of a turn, and nobody
//! has to be woken up for it. More than that is read from a snapshot, on a thread of its own.

use super::ShardEpoch;
use super::codec::Head;
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

/// What all loads of a turn may cost ([`StoreConfig::load_cost_max`](super::StoreConfig)), but for the last of
/// them: what they read holds up the next commit.
const TURN_COST_MAX: u64 = 256;

/// What a shard is loaded from.
#[derive(Debug)]
pub struct LoadJob {
    /// What the shard must sign its work with from now on.
    pub epoch: ShardEpoch,
    /// What an operator set for the topic; `None` = it does not exist yet.
    pub topic: Option<TopicState>,
    /// Whether the topic was deleted: it comes back under another number, if at all.
    pub deleted: bool,
    /// Its tasks, by number.
    pub tasks: BTreeMap<u64, Task>,
    messages: Messages,
    /// One of the loads that may go on at a time.
    _turn: Option<OwnedSemaphorePermit>,
}

#[derive(Debug)]
enum Messages {
    /// All live ones, in the order of their places.
    Read(Vec<Recovered>),
    Unread(Snapshot),
}

/// Messages as they are in the store at one moment.
#[derive(Debug)]
struct Snapshot {
    txn: ReadTransaction,
    shard: ShardId,
    /// (chunk, changes that its state row does not have yet), ascending.
    chunks: Vec<(u64, Dirty)>,
    /// Those that are kept in memory alone.
    ram: BTreeMap<u64, (Head, Dirty)>,
}

/// What the loads of one turn share: what they have read.
#[derive(Default)]
pub(super) struct Reading {
    txn: Option<ReadTransaction>,
    cost: u64,
    chunks: BTreeMap<u64, Option<(Head, Dirty)>>,
}

impl Engine {
    /// A snapshot to load `shard` from; its older writers are ghosts from now on.
    ///
    /// # Errors
    /// The database's.
    pub(crate) fn snapshot(&mut self, shard: ShardId) -> Result<LoadJob, StoreError> {
        let (txn, chunks) = (self.db.begin_read()?, self.chunks_of(shard));
        let ram = chunks.iter().filter_map(|chunk| Some((*chunk, self.volatile.chunk(*chunk)?))).collect();
        let chunks = chunks.into_iter().map(|chunk| (chunk, self.unfolded(chunk))).collect();
        Ok(self.load_of(shard, Messages::Unread(Snapshot { txn, shard, chunks, ram })))
    }

    /// The same, read already; `None` if that is too much for a turn.
    ///
    /// # Errors
    /// The database's, or a damaged row.
    pub(super) fn load_within(
        &mut self,
        shard: ShardId,
        reading: &mut Reading,
    ) -> Result<Option<LoadJob>, StoreError> {
        let chunks = self.chunks_of(shard);
        if chunks.iter().map(|chunk| self.cost_of(*chunk)).sum::<u64>() > self.config.load_cost_max {
            return Ok(None);
        }
        let mut messages = Vec::new();
        let read = || {
            for chunk in chunks {
                if let Some((head, fate)) = reading.chunk(self, chunk)? {
                    live(head, chunk, shard, fate, &mut |message| messages.push(message));
                }
            }
            Ok(())
        };
        // Below redb's own errors a damaged page can be a panic, and others' commits are in this turn.
        let read = std::panic::catch_unwind(std::panic::AssertUnwindSafe(read));
        read.unwrap_or(Err(StoreError::Reopening))?;
        Ok(Some(self.load_of(shard, Messages::Read(messages))))
    }

    /// What it costs to read who is in a chunk.
    fn cost_of(&self, chunk: u64) -> u64 {
        self.chunks.get(&chunk).map_or(1, |info| 1 + u64::from(info.kept) / 64)
    }

    /// The chunks that may hold messages of a shard, ascending.
    fn chunks_of(&self, shard: ShardId) -> Vec<u64> {
        let known = self.by_shard.get(&shard);
        let known = known.map(|known| known.alive(|chunk| self.chunks.contains_key(&chunk)));
        let mut known = known.unwrap_or_default();
        known.sort_unstable(); // those taken over from another engine came last
        known
    }

    fn load_of(&mut self, shard: ShardId, messages: Messages) -> LoadJob {
        let epoch = self.epochs.get(&shard).copied().unwrap_or_default().loaded();
        self.epochs.insert(shard, epoch);
        let topic = self.topics.state(shard);
        let deleted = self.is_deleted(shard);
        let tasks = self.tasks.get(&shard).cloned().unwrap_or_default();
        LoadJob { epoch, topic, deleted, tasks, messages, _turn: None }
    }
}

impl Reading {
    /// Whether the turn has read enough.
    pub(super) fn is_enough(&self) -> bool {
        self.cost >= TURN_COST_MAX
    }

    /// A chunk's head, and what became of its messages.
    fn chunk(&mut self, engine: &Engine, chunk: u64) -> Result<Option<&(Head, Dirty)>, StoreError> {
        if !self.chunks.contains_key(&chunk) {
            let read = match engine.volatile.chunk(chunk) {
                Some(kept) => Some(kept),
                None => {
                    let txn = self.txn.take().map_or_else(|| engine.db.begin_read(), Ok)?;
                    head_of(self.txn.insert(txn), chunk, engine.unfolded(chunk))?
                }
            };
            self.chunks.insert(chunk, read);
            self.cost += engine.cost_of(chunk);
        }
        Ok(self.chunks.get(&chunk).and_then(Option::as_ref))
    }
}

impl LoadJob {
    /// The same, holding its turn for as long as it lives.
    pub(super) fn within(self, turn: OwnedSemaphorePermit) -> LoadJob {
        LoadJob { _turn: Some(turn), ..self }
    }

    /// Whether there is nothing left to read.
    #[must_use]
    pub fn is_read(&self) -> bool {
        matches!(self.messages, Messages::Read(_))
    }

    /// The state of one message, if it is there and was ever handed out. Blocks, unless all is read.
    ///
    /// # Errors
    /// The database's, or a damaged row.
    pub fn state_of(&self, slot: Slot) -> Result<Option<MsgState>, StoreError> {
        let snapshot = match &self.messages {
            Messages::Read(messages) => {
                let found = messages.iter().find(|message| message.stored.slot == slot);
                return Ok(found.and_then(|message| message.state));
            }
            Messages::Unread(snapshot) => snapshot,
        };
        let (chunk, place) = (slot.chunk(), slot.idx());
        if let Some((_, kept)) = snapshot.ram.get(&chunk) {
            return Ok(kept.get(&place).copied().flatten());
        }
        let Some((_, unfolded)) = snapshot.chunks.iter().find(|(one, _)| *one == chunk) else {
            return Ok(None);
        };
        if let Some(state) = unfolded.get(&place) {
            return Ok(*state);
        }
        let states = snapshot.txn.open_table(STATE)?;
        let folded = states.get(chunk)?.map(|row| chunk_states(chunk, row.value())).transpose()?;
        Ok(folded.and_then(|folded| by_place(&folded).get(&place).copied().flatten()))
    }

    /// Calls `each` with every live message of the shard, in the order of their places. Blocks, unless all is
    /// read.
    ///
    /// # Errors
    /// The database's, or a damaged row.
    pub fn run(self, each: &mut dyn FnMut(Recovered)) -> Result<(), StoreError> {
        let Snapshot { txn, shard, chunks, mut ram } = match self.messages {
            Messages::Read(messages) => {
                messages.into_iter().for_each(each);
                return Ok(());
            }
            Messages::Unread(snapshot) => snapshot,
        };
        for (chunk, unfolded) in chunks {
            let read = match ram.remove(&chunk) {
                Some(kept) => Some(kept),
                None => head_of(&txn, chunk, unfolded)?,
            };
            if let Some((head, fate)) = read {
                live(&head, chunk, shard, &fate, each);
            }
        }
        Ok(())
    }
}

/// A chunk's head, and what became of its messages: what its row says, and `unfolded` on top; `None` if there
/// is no such chunk.
fn head_of(txn: &ReadTransaction, chunk: u64, unfolded: Dirty) -> Result<Option<(Head, Dirty)>, StoreError> {
    let Some(row) = txn.open_table(HEAD)?.get(chunk)? else { return Ok(None) };
    let head = Head::decode(chunk, row.value())?;
    let folded =
        txn.open_table(STATE)?.get(chunk)?.map(|row| chunk_states(chunk, row.value())).transpose()?;
    let mut fate = folded.map(|folded| by_place(&folded)).unwrap_or_default();
    fate.extend(unfolded);
    Ok(Some((head, fate)))
}

/// Calls `each` with the messages of `shard` in a chunk that are alive.
fn live(head: &Head, chunk: u64, shard: ShardId, fate: &Dirty, each: &mut dyn FnMut(Recovered)) {
    for run in head.runs.iter().filter(|run| run.shard == shard) {
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
