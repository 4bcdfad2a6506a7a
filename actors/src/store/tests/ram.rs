//! Messages that are kept in memory alone.

use super::super::check::Checker;
use super::super::copy::{Copying, Cut, Source};
use super::super::findings::Findings;
use super::super::inventory::Inventory;
use super::super::recover::Opening;
use super::*;
use ron_core::message::Revived;

/// A commit whose messages are kept in memory alone.
fn put_ram(engine: &mut Engine, epoch: ShardEpoch, puts: Vec<NewMessage>) -> Vec<PutOutcome> {
    let work = Work { epoch, puts, ram: true, ..Work::default() };
    engine.commit(&mut [(SHARD, work)]).unwrap().results.remove(0).unwrap()
}

/// The store opened again by the same process, after a failure.
fn again(bench: &Bench, reader: &Reader) -> Engine {
    let clock = bench.clock.clone();
    let clock_from = move |_| Arc::new(clock.clone()) as Arc<dyn Clock>;
    Engine::open(&bench.medium, &bench.config, &clock_from, Opening::Again, reader).unwrap().0
}

fn check(db: &Database) -> Findings {
    Checker::default().run(&db.begin_read().unwrap()).unwrap()
}

fn payloads(reader: &Reader, found: &[Recovered]) -> Vec<Bytes> {
    let slots: Vec<Slot> = found.iter().map(|message| message.stored.slot).collect();
    reader.fetch_blocking(&slots).into_iter().map(|read| read.unwrap().payload).collect()
}

#[test]
fn their_commits_do_not_put_off_saving_the_time_while_durable_leases_are_out() {
    let bench = Bench::new();
    let (mut engine, _) = bench.open();
    let (epoch, _) = load(&mut engine);
    let slot = slots(&commit(&mut engine, epoch, vec![message("leased")], Vec::new()))[0];
    let lease = StateOp::Set { slot, state: state(Phase::Leased, 1_060_000), note: None };
    commit(&mut engine, epoch, Vec::new(), vec![lease]);
    for _ in 0..20 {
        bench.clock.advance(1_000);
        put_ram(&mut engine, epoch, vec![message("in memory")]);
        while engine.idle_work().unwrap() {}
    }
    drop(engine); // as if killed
    let (engine, _) = bench.open();
    let late = Millis(1_020_000).since(engine.last_alive);
    assert!(late <= 5_000, "{late} ms");
}

#[test]
fn they_stand_between_the_others_and_end_with_the_process() {
    let bench = Bench::new();
    let (mut engine, reader) = bench.open();
    let (epoch, _) = load(&mut engine);
    commit(&mut engine, epoch, vec![message("first")], Vec::new());
    let ram = slots(&put_ram(&mut engine, epoch, vec![message("second"), message("third")]));
    commit(&mut engine, epoch, vec![message("fourth")], Vec::new());
    assert!(ram.iter().all(|slot| slot.is_ram()));
    let lease = StateOp::Set { slot: ram[1], state: state(Phase::Leased, 1_005_000), note: Some("n".into()) };
    commit(&mut engine, epoch, Vec::new(), vec![gone(ram[0]), lease]);
    let (_, found) = load(&mut engine);
    assert_eq!(payloads(&reader, &found), ["first", "third", "fourth"]);
    assert_eq!(found[1].state, Some(state(Phase::Leased, 1_005_000)));
    drop(engine); // as if killed: nothing is tidied

    let (mut engine, reader) = bench.open();
    let (epoch, found) = load(&mut engine);
    assert_eq!(payloads(&reader, &found), ["first", "fourth"]);
    let again = slots(&put_ram(&mut engine, epoch, vec![message("fifth")]));
    assert!(again[0] > ram[1], "no place is given twice");
}

#[test]
fn they_cost_no_transaction_once_their_numbers_are_put_aside() {
    let bench = Bench::new();
    let (mut engine, _) = bench.open();
    let (epoch, _) = load(&mut engine);
    put_ram(&mut engine, epoch, vec![message("a")]);
    engine.db = Arc::new(Disk::default().open(&mut Database::builder(), 0).unwrap().db);
    // a database without tables: whatever touched it would fail, or leave some
    let slots = slots(&put_ram(&mut engine, epoch, vec![message("b")]));
    let work = Work { epoch, ops: vec![gone(slots[0])], ..Work::default() };
    engine.commit(&mut [(SHARD, work)]).unwrap().results.remove(0).unwrap();
    assert_eq!(engine.db.begin_read().unwrap().list_tables().unwrap().count(), 0);
}

#[test]
fn they_outlive_a_reopening_with_their_words_and_keys() {
    let bench = Bench::new();
    let (mut engine, reader) = bench.open();
    let (epoch, _) = load(&mut engine);
    let puts = vec![keyed("dead", "k", 60_000), message("alive"), message("gone")];
    let at = slots(&put_ram(&mut engine, epoch, puts));
    let noted = MsgState { noted: true, ..state(Phase::Ready, 0) };
    let note = StateOp::Set { slot: at[0], state: noted, note: Some("why".into()) };
    let dead_at = Millis(1_000_000);
    let letter = DeadLetter { reason: "max_attempts".into(), attempts: 1, last_error: None, at: dead_at };
    let dead = MsgState { noted: true, ..state(Phase::Dead, 1_000_000) };
    let bury = StateOp::Dead { slot: at[0], state: dead, letter };
    commit(&mut engine, epoch, Vec::new(), vec![note, bury, gone(at[2])]);
    let left = engine.take_volatile();
    drop(engine);

    let mut engine = again(&bench, &reader);
    engine.adopt(left);
    let (epoch, found) = load(&mut engine);
    assert_eq!(payloads(&reader, &found), ["dead", "alive"]);
    let letters = reader.letters_blocking(SHARD, &at[..1]).unwrap();
    assert_eq!(letters[0].as_ref().unwrap().last_error.as_deref(), Some("why"));
    let again = commit(&mut engine, epoch, vec![keyed("dead", "k", 60_000)], Vec::new());
    assert!(matches!(again[0], PutOutcome::Duplicate { slot, .. } if slot == at[0]), "{again:?}");
    let later = slots(&put_ram(&mut engine, epoch, vec![message("later")]));
    assert!(later[0] > at[2]);
}

#[test]
fn keys_of_a_commit_that_failed_do_not_outlive_it() {
    let bench = Bench::new();
    let (mut engine, reader) = bench.open();
    let (epoch, _) = load(&mut engine);
    put_ram(&mut engine, epoch, vec![keyed("stored", "a", 60_000)]);
    let work = Work { epoch, puts: vec![keyed("not stored", "b", 60_000)], ram: true, ..Work::default() };
    let mut results = vec![Ok(Vec::new())];
    drop(engine.prepare(&[(SHARD, work)], &mut results)); // and its transaction fails
    assert!(matches!(results[0].as_deref(), Ok([PutOutcome::Stored(_)])), "{results:?}");
    let left = engine.take_volatile();
    drop(engine);

    let mut engine = again(&bench, &reader);
    engine.adopt(left);
    let (epoch, found) = load(&mut engine);
    assert_eq!(payloads(&reader, &found), ["stored"]);
    let retried = vec![keyed("stored", "a", 60_000), keyed("not stored", "b", 60_000)];
    let retried = put_ram(&mut engine, epoch, retried);
    assert!(matches!(retried[..], [PutOutcome::Duplicate { .. }, PutOutcome::Stored(_)]), "{retried:?}");
}

#[test]
fn they_are_bounded_by_bytes_and_stragglers_pin_nothing() {
    let mut bench = Bench::new();
    bench.config.ram_bytes_max = 20_000;
    let (mut engine, reader) = bench.open();
    let (epoch, _) = load(&mut engine);
    let large = || message(&"x".repeat(1_000));
    let outcomes = put_ram(&mut engine, epoch, (0..30).map(|_| large()).collect());
    let full = outcomes.iter().filter(|outcome| matches!(outcome, PutOutcome::RamFull)).count();
    assert!((11..=13).contains(&full), "{full}");
    let stored = slots(&outcomes[..outcomes.len() - full]);
    commit(&mut engine, epoch, vec![large()], Vec::new());
    // all but one go: their room comes back at once, and the one keeps its place
    commit(&mut engine, epoch, Vec::new(), stored[1..].iter().map(|slot| gone(*slot)).collect());
    assert!(engine.volatile.bytes() < 5_000, "{}", engine.volatile.bytes());
    assert!(reader.fetch_blocking(&stored[..1])[0].is_ok());
    assert!(matches!(put_ram(&mut engine, epoch, vec![large()])[0], PutOutcome::Stored(_)));
    commit(&mut engine, epoch, Vec::new(), vec![gone(stored[0])]);
    assert!(load(&mut engine).1.iter().all(|message| message.stored.slot != stored[0]));
}

#[test]
fn a_snapshot_leaves_them_out_says_how_many_and_their_numbers_are_known_to_be_given() {
    let bench = Bench::new();
    let (mut engine, _) = bench.open();
    let (epoch, _) = load(&mut engine);
    let kept = commit(&mut engine, epoch, vec![keyed("kept", "a", 60_000)], Vec::new());
    let ram = slots(&put_ram(&mut engine, epoch, vec![keyed("ram", "b", 60_000), message("ram too")]));
    let target = Disk::default();
    let mut copying = Copying::new(target.0.clone(), engine.next_chunk).unwrap();
    while copying.slice(&Source::of(&engine)).unwrap() {}
    let more = slots(&put_ram(&mut engine, epoch, vec![message("since")]));
    commit(&mut engine, epoch, vec![message("kept too")], vec![gone(ram[1])]);
    let mark = copying.rest(Cut::of(&engine, Millis(77)).unwrap()).unwrap();
    assert_eq!((mark.messages, mark.ram_messages, mark.dedup_keys), (2, 2, 1));
    while copying.drop_gone().unwrap() {}
    let figures = engine.figures();
    assert_eq!((figures.live, figures.ram_messages, figures.ram_keys), (4, 2, 1));
    assert!(figures.ram_bytes > 0 && figures.live_bytes() < figures.body_bytes * 2 + 3 * 64);

    let copy = target.open(&mut Database::builder(), 0).unwrap().db;
    let findings = check(&copy);
    assert!(findings.is_clean() && findings.messages == 2, "{findings:?}");
    let inventory = Inventory::take(&copy.begin_read().unwrap()).unwrap();
    assert_eq!(inventory.topics.values().map(|live| live.len()).sum::<u64>(), 2);
    assert_eq!(inventory.keys, [inventory.keys[0]]);
    assert_eq!(inventory.keys[0].2, slots(&kept)[0].0);
    assert!(inventory.next_chunk > more[0].chunk(), "a restore gives none of theirs again");
}

#[test]
fn a_head_that_has_one_of_their_numbers_is_damage() {
    let bench = Bench::new();
    let (mut engine, _) = bench.open();
    let (epoch, _) = load(&mut engine);
    let at = slots(&commit(&mut engine, epoch, vec![message("kept")], Vec::new()))[0].chunk();
    drop(engine);
    let head = bench.raw().begin_read().unwrap().open_table(HEAD).unwrap().get(at).unwrap().unwrap();
    bench.spoil(HEAD, at + 1, head.value());
    let named = check(&bench.raw()).named;
    assert!(named.iter().any(|damage| damage.to_string().contains("memory alone")), "{named:?}");
}

#[test]
fn places_of_a_topic_rise_in_one_commit_too_whatever_it_keeps_where() {
    let bench = Bench::new();
    let (mut engine, _) = bench.open();
    let (epoch, _) = load(&mut engine);
    let put = |ram, text: &str| {
        let puts = vec![message(text), message(text)];
        (SHARD, Work { epoch, puts, ram, ..Work::default() })
    };
    let mut work = [put(true, "a"), put(false, "b"), put(true, "c"), put(true, "d"), put(false, "e")];
    let results = engine.commit(&mut work).unwrap().results;
    let given: Vec<Slot> = results.into_iter().flat_map(|result| slots(&result.unwrap())).collect();
    assert!(given.is_sorted_by(|a, b| a < b), "{given:?}");
    let kinds: Vec<bool> = given.iter().step_by(2).map(|slot| slot.is_ram()).collect();
    assert_eq!(kinds, [true, false, true, true, false]);
    let (epoch, found) = load(&mut engine);
    assert_eq!(found.iter().map(|message| message.stored.slot).collect::<Vec<_>>(), given);
    let next = slots(&commit(&mut engine, epoch, vec![message("f")], Vec::new()));
    assert!(next[0] > given[9]);
}

/// Three dead letters with a note each.
fn three_dead(engine: &mut Engine, epoch: ShardEpoch) -> Vec<Slot> {
    let at = slots(&put_ram(engine, epoch, vec![message("a"), message("b"), message("c")]));
    let noted = MsgState { noted: true, ..state(Phase::Ready, 0) };
    let dead = MsgState { noted: true, ..state(Phase::Dead, 1_000_000) };
    for &slot in &at {
        let letter =
            DeadLetter { reason: "rejected".into(), attempts: 1, last_error: None, at: Millis(1_000_000) };
        let note = StateOp::Set { slot, state: noted, note: Some("why".into()) };
        commit(engine, epoch, Vec::new(), vec![note, StateOp::Dead { slot, state: dead, letter }]);
    }
    at
}

#[test]
fn a_dead_letter_that_comes_back_or_ends_leaves_no_words() {
    let bench = Bench::new();
    let (mut engine, reader) = bench.open();
    let (epoch, _) = load(&mut engine);
    let at = three_dead(&mut engine, epoch);
    let words = |reader: &Reader| -> Vec<bool> {
        let letters = reader.letters_blocking(SHARD, &at).unwrap();
        letters.iter().map(Option::is_some).collect()
    };
    assert_eq!(words(&reader), [true; 3]);
    let back = Revived { at: Millis(1_000_000), after: at[2], turn: 1, deliveries: 1 };
    let ready = MsgState { settled: Settled::Revived, revived: Some(back), ..state(Phase::Ready, 0) };
    let ops = vec![StateOp::Revived { slot: at[0], state: ready }, StateOp::DeadGone { slot: at[1] }];
    commit(&mut engine, epoch, Vec::new(), ops);
    assert_eq!(words(&reader), [false, false, true]);
    let (epoch, found) = load(&mut engine);
    let states: Vec<_> = found.iter().map(|message| (message.stored.slot, message.state)).collect();
    assert_eq!(states.len(), 2);
    assert_eq!(states[0], (at[0], Some(ready)));
    let letter = DeadLetter { reason: "again".into(), attempts: 1, last_error: None, at: Millis(1_000_000) };
    let dead = MsgState { noted: false, ..state(Phase::Dead, 1_000_000) };
    commit(&mut engine, epoch, Vec::new(), vec![StateOp::Dead { slot: at[0], state: dead, letter }]);
    let letters = reader.letters_blocking(SHARD, &at[..1]).unwrap();
    assert_eq!(letters[0].as_ref().unwrap().last_error, None, "the note of before went with the letter");
}

#[test]
fn what_takes_a_dead_letters_place_goes_to_disk_where_memory_has_no_room() {
    let mut bench = Bench::new();
    bench.config.ram_bytes_max = 1_000;
    let (mut engine, reader) = bench.open();
    let (epoch, _) = load(&mut engine);
    let at = three_dead(&mut engine, epoch);
    let large = || vec![message(&"x".repeat(2_000))];
    assert!(matches!(put_ram(&mut engine, epoch, large())[0], PutOutcome::RamFull));
    let ops = vec![StateOp::DeadGone { slot: at[0] }];
    let work = Work { epoch, puts: large(), ops, ram: true, ..Work::default() };
    let outcomes = engine.commit(&mut [(SHARD, work)]).unwrap().results.remove(0).unwrap();
    let copy = slots(&outcomes)[0];
    assert!(!copy.is_ram() && copy > at[2]);
    drop(engine);
    let (mut engine, _) = bench.open();
    assert_eq!(payloads(&reader, &load(&mut engine).1).len(), 1, "it is on disk");
}

#[test]
fn they_go_with_a_topic_whose_deletion_landed_though_nobody_knew() {
    let bench = Bench::new();
    let (mut engine, reader) = bench.open();
    let (epoch, _) = load(&mut engine);
    let at = three_dead(&mut engine, epoch);
    let ops = at.iter().map(|&slot| StateOp::DeadGone { slot }).collect();
    engine.stands_still(SHARD, Millis(900_000));
    let left = engine.take_volatile();
    let work = Work { epoch, ops, delete: true, ..Work::default() };
    engine.commit(&mut [(SHARD, work)]).unwrap().results.remove(0).unwrap();
    engine.stands_still(SHARD, Millis(950_000)); // its actor has ended
    assert!(!engine.still.is_changed());
    let deleted = std::mem::take(&mut engine.deleted);
    drop(engine);

    let mut engine = again(&bench, &reader);
    assert_eq!(engine.still.since(SHARD), None, "no row is left of its clocks");
    engine.deleted = deleted;
    engine.adopt(left);
    assert_eq!((engine.volatile.bytes(), engine.figures().live), (0, 0));
    assert!(reader.letters_blocking(SHARD, &at).unwrap().iter().all(Option::is_none));
    let job = engine.snapshot(SHARD).unwrap();
    assert!(job.deleted);
    job.run(&mut |message| panic!("{message:?}")).unwrap();
}
