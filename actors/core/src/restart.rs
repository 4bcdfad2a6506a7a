//! When a failed child comes back, and when it is left alone (SPEC §2 "Supervision").
//!
//! A value per child: it is told of every exit with the time and a random number, and answers what to do. It
//! reads no clock, draws no randomness and knows nothing of actors.

use crate::time::Millis;
use std::collections::VecDeque;

/// The bounds of restarting one child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RestartPolicy {
    /// Ceiling of the first delay, ms; doubles with every failure in a row.
    pub base_ms: u64,
    /// Ceiling of any delay, ms.
    pub cap_ms: u64,
    /// Restarts allowed inside the window; the exit after the last of them quarantines.
    pub intensity: u32,
    /// Length of the window, ms. A child that ran this long without failing starts again at `base_ms`.
    pub window_ms: u64,
}

impl RestartPolicy {
    /// SPEC's figures: 100 ms to 30 s, more than 5 restarts in 60 s quarantine.
    pub const DEFAULT: RestartPolicy =
        RestartPolicy { base_ms: 100, cap_ms: 30_000, intensity: 5, window_ms: 60_000 };

    /// The longest delay after `streak` failures in a row, ms.
    #[must_use]
    pub const fn ceiling_ms(&self, streak: u32) -> u64 {
        let doubled = match 1_u64.checked_shl(streak) {
            Some(factor) => self.base_ms.saturating_mul(factor),
            None => self.cap_ms,
        };
        if doubled < self.cap_ms { doubled } else { self.cap_ms }
    }
}

impl Default for RestartPolicy {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ExitKind {
    /// It stopped by itself and was allowed to: a parked shard.
    Clean,
    /// An error, a panic, a kill, or a stop that nobody asked for.
    Failed,
    /// It did not get as far as running.
    SpawnFailed,
}

/// What to do about an exit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Start it again at this moment.
    Respawn {
        /// Node time; never before the exit.
        at: Millis,
    },
    /// Leave it down until an operator releases it.
    Quarantine,
    /// Nothing: it ended as it should.
    Ignore,
}

/// The restart history of one child. Holds at most `intensity` moments.
#[derive(Debug, Clone)]
pub struct RestartState {
    policy: RestartPolicy,
    streak: u32,
    recent: VecDeque<Millis>,
    up_since: Option<Millis>,
}

impl RestartState {
    /// A child that has never failed.
    #[must_use]
    pub fn new(policy: RestartPolicy) -> Self {
        Self { policy, streak: 0, recent: VecDeque::new(), up_since: None }
    }

    /// Judges an exit at `now`. `jitter` is any random number; the delay is drawn from it evenly between 0
    /// and the ceiling ("full jitter", so that children that fell together do not rise together).
    pub fn on_exit(&mut self, now: Millis, kind: ExitKind, jitter: u64) -> Decision {
        match kind {
            ExitKind::Clean => return Decision::Ignore,
            ExitKind::Failed | ExitKind::SpawnFailed => {}
        }
        let window_ms = self.policy.window_ms;
        if self.up_since.is_some_and(|since| now.since(since) >= window_ms) {
            self.streak = 0;
        }
        while self.recent.front().is_some_and(|&then| now.since(then) >= window_ms) {
            self.recent.pop_front();
        }
        if self.recent.len() >= self.policy.intensity as usize {
            return Decision::Quarantine;
        }
        let ceiling = self.policy.ceiling_ms(self.streak);
        let at = now.plus(jitter % ceiling.saturating_add(1));
        self.streak = self.streak.saturating_add(1);
        self.recent.push_back(now);
        self.up_since = Some(at);
        Decision::Respawn { at }
    }

    /// An operator lets the child out of quarantine: it has its whole budget again.
    pub fn release(&mut self) {
        *self = Self::new(self.policy);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const P: RestartPolicy = RestartPolicy::DEFAULT;

    fn fresh() -> RestartState {
        RestartState::new(P)
    }

    fn respawn_ms(state: &mut RestartState, now: u64, jitter: u64) -> u64 {
        match state.on_exit(Millis(now), ExitKind::Failed, jitter) {
            Decision::Respawn { at } => at.0 - now,
            other => panic!("expected a respawn, got {other:?}"),
        }
    }

    #[test]
    fn ceilings_double_up_to_the_cap() {
        let ceilings: Vec<u64> = (0..10).map(|n| P.ceiling_ms(n)).collect();
        assert_eq!(ceilings, [100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 30_000]);
        assert_eq!(P.ceiling_ms(u32::MAX), 30_000);
    }

    #[test]
    fn the_first_respawn_is_within_100_ms() {
        assert_eq!(respawn_ms(&mut fresh(), 7, 100), 100);
        assert_eq!(respawn_ms(&mut fresh(), 7, 0), 0);
        assert_eq!(respawn_ms(&mut fresh(), 7, 101), 0);
    }

    #[test]
    fn the_sixth_failure_in_a_minute_quarantines() {
        let mut state = fresh();
        for i in 0..5 {
            respawn_ms(&mut state, i * 1000, i);
        }
        assert_eq!(state.on_exit(Millis(59_999), ExitKind::SpawnFailed, 0), Decision::Quarantine);
        state.release();
        assert!(respawn_ms(&mut state, 60_000, u64::MAX) <= 100);
    }

    #[test]
    fn a_failure_a_minute_old_no_longer_counts() {
        let mut state = fresh();
        for i in 0..5 {
            respawn_ms(&mut state, i, 0);
        }
        respawn_ms(&mut state, 60_000, 0);
        assert_eq!(state.on_exit(Millis(60_000), ExitKind::Failed, 0), Decision::Quarantine);
    }

    #[test]
    fn a_quiet_window_resets_the_delay_but_a_short_run_does_not() {
        let mut state = fresh();
        assert_eq!(respawn_ms(&mut state, 0, 100), 100);
        assert_eq!(respawn_ms(&mut state, 50_000, 200), 200);
        // 59,999 ms up: still the third in a row
        assert_eq!(respawn_ms(&mut state, 50_200 + 59_999, 400), 400);
        assert_eq!(respawn_ms(&mut state, 110_599 + 60_000, 100), 100);
    }

    #[test]
    fn a_clean_exit_is_ignored_and_costs_nothing() {
        let mut state = fresh();
        for i in 0..100 {
            assert_eq!(state.on_exit(Millis(i), ExitKind::Clean, i), Decision::Ignore);
        }
        assert!(respawn_ms(&mut state, 100, u64::MAX) <= 100);
    }

    proptest! {
        /// Whatever the exits: never more than `intensity` respawns in a window, no delay over its ceiling,
        /// and quarantine only when the budget is really spent.
        #[test]
        fn budget_and_ceilings_hold(
            steps in prop::collection::vec((0_u64..40_000, 0_u8..3, any::<u64>()), 1..200),
            intensity in 1_u32..8,
        ) {
            let policy = RestartPolicy { intensity, ..P };
            let mut state = RestartState::new(policy);
            let mut now = Millis(1_000_000);
            let mut respawns: Vec<Millis> = Vec::new();
            for (wait, kind, jitter) in steps {
                now = now.plus(wait);
                let kind = [ExitKind::Clean, ExitKind::Failed, ExitKind::SpawnFailed][kind as usize];
                let in_window = respawns.iter().filter(|then| now.since(**then) < policy.window_ms).count();
                match state.on_exit(now, kind, jitter) {
                    Decision::Ignore => prop_assert_eq!(kind, ExitKind::Clean),
                    Decision::Quarantine => prop_assert_eq!(in_window, intensity as usize),
                    Decision::Respawn { at } => {
                        prop_assert!(in_window < intensity as usize);
                        prop_assert!(at >= now && at.since(now) <= policy.cap_ms);
                        respawns.push(now);
                    }
                }
                prop_assert!(state.recent.len() <= intensity as usize);
            }
        }

        /// Jitter reaches the whole range and never leaves it.
        #[test]
        fn jitter_is_full(streak in 0_u32..20, jitter in any::<u64>()) {
            let mut state = fresh();
            state.streak = streak;
            let delay = respawn_ms(&mut state, 0, jitter);
            prop_assert_eq!(delay, jitter % (P.ceiling_ms(streak) + 1));
        }
    }
}
