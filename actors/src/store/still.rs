//! Since when the lease clocks of a shard stand still (SPEC §4.2), kept in the store until the deadlines that
//! moved are in it too: a crash between the two must not make anybody forget how long they stood.

use super::codec::{open_value, seal_value};
use super::error::StoreError;
use super::schema::STILL;
use super::txn::Txn;
use redb::{ReadableTable, WriteTransaction};
use ron_core::ids::ShardId;
use ron_core::time::Millis;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Still {
    since: BTreeMap<ShardId, Millis>,
    /// When those stopped anew that have not gone on yet.
    again: BTreeMap<ShardId, Millis>,
    /// What the table does not say yet.
    changed: BTreeSet<ShardId>,
}

impl Still {
    /// What the table says.
    pub(crate) fn read(txn: &WriteTransaction) -> Result<Still, StoreError> {
        let mut still = Still::default();
        for row in txn.open_table(STILL)?.iter()? {
            let (shard, value) = row?;
            let shard = shard.value();
            let since = open_value(value.value()).map_err(|why| StoreError::damaged("still", shard, why))?;
            still.since.insert(ShardId(shard), since);
        }
        Ok(still)
    }

    /// A node boots that was last alive at `last_alive`: nobody could settle the leases of `leased` since, or
    /// since they stand still already. No other shard has clocks that could.
    pub(crate) fn boot(&mut self, leased: &BTreeSet<ShardId>, last_alive: Millis) {
        let over: Vec<ShardId> = self.since.keys().filter(|shard| !leased.contains(shard)).copied().collect();
        for shard in over {
            self.since.remove(&shard);
            self.changed.insert(shard);
        }
        leased.iter().for_each(|shard| self.stands(*shard, last_alive));
    }

    /// The clocks of `shard` stand still since `since`, if they do not already.
    pub(crate) fn stands(&mut self, shard: ShardId, since: Millis) {
        match self.since.entry(shard) {
            Entry::Vacant(vacant) => {
                vacant.insert(since);
                self.changed.insert(shard);
            }
            Entry::Occupied(_) => {
                self.again.insert(shard, since);
            }
        }
    }

    /// What a load of `shard` at `loaded` moved is being written. What has stopped the clocks since then is not
    /// over.
    pub(crate) fn goes_on(&mut self, shard: ShardId, loaded: Millis) {
        if self.since.get(&shard).is_some_and(|since| *since <= loaded) {
            self.since.remove(&shard);
            self.changed.insert(shard);
            if let Some(again) = self.again.remove(&shard).filter(|again| *again > loaded) {
                self.since.insert(shard, again);
            }
        }
    }

    /// The shard is gone.
    pub(crate) fn forget(&mut self, shard: ShardId) {
        self.again.remove(&shard);
        if self.since.remove(&shard).is_some() {
            self.changed.insert(shard);
        }
    }

    /// Since when the clocks of `shard` stand still, if they do.
    pub(crate) fn since(&self, shard: ShardId) -> Option<Millis> {
        self.since.get(&shard).copied()
    }

    /// Whether there is something to save.
    pub(crate) fn is_changed(&self) -> bool {
        !self.changed.is_empty()
    }

    /// Writes what has changed. If the transaction is not committed, this must be read anew.
    pub(crate) fn save(&mut self, txn: &Txn) -> Result<(), StoreError> {
        if self.changed.is_empty() {
            return Ok(());
        }
        let mut table = txn.open_table(STILL)?;
        for shard in std::mem::take(&mut self.changed) {
            match self.since.get(&shard) {
                Some(since) => table.insert(shard.0, &seal_value(since))?,
                None => table.remove(shard.0)?,
            };
        }
        Ok(())
    }
}
