//! Judges a recorded history of a message queue by what it promises (SPEC §4): twelve invariants, I1 to I12, and the
//! rest of the contract. Knows what clients see and nothing else. Where an answer is missing both outcomes are
//! allowed, so that a violation is always a broken promise.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod check;
mod index;
mod life;
mod reach;
pub mod record;
mod settings;
#[cfg(test)]
mod tests;

use index::Index;
use record::Record;
use std::collections::BTreeMap;
use std::fmt;

/// What was broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// A message that was accepted is acked, expired, purged, dead, or still there.
    I1,
    /// Nothing is delivered that was not sent, as it was sent, once.
    I2,
    /// After an ack that was answered ok, no delivery.
    I3,
    /// No delivery before the lease's deadline or the delay's end.
    I4,
    /// Attempts and deliveries count right, and lead to the dead-letter queue when they must and only then.
    I5,
    /// One key, one message, as long as the window.
    I6,
    /// A receipt works exactly as long as its delivery is the newest.
    I7,
    /// First in, first out; strict in a group where the topic says so.
    I8,
    /// Figures are the sum of what there is.
    I9,
    /// Calls are answered; when the faults end everything is delivered soon.
    I10,
    /// What was refused without effect had none.
    I11,
    /// What was to be kept in memory alone is on no disk, and gone with the process.
    I12,
    /// Pauses, purges, deletions, streams.
    Contract,
}

/// A broken promise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which.
    pub rule: Rule,
    /// The number of the record that shows it, from 0.
    pub record: usize,
    /// How.
    pub text: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} at record {}: {}", self.rule, self.record, self.text)
    }
}

/// All violations of a history, by rule and record.
#[must_use]
pub fn judge(history: &[Record]) -> Vec<Violation> {
    let mut found = Vec::new();
    let index = Index::of(history, &mut found);
    check::all(&index, &mut found);
    found.sort_by_key(|violation| (violation.record, violation.rule));
    found
}

/// How often a history reached each call in each state of what it was about.
#[must_use]
pub fn reached(history: &[Record]) -> BTreeMap<String, u64> {
    reach::reached(&Index::of(history, &mut Vec::new()))
}

/// Reads a history of JSON lines.
///
/// # Errors
/// The first line that is none, by its number.
pub fn read(text: &str) -> anyhow::Result<Vec<Record>> {
    let parse = |(at, line): (usize, &str)| {
        serde_json::from_str(line).map_err(|error| anyhow::anyhow!("line {}: {error}", at + 1))
    };
    text.lines().enumerate().filter(|(_, line)| !line.is_empty()).map(parse).collect()
}
