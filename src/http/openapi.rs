//! `GET /openapi.json` and `GET /docs`: the HTTP API described in OpenAPI 3.1, and a page to try it on.
//!
//! Request bodies and queries are described by the types that read them; the rest by hand. Each listener describes
//! what it serves itself. `docs/openapi.json` is the whole. Neither route needs a capability, and the page loads
//! nothing from elsewhere.

mod call;
mod mailbox_calls;
mod object_calls;
mod operator_calls;
mod page;
mod schemas;
#[allow(dead_code)] // nobody makes one: see the module
mod shapes;

use crate::http::dto;
use crate::http::error::json;
use crate::http::graphql::GraphqlRequest;
use axum::Router;
use axum::routing::get;
use bytes::Bytes;
use call::{Call, Part};
use http::StatusCode;
use ron_core::reason::Reason;
use schemas::{ReasonCode, bytes, in_path, text};
use serde_json::json as value;
use utoipa::ToSchema;
use utoipa::openapi::path::HttpMethod::{Get, Post};
use utoipa::openapi::path::PathsBuilder;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{ComponentsBuilder, InfoBuilder, OpenApi, OpenApiBuilder, PathItem, Required, Tag};

/// Which listener's calls a document describes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Describes {
    /// The public port; `api` = with the mailbox's calls.
    Interop {
        /// `interop.api`.
        api: bool,
    },
    /// The mailbox's port.
    Mailbox,
    /// Whatever a node serves.
    All,
}

impl Describes {
    fn has(self, part: Part) -> bool {
        match (self, part) {
            (_, Part::Everywhere) | (Describes::All, _) => true,
            (Describes::Interop { .. }, Part::Webhooks) => true,
            (Describes::Interop { api }, Part::Mailbox | Part::Objects) => api,
            (Describes::Interop { .. }, Part::Operator) => false,
            (Describes::Mailbox, part) => !matches!(part, Part::Webhooks | Part::Objects),
        }
    }
}

/// The two routes.
pub fn openapi_routes(describes: Describes) -> Router {
    let document = Bytes::from(text_of(describes));
    let serve = move || {
        let answer = json(StatusCode::OK, Vec::new()).map(|_| axum::body::Body::from(document.clone()));
        async move { answer }
    };
    Router::new()
        .route("/openapi.json", get(serve))
        .route("/docs", get(page::index))
        .route("/docs/{file}", get(page::file))
}

/// The document as it is served and committed.
#[must_use]
pub fn text_of(describes: Describes) -> String {
    // a value made of texts and numbers always serialises
    let mut text = serde_json::to_string_pretty(&document(describes)).unwrap_or_default();
    text.push('\n');
    text
}

fn document(describes: Describes) -> OpenApi {
    let (mut paths, mut tags) = (PathsBuilder::new(), Vec::<Part>::new());
    let mut components = components(describes);
    for call in calls().into_iter().filter(|call| describes.has(call.part)) {
        let (method, path, part) = (call.method.clone(), call.path, call.part);
        if !tags.contains(&part) {
            tags.push(part);
        }
        components.responses.extend(call.refusals().map(|(name, response)| (name, response.into())));
        paths = paths.path(path, PathItem::new(method, call.operation()));
    }
    let info = InfoBuilder::new().title("ron-node").version(env!("CARGO_PKG_VERSION")).description(Some(
        "Webhooks in, a durable queue behind them. Every refusal is `{error, reason, corr_id}`; `reason` is \
             stable. `X-Effect: none` says that nothing happened; after `unknown` retry with the same \
             idempotency key.",
    ));
    let tags = tags.into_iter().map(|part| {
        let mut tag = Tag::new(part.tag());
        tag.description = Some(part_says(part).to_owned());
        tag
    });
    OpenApiBuilder::new().info(info).paths(paths).components(Some(components)).tags(Some(tags)).build()
}

const fn part_says(part: Part) -> &'static str {
    match part {
        Part::Webhooks => "Providers send here; their signature is what counts.",
        Part::Everywhere => "About the node; no capability.",
        Part::Mailbox => "Send, receive, settle, look.",
        Part::Objects => "Bodies that are too large for a message, by the hash of their bytes.",
        Part::Operator => "For operators: a topic as a whole, dead letters, subscribers.",
    }
}

fn calls() -> Vec<Call> {
    let mut calls = webhooks();
    calls.extend(about_the_node());
    calls.extend(mailbox_calls::calls());
    calls.extend(object_calls::calls());
    calls.extend(operator_calls::calls());
    calls
}

/// What a webhook can be refused with, beside what any call can.
const WEBHOOK: [Reason; 12] = [
    Reason::DecompLimit,
    Reason::SignatureInvalid,
    Reason::ReplayWindow,
    Reason::PolicyBlocked,
    Reason::Timeout,
    Reason::BodyLimit,
    Reason::UnsupportedEncoding,
    Reason::RateLimit,
    Reason::Backpressure,
    Reason::Degraded,
    Reason::Storage,
    Reason::DownstreamUnavailable,
];

fn webhooks() -> Vec<Call> {
    let provider = || in_path("provider", "^[a-z0-9][a-z0-9_-]{0,62}$", "github");
    let accepted = value!({"accepted": true, "msg_id": "01KAQW2R7V0000000000000001", "duplicate": false,
        "corr_id": "01KAQW2R7VQ5T0Y3M1K2N4P6R8"});
    let path = "/webhooks/{provider}";
    let answer = "A challenge of the provider, answered as it demands.";
    let own = || Some(("*/*", bytes(), None));
    vec![
        Call::new(Part::Webhooks, Post, path, "webhook", "A provider's event")
            .says(
                "Verified by the provider's scheme, de-duplicated, and stored before it is answered. Which \
                 headers are read is the scheme's affair; some schemes name another status and body than \
                 202. A provider in shadow mode (`enforce = false`) is answered \
                 `{\"accepted\":false,\"shadow\":true}` whatever the verdict, and nothing is stored.",
            )
            .params([provider()])
            .body("*/*", bytes(), Required::False, None)
            .answers::<shapes::Accepted>(202, "It is verified and stored.", accepted)
            .answer(200, answer, own())
            .answer(204, "As the scheme names it.", None)
            .refuses(&WEBHOOK),
        Call::new(Part::Webhooks, Get, path, "handshake", "A provider's handshake")
            .params([provider()])
            .answer(200, answer, own())
            .refuses(&WEBHOOK),
    ]
}

fn about_the_node() -> Vec<Call> {
    let version = value!({"name": "ron-node", "version": env!("CARGO_PKG_VERSION"), "profile": "macronode"});
    let html = || Some(("text/html", text().build().into(), None));
    vec![
        Call::new(Part::Webhooks, Get, "/version", "version", "The build").answers::<shapes::Version>(
            200,
            "The build.",
            version,
        ),
        Call::new(Part::Everywhere, Get, "/openapi.json", "openapi", "This document").answer(
            200,
            "OpenAPI 3.1.",
            Some(("application/json", bytes(), None)),
        ),
        Call::new(Part::Everywhere, Get, "/docs", "docs", "This document as a page").answer(
            200,
            "The page.",
            html(),
        ),
        Call::new(Part::Everywhere, Get, "/docs/{file}", "docsFile", "A file of the page")
            .params([in_path("file", "^[a-z.-]{1,64}$", "swagger-ui.css")])
            .answer(200, "The file.", Some(("*/*", bytes(), None))),
    ]
}

macro_rules! components {
    ($builder:expr; $($schema:ty),* $(,)?) => {{
        let mut schemas = Vec::new();
        $(
            let schema = <$schema as utoipa::PartialSchema>::schema();
            schemas.push((<$schema as ToSchema>::name().into_owned(), schema));
            <$schema as ToSchema>::schemas(&mut schemas);
        )*
        $builder.schemas_from_iter(schemas)
    }};
}

fn components(describes: Describes) -> utoipa::openapi::Components {
    let says = "Authorization: Bearer ron1_…, a capability as `ronctl cap mint` makes it.";
    let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some(says)).build();
    let mut builder = components!(ComponentsBuilder::new(); ReasonCode);
    if describes.has(Part::Webhooks) {
        builder = components!(builder; shapes::Accepted, shapes::Version);
    }
    if describes.has(Part::Mailbox) {
        builder = builder.security_scheme("capability", SecurityScheme::Http(bearer));
        builder = components!(builder;
            dto::BatchRequest, dto::RecvRequest, dto::StreamRequest, dto::AckRequest, dto::NackRequest,
            dto::ExtendRequest, shapes::Enqueued, shapes::BatchAnswer, shapes::Received, shapes::Envelope,
            GraphqlRequest, shapes::GraphqlAnswer, shapes::Settled, shapes::TopicsPage,
            shapes::TopicStat, shapes::Peeked, shapes::MessageHistory,
        );
    }
    if describes.has(Part::Objects) {
        builder = components!(builder; shapes::Put);
    }
    if describes.has(Part::Operator) {
        builder = components!(builder;
            dto::SettingsRequest, dto::PauseRequest, dto::ConfirmRequest, dto::ReprocessRequest,
            dto::PurgeDeadRequest, dto::ResendRequest, dto::SubscribersRequest, shapes::Settings,
            shapes::PausedNow, shapes::Purged, shapes::Deleted, shapes::Clusters, shapes::Begun,
            shapes::Tasks, shapes::Task, shapes::Resent, shapes::SubscribersInForce, shapes::SubscribersPage,
        );
    }
    builder.build()
}
