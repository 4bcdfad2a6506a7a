//! Holds a store up after a commit that somebody waits for, so that it can be killed there.

use ron_actors::mailbox::MailboxObserver;
use ron_actors::store::StoreObserver;
use ron_core::ids::QueueKey;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// Whether a commit is the one that is waited for.
type Wanted = Box<dyn Fn() -> bool + Send>;

#[derive(Default)]
struct State {
    /// `None` = it is not armed.
    wanted: Option<Wanted>,
    killed: bool,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("killed", &self.killed).finish_non_exhaustive()
    }
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

    /// Closes after the first commit from now on that is wanted. Asked on the committing thread.
    pub fn arm(&self, wanted: impl Fn() -> bool + Send + 'static) {
        self.lock().wanted = Some(Box::new(wanted));
    }

    /// Waits until it has closed, or for this long.
    pub async fn reached(&self, within: Duration) {
        // Without such a commit the node is killed where it is.
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
        let wanted = state.wanted.as_ref().is_some_and(|wanted| wanted());
        if !(wanted || state.killed) {
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
