//! Opens a store's file to read it, and writes not one byte of it: what redb writes to repair a file that was not
//! closed stays in RAM. For checks, for snapshots, and for what a restore has to know of the store it replaces.

use super::error::StoreError;
use super::volume::Volume;
use redb::{Database, StorageBackend};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

const BLOCK_BYTES: u64 = 4096;
/// redb's page cache for a file that is read through once.
const CACHE_BYTES: usize = 16 << 20;

/// Opens the database in `path`. With `shared`, a file that a node has open is [`StoreError::Locked`], and no node
/// can open it meanwhile; without, the caller vouches for it.
///
/// # Errors
/// The system's; the file is in use, or is no store.
pub(crate) fn open(path: &Path, shared: bool) -> Result<Database, StoreError> {
    volume(path, shared)?.into_tables()
}

/// The same, before what is in its journal alone is in the tables.
///
/// # Errors
/// As [`open`].
pub(crate) fn volume(path: &Path, shared: bool) -> Result<Volume, StoreError> {
    let io_error = |error| StoreError::Io { path: path.display().to_string(), error };
    let file = File::open(path).map_err(io_error)?;
    if shared {
        match file.try_lock_shared() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => return Err(StoreError::Locked),
            Err(std::fs::TryLockError::Error(error)) => return Err(io_error(error)),
        }
    }
    let len = file.metadata().map_err(io_error)?.len();
    if len == 0 {
        return Err(StoreError::damaged("file", "-", "it is empty"));
    }
    let backend = Untouched { file, written: Mutex::new(Written { len, blocks: BTreeMap::new() }) };
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES);
    // redb may panic on a file that something else has damaged, and creates where it finds no magic number
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| Volume::open(backend, &builder, 0)))
        .unwrap_or_else(|_| Err(StoreError::damaged("file", "-", "the engine panicked while opening it")))
}

/// Has the system forget what it caches of a file, so that it is read from the device.
///
/// # Errors
/// The system's.
pub(crate) fn forget_cached(path: &Path) -> io::Result<()> {
    Ok(rustix::fs::fadvise(File::open(path)?, 0, None, rustix::fs::Advice::DontNeed)?)
}

#[derive(Debug)]
struct Untouched {
    file: File,
    written: Mutex<Written>,
}

#[derive(Debug)]
struct Written {
    len: u64,
    blocks: BTreeMap<u64, Vec<u8>>,
}

impl Untouched {
    fn written(&self) -> std::sync::MutexGuard<'_, Written> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A block of the file; what lies behind its end is zero.
    fn block(&self, number: u64) -> io::Result<Vec<u8>> {
        let mut block = vec![0; BLOCK_BYTES as usize];
        let mut filled = 0;
        while filled < block.len() {
            match self.file.read_at(&mut block[filled..], number * BLOCK_BYTES + filled as u64)? {
                0 => break,
                n => filled += n,
            }
        }
        Ok(block)
    }
}

/// The blocks that `offset..offset + len` covers: number, first byte in it, first byte in the caller's, how many.
fn pieces(offset: u64, len: usize) -> impl Iterator<Item = (u64, usize, usize, usize)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = offset + done as u64;
        let within = (at % BLOCK_BYTES) as usize;
        let n = (BLOCK_BYTES as usize - within).min(len - done);
        (n > 0).then(|| {
            let piece = (at / BLOCK_BYTES, within, done, n);
            done += n;
            piece
        })
    })
}

impl StorageBackend for Untouched {
    fn len(&self) -> io::Result<u64> {
        Ok(self.written().len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let written = self.written();
        if offset + out.len() as u64 > written.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if written.blocks.is_empty() {
            return self.file.read_exact_at(out, offset);
        }
        for (number, within, at, n) in pieces(offset, out.len()) {
            let to = &mut out[at..at + n];
            match written.blocks.get(&number) {
                Some(block) => to.copy_from_slice(&block[within..within + n]),
                None => to.copy_from_slice(&self.block(number)?[within..within + n]),
            }
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut written = self.written();
        if len < written.len {
            // what comes back when it grows again is zero
            for number in len / BLOCK_BYTES..written.len.div_ceil(BLOCK_BYTES) {
                let mut block = match written.blocks.remove(&number) {
                    Some(block) => block,
                    None => self.block(number)?,
                };
                let keep = len.saturating_sub(number * BLOCK_BYTES).min(BLOCK_BYTES) as usize;
                block[keep..].fill(0);
                written.blocks.insert(number, block);
            }
        }
        written.len = len;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut written = self.written();
        written.len = written.len.max(offset + data.len() as u64);
        for (number, within, at, n) in pieces(offset, data.len()) {
            let mut block = match written.blocks.remove(&number) {
                Some(block) => block,
                None => self.block(number)?,
            };
            block[within..within + n].copy_from_slice(&data[at..at + n]);
            written.blocks.insert(number, block);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use redb::{ReadableDatabase, TableDefinition};

    const TABLE: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("t");

    #[test]
    fn a_file_is_read_and_written_over_without_a_change_on_disk() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        {
            let db = Database::create(&path).unwrap();
            let txn = db.begin_write().unwrap();
            txn.open_table(TABLE).unwrap().insert(1, &[7; 10_000][..]).unwrap();
            txn.commit().unwrap();
        }
        let before = std::fs::read(&path).unwrap();
        let db = open(&path, true).unwrap();
        assert!(matches!(File::open(&path).unwrap().try_lock(), Err(std::fs::TryLockError::WouldBlock)));
        for key in 2..50 {
            let txn = db.begin_write().unwrap();
            txn.open_table(TABLE).unwrap().insert(key, &vec![key as u8; 50_000][..]).unwrap();
            txn.commit().unwrap();
        }
        let table = db.begin_read().unwrap().open_table(TABLE).unwrap();
        assert_eq!(table.get(1).unwrap().unwrap().value(), [7; 10_000]);
        assert_eq!(table.get(49).unwrap().unwrap().value(), vec![49; 50_000]);
        drop((table, db));
        assert!(std::fs::read(&path).unwrap() == before);
        std::fs::write(&path, b"").unwrap();
        assert!(matches!(open(&path, true), Err(StoreError::Damaged { .. })));
        std::fs::write(&path, b"no store").unwrap();
        assert!(open(&path, true).is_err());
    }

    #[test]
    fn a_file_that_is_written_is_in_use() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        let _open = Database::create(&path).unwrap();
        assert!(matches!(open(&path, true), Err(StoreError::Locked)));
    }

    #[test]
    fn what_was_cut_off_comes_back_as_zeroes() {
        let mut file = tempfile::tempfile().unwrap();
        io::Write::write_all(&mut file, &[9; 10_000]).unwrap();
        let backend =
            Untouched { file, written: Mutex::new(Written { len: 10_000, blocks: BTreeMap::new() }) };
        backend.set_len(5_000).unwrap();
        backend.set_len(10_000).unwrap();
        let mut out = vec![1; 10_000];
        backend.read(0, &mut out).unwrap();
        assert!(out[..5_000].iter().all(|&b| b == 9) && out[5_000..].iter().all(|&b| b == 0));
        assert!(backend.read(9_999, &mut [0; 2]).is_err());
    }
}
