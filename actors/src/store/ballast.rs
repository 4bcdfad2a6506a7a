//! A file that always has room for what must not fail: blocks are allocated ahead of what has been written, so that
//! leases and settlements are committed on a disk that somebody else has filled to the brim (SPEC §4.13). They are
//! the file's own, and nobody can take them.

use redb::StorageBackend;
use redb::backends::FileBackend;
use rustix::fs::{FallocateFlags, SeekFrom, fallocate, fstat, seek};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// What a place knows of its newest file's ballast.
#[derive(Debug)]
pub(crate) struct Ballast {
    bytes: u64,
    current: Mutex<Weak<Blocks>>,
}

#[derive(Debug)]
struct Blocks {
    file: File,
    bytes: u64,
    /// The end of what has been written, seen from the start of the file.
    written: AtomicU64,
    /// Up to where blocks are allocated.
    allocated: AtomicU64,
    /// The disk had no room for more.
    short: AtomicBool,
    /// The file system cannot allocate ahead.
    useless: AtomicBool,
}

impl Ballast {
    /// Files made through it keep `bytes` allocated ahead; 0 = none.
    #[must_use]
    pub(crate) fn of(bytes: u64) -> Ballast {
        Ballast { bytes, current: Mutex::default() }
    }

    /// A backend over `file` with ballast.
    ///
    /// # Errors
    /// The device's.
    pub(crate) fn load(&self, file: File) -> Result<Ballasted, io::Error> {
        let handle = file.try_clone()?;
        let backend = FileBackend::new(file).map_err(|error| io::Error::other(error.to_string()))?;
        // redb takes the lowest pages first, so all that is allocated is about the beginning of the file.
        let allocated = fstat(&handle)?.st_blocks.max(0) as u64 * 512;
        let written = end_of_data(&handle, allocated);
        let blocks = Arc::new(Blocks {
            file: handle,
            bytes: self.bytes,
            written: AtomicU64::new(written),
            allocated: AtomicU64::new(allocated),
            short: AtomicBool::new(false),
            useless: AtomicBool::new(self.bytes == 0),
        });
        blocks.reach(written);
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(&blocks);
        Ok(Ballasted { backend, blocks })
    }

    /// Makes good what was taken from the ballast, if the disk has room again. Whether it is whole. Blocks.
    pub(crate) fn make_good(&self) -> bool {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner).upgrade();
        let Some(blocks) = current else { return true };
        if blocks.short.swap(false, Ordering::AcqRel) {
            blocks.reach(blocks.written.load(Ordering::Acquire));
        }
        !blocks.short.load(Ordering::Acquire)
    }
}

impl Blocks {
    /// Something is to be written up to `end`.
    fn reach(&self, end: u64) {
        let before = self.written.fetch_max(end, Ordering::AcqRel);
        let end = end.max(before);
        let allocated = self.allocated.load(Ordering::Acquire);
        let far = end > allocated.saturating_add(self.bytes.saturating_mul(4));
        if end + self.bytes / 2 <= allocated || far || self.short.load(Ordering::Acquire) {
            return; // far: a page on its own at the end of the file is no reason to fill all before it
        }
        if self.useless.load(Ordering::Acquire) {
            return;
        }
        let upto = end + self.bytes;
        match fallocate(&self.file, FallocateFlags::KEEP_SIZE, allocated, upto - allocated) {
            Ok(()) => {
                self.allocated.fetch_max(upto, Ordering::AcqRel);
            }
            Err(Errno::NOSPC | Errno::DQUOT) => {
                self.short.store(true, Ordering::Release);
                tracing::warn!("the disk has no room to hold ready for settling: new messages are shed");
            }
            Err(error) => {
                self.useless.store(true, Ordering::Release);
                tracing::warn!(%error, "blocks cannot be held ready here: on a full disk settling may fail too");
            }
        }
    }
}

/// Where the last data ends that begins below `upto`. Blocks that were allocated and never written are none.
fn end_of_data(file: &File, upto: u64) -> u64 {
    let mut end = 0;
    while let Ok(data) = seek(file, SeekFrom::Data(end)) {
        match seek(file, SeekFrom::Hole(data)) {
            Ok(hole) if data < upto && hole > end => end = hole,
            _ => break,
        }
    }
    end
}

/// See the module.
#[derive(Debug)]
pub struct Ballasted {
    backend: FileBackend,
    blocks: Arc<Blocks>,
}

impl StorageBackend for Ballasted {
    fn len(&self) -> Result<u64, io::Error> {
        self.backend.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        self.backend.read(offset, out)
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        let before = self.backend.len()?;
        self.backend.set_len(len)?;
        if len <= before {
            // What was allocated behind its end has been given back.
            self.blocks.allocated.fetch_min(len, Ordering::AcqRel);
            self.blocks.written.fetch_min(len, Ordering::AcqRel);
            self.blocks.reach(0);
        }
        Ok(())
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        self.backend.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        self.blocks.reach(offset + data.len() as u64);
        self.backend.write(offset, data)
    }

    fn close(&self) -> Result<(), io::Error> {
        self.backend.close()
    }

    super::locks::locks_of!(backend);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks_of(path: &std::path::Path) -> u64 {
        use std::os::unix::fs::MetadataExt;
        std::fs::metadata(path).unwrap().blocks() * 512
    }

    #[test]
    fn blocks_are_held_ahead_of_what_is_written_and_do_not_count_as_content() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let ballast = Ballast::of(1 << 20);
        let file = ballast.load(File::create_new(&path).unwrap()).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 0);
        assert!(blocks_of(&path) >= 1 << 20, "{}", blocks_of(&path));
        file.set_len(64 << 20).unwrap();
        file.write(3 << 20, &[1; 4096]).unwrap();
        assert!(blocks_of(&path) >= (4 << 20) - 4096, "{}", blocks_of(&path));
        // one page at the far end does not fill what is before it
        file.write((64 << 20) - 4096, &[1; 4096]).unwrap();
        assert!(blocks_of(&path) < 8 << 20, "{}", blocks_of(&path));
        assert!(ballast.make_good());
    }

    #[test]
    fn a_file_opened_again_has_its_ballast_and_takes_no_second_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let open =
            || File::options().create(true).truncate(false).read(true).write(true).open(&path).unwrap();
        let first = Ballast::of(1 << 20).load(open()).unwrap();
        first.set_len(8 << 20).unwrap();
        first.write(0, &[1; 300_000]).unwrap();
        first.sync_data().unwrap();
        drop(first);
        let before = blocks_of(&path);
        for _ in 0..3 {
            let again = Ballast::of(1 << 20).load(open()).unwrap();
            assert!(again.blocks.written.load(Ordering::Relaxed) >= 300_000);
        }
        assert!(blocks_of(&path) <= before + (1 << 20), "{before} → {}", blocks_of(&path));
        assert!(blocks_of(&path) >= 300_000 + (1 << 19));
    }

    #[test]
    fn without_ballast_nothing_is_allocated() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let ballast = Ballast::of(0);
        let file = ballast.load(File::create_new(&path).unwrap()).unwrap();
        file.set_len(1 << 20).unwrap();
        assert_eq!(blocks_of(&path), 0);
        assert!(ballast.make_good());
    }
}
