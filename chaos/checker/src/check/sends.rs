//! What senders were promised: I1, I2, I6, I11 and I13.

use super::index::{Index, MessageStory, SendStory, SettleResult, TryResult};
use super::{Findings, Invariant};
use crate::history::{How, Sent};
use std::collections::{BTreeMap, HashMap};

pub(super) fn check(index: &Index<'_>, findings: &mut Findings) {
    ids_are_unique(index, findings);
    for (&send, story) in &index.sends {
        accepted_answers(index, send, story, findings);
        comes_out_once(send, story, findings);
        refused_stays_out(send, story, findings);
        kept(index, send, story, findings);
    }
    for (id, message) in &index.messages {
        content(index, id, message, findings);
    }
    keys(index, findings);
}

/// All requests that belong to a send.
fn ops(story: &SendStory<'_>) -> Vec<u64> {
    story.tries.iter().map(|one| one.op).collect()
}

fn ids_are_unique(index: &Index<'_>, findings: &mut Findings) {
    let mut owner: HashMap<&str, u64> = HashMap::new();
    for (&send, story) in &index.sends {
        for (one, id) in story.accepted() {
            if let Some(other) = owner.insert(id, send).filter(|&other| other != send) {
                let text = format!("id {id} was given to send {other} and to send {send}");
                findings.add(Invariant::Attempted, [one.op], text);
            }
        }
    }
}

/// What an acceptance says is true of the message, and nothing forged is accepted.
fn accepted_answers(index: &Index<'_>, send: u64, story: &SendStory<'_>, findings: &mut Findings) {
    for one in &story.tries {
        let TryResult::Accepted { msg_id, durability, hash, .. } = one.result else { continue };
        if one.sent.forged {
            let text = format!("send {send} has a wrong signature and was accepted as {msg_id}");
            findings.add(Invariant::Attempted, [one.op], text);
        }
        if one.api && durability != Some(index.limits.durability.as_str()) {
            let promised = &index.limits.durability;
            let text = format!("{msg_id} was accepted with durability {durability:?}, not {promised}");
            findings.add(Invariant::Kept, [one.op], text);
        }
        if one.names_hash && hash != Some(one.sent.hash.as_str()) {
            let text = format!("the answer for {msg_id} names another payload hash than was sent");
            findings.add(Invariant::Content, [one.op], text);
        }
    }
}

/// A send comes out as at most one message, under the id that its sender was told.
fn comes_out_once(send: u64, story: &SendStory<'_>, findings: &mut Findings) {
    let mut ids: Vec<&str> =
        story.accepted().map(|(_, id)| id).chain(story.seen_as.iter().copied()).collect();
    ids.sort_unstable();
    ids.dedup();
    if ids.len() > 1 {
        let keyed = story.sent().is_some_and(|sent| sent.key.is_some());
        let invariant = if keyed { Invariant::Idempotency } else { Invariant::Attempted };
        findings.add(invariant, ops(story), format!("send {send} is several messages: {}", ids.join(", ")));
    }
}

/// If every try was refused without effect, the message does not exist.
fn refused_stays_out(send: u64, story: &SendStory<'_>, findings: &mut Findings) {
    let refused =
        |one: &super::index::SendTry<'_>| matches!(one.result, TryResult::Refused(_) | TryResult::NotSent);
    if story.tries.iter().all(refused) {
        for id in &story.seen_as {
            let text = format!("send {send} was refused without effect and came out as {id}");
            findings.add(Invariant::RefusedMeansNot, ops(story), text);
        }
    }
}

/// An accepted message ends acked or as a dead letter.
fn kept(index: &Index<'_>, send: u64, story: &SendStory<'_>, findings: &mut Findings) {
    let Some((_, id)) = story.accepted().next() else { return };
    let Some(message) = index.messages.get(id) else {
        let text = format!("{id} (send {send} to {}) was accepted and never came out", story.topic);
        findings.add(Invariant::Kept, ops(story), text);
        return;
    };
    let acked = message.deliveries.iter().flat_map(|delivery| &delivery.settles).any(|settle| {
        matches!(settle.how, How::Ack) && matches!(settle.result, SettleResult::Ok | SettleResult::Unknown)
    });
    if !acked && message.dead.is_empty() {
        let seen = message.deliveries.iter().map(|delivery| delivery.op);
        let text = format!("{id} (send {send} to {}) is gone without an ack or a dead letter", story.topic);
        findings.add(Invariant::Kept, ops(story).into_iter().chain(seen), text);
    }
}

/// Every time a message came out it was what had been sent.
fn content(index: &Index<'_>, id: &str, message: &MessageStory<'_>, findings: &mut Findings) {
    let Some(story) = message.send.and_then(|send| index.sends.get(&send)) else { return };
    let Some(sent) = story.sent() else { return };
    if story.topic != message.topic {
        let text = format!("{id} was sent to {} and came out of {}", story.topic, message.topic);
        findings.add(Invariant::Content, ops(story), text);
    }
    let mut compare =
        |op: u64, hash: &str, len: u64, content_type: &str, attrs: &BTreeMap<String, String>| {
            let Sent { hash: h, len: l, content_type: c, attrs: a, .. } = sent;
            let differs = if (h.as_str(), *l) != (hash, len) {
                format!("its bytes (sent {l} bytes {h}, came {len} bytes {hash})")
            } else if c != content_type {
                format!("its content type (sent {c:?}, came {content_type:?})")
            } else if a != attrs {
                format!("its attributes (sent {a:?}, came {attrs:?})")
            } else {
                return;
            };
            let operations = ops(story).into_iter().chain([op]);
            findings.add(Invariant::Content, operations, format!("{id} came out with {differs} changed"));
        };
    for Delivered { op, hash, len, content_type, attrs } in outputs(message) {
        compare(op, hash, len, content_type, attrs);
    }
    for delivery in message.deliveries.iter().filter(|one| one.got.hash != one.got.stated_hash) {
        let text = format!("{id} came out with a payload_hash that is not its payload's");
        findings.add(Invariant::Content, [delivery.op], text);
    }
}

struct Delivered<'a> {
    op: u64,
    hash: &'a str,
    len: u64,
    content_type: &'a str,
    attrs: &'a BTreeMap<String, String>,
}

fn outputs<'a>(message: &'a MessageStory<'_>) -> impl Iterator<Item = Delivered<'a>> {
    let seen = message.deliveries.iter().map(|one| Delivered {
        op: one.op,
        hash: &one.got.hash,
        len: one.got.len,
        content_type: &one.got.content_type,
        attrs: &one.got.attrs,
    });
    let dead = message.dead.iter().map(|(op, dead)| Delivered {
        op: *op,
        hash: &dead.hash,
        len: dead.len,
        content_type: &dead.content_type,
        attrs: &dead.attrs,
    });
    seen.chain(dead)
}

/// Same key and same payload: one message, and a duplicate once it is known. Same key and another payload: a
/// conflict once the first is known.
fn keys(index: &Index<'_>, findings: &mut Findings) {
    let mut groups: BTreeMap<(&str, bool, &str), Vec<&SendStory<'_>>> = BTreeMap::new();
    for story in index.sends.values() {
        let (Some(first), Some(sent)) = (story.tries.first(), story.sent()) else { continue };
        if let Some(key) = &sent.key {
            groups.entry((story.topic, first.api, key)).or_default().push(story);
        }
    }
    let window = index.limits.dedup_window_ms.saturating_mul(1000);
    for ((topic, _, key), stories) in groups {
        let tries = || stories.iter().flat_map(|story| &story.tries);
        let all: Vec<u64> = tries().map(|one| one.op).collect();
        // when the key was first known to the sender, and since when it can have been in force
        let known =
            tries().filter(|one| matches!(one.result, TryResult::Accepted { .. })).min_by_key(|one| one.done);
        let oldest = tries().map(|one| one.invoked).min().unwrap_or_default();
        let mut created = 0;
        for one in tries().filter(|one| one.invoked < oldest.saturating_add(window)) {
            let TryResult::Accepted { msg_id, duplicate, .. } = one.result else { continue };
            created += u32::from(!duplicate);
            if let Some(first) = known.filter(|first| first.done < one.invoked) {
                if first.sent.hash != one.sent.hash {
                    let text =
                        format!("key {key:?} of {topic} is in force and took another body as {msg_id}");
                    findings.add(Invariant::Idempotency, [first.op, one.op], text);
                } else if !duplicate {
                    let text = format!("key {key:?} of {topic} was known and {msg_id} is no duplicate");
                    findings.add(Invariant::Idempotency, [first.op, one.op], text);
                }
            }
        }
        if created > 1 {
            let text = format!("key {key:?} of {topic} was new {created} times");
            findings.add(Invariant::Idempotency, all, text);
        }
        for one in tries().filter(|one| matches!(one.result, TryResult::Refused("IDEMPOTENCY_CONFLICT"))) {
            let other_body = tries().any(|other| {
                let may_exist = matches!(other.result, TryResult::Accepted { .. } | TryResult::Unknown);
                may_exist && other.sent.hash != one.sent.hash
            });
            if !other_body {
                let text = format!("key {key:?} of {topic} conflicts with nothing but itself");
                findings.add(Invariant::Idempotency, [one.op], text);
            }
        }
    }
}
