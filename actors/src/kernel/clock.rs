//! The clocks of the shell: the only place that asks the operating system for the time.

use ron_core::time::{Clock, Millis};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

/// The node's clock (SPEC §1 "node time"): set once at start, then carried by CLOCK_BOOTTIME, which also runs
/// while the machine sleeps and which no step of the wall clock moves.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock {
    start: Millis,
    boot_at_start: Duration,
}

impl SystemClock {
    /// A clock that goes on from the later of the wall clock and `last_saved`, the node time of the last
    /// commit ([`Millis`]`(0)` for a new store). So node time never falls, even across restarts.
    #[must_use]
    pub fn starting_from(last_saved: Millis) -> Self {
        Self { start: wall_now().max(last_saved), boot_at_start: boot_time() }
    }

    /// Node time at construction.
    #[must_use]
    pub fn started_at(&self) -> Millis {
        self.start
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Millis {
        self.start.plus(to_ms(boot_time().saturating_sub(self.boot_at_start)))
    }

    fn wall(&self) -> Millis {
        wall_now()
    }
}

/// The clock of a node whose start may have met a [`ron_core::time::ClockGap`]: nothing expires until it is
/// accepted.
#[derive(Debug)]
pub struct NodeClock {
    clock: SystemClock,
    held: AtomicBool,
}

impl NodeClock {
    /// `clock`; with `held` nothing expires until [`NodeClock::accept`].
    #[must_use]
    pub fn new(clock: SystemClock, held: bool) -> NodeClock {
        NodeClock { clock, held: AtomicBool::new(held) }
    }

    /// From now on things expire. Whether they did not before.
    pub fn accept(&self) -> bool {
        self.held.swap(false, Ordering::SeqCst)
    }
}

impl Clock for NodeClock {
    fn now(&self) -> Millis {
        self.clock.now()
    }

    fn wall(&self) -> Millis {
        self.clock.wall()
    }

    fn may_expire(&self) -> bool {
        !self.held.load(Ordering::SeqCst)
    }
}

/// Time since the machine started, sleep included.
fn boot_time() -> Duration {
    let at = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let secs = u64::try_from(at.tv_sec).unwrap_or_default();
    let nanos = u32::try_from(at.tv_nsec).unwrap_or_default();
    Duration::new(secs, nanos)
}

/// The wall clock; 1970 if it is set before that.
#[allow(clippy::disallowed_methods, reason = "this module is where the shell reads the wall clock")]
fn wall_now() -> Millis {
    Millis(to_ms(std::time::SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()))
}

fn to_ms(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// A clock that a test or the simulator moves by hand. Clones share the time.
#[derive(Debug, Clone)]
pub struct ManualClock {
    node: Arc<AtomicU64>,
    wall: Arc<AtomicU64>,
}

impl ManualClock {
    /// Node time and wall clock both at `start`.
    #[must_use]
    pub fn new(start: Millis) -> Self {
        Self { node: Arc::new(AtomicU64::new(start.0)), wall: Arc::new(AtomicU64::new(start.0)) }
    }

    /// Lets `ms` milliseconds pass on both clocks.
    pub fn advance(&self, ms: u64) {
        self.node.fetch_add(ms, Ordering::SeqCst);
        self.wall.fetch_add(ms, Ordering::SeqCst);
    }

    /// Steps the wall clock alone, as an operator or NTP would.
    pub fn set_wall(&self, to: Millis) {
        self.wall.store(to.0, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Millis {
        Millis(self.node.load(Ordering::SeqCst))
    }

    fn wall(&self) -> Millis {
        Millis(self.wall.load(Ordering::SeqCst))
    }
}

/// A clock that follows the runtime's timer, and so stands still and jumps with it under a paused test clock.
#[derive(Debug, Clone, Copy)]
pub struct TokioClock {
    base: Millis,
    origin: tokio::time::Instant,
}

impl TokioClock {
    /// A clock at `base` now. Must be called inside a tokio runtime if its time is paused.
    #[must_use]
    pub fn new(base: Millis) -> Self {
        Self { base, origin: tokio::time::Instant::now() }
    }
}

impl Clock for TokioClock {
    fn now(&self) -> Millis {
        self.base.plus(to_ms(self.origin.elapsed()))
    }

    fn wall(&self) -> Millis {
        self.now()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_time_goes_on_from_the_last_commit_if_the_wall_clock_is_behind() {
        let far = Millis(wall_now().0 + 86_400_000);
        let clock = SystemClock::starting_from(far);
        assert_eq!(clock.started_at(), far);
        assert!(clock.now() >= far && clock.now().since(far) < 60_000);
        assert!(clock.wall() < far);
    }

    #[test]
    fn node_time_starts_at_the_wall_clock_and_never_falls() {
        let clock = SystemClock::starting_from(Millis(0));
        assert!(clock.wall().since(clock.started_at()) < 60_000);
        let mut last = clock.now();
        for _ in 0..1000 {
            let now = clock.now();
            assert!(now >= last);
            last = now;
        }
    }

    #[test]
    fn a_step_of_the_wall_clock_leaves_node_time_alone() {
        let clock = ManualClock::new(Millis(1000));
        clock.set_wall(Millis(5));
        clock.clone().advance(10);
        assert_eq!((clock.now(), clock.wall()), (Millis(1010), Millis(15)));
    }

    #[test]
    fn nothing_expires_until_a_gap_is_accepted() {
        let clock = NodeClock::new(SystemClock::starting_from(Millis(0)), true);
        assert_eq!((clock.may_expire(), clock.ends_by(Millis(9))), (false, Millis(0)));
        assert!(clock.accept());
        assert_eq!((clock.may_expire(), clock.ends_by(Millis(9))), (true, Millis(9)));
        assert!(!clock.accept(), "there is nothing left to accept");
    }

    #[tokio::test(start_paused = true)]
    async fn the_tokio_clock_follows_paused_time() {
        let clock = TokioClock::new(Millis(1000));
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert_eq!(clock.now(), Millis(3_601_000));
    }
}
