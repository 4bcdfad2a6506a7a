//! A store on a real file whose syncs can be held up: what a request is waiting for while its actor is killed.

use redb::backends::FileBackend;
use redb::{Builder, StorageBackend};
use ron_actors::store::{Medium, StoreError, Volume};
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

#[derive(Debug, Default)]
struct State {
    held: bool,
    waiting: usize,
    syncs: u64,
}

/// Holds up syncs. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Gate {
    inner: Arc<(Mutex<State>, Condvar)>,
}

impl Gate {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.inner.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on a sync waits.
    pub fn hold(&self) {
        self.state().held = true;
    }

    /// Lets all go on.
    pub fn release(&self) {
        self.state().held = false;
        self.inner.1.notify_all();
    }

    /// Syncs that wait now: with one, a commit is under way and cannot be over.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.state().waiting
    }

    /// Syncs done.
    #[must_use]
    pub fn syncs(&self) -> u64 {
        self.state().syncs
    }

    fn pass(&self) {
        let mut state = self.state();
        state.waiting += 1;
        while state.held {
            state = self.inner.1.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.waiting -= 1;
        state.syncs += 1;
    }
}

/// A file behind a [`Gate`].
#[derive(Debug)]
pub struct GatedFile {
    path: PathBuf,
    gate: Gate,
}

impl GatedFile {
    /// The store in `path`; its directory is made with the file.
    #[must_use]
    pub fn new(path: PathBuf, gate: Gate) -> GatedFile {
        GatedFile { path, gate }
    }
}

impl Medium for GatedFile {
    fn open(&self, builder: &mut Builder, journal_bytes: u64) -> Result<Volume, StoreError> {
        let at = |error| StoreError::Io { path: self.path.display().to_string(), error };
        if let Some(dir) = self.path.parent() {
            std::fs::create_dir_all(dir).map_err(at)?;
        }
        let file = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&self.path)
            .map_err(at)?;
        let file = Gated { file: FileBackend::new(file)?, gate: self.gate.clone() };
        Volume::open(file, builder, journal_bytes)
    }

    fn durable(&self) -> bool {
        true
    }
}

struct Gated {
    file: FileBackend,
    gate: Gate,
}

impl fmt::Debug for Gated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gated")
    }
}

impl StorageBackend for Gated {
    fn len(&self) -> Result<u64, io::Error> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        self.file.set_len(len)
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        self.gate.pass();
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        self.file.write(offset, data)
    }

    fn close(&self) -> Result<(), io::Error> {
        self.file.close()
    }
}
