//! Copies in the store: brought once, and records kept for as long as somebody needs them.

use super::*;
use crate::store::fanout::{Copies, ListEdit};
use ron_core::fanout::{Addition, Advance, Edit, Filter};
use ron_core::message::CopyOf;

const A: ShardId = ShardId(8);
const B: ShardId = ShardId(9);

fn topic(name: &str) -> QueueKey {
    QueueKey { topic: Topic::parse(name).unwrap(), ..queue() }
}

pub(super) fn subscribe(engine: &mut Engine, epoch: ShardEpoch, names: &[&str]) {
    let addition = |name: &&str| Addition { topic: topic(name).topic, filter: Filter::default() };
    let edit = Edit { add: names.iter().map(addition).collect(), remove: Vec::new() };
    let (verdict, topic) = (Arc::default(), Some(TopicRow { key: queue(), state: TopicState::default() }));
    let edit = Some(Box::new(ListEdit { edit, verdict }));
    engine.commit(&mut [(SHARD, Work { epoch, topic, edit, ..Work::default() })]).unwrap();
}

fn epoch_of(engine: &mut Engine, shard: ShardId) -> ShardEpoch {
    engine.snapshot(shard).unwrap().epoch
}

/// Brings `sent` to a subscriber; `from` is where its cursor should be.
fn bring(engine: &mut Engine, shard: ShardId, number: u32, from: Slot, sent: &[Slot]) -> Vec<PutOutcome> {
    let since = engine.list_of(SHARD, |fan| fan.subscription(number).unwrap().since).unwrap();
    let of = |slot: &Slot| CopyOf { slot: *slot, len: 1, due: None, expires: None, group: 0, object: None };
    let to = Slot::new(sent.last().unwrap().chunk() + 1, 0);
    let step = Advance { list: SHARD, number, since, from, to };
    let copies = Some(Box::new(Copies { step, messages: sent.iter().map(of).collect() }));
    let key = topic(if shard == A { "a" } else { "b" });
    let epoch = epoch_of(engine, shard);
    let row = Some(TopicRow { key, state: TopicState::default() });
    let work = Work { epoch, topic: row, copies, ..Work::default() };
    engine.commit(&mut [(shard, work)]).unwrap().results.remove(0).unwrap()
}

pub(super) fn cursor(engine: &Engine, number: u32) -> Slot {
    engine.list_of(SHARD, |fan| fan.due().find(|due| due.number == number).unwrap().from).unwrap()
}

#[test]
fn a_step_is_stored_once_and_its_record_stays_until_the_last_copy_is_gone() {
    let bench = Bench::new();
    let (mut engine, _) = bench.open();
    let (epoch, _) = load(&mut engine);
    subscribe(&mut engine, epoch, &["a", "b"]);
    let sent = slots(&commit(&mut engine, epoch, vec![message("x"), message("y")], Vec::new()));
    let at = cursor(&engine, 0);
    let first = slots(&bring(&mut engine, A, 0, at, &sent));
    assert!(bring(&mut engine, A, 0, at, &sent).iter().all(|outcome| *outcome == PutOutcome::Overtaken));
    // the source's own are gone; b has none of them yet
    commit(&mut engine, epoch, Vec::new(), sent.iter().map(|slot| gone(*slot)).collect());
    drop(engine);
    let (mut engine, again) = bench.open();
    let read = again.fetch_blocking(&first);
    let copy = read[1].as_ref().unwrap();
    assert_eq!((copy.payload.as_ref(), copy.slot), (b"y".as_slice(), first[1]));
    assert_eq!(copy.copied_from.map(|(slot, _)| slot), Some(sent[1]));
    let at = cursor(&engine, 1);
    let second = slots(&bring(&mut engine, B, 1, at, &sent));
    assert_eq!(engine.figures().chunks, 3);
    // all copies gone but one of each record
    let (a, b) = (epoch_of(&mut engine, A), epoch_of(&mut engine, B));
    let ops = |slots: &[Slot]| slots.iter().map(|slot| gone(*slot)).collect::<Vec<_>>();
    let work = |epoch, ops| Work { epoch, ops, ..Work::default() };
    engine.commit(&mut [(A, work(a, ops(&first)))]).unwrap();
    assert_eq!(again.fetch_blocking(&second)[0].as_ref().unwrap().payload, "x");
    assert_eq!(engine.figures().chunks, 2, "the copies of a, and not the records");
    engine.commit(&mut [(B, work(b, ops(&second)))]).unwrap();
    assert_eq!(engine.figures().chunks, 0);
}

#[test]
fn a_rewritten_chunk_keeps_what_copies_stand_for() {
    let bench = Bench::new();
    let (mut engine, reader) = bench.open();
    let (epoch, _) = load(&mut engine);
    subscribe(&mut engine, epoch, &["a"]);
    let many = (0..20).map(|n| message(&format!("m{n}"))).collect();
    let sent = slots(&commit(&mut engine, epoch, many, Vec::new()));
    let at = cursor(&engine, 0);
    let copies = slots(&bring(&mut engine, A, 0, at, &sent));
    commit(&mut engine, epoch, Vec::new(), sent[1..].iter().map(|slot| gone(*slot)).collect());
    assert_eq!(engine.figures().stragglers, 0, "all are needed");
    let a = epoch_of(&mut engine, A);
    let ops = copies[2..].iter().map(|slot| gone(*slot)).collect();
    engine.commit(&mut [(A, Work { epoch: a, ops, ..Work::default() })]).unwrap();
    assert_eq!(engine.figures().stragglers, 1);
    let before = engine.figures().body_bytes;
    while engine.idle_work().unwrap() {}
    assert!(engine.figures().body_bytes < before / 4);
    let read = reader.fetch_blocking(&[sent[0], copies[0], copies[1], sent[1]]);
    let texts: Vec<_> = read[..3].iter().map(|read| read.as_ref().unwrap().payload.clone()).collect();
    assert_eq!(texts, ["m0", "m0", "m1"]);
    assert_eq!(load(&mut engine).1.len(), 1, "the source has one message still");
    drop(engine);
    let (_engine, reader) = bench.open();
    assert_eq!(reader.fetch_blocking(&copies[1..2])[0].as_ref().unwrap().payload, "m1");
}

#[test]
fn a_topic_that_is_deleted_is_off_all_lists_and_what_it_had_sent_is_kept_for_its_own() {
    let bench = Bench::new();
    let (mut engine, _) = bench.open();
    let (epoch, _) = load(&mut engine);
    subscribe(&mut engine, epoch, &["a", "b"]);
    let sent = slots(&commit(&mut engine, epoch, vec![message("x")], Vec::new()));
    let at = cursor(&engine, 0);
    bring(&mut engine, A, 0, at, &sent);
    let a = epoch_of(&mut engine, A);
    engine.commit(&mut [(A, Work { epoch: a, delete: true, ..Work::default() })]).unwrap();
    assert_eq!(engine.list_of(SHARD, |fan| (fan.count(), fan.version())), Some((1, 2)));
    let ops = vec![gone(sent[0])];
    engine.commit(&mut [(SHARD, Work { epoch, ops, delete: true, ..Work::default() })]).unwrap();
    drop(engine);
    let (mut engine, reader) = bench.open();
    assert_eq!(engine.list_of(SHARD, |fan| fan.count()), Some(0), "nobody joins, one is still owed");
    let at = cursor(&engine, 1);
    let copies = slots(&bring(&mut engine, B, 1, at, &sent));
    assert_eq!(reader.fetch_blocking(&copies)[0].as_ref().unwrap().payload, "x");
    assert_eq!(engine.list_of(SHARD, |fan| fan.count()), None);
    drop(engine);
    let (engine, _) = bench.open();
    assert_eq!(engine.list_of(SHARD, |fan| fan.count()), None);
}

#[test]
fn a_chunk_of_which_copies_alone_are_left_leaves_no_body_behind() {
    let bench = Bench::new();
    let (mut engine, reader) = bench.open();
    let (epoch, _) = load(&mut engine);
    subscribe(&mut engine, epoch, &["a"]);
    let sent = slots(&commit(&mut engine, epoch, vec![message("x")], Vec::new()));
    let a = epoch_of(&mut engine, A);
    let since = engine.list_of(SHARD, |fan| fan.subscription(0).unwrap().since).unwrap();
    let of = CopyOf { slot: sent[0], len: 1, due: None, expires: None, group: 0, object: None };
    let (from, to) = (since, Slot::new(sent[0].chunk() + 1, 0));
    let step = Advance { list: SHARD, number: 0, since, from, to };
    let copies = Some(Box::new(Copies { step, messages: vec![of] }));
    let row = Some(TopicRow { key: topic("a"), state: TopicState::default() });
    let puts = (0..9).map(|n| message(&format!("m{n}"))).collect();
    let brings = Work { epoch: a, topic: row, copies, ..Work::default() };
    let stores = Work { epoch, puts, ..Work::default() };
    let done = engine.commit(&mut [(A, brings), (SHARD, stores)]).unwrap().results;
    let (copy, own) = (slots(done[0].as_ref().unwrap())[0], slots(done[1].as_ref().unwrap()));
    assert_eq!(copy.chunk(), own[0].chunk(), "they share a chunk");
    // nobody waits for the nine: a leaves the list
    let edit = Edit { add: Vec::new(), remove: vec![topic("a").topic] };
    let edit = Some(Box::new(ListEdit { edit, verdict: Arc::default() }));
    engine.commit(&mut [(SHARD, Work { epoch, edit, ..Work::default() })]).unwrap();
    let at = cursor(&engine, 0);
    let pass = Advance { list: SHARD, number: 0, since, from: at, to: Slot::new(own[8].chunk() + 1, 0) };
    reader.fans().pass(&[pass]);
    commit(&mut engine, epoch, Vec::new(), own.iter().map(|slot| gone(*slot)).collect());
    while engine.idle_work().unwrap() {}
    assert_eq!(reader.fetch_blocking(&[copy])[0].as_ref().unwrap().payload, "x");
    let ops = vec![gone(copy)];
    engine.commit(&mut [(A, Work { epoch: a, ops, ..Work::default() })]).unwrap();
    commit(&mut engine, epoch, Vec::new(), vec![gone(sent[0])]);
    assert_eq!(engine.figures().chunks, 0);
    drop((engine, reader));
    assert_eq!(bench.raw().begin_read().unwrap().open_table(BODY).unwrap().len().unwrap(), 0);
}
