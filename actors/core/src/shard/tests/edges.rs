//! Edges that random sequences meet too rarely, or that only other crates ask about.

use super::broken::one_of_each;
use super::cases::{commit, delivery, nack, put, recv, stored};
use crate::ids::Slot;
use crate::shard::fresh::Fresh;
use crate::shard::{Command, NackMode, Paused, Reply, Settings, Shard, StreamId, WaiterId};
use crate::time::Millis;

#[test]
fn a_run_that_is_full_is_followed_by_another() {
    let mut fresh = Fresh::default();
    let many = u64::from(u16::MAX) + 2;
    for slot in 0..many {
        assert!(fresh.push(Slot(slot), Millis(10), 7));
    }
    for slot in 0..many {
        let front = fresh.pop_front().unwrap();
        assert_eq!((front.slot, front.enqueued), (Slot(slot), Millis(10)));
    }
    assert!(fresh.pop_front().is_none());
}

#[test]
fn one_taken_from_a_later_run_leaves_each_of_the_others_its_length() {
    let mut fresh = Fresh::default();
    for slot in 1..=6 {
        assert!(fresh.push(Slot(slot), Millis(if slot <= 3 { 10 } else { 11 }), 100 + slot as u32));
    }
    assert_eq!(fresh.take(Slot(5)).unwrap().len, 105);
    let rest: Vec<_> =
        std::iter::from_fn(|| fresh.pop_front()).map(|front| (front.slot.0, front.len)).collect();
    assert_eq!(rest, [(1, 101), (2, 102), (3, 103), (4, 104), (6, 106)]);
}

#[test]
fn room_is_wanted_by_a_receive_that_waits_while_something_is_ready() {
    let mut shard = Shard::new(Settings::default());
    assert!(!shard.wants_room(), "nobody waits, nothing is ready");
    let _ = recv(&mut shard, 10, 1, 1_000);
    assert!(!shard.wants_room(), "nothing is ready");
    shard.allow_in_flight(0);
    let _ = put(&mut shard, 20, &[stored(1)]);
    assert!(shard.wants_room());
    let _ = shard.apply(Millis(30), Command::CancelRecv { waiter: WaiterId(1) });
    assert!(!shard.wants_room(), "nobody waits");
}

#[test]
fn only_what_hands_out_may_be_told_of_room() {
    let visibility_ms = 1_000;
    let settings = Settings::default();
    let slots = vec![Slot(9)];
    let commands = [
        Command::Enqueue { count: 1 },
        Command::Replace { slot: Slot(9) },
        Command::CancelRecv { waiter: WaiterId(9) },
        Command::OpenStream { stream: StreamId(9), max_inflight: 1 },
        Command::CloseStream { stream: StreamId(9) },
        Command::Ack { deliveries: Vec::new() },
        Command::Extend { deliveries: Vec::new(), visibility_ms },
        Command::Corrupt { delivery: delivery(9, 1) },
        Command::Rotted { slots: slots.clone() },
        Command::Configure { settings, paused: Paused::default() },
        Command::Reprocess { slots: slots.clone() },
        Command::PurgeDead { slots },
        Command::Tick,
    ];
    for command in commands {
        let mut shard = Shard::new(settings);
        let _ = recv(&mut shard, 10, 1, 1_000);
        shard.allow_in_flight(0);
        let _ = put(&mut shard, 20, &[stored(1)]);
        let (hands_out, named) = (command.hands_out(), format!("{command:?}"));
        if hands_out {
            shard.allow_in_flight(1);
        }
        let step = shard.apply(Millis(30), command);
        assert_eq!(step.grants.len(), usize::from(hands_out), "{named}");
        assert_eq!(shard.check(), Ok(()), "{named}");
    }
}

#[test]
fn dead_letters_are_listed_in_pages_and_one_by_one() {
    let mut shard = one_of_each();
    let step = nack(&mut shard, 50, delivery(4, 1), NackMode::Reject, None);
    assert_eq!((step.counts.dead, step.counts.dead_again), (1, 0), "it was never reprocessed");
    let _ = commit(&mut shard, 50, &step);
    let slots =
        |after, limit| shard.buried(after, limit).iter().map(|letter| letter.slot.0).collect::<Vec<_>>();
    assert_eq!(slots(None, 10), [3, 4]);
    assert_eq!(slots(None, 1), [3]);
    assert_eq!(slots(Some(Slot(3)), 10), [4]);
    assert_eq!(slots(Some(Slot(4)), 10), [0; 0]);
    let letter = shard.buried_at(Slot(4)).unwrap();
    assert_eq!((letter.slot, letter.at), (Slot(4), Millis(50)));
    assert!(shard.buried_at(Slot(1)).is_none(), "it is ready");
}

#[test]
fn those_that_die_again_count_only_behind_the_place_that_is_watched() {
    let died_again = |watched: bool| {
        let mut shard = one_of_each();
        let (slot, turn) = shard.tail();
        if watched {
            shard.watch_from((slot, turn + 1));
        }
        let step = shard.apply(Millis(60), Command::Reprocess { slots: vec![Slot(3)] });
        assert_eq!(step.reply, Reply::Reprocessed { moved: 1, left: 0 });
        let _ = commit(&mut shard, 60, &step);
        assert!(shard.tail() > (slot, turn));
        let all = shard.stats().ready;
        let step = recv(&mut shard, 70, 9, 0);
        assert_eq!(super::cases::slots(&step).len() as u64, all);
        let _ = commit(&mut shard, 70, &step);
        let step = nack(&mut shard, 80, delivery(3, 2), NackMode::Reject, None);
        step.counts.dead_again
    };
    assert_eq!(died_again(false), 1);
    assert_eq!(died_again(true), 1, "it stands behind: the watched place moves the tail");
    let mut shard = one_of_each();
    let step = shard.apply(Millis(60), Command::Reprocess { slots: vec![Slot(3)] });
    let _ = commit(&mut shard, 60, &step);
    shard.watch_from(shard.tail());
    let step = recv(&mut shard, 70, 9, 0);
    let _ = commit(&mut shard, 70, &step);
    let step = nack(&mut shard, 80, delivery(3, 2), NackMode::Reject, None);
    assert_eq!(step.counts.dead_again, 0, "it came back before");
}
