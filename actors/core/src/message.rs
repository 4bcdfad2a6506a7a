//! What the store keeps of a message, and what a shard asks it to write. Shared by the queue state machine,
//! the store and recovery; knows neither HTTP nor redb.

use crate::ids::{ContentHash, Slot};
use crate::shard::Settings;
use crate::time::Millis;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Largest payload of one message, in bytes (SPEC §4).
pub const PAYLOAD_BYTES_MAX: usize = 1024 * 1024;
/// Most attributes of one message, and most bytes of their names and values together.
pub const ATTRS_MAX: usize = 16;
/// See [`ATTRS_MAX`].
pub const ATTR_BYTES_MAX: usize = 4 * 1024;

/// The dead letter's reason when the stored record fails its checksum.
pub const INTEGRITY: &str = "integrity";
/// The attribute that names a message's group, where a topic keeps strict order.
pub const GROUP_ATTR: &str = "group";

/// Who an idempotency key belongs to, so that an API client cannot occupy a provider's ids (SPEC §4.4).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Origin {
    /// A client of the mailbox's own API.
    Api,
    /// A webhook provider, by its configured name.
    Provider(String),
}

/// The idempotency claim of one message: hashes, because that is all that is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DedupClaim {
    /// First 128 bits of BLAKE3 over origin and key.
    pub key: u128,
    /// First 128 bits of the payload's BLAKE3.
    pub body: u128,
    /// How long the key is remembered, in ms from the enqueue; 0 = as the topic's settings say.
    pub window_ms: u64,
    /// Most live keys of the topic; `None` = as configured for all.
    pub keys_max: Option<u64>,
    /// What a known key with another body means: a conflict (API), or the provider's own retry (a signed body).
    pub same_key_other_body: OtherBody,
}

/// See [`DedupClaim::same_key_other_body`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OtherBody {
    /// Refuse with IDEMPOTENCY_CONFLICT.
    Conflict,
    /// Treat as a duplicate of the first.
    Duplicate,
}

impl DedupClaim {
    /// The claim of `key` by `origin` on a message with this payload.
    #[must_use]
    pub fn new(origin: &Origin, key: &[u8], payload: &ContentHash, window_ms: u64) -> DedupClaim {
        let mut hasher = blake3::Hasher::new();
        match origin {
            Origin::Api => hasher.update(b"api\0"),
            Origin::Provider(_) if crate::planted!(OriginsShareKeys) => hasher.update(b"api\0"),
            Origin::Provider(name) => hasher.update(b"provider\0").update(name.as_bytes()).update(b"\0"),
        };
        hasher.update(key);
        let first_128 = |bytes: &[u8; 32]| {
            let mut half = [0u8; 16];
            half.copy_from_slice(&bytes[..16]);
            u128::from_le_bytes(half)
        };
        DedupClaim {
            key: first_128(hasher.finalize().as_bytes()),
            body: first_128(&payload.0),
            window_ms,
            keys_max: None,
            same_key_other_body: OtherBody::Conflict,
        }
    }
}

/// What is stored beside the payload, in the record itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MessageMeta {
    /// `Content-Type` as sent.
    pub content_type: String,
    /// Attributes: lower-case names, in the order sent.
    pub attrs: Vec<(String, String)>,
    /// The sender's idempotency key, shown in the Envelope.
    pub idempotency_key: Option<String>,
    /// The enqueueing request's correlation id.
    pub corr_id: String,
    /// The id of the message that this one was made from, if it was.
    pub source_msg_id: Option<String>,
    /// The object that is its body, if it is not its payload: then that is empty. Stored behind the other fields, so
    /// that what was stored before there were objects reads as it did.
    #[serde(skip)]
    pub body_ref: Option<ContentHash>,
}

/// A message on its way into the store.
#[derive(Debug, Clone)]
pub struct NewMessage {
    /// The bytes, ≤ [`PAYLOAD_BYTES_MAX`].
    pub payload: Bytes,
    /// BLAKE3 of the payload.
    pub payload_hash: ContentHash,
    /// What is kept beside it.
    pub meta: MessageMeta,
    /// Delay before it becomes ready, in ms; 0 = none.
    pub delay_ms: u64,
    /// Time to live from the enqueue, in ms.
    pub ttl_ms: Option<u64>,
    /// Idempotency, if claimed.
    pub dedup: Option<DedupClaim>,
}

impl NewMessage {
    /// The group that it keeps its order in, as a hash of its attribute `group`; 0 = it names none. Two groups with
    /// one hash wait for each other, and nothing worse.
    #[must_use]
    pub fn group(&self) -> u64 {
        let named = self.meta.attrs.iter().find(|(name, _)| name == GROUP_ATTR);
        named.map_or(0, |(_, value)| {
            let mut first = [0; 8];
            first.copy_from_slice(&blake3::hash(value.as_bytes()).as_bytes()[..8]);
            u64::from_le_bytes(first).max(1)
        })
    }

    /// Lets the topic's settings say what its claim leaves open. Without a window a key means nothing.
    pub fn settle_claim(&mut self, settings: &Settings) {
        let Some(claim) = &mut self.dedup else { return };
        claim.keys_max = Some(settings.max_dedup_keys);
        if claim.window_ms == 0 || crate::planted!(ReplaySpanIgnored) {
            claim.window_ms = settings.dedup_window_ms;
        }
        if claim.window_ms == 0 {
            self.dedup = None;
        }
    }
}

/// A message to be copied: what its copy has of it beside the record, which is stored once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopyOf {
    /// Where the message is.
    pub slot: Slot,
    /// Payload bytes.
    pub len: u32,
    /// When its delay ends: its copies' does, too.
    pub due: Option<Millis>,
    /// When its TTL ends: its copies' does, too.
    pub expires: Option<Millis>,
    /// [`NewMessage::group`].
    pub group: u64,
    /// The number of the object that it refers to: its copies do, too.
    pub object: Option<u64>,
}

/// A stored message as it comes back: the record after its checksums held.
#[derive(Debug, Clone)]
pub struct StoredMessage {
    /// Where it lives.
    pub slot: Slot,
    /// When it was enqueued.
    pub enqueued: Millis,
    /// The bytes.
    pub payload: Bytes,
    /// BLAKE3 of the payload, checked against the bytes.
    pub payload_hash: ContentHash,
    /// What was kept beside it.
    pub meta: MessageMeta,
    /// The message that it is a copy of: its place, and when it was enqueued.
    pub copied_from: Option<(Slot, Millis)>,
}

/// The durable state of one message that has been handed out at least once, or is in the DLQ. A message with
/// no state row was never delivered: it is ready, or delayed until its `due`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct MsgState {
    /// Where the message is.
    pub phase: Phase,
    /// The lease's deadline, the delay's due time, or the time of dead-lettering; 0 when ready.
    pub at: Millis,
    /// Hand-outs that count towards `max_attempts`.
    pub attempt: u32,
    /// All hand-outs; never falls.
    pub delivery: u32,
    /// How the newest delivery was given back, if it was: what makes a repeated nack answer ok.
    pub settled: Settled,
    /// Whether a last error is stored for it.
    pub noted: bool,
    /// Its newest reprocessing, if it was ever brought back from the dead-letter queue.
    pub revived: Option<Revived>,
}

/// A message that came back from the dead-letter queue: since when it lives again, and where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Revived {
    /// When. Its TTL and ready retention run from here.
    pub at: Millis,
    /// Its place among what is ready: behind this slot, and before those after it.
    pub after: Slot,
    /// Its place among those behind the same slot, from 1.
    pub turn: u32,
    /// Hand-outs it had before, which `max_deliveries` no longer counts.
    pub deliveries: u32,
}

/// Where a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Phase {
    /// Waiting to be received.
    Ready,
    /// Handed out until [`MsgState::at`].
    Leased,
    /// Not to be handed out before [`MsgState::at`].
    Delayed,
    /// In the dead-letter queue since [`MsgState::at`].
    Dead,
}

/// How the newest delivery ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Settled {
    /// Not by its consumer: still leased, or timed out.
    No,
    /// nack `fail`.
    Failed,
    /// nack `release`.
    Released,
    /// nack `reject`.
    Rejected,
    /// Reprocessed since: no receipt of before counts.
    Revived,
}

/// The row of a dead letter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// `max_attempts`, `max_deliveries`, `integrity`, or the reason given with `reject`.
    pub reason: String,
    /// Attempts when it died.
    pub attempts: u32,
    /// The last error a consumer gave, if any.
    pub last_error: Option<String>,
    /// When it was dead-lettered.
    pub at: Millis,
}

/// One change of durable state. Absolute, so that replaying it twice does no harm.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum StateOp {
    /// The message's state is now this; the note, if given, replaces the stored last error.
    Set {
        /// Which message.
        slot: Slot,
        /// Its new state.
        state: MsgState,
        /// The error the consumer gave with its nack.
        note: Option<String>,
    },
    /// The message is a dead letter now. `state.phase` is [`Phase::Dead`].
    Dead {
        /// Which message.
        slot: Slot,
        /// Its new state.
        state: MsgState,
        /// The row to keep. If its `last_error` is `None` the store fills in the noted one.
        letter: DeadLetter,
    },
    /// The message no longer exists.
    Gone {
        /// Which message.
        slot: Slot,
        /// Whether a stored last error must go with it.
        noted: bool,
    },
    /// Neighbours in one chunk, never handed out, no longer exist.
    GoneRun {
        /// The first of them.
        first: Slot,
        /// How many.
        count: u16,
    },
    /// A dead letter is ready again. `state.phase` is [`Phase::Ready`]; its letter and its last error go.
    Revived {
        /// Which.
        slot: Slot,
        /// Its new state.
        state: MsgState,
    },
    /// A dead letter no longer exists.
    DeadGone {
        /// Which.
        slot: Slot,
    },
}

impl StateOp {
    /// Whether it dead-letters a message because its record is damaged.
    #[must_use]
    pub fn is_for_integrity(&self) -> bool {
        matches!(self, StateOp::Dead { letter, .. } if letter.reason == INTEGRITY)
    }

    /// The message it changes, or the first of them.
    #[must_use]
    pub const fn slot(&self) -> Slot {
        match self {
            StateOp::Set { slot, .. }
            | StateOp::Dead { slot, .. }
            | StateOp::Gone { slot, .. }
            | StateOp::GoneRun { first: slot, .. }
            | StateOp::Revived { slot, .. }
            | StateOp::DeadGone { slot } => *slot,
        }
    }
}

/// What became of one message that a shard asked the store to put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutOutcome {
    /// Written; its place, its time, and the ends of its delay and its life.
    Stored(StoredAt),
    /// A known key inside its window: the first message's place and time.
    Duplicate {
        /// The first message's slot.
        slot: Slot,
        /// When the first was enqueued.
        enqueued: Millis,
        /// Whether the bodies differ (only where the claim allowed that).
        other_body: bool,
    },
    /// The same key with another body, inside its window.
    Conflict,
    /// The topic or the node holds as many live keys as it may.
    DedupFull,
    /// Memory holds as many bytes of messages that are kept in it alone as it may.
    RamFull,
    /// A copy that was brought before, or whose subscription is over.
    Overtaken,
    /// The tenant has no such object as the message refers to.
    NoObject,
}

/// Where and when a message was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredAt {
    /// Its place.
    pub slot: Slot,
    /// Its enqueue time: one for a whole chunk, never decreasing.
    pub enqueued: Millis,
    /// Payload bytes.
    pub len: u32,
    /// When its delay ends, if it has one.
    pub due: Option<Millis>,
    /// When its TTL ends, if it has one.
    pub expires: Option<Millis>,
    /// [`NewMessage::group`].
    pub group: u64,
}

impl StoredAt {
    /// Its time to live, ms; 0 = none.
    #[must_use]
    pub fn ttl_ms(&self) -> u32 {
        let ttl = self.expires.map_or(0, |expires| expires.since(self.enqueued).max(1));
        u32::try_from(ttl).unwrap_or(u32::MAX)
    }
}

/// A live message as recovery finds it: its place and shape from the chunk's head, its state if it has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recovered {
    /// Where, when, how long, until when.
    pub stored: StoredAt,
    /// `None` = never handed out.
    pub state: Option<MsgState>,
}
