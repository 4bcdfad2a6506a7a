//! What one commit will do: duplicates decided, places given, and what must be written gathered. Changes what RAM
//! knows of numbers and keys, and nothing else.

use super::codec::{Delta, record_len};
use super::cut::{CutChunk, Cutter};
use super::engine::{Engine, Work};
use super::error::UnitFailure;
use super::fanout::Copies;
use super::schema::DEDUP_BUCKET_MS;
use ron_core::dedup::{DedupRow, Verdict};
use ron_core::fanout::Touched;
use ron_core::ids::{ShardId, Slot};
use ron_core::message::{CopyOf, DedupClaim, NewMessage, PutOutcome, StoredAt};
use ron_core::time::Millis;
use std::collections::BTreeMap;

/// Everything one commit writes.
pub(crate) struct Batch {
    pub(crate) now: Millis,
    pub(crate) chunks: Vec<CutChunk>,
    /// Kept in memory alone.
    pub(crate) ram_chunks: Vec<CutChunk>,
    pub(crate) keys: BTreeMap<(u64, u64), Vec<DedupRow>>,
    pub(crate) delta: Delta,
    /// Changes of messages that are kept in memory alone.
    pub(crate) ram_delta: Delta,
    /// What has changed of lists and cursors.
    pub(crate) touched: Touched,
    /// Up to which number chunks must be known to be used, before those kept in memory alone may have them.
    pub(crate) reserve_to: u64,
    /// Whether there is anything that memory alone will not do for.
    pub(crate) needs_disk: bool,
    pub(crate) size: usize,
}

/// Numbers of chunks put aside at once, so that one kept in memory alone costs no commit.
const RESERVED_CHUNKS: u64 = 1 << 16;

/// Where the messages of a commit go.
struct Cuts {
    durable: Cutter,
    ram: Cutter,
    /// Bytes of bodies that are kept in memory alone, these included.
    ram_bytes: usize,
    keys: BTreeMap<(u64, u64), Vec<DedupRow>>,
    /// The last message, and whose it is.
    last: Option<(ShardId, Slot)>,
}

impl Cuts {
    /// Puts one message of `shard` behind all others of it, of either kind: in a commit too, places rise in the
    /// order in which they are given, or one that comes later would stand before one that is at work already.
    fn push(&mut self, ram: bool, shard: ShardId, message: &NewMessage, object: Option<u64>) -> StoredAt {
        let cutter = if ram { &mut self.ram } else { &mut self.durable };
        if let Some((_, last)) = self.last.filter(|(of, _)| *of == shard) {
            cutter.rise_above(last);
        }
        let stored = cutter.push_holding(shard, message, object);
        self.last = Some((shard, stored.slot));
        if ram {
            self.ram_bytes += record_len(message);
        }
        stored
    }

    /// The same with a copy.
    fn push_copy(&mut self, shard: ShardId, of: &CopyOf) -> StoredAt {
        if let Some((_, last)) = self.last.filter(|(of, _)| *of == shard) {
            self.durable.rise_above(last);
        }
        let stored = self.durable.push_copy(shard, of);
        self.last = Some((shard, stored.slot));
        stored
    }
}

impl Engine {
    /// Decides duplicates, gives slots, and gathers what must be written.
    pub(crate) fn prepare(
        &mut self,
        work: &[(ShardId, Work)],
        results: &mut [Result<Vec<PutOutcome>, UnitFailure>],
    ) -> Batch {
        let now = self.clock.now().max(self.last_commit);
        self.last_commit = now;
        let mut order: Vec<usize> = (0..work.len()).filter(|&i| results[i].is_ok()).collect();
        order.sort_by_key(|&i| work[i].0); // stable: a shard's own order stays
        // Even numbers for what is on disk, odd ones for what is not: an id says for life which it is.
        let first = self.next_chunk.next_multiple_of(2);
        let (durable, ram) = (Cutter::new(now, first), Cutter::new(now, first + 1));
        let mut cuts =
            Cuts { durable, ram, ram_bytes: self.volatile.bytes(), keys: BTreeMap::new(), last: None };
        let (mut size, mut needs_disk) = (0, false);
        let mut touched = Touched::default();
        // Lists first: a message that is stored with a change goes to the list as it is then.
        for (shard, work) in order.iter().map(|&i| &work[i]) {
            self.change_lists(*shard, work, Slot::new(first, 0), &mut touched);
        }
        for &i in &order {
            let (shard, work) = &work[i];
            let outcomes = work.puts.iter().map(|message| self.put(&mut cuts, now, *shard, work, message));
            let mut outcomes: Vec<PutOutcome> = outcomes.collect();
            if let Some(copies) = &work.copies {
                self.put_copies(&mut cuts, *shard, copies, &mut touched, &mut outcomes);
            }
            let rows = [work.topic.is_some(), work.task.is_some(), work.delete];
            let rows = rows.into_iter().map(usize::from).sum::<usize>();
            size += outcomes.len() + work.ops.len() + rows;
            needs_disk |= rows > 0 || !(work.ram || outcomes.is_empty());
            results[i] = Ok(outcomes);
        }
        let (chunks, next) = cuts.durable.finish();
        let (ram_chunks, next_ram) = cuts.ram.finish();
        self.next_chunk = next.max(next_ram - 1);
        let (mut delta, mut ram_delta) = (Delta::new(now, self.next_chunk), Delta::new(now, self.next_chunk));
        for op in order.iter().flat_map(|&i| &work[i].1.ops) {
            if op.slot().is_ram() { ram_delta.push(op) } else { delta.push(op) }
        }
        let unproven = !ram_chunks.is_empty() && self.next_chunk > self.reserved;
        let reserve_to = if unproven { self.next_chunk + RESERVED_CHUNKS } else { 0 };
        needs_disk |= unproven || !(chunks.is_empty() && delta.runs.is_empty() && touched.is_empty());
        let keys = cuts.keys;
        Batch { now, chunks, ram_chunks, keys, delta, ram_delta, touched, reserve_to, needs_disk, size }
    }

    fn change_lists(&self, shard: ShardId, work: &Work, boundary: Slot, touched: &mut Touched) {
        let known = || self.topics.key(shard);
        let Some(key) = work.topic.as_ref().map(|row| &row.key).or_else(known) else { return };
        if let Some(edit) = &work.edit {
            self.edit_list(shard, key, boundary, edit, touched);
        }
        if work.delete {
            self.reader.fans().lock().delete(shard, key, boundary, touched);
        }
    }

    /// Copies get their places if the cursor is where they begin; if not, they have been brought before.
    fn put_copies(
        &mut self,
        cuts: &mut Cuts,
        shard: ShardId,
        copies: &Copies,
        touched: &mut Touched,
        outcomes: &mut Vec<PutOutcome>,
    ) {
        if !self.reader.fans().lock().advance(&copies.step, touched) {
            outcomes.extend(copies.messages.iter().map(|_| PutOutcome::Overtaken));
            return;
        }
        for of in &copies.messages {
            let stored = cuts.push_copy(shard, of);
            self.refs.add(stored.slot, of.slot);
            outcomes.push(PutOutcome::Stored(stored));
        }
    }

    fn put(
        &mut self,
        cuts: &mut Cuts,
        now: Millis,
        shard: ShardId,
        work: &Work,
        message: &NewMessage,
    ) -> PutOutcome {
        let ends = self.clock.ends_by(now);
        let verdict = message.dedup.as_ref().map(|claim| (claim, self.dedup.check(ends, shard, claim)));
        let over = |slot: Slot| slot.chunk() < self.next_chunk && !self.chunks.contains_key(&slot.chunk());
        match verdict {
            Some((_, Verdict::Duplicate { slot, .. }))
                if ron_core::planted!(DedupEndsWithMessage) && over(slot) => {}
            Some((_, Verdict::Duplicate { slot, enqueued, other_body })) => {
                return PutOutcome::Duplicate { slot, enqueued, other_body };
            }
            Some((_, Verdict::Conflict)) => return PutOutcome::Conflict,
            Some((_, Verdict::Full)) => return PutOutcome::DedupFull,
            Some((_, Verdict::New)) | None => {}
        }
        let object = match message.meta.body_ref.map(|hash| self.object_of(shard, work, &hash)) {
            Some(None) => return PutOutcome::NoObject,
            object => object.flatten(),
        };
        let fits = cuts.ram_bytes + record_len(message) <= self.config.ram_bytes_max;
        // What takes a dead letter's place must not be lost, since that one ends with it: then it goes to disk.
        let replaces = !work.ops.is_empty();
        if work.ram && !fits && !replaces {
            return PutOutcome::RamFull;
        }
        // Copies stand for its record, and must not outlive it.
        let ram = work.ram && fits && !self.reader.fans().lock().is_source(shard);
        let stored = cuts.push(ram, shard, message, object);
        if let Some(claim) = &message.dedup {
            let row = self.remember(now, shard, claim, &stored);
            let bucket = row.expires.0 / DEDUP_BUCKET_MS;
            if !ram {
                cuts.keys.entry((bucket, stored.slot.chunk())).or_default().push(row);
            }
        }
        PutOutcome::Stored(stored)
    }

    fn remember(&mut self, now: Millis, shard: ShardId, claim: &DedupClaim, stored: &StoredAt) -> DedupRow {
        let expires = now.plus(claim.window_ms);
        self.dedup.insert(shard, claim, stored.slot, stored.enqueued, expires)
    }
}
