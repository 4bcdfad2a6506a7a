//! What time alone does: deadlines, ends of delays, TTLs, and receives that have waited long enough.

use super::kept::Msg;
use super::{STALL_MS, Shard, Step, What};
use crate::ids::Slot;
use crate::message::{Phase, StateOp};
use crate::time::Millis;

impl Shard {
    /// The earliest moment at which a [`super::Command::Tick`] does something; it may lie in the past. `None`
    /// = only a command or a commit can change the shard.
    #[must_use]
    pub fn wake_at(&self) -> Option<Millis> {
        let deadline = self.deadlines.first().map(|&(at, _)| at).filter(|&at| at < self.stalls_at());
        let times = [
            deadline,
            self.dues.first().map(|&(at, _)| at),
            self.next_end().filter(|_| !self.ends_held),
            self.waiters.next_until(),
            (!self.moved.is_empty()).then_some(self.recovered_at),
        ];
        times.into_iter().flatten().min()
    }

    /// When a TTL or retention next ends something.
    fn next_end(&self) -> Option<Millis> {
        let fresh = self.fresh.front().map(|front| front.enqueued.plus(self.settings.retention_ms));
        let returned = self.expiring.first().map(|&(at, _)| at);
        let dead = self.buried.first().map(|&(at, _)| at.plus(self.settings.dlq_retention_ms));
        [fresh, returned, dead].into_iter().flatten().min()
    }

    /// Whether TTLs and retention end nothing from the next command on, until it is set again. Leases, delays
    /// and waiting receives run on.
    pub fn hold_ends(&mut self, held: bool) {
        self.ends_held = held;
    }

    /// Up to when things have ended by `now`.
    pub(super) fn ends_by(&self, now: Millis) -> Millis {
        if self.ends_held { Millis(0) } else { now }
    }

    /// Whether nothing but ready and dead messages is left, and nobody receives: the shard can be dropped and
    /// recovered when it is next used, or at [`Shard::wake_at`].
    #[must_use]
    pub fn idle(&self) -> bool {
        let deaf = self.waiters.is_empty() && self.streams.is_empty();
        deaf && self.leased.is_empty() && self.delayed.is_empty() && !self.uncommitted()
    }

    /// Brings the shard to `now`, then serves the receives that wait.
    pub(super) fn advance(&mut self, now: Millis, step: &mut Step) {
        self.write_moved(step);
        self.time_out(now, step);
        while let Some(slot) = due(self.dues.first(), now) {
            self.dues.pop_first();
            if let Some(msg) = self.delayed.remove(&slot) {
                self.left(&msg);
                self.come_back(now, slot, msg, step);
            }
        }
        let ends = self.ends_by(now);
        while let Some(slot) = due(self.expiring.first(), ends) {
            match self.take_returned(slot) {
                Some(msg) => self.expire(slot, &msg, step),
                None => drop(self.expiring.pop_first()),
            }
        }
        self.end_fresh(ends, step);
        self.end_dead(ends, step);
        self.serve(now, step);
        self.waiters.give_up(now, &mut step.empty_handed);
    }

    /// Ends by retention what was never handed out.
    fn end_fresh(&mut self, now: Millis, step: &mut Step) {
        let Some(until) = now.0.checked_sub(self.settings.retention_ms) else { return };
        for (first, count, enqueued) in self.fresh.take_until(Millis(until)) {
            step.tell_run(first, count, What::Expired, enqueued);
            self.forget_fresh_groups(first, count);
            step.ops.push(StateOp::GoneRun { first, count });
            step.counts.expired += u64::from(count);
            self.tally.expired += u64::from(count);
        }
    }

    fn forget_fresh_groups(&mut self, first: Slot, count: u16) {
        let range = first..Slot(first.0 + u64::from(count));
        let named: Vec<Slot> = self.fresh_groups.range(range).map(|(&slot, _)| slot).collect();
        for slot in named {
            self.fresh_groups.remove(&slot);
        }
    }

    /// Ends dead letters by their retention.
    fn end_dead(&mut self, now: Millis, step: &mut Step) {
        let Some(until) = now.0.checked_sub(self.settings.dlq_retention_ms) else { return };
        while let Some(slot) = due(self.buried.first(), Millis(until)) {
            self.buried.pop_first();
            let Some(corpse) = self.dead.remove(&slot) else { continue };
            step.tell_of_dead(slot, &corpse, What::Expired);
            step.ops.push(StateOp::DeadGone { slot });
            step.counts.expired += 1;
            self.tally.expired += 1;
        }
    }

    /// Ends a message, already taken out of its map, by its TTL or by retention.
    pub(super) fn expire(&mut self, slot: Slot, msg: &Msg, step: &mut Step) {
        step.ops.push(StateOp::Gone { slot, noted: msg.noted });
        step.tell(slot, msg, What::Expired);
        step.counts.expired += 1;
        self.tally.expired += 1;
    }

    /// Deadlines from here on wait until the commits that are owed are done; the call of
    /// [`Shard::committed`] makes up for them.
    fn stalls_at(&self) -> Millis {
        self.writes.front().map_or(Millis::NEVER, |&(_, since)| since.plus(STALL_MS))
    }

    /// Ends the leases whose deadline has come. Writes nothing for those that become ready: their row says
    /// already all that recovery needs.
    fn time_out(&mut self, now: Millis, step: &mut Step) {
        let stalls_at = self.stalls_at();
        while let Some(slot) = due(self.deadlines.first().filter(|&&(at, _)| at < stalls_at), now) {
            self.deadlines.pop_first();
            let Some(msg) = self.leased.remove(&slot) else { continue };
            self.left(&msg);
            self.give_credit_back(slot);
            step.counts.timeouts += 1;
            step.tell(slot, &msg, What::TimedOut);
            if let Some(reason) = self.exhausted(&msg) {
                self.bury(now, slot, msg, reason, None, step);
            } else if self.come_back(now, slot, msg, step) {
                step.counts.requeued_visibility += 1;
            }
        }
    }

    /// Makes a message ready, unless its TTL or retention has ended by now. Whether it is ready.
    fn come_back(&mut self, now: Millis, slot: Slot, msg: Msg, step: &mut Step) -> bool {
        if self.end_of(&msg) <= self.ends_by(now) {
            self.expire(slot, &msg, step);
            return false;
        }
        self.file_ready(slot, msg);
        true
    }

    /// Makes durable what recovery gave to the leases it found, so that a second restart does not take it
    /// back.
    fn write_moved(&mut self, step: &mut Step) {
        for slot in std::mem::take(&mut self.moved) {
            if let Some(msg) = self.leased.get(&slot) {
                step.ops.push(StateOp::Set { slot, state: msg.state(Phase::Leased), note: None });
            }
        }
    }
}

/// The slot of the first entry of a time index, if its time has come.
fn due(first: Option<&(Millis, Slot)>, now: Millis) -> Option<Slot> {
    first.filter(|&&(at, _)| at <= now).map(|&(_, slot)| slot)
}
