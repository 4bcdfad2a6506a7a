//! The Unix socket's route for reloading the configuration. The listener has checked the peer's uid.
//!
//! Whoever runs the node reloads it, between two of its duties; the route only asks and waits.

use crate::http::ctl::json_of_peer;
use crate::http::error::{Failure, json_of};
use crate::http::request::Peer;
use axum::Router;
use axum::extract::{Request, State};
use axum::response::Response;
use axum::routing::post;
use http::StatusCode;
use ron_core::reason::{Reason, Refusal};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

/// What is asked for.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ask {
    /// Also what has requests refused that were signed in good faith: a secret that leaked must go at once.
    #[serde(default)]
    pub force: bool,
}

/// A reload that somebody waits for.
#[derive(Debug)]
pub struct Asked {
    /// What is asked for.
    pub ask: Ask,
    /// By whom.
    pub peer: Peer,
    /// Where the report goes.
    pub reply: oneshot::Sender<Result<Value, Refusal>>,
}

/// The two ends between the route and whoever reloads. One is under way at a time, and none waits behind it.
#[must_use]
pub fn reloads() -> (mpsc::Sender<Asked>, mpsc::Receiver<Asked>) {
    mpsc::channel(1)
}

/// The route; whoever merges it adds the fallbacks.
pub fn reload_routes(asks: mpsc::Sender<Asked>) -> Router {
    Router::new().route("/ctl/config/reload", post(reload)).with_state(asks)
}

async fn reload(State(asks): State<mpsc::Sender<Asked>>, request: Request) -> Result<Response, Failure> {
    let (peer, ask) = json_of_peer(request).await?;
    let (reply, report) = oneshot::channel();
    let busy = |_| Refusal::new(Reason::Backpressure, "another reload is under way").without_effect();
    asks.try_send(Asked { ask, peer, reply }).map_err(busy)?;
    let gone = |_| Refusal::new(Reason::DownstreamUnavailable, "the node is stopping");
    json_of(StatusCode::OK, &report.await.map_err(gone)??)
}
