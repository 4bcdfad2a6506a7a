//! The simulated disk: keeps apart what was synced from what was only written, fails on demand, and loses what
//! was not synced, or some of it, when the power goes. After a failed sync reads see what no later sync persists.

use super::rng::Rng;
use redb::StorageBackend;
use ron_actors::store::{Place, Renewing, StoreError};
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const PAGE: usize = 4096;

/// What an operation on the disk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum On {
    /// A read.
    Read,
    /// A write, or a new length.
    Write,
    /// A sync.
    Sync,
}

/// Operations that are going to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// Which kind; `None` = any.
    pub on: Option<On>,
    /// How many of that kind still succeed.
    pub after: u64,
    /// How many then fail.
    pub times: u64,
    /// With what: `StorageFull` or anything else.
    pub kind: io::ErrorKind,
    /// If it is a sync: whether what was written reached the platter all the same.
    pub kept: bool,
}

#[derive(Debug, Default)]
struct Image {
    bytes: Vec<u8>,
    /// Pages as they are on the platter, of those written since the last sync.
    before: BTreeMap<usize, Vec<u8>>,
    /// The same, of those that a failed sync was to persist: no later one does, unless they are written again.
    doomed: BTreeMap<usize, Vec<u8>>,
    synced_len: usize,
}

impl Image {
    /// Remembers the platter's content of the pages that `from..to` touches.
    fn remember(&mut self, from: usize, to: usize) {
        for page in from / PAGE..to.div_ceil(PAGE) {
            if self.before.contains_key(&page) {
                continue;
            }
            if let Some(old) = self.doomed.remove(&page) {
                self.before.insert(page, old);
                continue;
            }
            let (start, end) = (page * PAGE, ((page + 1) * PAGE).min(self.synced_len));
            if start < end {
                let mut old = vec![0; end - start];
                let known = self.bytes.len().clamp(start, end);
                old[..known - start].copy_from_slice(&self.bytes[start..known]);
                self.before.insert(page, old);
            }
        }
    }

    fn sync(&mut self) {
        self.before.clear();
        self.synced_len = self.bytes.len();
    }

    fn sync_fails(&mut self, kept: bool) {
        if kept {
            return self.sync();
        }
        for (page, old) in std::mem::take(&mut self.before) {
            self.doomed.entry(page).or_insert(old);
        }
    }

    /// What is left of it without power. With `rng` some of what was not synced is there all the same.
    fn lose_unsynced(&mut self, rng: Option<&mut Rng>) {
        let mut lost = std::mem::take(&mut self.doomed);
        lost.extend(std::mem::take(&mut self.before));
        if let Some(rng) = rng {
            lost.retain(|_, _| rng.chance(50));
        }
        self.bytes.resize(self.synced_len.max(self.bytes.len()), 0);
        for (page, old) in lost {
            let from = page * PAGE;
            if self.bytes.len() < from + old.len() {
                self.bytes.resize(from + old.len(), 0);
            }
            self.bytes[from..from + old.len()].copy_from_slice(&old);
        }
        self.bytes.truncate(self.synced_len);
    }
}

#[derive(Debug, Default)]
struct Disk {
    files: BTreeMap<u64, Image>,
    current: Option<u64>,
    next_file: u64,
    /// Only handles of this life work.
    life: u64,
    faults: Vec<Fault>,
    /// Openings that fail from now on.
    refused: u64,
    /// Operations so far.
    ops: u64,
    struck: u64,
}

impl Disk {
    fn fails(&mut self, on: On) -> Option<Fault> {
        self.ops += 1;
        let mut hit = None;
        for fault in self.faults.iter_mut().filter(|fault| fault.on.is_none_or(|of| of == on)) {
            if fault.after > 0 {
                fault.after -= 1;
            } else if hit.is_none() && fault.times > 0 {
                fault.times -= 1;
                hit = Some(*fault);
            }
        }
        self.faults.retain(|fault| fault.times > 0);
        self.struck += u64::from(hit.is_some());
        hit
    }
}

/// The disk. Clones are the same disk.
#[derive(Debug, Clone, Default)]
pub(super) struct SimDisk(Arc<Mutex<Disk>>);

impl SimDisk {
    fn lock(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The store's place on it. What a store distrusts it forgets with its process.
    pub(super) fn medium(&self) -> Renewing<SimPlace> {
        let mut disk = self.lock();
        disk.life += 1;
        Renewing::over(SimPlace { disk: self.clone(), life: disk.life })
    }

    /// Makes operations fail, beside those that are to fail already.
    pub(super) fn arm(&self, fault: Fault) {
        self.lock().faults.push(fault);
    }

    /// Counts operations from here on.
    pub(super) fn count_anew(&self) {
        let mut disk = self.lock();
        (disk.ops, disk.struck) = (0, 0);
    }

    /// The next `openings` fail.
    pub(super) fn refuse(&self, openings: u64) {
        self.lock().refused = openings;
    }

    /// Nothing fails any more.
    pub(super) fn heal(&self) {
        let mut disk = self.lock();
        disk.faults.clear();
        disk.refused = 0;
    }

    /// Operations so far, and how many of them failed.
    pub(super) fn figures(&self) -> (u64, u64) {
        let disk = self.lock();
        (disk.ops, disk.struck)
    }

    /// The power goes: open handles are dead, and what was not synced is lost, or with `rng` some of it.
    pub(super) fn cut_power(&self, mut rng: Option<&mut Rng>) {
        let mut disk = self.lock();
        disk.life += 1;
        disk.files.values_mut().for_each(|file| file.lose_unsynced(rng.as_deref_mut()));
        disk.faults.clear();
        disk.refused = 0;
    }

    /// The bytes of the current file.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let disk = self.lock();
        let current = disk.current.and_then(|no| disk.files.get(&no));
        current.map(|file| file.bytes.clone()).unwrap_or_default()
    }

    /// Puts other bytes in the place of the current file, durably.
    pub(super) fn replace(&self, bytes: Vec<u8>) {
        let mut disk = self.lock();
        let no = disk.next_file;
        disk.next_file += 1;
        let synced_len = bytes.len();
        disk.files.clear();
        disk.files.insert(no, Image { bytes, synced_len, ..Image::default() });
        disk.current = Some(no);
    }
}

/// The names on a [`SimDisk`], for one life of the node.
#[derive(Debug)]
pub(super) struct SimPlace {
    disk: SimDisk,
    life: u64,
}

impl SimPlace {
    fn disk(&self) -> Result<MutexGuard<'_, Disk>, StoreError> {
        let mut disk = self.disk.lock();
        if disk.refused > 0 {
            disk.refused -= 1;
            return Err(io_error(failed()));
        }
        if disk.life == self.life { Ok(disk) } else { Err(io_error(failed())) }
    }
}

impl Place for SimPlace {
    type File = SimFile;

    fn current(&self) -> Result<Option<SimFile>, StoreError> {
        let current = self.disk()?.current;
        Ok(current.map(|no| SimFile { disk: self.disk.clone(), no, life: self.life }))
    }

    fn fresh(&self) -> Result<SimFile, StoreError> {
        let mut disk = self.disk()?;
        let no = disk.next_file;
        disk.next_file += 1;
        let current = disk.current;
        disk.files.retain(|no, _| Some(*no) == current);
        disk.files.insert(no, Image::default());
        Ok(SimFile { disk: self.disk.clone(), no, life: self.life })
    }

    fn switch(&self, _replace: bool) -> Result<(), StoreError> {
        let mut disk = self.disk()?;
        let newest = disk.next_file - 1;
        disk.current = Some(newest);
        disk.files.retain(|no, _| *no == newest);
        Ok(())
    }
}

fn failed() -> io::Error {
    io::Error::other("simulated I/O error")
}

fn io_error(error: io::Error) -> StoreError {
    StoreError::Io { path: "simulated disk".into(), error }
}

/// One file of a [`SimDisk`].
#[derive(Debug)]
pub(super) struct SimFile {
    disk: SimDisk,
    no: u64,
    life: u64,
}

impl SimFile {
    fn disk(&self, on: On) -> Result<MutexGuard<'_, Disk>, io::Error> {
        let mut disk = self.disk.lock();
        if disk.life != self.life || !disk.files.contains_key(&self.no) {
            return Err(failed());
        }
        match disk.fails(on) {
            None => Ok(disk),
            Some(fault) => {
                if on == On::Sync
                    && let Some(file) = disk.files.get_mut(&self.no)
                {
                    file.sync_fails(fault.kept);
                }
                Err(fault.kind.into())
            }
        }
    }
}

fn of(disk: &mut Disk, no: u64) -> Result<&mut Image, io::Error> {
    disk.files.get_mut(&no).ok_or_else(failed)
}

impl StorageBackend for SimFile {
    fn len(&self) -> Result<u64, io::Error> {
        let disk = self.disk.lock();
        Ok(disk.files.get(&self.no).ok_or_else(failed)?.bytes.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        let mut disk = self.disk(On::Read)?;
        let from = offset as usize;
        let file = of(&mut disk, self.no)?;
        out.copy_from_slice(file.bytes.get(from..from + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        let mut disk = self.disk(On::Write)?;
        let file = of(&mut disk, self.no)?;
        let (old, new) = (file.bytes.len(), len as usize);
        if new < old {
            file.remember(new, old);
        }
        file.bytes.resize(new, 0);
        Ok(())
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        let mut disk = self.disk(On::Sync)?;
        of(&mut disk, self.no)?.sync();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        let mut disk = self.disk(On::Write)?;
        let file = of(&mut disk, self.no)?;
        let (from, to) = (offset as usize, offset as usize + data.len());
        file.remember(from, to);
        if file.bytes.len() < to {
            file.bytes.resize(to, 0);
        }
        file.bytes[from..to].copy_from_slice(data);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(disk: &SimDisk) -> SimFile {
        drop(disk.medium());
        let life = disk.lock().life;
        let place = SimPlace { disk: disk.clone(), life };
        match place.current().unwrap() {
            Some(file) => file,
            None => {
                let file = place.fresh().unwrap();
                place.switch(false).unwrap();
                file
            }
        }
    }

    fn content(file: &SimFile) -> Vec<u8> {
        let mut all = vec![0; file.len().unwrap() as usize];
        file.read(0, &mut all).unwrap();
        all
    }

    #[test]
    fn only_what_was_synced_survives_the_power() {
        let disk = SimDisk::default();
        let file = open(&disk);
        file.set_len(3 * PAGE as u64).unwrap();
        file.write(10, b"kept").unwrap();
        file.sync_data().unwrap();
        let synced = content(&file);
        file.write(5000, &[7; 5000]).unwrap();
        file.write(12, b"lost").unwrap();
        file.set_len(100).unwrap();
        file.write(20_000, b"grown").unwrap();
        disk.cut_power(None);
        assert!(file.write(0, b"x").is_err());
        assert!(content(&open(&disk)) == synced);
    }

    #[test]
    fn what_a_failed_sync_was_to_persist_is_seen_and_lost() {
        for (kept, expected) in [(true, b"new"), (false, b"old")] {
            let disk = SimDisk::default();
            let file = open(&disk);
            file.write(0, b"old").unwrap();
            file.sync_data().unwrap();
            let kind = io::ErrorKind::Other;
            disk.arm(Fault { on: Some(On::Sync), after: 0, times: 1, kind, kept });
            file.write(0, b"new").unwrap();
            assert!(file.sync_data().is_err());
            assert_eq!(content(&file), b"new", "reads see it");
            file.sync_data().unwrap();
            disk.cut_power(None);
            assert_eq!(content(&open(&disk)), expected, "a later sync does not make it good");
        }
    }

    #[test]
    fn a_fault_strikes_its_kind_at_its_place_as_often_as_it_says() {
        let disk = SimDisk::default();
        let file = open(&disk);
        let kind = io::ErrorKind::StorageFull;
        disk.arm(Fault { on: Some(On::Write), after: 1, times: 2, kind, kept: false });
        file.write(0, b"a").unwrap();
        file.sync_data().unwrap();
        assert_eq!(file.write(0, b"b").unwrap_err().kind(), kind);
        assert!(file.set_len(1).is_err());
        file.write(0, b"c").unwrap();
        assert_eq!((content(&file), disk.figures().1), (b"c".to_vec(), 2));
    }
}
