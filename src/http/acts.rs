//! Acts of operators over the Unix socket: each is in the audit log before it is done, and what became of it before it
//! is answered. Whatever is not known to change nothing is one.

use crate::audit::Act;
use crate::http::body;
use crate::http::ctl::{BODY_BYTES_MAX, BODY_DEADLINE};
use crate::http::error::Failure;
use crate::http::request::Call;
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use http::Method;
use ron_actors::audit::Audit;
use ron_core::audit::{Decision, Kind, OK};
use ron_core::reason::{Reason, Refusal};

/// Acts: the path, what the log calls it.
const ACTS: [(&str, &str); 14] = [
    ("/ctl/cap/mint", "cap.mint"),
    (REVOKE, "cap.revoke"),
    ("/ctl/key/rotate", "key.rotate"),
    ("/ctl/config/reload", "config.reload"),
    ("/ctl/policy/reload", "policy.reload"),
    ("/ctl/policy/apply", "policy.apply"),
    ("/ctl/quarantine/release", "quarantine.release"),
    ("/ctl/clock/accept", "clock.accept"),
    ("/ctl/snapshot/create", "snapshot.create"),
    ("/ctl/store/scrub", "store.scrub"),
    ("/ctl/chaos/inject", "chaos.inject"),
    ("/ctl/chaos/clear", "chaos.clear"),
    ("/ctl/egress/disable", "egress.disable"),
    ("/ctl/egress/enable", "egress.enable"),
];

/// A node whose disk fails must still be able to take back what it gave away.
const REVOKE: &str = "/ctl/cap/revoke";

/// What a call is called that is not listed: it is audited all the same, but nobody knows what its body may hold.
const OTHER: &str = "ctl.other";

/// Calls that only look, although they are posted.
const LOOKS: [&str; 1] = ["/ctl/snapshot/verify"];

/// The same routes, audited.
pub(super) fn audited(routes: Router, audit: Audit) -> Router {
    routes.route_layer(from_fn_with_state(audit, act))
}

async fn act(State(audit): State<Audit>, request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    if request.method() == Method::GET || LOOKS.contains(&path.as_str()) {
        return next.run(request).await;
    }
    let op = ACTS.iter().find(|(known, _)| *known == path).map_or(OTHER, |(_, op)| *op);
    match begun(&audit, op, request).await {
        Ok((act, request)) => {
            let response = next.run(request).await;
            let refused = response.extensions().get::<Refusal>().cloned();
            let bad = || Refusal::new(Reason::Malformed, "the request could not be read");
            let became = match refused {
                None if response.status().is_success() => Ok(()),
                refused => Err(refused.unwrap_or_else(bad)),
            };
            let failed = became.is_err();
            match act.end(became).await {
                Err(unaudited) if !failed => Failure(unaudited).into_response(),
                Ok(()) | Err(_) => response,
            }
        }
        Err(refusal) => Failure(refusal).into_response(),
    }
}

/// Writes down what a request asks for. None of the listed ones holds a secret or a payload, so they are told in full.
async fn begun(audit: &Audit, op: &'static str, request: Request) -> Result<(Act, Request), Refusal> {
    let (parts, body) = request.into_parts();
    body::within_limit(body::declared_len(&body), BODY_BYTES_MAX)?;
    let body = body::read(body, BODY_BYTES_MAX, BODY_DEADLINE).await?;
    let mut entry = audit.entry(Kind::Operator, Decision::Allow, OK);
    Call::of(&parts).map_err(|Failure(refusal)| refusal)?.name(&mut entry);
    entry.more.op = Some(op.into());
    if !body.is_empty() && op != OTHER {
        entry = entry.detail(&String::from_utf8_lossy(&body));
    }
    let act = match parts.uri.path() {
        REVOKE => Act::begin_in_any_case(audit, entry).await,
        _ => Act::begin(audit, entry).await?,
    };
    Ok((act, Request::from_parts(parts, Body::from(body))))
}
