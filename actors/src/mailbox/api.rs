//! What the network side asks of the mailbox: plain async calls that hide actors, admission and commits.

use super::MailboxObserver;
use super::closing::{deleted, settled_when_deleted};
pub use super::delivery::Delivery;
use super::delivery::Granted;
use super::directory::{Directory, Entry};
use super::messages::ShardMsg;
use super::outcomes::Outcomes;
use super::router::RouterMsg;
use crate::kernel::admission::{Admission, Full, Permit};
use crate::kernel::handle::{CastError, Handle};
use crate::store::{Identity, ReadFailure, Store};
use ron_core::envelope::{Delivered, DeliveryView, Envelope};
use ron_core::ids::{MessageId, QueueKey, Slot};
use ron_core::message::{NewMessage, PutOutcome, StoredMessage};
use ron_core::reason::{Reason, Refusal};
use ron_core::receipt::{Receipt, ReceiptError};
use ron_core::shard::{
    Command, DeliveryRef, NackMode, Paused, Settings, Stats, StreamId, Violation, WaiterId, Want,
};
use ron_core::time::{Clock, Millis};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// How long a caller waits for an actor that is being started or restarted.
const UP_WITHIN: Duration = Duration::from_secs(2);

/// How often a message has its queue's actor started, which may have ended again for want of use.
const STARTS_MAX: usize = 5;

/// How often a receive tries anew when all that it was given ended on the way to it.
const OVERTAKEN_MAX: usize = 4;

/// One accepted message of an enqueue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Enqueued {
    /// Its id, or the first one's if it is a duplicate.
    pub msg_id: MessageId,
    /// Whether its key was known.
    pub duplicate: bool,
    /// Whether it is a duplicate whose body differs (a provider's own retry).
    pub other_body: bool,
}

/// How deliveries are settled.
#[derive(Debug, Clone)]
pub enum Settle {
    /// Done.
    Ack,
    /// Given back.
    Nack {
        /// How.
        mode: NackMode,
        /// Delay instead of the backoff.
        delay_ms: Option<u64>,
        /// The consumer's error.
        note: Option<String>,
    },
    /// More time.
    Extend {
        /// From now.
        visibility_ms: u64,
    },
}

/// The state of one topic.
#[derive(Debug, Clone)]
pub struct TopicStat {
    /// Depths.
    pub stats: Stats,
    /// Live idempotency keys.
    pub dedup_keys: u64,
    /// Age of the oldest ready message, ms.
    pub oldest_age_ms: u64,
    /// The settings in force.
    pub settings: Settings,
    /// What is paused.
    pub paused: Paused,
}

/// Messages that are with their queue and not committed yet.
#[derive(Debug)]
pub struct Submitted {
    answer: oneshot::Receiver<Result<Vec<PutOutcome>, Refusal>>,
    inner: Arc<Inner>,
}

impl Submitted {
    /// What became of them, after their commit; one result a message, in order.
    ///
    /// # Errors
    /// As [`Mailbox::enqueue`].
    pub async fn stored(self) -> Result<Vec<Result<Enqueued, Reason>>, Refusal> {
        let outcomes = self.inner.outcomes.note(received(self.answer.await))?;
        let identity = self.inner.store.identity();
        Ok(outcomes.into_iter().map(|outcome| enqueued(identity, outcome)).collect())
    }
}

/// The mailbox, as the network side sees it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Mailbox {
    pub(super) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) directory: Arc<Directory>,
    router: Handle<RouterMsg>,
    pub(super) store: Store,
    pub(super) clock: Arc<dyn Clock>,
    observer: Arc<dyn MailboxObserver>,
    outcomes: Outcomes,
}

impl Mailbox {
    /// A mailbox over these parts.
    pub fn new(
        directory: Arc<Directory>,
        router: Handle<RouterMsg>,
        store: Store,
        clock: Arc<dyn Clock>,
        observer: Arc<dyn MailboxObserver>,
    ) -> Mailbox {
        Mailbox {
            inner: Arc::new(Inner {
                directory,
                router,
                store,
                clock,
                observer,
                outcomes: Outcomes::default(),
            }),
        }
    }

    /// All queues.
    #[must_use]
    pub fn directory(&self) -> &Arc<Directory> {
        &self.inner.directory
    }

    /// Where all queues commit.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    /// How requests ended here, for the brownout sentinel.
    #[must_use]
    pub fn outcomes(&self) -> &Outcomes {
        &self.inner.outcomes
    }

    /// Whether an accepted message survives the end of the process.
    #[must_use]
    pub fn durable(&self) -> bool {
        self.inner.store.durable()
    }

    /// Stores messages; answers after their commit. One result a message, in order.
    ///
    /// # Errors
    /// A [`Refusal`] of the whole request: queue full, store down, shard quarantined.
    pub async fn enqueue(
        &self,
        queue: &QueueKey,
        messages: Vec<NewMessage>,
    ) -> Result<Vec<Result<Enqueued, Reason>>, Refusal> {
        self.submit(queue, messages).await?.stored().await
    }

    /// Brings messages to their queue. They are stored in the order in which these calls come back; whether they are
    /// is known later, from [`Submitted::stored`].
    ///
    /// # Errors
    /// As [`Mailbox::enqueue`].
    pub async fn submit(&self, queue: &QueueKey, messages: Vec<NewMessage>) -> Result<Submitted, Refusal> {
        let entry = self.inner.directory.get_or_create(queue)?;
        let bytes = messages.iter().map(|message| message.payload.len()).sum();
        let permit = admit(&entry.requests, bytes)?;
        let (reply, answer) = oneshot::channel();
        self.send(&entry, ShardMsg::Enqueue(messages, reply, permit)).await?;
        Ok(Submitted { answer, inner: self.inner.clone() })
    }

    /// Hands out messages, waiting up to `wait` for the first. Empty for a topic that nothing was sent to.
    ///
    /// # Errors
    /// A [`Refusal`]: too much in flight, store down, shard quarantined.
    pub async fn recv(&self, queue: &QueueKey, want: Want, wait: Duration) -> Result<Delivery, Refusal> {
        let entry = match self.inner.directory.get(queue) {
            Some(entry) => entry,
            None if wait.is_zero() => return Ok(Delivery::default()),
            None => match self.inner.directory.get_or_create(queue) {
                Ok(entry) => entry,
                Err(_) => return Ok(Delivery::default()),
            },
        };
        let clock = &self.inner.clock;
        let until = clock.now().plus(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX));
        for _ in 0..OVERTAKEN_MAX {
            let permit = admit(&entry.requests, 0)?;
            let wait = Duration::from_millis(until.since(clock.now()));
            let delivery = self.recv_at(&entry, want, wait, None, Some(permit)).await?;
            if !delivery.is_overtaken() {
                return Ok(delivery);
            }
        }
        Ok(Delivery::default())
    }

    pub(super) async fn recv_at(
        &self,
        entry: &Arc<Entry>,
        want: Want,
        wait: Duration,
        stream: Option<StreamId>,
        permit: Option<Permit>,
    ) -> Result<Delivery, Refusal> {
        let (reply, answer) = oneshot::channel();
        let waiter = WaiterId(entry.next_waiter());
        let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        self.send(entry, ShardMsg::Recv { waiter, want, wait_ms, stream, reply, permit }).await?;
        let mut guard = CancelOnDrop { entry, waiter: Some(waiter) };
        let granted = received(answer.await);
        guard.waiter = None;
        match self.inner.outcomes.note(granted)? {
            Some(granted) => self.deliver(entry, granted.0).await,
            None => Ok(Delivery::default()),
        }
    }

    async fn deliver(&self, entry: &Arc<Entry>, mut granted: Granted) -> Result<Delivery, Refusal> {
        let slots: Vec<Slot> = granted.messages().iter().map(|leased| leased.slot).collect();
        let bodies = self.inner.store.reader().fetch(slots).await;
        let identity = self.inner.store.identity();
        let now = self.inner.clock.now();
        let mut messages = Vec::with_capacity(bodies.len());
        let mut index = 0;
        for body in bodies {
            let leased = granted.messages()[index];
            let delivery = DeliveryRef { slot: leased.slot, delivery: leased.delivery };
            match body {
                Ok(message) => {
                    let key = &identity.receipt_key;
                    self.inner.observer.delivered(now.since(message.enqueued) as f64 / 1e3);
                    messages.push(Delivered {
                        queue: entry.key.clone(),
                        msg_id: identity.message_id(message.enqueued, message.slot),
                        receipt: Receipt::issue(key, identity.incarnation, &entry.key, delivery),
                        attempt: leased.attempt,
                        delivery: leased.delivery,
                        deadline: leased.deadline,
                        copied_from: message.copied_from.map(|(slot, at)| identity.message_id(at, slot)),
                        restored_at: identity.restored_at(message.slot),
                        message,
                    });
                    index += 1;
                }
                Err(ReadFailure::Damaged) => {
                    granted.drop_message(index);
                    tracing::error!(queue = %entry.key, "a record failed its checksum and goes to the DLQ");
                    let _ = entry.handle.cast(ShardMsg::Corrupt(delivery));
                }
                Err(ReadFailure::Gone) => granted.drop_message(index),
                Err(ReadFailure::Store) => {
                    return Err(unreadable());
                }
            }
        }
        Ok(Delivery { messages, granted: Some(granted) })
    }

    pub(super) fn envelope(&self, queue: &QueueKey, message: &StoredMessage, view: DeliveryView) -> Envelope {
        let identity = self.inner.store.identity();
        let msg_id = identity.message_id(message.enqueued, message.slot);
        let mut envelope = Envelope::new(queue, msg_id.to_string(), message, view);
        if let Some((source, enqueued)) = message.copied_from {
            envelope.source_msg_id = Some(identity.message_id(enqueued, source).to_string());
        }
        envelope.restored_at = identity.restored_at(message.slot).map(Millis::rfc3339);
        envelope
    }

    /// Settles deliveries by the texts of their receipts; one result a receipt, in order, after the commit.
    ///
    /// # Errors
    /// A [`Refusal`] of the whole request.
    pub async fn settle(
        &self,
        queue: &QueueKey,
        how: Settle,
        receipts: Vec<String>,
    ) -> Result<Vec<Result<(), Reason>>, Refusal> {
        self.settle_receipts(queue, how, receipts.iter().map(|text| Receipt::parse(text)).collect()).await
    }

    /// As [`Mailbox::settle`]; `Err` = what somebody sent is no receipt.
    ///
    /// # Errors
    /// A [`Refusal`] of the whole request.
    pub async fn settle_receipts(
        &self,
        queue: &QueueKey,
        how: Settle,
        receipts: Vec<Result<Receipt, ReceiptError>>,
    ) -> Result<Vec<Result<(), Reason>>, Refusal> {
        let identity = self.inner.store.identity();
        let open = |receipt: Result<Receipt, ReceiptError>| {
            let open = |receipt: Receipt| receipt.open(&identity.receipt_key, identity.incarnation, queue);
            receipt.and_then(open).map_err(|error| match error {
                ReceiptError::Malformed => Reason::Malformed,
                ReceiptError::Stale => Reason::StaleReceipt,
            })
        };
        let opened: Vec<Result<DeliveryRef, Reason>> = receipts.into_iter().map(open).collect();
        let deliveries: Vec<DeliveryRef> =
            opened.iter().filter_map(|one| one.as_ref().ok().copied()).collect();
        let entry = self.inner.directory.get(queue).filter(|_| !deliveries.is_empty());
        let settled = match entry {
            Some(entry) => self.settle_at(&entry, how, deliveries).await?,
            None => settled_when_deleted(&how, deliveries.len()),
        };
        let mut settled = settled.into_iter();
        let merge = |one: Result<DeliveryRef, Reason>| match one {
            Ok(_) => settled.next().unwrap_or(Err(Reason::StaleReceipt)),
            Err(reason) => Err(reason),
        };
        Ok(opened.into_iter().map(merge).collect())
    }

    async fn settle_at(
        &self,
        entry: &Arc<Entry>,
        how: Settle,
        deliveries: Vec<DeliveryRef>,
    ) -> Result<Vec<Result<(), Reason>>, Refusal> {
        let command = match how {
            Settle::Ack => Command::Ack { deliveries },
            Settle::Nack { mode, delay_ms, note } => {
                Command::Nack { deliveries, mode, delay_ms, note, entropy: 0 }
            }
            Settle::Extend { visibility_ms } => Command::Extend { deliveries, visibility_ms },
        };
        let permit = admit(&entry.settles, 0)?;
        let (reply, answer) = oneshot::channel();
        self.send(entry, ShardMsg::Settle(command, reply, permit)).await?;
        self.inner.outcomes.note(received(answer.await))
    }

    /// The topic's figures.
    ///
    /// # Errors
    /// NOT_FOUND for a topic never used; otherwise as for [`Mailbox::recv`].
    pub async fn stat(&self, queue: &QueueKey) -> Result<TopicStat, Refusal> {
        let entry = self.existing(queue)?;
        let (reply, answer) = oneshot::channel();
        self.send(&entry, ShardMsg::Stat(reply)).await?;
        let (stats, dedup_keys, settings, paused) = received(answer.await)?;
        let now = self.inner.clock.now();
        Ok(TopicStat {
            stats,
            dedup_keys,
            oldest_age_ms: stats.oldest_enqueued.map_or(0, |at| now.since(at)),
            settings,
            paused,
        })
    }

    /// Checks the invariants of the queue's state machine, for simulations and drills; walks all of it. Also fine
    /// if the queue is not in memory, or is being restarted.
    ///
    /// # Errors
    /// The first invariant that does not hold.
    pub async fn check(&self, queue: &QueueKey) -> Result<(), Violation> {
        let Some(entry) = self.inner.directory.get(queue) else { return Ok(()) };
        let (reply, answer) = oneshot::channel();
        let _ = entry.handle.cast(ShardMsg::Check(reply));
        answer.await.unwrap_or(Ok(()))
    }

    pub(super) fn existing(&self, queue: &QueueKey) -> Result<Arc<Entry>, Refusal> {
        let entry = self.inner.directory.get(queue).filter(|entry| entry.exists());
        entry.ok_or_else(|| Refusal::new(Reason::NotFound, "nothing was ever sent to this topic"))
    }

    /// Has damaged messages dead-lettered with reason `integrity`, unless a consumer has them. When this returns it is
    /// under way.
    pub async fn rotted(&self, queue: &QueueKey, slots: Vec<Slot>) {
        let Some(entry) = self.inner.directory.get(queue) else { return };
        tracing::error!(queue = %queue, messages = slots.len(), "records failed their check and go to the DLQ");
        if self.send(&entry, ShardMsg::Rotted(slots)).await.is_err() {
            tracing::warn!(queue = %queue, "the queue is down; the next scrub finds them again");
        }
    }

    /// Ends all long polls, empty: the node drains.
    pub fn end_waits(&self) {
        // Without a router there is nobody who could be waiting for long.
        let _ = self.inner.router.cast(RouterMsg::EndWaits);
    }

    /// Brings a message to the queue's actor, starting it if need be.
    pub(super) async fn send(&self, entry: &Arc<Entry>, message: ShardMsg) -> Result<(), Refusal> {
        let mut message = message;
        for _ in 0..STARTS_MAX {
            // Through the handle each time: what is sent to it is never left behind by an actor that ends.
            message = match entry.handle.cast(message) {
                Ok(()) => return Ok(()),
                Err(CastError::Quarantined(_)) => return Err(quarantined()),
                Err(CastError::Down(message)) => message,
            };
            if entry.is_gone() {
                return Err(deleted());
            }
            // It was never started, was idle, or is being restarted: the router finds out which.
            let (reply, up) = oneshot::channel();
            let router = self.inner.router.wait_up(UP_WITHIN).await.map_err(|_| restarting())?;
            router.cast(RouterMsg::Wake(entry.clone(), reply)).map_err(|_| restarting())?;
            // An error says that the router died: then the queue's actor is not up, which is seen next.
            let _ = up.await;
            let down = |_| if entry.is_quarantined() { quarantined() } else { restarting() };
            entry.handle.wait_up(UP_WITHIN).await.map_err(down)?;
        }
        Err(restarting())
    }
}

struct CancelOnDrop<'a> {
    entry: &'a Arc<Entry>,
    waiter: Option<WaiterId>,
}

impl Drop for CancelOnDrop<'_> {
    fn drop(&mut self) {
        if let Some(waiter) = self.waiter {
            // If the actor is down, its waiting receives are gone with it.
            let _ = self.entry.handle.cast(ShardMsg::CancelRecv(waiter));
        }
    }
}

/// What a sender is told of one message.
pub(super) fn enqueued(identity: &Identity, outcome: PutOutcome) -> Result<Enqueued, Reason> {
    let (slot, at, duplicate, other_body) = match outcome {
        PutOutcome::Stored(at) => (at.slot, at.enqueued, false, false),
        PutOutcome::Duplicate { slot, enqueued, other_body } => (slot, enqueued, true, other_body),
        PutOutcome::Conflict => return Err(Reason::IdempotencyConflict),
        PutOutcome::DedupFull | PutOutcome::RamFull => return Err(Reason::Backpressure),
        PutOutcome::Overtaken => return Err(Reason::Internal), // copies have no sender
        PutOutcome::NoObject => return Err(Reason::NotFound),
    };
    Ok(Enqueued { msg_id: identity.message_id(at, slot), duplicate, other_body })
}

pub(super) fn admit(admission: &Admission, bytes: usize) -> Result<Permit, Refusal> {
    admission.try_acquire(bytes).map_err(|full| {
        let text = match full {
            Full::Count => "too many requests wait at this queue; retry later",
            Full::Bytes => "too many bytes wait at this queue; retry later",
        };
        Refusal::new(Reason::Backpressure, text)
    })
}

pub(super) fn unreadable() -> Refusal {
    Refusal::new(Reason::Storage, "the store cannot be read now; retry").without_effect()
}

fn restarting() -> Refusal {
    Refusal::new(Reason::DownstreamUnavailable, "the queue is restarting; retry").without_effect()
}

fn quarantined() -> Refusal {
    let text = "the queue is quarantined after repeated failures; an operator must release it";
    Refusal::new(Reason::DownstreamUnavailable, text).without_effect().retry_after(10_000)
}

/// An actor that died with the request aboard leaves its outcome unknown.
pub(super) fn received<T>(
    answer: Result<Result<T, Refusal>, oneshot::error::RecvError>,
) -> Result<T, Refusal> {
    let lost = "the queue failed while it had the request; retry with the same idempotency key";
    answer.unwrap_or_else(|_| Err(Refusal::new(Reason::DownstreamUnavailable, lost)))
}
