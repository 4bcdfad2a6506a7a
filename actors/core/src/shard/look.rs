//! Looking at a shard without changing it.

use super::{PeekState, Peeked, Shard, Stats};
use crate::ids::Slot;
use crate::message::{MsgState, Phase, Settled};
use crate::time::Millis;

impl Shard {
    /// The figures. While [`Shard::uncommitted`] they may rest on what is not yet durable.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let fresh = self.fresh.front().map(|front| front.enqueued);
        let returned = self.returned.first_key_value().map(|(_, msg)| msg.enqueued);
        let revived = self.places.first_key_value().and_then(|(_, slot)| self.revived.get(slot));
        let oldest = fresh.into_iter().chain(returned).chain(revived.map(|msg| msg.since)).min();
        Stats {
            ready: (self.fresh.len() + self.returned.len() + self.revived.len()) as u64,
            delayed: self.delayed.len() as u64,
            vis: self.leased.len() as u64,
            dlq: self.dead.len() as u64,
            oldest_enqueued: oldest,
            waiters: self.waiters.len() as u64,
        }
    }

    /// Whether a receive would be served if more might be in flight.
    #[must_use]
    pub fn wants_room(&self) -> bool {
        self.waiters.any_in_line() && self.next_ready().is_some()
    }

    /// Up to `limit` messages in `state` behind the sort key `after`. All keys are by slot, which never
    /// changes: a message that stays in the state is seen exactly once by a walk, whatever else happens. So a
    /// reprocessed one is seen at its id's place, though it is served after others.
    #[must_use]
    pub fn peek(&self, state: PeekState, after: Option<(u64, Slot)>, limit: usize) -> Vec<Peeked> {
        let from = match after {
            None => Slot(0),
            Some((_, Slot(u64::MAX))) => return Vec::new(),
            Some((_, slot)) => slot.forward(1),
        };
        let seen = |slot, attempt, delivery, deadline| Peeked {
            slot,
            attempt,
            delivery,
            deadline,
            sort_key: (0, slot),
        };
        match state {
            PeekState::Ready => self.peek_ready(from, limit),
            PeekState::Delayed => {
                let page = self.delayed.range(from..).take(limit);
                page.map(|(&slot, msg)| seen(slot, msg.attempt, msg.delivery, None)).collect()
            }
            PeekState::Vis => {
                let page = self.leased.range(from..).take(limit);
                page.map(|(&slot, msg)| seen(slot, msg.attempt, msg.delivery, Some(msg.at))).collect()
            }
            PeekState::Dlq => {
                let page = self.dead.range(from..).take(limit);
                page.map(|(&slot, corpse)| seen(slot, corpse.attempt, corpse.delivery, None)).collect()
            }
        }
    }

    /// What is known of a message; `None` if it does not exist (any more). A dead letter's `at` and `noted`
    /// are in the store only, and 0 and `false` here. A lease past its deadline counts as ready.
    #[must_use]
    pub fn state_of(&self, slot: Slot) -> Option<MsgState> {
        let places = [
            (&self.leased, Phase::Leased),
            (&self.returned, Phase::Ready),
            (&self.revived, Phase::Ready),
            (&self.delayed, Phase::Delayed),
        ];
        for (map, phase) in places {
            if let Some(msg) = map.get(&slot) {
                return Some(msg.state(phase));
            }
        }
        let bare = |phase, attempt, delivery, settled| MsgState {
            phase,
            at: Millis(0),
            attempt,
            delivery,
            settled,
            noted: false,
            revived: None,
        };
        if let Some(corpse) = self.dead.get(&slot) {
            return Some(bare(Phase::Dead, corpse.attempt, corpse.delivery, corpse.settled));
        }
        self.fresh.contains(slot).then(|| bare(Phase::Ready, 0, 0, Settled::No))
    }

    /// Whether the message exists, dead letters included.
    #[must_use]
    pub fn exists(&self, slot: Slot) -> bool {
        self.state_of(slot).is_some()
    }

    fn peek_ready(&self, from: Slot, limit: usize) -> Vec<Peeked> {
        let seen =
            |slot, attempt, delivery| Peeked { slot, attempt, delivery, deadline: None, sort_key: (0, slot) };
        let fresh = self.fresh.from(from).take(limit).map(|slot| seen(slot, 0, 0));
        let others = [&self.returned, &self.revived].map(|map| {
            map.range(from..).take(limit).map(|(&slot, msg)| seen(slot, msg.attempt, msg.delivery))
        });
        let mut page: Vec<Peeked> = fresh.chain(others.into_iter().flatten()).collect();
        page.sort_unstable_by_key(|seen| seen.slot);
        page.truncate(limit);
        page
    }
}
