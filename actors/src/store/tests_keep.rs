//! What keeps a store well: copies that are consistent whatever is written meanwhile, and checks that name what is
//! wrong.

use super::check::Checker;
use super::copy::{Copying, Cut, Source};
use super::engine::{Engine, TopicRow, Work};
use super::findings::{Damage, Findings};
use super::inventory::Inventory;
use super::read::ReadFailure;
use super::schema::{BODY, DELTA, DLQ, HEAD, META, NOTE, STATE};
use super::tests::{Bench, Disk, commit, gone, keyed, load, message, slots, state};
use super::{Medium, RamBackend, StoreError};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use ron_core::ids::{QueueKey, ShardId, Tenant, Topic};
use ron_core::message::{DeadLetter, MsgState, Phase, StateOp};
use ron_core::shard::TopicState;
use ron_core::time::Millis;

/// All rows of a table of chunks.
fn rows(db: &Database, table: TableDefinition<'static, u64, &'static [u8]>) -> Vec<(u64, Vec<u8>)> {
    let table = db.begin_read().unwrap().open_table(table).unwrap();
    let row = |row: Result<(redb::AccessGuard<'_, u64>, redb::AccessGuard<'_, &[u8]>), _>| {
        let (key, value) = row.unwrap();
        (key.value(), value.value().to_vec())
    };
    table.iter().unwrap().map(row).collect()
}

fn check(db: &Database) -> Findings {
    Checker::default().run(&db.begin_read().unwrap()).unwrap()
}

fn holds(engine: &Engine) -> Vec<(u64, u64)> {
    let inventory = Inventory::take(&engine.db.begin_read().unwrap()).unwrap();
    inventory.topics.values().map(|live| (live.len(), live.in_flight)).collect()
}

#[test]
fn a_copy_is_the_store_at_its_cut_whatever_is_written_meanwhile() {
    let bench = Bench::new();
    let (mut engine, reader) = bench.open();
    let (epoch, _) = load(&mut engine);
    let big = |n: usize| message(&format!("{n}").repeat(200_000));
    let first = slots(&commit(&mut engine, epoch, (0..40).map(big).collect(), Vec::new()));
    let small = (0..200).map(|n| message(&format!("{n:->300}"))).collect();
    let small = slots(&commit(&mut engine, epoch, small, Vec::new()));
    let key = slots(&commit(&mut engine, epoch, vec![keyed("a", "one", 60_000)], Vec::new()));

    let held = reader.hold_rewrites();
    let source = Source::of(&engine);
    let target = Disk::default();
    let mut copying = Copying::new(target.0.clone(), engine.next_chunk).unwrap();
    let mut slices = 0;
    loop {
        let more = copying.slice(&source).unwrap();
        slices += 1;
        // between the slices: a chunk that was copied goes, stragglers are left, more comes, a key of a new bucket
        match slices {
            1 => drop(commit(&mut engine, epoch, Vec::new(), vec![gone(first[0]), gone(first[1])])),
            2 => drop(commit(&mut engine, epoch, vec![keyed("b", "two", 9_000_000)], Vec::new())),
            3 => {
                let dead = small[1..].iter().map(|slot| gone(*slot)).collect();
                commit(&mut engine, epoch, Vec::new(), dead);
                bench.clock.advance(10_000);
                while engine.idle_work().unwrap() {}
                assert!(engine.figures().stragglers > 0, "no chunk is rewritten meanwhile");
            }
            _ => {}
        }
        if !more {
            break;
        }
    }
    assert!(slices > 3, "{slices}");
    let lease = StateOp::Set { slot: key[0], state: state(Phase::Leased, 2_000_000), note: None };
    commit(&mut engine, epoch, vec![message("last")], vec![lease, gone(first[2])]);
    let cut = Cut::of(&engine, Millis(77)).unwrap();
    let at_the_cut = (holds(&engine), engine.figures());
    let tables = [HEAD, BODY, STATE, DELTA, NOTE];
    let before = tables.map(|table| rows(&engine.db, table));
    // after the cut, before it is copied
    commit(&mut engine, epoch, vec![message("too late")], vec![gone(key[0]), gone(first[3])]);
    let mark = copying.rest(cut).unwrap();
    assert_eq!((mark.taken_at, mark.messages), (Millis(77), at_the_cut.1.live));
    while copying.drop_gone().unwrap() {}
    drop(held);

    let copy = target.open(&mut Database::builder(), 0).unwrap().db;
    assert!(check(&copy).is_clean(), "{:?}", check(&copy).named);
    assert_eq!(check(&copy).messages, at_the_cut.1.live);
    for (table, before) in tables.into_iter().zip(&before) {
        assert!(rows(&copy, table) == *before, "{table}");
    }
    let inventory = Inventory::take(&copy.begin_read().unwrap()).unwrap();
    let held = inventory.topics.values().map(|live| (live.len(), live.in_flight)).collect::<Vec<_>>();
    assert_eq!(held, at_the_cut.0);
    assert_eq!(inventory.keys.len(), 2, "keys of before and of meanwhile");
    drop(copy);
    the_store_goes_on(bench, engine, target);
}

/// It rewrites what was held; and nobody goes on from a snapshot as if it was the store.
fn the_store_goes_on(bench: Bench, mut engine: Engine, snapshot: Disk) {
    bench.clock.advance(10_000);
    while engine.idle_work().unwrap() {}
    assert_eq!(engine.figures().stragglers, 0);
    assert!(check(&engine.db).is_clean(), "{:?}", check(&engine.db).named);
    drop(engine);
    let gone_on = Bench { medium: snapshot, ..bench };
    assert!(matches!(gone_on.try_open(), Err(StoreError::IsSnapshot)));
}

#[test]
fn a_copy_of_a_store_that_was_reopened_fails() {
    let bench = Bench::new();
    let (mut engine, _) = bench.open();
    let (epoch, _) = load(&mut engine);
    commit(&mut engine, epoch, vec![message("a")], Vec::new());
    let source = Source::of(&engine);
    let mut copying = Copying::new(RamBackend::default(), engine.next_chunk).unwrap();
    copying.slice(&source).unwrap();
    drop(engine);
    let _reopened = bench.open();
    assert!(matches!(copying.slice(&source), Err(StoreError::Reopening)));
}

/// A store with one of everything: a message that was never handed out, one with a note, a dead one.
fn rich(bench: &Bench) -> u64 {
    let (mut engine, _) = bench.open();
    let (epoch, _) = load(&mut engine);
    let all = slots(&commit(
        &mut engine,
        epoch,
        vec![message("a"), keyed("b", "k", 900_000), message("c")],
        Vec::new(),
    ));
    let noted = MsgState { noted: true, ..state(Phase::Delayed, 2_000_000) };
    let note = StateOp::Set { slot: all[1], state: noted, note: Some("boom".into()) };
    let letter =
        DeadLetter { reason: "max_attempts".into(), attempts: 1, last_error: None, at: Millis(1_000_001) };
    let dead = StateOp::Dead { slot: all[2], state: state(Phase::Dead, 1_000_001), letter };
    commit(&mut engine, epoch, Vec::new(), vec![note, dead]);
    all[0].chunk()
}

fn named(bench: &Bench) -> Vec<String> {
    let findings = check(&bench.raw());
    assert_eq!(findings.damages, findings.named.len() as u64);
    findings.named.iter().map(ToString::to_string).collect()
}

#[test]
fn a_check_names_the_row_and_what_is_wrong_with_it() {
    let flip: fn(&mut Vec<u8>) = |row| row[9] ^= 1;
    for (table, expected) in [
        (HEAD, "row 0 of table `head`: checksum"),
        (DELTA, "row 0 of table `delta`: checksum"),
        (NOTE, "of table `note`: checksum"),
        (BODY, "message 0 of chunk 0, of acme/orders: checksum"),
    ] {
        let bench = Bench::new();
        rich(&bench);
        assert_eq!(named(&bench), Vec::<String>::new());
        let (key, mut row) = rows(&bench.raw(), table).remove(0);
        flip(&mut row);
        bench.spoil(table, key, &row);
        assert!(named(&bench).iter().any(|text| text.contains(expected)), "{table}: {:?}", named(&bench));
    }
}

#[test]
fn a_check_sees_what_the_tables_say_of_each_other() {
    type Work<'w> = &'w dyn Fn(&redb::WriteTransaction);
    let without = |bench: &Bench, work: Work<'_>| {
        let db = bench.raw();
        let txn = db.begin_write().unwrap();
        work(&txn);
        txn.commit().unwrap();
    };
    let cases: [(&str, Work<'_>); 5] = [
        ("of table `body`: missing", &|txn| txn.open_table(BODY).unwrap().retain(|_, _| false).unwrap()),
        ("no head has its chunk", &|txn| txn.open_table(HEAD).unwrap().retain(|_, _| false).unwrap()),
        ("missing, and its message is dead", &|txn| {
            txn.open_table(DLQ).unwrap().retain(|_, _| false).unwrap()
        }),
        ("its message is not dead", &|txn| txn.open_table(DELTA).unwrap().retain(|_, _| false).unwrap()),
        ("row format of table `meta`: missing", &|txn| {
            drop(txn.open_table(META).unwrap().remove("format").unwrap())
        }),
    ];
    for (expected, work) in cases {
        let bench = Bench::new();
        rich(&bench);
        without(&bench, work);
        assert!(named(&bench).iter().any(|text| text.contains(expected)), "{expected}: {:?}", named(&bench));
    }
}

#[test]
fn a_check_in_small_steps_finds_the_same_and_everything_once() {
    let bench = Bench::new();
    let chunk = rich(&bench);
    let (mut engine, _) = bench.open();
    let (epoch, _) = load(&mut engine);
    let more = (0..300).map(|n| message(&format!("{n:->1000}"))).collect();
    commit(&mut engine, epoch, more, Vec::new());
    drop(engine);
    let (_, mut body) = rows(&bench.raw(), BODY).remove(0);
    body[60] ^= 1;
    bench.spoil(BODY, chunk << 8, &body);
    let whole = check(&bench.raw());
    assert_eq!((whole.damages, whole.messages), (1, 303));
    let db = bench.raw();
    let mut checker = Checker::naming_all();
    let (mut found, mut steps) = (Vec::new(), 0);
    loop {
        let more = checker.step(&db.begin_read().unwrap(), 1).unwrap();
        found.extend(checker.take_named());
        steps += 1;
        if !more {
            break;
        }
    }
    assert!(steps > 8, "{steps}");
    assert_eq!(found, whole.named);
    assert!(matches!(&found[0], Damage::Record { slot, .. } if slot.chunk() == chunk));
    let stepped = checker.findings();
    assert_eq!((stepped.damages, stepped.messages, stepped.rows), (1, whole.messages, whole.rows));
    drop(db);
    let (_engine, reader) = bench.open();
    let Damage::Record { slot, .. } = found[0] else { panic!("a record") };
    assert_eq!(reader.fetch_blocking(&[slot])[0].as_ref().unwrap_err(), &ReadFailure::Damaged);
}

#[test]
fn a_topic_that_ended_or_began_meanwhile_is_no_damage() {
    let bench = Bench::new();
    let (mut engine, _) = bench.open();
    let topic = |name: &str| {
        let key = QueueKey { tenant: Tenant::parse("acme").unwrap(), topic: Topic::parse(name).unwrap() };
        Some(TopicRow { key, state: TopicState::default() })
    };
    let put = |engine: &mut Engine, names: &[(u32, &str)]| {
        let mut work = Vec::new();
        for (shard, name) in names {
            let epoch = engine.snapshot(ShardId(*shard)).unwrap().epoch;
            let puts = vec![message(name)];
            work.push((ShardId(*shard), Work { epoch, topic: topic(name), puts, ..Work::default() }));
        }
        let results = engine.commit(&mut work).unwrap().results;
        results.into_iter().map(|result| slots(&result.unwrap())[0]).collect::<Vec<_>>()
    };
    let both = put(&mut engine, &[(1, "stays"), (2, "ends")]);
    assert_eq!(both[0].chunk(), both[1].chunk());
    let epoch = engine.snapshot(ShardId(2)).unwrap().epoch;
    let end = Work { epoch, ops: vec![gone(both[1])], delete: true, ..Work::default() };
    engine.commit(&mut [(ShardId(2), end)]).unwrap();
    let findings = check(&engine.db);
    assert!(findings.is_clean() && findings.messages == 1, "{findings:?}");

    let mut checker = Checker::default();
    assert!(checker.step(&engine.db.begin_read().unwrap(), 1).unwrap());
    put(&mut engine, &[(3, "begins")]);
    while checker.step(&engine.db.begin_read().unwrap(), 1).unwrap() {}
    assert!(checker.findings().is_clean() && checker.findings().messages == 2, "{:?}", checker.findings());
}

#[test]
fn a_check_of_a_store_at_work_follows_what_is_folded_meanwhile() {
    let bench = Bench::new();
    let (mut engine, _) = bench.open();
    let (epoch, _) = load(&mut engine);
    let mut put = || slots(&commit(&mut engine, epoch, vec![message("one of its own chunk")], Vec::new()))[0];
    let [_, _, third, last] = std::array::from_fn(|_| put());
    let lease = |slot| StateOp::Set { slot, state: state(Phase::Leased, 2_000_000), note: None };
    commit(&mut engine, epoch, Vec::new(), vec![lease(third), lease(last)]);
    let mut checker = Checker::default();
    for _ in 0..2 {
        assert!(checker.step(&engine.db.begin_read().unwrap(), 1).unwrap());
    }
    bench.clock.advance(10_000);
    let letter = |at| DeadLetter { reason: "rejected".into(), attempts: 1, last_error: None, at };
    let die = |slot| StateOp::Dead { slot, state: state(Phase::Dead, 1_010_000), letter: letter(Millis(1)) };
    commit(&mut engine, epoch, Vec::new(), vec![die(third)]);
    while engine.idle_work().unwrap() {}
    assert!(rows(&engine.db, DELTA).is_empty());
    assert!(checker.step(&engine.db.begin_read().unwrap(), 1).unwrap());
    commit(&mut engine, epoch, Vec::new(), vec![die(last)]);
    assert_eq!(rows(&engine.db, DELTA).len(), 1);
    while checker.step(&engine.db.begin_read().unwrap(), 1).unwrap() {}
    let findings = checker.findings();
    assert!(findings.is_clean() && findings.messages == 4, "{findings:?}");
}
