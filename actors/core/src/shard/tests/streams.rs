//! Streams: credit, and what gives it back.

use super::cases::{commit, delivery, nack, put, recv, refused, slots, stored};
use crate::reason::Reason;
use crate::shard::{Command, NackMode, Paused, Settings, Shard, Step, StreamId, WaiterId, Want};
use crate::time::Millis;

fn open(shard: &mut Shard, stream: u64, max_inflight: u32) -> Step {
    shard.apply(Millis(10), Command::OpenStream { stream: StreamId(stream), max_inflight })
}

fn next(shard: &mut Shard, now: u64, waiter: u64, stream: u64) -> Step {
    let want = Want { max_messages: 256, max_bytes: 1 << 20, visibility_ms: Some(1_000) };
    let (waiter, stream) = (WaiterId(waiter), Some(StreamId(stream)));
    shard.apply(Millis(now), Command::Recv { waiter, want, until: Millis(now + 10_000), stream })
}

/// A stream of two credits in front of five messages, both used up, and its next receive waiting.
fn used_up() -> Shard {
    let mut shard = Shard::new(Settings::default());
    let _ = open(&mut shard, 7, 2);
    let all: Vec<_> = (1..=5).map(stored).collect();
    let _ = put(&mut shard, 10, &all);
    let step = next(&mut shard, 20, 1, 7);
    assert_eq!(slots(&step), [1, 2]);
    let _ = commit(&mut shard, 20, &step);
    assert_eq!(slots(&next(&mut shard, 30, 2, 7)), [0u64; 0]);
    shard.check().unwrap();
    shard
}

#[test]
fn every_end_of_a_delivery_gives_its_credit_back() {
    let mut shard = used_up();
    let step = shard.apply(Millis(40), Command::Ack { deliveries: vec![delivery(1, 1)] });
    assert_eq!(slots(&step), [3]);
    assert_eq!(slots(&next(&mut shard, 41, 3, 7)), [0u64; 0]);
    let step = nack(&mut shard, 50, delivery(2, 1), NackMode::Fail, Some(60_000));
    assert_eq!(slots(&step), [4]);
    assert_eq!(slots(&next(&mut shard, 51, 4, 7)), [0u64; 0]);
    let step = nack(&mut shard, 60, delivery(3, 1), NackMode::Reject, None);
    assert_eq!(slots(&step), [5]);
    let _ = commit(&mut shard, 60, &step);
    let _ = next(&mut shard, 61, 5, 7);
    shard.check().unwrap();
    // 4 and 5 time out, and are what the stream gets next
    let mut timed = used_up();
    let step = timed.apply(Millis(1_020), Command::Tick);
    assert_eq!(slots(&step), [1, 2]);
    assert_eq!(step.grants[0].messages[0].delivery, 2);
    let mut purged = used_up();
    let _ = purged.apply(Millis(40), Command::Purge);
    let _ = put(&mut purged, 50, &[stored(8)]);
    assert_eq!(purged.stats().vis, 1, "the receive that waited has it");
    purged.check().unwrap();
}

#[test]
fn an_extended_delivery_is_still_held() {
    let mut shard = used_up();
    let deliveries = vec![delivery(1, 1), delivery(2, 1)];
    let step = shard.apply(Millis(40), Command::Extend { deliveries, visibility_ms: 90_000 });
    assert_eq!(slots(&step), [0u64; 0]);
    assert!(slots(&shard.apply(Millis(1_020), Command::Tick)).is_empty());
    shard.check().unwrap();
}

#[test]
fn others_are_served_past_a_stream_without_credit_and_it_keeps_its_turn() {
    let mut shard = used_up();
    assert_eq!(slots(&recv(&mut shard, 40, 3, 40)), [3, 4, 5]);
    let _ = recv(&mut shard, 41, 4, 9_000);
    let _ = shard.apply(Millis(42), Command::Ack { deliveries: vec![delivery(1, 1)] });
    let step = put(&mut shard, 43, &[stored(9)]);
    assert_eq!(step.grants[0].waiter, WaiterId(2), "it came before the receive");
    shard.check().unwrap();
}

#[test]
fn a_stream_waits_where_a_receive_is_refused() {
    let mut shard = Shard::new(Settings { max_inflight: 1, max_waiters: 1, ..Settings::default() });
    let _ = open(&mut shard, 7, 5);
    assert_eq!(refused(&open(&mut shard, 8, 5)), Some(Reason::Backpressure));
    let _ = put(&mut shard, 10, &[stored(1), stored(2)]);
    assert_eq!(slots(&next(&mut shard, 20, 1, 7)), [1]);
    assert_eq!(refused(&recv(&mut shard, 20, 2, 90)), Some(Reason::Backpressure));
    let step = next(&mut shard, 20, 3, 7);
    assert_eq!((refused(&step), slots(&step).len()), (None, 0));
    let step = shard.apply(Millis(30), Command::Ack { deliveries: vec![delivery(1, 1)] });
    assert_eq!(slots(&step), [2]);
    let (settings, paused) = (*shard.settings(), Paused { recv: true, enqueue: false });
    let _ = shard.apply(Millis(40), Command::Configure { settings, paused });
    assert_eq!(refused(&next(&mut shard, 41, 4, 7)), None);
    shard.check().unwrap();
}

#[test]
fn a_stream_that_closes_leaves_its_leases_and_is_then_unknown() {
    let mut shard = used_up();
    assert!(!shard.idle());
    let _ = shard.apply(Millis(40), Command::CloseStream { stream: StreamId(7) });
    assert_eq!((shard.stats().vis, shard.stats().waiters), (2, 0));
    assert_eq!(refused(&next(&mut shard, 50, 3, 7)), Some(Reason::DownstreamUnavailable));
    let step = shard.apply(Millis(60), Command::Ack { deliveries: vec![delivery(1, 1), delivery(2, 1)] });
    let _ = commit(&mut shard, 60, &step);
    assert!(shard.idle());
    shard.check().unwrap();
}
