//! The only place of ronctl that reads a clock or a random source. Nothing is decided here.

use std::time::{Duration, Instant};

/// The monotonic clock, for measuring.
#[must_use]
#[allow(clippy::disallowed_methods)] // a command line tool's edge: there is no caller to take it from
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Seconds since the Unix epoch, for the timestamps that providers sign.
#[must_use]
#[allow(clippy::disallowed_methods)] // as above
pub(crate) fn unix_seconds() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// Processor time that this process has used.
#[must_use]
pub(crate) fn own_cpu() -> Duration {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::try_from(used).unwrap_or_default()
}

/// Fresh random bytes, for throw-away keys and payloads.
#[must_use]
pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    rand::fill(&mut bytes[..]);
    bytes
}

/// Milliseconds of `span` with a fraction, for people.
#[must_use]
pub(crate) fn millis(span: Duration) -> f64 {
    span.as_secs_f64() * 1e3
}
