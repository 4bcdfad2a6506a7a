//! Where the work runs that blocks: redb's commits, loads and reads.
//!
//! On a node that is tokio's blocking pool. The order in which the pool gets things done is the machine's affair,
//! so a simulation, which has to repeat itself, runs the work on its own single thread instead, each piece after
//! a pause that it chooses.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

/// What kind of work it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Job {
    /// A turn of the store: commits, questions, snapshots.
    Turn,
    /// The scan of one shard.
    Load,
    /// Bodies or dead letters.
    Read,
}

/// Chooses how long each piece of work takes, in timer time.
pub trait Pace: Send + Sync + Debug {
    /// The pause before the next piece of this kind.
    fn pause(&self, job: Job) -> Duration;
}

/// See the module.
#[derive(Debug, Clone, Default)]
pub enum Blocking {
    /// On tokio's blocking pool.
    #[default]
    Pool,
    /// On the runtime itself, after a pause. Deterministic on a single thread under a paused clock.
    Paced(Arc<dyn Pace>),
}

impl Blocking {
    /// Starts the work. Like the pool's, it goes on if whoever started it is gone.
    pub fn start(&self, job: Job, work: impl FnOnce() + Send + 'static) {
        // The work tells its outcome itself.
        drop(self.spawn(job, work));
    }

    /// Does the work and returns what it gives; `None` if it panicked.
    pub async fn run<T: Send + 'static>(
        &self,
        job: Job,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        self.spawn(job, work).await.ok()
    }

    fn spawn<T: Send + 'static>(
        &self,
        job: Job,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> tokio::task::JoinHandle<T> {
        let Blocking::Paced(pace) = self else { return tokio::task::spawn_blocking(work) };
        let pause = pace.pause(job);
        tokio::spawn(async move {
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
            work()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Slow;

    impl Pace for Slow {
        fn pause(&self, job: Job) -> Duration {
            if job == Job::Load { Duration::from_secs(3600) } else { Duration::ZERO }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn paced_work_takes_timer_time_and_survives_its_starter() {
        let blocking = Blocking::Paced(Arc::new(Slow));
        let begun = tokio::time::Instant::now();
        assert_eq!(blocking.run(Job::Read, || 1).await, Some(1));
        assert_eq!(begun.elapsed(), Duration::ZERO);
        assert_eq!(blocking.run(Job::Load, || 2).await, Some(2));
        assert_eq!(begun.elapsed(), Duration::from_secs(3600));
        let (tell, told) = tokio::sync::oneshot::channel();
        blocking.start(Job::Turn, move || tell.send(3).unwrap_or_default());
        assert_eq!(told.await, Ok(3));
    }

    #[tokio::test]
    async fn a_panic_is_no_answer() {
        assert_eq!(Blocking::Pool.run(Job::Read, || panic!("on purpose")).await, None::<()>);
    }
}
