//! What a request must pass before work begins: budgets for bytes and slots, and rates on the public port.

use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use ron_core::reason::{Reason, Refusal};
use std::num::NonZeroU32;
use std::sync::Arc;
use tokio::sync::{Semaphore, SemaphorePermit};

/// Bytes of request bodies held at once, counted in KiB.
#[derive(Debug)]
pub struct ByteBudget {
    kib: Semaphore,
    whole: usize,
}

/// Room in a [`ByteBudget`], given back when dropped.
#[derive(Debug)]
pub struct Reserved<'b> {
    _permit: SemaphorePermit<'b>,
}

impl<'b> Reserved<'b> {
    pub(super) const fn new(permit: SemaphorePermit<'b>) -> Reserved<'b> {
        Reserved { _permit: permit }
    }
}

fn kib(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(1024).max(1)).unwrap_or(u32::MAX)
}

impl ByteBudget {
    /// Room for `bytes`, rounded down to KiB, at least 1 KiB.
    #[must_use]
    pub fn new(bytes: usize) -> ByteBudget {
        let whole = (bytes / 1024).clamp(1, Semaphore::MAX_PERMITS);
        ByteBudget { kib: Semaphore::new(whole), whole }
    }

    /// How much of it is taken, %, rounded up.
    #[must_use]
    pub fn percent_in_use(&self) -> u8 {
        let taken = self.whole.saturating_sub(self.kib.available_permits());
        u8::try_from((taken * 100).div_ceil(self.whole)).unwrap_or(100)
    }

    /// Takes room for a body of up to `bytes`.
    ///
    /// # Errors
    /// BACKPRESSURE when there is not enough.
    pub fn reserve(&self, bytes: usize) -> Result<Reserved<'_>, Refusal> {
        let permit = self.kib.try_acquire_many(kib(bytes));
        permit.map(Reserved::new).map_err(|_| ByteBudget::full())
    }

    /// What to ask for, for `bytes`: how much, of what, and the most that there ever is.
    pub(super) fn ask(&self, bytes: usize) -> (u32, &Semaphore, usize) {
        (kib(bytes), &self.kib, self.whole)
    }

    /// There is not enough.
    pub(super) fn full() -> Refusal {
        Refusal::new(Reason::Backpressure, "too many bytes are being received; retry later")
    }
}

/// The byte budgets of a listener. Settling has its own, so that sends cannot crowd it out (SPEC §4.8).
#[derive(Debug)]
pub struct Budgets {
    /// For messages on their way in.
    pub sends: ByteBudget,
    /// For receives, acks, nacks and extends.
    pub settling: ByteBudget,
}

impl Budgets {
    /// Budgets of `sends` and `settling` bytes.
    #[must_use]
    pub fn new(sends: usize, settling: usize) -> Budgets {
        Budgets { sends: ByteBudget::new(sends), settling: ByteBudget::new(settling) }
    }
}

/// Requests a second of the public port, webhooks and API apart, charged after verification so that strangers
/// cannot spend them (SPEC §7).
#[derive(Debug)]
pub struct RateLimits {
    current: arc_swap::ArcSwap<Pair>,
    clock: DefaultClock,
}

#[derive(Debug)]
struct Pair {
    webhooks: DefaultDirectRateLimiter,
    api: DefaultDirectRateLimiter,
}

impl Pair {
    fn of(quota: Quota) -> Pair {
        Pair { webhooks: RateLimiter::direct(quota), api: RateLimiter::direct(quota) }
    }
}

impl RateLimits {
    /// `per_second` requests with bursts of `burst`, for webhooks and for the API each.
    #[must_use]
    pub fn new(per_second: NonZeroU32, burst: NonZeroU32) -> RateLimits {
        RateLimits::of(Quota::per_second(per_second).allow_burst(burst))
    }

    pub(super) fn of(quota: Quota) -> RateLimits {
        let current = arc_swap::ArcSwap::from_pointee(Pair::of(quota));
        RateLimits { current, clock: DefaultClock::default() }
    }

    /// New limits, with full buckets.
    pub fn reload(&self, per_second: NonZeroU32, burst: NonZeroU32) {
        self.current.store(Arc::new(Pair::of(Quota::per_second(per_second).allow_burst(burst))));
    }

    /// Charges one verified webhook.
    ///
    /// # Errors
    /// RATE_LIMIT with the time until there is room.
    pub fn charge_webhook(&self) -> Result<(), Refusal> {
        charge(&self.current.load().webhooks, &self.clock, PORT)
    }

    /// Charges one authenticated API call.
    ///
    /// # Errors
    /// RATE_LIMIT with the time until there is room.
    pub fn charge_api(&self) -> Result<(), Refusal> {
        charge(&self.current.load().api, &self.clock, PORT)
    }
}

const PORT: &str = "more requests a second than this node accepts";

fn charge(
    limiter: &DefaultDirectRateLimiter,
    clock: &DefaultClock,
    text: &'static str,
) -> Result<(), Refusal> {
    limiter.check().map_err(|until| {
        let ms = u64::try_from(until.wait_time_from(clock.now()).as_millis()).unwrap_or(u64::MAX);
        Refusal::new(Reason::RateLimit, text).retry_after(ms)
    })
}

/// Verified webhooks a second of one provider, if it has a limit of its own.
#[derive(Debug, Default)]
pub struct OwnRate(Option<(DefaultDirectRateLimiter, DefaultClock)>);

impl OwnRate {
    /// `per_second` webhooks with bursts of `burst`.
    #[must_use]
    pub fn new(per_second: NonZeroU32, burst: NonZeroU32) -> OwnRate {
        let limiter = RateLimiter::direct(Quota::per_second(per_second).allow_burst(burst));
        OwnRate(Some((limiter, DefaultClock::default())))
    }

    /// Charges one verified webhook.
    ///
    /// # Errors
    /// RATE_LIMIT with the time until there is room.
    pub fn charge(&self) -> Result<(), Refusal> {
        let Some((limiter, clock)) = &self.0 else { return Ok(()) };
        charge(limiter, clock, "more webhooks a second than this provider may send (its limits.max_rps)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_reserved_and_given_back() {
        let budget = ByteBudget::new(4096);
        let half = budget.reserve(2049).unwrap();
        assert_eq!(budget.reserve(2048).unwrap_err().reason, Reason::Backpressure);
        assert!(budget.reserve(0).is_ok(), "an empty body needs 1 KiB");
        drop(half);
        assert!(budget.reserve(4096).is_ok());
    }

    #[test]
    fn webhooks_and_api_have_buckets_of_their_own() {
        let (one, two) = (NonZeroU32::new(1).unwrap(), NonZeroU32::new(2).unwrap());
        let hour = std::time::Duration::from_secs(3600);
        let limits = RateLimits::of(Quota::with_period(hour).unwrap().allow_burst(two));
        assert!(limits.charge_webhook().is_ok() && limits.charge_webhook().is_ok());
        let refusal = limits.charge_webhook().unwrap_err();
        assert_eq!(refusal.reason, Reason::RateLimit);
        assert!((3_000_000..=3_600_000).contains(&refusal.retry_after_ms.unwrap()));
        assert!(limits.charge_api().is_ok());
        limits.reload(one, two);
        assert!(limits.charge_webhook().is_ok());
    }
}
