//! Checking objects: each is whole, and its bytes are those of its address.

use super::{Checker, Stage};
use crate::store::error::StoreError;
use crate::store::objects::{ObjectRow, object_parts, object_rows, open_part, read_row};
use crate::store::schema::{OBJECT_PART, object_key};
use redb::{ReadOnlyTable, ReadTransaction};
use ron_core::objects::Object;

/// An object of which some parts were read.
#[derive(Debug)]
pub(super) struct Begun {
    number: u64,
    next_part: u64,
    hasher: blake3::Hasher,
    whole: bool,
}

impl Checker {
    /// Objects from `from` on, until the step is used up.
    pub(super) fn objects(
        &mut self,
        txn: &ReadTransaction,
        from: u64,
        left: &mut usize,
    ) -> Result<(), StoreError> {
        let Some(rows) = object_rows(txn)? else {
            self.stage = Stage::Done;
            return Ok(());
        };
        let parts = txn.open_table(OBJECT_PART)?;
        let mut next = from;
        for row in rows.range(from..)? {
            let (number, row) = row?;
            let number = number.value();
            self.stray_parts(&parts, next, number)?;
            match read_row(number, row.value()) {
                Ok(ObjectRow::Uploading) => {}
                Ok(ObjectRow::Whole(object)) => {
                    if !self.object(&parts, number, &object, left)? {
                        self.stage = Stage::Objects(number);
                        return Ok(());
                    }
                }
                Err(StoreError::Damaged { why, .. }) => self.findings.row("object", number, why),
                Err(other) => return Err(other),
            }
            next = number + 1;
            self.count(row.value().len(), left);
            if *left == 0 {
                self.stage = Stage::Objects(next);
                return Ok(());
            }
        }
        self.stray_parts(&parts, next, u64::MAX >> 16)?;
        self.stage = Stage::Done;
        Ok(())
    }

    fn stray_parts(
        &mut self,
        parts: &ReadOnlyTable<u64, &'static [u8]>,
        from: u64,
        to: u64,
    ) -> Result<(), StoreError> {
        if from < to
            && let Some(row) = parts.range(object_key(from, 0)..object_key(to, 0))?.next()
        {
            self.findings.row("object_part", row?.0.value(), "no object has it");
        }
        Ok(())
    }

    /// Whether all of the object has been looked at. One that was removed meanwhile is not asked for again.
    fn object(
        &mut self,
        parts: &ReadOnlyTable<u64, &'static [u8]>,
        number: u64,
        object: &Object,
        left: &mut usize,
    ) -> Result<bool, StoreError> {
        let begun = self.object.take().filter(|begun| begun.number == number);
        let new = || Begun { number, next_part: 0, hasher: blake3::Hasher::new(), whole: true };
        let mut begun = begun.unwrap_or_else(new);
        while begun.next_part < object_parts(object.len) {
            if *left == 0 {
                self.object = Some(begun);
                return Ok(false);
            }
            let key = object_key(number, begun.next_part);
            begun.next_part += 1;
            let row = parts.get(key)?;
            let part = row.as_ref().map_or(Err("missing"), |row| open_part(key, row.value()));
            match part {
                Ok(part) => {
                    begun.hasher.update(part);
                }
                Err(why) => {
                    self.findings.row("object_part", key, why);
                    begun.whole = false;
                }
            }
            self.count(row.map_or(0, |row| row.value().len()), left);
        }
        if begun.whole && *begun.hasher.finalize().as_bytes() != object.hash.0 {
            self.findings.row("object", number, "its bytes are not those of its address");
        }
        Ok(true)
    }
}
