//! Compares the machine with the model, the disk, and what was told.

use super::super::msg::{M, Place};
use super::super::seen::walk;
use super::Run;
use crate::ids::Slot;
use crate::message::{MsgState, Phase};
use crate::shard::{Event, PeekState, Step, What};
use crate::time::Millis;

impl Run<'_> {
    /// What is told of messages is what was counted, and of each it is told with its attempts.
    pub(super) fn judge_events(&self, text: &str, step: &Step) {
        let told = |what| -> u64 {
            step.events.iter().filter(|event| event.what == what).map(|event| u64::from(event.count)).sum()
        };
        let counts = &step.counts;
        let pairs = [
            (What::Delivered, counts.delivered),
            (What::Acked, counts.acked),
            (What::TimedOut, counts.timeouts),
            (What::DeadLettered, counts.dead),
            (What::Expired, counts.expired),
            (What::Purged, counts.purged),
            (What::Reprocessed, counts.revived),
        ];
        for (what, counted) in pairs {
            assert_eq!(told(what), counted, "{what:?} by {text}");
        }
        assert!(
            told(What::Released) >= counts.requeued_release && told(What::Failed) >= counts.requeued_retry
        );
        for leased in step.grants.iter().flat_map(|grant| &grant.messages) {
            let of = |event: &&Event| event.what == What::Delivered && event.first == leased.slot;
            assert_eq!(step.events.iter().find(of).unwrap().attempt, leased.attempt, "{text}");
        }
        for event in step.events.iter().filter(|event| event.enqueued != Millis(0)) {
            let row = self.disk.rows.get(&event.first);
            assert!(row.is_none_or(|row| row.stored.enqueued == event.enqueued), "{event:?} by {text}");
        }
    }

    pub(super) fn compare(&mut self) {
        self.shard.check().unwrap();
        let live = &self.model.live;
        let of = |f: &dyn Fn(&M) -> bool| live.iter().filter(|(_, m)| f(m)).collect::<Vec<_>>();
        let stats = self.shard.stats();
        let oldest = of(&M::is_ready).iter().map(|(_, m)| m.lives_since()).min();
        assert_eq!(stats.oldest_enqueued, oldest.map(Millis));
        assert_eq!(stats.waiters, self.model.waiting.len() as u64);
        assert_eq!(self.shard.wake_at(), self.model.wake_at().map(Millis));
        let owes = !(self.model.puts.is_empty() && self.model.writes.is_empty());
        assert_eq!(self.shard.uncommitted(), owes);
        let parts = [
            (PeekState::Ready, stats.ready, of(&M::is_ready)),
            (PeekState::Delayed, stats.delayed, of(&|m| m.place == Place::Delayed)),
            (PeekState::Vis, stats.vis, of(&M::in_flight)),
            (PeekState::Dlq, stats.dlq, of(&|m| m.place == Place::Dead)),
        ];
        let limit = 1 + self.rng.below(4) as usize;
        for (state, count, expected) in parts {
            let walked = walk(&self.shard, state, limit);
            assert_eq!(count, expected.len() as u64, "{state:?}");
            assert_eq!(walked.len(), expected.len(), "{state:?} {walked:?}");
            for (seen, (slot, m)) in walked.iter().zip(expected) {
                let deadline = m.in_flight().then_some(Millis(m.at));
                let wanted = (Slot(*slot), m.attempt, m.delivery, deadline);
                assert_eq!((seen.slot, seen.attempt, seen.delivery, seen.deadline), wanted);
                assert!(self.shard.exists(seen.slot));
            }
        }
        let quiet = |m: &M| m.place == Place::Dead || m.is_ready();
        let deaf = stats.waiters == 0 && self.model.streams.is_empty();
        assert_eq!(self.shard.idle(), deaf && !owes && live.values().all(quiet));
    }

    pub(super) fn compare_disk(&self) {
        assert_eq!(self.disk.rows.len(), self.model.durable.len());
        for (row, (slot, m)) in self.disk.rows.values().zip(&self.model.durable) {
            assert_eq!(row.stored.slot.0, *slot);
            let letter = self.disk.letters.get(&row.stored.slot);
            let told = letter.map(|letter| (letter.reason.clone(), letter.last_error.clone()));
            assert_eq!(told, m.letter);
            assert_eq!(letter.map_or(m.attempt, |letter| letter.attempts), m.attempt);
            let Some(state) = row.state else {
                assert_eq!((m.delivery, m.at), (0, row.stored.due.unwrap_or_default().0));
                continue;
            };
            let phase = match m.place {
                Place::Ready => Phase::Ready,
                Place::Leased => Phase::Leased,
                Place::Delayed => Phase::Delayed,
                Place::Dead => Phase::Dead,
            };
            let (attempt, delivery, settled, noted) = (m.attempt, m.delivery, m.settled, m.noted);
            let at = Millis(m.at);
            let revived = state.revived;
            assert_eq!(revived.map(|revived| (revived.at.0, revived.deliveries)), m.revived);
            assert_eq!(state, MsgState { phase, at, attempt, delivery, settled, noted, revived });
        }
    }
}
