//! Handing out messages, and the receives that wait for some: first come, first served.

use super::{Grant, Leased, Msg, Reply, Shard, Step, WaiterId, Want};
use crate::ids::Slot;
use crate::message::{Phase, Settled, StateOp};
use crate::reason::{Reason, Refusal};
use crate::time::Millis;
use std::collections::{BTreeMap, BTreeSet};

/// A receive that waits.
#[derive(Debug, Clone, Copy)]
struct Waiter {
    id: WaiterId,
    want: Want,
    until: Millis,
}

/// The receives that wait, in the order they came.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    next_turn: u64,
    queue: BTreeMap<u64, Waiter>,
    turns: BTreeMap<WaiterId, u64>,
    untils: BTreeSet<(Millis, u64)>,
}

impl Waiters {
    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(super) fn next_until(&self) -> Option<Millis> {
        self.untils.first().map(|&(until, _)| until)
    }

    pub(super) fn remove(&mut self, id: WaiterId) {
        if let Some(turn) = self.turns.remove(&id)
            && let Some(waiter) = self.queue.remove(&turn)
        {
            self.untils.remove(&(waiter.until, turn));
        }
    }

    /// Takes out those whose time has come.
    pub(super) fn give_up(&mut self, now: Millis, empty_handed: &mut Vec<WaiterId>) {
        while let Some(&(until, turn)) = self.untils.first()
            && until <= now
        {
            self.untils.pop_first();
            if let Some(waiter) = self.queue.remove(&turn) {
                self.turns.remove(&waiter.id);
                empty_handed.push(waiter.id);
            }
        }
    }

    /// Whether the three indexes name the same receives.
    pub(super) fn consistent(&self) -> bool {
        self.queue.len() == self.turns.len()
            && self.queue.len() == self.untils.len()
            && self.queue.iter().all(|(turn, waiter)| {
                self.turns.get(&waiter.id) == Some(turn) && self.untils.contains(&(waiter.until, *turn))
            })
    }

    fn push(&mut self, waiter: Waiter) {
        let turn = self.next_turn;
        self.next_turn += 1;
        self.turns.insert(waiter.id, turn);
        self.untils.insert((waiter.until, turn));
        self.queue.insert(turn, waiter);
    }

    fn first(&self) -> Option<Waiter> {
        self.queue.first_key_value().map(|(_, &waiter)| waiter)
    }
}

impl Shard {
    /// Serves a receive that has just come. Those before it have been served as far as that is possible.
    pub(super) fn recv(&mut self, now: Millis, waiter: WaiterId, want: Want, until: Millis, step: &mut Step) {
        self.waiters.remove(waiter);
        if self.room() == 0 {
            let text = match self.leased.len() >= self.settings.max_inflight as usize {
                true => "too many messages of the topic are in flight (max_inflight): settle some first",
                false => "too many messages of the tenant are in flight (max_inflight of its policy)",
            };
            step.reply = Reply::Refused(Refusal::new(Reason::Backpressure, text));
            return;
        }
        let messages = self.hand_out(now, want, step);
        if !messages.is_empty() {
            step.grants.push(Grant { waiter, messages });
        } else if until <= now {
            step.empty_handed.push(waiter);
        } else if self.waiters.len() >= self.settings.max_waiters as usize {
            let text = "too many receives wait on the topic: ask again later, or without wait_ms";
            step.reply = Reply::Refused(Refusal::new(Reason::Backpressure, text));
        } else {
            self.waiters.push(Waiter { id: waiter, want, until });
        }
    }

    /// Gives ready messages to the receives that wait.
    pub(super) fn serve(&mut self, now: Millis, step: &mut Step) {
        while let Some(waiter) = self.waiters.first() {
            let messages = self.hand_out(now, waiter.want, step);
            if messages.is_empty() {
                return;
            }
            self.waiters.remove(waiter.id);
            step.grants.push(Grant { waiter: waiter.id, messages });
        }
    }

    /// How many more may be in flight.
    pub(super) fn room(&self) -> usize {
        let most = (self.settings.max_inflight as usize).min(self.inflight_allowed);
        most.saturating_sub(self.leased.len())
    }

    /// Leases what `want` asks for of what is ready, lowest place first.
    fn hand_out(&mut self, now: Millis, want: Want, step: &mut Step) -> Vec<Leased> {
        let most = (want.max_messages.max(1) as usize).min(self.room());
        let deadline = now.plus(want.visibility_ms.unwrap_or(self.settings.visibility_ms));
        let mut bytes = 0u64;
        let mut messages = Vec::new();
        while messages.len() < most
            && let Some((slot, len)) = self.next_ready()
        {
            let with_it = bytes + u64::from(len);
            if with_it > want.max_bytes && !messages.is_empty() {
                break;
            }
            let Some(mut msg) = self.take_ready(slot) else { break };
            // only after the settings were lowered: else it was dead-lettered when its last delivery ended
            if let Some(reason) = self.exhausted(&msg) {
                self.bury(now, slot, msg, reason, None, step);
                continue;
            }
            bytes = with_it;
            msg.at = deadline;
            msg.attempt = msg.attempt.saturating_add(1);
            msg.delivery = msg.delivery.saturating_add(1);
            msg.settled = Settled::No;
            step.ops.push(StateOp::Set { slot, state: msg.state(Phase::Leased), note: None });
            step.counts.delivered += 1;
            messages.push(Leased { slot, attempt: msg.attempt, delivery: msg.delivery, deadline });
            self.file_leased(slot, msg);
        }
        messages
    }

    /// Who is first among what is ready, and its length.
    fn next_ready(&self) -> Option<(Slot, u32)> {
        if self.paused.recv {
            return None;
        }
        let fresh = self.fresh.front().map(|front| (front.slot, front.len));
        let returned = self.returned.first_key_value().map(|(&slot, msg)| (slot, msg.len));
        let own = fresh.into_iter().chain(returned).min();
        let Some((&place, &slot)) = self.places.first_key_value() else { return own };
        match own {
            Some(first) if (first.0, 0) < place => Some(first),
            Some(_) | None => self.revived.get(&slot).map(|msg| (slot, msg.len)),
        }
    }

    fn take_ready(&mut self, slot: Slot) -> Option<Msg> {
        if let Some(msg) = self.take_returned(slot) {
            return Some(msg);
        }
        let front = self.fresh.pop_front()?;
        Some(Msg {
            at: Millis(0),
            enqueued: front.enqueued,
            since: front.enqueued,
            expires: Millis::NEVER,
            after: slot,
            turn: 0,
            before: 0,
            len: front.len,
            attempt: 0,
            delivery: 0,
            settled: Settled::No,
            noted: false,
        })
    }
}
