//! Snapshots of the store, taken while it is written: made under another name, verified, renamed, and the oldest
//! dropped. All that blocks runs on the blocking pool in short pieces with pauses between them, so that neither
//! commits nor the runtime's workers wait for it.

use super::actor::Store;
use super::check::Checker;
use super::copy::{Copying, Cut, Source};
use super::engine::Engine;
use super::error::{StoreError, UnitFailure};
use super::findings::Findings;
use super::identity::{SnapshotMark, snapshot_mark};
use super::schema::META;
use super::untouched;
use crate::blocking::Job;
use redb::backends::FileBackend;
use redb::{Database, ReadableDatabase};
use ron_core::reason::{Reason, Refusal};
use ron_core::time::Clock;
use serde::Serialize;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// After each piece as many times as long as it took, so that a snapshot is felt as a fifth of a processor.
const PAUSE_FACTOR: u64 = 4;
/// The longest of these pauses, ms.
const PAUSE_MS_MAX: u64 = 100;
/// Bytes checked in one piece.
const CHECKED_BYTES: usize = 256 << 10;
/// A store that grows faster than it can be copied is copied this many times its size before its cut.
const CHASED: u64 = 4;
const BEGINS: &str = "snapshot-";
const ENDS: &str = ".redb";
const DRAFT_ENDS: &str = ".redb.new";

/// Why there is no snapshot.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The store lives in RAM.
    #[error("the node is in amnesia and writes no file: there are no snapshots")]
    Amnesia,
    /// One is being taken.
    #[error("another snapshot is being taken; try again when it is done")]
    Busy,
    /// The node stops.
    #[error("the node is shutting down")]
    Stopping,
    /// Too little room for it.
    #[error(
        "the snapshot needs about {needs} bytes and {dir} has {free}; make room or set store.snapshot_dir"
    )]
    NoRoom {
        /// Bytes, about.
        needs: u64,
        /// Bytes that may be used.
        free: u64,
        /// Where.
        dir: String,
    },
    /// No such file in the directory.
    #[error("there is no snapshot of this name; `ronctl snapshot list` shows them")]
    Unknown,
    /// It was made and is not what it must be.
    #[error("the copy did not pass its check and was removed: {0}")]
    Damaged(String),
    /// The store failed while it was copied.
    #[error("the store: {0}")]
    Store(#[from] StoreError),
    /// The directory or the file.
    #[error("{path}: {error}")]
    Io {
        /// Which.
        path: String,
        /// What went wrong.
        error: io::Error,
    },
    /// The work panicked, which the log tells.
    #[error("it ended in a bug, which the log names")]
    Lost,
}

impl From<SnapshotError> for Refusal {
    fn from(error: SnapshotError) -> Refusal {
        let reason = match &error {
            SnapshotError::Amnesia => Reason::PolicyBlocked,
            SnapshotError::Busy => Reason::Backpressure,
            SnapshotError::Stopping => Reason::Degraded,
            SnapshotError::Unknown => Reason::NotFound,
            SnapshotError::NoRoom { .. }
            | SnapshotError::Damaged(_)
            | SnapshotError::Store(_)
            | SnapshotError::Io { .. } => Reason::Storage,
            SnapshotError::Lost => Reason::Internal,
        };
        Refusal::new(reason, error.to_string()).without_effect()
    }
}

/// A snapshot on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SnapshotFile {
    /// Its name in the directory.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
    /// Bytes.
    pub bytes: u64,
    /// What it says of itself; `None` if it cannot be read.
    pub mark: Option<SnapshotMark>,
}

/// Where snapshots are, and how many are kept.
#[derive(Debug, Clone)]
pub struct SnapshotConfig {
    /// The directory; made at the first snapshot.
    pub dir: PathBuf,
    /// How many are kept.
    pub keep: usize,
    /// Free bytes that a snapshot must leave on the device, or it is not begun: sends need them more.
    pub reserve: u64,
}

/// Takes snapshots. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Snapshots(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Store,
    config: SnapshotConfig,
    clock: Arc<dyn Clock>,
    running: tokio::sync::Mutex<()>,
    stopping: AtomicBool,
}

impl Snapshots {
    /// Snapshots of this store.
    #[must_use]
    pub fn new(store: Store, config: SnapshotConfig, clock: Arc<dyn Clock>) -> Snapshots {
        let (running, stopping) = (tokio::sync::Mutex::default(), AtomicBool::new(false));
        Snapshots(Arc::new(Inner { store, config, clock, running, stopping }))
    }

    /// Takes one now. It is on the device and verified when this returns. Dropping the future ends it.
    ///
    /// # Errors
    /// [`SnapshotError`]; nothing is left of it then.
    pub async fn run_once(&self) -> Result<SnapshotFile, SnapshotError> {
        let inner = &self.0;
        if !inner.store.durable() {
            return Err(SnapshotError::Amnesia);
        }
        let _turn = inner.running.try_lock().map_err(|_| SnapshotError::Busy)?;
        inner.go_on()?;
        let figures = inner.store.ask(Engine::figures).await.map_err(unanswered)?;
        let config = inner.config.clone();
        let needs = figures.live_bytes() * 2; // a file of redb grows in large steps
        let draft = inner.blocking(move || Draft::begin(&config, needs)).await??;
        let mark = inner.fill(&draft).await?;
        inner.verify(&draft.path, false).await?;
        let config = inner.config.clone();
        let done = inner.blocking(move || draft.publish(mark).inspect(|_| rotate(&config))).await??;
        Ok(done)
    }

    /// Ends the one that runs, and lets no other begin. Returns when nothing is left of it.
    pub async fn stop(&self) {
        self.0.stopping.store(true, Ordering::SeqCst);
        drop(self.0.running.lock().await);
    }

    /// What is there, oldest first.
    ///
    /// # Errors
    /// Amnesia, or the directory's.
    pub async fn list(&self) -> Result<Vec<SnapshotFile>, SnapshotError> {
        if !self.0.store.durable() {
            return Err(SnapshotError::Amnesia);
        }
        let dir = self.0.config.dir.clone();
        self.0.blocking(move || list_snapshots(&dir)).await?
    }

    /// Reads all of a snapshot, by its name in the directory.
    ///
    /// # Errors
    /// Amnesia, no such snapshot, or it cannot be read; damage is not an error but a finding.
    pub async fn verify(&self, name: &str) -> Result<Findings, SnapshotError> {
        let known = self.list().await?.into_iter().find(|file| file.name == name);
        let file = known.ok_or(SnapshotError::Unknown)?;
        self.0.check(&file.path, true).await
    }

    /// Removes what an interrupted one left: at start, before one can run. Blocks.
    pub fn clean(dir: &Path) {
        for (name, path) in entries(dir).unwrap_or_default() {
            if name.starts_with(BEGINS) && name.ends_with(DRAFT_ENDS) {
                match fs::remove_file(&path) {
                    Ok(()) => tracing::info!(file = name, "an unfinished snapshot was removed"),
                    Err(error) => tracing::warn!(file = name, %error, "an unfinished snapshot stays"),
                }
            }
        }
    }
}

impl Inner {
    fn go_on(&self) -> Result<(), SnapshotError> {
        if self.stopping.load(Ordering::SeqCst) { Err(SnapshotError::Stopping) } else { Ok(()) }
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, SnapshotError> {
        self.store.blocking().run(Job::Read, work).await.ok_or(SnapshotError::Lost)
    }

    /// One piece of work, and a pause after it.
    async fn piece<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, SnapshotError> {
        let begun = self.clock.now();
        let done = self.blocking(work).await??;
        let took_ms = self.clock.now().since(begun) + 1; // what is left of one counts as one
        tokio::time::sleep(Duration::from_millis((took_ms * PAUSE_FACTOR).min(PAUSE_MS_MAX))).await;
        self.go_on()?;
        Ok(done)
    }

    /// Copies the store into the draft.
    async fn fill(&self, draft: &Draft) -> Result<SnapshotMark, SnapshotError> {
        let _held = self.store.reader().hold_rewrites();
        // behind whatever rewrite was under way
        let source = self.store.ask(|engine| (Source::of(engine), engine.next_chunk, engine.figures()));
        let (source, next_chunk, figures) = source.await.map_err(unanswered)?;
        let file = draft.file.try_clone().map_err(|error| draft.io(error))?;
        let backend = FileBackend::new(file).map_err(StoreError::from)?;
        let mut copying = self.blocking(move || Copying::new(backend, next_chunk)).await??;
        loop {
            let from = source.clone();
            let more;
            (copying, more) = self.piece(move || copying.slice(&from).map(|more| (copying, more))).await?;
            if !more || copying.bytes > CHASED * (figures.body_bytes + figures.object_bytes + (64 << 20)) {
                break;
            }
        }
        let wall = self.clock.wall();
        let cut = self.store.ask(move |engine| Cut::of(engine, wall)).await.map_err(unanswered)??;
        let (copying, mark) = self.piece(move || copying.rest(cut).map(|mark| (copying, mark))).await?;
        let mut left = Some(copying);
        // the last piece closes the copy as well, which writes and syncs
        while let Some(mut copying) = left {
            left = self.piece(move || copying.drop_gone().map(|more| more.then_some(copying))).await?;
        }
        Ok(mark)
    }

    /// Checks a file; damage is an error.
    async fn verify(&self, path: &Path, shared: bool) -> Result<(), SnapshotError> {
        let findings = self.check(path, shared).await?;
        match findings.named.first() {
            Some(damage) => Err(SnapshotError::Damaged(damage.to_string())),
            None => Ok(()),
        }
    }

    async fn check(&self, path: &Path, shared: bool) -> Result<Findings, SnapshotError> {
        let path = path.to_owned();
        let open = move || -> Result<Database, StoreError> {
            // what the device has is what counts; if the system can't say, its cache has to do
            let _ = untouched::forget_cached(&path);
            untouched::open(&path, shared)
        };
        let (mut left, mut checker) = (Some(self.blocking(open).await??), Checker::default());
        while let Some(db) = left {
            let step = move || {
                let more = checker.step(&db.begin_read()?, CHECKED_BYTES)?;
                Ok((more.then_some(db), checker))
            };
            (left, checker) = self.piece(step).await?;
        }
        Ok(checker.findings().clone())
    }
}

fn unanswered(_: UnitFailure) -> SnapshotError {
    SnapshotError::Store(StoreError::Reopening)
}

/// A snapshot that is not yet one; removed when it is dropped.
#[derive(Debug)]
struct Draft {
    dir: PathBuf,
    number: u64,
    path: PathBuf,
    file: File,
    published: bool,
}

impl Draft {
    fn begin(config: &SnapshotConfig, needs: u64) -> Result<Draft, SnapshotError> {
        let dir = config.dir.clone();
        let io = |error| io_error(&dir, error);
        DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(io)?;
        Snapshots::clean(&dir);
        let disk = rustix::fs::statvfs(&dir).map_err(|errno| io_error(&dir, errno.into()))?;
        let free = (disk.f_bavail * disk.f_frsize).saturating_sub(config.reserve);
        if free < needs {
            return Err(SnapshotError::NoRoom { needs, free, dir: dir.display().to_string() });
        }
        let numbers = entries(&dir).map_err(io)?;
        let number = numbers.iter().filter_map(|(name, _)| number_of(name)).max().unwrap_or(0) + 1;
        let path = dir.join(format!("{BEGINS}{number:06}{DRAFT_ENDS}"));
        let mut options = OpenOptions::new();
        let opened = options.read(true).write(true).create_new(true).mode(0o600).open(&path);
        let file = opened.map_err(|error| io_error(&path, error))?;
        Ok(Draft { dir, number, path, file, published: false })
    }

    fn io(&self, error: io::Error) -> SnapshotError {
        io_error(&self.path, error)
    }

    fn publish(mut self, mark: SnapshotMark) -> Result<SnapshotFile, SnapshotError> {
        self.file.sync_all().map_err(|error| self.io(error))?;
        let stamp: String =
            mark.taken_at.rfc3339().chars().filter(|c| !matches!(c, '-' | ':' | '.')).collect();
        let name = format!("{BEGINS}{:06}-{stamp}{ENDS}", self.number);
        let path = self.dir.join(&name);
        fs::rename(&self.path, &path).map_err(|error| self.io(error))?;
        self.published = true;
        File::open(&self.dir).and_then(|dir| dir.sync_all()).map_err(|error| io_error(&self.dir, error))?;
        let bytes = self.file.metadata().map_err(|error| self.io(error))?.len();
        Ok(SnapshotFile { name, path, bytes, mark: Some(mark) })
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.published {
            // If it stays, the next one or the next start removes it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn io_error(path: &Path, error: io::Error) -> SnapshotError {
    SnapshotError::Io { path: path.display().to_string(), error }
}

/// The snapshots in a directory, oldest first. A directory that does not exist has none. Blocks.
///
/// # Errors
/// The directory cannot be read.
pub fn list_snapshots(dir: &Path) -> Result<Vec<SnapshotFile>, SnapshotError> {
    let mut found: Vec<(u64, SnapshotFile)> = Vec::new();
    for (name, path) in entries(dir).map_err(|error| io_error(dir, error))? {
        let Some(number) = number_of(&name).filter(|_| name.ends_with(ENDS)) else { continue };
        let bytes = fs::metadata(&path).map_or(0, |about| about.len());
        let mark = read_mark(&path).ok().flatten();
        found.push((number, SnapshotFile { name, path, bytes, mark }));
    }
    found.sort_by_key(|(number, _)| *number);
    Ok(found.into_iter().map(|(_, file)| file).collect())
}

fn read_mark(path: &Path) -> Result<Option<SnapshotMark>, StoreError> {
    snapshot_mark(&untouched::open(path, true)?.begin_read()?.open_table(META)?)
}

fn entries(dir: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    let listed = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        listed => listed?,
    };
    let mut entries = Vec::new();
    for entry in listed {
        let entry = entry?;
        entries.extend(entry.file_name().into_string().ok().map(|name| (name, entry.path())));
    }
    Ok(entries)
}

/// The running number in a name, of a snapshot or a draft: the order they were taken in, whatever the clock did.
fn number_of(name: &str) -> Option<u64> {
    let rest = name.strip_prefix(BEGINS)?;
    let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    rest[..digits].parse().ok()
}

/// Drops the oldest of more than are kept.
fn rotate(config: &SnapshotConfig) {
    let Ok(entries) = entries(&config.dir) else { return };
    let mut all: Vec<(u64, PathBuf)> = entries
        .into_iter()
        .filter(|(name, _)| name.ends_with(ENDS))
        .filter_map(|(name, path)| Some((number_of(&name)?, path)))
        .collect();
    all.sort_unstable();
    let surplus = all.len().saturating_sub(config.keep.max(1));
    for (_, path) in &all[..surplus] {
        if let Err(error) = fs::remove_file(path) {
            tracing::warn!(file = %path.display(), %error, "an old snapshot could not be removed");
        }
    }
}
