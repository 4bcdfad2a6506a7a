//! Keyed timers for an actor.
//!
//! A timer sends the actor a [`Tick`]. A tick that is already in the mailbox when its timer is moved or
//! cancelled cannot be called back, so each carries a generation, and [`Timers::accept`] says whether it
//! still counts. Periodic work re-arms from its handler: an interval would send a burst after a stall.

use ractor::{ActorRef, Message};
use ron_core::time::Millis;
use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;
use tokio::task::AbortHandle;

/// What a timer sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tick<K> {
    /// Which timer.
    pub key: K,
    generation: u64,
}

/// The timers of one actor: at most one a key. Dropping it (the actor died) cancels them all.
#[derive(Debug)]
pub struct Timers<K> {
    armed: HashMap<K, Armed>,
    generation: u64,
}

#[derive(Debug)]
struct Armed {
    generation: u64,
    at: Millis,
    task: AbortHandle,
}

impl Drop for Armed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl<K> Default for Timers<K> {
    fn default() -> Self {
        Self { armed: HashMap::new(), generation: 0 }
    }
}

impl<K: Copy + Eq + Hash + Send + 'static> Timers<K> {
    /// No timers.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sends `wrap(tick)` to `actor` at node time `at`; at once if that is past. Replaces the key's timer.
    pub fn arm<M: Message>(
        &mut self,
        key: K,
        now: Millis,
        at: Millis,
        actor: &ActorRef<M>,
        wrap: impl FnOnce(Tick<K>) -> M + Send + 'static,
    ) {
        self.generation += 1;
        let tick = Tick { key, generation: self.generation };
        let task = actor.send_after(Duration::from_millis(at.since(now)), move || wrap(tick)).abort_handle();
        self.armed.insert(key, Armed { generation: self.generation, at, task });
    }

    /// As [`Timers::arm`], but leaves a timer alone that fires at `at` or before: cheap to call after every
    /// message. A tick may thus come early; the handler looks at what is due and arms again.
    pub fn arm_by<M: Message>(
        &mut self,
        key: K,
        now: Millis,
        at: Millis,
        actor: &ActorRef<M>,
        wrap: impl FnOnce(Tick<K>) -> M + Send + 'static,
    ) {
        if self.armed.get(&key).is_none_or(|armed| armed.at > at) {
            self.arm(key, now, at, actor, wrap);
        }
    }

    /// Cancels the key's timer, if it is armed.
    pub fn cancel(&mut self, key: K) {
        self.armed.remove(&key);
    }

    /// When the key's timer fires, if it is armed.
    #[must_use]
    pub fn armed_at(&self, key: K) -> Option<Millis> {
        self.armed.get(&key).map(|armed| armed.at)
    }

    /// Whether a tick that arrived still counts; if so its timer is spent.
    #[must_use]
    pub fn accept(&mut self, tick: Tick<K>) -> bool {
        let current = self.armed.get(&tick.key).is_some_and(|armed| armed.generation == tick.generation);
        if current {
            self.armed.remove(&tick.key);
        }
        current
    }
}
