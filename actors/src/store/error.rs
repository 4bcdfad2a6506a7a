//! How the store fails. A failed commit is *indeterminate*, never "failed" (SPEC §4.13).

use std::fmt;

/// Why a unit has no result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnitFailure {
    /// The shard has been loaded anew since: this writer is a ghost, nothing was written.
    StaleEpoch,
    /// It was queued, but never tried, as the store failed before: nothing was written.
    NotTried,
    /// The commit errored or its writer died: it may or may not be in the store.
    Indeterminate,
}

/// An error of the store itself. After one of these the database is closed and reopened.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database engine or the device.
    #[error("database: {0}")]
    Db(Box<redb::Error>),
    /// A row whose checksum does not hold, or that does not decode: states are unknown.
    #[error("row {key} of table `{table}` is damaged ({why})")]
    Damaged {
        /// Which table.
        table: &'static str,
        /// Which row.
        key: String,
        /// What did not hold.
        why: &'static str,
    },
    /// The store was written by a newer version.
    #[error("the store has format {found}, this build knows formats up to {known}: use a newer ron-node")]
    NewerFormat {
        /// In the file.
        found: u32,
        /// Of this build.
        known: u32,
    },
    /// The store was written by an older version that was never released.
    #[error(
        "the store has format {found}, this build reads only {known}: drain it with the version that wrote it"
    )]
    OlderFormat {
        /// In the file.
        found: u32,
        /// Of this build.
        known: u32,
    },
    /// The file is a snapshot: a store that went on from it would give its ids a second time.
    #[error("the file is a snapshot, not a store: bring it back with `ronctl snapshot restore`")]
    IsSnapshot,
    /// The store is being reopened.
    #[error("the store is being reopened")]
    Reopening,
    /// The file is in use by another process.
    #[error("the store is in use by another process")]
    Locked,
    /// The file or its directory.
    #[error("{path}: {error}")]
    Io {
        /// Which path.
        path: String,
        /// What went wrong.
        error: std::io::Error,
    },
}

impl StoreError {
    pub(crate) fn damaged(table: &'static str, key: impl fmt::Display, why: &'static str) -> StoreError {
        StoreError::Damaged { table, key: key.to_string(), why }
    }
}

macro_rules! from_redb {
    ($($kind:ty),*) => {
        $(impl From<$kind> for StoreError {
            fn from(error: $kind) -> StoreError {
                StoreError::Db(Box::new(error.into()))
            }
        })*
    };
}
from_redb!(redb::Error, redb::TransactionError, redb::TableError, redb::StorageError, redb::CommitError);

impl From<redb::DatabaseError> for StoreError {
    fn from(error: redb::DatabaseError) -> StoreError {
        match error {
            redb::DatabaseError::DatabaseAlreadyOpen => StoreError::Locked,
            other => StoreError::Db(Box::new(other.into())),
        }
    }
}
