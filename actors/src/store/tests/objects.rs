//! Objects in the store: what a crash leaves of an upload, what keeps one, and what every copy and check knows of them.

use super::*;
use crate::store::check::Checker;
use crate::store::copy::{Copying, Cut, Source};
use crate::store::fanout::Copies;
use crate::store::objects::{NotStored, ObjectJob, ObjectOp, read_parts};
use crate::store::schema::{META, OBJECT, OBJECT_PART, OBJECT_PART_BYTES, object_key};
use ron_core::fanout::Advance;
use ron_core::message::CopyOf;
use ron_core::objects::{Found, KEPT_MS, NotTaken, ObjectLimits, UploadId};
use tokio::sync::oneshot;

fn acme() -> Tenant {
    Tenant::parse("acme").unwrap()
}

/// Bytes that differ from part to part.
fn bytes(len: usize, seed: u8) -> Bytes {
    (0..len).map(|at| (at / 1000) as u8 ^ seed).collect::<Vec<u8>>().into()
}

fn done(engine: &mut Engine, ops: Vec<ObjectOp>) -> Vec<Result<(), NotStored>> {
    let job = |op| ObjectJob { op, reply: oneshot::channel().0 };
    let jobs: Vec<ObjectJob> = ops.into_iter().map(job).collect();
    engine.commit_objects(&jobs).unwrap()
}

fn whole(engine: &mut Engine, id: u64, bytes: &Bytes) -> ContentHash {
    let hash = ContentHash::of(bytes);
    let op = ObjectOp::Whole(UploadId(id), acme(), hash, bytes.clone());
    assert_eq!(done(engine, vec![op]), [Ok(())]);
    hash
}

fn find(engine: &Engine, hash: &ContentHash) -> Option<Found> {
    engine.reader.objects().lock().find(&acme(), hash)
}

/// An upload that has come so far.
fn begun(engine: &mut Engine, id: u64, bytes: &Bytes) -> UploadId {
    let id = UploadId(id);
    engine.reader.objects().lock().begin(id, &acme()).unwrap();
    for part in bytes.chunks(2 * OBJECT_PART_BYTES) {
        let op = ObjectOp::Grow(id, Bytes::copy_from_slice(part));
        assert_eq!(done(engine, vec![op]), [Ok(())]);
    }
    id
}

fn read(engine: &Engine, found: Found) -> Vec<u8> {
    let parts = 0..found.len.div_ceil(OBJECT_PART_BYTES as u64);
    read_parts(&engine.db.begin_read().unwrap(), found.number, parts).unwrap()
}

fn rows(db: &Database, table: Table) -> u64 {
    db.begin_read().unwrap().open_table(table).unwrap().len().unwrap()
}

fn referring(hash: ContentHash) -> NewMessage {
    let mut message = message("");
    message.meta.body_ref = Some(hash);
    message
}

fn findings(db: &Database) -> Vec<String> {
    let found = Checker::default().run(&db.begin_read().unwrap()).unwrap();
    found.named.iter().map(ToString::to_string).collect()
}

fn idle(engine: &mut Engine) {
    while engine.idle_work().unwrap() {}
}

#[test]
fn an_object_survives_a_reopening_and_its_number_is_not_given_again() {
    let bench = Bench::new();
    let (mut engine, _) = bench.open();
    let (small, large) = (bytes(100_000, 1), bytes(1_000_000, 2));
    let first = whole(&mut engine, 1, &small);
    let id = begun(&mut engine, 2, &large);
    let second = ContentHash::of(&large);
    assert_eq!(find(&engine, &second), None, "it is not yet one");
    assert_eq!(done(&mut engine, vec![ObjectOp::Finish(id, second)]), [Ok(())]);
    drop(engine);
    let (mut engine, _) = bench.open();
    for (hash, bytes) in [(first, &small), (second, &large)] {
        let found = find(&engine, &hash).unwrap();
        assert!(read(&engine, found) == **bytes);
    }
    bench.clock.advance(KEPT_MS);
    idle(&mut engine);
    assert_eq!((find(&engine, &first), find(&engine, &second)), (None, None));
    assert_eq!((rows(&engine.db, OBJECT), rows(&engine.db, OBJECT_PART)), (0, 0));
    drop(engine);
    let (mut engine, _) = bench.open();
    let third = whole(&mut engine, 1, &small);
    assert_eq!(find(&engine, &third).unwrap().number, 2);
    assert!(findings(&engine.db).is_empty(), "{:?}", findings(&engine.db));
}

#[test]
fn nothing_stays_of_an_upload_that_a_crash_or_its_sender_ended() {
    let bench = Bench::new();
    let (mut engine, _) = bench.open();
    let large = bytes(500_000, 3);
    begun(&mut engine, 1, &large);
    whole(&mut engine, 2, &bytes(600_000, 4)); // too long for the journal: makes the parts durable, too
    assert!(rows(&engine.db, OBJECT_PART) > 15);
    drop(engine); // as a crash leaves it
    let (mut engine, _) = bench.open();
    assert_eq!((rows(&engine.db, OBJECT), rows(&engine.db, OBJECT_PART)), (1, 10));
    let late = ObjectOp::Grow(UploadId(1), large.clone());
    assert_eq!(done(&mut engine, vec![late]), [Err(NotStored::Refused(NotTaken::Lost))]);

    let id = begun(&mut engine, 3, &large);
    assert_eq!(rows(&engine.db, OBJECT), 2);
    engine.reader.objects().lock().end(id);
    idle(&mut engine);
    assert_eq!((rows(&engine.db, OBJECT), rows(&engine.db, OBJECT_PART)), (1, 10));
    let figures = engine.figures();
    assert_eq!((figures.objects, figures.object_bytes), (1, 600_000));
}

#[test]
fn the_same_bytes_again_are_the_same_object_for_another_hour() {
    let bench = Bench::new();
    let (mut engine, _) = bench.open();
    let body = bytes(200_000, 5);
    let hash = whole(&mut engine, 1, &body);
    let number = find(&engine, &hash).unwrap().number;
    bench.clock.advance(KEPT_MS / 2);
    let id = begun(&mut engine, 2, &body);
    assert_eq!(done(&mut engine, vec![ObjectOp::Finish(id, hash)]), [Ok(())]);
    bench.clock.advance(KEPT_MS / 2);
    whole(&mut engine, 3, &bytes(10, 6));
    idle(&mut engine);
    drop(engine);
    let (mut engine, _) = bench.open();
    assert_eq!(find(&engine, &hash).map(|found| found.number), Some(number), "its hour began anew");
    assert_eq!(rows(&engine.db, OBJECT_PART), 4 + 1, "what came again is not kept twice");
    bench.clock.advance(KEPT_MS / 2);
    idle(&mut engine);
    assert_eq!(find(&engine, &hash), None);
}

#[test]
fn a_message_keeps_its_object_through_reopenings_and_as_a_dead_letter() {
    let bench = Bench::new();
    let (mut engine, _) = bench.open();
    let (epoch, _) = load(&mut engine);
    let hash = whole(&mut engine, 1, &bytes(70_000, 7));
    let missing = commit(&mut engine, epoch, vec![referring(ContentHash::of(b"no"))], Vec::new());
    assert_eq!(missing, [PutOutcome::NoObject]);
    let sent = slots(&commit(&mut engine, epoch, vec![referring(hash), referring(hash)], Vec::new()));
    bench.clock.advance(KEPT_MS);
    idle(&mut engine);
    assert!(find(&engine, &hash).is_some());
    let letter = DeadLetter { reason: "no".into(), attempts: 1, last_error: None, at: Millis(1) };
    let dead = StateOp::Dead { slot: sent[0], state: state(Phase::Dead, 1), letter };
    commit(&mut engine, epoch, Vec::new(), vec![dead, gone(sent[1])]);
    drop(engine);
    let (mut engine, reader) = bench.open();
    let (epoch, _) = load(&mut engine);
    idle(&mut engine);
    assert!(find(&engine, &hash).is_some(), "the dead letter refers to it");
    assert_eq!(engine.figures().objects_held, 1);
    assert!(findings(&engine.db).is_empty(), "{:?}", findings(&engine.db));
    let read = reader.fetch_blocking(&sent[..1]);
    assert_eq!(read[0].as_ref().unwrap().meta.body_ref, Some(hash));
    commit(&mut engine, epoch, Vec::new(), vec![StateOp::DeadGone { slot: sent[0] }]);
    idle(&mut engine);
    assert_eq!(find(&engine, &hash), None);
}

#[test]
fn copies_and_messages_in_memory_hold_it_too() {
    let bench = Bench::new();
    let (mut engine, _) = bench.open();
    let (epoch, _) = load(&mut engine);
    let hash = whole(&mut engine, 1, &bytes(70_000, 8));
    let number = find(&engine, &hash).unwrap().number;
    fanout::subscribe(&mut engine, epoch, &["a", "b"]);
    let sent = slots(&commit(&mut engine, epoch, vec![referring(hash)], Vec::new()));
    let object = Some(number);
    let of = CopyOf { slot: sent[0], len: 0, due: None, expires: None, group: 0, object };
    let since = engine.list_of(SHARD, |fan| fan.subscription(0).unwrap().since).unwrap();
    let from = fanout::cursor(&engine, 0);
    let step = Advance { list: SHARD, number: 0, since, from, to: Slot::new(sent[0].chunk() + 1, 0) };
    let shard = ShardId(8);
    let key = QueueKey { topic: Topic::parse("a").unwrap(), ..queue() };
    let copies = Some(Box::new(Copies { step, messages: vec![of] }));
    let work = Work {
        epoch: engine.snapshot(shard).unwrap().epoch,
        topic: Some(TopicRow { key: key.clone(), state: TopicState::default() }),
        copies,
        ..Work::default()
    };
    let copy = engine.commit(&mut [(shard, work)]).unwrap().results.remove(0).unwrap();
    let copy = slots(&copy)[0];
    commit(&mut engine, epoch, Vec::new(), vec![gone(sent[0])]);
    drop(engine);
    let (mut engine, _) = bench.open();
    bench.clock.advance(KEPT_MS);
    idle(&mut engine);
    assert!(find(&engine, &hash).is_some(), "the copy refers to it");

    // one in memory alone, through a reopening of the database
    let ram = ShardId(9);
    let work = Work {
        epoch: engine.snapshot(ram).unwrap().epoch,
        topic: Some(TopicRow { key: QueueKey { topic: Topic::parse("r").unwrap(), ..key }, ..row() }),
        puts: vec![referring(hash)],
        ram: true,
        ..Work::default()
    };
    let kept = engine.commit(&mut [(ram, work)]).unwrap().results.remove(0).unwrap();
    let kept = slots(&kept)[0];
    assert!(kept.is_ram());
    let epoch = engine.snapshot(shard).unwrap().epoch;
    let work = Work { epoch, ops: vec![gone(copy)], ..Work::default() };
    engine.commit(&mut [(shard, work)]).unwrap();
    let left = engine.take_volatile();
    drop(engine);
    let (mut engine, _) = bench.open();
    engine.adopt(left);
    idle(&mut engine);
    assert!(find(&engine, &hash).is_some(), "the message in memory refers to it");
    let epoch = engine.snapshot(ram).unwrap().epoch;
    engine.commit(&mut [(ram, Work { epoch, ram: true, ops: vec![gone(kept)], ..Work::default() })]).unwrap();
    idle(&mut engine);
    assert_eq!(find(&engine, &hash), None);
}

fn row() -> TopicRow {
    TopicRow { key: queue(), state: TopicState::default() }
}

#[test]
fn limits_are_the_tenants_and_what_may_go_makes_room() {
    let mut bench = Bench::new();
    bench.config.objects = ObjectLimits { tenant_bytes: 100, ..ObjectLimits::default() };
    let (mut engine, _) = bench.open();
    whole(&mut engine, 1, &bytes(90, 1));
    let more = |id| {
        let bytes = bytes(20, 2);
        ObjectOp::Whole(UploadId(id), acme(), ContentHash::of(&bytes), bytes)
    };
    assert_eq!(done(&mut engine, vec![more(2)]), [Err(NotStored::Refused(NotTaken::TenantFull))]);
    bench.clock.advance(KEPT_MS);
    assert_eq!(done(&mut engine, vec![more(3)]), [Ok(())], "the old one goes with the commit of the new one");
    assert_eq!(engine.figures().object_bytes, 20);
}

#[test]
fn a_copy_has_every_object_of_its_cut_and_none_goes_while_it_is_made() {
    let bench = Bench::new();
    let (mut engine, reader) = bench.open();
    let (epoch, _) = load(&mut engine);
    let before = bytes(700_000, 1);
    let first = whole(&mut engine, 1, &before);
    let late = bytes(900_000, 2);
    let id = begun(&mut engine, 2, &late);
    commit(&mut engine, epoch, vec![referring(first)], Vec::new());
    bench.clock.advance(KEPT_MS);
    let idle_one = whole(&mut engine, 3, &bytes(10, 3));
    let held = reader.hold_rewrites();
    let source = Source::of(&engine);
    let target = Disk::default();
    let mut copying = Copying::new(target.0.clone(), engine.next_chunk).unwrap();
    let mut slices = 0;
    while copying.slice(&source).unwrap() {
        slices += 1;
    }
    assert!(slices >= 2, "{slices}");
    bench.clock.advance(KEPT_MS);
    idle(&mut engine);
    assert!(find(&engine, &idle_one).is_some(), "it is being copied");
    let second = ContentHash::of(&late);
    done(&mut engine, vec![ObjectOp::Finish(id, second)]);
    let third = whole(&mut engine, 4, &bytes(50, 4));
    begun(&mut engine, 5, &bytes(200_000, 5));
    let cut = Cut::of(&engine, Millis(5)).unwrap();
    whole(&mut engine, 6, &bytes(60, 6));
    copying.rest(cut).unwrap();
    while copying.drop_gone().unwrap() {}
    drop((copying, held));
    idle(&mut engine);
    assert_eq!(find(&engine, &idle_one), None);

    let db = Database::builder().create_with_backend(target.0.clone()).unwrap();
    assert!(findings(&db).is_empty(), "{:?}", findings(&db));
    let whole = crate::store::objects::whole_objects(&db.begin_read().unwrap()).unwrap();
    let hashes: Vec<ContentHash> = whole.values().map(|object| object.hash).collect();
    assert_eq!(hashes.len(), 4);
    assert!([first, second, third, idle_one].iter().all(|hash| hashes.contains(hash)));
}

#[test]
fn every_flipped_bit_of_a_part_is_noticed_and_every_lack_is_named() {
    let bench = Bench::new();
    let (mut engine, _) = bench.open();
    let (epoch, _) = load(&mut engine);
    let hash = whole(&mut engine, 1, &bytes(3 * OBJECT_PART_BYTES, 1));
    commit(&mut engine, epoch, vec![referring(hash)], Vec::new());
    drop(engine);
    let db = bench.raw();
    let key = object_key(0, 1);
    let table = |db: &Database| db.begin_read().unwrap().open_table(OBJECT_PART).unwrap();
    let row = table(&db).get(key).unwrap().unwrap().value().to_vec();
    let other = table(&db).get(object_key(0, 2)).unwrap().unwrap().value().to_vec();
    drop(db);
    let parts = |bench: &Bench| read_parts(&bench.raw().begin_read().unwrap(), 0, 0..3);
    assert!(parts(&bench).is_ok());
    for bit in [0, 63, 64, 65, 100_000, row.len() * 8 - 1] {
        let mut rotted = row.clone();
        rotted[bit / 8] ^= 1 << (bit % 8);
        bench.spoil(OBJECT_PART, key, &rotted);
        assert!(matches!(parts(&bench), Err(StoreError::Damaged { .. })), "bit {bit}");
        assert_eq!(findings(&bench.raw()), ["row 1 of table `object_part`: checksum"]);
    }
    bench.spoil(OBJECT_PART, key, &other);
    assert!(parts(&bench).is_err(), "a good part in another's place");
    bench.spoil(OBJECT_PART, key, &row);
    bench.spoil(OBJECT_PART, object_key(9, 0), &row);
    assert_eq!(findings(&bench.raw()), ["row 589824 of table `object_part`: no object has it"]);
    let db = bench.raw();
    let txn = db.begin_write().unwrap();
    txn.open_table(OBJECT_PART).unwrap().remove(object_key(9, 0)).unwrap();
    txn.open_table(OBJECT).unwrap().remove(0).unwrap();
    txn.commit().unwrap();
    let named = findings(&db);
    assert!(named.contains(&"row 0 of table `object`: missing, and a message refers to it".to_owned()));
}

#[test]
fn a_damaged_object_is_mended_in_its_place_by_the_same_bytes() {
    for upload in [false, true] {
        let bench = Bench::new();
        let (mut engine, _) = bench.open();
        let body = bytes(150_000, 1);
        let hash = whole(&mut engine, 1, &body);
        drop(engine);
        bench.spoil(OBJECT_PART, object_key(0, 2), b"rotted");
        let (mut engine, _) = bench.open();
        let found = find(&engine, &hash).unwrap();
        engine.reader.objects().lock().damaged(found.number);
        if upload {
            let id = begun(&mut engine, 2, &body);
            assert_eq!(done(&mut engine, vec![ObjectOp::Finish(id, hash)]), [Ok(())]);
        } else {
            whole(&mut engine, 2, &body);
        }
        idle(&mut engine);
        drop(engine);
        let (engine, _) = bench.open();
        assert!(read(&engine, found) == *body, "upload {upload}");
        assert_eq!(rows(&engine.db, OBJECT), 1);
        assert!(findings(&engine.db).is_empty(), "{:?}", findings(&engine.db));
    }
}

#[test]
fn a_store_of_the_format_before_is_taken_over_and_an_older_one_is_not() {
    let bench = Bench::new();
    let (mut engine, _) = bench.open();
    let (epoch, _) = load(&mut engine);
    commit(&mut engine, epoch, vec![message("kept")], Vec::new());
    drop(engine);
    let as_format = |format: u32| {
        let db = bench.raw();
        let txn = db.begin_write().unwrap();
        txn.delete_table(OBJECT).unwrap();
        txn.delete_table(OBJECT_PART).unwrap();
        txn.commit().unwrap();
        assert!(format < 6 || findings(&db).is_empty());
        drop(db);
        let db = bench.raw();
        let txn = db.begin_write().unwrap();
        write_meta(&txn, "format", &format).unwrap();
        txn.commit().unwrap();
    };
    as_format(6);
    let (mut engine, _) = bench.open();
    let (_, found) = load(&mut engine);
    assert_eq!(found.len(), 1);
    whole(&mut engine, 1, &bytes(10, 1));
    drop(engine);
    let db = bench.raw();
    let format: u32 =
        crate::store::identity::mark(&db.begin_read().unwrap().open_table(META).unwrap(), "format")
            .unwrap()
            .unwrap();
    assert_eq!(format, 7);
    drop(db);
    as_format(5);
    assert!(matches!(bench.try_open(), Err(StoreError::OlderFormat { found: 5, known: 7 })));
}
