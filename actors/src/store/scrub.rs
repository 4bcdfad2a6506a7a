//! The scrub: reads all of a store that is in use and checks it, in short pieces with pauses between them, so that a
//! record that rots on the device is found before somebody wants it.

use super::actor::Store;
use super::check::Checker;
use super::copy::Source;
use super::error::StoreError;
use super::findings::{Damage, Findings};
use crate::blocking::Job;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Between two pieces of about 1 MiB: at most 50 MiB/s are read.
const PAUSE: Duration = Duration::from_millis(20);
/// Bytes checked in one piece.
const CHECKED_BYTES: usize = 1 << 20;

/// Scrubs a store. Cheap to clone; one runs at a time.
#[derive(Debug, Clone)]
pub struct Scrub {
    store: Store,
    running: Arc<tokio::sync::Mutex<()>>,
    stopping: Arc<AtomicBool>,
}

impl Scrub {
    /// The scrub of this store.
    #[must_use]
    pub fn new(store: Store) -> Scrub {
        Scrub { store, running: Arc::default(), stopping: Arc::default() }
    }

    /// Reads everything once. `found` is handed what each piece shows, all of it; the findings name the first hundred.
    ///
    /// # Errors
    /// The store was reopened meanwhile, cannot be read, or the node stops: what was found until then was handed on.
    pub async fn run_once<F: Future<Output = ()> + Send>(
        &self,
        mut found: impl FnMut(Vec<Damage>) -> F + Send,
    ) -> Result<Findings, StoreError> {
        let _turn = self.running.lock().await;
        let source = self.store.ask(Source::of).await.map_err(|_| StoreError::Reopening)?;
        let mut checker = Checker::naming_all();
        let mut named = Findings::default();
        loop {
            if self.stopping.load(Ordering::SeqCst) {
                return Err(StoreError::Reopening);
            }
            let from = source.clone();
            let step = move || -> Result<_, StoreError> {
                let more = checker.step(&from.begin_read()?, CHECKED_BYTES)?;
                Ok((checker, more))
            };
            let stepped = self.store.blocking().run(Job::Read, step).await;
            let (next, more) = stepped.unwrap_or(Err(StoreError::Reopening))?;
            checker = next;
            let new = checker.take_named();
            if !new.is_empty() {
                new.iter().cloned().for_each(|damage| named.add(damage));
                found(new).await;
            }
            if !more {
                let mut all = checker.findings().clone();
                all.named = named.named;
                return Ok(all);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Ends the one that runs, and lets no other go on. Returns when it has.
    pub async fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        drop(self.running.lock().await);
    }
}
