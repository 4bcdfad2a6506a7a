//! Opening a store: repair, identity, and what RAM must know, rebuilt from heads, states and deltas. No body is
//! read, so it takes as long as the number of chunks, not of bytes.

use super::StoreConfig;
use super::backend::Medium;
use super::chunks::{ChunkInfo, ShardChunks};
use super::codec::{ChunkStates, Delta, Head, open_value};
use super::engine::{Dirty, Engine, chunk_states, write_meta};
use super::error::StoreError;
use super::fanout::read_fans;
use super::fold::by_place;
use super::identity::{self, Identity};
use super::journal::Journal;
use super::objects;
use super::read::Reader;
use super::refs::References;
use super::schema::{
    BODY, DEDUP, DELTA, DLQ, FAN, FORMAT, FORMAT_TAKEN_OVER, HEAD, LIST, META, NOTE, OBJECT, OBJECT_PART,
    STATE, STILL, SUBS, TASK, TOPIC,
};
use super::still::Still;
use super::topics::Topics;
use super::txn::Txn;
use super::volatile::Volatile;
use super::volume::Volume;
use redb::{Database, ReadableTable, WriteTransaction};
use ron_core::dedup::{Dedup, DedupRow};
use ron_core::fanout::{Fans, Touched};
use ron_core::ids::{ShardId, Slot};
use ron_core::message::{MsgState, Phase};
use ron_core::objects::Objects;
use ron_core::reprocess::Task;
use ron_core::shard::Settings;
use ron_core::time::{Clock, Millis};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// What a topic held when the store was opened, so that figures need no load.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BootCounts {
    /// Never handed out, or handed back.
    pub ready: u64,
    /// Not before their time.
    pub delayed: u64,
    /// Leased when the store closed.
    pub vis: u64,
    /// Dead letters.
    pub dlq: u64,
    /// When the oldest live message was enqueued.
    pub oldest_enqueued: Option<Millis>,
    /// The first end of a TTL among what is ready.
    pub first_expiry: Option<Millis>,
    /// When the oldest dead letter was dead-lettered.
    pub oldest_dead: Option<Millis>,
    /// Whether a task of it runs.
    pub task_runs: bool,
    /// Since when its lease clocks stand still.
    pub still_since: Option<Millis>,
}

/// Why a store is opened.
#[derive(Debug, Clone, Copy)]
pub enum Opening {
    /// A node boots: nobody could settle a lease since the store was last alive.
    Boot {
        /// For the identity of a store that does not exist yet.
        entropy: [u8; 40],
    },
    /// It was open in this life and had failed.
    Again,
}

/// Where the clock of a store comes from: the argument is the node time it was last alive.
pub type ClockFrom<'a> = &'a dyn Fn(Millis) -> Arc<dyn Clock>;

pub(crate) fn open(
    medium: &dyn Medium,
    config: &StoreConfig,
    clock_from: ClockFrom<'_>,
    opening: Opening,
    reader: &Reader,
) -> Result<(Engine, HashMap<ShardId, BootCounts>), StoreError> {
    let volume = open_volume(medium, config)?;
    let txn = volume.db.begin_write()?;
    let identity = create_tables(&txn, opening)?;
    let journal = replayed(&volume, &txn)?;
    let topics = read_topics(&txn)?;
    let fans = read_fans(&txn, |shard| topics.contains(shard))?;
    let mut found = Found { fans, ..Found::default() };
    found.objects = objects::recover(&txn, config.objects)?;
    found.read_deltas(&txn)?;
    found.read_heads(&txn)?;
    let proven = read_meta(&txn, "next_chunk")?.filter(|_| !ron_core::planted!(PlacesGivenAgain));
    let next_chunk = proven.unwrap_or(0).max(found.next_chunk);
    let last_alive = read_meta::<Millis>(&txn, "node_time")?.unwrap_or_default().max(found.last_alive);
    let tasks = found.tasks(&txn)?;
    let next_shard = read_meta(&txn, "next_shard")?.unwrap_or(0);
    let still = found.lease_clocks(&txn, opening, last_alive)?;
    let clock = clock_from(last_alive);
    let now = clock.now().max(last_alive);
    let freed = found.chunks.iter().filter(|(_, info)| info.live == 0).map(|(chunk, _)| *chunk).collect();
    let mut engine = Engine {
        db: Arc::new(volume.db),
        journal,
        reader: reader.clone(),
        config: config.clone(),
        clock,
        durable: medium.durable(),
        identity,
        topics,
        tasks,
        deleted: BTreeSet::new(),
        next_shard,
        still,
        epochs: HashMap::new(),
        chunks: found.chunks,
        by_shard: found.by_shard,
        dedup: Dedup::new(config.dedup_keys_max, config.dedup_keys_topic_max),
        next_chunk,
        reserved: 0,
        volatile: Volatile::default(),
        next_delta: found.next_delta,
        last_commit: now,
        last_saved: now,
        last_alive,
        delta_bytes: 0,
        dirty_len: found.dirty.values().map(Dirty::len).sum(),
        dirty: found.dirty,
        folding: BTreeMap::new(),
        folding_upto: 0,
        oldest_unfolded: None,
        stragglers: found.stragglers,
        refs: found.refs,
        // Each of them: what a crash left useless is found by looking.
        freed,
        latest_deadline: found.latest_deadline,
        dedup_swept: now,
        commits: 0,
        poisoned: false,
    };
    reader.objects().replace(found.objects);
    engine.tidy_up(Txn::unlisted(txn), now, found.fans)?;
    Ok((engine, found.counts))
}

fn open_volume(medium: &dyn Medium, config: &StoreConfig) -> Result<Volume, StoreError> {
    let mut builder = Database::builder();
    builder.set_cache_size(config.cache_bytes);
    // redb may panic on a file that something else has damaged.
    let open = || medium.open(&mut builder, config.journal_bytes);
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(open))
        .unwrap_or_else(|_| Err(StoreError::damaged("file", "-", "the engine panicked while opening it")))
}

/// The store's journal, after all that it holds has been done in the tables.
fn replayed(volume: &Volume, txn: &WriteTransaction) -> Result<Option<Journal>, StoreError> {
    let Some((epoch, key)) = volume.replay(txn)? else { return Ok(None) };
    Ok(volume.journal.clone().map(|stretch| Journal::begin(stretch, &key, epoch)))
}

pub(super) fn create_tables(txn: &WriteTransaction, opening: Opening) -> Result<Identity, StoreError> {
    txn.open_table(HEAD)?;
    txn.open_table(BODY)?;
    txn.open_table(DELTA)?;
    txn.open_table(STATE)?;
    txn.open_table(NOTE)?;
    txn.open_table(DLQ)?;
    txn.open_table(DEDUP)?;
    txn.open_table(TOPIC)?;
    txn.open_table(TASK)?;
    txn.open_table(STILL)?;
    txn.open_table(LIST)?;
    txn.open_table(SUBS)?;
    txn.open_table(FAN)?;
    txn.open_table(OBJECT)?;
    txn.open_table(OBJECT_PART)?;
    let format: Option<u32> = read_meta(txn, "format")?;
    match format {
        None => {
            let Opening::Boot { entropy } = opening else {
                return Err(StoreError::damaged("meta", "format", "missing"));
            };
            let (incarnation, key) = entropy.split_at(8);
            let incarnation: [u8; 8] = incarnation.try_into().unwrap_or_default();
            let key: [u8; 32] = key.try_into().unwrap_or_default();
            write_meta(txn, "format", &FORMAT)?;
            write_meta(txn, "incarnation", &u64::from_le_bytes(incarnation))?;
            write_meta(txn, identity::RECEIPT_KEY, &key)?;
        }
        Some(found) if found > FORMAT => return Err(StoreError::NewerFormat { found, known: FORMAT }),
        Some(FORMAT_TAKEN_OVER) => write_meta(txn, "format", &FORMAT)?,
        Some(found) if found < FORMAT => return Err(StoreError::OlderFormat { found, known: FORMAT }),
        Some(_) => {}
    }
    if identity::is_snapshot(txn)? {
        return Err(StoreError::IsSnapshot);
    }
    Identity::read(&txn.open_table(META)?)
}

fn read_meta<T: serde::de::DeserializeOwned>(
    txn: &WriteTransaction,
    name: &'static str,
) -> Result<Option<T>, StoreError> {
    let table = txn.open_table(META)?;
    let row = table.get(name)?;
    row.map(|row| open_value(row.value()).map_err(|why| StoreError::damaged("meta", name, why))).transpose()
}

fn read_topics(txn: &WriteTransaction) -> Result<Topics, StoreError> {
    let mut topics = Topics::default();
    for row in txn.open_table(TOPIC)?.iter()? {
        let (shard, value) = row?;
        let shard = shard.value();
        let row = open_value(value.value()).map_err(|why| StoreError::damaged("topic", shard, why))?;
        topics.insert(ShardId(shard), &row);
    }
    Ok(topics)
}

fn read_tasks(txn: &WriteTransaction) -> Result<BTreeMap<ShardId, BTreeMap<u64, Task>>, StoreError> {
    let mut tasks: BTreeMap<ShardId, BTreeMap<u64, Task>> = BTreeMap::new();
    for row in txn.open_table(TASK)?.iter()? {
        let (key, value) = row?;
        let (shard, number) = key.value();
        let task = open_value(value.value())
            .map_err(|why| StoreError::damaged("task", format!("{shard}/{number}"), why))?;
        tasks.entry(ShardId(shard)).or_default().insert(number, task);
    }
    Ok(tasks)
}

impl Engine {
    /// The first commit: what has expired is dropped, and everything folded, so that a shard's load replays nothing.
    fn tidy_up(&mut self, txn: Txn, now: Millis, mut fans: Fans) -> Result<(), StoreError> {
        let mut touched = Touched::default();
        fans.settle(&mut touched);
        self.reader.fans().replace(fans);
        self.write_fans(&txn, &touched)?;
        self.let_go(&txn)?;
        self.sweep_dedup(&txn, now)?;
        self.read_dedup(txn.inner(), now)?;
        // Everything folded: each shard's load then replays nothing.
        while !(self.dirty.is_empty() && self.folding.is_empty()) {
            self.fold_slice(&txn)?;
        }
        self.still.save(&txn)?;
        // What is proven, not what time it is: nothing has been answered by the new life yet.
        self.save_marks(&txn, self.last_alive)?;
        self.checkpoint(txn)?;
        self.reader.clear();
        self.reader.attach(Some(self.db.clone()));
        Ok(())
    }

    fn read_dedup(&mut self, txn: &WriteTransaction, now: Millis) -> Result<(), StoreError> {
        let ends = self.clock.ends_by(now);
        for row in txn.open_table(DEDUP)?.iter()? {
            let (key, value) = row?;
            let damaged = |why| StoreError::damaged("dedup", format!("{:?}", key.value()), why);
            let rows: Vec<DedupRow> = open_value(value.value()).map_err(damaged)?;
            let lives = |row: &DedupRow| row.expires > ends && self.topics.contains(row.shard);
            rows.into_iter().filter(lives).for_each(|row| self.dedup.restore(row));
        }
        Ok(())
    }
}

/// What the tables say, gathered row by row.
#[derive(Default)]
struct Found {
    dirty: BTreeMap<u64, Dirty>,
    chunks: HashMap<u64, ChunkInfo>,
    by_shard: HashMap<ShardId, ShardChunks>,
    stragglers: BTreeSet<u64>,
    refs: References,
    fans: Fans,
    objects: Objects,
    counts: HashMap<ShardId, BootCounts>,
    next_chunk: u64,
    next_delta: u64,
    last_alive: Millis,
    latest_deadline: Millis,
}

impl Found {
    /// The tasks of all topics.
    fn tasks(
        &mut self,
        txn: &WriteTransaction,
    ) -> Result<BTreeMap<ShardId, BTreeMap<u64, Task>>, StoreError> {
        let tasks = read_tasks(txn)?;
        for (shard, _) in tasks.iter().filter(|(_, tasks)| tasks.values().any(Task::runs)) {
            self.counts.entry(*shard).or_default().task_runs = true;
        }
        Ok(tasks)
    }

    fn read_deltas(&mut self, txn: &WriteTransaction) -> Result<(), StoreError> {
        for row in txn.open_table(DELTA)?.iter()?.skip(usize::from(ron_core::planted!(OldestDeltaSkipped))) {
            let (key, value) = row?;
            let key = key.value();
            let delta: Delta =
                open_value(value.value()).map_err(|why| StoreError::damaged("delta", key, why))?;
            self.next_delta = key + 1;
            self.next_chunk = self.next_chunk.max(delta.next_chunk);
            self.last_alive = self.last_alive.max(delta.now);
            for run in delta.runs {
                let first = run.first.idx();
                let changes = (first..first + run.count).map(|idx| (idx, run.state));
                self.dirty.entry(run.first.chunk()).or_default().extend(changes);
            }
        }
        Ok(())
    }

    fn read_heads(&mut self, txn: &WriteTransaction) -> Result<(), StoreError> {
        let states = txn.open_table(STATE)?;
        for row in txn.open_table(HEAD)?.iter()? {
            let (chunk, value) = row?;
            let chunk = chunk.value();
            let head = Head::decode(chunk, value.value())?;
            let folded = match states.get(chunk)? {
                Some(row) => chunk_states(chunk, row.value())?,
                None => ChunkStates::default(),
            };
            let mut fate = by_place(&folded);
            if let Some(newer) = self.dirty.get(&chunk) {
                fate.extend(newer);
            }
            self.next_chunk = self.next_chunk.max(chunk + 1);
            self.last_alive = self.last_alive.max(head.enqueued);
            self.take_chunk(chunk, &head, &fate);
        }
        // Deltas of chunks that have gone since.
        self.dirty.retain(|chunk, _| self.chunks.contains_key(chunk));
        Ok(())
    }

    /// The lease clocks that stand still.
    fn lease_clocks(
        &mut self,
        txn: &WriteTransaction,
        opening: Opening,
        last_alive: Millis,
    ) -> Result<Still, StoreError> {
        let mut still = Still::read(txn)?;
        if let Opening::Boot { .. } = opening {
            let leased = self.counts.iter().filter(|(_, counts)| counts.vis > 0).map(|(shard, _)| *shard);
            still.boot(&leased.collect(), last_alive);
        }
        self.counts.iter_mut().for_each(|(shard, counts)| counts.still_since = still.since(*shard));
        Ok(still)
    }

    fn take_chunk(&mut self, chunk: u64, head: &Head, fate: &Dirty) {
        let mut info = ChunkInfo { live: 0, kept: 0, body_len: head.body_len };
        for run in &head.runs {
            let counts = self.counts.entry(run.shard).or_default();
            for idx in run.first..run.first.saturating_add(run.count) {
                let Some(entry) = head.entries.get(usize::from(idx)).filter(|entry| entry.len > 0) else {
                    continue;
                };
                info.kept += 1;
                let state = match fate.get(&idx) {
                    Some(None) => continue,
                    Some(Some(state)) => Some(state),
                    None => None,
                };
                info.live += 1;
                if let Some(number) = entry.object {
                    self.objects.hold(Slot::new(chunk, idx), number);
                }
                if let Some(source) = entry.source {
                    self.refs.add(Slot::new(chunk, idx), source);
                }
                count(counts, state, entry.due.is_some_and(|due| due > self.last_alive));
                counts.ends(state, entry.expires);
                counts.oldest_enqueued.get_or_insert(head.enqueued);
                if let Some(leased) = state.filter(|state| state.phase == Phase::Leased) {
                    self.latest_deadline = self.latest_deadline.max(leased.at);
                }
            }
            self.by_shard.entry(run.shard).or_default().push(chunk, |_| true);
            self.fans.sent(run.shard, chunk, run.first, run.count);
        }
        if u32::from(info.live) * 4 < u32::from(info.kept) && info.body_len > 0 {
            self.stragglers.insert(chunk);
        }
        self.chunks.insert(chunk, info);
    }
}

impl BootCounts {
    /// When retention or a TTL first ends something here, at the earliest.
    #[must_use]
    pub fn first_end(&self, settings: &Settings) -> Option<Millis> {
        let ready = self.oldest_enqueued.map(|at| at.plus(settings.retention_ms));
        let dead = self.oldest_dead.map(|at| at.plus(settings.dlq_retention_ms));
        ready.into_iter().chain(dead).chain(self.first_expiry).min()
    }

    fn ends(&mut self, state: Option<&MsgState>, expires: Option<Millis>) {
        let earliest =
            |at: &mut Option<Millis>, new: Option<Millis>| *at = at.iter().copied().chain(new).min();
        match state.filter(|state| state.phase == Phase::Dead) {
            Some(dead) => earliest(&mut self.oldest_dead, Some(dead.at)),
            None => earliest(&mut self.first_expiry, expires),
        }
    }
}

fn count(counts: &mut BootCounts, state: Option<&MsgState>, delayed: bool) {
    match state.map(|state| state.phase) {
        Some(Phase::Ready) => counts.ready += 1,
        Some(Phase::Leased) => counts.vis += 1,
        Some(Phase::Delayed) => counts.delayed += 1,
        Some(Phase::Dead) => counts.dlq += 1,
        None if delayed => counts.delayed += 1,
        None => counts.ready += 1,
    }
}
