//! Drives a shard and the model with one random sequence and compares them after each command. Plays the
//! shell and the store: commits come late, crashes lose what was not committed.

mod compare;

use super::cover::{AIMED, Coverage, NAMED, State};
use super::disk::Disk;
use super::expect::{Expect, NackArgs};
use super::model::Model;
use super::msg::{M, Place};
use super::rng::Rng;
use super::seen::drawn;
use crate::ids::Slot;
use crate::message::{PutOutcome, Recovered, StateOp, StoredAt};
use crate::shard::{
    Command, DeliveryRef, NackMode, Paused, Recovery, Reply, Settings, Shard, Step, StreamId, Ticket,
    WaiterId, Want,
};
use crate::time::Millis;
use std::collections::{BTreeMap, VecDeque};

/// Commands of one sequence.
const COMMANDS: u32 = 140;

/// What the shell owes the store.
#[derive(Debug)]
enum Owed {
    Put(u32, Vec<StateOp>),
    Write(Vec<StateOp>, Option<(Settings, Paused)>),
}

struct Run<'a> {
    rng: Rng,
    now: u64,
    shard: Shard,
    model: Model,
    disk: Disk,
    owed: VecDeque<(Ticket, Owed)>,
    next_chunk: u64,
    next_waiter: u64,
    /// Every slot ever given, and the newest delivery it had.
    known: BTreeMap<Slot, u32>,
    coverage: &'a mut Coverage,
}

pub(super) fn run(seed: u64, coverage: &mut Coverage) {
    let mut rng = Rng(seed.wrapping_mul(0x2545_f491_4f6c_dd1d));
    let settings = Settings {
        visibility_ms: rng.pick(&[250, 1_000, 5_000, 60_000]),
        max_attempts: rng.pick(&[1, 2, 3, 5]),
        max_deliveries: rng.pick(&[1, 2, 3, 6, 50]),
        backoff_base_ms: 200,
        backoff_max_ms: rng.pick(&[0, 300, 60_000]),
        max_inflight: rng.pick(&[1, 3, 8, 100]),
        max_depth: rng.pick(&[3, 8, 100]),
        fifo: rng.chance(25),
        max_waiters: rng.pick(&[0, 1, 4]),
        retention_ms: rng.pick(&[1_000, 30_000, 600_000_000, 600_000_000, 600_000_000]),
        dlq_retention_ms: rng.pick(&[1_000, 30_000, 600_000_000, 600_000_000, 600_000_000]),
        ..Settings::default()
    };
    let mut model = Model::default();
    model.settings = settings;
    model.durable_config = (settings, Paused::default());
    let shard = Shard::new(settings);
    let (owed, known) = (VecDeque::new(), BTreeMap::new());
    let disk = Disk { config: (settings, Paused::default()), ..Disk::default() };
    let mut run =
        Run { rng, now: 1_000_000, shard, model, disk, owed, next_chunk: 1, next_waiter: 1, known, coverage };
    for _ in 0..COMMANDS {
        run.one();
    }
    while !run.owed.is_empty() {
        run.commit();
    }
}

impl Run<'_> {
    fn one(&mut self) {
        if self.rng.chance(40) {
            self.pass_time();
        }
        match self.rng.below(100) {
            0..9 => self.enqueue(),
            9..26 => self.recv(),
            26..30 => self.open_or_close(),
            30..66 => self.settle(),
            66..72 => self.command("tick", Command::Tick, |model, now, _| model.tick(now)),
            72..75 => self.cancel(),
            75..79 => self.end_or_revive(),
            79..96 => self.commit(),
            96 => self.configure(),
            97 if self.rng.chance(65) => {
                self.command("purge", Command::Purge, |model, now, _| model.purge(now));
            }
            97 => self.configure(),
            98 if self.rng.chance(70) => {
                self.command("delete", Command::Delete, |model, now, _| model.delete(now));
            }
            _ => self.crash(),
        }
    }

    /// Mostly to just before, at, or just after the next thing that time does.
    fn pass_time(&mut self) {
        let near = self.shard.wake_at().map_or(self.now, |at| at.0);
        let to = match self.rng.below(10) {
            0..6 => near.saturating_sub(1) + self.rng.below(3),
            6..8 => self.now + self.rng.below(40),
            8 => self.now + self.rng.below(2_000),
            _ => self.now + self.rng.below(70_000),
        };
        self.now = self.now.max(to);
    }

    fn enqueue(&mut self) {
        let count = 1 + self.rng.below(3) as u32;
        self.meet_all("enqueue");
        let step = self.shard.apply(Millis(self.now), Command::Enqueue { count });
        if self.model.enqueue(u64::from(count)) {
            let ticket = step.ticket.expect("a ticket for the room reserved");
            assert_eq!(step.reply, Reply::Reserved);
            self.model.puts.push((ticket, u64::from(count)));
            self.owed.push_back((ticket, Owed::Put(count, Vec::new())));
        } else {
            assert!(matches!(step.reply, Reply::Refused(_)) && step.ticket.is_none(), "{step:?}");
        }
        assert!(step.ops.is_empty() && step.grants.is_empty() && step.empty_handed.is_empty());
        self.compare();
    }

    fn recv(&mut self) {
        let want = Want {
            max_messages: self.rng.pick(&[1, 1, 2, 10]),
            max_bytes: self.rng.pick(&[1, 100, 150, 1 << 20]),
            visibility_ms: self.rng.pick(&[None, None, Some(250), Some(2_000)]),
        };
        let waiter = self.next_waiter;
        self.next_waiter += 1;
        let until = self.now + self.rng.pick(&[0, 0, 1, 300, 20_000]);
        let open: Vec<u64> = self.model.streams.keys().copied().collect();
        let stream = match open.is_empty() || self.rng.chance(30) {
            true => self.rng.chance(5).then_some(0),
            false => Some(self.rng.pick(&open)),
        };
        let name = if stream.is_some() { "stream" } else { "recv" };
        let (id, until_at) = (WaiterId(waiter), Millis(until));
        let command = Command::Recv { waiter: id, want, until: until_at, stream: stream.map(StreamId) };
        self.command(name, command, |model, now, _| model.recv(now, (waiter, want, until, stream)));
    }

    fn open_or_close(&mut self) {
        let open: Vec<u64> = self.model.streams.keys().copied().collect();
        let (name, command, fine) = if open.is_empty() || self.rng.chance(25) {
            let (stream, max_inflight) = (self.next_waiter, self.rng.pick(&[1, 2, 5]));
            self.next_waiter += 1;
            let fine = self.model.open_stream(stream, max_inflight);
            ("open", Command::OpenStream { stream: StreamId(stream), max_inflight }, fine)
        } else {
            let stream = self.rng.pick(&open);
            self.model.close_stream(stream);
            ("close", Command::CloseStream { stream: StreamId(stream) }, true)
        };
        self.meet_all(name);
        let step = self.shard.apply(Millis(self.now), command);
        assert_eq!(matches!(step.reply, Reply::Refused(_)), !fine, "{name}");
        assert!(step.ticket.is_none() && step.grants.is_empty() && step.empty_handed.is_empty());
        self.compare();
    }

    fn settle(&mut self) {
        // more of what keeps a message alive than of what ends it
        let more = ["fail", "fail", "release", "release", "release", "extend"];
        let kind = if self.rng.chance(65) { self.rng.pick(&AIMED) } else { self.rng.pick(&more) };
        let count = if ["corrupt", "rotted"].contains(&kind) || self.rng.chance(70) {
            1
        } else {
            1 + self.rng.below(3)
        };
        let mut deliveries: Vec<_> = (0..count).map(|_| self.aim(kind)).collect();
        if self.rng.chance(10) && !["corrupt", "rotted"].contains(&kind) {
            deliveries.push(deliveries[0]);
        }
        let note = self.rng.chance(50).then(|| format!("note {}", self.rng.below(10)));
        let delay = self.rng.pick(&[None, None, Some(0), Some(0), Some(500), Some(30_000)]);
        let nack = match kind {
            "fail" => Some(NackMode::Fail),
            "release" => Some(NackMode::Release),
            "reject" => Some(NackMode::Reject),
            _ => None,
        };
        let list = deliveries.clone();
        if let Some(mode) = nack {
            let entropy = self.rng.next();
            let delay_ms = delay.filter(|_| mode != NackMode::Reject);
            let command = Command::Nack { deliveries, mode, delay_ms, note: note.clone(), entropy };
            return self.command(kind, command, |model, now, step| {
                let drawn = &drawn(step);
                model.nack(now, &list, &NackArgs { mode, delay: delay_ms, note: note.as_deref(), drawn })
            });
        }
        match kind {
            "ack" => {
                self.command(kind, Command::Ack { deliveries }, |model, now, _| model.ack(now, &list));
            }
            "extend" => {
                let visibility_ms = self.rng.pick(&[250, 1_000, 90_000]);
                let command = Command::Extend { deliveries, visibility_ms };
                self.command(kind, command, |model, now, _| model.extend(now, &list, visibility_ms));
            }
            "rotted" => {
                let slots = vec![list[0].slot];
                self.command(kind, Command::Rotted { slots }, |model, now, _| {
                    model.rotted(now, list[0].slot)
                });
            }
            _ => {
                let command = Command::Corrupt { delivery: list[0] };
                self.command(kind, command, |model, now, _| model.corrupt(now, &list[0]));
            }
        }
    }

    /// A delivery of some message: often the newest, sometimes one before or none that ever was.
    fn aim(&mut self, kind: &'static str) -> DeliveryRef {
        let dead = self.rng.chance(15);
        let out = |m: &M| m.delivery > 0 && (m.place == Place::Dead) == dead;
        let mut slots: Vec<Slot> =
            self.model.live.iter().filter(|(_, m)| out(m)).map(|(&slot, _)| Slot(slot)).collect();
        if slots.is_empty() || self.rng.chance(25) {
            slots = self.known.keys().copied().collect();
        }
        let absent = Slot::new(self.next_chunk + 7, self.rng.below(4) as u16);
        let slot = if slots.is_empty() || self.rng.chance(3) { absent } else { self.rng.pick(&slots) };
        let newest = self.known.get(&slot).copied().unwrap_or(0);
        let delivery = match self.rng.below(10) {
            0 => newest + 1,
            1..5 if newest > 1 => 1 + self.rng.below(u64::from(newest) - 1) as u32,
            1 => 0,
            _ => newest.max(1),
        };
        let state = self.state(slot);
        self.coverage.meet(state, kind, newest > 0 && delivery == newest);
        DeliveryRef { slot, delivery }
    }

    /// Dead letters mostly, in any order, and sometimes what is none.
    fn end_or_revive(&mut self) {
        let all: Vec<Slot> = self.known.keys().copied().collect();
        let is_dead = |slot: &Slot| self.model.live.get(&slot.0).is_some_and(|m| m.place == Place::Dead);
        let dead: Vec<Slot> = all.iter().copied().filter(is_dead).collect();
        let mut slots = Vec::new();
        let live: Vec<Slot> = self.model.live.keys().map(|&slot| Slot(slot)).collect();
        let name = match self.rng.below(100) {
            0..45 => "reprocess",
            45..66 => "purge_dead",
            _ => "replace",
        };
        for _ in 0..=if name == "replace" { 0 } else { self.rng.below(3) } {
            let others = if self.rng.chance(88) { &live } else { &all };
            let dead_ones = !dead.is_empty() && self.rng.chance(if name == "reprocess" { 60 } else { 10 });
            let from = if dead_ones { &dead } else { others };
            let absent = Slot::new(self.next_chunk + 7, self.rng.below(4) as u16);
            slots.push(if from.is_empty() || self.rng.chance(5) { absent } else { self.rng.pick(from) });
        }
        if name == "replace" {
            return self.replace(slots[0]);
        }
        for &slot in &slots {
            let state = self.state(slot);
            self.coverage.meet(state, name, true);
        }
        let list = slots.clone();
        if name == "reprocess" {
            self.command(name, Command::Reprocess { slots }, |model, now, _| model.reprocess(now, &list));
        } else {
            self.command(name, Command::PurgeDead { slots }, |model, now, _| model.purge_dead(now, &list));
        }
    }

    fn replace(&mut self, slot: Slot) {
        let state = self.state(slot);
        self.coverage.meet(state, "replace", true);
        let step = self.shard.apply(Millis(self.now), Command::Replace { slot });
        if self.model.replace(slot) {
            let ticket = step.ticket.expect("a ticket for the room and the end");
            assert_eq!((&step.reply, step.counts.purged), (&Reply::Reserved, 1));
            self.judge_events("replace", &step);
            self.model.puts.push((ticket, 1));
            assert!(self.model.close(self.now, step.ticket));
            self.owed.push_back((ticket, Owed::Put(1, step.ops)));
        } else {
            assert!(matches!(step.reply, Reply::Refused(_)) && step.ticket.is_none(), "{step:?}");
            assert!(step.ops.is_empty());
        }
        self.compare();
    }

    fn cancel(&mut self) {
        let waiting: Vec<u64> = self.model.waiting.iter().map(|w| w.0).collect();
        let waiter = if waiting.is_empty() { self.next_waiter - 1 } else { self.rng.pick(&waiting) };
        self.meet_all("cancel");
        let step = self.shard.apply(Millis(self.now), Command::CancelRecv { waiter: WaiterId(waiter) });
        self.model.waiting.retain(|w| w.0 != waiter);
        assert_eq!((step.reply, step.ticket), (Reply::None, None));
        assert!(step.ops.is_empty() && step.grants.is_empty() && step.empty_handed.is_empty());
        self.compare();
    }

    fn configure(&mut self) {
        let settings = Settings {
            max_attempts: self.rng.pick(&[1, 2, 3, 5]),
            max_inflight: self.rng.pick(&[1, 3, 8, 100]),
            fifo: self.rng.chance(25),
            retention_ms: self.rng.pick(&[2_000, 30_000, 600_000_000, 600_000_000, 600_000_000]),
            dlq_retention_ms: self.rng.pick(&[2_000, 30_000, 600_000_000, 600_000_000, 600_000_000]),
            ..self.model.settings
        };
        let paused = Paused { recv: self.rng.chance(10), enqueue: self.rng.chance(10) };
        let command = Command::Configure { settings, paused };
        self.command("configure", command, |model, now, _| model.configure(now, settings, paused));
    }

    /// Applies a command to both and compares what they did.
    fn command(
        &mut self,
        name: &'static str,
        command: Command,
        model: impl FnOnce(&mut Model, u64, &Step) -> Expect,
    ) {
        if !AIMED.contains(&name) && !NAMED.contains(&name) {
            self.meet_all(name);
        }
        let text = format!("{command:?}");
        let step = self.shard.apply(Millis(self.now), command);
        let expect = model(&mut self.model, self.now, &step);
        self.judge(&text, step, &expect);
    }

    fn judge(&mut self, text: &str, step: Step, expect: &Expect) {
        let mut done = Expect::default();
        match &step.reply {
            Reply::Settled(results) => done.results = results.iter().map(Result::is_ok).collect(),
            Reply::Refused(_) => done.refused = true,
            Reply::Purged(n) => done.purged = Some(*n),
            Reply::Reprocessed { moved, left } => done.reprocessed = Some((*moved, *left)),
            Reply::None | Reply::Reserved => {}
        }
        let done = Expect {
            grants: step.grants.iter().map(|grant| (grant.waiter.0, grant.messages.clone())).collect(),
            empty: step.empty_handed.iter().map(|waiter| waiter.0).collect(),
            counts: step.counts,
            ..done
        };
        assert_eq!(&done, expect, "at {} {text}", self.now);
        self.judge_events(text, &step);
        assert_eq!(step.empty_handed.len(), done.empty.len(), "answered twice");
        for leased in step.grants.iter().flat_map(|grant| &grant.messages) {
            let newest = self.known.get_mut(&leased.slot).expect("a message that was put");
            assert!(leased.delivery > *newest || !self.disk_has(leased.slot, leased.delivery));
            self.known.insert(leased.slot, leased.delivery);
        }
        let wanted = self.model.close(self.now, step.ticket);
        assert_eq!(wanted, step.ticket.is_some(), "{text} {:?}", step.ops);
        assert_eq!(wanted, step.configured || !step.ops.is_empty(), "{text}");
        if let Some(ticket) = step.ticket {
            let config = step.configured.then(|| (*self.shard.settings(), self.shard.paused()));
            self.owed.push_back((ticket, Owed::Write(step.ops, config)));
        }
        self.compare();
    }

    fn disk_has(&self, slot: Slot, delivery: u32) -> bool {
        let state = self.disk.rows.get(&slot).and_then(|row| row.state);
        state.is_some_and(|state| state.delivery >= delivery)
    }

    /// The oldest commit that is owed happens, and the shard is told.
    fn commit(&mut self) {
        let Some((ticket, stored, outcomes)) = self.write_oldest() else { return };
        self.meet_all("committed");
        let step = self.shard.committed(Millis(self.now), ticket, &outcomes);
        let expect = self.model.committed(self.now, ticket, &stored);
        self.judge("committed", step, &expect);
    }

    fn write_oldest(&mut self) -> Option<(Ticket, Vec<StoredAt>, Vec<PutOutcome>)> {
        let (ticket, owed) = self.owed.pop_front()?;
        let mut outcomes = Vec::new();
        match owed {
            Owed::Write(ops, config) => {
                ops.iter().for_each(|op| self.disk.write(op));
                self.disk.config = config.unwrap_or(self.disk.config);
            }
            Owed::Put(count, ops) => {
                ops.iter().for_each(|op| self.disk.write(op));
                let mut idx = self.rng.below(3) as u16;
                for _ in 0..count {
                    outcomes.push(self.put(Slot::new(self.next_chunk, idx)));
                    idx += 1 + self.rng.below(2) as u16;
                }
                self.next_chunk += 1;
            }
        }
        let stored: Vec<_> = outcomes
            .iter()
            .filter_map(|outcome| match outcome {
                PutOutcome::Stored(at) => Some(*at),
                _ => None,
            })
            .collect();
        for at in &stored {
            self.disk.rows.insert(at.slot, Recovered { stored: *at, state: None });
            self.known.insert(at.slot, 0);
        }
        self.model.durable(ticket, &stored);
        self.compare_disk();
        Some((ticket, stored, outcomes))
    }

    fn put(&mut self, slot: Slot) -> PutOutcome {
        let enqueued = Millis(self.now);
        match self.rng.below(30) {
            0 => PutOutcome::Duplicate { slot: Slot::new(0, 1), enqueued, other_body: false },
            1 => PutOutcome::Conflict,
            2 => PutOutcome::DedupFull,
            _ => {
                let len = self.rng.pick(&[0, 1, 50, 100, 1000]);
                let delay = self.rng.pick(&[None, None, Some(1), Some(700), Some(10_000)]);
                let ttl = self.rng.pick(&[None, None, Some(100), Some(2_000), Some(40_000)]);
                let (due, expires) = (delay.map(|ms| enqueued.plus(ms)), ttl.map(|ms| enqueued.plus(ms)));
                let group = self.rng.pick(&[0, 5, 9]);
                PutOutcome::Stored(StoredAt { slot, enqueued, len, due, expires, group })
            }
        }
    }

    /// Some more commits happen of which nobody hears; the rest is lost.
    fn crash(&mut self) {
        self.meet_all("crash");
        if self.rng.chance(50) {
            self.write_oldest();
        }
        self.owed.clear();
        let down = self.now;
        self.now += self.rng.pick(&[0, 1, 800, 30_000]);
        let mut recovery = {
            let (settings, paused) = self.disk.config;
            Recovery::new(settings, paused, Millis(self.now), self.now - down)
        };
        self.disk.rows.values().for_each(|row| recovery.push(*row));
        self.shard = recovery.finish();
        self.model.crash(down, self.now);
        for (slot, newest) in &mut self.known {
            if let Some(m) = self.model.live.get(&slot.0) {
                *newest = m.delivery;
            }
        }
        self.compare();
    }

    fn state(&self, slot: Slot) -> State {
        match self.model.live.get(&slot.0) {
            Some(m) => {
                let same = |durable: &M| durable.delivery == m.delivery;
                let uncommitted = !self.model.durable.get(&slot.0).is_some_and(same);
                State::of(m, self.now, uncommitted, self.model.may_go(slot.0))
            }
            None if self.known.contains_key(&slot) => State::Gone,
            None => State::Absent,
        }
    }

    fn meet_all(&mut self, name: &'static str) {
        let slots: Vec<Slot> = self.known.keys().copied().collect();
        for slot in slots {
            let state = self.state(slot);
            self.coverage.meet(state, name, true);
        }
    }
}
