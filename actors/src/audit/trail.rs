//! The chain and its file, together.

use super::files::{self, AuditError, Resumed};
use super::queue::{Queued, Told};
use super::ring::Ring;
use super::sink::Sink;
use super::{AuditLimits, AuditObserver, lock};
use ron_core::audit::{Chain, Decision, Entry, Head, Kind};
use ron_core::time::Millis;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// Bytes that may wait for a file that cannot be written; beyond them nothing is added to the chain.
const PENDING_BYTES_MAX: usize = 1 << 20;
/// Bytes that are synced before the next second is over.
const SYNC_BYTES: usize = 256 * 1024;

/// See the module.
#[derive(Debug)]
pub(super) struct Trail {
    chain: Chain,
    sink: Option<Sink>,
    failing: bool,
    findings: Vec<Entry>,
    dir: Option<PathBuf>,
    limits: AuditLimits,
}

/// What writing came to.
#[derive(Debug, Default)]
pub(super) struct Written {
    /// Records that were added.
    pub(super) recorded: u64,
    /// Entries that were not, since too much waits for the file.
    pub(super) dropped: u64,
    waiting: Vec<(Told, Result<(), String>)>,
}

impl Written {
    /// Tells those who wait. Once they know, all that is said of the log must be true already.
    pub(super) fn tell(self) {
        for (told, done) in self.waiting {
            // Whoever does not wait any more knows that it cannot know.
            let _ = told.send(done);
        }
    }
}

impl Trail {
    /// Goes on with the chain in `dir`. Blocks.
    pub(super) fn open(dir: Option<&Path>, limits: AuditLimits, wall: Millis) -> Result<Trail, AuditError> {
        let mut trail = Trail {
            chain: Chain::after(Head::EMPTY),
            sink: None,
            failing: false,
            findings: Vec::new(),
            dir: dir.map(Path::to_owned),
            limits,
        };
        trail.resume(wall)?;
        Ok(trail)
    }

    /// Reads anew where the chain ends: at the start, and after a bug that may have left half a step here.
    pub(super) fn resume(&mut self, wall: Millis) -> Result<(), AuditError> {
        let Some(dir) = &self.dir else { return Ok(()) };
        let Resumed { head, open, torn_bytes, aside } = files::resume(dir)?;
        if torn_bytes > 0 {
            tracing::warn!(torn_bytes, "the last line of the audit log was not finished, and is cut off");
            let entry = Entry::new(wall, Kind::Audit, Decision::Done, "TORN");
            self.findings
                .push(entry.detail(&format!("{torn_bytes} bytes of an unfinished line were cut off")));
        }
        if let Some((file, fault)) = aside {
            let file = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
            tracing::error!(file, %fault, "the audit log is damaged: its last file is moved aside, the chain goes on");
            let entry = Entry::new(wall, Kind::Audit, Decision::Failed, "DAMAGED");
            self.findings.push(entry.detail(&format!("{file}: {fault}")));
        }
        self.chain = Chain::after(head);
        self.sink = Some(Sink::new(dir, self.limits.file_bytes, self.limits.keep, open));
        Ok(())
    }

    pub(super) fn head(&self) -> Head {
        self.chain.head()
    }

    /// What was wrong at the start, to be recorded.
    pub(super) fn findings(&mut self) -> Vec<Entry> {
        std::mem::take(&mut self.findings)
    }

    /// Adds what was said to the chain and gives it to the system; brings it to the device if somebody waits for that,
    /// if there is much, or if `sync` says so. Blocks.
    pub(super) fn write(
        &mut self,
        batch: Vec<Queued>,
        sync: bool,
        ring: &Mutex<Ring>,
        observer: &dyn AuditObserver,
    ) -> Written {
        let mut written = Written::default();
        for Queued { entry, dropped, told, intent } in batch {
            self.chain.dropped(dropped);
            let given_up = intent && told.as_ref().is_some_and(tokio::sync::oneshot::Sender::is_closed);
            let added = match entry.filter(|_| !given_up) {
                Some(entry) => {
                    let added = self.add(&entry, ring, observer);
                    written.recorded += u64::from(added.is_ok());
                    added
                }
                None => Ok(()),
            };
            match told {
                Some(told) => written.waiting.push((told, added)),
                None if added.is_ok() => {}
                None => {
                    self.chain.dropped(1);
                    written.dropped += 1;
                }
            }
        }
        let sync = sync || !written.waiting.is_empty() || self.pending() > SYNC_BYTES;
        let flushed = self.flush(sync, observer);
        for (_, done) in &mut written.waiting {
            if done.is_ok() {
                done.clone_from(&flushed);
            }
        }
        written
    }

    /// Adds a record, unless too much waits for the file already.
    fn add(&mut self, entry: &Entry, ring: &Mutex<Ring>, observer: &dyn AuditObserver) -> Result<(), String> {
        if self.pending() > PENDING_BYTES_MAX {
            self.flush(true, observer)?;
        }
        let line = self.chain.append(entry);
        let seq = self.chain.head().seq;
        lock(ring).push(seq, &line);
        if let Some(sink) = &mut self.sink {
            sink.push(seq, &line);
        }
        Ok(())
    }

    fn pending(&self) -> usize {
        self.sink.as_ref().map_or(0, Sink::pending)
    }

    fn flush(&mut self, sync: bool, observer: &dyn AuditObserver) -> Result<(), String> {
        let Some(sink) = &mut self.sink else { return Ok(()) };
        let done = if sync { sink.sync() } else { sink.write() };
        match done {
            Ok(()) => {
                // what is only with the system may still fail to get to the device
                if sync && std::mem::take(&mut self.failing) {
                    tracing::info!("the audit log can be written again");
                    observer.failing(None);
                }
                Ok(())
            }
            Err(error) => {
                let why = error.to_string();
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::error!(%error, "the audit log cannot be written: operators' acts are refused");
                    observer.failing(Some(why.clone()));
                }
                Err(why)
            }
        }
    }
}
