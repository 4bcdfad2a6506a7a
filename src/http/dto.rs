//! JSON bodies and query strings: strict, bounded, and refused with the place and the expected type but
//! never with the value that was sent (SPEC §3).

use crate::http::draft::{Draft, FieldNames, malformed};
use crate::http::mailbox::Durability;
use bytes::Bytes;
use ron_actors::mailbox::api::Settle;
use ron_core::ids::Topic;
use ron_core::reason::{Reason, Refusal};
use ron_core::shard::{NackMode, Paused, PeekState, SettingsPatch, Want};
use serde::de::{DeserializeOwned, Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

mod dlq;
mod subscribers;

pub(super) use dlq::{PurgeDeadRequest, ReprocessRequest, ResendRequest, Wanted};
pub(super) use subscribers::{SubscribersQuery, SubscribersRequest};

/// Most entries of a list in a request.
const LIST_MAX: usize = 256;
const RECV_BYTES_DEFAULT: u64 = 4 * 1024 * 1024;
const RECV_BYTES_MAX: u64 = 16 * 1024 * 1024;
const STREAM_INFLIGHT_DEFAULT: u64 = 32;
/// Payload bytes that a stream takes out of the store at once, whatever more it is allowed: what a consumer reads
/// slowly waits in memory.
const STREAM_BYTES_MAX: u64 = 1024 * 1024;
const VISIBILITY_MS: std::ops::RangeInclusive<u64> = 250..=43_200_000;
const WAIT_MS_MAX: u64 = 20_000;
const NOTE_CHARS_MAX: usize = 256;

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

/// A list of at most [`LIST_MAX`] entries; the bound holds while reading, so that many tiny entries cannot
/// swell.
#[derive(Debug, Default)]
pub(super) struct List<T>(pub(super) Vec<T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Entries<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Entries<T> {
            type Value = List<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<List<T>, A::Error> {
                let mut list = Vec::new();
                while let Some(entry) = seq.next_element()? {
                    if list.len() == LIST_MAX {
                        return Err(A::Error::custom("must have at most 256 entries"));
                    }
                    list.push(entry);
                }
                if list.is_empty() {
                    return Err(A::Error::custom("must have at least one entry"));
                }
                Ok(List(list))
            }
        }

        from.deserialize_seq(Entries(PhantomData))
    }
}

/// Attributes of a batch item: an object of texts, in the order sent, no name twice.
#[derive(Debug, Default)]
struct Attrs(Vec<(String, String)>);

impl<'de> Deserialize<'de> for Attrs {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Pairs;

        impl<'de> Visitor<'de> for Pairs {
            type Value = Attrs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of texts")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Attrs, A::Error> {
                let mut pairs: Vec<(String, String)> = Vec::new();
                while let Some((name, value)) = map.next_entry::<String, String>()? {
                    if pairs.iter().any(|(known, _)| *known == name) {
                        return Err(A::Error::custom("must not have a name twice"));
                    }
                    if pairs.len() == LIST_MAX {
                        return Err(A::Error::custom("must have at most 16 attributes"));
                    }
                    pairs.push((name, value));
                }
                Ok(Attrs(pairs))
            }
        }

        from.deserialize_map(Pairs)
    }
}

/// Body of POST /enqueue/batch.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BatchRequest {
    pub(super) messages: List<BatchItem>,
}

/// One message of a batch.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BatchItem {
    payload: Option<String>,
    payload_b64: Option<String>,
    content_type: Option<String>,
    idempotency_key: Option<String>,
    delay_ms: Option<u64>,
    ttl_ms: Option<u64>,
    attrs: Option<Attrs>,
}

impl BatchItem {
    /// The message's bytes and what is said about it.
    ///
    /// # Errors
    /// MALFORMED or BODY_LIMIT, for this item alone.
    pub(super) fn into_draft(self) -> Result<(Bytes, Draft), Refusal> {
        let payload = match (self.payload, self.payload_b64) {
            (Some(text), None) => Bytes::from(text),
            (None, Some(text)) => data_encoding::BASE64
                .decode(text.as_bytes())
                .map(Bytes::from)
                .map_err(|_| malformed("payload_b64 must be base64 with padding"))?,
            _ => return Err(malformed("give exactly one of payload and payload_b64")),
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
            attrs: self.attrs.unwrap_or_default().0,
        };
        draft.check(FieldNames::BODY)?;
        Ok((payload, draft))
    }
}

/// Body of POST /recv.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RecvRequest {
    max_messages: Option<u64>,
    max_bytes: Option<u64>,
    visibility_ms: Option<u64>,
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
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct StreamRequest {
    max_messages: Option<u64>,
    max_bytes: Option<u64>,
    visibility_ms: Option<u64>,
    wait_ms: Option<u64>,
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

/// Body of POST /ack.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AckRequest {
    receipts: List<String>,
}

/// Body of POST /nack.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NackRequest {
    receipts: List<String>,
    #[serde(default)]
    mode: Mode,
    delay_ms: Option<u64>,
    reason: Option<String>,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Mode {
    #[default]
    Fail,
    Release,
    Reject,
}

/// Body of POST /extend.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ExtendRequest {
    receipts: List<String>,
    visibility_ms: u64,
}

/// Body of PUT /settings.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SettingsRequest {
    visibility_ms: Option<u64>,
    max_attempts: Option<u32>,
    max_deliveries: Option<u32>,
    backoff_base_ms: Option<u64>,
    backoff_max_ms: Option<u64>,
    retention_ms: Option<u64>,
    dlq_retention_ms: Option<u64>,
    dedup_window_ms: Option<u64>,
    max_dedup_keys: Option<u64>,
    max_depth: Option<u64>,
    durability: Option<DurabilityName>,
    fifo: Option<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
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
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PauseRequest {
    what: PauseWhat,
}

#[derive(Debug, Clone, Copy, Deserialize)]
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
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ConfirmRequest {
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

/// A body that settles deliveries.
pub(super) trait SettleRequest: DeserializeOwned {
    /// How, and which receipts.
    fn check(self) -> Result<(Settle, Vec<String>), Refusal>;
}

impl SettleRequest for AckRequest {
    fn check(self) -> Result<(Settle, Vec<String>), Refusal> {
        Ok((Settle::Ack, self.receipts.0))
    }
}

impl SettleRequest for NackRequest {
    fn check(self) -> Result<(Settle, Vec<String>), Refusal> {
        let mode = match self.mode {
            Mode::Fail => NackMode::Fail,
            Mode::Release => NackMode::Release,
            Mode::Reject => NackMode::Reject,
        };
        Ok((nack(mode, self.delay_ms, self.reason)?, self.receipts.0))
    }
}

/// A nack as asked for, if it may be.
///
/// # Errors
/// MALFORMED, naming the field.
pub(crate) fn nack(mode: NackMode, delay_ms: Option<u64>, note: Option<String>) -> Result<Settle, Refusal> {
    if let Some(ms) = delay_ms {
        if mode == NackMode::Reject {
            return Err(malformed("delay_ms goes with mode fail or release, not with reject"));
        }
        within("delay_ms", ms, &(0..=crate::http::draft::DELAY_MS_MAX))?;
    }
    if note.as_ref().is_some_and(|note| note.chars().count() > NOTE_CHARS_MAX) {
        return Err(malformed("reason must be at most 256 characters"));
    }
    Ok(Settle::Nack { mode, delay_ms, note })
}

/// An extend by so much from now, if it may be.
///
/// # Errors
/// MALFORMED.
pub(crate) fn extend(visibility_ms: u64) -> Result<Settle, Refusal> {
    Ok(Settle::Extend { visibility_ms: within("visibility_ms", visibility_ms, &VISIBILITY_MS)? })
}

impl SettleRequest for ExtendRequest {
    fn check(self) -> Result<(Settle, Vec<String>), Refusal> {
        Ok((extend(self.visibility_ms)?, self.receipts.0))
    }
}

/// Query of GET /peek.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PeekQuery {
    state: Option<String>,
    limit: Option<u32>,
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
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TopicsQuery {
    pub(super) cursor: Option<String>,
}

/// Reads a query string; unknown and repeated names are refused.
pub(super) fn query<T: DeserializeOwned>(uri: &http::Uri) -> Result<T, Refusal> {
    let refused = |_| malformed("the query has an unknown, repeated or unreadable parameter");
    axum::extract::Query::try_from_uri(uri).map(|axum::extract::Query(value)| value).map_err(refused)
}

#[cfg(test)]
mod tests;
