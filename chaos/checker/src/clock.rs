//! The only place of this crate that reads clocks or sleeps.
//!
//! One time line serves everything: the wall clock read once at the start, advanced by the monotonic clock.
//! It never jumps, and it can be compared with the RFC 3339 deadlines of a node on the same machine.
// A client outside the product has no clock to be handed: it reads the machine's.
#![allow(clippy::disallowed_methods)]

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Microseconds since the Unix epoch on the run's own time line.
pub type Micros = u64;

/// The run's time line.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    started: Instant,
    wall_at_start: Micros,
}

fn wall() -> Micros {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

impl Clock {
    /// Starts the time line at the wall clock's present time.
    #[must_use]
    pub fn start() -> Clock {
        Clock { started: Instant::now(), wall_at_start: wall() }
    }

    /// Now, in microseconds since the Unix epoch.
    #[must_use]
    pub fn now(&self) -> Micros {
        let elapsed = u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.wall_at_start.saturating_add(elapsed)
    }

    /// By how much the wall clock was stepped since the start, in microseconds; deadlines can't be compared
    /// after a step.
    #[must_use]
    pub fn stepped_by(&self) -> i64 {
        let wall = i64::try_from(wall()).unwrap_or(i64::MAX);
        wall.saturating_sub(i64::try_from(self.now()).unwrap_or(i64::MAX))
    }
}

/// Blocks this thread. Load generators and bounded polls of another process have nothing else to wait on.
pub fn sleep(time: Duration) {
    std::thread::sleep(time);
}

/// Polls `probe` every `step` until it gives a value or `limit` has passed.
pub fn poll<T>(limit: Duration, step: Duration, mut probe: impl FnMut() -> Option<T>) -> Option<T> {
    let started = Instant::now();
    loop {
        if let Some(found) = probe() {
            return Some(found);
        }
        if started.elapsed() >= limit {
            return None;
        }
        std::thread::sleep(step);
    }
}

/// Reads `2026-11-21T10:00:00.000Z` (RFC 3339, UTC, any number of sub-second digits) into microseconds since
/// the Unix epoch; `None` for anything else.
#[must_use]
pub fn parse_rfc3339(text: &str) -> Option<Micros> {
    let text = text.strip_suffix('Z')?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let (date, time) = whole.split_once('T')?;
    let numbers = |part: &str, by: char| -> Option<[u64; 3]> {
        let mut parts = part.split(by).map(|n| n.parse::<u64>().ok());
        let found = [parts.next()??, parts.next()??, parts.next()??];
        parts.next().is_none().then_some(found)
    };
    let [year, month, day] = numbers(date, '-')?;
    let [hour, minute, second] = numbers(time, ':')?;
    let in_range = (1970..10_000).contains(&year) && (1..=12).contains(&month) && (1..=31).contains(&day);
    if !in_range || hour > 23 || minute > 59 || second > 60 || fraction.is_empty() || fraction.len() > 9 {
        return None;
    }
    let digits: u64 = fraction.parse().ok()?;
    let micros = (digits * 10u64.pow(9 - u32::try_from(fraction.len()).ok()?)) / 1000;
    let seconds = ((days_from_civil(year, month, day) * 24 + hour) * 60 + minute) * 60 + second;
    Some(seconds * 1_000_000 + micros)
}

/// Days since 1970-01-01 in the Gregorian calendar (Howard Hinnant, "chrono-Compatible Low-Level Date
/// Algorithms"), for years from 1970 on.
fn days_from_civil(year: u64, month: u64, day: u64) -> u64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year / 400;
    let year_of_era = year - era * 400;
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_rfc3339() {
        assert_eq!(parse_rfc3339("1970-01-01T00:00:00.000Z"), Some(0));
        assert_eq!(parse_rfc3339("2023-11-14T22:13:20.007Z"), Some(1_700_000_000_007_000));
        assert_eq!(parse_rfc3339("2024-02-29T12:00:00Z"), Some(1_709_208_000_000_000));
        for bad in ["", "2023-11-14", "2023-13-14T22:13:20.007Z", "2023-11-14T22:13:20.007+01:00", "x"] {
            assert_eq!(parse_rfc3339(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_time_line_moves_forward() {
        let clock = Clock::start();
        let first = clock.now();
        assert!(clock.now() >= first);
        assert!(clock.stepped_by().abs() < 1_000_000);
    }
}
