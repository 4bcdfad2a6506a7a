//! The actor of one queue: carries commands to the state machine and what comes out of it to the store and to
//! the callers. Loads itself through the store, drops everything when a commit fails, and ends when it is idle.

use super::closing::{Closing, deleted};
use super::directory::{Awake, Directory, Entry};
use super::loading::{Phase, RELOAD_AFTER_MS};
use super::messages::{EnqueueReply, SettleReply, ShardMsg, refusal, refuse};
use super::waiting::{GrantedBox, RecvReply, Waiting};
use super::{MailboxConfig, MailboxObserver};
use crate::kernel::admission::Permit;
use crate::kernel::timer::Timer;
use crate::store::{OnDone, ShardSink, Store, TopicRow, Unit, UnitFailure, UnitResult, Work};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use ron_core::message::{NewMessage, PutOutcome};
use ron_core::reason::{Reason, Refusal};
use ron_core::shard::{Command, Counts, NackMode, Reply, Step, Ticket};
use ron_core::time::{Clock, Millis};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The address of a shard's actor.
pub type ShardRef = ActorRef<ShardMsg>;

/// What the actor needs.
#[derive(Debug, Clone)]
pub struct ShardArgs {
    /// Its place in the directory.
    pub entry: Arc<Entry>,
    /// Where that is.
    pub directory: Arc<Directory>,
    /// Where it commits.
    pub store: Store,
    /// Node time.
    pub clock: Arc<dyn Clock>,
    /// Limits and settings.
    pub config: Arc<MailboxConfig>,
    /// Who is told.
    pub observer: Arc<dyn MailboxObserver>,
}

/// What it keeps.
pub struct ShardState {
    pub(super) args: ShardArgs,
    pub(super) phase: Phase,
    pub(super) waiting: Waiting,
    pub(super) closing: Option<Closing>,
    pub(super) sink: Arc<dyn ShardSink>,
    pub(super) load: u64,
    pub(super) reload_ms: u64,
    pub(super) timer: Timer,
    pub(super) used: Millis,
    pub(super) entropy: u64,
    /// Counts it among those that are awake.
    _awake: Awake,
}

/// See the module.
#[derive(Debug, Default)]
pub struct ShardActor;

#[derive(Debug)]
struct Sink {
    actor: ShardRef,
    entry: Arc<Entry>,
}

impl ShardSink for Sink {
    fn committed(&self, ticket: Ticket, outcomes: &[PutOutcome]) {
        let _ = self.actor.cast(ShardMsg::Committed(ticket, outcomes.to_vec()));
    }
    fn failed(&self, failure: UnitFailure) {
        // It may have been the topic's first commit, and have landed: until the queue is loaded anew nobody can say
        // that there is no such topic.
        if failure == UnitFailure::Indeterminate {
            self.entry.exists.store(true, Ordering::Release);
        }
        let _ = self.actor.cast(ShardMsg::Failed(failure));
    }
}

impl Actor for ShardActor {
    type Msg = ShardMsg;
    type State = ShardState;
    type Arguments = ShardArgs;

    async fn pre_start(&self, myself: ShardRef, args: ShardArgs) -> Result<ShardState, ActorProcessingErr> {
        let sink: Arc<dyn ShardSink> = Arc::new(Sink { actor: myself.clone(), entry: args.entry.clone() });
        let now = args.clock.now();
        // Deterministic, and different for every shard and start: it only spreads retries.
        let entropy = now.0 ^ (u64::from(args.entry.shard.0) << 32);
        let awake = args.directory.one_awake();
        let mut state = ShardState {
            args,
            phase: Phase::Parked,
            waiting: Waiting::default(),
            closing: None,
            sink,
            load: 0,
            reload_ms: RELOAD_AFTER_MS,
            timer: Timer::default(),
            used: now,
            entropy,
            _awake: awake,
        };
        // Leases, delays and ends need their timers even if nobody calls.
        let (entry, figures) = (&state.args.entry, &state.args.entry.figures);
        if entry.must_run() || figures.is_due(now) || figures.is_in_memory() {
            state.load_behind(&myself, VecDeque::new());
        }
        state.arm_for_leaving(&myself);
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
            ShardMsg::Tick(tick) if state.timer.accept(tick) => state.on_tick(&myself),
            ShardMsg::Tick(_) => {}
            ShardMsg::LeaveIfIdle(idle_ms) => state.leave_if_idle(&myself, idle_ms),
            ShardMsg::Leave => state.leave_or_stay(&myself),
            ShardMsg::Closed(result) => state.closed(&myself, result),
            // Of the shard before this load, which has seen that commit: its ticket is another's by now.
            ShardMsg::Committed(..) if !matches!(state.phase, Phase::Ready(_)) => {}
            command => state.command(&myself, command),
        }
        Ok(())
    }
}

impl ShardState {
    pub(super) fn now(&self) -> Millis {
        self.args.clock.now()
    }

    // --- commands ---

    pub(super) fn command(&mut self, myself: &ShardRef, message: ShardMsg) {
        let Some(message) = self.hold(message) else { return };
        match &mut self.phase {
            Phase::Ready(_) => self.on_ready(myself, message),
            // Of a ticket of the shard before: the snapshot has it, and the new shard counts its own from 1.
            Phase::Loading(_) if matches!(message, ShardMsg::Committed(..)) => {}
            Phase::Loading(waiting) => waiting.push_back(message),
            // Nobody can be waiting at a parked shard, and no commit is owed to it.
            Phase::Parked
                if matches!(
                    message,
                    ShardMsg::CancelRecv(_)
                        | ShardMsg::CloseStream(_)
                        | ShardMsg::Check(_)
                        | ShardMsg::EndWaits
                ) => {}
            Phase::Parked => self.load_behind(myself, VecDeque::from([message])),
            Phase::Recovering => refuse(message, &refusal(UnitFailure::NotTried)),
            Phase::Gone => refuse(message, &deleted()),
        }
    }

    fn on_ready(&mut self, myself: &ShardRef, message: ShardMsg) {
        self.used = self.now();
        match message {
            ShardMsg::Enqueue(messages, reply, permit) => self.enqueue(myself, messages, reply, permit),
            ShardMsg::Recv { waiter, want, wait_ms, stream, reply, permit } => {
                self.waiting.insert(waiter, reply, permit);
                let until = self.used.plus(wait_ms);
                let command = Command::Recv { waiter, want, until, stream };
                let Some(step) = self.apply(command) else { return };
                if let Reply::Refused(refusal) = &step.reply
                    && let Some(reply) = self.waiting.remove(waiter)
                {
                    let _ = reply.send(Err(refusal.clone()));
                }
                self.carry(myself, step, Vec::new(), None);
            }
            ShardMsg::OpenStream(stream, max_inflight, reply) => {
                let Some(step) = self.apply(Command::OpenStream { stream, max_inflight }) else { return };
                let _ = reply.send(match step.reply {
                    Reply::Refused(refusal) => Err(refusal),
                    _ => Ok(()),
                });
            }
            ShardMsg::CloseStream(stream) => self.apply_and_carry(myself, Command::CloseStream { stream }),
            ShardMsg::CancelRecv(waiter) => {
                self.waiting.remove(waiter);
                self.apply_and_carry(myself, Command::CancelRecv { waiter });
            }
            ShardMsg::Settle(command, reply, permit) => self.settle(myself, command, reply, permit),
            ShardMsg::Unwanted { deliveries } => {
                let (mode, delay_ms, note, entropy) = (NackMode::Release, None, None, 0);
                self.apply_and_carry(myself, Command::Nack { deliveries, mode, delay_ms, note, entropy });
            }
            ShardMsg::Corrupt(delivery) => {
                self.args.observer.integrity_failed();
                self.apply_and_carry(myself, Command::Corrupt { delivery });
            }
            ShardMsg::Rotted(slots) => {
                let Some(step) = self.apply(Command::Rotted { slots }) else { return };
                let moved = step.ops.iter().filter(|op| op.is_for_integrity()).count();
                (0..moved).for_each(|_| self.args.observer.integrity_failed());
                self.carry(myself, step, Vec::new(), None);
            }
            ShardMsg::Configure(change, reply, permit) => self.configure(myself, &change, reply, permit),
            ShardMsg::Purge(reply, permit) => self.purge(myself, reply, permit),
            ShardMsg::Dlq(message) => self.dlq(myself, message),
            ShardMsg::Subscribe(edit, reply, permit) => self.subscribe(myself, edit, reply, permit),
            ShardMsg::Copies(copies, reply, permit) => self.take_copies(myself, copies, reply, permit),
            ShardMsg::Delete(reply, permit) => self.close(myself, reply, permit),
            ShardMsg::Stat(reply) => self.stat(reply),
            ShardMsg::Check(reply) => self.check(reply),
            ShardMsg::Peek(peek, after, limit, reply) => self.peek(peek, after, limit, reply),
            ShardMsg::Look(slot, reply) => self.look(slot, reply),
            ShardMsg::Committed(ticket, outcomes) => self.committed(myself, ticket, &outcomes),
            ShardMsg::EndWaits => self.end_waits(myself),
            ShardMsg::Failed(_)
            | ShardMsg::Loaded(..)
            | ShardMsg::Reload(_)
            | ShardMsg::Tick(_)
            | ShardMsg::LeaveIfIdle(_)
            | ShardMsg::Leave
            | ShardMsg::Closed(_)
            | ShardMsg::Crash => {}
            // In memory it knows by itself what is due, unless that was held until now.
            ShardMsg::Wake => {
                self.args.entry.figures.set_in_memory();
                self.apply_and_carry(myself, Command::Tick);
            }
        }
    }

    /// Answers the receives that wait, empty.
    pub(super) fn end_waits(&mut self, myself: &ShardRef) {
        for waiter in self.waiting.all() {
            self.waiting.answer_empty(&[waiter]);
            self.apply_and_carry(myself, Command::CancelRecv { waiter });
        }
    }

    /// Applies a command; `None` if the shard is not in memory.
    pub(super) fn apply(&mut self, command: Command) -> Option<Step> {
        let now = self.now();
        match &mut self.phase {
            Phase::Ready(loaded) => {
                let wanted = match &command {
                    Command::Recv { want, .. } => u64::from(want.max_messages),
                    _ => 0,
                };
                if command.hands_out() {
                    self.args.entry.allow_deliveries(&mut loaded.shard, wanted);
                }
                loaded.shard.hold_ends(!self.args.clock.may_expire());
                Some(loaded.shard.apply(now, command))
            }
            Phase::Parked | Phase::Loading(_) | Phase::Recovering | Phase::Gone => None,
        }
    }

    /// Applies a command whose caller wants no answer.
    pub(super) fn apply_and_carry(&mut self, myself: &ShardRef, command: Command) {
        if let Some(step) = self.apply(command) {
            self.carry(myself, step, Vec::new(), None);
        }
    }

    fn enqueue(
        &mut self,
        myself: &ShardRef,
        mut messages: Vec<NewMessage>,
        reply: EnqueueReply,
        permit: Permit,
    ) {
        let Phase::Ready(loaded) = &self.phase else { return };
        if let Err(text) = self.args.entry.parts.reserve_send(messages.len() as u64, loaded.topic.is_some()) {
            self.book();
            let _ = reply.send(Err(Refusal::new(Reason::Backpressure, text)));
            return;
        }
        messages.iter_mut().for_each(|message| message.settle_claim(loaded.shard.settings()));
        let Some(step) = self.apply(Command::Enqueue { count: messages.len() as u32 }) else { return };
        if let Reply::Refused(refusal) = step.reply {
            self.book();
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

    fn settle(&mut self, myself: &ShardRef, command: Command, reply: SettleReply, permit: Permit) {
        let command = match command {
            Command::Nack { deliveries, mode, delay_ms, note, .. } => {
                self.entropy =
                    self.entropy.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(self.used.0 | 1);
                Command::Nack { deliveries, mode, delay_ms, note, entropy: self.entropy }
            }
            other => other,
        };
        let Some(mut step) = self.apply(command) else { return };
        let results = match std::mem::replace(&mut step.reply, Reply::None) {
            Reply::Settled(results) => results,
            Reply::None
            | Reply::Reserved
            | Reply::Purged(_)
            | Reply::Reprocessed { .. }
            | Reply::Refused(_) => Vec::new(),
        };
        let done = move |result: UnitResult<'_>| {
            drop(permit);
            let _ = reply.send(result.map(|_| results).map_err(refusal));
        };
        self.carry(myself, step, Vec::new(), Some(Box::new(done)));
    }

    fn committed(&mut self, myself: &ShardRef, ticket: Ticket, outcomes: &[PutOutcome]) {
        let Phase::Ready(loaded) = &mut self.phase else { return };
        if outcomes.iter().any(|outcome| matches!(outcome, PutOutcome::Stored(_))) {
            loaded.topic.get_or_insert_default();
        }
        while let Some((_, stats)) = loaded.owed.pop_front_if(|&mut (owed, _)| owed <= ticket) {
            self.args.entry.figures.set_committed(&stats);
        }
        self.args.entry.allow_deliveries(&mut loaded.shard, 0);
        let step = loaded.shard.committed(self.used, ticket, outcomes);
        self.carry(myself, step, Vec::new(), None);
        self.close_if_quiet(myself);
    }

    /// Brings a step's consequences where they belong.
    pub(super) fn carry(
        &mut self,
        myself: &ShardRef,
        step: Step,
        puts: Vec<NewMessage>,
        done: Option<OnDone>,
    ) {
        let Phase::Ready(loaded) = &mut self.phase else { return };
        let entry = &self.args.entry;
        loaded.tasks.returned(self.args.clock.now(), step.counts.dead_again);
        entry.task_runs.store(loaded.tasks.running().is_some(), Ordering::Release);
        self.waiting.answer_empty(&step.empty_handed);
        let grants = self.waiting.match_grants(entry, step.grants);
        if step.ticket.is_some() || done.is_some() {
            let stores = !puts.is_empty() || loaded.copies.is_some();
            let changed = step.configured || stores && loaded.topic.is_none();
            let state = loaded.topic.unwrap_or_default();
            let topic = changed.then(|| TopicRow { key: entry.key.clone(), state });
            let clocks_go_on = loaded.stillness.take().map(|stillness| stillness.over);
            let delete = std::mem::take(&mut loaded.deletes);
            let task = step.ticket.and_then(|_| loaded.tasks.take_changed());
            let (edit, copies) = (loaded.edit.take(), loaded.copies.take());
            // Where nothing is on disk there is nothing to keep beside it.
            let ram = loaded.shard.settings().ram && self.args.store.durable();
            let (epoch, ops) = (loaded.epoch, step.ops);
            let work = Work { epoch, topic, puts, ops, task, delete, edit, copies, clocks_go_on, ram };
            let ticket = step.ticket.map(|ticket| (ticket, self.sink.clone()));
            loaded.owed.extend(step.ticket.map(|ticket| (ticket, loaded.shard.stats())));
            let owes = loaded.shard.uncommitted() && !ron_core::planted!(RepeatAnsweredBeforeCommit);
            if ticket.is_none() && !delete && clocks_go_on.is_none() && !owes {
                // Nothing to write and nothing pending: the answer is already true.
                entry.history.record(self.args.clock.now(), entry.shard, step.events);
                if let Some(done) = done {
                    done(Ok(&[]));
                }
            } else {
                let (kept, events, now) = (entry.clone(), step.events, self.args.clock.now());
                let on_done = move |result: UnitResult<'_>| {
                    if result.is_ok() {
                        kept.history.record(now, kept.shard, events);
                    }
                    answer(result, grants, done);
                };
                let unit = Unit::new(entry.shard, work, ticket, Some(Box::new(on_done)));
                self.args.store.submit(unit.sharing(entry.parts.tenant.share()));
            }
        } else {
            entry.history.record(self.args.clock.now(), entry.shard, step.events);
        }
        self.count(&step.counts);
        self.book();
        self.arm(myself);
    }

    /// Books what the shard now holds of its tenant's quotas.
    pub(super) fn book(&self) {
        let Phase::Ready(loaded) = &self.phase else { return };
        let stats = loaded.shard.stats();
        // A first send whose commit is owed has its place among the topics, and loses it if it comes to nothing.
        let exists = loaded.topic.is_some() || loaded.shard.uncommitted();
        self.args.entry.parts.book(loaded.shard.depth(), stats.vis, exists);
    }

    fn count(&mut self, counts: &Counts) {
        let Phase::Ready(loaded) = &self.phase else { return };
        let (entry, stats) = (&self.args.entry, loaded.shard.stats());
        entry.figures.count(counts);
        entry.figures.set_applied(&stats);
        if !loaded.shard.uncommitted() {
            entry.figures.set_committed(&stats);
        }
        if counts.dead > 0 {
            self.args.observer.dead_lettered(&entry.key, counts.dead);
        }
        if counts.requeued_visibility > 0 {
            self.args.observer.requeued(&entry.key, counts.requeued_visibility);
        }
    }
}

/// After the commit: grants first, since they may be what the caller waits for, then the command's own answer.
fn answer(result: UnitResult<'_>, grants: Vec<(Option<RecvReply>, GrantedBox)>, done: Option<OnDone>) {
    for (reply, granted) in grants {
        match (result, reply) {
            // A caller that is gone gives them back by dropping them.
            (Ok(_), Some(reply)) => drop(reply.send(Ok(Some(granted)))),
            (Err(_), Some(reply)) if ron_core::planted!(DeliveredWithoutCommit) => {
                drop(reply.send(Ok(Some(granted))));
            }
            (Ok(_), None) => drop(granted),
            // The shard is being loaded anew: the store knows best who has what, and the next delivery may have
            // the number of this one.
            (Err(failure), reply) => {
                granted.void();
                let _ = reply.map(|reply| reply.send(Err(refusal(failure))));
            }
        }
    }
    if let Some(done) = done {
        done(result);
    }
}
