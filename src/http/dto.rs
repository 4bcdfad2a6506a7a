//! JSON bodies and query strings: strict, bounded, and refused with the place and the expected type but
//! never with the value that was sent (SPEC §3).

use crate::http::draft::{Draft, FieldNames, malformed};
use crate::http::mailbox::Durability;
use bytes::Bytes;
use ron_core::ids::{ContentHash, Topic};
use ron_core::reason::{Reason, Refusal};
use ron_core::shard::{Paused, PeekState, SettingsPatch, Want};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::time::Duration;
use utoipa::{IntoParams, ToSchema};

mod dlq;
mod list;
mod settle;
mod subscribers;

pub(super) use dlq::{PurgeDeadRequest, ReprocessRequest, ResendRequest, Wanted};
pub(super) use list::List;
use list::{Attrs, LIST_MAX};
pub(super) use settle::{AckRequest, ExtendRequest, NackRequest, SettleRequest};
pub(crate) use settle::{extend, nack};
pub(super) use subscribers::{SubscribersQuery, SubscribersRequest};

const RECV_BYTES_DEFAULT: u64 = 4 * 1024 * 1024;
const RECV_BYTES_MAX: u64 = 16 * 1024 * 1024;
const STREAM_INFLIGHT_DEFAULT: u64 = 32;
/// Payload bytes that a stream takes out of the store at once, whatever more it is allowed: what a consumer reads
/// slowly waits in memory.
const STREAM_BYTES_MAX: u64 = 1024 * 1024;
const VISIBILITY_MS: std::ops::RangeInclusive<u64> = 250..=43_200_000;
const WAIT_MS_MAX: u64 = 20_000;

/// Reads a JSON body.
///
/// # Errors
/// MALFORMED with path, position and expected type.
pub(super) fn json<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(body).map_err(|error| {
        let reader = &mut serde_json::Deserializer::from_slice(body);
        let path = serde_path_to_error::deserialize::<_, T>(reader).err().map(|e| e.path().to_string());
        malformed(format!("JSON body: {}", describe(&error, path.as_deref())))
    })
}

/// As [`json`], and an empty body is the default.
pub(super) fn json_or_default<T: DeserializeOwned + Default>(body: &[u8]) -> Result<T, Refusal> {
    if body.is_empty() { Ok(T::default()) } else { json(body) }
}

/// An error without the value it is about: serde's texts quote what was sent.
fn describe(error: &serde_json::Error, path: Option<&str>) -> String {
    let text = error.to_string();
    let text = text.rsplit_once(" at line ").map_or(text.as_str(), |(text, _)| text);
    let what = if !error.is_data() {
        // syntax errors and early ends have fixed texts
        text.to_owned()
    } else if let Some(rest) = text.strip_prefix("unknown field `") {
        let name = rest.split('`').next().filter(|name| is_plain(name, 64)).unwrap_or("(unprintable)");
        format!("unknown field `{name}`")
    } else if ["missing field `", "duplicate field `", "must "].iter().any(|fixed| text.starts_with(fixed)) {
        text.to_owned()
    } else if let Some((_, expected)) = text.rsplit_once(", expected ") {
        format!("expected {expected}")
    } else {
        "not what is expected here".to_owned()
    };
    let at =
        path.filter(|path| *path != "." && is_plain(path, 128)).map_or(String::new(), |p| format!("{p}: "));
    format!("{at}{what} at line {} column {}", error.line(), error.column())
}

fn is_plain(text: &str, len_max: usize) -> bool {
    text.len() <= len_max && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.[]?".contains(&b))
}

/// Body of POST /enqueue/batch.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct BatchRequest {
    #[schema(value_type = Vec<BatchItem>, min_items = 1, max_items = 256)]
    pub(super) messages: List<BatchItem>,
}

/// One message of a batch.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct BatchItem {
    /// The message as text; give exactly one of `payload`, `payload_b64` and `body_ref`.
    payload: Option<String>,
    /// The message in base64 with padding.
    payload_b64: Option<String>,
    /// An object of the tenant that is the body, by its address; the payload is then empty.
    #[schema(pattern = "^b3:[0-9a-f]{64}$")]
    body_ref: Option<String>,
    /// `application/octet-stream` if absent.
    #[schema(max_length = 1024)]
    content_type: Option<String>,
    /// Makes a repeated send harmless within the topic's `dedup_window_ms`.
    #[schema(min_length = 1, max_length = 256, pattern = "^[!-~]{1,256}$")]
    idempotency_key: Option<String>,
    /// Handed out so much later; must be less than `ttl_ms`.
    #[schema(minimum = 0, maximum = 2_592_000_000u64)]
    delay_ms: Option<u64>,
    /// Not handed out after so long.
    #[schema(minimum = 100, maximum = 2_592_000_000u64)]
    ttl_ms: Option<u64>,
    #[schema(inline)]
    attrs: Option<Attrs>,
}

impl BatchItem {
    /// The message's bytes and what is said about it.
    ///
    /// # Errors
    /// MALFORMED or BODY_LIMIT, for this item alone.
    pub(super) fn into_draft(self) -> Result<(Bytes, Draft), Refusal> {
        let body_ref = self.body_ref.as_deref().map(ContentHash::parse).transpose();
        let body_ref =
            body_ref.map_err(|_| malformed("body_ref must be b3: and 64 lower-case hex digits"))?;
        let payload = match (self.payload, self.payload_b64, body_ref) {
            (Some(text), None, None) => Bytes::from(text),
            (None, Some(text), None) => data_encoding::BASE64
                .decode(text.as_bytes())
                .map(Bytes::from)
                .map_err(|_| malformed("payload_b64 must be base64 with padding"))?,
            (None, None, Some(_)) => Bytes::new(),
            _ => return Err(malformed("give exactly one of payload, payload_b64 and body_ref")),
        };
        if payload.len() > ron_core::message::PAYLOAD_BYTES_MAX {
            return Err(Refusal::new(Reason::BodyLimit, "a payload may have 1 MiB"));
        }
        let draft = Draft {
            content_type: self.content_type,
            idempotency_key: self.idempotency_key,
            delay_ms: self.delay_ms.unwrap_or(0),
            ttl_ms: self.ttl_ms,
            payload_hash: None,
            body_ref,
            attrs: self.attrs.unwrap_or_default().0,
        };
        draft.check(FieldNames::BODY)?;
        Ok((payload, draft))
    }
}

/// Body of POST /recv.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RecvRequest {
    /// Most messages of the answer.
    #[schema(minimum = 1, maximum = 256, default = 1)]
    max_messages: Option<u64>,
    /// Most payload bytes of the answer; at least one message comes whatever its size.
    #[schema(minimum = 1, maximum = 16_777_216, default = 4_194_304)]
    max_bytes: Option<u64>,
    /// How long the lease lasts; the topic's own if absent.
    #[schema(minimum = 250, maximum = 43_200_000)]
    visibility_ms: Option<u64>,
    /// How long to wait for the first message.
    #[schema(minimum = 0, maximum = 20_000, default = 0)]
    wait_ms: Option<u64>,
}

impl RecvRequest {
    /// The request of another protocol.
    pub(crate) const fn of(
        max_messages: u64,
        max_bytes: Option<u64>,
        visibility_ms: Option<u64>,
        wait_ms: u64,
    ) -> RecvRequest {
        RecvRequest { max_messages: Some(max_messages), max_bytes, visibility_ms, wait_ms: Some(wait_ms) }
    }

    /// What is wanted, and how long to wait for it.
    pub(crate) fn check(&self) -> Result<(Want, Duration), Refusal> {
        let max_messages = within("max_messages", self.max_messages.unwrap_or(1), &(1..=LIST_MAX as u64))?;
        let max_bytes =
            within("max_bytes", self.max_bytes.unwrap_or(RECV_BYTES_DEFAULT), &(1..=RECV_BYTES_MAX))?;
        let visibility_ms =
            self.visibility_ms.map(|ms| within("visibility_ms", ms, &VISIBILITY_MS)).transpose()?;
        let wait_ms = within("wait_ms", self.wait_ms.unwrap_or(0), &(0..=WAIT_MS_MAX))?;
        // at most 256, so it fits
        let want = Want { max_messages: max_messages as u32, max_bytes, visibility_ms };
        Ok((want, Duration::from_millis(wait_ms)))
    }
}

/// Body of POST /recv/stream.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct StreamRequest {
    /// Most messages taken out of the store at once.
    #[schema(minimum = 1, maximum = 256, default = 256)]
    max_messages: Option<u64>,
    /// Most payload bytes taken out of the store at once.
    #[schema(minimum = 1, maximum = 16_777_216, default = 1_048_576)]
    max_bytes: Option<u64>,
    /// How long each lease lasts; the topic's own if absent.
    #[schema(minimum = 250, maximum = 43_200_000)]
    visibility_ms: Option<u64>,
    /// Means nothing here: a stream always waits.
    #[schema(minimum = 0, maximum = 20_000)]
    wait_ms: Option<u64>,
    /// Deliveries of this stream that may be unsettled.
    #[schema(minimum = 1, maximum = 256, default = 32)]
    max_inflight: Option<u64>,
}

impl StreamRequest {
    /// The request of another protocol.
    pub(crate) fn of(max_inflight: u64, visibility_ms: Option<u64>) -> StreamRequest {
        StreamRequest { max_inflight: Some(max_inflight), visibility_ms, ..StreamRequest::default() }
    }

    /// What is wanted at once, and how many deliveries the consumer holds unsettled. A stream always waits, whatever
    /// `wait_ms` says.
    pub(crate) fn check(&self) -> Result<(Want, u32), Refusal> {
        let max_inflight = self.max_inflight.unwrap_or(STREAM_INFLIGHT_DEFAULT);
        let max_inflight = within("max_inflight", max_inflight, &(1..=LIST_MAX as u64))?;
        let (max_messages, max_bytes) = (self.max_messages.or(Some(LIST_MAX as u64)), self.max_bytes);
        let (visibility_ms, wait_ms) = (self.visibility_ms, self.wait_ms);
        let (want, _) = RecvRequest { max_messages, max_bytes, visibility_ms, wait_ms }.check()?;
        let want = Want { max_bytes: want.max_bytes.min(STREAM_BYTES_MAX), ..want };
        // at most 256, so it fits
        Ok((want, max_inflight as u32))
    }
}

fn within(field: &str, n: u64, range: &std::ops::RangeInclusive<u64>) -> Result<u64, Refusal> {
    if range.contains(&n) {
        return Ok(n);
    }
    Err(malformed(format!("{field} must be {} to {}", range.start(), range.end())))
}

/// Body of PUT /settings.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SettingsRequest {
    #[schema(minimum = 250, maximum = 43_200_000)]
    visibility_ms: Option<u64>,
    #[schema(minimum = 1, maximum = 1_000)]
    max_attempts: Option<u32>,
    #[schema(minimum = 1, maximum = 1_000_000)]
    max_deliveries: Option<u32>,
    #[schema(minimum = 1, maximum = 86_400_000)]
    backoff_base_ms: Option<u64>,
    #[schema(minimum = 1, maximum = 2_592_000_000u64)]
    backoff_max_ms: Option<u64>,
    #[schema(minimum = 1_000, maximum = 315_360_000_000u64)]
    retention_ms: Option<u64>,
    #[schema(minimum = 1_000, maximum = 315_360_000_000u64)]
    dlq_retention_ms: Option<u64>,
    #[schema(minimum = 0, maximum = 2_592_000_000u64)]
    dedup_window_ms: Option<u64>,
    #[schema(minimum = 1, maximum = 100_000_000)]
    max_dedup_keys: Option<u64>,
    #[schema(minimum = 1, format = "uint64")]
    max_depth: Option<u64>,
    durability: Option<DurabilityName>,
    fifo: Option<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum DurabilityName {
    Fsync,
    Ram,
}

impl SettingsRequest {
    /// What is to be set. Ranges are the topic's own affair.
    pub(super) fn check(self, durability: Durability) -> Result<SettingsPatch, Refusal> {
        if (self.durability, durability) == (Some(DurabilityName::Fsync), Durability::Ram) {
            return Err(malformed("durability: fsync cannot be had in amnesia, which writes no file"));
        }
        Ok(SettingsPatch {
            visibility_ms: self.visibility_ms,
            max_attempts: self.max_attempts,
            max_deliveries: self.max_deliveries,
            backoff_base_ms: self.backoff_base_ms,
            backoff_max_ms: self.backoff_max_ms,
            retention_ms: self.retention_ms,
            dlq_retention_ms: self.dlq_retention_ms,
            dedup_window_ms: self.dedup_window_ms,
            max_dedup_keys: self.max_dedup_keys,
            max_depth: self.max_depth,
            fifo: self.fifo,
            ram: self.durability.map(|name| name == DurabilityName::Ram),
        })
    }
}

/// Body of POST /pause and /resume.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PauseRequest {
    what: PauseWhat,
}

#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum PauseWhat {
    Recv,
    Enqueue,
    Both,
}

impl PauseRequest {
    pub(super) fn what(&self) -> Paused {
        match self.what {
            PauseWhat::Recv => Paused { recv: true, enqueue: false },
            PauseWhat::Enqueue => Paused { recv: false, enqueue: true },
            PauseWhat::Both => Paused { recv: true, enqueue: true },
        }
    }
}

/// Body of a call that cannot be undone: it must name the topic.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ConfirmRequest {
    /// The topic's name, as in the path.
    confirm: String,
}

impl ConfirmRequest {
    pub(super) fn check(&self, topic: &Topic) -> Result<(), Refusal> {
        if self.confirm == topic.as_str() {
            return Ok(());
        }
        Err(malformed("confirm: must be the topic's name, as in the path"))
    }
}

/// Query of GET /peek.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct PeekQuery {
    /// Which messages; `ready` if absent.
    #[param(pattern = "^(ready|delayed|vis|dlq)$", nullable = false)]
    state: Option<String>,
    /// Most messages of the page; 20 if absent.
    #[param(minimum = 1, maximum = 100, nullable = false)]
    limit: Option<u32>,
    /// As the page before gave it.
    #[param(nullable = false)]
    pub(super) cursor: Option<String>,
}

impl PeekQuery {
    /// Which state, and how many.
    pub(super) fn check(&self) -> Result<(PeekState, u32), Refusal> {
        let state = match self.state.as_deref() {
            None | Some("ready") => PeekState::Ready,
            Some("delayed") => PeekState::Delayed,
            Some("vis") => PeekState::Vis,
            Some("dlq") => PeekState::Dlq,
            Some(_) => return Err(malformed("state must be ready, delayed, vis or dlq")),
        };
        let limit = self.limit.unwrap_or(20);
        within("limit", u64::from(limit), &(1..=100))?;
        Ok((state, limit))
    }
}

/// Query of GET /v1/{tenant}.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct TopicsQuery {
    /// As the page before gave it.
    #[param(nullable = false)]
    pub(super) cursor: Option<String>,
}

/// Reads a query string; unknown and repeated names are refused.
pub(super) fn query<T: DeserializeOwned>(uri: &http::Uri) -> Result<T, Refusal> {
    let refused = |_| malformed("the query has an unknown, repeated or unreadable parameter");
    axum::extract::Query::try_from_uri(uri).map(|axum::extract::Query(value)| value).map_err(refused)
}

#[cfg(test)]
mod tests;
