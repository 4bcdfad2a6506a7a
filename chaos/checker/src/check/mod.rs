//! The judge: reads a finished history and names every promise that it breaks. O(n log n), no clock, no I/O.
//!
//! It never needs to know what the node does inside, only what a request may have meant: an *unknown* request
//! may or may not have happened, and every rule takes that into account in the node's favour.

mod deliveries;
mod index;
mod sends;
mod show;
mod totals;

pub use show::show;

use crate::history::{History, Outcome};
use std::fmt;

/// A promise of the contract, by the number under which failures are reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Invariant {
    /// I1: what was answered 2xx ends acked or dead-lettered, never lost, and says how durable it is.
    Kept,
    /// I2: nothing comes out that was not sent, twice, or with a wrong signature; ids are never used twice.
    Attempted,
    /// I3: nothing comes back after its ack was answered.
    AckedStaysAway,
    /// I4: nothing comes before the previous lease's deadline or its delay; deadlines are what was asked for.
    NotEarly,
    /// I5: counters only rise, by what they should; the dead-letter queue gets exactly what it should.
    Counters,
    /// I6: a key leads to one message, known again within its window; another body is a conflict.
    Idempotency,
    /// I7: a superseded receipt settles nothing, the newest one in time always does.
    Receipts,
    /// I8: first deliveries come in the order of sending.
    Order,
    /// I9: the figures at the end add up.
    Conservation,
    /// I10: everything can be drained in the end.
    Liveness,
    /// I11: a refusal without effect had none, and has the form of a refusal.
    RefusedMeansNot,
    /// I13: bytes, content type and attributes come out as they went in.
    Content,
}

impl Invariant {
    /// The number as printed.
    #[must_use]
    pub const fn id(self) -> &'static str {
        match self {
            Invariant::Kept => "I1",
            Invariant::Attempted => "I2",
            Invariant::AckedStaysAway => "I3",
            Invariant::NotEarly => "I4",
            Invariant::Counters => "I5",
            Invariant::Idempotency => "I6",
            Invariant::Receipts => "I7",
            Invariant::Order => "I8",
            Invariant::Conservation => "I9",
            Invariant::Liveness => "I10",
            Invariant::RefusedMeansNot => "I11",
            Invariant::Content => "I13",
        }
    }
}

/// One broken promise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which promise.
    pub invariant: Invariant,
    /// What is wrong, with the ids.
    pub text: String,
    /// The requests that show it, by number.
    pub operations: Vec<u64>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.invariant.id(), self.text)
    }
}

/// Collects violations.
#[derive(Debug, Default)]
struct Findings(Vec<Violation>);

impl Findings {
    fn add(&mut self, invariant: Invariant, operations: impl IntoIterator<Item = u64>, text: String) {
        let mut operations: Vec<u64> = operations.into_iter().collect();
        operations.sort_unstable();
        operations.dedup();
        self.0.push(Violation { invariant, text, operations });
    }
}

/// Judges a history that ends with the queues drained and, for every topic, its figures read and its dead
/// letters walked. Gives the broken promises in the order of their numbers.
#[must_use]
pub fn check(history: &History) -> Vec<Violation> {
    let mut findings = Findings::default();
    answers(history, &mut findings);
    let index = index::Index::of(history, &mut findings);
    sends::check(&index, &mut findings);
    deliveries::check(&index, &mut findings);
    totals::check(&index, &mut findings);
    findings.0.sort_by_key(|violation| violation.invariant);
    findings.0
}

/// Every answer has the form of an answer, and no request is called malformed: a load whose requests a node does not
/// read proves nothing of it.
fn answers(history: &History, findings: &mut Findings) {
    for operation in &history.operations {
        if matches!(&operation.outcome, Outcome::Refused { reason, .. } if reason == "MALFORMED") {
            let text = format!("a request about {} was refused as malformed", operation.call.topic());
            findings.add(Invariant::RefusedMeansNot, [operation.op], text);
        }
        let fault = match &operation.outcome {
            Outcome::Refused { fault, .. } => fault.as_ref(),
            Outcome::Misformed(fault) => Some(fault),
            _ => None,
        };
        if let Some(fault) = fault {
            let text = format!("an answer about {} is misformed: {fault}", operation.call.topic());
            findings.add(Invariant::RefusedMeansNot, [operation.op], text);
        }
    }
}

/// What a history contains, for the summary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// Messages accepted, duplicates not counted.
    pub accepted: u64,
    /// Answers that recognised a duplicate.
    pub duplicates: u64,
    /// Send requests whose outcome stayed unknown.
    pub sends_unknown: u64,
    /// Messages delivered, redeliveries included.
    pub deliveries: u64,
    /// Receives whose outcome stayed unknown.
    pub recvs_unknown: u64,
    /// Receipts settled with success.
    pub settled: u64,
    /// Receipts refused as stale.
    pub stale: u64,
    /// Settlings whose outcome stayed unknown.
    pub settles_unknown: u64,
    /// Requests answered with an error.
    pub refused: u64,
}

/// Counts what a history contains.
#[must_use]
pub fn tally(history: &History) -> Tally {
    use crate::history::{Call, SendResult};
    let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
    let mut tally = Tally::default();
    for operation in &history.operations {
        match (&operation.outcome, &operation.call) {
            (Outcome::Sent(results), _) => {
                for result in results {
                    match result {
                        SendResult::Accepted { duplicate: false, .. } => tally.accepted += 1,
                        SendResult::Accepted { duplicate: true, .. } => tally.duplicates += 1,
                        SendResult::Refused(_) => tally.refused += 1,
                    }
                }
            }
            (Outcome::Got(messages), _) => tally.deliveries += count(messages.len()),
            (Outcome::Settled(results), _) => {
                let stale = count(results.iter().flatten().count());
                tally.stale += stale;
                tally.settled += count(results.len()) - stale;
            }
            (outcome, Call::Send { sends, .. }) if outcome.is_unknown() => {
                tally.sends_unknown += count(sends.len());
            }
            (outcome, Call::Recv { .. }) if outcome.is_unknown() => tally.recvs_unknown += 1,
            (outcome, Call::Settle { receipts, .. }) if outcome.is_unknown() => {
                tally.settles_unknown += count(receipts.len());
            }
            (Outcome::Refused { .. }, _) => tally.refused += 1,
            _ => {}
        }
    }
    tally
}

#[cfg(test)]
mod tests;
