//! A unit: what one shard wants committed, and who is told. A unit that is dropped, in whatever way, still tells
//! them: that is what keeps a shard from waiting for a commit that died with the store's actor.

use super::ShardEpoch;
use super::engine::Work;
use super::error::UnitFailure;
use ron_core::drr::{Parcel, Share};
use ron_core::ids::ShardId;
use ron_core::message::PutOutcome;
use ron_core::shard::Ticket;
use std::fmt;
use std::sync::Arc;

/// What became of a unit.
pub type UnitResult<'a> = Result<&'a [PutOutcome], UnitFailure>;

/// The shard that a unit came from. Called on the committing thread: must not block.
pub trait ShardSink: Send + Sync + fmt::Debug {
    /// The ticket's work is in the store; the outcomes of its puts, in order.
    fn committed(&self, ticket: Ticket, outcomes: &[PutOutcome]);
    /// The ticket's work failed: the shard must load itself anew.
    fn failed(&self, failure: UnitFailure);
}

/// Called with the unit's result after all shards of its commit have been told.
pub type OnDone = Box<dyn FnOnce(UnitResult<'_>) + Send>;

/// What one shard wants committed.
pub struct Unit {
    /// Whose.
    pub shard: ShardId,
    /// Its place among the units of its shard's load, from 1; given when it is handed in.
    pub(crate) number: u64,
    /// Its place among all that was handed in.
    pub(crate) place: u64,
    share: Share,
    bytes: usize,
    work: Work,
    sink: Option<(Ticket, Arc<dyn ShardSink>)>,
    on_done: Option<OnDone>,
}

impl Unit {
    /// Work of `shard` under `ticket`; the sink hears of it before `on_done` is called.
    pub fn new(
        shard: ShardId,
        work: Work,
        ticket: Option<(Ticket, Arc<dyn ShardSink>)>,
        on_done: Option<OnDone>,
    ) -> Unit {
        let copies = work.copies.as_ref().map_or(0, |copies| copies.messages.len());
        let bytes = work.puts.iter().map(|message| message.payload.len() + 256).sum::<usize>() + copies * 64;
        Unit { shard, number: 0, place: 0, share: Share::default(), bytes, work, sink: ticket, on_done }
    }

    /// The same as work of a tenant that shares the store with others.
    #[must_use]
    pub fn sharing(mut self, share: Share) -> Unit {
        self.share = share;
        self
    }

    /// Payload bytes it brings.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// What the rounds of the tenants see of it.
    pub(crate) fn parcel(&self) -> Parcel {
        Parcel { share: self.share, shard: self.shard, bytes: self.bytes as u64 }
    }

    pub(crate) fn epoch(&self) -> ShardEpoch {
        self.work.epoch
    }

    pub(crate) fn take_work(&mut self) -> (ShardId, Work) {
        (self.shard, std::mem::take(&mut self.work))
    }

    pub(crate) fn tell_shard(&mut self, result: UnitResult<'_>) {
        if let Some((ticket, sink)) = self.sink.take() {
            match result {
                Ok(outcomes) => sink.committed(ticket, outcomes),
                Err(failure) => sink.failed(failure),
            }
        }
    }

    pub(crate) fn answer(&mut self, result: UnitResult<'_>) {
        if let Some(on_done) = self.on_done.take() {
            on_done(result);
        }
    }

    /// Ends it without having tried it.
    pub(crate) fn refuse(mut self, failure: UnitFailure) {
        self.tell_shard(Err(failure));
        self.answer(Err(failure));
    }
}

impl Drop for Unit {
    fn drop(&mut self) {
        let sure = ron_core::planted!(IndeterminateSaidFailed);
        let failure = if sure { UnitFailure::NotTried } else { UnitFailure::Indeterminate };
        self.tell_shard(Err(failure));
        self.answer(Err(failure));
    }
}

impl fmt::Debug for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unit").field("shard", &self.shard).field("work", &self.work).finish_non_exhaustive()
    }
}
