//! How many requests the queues and the store answered and failed, for the brownout sentinel. Only what was verified or
//! authorised comes this far, and nothing that was shed, limited or denied is counted.

use ron_core::reason::{Reason, Refusal};
use std::sync::atomic::{AtomicU64, Ordering};

/// Counts since the last look.
#[derive(Debug, Default)]
pub struct Outcomes {
    answered: AtomicU64,
    failed: AtomicU64,
}

impl Outcomes {
    /// Counts one request, and hands its result on. A refusal that is not a fault counts nowhere.
    pub(super) fn note<T>(&self, result: Result<T, Refusal>) -> Result<T, Refusal> {
        match &result {
            Ok(_) => self.answered.fetch_add(1, Ordering::Relaxed),
            Err(refusal) if is_fault(refusal.reason) => self.failed.fetch_add(1, Ordering::Relaxed),
            Err(_) => 0,
        };
        result
    }

    /// Answered and failed requests since the last call.
    pub fn take(&self) -> (u64, u64) {
        (self.answered.swap(0, Ordering::Relaxed), self.failed.swap(0, Ordering::Relaxed))
    }
}

/// Whether the node is to blame.
fn is_fault(reason: Reason) -> bool {
    matches!(reason, Reason::Storage | Reason::DownstreamUnavailable | Reason::Internal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_answers_and_faults_count() {
        let outcomes = Outcomes::default();
        assert_eq!(outcomes.note(Ok(1)), Ok(1));
        for reason in [Reason::Storage, Reason::DownstreamUnavailable, Reason::Internal] {
            assert!(outcomes.note::<()>(Err(Refusal::new(reason, "x"))).is_err());
        }
        for reason in [Reason::Backpressure, Reason::RateLimit, Reason::Degraded, Reason::PolicyBlocked] {
            assert!(outcomes.note::<()>(Err(Refusal::new(reason, "x"))).is_err());
        }
        assert_eq!(outcomes.take(), (1, 3));
        assert_eq!(outcomes.take(), (0, 0));
    }
}
