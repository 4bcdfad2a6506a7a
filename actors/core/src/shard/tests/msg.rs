//! One message, as the model sees it.

use crate::message::{Settled, StoredAt};
use crate::shard::Settings;

pub(super) const NEVER: u64 = u64::MAX;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Ready,
    Leased,
    Delayed,
    Dead,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct M {
    pub(super) place: Place,
    /// Leased, as far as the disk knows, but its deadline has passed: it is ready.
    pub(super) timed_out: bool,
    pub(super) at: u64,
    pub(super) enqueued: u64,
    pub(super) since: u64,
    pub(super) expires: u64,
    pub(super) len: u64,
    pub(super) attempt: u32,
    pub(super) delivery: u32,
    pub(super) settled: Settled,
    pub(super) noted: bool,
    pub(super) group: u64,
    /// Whose delivery it is while it is in flight.
    pub(super) stream: Option<u64>,
    /// Who stands before whom: given when a message comes, and anew when it is reprocessed.
    pub(super) rank: u64,
    /// Of the newest reprocessing: when, and the deliveries before.
    pub(super) revived: Option<(u64, u32)>,
    /// Reason, last error.
    pub(super) letter: Option<(String, Option<String>)>,
}

impl M {
    pub(super) fn is_ready(&self) -> bool {
        self.place == Place::Ready || self.timed_out
    }

    pub(super) fn in_flight(&self) -> bool {
        self.place == Place::Leased && !self.timed_out
    }

    /// What its age is counted from.
    pub(super) fn lives_since(&self) -> u64 {
        self.revived.map_or(self.enqueued, |(at, _)| at)
    }

    /// When it ends if it stays as it is.
    pub(super) fn ends(&self, settings: &Settings) -> u64 {
        match self.place {
            Place::Dead => self.at + settings.dlq_retention_ms,
            _ if self.is_ready() => self.expires.min(self.since + settings.retention_ms),
            _ => NEVER,
        }
    }
}

/// One that the store has just written.
pub(super) fn fresh(s: &StoredAt) -> M {
    M {
        place: if s.due.is_some() { Place::Delayed } else { Place::Ready },
        timed_out: false,
        at: s.due.map_or(0, |due| due.0),
        enqueued: s.enqueued.0,
        since: s.due.unwrap_or(s.enqueued).0,
        expires: s.expires.map_or(NEVER, |expires| expires.0),
        len: u64::from(s.len),
        attempt: 0,
        delivery: 0,
        settled: Settled::No,
        noted: false,
        group: s.group,
        stream: None,
        rank: 0,
        revived: None,
        letter: None,
    }
}
