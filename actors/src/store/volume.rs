//! The store's file: a page that says what it is, the journal, and behind it redb's own bytes. One file, so that it is
//! copied, replaced and locked as one.

use super::error::StoreError;
use super::finish::EPOCH;
use super::identity::{RECEIPT_KEY, mark};
use super::journal::{self, PAGE, Stretch};
use super::schema::META;
use super::txn::{redo, unsynced};
use redb::{Builder, Database, StorageBackend, WriteTransaction};
use std::io;
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_64;

/// What the file of a store begins with. A snapshot is redb's file as it is.
const MAGIC: [u8; 8] = *b"ronstore";
/// The layout of a file: this page, the journal, redb.
const LAYOUT: u32 = 1;

/// A store's file, open.
#[derive(Debug)]
pub struct Volume {
    /// The tables.
    pub db: Database,
    /// Where the journal is; `None` = it has none, and each commit goes to redb at once.
    pub journal: Option<Stretch>,
}

impl Volume {
    /// Redb alone, as it is.
    ///
    /// # Errors
    /// The device's, or redb's.
    pub fn bare(file: impl StorageBackend, builder: &Builder) -> Result<Volume, StoreError> {
        Ok(Volume { db: builder.create_with_backend(file)?, journal: None })
    }

    /// Opens a file, or lays out an empty one with a journal of `journal_bytes`, rounded up to whole pages.
    ///
    /// # Errors
    /// The device's, or redb's; the first page is damaged.
    pub fn open(
        file: impl StorageBackend,
        builder: &Builder,
        journal_bytes: u64,
    ) -> Result<Volume, StoreError> {
        let len = file.len().map_err(redb::Error::Io)?;
        if len == 0 {
            lay_out(&file, journal_bytes).map_err(redb::Error::Io)?;
        }
        let Some(journal_bytes) = read_label(&file)? else { return Volume::bare(file, builder) };
        let from = PAGE as u64;
        let base = from + journal_bytes;
        if len > 0 && len <= base {
            return Err(StoreError::damaged("file", "-", "it ends before its tables")); // redb would begin new ones
        }
        let file: Arc<dyn StorageBackend> = Arc::new(file);
        let body = Body { file: file.clone(), base };
        let journal = (journal_bytes > 0).then_some(Stretch { file, from, bytes: journal_bytes });
        Ok(Volume { db: builder.create_with_backend(body)?, journal })
    }

    /// Does in the tables what is in the journal alone: the transaction that it is given is then the next checkpoint.
    /// Returns the journal's epoch and the secret of its entries; `None` = there is no journal, or no store yet.
    ///
    /// # Errors
    /// The device's, or redb's; the journal is damaged.
    pub(crate) fn replay(&self, txn: &WriteTransaction) -> Result<Option<(u64, [u8; 32])>, StoreError> {
        let Some(stretch) = &self.journal else { return Ok(None) };
        let (key, epoch): (Option<[u8; 32]>, Option<u64>) = {
            let meta = txn.open_table(META)?;
            (mark(&meta, RECEIPT_KEY)?, mark(&meta, EPOCH)?)
        };
        let (Some(key), epoch) = (key, epoch.unwrap_or(0)) else { return Ok(None) };
        for list in journal::read(stretch, &key, epoch)? {
            redo(txn, &list)?;
        }
        Ok(Some((epoch, key)))
    }

    /// The tables with all that is in the journal, for one who reads. Nothing of it is synced.
    ///
    /// # Errors
    /// As [`Volume::replay`].
    pub(crate) fn into_tables(self) -> Result<Database, StoreError> {
        if self.journal.is_some() {
            let mut txn = self.db.begin_write()?;
            unsynced(&mut txn)?;
            self.replay(&txn)?;
            txn.commit()?;
        }
        Ok(self.db)
    }

    /// Bytes of the file that are not redb's.
    pub(crate) fn overhead(&self) -> u64 {
        self.journal.as_ref().map_or(0, |journal| journal.from + journal.bytes)
    }
}

/// Writes the first page and an empty journal. It is written, not only made room for: a sync of what was never written
/// before is a change of the file system's books, too. And page by page, for the kernel counts, and may write, what it
/// was given in one piece as one piece.
///
/// # Errors
/// The device's.
pub(crate) fn lay_out(file: &impl StorageBackend, journal_bytes: u64) -> io::Result<()> {
    let journal_bytes = journal_bytes.next_multiple_of(PAGE as u64);
    let mut page = label(journal_bytes);
    page.resize(PAGE, 0);
    file.set_len(PAGE as u64 + journal_bytes)?;
    file.write(0, &page)?;
    page.fill(0);
    for at in (0..journal_bytes).step_by(PAGE) {
        file.write(PAGE as u64 + at, &page)?;
    }
    Ok(())
}

/// What the first page begins with: magic, layout, bytes of the journal, XXH3-64 of these.
fn label(journal_bytes: u64) -> Vec<u8> {
    let mut label = [&MAGIC[..], &LAYOUT.to_le_bytes(), &journal_bytes.to_le_bytes()].concat();
    label.extend_from_slice(&xxh3_64(&label).to_le_bytes());
    label
}

/// How long the first page says the journal is; `None` = it is no store's.
fn read_label(file: &impl StorageBackend) -> Result<Option<u64>, StoreError> {
    let mut found = [0; 28];
    let there = file.len().map_err(redb::Error::Io)?.min(found.len() as u64) as usize;
    file.read(0, &mut found[..there]).map_err(redb::Error::Io)?;
    if !found.starts_with(&MAGIC) {
        return Ok(None);
    }
    let journal_bytes = found[12..20].try_into().map_or(0, u64::from_le_bytes);
    let layout = found[8..12].try_into().map_or(0, u32::from_le_bytes);
    if found[20..] != xxh3_64(&found[..20]).to_le_bytes() {
        return Err(StoreError::damaged("file", "first page", "checksum"));
    }
    if layout != LAYOUT {
        return Err(StoreError::NewerFormat { found: layout, known: LAYOUT });
    }
    Ok(Some(journal_bytes))
}

/// redb's part of the file.
#[derive(Debug)]
struct Body {
    file: Arc<dyn StorageBackend>,
    base: u64,
}

impl StorageBackend for Body {
    fn len(&self) -> Result<u64, io::Error> {
        Ok(self.file.len()?.saturating_sub(self.base))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        self.file.read(self.base + offset, out)
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        self.file.set_len(self.base + len)
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        self.file.write(self.base + offset, data)
    }

    fn close(&self) -> Result<(), io::Error> {
        self.file.close()
    }

    super::locks::locks_of!(file);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::RamBackend;

    fn open(file: &RamBackend) -> Result<Volume, StoreError> {
        Volume::open(file.clone(), &Database::builder(), 8_000)
    }

    #[test]
    fn a_file_keeps_the_layout_it_was_made_with() {
        let file = RamBackend::default();
        assert_eq!(open(&file).unwrap().overhead(), 3 * PAGE as u64);
        let again = Volume::open(file.clone(), &Database::builder(), 1 << 20).unwrap();
        assert_eq!(again.journal.map(|journal| journal.bytes), Some(2 * PAGE as u64));
        let none = RamBackend::default();
        let volume = Volume::open(none, &Database::builder(), 0).unwrap();
        assert!(volume.journal.is_none());
    }

    #[test]
    fn what_is_no_stores_file_is_redbs_own_as_it_is() {
        let file = RamBackend::default();
        drop(Volume::bare(file.clone(), &Database::builder()).unwrap());
        assert!(open(&file).unwrap().journal.is_none());
    }

    #[test]
    fn a_damaged_first_page_and_a_file_cut_short_are_no_new_store() {
        for at in 8..28 {
            let file = RamBackend::default();
            drop(open(&file).unwrap());
            let mut byte = [0];
            file.read(at, &mut byte).unwrap();
            file.write(at, &[byte[0] ^ 1]).unwrap();
            assert!(matches!(open(&file), Err(StoreError::Damaged { .. })), "{at}");
        }
        let file = RamBackend::default();
        drop(open(&file).unwrap());
        file.set_len(3 * PAGE as u64).unwrap();
        assert!(matches!(open(&file), Err(StoreError::Damaged { .. })));
    }
}
