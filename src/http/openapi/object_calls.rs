//! The calls on objects (SPEC §7).

use super::call::{Call, Part};
use super::schemas::{bytes, in_header, in_path, text};
use super::shapes;
use ron_core::reason::Reason;
use serde_json::json;
use utoipa::openapi::Required;
use utoipa::openapi::path::HttpMethod::{Get, Post};

const ADDRESS: &str = "b3:ea8f163db38682925e4491c5e58d4bb3506ef8c14eb78a86e908c5624a67200f";

/// All of them.
pub(super) fn calls() -> [Call; 2] {
    let hash = || text().pattern(Some("^b3:[0-9a-f]{64}$"));
    [
        Call::new(Part::Objects, Post, "/put", "put", "Put an object")
            .says(
                "The body is the object, at most interop.object_max. It belongs to the capability's tenant, and is \
                 kept while a message refers to it and for an hour after it was last put.",
            )
            .op("put")
            .params([in_header("X-Payload-Hash", "What the body's hash must be.", hash())])
            .body("application/octet-stream", bytes(), Required::False, None)
            .answers::<shapes::Put>(
                202,
                "It is stored and synced.",
                json!({"address": ADDRESS, "len": 5, "corr_id": "order-4711"}),
            ),
        Call::new(Part::Objects, Get, "/o/{address}", "object", "Get an object")
            .says(
                "Absent and another tenant's are the same 404. All of it is read and its hash compared before the \
                 first byte is sent.",
            )
            .op("get")
            .params([
                in_path("address", "^b3:[0-9a-f]{64}$", ADDRESS),
                in_header("If-None-Match", "Entity tags that the client has.", text()),
                in_header("Range", "One range of bytes; anything else gets all of it.", text()),
            ])
            .answer(200, "The object.", Some(("application/octet-stream", bytes(), None)))
            .answer(206, "A part of it.", Some(("application/octet-stream", bytes(), None)))
            .answer(304, "The client has it.", None)
            .refuses(&[Reason::NotFound]),
    ]
}
