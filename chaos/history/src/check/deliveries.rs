//! I2 to I5 of each delivery, by itself and with the one before.

use super::Found;
use crate::Rule;
use crate::index::Index;
use crate::life::{Got, Life};
use crate::record::How;

pub(super) fn check(index: &Index<'_>, found: &mut Found<'_>) {
    for life in index.lives.values() {
        for got in &life.gots {
            check_bytes(index, life, got, found);
            check_times(index, life, got, found);
            check_counts(index, life, got, found);
            check_gone(index, life, got, found);
        }
        for pair in life.gots.windows(2) {
            let [a, b] = pair else { continue };
            if a.era == b.era {
                check_pair(index, life, a, b, found);
            }
        }
    }
}

/// What was sent, and only that.
fn check_bytes(index: &Index<'_>, life: &Life<'_>, got: &Got<'_>, found: &mut Found<'_>) {
    let (idx, seen) = (got.end.idx, got.seen);
    let sending = seen.content.and_then(|content| index.sendings.get(&content));
    let Some(sending) = sending.filter(|one| one.queue == life.queue) else {
        return found
            .ensure(false, Rule::I2, idx, || format!("{}: nobody sent {:?} here", life.id, seen.content));
    };
    let whole = sending.item.hash == seen.hash
        && sending.item.key == seen.key
        && seen.enqueued == life.enqueued
        && life.content == seen.content;
    found.ensure(whole, Rule::I2, idx, || format!("{} is not as it was sent: {seen:?}", life.id));
    let early = sending.tries.iter().all(|one| index.calls[one.call].begin.idx > idx);
    found.ensure(!early, Rule::I2, idx, || format!("{} was delivered before it was sent", life.id));
}

fn check_times(index: &Index<'_>, life: &Life<'_>, got: &Got<'_>, found: &mut Found<'_>) {
    let (idx, id, seen) = (got.end.idx, life.id, got.seen);
    let within = got.lengths.iter().any(|length| {
        seen.deadline.checked_sub(*length).is_some_and(|at| got.begin.ms <= at && at <= got.end.ms)
    });
    found.ensure(within, Rule::I4, idx, || {
        let (from, to) = (got.begin.ms, got.end.ms);
        format!(
            "{id}: leased until {} for {:?}, which is outside its call ({from} to {to})",
            seen.deadline, got.lengths
        )
    });
    let Some(item) = life.content.and_then(|content| index.sendings.get(&content)).map(|one| one.item) else {
        return;
    };
    let (enqueued, leased) = (life.enqueued, got.leased());
    let due = enqueued + item.delay_ms;
    found.ensure(leased.1 >= due, Rule::I4, idx, || format!("{id}: leased before its delay ended at {due}"));
    let Some(ends) = item.ttl_ms.map(|ttl| enqueued + ttl) else { return };
    let excused = life.may_be_revived(index, 0, idx) || index.held_between(ends, got.end.ms);
    found.ensure(leased.0 < ends || excused, Rule::I4, idx, || {
        format!("{id}: leased at {leased:?}, after its TTL ended at {ends}")
    });
}

fn check_counts(index: &Index<'_>, life: &Life<'_>, got: &Got<'_>, found: &mut Found<'_>) {
    let (idx, id, seen) = (got.end.idx, life.id, got.seen);
    let (attempt, delivery) = (seen.attempt, seen.delivery);
    found.ensure(attempt >= 1 && attempt <= delivery, Rule::I5, idx, || format!("{id}: {seen:?}"));
    let past = &index.settings[&life.queue];
    let most = past.most(|s| s.max_attempts, got.begin.idx, idx);
    found.ensure(attempt <= most, Rule::I5, idx, || {
        format!("{id}: attempt {attempt}, where {most} are the most")
    });
    let most = past.most(|s| s.max_deliveries, got.begin.idx, idx);
    let revived = life.may_be_revived(index, 0, idx);
    found.ensure(revived || delivery <= most, Rule::I5, idx, || {
        format!("{id}: delivery {delivery}, where {most} are the most")
    });
}

/// Nothing comes back.
fn check_gone(index: &Index<'_>, life: &Life<'_>, got: &Got<'_>, found: &mut Found<'_>) {
    let (idx, id) = (got.end.idx, life.id);
    for one in life.tries.iter().filter(|one| matches!(one.how, How::Ack) && one.is_ok()) {
        // of a delivery that is older than the ack it says nothing
        let after = got.begin.idx > one.end.idx || idx > one.end.idx && got.leased().0 > one.end.ms;
        let undone = index.undone(one.end.idx, idx);
        found.ensure(!after || undone || got.era < one.era, Rule::I3, idx, || {
            format!("{id}: delivered after an ack was answered ok at record {}", one.end.idx)
        });
    }
    for (place, down) in index.downs.iter().enumerate() {
        let outlived = life.ram && *down > life.known.idx && *down < got.begin.idx;
        found.ensure(!outlived, Rule::I12, idx, || {
            format!("{id} was in memory alone and outlived process {}", place + 1)
        });
    }
}

fn check_pair(index: &Index<'_>, life: &Life<'_>, a: &Got<'_>, b: &Got<'_>, found: &mut Found<'_>) {
    let (id, idx) = (life.id, b.end.idx.max(a.end.idx));
    let (x, y) = (a.seen, b.seen);
    found.ensure(x.delivery < y.delivery, Rule::I5, idx, || {
        format!("{id}: delivery {} was handed out twice", x.delivery)
    });
    if x.delivery >= y.delivery {
        return;
    }
    check_not_early(index, life, a, b, found);
    let released = a.dropped
        || life
            .tries_of(a.era, x.delivery)
            .any(|one| matches!(one.how, How::Release { .. }) && one.begin.idx < b.end.idx);
    if life.may_be_revived(index, 0, b.end.idx) {
        return;
    }
    let between = y.delivery - x.delivery;
    found.ensure(y.attempt <= x.attempt + between, Rule::I5, idx, || {
        format!("{id}: attempts jumped from {} to {} in {between} deliveries", x.attempt, y.attempt)
    });
    found.ensure(y.attempt >= x.attempt + u64::from(!released), Rule::I5, idx, || {
        format!("{id}: attempts fell from {}/{} to {}/{}", x.attempt, x.delivery, y.attempt, y.delivery)
    });
    let surely_released = life
        .tries_of(a.era, x.delivery)
        .any(|one| matches!(one.how, How::Release { .. }) && one.is_ok() && one.end.idx < b.begin.idx);
    found.ensure(!(surely_released && between == 1 && y.attempt != x.attempt), Rule::I5, idx, || {
        format!("{id}: a release did not give attempt {} back: then {}", x.attempt, y.attempt)
    });
}

/// I4: neither before the deadline nor before what a nack said.
fn check_not_early(index: &Index<'_>, life: &Life<'_>, a: &Got<'_>, b: &Got<'_>, found: &mut Found<'_>) {
    let (id, idx) = (life.id, b.end.idx);
    let leased = b.leased().1;
    found.ensure(leased >= a.leased().0, Rule::I5, idx, || {
        format!("{id}: delivery {} was leased before {}", b.seen.delivery, a.seen.delivery)
    });
    let rejected = life.tries_of(a.era, a.seen.delivery).find(|one| {
        matches!(one.how, How::Reject { .. })
            && one.is_ok()
            && !life.superseded(a.era, a.seen.delivery, one.begin.idx)
    });
    if let Some(one) = rejected {
        let revived = life.may_be_revived(index, one.begin.idx, idx);
        found.ensure(revived, Rule::I5, idx, || {
            format!("{id}: delivered after a reject was answered ok at record {}", one.end.idx)
        });
    }
    // it may have died of the last attempt, and been brought back
    if life.may_be_revived(index, a.begin.idx, b.end.idx) {
        return;
    }
    if life.may_be_given_back(a, b.end.idx) {
        check_not_before_its_delay(life, a, b, found);
        return;
    }
    let floor = life.floor(a, b.end.idx);
    found.ensure(leased >= floor, Rule::I4, idx, || {
        let (n, m) = (a.seen.delivery, b.seen.delivery);
        format!("{id}: delivery {n} was leased until {floor}, and delivery {m} at {leased} already")
    });
}

fn check_not_before_its_delay(life: &Life<'_>, a: &Got<'_>, b: &Got<'_>, found: &mut Found<'_>) {
    let backs: Vec<_> = life
        .tries_of(a.era, a.seen.delivery)
        .filter(|one| one.gives_back() && one.begin.idx < b.end.idx)
        .collect();
    // only if it is certain which nack it was
    let [one] = backs.as_slice() else { return };
    let (How::Fail { delay_ms: Some(delay) } | How::Release { delay_ms: Some(delay) }) = one.how else {
        return;
    };
    let next = b.seen.delivery == a.seen.delivery + 1;
    if !one.is_ok() || one.end.idx > b.begin.idx || a.dropped || !next {
        return;
    }
    // a nack that came when the deadline had passed counts all the same
    let due = one.begin.ms + delay;
    found.ensure(b.leased().1 >= due, Rule::I4, b.end.idx, || {
        format!("{}: given back until {due} at the earliest, and leased at {} already", life.id, b.leased().1)
    });
}
