//! The root keys that make and check tokens.

use crate::ids::Kid;
use zeroize::Zeroizing;

/// Most keys of a ring that is rotated: each old one stays for twice the longest life of a token.
pub const KEYS_MAX: usize = 256;

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

    /// The ring after a rotation: `new` makes tokens from now on, and every other key only checks them, for
    /// `overlap_s` more seconds. Keys that check nothing any more are left out.
    ///
    /// # Errors
    /// [`TooManyKeys`]; the ring is as before.
    pub fn rotate(
        &self,
        new: KeyEntry,
        wall_unix_s: u64,
        overlap_s: u64,
    ) -> Result<(Keyring, Rotated), TooManyKeys> {
        let mut rotated = Rotated { kid: new.kid.clone(), retired: Vec::new(), dropped: Vec::new() };
        let mut entries = Vec::with_capacity(self.entries.len() + 1);
        for entry in &self.entries {
            let mut entry = entry.clone();
            match entry.not_after_unix_s {
                Some(end) if end <= wall_unix_s => {
                    rotated.dropped.push(entry.kid);
                    continue;
                }
                Some(_) => {}
                None => {
                    let end = wall_unix_s.saturating_add(overlap_s);
                    entry.not_after_unix_s = Some(end);
                    rotated.retired.push((entry.kid.clone(), end));
                }
            }
            entries.push(entry);
        }
        if entries.len() >= KEYS_MAX {
            return Err(TooManyKeys);
        }
        entries.push(KeyEntry { not_after_unix_s: None, ..new });
        let ring = Keyring::new(entries).map_err(|_| TooManyKeys)?;
        Ok((ring, rotated))
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

/// What a rotation did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rotated {
    /// The key that makes tokens now.
    pub kid: Kid,
    /// The keys that made them before, and the Unix second until which each checks them.
    pub retired: Vec<(Kid, u64)>,
    /// Keys that had ended and are forgotten.
    pub dropped: Vec<Kid>,
}

/// A ring cannot take one more key: it is full, or has one of that kid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the keyring has {KEYS_MAX} keys that still check tokens, or one of that kid")]
pub struct TooManyKeys;

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_795_000_000;
    const OVERLAP: u64 = 100;

    fn entry(kid: &str, not_after: Option<u64>) -> KeyEntry {
        let key = RootKey::new([kid.len() as u8; 32]);
        let kid = Kid::parse(kid).unwrap();
        KeyEntry { kid, key, created_unix_s: NOW - 9, not_after_unix_s: not_after }
    }

    fn kids(ring: &Keyring) -> Vec<(&str, Option<u64>)> {
        ring.entries().iter().map(|entry| (entry.kid.as_str(), entry.not_after_unix_s)).collect()
    }

    #[test]
    fn a_rotation_retires_what_made_tokens_and_forgets_what_ended() {
        let old = ["a", "bb", "ccc", "dddd"].map(|kid| entry(kid, None));
        let mut old = old.to_vec();
        old[1].not_after_unix_s = Some(NOW);
        old[2].not_after_unix_s = Some(NOW + 1);
        let ring = Keyring::new(old).unwrap();
        let (rotated, what) = ring.rotate(entry("new", None), NOW, OVERLAP).unwrap();
        let end = Some(NOW + OVERLAP);
        assert_eq!(kids(&rotated), [("a", end), ("ccc", Some(NOW + 1)), ("dddd", end), ("new", None)]);
        assert_eq!(rotated.minting().kid.as_str(), "new");
        let named = |kid: &str| Kid::parse(kid).unwrap();
        assert_eq!(what.retired, [(named("a"), NOW + OVERLAP), (named("dddd"), NOW + OVERLAP)]);
        assert_eq!((what.kid, what.dropped), (named("new"), vec![named("bb")]));
        // an old key checks until its end, and not a second longer
        assert!(rotated.key(&named("a"), NOW + OVERLAP - 1).is_some());
        assert!(rotated.key(&named("a"), NOW + OVERLAP).is_none());
    }

    #[test]
    fn a_rotation_is_bounded_and_kids_are_unique() {
        let mut ring = Keyring::new(vec![entry("k0", None)]).unwrap();
        for n in 1..KEYS_MAX {
            ring = ring.rotate(entry(&format!("k{n}"), None), NOW, OVERLAP).unwrap().0;
        }
        assert_eq!(ring.rotate(entry("more", None), NOW, OVERLAP).unwrap_err(), TooManyKeys);
        let (later, what) = ring.rotate(entry("more", None), NOW + OVERLAP, OVERLAP).unwrap();
        assert_eq!((later.entries().len(), what.dropped.len()), (2, KEYS_MAX - 1));
        assert_eq!(later.rotate(entry("more", None), NOW, OVERLAP).unwrap_err(), TooManyKeys);
    }
}
