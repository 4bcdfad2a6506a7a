//! The shadow model: what the clients have sent, seen and settled, and what the node may therefore do.
//!
//! It knows only what clients know. Where an answer is missing it allows both outcomes, so a complaint is always a
//! broken promise of SPEC §4. A message is known by its id, its content by the number in its payload. Moments
//! are node time; the moment a lease began is its deadline less the visibility asked for.

use super::plan::Plan;
use ron_core::time::Millis;
use std::collections::{BTreeMap, BTreeSet};

/// What a client meant to send.
#[derive(Debug, Clone)]
pub(super) struct Content {
    pub(super) queue: usize,
    pub(super) key: Option<u64>,
    pub(super) delay_ms: u64,
    pub(super) ttl_ms: Option<u64>,
    /// Tries whose message may be in the node, and that have named no id.
    pub(super) open: u64,
    /// Ids that it has.
    pub(super) ids: BTreeSet<String>,
}

/// One delivery that a client got.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    pub(super) delivery: u32,
    pub(super) attempt: u32,
    pub(super) leased: Millis,
    /// Not delivered again before this, unless given back.
    pub(super) floor: Millis,
    /// Not delivered again before this, if it was given back.
    pub(super) not_before: Millis,
    /// A nack of it may have been done.
    pub(super) given_back: bool,
    /// A nack `release` of it, or the loss of its connection, may have been done.
    pub(super) released: bool,
    /// An ack of it may have been done.
    pub(super) acked: bool,
}

/// One message of the node.
#[derive(Debug, Clone)]
pub(super) struct Message {
    pub(super) content: u64,
    pub(super) enqueued: Millis,
    pub(super) seen: Vec<Seen>,
    /// When it was known to be gone: an ack was answered.
    pub(super) gone: Option<Millis>,
    /// A reject may have been done.
    pub(super) rejected: bool,
}

/// One delivery or peeked message, as it came in an Envelope.
#[derive(Debug, Clone)]
pub(super) struct Sight {
    pub(super) queue: usize,
    pub(super) msg_id: String,
    pub(super) content: u64,
    pub(super) attempt: u32,
    pub(super) delivery: u32,
}

/// A promise that was broken.
pub(super) type Complaint = String;

/// See the module.
#[derive(Debug)]
pub(super) struct Model {
    pub(super) contents: Vec<Content>,
    pub(super) messages: BTreeMap<String, Message>,
    /// Ids by queue and key.
    keyed: BTreeMap<(usize, u64), BTreeSet<String>>,
    window_ms: u64,
    max_attempts: u32,
    max_deliveries: u32,
}

/// The first 48 bits of a message id: its enqueue time.
pub(super) fn enqueued_of(msg_id: &str) -> Millis {
    const DIGITS: &str = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";
    let digit = |c: char| DIGITS.find(c).unwrap_or(0) as u64;
    Millis(msg_id.chars().take(10).fold(0, |time, c| (time << 5) | digit(c)))
}

fn ensure(holds: bool, text: impl FnOnce() -> String) -> Result<(), Complaint> {
    if holds { Ok(()) } else { Err(text()) }
}

impl Model {
    pub(super) fn new(plan: &Plan) -> Model {
        Model {
            contents: Vec::new(),
            messages: BTreeMap::new(),
            keyed: BTreeMap::new(),
            window_ms: plan.window_ms,
            max_attempts: plan.settings.max_attempts,
            max_deliveries: plan.settings.max_deliveries,
        }
    }

    // --- sends ---

    pub(super) fn new_content(&mut self, content: Content) -> u64 {
        self.contents.push(content);
        self.contents.len() as u64 - 1
    }

    pub(super) fn send_begins(&mut self, content: u64) {
        self.contents[content as usize].open += 1;
    }

    /// The try was refused, and had no effect.
    pub(super) fn send_refused(&mut self, content: u64) {
        self.contents[content as usize].open -= 1;
    }

    /// A conflict must have something to conflict with.
    pub(super) fn send_conflicts(&mut self, content: u64) -> Result<(), Complaint> {
        self.send_refused(content);
        let (queue, key) = (self.contents[content as usize].queue, self.contents[content as usize].key);
        let other = self.contents.iter().enumerate().any(|(number, other)| {
            number as u64 != content
                && key.is_some()
                && (other.queue, other.key) == (queue, key)
                && (other.open > 0 || !other.ids.is_empty())
        });
        ensure(other, || format!("c{content}: a conflict with nothing"))
    }

    /// The try was answered with an id.
    pub(super) fn send_answered(
        &mut self,
        begun: Millis,
        now: Millis,
        content: u64,
        msg_id: &str,
        duplicate: bool,
    ) -> Result<(), Complaint> {
        let enqueued = enqueued_of(msg_id);
        let known = self.contents[content as usize].ids.contains(msg_id);
        if duplicate {
            ensure(self.contents[content as usize].key.is_some(), || {
                format!("c{content}: a duplicate without a key")
            })?;
            ensure(begun.since(enqueued) < self.window_ms, || {
                format!("c{content}: duplicate of {msg_id}, whose window is over")
            })?;
            // What it duplicates may be another try of this very content, not yet answered.
            if !known {
                self.know(content, msg_id)?;
            }
            self.contents[content as usize].open -= 1;
            return Ok(());
        }
        ensure((begun..=now).contains(&enqueued), || {
            format!("c{content}: {msg_id} was enqueued at {enqueued:?}, outside its call")
        })?;
        if !known {
            self.know(content, msg_id)?;
        }
        self.contents[content as usize].open -= 1;
        Ok(())
    }

    /// An id is seen for the first time.
    fn know(&mut self, content: u64, msg_id: &str) -> Result<(), Complaint> {
        let of = self
            .contents
            .get_mut(content as usize)
            .ok_or_else(|| format!("{msg_id} holds c{content}, which nobody sent"))?;
        ensure(of.open > 0, || format!("{msg_id} holds c{content}, of which no send can have got in"))?;
        let enqueued = enqueued_of(msg_id);
        if let Some(key) = of.key {
            let same = self.keyed.entry((of.queue, key)).or_default();
            for other in same.iter() {
                let apart = enqueued.since(enqueued_of(other)).max(enqueued_of(other).since(enqueued));
                ensure(apart >= self.window_ms, || {
                    format!("key k{key}: {other} and {msg_id} were both stored, {apart} ms apart")
                })?;
            }
            same.insert(msg_id.to_owned());
        } else {
            ensure(of.ids.is_empty(), || format!("c{content} was stored twice: {:?} and {msg_id}", of.ids))?;
        }
        of.ids.insert(msg_id.to_owned());
        let message = Message { content, enqueued, seen: Vec::new(), gone: None, rejected: false };
        self.messages.insert(msg_id.to_owned(), message);
        Ok(())
    }

    /// Looks a message up that the node has shown, or takes note of it.
    fn meet(&mut self, sight: &Sight) -> Result<&mut Message, Complaint> {
        let Sight { queue, msg_id, content, .. } = sight;
        let of = self.contents.get(*content as usize);
        ensure(of.is_some_and(|of| of.queue == *queue), || format!("{msg_id} is in the wrong queue"))?;
        if !self.messages.contains_key(msg_id) {
            self.know(*content, msg_id)?;
        }
        let message = self.messages.get_mut(msg_id).ok_or("unknown")?;
        ensure(message.content == *content, || format!("{msg_id} holds another payload than before"))?;
        Ok(message)
    }

    // --- deliveries ---

    /// A client was given this delivery at `now`, leased until `deadline`. `dropped` = its connection goes away
    /// before the answer is written.
    pub(super) fn delivered(
        &mut self,
        now: Millis,
        sight: &Sight,
        deadline: Millis,
        visibility_ms: u64,
        dropped: bool,
    ) -> Result<(), Complaint> {
        let (max_attempts, max_deliveries) = (self.max_attempts, self.max_deliveries);
        let id = &sight.msg_id;
        let leased = Millis(deadline.0.saturating_sub(visibility_ms));
        let message = self.meet(sight)?;
        let content = message.content as usize;
        let new = Seen {
            delivery: sight.delivery,
            attempt: sight.attempt,
            leased,
            floor: deadline,
            not_before: Millis(0),
            given_back: dropped,
            released: dropped,
            acked: false,
        };
        ensure(leased <= now, || format!("{id}: leased in the future, at {leased:?}"))?;
        if let Some(gone) = message.gone {
            ensure(leased < gone, || format!("{id}: delivered after an ack was answered at {gone:?}"))?;
        }
        ensure(new.attempt >= 1 && new.attempt <= new.delivery, || format!("{id}: {new:?}"))?;
        ensure(new.attempt <= max_attempts && new.delivery <= max_deliveries, || {
            format!("{id}: handed out too often: {new:?}")
        })?;
        let place = message.seen.partition_point(|seen| seen.delivery < new.delivery);
        if let Some(before) = place.checked_sub(1).map(|place| message.seen[place]) {
            succeeds(id, &before, &new)?;
        }
        if let Some(after) = message.seen.get(place) {
            succeeds(id, &new, after)?;
        }
        message.seen.insert(place, new);
        let enqueued = message.enqueued;
        let content = &self.contents[content];
        let due = enqueued.plus(content.delay_ms);
        ensure(leased >= due, || format!("{id}: leased at {leased:?}, before its delay ended at {due:?}"))?;
        let end = content.ttl_ms.map_or(Millis::NEVER, |ttl| enqueued.plus(ttl));
        ensure(leased < end, || format!("{id}: leased at {leased:?}, after its TTL ended at {end:?}"))
    }

    /// The delivery that a receipt names; `None` if its message is unknown (never, for a receipt that was given).
    pub(super) fn seen_mut(&mut self, msg_id: &str, delivery: u32) -> Option<&mut Seen> {
        let message = self.messages.get_mut(msg_id)?;
        message.seen.iter_mut().find(|seen| seen.delivery == delivery)
    }

    /// Whether the receipt must be accepted at `now`: its delivery is the newest, nothing was done to it, and
    /// its deadline has not come.
    pub(super) fn holds(&self, now: Millis, msg_id: &str, delivery: u32) -> bool {
        let Some(message) = self.messages.get(msg_id).filter(|message| message.gone.is_none()) else {
            return false;
        };
        let newest = message.seen.last().filter(|seen| seen.delivery == delivery);
        newest.is_some_and(|seen| seen.floor > now && !seen.given_back && !seen.acked)
    }

    /// An ack was answered ok.
    pub(super) fn acked(&mut self, now: Millis, msg_id: &str) {
        if let Some(message) = self.messages.get_mut(msg_id) {
            message.gone.get_or_insert(now);
        }
    }

    // --- looks ---

    /// A peek begun at `begun` showed this message; `dead` is its dead letter's reason.
    pub(super) fn peeked(
        &mut self,
        begun: Millis,
        sight: &Sight,
        dead: Option<&str>,
    ) -> Result<(), Complaint> {
        let (max_attempts, max_deliveries) = (self.max_attempts, self.max_deliveries);
        let message = self.meet(sight)?;
        let id = &sight.msg_id;
        if let Some(gone) = message.gone {
            ensure(begun <= gone, || format!("{id}: seen by a peek after an ack was answered at {gone:?}"))?;
        }
        let newest = message.seen.last().map_or(0, |seen| seen.delivery);
        let first_seen = message.seen.first().map_or(u32::MAX, |seen| seen.delivery);
        ensure(sight.attempt <= sight.delivery, || format!("{id}: {sight:?}"))?;
        match dead {
            None => Ok(()),
            Some("max_attempts") => {
                ensure(sight.attempt == max_attempts, || format!("{id}: dead too early: {sight:?}"))
            }
            Some("max_deliveries") => {
                ensure(sight.delivery == max_deliveries, || format!("{id}: dead too early: {sight:?}"))
            }
            Some("rejected by a consumer") => {
                ensure(message.rejected, || format!("{id}: nobody rejected it"))
            }
            Some(other) => Err(format!("{id}: dead for {other}")),
        }?;
        // A dead letter stays dead, so nobody can hold a newer delivery of it.
        ensure(dead.is_none() || newest <= sight.delivery, || {
            format!(
                "{id}: dead after delivery {}, but {newest} was seen ({first_seen} first)",
                sight.delivery
            )
        })
    }

    /// How many messages of a queue must, and how many can exist for a stat begun at `begun`.
    pub(super) fn bounds(&self, queue: usize, begun: Millis) -> (u64, u64) {
        let (mut least, mut most) = (0, 0);
        for content in self.contents.iter().filter(|content| content.queue == queue) {
            most += content.open;
        }
        for message in self.messages.values() {
            let content = &self.contents[message.content as usize];
            if content.queue != queue {
                continue;
            }
            if message.gone.is_none_or(|gone| gone >= begun) {
                most += 1;
            }
            let touched = message.gone.is_some() || message.seen.iter().any(|seen| seen.acked);
            if !touched && content.ttl_ms.is_none() && message.enqueued < begun {
                least += 1;
            }
        }
        (least, most)
    }

    // --- the end ---

    /// Everything has been drained: what was stored is acked, expired or among the `dead` of its queue.
    pub(super) fn settle_accounts(&self, dead: &BTreeSet<String>) -> Result<(), Complaint> {
        for (id, message) in &self.messages {
            let content = &self.contents[message.content as usize];
            let may_be_acked = message.gone.is_some() || message.seen.iter().any(|seen| seen.acked);
            let may_be_gone = may_be_acked || content.ttl_ms.is_some();
            ensure(may_be_gone || dead.contains(id), || {
                format!("{id} (c{}) is lost: stored, not acked, not dead: {message:?}", message.content)
            })?;
            ensure(message.gone.is_none() || !dead.contains(id), || format!("{id}: acked, and in the DLQ"))?;
        }
        self.first_come_first_served()
    }

    /// FIFO: of messages without a delay, the first deliveries began in the order of storing.
    fn first_come_first_served(&self) -> Result<(), Complaint> {
        let mut latest: BTreeMap<usize, (Millis, &str)> = BTreeMap::new();
        let mut order: Vec<(&str, &Message)> = self.messages.iter().map(|(id, m)| (id.as_str(), m)).collect();
        order.sort_by_key(|(id, _)| &id[10..]); // behind the time: incarnation and slot
        for (id, message) in order {
            let content = &self.contents[message.content as usize];
            let Some(first) = message.seen.first().filter(|seen| seen.delivery == 1) else { continue };
            if content.delay_ms > 0 {
                continue;
            }
            let (at, other) = latest.entry(content.queue).or_insert((first.leased, id));
            ensure(first.leased >= *at, || format!("{id} was handed out before {other}, which is older"))?;
            (*at, *other) = (first.leased, id);
        }
        Ok(())
    }
}

/// Whether delivery `b` may follow `a` of the same message.
fn succeeds(id: &str, a: &Seen, b: &Seen) -> Result<(), Complaint> {
    ensure(a.delivery < b.delivery, || format!("{id}: delivery {} was handed out twice", a.delivery))?;
    ensure(b.leased >= a.leased, || format!("{id}: {b:?} began before {a:?}"))?;
    let earliest = if a.given_back { a.not_before } else { a.floor };
    ensure(b.leased >= earliest, || format!("{id}: redelivered early: {a:?}, then {b:?}"))?;
    ensure(b.attempt <= a.attempt + (b.delivery - a.delivery), || {
        format!("{id}: attempts jumped: {a:?}, then {b:?}")
    })?;
    ensure(b.attempt >= a.attempt + u32::from(!a.released), || {
        format!("{id}: attempts fell: {a:?}, then {b:?}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_in_an_id_is_read() {
        assert_eq!(enqueued_of("00000000010000000000000000"), Millis(1));
        assert_eq!(enqueued_of("01ARZ3NDEKTSV4RRFFQ69G5FAV"), Millis(1_469_922_850_259));
    }
}
