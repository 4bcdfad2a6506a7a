//! Compares what senders were told with what came out: what was accepted is there once, what was refused is not there.

use crate::hooks::event::{Event, Provider};
use crate::hooks::sender::{Attempt, Told};
use crate::hooks::stored::Stored;
use std::collections::HashMap;

/// What the attempts came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Events.
    pub events: usize,
    /// Of them accepted.
    pub accepted: usize,
    /// Attempts beyond the first of each event.
    pub again: usize,
    /// Answers that named a duplicate.
    pub duplicates: usize,
    /// Attempts without a complete answer.
    pub unknown: usize,
    /// Attempts that met no listener.
    pub not_sent: usize,
    /// Answers 429.
    pub limited: usize,
    /// Answers 503.
    pub shed: usize,
}

/// The totals, and every broken promise.
#[must_use]
pub fn judge(told: &[(Event, Vec<Attempt>)], stored: &[Stored]) -> (Totals, Vec<String>) {
    let mut faults = Vec::new();
    let mut by_body: HashMap<&[u8], Vec<&Stored>> = HashMap::new();
    for message in stored {
        by_body.entry(&message.body).or_default().push(message);
    }
    let mut totals = Totals { events: told.len(), ..Totals::default() };
    for (event, attempts) in told {
        count(attempts, &mut totals);
        let came = by_body.remove(event.body.as_slice()).unwrap_or_default();
        let mut fault = |what: String| faults.push(format!("{}: {what}", event.id));
        judge_answers(attempts, &mut fault);
        judge_stored(event, attempts, &came, &mut fault);
    }
    for strange in by_body.into_values().flatten() {
        faults.push(format!("{}: nobody sent its body", strange.msg_id));
    }
    (totals, faults)
}

fn count(attempts: &[Attempt], totals: &mut Totals) {
    totals.again += attempts.len().saturating_sub(1);
    let mut accepted = false;
    for attempt in attempts {
        match &attempt.told {
            Told::Accepted { duplicate, .. } => {
                accepted = true;
                totals.duplicates += usize::from(*duplicate);
            }
            Told::Refused { status: 429, .. } => totals.limited += 1,
            Told::Refused { .. } => totals.shed += 1,
            Told::NotSent => totals.not_sent += 1,
            Told::Unknown => totals.unknown += 1,
        }
    }
    totals.accepted += usize::from(accepted);
}

/// The answers to one event agree with each other, and refusals are such as a node under load may give.
fn judge_answers(attempts: &[Attempt], fault: &mut impl FnMut(String)) {
    let mut first: Option<&str> = None;
    let mut in_doubt = false;
    for attempt in attempts {
        match &attempt.told {
            Told::Accepted { msg_id, duplicate } => {
                match first {
                    Some(known) if known != msg_id => fault(format!("accepted as {known} and as {msg_id}")),
                    Some(_) if !duplicate => fault(format!("{msg_id} is known and not called a duplicate")),
                    None if *duplicate && !in_doubt => {
                        fault(format!("{msg_id} is called a duplicate and was never sent before"));
                    }
                    _ => {}
                }
                first = Some(msg_id);
            }
            Told::Refused { status, reason, no_effect, retry_after } => {
                let sheds = matches!(
                    (*status, reason.as_str()),
                    (429, "RATE_LIMIT" | "BACKPRESSURE")
                        | (503, "BACKPRESSURE" | "DEGRADED" | "STORAGE" | "DOWNSTREAM_UNAVAILABLE")
                );
                if !sheds {
                    fault(format!("refused with {status} {reason:?}"));
                } else if !retry_after {
                    fault(format!("{status} {reason} without Retry-After"));
                }
                in_doubt |= !no_effect;
            }
            Told::NotSent => {}
            Told::Unknown => in_doubt = true,
        }
    }
}

fn judge_stored(event: &Event, attempts: &[Attempt], came: &[&Stored], fault: &mut impl FnMut(String)) {
    let accepted = attempts.iter().find_map(|attempt| match &attempt.told {
        Told::Accepted { msg_id, .. } => Some(msg_id),
        _ => None,
    });
    let in_doubt = attempts.iter().any(|attempt| match &attempt.told {
        Told::Unknown => true,
        Told::Refused { no_effect, .. } => !no_effect,
        _ => false,
    });
    match (accepted, came) {
        (Some(_), []) => fault("accepted, and never came out: LOST".to_owned()),
        (Some(msg_id), [one]) if *msg_id != one.msg_id => {
            fault(format!("accepted as {msg_id}, came out as {}", one.msg_id));
        }
        (None, [one]) if !in_doubt => {
            fault(format!("refused without effect, and came out as {}", one.msg_id))
        }
        (_, [] | [_]) => {}
        (_, several) => fault(format!("came out {} times", several.len())),
    }
    for one in came {
        let id = (event.provider == Provider::Stripe).then_some(event.id.as_str());
        if one.provider != event.provider.name() || one.id.as_deref() != id {
            fault(format!("came out as {}'s event {:?}", one.provider, one.id));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(told: Told) -> Attempt {
        Attempt { due: 0, ended: 1, told }
    }

    fn accepted(msg_id: &str, duplicate: bool) -> Attempt {
        attempt(Told::Accepted { msg_id: msg_id.to_owned(), duplicate })
    }

    fn refused(status: u16, reason: &str, no_effect: bool) -> Attempt {
        attempt(Told::Refused { status, reason: reason.to_owned(), no_effect, retry_after: true })
    }

    fn stored(event: &Event, msg_id: &str) -> Stored {
        let id = (event.provider == Provider::Stripe).then(|| event.id.clone());
        let provider = event.provider.name().to_owned();
        Stored { msg_id: msg_id.to_owned(), body: event.body.clone(), provider, id }
    }

    fn faults(attempts: Vec<Attempt>, ids: &[&str]) -> Vec<String> {
        let event = Event::new(1, 1);
        let stored: Vec<Stored> = ids.iter().map(|id| stored(&event, id)).collect();
        judge(&[(event, attempts)], &stored).1
    }

    #[test]
    fn clean_histories_pass() {
        assert!(faults(vec![accepted("A", false)], &["A"]).is_empty());
        assert!(faults(vec![attempt(Told::Unknown), accepted("A", true)], &["A"]).is_empty());
        assert!(faults(vec![refused(503, "STORAGE", false), accepted("A", true)], &["A"]).is_empty());
        assert!(faults(vec![refused(429, "RATE_LIMIT", true)], &[]).is_empty());
        assert!(faults(vec![attempt(Told::Unknown)], &["A"]).is_empty());
        assert!(faults(vec![attempt(Told::Unknown)], &[]).is_empty());
        assert!(faults(vec![accepted("A", false), accepted("A", true)], &["A"]).is_empty());
    }

    #[test]
    fn each_broken_promise_is_found() {
        let one = |attempts, ids: &[&str]| assert_eq!(faults(attempts, ids).len(), 1);
        one(vec![accepted("A", false)], &[]); // lost
        one(vec![accepted("A", false)], &["A", "A"]); // twice
        one(vec![accepted("A", false)], &["B"]); // as another
        one(vec![accepted("A", true)], &["A"]); // a duplicate of nothing
        one(vec![accepted("A", false), accepted("A", false)], &["A"]); // no duplicate
        one(vec![refused(429, "RATE_LIMIT", true)], &["A"]); // refused, and there
        one(vec![attempt(Told::NotSent)], &["A"]);
        one(vec![refused(401, "SIGNATURE_INVALID", true)], &[]);
        assert!(!faults(vec![accepted("A", false), accepted("B", true)], &["A"]).is_empty());
        let event = Event::new(1, 0);
        let mut wrong = stored(&event, "A");
        wrong.provider = "stripe".to_owned();
        assert_eq!(judge(&[(event, vec![accepted("A", false)])], &[wrong]).1.len(), 1);
        assert_eq!(judge(&[], &[stored(&Event::new(2, 2), "A")]).1.len(), 1);
    }
}
