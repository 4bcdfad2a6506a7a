//! The write cache: layers of sectors between a file and its readers, and what of them reaches the file when.

use super::{Manner, Syncs};
use crate::crash::rng::Rng;
use redb::StorageBackend;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io;
use std::ops::Range;
use std::time::Duration;

/// What a device writes whole or not at all.
pub(super) const SECTOR: u64 = 512;
/// A page of 4096 bytes: where most writes tear, if they do.
const PAGE_SECTORS: u64 = 8;
/// With syncs omitted, the file is this many of them behind.
pub(super) const BEHIND: usize = 16;
/// Longest pause within a sync.
const PAUSE_MAX_US: u64 = 10_000;

type Sector = [u8; SECTOR as usize];

/// What was written between two syncs.
struct Layer {
    sectors: BTreeMap<u64, Box<Sector>>,
    /// The shortest that the file was meanwhile: nothing of earlier layers shows beyond.
    cut: u64,
    len: u64,
}

impl Layer {
    fn at(len: u64) -> Layer {
        Layer { sectors: BTreeMap::new(), cut: len, len }
    }

    /// Puts what this layer has of the bytes from `start` over those of earlier layers.
    fn cover(&self, start: u64, out: &mut [u8]) {
        let end = start + out.len() as u64;
        out[(self.cut.clamp(start, end) - start) as usize..].fill(0);
        for (number, sector) in self.sectors.range(start / SECTOR..end.div_ceil(SECTOR)) {
            let at = number * SECTOR;
            let (from, to) = (at.max(start), (at + SECTOR).min(end));
            out[(from - start) as usize..(to - start) as usize]
                .copy_from_slice(&sector[(from - at) as usize..(to - at) as usize]);
        }
    }
}

/// A file's cache. Each method is given the file.
pub(super) struct Cache {
    manner: Manner,
    rng: Rng,
    /// Synced, but not in the file: oldest first. Empty unless syncs are omitted, or the file failed.
    held: VecDeque<Layer>,
    open: Layer,
}

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache")
            .field("manner", &self.manner)
            .field("len", &self.open.len)
            .finish_non_exhaustive()
    }
}

impl Cache {
    pub(super) fn of(manner: Manner, rng: Rng, len: u64) -> Cache {
        Cache { manner, rng, held: VecDeque::new(), open: Layer::at(len) }
    }

    pub(super) fn len(&self) -> u64 {
        self.open.len
    }

    pub(super) fn read(&self, file: &impl StorageBackend, start: u64, out: &mut [u8]) -> io::Result<()> {
        if start + out.len() as u64 > self.open.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.look(file, start, out)
    }

    /// Reads, with zeros beyond the end.
    fn look(&self, file: &impl StorageBackend, start: u64, out: &mut [u8]) -> io::Result<()> {
        let there = file.len()?.saturating_sub(start).min(out.len() as u64) as usize;
        if there > 0 {
            file.read(start, &mut out[..there])?;
        }
        out[there..].fill(0);
        self.held.iter().chain([&self.open]).for_each(|layer| layer.cover(start, out));
        Ok(())
    }

    pub(super) fn write(&mut self, file: &impl StorageBackend, start: u64, data: &[u8]) -> io::Result<()> {
        let end = start + data.len() as u64;
        if end > self.open.len {
            self.set_len(file, end)?;
        }
        let sectors = start / SECTOR..end.div_ceil(SECTOR);
        for number in sectors.clone() {
            let at = number * SECTOR;
            let (from, to) = (at.max(start), (at + SECTOR).min(end));
            let mut sector = Box::new([0; SECTOR as usize]);
            if to - from < SECTOR {
                self.look(file, at, sector.as_mut_slice())?;
            }
            sector[(from - at) as usize..(to - at) as usize]
                .copy_from_slice(&data[(from - start) as usize..(to - start) as usize]);
            self.open.sectors.insert(number, sector);
        }
        self.leak_some(file, sectors)
    }

    /// A longer file may be known as such early. A shorter one never is: that would lose what was synced.
    pub(super) fn set_len(&mut self, file: &impl StorageBackend, len: u64) -> io::Result<()> {
        let open = &mut self.open;
        if len < open.len {
            open.cut = open.cut.min(len);
            open.sectors.split_off(&len.div_ceil(SECTOR));
            if let Some(last) = open.sectors.get_mut(&(len / SECTOR)) {
                last[(len % SECTOR) as usize..].fill(0);
            }
        }
        open.len = len;
        let durable = file.len()?;
        if len > durable && self.leaks() && self.open.cut >= durable && self.rng.chance(50) {
            file.set_len(len)?;
            self.open.cut = len; // zeros there, and zeros before
        }
        Ok(())
    }

    /// Nothing may overtake what was synced before, and what omits syncs should at least find its store again.
    fn leaks(&self) -> bool {
        self.manner.syncs == Syncs::Kept && self.held.is_empty()
    }

    /// Lets some of a write, or of an earlier one, get to the file before anybody asks for it.
    fn leak_some(&mut self, file: &impl StorageBackend, written: Range<u64>) -> io::Result<()> {
        if !self.leaks() {
            return Ok(());
        }
        match self.rng.between(0, 99) {
            0..15 => self.leak(file, written, 1, 100),
            15..25 => self.leak(file, written, PAGE_SECTORS, 50),
            25..35 => self.leak(file, written, 1, 50),
            35..45 => {
                let any = self.rng.between(0, self.open.len / SECTOR);
                let Some((&first, _)) = self.open.sectors.range(any..).next() else { return Ok(()) };
                let many = self.rng.between(1, 4 * PAGE_SECTORS);
                self.leak(file, first..first + many, 1, 80)
            }
            _ => Ok(()),
        }
    }

    /// Moves sectors to the file, by the aligned `unit` of them, each with a chance of `percent`.
    fn leak(
        &mut self,
        file: &impl StorageBackend,
        range: Range<u64>,
        unit: u64,
        percent: u64,
    ) -> io::Result<()> {
        // Nothing gets beyond the length that the file has for good, or is going to be cut to.
        let end = file.len()?.min(self.open.cut) / SECTOR;
        let (mut judged, mut goes) = (None, false);
        for number in range.start..range.end.min(end) {
            if judged.replace(number / unit) != Some(number / unit) {
                goes = self.rng.chance(percent);
            }
            if goes && let Some(sector) = self.open.sectors.get(&number) {
                file.write(number * SECTOR, sector.as_slice())?;
                self.open.sectors.remove(&number);
            }
        }
        Ok(())
    }

    /// What is written so far is in the file when this returns, unless syncs are omitted.
    pub(super) fn sync(&mut self, file: &impl StorageBackend) -> io::Result<()> {
        let next = Layer::at(self.open.len);
        self.held.push_back(std::mem::replace(&mut self.open, next));
        let keep = match self.manner.syncs {
            Syncs::Kept => 0,
            Syncs::Omitted => BEHIND,
        };
        while self.held.len() > keep {
            if let Some(oldest) = self.held.front() {
                flush(file, oldest, &mut self.rng, self.manner.pause)?;
            }
            self.held.pop_front();
        }
        Ok(())
    }
}

/// Writes a layer to the file in any order; a kill leaves any part of it. The file itself is not synced: the kernel
/// outlives the process, so its memory of the file is the device here.
fn flush(file: &impl StorageBackend, layer: &Layer, rng: &mut Rng, pause: fn(Duration)) -> io::Result<()> {
    let durable = file.len()?;
    let only_shorter = layer.cut == layer.len && layer.len < durable;
    let length_last = only_shorter && rng.chance(50);
    if !length_last {
        set_len(file, layer)?;
    }
    let unit = if rng.chance(25) { 1 } else { PAGE_SECTORS };
    let mut pieces = pieces(layer, unit);
    let pause_at = rng.chance(80).then(|| rng.index(pieces.len().max(1)));
    for left in (1..=pieces.len()).rev() {
        if pause_at == Some(left - 1) {
            pause(Duration::from_micros(rng.between(0, PAUSE_MAX_US)));
        }
        let (at, bytes) = pieces.swap_remove(rng.index(left));
        let inside = layer.len.saturating_sub(at).min(bytes.len() as u64) as usize;
        file.write(at, &bytes[..inside])?;
    }
    if length_last {
        set_len(file, layer)?;
    }
    Ok(())
}

fn set_len(file: &impl StorageBackend, layer: &Layer) -> io::Result<()> {
    if layer.cut < file.len()? {
        file.set_len(layer.cut)?; // what comes back beyond it is zeros
    }
    if layer.len != file.len()? {
        file.set_len(layer.len)?;
    }
    Ok(())
}

/// The layer's bytes as single writes, none of them across a multiple of `unit` sectors.
fn pieces(layer: &Layer, unit: u64) -> Vec<(u64, Vec<u8>)> {
    let mut pieces: Vec<(u64, Vec<u8>)> = Vec::new();
    for (&number, sector) in &layer.sectors {
        let at = number * SECTOR;
        match pieces.last_mut() {
            Some((start, bytes)) if *start + bytes.len() as u64 == at && number % unit != 0 => {
                bytes.extend_from_slice(sector.as_slice());
            }
            _ => pieces.push((at, sector.to_vec())),
        }
    }
    pieces
}
