//! Node time and how it is written for people (SPEC §1 "node time").

use serde::{Deserialize, Serialize};
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
pub trait Clock: Send + Sync + std::fmt::Debug {
    /// Node time, for stored deadlines.
    fn now(&self) -> Millis;

    /// Wall clock in milliseconds since the Unix epoch, for capability and provider timestamps and audit stamps.
    fn wall(&self) -> Millis;
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
}
