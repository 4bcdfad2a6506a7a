//! A shard that is not as it must be is noticed: a check that never fails would prove nothing in all the others.

use super::cases::{commit, delivery, nack, put, recv, stored};
use crate::ids::Slot;
use crate::message::Settled;
use crate::shard::kept::{Corpse, Msg};
use crate::shard::{NackMode, Settings, Shard, Step, StreamId};
use crate::time::Millis;

/// One message in each place: ready as new, ready again, in flight, delayed, dead.
pub(super) fn one_of_each() -> Shard {
    let mut shard = Shard::new(Settings::default());
    let _ = put(&mut shard, 10, &[stored(1), stored(2), stored(3), stored(4)]);
    let step = recv(&mut shard, 20, 1, 0);
    let _ = commit(&mut shard, 20, &step);
    for (slot, mode, delay_ms) in
        [(1, NackMode::Release, None), (2, NackMode::Fail, Some(60_000)), (3, NackMode::Reject, None)]
    {
        let step = nack(&mut shard, 30, delivery(slot, 1), mode, delay_ms);
        let _ = commit(&mut shard, 30, &step);
    }
    let _ = put(&mut shard, 40, &[stored(5)]);
    let stats = shard.stats();
    assert_eq!((stats.ready, stats.delayed, stats.vis, stats.dlq), (2, 1, 1, 1));
    shard
}

/// Breaks a shard in one way.
type Spoil = fn(&mut Shard);

/// What breaks the places, the indexes, the counters, by the invariant that must notice it.
fn of_messages() -> Vec<(&'static str, Spoil)> {
    vec![
        ("Q1", |shard| shard.tally.accepted += 1),
        ("Q1", |shard| shard.tally.acked += 1),
        ("Q1", |shard| shard.tally.expired += 1),
        ("Q1", |shard| shard.tally.purged += 1),
        ("Q2", |shard| {
            let msg = shard.leased[&Slot(4)];
            shard.returned.insert(Slot(4), msg);
            shard.tally.accepted += 1;
        }),
        ("Q2", |shard| {
            let msg = shard.leased[&Slot(4)];
            shard.returned.insert(Slot(5), msg); // still among the fresh
            shard.tally.accepted += 1;
        }),
        ("Q3", |shard| shard.deadlines.clear()),
        ("Q3", |shard| shard.dues.clear()),
        ("Q3", |shard| shard.expiring.clear()),
        ("Q3", |shard| shard.buried.clear()),
        ("Q3", |shard| {
            let corpse = Corpse { at: Millis(1), ..shard.dead[&Slot(3)] };
            shard.dead.insert(Slot(3), corpse);
        }),
        ("Q4", |shard| {
            shard.paused.recv = true;
            let _ = recv(shard, 50, 9, 100);
            shard.paused.recv = false; // and it is not served
        }),
        ("Q6", |shard| shard.reserved += 1),
        ("Q7", |shard| each(shard, |msg| msg.attempt = msg.delivery + 1)),
        ("Q7", |shard| each(shard, |msg| msg.attempt = 0)),
        ("Q7", |shard| each(shard, |msg| msg.settled = Settled::Failed)),
    ]
}

/// What breaks streams, groups and the places of the reprocessed.
fn of_order() -> Vec<(&'static str, Spoil)> {
    vec![
        ("Q9", |shard| {
            shard.open_stream(StreamId(1), 1, &mut Step::empty());
            shard.streams.hold(Slot(1), StreamId(1)); // it is ready
        }),
        ("Q9", |shard| {
            shard.open_stream(StreamId(1), 5, &mut Step::empty());
            shard.streams.hold(Slot(4), StreamId(1));
            shard.streams.hold(Slot(4), StreamId(1)); // counted twice
        }),
        ("Q9", |shard| {
            shard.open_stream(StreamId(1), 0, &mut Step::empty());
            shard.streams.hold(Slot(4), StreamId(1)); // more than it may
        }),
        ("Q10", |shard| shard.settings.fifo = true),
        ("Q10", |shard| {
            shard.fresh_groups.insert(Slot(99), 1); // there is no such message
        }),
        ("Q11", |shard| {
            shard.places.insert((Slot(1), 1), Slot(1)); // it was never reprocessed
        }),
        ("Q11", |shard| shard.returned.values_mut().for_each(|msg| msg.turn = 1)),
        ("Q11", |shard| {
            let msg = Msg { after: Slot(6), turn: 1, ..shard.returned.remove(&Slot(1)).unwrap() };
            shard.revived.insert(Slot(1), msg);
            shard.places.insert(msg.place(), Slot(1)); // behind the tail
        }),
        ("Q11", |shard| {
            let msg = shard.returned.remove(&Slot(1)).unwrap();
            shard.revived.insert(Slot(1), msg); // without a turn
            shard.places.insert(msg.place(), Slot(1));
            shard.tail = (Slot(9), 9);
        }),
    ]
}

#[test]
fn each_invariant_notices_what_breaks_it() {
    assert_eq!(one_of_each().check(), Ok(()));
    for (i, (id, spoil)) in of_messages().into_iter().chain(of_order()).enumerate() {
        let mut shard = one_of_each();
        spoil(&mut shard);
        assert_eq!(shard.check().unwrap_err().id, id, "{i}");
    }
}

/// Changes what is in flight.
fn each(shard: &mut Shard, change: impl Fn(&mut Msg)) {
    shard.leased.values_mut().for_each(change);
}

#[test]
fn limits_beyond_the_topic_bound_what_is_in_flight_until_they_are_lifted() {
    let mut shard = Shard::new(Settings::default());
    let _ = put(&mut shard, 10, &[stored(1), stored(2), stored(3)]);
    shard.allow_in_flight(2);
    let step = recv(&mut shard, 20, 1, 0);
    assert_eq!(super::cases::slots(&step), [1, 2]);
    let _ = commit(&mut shard, 20, &step);
    let step = recv(&mut shard, 30, 2, 0);
    assert_eq!(super::cases::refused(&step), Some(crate::reason::Reason::Backpressure));
    shard.allow_in_flight(usize::MAX);
    let step = recv(&mut shard, 40, 3, 0);
    assert_eq!(super::cases::slots(&step), [3]);
}

#[test]
fn a_message_that_is_nowhere_does_not_exist() {
    let shard = one_of_each();
    assert!((1..=5).all(|slot| shard.exists(Slot(slot))));
    assert!(!shard.exists(Slot(0)) && !shard.exists(Slot(6)));
}

#[test]
fn a_receive_too_many_is_told_whose_limit_it_met() {
    let settings = Settings { max_inflight: 1, ..Settings::default() };
    let mut shard = Shard::new(settings);
    let _ = put(&mut shard, 10, &[stored(1), stored(2)]);
    let text = |shard: &mut Shard| match recv(shard, 20, 1, 0).reply {
        crate::shard::Reply::Refused(refusal) => refusal.text.to_string(),
        other => panic!("{other:?}"),
    };
    let step = recv(&mut shard, 20, 1, 0);
    let _ = commit(&mut shard, 20, &step);
    assert!(text(&mut shard).contains("of the topic"));
    let mut shard = Shard::new(Settings::default());
    let _ = put(&mut shard, 10, &[stored(1)]);
    shard.allow_in_flight(0);
    assert!(text(&mut shard).contains("of the tenant"));
}
