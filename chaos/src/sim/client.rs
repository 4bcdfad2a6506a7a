//! A virtual client: does one operation after the other, tells the model what it did and what came of it, and
//! logs each answer.

use super::model::{Complaint, Sight};
use super::ops::{self, Op};
use super::world::{Held, World};
use bytes::Bytes;
use ron_actors::mailbox::{Enqueued, Mailbox};
use ron_core::envelope::Envelope;
use ron_core::ids::ContentHash;
use ron_core::message::{DedupClaim, MessageMeta, NewMessage, Origin};
use ron_core::reason::{Effect, Reason, Refusal};
use ron_core::shard::{PeekState, Want};
use ron_core::time::{Clock, Millis};
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

/// Every call is answered within this and its own wait, whatever happens: nobody waits for ever.
const ANSWERED_WITHIN: Duration = Duration::from_secs(300);
/// Receipts that a client keeps.
const HELD_MAX: usize = 100;

/// The payload of content `number`: its number, and a filling of a length of its own.
fn payload(number: u64) -> String {
    let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
    let filling = match mixed % 40 {
        0 => 70_000,
        1..=4 => 3_000,
        _ => mixed as usize % 200,
    };
    format!("c{number}.{}", "x".repeat(filling))
}

/// Reads the number of a content out of its payload, and checks the rest.
fn content_of(payload_text: &str) -> Option<u64> {
    let number = payload_text.strip_prefix('c')?.split_once('.')?.0.parse().ok()?;
    (payload(number) == payload_text).then_some(number)
}

/// Milliseconds since the epoch of an RFC 3339 time as Envelopes have it.
fn read_time(text: &str) -> Option<Millis> {
    let field = |range: std::ops::Range<usize>| text.get(range)?.parse::<i64>().ok();
    let (year, month, day) = (field(0..4)?, field(5..7)?, field(8..10)?);
    // days of the civil calendar, the year beginning in March
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1 - 719_468;
    let seconds = days * 86_400 + field(11..13)? * 3_600 + field(14..16)? * 60 + field(17..19)?;
    u64::try_from(seconds * 1_000 + field(20..23)?).ok().map(Millis)
}

/// One client in one life of the node.
pub(super) struct Client {
    pub(super) world: Arc<World>,
    pub(super) mailbox: Mailbox,
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
        let wait_ms = if let Op::Recv { wait_ms, .. } = op { wait_ms } else { 0 };
        let name = format!("{op:?}");
        let verdict = tokio::time::timeout(ANSWERED_WITHIN + Duration::from_millis(wait_ms), async {
            match op {
                Op::Send { queue, contents } => self.send(queue, contents).await,
                Op::Recv { queue, max_messages, max_bytes, visibility_ms, wait_ms, cancel_ms, dropped } => {
                    let want = Want { max_messages, max_bytes, visibility_ms };
                    self.recv(queue, want, wait_ms, cancel_ms, dropped).await
                }
                Op::Settle { queue, how, held } => self.settle(queue, how, held).await,
                Op::Foreign { queue, how, receipts } => self.foreign(queue, how, receipts).await,
                Op::Stat { queue } => self.stat(queue).await,
                Op::Peek { queue, state, limit } => self.peek(queue, state, limit).await.map(|_| ()),
                Op::Rest => Ok(()),
            }
        });
        let verdict = verdict.await.unwrap_or_else(|_| Err("a call was not answered".to_owned()));
        self.world.judge(verdict.map_err(|complaint| format!("{complaint} [client {}, {name}]", self.me)));
    }

    pub(super) fn event(&self, what: &str, text: &str) {
        self.world.event(self.clock.as_ref(), what, format_args!("by {} {text}", self.me));
    }

    /// Logs a refusal, and checks that it may be one.
    pub(super) fn refused(&self, what: &str, refusal: &Refusal) -> Result<(), Complaint> {
        let code = refusal.reason.code();
        self.event(&format!("{what}-refused-{code}"), &format!("{:?}", refusal.effect));
        let calm = self.world.plan.faults.every_ms == 0 && !self.world.lock().stopping;
        match refusal.reason {
            Reason::Backpressure => Ok(()),
            Reason::Storage | Reason::DownstreamUnavailable if !calm => Ok(()),
            _ => Err(format!("refused for no reason: {refusal:?}")),
        }
    }

    // --- enqueue ---

    fn message(&self, number: u64) -> NewMessage {
        let content = self.world.lock().model.contents[number as usize].clone();
        let payload = Bytes::from(payload(number));
        let payload_hash = ContentHash::of(&payload);
        let key = content.key.map(|key| format!("k{key}"));
        let claim = |key: &String| {
            DedupClaim::new(&Origin::Api, key.as_bytes(), &payload_hash, self.world.plan.window_ms)
        };
        NewMessage {
            payload_hash,
            dedup: key.as_ref().map(claim),
            meta: MessageMeta {
                content_type: "text/plain".into(),
                attrs: vec![("number".into(), number.to_string())],
                idempotency_key: key,
                corr_id: format!("sim-{number:08}"),
                source_msg_id: None,
            },
            payload,
            delay_ms: content.delay_ms,
            ttl_ms: content.ttl_ms,
        }
    }

    async fn send(&self, queue: usize, contents: Vec<u64>) -> Result<(), Complaint> {
        let messages = contents.iter().map(|number| self.message(*number)).collect();
        let begun = self.clock.now();
        contents.iter().for_each(|number| self.world.lock().model.send_begins(*number));
        let answer = self.mailbox.enqueue(&self.world.queues[queue], messages).await;
        let now = self.clock.now();
        let results = match answer {
            Ok(results) => results,
            Err(refusal) => {
                if refusal.effect == Effect::None {
                    contents.iter().for_each(|number| self.world.lock().model.send_refused(*number));
                }
                return self.refused("send", &refusal);
            }
        };
        if results.len() != contents.len() {
            return Err(format!("{} results for {} messages", results.len(), contents.len()));
        }
        let mut text = format!("q{queue}");
        for (number, result) in contents.iter().zip(&results) {
            match result {
                // Writing into a string cannot fail.
                Ok(Enqueued { msg_id, duplicate, .. }) => {
                    let _ = write!(text, " c{number}={msg_id}{}", if *duplicate { "*" } else { "" });
                }
                Err(reason) => drop(write!(text, " c{number}={}", reason.code())),
            }
        }
        self.event("sent", &text);
        contents.iter().zip(results).try_for_each(|(number, result)| self.sent(begun, now, *number, result))
    }

    fn sent(
        &self,
        begun: Millis,
        now: Millis,
        number: u64,
        result: Result<Enqueued, Reason>,
    ) -> Result<(), Complaint> {
        let mut inner = self.world.lock();
        match result {
            Ok(Enqueued { msg_id, duplicate, .. }) => {
                inner.log.count(if duplicate { "message duplicate" } else { "message stored" });
                inner.model.send_answered(begun, now, number, &msg_id.to_string(), duplicate)
            }
            Err(Reason::IdempotencyConflict) => {
                inner.log.count("message conflict");
                inner.model.send_conflicts(number)
            }
            Err(Reason::Backpressure) => {
                inner.log.count("message dedup-full");
                inner.model.send_refused(number);
                Ok(())
            }
            Err(other) => Err(format!("c{number} was refused with {other}")),
        }
    }

    // --- recv ---

    pub(super) async fn recv(
        &self,
        queue: usize,
        want: Want,
        wait_ms: u64,
        cancel_ms: Option<u64>,
        dropped: bool,
    ) -> Result<(), Complaint> {
        let key = &self.world.queues[queue];
        let receive = self.mailbox.recv(key, want, Duration::from_millis(wait_ms));
        let answer = match cancel_ms {
            None => receive.await,
            Some(ms) => match tokio::time::timeout(Duration::from_millis(ms), receive).await {
                Ok(answer) => answer,
                Err(_) => {
                    self.event("recv-cancelled", &format!("q{queue} after {ms}"));
                    return Ok(());
                }
            },
        };
        let delivery = match answer {
            Ok(delivery) => delivery,
            Err(refusal) => return self.refused("recv", &refusal),
        };
        let what = match (delivery.messages.is_empty(), dropped) {
            (true, _) => "recv-empty",
            (false, true) => "recv-dropped",
            (false, false) => "received",
        };
        let mut text = format!("q{queue}");
        for e in &delivery.messages {
            let deadline = e.deadline.as_deref().unwrap_or("-");
            let _ = write!(text, " {} {}/{} until {deadline}", e.msg_id, e.attempt, e.delivery);
        }
        self.event(what, &text);
        if delivery.messages.len() > want.max_messages as usize {
            return Err(format!("{} messages instead of {}", delivery.messages.len(), want.max_messages));
        }
        let visibility_ms = want.visibility_ms.unwrap_or(self.world.plan.settings.visibility_ms);
        for envelope in &delivery.messages {
            self.received(queue, envelope, visibility_ms, dropped)?;
        }
        if !dropped {
            delivery.written();
        }
        Ok(())
    }

    fn received(
        &self,
        queue: usize,
        envelope: &Envelope,
        visibility_ms: u64,
        dropped: bool,
    ) -> Result<(), Complaint> {
        let sight = self.sight(queue, envelope)?;
        let deadline = envelope.deadline.as_deref().and_then(read_time).ok_or("no deadline")?;
        let receipt = envelope.receipt.clone().ok_or("no receipt")?;
        let mut inner = self.world.lock();
        let now = self.clock.now();
        inner.model.delivered(now, &sight, deadline, visibility_ms, dropped)?;
        inner.log.count("message delivered");
        if sight.delivery > 1 {
            inner.log.count("message redelivered");
        }
        let held = &mut inner.clients[self.me].held;
        if !dropped && held.len() < HELD_MAX {
            held.push(Held { queue, msg_id: sight.msg_id, delivery: sight.delivery, receipt });
        }
        Ok(())
    }

    /// What an Envelope shows, if it is whole.
    fn sight(&self, queue: usize, envelope: &Envelope) -> Result<Sight, Complaint> {
        let id = &envelope.msg_id;
        let text = envelope.payload.as_deref().ok_or_else(|| format!("{id}: no text"))?;
        let content = content_of(text).ok_or_else(|| format!("{id}: not a payload that was sent"))?;
        let hash = ContentHash::of(text.as_bytes()).to_string();
        let number = envelope.attrs.get("number").map(String::as_str);
        let key = {
            let inner = self.world.lock();
            let content = inner.model.contents.get(content as usize);
            content.and_then(|content| content.key).map(|key| format!("k{key}"))
        };
        let whole = envelope.payload_hash == hash
            && envelope.topic == format!("q{queue}")
            && number == Some(content.to_string().as_str())
            && envelope.idempotency_key == key
            && envelope.corr_id == format!("sim-{content:08}")
            && read_time(&envelope.enqueued_at) == Some(super::model::enqueued_of(id));
        if !whole {
            return Err(format!("{id}: the Envelope of c{content} is not what was sent"));
        }
        let (attempt, delivery) = (envelope.attempt, envelope.delivery);
        Ok(Sight { queue, msg_id: id.clone(), content, attempt, delivery })
    }

    // --- stat, peek ---

    async fn stat(&self, queue: usize) -> Result<(), Complaint> {
        let begun = self.clock.now();
        let exists = self.world.lock().model.bounds(queue, begun).0 > 0;
        let least = self.world.lock().model.bounds(queue, begun).0;
        let stat = match self.mailbox.stat(&self.world.queues[queue]).await {
            Ok(stat) => stat,
            Err(refusal) if refusal.reason == Reason::NotFound && !exists => {
                self.event("stat-not-found", &format!("q{queue}"));
                return Ok(());
            }
            Err(refusal) => return self.refused("stat", &refusal),
        };
        let s = stat.stats;
        let text = format!("q{queue} {} {} {} {} {}", s.ready, s.delayed, s.vis, s.dlq, stat.dedup_keys);
        self.event("stat", &text);
        self.mailbox.check(&self.world.queues[queue]).await.map_err(|violation| violation.to_string())?;
        let sum = s.ready + s.delayed + s.vis + s.dlq;
        let (now_least, most) = self.world.lock().model.bounds(queue, begun);
        // An ack that was begun meanwhile may have been done.
        let least = least.min(now_least);
        if sum < least || sum > most {
            return Err(format!("{sum} messages in q{queue}, not {least} to {most}: {s:?}"));
        }
        Ok(())
    }

    /// A page of the first `limit` messages in a state.
    pub(super) async fn peek(
        &self,
        queue: usize,
        state: PeekState,
        limit: u32,
    ) -> Result<Vec<String>, Complaint> {
        let begun = self.clock.now();
        let exists = self.world.lock().model.bounds(queue, begun).0 > 0;
        let page = match self.mailbox.peek(&self.world.queues[queue], state, limit, None).await {
            Ok(page) => page,
            Err(refusal) if refusal.reason == Reason::NotFound && !exists => return Ok(Vec::new()),
            Err(refusal) => return self.refused("peek", &refusal).map(|()| Vec::new()),
        };
        let mut text = format!("q{queue} {state:?}");
        for e in &page.messages {
            let _ = write!(text, " {} {}/{}", e.msg_id, e.attempt, e.delivery);
        }
        self.event("peek", &text);
        for envelope in &page.messages {
            let sight = self.sight(queue, envelope)?;
            let dead = envelope.dead_letter.as_ref().map(|letter| letter.reason.as_str());
            self.world.lock().model.peeked(begun, &sight, dead)?;
            if (state == PeekState::Vis) != envelope.deadline.is_some() || envelope.receipt.is_some() {
                return Err(format!("{}: a peek of {state:?} shows {envelope:?}", sight.msg_id));
            }
        }
        Ok(page.messages.into_iter().map(|envelope| envelope.msg_id).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_and_times_read_back() {
        assert!((0..500).all(|number| content_of(&payload(number)) == Some(number)));
        assert_eq!(content_of("c7.y"), None);
        for at in [0, 951_782_400_000, 1_800_000_000_123] {
            assert_eq!(read_time(&Millis(at).rfc3339()), Some(Millis(at)));
        }
    }
}
