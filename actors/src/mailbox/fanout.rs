//! Subscribers of a topic: changing and reading its list, and taking copies into a queue. Who brings them is in
//! [`super::courier`].

use super::api::{Mailbox, admit, received};
use super::loading::Phase;
use super::messages::{ShardMsg, refusal};
use super::shard::{ShardRef, ShardState};
use crate::kernel::admission::Permit;
use crate::store::{Copies, ListEdit, UnitResult};
use ron_core::fanout::{Edit, ListInForce, Listed};
use ron_core::ids::{QueueKey, Topic};
use ron_core::message::PutOutcome;
use ron_core::reason::{Reason, Refusal};
use ron_core::shard::{Command, Reply};
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::Ordering;
use tokio::sync::{mpsc, oneshot};

/// The list after a change.
pub type SubscribeReply = oneshot::Sender<Result<ListInForce, Refusal>>;

/// What became of copies that were brought to a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Brought {
    /// They are in it, durably.
    All,
    /// As many as there was room for.
    Some,
    /// They had been brought before.
    Overtaken,
    /// None of them, or nobody knows.
    Not(Reason),
}

/// Tells the courier, whatever happens: dropped, it says that nobody knows.
#[derive(Debug)]
pub struct CopiesReply {
    number: u32,
    reports: Option<mpsc::UnboundedSender<(u32, Brought)>>,
}

impl CopiesReply {
    /// For the subscription of this number. It has at most one under way, which is what bounds the channel.
    pub(super) fn new(number: u32, reports: mpsc::UnboundedSender<(u32, Brought)>) -> CopiesReply {
        CopiesReply { number, reports: Some(reports) }
    }

    pub(super) fn send(mut self, brought: Brought) {
        self.report(brought);
    }

    fn report(&mut self, brought: Brought) {
        if let Some(reports) = self.reports.take() {
            // Without a courier there is nobody to tell; the next one looks at the cursors.
            let _ = reports.send((self.number, brought));
        }
    }
}

impl Drop for CopiesReply {
    fn drop(&mut self) {
        self.report(Brought::Not(Reason::DownstreamUnavailable));
    }
}

/// A page of a topic's list of subscribers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SubscriberPage {
    /// Counts the changes of the list.
    pub version: u64,
    /// Subscribers on it.
    pub count: u64,
    /// In the order of their names.
    pub subscribers: Vec<Listed>,
    /// The name to go on behind; `None` at the end.
    pub cursor: Option<Topic>,
}

impl ShardState {
    pub(super) fn subscribe(&mut self, myself: &ShardRef, edit: Edit, reply: SubscribeReply, permit: Permit) {
        let entry = self.args.entry.clone();
        let Phase::Ready(loaded) = &mut self.phase else { return };
        // The store judges again, when nothing can come between. This keeps a refused call from making the topic.
        let judged = self.args.store.reader().fans().lock().judge(entry.shard, &entry.key, &edit);
        if let Err(refusal) = judged {
            return drop(reply.send(Err(refusal)));
        }
        if let Err(text) = entry.parts.reserve_send(0, loaded.topic.is_some()) {
            return drop(reply.send(Err(Refusal::new(Reason::Backpressure, text))));
        }
        let state = *loaded.topic.get_or_insert_default();
        let verdict: Arc<OnceLock<Result<ListInForce, Refusal>>> = Arc::default();
        loaded.edit = Some(Box::new(ListEdit { edit, verdict: verdict.clone() }));
        let (settings, paused) = (state.patch.over(&self.args.config.settings), state.paused);
        let Some(step) = self.apply(Command::Configure { settings, paused }) else { return };
        let done = move |result: UnitResult<'_>| {
            drop(permit);
            let in_force = result.map_err(refusal).and_then(|_| {
                entry.exists.store(true, Ordering::Release);
                let lost = || Err(Refusal::new(Reason::Internal, "the store did not say what it did"));
                verdict.get().cloned().unwrap_or_else(lost)
            });
            let _ = reply.send(in_force);
        };
        self.carry(myself, step, Vec::new(), Some(Box::new(done)));
    }

    /// Takes as many of the copies as there is room for. Their places and the cursor's step are one commit.
    pub(super) fn take_copies(
        &mut self,
        myself: &ShardRef,
        mut copies: Box<Copies>,
        reply: CopiesReply,
        permit: Permit,
    ) {
        let Phase::Ready(loaded) = &self.phase else { return };
        let exists = loaded.topic.is_some();
        let room = loaded.shard.settings().max_depth.saturating_sub(loaded.shard.depth());
        let wanted = copies.messages.len();
        let mut fits = wanted.min(usize::try_from(room).unwrap_or(usize::MAX)).max(1);
        while self.args.entry.parts.reserve_send(fits as u64, exists).is_err() {
            if fits == 1 {
                self.book();
                return reply.send(Brought::Not(Reason::Backpressure));
            }
            fits /= 2;
        }
        copies.cut_to(fits);
        let Some(step) = self.apply(Command::Enqueue { count: fits as u32 }) else { return };
        if let Reply::Refused(refusal) = &step.reply {
            self.book();
            return reply.send(Brought::Not(refusal.reason));
        }
        let Phase::Ready(loaded) = &mut self.phase else { return };
        loaded.copies = Some(copies);
        let entry = self.args.entry.clone();
        let done = move |result: UnitResult<'_>| {
            drop(permit);
            let stored = |outcome: &&PutOutcome| matches!(outcome, PutOutcome::Stored(_));
            let brought = match result {
                Ok(outcomes) => {
                    let stored = outcomes.iter().filter(stored).count();
                    entry.exists.store(true, Ordering::Release);
                    entry.figures.count_enqueued(stored as u64);
                    match stored {
                        0 => Brought::Overtaken,
                        some if some < wanted => Brought::Some,
                        _ => Brought::All,
                    }
                }
                Err(failure) => Brought::Not(refusal(failure).reason),
            };
            reply.send(brought);
        };
        self.carry(myself, step, Vec::new(), Some(Box::new(done)));
    }
}

impl Mailbox {
    /// Changes the list of a topic's subscribers; answers after the commit. Adding some makes the topic exist.
    ///
    /// # Errors
    /// MALFORMED, naming what cannot be; NOT_FOUND if a topic never used is to lose subscribers; otherwise as for
    /// [`Mailbox::recv`].
    pub async fn subscribe(&self, queue: &QueueKey, edit: Edit) -> Result<ListInForce, Refusal> {
        edit.check(queue)?;
        let entry = match edit.add.is_empty() {
            true => self.existing(queue)?,
            false => self.inner.directory.get_or_create(queue)?,
        };
        let permit = admit(&entry.requests, 0)?;
        let (reply, answer) = oneshot::channel();
        self.send(&entry, ShardMsg::Subscribe(edit, reply, permit)).await?;
        received(answer.await)
    }

    /// A page of the list of a topic's subscribers behind `after`, as it is committed.
    ///
    /// # Errors
    /// NOT_FOUND for a topic never used, STORAGE if the store is down.
    pub async fn subscribers(
        &self,
        queue: &QueueKey,
        after: Option<Topic>,
        limit: usize,
    ) -> Result<SubscriberPage, Refusal> {
        let shard = self.existing(queue)?.shard;
        let page = self.inner.store.ask(move |engine| {
            engine.list_of(shard, |fan| {
                let subscribers = fan.listed(after.as_ref(), limit);
                let cursor = subscribers.last().filter(|_| subscribers.len() == limit);
                let cursor = cursor.map(|last| last.topic.clone());
                SubscriberPage { version: fan.version(), count: fan.count(), subscribers, cursor }
            })
        });
        Ok(page.await.map_err(refusal)?.unwrap_or_default())
    }
}
