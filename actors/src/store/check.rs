//! Whether a store is as it must be: every row's checksum, every payload's hash, and what the tables say of each
//! other. Goes in steps, each over one consistent read transaction, so that a store which is written meanwhile can
//! be checked too; a chunk and all that belongs to it is looked at in one step.

use super::check_copy::Records;
use super::codec::{ChunkStates, Delta, Head, open, open_value, read_record};
use super::cut::part_count;
use super::engine::{Dirty, TopicRow, chunk_states};
use super::error::StoreError;
use super::fanout::check_fans;
use super::findings::{Damage, Findings};
use super::fold::by_place;
use super::identity::{Identity, mark};
use super::schema::{
    BODY, DEDUP, DEDUP_BUCKET_MS, DELTA, DLQ, FORMAT, HEAD, META, NOTE, STATE, STILL, TASK, TOPIC, body_key,
};
use bytes::Bytes;
use redb::{ReadOnlyTable, ReadTransaction, ReadableTable};
use ron_core::dedup::DedupRow;
use ron_core::ids::{QueueKey, ShardId, Slot};
use ron_core::message::{DeadLetter, MsgState, Phase};
use ron_core::reprocess::Task;
use ron_core::time::Millis;
use std::collections::{BTreeMap, BTreeSet};

/// What a row without a body costs of a step's budget, bytes.
const ROW_BYTES: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Marks,
    /// Heads, bodies and states from this chunk on.
    Chunks(u64),
    Notes(u64),
    Letters(u32, u64),
    Keys(u64, u64),
    Done,
}

/// A check under way.
#[derive(Debug)]
pub struct Checker {
    stage: Stage,
    findings: Findings,
    topics: BTreeMap<ShardId, QueueKey>,
}

impl Default for Checker {
    fn default() -> Checker {
        Checker { stage: Stage::Marks, findings: Findings::default(), topics: BTreeMap::new() }
    }
}

impl Checker {
    /// Looks at about `budget` bytes more. Returns whether there is more to look at.
    ///
    /// # Errors
    /// The database's or the device's; damage is no error but a finding.
    pub(crate) fn step(&mut self, txn: &ReadTransaction, budget: usize) -> Result<bool, StoreError> {
        let mut left = budget;
        let unfolded = match self.stage {
            Stage::Chunks(_) | Stage::Letters(..) => self.unfolded(txn)?,
            _ => BTreeMap::new(),
        };
        let stage = self.stage;
        while self.stage != Stage::Done && left > 0 {
            if std::mem::discriminant(&stage) != std::mem::discriminant(&self.stage) {
                return Ok(true); // each stage begins with a step of its own
            }
            match self.stage {
                Stage::Marks => self.marks(txn)?,
                Stage::Chunks(from) => self.chunks(txn, from, &unfolded, &mut left)?,
                Stage::Notes(from) => self.notes(txn, from, &mut left)?,
                Stage::Letters(shard, from) => self.letters(txn, (shard, from), &unfolded, &mut left)?,
                Stage::Keys(bucket, from) => self.keys(txn, (bucket, from), &mut left)?,
                Stage::Done => {}
            }
        }
        Ok(self.stage != Stage::Done)
    }

    /// All of it at once.
    ///
    /// # Errors
    /// As [`Checker::step`].
    pub(crate) fn run(mut self, txn: &ReadTransaction) -> Result<Findings, StoreError> {
        while self.step(txn, usize::MAX)? {}
        Ok(self.findings)
    }

    /// What was named since the last call, all of it: for whoever acts on each.
    pub(crate) fn take_named(&mut self) -> Vec<Damage> {
        self.findings.take_named()
    }

    /// A check that names all it finds; its caller takes the names after each step.
    pub(crate) fn naming_all() -> Checker {
        Checker { findings: Findings::naming_all(), ..Checker::default() }
    }

    /// What was found so far.
    #[must_use]
    pub fn findings(&self) -> &Findings {
        &self.findings
    }

    fn count(&mut self, bytes: usize, left: &mut usize) {
        self.findings.rows += 1;
        self.findings.bytes += bytes as u64;
        *left = left.saturating_sub(bytes + ROW_BYTES);
    }

    fn marks(&mut self, txn: &ReadTransaction) -> Result<(), StoreError> {
        let meta = txn.open_table(META)?;
        for row in meta.iter()? {
            let (name, value) = row?;
            self.count(value.value().len(), &mut 0);
            if let Err(why) = open(value.value()) {
                self.findings.row("meta", name.value(), why);
            }
        }
        match mark::<u32>(&meta, "format") {
            Ok(Some(FORMAT)) => {}
            Ok(Some(found)) if found > FORMAT => {
                return Err(StoreError::NewerFormat { found, known: FORMAT });
            }
            Ok(Some(found)) => return Err(StoreError::OlderFormat { found, known: FORMAT }),
            Ok(None) => self.findings.row("meta", "format", "missing"),
            Err(_) => {}
        }
        if let Err(StoreError::Damaged { key, why, .. }) = Identity::read(&meta) {
            self.findings.row("meta", key, why);
        }
        let mut names = BTreeSet::new();
        for row in txn.open_table(TOPIC)?.iter()? {
            let (shard, value) = row?;
            self.count(value.value().len(), &mut 0);
            match open_value::<TopicRow>(value.value()) {
                Err(why) => self.findings.row("topic", shard.value(), why),
                Ok(row) => {
                    if !names.insert(row.key.clone()) {
                        self.findings.row("topic", shard.value(), "another row has the same name");
                    }
                    self.topics.insert(ShardId(shard.value()), row.key);
                }
            }
        }
        for row in txn.open_table(STILL)?.iter()? {
            let (shard, value) = row?;
            self.count(value.value().len(), &mut 0);
            if let Err(why) = open_value::<Millis>(value.value()) {
                self.findings.row("still", shard.value(), why);
            }
        }
        for row in txn.open_table(TASK)?.iter()? {
            let (key, value) = row?;
            self.count(value.value().len(), &mut 0);
            if let Err(why) = open_value::<Task>(value.value()) {
                self.findings.row("task", format!("{:?}", key.value()), why);
            }
        }
        let findings = &mut self.findings;
        let (mut rows, mut bytes) = (0, 0);
        let count = |len: usize| {
            rows += 1;
            bytes += len as u64;
        };
        check_fans(txn, count, |table, key, why| findings.row(table, key, why))?;
        self.findings.rows += rows;
        self.findings.bytes += bytes;
        self.stage = Stage::Chunks(0);
        Ok(())
    }

    /// The state changes that no state row has yet, and whether their rows are whole.
    fn unfolded(&mut self, txn: &ReadTransaction) -> Result<BTreeMap<u64, Dirty>, StoreError> {
        let first = self.stage == Stage::Chunks(0);
        let mut unfolded: BTreeMap<u64, Dirty> = BTreeMap::new();
        for row in txn.open_table(DELTA)?.iter()? {
            let (key, value) = row?;
            let delta: Delta = match open_value(value.value()) {
                Ok(delta) => delta,
                Err(why) if first => {
                    self.findings.row("delta", key.value(), why);
                    continue;
                }
                Err(_) => continue,
            };
            if first {
                self.count(value.value().len(), &mut 0);
            }
            for run in delta.runs {
                let idx = run.first.idx();
                let Some(end) = idx.checked_add(run.count).filter(|_| run.count > 0) else {
                    if first {
                        self.findings.row("delta", key.value(), "a run leaves its chunk");
                    }
                    continue;
                };
                let changes = (idx..end).map(|idx| (idx, run.state));
                unfolded.entry(run.first.chunk()).or_default().extend(changes);
            }
        }
        Ok(unfolded)
    }

    fn chunks(
        &mut self,
        txn: &ReadTransaction,
        from: u64,
        unfolded: &BTreeMap<u64, Dirty>,
        left: &mut usize,
    ) -> Result<(), StoreError> {
        let heads = txn.open_table(HEAD)?;
        let records = Records { heads: txn.open_table(HEAD)?, bodies: txn.open_table(BODY)?, last: None };
        let mut tables = ChunkTables {
            records,
            bodies: txn.open_table(BODY)?,
            states: txn.open_table(STATE)?,
            letters: txn.open_table(DLQ)?,
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
                Ok(head) => self.chunk(&mut tables, chunk, &head, unfolded.get(&chunk), left)?,
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
        unfolded: Option<&Dirty>,
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
        fate.extend(unfolded.into_iter().flatten());
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
            // What a deleted topic had may still be here, but nothing of it lives.
            strays.extend(shards.get(&idx).filter(|shard| !self.topics.contains_key(shard)));
            let (slot, shard) = (Slot::new(chunk, idx), shards.get(&idx).copied());
            self.letter_of(tables, shard, slot, state.flatten())?;
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

    fn notes(&mut self, txn: &ReadTransaction, from: u64, left: &mut usize) -> Result<(), StoreError> {
        let heads = txn.open_table(HEAD)?;
        for row in txn.open_table(NOTE)?.range(from..)? {
            let (slot, value) = row?;
            let slot = slot.value();
            self.count(value.value().len(), left);
            if let Err(why) = open(value.value()) {
                self.findings.row("note", slot, why);
            }
            if heads.get(Slot(slot).chunk())?.is_none() {
                self.findings.row("note", slot, "no head has its message");
            }
            if *left == 0 {
                self.stage = Stage::Notes(slot + 1);
                return Ok(());
            }
        }
        self.stage = Stage::Letters(0, 0);
        Ok(())
    }

    fn letters(
        &mut self,
        txn: &ReadTransaction,
        from: (u32, u64),
        unfolded: &BTreeMap<u64, Dirty>,
        left: &mut usize,
    ) -> Result<(), StoreError> {
        let states = txn.open_table(STATE)?;
        for row in txn.open_table(DLQ)?.range(from..)? {
            let (key, value) = row?;
            let (shard, slot) = key.value();
            let name = format!("({shard}, {slot})");
            self.count(value.value().len(), left);
            if let Err(why) = open_value::<DeadLetter>(value.value()) {
                self.findings.row("dlq", &name, why);
            }
            let (chunk, idx) = (Slot(slot).chunk(), Slot(slot).idx());
            let newer = unfolded.get(&chunk).and_then(|dirty| dirty.get(&idx)).copied();
            let state = match newer {
                Some(state) => state,
                None => {
                    let row = states.get(chunk)?;
                    let folded = row.and_then(|row| chunk_states(chunk, row.value()).ok());
                    folded.and_then(|folded| by_place(&folded).get(&idx).copied()).flatten()
                }
            };
            if state.is_none_or(|state| state.phase != Phase::Dead) {
                self.findings.row("dlq", &name, "its message is not dead");
            }
            if *left == 0 {
                self.stage = Stage::Letters(shard, slot + 1);
                return Ok(());
            }
        }
        self.stage = Stage::Keys(0, 0);
        Ok(())
    }

    fn keys(&mut self, txn: &ReadTransaction, from: (u64, u64), left: &mut usize) -> Result<(), StoreError> {
        for row in txn.open_table(DEDUP)?.range(from..)? {
            let (key, value) = row?;
            let (bucket, chunk) = key.value();
            self.count(value.value().len(), left);
            match open_value::<Vec<DedupRow>>(value.value()) {
                Err(why) => self.findings.row("dedup", format!("({bucket}, {chunk})"), why),
                Ok(rows) => {
                    let fits = |row: &DedupRow| {
                        row.expires.0 / DEDUP_BUCKET_MS == bucket && row.slot.chunk() == chunk
                    };
                    if !rows.iter().all(fits) {
                        self.findings.row(
                            "dedup",
                            format!("({bucket}, {chunk})"),
                            "a key is not of this row",
                        );
                    }
                }
            }
            if *left == 0 {
                self.stage = Stage::Keys(bucket, chunk + 1);
                return Ok(());
            }
        }
        self.stage = Stage::Done;
        Ok(())
    }
}

struct ChunkTables {
    records: Records,
    bodies: ReadOnlyTable<u64, &'static [u8]>,
    states: ReadOnlyTable<u64, &'static [u8]>,
    letters: ReadOnlyTable<(u32, u64), &'static [u8]>,
}
