//! Visits to a URL of a provider's own, to confirm a subscription: one GET under the guard that egress keeps to.
//!
//! Such a URL comes from outside, so what asks for it must be signed, of a source that the operator listed, and on a
//! host that the scheme names, before it gets here.

use super::resolver::Resolve;
use super::transport::{HttpTransport, TransportLimits, TransportParts};
use crate::tls::ClientTls;
use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{HeaderMap, Method};
use ipnet::IpNet;
use ron_actors::interop::egress::{Attempted, Ended, Outbound, Transport};
use ron_core::egress::{Failure, Outcome, Phase, Ssrf, Target, UrlPolicy};
use ron_core::reason::{Reason, Refusal};
use ron_core::time::Clock;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// Visits at once, of all providers: subscriptions are confirmed once in their lives.
const VISITS_MAX: usize = 4;
/// Resolving, connecting and the answer together. Providers give up on us after 15 s and more.
const TOTAL: Duration = Duration::from_secs(10);
/// Resolving; and again connecting with the handshake.
const CONNECT: Duration = Duration::from_secs(5);
/// Bytes read of an answer: nothing is made of them.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Whom a visit trusts, and where it may go beside public addresses.
#[derive(Debug, Clone)]
pub struct VisitRules {
    /// Authorities that a host's certificate must be of.
    pub tls: ClientTls,
    /// Addresses that are allowed although they are not public.
    pub allow_cidrs: Vec<IpNet>,
}

/// See the module.
#[derive(Debug)]
pub struct Visitor {
    own: Arc<ArcSwap<Vec<SocketAddr>>>,
    resolver: Arc<dyn Resolve>,
    clock: Arc<dyn Clock>,
    turns: Semaphore,
}

impl Visitor {
    /// Visits no address that `own` holds, whatever the rules say.
    #[must_use]
    pub fn new(
        own: Arc<ArcSwap<Vec<SocketAddr>>>,
        resolver: Arc<dyn Resolve>,
        clock: Arc<dyn Clock>,
    ) -> Visitor {
        Visitor { own, resolver, clock, turns: Semaphore::new(VISITS_MAX) }
    }

    /// Visits a URL; done when it answers with a 2xx.
    ///
    /// # Errors
    /// BACKPRESSURE: too many at once. POLICY_BLOCKED: the guard refuses it. DOWNSTREAM_UNAVAILABLE: the host cannot be
    /// reached, or answers otherwise. None of them names the URL, which holds a token.
    pub async fn visit(&self, url: &str, rules: &VisitRules) -> Result<(), Refusal> {
        let full =
            |_| Refusal::new(Reason::Backpressure, "too many subscriptions are being confirmed; retry later");
        let _turn = self.turns.try_acquire().map_err(full)?;
        let target = Target::parse(url, &UrlPolicy::default()).map_err(|ssrf| unsafe_url(&ssrf))?;
        let limits =
            TransportLimits { total: TOTAL, connect: CONNECT, response_bytes: ANSWER_BYTES_MAX, idle: 0 };
        let transport = HttpTransport::new(TransportParts {
            target,
            method: Method::GET,
            allow: rules.allow_cidrs.clone(),
            own: self.own.clone(),
            resolver: self.resolver.clone(),
            tls: Some(rules.tls.clone()),
            headers: HeaderMap::new(),
            limits,
            clock: self.clock.clone(),
        });
        judge(transport.deliver(Outbound { headers: Vec::new(), body: Bytes::new() }).await)
    }
}

fn unsafe_url(ssrf: &Ssrf) -> Refusal {
    Refusal::new(Reason::PolicyBlocked, format!("the confirmation URL is not visited: {ssrf}"))
}

fn judge(attempted: Attempted) -> Result<(), Refusal> {
    let detail = attempted.detail.unwrap_or_default();
    let failed = |text: String| {
        Refusal::new(Reason::DownstreamUnavailable, format!("the confirmation URL was visited: {text}"))
    };
    match attempted.ended {
        Ended::Answered { status: 200..300, .. } => Ok(()),
        Ended::Answered { status, .. } => Err(failed(format!("it answered {status}"))),
        Ended::Failed(Failure::Ssrf) => {
            let text = format!("the confirmation URL is not visited: {detail}");
            Err(Refusal::new(Reason::PolicyBlocked, text))
        }
        // by then a request may have gone out
        Ended::Failed(failure @ (Failure::Broken(Phase::Http) | Failure::Timeout(Phase::Http))) => {
            Err(failed(described(failure, &detail)))
        }
        Ended::Failed(failure) => Err(failed(described(failure, &detail)).without_effect()),
    }
}

fn described(failure: Failure, detail: &str) -> String {
    let what = Outcome::Failed(failure).to_string();
    if detail.is_empty() { what } else { format!("{what}: {detail}") }
}
