//! Records of what is done to a stopped node, in the log of that node.

use super::files;
use super::queue::Queued;
use super::ring::Ring;
use super::trail::Trail;
use super::{AuditError, AuditLimits, AuditObserver};
use crate::entropy::Entropy;
use ron_core::audit::{Decision, Entry, INTENT};
use ron_core::time::Millis;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use tokio::sync::oneshot;

/// The node rotates and prunes; here a few lines are added.
const LIMITS: AuditLimits =
    AuditLimits { queue: 1, uses: 0, ring_bytes: 0, file_bytes: u64::MAX, keep: usize::MAX };

#[derive(Debug)]
struct Deaf;

impl AuditObserver for Deaf {
    fn recorded(&self, _: u64) {}
    fn dropped(&self, _: u64) {}
    fn failing(&self, _: Option<String>) {}
}

/// The log of a stopped node, held: no node starts with it meanwhile. Blocks.
#[derive(Debug)]
pub struct Offline {
    trail: Trail,
    dir: PathBuf,
    _held: File,
}

impl Offline {
    /// Opens the log in this directory, or begins it.
    ///
    /// # Errors
    /// See [`AuditError`].
    pub fn open(dir: &Path, entropy: &dyn Entropy, wall: Millis) -> Result<Offline, AuditError> {
        let (_, held) = files::key(dir, entropy)?;
        let mut offline =
            Offline { trail: Trail::open(Some(dir), LIMITS, wall)?, dir: dir.to_owned(), _held: held };
        for finding in offline.trail.findings() {
            offline.add(finding)?;
        }
        Ok(offline)
    }

    /// Writes down what is about to be done. It is on the device when this returns.
    ///
    /// # Errors
    /// See [`AuditError`]: it must not be done.
    pub fn intent(&mut self, mut entry: Entry) -> Result<(), AuditError> {
        (entry.decision, entry.reason) = (Decision::Allow, INTENT);
        self.add(entry)
    }

    /// Writes down what happened. It is on the device when this returns.
    ///
    /// # Errors
    /// See [`AuditError`].
    pub fn add(&mut self, entry: Entry) -> Result<(), AuditError> {
        let (told, mut written) = oneshot::channel();
        let ring = Mutex::new(Ring::new(0));
        self.trail.write(vec![Queued::act(entry, false, told)], true, &ring, &Deaf).tell();
        match written.try_recv().unwrap_or_else(|_| Err("nothing was written".to_owned())) {
            Ok(()) => Ok(()),
            Err(why) => Err(AuditError::Io { path: self.dir.clone(), source: std::io::Error::other(why) }),
        }
    }
}
