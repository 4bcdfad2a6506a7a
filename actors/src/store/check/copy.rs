//! Checking a copy: the record that it stands for must be there and whole, whatever has become of its own message.

use crate::store::codec::{Head, read_record};
use crate::store::cut::part_count;
use crate::store::error::StoreError;
use crate::store::schema::body_key;
use bytes::Bytes;
use redb::ReadOnlyTable;
use ron_core::ids::Slot;

/// Where records are.
pub(super) struct Records {
    pub(super) heads: ReadOnlyTable<u64, &'static [u8]>,
    pub(super) bodies: ReadOnlyTable<u64, &'static [u8]>,
    /// The last one looked at: neighbours are copies of one message.
    pub(super) last: Option<(Slot, Result<usize, &'static str>)>,
}

impl Records {
    /// The payload bytes of the record in `source`, or what is wrong with it.
    pub(super) fn read(&mut self, source: Slot) -> Result<Result<usize, &'static str>, StoreError> {
        if let Some((_, read)) = self.last.filter(|(last, _)| *last == source) {
            return Ok(read);
        }
        let read = self.look(source)?;
        self.last = Some((source, read));
        Ok(read)
    }

    fn look(&self, source: Slot) -> Result<Result<usize, &'static str>, StoreError> {
        let Some(row) = self.heads.get(source.chunk())? else {
            return Ok(Err("the message that it is a copy of is not there"));
        };
        let Ok(head) = Head::decode(source.chunk(), row.value()) else {
            return Ok(Err("the head of the message that it is a copy of is damaged"));
        };
        let entry = head.entries.get(usize::from(source.idx())).filter(|entry| entry.len > 0);
        let Some(entry) = entry.filter(|entry| entry.source.is_none()) else {
            return Ok(Err("the message that it is a copy of has no record"));
        };
        let mut body = Vec::with_capacity(head.body_len.min(1 << 21) as usize);
        for part in 0..part_count(head.body_len) {
            if let Some(row) = self.bodies.get(body_key(source.chunk(), part))? {
                body.extend_from_slice(row.value());
            }
        }
        let place = entry.offset as usize..entry.offset as usize + entry.len as usize;
        if place.end > body.len() {
            return Ok(Err("the record that it is a copy of lies outside its body"));
        }
        let read = read_record(source, head.enqueued, &Bytes::from(body).slice(place));
        Ok(read
            .map(|message| message.payload.len())
            .map_err(|_| "the record that it is a copy of is damaged"))
    }
}
