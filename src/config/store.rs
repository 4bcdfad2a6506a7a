//! `[store]`: the database file.

use super::read::Section;
use super::units::ByteSize;
use ron_core::objects::ObjectLimits;
use std::path::PathBuf;
use std::time::Duration;

/// `[store]`.
#[derive(Debug, Clone)]
pub struct StoreConfig {
    /// Of the database's pages.
    pub cache: ByteSize,
    /// Bytes of the journal of a store that is made; 0 = none. A start reads it whole.
    pub journal: ByteSize,
    /// Two fsyncs a commit to the tables.
    pub two_phase_commit: bool,
    /// Free space below which sends are refused.
    pub reserve: ByteSize,
    /// Free bytes of the file that a node gives back when it stops; 0 = never.
    pub compact_free: ByteSize,
    /// Bytes of messages that are kept in memory alone.
    pub ram_bytes: ByteSize,
    /// Kept allocated in the store's file ahead of what is written, so that settling goes on when the disk is full.
    pub ballast: ByteSize,
    /// Most live idempotency keys of the node.
    pub max_dedup_keys: u64,
    /// How much objects may be.
    pub objects: ObjectLimits,
    /// Where snapshots go; `None` = below the data directory.
    pub snapshot_dir: Option<PathBuf>,
    /// How often one is taken.
    pub snapshot_every: Duration,
    /// How many are kept.
    pub snapshot_keep: u32,
    /// How often every record is read.
    pub scrub_every: Duration,
}

impl StoreConfig {
    pub(super) fn read(s: &Section<'_, '_>, amnesia: bool) -> StoreConfig {
        let (minute, year) = (Duration::from_secs(60), Duration::from_secs(365 * 86_400));
        let snapshot_dir = s.path_opt("snapshot_dir");
        if amnesia && snapshot_dir.is_some() {
            s.problem("snapshot_dir", "cannot be used with node.amnesia: it would be written to", None);
        }
        StoreConfig {
            cache: s.size("cache", 1 << 20..=1 << 40),
            journal: s.size("journal", 0..=64 << 20),
            two_phase_commit: s.boolean("two_phase_commit"),
            reserve: s.size("reserve", 0..=1 << 50),
            compact_free: s.size("compact_free", 0..=1 << 50),
            ram_bytes: s.size("ram_bytes", 0..=1 << 40),
            ballast: s.size("ballast", 0..=1 << 40),
            max_dedup_keys: s.integer("max_dedup_keys", 1..=1_000_000_000),
            objects: ObjectLimits {
                bytes: s.size("objects_bytes", 0..=1 << 50).0,
                count: s.integer("max_objects", 0..=100_000_000),
                tenant_bytes: s.size("tenant_objects_bytes", 0..=1 << 50).0,
                tenant_count: s.integer("tenant_objects", 0..=100_000_000),
            },
            snapshot_dir,
            snapshot_every: s.duration("snapshot_every", minute..=year),
            snapshot_keep: s.integer("snapshot_keep", 1..=10_000),
            scrub_every: s.duration("scrub_every", minute..=year),
        }
    }
}
