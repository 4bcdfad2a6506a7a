//! What operators and onlookers ask of a shard: settings, a purge, figures, a look at messages.

use super::loading::Phase;
use super::messages::{ConfigureReply, LookReply, PeekReply, PurgeReply, StatReply, TopicInForce, refusal};
use super::shard::{ShardRef, ShardState};
use super::tasks::Answer;
use crate::kernel::admission::Permit;
use crate::store::{OnDone, Unit, UnitResult, Work};
use ron_core::ids::Slot;
use ron_core::reason::{Reason, Refusal};
use ron_core::shard::{Command, PeekState, Reply, TopicChange, Violation};
use std::sync::atomic::Ordering;
use tokio::sync::oneshot;

impl ShardState {
    pub(super) fn configure(
        &mut self,
        myself: &ShardRef,
        change: &TopicChange,
        reply: ConfigureReply,
        permit: Permit,
    ) {
        let configured = self.args.config.settings;
        let Phase::Ready(loaded) = &mut self.phase else { return };
        let state = match loaded.topic.unwrap_or_default().changed(change, &configured) {
            Ok(state) => state,
            Err(refusal) => return drop(reply.send(Err(refusal))),
        };
        if let Err(text) = self.args.entry.parts.reserve_send(0, loaded.topic.is_some()) {
            return drop(reply.send(Err(Refusal::new(Reason::Backpressure, text))));
        }
        loaded.topic = Some(state);
        let (settings, paused) = (state.patch.over(&configured), state.paused);
        let Some(step) = self.apply(Command::Configure { settings, paused }) else { return };
        let entry = self.args.entry.clone();
        let done = move |result: UnitResult<'_>| {
            drop(permit);
            if result.is_ok() {
                entry.exists.store(true, Ordering::Release);
            }
            let _ = reply.send(result.map(|_| TopicInForce { settings, paused }).map_err(refusal));
        };
        self.carry(myself, step, Vec::new(), Some(Box::new(done)));
    }

    pub(super) fn purge(&mut self, myself: &ShardRef, reply: PurgeReply, permit: Permit) {
        let Some(step) = self.apply(Command::Purge) else { return };
        let Reply::Purged(purged) = step.reply else { return };
        let done = move |result: UnitResult<'_>| {
            drop(permit);
            let _ = reply.send(result.map(|_| purged).map_err(refusal));
        };
        self.carry(myself, step, Vec::new(), Some(Box::new(done)));
    }

    pub(super) fn check(&self, reply: oneshot::Sender<Result<(), Violation>>) {
        let Phase::Ready(loaded) = &self.phase else { return };
        let _ = reply.send(loaded.shard.check());
    }

    pub(super) fn stat(&mut self, reply: StatReply) {
        let Phase::Ready(loaded) = &self.phase else { return };
        let (stats, settings) = (loaded.shard.stats(), *loaded.shard.settings());
        let paused = loaded.shard.paused();
        let (shard, store) = (self.args.entry.shard, self.args.store.clone());
        self.after_commits(Box::new(move |result| match result {
            Err(failure) => drop(reply.send(Err(refusal(failure)))),
            Ok(_) => store.ask_later(Box::new(move |engine| {
                let figures = engine.map(|engine| (stats, engine.dedup_keys(shard), settings, paused));
                let _ = reply.send(figures.map_err(refusal));
            })),
        }));
    }

    pub(super) fn peek(
        &mut self,
        peek: PeekState,
        after: Option<(u64, Slot)>,
        limit: usize,
        reply: PeekReply,
    ) {
        let Phase::Ready(loaded) = &self.phase else { return };
        self.reply_behind(reply, loaded.shard.peek(peek, after, limit));
    }

    pub(super) fn look(&mut self, slot: Slot, reply: LookReply) {
        let Phase::Ready(loaded) = &self.phase else { return };
        self.reply_behind(reply, loaded.shard.state_of(slot));
    }

    /// Answers with what rests on the commits that are owed, after them.
    pub(super) fn reply_behind<T: Send + 'static>(&self, reply: Answer<T>, value: T) {
        self.after_commits(Box::new(move |result| {
            let _ = reply.send(result.map(|_| value).map_err(refusal));
        }));
    }

    /// Runs `done` when all that is owed now is committed, and with the failure if some of it was lost: a unit without
    /// work waits like any other, and fails with those before it. A question to the store would not, since the store
    /// goes on without what it lost.
    fn after_commits(&self, done: OnDone) {
        let Phase::Ready(loaded) = &self.phase else { return };
        if !loaded.shard.uncommitted() {
            return done(Ok(&[]));
        }
        let work = Work { epoch: loaded.epoch, ..Work::default() };
        let unit = Unit::new(self.args.entry.shard, work, None, Some(done));
        self.args.store.submit(unit.sharing(self.args.entry.parts.tenant.share()));
    }
}
