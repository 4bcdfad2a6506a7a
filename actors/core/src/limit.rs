//! Token buckets as values: what a rate allows, given the time.
//!
//! A bucket refills in whole thousandths of a token a millisecond, so nothing is lost to rounding.

use crate::time::Millis;

/// How fast a bucket refills and how much it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Tokens a second; 0 allows nothing, ever.
    pub per_second: u64,
    /// Most tokens saved up.
    pub burst: u64,
}

impl Rate {
    /// `per_second` tokens, at most one second's worth of them saved up.
    #[must_use]
    pub const fn per_second(per_second: u64) -> Rate {
        Rate { per_second, burst: per_second }
    }

    const fn capacity(self) -> u64 {
        self.burst.saturating_mul(1000)
    }
}

/// A token bucket. It does not know its rate, so that a reload can change it under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bucket {
    thousandths: u64,
    at: Millis,
}

impl Bucket {
    /// A full bucket.
    #[must_use]
    pub const fn full(rate: Rate, now: Millis) -> Bucket {
        Bucket { thousandths: rate.capacity(), at: now }
    }

    /// Takes `tokens`.
    ///
    /// # Errors
    /// Milliseconds until there will be enough, if nothing else takes any; the bucket is then unchanged.
    /// `u64::MAX` if there never will be.
    pub fn take(&mut self, rate: Rate, now: Millis, tokens: u64) -> Result<(), u64> {
        self.refill(rate, now);
        let wanted = tokens.saturating_mul(1000);
        if wanted <= self.thousandths {
            self.thousandths -= wanted;
            return Ok(());
        }
        if wanted > rate.capacity() || rate.per_second == 0 {
            return Err(u64::MAX);
        }
        Err((wanted - self.thousandths).div_ceil(rate.per_second))
    }

    /// Takes `tokens`, which may be more than the bucket ever holds: it must then be full, and what is missing is
    /// owed, so that the rate holds in the long run for pieces of any size.
    ///
    /// # Errors
    /// Milliseconds until it can be taken; the bucket is then unchanged. `u64::MAX` if the rate is 0.
    pub fn take_or_owe(&mut self, rate: Rate, now: Millis, tokens: u64) -> Result<(), u64> {
        let at_once = tokens.min(rate.burst);
        let debt_ends = self.at.since(now);
        self.take(rate, now, at_once).map_err(|wait| wait.saturating_add(debt_ends))?;
        let owed = (tokens - at_once).saturating_mul(1000);
        if owed > 0 {
            // It refills from when the debt is paid.
            self.at = self.at.plus(owed.div_ceil(rate.per_second.max(1)));
        }
        Ok(())
    }

    /// Gives back `tokens` that were taken for something that did not happen.
    pub fn give_back(&mut self, rate: Rate, tokens: u64) {
        let tokens = tokens.saturating_mul(1000);
        self.thousandths = self.thousandths.saturating_add(tokens).min(rate.capacity());
    }

    /// Whether the bucket has refilled, so that forgetting it changes nothing.
    #[must_use]
    pub fn is_full(mut self, rate: Rate, now: Millis) -> bool {
        self.refill(rate, now);
        self.thousandths == rate.capacity()
    }

    fn refill(&mut self, rate: Rate, now: Millis) {
        let added = rate.per_second.saturating_mul(now.since(self.at));
        self.thousandths = self.thousandths.saturating_add(added).min(rate.capacity());
        self.at = self.at.max(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn refills_at_its_rate_and_says_when() {
        let rate = Rate { per_second: 3, burst: 2 };
        let mut bucket = Bucket::full(rate, Millis(0));
        assert_eq!(bucket.take(rate, Millis(0), 2), Ok(()));
        assert_eq!(bucket.take(rate, Millis(0), 1), Err(334));
        assert_eq!(bucket.take(rate, Millis(333), 1), Err(1));
        assert_eq!(bucket.take(rate, Millis(334), 1), Ok(()));
        assert_eq!(bucket.take(rate, Millis(334), 3), Err(u64::MAX), "more than it ever holds");
        assert!(!bucket.is_full(rate, Millis(400)));
        assert!(bucket.is_full(rate, Millis(1001)));
        bucket.give_back(rate, 100);
        assert!(bucket.is_full(rate, Millis(334)));
    }

    #[test]
    fn a_piece_larger_than_the_bucket_is_owed() {
        let rate = Rate::per_second(100);
        let mut bucket = Bucket::full(rate, Millis(0));
        assert_eq!(bucket.take_or_owe(rate, Millis(0), 350), Ok(()));
        assert_eq!(bucket.take_or_owe(rate, Millis(0), 1), Err(2_510));
        assert_eq!(bucket.take_or_owe(rate, Millis(2_500), 1), Err(10));
        assert_eq!(bucket.take_or_owe(rate, Millis(2_510), 1), Ok(()));
        assert_eq!(bucket.take_or_owe(rate, Millis(2_510), 350), Err(1_000), "full first");
        assert!(!bucket.is_full(rate, Millis(3_000)) && bucket.is_full(rate, Millis(3_510)));
    }

    #[test]
    fn a_rate_of_nothing_allows_nothing() {
        let rate = Rate::per_second(0);
        assert_eq!(Bucket::full(rate, Millis(0)).take(rate, Millis(9_000_000), 1), Err(u64::MAX));
    }

    proptest! {
        #[test]
        fn never_allows_more_than_burst_plus_rate(
            per_second in 1u64..1000, burst in 1u64..100, steps in prop::collection::vec(0u64..50, 1..400),
        ) {
            let rate = Rate { per_second, burst };
            let mut bucket = Bucket::full(rate, Millis(0));
            let (mut now, mut taken) = (0, 0);
            for step in steps {
                now += step;
                taken += u64::from(bucket.take(rate, Millis(now), 1).is_ok());
                prop_assert!(taken * 1000 <= burst * 1000 + per_second * now);
            }
        }

        #[test]
        fn waiting_as_told_is_enough(per_second in 1u64..5000, burst in 1u64..100, drain in 0u64..100) {
            let rate = Rate { per_second, burst };
            let mut bucket = Bucket::full(rate, Millis(0));
            let _ = bucket.take(rate, Millis(0), drain.min(burst));
            if let Err(wait) = bucket.take(rate, Millis(0), 1) {
                prop_assert_eq!(bucket.take(rate, Millis(wait), 1), Ok(()));
            }
        }
    }
}
