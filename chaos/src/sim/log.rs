//! What happened, in order: the history that is judged, and a running BLAKE3 over one line an event, the last of which
//! are kept for whoever has to find out why.

use ron_core::time::Millis;
use ron_history::record::{Event, Record};
use std::collections::{BTreeMap, VecDeque};
use std::fmt::{Arguments, Write};

/// Lines kept for a failure's report.
const TAIL_LINES: usize = 60;

/// See the module.
#[derive(Debug)]
pub(super) struct EventLog {
    hasher: blake3::Hasher,
    events: u64,
    tail: VecDeque<String>,
    counts: BTreeMap<String, u64>,
    trace: bool,
    history: Vec<Record>,
    calls: u64,
}

impl EventLog {
    /// An empty log; with `trace` it keeps every line, and not only the last ones.
    pub(super) fn new(trace: bool) -> EventLog {
        EventLog {
            hasher: blake3::Hasher::new(),
            events: 0,
            tail: VecDeque::new(),
            counts: BTreeMap::new(),
            trace,
            history: Vec::new(),
            calls: 0,
        }
    }

    /// Takes one event at node time `now`, counted under `what`.
    pub(super) fn event(&mut self, now: Millis, what: &str, text: Arguments<'_>) {
        self.line(now, what, text);
        self.count(what);
    }

    /// Takes one record of the history.
    pub(super) fn record(&mut self, now: Millis, event: Event) {
        self.line(now, "record", format_args!("{} {event:?}", self.history.len()));
        self.history.push(Record { ms: now.0, event });
    }

    /// The number of the next call.
    pub(super) fn next_call(&mut self) -> u64 {
        self.calls += 1;
        self.calls
    }

    fn line(&mut self, now: Millis, what: &str, text: Arguments<'_>) {
        let mut line = String::with_capacity(96);
        // Writing into a string cannot fail.
        let _ = writeln!(line, "{:>9} {what} {text}", now.since(Millis(super::EPOCH_MS)));
        self.hasher.update(line.as_bytes());
        self.events += 1;
        if !self.trace && self.tail.len() == TAIL_LINES {
            self.tail.pop_front();
        }
        self.tail.push_back(line);
    }

    /// Counts something that was reached and is no event of its own.
    pub(super) fn count(&mut self, what: &str) {
        match self.counts.get_mut(what) {
            Some(count) => *count += 1,
            None => drop(self.counts.insert(what.to_owned(), 1)),
        }
    }

    pub(super) fn hash(&self) -> String {
        self.hasher.finalize().to_hex().to_string()
    }

    pub(super) fn events(&self) -> u64 {
        self.events
    }

    pub(super) fn counts(&self) -> BTreeMap<String, u64> {
        self.counts.clone()
    }

    pub(super) fn history(&self) -> &[Record] {
        &self.history
    }

    /// The lines that were kept.
    pub(super) fn lines(&self) -> String {
        self.tail.iter().map(String::as_str).collect()
    }
}
