//! What each tenant uses of its quotas, all its topics together, and how much that may be.
//!
//! A shard reserves before it applies a command, and afterwards books what it really holds: the difference goes back,
//! whether the command was refused, its commit failed, or the shard was loaded anew. The sum over a tenant's shards is
//! never more than its limit, but for what was there before the limit was lowered.

use super::directory::Entry;
use crate::policy::InForce;
use ron_core::drr::Share;
use ron_core::ids::Tenant;
use ron_core::policy::Quotas;
use ron_core::shard::Shard;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// One quantity that is limited.
#[derive(Debug)]
pub(crate) struct Account {
    used: AtomicU64,
    most: AtomicU64,
}

impl Account {
    fn new(most: u64) -> Account {
        Account { used: AtomicU64::new(0), most: AtomicU64::new(most) }
    }

    fn most(&self) -> u64 {
        self.most.load(Ordering::Relaxed)
    }

    /// Whether nothing can be reserved any more.
    pub(crate) fn is_full(&self) -> bool {
        self.used.load(Ordering::Acquire) >= self.most()
    }

    /// Takes up to `wanted`, at least `least`; 0 if there is less than that.
    fn take(&self, least: u64, wanted: u64) -> u64 {
        let mut taken = 0;
        let _ = self.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, |used| {
            let room = self.most().saturating_sub(used);
            taken = if room < least { 0 } else { room.min(wanted) };
            (taken > 0).then(|| used + taken)
        });
        taken
    }

    fn move_by(&self, from: u64, to: u64) {
        match to >= from {
            true => self.used.fetch_add(to - from, Ordering::AcqRel),
            false => self.used.fetch_sub(from - to, Ordering::AcqRel),
        };
    }
}

/// One shard's part of an account. Only its actor books on it.
#[derive(Debug, Default)]
pub(crate) struct Part(AtomicU64);

impl Part {
    /// Reserves all of `n`, or nothing.
    #[must_use]
    pub(crate) fn reserve(&self, account: &Account, n: u64) -> bool {
        n == 0 || self.reserve_some(account, n, n) > 0
    }

    /// Reserves up to `wanted`, at least `least`; returns how much.
    pub(crate) fn reserve_some(&self, account: &Account, least: u64, wanted: u64) -> u64 {
        let taken = account.take(least, wanted);
        self.0.fetch_add(taken, Ordering::AcqRel);
        taken
    }

    /// What the shard really holds: more or less than reserved.
    pub(crate) fn book(&self, account: &Account, holds: u64) {
        if self.0.load(Ordering::Acquire) != holds {
            account.move_by(self.0.swap(holds, Ordering::AcqRel), holds);
        }
    }
}

/// One tenant.
#[derive(Debug)]
pub(crate) struct TenantUse {
    number: u32,
    weight: AtomicU32,
    pub(crate) depth: Account,
    pub(crate) inflight: Account,
    pub(crate) topics: Account,
    /// Directory entries, those of topics that do not exist included.
    pub(crate) entries: AtomicU64,
}

/// Entries beyond twice `max_topics` that receives on topics that do not exist may make.
const ENTRIES_MORE: u64 = 64;

impl TenantUse {
    pub(crate) fn new(number: u32, tenant: &Tenant, policy: &InForce) -> TenantUse {
        let quotas = policy.peek().quotas(tenant);
        TenantUse {
            number,
            weight: AtomicU32::new(quotas.weight),
            depth: Account::new(quotas.max_depth),
            inflight: Account::new(quotas.max_inflight),
            topics: Account::new(quotas.max_topics),
            entries: AtomicU64::new(0),
        }
    }

    /// Other limits, from now on.
    pub(crate) fn set(&self, quotas: &Quotas) {
        self.weight.store(quotas.weight, Ordering::Relaxed);
        self.depth.most.store(quotas.max_depth, Ordering::Release);
        self.inflight.most.store(quotas.max_inflight, Ordering::Release);
        self.topics.most.store(quotas.max_topics, Ordering::Release);
    }

    /// Its place in the store's rounds.
    pub(crate) fn share(&self) -> Share {
        Share { tenant: self.number, weight: self.weight.load(Ordering::Relaxed) }
    }

    /// Whether deliveries are limited at all.
    pub(crate) fn limits_inflight(&self) -> bool {
        self.inflight.most() != ron_core::policy::UNLIMITED
    }

    /// Whether a topic that is not known yet may get an entry: before anything is made for it.
    pub(crate) fn may_grow(&self) -> bool {
        let most = self.topics.most().saturating_mul(2).saturating_add(ENTRIES_MORE);
        !self.topics.is_full() && self.entries.load(Ordering::Relaxed) < most
    }
}

/// One topic's parts of its tenant's accounts; given back when the topic's entry is gone.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) tenant: Arc<TenantUse>,
    pub(crate) depth: Part,
    pub(crate) inflight: Part,
    pub(crate) topic: Part,
}

impl Parts {
    pub(crate) fn new(tenant: Arc<TenantUse>) -> Parts {
        tenant.entries.fetch_add(1, Ordering::Relaxed);
        Parts { tenant, depth: Part::default(), inflight: Part::default(), topic: Part::default() }
    }

    /// Books what the shard holds.
    pub(crate) fn book(&self, depth: u64, inflight: u64, exists: bool) {
        self.depth.book(&self.tenant.depth, depth);
        self.inflight.book(&self.tenant.inflight, inflight);
        self.topic.book(&self.tenant.topics, u64::from(exists));
    }

    /// Reserves what an enqueue of `count` messages needs.
    ///
    /// # Errors
    /// The quota that is used up.
    pub(crate) fn reserve_send(&self, count: u64, exists: bool) -> Result<(), &'static str> {
        if !self.depth.reserve(&self.tenant.depth, count) {
            return Err("the tenant holds as many messages as its policy lets it (max_depth)");
        }
        if !exists && self.topic.0.load(Ordering::Acquire) == 0 && !self.topic.reserve(&self.tenant.topics, 1)
        {
            return Err(TOPICS_FULL);
        }
        Ok(())
    }
}

impl Entry {
    /// Gives the shard room for what it may hand out with its next command, out of its tenant's `max_inflight`:
    /// what a receive wants, and something for those that wait.
    pub(super) fn allow_deliveries(&self, shard: &mut Shard, wanted: u64) {
        if !self.parts.tenant.limits_inflight() {
            shard.allow_in_flight(usize::MAX);
            return;
        }
        let stats = shard.stats();
        let waiting = if stats.waiters > 0 { RESERVED_FOR_WAITERS } else { 0 };
        let room = match wanted + waiting {
            0 => 0,
            most => self.parts.inflight.reserve_some(&self.parts.tenant.inflight, 1, most),
        };
        shard.allow_in_flight(usize::try_from(stats.vis + room).unwrap_or(usize::MAX));
    }

    /// Whether receives wait for messages that are there, because the tenant has too many in flight.
    pub(super) fn is_starving(&self, shard: &Shard) -> bool {
        if !self.parts.tenant.limits_inflight() {
            return false;
        }
        shard.wants_room()
    }
}

/// Room in `max_inflight` that a command takes for receives that wait, until it is booked what they got.
const RESERVED_FOR_WAITERS: u64 = 256;

/// What a send to one topic too many is told.
pub(crate) const TOPICS_FULL: &str = "the tenant has as many topics as its policy lets it (max_topics)";

impl Drop for Parts {
    fn drop(&mut self) {
        self.book(0, 0, false);
        self.tenant.entries.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(most: u64) -> Arc<TenantUse> {
        let tenant = TenantUse::new(1, &Tenant::parse("acme").unwrap(), &InForce::default());
        tenant.set(&Quotas { max_depth: most, max_inflight: most, max_topics: 1, ..Quotas::default() });
        Arc::new(tenant)
    }

    #[test]
    fn what_is_not_held_goes_back() {
        let tenant = tenant(10);
        let (a, b) = (Parts::new(tenant.clone()), Parts::new(tenant.clone()));
        a.reserve_send(8, false).unwrap();
        assert!(b.reserve_send(3, true).unwrap_err().contains("max_depth"));
        a.book(4, 0, true);
        b.reserve_send(6, true).unwrap();
        b.book(6, 0, true);
        assert!(b.reserve_send(1, true).is_err());
        assert!(!tenant.may_grow());
        drop(a);
        b.reserve_send(4, true).unwrap();
        assert_eq!(b.inflight.reserve_some(&tenant.inflight, 1, 100), 10);
        assert_eq!(b.inflight.reserve_some(&tenant.inflight, 1, 100), 0);
    }

    #[test]
    fn one_topic_too_many_is_refused_and_a_failed_one_makes_room() {
        let tenant = tenant(10);
        let (a, b) = (Parts::new(tenant.clone()), Parts::new(tenant.clone()));
        a.reserve_send(1, false).unwrap();
        assert_eq!(b.reserve_send(1, false), Err(TOPICS_FULL));
        b.book(0, 0, false);
        a.book(0, 0, false);
        b.reserve_send(1, false).unwrap();
    }

    #[test]
    fn shards_that_race_never_exceed_the_limit() {
        let tenant = tenant(1_000);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let parts = Parts::new(tenant.clone());
                    let mut held = 0;
                    for step in 0..5_000u64 {
                        if parts.reserve_send(7, true).is_ok() {
                            held += 7;
                        }
                        assert!(tenant.depth.used.load(Ordering::Acquire) <= 1_000);
                        held -= held.min(step % 11);
                        parts.book(held, 0, false);
                    }
                });
            }
        });
        assert_eq!(tenant.depth.used.load(Ordering::Acquire), 0);
    }
}
