//! The store itself, synchronous: one redb file, what RAM knows about it, and one commit for all that waits.
//!
//! RAM is changed first and the transaction committed after; an engine whose commit failed is poisoned and must
//! be dropped and opened anew. Nothing here knows actors.

use super::backend::Medium;
use super::chunks::{ChunkInfo, ShardChunks};
use super::codec::{ChunkStates, Delta, open_value, seal_value};
use super::cut::{CutChunk, part_count, parts};
use super::error::{StoreError, UnitFailure};
use super::fanout::{Copies, ListEdit};
use super::identity::Identity;
use super::journal::Journal;
use super::letters::write_letters;
use super::prepare::Batch;
use super::read::{ChunkImage, Reader};
use super::recover::{BootCounts, ClockFrom, Opening};
use super::refs::References;
use super::schema::{BODY, DEDUP, DELTA, HEAD, META, STATE, TASK, TOPIC, body_key};
use super::still::Still;
use super::topics::Topics;
use super::txn::Txn;
use super::volatile::Volatile;
use super::{ShardEpoch, StoreConfig};
use redb::{Database, WriteTransaction};
use ron_core::dedup::Dedup;
use ron_core::ids::{QueueKey, ShardId, Slot};
use ron_core::message::{MsgState, NewMessage, PutOutcome, StateOp};
use ron_core::reprocess::{TASKS_KEPT, Task};
use ron_core::shard::TopicState;
use ron_core::time::{Clock, Millis};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// What one shard wants committed, without who is told.
#[derive(Debug, Default)]
pub struct Work {
    /// Whose work it is; must be the epoch of the shard's last load.
    pub epoch: ShardEpoch,
    /// The topic's row, at its first use and when an operator changed it.
    pub topic: Option<TopicRow>,
    /// Messages to store.
    pub puts: Vec<NewMessage>,
    /// State changes.
    pub ops: Vec<StateOp>,
    /// A task's row.
    pub task: Option<Box<Task>>,
    /// The topic is gone: its messages by the ops, all else by this.
    pub delete: bool,
    /// A change of the topic's list of subscribers.
    pub edit: Option<Box<ListEdit>>,
    /// Copies of another topic's messages.
    pub copies: Option<Box<Copies>>,
    /// When the shard was loaded, if its lease clocks had stood still: what it moved is in here, or nothing had
    /// to be, and [`BootCounts::still_since`] of before is forgotten.
    pub clocks_go_on: Option<Millis>,
    /// Whether the messages are kept in memory alone.
    pub ram: bool,
}

impl Work {
    fn is_empty(&self) -> bool {
        self.puts.is_empty()
            && self.ops.is_empty()
            && self.topic.is_none()
            && self.task.is_none()
            && self.edit.is_none()
            && self.copies.is_none()
            && !self.delete
    }
}

/// What the store keeps of a topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicRow {
    /// Its name.
    pub key: QueueKey,
    /// What an operator set.
    pub state: TopicState,
}

/// States that differ from the chunk's `STATE` row; `None` = gone.
pub(crate) type Dirty = BTreeMap<u16, Option<MsgState>>;

/// Figures of the store, for operators.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StoreFigures {
    /// Chunks with at least one live message.
    pub chunks: u64,
    /// Live messages, dead letters included.
    pub live: u64,
    /// Chunks that few live messages keep; they are rewritten when the store is idle.
    pub stragglers: u64,
    /// Bytes of the bodies kept.
    pub body_bytes: u64,
    /// Live idempotency keys.
    pub dedup_keys: u64,
    /// Commits since it was opened.
    pub commits: u64,
    /// Of `live`, those that are kept in memory alone.
    pub ram_messages: u64,
    /// Of `body_bytes`, theirs.
    pub ram_bytes: u64,
    /// Of `dedup_keys`, theirs.
    pub ram_keys: u64,
    /// Objects.
    pub objects: u64,
    /// Their bytes.
    pub object_bytes: u64,
    /// Of `objects`, those that messages refer to.
    pub objects_held: u64,
    /// Uploads of objects under way.
    pub object_uploads: u64,
}

impl StoreFigures {
    /// Bytes that a file needs for what lives in it, about: bodies with what they are rounded up by, heads, keys.
    #[must_use]
    pub const fn live_bytes(&self) -> u64 {
        let bodies = self.body_bytes.saturating_sub(self.ram_bytes);
        let rows = (self.live + self.dedup_keys).saturating_sub(self.ram_messages + self.ram_keys);
        bodies + bodies / 4 + rows * 64 + self.object_bytes + self.object_bytes / 4
    }
}

/// An open store.
#[derive(Debug)]
pub struct Engine {
    pub(crate) db: Arc<Database>,
    /// What has been changed since the last checkpoint; `None` = every commit is one.
    pub(crate) journal: Option<Journal>,
    pub(crate) reader: Reader,
    pub(crate) config: StoreConfig,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) durable: bool,
    pub(crate) identity: Identity,
    pub(crate) topics: Topics,
    /// Topics deleted since the store was opened, or nearly: see [`Engine::is_deleted`].
    pub(crate) deleted: BTreeSet<ShardId>,
    /// Above the number of every topic that was ever deleted.
    pub(crate) next_shard: u32,
    pub(crate) tasks: BTreeMap<ShardId, BTreeMap<u64, Task>>,
    pub(crate) still: Still,
    pub(crate) epochs: HashMap<ShardId, ShardEpoch>,
    pub(crate) chunks: HashMap<u64, ChunkInfo>,
    pub(crate) by_shard: HashMap<ShardId, ShardChunks>,
    pub(crate) dedup: Dedup,
    pub(crate) next_chunk: u64,
    /// Chunks below this number are not given again after a crash, whether a row proves them or not.
    pub(crate) reserved: u64,
    pub(crate) volatile: Volatile,
    pub(crate) next_delta: u64,
    /// Node time of the newest commit; enqueue times never fall below it.
    pub(crate) last_commit: Millis,
    /// The newest of which a row is proof: commits of what is in memory alone leave none.
    pub(crate) last_saved: Millis,
    /// Node time the store was last alive before this opening.
    pub(crate) last_alive: Millis,
    pub(crate) delta_bytes: usize,
    pub(crate) dirty: BTreeMap<u64, Dirty>,
    pub(crate) dirty_len: usize,
    pub(crate) folding: BTreeMap<u64, Dirty>,
    pub(crate) folding_upto: u64,
    pub(crate) oldest_unfolded: Option<Millis>,
    pub(crate) stragglers: BTreeSet<u64>,
    /// Whose records live copies stand for.
    pub(crate) refs: References,
    /// Chunks that may have become useless.
    pub(crate) freed: BTreeSet<u64>,
    pub(crate) latest_deadline: Millis,
    pub(crate) dedup_swept: Millis,
    pub(crate) commits: u64,
    pub(crate) poisoned: bool,
}

/// What one commit did, for the metrics and the caller.
#[derive(Debug)]
pub(crate) struct Committed {
    /// One result a work, in the order given.
    pub(crate) results: Vec<Result<Vec<PutOutcome>, UnitFailure>>,
    /// Messages and changes in it; 0 = nothing had to be written.
    pub(crate) size: usize,
}

impl Engine {
    /// Opens the store, repairs it if it must, and rebuilds what RAM knows. Reads no bodies.
    ///
    /// # Errors
    /// [`StoreError`]; a damaged head, state or delta row is named and never passed over.
    pub fn open(
        medium: &dyn Medium,
        config: &StoreConfig,
        clock_from: ClockFrom<'_>,
        opening: Opening,
        reader: &Reader,
    ) -> Result<(Engine, HashMap<ShardId, BootCounts>), StoreError> {
        super::recover::open(medium, config, clock_from, opening, reader)
    }

    /// The facts that receipts and ids need.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Every topic that exists.
    pub fn topics(&self) -> impl Iterator<Item = (ShardId, TopicRow)> {
        self.topics.rows()
    }

    /// The store's figures.
    #[must_use]
    pub fn figures(&self) -> StoreFigures {
        let objects = self.reader.objects().figures();
        let in_ram = self.chunks.iter().filter(|(chunk, _)| Slot::new(**chunk, 0).is_ram());
        StoreFigures {
            chunks: self.chunks.len() as u64,
            live: self.chunks.values().map(|info| u64::from(info.live)).sum(),
            body_bytes: self.chunks.values().map(|info| u64::from(info.body_len)).sum(),
            stragglers: self.stragglers.len() as u64,
            dedup_keys: self.dedup.len() as u64,
            commits: self.commits,
            ram_messages: in_ram.map(|(_, info)| u64::from(info.live)).sum(),
            ram_bytes: self.volatile.bytes() as u64,
            ram_keys: self.dedup.ram_len() as u64,
            objects: objects.count,
            object_bytes: objects.bytes,
            objects_held: objects.held,
            object_uploads: objects.uploads,
        }
    }

    /// Whether an answered commit survives the end of the process.
    #[must_use]
    pub fn durable(&self) -> bool {
        self.durable
    }

    /// The lease clocks of a shard stand still since `since`: the next commit says so.
    pub(crate) fn stands_still(&mut self, shard: ShardId, since: Millis) {
        // The last actor of a deleted topic may have stopped meanwhile: there is nothing left that stands still.
        if !self.is_deleted(shard) {
            self.still.stands(shard, since);
        }
    }

    /// Whether the topic was deleted since the store was opened. Its number is not used again.
    pub(crate) fn is_deleted(&self, shard: ShardId) -> bool {
        self.deleted.contains(&shard) && !self.topics.contains(shard)
    }

    /// Live idempotency keys of a topic.
    #[must_use]
    pub fn dedup_keys(&self, shard: ShardId) -> u64 {
        self.dedup.live(shard)
    }

    /// Commits all of `work` in one transaction. Results come in the order given.
    ///
    /// # Errors
    /// After an error nothing is known about any of them, and this engine must be dropped.
    pub(crate) fn commit(&mut self, work: &mut [(ShardId, Work)]) -> Result<Committed, StoreError> {
        if self.poisoned {
            return Err(StoreError::Reopening);
        }
        let mut results: Vec<Result<Vec<PutOutcome>, UnitFailure>> = Vec::with_capacity(work.len());
        for (shard, work) in work.iter() {
            let refused = match self.epochs.get(shard) {
                Some(current) => current.refuses(work.epoch),
                None => Some(UnitFailure::StaleEpoch),
            };
            results.push(refused.map_or_else(|| Ok(Vec::new()), Err));
        }
        let busy =
            |(index, (_, work)): &(usize, &(ShardId, Work))| results[*index].is_ok() && !work.is_empty();
        for ((shard, work), _) in work.iter().zip(&results).filter(|(_, result)| result.is_ok()) {
            work.clocks_go_on.into_iter().for_each(|loaded| self.still.goes_on(*shard, loaded));
        }
        if !self.still.is_changed() && !work.iter().enumerate().any(|item| busy(&item)) {
            return Ok(Committed { results, size: 0 });
        }
        self.poisoned = true; // until the transaction is through
        let mut batch = self.prepare(work, &mut results);
        if batch.needs_disk || self.still.is_changed() {
            self.write(&mut batch, work, &results)?;
        }
        self.settle_ram(std::mem::take(&mut batch.chunks));
        self.settle_volatile(&mut batch, work, &results);
        self.commits += 1;
        self.poisoned = false;
        Ok(Committed { results, size: batch.size })
    }

    fn write(
        &mut self,
        batch: &mut Batch,
        work: &[(ShardId, Work)],
        results: &[Result<Vec<PutOutcome>, UnitFailure>],
    ) -> Result<(), StoreError> {
        let txn = self.begin()?;
        let accepted = || work.iter().zip(results).filter(|(_, result)| result.is_ok()).map(|(item, _)| item);
        for (shard, work) in accepted() {
            if let Some(row) = work.topic.as_ref().filter(|row| !self.topics.has(*shard, row)) {
                txn.open_table(TOPIC)?.insert(shard.0, &seal_value(row))?;
                self.topics.insert(*shard, row);
            }
            if work.delete {
                self.forget_topic(&txn, *shard)?;
            }
            if let Some(task) = &work.task {
                let mut table = txn.open_table(TASK)?;
                table.insert((shard.0, task.number), &seal_value(task.as_ref()))?;
                let tasks = self.tasks.entry(*shard).or_default();
                tasks.insert(task.number, task.as_ref().clone());
                // the oldest is over: only the newest can run
                if tasks.len() > TASKS_KEPT
                    && let Some((oldest, _)) = tasks.pop_first()
                {
                    table.remove((shard.0, oldest))?;
                }
            }
        }
        self.write_fans(&txn, &batch.touched)?;
        self.still.save(&txn)?;
        if batch.reserve_to > self.reserved {
            self.reserved = batch.reserve_to;
            txn.mark("next_chunk", &self.reserved)?;
        }
        write_chunks(&txn, &batch.chunks)?;
        if !batch.keys.is_empty() {
            let mut table = txn.open_table(DEDUP)?;
            for (key, rows) in &batch.keys {
                table.insert(*key, &seal_value(rows))?;
            }
        }
        if !batch.delta.runs.is_empty() {
            let row = seal_value(&batch.delta);
            self.delta_bytes += row.len();
            txn.open_table(DELTA)?.insert(self.next_delta, &row)?;
            self.next_delta += 1;
            self.oldest_unfolded.get_or_insert(batch.now);
            for (shard, work) in accepted() {
                write_letters(&txn, *shard, &work.ops)?;
            }
            self.apply_delta(&batch.delta);
        }
        self.let_go(&txn)?;
        if self.fold_is_due_now() {
            self.fold_slice(&txn)?;
        }
        self.finish_batch(txn, batch)
    }

    /// Removes what is left of a topic beside its messages.
    fn forget_topic(&mut self, txn: &Txn, shard: ShardId) -> Result<(), StoreError> {
        if !ron_core::planted!(DeletedTopicReturns) {
            txn.open_table(TOPIC)?.remove(shard.0)?;
        }
        txn.open_table(TASK)?.remove_range((shard.0, 0), (shard.0.saturating_add(1), 0))?;
        self.next_shard = self.next_shard.max(shard.0.saturating_add(1));
        txn.mark("next_shard", &self.next_shard)?;
        self.topics.remove(shard);
        self.tasks.remove(&shard);
        self.by_shard.remove(&shard);
        // Their rows stay until they expire; nothing reads those of a topic that is not there.
        self.dedup.remove_shard(shard);
        self.still.forget(shard);
        self.deleted.insert(shard);
        Ok(())
    }

    /// Brings the state changes into RAM.
    fn apply_delta(&mut self, delta: &Delta) {
        self.objects_gone(delta);
        for run in &delta.runs {
            let chunk = run.first.chunk();
            let Some(info) = self.chunks.get_mut(&chunk) else { continue };
            let places = run.first.idx()..run.first.idx() + run.count;
            if let Some(state) = run.state {
                if state.phase == ron_core::message::Phase::Leased {
                    self.latest_deadline = self.latest_deadline.max(state.at);
                }
            } else {
                info.live = info.live.saturating_sub(run.count);
                self.freed.insert(chunk);
                // The last copy of a message lets go of its record.
                self.freed.extend(places.clone().filter_map(|idx| self.refs.gone(Slot::new(chunk, idx))));
            }
            let dirty = self.dirty.entry(chunk).or_default();
            let before = dirty.len();
            dirty.extend(places.map(|idx| (idx, run.state)));
            self.dirty_len += dirty.len() - before;
        }
    }

    /// Removes the chunks that nobody needs any more: nothing in them lives, no copy stands for a record of them,
    /// nobody waits for one. Notes those that few messages keep.
    pub(crate) fn let_go(&mut self, txn: &Txn) -> Result<(), StoreError> {
        let mut dead = Vec::new();
        {
            let mut fans = self.reader.fans().lock();
            self.freed.extend(fans.take_released());
            for chunk in std::mem::take(&mut self.freed) {
                let Some(info) = self.chunks.get(&chunk) else { continue };
                let needed = u32::from(info.live) + self.refs.records(chunk);
                if needed == 0 && !fans.holds(chunk) {
                    self.stragglers.remove(&chunk);
                    dead.push(chunk);
                } else if needed * 4 < u32::from(info.kept) && info.body_len > 0 {
                    self.stragglers.insert(chunk);
                }
            }
        }
        self.remove_chunks(txn, &dead)
    }

    /// Removes chunks from the tables and from RAM.
    fn remove_chunks(&mut self, txn: &Txn, dead: &[u64]) -> Result<(), StoreError> {
        if dead.is_empty() {
            return Ok(());
        }
        let mut head = txn.open_table(HEAD)?;
        let mut body = txn.open_table(BODY)?;
        let mut state = txn.open_table(STATE)?;
        for chunk in dead {
            head.remove(chunk)?;
            state.remove(chunk)?;
            if let Some(info) = self.chunks.remove(chunk) {
                for part in 0..part_count(info.body_len) {
                    body.remove(body_key(*chunk, part))?;
                }
            }
            if let Some(dirty) = self.dirty.remove(chunk) {
                self.dirty_len -= dirty.len();
            }
            self.folding.remove(chunk);
            self.refs.forget(*chunk);
        }
        // Who still reads one finds it in the tables until this is committed, and if it never is, nothing is kept.
        self.reader.forget(dead.iter().copied());
        Ok(())
    }

    /// After the transaction: what was written is known, and its bodies are in the cache.
    fn settle_ram(&mut self, chunks: Vec<CutChunk>) {
        for CutChunk { chunk, head, body } in chunks {
            let count = head.entries.len() as u16;
            self.chunks.insert(chunk, ChunkInfo { live: count, kept: count, body_len: head.body_len });
            for run in &head.runs {
                let known = self.by_shard.entry(run.shard).or_default();
                known.push(chunk, |chunk| self.chunks.contains_key(&chunk));
            }
            self.reader.remember(chunk, ChunkImage::new(&head, body));
            self.objects_held(chunk, &head);
            self.fan_out(chunk, &head);
        }
    }
}

fn write_chunks(txn: &Txn, chunks: &[CutChunk]) -> Result<(), StoreError> {
    if chunks.is_empty() {
        return Ok(());
    }
    let mut heads = txn.open_table(HEAD)?;
    let mut bodies = txn.open_table(BODY)?;
    for cut in chunks {
        heads.insert(cut.chunk, &cut.head.encode())?;
        for (part, bytes) in parts(&cut.body) {
            bodies.insert(body_key(cut.chunk, part), bytes)?;
        }
    }
    Ok(())
}

/// Reads a chunk's folded states.
pub(crate) fn chunk_states(chunk: u64, row: &[u8]) -> Result<ChunkStates, StoreError> {
    open_value(row).map_err(|why| StoreError::damaged("state", chunk, why))
}

/// Writes one value of `META`.
pub(crate) fn write_meta<T: Serialize>(
    txn: &WriteTransaction,
    name: &str,
    value: &T,
) -> Result<(), StoreError> {
    txn.open_table(META)?.insert(name, seal_value(value).as_slice())?;
    Ok(())
}
