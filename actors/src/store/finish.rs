//! How what a transaction changes becomes durable: in the journal, or in the tables.

use super::engine::{Engine, write_meta};
use super::error::StoreError;
use super::journal::Journal;
use super::prepare::Batch;
use super::txn::{Txn, unsynced};

/// The row of `META` that names the epoch of the journal whose entries are not in the tables yet.
pub(crate) const EPOCH: &str = "journal_epoch";

impl Engine {
    /// A write transaction, for [`Engine::finish`] or [`Engine::checkpoint`].
    pub(crate) fn begin(&self) -> Result<Txn, StoreError> {
        let txn = self.db.begin_write()?;
        Ok(if self.journal.is_some() { Txn::listing(txn) } else { Txn::unlisted(txn) })
    }

    /// Commits with the store's durability: to the journal, if there is one and it has room.
    pub(crate) fn finish(&mut self, txn: Txn) -> Result<(), StoreError> {
        let fits = |journal: &&mut Journal| txn.listed().is_some_and(|bytes| journal.has_room(bytes));
        let Some(journal) = self.journal.as_mut().filter(fits) else { return self.checkpoint(txn) };
        let (mut txn, mut entry) = txn.into_parts();
        // After the journal: readers see nothing that a crash could take back.
        journal.append(&mut entry).map_err(redb::Error::Io)?;
        unsynced(&mut txn)?;
        Ok(txn.commit()?)
    }

    /// Commits to the tables, and with this transaction all that is in the journal, which begins anew.
    pub(crate) fn checkpoint(&mut self, txn: Txn) -> Result<(), StoreError> {
        let (mut txn, _) = txn.into_parts();
        txn.set_two_phase_commit(self.durable && self.config.two_phase_commit);
        if let Some(journal) = &self.journal {
            write_meta(&txn, EPOCH, &journal.next_epoch())?;
        }
        txn.commit()?;
        self.journal.iter_mut().for_each(Journal::restart);
        Ok(())
    }

    /// The same for the commit of a batch.
    pub(crate) fn finish_batch(&mut self, txn: Txn, batch: &Batch) -> Result<(), StoreError> {
        if ron_core::planted!(SettlesNotSynced) && batch.chunks.is_empty() {
            let (mut txn, _) = txn.into_parts();
            unsynced(&mut txn)?;
            return Ok(txn.commit()?);
        }
        match self.finish(txn) {
            Err(_) if ron_core::planted!(CommitErrorIgnored) => {}
            done => done?,
        }
        if !(batch.chunks.is_empty() && batch.delta.runs.is_empty()) {
            self.last_saved = batch.now; // heads and deltas say their time
        }
        Ok(())
    }
}
