//! A consistent copy of a store that is written meanwhile, out of short read transactions: redb keeps every page
//! that a reader may still see, so one long reader would make the file grow by all that is written meanwhile.
//!
//! Heads, bodies and keys never change once they are written (rewrites are held), and chunk numbers are never given
//! twice. So they are copied slice by slice, each out of a transaction of its own, until nearly all are there. Then
//! one transaction, the *cut*, gives what does change (marks, topics, deltas, states, notes, dead letters, tasks,
//! fanout, rows of objects), the few chunks that came since, and which of the copied ones still exist. What comes out
//! is the store as it was at the commit before the cut, whole.

use super::copy_objects::CopiedObjects;
use super::engine::Engine;
use super::error::StoreError;
use super::identity::{SnapshotMark, mark_snapshot};
use super::schema::{
    BODY, DEDUP, DELTA, DLQ, FAN, HEAD, LIST, META, NOTE, STATE, STILL, SUBS, TASK, TOPIC, body_key,
};
use super::txn::unsynced;
use redb::{
    Database, Key, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition, TableHandle,
    WriteTransaction,
};
use ron_core::ids::Slot;
use ron_core::time::Millis;
use std::collections::BTreeSet;
use std::sync::Weak;

/// Rows read in one transaction.
const SLICE_ROWS_MAX: usize = 256;
/// Bytes read in one transaction: a millisecond or two, so that sends need not wait longer for a processor.
const SLICE_BYTES_MAX: usize = 256 << 10;
/// Bytes copied between two syncs of the copy: one at the end would hold up the store's own.
const UNSYNCED_BYTES_MAX: usize = 1 << 20;
/// Chunks that are dropped from the copy in one transaction.
const DROPPED_MAX: usize = 64;
/// redb's page cache for the copy.
const CACHE_BYTES: usize = 8 << 20;

/// Every table of a store; one that is missing here would be missing in the copy.
const TABLES: [&str; 16] = [
    "meta",
    "topic",
    "head",
    "body",
    "delta",
    "state",
    "note",
    "dlq",
    "dedup",
    "still",
    "task",
    "list",
    "subs",
    "fan",
    "object",
    "object_part",
];

/// Where the store is to be read from; it says no once the store was reopened.
#[derive(Debug, Clone)]
pub(crate) struct Source(Weak<Database>);

impl Source {
    pub(crate) fn of(engine: &Engine) -> Source {
        Source(std::sync::Arc::downgrade(&engine.db))
    }

    pub(crate) fn begin_read(&self) -> Result<ReadTransaction, StoreError> {
        Ok(self.0.upgrade().ok_or(StoreError::Reopening)?.begin_read()?)
    }
}

/// The moment of a snapshot: taken between two commits.
pub(crate) struct Cut {
    txn: ReadTransaction,
    /// The chunks that exist, but for those in memory alone.
    chunks: Vec<u64>,
    next_chunk: u64,
    pub(crate) mark: SnapshotMark,
}

impl std::fmt::Debug for Cut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cut").field("mark", &self.mark).finish_non_exhaustive()
    }
}

impl Cut {
    /// Begins the transaction; takes no longer than listing the chunks.
    pub(crate) fn of(engine: &Engine, wall: Millis) -> Result<Cut, StoreError> {
        let figures = engine.figures();
        let mark = SnapshotMark {
            taken_at: wall,
            node_time: engine.last_commit,
            next_chunk: engine.next_chunk,
            messages: figures.live - figures.ram_messages,
            topics: engine.topics.len() as u64,
            dedup_keys: figures.dedup_keys - figures.ram_keys,
            ram_messages: figures.ram_messages,
        };
        let on_disk = |chunk: &u64| !Slot::new(*chunk, 0).is_ram();
        let chunks = engine.chunks.keys().copied().filter(on_disk).collect();
        Ok(Cut { txn: engine.db.begin_read()?, chunks, next_chunk: engine.next_chunk, mark })
    }
}

/// A copy under way.
#[derive(Debug)]
pub(crate) struct Copying {
    to: Database,
    /// Keys of chunks below this one are copied in the first pass.
    keys_below: u64,
    /// The next row of keys; `None` = they are copied.
    next_key: Option<(u64, u64)>,
    next_chunk: u64,
    /// The chunks copied so far; after the cut those of them that were gone by then.
    chunks: Vec<u64>,
    objects: CopiedObjects,
    /// Bytes copied since the last sync.
    unsynced: usize,
    /// Bytes copied so far.
    pub(crate) bytes: u64,
}

impl Copying {
    /// Begins a copy into `to`, which is empty. `next_chunk` is the store's now.
    pub(crate) fn new(to: impl redb::StorageBackend, next_chunk: u64) -> Result<Copying, StoreError> {
        let mut builder = Database::builder();
        builder.set_cache_size(CACHE_BYTES);
        let to = builder.create_with_backend(to)?;
        let (keys_below, next_key) = (next_chunk, Some((0, 0)));
        let (chunks, objects) = (Vec::new(), CopiedObjects::default());
        Ok(Copying { to, keys_below, next_key, next_chunk: 0, chunks, objects, unsynced: 0, bytes: 0 })
    }

    /// Copies some of what does not change. Returns whether there is more of it now.
    pub(crate) fn slice(&mut self, from: &Source) -> Result<bool, StoreError> {
        let read = from.begin_read()?;
        let mut write = self.to.begin_write()?;
        let mut room = Room { rows: SLICE_ROWS_MAX, bytes: SLICE_BYTES_MAX };
        if let Some(next) = self.next_key {
            self.next_key = self.keys(&read, &write, next, &mut room)?;
        }
        let more = self.next_key.is_some()
            || self.chunks(&read, &write, &mut room)?
            || self.objects.slice(&read, &write, &mut room)?;
        drop(read);
        let copied = SLICE_BYTES_MAX - room.bytes;
        self.unsynced += copied;
        if self.unsynced < UNSYNCED_BYTES_MAX {
            unsynced(&mut write)?;
        } else {
            self.unsynced = 0;
        }
        write.commit()?;
        self.bytes += copied as u64;
        Ok(more)
    }

    fn keys(
        &self,
        read: &ReadTransaction,
        write: &WriteTransaction,
        from: (u64, u64),
        room: &mut Room,
    ) -> Result<Option<(u64, u64)>, StoreError> {
        let mut to = write.open_table(DEDUP)?;
        for row in read.open_table(DEDUP)?.range(from..)? {
            let (key, value) = row?;
            let (bucket, chunk) = key.value();
            if chunk < self.keys_below {
                to.insert((bucket, chunk), value.value())?;
            }
            if room.take(value.value().len()) {
                return Ok(Some((bucket, chunk + 1)));
            }
        }
        Ok(None)
    }

    fn chunks(
        &mut self,
        read: &ReadTransaction,
        write: &WriteTransaction,
        room: &mut Room,
    ) -> Result<bool, StoreError> {
        let (mut heads, mut bodies) = (write.open_table(HEAD)?, write.open_table(BODY)?);
        let from = read.open_table(BODY)?;
        for row in read.open_table(HEAD)?.range(self.next_chunk..)? {
            let (chunk, head) = row?;
            let chunk = chunk.value();
            heads.insert(chunk, head.value())?;
            let mut bytes = head.value().len();
            for row in from.range(body_key(chunk, 0)..body_key(chunk + 1, 0))? {
                let (key, part) = row?;
                bodies.insert(key.value(), part.value())?;
                bytes += part.value().len();
            }
            self.next_chunk = chunk + 1;
            self.chunks.push(chunk);
            if room.take(bytes) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Copies the rest at the cut, and ends its transaction. Then [`Copying::drop_gone`], with the copy alone.
    pub(crate) fn rest(&mut self, cut: Cut) -> Result<SnapshotMark, StoreError> {
        let Cut { txn: read, chunks, next_chunk, mark } = cut;
        known_tables(&read)?;
        let mut write = self.to.begin_write()?;
        unsynced(&mut write)?;
        copy_table(&read, &write, META)?;
        copy_table(&read, &write, TOPIC)?;
        copy_table(&read, &write, DELTA)?;
        copy_table(&read, &write, STATE)?;
        copy_table(&read, &write, NOTE)?;
        copy_table(&read, &write, DLQ)?;
        copy_table(&read, &write, STILL)?;
        copy_table(&read, &write, TASK)?;
        copy_table(&read, &write, LIST)?;
        copy_table(&read, &write, SUBS)?;
        copy_table(&read, &write, FAN)?;
        self.new_keys(&read, &write)?;
        let mut room = Room { rows: usize::MAX, bytes: usize::MAX };
        self.chunks(&read, &write, &mut room)?;
        self.objects.rest(&read, &write, &mut room)?;
        self.bytes += (usize::MAX - room.bytes) as u64;
        drop(read);
        mark_snapshot(&write, &mark)?;
        write.commit()?;
        let there: BTreeSet<u64> = chunks.into_iter().filter(|chunk| *chunk < next_chunk).collect();
        self.chunks.retain(|chunk| !there.contains(chunk));
        Ok(mark)
    }

    /// The keys of chunks that came since the first pass: a short look into each bucket.
    fn new_keys(&self, read: &ReadTransaction, write: &WriteTransaction) -> Result<(), StoreError> {
        let (from, mut to) = (read.open_table(DEDUP)?, write.open_table(DEDUP)?);
        let mut bucket = 0;
        loop {
            let first = from.range((bucket, 0)..)?.next().transpose()?;
            let Some((found, _)) = first.map(|(key, _)| key.value()) else { return Ok(()) };
            for row in from.range((found, self.keys_below)..=(found, u64::MAX))? {
                let (key, value) = row?;
                to.insert(key.value(), value.value())?;
            }
            bucket = found + 1;
        }
    }

    /// After the rest: drops some of the chunks that were gone at the cut. Returns whether there is more of that;
    /// when there is not, everything is durable.
    pub(crate) fn drop_gone(&mut self) -> Result<bool, StoreError> {
        let mut write = self.to.begin_write()?;
        let some = self.chunks.split_off(self.chunks.len().saturating_sub(DROPPED_MAX));
        {
            let (mut heads, mut bodies) = (write.open_table(HEAD)?, write.open_table(BODY)?);
            for chunk in some {
                heads.remove(chunk)?;
                bodies.retain_in(body_key(chunk, 0)..body_key(chunk + 1, 0), |_, _| false)?;
            }
        }
        let more = !self.chunks.is_empty();
        if more {
            unsynced(&mut write)?;
        }
        write.commit()?;
        Ok(more)
    }
}

pub(super) struct Room {
    rows: usize,
    bytes: usize,
}

impl Room {
    /// Takes a row of this many bytes; true if there is no more room.
    pub(super) fn take(&mut self, bytes: usize) -> bool {
        self.rows = self.rows.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
        self.rows == 0 || self.bytes == 0
    }
}

fn copy_table<K: Key + 'static>(
    read: &ReadTransaction,
    write: &WriteTransaction,
    table: TableDefinition<'static, K, &'static [u8]>,
) -> Result<(), StoreError> {
    let mut to = write.open_table(table)?;
    for row in read.open_table(table)?.iter()? {
        let (key, value) = row?;
        to.insert(key.value(), value.value())?;
    }
    Ok(())
}

/// A table that this module does not know would be lost.
fn known_tables(read: &ReadTransaction) -> Result<(), StoreError> {
    for table in read.list_tables()? {
        if !TABLES.contains(&table.name()) {
            return Err(StoreError::damaged("file", table.name(), "snapshots do not know this table"));
        }
    }
    Ok(())
}
