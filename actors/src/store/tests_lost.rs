//! Units that are lost on their way, and what may come after them.

use super::backend::RamBackend;
use super::renew::{Place, Renewing};
use super::*;
use crate::kernel::clock::ManualClock;
use ron_core::ids::{ContentHash, QueueKey, ShardId, Tenant, Topic};
use ron_core::message::{MessageMeta, MsgState, NewMessage, Phase, Settled, StateOp};
use ron_core::shard::TopicState;
use ron_core::time::Millis;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

const SHARD: ShardId = ShardId(1);

/// Panics inside the next commit when told to.
#[derive(Debug, Default)]
struct Observer(AtomicBool);

impl StoreObserver for Observer {
    fn committed(&self, _: f64, _: usize) {
        assert!(!self.0.swap(false, Ordering::SeqCst), "told to");
    }
    fn failed(&self) {}
}

fn open(medium: Arc<dyn Medium>) -> (Arc<EngineCell>, Arc<Observer>) {
    let observer = Arc::new(Observer::default());
    let clock = |_| -> Arc<dyn ron_core::time::Clock> { Arc::new(ManualClock::new(Millis(1_000))) };
    let opened = EngineCell::open(medium, StoreConfig::default(), &clock, [7; 40], observer.clone());
    (opened.unwrap().cell, observer)
}

fn message() -> NewMessage {
    let payload = bytes::Bytes::from_static(b"x");
    let meta = MessageMeta {
        content_type: "text/plain".into(),
        attrs: Vec::new(),
        idempotency_key: None,
        corr_id: "corr-0001".into(),
        source_msg_id: None,
        body_ref: None,
    };
    let payload_hash = ContentHash::of(&payload);
    NewMessage { payload, payload_hash, meta, delay_ms: 0, ttl_ms: None, dedup: None }
}

type Answer = Arc<Mutex<Option<Result<usize, UnitFailure>>>>;

/// A unit that stores one message, and where its answer will be.
fn unit(epoch: ShardEpoch) -> (Unit, Answer) {
    let key = QueueKey { tenant: Tenant::parse("t").unwrap(), topic: Topic::parse("q").unwrap() };
    let work = Work {
        epoch,
        topic: Some(TopicRow { key, state: TopicState::default() }),
        puts: vec![message()],
        ..Work::default()
    };
    let answer = Answer::default();
    let slot = answer.clone();
    let done = move |result: UnitResult<'_>| {
        *slot.lock().unwrap() = Some(result.map(<[_]>::len));
    };
    (Unit::new(SHARD, work, None, Some(Box::new(done))), answer)
}

fn commit(cell: &EngineCell, epoch: ShardEpoch) -> Result<usize, UnitFailure> {
    let (unit, answer) = unit(epoch);
    cell.run(vec![unit]);
    answer.lock().unwrap().take().unwrap()
}

#[test]
fn nothing_is_committed_on_top_of_a_unit_that_was_lost() {
    let (cell, _) = open(Arc::new(RamMedium::default()));
    let epoch = cell.load(SHARD).unwrap().epoch;
    assert_eq!(commit(&cell, epoch), Ok(1));
    let (mut lost, answer) = unit(epoch);
    cell.queue().enlist(&mut lost);
    drop(lost); // as when the store's actor dies with it
    assert_eq!(*answer.lock().unwrap(), Some(Err(UnitFailure::Indeterminate)));
    for _ in 0..2 {
        assert_eq!(commit(&cell, epoch), Err(UnitFailure::NotTried), "it may rest on the lost one");
    }
    let newer = cell.load(SHARD).unwrap().epoch;
    assert_eq!(commit(&cell, newer), Ok(1));
    assert_eq!(commit(&cell, epoch), Err(UnitFailure::StaleEpoch), "a ghost");
    assert_eq!(commit(&cell, newer), Ok(1), "which harms nobody");
}

#[test]
fn a_panic_inside_a_commit_makes_every_shard_load_anew_and_the_store_goes_on() {
    let (cell, observer) = open(Arc::new(RamMedium::default()));
    let epoch = cell.load(SHARD).unwrap().epoch;
    observer.0.store(true, Ordering::SeqCst);
    let (unit, answer) = unit(epoch);
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| cell.run(vec![unit])));
    assert!(panicked.is_err());
    assert_eq!(*answer.lock().unwrap(), Some(Err(UnitFailure::Indeterminate)));
    let job = cell.load(SHARD).unwrap();
    let (newer, mut found) = (job.epoch, 0);
    job.run(&mut |_| found += 1).unwrap();
    assert_eq!(found, 1, "this one had landed");
    assert_eq!(commit(&cell, epoch), Err(UnitFailure::StaleEpoch));
    assert_eq!(commit(&cell, newer), Ok(1));
}

#[test]
fn what_is_in_memory_alone_is_there_when_the_database_is_opened_anew() {
    let (cell, _) = open(Arc::new(RamMedium::default()));
    let epoch = cell.load(SHARD).unwrap().epoch;
    let (mut kept, _) = unit(epoch);
    let (shard, work) = kept.take_work();
    cell.run(vec![Unit::new(shard, Work { ram: true, ..work }, None, None)]);
    drop(kept);
    cell.shut(); // the next one who asks opens it
    let mut found = Vec::new();
    cell.load(SHARD).unwrap().run(&mut |message| found.push(message.stored.slot)).unwrap();
    assert!(found.len() == 1 && found[0].is_ram(), "{found:?}");
    assert_eq!(cell.reader().fetch_blocking(&found)[0].as_ref().unwrap().payload, "x");
}

#[test]
fn clocks_that_stopped_while_others_went_on_are_known_after_a_crash() {
    let medium = Arc::new(RamMedium::default());
    let at = |ms| -> Arc<EngineCell> {
        let clock = move |_| -> Arc<dyn ron_core::time::Clock> { Arc::new(ManualClock::new(Millis(ms))) };
        let (config, observer) = (StoreConfig::default(), Arc::new(Observer::default()));
        EngineCell::open(medium.clone(), config, &clock, [7; 40], observer).unwrap().cell
    };
    let cell = at(1_000);
    let epoch = cell.load(SHARD).unwrap().epoch;
    assert_eq!(commit(&cell, epoch), Ok(1));
    let mut found = Vec::new();
    cell.load(SHARD).unwrap().run(&mut |message| found.push(message)).unwrap();
    let state = MsgState {
        phase: Phase::Leased,
        at: Millis(500_000),
        attempt: 1,
        delivery: 1,
        settled: Settled::No,
        noted: false,
        revived: None,
    };
    let lease = StateOp::Set { slot: found[0].stored.slot, state, note: None };
    let epoch = cell.load(SHARD).unwrap().epoch;
    let work = Work { epoch, ops: vec![lease], ..Work::default() };
    cell.run(vec![Unit::new(SHARD, work, None, None)]);
    drop(cell);

    let cell = at(2_000);
    let epoch = cell.load(SHARD).unwrap().epoch;
    let over = Work { epoch, clocks_go_on: Some(Millis(2_000)), ..Work::default() };
    cell.run(vec![Unit::new(SHARD, over, None, None)]);
    cell.stands_still(SHARD, Millis(2_500)); // its actor failed for the last time
    let other = ShardId(2);
    let epoch = cell.load(other).unwrap().epoch;
    let work = Work { epoch, puts: vec![message()], ..Work::default() };
    cell.run(vec![Unit::new(other, work, None, None)]);
    drop(cell);

    let clock = |_| -> Arc<dyn ron_core::time::Clock> { Arc::new(ManualClock::new(Millis(9_000))) };
    let (config, observer) = (StoreConfig::default(), Arc::new(Observer::default()));
    let opened = EngineCell::open(medium, config, &clock, [7; 40], observer).unwrap();
    let (_, _, counts) = &opened.topics[0];
    assert_eq!((counts.vis, counts.still_since), (1, Some(Millis(2_500))));
}

#[test]
fn a_store_file_appears_whole_and_is_locked() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.redb");
    // what a crash during an earlier creation left
    std::fs::write(dir.path().join("store.redb.new"), [1; 5_000]).unwrap();
    let (cell, _) = open(Arc::new(FileMedium::new(&path, 1 << 20)));
    assert!(path.exists() && !dir.path().join("store.redb.new").exists());
    let second = Engine::open(
        &FileMedium::new(&path, 1 << 20),
        &StoreConfig::default(),
        &|_| Arc::new(ManualClock::new(Millis(1_000))),
        Opening::Boot { entropy: [7; 40] },
        &Reader::new(1 << 20, Blocking::default()),
    );
    assert!(matches!(second, Err(StoreError::Locked)), "{second:?}");
    let epoch = cell.load(SHARD).unwrap().epoch;
    assert_eq!(commit(&cell, epoch), Ok(1));
    cell.shut();
    drop(cell);
    let (cell, _) = open(Arc::new(FileMedium::new(&path, 1 << 20)));
    let mut found = 0;
    cell.load(SHARD).unwrap().run(&mut |_| found += 1).unwrap();
    assert_eq!(found, 1);
}

/// A device that cannot read while it is told not to.
#[derive(Debug, Clone, Default)]
struct Shaky {
    blocks: RamBackend,
    exists: Arc<AtomicBool>,
    unreadable: Arc<AtomicBool>,
}

impl Place for Shaky {
    type File = ShakyFile;

    fn current(&self) -> Result<Option<ShakyFile>, StoreError> {
        Ok(self.exists.load(Ordering::SeqCst).then(|| self.file()))
    }

    fn fresh(&self) -> Result<ShakyFile, StoreError> {
        Ok(self.file())
    }

    fn switch(&self, _: bool) -> Result<(), StoreError> {
        self.exists.store(true, Ordering::SeqCst);
        Ok(())
    }
}

impl Shaky {
    fn file(&self) -> ShakyFile {
        ShakyFile(self.blocks.clone(), self.unreadable.clone())
    }
}

#[derive(Debug)]
struct ShakyFile(RamBackend, Arc<AtomicBool>);

impl redb::StorageBackend for ShakyFile {
    fn len(&self) -> std::io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
        match self.1.load(Ordering::SeqCst) {
            true => Err(std::io::Error::other("unreadable")),
            false => self.0.read(offset, out),
        }
    }

    fn set_len(&self, len: u64) -> std::io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> std::io::Result<()> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
        self.0.write(offset, data)
    }
}

#[test]
fn one_read_that_fails_does_not_keep_the_next_ones_from_working() {
    let shaky = Shaky::default();
    let clock = |_| -> Arc<dyn ron_core::time::Clock> { Arc::new(ManualClock::new(Millis(1_000))) };
    let config = StoreConfig { cache_bytes: 0, body_cache_bytes: 0, ..StoreConfig::default() };
    let (medium, observer) = (Arc::new(Renewing::over(shaky.clone())), Arc::new(Observer::default()));
    let cell = EngineCell::open(medium, config, &clock, [7; 40], observer).unwrap().cell;
    let epoch = cell.load(SHARD).unwrap().epoch;
    assert_eq!(commit(&cell, epoch), Ok(1));
    let load = || {
        let (job, mut found) = (cell.load(SHARD)?, Vec::new());
        let epoch = job.epoch;
        job.run(&mut |message| found.push(message.stored.slot))?;
        Ok::<_, StoreError>((epoch, found))
    };
    shaky.unreadable.store(true, Ordering::SeqCst);
    assert!(load().is_err());
    shaky.unreadable.store(false, Ordering::SeqCst);
    let (epoch, found) = load().unwrap();
    assert_eq!(cell.reader().fetch_blocking(&found)[0].as_ref().unwrap().payload, "x");
    // nor do bodies that could not be read
    shaky.unreadable.store(true, Ordering::SeqCst);
    assert_eq!(cell.reader().fetch_blocking(&found)[0].as_ref().unwrap_err(), &ReadFailure::Store);
    shaky.unreadable.store(false, Ordering::SeqCst);
    cell.idle();
    assert_eq!(cell.reader().fetch_blocking(&found)[0].as_ref().unwrap().payload, "x");
    assert_eq!(commit(&cell, epoch), Ok(1), "nobody had to load anew");
}

#[test]
fn several_loads_of_one_queue_read_it_once_and_all_are_answered() {
    let (cell, _) = open(Arc::new(RamMedium::default()));
    let epoch = cell.load(SHARD).unwrap().epoch;
    for _ in 0..60 {
        commit(&cell, epoch).unwrap(); // a chunk each
    }
    let mut answers = Vec::new();
    for shard in [SHARD; 3].into_iter().chain([ShardId(9)]) {
        let (reply, answer) = tokio::sync::oneshot::channel();
        cell.queue().push(queue::Item::Load(cell::LoadRequest { shard, snapshot: false, reply }));
        answers.push((shard, answer));
    }
    let mut turns = 0;
    while let Some(turn) = cell.queue().take() {
        cell.turn(turn).tell();
        turns += 1;
    }
    for (shard, mut answer) in answers {
        let job = answer.try_recv().unwrap().unwrap().expect("little enough for a turn");
        let mut found = 0;
        job.run(&mut |_| found += 1).unwrap();
        assert_eq!(found, if shard == SHARD { 60 } else { 0 });
    }
    assert_eq!(turns, 1, "what several loads read is read once");
}

#[test]
fn a_turn_that_has_read_enough_leaves_the_other_loads_to_the_next() {
    let (cell, _) = open(Arc::new(RamMedium::default()));
    let shards: Vec<ShardId> = (1..=10).map(ShardId).collect();
    for shard in &shards {
        let epoch = cell.load(*shard).unwrap().epoch;
        for _ in 0..60 {
            let work = Work { epoch, puts: vec![message()], ..Work::default() };
            cell.run(vec![Unit::new(*shard, work, None, None)]);
        }
    }
    let load = |shard: &ShardId| {
        let (reply, answer) = tokio::sync::oneshot::channel();
        cell.queue().push(queue::Item::Load(cell::LoadRequest { shard: *shard, snapshot: false, reply }));
        answer
    };
    let mut answers: Vec<_> = shards.iter().map(load).collect();
    let mut answered = Vec::new();
    while let Some(turn) = cell.queue().take() {
        cell.turn(turn).tell();
        answered
            .push(answers.extract_if(.., |answer| answer.try_recv().is_ok_and(|job| job.is_ok())).count());
    }
    assert_eq!((answered, answers.len()), (vec![5, 5], 0), "some 256 chunks a turn");
}
