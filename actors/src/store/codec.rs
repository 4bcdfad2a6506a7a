//! How rows are written: checksum first, then the content. Decoding never panics and never trusts a length
//! before the checksum held.

use super::error::StoreError;
use bytes::Bytes;
use ron_core::ids::{ContentHash, ShardId, Slot};
use ron_core::message::{MessageMeta, MsgState, NewMessage, Recovered, StateOp, StoredAt, StoredMessage};
use ron_core::time::Millis;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

const SUM: usize = 8;

/// `content` behind its checksum.
pub(crate) fn seal(content: &[u8]) -> Vec<u8> {
    let mut row = Vec::with_capacity(SUM + content.len());
    row.extend_from_slice(&xxh3_64(content).to_le_bytes());
    row.extend_from_slice(content);
    row
}

/// Seals a value as postcard.
pub(crate) fn seal_value<T: Serialize>(value: &T) -> Vec<u8> {
    // Serialising our own plain structs into memory cannot fail; an empty row would be refused when read.
    seal(&postcard::to_allocvec(value).unwrap_or_default())
}

/// The content of a sealed row.
///
/// # Errors
/// What did not hold.
pub(crate) fn open(row: &[u8]) -> Result<&[u8], &'static str> {
    let (sum, content) = row.split_at_checked(SUM).ok_or("too short")?;
    if sum == xxh3_64(content).to_le_bytes() { Ok(content) } else { Err("checksum") }
}

/// The value of a sealed postcard row.
///
/// # Errors
/// What did not hold.
pub(crate) fn open_value<T: DeserializeOwned>(row: &[u8]) -> Result<T, &'static str> {
    let (value, rest) = postcard::take_from_bytes(open(row)?).map_err(|_| "does not decode")?;
    if rest.is_empty() { Ok(value) } else { Err("trailing bytes") }
}

// --- records -----------------------------------------------------------------------------------------------

/// Appends the record of a message: checksum, BLAKE3 of the payload, length of the meta, meta, payload.
/// Returns the record's length.
pub(crate) fn push_record(body: &mut Vec<u8>, message: &NewMessage) -> usize {
    let start = body.len();
    body.extend_from_slice(&[0; SUM]);
    body.extend_from_slice(&message.payload_hash.0);
    push_meta(body, &message.meta);
    body.extend_from_slice(&message.payload);
    let sum = xxh3_64(&body[start + SUM..]).to_le_bytes();
    body[start..start + SUM].copy_from_slice(&sum);
    body.len() - start
}

/// Appends a meta behind its length, and the address it refers to, if it does, as its last 32 bytes. Nearly all are
/// short and need no allocation of their own.
fn push_meta(body: &mut Vec<u8>, meta: &MessageMeta) {
    let address = meta.body_ref.as_ref().map_or(&[][..], |hash| &hash.0);
    let mut push = |meta: &[u8]| {
        body.extend_from_slice(&((meta.len() + address.len()) as u32).to_le_bytes());
        body.extend_from_slice(meta);
        body.extend_from_slice(address);
    };
    let mut short = [0; 256];
    match postcard::to_slice(meta, &mut short) {
        Ok(meta) => push(meta),
        Err(_) => push(&postcard::to_allocvec(meta).unwrap_or_default()),
    }
}

fn read_meta(bytes: &[u8]) -> Result<MessageMeta, &'static str> {
    let (mut meta, rest): (MessageMeta, _) =
        postcard::take_from_bytes(bytes).map_err(|_| "meta does not decode")?;
    meta.body_ref = match rest {
        [] => None,
        rest => Some(ContentHash(rest.try_into().map_err(|_| "meta has trailing bytes")?)),
    };
    Ok(meta)
}

/// Bytes that [`push_record`] will write, near enough to cut chunks by.
pub(crate) fn record_len(message: &NewMessage) -> usize {
    let meta = &message.meta;
    let attrs: usize = meta.attrs.iter().map(|(name, value)| name.len() + value.len() + 4).sum();
    let key = meta.idempotency_key.as_ref().map_or(0, |key| key.len() + 2);
    let address = meta.body_ref.map_or(0, |hash| hash.0.len());
    let fixed = SUM + 32 + 4 + 10 + address;
    fixed + meta.content_type.len() + meta.corr_id.len() + key + attrs + message.payload.len()
}

/// Reads a record back, checking its checksum and the payload's hash.
///
/// # Errors
/// What did not hold; such a record never reaches a consumer.
pub(crate) fn read_record(
    slot: Slot,
    enqueued: Millis,
    record: &Bytes,
) -> Result<StoredMessage, &'static str> {
    let content = open(record)?;
    let (hash, rest) = content.split_first_chunk::<32>().ok_or("too short")?;
    let (meta_len, rest) = rest.split_first_chunk::<4>().ok_or("too short")?;
    let meta_len = u32::from_le_bytes(*meta_len) as usize;
    let meta_bytes = rest.get(..meta_len).ok_or("meta length")?;
    let meta = read_meta(meta_bytes)?;
    let payload = record.slice(SUM + 32 + 4 + meta_len..);
    let payload_hash = ContentHash(*hash);
    if ContentHash::of(&payload) != payload_hash {
        return Err("payload hash");
    }
    Ok(StoredMessage { slot, enqueued, payload, payload_hash, meta, copied_from: None })
}

// --- heads -------------------------------------------------------------------------------------------------

/// What stands for the length of a copy's record.
pub(crate) const COPY_LEN: u32 = 1;

/// One message of a chunk's head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HeadEntry {
    /// Where its record starts in the body; meaningless when `len` is 0.
    pub(crate) offset: u32,
    /// The record's length; 0 = rewritten away, the message is gone. Of a copy [`COPY_LEN`].
    pub(crate) len: u32,
    /// Payload bytes.
    pub(crate) payload_len: u32,
    /// End of its delay.
    pub(crate) due: Option<Millis>,
    /// End of its TTL.
    pub(crate) expires: Option<Millis>,
    /// [`NewMessage::group`].
    pub(crate) group: u64,
    /// The message whose record it shares, if it is a copy: it has none of its own.
    pub(crate) source: Option<Slot>,
    /// The number of the object that it refers to: what recovery counts, as it reads no record.
    pub(crate) object: Option<u64>,
}

/// The messages of one shard in a chunk: they lie next to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HeadRun {
    pub(crate) shard: ShardId,
    pub(crate) first: u16,
    pub(crate) count: u16,
}

/// A chunk's head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// When its commit was cut: the enqueue time of all its messages.
    pub(crate) enqueued: Millis,
    /// Bytes of its body, over all parts.
    pub(crate) body_len: u32,
    pub(crate) runs: Vec<HeadRun>,
    pub(crate) entries: Vec<HeadEntry>,
}

const HAS_DUE: u8 = 1;
const HAS_EXPIRES: u8 = 2;
const HAS_GROUP: u8 = 4;
const HAS_SOURCE: u8 = 8;
const HAS_OBJECT: u8 = 16;

impl Head {
    /// The row that it is stored as.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut row = Vec::with_capacity(24 + self.runs.len() * 8 + self.entries.len() * 16);
        row.extend_from_slice(&[0; SUM]);
        row.extend_from_slice(&self.enqueued.0.to_le_bytes());
        row.extend_from_slice(&self.body_len.to_le_bytes());
        row.extend_from_slice(&(self.runs.len() as u32).to_le_bytes());
        row.extend_from_slice(&(self.entries.len() as u32).to_le_bytes());
        for run in &self.runs {
            row.extend_from_slice(&run.shard.0.to_le_bytes());
            row.extend_from_slice(&run.first.to_le_bytes());
            row.extend_from_slice(&run.count.to_le_bytes());
        }
        for entry in &self.entries {
            let flags = u8::from(entry.due.is_some()) * HAS_DUE
                + u8::from(entry.expires.is_some()) * HAS_EXPIRES
                + u8::from(entry.group != 0) * HAS_GROUP
                + u8::from(entry.source.is_some()) * HAS_SOURCE
                + u8::from(entry.object.is_some()) * HAS_OBJECT;
            row.push(flags);
            row.extend_from_slice(&entry.offset.to_le_bytes());
            row.extend_from_slice(&entry.len.to_le_bytes());
            row.extend_from_slice(&entry.payload_len.to_le_bytes());
            for at in [entry.due, entry.expires].into_iter().flatten() {
                row.extend_from_slice(&at.0.to_le_bytes());
            }
            if entry.group != 0 {
                row.extend_from_slice(&entry.group.to_le_bytes());
            }
            for number in entry.source.map(|source| source.0).into_iter().chain(entry.object) {
                row.extend_from_slice(&number.to_le_bytes());
            }
        }
        let sum = xxh3_64(&row[SUM..]).to_le_bytes();
        row[..SUM].copy_from_slice(&sum);
        row
    }

    /// Reads the row of chunk `chunk`.
    ///
    /// # Errors
    /// Its checksum does not hold, or it does not decode.
    pub fn decode(chunk: u64, row: &[u8]) -> Result<Head, StoreError> {
        let damaged = |why| StoreError::damaged("head", chunk, why);
        let mut from = Cursor(open(row).map_err(damaged)?);
        Head::read(&mut from).ok_or_else(|| damaged("does not decode"))
    }

    fn read(from: &mut Cursor<'_>) -> Option<Head> {
        let enqueued = Millis(from.u64()?);
        let body_len = from.u32()?;
        let (runs_len, entries_len) = (from.u32()?, from.u32()?);
        let mut runs = Vec::new();
        for _ in 0..runs_len {
            runs.push(HeadRun { shard: ShardId(from.u32()?), first: from.u16()?, count: from.u16()? });
        }
        let mut entries = Vec::new();
        for _ in 0..entries_len {
            let flags = from.u8()?;
            let (offset, len, payload_len) = (from.u32()?, from.u32()?, from.u32()?);
            let due = if flags & HAS_DUE == 0 { None } else { Some(Millis(from.u64()?)) };
            let expires = if flags & HAS_EXPIRES == 0 { None } else { Some(Millis(from.u64()?)) };
            let group = if flags & HAS_GROUP == 0 { 0 } else { from.u64()? };
            let source = if flags & HAS_SOURCE == 0 { None } else { Some(Slot(from.u64()?)) };
            let object = if flags & HAS_OBJECT == 0 { None } else { Some(from.u64()?) };
            entries.push(HeadEntry { offset, len, payload_len, due, expires, group, source, object });
        }
        from.0.is_empty().then_some(Head { enqueued, body_len, runs, entries })
    }

    /// The message at `idx` as recovery reports it.
    pub(crate) fn recovered(&self, chunk: u64, idx: u16, state: Option<MsgState>) -> Option<Recovered> {
        let entry = self.entries.get(usize::from(idx))?;
        let stored = StoredAt {
            slot: Slot::new(chunk, idx),
            enqueued: self.enqueued,
            len: entry.payload_len,
            due: entry.due,
            expires: entry.expires,
            group: entry.group,
        };
        (entry.len > 0).then_some(Recovered { stored, state })
    }
}

struct Cursor<'a>(&'a [u8]);

impl Cursor<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }
    fn u8(&mut self) -> Option<u8> {
        self.take::<1>().map(|[byte]| byte)
    }
    fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_le_bytes)
    }
    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }
    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }
}

// --- deltas and states -------------------------------------------------------------------------------------

/// The same change to `count` neighbours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DeltaRun {
    pub(crate) first: Slot,
    pub(crate) count: u16,
    /// `None` = gone.
    pub(crate) state: Option<MsgState>,
}

/// All state changes of one commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Delta {
    /// Node time of the commit.
    pub(crate) now: Millis,
    /// Chunks below this number have been used: the chunk that proves it may vanish with this very commit.
    pub(crate) next_chunk: u64,
    pub(crate) runs: Vec<DeltaRun>,
}

impl Delta {
    pub(crate) fn new(now: Millis, next_chunk: u64) -> Delta {
        Delta { now, next_chunk, runs: Vec::new() }
    }

    pub(crate) fn push(&mut self, op: &StateOp) {
        let (slot, count, state) = match op {
            StateOp::Set { slot, state, .. }
            | StateOp::Dead { slot, state, .. }
            | StateOp::Revived { slot, state } => (*slot, 1, Some(*state)),
            StateOp::Gone { slot, .. } | StateOp::DeadGone { slot } => (*slot, 1, None),
            StateOp::GoneRun { first, count } => (*first, *count, None),
        };
        if let Some(last) = self.runs.last_mut() {
            let next = last.first.0 + u64::from(last.count);
            if next == slot.0 && last.first.chunk() == slot.chunk() && last.state == state {
                last.count += count;
                return;
            }
        }
        self.runs.push(DeltaRun { first: slot, count, state });
    }
}

/// The folded states of one chunk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ChunkStates {
    /// Gone messages as (first, count), ascending.
    pub(crate) gone: Vec<(u16, u16)>,
    /// Messages that were handed out, ascending.
    pub(crate) states: Vec<(u16, MsgState)>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use ron_core::message::{Phase, Settled};

    fn message(payload: &'static [u8]) -> NewMessage {
        NewMessage {
            payload: Bytes::from_static(payload),
            payload_hash: ContentHash::of(payload),
            meta: MessageMeta {
                content_type: "text/plain".into(),
                attrs: vec![("k".into(), "v".into())],
                idempotency_key: Some("key".into()),
                corr_id: "corr-1234".into(),
                source_msg_id: None,
                body_ref: None,
            },
            delay_ms: 0,
            ttl_ms: None,
            dedup: None,
        }
    }

    #[test]
    fn every_flipped_bit_of_a_record_is_noticed() {
        let message = message(b"the payload");
        let mut body = Vec::new();
        let len = push_record(&mut body, &message);
        assert!(len <= record_len(&message), "chunks are cut by an upper bound");
        let slot = Slot::new(1, 0);
        let back = read_record(slot, Millis(5), &Bytes::from(body.clone())).unwrap();
        assert_eq!(back.payload, message.payload);
        assert_eq!(back.meta, message.meta);
        for bit in 0..body.len() * 8 {
            let mut rotted = body.clone();
            rotted[bit / 8] ^= 1 << (bit % 8);
            assert!(read_record(slot, Millis(5), &Bytes::from(rotted)).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn an_address_stands_behind_a_meta_that_reads_without_it_as_before() {
        let plain = message(b"");
        let mut referring = plain.clone();
        referring.meta.body_ref = Some(ContentHash::of(b"the object"));
        for message in [plain, referring] {
            let mut body = Vec::new();
            assert!(push_record(&mut body, &message) <= record_len(&message));
            let back = read_record(Slot::new(1, 0), Millis(5), &Bytes::from(body)).unwrap();
            assert_eq!(back.meta, message.meta);
        }
        let old = postcard::to_allocvec(&message(b"").meta).unwrap();
        assert_eq!(read_meta(&old).unwrap().body_ref, None);
        assert!(read_meta(&[&old[..], &[7; 31]].concat()).is_err());
    }

    #[test]
    fn heads_round_trip_and_notice_rot() {
        let head = Head {
            enqueued: Millis(7),
            body_len: 99,
            runs: vec![HeadRun { shard: ShardId(3), first: 0, count: 2 }],
            entries: vec![
                HeadEntry {
                    offset: 0,
                    len: 50,
                    payload_len: 9,
                    due: Some(Millis(9)),
                    expires: None,
                    group: 7,
                    source: None,
                    object: Some(1 << 40),
                },
                HeadEntry {
                    offset: 50,
                    len: 49,
                    payload_len: 8,
                    due: None,
                    expires: Some(Millis(11)),
                    group: 0,
                    source: Some(Slot::new(1, 2)),
                    object: Some(3),
                },
            ],
        };
        let row = head.encode();
        assert_eq!(Head::decode(1, &row).unwrap(), head);
        for bit in 0..row.len() * 8 {
            let mut rotted = row.clone();
            rotted[bit / 8] ^= 1 << (bit % 8);
            assert!(Head::decode(1, &rotted).is_err(), "bit {bit}");
        }
        assert!(Head::decode(1, &row[..row.len() - 1]).is_err());
    }

    #[test]
    fn neighbours_with_one_fate_share_a_run() {
        let leased = MsgState {
            phase: Phase::Leased,
            at: Millis(9),
            attempt: 1,
            delivery: 1,
            settled: Settled::No,
            noted: false,
            revived: None,
        };
        let mut delta = Delta { now: Millis(1), next_chunk: 3, runs: Vec::new() };
        for idx in 0..5 {
            delta.push(&StateOp::Set { slot: Slot::new(2, idx), state: leased, note: None });
        }
        delta.push(&StateOp::Gone { slot: Slot::new(2, 5), noted: false });
        delta.push(&StateOp::Gone { slot: Slot::new(2, 6), noted: false });
        assert_eq!(delta.runs.len(), 2);
        assert_eq!((delta.runs[0].count, delta.runs[1].count), (5, 2));
        let back: Delta = open_value(&seal_value(&delta)).unwrap();
        assert_eq!(back, delta);
    }
}
