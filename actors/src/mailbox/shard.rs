//! The actor of one queue: carries commands to the state machine and what comes out of it to the store and to
//! the callers. Loads itself through the store, drops everything when a commit fails, and gives its memory back
//! when idle.

use super::directory::Entry;
use super::waiting::{GrantedBox, RecvReply, Waiting};
use super::{MailboxConfig, MailboxObserver};
use crate::kernel::admission::Permit;
use crate::store::{ShardSink, Store, StoreError, Unit, UnitFailure, UnitResult, Work};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use ron_core::ids::Slot;
use ron_core::message::{NewMessage, PutOutcome};
use ron_core::reason::{Effect, Reason, Refusal};
use ron_core::shard::{
    Command, DeliveryRef, NackMode, PeekState, Peeked, Recovery, Reply, Settings, Shard, Stats, Step, Ticket,
    WaiterId, Want,
};
use ron_core::time::{Clock, Millis};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::oneshot;

/// First wait before loading is tried again, ms; doubles up to a second.
const RELOAD_AFTER_MS: u64 = 50;

/// The address of a shard's actor.
pub type ShardRef = ActorRef<ShardMsg>;

/// What was done with an enqueue: one outcome a message.
pub type EnqueueReply = oneshot::Sender<Result<Vec<PutOutcome>, Refusal>>;
/// One result a delivery.
pub type SettleReply = oneshot::Sender<Result<Vec<Result<(), Reason>>, Refusal>>;
/// Depths, live idempotency keys, settings.
pub type StatReply = oneshot::Sender<Result<(Stats, u64, Settings), Refusal>>;
/// One page.
pub type PeekReply = oneshot::Sender<Result<Vec<Peeked>, Refusal>>;

/// What a shard's actor is told.
pub enum ShardMsg {
    /// Store messages.
    Enqueue(Vec<NewMessage>, EnqueueReply, Permit),
    /// Hand out messages, or wait `wait_ms` for some.
    Recv {
        /// Unique in the entry's life.
        waiter: WaiterId,
        /// What is asked for.
        want: Want,
        /// How long to wait.
        wait_ms: u64,
        /// Where they go.
        reply: RecvReply,
        /// Rides along until the answer.
        permit: Permit,
    },
    /// A waiting receive's caller is gone.
    CancelRecv(WaiterId),
    /// Settle deliveries: an Ack, Nack or Extend command.
    Settle(Command, SettleReply, Permit),
    /// Deliveries that never reached their consumer: released.
    Unwanted {
        /// Which.
        deliveries: Vec<DeliveryRef>,
    },
    /// A record that failed its checksum.
    Corrupt(DeliveryRef),
    /// The figures.
    Stat(StatReply),
    /// A page of messages.
    Peek(PeekState, Option<(u64, Slot)>, usize, PeekReply),
    /// The store committed a ticket.
    Committed(Ticket, Vec<PutOutcome>),
    /// The store lost a ticket: load anew.
    Failed(UnitFailure),
    /// A load of this generation is done.
    Loaded(u64, Box<Result<Loaded, StoreError>>),
    /// Try to load again.
    Reload(u64),
    /// Time for the state machine; stale unless of this generation.
    Tick(u64),
    /// Long polls end now, empty: the node drains.
    EndWaits,
    /// Fail: a drill wants to see the restart.
    Crash,
}

/// A shard out of the store.
#[derive(Debug)]
pub struct Loaded {
    shard: Shard,
    epoch: crate::store::ShardEpoch,
    exists: bool,
    /// What its lease clocks stood still; written down with the first tick.
    stood_still_ms: u64,
}

/// What the actor needs.
#[derive(Debug, Clone)]
pub struct ShardArgs {
    /// Its place in the directory.
    pub entry: Arc<Entry>,
    /// Where it commits.
    pub store: Store,
    /// Node time.
    pub clock: Arc<dyn Clock>,
    /// Limits and settings.
    pub config: Arc<MailboxConfig>,
    /// Who is told.
    pub observer: Arc<dyn MailboxObserver>,
}

enum Phase {
    /// No state in memory; the next command loads it.
    Parked,
    /// Being loaded: commands wait in order.
    Loading(VecDeque<ShardMsg>),
    /// The store cannot give it now: commands are refused until it can.
    Recovering,
    Ready(Box<Loaded>),
}

/// What it keeps.
pub struct ShardState {
    args: ShardArgs,
    phase: Phase,
    waiting: Waiting,
    sink: Arc<dyn ShardSink>,
    load: u64,
    reload_ms: u64,
    tick: u64,
    tick_at: Option<Millis>,
    used: Millis,
    entropy: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub struct ShardActor;

#[derive(Debug)]
struct Sink(ShardRef);

impl ShardSink for Sink {
    fn committed(&self, ticket: Ticket, outcomes: &[PutOutcome]) {
        let _ = self.0.cast(ShardMsg::Committed(ticket, outcomes.to_vec()));
    }
    fn failed(&self, failure: UnitFailure) {
        let _ = self.0.cast(ShardMsg::Failed(failure));
    }
}

impl Actor for ShardActor {
    type Msg = ShardMsg;
    type State = ShardState;
    type Arguments = ShardArgs;

    async fn pre_start(&self, myself: ShardRef, args: ShardArgs) -> Result<ShardState, ActorProcessingErr> {
        let sink: Arc<dyn ShardSink> = Arc::new(Sink(myself.clone()));
        let now = args.clock.now();
        // Deterministic, and different for every shard and start: it only spreads retries.
        let entropy = now.0 ^ (u64::from(args.entry.shard.0) << 32);
        let mut state = ShardState {
            args,
            phase: Phase::Parked,
            waiting: Waiting::default(),
            sink,
            load: 0,
            reload_ms: RELOAD_AFTER_MS,
            tick: 0,
            tick_at: None,
            used: now,
            entropy,
        };
        // Leases and delays need their timers even if nobody calls.
        let stats = state.args.entry.figures.stats();
        if stats.vis > 0 || stats.delayed > 0 {
            state.load_behind(&myself, VecDeque::new());
        }
        Ok(state)
    }

    async fn handle(
        &self,
        myself: ShardRef,
        message: ShardMsg,
        state: &mut ShardState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            ShardMsg::Loaded(load, result) if load == state.load => state.loaded(&myself, *result),
            ShardMsg::Loaded(..) => {}
            ShardMsg::Reload(load) if load == state.load => state.load_behind(&myself, VecDeque::new()),
            ShardMsg::Reload(_) => {}
            ShardMsg::Failed(failure) => state.failed(&myself, failure),
            ShardMsg::Crash => return Err("killed by a drill".into()),
            ShardMsg::Tick(tick) if tick == state.tick => {
                state.tick_at = None;
                state.on_tick(&myself);
            }
            ShardMsg::Tick(_) => {}
            command => state.command(&myself, command),
        }
        Ok(())
    }
}

fn refusal(failure: UnitFailure) -> Refusal {
    let storage = Refusal::new(Reason::Storage, "the store failed; retry with the same idempotency key");
    match failure {
        UnitFailure::Indeterminate => storage,
        UnitFailure::NotTried => storage.without_effect(),
        UnitFailure::StaleEpoch => {
            Refusal::new(Reason::DownstreamUnavailable, "the queue is restarting; retry").without_effect()
        }
    }
}

impl ShardState {
    fn now(&self) -> Millis {
        self.args.clock.now()
    }

    // --- loading ---

    fn load_behind(&mut self, myself: &ShardRef, waiting: VecDeque<ShardMsg>) {
        self.phase = Phase::Loading(waiting);
        self.load += 1;
        let (load, args, myself) = (self.load, self.args.clone(), myself.clone());
        tokio::spawn(async move {
            let loaded = load_shard(args).await;
            let _ = myself.cast(ShardMsg::Loaded(load, Box::new(loaded)));
        });
    }

    fn loaded(&mut self, myself: &ShardRef, result: Result<Loaded, StoreError>) {
        let waiting = match std::mem::replace(&mut self.phase, Phase::Recovering) {
            Phase::Loading(waiting) => waiting,
            Phase::Parked | Phase::Recovering | Phase::Ready(_) => VecDeque::new(),
        };
        match result {
            Ok(loaded) => {
                self.args.entry.exists.store(loaded.exists, Ordering::Release);
                self.phase = Phase::Ready(Box::new(loaded));
                self.reload_ms = RELOAD_AFTER_MS;
                self.used = self.now();
                self.write_stillness(myself);
                waiting.into_iter().for_each(|message| self.command(myself, message));
            }
            Err(error) => {
                tracing::warn!(%error, queue = %self.args.entry.key, "a queue cannot be loaded yet");
                self.args.entry.stands_still_from(self.now());
                waiting.into_iter().for_each(|message| self.command(myself, message));
                let load = self.load;
                let after = Duration::from_millis(self.reload_ms);
                self.reload_ms = (self.reload_ms * 2).min(1_000);
                myself.send_after(after, move || ShardMsg::Reload(load));
            }
        }
    }

    /// The deadlines that recovery moved become durable; only then is the time they stood still forgotten.
    fn write_stillness(&mut self, myself: &ShardRef) {
        let Phase::Ready(loaded) = &mut self.phase else { return };
        let now = self.args.clock.now();
        let step = loaded.shard.apply(now, Command::Tick);
        let (entry, ms) = (self.args.entry.clone(), std::mem::take(&mut loaded.stood_still_ms));
        let done = move |result: UnitResult<'_>| {
            if result.is_ok() {
                entry.stillness_written(ms);
            }
        };
        self.carry(myself, step, Vec::new(), Some(Box::new(done)));
    }

    fn failed(&mut self, myself: &ShardRef, failure: UnitFailure) {
        if !matches!(self.phase, Phase::Ready(_)) {
            return; // another ticket of the same failure
        }
        tracing::warn!(?failure, queue = %self.args.entry.key, "a queue lost a commit and loads itself anew");
        self.args.entry.stands_still_from(self.now());
        self.waiting.refuse_all(&refusal(UnitFailure::NotTried));
        self.tick += 1;
        self.tick_at = None;
        self.load_behind(myself, VecDeque::new());
    }

    // --- commands ---

    fn command(&mut self, myself: &ShardRef, message: ShardMsg) {
        match &mut self.phase {
            Phase::Ready(_) => self.on_ready(myself, message),
            // Of a ticket of the shard before: the snapshot has it, and the new shard counts its own from 1.
            Phase::Loading(_) if matches!(message, ShardMsg::Committed(..)) => {}
            Phase::Loading(waiting) => waiting.push_back(message),
            Phase::Parked => self.load_behind(myself, VecDeque::from([message])),
            Phase::Recovering => refuse(message, &refusal(UnitFailure::NotTried)),
        }
    }

    fn on_ready(&mut self, myself: &ShardRef, message: ShardMsg) {
        let now = self.now();
        self.used = now;
        match message {
            ShardMsg::Enqueue(messages, reply, permit) => self.enqueue(myself, now, messages, reply, permit),
            ShardMsg::Recv { waiter, want, wait_ms, reply, permit } => {
                self.waiting.insert(waiter, reply, permit);
                let until = now.plus(wait_ms);
                let step = self.apply(now, Command::Recv { waiter, want, until });
                if let Reply::Refused(refusal) = &step.reply
                    && let Some(reply) = self.waiting.remove(waiter)
                {
                    let _ = reply.send(Err(refusal.clone()));
                }
                self.carry(myself, step, Vec::new(), None);
            }
            ShardMsg::CancelRecv(waiter) => {
                self.waiting.remove(waiter);
                let step = self.apply(now, Command::CancelRecv { waiter });
                self.carry(myself, step, Vec::new(), None);
            }
            ShardMsg::Settle(command, reply, permit) => self.settle(myself, now, command, reply, permit),
            ShardMsg::Unwanted { deliveries } => {
                let (mode, delay_ms, note, entropy) = (NackMode::Release, None, None, 0);
                let step = self.apply(now, Command::Nack { deliveries, mode, delay_ms, note, entropy });
                self.carry(myself, step, Vec::new(), None);
            }
            ShardMsg::Corrupt(delivery) => {
                self.args.observer.integrity_failed();
                let step = self.apply(now, Command::Corrupt { delivery });
                self.carry(myself, step, Vec::new(), None);
            }
            ShardMsg::Stat(reply) => self.stat(reply),
            ShardMsg::Peek(peek, after, limit, reply) => self.peek(peek, after, limit, reply),
            ShardMsg::Committed(ticket, outcomes) => self.committed(myself, now, ticket, &outcomes),
            ShardMsg::EndWaits => {
                for waiter in self.waiting.take_all() {
                    let step = self.apply(now, Command::CancelRecv { waiter });
                    self.waiting.answer_empty(&[waiter]);
                    self.carry(myself, step, Vec::new(), None);
                }
            }
            ShardMsg::Failed(_)
            | ShardMsg::Loaded(..)
            | ShardMsg::Reload(_)
            | ShardMsg::Tick(_)
            | ShardMsg::Crash => {}
        }
    }

    fn apply(&mut self, now: Millis, command: Command) -> Step {
        match &mut self.phase {
            Phase::Ready(loaded) => loaded.shard.apply(now, command),
            Phase::Parked | Phase::Loading(_) | Phase::Recovering => {
                Shard::new(self.args.config.settings).apply(now, Command::Tick)
            }
        }
    }

    fn enqueue(
        &mut self,
        myself: &ShardRef,
        now: Millis,
        messages: Vec<NewMessage>,
        reply: EnqueueReply,
        permit: Permit,
    ) {
        let step = self.apply(now, Command::Enqueue { count: messages.len() as u32 });
        if let Reply::Refused(refusal) = step.reply {
            let _ = reply.send(Err(refusal));
            return;
        }
        let entry = self.args.entry.clone();
        let done = move |result: UnitResult<'_>| {
            drop(permit);
            let stored = |outcome: &&PutOutcome| matches!(outcome, PutOutcome::Stored(_));
            if let Ok(outcomes) = result {
                entry.exists.store(true, Ordering::Release);
                entry.figures.count_enqueued(outcomes.iter().filter(stored).count() as u64);
            }
            let _ = reply.send(result.map(<[PutOutcome]>::to_vec).map_err(refusal));
        };
        self.carry(myself, step, messages, Some(Box::new(done)));
    }

    fn settle(
        &mut self,
        myself: &ShardRef,
        now: Millis,
        command: Command,
        reply: SettleReply,
        permit: Permit,
    ) {
        let command = match command {
            Command::Nack { deliveries, mode, delay_ms, note, .. } => {
                self.entropy = self.entropy.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(now.0 | 1);
                Command::Nack { deliveries, mode, delay_ms, note, entropy: self.entropy }
            }
            other => other,
        };
        let mut step = self.apply(now, command);
        let results = match std::mem::replace(&mut step.reply, Reply::None) {
            Reply::Settled(results) => results,
            Reply::None | Reply::Reserved | Reply::Refused(_) => Vec::new(),
        };
        let done = move |result: UnitResult<'_>| {
            drop(permit);
            let _ = reply.send(result.map(|_| results).map_err(refusal));
        };
        self.carry(myself, step, Vec::new(), Some(Box::new(done)));
    }

    fn stat(&mut self, reply: StatReply) {
        let Phase::Ready(loaded) = &self.phase else { return };
        let (stats, settings) = (loaded.shard.stats(), *loaded.shard.settings());
        let shard = self.args.entry.shard;
        // Behind the pending commits: the figures may rest on them.
        self.args.store.ask_later(Box::new(move |engine| {
            let figures = engine.map(|engine| (stats, engine.dedup_keys(shard), settings));
            let _ = reply.send(figures.map_err(refusal));
        }));
    }

    fn peek(&mut self, peek: PeekState, after: Option<(u64, Slot)>, limit: usize, reply: PeekReply) {
        let Phase::Ready(loaded) = &self.phase else { return };
        let page = loaded.shard.peek(peek, after, limit);
        if !loaded.shard.uncommitted() {
            let _ = reply.send(Ok(page));
            return;
        }
        self.args.store.ask_later(Box::new(move |engine| {
            let _ = reply.send(engine.map(|_| page).map_err(refusal));
        }));
    }

    fn committed(&mut self, myself: &ShardRef, now: Millis, ticket: Ticket, outcomes: &[PutOutcome]) {
        let Phase::Ready(loaded) = &mut self.phase else { return };
        loaded.exists |= outcomes.iter().any(|outcome| matches!(outcome, PutOutcome::Stored(_)));
        let step = loaded.shard.committed(now, ticket, outcomes);
        self.carry(myself, step, Vec::new(), None);
    }

    /// Brings a step's consequences where they belong.
    fn carry(
        &mut self,
        myself: &ShardRef,
        step: Step,
        puts: Vec<NewMessage>,
        done: Option<Box<dyn FnOnce(UnitResult<'_>) + Send>>,
    ) {
        let Phase::Ready(loaded) = &mut self.phase else { return };
        let entry = &self.args.entry;
        self.waiting.answer_empty(&step.empty_handed);
        let grants = self.waiting.match_grants(entry, step.grants);
        if step.ticket.is_some() || done.is_some() {
            let create = (!puts.is_empty() && !loaded.exists).then(|| entry.key.clone());
            let work = Work { epoch: loaded.epoch, create, puts, ops: step.ops };
            let ticket = step.ticket.map(|ticket| (ticket, self.sink.clone()));
            if ticket.is_none() && !loaded.shard.uncommitted() {
                // Nothing to write and nothing pending: the answer is already true.
                if let Some(done) = done {
                    done(Ok(&[]));
                }
            } else {
                let on_done = move |result: UnitResult<'_>| answer(result, grants, done);
                self.args.store.submit(Unit::new(entry.shard, work, ticket, Some(Box::new(on_done))));
            }
        }
        self.count(&step.counts);
        self.arm(myself);
    }

    fn count(&mut self, counts: &ron_core::shard::Counts) {
        let Phase::Ready(loaded) = &self.phase else { return };
        let entry = &self.args.entry;
        entry.figures.count(counts);
        entry.figures.set_stats(&loaded.shard.stats());
        if counts.dead > 0 {
            self.args.observer.dead_lettered(&entry.key, counts.dead);
        }
        if counts.requeued_visibility > 0 {
            self.args.observer.requeued(&entry.key, counts.requeued_visibility);
        }
    }

    // --- time ---

    /// Sets the timer for the next moment the state machine asks for.
    fn arm(&mut self, myself: &ShardRef) {
        let Phase::Ready(loaded) = &self.phase else { return };
        let park_at = self.used.plus(self.args.config.park_after_ms.max(1));
        let wake_at = loaded.shard.wake_at().unwrap_or(park_at);
        // A timer that fires early finds nothing to do and is set again: cheaper than one for every command.
        if self.tick_at.is_some_and(|at| at <= wake_at) {
            return;
        }
        self.tick += 1;
        self.tick_at = Some(wake_at);
        let tick = self.tick;
        let after = Duration::from_millis(wake_at.since(self.args.clock.now()));
        myself.send_after(after, move || ShardMsg::Tick(tick));
    }

    fn on_tick(&mut self, myself: &ShardRef) {
        let now = self.now();
        let Phase::Ready(loaded) = &self.phase else { return };
        let unused = now.since(self.used) >= self.args.config.park_after_ms;
        if unused && loaded.shard.idle() {
            self.phase = Phase::Parked;
            return;
        }
        let step = self.apply(now, Command::Tick);
        self.carry(myself, step, Vec::new(), None);
    }
}

/// After the commit: grants first, since they may be what the caller waits for, then the command's own answer.
fn answer(
    result: UnitResult<'_>,
    grants: Vec<(RecvReply, GrantedBox)>,
    done: Option<Box<dyn FnOnce(UnitResult<'_>) + Send>>,
) {
    for (reply, granted) in grants {
        let _ = match result {
            Ok(_) => reply.send(Ok(Some(granted))),
            // The shard is being loaded anew: the store knows best who has what.
            Err(failure) => reply.send(Err(refusal(failure))),
        };
    }
    if let Some(done) = done {
        done(result);
    }
}

/// Refuses a command that cannot be served now.
fn refuse(message: ShardMsg, refusal: &Refusal) {
    let refusal = refusal.clone();
    debug_assert_eq!(refusal.effect, Effect::None);
    match message {
        ShardMsg::Enqueue(_, reply, _) => drop(reply.send(Err(refusal))),
        ShardMsg::Recv { reply, .. } => drop(reply.send(Err(refusal))),
        ShardMsg::Settle(_, reply, _) => drop(reply.send(Err(refusal))),
        ShardMsg::Stat(reply) => drop(reply.send(Err(refusal))),
        ShardMsg::Peek(_, _, _, reply) => drop(reply.send(Err(refusal))),
        ShardMsg::CancelRecv(_)
        | ShardMsg::Unwanted { .. }
        | ShardMsg::Corrupt(_)
        | ShardMsg::Committed(..)
        | ShardMsg::Failed(_)
        | ShardMsg::Loaded(..)
        | ShardMsg::Reload(_)
        | ShardMsg::Tick(_)
        | ShardMsg::EndWaits
        | ShardMsg::Crash => {}
    }
}

/// Takes a snapshot at its place in the store's queue and scans it on the blocking pool.
async fn load_shard(args: ShardArgs) -> Result<Loaded, StoreError> {
    let job = args.store.load(args.entry.shard).await?;
    let now = args.clock.now();
    let stood_still_ms = args.entry.goes_on_at(now);
    let settings = args.config.settings;
    let scan = move || {
        let (epoch, exists) = (job.epoch, job.exists);
        let mut recovery = Recovery::new(settings, now, stood_still_ms);
        job.run(&mut |message| recovery.push(message))?;
        Ok(Loaded { shard: recovery.finish(), epoch, exists, stood_still_ms })
    };
    tokio::task::spawn_blocking(scan).await.unwrap_or(Err(StoreError::Reopening))
}
