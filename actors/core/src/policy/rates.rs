//! What the tenants have spent of their rates. Settling never comes here.

use super::Quotas;
use crate::ids::Tenant;
use crate::limit::{Bucket, Rate};
use crate::reason::{Reason, Refusal};
use crate::time::Millis;
use std::collections::BTreeMap;

/// Tenants whose spending is remembered at once.
const TENANTS_MAX: usize = 10_000;
/// How often, at most, buckets are looked through for full ones when there are too many, ms.
const SWEEP_EVERY_MS: u64 = 1_000;

#[derive(Debug, Clone, Copy)]
struct Spent {
    requests: Option<(Bucket, Rate)>,
    bytes: Option<(Bucket, Rate)>,
}

/// The buckets of all tenants that have a rate.
#[derive(Debug, Default)]
pub struct Rates {
    spent: BTreeMap<Tenant, Spent>,
    swept: Millis,
}

impl Rates {
    /// Charges one request.
    ///
    /// # Errors
    /// RATE_LIMIT with the time until there is room.
    pub fn charge_request(&mut self, tenant: &Tenant, quotas: &Quotas, now: Millis) -> Result<(), Refusal> {
        let Some(rate) = quotas.request_rate() else { return Ok(()) };
        let (bucket, known) = self.of(tenant, now)?.requests.get_or_insert((Bucket::full(rate, now), rate));
        *known = rate;
        let over = |wait| limited("the tenant's requests a second (rps)", wait);
        bucket.take(rate, now, 1).map_err(over)
    }

    /// Charges the payload bytes of a request. One that is larger than what can be saved up is let through when
    /// nothing is owed, and paid for by those after it.
    ///
    /// # Errors
    /// RATE_LIMIT with the time until there is room.
    pub fn charge_bytes(
        &mut self,
        tenant: &Tenant,
        quotas: &Quotas,
        now: Millis,
        bytes: u64,
    ) -> Result<(), Refusal> {
        let Some(rate) = quotas.byte_rate() else { return Ok(()) };
        let (bucket, known) = self.of(tenant, now)?.bytes.get_or_insert((Bucket::full(rate, now), rate));
        *known = rate;
        let over = |wait| limited("the tenant's bytes a second (bytes_per_s)", wait);
        bucket.take_or_owe(rate, now, bytes).map_err(over)
    }

    /// Gives back what was charged for something that did not happen.
    pub fn give_back(&mut self, tenant: &Tenant, requests: u64, bytes: u64) {
        let Some(spent) = self.spent.get_mut(tenant) else { return };
        for (bucket, tokens) in [(&mut spent.requests, requests), (&mut spent.bytes, bytes)] {
            if let Some((bucket, rate)) = bucket {
                bucket.give_back(*rate, tokens);
            }
        }
    }

    fn of(&mut self, tenant: &Tenant, now: Millis) -> Result<&mut Spent, Refusal> {
        if self.spent.len() >= TENANTS_MAX && !self.spent.contains_key(tenant) {
            self.sweep(now);
            if self.spent.len() >= TENANTS_MAX {
                return Err(limited("the number of tenants at once", SWEEP_EVERY_MS));
            }
        }
        let none = Spent { requests: None, bytes: None };
        Ok(self.spent.entry(tenant.clone()).or_insert(none))
    }

    /// Forgets buckets that are full again: that changes nothing.
    fn sweep(&mut self, now: Millis) {
        if self.swept != Millis(0) && now.since(self.swept) < SWEEP_EVERY_MS {
            return;
        }
        self.swept = now;
        let full =
            |bucket: Option<(Bucket, Rate)>| bucket.is_none_or(|(bucket, rate)| bucket.is_full(rate, now));
        self.spent.retain(|_, spent| !(full(spent.requests) && full(spent.bytes)));
    }
}

fn limited(what: &str, wait_ms: u64) -> Refusal {
    Refusal::new(Reason::RateLimit, format!("over {what}; retry later")).retry_after(wait_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(n: usize) -> Tenant {
        Tenant::parse(&format!("t{n}")).unwrap()
    }

    const QUOTAS: fn() -> Quotas =
        || Quotas { rps: 1, burst: 2, bytes_per_s: 100, bytes_burst: 100, ..Quotas::default() };

    #[test]
    fn each_tenant_has_its_own_and_no_limit_is_no_bucket() {
        let (mut rates, now, quotas) = (Rates::default(), Millis(1), QUOTAS());
        let [a, b] = [0, 1].map(tenant);
        for _ in 0..2 {
            rates.charge_request(&a, &quotas, now).unwrap();
        }
        let refusal = rates.charge_request(&a, &quotas, now).unwrap_err();
        assert_eq!((refusal.reason, refusal.retry_after_ms), (Reason::RateLimit, Some(1_000)));
        rates.charge_request(&b, &quotas, now).unwrap();
        rates.give_back(&a, 1, 0);
        rates.charge_request(&a, &quotas, now).unwrap();
        let mut free = Rates::default();
        for _ in 0..1_000 {
            free.charge_request(&a, &Quotas::default(), now).unwrap();
            free.charge_bytes(&a, &Quotas::default(), now, u64::MAX).unwrap();
        }
        assert!(free.spent.is_empty());
    }

    #[test]
    fn bytes_are_owed_and_given_back() {
        let (mut rates, quotas, a) = (Rates::default(), QUOTAS(), tenant(0));
        rates.charge_bytes(&a, &quotas, Millis(1), 300).unwrap();
        let wait = rates.charge_bytes(&a, &quotas, Millis(1), 50).unwrap_err().retry_after_ms.unwrap();
        assert_eq!(wait, 2_500);
        rates.charge_bytes(&a, &quotas, Millis(1 + wait), 50).unwrap();
    }

    #[test]
    fn tenants_are_bounded_and_the_full_ones_forgotten() {
        let (mut rates, quotas) = (Rates::default(), QUOTAS());
        for n in 0..TENANTS_MAX {
            rates.charge_request(&tenant(n), &quotas, Millis(1)).unwrap();
        }
        let late = tenant(TENANTS_MAX);
        assert_eq!(rates.charge_request(&late, &quotas, Millis(1)).unwrap_err().reason, Reason::RateLimit);
        rates.charge_request(&late, &quotas, Millis(3_000)).unwrap();
        assert_eq!(rates.spent.len(), 1);
    }
}
