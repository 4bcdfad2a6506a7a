//! Ack, nack, extend: what a receipt still permits (the table of SPEC §4.7), and what follows from it.

use super::kept::{Corpse, Msg};
use super::{DeliveryRef, NackMode, Shard, Step, What};
use crate::ids::Slot;
use crate::message::{DeadLetter, INTEGRITY, Phase, Settled, StateOp};
use crate::reason::Reason;
use crate::time::Millis;

/// The dead letter's reason when the attempts are used up.
const MAX_ATTEMPTS: &str = "max_attempts";
/// The dead letter's reason when the hand-outs of any kind are used up.
const MAX_DELIVERIES: &str = "max_deliveries";
/// The dead letter's reason when a consumer rejects without saying why.
const REJECTED: &str = "rejected";

/// What a receipt's delivery is to its message now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// The message no longer exists.
    Gone,
    /// Superseded, or dead-lettered without the consumer's doing.
    Stale,
    /// The newest, given back by its consumer.
    Settled(Settled),
    /// The newest, in flight.
    InFlight,
    /// The newest; its deadline passed, and nobody else has the message yet.
    TimedOut,
}

/// The parts of a nack that its deliveries share.
#[derive(Debug)]
pub(super) struct Nack {
    pub(super) mode: NackMode,
    pub(super) delay_ms: Option<u64>,
    pub(super) note: Option<String>,
    pub(super) entropy: u64,
}

impl NackMode {
    const fn settled(self) -> Settled {
        match self {
            NackMode::Fail => Settled::Failed,
            NackMode::Release => Settled::Released,
            NackMode::Reject => Settled::Rejected,
        }
    }
}

impl Shard {
    pub(super) fn ack(&mut self, delivery: DeliveryRef, step: &mut Step) -> Result<(), Reason> {
        match self.standing(delivery) {
            Standing::Gone => return Ok(()),
            Standing::Stale | Standing::Settled(_) => return Err(Reason::StaleReceipt),
            Standing::InFlight if crate::planted!(BatchAckTakesFirst) && step.counts.acked > 0 => {
                return Ok(());
            }
            Standing::InFlight | Standing::TimedOut => {}
        }
        if let Some(msg) = self.take_held(delivery.slot) {
            if !crate::planted!(AckForgotten) {
                step.ops.push(StateOp::Gone { slot: delivery.slot, noted: msg.noted });
            }
            step.counts.acked += 1;
            step.tell(delivery.slot, &msg, What::Acked);
            self.tally.acked += 1;
        }
        Ok(())
    }

    pub(super) fn nack(
        &mut self,
        now: Millis,
        delivery: DeliveryRef,
        nack: &Nack,
        step: &mut Step,
    ) -> Result<(), Reason> {
        match self.standing(delivery) {
            Standing::Settled(how) if how == nack.mode.settled() => return Ok(()),
            Standing::Settled(_) if crate::planted!(NackRepeatedInAnyMode) => return Ok(()),
            Standing::Gone | Standing::Stale | Standing::Settled(_) => return Err(Reason::StaleReceipt),
            Standing::InFlight | Standing::TimedOut => {}
        }
        if let Some(mut msg) = self.take_held(delivery.slot) {
            msg.attempt += u32::from(crate::planted!(LateNackCountsTwice) && msg.at == Millis(0));
            self.give_back(now, delivery.slot, msg, nack, step);
        }
        Ok(())
    }

    pub(super) fn extend(
        &mut self,
        delivery: DeliveryRef,
        deadline: Millis,
        step: &mut Step,
    ) -> Result<(), Reason> {
        match self.standing(delivery) {
            Standing::Gone | Standing::Stale | Standing::Settled(_) => return Err(Reason::StaleReceipt),
            Standing::InFlight | Standing::TimedOut => {}
        }
        let holder = self.streams.holder(delivery.slot);
        if let Some(mut msg) = self.take_held(delivery.slot) {
            if !crate::planted!(ExtendIgnored) {
                msg.at = deadline;
            }
            let state = msg.state(Phase::Leased);
            if !crate::planted!(ExtendNotWritten) {
                step.ops.push(StateOp::Set { slot: delivery.slot, state, note: None });
            }
            step.tell(delivery.slot, &msg, What::Extended);
            self.file_leased(delivery.slot, msg);
            if let Some(stream) = holder.filter(|_| !crate::planted!(StreamForgetsExtended)) {
                self.streams.hold(delivery.slot, stream);
            }
        }
        Ok(())
    }

    pub(super) fn corrupt(&mut self, now: Millis, delivery: DeliveryRef, step: &mut Step) {
        let held = matches!(self.standing(delivery), Standing::InFlight | Standing::TimedOut);
        if held && let Some(msg) = self.take_held(delivery.slot) {
            self.bury(now, delivery.slot, msg, INTEGRITY, None, step);
        }
    }

    pub(super) fn rotted(&mut self, now: Millis, slot: Slot, step: &mut Step) {
        if let Some(msg) = self.take_waiting(slot) {
            self.bury(now, slot, msg, INTEGRITY, None, step);
        }
    }

    /// Why this message may not be handed out again, if so.
    pub(super) fn exhausted(&self, msg: &Msg) -> Option<&'static str> {
        let one_more = u32::from(crate::planted!(DeadTooLate));
        if msg.attempt >= self.settings.max_attempts + one_more {
            Some(MAX_ATTEMPTS)
        } else if msg.delivery.saturating_sub(msg.before) >= self.settings.max_deliveries {
            Some(MAX_DELIVERIES)
        } else {
            None
        }
    }

    /// Moves a message, already taken out of its map, into the dead-letter queue.
    pub(super) fn bury(
        &mut self,
        now: Millis,
        slot: Slot,
        mut msg: Msg,
        reason: &str,
        last_error: Option<String>,
        step: &mut Step,
    ) {
        msg.at = now;
        step.tell_why(slot, &msg, What::DeadLettered, Some(reason));
        let letter = DeadLetter { reason: reason.to_owned(), attempts: msg.attempt, last_error, at: now };
        step.ops.push(StateOp::Dead { slot, state: msg.state(Phase::Dead), letter });
        step.counts.dead += 1;
        step.counts.dead_again += u64::from(msg.turn > 0 && msg.place() > self.watched_from);
        self.file_dead(slot, Corpse::of(&msg, msg.ttl_ms()));
    }

    fn standing(&self, delivery: DeliveryRef) -> Standing {
        let slot = delivery.slot;
        let (newest, settled, held) = if let Some(msg) = self.leased.get(&slot) {
            (msg.delivery, msg.settled, Standing::InFlight)
        } else if let Some(msg) = self.returned.get(&slot).or_else(|| self.revived.get(&slot)) {
            (msg.delivery, msg.settled, Standing::TimedOut)
        } else if let Some(msg) = self.delayed.get(&slot) {
            (msg.delivery, msg.settled, Standing::Stale)
        } else if let Some(corpse) = self.dead.get(&slot) {
            (corpse.delivery, corpse.settled, Standing::Stale)
        } else if self.fresh.contains(slot) {
            return Standing::Stale;
        } else {
            return Standing::Gone;
        };
        let superseded = delivery.delivery != newest && !crate::planted!(StaleReceiptSettles);
        if delivery.delivery == 0 || superseded {
            return Standing::Stale;
        }
        match settled {
            Settled::No => held,
            Settled::Failed | Settled::Released | Settled::Rejected => Standing::Settled(settled),
            Settled::Revived => Standing::Stale,
        }
    }

    /// Takes out a message whose newest delivery is in flight or timed out.
    fn take_held(&mut self, slot: Slot) -> Option<Msg> {
        self.take_leased(slot).or_else(|| self.take_returned(slot))
    }

    fn give_back(&mut self, now: Millis, slot: Slot, mut msg: Msg, nack: &Nack, step: &mut Step) {
        msg.settled = nack.mode.settled();
        let delay_ms = match nack.mode {
            NackMode::Reject => {
                let reason = nack.note.as_deref().filter(|_| !crate::planted!(RejectReasonLost));
                let reason = reason.unwrap_or(REJECTED);
                return self.bury(now, slot, msg, reason, None, step);
            }
            NackMode::Release => {
                step.tell_why(slot, &msg, What::Released, nack.note.as_deref());
                msg.attempt = msg.attempt.saturating_sub(u32::from(!crate::planted!(ReleaseCountsAttempt)));
                nack.delay_ms.unwrap_or(0)
            }
            NackMode::Fail => {
                step.tell_why(slot, &msg, What::Failed, nack.note.as_deref());
                nack.delay_ms.unwrap_or_else(|| self.backoff(slot, &msg, nack.entropy))
            }
        };
        if let Some(reason) = self.exhausted(&msg) {
            return self.bury(now, slot, msg, reason, nack.note.clone(), step);
        }
        if delay_ms == 0 && self.end_of(&msg) <= self.ends_by(now) {
            return self.expire(slot, &msg, step);
        }
        match nack.mode {
            NackMode::Release => step.counts.requeued_release += 1,
            NackMode::Fail | NackMode::Reject => step.counts.requeued_retry += 1,
        }
        msg.noted |= nack.note.is_some();
        let phase = if delay_ms == 0 { Phase::Ready } else { Phase::Delayed };
        msg.at = if delay_ms == 0 { Millis(0) } else { now.plus(delay_ms) };
        step.ops.push(StateOp::Set { slot, state: msg.state(phase), note: nack.note.clone() });
        if delay_ms == 0 {
            self.file_ready(slot, msg);
        } else {
            self.file_delayed(slot, msg);
        }
    }

    /// `rand(0, min(backoff_max, backoff_base · 2^attempt))`, ms; messages of one request differ.
    fn backoff(&self, slot: Slot, msg: &Msg, entropy: u64) -> u64 {
        let factor = 1u64.checked_shl(msg.attempt).unwrap_or(u64::MAX);
        let most = self.settings.backoff_base_ms.saturating_mul(factor).min(self.settings.backoff_max_ms);
        match most.checked_add(1) {
            Some(span) => mix(entropy ^ mix(slot.0)) % span,
            None => mix(entropy ^ mix(slot.0)),
        }
    }
}

/// The output function of SplitMix64: spreads the bits of `x` evenly.
const fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::mix;

    /// The first outputs of SplitMix64 from the seed 0 (Vigna's reference code, prng.di.unimi.it/splitmix64.c).
    #[test]
    fn mix_is_splitmix64() {
        const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;
        let outputs = [0, GAMMA, GAMMA.wrapping_mul(2)].map(mix);
        assert_eq!(outputs, [0xe220_a839_7b1d_cdaf, 0x6e78_9e6a_a1b9_65f4, 0x06c4_5d18_8009_454f]);
    }
}
