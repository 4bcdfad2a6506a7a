//! The metrics of providers' secrets and clocks, and of verdicts that have no effect (shadow mode).

use super::{InteropMetrics, METADATA, Names, labels};
use metrics::{Counter, Gauge, Histogram, Key, Recorder};
use ron_core::reason::Reason;
use ron_core::rotation::{State, Tracked};
use std::collections::HashMap;

/// Bounds of `svc_interop_clock_skew_seconds`: below 0 the sender's clock is behind, or the request was under way.
pub(super) const SKEW_SECONDS: [f64; 13] =
    [-300.0, -120.0, -60.0, -30.0, -5.0, -1.0, 0.0, 1.0, 5.0, 30.0, 60.0, 120.0, 300.0];
/// The histogram that has them.
pub(super) const SKEW: &str = "svc_interop_clock_skew_seconds";

/// The metrics of a provider's secrets, by KID.
#[derive(Debug)]
pub(super) struct SecretMetrics(HashMap<String, OfSecret>);

#[derive(Debug)]
struct OfSecret {
    matches: Counter,
    state: Gauge,
    last_match: Gauge,
}

impl SecretMetrics {
    /// What is registered already keeps its value: a reload asks for it again.
    pub(super) fn new<'k>(
        r: &Names<'_>,
        provider: &str,
        kids: impl IntoIterator<Item = &'k str>,
    ) -> SecretMetrics {
        let gauge = |name: &'static str, help: &'static str, kid: &str| {
            r.0.describe_gauge(name.into(), None, help.into());
            let labels = labels(&[("provider", provider), ("kid", kid)]);
            r.0.register_gauge(&Key::from_parts(name, labels), &METADATA)
        };
        let of = |kid: &str| OfSecret {
            matches: r.counter(
                "svc_interop_secret_matches_total",
                "Verified webhooks, by the matching secret.",
                &[("provider", provider), ("kid", kid)],
            ),
            state: gauge(
                "svc_interop_secret_state",
                "A secret: 0 pending, 1 active, 2 dual, 3 cutover, 4 retired.",
                kid,
            ),
            last_match: gauge(
                "svc_interop_secret_last_match_timestamp_seconds",
                "When a secret last signed a verified webhook, Unix time; 0 = not known.",
                kid,
            ),
        };
        SecretMetrics(kids.into_iter().map(|kid| (kid.to_owned(), of(kid))).collect())
    }

    pub(super) fn matched(&self, kid: &str) {
        if let Some(secret) = self.0.get(kid) {
            secret.matches.increment(1);
        }
    }

    /// Shows how far the secrets are.
    pub(super) fn show(&self, secrets: &[Tracked]) {
        for secret in secrets {
            if let Some(metrics) = self.0.get(secret.listed.kid.as_str()) {
                metrics.state.set(f64::from(secret.state().number()));
                metrics.last_match.set(secret.seen.last_match.map_or(0.0, |at| at.0 as f64 / 1e3));
            }
        }
    }

    /// It is not listed any more.
    pub(super) fn removed(&self, kid: &str) {
        if let Some(metrics) = self.0.get(kid) {
            metrics.state.set(f64::from(State::Retired.number()));
        }
    }
}

/// The histogram of a provider's clock.
pub(super) fn skew(r: &Names<'_>, provider: &str) -> Histogram {
    let help = "The sender's clock minus ours, seconds, of verified webhooks with a signed time.";
    r.0.describe_histogram(SKEW.into(), None, help.into());
    r.0.register_histogram(&Key::from_parts(SKEW, labels(&[("provider", provider)])), &METADATA)
}

/// Verdicts on the webhooks of a provider in shadow mode, beside those that count.
#[derive(Debug)]
pub struct ShadowMetrics {
    accepted: Counter,
    refused: Vec<Counter>,
}

impl InteropMetrics {
    /// The metrics of a provider in shadow mode, all at 0 at first.
    #[must_use]
    pub fn shadow(&self, provider: &str) -> ShadowMetrics {
        let r = Names(&self.recorder);
        let verify = |result: &str| {
            let labels = [("provider", provider), ("result", result)];
            r.counter("svc_interop_webhook_verify_total", "Webhooks, by how verification ended.", &labels)
        };
        ShadowMetrics {
            accepted: verify("shadow_accepted"),
            refused: Reason::ALL.iter().map(|reason| verify(&format!("shadow_{}", reason.code()))).collect(),
        }
    }
}

impl ShadowMetrics {
    /// It would be stored.
    pub fn accepted(&self) {
        self.accepted.increment(1);
    }

    /// It would be refused.
    pub fn refused(&self, reason: Reason) {
        // `ALL` is in the order of the variants
        self.refused[reason as usize].increment(1);
    }
}
