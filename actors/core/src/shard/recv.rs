//! Handing out messages, and the receives that wait for some: first come, first served.

use super::kept::Msg;
use super::{Grant, Leased, Reply, Shard, Step, StreamId, WaiterId, Want, What};
use crate::ids::Slot;
use crate::message::{Phase, Settled, StateOp};
use crate::reason::{Reason, Refusal};
use crate::time::Millis;
use std::collections::{BTreeMap, BTreeSet};

/// A receive.
#[derive(Debug, Clone, Copy)]
pub(super) struct Waiter {
    pub(super) id: WaiterId,
    pub(super) want: Want,
    pub(super) until: Millis,
    pub(super) stream: Option<StreamId>,
}

/// The receives that wait, in the order they came.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    next_turn: u64,
    line: BTreeMap<u64, Waiter>,
    /// Those whose stream has no credit; their turn is kept.
    aside: BTreeMap<(StreamId, u64), Waiter>,
    turns: BTreeMap<WaiterId, (u64, Option<StreamId>)>,
    untils: BTreeSet<(Millis, WaiterId)>,
}

impl Waiters {
    pub(super) fn len(&self) -> usize {
        self.turns.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    /// Whether one of them lacks nothing but a message.
    pub(super) fn any_in_line(&self) -> bool {
        !self.line.is_empty()
    }

    pub(super) fn next_until(&self) -> Option<Millis> {
        self.untils.first().map(|&(until, _)| until)
    }

    pub(super) fn remove(&mut self, id: WaiterId) {
        let Some((turn, stream)) = self.turns.remove(&id) else { return };
        let in_line = self.line.remove(&turn);
        let waiter = in_line.or_else(|| self.aside.remove(&(stream?, turn)));
        if let Some(waiter) = waiter {
            self.untils.remove(&(waiter.until, id));
        }
    }

    pub(super) fn remove_all_of(&mut self, stream: StreamId) {
        let of_it =
            |(id, (_, of)): (&WaiterId, &(u64, Option<StreamId>))| (*of == Some(stream)).then_some(*id);
        let ids: Vec<WaiterId> = self.turns.iter().filter_map(of_it).collect();
        ids.into_iter().for_each(|id| self.remove(id));
    }

    /// Takes out those whose time has come.
    pub(super) fn give_up(&mut self, now: Millis, empty_handed: &mut Vec<WaiterId>) {
        while let Some(&(until, id)) = self.untils.first()
            && until <= now
        {
            self.remove(id);
            empty_handed.push(id);
        }
    }

    /// The stream has credit again: its receives stand where they stood.
    pub(super) fn bring_back(&mut self, stream: StreamId) {
        while let Some((&(of, turn), _)) = self.aside.range((stream, 0)..).next()
            && of == stream
            && let Some(waiter) = self.aside.remove(&(of, turn))
        {
            self.line.insert(turn, waiter);
        }
    }

    /// Whether the indexes name the same receives.
    pub(super) fn consistent(&self) -> bool {
        let in_line = self.line.iter().map(|(turn, waiter)| (*turn, waiter));
        let aside = self.aside.iter().map(|((_, turn), waiter)| (*turn, waiter));
        self.line.len() + self.aside.len() == self.turns.len()
            && self.turns.len() == self.untils.len()
            && self.aside.iter().all(|((stream, _), waiter)| waiter.stream == Some(*stream))
            && in_line.chain(aside).all(|(turn, waiter)| {
                self.turns.get(&waiter.id) == Some(&(turn, waiter.stream))
                    && self.untils.contains(&(waiter.until, waiter.id))
            })
    }

    fn push(&mut self, waiter: Waiter) {
        let turn = self.next_turn;
        self.next_turn += 1;
        self.turns.insert(waiter.id, (turn, waiter.stream));
        self.untils.insert((waiter.until, waiter.id));
        self.line.insert(turn, waiter);
    }

    /// Lets those behind the first one of this stream go before it, until the stream has credit.
    fn set_first_aside(&mut self, stream: StreamId) {
        if let Some((turn, waiter)) = self.line.pop_first() {
            self.aside.insert((stream, turn), waiter);
        }
    }

    fn first(&self) -> Option<Waiter> {
        self.line.first_key_value().map(|(_, &waiter)| waiter)
    }
}

impl Shard {
    /// Serves a receive that has just come. Those before it have been served as far as that is possible.
    pub(super) fn recv(&mut self, now: Millis, waiter: Waiter, step: &mut Step) {
        self.waiters.remove(waiter.id);
        if let Some(refusal) = self.refuse_recv(&waiter) {
            step.reply = Reply::Refused(refusal);
            return;
        }
        let messages = match self.may_take(&waiter) {
            0 => Vec::new(),
            most => self.hand_out(now, waiter.want, most, step),
        };
        if !messages.is_empty() {
            self.grant(&waiter, messages, step);
        } else if waiter.until <= now {
            step.empty_handed.push(waiter.id);
        } else if waiter.stream.is_none() && self.waiters.len() >= self.settings.max_waiters as usize {
            let text = "too many receives wait on the topic: ask again later, or without wait_ms";
            step.reply = Reply::Refused(Refusal::new(Reason::Backpressure, text));
        } else {
            self.waiters.push(waiter);
            self.serve(now, step);
        }
    }

    fn refuse_recv(&self, waiter: &Waiter) -> Option<Refusal> {
        if let Some(stream) = waiter.stream {
            let text = "the queue was loaded anew and does not know the stream: open another";
            let unknown = Refusal::new(Reason::DownstreamUnavailable, text).without_effect();
            return (!self.streams.is_open(stream)).then_some(unknown);
        }
        if self.room() > 0 {
            return None;
        }
        let text = match self.leased.len() >= self.settings.max_inflight as usize {
            true => "too many messages of the topic are in flight (max_inflight): settle some first",
            false => "too many messages of the tenant are in flight (max_inflight of its policy)",
        };
        Some(Refusal::new(Reason::Backpressure, text))
    }

    /// Gives ready messages to the receives that wait.
    pub(super) fn serve(&mut self, now: Millis, step: &mut Step) {
        while let Some(waiter) = self.waiters.first() {
            let most = self.may_take(&waiter);
            if most == 0
                && let Some(stream) = waiter.stream
            {
                self.waiters.set_first_aside(stream);
                continue;
            }
            let messages = self.hand_out(now, waiter.want, most, step);
            if messages.is_empty() {
                return;
            }
            self.waiters.remove(waiter.id);
            self.grant(&waiter, messages, step);
        }
    }

    /// How many messages a receive may have, whatever is there.
    fn may_take(&self, waiter: &Waiter) -> u32 {
        let wanted = waiter.want.max_messages.max(1);
        waiter.stream.map_or(wanted, |stream| wanted.min(self.streams.credit(stream)))
    }

    fn grant(&mut self, waiter: &Waiter, messages: Vec<Leased>, step: &mut Step) {
        if let Some(stream) = waiter.stream {
            messages.iter().for_each(|leased| self.streams.hold(leased.slot, stream));
        }
        step.grants.push(Grant { waiter: waiter.id, messages });
    }

    /// How many more may be in flight.
    pub(super) fn room(&self) -> usize {
        let most = (self.settings.max_inflight as usize).min(self.inflight_allowed);
        most.saturating_sub(self.leased.len())
    }

    /// Leases what `want` asks for of what is ready, at most `most`, lowest place first.
    fn hand_out(&mut self, now: Millis, want: Want, most: u32, step: &mut Step) -> Vec<Leased> {
        let unbounded = crate::planted!(BatchPassesMaxInflight) && self.room() > 0;
        let most = (most as usize).min(if unbounded { usize::MAX } else { self.room() });
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
            msg.at = deadline.min(if crate::planted!(TtlEndsInFlight) { msg.expires } else { Millis::NEVER });
            msg.attempt = msg.attempt.saturating_add(1);
            msg.delivery = msg.delivery.saturating_add(1);
            msg.settled = Settled::No;
            step.ops.push(StateOp::Set { slot, state: msg.state(Phase::Leased), note: None });
            step.counts.delivered += 1;
            step.tell(slot, &msg, What::Delivered);
            messages.push(Leased { slot, attempt: msg.attempt, delivery: msg.delivery, deadline });
            self.file_leased(slot, msg);
        }
        messages
    }

    /// Who is first among what is ready, and its length.
    pub(super) fn next_ready(&self) -> Option<(Slot, u32)> {
        let ignored = crate::planted!(PauseIgnoredByWaiters) && self.waiters.any_in_line();
        if self.paused.recv && !ignored {
            return None;
        }
        if self.settings.fifo {
            let slot = self.groups.first_ready()?;
            let msg = self.returned.get(&slot).or_else(|| self.revived.get(&slot))?;
            return Some((slot, msg.len));
        }
        let fresh = self.fresh.front().map(|front| (front.slot, front.len));
        let returned = self.returned.first_key_value().map(|(&slot, msg)| (slot, msg.len));
        let returned = returned.filter(|_| !(crate::planted!(TtlMessageOvertaken) && fresh.is_some()));
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
        let group = match self.fresh_groups.is_empty() {
            true => 0,
            false => self.fresh_groups.remove(&front.slot).unwrap_or(0),
        };
        Some(Msg::fresh(&front, group))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn receives_known_under_two_names_or_none_are_noticed() {
        let want = Want { max_messages: 1, max_bytes: 1, visibility_ms: None };
        let waiting = || {
            let mut waiters = Waiters::default();
            for id in [1, 2] {
                let (id, until) = (WaiterId(id), Millis(id * 1_000));
                waiters.push(Waiter { id, want, until, stream: None });
            }
            assert!(waiters.consistent());
            waiters
        };
        type Spoil = fn(&mut Waiters);
        let spoils: [Spoil; 5] = [
            |waiters| assert!(waiters.line.pop_first().is_some()),
            |waiters| assert!(waiters.turns.pop_first().is_some()),
            |waiters| assert!(waiters.untils.pop_first().is_some()),
            |waiters| {
                let (until, id) = waiters.untils.pop_first().unwrap();
                waiters.untils.insert((until.plus(1), id));
            },
            |waiters| waiters.turns.values_mut().for_each(|(turn, _)| *turn = 1 - *turn),
        ];
        for (i, spoil) in spoils.into_iter().enumerate() {
            let mut waiters = waiting();
            spoil(&mut waiters);
            assert!(!waiters.consistent(), "{i}");
        }
    }
}
