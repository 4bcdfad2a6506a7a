//! Messages enqueued under `durability: "ram"`: their chunks are beside the database, in memory alone, and in the same
//! commits. They outlive a reopening of the database and end with the process.
//!
//! A chunk's number says which it is (odd = in memory), so an id does. Numbers are put aside on disk before they are
//! given, so that none is given again by a later process.

use super::chunks::ChunkInfo;
use super::codec::{Delta, Head};
use super::cut::CutChunk;
use super::engine::{Dirty, Engine, Work};
use super::error::UnitFailure;
use super::fold::{merge, survivors};
use super::read::ChunkImage;
use bytes::Bytes;
use ron_core::dedup::DedupRow;
use ron_core::ids::{ShardId, Slot};
use ron_core::message::{PutOutcome, StateOp};
use std::collections::BTreeMap;

/// A chunk in memory.
#[derive(Debug)]
struct RamChunk {
    head: Head,
    body: Bytes,
    fate: Dirty,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Volatile {
    chunks: BTreeMap<u64, RamChunk>,
    bytes: usize,
    /// Chunks below this are of commits that were through.
    settled: u64,
    /// Keys of its messages, while there is no engine.
    keys: Vec<DedupRow>,
}

impl Volatile {
    /// Bytes of all bodies.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// A chunk's head, and what became of its messages.
    pub(crate) fn chunk(&self, chunk: u64) -> Option<(Head, Dirty)> {
        self.chunks.get(&chunk).map(|found| (found.head.clone(), found.fate.clone()))
    }
}

impl Engine {
    /// After the transaction: what is kept in memory alone is changed and known.
    pub(crate) fn settle_volatile(
        &mut self,
        batch: &mut super::prepare::Batch,
        work: &[(ShardId, Work)],
        results: &[Result<Vec<PutOutcome>, UnitFailure>],
    ) {
        for (shard, ops) in
            work.iter().zip(results).filter(|(_, result)| result.is_ok()).map(|(w, _)| (w.0, &w.1.ops))
        {
            ops.iter().filter(|op| op.slot().is_ram()).for_each(|op| self.keep_words(shard, op));
        }
        self.apply_ram_delta(&batch.ram_delta);
        for CutChunk { chunk, head, body } in std::mem::take(&mut batch.ram_chunks) {
            self.adopt_chunk(chunk, RamChunk { head, body, fate: Dirty::new() });
        }
        self.volatile.settled = self.next_chunk;
    }

    fn adopt_chunk(&mut self, chunk: u64, kept: RamChunk) {
        let records = kept.head.entries.iter().filter(|entry| entry.len > 0).count();
        let gone = kept.fate.values().filter(|fate| fate.is_none()).count();
        let alive = kept.head.entries.len().saturating_sub(gone) as u16;
        let info = ChunkInfo { live: alive, kept: records as u16, body_len: kept.head.body_len };
        self.chunks.insert(chunk, info);
        for run in &kept.head.runs {
            let known = self.by_shard.entry(run.shard).or_default();
            known.push(chunk, |chunk| self.chunks.contains_key(&chunk));
        }
        self.reader.pin(chunk, ChunkImage::new(&kept.head, kept.body.clone()));
        self.objects_held(chunk, &kept.head);
        for (idx, _) in kept.fate.iter().filter(|(_, fate)| fate.is_none()) {
            self.reader.objects().lock().gone(Slot::new(chunk, *idx), 1);
        }
        self.volatile.bytes += kept.body.len();
        self.volatile.chunks.insert(chunk, kept);
    }

    fn apply_ram_delta(&mut self, delta: &Delta) {
        self.objects_gone(delta);
        for run in &delta.runs {
            let chunk = run.first.chunk();
            let Some(info) = self.chunks.get_mut(&chunk) else { continue };
            let Some(kept) = self.volatile.chunks.get_mut(&chunk) else { continue };
            let first = run.first.idx();
            kept.fate.extend((first..first + run.count).map(|idx| (idx, run.state)));
            if run.state.is_some() {
                continue;
            }
            info.live = info.live.saturating_sub(run.count);
            if info.live == 0 {
                self.volatile.bytes -= kept.body.len();
                self.volatile.chunks.remove(&chunk);
                self.chunks.remove(&chunk);
                self.reader.unpin(chunk);
            } else if u32::from(info.live) * 4 < u32::from(info.kept) {
                // What a few stragglers keep alive is made small at once: memory is what is scarce here.
                let (head, body) =
                    survivors(&kept.head, &kept.body, &merge(&Default::default(), &kept.fate), |_| false);
                self.volatile.bytes -= kept.body.len() - body.len();
                (kept.head, kept.body) = (head, body.into());
                (info.kept, info.body_len) = (info.live, kept.head.body_len);
                self.reader.pin(chunk, ChunkImage::new(&kept.head, kept.body.clone()));
            }
        }
    }

    /// Last errors and dead letters.
    fn keep_words(&self, shard: ShardId, op: &StateOp) {
        match op {
            StateOp::Set { slot, note: Some(note), .. } => self.reader.keep_note(*slot, note.clone()),
            StateOp::Set { note: None, .. } | StateOp::GoneRun { .. } => {}
            StateOp::Dead { slot, letter, .. } => self.reader.keep_letter(shard, *slot, letter.clone()),
            StateOp::Gone { slot, .. } | StateOp::DeadGone { slot } | StateOp::Revived { slot, .. } => {
                self.reader.forget_words(shard, *slot);
            }
        }
    }

    /// What outlives this engine: the database is closed and opened again. Keys of a commit that failed do not, since
    /// its messages do not: whoever tries again must not be told that they are there.
    pub(crate) fn take_volatile(&mut self) -> Volatile {
        let mut taken = std::mem::take(&mut self.volatile);
        let all = ron_core::planted!(DuplicateOfUncommitted);
        let through = |slot: Slot| slot.is_ram() && slot.chunk() < taken.settled;
        taken.keys = self.dedup.rows().filter(|row| all || through(row.slot)).collect();
        taken
    }

    /// Takes over what another engine left.
    pub(crate) fn adopt(&mut self, left: Volatile) {
        self.volatile.settled = left.settled;
        let ends = self.clock.ends_by(self.last_commit);
        left.keys.into_iter().filter(|row| row.expires > ends).for_each(|row| self.dedup.restore(row));
        for (chunk, kept) in left.chunks {
            self.next_chunk = self.next_chunk.max(chunk + 1);
            self.adopt_chunk(chunk, kept);
        }
        self.end_orphans();
    }

    /// Ends the messages of topics whose deletion was found to be committed after all.
    fn end_orphans(&mut self) {
        let mut gone = Delta::new(self.last_commit, self.next_chunk);
        let mut orphaned = Vec::new();
        for (chunk, kept) in &self.volatile.chunks {
            for run in kept.head.runs.iter().filter(|run| self.is_deleted(run.shard)) {
                orphaned.push(run.shard);
                let places = run.first..run.first.saturating_add(run.count);
                for idx in places.filter(|idx| kept.fate.get(idx) != Some(&None)) {
                    let slot = Slot::new(*chunk, idx);
                    self.reader.forget_words(run.shard, slot);
                    gone.push(&StateOp::Gone { slot, noted: false });
                }
            }
        }
        self.apply_ram_delta(&gone);
        orphaned.iter().for_each(|shard| drop(self.by_shard.remove(shard)));
    }
}
