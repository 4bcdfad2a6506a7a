//! Files of which only whole ones are ever seen, and none that lied: a store is created beside its place and
//! moved there when it is complete, and after a failed sync its bytes are copied into a new file, because what
//! reads of the old one show may never reach the device (SPEC §4.13).

use super::backend::Medium;
use super::error::StoreError;
use super::faults::DeviceFaults;
use super::volume::Volume;
use redb::{Builder, StorageBackend};
use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Bytes copied at once.
const COPY_BYTES: usize = 1 << 20;

/// Where a store's bytes live: at most one current file, and one being made.
pub trait Place: Send + Sync + fmt::Debug {
    /// The bytes.
    type File: StorageBackend;

    /// The store, if there is one.
    ///
    /// # Errors
    /// The device's.
    fn current(&self) -> Result<Option<Self::File>, StoreError>;

    /// An empty file; one left from an earlier try is lost.
    ///
    /// # Errors
    /// The device's.
    fn fresh(&self) -> Result<Self::File, StoreError>;

    /// Puts the last [`Place::fresh`] file, which is synced, into the place of the current one, durably and
    /// in one step. `replace` = there is a current one.
    ///
    /// # Errors
    /// The device's; the place is then as before, or as after.
    fn switch(&self, replace: bool) -> Result<(), StoreError>;

    /// Bytes of the current file, if it is one.
    fn bytes(&self) -> Option<u64> {
        None
    }

    /// See [`Medium::make_room`].
    fn make_room(&self) -> bool {
        true
    }
}

/// The durable [`Medium`] over a [`Place`].
#[derive(Debug)]
pub struct Renewing<P> {
    place: P,
    distrusted: Arc<AtomicBool>,
    refused: Arc<AtomicBool>,
    faults: Arc<DeviceFaults>,
}

impl<P: Place> Renewing<P> {
    /// The store in `place`.
    pub fn over(place: P) -> Renewing<P> {
        Renewing { place, distrusted: Arc::default(), refused: Arc::default(), faults: Arc::default() }
    }

    fn watched(&self, file: P::File) -> Watched<P::File> {
        let (sync_failed, refused) = (self.distrusted.clone(), self.refused.clone());
        Watched { file, sync_failed, refused, faults: self.faults.clone() }
    }

    /// Copies what reads return into a file that the device has said nothing false about. What was answered
    /// is among it; of the commit that failed, redb finds all or nothing, as after a crash.
    fn renew(&self, old: &P::File) -> Result<P::File, StoreError> {
        let new = self.place.fresh()?;
        copy(old, &new).map_err(redb::Error::Io)?;
        self.place.switch(true)?;
        self.distrusted.store(false, Ordering::SeqCst);
        tracing::warn!("a sync had failed: the store now lives in a new file");
        Ok(new)
    }
}

impl<P: Place> Medium for Renewing<P> {
    fn open(&self, builder: &mut Builder, journal_bytes: u64) -> Result<Volume, StoreError> {
        self.refused.store(false, Ordering::SeqCst);
        let Some(current) = self.place.current()? else {
            let fresh = self.place.fresh()?;
            // No store yet: what its syncs say is told by this opening alone.
            self.distrusted.store(false, Ordering::SeqCst);
            let volume = Volume::open(self.watched(fresh), builder, journal_bytes)?;
            self.place.switch(false)?;
            return Ok(volume);
        };
        let file = match self.distrusted.load(Ordering::SeqCst) {
            true => self.renew(&current)?,
            false => current,
        };
        Volume::open(self.watched(file), builder, journal_bytes)
    }

    fn durable(&self) -> bool {
        true
    }

    fn file_bytes(&self) -> Option<u64> {
        self.place.bytes()
    }

    fn make_room(&self) -> bool {
        self.place.make_room()
    }

    fn io_failed(&self) -> bool {
        self.refused.load(Ordering::SeqCst)
    }

    fn faults(&self) -> Option<Arc<DeviceFaults>> {
        Some(self.faults.clone())
    }
}

fn copy(from: &impl StorageBackend, to: &impl StorageBackend) -> Result<(), io::Error> {
    let len = from.len()?;
    to.set_len(len)?;
    let mut buffer = vec![0; COPY_BYTES];
    let mut at = 0;
    while at < len {
        let n = (len - at).min(COPY_BYTES as u64) as usize;
        from.read(at, &mut buffer[..n])?;
        to.write(at, &buffer[..n])?;
        at += n as u64;
    }
    to.sync_data()
}

/// Passes everything on, and notes whether a sync failed, and whether anything did.
#[derive(Debug)]
struct Watched<F> {
    file: F,
    sync_failed: Arc<AtomicBool>,
    refused: Arc<AtomicBool>,
    faults: Arc<DeviceFaults>,
}

impl<F> Watched<F> {
    fn noted<T>(&self, done: Result<T, io::Error>) -> Result<T, io::Error> {
        done.inspect_err(|_| self.refused.store(true, Ordering::SeqCst))
    }
}

impl<F: StorageBackend> StorageBackend for Watched<F> {
    fn len(&self) -> Result<u64, io::Error> {
        self.noted(self.file.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        self.noted(self.file.read(offset, out))
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        self.noted(self.file.set_len(len))
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        let synced = self.faults.before_sync().and_then(|()| self.file.sync_data());
        self.noted(synced.inspect_err(|_| self.sync_failed.store(true, Ordering::SeqCst)))
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        self.noted(self.file.write(offset, data))
    }

    fn close(&self) -> Result<(), io::Error> {
        self.file.close()
    }

    super::locks::locks_of!(file);
}
