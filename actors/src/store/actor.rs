//! The store's actor: gathers what all shards want committed while one commit is running, and commits it as one.
//! A lone request never waits for company.

use super::cell::{Ask, EngineCell, LoadRequest, Turn};
use super::engine::{Engine, Identity};
use super::error::{StoreError, UnitFailure};
use super::load::LoadJob;
use super::read::Reader;
use super::unit::Unit;
use crate::blocking::{Blocking, Job};
use crate::kernel::handle::Handle;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use ron_core::ids::ShardId;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedMutexGuard, oneshot};

/// Payload bytes in one commit.
const TURN_BYTES_MAX: usize = 4 << 20;
/// Units in one commit.
const TURN_UNITS_MAX: usize = 8_192;
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
    /// Commit this.
    Submit(Unit),
    /// Answer this after what was submitted before.
    Ask(Ask),
    /// A snapshot of a shard, after what was submitted before.
    Load(LoadRequest),
    /// Begin a turn with what has gathered.
    Begin,
    /// The turn is over; `true` = background work may go on.
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
#[derive(Default)]
pub struct StoreState {
    cell: Option<Arc<EngineCell>>,
    units: Vec<Unit>,
    asks: Vec<Ask>,
    loads: Vec<LoadRequest>,
    running: bool,
    begun: bool,
    generation: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub struct StoreActor;

impl Actor for StoreActor {
    type Msg = StoreMsg;
    type State = StoreState;
    type Arguments = StoreArgs;

    async fn pre_start(&self, myself: StoreRef, args: StoreArgs) -> Result<StoreState, ActorProcessingErr> {
        myself.send_after(IDLE_EVERY, || StoreMsg::Idle(0));
        Ok(StoreState { cell: Some(args.cell), ..StoreState::default() })
    }

    async fn handle(
        &self,
        myself: StoreRef,
        message: StoreMsg,
        state: &mut StoreState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            StoreMsg::Submit(unit) => state.units.push(unit),
            StoreMsg::Ask(ask) => state.asks.push(ask),
            StoreMsg::Load(load) => state.loads.push(load),
            StoreMsg::Begin => {
                state.begun = false;
                if !state.running {
                    state.begin(&myself).await;
                }
                return Ok(());
            }
            StoreMsg::Done(more) => {
                state.running = false;
                if state.is_empty() {
                    state.generation += 1;
                    let generation = state.generation;
                    let after = if more { IDLE_AFTER } else { IDLE_EVERY };
                    myself.send_after(after, move || StoreMsg::Idle(generation));
                }
            }
            StoreMsg::Idle(generation) => {
                if generation == state.generation && !state.running && state.is_empty() {
                    state.idle(&myself).await;
                }
                return Ok(());
            }
            StoreMsg::Crash => return Err("killed by a drill".into()),
        }
        // Behind whatever else is in the mailbox by now: that joins the same commit.
        if !state.running && !state.begun && !state.is_empty() {
            state.begun = myself.cast(StoreMsg::Begin).is_ok();
            if !state.begun {
                // Draining: nothing more joins, so what is here is committed now.
                state.begin(&myself).await;
            }
        }
        Ok(())
    }
}

impl StoreState {
    fn is_empty(&self) -> bool {
        self.units.is_empty() && self.asks.is_empty() && self.loads.is_empty()
    }

    async fn begin(&mut self, myself: &StoreRef) {
        let Some(cell) = self.cell.clone() else { return };
        // Before anything is taken out: a kill while it waits leaves nothing untold.
        let right = cell.next_turn().await;
        let mut bytes = 0;
        let fits = |unit: &&Unit| {
            bytes += unit.bytes();
            bytes <= TURN_BYTES_MAX
        };
        // At least one: a unit larger than a turn has a turn of its own.
        let n = self.units.iter().take(TURN_UNITS_MAX).take_while(fits).count().max(1).min(self.units.len());
        let all = n == self.units.len();
        let units = self.units.drain(..n).collect();
        // Asks and loads answer for all that was submitted before them: they wait until that is committed.
        let (asks, loads) = if all {
            (std::mem::take(&mut self.asks), std::mem::take(&mut self.loads))
        } else {
            (Vec::new(), Vec::new())
        };
        let turn = Turn { units, asks, loads };
        self.run(myself, right, move |cell| {
            cell.turn(turn);
            true
        });
    }

    async fn idle(&mut self, myself: &StoreRef) {
        let Some(cell) = self.cell.clone() else { return };
        let right = cell.next_turn().await;
        self.run(myself, right, |cell| cell.idle());
    }

    fn run(
        &mut self,
        myself: &StoreRef,
        right: OwnedMutexGuard<()>,
        job: impl FnOnce(&EngineCell) -> bool + Send + 'static,
    ) {
        let Some(cell) = self.cell.clone() else { return };
        self.running = true;
        let (myself, blocking) = (myself.clone(), cell.blocking().clone());
        let finish = move || {
            // A commit that panicked has told its units by dropping them, and the next turn reopens the store;
            // it must not keep that turn from coming.
            let more = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| job(&cell))).unwrap_or(false);
            drop(right);
            // If the actor is gone, its successor begins on its own.
            let _ = myself.cast(StoreMsg::Done(more));
        };
        blocking.start(Job::Turn, finish);
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
    pub fn submit(&self, mut unit: Unit) {
        use crate::kernel::handle::CastError;
        self.cell.enlist(&mut unit);
        if let Err(CastError::Down(message) | CastError::Quarantined(message)) =
            self.handle.cast(StoreMsg::Submit(unit))
            && let StoreMsg::Submit(unit) = message
        {
            unit.refuse(UnitFailure::NotTried);
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
        self.handle.cast(StoreMsg::Ask(ask)).map_err(|_| UnitFailure::NotTried)?;
        answer.await.unwrap_or(Err(UnitFailure::NotTried))
    }

    /// [`Store::ask`] without waiting: the question itself carries the answer on.
    pub fn ask_later(&self, ask: Ask) {
        // Dropping the closure drops the caller's reply port, which is an answer.
        let _ = self.handle.cast(StoreMsg::Ask(ask));
    }

    /// A snapshot of a shard at its place in the queue.
    ///
    /// # Errors
    /// The store is down or failing; try again later.
    pub async fn load(&self, shard: ShardId) -> Result<LoadJob, StoreError> {
        let (reply, answer) = oneshot::channel();
        let request = StoreMsg::Load(LoadRequest { shard, reply });
        // A restart takes a moment: who loads can wait for it, and its callers with it.
        let actor = self.handle.wait_up(LOAD_WAITS).await.map_err(|_| StoreError::Reopening)?;
        actor.cast(request).map_err(|_| StoreError::Reopening)?;
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
