//! What a shard should do, said as plainly as possible: one list of messages, walked for everything. Written
//! from SPEC §4 and sharing nothing with the machine but its vocabulary.

mod rotted;

use super::expect::{Expect, NackArgs};
use super::msg::{M, NEVER, Place, fresh};
use crate::ids::Slot;
use crate::message::{Settled, StoredAt};
use crate::shard::{DeliveryRef, Leased, NackMode, Paused, Settings, Ticket, Want};
use crate::time::Millis;
use std::collections::{BTreeMap, BTreeSet};

/// A receive: its name, what it wants, until when, and for which stream.
pub(super) type Waits = (u64, Want, u64, Option<u64>);
type Effects = Vec<(u64, Option<M>)>;
/// Its ticket, since when it is owed, what it changes, and the settings it writes.
type Write = (Ticket, u64, Effects, Option<(Settings, Paused)>);

#[derive(Debug, Default)]
pub(super) struct Model {
    pub(super) settings: Settings,
    pub(super) paused: Paused,
    pub(super) durable_config: (Settings, Paused),
    pub(super) live: BTreeMap<u64, M>,
    pub(super) durable: BTreeMap<u64, M>,
    pub(super) waiting: Vec<Waits>,
    /// Most deliveries of each open stream.
    pub(super) streams: BTreeMap<u64, u32>,
    pub(super) writes: Vec<Write>,
    pub(super) puts: Vec<(Ticket, u64)>,
    dirty: BTreeSet<u64>,
    configured: bool,
    moved: Vec<u64>,
    recovered_at: u64,
    ranks: u64,
}

impl Model {
    pub(super) fn in_flight(&self) -> u64 {
        self.live.values().filter(|m| m.in_flight()).count() as u64
    }

    pub(super) fn enqueue(&mut self, count: u64) -> bool {
        !self.paused.enqueue && self.depth() + count <= self.settings.max_depth
    }

    fn depth(&self) -> u64 {
        let live = self.live.values().filter(|m| m.place != Place::Dead).count() as u64;
        live + self.puts.iter().map(|put| put.1).sum::<u64>()
    }

    pub(super) fn reprocess(&mut self, now: u64, slots: &[Slot]) -> Expect {
        let mut out = Expect::default();
        let mut left = slots.len();
        for slot in slots {
            let dead = self.is_dead(slot);
            if dead && self.depth() >= self.settings.max_depth {
                break;
            }
            left -= 1;
            if dead {
                self.ranks += 1;
                let rank = self.ranks;
                self.change(slot.0, |m| {
                    if m.expires != NEVER {
                        m.expires = m.expires - m.lives_since() + now;
                    }
                    (m.place, m.at, m.since, m.attempt) = (Place::Ready, 0, now, 0);
                    (m.settled, m.noted, m.letter) = (Settled::Revived, false, None);
                    (m.rank, m.revived) = (rank, Some((now, m.delivery)));
                });
                out.counts.revived += 1;
            }
        }
        out.reprocessed = Some((out.counts.revived, left));
        self.pass_time(now, &mut out);
        out
    }

    pub(super) fn purge_dead(&mut self, now: u64, slots: &[Slot]) -> Expect {
        let mut out = Expect::default();
        for slot in slots {
            if self.is_dead(slot) {
                self.end(slot.0);
                out.counts.purged += 1;
            }
        }
        out.purged = Some(out.counts.purged);
        self.pass_time(now, &mut out);
        out
    }

    pub(super) fn replace(&mut self, slot: Slot) -> bool {
        let fits = self.is_dead(&slot) && self.enqueue(1);
        if fits {
            self.end(slot.0);
        }
        fits
    }

    fn is_dead(&self, slot: &Slot) -> bool {
        self.live.get(&slot.0).is_some_and(|m| m.place == Place::Dead)
    }

    pub(super) fn recv(&mut self, now: u64, (waiter, want, until, stream): Waits) -> Expect {
        let mut out = Expect::default();
        self.pass_time(now, &mut out);
        let full = self.in_flight() >= u64::from(self.settings.max_inflight);
        if stream.map_or(full, |stream| !self.streams.contains_key(&stream)) {
            out.refused = true;
            return out;
        }
        let messages = self.take(now, want, stream, &mut out);
        if !messages.is_empty() {
            out.grants.push((waiter, messages));
        } else if until <= now {
            out.empty.insert(waiter);
        } else if stream.is_none() && self.waiting.len() as u64 >= u64::from(self.settings.max_waiters) {
            out.refused = true;
        } else {
            self.waiting.push((waiter, want, until, stream));
        }
        out
    }

    pub(super) fn open_stream(&mut self, stream: u64, most: u32) -> bool {
        let room = (self.streams.len() as u64) < u64::from(self.settings.max_waiters);
        self.streams.extend(room.then_some((stream, most)));
        room
    }

    pub(super) fn close_stream(&mut self, stream: u64) {
        self.streams.remove(&stream);
        self.waiting.retain(|w| w.3 != Some(stream));
    }

    /// How many deliveries this stream may still have.
    fn credit(&self, stream: Option<u64>) -> u64 {
        let Some(stream) = stream else { return NEVER };
        let holds = self.live.values().filter(|m| m.in_flight() && m.stream == Some(stream)).count() as u64;
        u64::from(self.streams[&stream]) - holds
    }

    pub(super) fn ack(&mut self, now: u64, deliveries: &[DeliveryRef]) -> Expect {
        let mut out = Expect::default();
        for d in deliveries {
            let exists = self.live.contains_key(&d.slot.0);
            let held = self.held(d);
            if held {
                self.end(d.slot.0);
                out.counts.acked += 1;
            }
            out.results.push(held || !exists);
        }
        self.pass_time(now, &mut out);
        out
    }

    pub(super) fn extend(&mut self, now: u64, deliveries: &[DeliveryRef], visibility: u64) -> Expect {
        let mut out = Expect::default();
        for d in deliveries {
            let held = self.held(d);
            if held {
                self.change(d.slot.0, |m| {
                    m.timed_out = false;
                    m.at = now + visibility;
                });
            }
            out.results.push(held);
        }
        self.pass_time(now, &mut out);
        out
    }

    pub(super) fn nack(&mut self, now: u64, deliveries: &[DeliveryRef], args: &NackArgs<'_>) -> Expect {
        let mut out = Expect::default();
        let how = match args.mode {
            NackMode::Fail => Settled::Failed,
            NackMode::Release => Settled::Released,
            NackMode::Reject => Settled::Rejected,
        };
        for d in deliveries {
            let again = d.delivery > 0
                && self.live.get(&d.slot.0).is_some_and(|m| m.delivery == d.delivery && m.settled == how);
            let held = self.held(d);
            if held {
                self.give_back(now, d.slot.0, how, args, &mut out);
            }
            out.results.push(held || again);
        }
        self.pass_time(now, &mut out);
        out
    }

    fn give_back(&mut self, now: u64, slot: u64, how: Settled, args: &NackArgs<'_>, out: &mut Expect) {
        let note = args.note.map(str::to_owned);
        let (base, most) = (self.settings.backoff_base_ms, self.settings.backoff_max_ms);
        let mut cap = 0;
        self.change(slot, |m| {
            cap = (base * (1 << m.attempt)).min(most);
            m.settled = how;
            m.attempt -= u32::from(how == Settled::Released);
        });
        if how == Settled::Rejected {
            return self.die(now, slot, note.as_deref().unwrap_or("rejected"), None, out);
        }
        if let Some(reason) = self.used_up(slot) {
            return self.die(now, slot, reason, note, out);
        }
        let due = match (args.delay, how) {
            (Some(ms), _) => now + ms,
            (None, Settled::Failed) => *args.drawn.get(&slot).unwrap_or(&now),
            (None, _) => now,
        };
        assert!(args.delay.is_some() || due - now <= cap, "backoff of {} ms, at most {cap}", due - now);
        let ends = self.live[&slot].expires.min(self.live[&slot].since + self.settings.retention_ms);
        if due == now && ends <= now {
            self.end(slot);
            out.counts.expired += 1;
            return;
        }
        self.change(slot, |m| {
            m.noted |= note.is_some();
            m.timed_out = false;
            m.place = if due == now { Place::Ready } else { Place::Delayed };
            m.at = if due == now { 0 } else { due };
        });
        let counter = if how == Settled::Released {
            &mut out.counts.requeued_release
        } else {
            &mut out.counts.requeued_retry
        };
        *counter += 1;
    }

    pub(super) fn corrupt(&mut self, now: u64, d: &DeliveryRef) -> Expect {
        let mut out = Expect::default();
        if self.held(d) {
            self.die(now, d.slot.0, "integrity", None, &mut out);
        }
        self.pass_time(now, &mut out);
        out
    }

    pub(super) fn configure(&mut self, now: u64, settings: Settings, paused: Paused) -> Expect {
        let mut out = Expect::default();
        (self.settings, self.paused, self.configured) = (settings, paused, true);
        self.pass_time(now, &mut out);
        out
    }

    pub(super) fn purge(&mut self, now: u64) -> Expect {
        let mut out = Expect::default();
        for slot in self.live.keys().copied().collect::<Vec<_>>() {
            if self.live[&slot].place != Place::Dead {
                self.end(slot);
                out.counts.purged += 1;
            }
        }
        self.moved.clear();
        out.purged = Some(out.counts.purged);
        self.pass_time(now, &mut out);
        out
    }

    pub(super) fn delete(&mut self, now: u64) -> Expect {
        let mut out = Expect::default();
        for slot in self.live.keys().copied().collect::<Vec<_>>() {
            self.end(slot);
            out.counts.purged += 1;
        }
        self.moved.clear();
        out.purged = Some(out.counts.purged);
        out.empty = self.waiting.drain(..).map(|w| w.0).collect();
        self.streams.clear();
        self.pass_time(now, &mut out);
        out
    }

    pub(super) fn tick(&mut self, now: u64) -> Expect {
        let mut out = Expect::default();
        self.pass_time(now, &mut out);
        out
    }

    /// The disk has it; the shard is told by [`Model::committed`].
    pub(super) fn durable(&mut self, ticket: Ticket, stored: &[StoredAt]) {
        if let Some(config) = self.writes.iter().find(|w| w.0 == ticket).and_then(|w| w.3) {
            self.durable_config = config;
        }
        for (slot, m) in self.writes.iter().filter(|w| w.0 == ticket).flat_map(|w| w.2.clone()) {
            match m {
                Some(m) => self.durable.insert(slot, m),
                None => self.durable.remove(&slot),
            };
        }
        for s in stored {
            self.ranks += 1;
            self.durable.insert(s.slot.0, M { rank: self.ranks, ..fresh(s) });
        }
    }

    pub(super) fn committed(&mut self, now: u64, ticket: Ticket, stored: &[StoredAt]) -> Expect {
        let mut out = Expect::default();
        self.writes.retain(|w| w.0 != ticket);
        self.puts.retain(|put| put.0 != ticket);
        for s in stored {
            self.live.insert(s.slot.0, self.durable[&s.slot.0].clone());
        }
        self.pass_time(now, &mut out);
        out
    }

    /// Closes a step that got this ticket. Whether it should have got one.
    pub(super) fn close(&mut self, now: u64, ticket: Option<Ticket>) -> bool {
        let slots = std::mem::take(&mut self.dirty);
        let config = std::mem::take(&mut self.configured).then_some((self.settings, self.paused));
        let wanted = !slots.is_empty() || config.is_some();
        if let Some(ticket) = ticket.filter(|_| wanted) {
            let effects = slots.into_iter().map(|slot| (slot, self.live.get(&slot).cloned())).collect();
            self.writes.push((ticket, now, effects, config));
        }
        wanted
    }

    /// Everything not durable is lost at `down`; the shard is back at `up`.
    pub(super) fn crash(&mut self, down: u64, up: u64) {
        let (settings, paused) = self.durable_config;
        let (durable, durable_config) = (std::mem::take(&mut self.durable), self.durable_config);
        let (live, ranks, recovered_at) = (durable.clone(), self.ranks, up);
        let lost = Model::default();
        *self = Model { settings, paused, durable_config, live, durable, recovered_at, ranks, ..lost };
        for (&slot, m) in self.live.iter_mut().filter(|(_, m)| m.place == Place::Leased) {
            if m.at > down {
                let at = (m.at + up - down).max(up + settings.visibility_ms.min(5_000));
                if at != m.at {
                    self.moved.push(slot);
                }
                m.at = at;
            } else {
                let deliveries = m.delivery - m.revived.map_or(0, |(_, before)| before);
                m.timed_out = m.attempt < settings.max_attempts && deliveries < settings.max_deliveries;
            }
        }
        self.live.values_mut().for_each(|m| m.stream = None);
        for m in self.live.values_mut().filter(|m| m.place == Place::Delayed && m.at <= up) {
            (m.place, m.at) = (Place::Ready, 0);
        }
    }

    pub(super) fn wake_at(&self) -> Option<u64> {
        let hold = self.hold();
        let of_message = |m: &M| match m.place {
            _ if m.is_ready() => Some(m.ends(&self.settings)),
            Place::Leased => (m.at < hold).then_some(m.at),
            Place::Delayed => Some(m.at),
            Place::Ready | Place::Dead => Some(m.ends(&self.settings)),
        };
        let moved = (!self.moved.is_empty()).then_some(self.recovered_at);
        let times = self.live.values().filter_map(of_message).chain(self.waiting.iter().map(|w| w.2));
        times.chain(moved).min()
    }

    fn hold(&self) -> u64 {
        self.writes.first().map_or(NEVER, |w| w.1 + 1_000)
    }

    fn pass_time(&mut self, now: u64, out: &mut Expect) {
        for slot in std::mem::take(&mut self.moved) {
            if self.live.get(&slot).is_some_and(M::in_flight) {
                self.dirty.insert(slot);
            }
        }
        let hold = self.hold();
        for slot in self.live.keys().copied().collect::<Vec<_>>() {
            let m = self.live[&slot].clone();
            if m.in_flight() && m.at <= now && m.at < hold {
                out.counts.timeouts += 1;
                if let Some(reason) = self.used_up(slot) {
                    self.die(now, slot, reason, None, out);
                    continue;
                }
                let m = self.live.get_mut(&slot).unwrap();
                (m.timed_out, m.stream) = (true, None);
                out.counts.requeued_visibility += u64::from(m.ends(&self.settings) > now);
            } else if m.place == Place::Delayed && m.at <= now {
                let m = self.live.get_mut(&slot).unwrap();
                (m.place, m.at) = (Place::Ready, 0);
            }
            if self.live[&slot].ends(&self.settings) <= now {
                self.end(slot);
                out.counts.expired += 1;
            }
        }
        while let Some(i) = self.waiting.iter().position(|w| self.credit(w.3) > 0) {
            let (waiter, want, _, stream) = self.waiting[i];
            let messages = self.take(now, want, stream, out);
            if messages.is_empty() {
                break;
            }
            self.waiting.remove(i);
            out.grants.push((waiter, messages));
        }
        out.empty.extend(self.waiting.iter().filter(|w| w.2 <= now).map(|w| w.0));
        self.waiting.retain(|w| w.2 > now);
    }

    fn take(&mut self, now: u64, want: Want, stream: Option<u64>, out: &mut Expect) -> Vec<Leased> {
        let mut taken = Vec::new();
        if self.paused.recv || self.credit(stream) == 0 {
            return taken;
        }
        let mut bytes = 0;
        let deadline = now + want.visibility_ms.unwrap_or(self.settings.visibility_ms);
        let ready = self.live.iter().filter(|(_, m)| m.is_ready());
        let mut ready: Vec<(u64, u64)> = ready.map(|(&slot, m)| (m.rank, slot)).collect();
        ready.sort_unstable();
        for (_, slot) in ready {
            if !self.may_go(slot) {
                continue;
            }
            let full = taken.len() as u32 == want.max_messages.max(1)
                || self.credit(stream) == 0
                || self.in_flight() >= u64::from(self.settings.max_inflight);
            bytes += self.live[&slot].len;
            if full || (bytes > want.max_bytes && !taken.is_empty()) {
                break;
            }
            if let Some(reason) = self.used_up(slot) {
                bytes -= self.live[&slot].len;
                self.die(now, slot, reason, None, out);
                continue;
            }
            self.change(slot, |m| {
                (m.timed_out, m.stream) = (false, stream);
                (m.place, m.at, m.settled) = (Place::Leased, deadline, Settled::No);
                m.attempt += 1;
                m.delivery += 1;
            });
            let (m, slot) = (&self.live[&slot], Slot(slot));
            let deadline = Millis(deadline);
            taken.push(Leased { slot, attempt: m.attempt, delivery: m.delivery, deadline });
            out.counts.delivered += 1;
        }
        taken
    }

    /// Whether this is the newest delivery of a message, not settled, and the message not dead.
    fn held(&self, d: &DeliveryRef) -> bool {
        d.delivery > 0
            && self.live.get(&d.slot.0).is_some_and(|m| {
                m.place == Place::Leased && m.delivery == d.delivery && m.settled == Settled::No
            })
    }

    /// Whether strict order lets it be handed out: nothing of its group that is not dead stands before it.
    pub(super) fn may_go(&self, slot: u64) -> bool {
        let its = &self.live[&slot];
        let holds = |m: &M| m.place != Place::Dead && m.group == its.group && m.rank < its.rank;
        !(self.settings.fifo && self.live.values().any(holds))
    }

    fn used_up(&self, slot: u64) -> Option<&'static str> {
        let m = &self.live[&slot];
        if m.attempt >= self.settings.max_attempts {
            return Some("max_attempts");
        }
        let deliveries = m.delivery - m.revived.map_or(0, |(_, before)| before);
        (deliveries >= self.settings.max_deliveries).then_some("max_deliveries")
    }

    fn die(&mut self, now: u64, slot: u64, reason: &str, error: Option<String>, out: &mut Expect) {
        out.counts.dead += 1;
        out.counts.dead_again += u64::from(self.live[&slot].revived.is_some());
        self.change(slot, |m| {
            (m.place, m.at, m.timed_out) = (Place::Dead, now, false);
            m.letter = Some((reason.to_owned(), error));
        });
    }

    fn end(&mut self, slot: u64) {
        self.live.remove(&slot);
        self.dirty.insert(slot);
    }

    fn change(&mut self, slot: u64, how: impl FnOnce(&mut M)) {
        how(self.live.get_mut(&slot).unwrap());
        self.dirty.insert(slot);
    }
}
