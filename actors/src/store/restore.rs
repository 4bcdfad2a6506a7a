//! Puts a store made of a snapshot into the place of one that no node has open.
//!
//! The new store has a new incarnation and gives numbers far above all that were ever given, so no id is given
//! twice and no old receipt means anything. What was in flight is ready again, since nobody can settle it. The old
//! file stays under another name. Blocks; for the operators' command, not for a node.

use super::check::Checker;
use super::codec::{ChunkStates, seal_value};
use super::engine::{chunk_states, write_meta};
use super::error::StoreError;
use super::findings::Findings;
use super::fold::merge;
use super::identity::{Identity, PastLife, SnapshotMark, begin_new_life, snapshot_mark};
use super::inventory::{Inventory, unfolded};
use super::schema::{DELTA, HEAD, META, STATE, STILL};
use super::volume::{Volume, lay_out};
use super::{JOURNAL_BYTES, untouched};
use redb::backends::FileBackend;
use redb::{Database, ReadTransaction, ReadableDatabase, ReadableTable, WriteTransaction};
use ron_core::ids::Incarnation;
use ron_core::message::{MsgState, Phase};
use ron_core::time::Millis;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Chunk numbers left out at a restore. What was given after the snapshot, and is known to nobody any more, lies
/// below: at 5,000 chunks a second it would take 159 days to give as many.
const CHUNKS_LEFT_OUT: u64 = 1 << 36;

/// Why nothing was restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// A node has the store open.
    #[error("a node is running on {0}: stop it first")]
    InUse(PathBuf),
    /// The file is a store, not a snapshot.
    #[error("{0} is not a snapshot (`ronctl snapshot list` shows them)")]
    NotASnapshot(PathBuf),
    /// The snapshot does not pass its check.
    #[error("{path} does not pass its check, {damages} damages: {first}")]
    Damaged {
        /// The snapshot.
        path: PathBuf,
        /// How many.
        damages: u64,
        /// The first of them.
        first: String,
    },
    /// One of the two files.
    #[error("{path}: {error}")]
    Store {
        /// Which.
        path: PathBuf,
        /// What went wrong.
        error: StoreError,
    },
    /// The files' directory.
    #[error("{path}: {error}")]
    Io {
        /// Which.
        path: PathBuf,
        /// What went wrong.
        error: io::Error,
    },
}

/// What a restore does to one topic.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TopicRestored {
    /// Live messages that come back.
    pub back: u64,
    /// Of those, how many had been acked or had ended since the snapshot: they come once more.
    pub again: u64,
    /// Of those that come back, how many were in flight in the snapshot: they are ready at once.
    pub in_flight: u64,
    /// Live messages of the old store that the snapshot does not have.
    pub forgotten: u64,
}

/// What a restore would do, or has done.
#[derive(Debug)]
pub struct Plan {
    snapshot: PathBuf,
    store: PathBuf,
    /// Keeps nodes away; `None` = there is no store yet.
    old: Option<File>,
    /// What the snapshot says of itself.
    pub mark: SnapshotMark,
    /// What its check read.
    pub findings: Findings,
    /// Topic by topic, by name.
    pub topics: BTreeMap<String, TopicRestored>,
    /// Idempotency keys that come back.
    pub keys_back: u64,
    /// Idempotency keys of the old store that the snapshot does not have.
    pub keys_forgotten: u64,
    /// What is known of the store that is replaced; `None` = there is none.
    pub replaces: Option<Replaced>,
    next_chunk: u64,
    node_time: Millis,
    low_bits: Vec<u16>,
}

/// The store that is replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Replaced {
    /// The snapshot is one of it, or of a store before it.
    Same,
    /// It has nothing to do with the snapshot: all of it is set aside.
    Another,
    /// It cannot be read, so what is forgotten is not known.
    Unreadable(String),
}

/// What a restore has done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// The new store.
    pub store: PathBuf,
    /// Where the old one is now.
    pub aside: Option<PathBuf>,
    /// The first 64-bit sequence number that it gives.
    pub next_sequence: u64,
}

impl Plan {
    /// Looks at both files and changes neither. While the plan lives no node can open the store.
    ///
    /// # Errors
    /// [`RestoreError`]: a node runs, or the snapshot is none or is damaged.
    pub fn make(snapshot: &Path, store: &Path) -> Result<Plan, RestoreError> {
        let of = |path: &Path| {
            let path = path.to_owned();
            move |error| RestoreError::Store { path, error }
        };
        let old = lock(store)?;
        let db = untouched::open(snapshot, true).map_err(of(snapshot))?;
        let (txn, mark) = open_snapshot(snapshot, &db)?;
        let findings = Checker::default().run(&txn).map_err(of(snapshot))?;
        if let Some(first) = findings.named.first() {
            let (path, damages) = (snapshot.to_owned(), findings.damages);
            return Err(RestoreError::Damaged { path, damages, first: first.to_string() });
        }
        let identity = identity_of(&txn).map_err(of(snapshot))?;
        let held = Inventory::take(&txn).map_err(of(snapshot))?;
        let mut plan = Plan {
            snapshot: snapshot.to_owned(),
            store: store.to_owned(),
            mark,
            findings,
            topics: BTreeMap::new(),
            keys_back: held.keys.len() as u64,
            keys_forgotten: 0,
            replaces: None,
            next_chunk: mark.next_chunk.max(held.next_chunk),
            node_time: mark.node_time.max(held.node_time),
            low_bits: low_bits(&identity),
            old,
        };
        if plan.old.is_some() {
            plan.replaces = Some(plan.compare(&held, &identity));
        } else {
            plan.count(&held, None);
        }
        Ok(plan)
    }

    fn compare(&mut self, held: &Inventory, snapshot: &Identity) -> Replaced {
        // its lock is ours
        let read = untouched::open(&self.store, false).and_then(|db| {
            let txn = db.begin_read()?;
            Ok((identity_of(&txn)?, Inventory::take(&txn)?))
        });
        let (identity, old) = match read {
            Ok(read) => read,
            Err(error) => {
                self.count(held, None);
                return Replaced::Unreadable(error.to_string());
            }
        };
        self.next_chunk = self.next_chunk.max(old.next_chunk);
        self.node_time = self.node_time.max(old.node_time);
        self.low_bits.extend(low_bits(&identity));
        let same = identity.descends_from(snapshot.incarnation);
        self.count(held, same.then_some(&old));
        if !same {
            return Replaced::Another;
        }
        self.keys_forgotten =
            old.keys.iter().filter(|key| held.keys.binary_search(key).is_err()).count() as u64;
        Replaced::Same
    }

    fn count(&mut self, held: &Inventory, old: Option<&Inventory>) {
        for (topic, live) in &held.topics {
            let counts = self.topics.entry(topic.clone()).or_default();
            counts.back = live.len();
            counts.in_flight = live.in_flight;
            let still = old.map(|old| old.topics.get(topic).map_or(0, |now| live.common(now)));
            counts.again = still.map_or(0, |still| counts.back - still);
        }
        for (topic, now) in old.iter().flat_map(|old| &old.topics) {
            let common = held.topics.get(topic).map_or(0, |live| live.common(now));
            self.topics.entry(topic.clone()).or_default().forgotten = now.len() - common;
        }
    }

    /// Does it. `now` is the wall clock.
    ///
    /// # Errors
    /// [`RestoreError`]; the old store is then still in its place.
    pub fn carry_out(self, entropy: [u8; 40], now: Millis) -> Result<Restored, RestoreError> {
        let mut new = self.store.clone().into_os_string();
        new.push(".new");
        let new = PathBuf::from(new);
        let done = self.build(&new, entropy, now);
        let done = done.and_then(|next_chunk| self.switch(&new, now).map(|aside| (next_chunk, aside)));
        if done.is_err() {
            // the next restore, or the next start, removes it otherwise
            let _ = fs::remove_file(&new);
        }
        let (next_chunk, aside) = done?;
        Ok(Restored { store: self.store.clone(), aside, next_sequence: next_chunk << 16 })
    }

    fn build(&self, new: &Path, entropy: [u8; 40], now: Millis) -> Result<u64, RestoreError> {
        let io = |error| RestoreError::Io { path: new.to_owned(), error };
        let _ = fs::remove_file(new); // what an earlier one left
        let mut file = OpenOptions::new();
        let file = file.read(true).write(true).create_new(true).mode(0o600).open(new).map_err(io)?;
        let mut from = File::open(&self.snapshot)
            .map_err(|error| RestoreError::Io { path: self.snapshot.clone(), error })?;
        let backend = || FileBackend::new(file.try_clone()?).map_err(io::Error::other);
        lay_out(&backend().map_err(io)?, JOURNAL_BYTES).map_err(io)?;
        (&file).seek(io::SeekFrom::End(0)).map_err(io)?;
        io::copy(&mut from, &mut &file).map_err(io)?;
        let next_chunk = self.next_chunk + CHUNKS_LEFT_OUT;
        let written = || -> Result<(), StoreError> {
            let volume =
                Volume::open(backend().map_err(redb::Error::Io)?, &Database::builder(), JOURNAL_BYTES)?;
            let mut txn = volume.db.begin_write()?;
            txn.set_two_phase_commit(true);
            self.write(&txn, next_chunk, entropy, now)?;
            txn.commit()?;
            Ok(())
        };
        written().map_err(|error| RestoreError::Store { path: new.to_owned(), error })?;
        file.sync_all().map_err(io)?;
        Ok(next_chunk)
    }

    fn write(
        &self,
        txn: &WriteTransaction,
        next_chunk: u64,
        entropy: [u8; 40],
        now: Millis,
    ) -> Result<(), StoreError> {
        release_all(txn)?;
        let old = Identity::read(&txn.open_table(META)?)?;
        let (bits, key) = entropy.split_at(8);
        let mut incarnation = u64::from_le_bytes(bits.try_into().unwrap_or_default());
        // ids hold 16 bits of it: none that was used before
        while self.low_bits.contains(&(incarnation as u16)) {
            incarnation = incarnation.wrapping_add(1);
        }
        let restored_at = now.max(self.node_time);
        let life = PastLife { incarnation: old.incarnation.0, until_chunk: next_chunk, restored_at };
        begin_new_life(txn, &old, incarnation, key.try_into().unwrap_or_default(), life)?;
        write_meta(txn, "next_chunk", &next_chunk)?;
        write_meta(txn, "node_time", &self.node_time)
    }

    /// Renames in an order in which there is a store at every moment: without one, a node would begin an empty one.
    fn switch(&self, new: &Path, now: Millis) -> Result<Option<PathBuf>, RestoreError> {
        let io = |path: &Path| {
            let path = path.to_owned();
            move |error| RestoreError::Io { path, error }
        };
        let dir = self.store.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let sync = || File::open(dir).and_then(|dir| dir.sync_all()).map_err(io(dir));
        let aside = self.old.is_some().then(|| {
            let stamp: String = now.rfc3339().chars().filter(|c| !matches!(c, '-' | ':' | '.')).collect();
            let mut aside = self.store.clone().into_os_string();
            aside.push(format!(".before-{stamp}"));
            PathBuf::from(aside)
        });
        match &aside {
            Some(aside) => {
                fs::hard_link(&self.store, aside).map_err(io(aside))?;
                sync()?;
                fs::rename(new, &self.store).map_err(io(&self.store))?;
            }
            None => {
                // no lock kept a node from beginning a store meanwhile: that one stays
                fs::hard_link(new, &self.store).map_err(io(&self.store))?;
                fs::remove_file(new).map_err(io(new))?;
            }
        }
        sync()?;
        Ok(aside)
    }
}

/// The lock that a node takes; `None` if there is no store.
fn lock(store: &Path) -> Result<Option<File>, RestoreError> {
    let io = |error| RestoreError::Io { path: store.to_owned(), error };
    let file = match OpenOptions::new().read(true).write(true).open(store) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io(error)),
    };
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(fs::TryLockError::WouldBlock) => Err(RestoreError::InUse(store.to_owned())),
        Err(fs::TryLockError::Error(error)) => Err(io(error)),
    }
}

fn open_snapshot(path: &Path, db: &Database) -> Result<(ReadTransaction, SnapshotMark), RestoreError> {
    let read = || -> Result<_, StoreError> {
        let txn = db.begin_read()?;
        let mark = match txn.open_table(META) {
            Ok(meta) => snapshot_mark(&meta)?,
            Err(redb::TableError::TableDoesNotExist(_)) => None,
            Err(error) => return Err(error.into()),
        };
        Ok((txn, mark))
    };
    match read() {
        Ok((txn, Some(mark))) => Ok((txn, mark)),
        Ok((_, None)) => Err(RestoreError::NotASnapshot(path.to_owned())),
        Err(error) => Err(RestoreError::Store { path: path.to_owned(), error }),
    }
}

fn identity_of(txn: &ReadTransaction) -> Result<Identity, StoreError> {
    Identity::read(&txn.open_table(META)?)
}

/// The bits of a store's incarnations that its ids hold.
fn low_bits(identity: &Identity) -> Vec<u16> {
    let Incarnation(now) = identity.incarnation;
    identity.past.iter().map(|life| life.incarnation).chain([now]).map(|bits| bits as u16).collect()
}

/// Folds every delta, and gives back what is in flight: its attempt does not count, for its consumer did not fail.
/// One that was handed out too often is for the node to bury.
fn release_all(txn: &WriteTransaction) -> Result<(), StoreError> {
    let unfolded = unfolded(&txn.open_table(DELTA)?)?;
    let heads = txn.open_table(HEAD)?;
    let mut states = txn.open_table(STATE)?;
    let mut touched = BTreeSet::new();
    for row in states.iter()? {
        touched.insert(row?.0.value());
    }
    for chunk in unfolded.keys() {
        // changes may outlive their chunk
        if heads.get(chunk)?.is_some() {
            touched.insert(*chunk);
        }
    }
    let none = BTreeMap::new();
    for chunk in touched {
        let before = match states.get(chunk)? {
            Some(row) => chunk_states(chunk, row.value())?,
            None => ChunkStates::default(),
        };
        let mut after = merge(&before, unfolded.get(&chunk).unwrap_or(&none));
        after.states.iter_mut().for_each(|(_, state)| release(state));
        if after != before {
            states.insert(chunk, seal_value(&after).as_slice())?;
        }
    }
    txn.open_table(DELTA)?.retain(|_, _| false)?;
    txn.open_table(STILL)?.retain(|_, _| false)?; // no lease is left whose clock could stand still
    Ok(())
}

fn release(state: &mut MsgState) {
    if state.phase == Phase::Leased {
        // a lease that has ended: ready, or dead if that was its last delivery
        state.at = Millis(0);
        state.attempt = state.attempt.saturating_sub(1);
    }
}
