//! A message as a consumer receives it: the facts, and the Envelope that JSON makes of them (SPEC §4).

use crate::ids::{ContentHash, MessageId, QueueKey};
use crate::message::{DeadLetter, StoredMessage};
use crate::receipt::Receipt;
use crate::time::Millis;
use serde::Serialize;
use std::collections::BTreeMap;

/// A message that is handed out, whatever the protocol.
#[derive(Debug, Clone)]
pub struct Delivered {
    /// Out of which queue.
    pub queue: QueueKey,
    /// Its id.
    pub msg_id: MessageId,
    /// Names this delivery.
    pub receipt: Receipt,
    /// Hand-outs that count.
    pub attempt: u32,
    /// All hand-outs.
    pub delivery: u32,
    /// End of the lease.
    pub deadline: Millis,
    /// The message that this one is a copy of.
    pub copied_from: Option<MessageId>,
    /// When the store that it is in was last restored from a snapshot with it.
    pub restored_at: Option<Millis>,
    /// What is stored.
    pub message: StoredMessage,
}

impl Delivered {
    /// The id of the message that this one is a copy of, or was made from.
    #[must_use]
    pub fn source_msg_id(&self) -> Option<String> {
        let copied = self.copied_from.map(|source| source.to_string());
        copied.or_else(|| self.message.meta.source_msg_id.clone())
    }
}

impl From<&Delivered> for Envelope {
    fn from(of: &Delivered) -> Envelope {
        let view = DeliveryView {
            receipt: Some(of.receipt.to_string()),
            attempt: of.attempt,
            delivery: of.delivery,
            deadline: Some(of.deadline),
            dead_letter: None,
        };
        let mut envelope = Envelope::new(&of.queue, of.msg_id.to_string(), &of.message, view);
        envelope.source_msg_id = of.source_msg_id();
        envelope.restored_at = of.restored_at.map(Millis::rfc3339);
        envelope
    }
}

/// A delivered or peeked message in JSON.
#[derive(Debug, Clone, Serialize)]
pub struct Envelope {
    /// The message's id.
    pub msg_id: String,
    /// Names this delivery; absent in peek.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub receipt: Option<String>,
    /// Whose message it is.
    pub tenant: String,
    /// Its topic.
    pub topic: String,
    /// RFC 3339.
    pub enqueued_at: String,
    /// Hand-outs that count.
    pub attempt: u32,
    /// All hand-outs.
    pub delivery: u32,
    /// The sender's key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
    /// As sent.
    pub content_type: String,
    /// Attributes by lower-case name.
    pub attrs: BTreeMap<String, String>,
    /// `b3:…` of the payload.
    pub payload_hash: String,
    /// The payload as text, when it is JSON or text in UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload: Option<String>,
    /// The payload in base64, otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload_b64: Option<String>,
    /// The object that is its body, as an address; its payload is then empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body_ref: Option<String>,
    /// The enqueueing request's correlation id.
    pub corr_id: String,
    /// When the lease ends, RFC 3339; absent when nothing is leased.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline: Option<String>,
    /// The message that this one was made from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_msg_id: Option<String>,
    /// Why and when it was dead-lettered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dead_letter: Option<DeadLetterView>,
    /// When the store that it is in was last restored from a snapshot with it, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restored_at: Option<String>,
}

/// The `dead_letter` part of an Envelope.
#[derive(Debug, Clone, Serialize)]
pub struct DeadLetterView {
    /// `max_attempts`, `max_deliveries`, `integrity`, or the consumer's own.
    pub reason: String,
    /// Attempts when it died.
    pub attempts: u32,
    /// The last error a consumer gave.
    pub last_error: Option<String>,
    /// RFC 3339.
    pub at: String,
}

/// What an Envelope says of the delivery, beside the message itself.
#[derive(Debug, Clone, Default)]
pub struct DeliveryView {
    /// The receipt, if this is a delivery.
    pub receipt: Option<String>,
    /// Hand-outs that count.
    pub attempt: u32,
    /// All hand-outs.
    pub delivery: u32,
    /// End of the lease.
    pub deadline: Option<Millis>,
    /// If it is a dead letter.
    pub dead_letter: Option<DeadLetter>,
}

impl Envelope {
    /// The Envelope of `message`, with the id `msg_id`, out of `queue`.
    #[must_use]
    pub fn new(queue: &QueueKey, msg_id: String, message: &StoredMessage, view: DeliveryView) -> Envelope {
        let meta = &message.meta;
        let text = is_text(&meta.content_type).then(|| std::str::from_utf8(&message.payload).ok()).flatten();
        let payload_b64 = match text {
            Some(_) => None,
            None => Some(data_encoding::BASE64.encode(&message.payload)),
        };
        Envelope {
            msg_id,
            receipt: view.receipt,
            tenant: queue.tenant.to_string(),
            topic: queue.topic.to_string(),
            enqueued_at: message.enqueued.rfc3339(),
            attempt: view.attempt,
            delivery: view.delivery,
            idempotency_key: meta.idempotency_key.clone(),
            content_type: meta.content_type.clone(),
            attrs: meta.attrs.iter().cloned().collect(),
            payload_hash: ContentHash::to_string(&message.payload_hash),
            payload: text.map(str::to_owned),
            payload_b64,
            body_ref: meta.body_ref.map(|hash| hash.to_string()),
            corr_id: meta.corr_id.clone(),
            source_msg_id: meta.source_msg_id.clone(),
            deadline: view.deadline.map(Millis::rfc3339),
            dead_letter: view.dead_letter.map(|letter| DeadLetterView {
                reason: letter.reason,
                attempts: letter.attempts,
                last_error: letter.last_error,
                at: letter.at.rfc3339(),
            }),
            restored_at: None,
        }
    }
}

/// Whether a content type is JSON or text, so that its payload may travel as a JSON string.
fn is_text(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence.starts_with("text/") || essence == "application/json" || essence.ends_with("+json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_and_text_travel_as_text() {
        for yes in
            ["application/json", "Application/JSON; charset=utf-8", "text/plain", "application/vnd.x+json"]
        {
            assert!(is_text(yes), "{yes}");
        }
        for no in ["application/octet-stream", "", "application/x-www-form-urlencoded", "image/png"] {
            assert!(!is_text(no), "{no}");
        }
    }
}
