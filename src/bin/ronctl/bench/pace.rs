//! The schedule of an open loop: when each operation should begin, whatever the node does. Latencies that count from
//! then show what a user would have waited, and not what a generator that waits for the node leaves out (coordinated
//! omission).

use super::oap::Span;
use crate::ambient;
use crate::failure::{Failure, failed};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use std::cell::Cell;
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};
use tokio::io::unix::AsyncFd;

/// Equally spaced arrivals, taken by whoever is free.
#[derive(Debug)]
pub(super) struct Arrivals {
    began: Instant,
    per_s: u32,
    count: u64,
    next: Cell<u64>,
}

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Arrival {
    /// Its number, from 0.
    pub(super) number: u64,
    /// When it should begin.
    pub(super) due: Instant,
}

impl Arrivals {
    /// As many a second, from `began` until the end of `span`.
    #[must_use]
    pub(super) fn new(began: Instant, span: Span, per_s: u32) -> Arrivals {
        let whole = span.ends.saturating_duration_since(began);
        let count = whole.as_nanos().saturating_mul(per_s.into()) / 1_000_000_000;
        Arrivals { began, per_s, count: u64::try_from(count).unwrap_or(u64::MAX), next: Cell::new(0) }
    }

    /// The next that nobody has taken; `None` when all are.
    pub(super) fn take(&self) -> Option<Arrival> {
        let number = self.next.get();
        if number >= self.count {
            return None;
        }
        self.next.set(number + 1);
        Some(Arrival { number, due: self.due(number) })
    }

    /// When an arrival should begin.
    #[must_use]
    pub(super) fn due(&self, number: u64) -> Instant {
        let nanos = u128::from(number) * 1_000_000_000 / u128::from(self.per_s);
        self.began + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

/// A timer that is exact to some microseconds, where the runtime's is to a millisecond.
#[derive(Debug)]
pub(super) struct Alarm(AsyncFd<OwnedFd>);

impl Alarm {
    /// One that is not set.
    ///
    /// # Errors
    /// If the system has none.
    // its successor is `unsafe`, for types whose descriptor may change; this one's does not
    #[allow(deprecated)]
    pub(super) fn new() -> Result<Alarm, Failure> {
        let made = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC);
        let timer = made.map_err(io::Error::from).and_then(AsyncFd::new);
        timer.map(Alarm).map_err(|err| failed(format!("a timer: {err}")))
    }

    /// Waits until then. Cancel-safe.
    ///
    /// # Errors
    /// Whatever the system says.
    pub(super) async fn until(&self, due: Instant) -> io::Result<()> {
        let left = due.saturating_duration_since(ambient::now());
        if left.is_zero() {
            return Ok(());
        }
        let never = Timespec { tv_sec: 0, tv_nsec: 0 };
        let value = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        // setting it takes back what an earlier wait left behind
        timerfd_settime(
            &self.0,
            TimerfdTimerFlags::empty(),
            &Itimerspec { it_interval: never, it_value: value },
        )?;
        loop {
            let mut ready = self.0.readable().await?;
            if ambient::now() >= due {
                return Ok(());
            }
            ready.clear_ready();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrivals_keep_to_the_schedule_and_come_to_an_end() {
        let began = ambient::now();
        let span = Span { starts: began + Duration::from_secs(1), ends: began + Duration::from_secs(3) };
        let arrivals = Arrivals::new(began, span, 4);
        let all: Vec<Arrival> = std::iter::from_fn(|| arrivals.take()).collect();
        assert_eq!(all.len(), 12);
        assert_eq!(all[0], Arrival { number: 0, due: began });
        assert_eq!(all[11].due - began, Duration::from_millis(2_750));
        assert_eq!(arrivals.due(5) - began, Duration::from_millis(1_250));
        assert_eq!(all.iter().filter(|arrival| span.counts(arrival.due)).count(), 8);
        assert_eq!(arrivals.take(), None);
    }

    #[tokio::test]
    async fn an_alarm_rings_when_it_is_due_and_may_be_set_again() {
        let alarm = Alarm::new().unwrap();
        let began = ambient::now();
        for ms in [3, 5] {
            let due = began + Duration::from_millis(ms);
            alarm.until(due).await.unwrap();
            assert!(ambient::now() >= due);
        }
        alarm.until(began).await.unwrap(); // what is over is at once
    }
}
