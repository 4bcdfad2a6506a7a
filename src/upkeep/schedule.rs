//! When a duty is due that is done again and again, and also when somebody asks.

use ron_core::time::Millis;
use std::time::Duration;

/// See the module. Times are node time.
#[derive(Debug)]
pub(super) struct Schedule {
    every: Duration,
    rest: Duration,
    due: Millis,
}

impl Schedule {
    /// Due `every` after the last time, which was `age` ago, but no sooner than after a `rest`, as after a failure:
    /// the node has just started and has other things to do. If nobody knows of a last time, it is due after the
    /// rest.
    pub(super) fn begin(every: Duration, rest: Duration, now: Millis, age: Option<Duration>) -> Schedule {
        let rest = rest.min(every);
        let wait = age.map_or(rest, |age| every.saturating_sub(age).max(rest));
        Schedule { every, rest, due: after(now, wait) }
    }

    /// How long until it is due; zero when it is.
    pub(super) fn wait(&self, now: Millis) -> Duration {
        Duration::from_millis(self.due.since(now))
    }

    /// It was done, whoever asked for it.
    pub(super) fn done(&mut self, now: Millis) {
        self.due = after(now, self.every);
    }

    /// It failed, or somebody else is at it.
    pub(super) fn put_off(&mut self, now: Millis) {
        self.due = after(now, self.rest);
    }
}

fn after(now: Millis, wait: Duration) -> Millis {
    now.plus(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);
    const HOUR: Duration = Duration::from_secs(3600);
    const START: Millis = Millis(5_000);

    #[test]
    fn the_first_one_heeds_the_last_before_the_start_and_comes_after_a_rest() {
        let first = |every, age| Schedule::begin(every, MINUTE, START, age).wait(START);
        assert_eq!(first(HOUR, None), MINUTE);
        assert_eq!(first(HOUR, Some(Duration::ZERO)), HOUR);
        assert_eq!(first(HOUR, Some(HOUR / 4)), HOUR * 3 / 4);
        assert_eq!(first(HOUR, Some(HOUR)), MINUTE);
        assert_eq!(first(HOUR, Some(10 * HOUR)), MINUTE);
        assert_eq!(first(MINUTE / 2, None), MINUTE / 2, "a rest is no longer than what lies between two");
    }

    #[test]
    fn one_that_was_asked_for_counts() {
        let mut schedule = Schedule::begin(HOUR, MINUTE, START, None);
        let asked = START.plus(20_000);
        schedule.done(asked);
        assert_eq!(schedule.wait(START.plus(60_000)), HOUR - Duration::from_secs(40));
        assert_eq!(schedule.wait(asked.plus(3_600_000)), Duration::ZERO);
        assert_eq!(schedule.wait(asked.plus(9_600_000)), Duration::ZERO);
    }

    #[test]
    fn after_a_failure_it_is_tried_again_soon() {
        let mut schedule = Schedule::begin(HOUR, MINUTE, START, None);
        schedule.done(START);
        schedule.put_off(START.plus(3_600_000));
        assert_eq!(schedule.wait(START.plus(3_600_000)), MINUTE);
    }
}
