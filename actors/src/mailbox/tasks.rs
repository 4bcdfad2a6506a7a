//! What operators do to a topic's dead letters, as its actor carries it: pages, purges, replacements, and the
//! tasks that bring them back. A task's row is written in the commit of what it moves.

use super::loading::Phase;
use super::messages::{EnqueueReply, PurgeReply, refusal};
use super::reprocessor;
use super::shard::{ShardRef, ShardState};
use crate::kernel::admission::Permit;
use crate::store::UnitResult;
use ron_core::ids::Slot;
use ron_core::message::{NewMessage, PutOutcome};
use ron_core::reason::{Reason, Refusal};
use ron_core::reprocess::{Draft, TASKS_KEPT, Task, TaskState};
use ron_core::shard::{Buried, Command, Reply};
use ron_core::time::Millis;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use tokio::sync::oneshot;

/// Where an answer goes.
pub type Answer<T> = oneshot::Sender<Result<T, Refusal>>;

/// What the actor is told about dead letters.
pub enum DlqMsg {
    /// Up to `limit` of them behind `after`; of `only` these, if given.
    Page {
        /// Behind which.
        after: Option<Slot>,
        /// How many.
        limit: usize,
        /// These alone, ascending.
        only: Option<Vec<Slot>>,
        /// Where it goes.
        reply: Answer<Vec<Buried>>,
    },
    /// End these.
    Purge(Vec<Slot>, PurgeReply, Permit),
    /// Store a message in the place of one.
    Replace(Box<NewMessage>, Slot, EnqueueReply, Permit),
    /// Begin a task.
    Begin {
        /// What is asked for.
        draft: Box<Draft>,
        /// How many match.
        matched: u64,
        /// When they were counted.
        started: Millis,
        /// The task as it begins.
        reply: Answer<Task>,
        /// Rides along until the answer.
        permit: Permit,
    },
    /// Move some for a task; from its reprocessor.
    Move(Move),
    /// All tasks, oldest first.
    Tasks(Answer<Vec<Task>>),
    /// End a task.
    Cancel(u64, Answer<Task>, Permit),
}

/// One step of a task.
pub struct Move {
    /// The load that started the reprocessor.
    pub run: u64,
    /// Which task.
    pub number: u64,
    /// What to move.
    pub slots: Vec<Slot>,
    /// All up to here have been looked at.
    pub cursor: Option<Slot>,
    /// There are no more.
    pub last: bool,
    /// How many were left because the topic is full; `None` = the task is over, or another reprocessor has it.
    pub reply: Answer<Option<usize>>,
}

impl DlqMsg {
    /// Says no.
    pub(super) fn refuse(self, refusal: Refusal) {
        match self {
            DlqMsg::Page { reply, .. } => drop(reply.send(Err(refusal))),
            DlqMsg::Purge(_, reply, _) => drop(reply.send(Err(refusal))),
            DlqMsg::Replace(_, _, reply, _) => drop(reply.send(Err(refusal))),
            DlqMsg::Begin { reply, .. } | DlqMsg::Cancel(_, reply, _) => drop(reply.send(Err(refusal))),
            DlqMsg::Move(step) => drop(step.reply.send(Err(refusal))),
            DlqMsg::Tasks(reply) => drop(reply.send(Err(refusal))),
        }
    }
}

/// The tasks of a topic, the newest few.
#[derive(Debug, Default)]
pub(super) struct Tasks {
    all: BTreeMap<u64, Task>,
    changed: bool,
}

impl Tasks {
    pub(super) fn new(all: BTreeMap<u64, Task>) -> Tasks {
        Tasks { all, changed: false }
    }

    /// The only one that may run.
    pub(super) fn newest(&self) -> Option<&Task> {
        self.all.last_key_value().map(|(_, task)| task)
    }

    pub(super) fn running(&self) -> Option<&Task> {
        self.newest().filter(|task| task.runs())
    }

    /// `n` that the newest task moved are dead again.
    pub(super) fn returned(&mut self, now: Millis, n: u64) {
        if n > 0 {
            self.change(|task| task.returned(now, n));
        }
    }

    /// The row that must be written, if any.
    pub(super) fn take_changed(&mut self) -> Option<Box<Task>> {
        std::mem::take(&mut self.changed).then(|| self.newest().cloned().map(Box::new)).flatten()
    }

    fn push(&mut self, task: Task) {
        self.all.insert(task.number, task);
        if self.all.len() > TASKS_KEPT {
            self.all.pop_first();
        }
        self.changed = true;
    }

    fn change(&mut self, how: impl FnOnce(&mut Task)) {
        if let Some(mut newest) = self.all.last_entry() {
            how(newest.get_mut());
            self.changed = true;
        }
    }
}

impl ShardState {
    pub(super) fn dlq(&mut self, myself: &ShardRef, message: DlqMsg) {
        match message {
            DlqMsg::Page { after, limit, only, reply } => self.page(after, limit, only.as_deref(), reply),
            DlqMsg::Purge(slots, reply, permit) => self.purge_dead(myself, slots, reply, permit),
            DlqMsg::Replace(message, slot, reply, permit) => {
                self.replace(myself, *message, slot, reply, permit);
            }
            DlqMsg::Begin { draft, matched, started, reply, permit } => {
                let Phase::Ready(loaded) = &mut self.phase else { return };
                if loaded.tasks.running().is_some() {
                    let text = "a task of this topic is running: wait for it, or cancel it";
                    return drop(reply.send(Err(Refusal::new(Reason::Conflict, text))));
                }
                let number = loaded.tasks.newest().map_or(0, |task| task.number) + 1;
                let from = loaded.shard.tail();
                loaded.shard.watch_from(from);
                let task = Task::begin(number, *draft, matched, started, from);
                loaded.tasks.push(task);
                self.write_task(myself, reply, permit);
                self.resume_task(myself);
            }
            DlqMsg::Move(step) => self.move_dead(myself, step),
            DlqMsg::Tasks(reply) => {
                let Phase::Ready(loaded) = &self.phase else { return };
                self.reply_behind(reply, loaded.tasks.all.values().cloned().collect());
            }
            DlqMsg::Cancel(number, reply, permit) => self.cancel_task(myself, number, reply, permit),
        }
    }

    /// Has a reprocessor go on with the task that runs, if there is one.
    pub(super) fn resume_task(&self, myself: &ShardRef) {
        let Phase::Ready(loaded) = &self.phase else { return };
        let running = loaded.tasks.running();
        self.args.entry.task_runs.store(running.is_some(), Ordering::Release);
        if let Some(task) = running.cloned() {
            let (reader, shard) = (self.args.store.reader().clone(), self.args.entry.shard);
            tokio::spawn(reprocessor::run(myself.clone(), self.load, task, reader, shard));
        }
    }

    fn page(&self, after: Option<Slot>, limit: usize, only: Option<&[Slot]>, reply: Answer<Vec<Buried>>) {
        let Phase::Ready(loaded) = &self.phase else { return };
        let page = match only {
            None => loaded.shard.buried(after, limit),
            Some(slots) => {
                let rest = slots.iter().filter(|slot| after.is_none_or(|after| **slot > after));
                rest.filter_map(|slot| loaded.shard.buried_at(*slot)).take(limit).collect()
            }
        };
        self.reply_behind(reply, page);
    }

    fn purge_dead(&mut self, myself: &ShardRef, slots: Vec<Slot>, reply: PurgeReply, permit: Permit) {
        let Some(step) = self.apply(Command::PurgeDead { slots }) else { return };
        let Reply::Purged(purged) = step.reply else { return };
        let done = move |result: UnitResult<'_>| {
            drop(permit);
            let _ = reply.send(result.map(|_| purged).map_err(refusal));
        };
        self.carry(myself, step, Vec::new(), Some(Box::new(done)));
    }

    fn replace(
        &mut self,
        myself: &ShardRef,
        message: NewMessage,
        slot: Slot,
        reply: EnqueueReply,
        permit: Permit,
    ) {
        if let Err(text) = self.args.entry.parts.reserve_send(1, true) {
            self.book();
            return drop(reply.send(Err(Refusal::new(Reason::Backpressure, text))));
        }
        let Some(mut step) = self.apply(Command::Replace { slot }) else { return };
        if let Reply::Refused(refusal) = std::mem::replace(&mut step.reply, Reply::None) {
            self.book();
            return drop(reply.send(Err(refusal)));
        }
        let entry = self.args.entry.clone();
        let done = move |result: UnitResult<'_>| {
            drop(permit);
            let stored = |outcome: &&PutOutcome| matches!(outcome, PutOutcome::Stored(_));
            if let Ok(outcomes) = result {
                entry.figures.count_enqueued(outcomes.iter().filter(stored).count() as u64);
            }
            let _ = reply.send(result.map(<[PutOutcome]>::to_vec).map_err(refusal));
        };
        self.carry(myself, step, vec![message], Some(Box::new(done)));
    }

    fn move_dead(&mut self, myself: &ShardRef, step: Move) {
        let Move { run, number, slots, cursor, last, reply } = step;
        let Phase::Ready(loaded) = &self.phase else { return };
        let its = |task: &&Task| run == self.load && task.number == number;
        let Some(room) = loaded.tasks.running().filter(its).map(Task::room) else {
            return self.reply_behind(reply, None);
        };
        let wanted: Vec<Slot> =
            slots.iter().copied().take(usize::try_from(room).unwrap_or(usize::MAX)).collect();
        if self.args.entry.parts.reserve_send(wanted.len() as u64, true).is_err() {
            // The tenant holds as much as it may: as if the topic were full.
            self.book();
            return self.reply_behind(reply, Some(slots.len()));
        }
        let Some(mut step) = self.apply(Command::Reprocess { slots: wanted.clone() }) else { return };
        let (moved, left) = match std::mem::replace(&mut step.reply, Reply::None) {
            Reply::Reprocessed { moved, left } => (moved, left),
            Reply::None | Reply::Reserved | Reply::Settled(_) | Reply::Purged(_) | Reply::Refused(_) => {
                (0, 0)
            }
        };
        let looked_at = if left == 0 { cursor } else { wanted[..wanted.len() - left].last().copied() };
        let now = self.now();
        let Phase::Ready(loaded) = &mut self.phase else { return };
        loaded.tasks.change(|task| task.moved(now, moved, looked_at, last && left == 0));
        let done = move |result: UnitResult<'_>| {
            let _ = reply.send(result.map(|_| Some(left)).map_err(refusal));
        };
        if step.ticket.is_none() {
            // Nothing was moved, but how far it has looked must be known.
            self.carry(myself, step, Vec::new(), None);
            let Some(noted) = self.in_force_again() else { return };
            return self.carry(myself, noted, Vec::new(), Some(Box::new(done)));
        }
        self.carry(myself, step, Vec::new(), Some(Box::new(done)));
    }

    fn cancel_task(&mut self, myself: &ShardRef, number: u64, reply: Answer<Task>, permit: Permit) {
        let now = self.now();
        let Phase::Ready(loaded) = &mut self.phase else { return };
        if loaded.tasks.running().is_some_and(|task| task.number == number) {
            loaded.tasks.change(|task| task.end(now, TaskState::Cancelled));
            return self.write_task(myself, reply, permit);
        }
        match loaded.tasks.all.get(&number).cloned() {
            Some(task) => self.reply_behind(reply, task),
            None => drop(reply.send(Err(no_such_task()))),
        }
    }

    /// Writes the newest task and answers with it.
    fn write_task(&mut self, myself: &ShardRef, reply: Answer<Task>, permit: Permit) {
        let Phase::Ready(loaded) = &self.phase else { return };
        let Some(task) = loaded.tasks.newest().cloned() else { return };
        let Some(step) = self.in_force_again() else { return };
        let done = move |result: UnitResult<'_>| {
            drop(permit);
            let _ = reply.send(result.map(|_| task).map_err(refusal));
        };
        self.carry(myself, step, Vec::new(), Some(Box::new(done)));
    }

    /// A step that changes nothing but owes a commit: for a row that no message's change takes along.
    fn in_force_again(&mut self) -> Option<ron_core::shard::Step> {
        let Phase::Ready(loaded) = &self.phase else { return None };
        let (settings, paused) = (*loaded.shard.settings(), loaded.shard.paused());
        self.apply(Command::Configure { settings, paused })
    }
}

/// What is said of a task that is not there.
pub(super) fn no_such_task() -> Refusal {
    Refusal::new(Reason::NotFound, "no such task of this topic: the newest 16 are kept")
}
