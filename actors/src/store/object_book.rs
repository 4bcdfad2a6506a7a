//! Objects as the rest of the node sees them: put, found, read. What is in memory is shared by the engine that writes
//! them and by those who read, and outlives a reopening of the database.

use super::actor::Store;
use super::error::StoreError;
use super::objects::{NotStored, ObjectOp, object_parts, read_parts};
use super::read::{ReadFailure, Reader};
use super::schema::OBJECT_PART_BYTES;
use bytes::{Bytes, BytesMut};
use ron_core::ids::{ContentHash, Tenant};
use ron_core::objects::{Found, NotTaken, ObjectFigures, Objects, UploadId};
use ron_core::reason::{Reason, Refusal};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The largest object that is put in one commit; a larger one is an upload.
pub const OBJECT_WHOLE_MAX: usize = 1 << 20;
/// Parts of an upload that go into one commit: what it holds in memory.
const PARTS_AT_ONCE: usize = 4;
/// Parts read in one transaction.
const PARTS_READ: u64 = 8;

/// What is known of objects. See the module.
#[derive(Debug, Default)]
pub struct ObjectBook {
    objects: Mutex<Objects>,
    uploads: AtomicU64,
}

impl ObjectBook {
    /// The objects.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Objects> {
        // A panic inside leaves an engine that is dropped, and the next one brings a book of its own.
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What an opening found takes the place of what was known. Uploads that were under way are over.
    pub(crate) fn replace(&self, mut objects: Objects) {
        let mut current = self.lock();
        objects.take_readers(&current);
        *current = objects;
    }

    /// What there is, for the metrics.
    #[must_use]
    pub fn figures(&self) -> ObjectFigures {
        self.lock().figures()
    }

    fn next_upload(&self) -> UploadId {
        UploadId(self.uploads.fetch_add(1, Ordering::Relaxed))
    }
}

/// An upload under way. If it is dropped before [`Upload::finish`], nothing stays of it.
#[derive(Debug)]
pub struct Upload {
    store: Store,
    id: UploadId,
    hasher: blake3::Hasher,
    pending: BytesMut,
    len: u64,
}

impl Drop for Upload {
    fn drop(&mut self) {
        // of one that was finished there is nothing to end
        self.store.reader().objects().lock().end(self.id);
    }
}

impl Upload {
    /// Takes more bytes; writes them whenever there are enough. Bounded by 240 KiB and what is given at once.
    ///
    /// # Errors
    /// BACKPRESSURE at a limit, STORAGE if the store failed: then it is over.
    pub async fn write(&mut self, mut bytes: &[u8]) -> Result<(), Refusal> {
        let room = PARTS_AT_ONCE * OBJECT_PART_BYTES;
        self.len += bytes.len() as u64;
        while !bytes.is_empty() {
            let (now, rest) = bytes.split_at(bytes.len().min(room - self.pending.len()));
            self.hasher.update(now);
            self.pending.extend_from_slice(now);
            bytes = rest;
            if self.pending.len() == room {
                self.flush().await?;
            }
        }
        Ok(())
    }

    /// Bytes so far.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// Whether there are none yet.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The address of what was written so far.
    #[must_use]
    pub fn hash(&self) -> ContentHash {
        ContentHash(*self.hasher.finalize().as_bytes())
    }

    /// Makes it an object. It is synced, and is found by others, when this returns.
    ///
    /// # Errors
    /// As [`Upload::write`].
    pub async fn finish(mut self) -> Result<ContentHash, Refusal> {
        self.flush().await?;
        let hash = self.hash();
        self.store.do_object(ObjectOp::Finish(self.id, hash)).await?;
        Ok(hash)
    }

    async fn flush(&mut self) -> Result<(), Refusal> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let bytes = self.pending.split().freeze();
        self.store.do_object(ObjectOp::Grow(self.id, bytes)).await
    }
}

/// An object that is read: it stays for as long as this lives.
#[derive(Debug)]
pub struct ObjectReader {
    reader: Reader,
    found: Found,
    hash: ContentHash,
}

impl Drop for ObjectReader {
    fn drop(&mut self) {
        self.reader.objects().lock().read(self.found.number);
    }
}

impl ObjectReader {
    /// Bytes.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.found.len
    }

    /// Whether it has none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.found.len == 0
    }

    /// Its address.
    #[must_use]
    pub const fn hash(&self) -> &ContentHash {
        &self.hash
    }

    /// Reads all of it and compares its hash with its address. One of up to [`OBJECT_WHOLE_MAX`] bytes is returned, so
    /// that it need not be read again.
    ///
    /// # Errors
    /// [`ReadFailure::Damaged`]: it is not what was put, and must not be served.
    pub async fn verify(&self) -> Result<Option<Bytes>, ReadFailure> {
        let verified = self.verified().await;
        if matches!(verified, Err(ReadFailure::Damaged)) {
            self.reader.objects().lock().damaged(self.found.number);
        }
        verified
    }

    async fn verified(&self) -> Result<Option<Bytes>, ReadFailure> {
        let mut hasher = blake3::Hasher::new();
        let whole = self.len() <= OBJECT_WHOLE_MAX as u64;
        let mut kept = BytesMut::new();
        let mut at = 0;
        while at < self.len() {
            let bytes = self.read(at).await?;
            hasher.update(&bytes);
            if whole {
                kept.extend_from_slice(&bytes);
            }
            at += bytes.len() as u64;
        }
        if at != self.len() || *hasher.finalize().as_bytes() != self.hash.0 {
            return Err(ReadFailure::Damaged);
        }
        Ok(whole.then(|| kept.freeze()))
    }

    /// Some of its bytes from `at` on, each part's checksum compared; at least one, where there is one.
    ///
    /// # Errors
    /// As [`ObjectReader::verify`].
    pub async fn read(&self, at: u64) -> Result<Bytes, ReadFailure> {
        let first = at / OBJECT_PART_BYTES as u64;
        let parts = first..(first + PARTS_READ).min(object_parts(self.len()));
        let bytes = self.reader.object_parts(self.found.number, parts).await?;
        let skipped = (at - first * OBJECT_PART_BYTES as u64) as usize;
        if skipped >= bytes.len() {
            return Err(ReadFailure::Damaged);
        }
        Ok(bytes.slice(skipped..))
    }
}

impl Reader {
    async fn object_parts(&self, number: u64, parts: std::ops::Range<u64>) -> Result<Bytes, ReadFailure> {
        let reader = self.clone();
        let read = move || {
            let db = reader.database().ok_or(StoreError::Reopening)?;
            read_parts(&redb::ReadableDatabase::begin_read(&*db)?, number, parts)
        };
        match self.on_pool(read).await {
            Some(Ok(bytes)) => Ok(bytes.into()),
            Some(Err(error @ StoreError::Damaged { .. })) => {
                tracing::error!(%error, "an object is damaged");
                Err(ReadFailure::Damaged)
            }
            Some(Err(error)) => {
                tracing::warn!(%error, "reading an object failed");
                Err(ReadFailure::Store)
            }
            None => Err(ReadFailure::Store),
        }
    }
}

impl Store {
    /// Puts an object of up to [`OBJECT_WHOLE_MAX`] bytes in one commit. It is synced when this returns.
    ///
    /// # Errors
    /// BACKPRESSURE at a limit, STORAGE if the store failed.
    pub async fn put_object(&self, tenant: &Tenant, bytes: Bytes) -> Result<ContentHash, Refusal> {
        let (id, hash) = (self.reader().objects().next_upload(), ContentHash::of(&bytes));
        self.do_object(ObjectOp::Whole(id, tenant.clone(), hash, bytes)).await?;
        Ok(hash)
    }

    /// Begins an upload.
    ///
    /// # Errors
    /// BACKPRESSURE at a limit.
    pub fn upload(&self, tenant: &Tenant) -> Result<Upload, Refusal> {
        let id = self.reader().objects().next_upload();
        self.reader().objects().lock().begin(id, tenant).map_err(refusal)?;
        let (hasher, pending) = (blake3::Hasher::new(), BytesMut::new());
        Ok(Upload { store: self.clone(), id, hasher, pending, len: 0 })
    }

    /// The object of `tenant` with this address, for reading. Absent and another tenant's are the same `None`.
    #[must_use]
    pub fn object(&self, tenant: &Tenant, hash: &ContentHash) -> Option<ObjectReader> {
        let mut objects = self.reader().objects().lock();
        let found = objects.find(tenant, hash)?;
        objects.reads(found.number);
        Some(ObjectReader { reader: self.reader().clone(), found, hash: *hash })
    }

    async fn do_object(&self, op: ObjectOp) -> Result<(), Refusal> {
        match self.object_job(op).await {
            Ok(()) => Ok(()),
            Err(NotStored::Refused(why)) => Err(refusal(why)),
            // the same bytes again do no harm, so that it is unknown whether it is there matters to nobody
            Err(NotStored::Failed) => {
                Err(Refusal::new(Reason::Storage, "the store failed while it took the object; put it again"))
            }
        }
    }
}

fn refusal(why: NotTaken) -> Refusal {
    let (reason, text) = match why {
        NotTaken::TenantFull => {
            let text = "the tenant's objects are as many, or as large, as they may be \
                        (store.tenant_objects, store.tenant_objects_bytes)";
            (Reason::Backpressure, text)
        }
        NotTaken::NodeFull => {
            let text = "the node's objects are as many, or as large, as they may be \
                        (store.max_objects, store.objects_bytes)";
            (Reason::Backpressure, text)
        }
        NotTaken::Lost => (Reason::Storage, "the store was reopened during the upload; put the object again"),
    };
    Refusal::new(reason, text).without_effect()
}
