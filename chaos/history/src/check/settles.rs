//! I7: what a receipt still permits, and what it no longer does.

use super::Found;
use crate::Rule;
use crate::index::{Call, Index};
use crate::life::{Got, Life, Try};
use crate::record::{How, Op, Out, Settled};

pub(super) fn check(index: &Index<'_>, found: &mut Found<'_>) {
    for life in index.lives.values() {
        for one in &life.tries {
            match one.result {
                Some(Settled::Ok) => check_ok(index, life, one, found),
                Some(Settled::Stale) => check_stale(index, life, one, found),
                Some(Settled::Malformed) => found.ensure(false, Rule::I7, one.end.idx, || {
                    format!("{}: a receipt of ours is said to be none", life.id)
                }),
                None => {}
            }
        }
    }
    for call in &index.calls {
        check_foreign(call, found);
    }
}

/// Receipts of other topics are stale here, and what is none is malformed.
fn check_foreign(call: &Call<'_>, found: &mut Found<'_>) {
    let (Op::Foreign { receipts, .. }, Some(Out::Settled(results))) = (call.op, call.out) else { return };
    let mut expected = vec![Settled::Stale; (*receipts as usize).saturating_sub(1)];
    expected.push(Settled::Malformed);
    found.ensure(*results == expected, Rule::I7, call.end.idx, || format!("foreign receipts: {results:?}"));
}

fn check_ok(index: &Index<'_>, life: &Life<'_>, one: &Try<'_>, found: &mut Found<'_>) {
    let (id, idx, delivery) = (life.id, one.end.idx, one.delivery);
    if matches!(one.how, How::Ack) {
        return;
    }
    let superseded = life.superseded(one.era, delivery, one.begin.idx);
    found.ensure(!superseded, Rule::I7, idx, || {
        format!("{id}: {:?} of delivery {delivery} was answered ok, though there is a later one", one.how)
    });
    let gone = life.gone(index).filter(|gone| gone.idx < one.begin.idx && !index.undone(gone.idx, idx));
    found.ensure(gone.is_none(), Rule::I7, idx, || {
        format!("{id}: {:?} of a message that is gone was answered ok", one.how)
    });
    let other = life.tries_of(one.era, delivery).find(|other| {
        other.gives_back()
            && other.is_ok()
            && other.end.idx < one.begin.idx
            && mode(other.how) != mode(one.how)
    });
    if let Some(other) = other {
        found.ensure(false, Rule::I7, idx, || {
            format!("{id}: {:?} of delivery {delivery} was answered ok after {:?} was", one.how, other.how)
        });
    }
}

fn mode(how: &How) -> u8 {
    match how {
        How::Ack => 0,
        How::Fail { .. } => 1,
        How::Release { .. } => 2,
        How::Reject { .. } => 3,
        How::Extend { .. } => 4,
    }
}

/// Whether the delivery was certainly in flight, and the newest, from before `begin` until `end`.
fn surely_in_flight(index: &Index<'_>, life: &Life<'_>, got: &Got<'_>, one: &Try<'_>) -> bool {
    let touched = life.tries_of(got.era, got.seen.delivery).any(|other| {
        let itself = other.begin.idx == one.begin.idx;
        !itself && !matches!(other.how, How::Extend { .. }) && other.begin.idx < one.end.idx
    });
    let newest = !life.gots.iter().any(|other| {
        other.era == got.era && other.seen.delivery > got.seen.delivery && other.begin.idx < one.begin.idx
    });
    !got.dropped
        && !touched
        && newest
        && got.end.idx < one.begin.idx
        && !life.may_be_removed(index, one.end)
        && life.floor(got, one.end.idx) > one.end.ms
}

fn check_stale(index: &Index<'_>, life: &Life<'_>, one: &Try<'_>, found: &mut Found<'_>) {
    let (id, idx, delivery) = (life.id, one.end.idx, one.delivery);
    let got = life.gots.iter().find(|got| got.era == one.era && got.seen.delivery == delivery);
    if let Some(got) = got {
        let floor = life.floor(got, idx);
        found.ensure(!surely_in_flight(index, life, got, one), Rule::I7, idx, || {
            format!("{id}: {:?} of delivery {delivery}, in flight until {floor}, was stale", one.how)
        });
    }
    if matches!(one.how, How::Ack) {
        let gone = life.gone(index).filter(|gone| gone.idx < one.begin.idx && !index.undone(gone.idx, idx));
        let same_era = gone.is_some() && index.restores.iter().all(|restore| restore.at.idx > idx);
        found
            .ensure(!same_era, Rule::I7, idx, || format!("{id}: an ack of a message that is gone was stale"));
    }
}
