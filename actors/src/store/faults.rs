//! Faults of the store's device that an operator puts in force: syncs that take longer, syncs that fail. They are felt
//! where the device's own would be, so that all that follows is the real thing.

use ron_core::fault::Sum;
use std::io;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

#[derive(Debug, Default)]
struct State {
    sum: Sum,
    /// Changes of `sum`: a sync that waits goes on with the next one.
    changes: u64,
    /// Hundredths of a failure that are owed.
    owed: u32,
}

/// See the module. None are in force at first.
#[derive(Debug, Default)]
pub struct DeviceFaults {
    state: Mutex<State>,
    changed: Condvar,
}

impl DeviceFaults {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on these are in force; a sync that waits now waits no longer.
    pub fn set(&self, sum: Sum) {
        let mut state = self.state();
        state.sum = sum;
        state.changes += 1;
        drop(state);
        self.changed.notify_all();
    }

    /// What a sync meets before it reaches the device. Blocks.
    ///
    /// # Errors
    /// EIO, evenly spread, for as many as are in force.
    pub(super) fn before_sync(&self) -> io::Result<()> {
        const EIO: i32 = 5;
        let mut state = self.state();
        if state.sum.latency_ms > 0 {
            let (wait, changes) = (Duration::from_millis(state.sum.latency_ms), state.changes);
            let waited = self.changed.wait_timeout_while(state, wait, |state| state.changes == changes);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        state.owed += u32::from(state.sum.error_percent);
        if state.owed < 100 {
            return Ok(());
        }
        state.owed -= 100;
        Err(io::Error::from_raw_os_error(EIO))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn as_many_syncs_fail_as_are_told() {
        let faults = DeviceFaults::default();
        let failed = |faults: &DeviceFaults| (0..100).filter(|_| faults.before_sync().is_err()).count();
        assert_eq!(failed(&faults), 0);
        for percent in [5, 33, 100] {
            faults.set(Sum { error_percent: percent, ..Sum::default() });
            assert_eq!(failed(&faults), usize::from(percent));
        }
        faults.set(Sum::default());
        assert_eq!(failed(&faults), 0);
    }

    #[test]
    fn a_sync_that_waits_goes_on_when_the_fault_is_cleared() {
        let faults = Arc::new(DeviceFaults::default());
        faults.set(Sum { latency_ms: 600_000, ..Sum::default() });
        let waiting = std::thread::spawn({
            let faults = faults.clone();
            move || faults.before_sync()
        });
        while !waiting.is_finished() {
            faults.set(Sum::default());
            std::thread::yield_now();
        }
        waiting.join().unwrap().unwrap();
    }
}
