//! A file-backed disk with a volatile write cache, for the store of a whole node: what was written and not synced
//! is in the process's memory, so that SIGKILL is to the file what a power cut is to a device.
//!
//! [`crate::disk`] is its relative in memory, of which every state after a power cut can be built; this one needs
//! a real kill, and in exchange everything above it is the product's: process, signals, files, HTTP.

mod cache;
#[cfg(test)]
mod tests;

use crate::crash::rng::Rng;
use cache::Cache;
use redb::{BackendError, StorageBackend};
use ron_actors::store::{FilePlace, Medium, Place, Renewing, StoreError};
use std::io;
use std::ops::Bound;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What the disk does when it is told to sync.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Syncs {
    /// All that was written before is in the file when it returns.
    Kept,
    /// It returns at once and well; the file gets what was written in the right order, but many syncs later.
    Omitted,
}

/// How the disk behaves.
#[derive(Debug, Clone, Copy)]
pub struct Manner {
    /// Its promise.
    pub syncs: Syncs,
    /// Decides what gets to the file early, in what order, and torn where.
    pub seed: u64,
    /// Waits, in the middle of a sync: a device takes time over it, and that is when a kill leaves it half done.
    pub pause: fn(Duration),
}

/// A store in `path` on such a disk, with names, locks and directory the product's.
#[must_use]
pub fn medium(path: PathBuf, manner: Manner) -> Arc<dyn Medium> {
    Arc::new(Renewing::over(VolatilePlace::over(FilePlace::at(path, 0), manner)))
}

/// Files behind a volatile write cache, which outlives their closing and not the process.
#[derive(Debug)]
pub struct VolatilePlace<P> {
    place: P,
    manner: Manner,
    caches: Mutex<Caches>,
}

type Shared = Arc<Mutex<Cache>>;

#[derive(Debug, Default)]
struct Caches {
    current: Option<Shared>,
    fresh: Option<Shared>,
    made: u64,
}

impl Caches {
    fn make(&mut self, manner: Manner, len: u64) -> Shared {
        self.made += 1;
        Arc::new(Mutex::new(Cache::of(manner, Rng::new(manner.seed, self.made), len)))
    }
}

impl<P: Place> VolatilePlace<P> {
    /// A cache before the files of `place`.
    pub fn over(place: P, manner: Manner) -> VolatilePlace<P> {
        VolatilePlace { place, manner, caches: Mutex::default() }
    }

    fn caches(&self) -> MutexGuard<'_, Caches> {
        self.caches.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<P: Place> Place for VolatilePlace<P> {
    type File = VolatileFile<P::File>;

    fn current(&self) -> Result<Option<Self::File>, StoreError> {
        let Some(device) = self.place.current()? else { return Ok(None) };
        let mut caches = self.caches();
        let cache = match &caches.current {
            Some(cache) => cache.clone(),
            None => {
                let len = device.len().map_err(redb::Error::Io)?;
                caches.make(self.manner, len)
            }
        };
        caches.current = Some(cache.clone());
        Ok(Some(VolatileFile { device, cache }))
    }

    fn fresh(&self) -> Result<Self::File, StoreError> {
        let device = self.place.fresh()?;
        let mut caches = self.caches();
        let cache = caches.make(self.manner, 0);
        caches.fresh = Some(cache.clone());
        Ok(VolatileFile { device, cache })
    }

    fn switch(&self, replace: bool) -> Result<(), StoreError> {
        let mut caches = self.caches();
        // Before or after the switch: after an error only the file itself knows which, and of what was not
        // synced nothing was promised.
        (caches.current, caches.fresh) = match self.place.switch(replace) {
            Ok(()) => (caches.fresh.take(), None),
            Err(error) => {
                *caches = Caches { made: caches.made, ..Caches::default() };
                return Err(error);
            }
        };
        Ok(())
    }
}

/// One file behind the cache.
#[derive(Debug)]
pub struct VolatileFile<F> {
    device: F,
    cache: Shared,
}

impl<F> VolatileFile<F> {
    fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<F: StorageBackend> StorageBackend for VolatileFile<F> {
    fn len(&self) -> Result<u64, io::Error> {
        Ok(self.cache().len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        self.cache().read(&self.device, offset, out)
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        self.cache().set_len(&self.device, len)
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        self.cache().sync(&self.device)
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        self.cache().write(&self.device, offset, data)
    }

    fn close(&self) -> Result<(), io::Error> {
        self.device.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.device.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.device.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.device.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.device.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.device.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.device.query_lock_range(start, end)
    }
}
