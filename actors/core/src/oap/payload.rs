//! What is in the frames: postcard, field after field as here. Requests borrow from the frame.

use super::frame::{Header, encode};
use bytes::BytesMut;
use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::marker::PhantomData;

/// Most entries of a list in a request: messages, receipts.
pub const LIST_MAX: usize = 256;

/// Most bytes of an object in one frame.
pub const DATA_BYTES_MAX: usize = 64 * 1024;

/// The bytes of a receipt; its text is their base64url without padding.
pub type ReceiptBytes = [u8; 28];

/// Payload of HELLO, JSON.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hello {
    /// What the client calls itself, for the log.
    pub ua: Option<String>,
}

impl Hello {
    /// As it goes into a frame.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        // a text always serialises
        serde_json::to_vec(self).unwrap_or_default()
    }
}

/// Answer to HELLO, JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HelloAnswer {
    /// Bytes of a frame, at most.
    pub max_frame: u32,
    /// Requests outstanding, at most; further ones wait unread.
    pub max_inflight: u32,
    /// Bytes of their frames, at most; further ones wait unread.
    pub max_bytes: u32,
    /// The flags that are understood.
    pub flags_supported: u16,
    /// The versions that are understood.
    pub versions: Vec<u16>,
    /// `tcp`, or `tcp+tls`.
    pub transports: Vec<String>,
}

/// Bytes that are read and written in one piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Raw<'a>(pub &'a [u8]);

impl Serialize for Raw<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(self.0)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Raw<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        <&[u8]>::deserialize(from).map(Raw)
    }
}

/// A list of `MIN` to `MAX` entries; the bounds hold while it is read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Bounded<T, const MIN: usize, const MAX: usize>(pub Vec<T>);

/// Messages, or receipts.
pub type List<T> = Bounded<T, 1, LIST_MAX>;

impl<T: Serialize, const MIN: usize, const MAX: usize> Serialize for Bounded<T, MIN, MAX> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(to)
    }
}

impl<'de, T: Deserialize<'de>, const MIN: usize, const MAX: usize> Deserialize<'de> for Bounded<T, MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Entries<T, const MIN: usize, const MAX: usize>(PhantomData<T>);

        impl<'de, T, const MIN: usize, const MAX: usize> Visitor<'de> for Entries<T, MIN, MAX>
        where
            T: Deserialize<'de>,
        {
            type Value = Bounded<T, MIN, MAX>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let len = seq.size_hint().unwrap_or(0);
                if !(MIN..=MAX).contains(&len) {
                    return Err(A::Error::custom("too many or too few entries"));
                }
                let mut list = Vec::with_capacity(len);
                while let Some(entry) = seq.next_element()? {
                    list.push(entry);
                }
                Ok(Bounded(list))
            }
        }

        from.deserialize_seq(Entries(PhantomData))
    }
}

/// An attribute: name and value.
pub type Attr<'a> = (&'a str, &'a str);

/// A message to be enqueued.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Draft<'a> {
    /// The bytes.
    #[serde(borrow)]
    pub payload: Raw<'a>,
    /// `None` = `application/octet-stream`.
    pub content_type: Option<&'a str>,
    /// See SPEC §4.4.
    pub idempotency_key: Option<&'a str>,
    /// Delay, ms; 0 = none.
    pub delay_ms: u64,
    /// Time to live from the enqueue, ms.
    pub ttl_ms: Option<u64>,
    /// What the sender says is the BLAKE3 of the payload; checked.
    pub payload_hash: Option<[u8; 32]>,
    /// Attributes, in order; SPEC allows 16.
    pub attrs: Bounded<Attr<'a>, 0, 64>,
    /// The object that is its body, by the BLAKE3 of its bytes; its payload is then empty.
    pub body_ref: Option<[u8; 32]>,
}

/// How deliveries are given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// It did not work: again after a backoff, and it counts.
    Fail,
    /// Not now: again at once, and it does not count.
    Release,
    /// Never: to the dead letters.
    Reject,
}

/// A request. The first byte says which, in the order they stand here; topics are those of the capability's tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request<'a> {
    /// 0: stores one message. Answer: [`Enqueued`].
    Enqueue {
        /// Where to.
        #[serde(borrow)]
        topic: &'a str,
        /// What.
        message: Draft<'a>,
    },
    /// 1: stores messages. Answer: [`EnqueuedBatch`].
    EnqueueBatch {
        /// Where to.
        topic: &'a str,
        /// What.
        messages: List<Draft<'a>>,
    },
    /// 2: receives messages. Answer: a list of [`Delivered`].
    Recv {
        /// Where from.
        topic: &'a str,
        /// 1 to 256.
        max_messages: u32,
        /// Payload bytes; `None` = 4 MiB.
        max_bytes: Option<u64>,
        /// The lease, ms; `None` = the topic's.
        visibility_ms: Option<u64>,
        /// How long to wait for the first message, ms; at most 20,000.
        wait_ms: u64,
    },
    /// 3: has messages brought as they come. Answer: nothing, then EVENT frames with lists of [`Delivered`], and an
    /// answer with END when it is over.
    Subscribe {
        /// Where from.
        topic: &'a str,
        /// Deliveries that the consumer holds unsettled, at most: 1 to 256.
        credit: u32,
        /// The lease, ms; `None` = the topic's.
        visibility_ms: Option<u64>,
    },
    /// 4: ends a subscription. Answer: nothing; the subscription's own last answer comes first.
    Unsubscribe {
        /// The `corr_id` of the Subscribe.
        subscription: u64,
    },
    /// 5: settles deliveries. Answer: [`Settled`].
    Ack {
        /// Of which topic.
        topic: &'a str,
        /// Which.
        receipts: List<Receipt>,
    },
    /// 6: gives deliveries back. Answer: [`Settled`].
    Nack {
        /// Of which topic.
        topic: &'a str,
        /// Which.
        receipts: List<Receipt>,
        /// How.
        mode: Mode,
        /// Instead of the backoff, ms.
        delay_ms: Option<u64>,
        /// The consumer's error, at most 256 characters.
        reason: Option<&'a str>,
    },
    /// 7: more time for deliveries. Answer: [`Settled`].
    Extend {
        /// Of which topic.
        topic: &'a str,
        /// Which.
        receipts: List<Receipt>,
        /// From now, ms.
        visibility_ms: u64,
    },
    /// 8: begins an object, in a frame with START and no capability. Its bytes follow in frames with the same
    /// `corr_id`, each at most [`DATA_BYTES_MAX`]; the last has END. Answer, after that: [`Stored`](super::Stored).
    Put {
        /// Its address: the BLAKE3 of its bytes.
        object: [u8; 32],
        /// How many bytes follow.
        len: u64,
    },
}

/// A receipt on the wire: its 28 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt(pub ReceiptBytes);

/// The number of [`Request`]s.
const OPS: u8 = 9;

impl Request<'_> {
    /// The name of what a payload asks for, for errors.
    fn name(op: u8) -> &'static str {
        match op {
            0 => "enqueue",
            1 => "enqueue_batch",
            2 => "recv",
            3 => "subscribe",
            4 => "unsubscribe",
            5 => "ack",
            6 => "nack",
            7 => "extend",
            _ => "put",
        }
    }

    /// The first byte of its payload.
    #[must_use]
    pub const fn op(&self) -> u8 {
        match self {
            Request::Enqueue { .. } => 0,
            Request::EnqueueBatch { .. } => 1,
            Request::Recv { .. } => 2,
            Request::Subscribe { .. } => 3,
            Request::Unsubscribe { .. } => 4,
            Request::Ack { .. } => 5,
            Request::Nack { .. } => 6,
            Request::Extend { .. } => 7,
            Request::Put { .. } => 8,
        }
    }

    /// The request as it goes into a frame.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        to_vec(self)
    }
}

/// A payload of these fields.
#[must_use]
pub fn to_vec(fields: &impl Serialize) -> Vec<u8> {
    // into a growing buffer this cannot fail
    postcard::to_allocvec(fields).unwrap_or_default()
}

/// Appends a frame with a payload of these fields. What fits into 64 bytes is not allocated.
pub fn encode_fields(header: &Header, fields: &impl Serialize, to: &mut BytesMut) {
    let mut small = [0; 64];
    match postcard::to_slice(fields, &mut small) {
        Ok(payload) => encode(header, &[], payload, to),
        Err(_) => encode(header, &[], &to_vec(fields), to),
    }
}

/// A payload that is no request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadPayload {
    /// Nothing.
    #[error("the payload is empty; its first byte is the op")]
    Empty,
    /// Another first byte.
    #[error("op {0} is unknown; 0 to 8 are known")]
    Op(u8),
    /// It does not decode.
    #[error(
        "the payload is not the postcard of {0} (a field is cut off, out of range, or a list is not 1 to 256 long)"
    )]
    Fields(&'static str),
    /// Something follows.
    #[error("bytes follow after the last field of {0}")]
    Trailing(&'static str),
}

/// Reads a request.
///
/// # Errors
/// [`BadPayload`].
pub fn read(payload: &[u8]) -> Result<Request<'_>, BadPayload> {
    let op = *payload.first().ok_or(BadPayload::Empty)?;
    if op >= OPS {
        return Err(BadPayload::Op(op));
    }
    match postcard::take_from_bytes(payload) {
        Ok((request, [])) => Ok(request),
        Ok(_) => Err(BadPayload::Trailing(Request::name(op))),
        Err(_) => Err(BadPayload::Fields(Request::name(op))),
    }
}

impl Serialize for Receipt {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(to)
    }
}

impl<'de> Deserialize<'de> for Receipt {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        <ReceiptBytes>::deserialize(from).map(Receipt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receipts(count: u8) -> List<Receipt> {
        Bounded((0..count).map(|n| Receipt([n; 28])).collect())
    }

    fn all() -> Vec<Request<'static>> {
        let message = Draft {
            payload: Raw(b"hello"),
            content_type: Some("text/plain"),
            idempotency_key: Some("k1"),
            delay_ms: 300,
            ttl_ms: Some(60_000),
            payload_hash: Some([7; 32]),
            attrs: Bounded(vec![("a", "b")]),
            body_ref: Some([9; 32]),
        };
        vec![
            Request::Enqueue { topic: "orders", message: message.clone() },
            Request::EnqueueBatch { topic: "orders", messages: Bounded(vec![message, Draft::default()]) },
            Request::Recv {
                topic: "t",
                max_messages: 9,
                max_bytes: None,
                visibility_ms: Some(1_000),
                wait_ms: 5,
            },
            Request::Subscribe { topic: "t", credit: 200, visibility_ms: None },
            Request::Unsubscribe { subscription: 1 << 40 },
            Request::Ack { topic: "t", receipts: receipts(2) },
            Request::Nack {
                topic: "t",
                receipts: receipts(1),
                mode: Mode::Reject,
                delay_ms: None,
                reason: Some("no"),
            },
            Request::Extend { topic: "t", receipts: receipts(1), visibility_ms: 30_000 },
            Request::Put { object: [8; 32], len: 1 << 33 },
        ]
    }

    #[test]
    fn the_first_byte_is_the_op_and_nothing_may_follow_or_lack() {
        for (op, request) in all().into_iter().enumerate() {
            let bytes = request.to_vec();
            assert_eq!((usize::from(bytes[0]), request.op()), (op, bytes[0]));
            assert_eq!(read(&bytes), Ok(request));
            let name = Request::name(op as u8);
            for len in 1..bytes.len() {
                assert_eq!(read(&bytes[..len]), Err(BadPayload::Fields(name)), "{name} cut at {len}");
            }
            let more = [&bytes[..], &[0]].concat();
            assert_eq!(read(&more), Err(BadPayload::Trailing(name)));
        }
        assert_eq!(read(b""), Err(BadPayload::Empty));
        assert_eq!(read(&[OPS, 0]), Err(BadPayload::Op(OPS)));
    }

    #[test]
    fn lists_are_bounded_before_they_are_read() {
        let ack = |count: usize| {
            let receipts = Bounded(vec![Receipt([1; 28]); count]);
            Request::Ack { topic: "t", receipts }.to_vec()
        };
        assert!(read(&ack(256)).is_ok());
        for bad in [0, 257] {
            assert_eq!(read(&ack(bad)), Err(BadPayload::Fields("ack")));
        }
        // a length that nothing follows
        let mut attrs = Request::Enqueue { topic: "t", message: Draft::default() }.to_vec();
        attrs.truncate(attrs.len() - 2); // no attributes, no object
        attrs.extend([0xff, 0xff, 0xff, 0xff, 0x0f]);
        assert_eq!(read(&attrs), Err(BadPayload::Fields("enqueue")));
    }
}
