//! The tables of the store, and nothing else. STORE's schema; every value starts with the XXH3-64 of the rest,
//! since redb does not verify what it reads.

use super::error::StoreError;
use super::txn::Change;
use redb::{TableDefinition, TableHandle, WriteTransaction};

/// name → value: format, incarnation, receipt key, next chunk, node time.
pub(crate) const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
/// shard → tenant, topic, settings, what is paused. Written at a topic's first use and when one of them changes.
pub(crate) const TOPIC: TableDefinition<'_, u32, &[u8]> = TableDefinition::new("topic");
/// chunk → time, directory by shard, and one entry a message: what recovery reads instead of bodies.
pub(crate) const HEAD: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("head");
/// `chunk << 8 | part` → the records of the chunk, back to back, cut at [`BODY_PART_BYTES_MAX`].
pub(crate) const BODY: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("body");
/// running number → all state changes of one commit, as runs. Folded into `STATE` later.
pub(crate) const DELTA: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("delta");
/// chunk → which of its messages are gone, and the states of those that were handed out.
pub(crate) const STATE: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("state");
/// slot → the last error a consumer gave.
pub(crate) const NOTE: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("note");
/// (shard, slot) → the dead letter.
pub(crate) const DLQ: TableDefinition<'_, (u32, u64), &[u8]> = TableDefinition::new("dlq");
/// (shard, number) → a task of the topic. Written with what it moves.
pub(crate) const TASK: TableDefinition<'_, (u32, u64), &[u8]> = TableDefinition::new("task");
/// (expiry bucket, chunk) → idempotency keys, written with their messages.
pub(crate) const DEDUP: TableDefinition<'_, (u64, u64), &[u8]> = TableDefinition::new("dedup");

/// source's shard → whose list of subscribers it is, and its version. Stays while somebody waits, though the topic
/// be gone.
pub(crate) const LIST: TableDefinition<'_, u32, &[u8]> = TableDefinition::new("list");
/// (source's shard, number) → a subscription: who, which messages, from which place to which.
pub(crate) const SUBS: TableDefinition<'_, (u32, u32), &[u8]> = TableDefinition::new("subs");
/// (source's shard, page) → cursors of 512 subscriptions, as runs. Written with the copies.
pub(crate) const FAN: TableDefinition<'_, (u32, u32), &[u8]> = TableDefinition::new("fan");

/// redb allocates a value in 2^k × 4 KiB: 61,000 bytes cost 1.24×, 65,536 cost 2.25×. Chunks are cut below.
pub(crate) const BODY_PART_BYTES_MAX: usize = 61_000;

/// shard → node time since when its lease clocks stand still. Gone when a later load has written its leases.
pub(crate) const STILL: TableDefinition<'_, u32, &[u8]> = TableDefinition::new("still");

/// number → an object: whose, its address and length, when it was last uploaded; or that an upload has begun.
pub(crate) const OBJECT: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("object");
/// `number << 16 | part` → a part of an object's bytes behind a checksum of that key and of them, cut at
/// [`OBJECT_PART_BYTES`].
pub(crate) const OBJECT_PART: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("object_part");

/// Bytes of an object in one part; all but the last have as many.
pub(crate) const OBJECT_PART_BYTES: usize = BODY_PART_BYTES_MAX - 8;
/// The largest object, bytes: one is removed in one commit, which others wait for. A part's number has 16 bits.
pub const OBJECT_BYTES_MAX: u64 = 256 << 20;

/// The key of a part of an object.
pub(crate) const fn object_key(number: u64, part: u64) -> u64 {
    (number << 16) | part
}

/// Width of an expiry bucket of `DEDUP`, ms.
pub(crate) const DEDUP_BUCKET_MS: u64 = 600_000;

/// The format of this schema; a store with another one is refused. 2: topics have settings. 3: either states know
/// of reprocessing, or a chunk's number is even and settings name a durability. 4: both. 5: a head's message may be
/// a copy. 6: a journal stands before the tables. 7: there are objects, and a head's message may refer to one.
pub(crate) const FORMAT: u32 = 7;
/// The oldest format that is taken over: it has no objects, and is otherwise the same.
pub(crate) const FORMAT_TAKEN_OVER: u32 = 6;

/// The key of a body part.
pub(crate) const fn body_key(chunk: u64, part: usize) -> u64 {
    (chunk << 8) | part as u64
}

macro_rules! journaled {
    ($($number:literal => $table:ident),*) => {
        /// The number of a table in the journal.
        pub(crate) fn number(name: &str) -> u8 {
            $(if name == $table.name() {
                return $number;
            })*
            u8::MAX
        }

        /// Does a change of the journal in its table.
        pub(crate) fn redo(txn: &WriteTransaction, change: Change<'_>) -> Result<(), StoreError> {
            match change.table {
                $($number => change.redo(txn, $table),)*
                _ => Err(StoreError::damaged("journal", "-", "a table that this build does not know")),
            }
        }
    };
}
// Numbers stay what they are: journals hold them.
journaled!(
    0 => META, 1 => TOPIC, 2 => HEAD, 3 => BODY, 4 => DELTA, 5 => STATE, 6 => NOTE,
    7 => DLQ, 8 => TASK, 9 => DEDUP, 10 => LIST, 11 => SUBS, 12 => FAN, 13 => STILL, 14 => OBJECT,
    15 => OBJECT_PART
);
