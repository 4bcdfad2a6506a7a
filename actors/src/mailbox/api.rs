//! What the network side asks of the mailbox: plain async calls that hide actors, admission and commits.

use ron_core::envelope::Envelope;
use ron_core::ids::{CorrId, MessageId, QueueKey, Tenant, Topic};
use ron_core::message::NewMessage;
use ron_core::reason::{Reason, Refusal};
use ron_core::shard::{NackMode, PeekState, Stats, Want};
use std::time::Duration;

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

/// Messages handed to a caller. Dropping it before [`Delivery::written`] gives them back at once.
#[derive(Debug, Default)]
pub struct Delivery {
    /// What goes into the answer.
    pub messages: Vec<Envelope>,
}

impl Delivery {
    /// The answer has been handed to the connection: the leases stand.
    pub fn written(self) {}
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
    pub settings: ron_core::shard::Settings,
    /// Idempotency window, ms.
    pub dedup_window_ms: u64,
}

/// A page of a peek.
#[derive(Debug, Default)]
pub struct PeekPage {
    /// Envelopes without receipts.
    pub messages: Vec<Envelope>,
    /// Opaque; `None` at the end.
    pub cursor: Option<String>,
}

/// One row of a tenant's topic list.
#[derive(Debug, Clone)]
pub struct TopicRow {
    /// Its name.
    pub topic: Topic,
    /// Its depths.
    pub stats: Stats,
}

/// The mailbox, as the network side sees it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Mailbox {}

impl Mailbox {
    /// Stores messages; answers after their commit. One result a message, in order.
    ///
    /// # Errors
    /// A [`Refusal`] of the whole request: queue full, store down, shard quarantined, draining.
    pub async fn enqueue(
        &self,
        _queue: &QueueKey,
        _messages: Vec<NewMessage>,
    ) -> Result<Vec<Result<Enqueued, Reason>>, Refusal> {
        Err(Refusal::new(Reason::Internal, "not wired"))
    }

    /// Hands out messages, waiting up to `wait` for the first. Empty for a topic that does not exist.
    ///
    /// # Errors
    /// A [`Refusal`]: too much in flight, store down, shard quarantined.
    pub async fn recv(
        &self,
        _queue: &QueueKey,
        _want: Want,
        _wait: Duration,
        _corr: &CorrId,
    ) -> Result<Delivery, Refusal> {
        Err(Refusal::new(Reason::Internal, "not wired"))
    }

    /// Settles deliveries; one result a receipt, in order, after the commit.
    ///
    /// # Errors
    /// A [`Refusal`] of the whole request.
    pub async fn settle(
        &self,
        _queue: &QueueKey,
        _how: Settle,
        _receipts: Vec<String>,
    ) -> Result<Vec<Result<(), Reason>>, Refusal> {
        Err(Refusal::new(Reason::Internal, "not wired"))
    }

    /// The topic's figures.
    ///
    /// # Errors
    /// NOT_FOUND for a topic never used; otherwise as for [`Mailbox::recv`].
    pub async fn stat(&self, _queue: &QueueKey) -> Result<TopicStat, Refusal> {
        Err(Refusal::new(Reason::Internal, "not wired"))
    }

    /// A page of messages without leasing them.
    ///
    /// # Errors
    /// NOT_FOUND for a topic never used, MALFORMED for a cursor that is not ours.
    pub async fn peek(
        &self,
        _queue: &QueueKey,
        _state: PeekState,
        _limit: u32,
        _cursor: Option<&str>,
    ) -> Result<PeekPage, Refusal> {
        Err(Refusal::new(Reason::Internal, "not wired"))
    }

    /// The tenant's topics after `cursor`, in name order, at most `limit`.
    ///
    /// # Errors
    /// As for [`Mailbox::recv`].
    pub async fn topics(
        &self,
        _tenant: &Tenant,
        _cursor: Option<&str>,
        _limit: u32,
    ) -> Result<(Vec<TopicRow>, Option<String>), Refusal> {
        Err(Refusal::new(Reason::Internal, "not wired"))
    }
}
