//! Node time and how it is written for people (SPEC §1 "node time").

use serde::{Deserialize, Serialize};
use std::fmt;
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

/// A moment of node time: milliseconds since the Unix epoch. Every stored deadline (lease, delay, TTL,
/// retention, dedup) is in this time, never in the wall clock's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Millis(pub u64);

impl Millis {
    /// The moment that never comes.
    pub const NEVER: Millis = Millis(u64::MAX);

    /// This moment, `ms` milliseconds later; saturates at [`Millis::NEVER`].
    #[must_use]
    pub const fn plus(self, ms: u64) -> Millis {
        Millis(self.0.saturating_add(ms))
    }

    /// Milliseconds from `earlier` to this moment; 0 if it lies in the future.
    #[must_use]
    pub const fn since(self, earlier: Millis) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// RFC 3339 in UTC with milliseconds, the form of every time in JSON: `2026-11-21T10:00:00.000Z`.
    #[must_use]
    pub fn rfc3339(self) -> String {
        const FORMAT: &[BorrowedFormatItem<'_>] =
            format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
        let nanos = i128::from(self.0) * 1_000_000;
        OffsetDateTime::from_unix_timestamp_nanos(nanos)
            .ok()
            .and_then(|at| at.format(FORMAT).ok())
            .unwrap_or_else(|| "9999-12-31T23:59:59.999Z".to_owned())
    }
}

/// Where the shell reads time from. Tests and the simulator bring their own.
pub trait Clock: Send + Sync + fmt::Debug {
    /// Node time, for stored deadlines.
    fn now(&self) -> Millis;

    /// Wall clock in milliseconds since the Unix epoch, for capability and provider timestamps and audit stamps.
    fn wall(&self) -> Millis;

    /// Whether what has lived its time may end: TTLs, retention, idempotency keys. `false` while a [`ClockGap`]
    /// is not accepted; leases and delays run on all the same.
    fn may_expire(&self) -> bool {
        true
    }

    /// Up to when things may have ended by `now`: nothing yet while nothing may.
    fn ends_by(&self, now: Millis) -> Millis {
        if self.may_expire() { now } else { Millis(0) }
    }
}

/// A wall clock at start that does not go with the node time saved last: one of the two was wrong, and what was
/// ended by a wrong one would be lost for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockGap {
    /// Node time of the last sign of life before the start.
    pub saved: Millis,
    /// The wall clock at the start.
    pub wall: Millis,
}

impl ClockGap {
    /// How far the wall clock may lie before the saved time, ms: what a correction of a running clock may do.
    pub const BEHIND_MAX_MS: u64 = 60_000;

    /// The gap of a start, if it is one: the wall clock more than [`ClockGap::BEHIND_MAX_MS`] before the saved
    /// time, or more than `ahead_max_ms` after it. A new store, whose saved time is 0, has none.
    #[must_use]
    pub fn between(saved: Millis, wall: Millis, ahead_max_ms: u64) -> Option<ClockGap> {
        let far = saved.since(wall) > Self::BEHIND_MAX_MS || wall.since(saved) > ahead_max_ms;
        (far && saved != Millis(0)).then_some(ClockGap { saved, wall })
    }
}

impl fmt::Display for ClockGap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (ms, side) = match self.wall < self.saved {
            true => (self.saved.since(self.wall), "before"),
            false => (self.wall.since(self.saved), "after"),
        };
        let (wall, saved) = (self.wall.rfc3339(), self.saved.rfc3339());
        write!(f, "the wall clock at start ({wall}) was {} s {side} the last saved time ({saved})", ms / 1000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_rfc3339_with_milliseconds() {
        assert_eq!(Millis(1_700_000_000_007).rfc3339(), "2023-11-14T22:13:20.007Z");
        assert_eq!(Millis(0).rfc3339(), "1970-01-01T00:00:00.000Z");
        assert_eq!(Millis::NEVER.rfc3339(), "9999-12-31T23:59:59.999Z");
    }

    #[test]
    fn a_gap_is_more_than_a_minute_back_or_more_than_the_limit_ahead() {
        let (saved, week) = (Millis(1_700_000_000_000), 7 * 86_400_000);
        let gap = |wall| ClockGap::between(saved, Millis(wall), week);
        for fine in [saved.0 - 60_000, saved.0 - 1, saved.0, saved.0 + 1, saved.0 + week] {
            assert_eq!(gap(fine), None, "{fine}");
        }
        for far in [0, saved.0 - 60_001, saved.0 + week + 1, u64::MAX] {
            assert_eq!(gap(far), Some(ClockGap { saved, wall: Millis(far) }));
        }
        assert_eq!(ClockGap::between(Millis(0), saved, week), None, "a new store");
    }

    #[test]
    fn a_gap_says_which_way_and_how_far() {
        let saved = Millis(1_700_000_000_000);
        let text = |wall| ClockGap { saved, wall: Millis(wall) }.to_string();
        assert!(text(saved.0 - 90_000).contains("was 90 s before"), "{}", text(saved.0 - 90_000));
        assert!(
            text(saved.0 + 90_000).contains("was 90 s after the last saved time (2023-11-14T22:13:20.000Z)")
        );
    }
}
