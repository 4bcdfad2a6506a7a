//! Egress as the process runs it: the endpoints of the configuration, how they travel, and the operators' calls.

mod desk;
mod resolver;
mod transport;
mod visit;

pub use desk::EgressDesk;
pub use resolver::{Resolve, SystemResolver};
pub use transport::{HttpTransport, TransportLimits, TransportParts};
pub use visit::{VisitRules, Visitor};

use crate::config::{Config, Egress};
use crate::metrics::Metrics;
use crate::node::BootError;
use crate::tls::ClientTls;
use arc_swap::ArcSwap;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use ron_actors::interop::egress::{Book, Endpoint, EndpointParts, EndpointSpec};
use ron_actors::kernel::child::ChildSpec;
use ron_core::egress::Signer;
use ron_core::ids::ContentHash;
use ron_core::limit::Rate;
use ron_core::time::Clock;
use secrecy::ExposeSecret;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

/// The file of the endpoints' states in the data directory.
pub const EGRESS_FILE: &str = "egress";

/// The endpoints that are enabled.
#[derive(Debug)]
pub struct Egresses {
    endpoints: BTreeMap<String, Arc<Endpoint>>,
    own: Arc<ArcSwap<Vec<SocketAddr>>>,
    resolver: Arc<SystemResolver>,
}

impl Egresses {
    /// The endpoints of a configuration. They take nothing before [`Egresses::begin`]. Blocks.
    ///
    /// # Errors
    /// [`BootError`]: no trust to be had, or a damaged file of states.
    pub fn of(config: &Config, metrics: &Metrics, clock: &Arc<dyn Clock>) -> Result<Egresses, BootError> {
        let file = (!config.node.amnesia).then(|| config.node.data_dir.join(EGRESS_FILE));
        let book = Book::load(file).map_err(|error| BootError::Damaged(error.to_string()))?;
        let (book, own) = (Arc::new(book), Arc::new(ArcSwap::default()));
        let mut endpoints = BTreeMap::new();
        let (mut system, resolver) = (None, Arc::new(SystemResolver::default()));
        for (name, egress) in config.interop.egress.iter().filter(|(_, egress)| egress.enabled) {
            let bad = |what: String| BootError::Config(format!("interop.egress.{name}: {what}"));
            let signer = egress.signer.clone().ok_or_else(|| bad("no secrets".into()))?;
            let tls = match (egress.target.tls(), &egress.ca_file) {
                (false, _) => None,
                (true, Some(file)) => {
                    Some(ClientTls::trusting(file).map_err(|error| bad(error.to_string()))?)
                }
                (true, None) => {
                    if system.is_none() {
                        system = Some(ClientTls::system().map_err(bad)?);
                    }
                    system.clone()
                }
            };
            let limits = TransportLimits {
                total: egress.timeout,
                connect: egress.connect_timeout,
                response_bytes: egress.response_limit.as_usize(),
                idle: egress.concurrency as usize,
            };
            let transport = HttpTransport::new(TransportParts {
                target: egress.target.clone(),
                method: Method::POST,
                allow: egress.allow_cidrs.clone(),
                own: own.clone(),
                resolver: resolver.clone(),
                tls,
                headers: header_map(egress).map_err(bad)?,
                limits,
                clock: clock.clone(),
            });
            if !egress.allow_cidrs.is_empty() {
                let allowed: Vec<String> = egress.allow_cidrs.iter().map(ToString::to_string).collect();
                tracing::warn!(egress = %name, allow_cidrs = allowed.join(", "), "egress may reach inner addresses");
            }
            let observer = Arc::new(metrics.interop.egress(name.as_str()));
            let spec = spec_of(name.as_str(), egress, signer, config.mailbox.settings.max_attempts);
            let endpoint = Endpoint::new(spec, Arc::new(transport), observer, book.clone());
            endpoints.insert(name.to_string(), Arc::new(endpoint));
        }
        Ok(Egresses { endpoints, own, resolver })
    }

    /// Visits under the same guard: it knows where the node itself listens.
    #[must_use]
    pub fn visitor(&self, clock: &Arc<dyn Clock>) -> Visitor {
        Visitor::new(self.own.clone(), self.resolver.clone(), clock.clone())
    }

    /// Their actors, for the interop tree.
    #[must_use]
    pub fn child_specs(&self, parts: &EndpointParts) -> Vec<ChildSpec> {
        self.endpoints.values().map(|endpoint| endpoint.child_spec(parts)).collect()
    }

    /// The node is up and listens at these addresses, which are never delivered to.
    pub fn begin(&self, own: Vec<SocketAddr>) {
        self.own.store(Arc::new(own));
        self.endpoints.values().for_each(|endpoint| endpoint.begin());
    }

    /// Takes no more messages.
    pub fn drain(&self) {
        self.endpoints.values().for_each(|endpoint| endpoint.drain());
    }

    /// Those whose actors wait for an operator, as `egress:NAME`.
    pub fn quarantined(&self) -> impl Iterator<Item = String> {
        let quarantined = self.endpoints.values().filter(|endpoint| endpoint.is_quarantined());
        quarantined.map(|endpoint| endpoint.child_name())
    }

    /// All, by name.
    #[must_use]
    pub fn endpoints(&self) -> &BTreeMap<String, Arc<Endpoint>> {
        &self.endpoints
    }
}

fn spec_of(name: &str, egress: &Egress, signer: Signer, default_attempts: u32) -> EndpointSpec {
    EndpointSpec {
        name: name.into(),
        queue: egress.queue.clone(),
        signer,
        schedule: egress.schedule.clone(),
        terminal: egress.terminal_statuses.clone(),
        concurrency: egress.concurrency,
        rate: egress.rate.map(|rate| Rate::per_second(rate.into())),
        timeout: egress.timeout,
        breaker: egress.breaker,
        config_version: version_of(egress),
        default_attempts,
    }
}

/// Names a configuration: the same text for the same settings. Secrets take part by their KIDs alone.
fn version_of(egress: &Egress) -> String {
    let hash = ContentHash::of(format!("{egress:?}").as_bytes()).to_string();
    hash.chars().skip("b3:".len()).take(8).collect()
}

fn header_map(egress: &Egress) -> Result<HeaderMap, String> {
    let mut map = HeaderMap::new();
    for (name, value) in &egress.headers {
        let bad = || format!("headers.{name}: is no header");
        let mut value = HeaderValue::try_from(value.expose_secret()).map_err(|_| bad())?;
        value.set_sensitive(true);
        map.insert(HeaderName::try_from(name.as_str()).map_err(|_| bad())?, value);
    }
    Ok(map)
}
