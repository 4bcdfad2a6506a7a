//! Cutting a commit into chunks: messages sorted by shard, records back to back, places given here and nowhere
//! else. A chunk ends before it would cost redb the next size of page; a message larger than that has a chunk
//! of its own, stored in parts.

use super::codec::{COPY_LEN, Head, HeadEntry, HeadRun, push_record, record_len};
use super::schema::BODY_PART_BYTES_MAX;
use bytes::Bytes;
use ron_core::ids::{ShardId, Slot};
use ron_core::message::{CopyOf, NewMessage, StoredAt};
use ron_core::time::Millis;

/// Most messages in a chunk: the place in a chunk has 16 bits.
const CHUNK_MESSAGES_MAX: usize = 60_000;
/// Most messages in a chunk that gets a copy: whoever loads one subscriber reads the whole head.
const CHUNK_COPIES_MAX: usize = 1_000;

/// A chunk ready to be written.
#[derive(Debug)]
pub struct CutChunk {
    /// Its number.
    pub chunk: u64,
    /// What is in it.
    pub head: Head,
    /// The records, back to back.
    pub body: Bytes,
}

/// Packs messages into chunks, in the order they are pushed. Every other number: see `volatile`.
#[derive(Debug)]
pub struct Cutter {
    now: Millis,
    next_chunk: u64,
    open: Option<(Head, Vec<u8>)>,
    done: Vec<CutChunk>,
}

impl Cutter {
    /// A commit at `now` whose first chunk is `next_chunk`.
    #[must_use]
    pub fn new(now: Millis, next_chunk: u64) -> Cutter {
        Cutter { now, next_chunk, open: None, done: Vec::new() }
    }

    /// Puts one message of `shard` behind the others.
    pub fn push(&mut self, shard: ShardId, message: &NewMessage) -> StoredAt {
        self.push_holding(shard, message, None)
    }

    /// The same for one that refers to the object of this number.
    pub(crate) fn push_holding(
        &mut self,
        shard: ShardId,
        message: &NewMessage,
        object: Option<u64>,
    ) -> StoredAt {
        let wanted = record_len(message);
        let full = |(head, body): &(Head, Vec<u8>)| {
            body.len() + wanted > BODY_PART_BYTES_MAX || head.entries.len() >= CHUNK_MESSAGES_MAX
        };
        if self.open.as_ref().is_some_and(full) {
            self.close();
        }
        let now = self.now;
        let (_, body) = self.opened();
        let offset = body.len() as u32;
        let len = push_record(body, message) as u32;
        let rest = if ron_core::planted!(DelayInWholeSeconds) { message.delay_ms % 1_000 } else { 0 };
        let due = (message.delay_ms > 0).then(|| now.plus(message.delay_ms - rest));
        let expires = message.ttl_ms.map(|ttl| now.plus(ttl));
        let payload_len = message.payload.len() as u32;
        let group = message.group();
        let source = None;
        self.enter(shard, HeadEntry { offset, len, payload_len, due, expires, group, source, object })
    }

    /// Puts one copy for `shard` behind the others.
    pub(crate) fn push_copy(&mut self, shard: ShardId, of: &CopyOf) -> StoredAt {
        if self.open.as_ref().is_some_and(|(head, _)| head.entries.len() >= CHUNK_COPIES_MAX) {
            self.close();
        }
        let CopyOf { slot, len: payload_len, due, expires, group, object } = *of;
        let (len, source) = (COPY_LEN, Some(slot));
        self.enter(shard, HeadEntry { offset: 0, len, payload_len, due, expires, group, source, object })
    }

    fn opened(&mut self) -> &mut (Head, Vec<u8>) {
        let enqueued = self.now;
        self.open.get_or_insert_with(|| {
            (Head { enqueued, body_len: 0, runs: Vec::new(), entries: Vec::new() }, Vec::new())
        })
    }

    fn enter(&mut self, shard: ShardId, entry: HeadEntry) -> StoredAt {
        let enqueued = self.now;
        let (head, _) = self.opened();
        let idx = head.entries.len() as u16;
        head.entries.push(entry);
        match head.runs.last_mut() {
            Some(run) if run.shard == shard => run.count += 1,
            Some(_) | None => head.runs.push(HeadRun { shard, first: idx, count: 1 }),
        }
        let slot = Slot::new(self.next_chunk, idx);
        let HeadEntry { payload_len: len, due, expires, group, .. } = entry;
        StoredAt { slot, enqueued, len, due, expires, group }
    }

    /// The next message gets a place above this one, of whichever kind.
    pub(crate) fn rise_above(&mut self, slot: Slot) {
        if self.next_chunk < slot.chunk() {
            self.close();
            // what was closed above is below still, or was nothing
            let kind = self.next_chunk % 2;
            let above = slot.chunk() + 1;
            self.next_chunk = self.next_chunk.max(above + (above + kind) % 2);
        }
    }

    fn close(&mut self) {
        if let Some((mut head, body)) = self.open.take() {
            head.body_len = body.len() as u32;
            self.done.push(CutChunk { chunk: self.next_chunk, head, body: body.into() });
            self.next_chunk += 2;
        }
    }

    /// The chunks, and the number after the last one of their kind.
    #[must_use]
    pub fn finish(mut self) -> (Vec<CutChunk>, u64) {
        self.close();
        (self.done, self.next_chunk)
    }
}

/// The parts that a body is stored in.
pub(crate) fn parts(body: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    body.chunks(BODY_PART_BYTES_MAX).enumerate()
}

/// How many parts a body of this length has.
pub(crate) const fn part_count(body_len: u32) -> usize {
    (body_len as usize).div_ceil(BODY_PART_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ron_core::ids::ContentHash;
    use ron_core::message::MessageMeta;

    fn message(len: usize) -> NewMessage {
        let payload = Bytes::from(vec![b'x'; len]);
        let meta = MessageMeta {
            content_type: "text/plain".into(),
            attrs: Vec::new(),
            idempotency_key: None,
            corr_id: "c".into(),
            source_msg_id: None,
            body_ref: None,
        };
        let payload_hash = ContentHash::of(&payload);
        NewMessage { payload, payload_hash, meta, delay_ms: 0, ttl_ms: None, dedup: None }
    }

    #[test]
    fn chunks_end_before_the_costly_size_and_slots_rise() {
        let mut cutter = Cutter::new(Millis(5), 100);
        let mut slots = Vec::new();
        for i in 0..1000 {
            slots.push(cutter.push(ShardId(i / 300), &message(256)).slot);
        }
        slots.push(cutter.push(ShardId(9), &message(1024 * 1024)).slot);
        slots.push(cutter.push(ShardId(9), &message(10)).slot);
        let (chunks, next) = cutter.finish();
        assert!(slots.is_sorted_by(|a, b| a < b));
        assert_eq!(next, 100 + 2 * chunks.len() as u64);
        let total: usize = chunks.iter().map(|chunk| chunk.head.entries.len()).sum();
        assert_eq!(total, 1002);
        for chunk in &chunks {
            let alone = chunk.head.entries.len() == 1;
            assert!(chunk.body.len() <= BODY_PART_BYTES_MAX || alone, "{}", chunk.body.len());
            assert_eq!(parts(&chunk.body).count(), part_count(chunk.head.body_len));
            assert!(parts(&chunk.body).all(|(_, part)| part.len() <= BODY_PART_BYTES_MAX));
        }
        assert!(chunks.iter().any(|chunk| part_count(chunk.head.body_len) == 18), "1 MiB takes 18 parts");
    }
}
