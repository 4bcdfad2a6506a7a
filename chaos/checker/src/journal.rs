//! The journal: every request is written down before its first byte leaves and again when it ends, in
//! memory for the checker and as JSON lines for a person or a second look (`kill9 --recheck FILE`).

use crate::clock::{Clock, Micros};
use crate::history::{Call, Gather, History, Limits, Line, Outcome};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

/// Lines that may wait for the writer; a full channel slows the load down, it loses nothing.
const WAITING_MAX: usize = 16 * 1024;

/// Where all threads of a run write down what they do.
#[derive(Debug)]
pub struct Journal {
    clock: Clock,
    next_op: AtomicU64,
    lines: SyncSender<Line>,
    writer: Mutex<Option<JoinHandle<io::Result<Gather>>>>,
}

/// A request that was invoked and has not ended.
#[derive(Debug)]
#[must_use]
pub struct Invoked {
    op: u64,
    /// When it was invoked.
    pub at: Micros,
}

impl Journal {
    /// Starts a journal in `path`.
    ///
    /// # Errors
    /// If the file can't be created.
    pub fn create(path: &Path, clock: Clock, limits: Limits) -> io::Result<Journal> {
        let mut file = BufWriter::new(File::create(path)?);
        let (lines, incoming) = sync_channel::<Line>(WAITING_MAX);
        let writer = std::thread::spawn(move || {
            let mut gather = Gather::default();
            for line in incoming {
                serde_json::to_writer(&mut file, &line)?;
                file.write_all(b"\n")?;
                gather.line(line);
            }
            file.flush()?;
            Ok(gather)
        });
        let journal = Journal { clock, next_op: AtomicU64::new(1), lines, writer: Mutex::new(Some(writer)) };
        journal.note(Line::Start(limits));
        Ok(journal)
    }

    /// Writes down any line.
    pub fn note(&self, line: Line) {
        // The writer ends early only on an I/O error, which `finish` reports.
        let _ = self.lines.send(line);
    }

    /// Writes down that `call` is about to be sent.
    pub fn invoke(&self, call: Call) -> Invoked {
        let op = self.next_op.fetch_add(1, Ordering::Relaxed);
        let at = self.clock.now();
        self.note(Line::Invoke { op, at, call });
        // Sending on the channel may have waited; the request still starts after `at`, which is all that
        // counts.
        Invoked { op, at }
    }

    /// Writes down what came of it, and when the answer had been read.
    pub fn done(&self, invoked: &Invoked, at: Micros, outcome: Outcome) {
        self.note(Line::Done { op: invoked.op, at, outcome });
    }

    /// Ends the journal and gives the history.
    ///
    /// # Errors
    /// If a line could not be written.
    pub fn finish(self) -> io::Result<History> {
        let Journal { lines, writer, .. } = self;
        drop(lines);
        let writer = writer.into_inner().ok().flatten();
        let gather = writer.and_then(|thread| thread.join().ok()).unwrap_or(Ok(Gather::default()))?;
        gather.finish().ok_or_else(|| io::Error::other("the journal's writer failed"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::read_journal;
    use std::io::BufReader;

    #[test]
    fn memory_and_file_hold_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let limits = Limits {
            seed: 7,
            max_attempts: 5,
            max_deliveries: 50,
            dedup_window_ms: 300_000,
            durability: "fsync".to_owned(),
            fifo_topics: vec!["f".to_owned()],
        };
        let journal = Journal::create(&path, Clock::start(), limits).unwrap();
        let recv = Call::Recv { topic: "t".to_owned(), visibility_ms: 250, max: 1, wait_ms: 0 };
        let first = journal.invoke(recv.clone());
        let _never_ends = journal.invoke(recv);
        journal.note(Line::Killed { at: 5, in_flight: 2, writes_in_flight: 0 });
        journal.done(&first, first.at + 3, Outcome::Got(Vec::new()));
        let history = journal.finish().unwrap();
        assert_eq!(history.operations.len(), 2);
        assert_eq!(history.operations[0].done, first.at + 3);
        assert!(history.operations[1].outcome.is_unknown());
        assert_eq!(history.kills, [5]);
        let read = read_journal(BufReader::new(File::open(&path).unwrap())).unwrap();
        assert_eq!(read, history);
    }
}
