//! What a consumer holds, and for how long it may go on holding it. Knows no clock: it counts heartbeats.

use ron_core::receipt::Receipt;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The leases of a consumer.
#[derive(Debug)]
pub(super) struct Leases {
    beats_max: u32,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    next: u64,
    leases: BTreeMap<u64, Lease>,
}

#[derive(Debug)]
struct Lease {
    receipt: Receipt,
    beats: u32,
    lost: Arc<AtomicBool>,
}

impl Leases {
    /// None; each is extended that many times at most.
    pub(super) fn new(beats_max: u32) -> Leases {
        Leases { beats_max, held: Mutex::default() }
    }

    /// One more: its number, and whether it was lost, as time goes on.
    pub(super) fn add(&self, receipt: Receipt) -> (u64, Arc<AtomicBool>) {
        let mut held = self.held();
        held.next += 1;
        let (serial, lost) = (held.next, Arc::new(AtomicBool::new(false)));
        held.leases.insert(serial, Lease { receipt, beats: 0, lost: Arc::clone(&lost) });
        (serial, lost)
    }

    /// It is settled, or nobody wants it.
    pub(super) fn end(&self, serial: u64) {
        self.held().leases.remove(&serial);
    }

    /// The delivery is no longer this consumer's.
    pub(super) fn lost(&self, serial: u64) {
        if let Some(lease) = self.held().leases.remove(&serial) {
            lease.lost.store(true, Ordering::Release);
        }
    }

    /// A heartbeat: those to be extended now. Those that were held for too long are let go.
    pub(super) fn due(&self) -> Vec<(u64, Receipt)> {
        let mut held = self.held();
        let max = self.beats_max;
        held.leases.retain(|_, lease| {
            lease.beats += 1;
            let goes_on = lease.beats <= max;
            if !goes_on {
                lease.lost.store(true, Ordering::Release);
            }
            goes_on
        });
        held.leases.iter().map(|(serial, lease)| (*serial, lease.receipt)).collect()
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_are_extended_until_they_end_are_lost_or_old() {
        let leases = Leases::new(2);
        let receipt = |n| Receipt::from_bytes([n; 28]);
        let (first, first_lost) = leases.add(receipt(1));
        assert_eq!(leases.due(), [(first, receipt(1))]);
        let (second, second_lost) = leases.add(receipt(2));
        let (third, third_lost) = leases.add(receipt(3));
        leases.end(third);
        assert_eq!(leases.due(), [(first, receipt(1)), (second, receipt(2))]);
        assert_eq!(leases.due(), [(second, receipt(2))], "two beats are all that the first gets");
        assert!(first_lost.load(Ordering::Acquire) && !second_lost.load(Ordering::Acquire));
        leases.lost(second);
        assert!(second_lost.load(Ordering::Acquire) && leases.due().is_empty());
        assert!(!third_lost.load(Ordering::Acquire), "what was settled was not lost");
    }
}
