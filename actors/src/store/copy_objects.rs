//! Objects in a copy of the store. None goes while one is taken (`Engine::hours_over`), and a whole one never changes
//! but for the time of its last upload: so their parts are copied slice by slice, and their rows at the cut.

use super::copy::Room;
use super::error::StoreError;
use super::objects::{ObjectRow, read_row, whole_objects};
use super::schema::{OBJECT, OBJECT_PART, object_key};
use redb::{ReadOnlyTable, ReadTransaction, WriteTransaction};
use std::collections::BTreeSet;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct CopiedObjects {
    /// The key of the next part.
    next: u64,
    /// Objects before it that were uploads when they were passed.
    passed: BTreeSet<u64>,
}

impl CopiedObjects {
    /// Copies some parts. Whether there are more now.
    pub(super) fn slice(
        &mut self,
        read: &ReadTransaction,
        write: &WriteTransaction,
        room: &mut Room,
    ) -> Result<bool, StoreError> {
        let (rows, from) = (read.open_table(OBJECT)?, read.open_table(OBJECT_PART)?);
        let mut to = write.open_table(OBJECT_PART)?;
        let mut whole = None;
        while let Some(row) = from.range(self.next..)?.next() {
            let (key, part) = row?;
            let (key, number) = (key.value(), key.value() >> 16);
            if whole != Some(number) {
                if !is_whole(&rows, number)? {
                    self.passed.insert(number);
                    self.next = object_key(number + 1, 0);
                    continue;
                }
                whole = Some(number);
            }
            to.insert(key, part.value())?;
            self.next = key + 1;
            if room.take(part.value().len()) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// At the cut: all that is not yet copied of what is whole by then, and the rows.
    pub(super) fn rest(
        &mut self,
        read: &ReadTransaction,
        write: &WriteTransaction,
        room: &mut Room,
    ) -> Result<(), StoreError> {
        self.slice(read, write, room)?;
        let from = read.open_table(OBJECT_PART)?;
        let (mut rows, mut to) = (write.open_table(OBJECT)?, write.open_table(OBJECT_PART)?);
        for (number, object) in whole_objects(read)? {
            if self.passed.contains(&number) {
                for row in from.range(object_key(number, 0)..object_key(number + 1, 0))? {
                    let (key, part) = row?;
                    to.insert(key.value(), part.value())?;
                    room.take(part.value().len());
                }
            }
            let row = super::codec::seal_value(&ObjectRow::Whole(object));
            rows.insert(number, row.as_slice())?;
        }
        Ok(())
    }
}

fn is_whole(rows: &ReadOnlyTable<u64, &'static [u8]>, number: u64) -> Result<bool, StoreError> {
    let Some(row) = rows.get(number)? else { return Ok(false) };
    Ok(matches!(read_row(number, row.value())?, ObjectRow::Whole(_)))
}
