//! The policy in force: swapped whole, read on every request, and what the tenants have spent of their rates.
//!
//! Decides nothing, `ron_core::policy` does; reads no file and watches none, the process does. A preset that was
//! applied ends when its time is over and somebody calls [`InForce::expire`].

use arc_swap::ArcSwap;
use ron_core::ids::Tenant;
use ron_core::policy::{Policy, Quotas, Rates};
use ron_core::reason::{Reason, Refusal};
use ron_core::time::{Clock, Millis};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A preset that is in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// Its name.
    pub name: Arc<str>,
    /// When it ends, node time.
    pub until: Millis,
}

/// One state of the policy; never changed, only replaced.
#[derive(Debug)]
pub struct Current {
    /// What was read.
    pub policy: Arc<Policy>,
    /// Rises by one with every change since the start, those of presets included.
    pub version: u64,
    /// The content address of the policy's text; `none` without one.
    pub id: Arc<str>,
    /// What relaxes it for a while.
    pub preset: Option<Applied>,
}

impl Current {
    /// What the tenant may use now.
    #[must_use]
    pub fn quotas(&self, tenant: &Tenant) -> Quotas {
        let quotas = self.policy.quotas(tenant);
        let preset = self.preset.as_ref().and_then(|applied| self.policy.preset(&applied.name));
        preset.map_or(quotas, |preset| quotas.under(preset))
    }
}

/// See the module. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub struct InForce {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    current: ArcSwap<Current>,
    rates: Mutex<Rates>,
    /// Held while one state is made out of the last.
    changing: Mutex<()>,
}

impl Default for InForce {
    /// No policy: capabilities alone decide, and no tenant has a limit.
    fn default() -> InForce {
        let none = Current { policy: Arc::default(), version: 1, id: "none".into(), preset: None };
        let (current, rates, changing) = (ArcSwap::from_pointee(none), Mutex::default(), Mutex::default());
        InForce { inner: Arc::new(Inner { current, rates, changing }) }
    }
}

impl InForce {
    /// A policy that is in force from the start.
    #[must_use]
    pub fn new(policy: Policy, id: Arc<str>) -> InForce {
        let in_force = InForce::default();
        let first = Current { policy: Arc::new(policy), version: 1, id, preset: None };
        in_force.inner.current.store(Arc::new(first));
        in_force
    }

    /// What is in force.
    #[must_use]
    pub fn current(&self) -> Arc<Current> {
        self.inner.current.load_full()
    }

    /// What is in force, for a moment: cheaper than [`InForce::current`].
    #[must_use]
    pub fn peek(&self) -> arc_swap::Guard<Arc<Current>> {
        self.inner.current.load()
    }

    /// Puts another policy in force. A preset that it has, too, goes on.
    pub fn replace(&self, policy: Policy, id: Arc<str>) -> Arc<Current> {
        self.change(|old| {
            let preset = old.preset.clone().filter(|applied| policy.preset(&applied.name).is_some());
            (Arc::new(policy), id, preset)
        })
    }

    /// Relaxes the policy by one of its presets until `until`; another one that is in force ends.
    ///
    /// # Errors
    /// NOT_FOUND if the policy has no such preset.
    pub fn apply(&self, name: &str, until: Millis) -> Result<Arc<Current>, Refusal> {
        if self.peek().policy.preset(name).is_none() {
            return Err(Refusal::new(Reason::NotFound, "preset: the policy has none of this name"));
        }
        let applied = Applied { name: name.into(), until };
        Ok(self.change(|old| (old.policy.clone(), old.id.clone(), Some(applied))))
    }

    /// Ends a preset whose time is over; `Some` if there was one.
    pub fn expire(&self, now: Millis) -> Option<Arc<Current>> {
        let over = |current: &Current| current.preset.as_ref().is_some_and(|applied| applied.until <= now);
        if !over(&self.peek()) {
            return None;
        }
        Some(self.change(|old| {
            let preset = old.preset.clone().filter(|applied| applied.until > now);
            (old.policy.clone(), old.id.clone(), preset)
        }))
    }

    fn change(
        &self,
        next: impl FnOnce(&Current) -> (Arc<Policy>, Arc<str>, Option<Applied>),
    ) -> Arc<Current> {
        let _one_at_a_time = self.inner.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let old = self.current();
        let (policy, id, preset) = next(&old);
        let new = Arc::new(Current { policy, version: old.version + 1, id, preset });
        self.inner.current.store(new.clone());
        new
    }

    /// Whether the tenant's requests are charged to a rate.
    #[must_use]
    pub fn meters_requests(&self, tenant: &Tenant) -> bool {
        self.peek().quotas(tenant).request_rate().is_some()
    }

    /// Charges one request of the tenant; settling never comes here.
    ///
    /// # Errors
    /// RATE_LIMIT.
    pub fn charge_request(&self, tenant: &Tenant, clock: &dyn Clock) -> Result<(), Refusal> {
        let quotas = self.peek().quotas(tenant);
        // Tenants without a rate share no lock.
        if quotas.request_rate().is_none() {
            return Ok(());
        }
        self.rates().charge_request(tenant, &quotas, clock.now())
    }

    /// Charges the payload bytes of a send.
    ///
    /// # Errors
    /// RATE_LIMIT.
    pub fn charge_bytes(&self, tenant: &Tenant, clock: &dyn Clock, bytes: u64) -> Result<(), Refusal> {
        let quotas = self.peek().quotas(tenant);
        if quotas.byte_rate().is_none() {
            return Ok(());
        }
        self.rates().charge_bytes(tenant, &quotas, clock.now(), bytes)
    }

    /// Gives back what a send was charged that was then refused: its bytes, and the request too if it was no fault
    /// of the sender.
    pub fn give_back(&self, tenant: &Tenant, bytes: u64, refusal: &Refusal) {
        let quotas = self.peek().quotas(tenant);
        if quotas.request_rate().is_none() && quotas.byte_rate().is_none() {
            return;
        }
        let ours = matches!(refusal.reason, Reason::Storage | Reason::DownstreamUnavailable);
        self.rates().give_back(tenant, u64::from(ours), bytes);
    }

    fn rates(&self) -> MutexGuard<'_, Rates> {
        self.inner.rates.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ron_core::policy::BROWNOUT;

    fn policy(more: &str) -> Policy {
        Policy::parse(&format!("version = 1\ndefault = \"allow\"\n{more}")).unwrap()
    }

    #[test]
    fn a_preset_goes_on_over_a_reload_and_ends_by_itself() {
        let in_force = InForce::default();
        let tenant = Tenant::parse("acme").unwrap();
        assert_eq!(in_force.replace(policy("[tenant.acme]\nrps = 5\n"), "a".into()).version, 2);
        assert_eq!(in_force.apply(BROWNOUT, Millis(100)).unwrap().version, 3);
        assert_eq!(in_force.apply("calm", Millis(100)).unwrap_err().reason, Reason::NotFound);
        assert_eq!(in_force.peek().quotas(&tenant).burst, 10);
        let reloaded = in_force.replace(policy("[tenant.acme]\nrps = 7\n"), "b".into());
        assert_eq!((reloaded.version, &*reloaded.id, reloaded.quotas(&tenant).burst), (4, "b", 14));
        assert!(in_force.expire(Millis(99)).is_none());
        let ended = in_force.expire(Millis(100)).unwrap();
        assert_eq!((ended.version, ended.quotas(&tenant).burst, &ended.preset), (5, 7, &None));
        assert!(in_force.expire(Millis(101)).is_none());
    }

    #[test]
    fn a_preset_that_the_new_policy_lacks_ends_with_it() {
        let in_force = InForce::default();
        in_force.replace(policy("[preset.calm]\nburst_times = 3\n"), "a".into());
        in_force.apply("calm", Millis(100)).unwrap();
        assert_eq!(in_force.replace(policy(""), "b".into()).preset, None);
    }
}
