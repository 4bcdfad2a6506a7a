//! What a shard should do, said as plainly as possible: one list of messages, walked for everything. Written
//! from SPEC §4 and sharing nothing with the machine but its vocabulary.

mod rotted;

use crate::message::{Settled, StoredAt};
use crate::shard::{Counts, DeliveryRef, Leased, NackMode, Paused, Settings, Ticket, Want};
use crate::time::Millis;
use std::collections::{BTreeMap, BTreeSet};

pub(super) const NEVER: u64 = u64::MAX;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Ready,
    Leased,
    Delayed,
    Dead,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct M {
    pub(super) place: Place,
    /// Leased, as far as the disk knows, but its deadline has passed: it is ready.
    pub(super) timed_out: bool,
    pub(super) at: u64,
    pub(super) enqueued: u64,
    pub(super) since: u64,
    pub(super) expires: u64,
    pub(super) len: u64,
    pub(super) attempt: u32,
    pub(super) delivery: u32,
    pub(super) settled: Settled,
    pub(super) noted: bool,
    pub(super) group: u64,
    /// Whose delivery it is while it is in flight.
    pub(super) stream: Option<u64>,
    /// Reason, last error.
    pub(super) letter: Option<(String, Option<String>)>,
}

impl M {
    pub(super) fn is_ready(&self) -> bool {
        self.place == Place::Ready || self.timed_out
    }

    pub(super) fn in_flight(&self) -> bool {
        self.place == Place::Leased && !self.timed_out
    }

    /// When it ends if it stays as it is.
    fn ends(&self, settings: &Settings) -> u64 {
        match self.place {
            Place::Dead => self.at + settings.dlq_retention_ms,
            _ if self.is_ready() => self.expires.min(self.since + settings.retention_ms),
            _ => NEVER,
        }
    }
}

/// What a step should have done.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Expect {
    pub(super) results: Vec<bool>,
    pub(super) refused: bool,
    pub(super) purged: Option<u64>,
    pub(super) grants: Vec<(u64, Vec<Leased>)>,
    pub(super) empty: BTreeSet<u64>,
    pub(super) counts: Counts,
}

pub(super) struct NackArgs<'a> {
    pub(super) mode: NackMode,
    pub(super) delay: Option<u64>,
    pub(super) note: Option<&'a str>,
    /// The end of the delay that the machine drew for a message.
    pub(super) drawn: &'a BTreeMap<u64, u64>,
}

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
}

impl Model {
    pub(super) fn in_flight(&self) -> u64 {
        self.live.values().filter(|m| m.in_flight()).count() as u64
    }

    pub(super) fn enqueue(&mut self, count: u64) -> bool {
        if self.paused.enqueue {
            return false;
        }
        let live = self.live.values().filter(|m| m.place != Place::Dead).count() as u64;
        live + self.puts.iter().map(|put| put.1).sum::<u64>() + count <= self.settings.max_depth
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
            self.durable.insert(s.slot.0, fresh(s));
        }
    }

    pub(super) fn committed(&mut self, now: u64, ticket: Ticket, stored: &[StoredAt]) -> Expect {
        let mut out = Expect::default();
        self.writes.retain(|w| w.0 != ticket);
        self.puts.retain(|put| put.0 != ticket);
        for s in stored {
            self.live.insert(s.slot.0, fresh(s));
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
        let live = durable.clone();
        *self =
            Model { settings, paused, durable_config, live, durable, recovered_at: up, ..Model::default() };
        for (&slot, m) in self.live.iter_mut().filter(|(_, m)| m.place == Place::Leased) {
            if m.at > down {
                let at = (m.at + up - down).max(up + settings.visibility_ms.min(5_000));
                if at != m.at {
                    self.moved.push(slot);
                }
                m.at = at;
            } else {
                m.timed_out = m.attempt < settings.max_attempts && m.delivery < settings.max_deliveries;
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
        let ready: Vec<u64> = self.live.iter().filter(|(_, m)| m.is_ready()).map(|(&slot, _)| slot).collect();
        for slot in ready {
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
            let (m, slot) = (&self.live[&slot], crate::ids::Slot(slot));
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
        let holds = |m: &M| m.place != Place::Dead && m.group == self.live[&slot].group;
        !(self.settings.fifo && self.live.range(..slot).any(|(_, m)| holds(m)))
    }

    fn used_up(&self, slot: u64) -> Option<&'static str> {
        let m = &self.live[&slot];
        if m.attempt >= self.settings.max_attempts {
            return Some("max_attempts");
        }
        (m.delivery >= self.settings.max_deliveries).then_some("max_deliveries")
    }

    fn die(&mut self, now: u64, slot: u64, reason: &str, error: Option<String>, out: &mut Expect) {
        out.counts.dead += 1;
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

fn fresh(s: &StoredAt) -> M {
    M {
        place: if s.due.is_some() { Place::Delayed } else { Place::Ready },
        timed_out: false,
        at: s.due.map_or(0, |due| due.0),
        enqueued: s.enqueued.0,
        since: s.due.unwrap_or(s.enqueued).0,
        expires: s.expires.map_or(NEVER, |expires| expires.0),
        len: u64::from(s.len),
        attempt: 0,
        delivery: 0,
        settled: Settled::No,
        noted: false,
        group: s.group,
        stream: None,
        letter: None,
    }
}
