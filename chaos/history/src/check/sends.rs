//! I2, I6, I11 of what was sent: ids, keys, conflicts.

use super::Found;
use crate::Rule;
use crate::index::{Call, Index, Sending};
use crate::life::{Life, enqueued_of};
use crate::record::{Op, Queue, Sent};
use std::collections::BTreeMap;

pub(super) fn check(index: &Index<'_>, found: &mut Found<'_>) {
    for sending in index.sendings.values() {
        check_count(index, sending, found);
        for one in &sending.tries {
            let call = &index.calls[one.call];
            match one.sent {
                Some(Sent::Stored { id, .. }) => check_stored(index, call, id, found),
                Some(Sent::Duplicate { id }) => check_duplicate(index, sending, call, id, found),
                Some(Sent::Conflict) => check_conflict(index, sending, call, found),
                Some(Sent::Full) | None => {}
            }
        }
    }
    check_keys(index, found);
    check_stored_once(index, found);
}

/// No more messages than tries that may have stored one.
fn check_count(index: &Index<'_>, sending: &Sending<'_>, found: &mut Found<'_>) {
    let possible = sending.tries.iter().filter(|one| one.may_have_stored()).count();
    let refused = sending.tries.iter().any(|one| !one.may_have_stored());
    let rule = if refused { Rule::I11 } else { Rule::I2 };
    let seen = sending.ids.len();
    let record = sending.ids.iter().map(|id| index.lives[id].known.idx).max().unwrap_or(0);
    found.ensure(seen <= possible, rule, record, || {
        format!(
            "c{} was stored as {:?}, by {possible} sends that may have",
            sending.item.content, sending.ids
        )
    });
}

fn check_stored(index: &Index<'_>, call: &Call<'_>, id: &str, found: &mut Found<'_>) {
    let enqueued = enqueued_of(id);
    let within = (call.begin.ms..=call.end.ms).contains(&enqueued);
    found.ensure(within, Rule::I2, call.end.idx, || {
        format!("{id} was enqueued at {enqueued}, outside its call ({} to {})", call.begin.ms, call.end.ms)
    });
    let seen_before = index.lives.get(id).is_some_and(|life| {
        let before = |call_begin: usize, era: usize| call_begin < call.begin.idx && era == call.era;
        life.gots.iter().any(|got| before(got.end.idx, got.era))
    });
    found.ensure(!seen_before, Rule::I6, call.end.idx, || {
        format!("{id} is said to be new and was seen before")
    });
}

/// Two calls never claim to have stored the same message.
fn check_stored_once(index: &Index<'_>, found: &mut Found<'_>) {
    let mut by_id: BTreeMap<&str, usize> = BTreeMap::new();
    for call in &index.calls {
        let Some(crate::record::Out::Sent(sent)) = call.out else { continue };
        for one in sent {
            let Sent::Stored { id, .. } = one else { continue };
            let before = by_id.insert(id, call.end.idx);
            found.ensure(before.is_none(), Rule::I6, call.end.idx, || {
                format!("{id} was given to two messages, the other at record {before:?}")
            });
        }
    }
}

/// The longest that the key of a message may be remembered.
fn window(index: &Index<'_>, life: &Life<'_>) -> (u64, u64) {
    let item = life.content.and_then(|content| index.sendings.get(&content)).map(|one| one.item);
    if let Some(own) = item.and_then(|item| item.window_ms) {
        return (own, own);
    }
    let past = &index.settings[&life.queue];
    let (from, to) = life.stored.map_or((life.from, life.known.idx), |(begin, end)| (begin.idx, end.idx));
    (past.least(|s| s.dedup_window_ms, from, to), past.most(|s| s.dedup_window_ms, from, to))
}

fn check_duplicate(
    index: &Index<'_>,
    sending: &Sending<'_>,
    call: &Call<'_>,
    id: &str,
    found: &mut Found<'_>,
) {
    let content = sending.item.content;
    let idx = call.end.idx;
    found.ensure(sending.item.key.is_some(), Rule::I6, idx, || {
        format!("c{content}: a duplicate without a key")
    });
    let Some(life) = index.lives.get(id) else { return };
    found.ensure(life.content == Some(content), Rule::I6, idx, || {
        format!("c{content} is said to be a duplicate of {id}, which has another payload: {:?}", life.content)
    });
    let (enqueued, most) = (life.enqueued, window(index, life).1);
    let over = call.begin.ms.saturating_sub(enqueued) >= most;
    let held = index.held_between(enqueued.saturating_add(most), call.end.ms);
    found.ensure(!over || held, Rule::I6, idx, || {
        format!("c{content}: duplicate of {id}, whose window is over")
    });
}

fn check_conflict(index: &Index<'_>, sending: &Sending<'_>, call: &Call<'_>, found: &mut Found<'_>) {
    let item = sending.item;
    let meets = |other: &Sending<'_>| {
        let same = other.queue == sending.queue && other.item.key == item.key && item.key.is_some();
        let same = same && other.item.origin == item.origin;
        let possible = other
            .tries
            .iter()
            .any(|one| one.may_have_stored() && index.calls[one.call].begin.idx < call.end.idx);
        same && other.item.content != item.content && possible
    };
    found.ensure(index.sendings.values().any(meets), Rule::I6, call.end.idx, || {
        format!("c{}: a conflict with nothing", item.content)
    });
}

/// One key, one message, for as long as the window.
fn check_keys(index: &Index<'_>, found: &mut Found<'_>) {
    let mut keyed: BTreeMap<(Queue, Option<&str>, &str), Vec<&Life<'_>>> = BTreeMap::new();
    for life in index.lives.values() {
        let Some(sending) = life.content.and_then(|content| index.sendings.get(&content)) else { continue };
        if let Some(key) = &sending.item.key {
            let origin = sending.item.origin.as_deref();
            keyed.entry((life.queue, origin, key)).or_default().push(life);
        }
    }
    for ((_, _, key), mut same) in keyed {
        // by when they were stored: one of which nobody was told may be met long after a later one
        same.sort_by_key(|life| (life.enqueued, life.id));
        for pair in same.windows(2) {
            let [a, b] = pair else { continue };
            // where nothing durable proves the time, a power cut may set it back: what was known before came first
            let (a, b) = if b.known.idx < a.from { (b, a) } else { (a, b) };
            // both may have been stored before either was known
            let apart = b.enqueued.abs_diff(a.enqueued);
            let window = window(index, a).0;
            if apart >= window || may_be_forgotten(index, a, b) {
                continue;
            }
            // without a window a key says nothing
            let ignored = self::window(index, b).0 == 0;
            found.ensure(ignored, Rule::I6, b.known.idx, || {
                format!("key {key}: {} and {} were both stored, {apart} ms apart of {window}", a.id, b.id)
            });
        }
    }
}

/// Whether the key of `a` may have been forgotten before `b` came.
fn may_be_forgotten(index: &Index<'_>, a: &Life<'_>, b: &Life<'_>) -> bool {
    let both_known = a.known.idx.max(b.known.idx);
    let between = |from: usize, to: usize| from < both_known && to > a.from.min(b.from);
    let deleted = |call: &Call<'_>| {
        matches!(call.op, Op::Delete { .. }) && call.may_act() && between(call.begin.idx, call.latest)
    };
    let may_be_ram = a.ram || a.stored.is_none() && index.settings[&a.queue].ever(|s| s.ram);
    index.removals(a.queue).any(deleted)
        || index.restores.iter().any(|one| between(one.at.idx, one.at.idx))
        || may_be_ram && index.downs.iter().any(|down| between(*down, *down))
}
