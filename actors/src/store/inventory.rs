//! What a store holds, counted from its tables and without its bodies: for comparing a snapshot with the store that
//! it is to replace.

use super::codec::{ChunkStates, Delta, Head, open_value};
use super::engine::{Dirty, TopicRow, chunk_states};
use super::error::StoreError;
use super::fold::by_place;
use super::identity::mark;
use super::schema::{DEDUP, DELTA, HEAD, META, STATE, TOPIC};
use redb::{ReadTransaction, ReadableTable};
use ron_core::dedup::DedupRow;
use ron_core::ids::Slot;
use ron_core::message::Phase;
use ron_core::time::Millis;
use std::collections::{BTreeMap, HashMap};

/// The live messages of one topic: a bit each.
#[derive(Debug, Default)]
pub(crate) struct Live {
    chunks: HashMap<u64, Vec<u64>>,
    len: u64,
    /// How many of them are leased.
    pub(crate) in_flight: u64,
}

impl Live {
    fn insert(&mut self, slot: Slot) {
        let words = self.chunks.entry(slot.chunk()).or_default();
        let (word, bit) = (usize::from(slot.idx()) / 64, slot.idx() % 64);
        words.resize(words.len().max(word + 1), 0);
        words[word] |= 1 << bit;
        self.len += 1;
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// How many messages are in both.
    pub(crate) fn common(&self, other: &Live) -> u64 {
        let of = |(chunk, ours): (&u64, &Vec<u64>)| {
            let Some(theirs) = other.chunks.get(chunk) else { return 0 };
            ours.iter().zip(theirs).map(|(a, b)| u64::from((a & b).count_ones())).sum::<u64>()
        };
        self.chunks.iter().map(of).sum()
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Inventory {
    /// By name.
    pub(crate) topics: BTreeMap<String, Live>,
    live: HashMap<u64, u64>,
    /// Idempotency keys, ascending: the shard, the key's hash, the first message's place.
    pub(crate) keys: Vec<(u32, u128, u64)>,
    /// Chunks from here on were never given.
    pub(crate) next_chunk: u64,
    /// The last sign of life.
    pub(crate) node_time: Millis,
}

impl Inventory {
    /// Counts everything.
    ///
    /// # Errors
    /// The database's, or a damaged row.
    pub(crate) fn take(txn: &ReadTransaction) -> Result<Inventory, StoreError> {
        let meta = txn.open_table(META)?;
        let mut inventory = Inventory {
            next_chunk: mark(&meta, "next_chunk")?.unwrap_or(0),
            node_time: mark(&meta, "node_time")?.unwrap_or_default(),
            ..Inventory::default()
        };
        let names = topic_names(txn)?;
        inventory.topics.extend(names.values().map(|name| (name.clone(), Live::default())));
        let deltas = txn.open_table(DELTA)?;
        for row in deltas.iter()? {
            let delta: Delta = sealed("delta", row?.1.value())?;
            inventory.next_chunk = inventory.next_chunk.max(delta.next_chunk);
            inventory.node_time = inventory.node_time.max(delta.now);
        }
        let unfolded = unfolded(&deltas)?;
        let states = txn.open_table(STATE)?;
        for row in txn.open_table(HEAD)?.iter()? {
            let (chunk, value) = row?;
            let chunk = chunk.value();
            let head = Head::decode(chunk, value.value())?;
            let folded = match states.get(chunk)? {
                Some(row) => chunk_states(chunk, row.value())?,
                None => ChunkStates::default(),
            };
            let mut fate = by_place(&folded);
            fate.extend(unfolded.get(&chunk).into_iter().flatten());
            inventory.next_chunk = inventory.next_chunk.max(chunk + 1);
            inventory.node_time = inventory.node_time.max(head.enqueued);
            inventory.take_chunk(chunk, &head, &fate, &names);
        }
        for row in txn.open_table(DEDUP)?.iter()? {
            let rows: Vec<DedupRow> = sealed("dedup", row?.1.value())?;
            inventory.keys.extend(rows.iter().map(|row| (row.shard.0, row.key, row.slot.0)));
        }
        inventory.keys.sort_unstable();
        Ok(inventory)
    }

    /// Live messages of a chunk, whichever topics they are of.
    pub(crate) fn live_in(&self, chunk: u64) -> u64 {
        self.live.get(&chunk).copied().unwrap_or(0)
    }

    fn take_chunk(&mut self, chunk: u64, head: &Head, fate: &Dirty, names: &BTreeMap<u32, String>) {
        for run in &head.runs {
            let Some(name) = names.get(&run.shard.0) else { continue };
            let live = self.topics.entry(name.clone()).or_default();
            for idx in run.first..run.first.saturating_add(run.count) {
                let state = fate.get(&idx).copied();
                let kept = head.entries.get(usize::from(idx)).is_some_and(|entry| entry.len > 0);
                if !kept || state == Some(None) {
                    continue;
                }
                live.insert(Slot::new(chunk, idx));
                *self.live.entry(chunk).or_default() += 1;
                let leased = state.flatten().is_some_and(|state| state.phase == Phase::Leased);
                live.in_flight += u64::from(leased);
            }
        }
    }
}

fn topic_names(txn: &ReadTransaction) -> Result<BTreeMap<u32, String>, StoreError> {
    let mut names = BTreeMap::new();
    for row in txn.open_table(TOPIC)?.iter()? {
        let (shard, value) = row?;
        let row: TopicRow = sealed("topic", value.value())?;
        names.insert(shard.value(), row.key.to_string());
    }
    Ok(names)
}

/// The state changes that are in no state row yet, by chunk.
///
/// # Errors
/// The database's, or a damaged row.
pub(crate) fn unfolded(
    deltas: &impl ReadableTable<u64, &'static [u8]>,
) -> Result<BTreeMap<u64, Dirty>, StoreError> {
    let mut unfolded: BTreeMap<u64, Dirty> = BTreeMap::new();
    for row in deltas.iter()? {
        let delta: Delta = sealed("delta", row?.1.value())?;
        for run in delta.runs {
            let first = run.first.idx();
            let changes = (first..first.saturating_add(run.count)).map(|idx| (idx, run.state));
            unfolded.entry(run.first.chunk()).or_default().extend(changes);
        }
    }
    Ok(unfolded)
}

fn sealed<T: serde::de::DeserializeOwned>(table: &'static str, row: &[u8]) -> Result<T, StoreError> {
    open_value(row).map_err(|why| StoreError::damaged(table, "-", why))
}
