//! The Unix socket's routes for the audit log: where it ends, and its newest records. The listener has checked the
//! peer's uid.

use crate::http::dto;
use crate::http::error::{Failure, json_of};
use crate::http::readiness::Readiness;
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use axum::routing::get;
use bytes::Bytes;
use futures::Stream;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, StatusCode};
use ron_actors::audit::Audit;
use serde::Deserialize;
use serde_json::json;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

/// Records that are written to a reader at once.
const LINES: usize = 256;
/// A tail that has nothing to say says so this often, so that nobody takes the node for dead.
const QUIET: Duration = Duration::from_secs(10);

#[derive(Clone)]
struct App {
    audit: Audit,
    readiness: Arc<Readiness>,
}

/// The routes; whoever merges them adds the fallbacks.
pub fn audit_routes(audit: Audit, readiness: Arc<Readiness>) -> Router {
    Router::new()
        .route("/ctl/audit/head", get(head))
        .route("/ctl/audit/lines", get(lines))
        .with_state(App { audit, readiness })
}

type Answer = Result<Response, Failure>;

/// Where the log ends. All that was said before is then in its files.
async fn head(State(app): State<App>) -> Answer {
    let head = app.audit.flush().await?;
    let answer = json!({
        "seq": head.seq,
        "hash": head.hash_text(),
        "head": head.to_string(),
        "dir": app.audit.dir(),
    });
    json_of(StatusCode::OK, &answer)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LinesQuery {
    /// Those after this record; those that left memory are left out.
    #[serde(default)]
    after: u64,
    #[serde(default)]
    follow: bool,
}

async fn lines(State(app): State<App>, request: Request) -> Answer {
    let query: LinesQuery = dto::query(request.uri())?;
    let mut response = Response::new(Body::from_stream(told(app, query)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    Ok(response)
}

fn told(app: App, query: LinesQuery) -> impl Stream<Item = Result<Bytes, Infallible>> + Send {
    let heads = app.audit.follow();
    let state = (app, heads, query.after);
    futures::stream::unfold(state, move |(app, mut heads, after)| async move {
        // before the records are looked at: what comes later wakes
        heads.mark_unchanged();
        let (lines, last) = app.audit.recent(after, LINES);
        if !lines.is_empty() {
            return Some((Ok(Bytes::from(lines.concat())), (app, heads, last)));
        }
        if !query.follow || app.readiness.draining().is_cancelled() {
            return None;
        }
        tokio::select! {
            changed = heads.changed() => changed.ok()?,
            () = app.readiness.draining().cancelled() => {}
            () = tokio::time::sleep(QUIET) => {}
        }
        Some((Ok(Bytes::from_static(b"\n")), (app, heads, last)))
    })
}
