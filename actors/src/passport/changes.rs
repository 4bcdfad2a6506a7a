//! What operators change: revocations and keys. One change at a time, and each is on the device before it is answered.
//!
//! It does not go through the actor: a capability must be revocable while that is down, when the ones that are
//! remembered still work.

use super::book::Book;
use crate::entropy::Entropy;
use crate::kernel::bus::Bus;
use crate::kernel::event::Event;
use crate::keyring_file::{self, KeyringError};
use crate::revoked_file;
use ron_core::capability::{KeyEntry, Revocation, Revoked, Rotated};
use ron_core::ids::Kid;
use ron_core::reason::{Reason, Refusal};
use ron_core::time::{Clock, Millis};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

/// Where the keyring is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyringPlace {
    /// In a file of ours.
    File(PathBuf),
    /// In a file that somebody else makes: never written.
    Mount(PathBuf),
    /// Nowhere but in memory.
    Memory,
}

/// A key as operators see it; never the key itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyInfo {
    /// Its id.
    pub kid: Kid,
    /// When it was made.
    pub created: Millis,
    /// Until when it checks tokens; `None` = it was not rotated out.
    pub not_after: Option<Millis>,
    /// Whether new tokens are made with it.
    pub minting: bool,
    /// Whether all its tokens are revoked.
    pub revoked: bool,
}

/// What became of one revocation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevokedNow {
    /// What is revoked.
    pub what: Revocation,
    /// It was already.
    pub already: bool,
    /// Of a key: whether it is in the keyring. Of a capability nobody can say.
    pub known: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Changes {
    pub(super) book: Arc<Book>,
    pub(super) bus: Bus,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) entropy: Arc<dyn Entropy>,
    /// How long a key that was rotated out checks tokens, in seconds.
    pub(super) overlap_s: u64,
    pub(super) keyring: KeyringPlace,
    /// The file of the revocations; `None` = in memory alone.
    pub(super) revoked: Option<PathBuf>,
    /// Held during a change. Whether all that is revoked is on the device.
    pub(super) saved: Mutex<bool>,
}

impl Changes {
    /// Puts revocations in force and on the device. Blocks.
    ///
    /// # Errors
    /// MALFORMED for the key that makes tokens now, BACKPRESSURE if the list is full: nothing is revoked then. STORAGE
    /// if it could not be written: it is in force, but may not outlast a restart, and must be repeated.
    pub(super) fn revoke(&self, list: &[Revocation]) -> Result<Vec<RevokedNow>, Refusal> {
        let mut saved = self.saved.lock().unwrap_or_else(PoisonError::into_inner);
        let (keys, wall) = (self.book.keys(), self.clock.wall());
        let mut revoked = Revoked::clone(&self.book.revoked());
        let mut done = Vec::with_capacity(list.len());
        for what in list {
            let known = match what {
                Revocation::Kid(kid) if *kid == keys.minting().kid => return Err(mints(kid)),
                Revocation::Kid(kid) => keys.entries().iter().any(|entry| entry.kid == *kid),
                Revocation::Cap(_) => true,
            };
            let full =
                |error: ron_core::capability::TooMany| Refusal::new(Reason::Backpressure, error.to_string());
            let already = !revoked.add(what, wall).map_err(full)?;
            done.push(RevokedNow { what: what.clone(), already, known });
        }
        // In force first: should the disk fail, it holds at least until the next start.
        if done.iter().any(|one| !one.already) {
            *saved = false;
            self.book.put_revoked(revoked);
        }
        for one in done.iter().filter(|one| !one.already) {
            self.tell(&one.what);
        }
        if !*saved {
            self.save()?;
            *saved = true;
        }
        Ok(done)
    }

    fn save(&self) -> Result<(), Refusal> {
        let Some(path) = &self.revoked else { return Ok(()) };
        revoked_file::save(path, &self.book.revoked()).map_err(|error| {
            let text = format!(
                "revoked until the next start, but {} could not be written ({error}); mend that and repeat",
                path.display()
            );
            Refusal::new(Reason::Storage, text)
        })
    }

    fn tell(&self, what: &Revocation) {
        let (cap_id, kid) = match what {
            Revocation::Cap(id) => (Some(id.to_string().into()), None),
            Revocation::Kid(kid) => (None, Some(kid.as_str().into())),
        };
        self.bus.publish(Event::CapRevoked { cap_id, kid });
    }

    /// Makes a key that makes all tokens from now on; the others check theirs until the overlap ends. Blocks.
    ///
    /// # Errors
    /// POLICY_BLOCKED for a keyring that is not ours to write, BACKPRESSURE for a full one, STORAGE if it could not be
    /// written: the keys in force are as before.
    pub(super) fn rotate(&self) -> Result<Rotated, Refusal> {
        let _changing = self.saved.lock().unwrap_or_else(PoisonError::into_inner);
        if let KeyringPlace::Mount(path) = &self.keyring {
            let text = format!(
                "the keyring {} is a mount (RON_KEYRING) and never written; rotate it where it is made, and restart",
                path.display()
            );
            return Err(Refusal::new(Reason::PolicyBlocked, text));
        }
        let wall = self.clock.wall();
        let new: KeyEntry = keyring_file::new_key(wall, self.entropy.as_ref()).map_err(no_key)?;
        let in_force = self.book.keys();
        let rotated = in_force.rotate(new, wall.0 / 1000, self.overlap_s);
        let (later, rotated) =
            rotated.map_err(|error| Refusal::new(Reason::Backpressure, error.to_string()))?;
        if let KeyringPlace::File(path) = &self.keyring {
            keyring_file::replace(path, &in_force, &later).map_err(not_written)?;
        }
        self.book.put_keys(later);
        Ok(rotated)
    }

    /// The keys, in the order of the file.
    pub(super) fn keys(&self) -> Vec<KeyInfo> {
        let (keys, revoked) = (self.book.keys(), self.book.revoked());
        let ms = |unix_s: u64| Millis(unix_s.saturating_mul(1000));
        let info = |entry: &KeyEntry| KeyInfo {
            kid: entry.kid.clone(),
            created: ms(entry.created_unix_s),
            not_after: entry.not_after_unix_s.map(ms),
            minting: entry.kid == keys.minting().kid,
            revoked: revoked.kid(&entry.kid),
        };
        keys.entries().iter().map(info).collect()
    }
}

fn mints(kid: &Kid) -> Refusal {
    let text = format!(
        "kids: {kid} makes the tokens now, and every webhook's with them; `ronctl key rotate` first, then revoke it"
    );
    Refusal::new(Reason::Malformed, text)
}

fn no_key(error: KeyringError) -> Refusal {
    Refusal::new(Reason::Internal, error.to_string())
}

fn not_written(error: KeyringError) -> Refusal {
    Refusal::new(Reason::Storage, error.to_string())
}
