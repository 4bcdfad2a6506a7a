//! How a shard comes out of the store, and what it is while it does not: parked, being loaded, or recovering.

use super::directory::MovesInDoubt;
use super::messages::{ShardMsg, refusal};
use super::shard::{ShardArgs, ShardRef, ShardState};
use super::tasks::Tasks;
use crate::blocking::Job;
use crate::store::{Copies, ListEdit, ShardEpoch, StoreError, UnitFailure, UnitResult};
use ron_core::ids::Slot;
use ron_core::message::{self, MsgState};
use ron_core::shard::{Command, Recovery, Shard, Stats, Ticket, TopicState};
use ron_core::time::Millis;
use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// First wait before loading is tried again, ms; doubles up to a second.
pub(super) const RELOAD_AFTER_MS: u64 = 50;

/// A shard out of the store.
#[derive(Debug)]
pub struct Loaded {
    pub(super) shard: Shard,
    pub(super) epoch: ShardEpoch,
    /// What an operator set; `None` = the topic does not exist yet.
    pub(super) topic: Option<TopicState>,
    /// The next commit deletes the topic.
    pub(super) deletes: bool,
    /// It was deleted before.
    pub(super) deleted: bool,
    /// Of the next commit: a change of its list of subscribers.
    pub(super) edit: Option<Box<ListEdit>>,
    /// Of the next commit: copies for it.
    pub(super) copies: Option<Box<Copies>>,
    /// What operators have it do.
    pub(super) tasks: Tasks,
    /// When it was loaded and how long its lease clocks had stood still, if they had: written down with the
    /// first tick.
    pub(super) stillness: Option<Stillness>,
    /// What the commits that are owed make of the depths, in their order.
    pub(super) owed: VecDeque<(Ticket, Stats)>,
}

/// Lease clocks that go on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stillness {
    pub(super) over: Millis,
    pub(super) lasted_ms: u64,
    /// A lease that it moves, and its deadline before.
    pub(super) moves: Option<(Slot, Millis)>,
}

/// Where a shard's state is.
pub(super) enum Phase {
    /// No state in memory; the next command loads it.
    Parked,
    /// Being loaded: commands wait in order.
    Loading(VecDeque<ShardMsg>),
    /// The store cannot give it now: commands are refused until it can.
    Recovering,
    Ready(Box<Loaded>),
    /// The topic was deleted; the actor ends.
    Gone,
}

impl ShardState {
    pub(super) fn load_behind(&mut self, myself: &ShardRef, waiting: VecDeque<ShardMsg>) {
        self.phase = Phase::Loading(waiting);
        self.load += 1;
        let (load, args, myself) = (self.load, self.args.clone(), myself.clone());
        tokio::spawn(async move {
            let loaded = load_shard(args).await;
            let _ = myself.cast(ShardMsg::Loaded(load, Box::new(loaded)));
        });
    }

    pub(super) fn loaded(&mut self, myself: &ShardRef, result: Result<Loaded, StoreError>) {
        let waiting = match std::mem::replace(&mut self.phase, Phase::Recovering) {
            Phase::Loading(waiting) => waiting,
            Phase::Parked | Phase::Recovering | Phase::Ready(_) | Phase::Gone => VecDeque::new(),
        };
        match result {
            // The actor before this one died between the commit and its end.
            Ok(loaded) if loaded.deleted => self.leave(myself, waiting),
            Ok(loaded) => {
                self.args.entry.exists.store(loaded.topic.is_some(), Ordering::Release);
                self.args.entry.figures.set_in_memory();
                self.phase = Phase::Ready(Box::new(loaded));
                self.reload_ms = RELOAD_AFTER_MS;
                self.used = self.now();
                self.write_stillness(myself);
                self.resume_task(myself);
                waiting.into_iter().for_each(|message| self.command(myself, message));
            }
            Err(error) => {
                tracing::warn!(%error, queue = %self.args.entry.key, "a queue cannot be loaded yet");
                self.args.entry.stands_still_from(self.now(), &self.args.store);
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
        self.args.entry.allow_deliveries(&mut loaded.shard, 0);
        loaded.shard.hold_ends(!self.args.clock.may_expire());
        let step = loaded.shard.apply(now, Command::Tick);
        let Some(Stillness { over, lasted_ms, moves }) = loaded.stillness else {
            return self.carry(myself, step, Vec::new(), None);
        };
        let entry = self.args.entry.clone();
        let done = move |result: UnitResult<'_>| match (result, moves) {
            // Where there was no lease to move, nothing has to be known of the time.
            (Ok(_), _) | (_, None) => entry.stillness_written(lasted_ms),
            (Err(UnitFailure::Indeterminate), Some(lease)) => {
                entry.moves_in_doubt(Some(MovesInDoubt { over, lasted_ms, lease }));
            }
            (Err(UnitFailure::NotTried | UnitFailure::StaleEpoch), Some(_)) => {}
        };
        self.carry(myself, step, Vec::new(), Some(Box::new(done)));
    }

    pub(super) fn failed(&mut self, myself: &ShardRef, failure: UnitFailure) {
        if !matches!(self.phase, Phase::Ready(_)) {
            return; // another ticket of the same failure
        }
        tracing::warn!(?failure, queue = %self.args.entry.key, "a queue lost a commit and loads itself anew");
        self.args.entry.stands_still_from(self.now(), &self.args.store);
        self.waiting.refuse_all(&refusal(UnitFailure::NotTried));
        self.timer.cancel();
        self.load_behind(myself, VecDeque::new());
        self.close_no_more(myself, failure);
    }
}

/// Takes what it loads from at its place in the store's queue; what is not read by then is read on the blocking pool.
async fn load_shard(args: ShardArgs) -> Result<Loaded, StoreError> {
    let job = args.store.load(args.entry.shard).await?;
    let (now, is_read) = (args.clock.now(), job.is_read());
    let (configured, store, entry) = (args.config.settings, args.store.clone(), args.entry.clone());
    let blocking = args.store.blocking().clone();
    let scan = move || {
        if let Some(doubt) = entry.doubt() {
            // What was in that commit came after the lease was as it is in here, if it is.
            let (slot, before) = doubt.lease;
            let as_before = |state: &MsgState| state.phase == message::Phase::Leased && state.at == before;
            if !job.state_of(slot)?.as_ref().is_some_and(as_before) {
                entry.stillness_written(doubt.lasted_ms);
                store.went_on(entry.shard, doubt.over, entry.down_since());
            }
            entry.moves_in_doubt(None);
        }
        let lasted_ms = entry.goes_on_at(now);
        let stood_still_ms = lasted_ms.unwrap_or(0);
        let (deletes, deleted) = (false, job.deleted);
        let (epoch, topic, tasks) = (job.epoch, job.topic, Tasks::new(job.tasks.clone()));
        let state = topic.unwrap_or_default();
        let lost = ron_core::planted!(SettingsLostOnLoad);
        let settings = if lost { configured } else { state.patch.over(&configured) };
        let mut recovery = Recovery::new(settings, state.paused, now, stood_still_ms);
        job.run(&mut |message| recovery.push(message))?;
        let moves = recovery.first_moved();
        let stillness = lasted_ms.map(|lasted_ms| Stillness { over: now, lasted_ms, moves });
        let mut shard = recovery.finish();
        tasks.newest().into_iter().for_each(|task| shard.watch_from(task.from));
        let (edit, copies, owed) = (None, None, VecDeque::new());
        Ok(Loaded { shard, epoch, topic, deletes, deleted, edit, copies, tasks, stillness, owed })
    };
    if is_read {
        return scan(); // needs no thread
    }
    blocking.run(Job::Load, scan).await.unwrap_or(Err(StoreError::Reopening))
}
