//! The metrics of egress: one set an endpoint, and one histogram for all.

use super::{InteropMetrics, Names};
use metrics::{Counter, Gauge, Histogram};
use ron_actors::interop::egress::EgressObserver;
use ron_core::egress::{BreakerState, Outcome};
use std::collections::HashMap;

/// The metrics of one egress endpoint.
#[derive(Debug)]
pub struct EgressMetrics {
    attempts: HashMap<&'static str, Counter>,
    breaker_state: Gauge,
    seconds: Histogram,
}

pub(super) fn delivery_seconds(r: &Names<'_>) -> Histogram {
    let help = "Seconds of one egress attempt, from resolving to the end of the answer.";
    r.histogram("svc_interop_egress_delivery_seconds", help)
}

impl InteropMetrics {
    /// The metrics of one configured endpoint, all at 0. Call it once an endpoint and keep the result.
    #[must_use]
    pub fn egress(&self, endpoint: &str) -> EgressMetrics {
        let r = Names(&self.recorder);
        let attempts = |result: &'static str| {
            let labels = [("endpoint", endpoint), ("result", result)];
            (
                result,
                r.counter(
                    "svc_interop_egress_attempts_total",
                    "Egress attempts, by how they ended.",
                    &labels,
                ),
            )
        };
        let help = "Egress breaker: 0 closed, 1 half-open, 2 open, 3 disabled.";
        EgressMetrics {
            attempts: Outcome::LABELS.map(attempts).into(),
            breaker_state: r.gauge("svc_interop_egress_breaker_state", help, &[("endpoint", endpoint)]),
            seconds: self.egress_seconds.clone(),
        }
    }
}

impl EgressObserver for EgressMetrics {
    fn attempted(&self, outcome: Outcome, seconds: f64) {
        if let Some(counter) = self.attempts.get(outcome.label()) {
            counter.increment(1);
        }
        self.seconds.record(seconds);
    }

    fn state(&self, state: BreakerState) {
        self.breaker_state.set(f64::from(state.number()));
    }
}
