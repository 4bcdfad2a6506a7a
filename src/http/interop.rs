//! The public port's routes (SPEC §7): webhooks in, checked from cheap to dear, and the build's version.

use crate::http::admission::{Budgets, RateLimits};
use crate::http::door::Meter;
use crate::http::error::{Failure, OwnAnswer, RouteKind, json, json_of};
use crate::http::graphql::graphql_routes;
use crate::http::intake::{Allowance, Intake, Pace, Share, Unverified, declared};
use crate::http::mailbox::{MailboxApp, MailboxService, mailbox_routes, with_fallbacks};
use crate::http::objects::{ObjectsApp, object_routes};
use crate::http::openapi::{Describes, openapi_routes};
use crate::http::readiness::Readiness;
use crate::http::request::{Call, Path, path_part};
use crate::http::strangers::Standing;
use crate::http::webhooks::{Telling, Trace};
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use axum::routing::get;
use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use ron_actors::audit::Audit;
use ron_core::ids::MessageId;
use ron_core::inflate::Coding;
use ron_core::reason::{Reason, Refusal};
use serde::Serialize;
use std::future::Future;
use std::sync::Arc;

/// One request to a webhook route, its body read.
#[derive(Debug)]
pub struct WebhookCall<'r> {
    /// The path's last part, as sent: any text.
    pub provider: &'r str,
    /// GET or POST.
    pub method: &'r Method,
    /// Path and query.
    pub uri: &'r Uri,
    /// As sent.
    pub headers: &'r HeaderMap,
    /// The bytes as sent, inflated if they came compressed; empty for GET.
    pub body: Bytes,
    /// What it holds until its sender is known.
    pub unverified: Option<Unverified<'r>>,
    /// What it takes then: the bytes of messages on their way in.
    pub budgets: &'r Budgets,
    /// Ids and peer.
    pub call: &'r Call,
    /// `Err` while writes are shed: for a message that is neither a handshake nor refused otherwise.
    pub admitted: Result<(), Refusal>,
    /// To be charged once the signature holds.
    pub rate: &'r RateLimits,
}

/// How a webhook is answered.
#[derive(Debug)]
pub enum WebhookAnswer {
    /// Stored and synced.
    Accepted {
        /// Its message, or the first one's if it is a duplicate.
        msg_id: MessageId,
        /// Whether its id was known.
        duplicate: bool,
        /// What the scheme wants instead of `202` and our JSON.
        custom: Option<CustomAnswer>,
    },
    /// A challenge of the provider, answered as it demands.
    Handshake(CustomAnswer),
    /// Judged for the record only: nothing is stored, whatever the verdict. `None` = `202` and our JSON.
    Shadow(Option<CustomAnswer>),
}

/// A status and body that a scheme names.
#[derive(Debug, Clone)]
pub struct CustomAnswer {
    /// HTTP status.
    pub status: u16,
    /// Of the body.
    pub content_type: Option<String>,
    /// May be empty.
    pub body: Bytes,
    /// More headers that the provider wants to see.
    pub headers: Vec<(String, String)>,
}

/// Verifies webhooks and enqueues what they say.
pub trait WebhookGate: Send + Sync + 'static {
    /// What can be judged before the body: whether the provider is known and enabled, the syntax of the
    /// headers its scheme reads, the timestamp. Returns what its body may be. What it finds out goes to
    /// `trace`.
    ///
    /// # Errors
    /// POLICY_BLOCKED, SIGNATURE_INVALID, REPLAY_WINDOW, DOWNSTREAM_UNAVAILABLE.
    fn precheck(
        &self,
        provider: &str,
        method: &Method,
        headers: &HeaderMap,
        trace: &mut Trace,
    ) -> Result<Arc<Allowance>, Refusal>;

    /// Verifies, charges the rate, and either answers a handshake or enqueues and waits for the commit. What
    /// it finds out goes to `trace`.
    ///
    /// # Errors
    /// Whatever refuses it.
    fn receive(
        &self,
        call: WebhookCall<'_>,
        trace: &mut Trace,
    ) -> impl Future<Output = Result<WebhookAnswer, Refusal>> + Send;
}

/// What `/version` says.
#[derive(Debug, Clone, Serialize)]
pub struct Version {
    /// `ron-node`.
    pub name: &'static str,
    /// The crate's version.
    pub version: &'static str,
    /// `macronode` or `micronode`.
    pub profile: String,
}

/// What the public port's routes work with.
#[derive(Debug)]
pub struct InteropApp<G> {
    /// Verifies and enqueues.
    pub gate: G,
    /// Whether new messages are let in.
    pub readiness: Arc<Readiness>,
    /// What webhooks hold whose sender is not verified yet, at once and in bytes.
    pub unverified: Share,
    /// Bytes of messages on their way in.
    pub budgets: Arc<Budgets>,
    /// Requests a second.
    pub rate: Arc<RateLimits>,
    /// How fast a body must come.
    pub pace: Pace,
    /// Counts who had to give way.
    pub meter: Meter,
    /// For `/version`.
    pub version: Version,
    /// Is told what becomes of each.
    pub audit: Audit,
}

/// What `interop.api` adds to the public port: the mailbox's routes, and objects.
#[derive(Debug)]
pub struct PublicApi<M> {
    /// The mailbox.
    pub mailbox: Arc<MailboxApp<M>>,
    /// Objects.
    pub objects: Arc<ObjectsApp<M>>,
}

/// The public port's router; `api` adds what `interop.api` does.
pub fn interop_router<G, M>(app: Arc<InteropApp<G>>, api: Option<PublicApi<M>>) -> Router
where
    G: WebhookGate,
    M: MailboxService,
{
    let routes = Router::new()
        .route("/webhooks/{provider}", get(webhook::<G>).post(webhook::<G>))
        .route("/version", get(version::<G>))
        .with_state(app)
        .merge(openapi_routes(Describes::Interop { api: api.is_some() }));
    with_fallbacks(match api {
        Some(PublicApi { mailbox, objects }) => {
            let calls = mailbox_routes(Arc::clone(&mailbox));
            let graphql = graphql_routes(mailbox, with_fallbacks(calls.clone()));
            routes.merge(calls).merge(graphql).merge(object_routes(objects))
        }
        None => routes,
    })
}

type Answer = Result<Response, Failure>;

async fn version<G: WebhookGate>(State(app): State<Arc<InteropApp<G>>>) -> Answer {
    json_of(StatusCode::OK, &app.version)
}

async fn webhook<G: WebhookGate>(
    State(app): State<Arc<InteropApp<G>>>,
    path: Path,
    request: Request,
) -> Answer {
    let (parts, body) = request.into_parts();
    let call = Call::of(&parts)?;
    let mut telling = Telling::new(&app.audit, call);
    let answer = app.take(&path, &parts, body, &mut telling.trace).await;
    telling.answered(&answer);
    let answer = answer?;
    if let (WebhookAnswer::Accepted { .. }, Some(standing)) = (&answer, parts.extensions.get::<Standing>()) {
        standing.prove();
    }
    match answer {
        WebhookAnswer::Handshake(custom)
        | WebhookAnswer::Shadow(Some(custom))
        | WebhookAnswer::Accepted { custom: Some(custom), .. } => custom_answer(custom),
        WebhookAnswer::Shadow(None) => {
            let body = format!(r#"{{"accepted":false,"shadow":true,"corr_id":"{}"}}"#, call.corr);
            Ok(json(StatusCode::ACCEPTED, body.into_bytes()))
        }
        WebhookAnswer::Accepted { msg_id, duplicate, custom: None } => {
            let body = format!(
                r#"{{"accepted":true,"msg_id":"{msg_id}","duplicate":{duplicate},"corr_id":"{}"}}"#,
                call.corr
            );
            Ok(json(StatusCode::ACCEPTED, body.into_bytes()))
        }
    }
}

impl<G: WebhookGate> InteropApp<G> {
    /// Everything from the route to the commit.
    async fn take(
        &self,
        path: &Path,
        parts: &Parts,
        body: Body,
        trace: &mut Trace,
    ) -> Result<WebhookAnswer, Refusal> {
        trace.step = Some("SLOT");
        let slot = self.unverified.slot().await?;
        let provider = path_part(path, "provider")?;
        let allowance = self.gate.precheck(provider, &parts.method, &parts.headers, trace)?;
        let terms = allowance.terms();
        trace.step = Some("SLOT");
        let own_slot = terms.share.slot().await?;
        trace.step = Some("LENGTH");
        let declared = declared(&body, &terms)?;
        trace.step = Some("ENCODING");
        let coding = coding_of(&parts.headers, terms.codings)?;
        let intake = Intake::new(&self.unverified, terms, declared, coding);
        let standing = parts.extensions.get::<Standing>();
        let taken = intake.read(body, coding, self.pace, standing, &mut trace.step).await;
        if taken.is_err() && trace.step == Some("GAVE_WAY") {
            self.meter.gave_way(RouteKind::Webhook);
        }
        let taken = taken?;
        trace.body = Some(taken.body.clone());
        let call = Call::of(parts).map_err(|Failure(refusal)| refusal)?;
        let received = WebhookCall {
            provider,
            method: &parts.method,
            uri: &parts.uri,
            headers: &parts.headers,
            body: taken.body.clone(),
            unverified: Some(Unverified::new([slot, own_slot], taken)),
            budgets: &self.budgets,
            call,
            admitted: self.readiness.admit_send(),
            rate: &self.rate,
        };
        self.gate.receive(received, trace).await
    }
}

/// The coding that the body comes in: none, or one of the provider's. No shipped provider compresses, and two
/// codings on top of each other are never undone.
fn coding_of(headers: &HeaderMap, allowed: &[Coding]) -> Result<Option<Coding>, Refusal> {
    let plain = |value: &&HeaderValue| !value.as_bytes().eq_ignore_ascii_case(b"identity");
    let mut sent = headers.get_all(CONTENT_ENCODING).iter().filter(plain);
    let Some(first) = sent.next() else { return Ok(None) };
    let coding = first.to_str().ok().and_then(Coding::parse).filter(|coding| allowed.contains(coding));
    if coding.is_some() && sent.next().is_none() {
        return Ok(coding);
    }
    let names: Vec<&str> = allowed.iter().map(|coding| coding.name()).collect();
    let text = match names.is_empty() {
        true => "send the webhook without Content-Encoding".to_owned(),
        false => format!("send the webhook without Content-Encoding, or with one of: {}", names.join(", ")),
    };
    Err(Refusal::new(Reason::UnsupportedEncoding, text))
}

fn custom_answer(custom: CustomAnswer) -> Answer {
    let bug =
        |_: http::Error| Failure(Refusal::new(Reason::Internal, "the scheme's answer is no valid HTTP"));
    let mut response = Response::new(Body::from(custom.body));
    *response.status_mut() = StatusCode::from_u16(custom.status).map_err(|error| bug(error.into()))?;
    let headers = response.headers_mut();
    if let Some(content_type) = custom.content_type {
        headers.insert(CONTENT_TYPE, HeaderValue::try_from(content_type).map_err(|error| bug(error.into()))?);
    }
    for (name, value) in custom.headers {
        let name = http::HeaderName::try_from(name).map_err(|error| bug(error.into()))?;
        headers.insert(name, HeaderValue::try_from(value).map_err(|error| bug(error.into()))?);
    }
    // what is echoed must never be taken for a page
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response.extensions_mut().insert(OwnAnswer);
    Ok(response)
}
