//! How long to wait before the next attempt. Pure: the randomness is an argument.

use std::time::Duration;

/// The first pause, at most.
const BASE_MS: u64 = 50;
/// Every pause, at most.
const MAX_MS: u64 = 5_000;
/// Every pause, at least: a listener that refuses at once is not asked without end.
const MIN_MS: u64 = 10;

/// The pause before attempt `failures + 1`: exponential with full jitter, 10 ms to 5 s. `random` spreads many clients
/// of a node that comes back.
#[must_use]
pub(crate) fn pause(failures: u32, random: u64) -> Duration {
    let most = BASE_MS.saturating_mul(1 << failures.min(20)).min(MAX_MS);
    Duration::from_millis(MIN_MS + random % (most - MIN_MS + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_are_spread() {
        for (failures, most) in [(0, 50), (1, 100), (4, 800), (7, 5_000), (u32::MAX, 5_000)] {
            let worst = (0..10_000).map(|random| pause(failures, random)).max();
            assert_eq!(worst, Some(Duration::from_millis(most)), "{failures}");
            assert_eq!(pause(failures, 0), Duration::from_millis(MIN_MS));
        }
        assert_ne!(pause(5, 7), pause(5, 8));
        assert!(pause(3, u64::MAX) <= Duration::from_millis(400));
    }
}
