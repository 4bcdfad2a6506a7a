//! Whether a store is as it must be: every row's checksum, every payload's hash, and what the tables say of each
//! other. Goes in steps, each over one consistent read transaction, so that a store which is written meanwhile can
//! be checked too; a chunk and all that belongs to it is looked at in one step.

mod chunks;
mod copy;
mod objects;
mod unfolded;

use self::unfolded::Unfolded;
use super::codec::{open, open_value};
use super::engine::{TopicRow, chunk_states};
use super::error::StoreError;
use super::fanout::check_fans;
use super::findings::{Damage, Findings};
use super::fold::by_place;
use super::identity::{Identity, mark};
use super::schema::{
    DEDUP, DEDUP_BUCKET_MS, DLQ, FORMAT, FORMAT_TAKEN_OVER, HEAD, META, NOTE, STATE, STILL, TASK, TOPIC,
};
use redb::{ReadTransaction, ReadableTable};
use ron_core::dedup::DedupRow;
use ron_core::ids::{QueueKey, ShardId, Slot};
use ron_core::message::{DeadLetter, Phase};
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
    /// Objects from this number on.
    Objects(u64),
    Done,
}

/// A check under way.
#[derive(Debug)]
pub struct Checker {
    stage: Stage,
    findings: Findings,
    topics: BTreeMap<ShardId, QueueKey>,
    unfolded: Unfolded,
    /// The object that the last step ended in.
    object: Option<objects::Begun>,
}

impl Default for Checker {
    fn default() -> Checker {
        Checker {
            stage: Stage::Marks,
            findings: Findings::default(),
            topics: BTreeMap::new(),
            unfolded: Unfolded::default(),
            object: None,
        }
    }
}

impl Checker {
    /// Looks at about `budget` bytes more. Returns whether there is more to look at.
    ///
    /// # Errors
    /// The database's or the device's; damage is no error but a finding.
    pub(crate) fn step(&mut self, txn: &ReadTransaction, budget: usize) -> Result<bool, StoreError> {
        let mut left = budget;
        if let Stage::Chunks(_) | Stage::Letters(..) = self.stage {
            self.unfolded.follow(txn, &mut self.findings)?;
        }
        let stage = self.stage;
        while self.stage != Stage::Done && left > 0 {
            if std::mem::discriminant(&stage) != std::mem::discriminant(&self.stage) {
                return Ok(true); // each stage begins with a step of its own
            }
            match self.stage {
                Stage::Marks => self.marks(txn)?,
                Stage::Chunks(from) => self.chunks(txn, from, &mut left)?,
                Stage::Notes(from) => self.notes(txn, from, &mut left)?,
                Stage::Letters(shard, from) => self.letters(txn, (shard, from), &mut left)?,
                Stage::Keys(bucket, from) => self.keys(txn, (bucket, from), &mut left)?,
                Stage::Objects(from) => self.objects(txn, from, &mut left)?,
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
            Ok(Some(FORMAT | FORMAT_TAKEN_OVER)) => {}
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
            let state = match self.unfolded.get(chunk, idx) {
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
        self.stage = Stage::Objects(0);
        Ok(())
    }
}
