//! Brings copies to subscribers: an actor with one courier for each list. A courier holds nothing that matters:
//! where each subscriber is stands in the store, moves with the copies in one commit, and a step from anywhere else
//! is refused there. So a courier may be killed at any moment, and two of them do no harm.

use super::api::Mailbox;
use super::fanout::{Brought, CopiesReply};
use super::messages::ShardMsg;
use crate::kernel::handle::CastError;
use crate::store::{Copies, ReadFailure};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use ron_core::fanout::{Advance, Batch, COPIES_MAX, Due, Fan};
use ron_core::ids::{ShardId, Slot};
use ron_core::message::{CopyOf, MessageMeta};
use ron_core::reason::Reason;
use ron_core::time::Millis;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::task::AbortHandle;

/// The address of the actor.
pub type FanoutRef = ActorRef<FanoutMsg>;

/// Chunks looked at together.
const CHUNKS_TOGETHER: usize = 64;
/// Messages read at once for their attributes: each may have a megabyte.
const READ_TOGETHER: usize = 8;
/// Queues that are being started for one list.
const STARTS_MAX: usize = 64;
/// First rest of a subscriber that does not take its copies, ms; doubles up to a second.
const REST_MS: u64 = 50;
const REST_MS_MAX: u64 = 1_000;
/// How long it is remembered that a subscriber had to rest, ms.
const REST_REMEMBERED_MS: u64 = 10_000;

/// What the actor is told.
#[derive(Debug)]
pub enum FanoutMsg {
    /// There may be lists without a courier.
    Look,
    /// The courier of this list has nobody left to go to.
    Over(ShardId),
}

/// What it keeps: tasks that end with it.
#[derive(Debug)]
pub struct FanoutState {
    mailbox: Mailbox,
    couriers: BTreeMap<ShardId, AbortHandle>,
    listener: AbortHandle,
}

impl Drop for FanoutState {
    fn drop(&mut self) {
        self.listener.abort();
        self.couriers.values().for_each(AbortHandle::abort);
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Fanout;

impl Actor for Fanout {
    type Msg = FanoutMsg;
    type State = FanoutState;
    type Arguments = Mailbox;

    async fn pre_start(
        &self,
        myself: FanoutRef,
        mailbox: Mailbox,
    ) -> Result<FanoutState, ActorProcessingErr> {
        let (reader, actor) = (mailbox.inner.store.reader().clone(), myself.clone());
        let listener = tokio::spawn(async move {
            loop {
                reader.fans().news.notified().await;
                if actor.cast(FanoutMsg::Look).is_err() {
                    return;
                }
            }
        });
        myself.cast(FanoutMsg::Look)?;
        Ok(FanoutState { mailbox, couriers: BTreeMap::new(), listener: listener.abort_handle() })
    }

    async fn handle(
        &self,
        myself: FanoutRef,
        message: FanoutMsg,
        state: &mut FanoutState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            FanoutMsg::Look => state.look(&myself),
            FanoutMsg::Over(list) => {
                state.couriers.remove(&list);
                state.mailbox.inner.store.reader().fans().take_down(list);
                // It may have got subscribers meanwhile.
                state.look(&myself);
            }
        }
        Ok(())
    }
}

impl FanoutState {
    fn look(&mut self, myself: &FanoutRef) {
        let fans = self.mailbox.inner.store.reader().fans();
        let lists: Vec<ShardId> =
            fans.lock().lists().filter(|(_, fan)| fan.has_places()).map(|(list, _)| list).collect();
        for list in lists {
            self.couriers.entry(list).or_insert_with(|| {
                let courier = Courier::new(self.mailbox.clone(), list, fans.bell(list));
                let actor = myself.clone();
                let run = async move {
                    courier.run().await;
                    let _ = actor.cast(FanoutMsg::Over(list));
                };
                tokio::spawn(run).abort_handle()
            });
        }
    }
}

/// A subscriber that did not take its copies.
#[derive(Debug, Clone, Copy)]
struct Rest {
    until: Millis,
    ms: u64,
}

struct Courier {
    mailbox: Mailbox,
    list: ShardId,
    bell: Arc<Notify>,
    /// Subscriptions with copies under way.
    busy: BTreeSet<u32>,
    rests: BTreeMap<u32, Rest>,
    reports: mpsc::UnboundedSender<(u32, Brought)>,
    reported: mpsc::UnboundedReceiver<(u32, Brought)>,
    starts: Arc<Semaphore>,
}

impl Courier {
    fn new(mailbox: Mailbox, list: ShardId, bell: Arc<Notify>) -> Courier {
        let (reports, reported) = mpsc::unbounded_channel();
        let (busy, rests) = (BTreeSet::new(), BTreeMap::new());
        let starts = Arc::new(Semaphore::new(STARTS_MAX));
        Courier { mailbox, list, bell, busy, rests, reports, reported, starts }
    }

    /// Goes on until the list has no subscriptions.
    async fn run(mut self) {
        while let Some(moved) = self.round().await {
            if !moved {
                self.wait().await;
            }
        }
    }

    /// Brings everybody who is neither busy nor resting the next messages. Returns whether a cursor has moved
    /// already; `None` = the list is over.
    async fn round(&mut self) -> Option<bool> {
        let now = self.mailbox.inner.clock.now();
        self.rests.retain(|_, rest| rest.until.plus(REST_REMEMBERED_MS) > now);
        let resting = |number: u32| self.rests.get(&number).is_some_and(|rest| rest.until > now);
        let mut due: Vec<Due> = {
            let fans = self.mailbox.inner.store.reader().fans().lock();
            let fan = fans.list(self.list).filter(|fan| fan.has_places())?;
            if self.mailbox.inner.store.reader().fans().is_held_up() {
                return Some(false);
            }
            fan.due().filter(|due| !self.busy.contains(&due.number) && !resting(due.number)).collect()
        };
        due.sort_by_key(|due| due.from); // stable: the order of their numbers stays
        let mut passes = Vec::new();
        for together in due.chunk_by(|a, b| a.from == b.from) {
            let numbers: Vec<u32> = together.iter().map(|due| due.number).collect();
            if let Some(first) = together.first() {
                self.bring(first.from, &numbers, &mut passes).await;
            }
        }
        self.mailbox.inner.store.reader().fans().pass(&passes);
        Some(!passes.is_empty())
    }

    /// Brings the next messages to subscribers whose cursors are at one place.
    async fn bring(&mut self, from: Slot, numbers: &[u32], passes: &mut Vec<Advance>) {
        let batch = |fan: &Fan| fan.batch(from, numbers, CHUNKS_TOGETHER);
        let reader = self.mailbox.inner.store.reader().clone();
        let Batch { due: together, chunks } =
            reader.fans().lock().list(self.list).map(batch).unwrap_or_default();
        let filters = together.iter().any(|due| !due.subscription.filter.is_open());
        let Ok((sent, to)) = reader.sent(chunks, from, COPIES_MAX).await else {
            return self.rest_all(&together);
        };
        let metas = match filters {
            true => self.metas(&sent).await,
            false => Ok(Vec::new()),
        };
        let Ok(metas) = metas else { return self.rest_all(&together) };
        if to <= from {
            return;
        }
        for due in &together {
            let subscription = &due.subscription;
            // What cannot be read is not kept from anybody: its copies go to their dead-letter queues.
            let wanted = |i: usize| {
                metas
                    .get(i)
                    .is_none_or(|meta| meta.as_ref().is_none_or(|meta| subscription.filter.wants(meta)))
            };
            let its_own = |of: &CopyOf| subscription.until.is_none_or(|until| of.slot < until);
            let messages: Vec<CopyOf> = sent
                .iter()
                .enumerate()
                .filter(|(i, of)| its_own(of) && wanted(*i))
                .map(|(_, of)| *of)
                .collect();
            let (list, number, since) = (self.list, due.number, subscription.since);
            let step = Advance { list, number, since, from, to };
            match messages.is_empty() {
                true => passes.push(step),
                false => self.hand_over(due, Copies { step, messages }),
            }
        }
    }

    /// The attributes of messages; `None` of what cannot be read.
    async fn metas(&self, sent: &[CopyOf]) -> Result<Vec<Option<MessageMeta>>, ReadFailure> {
        let mut metas = Vec::with_capacity(sent.len());
        for some in sent.chunks(READ_TOGETHER) {
            let slots: Vec<Slot> = some.iter().map(|of| of.slot).collect();
            for message in self.mailbox.inner.store.reader().fetch(slots).await {
                metas.push(match message {
                    Ok(message) => Some(message.meta),
                    Err(ReadFailure::Gone | ReadFailure::Damaged) => None,
                    Err(ReadFailure::Store) => return Err(ReadFailure::Store),
                });
            }
        }
        Ok(metas)
    }

    fn hand_over(&mut self, due: &Due, copies: Copies) {
        let full = Brought::Not(Reason::Backpressure);
        let Ok(entry) = self.mailbox.inner.directory.get_or_create(&due.subscription.queue) else {
            return self.rest(due.number, full);
        };
        let Ok(permit) = entry.requests.try_acquire(0) else { return self.rest(due.number, full) };
        self.busy.insert(due.number);
        let reply = CopiesReply::new(due.number, self.reports.clone());
        match entry.handle.cast(ShardMsg::Copies(Box::new(copies), reply, permit)) {
            // A message that is dropped reports itself.
            Ok(()) | Err(CastError::Quarantined(_)) => {}
            Err(CastError::Down(message)) => {
                let (mailbox, starts) = (self.mailbox.clone(), self.starts.clone());
                tokio::spawn(async move {
                    if let Ok(_turn) = starts.acquire().await {
                        let _ = mailbox.send(&entry, message).await;
                    }
                });
            }
        }
    }

    fn rest_all(&mut self, together: &[Due]) {
        together.iter().for_each(|due| self.rest(due.number, Brought::Not(Reason::Storage)));
    }

    /// After copies were brought to a subscriber, or not.
    fn rest(&mut self, number: u32, brought: Brought) {
        self.busy.remove(&number);
        let ms = match (brought, self.rests.get(&number)) {
            (Brought::All, _) => {
                self.rests.remove(&number);
                return;
            }
            (Brought::Some | Brought::Overtaken, _) | (Brought::Not(_), None) => REST_MS,
            (Brought::Not(_), Some(rest)) => (rest.ms * 2).min(REST_MS_MAX),
        };
        let until = self.mailbox.inner.clock.now().plus(ms);
        self.rests.insert(number, Rest { until, ms });
    }

    /// Waits until there may be something to do.
    async fn wait(&mut self) {
        let now = self.mailbox.inner.clock.now();
        let next = self.rests.values().map(|rest| rest.until).filter(|until| *until > now).min();
        let rested = async {
            match next {
                Some(until) => tokio::time::sleep(Duration::from_millis(until.since(now))).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            report = self.reported.recv() => {
                let Some((number, brought)) = report else { return };
                self.rest(number, brought);
                while let Ok((number, brought)) = self.reported.try_recv() {
                    self.rest(number, brought);
                }
            }
            () = self.bell.notified() => {}
            () = rested => {}
        }
    }
}
