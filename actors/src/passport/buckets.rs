//! The `rps` buckets in use. They know nothing of tokens but the MAC that names a bucket.

use ron_core::capability::RateLimit;
use ron_core::ids::Tenant;
use ron_core::limit::{Bucket, Rate};
use ron_core::reason::{Reason, Refusal};
use ron_core::time::Millis;
use std::collections::HashMap;

/// Most `rps` buckets of one tenant. An idle bucket is forgotten after a second, so this bounds how many
/// rated tokens of a tenant are in use at once.
const BUCKETS_PER_TENANT_MAX: usize = 4096;
/// Most tenants with `rps` buckets.
const TENANTS_MAX: usize = 4096;

/// The `rps` buckets in use, a tenant's apart from the others', so that none can fill them all.
#[derive(Debug, Default)]
pub(super) struct Buckets {
    tenants: HashMap<Tenant, HashMap<[u8; 32], (Bucket, Rate)>>,
}

impl Buckets {
    /// Takes one token from each bucket, or none from any.
    pub(super) fn charge(
        &mut self,
        tenant: &Tenant,
        limits: &[RateLimit],
        now: Millis,
    ) -> Result<(), Refusal> {
        let too_many = || Refusal::new(Reason::RateLimit, "too many capabilities with `rps` in use at once");
        if !self.tenants.contains_key(tenant) {
            if self.tenants.len() >= TENANTS_MAX {
                self.tenants.retain(|_, buckets| {
                    forget_idle(buckets, now);
                    !buckets.is_empty()
                });
            }
            if self.tenants.len() >= TENANTS_MAX {
                return Err(too_many());
            }
        }
        let buckets = self.tenants.entry(tenant.clone()).or_default();
        if buckets.len() + limits.len() > BUCKETS_PER_TENANT_MAX {
            forget_idle(buckets, now);
            if buckets.len() + limits.len() > BUCKETS_PER_TENANT_MAX {
                return Err(too_many());
            }
        }
        for (at, limit) in limits.iter().enumerate() {
            let rate = Rate::per_second(limit.per_second);
            let (bucket, _) = buckets.entry(limit.mac).or_insert_with(|| (Bucket::full(rate, now), rate));
            if let Err(wait_ms) = bucket.take(rate, now, 1) {
                for charged in &limits[..at] {
                    if let Some((bucket, rate)) = buckets.get_mut(&charged.mac) {
                        bucket.give_back(*rate, 1);
                    }
                }
                let wait_ms = wait_ms.min(3_600_000);
                return Err(
                    Refusal::new(Reason::RateLimit, "capability: rate exceeded (`rps`)").retry_after(wait_ms)
                );
            }
        }
        Ok(())
    }
}

/// A full bucket and none at all are the same.
fn forget_idle(buckets: &mut HashMap<[u8; 32], (Bucket, Rate)>, now: Millis) {
    buckets.retain(|_, (bucket, rate)| !bucket.is_full(*rate, now));
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Millis = Millis(1_795_000_000_000);

    #[test]
    fn buckets_are_bounded_and_idle_ones_forgotten() {
        let mut buckets = Buckets::default();
        let (acme, other) = (Tenant::parse("acme").unwrap(), Tenant::parse("other").unwrap());
        let limit = |at: usize| {
            let mut mac = [0; 32];
            mac[..8].copy_from_slice(&at.to_le_bytes());
            [RateLimit { mac, per_second: 1 }]
        };
        for at in 0..BUCKETS_PER_TENANT_MAX {
            buckets.charge(&acme, &limit(at), NOW).unwrap();
        }
        let refusal = buckets.charge(&acme, &limit(BUCKETS_PER_TENANT_MAX), NOW).unwrap_err();
        assert_eq!(refusal.reason, Reason::RateLimit);
        buckets.charge(&other, &limit(0), NOW).unwrap();
        buckets.charge(&acme, &limit(BUCKETS_PER_TENANT_MAX), NOW.plus(1000)).unwrap();
        assert_eq!(buckets.tenants[&acme].len(), 1);
    }
}
