//! A write transaction that keeps a list of what it changes, row by row: what goes to the journal, and how it is done
//! again after a crash.

use super::codec::seal_value;
use super::error::StoreError;
use super::journal::{ENTRY_BYTES_MAX, HEADER};
use super::schema::{self, META};
use redb::{Durability, Key, StorageError, Table, TableDefinition, TableHandle, WriteTransaction};
use serde::Serialize;
use std::borrow::Borrow;
use std::cell::RefCell;
use std::ops::Deref;

/// One change in the list: which table, what is done, a key, and a value or a second key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Do {
    Insert = 0,
    Remove = 1,
    /// All from the first key up to before the second.
    RemoveRange = 2,
}

/// The list, behind the room for an entry's header. Empty once it is too long for any journal: then the tables are
/// committed at once, and the rest need not be copied.
#[derive(Debug)]
struct Changes(Vec<u8>);

impl Changes {
    fn push(&mut self, table: u8, what: Do, key: &[u8], value: &[u8]) {
        if self.0.is_empty() || self.0.len() + value.len() > ENTRY_BYTES_MAX {
            self.0 = Vec::new();
            return;
        }
        self.0.extend_from_slice(&[table, what as u8, key.len() as u8]);
        self.0.extend_from_slice(key);
        self.0.extend_from_slice(&(value.len() as u32).to_le_bytes());
        self.0.extend_from_slice(value);
    }
}

/// See the module.
pub(crate) struct Txn {
    inner: WriteTransaction,
    changes: Option<RefCell<Changes>>,
}

impl Txn {
    /// Keeps a list.
    pub(crate) fn listing(inner: WriteTransaction) -> Txn {
        Txn { inner, changes: Some(RefCell::new(Changes(vec![0; HEADER]))) }
    }

    /// Keeps none: it is committed to the tables at once.
    pub(crate) fn unlisted(inner: WriteTransaction) -> Txn {
        Txn { inner, changes: None }
    }

    /// The transaction itself. Nothing may be written through it that a journal should know.
    pub(crate) fn inner(&self) -> &WriteTransaction {
        &self.inner
    }

    /// Opens a table, to read and to write.
    ///
    /// # Errors
    /// redb's.
    pub(crate) fn open_table<K: Key + 'static>(
        &self,
        table: TableDefinition<'static, K, &'static [u8]>,
    ) -> Result<Listed<'_, K>, StoreError> {
        let number = schema::number(table.name());
        Ok(Listed { table: self.inner.open_table(table)?, number, changes: self.changes.as_ref() })
    }

    /// Writes one value of `META`.
    ///
    /// # Errors
    /// redb's.
    pub(crate) fn mark<T: Serialize>(&self, name: &'static str, value: &T) -> Result<(), StoreError> {
        Ok(self.open_table(META)?.insert(name, &seal_value(value))?)
    }

    /// Bytes of the list; `None` = it is kept no more, or never was.
    pub(crate) fn listed(&self) -> Option<usize> {
        self.changes.as_ref()?.borrow().0.len().checked_sub(HEADER)
    }

    /// The list as an entry of the journal without its header, and the transaction.
    pub(crate) fn into_parts(self) -> (WriteTransaction, Vec<u8>) {
        (self.inner, self.changes.map(|changes| changes.into_inner().0).unwrap_or_default())
    }
}

/// A table of a [`Txn`].
pub(crate) struct Listed<'t, K: Key + 'static> {
    table: Table<'t, K, &'static [u8]>,
    number: u8,
    changes: Option<&'t RefCell<Changes>>,
}

impl<'t, K: Key + 'static> Deref for Listed<'t, K> {
    type Target = Table<'t, K, &'static [u8]>;

    fn deref(&self) -> &Self::Target {
        &self.table
    }
}

impl<K: Key + 'static> Listed<'_, K> {
    fn list(&self, what: Do, key: &[u8], value: &[u8]) {
        if let Some(changes) = self.changes {
            changes.borrow_mut().push(self.number, what, key, value);
        }
    }

    pub(crate) fn insert<'k>(
        &mut self,
        key: impl Borrow<K::SelfType<'k>>,
        value: &[u8],
    ) -> Result<(), StorageError> {
        self.list(Do::Insert, K::as_bytes(key.borrow()).as_ref(), value);
        self.table.insert(key, value)?;
        Ok(())
    }

    pub(crate) fn remove<'k>(&mut self, key: impl Borrow<K::SelfType<'k>>) -> Result<(), StorageError> {
        let there = self.table.remove(key.borrow())?.is_some();
        if there {
            self.list(Do::Remove, K::as_bytes(key.borrow()).as_ref(), &[]);
        }
        Ok(())
    }

    /// Removes all from `from` up to before `to`.
    pub(crate) fn remove_range<'k>(
        &mut self,
        from: K::SelfType<'k>,
        to: K::SelfType<'k>,
    ) -> Result<(), StorageError> {
        self.list(Do::RemoveRange, K::as_bytes(&from).as_ref(), K::as_bytes(&to).as_ref());
        self.table.retain_in::<K::SelfType<'k>, _>(from..to, |_, _| false)
    }
}

/// Lets a later commit make this one durable, too.
pub(crate) fn unsynced(txn: &mut WriteTransaction) -> Result<(), StoreError> {
    txn.set_durability(Durability::None).map_err(|error| StoreError::Db(Box::new(error.into())))
}

/// Does what a list says, once more if it has been done already.
///
/// # Errors
/// redb's; the list is none of ours.
pub(crate) fn redo(txn: &WriteTransaction, list: &[u8]) -> Result<(), StoreError> {
    let mut rest = list;
    while !rest.is_empty() {
        let (change, behind) = Change::read(rest).ok_or_else(unknown)?;
        rest = behind;
        schema::redo(txn, change)?;
    }
    Ok(())
}

fn unknown() -> StoreError {
    StoreError::damaged("journal", "-", "an entry does not decode")
}

/// One change of a list.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Change<'a> {
    /// [`schema::number`].
    pub(crate) table: u8,
    what: Do,
    key: &'a [u8],
    value: &'a [u8],
}

impl<'a> Change<'a> {
    fn read(list: &'a [u8]) -> Option<(Change<'a>, &'a [u8])> {
        let ([table, what, key_len], rest) = list.split_first_chunk()?;
        let (key, rest) = rest.split_at_checked(usize::from(*key_len))?;
        let (len, rest) = rest.split_first_chunk()?;
        let (value, rest) = rest.split_at_checked(u32::from_le_bytes(*len) as usize)?;
        let what =
            [Do::Insert, Do::Remove, Do::RemoveRange].into_iter().find(|known| *known as u8 == *what)?;
        Some((Change { table: *table, what, key, value }, rest))
    }

    /// Does it in its table.
    ///
    /// # Errors
    /// redb's.
    pub(crate) fn redo<K: Key + 'static>(
        &self,
        txn: &WriteTransaction,
        table: TableDefinition<'static, K, &'static [u8]>,
    ) -> Result<(), StoreError> {
        let mut table = txn.open_table(table)?;
        let fits = |key: &[u8]| K::fixed_width().is_none_or(|width| width == key.len());
        if !fits(self.key) || (self.what == Do::RemoveRange && !fits(self.value)) {
            return Err(unknown());
        }
        let key = K::from_bytes(self.key);
        match self.what {
            Do::Insert => drop(table.insert(key, self.value)?),
            Do::Remove => drop(table.remove(key)?),
            Do::RemoveRange => {
                table.retain_in::<K::SelfType<'_>, _>(key..K::from_bytes(self.value), |_, _| false)?
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::recover::create_tables;
    use crate::store::schema::{DEDUP, DELTA, LIST};
    use crate::store::{Opening, RamBackend};
    use redb::{Database, ReadableTable};

    fn database() -> Database {
        Database::builder().create_with_backend(RamBackend::default()).unwrap()
    }

    /// All rows of the tables that the test writes.
    fn rows(txn: &WriteTransaction) -> Vec<(String, Vec<u8>)> {
        fn of<K: Key>(
            txn: &WriteTransaction,
            table: TableDefinition<'static, K, &'static [u8]>,
        ) -> Vec<(String, Vec<u8>)> {
            let table = txn.open_table(table).unwrap();
            let rows = table.iter().unwrap().map(Result::unwrap);
            rows.map(|(key, value)| (format!("{:?}", key.value()), value.value().to_vec())).collect()
        }
        [of(txn, META), of(txn, DELTA), of(txn, DEDUP), of(txn, LIST)].concat()
    }

    #[test]
    fn what_is_listed_does_the_same_once_more_and_once_again() {
        let (ours, theirs) = (database(), database());
        let mut lists = Vec::new();
        for round in 0..3_u64 {
            let txn = Txn::listing(ours.begin_write().unwrap());
            txn.mark("node_time", &round).unwrap();
            {
                let mut deltas = txn.open_table(DELTA).unwrap();
                (0..10).for_each(|n| deltas.insert(round * 10 + n, &[n as u8; 300]).unwrap());
                deltas.remove(round * 10 + 3).unwrap();
                deltas.remove_range(0, round * 10).unwrap();
                let mut keys = txn.open_table(DEDUP).unwrap();
                keys.insert((round, 7), b"").unwrap();
                keys.insert((round, 8), b"x").unwrap();
                keys.remove_range((0, 0), (round, 8)).unwrap();
                let mut absent = txn.open_table(LIST).unwrap();
                let before = txn.listed();
                absent.remove(5).unwrap();
                assert_eq!(txn.listed(), before, "nothing was there, so nothing is listed");
                absent.insert(6, &[round as u8]).unwrap();
            }
            let (txn, entry) = txn.into_parts();
            lists.push(entry[HEADER..].to_vec());
            txn.commit().unwrap();
        }
        let theirs = theirs.begin_write().unwrap();
        lists.iter().for_each(|list| redo(&theirs, list).unwrap());
        let expected = rows(&ours.begin_write().unwrap());
        assert_eq!(expected.len(), 1 + 9 + 1 + 1);
        assert_eq!(rows(&theirs), expected);
        lists.iter().for_each(|list| redo(&theirs, list).unwrap());
        assert_eq!(rows(&theirs), expected, "the second time does no harm");
    }

    #[test]
    fn what_is_too_long_for_a_journal_is_listed_no_further() {
        let db = database();
        let txn = Txn::listing(db.begin_write().unwrap());
        {
            let mut deltas = txn.open_table(DELTA).unwrap();
            deltas.insert(1, &[1; 1_000]).unwrap();
            assert!(txn.listed().is_some_and(|bytes| (1_000..1_100).contains(&bytes)));
            deltas.insert(2, &vec![2; ENTRY_BYTES_MAX]).unwrap();
            deltas.insert(3, &[3]).unwrap();
        }
        assert_eq!(txn.listed(), None);
        assert_eq!(txn.inner().open_table(DELTA).unwrap().iter().unwrap().count(), 3, "all of it is written");
    }

    #[test]
    fn a_list_that_is_none_of_ours_is_damage() {
        let db = database();
        let txn = db.begin_write().unwrap();
        let insert = |table: u8, key: &[u8], value: &[u8]| {
            let mut changes = Changes(vec![0; HEADER]);
            changes.push(table, Do::Insert, key, value);
            changes.0.split_off(HEADER)
        };
        let good = insert(schema::number("delta"), &[0; 8], b"x");
        assert!(redo(&txn, &good).is_ok());
        for cut in 1..good.len() {
            assert!(redo(&txn, &good[..cut]).is_err(), "{cut}");
        }
        assert!(redo(&txn, &insert(99, &[0; 8], b"x")).is_err(), "no such table");
        assert!(redo(&txn, &insert(schema::number("delta"), &[0; 7], b"x")).is_err(), "no such key");
    }

    #[test]
    fn every_table_of_a_store_has_a_number() {
        let db = database();
        let txn = db.begin_write().unwrap();
        create_tables(&txn, Opening::Boot { entropy: [1; 40] }).unwrap();
        let numbers: Vec<u8> = txn.list_tables().unwrap().map(|table| schema::number(table.name())).collect();
        assert!(numbers.len() > 13 && !numbers.contains(&u8::MAX), "{numbers:?}");
    }
}
