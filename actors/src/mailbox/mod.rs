//! The mailbox service: one shard actor per (tenant, topic), created at first use and found through a directory.
//!
//! Decides nothing: the queue is `ron_core::shard`, durability is the store's. Knows interop only as a caller of
//! [`Mailbox`].

pub mod api;
mod asked;
pub mod closing;
pub mod courier;
mod cursor;
mod delivery;
pub mod directory;
pub mod dlq;
pub mod fanout;
mod figures;
mod history;
mod listing;
mod loading;
mod lookup;
pub mod messages;
mod outcomes;
mod parking;
mod reprocessor;
pub mod router;
pub mod shard;
mod stream;
pub mod tasks;
mod tenants;
mod topic;
pub mod waiting;

pub use api::{Enqueued, Mailbox, Settle, Submitted, TopicStat};
pub use courier::{Fanout, FanoutMsg};
pub use delivery::Delivery;
pub use directory::Directory;
pub use dlq::Cluster;
pub use fanout::SubscriberPage;
pub use figures::{QueueCounters, QueueFigures};
pub use history::{Happened, History};
pub use listing::{PeekPage, TopicRow};
pub use lookup::{Fate, MessageHistory};
pub use messages::{ShardMsg, TopicInForce};
pub use outcomes::Outcomes;
pub use router::{Router, RouterArgs, RouterMsg};
pub use shard::{ShardActor, ShardArgs};
pub use stream::DeliveryStream;

use crate::policy::InForce;
use ron_core::shard::Settings;
use std::fmt;

/// How a mailbox is run.
#[derive(Debug, Clone)]
pub struct MailboxConfig {
    /// The settings of a topic that has none of its own.
    pub settings: Settings,
    /// Sends and receives waiting at one shard.
    pub shard_requests_max: usize,
    /// Payload bytes of sends waiting at one shard.
    pub shard_bytes_max: usize,
    /// Acks, nacks and extends waiting at one shard: a budget of their own, since settling is never refused
    /// for the sake of sends.
    pub shard_settles_max: usize,
    /// How long a shard is idle before it gives its memory back, ms.
    pub park_after_ms: u64,
    /// Topics of the node.
    pub topics_max: usize,
    /// How long what happened to a message is remembered, ms; 0 = not at all.
    pub history_ms: u64,
    /// Bytes of what is remembered, all topics.
    pub history_bytes_max: usize,
    /// Where the tenants' quotas come from.
    pub policy: InForce,
}

impl Default for MailboxConfig {
    fn default() -> MailboxConfig {
        MailboxConfig {
            settings: Settings::default(),
            shard_requests_max: 8_192,
            shard_bytes_max: 64 << 20,
            shard_settles_max: 8_192,
            park_after_ms: 60_000,
            topics_max: 100_000,
            history_ms: 3_600_000,
            history_bytes_max: 64 << 20,
            policy: InForce::default(),
        }
    }
}

/// Who is told what happens to messages, for the metrics and the bus.
pub trait MailboxObserver: Send + Sync + fmt::Debug {
    /// A message was handed out `seconds` after it was enqueued.
    fn delivered(&self, seconds: f64);
    /// A record failed its checksum on the way out.
    fn integrity_failed(&self);
    /// Messages went to a DLQ.
    fn dead_lettered(&self, queue: &ron_core::ids::QueueKey, n: u64);
    /// Deliveries ran out of time and are ready again.
    fn requeued(&self, queue: &ron_core::ids::QueueKey, n: u64);
}
