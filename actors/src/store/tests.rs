//! The engine without actors: what a commit leaves behind, and what a reopening finds.

mod fanout;
mod objects;
mod ram;

use super::backend::{Medium, RamBackend};
use super::codec::seal;
use super::engine::{Engine, TopicRow, Work, write_meta};
use super::error::{StoreError, UnitFailure};
use super::finish::EPOCH;
use super::load::Reading;
use super::read::{ReadFailure, Reader};
use super::recover::{BootCounts, Opening};
use super::schema::{BODY, DELTA, HEAD, STATE};
use super::volume::Volume;
use super::{ShardEpoch, StoreConfig};
use crate::kernel::clock::ManualClock;
use bytes::Bytes;
use redb::{Database, ReadableDatabase, ReadableTableMetadata, TableDefinition};
use ron_core::ids::{ContentHash, QueueKey, ShardId, Slot, Tenant, Topic};
use ron_core::message::{
    DeadLetter, DedupClaim, MessageMeta, MsgState, NewMessage, Origin, Phase, PutOutcome, Recovered, Settled,
    StateOp,
};
use ron_core::shard::TopicState;
use ron_core::time::{Clock, Millis};
use std::sync::Arc;

type Table = TableDefinition<'static, u64, &'static [u8]>;

const SHARD: ShardId = ShardId(7);

/// RAM that passes for a disk.
#[derive(Debug, Default)]
pub(super) struct Disk(pub(super) RamBackend);

impl Medium for Disk {
    fn open(&self, builder: &mut redb::Builder, journal_bytes: u64) -> Result<Volume, StoreError> {
        Volume::open(self.0.clone(), builder, journal_bytes)
    }

    fn durable(&self) -> bool {
        true
    }
}

/// A store in RAM blocks that outlive each engine.
pub(super) struct Bench {
    pub(super) medium: Disk,
    pub(super) clock: ManualClock,
    pub(super) config: StoreConfig,
}

impl Bench {
    pub(super) fn new() -> Bench {
        let clock = ManualClock::new(Millis(1_000_000));
        Bench { medium: Disk::default(), clock, config: StoreConfig::default() }
    }

    fn boot(&self) -> Result<(Engine, BootCounts, Reader), StoreError> {
        let reader = Reader::new(1 << 20, crate::blocking::Blocking::default());
        let clock = self.clock.clone();
        let clock_from = move |_| Arc::new(clock.clone()) as Arc<dyn Clock>;
        let opening = Opening::Boot { entropy: [3; 40] };
        let (engine, counts) = Engine::open(&self.medium, &self.config, &clock_from, opening, &reader)?;
        Ok((engine, counts.get(&SHARD).copied().unwrap_or_default(), reader))
    }

    pub(super) fn try_open(&self) -> Result<(Engine, Reader), StoreError> {
        self.boot().map(|(engine, _, reader)| (engine, reader))
    }

    pub(super) fn open(&self) -> (Engine, Reader) {
        self.try_open().unwrap()
    }

    /// Writes into a table of a closed store.
    pub(super) fn spoil(&self, table: Table, key: u64, row: &[u8]) {
        let db = self.raw();
        let txn = db.begin_write().unwrap();
        txn.open_table(table).unwrap().insert(key, row).unwrap();
        txn.commit().unwrap();
    }

    pub(super) fn raw(&self) -> Database {
        let volume = self.medium.open(&mut Database::builder(), 0).unwrap();
        let txn = volume.db.begin_write().unwrap();
        if let Some((epoch, _)) = volume.replay(&txn).unwrap() {
            write_meta(&txn, EPOCH, &(epoch + 1)).unwrap();
        }
        txn.commit().unwrap();
        volume.db
    }
}

pub(super) fn message(text: &str) -> NewMessage {
    let payload = Bytes::from(text.to_owned());
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

pub(super) fn keyed(text: &str, key: &str, window_ms: u64) -> NewMessage {
    let message = message(text);
    let dedup = DedupClaim::new(&Origin::Api, key.as_bytes(), &message.payload_hash, window_ms);
    NewMessage { dedup: Some(dedup), ..message }
}

fn queue() -> QueueKey {
    QueueKey { tenant: Tenant::parse("acme").unwrap(), topic: Topic::parse("orders").unwrap() }
}

pub(super) fn load(engine: &mut Engine) -> (ShardEpoch, Vec<Recovered>) {
    let within = engine.load_within(SHARD, &mut Reading::default()).unwrap();
    let job = engine.snapshot(SHARD).unwrap();
    let (epoch, mut found) = (job.epoch, Vec::new());
    job.run(&mut |message| found.push(message)).unwrap();
    if let Some(job) = within {
        let mut same = Vec::new();
        assert!(job.is_read() && job.epoch < epoch);
        job.run(&mut |message| same.push(message)).unwrap();
        assert_eq!(same, found, "read within a turn, and from a snapshot");
    }
    (epoch, found)
}

pub(super) fn commit(
    engine: &mut Engine,
    epoch: ShardEpoch,
    puts: Vec<NewMessage>,
    ops: Vec<StateOp>,
) -> Vec<PutOutcome> {
    let work = Work {
        epoch,
        topic: Some(TopicRow { key: queue(), state: TopicState::default() }),
        puts,
        ops,
        ..Work::default()
    };
    engine.commit(&mut [(SHARD, work)]).unwrap().results.remove(0).unwrap()
}

pub(super) fn slots(outcomes: &[PutOutcome]) -> Vec<Slot> {
    let slot = |outcome: &PutOutcome| match outcome {
        PutOutcome::Stored(at) => at.slot,
        other => panic!("not stored: {other:?}"),
    };
    outcomes.iter().map(slot).collect()
}

pub(super) fn state(phase: Phase, at: u64) -> MsgState {
    MsgState {
        phase,
        at: Millis(at),
        attempt: 1,
        delivery: 1,
        settled: Settled::No,
        noted: false,
        revived: None,
    }
}

pub(super) fn gone(slot: Slot) -> StateOp {
    StateOp::Gone { slot, noted: false }
}

#[test]
fn a_reopened_store_has_what_was_committed_and_numbers_on() {
    let bench = Bench::new();
    let (mut engine, _) = bench.open();
    let (epoch, _) = load(&mut engine);
    let first =
        slots(&commit(&mut engine, epoch, vec![message("a"), message("b"), message("c")], Vec::new()));
    let lease = StateOp::Set { slot: first[1], state: state(Phase::Leased, 1_005_000), note: None };
    commit(&mut engine, epoch, Vec::new(), vec![gone(first[0]), lease]);
    let next_chunk = engine.next_chunk;
    drop(engine);

    let (mut engine, reader) = bench.open();
    assert_eq!(
        engine.topics().map(|(shard, row)| (shard, row.key.clone())).collect::<Vec<_>>(),
        [(SHARD, queue())]
    );
    let (epoch, found) = load(&mut engine);
    assert_eq!(found.iter().map(|message| message.stored.slot).collect::<Vec<_>>(), first[1..]);
    assert_eq!(found[0].state, Some(state(Phase::Leased, 1_005_000)));
    assert_eq!(found[1].state, None);
    let read = reader.fetch_blocking(&first);
    assert_eq!(read[2].as_ref().unwrap().payload, "c");
    // all gone: the chunk vanishes, its number is never given again, not even after a crash
    commit(&mut engine, epoch, Vec::new(), vec![gone(first[1]), gone(first[2])]);
    assert_eq!(engine.figures().chunks, 0);
    assert_eq!(reader.image_on_disk(first[0].chunk()), Err(ReadFailure::Gone));
    drop(engine);
    let (engine, _) = bench.open();
    assert!(engine.next_chunk >= next_chunk);
}

#[test]
fn a_ghost_writes_nothing() {
    let bench = Bench::new();
    let (mut engine, _) = bench.open();
    let (old, _) = load(&mut engine);
    let (new, _) = load(&mut engine);
    let ghost = Work { epoch: old, topic: None, puts: vec![message("ghost")], ..Work::default() };
    let live = Work { epoch: new, topic: None, puts: vec![message("live")], ..Work::default() };
    let committed = engine.commit(&mut [(SHARD, ghost), (SHARD, live)]).unwrap();
    assert_eq!(committed.results[0], Err(UnitFailure::StaleEpoch));
    assert!(committed.results[1].is_ok());
    assert_eq!(load(&mut engine).1.len(), 1);
}

#[test]
fn keys_are_remembered_across_a_reopening_for_their_window_and_no_longer() {
    let bench = Bench::new();
    let (mut engine, _) = bench.open();
    let (epoch, _) = load(&mut engine);
    let first = slots(&commit(&mut engine, epoch, vec![keyed("a", "k", 60_000)], Vec::new()));
    commit(&mut engine, epoch, Vec::new(), vec![gone(first[0])]);
    drop(engine);
    let (mut engine, _) = bench.open();
    let (epoch, _) = load(&mut engine);
    let puts = vec![keyed("a", "k", 60_000), keyed("b", "k", 60_000)];
    let again = commit(&mut engine, epoch, puts, Vec::new());
    assert!(matches!(again[0], PutOutcome::Duplicate { slot, .. } if slot == first[0]));
    assert_eq!(again[1], PutOutcome::Conflict);
    bench.clock.advance(60_000);
    let later = commit(&mut engine, epoch, vec![keyed("b", "k", 60_000)], Vec::new());
    assert!(matches!(later[0], PutOutcome::Stored(_)));
}

#[test]
fn deltas_are_folded_and_a_straggler_does_not_keep_its_neighbours_bytes() {
    let bench = Bench::new();
    let (mut engine, reader) = bench.open();
    let (epoch, _) = load(&mut engine);
    let puts = (0..100).map(|i| message(&format!("{i:->300}"))).collect();
    let all = slots(&commit(&mut engine, epoch, puts, Vec::new()));
    let before = engine.figures().body_bytes;
    let keep = all[57];
    let dead = all.iter().filter(|slot| **slot != keep).map(|slot| gone(*slot)).collect();
    commit(&mut engine, epoch, Vec::new(), dead);
    bench.clock.advance(10_000);
    while engine.idle_work().unwrap() {}
    assert!(engine.figures().body_bytes < before / 50, "{} of {before}", engine.figures().body_bytes);
    assert!(reader.fetch_blocking(&[keep])[0].as_ref().unwrap().payload.ends_with(b"57"));
    assert_eq!(reader.fetch_blocking(&[all[0]])[0].as_ref().unwrap_err(), &ReadFailure::Gone);
    let rows = engine.db.begin_read().unwrap().open_table(DELTA).unwrap().len().unwrap();
    assert_eq!(rows, 0, "a folded delta goes");
    drop(engine);
    let (mut engine, reader) = bench.open();
    assert_eq!(load(&mut engine).1.iter().map(|found| found.stored.slot).collect::<Vec<_>>(), [keep]);
    assert!(reader.fetch_blocking(&[keep])[0].is_ok());
}

#[test]
fn the_cache_holds_what_lives_and_nothing_of_what_is_over() {
    let bench = Bench::new();
    let (mut engine, reader) = bench.open();
    let (epoch, _) = load(&mut engine);
    let waits = slots(&commit(&mut engine, epoch, vec![message("waits")], Vec::new()));
    let one = reader.cached();
    assert_eq!(one.0, 1);
    for _ in 0..100 {
        let sent = slots(&commit(&mut engine, epoch, vec![message("comes and goes")], Vec::new()));
        assert_eq!(reader.cached().0, 2);
        commit(&mut engine, epoch, Vec::new(), vec![gone(sent[0])]);
        assert_eq!(reader.cached(), one);
        assert_eq!(reader.fetch_blocking(&sent)[0].as_ref().unwrap_err(), &ReadFailure::Gone);
    }
    assert_eq!(reader.fetch_blocking(&waits)[0].as_ref().unwrap().payload, "waits");
    commit(&mut engine, epoch, Vec::new(), vec![gone(waits[0])]);
    assert_eq!(reader.cached(), (0, 0));
}

#[test]
fn a_large_message_is_stored_in_parts() {
    let bench = Bench::new();
    let (mut engine, _) = bench.open();
    let (epoch, _) = load(&mut engine);
    let text = "x".repeat(1 << 20);
    let slot = slots(&commit(&mut engine, epoch, vec![message(&text)], Vec::new()))[0];
    drop(engine);
    let (mut engine, reader) = bench.open();
    let (epoch, _) = load(&mut engine);
    assert_eq!(reader.fetch_blocking(&[slot])[0].as_ref().unwrap().payload, text);
    commit(&mut engine, epoch, Vec::new(), vec![gone(slot)]);
    let rows = engine.db.begin_read().unwrap().open_table(BODY).unwrap().len().unwrap();
    assert_eq!(rows, 0);
}

#[test]
fn a_dead_letter_keeps_the_error_noted_before() {
    let bench = Bench::new();
    let (mut engine, reader) = bench.open();
    let (epoch, _) = load(&mut engine);
    let slot = slots(&commit(&mut engine, epoch, vec![message("poison")], Vec::new()))[0];
    let noted = MsgState { noted: true, ..state(Phase::Delayed, 2_000_000) };
    commit(
        &mut engine,
        epoch,
        Vec::new(),
        vec![StateOp::Set { slot, state: noted, note: Some("boom".into()) }],
    );
    let letter =
        DeadLetter { reason: "max_attempts".into(), attempts: 5, last_error: None, at: Millis(1_000_001) };
    let dead = MsgState { noted: true, ..state(Phase::Dead, 1_000_001) };
    commit(&mut engine, epoch, Vec::new(), vec![StateOp::Dead { slot, state: dead, letter }]);
    let kept = reader.letters_blocking(SHARD, &[slot]).unwrap().remove(0).unwrap();
    assert_eq!((kept.reason.as_str(), kept.last_error.as_deref()), ("max_attempts", Some("boom")));
}

#[test]
fn a_rotted_body_is_damaged_and_a_rotted_head_delta_or_state_stops_the_boot() {
    let bench = Bench::new();
    let (mut engine, _) = bench.open();
    let (epoch, _) = load(&mut engine);
    let all = slots(&commit(&mut engine, epoch, vec![message("a"), message("b")], Vec::new()));
    drop(engine);
    let chunk = all[0].chunk();
    let db = bench.raw();
    let mut body =
        db.begin_read().unwrap().open_table(BODY).unwrap().get(chunk << 8).unwrap().unwrap().value().to_vec();
    let head =
        db.begin_read().unwrap().open_table(HEAD).unwrap().get(chunk).unwrap().unwrap().value().to_vec();
    drop(db);
    body[60] ^= 1;
    bench.spoil(BODY, chunk << 8, &body);
    let (engine, reader) = bench.open();
    let read = reader.fetch_blocking(&all);
    assert_eq!(read[0].as_ref().unwrap_err(), &ReadFailure::Damaged);
    assert_eq!(read[1].as_ref().unwrap().payload, "b");
    drop(engine);
    let good: [(Table, &str, Vec<u8>); 3] =
        [(HEAD, "head", head), (DELTA, "delta", seal(b"no delta")), (STATE, "state", seal(b"\xff\xff"))];
    for (table, name, row) in good {
        let mut rotted = row.clone();
        rotted[3] ^= 1;
        bench.spoil(table, chunk, &rotted);
        match bench.try_open() {
            Err(StoreError::Damaged { table, .. }) => assert_eq!(table, name),
            other => panic!("{name}: {other:?}"),
        }
        let db = bench.raw();
        let txn = db.begin_write().unwrap();
        if name == "head" {
            txn.open_table(table).unwrap().insert(chunk, row.as_slice()).unwrap();
        } else {
            txn.open_table(table).unwrap().remove(chunk).unwrap();
        }
        txn.commit().unwrap();
    }
    bench.open();
}

fn leased(slot: Slot, at: u64) -> StateOp {
    StateOp::Set { slot, state: state(Phase::Leased, at), note: None }
}

/// A store with one lease, which was last alive at 1,000,000.
fn with_a_lease(deadline: u64) -> (Bench, Slot) {
    let bench = Bench::new();
    let (mut engine, _) = bench.open();
    let (epoch, _) = load(&mut engine);
    let slot = slots(&commit(&mut engine, epoch, vec![message("a")], Vec::new()))[0];
    commit(&mut engine, epoch, Vec::new(), vec![leased(slot, deadline)]);
    (bench, slot)
}

/// Boots 100 s later: since when the shard's lease clocks stand still.
fn still_since(bench: &Bench) -> Option<Millis> {
    bench.clock.advance(100_000);
    bench.boot().unwrap().1.still_since
}

#[test]
fn a_crash_before_the_moved_leases_are_written_does_not_forget_how_long_their_clocks_stood() {
    let (bench, _) = with_a_lease(1_030_000);
    assert_eq!(still_since(&bench), Some(Millis(1_000_000)));
    // others send meanwhile, and so the store is known to have been alive
    bench.clock.advance(100_000);
    let (mut engine, counts, _) = bench.boot().unwrap();
    assert_eq!(counts.still_since, Some(Millis(1_000_000)));
    let mut other = [(ShardId(8), Work { puts: vec![message("b")], ..Work::default() })];
    other[0].1.epoch = engine.snapshot(ShardId(8)).unwrap().epoch;
    assert_eq!(engine.commit(&mut other).unwrap().size, 1);
    drop(engine);
    assert_eq!(still_since(&bench), Some(Millis(1_000_000)));
}

#[test]
fn clocks_go_on_with_the_commit_of_what_they_moved_and_stop_again_at_the_next_crash() {
    let (bench, slot) = with_a_lease(1_030_000);
    bench.clock.advance(100_000);
    let (mut engine, _) = bench.open();
    let (epoch, _) = load(&mut engine);
    let over = Some(Millis(1_100_000));
    let moved = Work { epoch, ops: vec![leased(slot, 1_130_000)], clocks_go_on: over, ..Work::default() };
    engine.commit(&mut [(SHARD, moved)]).unwrap();
    drop(engine);
    assert_eq!(still_since(&bench), Some(Millis(1_100_000)));
}

#[test]
fn what_stops_the_clocks_after_a_load_is_not_over_with_it() {
    let (bench, slot) = with_a_lease(9_000_000);
    let (mut engine, _) = bench.open();
    let (epoch, _) = load(&mut engine);
    bench.clock.advance(100_000);
    engine.stands_still(SHARD, Millis(1_100_000)); // its actor has failed
    let late = Work { epoch, clocks_go_on: Some(Millis(1_050_000)), ..Work::default() };
    engine.commit(&mut [(SHARD, late)]).unwrap();
    drop(engine);
    assert_eq!(still_since(&bench), Some(Millis(1_100_000)), "quarantined when the node ended");
    bench.clock.advance(100_000);
    let (mut engine, _) = bench.open();
    let (epoch, _) = load(&mut engine);
    let over = Some(Millis(1_300_000));
    let gone = vec![StateOp::Gone { slot, noted: false }];
    engine.commit(&mut [(SHARD, Work { epoch, ops: gone, clocks_go_on: over, ..Work::default() })]).unwrap();
    drop(engine);
    assert_eq!(still_since(&bench), None, "nothing in flight, nothing to stand still");
}

#[test]
fn what_a_turn_reads_of_a_shard_is_bounded() {
    let bench = Bench::new();
    let (mut engine, _) = bench.open();
    let mut epoch = load(&mut engine).0;
    for chunks in 1..=65 {
        commit(&mut engine, epoch, vec![message("m")], Vec::new());
        let within = engine.load_within(SHARD, &mut Reading::default()).unwrap();
        assert_eq!(within.is_some(), chunks <= 64, "{chunks} chunks");
        let (newer, found) = load(&mut engine);
        epoch = newer;
        assert_eq!(found.len(), chunks);
    }
    let many = (0..5_000).map(|_| message("m")).collect();
    let bench = Bench::new();
    let (mut engine, _) = bench.open();
    let epoch = load(&mut engine).0;
    commit(&mut engine, epoch, many, Vec::new());
    assert!(engine.load_within(SHARD, &mut Reading::default()).unwrap().is_none(), "5,000 messages");
    assert_eq!(load(&mut engine).1.len(), 5_000);
}

#[test]
fn loads_of_one_turn_share_what_they_read_and_not_what_is_theirs() {
    let bench = Bench::new();
    let (mut engine, _) = bench.open();
    let mut reading = Reading::default();
    let mut work = |shard, text: &str| {
        let epoch = engine.load_within(shard, &mut reading).unwrap().unwrap().epoch;
        let topic = Some(TopicRow { key: queue(), state: TopicState::default() });
        (shard, Work { epoch, topic, puts: vec![message(text)], ..Work::default() })
    };
    let other = ShardId(8);
    let mut both = vec![work(SHARD, "mine"), work(other, "theirs, and longer")];
    engine.commit(&mut both).unwrap();
    let mut reading = Reading::default();
    let mut lens = |shard| {
        let mut lens = Vec::new();
        let job = engine.load_within(shard, &mut reading).unwrap().unwrap();
        job.run(&mut |message| lens.push(message.stored.len)).unwrap();
        lens
    };
    assert_eq!((lens(SHARD), lens(other), lens(ShardId(9))), (vec![4], vec![18], vec![]));
}
