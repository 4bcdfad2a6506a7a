//! The queue state machine of one (tenant, topic): ready, delayed, in flight, dead (SPEC §4).
//!
//! `Shard` is a cache of the store: it is rebuilt by [`Recovery`] from
//! [`Recovered`](crate::message::Recovered) messages and changes only through [`Shard::apply`] and
//! [`Shard::committed`]. What must become durable comes out as ops; the caller commits them and
//! answers only then. It never reads a clock and never draws a random number.
//!
//! Ready messages are served in slot order, so a message that comes back (timeout, nack, end of a delay)
//! stands at its old place, before and after a restart. One that was reprocessed has a new place, behind all
//! that was there then. Plain ones (no TTL, never handed out) are runs of a few bytes each; all others have an
//! entry in the one map that says where they are.
//!
//! Time only moves in [`Shard::apply`]. A settling command is judged first and time is advanced after it, so
//! a consumer that is a moment late is not robbed by the timer; a receive advances time before it is served.
//! The invariants are listed in `invariants.rs`.

mod event;
mod fresh;
mod groups;
mod invariants;
mod kept;
mod look;
mod park;
mod recover;
mod recv;
mod revive;
mod settings;
mod settle;
mod stream;
mod tick;
mod types;

#[cfg(test)]
mod tests;

pub use event::{Event, What};
pub use invariants::Violation;
pub use park::park_after;
pub use recover::Recovery;
pub use revive::no_such_letter;
pub use settings::{Paused, Settings, SettingsPatch, TopicChange, TopicState};
pub use types::{
    Buried, Command, Counts, DeliveryRef, Grant, Leased, NackMode, PeekState, Peeked, PutOutcomes, Reply,
    Stats, Step, StreamId, Ticket, WaiterId, Want,
};

use crate::ids::Slot;
use crate::message::{PutOutcome, StateOp, StoredAt};
use crate::reason::{Reason, Refusal};
use crate::time::Millis;
use kept::{Corpse, Msg, Place};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// What the shard has seen in its life; recovered messages count as accepted. For invariant Q1.
#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    accepted: u64,
    acked: u64,
    expired: u64,
    purged: u64,
}

/// How long a commit of deliveries or settlings may be owed before lease clocks stand still, ms: what a
/// stalled disk keeps from its consumers must not use up their attempts.
const STALL_MS: u64 = 1_000;

/// The state machine.
#[derive(Debug)]
pub struct Shard {
    settings: Settings,
    /// Beside the topic's own `max_inflight`: what limits beyond the topic leave it.
    inflight_allowed: usize,
    paused: Paused,
    /// See [`Shard::hold_ends`].
    ends_held: bool,
    /// Ready, never handed out, without TTL.
    fresh: fresh::Fresh,
    /// Of `fresh`: the groups of those that name one.
    fresh_groups: BTreeMap<Slot, u64>,
    /// Empty unless the topic keeps strict order.
    groups: groups::Groups,
    /// Ready, at their own place, all others.
    returned: BTreeMap<Slot, Msg>,
    /// Ready, reprocessed.
    revived: BTreeMap<Slot, Msg>,
    /// Of `revived`: who stands where.
    places: BTreeMap<Place, Slot>,
    /// The last place that was ever taken.
    tail: Place,
    /// Who stands behind it counts in [`Counts::dead_again`] when it dies.
    watched_from: Place,
    leased: BTreeMap<Slot, Msg>,
    delayed: BTreeMap<Slot, Msg>,
    dead: BTreeMap<Slot, Corpse>,
    /// Of `leased`.
    deadlines: BTreeSet<(Millis, Slot)>,
    /// Of `delayed`.
    dues: BTreeSet<(Millis, Slot)>,
    /// Of `returned` and `revived`: when each ends by its TTL or by retention.
    expiring: BTreeSet<(Millis, Slot)>,
    /// Of `dead`.
    buried: BTreeSet<(Millis, Slot)>,
    waiters: recv::Waiters,
    streams: stream::Streams,
    /// Enqueues whose outcome is owed, with what they reserved.
    puts: VecDeque<(Ticket, u32)>,
    /// Ops whose commit is owed, with when they were given.
    writes: VecDeque<(Ticket, Millis)>,
    /// Sum over `puts`.
    reserved: u64,
    next_ticket: u64,
    /// Leases that recovery moved and that are not yet written so, and since when.
    moved: Vec<Slot>,
    recovered_at: Millis,
    tally: Tally,
}

impl Shard {
    /// An empty shard.
    #[must_use]
    pub fn new(settings: Settings) -> Shard {
        Shard {
            settings,
            inflight_allowed: usize::MAX,
            paused: Paused::default(),
            ends_held: false,
            fresh: fresh::Fresh::default(),
            fresh_groups: BTreeMap::new(),
            groups: groups::Groups::default(),
            returned: BTreeMap::new(),
            revived: BTreeMap::new(),
            places: BTreeMap::new(),
            tail: (Slot(0), 0),
            watched_from: (Slot(0), 0),
            leased: BTreeMap::new(),
            delayed: BTreeMap::new(),
            dead: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            dues: BTreeSet::new(),
            expiring: BTreeSet::new(),
            buried: BTreeSet::new(),
            waiters: recv::Waiters::default(),
            streams: stream::Streams::default(),
            puts: VecDeque::new(),
            writes: VecDeque::new(),
            reserved: 0,
            next_ticket: 0,
            moved: Vec::new(),
            recovered_at: Millis(0),
            tally: Tally::default(),
        }
    }

    /// Applies one command at `now`, which never falls from call to call.
    pub fn apply(&mut self, now: Millis, command: Command) -> Step {
        let mut step = Step::empty();
        match command {
            Command::Enqueue { count } => self.reserve(count, &mut step),
            Command::Replace { slot } => self.replace(now, slot, &mut step),
            Command::CancelRecv { waiter } => self.waiters.remove(waiter),
            Command::OpenStream { stream, max_inflight } => self.open_stream(stream, max_inflight, &mut step),
            Command::CloseStream { stream } => self.close_stream(stream),
            timed => {
                self.apply_in_time(now, timed, &mut step);
                self.owe(now, &mut step);
            }
        }
        step
    }

    /// Applies a command that brings the shard to `now`.
    fn apply_in_time(&mut self, now: Millis, command: Command, step: &mut Step) {
        match command {
            Command::Recv { waiter, want, until, stream } => {
                self.advance(now, step);
                self.recv(now, recv::Waiter { id: waiter, want, until, stream }, step);
                return;
            }
            Command::Ack { deliveries } => {
                let results = deliveries.iter().map(|&d| self.ack(d, step)).collect();
                step.reply = Reply::Settled(results);
            }
            Command::Nack { deliveries, mode, delay_ms, note, entropy } => {
                let nack = settle::Nack { mode, delay_ms, note, entropy };
                let results = deliveries.iter().map(|&d| self.nack(now, d, &nack, step)).collect();
                step.reply = Reply::Settled(results);
            }
            Command::Extend { deliveries, visibility_ms } => {
                let ignored = crate::planted!(ExtendUsesTopicVisibility);
                let deadline = now.plus(if ignored { self.settings.visibility_ms } else { visibility_ms });
                let results = deliveries.iter().map(|&d| self.extend(d, deadline, step)).collect();
                step.reply = Reply::Settled(results);
            }
            Command::Rotted { slots } => {
                slots.iter().for_each(|&slot| self.rotted(now, slot, step));
                self.advance(now, step);
            }
            Command::Corrupt { delivery } => self.corrupt(now, delivery, step),
            Command::Configure { settings, paused } => {
                self.configure(settings, paused);
                step.configured = true;
            }
            Command::Purge => step.reply = Reply::Purged(self.purge(step)),
            Command::Reprocess { slots } => step.reply = self.reprocess(now, &slots, step),
            Command::PurgeDead { slots } => step.reply = Reply::Purged(self.purge_dead(&slots, step)),
            Command::Delete => step.reply = Reply::Purged(self.delete(step)),
            Command::Tick
            | Command::Enqueue { .. }
            | Command::Replace { .. }
            | Command::CancelRecv { .. }
            | Command::OpenStream { .. }
            | Command::CloseStream { .. } => {}
        }
        self.advance(now, step);
    }

    /// Ends all that is here, and whoever waits for more; returns how many messages.
    fn delete(&mut self, step: &mut Step) -> u64 {
        let dead: Vec<Slot> = self.dead.keys().copied().collect();
        self.waiters.give_up(Millis::NEVER, &mut step.empty_handed);
        self.streams = stream::Streams::default();
        self.purge(step) + self.purge_dead(&dead, step)
    }

    /// The commit of `ticket` is done. For an enqueue, `stored` is what became of its messages, in their
    /// order; otherwise it is empty. May hand messages to waiting receives, with a ticket of their own.
    pub fn committed(&mut self, now: Millis, ticket: Ticket, stored: PutOutcomes<'_>) -> Step {
        let mut step = Step::empty();
        if let Ok(i) = self.writes.binary_search_by_key(&ticket, |&(t, _)| t) {
            self.writes.remove(i);
        }
        if let Ok(i) = self.puts.binary_search_by_key(&ticket, |&(t, _)| t)
            && let Some((_, count)) = self.puts.remove(i)
        {
            self.reserved -= u64::from(count);
            for outcome in stored {
                match outcome {
                    PutOutcome::Stored(at) => {
                        step.tell_run(at.slot, 1, What::Enqueued, at.enqueued);
                        self.accept(now, at);
                    }
                    PutOutcome::Duplicate { .. }
                    | PutOutcome::Conflict
                    | PutOutcome::DedupFull
                    | PutOutcome::RamFull
                    | PutOutcome::Overtaken
                    | PutOutcome::NoObject => {}
                }
            }
        }
        self.advance(now, &mut step);
        self.owe(now, &mut step);
        step
    }

    /// Whether a commit is owed. While it is, what the shard says may rest on what is not yet durable: every
    /// reply has to ride behind the pending commits.
    #[must_use]
    pub fn uncommitted(&self) -> bool {
        !(self.puts.is_empty() && self.writes.is_empty())
    }

    /// The settings in force.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What is paused.
    #[must_use]
    pub fn paused(&self) -> Paused {
        self.paused
    }

    /// Puts settings in force without a commit: for a shard that has just been recovered.
    fn configure(&mut self, settings: Settings, paused: Paused) {
        let ends_move = settings.retention_ms != self.settings.retention_ms;
        let regroups = settings.fifo != self.settings.fifo;
        self.settings = settings;
        self.paused = paused;
        if ends_move {
            let end = |(&slot, msg): (&Slot, &Msg)| (self.end_of(msg), slot);
            self.expiring = self.returned.iter().chain(&self.revived).map(end).collect();
        }
        if regroups {
            self.regroup();
        }
    }

    /// Ends what is not dead; returns how many.
    fn purge(&mut self, step: &mut Step) -> u64 {
        let mut purged = 0;
        for (first, count, enqueued) in self.fresh.take_all() {
            step.tell_run(first, count, What::Purged, enqueued);
            let written = if crate::planted!(PurgeWritesFirstOfRun) { 1 } else { count };
            step.ops.push(StateOp::GoneRun { first, count: written });
            purged += u64::from(count);
        }
        let maps = [&mut self.returned, &mut self.revived, &mut self.leased, &mut self.delayed];
        let all = maps.into_iter().flat_map(std::mem::take).collect::<BTreeMap<Slot, Msg>>();
        for (slot, msg) in all {
            self.give_credit_back(slot);
            step.ops.push(StateOp::Gone { slot, noted: msg.noted });
            step.tell(slot, &msg, What::Purged);
            purged += 1;
        }
        self.places.clear();
        self.deadlines.clear();
        self.dues.clear();
        self.expiring.clear();
        self.moved.clear();
        self.fresh_groups.clear();
        self.groups = groups::Groups::default();
        step.counts.purged += purged;
        self.tally.purged += purged;
        purged
    }

    /// Sets how many messages may be in flight because of limits beyond the topic's own, until it is set again.
    /// To be followed by a command: more room may serve receives that wait.
    pub fn allow_in_flight(&mut self, most: usize) {
        self.inflight_allowed = most;
    }

    fn reserve(&mut self, count: u32, step: &mut Step) {
        if self.paused.enqueue {
            let text = "the topic is paused for sends by an operator: retry later";
            step.reply = Reply::Refused(Refusal::new(Reason::Degraded, text));
            return;
        }
        let forgotten = if crate::planted!(DepthForgetsReserved) { self.reserved } else { 0 };
        if (self.depth() - forgotten).saturating_add(u64::from(count)) > self.settings.max_depth {
            let text = "the topic is full (max_depth): receive and ack messages first";
            step.reply = Reply::Refused(Refusal::new(Reason::Backpressure, text));
            return;
        }
        let ticket = self.ticket();
        self.reserved += u64::from(count);
        self.puts.push_back((ticket, count));
        step.ticket = Some(ticket);
        step.reply = Reply::Reserved;
    }

    /// Takes in a message that the store has just written.
    fn accept(&mut self, now: Millis, stored: &StoredAt) {
        self.tally.accepted += 1;
        self.tail = self.tail.max((stored.slot, 0));
        let mut msg = Msg::new(stored);
        match stored.due {
            Some(due) if due > now => {
                msg.at = due;
                self.file_delayed(stored.slot, msg);
            }
            _ => self.file_ready(stored.slot, msg),
        }
    }

    /// Gives the step a ticket if it has something to be written.
    fn owe(&mut self, now: Millis, step: &mut Step) {
        if step.configured || !step.ops.is_empty() {
            let ticket = self.ticket();
            self.writes.push_back((ticket, now));
            step.ticket = Some(ticket);
        }
    }

    fn ticket(&mut self) -> Ticket {
        self.next_ticket += 1;
        Ticket(self.next_ticket)
    }

    /// What counts towards `max_depth`: ready, delayed, in flight, and what enqueues have reserved.
    #[must_use]
    pub fn depth(&self) -> u64 {
        let ready = self.fresh.len() + self.returned.len() + self.revived.len();
        (ready + self.delayed.len() + self.leased.len()) as u64 + self.reserved
    }

    fn file_ready(&mut self, slot: Slot, mut msg: Msg) {
        msg.at = Millis(0);
        let untouched = msg.delivery == 0 && msg.turn == 0;
        let plain = untouched && msg.expires == Millis::NEVER && msg.since == msg.enqueued;
        if plain && !self.settings.fifo && self.fresh.push(slot, msg.enqueued, msg.len) {
            if msg.group != 0 {
                self.fresh_groups.insert(slot, msg.group);
            }
            return;
        }
        self.joined(slot, &msg, true);
        self.expiring.insert((self.end_of(&msg), slot));
        if msg.turn > 0 {
            self.places.insert(msg.place(), slot);
            self.revived.insert(slot, msg);
        } else {
            self.returned.insert(slot, msg);
        }
    }

    /// When it ends if it stays ready: by its TTL, or by the topic's retention.
    fn end_of(&self, msg: &Msg) -> Millis {
        msg.expires.min(msg.since.plus(self.settings.retention_ms))
    }

    fn file_dead(&mut self, slot: Slot, corpse: Corpse) {
        self.buried.insert((corpse.at, slot));
        self.dead.insert(slot, corpse);
    }

    fn file_delayed(&mut self, slot: Slot, msg: Msg) {
        if !crate::planted!(GroupPassesDelayedHead) {
            self.joined(slot, &msg, false);
        }
        self.dues.insert((msg.at, slot));
        self.delayed.insert(slot, msg);
    }

    fn file_leased(&mut self, slot: Slot, msg: Msg) {
        if !crate::planted!(StrictGroupForgetsInFlight) {
            self.joined(slot, &msg, false);
        }
        self.deadlines.insert((msg.at, slot));
        self.leased.insert(slot, msg);
    }

    /// Takes out a ready message that is not plain.
    fn take_returned(&mut self, slot: Slot) -> Option<Msg> {
        let msg = self.returned.remove(&slot).or_else(|| self.revived.remove(&slot))?;
        self.places.remove(&msg.place());
        self.expiring.remove(&(self.end_of(&msg), slot));
        self.left(&msg);
        Some(msg)
    }

    /// Takes out a message that nobody holds and that is not dead.
    fn take_waiting(&mut self, slot: Slot) -> Option<Msg> {
        if let Some(msg) = self.take_returned(slot) {
            return Some(msg);
        }
        if let Some(msg) = self.delayed.remove(&slot) {
            self.dues.remove(&(msg.at, slot));
            self.left(&msg);
            return Some(msg);
        }
        let front = self.fresh.take(slot)?;
        Some(Msg::fresh(&front, self.fresh_groups.remove(&slot).unwrap_or(0)))
    }

    fn take_leased(&mut self, slot: Slot) -> Option<Msg> {
        let msg = self.leased.remove(&slot)?;
        self.deadlines.remove(&(msg.at, slot));
        self.left(&msg);
        self.give_credit_back(slot);
        Some(msg)
    }
}
