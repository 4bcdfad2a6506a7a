//! Connections that have proven nothing yet. When there are too many connections, the oldest of them that waits for its
//! peer gives way to the newcomer; one on which a webhook or a call was accepted never does.

use crate::http::passed::Passed;
use ron_core::crowd::{Crowd, Place};
use ron_core::time::Millis;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio_util::sync::CancellationToken;

/// The strangers of a listener.
#[derive(Debug, Default)]
pub(super) struct Strangers {
    crowd: Mutex<Crowd<CancellationToken>>,
    passed: Passed,
}

impl Strangers {
    fn crowd(&self) -> MutexGuard<'_, Crowd<CancellationToken>> {
        self.crowd.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Millis {
        self.passed.now()
    }

    /// A connection comes.
    pub(super) fn join(self: &Arc<Strangers>) -> Standing {
        let gone = CancellationToken::new();
        let place = self.crowd().join(self.now(), gone.clone());
        let strangers = Arc::clone(self);
        Standing(Arc::new(Inner { strangers, place, gone, proven: AtomicBool::new(false) }))
    }

    /// Ends the oldest connection that waits; false if there is none.
    pub(super) fn give_way(&self) -> bool {
        let gone = self.crowd().give_way(self.now());
        gone.inspect(CancellationToken::cancel).is_some()
    }
}

/// How a connection stands; each of its requests has it among its extensions.
#[derive(Debug, Clone)]
pub(super) struct Standing(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    strangers: Arc<Strangers>,
    place: Place,
    gone: CancellationToken,
    proven: AtomicBool,
}

impl Standing {
    /// Cancelled when it has to end.
    pub(super) fn gone(&self) -> &CancellationToken {
        &self.0.gone
    }

    /// Something was accepted on it: it is no stranger from now on.
    pub(super) fn prove(&self) {
        if !self.0.proven.swap(true, Ordering::Relaxed) {
            self.0.strangers.crowd().leave(self.0.place);
        }
    }

    fn proven(&self) -> bool {
        self.0.proven.load(Ordering::Relaxed)
    }

    /// A request of it is being worked on, until this is dropped.
    pub(super) fn working(&self) -> Working {
        if !self.proven() {
            self.0.strangers.crowd().begin(self.0.place);
        }
        Working(self.clone())
    }

    /// A request that is being worked on waits for its peer again, until this is dropped.
    pub(super) fn waiting(&self) -> Waiting {
        if !self.proven() {
            self.0.strangers.crowd().end(self.0.place);
        }
        Waiting(self.clone())
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if !self.proven.load(Ordering::Relaxed) {
            self.strangers.crowd().leave(self.place);
        }
    }
}

/// See [`Standing::working`].
#[derive(Debug)]
pub(super) struct Working(Standing);

impl Drop for Working {
    fn drop(&mut self) {
        if !self.0.proven() {
            self.0.0.strangers.crowd().end(self.0.0.place);
        }
    }
}

/// See [`Standing::waiting`].
#[derive(Debug)]
pub(super) struct Waiting(Standing);

impl Drop for Waiting {
    fn drop(&mut self) {
        if !self.0.proven() {
            self.0.0.strangers.crowd().begin(self.0.0.place);
        }
    }
}
