//! Who a store is: its incarnation, and those it had before it was restored from snapshots. A message keeps the id
//! that it was given under the incarnation of its time; only receipts are worth nothing after a restore.

use super::codec::open_value;
use super::engine::write_meta;
use super::error::StoreError;
use super::schema::META;
use redb::{ReadableTable, WriteTransaction};
use ron_core::ids::{Incarnation, MessageId, Slot};
use ron_core::receipt::ReceiptKey;
use ron_core::time::Millis;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The row of `META` with the secret that receipts are tagged with.
pub(crate) const RECEIPT_KEY: &str = "receipt_key";
/// The row of `META` that marks a snapshot.
const SNAPSHOT: &str = "snapshot";
/// The row of `META` with the lives before.
const PAST: &str = "past";

/// Facts of a store that never change while it is open.
#[derive(Debug, Clone)]
pub struct Identity {
    /// New at creation, at restore, and at every start in RAM mode.
    pub incarnation: Incarnation,
    /// What receipts are tagged with.
    pub receipt_key: Arc<ReceiptKey>,
    /// The incarnations before, oldest first: one a restore.
    pub past: Arc<[PastLife]>,
}

/// What a store was until it was restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PastLife {
    /// Its incarnation then.
    pub incarnation: u64,
    /// Chunks below this one, and not below that of the life before, were given in it.
    pub until_chunk: u64,
    /// When the restore ended it, node time.
    pub restored_at: Millis,
}

/// What a snapshot says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotMark {
    /// When it was cut, wall clock.
    pub taken_at: Millis,
    /// The same moment in node time.
    pub node_time: Millis,
    /// The first chunk that is not in it: it holds what was committed below, and nothing above.
    pub next_chunk: u64,
    /// Live messages in it.
    pub messages: u64,
    /// Topics in it.
    pub topics: u64,
    /// Idempotency keys in it.
    pub dedup_keys: u64,
    /// Live messages that the node kept in memory alone, and that are not in it.
    pub ram_messages: u64,
}

impl Identity {
    /// Reads it from the table of marks.
    ///
    /// # Errors
    /// A row is missing or damaged.
    pub(crate) fn read(
        meta: &impl ReadableTable<&'static str, &'static [u8]>,
    ) -> Result<Identity, StoreError> {
        let missing = |name: &'static str| move || StoreError::damaged("meta", name, "missing");
        let incarnation: u64 = mark(meta, "incarnation")?.ok_or_else(missing("incarnation"))?;
        let receipt_key: [u8; 32] = mark(meta, RECEIPT_KEY)?.ok_or_else(missing(RECEIPT_KEY))?;
        let past: Vec<PastLife> = mark(meta, PAST)?.unwrap_or_default();
        Ok(Identity {
            incarnation: Incarnation(incarnation),
            receipt_key: Arc::new(ReceiptKey::new(receipt_key)),
            past: past.into(),
        })
    }

    /// The id of the message in `slot`.
    #[must_use]
    pub fn message_id(&self, enqueued: Millis, slot: Slot) -> MessageId {
        let past = self.past.iter().find(|life| slot.chunk() < life.until_chunk);
        MessageId::new(enqueued, past.map_or(self.incarnation, |life| Incarnation(life.incarnation)), slot)
    }

    /// When the message in `slot` was last brought back from a snapshot.
    #[must_use]
    pub fn restored_at(&self, slot: Slot) -> Option<Millis> {
        self.past.last().filter(|life| slot.chunk() < life.until_chunk).map(|life| life.restored_at)
    }

    /// Whether a store of this identity goes back to `other`, or is it.
    #[must_use]
    pub fn descends_from(&self, other: Incarnation) -> bool {
        self.incarnation == other || self.past.iter().any(|life| life.incarnation == other.0)
    }
}

/// One value of the table of marks.
pub(crate) fn mark<T: DeserializeOwned>(
    meta: &impl ReadableTable<&'static str, &'static [u8]>,
    name: &'static str,
) -> Result<Option<T>, StoreError> {
    let row = meta.get(name)?;
    row.map(|row| open_value(row.value()).map_err(|why| StoreError::damaged("meta", name, why))).transpose()
}

/// Whether the file is a snapshot.
pub(crate) fn is_snapshot(txn: &WriteTransaction) -> Result<bool, StoreError> {
    Ok(txn.open_table(META)?.get(SNAPSHOT)?.is_some())
}

/// What the snapshot says of itself; `None` if it is a store.
pub(crate) fn snapshot_mark(
    meta: &impl ReadableTable<&'static str, &'static [u8]>,
) -> Result<Option<SnapshotMark>, StoreError> {
    mark(meta, SNAPSHOT)
}

/// Makes a snapshot of what is in the transaction.
pub(crate) fn mark_snapshot(txn: &WriteTransaction, about: &SnapshotMark) -> Result<(), StoreError> {
    write_meta(txn, SNAPSHOT, about)
}

/// Makes a store out of a snapshot, with a new incarnation and one life more behind it.
pub(crate) fn begin_new_life(
    txn: &WriteTransaction,
    old: &Identity,
    incarnation: u64,
    receipt_key: [u8; 32],
    life: PastLife,
) -> Result<(), StoreError> {
    let past: Vec<PastLife> = old.past.iter().copied().chain([life]).collect();
    write_meta(txn, PAST, &past)?;
    write_meta(txn, "incarnation", &incarnation)?;
    write_meta(txn, RECEIPT_KEY, &receipt_key)?;
    txn.open_table(META)?.remove(SNAPSHOT)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_keeps_the_id_of_its_time() {
        let life =
            |incarnation, until_chunk, at| PastLife { incarnation, until_chunk, restored_at: Millis(at) };
        let identity = Identity {
            incarnation: Incarnation(3),
            receipt_key: Arc::new(ReceiptKey::new([0; 32])),
            past: vec![life(1, 100, 5_000), life(2, 1_000, 9_000)].into(),
        };
        for (chunk, incarnation, restored_at) in
            [(0, 1, Some(9_000)), (99, 1, Some(9_000)), (100, 2, Some(9_000)), (1_000, 3, None)]
        {
            let slot = Slot::new(chunk, 7);
            let id = identity.message_id(Millis(42), slot);
            assert_eq!(id, MessageId::new(Millis(42), Incarnation(incarnation), slot), "{chunk}");
            assert_eq!(identity.restored_at(slot), restored_at.map(Millis), "{chunk}");
        }
        assert!(identity.descends_from(Incarnation(1)) && !identity.descends_from(Incarnation(4)));
    }
}
