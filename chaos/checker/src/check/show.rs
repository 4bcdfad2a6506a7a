//! A violation for a person: the requests that show it, without everything else that was in them.

use super::Violation;
use crate::clock::Micros;
use crate::history::{Call, History, Operation, Outcome, SendResult};
use std::collections::BTreeSet;
use std::fmt::Write as _;

/// Most requests shown for one violation.
const SHOWN_MAX: usize = 24;

/// The violation, its requests in order, one a line, and the kills between them.
#[must_use]
pub fn show(history: &History, violation: &Violation) -> String {
    let start = history.operations.first().map_or(0, |first| first.invoked);
    let mut operations: Vec<&Operation> = violation
        .operations
        .iter()
        .filter_map(|op| history.operations.binary_search_by_key(op, |operation| operation.op).ok())
        .filter_map(|at| history.operations.get(at))
        .collect();
    operations.sort_by_key(|operation| operation.invoked);
    let words = |text: &str| -> BTreeSet<String> {
        text.split(|c: char| !c.is_ascii_alphanumeric()).map(str::to_owned).collect()
    };
    let named = words(&violation.text);
    let receipts: BTreeSet<&str> = operations
        .iter()
        .flat_map(|operation| if let Outcome::Got(got) = &operation.outcome { got.as_slice() } else { &[] })
        .filter(|got| named.contains(&got.msg_id))
        .map(|got| got.receipt.as_str())
        .collect();
    let mut text = format!("{violation}\n");
    let mut kills = history.kills.iter().copied().peekable();
    if let Some(first) = operations.first() {
        while kills.next_if(|&at| at < first.invoked).is_some() {}
    }
    let hidden = operations.len().saturating_sub(SHOWN_MAX);
    for operation in operations.into_iter().take(SHOWN_MAX) {
        while let Some(at) = kills.next_if(|&at| at < operation.invoked) {
            let _ = writeln!(text, "    {:>12}  -- SIGKILL", since(start, at));
        }
        let _ = writeln!(text, "    {}", line(operation, start, &named, &receipts));
    }
    if hidden > 0 {
        let _ = writeln!(text, "    … and {hidden} more");
    }
    text
}

fn since(start: Micros, at: Micros) -> String {
    if at == Micros::MAX {
        return "never".to_owned();
    }
    let micros = at.saturating_sub(start);
    format!("{}.{:06}s", micros / 1_000_000, micros % 1_000_000)
}

fn line(operation: &Operation, start: Micros, named: &BTreeSet<String>, receipts: &BTreeSet<&str>) -> String {
    let Operation { op, invoked, done, call, outcome } = operation;
    let mut text = format!("{:>12} to {:>12}  #{op} ", since(start, *invoked), since(start, *done));
    let (items, what) = match call {
        Call::Send { topic, route, sends } => {
            let picked = |place: usize| {
                let told = if let Outcome::Sent(results) = outcome { results.get(place) } else { None };
                sends.len() == 1
                    || sends.get(place).is_some_and(|sent| named.contains(&sent.send.to_string()))
                    || matches!(told, Some(SendResult::Accepted { msg_id, .. }) if named.contains(msg_id))
            };
            let items: Vec<usize> = (0..sends.len()).filter(|&place| picked(place)).collect();
            let sent: Vec<_> = items.iter().filter_map(|&place| sends.get(place)).collect();
            let sent: Vec<_> = sent.iter().map(|s| (s.send, &s.key, s.len, s.delay_ms)).collect();
            (items, format!("send {route:?} to {topic} (send, key, bytes, delay) {sent:?}"))
        }
        Call::Recv { topic, visibility_ms, .. } => {
            let got = if let Outcome::Got(got) = outcome { got.as_slice() } else { &[] };
            let items = got.iter().enumerate().filter(|(_, got)| named.contains(&got.msg_id));
            (items.map(|(place, _)| place).collect(), format!("recv {topic} visibility {visibility_ms} ms"))
        }
        Call::Settle { topic, how, receipts: asked } => {
            let items = asked.iter().enumerate().filter(|(_, receipt)| receipts.contains(receipt.as_str()));
            (items.map(|(place, _)| place).collect(), format!("{how:?} on {topic}"))
        }
        Call::WalkDlq { topic } => {
            let dead = if let Outcome::Dead(dead) = outcome { dead.as_slice() } else { &[] };
            let items = dead.iter().enumerate().filter(|(_, dead)| named.contains(&dead.msg_id));
            (items.map(|(place, _)| place).collect(), format!("dead letters of {topic}"))
        }
        Call::Stat { topic } => (Vec::new(), format!("figures of {topic}")),
    };
    let _ = write!(text, "{what} -> ");
    match outcome {
        Outcome::Sent(results) => pick(&mut text, results, &items),
        Outcome::Settled(results) => pick(&mut text, results, &items),
        Outcome::Got(got) => {
            for got in items.iter().filter_map(|&place| got.get(place)) {
                let (delivery, attempt, deadline) = (got.delivery, got.attempt, since(start, got.deadline));
                let _ =
                    write!(text, "{} delivery {delivery} attempt {attempt} until {deadline} ", got.msg_id);
            }
            let _ = write!(text, "({} in all)", got.len());
        }
        Outcome::Dead(dead) => {
            for dead in items.iter().filter_map(|&place| dead.get(place)) {
                let (reason, attempts, delivery) = (&dead.reason, dead.attempts, dead.delivery);
                let _ = write!(text, "{} {reason:?} attempts {attempts} delivery {delivery} ", dead.msg_id);
            }
            let _ = write!(text, "({} in all)", dead.len());
        }
        other => {
            let _ = write!(text, "{other:?}");
        }
    }
    text
}

fn pick<T: std::fmt::Debug>(text: &mut String, results: &[T], items: &[usize]) {
    let picked: Vec<_> = items.iter().filter_map(|&place| results.get(place)).collect();
    let _ = write!(text, "{picked:?} ({} in all)", results.len());
}
