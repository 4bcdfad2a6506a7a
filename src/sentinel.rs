//! What the brownout sentinel reads and moves: the budget of sends, readiness, the metric, the bus.

use crate::http::admission::Budgets;
use crate::http::readiness::{Part, Readiness};
use crate::metrics::Metrics;
use ron_actors::audit::Audit;
use ron_actors::kernel::bus::Bus;
use ron_actors::kernel::event::Event;
use ron_actors::sentinel::Sensors;
use ron_core::audit::{Decision, Kind};
use ron_core::brownout::Switch;
use std::sync::Arc;

/// See the module.
#[derive(Debug)]
pub struct NodeSensors {
    /// The budgets of the listeners.
    pub budgets: Arc<Budgets>,
    /// Where sends ask whether they may come in.
    pub readiness: Arc<Readiness>,
    /// For `brownout_active`.
    pub metrics: Arc<Metrics>,
    /// For those who listen.
    pub bus: Bus,
    /// For those who ask later.
    pub audit: Audit,
}

impl NodeSensors {
    /// Over these parts of the node.
    #[must_use]
    pub fn new(
        budgets: &Arc<Budgets>,
        readiness: &Arc<Readiness>,
        metrics: &Arc<Metrics>,
        bus: &Bus,
        audit: &Audit,
    ) -> NodeSensors {
        NodeSensors {
            budgets: budgets.clone(),
            readiness: readiness.clone(),
            metrics: metrics.clone(),
            bus: bus.clone(),
            audit: audit.clone(),
        }
    }

    fn shed(&self, active: bool) {
        self.readiness.set(Part::Brownout, !active);
        self.metrics.interop.brownout_active.set(if active { 1.0 } else { 0.0 });
    }
}

impl Sensors for NodeSensors {
    fn budget_percent(&self) -> u8 {
        self.budgets.sends.percent_in_use()
    }

    fn switched(&self, switch: Switch) {
        match switch {
            Switch::Slow(p95_ms) => {
                tracing::warn!(p95_ms, "the store is too slow (interop.brownout): new messages are refused");
            }
            Switch::Full => {
                tracing::warn!("mailbox.admission.bytes stays full: new messages are refused for a while");
            }
            Switch::Failing(permille) => tracing::warn!(
                permille,
                "too many requests fail (interop.brownout.error_rate_5m): new messages are refused"
            ),
            Switch::Clear => tracing::info!("the store keeps up again: new messages are accepted"),
        }
        let (reason, detail) = match switch {
            Switch::Slow(p95_ms) => {
                ("SLOW", format!("p95 of a commit {p95_ms} ms: new messages are refused"))
            }
            Switch::Full => ("FULL", "the budget of sends stays full: new messages are refused".to_owned()),
            Switch::Failing(permille) => {
                ("FAILING", format!("{permille} of 1000 requests failed: new messages are refused"))
            }
            Switch::Clear => ("CLEAR", "new messages are accepted".to_owned()),
        };
        let entry = self.audit.entry(Kind::Brownout, Decision::Done, reason);
        self.audit.record(entry.detail(&detail));
        let active = switch != Switch::Clear;
        self.shed(active);
        self.bus.publish(Event::Brownout { active });
    }

    fn began(&self) {
        self.shed(false);
    }
}
