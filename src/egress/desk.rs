//! What operators ask of egress over the control socket.

use super::Egresses;
use crate::config::Config;
use crate::http::request::Peer;
use ron_actors::interop::egress::{Endpoint, EndpointParts};
use ron_core::egress::BreakerState;
use ron_core::ids::ProviderName;
use ron_core::reason::{Reason, Refusal};
use ron_core::time::Millis;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

/// See the module.
#[derive(Debug)]
pub struct EgressDesk {
    /// Those that are enabled in the configuration.
    pub egresses: Arc<Egresses>,
    /// What they work with.
    pub parts: EndpointParts,
    /// All, as configured: name, whether enabled, queue, where to.
    pub configured: BTreeMap<ProviderName, Configured>,
}

/// An endpoint as configured.
#[derive(Debug, Clone)]
pub struct Configured {
    enabled: bool,
    queue: String,
    origin: String,
}

impl EgressDesk {
    /// The desk of a node with this configuration.
    #[must_use]
    pub fn new(config: &Config, egresses: Arc<Egresses>, parts: EndpointParts) -> EgressDesk {
        let shown = config.interop.egress.iter().map(|(name, egress)| {
            let (queue, origin) = (egress.queue.to_string(), egress.target.origin());
            (name.clone(), Configured { enabled: egress.enabled, queue, origin })
        });
        EgressDesk { configured: shown.collect(), egresses, parts }
    }

    /// All endpoints and how they are. Of a URL only its origin is shown: the path may be a secret.
    #[must_use]
    pub fn list(&self) -> Value {
        let show = |(name, configured): (&ProviderName, &Configured)| {
            let mut shown = json!({
                "name": name.as_str(),
                "enabled": configured.enabled,
                "queue": configured.queue,
                "to": configured.origin,
            });
            if let Some(endpoint) = self.egresses.endpoints().get(name.as_str()) {
                show_status(endpoint, &mut shown);
            }
            shown
        };
        json!({ "egress": self.configured.iter().map(show).collect::<Vec<_>>() })
    }

    /// Stops deliveries to an endpoint until it is enabled, over restarts, too.
    ///
    /// # Errors
    /// NOT_FOUND; STORAGE if it may not outlast a restart.
    pub async fn disable(&self, name: &str, peer: Peer) -> Result<Value, Refusal> {
        self.switch(name, peer, Endpoint::disable).await
    }

    /// Lets deliveries begin again, whatever stopped them.
    ///
    /// # Errors
    /// As [`EgressDesk::disable`].
    pub async fn enable(&self, name: &str, peer: Peer) -> Result<Value, Refusal> {
        self.switch(name, peer, Endpoint::enable).await
    }

    async fn switch(
        &self,
        name: &str,
        peer: Peer,
        switch: fn(&Endpoint, &EndpointParts) -> io::Result<bool>,
    ) -> Result<Value, Refusal> {
        let endpoint = self.egresses.endpoints().get(name).cloned().ok_or_else(|| {
            let text = format!("no egress {name:.100} is enabled in the configuration: see the list");
            Refusal::new(Reason::NotFound, text)
        })?;
        let (of, parts) = (endpoint.clone(), self.parts.clone());
        let done = tokio::task::spawn_blocking(move || switch(&of, &parts)).await;
        let lost = |_| Refusal::new(Reason::Internal, "the change failed; the log says why");
        let unsaved = |error: io::Error| {
            let text = format!("it is in force, but not on the disk, and a restart forgets it: {error}");
            Refusal::new(Reason::Storage, text)
        };
        let changed = done.map_err(lost)?.map_err(unsaved)?;
        let state = endpoint.status().state;
        tracing::info!(
            egress = name,
            state = state.label(),
            changed,
            ?peer,
            "egress switched by an operator"
        );
        Ok(json!({ "name": name, "state": state.label(), "changed": changed }))
    }
}

fn show_status(endpoint: &Endpoint, shown: &mut Value) {
    let (status, spec) = (endpoint.status(), endpoint.spec());
    shown["state"] = json!(status.state.label());
    if let BreakerState::Disabled(why) = status.state {
        shown["why"] = json!(why.label());
    }
    shown["failing_since"] = json!(status.failing_since.map(Millis::rfc3339));
    shown["attempts"] = json!(status.attempts);
    shown["delivered"] = json!(status.delivered);
    shown["under_way"] = json!(status.under_way);
    shown["config"] = json!(spec.config_version);
    shown["kids"] = spec.signer.kids().map(ToString::to_string).collect::<Vec<_>>().into();
    shown["quarantined"] = json!(endpoint.is_quarantined());
    shown["last"] = json!(status.last.map(|last| {
        json!({
            "at": last.at.rfc3339(),
            "msg_id": last.msg_id.to_string(),
            "result": last.outcome.label(),
            "text": last.outcome.to_string(),
        })
    }));
}
