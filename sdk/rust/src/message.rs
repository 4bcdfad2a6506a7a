//! What is sent, what comes back, and what is handed out.

use bytes::Bytes;
use ron_core::ids::{ContentHash, MessageId};
use ron_core::receipt::Receipt;
use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

/// A message to be sent. Limits (SPEC §4): payload 1 MiB (over OAP/1 with all else in a frame of 1 MiB), key 1 to 256
/// printable ASCII characters, delay up to 30 days, 16 attributes of 4 KiB together. What is out of range the node
/// refuses with MALFORMED.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Message {
    pub(crate) payload: Bytes,
    pub(crate) content_type: Option<String>,
    pub(crate) idempotency_key: Option<String>,
    pub(crate) delay_ms: u64,
    pub(crate) ttl_ms: Option<u64>,
    pub(crate) attrs: Vec<(String, String)>,
    pub(crate) body_ref: Option<ContentHash>,
}

impl Message {
    /// A message of these bytes.
    #[must_use]
    pub fn new(payload: impl Into<Bytes>) -> Message {
        Message { payload: payload.into(), ..Message::default() }
    }

    /// A message whose body is an object of the tenant's: see [`Client::put`](crate::Client::put).
    #[must_use]
    pub fn of_object(address: ContentHash) -> Message {
        Message { body_ref: Some(address), ..Message::default() }
    }

    /// What the bytes are; without it `application/octet-stream`.
    #[must_use]
    pub fn content_type(mut self, content_type: impl Into<String>) -> Message {
        self.content_type = Some(content_type.into());
        self
    }

    /// The idempotency key: the same key with the same payload is one message. With a key a send is repeated by itself
    /// after a broken connection.
    #[must_use]
    pub fn key(mut self, key: impl Into<String>) -> Message {
        self.idempotency_key = Some(key.into());
        self
    }

    /// Handed out only after this time; whole ms.
    #[must_use]
    pub fn delay(mut self, delay: Duration) -> Message {
        self.delay_ms = whole_ms(delay);
        self
    }

    /// Ends if it has not been handed out within this time; whole ms.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Message {
        self.ttl_ms = Some(whole_ms(ttl));
        self
    }

    /// An attribute; its name in lower case.
    #[must_use]
    pub fn attr(mut self, name: impl Into<String>, value: impl Into<String>) -> Message {
        self.attrs.push((name.into(), value.into()));
        self
    }
}

impl fmt::Debug for Message {
    /// Without payload and attributes, which are nobody's business in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message").field("bytes", &self.payload.len()).finish_non_exhaustive()
    }
}

/// How safe a message was when its send was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// In memory.
    Ram,
    /// Synced to disk.
    Fsync,
}

/// A message that is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sent {
    /// Its id.
    pub msg_id: MessageId,
    /// Whether it was there already, under the same key: this client's own repetition, or an earlier send.
    pub duplicate: bool,
    /// As safe as this.
    pub durability: Durability,
}

/// A message that was handed out, until its lease ends.
#[derive(Clone, PartialEq, Eq)]
pub struct Delivery {
    /// Its id.
    pub msg_id: MessageId,
    /// Names this delivery.
    pub receipt: Receipt,
    /// When it was enqueued, Unix ms of the node's time.
    pub enqueued_ms: u64,
    /// When the lease ends if it is not extended, Unix ms of the node's time.
    pub deadline_ms: u64,
    /// Hand-outs that count.
    pub attempt: u32,
    /// All hand-outs.
    pub delivery: u32,
    /// The sender's key.
    pub idempotency_key: Option<String>,
    /// As sent.
    pub content_type: String,
    /// Attributes.
    pub attrs: Vec<(String, String)>,
    /// The bytes.
    pub payload: Bytes,
    /// The enqueueing request's correlation id.
    pub corr_id: String,
    /// The message that this one is a copy of, or was made from.
    pub source_msg_id: Option<String>,
    /// When the store was last restored from a snapshot with it, Unix ms.
    pub restored_ms: Option<u64>,
    /// The object that is its body (`GET /o/{address}` of the node's public port); its payload is then empty.
    pub body_ref: Option<ContentHash>,
}

impl Delivery {
    /// An attribute's value.
    #[must_use]
    pub fn attr(&self, name: &str) -> Option<&str> {
        self.attrs.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

impl fmt::Debug for Delivery {
    /// Without payload and attributes, which are nobody's business in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery")
            .field("msg_id", &self.msg_id.to_string())
            .field("attempt", &self.attempt)
            .field("bytes", &self.payload.len())
            .finish_non_exhaustive()
    }
}

/// How many messages a receive asks for, for how long, and how long it waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Want {
    pub(crate) max_messages: u32,
    pub(crate) max_bytes: Option<u64>,
    pub(crate) visibility_ms: Option<u64>,
    pub(crate) wait_ms: u64,
}

impl Want {
    /// Up to that many messages (1 to 256), without waiting.
    #[must_use]
    pub fn up_to(max_messages: u32) -> Want {
        Want { max_messages, max_bytes: None, visibility_ms: None, wait_ms: 0 }
    }

    /// Waits that long for the first; at most 20 s, whole ms.
    #[must_use]
    pub fn wait(mut self, wait: Duration) -> Want {
        self.wait_ms = whole_ms(wait);
        self
    }

    /// The lease: 250 ms to 12 h, whole ms. Without it the topic's.
    #[must_use]
    pub fn visibility(mut self, visibility: Duration) -> Want {
        self.visibility_ms = Some(whole_ms(visibility));
        self
    }

    /// Payload bytes in all, at most; one message comes whatever its size. Without it 4 MiB.
    #[must_use]
    pub fn max_bytes(mut self, max_bytes: u64) -> Want {
        self.max_bytes = Some(max_bytes);
        self
    }
}

/// How a delivery is given back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nack {
    pub(crate) mode: Mode,
    pub(crate) delay_ms: Option<u64>,
    pub(crate) reason: Option<String>,
}

pub(crate) use ron_core::oap::Mode;

/// The longest reason, characters.
const REASON_CHARS_MAX: usize = 256;

impl Nack {
    /// It did not work: again after a backoff, and it counts as an attempt; after the last one it is a dead letter.
    /// Of the reason the first 256 characters count.
    #[must_use]
    pub fn fail<'a>(reason: impl Into<Cow<'a, str>>) -> Nack {
        Nack { mode: Mode::Fail, delay_ms: None, reason: cut(&reason.into()) }
    }

    /// Not now: again at once, and it does not count.
    #[must_use]
    pub fn release() -> Nack {
        Nack { mode: Mode::Release, delay_ms: None, reason: None }
    }

    /// Never: to the dead letters, with this reason.
    #[must_use]
    pub fn reject<'a>(reason: impl Into<Cow<'a, str>>) -> Nack {
        Nack { mode: Mode::Reject, delay_ms: None, reason: cut(&reason.into()) }
    }

    /// Again after this time instead of the backoff; not with reject.
    #[must_use]
    pub fn delay(mut self, delay: Duration) -> Nack {
        self.delay_ms = Some(whole_ms(delay));
        self
    }
}

/// An error of a handler: a failure, with what it says as the reason.
impl<E: fmt::Display> From<E> for Nack {
    fn from(error: E) -> Nack {
        Nack::fail(error.to_string())
    }
}

fn cut(reason: &str) -> Option<String> {
    (!reason.is_empty()).then(|| reason.chars().take(REASON_CHARS_MAX).collect())
}

/// Whole milliseconds.
pub(crate) fn whole_ms(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handlers_error_is_a_reason_of_bounded_length() {
        let nack = Nack::from("ü".repeat(1_000));
        assert_eq!((nack.mode, nack.reason.map(|reason| reason.chars().count())), (Mode::Fail, Some(256)));
        assert_eq!(Nack::fail("").reason, None, "an empty reason is none");
    }

    #[test]
    fn payloads_are_not_printed() {
        let message = Message::new("secret").attr("a", "secret");
        assert_eq!(format!("{message:?}"), "Message { bytes: 6, .. }");
    }
}
