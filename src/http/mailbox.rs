//! The mailbox's routes (SPEC §4): thin handlers between a request and [`MailboxService`].
//!
//! Checks run in one order: route and names, capability, policy, rates, readiness, headers, declared length, bytes
//! budget, body. Nothing is read of a body before its sender may send it.

mod answers;
mod audited;
mod dlq;
mod service;
mod stream;
mod subscribers;
mod topic;

pub(crate) use answers::item_refused;
pub(crate) use audited::refused;
pub use dlq::dlq_routes;
pub use service::{HandedOut, HandsOut, MailboxService};
pub use subscribers::subscriber_routes;
pub use topic::topic_routes;

use crate::http::admission::{Budgets, RateLimits};
use crate::http::auth::{Access, Ask, Authority, Op, bearer};
use crate::http::body::{self, DeliveryBody, Keeper};
use crate::http::door::Meter;
use crate::http::draft::malformed;
use crate::http::dto::{self, SettleRequest};
use crate::http::error::{Failure, RouteKind, json, method_not_allowed, not_found};
use crate::http::graphql::graphql_routes;
use crate::http::headers;
use crate::http::openapi::{Describes, openapi_routes};
use crate::http::readiness::Readiness;
use crate::http::request::{Call, Path, path_part, queue_of, tenant_of};
use crate::metrics::Stage;
use arc_swap::ArcSwap;
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use axum::routing::{get, post};
use bytes::Bytes;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use http::request::Parts;
use ron_actors::audit::Audit;
use ron_actors::mailbox::Enqueued;
use ron_actors::policy::InForce;
use ron_core::ids::{ContentHash, Incarnation, MessageId, QueueKey, Slot, Tenant, Topic};
use ron_core::message::{NewMessage, PAYLOAD_BYTES_MAX};
use ron_core::policy;
use ron_core::reason::{Reason, Refusal};
use ron_core::time::Clock;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;

/// Largest body of a batch.
pub(crate) const BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Largest body of any other JSON call: 256 receipts of 200 characters fit with room.
const JSON_BYTES_MAX: usize = 128 * 1024;
/// How often a waiting receive asks whether its capability still holds; SPEC §5 allows 1 s.
const RECHECK: Duration = Duration::from_millis(500);
/// Topics on one page of a tenant's list.
const TOPICS_PAGE: u32 = 100;

/// What an answered send is as safe as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Synced to disk.
    Fsync,
    /// In memory.
    Ram,
}

impl Durability {
    /// As answers say it.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Durability::Fsync => "fsync",
            Durability::Ram => "ram",
        }
    }
}

/// What the routes take from the configuration; replaced whole on reload.
#[derive(Debug, Clone)]
pub struct MailboxLimits {
    /// What answers promise.
    pub durability: Durability,
    /// How long a body may take.
    pub body_deadline: Duration,
}

impl Default for MailboxLimits {
    fn default() -> MailboxLimits {
        MailboxLimits { durability: Durability::Fsync, body_deadline: Duration::from_secs(10) }
    }
}

/// What the mailbox routes of one listener work with.
#[derive(Debug)]
pub struct MailboxApp<M> {
    /// The mailbox.
    pub mailbox: M,
    /// Who may call.
    pub access: Access,
    /// Whether sends and receives are let in.
    pub readiness: Arc<Readiness>,
    /// From the configuration.
    pub limits: Arc<ArcSwap<MailboxLimits>>,
    /// Bytes under way; shared by the listeners.
    pub budgets: Arc<Budgets>,
    /// Counts refused items.
    pub meter: Meter,
    /// For the wall clock.
    pub clock: Arc<dyn Clock>,
    /// The public port's rate, where this is the public port.
    pub rate: Option<Arc<RateLimits>>,
    /// What is judged after the capability, and what the tenants may use.
    pub policy: InForce,
    /// Is told who was allowed what.
    pub audit: Audit,
}

/// The mailbox listener's router; with `bench` the routes that a benchmark compares with.
pub fn mailbox_router<M: MailboxService>(app: Arc<MailboxApp<M>>, bench: bool) -> Router {
    let routes = mailbox_routes(Arc::clone(&app)).merge(topic_routes(Arc::clone(&app)));
    let routes = routes.merge(dlq_routes(Arc::clone(&app))).merge(subscriber_routes(Arc::clone(&app)));
    let graphql = graphql_routes(Arc::clone(&app), with_fallbacks(routes.clone()));
    let routes = routes.merge(graphql).merge(openapi_routes(Describes::Mailbox));
    with_fallbacks(if bench { routes.merge(bench_routes(app)) } else { routes })
}

/// The routes that send and receive, to be merged into another listener's router.
pub fn mailbox_routes<M: MailboxService>(app: Arc<MailboxApp<M>>) -> Router {
    Router::new()
        .route("/v1/{tenant}", get(topics::<M>))
        .route("/v1/{tenant}/{topic}", get(stat::<M>))
        .route("/v1/{tenant}/{topic}/peek", get(peek::<M>))
        .route("/v1/{tenant}/{topic}/messages/{msg_id}", get(message::<M>))
        .route("/v1/{tenant}/{topic}/enqueue", post(enqueue::<M>))
        .route("/v1/{tenant}/{topic}/enqueue/batch", post(enqueue_batch::<M>))
        .route("/v1/{tenant}/{topic}/recv", post(recv::<M>))
        .route("/v1/{tenant}/{topic}/recv/stream", post(stream::recv_stream::<M>))
        .route("/v1/{tenant}/{topic}/ack", post(ack::<M>))
        .route("/v1/{tenant}/{topic}/nack", post(nack::<M>))
        .route("/v1/{tenant}/{topic}/extend", post(extend::<M>))
        .with_state(app)
}

/// What `ronctl bench` compares an enqueue with: all of it but the store, and nothing at all.
fn bench_routes<M: MailboxService>(app: Arc<MailboxApp<M>>) -> Router {
    Router::new()
        .route("/bench/discard/{tenant}/{topic}", post(discard::<M>))
        .route("/bench/empty", post(async || StatusCode::NO_CONTENT))
        .with_state(app)
}

/// Adds the answers to unknown routes and methods.
pub fn with_fallbacks(router: Router) -> Router {
    router
        .fallback(async || Failure(not_found()))
        .method_not_allowed_fallback(async || Failure(method_not_allowed()))
}

type Answer = Result<Response, Failure>;
type App<M> = State<Arc<MailboxApp<M>>>;

async fn enqueue<M: MailboxService>(State(app): App<M>, path: Path, request: Request) -> Answer {
    let send = app.accept(&path, request).await?;
    let result = app.store(&send.queue, vec![send.message]).await?;
    let done = match result.into_iter().next() {
        Some(Ok(done)) => done,
        Some(Err(reason)) => return Err(item_refused(reason).into()),
        None => return Err(Refusal::new(Reason::Internal, "the mailbox gave no result").into()),
    };
    let body = answers::enqueued(done, &send.hash, send.durability, Some(&send.call.corr));
    Ok(json(StatusCode::OK, body.into_bytes()))
}

/// As [`enqueue`], without the mailbox.
async fn discard<M: MailboxService>(State(app): App<M>, path: Path, request: Request) -> Answer {
    let send = app.accept(&path, request).await?;
    let msg_id = MessageId::new(app.clock.now(), Incarnation(0), Slot(0));
    let done = Enqueued { msg_id, duplicate: false, other_body: false };
    let body = answers::enqueued(done, &send.hash, send.durability, Some(&send.call.corr));
    Ok(json(StatusCode::OK, body.into_bytes()))
}

async fn enqueue_batch<M: MailboxService>(State(app): App<M>, path: Path, request: Request) -> Answer {
    let (parts, body) = request.into_parts();
    let call = Call::of(&parts)?;
    let queue = queue_of(&path)?;
    let authority = app.allow(&parts, call, Want::on(Op::Enqueue, &queue)).await?;
    app.readiness.admit_send()?;
    headers::json_body(&parts.headers)?;
    let limits = app.limits.load();
    let room = body::within_limit(body::declared_len(&body), BATCH_BYTES_MAX)?;
    let _reserved = app.budgets.sends.reserve(room)?;
    let body = body::read(body, BATCH_BYTES_MAX, limits.body_deadline).await?;
    authority.still_holds(app.wall_s())?;
    let request: dto::BatchRequest = dto::json(&body)?;
    drop(body);

    let mut outcomes = Vec::with_capacity(request.messages.0.len());
    let mut messages = Vec::with_capacity(request.messages.0.len());
    for item in request.messages.0 {
        let drafted = item
            .into_draft()
            .and_then(|(payload, draft)| authority.check_bytes(payload.len()).map(|()| (payload, draft)));
        outcomes.push(drafted.map(|(payload, draft)| {
            let hash = ContentHash::of(&payload);
            messages.push(draft.into_message(payload, hash, call.corr.as_str().to_owned()));
            hash
        }));
    }
    let stored = match messages.is_empty() {
        true => Vec::new(),
        false => app.store(&queue, messages).await?,
    };
    let kind = RouteKind::Api;
    let refused = |reason| app.meter.refused(kind, reason);
    let text = answers::batch(outcomes, stored, limits.durability, refused)?;
    Ok(json(StatusCode::OK, text.into_bytes()))
}

async fn recv<M: MailboxService>(State(app): App<M>, path: Path, request: Request) -> Answer {
    let (parts, body) = request.into_parts();
    let call = Call::of(&parts)?;
    let queue = queue_of(&path)?;
    let authority = app.allow(&parts, call, Want::on(Op::Recv, &queue)).await?;
    app.readiness.admit_recv()?;
    let body = app.settling_body(&parts, body).await?;
    let request: dto::RecvRequest = dto::json_or_default(&body)?;
    let (want, wait) = request.check()?;

    let mut handed = pin!(app.mailbox.recv(&queue, want, wait, &call.corr));
    let delivery = loop {
        tokio::select! {
            biased;
            handed = &mut handed => break Some(handed?),
            () = app.readiness.draining().cancelled() => break None,
            () = sleep(RECHECK), if !wait.is_zero() => authority.still_holds(app.wall_s())?,
        }
    };
    if !wait.is_zero() {
        // what it waited for goes back at once if it may no longer have it
        authority.still_holds(app.wall_s())?;
    }
    let Some(delivery) = delivery.filter(|delivery| !delivery.messages().is_empty()) else {
        return Ok(json(StatusCode::OK, b"{\"messages\":[]}".to_vec()));
    };
    let text = answers::messages(delivery.messages())?;
    if let Some(keeper) = parts.extensions.get::<Keeper>() {
        keeper.keep(delivery);
        return Ok(json(StatusCode::OK, text));
    }
    let mut response = Response::new(Body::new(DeliveryBody::new(text, delivery)));
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    Ok(response)
}

async fn ack<M: MailboxService>(State(app): App<M>, path: Path, request: Request) -> Answer {
    app.settle::<dto::AckRequest>(Op::Ack, &path, request).await
}

async fn nack<M: MailboxService>(State(app): App<M>, path: Path, request: Request) -> Answer {
    app.settle::<dto::NackRequest>(Op::Nack, &path, request).await
}

async fn extend<M: MailboxService>(State(app): App<M>, path: Path, request: Request) -> Answer {
    app.settle::<dto::ExtendRequest>(Op::Extend, &path, request).await
}

async fn stat<M: MailboxService>(State(app): App<M>, path: Path, request: Request) -> Answer {
    let (parts, _) = request.into_parts();
    let queue = queue_of(&path)?;
    app.allow(&parts, Call::of(&parts)?, Want::on(Op::Stat, &queue)).await?;
    headers::plain_body(&parts.headers)?;
    let stat = app.mailbox.stat(&queue).await?;
    answers::stat(&stat, app.limits.load().durability)
}

async fn peek<M: MailboxService>(State(app): App<M>, path: Path, request: Request) -> Answer {
    let (parts, _) = request.into_parts();
    let queue = queue_of(&path)?;
    app.allow(&parts, Call::of(&parts)?, Want::on(Op::Peek, &queue)).await?;
    headers::plain_body(&parts.headers)?;
    let query: dto::PeekQuery = dto::query(&parts.uri)?;
    let (state, limit) = query.check()?;
    let page = app.mailbox.peek(&queue, state, limit, query.cursor.as_deref()).await?;
    answers::peek(&page)
}

async fn message<M: MailboxService>(State(app): App<M>, path: Path, request: Request) -> Answer {
    let (parts, _) = request.into_parts();
    let queue = queue_of(&path)?;
    app.allow(&parts, Call::of(&parts)?, Want::on(Op::Peek, &queue)).await?;
    headers::plain_body(&parts.headers)?;
    let id = MessageId::parse(path_part(&path, "msg_id")?).map_err(|bad| malformed(bad.to_string()))?;
    answers::message(id, &app.mailbox.message(&queue, id).await?)
}

async fn topics<M: MailboxService>(State(app): App<M>, path: Path, request: Request) -> Answer {
    let (parts, _) = request.into_parts();
    let tenant = tenant_of(&path)?;
    let wanted = Want { op: Op::Stat, tenant: &tenant, topic: None, bytes: None };
    let authority = app.allow(&parts, Call::of(&parts)?, wanted).await?;
    headers::plain_body(&parts.headers)?;
    let query: dto::TopicsQuery = dto::query(&parts.uri)?;
    let (mut rows, cursor) = app.mailbox.topics(&tenant, query.cursor.as_deref(), TOPICS_PAGE).await?;
    rows.retain(|row| authority.allows_topic(&row.topic) && app.shows(&tenant, &row.topic));
    answers::topics(&rows, cursor.as_deref())
}

/// What a handler wants to do.
#[derive(Clone, Copy)]
pub(in crate::http) struct Want<'q> {
    pub(in crate::http) op: Op,
    pub(in crate::http) tenant: &'q Tenant,
    pub(in crate::http) topic: Option<&'q Topic>,
    pub(in crate::http) bytes: Option<u64>,
}

impl<'q> Want<'q> {
    const fn on(op: Op, queue: &'q QueueKey) -> Want<'q> {
        Want { op, tenant: &queue.tenant, topic: Some(&queue.topic), bytes: None }
    }
}

/// A message that may be stored, and what its answer needs.
struct Send {
    call: Call,
    queue: QueueKey,
    hash: ContentHash,
    durability: Durability,
    message: NewMessage,
}

impl<M: MailboxService> MailboxApp<M> {
    /// Everything of an enqueue before the mailbox.
    async fn accept(&self, path: &Path, request: Request) -> Result<Send, Failure> {
        let (parts, body) = request.into_parts();
        let call = Call::of(&parts)?;
        let queue = queue_of(path)?;
        let declared = body::declared_len(&body);
        let authority =
            self.allow(&parts, call, Want { bytes: declared, ..Want::on(Op::Enqueue, &queue) }).await?;
        self.readiness.admit_send()?;
        headers::plain_body(&parts.headers)?;
        let draft = headers::enqueue_draft(&parts.headers)?;
        let room = body::within_limit(declared, PAYLOAD_BYTES_MAX)?;
        let limits = self.limits.load();
        let payload = {
            let _reserved = self.budgets.sends.reserve(room)?;
            body::read(body, PAYLOAD_BYTES_MAX, limits.body_deadline).await?
        };
        // a body may take its time; its authority may have ended meanwhile
        authority.still_holds(self.wall_s())?;
        if declared.is_none() {
            authority.check_bytes(payload.len())?;
        }
        draft.check_payload(payload.len())?;
        let hash = ContentHash::of(&payload);
        if draft.payload_hash.is_some_and(|claimed| claimed != hash) {
            self.meter.metrics().mailbox.integrity_fail(Stage::Ingress);
            return Err(malformed("X-Payload-Hash is not the hash of the body that arrived").into());
        }
        let message = draft.into_message(payload, hash, call.corr.as_str().to_owned());
        Ok(Send { call: call.clone(), queue, hash, durability: limits.durability, message })
    }

    async fn settle<T: SettleRequest>(&self, op: Op, path: &Path, request: Request) -> Answer {
        let (parts, body) = request.into_parts();
        let call = Call::of(&parts)?;
        let queue = queue_of(path)?;
        let authority = self.allow(&parts, call, Want::on(op, &queue)).await?;
        let body = self.settling_body(&parts, body).await?;
        authority.still_holds(self.wall_s())?;
        let (how, receipts) = dto::json::<T>(&body)?.check()?;
        let results = self.mailbox.settle(&queue, how, receipts).await?;
        let text = answers::settled(&results, |reason| self.meter.refused(RouteKind::Api, reason));
        Ok(json(StatusCode::OK, text.into_bytes()))
    }

    /// A small JSON body, out of the budget that sends cannot use up.
    async fn settling_body(&self, parts: &Parts, body: Body) -> Result<Bytes, Refusal> {
        headers::json_body(&parts.headers)?;
        let room = body::within_limit(body::declared_len(&body), JSON_BYTES_MAX)?;
        let _reserved = self.budgets.settling.reserve(room)?;
        body::read(body, JSON_BYTES_MAX, self.limits.load().body_deadline).await
    }

    /// What the request's capability allows, if it allows this. The audit log hears of it either way.
    pub(in crate::http) async fn allow(
        &self,
        parts: &Parts,
        call: &Call,
        want: Want<'_>,
    ) -> Result<Authority, Refusal> {
        let judged = self.judged(parts, call, want).await;
        self.told(parts, call, want, judged)
    }

    async fn judged(&self, parts: &Parts, call: &Call, want: Want<'_>) -> Result<Authority, Refusal> {
        let Access::Capability(authorizer, audience) = &self.access else {
            return Ok(Authority::default());
        };
        let ask = Ask {
            op: want.op,
            tenant: want.tenant,
            topic: want.topic,
            audience: *audience,
            peer: call.peer.ip(),
            message_bytes: want.bytes,
            wall_unix_s: self.wall_s(),
        };
        let mut authority = authorizer.authorize(bearer(&parts.headers)?, &ask).given().await?;
        let request = policy::Request { op: want.op, tenant: want.tenant, topic: want.topic, provider: None };
        authority.allowed = self.policy.peek().policy.judge(&request)?;
        want.bytes.map_or(Ok(()), |bytes| authority.allowed.check_bytes(bytes))?;
        if let Some(rate) = self.rate.as_ref().filter(|_| !want.op.settles()) {
            rate.charge_api()?;
        }
        if !want.op.settles() {
            self.policy.charge_request(want.tenant, &*self.clock)?;
        }
        Ok(authority)
    }

    /// Enqueues, at the tenant's charge.
    async fn store(
        &self,
        queue: &QueueKey,
        messages: Vec<NewMessage>,
    ) -> Result<Vec<Result<Enqueued, Reason>>, Refusal> {
        let bytes = messages.iter().map(|message| message.payload.len() as u64).sum();
        self.charged(queue, bytes, self.mailbox.enqueue(queue, messages)).await
    }

    /// Sends, and charges the tenant for the bytes if anybody but `ronctl` sends them.
    async fn charged<T>(
        &self,
        queue: &QueueKey,
        bytes: u64,
        send: impl Future<Output = Result<T, Refusal>>,
    ) -> Result<T, Refusal> {
        if matches!(self.access, Access::Full) {
            return send.await;
        }
        self.policy.charge_bytes(&queue.tenant, &*self.clock, bytes)?;
        let sent = send.await;
        if let Err(refusal) = &sent {
            self.policy.give_back(&queue.tenant, bytes, refusal);
        }
        sent
    }

    /// Whether the policy lets a topic be seen in its tenant's list.
    fn shows(&self, tenant: &Tenant, topic: &Topic) -> bool {
        let request = policy::Request { op: Op::Stat, tenant, topic: Some(topic), provider: None };
        matches!(self.access, Access::Full) || self.policy.peek().policy.judge(&request).is_ok()
    }

    pub(in crate::http) fn wall_s(&self) -> u64 {
        self.clock.wall().0 / 1000
    }
}
