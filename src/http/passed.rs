//! The runtime's clock, which a test can pause, in ms since a listener's beginning.

use ron_core::time::Millis;
use std::time::Duration;
use tokio::time::Instant;

/// Counts from when it was made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Passed(Instant);

impl Default for Passed {
    fn default() -> Passed {
        Passed(Instant::now())
    }
}

impl Passed {
    /// How long ago that was.
    pub(super) fn now(&self) -> Millis {
        Millis(u64::try_from(self.0.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    /// The moment `after` it was made.
    pub(super) fn moment(&self, after: Duration) -> Instant {
        self.0 + after
    }
}
