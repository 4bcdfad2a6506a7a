//! Background work between commits: folding delta rows into states, rewriting chunks that a few stragglers
//! keep alive, dropping expired idempotency keys. Small slices, so that a send never waits for long.

use super::codec::{ChunkStates, Head, HeadEntry, seal_value};
use super::engine::{Dirty, Engine, chunk_states};
use super::error::StoreError;
use super::schema::{BODY, DEDUP, DEDUP_BUCKET_MS, DELTA, HEAD, STATE, body_key};
use super::txn::Txn;
use redb::ReadableTable;
use ron_core::ids::Slot;
use ron_core::time::Millis;

/// States folded in one commit.
const FOLD_ROWS_MAX: usize = 64;
/// Unfolded deltas that start a fold at the next idle moment.
const FOLD_BYTES: usize = 1024 * 1024;
/// Messages with unfolded states that start a fold: they are what an unfolded delta costs in RAM.
const FOLD_STATES: usize = 100_000;
/// Age of an unfolded delta that starts a fold.
const FOLD_AGE_MS: u64 = 5_000;
/// Beyond this multiple of the limits, folding rides in the commits themselves: it must not starve under load.
const FOLD_FORCED: usize = 4;
/// Chunks rewritten in one commit.
const REWRITE_CHUNKS_MAX: usize = 4;
/// How often node time is saved while leases are out, ms: what a restart knows of the time it lost.
const HEARTBEAT_MS: u64 = 5_000;

impl Engine {
    /// Whether the fold must ride in the next commit.
    pub(crate) fn fold_is_due_now(&self) -> bool {
        !self.folding.is_empty()
            || self.delta_bytes > FOLD_BYTES * FOLD_FORCED
            || self.dirty_len > FOLD_STATES * FOLD_FORCED
    }

    fn fold_is_due(&self, now: Millis) -> bool {
        let old = self.oldest_unfolded.is_some_and(|since| now.since(since) >= FOLD_AGE_MS);
        !self.folding.is_empty() || self.delta_bytes > FOLD_BYTES || self.dirty_len > FOLD_STATES || old
    }

    /// Folds the states of up to [`FOLD_ROWS_MAX`] chunks. When all that a fold began with is done, the delta
    /// rows it covers go.
    pub(crate) fn fold_slice(&mut self, txn: &Txn) -> Result<(), StoreError> {
        if self.folding.is_empty() {
            self.folding = std::mem::take(&mut self.dirty);
            self.folding_upto = self.next_delta;
            self.delta_bytes = 0;
            self.dirty_len = 0;
            self.oldest_unfolded = None;
        }
        {
            let mut table = txn.open_table(STATE)?;
            for _ in 0..FOLD_ROWS_MAX {
                let Some((chunk, changes)) = self.folding.pop_first() else { break };
                if !self.chunks.contains_key(&chunk) {
                    continue;
                }
                let before = match table.get(chunk)? {
                    Some(row) => chunk_states(chunk, row.value())?,
                    None => ChunkStates::default(),
                };
                let folded = merge(&before, &changes);
                table.insert(chunk, &seal_value(&folded))?;
            }
        }
        if self.folding.is_empty() {
            txn.open_table(DELTA)?.remove_range(0, self.folding_upto)?;
            self.save_marks(txn, self.last_commit)?;
        }
        Ok(())
    }

    /// Saves what is otherwise proven only by rows that may vanish.
    pub(crate) fn save_marks(&mut self, txn: &Txn, alive: Millis) -> Result<(), StoreError> {
        self.last_saved = self.last_saved.max(alive);
        txn.mark("next_chunk", &self.next_chunk.max(self.reserved))?;
        txn.mark("node_time", &alive)
    }

    /// One commit of background work, if any is due. Returns whether there was some: then ask again.
    ///
    /// # Errors
    /// As for a commit: the engine must be dropped.
    pub(crate) fn idle_work(&mut self) -> Result<bool, StoreError> {
        if self.poisoned {
            return Err(StoreError::Reopening);
        }
        let now = self.clock.now().max(self.last_commit);
        let fold = self.fold_is_due(now);
        let rewrite = !fold && !self.stragglers.is_empty() && !self.reader.rewrites_are_held();
        let sweep = now.since(self.dedup_swept) >= DEDUP_BUCKET_MS;
        let heartbeat = now < self.latest_deadline && now.since(self.last_saved) >= HEARTBEAT_MS;
        let release = self.reader.fans().lock().has_released();
        let objects = self.objects_are_due(now);
        if !(fold || rewrite || sweep || heartbeat || release || objects) {
            return Ok(false);
        }
        self.poisoned = true;
        self.last_commit = now;
        let txn = self.begin()?;
        let mut rewritten = Vec::new();
        if fold {
            self.fold_slice(&txn)?;
        } else if rewrite {
            rewritten = self.rewrite_slice(&txn)?;
        }
        if sweep {
            self.sweep_dedup(&txn, now)?;
        }
        if release {
            self.let_go(&txn)?;
        }
        if objects {
            self.remove_objects(&txn, now)?;
        }
        self.still.save(&txn)?;
        self.save_marks(&txn, self.last_commit)?;
        self.finish(txn)?;
        self.reader.forget(rewritten);
        self.poisoned = false;
        Ok(true)
    }

    /// A commit of the marks alone.
    ///
    /// # Errors
    /// As for a commit: the engine must be dropped.
    pub(crate) fn save_time(&mut self) -> Result<(), StoreError> {
        if self.poisoned {
            return Err(StoreError::Reopening);
        }
        self.poisoned = true;
        self.last_commit = self.clock.now().max(self.last_commit);
        let txn = self.begin()?;
        self.save_marks(&txn, self.last_commit)?;
        self.finish(txn)?;
        self.poisoned = false;
        Ok(())
    }

    /// Folds everything and saves the marks: the last commit before closing.
    pub(crate) fn settle_for_good(&mut self) -> Result<(), StoreError> {
        if self.poisoned {
            return Err(StoreError::Reopening);
        }
        self.poisoned = true;
        self.last_commit = self.clock.now().max(self.last_commit);
        let txn = self.begin()?;
        while !(self.dirty.is_empty() && self.folding.is_empty()) {
            self.fold_slice(&txn)?;
        }
        while self.remove_objects(&txn, self.last_commit)? {}
        self.still.save(&txn)?;
        self.save_marks(&txn, self.last_commit)?;
        self.checkpoint(txn)?;
        self.poisoned = false;
        Ok(())
    }

    /// Drops the keys of expiry buckets that have passed.
    pub(crate) fn sweep_dedup(&mut self, txn: &Txn, now: Millis) -> Result<(), StoreError> {
        self.dedup_swept = now;
        let ends = self.clock.ends_by(now);
        self.dedup.forget_before(ends);
        let bucket = ends.0 / DEDUP_BUCKET_MS + u64::from(ron_core::planted!(DedupSweptTooFar));
        txn.open_table(DEDUP)?.remove_range((0, 0), (bucket, 0))?;
        Ok(())
    }

    /// Rewrites up to [`REWRITE_CHUNKS_MAX`] chunks in place, survivors only: a message keeps its place for ever.
    fn rewrite_slice(&mut self, txn: &Txn) -> Result<Vec<u64>, StoreError> {
        let mut heads = txn.open_table(HEAD)?;
        let mut bodies = txn.open_table(BODY)?;
        let states = txn.open_table(STATE)?;
        let mut rewritten = Vec::new();
        while rewritten.len() < REWRITE_CHUNKS_MAX {
            let Some(chunk) = self.stragglers.pop_first() else { break };
            if self.reader.fans().lock().holds(chunk) {
                continue; // looked at again when it is let go
            }
            let Some(head) = heads.get(chunk)?.map(|row| Head::decode(chunk, row.value())).transpose()?
            else {
                continue;
            };
            let key = body_key(chunk, 0);
            let Some(body) = bodies.get(key)?.map(|row| row.value().to_vec()) else { continue };
            if body.len() != head.body_len as usize {
                continue; // more than one part: one large message, nothing to gain
            }
            let folded = match states.get(chunk)? {
                Some(row) => chunk_states(chunk, row.value())?,
                None => ChunkStates::default(),
            };
            let folded = merge(&folded, &self.unfolded(chunk));
            let refs = &self.refs;
            let (head, body) = survivors(&head, &body, &folded, |idx| refs.needs(Slot::new(chunk, idx)));
            heads.insert(chunk, &head.encode())?;
            if body.is_empty() {
                bodies.remove(key)?; // copies alone are left: what has no parts leaves no row behind
            } else {
                bodies.insert(key, &body)?;
            }
            if let Some(info) = self.chunks.get_mut(&chunk) {
                info.kept = head.entries.iter().filter(|entry| entry.len > 0).count() as u16;
                info.body_len = head.body_len;
            }
            rewritten.push(chunk);
        }
        Ok(rewritten)
    }

    /// What is not yet in the chunk's `STATE` row.
    pub(crate) fn unfolded(&self, chunk: u64) -> Dirty {
        let mut all = self.folding.get(&chunk).cloned().unwrap_or_default();
        if let Some(newer) = self.dirty.get(&chunk) {
            all.extend(newer);
        }
        all
    }
}

/// The folded states with newer changes on top.
pub(crate) fn merge(before: &ChunkStates, changes: &Dirty) -> ChunkStates {
    let mut all = by_place(before);
    let older = |idx| ron_core::planted!(FoldKeepsOlder) && before.states.iter().any(|(old, _)| old == idx);
    all.extend(changes.iter().filter(|(idx, _)| !older(*idx)));
    let mut merged = ChunkStates::default();
    for (idx, state) in all {
        match (state, merged.gone.last_mut()) {
            (Some(state), _) => merged.states.push((idx, state)),
            (None, Some((first, count))) if *first + *count == idx => *count += 1,
            (None, _) => merged.gone.push((idx, 1)),
        }
    }
    merged
}

/// The states of a chunk by place; `None` = gone.
pub(crate) fn by_place(states: &ChunkStates) -> Dirty {
    let mut all: Dirty = states.states.iter().map(|(idx, state)| (*idx, Some(*state))).collect();
    for (first, count) in &states.gone {
        all.extend((*first..*first + *count).map(|idx| (idx, None)));
    }
    all
}

/// The chunk without the records of what is gone and nobody needs.
/// `needed`: gone, but copies stand for its record.
pub(crate) fn survivors(
    head: &Head,
    body: &[u8],
    states: &ChunkStates,
    needed: impl Fn(u16) -> bool,
) -> (Head, Vec<u8>) {
    let fate = by_place(states);
    let mut kept = Vec::new();
    let mut entries = Vec::with_capacity(head.entries.len());
    for (idx, entry) in head.entries.iter().enumerate() {
        let unread = ron_core::planted!(RewriteDropsUndelivered) && !fate.contains_key(&(idx as u16));
        let gone = unread || matches!(fate.get(&(idx as u16)), Some(None)) && !needed(idx as u16);
        if entry.source.is_some() && !gone {
            entries.push(*entry);
            continue;
        }
        let (from, to) = (entry.offset as usize, (entry.offset + entry.len) as usize);
        // A record that rotted out of its bounds stays as it is, to be found on delivery.
        match body.get(from..to) {
            Some(record) if !gone && entry.len > 0 => {
                entries.push(HeadEntry { offset: kept.len() as u32, ..*entry });
                kept.extend_from_slice(record);
            }
            Some(_) | None => entries.push(HeadEntry { offset: 0, len: 0, ..*entry }),
        }
    }
    let body_len = kept.len() as u32;
    (Head { enqueued: head.enqueued, body_len, runs: head.runs.clone(), entries }, kept)
}
