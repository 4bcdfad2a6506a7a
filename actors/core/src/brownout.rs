//! When a node sheds new messages because its store does not keep up (SPEC §7 "Brownout sentinel"): a decision once a
//! second, from how long commits took and how full the budget of sends is. Never reads a clock; what a sender does
//! without a capability is not among what it is told.
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

/// What was seen of one second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Second {
    /// Mean time of its commits, ms, or the age of one that runs, if that is more; `None` = there was none.
    pub commit_ms: Option<u64>,
    /// How much of the budget of sends is in use, %.
    pub budget_percent: u8,
}

/// A change of mind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Switch {
    /// Commits are too slow: from now on new messages are shed. Their p95, ms.
    Slow(u64),
    /// The budget of sends stays full: from now on new messages are shed.
    Full,
    /// New messages are accepted again.
    Clear,
}

#[derive(Debug)]
struct Bucket {
    number: u64,
    commit_ms: Vec<u64>,
}

/// The sentinel's memory, at most [`BUCKETS`] × [`BUCKET_S`] numbers.
#[derive(Debug)]
pub struct Brownout {
    p95_max_ms: u64,
    now_s: u64,
    window: VecDeque<Bucket>,
    full_s: u32,
    good_s: u32,
    sheds: bool,
}

impl Brownout {
    /// Sheds when the p95 of five minutes is above `p95_max_ms`.
    #[must_use]
    pub fn new(p95_max_ms: u64) -> Brownout {
        Brownout { p95_max_ms, now_s: 0, window: VecDeque::new(), full_s: 0, good_s: 0, sheds: false }
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
        self.remember(second.commit_ms);
        self.full_s = if second.budget_percent > FULL_PERCENT { self.full_s + 1 } else { 0 };
        let switch = match self.slow() {
            Some(p95) => Switch::Slow(p95),
            None if self.full_s >= FULL_SECONDS => Switch::Full,
            None => return None,
        };
        (self.sheds, self.good_s) = (true, 0);
        Some(switch)
    }

    /// It was bad: only what is clearly good ends that, some seconds in a row.
    fn look_for_good(&mut self, second: Second) -> Option<Switch> {
        let fast = second.commit_ms.is_some_and(|ms| ms <= self.p95_max_ms / 2);
        let good = fast && second.budget_percent < ROOM_PERCENT;
        self.good_s = if good { self.good_s + 1 } else { 0 };
        if self.good_s < GOOD_SECONDS {
            return None;
        }
        // Of before, and judged: the next time needs evidence of its own.
        self.window.clear();
        (self.sheds, self.full_s) = (false, 0);
        Some(Switch::Clear)
    }

    fn remember(&mut self, commit_ms: Option<u64>) {
        let number = self.now_s / BUCKET_S;
        while self.window.front().is_some_and(|bucket| bucket.number + BUCKETS <= number) {
            self.window.pop_front();
        }
        let Some(ms) = commit_ms else { return };
        match self.window.back_mut().filter(|bucket| bucket.number == number) {
            Some(bucket) => bucket.commit_ms.push(ms),
            None => self.window.push_back(Bucket { number, commit_ms: vec![ms] }),
        }
    }

    /// The p95 of the window, if it is too much.
    fn slow(&self) -> Option<u64> {
        let mut all: Vec<u64> =
            self.window.iter().flat_map(|bucket| bucket.commit_ms.iter().copied()).collect();
        all.sort_unstable();
        let slow = all.len() - all.partition_point(|&ms| ms <= self.p95_max_ms);
        let rank = (all.len() * 95).div_ceil(100);
        let p95 = rank.checked_sub(1).and_then(|at| all.get(at)).copied()?;
        (slow >= SLOW_SECONDS_MIN && p95 > self.p95_max_ms).then_some(p95)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn took(ms: u64) -> Second {
        Second { commit_ms: Some(ms), budget_percent: 0 }
    }

    const fn full(percent: u8) -> Second {
        Second { commit_ms: None, budget_percent: percent }
    }

    fn many(brownout: &mut Brownout, n: usize, second: Second) -> Vec<(usize, Switch)> {
        (1..=n).filter_map(|at| brownout.look(second).map(|switch| (at, switch))).collect()
    }

    #[test]
    fn a_stall_is_seen_within_seconds_and_a_hiccup_is_not() {
        let mut brownout = Brownout::new(500);
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
        let mut brownout = Brownout::new(500);
        assert_eq!(many(&mut brownout, 8, took(900)), [(8, Switch::Slow(900))]);
    }

    #[test]
    fn what_is_older_than_the_window_is_forgotten() {
        let mut brownout = Brownout::new(500);
        assert_eq!(many(&mut brownout, 7, took(900)), []);
        assert_eq!(many(&mut brownout, 300, full(0)), [], "nothing was sent: nothing was slow");
        assert_eq!(many(&mut brownout, 7, took(900)), []);
        assert_eq!(many(&mut brownout, 1, took(900)), [(1, Switch::Slow(900))]);
        assert!(brownout.window.len() <= BUCKETS as usize);
    }

    #[test]
    fn it_clears_only_when_it_is_clearly_good_for_some_seconds() {
        let mut brownout = Brownout::new(500);
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
        let mut brownout = Brownout::new(500);
        assert_eq!(many(&mut brownout, 300, full(80)), []);
        assert_eq!(many(&mut brownout, 59, full(81)), []);
        assert_eq!(many(&mut brownout, 1, full(80)), [], "a minute without a break");
        assert_eq!(many(&mut brownout, 60, full(100)), [(60, Switch::Full)]);
        let crowded = Second { commit_ms: Some(1), budget_percent: 50 };
        assert_eq!(many(&mut brownout, 100, crowded), []);
        assert_eq!(many(&mut brownout, 5, Second { budget_percent: 49, ..crowded }), [(5, Switch::Clear)]);
    }
}
