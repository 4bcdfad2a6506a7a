//! The mailbox's calls (SPEC §4) that any listener of the API serves.

use super::call::{Call, Part, component};
use super::schemas::{bytes, in_header, in_path, text, whole};
use super::shapes;
use crate::http::draft::{DELAY_MS_MAX, TTL_MS_MIN};
use crate::http::dto;
use crate::http::graphql::GraphqlRequest;
use ron_core::reason::Reason;
use serde_json::{Value, json};
use utoipa::IntoParams;
use utoipa::openapi::Required;
use utoipa::openapi::path::HttpMethod::{Get, Post};
use utoipa::openapi::path::ParameterIn::Query;

const ID: &str = "01KAQW2R7V0000000000000001";
const HASH: &str = "b3:ea8f163db38682925e4491c5e58d4bb3506ef8c14eb78a86e908c5624a67200f";
const RECEIPT: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

fn stored() -> Value {
    json!({"msg_id": ID, "duplicate": false, "payload_hash": HASH, "durability": "fsync"})
}

pub(super) fn envelope() -> Value {
    json!({
        "msg_id": ID, "receipt": RECEIPT, "tenant": "acme", "topic": "orders",
        "enqueued_at": "2026-11-22T10:00:00.000Z", "attempt": 1, "delivery": 1, "content_type": "text/plain",
        "attrs": {"zone": "eu"}, "payload_hash": HASH, "payload": "hello", "corr_id": "order-4711",
        "deadline": "2026-11-22T10:00:05.000Z"
    })
}

fn settled() -> Value {
    json!({"results": [{"ok": true}, {"ok": false, "reason": "STALE_RECEIPT"}]})
}

/// The example of an answer with one more member.
fn with(mut value: Value, name: &str, more: Value) -> Value {
    value[name] = more;
    value
}

/// The path's part that names a message.
pub(super) fn msg_id() -> utoipa::openapi::path::Parameter {
    in_path("msg_id", "^[0-9A-HJKMNP-TV-Z]{26}$", ID)
}

/// All of them.
pub(super) fn calls() -> Vec<Call> {
    let mut calls: Vec<Call> = sending().into();
    calls.extend(receiving());
    calls.extend(settling());
    calls.extend(looking());
    calls.push(graphql());
    calls
}

fn sending() -> [Call; 2] {
    let item = json!({"payload": "hello", "content_type": "text/plain", "idempotency_key": "order-4711",
        "delay_ms": 0, "ttl_ms": 60_000, "attrs": {"zone": "eu"}});
    let batch = json!({"messages": [item, {"payload_b64": "AAEC"}]});
    let refused = json!({"error": "payload_b64 must be base64 with padding", "reason": "MALFORMED"});
    [
        Call::new(Part::Mailbox, Post, "/v1/{tenant}/{topic}/enqueue", "enqueue", "Send a message")
            .says(
                "The body is the message, at most 1 MiB. Headers `X-Attr-<name>` (at most 16, 4 KiB together, \
                 names lower-cased) become its attributes. Answered when it is as safe as `durability` says.",
            )
            .op("enqueue")
            .params([
                in_header(
                    "Idempotency-Key",
                    "Makes a repeat harmless within the topic's dedup_window_ms.",
                    text().pattern(Some("^[!-~]{1,256}$")).min_length(Some(1)).max_length(Some(256)),
                ),
                in_header(
                    "X-Delay-Ms",
                    "Handed out so much later; less than X-Ttl-Ms.",
                    whole(0, Some(DELAY_MS_MAX)),
                ),
                in_header("X-Ttl-Ms", "Not handed out after so long.", whole(TTL_MS_MIN, Some(DELAY_MS_MAX))),
                in_header(
                    "X-Payload-Hash",
                    "What the payload's hash must be.",
                    text().pattern(Some("^b3:[0-9a-f]{64}$")),
                ),
                in_header(
                    "X-Body-Ref",
                    "An object of the tenant that is the body; what is sent is then empty.",
                    text().pattern(Some("^b3:[0-9a-f]{64}$")),
                ),
                in_header("X-Attr-group", "The message's group, where the topic is strict.", text()),
            ])
            .body("application/octet-stream", bytes(), Required::False, None)
            .body("text/plain", text().build().into(), Required::False, Some(json!("hello")))
            .answers::<shapes::Enqueued>(
                200,
                "It is stored.",
                with(stored(), "corr_id", json!("order-4711")),
            )
            .refuses(&[Reason::IdempotencyConflict]),
        Call::new(
            Part::Mailbox,
            Post,
            "/v1/{tenant}/{topic}/enqueue/batch",
            "enqueueBatch",
            "Send messages",
        )
        .says("At most 256 messages and 4 MiB. What is accepted is one commit.")
        .op("enqueue")
        .json::<dto::BatchRequest>(Required::True, batch)
        .answers::<shapes::BatchAnswer>(
            200,
            "One result a message, in order.",
            json!({"results": [stored(), refused]}),
        ),
    ]
}

fn receiving() -> [Call; 2] {
    let want = json!({"max_messages": 10, "visibility_ms": 30_000, "wait_ms": 0});
    let stream = json!({"max_inflight": 32, "visibility_ms": 30_000});
    [
        Call::new(Part::Mailbox, Post, "/v1/{tenant}/{topic}/recv", "recv", "Receive messages")
            .says(
                "Leases what is ready, and waits for it if asked to. An empty body means the defaults; a topic \
                   that does not exist yet has no messages.",
            )
            .op("recv")
            .json::<dto::RecvRequest>(Required::False, want)
            .answers::<shapes::Received>(
                200,
                "Messages; none if none came.",
                json!({"messages": [envelope()]}),
            ),
        Call::new(
            Part::Mailbox,
            Post,
            "/v1/{tenant}/{topic}/recv/stream",
            "recvStream",
            "Receive messages as they come",
        )
        .says(
            "An Envelope a line, as long as the connection and the capability last; an empty line every 10 s \
               of silence. A fault ends it with a line `{error, reason, corr_id}`.",
        )
        .op("recv")
        .json::<dto::StreamRequest>(Required::False, stream)
        .answer(
            200,
            "A line a message.",
            Some(("application/x-ndjson", component::<shapes::Envelope>(), None)),
        ),
    ]
}

fn settling() -> [Call; 3] {
    let settle = |path, id, summary, says| {
        let answer = "One result a receipt, in order.";
        let call = Call::new(Part::Mailbox, Post, path, id, summary).says(says);
        call.answers::<shapes::Settled>(200, answer, settled())
    };
    let receipts = json!([RECEIPT]);
    let nack = json!({"receipts": receipts, "mode": "fail", "delay_ms": 1000, "reason": "no stock"});
    let extend = json!({"receipts": receipts, "visibility_ms": 60_000});
    [
        settle(
            "/v1/{tenant}/{topic}/ack",
            "ack",
            "Messages are done",
            "Of a message that no longer exists: ok.",
        )
        .op("ack")
        .json::<dto::AckRequest>(Required::True, json!({"receipts": receipts})),
        settle(
            "/v1/{tenant}/{topic}/nack",
            "nack",
            "Messages failed",
            "Modes: fail, release, reject; delay_ms not with reject.",
        )
        .op("nack")
        .json::<dto::NackRequest>(Required::True, nack),
        settle("/v1/{tenant}/{topic}/extend", "extend", "Leases go on", "visibility_ms counts from now.")
            .op("recv")
            .json::<dto::ExtendRequest>(Required::True, extend),
    ]
}

fn looking() -> [Call; 4] {
    let row = json!({"topic": "orders", "ready": 3, "delayed": 0, "vis": 1, "dlq": 0});
    let event = json!({"event": "enqueued", "at": "2026-11-22T10:00:00.000Z", "attempt": 0});
    let history =
        json!({"msg_id": ID, "state": "ready", "attempts": 0, "history": [event], "truncated": false});
    let query = |params: Vec<_>| params.into_iter();
    let mut peeked = envelope();
    if let Some(peeked) = peeked.as_object_mut() {
        peeked.remove("receipt");
        peeked.remove("deadline");
    }
    [
        Call::new(Part::Mailbox, Get, "/v1/{tenant}", "topics", "A tenant's topics")
            .op("stat")
            .params(query(dto::TopicsQuery::into_params(|| Some(Query))))
            .answers::<shapes::TopicsPage>(
                200,
                "Those that the capability and the policy let be seen.",
                json!({"topics": [row], "cursor": null}),
            ),
        Call::new(Part::Mailbox, Get, "/v1/{tenant}/{topic}", "stat", "A topic's figures and settings")
            .op("stat")
            .answers::<shapes::TopicStat>(200, "As they are committed.", stat()),
        Call::new(Part::Mailbox, Get, "/v1/{tenant}/{topic}/peek", "peek", "Look at messages")
            .says("Leases nothing. A message that stays in the state is seen once in a walk.")
            .op("peek")
            .params(query(dto::PeekQuery::into_params(|| Some(Query))))
            .answers::<shapes::Peeked>(200, "A page.", json!({"messages": [peeked], "cursor": null})),
        Call::new(
            Part::Mailbox,
            Get,
            "/v1/{tenant}/{topic}/messages/{msg_id}",
            "message",
            "A message's history",
        )
        .op("peek")
        .params([msg_id()])
        .answers::<shapes::MessageHistory>(200, "What is known of it.", history),
    ]
}

fn graphql() -> Call {
    let query = "{ topic(name: \"orders\") { stat { ready } } }";
    let example = json!({"query": query, "variables": {}});
    let answer = json!({"data": {"topic": {"stat": {"ready": 3}}}});
    Call::new(Part::Mailbox, Post, "/graphql", "graphql", "The same in GraphQL")
        .says(
            "The schema is docs/schema.graphql. A field needs the op of the call that it stands for. An \
             operation that ran is 200, and its refused fields stand in `errors`, with `reason`, `effect`, \
             `corr_id` and `retry_after_ms` in the extensions. At most 8 KiB, 10 root fields, 15 aliases, depth 8, complexity 500.",
        )
        .guarded()
        .json::<GraphqlRequest>(Required::True, example)
        .answers::<shapes::GraphqlAnswer>(200, "It ran.", answer)
}

/// The example of a topic's settings.
pub(super) fn settings() -> Value {
    json!({
        "visibility_ms": 5000, "max_attempts": 5, "max_deliveries": 50, "backoff_base_ms": 200,
        "backoff_max_ms": 60_000, "retention_ms": 604_800_000, "dlq_retention_ms": 1_209_600_000,
        "dedup_window_ms": 300_000, "max_dedup_keys": 1_000_000, "durability": "fsync", "max_depth": null,
        "fifo": false
    })
}

fn stat() -> Value {
    json!({
        "ready": 3, "delayed": 0, "vis": 1, "dlq": 0, "oldest_age_ms": 1200, "dedup_keys": 4, "waiters": 0,
        "paused": null, "settings": settings()
    })
}
