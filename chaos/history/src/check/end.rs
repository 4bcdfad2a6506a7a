//! I1, I10, I12: what is there when everything is over.

use super::Found;
use crate::Rule;
use crate::index::{Drained, Index};
use crate::life::Life;
use crate::record::{Op, Out};
use std::collections::BTreeSet;

/// Every call is answered within this and its own wait, whatever happens.
const ANSWERED_WITHIN_MS: u64 = 300_000;

pub(super) fn check(index: &Index<'_>, found: &mut Found<'_>) {
    check_answers(index, found);
    for drained in &index.drained {
        check_drained(index, drained, found);
    }
    check_soon(index, found);
    for (at, contents) in &index.on_disk {
        for content in *contents {
            let Some(sending) = index.sendings.get(content) else { continue };
            let ids = sending.ids.as_slice();
            // what came of a try that nobody was told of may be a message for the disk
            let undecided = sending.tries.iter().any(|one| one.may_have_stored() && one.sent.is_none());
            let in_memory = !ids.is_empty() && !undecided && ids.iter().all(|id| index.lives[id].ram);
            found.ensure(!in_memory, Rule::I12, at.idx, || {
                format!("c{content} was for memory alone, and is on disk")
            });
        }
    }
}

fn check_answers(index: &Index<'_>, found: &mut Found<'_>) {
    for call in &index.calls {
        let wait = if let Op::Recv { wait_ms, .. } = call.op { *wait_ms } else { 0 };
        let took = call.end.ms.saturating_sub(call.begin.ms);
        match call.out {
            Some(_) => found.ensure(took <= wait + ANSWERED_WITHIN_MS, Rule::I10, call.end.idx, || {
                format!("{:?} was answered after {took} ms", call.op)
            }),
            None => {
                let down = index.downs.iter().any(|down| *down > call.begin.idx);
                found.ensure(down, Rule::I10, call.begin.idx, || format!("{:?} was never answered", call.op));
            }
        }
        if let Some(Out::NotFound) = call.out {
            check_found(index, call, found);
        }
    }
}

/// A topic with messages is there.
fn check_found(index: &Index<'_>, call: &crate::index::Call<'_>, found: &mut Found<'_>) {
    let (Op::Peek { queue, .. } | Op::Purge { queue } | Op::Delete { queue }) = call.op else { return };
    let there = |life: &&Life<'_>| {
        life.queue == *queue && life.known.idx < call.begin.idx && !life.may_have_ended(index, call.end)
    };
    let life = index.lives.values().find(there);
    found.ensure(life.is_none(), Rule::I1, call.end.idx, || {
        format!("q{queue} is not found, and {life:?} is in it")
    });
}

fn check_drained(index: &Index<'_>, drained: &Drained<'_>, found: &mut Found<'_>) {
    let dead: BTreeSet<&str> = drained.dead.iter().map(String::as_str).collect();
    found.ensure(dead.len() == drained.dead.len(), Rule::I5, drained.at.idx, || {
        format!("q{}: a dead letter is listed twice", drained.queue)
    });
    let idx = drained.at.idx;
    for id in &dead {
        let known = index.lives.get(id).is_some_and(|life| life.queue == drained.queue);
        found.ensure(known, Rule::I2, idx, || format!("{id} is dead, and nobody sent it"));
    }
    for life in index.lives.values() {
        if life.queue != drained.queue || life.known.idx > idx {
            continue;
        }
        let listed = dead.contains(life.id);
        let lost = !listed && !life.may_have_ended(index, drained.at);
        found.ensure(!lost, Rule::I1, idx, || {
            let newest = life.gots.last().map(|got| (got.seen.attempt, got.seen.delivery));
            format!(
                "{} (c{:?}, newest {newest:?}) is lost: stored, not acked, not dead",
                life.id, life.content
            )
        });
        let gone = life.gone(index).filter(|gone| gone.idx < idx && !index.undone(gone.idx, idx));
        let gone = gone.filter(|_| index.restores.is_empty());
        found.ensure(!(listed && gone.is_some()), Rule::I3, idx, || {
            format!("{} was gone at {gone:?}, and is a dead letter", life.id)
        });
    }
}

/// I10: after the last fault everything is delivered soon.
fn check_soon(index: &Index<'_>, found: &mut Found<'_>) {
    let Some((calm, within_ms)) = index.calm else { return };
    let queues: BTreeSet<_> = index.lives.values().map(|life| life.queue).collect();
    for queue in queues {
        let drained = index.drained.iter().find(|one| one.queue == queue && one.at.idx > calm.idx);
        let took = drained.map(|one| one.at.ms.saturating_sub(calm.ms));
        let soon = took.is_some_and(|took| took <= within_ms);
        let record = drained.map_or(index.records, |one| one.at.idx);
        found.ensure(soon, Rule::I10, record, || {
            format!("q{queue}: emptied after {took:?} ms, not {within_ms}")
        });
    }
}
