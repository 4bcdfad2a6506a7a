//! The admin ports: liveness, readiness, metrics (SPEC §2). One router a service; a series is on one of them. The
//! mailbox's metrics are on the Unix socket, too: `ronctl` then needs no port that it may not reach.

use crate::http::error::OwnAnswer;
use crate::http::mailbox::with_fallbacks;
use crate::http::readiness::Readiness;
use crate::metrics::{Metrics, QueueFigures};
use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use axum::routing::get;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, StatusCode, Uri};
use std::sync::Arc;

/// Whose admin port it is.
#[derive(Clone)]
pub enum AdminOf {
    /// svc-interop's.
    Interop,
    /// svc-mailbox's, with the figures of its queues.
    Mailbox(Arc<dyn QueueFigures>),
}

#[derive(Clone)]
struct Admin {
    of: AdminOf,
    readiness: Arc<Readiness>,
    metrics: Arc<Metrics>,
}

/// The router of one admin port.
pub fn admin_router(of: AdminOf, readiness: Arc<Readiness>, metrics: Arc<Metrics>) -> Router {
    let routes = Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(exposition))
        .with_state(Admin { of, readiness, metrics });
    with_fallbacks(routes)
}

/// The route of the Unix socket with the metrics; whoever merges it adds the fallbacks.
pub fn ctl_metrics_route(of: AdminOf, readiness: Arc<Readiness>, metrics: Arc<Metrics>) -> Router {
    Router::new().route("/ctl/metrics", get(exposition)).with_state(Admin { of, readiness, metrics })
}

async fn readyz(State(admin): State<Admin>, uri: Uri) -> Response {
    let reads = uri.query().is_some_and(|query| query.split('&').any(|pair| pair == "for=reads"));
    let (status, body, retry_after_s) = admin.readiness.answer(reads);
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(seconds) = retry_after_s {
        response.headers_mut().insert(RETRY_AFTER, seconds.into());
    }
    response.extensions_mut().insert(OwnAnswer);
    response
}

async fn exposition(State(admin): State<Admin>) -> Response {
    let text = match &admin.of {
        AdminOf::Interop => admin.metrics.render_interop(),
        AdminOf::Mailbox(queues) => admin.metrics.render_mailbox(queues.as_ref()),
    };
    let mut response = Response::new(Body::from(text));
    let format = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, format);
    response
}
