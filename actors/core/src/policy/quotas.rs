//! What a tenant may use, and what a preset makes of it for a while.

use crate::limit::Rate;

/// The limit that is none.
pub const UNLIMITED: u64 = u64::MAX;

/// A `[tenant.<name>]` table as written; `None` = not said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct QuotaTable {
    pub(super) rps: Option<u64>,
    pub(super) burst: Option<u64>,
    pub(super) bytes_per_s: Option<u64>,
    pub(super) max_inflight: Option<u64>,
    pub(super) max_depth: Option<u64>,
    pub(super) max_topics: Option<u64>,
    pub(super) weight: Option<u64>,
}

/// What one tenant may use. [`UNLIMITED`] is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quotas {
    /// Requests a second; settling is not counted.
    pub rps: u64,
    /// Requests saved up.
    pub burst: u64,
    /// Payload bytes a second, of messages sent.
    pub bytes_per_s: u64,
    /// Bytes saved up.
    pub bytes_burst: u64,
    /// Messages in flight, all topics together.
    pub max_inflight: u64,
    /// Messages ready, delayed or in flight, all topics together.
    pub max_depth: u64,
    /// Topics that exist.
    pub max_topics: u64,
    /// Share of the store when it is the bottleneck: 1..=1000, and more under a preset.
    pub weight: u32,
}

impl Default for Quotas {
    fn default() -> Quotas {
        Quotas::of(None, None)
    }
}

impl Quotas {
    pub(super) fn of(own: Option<&QuotaTable>, default: Option<&QuotaTable>) -> Quotas {
        let said = |key: fn(&QuotaTable) -> Option<u64>| own.and_then(key).or_else(|| default.and_then(key));
        let limit = |key| said(key).unwrap_or(UNLIMITED);
        let rps = limit(|table| table.rps);
        let bytes_per_s = limit(|table| table.bytes_per_s);
        Quotas {
            rps,
            burst: said(|table| table.burst).unwrap_or(rps),
            bytes_per_s,
            bytes_burst: bytes_per_s,
            max_inflight: limit(|table| table.max_inflight),
            max_depth: limit(|table| table.max_depth),
            max_topics: limit(|table| table.max_topics),
            weight: said(|table| table.weight).and_then(|weight| u32::try_from(weight).ok()).unwrap_or(1),
        }
    }

    /// The same under a preset.
    #[must_use]
    pub fn under(mut self, preset: Preset) -> Quotas {
        let times = u64::from(preset.burst_times);
        self.burst = self.burst.saturating_mul(times);
        self.bytes_burst = self.bytes_burst.saturating_mul(times);
        self.weight = self.weight.saturating_mul(preset.quantum_times);
        self
    }

    /// The rate of requests, if there is one.
    #[must_use]
    pub fn request_rate(&self) -> Option<Rate> {
        (self.rps != UNLIMITED).then_some(Rate { per_second: self.rps, burst: self.burst })
    }

    /// The rate of bytes, if there is one.
    #[must_use]
    pub fn byte_rate(&self) -> Option<Rate> {
        (self.bytes_per_s != UNLIMITED)
            .then_some(Rate { per_second: self.bytes_per_s, burst: self.bytes_burst })
    }
}

/// What is relaxed while a preset is in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Preset {
    /// Every tenant's share of a round of the store, times this.
    pub quantum_times: u32,
    /// What every tenant may save up, of requests and bytes, times this.
    pub burst_times: u32,
}

impl Preset {
    /// The built-in `brownout-1`.
    pub const BROWNOUT: Preset = Preset { quantum_times: 4, burst_times: 2 };
}
