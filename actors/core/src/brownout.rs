//! When a node sheds new messages because its store does not keep up (SPEC §7 "Brownout sentinel"): a decision once a
//! second, from how long commits took, how full the budget of sends is, and which of the requests that were let in
//! failed. Never reads a clock; what a sender does without a capability is not among what it is told.
//!
//! Time counts, not commits: a second of many fast commits weighs as much as one of a single slow one. So a disk
//! that stalls is seen within seconds however fast it was before, and a hiccup is not.

use std::collections::VecDeque;

/// What a bucket of the window spans, s.
const BUCKET_S: u64 = 10;
/// Buckets of the window: five minutes.
const BUCKETS: u64 = 30;
/// Fewer slow seconds than this are a hiccup, whatever their share.
const SLOW_SECONDS_MIN: usize = 8;
/// The budget of sends counts as full above this share, %.
const FULL_PERCENT: u8 = 80;
/// Below this share it has room again, %.
const ROOM_PERCENT: u8 = 50;
/// So many seconds in a row full, and new messages are shed.
const FULL_SECONDS: u32 = 60;
/// So many good seconds in a row, and they are accepted again.
const GOOD_SECONDS: u32 = 5;
/// Fewer requests than this in the window say nothing about the share that fails.
const REQUESTS_MIN: u64 = 20;

/// What was seen of one second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Second {
    /// Mean time of its commits, ms, or the age of one that runs, if that is more; `None` = there was none.
    pub commit_ms: Option<u64>,
    /// How much of the budget of sends is in use, %.
    pub budget_percent: u8,
    /// Requests that queues and store answered: verified or authorised ones, and none that was shed or limited.
    pub answered: u64,
    /// Requests that they failed.
    pub failed: u64,
    /// A commit that was made to try the store did not succeed.
    pub probe_failed: bool,
}

/// When to shed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Thresholds {
    /// The p95 of commits over five minutes, ms.
    pub p95_max_ms: u64,
    /// The share of failed requests over five minutes, 0 to 1.
    pub error_rate_max: f64,
}

/// A change of mind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Switch {
    /// Commits are too slow: from now on new messages are shed. Their p95, ms.
    Slow(u64),
    /// The budget of sends stays full: from now on new messages are shed.
    Full,
    /// Too many requests fail: from now on new messages are shed. How many of a thousand did.
    Failing(u64),
    /// New messages are accepted again.
    Clear,
}

#[derive(Debug)]
struct Bucket {
    number: u64,
    commit_ms: Vec<u64>,
    answered: u64,
    failed: u64,
}

/// The sentinel's memory, at most [`BUCKETS`] × [`BUCKET_S`] numbers.
#[derive(Debug)]
pub struct Brownout {
    limits: Thresholds,
    now_s: u64,
    window: VecDeque<Bucket>,
    full_s: u32,
    good_s: u32,
    sheds: bool,
}

impl Brownout {
    /// Sheds when five minutes are above one of the thresholds.
    #[must_use]
    pub fn new(limits: Thresholds) -> Brownout {
        Brownout { limits, now_s: 0, window: VecDeque::new(), full_s: 0, good_s: 0, sheds: false }
    }

    /// Whether new messages are shed. While they are, somebody must see to it that each second has a commit.
    #[must_use]
    pub fn sheds(&self) -> bool {
        self.sheds
    }

    /// Takes in one more second; what changes by it.
    pub fn look(&mut self, second: Second) -> Option<Switch> {
        self.now_s += 1;
        if self.sheds {
            return self.look_for_good(second);
        }
        self.remember(second);
        self.full_s = if second.budget_percent > FULL_PERCENT { self.full_s + 1 } else { 0 };
        let switch = match (self.slow(), self.failing()) {
            (Some(p95), _) => Switch::Slow(p95),
            (None, Some(permille)) => Switch::Failing(permille),
            (None, None) if self.full_s >= FULL_SECONDS => Switch::Full,
            (None, None) => return None,
        };
        (self.sheds, self.good_s) = (true, 0);
        Some(switch)
    }

    /// It was bad: only what is clearly good ends that, some seconds in a row.
    fn look_for_good(&mut self, second: Second) -> Option<Switch> {
        let fast = second.commit_ms.is_some_and(|ms| ms <= self.limits.p95_max_ms / 2);
        let whole = !second.probe_failed && !self.is_too_much(second.failed, second.answered + second.failed);
        let good = fast && whole && second.budget_percent < ROOM_PERCENT;
        self.good_s = if good { self.good_s + 1 } else { 0 };
        if self.good_s < GOOD_SECONDS {
            return None;
        }
        // Of before, and judged: the next time needs evidence of its own.
        self.window.clear();
        (self.sheds, self.full_s) = (false, 0);
        Some(Switch::Clear)
    }

    fn remember(&mut self, second: Second) {
        let number = self.now_s / BUCKET_S;
        while self.window.front().is_some_and(|bucket| bucket.number + BUCKETS <= number) {
            self.window.pop_front();
        }
        let Second { commit_ms, answered, failed, .. } = second;
        if commit_ms.is_none() && answered == 0 && failed == 0 {
            return;
        }
        if self.window.back().is_none_or(|bucket| bucket.number != number) {
            self.window.push_back(Bucket { number, commit_ms: Vec::new(), answered: 0, failed: 0 });
        }
        if let Some(bucket) = self.window.back_mut() {
            bucket.commit_ms.extend(commit_ms);
            bucket.answered += answered;
            bucket.failed += failed;
        }
    }

    /// How many of a thousand requests of the window failed, if it is too many.
    fn failing(&self) -> Option<u64> {
        let sum = |of: fn(&Bucket) -> u64| self.window.iter().map(of).sum::<u64>();
        let failed = sum(|bucket| bucket.failed);
        let all = sum(|bucket| bucket.answered) + failed;
        (all >= REQUESTS_MIN && self.is_too_much(failed, all)).then(|| failed * 1000 / all)
    }

    #[expect(clippy::cast_precision_loss, reason = "counts of five minutes are far below 2^53")]
    fn is_too_much(&self, failed: u64, all: u64) -> bool {
        failed > 0 && failed as f64 > all as f64 * self.limits.error_rate_max
    }

    /// The p95 of the window, if it is too much.
    fn slow(&self) -> Option<u64> {
        let mut all: Vec<u64> =
            self.window.iter().flat_map(|bucket| bucket.commit_ms.iter().copied()).collect();
        all.sort_unstable();
        let slow = all.len() - all.partition_point(|&ms| ms <= self.limits.p95_max_ms);
        let rank = (all.len() * 95).div_ceil(100);
        let p95 = rank.checked_sub(1).and_then(|at| all.get(at)).copied()?;
        (slow >= SLOW_SECONDS_MIN && p95 > self.limits.p95_max_ms).then_some(p95)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new() -> Brownout {
        Brownout::new(Thresholds { p95_max_ms: 500, error_rate_max: 0.01 })
    }

    fn took(ms: u64) -> Second {
        Second { commit_ms: Some(ms), ..Second::default() }
    }

    fn full(percent: u8) -> Second {
        Second { budget_percent: percent, ..Second::default() }
    }

    fn answers(answered: u64, failed: u64) -> Second {
        Second { commit_ms: Some(1), answered, failed, ..Second::default() }
    }

    fn many(brownout: &mut Brownout, n: usize, second: Second) -> Vec<(usize, Switch)> {
        (1..=n).filter_map(|at| brownout.look(second).map(|switch| (at, switch))).collect()
    }

    #[test]
    fn a_stall_is_seen_within_seconds_and_a_hiccup_is_not() {
        let mut brownout = new();
        assert_eq!(many(&mut brownout, 7, took(5_000)), []);
        assert_eq!(many(&mut brownout, 300, took(3)), [], "seven slow seconds of a young node are a hiccup");
        assert_eq!(many(&mut brownout, 300, took(500)), [], "a slow disk is not a broken one");
        // then more than one in twenty of the last 300 seconds is slow
        let switched = many(&mut brownout, 300, took(501));
        assert!(matches!(switched[..], [(at, Switch::Slow(501))] if (15..=17).contains(&at)), "{switched:?}");
        assert!(brownout.sheds());
    }

    #[test]
    fn a_young_node_needs_eight_slow_seconds() {
        let mut brownout = new();
        assert_eq!(many(&mut brownout, 8, took(900)), [(8, Switch::Slow(900))]);
    }

    #[test]
    fn what_is_older_than_the_window_is_forgotten() {
        let mut brownout = new();
        assert_eq!(many(&mut brownout, 7, took(900)), []);
        assert_eq!(many(&mut brownout, 300, full(0)), [], "nothing was sent: nothing was slow");
        assert_eq!(many(&mut brownout, 7, took(900)), []);
        assert_eq!(many(&mut brownout, 1, took(900)), [(1, Switch::Slow(900))]);
        assert!(brownout.window.len() <= BUCKETS as usize);
    }

    #[test]
    fn it_clears_only_when_it_is_clearly_good_for_some_seconds() {
        let mut brownout = new();
        let _ = many(&mut brownout, 8, took(900));
        assert_eq!(many(&mut brownout, 100, took(400)), [], "below the threshold is not yet good");
        assert_eq!(many(&mut brownout, 100, full(0)), [], "no probe came back");
        assert_eq!(many(&mut brownout, 4, took(250)), []);
        assert_eq!(many(&mut brownout, 1, took(251)), [], "five in a row");
        assert_eq!(many(&mut brownout, 5, took(250)), [(5, Switch::Clear)]);
        assert!(!brownout.sheds());
        // what was judged does not count again
        assert_eq!(many(&mut brownout, 7, took(900)), []);
        assert_eq!(many(&mut brownout, 1, took(900)), [(1, Switch::Slow(900))]);
    }

    #[test]
    fn a_budget_full_for_a_minute_sheds_and_needs_real_room() {
        let mut brownout = new();
        assert_eq!(many(&mut brownout, 300, full(80)), []);
        assert_eq!(many(&mut brownout, 59, full(81)), []);
        assert_eq!(many(&mut brownout, 1, full(80)), [], "a minute without a break");
        assert_eq!(many(&mut brownout, 60, full(100)), [(60, Switch::Full)]);
        let crowded = Second { commit_ms: Some(1), ..full(50) };
        assert_eq!(many(&mut brownout, 100, crowded), []);
        assert_eq!(many(&mut brownout, 5, Second { budget_percent: 49, ..crowded }), [(5, Switch::Clear)]);
    }

    #[test]
    fn one_in_a_hundred_requests_may_fail_and_twenty_are_needed_to_tell() {
        let mut brownout = new();
        assert_eq!(many(&mut brownout, 19, answers(0, 1)), [], "nineteen requests say nothing");
        assert_eq!(many(&mut brownout, 1, answers(0, 1)), [(1, Switch::Failing(1000))]);

        let mut brownout = new();
        assert_eq!(many(&mut brownout, 300, answers(99, 1)), [], "exactly one in a hundred");
        assert_eq!(many(&mut brownout, 1, answers(98, 2)), [(1, Switch::Failing(10))]);
    }

    #[test]
    fn failures_of_before_the_window_are_forgotten() {
        let mut brownout = new();
        assert_eq!(many(&mut brownout, 1, answers(0, 19)), []);
        assert_eq!(many(&mut brownout, 300, full(0)), []);
        assert_eq!(many(&mut brownout, 100, answers(100, 0)), []);
        assert_eq!(many(&mut brownout, 1, answers(0, 19)), [], "19 of 10,019");
    }

    #[test]
    fn it_clears_when_neither_requests_nor_probes_fail() {
        let mut brownout = new();
        let _ = many(&mut brownout, 1, answers(0, 20));
        assert!(brownout.sheds());
        assert_eq!(many(&mut brownout, 50, answers(10, 1)), [], "what goes on still fails");
        assert_eq!(many(&mut brownout, 50, Second { probe_failed: true, ..took(1) }), []);
        assert_eq!(many(&mut brownout, 5, answers(1000, 10)), [(5, Switch::Clear)]);
        assert_eq!(many(&mut brownout, 1, answers(19, 0)), [], "what was judged does not count again");
    }
}
