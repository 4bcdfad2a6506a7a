//! What a history reached: each kind of call, by the state in which it found the message or the topic.

use crate::index::{Call, Index};
use crate::life::{Life, Try};
use crate::record::{How, Op, Out, Queue, Settled, State};
use std::collections::BTreeMap;

fn name(how: &How) -> &'static str {
    match how {
        How::Ack => "ack",
        How::Fail { .. } => "fail",
        How::Release { .. } => "release",
        How::Reject { .. } => "reject",
        How::Extend { .. } => "extend",
    }
}

/// Where the delivery's message was when somebody tried to settle it, as far as is known.
fn state_of(index: &Index<'_>, life: &Life<'_>, one: &Try<'_>) -> &'static str {
    let before = |idx: usize| idx < one.begin.idx;
    let dead = life.sights.iter().any(|sight| sight.state == State::Dlq && before(sight.end.idx));
    let given_back = life
        .tries_of(one.era, one.delivery)
        .any(|other| other.gives_back() && other.is_ok() && before(other.end.idx));
    let got = life.gots.iter().find(|got| got.era == one.era && got.seen.delivery == one.delivery);
    if life.gone(index).is_some_and(|gone| before(gone.idx)) {
        "gone"
    } else if life.superseded(one.era, one.delivery, one.begin.idx) {
        "superseded"
    } else if dead {
        "dead"
    } else if given_back {
        "given-back"
    } else if got.is_some_and(|got| life.floor(got, one.begin.idx) > one.begin.ms) {
        "in-flight"
    } else {
        "timed-out"
    }
}

/// What is known of a topic's state before a call.
fn topic_states(index: &Index<'_>, lives: &[&Life<'_>], call: &Call<'_>, queue: Queue) -> Vec<&'static str> {
    let past = &index.settings[&queue];
    let at = call.begin.idx;
    let known: Vec<&&Life<'_>> = lives.iter().filter(|life| life.known.idx < at).collect();
    let there = |life: &&&Life<'_>| life.gone(index).is_none_or(|gone| gone.idx > at);
    let mut states = Vec::new();
    if known.is_empty() {
        states.push("unused");
    } else if !known.iter().any(there) {
        states.push("emptied");
    } else {
        states.push("filled");
    }
    let dead =
        |life: &&&Life<'_>| life.sights.iter().any(|sight| sight.state == State::Dlq && sight.end.idx < at);
    if known.iter().any(dead) {
        states.push("dead-letters");
    }
    let in_flight =
        |life: &&&Life<'_>| life.gots.iter().any(|got| got.end.idx < at && got.seen.deadline > call.begin.ms);
    if known.iter().any(in_flight) {
        states.push("in-flight");
    }
    if past.surely(|s| s.paused, at, at) {
        states.push("paused");
    }
    if past.surely(|s| s.fifo, at, at) {
        states.push("strict");
    }
    if past.surely(|s| s.ram, at, at) {
        states.push("ram");
    }
    states
}

fn call_name(op: &Op) -> Option<(&'static str, Queue)> {
    Some(match op {
        Op::Send { queue, .. } => ("send", *queue),
        Op::Recv { queue, stream: None, .. } => ("recv", *queue),
        Op::Recv { queue, .. } => ("stream", *queue),
        Op::Stat { queue } => ("stat", *queue),
        Op::Peek { queue, .. } => ("peek", *queue),
        Op::Purge { queue } => ("purge", *queue),
        Op::PurgeDead { queue, .. } => ("purge-dead", *queue),
        Op::Replace { queue, .. } => ("replace", *queue),
        Op::Delete { queue } => ("delete", *queue),
        Op::Reprocess { queue, .. } => ("reprocess", *queue),
        Op::Cancel { queue } => ("cancel", *queue),
        Op::Configure { queue, .. } => ("configure", *queue),
        Op::Settle { .. } | Op::Foreign { .. } | Op::Look { .. } | Op::Snapshot => return None,
    })
}

/// How often each (call × state) was reached: `ack × in-flight`, `purge × paused`.
pub(crate) fn reached(index: &Index<'_>) -> BTreeMap<String, u64> {
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    let mut count = |text: String| *counts.entry(text).or_default() += 1;
    let mut by_queue: BTreeMap<Queue, Vec<&Life<'_>>> = BTreeMap::new();
    for life in index.lives.values() {
        by_queue.entry(life.queue).or_default().push(life);
        for one in &life.tries {
            let outcome = match one.result {
                Some(Settled::Ok) => "ok",
                Some(Settled::Stale | Settled::Malformed) => "stale",
                None => "unanswered",
            };
            count(format!("{} × {} → {outcome}", name(one.how), state_of(index, life, one)));
        }
        for sight in &life.sights {
            count(format!("seen × {:?}", sight.state));
        }
    }
    for call in &index.calls {
        let Some((name, queue)) = call_name(call.op) else { continue };
        let lives = by_queue.get(&queue).map_or(&[][..], Vec::as_slice);
        for state in topic_states(index, lives, call, queue) {
            let outcome = match call.out {
                Some(Out::Refused(_)) => "refused",
                Some(Out::Unknown(_)) | None => "unknown",
                Some(Out::NotFound) => "not found",
                Some(_) => "done",
            };
            count(format!("{name} × {state} → {outcome}"));
        }
    }
    counts
}
