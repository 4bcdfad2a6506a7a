//! The mailbox as the handlers see it, so that they can be tested without one.

use ron_actors::mailbox::api::Delivery;
use ron_actors::mailbox::{DeliveryStream, MessageHistory, TopicInForce};
use ron_actors::mailbox::{Enqueued, Mailbox, PeekPage, Settle, TopicRow, TopicStat};
use ron_core::envelope::Delivered;
use ron_core::ids::{CorrId, MessageId, QueueKey, Tenant};
use ron_core::message::NewMessage;
use ron_core::reason::{Reason, Refusal};
use ron_core::shard::{PeekState, TopicChange, Want};
use ron_core::time::Millis;
use std::future::Future;
use std::time::Duration;

/// Messages handed out for one answer. Dropped before [`HandedOut::written`], they go back at once.
pub trait HandedOut: Send + Unpin + 'static {
    /// What goes into the answer.
    fn messages(&self) -> &[Delivered];

    /// The answer has been handed to the connection.
    fn written(self);

    /// The first message has been handed to the connection, and the others are now first.
    fn first_written(&mut self);

    /// Forgets the first messages as long as their leases have ended by `now`.
    fn drop_overdue(&mut self, now: Millis);
}

/// Messages for one consumer, as many as it has credit for. Dropping it closes it.
pub trait HandsOut: Send + 'static {
    /// What it hands out at once.
    type Delivery: HandedOut;

    /// The next messages; empty if none came within `wait`.
    fn next(
        &mut self,
        want: Want,
        wait: Duration,
    ) -> impl Future<Output = Result<Self::Delivery, Refusal>> + Send;
}

impl HandsOut for DeliveryStream {
    type Delivery = Delivery;

    async fn next(&mut self, want: Want, wait: Duration) -> Result<Delivery, Refusal> {
        DeliveryStream::next(self, want, wait).await
    }
}

impl HandedOut for Delivery {
    fn messages(&self) -> &[Delivered] {
        &self.messages
    }

    fn written(self) {
        Delivery::written(self);
    }

    fn first_written(&mut self) {
        Delivery::first_written(self);
    }

    fn drop_overdue(&mut self, now: Millis) {
        Delivery::drop_overdue(self, now);
    }
}

/// The calls of [`Mailbox`], which documents them.
#[allow(missing_docs)] // see `Mailbox`
pub trait MailboxService: Send + Sync + 'static {
    type Delivery: HandedOut;
    type Stream: HandsOut<Delivery = Self::Delivery>;

    fn enqueue(
        &self,
        queue: &QueueKey,
        messages: Vec<NewMessage>,
    ) -> impl Future<Output = Result<Vec<Result<Enqueued, Reason>>, Refusal>> + Send;

    fn recv(
        &self,
        queue: &QueueKey,
        want: Want,
        wait: Duration,
        corr: &CorrId,
    ) -> impl Future<Output = Result<Self::Delivery, Refusal>> + Send;

    fn open_stream(
        &self,
        queue: &QueueKey,
        max_inflight: u32,
    ) -> impl Future<Output = Result<Self::Stream, Refusal>> + Send;

    fn settle(
        &self,
        queue: &QueueKey,
        how: Settle,
        receipts: Vec<String>,
    ) -> impl Future<Output = Result<Vec<Result<(), Reason>>, Refusal>> + Send;

    fn stat(&self, queue: &QueueKey) -> impl Future<Output = Result<TopicStat, Refusal>> + Send;

    fn peek(
        &self,
        queue: &QueueKey,
        state: PeekState,
        limit: u32,
        cursor: Option<&str>,
    ) -> impl Future<Output = Result<PeekPage, Refusal>> + Send;

    fn message(
        &self,
        queue: &QueueKey,
        id: MessageId,
    ) -> impl Future<Output = Result<MessageHistory, Refusal>> + Send;

    fn configure(
        &self,
        queue: &QueueKey,
        change: TopicChange,
    ) -> impl Future<Output = Result<TopicInForce, Refusal>> + Send;

    fn purge(&self, queue: &QueueKey) -> impl Future<Output = Result<u64, Refusal>> + Send;

    fn delete(&self, queue: &QueueKey) -> impl Future<Output = Result<u64, Refusal>> + Send;

    fn topics(
        &self,
        tenant: &Tenant,
        cursor: Option<&str>,
        limit: u32,
    ) -> impl Future<Output = Result<(Vec<TopicRow>, Option<String>), Refusal>> + Send;

    /// The workbench of the dead letters; `None` where there is none.
    fn workbench(&self) -> Option<&Mailbox> {
        None
    }
}

impl MailboxService for Mailbox {
    type Delivery = Delivery;
    type Stream = DeliveryStream;

    async fn open_stream(&self, queue: &QueueKey, max_inflight: u32) -> Result<DeliveryStream, Refusal> {
        Mailbox::open_stream(self, queue, max_inflight).await
    }

    async fn enqueue(
        &self,
        queue: &QueueKey,
        messages: Vec<NewMessage>,
    ) -> Result<Vec<Result<Enqueued, Reason>>, Refusal> {
        Mailbox::enqueue(self, queue, messages).await
    }

    async fn recv(
        &self,
        queue: &QueueKey,
        want: Want,
        wait: Duration,
        corr: &CorrId,
    ) -> Result<Delivery, Refusal> {
        {
            let _ = corr;
            Mailbox::recv(self, queue, want, wait).await
        }
    }

    async fn settle(
        &self,
        queue: &QueueKey,
        how: Settle,
        receipts: Vec<String>,
    ) -> Result<Vec<Result<(), Reason>>, Refusal> {
        Mailbox::settle(self, queue, how, receipts).await
    }

    async fn stat(&self, queue: &QueueKey) -> Result<TopicStat, Refusal> {
        Mailbox::stat(self, queue).await
    }

    async fn peek(
        &self,
        queue: &QueueKey,
        state: PeekState,
        limit: u32,
        cursor: Option<&str>,
    ) -> Result<PeekPage, Refusal> {
        Mailbox::peek(self, queue, state, limit, cursor).await
    }

    async fn message(&self, queue: &QueueKey, id: MessageId) -> Result<MessageHistory, Refusal> {
        Mailbox::message(self, queue, id).await
    }

    async fn configure(&self, queue: &QueueKey, change: TopicChange) -> Result<TopicInForce, Refusal> {
        Mailbox::configure(self, queue, change).await
    }

    async fn purge(&self, queue: &QueueKey) -> Result<u64, Refusal> {
        Mailbox::purge(self, queue).await
    }

    async fn delete(&self, queue: &QueueKey) -> Result<u64, Refusal> {
        Mailbox::delete(self, queue).await
    }

    async fn topics(
        &self,
        tenant: &Tenant,
        cursor: Option<&str>,
        limit: u32,
    ) -> Result<(Vec<TopicRow>, Option<String>), Refusal> {
        Mailbox::topics(self, tenant, cursor, limit as usize)
    }

    fn workbench(&self) -> Option<&Mailbox> {
        Some(self)
    }
}
