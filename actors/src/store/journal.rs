//! The journal: what commits change, in the order they did it, in a fixed stretch of the store's file. An entry is one
//! write and one sync, where redb needs two syncs and rewrites a page of each table and of its own book-keeping. redb
//! takes the same changes at once, without syncing them; when the stretch is full, one commit of redb makes all of them
//! durable there, the *checkpoint*, and the journal begins anew.
//!
//! An entry counts if its keyed BLAKE3 holds: what it holds comes from strangers, and they do not know the key, so no
//! torn entry can be made to look whole. Entries of one *epoch* are numbered from 1; a checkpoint begins the next epoch
//! in the same commit, so what is left of an older one is never read again. Doing an entry twice does no harm.

use super::error::StoreError;
use redb::StorageBackend;
use std::io;
use std::sync::Arc;
use zeroize::Zeroize;

/// Entries begin at multiples of this: a page that holds one that was answered is not written again until it is in
/// redb, so a torn write cannot take it along.
pub(crate) const PAGE: usize = 4096;
/// What begins an entry.
const MAGIC: [u8; 8] = *b"ronentry";
/// Magic, epoch, number, length of the content, and the MAC of all that and the content.
pub(crate) const HEADER: usize = 8 + 8 + 8 + 8 + 32;
/// A larger entry is not worth its second copy: so much is committed to redb at once as fast.
pub(crate) const ENTRY_BYTES_MAX: usize = 512 << 10;

/// Where in a file a journal is.
#[derive(Debug, Clone)]
pub struct Stretch {
    pub(super) file: Arc<dyn StorageBackend>,
    pub(super) from: u64,
    pub(super) bytes: u64,
}

/// A journal that is written.
#[derive(Debug)]
pub(crate) struct Journal {
    stretch: Stretch,
    key: MacKey,
    epoch: u64,
    /// The number of the next entry.
    number: u64,
    /// Where it begins, from the start of the stretch.
    at: u64,
}

/// What entries are authenticated with: a secret of the store.
struct MacKey([u8; 32]);

impl Drop for MacKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl std::fmt::Debug for MacKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MacKey(…)")
    }
}

impl MacKey {
    /// Derived from the key of the store's receipts.
    fn of(receipt_key: &[u8; 32]) -> MacKey {
        MacKey(blake3::derive_key("ron-node 2026-11-23 journal of a store", receipt_key))
    }

    /// The MAC of an entry: of all of its header that stands before the MAC, and of its content.
    fn mac(&self, head: &[u8], content: &[u8]) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher.update(head).update(content).finalize()
    }
}

impl Journal {
    /// The journal of `epoch`, without entries.
    pub(crate) fn begin(stretch: Stretch, receipt_key: &[u8; 32], epoch: u64) -> Journal {
        Journal { stretch, key: MacKey::of(receipt_key), epoch, number: 1, at: 0 }
    }

    /// Whether an entry with `content` bytes finds room.
    pub(crate) fn has_room(&self, content: usize) -> bool {
        let len = (HEADER + content).next_multiple_of(PAGE);
        len <= ENTRY_BYTES_MAX && self.at + len as u64 <= self.stretch.bytes
    }

    /// Writes an entry and syncs it. The first [`HEADER`] bytes of `entry` are left free for the header; it is padded
    /// to whole pages.
    ///
    /// # Errors
    /// The device's: the entry may or may not be there, and nothing may be written behind it.
    pub(crate) fn append(&mut self, entry: &mut Vec<u8>) -> io::Result<()> {
        let content = entry.len().saturating_sub(HEADER) as u64;
        entry[..8].copy_from_slice(&MAGIC);
        entry[8..16].copy_from_slice(&self.epoch.to_le_bytes());
        entry[16..24].copy_from_slice(&self.number.to_le_bytes());
        entry[24..32].copy_from_slice(&content.to_le_bytes());
        let mac = self.key.mac(&entry[..32], &entry[HEADER..]);
        entry[32..HEADER].copy_from_slice(mac.as_bytes());
        entry.resize(entry.len().next_multiple_of(PAGE), 0);
        self.stretch.file.write(self.stretch.from + self.at, entry)?;
        if !ron_core::planted!(JournalNotSynced) {
            self.stretch.file.sync_data()?;
        }
        self.at += entry.len() as u64;
        self.number += 1;
        Ok(())
    }

    /// The epoch that a checkpoint must name.
    pub(crate) fn next_epoch(&self) -> u64 {
        self.epoch + 1
    }

    /// A checkpoint is durable: all entries are over.
    pub(crate) fn restart(&mut self) {
        self.epoch += 1;
        self.number = 1;
        self.at = 0;
    }
}

/// The contents of the entries of `epoch`, in order.
///
/// # Errors
/// The device's; an entry was damaged after it had been written: a later one is whole, and is only ever written when
/// the one before it is on the device.
pub(crate) fn read(
    stretch: &Stretch,
    receipt_key: &[u8; 32],
    epoch: u64,
) -> Result<Vec<Vec<u8>>, StoreError> {
    let key = MacKey::of(receipt_key);
    let mut bytes = vec![0; stretch.bytes as usize];
    stretch.file.read(stretch.from, &mut bytes).map_err(redb::Error::Io)?;
    let mut contents: Vec<Vec<u8>> = Vec::new();
    let mut rest = bytes.as_slice();
    while let Some((number, content)) = entry(rest, &key, epoch)
        && number == contents.len() as u64 + 1
    {
        contents.push(content.to_vec());
        rest = rest.get((HEADER + content.len()).next_multiple_of(PAGE)..).unwrap_or_default();
    }
    let newest = contents.len() as u64;
    if ron_core::planted!(JournalEndsEarly) {
        contents.pop();
    }
    for page in rest.chunks(PAGE).enumerate().map(|(page, _)| &rest[page * PAGE..]) {
        if entry(page, &key, epoch).is_some_and(|(number, _)| number > newest) {
            return Err(StoreError::damaged("journal", newest + 1, "checksum"));
        }
    }
    Ok(contents)
}

/// The entry of `epoch` at the start of `bytes`: its number and its content.
fn entry<'a>(bytes: &'a [u8], key: &MacKey, epoch: u64) -> Option<(u64, &'a [u8])> {
    let number = |from: usize| Some(u64::from_le_bytes(*bytes.get(from..)?.first_chunk()?));
    if !bytes.starts_with(&MAGIC) || number(8)? != epoch {
        return None;
    }
    let content = bytes.get(HEADER..)?.get(..usize::try_from(number(24)?).ok()?)?;
    let mac: [u8; 32] = *bytes.get(32..)?.first_chunk()?;
    // The comparison of hashes takes the same time whatever they are.
    (key.mac(&bytes[..32], content) == mac).then_some((number(16)?, content))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::RamBackend;

    const KEY: [u8; 32] = [7; 32];

    fn stretch() -> Stretch {
        let file = RamBackend::default();
        file.set_len(17 * PAGE as u64).unwrap();
        Stretch { file: Arc::new(file), from: PAGE as u64, bytes: 16 * PAGE as u64 }
    }

    fn entry_of(content: &[u8]) -> Vec<u8> {
        [vec![0; HEADER], content.to_vec()].concat()
    }

    fn flip(stretch: &Stretch, at: usize) {
        let mut byte = [0];
        stretch.file.read(stretch.from + at as u64, &mut byte).unwrap();
        stretch.file.write(stretch.from + at as u64, &[byte[0] ^ 1]).unwrap();
    }

    /// A journal of epoch 3 with contents of these lengths.
    fn filled(stretch: &Stretch, lens: &[usize]) -> Journal {
        let mut journal = Journal::begin(stretch.clone(), &KEY, 3);
        for (i, len) in lens.iter().enumerate() {
            journal.append(&mut entry_of(&vec![i as u8; *len])).unwrap();
        }
        journal
    }

    #[test]
    fn what_was_appended_is_read_back_in_order() {
        let stretch = stretch();
        let lens = [10, PAGE - HEADER, PAGE - HEADER + 1, 0, 3 * PAGE];
        filled(&stretch, &lens);
        let found: Vec<usize> = read(&stretch, &KEY, 3).unwrap().iter().map(Vec::len).collect();
        assert_eq!(found, lens);
        assert!(read(&stretch, &KEY, 2).unwrap().is_empty() && read(&stretch, &KEY, 4).unwrap().is_empty());
        assert!(read(&stretch, &[8; 32], 3).unwrap().is_empty(), "another store's");
    }

    #[test]
    fn a_torn_last_entry_never_was_and_a_damaged_one_before_it_is_named() {
        // Each byte of the last one that means anything, and some of those before.
        for at in 2 * PAGE..2 * PAGE + HEADER + 5 {
            let stretch = stretch();
            filled(&stretch, &[5, 5, 5]);
            flip(&stretch, at);
            assert_eq!(read(&stretch, &KEY, 3).unwrap().len(), 2, "{at}");
        }
        for at in (0..HEADER + 5).chain(PAGE..PAGE + HEADER + 5) {
            let stretch = stretch();
            filled(&stretch, &[5, 5, 5]);
            flip(&stretch, at);
            let error = read(&stretch, &KEY, 3).unwrap_err();
            let which = at / PAGE + 1;
            assert!(error.to_string().starts_with(&format!("row {which} of table `journal`")), "{error}");
        }
    }

    #[test]
    fn after_a_checkpoint_older_entries_are_over_wherever_the_new_ones_end() {
        let stretch = stretch();
        let mut journal = filled(&stretch, &[5; 10]);
        journal.restart();
        assert!(read(&stretch, &KEY, 4).unwrap().is_empty());
        for n in 1..=3 {
            journal.append(&mut entry_of(b"new")).unwrap();
            assert_eq!(read(&stretch, &KEY, 4).unwrap(), vec![b"new".to_vec(); n]);
        }
        // The checkpoint was lost: its epoch is none, and of the one before the first three are overwritten.
        assert!(read(&stretch, &KEY, 3).is_err());
    }

    #[test]
    fn room_is_counted_in_pages_and_large_entries_have_none() {
        let stretch = Stretch { bytes: 1 << 20, ..stretch() };
        let mut journal = Journal::begin(stretch, &KEY, 1);
        assert!(
            journal.has_room(ENTRY_BYTES_MAX - HEADER) && !journal.has_room(ENTRY_BYTES_MAX - HEADER + 1)
        );
        journal.at = (1 << 20) - PAGE as u64;
        assert!(journal.has_room(PAGE - HEADER) && !journal.has_room(PAGE - HEADER + 1));
    }
}
