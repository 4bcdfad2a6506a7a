//! `[mailbox]`: listeners, the settings a topic starts with, and how much may be under way.

use super::listener::{Tls, trusted_proxies};
use super::read::Section;
use super::units::ByteSize;
use ipnet::IpNet;
use ron_core::shard::Settings;
use std::net::SocketAddr;
use std::time::Duration;

/// `[mailbox]`.
#[derive(Debug, Clone)]
pub struct MailboxConfig {
    /// The HTTP listener.
    pub listen: SocketAddr,
    /// The OAP/1 listener.
    pub oap_listen: SocketAddr,
    /// The admin listener.
    pub metrics_addr: SocketAddr,
    /// Peers whose forwarding headers count.
    pub trusted_proxies: Vec<IpNet>,
    /// TLS of both public listeners.
    pub tls: Option<Tls>,
    /// TLS of the admin listener.
    pub metrics_tls: Option<Tls>,
    /// Most open connections.
    pub max_conns: u32,
    /// What the state machine of a topic obeys, until the topic's own settings say otherwise.
    pub settings: Settings,
    /// Most topics of the node.
    pub max_topics: u32,
    /// How long what happened to a message is remembered, ms; 0 = not at all.
    pub history_ms: u64,
    /// Bytes of what is remembered, all topics.
    pub history_max_bytes: ByteSize,
    /// Idle time after which a shard is parked.
    pub park_after: Duration,
    /// What may be under way at once.
    pub admission: Admission,
}

/// `[mailbox.admission]`.
#[derive(Debug, Clone, Copy)]
pub struct Admission {
    /// Requests.
    pub requests: u32,
    /// Bytes of their bodies.
    pub bytes: ByteSize,
}

const DAY_MS: u64 = 86_400_000;

impl MailboxConfig {
    pub(super) fn read(s: &Section<'_, '_>) -> MailboxConfig {
        MailboxConfig {
            listen: s.address("listen"),
            oap_listen: s.address("oap_listen"),
            metrics_addr: s.address("metrics_addr"),
            trusted_proxies: trusted_proxies(s),
            tls: Tls::read(s, "tls"),
            metrics_tls: Tls::read(s, "metrics_tls"),
            max_conns: s.integer("max_conns", 1..=1_000_000),
            settings: settings(s),
            max_topics: s.integer("max_topics", 1..=10_000_000),
            history_ms: s.integer("history_ms", 0..=30 * DAY_MS),
            history_max_bytes: s.size("history_max_bytes", 64 << 10..=1 << 40),
            park_after: s.duration("park_after", Duration::from_millis(10)..=Duration::from_secs(86_400)),
            admission: s.table("admission", |s| Admission {
                requests: s.integer("requests", 1..=10_000_000),
                bytes: s.size("bytes", 1 << 20..=1 << 40),
            }),
        }
    }
}

fn settings(s: &Section<'_, '_>) -> Settings {
    let settings = Settings {
        visibility_ms: s.integer("visibility_ms", 250..=43_200_000),
        max_attempts: s.integer("max_attempts", 1..=1_000),
        max_deliveries: s.integer("max_deliveries", 1..=1_000_000),
        backoff_base_ms: s.integer("backoff_base_ms", 1..=DAY_MS),
        backoff_max_ms: s.integer("backoff_max_ms", 1..=30 * DAY_MS),
        max_inflight: s.integer("max_inflight", 1..=10_000_000),
        max_depth: s.integer("max_depth", 1..=u64::MAX),
        fifo: false,
        ram: false,
        max_waiters: s.integer("max_waiters", 1..=10_000_000),
        retention_ms: s.integer("retention_ms", 1_000..=3650 * DAY_MS),
        dlq_retention_ms: s.integer("dlq_retention_ms", 1_000..=3650 * DAY_MS),
        dedup_window_ms: s.integer("dedup_window_ms", 0..=30 * DAY_MS),
        max_dedup_keys: s.integer("max_dedup_keys", 1..=100_000_000),
    };
    if settings.max_deliveries < settings.max_attempts {
        s.problem("max_deliveries", "must not be less than mailbox.max_attempts", None);
    }
    if settings.backoff_max_ms < settings.backoff_base_ms {
        s.problem("backoff_max_ms", "must not be less than mailbox.backoff_base_ms", None);
    }
    settings
}
