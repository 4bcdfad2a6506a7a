//! What successful answers look like. They are written by hand where they are hot, so these types only describe them;
//! `tests/it/openapi.rs` holds every call's real answer against its description, unknown fields included.

use serde::Serialize;
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// A message is stored.
#[derive(Serialize, ToSchema)]
pub(super) struct Enqueued {
    /// Its id, or the first one's if this is a duplicate.
    #[schema(pattern = "^[0-9A-HJKMNP-TV-Z]{26}$")]
    msg_id: String,
    /// The idempotency key was used before with the same payload.
    duplicate: bool,
    /// BLAKE3-256 of the payload.
    #[schema(pattern = "^b3:[0-9a-f]{64}$")]
    payload_hash: String,
    durability: Durability,
    corr_id: String,
}

/// An object is stored.
#[derive(Serialize, ToSchema)]
pub(super) struct Put {
    /// BLAKE3-256 of the body.
    #[schema(pattern = "^b3:[0-9a-f]{64}$")]
    address: String,
    /// Bytes.
    len: u64,
    corr_id: String,
}

/// What an answered send is as safe as: synced to disk, or in memory.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Durability {
    Fsync,
    Ram,
}

/// One result a message, in order; what was accepted is one commit.
#[derive(Serialize, ToSchema)]
pub(super) struct BatchAnswer {
    results: Vec<BatchResult>,
}

#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub(super) enum BatchResult {
    Stored(ItemStored),
    Refused(ItemRefused),
}

/// A message of a batch that is stored.
#[derive(Serialize, ToSchema)]
pub(super) struct ItemStored {
    #[schema(pattern = "^[0-9A-HJKMNP-TV-Z]{26}$")]
    msg_id: String,
    duplicate: bool,
    #[schema(pattern = "^b3:[0-9a-f]{64}$")]
    payload_hash: String,
    durability: Durability,
}

/// A message of a batch that is not stored.
#[derive(Serialize, ToSchema)]
pub(super) struct ItemRefused {
    /// For a person.
    error: String,
    #[schema(value_type = crate::http::openapi::schemas::ReasonCode)]
    reason: String,
}

/// Messages that are leased to the caller; empty when none came in time.
#[derive(Serialize, ToSchema)]
pub(super) struct Received {
    messages: Vec<Envelope>,
}

/// A message as a consumer gets it. Exactly one of `payload` and `payload_b64` is there.
#[derive(Serialize, ToSchema)]
pub(super) struct Envelope {
    #[schema(pattern = "^[0-9A-HJKMNP-TV-Z]{26}$")]
    msg_id: String,
    /// Names this delivery; not in peek.
    #[schema(max_length = 200, pattern = "^[A-Za-z0-9_-]+$")]
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    receipt: Option<String>,
    tenant: String,
    topic: String,
    /// RFC 3339, UTC, ms.
    enqueued_at: String,
    /// Hand-outs that count.
    attempt: u32,
    /// All hand-outs.
    delivery: u32,
    #[schema(nullable = false)]
    idempotency_key: Option<String>,
    content_type: String,
    attrs: BTreeMap<String, String>,
    #[schema(pattern = "^b3:[0-9a-f]{64}$")]
    payload_hash: String,
    /// When the content type is JSON or text and the bytes are UTF-8.
    #[schema(nullable = false)]
    payload: Option<String>,
    /// Otherwise.
    #[schema(nullable = false)]
    payload_b64: Option<String>,
    /// The object that is the body, in the tenant's `/o/`; the payload is then empty.
    #[schema(nullable = false, pattern = "^b3:[0-9a-f]{64}$")]
    body_ref: Option<String>,
    /// The sender's.
    corr_id: String,
    /// When the lease ends; not where nothing is leased.
    #[schema(nullable = false)]
    deadline: Option<String>,
    #[schema(nullable = false)]
    source_msg_id: Option<String>,
    #[schema(nullable = false)]
    dead_letter: Option<DeadLetter>,
    #[schema(nullable = false)]
    restored_at: Option<String>,
}

/// Why and when a message was dead-lettered.
#[derive(Serialize, ToSchema)]
pub(super) struct DeadLetter {
    reason: String,
    attempts: u32,
    #[schema(required = true)]
    last_error: Option<String>,
    at: String,
}

/// One result a receipt, in order, after the commit.
#[derive(Serialize, ToSchema)]
pub(super) struct Settled {
    results: Vec<SettleResult>,
}

/// `reason` is there when `ok` is false.
#[derive(Serialize, ToSchema)]
pub(super) struct SettleResult {
    ok: bool,
    #[schema(value_type = crate::http::openapi::schemas::ReasonCode, required = false)]
    reason: Option<String>,
}

/// A page of a tenant's topics: those that the capability lets be seen.
#[derive(Serialize, ToSchema)]
pub(super) struct TopicsPage {
    topics: Vec<TopicRow>,
    /// Of the next page; null on the last.
    #[schema(required = true)]
    cursor: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub(super) struct TopicRow {
    topic: String,
    ready: u64,
    delayed: u64,
    vis: u64,
    dlq: u64,
}

/// A topic's figures.
#[derive(Serialize, ToSchema)]
pub(super) struct TopicStat {
    ready: u64,
    delayed: u64,
    /// In flight.
    vis: u64,
    dlq: u64,
    oldest_age_ms: u64,
    dedup_keys: u64,
    /// Receives that wait.
    waiters: u64,
    #[schema(required = true)]
    paused: Option<PausedWhat>,
    settings: Settings,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum PausedWhat {
    Recv,
    Enqueue,
    Both,
}

/// The settings in force.
#[derive(Serialize, ToSchema)]
pub(super) struct Settings {
    visibility_ms: u64,
    max_attempts: u32,
    max_deliveries: u32,
    backoff_base_ms: u64,
    backoff_max_ms: u64,
    retention_ms: u64,
    dlq_retention_ms: u64,
    /// 0 = off.
    dedup_window_ms: u64,
    max_dedup_keys: u64,
    durability: Durability,
    /// null = no limit.
    #[schema(required = true)]
    max_depth: Option<u64>,
    fifo: bool,
}

/// A page of a topic's messages; nothing is leased.
#[derive(Serialize, ToSchema)]
pub(super) struct Peeked {
    messages: Vec<Envelope>,
    /// Of the next page; null on the last.
    #[schema(required = true)]
    cursor: Option<String>,
}

/// What is known of one message.
#[derive(Serialize, ToSchema)]
pub(super) struct MessageHistory {
    msg_id: String,
    state: MessageState,
    attempts: u32,
    #[schema(nullable = false)]
    last_error: Option<String>,
    history: Vec<Event>,
    /// The beginning is no longer known.
    truncated: bool,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum MessageState {
    Ready,
    Delayed,
    Vis,
    Dlq,
    Acked,
    Expired,
    Purged,
}

#[derive(Serialize, ToSchema)]
pub(super) struct Event {
    event: EventName,
    /// RFC 3339, UTC, ms.
    at: String,
    attempt: u32,
    #[schema(nullable = false)]
    reason: Option<String>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum EventName {
    Enqueued,
    Delivered,
    Extended,
    Released,
    Failed,
    TimedOut,
    DeadLettered,
    Reprocessed,
    Acked,
    Expired,
    Purged,
}

#[derive(Serialize, ToSchema)]
pub(super) struct Purged {
    purged: u64,
}

#[derive(Serialize, ToSchema)]
pub(super) struct Deleted {
    deleted: bool,
    purged: u64,
}

/// What is paused now.
#[derive(Serialize, ToSchema)]
pub(super) struct PausedNow {
    #[schema(required = true)]
    paused: Option<PausedWhat>,
}

/// Dead letters by their reasons.
#[derive(Serialize, ToSchema)]
pub(super) struct Clusters {
    dlq: u64,
    clusters: Vec<Cluster>,
}

#[derive(Serialize, ToSchema)]
pub(super) struct Cluster {
    /// null = all beyond the first 100 reasons.
    #[schema(required = true)]
    reason: Option<String>,
    count: u64,
    oldest_at: String,
    newest_at: String,
    sample: Vec<String>,
}

/// A reprocessing has begun, or was only counted.
#[derive(Serialize, ToSchema)]
pub(super) struct Begun {
    /// null = a dry run.
    #[schema(required = true)]
    task_id: Option<String>,
    matched: u64,
}

/// The newest 16, newest first.
#[derive(Serialize, ToSchema)]
pub(super) struct Tasks {
    tasks: Vec<Task>,
}

#[derive(Serialize, ToSchema)]
pub(super) struct Task {
    task_id: String,
    state: TaskState,
    matched: u64,
    moved: u64,
    returned: u64,
    #[schema(nullable = false)]
    limit: Option<u64>,
    #[schema(nullable = false)]
    rate_per_s: Option<u32>,
    stop_if_returned: f64,
    started_at: String,
    #[schema(nullable = false)]
    ended_at: Option<String>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum TaskState {
    Running,
    Done,
    Cancelled,
    Stopped,
    Failed,
}

/// A dead letter was sent again, as a new message.
#[derive(Serialize, ToSchema)]
pub(super) struct Resent {
    msg_id: String,
    source_msg_id: String,
    duplicate: bool,
    removed: bool,
    payload_hash: String,
    durability: Durability,
    corr_id: String,
}

#[derive(Serialize, ToSchema)]
pub(super) struct SubscribersInForce {
    version: u64,
    count: u64,
}

#[derive(Serialize, ToSchema)]
pub(super) struct SubscribersPage {
    version: u64,
    count: u64,
    subscribers: Vec<Listed>,
    #[schema(required = true)]
    cursor: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub(super) struct Listed {
    topic: String,
    filter: ListedFilter,
    /// Messages it has not got yet.
    lag: u64,
}

#[derive(Serialize, ToSchema)]
pub(super) struct ListedFilter {
    attr: BTreeMap<String, String>,
}

/// A webhook is verified and stored, or in shadow mode only judged; some schemes name another answer.
#[derive(Serialize, ToSchema)]
pub(super) struct Accepted {
    accepted: bool,
    /// If it is stored.
    #[schema(pattern = "^[0-9A-HJKMNP-TV-Z]{26}$")]
    msg_id: Option<String>,
    /// The provider sent it before.
    duplicate: Option<bool>,
    /// `true`: it was judged for the record only, and is not stored.
    shadow: Option<bool>,
    corr_id: String,
}

#[derive(Serialize, ToSchema)]
pub(super) struct Version {
    name: String,
    version: String,
    /// `macronode` or `micronode`.
    profile: String,
}

/// What an operation gave. A refused field is null in `data`.
#[derive(Serialize, ToSchema)]
pub(super) struct GraphqlAnswer {
    #[schema(value_type = Object)]
    data: String,
    #[schema(required = false)]
    errors: Vec<GraphqlError>,
}

#[derive(Serialize, ToSchema)]
pub(super) struct GraphqlError {
    message: String,
    #[schema(value_type = Vec<Object>)]
    locations: Vec<String>,
    /// Which field.
    #[schema(value_type = Vec<Value>)]
    path: Vec<String>,
    extensions: GraphqlReason,
}

#[derive(Serialize, ToSchema)]
pub(super) struct GraphqlReason {
    #[schema(value_type = crate::http::openapi::schemas::ReasonCode)]
    reason: String,
    /// `none` or `unknown`.
    effect: String,
    corr_id: String,
    #[schema(nullable = false)]
    retry_after_ms: Option<u64>,
}
