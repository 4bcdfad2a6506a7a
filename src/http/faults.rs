//! The Unix socket's routes for faults injected on purpose. The listener has checked the peer's uid.

use crate::faults::FaultDesk;
use crate::http::ctl::json_of_peer;
use crate::http::error::{Failure, json_of};
use axum::Router;
use axum::extract::{Request, State};
use axum::response::Response;
use axum::routing::{get, post};
use http::StatusCode;
use serde::Deserialize;
use std::sync::Arc;

/// The routes; whoever merges them adds the fallbacks.
pub fn fault_routes(desk: Arc<FaultDesk>) -> Router {
    Router::new()
        .route("/ctl/chaos", get(list))
        .route("/ctl/chaos/inject", post(inject))
        .route("/ctl/chaos/clear", post(clear))
        .with_state(desk)
}

type Answer = Result<Response, Failure>;

async fn list(State(desk): State<Arc<FaultDesk>>) -> Answer {
    json_of(StatusCode::OK, &desk.list())
}

async fn inject(State(desk): State<Arc<FaultDesk>>, request: Request) -> Answer {
    let (peer, asked) = json_of_peer(request).await?;
    json_of(StatusCode::OK, &desk.inject(asked, peer).await?)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Clear {
    /// All of them without it.
    id: Option<u32>,
}

async fn clear(State(desk): State<Arc<FaultDesk>>, request: Request) -> Answer {
    let (peer, Clear { id }) = json_of_peer(request).await?;
    json_of(StatusCode::OK, &desk.clear(id, peer)?)
}
