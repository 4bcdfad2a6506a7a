//! How long a queue stays in memory that nobody uses.

/// Queues that may be awake before any of them has to leave sooner than it is configured to.
const AWAKE_FREELY: u64 = 8_192;
/// Up to so many none has to leave sooner than [`IDLE_MS_MIN`]: what is used every second stays.
const AWAKE_MANY: u64 = 12_288;
const IDLE_MS_MIN: u64 = 1_000;
/// Beyond that memory goes before speed.
const CROWDED_MS_MIN: u64 = 100;
/// How steeply it falls in between.
const POWER: u32 = 8;

/// After how many milliseconds an idle queue leaves memory while `awake` of them are in it: `configured`, and
/// less the more there are beyond what memory is meant for.
#[must_use]
pub fn park_after(configured: u64, awake: usize) -> u64 {
    let awake = awake as u64;
    if awake <= AWAKE_FREELY {
        return configured;
    }
    if awake > AWAKE_MANY {
        return CROWDED_MS_MIN.min(configured);
    }
    // AWAKE_MANY to the power of 8 is above 2^108: dividing twice by half of it leaves room to multiply.
    let half = |of: u64| u128::from(of).pow(POWER / 2);
    let share = u128::from(configured) * half(AWAKE_FREELY) / half(awake) * half(AWAKE_FREELY) / half(awake);
    u64::try_from(share).unwrap_or(u64::MAX).clamp(IDLE_MS_MIN.min(configured), configured)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crowd_leaves_sooner_and_nobody_at_once() {
        assert_eq!(park_after(60_000, 0), 60_000);
        assert_eq!(park_after(60_000, 8_192), 60_000);
        assert_eq!(park_after(60_000, 10_000), 12_169);
        assert_eq!(park_after(60_000, 12_288), 2_340);
        assert_eq!(park_after(60_000, 12_289), 100);
        assert_eq!(park_after(60_000, usize::MAX), 100);
        assert_eq!(park_after(1_000, 12_288), 1_000, "what is used every second stays");
        assert_eq!(park_after(10, 100_000), 10, "never later than configured");
        let longest = park_after(u64::MAX, 8_193);
        assert!(longest < u64::MAX && longest > u64::MAX - u64::MAX / 1_000, "{longest}");
    }
}
