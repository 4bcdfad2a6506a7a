//! The Unix socket's routes for the upkeep of the store: snapshots, scrubs, figures. The listener has checked the
//! peer's uid.

use crate::http::body;
use crate::http::ctl::json_of_peer;
use crate::http::error::{Failure, json_of};
use crate::http::request::Call;
use crate::upkeep::Upkeep;
use axum::Router;
use axum::extract::{Request, State};
use axum::response::Response;
use axum::routing::{get, post};
use http::StatusCode;
use serde::Deserialize;
use std::sync::Arc;

/// The routes; whoever merges them adds the fallbacks.
pub fn upkeep_routes(upkeep: Arc<Upkeep>) -> Router {
    Router::new()
        .route("/ctl/snapshots", get(snapshots))
        .route("/ctl/snapshot/create", post(create))
        .route("/ctl/snapshot/verify", post(verify))
        .route("/ctl/store/stats", get(stats))
        .route("/ctl/store/scrub", post(scrub))
        .with_state(upkeep)
}

type Answer = Result<Response, Failure>;

async fn snapshots(State(upkeep): State<Arc<Upkeep>>) -> Answer {
    json_of(StatusCode::OK, &upkeep.snapshots().await?)
}

async fn stats(State(upkeep): State<Arc<Upkeep>>) -> Answer {
    json_of(StatusCode::OK, &upkeep.stats().await?)
}

async fn create(State(upkeep): State<Arc<Upkeep>>, request: Request) -> Answer {
    let (parts, body) = request.into_parts();
    body::within_limit(body::declared_len(&body), 0)?;
    json_of(StatusCode::OK, &upkeep.take_snapshot(Call::of(&parts)?.peer).await?)
}

async fn scrub(State(upkeep): State<Arc<Upkeep>>, request: Request) -> Answer {
    let (parts, body) = request.into_parts();
    body::within_limit(body::declared_len(&body), 0)?;
    json_of(StatusCode::OK, &upkeep.scrub_now(Call::of(&parts)?.peer).await?)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Verify {
    name: String,
}

async fn verify(State(upkeep): State<Arc<Upkeep>>, request: Request) -> Answer {
    let (_, Verify { name }) = json_of_peer(request).await?;
    json_of(StatusCode::OK, &upkeep.verify_snapshot(&name).await?)
}
