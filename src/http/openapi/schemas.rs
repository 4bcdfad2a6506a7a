//! Pieces that all calls are described with: names in paths, headers, refusals.

use ron_core::reason::Reason;
use std::collections::BTreeMap;
use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::openapi::{ContentBuilder, HeaderBuilder, RefOr, Required, Response, ResponseBuilder};
use utoipa::{PartialSchema, ToSchema};

/// The stable reason codes (SPEC §3).
pub(super) struct ReasonCode;

impl PartialSchema for ReasonCode {
    fn schema() -> RefOr<Schema> {
        codes(&Reason::ALL).description(Some("Stable; the list only grows.")).build().into()
    }
}

impl ToSchema for ReasonCode {
    fn name() -> std::borrow::Cow<'static, str> {
        "Reason".into()
    }
}

fn codes(reasons: &[Reason]) -> ObjectBuilder {
    text().enum_values(Some(reasons.iter().map(|reason| reason.code())))
}

/// A string.
pub(super) fn text() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String)
}

/// Any bytes.
pub(super) fn bytes() -> RefOr<Schema> {
    // In 3.1 bytes that are not encoded have no type: the media type says all.
    ObjectBuilder::new().schema_type(utoipa::openapi::schema::SchemaType::AnyValue).build().into()
}

/// A whole number within bounds.
pub(super) fn whole(min: u64, max: Option<u64>) -> ObjectBuilder {
    let number = |n: u64| utoipa::Number::UInt(usize::try_from(n).unwrap_or(usize::MAX));
    ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(number(min))).maximum(max.map(number))
}

/// A part of the path.
pub(super) fn in_path(name: &str, pattern: &str, example: &str) -> Parameter {
    ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Path)
        .required(Required::True)
        .schema(Some(text().pattern(Some(pattern))))
        .example(Some(example.into()))
        .build()
}

/// A request header.
pub(super) fn in_header(name: &str, says: &str, schema: ObjectBuilder) -> Parameter {
    ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Header)
        .required(Required::False)
        .description(Some(says))
        .schema(Some(schema))
        .build()
}

/// The refusals of a call, by their status; each with the name that it has among the components.
pub(super) fn refusals(reasons: &[Reason], webhook: bool) -> BTreeMap<u16, (String, Response)> {
    let mut by_status: BTreeMap<u16, Vec<Reason>> = BTreeMap::new();
    for reason in Reason::ALL.into_iter().filter(|reason| reasons.contains(reason)) {
        let status = if webhook && reason == Reason::Backpressure { 503 } else { reason.status() };
        by_status.entry(status).or_default().push(reason);
    }
    let named = |(status, reasons): (u16, Vec<Reason>)| {
        let codes: Vec<&str> = reasons.iter().map(|reason| reason.code()).collect();
        (status, (format!("{status}-{}", codes.join("-")), refusal(status, &reasons)))
    };
    by_status.into_iter().map(named).collect()
}

fn refusal(status: u16, reasons: &[Reason]) -> Response {
    let names: Vec<&str> = reasons.iter().map(|reason| reason.code()).collect();
    let body = ObjectBuilder::new()
        .property("error", text().description(Some("For a person: the field and the fix.")))
        .property("reason", codes(reasons))
        .property("corr_id", text())
        .required("error")
        .required("reason")
        .required("corr_id")
        .additional_properties(Some(utoipa::openapi::schema::AdditionalProperties::<Schema>::FreeForm(
            false,
        )));
    let header = |says: &str, schema: ObjectBuilder| {
        HeaderBuilder::new().description(Some(says)).schema(schema.build()).build()
    };
    let effect = text().enum_values(Some(["none", "unknown"]));
    let mut response = ResponseBuilder::new()
        .description(names.join(", "))
        .content("application/json", ContentBuilder::new().schema(Some(body)).build())
        .header("X-Corr-Id", corr_id())
        .header("X-Effect", header("Whether the request may have taken effect.", effect));
    if matches!(status, 429 | 503) {
        response = response.header("Retry-After", header("Seconds.", whole(1, None)));
    }
    response.build()
}

/// The header that every answer has.
pub(super) fn corr_id() -> utoipa::openapi::Header {
    let says = "The request's X-Corr-Id if it was well-formed, else a new one.";
    HeaderBuilder::new().description(Some(says)).schema(text().build()).build()
}
