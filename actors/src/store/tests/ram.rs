//! Messages that are kept in memory alone.

use super::super::recover::Opening;
use super::*;

/// A commit whose messages are kept in memory alone.
fn put_ram(engine: &mut Engine, epoch: ShardEpoch, puts: Vec<NewMessage>) -> Vec<PutOutcome> {
    let work = Work { epoch, puts, ram: true, ..Work::default() };
    engine.commit(&mut [(SHARD, work)]).unwrap().results.remove(0).unwrap()
}

fn payloads(reader: &Reader, found: &[Recovered]) -> Vec<Bytes> {
    let slots: Vec<Slot> = found.iter().map(|message| message.stored.slot).collect();
    reader.fetch_blocking(&slots).into_iter().map(|read| read.unwrap().payload).collect()
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
    engine.db = Arc::new(RamMedium::default().open(&mut Database::builder()).unwrap());
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

    let clock = bench.clock.clone();
    let clock_from = move |_| Arc::new(clock.clone()) as Arc<dyn Clock>;
    let mut engine =
        Engine::open(&bench.medium, &bench.config, &clock_from, Opening::Again, &reader).unwrap().0;
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
