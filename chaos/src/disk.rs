//! A disk that keeps every promise it makes and none that it does not: what was written and not synced may be
//! lost, kept in part, or torn when the power fails, and a failed sync leaves reads seeing what no later sync
//! will persist. It logs every operation, so that the disk after a power failure at any of them can be built.

use redb::StorageBackend;
use ron_actors::store::{Place, Renewing, StoreError};
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Number of a file on the disk.
pub type FileNo = u32;

/// One logged operation.
#[derive(Debug, Clone)]
pub enum Op {
    /// Bytes were written.
    Write(FileNo, u64, Arc<[u8]>),
    /// The length was set.
    SetLen(FileNo, u64),
    /// All written to the file so far is on the device.
    Sync(FileNo),
    /// A sync failed: what was written since the last one is visible, and lost with the power.
    SyncFailed(FileNo),
    /// A new, empty file.
    Create(FileNo),
    /// The file became the current one; durable at once.
    Switch(FileNo),
}

/// The operations that can be made to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum On {
    /// A read.
    Read,
    /// A write, or a new length.
    Write,
    /// A sync.
    Sync,
}

/// An operation that is going to fail.
#[derive(Debug, Clone, Copy)]
pub struct Fault {
    /// Which kind.
    pub on: On,
    /// How many of that kind still succeed.
    pub after: u64,
    /// How many then fail.
    pub times: u64,
    /// With what: `StorageFull` or anything else.
    pub kind: io::ErrorKind,
}

#[derive(Debug, Default)]
struct Disk {
    files: BTreeMap<FileNo, Vec<u8>>,
    current: Option<FileNo>,
    next_file: FileNo,
    log: Vec<Op>,
    fault: Option<Fault>,
    drops_syncs: bool,
}

impl Disk {
    fn fails(&mut self, on: On) -> io::Result<()> {
        let Some(fault) = self.fault.as_mut().filter(|fault| fault.on == on) else { return Ok(()) };
        if fault.after > 0 {
            fault.after -= 1;
            return Ok(());
        }
        let kind = fault.kind;
        fault.times -= 1;
        if fault.times == 0 {
            self.fault = None;
        }
        Err(kind.into())
    }
}

/// See the module. Clones share the disk.
#[derive(Debug, Clone, Default)]
pub struct LyingDisk(Arc<Mutex<Disk>>);

impl LyingDisk {
    /// A disk as it is after a power failure: all that is left is on the device. `None` = no store on it.
    #[must_use]
    pub fn holding(image: Option<Vec<u8>>) -> LyingDisk {
        let disk = LyingDisk::default();
        if let Some(bytes) = image {
            let mut inner = disk.lock();
            inner.files.insert(0, bytes);
            inner.current = Some(0);
            inner.next_file = 1;
        }
        disk
    }

    /// A disk on which `sync_data` does nothing and says that all went well.
    #[must_use]
    pub fn dropping_syncs(self) -> LyingDisk {
        self.lock().drops_syncs = true;
        self
    }

    fn lock(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The store's place on this disk.
    #[must_use]
    pub fn medium(&self) -> Renewing<LyingPlace> {
        Renewing::over(LyingPlace(self.clone()))
    }

    /// Operations logged so far.
    #[must_use]
    pub fn ops(&self) -> usize {
        self.lock().log.len()
    }

    /// All of them.
    #[must_use]
    pub fn log(&self) -> Vec<Op> {
        self.lock().log.clone()
    }

    /// Makes operations fail; replaces an earlier fault.
    pub fn arm(&self, fault: Option<Fault>) {
        self.lock().fault = fault;
    }

    /// Whether an armed fault has not fully struck yet.
    #[must_use]
    pub fn armed(&self) -> bool {
        self.lock().fault.is_some()
    }
}

/// The names on a [`LyingDisk`].
#[derive(Debug)]
pub struct LyingPlace(LyingDisk);

impl Place for LyingPlace {
    type File = LyingFile;

    fn current(&self) -> Result<Option<LyingFile>, StoreError> {
        let current = self.0.lock().current;
        Ok(current.map(|no| LyingFile { disk: self.0.clone(), no }))
    }

    fn fresh(&self) -> Result<LyingFile, StoreError> {
        let mut disk = self.0.lock();
        let no = disk.next_file;
        disk.next_file += 1;
        disk.files.insert(no, Vec::new());
        disk.log.push(Op::Create(no));
        Ok(LyingFile { disk: self.0.clone(), no })
    }

    fn switch(&self, _replace: bool) -> Result<(), StoreError> {
        let mut disk = self.0.lock();
        let newest = disk.next_file - 1;
        if let Some(old) = disk.current.replace(newest) {
            disk.files.remove(&old);
        }
        disk.log.push(Op::Switch(newest));
        Ok(())
    }
}

/// One file of a [`LyingDisk`].
#[derive(Debug)]
pub struct LyingFile {
    disk: LyingDisk,
    no: FileNo,
}

fn unlinked() -> io::Error {
    io::Error::other("the file was replaced")
}

impl StorageBackend for LyingFile {
    fn len(&self) -> Result<u64, io::Error> {
        Ok(self.disk.lock().files.get(&self.no).ok_or_else(unlinked)?.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        let mut disk = self.disk.lock();
        disk.fails(On::Read)?;
        let file = disk.files.get(&self.no).ok_or_else(unlinked)?;
        let at = offset as usize;
        out.copy_from_slice(file.get(at..at + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        let mut disk = self.disk.lock();
        disk.fails(On::Write)?;
        disk.files.get_mut(&self.no).ok_or_else(unlinked)?.resize(len as usize, 0);
        disk.log.push(Op::SetLen(self.no, len));
        Ok(())
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        let mut disk = self.disk.lock();
        if let Err(error) = disk.fails(On::Sync) {
            disk.log.push(Op::SyncFailed(self.no));
            return Err(error);
        }
        if !disk.drops_syncs {
            disk.log.push(Op::Sync(self.no));
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        let mut disk = self.disk.lock();
        disk.fails(On::Write)?;
        let file = disk.files.get_mut(&self.no).ok_or_else(unlinked)?;
        put(file, offset, data);
        disk.log.push(Op::Write(self.no, offset, data.into()));
        Ok(())
    }
}

pub(crate) fn put(file: &mut Vec<u8>, offset: u64, data: &[u8]) {
    let (from, to) = (offset as usize, offset as usize + data.len());
    if to > file.len() {
        file.resize(to, 0);
    }
    file[from..to].copy_from_slice(data);
}
