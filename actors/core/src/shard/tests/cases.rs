//! Cases worth spelling out: what the property test cannot see, or says less plainly.

use crate::ids::Slot;
use crate::message::{MsgState, Phase, PutOutcome, Recovered, Settled, StateOp, StoredAt};
use crate::reason::Reason;
use crate::shard::{
    Command, DeliveryRef, Grant, NackMode, Paused, PeekState, Recovery, Reply, Settings, Shard, Step, Ticket,
    WaiterId, Want,
};
use crate::time::Millis;

pub(super) fn stored(slot: u64) -> StoredAt {
    StoredAt { slot: Slot(slot), enqueued: Millis(10), len: 1, due: None, expires: None, group: 0 }
}

pub(super) fn put(shard: &mut Shard, now: u64, messages: &[StoredAt]) -> Step {
    let step = shard.apply(Millis(now), Command::Enqueue { count: messages.len() as u32 });
    let outcomes: Vec<_> = messages.iter().map(|&at| PutOutcome::Stored(at)).collect();
    shard.committed(Millis(now), step.ticket.unwrap(), &outcomes)
}

pub(super) fn recv(shard: &mut Shard, now: u64, waiter: u64, until: u64) -> Step {
    let want = Want { max_messages: 10, max_bytes: 1 << 20, visibility_ms: None };
    let (waiter, until) = (WaiterId(waiter), Millis(until));
    shard.apply(Millis(now), Command::Recv { waiter, want, until, stream: None })
}

pub(super) fn commit(shard: &mut Shard, now: u64, step: &Step) -> Step {
    shard.committed(Millis(now), step.ticket.unwrap(), &[])
}

pub(super) fn slots(step: &Step) -> Vec<u64> {
    step.grants.iter().flat_map(|grant| &grant.messages).map(|leased| leased.slot.0).collect()
}

pub(super) fn delivery(slot: u64, delivery: u32) -> DeliveryRef {
    DeliveryRef { slot: Slot(slot), delivery }
}

pub(super) fn nack(
    shard: &mut Shard,
    now: u64,
    of: DeliveryRef,
    mode: NackMode,
    delay_ms: Option<u64>,
) -> Step {
    let deliveries = vec![of];
    shard.apply(Millis(now), Command::Nack { deliveries, mode, delay_ms, note: None, entropy: now })
}

pub(super) fn refused(step: &Step) -> Option<Reason> {
    match &step.reply {
        Reply::Refused(refusal) => Some(refusal.reason),
        _ => None,
    }
}

#[test]
fn a_million_waiting_messages_cost_ten_megabytes() {
    let mut shard = Shard::new(Settings::default());
    let mut slot = Slot::new(1, 0);
    for _ in 0..1_000_000 / 200 {
        let chunk: Vec<_> = (0..200).map(|i| stored(slot.forward(i).0)).collect();
        let _ = put(&mut shard, 10, &chunk);
        slot = Slot::new(slot.chunk() + 1, 0);
    }
    assert_eq!(shard.stats().ready, 1_000_000);
    assert!(shard.fresh.heap_bytes() <= 10_000_000, "{} bytes", shard.fresh.heap_bytes());
    assert!(shard.returned.is_empty() && shard.idle());
    let page = shard.peek(PeekState::Ready, Some((0, Slot::new(2_500, 198))), 3);
    let seen: Vec<_> = page.iter().map(|peeked| peeked.slot).collect();
    assert_eq!(seen, [Slot::new(2_500, 199), Slot::new(2_501, 0), Slot::new(2_501, 1)]);
    let mut taken = 0;
    while taken < 999_000 {
        let step = recv(&mut shard, 20, 1, 20);
        let deliveries: Vec<_> = slots(&step).into_iter().map(|slot| delivery(slot, 1)).collect();
        taken += deliveries.len();
        let _ = commit(&mut shard, 20, &step);
        let step = shard.apply(Millis(20), Command::Ack { deliveries });
        let _ = commit(&mut shard, 20, &step);
    }
    assert!(shard.fresh.heap_bytes() <= 100_000, "{} bytes for {}", shard.fresh.heap_bytes(), 1_000);
}

#[test]
fn single_sends_stay_cheap_too() {
    let mut shard = Shard::new(Settings::default());
    for chunk in 0..(1 << 17) {
        let _ = put(&mut shard, 10, &[stored(Slot::new(chunk, 3).0)]);
    }
    assert!(shard.fresh.heap_bytes() <= 20 << 17, "{} bytes", shard.fresh.heap_bytes());
}

#[test]
fn neighbours_in_two_chunks_or_of_two_times_are_not_one_run() {
    let mut shard = Shard::new(Settings::default());
    let last = Slot::new(1, u16::MAX);
    let later = StoredAt { enqueued: Millis(11), ..stored(Slot::new(2, 0).0) };
    let _ = put(&mut shard, 11, &[stored(last.0), later]);
    assert_eq!(shard.stats().oldest_enqueued, Some(Millis(10)));
    let want = Want { max_messages: 1, max_bytes: 1, visibility_ms: None };
    let _ =
        shard.apply(Millis(12), Command::Recv { waiter: WaiterId(1), want, until: Millis(12), stream: None });
    assert_eq!(shard.stats().oldest_enqueued, Some(Millis(11)));
    shard.check().unwrap();
}

#[test]
fn waiting_receives_are_served_in_their_order() {
    let mut shard = Shard::new(Settings::default());
    for waiter in [5, 3, 9, 4] {
        let step = recv(&mut shard, 100, waiter, 200);
        assert!(step.grants.is_empty() && step.empty_handed.is_empty());
    }
    let _ = shard.apply(Millis(100), Command::CancelRecv { waiter: WaiterId(3) });
    let first = put(&mut shard, 110, &[stored(1)]);
    let second = put(&mut shard, 110, &[stored(2), stored(3)]);
    let to = |step: &Step| step.grants.iter().map(|grant| grant.waiter.0).collect::<Vec<_>>();
    assert_eq!((to(&first), slots(&first)), (vec![5], vec![1]));
    assert_eq!((to(&second), slots(&second)), (vec![9], vec![2, 3]));
    let end = shard.apply(Millis(200), Command::Tick);
    assert_eq!(end.empty_handed, [WaiterId(4)]);
    assert_eq!(shard.stats().waiters, 0);
}

#[test]
fn a_message_returns_to_its_old_place() {
    let mut shard = Shard::new(Settings::default());
    let _ = put(&mut shard, 10, &[stored(1), stored(2), stored(3), stored(4)]);
    let step = recv(&mut shard, 20, 1, 20);
    let _ = commit(&mut shard, 20, &step);
    let _ = put(&mut shard, 20, &[stored(5)]);
    for (slot, mode) in [(3, NackMode::Release), (2, NackMode::Fail)] {
        let step = nack(&mut shard, 30, delivery(slot, 1), mode, Some(0));
        let _ = commit(&mut shard, 30, &step);
    }
    let step = recv(&mut shard, 5_020, 2, 5_020);
    assert_eq!(slots(&step), [1, 2, 3, 4, 5]);
    let attempts: Vec<_> = step.grants[0].messages.iter().map(|m| (m.attempt, m.delivery)).collect();
    assert_eq!(attempts, [(2, 2), (2, 2), (1, 2), (2, 2), (1, 1)]);
}

#[test]
fn a_timeout_writes_nothing_and_leaves_the_receipt_good() {
    for (command, after) in [("ack", None), ("extend", Some(Phase::Leased)), ("fail", Some(Phase::Delayed))] {
        let mut shard = Shard::new(Settings::default());
        let _ = put(&mut shard, 10, &[stored(1)]);
        let step = recv(&mut shard, 20, 1, 20);
        let _ = commit(&mut shard, 20, &step);
        let early = shard.apply(Millis(5_019), Command::Tick);
        assert_eq!((early.counts.timeouts, shard.stats().vis), (0, 1));
        let tick = shard.apply(Millis(5_020), Command::Tick);
        assert!(tick.ops.is_empty() && tick.ticket.is_none());
        assert_eq!((tick.counts.timeouts, tick.counts.requeued_visibility, shard.stats().ready), (1, 1, 1));
        let deliveries = vec![delivery(1, 1)];
        let step = match command {
            "ack" => shard.apply(Millis(6_000), Command::Ack { deliveries }),
            "extend" => shard.apply(Millis(6_000), Command::Extend { deliveries, visibility_ms: 500 }),
            _ => nack(&mut shard, 6_000, delivery(1, 1), NackMode::Fail, Some(900)),
        };
        assert_eq!(step.reply, Reply::Settled(vec![Ok(())]), "{command}");
        let state = shard.state_of(Slot(1));
        assert_eq!(state.map(|state| state.phase), after, "{command}");
        assert!(state.is_none_or(|state| state.attempt == 1));
    }
}

#[test]
fn the_second_of_two_equal_receipts_sees_the_first() {
    let mut shard = Shard::new(Settings::default());
    let _ = put(&mut shard, 10, &[stored(1), stored(2)]);
    let step = recv(&mut shard, 20, 1, 20);
    let _ = commit(&mut shard, 20, &step);
    let deliveries = vec![delivery(1, 1), delivery(1, 1), delivery(7, 1), delivery(2, 2)];
    let step = shard.apply(Millis(30), Command::Ack { deliveries });
    let stale = Err(Reason::StaleReceipt);
    assert_eq!(step.reply, Reply::Settled(vec![Ok(()), Ok(()), Ok(()), stale]));
    assert_eq!((step.ops.len(), step.counts.acked), (1, 1));
    let step = nack(&mut shard, 30, delivery(1, 1), NackMode::Fail, None);
    assert_eq!(step.reply, Reply::Settled(vec![stale]));
}

#[test]
fn backoff_is_spread_over_its_whole_range() {
    let settings = Settings { max_attempts: 100, max_deliveries: 100, ..Settings::default() };
    for (attempt, most) in [(1, 400), (3, 1_600), (9, 60_000), (70, 60_000)] {
        let (mut sum, mut high, mut low) = (0, 0, u64::MAX);
        for entropy in 0..2_000u64 {
            let mut recovery = Recovery::new(settings, Paused::default(), Millis(1_000), 0);
            let state = MsgState {
                phase: Phase::Leased,
                at: Millis(9_000),
                attempt,
                delivery: attempt,
                settled: Settled::No,
                noted: false,
                revived: None,
            };
            recovery.push(Recovered { stored: stored(1), state: Some(state) });
            let mut shard = recovery.finish();
            let (deliveries, mode) = (vec![delivery(1, attempt)], NackMode::Fail);
            let command = Command::Nack { deliveries, mode, delay_ms: None, note: None, entropy };
            let _ = shard.apply(Millis(1_000), command);
            let due = shard.state_of(Slot(1)).unwrap().at;
            let ms = if due == Millis(0) { 0 } else { due.since(Millis(1_000)) };
            sum += ms;
            high = high.max(ms);
            low = low.min(ms);
        }
        let mean = sum / 2_000;
        assert!(high <= most && high > most * 99 / 100, "attempt {attempt}: at most {high}");
        assert!(low <= most / 100, "attempt {attempt}: at least {low}");
        assert!((most * 47 / 100..most * 53 / 100).contains(&mean), "attempt {attempt}: mean {mean}");
    }
}

#[test]
fn messages_of_one_nack_come_back_at_different_times() {
    [0, 99, u64::MAX].into_iter().for_each(come_back_at_different_times);
}

fn come_back_at_different_times(entropy: u64) {
    let mut shard = Shard::new(Settings::default());
    let all: Vec<_> = (1..=10).map(stored).collect();
    let _ = put(&mut shard, 10, &all);
    let step = recv(&mut shard, 20, 1, 20);
    let _ = commit(&mut shard, 20, &step);
    let deliveries = (1..=10).map(|slot| delivery(slot, 1)).collect();
    let mode = NackMode::Fail;
    let step =
        shard.apply(Millis(30), Command::Nack { deliveries, mode, delay_ms: None, note: None, entropy });
    let mut dues: Vec<_> = step
        .ops
        .iter()
        .map(|op| match op {
            StateOp::Set { state, .. } => state.at,
            other => panic!("{other:?}"),
        })
        .collect();
    dues.sort_unstable();
    dues.dedup();
    assert!(dues.len() >= 8, "{dues:?}");
}

#[test]
fn a_stalled_commit_does_not_use_up_attempts() {
    let mut shard = Shard::new(Settings::default());
    let _ = put(&mut shard, 10, &[stored(1)]);
    let step = recv(&mut shard, 20, 1, 20);
    for waiter in 2..9 {
        let _ = recv(&mut shard, 30, waiter, 60_000);
    }
    assert_eq!(shard.wake_at(), Some(Millis(60_000)), "only the waiting ends");
    let tick = shard.apply(Millis(30_000), Command::Tick);
    assert_eq!((tick.counts.timeouts, tick.grants.len()), (0, 0));
    // the first lease is over when it becomes durable, and one other receive gets the message
    let step = commit(&mut shard, 30_000, &step);
    let [Grant { waiter, messages }] = &step.grants[..] else { panic!("{step:?}") };
    assert_eq!((*waiter, messages[0].attempt), (WaiterId(2), 2));
}

#[test]
fn tickets_may_come_back_in_any_order() {
    let mut shard = Shard::new(Settings { max_depth: 3, ..Settings::default() });
    let tickets: Vec<Ticket> =
        (0..3).map(|_| shard.apply(Millis(10), Command::Enqueue { count: 1 }).ticket.unwrap()).collect();
    let full = shard.apply(Millis(10), Command::Enqueue { count: 1 });
    assert_eq!(refused(&full), Some(Reason::Backpressure));
    let _ = shard.committed(Millis(11), tickets[1], &[PutOutcome::Conflict]);
    let _ = shard.committed(Millis(11), tickets[2], &[PutOutcome::Stored(stored(9))]);
    assert!(shard.uncommitted());
    let _ = shard.committed(Millis(11), tickets[0], &[PutOutcome::Stored(stored(8))]);
    let _ = shard.committed(Millis(11), tickets[0], &[PutOutcome::Stored(stored(7))]);
    assert!(!shard.uncommitted());
    assert_eq!(shard.stats().ready, 2);
    shard.check().unwrap();
    assert_eq!(slots(&recv(&mut shard, 12, 1, 12)), [8, 9]);
}

#[test]
fn too_much_in_flight_or_waiting_is_refused() {
    let mut shard = Shard::new(Settings { max_inflight: 2, max_waiters: 1, ..Settings::default() });
    let _ = put(&mut shard, 10, &[stored(1), stored(2), stored(3)]);
    let step = recv(&mut shard, 20, 1, 20);
    assert_eq!(slots(&step), [1, 2], "up to the bound");
    assert_eq!(refused(&recv(&mut shard, 20, 2, 900)), Some(Reason::Backpressure));
    let ack = shard.apply(Millis(20), Command::Ack { deliveries: vec![delivery(1, 1), delivery(2, 1)] });
    assert_eq!(ack.reply, Reply::Settled(vec![Ok(()), Ok(())]));
    assert_eq!(slots(&recv(&mut shard, 20, 3, 900)), [3]);
    assert!(recv(&mut shard, 20, 4, 900).grants.is_empty());
    assert_eq!(refused(&recv(&mut shard, 20, 5, 900)), Some(Reason::Backpressure));
    // one that need not wait is told that there is nothing
    assert_eq!(recv(&mut shard, 20, 6, 20).empty_handed, [WaiterId(6)]);
}

#[test]
fn a_lease_keeps_its_time_over_two_restarts() {
    let lease = |at| MsgState {
        phase: Phase::Leased,
        at: Millis(at),
        attempt: 1,
        delivery: 1,
        settled: Settled::No,
        noted: false,
        revived: None,
    };
    let back = |at, now, stood_still_ms| {
        let mut recovery = Recovery::new(Settings::default(), Paused::default(), Millis(now), stood_still_ms);
        recovery.push(Recovered { stored: stored(1), state: Some(lease(at)) });
        recovery.finish()
    };
    // down at 10 s with 20 s left, back at 100 s
    let mut shard = back(30_000, 100_000, 90_000);
    assert_eq!(shard.wake_at(), Some(Millis(100_000)));
    let step = shard.apply(Millis(100_000), Command::Tick);
    let moved = StateOp::Set { slot: Slot(1), state: lease(120_000), note: None };
    assert_eq!(step.ops, [moved]);
    assert!(shard.apply(Millis(100_001), Command::Tick).ops.is_empty(), "once");
    // with 1 ms left it gets 5 s; with none it is ready
    assert_eq!(back(10_001, 100_000, 90_000).state_of(Slot(1)), Some(lease(105_000)));
    assert_eq!(back(10_000, 100_000, 90_000).stats().ready, 1);
}

#[test]
fn a_last_delivery_that_ended_in_the_dark_is_dead_lettered_once() {
    let settings = Settings { max_attempts: 2, ..Settings::default() };
    let state = MsgState {
        phase: Phase::Leased,
        at: Millis(500),
        attempt: 2,
        delivery: 3,
        settled: Settled::No,
        noted: true,
        revived: None,
    };
    let mut recovery = Recovery::new(settings, Paused::default(), Millis(9_000), 1_000);
    recovery.push(Recovered { stored: stored(1), state: Some(state) });
    let mut shard = recovery.finish();
    let step = recv(&mut shard, 9_000, 1, 9_000);
    let [StateOp::Dead { slot: Slot(1), state, letter }] = &step.ops[..] else { panic!("{step:?}") };
    assert_eq!((state.phase, state.attempt, state.delivery), (Phase::Dead, 2, 3));
    assert_eq!((letter.reason.as_str(), letter.attempts, letter.at), ("max_attempts", 2, Millis(9_000)));
    assert_eq!(step.empty_handed, [WaiterId(1)]);
    assert!(shard.apply(Millis(9_001), Command::Tick).ops.is_empty());
    let recovered = Recovered { stored: stored(1), state: Some(*state) };
    let mut recovery = Recovery::new(settings, Paused::default(), Millis(9_500), 0);
    recovery.push(recovered);
    let mut shard = recovery.finish();
    assert!(shard.apply(Millis(9_500), Command::Tick).ops.is_empty());
    assert_eq!(shard.stats().dlq, 1);
}

#[test]
fn a_ttl_waits_for_what_is_in_flight_or_delayed() {
    let mut shard = Shard::new(Settings::default());
    let short = |slot, due| StoredAt { due, expires: Some(Millis(1_000)), ..stored(slot) };
    let _ = put(&mut shard, 10, &[short(1, None), short(2, None), short(3, Some(Millis(2_000)))]);
    let want = Want { max_messages: 1, max_bytes: 1, visibility_ms: None };
    let _ =
        shard.apply(Millis(20), Command::Recv { waiter: WaiterId(1), want, until: Millis(20), stream: None });
    let step = shard.apply(Millis(999), Command::Tick);
    assert!(step.ops.is_empty());
    let gone = |slot| StateOp::Gone { slot: Slot(slot), noted: false };
    assert_eq!(shard.apply(Millis(1_000), Command::Tick).ops, [gone(2)]);
    assert_eq!((shard.stats().vis, shard.stats().delayed), (1, 1));
    let step = nack(&mut shard, 1_500, delivery(1, 1), NackMode::Release, None);
    assert_eq!((step.ops, step.counts.expired, step.counts.requeued_release), (vec![gone(1)], 1, 0));
    assert_eq!(shard.apply(Millis(2_000), Command::Tick).ops, [gone(3)]);
    shard.check().unwrap();
}

#[test]
fn a_walk_sees_what_stays_exactly_once() {
    let mut shard = Shard::new(Settings::default());
    let all: Vec<_> = (1..=6).map(stored).collect();
    let _ = put(&mut shard, 10, &all);
    let step = recv(&mut shard, 20, 1, 20);
    let _ = commit(&mut shard, 20, &step);
    let first = shard.peek(PeekState::Vis, None, 3);
    // extended ones stay in flight, with later deadlines
    let deliveries = vec![delivery(1, 1), delivery(5, 1)];
    let _ = shard.apply(Millis(30), Command::Extend { deliveries, visibility_ms: 90_000 });
    let second = shard.peek(PeekState::Vis, Some(first[2].sort_key), 10);
    let seen: Vec<_> = first.iter().chain(&second).map(|peeked| peeked.slot.0).collect();
    assert_eq!(seen, [1, 2, 3, 4, 5, 6]);
    assert!(shard.peek(PeekState::Vis, Some((0, Slot(u64::MAX))), 10).is_empty());
}

#[test]
fn a_receive_for_nothing_gets_one_message() {
    let mut shard = Shard::new(Settings::default());
    let _ = put(&mut shard, 10, &[stored(1), stored(2)]);
    let want = Want { max_messages: 0, max_bytes: 0, visibility_ms: None };
    let step =
        shard.apply(Millis(20), Command::Recv { waiter: WaiterId(1), want, until: Millis(90), stream: None });
    assert_eq!(slots(&step), [1]);
}
