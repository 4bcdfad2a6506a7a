//! The Unix socket's routes for egress. The listener has checked the peer's uid.

use crate::egress::EgressDesk;
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
pub fn egress_routes(desk: Arc<EgressDesk>) -> Router {
    Router::new()
        .route("/ctl/egress", get(list))
        .route("/ctl/egress/disable", post(disable))
        .route("/ctl/egress/enable", post(enable))
        .with_state(desk)
}

type Answer = Result<Response, Failure>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    name: String,
}

async fn list(State(desk): State<Arc<EgressDesk>>) -> Answer {
    json_of(StatusCode::OK, &desk.list())
}

async fn disable(State(desk): State<Arc<EgressDesk>>, request: Request) -> Answer {
    let (peer, Named { name }) = json_of_peer(request).await?;
    json_of(StatusCode::OK, &desk.disable(&name, peer).await?)
}

async fn enable(State(desk): State<Arc<EgressDesk>>, request: Request) -> Answer {
    let (peer, Named { name }) = json_of_peer(request).await?;
    json_of(StatusCode::OK, &desk.enable(&name, peer).await?)
}
