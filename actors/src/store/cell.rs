//! The engine behind a lock, outliving the actor that drives it: a killed store actor leaves a commit running,
//! and its successor waits for that one instead of racing it. Also where a failed store is closed and reopened.

mod objects;
mod stilled;

use super::backend::Medium;
use super::engine::{Engine, TopicRow, Work};
use super::error::{StoreError, UnitFailure};
use super::identity::Identity;
use super::load::{LoadJob, Reading};
use super::objects::{NotStored, ObjectJob};
use super::pace::Pace;
use super::queue::{Counts, Item, Queue, Turn};
use super::read::Reader;
use super::recover::{BootCounts, ClockFrom, Opening};
use super::unit::Unit;
use super::volatile::Volatile;
use super::{ShardEpoch, StoreConfig, StoreObserver};
use crate::blocking::{Blocking, Job};
use redb::Database;
use ron_core::ids::ShardId;
use ron_core::message::PutOutcome;
use ron_core::time::{Clock, Millis};
use std::collections::BTreeSet;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{OwnedMutexGuard, OwnedSemaphorePermit, Semaphore, oneshot};

/// A store that holds more than this is not compacted while the node stops: whoever waits for that would not wait for
/// it. The operators' command does it.
const COMPACTED_BYTES_MAX: u64 = 1 << 30;

/// A question to the engine, answered after the commits before it.
pub type Ask = Box<dyn FnOnce(Result<&Engine, UnitFailure>) + Send>;

/// A shard that wants to be loaded.
pub struct LoadRequest {
    /// Which shard.
    pub shard: ShardId,
    /// Whether it may have a snapshot, if it is too much to be read at once.
    pub snapshot: bool,
    /// Where it goes.
    pub reply: LoadReply,
}

/// Where a load goes; `None` = it needs a snapshot.
pub type LoadReply = oneshot::Sender<Result<Option<LoadJob>, StoreError>>;

struct State {
    engine: Option<Engine>,
    /// While there is no engine: its epochs, so that a ghost's is never given again.
    epochs: HashMap<ShardId, ShardEpoch>,
    /// The same of the topics it deleted, or may have.
    deleted: BTreeSet<ShardId>,
    /// While there is no engine: what is kept in memory alone.
    volatile: Volatile,
    /// The number of the last unit taken from each shard's newest load.
    taken: Counts,
}

/// A turn that is over, but not yet told of.
#[derive(Default)]
pub struct Finished {
    units: Vec<Unit>,
    results: Vec<Result<Vec<PutOutcome>, UnitFailure>>,
    loads: Vec<(LoadReply, Result<Option<LoadJob>, StoreError>)>,
    objects: Vec<(ObjectJob, Result<(), NotStored>)>,
}

impl Finished {
    /// Tells everyone. Shards first: a client that sends and then receives must find its message.
    pub(crate) fn tell(mut self) {
        for (unit, result) in self.units.iter_mut().zip(&self.results) {
            unit.tell_shard(result.as_deref().map_err(|failure| *failure));
        }
        for (unit, result) in self.units.iter_mut().zip(&self.results) {
            unit.answer(result.as_deref().map_err(|failure| *failure));
        }
        for (job, result) in self.objects {
            // Whoever went away has no use for it.
            let _ = job.reply.send(result);
        }
        for (reply, job) in self.loads {
            // A shard that is gone meanwhile needs no snapshot.
            let _ = reply.send(job);
        }
    }
}

/// The store of a node. See the module.
pub struct EngineCell {
    state: Mutex<State>,
    queue: Queue,
    medium: Arc<dyn Medium>,
    config: StoreConfig,
    clock: Arc<dyn Clock>,
    reader: Reader,
    turns: Arc<tokio::sync::Mutex<()>>,
    identity: Identity,
    observer: Arc<dyn StoreObserver>,
    healthy: AtomicBool,
    pace: Pace,
    /// Loads from snapshots that may go on at a time.
    loads: Arc<Semaphore>,
    /// Lease clocks that have stopped since the last commit.
    stilled: Mutex<BTreeMap<ShardId, Millis>>,
}

/// Loads from snapshots at a time. Each holds a thread and a snapshot: thousands of queues that wake at once would
/// have a thread each, with caches of its own, and nothing would be read sooner.
const LOADS_MAX: usize = 8;

impl std::fmt::Debug for EngineCell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EngineCell").field("medium", &self.medium).finish_non_exhaustive()
    }
}

/// What opening a store finds out for the rest of the node.
#[derive(Debug)]
pub struct Opened {
    /// The store itself.
    pub cell: Arc<EngineCell>,
    /// Every topic and what it holds.
    pub topics: Vec<(ShardId, TopicRow, BootCounts)>,
    /// Above the number of every topic that was ever deleted.
    pub next_shard: u32,
    /// The last sign of life before: lease clocks stand still since.
    pub last_alive: Millis,
    /// The clock to use, floored at what the store had seen.
    pub clock: Arc<dyn Clock>,
}

impl EngineCell {
    /// Waits until another load from a snapshot may begin.
    pub(super) async fn load_turn(&self) -> Result<OwnedSemaphorePermit, StoreError> {
        // It is never closed.
        self.loads.clone().acquire_owned().await.map_err(|_| StoreError::Reopening)
    }

    /// Opens the store for the first time. Blocks.
    ///
    /// # Errors
    /// [`StoreError`]; the node then ends with exit code 74 (75 if it is locked).
    pub fn open(
        medium: Arc<dyn Medium>,
        config: StoreConfig,
        clock_from: ClockFrom<'_>,
        entropy: [u8; 40],
        observer: Arc<dyn StoreObserver>,
    ) -> Result<Opened, StoreError> {
        let reader = Reader::new(config.body_cache_bytes, config.blocking.clone());
        let opening = Opening::Boot { entropy };
        let (engine, counts) = Engine::open(medium.as_ref(), &config, clock_from, opening, &reader)?;
        let clock = engine.clock.clone();
        let counts_of = |shard| counts.get(&shard).copied().unwrap_or_default();
        let topics = engine.topics().map(|(shard, row)| (shard, row, counts_of(shard))).collect();
        let (last_alive, next_shard) = (engine.last_alive, engine.next_shard);
        let identity = engine.identity().clone();
        let (epochs, volatile, taken) = (HashMap::new(), Volatile::default(), Counts::default());
        let cell = EngineCell {
            state: Mutex::new(State {
                engine: Some(engine),
                epochs,
                deleted: BTreeSet::new(),
                volatile,
                taken,
            }),
            queue: Queue::default(),
            medium,
            config,
            clock: clock.clone(),
            reader,
            turns: Arc::default(),
            identity,
            observer,
            healthy: AtomicBool::new(true),
            pace: Pace::default(),
            loads: Arc::new(Semaphore::new(LOADS_MAX)),
            stilled: Mutex::default(),
        };
        Ok(Opened { cell: Arc::new(cell), topics, next_shard, last_alive, clock })
    }

    /// Facts that receipts and ids need.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Reads bodies.
    #[must_use]
    pub fn reader(&self) -> &Reader {
        &self.reader
    }

    /// Whether an answered commit survives the process.
    #[must_use]
    pub fn durable(&self) -> bool {
        self.medium.durable()
    }

    /// Whether the last commit or reopening went well.
    #[must_use]
    pub fn healthy(&self) -> bool {
        self.healthy.load(Ordering::Relaxed)
    }

    /// See [`Medium::make_room`]. Blocks.
    pub(crate) fn make_room(&self) -> bool {
        self.medium.make_room()
    }

    pub(crate) fn blocking(&self) -> &Blocking {
        &self.config.blocking
    }

    /// The right to the next turn, in the order asked for. It travels with the turn's work: what a killed actor
    /// has begun is over before its successor begins, so a shard's commits never change places.
    pub(crate) async fn next_turn(&self) -> OwnedMutexGuard<()> {
        self.turns.clone().lock_owned().await
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // A panic inside a commit leaves the engine poisoned by its own flag, and the next use reopens it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What waits for the next turn.
    pub(crate) fn queue(&self) -> &Queue {
        &self.queue
    }

    /// Commits, asks, loads. Blocks. Whoever has work in it is told by [`Finished::tell`], and that it was lost
    /// if that is dropped instead.
    pub(crate) fn turn(&self, turn: Turn) -> Finished {
        let mut state = self.lock();
        let opened = self.engine(&mut state).map(|_| ());
        let (mut finished, committed) = match &opened {
            Ok(()) => match self.commit(&mut state, turn.units) {
                Some(finished) => (finished, true),
                None => (Finished::default(), false),
            },
            Err(_) => {
                turn.units.into_iter().for_each(|unit| unit.refuse(UnitFailure::NotTried));
                (Finished::default(), false)
            }
        };
        if !turn.objects.is_empty() {
            finished.objects = self.commit_objects(&mut state, turn.objects);
        }
        for ask in turn.asks {
            match state.engine.as_ref().filter(|_| committed) {
                Some(engine) => ask(Ok(engine)),
                None => ask(Err(UnitFailure::NotTried)),
            }
        }
        let mut reading = Reading::default();
        for load in turn.loads {
            if reading.is_enough() {
                self.queue.push(Item::Load(load)); // for the next turn
                continue;
            }
            let engine = self.engine(&mut state);
            let job = engine.and_then(|engine| match engine.load_within(load.shard, &mut reading) {
                Ok(None) if load.snapshot => engine.snapshot(load.shard).map(Some),
                read => read,
            });
            if job.is_err() {
                reading = Reading::default(); // the next one may find the file opened anew
            }
            finished.loads.push((load.reply, job));
        }
        finished
    }

    /// The engine, reopened if it must be.
    fn engine<'a>(&self, state: &'a mut State) -> Result<&'a mut Engine, StoreError> {
        if let Some(engine) = state.engine.as_mut().filter(|engine| engine.poisoned) {
            // A commit ended in a panic, and whose it was is not known any more.
            engine.epochs.values_mut().for_each(|epoch| *epoch = epoch.lost());
            self.close(state);
        }
        if state.engine.is_some() && self.medium.io_failed() {
            // Somebody's read failed, and from then on nothing works; nothing is under way that could be lost.
            tracing::warn!("the device refused a read or a write: the store is reopened");
            self.close(state);
        }
        if state.engine.is_none() {
            let clock = self.clock.clone();
            let clock_from = move |_| clock.clone();
            // The identity is in the file already; in RAM the blocks outlived the engine.
            let opening = Opening::Again;
            let opened = Engine::open(self.medium.as_ref(), &self.config, &clock_from, opening, &self.reader);
            match opened {
                Ok((mut engine, _)) => {
                    engine.epochs = std::mem::take(&mut state.epochs);
                    engine.deleted = std::mem::take(&mut state.deleted);
                    engine.adopt(std::mem::take(&mut state.volatile));
                    tracing::info!("store reopened");
                    self.healthy.store(true, Ordering::Relaxed);
                    self.observer.reopened();
                    state.engine = Some(engine);
                }
                Err(error) => {
                    self.observer.failed();
                    tracing::error!(%error, "store cannot be reopened yet");
                    return Err(error);
                }
            }
        }
        state.engine.as_mut().ok_or(StoreError::Reopening)
    }

    /// Commits the units. If it fails everyone is told, and there is nothing more to tell.
    fn commit(&self, state: &mut State, mut units: Vec<Unit>) -> Option<Finished> {
        if units.is_empty() {
            return Some(Finished::default());
        }
        let mut work: Vec<(ShardId, Work)> = units.iter_mut().map(Unit::take_work).collect();
        for (unit, (shard, work)) in units.iter().zip(&mut work) {
            let (epoch, taken) = state.taken.of(*shard, work.epoch);
            if *epoch != work.epoch {
                continue; // a ghost's: it is refused by its epoch
            }
            if unit.number == *taken + 1 {
                *taken += 1;
            } else {
                // One before it was lost, and this may rest on that one.
                work.epoch = ShardEpoch::UNFOUNDED;
            }
        }
        let engine = state.engine.as_mut()?;
        let stilled = self.tell_stilled(engine);
        #[allow(clippy::disallowed_methods, reason = "measures a duration for a metric; decides nothing")]
        let started = std::time::Instant::now();
        self.pace.begin(self.clock.now());
        let committed = engine.commit(&mut work);
        let took = started.elapsed().as_secs_f64();
        self.pace.end(took);
        match committed {
            Ok(committed) => {
                self.stilled_written(&stilled);
                if committed.size > 0 {
                    self.observer.committed(took, committed.size);
                }
                Some(Finished { units, results: committed.results, ..Finished::default() })
            }
            Err(error) => {
                self.observer.failed();
                tracing::error!(%error, "commit failed: its outcome is unknown, the store is reopened");
                // Whoever had work in it must load anew; the others need not notice.
                for (shard, _) in &work {
                    let epoch = engine.epochs.entry(*shard).or_default();
                    *epoch = epoch.lost();
                }
                self.close(state);
                drop(units); // tells everyone: indeterminate
                None
            }
        }
    }

    /// Drops the engine and waits until nobody reads the old file any more.
    fn close(&self, state: &mut State) {
        drop(self.detach(state));
    }

    fn detach(&self, state: &mut State) -> Option<Database> {
        self.healthy.store(false, Ordering::Relaxed);
        self.reader.attach(None);
        self.reader.clear();
        let mut engine = state.engine.take()?;
        state.volatile = engine.take_volatile();
        state.epochs = engine.epochs;
        state.deleted = engine.deleted;
        let mut db: Arc<Database> = engine.db;
        // Readers hold the database for one short transaction.
        loop {
            match Arc::try_unwrap(db) {
                Ok(last) => return Some(last),
                Err(shared) => db = shared,
            }
            std::thread::yield_now();
        }
    }

    /// Gives free space back to the file system, if it is worth it and does not take long.
    fn give_back(&self, mut db: Database, live_bytes: u64) {
        let Some(before) = self.medium.file_bytes() else { return };
        let free = before.saturating_sub(live_bytes);
        let least = self.config.compact_free_bytes;
        if least == 0 || free < least || free < live_bytes || live_bytes > COMPACTED_BYTES_MAX {
            return;
        }
        match db.compact() {
            Ok(_) => {
                drop(db);
                tracing::info!(before, after = self.medium.file_bytes(), "store compacted");
            }
            Err(error) => tracing::warn!(%error, "the store was not compacted"),
        }
    }

    /// Commits `units` together and tells everyone, without an actor: for drivers that have none. Blocks.
    pub fn run(&self, mut units: Vec<Unit>) {
        units.iter_mut().for_each(|unit| self.queue.enlist(unit));
        self.turn(Turn { units, ..Turn::default() }).tell();
    }

    /// A snapshot of a shard, now: for drivers without an actor. Blocks.
    ///
    /// # Errors
    /// The store cannot be opened, or read.
    pub fn load(&self, shard: ShardId) -> Result<LoadJob, StoreError> {
        self.engine(&mut self.lock())?.snapshot(shard)
    }

    /// One commit of background work, if some is due. Blocks. Returns whether there was some.
    pub fn idle(&self) -> bool {
        let mut state = self.lock();
        let Ok(engine) = self.engine(&mut state) else { return false };
        let stilled = self.tell_stilled(engine);
        match engine.idle_work() {
            Ok(more) => {
                if more {
                    self.stilled_written(&stilled);
                }
                more
            }
            Err(error) => {
                self.observer.failed();
                tracing::error!(%error, "background commit failed, the store is reopened");
                self.close(&mut state);
                false
            }
        }
    }

    /// The mean time of the commits since the last look, ms, or the age of the one that runs, if that is more;
    /// `None` = there was none. For one who looks.
    #[must_use]
    pub fn pace(&self) -> Option<u64> {
        self.pace.look(self.clock.now())
    }

    /// One commit that changes nothing but the time saved. Blocks. Whether it went well.
    pub(crate) fn probe(&self) -> bool {
        let mut state = self.lock();
        let Ok(engine) = self.engine(&mut state) else { return false };
        let began = self.clock.now();
        self.pace.begin(began);
        let done = engine.save_time();
        self.pace.end(self.clock.now().since(began) as f64 / 1e3);
        if let Err(error) = &done {
            self.observer.failed();
            tracing::error!(%error, "a commit to try the store failed, it is reopened");
            self.close(&mut state);
        }
        done.is_ok()
    }

    /// Ends the store in good order, after the turn that runs: everything folded, marks saved.
    pub async fn close_down(self: Arc<Self>) {
        let turn = self.next_turn().await;
        let blocking = self.config.blocking.clone();
        let shut = move || {
            self.shut();
            drop(turn);
        };
        // Only a panic inside could keep it from closing, and that leaves what a crash leaves.
        let _ = blocking.run(Job::Turn, shut).await;
    }

    /// [`EngineCell::close_down`] for a thread that may block, when no actor runs. Blocks.
    pub fn shut(&self) {
        self.queue.refuse_all();
        let mut state = self.lock();
        if let Some(engine) = state.engine.as_mut() {
            self.tell_stilled(engine);
        }
        if let Some(engine) = state.engine.as_mut()
            && let Err(error) = engine.settle_for_good()
        {
            tracing::warn!(%error, "the store could not be tidied at shutdown; the next start does it");
        }
        let live_bytes = state.engine.as_ref().map(|engine| engine.figures().live_bytes());
        if let Some((db, live_bytes)) = self.detach(&mut state).zip(live_bytes) {
            self.give_back(db, live_bytes);
        }
    }
}
