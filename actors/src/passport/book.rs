//! What is in force: the keys and the revocations. Read on every request without a lock; replaced as a whole.

use arc_swap::ArcSwap;
use ron_core::capability::{Capability, Keyring, Revoked};
use ron_core::reason::{Reason, Refusal};
use std::sync::Arc;

/// See the module.
#[derive(Debug)]
pub struct Book {
    keys: ArcSwap<Keyring>,
    revoked: ArcSwap<Revoked>,
}

impl Book {
    pub(super) fn new(keys: Keyring, revoked: Revoked) -> Book {
        Book { keys: ArcSwap::from_pointee(keys), revoked: ArcSwap::from_pointee(revoked) }
    }

    pub(super) fn keys(&self) -> Arc<Keyring> {
        self.keys.load_full()
    }

    pub(super) fn revoked(&self) -> Arc<Revoked> {
        self.revoked.load_full()
    }

    /// From now on these are the keys.
    pub(super) fn put_keys(&self, keys: Keyring) {
        self.keys.store(Arc::new(keys));
    }

    /// From now on these are the revocations.
    pub(super) fn put_revoked(&self, revoked: Revoked) {
        self.revoked.store(Arc::new(revoked));
    }
}

/// A capability whose MAC chain held, and what can end it before its time.
#[derive(Debug)]
pub struct Grant {
    /// What it allows, and its public name.
    pub capability: Capability,
    book: Arc<Book>,
}

impl Grant {
    pub(super) fn new(capability: Capability, book: Arc<Book>) -> Grant {
        Grant { capability, book }
    }

    /// Whether neither it nor its key is revoked, and its key still checks tokens.
    ///
    /// # Errors
    /// UNAUTH.
    pub(super) fn in_force(&self, wall_unix_s: u64) -> Result<(), Refusal> {
        let Capability { cap_id, kid, .. } = &self.capability;
        if self.book.revoked.load().covers(*cap_id, kid) {
            return Err(Refusal::new(Reason::Unauth, "capability: revoked"));
        }
        match self.book.keys.load().key(kid, wall_unix_s) {
            Some(_) => Ok(()),
            None => Err(Refusal::new(Reason::Unauth, "capability: does not verify")),
        }
    }

    /// Whether it still counts; what a call asks again that waits or takes long. Charges nothing.
    ///
    /// # Errors
    /// UNAUTH once it or its key is revoked or has ended, EXPIRED_TOKEN.
    pub fn still_holds(&self, wall_unix_s: u64) -> Result<(), Refusal> {
        self.in_force(wall_unix_s)?;
        self.capability.in_time(wall_unix_s)
    }
}
