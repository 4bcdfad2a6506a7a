//! When a delivery that failed is tried again.

use super::outcome::{Failure, Outcome};
use crate::time::Millis;
use time::format_description::BorrowedFormatItem;
use time::format_description::well_known::Rfc2822;
use time::macros::format_description;
use time::{OffsetDateTime, PrimitiveDateTime};

/// Most attempts that a schedule may have: the delays and the first.
pub const ATTEMPTS_MAX: usize = 20;
/// After 429 and a timeout at least this long, ms: the endpoint has too much to do.
const SLOW_MS_MIN: u64 = 60_000;
/// Jitter, per cent either way. Full jitter would halve the 27 hours that an outage may take.
const JITTER_PERCENT: u64 = 20;

/// The delays between attempts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    delays_ms: Vec<u64>,
}

impl Default for Schedule {
    /// As Svix: 5 s, 5 min, 30 min, 2 h, 5 h, 10 h, 10 h; eight attempts in 27.6 hours.
    fn default() -> Schedule {
        let s = 1_000;
        Schedule { delays_ms: [5, 300, 1_800, 7_200, 18_000, 36_000, 36_000].map(|n| n * s).to_vec() }
    }
}

impl Schedule {
    /// A schedule of one's own, ms.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn new(delays_ms: Vec<u64>) -> Result<Schedule, &'static str> {
        const DAY_MS: u64 = 86_400_000;
        if delays_ms.len() >= ATTEMPTS_MAX {
            return Err("must hold at most 19 delays");
        }
        if delays_ms.iter().any(|ms| !(1..=2 * DAY_MS).contains(ms)) {
            return Err("must hold delays of 1 ms to 2 days");
        }
        Ok(Schedule { delays_ms })
    }

    /// How often a message is tried, all in all.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        u32::try_from(self.delays_ms.len() + 1).unwrap_or(u32::MAX)
    }

    /// How long to wait after attempt number `attempt` (from 1) failed, ms; `None` = that was the last. `wants_ms` is
    /// what the endpoint asked for, kept between the scheduled delay and twice it. `random` is any number.
    #[must_use]
    pub fn delay_ms(
        &self,
        attempt: u32,
        outcome: Outcome,
        wants_ms: Option<u64>,
        random: u64,
    ) -> Option<u64> {
        let base = *self.delays_ms.get((attempt.max(1) - 1) as usize)?;
        let slow = matches!(outcome, Outcome::Failed(Failure::Status(429) | Failure::Timeout(_)));
        let delay = match wants_ms {
            Some(wants) => wants.clamp(base, base.saturating_mul(2)),
            None => jittered(base, random),
        };
        Some(if slow { delay.max(SLOW_MS_MIN) } else { delay })
    }
}

fn jittered(base: u64, random: u64) -> u64 {
    let spread = base * JITTER_PERCENT / 100;
    base - spread + random % (2 * spread + 1)
}

/// What a `Retry-After` header asks for, in ms from `wall`: seconds, or a date (RFC 9110 §10.2.3). `None` = neither.
#[must_use]
pub fn retry_after_ms(value: &str, wall: Millis) -> Option<u64> {
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) {
        // more digits than fit ask for a very long time
        return Some(value.parse::<u64>().unwrap_or(u64::MAX).saturating_mul(1000));
    }
    let unix_ms = u64::try_from(http_date(value)?.unix_timestamp()).ok()?.saturating_mul(1000);
    Some(Millis(unix_ms).since(wall))
}

/// A date in one of the three forms of RFC 9110 §5.6.7.
fn http_date(text: &str) -> Option<OffsetDateTime> {
    const RFC_850: &[BorrowedFormatItem<'_>] =
        format_description!("[weekday], [day]-[month repr:short]-[year] [hour]:[minute]:[second] GMT");
    const ASCTIME: &[BorrowedFormatItem<'_>] = format_description!(
        "[weekday repr:short] [month repr:short] [day padding:space] [hour]:[minute]:[second] [year]"
    );
    let local = match (text.ends_with(" GMT"), with_century(text)) {
        (true, Some(full)) => PrimitiveDateTime::parse(&full, RFC_850),
        (true, None) => return OffsetDateTime::parse(text, &Rfc2822).ok(),
        (false, _) => PrimitiveDateTime::parse(text, ASCTIME),
    };
    local.ok().map(PrimitiveDateTime::assume_utc)
}

/// `Sunday, 06-Nov-94 …` with the year written out: two digits mean this century.
fn with_century(text: &str) -> Option<String> {
    let (weekday, rest) = text.split_once(' ')?;
    let (date, clock) = rest.split_once(' ')?;
    let (day, year) = date.rsplit_once('-')?;
    (year.len() == 2).then(|| format!("{weekday} {day}-20{year} {clock}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::egress::outcome::Phase;
    use proptest::prelude::*;

    const DOWN: Outcome = Outcome::Failed(Failure::Status(503));

    #[test]
    fn the_default_is_eight_attempts_in_27_hours() {
        let schedule = Schedule::default();
        assert_eq!(schedule.attempts(), 8);
        let middle = |attempt| {
            let base = schedule.delays_ms[attempt as usize - 1];
            schedule.delay_ms(attempt, DOWN, None, base * JITTER_PERCENT / 100)
        };
        let total: u64 = (1..8).map(|attempt| middle(attempt).unwrap()).sum();
        assert_eq!(total, 99_305_000);
        assert_eq!(middle(1), Some(5_000));
        assert_eq!(schedule.delay_ms(8, DOWN, None, 0), None);
        assert_eq!(schedule.delay_ms(u32::MAX, DOWN, Some(1), 0), None);
        assert_eq!(schedule.delay_ms(0, DOWN, Some(1), 0), Some(5_000), "a lost count is the first");
    }

    #[test]
    fn who_has_too_much_to_do_gets_a_minute() {
        let schedule = Schedule::default();
        for failure in [Failure::Status(429), Failure::Timeout(Phase::Http), Failure::Timeout(Phase::Tcp)] {
            let delay = schedule.delay_ms(1, Outcome::Failed(failure), None, 3).unwrap();
            assert_eq!(delay, 60_000, "{failure:?}");
            assert_eq!(schedule.delay_ms(1, Outcome::Failed(failure), Some(7_000), 3), Some(60_000));
        }
        assert!(schedule.delay_ms(1, DOWN, None, 3).unwrap() < 60_000);
    }

    #[test]
    fn what_the_endpoint_asks_for_is_clamped() {
        let schedule = Schedule::default();
        for (wants, gets) in [(0, 300_000), (299_999, 300_000), (400_000, 400_000), (u64::MAX, 600_000)] {
            assert_eq!(schedule.delay_ms(2, DOWN, Some(wants), 9), Some(gets));
        }
    }

    #[test]
    fn retry_after_in_all_its_forms() {
        let wall = Millis(784_111_777_000); // Sun, 06 Nov 1994 08:49:37 GMT
        for (value, expect) in [
            ("120", Some(120_000)),
            (" 0 ", Some(0)),
            ("99999999999999999999999", Some(u64::MAX)),
            ("Sun, 06 Nov 1994 08:50:37 GMT", Some(60_000)),
            ("Sun Nov  6 08:49:47 1994", Some(10_000)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
            ("Sunday, 06-Nov-94 08:49:37 GMT", Some(3_155_760_000_000)),
            ("", None),
            ("-1", None),
            ("1.5", None),
            ("soon", None),
            ("Sun, 36 Nov 1994 08:49:37 GMT", None),
        ] {
            assert_eq!(retry_after_ms(value, wall), expect, "{value}");
        }
    }

    #[test]
    fn a_schedule_of_ones_own_has_bounds() {
        assert_eq!(Schedule::new(Vec::new()).unwrap().attempts(), 1);
        assert!(Schedule::new(vec![1; 19]).is_ok());
        for bad in [vec![1; 20], vec![0], vec![172_800_001]] {
            assert!(Schedule::new(bad).is_err());
        }
    }

    proptest! {
        /// Whatever is asked and drawn: between four fifths of the scheduled delay and twice it, and never none before
        /// the last attempt.
        #[test]
        fn delays_stay_in_their_bounds(
            delays in prop::collection::vec(1_u64..172_800_000, 0..19), attempt in 0_u32..25,
            wants in prop::option::of(any::<u64>()), random in any::<u64>(),
        ) {
            let schedule = Schedule::new(delays.clone()).unwrap();
            let base = delays.get((attempt.max(1) - 1) as usize).copied();
            let delay = schedule.delay_ms(attempt, DOWN, wants, random);
            prop_assert_eq!(delay.is_some(), base.is_some());
            if let (Some(delay), Some(base)) = (delay, base) {
                let least = if wants.is_some() { base } else { base - base / 5 };
                prop_assert!((least..=base * 2).contains(&delay), "{} of {}", delay, base);
            }
        }

        #[test]
        fn no_header_is_too_odd(value in "\\PC{0,60}") {
            let _ = retry_after_ms(&value, Millis(784_111_777_000));
        }
    }
}
