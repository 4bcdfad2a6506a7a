//! What operators do with the file of a store that no node has open: check it, count what is in it, give its free
//! space back. All of it blocks.

use super::check::Checker;
use super::codec::Head;
use super::engine::write_meta;
use super::error::StoreError;
use super::findings::Findings;
use super::finish::EPOCH;
use super::inventory::Inventory;
use super::objects::object_rows;
use super::schema::{
    BODY, DEDUP, DELTA, DLQ, FAN, HEAD, LIST, META, NOTE, OBJECT, OBJECT_PART, STATE, STILL, SUBS, TASK,
    TOPIC,
};
use super::untouched;
use super::volume::Volume;
use redb::{
    Database, Key, ReadTransaction, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition,
};
use std::fs::OpenOptions;
use std::path::Path;

/// Bytes of redb's page cache while a file is compacted.
const CACHE_BYTES: usize = 64 << 20;

/// Checks a store, or a snapshot: its tree, every row, every payload. Writes nothing.
///
/// # Errors
/// It is in use, cannot be read, or is of another format. Damage is no error but a finding.
pub fn check(path: &Path) -> Result<Findings, StoreError> {
    let mut db = untouched::open(path, true)?;
    let mut findings = Checker::default().run(&db.begin_read()?)?;
    // what has to be repaired after a crash is no damage: a start does the same
    if findings.is_clean()
        && let Err(error) = db.check_integrity()
    {
        findings.row("file", "-", error.to_string());
    }
    Ok(findings)
}

/// One table of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableStats {
    /// Its name.
    pub name: &'static str,
    /// Rows.
    pub rows: u64,
    /// Bytes of keys and values.
    pub stored_bytes: u64,
    /// Bytes of the pages it takes, what is lost by rounding up included.
    pub page_bytes: u64,
}

/// What a store's file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreStats {
    /// Bytes of the file.
    pub file_bytes: u64,
    /// Bytes of pages in use, those of the journal included.
    pub used_bytes: u64,
    /// Table by table.
    pub tables: Vec<TableStats>,
    /// Topics.
    pub topics: u64,
    /// Live messages.
    pub messages: u64,
    /// Idempotency keys, those that have ended and are not yet swept included.
    pub dedup_keys: u64,
    /// Chunks.
    pub chunks: u64,
    /// Chunks of which less than a quarter of the messages that their bodies hold live.
    pub stragglers: u64,
}

impl StoreStats {
    /// Bytes of pages that hold nothing.
    #[must_use]
    pub const fn free_bytes(&self) -> u64 {
        self.file_bytes.saturating_sub(self.used_bytes)
    }
}

/// Counts what is in a store, or in a snapshot. Writes nothing.
///
/// # Errors
/// It is in use or cannot be read; a damaged row is named.
pub fn stats(path: &Path) -> Result<StoreStats, StoreError> {
    let volume = untouched::volume(path, true)?;
    let overhead = volume.overhead();
    let db = volume.into_tables()?;
    let io = |error| StoreError::Io { path: path.display().to_string(), error };
    let file_bytes = std::fs::metadata(path).map_err(io)?.len();
    let txn = db.begin_read()?;
    let mut tables = vec![
        table(&txn, "meta", META)?,
        table(&txn, "topic", TOPIC)?,
        table(&txn, "head", HEAD)?,
        table(&txn, "body", BODY)?,
        table(&txn, "delta", DELTA)?,
        table(&txn, "state", STATE)?,
        table(&txn, "note", NOTE)?,
        table(&txn, "dlq", DLQ)?,
        table(&txn, "dedup", DEDUP)?,
        table(&txn, "still", STILL)?,
        table(&txn, "task", TASK)?,
        table(&txn, "list", LIST)?,
        table(&txn, "subs", SUBS)?,
        table(&txn, "fan", FAN)?,
    ];
    if object_rows(&txn)?.is_some() {
        tables.push(table(&txn, "object", OBJECT)?);
        tables.push(table(&txn, "object_part", OBJECT_PART)?);
    }
    let held = Inventory::take(&txn)?;
    let mut stragglers = 0;
    let mut chunks = 0;
    for row in txn.open_table(HEAD)?.iter()? {
        let (chunk, head) = row?;
        let head = Head::decode(chunk.value(), head.value())?;
        let kept = head.entries.iter().filter(|entry| entry.len > 0).count() as u64;
        chunks += 1;
        stragglers += u64::from(held.live_in(chunk.value()) * 4 < kept);
    }
    drop(txn);
    let write = db.begin_write()?;
    let pages = write.stats()?;
    write.abort()?;
    Ok(StoreStats {
        file_bytes,
        used_bytes: overhead + pages.allocated_pages() * pages.page_size() as u64,
        tables,
        topics: held.topics.len() as u64,
        messages: held.topics.values().map(super::inventory::Live::len).sum(),
        dedup_keys: held.keys.len() as u64,
        chunks,
        stragglers,
    })
}

fn table<K: Key + 'static>(
    txn: &ReadTransaction,
    name: &'static str,
    table: TableDefinition<'static, K, &'static [u8]>,
) -> Result<TableStats, StoreError> {
    let table = txn.open_table(table)?;
    let stats = table.stats()?;
    let stored_bytes = stats.stored_bytes();
    let page_bytes = stored_bytes + stats.metadata_bytes() + stats.fragmented_bytes();
    Ok(TableStats { name, rows: table.len()?, stored_bytes, page_bytes })
}

/// Gives the free space of a store back to the file system. Returns the bytes of the file before and after.
///
/// # Errors
/// It is in use, or the device's. Whenever it ends, the store is whole.
pub fn compact(path: &Path) -> Result<(u64, u64), StoreError> {
    let io = |error| StoreError::Io { path: path.display().to_string(), error };
    let file = OpenOptions::new().read(true).write(true).open(path).map_err(io)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(std::fs::TryLockError::WouldBlock) => return Err(StoreError::Locked),
        Err(std::fs::TryLockError::Error(error)) => return Err(io(error)),
    }
    let before = file.metadata().map_err(io)?.len();
    let after = file.try_clone().map_err(io)?;
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES);
    let backend = redb::backends::FileBackend::new(file)?;
    let volume = Volume::open(backend, &builder, 0)?;
    let mut txn = volume.db.begin_write()?;
    txn.set_two_phase_commit(true);
    if let Some((epoch, _)) = volume.replay(&txn)? {
        write_meta(&txn, EPOCH, &(epoch + 1))?;
    }
    txn.commit()?;
    let mut db = volume.db;
    db.compact().map_err(|error| StoreError::Db(Box::new(error.into())))?;
    drop(db);
    Ok((before, after.metadata().map_err(io)?.len()))
}
