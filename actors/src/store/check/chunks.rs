//! Checking a chunk and all that belongs to it: head, body, fates, dead letters, and the records that copies stand for.

use super::copy::Records;
use super::{Checker, Stage};
use crate::store::codec::{ChunkStates, Head, open_value, read_record};
use crate::store::cut::part_count;
use crate::store::engine::{Dirty, TopicRow, chunk_states};
use crate::store::error::StoreError;
use crate::store::findings::Damage;
use crate::store::fold::by_place;
use crate::store::objects::object_rows;
use crate::store::schema::{BODY, DLQ, HEAD, STATE, TOPIC, body_key};
use bytes::Bytes;
use redb::{ReadOnlyTable, ReadTransaction};
use ron_core::ids::{ShardId, Slot};
use ron_core::message::{MsgState, Phase};
use std::collections::{BTreeMap, BTreeSet};

impl Checker {
    /// Heads from `from` on, until the step is used up.
    pub(super) fn chunks(
        &mut self,
        txn: &ReadTransaction,
        from: u64,
        left: &mut usize,
    ) -> Result<(), StoreError> {
        let heads = txn.open_table(HEAD)?;
        let records = Records { heads: txn.open_table(HEAD)?, bodies: txn.open_table(BODY)?, last: None };
        let mut tables = ChunkTables {
            records,
            bodies: txn.open_table(BODY)?,
            states: txn.open_table(STATE)?,
            letters: txn.open_table(DLQ)?,
            topics: txn.open_table(TOPIC)?,
            objects: object_rows(txn)?,
        };
        let mut next = from;
        for row in heads.range(from..)? {
            let (chunk, head) = row?;
            let chunk = chunk.value();
            self.strays(&tables, next, chunk)?;
            next = chunk + 1;
            self.count(head.value().len(), left);
            if Slot::new(chunk, 0).is_ram() {
                self.findings.row("head", chunk, "its number is of those kept in memory alone");
            }
            match Head::decode(chunk, head.value()) {
                Ok(head) => self.chunk(&mut tables, chunk, &head, left)?,
                Err(StoreError::Damaged { why, .. }) => self.findings.row("head", chunk, why),
                Err(other) => return Err(other),
            }
            if *left == 0 {
                self.stage = Stage::Chunks(next);
                return Ok(());
            }
        }
        self.strays(&tables, next, u64::MAX >> 16)?;
        self.stage = Stage::Notes(0);
        Ok(())
    }

    /// Rows of chunks that do not exist.
    fn strays(&mut self, tables: &ChunkTables, from: u64, to: u64) -> Result<(), StoreError> {
        for row in tables.bodies.range(body_key(from, 0)..body_key(to, 0))? {
            self.findings.row("body", row?.0.value(), "no head has its chunk");
        }
        for row in tables.states.range(from..to)? {
            self.findings.row("state", row?.0.value(), "no head has its chunk");
        }
        Ok(())
    }

    fn chunk(
        &mut self,
        tables: &mut ChunkTables,
        chunk: u64,
        head: &Head,
        left: &mut usize,
    ) -> Result<(), StoreError> {
        let mut fate = match tables.states.get(chunk)? {
            None => Dirty::new(),
            Some(row) => {
                self.count(row.value().len(), left);
                match chunk_states(chunk, row.value()) {
                    Ok(states) => self.states(chunk, head, &states),
                    Err(StoreError::Damaged { why, .. }) => {
                        self.findings.row("state", chunk, why);
                        Dirty::new()
                    }
                    Err(other) => return Err(other),
                }
            }
        };
        fate.extend(self.unfolded.of(chunk));
        let shards = self.shards(chunk, head);
        let mut strays = BTreeSet::new();
        let body = self.body(tables, chunk, head, left)?;
        for (idx, entry) in head.entries.iter().enumerate() {
            let idx = idx as u16;
            let state = fate.get(&idx).copied();
            if entry.len == 0 || state == Some(None) {
                continue;
            }
            self.findings.messages += 1;
            let (slot, shard) = (Slot::new(chunk, idx), shards.get(&idx).copied());
            // a topic that was deleted may have had a part of the chunk, but no message that lives
            if let Some(shard) = shard
                && !self.knows(tables, shard)?
            {
                strays.insert(shard);
            }
            self.letter_of(tables, shard, slot, state.flatten())?;
            if let Some(number) = entry.object
                && !tables.has_object(number)?
            {
                self.findings.row("object", number, "missing, and a message refers to it");
            }
            let place = entry.offset as usize..entry.offset as usize + entry.len as usize;
            let own = || body.as_ref().and_then(|body| (place.end <= body.len()).then(|| body.slice(place)));
            let read = match entry.source {
                Some(source) => tables.records.read(source)?,
                None => match own() {
                    None => Err("it lies outside the body"),
                    Some(record) => {
                        read_record(slot, head.enqueued, &record).map(|message| message.payload.len())
                    }
                },
            };
            let why = match read {
                Ok(len) if len == entry.payload_len as usize => continue,
                Ok(_) => "its length is not the head's",
                Err(why) => why,
            };
            let queue = shard.and_then(|shard| self.topics.get(&shard).cloned());
            self.findings.add(Damage::Record { queue, slot, why });
        }
        for ShardId(shard) in strays {
            self.findings.row("head", chunk, format!("no topic has shard {shard}"));
        }
        Ok(())
    }

    fn states(&mut self, chunk: u64, head: &Head, states: &ChunkStates) -> Dirty {
        let entries = head.entries.len();
        let within = |(first, count): &(u16, u16)| usize::from(*first) + usize::from(*count) <= entries;
        let whole = states.gone.iter().all(within)
            && states.states.iter().all(|(idx, _)| usize::from(*idx) < entries)
            && states.gone.is_sorted_by_key(|(first, _)| *first)
            && states.states.is_sorted_by_key(|(idx, _)| *idx);
        if !whole {
            self.findings.row("state", chunk, "it does not fit its head");
            return Dirty::new();
        }
        by_place(states)
    }

    /// Which shard each message is of: the runs must cover the entries once, in order.
    fn shards(&mut self, chunk: u64, head: &Head) -> BTreeMap<u16, ShardId> {
        let mut shards = BTreeMap::new();
        let mut next = 0_usize;
        for run in &head.runs {
            let end = usize::from(run.first) + usize::from(run.count);
            if usize::from(run.first) != next || end > head.entries.len() {
                self.findings.row("head", chunk, "its runs do not cover its messages");
                return shards;
            }
            shards.extend((run.first..end as u16).map(|idx| (idx, run.shard)));
            next = end;
        }
        if next != head.entries.len() {
            self.findings.row("head", chunk, "its runs do not cover its messages");
        }
        shards
    }

    /// Whether the topic is there, or has come since the check began.
    fn knows(&mut self, tables: &ChunkTables, shard: ShardId) -> Result<bool, StoreError> {
        if self.topics.contains_key(&shard) {
            return Ok(true);
        }
        let row = tables.topics.get(shard.0)?;
        let row = row.and_then(|row| open_value::<TopicRow>(row.value()).ok());
        self.topics.extend(row.map(|row| (shard, row.key)));
        Ok(self.topics.contains_key(&shard))
    }

    /// The body, if all of its parts are there.
    fn body(
        &mut self,
        tables: &ChunkTables,
        chunk: u64,
        head: &Head,
        left: &mut usize,
    ) -> Result<Option<Bytes>, StoreError> {
        let parts = part_count(head.body_len);
        let mut body = Vec::with_capacity(head.body_len.min(1 << 21) as usize);
        let mut found = 0;
        for row in tables.bodies.range(body_key(chunk, 0)..body_key(chunk + 1, 0))? {
            let (key, part) = row?;
            self.count(part.value().len(), left);
            if key.value() != body_key(chunk, found) || found >= parts {
                self.findings.row("body", key.value(), "its head knows of no such part");
                continue;
            }
            found += 1;
            body.extend_from_slice(part.value());
        }
        if found < parts {
            self.findings.row("body", body_key(chunk, found), "missing");
            return Ok(None);
        }
        if body.len() != head.body_len as usize {
            self.findings.row("body", body_key(chunk, 0), "its length is not the head's");
        }
        Ok(Some(body.into()))
    }

    /// A dead letter has its row.
    fn letter_of(
        &mut self,
        tables: &ChunkTables,
        shard: Option<ShardId>,
        slot: Slot,
        state: Option<MsgState>,
    ) -> Result<(), StoreError> {
        let dead = state.is_some_and(|state| state.phase == Phase::Dead);
        if let Some(shard) = shard.filter(|_| dead)
            && tables.letters.get((shard.0, slot.0))?.is_none()
        {
            self.findings.row(
                "dlq",
                format!("({}, {})", shard.0, slot.0),
                "missing, and its message is dead",
            );
        }
        Ok(())
    }
}

struct ChunkTables {
    records: Records,
    bodies: ReadOnlyTable<u64, &'static [u8]>,
    states: ReadOnlyTable<u64, &'static [u8]>,
    letters: ReadOnlyTable<(u32, u64), &'static [u8]>,
    topics: ReadOnlyTable<u32, &'static [u8]>,
    objects: Option<ReadOnlyTable<u64, &'static [u8]>>,
}

impl ChunkTables {
    /// Whether there is an object with this number.
    fn has_object(&self, number: u64) -> Result<bool, StoreError> {
        let Some(objects) = &self.objects else { return Ok(false) };
        Ok(objects.get(number)?.is_some())
    }
}
