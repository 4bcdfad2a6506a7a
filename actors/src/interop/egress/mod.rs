//! Egress: takes the messages of a topic and delivers each to an endpoint as a signed webhook (SPEC §7).
//!
//! ```text
//! recv (leased, durable) → sign → Transport → judge → ack | nack with the schedule's delay | dead letter
//! ```
//!
//! What is decided is `ron_core::egress`'s, how bytes travel is the [`Transport`]'s. A message whose attempt is lost
//! with the actor or the process comes again when its lease ends, with the same `webhook-id`. While the breaker is
//! open, or the endpoint disabled, messages stay in the topic and lose no attempts.

mod actor;
mod book;
mod carrier;
mod endpoint;
mod flight;

pub use actor::{Egress, EgressMsg, EgressRef};
pub use book::{Book, BookError};
pub use endpoint::{Endpoint, EndpointParts, EndpointSpec, EndpointStatus, LastAttempt};

use bytes::Bytes;
use futures::future::BoxFuture;
use ron_core::egress::{BreakerState, Failure, Outcome};
use std::fmt;
use std::net::SocketAddr;

/// One attempt, as the transport is asked to carry it out. The target is the transport's own.
#[derive(Debug, Clone)]
pub struct Outbound {
    /// Headers of the message and its signature; those of the connection are the transport's.
    pub headers: Vec<(String, String)>,
    /// The bytes as they were enqueued.
    pub body: Bytes,
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// With an answer, in time.
    Answered {
        /// HTTP status.
        status: u16,
        /// `Retry-After`, if it was sent.
        retry_after: Option<String>,
        /// Whether its body was longer than is read.
        cut: bool,
    },
    /// Without.
    Failed(Failure),
}

/// How long each part of an attempt took, ms; `None` = it was not come to, or a connection was used again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Took {
    /// Resolving.
    pub dns_ms: Option<u64>,
    /// Connecting.
    pub tcp_ms: Option<u64>,
    /// Shaking hands.
    pub tls_ms: Option<u64>,
    /// Request and answer.
    pub http_ms: Option<u64>,
}

/// What became of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempted {
    /// How it ended.
    pub ended: Ended,
    /// The vetted address that was connected to.
    pub peer: Option<SocketAddr>,
    /// How long its parts took.
    pub took: Took,
    /// More about a failure, in words; never of payload, headers or path.
    pub detail: Option<String>,
}

/// Carries out attempts at one endpoint, within its own time limits.
pub trait Transport: Send + Sync + fmt::Debug {
    /// One attempt. Dropping it breaks it off.
    fn deliver(&self, request: Outbound) -> BoxFuture<'_, Attempted>;
}

/// Told what happens at one endpoint, for metrics.
pub trait EgressObserver: Send + Sync + fmt::Debug {
    /// An attempt ended after `seconds`.
    fn attempted(&self, outcome: Outcome, seconds: f64);
    /// The breaker is there now.
    fn state(&self, state: BreakerState);
}
