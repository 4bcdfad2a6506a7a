//! Bounded admission in front of an actor's mailbox, which itself has neither a bound nor a length.
//!
//! Limits by count and by bytes. The [`Permit`] rides inside the message, so both come back when the message
//! is done with, wherever that is: handled, dropped with a dead actor's mailbox, or never sent.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A budget shared by all who hold a clone.
#[derive(Debug, Clone)]
pub struct Admission {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    max: Load,
    count: AtomicUsize,
    bytes: AtomicUsize,
}

/// An amount of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Load {
    /// Pieces of work.
    pub count: usize,
    /// Their bytes.
    pub bytes: usize,
}

/// The budget is spent: BACKPRESSURE to the caller, at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// As many pieces of work as are allowed are waiting.
    #[error("too many requests are waiting")]
    Count,
    /// The bytes that wait leave no room for this one.
    #[error("too many bytes are waiting")]
    Bytes,
}

impl Admission {
    /// A budget of `count_max` pieces of work holding `bytes_max` bytes together.
    #[must_use]
    pub fn new(count_max: usize, bytes_max: usize) -> Self {
        let max = Load { count: count_max, bytes: bytes_max };
        Self { inner: Arc::new(Inner { max, count: AtomicUsize::new(0), bytes: AtomicUsize::new(0) }) }
    }

    /// Takes room for one piece of work of `bytes` bytes. Never waits.
    ///
    /// A piece larger than the whole byte budget gets in when no other bytes are in: it could never get in
    /// otherwise, and its own limit (the body limit) was checked before.
    ///
    /// # Errors
    /// [`Full`] if it does not fit now.
    pub fn try_acquire(&self, bytes: usize) -> Result<Permit, Full> {
        let Inner { max, .. } = *self.inner;
        take(&self.inner.count, |used| (used < max.count).then_some(used + 1)).ok_or(Full::Count)?;
        let fits = |used: usize| {
            let after = used.saturating_add(bytes);
            (after <= max.bytes || used == 0).then_some(after)
        };
        if take(&self.inner.bytes, fits).is_none() {
            self.inner.count.fetch_sub(1, Ordering::AcqRel);
            return Err(Full::Bytes);
        }
        Ok(Permit { inner: Arc::clone(&self.inner), bytes })
    }

    /// What is admitted and not yet done.
    #[must_use]
    pub fn in_use(&self) -> Load {
        Load {
            count: self.inner.count.load(Ordering::Acquire),
            bytes: self.inner.bytes.load(Ordering::Acquire),
        }
    }

    /// The limits.
    #[must_use]
    pub fn capacity(&self) -> Load {
        self.inner.max
    }

    /// How full it is by the fuller of the two measures: 0.0 is empty, 1.0 full.
    #[must_use]
    pub fn fill_ratio(&self) -> f64 {
        let used = self.in_use();
        let ratio = |used: usize, max: usize| used as f64 / max.max(1) as f64;
        ratio(used.count, self.inner.max.count).max(ratio(used.bytes, self.inner.max.bytes))
    }
}

fn take(from: &AtomicUsize, fits: impl FnMut(usize) -> Option<usize>) -> Option<usize> {
    from.fetch_update(Ordering::AcqRel, Ordering::Acquire, fits).ok()
}

/// Room for one piece of work; gives it back on drop.
#[derive(Debug)]
#[must_use = "dropping the permit gives the room back"]
pub struct Permit {
    inner: Arc<Inner>,
    bytes: usize,
}

impl Permit {
    /// The bytes it holds.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.inner.bytes.fetch_sub(self.bytes, Ordering::AcqRel);
        self.inner.count.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_at_the_count_and_frees_on_drop() {
        let door = Admission::new(2, 1000);
        let first = door.try_acquire(10).unwrap();
        let _second = door.try_acquire(10).unwrap();
        assert_eq!(door.try_acquire(10).unwrap_err(), Full::Count);
        assert_eq!(door.in_use(), Load { count: 2, bytes: 20 });
        assert!((door.fill_ratio() - 1.0).abs() < f64::EPSILON);
        drop(first);
        assert_eq!(door.in_use(), Load { count: 1, bytes: 10 });
        assert!(door.try_acquire(10).is_ok());
    }

    #[test]
    fn refuses_at_the_bytes_and_gives_the_count_back() {
        let door = Admission::new(10, 100);
        let _held = door.try_acquire(60).unwrap();
        assert_eq!(door.try_acquire(41).unwrap_err(), Full::Bytes);
        assert_eq!(door.in_use(), Load { count: 1, bytes: 60 });
        let fits = door.try_acquire(40).unwrap();
        assert_eq!(fits.bytes(), 40);
        assert_eq!(door.in_use().bytes, 100);
    }

    #[test]
    fn one_that_is_larger_than_the_budget_gets_in_alone() {
        let door = Admission::new(10, 100);
        let huge = door.try_acquire(500).unwrap();
        assert_eq!(door.try_acquire(1).unwrap_err(), Full::Bytes);
        assert!((door.fill_ratio() - 5.0).abs() < f64::EPSILON);
        drop(huge);
        let _small = door.try_acquire(1).unwrap();
        assert_eq!(door.try_acquire(500).unwrap_err(), Full::Bytes);
    }

    #[test]
    fn many_threads_never_pass_the_limit() {
        let door = Admission::new(4, 40);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..10_000 {
                        let permit = door.try_acquire(10);
                        let used = door.in_use();
                        assert!(used.bytes <= 40, "{used:?}");
                        drop(permit);
                    }
                });
            }
        });
        assert_eq!(door.in_use(), Load::default());
    }
}
