//! What is left of a disk when the power fails: all that was synced, and of the rest any part.

use super::rng::Rng;
use crate::disk::{FileNo, Op, put};
use std::collections::{BTreeMap, VecDeque};

/// What a device may persist as one piece.
const SECTOR: usize = 512;
/// What the kernel writes back as one piece.
const PAGE: usize = 4096;

/// How the un-synced operations fare.
#[derive(Debug, Clone, Copy)]
enum Damage {
    /// They reached the device in order, up to a point.
    Prefix,
    /// Each has this chance in a hundred, as a whole.
    Writes(u64),
    /// Each page of a write has it.
    Pages(u64),
    /// Each sector of a write has it.
    Sectors(u64),
}

impl Damage {
    fn draw(rng: &mut Rng) -> Damage {
        let keep = match rng.between(0, 9) {
            0 => 0,
            1 => 100,
            _ => rng.between(1, 99),
        };
        match rng.between(0, 3) {
            0 => Damage::Prefix,
            1 => Damage::Writes(keep),
            2 => Damage::Pages(keep),
            _ => Damage::Sectors(keep),
        }
    }
}

#[derive(Debug, Default)]
struct File {
    /// On the device.
    base: Vec<u8>,
    /// Written and not synced, as places in the log.
    pending: VecDeque<usize>,
}

/// Walks a log of operations and builds the disks after a power failure on the way.
#[derive(Debug)]
pub struct Imager<'a> {
    log: &'a [Op],
    at: usize,
    files: BTreeMap<FileNo, File>,
    current: Option<FileNo>,
    /// Un-synced operations that the kernel has not written back by itself yet.
    window: usize,
}

impl<'a> Imager<'a> {
    /// From the beginning of a log whose disk held `start`.
    #[must_use]
    pub fn new(log: &'a [Op], start: Option<Vec<u8>>) -> Imager<'a> {
        let current = start.is_some().then_some(0);
        let files = start.map(|base| (0, File { base, pending: VecDeque::new() })).into_iter().collect();
        Imager { log, at: 0, files, current, window: usize::MAX }
    }

    /// A kernel that by itself leaves at most this many operations un-synced: kind to one that
    /// never syncs.
    #[must_use]
    pub fn writing_back(mut self, window: usize) -> Imager<'a> {
        self.window = window;
        self
    }

    /// Goes on to just before operation `to`.
    pub fn advance(&mut self, to: usize) {
        while self.at < to {
            self.step(self.at);
            self.at += 1;
        }
    }

    fn step(&mut self, at: usize) {
        match &self.log[at] {
            Op::Write(no, ..) | Op::SetLen(no, _) => {
                let file = self.files.entry(*no).or_default();
                file.pending.push_back(at);
                while file.pending.len() > self.window {
                    if let Some(oldest) = file.pending.pop_front() {
                        apply(&mut file.base, &self.log[oldest]);
                    }
                }
            }
            Op::Sync(no) => {
                let file = self.files.entry(*no).or_default();
                file.pending.drain(..).for_each(|pending| apply(&mut file.base, &self.log[pending]));
            }
            Op::SyncFailed(no) => self.files.entry(*no).or_default().pending.clear(),
            Op::Create(no) => drop(self.files.insert(*no, File::default())),
            Op::Switch(no) => {
                if let Some(old) = self.current.replace(*no) {
                    self.files.remove(&old);
                }
            }
        }
    }

    /// The store's file after a power failure here; `None` = there is none yet.
    pub fn image(&self, rng: &mut Rng) -> Option<Vec<u8>> {
        let file = self.files.get(&self.current?)?;
        let mut image = file.base.clone();
        let damage = Damage::draw(rng);
        let prefix = rng.index(file.pending.len() + 1);
        for (i, &pending) in file.pending.iter().enumerate() {
            match (damage, &self.log[pending]) {
                (Damage::Prefix, op) if i < prefix => apply(&mut image, op),
                (Damage::Prefix, _) => break,
                (Damage::Writes(keep) | Damage::Pages(keep) | Damage::Sectors(keep), Op::SetLen(_, len)) => {
                    if rng.chance(keep) {
                        image.resize(*len as usize, 0);
                    }
                }
                (Damage::Writes(keep), op) if rng.chance(keep) => {
                    apply_inside(&mut image, op, usize::MAX, rng, 100)
                }
                (Damage::Writes(_), _) => {}
                (Damage::Pages(keep), op) => apply_inside(&mut image, op, PAGE, rng, keep),
                (Damage::Sectors(keep), op) => apply_inside(&mut image, op, SECTOR, rng, keep),
            }
        }
        Some(image)
    }
}

fn apply(image: &mut Vec<u8>, op: &Op) {
    match op {
        Op::Write(_, offset, data) => put(image, *offset, data),
        Op::SetLen(_, len) => image.resize(*len as usize, 0),
        Op::Sync(_) | Op::SyncFailed(_) | Op::Create(_) | Op::Switch(_) => {}
    }
}

/// Keeps pieces of a write, but none beyond the end of the file: if the new length was lost, so are they.
fn apply_inside(image: &mut [u8], op: &Op, piece: usize, rng: &mut Rng, keep: u64) {
    let Op::Write(_, offset, data) = op else { return };
    let mut at = *offset as usize;
    for bytes in data.chunks(piece.min(data.len().max(1))) {
        if rng.chance(keep)
            && let Some(target) = image.get_mut(at..at + bytes.len())
        {
            target.copy_from_slice(bytes);
        }
        at += bytes.len();
    }
}
