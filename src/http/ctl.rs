//! The Unix socket's routes, for `ronctl`: the node's state, capabilities, and the mailbox with full
//! authority. The listener has checked the peer's uid.

use crate::http::acts::audited;
use crate::http::body;
use crate::http::dto;
use crate::http::error::{Failure, json_of};
use crate::http::headers;
use crate::http::mailbox::{
    MailboxApp, MailboxService, dlq_routes, mailbox_routes, subscriber_routes, topic_routes, with_fallbacks,
};
use crate::http::request::{Call, Peer};
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use axum::routing::{get, post};
use bytes::Bytes;
use futures::{Stream, StreamExt};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, StatusCode};
use ron_core::capability::RevokeRequest;
use ron_core::reason::Refusal;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

pub(super) const BODY_BYTES_MAX: usize = 64 * 1024;
pub(super) const BODY_DEADLINE: Duration = Duration::from_secs(5);

/// A token just made.
#[derive(Serialize)]
pub struct MintedToken {
    /// The bearer token.
    pub token: String,
    /// Its public name.
    pub cap_id: String,
}

/// What the node answers about itself.
pub trait ControlDesk: Send + Sync + 'static {
    /// The body of a request to mint, strict about its fields.
    type Mint: DeserializeOwned + Send;

    /// What `ronctl status --json` prints (DETAILS, "Finding and reading the node").
    fn status(&self) -> serde_json::Value;

    /// The configured providers, without their secrets.
    fn providers(&self) -> serde_json::Value;

    /// Makes a capability for `peer`.
    ///
    /// # Errors
    /// MALFORMED, naming the field.
    fn mint(&self, request: Self::Mint, peer: Peer) -> Result<MintedToken, Refusal>;

    /// Revokes for `peer`; it is durable when this returns.
    ///
    /// # Errors
    /// MALFORMED, naming the field; STORAGE if it may not outlast a restart.
    fn revoke(
        &self,
        request: RevokeRequest,
        peer: Peer,
    ) -> impl Future<Output = Result<serde_json::Value, Refusal>> + Send;

    /// The keys of capabilities, without the keys.
    fn keys(&self) -> serde_json::Value;

    /// Makes a new key for `peer`.
    ///
    /// # Errors
    /// POLICY_BLOCKED if the keyring is not the node's to write, STORAGE if it could not be written.
    fn rotate(&self, peer: Peer) -> impl Future<Output = Result<serde_json::Value, Refusal>> + Send;

    /// What the node finds of amnesia's promises in its own process.
    fn amnesia(&self) -> impl Future<Output = serde_json::Value> + Send;

    /// What is in quarantine: queues as `TENANT/TOPIC`, providers by name.
    fn quarantined(&self) -> serde_json::Value;

    /// Lets a queue or a provider out of quarantine, with its whole restart budget.
    ///
    /// # Errors
    /// NOT_FOUND if nothing of that name is in quarantine.
    fn release(
        &self,
        name: &str,
        peer: Peer,
    ) -> impl Future<Output = Result<serde_json::Value, Refusal>> + Send;

    /// Lets things expire after a start whose wall clock did not go with the time saved last; the two times.
    ///
    /// # Errors
    /// NOT_FOUND if the clock is not in doubt; STORAGE if that could not be written down.
    fn accept_clock(&self, peer: Peer) -> impl Future<Output = Result<serde_json::Value, Refusal>> + Send;

    /// What happened under `topic` in the last `since`, then what happens, a line of JSON each; without `follow`
    /// only the first. Ends when the node does.
    fn events(
        &self,
        topic: &str,
        since: Duration,
        follow: bool,
    ) -> impl Stream<Item = Bytes> + Send + 'static;

    /// The policy in force.
    fn policy(&self) -> serde_json::Value;

    /// Reads the policy's file again; what is then in force.
    ///
    /// # Errors
    /// MALFORMED with every problem of the file; the old policy stays.
    fn reload_policy(&self, peer: Peer) -> Result<serde_json::Value, Refusal>;

    /// Relaxes the policy by a preset for a while; what is then in force.
    ///
    /// # Errors
    /// NOT_FOUND for a name that the policy does not have, MALFORMED for a time that is 0 or too long.
    fn apply_preset(&self, preset: &str, ttl_ms: u64, peer: Peer) -> Result<serde_json::Value, Refusal>;
}

/// The Unix socket's router. `mailbox` must have full access; `more` is served beside it, and audited like the rest.
pub fn ctl_router<D: ControlDesk, M: MailboxService>(
    desk: Arc<D>,
    mailbox: Arc<MailboxApp<M>>,
    more: Router,
) -> Router {
    let routes = Router::new()
        .route("/ctl/status", get(status::<D>))
        .route("/ctl/providers", get(providers::<D>))
        .route("/ctl/cap/mint", post(mint::<D>))
        .route("/ctl/amnesia", get(amnesia::<D>))
        .route("/ctl/quarantine", get(quarantined::<D>))
        .route("/ctl/quarantine/release", post(release::<D>))
        .route("/ctl/clock/accept", post(accept_clock::<D>))
        .route("/ctl/tail", get(tail::<D>))
        .route("/ctl/policy", get(policy::<D>))
        .route("/ctl/policy/reload", post(reload_policy::<D>))
        .route("/ctl/policy/apply", post(apply_preset::<D>))
        .route("/ctl/cap/revoke", post(revoke::<D>))
        .route("/ctl/keys", get(keys::<D>))
        .route("/ctl/key/rotate", post(rotate::<D>))
        .with_state(desk);
    with_fallbacks(
        audited(routes.merge(more), mailbox.audit.clone())
            .merge(mailbox_routes(mailbox.clone()))
            .merge(topic_routes(mailbox.clone()))
            .merge(dlq_routes(mailbox.clone()))
            .merge(subscriber_routes(mailbox)),
    )
}

type Answer = Result<Response, Failure>;

async fn status<D: ControlDesk>(State(desk): State<Arc<D>>) -> Answer {
    json_of(StatusCode::OK, &desk.status())
}

async fn providers<D: ControlDesk>(State(desk): State<Arc<D>>) -> Answer {
    json_of(StatusCode::OK, &desk.providers())
}

async fn mint<D: ControlDesk>(State(desk): State<Arc<D>>, request: Request) -> Answer {
    let (peer, asked) = json_of_peer(request).await?;
    json_of(StatusCode::OK, &desk.mint(asked, peer)?)
}

async fn revoke<D: ControlDesk>(State(desk): State<Arc<D>>, request: Request) -> Answer {
    let (peer, asked) = json_of_peer(request).await?;
    json_of(StatusCode::OK, &desk.revoke(asked, peer).await?)
}

async fn keys<D: ControlDesk>(State(desk): State<Arc<D>>) -> Answer {
    json_of(StatusCode::OK, &desk.keys())
}

async fn accept_clock<D: ControlDesk>(State(desk): State<Arc<D>>, request: Request) -> Answer {
    let (parts, body) = request.into_parts();
    body::within_limit(body::declared_len(&body), 0)?;
    json_of(StatusCode::OK, &desk.accept_clock(Call::of(&parts)?.peer).await?)
}

async fn rotate<D: ControlDesk>(State(desk): State<Arc<D>>, request: Request) -> Answer {
    let (parts, body) = request.into_parts();
    body::within_limit(body::declared_len(&body), 0)?;
    json_of(StatusCode::OK, &desk.rotate(Call::of(&parts)?.peer).await?)
}

/// A small JSON body, and who sent it.
pub(crate) async fn json_of_peer<T: DeserializeOwned>(request: Request) -> Result<(Peer, T), Failure> {
    let (parts, body) = request.into_parts();
    headers::json_body(&parts.headers)?;
    body::within_limit(body::declared_len(&body), BODY_BYTES_MAX)?;
    let body = body::read(body, BODY_BYTES_MAX, BODY_DEADLINE).await?;
    Ok((Call::of(&parts)?.peer, dto::json(&body)?))
}

async fn amnesia<D: ControlDesk>(State(desk): State<Arc<D>>) -> Answer {
    json_of(StatusCode::OK, &desk.amnesia().await)
}

async fn quarantined<D: ControlDesk>(State(desk): State<Arc<D>>) -> Answer {
    json_of(StatusCode::OK, &desk.quarantined())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Release {
    name: String,
}

async fn release<D: ControlDesk>(State(desk): State<Arc<D>>, request: Request) -> Answer {
    let (peer, Release { name }) = json_of_peer(request).await?;
    json_of(StatusCode::OK, &desk.release(&name, peer).await?)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TailQuery {
    #[serde(default)]
    topic: String,
    #[serde(default)]
    since_ms: u64,
    #[serde(default)]
    follow: bool,
}

async fn tail<D: ControlDesk>(State(desk): State<Arc<D>>, request: Request) -> Answer {
    let TailQuery { topic, since_ms, follow } = dto::query(request.uri())?;
    let lines = desk.events(&topic, Duration::from_millis(since_ms), follow).map(Ok::<Bytes, Infallible>);
    let mut response = Response::new(Body::from_stream(lines));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    Ok(response)
}

async fn policy<D: ControlDesk>(State(desk): State<Arc<D>>) -> Answer {
    json_of(StatusCode::OK, &desk.policy())
}

async fn reload_policy<D: ControlDesk>(State(desk): State<Arc<D>>, request: Request) -> Answer {
    let (parts, _) = request.into_parts();
    json_of(StatusCode::OK, &desk.reload_policy(Call::of(&parts)?.peer)?)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ApplyPreset {
    preset: String,
    ttl_ms: u64,
}

async fn apply_preset<D: ControlDesk>(State(desk): State<Arc<D>>, request: Request) -> Answer {
    let (parts, body) = request.into_parts();
    headers::json_body(&parts.headers)?;
    body::within_limit(body::declared_len(&body), BODY_BYTES_MAX)?;
    let body = body::read(body, BODY_BYTES_MAX, BODY_DEADLINE).await?;
    let ApplyPreset { preset, ttl_ms } = dto::json(&body)?;
    json_of(StatusCode::OK, &desk.apply_preset(&preset, ttl_ms, Call::of(&parts)?.peer)?)
}
