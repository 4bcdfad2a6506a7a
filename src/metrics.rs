//! Every metric of the node: the only place that names one (SPEC §8).
//!
//! Two recorders, one for each admin port, so that a series is on exactly one of them; none is global, so
//! that many nodes run in one process. What the hot path touches is a cached handle. Label values are closed sets.

mod egress;
mod labels;
mod objects;
mod process;
mod queues;
mod requests;
mod secrets;

pub use egress::EgressMetrics;
pub use labels::{Endpoint, Service, Stage, WebhookResult, interop_route, mailbox_call, mailbox_route};
pub use queues::{NoQueues, QueueCounters, QueueFigure, QueueFigures, escape_label, write_queues};
pub use requests::{Inflight, MethodLabel, RequestTable};
pub use secrets::ShadowMetrics;

use labels::{BUS_TOPICS, INTEROP_ROUTES, MAILBOX_ROUTES};
use metrics::{Counter, Gauge, Histogram, Key, Label, Level, Metadata, Recorder};
use metrics_exporter_prometheus::{
    BuildError, Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
};
use requests::TableSpec;
use ron_core::reason::Reason;
use ron_core::rotation::Tracked;
use secrets::SecretMetrics;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

static METADATA: Metadata<'static> = Metadata::new("ron_node", Level::INFO, None);

/// Seconds; the SLOs' bounds 0.05, 0.12 and 0.5 are bucket bounds.
const SECONDS: [f64; 17] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.12, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 60.0,
];
/// Messages or parts in one commit.
const BATCH_SIZES: [f64; 14] =
    [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0];

/// What the metrics must know of the node.
#[derive(Debug, Clone)]
pub struct MetricsOptions {
    /// Topics with series of their own; the rest is folded into `other`.
    pub max_queues: usize,
    /// Whether the node keeps nothing on disk.
    pub amnesia: bool,
    /// The node's version.
    pub version: &'static str,
    /// When the process started, Unix seconds.
    pub started_unix_s: f64,
}

/// All metrics of one node.
#[derive(Debug)]
pub struct Metrics {
    /// The mailbox port's.
    pub mailbox: MailboxMetrics,
    /// The interop port's.
    pub interop: InteropMetrics,
    options: MetricsOptions,
    mailbox_text: PrometheusHandle,
    interop_text: PrometheusHandle,
}

impl Metrics {
    /// Registers everything at 0.
    ///
    /// # Errors
    /// Only if the compiled-in buckets were empty.
    pub fn new(options: MetricsOptions) -> Result<Metrics, BuildError> {
        let mailbox = Arc::new(recorder()?);
        let interop = Arc::new(recorder()?);
        Ok(Metrics {
            mailbox_text: mailbox.handle(),
            interop_text: interop.handle(),
            mailbox: MailboxMetrics::new(mailbox, &options),
            interop: InteropMetrics::new(interop),
            options,
        })
    }

    /// The text of the mailbox's admin port, with the series of `queues`.
    #[must_use]
    pub fn render_mailbox(&self, queues: &dyn QueueFigures) -> String {
        let mut out = self.mailbox_text.render();
        write_queues(&mut out, queues.queues(), self.options.max_queues);
        process::write_process(&mut out, self.options.started_unix_s);
        out
    }

    /// The text of interop's admin port.
    #[must_use]
    pub fn render_interop(&self) -> String {
        self.interop_text.render()
    }

    /// Folds recorded samples into their buckets. Without a call every few seconds they pile up.
    pub fn run_upkeep(&self) {
        self.mailbox_text.run_upkeep();
        self.interop_text.run_upkeep();
    }
}

/// The `tls` tables of the configuration, and the listener that each is named by.
const TLS_TABLES: [(&str, &str); 4] = [
    ("interop.tls", "interop"),
    ("interop.metrics_tls", "interop_admin"),
    ("mailbox.tls", "mailbox"),
    ("mailbox.metrics_tls", "mailbox_admin"),
];

fn certificate_ends(r: &Names<'_>) -> HashMap<&'static str, Gauge> {
    let help = "When the certificate of a listener ends, Unix time; 0 = it has none.";
    let gauge = |listener| r.gauge("tls_certificate_end_timestamp_seconds", help, &[("listener", listener)]);
    TLS_TABLES.map(|(table, listener)| (table, gauge(listener))).into()
}

/// The mailbox port's metrics, but for the per-queue ones.
#[derive(Debug)]
pub struct MailboxMetrics {
    /// Requests by route.
    pub requests: RequestTable,
    /// From a message's enqueue to its first delivery: the main SLO.
    pub enqueue_to_delivery: Histogram,
    /// The version of the policy in force.
    pub policy_version: Gauge,
    /// Seconds of one commit, fsync included.
    pub store_commit_seconds: Histogram,
    /// Messages and state changes of one commit.
    pub store_commit_batch_size: Histogram,
    /// Free bytes where the store lives.
    pub store_free_bytes: Gauge,
    /// Bytes of the store's file.
    pub store_file_bytes: Gauge,
    /// Bytes that what lives in it needs, about.
    pub store_live_bytes: Gauge,
    /// What objects there are.
    pub objects: objects::ObjectGauges,
    /// When the newest snapshot was taken, Unix seconds; 0 = never.
    pub snapshot_timestamp: Gauge,
    /// When the store was last read through, Unix seconds; 0 = not since the start.
    pub scrub_timestamp: Gauge,
    /// What scrubs found damaged.
    pub scrub_damages: Counter,
    /// Bytes of the newest snapshot.
    pub snapshot_bytes: Gauge,
    /// TLS handshakes that failed.
    pub tls_handshake_failures: Counter,
    certificate_ends: HashMap<&'static str, Gauge>,
    rejected: HashMap<&'static str, Counter>,
    integrity_fail: [Counter; 2],
    snapshots: [Counter; 2],
    service_restarts: Vec<Counter>,
    bus_lagged: Vec<Counter>,
    bus_dropped: Vec<Counter>,
}

impl MailboxMetrics {
    fn new(recorder: Arc<PrometheusRecorder>, options: &MetricsOptions) -> MailboxMetrics {
        let r = Names(&recorder);
        let amnesia = r.gauge("amnesia_mode", "1 if the node keeps nothing on disk.", &[]);
        amnesia.set(if options.amnesia { 1.0 } else { 0.0 });
        r.gauge("build_info", "The build; always 1.", &[("version", options.version)]).set(1.0);
        let restarts = "Restarts of supervised children, by service.";
        let rejected = "Requests and items of batches refused, by the class of the reason.";
        let integrity = "Payloads whose hash was wrong.";
        let lagged = "Times a bus subscriber fell behind.";
        let dropped = "Events a slow bus subscriber lost.";
        let each_topic = |name, help| {
            BUS_TOPICS.iter().map(|topic| r.counter(name, help, &[("topic", topic)])).collect::<Vec<_>>()
        };
        let metrics = MailboxMetrics {
            enqueue_to_delivery: r.histogram(
                "enqueue_to_delivery_seconds",
                "From when a message could first be received to its first delivery.",
            ),
            store_commit_seconds: r
                .histogram("store_commit_seconds", "Seconds of one store commit, fsync included."),
            store_commit_batch_size: r
                .histogram("store_commit_batch_size", "Messages and state changes of one store commit."),
            policy_version: r.gauge("policy_version", "Version of the policy in force.", &[]),
            store_free_bytes: r.gauge("store_free_bytes", "Free bytes where the store lives.", &[]),
            store_file_bytes: r.gauge("store_file_bytes", "Bytes of the store's file.", &[]),
            store_live_bytes: r.gauge(
                "store_live_bytes",
                "Bytes that what lives in the store needs, about.",
                &[],
            ),
            objects: objects::ObjectGauges::of(&r),
            snapshot_timestamp: r.gauge(
                "store_snapshot_timestamp_seconds",
                "When the newest snapshot was taken, Unix time; 0 = never.",
                &[],
            ),
            scrub_timestamp: r.gauge(
                "store_scrub_timestamp_seconds",
                "When the store was last scrubbed, Unix time; 0 = not since the start.",
                &[],
            ),
            scrub_damages: r.counter("store_scrub_damages_total", "What scrubs found damaged.", &[]),
            snapshot_bytes: r.gauge("store_snapshot_bytes", "Bytes of the newest snapshot.", &[]),
            snapshots: ["ok", "failed"].map(|result| {
                r.counter("store_snapshots_total", "Snapshots, by how they ended.", &[("result", result)])
            }),
            tls_handshake_failures: r.counter(
                "tls_handshake_failures_total",
                "TLS handshakes that failed.",
                &[],
            ),
            certificate_ends: certificate_ends(&r),
            rejected: ["quota", "degraded", "storage", "auth"]
                .map(|reason| (reason, r.counter("rejected_total", rejected, &[("reason", reason)])))
                .into(),
            integrity_fail: ["ingress", "egress"]
                .map(|stage| r.counter("integrity_fail_total", integrity, &[("stage", stage)])),
            service_restarts: Service::NAMES
                .iter()
                .map(|name| r.counter("service_restarts_total", restarts, &[("service", name)]))
                .collect(),
            bus_lagged: each_topic("bus_lagged_total", lagged),
            bus_dropped: each_topic("bus_overflow_dropped_total", dropped),
            requests: RequestTable::new(Arc::clone(&recorder), MAILBOX_TABLE),
        };
        r.describe_requests(&MAILBOX_TABLE);
        metrics
    }

    /// A request or an item of a batch was refused.
    pub fn rejected(&self, reason: Reason) {
        if let Some(counter) = reason.rejected_label().and_then(|label| self.rejected.get(label)) {
            counter.increment(1);
        }
    }

    /// The certificate of a `tls` table of the configuration ends then, Unix seconds.
    pub fn certificate_ends(&self, table: &str, unix_s: u64) {
        if let Some(gauge) = self.certificate_ends.get(table) {
            gauge.set(unix_s as f64);
        }
    }

    /// A payload's hash was wrong.
    pub fn integrity_fail(&self, stage: Stage) {
        self.integrity_fail[stage as usize].increment(1);
    }

    /// A snapshot was taken, or failed.
    pub fn snapshot_ended(&self, taken: bool) {
        self.snapshots[usize::from(!taken)].increment(1);
    }

    /// A child of `service` was restarted.
    pub fn service_restarted(&self, service: Service) {
        self.service_restarts[service as usize].increment(1);
    }

    /// A commit of `parts` messages and state changes took `took`.
    pub fn committed(&self, took: Duration, parts: usize) {
        self.store_commit_seconds.record(took.as_secs_f64());
        self.store_commit_batch_size.record(parts as f64);
    }

    /// A bus subscriber to `topic` fell behind and lost `lost` events.
    pub fn bus_lagged(&self, topic: &str, lost: u64) {
        let first = topic.split('.').next().unwrap_or_default();
        let at = BUS_TOPICS.iter().position(|known| *known == first).unwrap_or(BUS_TOPICS.len() - 1);
        self.bus_lagged[at].increment(1);
        self.bus_dropped[at].increment(lost);
    }
}

/// The interop port's metrics: names begin with `svc_interop_`.
#[derive(Debug)]
pub struct InteropMetrics {
    /// Requests by route.
    pub requests: RequestTable,
    /// Requests refused by a rate limit.
    pub quota_exhaustions: Counter,
    /// Audit records written.
    pub audit_emitted: Counter,
    /// Audit records dropped.
    pub audit_drop: Counter,
    /// 1 while writes are shed.
    pub brownout_active: Gauge,
    egress_seconds: Histogram,
    rejected: Vec<Counter>,
    busy: HashMap<&'static str, Counter>,
    gave_way: HashMap<&'static str, Counter>,
    recorder: Arc<PrometheusRecorder>,
}

impl InteropMetrics {
    fn new(recorder: Arc<PrometheusRecorder>) -> InteropMetrics {
        let r = Names(&recorder);
        let busy = "Requests refused because a bounded queue was full.";
        let rejected = "Requests refused, by reason.";
        let gave_way = "Slow strangers that ended to make room for newcomers.";
        let metrics = InteropMetrics {
            quota_exhaustions: r.counter(
                "svc_interop_quota_exhaustions_total",
                "Requests refused by a rate limit or quota.",
                &[],
            ),
            audit_emitted: r.counter("svc_interop_audit_emitted_total", "Audit records written.", &[]),
            audit_drop: r.counter("svc_interop_audit_drop_total", "Audit records dropped.", &[]),
            brownout_active: r.gauge("svc_interop_brownout_active", "1 while writes are shed.", &[]),
            rejected: Reason::ALL
                .iter()
                .map(|reason| r.counter("svc_interop_rejected_total", rejected, &[("reason", reason.code())]))
                .collect(),
            busy: [Endpoint::Connection, Endpoint::Webhooks, Endpoint::Api]
                .map(Endpoint::label)
                .map(|label| {
                    (label, r.counter("svc_interop_busy_rejections_total", busy, &[("endpoint", label)]))
                })
                .into(),
            gave_way: [Endpoint::Connection, Endpoint::Webhooks]
                .map(Endpoint::label)
                .map(|label| {
                    (label, r.counter("svc_interop_gave_way_total", gave_way, &[("endpoint", label)]))
                })
                .into(),
            egress_seconds: egress::delivery_seconds(&r),
            requests: RequestTable::new(Arc::clone(&recorder), INTEROP_TABLE),
            recorder: Arc::clone(&recorder),
        };
        r.describe_requests(&INTEROP_TABLE);
        metrics
    }

    /// A request was refused at `endpoint`.
    pub fn rejected(&self, endpoint: Endpoint, reason: Reason) {
        // `ALL` is in the order of the variants
        self.rejected[reason as usize].increment(1);
        if reason == Reason::RateLimit {
            self.quota_exhaustions.increment(1);
        }
        if reason == Reason::Backpressure {
            self.busy(endpoint);
        }
    }

    /// One who waited gave way to a newcomer: a connection, or a webhook whose body came slowly.
    pub fn gave_way(&self, endpoint: Endpoint) {
        if let Some(counter) = self.gave_way.get(endpoint.label()) {
            counter.increment(1);
        }
    }

    /// A bounded queue was full.
    pub fn busy(&self, endpoint: Endpoint) {
        if let Some(counter) = self.busy.get(endpoint.label()) {
            counter.increment(1);
        }
    }

    /// The metrics of one configured provider, with the KIDs of its secrets, all at 0. Call it once a
    /// provider and keep the result; a reload with new KIDs calls it again.
    #[must_use]
    pub fn provider<'k>(&self, provider: &str, kids: impl IntoIterator<Item = &'k str>) -> ProviderMetrics {
        let r = Names(&self.recorder);
        let verify = |result: WebhookResult| {
            let labels = [("provider", provider), ("result", result.label())];
            r.counter("svc_interop_webhook_verify_total", "Webhooks, by how verification ended.", &labels)
        };
        ProviderMetrics {
            accepted: verify(WebhookResult::Accepted),
            duplicate: verify(WebhookResult::Duplicate),
            handshake: verify(WebhookResult::Handshake),
            refused: Reason::ALL.iter().map(|reason| verify(WebhookResult::Refused(*reason))).collect(),
            secrets: SecretMetrics::new(&r, provider, kids),
            skew: secrets::skew(&r, provider),
        }
    }
}

/// The metrics of one provider.
#[derive(Debug)]
pub struct ProviderMetrics {
    accepted: Counter,
    duplicate: Counter,
    handshake: Counter,
    refused: Vec<Counter>,
    secrets: SecretMetrics,
    skew: Histogram,
}

impl ProviderMetrics {
    /// A webhook was judged.
    pub fn verified(&self, result: WebhookResult) {
        match result {
            WebhookResult::Accepted => self.accepted.increment(1),
            WebhookResult::Duplicate => self.duplicate.increment(1),
            WebhookResult::Handshake => self.handshake.increment(1),
            WebhookResult::Refused(reason) => self.refused[reason as usize].increment(1),
        }
    }

    /// A signature matched the secret `kid`.
    pub fn secret_matched(&self, kid: &str) {
        self.secrets.matched(kid);
    }

    /// Shows how far its secrets are.
    pub fn secrets(&self, secrets: &[Tracked]) {
        self.secrets.show(secrets);
    }

    /// A secret is not listed any more.
    pub fn secret_removed(&self, kid: &str) {
        self.secrets.removed(kid);
    }

    /// A verified webhook's signed time differed so much from our clock, ms.
    pub fn skewed(&self, ms: i64) {
        self.skew.record(ms as f64 / 1e3);
    }
}

const MAILBOX_TABLE: TableSpec = TableSpec {
    requests: "requests_total",
    latency: "request_latency_seconds",
    latency_by_method: true,
    inflight: "inflight_requests",
    routes: &MAILBOX_ROUTES,
    preset: &[
        ("/enqueue", MethodLabel::Post, 200),
        ("/enqueue/batch", MethodLabel::Post, 200),
        ("/recv", MethodLabel::Post, 200),
        ("/ack", MethodLabel::Post, 200),
        ("/nack", MethodLabel::Post, 200),
        ("/extend", MethodLabel::Post, 200),
        ("/", MethodLabel::Get, 200),
        ("/peek", MethodLabel::Get, 200),
        ("/tenant", MethodLabel::Get, 200),
    ],
};

const INTEROP_TABLE: TableSpec = TableSpec {
    requests: "svc_interop_requests_total",
    latency: "svc_interop_latency_seconds",
    latency_by_method: false,
    inflight: "svc_interop_inflight",
    routes: &INTEROP_ROUTES,
    preset: &[
        ("/webhooks/{provider}", MethodLabel::Post, 202),
        ("/version", MethodLabel::Get, 200),
        ("/v1", MethodLabel::Post, 200),
    ],
};

fn recorder() -> Result<PrometheusRecorder, BuildError> {
    let builder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)?
        .set_buckets_for_metric(Matcher::Suffix("_batch_size".to_owned()), &BATCH_SIZES)?
        .set_buckets_for_metric(Matcher::Full(secrets::SKEW.to_owned()), &secrets::SKEW_SECONDS)?;
    Ok(builder.build_recorder())
}

fn labels(pairs: &[(&'static str, &str)]) -> Vec<Label> {
    pairs.iter().map(|(key, value)| Label::new(*key, (*value).to_owned())).collect()
}

/// Registers metrics with their help texts.
struct Names<'r>(&'r PrometheusRecorder);

impl Names<'_> {
    fn counter(&self, name: &'static str, help: &'static str, pairs: &[(&'static str, &str)]) -> Counter {
        self.0.describe_counter(name.into(), None, help.into());
        self.0.register_counter(&Key::from_parts(name, labels(pairs)), &METADATA)
    }

    fn gauge(&self, name: &'static str, help: &'static str, pairs: &[(&'static str, &str)]) -> Gauge {
        self.0.describe_gauge(name.into(), None, help.into());
        let gauge = self.0.register_gauge(&Key::from_parts(name, labels(pairs)), &METADATA);
        gauge.set(0.0);
        gauge
    }

    fn histogram(&self, name: &'static str, help: &'static str) -> Histogram {
        self.0.describe_histogram(name.into(), None, help.into());
        self.0.register_histogram(&Key::from_static_name(name), &METADATA)
    }

    fn describe_requests(&self, spec: &TableSpec) {
        self.0.describe_counter(spec.requests.into(), None, "Requests answered, by status code.".into());
        self.0.describe_histogram(
            spec.latency.into(),
            None,
            "Seconds from a request's head to its answer.".into(),
        );
        self.0.describe_gauge(spec.inflight.into(), None, "Requests being worked on.".into());
    }
}

#[cfg(test)]
mod tests;
