//! I8: first in, first out, of what was never nacked; and one at a time in a group where order is strict.

use super::Found;
use crate::Rule;
use crate::index::Index;
use crate::life::{Got, Life};
use crate::record::{Item, Queue};
use std::collections::BTreeMap;

pub(super) fn check(index: &Index<'_>, found: &mut Found<'_>) {
    let mut by_queue: BTreeMap<Queue, Vec<&Life<'_>>> = BTreeMap::new();
    for life in index.lives.values() {
        by_queue.entry(life.queue).or_default().push(life);
    }
    for (queue, mut lives) in by_queue {
        let past = &index.settings[&queue];
        // what is kept in memory alone has places of its own
        if past.ever(|s| s.ram) {
            continue;
        }
        lives.sort_by_key(|life| life.place);
        if past.ever(|s| s.fifo) {
            check_groups(index, &lives, found);
        } else {
            check_first_come(index, &lives, found);
        }
    }
}

fn item<'h>(index: &Index<'h>, life: &Life<'h>) -> Option<&'h Item> {
    Some(index.sendings.get(&life.content?)?.item)
}

/// The first deliveries of messages without delay were leased in the order of storing.
fn check_first_come(index: &Index<'_>, lives: &[&Life<'_>], found: &mut Found<'_>) {
    let mut latest: BTreeMap<usize, (u64, &str)> = BTreeMap::new();
    for life in lives {
        let plain = item(index, life).is_some_and(|item| item.delay_ms == 0);
        let Some(first) = life.gots.first().filter(|got| got.seen.delivery == 1 && plain) else { continue };
        let (earliest, at_last) = first.leased();
        let (before, other) = latest.entry(first.era).or_insert((earliest, life.id));
        found.ensure(at_last >= *before, Rule::I8, first.end.idx, || {
            format!("{} was handed out before {other}, which is older", life.id)
        });
        if earliest > *before {
            (*before, *other) = (earliest, life.id);
        }
    }
}

fn check_groups(index: &Index<'_>, lives: &[&Life<'_>], found: &mut Found<'_>) {
    let mut groups: BTreeMap<Option<&str>, Vec<&Life<'_>>> = BTreeMap::new();
    for life in lives {
        if let Some(item) = item(index, life) {
            groups.entry(item.group.as_deref()).or_default().push(life);
        }
    }
    for members in groups.values() {
        for (place, b) in members.iter().enumerate() {
            for got in &b.gots {
                check_alone(index, members, b, got, found);
                for a in &members[..place] {
                    check_not_overtaken(index, a, b, got, found);
                }
            }
        }
    }
}

/// Nobody else of the group is in flight when one is handed out.
fn check_alone(index: &Index<'_>, members: &[&Life<'_>], b: &Life<'_>, got: &Got<'_>, found: &mut Found<'_>) {
    let past = &index.settings[&b.queue];
    for a in members.iter().filter(|a| a.id != b.id) {
        for other in a.gots.iter().filter(|other| other.era == got.era && !other.dropped) {
            let in_flight = other.end.idx < got.begin.idx
                && a.floor(other, got.end.idx) > got.leased().1
                && !a.superseded(other.era, other.seen.delivery, got.end.idx)
                && !a.tries_of(other.era, other.seen.delivery).any(|one| {
                    !matches!(one.how, crate::record::How::Extend { .. }) && one.begin.idx < got.end.idx
                })
                && !a.may_be_removed(index, got.end)
                && past.surely(|s| s.fifo, other.begin.idx, got.end.idx);
            found.ensure(!in_flight, Rule::I8, got.end.idx, || {
                format!("{} was handed out while {} of its group is in flight", b.id, a.id)
            });
        }
    }
}

/// Nobody is handed out before an older one of the group that waits.
fn check_not_overtaken(index: &Index<'_>, a: &Life<'_>, b: &Life<'_>, got: &Got<'_>, found: &mut Found<'_>) {
    let Some(first) = a.gots.first().filter(|first| first.seen.delivery == 1) else { return };
    let waits = a.known.idx < got.begin.idx
        && first.era == got.era
        && first.leased().0 > got.leased().1
        && !b.may_be_revived(index, 0, got.end.idx)
        && !a.may_be_revived(index, 0, first.end.idx)
        && index.settings[&b.queue].surely(|s| s.fifo, got.begin.idx, got.end.idx);
    found.ensure(!waits, Rule::I8, got.end.idx, || {
        format!("{} was handed out before {} of its group, which is older", b.id, a.id)
    });
}
