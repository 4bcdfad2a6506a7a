//! What waits for the store's next turn. It belongs to the store and not to its actor: the committing thread
//! takes the next batch itself, without waiting to be scheduled between two commits, and what waits survives a
//! restart of the actor.

use super::cell::{Ask, LoadRequest};
use super::objects::ObjectJob;
use super::unit::Unit;
use super::{ShardEpoch, UnitFailure};
use ron_core::drr::{Drr, Parcel, TurnLimits};
use ron_core::ids::ShardId;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Payload bytes in one commit. A sender whose answer has just come misses the turn that begins then, which a noisy
/// neighbour fills: so a turn is short. Measured with `ronctl bench neighbours` (docs/BENCHMARKS.md).
const TURN_BYTES_MAX: usize = 2 << 20;
/// Units in one commit.
const TURN_UNITS_MAX: usize = 8_192;

/// Bytes of objects in one commit: half of a turn, so that they hold up messages for no longer than those each other.
const OBJECT_BYTES_MAX: usize = 1 << 20;

/// What one turn of the store does, in this order.
#[derive(Default)]
pub(crate) struct Turn {
    pub(crate) units: Vec<Unit>,
    pub(crate) asks: Vec<Ask>,
    pub(crate) loads: Vec<LoadRequest>,
    /// In turns of their own, so that no message waits for their commit.
    pub(crate) objects: Vec<ObjectJob>,
}

impl Turn {
    pub(crate) fn is_empty(&self) -> bool {
        self.only_objects() && self.objects.is_empty()
    }

    fn only_objects(&self) -> bool {
        self.units.is_empty() && self.asks.is_empty() && self.loads.is_empty()
    }

    /// Ends everything in it without having tried it.
    pub(crate) fn refuse(self) {
        self.units.into_iter().for_each(|unit| unit.refuse(UnitFailure::NotTried));
        self.asks.into_iter().for_each(|ask| ask(Err(UnitFailure::NotTried)));
        // A load that is dropped is answered: the store is being restarted. So is an object.
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
    /// Payload bytes of its units.
    bytes: usize,
    /// Of each ask, how many units were handed in before it.
    asked_at: VecDeque<u64>,
    handed_in: u64,
    /// Whose turn it is when not all of it fits.
    drr: Drr,
    enlisted: Counts,
    /// The last turn was one of objects: the next is not, if something else waits.
    objects_had_theirs: bool,
    /// Somebody has promised to take what is here.
    driven: bool,
}

/// What to put into the queue.
#[allow(clippy::large_enum_variant, reason = "it is moved once, into the queue")]
pub(crate) enum Item {
    Unit(Unit),
    Ask(Ask),
    Load(LoadRequest),
    Object(ObjectJob),
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
                waiting.handed_in += 1;
                unit.place = waiting.handed_in;
                waiting.bytes += unit.bytes();
                waiting.turn.units.push(unit);
            }
            Item::Ask(ask) => {
                let place = waiting.handed_in;
                waiting.asked_at.push_back(place);
                waiting.turn.asks.push(ask);
            }
            Item::Load(load) => waiting.turn.loads.push(load),
            Item::Object(job) => waiting.turn.objects.push(job),
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
        if let Some(turn) = waiting.turn_of_objects() {
            return Some(turn);
        }
        let units = waiting.turn.units.len();
        if units <= 1 || (waiting.bytes <= TURN_BYTES_MAX && units <= TURN_UNITS_MAX) {
            return Some(waiting.take_rest());
        }
        Some(waiting.cut())
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
            waiting.take_all()
        };
        turn.refuse(); // outside the lock: who is told may hand in more
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn take_all(&mut self) -> Turn {
        let objects = std::mem::take(&mut self.turn.objects);
        Turn { objects, ..self.take_rest() }
    }

    /// All but the objects.
    fn take_rest(&mut self) -> Turn {
        self.bytes = 0;
        self.asked_at.clear();
        let objects = std::mem::take(&mut self.turn.objects);
        std::mem::replace(&mut self.turn, Turn { objects, ..Turn::default() })
    }

    /// Every other turn, while objects and others wait.
    fn turn_of_objects(&mut self) -> Option<Turn> {
        let others = !self.turn.only_objects();
        self.objects_had_theirs = !(self.turn.objects.is_empty() || self.objects_had_theirs && others);
        if !self.objects_had_theirs {
            return None;
        }
        let mut bytes = 0;
        let mut fits = |job: &ObjectJob| {
            bytes += job.bytes();
            bytes <= OBJECT_BYTES_MAX
        };
        let fitting = self.turn.objects.iter().take_while(|job| fits(job)).count().max(1);
        Some(Turn { objects: self.turn.objects.drain(..fitting).collect(), ..Turn::default() })
    }

    /// One turn out of more than fits: the tenants take turns.
    fn cut(&mut self) -> Turn {
        let parcels: Vec<Parcel> = self.turn.units.iter().map(Unit::parcel).collect();
        let limits = TurnLimits { parcels: TURN_UNITS_MAX, bytes: TURN_BYTES_MAX as u64 };
        let mut taken = self.drr.cut(&parcels, limits).into_iter();
        let units = self.turn.units.extract_if(.., |_| taken.next().unwrap_or(false)).collect();
        self.bytes = self.turn.units.iter().map(Unit::bytes).sum();
        // Asks answer for all that was put in before them, loads for what their shard did.
        let oldest = self.turn.units.first().map_or(u64::MAX, |unit| unit.place);
        let answered = self.asked_at.partition_point(|place| *place < oldest);
        self.asked_at.drain(..answered);
        let asks = self.turn.asks.drain(..answered).collect();
        let busy: BTreeSet<ShardId> = self.turn.units.iter().map(|unit| unit.shard).collect();
        let free = |load: &mut LoadRequest| !busy.contains(&load.shard);
        let loads = self.turn.loads.extract_if(.., free).collect();
        Turn { units, asks, loads, objects: Vec::new() }
    }

    fn number(&mut self, unit: &mut Unit) {
        let (epoch, count) = self.enlisted.of(unit.shard, unit.epoch());
        if *epoch == unit.epoch() {
            *count += 1;
            unit.number = *count;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Work;
    use crate::store::objects::ObjectOp;
    use bytes::Bytes;
    use ron_core::drr::Share;
    use ron_core::ids::ContentHash;
    use ron_core::message::{MessageMeta, NewMessage};
    use ron_core::objects::UploadId;
    use tokio::sync::oneshot;

    fn unit(tenant: u32, shard: u32, bytes: usize) -> Unit {
        let payload = Bytes::from(vec![0; bytes]);
        let meta = MessageMeta {
            content_type: "text/plain".into(),
            attrs: Vec::new(),
            idempotency_key: None,
            corr_id: "c".into(),
            source_msg_id: None,
            body_ref: None,
        };
        let payload_hash = ContentHash([0; 32]);
        let message = NewMessage { payload, payload_hash, meta, delay_ms: 0, ttl_ms: None, dedup: None };
        let puts = if bytes == 0 { Vec::new() } else { vec![message] };
        let work = Work { puts, ..Work::default() };
        Unit::new(ShardId(shard), work, None, None).sharing(Share { tenant, weight: 1 })
    }

    fn shards(turn: &Turn) -> Vec<u32> {
        turn.units.iter().map(|unit| unit.shard.0).collect()
    }

    #[test]
    fn all_that_fits_is_one_turn_in_the_order_it_came() {
        let queue = Queue::default();
        for shard in [3, 1, 2] {
            queue.push(Item::Unit(unit(shard, shard, 1_000)));
        }
        queue.push(Item::Ask(Box::new(|_| {})));
        let turn = queue.take().unwrap();
        assert_eq!((shards(&turn), turn.asks.len()), (vec![3, 1, 2], 1));
        assert!(queue.take().is_none());
    }

    #[test]
    fn objects_have_every_other_turn_and_bounded_bytes() {
        let queue = Queue::default();
        let job = || {
            let op = ObjectOp::Grow(UploadId(1), vec![0; 400_000].into());
            Item::Object(ObjectJob { op, reply: oneshot::channel().0 })
        };
        for _ in 0..5 {
            queue.push(job());
        }
        queue.push(Item::Unit(unit(1, 1, 1_000)));
        let mut turns = Vec::new();
        while let Some(turn) = queue.take() {
            turns.push((turn.objects.len(), turn.units.len()));
            if turns.len() == 2 {
                queue.push(Item::Unit(unit(1, 1, 1_000)));
            }
        }
        assert_eq!(turns, [(2, 0), (0, 1), (2, 0), (0, 1), (1, 0)]);
        queue.push(job());
        assert!(!queue.is_empty() && queue.waits());
        queue.refuse_all();
        assert!(queue.is_empty(), "whoever waits for it is told by its being dropped");
    }

    #[test]
    fn a_quiet_tenant_shares_the_first_turn_and_its_ask_waits_for_what_was_before() {
        let queue = Queue::default();
        for _ in 0..100 {
            queue.push(Item::Unit(unit(1, 1, 100_000)));
        }
        queue.push(Item::Unit(unit(2, 2, 100_000)));
        queue.push(Item::Unit(unit(2, 3, 0)));
        queue.push(Item::Ask(Box::new(|_| {})));
        let first = queue.take().unwrap();
        assert_eq!(shards(&first).iter().filter(|shard| **shard != 1).count(), 2, "{:?}", shards(&first));
        assert!(first.units.len() * 100_000 > TURN_BYTES_MAX / 2 && first.asks.is_empty());
        let mut rest = 0;
        let mut asks = 0;
        while let Some(turn) = queue.take() {
            rest += turn.units.len();
            asks += turn.asks.len();
        }
        assert_eq!((first.units.len() + rest, asks), (102, 1));
    }
}
