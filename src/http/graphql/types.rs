//! What GraphQL shows and takes: the members of the JSON API, under the same names.

use async_graphql::{
    Enum, InputObject, InputValueError, InputValueResult, Scalar, ScalarType, SimpleObject, Value,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A whole number from 0 to 2^53 - 1; `Int` has 32 bits, too few for times in ms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Long(pub(super) u64);

const LONG_MAX: u64 = (1 << 53) - 1;

/// A whole number from 0 to 2^53 - 1.
#[Scalar(name = "Long")]
impl ScalarType for Long {
    fn parse(value: Value) -> InputValueResult<Long> {
        match &value {
            Value::Number(number) => match number.as_u64() {
                Some(n) if n <= LONG_MAX => Ok(Long(n)),
                _ => Err(InputValueError::custom("expected a whole number, 0 to 9007199254740991")),
            },
            _ => Err(InputValueError::custom("expected a whole number, 0 to 9007199254740991")),
        }
    }

    fn to_value(&self) -> Value {
        Value::from(self.0)
    }
}

/// A message to send. Exactly one of `payload`, `payload_b64` and `body_ref`.
#[derive(Debug, InputObject, Serialize)]
#[graphql(rename_fields = "snake_case")]
pub(super) struct MessageInput {
    /// The message as text.
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<String>,
    /// The message in base64 with padding.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[graphql(name = "payload_b64")]
    payload_b64: Option<String>,
    /// An object of the tenant that is the body, by its address.
    #[serde(skip_serializing_if = "Option::is_none")]
    body_ref: Option<String>,
    /// `application/octet-stream` if absent.
    content_type: Option<String>,
    /// Makes a repeat harmless within the topic's `dedup_window_ms`.
    idempotency_key: Option<String>,
    /// Handed out so much later.
    delay_ms: Option<Long>,
    /// Not handed out after so long.
    ttl_ms: Option<Long>,
    /// At most 16 texts by name.
    attrs: Option<BTreeMap<String, String>>,
}

/// What becomes of a message that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum, Serialize)]
#[graphql(rename_items = "lowercase")]
#[serde(rename_all = "lowercase")]
pub(super) enum NackMode {
    /// The attempt counts.
    Fail,
    /// The attempt is given back.
    Release,
    /// It is dead-lettered.
    Reject,
}

/// Which messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum, Serialize)]
#[graphql(rename_items = "lowercase")]
#[serde(rename_all = "lowercase")]
pub(super) enum PeekState {
    /// To be handed out.
    Ready,
    /// Later.
    Delayed,
    /// In flight.
    Vis,
    /// Dead letters.
    Dlq,
}

/// Which dead letters: all that is given must hold.
#[derive(Debug, InputObject, Serialize)]
#[graphql(rename_fields = "snake_case")]
pub(super) struct DeadFilter {
    /// Why it was dead-lettered.
    reason: Option<String>,
    /// It has all of these.
    attr: Option<BTreeMap<String, String>>,
    /// It was dead-lettered at least so long ago.
    older_than_ms: Option<Long>,
    /// It is one of these messages.
    ids: Option<Vec<String>>,
}

/// A message is stored.
#[derive(Debug, SimpleObject, Deserialize)]
#[graphql(rename_fields = "snake_case")]
pub(super) struct Enqueued {
    msg_id: String,
    duplicate: bool,
    payload_hash: String,
    durability: String,
}

/// One of several messages: stored, or why not.
#[derive(Debug, SimpleObject, Deserialize)]
#[graphql(rename_fields = "snake_case")]
pub(super) struct BatchResult {
    msg_id: Option<String>,
    duplicate: Option<bool>,
    payload_hash: Option<String>,
    durability: Option<String>,
    pub(super) error: Option<String>,
    pub(super) reason: Option<String>,
}

impl BatchResult {
    /// What is stored; `None` = nothing.
    pub(super) fn stored(self) -> Option<Enqueued> {
        Some(Enqueued {
            msg_id: self.msg_id?,
            duplicate: self.duplicate?,
            payload_hash: self.payload_hash?,
            durability: self.durability?,
        })
    }
}

/// One result a message, in order.
#[derive(Debug, SimpleObject, Deserialize)]
pub(super) struct BatchAnswer {
    pub(super) results: Vec<BatchResult>,
}

/// Messages that are leased to the caller.
#[derive(Debug, SimpleObject, Deserialize)]
pub(super) struct Received {
    messages: Vec<Envelope>,
}

/// A page of messages.
#[derive(Debug, SimpleObject, Deserialize)]
pub(super) struct Peeked {
    messages: Vec<Envelope>,
    cursor: Option<String>,
}

/// A message as a consumer gets it.
#[derive(Debug, SimpleObject, Deserialize)]
#[graphql(rename_fields = "snake_case")]
pub(super) struct Envelope {
    msg_id: String,
    /// Not in peek.
    receipt: Option<String>,
    tenant: String,
    topic: String,
    enqueued_at: String,
    attempt: u32,
    delivery: u32,
    idempotency_key: Option<String>,
    content_type: String,
    attrs: BTreeMap<String, String>,
    payload_hash: String,
    payload: Option<String>,
    #[graphql(name = "payload_b64")]
    payload_b64: Option<String>,
    body_ref: Option<String>,
    corr_id: String,
    deadline: Option<String>,
    source_msg_id: Option<String>,
    dead_letter: Option<DeadLetter>,
    restored_at: Option<String>,
}

/// Why and when a message was dead-lettered.
#[derive(Debug, SimpleObject, Deserialize)]
#[graphql(rename_fields = "snake_case")]
pub(super) struct DeadLetter {
    reason: String,
    attempts: u32,
    last_error: Option<String>,
    at: String,
}

/// One result a receipt, in order.
#[derive(Debug, SimpleObject, Deserialize)]
pub(super) struct Settled {
    results: Vec<SettleResult>,
}

/// `reason` is there when `ok` is false.
#[derive(Debug, SimpleObject, Deserialize)]
pub(super) struct SettleResult {
    ok: bool,
    reason: Option<String>,
}

/// A topic's figures.
#[derive(Debug, SimpleObject, Deserialize)]
#[graphql(rename_fields = "snake_case")]
pub(super) struct TopicStat {
    ready: Long,
    delayed: Long,
    vis: Long,
    dlq: Long,
    oldest_age_ms: Long,
    dedup_keys: Long,
    waiters: Long,
    /// recv, enqueue or both.
    paused: Option<String>,
    settings: Settings,
}

/// The settings in force.
#[derive(Debug, SimpleObject, Deserialize)]
#[graphql(rename_fields = "snake_case")]
pub(super) struct Settings {
    visibility_ms: Long,
    max_attempts: u32,
    max_deliveries: u32,
    backoff_base_ms: Long,
    backoff_max_ms: Long,
    retention_ms: Long,
    dlq_retention_ms: Long,
    dedup_window_ms: Long,
    max_dedup_keys: Long,
    durability: String,
    max_depth: Option<Long>,
    fifo: bool,
}

/// What is known of one message.
#[derive(Debug, SimpleObject, Deserialize)]
#[graphql(rename_fields = "snake_case")]
pub(super) struct MessageHistory {
    msg_id: String,
    state: String,
    attempts: u32,
    last_error: Option<String>,
    history: Vec<Event>,
    truncated: bool,
}

/// Something that happened to a message.
#[derive(Debug, SimpleObject, Deserialize)]
pub(super) struct Event {
    event: String,
    at: String,
    attempt: u32,
    reason: Option<String>,
}

/// A redrive has begun, or was only counted.
#[derive(Debug, SimpleObject, Deserialize)]
#[graphql(rename_fields = "snake_case")]
pub(super) struct Begun {
    task_id: Option<String>,
    matched: Long,
}
