//! What always holds between two commands. The tests check it after each one; it walks everything.
//!
//! | id | invariant |
//! |---|---|
//! | Q1 | accepted = acked + expired + purged + ready + delayed + in flight + dead |
//! | Q2 | a message is in exactly one place |
//! | Q3 | every lease, delay, end of a ready message and dead letter is in its time index once, and nothing else is |
//! | Q4 | a receive waits only while nothing is ready, too much is in flight, it is paused, or it has no credit |
//! | Q5 | what waits is known under one name, one turn, one end |
//! | Q6 | room reserved = the sum of what enqueues still owe |
//! | Q7 | attempt ≤ delivery; in flight means handed out and not settled |
//! | Q8 | fresh runs rise and have a length for each message |
//! | Q9 | a stream holds what it was handed and is still leased, and no more than it said |
//! | Q10 | where order is strict, groups are what the messages say, and only ready heads are handed out |
//! | Q11 | every reprocessed ready message stands in one place of its own, and none is behind the tail |

use super::Shard;
use crate::ids::Slot;
use crate::message::Settled;
use crate::time::Millis;
use std::collections::{BTreeMap, BTreeSet};

/// An invariant that does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{id}: {text}")]
pub struct Violation {
    /// Which, as in the table of this module.
    pub id: &'static str,
    /// What was found.
    pub text: String,
}

fn ensure(holds: bool, id: &'static str, text: impl FnOnce() -> String) -> Result<(), Violation> {
    if holds { Ok(()) } else { Err(Violation { id, text: text() }) }
}

impl Shard {
    /// Checks all invariants; O(messages that are not fresh), and O(runs).
    ///
    /// # Errors
    /// The first one that does not hold.
    pub fn check(&self) -> Result<(), Violation> {
        let stats = self.stats();
        let live = stats.ready + stats.delayed + stats.vis + stats.dlq;
        ensure(
            self.tally.accepted == self.tally.acked + self.tally.expired + self.tally.purged + live,
            "Q1",
            || format!("{:?} but {stats:?}", self.tally),
        )?;
        self.check_places()?;
        index_matches("deadlines", &self.leased, &self.deadlines, |msg| Some(msg.at))?;
        index_matches("dues", &self.delayed, &self.dues, |msg| Some(msg.at))?;
        let ready = self.returned.iter().chain(&self.revived).map(|(&slot, &msg)| (slot, msg)).collect();
        index_matches("expiring", &ready, &self.expiring, |msg| Some(self.end_of(msg)))?;
        index_matches("buried", &self.dead, &self.buried, |corpse| Some(corpse.at))?;
        let may_wait = self.next_ready().is_none() || self.room() == 0;
        ensure(!self.waiters.any_in_line() || may_wait, "Q4", || {
            format!("{} receives wait while {} are ready", self.waiters.len(), stats.ready)
        })?;
        ensure(self.waiters.consistent(), "Q5", || format!("{:?}", self.waiters))?;
        ensure(self.streams.consistent(&self.leased), "Q9", || format!("{:?}", self.streams))?;
        let owed: u64 = self.puts.iter().map(|&(_, count)| u64::from(count)).sum();
        ensure(self.reserved == owed, "Q6", || format!("{} reserved, {owed} owed", self.reserved))?;
        self.check_counters()?;
        let places: BTreeMap<_, _> = self.revived.iter().map(|(&slot, msg)| (msg.place(), slot)).collect();
        let own = self.revived.values().all(|msg| msg.turn > 0 && msg.place() <= self.tail)
            && self.returned.values().all(|msg| msg.turn == 0);
        ensure(own && places.len() == self.revived.len() && places == self.places, "Q11", || {
            format!("{:?} instead of {places:?}, tail {:?}", self.places, self.tail)
        })?;
        ensure(self.fresh.consistent(), "Q8", || "fresh runs".to_owned())?;
        ensure(self.groups_consistent(), "Q10", || format!("{:?}", self.groups))
    }

    fn check_places(&self) -> Result<(), Violation> {
        let mut seen = BTreeSet::new();
        let maps = [&self.returned, &self.revived, &self.leased, &self.delayed];
        let slots = maps.into_iter().flat_map(|map| map.keys()).chain(self.dead.keys());
        for &slot in slots {
            let once = seen.insert(slot) && !self.fresh.contains(slot);
            ensure(once, "Q2", || format!("{slot:?} is in two places"))?;
        }
        Ok(())
    }

    fn check_counters(&self) -> Result<(), Violation> {
        let maps = [&self.returned, &self.revived, &self.leased, &self.delayed];
        for (slot, msg) in maps.into_iter().flatten() {
            ensure(msg.attempt <= msg.delivery, "Q7", || format!("{slot:?} {msg:?}"))?;
        }
        for (slot, msg) in &self.leased {
            let out = msg.attempt > 0 && msg.settled == Settled::No;
            ensure(out, "Q7", || format!("{slot:?} in flight as {msg:?}"))?;
        }
        Ok(())
    }
}

fn index_matches<M>(
    name: &str,
    map: &BTreeMap<Slot, M>,
    index: &BTreeSet<(Millis, Slot)>,
    time: impl Fn(&M) -> Option<Millis>,
) -> Result<(), Violation> {
    let expected: BTreeSet<_> = map.iter().filter_map(|(&slot, msg)| Some((time(msg)?, slot))).collect();
    ensure(&expected == index, "Q3", || format!("{name}: {index:?} instead of {expected:?}"))
}
