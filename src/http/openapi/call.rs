//! One call of the API as it is described, and how it becomes a part of the document.

use super::schemas::{corr_id, in_header, in_path, refusals, text};
use ron_core::reason::Reason;
use serde_json::Value;
use utoipa::ToSchema;
use utoipa::openapi::path::{HttpMethod, Operation, OperationBuilder, Parameter};
use utoipa::openapi::request_body::{RequestBody, RequestBodyBuilder};
use utoipa::openapi::schema::Schema;
use utoipa::openapi::security::SecurityRequirement;
use utoipa::openapi::{ContentBuilder, Ref, RefOr, Required, Response, ResponseBuilder, ResponsesBuilder};

/// Which listeners serve a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// The public port.
    Webhooks,
    /// All of them.
    Everywhere,
    /// The mailbox's port, and the public one with `interop.api`.
    Mailbox,
    /// The public port with `interop.api`.
    Objects,
    /// The mailbox's port alone.
    Operator,
}

impl Part {
    /// As the document groups them.
    pub(super) const fn tag(self) -> &'static str {
        match self {
            Part::Webhooks => "webhooks",
            Part::Everywhere => "node",
            Part::Mailbox => "mailbox",
            Part::Objects => "objects",
            Part::Operator => "operator",
        }
    }
}

/// A call.
pub(super) struct Call {
    pub(super) method: HttpMethod,
    pub(super) path: &'static str,
    pub(super) part: Part,
    id: &'static str,
    summary: &'static str,
    says: &'static str,
    op: Option<&'static str>,
    guarded: bool,
    params: Vec<Parameter>,
    body: Option<RequestBody>,
    answers: Vec<Answer>,
    reasons: Vec<Reason>,
}

struct Answer {
    status: u16,
    says: &'static str,
    content: Option<(&'static str, RefOr<Schema>, Option<Value>)>,
}

/// What any call can be refused with.
const ANY: [Reason; 3] = [Reason::Malformed, Reason::NotFound, Reason::Internal];
/// What any call with a capability can be refused with.
const GUARDED: [Reason; 11] = [
    Reason::Unauth,
    Reason::ExpiredToken,
    Reason::ScopeMismatch,
    Reason::PolicyBlocked,
    Reason::UnsupportedEncoding,
    Reason::RateLimit,
    Reason::Backpressure,
    Reason::Degraded,
    Reason::Storage,
    Reason::DownstreamUnavailable,
    Reason::Internal,
];
/// What any call with a body can be refused with.
pub(super) const WITH_BODY: [Reason; 2] = [Reason::Timeout, Reason::BodyLimit];

impl Call {
    pub(super) fn new(
        part: Part,
        method: HttpMethod,
        path: &'static str,
        id: &'static str,
        summary: &'static str,
    ) -> Call {
        let mut params = Vec::new();
        if path.contains("{tenant}") {
            params.push(in_path("tenant", "^[a-z0-9][a-z0-9-]{0,62}$", "acme"));
        }
        if path.contains("{topic}") {
            params.push(in_path("topic", "^[a-z0-9][a-z0-9._-]{0,127}$", "orders"));
        }
        params.push(in_header("X-Corr-Id", "8 to 64 of [A-Za-z0-9_-]; anything else is replaced.", text()));
        let reasons = ANY.to_vec();
        Call {
            method,
            path,
            part,
            id,
            summary,
            says: "",
            op: None,
            guarded: false,
            params,
            body: None,
            answers: Vec::new(),
            reasons,
        }
    }

    /// More about it.
    pub(super) fn says(mut self, says: &'static str) -> Call {
        self.says = says;
        self
    }

    /// It needs a capability with this op.
    pub(super) fn op(mut self, op: &'static str) -> Call {
        self.op = Some(op);
        self.guarded()
    }

    /// It needs a capability.
    pub(super) fn guarded(mut self) -> Call {
        self.guarded = true;
        self.refuses(&GUARDED)
    }

    pub(super) fn params(mut self, params: impl IntoIterator<Item = Parameter>) -> Call {
        self.params.extend(params);
        self
    }

    pub(super) fn refuses(mut self, reasons: &[Reason]) -> Call {
        self.reasons.extend_from_slice(reasons);
        self
    }

    /// A body in JSON.
    pub(super) fn json<T: ToSchema>(self, required: Required, example: Value) -> Call {
        self.body("application/json", component::<T>(), required, Some(example))
    }

    pub(super) fn body(
        mut self,
        media: &str,
        schema: RefOr<Schema>,
        required: Required,
        example: Option<Value>,
    ) -> Call {
        let content = ContentBuilder::new().schema(Some(schema)).example(example).build();
        let body = self.body.take().map_or_else(RequestBodyBuilder::new, RequestBodyBuilder::from);
        self.body = Some(body.content(media, content).required(Some(required)).build());
        self.refuses(&WITH_BODY)
    }

    /// The answer in JSON.
    pub(super) fn answers<T: ToSchema>(self, status: u16, says: &'static str, example: Value) -> Call {
        self.answer(status, says, Some(("application/json", component::<T>(), Some(example))))
    }

    pub(super) fn answer(
        mut self,
        status: u16,
        says: &'static str,
        content: Option<(&'static str, RefOr<Schema>, Option<Value>)>,
    ) -> Call {
        self.answers.push(Answer { status, says, content });
        self
    }

    /// What its refusals refer to.
    pub(super) fn refusals(&self) -> impl Iterator<Item = (String, Response)> {
        refusals(&self.reasons, self.part == Part::Webhooks).into_values()
    }

    /// As the document has it.
    pub(super) fn operation(self) -> Operation {
        let mut responses = ResponsesBuilder::new();
        for Answer { status, says, content } in self.answers {
            let mut response = ResponseBuilder::new().description(says).header("X-Corr-Id", corr_id());
            if let Some((media, schema, example)) = content {
                let content = ContentBuilder::new().schema(Some(schema)).example(example);
                response = response.content(media, content.build());
            }
            responses = responses.response(status.to_string(), response);
        }
        for (status, (name, _)) in refusals(&self.reasons, self.part == Part::Webhooks) {
            responses = responses.response(status.to_string(), Ref::from_response_name(name));
        }
        let mut operation = OperationBuilder::new()
            .tag(self.part.tag())
            .operation_id(Some(self.id))
            .summary(Some(self.summary))
            .parameters(Some(self.params))
            .request_body(self.body)
            .responses(responses);
        let op = self.op.map(|op| format!("Needs a capability with the op `{op}`.")).unwrap_or_default();
        let says = [self.says, &op].into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join(" ");
        if !says.is_empty() {
            operation = operation.description(Some(says));
        }
        if self.guarded {
            operation = operation.security(SecurityRequirement::new::<_, _, &str>("capability", []));
        }
        operation.build()
    }
}

/// A reference to the schema of `T`, which is among the components.
pub(super) fn component<T: ToSchema>() -> RefOr<Schema> {
    Ref::from_schema_name(T::name()).into()
}
