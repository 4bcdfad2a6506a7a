//! A virtual client: does one operation after the other, and records what it asked for and what came of it.

use super::ops::{self, Op};
use super::world::{Complaint, World};
use bytes::Bytes;
use ron_actors::mailbox::{Enqueued, Mailbox};
use ron_actors::store::Store;
use ron_core::envelope::Envelope;
use ron_core::ids::ContentHash;
use ron_core::message::{DedupClaim, GROUP_ATTR, MessageMeta, NewMessage, Origin};
use ron_core::reason::{Effect, Reason, Refusal};
use ron_core::time::{Clock, Millis};
use ron_history::record::{self, Event, Item, Out, Sent};
use std::sync::Arc;
use std::time::Duration;

/// Every call is answered within this and its own wait, whatever happens: nobody waits for ever.
const ANSWERED_WITHIN: Duration = Duration::from_secs(300);
/// What every payload begins with: searched for on the disk.
pub(super) const CANARY: &[u8] = b"canary-";
/// The provider that has keys of its own.
const PROVIDER: &str = "provider";
/// Sends that a client has in mind to do again.
const AGAIN_MAX: usize = 4;
/// Digits behind it.
pub(super) const CANARY_DIGITS: usize = 8;

/// The payload of content `number`: its number, and a filling of a length of its own.
pub(super) fn payload(number: u64) -> String {
    let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
    let filling = match mixed % 40 {
        0 => 70_000,
        1..=4 => 3_000,
        _ => mixed as usize % 200,
    };
    format!("canary-{number:08}.{}", "x".repeat(filling))
}

/// Reads the number of a content out of its payload, and checks the rest.
fn content_of(payload_text: &str) -> Option<u64> {
    let number = payload_text.strip_prefix("canary-")?.split_once('.')?.0.parse().ok()?;
    (payload(number) == payload_text).then_some(number)
}

/// What the history keeps of some bytes.
pub(super) fn short_hash(bytes: &[u8]) -> u64 {
    let mut first = [0; 8];
    first.copy_from_slice(&ContentHash::of(bytes).0[..8]);
    u64::from_le_bytes(first)
}

/// Milliseconds since the epoch of an RFC 3339 time as Envelopes have it.
pub(super) fn read_time(text: &str) -> Option<Millis> {
    let field = |range: std::ops::Range<usize>| text.get(range)?.parse::<i64>().ok();
    let (year, month, day) = (field(0..4)?, field(5..7)?, field(8..10)?);
    // days of the civil calendar, the year beginning in March
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1 - 719_468;
    let seconds = days * 86_400 + field(11..13)? * 3_600 + field(14..16)? * 60 + field(17..19)?;
    u64::try_from(seconds * 1_000 + field(20..23)?).ok().map(Millis)
}

/// What an Envelope shows.
pub(super) struct Sight {
    pub(super) content: Option<u64>,
    pub(super) hash: u64,
    pub(super) enqueued: u64,
}

/// One client in one life of the node.
pub(super) struct Client {
    pub(super) world: Arc<World>,
    pub(super) mailbox: Mailbox,
    pub(super) store: Store,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) me: usize,
}

impl Client {
    /// Works until the life's operations are used up.
    pub(super) async fn work(self) {
        while let Some((op, think_ms)) = self.next_op() {
            self.perform(op).await;
            if think_ms > 0 {
                tokio::time::sleep(Duration::from_millis(think_ms)).await;
            } else {
                tokio::task::yield_now().await;
            }
        }
    }

    fn next_op(&self) -> Option<(Op, u64)> {
        let plan = &self.world.plan;
        let mut inner = self.world.lock();
        if inner.steps >= inner.life_ends || inner.failure.is_some() {
            self.world.over.notify_one();
            return None;
        }
        inner.steps += 1;
        let op = ops::next(plan, &mut inner, self.me);
        let think_ms = inner.clients[self.me].rng.below(plan.think_ms + 1);
        Some((op, think_ms))
    }

    async fn perform(&self, op: Op) {
        let wait_ms = match &op {
            Op::Recv { get, .. } => get.wait_ms,
            Op::Stream { get, rounds, .. } => get.wait_ms * rounds + 300_000 * rounds,
            // a copy of the store is made in many short pieces
            Op::Upkeep { .. } => 600_000,
            _ => 0,
        };
        let name = format!("{op:?}");
        let verdict = tokio::time::timeout(
            ANSWERED_WITHIN + Duration::from_millis(wait_ms),
            Box::pin(self.dispatch(op)),
        );
        let verdict = verdict.await.unwrap_or_else(|_| Err("a call was not answered".to_owned()));
        self.world.judge(verdict.map_err(|complaint| format!("{complaint} [client {}, {name}]", self.me)));
    }

    async fn dispatch(&self, op: Op) -> Result<(), Complaint> {
        match op {
            Op::Send { queue, contents, twice: false } => self.send(queue, contents).await,
            Op::Send { queue, contents, twice: true } => {
                let (one, other) =
                    tokio::join!(self.send(queue, contents.clone()), self.send(queue, contents));
                one.and(other)
            }
            Op::Recv { queue, get } => self.recv(queue, get).await,
            Op::Stream { queue, max_inflight, rounds, get } => {
                self.stream(queue, max_inflight, rounds, get).await
            }
            Op::Settle { queue, how, held, twice: false } => self.settle(queue, how, held).await,
            Op::Settle { queue, how, held, twice: true } => {
                let (one, other) =
                    tokio::join!(self.settle(queue, how, held.clone()), self.settle(queue, how, held));
                one.and(other)
            }
            Op::Foreign { queue, how, receipts } => self.foreign(queue, how, receipts).await,
            Op::Stat { queue } => self.stat(queue).await,
            Op::Peek { queue, state, limit } => self.peek(queue, state, limit).await.map(|_| ()),
            Op::Look { queue, id } => self.look(queue, id).await,
            Op::Operate { queue, how } => self.operate(queue, how).await,
            Op::Upkeep { scrub: true } => self.scrub().await,
            Op::Upkeep { scrub: false } => self.snapshot().await,
            Op::Rest => Ok(()),
        }
    }

    /// Records that a call begins.
    pub(super) fn begin(&self, op: record::Op) -> u64 {
        let call = self.world.lock().log.next_call();
        self.world.record(self.clock.as_ref(), Event::Begin { call, op });
        call
    }

    /// Records an answer.
    pub(super) fn end(&self, call: u64, what: &str, out: Out) {
        self.world.record(self.clock.as_ref(), Event::End { call, out });
        self.count(what);
    }

    pub(super) fn count(&self, what: &str) {
        self.world.lock().log.count(what);
    }

    /// Records a refusal, and checks that it may be one.
    pub(super) fn refused(&self, call: u64, what: &str, refusal: &Refusal) -> Result<(), Complaint> {
        let code = refusal.reason.code();
        let out = match (refusal.reason, refusal.effect) {
            (Reason::NotFound, _) => Out::NotFound,
            (_, Effect::None) => Out::Refused(code.to_owned()),
            (_, Effect::Unknown) => Out::Unknown(code.to_owned()),
        };
        self.end(call, &format!("{what}-refused-{code}"), out);
        let plan = &self.world.plan;
        let calm = plan.calm() && !self.world.lock().stopping;
        match refusal.reason {
            Reason::Backpressure | Reason::NotFound => Ok(()),
            Reason::Degraded | Reason::Conflict | Reason::Malformed
                if plan.weights.configure + plan.weights.dlq > 0 =>
            {
                Ok(())
            }
            // a topic that is deleted meanwhile says so
            Reason::DownstreamUnavailable if plan.weights.end > 0 => Ok(()),
            Reason::Storage | Reason::DownstreamUnavailable if !calm => Ok(()),
            _ => Err(format!("refused for no reason: {refusal:?}")),
        }
    }

    // --- enqueue ---

    pub(super) fn message(&self, number: u64) -> (NewMessage, Item) {
        let content = self.world.lock().contents[number as usize].clone();
        let plan = &self.world.plan;
        let payload = Bytes::from(payload(number));
        let payload_hash = ContentHash::of(&payload);
        let key = content.key.map(|key| format!("k{key}"));
        let group = content.group.map(|group| format!("g{group}"));
        let item = Item {
            content: number,
            hash: short_hash(&payload),
            key: key.clone(),
            origin: content.provider.then(|| PROVIDER.to_owned()),
            window_ms: content.provider.then_some(plan.replay_ms),
            delay_ms: content.delay_ms,
            ttl_ms: content.ttl_ms,
            group: group.clone(),
        };
        let mut attrs = vec![("number".to_owned(), number.to_string())];
        attrs.extend(group.map(|group| (GROUP_ATTR.to_owned(), group)));
        let message = NewMessage {
            payload_hash,
            // as the topic's settings say
            dedup: key.as_ref().map(|key| {
                let (origin, window_ms) = match content.provider {
                    true => (Origin::Provider(PROVIDER.to_owned()), plan.replay_ms),
                    false => (Origin::Api, 0),
                };
                DedupClaim::new(&origin, key.as_bytes(), &payload_hash, window_ms)
            }),
            meta: MessageMeta {
                content_type: "text/plain".into(),
                attrs,
                idempotency_key: key,
                corr_id: format!("sim-{number:08}"),
                source_msg_id: None,
                body_ref: None,
            },
            payload,
            delay_ms: content.delay_ms,
            ttl_ms: content.ttl_ms,
        };
        (message, item)
    }

    async fn send(&self, queue: usize, contents: Vec<u64>) -> Result<(), Complaint> {
        let (messages, items) = contents.iter().map(|number| self.message(*number)).unzip();
        let call = self.begin(record::Op::Send { queue: queue as u32, items });
        match self.mailbox.enqueue(&self.world.queues[queue], messages).await {
            Ok(results) => {
                let sent = results.into_iter().map(|result| self.sent(queue, result));
                let sent = sent.collect::<Result<Vec<_>, _>>()?;
                self.end(call, "sent", Out::Sent(sent));
                Ok(())
            }
            Err(refusal) => {
                self.again(queue, contents);
                self.refused(call, "send", &refusal)
            }
        }
    }

    /// Has a send that was refused done again some time, as clients do.
    fn again(&self, queue: usize, contents: Vec<u64>) {
        let mut inner = self.world.lock();
        let again = &mut inner.clients[self.me].again;
        if again.len() < AGAIN_MAX {
            again.push_back((queue, contents));
        }
    }

    pub(super) fn sent(&self, queue: usize, result: Result<Enqueued, Reason>) -> Result<Sent, Complaint> {
        let (what, sent) = match result {
            Ok(Enqueued { msg_id, duplicate, .. }) => {
                let (id, ram) = (msg_id.to_string(), msg_id.slot().is_ram());
                self.world.lock().known[queue].learn(&id);
                match duplicate {
                    true => ("message duplicate", Sent::Duplicate { id }),
                    false => {
                        (if ram { "message in ram" } else { "message stored" }, Sent::Stored { id, ram })
                    }
                }
            }
            Err(Reason::IdempotencyConflict) => ("message conflict", Sent::Conflict),
            Err(Reason::Backpressure) => ("message dedup-full", Sent::Full),
            Err(other) => return Err(format!("a message was refused with {other}")),
        };
        self.count(what);
        Ok(sent)
    }

    /// What an Envelope shows, if what it says of itself holds together.
    pub(super) fn sight(&self, queue: usize, envelope: &Envelope) -> Result<Sight, Complaint> {
        let id = &envelope.msg_id;
        let text = envelope.payload.as_deref().ok_or_else(|| format!("{id}: no text"))?;
        let content = content_of(text);
        let number = content.map(|number| number.to_string());
        let whole = envelope.payload_hash == ContentHash::of(text.as_bytes()).to_string()
            && envelope.topic == format!("q{queue}")
            && envelope.attrs.get("number") == number.as_ref()
            && content.is_none_or(|number| envelope.corr_id == format!("sim-{number:08}"));
        if !whole {
            return Err(format!("{id}: the Envelope of {content:?} is not what was sent"));
        }
        let enqueued = read_time(&envelope.enqueued_at).ok_or_else(|| format!("{id}: no time"))?.0;
        Ok(Sight { content, hash: short_hash(text.as_bytes()), enqueued })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_and_times_read_back() {
        assert!((0..500).all(|number| content_of(&payload(number)) == Some(number)));
        assert_eq!(content_of("canary-00000007.y"), None);
        assert!(payload(7).as_bytes().starts_with(CANARY));
        for at in [0, 951_782_400_000, 1_800_000_000_123] {
            assert_eq!(read_time(&Millis(at).rfc3339()), Some(Millis(at)));
        }
    }
}
