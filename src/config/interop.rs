//! `[interop]`: the public listener, its limits, and who may send to it.

use super::egress::{self, Egress};
use super::listener::{Tls, trusted_proxies};
use super::provider::{Provider, ProviderReader};
use super::read::Section;
use super::units::ByteSize;
use ipnet::IpNet;
use ron_actors::store::OBJECT_BYTES_MAX;
use ron_core::brownout::Thresholds;
use ron_core::ids::ProviderName;
use ron_core::message::PAYLOAD_BYTES_MAX;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

/// `[interop]`.
#[derive(Debug, Clone)]
pub struct InteropConfig {
    /// The public listener.
    pub bind_addr: SocketAddr,
    /// The admin listener.
    pub metrics_addr: SocketAddr,
    /// Whether the public listener serves the API, too.
    pub api: bool,
    /// Bytes of one object (`/put`).
    pub object_max: ByteSize,
    /// Peers whose forwarding headers count.
    pub trusted_proxies: Vec<IpNet>,
    /// TLS of the public listener.
    pub tls: Option<Tls>,
    /// TLS of the admin listener.
    pub metrics_tls: Option<Tls>,
    /// What may be under way.
    pub limits: Limits,
    /// How far a compressed body may inflate.
    pub decompression: Decompression,
    /// When writes are shed.
    pub brownout: Brownout,
    /// Who may send webhooks; disabled ones included.
    pub providers: BTreeMap<ProviderName, Provider>,
    /// Schemes of the operator's own, as written; `ron_core::scheme` knows the form.
    pub schemes: toml::Table,
    /// Endpoints that messages are delivered to, disabled ones included; `[egress.NAME]` is the same.
    pub egress: BTreeMap<ProviderName, Egress>,
}

/// `[interop.limits]`.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Open connections.
    pub max_conns: u32,
    /// Verified requests a second.
    pub max_rps: u32,
    /// Saved up on top of that.
    pub burst_rps: u32,
    /// Bytes of one request's body.
    pub body_limit: ByteSize,
    /// For a request's head to arrive.
    pub header_timeout: Duration,
    /// For its body.
    pub body_timeout: Duration,
    /// Bytes a second that a webhook's body must come at, past its first three seconds.
    pub body_min_rate: ByteSize,
    /// Webhooks being read and verified at once.
    pub max_unverified: u32,
    /// Bytes of their bodies.
    pub unverified_bytes: ByteSize,
}

/// `[interop.decompression]`.
#[derive(Debug, Clone, Copy)]
pub struct Decompression {
    /// Inflated over received bytes.
    pub max_ratio: u32,
    /// Inflated bytes of one body.
    pub max_bytes: ByteSize,
}

/// `[interop.brownout]`.
#[derive(Debug, Clone, Copy)]
pub struct Brownout {
    /// Share of own failures over 5 minutes.
    pub error_rate_5m: f64,
    /// The store's and shards' p95, ms.
    pub upstream_p95_ms: u64,
}

impl Brownout {
    /// As the sentinel takes them.
    #[must_use]
    pub fn thresholds(self) -> Thresholds {
        Thresholds { p95_max_ms: self.upstream_p95_ms, error_rate_max: self.error_rate_5m }
    }
}

/// Largest body a webhook may have: a message cannot hold more.
pub(super) const BODY_BYTES_MAX: u64 = PAYLOAD_BYTES_MAX as u64;

impl InteropConfig {
    pub(super) fn read(s: &Section<'_, '_>, reader: &ProviderReader<'_>) -> InteropConfig {
        let providers = s.tables("providers", |name, s| {
            let name = ProviderName::parse(name);
            if let Err(bad) = &name {
                s.problem_here(format!("must be named by {}", bad.rule));
            }
            let name = name.ok();
            let provider = reader.read(name.as_ref(), s)?;
            Some((name?, provider))
        });
        InteropConfig {
            bind_addr: s.address("bind_addr"),
            metrics_addr: s.address("metrics_addr"),
            api: s.boolean("api"),
            object_max: s.size("object_max", 1..=OBJECT_BYTES_MAX),
            trusted_proxies: trusted_proxies(s),
            tls: Tls::read(s, "tls"),
            metrics_tls: Tls::read(s, "metrics_tls"),
            limits: s.table("limits", Limits::read),
            decompression: s.table("decompression", |s| Decompression {
                max_ratio: s.integer("max_ratio", 1..=10_000),
                max_bytes: s.size("max_bytes", 1..=BODY_BYTES_MAX),
            }),
            brownout: s.table("brownout", |s| Brownout {
                error_rate_5m: s.share("error_rate_5m"),
                upstream_p95_ms: s.integer("upstream_p95_ms", 1..=600_000),
            }),
            providers: providers.into_iter().flatten().collect(),
            schemes: s.raw("schemes"),
            egress: egress::endpoints(s, reader),
        }
    }
}

impl Limits {
    fn read(s: &Section<'_, '_>) -> Limits {
        let deadline = Duration::from_millis(100)..=Duration::from_secs(600);
        Limits {
            max_conns: s.integer("max_conns", 1..=1_000_000),
            max_rps: s.integer("max_rps", 1..=10_000_000),
            burst_rps: s.integer("burst_rps", 1..=10_000_000),
            body_limit: s.size("body_limit", 1..=BODY_BYTES_MAX),
            header_timeout: s.duration("header_timeout", deadline.clone()),
            body_timeout: s.duration("body_timeout", deadline),
            body_min_rate: s.size("body_min_rate", 1..=BODY_BYTES_MAX),
            max_unverified: s.integer("max_unverified", 1..=1_000_000),
            unverified_bytes: s.size("unverified_bytes", 1..=1 << 40),
        }
    }
}
