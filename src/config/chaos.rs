//! `[chaos]`: whether drills may inject faults.

use super::read::Section;

/// `[chaos]`.
#[derive(Debug, Clone, Copy)]
pub struct ChaosConfig {
    /// Whether they may.
    pub enabled: bool,
}

impl ChaosConfig {
    pub(super) fn read(s: &Section<'_, '_>) -> ChaosConfig {
        ChaosConfig { enabled: s.boolean("enabled") }
    }
}
