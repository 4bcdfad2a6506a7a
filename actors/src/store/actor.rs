//! The store's actor: starts the committing thread when something waits, tells of what it has committed, and
//! looks for background work when nothing waits. A lone request never waits for company, and all that gathers
//! while one commit is running is committed as one.

use super::cell::{Ask, EngineCell, Finished, LoadRequest};
use super::engine::Engine;
use super::error::{StoreError, UnitFailure};
use super::identity::Identity;
use super::load::LoadJob;
use super::objects::{NotStored, ObjectJob, ObjectOp};
use super::queue::Item;
use super::read::Reader;
use super::unit::Unit;
use crate::blocking::{Blocking, Job};
use crate::kernel::handle::Handle;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use ron_core::ids::ShardId;
use ron_core::time::Millis;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::oneshot;

/// How soon after the last commit background work may begin.
const IDLE_AFTER: Duration = Duration::from_millis(20);
/// How long a load waits for a store that is being restarted.
const LOAD_WAITS: Duration = Duration::from_secs(2);
/// How often it is looked for.
const IDLE_EVERY: Duration = Duration::from_secs(1);

/// The address of a store's actor.
pub type StoreRef = ActorRef<StoreMsg>;

/// What the store's actor is told.
pub enum StoreMsg {
    /// Something waits.
    Begin,
    /// A turn is over: tell everyone.
    Tell(Finished),
    /// Nothing waits any more; `true` = background work may go on.
    Done(bool),
    /// Look for background work; ignored unless it is of this generation.
    Idle(u64),
    /// Fail: a drill wants to see the restart.
    Crash,
}

/// What the actor needs.
#[derive(Debug, Clone)]
pub struct StoreArgs {
    /// The engine, which outlives the actor.
    pub cell: Arc<EngineCell>,
}

/// What it keeps.
#[derive(Debug)]
pub struct StoreState {
    cell: Arc<EngineCell>,
    running: bool,
    generation: u64,
    /// Turns that are over and not yet told of.
    untold: Arc<AtomicUsize>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct StoreActor;

impl Actor for StoreActor {
    type Msg = StoreMsg;
    type State = StoreState;
    type Arguments = StoreArgs;

    async fn pre_start(&self, myself: StoreRef, args: StoreArgs) -> Result<StoreState, ActorProcessingErr> {
        // What was handed in while there was no actor.
        args.cell.queue().promise();
        myself.cast(StoreMsg::Begin)?;
        Ok(StoreState { cell: args.cell, running: false, generation: 0, untold: Arc::default() })
    }

    async fn handle(
        &self,
        myself: StoreRef,
        message: StoreMsg,
        state: &mut StoreState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            StoreMsg::Begin if !state.running => state.begin(&myself).await,
            StoreMsg::Begin => {}
            StoreMsg::Tell(finished) => {
                finished.tell();
                state.untold.fetch_sub(1, Ordering::Release);
            }
            StoreMsg::Done(more) => {
                state.running = false;
                state.generation += 1;
                let generation = state.generation;
                let after = if more { IDLE_AFTER } else { IDLE_EVERY };
                myself.send_after(after, move || StoreMsg::Idle(generation));
                if state.cell.queue().waits() {
                    state.begin(&myself).await;
                }
            }
            StoreMsg::Idle(generation) => {
                if generation == state.generation && !state.running && state.cell.queue().is_empty() {
                    state.idle(&myself).await;
                }
            }
            StoreMsg::Crash => return Err("killed by a drill".into()),
        }
        Ok(())
    }
}

impl StoreState {
    /// Has the committing thread take turn after turn until nothing waits.
    async fn begin(&mut self, myself: &StoreRef) {
        let (actor, untold) = (myself.clone(), self.untold.clone());
        let turns = move |cell: &EngineCell| {
            while let Some(turn) = cell.queue().take() {
                let finished = cell.turn(turn);
                // Nothing waits: the caller is answered a hop earlier, unless that would overtake others.
                if cell.queue().is_empty() && untold.load(Ordering::Acquire) == 0 {
                    finished.tell();
                    continue;
                }
                untold.fetch_add(1, Ordering::Release);
                if actor.cast(StoreMsg::Tell(finished)).is_err() {
                    // Its successor takes the rest, and must not be kept waiting.
                    break;
                }
            }
            true
        };
        self.run(myself, turns).await;
    }

    async fn idle(&mut self, myself: &StoreRef) {
        self.run(myself, EngineCell::idle).await;
    }

    async fn run(&mut self, myself: &StoreRef, job: impl FnOnce(&EngineCell) -> bool + Send + 'static) {
        // Only a predecessor's last turn can be in the way.
        let right = self.cell.next_turn().await;
        self.running = true;
        let (myself, cell) = (myself.clone(), self.cell.clone());
        let finish = move || {
            // A commit that panicked has told its units by dropping them, and the next turn reopens the store;
            // it must not keep that turn from coming.
            let more = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| job(&cell))).unwrap_or(false);
            drop(right);
            // If the actor is gone, its successor begins on its own.
            let _ = myself.cast(StoreMsg::Done(more));
        };
        self.cell.blocking().start(Job::Turn, finish);
    }
}

/// The store, as the rest of the node sees it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    handle: Handle<StoreMsg>,
    cell: Arc<EngineCell>,
}

impl Store {
    /// A store whose actor is behind `handle`.
    #[must_use]
    pub fn new(handle: Handle<StoreMsg>, cell: Arc<EngineCell>) -> Store {
        Store { handle, cell }
    }

    /// Has a unit committed. If the actor is down, the unit is told so at once.
    pub fn submit(&self, unit: Unit) {
        self.hand_in(Item::Unit(unit));
    }

    /// The lease clocks of `shard` stand still since `since`: a crash must not forget it.
    pub(crate) fn stands_still(&self, shard: ShardId, since: Millis) {
        self.cell.stands_still(shard, since);
    }

    /// See [`EngineCell::went_on`].
    pub(crate) fn went_on(&self, shard: ShardId, over: Millis, again: Option<Millis>) {
        self.cell.went_on(shard, over, again);
    }

    /// Makes good the room held ready for what must not fail, if the disk has it. Whether it is whole.
    pub async fn make_room(&self) -> bool {
        let cell = self.cell.clone();
        self.cell.blocking().run(Job::Read, move || cell.make_room()).await.unwrap_or(false)
    }

    /// How long commits took since the last look, ms: see [`EngineCell::pace`].
    #[must_use]
    pub fn pace(&self) -> Option<u64> {
        self.cell.pace()
    }

    /// One commit of nothing, behind the turn that runs: whether the store can.
    pub async fn probe(&self) -> bool {
        let turn = self.cell.next_turn().await;
        let cell = self.cell.clone();
        let probe = move || {
            let done = cell.probe();
            drop(turn);
            done
        };
        self.cell.blocking().run(Job::Turn, probe).await.unwrap_or(false)
    }

    /// Has something done with an object, and waits for its commit.
    pub(super) async fn object_job(&self, op: ObjectOp) -> Result<(), NotStored> {
        let (reply, answer) = oneshot::channel();
        self.hand_in(Item::Object(ObjectJob { op, reply }));
        answer.await.unwrap_or(Err(NotStored::Failed))
    }

    fn hand_in(&self, item: Item) {
        let queue = self.cell.queue();
        if queue.push(item) && self.handle.cast(StoreMsg::Begin).is_err() {
            queue.refuse_all();
        }
    }

    /// Asks the engine, after everything submitted before.
    ///
    /// # Errors
    /// The store is down, or what was submitted before failed.
    pub async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Engine) -> T + Send + 'static,
    ) -> Result<T, UnitFailure> {
        let (reply, answer) = oneshot::channel();
        let ask: Ask = Box::new(move |engine| {
            let _ = reply.send(engine.map(question));
        });
        self.hand_in(Item::Ask(ask));
        answer.await.unwrap_or(Err(UnitFailure::NotTried))
    }

    /// [`Store::ask`] without waiting: the question itself carries the answer on.
    pub fn ask_later(&self, ask: Ask) {
        self.hand_in(Item::Ask(ask));
    }

    /// What a shard is loaded from, at its place in the queue.
    ///
    /// # Errors
    /// The store is down or failing; try again later.
    pub async fn load(&self, shard: ShardId) -> Result<LoadJob, StoreError> {
        // A restart takes a moment: who loads can wait for it, and its callers with it.
        self.handle.wait_up(LOAD_WAITS).await.map_err(|_| StoreError::Reopening)?;
        if let Some(job) = self.hand_in_load(shard, false).await? {
            return Ok(job);
        }
        // Before the snapshot is taken: one that waits keeps pages from being used again.
        let turn = self.cell.load_turn().await?;
        let job = self.hand_in_load(shard, true).await?;
        Ok(job.ok_or(StoreError::Reopening)?.within(turn))
    }

    async fn hand_in_load(&self, shard: ShardId, snapshot: bool) -> Result<Option<LoadJob>, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.hand_in(Item::Load(LoadRequest { shard, snapshot, reply }));
        answer.await.unwrap_or(Err(StoreError::Reopening))
    }

    /// Reads bodies.
    #[must_use]
    pub fn reader(&self) -> &Reader {
        self.cell.reader()
    }

    /// Where to do what blocks.
    #[must_use]
    pub fn blocking(&self) -> &Blocking {
        self.cell.blocking()
    }

    /// Facts that receipts and ids need.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        self.cell.identity()
    }

    /// Whether an answered commit survives the process.
    #[must_use]
    pub fn durable(&self) -> bool {
        self.cell.durable()
    }

    /// Whether the store takes writes.
    #[must_use]
    pub fn healthy(&self) -> bool {
        self.cell.healthy() && self.handle.is_up()
    }

    /// Makes the actor fail: for drills.
    pub fn crash(&self) {
        let _ = self.handle.cast(StoreMsg::Crash);
    }
}
