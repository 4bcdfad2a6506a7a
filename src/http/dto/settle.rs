//! Bodies that settle deliveries.

use super::list::List;
use super::{VISIBILITY_MS, within};
use crate::http::draft::malformed;
use ron_actors::mailbox::api::Settle;
use ron_core::reason::Refusal;
use ron_core::shard::NackMode;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use utoipa::ToSchema;

const NOTE_CHARS_MAX: usize = 256;

/// Body of POST /ack.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct AckRequest {
    /// As received; at most 200 characters each.
    #[schema(value_type = Vec<String>, min_items = 1, max_items = 256)]
    receipts: List<String>,
}

/// Body of POST /nack.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct NackRequest {
    /// As received; at most 200 characters each.
    #[schema(value_type = Vec<String>, min_items = 1, max_items = 256)]
    receipts: List<String>,
    /// `fail` counts the attempt, `release` gives it back, `reject` dead-letters at once.
    #[serde(default)]
    mode: Mode,
    /// Handed out again so much later; not with `reject`.
    #[schema(minimum = 0, maximum = 2_592_000_000u64)]
    delay_ms: Option<u64>,
    /// Why; kept with the message.
    #[schema(max_length = 256)]
    reason: Option<String>,
}

#[derive(Debug, Clone, Copy, Default, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = NackMode)]
enum Mode {
    #[default]
    Fail,
    Release,
    Reject,
}

/// Body of POST /extend.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct ExtendRequest {
    /// As received; at most 200 characters each.
    #[schema(value_type = Vec<String>, min_items = 1, max_items = 256)]
    receipts: List<String>,
    /// The lease ends so long after now.
    #[schema(minimum = 250, maximum = 43_200_000)]
    visibility_ms: u64,
}

/// A body that settles deliveries.
pub(in crate::http) trait SettleRequest: DeserializeOwned {
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
