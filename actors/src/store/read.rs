//! Reading bodies: the newest chunks from a bounded cache, the rest from short read transactions on the
//! blocking pool.

use super::codec::{Head, open, read_record};
use super::cut::part_count;
use super::error::StoreError;
use super::fanout::{FanBook, read_sent};
use super::letters::dead_letter;
use super::object_book::ObjectBook;
use super::refs::copies_of;
use super::schema::{BODY, DLQ, HEAD, NOTE, body_key};
use crate::blocking::{Blocking, Job};
use arc_swap::ArcSwapOption;
use bytes::Bytes;
use redb::{Database, ReadableDatabase};
use ron_core::ids::{ShardId, Slot};
use ron_core::message::{CopyOf, DeadLetter, StoredMessage};
use ron_core::time::Millis;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// A chunk's records, decoded no further than their places.
#[derive(Debug)]
pub struct ChunkImage {
    enqueued: Millis,
    /// (offset, length) by place; length 0 = gone.
    places: Vec<(u32, u32)>,
    body: Bytes,
    /// Places that are copies, ascending: whose record theirs is.
    copies: Vec<(u16, Slot)>,
}

impl ChunkImage {
    /// The chunk of this head and body.
    #[must_use]
    pub fn new(head: &Head, body: Bytes) -> ChunkImage {
        let places = head.entries.iter().map(|entry| (entry.offset, entry.len)).collect();
        ChunkImage { enqueued: head.enqueued, places, body, copies: copies_of(head) }
    }

    fn cost(&self) -> usize {
        self.body.len() + self.places.len() * 8 + self.copies.len() * 16 + 128
    }

    /// Where the record of a message is, if not here.
    fn source(&self, slot: Slot) -> Option<Slot> {
        let at = self.copies.binary_search_by_key(&slot.idx(), |(idx, _)| *idx).ok()?;
        self.copies.get(at).map(|(_, source)| *source)
    }

    /// A copy, out of the chunk of its record.
    fn read_copy(&self, slot: Slot, source: Slot, from: &ChunkImage) -> Result<StoredMessage, ReadFailure> {
        // A record that is not there although a copy stands for it is as bad as a damaged one.
        let read = from.read(source).map_err(|failure| match failure {
            ReadFailure::Gone => ReadFailure::Damaged,
            other => other,
        });
        let copied_from = Some((source, from.enqueued));
        Ok(StoredMessage { slot, enqueued: self.enqueued, copied_from, ..read? })
    }

    /// The message at the place of `slot`, checked.
    ///
    /// # Errors
    /// It is gone, or its record is damaged.
    pub fn read(&self, slot: Slot) -> Result<StoredMessage, ReadFailure> {
        let &(offset, len) = self.places.get(usize::from(slot.idx())).ok_or(ReadFailure::Gone)?;
        let (from, to) = (offset as usize, offset as usize + len as usize);
        if len == 0 {
            return Err(ReadFailure::Gone);
        }
        if to > self.body.len() {
            return Err(ReadFailure::Damaged);
        }
        read_record(slot, self.enqueued, &self.body.slice(from..to)).map_err(|_| ReadFailure::Damaged)
    }
}

/// Why one message could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadFailure {
    /// It no longer exists.
    Gone,
    /// Its record failed a checksum: it must never reach a consumer.
    Damaged,
    /// The store is not readable now.
    Store,
}

/// The newest chunks that live, oldest dropped first, bounded by bytes. Numbers of chunks rise, so the lowest is the
/// oldest. Whoever removes a chunk has it forgotten: what is dead would else fill the cache, and only what fills it
/// ends.
#[derive(Debug, Default)]
struct Cache {
    chunks: BTreeMap<u64, Arc<ChunkImage>>,
    bytes: usize,
}

impl Cache {
    fn insert(&mut self, chunk: u64, image: Arc<ChunkImage>, bytes_max: usize) {
        self.bytes += image.cost();
        if let Some(old) = self.chunks.insert(chunk, image) {
            self.bytes -= old.cost();
        }
        while self.bytes > bytes_max
            && let Some((_, oldest)) = self.chunks.pop_first()
        {
            self.bytes -= oldest.cost();
        }
    }

    fn forget(&mut self, chunk: u64) {
        if let Some(old) = self.chunks.remove(&chunk) {
            self.bytes -= old.cost();
        }
    }
}

/// Messages that are in memory alone, and what was said of them.
#[derive(Debug, Default)]
struct Pinned {
    chunks: HashMap<u64, Arc<ChunkImage>>,
    notes: HashMap<Slot, String>,
    letters: HashMap<(ShardId, Slot), DeadLetter>,
}

#[derive(Debug)]
struct Shared {
    db: ArcSwapOption<Database>,
    cache: Mutex<Cache>,
    /// What is in memory alone.
    pinned: Mutex<Pinned>,
    cache_bytes_max: usize,
    blocking: Blocking,
    /// Who gets copies, and how far each has come.
    fans: FanBook,
    /// Objects: which there are, and who reads them.
    objects: ObjectBook,
    /// How many want the bodies to stay where they are.
    rewrites_held: AtomicUsize,
}

/// While it lives, no chunk is rewritten: a head keeps fitting the body that was read before it.
#[derive(Debug)]
pub(crate) struct RewritesHeld(Reader);

impl Drop for RewritesHeld {
    fn drop(&mut self) {
        self.0.0.rewrites_held.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Reads messages out of the store. Cheap to clone; survives a reopening.
#[derive(Debug, Clone)]
pub struct Reader(Arc<Shared>);

impl Reader {
    /// A reader whose cache holds at most this many bytes, and that reads the rest where `blocking` says.
    #[must_use]
    pub fn new(cache_bytes_max: usize, blocking: Blocking) -> Reader {
        let (db, cache) = (ArcSwapOption::empty(), Mutex::default());
        let rewrites_held = AtomicUsize::new(0);
        let (pinned, fans, objects) = (Mutex::default(), FanBook::default(), ObjectBook::default());
        Reader(Arc::new(Shared {
            db,
            cache,
            pinned,
            cache_bytes_max,
            blocking,
            fans,
            objects,
            rewrites_held,
        }))
    }

    /// Objects: which there are, and who reads them.
    #[must_use]
    pub fn objects(&self) -> &ObjectBook {
        &self.0.objects
    }

    /// The database, if it is open; to be held for one short transaction.
    pub(super) fn database(&self) -> Option<Arc<Database>> {
        self.0.db.load_full()
    }

    /// Does what blocks.
    pub(super) async fn on_pool<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        self.0.blocking.run(Job::Read, work).await
    }

    /// Who gets copies, and how far each has come.
    #[must_use]
    pub fn fans(&self) -> &FanBook {
        &self.0.fans
    }

    /// The messages in these chunks (chunk, first place, count) from `from` on, at most `limit`, and the place behind
    /// the last of them, whatever has become of them since.
    pub(crate) async fn sent(
        &self,
        chunks: Vec<(u64, u16, u16)>,
        from: Slot,
        limit: usize,
    ) -> Result<(Vec<CopyOf>, Slot), ReadFailure> {
        let reader = self.clone();
        let read = move || {
            let db = reader.0.db.load_full().ok_or(StoreError::Reopening)?;
            read_sent(&db.begin_read()?, &chunks, from, limit)
        };
        match self.0.blocking.run(Job::Read, read).await {
            Some(Ok(sent)) => Ok(sent),
            Some(Err(error)) => {
                tracing::warn!(%error, "reading what is to be copied failed");
                Err(ReadFailure::Store)
            }
            None => Err(ReadFailure::Store),
        }
    }

    /// Keeps chunks from being rewritten, from the next turn of the store on.
    pub(crate) fn hold_rewrites(&self) -> RewritesHeld {
        self.0.rewrites_held.fetch_add(1, Ordering::AcqRel);
        RewritesHeld(self.clone())
    }

    pub(crate) fn rewrites_are_held(&self) -> bool {
        self.0.rewrites_held.load(Ordering::Acquire) > 0
    }

    fn pinned(&self) -> std::sync::MutexGuard<'_, Pinned> {
        // Every change of it is one insertion or removal.
        self.0.pinned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a chunk that is nowhere else.
    pub(crate) fn pin(&self, chunk: u64, image: ChunkImage) {
        self.pinned().chunks.insert(chunk, Arc::new(image));
    }

    pub(crate) fn unpin(&self, chunk: u64) {
        self.pinned().chunks.remove(&chunk);
    }

    pub(crate) fn keep_note(&self, slot: Slot, note: String) {
        self.pinned().notes.insert(slot, note);
    }

    /// Keeps a dead letter; the last error is the one that was noted, if it has none of its own.
    pub(crate) fn keep_letter(&self, shard: ShardId, slot: Slot, mut letter: DeadLetter) {
        let mut pinned = self.pinned();
        letter.last_error = letter.last_error.or_else(|| pinned.notes.get(&slot).cloned());
        pinned.letters.insert((shard, slot), letter);
    }

    pub(crate) fn forget_words(&self, shard: ShardId, slot: Slot) {
        let mut pinned = self.pinned();
        pinned.notes.remove(&slot);
        pinned.letters.remove(&(shard, slot));
    }

    pub(crate) fn attach(&self, db: Option<Arc<Database>>) {
        self.0.db.store(db);
    }

    fn cache(&self) -> std::sync::MutexGuard<'_, Cache> {
        // A panic while it was held leaves a cache that is at worst incomplete.
        self.0.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn remember(&self, chunk: u64, image: ChunkImage) {
        self.cache().insert(chunk, Arc::new(image), self.0.cache_bytes_max);
    }

    /// How many chunks are in the cache, and their bytes.
    #[cfg(test)]
    pub(crate) fn cached(&self) -> (usize, usize) {
        let cache = self.cache();
        (cache.chunks.len(), cache.bytes)
    }

    /// They were removed, or rewritten.
    pub(crate) fn forget(&self, chunks: impl IntoIterator<Item = u64>) {
        let mut cache = self.cache();
        chunks.into_iter().for_each(|chunk| cache.forget(chunk));
    }

    pub(crate) fn clear(&self) {
        *self.cache() = Cache::default();
    }

    /// The messages in `slots`, in order. Does not block an async worker: what is not cached is read on the
    /// blocking pool.
    pub async fn fetch(&self, slots: Vec<Slot>) -> Vec<Result<StoredMessage, ReadFailure>> {
        if let Some(all) = self.fetch_cached(&slots) {
            return all;
        }
        let reader = self.clone();
        let n = slots.len();
        let read = self.0.blocking.run(Job::Read, move || reader.fetch_blocking(&slots)).await;
        read.unwrap_or_else(|| vec![Err(ReadFailure::Store); n])
    }

    fn fetch_cached(&self, slots: &[Slot]) -> Option<Vec<Result<StoredMessage, ReadFailure>>> {
        let images: Option<Vec<_>> = {
            let (cache, pinned) = (self.cache(), self.pinned());
            let of = |slot: &Slot| match slot.is_ram() {
                true => pinned.chunks.get(&slot.chunk()),
                false => cache.chunks.get(&slot.chunk()),
            };
            slots.iter().map(|slot| of(slot).cloned()).collect()
        };
        let images = images?;
        let sources: Vec<Option<Slot>> =
            images.iter().zip(slots).map(|(image, slot)| image.source(*slot)).collect();
        let of_sources: Option<Vec<Option<Arc<ChunkImage>>>> = {
            let cache = self.cache();
            let of = |source: &Option<Slot>| match source {
                None => Some(None),
                Some(source) => cache.chunks.get(&source.chunk()).cloned().map(Some),
            };
            sources.iter().map(of).collect()
        };
        let mut all = Vec::with_capacity(slots.len());
        for (((image, slot), source), from) in images.iter().zip(slots).zip(sources).zip(of_sources?) {
            all.push(match source.zip(from) {
                Some((source, from)) => image.read_copy(*slot, source, &from),
                None => image.read(*slot),
            });
        }
        Some(all)
    }

    /// [`Reader::fetch`] for a thread that may block.
    #[must_use]
    pub fn fetch_blocking(&self, slots: &[Slot]) -> Vec<Result<StoredMessage, ReadFailure>> {
        let mut local: HashMap<u64, Result<Arc<ChunkImage>, ReadFailure>> = HashMap::new();
        let mut image = |chunk: u64| {
            let image = local.entry(chunk).or_insert_with(|| self.image(chunk));
            image.clone()
        };
        let mut read = |slot: &Slot| {
            let found = image(slot.chunk())?;
            let Some(source) = found.source(*slot) else { return found.read(*slot) };
            let from = image(source.chunk()).map_err(|failure| match failure {
                ReadFailure::Gone => ReadFailure::Damaged,
                other => other,
            });
            found.read_copy(*slot, source, from?.as_ref())
        };
        slots.iter().map(&mut read).collect()
    }

    fn image(&self, chunk: u64) -> Result<Arc<ChunkImage>, ReadFailure> {
        if Slot::new(chunk, 0).is_ram() {
            return self.pinned().chunks.get(&chunk).cloned().ok_or(ReadFailure::Gone);
        }
        if let Some(image) = self.cache().chunks.get(&chunk) {
            return Ok(image.clone());
        }
        let db = self.0.db.load_full().ok_or(ReadFailure::Store)?;
        match read_image(&db, chunk) {
            Ok(Some(image)) => Ok(Arc::new(image)),
            Ok(None) => Err(ReadFailure::Gone),
            Err(StoreError::Damaged { .. }) => Err(ReadFailure::Damaged),
            Err(error) => {
                tracing::warn!(%error, chunk, "reading a chunk failed");
                Err(ReadFailure::Store)
            }
        }
    }

    /// Whether the chunk is on disk: for tests that look past the cache.
    #[cfg(test)]
    pub(crate) fn image_on_disk(&self, chunk: u64) -> Result<(), ReadFailure> {
        self.clear();
        self.image(chunk).map(drop)
    }

    /// When the message in `slot` was enqueued.
    ///
    /// # Errors
    /// [`ReadFailure`]; a damaged record does not matter here.
    pub async fn enqueued(&self, slot: Slot) -> Result<Millis, ReadFailure> {
        let reader = self.clone();
        let read = move || reader.image(slot.chunk()).map(|image| image.enqueued);
        self.0.blocking.run(Job::Read, read).await.unwrap_or(Err(ReadFailure::Store))
    }

    /// The last error that a consumer gave of the message in `slot`, if it is there and undamaged.
    pub async fn note(&self, slot: Slot) -> Option<String> {
        if slot.is_ram() {
            return self.pinned().notes.get(&slot).cloned();
        }
        let reader = self.clone();
        let read = move || {
            let db = reader.0.db.load_full()?;
            let row = db.begin_read().ok()?.open_table(NOTE).ok()?.get(slot.0).ok()??;
            open(row.value()).ok().map(|text| String::from_utf8_lossy(text).into_owned())
        };
        self.0.blocking.run(Job::Read, read).await.flatten()
    }

    /// The dead letters of `slots`, in order; `None` where there is none.
    ///
    /// # Errors
    /// The store cannot be read now.
    pub async fn letters(
        &self,
        shard: ShardId,
        slots: Vec<Slot>,
    ) -> Result<Vec<Option<DeadLetter>>, ReadFailure> {
        let reader = self.clone();
        let read = self.0.blocking.run(Job::Read, move || reader.letters_blocking(shard, &slots)).await;
        read.and_then(Result::ok).ok_or(ReadFailure::Store)
    }

    /// [`Reader::letters`] for a thread that may block.
    ///
    /// # Errors
    /// The database's.
    pub fn letters_blocking(
        &self,
        shard: ShardId,
        slots: &[Slot],
    ) -> Result<Vec<Option<DeadLetter>>, StoreError> {
        let db = self.0.db.load_full().ok_or(StoreError::Reopening)?;
        let table = db.begin_read()?.open_table(DLQ)?;
        let read = |slot: &Slot| {
            if slot.is_ram() {
                return Ok(self.pinned().letters.get(&(shard, *slot)).cloned());
            }
            let row = table.get((shard.0, slot.0))?;
            Ok(row.and_then(|row| dead_letter(row.value())))
        };
        slots.iter().map(read).collect()
    }
}

fn read_image(db: &Database, chunk: u64) -> Result<Option<ChunkImage>, StoreError> {
    let txn = db.begin_read()?;
    let Some(row) = txn.open_table(HEAD)?.get(chunk)? else { return Ok(None) };
    let head = Head::decode(chunk, row.value())?;
    let bodies = txn.open_table(BODY)?;
    let mut body = Vec::with_capacity(head.body_len as usize);
    for part in 0..part_count(head.body_len) {
        let key = body_key(chunk, part);
        let row = bodies.get(key)?.ok_or_else(|| StoreError::damaged("body", key, "missing"))?;
        body.extend_from_slice(row.value());
    }
    Ok(Some(ChunkImage::new(&head, body.into())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_is_bounded_by_bytes_and_drops_the_oldest() {
        let image = |len: usize| {
            let (places, copies) = (Vec::new(), Vec::new());
            Arc::new(ChunkImage { enqueued: Millis(0), places, body: vec![0; len].into(), copies })
        };
        let mut cache = Cache::default();
        for chunk in 0..10 {
            cache.insert(chunk, image(1000), 4 * 1128);
        }
        assert_eq!(cache.bytes, 4 * 1128);
        assert!(cache.chunks.contains_key(&9) && !cache.chunks.contains_key(&5));
        cache.forget(9);
        assert_eq!(cache.bytes, 3 * 1128);
    }
}
