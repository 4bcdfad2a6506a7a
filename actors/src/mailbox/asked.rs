//! What operators and onlookers ask of a shard: settings, a purge, figures, a look at messages.

use super::loading::Phase;
use super::messages::{ConfigureReply, LookReply, PeekReply, PurgeReply, StatReply, TopicInForce, refusal};
use super::shard::{ShardRef, ShardState};
use crate::kernel::admission::Permit;
use crate::store::UnitResult;
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
        let shard = self.args.entry.shard;
        // Behind the pending commits: the figures may rest on them.
        self.args.store.ask_later(Box::new(move |engine| {
            let figures = engine.map(|engine| (stats, engine.dedup_keys(shard), settings, paused));
            let _ = reply.send(figures.map_err(refusal));
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
        let page = loaded.shard.peek(peek, after, limit);
        if !loaded.shard.uncommitted() {
            let _ = reply.send(Ok(page));
            return;
        }
        self.args.store.ask_later(Box::new(move |engine| {
            let _ = reply.send(engine.map(|_| page).map_err(refusal));
        }));
    }

    pub(super) fn look(&mut self, slot: Slot, reply: LookReply) {
        let Phase::Ready(loaded) = &self.phase else { return };
        let seen = loaded.shard.state_of(slot);
        if !loaded.shard.uncommitted() {
            let _ = reply.send(Ok(seen));
            return;
        }
        self.args.store.ask_later(Box::new(move |engine| {
            let _ = reply.send(engine.map(|_| seen).map_err(refusal));
        }));
    }
}
