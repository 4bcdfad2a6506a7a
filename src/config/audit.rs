//! `[audit]`: the audit log.

use super::read::Section;
use super::units::ByteSize;

/// `[audit]`.
#[derive(Debug, Clone, Copy)]
pub struct AuditConfig {
    /// Records that wait to be written; further ones are dropped and counted.
    pub queue: u32,
    /// Kinds of use that are counted apart; further ones are counted together.
    pub uses: u32,
    /// The newest records, in memory.
    pub ring: ByteSize,
    /// Length of a file, after which the next is begun.
    pub file: ByteSize,
    /// Files that are kept.
    pub keep: u32,
}

impl AuditConfig {
    pub(super) fn read(s: &Section<'_, '_>) -> AuditConfig {
        AuditConfig {
            queue: s.integer("queue", 1..=1_000_000),
            uses: s.integer("uses", 8..=10_000_000),
            ring: s.size("ring", 4 << 10..=1 << 30),
            file: s.size("file", 64 << 10..=1 << 30),
            keep: s.integer("keep", 2..=1_000_000),
        }
    }
}
