//! The root keys that make and check tokens.

use crate::ids::Kid;
use zeroize::Zeroizing;

/// A 256-bit root key. Zeroed when dropped, never shown.
#[derive(Clone)]
pub struct RootKey(Zeroizing<[u8; 32]>);

impl RootKey {
    /// The key of these bytes.
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> RootKey {
        RootKey(Zeroizing::new(bytes))
    }

    /// The bytes, for a MAC or the keyring's file.
    #[must_use]
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl std::fmt::Debug for RootKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RootKey(_)")
    }
}

/// A root key and its life.
#[derive(Debug, Clone)]
pub struct KeyEntry {
    /// Its id, which every token made with it names.
    pub kid: Kid,
    /// The key.
    pub key: RootKey,
    /// When it was made, Unix seconds of the wall clock.
    pub created_unix_s: u64,
    /// Set when it was rotated out: it makes no more tokens, and checks them only before this second.
    pub not_after_unix_s: Option<u64>,
}

/// All root keys of a node. Never empty of a key that mints.
#[derive(Debug, Clone)]
pub struct Keyring {
    entries: Vec<KeyEntry>,
    minting: usize,
}

impl Keyring {
    /// A ring of these keys.
    ///
    /// # Errors
    /// Two keys with one kid, or none without `not_after`.
    pub fn new(entries: Vec<KeyEntry>) -> Result<Keyring, &'static str> {
        for (at, entry) in entries.iter().enumerate() {
            if entries[..at].iter().any(|other| other.kid == entry.kid) {
                return Err("two keys have the same kid");
            }
        }
        let minting = (0..entries.len())
            .filter(|&at| entries[at].not_after_unix_s.is_none())
            .max_by_key(|&at| entries[at].created_unix_s)
            .ok_or("no key without `not_after`, so none to mint with")?;
        Ok(Keyring { entries, minting })
    }

    /// The key `kid`, if it is known and still checks tokens.
    #[must_use]
    pub fn key(&self, kid: &Kid, wall_unix_s: u64) -> Option<&RootKey> {
        let entry = self.entries.iter().find(|entry| entry.kid == *kid)?;
        let alive = entry.not_after_unix_s.is_none_or(|end| wall_unix_s < end);
        alive.then_some(&entry.key)
    }

    /// The key that makes new tokens: the newest without `not_after`.
    #[must_use]
    pub fn minting(&self) -> &KeyEntry {
        &self.entries[self.minting]
    }

    /// All keys, in the order of the file.
    #[must_use]
    pub fn entries(&self) -> &[KeyEntry] {
        &self.entries
    }
}
