//! Bodies of the calls on dead letters.

use super::list::{Attrs, List};
use super::within;
use crate::http::draft::{Draft, FieldNames, malformed};
use bytes::Bytes;
use ron_core::ids::{ContentHash, CorrId, MessageId};
use ron_core::message::{NewMessage, PAYLOAD_BYTES_MAX, StoredMessage};
use ron_core::reason::{Reason, Refusal};
use ron_core::reprocess::{self, DeadFilter, STOP_PERMILLE};
use serde::Deserialize;
use utoipa::ToSchema;

const RATE_MAX: u64 = 100_000;
const REASON_CHARS_MAX: usize = 256;

/// Which dead letters are meant: all that is given must hold.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = DeadFilter)]
pub(in crate::http) struct FilterRequest {
    /// Why it was dead-lettered.
    #[schema(max_length = 256)]
    reason: Option<String>,
    /// It has all of these.
    #[schema(inline)]
    attr: Option<Attrs>,
    /// It was dead-lettered at least so long ago.
    #[schema(minimum = 0, format = "uint64")]
    older_than_ms: Option<u64>,
    /// It is one of these messages.
    #[schema(value_type = Option<Vec<String>>, min_items = 1, max_items = 256)]
    ids: Option<List<String>>,
}

impl FilterRequest {
    /// The filter, still without what its ids lead to.
    pub(in crate::http) fn check(self) -> Result<(DeadFilter, Option<Vec<MessageId>>), Refusal> {
        if self.reason.as_ref().is_some_and(|reason| reason.chars().count() > REASON_CHARS_MAX) {
            return Err(malformed("filter.reason must be at most 256 characters"));
        }
        let parse = |id: &String| MessageId::parse(id).map_err(|bad| malformed(format!("filter.ids: {bad}")));
        let ids = self.ids.map(|ids| ids.0.iter().map(parse).collect::<Result<Vec<_>, _>>()).transpose()?;
        let attrs = self.attr.unwrap_or_default().0;
        let filter =
            DeadFilter { reason: self.reason, attrs, older_than_ms: self.older_than_ms, slots: None };
        Ok((filter, ids))
    }
}

/// Body of POST /dlq/purge. The filter must be there: `{}` means all.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct PurgeDeadRequest {
    pub(in crate::http) filter: FilterRequest,
}

/// Body of POST /dlq/reprocess.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct ReprocessRequest {
    filter: Option<FilterRequest>,
    /// Most messages to move.
    #[schema(minimum = 1, format = "uint64")]
    limit: Option<u64>,
    /// Most messages a second.
    #[schema(minimum = 1, maximum = 100_000)]
    rate_per_s: Option<u64>,
    /// Counts only.
    #[schema(default = false)]
    dry_run: Option<bool>,
    /// Stops when this share of what was moved is dead again; judged after 20.
    #[schema(minimum = 0, maximum = 1)]
    stop_if_returned: Option<f64>,
}

/// What a reprocessing is to do.
#[derive(Debug)]
pub(in crate::http) struct Wanted {
    pub(in crate::http) draft: reprocess::Draft,
    pub(in crate::http) ids: Option<Vec<MessageId>>,
    pub(in crate::http) dry_run: bool,
}

impl ReprocessRequest {
    pub(in crate::http) fn check(self) -> Result<Wanted, Refusal> {
        let (filter, ids) = self.filter.unwrap_or_default().check()?;
        let limit = self.limit.map(|limit| within("limit", limit, &(1..=u64::MAX))).transpose()?;
        let rate = self.rate_per_s.map(|rate| within("rate_per_s", rate, &(1..=RATE_MAX))).transpose()?;
        let stop_permille = match self.stop_if_returned {
            None => STOP_PERMILLE,
            Some(share) if (0.0..=1.0).contains(&share) => (share * 1_000.0).round() as u32,
            Some(_) => return Err(malformed("stop_if_returned must be 0 to 1")),
        };
        let rate_per_s = rate.map(|rate| rate as u32);
        let draft = reprocess::Draft { filter, limit, rate_per_s, stop_permille };
        Ok(Wanted { draft, ids, dry_run: self.dry_run.unwrap_or(false) })
    }
}

/// Body of POST /dlq/resend: what is not given is as in the dead letter.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct ResendRequest {
    /// The dead letter.
    msg_id: String,
    /// Instead of its payload, as text.
    payload: Option<String>,
    /// Instead of its payload, in base64.
    payload_b64: Option<String>,
    /// Instead of its own.
    #[schema(max_length = 1024)]
    content_type: Option<String>,
    /// Instead of its own.
    #[schema(inline)]
    attrs: Option<Attrs>,
    /// Not with `remove`.
    #[schema(min_length = 1, max_length = 256, pattern = "^[!-~]{1,256}$")]
    idempotency_key: Option<String>,
    /// Handed out so much later.
    #[schema(minimum = 0, maximum = 2_592_000_000u64)]
    delay_ms: Option<u64>,
    /// Not handed out after so long.
    #[schema(minimum = 100, maximum = 2_592_000_000u64)]
    ttl_ms: Option<u64>,
    /// The dead letter goes in the same commit.
    #[schema(default = false)]
    remove: Option<bool>,
}

impl ResendRequest {
    /// Which dead letter, and whether it is to end.
    pub(in crate::http) fn check(&self) -> Result<(MessageId, bool), Refusal> {
        let id = MessageId::parse(&self.msg_id).map_err(|bad| malformed(bad.to_string()))?;
        let remove = self.remove.unwrap_or(false);
        if remove && self.idempotency_key.is_some() {
            return Err(malformed("idempotency_key: not with remove, which can happen only once"));
        }
        Ok((id, remove))
    }

    /// The message that is sent instead of `original`; `None` = its record is damaged.
    pub(in crate::http) fn into_message(
        self,
        original: Option<StoredMessage>,
        corr: &CorrId,
    ) -> Result<NewMessage, Refusal> {
        let given = match (self.payload, self.payload_b64) {
            (None, None) => None,
            (Some(text), None) => Some(Bytes::from(text)),
            (None, Some(text)) => {
                let bytes = data_encoding::BASE64.decode(text.as_bytes());
                Some(bytes.map_err(|_| malformed("payload_b64 must be base64 with padding"))?.into())
            }
            (Some(_), Some(_)) => return Err(malformed("give at most one of payload and payload_b64")),
        };
        let body_ref = original.as_ref().filter(|_| given.is_none()).and_then(|was| was.meta.body_ref);
        let (was, meta) = match original {
            Some(message) => (Some(message.payload), message.meta),
            None => (None, ron_core::message::MessageMeta::default()),
        };
        let damaged = || malformed("the dead letter's record is damaged: give payload or payload_b64");
        let payload = given.or(was).ok_or_else(damaged)?;
        if payload.len() > PAYLOAD_BYTES_MAX {
            return Err(Refusal::new(Reason::BodyLimit, "a payload may have 1 MiB"));
        }
        let known = Some(meta.content_type).filter(|content_type| !content_type.is_empty());
        let draft = Draft {
            content_type: self.content_type.or(known),
            idempotency_key: self.idempotency_key,
            delay_ms: self.delay_ms.unwrap_or(0),
            ttl_ms: self.ttl_ms,
            payload_hash: None,
            body_ref,
            attrs: self.attrs.map_or(meta.attrs, |attrs| attrs.0),
        };
        draft.check(FieldNames::BODY)?;
        let hash = ContentHash::of(&payload);
        let mut message = draft.into_message(payload, hash, corr.as_str().to_owned());
        message.meta.source_msg_id = Some(self.msg_id);
        Ok(message)
    }
}
