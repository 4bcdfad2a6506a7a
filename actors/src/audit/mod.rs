//! The audit log: whoever decides something says so here, and one [`actor`] writes it down (docs/AUDIT.md).
//!
//! Saying it never waits and never fails: what does not fit into the queue is dropped and counted, and the next record
//! carries the count. Only operators' acts wait, until their record is on the device; they are never dropped. Queue,
//! chain and file outlive the actor, so a crash of it loses nothing that was said. In amnesia there is no file, and the
//! newest records are in memory alone.

pub mod actor;
pub mod files;
pub mod offline;
mod queue;
mod ring;
mod sink;
#[cfg(test)]
mod tests;
mod trail;

pub use actor::{AuditActor, AuditMsg};
pub use files::{AuditError, Report};

use crate::entropy::Entropy;
use crate::kernel::child::{ChildKind, ChildSpec, ServiceLabel};
use crate::kernel::handle::{Handle, HandlePublisher};
use queue::{Queue, Queued};
use ring::Ring;
use ron_core::audit::{self, Decision, Entry, Folder, Head, INTENT, Kind, Tally, Usage, Who};
use ron_core::reason::{Reason, Refusal};
use ron_core::time::Clock;
use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{oneshot, watch};
use trail::Trail;

/// Refusals of strangers that are recorded one by one, a second.
pub const STRANGERS_PER_S: u32 = 10;
/// How long decisions about who is known are counted before the count is recorded, ms.
pub const USAGE_WINDOW_MS: u64 = 60_000;
/// Parts of the counts, so that connections on different processors seldom meet.
const PARTS: usize = 8;
/// How long an act waits for the actor to be up, and then for its record.
const UP_WITHIN: Duration = Duration::from_secs(2);
const WRITTEN_WITHIN: Duration = Duration::from_secs(10);

/// Told of what is written.
pub trait AuditObserver: Send + Sync + fmt::Debug {
    /// So many records were added.
    fn recorded(&self, count: u64);

    /// So many were dropped.
    fn dropped(&self, count: u64);

    /// The file cannot be written, and why; `None` = it can again.
    fn failing(&self, why: Option<String>);
}

/// Bounds of the log.
#[derive(Debug, Clone, Copy)]
pub struct AuditLimits {
    /// Records that wait to be written.
    pub queue: usize,
    /// Kinds of use that are counted apart.
    pub uses: usize,
    /// Bytes of the newest records in memory.
    pub ring_bytes: usize,
    /// Bytes of a file before the next is begun.
    pub file_bytes: u64,
    /// Files that are kept.
    pub keep: usize,
}

/// What a log is made of.
#[derive(Debug)]
pub struct AuditArgs {
    /// Where its files are; `None` = in memory alone.
    pub dir: Option<PathBuf>,
    /// Its bounds.
    pub limits: AuditLimits,
    /// Node time, and the wall clock of the records.
    pub clock: Arc<dyn Clock>,
    /// For the key of the bodies' names.
    pub entropy: Arc<dyn Entropy>,
    /// Is told.
    pub observer: Arc<dyn AuditObserver>,
}

/// The address of the log. Cheap to clone. See the module.
#[derive(Debug, Clone)]
pub struct Audit(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    queue: Mutex<Queue>,
    folder: Mutex<Folder>,
    tallies: [Mutex<Tally<Usage>>; PARTS],
    trail: Mutex<Trail>,
    ring: Mutex<Ring>,
    head: watch::Sender<Head>,
    dir: Option<PathBuf>,
    key: [u8; 32],
    /// Keeps other writers away.
    held: Mutex<Option<File>>,
    clock: Arc<dyn Clock>,
    observer: Arc<dyn AuditObserver>,
    publisher: HandlePublisher<AuditMsg>,
    actor: Handle<AuditMsg>,
    woken: AtomicBool,
}

fn lock<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is kept under these locks is whole after each step.
    what.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Audit {
    /// Opens the log; its actor is not up yet, see [`Audit::child_spec`]. With files the chain goes on where the last
    /// process left it, and what was wrong there is its first record. Blocks.
    ///
    /// # Errors
    /// See [`AuditError`].
    pub fn open(args: AuditArgs) -> Result<Audit, AuditError> {
        let AuditArgs { dir, limits, clock, entropy, observer } = args;
        let (key, held) = match &dir {
            Some(dir) => files::key(dir, entropy.as_ref()).map(|(key, file)| (key, Some(file)))?,
            None => (files::new_key(entropy.as_ref())?, None),
        };
        let trail = Trail::open(dir.as_deref(), limits, clock.wall())?;
        let publisher = HandlePublisher::new();
        let audit = Audit(Arc::new(Inner {
            queue: Mutex::new(Queue::new(limits.queue)),
            folder: Mutex::new(Folder::new(STRANGERS_PER_S)),
            tallies: std::array::from_fn(|_| {
                Mutex::new(Tally::new(limits.uses.div_ceil(PARTS), USAGE_WINDOW_MS))
            }),
            head: watch::Sender::new(trail.head()),
            trail: Mutex::new(trail),
            ring: Mutex::new(Ring::new(limits.ring_bytes)),
            dir,
            key,
            held: Mutex::new(held),
            clock,
            observer,
            actor: publisher.handle(),
            publisher,
            woken: AtomicBool::new(false),
        }));
        for finding in lock(&audit.0.trail).findings() {
            audit.record(finding);
        }
        Ok(audit)
    }

    /// Its actor.
    #[must_use]
    pub fn child_spec(&self) -> ChildSpec {
        let log = self.clone();
        let make = move || (AuditActor, log.clone());
        ChildSpec::actor(ChildKind::Fixed, "audit", ServiceLabel::Audit, &self.0.publisher, make)
    }

    /// An entry of this moment.
    #[must_use]
    pub fn entry(&self, kind: Kind, decision: Decision, reason: &'static str) -> Entry {
        Entry::new(self.0.clock.wall(), kind, decision, reason)
    }

    /// What the log calls a body; see [`audit::content`].
    #[must_use]
    pub fn content(&self, body: &[u8]) -> [u8; 32] {
        audit::content(&self.0.key, body)
    }

    /// Where its files are; `None` = in memory alone.
    #[must_use]
    pub fn dir(&self) -> Option<&Path> {
        self.0.dir.as_deref()
    }

    /// Says that something was decided. Never waits; dropped and counted if too much waits already.
    pub fn record(&self, entry: Entry) {
        if lock(&self.0.queue).push(entry) {
            self.wake();
        } else {
            self.0.observer.dropped(1);
        }
    }

    /// Says that a stranger was refused; beyond [`STRANGERS_PER_S`] it is only counted, and the entry is not made.
    pub fn stranger(&self, kind: Kind, reason: &'static str, entry: impl FnOnce() -> Entry) {
        let (now, wall) = (self.0.clock.now(), self.0.clock.wall());
        if lock(&self.0.folder).take(now, wall, kind, reason) {
            self.record(entry());
        }
    }

    /// Says that somebody known used what he may, or tried what he may not, `n` times. The first use in a while is
    /// recorded at once, `with` what is known of that request; the others as a count, once a minute.
    pub fn usage(&self, usage: &Usage, n: u64, with: impl FnOnce(&mut Entry)) {
        let part = match &usage.who {
            Who::Cap(cap_id, _) => cap_id.spread(PARTS),
            Who::Local { .. } => 0,
        };
        let (now, wall) = (self.0.clock.now(), self.0.clock.wall());
        if lock(&self.0.tallies[part]).add(usage, n, now, wall) {
            let mut entry = usage.entry(wall);
            with(&mut entry);
            self.record(entry);
        }
    }

    /// Writes down that an operator's act is about to be done. It is on the device when this returns.
    ///
    /// # Errors
    /// STORAGE, DOWNSTREAM_UNAVAILABLE: the act must not be done.
    pub async fn intent(&self, mut entry: Entry) -> Result<(), Refusal> {
        (entry.decision, entry.reason) = (Decision::Allow, INTENT);
        let not_done = |(reason, why): (Reason, String)| {
            let text = format!("not done, since it could not be written to the audit log first: {why}");
            Refusal::new(reason, text).without_effect()
        };
        self.written(entry, true).await.map_err(not_done)
    }

    /// Writes down what became of an act. It is on the device when this returns.
    ///
    /// # Errors
    /// STORAGE, DOWNSTREAM_UNAVAILABLE: that it was to be done is on the device, but not what became of it.
    pub async fn outcome(&self, entry: Entry) -> Result<(), Refusal> {
        let done = entry.decision == Decision::Done;
        let unaudited = |(reason, why): (Reason, String)| {
            let what = if done { "it was done" } else { "it failed" };
            Refusal::new(reason, format!("{what}, but the audit log only has that it was to be: {why}"))
        };
        self.written(entry, false).await.map_err(unaudited)
    }

    async fn written(&self, entry: Entry, intent: bool) -> Result<(), (Reason, String)> {
        let (told, written) = oneshot::channel();
        if self.0.actor.wait_up(UP_WITHIN).await.is_err() {
            return Err((Reason::DownstreamUnavailable, "it is down".to_owned()));
        }
        lock(&self.0.queue).push_act(Queued::act(entry, intent, told));
        self.wake();
        match tokio::time::timeout(WRITTEN_WITHIN, written).await {
            Ok(Ok(written)) => written.map_err(|why| (Reason::Storage, why)),
            Ok(Err(_)) => Err((Reason::DownstreamUnavailable, "it failed".to_owned())),
            Err(_) => Err((Reason::Storage, "it takes too long".to_owned())),
        }
    }

    /// Waits until all that was said before is written; on the device, if there is one.
    ///
    /// # Errors
    /// As [`Audit::intent`].
    pub async fn flush(&self) -> Result<Head, Refusal> {
        let (told, written) = oneshot::channel();
        lock(&self.0.queue).push_act(Queued::flush(told));
        self.wake();
        let failed =
            |reason, why: &str| Refusal::new(reason, format!("the audit log cannot be written: {why}"));
        match tokio::time::timeout(WRITTEN_WITHIN, written).await {
            Ok(Ok(Ok(()))) => Ok(*self.0.head.borrow()),
            Ok(Ok(Err(why))) => Err(failed(Reason::Storage, &why)),
            Ok(Err(_)) | Err(_) => Err(failed(Reason::DownstreamUnavailable, "it is down")),
        }
    }

    /// Writes down `last` and everything before it, counts included. Nothing may be said after it.
    pub async fn close(&self, last: Entry) {
        self.settle(true);
        self.record(last);
        if let Err(refusal) = self.flush().await {
            tracing::error!(%refusal, "the end of the audit log is lost");
        }
        *lock(&self.0.held) = None;
    }

    /// The newest records after this one that are still in memory, as lines with their ends, and the number of the
    /// last of them; at most so many.
    #[must_use]
    pub fn recent(&self, after: u64, most: usize) -> (Vec<Arc<str>>, u64) {
        lock(&self.0.ring).after(after, most)
    }

    /// Tells of the end of the chain as it moves.
    #[must_use]
    pub fn follow(&self) -> watch::Receiver<Head> {
        self.0.head.subscribe()
    }

    /// Whether its actor failed too often and writes no more until the node is started anew.
    #[must_use]
    pub fn is_quarantined(&self) -> bool {
        self.0.actor.is_quarantined()
    }

    /// Makes its actor fail: for drills.
    pub fn crash(&self) {
        let _ = self.0.actor.cast(AuditMsg::Crash);
    }

    fn wake(&self) {
        if !self.0.woken.swap(true, Ordering::AcqRel) {
            // One that is down looks at the queue when it is up.
            let _ = self.0.actor.cast(AuditMsg::Wake);
        }
    }

    /// Records what was only counted so far: with `all` to the end.
    fn settle(&self, all: bool) {
        let (now, wall) = (self.0.clock.now(), self.0.clock.wall());
        let folds = lock(&self.0.folder).due();
        for fold in folds {
            let mut entry = Entry::new(wall, fold.kind, Decision::Deny, fold.reason);
            (entry.more.count, entry.more.since) = (Some(fold.count), Some(fold.since));
            self.record(entry);
        }
        for tally in &self.0.tallies {
            let due = lock(tally).due(now, all);
            for (usage, spent) in due {
                self.record(match usage {
                    Some(usage) => usage.counted(wall, spent),
                    None => others(wall, spent),
                });
            }
        }
    }
}

/// The record of uses for which there was no room.
fn others(wall: ron_core::time::Millis, spent: audit::Spent) -> Entry {
    let mut entry = Entry::new(wall, Kind::Api, Decision::Allow, "MANY");
    (entry.more.count, entry.more.since) = (Some(spent.count), Some(spent.since));
    entry.detail("allowed or refused: more kinds of use in a minute than are counted apart")
}
