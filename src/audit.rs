//! The surface's side of the audit log: where it is, who is told of it, and acts that are written down before they are
//! done.

use crate::config::Config;
use crate::http::readiness::Readiness;
use crate::metrics::Metrics;
use crate::node::BootError;
use ron_actors::audit::files::DIR;
use ron_actors::audit::{Audit, AuditArgs, AuditError, AuditLimits, AuditObserver};
use ron_actors::entropy::OsEntropy;
use ron_core::audit::{Decision, Entry, Kind, OK};
use ron_core::reason::{Effect, Refusal};
use ron_core::time::Clock;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

/// Counts records, and warns while they cannot be written.
#[derive(Debug)]
struct Watching {
    metrics: Arc<Metrics>,
    readiness: Arc<Readiness>,
    warning: Mutex<Option<String>>,
}

impl AuditObserver for Watching {
    fn recorded(&self, count: u64) {
        self.metrics.interop.audit_emitted.increment(count);
    }

    fn dropped(&self, count: u64) {
        self.metrics.interop.audit_drop.increment(count);
    }

    fn failing(&self, why: Option<String>) {
        let mut warning = self.warning.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(told) = warning.take() {
            self.readiness.withdraw_warning(&told);
        }
        *warning =
            why.map(|why| format!("the audit log cannot be written, operators' acts are refused: {why}"));
        if let Some(warning) = &*warning {
            self.readiness.warn(warning.clone());
        }
    }
}

/// Where a node with this configuration keeps its log; `None` = in memory alone.
#[must_use]
pub fn dir_of(config: &Config) -> Option<PathBuf> {
    (!config.node.amnesia).then(|| config.node.data_dir.join(DIR))
}

/// The bounds of the log.
#[must_use]
pub fn limits_of(config: &Config) -> AuditLimits {
    let usize_of = |n: u32| usize::try_from(n).unwrap_or(usize::MAX);
    AuditLimits {
        queue: usize_of(config.audit.queue),
        uses: usize_of(config.audit.uses),
        ring_bytes: config.audit.ring.as_usize(),
        file_bytes: config.audit.file.0,
        keep: usize_of(config.audit.keep),
    }
}

/// Opens the log of a node; its first record is that the node began.
///
/// # Errors
/// Its files cannot be read or written.
pub(crate) fn open(
    config: &Config,
    clock: &Arc<dyn Clock>,
    metrics: &Arc<Metrics>,
    readiness: &Arc<Readiness>,
) -> Result<Audit, BootError> {
    let observer =
        Watching { metrics: metrics.clone(), readiness: readiness.clone(), warning: Mutex::default() };
    let args = AuditArgs {
        dir: dir_of(config),
        limits: limits_of(config),
        clock: clock.clone(),
        entropy: Arc::new(OsEntropy),
        observer: Arc::new(observer),
    };
    let audit = Audit::open(args).map_err(|error| match error {
        AuditError::Io { .. } | AuditError::Key { .. } => BootError::Damaged(error.to_string()),
        AuditError::InUse { .. } => BootError::Taken(error.to_string()),
        AuditError::NoEntropy(_) => BootError::Root(error.to_string()),
    })?;
    audit.record(mark(&audit, "start").detail(&format!(
        "ron-node {}, {}, process {}",
        env!("CARGO_PKG_VERSION"),
        config.node.profile.label(),
        std::process::id()
    )));
    Ok(audit)
}

/// The log's own record of a process that begins or ends.
pub(crate) fn mark(audit: &Audit, op: &'static str) -> Entry {
    let mut entry = audit.entry(Kind::Audit, Decision::Done, OK);
    entry.more.op = Some(op.into());
    entry
}

/// An act that is in the log before it is done. One that is dropped without an end is recorded as one whose end nobody
/// saw.
#[derive(Debug)]
pub struct Act {
    audit: Audit,
    entry: Option<Entry>,
    unaudited: Option<Refusal>,
}

impl Act {
    /// Writes down what is about to be done: kind, operation, who and what of `entry`.
    ///
    /// # Errors
    /// STORAGE, DOWNSTREAM_UNAVAILABLE: it must not be done.
    pub async fn begin(audit: &Audit, entry: Entry) -> Result<Act, Refusal> {
        if let Err(refusal) = audit.intent(entry.clone()).await {
            // in its place in the chain, as soon as that can be written again
            audit.record(Entry { decision: Decision::Failed, reason: refusal.reason.code(), ..entry });
            return Err(refusal);
        }
        Ok(Act { audit: audit.clone(), entry: Some(entry), unaudited: None })
    }

    /// As [`Act::begin`], for what must be done even if it cannot be written down: its answer says so then.
    pub async fn begin_in_any_case(audit: &Audit, entry: Entry) -> Act {
        let unaudited = audit.intent(entry.clone()).await.err();
        Act { audit: audit.clone(), entry: Some(entry), unaudited }
    }

    /// Writes down what became of it, and gives that back.
    ///
    /// # Errors
    /// What it failed with; STORAGE or DOWNSTREAM_UNAVAILABLE if it was done, and that could not be written down.
    pub async fn end<T>(mut self, result: Result<T, Refusal>) -> Result<T, Refusal> {
        let Some(mut entry) = self.entry.take() else { return result };
        entry.at = self.audit.entry(entry.kind, entry.decision, OK).at;
        (entry.decision, entry.reason) = match &result {
            Ok(_) => (Decision::Done, OK),
            Err(refusal) => (Decision::Failed, refusal.reason.code()),
        };
        let told = self.audit.outcome(entry).await;
        let done = result?;
        match (told, self.unaudited.take()) {
            (Ok(()), None) => Ok(done),
            (Err(late), _) => Err(late),
            (Ok(()), Some(early)) => Err(Refusal {
                text: format!("it was done, but is in the audit log only since then: {}", early.text).into(),
                effect: Effect::Unknown,
                ..early
            }),
        }
    }
}

impl Drop for Act {
    fn drop(&mut self) {
        if let Some(mut entry) = self.entry.take() {
            (entry.decision, entry.reason) = (Decision::Unknown, "GONE");
            self.audit.record(entry);
        }
    }
}
