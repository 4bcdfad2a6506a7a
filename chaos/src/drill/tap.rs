//! Holds a store up after a number of commits, so that it can be killed there.

use ron_actors::mailbox::MailboxObserver;
use ron_actors::store::StoreObserver;
use ron_core::ids::QueueKey;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

#[derive(Debug, Default)]
struct State {
    /// Commits until it closes; `None` = it is not armed.
    left: Option<usize>,
    killed: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Tap {
    state: Mutex<State>,
    changed: Condvar,
    closed: Notify,
}

impl Tap {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes after this many commits more.
    pub fn arm(&self, commits: usize) {
        self.lock().left = Some(commits);
    }

    /// Waits until it has closed, or for this long.
    pub async fn reached(&self, within: Duration) {
        // Without enough commits the node is killed idle.
        let _ = tokio::time::timeout(within, self.closed.notified()).await;
    }

    /// Ends the thread that is held up, and every one that commits after it.
    pub fn kill(&self) {
        self.lock().killed = true;
        self.changed.notify_all();
    }
}

impl StoreObserver for Tap {
    fn committed(&self, _: f64, _: usize) {
        let mut state = self.lock();
        let Some(left) = state.left.as_mut() else { return };
        *left = left.saturating_sub(1);
        if *left > 0 {
            return;
        }
        self.closed.notify_one();
        while !state.killed {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        drop(state);
        // As the kill of a process would: what comes after the commit does not happen. No panic hook is called.
        std::panic::resume_unwind(Box::new(()));
    }

    fn failed(&self) {}
}

impl MailboxObserver for Tap {
    fn delivered(&self, _: f64) {}
    fn integrity_failed(&self) {}
    fn dead_lettered(&self, _: &QueueKey, _: u64) {}
    fn requeued(&self, _: &QueueKey, _: u64) {}
}
