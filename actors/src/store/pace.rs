//! How long commits take, as somebody sees it who looks once a second.

use ron_core::time::Millis;
use std::sync::{Mutex, PoisonError};

#[derive(Debug, Default)]
struct State {
    running_since: Option<Millis>,
    commits: u64,
    total_s: f64,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Pace(Mutex<State>);

impl Pace {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A commit begins.
    pub(crate) fn begin(&self, now: Millis) {
        self.state().running_since = Some(now);
    }

    /// It is over, well or not.
    pub(crate) fn end(&self, seconds: f64) {
        let mut state = self.state();
        state.running_since = None;
        state.commits += 1;
        state.total_s += seconds;
    }

    /// The mean time of the commits since the last look, ms, or the age of the one that runs, if that is more;
    /// `None` = there was none.
    pub(crate) fn look(&self, now: Millis) -> Option<u64> {
        let mut state = self.state();
        let mean = (state.commits > 0).then(|| (state.total_s * 1e3 / state.commits as f64) as u64);
        let age = state.running_since.map(|since| now.since(since));
        *state = State { running_since: state.running_since, ..State::default() };
        mean.max(age)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_sees_what_was_done_since_the_last_and_what_hangs() {
        let pace = Pace::default();
        assert_eq!(pace.look(Millis(0)), None);
        for seconds in [0.1, 0.3] {
            pace.begin(Millis(10));
            pace.end(seconds);
        }
        pace.begin(Millis(1_000));
        assert_eq!(pace.look(Millis(1_050)), Some(200));
        assert_eq!(pace.look(Millis(9_000)), Some(8_000), "one that hangs is seen before it is over");
        pace.end(8.5);
        assert_eq!(pace.look(Millis(9_600)), Some(8_500));
        assert_eq!(pace.look(Millis(9_700)), None);
    }
}
