//! The simulated disk: keeps apart what was synced from what was only written, fails on demand, and loses what
//! was not synced when the power goes.

use redb::{Builder, Database, StorageBackend};
use ron_actors::store::{Medium, StoreError};
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const PAGE: usize = 4096;

/// What happens to the bytes that were written and not synced when a sync fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unsynced {
    /// They reached the platter all the same.
    Kept,
    /// They are gone.
    Lost,
}

#[derive(Debug, Default)]
struct Disk {
    bytes: Vec<u8>,
    /// Pages as they were at the last sync, of those written since.
    before: BTreeMap<usize, Vec<u8>>,
    synced_len: usize,
    /// Only the handle of this opening works.
    opening: u64,
    /// Syncs until one fails.
    fails_in: Option<(u64, Unsynced)>,
    /// Openings that fail from now on.
    refused: u64,
}

impl Disk {
    fn lose_unsynced(&mut self) {
        let before = std::mem::take(&mut self.before);
        self.bytes.resize(self.synced_len.max(self.bytes.len()), 0);
        for (page, old) in before {
            let from = page * PAGE;
            if self.bytes.len() < from + old.len() {
                self.bytes.resize(from + old.len(), 0);
            }
            self.bytes[from..from + old.len()].copy_from_slice(&old);
        }
        self.bytes.truncate(self.synced_len);
    }

    fn all_synced(&mut self) {
        self.before.clear();
        self.synced_len = self.bytes.len();
    }

    /// Remembers the synced content of the pages that `from..to` touches.
    fn remember(&mut self, from: usize, to: usize) {
        for page in from / PAGE..to.div_ceil(PAGE) {
            let (start, end) = (page * PAGE, ((page + 1) * PAGE).min(self.synced_len));
            if start < end && !self.before.contains_key(&page) {
                let mut old = vec![0; end - start];
                let known = self.bytes.len().clamp(start, end);
                old[..known - start].copy_from_slice(&self.bytes[start..known]);
                self.before.insert(page, old);
            }
        }
    }
}

/// The disk, as the store opens it. Clones are the same disk.
#[derive(Debug, Clone, Default)]
pub(super) struct SimMedium(Arc<Mutex<Disk>>);

impl SimMedium {
    fn lock(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The sync after `syncs` more fails, and the next `refused` openings.
    pub(super) fn fail_sync(&self, syncs: u64, unsynced: Unsynced, refused: u64) {
        let mut disk = self.lock();
        disk.fails_in = Some((syncs, unsynced));
        disk.refused = refused;
    }

    /// Nothing fails any more.
    pub(super) fn heal(&self) {
        let mut disk = self.lock();
        disk.fails_in = None;
        disk.refused = 0;
    }

    /// The power goes: open handles are dead, and what was not synced is lost.
    pub(super) fn cut_power(&self) {
        let mut disk = self.lock();
        disk.opening += 1;
        disk.lose_unsynced();
        disk.fails_in = None;
        disk.refused = 0;
    }
}

impl Medium for SimMedium {
    fn open(&self, builder: &mut Builder) -> Result<Database, StoreError> {
        let opening = {
            let mut disk = self.lock();
            if disk.refused > 0 {
                disk.refused -= 1;
                return Err(StoreError::Io { path: "simulated disk".into(), error: failed() });
            }
            disk.opening += 1;
            disk.opening
        };
        Ok(builder.create_with_backend(OpenDisk { medium: self.clone(), opening })?)
    }

    fn durable(&self) -> bool {
        true
    }
}

fn failed() -> io::Error {
    io::Error::other("simulated I/O error")
}

/// One opening of the disk.
#[derive(Debug)]
struct OpenDisk {
    medium: SimMedium,
    opening: u64,
}

impl OpenDisk {
    fn disk(&self) -> Result<MutexGuard<'_, Disk>, io::Error> {
        let disk = self.medium.lock();
        if disk.opening == self.opening { Ok(disk) } else { Err(failed()) }
    }
}

impl StorageBackend for OpenDisk {
    fn len(&self) -> Result<u64, io::Error> {
        Ok(self.disk()?.bytes.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        let disk = self.disk()?;
        let from = offset as usize;
        let bytes = disk.bytes.get(from..from + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(bytes);
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        let mut disk = self.disk()?;
        let (old, new) = (disk.bytes.len(), len as usize);
        if new < old {
            disk.remember(new, old);
        }
        disk.bytes.resize(new, 0);
        Ok(())
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        let mut disk = self.disk()?;
        match disk.fails_in {
            Some((0, unsynced)) => {
                disk.fails_in = None;
                // This handle is dead from here on, like a file that was written and could not be synced.
                disk.opening += 1;
                match unsynced {
                    Unsynced::Kept => disk.all_synced(),
                    Unsynced::Lost => disk.lose_unsynced(),
                }
                return Err(failed());
            }
            Some((syncs, unsynced)) => disk.fails_in = Some((syncs - 1, unsynced)),
            None => {}
        }
        disk.all_synced();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        let mut disk = self.disk()?;
        let (from, to) = (offset as usize, offset as usize + data.len());
        disk.remember(from, to);
        if disk.bytes.len() < to {
            disk.bytes.resize(to, 0);
        }
        disk.bytes[from..to].copy_from_slice(data);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(medium: &SimMedium) -> OpenDisk {
        medium.lock().opening += 1;
        let opening = medium.lock().opening;
        OpenDisk { medium: medium.clone(), opening }
    }

    fn content(disk: &OpenDisk) -> Vec<u8> {
        let mut all = vec![0; disk.len().unwrap() as usize];
        disk.read(0, &mut all).unwrap();
        all
    }

    #[test]
    fn only_what_was_synced_survives_the_power() {
        let medium = SimMedium::default();
        let disk = open(&medium);
        disk.set_len(3 * PAGE as u64).unwrap();
        disk.write(10, b"kept").unwrap();
        disk.sync_data().unwrap();
        let synced = content(&disk);
        disk.write(5000, &[7; 5000]).unwrap();
        disk.write(12, b"lost").unwrap();
        disk.set_len(100).unwrap();
        disk.write(20_000, b"grown").unwrap();
        medium.cut_power();
        assert!(disk.write(0, b"x").is_err() && disk.len().is_err());
        assert!(content(&open(&medium)) == synced);
    }

    #[test]
    fn a_failed_sync_keeps_or_loses_and_the_handle_is_dead() {
        for (unsynced, expected) in [(Unsynced::Kept, b"new"), (Unsynced::Lost, b"old")] {
            let medium = SimMedium::default();
            let disk = open(&medium);
            disk.write(0, b"old").unwrap();
            disk.sync_data().unwrap();
            medium.fail_sync(0, unsynced, 0);
            disk.write(0, b"new").unwrap();
            assert!(disk.sync_data().is_err() && disk.sync_data().is_err());
            assert_eq!(content(&open(&medium)), expected);
        }
    }
}
