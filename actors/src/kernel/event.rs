//! What is said on the bus, and how a line of it is written (DETAILS "Bus and tail lines").

use super::child::ServiceLabel;
use ron_core::ids::{CorrId, ProviderName, QueueKey};
use ron_core::time::Millis;
use serde::{Serialize, Serializer};
use std::sync::Arc;

/// Something that happened in the node. Holds names and ids, never payloads, secrets or tokens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "event")]
pub enum Event {
    /// A service changed between healthy and not.
    Health {
        /// Which.
        service: ServiceLabel,
        /// Healthy now.
        ok: bool,
    },
    /// A configuration was put in force.
    ConfigUpdated {
        /// Its number since the start.
        version: u64,
    },
    /// A child failed; it will be restarted or quarantined.
    ServiceCrashed {
        /// Its kind.
        service: ServiceLabel,
        /// Its name.
        child: Arc<str>,
        /// The error or panic text, cut to 256 characters.
        reason: Arc<str>,
    },
    /// A child spent its restart budget.
    Quarantined {
        /// Its kind.
        service: ServiceLabel,
        /// Its name.
        child: Arc<str>,
    },
    /// An operator let a child out of quarantine.
    Released {
        /// Its kind.
        service: ServiceLabel,
        /// Its name.
        child: Arc<str>,
    },
    /// The node is about to exit.
    Shutdown,
    /// A policy was put in force.
    PolicyChanged {
        /// Its version.
        version: u64,
        /// Its id.
        id: Arc<str>,
    },
    /// A capability or a key was revoked; one of the two is set.
    CapRevoked {
        /// The capability's id.
        #[serde(skip_serializing_if = "Option::is_none")]
        cap_id: Option<Arc<str>>,
        /// The key's id.
        #[serde(skip_serializing_if = "Option::is_none")]
        kid: Option<Arc<str>>,
    },
    /// Messages went to a dead-letter queue.
    DlqMoved {
        /// Of which queue.
        #[serde(serialize_with = "as_text")]
        queue: QueueKey,
        /// How many.
        n: u64,
    },
    /// Deliveries whose deadline passed are ready again.
    ScannerRequeue {
        /// In which queue.
        #[serde(serialize_with = "as_text")]
        queue: QueueKey,
        /// How many.
        n: u64,
    },
    /// A webhook was verified and is durable.
    WebhookAccepted {
        /// From whom.
        provider: ProviderName,
        /// The message it became.
        msg_id: Arc<str>,
        /// Whether it was known.
        duplicate: bool,
    },
    /// The brownout sentinel switched.
    Brownout {
        /// Whether writes are shed now.
        active: bool,
    },
    /// An egress endpoint is left alone from now on, tried again, or served as usual.
    EgressState {
        /// Its name.
        endpoint: Arc<str>,
        /// `closed` = as usual, `open`, `half_open`, `disabled`.
        state: &'static str,
        /// Why it is disabled: `gone`, `failing`, `operator`.
        #[serde(skip_serializing_if = "Option::is_none")]
        why: Option<&'static str>,
    },
}

fn as_text<S: Serializer>(queue: &QueueKey, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(queue)
}

impl Event {
    /// Every topic, for counters that must exist at 0.
    pub const TOPICS: [&'static str; 13] = [
        "kernel.health",
        "kernel.config_updated",
        "kernel.service_crashed",
        "kernel.quarantined",
        "kernel.released",
        "kernel.shutdown",
        "kernel.policy_changed",
        "kernel.cap_revoked",
        "mailbox.dlq.moved",
        "mailbox.scanner.requeue",
        "interop.webhook.accepted",
        "interop.bridge.brownout",
        "interop.egress.state",
    ];

    /// The event's topic, one of [`Event::TOPICS`].
    #[must_use]
    pub const fn topic(&self) -> &'static str {
        match self {
            Event::Health { .. } => "kernel.health",
            Event::ConfigUpdated { .. } => "kernel.config_updated",
            Event::ServiceCrashed { .. } => "kernel.service_crashed",
            Event::Quarantined { .. } => "kernel.quarantined",
            Event::Released { .. } => "kernel.released",
            Event::Shutdown => "kernel.shutdown",
            Event::PolicyChanged { .. } => "kernel.policy_changed",
            Event::CapRevoked { .. } => "kernel.cap_revoked",
            Event::DlqMoved { .. } => "mailbox.dlq.moved",
            Event::ScannerRequeue { .. } => "mailbox.scanner.requeue",
            Event::WebhookAccepted { .. } => "interop.webhook.accepted",
            Event::Brownout { .. } => "interop.bridge.brownout",
            Event::EgressState { .. } => "interop.egress.state",
        }
    }
}

/// Whether `topic` is `prefix` or lies under it. `svc-mailbox` and `svc-interop` are the operators' names of
/// `mailbox` and `interop`; the empty prefix takes everything.
#[must_use]
pub fn topic_matches(prefix: &str, topic: &str) -> bool {
    let prefix = prefix.strip_prefix("svc-").unwrap_or(prefix);
    match topic.strip_prefix(prefix) {
        Some(rest) => prefix.is_empty() || rest.is_empty() || rest.starts_with('.'),
        None => false,
    }
}

/// An event as it stands on the bus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its place in the order of publication, from 0.
    pub seq: u64,
    /// Wall clock, for people.
    pub ts: Millis,
    /// Node time, for counting back.
    pub at: Millis,
    /// The request that caused it.
    pub corr_id: Option<CorrId>,
    /// What happened.
    pub event: Event,
}

/// The line of `ronctl tail`: `{"ts","topic","event",…,"corr_id"?}`.
impl Serialize for Record {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Line<'a> {
            ts: String,
            topic: &'static str,
            #[serde(flatten)]
            event: &'a Event,
            #[serde(skip_serializing_if = "Option::is_none")]
            corr_id: Option<&'a str>,
        }
        let corr_id = self.corr_id.as_ref().map(CorrId::as_str);
        let line = Line { ts: self.ts.rfc3339(), topic: self.event.topic(), event: &self.event, corr_id };
        line.serialize(to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ron_core::ids::{Tenant, Topic};

    fn queue() -> QueueKey {
        QueueKey { tenant: Tenant::parse("acme").unwrap(), topic: Topic::parse("orders").unwrap() }
    }

    fn line(event: Event, corr_id: Option<&str>) -> serde_json::Value {
        let corr_id = corr_id.and_then(CorrId::parse);
        let record = Record { seq: 0, ts: Millis(1_700_000_000_007), at: Millis(5), corr_id, event };
        serde_json::to_value(&record).unwrap()
    }

    #[test]
    fn a_line_has_time_topic_event_and_its_fields() {
        let crashed = Event::ServiceCrashed {
            service: ServiceLabel::Shard,
            child: "acme/orders".into(),
            reason: "boom".into(),
        };
        assert_eq!(
            line(crashed, Some("corr-id-1")),
            serde_json::json!({
                "ts": "2023-11-14T22:13:20.007Z", "topic": "kernel.service_crashed",
                "event": "ServiceCrashed", "service": "shard", "child": "acme/orders", "reason": "boom", "corr_id": "corr-id-1"
            })
        );
        assert_eq!(
            line(Event::DlqMoved { queue: queue(), n: 2 }, None),
            serde_json::json!({
                "ts": "2023-11-14T22:13:20.007Z", "topic": "mailbox.dlq.moved", "event": "DlqMoved",
                "queue": "acme/orders", "n": 2
            })
        );
        assert_eq!(line(Event::Shutdown, None)["event"], "Shutdown");
    }

    #[test]
    fn topics_are_found_by_the_operators_prefixes() {
        let topic = Event::ScannerRequeue { queue: queue(), n: 1 }.topic();
        assert!(Event::TOPICS.contains(&topic));
        for prefix in ["", "mailbox", "svc-mailbox", "mailbox.scanner", "mailbox.scanner.requeue"] {
            assert!(topic_matches(prefix, topic), "{prefix}");
        }
        for prefix in ["interop", "svc-interop", "mail", "kernel", "mailbox.dlq"] {
            assert!(!topic_matches(prefix, topic), "{prefix}");
        }
    }
}
