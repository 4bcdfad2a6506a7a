//! What is left in the file when the process, and the cache with it, is gone.

use super::cache::{BEHIND, SECTOR};
use super::*;
use crate::disk::put;
use redb::{Builder, ReadableDatabase, TableDefinition};
use ron_actors::store::FileMedium;
use std::sync::atomic::{AtomicU32, Ordering};

const SECTOR_BYTES: usize = SECTOR as usize;

fn manner(syncs: Syncs, seed: u64) -> Manner {
    Manner { syncs, seed, pause: |_| () }
}

/// The real file: it outlives every cache, and fails when told to.
#[derive(Debug, Clone, Default)]
struct Device {
    bytes: Arc<Mutex<Vec<u8>>>,
    /// Fails this many operations from now on, if not 0; all of them once it has failed.
    fails_in: Arc<AtomicU32>,
}

impl Device {
    fn holding(bytes: &[u8]) -> Device {
        Device { bytes: Arc::new(Mutex::new(bytes.to_vec())), ..Device::default() }
    }

    fn image(&self) -> Vec<u8> {
        self.bytes.lock().unwrap().clone()
    }

    fn changes(&self, change: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
        match self.fails_in.load(Ordering::Relaxed) {
            0 => (),
            1 => return Err(io::Error::other("the power failed")),
            more => self.fails_in.store(more - 1, Ordering::Relaxed),
        }
        change(&mut self.bytes.lock().unwrap());
        Ok(())
    }

    fn cached(&self, manner: Manner) -> VolatileFile<Device> {
        let cache = Cache::of(manner, Rng::new(manner.seed, 0), self.image().len() as u64);
        VolatileFile { device: self.clone(), cache: Arc::new(Mutex::new(cache)) }
    }
}

impl StorageBackend for Device {
    fn len(&self) -> Result<u64, io::Error> {
        Ok(self.image().len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        let at = offset as usize;
        let bytes = self.bytes.lock().unwrap();
        out.copy_from_slice(bytes.get(at..at + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        self.changes(|bytes| bytes.resize(len as usize, 0))
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        self.changes(|bytes| put(bytes, offset, data))
    }
}

fn all(file: &impl StorageBackend) -> Vec<u8> {
    let mut out = vec![0xee; file.len().unwrap() as usize];
    file.read(0, &mut out).unwrap();
    out
}

/// A step that a store could take: a write, a new length or a sync.
fn step(rng: &mut Rng, file: &impl StorageBackend, model: &mut Vec<u8>) -> bool {
    let len = model.len() as u64;
    match rng.between(0, 9) {
        0 => file.sync_data().unwrap(),
        1 => {
            let len = rng.between(0, 64 * SECTOR);
            file.set_len(len).unwrap();
            model.resize(len as usize, 0);
        }
        2 => {
            let longer = len + rng.between(0, 20_000);
            file.set_len(longer).unwrap();
            model.resize(longer as usize, 0);
        }
        _ => {
            let start = rng.between(0, len);
            let data = vec![rng.between(1, 255) as u8; rng.between(1, 9_000) as usize];
            file.write(start, &data).unwrap();
            put(model, start, &data);
            return false;
        }
    }
    true
}

#[test]
fn reads_show_what_was_written_and_a_sync_puts_all_of_it_in_the_file() {
    for seed in 0..60 {
        let syncs = if seed % 3 == 0 { Syncs::Omitted } else { Syncs::Kept };
        let device = Device::holding(&[7; 5_000]);
        let file = device.cached(manner(syncs, seed));
        let (mut rng, mut model) = (Rng::new(seed, 1), vec![7; 5_000]);
        for _ in 0..300 {
            step(&mut rng, &file, &mut model);
            assert!(all(&file) == model, "seed {seed}");
        }
        file.sync_data().unwrap();
        (0..BEHIND).for_each(|_| file.sync_data().unwrap());
        assert!(device.image() == model, "seed {seed}");
        assert!(file.read(model.len() as u64, &mut [0]).is_err());
    }
}

#[test]
fn without_a_sync_each_sector_is_old_or_new_and_the_file_no_shorter() {
    let (mut lost, mut leaked, mut torn, mut longer) = (0, 0, 0, 0);
    for seed in 0..400 {
        let device = Device::holding(&[1; 40 * SECTOR_BYTES]);
        let file = device.cached(manner(Syncs::Kept, seed));
        file.write(8 * SECTOR, &[2; 16 * SECTOR_BYTES]).unwrap();
        file.set_len(60 * SECTOR).unwrap();
        file.set_len(30 * SECTOR).unwrap();
        drop(file);
        let left = device.image();
        let new = left.chunks(SECTOR_BYTES).map(|sector| {
            assert!(sector.iter().all(|byte| *byte == sector[0]), "a sector is never torn");
            usize::from(sector[0] == 2)
        });
        match new.sum() {
            0 => lost += 1,
            16 => leaked += 1,
            _ => torn += 1,
        }
        assert!(
            [40, 60].contains(&(left.len() / SECTOR_BYTES)),
            "lengths come whole, and shrink with a sync"
        );
        longer += usize::from(left.len() == 60 * SECTOR_BYTES);
        assert!(left[..8 * SECTOR_BYTES].iter().all(|byte| *byte == 1));
    }
    for (what, count) in [("lost", lost), ("leaked", leaked), ("torn", torn), ("longer", longer)] {
        assert!(count >= 20, "only {count} of 400 {what}");
    }
}

#[test]
fn a_sync_that_is_cut_short_leaves_any_part_in_any_order() {
    let mut partial = 0;
    let mut out_of_order = 0;
    for seed in 0..100 {
        let device = Device::holding(&[1; 64 * SECTOR_BYTES]);
        let file = device.cached(manner(Syncs::Kept, seed));
        file.write(0, &[2; 64 * SECTOR_BYTES]).unwrap();
        device.fails_in.store(5, Ordering::Relaxed);
        if file.sync_data().is_ok() {
            continue; // it had leaked before
        }
        assert!(all(&file) == [2; 64 * SECTOR_BYTES], "reads go on to show it");
        let left = device.image();
        let new: Vec<bool> = left.chunks(SECTOR_BYTES).map(|sector| sector[0] == 2).collect();
        partial += usize::from(new.contains(&true) && new.contains(&false));
        out_of_order += usize::from(!new.is_sorted_by(|one, next| one >= next));
        device.fails_in.store(0, Ordering::Relaxed);
        file.sync_data().unwrap();
        assert!(device.image() == [2; 64 * SECTOR_BYTES], "a later sync makes up for it");
    }
    assert!(partial >= 50 && out_of_order >= 50, "{partial} partial, {out_of_order} out of order");
}

#[test]
fn omitted_syncs_leave_the_file_behind_but_in_order() {
    let device = Device::holding(&[0; SECTOR_BYTES]);
    let file = device.cached(manner(Syncs::Omitted, 1));
    for number in 1..=BEHIND as u8 + 5 {
        file.write(0, &[number; SECTOR_BYTES]).unwrap();
        file.sync_data().unwrap();
        assert_eq!(device.image()[0], number.saturating_sub(BEHIND as u8));
    }
}

const TABLE: TableDefinition<'_, u32, u32> = TableDefinition::new("numbers");

fn commit(medium: &dyn Medium, number: u32) {
    let db = medium.open(&mut Builder::new(), 0).unwrap().db;
    let write = db.begin_write().unwrap();
    write.open_table(TABLE).unwrap().insert(0, number).unwrap();
    write.commit().unwrap();
    // As SIGKILL: nothing is closed, so nothing is said to the disk either.
    std::mem::forget(db);
}

fn committed(path: &std::path::Path) -> Option<u32> {
    let copy = path.with_extension("copy");
    std::fs::copy(path, &copy).unwrap();
    let db = FileMedium::new(copy, 0).open(&mut Builder::new(), 0).unwrap().db;
    let read = db.begin_read().unwrap();
    let table = read.open_table(TABLE).ok()?;
    table.get(0).unwrap().map(|value| value.value())
}

#[test]
fn a_commit_is_in_the_file_unless_syncs_are_omitted() {
    for seed in 0..20 {
        for syncs in [Syncs::Kept, Syncs::Omitted] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("store");
            commit(&*medium(path.clone(), manner(syncs, seed)), 7);
            assert_eq!(committed(&path), (syncs == Syncs::Kept).then_some(7), "{syncs:?}, seed {seed}");
        }
    }
}

#[test]
fn the_cache_outlives_a_reopening_and_the_lock_is_the_products() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let ours = medium(path.clone(), manner(Syncs::Omitted, 1));
    let db = ours.open(&mut Builder::new(), 0).unwrap().db;
    assert!(matches!(
        medium(path, manner(Syncs::Kept, 1)).open(&mut Builder::new(), 0),
        Err(StoreError::Locked)
    ));
    let write = db.begin_write().unwrap();
    write.open_table(TABLE).unwrap().insert(0, 9).unwrap();
    write.commit().unwrap();
    drop(db);
    let db = ours.open(&mut Builder::new(), 0).unwrap().db;
    let read = db.begin_read().unwrap();
    assert_eq!(read.open_table(TABLE).unwrap().get(0).unwrap().unwrap().value(), 9);
}
