//! The only place of ronctl that reads a clock or a random source. Nothing is decided here.

use crate::failure::{Failure, failed};
use ron_actors::entropy::{Entropy, OsEntropy};
use ron_core::time::Millis;
use std::time::{Duration, Instant, SystemTime};

/// The monotonic clock, for measuring.
#[must_use]
#[allow(clippy::disallowed_methods)] // a command line tool's edge: there is no caller to take it from
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// The wall clock.
#[must_use]
#[allow(clippy::disallowed_methods)] // as above
pub(crate) fn wall() -> Millis {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Seconds since the Unix epoch, for the timestamps that providers sign.
#[must_use]
pub(crate) fn unix_seconds() -> i64 {
    i64::try_from(wall().0 / 1000).unwrap_or(i64::MAX)
}

/// Processor time that this process has used.
#[must_use]
pub(crate) fn own_cpu() -> Duration {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::try_from(used).unwrap_or_default()
}

/// Fresh random bytes, for throw-away keys and payloads.
///
/// # Errors
/// If the system gives none.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], Failure> {
    let mut bytes = [0; N];
    OsEntropy.fill(&mut bytes).map_err(|none| failed(none.to_string()))?;
    Ok(bytes)
}

/// Milliseconds of `span` with a fraction, for people.
#[must_use]
pub(crate) fn millis(span: Duration) -> f64 {
    span.as_secs_f64() * 1e3
}
