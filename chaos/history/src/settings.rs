//! Which values a topic's setting may have had at a time, as far as the history tells.

use crate::index::Call;
use crate::record::{Op, Queue, Settings};

/// A value, from when it may have been in force, and whether it certainly came to be.
#[derive(Debug, Clone, Copy)]
struct Change {
    begin: usize,
    end: usize,
    sure: bool,
    to: Settings,
}

/// The settings of one topic through the history.
#[derive(Debug, Default)]
pub(crate) struct Past {
    changes: Vec<Change>,
    /// After these, what was overridden before may be in force again.
    restored: Vec<usize>,
    /// No retention was ever shorter, of ready messages or of dead letters.
    pub(crate) least_retention: u64,
}

/// One of them.
pub(crate) type Field = fn(&Settings) -> Option<u64>;

impl Past {
    pub(crate) fn of(queue: Queue, calls: &[Call<'_>], defaults: Settings, restored: Vec<usize>) -> Past {
        let mut changes = vec![Change { begin: 0, end: 0, sure: true, to: defaults }];
        for call in calls {
            let to = match call.op {
                Op::Configure { queue: of, to } if *of == queue => *to,
                Op::Delete { queue: of } if *of == queue => defaults,
                _ => continue,
            };
            if call.may_act() {
                let (begin, end) = (call.begin.idx, call.latest);
                changes.push(Change { begin, end, sure: call.is_done(), to });
            }
        }
        let shortest =
            |field: Field| changes.iter().filter_map(|change| field(&change.to)).min().unwrap_or(0);
        let least_retention = shortest(|s| s.retention_ms).min(shortest(|s| s.dlq_retention_ms));
        Past { changes, restored, least_retention }
    }

    /// The values that the field may have had at some time from record `from` to record `to`.
    pub(crate) fn possible(&self, field: Field, from: usize, to: usize) -> Vec<u64> {
        let said: Vec<(&Change, u64)> = self
            .changes
            .iter()
            .filter(|change| change.begin <= to)
            .filter_map(|change| field(&change.to).map(|value| (change, value)))
            .collect();
        let over = |old: &Change| {
            let newer = |(new, _): &(&Change, u64)| new.sure && new.end < from && new.begin > old.end;
            let again = |restored: &usize| old.begin < *restored && *restored <= to;
            !self.restored.iter().any(again) && said.iter().any(newer)
        };
        said.iter().filter(|(change, _)| !over(change)).map(|(_, value)| *value).collect()
    }

    pub(crate) fn least(&self, field: Field, from: usize, to: usize) -> u64 {
        self.possible(field, from, to).into_iter().min().unwrap_or(0)
    }

    pub(crate) fn most(&self, field: Field, from: usize, to: usize) -> u64 {
        self.possible(field, from, to).into_iter().max().unwrap_or(u64::MAX)
    }

    /// Whether the switch was certainly on all that time.
    pub(crate) fn surely(&self, field: Field, from: usize, to: usize) -> bool {
        let possible = self.possible(field, from, to);
        !possible.is_empty() && possible.iter().all(|value| *value == 1)
    }

    /// Whether the switch was ever on, as far as is known.
    pub(crate) fn ever(&self, field: Field) -> bool {
        self.changes.iter().any(|change| field(&change.to) == Some(1))
    }
}
