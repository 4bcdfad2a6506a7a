//! The newest records, in memory.

use std::collections::VecDeque;
use std::sync::Arc;

/// See the module.
#[derive(Debug)]
pub(super) struct Ring {
    lines: VecDeque<(u64, Arc<str>)>,
    bytes: usize,
    bytes_max: usize,
}

/// What an entry takes beside its text, roughly.
const OVERHEAD_BYTES: usize = 48;

impl Ring {
    pub(super) fn new(bytes_max: usize) -> Ring {
        Ring { lines: VecDeque::new(), bytes: 0, bytes_max }
    }

    pub(super) fn push(&mut self, seq: u64, line: &str) {
        self.bytes += line.len() + OVERHEAD_BYTES;
        self.lines.push_back((seq, line.into()));
        while self.bytes > self.bytes_max && self.lines.len() > 1 {
            let Some((_, oldest)) = self.lines.pop_front() else { return };
            self.bytes -= oldest.len() + OVERHEAD_BYTES;
        }
    }

    /// Forgets all: numbers begin anew.
    pub(super) fn clear(&mut self) {
        self.lines.clear();
        self.bytes = 0;
    }

    /// Those after record `after`, at most so many, and the number of the last of them.
    pub(super) fn after(&self, after: u64, most: usize) -> (Vec<Arc<str>>, u64) {
        let begin = self.lines.partition_point(|(seq, _)| *seq <= after);
        let lines: Vec<_> = self.lines.range(begin..).take(most).collect();
        let last = lines.last().map_or(after, |(seq, _)| *seq);
        (lines.into_iter().map(|(_, line)| line.clone()).collect(), last)
    }
}
