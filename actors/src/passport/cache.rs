//! Capabilities whose MAC chain was checked a moment ago (SPEC §5). A hit saves the parsing and the chain and
//! nothing else: time, caveats, revocation and rates are judged on every request. Failures are not kept.
//!
//! What ended since is not taken out: whoever gets an entry asks it whether it is still in force.
//!
//! Its keys are keyed hashes of whole token texts: no token stays in memory for it, and nobody without the key
//! can aim at a place in the map.

use super::book::Grant;
use crate::entropy::{Entropy, NoEntropy};
use ron_core::time::Millis;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

/// Most tokens remembered. The oldest goes first.
const ENTRIES_MAX: usize = 16_384;

pub(super) type TokenHash = [u8; 32];

/// See the module.
pub(super) struct Cache {
    key: [u8; 32],
    ttl_ms: u64,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    by_token: HashMap<TokenHash, Arc<Grant>>,
    /// When each was put in, oldest first; as many as in the map.
    order: VecDeque<(Millis, TokenHash)>,
}

impl std::fmt::Debug for Cache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cache").field("ttl_ms", &self.ttl_ms).finish_non_exhaustive()
    }
}

impl Cache {
    /// An empty cache whose entries live `ttl_ms` (`auth.cap_cache_ttl`; 0 = keeps nothing).
    pub(super) fn new(ttl_ms: u64, entropy: &dyn Entropy) -> Result<Cache, NoEntropy> {
        let mut key = [0; 32];
        entropy.fill(&mut key)?;
        Ok(Cache { key, ttl_ms, known: Mutex::default() })
    }

    /// What a token's place is called; for [`Cache::get`] and [`Cache::put`].
    pub(super) fn hash(&self, token: &str) -> TokenHash {
        *blake3::keyed_hash(&self.key, token.as_bytes()).as_bytes()
    }

    /// The capability, if its chain was checked less than the TTL ago.
    pub(super) fn get(&self, token: &TokenHash, now: Millis) -> Option<Arc<Grant>> {
        let mut known = self.lock();
        known.forget(now, self.ttl_ms, ENTRIES_MAX);
        known.by_token.get(token).cloned()
    }

    /// Remembers a capability whose chain was just checked.
    pub(super) fn put(&self, token: TokenHash, grant: &Arc<Grant>, now: Millis) {
        if self.ttl_ms == 0 {
            return;
        }
        let mut known = self.lock();
        known.forget(now, self.ttl_ms, ENTRIES_MAX - 1);
        // Of two that checked it at once, the first has put it in.
        if known.by_token.insert(token, Arc::clone(grant)).is_none() {
            known.order.push_back((now, token));
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn forget(&mut self, now: Millis, ttl_ms: u64, entries_max: usize) {
        while let Some((put, token)) = self.order.front()
            && (now.since(*put) >= ttl_ms || self.order.len() > entries_max)
        {
            self.by_token.remove(token);
            self.order.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entropy::SeededEntropy;
    use crate::keyring_file::in_memory;
    use crate::passport::book::Book;
    use crate::passport::make_token;
    use ron_core::capability::{Revoked, verify};
    use ron_core::ids::Tenant;

    const NOW: Millis = Millis(1_795_000_000_000);

    fn capability() -> Arc<Grant> {
        let entropy = SeededEntropy::new(3);
        let ring = in_memory(NOW, &entropy).unwrap();
        let caveats = ["exp = 9999999999".to_owned()];
        let minted = make_token(&ring, &entropy, &Tenant::parse("acme").unwrap(), &caveats).unwrap();
        let capability = verify(&minted.token, &ring, NOW.0 / 1000).unwrap();
        Arc::new(Grant::new(capability, Arc::new(Book::new(ring, Revoked::default()))))
    }

    #[test]
    fn an_entry_lives_for_its_ttl_whatever_is_asked() {
        let cache = Cache::new(30_000, &SeededEntropy::new(1)).unwrap();
        let (token, capability) = (cache.hash("ron1_a"), capability());
        cache.put(token, &capability, NOW);
        cache.put(token, &capability, NOW.plus(29_000)); // a second check at once must not lengthen it
        assert!(cache.get(&token, NOW.plus(29_999)).is_some());
        assert!(cache.get(&cache.hash("ron1_b"), NOW).is_none());
        assert!(cache.get(&token, NOW.plus(30_000)).is_none());
        assert!(cache.lock().by_token.is_empty());
    }

    #[test]
    fn it_is_bounded_and_can_be_off() {
        let (cache, capability) = (Cache::new(30_000, &SeededEntropy::new(1)).unwrap(), capability());
        for n in 0..ENTRIES_MAX + 10 {
            cache.put(cache.hash(&n.to_string()), &capability, NOW);
        }
        let sizes = |known: &Known| (known.by_token.len(), known.order.len());
        assert_eq!(sizes(&cache.lock()), (ENTRIES_MAX, ENTRIES_MAX));
        assert!(cache.get(&cache.hash("9"), NOW).is_none());
        assert!(cache.get(&cache.hash("10"), NOW).is_some());
        let off = Cache::new(0, &SeededEntropy::new(1)).unwrap();
        off.put(off.hash("a"), &capability, NOW);
        assert!(off.get(&off.hash("a"), NOW).is_none());
    }

    #[test]
    fn caches_of_two_starts_name_a_token_differently() {
        let (one, two) = (SeededEntropy::new(1), SeededEntropy::new(2));
        let of = |entropy| Cache::new(1, entropy).unwrap().hash("ron1_a");
        assert_ne!(of(&one), of(&two));
    }
}
