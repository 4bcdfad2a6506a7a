//! Objects in the tables (`ron_core::objects` decides): how an upload gets there part by part, becomes one, and goes.
//!
//! Parts of an upload are committed without a sync and stand in no journal: nobody has been told anything of them. Its
//! row says that it is one, and is in the commit of its first part or an earlier one, so whatever a crash leaves is
//! found by that row and removed at the next opening. The commit that makes it an object is a checkpoint, and with it
//! its parts are durable. A small object comes whole, in one commit of the journal like a message.

use super::codec::{Delta, Head, open_value, seal_value};
use super::engine::{Engine, Work};
use super::error::StoreError;
use super::schema::{OBJECT, OBJECT_PART, OBJECT_PART_BYTES, object_key};
use super::txn::{Txn, unsynced};
use bytes::Bytes;
use redb::{ReadOnlyTable, ReadTransaction, ReadableTable, TableError, WriteTransaction};
use ron_core::ids::{ContentHash, ShardId, Slot, Tenant};
use ron_core::objects::{Became, NotTaken, Object, ObjectLimits, Objects, UploadId};
use ron_core::time::Millis;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use tokio::sync::oneshot;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// The row of `META` with the number that the next object gets.
const NEXT: &str = "next_object";
/// Bytes of objects and of ended uploads removed in one commit, about.
const REMOVED_BYTES_MAX: u64 = 16 << 20;

/// A row of `OBJECT`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ObjectRow {
    /// An upload has begun. After a crash it is over.
    Uploading,
    /// All of it is there.
    Whole(Object),
}

/// What an uploader wants done.
#[derive(Debug)]
pub(crate) enum ObjectOp {
    /// More bytes of an upload: whole parts, but for the last.
    Grow(UploadId, Bytes),
    /// All bytes are there, and this is their address.
    Finish(UploadId, ContentHash),
    /// A small object at once.
    Whole(UploadId, Tenant, ContentHash, Bytes),
}

/// Why there is no object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotStored {
    /// Nothing was changed.
    Refused(NotTaken),
    /// It was not tried, or it is not known what became of it.
    Failed,
}

/// An [`ObjectOp`], and who is told.
#[derive(Debug)]
pub(crate) struct ObjectJob {
    pub(crate) op: ObjectOp,
    pub(crate) reply: oneshot::Sender<Result<(), NotStored>>,
}

impl ObjectJob {
    /// Bytes it brings.
    pub(crate) fn bytes(&self) -> usize {
        match &self.op {
            ObjectOp::Grow(_, bytes) | ObjectOp::Whole(_, _, _, bytes) => bytes.len(),
            ObjectOp::Finish(..) => 0,
        }
    }
}

/// How durable a commit of objects must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Needs {
    Nothing,
    /// Somebody's parts: whatever makes them an object makes them durable.
    Nobody,
    /// What is in the list of changes.
    Journal,
    /// What came before it without a list.
    Checkpoint,
}

impl Engine {
    /// The object of a message's tenant that the message refers to.
    pub(super) fn object_of(&self, shard: ShardId, work: &Work, hash: &ContentHash) -> Option<u64> {
        let key = work.topic.as_ref().map(|row| &row.key).or_else(|| self.topics.key(shard))?;
        let found = self.reader.objects().lock().find(&key.tenant, hash)?;
        Some(found.number)
    }

    /// The messages of a chunk hold the objects that they refer to.
    pub(super) fn objects_held(&self, chunk: u64, head: &Head) {
        let mut objects = None;
        for (entry, idx) in head.entries.iter().zip(0..).filter(|(entry, _)| entry.len > 0) {
            if let Some(number) = entry.object {
                let objects = objects.get_or_insert_with(|| self.reader.objects().lock());
                objects.hold(Slot::new(chunk, idx), number);
            }
        }
    }

    /// Messages that are gone hold nothing any more.
    pub(super) fn objects_gone(&self, delta: &Delta) {
        let mut objects = self.reader.objects().lock();
        if !objects.none_held() {
            let gone = delta.runs.iter().filter(|run| run.state.is_none());
            gone.for_each(|run| objects.gone(run.first, run.count));
        }
    }

    /// Does all of `jobs` in one commit. Results in their order.
    ///
    /// # Errors
    /// As for a commit: nothing is known about any of them, and this engine must be dropped.
    pub(crate) fn commit_objects(
        &mut self,
        jobs: &[ObjectJob],
    ) -> Result<Vec<Result<(), NotStored>>, StoreError> {
        if self.poisoned {
            return Err(StoreError::Reopening);
        }
        self.poisoned = true;
        let now = self.clock.now().max(self.last_commit);
        self.last_commit = now;
        let txn = self.begin()?;
        // what may go makes room for what comes
        let mut needs = if self.remove_objects(&txn, now)? { Needs::Journal } else { Needs::Nothing };
        let (mut results, mut new) = (Vec::with_capacity(jobs.len()), Vec::new());
        for job in jobs {
            let done = self.do_object(&txn, &job.op, now, &mut new)?;
            needs = needs.max(*done.as_ref().unwrap_or(&Needs::Nothing));
            results.push(done.map(drop).map_err(NotStored::Refused));
        }
        match needs {
            Needs::Nothing => drop(txn),
            Needs::Nobody => {
                let (mut txn, _) = txn.into_parts();
                unsynced(&mut txn)?;
                txn.commit()?;
            }
            Needs::Journal => self.finish(txn)?,
            Needs::Checkpoint => self.checkpoint(txn)?,
        }
        let mut objects = self.reader.objects().lock();
        new.into_iter().for_each(|number| objects.publish(number));
        drop(objects);
        self.poisoned = false;
        Ok(results)
    }

    fn do_object(
        &self,
        txn: &Txn,
        op: &ObjectOp,
        now: Millis,
        new: &mut Vec<u64>,
    ) -> Result<Result<Needs, NotTaken>, StoreError> {
        match op {
            ObjectOp::Grow(id, bytes) => {
                let grown = self.reader.objects().lock().grow(*id, bytes.len() as u64);
                let Ok((number, from)) = grown else { return Ok(grown.map(|_| Needs::Nothing)) };
                if from == 0 {
                    self.unlisted_row(txn, number, &ObjectRow::Uploading)?;
                }
                let mut table = txn.inner().open_table(OBJECT_PART)?;
                for (key, part) in parts_of(number, from, bytes) {
                    table.insert(key, seal_part(key, part).as_slice())?;
                }
                Ok(Ok(Needs::Nobody))
            }
            ObjectOp::Finish(id, hash) => {
                let finished = self.reader.objects().lock().finish(*id, *hash, now);
                Ok(match finished {
                    Ok(Became::New(number, object)) => {
                        self.unlisted_row(txn, number, &ObjectRow::Whole(object))?;
                        new.push(number);
                        Ok(Needs::Checkpoint)
                    }
                    Ok(Became::Known(number, object)) => {
                        write_row(txn, number, object)?;
                        Ok(Needs::Journal)
                    }
                    Ok(Became::Mends(number, object, uploaded)) => {
                        copy_parts(txn, uploaded, number, object_parts(object.len))?;
                        write_row(txn, number, object)?;
                        new.push(number);
                        Ok(Needs::Checkpoint)
                    }
                    Err(why) => Err(why),
                })
            }
            ObjectOp::Whole(id, tenant, hash, bytes) => {
                let became = self.take_whole(*id, tenant, *hash, bytes.len() as u64, now);
                Ok(match became {
                    Ok(Became::New(number, object) | Became::Mends(number, object, _)) => {
                        let mut table = txn.open_table(OBJECT_PART)?;
                        for (key, part) in parts_of(number, 0, bytes) {
                            table.insert(key, &seal_part(key, part))?;
                        }
                        write_row(txn, number, object)?;
                        txn.mark(NEXT, &self.reader.objects().lock().next_number())?;
                        new.push(number);
                        Ok(Needs::Journal)
                    }
                    Ok(Became::Known(number, object)) => {
                        write_row(txn, number, object)?;
                        Ok(Needs::Journal)
                    }
                    Err(why) => Err(why),
                })
            }
        }
    }

    fn take_whole(
        &self,
        id: UploadId,
        tenant: &Tenant,
        hash: ContentHash,
        len: u64,
        now: Millis,
    ) -> Result<Became, NotTaken> {
        let mut objects = self.reader.objects().lock();
        // first, so that a tenant at its limit can put what it has
        if let Some((number, object, damaged)) = objects.renew(tenant, &hash, now) {
            return Ok(match damaged {
                true => Became::Mends(number, object, number),
                false => Became::Known(number, object),
            });
        }
        objects.begin(id, tenant)?;
        let grown = objects.grow(id, len);
        if let Err(why) = grown {
            objects.end(id);
            return Err(why);
        }
        objects.finish(id, hash, now)
    }

    /// Writes the row of an upload, or of what it has become, past the journal; and the next number with it, so that
    /// none whose parts may be on disk is given again.
    fn unlisted_row(&self, txn: &Txn, number: u64, row: &ObjectRow) -> Result<(), StoreError> {
        txn.inner().open_table(OBJECT)?.insert(number, seal_value(row).as_slice())?;
        super::engine::write_meta(txn.inner(), NEXT, &self.reader.objects().lock().next_number())
    }

    /// Whether objects or ended uploads may be removed now.
    pub(super) fn objects_are_due(&self, now: Millis) -> bool {
        self.reader.objects().lock().is_due(self.hours_over(now))
    }

    /// Up to when objects' hours may be over by now; `None` = none may go, for a snapshot is taken of them.
    fn hours_over(&self, now: Millis) -> Option<Millis> {
        (!self.reader.rewrites_are_held()).then(|| self.clock.ends_by(now))
    }

    /// Removes some of what may go. Whether there was any.
    pub(super) fn remove_objects(&self, txn: &Txn, now: Millis) -> Result<bool, StoreError> {
        let due = {
            let mut objects = self.reader.objects().lock();
            objects.take_due(self.hours_over(now), REMOVED_BYTES_MAX)
        };
        due.iter().try_for_each(|(number, _)| remove(txn, *number))?;
        Ok(!due.is_empty())
    }
}

fn write_row(txn: &Txn, number: u64, object: Object) -> Result<(), StoreError> {
    Ok(txn.open_table(OBJECT)?.insert(number, &seal_value(&ObjectRow::Whole(object)))?)
}

fn remove(txn: &Txn, number: u64) -> Result<(), StoreError> {
    txn.open_table(OBJECT)?.remove(number)?;
    txn.open_table(OBJECT_PART)?.remove_range(object_key(number, 0), object_key(number + 1, 0))?;
    Ok(())
}

/// Puts the parts of one object into the places of another's, past the journal.
fn copy_parts(txn: &Txn, from: u64, to: u64, parts: u64) -> Result<(), StoreError> {
    let mut table = txn.inner().open_table(OBJECT_PART)?;
    for part in 0..parts {
        let (from, to) = (object_key(from, part), object_key(to, part));
        let damaged = |why| StoreError::damaged("object_part", from, why);
        let row = table.get(from)?.ok_or_else(|| damaged("missing"))?.value().to_vec();
        table.insert(to, seal_part(to, open_part(from, &row).map_err(damaged)?).as_slice())?;
    }
    Ok(())
}

/// The parts of bytes that begin at `from` in an object, which is the beginning of a part.
fn parts_of(number: u64, from: u64, bytes: &[u8]) -> impl Iterator<Item = (u64, &[u8])> {
    let first = from / OBJECT_PART_BYTES as u64;
    bytes.chunks(OBJECT_PART_BYTES).zip(first..).map(move |(part, at)| (object_key(number, at), part))
}

/// How many parts an object has.
pub(crate) const fn object_parts(len: u64) -> u64 {
    len.div_ceil(OBJECT_PART_BYTES as u64)
}

/// A part behind its checksum, which is of its place, too: one that lies elsewhere is as wrong as a damaged one.
fn seal_part(key: u64, part: &[u8]) -> Vec<u8> {
    let mut row = Vec::with_capacity(8 + part.len());
    row.extend_from_slice(&xxh3_64_with_seed(part, key).to_le_bytes());
    row.extend_from_slice(part);
    row
}

/// The bytes of a part's row, if its checksum holds.
pub(crate) fn open_part(key: u64, row: &[u8]) -> Result<&[u8], &'static str> {
    let (sum, part) = row.split_at_checked(8).ok_or("too short")?;
    if sum == xxh3_64_with_seed(part, key).to_le_bytes() { Ok(part) } else { Err("checksum") }
}

/// Reads a row of `OBJECT`.
pub(crate) fn read_row(number: u64, row: &[u8]) -> Result<ObjectRow, StoreError> {
    open_value(row).map_err(|why| StoreError::damaged("object", number, why))
}

/// The parts `from..to` of an object, back to back, each checked; fewer if it ends before.
pub(crate) fn read_parts(
    txn: &ReadTransaction,
    number: u64,
    parts: std::ops::Range<u64>,
) -> Result<Vec<u8>, StoreError> {
    let table = txn.open_table(OBJECT_PART)?;
    let mut bytes = Vec::with_capacity((parts.end - parts.start) as usize * OBJECT_PART_BYTES);
    for part in parts {
        let key = object_key(number, part);
        let row = table.get(key)?.ok_or_else(|| StoreError::damaged("object_part", key, "missing"))?;
        let part = open_part(key, row.value());
        bytes.extend_from_slice(part.map_err(|why| StoreError::damaged("object_part", key, why))?);
    }
    Ok(bytes)
}

/// The table of objects; `None` in a store of the format that had none.
pub(crate) fn object_rows(
    txn: &ReadTransaction,
) -> Result<Option<ReadOnlyTable<u64, &'static [u8]>>, StoreError> {
    match txn.open_table(OBJECT) {
        Ok(table) => Ok(Some(table)),
        Err(TableError::TableDoesNotExist(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The rows of all whole objects that a transaction sees.
pub(crate) fn whole_objects(txn: &ReadTransaction) -> Result<BTreeMap<u64, Object>, StoreError> {
    let mut whole = BTreeMap::new();
    let Some(table) = object_rows(txn)? else { return Ok(whole) };
    for row in table.iter()? {
        let (number, row) = row?;
        if let ObjectRow::Whole(object) = read_row(number.value(), row.value())? {
            whole.insert(number.value(), object);
        }
    }
    Ok(whole)
}

/// Reads what objects there are, and removes what uploads have left that were under way.
pub(super) fn recover(txn: &WriteTransaction, limits: ObjectLimits) -> Result<Objects, StoreError> {
    let next = super::identity::mark(&txn.open_table(super::schema::META)?, NEXT)?.unwrap_or(0);
    let mut objects = Objects::new(limits, next);
    let mut left = Vec::new();
    let mut table = txn.open_table(OBJECT)?;
    for row in table.iter()? {
        let (number, row) = row?;
        let number = number.value();
        match read_row(number, row.value())? {
            ObjectRow::Whole(object) => objects.restore(number, object),
            ObjectRow::Uploading => left.push(number),
        }
    }
    let mut parts = txn.open_table(OBJECT_PART)?;
    for number in left {
        table.remove(number)?;
        let range = object_key(number, 0)..object_key(number + 1, 0);
        parts.retain_in::<u64, _>(range, |_, _| false)?;
    }
    Ok(objects)
}
