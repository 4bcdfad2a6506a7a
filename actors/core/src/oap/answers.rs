//! What is in the frames that answer: postcard, field after field as here.

use super::payload::{Attr, Raw, Receipt};
use serde::{Deserialize, Serialize};

/// What an answer promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Durability {
    /// In memory.
    Ram,
    /// Synced to disk.
    Fsync,
}

/// A message was stored, or is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enqueued {
    /// Its id: the 16 bytes of the ULID.
    pub msg_id: [u8; 16],
    /// Whether it is that of an earlier message with the same key.
    pub duplicate: bool,
    /// As safe as this.
    pub durability: Durability,
}

/// One message of a batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum BatchOutcome {
    /// Stored, with this id.
    Stored([u8; 16]),
    /// Known, with this id.
    Duplicate([u8; 16]),
    /// Not stored, for this reason.
    Refused(String),
}

/// What was done with a batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnqueuedBatch {
    /// What was stored is as safe as this.
    pub durability: Durability,
    /// One a message, in order.
    pub results: Vec<BatchOutcome>,
}

/// A message that is handed out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivered<'a> {
    /// Its id.
    pub msg_id: [u8; 16],
    /// Names this delivery.
    pub receipt: Receipt,
    /// When it was enqueued, Unix ms.
    pub enqueued_ms: u64,
    /// When the lease ends, Unix ms.
    pub deadline_ms: u64,
    /// Hand-outs that count.
    pub attempt: u32,
    /// All hand-outs.
    pub delivery: u32,
    /// The sender's key.
    #[serde(borrow)]
    pub idempotency_key: Option<&'a str>,
    /// As sent.
    pub content_type: &'a str,
    /// Attributes, in order.
    pub attrs: Vec<Attr<'a>>,
    /// BLAKE3 of the payload.
    pub payload_hash: [u8; 32],
    /// The bytes.
    pub payload: Raw<'a>,
    /// The enqueueing request's correlation id.
    pub corr_id: &'a str,
    /// The message that this one is a copy of, or was made from, as text.
    pub source_msg_id: Option<&'a str>,
    /// When the store was last restored from a snapshot with it, Unix ms.
    pub restored_ms: Option<u64>,
    /// The object that is its body, by the BLAKE3 of its bytes; its payload is then empty.
    pub body_ref: Option<[u8; 32]>,
}

/// One result a receipt, in order: `None` = done, else the reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settled {
    /// See there.
    pub results: Vec<Option<String>>,
}

/// The payload of an answer whose code is not 200.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Error {
    /// The stable code (SPEC §3).
    pub reason: String,
    /// A sentence that names the field and the fix.
    pub text: String,
    /// `none`, or `unknown`: it may have taken effect.
    pub effect: String,
    /// When a retry makes sense, ms.
    pub retry_after_ms: Option<u64>,
}

/// An object is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    /// Its address: the BLAKE3 of its bytes.
    pub object: [u8; 32],
    /// As safe as this.
    pub durability: Durability,
}
