//! The durable store: one file with a journal and redb's tables, group commit, chunks and delta rows (ARCHITECTURE.md,
//! "The store").
//!
//! The only place that names redb. Memory elsewhere is a cache of what is in here, never the truth.

pub mod actor;
pub mod backend;
mod ballast;
pub mod cell;
mod check;
mod chunks;
mod codec;
mod copy;
mod copy_objects;
mod cut;
mod engine;
mod error;
pub mod fanout;
mod faults;
mod findings;
mod finish;
mod fold;
mod identity;
mod inventory;
mod journal;
mod letters;
mod load;
mod locks;
mod object_book;
mod objects;
pub mod offline;
mod pace;
mod prepare;
mod queue;
mod read;
mod recover;
mod refs;
mod renew;
mod restore;
mod schema;
pub mod scrub;
pub mod snapshots;
mod still;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_keep;
#[cfg(test)]
mod tests_lost;
mod topics;
mod txn;
pub mod unit;
mod untouched;
mod volatile;
mod volume;

pub use actor::{Store, StoreActor, StoreArgs};
pub use backend::{FileMedium, FilePlace, Medium, RamBackend, RamMedium};
pub use ballast::Ballasted;
pub use cell::{EngineCell, Opened};
pub use check::Checker;
pub use codec::Head;
pub use cut::{CutChunk, Cutter};
pub use engine::{Engine, StoreFigures, TopicRow, Work};
pub use error::{StoreError, UnitFailure};
pub use fanout::{Copies, FanBook, ListEdit};
pub use faults::DeviceFaults;
pub use findings::{Damage, Findings};
pub use identity::{Identity, PastLife, SnapshotMark};
pub use load::LoadJob;
pub use object_book::{OBJECT_WHOLE_MAX, ObjectBook, ObjectReader, Upload};
pub use read::{ChunkImage, ReadFailure, Reader};
pub use recover::{BootCounts, ClockFrom, Opening};
pub use renew::{Place, Renewing};
pub use restore::{Plan, Replaced, RestoreError, Restored, TopicRestored};
pub use schema::OBJECT_BYTES_MAX;
pub use scrub::Scrub;
pub use snapshots::{SnapshotConfig, SnapshotError, SnapshotFile, Snapshots, list_snapshots};
pub use unit::{OnDone, ShardSink, Unit, UnitResult};
pub use volume::Volume;

use crate::blocking::Blocking;
use ron_core::objects::ObjectLimits;
use std::fmt;

/// Bytes of a journal, unless told otherwise: a checkpoint of so much takes a few milliseconds.
pub const JOURNAL_BYTES: u64 = 4 << 20;

/// How a store is run.
#[derive(Debug, Clone)]
pub struct StoreConfig {
    /// redb's page cache, bytes. Its own default is 1 GiB.
    pub cache_bytes: usize,
    /// The cache of the newest bodies, bytes.
    pub body_cache_bytes: usize,
    /// Two fsyncs a commit: protects against torn commits whose checksum an attacker could craft, since bodies
    /// are attacker data. Ignored in RAM. With a journal only its checkpoints are such commits.
    pub two_phase_commit: bool,
    /// Bytes of the journal of a store that is made; 0 = none. One that exists keeps what it was made with.
    pub journal_bytes: u64,
    /// Live idempotency keys of the whole node.
    pub dedup_keys_max: usize,
    /// Live idempotency keys of one topic.
    pub dedup_keys_topic_max: usize,
    /// Free bytes of the file that are given back when the store is closed in good order, if they are more than half of
    /// it; 0 = never.
    pub compact_free_bytes: u64,
    /// Bytes of messages that are kept in memory alone, all topics.
    pub ram_bytes_max: usize,
    /// How much objects may be.
    pub objects: ObjectLimits,
    /// What a shard may cost to be read within a turn of the store; above it, it is read from a snapshot. A chunk costs
    /// 1, and 1 for each 64 messages in it, whosever they are: some 10 µs.
    pub load_cost_max: u64,
    /// Where commits, loads and reads run.
    pub blocking: Blocking,
}

impl Default for StoreConfig {
    fn default() -> StoreConfig {
        StoreConfig {
            cache_bytes: 16 << 20,
            body_cache_bytes: 16 << 20,
            two_phase_commit: true,
            journal_bytes: JOURNAL_BYTES,
            dedup_keys_max: 8_000_000,
            dedup_keys_topic_max: 1_000_000,
            compact_free_bytes: 0,
            ram_bytes_max: 64 << 20,
            objects: ObjectLimits::default(),
            load_cost_max: 64,
            blocking: Blocking::Pool,
        }
    }
}

/// Counts the loads of a shard, and the commits with work of its that were lost: work signed with an older one is
/// refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ShardEpoch {
    loads: u32,
    lost: u32,
}

impl ShardEpoch {
    /// Of work that rests on something that was lost: never in force.
    pub(crate) const UNFOUNDED: ShardEpoch = ShardEpoch { loads: u32::MAX, lost: u32::MAX };

    /// It is loaded anew.
    pub(crate) fn loaded(self) -> ShardEpoch {
        ShardEpoch { loads: self.loads.wrapping_add(1), ..self }
    }

    /// The store lost a commit of its.
    pub(crate) fn lost(self) -> ShardEpoch {
        ShardEpoch { lost: self.lost.wrapping_add(1), ..self }
    }

    /// What to tell of work that was signed with `work` when this one is in force: `None` = it is fresh.
    pub(crate) fn refuses(self, work: ShardEpoch) -> Option<UnitFailure> {
        match work {
            work if work == self => None,
            work if work.lost != self.lost => Some(UnitFailure::NotTried),
            _ => Some(UnitFailure::StaleEpoch),
        }
    }
}

impl fmt::Display for ShardEpoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.loads, self.lost)
    }
}

/// Who is told of every commit, for the metrics.
pub trait StoreObserver: Send + Sync + fmt::Debug {
    /// A commit took `seconds` and held `size` messages and changes.
    fn committed(&self, seconds: f64, size: usize);
    /// A commit, or a reopening, failed.
    fn failed(&self);
    /// The store was reopened, and serves again.
    fn reopened(&self) {}
}
