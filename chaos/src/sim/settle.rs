//! Ack, nack and extend as a client does them, and receipts that are not its own.

use super::client::Client;
use super::model::{Complaint, Seen};
use super::ops::How;
use super::world::Held;
use ron_actors::mailbox::Settle;
use ron_core::reason::{Effect, Reason};
use ron_core::shard::NackMode;
use ron_core::time::Millis;
use std::fmt::Write;

/// The reason that clients give for a reject.
const REJECT_NOTE: &str = "rejected by a consumer";

impl Client {
    pub(super) async fn settle(&self, queue: usize, how: How, held: Vec<Held>) -> Result<(), Complaint> {
        let begun = self.clock.now();
        let before = self.settle_begins(how, begun, &held);
        let receipts = held.iter().map(|held| held.receipt.clone()).collect();
        let answer = self.mailbox.settle(&self.world.queues[queue], command(how), receipts).await;
        let what = match how {
            How::Ack => "ack",
            How::Nack(NackMode::Fail, _) => "nack-fail",
            How::Nack(NackMode::Release, _) => "nack-release",
            How::Nack(NackMode::Reject, _) => "nack-reject",
            How::Extend(_) => "extend",
        };
        let results = match answer {
            Ok(results) => results,
            Err(refusal) => {
                if refusal.effect == Effect::None {
                    held.iter().zip(before).for_each(|(held, before)| self.put_back(held, before));
                }
                return self.refused(what, &refusal);
            }
        };
        if results.len() != held.len() {
            return Err(format!("{} results for {} receipts", results.len(), held.len()));
        }
        let mut text = format!("q{queue}");
        for (held, result) in held.iter().zip(&results) {
            let outcome = result.map_or_else(Reason::code, |()| "ok");
            let _ = write!(text, " {}/{}={outcome}", held.msg_id, held.delivery);
        }
        self.event(what, &text);
        for ((held, before), result) in held.iter().zip(before).zip(results) {
            self.settled(how, begun, held, before, result)?;
        }
        Ok(())
    }

    /// From here on it may have been done.
    fn settle_begins(&self, how: How, begun: Millis, held: &[Held]) -> Vec<Before> {
        let mut inner = self.world.lock();
        let mut all = Vec::new();
        for held in held {
            let holds = inner.model.holds(begun, &held.msg_id, held.delivery);
            let mut gone = false;
            if let Some(message) = inner.model.messages.get_mut(&held.msg_id) {
                gone = message.gone.is_some();
                // Never taken back: another client may be at it too.
                message.rejected |= matches!(how, How::Nack(NackMode::Reject, _));
            }
            let Some(seen) = inner.model.seen_mut(&held.msg_id, held.delivery) else {
                all.push(Before::default());
                continue;
            };
            all.push(Before { seen: Some(*seen), holds, gone });
            match how {
                How::Ack => seen.acked = true,
                How::Nack(mode, _) => {
                    seen.given_back = true;
                    seen.released |= mode == NackMode::Release;
                }
                How::Extend(ms) => seen.floor = seen.floor.min(begun.plus(ms)),
            }
        }
        all
    }

    fn put_back(&self, held: &Held, before: Before) {
        let mut inner = self.world.lock();
        if let (Some(seen), Some(old)) = (inner.model.seen_mut(&held.msg_id, held.delivery), before.seen) {
            *seen = old;
        }
    }

    fn settled(
        &self,
        how: How,
        begun: Millis,
        held: &Held,
        before: Before,
        result: Result<(), Reason>,
    ) -> Result<(), Complaint> {
        let (id, delivery, now) = (&held.msg_id, held.delivery, self.clock.now());
        let Err(reason) = result else {
            if before.gone && !matches!(how, How::Ack) {
                return Err(format!("{id}: {how:?} of a message that is gone was answered ok"));
            }
            let mut inner = self.world.lock();
            inner.log.count(&format!("{} ok", name(how)));
            if let How::Ack = how {
                inner.model.acked(now, id);
            } else if let Some(seen) = inner.model.seen_mut(id, delivery) {
                confirm(how, begun, seen, before);
            }
            return Ok(());
        };
        // Nothing was done: so nothing may come of it.
        let still = before.seen.map_or(Millis(0), |seen| seen.floor);
        self.put_back(held, before);
        self.world.lock().log.count(&format!("{} {}", name(how), reason.code()));
        if reason != Reason::StaleReceipt {
            return Err(format!("{id}: {how:?} was answered {reason}"));
        }
        let valid = before.holds && still > now;
        if valid {
            return Err(format!(
                "{id}: {how:?} of delivery {delivery}, in flight until {still:?}, was stale"
            ));
        }
        if before.gone && matches!(how, How::Ack) {
            return Err(format!("{id}: an ack of a message that is gone was stale"));
        }
        Ok(())
    }

    pub(super) async fn foreign(
        &self,
        queue: usize,
        how: How,
        receipts: Vec<String>,
    ) -> Result<(), Complaint> {
        let n = receipts.len();
        let results = match self.mailbox.settle(&self.world.queues[queue], command(how), receipts).await {
            Ok(results) => results,
            Err(refusal) => return self.refused("foreign", &refusal),
        };
        self.event("foreign", &format!("q{queue} {n}"));
        let mut expected = vec![Err(Reason::StaleReceipt); n.saturating_sub(1)];
        expected.push(Err(Reason::Malformed));
        if results == expected { Ok(()) } else { Err(format!("foreign receipts: {results:?}")) }
    }
}

/// What the model knew of a delivery before it was settled.
#[derive(Debug, Clone, Copy, Default)]
struct Before {
    seen: Option<Seen>,
    /// Its receipt had to be accepted.
    holds: bool,
    gone: bool,
}

fn confirm(how: How, begun: Millis, seen: &mut Seen, before: Before) {
    let old = before.seen.unwrap_or(*seen);
    match how {
        How::Extend(ms) => seen.floor = begun.plus(ms),
        How::Nack(mode, delay_ms) if !old.given_back => {
            seen.not_before = match mode {
                NackMode::Reject => Millis::NEVER,
                NackMode::Fail | NackMode::Release => begun.plus(delay_ms.unwrap_or(0)),
            };
        }
        How::Nack(..) | How::Ack => {}
    }
}

fn name(how: How) -> &'static str {
    match how {
        How::Ack => "ack",
        How::Nack(..) => "nack",
        How::Extend(_) => "extend",
    }
}

fn command(how: How) -> Settle {
    match how {
        How::Ack => Settle::Ack,
        How::Nack(mode, delay_ms) => {
            let note = (mode == NackMode::Reject).then(|| REJECT_NOTE.to_owned());
            Settle::Nack { mode, delay_ms, note }
        }
        How::Extend(visibility_ms) => Settle::Extend { visibility_ms },
    }
}
