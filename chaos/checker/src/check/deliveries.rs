//! What consumers were promised: I3, I4, I5, I7 and I8.

use super::index::{Delivery, Index, MessageStory, SettleResult, Settling};
use super::{Findings, Invariant};
use crate::clock::Micros;
use crate::history::How;

/// Both sides cut their clocks to milliseconds.
const CLOCK_GRAIN: Micros = 2_000;

pub(super) fn check(index: &Index<'_>, findings: &mut Findings) {
    for (&id, message) in &index.messages {
        let mut found = Findings::default();
        counters(index, id, message, &mut found);
        not_early(index, id, message, &mut found);
        acked_stays_away(id, message, &mut found);
        receipts(id, message, &mut found);
        dead_letter(index, id, message, &mut found);
        // whoever reads of one fault wants to see the message's whole life
        for violation in found.0 {
            let operations = violation.operations.into_iter().chain(life(index, message));
            findings.add(violation.invariant, operations, violation.text);
        }
    }
    for topic in &index.limits.fifo_topics {
        order(index, topic, findings);
    }
}

impl Settling<'_> {
    fn may_have_worked(&self) -> bool {
        matches!(self.result, SettleResult::Ok | SettleResult::Unknown)
    }

    fn nack_mode(&self) -> Option<&str> {
        match self.how {
            How::Nack { mode, .. } => Some(mode),
            How::Ack | How::Extend { .. } => None,
        }
    }
}

fn ops(deliveries: &[Delivery<'_>]) -> Vec<u64> {
    let settles = deliveries.iter().flat_map(|one| &one.settles).map(|settle| settle.op);
    deliveries.iter().map(|one| one.op).chain(settles).collect()
}

/// Every request that a message appears in.
fn life(index: &Index<'_>, message: &MessageStory<'_>) -> Vec<u64> {
    let story = message.send.and_then(|send| index.sends.get(&send));
    let sends = story.into_iter().flat_map(|story| story.tries.iter().map(|one| one.op));
    let dead = message.dead.iter().map(|(op, _)| *op);
    sends.chain(ops(&message.deliveries)).chain(dead).collect()
}

/// `delivery` rises with every hand-out, `attempt` with every one that was not released.
fn counters(index: &Index<'_>, id: &str, message: &MessageStory<'_>, findings: &mut Findings) {
    let unseen = index.unseen.get(message.topic);
    let unseen = |from, to| unseen.map_or(0, |unseen| unseen.between(from, to));
    let mut fault = |deliveries: &[Delivery<'_>], text: String| {
        findings.add(Invariant::Counters, ops(deliveries), format!("{id}: {text}"));
    };
    let limits = index.limits;
    for one in &message.deliveries {
        let (delivery, attempt) = (one.got.delivery, one.got.attempt);
        let of_limits = delivery > limits.max_deliveries || attempt > limits.max_attempts;
        if of_limits || attempt > delivery || attempt == 0 {
            let text = format!("handed out as attempt {attempt}, delivery {delivery}");
            fault(std::slice::from_ref(one), text);
        }
    }
    if let Some(first) = message.deliveries.first() {
        let hidden = unseen(0, first.done);
        if u64::from(first.got.delivery) > 1 + hidden {
            let text = format!("first seen as delivery {} with {hidden} unseen receives", first.got.delivery);
            fault(std::slice::from_ref(first), text);
        }
    }
    for pair in message.deliveries.windows(2) {
        let [old, new] = pair else { continue };
        let (d0, d1, a0, a1) = (old.got.delivery, new.got.delivery, old.got.attempt, new.got.attempt);
        if d0 == d1 {
            fault(pair, format!("delivery {d0} was handed out twice"));
            continue;
        }
        let hidden = unseen(old.invoked, new.done);
        let gap = u64::from(d1 - d0 - 1);
        if gap > hidden {
            fault(pair, format!("delivery went from {d0} to {d1} with {hidden} unseen receives"));
        }
        let releases = || old.settles.iter().filter(|settle| settle.nack_mode() == Some("release"));
        // after the deadline the attempt had failed already, and a release may or may not give it back
        let in_time = |settle: &Settling<'_>| settle.done < old.got.deadline;
        let released_surely = releases().any(|settle| settle.result == SettleResult::Ok && in_time(settle));
        let released_maybe = releases().any(Settling::may_have_worked);
        let low = a0 + u32::from(!released_maybe);
        let high = u64::from(a0) + u64::from(!released_surely) + gap;
        if a1 < low || u64::from(a1) > high {
            let text = format!("attempt went from {a0} to {a1} between deliveries {d0} and {d1}");
            fault(pair, text);
        }
    }
    // no hand-out may be seen wholly after one with a higher number
    let mut higher: Option<&Delivery<'_>> = None;
    for one in message.deliveries.iter().rev() {
        if let Some(later) = higher.filter(|later| later.done < one.invoked) {
            let (high, low) = (later.got.delivery, one.got.delivery);
            let text = format!("{id}: delivery fell from {high} to {low}");
            findings.add(Invariant::Counters, [later.op, one.op], text);
        }
        if higher.is_none_or(|later| one.done < later.done) {
            higher = Some(one);
        }
    }
}

/// The earliest moment at which the lease of `delivery` can have ended or the message be due again, as far as
/// settlings invoked before `before` tell.
fn earliest_end(delivery: &Delivery<'_>, before: Micros) -> Micros {
    let mut end = delivery.got.deadline;
    for settle in delivery.settles.iter().filter(|settle| settle.invoked < before) {
        let moved = match settle.how {
            How::Ack => continue,
            How::Extend { visibility_ms } => settle.invoked.saturating_add(visibility_ms * 1000),
            How::Nack { delay_ms, .. } => settle.invoked.saturating_add(delay_ms.unwrap_or(0) * 1000),
        };
        match settle.result {
            // a nack after the deadline may find the message ready again, where its delay has no meaning
            SettleResult::Ok if settle.nack_mode().is_some() && settle.done > end => end = end.min(moved),
            SettleResult::Ok => end = moved,
            SettleResult::Unknown => end = end.min(moved),
            SettleResult::Refused(_) => {}
        }
    }
    end
}

/// Leases, delays and nack delays hold; deadlines are what was asked for.
fn not_early(index: &Index<'_>, id: &str, message: &MessageStory<'_>, findings: &mut Findings) {
    let mut early = |operations: Vec<u64>, text: String| {
        findings.add(Invariant::NotEarly, operations, format!("{id}: {text}"));
    };
    for one in &message.deliveries {
        let lease = one.visibility_ms * 1000;
        let (low, high) = (one.invoked.saturating_add(lease), one.done.saturating_add(lease));
        if one.got.deadline.saturating_add(CLOCK_GRAIN) < low || one.got.deadline > high + CLOCK_GRAIN {
            let off = i128::from(one.got.deadline) - i128::from(low);
            let (ms, took) = (one.visibility_ms, one.done - one.invoked);
            early(vec![one.op], format!("a lease of {ms} ms ends {off} µs off, the receive took {took} µs"));
        }
    }
    for pair in message.deliveries.windows(2) {
        let [old, new] = pair else { continue };
        let end = earliest_end(old, new.done);
        // the hand-out lies before the answer was read, and where the new deadline says that it lies
        let stated = new.got.deadline.saturating_sub(new.visibility_ms * 1000);
        let handed_out = new.done.min(stated);
        if handed_out.saturating_add(CLOCK_GRAIN) < end {
            let (d0, d1, by) = (old.got.delivery, new.got.delivery, end - handed_out);
            early(ops(pair), format!("delivery {d1} came {by} µs before delivery {d0} was over"));
        }
    }
    let story = message.send.and_then(|send| index.sends.get(&send));
    let (Some(first), Some(story)) = (message.deliveries.first(), story) else { return };
    let delay = story.sent().map_or(0, |sent| sent.delay_ms);
    let due = story.tries.iter().map(|one| one.invoked).min().unwrap_or(0).saturating_add(delay * 1000);
    let handed_out = first.done.min(first.got.deadline.saturating_sub(first.visibility_ms * 1000));
    if handed_out.saturating_add(CLOCK_GRAIN) < due {
        let by = due - handed_out;
        early(vec![first.op], format!("came {by} µs before its delay of {delay} ms was over"));
    }
}

/// After an ack was answered with ok nothing comes back.
fn acked_stays_away(id: &str, message: &MessageStory<'_>, findings: &mut Findings) {
    let acks = || {
        message.deliveries.iter().flat_map(|delivery| {
            let acks = delivery.settles.iter().filter(|settle| matches!(settle.how, How::Ack));
            acks.map(move |ack| (delivery, ack))
        })
    };
    let first_ok = acks().filter(|(_, ack)| ack.result == SettleResult::Ok).min_by_key(|(_, ack)| ack.done);
    let Some((_, first)) = first_ok else { return };
    for late in message.deliveries.iter().filter(|one| one.invoked > first.done) {
        let text = format!("{id} was acked and came back as delivery {}", late.got.delivery);
        findings.add(Invariant::AckedStaysAway, [first.op, late.op], text);
    }
    if !message.dead.is_empty() {
        let operations = message.dead.iter().map(|(op, _)| *op).chain([first.op]);
        findings.add(Invariant::AckedStaysAway, operations, format!("{id} was acked and is a dead letter"));
    }
    // an ok of a superseded delivery means that the message was gone, so its newest delivery was acked by
    // then
    let Some(newest) = message.deliveries.last().filter(|newest| newest.invoked <= first.done) else {
        return;
    };
    for (delivery, ack) in acks().filter(|(_, ack)| ack.result == SettleResult::Ok) {
        let gone = acks().any(|(by, other)| {
            by.got.delivery == newest.got.delivery && other.may_have_worked() && other.invoked <= ack.done
        });
        if !gone {
            let (old, new) = (delivery.got.delivery, newest.got.delivery);
            let text = format!("{id}: an ack of delivery {old} was ok, and delivery {new} exists unacked");
            findings.add(Invariant::Receipts, [delivery.op, ack.op, newest.op], text);
        }
    }
}

/// The newest receipt settles in time, a superseded one never.
fn receipts(id: &str, message: &MessageStory<'_>, findings: &mut Findings) {
    for (place, delivery) in message.deliveries.iter().enumerate() {
        let later = message.deliveries[place + 1..].iter().map(|one| one.done).min();
        for (nth, settle) in delivery.settles.iter().enumerate() {
            let earlier = &delivery.settles[..nth];
            let number = delivery.got.delivery;
            let repeated =
                |mode| earlier.iter().any(|past| past.may_have_worked() && past.nack_mode() == Some(mode));
            match settle.result {
                SettleResult::Ok if later.is_some_and(|seen| seen < settle.invoked) => {
                    let allowed = match settle.how {
                        How::Ack => true, // judged with the other acks
                        How::Nack { mode, .. } => repeated(mode.as_str()),
                        How::Extend { .. } => false,
                    };
                    if !allowed {
                        let text =
                            format!("{id}: a receipt of delivery {number} worked after a newer delivery");
                        findings.add(Invariant::Receipts, [delivery.op, settle.op], text);
                    }
                }
                SettleResult::Refused(reason) => {
                    let touched = earlier
                        .iter()
                        .any(|past| !matches!(past.how, How::Extend { .. }) && past.may_have_worked());
                    let in_time =
                        settle.done.saturating_add(CLOCK_GRAIN) < earliest_end(delivery, settle.invoked);
                    // a store that recovers makes settling wait; nothing else may refuse it
                    let waits = matches!(reason, "STORAGE" | "DOWNSTREAM_UNAVAILABLE");
                    let stale = reason == "STALE_RECEIPT";
                    if !waits && (!stale || (in_time && !touched)) {
                        let text =
                            format!("{id}: the receipt of delivery {number} was refused with {reason}");
                        findings.add(Invariant::Receipts, [delivery.op, settle.op], text);
                    }
                }
                SettleResult::Ok | SettleResult::Unknown => {}
            }
        }
    }
}

/// The dead-letter queue holds what failed for good, once, and nothing else.
fn dead_letter(index: &Index<'_>, id: &str, message: &MessageStory<'_>, findings: &mut Findings) {
    let max = index.limits.max_attempts;
    let mut fault = |extra: &[u64], text: String| {
        let operations = ops(&message.deliveries).into_iter().chain(extra.iter().copied());
        findings.add(Invariant::Counters, operations, format!("{id}: {text}"));
    };
    if message.dead.len() > 1 {
        fault(&[], format!("is {} dead letters", message.dead.len()));
    }
    for delivery in &message.deliveries {
        for settle in delivery.settles.iter().filter(|settle| settle.result == SettleResult::Ok) {
            let last = delivery.got.attempt >= max;
            let How::Nack { mode, reason, .. } = settle.how else { continue };
            let expected = match mode.as_str() {
                "reject" => reason.as_deref(),
                "fail" if last => Some("max_attempts"),
                _ => continue,
            };
            let found = message.dead.first().map(|(_, dead)| dead.reason.as_str());
            if found.is_none() || (expected.is_some() && found != expected) {
                let text = format!("should be a dead letter by {expected:?} and is one by {found:?}");
                fault(&[settle.op], text);
            }
            if let Some(late) = message.deliveries.iter().find(|one| one.invoked > settle.done) {
                fault(&[settle.op, late.op], "was delivered after it was dead-lettered".to_owned());
            }
        }
    }
    let Some((op, dead)) = message.dead.first() else { return };
    let last = message.deliveries.last();
    let hidden = |from| index.unseen.get(message.topic).map_or(0, |unseen| unseen.between(from, Micros::MAX));
    let attempts_max =
        last.map_or(0, |one| u64::from(one.got.attempt)) + hidden(last.map_or(0, |one| one.invoked));
    let rejected = message.deliveries.iter().flat_map(|one| &one.settles).any(|settle| {
        let note = matches!(settle.how, How::Nack { reason, .. } if reason.as_deref() == Some(&dead.reason));
        settle.nack_mode() == Some("reject") && settle.may_have_worked() && note
    });
    let just = match dead.reason.as_str() {
        "max_attempts" => dead.attempts == max && attempts_max >= u64::from(max),
        "max_deliveries" => dead.delivery == index.limits.max_deliveries,
        _ => rejected,
    };
    if !just {
        let (reason, attempts) = (&dead.reason, dead.attempts);
        fault(
            &[*op],
            format!("is a dead letter by {reason:?} after {attempts} attempts, which nothing explains"),
        );
    }
    if last.is_some_and(|one| dead.delivery < one.got.delivery || dead.attempts + 1 < one.got.attempt) {
        fault(
            &[*op],
            format!("died with smaller counters ({}, {}) than it had", dead.attempts, dead.delivery),
        );
    }
}

/// First deliveries of a topic with one sender and one consumer come in the order of sending.
fn order(index: &Index<'_>, topic: &str, findings: &mut Findings) {
    let mut seen: Vec<(Micros, usize, Micros, u64, &str)> = Vec::new();
    for (&id, message) in index.messages.iter().filter(|(_, message)| message.topic == topic) {
        let first = message.deliveries.first().filter(|one| one.got.delivery == 1);
        let story = message.send.and_then(|send| index.sends.get(&send));
        let sent_at = story.and_then(|story| story.tries.iter().map(|one| one.invoked).min());
        if let (Some(first), Some(sent_at)) = (first, sent_at) {
            seen.push((first.done, first.place, sent_at, first.op, id));
        }
    }
    seen.sort_unstable();
    for pair in seen.windows(2) {
        let [(_, _, sent0, op0, id0), (_, _, sent1, op1, id1)] = pair else { continue };
        if sent1 < sent0 {
            let text = format!("{topic}: {id0} came before {id1}, which was sent earlier");
            findings.add(Invariant::Order, [*op0, *op1], text);
        }
    }
}
