//! `POST /graphql`: the mailbox's operations for clients that speak GraphQL. A façade: each field is a request to the
//! REST handlers of the same listener (`caller`), judged as they judge it.
//!
//! A document that may not run is refused as any request is, with 400 and the envelope. One that runs is answered with
//! 200, and what was refused in it stands in `errors`, with the reason in its extensions. Only `application/json` by
//! POST is taken, one operation at a time: nothing that a page of another origin could send by itself. There are no
//! subscriptions.

mod caller;
mod limits;
mod schema;
mod types;

use crate::http::admission::ByteBudget;
use crate::http::auth::Op;
use crate::http::body::{self, DeliveryBody, Keeper};
use crate::http::draft::malformed;
use crate::http::dto;
use crate::http::error::{Failure, json_of};
use crate::http::headers;
use crate::http::mailbox::{MailboxApp, MailboxService, Want};
use crate::http::request::Call;
use async_graphql::{EmptySubscription, Schema, ServerError, Variables};
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use axum::routing::post;
use caller::Caller;
pub(in crate::http) use caller::own_tenant;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use http::request::Parts;
use limits::Checked;
use ron_core::reason::{Reason, Refusal};
use schema::{Mutation, Query};
use serde::Deserialize;
use std::sync::Arc;

/// Largest body: a payload of 1 MiB in base64, and the document.
const BODY_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Bytes of such bodies at once. They are read before a capability is judged, so they have a budget of their own: who
/// sends them without one keeps nobody else out.
const READING_BYTES_MAX: usize = 8 * 1024 * 1024;

type Mail = Schema<Query, Mutation, EmptySubscription>;

/// What the route works with.
struct GraphqlApp<M> {
    mailbox: Arc<MailboxApp<M>>,
    /// The REST routes of the same listener.
    calls: Router,
    reading: ByteBudget,
    /// Tells nothing about itself.
    closed: Mail,
    /// For those whose capability has the op `introspect`.
    open: Mail,
}

/// The route; `calls` are the REST routes that its fields stand for.
pub fn graphql_routes<M: MailboxService>(mailbox: Arc<MailboxApp<M>>, calls: Router) -> Router {
    let built = || {
        Schema::build(Query, Mutation, EmptySubscription)
            .limit_depth(limits::DEPTH_MAX)
            .limit_complexity(limits::COMPLEXITY_MAX)
            .limit_directives(limits::DIRECTIVES_MAX)
    };
    let app = GraphqlApp {
        mailbox,
        calls,
        reading: ByteBudget::new(READING_BYTES_MAX),
        closed: built().disable_introspection().disable_suggestions().finish(),
        open: built().finish(),
    };
    Router::new().route("/graphql", post(graphql::<M>)).with_state(Arc::new(app))
}

/// The schema as it is committed.
#[must_use]
pub fn sdl() -> String {
    Schema::build(Query, Mutation, EmptySubscription).finish().sdl()
}

/// The body of a request. GraphQL over HTTP names the members.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct GraphqlRequest {
    /// One operation, at most 8 KiB; see `docs/schema.graphql`.
    #[schema(max_length = 8192)]
    query: String,
    /// Its name; there is only one.
    #[serde(rename = "operationName")]
    operation_name: Option<String>,
    /// By name.
    #[schema(value_type = Option<Object>)]
    variables: Option<serde_json::Map<String, serde_json::Value>>,
}

async fn graphql<M: MailboxService>(
    State(app): State<Arc<GraphqlApp<M>>>,
    request: Request,
) -> Result<Response, Failure> {
    let (parts, body) = request.into_parts();
    let call = Call::of(&parts)?.clone();
    app.mailbox.access.may_come(&parts.headers)?;
    if !parts.headers.contains_key(CONTENT_TYPE) {
        return Err(Refusal::new(Reason::UnsupportedEncoding, "Content-Type must be application/json").into());
    }
    headers::json_body(&parts.headers)?;
    let room = body::within_limit(body::declared_len(&body), BODY_BYTES_MAX)?;
    let reserved = app.reading.reserve(room)?;
    let body = body::read(body, BODY_BYTES_MAX, app.mailbox.limits.load().body_deadline).await?;
    let request: GraphqlRequest = dto::json(&body)?;
    drop(body);
    let checked = limits::check(&request.query)?;
    let schema = match checked.introspects {
        true => {
            app.may_introspect(&parts, &call).await?;
            &app.open
        }
        false => &app.closed,
    };
    let keeper = Keeper::default();
    let mut response = app.run(schema, request, checked, &parts, &call, &keeper).await?;
    drop(reserved);
    for error in &mut response.errors {
        complete(error, &call);
    }
    let mut answer = json_of(StatusCode::OK, &response)?;
    let bytes = std::mem::take(answer.body_mut());
    let bytes = axum::body::to_bytes(bytes, usize::MAX).await;
    let unwritten = |_| Refusal::new(Reason::Internal, "the answer could not be written");
    *answer.body_mut() = Body::new(DeliveryBody::keeping(bytes.map_err(unwritten)?, keeper));
    Ok(answer)
}

impl<M: MailboxService> GraphqlApp<M> {
    async fn may_introspect(&self, parts: &Parts, call: &Call) -> Result<(), Refusal> {
        let tenant = own_tenant(&parts.headers)?;
        let want = Want { op: Op::Introspect, tenant: &tenant, topic: None, bytes: None };
        self.mailbox.allow(parts, call, want).await.map(drop)
    }

    /// Runs an operation. What does not fit the schema does not run, and is refused as a whole.
    async fn run(
        &self,
        schema: &Mail,
        request: GraphqlRequest,
        checked: Checked,
        parts: &Parts,
        call: &Call,
        keeper: &Keeper,
    ) -> Result<async_graphql::Response, Refusal> {
        let caller = Caller {
            router: self.calls.clone(),
            headers: parts.headers.clone(),
            call: call.clone(),
            keeper: keeper.clone(),
            meter: self.mailbox.meter.clone(),
        };
        let variables = request.variables.unwrap_or_default();
        let variables = Variables::from_json(serde_json::Value::Object(variables));
        let mut asked = async_graphql::Request::new(request.query).variables(variables).data(caller);
        asked.operation_name = request.operation_name;
        asked.set_parsed_query(checked.document);
        let response = schema.execute(asked).await;
        // nothing ran: errors of what runs have the path of their field
        match response.errors.iter().find(|error| error.path.is_empty()) {
            Some(error) => Err(unfit(error)),
            None => Ok(response),
        }
    }
}

/// Why a document does not fit the schema.
fn unfit(error: &ServerError) -> Refusal {
    match error.message.as_str() {
        "Query is too complex." => return limits::too_complex(),
        "Query is nested too deep." => return limits::too_deep(),
        _ => {}
    }
    let at = error.locations.first();
    let at = at.map_or(String::new(), |at| format!(" at line {} column {}", at.line, at.column));
    malformed(format!("query: {}{at}", told(&error.message)))
}

/// What of an error's text may be told: names of the document, never a value.
fn told(message: &str) -> &str {
    const NAMES_ONLY: [&str; 12] = [
        "Unknown field",
        "Unknown argument",
        "Unknown type",
        "Unknown directive",
        "Cannot query field",
        "Field \"",
        "Variable \"",
        "Unused ",
        "There can only be one",
        "Duplicate directive",
        "The number of directives",
        "Unknown operation",
    ];
    let first = message.lines().next().unwrap_or_default();
    if first.len() <= 200 && NAMES_ONLY.iter().any(|start| first.starts_with(start)) {
        return first;
    }
    "a value does not fit the schema; see docs/schema.graphql"
}

/// An error of an operation that ran: with a reason, and without what was sent.
fn complete(error: &mut ServerError, call: &Call) {
    let known = error.extensions.as_ref().is_some_and(|more| more.get("reason").is_some());
    if !known {
        let refusal = malformed(format!("query: {}", told(&error.message)));
        let made = caller::error(&refusal, call);
        error.message = made.message;
        error.extensions = made.extensions;
    }
}
