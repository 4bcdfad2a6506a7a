//! Judges what came back of a snapshot against what clients did while it was taken.
//!
//! A snapshot names its place in the order of commits: the first sequence number that is not in it, and every
//! message id carries its sequence number. So for each send it is known whether it is in, and for each delivery and
//! settling what came back shows it. That the whole is *one* cut is then a matter of time: there must be an instant,
//! between the request for the snapshot and its answer, before which everything began that is in, and after which
//! everything was answered that is not.

pub mod load;

use crate::clock::Micros;
use std::collections::{BTreeMap, BTreeSet};

/// Most faults told of each kind.
const TOLD_MAX: usize = 5;

/// What a client did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// Sent it, with a key.
    Sent {
        /// Its topic.
        topic: String,
        /// Content address of its payload.
        hash: String,
    },
    /// Received it. A message is received at most once before the restore.
    Received,
    /// Acked it.
    Acked,
    /// Rejected it: it is a dead letter since.
    Rejected,
}

/// One thing done to one message, and answered 2xx.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// When the request began.
    pub begun: Micros,
    /// When its answer was read.
    pub answered: Micros,
    /// The message.
    pub msg_id: String,
    /// Its sequence number.
    pub sequence: u64,
    /// What was done.
    pub what: What,
}

/// A snapshot as the one who asked for it knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// Its name.
    pub name: String,
    /// When it was asked for.
    pub begun: Micros,
    /// When the answer was read.
    pub answered: Micros,
    /// Sequence numbers below are in it, others are not.
    pub next_sequence: u64,
}

/// A message that came out after the restore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Came {
    /// Its topic.
    pub topic: String,
    /// Content address of its payload.
    pub hash: String,
    /// How often it had been handed out before the restore.
    pub received: u64,
    /// Whether it came as a dead letter.
    pub dead: bool,
    /// Whether its Envelope says that it was restored.
    pub restored: bool,
    /// Its place among all that came.
    pub place: u64,
}

/// What was found.
#[derive(Debug, Default)]
pub struct Judgement {
    /// Events in the snapshot.
    pub inside: usize,
    /// Events not in it.
    pub outside: usize,
    /// Events whose request was under way at one moment at least of the time in which the cut can have been: those
    /// that time alone would not have decided.
    pub around: usize,
    /// Everything that must not be.
    pub faults: Vec<String>,
}

impl Judgement {
    fn fault(&mut self, kind: &str, of: &str) {
        let said = self.faults.iter().filter(|fault| fault.starts_with(kind)).count();
        if said < TOLD_MAX {
            self.faults.push(format!("{kind}: {of}"));
        }
    }
}

/// Judges `came` against `events` cut at `taken`.
#[must_use]
pub fn judge(events: &[Event], taken: &Taken, came: &BTreeMap<String, Came>) -> Judgement {
    let mut judgement = Judgement::default();
    let mut known: BTreeMap<&str, BTreeSet<&'static str>> = BTreeMap::new();
    for event in events {
        let did = match event.what {
            What::Sent { .. } => "sent",
            What::Received => "received",
            What::Acked => "acked",
            What::Rejected => "rejected",
        };
        if !known.entry(&event.msg_id).or_default().insert(did) {
            judgement.fault("done twice", &format!("{} was {did} twice", event.msg_id));
        }
    }
    for id in came.keys().filter(|id| !known.contains_key(id.as_str())) {
        judgement.fault("never sent", id);
    }
    let mut inside = vec![false; events.len()];
    for (event, inside) in events.iter().zip(&mut inside) {
        let did = known.get(event.msg_id.as_str());
        *inside = is_in(event, taken, came.get(&event.msg_id), did, &mut judgement);
    }
    in_order(came, &mut judgement);
    one_instant(events, &inside, taken, &mut judgement);
    judgement
}

/// Whether what was done is in the snapshot, as what came back shows.
fn is_in(
    event: &Event,
    taken: &Taken,
    came: Option<&Came>,
    did: Option<&BTreeSet<&'static str>>,
    judgement: &mut Judgement,
) -> bool {
    let id = &event.msg_id;
    if event.sequence >= taken.next_sequence {
        if came.is_some() {
            judgement.fault("came and is above the cut", id);
        }
        return false;
    }
    let did = |what: &str| did.is_some_and(|did| did.contains(what));
    let Some(came) = came else {
        if !did("acked") {
            judgement.fault("lost: below the cut, and never acked", id);
        }
        return true;
    };
    match &event.what {
        What::Sent { topic, hash } => {
            if (topic, hash) != (&came.topic, &came.hash) {
                judgement.fault("came with other bytes or in another topic", id);
            }
            if !came.restored {
                judgement.fault("came without restored_at", id);
            }
            if came.received > u64::from(did("received")) || (came.dead && !did("rejected")) {
                judgement.fault("came as what nobody made of it", id);
            }
            true
        }
        What::Received => came.received > 0,
        What::Acked => false,
        What::Rejected => came.dead,
    }
}

/// What was not handed out before comes in the order of its sequence.
fn in_order(came: &BTreeMap<String, Came>, judgement: &mut Judgement) {
    let mut fresh: BTreeMap<&str, Vec<(u64, &str)>> = BTreeMap::new();
    for (id, came) in came.iter().filter(|(_, came)| came.received == 0 && !came.dead) {
        fresh.entry(&came.topic).or_default().push((came.place, id));
    }
    for ids in fresh.values_mut() {
        ids.sort_unstable();
        for pair in ids.windows(2) {
            // ids of one store and one length compare by time and sequence
            if crate::api::sequence(pair[0].1) >= crate::api::sequence(pair[1].1) {
                judgement.fault("came out of order", &format!("{} before {}", pair[0].1, pair[1].1));
            }
        }
    }
}

/// There is an instant that parts what is in from what is not.
fn one_instant(events: &[Event], inside: &[bool], taken: &Taken, judgement: &mut Judgement) {
    // the cut is after both of these …
    let mut after = (taken.begun, "the snapshot was asked for".to_owned());
    // … and before both of these
    let mut before = (taken.answered, "the snapshot was answered".to_owned());
    for (event, inside) in events.iter().zip(inside) {
        let told = || format!("{:?} of {} began", event.what, event.msg_id);
        if *inside {
            judgement.inside += 1;
            if event.begun > after.0 {
                after = (event.begun, format!("{}, which is in", told()));
            }
        } else {
            judgement.outside += 1;
            if event.answered < before.0 {
                before = (event.answered, format!("{} and was answered, which is not in", told()));
            }
        }
    }
    if after.0 > before.0 {
        let by = after.0 - before.0;
        judgement.fault("not one cut", &format!("by {by} µs: {} only after {}", after.1, before.1));
    }
    let possible = taken.begun..=taken.answered;
    judgement.around = events
        .iter()
        .filter(|event| event.begun <= *possible.end() && event.answered >= *possible.start())
        .count();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(sequence: u64) -> String {
        // zero-padded Crockford base32 of a small number: its last two digits
        let digit =
            |n: u64| char::from(b"0123456789ABCDEFGHJKMNPQRSTVWXYZ"[usize::try_from(n % 32).unwrap()]);
        format!("{}{}{}", "0".repeat(24), digit(sequence / 32), digit(sequence))
    }

    fn event(sequence: u64, begun: Micros, answered: Micros, what: What) -> Event {
        Event { begun, answered, msg_id: id(sequence), sequence, what }
    }

    fn sent(sequence: u64, begun: Micros, answered: Micros) -> Event {
        event(sequence, begun, answered, What::Sent { topic: "t".into(), hash: format!("h{sequence}") })
    }

    fn came(sequence: u64, received: u64, dead: bool) -> (String, Came) {
        let (topic, hash) = ("t".to_owned(), format!("h{sequence}"));
        (id(sequence), Came { topic, hash, received, dead, restored: true, place: sequence })
    }

    const TAKEN: (Micros, Micros) = (100, 200);

    fn taken(next_sequence: u64) -> Taken {
        Taken { name: "s".into(), begun: TAKEN.0, answered: TAKEN.1, next_sequence }
    }

    /// Sends 1 to 4; 1 is acked before and 2 received before the cut; 3 is in, 4 is not; 2 is acked after it.
    fn history() -> Vec<Event> {
        vec![
            sent(1, 10, 20),
            event(1, 21, 30, What::Received),
            event(1, 31, 40, What::Acked),
            sent(2, 11, 20),
            event(2, 50, 60, What::Received),
            sent(3, 90, 150),
            sent(4, 140, 170),
            event(2, 145, 160, What::Acked),
            sent(5, 210, 220),
            event(5, 221, 230, What::Received),
            event(5, 231, 240, What::Rejected),
        ]
    }

    fn found(events: &[Event], taken: &Taken, list: Vec<(String, Came)>) -> Vec<String> {
        judge(events, taken, &list.into_iter().collect()).faults
    }

    fn right() -> Vec<(String, Came)> {
        vec![came(2, 1, false), came(3, 0, false)]
    }

    #[test]
    fn a_clean_cut_is_one() {
        let judgement = judge(&history(), &taken(4), &right().into_iter().collect());
        assert_eq!(judgement.faults, [""; 0]);
        assert_eq!((judgement.inside, judgement.outside, judgement.around), (6, 5, 3));
    }

    #[test]
    fn each_way_of_not_being_one_is_found() {
        let all = |change: fn(&mut Vec<(String, Came)>)| {
            let mut list = right();
            change(&mut list);
            found(&history(), &taken(4), list)
        };
        for (faults, kind) in [
            (all(|list| drop(list.pop())), "lost"),
            (all(|list| list.push(came(4, 0, false))), "came and is above the cut"),
            (all(|list| list.push(came(9, 0, false))), "never sent"),
            (all(|list| list[1].1.hash.push('x')), "came with other bytes"),
            (all(|list| list[1].1.restored = false), "came without restored_at"),
            (all(|list| list[1].1.received = 1), "came as what nobody made of it"),
            (all(|list| list[0].1.dead = true), "came as what nobody made of it"),
            // an ack that was answered before the snapshot was asked for
            (all(|list| list.push(came(1, 1, false))), "not one cut"),
            // a receive that was
            (all(|list| list[0].1.received = 0), "not one cut"),
        ] {
            assert!(faults.iter().any(|fault| fault.starts_with(kind)), "{kind}: {faults:?}");
        }
        // a settling begun after the snapshot was answered, in it
        let mut events = history();
        events.push(event(3, 250, 260, What::Acked));
        let faults = found(&events, &taken(4), vec![came(2, 1, false)]);
        assert!(faults[0].starts_with("not one cut: by 90 µs"), "{faults:?}");
        // a cut one send too early or too late
        assert!(found(&history(), &taken(3), right())[0].starts_with("came and is above the cut"));
        assert!(found(&history(), &taken(6), right())[0].starts_with("lost"));
        let mut swapped = vec![came(2, 0, false), came(3, 0, false)];
        (swapped[0].1.place, swapped[1].1.place) = (9, 8);
        let faults = found(&history(), &taken(4), swapped);
        assert!(faults.iter().any(|fault| fault.starts_with("came out of order")), "{faults:?}");
        let twice = [history(), history()].concat();
        assert!(found(&twice, &taken(4), right())[0].starts_with("done twice"));
    }
}
