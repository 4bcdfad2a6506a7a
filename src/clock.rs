//! Whether the node trusts its clock (SPEC §1 "node time"): a start that meets a gap expires nothing until an operator
//! accepts it. The decision is [`ClockGap`]'s; here it is kept, shown and ended.

use crate::http::readiness::Readiness;
use ron_actors::clock_gap_file::{forget, judge};
use ron_actors::kernel::clock::{NodeClock, SystemClock};
use ron_actors::mailbox::Directory;
use ron_core::reason::{Reason, Refusal};
use ron_core::time::{Clock, ClockGap, Millis};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// The file in the data directory that is there while a gap is not accepted.
pub const CLOCK_GAP_FILE: &str = "clock-gap";

/// A clock and the gap it started with.
type Made = (Arc<NodeClock>, Option<ClockGap>);

/// The same, and the file that keeps the gap.
pub type ClockMade = (Made, Option<PathBuf>);

/// Makes the node's clock once the store says what it has saved.
#[derive(Debug)]
pub struct ClockMaker {
    /// [`CLOCK_GAP_FILE`]; `None` in amnesia, where nothing was saved.
    file: Option<PathBuf>,
    ahead_max_ms: u64,
    made: OnceLock<io::Result<Made>>,
}

impl ClockMaker {
    /// For a node that takes a jump ahead of at most `ahead_max_ms`.
    #[must_use]
    pub fn new(file: Option<PathBuf>, ahead_max_ms: u64) -> ClockMaker {
        ClockMaker { file, ahead_max_ms, made: OnceLock::new() }
    }

    /// The clock of a store that was last alive at `saved`. Blocks. Should the file not do, nothing expires, and
    /// [`ClockMaker::made`] says why.
    pub fn make(&self, saved: Millis) -> Arc<dyn Clock> {
        let clock = SystemClock::starting_from(saved);
        let gap = match &self.file {
            Some(file) => judge(file, saved, clock.wall(), self.ahead_max_ms),
            None => Ok(None),
        };
        let clock = Arc::new(NodeClock::new(clock, !matches!(gap, Ok(None))));
        // A store is opened for the first time once: what comes later is told of this clock.
        let _ = self.made.set(gap.map(|gap| (clock.clone(), gap)));
        clock
    }

    /// What was made; `None` if the store was never asked.
    ///
    /// # Errors
    /// The file's.
    pub fn made(self) -> io::Result<Option<ClockMade>> {
        self.made.into_inner().transpose().map(|made| made.map(|made| (made, self.file)))
    }
}

/// What the operator has a say in. See the module.
#[derive(Debug)]
pub struct ClockKeeper {
    clock: Arc<NodeClock>,
    file: Option<PathBuf>,
    gap: Mutex<Option<ClockGap>>,
    readiness: Arc<Readiness>,
    directory: Arc<Directory>,
}

impl ClockKeeper {
    /// Keeps the gap of this start, if there is one: it is logged, and a warning of `readiness`.
    #[must_use]
    pub fn new(made: ClockMade, readiness: Arc<Readiness>, directory: Arc<Directory>) -> ClockKeeper {
        let ((clock, gap), file) = made;
        if let Some(gap) = &gap {
            tracing::warn!(%gap, "the clock is in doubt: nothing expires until `ronctl clock accept`");
            readiness.warn(warning(gap));
        }
        ClockKeeper { clock, file, gap: Mutex::new(gap), readiness, directory }
    }

    /// The gap that nothing expires for.
    #[must_use]
    pub fn gap(&self) -> Option<ClockGap> {
        *self.gap.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on things expire by node time as it is. The gap that was.
    ///
    /// # Errors
    /// NOT_FOUND if there is none; STORAGE if it would be back after a restart: nothing expires then, as before.
    pub async fn accept(&self) -> Result<ClockGap, Refusal> {
        let none = || Refusal::new(Reason::NotFound, "the clock is not in doubt: there is nothing to accept");
        let gap = self.gap().ok_or_else(none)?;
        if let Some(file) = self.file.clone() {
            let forgotten = tokio::task::spawn_blocking(move || forget(&file)).await;
            let failed = |error: io::Error| {
                Refusal::new(Reason::Storage, format!("{CLOCK_GAP_FILE} cannot be removed: {error}"))
            };
            forgotten.map_err(|error| failed(error.into()))?.map_err(failed)?;
        }
        if self.gap.lock().unwrap_or_else(PoisonError::into_inner).take().is_none() {
            return Err(none());
        }
        self.clock.accept();
        self.readiness.withdraw_warning(&warning(&gap));
        self.directory.look_for_ends(self.clock.now());
        Ok(gap)
    }
}

fn warning(gap: &ClockGap) -> String {
    format!("clock: {gap}; nothing expires until `ronctl clock accept`")
}
