//! Content-addressed objects: who has which, how much a tenant may have, what holds one, and when one may go
//! (SPEC §7). Knows neither tables nor bytes; the store does what is decided here, and tells what became of it.
//!
//! An object belongs to a tenant and has a number, which is never given twice. It stays for [`KEPT_MS`] after it was
//! last uploaded, for as long as a message refers to it, and while somebody reads it.

#[cfg(test)]
mod tests;

use crate::ids::{ContentHash, Slot, Tenant};
use crate::time::Millis;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// How long an object stays after its last upload, ms, whether anything refers to it or not.
pub const KEPT_MS: u64 = 3_600_000;

/// How much objects may be, uploads under way included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObjectLimits {
    /// Bytes, of all tenants.
    pub bytes: u64,
    /// Objects, of all tenants.
    pub count: u64,
    /// Bytes of one tenant.
    pub tenant_bytes: u64,
    /// Objects of one tenant.
    pub tenant_count: u64,
}

impl Default for ObjectLimits {
    fn default() -> ObjectLimits {
        ObjectLimits { bytes: 16 << 30, count: 1_000_000, tenant_bytes: 4 << 30, tenant_count: 100_000 }
    }
}

/// What is kept of an object beside its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Object {
    /// Whose it is.
    pub tenant: Tenant,
    /// Its address: BLAKE3 of its bytes.
    pub hash: ContentHash,
    /// Bytes.
    pub len: u64,
    /// When it was last uploaded, node time.
    pub uploaded: Millis,
}

/// Names an upload for as long as the process lives; never given twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UploadId(pub u64);

/// Why an upload does not go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotTaken {
    /// A limit of the tenant.
    TenantFull,
    /// A limit of the node.
    NodeFull,
    /// It is not known any more: the store was opened anew, and what was not whole is gone.
    Lost,
}

/// An object that a tenant has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// Its number.
    pub number: u64,
    /// Its bytes.
    pub len: u64,
}

/// What an upload becomes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Became {
    /// A new object, which is seen once it is published.
    New(u64, Object),
    /// The tenant has these bytes: that object's hour begins anew, and what was uploaded is not needed.
    Known(u64, Object),
    /// The same, but what it has is damaged, and what was uploaded (its number comes last) takes its place.
    Mends(u64, Object, u64),
}

/// What there is, for operators.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ObjectFigures {
    /// Whole objects.
    pub count: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Of them, those that a message refers to.
    pub held: u64,
    /// Uploads under way, ended ones that are not yet removed included.
    pub uploads: u64,
}

#[derive(Debug)]
struct Entry {
    object: Object,
    /// Messages that refer to it.
    held: u32,
    /// Who reads it now.
    readers: u32,
    /// Whether its commit is done.
    seen: bool,
    /// Somebody found that its bytes are not those of its address.
    damaged: bool,
}

#[derive(Debug)]
struct Upload {
    tenant: Tenant,
    number: u64,
    bytes: u64,
    /// Nobody goes on with it.
    ended: bool,
}

#[derive(Debug, Default)]
struct Shelf {
    objects: HashMap<ContentHash, u64>,
    used: Used,
}

/// What counts against a limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Used {
    bytes: u64,
    count: u64,
}

impl Used {
    fn has_room(self, more: Used, bytes_max: u64, count_max: u64) -> bool {
        self.bytes.saturating_add(more.bytes) <= bytes_max && self.count + more.count <= count_max
    }

    fn add(&mut self, more: Used) {
        self.bytes += more.bytes;
        self.count += more.count;
    }

    fn take(&mut self, less: Used) {
        self.bytes = self.bytes.saturating_sub(less.bytes);
        self.count = self.count.saturating_sub(less.count);
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Objects {
    limits: ObjectLimits,
    shelves: HashMap<Tenant, Shelf>,
    entries: HashMap<u64, Entry>,
    uploads: BTreeMap<UploadId, Upload>,
    used: Used,
    /// Which message of a chunk refers to which object.
    holders: HashMap<u64, BTreeMap<u16, u64>>,
    /// What no message holds, by when it was uploaded.
    idle: BTreeSet<(Millis, u64)>,
    next: u64,
}

impl Objects {
    /// None yet; the first number given is `next`.
    #[must_use]
    pub fn new(limits: ObjectLimits, next: u64) -> Objects {
        Objects { limits, next, ..Objects::default() }
    }

    /// Takes over an object that is stored.
    pub fn restore(&mut self, number: u64, object: Object) {
        self.next = self.next.max(number + 1);
        self.charge(&object.tenant, Used { bytes: object.len, count: 1 });
        self.enter(number, object, true);
    }

    /// The object of `tenant` with this address. Absent and another tenant's look the same.
    #[must_use]
    pub fn find(&self, tenant: &Tenant, hash: &ContentHash) -> Option<Found> {
        let number = *self.shelves.get(tenant)?.objects.get(hash)?;
        let entry = self.entries.get(&number).filter(|entry| entry.seen)?;
        Some(Found { number, len: entry.object.len })
    }

    /// The number after the last one given.
    #[must_use]
    pub const fn next_number(&self) -> u64 {
        self.next
    }

    /// Begins an upload, which counts as an object from here on.
    ///
    /// # Errors
    /// A limit.
    pub fn begin(&mut self, id: UploadId, tenant: &Tenant) -> Result<(), NotTaken> {
        self.room(tenant, Used { bytes: 0, count: 1 })?;
        self.charge(tenant, Used { bytes: 0, count: 1 });
        let number = self.next;
        self.next += 1;
        self.uploads.insert(id, Upload { tenant: tenant.clone(), number, bytes: 0, ended: false });
        Ok(())
    }

    /// Takes `bytes` more of an upload. Returns the number of the object to be, and where in it they begin.
    ///
    /// # Errors
    /// A limit, or the upload is not known any more.
    pub fn grow(&mut self, id: UploadId, bytes: u64) -> Result<(u64, u64), NotTaken> {
        let upload = self.uploads.get(&id).filter(|upload| !upload.ended).ok_or(NotTaken::Lost)?;
        let tenant = upload.tenant.clone();
        self.room(&tenant, Used { bytes, count: 0 })?;
        self.charge(&tenant, Used { bytes, count: 0 });
        let upload = self.uploads.get_mut(&id).ok_or(NotTaken::Lost)?;
        let from = upload.bytes;
        upload.bytes += bytes;
        Ok((upload.number, from))
    }

    /// All bytes of an upload are there, and this is their address. `now` is node time.
    ///
    /// # Errors
    /// The upload is not known any more.
    pub fn finish(&mut self, id: UploadId, hash: ContentHash, now: Millis) -> Result<Became, NotTaken> {
        let upload = self.uploads.get(&id).filter(|upload| !upload.ended).ok_or(NotTaken::Lost)?;
        let (tenant, uploaded) = (upload.tenant.clone(), upload.number);
        if let Some((number, object, damaged)) = self.renew(&tenant, &hash, now) {
            self.end(id);
            return Ok(match damaged {
                true => Became::Mends(number, object, uploaded),
                false => Became::Known(number, object),
            });
        }
        let Some(Upload { tenant, number, bytes, .. }) = self.uploads.remove(&id) else {
            return Err(NotTaken::Lost);
        };
        let object = Object { tenant, hash, len: bytes, uploaded: now };
        self.enter(number, object.clone(), false);
        Ok(Became::New(number, object))
    }

    /// If the tenant has an object with this address, its hour begins anew: its number, what is kept of it, and whether
    /// it is known to be damaged.
    pub fn renew(&mut self, tenant: &Tenant, hash: &ContentHash, now: Millis) -> Option<(u64, Object, bool)> {
        let number = *self.shelves.get(tenant)?.objects.get(hash)?;
        let entry = self.entries.get_mut(&number)?;
        self.idle.remove(&(entry.object.uploaded, number));
        entry.object.uploaded = entry.object.uploaded.max(now);
        let (object, damaged) = (entry.object.clone(), entry.damaged);
        self.settle(number);
        Some((number, object, damaged))
    }

    /// The commit of an object that is new, or mended, is done.
    pub fn publish(&mut self, number: u64) {
        if let Some(entry) = self.entries.get_mut(&number) {
            (entry.seen, entry.damaged) = (true, false);
        }
    }

    /// Its bytes were found not to be those of its address: the next upload of them takes their place.
    pub fn damaged(&mut self, number: u64) {
        if let Some(entry) = self.entries.get_mut(&number) {
            entry.damaged = true;
        }
    }

    /// Nobody goes on with the upload: what it left is to be removed.
    pub fn end(&mut self, id: UploadId) {
        if let Some(upload) = self.uploads.get_mut(&id) {
            upload.ended = true;
        }
    }

    /// The message in `slot` refers to an object.
    pub fn hold(&mut self, slot: Slot, number: u64) {
        if self.holders.entry(slot.chunk()).or_default().insert(slot.idx(), number).is_none()
            && let Some(entry) = self.entries.get_mut(&number)
        {
            entry.held += 1;
            self.idle.remove(&(entry.object.uploaded, number));
        }
    }

    /// Whether any message refers to any object: what spares [`Objects::gone`].
    #[must_use]
    pub fn none_held(&self) -> bool {
        self.holders.is_empty()
    }

    /// These messages of a chunk exist no more.
    pub fn gone(&mut self, first: Slot, count: u16) {
        let Some(holders) = self.holders.get_mut(&first.chunk()) else { return };
        let places = first.idx()..first.idx().saturating_add(count);
        let over: Vec<u16> = holders.range(places).map(|(idx, _)| *idx).collect();
        let over: Vec<u64> = over.iter().filter_map(|idx| holders.remove(idx)).collect();
        if holders.is_empty() {
            self.holders.remove(&first.chunk());
        }
        for number in over {
            if let Some(entry) = self.entries.get_mut(&number) {
                entry.held -= 1;
            }
            self.settle(number);
        }
    }

    /// Somebody reads the object: it stays until [`Objects::read`].
    pub fn reads(&mut self, number: u64) {
        if let Some(entry) = self.entries.get_mut(&number) {
            entry.readers += 1;
        }
    }

    /// Somebody reads it no more.
    pub fn read(&mut self, number: u64) {
        if let Some(entry) = self.entries.get_mut(&number) {
            entry.readers = entry.readers.saturating_sub(1);
        }
    }

    /// Who reads what, for the book that takes the place of this one.
    pub fn take_readers(&mut self, before: &Objects) {
        for (number, old) in before.entries.iter().filter(|(_, entry)| entry.readers > 0) {
            if let Some(entry) =
                self.entries.get_mut(number).filter(|entry| entry.object.hash == old.object.hash)
            {
                entry.readers = old.readers;
            }
        }
    }

    /// Whether something may go: an ended upload, or with `ends` an object whose hour is over by then.
    #[must_use]
    pub fn is_due(&self, ends: Option<Millis>) -> bool {
        self.uploads.values().any(|upload| upload.ended)
            || ends.is_some_and(|ends| self.over(ends).next().is_some())
    }

    /// Takes out what may go, about `bytes_max` of it: the number and the bytes of each. `ends` is the time by which
    /// hours may be over, `None` = no object may go now.
    pub fn take_due(&mut self, ends: Option<Millis>, bytes_max: u64) -> Vec<(u64, u64)> {
        let (mut due, mut bytes) = (Vec::new(), 0);
        while bytes < bytes_max {
            let Some(id) = self.uploads.iter().find(|(_, upload)| upload.ended).map(|(id, _)| *id) else {
                break;
            };
            let Some(upload) = self.uploads.remove(&id) else { break };
            self.discharge(&upload.tenant, Used { bytes: upload.bytes, count: 1 });
            bytes += upload.bytes;
            due.push((upload.number, upload.bytes));
        }
        while let Some(ends) = ends.filter(|_| bytes < bytes_max) {
            let Some(number) = self.over(ends).next() else { break };
            let Some(Entry { object, .. }) = self.entries.remove(&number) else { break };
            self.idle.remove(&(object.uploaded, number));
            if let Some(shelf) = self.shelves.get_mut(&object.tenant) {
                shelf.objects.remove(&object.hash);
            }
            self.discharge(&object.tenant, Used { bytes: object.len, count: 1 });
            bytes += object.len;
            due.push((number, object.len));
        }
        due
    }

    /// See [`ObjectFigures`].
    #[must_use]
    pub fn figures(&self) -> ObjectFigures {
        let uploading: u64 = self.uploads.values().map(|upload| upload.bytes).sum();
        ObjectFigures {
            count: self.entries.len() as u64,
            bytes: self.used.bytes - uploading,
            held: (self.entries.len() - self.idle.len()) as u64,
            uploads: self.uploads.len() as u64,
        }
    }

    /// What nothing keeps once its hour is over by `ends`, oldest first.
    fn over(&self, ends: Millis) -> impl Iterator<Item = u64> {
        let old = self.idle.iter().take_while(move |(uploaded, _)| uploaded.plus(KEPT_MS) <= ends);
        let unread = |number: &u64| self.entries.get(number).is_some_and(|entry| entry.readers == 0);
        old.map(|(_, number)| *number).filter(unread)
    }

    fn enter(&mut self, number: u64, object: Object, seen: bool) {
        self.shelves.entry(object.tenant.clone()).or_default().objects.insert(object.hash, number);
        self.idle.insert((object.uploaded, number));
        self.entries.insert(number, Entry { object, held: 0, readers: 0, seen, damaged: false });
    }

    /// Puts an object among the idle ones if nothing holds it.
    fn settle(&mut self, number: u64) {
        if let Some(entry) = self.entries.get(&number).filter(|entry| entry.held == 0) {
            self.idle.insert((entry.object.uploaded, number));
        }
    }

    fn room(&self, tenant: &Tenant, more: Used) -> Result<(), NotTaken> {
        let ObjectLimits { bytes, count, tenant_bytes, tenant_count } = self.limits;
        let used = self.shelves.get(tenant).map_or(Used::default(), |shelf| shelf.used);
        if !used.has_room(more, tenant_bytes, tenant_count) {
            return Err(NotTaken::TenantFull);
        }
        if self.used.has_room(more, bytes, count) { Ok(()) } else { Err(NotTaken::NodeFull) }
    }

    fn charge(&mut self, tenant: &Tenant, more: Used) {
        self.used.add(more);
        self.shelves.entry(tenant.clone()).or_default().used.add(more);
    }

    fn discharge(&mut self, tenant: &Tenant, less: Used) {
        self.used.take(less);
        let Some(shelf) = self.shelves.get_mut(tenant) else { return };
        shelf.used.take(less);
        if shelf.used == Used::default() && shelf.objects.is_empty() {
            self.shelves.remove(tenant);
        }
    }
}
