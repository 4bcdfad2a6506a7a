//! The node's memory of idempotency keys (SPEC §4.4): who may be a duplicate of whom, until when, and how
//! many keys may live. The store keeps one beside its `dedup` table and asks it while it cuts a commit.
//!
//! About 90 bytes a key: a 64-byte entry, 16 bytes in a heap by expiry, 5 to 11 bytes of hash index. A key is
//! forgotten exactly when it expires, never earlier; a full table refuses new keys instead.

use crate::ids::{ShardId, Slot};
use crate::message::{DedupClaim, OtherBody};
use crate::time::Millis;
use hashbrown::HashTable;
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

/// Width of a bucket of the `dedup` table, ms of expiry: rows fall bucket by bucket.
pub const BUCKET_MS: u64 = 10 * 60 * 1000;

/// The bucket that a row with this expiry belongs to.
#[must_use]
pub const fn bucket_of(expires: Millis) -> u64 {
    expires.0 / BUCKET_MS
}

/// The first bucket that may still hold a live row at `now`; all before it can be dropped.
#[must_use]
pub const fn first_live_bucket(now: Millis) -> u64 {
    now.0 / BUCKET_MS
}

/// A key as the store writes it, in the commit of its message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DedupRow {
    /// The topic it belongs to.
    pub shard: ShardId,
    /// [`DedupClaim::key`].
    pub key: u128,
    /// [`DedupClaim::body`].
    pub body: u128,
    /// The first message's place.
    pub slot: Slot,
    /// When that was enqueued.
    pub enqueued: Millis,
    /// From this moment on the key is new again.
    pub expires: Millis,
}

/// What a claim meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Not known, or expired: write the message and [`Dedup::insert`] the key.
    New,
    /// Known with this body, or where the claim treats another body as a duplicate.
    Duplicate {
        /// The first message's place.
        slot: Slot,
        /// When that was enqueued.
        enqueued: Millis,
        /// Whether the bodies differ.
        other_body: bool,
    },
    /// Known with another body.
    Conflict,
    /// Not known, and the topic or the node holds as many live keys as it may.
    Full,
}

/// See the module.
#[derive(Debug)]
pub struct Dedup {
    node_max: usize,
    per_topic_max: usize,
    secret: (u64, u64),
    /// Rows by number; a free one has `expires` 0 and is listed in `free`.
    rows: Vec<DedupRow>,
    free: Vec<u32>,
    /// Numbers of rows, by shard and key.
    index: HashTable<u32>,
    /// When to look at which row. An entry whose row has another expiry by now means nothing.
    expiring: BinaryHeap<Reverse<(Millis, u32)>>,
    live: BTreeMap<ShardId, u64>,
    /// How many are of messages that are kept in memory alone.
    ram: usize,
}

impl Dedup {
    /// An empty memory for at most `node_max` live keys, and `per_topic_max` of one topic. `node_max` is cut
    /// to what 32 bits can number.
    #[must_use]
    pub fn new(node_max: usize, per_topic_max: usize) -> Dedup {
        Dedup {
            node_max: node_max.min(u32::MAX as usize),
            per_topic_max,
            secret: (0x9e37_79b9_7f4a_7c15, 0xbf58_476d_1ce4_e5b9),
            rows: Vec::new(),
            free: Vec::new(),
            index: HashTable::new(),
            expiring: BinaryHeap::new(),
            live: BTreeMap::new(),
            ram: 0,
        }
    }

    /// The same, empty, with random bits of the process in its hash. Senders choose their keys, and could
    /// otherwise look for some that share a place of the index.
    #[must_use]
    pub fn keyed(mut self, random: u128) -> Dedup {
        self.secret = (random as u64, (random >> 64) as u64);
        self
    }

    /// What `claim` meets at `now`. Forgets what has expired by then.
    pub fn check(&mut self, now: Millis, shard: ShardId, claim: &DedupClaim) -> Verdict {
        self.forget_before(now);
        if let Some(number) = self.find(shard, claim.key) {
            let row = &self.rows[number as usize];
            let other_body = row.body != claim.body;
            return match claim.same_key_other_body {
                OtherBody::Conflict if other_body && !crate::planted!(OtherBodyIsDuplicate) => {
                    Verdict::Conflict
                }
                OtherBody::Conflict | OtherBody::Duplicate => {
                    Verdict::Duplicate { slot: row.slot, enqueued: row.enqueued, other_body }
                }
            };
        }
        let topic_max = claim.keys_max.unwrap_or(self.per_topic_max as u64);
        let full = self.len() >= self.node_max || self.live(shard) >= topic_max;
        if full { Verdict::Full } else { Verdict::New }
    }

    /// Remembers a claim that [`Dedup::check`] called new. The row to be written in the message's own commit.
    pub fn insert(
        &mut self,
        shard: ShardId,
        claim: &DedupClaim,
        slot: Slot,
        enqueued: Millis,
        expires: Millis,
    ) -> DedupRow {
        let row = DedupRow { shard, key: claim.key, body: claim.body, slot, enqueued, expires };
        self.restore(row);
        row
    }

    /// Remembers a row that was read back, whatever the limits. Of two rows with one key, the later slot
    /// stands.
    pub fn restore(&mut self, row: DedupRow) {
        if row.expires == Millis(0) {
            return;
        }
        if let Some(number) = self.find(row.shard, row.key) {
            let known = &mut self.rows[number as usize];
            if known.slot < row.slot {
                self.ram += usize::from(row.slot.is_ram());
                self.ram -= usize::from(known.slot.is_ram());
                *known = row;
                self.expiring.push(Reverse((row.expires, number)));
            }
            return;
        }
        let number = match self.free.pop() {
            Some(number) => {
                self.rows[number as usize] = row;
                number
            }
            None => {
                self.rows.push(row);
                (self.rows.len() - 1) as u32
            }
        };
        let (secret, rows) = (self.secret, &self.rows);
        let hash_of = |&number: &u32| {
            let row = &rows[number as usize];
            hash(secret, row.shard, row.key)
        };
        self.index.insert_unique(hash(secret, row.shard, row.key), number, hash_of);
        self.expiring.push(Reverse((row.expires, number)));
        *self.live.entry(row.shard).or_default() += 1;
        self.ram += usize::from(row.slot.is_ram());
    }

    /// Drops what has expired at `now`, and says how many that were. O(log n) a key dropped.
    pub fn forget_before(&mut self, now: Millis) -> usize {
        let mut dropped = 0;
        while let Some(&Reverse((expires, number))) = self.expiring.peek()
            && expires <= now
        {
            self.expiring.pop();
            if self.rows.get(number as usize).is_some_and(|row| row.expires == expires) {
                self.remove(number);
                dropped += 1;
            }
        }
        self.give_back();
        dropped
    }

    /// Forgets all keys of a topic that is gone. O(all keys).
    pub fn remove_shard(&mut self, shard: ShardId) {
        for number in 0..self.rows.len() {
            let row = &self.rows[number];
            if row.shard == shard && row.expires != Millis(0) {
                self.remove(number as u32);
            }
        }
        self.give_back();
    }

    /// Keys of a topic: live at the time of the last [`Dedup::check`] or [`Dedup::forget_before`].
    #[must_use]
    pub fn live(&self, shard: ShardId) -> u64 {
        self.live.get(&shard).copied().unwrap_or(0)
    }

    /// Keys of the node; see [`Dedup::live`].
    #[must_use]
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Of [`Dedup::len`], those of messages that are kept in memory alone.
    #[must_use]
    pub fn ram_len(&self) -> usize {
        self.ram
    }

    /// Whether no key is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// All rows, in no order.
    pub fn rows(&self) -> impl Iterator<Item = DedupRow> {
        self.rows.iter().filter(|row| row.expires != Millis(0)).copied()
    }

    fn find(&self, shard: ShardId, key: u128) -> Option<u32> {
        let same = |&number: &u32| {
            let row = &self.rows[number as usize];
            row.key == key && row.shard == shard
        };
        self.index.find(hash(self.secret, shard, key), same).copied()
    }

    fn remove(&mut self, number: u32) {
        let row = &mut self.rows[number as usize];
        let place = hash(self.secret, row.shard, row.key);
        if let Ok(entry) = self.index.find_entry(place, |&other| other == number) {
            entry.remove();
        }
        row.expires = Millis(0);
        self.ram -= usize::from(row.slot.is_ram());
        self.free.push(number);
        if let Some(count) = self.live.get_mut(&row.shard) {
            *count -= 1;
            if *count == 0 {
                self.live.remove(&row.shard);
            }
        }
    }

    /// Returns memory once nothing is left.
    fn give_back(&mut self) {
        if self.index.is_empty() && !self.rows.is_empty() {
            self.rows = Vec::new();
            self.free = Vec::new();
            self.expiring = BinaryHeap::new();
            self.index = HashTable::new();
        }
    }

    #[cfg(test)]
    fn heap_bytes(&self) -> usize {
        self.rows.capacity() * size_of::<DedupRow>()
            + self.expiring.capacity() * size_of::<Reverse<(Millis, u32)>>()
            + self.index.allocation_size()
            + self.free.capacity() * size_of::<u32>()
    }
}

/// Folds a key, which is a BLAKE3 half already, with the process's secret.
fn hash(secret: (u64, u64), shard: ShardId, key: u128) -> u64 {
    let low = key as u64 ^ secret.0;
    let high = (key >> 64) as u64 ^ secret.1 ^ (u64::from(shard.0) << 32);
    let product = u128::from(low) * u128::from(high);
    product as u64 ^ (product >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::ContentHash;
    use crate::message::Origin;

    const A: ShardId = ShardId(1);
    const B: ShardId = ShardId(2);

    fn claim(key: u64, body: &str) -> DedupClaim {
        DedupClaim::new(&Origin::Api, &key.to_le_bytes(), &ContentHash::of(body.as_bytes()), 1_000)
    }

    fn put(dedup: &mut Dedup, shard: ShardId, key: u64, slot: u64, expires: u64) {
        dedup.insert(shard, &claim(key, "x"), Slot(slot), Millis(5), Millis(expires));
    }

    #[test]
    fn a_known_key_is_a_duplicate_or_a_conflict_until_it_expires() {
        let mut dedup = Dedup::new(100, 100);
        put(&mut dedup, A, 1, 77, 1_000);
        let first = |other_body| Verdict::Duplicate { slot: Slot(77), enqueued: Millis(5), other_body };
        assert_eq!(dedup.check(Millis(999), A, &claim(1, "x")), first(false));
        assert_eq!(dedup.check(Millis(999), A, &claim(1, "y")), Verdict::Conflict);
        let retry = DedupClaim { same_key_other_body: OtherBody::Duplicate, ..claim(1, "y") };
        assert_eq!(dedup.check(Millis(999), A, &retry), first(true));
        assert_eq!(dedup.check(Millis(999), A, &claim(2, "x")), Verdict::New);
        assert_eq!(dedup.check(Millis(999), B, &claim(1, "x")), Verdict::New);
        assert_eq!(dedup.check(Millis(1_000), A, &claim(1, "y")), Verdict::New);
        assert!(dedup.is_empty());
    }

    #[test]
    fn a_full_topic_or_node_refuses_new_keys_only() {
        let mut dedup = Dedup::new(3, 2);
        put(&mut dedup, A, 1, 1, 1_000);
        put(&mut dedup, A, 2, 2, 2_000);
        assert_eq!(dedup.check(Millis(10), A, &claim(3, "x")), Verdict::Full);
        assert!(matches!(dedup.check(Millis(10), A, &claim(2, "x")), Verdict::Duplicate { .. }));
        assert_eq!(dedup.check(Millis(10), B, &claim(3, "x")), Verdict::New);
        put(&mut dedup, B, 3, 3, 3_000);
        assert_eq!(dedup.check(Millis(10), B, &claim(4, "x")), Verdict::Full, "the node");
        assert_eq!(dedup.check(Millis(1_000), B, &claim(4, "x")), Verdict::New, "an expired key is no load");
        assert_eq!(dedup.check(Millis(1_000), A, &claim(4, "x")), Verdict::New);
        assert_eq!((dedup.live(A), dedup.live(B), dedup.len()), (1, 1, 2));
    }

    #[test]
    fn a_key_used_again_after_its_end_has_a_life_of_its_own() {
        let mut dedup = Dedup::new(10, 10);
        put(&mut dedup, A, 1, 1, 100);
        assert_eq!(dedup.check(Millis(100), A, &claim(1, "x")), Verdict::New);
        put(&mut dedup, A, 1, 2, 200);
        put(&mut dedup, A, 9, 3, 150);
        assert_eq!(dedup.forget_before(Millis(199)), 1);
        let second = Verdict::Duplicate { slot: Slot(2), enqueued: Millis(5), other_body: false };
        assert_eq!(dedup.check(Millis(199), A, &claim(1, "x")), second);
        // read back in any order, the later message stands
        let new = dedup.rows().next().unwrap();
        let old = DedupRow { slot: Slot(1), expires: Millis(100), ..new };
        for rows in [[old, new], [new, old]] {
            let mut again = Dedup::new(10, 10);
            rows.into_iter().for_each(|row| again.restore(row));
            assert_eq!(again.check(Millis(120), A, &claim(1, "x")), second);
            assert_eq!((again.len(), again.live(A)), (1, 1));
            assert_eq!(again.check(Millis(200), A, &claim(1, "x")), Verdict::New);
        }
    }

    #[test]
    fn a_topic_that_is_gone_leaves_no_key() {
        let mut dedup = Dedup::new(1000, 1000).keyed(0x1234_5678_9abc_def0_0fed_cba9_8765_4321);
        for key in 0..100 {
            put(&mut dedup, if key % 3 == 0 { B } else { A }, key, key, 1_000 + key);
        }
        dedup.remove_shard(A);
        assert_eq!((dedup.live(A), dedup.live(B), dedup.len()), (0, 34, 34));
        for key in 200..250 {
            put(&mut dedup, A, key, key, 500);
        }
        assert_eq!(dedup.rows().count(), 84);
        assert_eq!(dedup.forget_before(Millis(500)), 50);
        assert_eq!(dedup.forget_before(Millis(2_000)), 34);
        assert!(dedup.is_empty());
    }

    #[test]
    fn behaves_like_a_plain_map() {
        let mut dedup = Dedup::new(60, 25);
        let mut plain: BTreeMap<(ShardId, u64), (u64, u64)> = BTreeMap::new();
        let mut state = 1u64;
        for now in 0..20_000u64 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let random = state >> 33;
            let (shard, key) = (ShardId((random % 3) as u32), (random >> 8) % 40);
            plain.retain(|_, &mut (_, expires)| expires > now);
            let of_shard = plain.keys().filter(|(other, _)| *other == shard).count();
            let expected = match plain.get(&(shard, key)) {
                Some(&(slot, _)) => {
                    Verdict::Duplicate { slot: Slot(slot), enqueued: Millis(5), other_body: false }
                }
                None if plain.len() >= 60 || of_shard >= 25 => Verdict::Full,
                None => Verdict::New,
            };
            assert_eq!(dedup.check(Millis(now), shard, &claim(key, "x")), expected);
            if expected == Verdict::New {
                let expires = now + 1 + (random >> 16) % 120;
                put(&mut dedup, shard, key, now, expires);
                plain.insert((shard, key), (now, expires));
            }
            assert_eq!(dedup.len(), plain.len());
            assert_eq!(dedup.ram_len(), plain.values().filter(|(slot, _)| Slot(*slot).is_ram()).count());
            assert!(dedup.rows.len() <= 60, "places are used again");
        }
    }

    #[test]
    fn a_key_costs_about_a_hundred_bytes() {
        let mut dedup = Dedup::new(1 << 20, 1 << 20);
        for key in 0..(1u64 << 20) {
            let key = u128::from(key).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
            let claim = DedupClaim { key, ..claim(0, "x") };
            dedup.insert(A, &claim, Slot(1), Millis(5), Millis(1_000));
        }
        assert_eq!(dedup.len(), 1 << 20);
        assert!(dedup.heap_bytes() <= 100 << 20, "{} bytes", dedup.heap_bytes());
    }
}
