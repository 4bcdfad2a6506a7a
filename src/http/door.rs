//! The door of a listener: every request passes it on the way in and every answer on the way out.
//!
//! It gives the request its ids, catches panics, writes the error envelope, counts, times and logs. Routers
//! behind it return [`crate::http::error::Failure`] and know none of that.

use crate::http::body::Returning;
use crate::http::error::{Failure, RouteKind, X_CORR_ID, refusal_of, render};
use crate::http::request::{Call, Ids, Peer};
use crate::http::strangers::Standing;
use crate::metrics::{Endpoint, Inflight, MethodLabel, Metrics, interop_route, mailbox_route};
use axum::Router;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use futures::FutureExt;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use http::header::{CONNECTION, EXPECT};
use http::{HeaderValue, Request, Version};
use http_body::Body as _;
use hyper::body::Incoming;
use ron_core::ids::CorrId;
use ron_core::reason::{Reason, Refusal};
use std::num::NonZeroU32;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;
use tower::Service;

/// Which listener a door belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Surface {
    /// The mailbox's API.
    Mailbox,
    /// The public port.
    Interop,
    /// An admin port, or the Unix socket: not counted.
    Internal,
}

impl Surface {
    fn kind(self, path: &str) -> RouteKind {
        match self {
            Surface::Mailbox => RouteKind::Api,
            Surface::Interop if path.starts_with("/webhooks/") => RouteKind::Webhook,
            Surface::Interop => RouteKind::Api,
            Surface::Internal => RouteKind::Plain,
        }
    }
}

/// Counts what happens at one surface; cheap to clone.
#[derive(Debug, Clone)]
pub struct Meter {
    surface: Surface,
    metrics: Arc<Metrics>,
}

impl Meter {
    /// The meter of `surface`.
    #[must_use]
    pub const fn new(surface: Surface, metrics: Arc<Metrics>) -> Meter {
        Meter { surface, metrics }
    }

    /// All metrics of the node.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// A request, or an item of a batch, was refused.
    pub fn refused(&self, kind: RouteKind, reason: Reason) {
        match self.surface {
            Surface::Mailbox => self.metrics.mailbox.rejected(reason),
            Surface::Interop => {
                let endpoint = if kind == RouteKind::Webhook { Endpoint::Webhooks } else { Endpoint::Api };
                self.metrics.interop.rejected(endpoint, reason);
            }
            Surface::Internal => {}
        }
    }

    /// A connection over the limit was turned away.
    pub fn connection_refused(&self) {
        if self.surface == Surface::Interop {
            self.metrics.interop.busy(Endpoint::Connection);
        }
    }

    /// One who waited gave way to a newcomer.
    pub fn gave_way(&self, kind: RouteKind) {
        if self.surface == Surface::Interop {
            let webhook = kind == RouteKind::Webhook;
            self.metrics.interop.gave_way(if webhook { Endpoint::Webhooks } else { Endpoint::Connection });
        }
    }

    /// Whether strangers come here.
    #[must_use]
    pub fn is_public(&self) -> bool {
        self.surface == Surface::Interop
    }

    fn route(&self, path: &str) -> usize {
        match self.surface {
            Surface::Mailbox => mailbox_route(path),
            Surface::Interop => interop_route(path),
            Surface::Internal => 0,
        }
    }

    fn begin(&self, route: usize) -> Option<Inflight> {
        match self.surface {
            Surface::Mailbox => Some(self.metrics.mailbox.requests.begin(route)),
            Surface::Interop => Some(self.metrics.interop.requests.begin(route)),
            Surface::Internal => None,
        }
    }

    /// Counts an answer; returns its route's name for the log.
    fn answered(&self, route: usize, method: MethodLabel, code: u16, took: Duration) -> &'static str {
        let table = match self.surface {
            Surface::Mailbox => &self.metrics.mailbox.requests,
            Surface::Interop => &self.metrics.interop.requests,
            Surface::Internal => return "internal",
        };
        table.answered(route, method, code, took);
        table.routes()[route]
    }
}

/// Refusals logged a second; the rest is counted and told with the next one.
const REFUSALS_LOGGED_PER_S: NonZeroU32 = NonZeroU32::new(20).unwrap();

/// See the module.
#[derive(Debug)]
pub struct Door {
    router: Router,
    meter: Meter,
    ids: Arc<Ids>,
    log: DefaultDirectRateLimiter,
    unlogged: AtomicU64,
}

impl Door {
    /// The door in front of `router`.
    #[must_use]
    pub fn new(router: Router, meter: Meter, ids: Arc<Ids>) -> Door {
        let log = RateLimiter::direct(Quota::per_second(REFUSALS_LOGGED_PER_S));
        Door { router, meter, ids, log, unlogged: AtomicU64::new(0) }
    }

    /// What counts here.
    #[must_use]
    pub const fn meter(&self) -> &Meter {
        &self.meter
    }

    /// Answers one request of `peer`.
    pub async fn answer(&self, request: Request<Incoming>, peer: Peer) -> Response {
        let started = Instant::now();
        let (mut parts, body) = request.into_parts();
        let route = self.meter.route(parts.uri.path());
        let kind = self.meter.surface.kind(parts.uri.path());
        let method = MethodLabel::of(&parts.method);
        let inflight = self.meter.begin(route);
        let corr = self.ids.corr_id_of(&parts.headers);
        let call = Call { corr: corr.clone(), req_id: self.ids.req_id(), peer };
        let req_id = call.req_id;
        parts.extensions.insert(call);
        let polite = !parts.headers.contains_key(EXPECT);
        let http1 = parts.version <= Version::HTTP_11;
        let standing = parts.extensions.get::<Standing>().cloned();
        let called = ["/v1/", "/o/", "/put"].iter().any(|path| parts.uri.path().starts_with(path));
        let (body, leftover) = if body.is_end_stream() {
            (Body::empty(), None)
        } else {
            let (body, leftover) = Returning::new(body);
            (Body::new(body), polite.then_some(leftover))
        };

        let mut router = self.router.clone();
        let routed = AssertUnwindSafe(router.call(Request::from_parts(parts, body))).catch_unwind().await;
        let mut response = match routed {
            Ok(Ok(response)) => response,
            Ok(Err(never)) => match never {},
            // the panic hook has logged where; what it said may hold a payload
            Err(_) => {
                Failure(Refusal::new(Reason::Internal, "internal error; the log has it under the corr_id"))
                    .into_response()
            }
        };
        let refusal = refusal_of(&mut response);
        if let Some(refusal) = &refusal {
            response = render(refusal, &corr, kind, response.headers());
            self.meter.refused(kind, refusal.reason);
            let _waiting = standing.as_ref().map(Standing::waiting);
            let drained = match leftover {
                Some(leftover) if refusal.reason != Reason::Timeout => leftover.drain().await,
                _ => refusal.reason != Reason::Timeout,
            };
            if !drained && http1 {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
        }
        // every call of the API needs a capability
        if let Some(standing) = standing.filter(|_| called && response.status().is_success()) {
            standing.prove();
        }
        if let Ok(value) = HeaderValue::from_str(corr.as_str()) {
            response.headers_mut().insert(X_CORR_ID, value);
        }
        let took = started.elapsed();
        let route = self.meter.answered(route, method, response.status().as_u16(), took);
        drop(inflight);
        self.log(route, method, &corr, req_id, response.status().as_u16(), refusal.as_ref(), took);
        response
    }

    /// The raw answer to a connection over the limit, whatever it asks: nothing was read to choose it by.
    #[must_use]
    pub(super) fn too_many_connections(&self) -> Vec<u8> {
        let corr = self.ids.corr_id();
        let body = format!(
            "{{\"error\":\"too many connections; retry later\",\"reason\":\"{}\",\"corr_id\":\"{corr}\"}}",
            Reason::Backpressure.code()
        );
        format!(
            "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
             x-corr-id: {corr}\r\nx-effect: none\r\nretry-after: 1\r\nconnection: close\r\n\r\n{body}",
            body.len()
        )
        .into_bytes()
    }

    #[allow(clippy::too_many_arguments)] // the fields of one log line
    fn log(
        &self,
        route: &'static str,
        method: MethodLabel,
        corr: &CorrId,
        req_id: u128,
        code: u16,
        refusal: Option<&Refusal>,
        took: Duration,
    ) {
        let (method, req_id) = (method.name(), req(req_id));
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let Some(refusal) = refusal else {
            tracing::debug!(corr_id = %corr, %req_id, route, method, code, us, "request");
            return;
        };
        let reason = refusal.reason.code();
        if refusal.reason == Reason::Internal {
            let error = &*refusal.text;
            tracing::error!(corr_id = %corr, %req_id, route, method, code, reason, us, error, "failed");
            return;
        }
        if self.log.check().is_err() {
            self.unlogged.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let unlogged = self.unlogged.swap(0, Ordering::Relaxed);
        tracing::info!(corr_id = %corr, %req_id, route, method, code, reason, us, unlogged, "refused");
    }
}

/// A request id as text, formatted only if the line is written.
fn req(id: u128) -> impl std::fmt::Display {
    struct Hex(u128);
    impl std::fmt::Display for Hex {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            write!(f, "{:032x}", self.0)
        }
    }
    Hex(id)
}
