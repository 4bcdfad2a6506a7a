//! What only the mailbox's own port serves: a topic as a whole, its dead letters, its subscribers.

use super::call::{Call, Part};
use super::mailbox_calls::settings;
use super::schemas::in_path;
use super::shapes;
use crate::http::dto;
use ron_core::reason::Reason;
use serde_json::{Value, json};
use utoipa::IntoParams;
use utoipa::openapi::Required;
use utoipa::openapi::path::HttpMethod::{Delete, Get, Post, Put};
use utoipa::openapi::path::ParameterIn::Query;

const ID: &str = "01KAQW2R7V0000000000000001";

/// All of them.
pub(super) fn calls() -> Vec<Call> {
    let mut calls: Vec<Call> = topic().into();
    calls.extend(dead_letters());
    calls.extend(tasks());
    calls.extend(subscribers());
    calls
}

fn topic() -> [Call; 5] {
    let confirm = || json!({"confirm": "orders"});
    let change = json!({"max_attempts": 9, "visibility_ms": 30_000});
    let on = |method, path, id, summary| Call::new(Part::Operator, method, path, id, summary).op("admin");
    [
        on(Put, "/v1/{tenant}/{topic}/settings", "settings", "Change a topic's settings")
            .says("Those that are given; creates the topic.")
            .json::<dto::SettingsRequest>(Required::True, change)
            .answers::<shapes::Settings>(200, "The settings in force.", settings()),
        on(Post, "/v1/{tenant}/{topic}/pause", "pause", "Pause a topic")
            .says("A paused receive answers empty; a paused enqueue is refused with DEGRADED.")
            .json::<dto::PauseRequest>(Required::True, json!({"what": "recv"}))
            .answers::<shapes::PausedNow>(200, "What is paused now.", json!({"paused": "recv"})),
        on(Post, "/v1/{tenant}/{topic}/resume", "resume", "Resume a topic")
            .json::<dto::PauseRequest>(Required::True, json!({"what": "both"}))
            .answers::<shapes::PausedNow>(200, "What is paused now.", json!({"paused": null})),
        on(Post, "/v1/{tenant}/{topic}/purge", "purge", "End all messages enqueued before")
            .says("In flight included; not the dead letters, not the idempotency keys.")
            .json::<dto::ConfirmRequest>(Required::True, confirm())
            .answers::<shapes::Purged>(200, "So many are gone.", json!({"purged": 4})),
        on(Delete, "/v1/{tenant}/{topic}", "deleteTopic", "Delete a topic")
            .says("Its messages go with it.")
            .json::<dto::ConfirmRequest>(Required::True, confirm())
            .answers::<shapes::Deleted>(200, "It is gone.", json!({"deleted": true, "purged": 4}))
            .refuses(&[Reason::Conflict]),
    ]
}

fn dead_letters() -> [Call; 4] {
    let cluster = json!({"reason": "max_attempts", "count": 1, "oldest_at": "2026-11-22T10:00:00.000Z",
        "newest_at": "2026-11-22T10:00:00.000Z", "sample": [ID]});
    let filter = json!({"reason": "max_attempts", "attr": {"zone": "eu"}, "older_than_ms": 60_000});
    let again = json!({"filter": filter, "limit": 1000, "rate_per_s": 100, "stop_if_returned": 0.5});
    let resent = json!({"msg_id": "01KAQW2R7V0000000000000002", "source_msg_id": ID, "duplicate": false,
        "removed": true, "durability": "fsync", "corr_id": "order-4711",
        "payload_hash": "b3:ea8f163db38682925e4491c5e58d4bb3506ef8c14eb78a86e908c5624a67200f"});
    let on = |method, path, id, summary| Call::new(Part::Operator, method, path, id, summary);
    [
        on(Get, "/v1/{tenant}/{topic}/dlq", "deadLetters", "Dead letters by their reasons")
            .op("peek")
            .answers::<shapes::Clusters>(200, "The clusters.", json!({"dlq": 1, "clusters": [cluster]})),
        on(Post, "/v1/{tenant}/{topic}/dlq/reprocess", "reprocess", "Bring dead letters back")
            .says("Keeps their ids, to the tail, attempts from 0. One task runs at a time.")
            .op("admin")
            .json::<dto::ReprocessRequest>(Required::True, again)
            .answers::<shapes::Begun>(
                200,
                "It has begun.",
                json!({"task_id": "t19aa0c3f1c0-1", "matched": 12}),
            )
            .refuses(&[Reason::Conflict]),
        on(Post, "/v1/{tenant}/{topic}/dlq/purge", "purgeDeadLetters", "End dead letters")
            .says("The filter must be there: {} means all.")
            .op("admin")
            .json::<dto::PurgeDeadRequest>(Required::True, json!({"filter": filter}))
            .answers::<shapes::Purged>(200, "So many are gone.", json!({"purged": 1})),
        on(Post, "/v1/{tenant}/{topic}/dlq/resend", "resend", "Send a dead letter again, changed")
            .op("admin")
            .json::<dto::ResendRequest>(
                Required::True,
                json!({"msg_id": ID, "payload": "hello", "remove": true}),
            )
            .answers::<shapes::Resent>(200, "It is a new message.", resent)
            .refuses(&[Reason::IdempotencyConflict]),
    ]
}

fn task() -> Value {
    json!({"task_id": "t19aa0c3f1c0-1", "state": "running", "matched": 12, "moved": 4, "returned": 0,
        "limit": 1000, "rate_per_s": 100, "stop_if_returned": 0.5, "started_at": "2026-11-22T10:00:00.000Z"})
}

fn tasks() -> [Call; 3] {
    let named = || in_path("task", "^t[0-9a-f]{1,16}-[0-9]{1,20}$", "t19aa0c3f1c0-1");
    let on = |method, path, id, summary| Call::new(Part::Operator, method, path, id, summary).op("admin");
    [
        on(Get, "/v1/{tenant}/{topic}/dlq/tasks", "tasks", "A topic's reprocessings")
            .answers::<shapes::Tasks>(200, "Newest first.", json!({"tasks": [task()]})),
        on(Get, "/v1/{tenant}/{topic}/dlq/tasks/{task}", "task", "One reprocessing")
            .params([named()])
            .answers::<shapes::Task>(200, "How far it is.", task()),
        on(Delete, "/v1/{tenant}/{topic}/dlq/tasks/{task}", "cancelTask", "Cancel a reprocessing")
            .params([named()])
            .answers::<shapes::Task>(200, "What became of it.", task()),
    ]
}

fn subscribers() -> [Call; 2] {
    let change = json!({"add": [{"topic": "orders.eu", "filter": {"attr": {"zone": "eu"}}}], "remove": []});
    let listed = json!({"topic": "orders.eu", "filter": {"attr": {"zone": "eu"}}, "lag": 0});
    let path = "/v1/{tenant}/{topic}/subscribers";
    [
        Call::new(Part::Operator, Put, path, "subscribe", "Change a topic's subscribers")
            .says("Also needs `enqueue` on each topic that joins.")
            .op("admin")
            .json::<dto::SubscribersRequest>(Required::True, change)
            .answers::<shapes::SubscribersInForce>(
                200,
                "The list in force.",
                json!({"version": 2, "count": 1}),
            )
            .refuses(&[Reason::Conflict]),
        Call::new(Part::Operator, Get, path, "subscribers", "A topic's subscribers")
            .op("admin")
            .params(dto::SubscribersQuery::into_params(|| Some(Query)))
            .answers::<shapes::SubscribersPage>(
                200,
                "A page.",
                json!({"version": 2, "count": 1, "subscribers": [listed], "cursor": null}),
            ),
    ]
}
