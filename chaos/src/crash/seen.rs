//! What a store holds, read the way the node reads it, and how that differs from what it must hold.

use super::Violation;
use super::model::Model;
use ron_actors::store::{BootCounts, ReadFailure, Reader};
use ron_core::ids::{ContentHash, QueueKey, ShardId, Slot};
use ron_core::message::{DeadLetter, Phase, Recovered, StoredAt, StoredMessage};
use std::collections::{BTreeMap, BTreeSet};

/// One topic as the store has it.
#[derive(Debug)]
pub struct SeenShard {
    rows: Vec<Recovered>,
    bodies: Vec<Result<StoredMessage, ReadFailure>>,
    letters: Vec<Option<DeadLetter>>,
}

/// All topics.
#[derive(Debug, Default)]
pub struct Seen {
    /// Those that exist.
    pub shards: BTreeMap<u32, SeenShard>,
    /// Names and first figures, after a boot.
    pub topics: BTreeMap<u32, (QueueKey, BootCounts)>,
}

/// Reads bodies and dead letters of the rows of a shard.
///
/// # Errors
/// The store cannot be read.
pub(super) fn look(reader: &Reader, shard: u32, rows: Vec<Recovered>) -> Result<SeenShard, Violation> {
    let slots: Vec<Slot> = rows.iter().map(|row| row.stored.slot).collect();
    let bodies = reader.fetch_blocking(&slots);
    let letters = reader
        .letters_blocking(ShardId(shard), &slots)
        .map_err(|error| Violation::refused(format!("dead letters of {shard}: {error}")))?;
    Ok(SeenShard { rows, bodies, letters })
}

impl Seen {
    /// The first difference to what must be there; `None` = none.
    #[must_use]
    pub fn differs(&self, model: &Model) -> Option<String> {
        let topics: Vec<u32> = model.topics().collect();
        if !self.shards.keys().eq(&topics) {
            return Some(format!("topics {:?} instead of {topics:?}", self.shards.keys()));
        }
        for (shard, (_, counts)) in &self.topics {
            let wrong = self.shards.get(shard).and_then(|seen| seen.counts_differ(counts));
            if let Some(text) = wrong {
                return Some(format!("shard {shard}: {text}"));
            }
        }
        self.shards.iter().find_map(|(shard, seen)| {
            seen.differs(*shard, model).map(|text| format!("shard {shard}: {text}"))
        })
    }

    /// The places of a shard's messages that are not among `known`.
    #[must_use]
    pub fn new_rows(&self, shard: u32, known: &BTreeSet<Slot>) -> Vec<StoredAt> {
        let rows = self.shards.get(&shard).map(|seen| seen.rows.as_slice()).unwrap_or_default();
        rows.iter().map(|row| row.stored).filter(|stored| !known.contains(&stored.slot)).collect()
    }
}

impl SeenShard {
    fn counts_differ(&self, counts: &BootCounts) -> Option<String> {
        let in_phase = |phase| {
            self.rows.iter().filter(|row| row.state.is_some_and(|state| state.phase == phase)).count() as u64
        };
        let total = counts.ready + counts.delayed + counts.vis + counts.dlq;
        let right = total == self.rows.len() as u64
            && counts.vis == in_phase(Phase::Leased)
            && counts.dlq == in_phase(Phase::Dead);
        (!right).then(|| format!("counted {counts:?} of {} messages", self.rows.len()))
    }

    fn differs(&self, shard: u32, model: &Model) -> Option<String> {
        let found: BTreeSet<Slot> = self.rows.iter().map(|row| row.stored.slot).collect();
        let expected = model.slots(shard);
        if found != expected {
            let lost: Vec<_> = expected.difference(&found).collect();
            let back: Vec<_> = found.difference(&expected).collect();
            return Some(format!("lost {lost:?}, back from the dead {back:?}"));
        }
        let rows = self.rows.iter().zip(&self.bodies).zip(&self.letters);
        for ((row, body), letter) in rows {
            let slot = row.stored.slot;
            let Some(right) = model.expects(shard, slot) else { continue };
            if (row.stored, row.state) != (right.stored, right.state) {
                let expected = (right.stored, right.state);
                return Some(format!("{slot:?} is {row:?}, expected {expected:?}"));
            }
            let Ok(body) = body else { return Some(format!("{slot:?} cannot be read: {body:?}")) };
            let same = body.payload == right.draft.payload
                && body.meta == right.draft.meta
                && body.enqueued == right.stored.enqueued
                && body.payload_hash == ContentHash::of(&right.draft.payload);
            if !same {
                return Some(format!("{slot:?} came back with other contents"));
            }
            if letter.as_ref() != right.letter {
                return Some(format!("{slot:?} is dead as {letter:?}, expected {:?}", right.letter));
            }
        }
        None
    }
}
