//! What waits for the store's next turn. It belongs to the store and not to its actor: the committing thread
//! takes the next batch itself, without waiting to be scheduled between two commits, and what waits survives a
//! restart of the actor.

use super::cell::{Ask, LoadRequest};
use super::unit::Unit;
use super::{ShardEpoch, UnitFailure};
use ron_core::ids::ShardId;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Payload bytes in one commit.
const TURN_BYTES_MAX: usize = 4 << 20;
/// Units in one commit.
const TURN_UNITS_MAX: usize = 8_192;

/// What one turn of the store does, in this order.
#[derive(Default)]
pub(crate) struct Turn {
    pub(crate) units: Vec<Unit>,
    pub(crate) asks: Vec<Ask>,
    pub(crate) loads: Vec<LoadRequest>,
}

impl Turn {
    pub(crate) fn is_empty(&self) -> bool {
        self.units.is_empty() && self.asks.is_empty() && self.loads.is_empty()
    }

    /// Ends everything in it without having tried it.
    pub(crate) fn refuse(self) {
        self.units.into_iter().for_each(|unit| unit.refuse(UnitFailure::NotTried));
        self.asks.into_iter().for_each(|ask| ask(Err(UnitFailure::NotTried)));
        // A load that is dropped is answered: the store is being restarted.
    }
}

/// Units of each shard's newest load.
#[derive(Debug, Default)]
pub(crate) struct Counts(HashMap<ShardId, (ShardEpoch, u64)>);

impl Counts {
    /// The shard's count; it begins anew if `epoch` is newer.
    pub(crate) fn of(&mut self, shard: ShardId, epoch: ShardEpoch) -> &mut (ShardEpoch, u64) {
        let count = self.0.entry(shard).or_default();
        if count.0 < epoch {
            *count = (epoch, 0);
        }
        count
    }
}

/// See the module.
#[derive(Default)]
pub(crate) struct Queue(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    turn: Turn,
    enlisted: Counts,
    /// Somebody has promised to take what is here.
    driven: bool,
}

/// What to put into the queue.
#[allow(clippy::large_enum_variant, reason = "it is moved once, into the queue")]
pub(crate) enum Item {
    Unit(Unit),
    Ask(Ask),
    Load(LoadRequest),
}

impl Queue {
    /// Puts an item behind the others. True if nobody has promised to take it: the caller must see to that.
    ///
    /// A unit is numbered here. Whatever then becomes of it, those of its shard behind it are committed only if
    /// it was: a shard's work, and its answers, rest on all it did before.
    pub(crate) fn push(&self, item: Item) -> bool {
        let mut waiting = self.lock();
        match item {
            Item::Unit(mut unit) => {
                waiting.number(&mut unit);
                waiting.turn.units.push(unit);
            }
            Item::Ask(ask) => waiting.turn.asks.push(ask),
            Item::Load(load) => waiting.turn.loads.push(load),
        }
        !std::mem::replace(&mut waiting.driven, true)
    }

    /// Numbers a unit that is not put into the queue.
    pub(crate) fn enlist(&self, unit: &mut Unit) {
        self.lock().number(unit);
    }

    /// The next turn; `None`, and the promise ends, if nothing waits.
    pub(crate) fn take(&self) -> Option<Turn> {
        let mut waiting = self.lock();
        if waiting.turn.is_empty() {
            waiting.driven = false;
            return None;
        }
        let mut bytes = 0;
        let fits = |unit: &&Unit| {
            bytes += unit.bytes();
            bytes <= TURN_BYTES_MAX
        };
        let units = &waiting.turn.units;
        // At least one: a unit larger than a turn has a turn of its own.
        let n = units.iter().take(TURN_UNITS_MAX).take_while(fits).count().max(1);
        if n >= units.len() {
            return Some(std::mem::take(&mut waiting.turn));
        }
        // Asks and loads answer for all that was put in before them: they wait until that is committed.
        let rest = waiting.turn.units.split_off(n);
        let units = std::mem::replace(&mut waiting.turn.units, rest);
        Some(Turn { units, ..Turn::default() })
    }

    /// Whether a turn could be taken.
    pub(crate) fn is_empty(&self) -> bool {
        self.lock().turn.is_empty()
    }

    /// Whether a turn must be begun; if none, the promise ends.
    pub(crate) fn waits(&self) -> bool {
        let mut waiting = self.lock();
        waiting.driven = !waiting.turn.is_empty();
        waiting.driven
    }

    /// Promises to take what is here and what comes: for an actor that has just started.
    pub(crate) fn promise(&self) {
        self.lock().driven = true;
    }

    /// Ends everything that waits without having tried it: nobody is there to take it.
    pub(crate) fn refuse_all(&self) {
        let turn = {
            let mut waiting = self.lock();
            waiting.driven = false;
            std::mem::take(&mut waiting.turn)
        };
        turn.refuse(); // outside the lock: who is told may hand in more
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn number(&mut self, unit: &mut Unit) {
        let (epoch, count) = self.enlisted.of(unit.shard, unit.epoch());
        if *epoch == unit.epoch() {
            *count += 1;
            unit.number = *count;
        }
    }
}
