//! The figures of one queue, readable at any moment without asking its actor.

use ron_core::shard::{Counts, Stats};
use ron_core::time::Millis;
use std::sync::atomic::{AtomicU64, Ordering};

/// See [`QueueFigures::set_due`].
const NOTHING_DUE: u64 = u64::MAX;

/// Counters of a queue since the node started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QueueCounters {
    /// Messages stored.
    pub enqueued: u64,
    /// See [`Counts`].
    pub counts: Counts,
}

/// Depths of a queue.
#[derive(Debug, Default)]
struct Depths {
    ready: AtomicU64,
    delayed: AtomicU64,
    vis: AtomicU64,
    dlq: AtomicU64,
    waiters: AtomicU64,
    /// Enqueue time of the oldest ready message; 0 = none.
    oldest: AtomicU64,
}

impl Depths {
    fn get(&self) -> Stats {
        let get = |figure: &AtomicU64| figure.load(Ordering::Relaxed);
        let oldest = get(&self.oldest);
        Stats {
            ready: get(&self.ready),
            delayed: get(&self.delayed),
            vis: get(&self.vis),
            dlq: get(&self.dlq),
            oldest_enqueued: (oldest > 0).then_some(Millis(oldest)),
            waiters: get(&self.waiters),
        }
    }

    fn set(&self, stats: &Stats) {
        let set = |figure: &AtomicU64, value| figure.store(value, Ordering::Relaxed);
        set(&self.ready, stats.ready);
        set(&self.delayed, stats.delayed);
        set(&self.vis, stats.vis);
        set(&self.dlq, stats.dlq);
        set(&self.waiters, stats.waiters);
        set(&self.oldest, stats.oldest_enqueued.map_or(0, |at| at.0));
    }
}

/// Depths and counters, written by the shard's actor.
#[derive(Debug, Default)]
pub struct QueueFigures {
    /// What is shown: nothing of it rests on a commit that is owed.
    committed: Depths,
    /// What the actor has to look after, commits that are owed included.
    applied: Depths,
    enqueued: AtomicU64,
    delivered: AtomicU64,
    acked: AtomicU64,
    timeouts: AtomicU64,
    requeued_visibility: AtomicU64,
    requeued_release: AtomicU64,
    requeued_retry: AtomicU64,
    dead: AtomicU64,
    expired: AtomicU64,
    purged: AtomicU64,
    revived: AtomicU64,
    dead_again: AtomicU64,
    /// While the shard is not in memory: when time next does something to it; [`NOTHING_DUE`] = nothing, 0 = its
    /// actor had it in memory last, and knows.
    due: AtomicU64,
}

impl QueueFigures {
    /// The depths, as far as they are committed.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.committed.get()
    }

    /// The depths once all commits that are owed are done.
    #[must_use]
    pub fn applied(&self) -> Stats {
        self.applied.get()
    }

    /// The counters.
    #[must_use]
    pub fn counters(&self) -> QueueCounters {
        let get = |figure: &AtomicU64| figure.load(Ordering::Relaxed);
        QueueCounters {
            enqueued: get(&self.enqueued),
            counts: Counts {
                delivered: get(&self.delivered),
                acked: get(&self.acked),
                timeouts: get(&self.timeouts),
                requeued_visibility: get(&self.requeued_visibility),
                requeued_release: get(&self.requeued_release),
                requeued_retry: get(&self.requeued_retry),
                dead: get(&self.dead),
                expired: get(&self.expired),
                purged: get(&self.purged),
                revived: get(&self.revived),
                dead_again: get(&self.dead_again),
            },
        }
    }

    /// These depths are in the store.
    pub(crate) fn set_committed(&self, stats: &Stats) {
        self.committed.set(stats);
    }

    /// These depths are the actor's, whatever is owed.
    pub(crate) fn set_applied(&self, stats: &Stats) {
        self.applied.set(stats);
    }

    pub(crate) fn count(&self, counts: &Counts) {
        let add = |figure: &AtomicU64, n| {
            if n > 0 {
                figure.fetch_add(n, Ordering::Relaxed);
            }
        };
        add(&self.delivered, counts.delivered);
        add(&self.acked, counts.acked);
        add(&self.timeouts, counts.timeouts);
        add(&self.requeued_visibility, counts.requeued_visibility);
        add(&self.requeued_release, counts.requeued_release);
        add(&self.requeued_retry, counts.requeued_retry);
        add(&self.dead, counts.dead);
        add(&self.expired, counts.expired);
        add(&self.purged, counts.purged);
        add(&self.revived, counts.revived);
        add(&self.dead_again, counts.dead_again);
    }

    /// The shard is not in memory, and says when time next does something to it; `None` = never.
    pub(crate) fn set_due(&self, at: Option<Millis>) {
        self.due.store(at.map_or(NOTHING_DUE, |at| at.0.max(1)), Ordering::Relaxed);
    }

    /// The shard is in memory: its actor knows when something is due.
    pub(crate) fn set_in_memory(&self) {
        self.due.store(0, Ordering::Relaxed);
    }

    /// Whether only the shard in memory knows when time does something to it. To an actor that starts it says that
    /// the one before it died with that knowledge, perhaps before it wrote any figure.
    pub(crate) fn is_in_memory(&self) -> bool {
        self.due.load(Ordering::Relaxed) == 0
    }

    /// Whether a shard that is not in memory must be brought there by now.
    pub(crate) fn is_due(&self, now: Millis) -> bool {
        let due = self.due.load(Ordering::Relaxed);
        due > 0 && due <= now.0
    }

    pub(crate) fn count_enqueued(&self, n: u64) {
        self.enqueued.fetch_add(n, Ordering::Relaxed);
    }
}
