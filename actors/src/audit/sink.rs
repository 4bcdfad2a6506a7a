//! The file of the log that is written. Lines are written at the place where they belong, as often as it takes, and
//! count as written once they are synced; until then they are kept in memory, too.

use super::files::{file_name, list};
use rustix::fs::{FallocateFlags, fallocate};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// No more than this is ever kept for what is not written yet, bytes.
const ROOM_BYTES_MAX: u64 = 64 << 20;

/// See the module.
#[derive(Debug)]
pub(super) struct Sink {
    dir: PathBuf,
    file_bytes: u64,
    keep: usize,
    open: Option<Open>,
    /// Lines that are not synced.
    pending: Vec<u8>,
    /// Number of the first of them.
    first: u64,
    /// How much of them is with the system.
    written: usize,
}

/// A file to which lines are added.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) file: File,
    pub(super) path: PathBuf,
    /// Bytes that are synced.
    pub(super) synced: u64,
    /// Its name is not on the device yet.
    pub(super) new: bool,
}

impl Sink {
    pub(super) fn new(dir: &Path, file_bytes: u64, keep: usize, open: Option<Open>) -> Sink {
        if let Some(open) = &open {
            open.make_room(file_bytes);
        }
        Sink { dir: dir.to_owned(), file_bytes, keep, open, pending: Vec::new(), first: 0, written: 0 }
    }

    /// Bytes that are not synced.
    pub(super) fn pending(&self) -> usize {
        self.pending.len()
    }

    pub(super) fn push(&mut self, seq: u64, line: &str) {
        if self.pending.is_empty() {
            self.first = seq;
        }
        self.pending.extend_from_slice(line.as_bytes());
    }

    /// Gives what is new to the system: it outlives this process.
    ///
    /// # Errors
    /// The system's. It can be tried again.
    pub(super) fn write(&mut self) -> io::Result<()> {
        if self.written == self.pending.len() {
            return Ok(());
        }
        let open = match &mut self.open {
            Some(open) => open,
            None => {
                let open = Open::create(self.dir.join(file_name(self.first)))?;
                open.make_room(self.file_bytes);
                self.open.insert(open)
            }
        };
        let (rest, at) = (&self.pending[self.written..], open.synced + self.written as u64);
        open.file.write_all_at(rest, at)?;
        self.written = self.pending.len();
        Ok(())
    }

    /// Brings all to the device, and begins another file if this one is long enough.
    ///
    /// # Errors
    /// The system's. It can be tried again: after a failed sync with a new file, since of the old one's pages nobody
    /// knows any more what the device has.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        self.write()?;
        let Some(open) = self.open.as_mut().filter(|_| !self.pending.is_empty()) else { return Ok(()) };
        if let Err(error) = open.sync(&self.dir) {
            if let Some(open) = self.open.take() {
                open.give_up();
            }
            self.written = 0;
            return Err(error);
        }
        open.synced += self.pending.len() as u64;
        let full = open.synced >= self.file_bytes;
        self.pending.clear();
        self.written = 0;
        if full {
            self.open = None;
            self.prune();
        }
        Ok(())
    }

    /// Removes the oldest files beyond those that are kept, with room for the one that comes next.
    fn prune(&self) {
        let Ok(files) = list(&self.dir) else { return };
        for file in files.iter().take((files.len() + 1).saturating_sub(self.keep)) {
            match std::fs::remove_file(&file.path) {
                Ok(()) => {
                    tracing::info!(file = %file.path.display(), "the oldest file of the audit log is removed")
                }
                Err(error) => {
                    tracing::warn!(file = %file.path.display(), %error, "an old file is not removed")
                }
            }
        }
    }
}

impl Open {
    fn create(path: PathBuf) -> io::Result<Open> {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        Ok(Open { file, path, synced: 0, new: true })
    }

    /// Has the file system keep room for the rest of the file, so that acts can be written when the disk is full: it is
    /// then that an operator has something to do.
    fn make_room(&self, file_bytes: u64) {
        let rest = file_bytes.saturating_sub(self.synced);
        if (1..=ROOM_BYTES_MAX).contains(&rest) {
            // Without it the log works as well, until the disk is full.
            let _ = fallocate(&self.file, FallocateFlags::KEEP_SIZE, self.synced, rest);
        }
    }

    fn sync(&mut self, dir: &Path) -> io::Result<()> {
        if !self.new {
            return self.file.sync_data();
        }
        self.file.sync_all()?;
        File::open(dir)?.sync_all()?;
        self.new = false;
        Ok(())
    }

    /// Leaves behind only what is known to be on the device.
    fn give_up(self) {
        let left = match self.synced {
            0 => std::fs::remove_file(&self.path),
            synced => self.file.set_len(synced),
        };
        if let Err(error) = left {
            tracing::error!(file = %self.path.display(), %error, "records at its end stand in the next file, too");
        }
    }
}
