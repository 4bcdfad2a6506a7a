//! Where redb keeps its bytes: a file, RAM blocks of our own, or whatever a test brings. This is the seam that
//! the simulator and the fault-injecting backends use.

use super::ballast::{Ballast, Ballasted};
use super::error::StoreError;
use super::faults::DeviceFaults;
use super::renew::{Place, Renewing};
use super::volume::Volume;
use redb::{Builder, StorageBackend};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};
use zeroize::Zeroize;

/// Opens the bytes of a store, at start and again after every failure.
pub trait Medium: Send + Sync + fmt::Debug {
    /// Opens or creates the database, with a journal of `journal_bytes` if it is to be created and has one.
    ///
    /// # Errors
    /// What the device or the engine says.
    fn open(&self, builder: &mut Builder, journal_bytes: u64) -> Result<Volume, StoreError>;

    /// Whether a commit survives the end of the process.
    fn durable(&self) -> bool;

    /// Bytes of the file, if it is one.
    fn file_bytes(&self) -> Option<u64> {
        None
    }

    /// Makes good the room that is held ready for what must not fail, if some was taken. Whether it is whole. Blocks.
    fn make_room(&self) -> bool {
        true
    }

    /// Whether the device has refused anything since the database was opened. redb then refuses everything that comes
    /// later, until it is opened again.
    fn io_failed(&self) -> bool {
        false
    }

    /// Where faults of its device are put in force; `None` if it has none to speak of.
    fn faults(&self) -> Option<Arc<DeviceFaults>> {
        None
    }
}

/// A file on disk, mode 0600.
pub type FileMedium = Renewing<FilePlace>;

impl FileMedium {
    /// The store in `path`; its directory must exist. While it is made anew there is `<path>.new` beside it.
    /// `ballast` bytes are kept allocated ahead of what is written.
    pub fn new(path: impl Into<PathBuf>, ballast: u64) -> FileMedium {
        Renewing::over(FilePlace::at(path, ballast))
    }
}

/// See [`FileMedium`].
#[derive(Debug)]
pub struct FilePlace {
    path: PathBuf,
    new: PathBuf,
    ballast: Ballast,
}

impl FilePlace {
    /// The file `path`, and `<path>.new` while it is made, with `ballast` bytes allocated ahead.
    pub fn at(path: impl Into<PathBuf>, ballast: u64) -> FilePlace {
        let path = path.into();
        let mut new = path.clone().into_os_string();
        new.push(".new");
        FilePlace { path, new: new.into(), ballast: Ballast::of(ballast) }
    }

    /// Opens a file and locks it, so that a second node finds it in use before it can harm it.
    fn open(path: &Path, create: bool) -> Result<Option<std::fs::File>, StoreError> {
        use std::os::unix::fs::OpenOptionsExt;
        let mut options = std::fs::OpenOptions::new();
        let opened = options.read(true).write(true).create(create).truncate(false).mode(0o600).open(path);
        let file = match opened {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound && !create => return Ok(None),
            Err(error) => return Err(FilePlace::io_error(path, error)),
        };
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(std::fs::TryLockError::WouldBlock) => Err(StoreError::Locked),
            Err(std::fs::TryLockError::Error(error)) => Err(FilePlace::io_error(path, error)),
        }
    }

    fn io_error(path: &Path, error: io::Error) -> StoreError {
        StoreError::Io { path: path.display().to_string(), error }
    }
}

impl Place for FilePlace {
    type File = Ballasted;

    fn current(&self) -> Result<Option<Ballasted>, StoreError> {
        let Some(file) = FilePlace::open(&self.path, false)? else { return Ok(None) };
        // left by a renewal or a restore that was interrupted; the lock says that none runs
        match std::fs::remove_file(&self.new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(FilePlace::io_error(&self.new, error));
            }
            _ => {}
        }
        let loaded = self.ballast.load(file).map_err(|error| FilePlace::io_error(&self.path, error))?;
        Ok(Some(loaded))
    }

    fn fresh(&self) -> Result<Ballasted, StoreError> {
        let file = FilePlace::open(&self.new, true)?.ok_or(StoreError::Locked)?;
        file.set_len(0).map_err(|error| FilePlace::io_error(&self.new, error))?;
        self.ballast.load(file).map_err(|error| FilePlace::io_error(&self.new, error))
    }

    fn bytes(&self) -> Option<u64> {
        Some(std::fs::metadata(&self.path).ok()?.len())
    }

    fn switch(&self, replace: bool) -> Result<(), StoreError> {
        if !replace && self.path.exists() {
            return Err(StoreError::Locked); // another node was faster
        }
        std::fs::rename(&self.new, &self.path).map_err(|error| FilePlace::io_error(&self.path, error))?;
        // The new name is durable only once the directory is.
        let dir = self.path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        std::fs::File::open(dir)
            .and_then(|handle| handle.sync_all())
            .map_err(|error| FilePlace::io_error(dir, error))
    }

    fn make_room(&self) -> bool {
        self.ballast.make_good()
    }
}

/// RAM only: the bytes outlive a reopen inside the process, never the process.
#[derive(Debug, Default)]
pub struct RamMedium {
    blocks: RamBackend,
}

impl Medium for RamMedium {
    fn open(&self, builder: &mut Builder, _journal_bytes: u64) -> Result<Volume, StoreError> {
        Volume::bare(self.blocks.clone(), builder)
    }

    fn durable(&self) -> bool {
        false
    }
}

const BLOCK_BYTES: usize = 1024 * 1024;

/// A `StorageBackend` of zeroed 1 MiB blocks: grows without copying, wiped when released.
#[derive(Debug, Clone, Default)]
pub struct RamBackend(Arc<RwLock<Blocks>>);

#[derive(Default)]
struct Blocks {
    len: u64,
    blocks: Vec<Box<[u8]>>,
}

impl fmt::Debug for Blocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Blocks").field("len", &self.len).finish_non_exhaustive()
    }
}

impl Drop for Blocks {
    fn drop(&mut self) {
        self.blocks.iter_mut().for_each(|block| block.zeroize());
    }
}

impl Blocks {
    fn set_len(&mut self, len: u64) {
        let wanted = (len as usize).div_ceil(BLOCK_BYTES);
        while self.blocks.len() > wanted {
            if let Some(mut block) = self.blocks.pop() {
                block.zeroize();
            }
        }
        self.blocks.resize_with(wanted, || vec![0; BLOCK_BYTES].into_boxed_slice());
        // Bytes beyond a shorter end must read as zero if the end moves out again.
        let within = len as usize % BLOCK_BYTES;
        if len < self.len
            && within != 0
            && let Some(last) = self.blocks.last_mut()
        {
            last[within..].zeroize();
        }
        self.len = len;
    }

    /// Calls `each` with every (block range, range of the caller's buffer) that `offset..offset + len` covers.
    fn walk(
        offset: u64,
        len: usize,
        mut each: impl FnMut(usize, std::ops::Range<usize>, std::ops::Range<usize>),
    ) {
        let (mut at, mut done) = (offset as usize, 0);
        while done < len {
            let within = at % BLOCK_BYTES;
            let n = (BLOCK_BYTES - within).min(len - done);
            each(at / BLOCK_BYTES, within..within + n, done..done + n);
            at += n;
            done += n;
        }
    }
}

fn poisoned() -> io::Error {
    io::Error::other("a writer of the RAM store panicked")
}

impl StorageBackend for RamBackend {
    fn len(&self) -> Result<u64, io::Error> {
        Ok(self.0.read().map_err(|_| poisoned())?.len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        let blocks = self.0.read().map_err(|_| poisoned())?;
        if offset + out.len() as u64 > blocks.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Blocks::walk(offset, out.len(), |block, from, to| {
            out[to].copy_from_slice(&blocks.blocks[block][from])
        });
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        self.0.write().map_err(|_| poisoned())?.set_len(len);
        Ok(())
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        let mut blocks = self.0.write().map_err(|_| poisoned())?;
        let end = offset + data.len() as u64;
        if end > blocks.len {
            blocks.set_len(end);
        }
        Blocks::walk(offset, data.len(), |block, to, from| {
            blocks.blocks[block][to].copy_from_slice(&data[from])
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_read_back_across_their_edges_and_zero_after_shrinking() {
        let ram = RamBackend::default();
        ram.set_len(3 * BLOCK_BYTES as u64).unwrap();
        let data: Vec<u8> = (0..2 * BLOCK_BYTES).map(|i| (i % 251) as u8 + 1).collect();
        ram.write(1000, &data).unwrap();
        let mut back = vec![0; data.len()];
        ram.read(1000, &mut back).unwrap();
        assert!(back == data);
        ram.set_len(5000).unwrap();
        ram.set_len(10_000).unwrap();
        let mut tail = vec![9; 5000];
        ram.read(5000, &mut tail).unwrap();
        assert!(tail.iter().all(|&byte| byte == 0));
        assert!(ram.read(9_999, &mut [0; 2]).is_err());
    }
}
