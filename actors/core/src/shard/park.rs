//! How long a queue stays in memory that nobody uses.

/// Queues that may be awake before any of them has to leave sooner than it is configured to.
const AWAKE_FREELY: u64 = 8_192;
/// However many are awake, none has to leave sooner than this, ms.
const PARK_AFTER_MS_MIN: u64 = 1_000;

/// After how many milliseconds an idle queue leaves memory while `awake` of them are in it: `configured`, and less the
/// more there are beyond what memory is meant for, by the square of it.
#[must_use]
pub fn park_after(configured: u64, awake: usize) -> u64 {
    let awake = awake as u64;
    if awake <= AWAKE_FREELY {
        return configured;
    }
    let share = u128::from(AWAKE_FREELY).pow(2) * u128::from(configured) / u128::from(awake).pow(2);
    u64::try_from(share).unwrap_or(u64::MAX).clamp(PARK_AFTER_MS_MIN.min(configured), configured)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crowd_leaves_sooner_and_nobody_at_once() {
        assert_eq!(park_after(60_000, 0), 60_000);
        assert_eq!(park_after(60_000, 8_192), 60_000);
        assert_eq!(park_after(60_000, 16_384), 15_000);
        assert_eq!(park_after(60_000, 100_000), 1_000);
        assert_eq!(park_after(60_000, usize::MAX), 1_000);
        assert_eq!(park_after(10, 100_000), 10, "never later than configured");
        assert_eq!(park_after(u64::MAX, 8_193), (u128::from(u64::MAX) * 67_108_864 / 67_125_249) as u64);
    }
}
