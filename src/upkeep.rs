//! What keeps the store well while the node serves: snapshots and scrubs, on a schedule and on demand, and a look at
//! how large the file has become. Each duty is a `run_once` of `ron_actors::store`; here is when it runs, and who
//! hears of it.

mod schedule;

use self::schedule::Schedule;
use crate::config::Config;
use crate::http::request::Peer;
use crate::metrics::Metrics;
use ron_actors::mailbox::Mailbox;
use ron_actors::store::{
    Damage, Findings, Scrub, SnapshotConfig, SnapshotError, SnapshotFile, Snapshots, Store, StoreError,
    StoreFigures,
};
use ron_core::ids::{QueueKey, Slot};
use ron_core::reason::Refusal;
use ron_core::time::{Clock, Millis};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::task::JoinHandle;

/// After a start, and after one that failed, no snapshot is begun for this long: first things first.
const SNAPSHOT_REST: Duration = Duration::from_secs(60);
/// Likewise scrubs. A start knows nothing of the last one before it.
const SCRUB_REST: Duration = Duration::from_secs(3600);
/// A file smaller than this is never worth a word, bytes.
const FILE_WORTH_A_WORD: u64 = 1 << 30;
/// A file this many times the size of what lives in it is.
const FILE_OVER_LIVE: u64 = 4;

/// The upkeep of one node's store.
#[derive(Debug)]
pub struct Upkeep {
    snapshots: Snapshots,
    scrub: Scrub,
    mailbox: Mailbox,
    store: Store,
    snapshots_due: Mutex<Schedule>,
    scrubs_due: Mutex<Schedule>,
    durable: bool,
    file: PathBuf,
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// When the newest snapshot was taken, wall clock.
    taken_at: Option<Millis>,
    /// Why the last one failed, if it did.
    failure: Option<String>,
    /// What the last scrub found damaged, if anything.
    damage: Option<String>,
    /// Whether the size of the file has been told of.
    told_of_size: bool,
    duties: Vec<JoinHandle<()>>,
}

impl Upkeep {
    /// The upkeep of `store`, kept in `file` unless it is in RAM. Removes what an interrupted snapshot left. Blocks.
    #[must_use]
    pub fn new(
        config: &Config,
        file: PathBuf,
        store: Store,
        mailbox: Mailbox,
        metrics: Arc<Metrics>,
        clock: Arc<dyn Clock>,
    ) -> Upkeep {
        let dir = snapshot_dir(config);
        let durable = store.durable();
        let mut state = State::default();
        if durable {
            Snapshots::clean(&dir);
            let newest = ron_actors::store::list_snapshots(&dir).ok();
            state.taken_at = newest.and_then(|all| Some(all.last()?.mark?.taken_at));
        }
        if let Some(life) = store.identity().past.last() {
            let restored_at = life.restored_at.rfc3339();
            tracing::info!(restored_at, restores = store.identity().past.len(), "this store was restored");
        }
        let keep = config.store.snapshot_keep as usize;
        let reserve = config.store.reserve.0;
        let snapshots = Snapshots::new(store.clone(), SnapshotConfig { dir, keep, reserve }, clock.clone());
        let (now, wall) = (clock.now(), clock.wall());
        let age = state.taken_at.map(|at| Duration::from_millis(wall.since(at)));
        let snapshots_due = Schedule::begin(config.store.snapshot_every, SNAPSHOT_REST, now, age);
        let scrubs_due = Schedule::begin(config.store.scrub_every, SCRUB_REST, now, None);
        let upkeep = Upkeep {
            snapshots,
            scrub: Scrub::new(store.clone()),
            mailbox,
            store,
            snapshots_due: Mutex::new(snapshots_due),
            scrubs_due: Mutex::new(scrubs_due),
            durable,
            file,
            metrics,
            clock,
            state: Mutex::new(state),
        };
        upkeep.show_age();
        upkeep
    }

    /// Starts the schedules. In amnesia there is nothing to copy, but something to scrub.
    pub fn begin(self: &Arc<Upkeep>) {
        let mut duties = vec![tokio::spawn(self.clone().scrub_again_and_again())];
        if self.durable {
            duties.push(tokio::spawn(self.clone().snapshot_again_and_again()));
        }
        self.state().duties.extend(duties);
    }

    async fn snapshot_again_and_again(self: Arc<Upkeep>) {
        loop {
            self.until_due(&self.snapshots_due).await;
            if self.snapshot().await.is_err() {
                locked(&self.snapshots_due).put_off(self.clock.now());
            }
        }
    }

    async fn scrub_again_and_again(self: Arc<Upkeep>) {
        loop {
            self.until_due(&self.scrubs_due).await;
            if self.scrub().await.is_err() {
                locked(&self.scrubs_due).put_off(self.clock.now());
            }
        }
    }

    /// One that somebody asks for meanwhile puts the next one off.
    async fn until_due(&self, schedule: &Mutex<Schedule>) {
        loop {
            let wait = locked(schedule).wait(self.clock.now());
            if wait.is_zero() {
                return;
            }
            tokio::time::sleep(wait).await;
        }
    }

    /// Ends what runs, and what would run. When it returns nothing is half done.
    pub async fn stop(&self) {
        let duties = std::mem::take(&mut self.state().duties);
        self.snapshots.stop().await;
        self.scrub.stop().await;
        duties.iter().for_each(JoinHandle::abort);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        locked(&self.state)
    }

    fn show_age(&self) {
        let taken_at = self.state().taken_at.unwrap_or_default();
        self.metrics.mailbox.snapshot_timestamp.set(taken_at.0 as f64 / 1e3);
    }

    async fn snapshot(&self) -> Result<SnapshotFile, SnapshotError> {
        let begun = self.clock.now();
        let taken = self.snapshots.run_once().await;
        match &taken {
            Ok(file) => {
                let ms = self.clock.now().since(begun);
                let messages = file.mark.map_or(0, |mark| mark.messages);
                tracing::info!(file = %file.path.display(), bytes = file.bytes, messages, ms, "snapshot taken");
                locked(&self.snapshots_due).done(self.clock.now());
                self.metrics.mailbox.snapshot_ended(true);
                self.metrics.mailbox.snapshot_bytes.set(file.bytes as f64);
                let mut state = self.state();
                state.taken_at = file.mark.map(|mark| mark.taken_at);
                state.failure = None;
            }
            Err(SnapshotError::Busy | SnapshotError::Stopping | SnapshotError::Amnesia) => {}
            Err(error) => {
                tracing::error!(%error, "no snapshot was taken");
                self.metrics.mailbox.snapshot_ended(false);
                self.state().failure = Some(error.to_string());
            }
        }
        self.show_age();
        taken
    }

    async fn scrub(&self) -> Result<Findings, StoreError> {
        let begun = self.clock.now();
        let scrubbed = self.scrub.run_once(|damages| self.found(damages)).await;
        match &scrubbed {
            Ok(findings) => {
                let (messages, damages) = (findings.messages, findings.damages);
                tracing::info!(messages, damages, ms = self.clock.now().since(begun), "store scrubbed");
                locked(&self.scrubs_due).done(self.clock.now());
                self.metrics.mailbox.scrub_timestamp.set(self.clock.wall().0 as f64 / 1e3);
                let first = findings.named.first();
                let text = |damage| format!("the last scrub found {damages} damages, the first: {damage}");
                self.state().damage = first.map(text);
            }
            Err(error) => tracing::warn!(%error, "the scrub did not get through; it begins anew later"),
        }
        scrubbed
    }

    /// Damaged messages go to their dead-letter queues; a damaged row is for a person.
    async fn found(&self, damages: Vec<Damage>) {
        let mut by_queue: BTreeMap<QueueKey, Vec<Slot>> = BTreeMap::new();
        self.metrics.mailbox.scrub_damages.increment(damages.len() as u64);
        for damage in damages {
            match damage {
                Damage::Record { queue: Some(queue), slot, .. } => {
                    by_queue.entry(queue).or_default().push(slot);
                }
                other => tracing::error!(damage = %other, "the store is damaged"),
            }
        }
        for (queue, slots) in by_queue {
            self.mailbox.rotted(&queue, slots).await;
        }
    }

    /// Scrubs the store for `peer`.
    ///
    /// # Errors
    /// STORAGE if it cannot be read.
    pub async fn scrub_now(self: &Arc<Upkeep>, peer: Peer) -> Result<Value, Refusal> {
        tracing::info!(?peer, "scrub asked for");
        let upkeep = self.clone();
        // It goes on if whoever asked does not wait for it.
        let done = tokio::spawn(async move { upkeep.scrub().await }).await;
        let findings = done.map_err(|_| SnapshotError::Lost)?.map_err(SnapshotError::Store)?;
        Ok(shown_findings(&findings))
    }

    /// Takes a snapshot for `peer`; it is on the device and verified when this returns.
    ///
    /// # Errors
    /// POLICY_BLOCKED in amnesia, BACKPRESSURE while another is being taken, STORAGE if it failed.
    pub async fn take_snapshot(self: &Arc<Upkeep>, peer: Peer) -> Result<Value, Refusal> {
        tracing::info!(?peer, "snapshot asked for");
        let upkeep = self.clone();
        // It goes on if whoever asked does not wait for it.
        let taken = tokio::spawn(async move { upkeep.snapshot().await }).await;
        Ok(shown_snapshot(&taken.map_err(|_| SnapshotError::Lost)??))
    }

    /// The snapshots there are, oldest first.
    ///
    /// # Errors
    /// POLICY_BLOCKED in amnesia, STORAGE if the directory cannot be read.
    pub async fn snapshots(&self) -> Result<Value, Refusal> {
        let all = self.snapshots.list().await?;
        Ok(json!({ "snapshots": all.iter().map(shown_snapshot).collect::<Vec<_>>() }))
    }

    /// Reads all of a snapshot.
    ///
    /// # Errors
    /// NOT_FOUND for a name that is none, else as [`Upkeep::snapshots`].
    pub async fn verify_snapshot(&self, name: &str) -> Result<Value, Refusal> {
        let findings = self.snapshots.verify(name).await?;
        if !findings.is_clean() {
            tracing::error!(name, damages = findings.damages, "a snapshot is damaged");
        }
        Ok(shown_findings(&findings))
    }

    /// What the running store knows of itself.
    ///
    /// # Errors
    /// STORAGE while it is being reopened.
    pub async fn stats(&self) -> Result<Value, Refusal> {
        let asked = self.store.ask(|engine| (engine.figures(), engine.topics().count())).await;
        let (figures, topics) = asked.map_err(|_| SnapshotError::Store(StoreError::Reopening))?;
        let file_bytes = self.durable.then(|| std::fs::metadata(&self.file).map_or(0, |about| about.len()));
        Ok(json!({
            "file_bytes": file_bytes,
            "live_bytes": figures.live_bytes(),
            "topics": topics,
            "messages": figures.live,
            "ram_messages": figures.ram_messages,
            "body_bytes": figures.body_bytes,
            "dedup_keys": figures.dedup_keys,
            "objects": figures.objects,
            "object_bytes": figures.object_bytes,
            "chunks": figures.chunks,
            "stragglers": figures.stragglers,
            "commits": figures.commits,
        }))
    }

    /// Brings the figures of the file up to date; what an operator should know.
    #[must_use]
    pub fn look(&self, figures: &StoreFigures) -> Vec<String> {
        if !self.durable {
            return self.state().damage.clone().into_iter().collect();
        }
        let bytes = std::fs::metadata(&self.file).map_or(0, |about| about.len());
        self.metrics.mailbox.store_file_bytes.set(bytes as f64);
        self.metrics.mailbox.store_live_bytes.set(figures.live_bytes() as f64);
        let mut warnings = Vec::new();
        let large = bytes > FILE_WORTH_A_WORD && bytes > FILE_OVER_LIVE * figures.live_bytes();
        let mut state = self.state();
        if large {
            let text = format!(
                "store.redb has {bytes} bytes and needs about {}: stop the node and run `ronctl store compact`",
                figures.live_bytes()
            );
            if !std::mem::replace(&mut state.told_of_size, true) {
                tracing::warn!("{text}");
            }
            warnings.push(text);
        } else {
            state.told_of_size = false;
        }
        warnings.extend(state.damage.clone());
        if let Some(failure) = &state.failure {
            warnings.push(format!("the last snapshot failed: {failure}"));
        }
        warnings
    }
}

fn locked<T>(it: &Mutex<T>) -> MutexGuard<'_, T> {
    it.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where the snapshots of a node with this configuration are.
#[must_use]
pub fn snapshot_dir(config: &Config) -> PathBuf {
    config.store.snapshot_dir.clone().unwrap_or_else(|| config.node.data_dir.join("snapshots"))
}

/// A snapshot, for `ronctl`.
#[must_use]
pub fn shown_snapshot(file: &SnapshotFile) -> Value {
    let mark = file.mark.as_ref();
    json!({
        "name": file.name,
        "path": file.path,
        "bytes": file.bytes,
        "readable": mark.is_some(),
        "taken_at": mark.map(|mark| mark.taken_at.rfc3339()),
        "messages": mark.map(|mark| mark.messages),
        "ram_messages_left_out": mark.map(|mark| mark.ram_messages),
        "topics": mark.map(|mark| mark.topics),
        "dedup_keys": mark.map(|mark| mark.dedup_keys),
        "next_sequence": mark.map(|mark| mark.next_chunk << 16),
    })
}

/// What a check found, for `ronctl`.
#[must_use]
pub fn shown_findings(findings: &Findings) -> Value {
    json!({
        "ok": findings.is_clean(),
        "rows": findings.rows,
        "messages": findings.messages,
        "bytes": findings.bytes,
        "damages": findings.damages,
        "damaged": findings.named.iter().map(ToString::to_string).collect::<Vec<_>>(),
    })
}
