//! `[metrics]`: how many series there may be.

use super::read::Section;

/// `[metrics]`.
#[derive(Debug, Clone, Copy)]
pub struct MetricsConfig {
    /// Queues with series of their own; the rest are counted as `other`.
    pub max_queues: u32,
}

impl MetricsConfig {
    pub(super) fn read(s: &Section<'_, '_>) -> MetricsConfig {
        MetricsConfig { max_queues: s.integer("max_queues", 1..=1_000_000) }
    }
}
