//! What breaks each invariant.

use super::tale::{Tale, id, item, recv_op, send_op};
use crate::Rule;
use crate::record::{Event, How, Item, Op, Out, Sent, Settings, Settled, State};

const FAIL: How = How::Fail { delay_ms: None };

/// A message that is leased until 1,020.
fn leased() -> (Tale, String) {
    let mut tale = Tale::new();
    let a = id(10, 1);
    tale.at(10).send(1, &a).at(20).recv(&[(&a, 1, 1, 1)], 1_000).at(30);
    (tale, a)
}

#[test]
fn i1_what_was_stored_is_lost() {
    let mut tale = Tale::new();
    tale.at(10).send(1, &id(10, 1)).calm().drained(&[]).breaks(Rule::I1);
    // an ack of an older delivery ends nothing
    let (mut tale, a) = leased();
    tale.at(1_020).recv(&[(&a, 1, 2, 2)], 1_000).settle(&a, 1, How::Ack, Settled::Ok);
    tale.calm().drained(&[]).breaks(Rule::I1);
    let (mut tale, a) = leased();
    tale.call(Op::Look { queue: 0, id: a }, Out::NotFound).breaks(Rule::I1);
    let (mut tale, _) = leased();
    tale.call(Op::Peek { queue: 0, state: State::Vis }, Out::NotFound).breaks(Rule::I1);
    // retention begins when a delay ends
    let brief = |s: &mut Settings| s.retention_ms = Some(1_000);
    let delayed = Item { delay_ms: 5_000, ..item(1) };
    let mut tale = Tale::new().with(brief);
    tale.at(10).send_item(delayed.clone(), &id(10, 1)).at(5_900).calm().drained(&[]).breaks(Rule::I1);
    let mut tale = Tale::new().with(brief);
    tale.at(10).send_item(delayed, &id(10, 1)).at(6_010).calm().drained(&[]).is_fine();
}

#[test]
fn i2_what_nobody_sent() {
    let mut tale = Tale::new();
    tale.at(10).recv(&[(&id(10, 1), 1, 1, 1)], 1_000).breaks(Rule::I2);
    let (mut tale, a) = leased();
    tale.at(1_020).recv(&[(&a, 2, 2, 2)], 1_000).breaks(Rule::I2);
    let mut tale = Tale::new();
    tale.at(10).send_item(Item { hash: 7, ..item(1) }, &id(10, 1)).at(20);
    tale.recv(&[(&id(10, 1), 1, 1, 1)], 1_000).breaks(Rule::I2);
    let mut tale = Tale::new();
    tale.at(10).send(1, &id(10, 1)).at(20).recv(&[(&id(10, 1), 1, 1, 1), (&id(10, 2), 1, 1, 1)], 1_000);
    tale.breaks(Rule::I2);
    Tale::new().at(10).send(1, &id(9, 1)).breaks(Rule::I2);
}

#[test]
fn i3_what_was_acked_comes_back() {
    let (mut tale, a) = leased();
    tale.settle(&a, 1, How::Ack, Settled::Ok).at(1_020).recv(&[(&a, 1, 2, 2)], 1_000).breaks(Rule::I3);
    let (mut tale, a) = leased();
    tale.settle(&a, 1, How::Ack, Settled::Ok).at(40).dead(&a, 1, 1, 1, "max_attempts").breaks(Rule::I3);
    let (mut tale, a) = leased();
    tale.settle(&a, 1, How::Ack, Settled::Ok).calm().drained(&[&a]).breaks(Rule::I3);
}

#[test]
fn i4_a_delivery_is_early() {
    let (mut tale, a) = leased();
    tale.at(1_019).recv(&[(&a, 1, 2, 2)], 1_000).breaks(Rule::I4);
    let (mut tale, a) = leased();
    tale.settle(&a, 1, How::Extend { visibility_ms: 5_000 }, Settled::Ok);
    tale.at(5_029).recv(&[(&a, 1, 2, 2)], 1_000).breaks(Rule::I4);
    let (mut tale, a) = leased();
    tale.settle(&a, 1, How::Fail { delay_ms: Some(100) }, Settled::Ok);
    tale.at(129).recv(&[(&a, 1, 2, 2)], 1_000).breaks(Rule::I4);
    let delayed = Item { delay_ms: 50, ..item(1) };
    let mut tale = Tale::new();
    tale.at(10).send_item(delayed, &id(10, 1)).at(59).recv(&[(&id(10, 1), 1, 1, 1)], 1_000).breaks(Rule::I4);
    let short = Item { ttl_ms: Some(50), ..item(1) };
    let mut tale = Tale::new();
    tale.at(10).send_item(short, &id(10, 1)).at(60).recv(&[(&id(10, 1), 1, 1, 1)], 1_000).breaks(Rule::I4);
    // across a restart
    let (mut tale, a) = leased();
    tale.event(Event::Down).at(900).recv(&[(&a, 1, 2, 2)], 1_000).breaks(Rule::I4);
}

#[test]
fn i5_counts_are_wrong() {
    for (attempt, delivery) in [(1, 1), (1, 2), (3, 2), (2, 1)] {
        let (mut tale, a) = leased();
        tale.at(1_020).recv(&[(&a, 1, attempt, delivery)], 1_000).breaks(Rule::I5);
    }
    let (mut tale, a) = leased();
    tale.settle(&a, 1, How::Release { delay_ms: None }, Settled::Ok).recv(&[(&a, 1, 2, 2)], 1_000);
    tale.breaks(Rule::I5);
    let (mut tale, a) = leased();
    tale.at(1_020).recv(&[(&a, 1, 2, 2)], 1_000).at(2_020).recv(&[(&a, 1, 3, 3)], 1_000);
    tale.at(3_020).recv(&[(&a, 1, 4, 4)], 1_000).breaks(Rule::I5);
}

#[test]
fn i5_a_dead_letter_should_be_none_or_is_twice() {
    let (mut tale, a) = leased();
    tale.settle(&a, 1, FAIL, Settled::Ok).dead(&a, 1, 1, 1, "max_attempts").breaks(Rule::I5);
    let (mut tale, a) = leased();
    tale.dead(&a, 1, 1, 1, "no").breaks(Rule::I5);
    let one = |s: &mut Settings| s.max_attempts = Some(1);
    let mut tale = Tale::new().with(one);
    let a = id(10, 1);
    tale.at(10).send(1, &a).at(20).recv(&[(&a, 1, 1, 1)], 1_000).at(500);
    tale.dead(&a, 1, 1, 1, "max_attempts").breaks(Rule::I5);
    let (mut tale, a) = leased();
    tale.settle(&a, 1, How::Reject { reason: "no".into() }, Settled::Ok);
    tale.at(1_020).recv(&[(&a, 1, 2, 2)], 1_000).breaks(Rule::I5);
    let (mut tale, a) = leased();
    tale.settle(&a, 1, How::Reject { reason: "no".into() }, Settled::Ok).drained(&[&a, &a]).breaks(Rule::I5);
}

#[test]
fn i6_a_key_is_forgotten_or_kept_too_long() {
    let keyed = |content| Item { key: Some("k".into()), ..item(content) };
    let mut tale = Tale::new();
    tale.at(10).send_item(keyed(1), &id(10, 1)).at(60_009).send_item(keyed(1), &id(60_009, 2));
    tale.breaks(Rule::I6);
    let duplicate = |of: &str| Out::Sent(vec![Sent::Duplicate { id: of.to_owned() }]);
    let again = |content| Op::Send { queue: 0, items: vec![keyed(content)] };
    let mut tale = Tale::new();
    tale.at(10).send_item(keyed(1), &id(10, 1)).at(60_010).call(again(1), duplicate(&id(10, 1)));
    tale.breaks(Rule::I6);
    let mut tale = Tale::new();
    tale.at(10).send_item(keyed(1), &id(10, 1)).at(20).call(again(2), duplicate(&id(10, 1)));
    tale.breaks(Rule::I6);
    let mut tale = Tale::new();
    tale.at(20).call(again(2), Out::Sent(vec![Sent::Conflict])).breaks(Rule::I6);
    let mut tale = Tale::new();
    tale.at(10).send(1, &id(10, 1)).send(2, &id(10, 1)).breaks(Rule::I6);
    // as it should be
    let mut tale = Tale::new();
    tale.at(10).send_item(keyed(1), &id(10, 1)).at(60_009).call(again(1), duplicate(&id(10, 1)));
    tale.call(again(2), Out::Sent(vec![Sent::Conflict])).at(60_010).send_item(keyed(2), &id(60_010, 2));
    tale.is_fine();
}

#[test]
fn i6_keys_of_a_provider_are_its_own_and_last_as_long_as_it_says() {
    let of = |content, origin: Option<&str>, window_ms| Item {
        key: Some("k".into()),
        origin: origin.map(str::to_owned),
        window_ms,
        ..item(content)
    };
    let (api, provider) = (of(1, None, None), |content| of(content, Some("p"), Some(90_000)));
    let mut tale = Tale::new();
    tale.at(10).send_item(provider(1), &id(10, 1)).at(70_000).send_item(provider(1), &id(70_000, 2));
    tale.breaks(Rule::I6);
    let mut tale = Tale::new();
    tale.at(10).send_item(api.clone(), &id(10, 1)).at(20);
    tale.call(Op::Send { queue: 0, items: vec![provider(2)] }, Out::Sent(vec![Sent::Conflict]));
    tale.breaks(Rule::I6);
    // as it should be
    let mut tale = Tale::new();
    tale.at(10).send_item(api, &id(10, 1)).send_item(provider(2), &id(10, 2));
    tale.at(90_010).send_item(provider(2), &id(90_010, 3)).is_fine();
    // it is the window of the first that counts, also if that is met after the second
    let first = of(1, Some("p"), Some(100));
    let mut tale = Tale::new();
    tale.at(10).call(Op::Send { queue: 0, items: vec![first] }, Out::Unknown("STORAGE".into()));
    tale.at(500).send_item(provider(2), &id(500, 2)).at(600);
    let ready = |n: u64, ms| crate::record::Seen {
        id: id(ms, n),
        content: Some(n),
        hash: n + 100,
        enqueued: ms,
        attempt: 0,
        delivery: Some(0),
        letter: None,
    };
    let page = Out::Page(vec![ready(1, 10), ready(2, 500)]);
    tale.call(Op::Peek { queue: 0, state: State::Ready }, page).is_fine();
}

#[test]
fn i6_a_key_in_memory_ends_with_the_process_whatever_time_it_is_then() {
    let keyed = || Item { key: Some("k".into()), ..item(1) };
    let in_memory = |id: &str| Out::Sent(vec![Sent::Stored { id: id.to_owned(), ram: true }]);
    let send = || Op::Send { queue: 0, items: vec![keyed()] };
    for later in [30_000, 9_000] {
        let mut tale = Tale::new().with(|settings| settings.ram = Some(1));
        tale.at(20_000).call(send(), in_memory(&id(20_000, 1))).event(Event::Down);
        tale.at(later).send_item(keyed(), &id(later, 2)).is_fine();
        let mut tale = Tale::new().with(|settings| settings.ram = Some(1));
        tale.at(20_000).call(send(), in_memory(&id(20_000, 1)));
        tale.at(later).send_item(keyed(), &id(later, 2)).breaks(Rule::I6);
    }
}

#[test]
fn i7_a_receipt_is_refused_or_lasts_too_long() {
    let all = [How::Ack, FAIL, How::Extend { visibility_ms: 500 }];
    for how in all {
        let (mut tale, a) = leased();
        tale.at(1_019).settle(&a, 1, how.clone(), Settled::Stale).breaks(Rule::I7);
        let (mut tale, a) = leased();
        tale.settle(&a, 1, how, Settled::Malformed).breaks(Rule::I7);
    }
    for how in [FAIL, How::Extend { visibility_ms: 500 }] {
        let (mut tale, a) = leased();
        tale.at(1_020).recv(&[(&a, 1, 2, 2)], 1_000).settle(&a, 1, how.clone(), Settled::Ok).breaks(Rule::I7);
        let (mut tale, a) = leased();
        tale.settle(&a, 1, How::Ack, Settled::Ok).settle(&a, 1, how, Settled::Ok).breaks(Rule::I7);
    }
    let (mut tale, a) = leased();
    tale.settle(&a, 1, FAIL, Settled::Ok).settle(&a, 1, How::Release { delay_ms: None }, Settled::Ok);
    tale.breaks(Rule::I7);
    let (mut tale, a) = leased();
    tale.settle(&a, 1, How::Ack, Settled::Ok).settle(&a, 1, How::Ack, Settled::Stale).breaks(Rule::I7);
    for results in [[Settled::Ok, Settled::Malformed], [Settled::Stale, Settled::Stale]] {
        let mut tale = Tale::new();
        let results = Out::Settled(results.to_vec());
        tale.call(Op::Foreign { queue: 0, receipts: 2 }, results).breaks(Rule::I7);
    }
}

#[test]
fn i8_order_is_not_kept() {
    let (a, b) = (id(10, 1), id(10, 2));
    let mut tale = Tale::new();
    tale.at(10).send(1, &a).send(2, &b).at(20).recv(&[(&b, 2, 1, 1)], 1_000).at(21);
    tale.recv(&[(&a, 1, 1, 1)], 1_000).breaks(Rule::I8);
    // strictly: one at a time, and the oldest first
    let strict = || Tale::new().with(|s| s.fifo = Some(1));
    let mut tale = strict();
    tale.at(10).send(1, &a).send(2, &b).at(20).recv(&[(&a, 1, 1, 1)], 1_000).at(21);
    tale.recv(&[(&b, 2, 1, 1)], 1_000).breaks(Rule::I8);
    let mut tale = strict();
    tale.at(10).send(1, &a).send(2, &b).at(20).recv(&[(&b, 2, 1, 1)], 1_000).at(21);
    tale.settle(&b, 1, How::Ack, Settled::Ok).recv(&[(&a, 1, 1, 1)], 1_000).breaks(Rule::I8);
    let group = |content: u64| Item { group: Some(format!("g{content}")), ..item(content) };
    let mut tale = strict();
    tale.at(10).send_item(group(1), &a).send_item(group(2), &b).at(20).recv(&[(&a, 1, 1, 1)], 1_000);
    tale.at(21).recv(&[(&b, 2, 1, 1)], 1_000).is_fine();
}

#[test]
fn i9_figures_are_not_the_sum() {
    for ready in [0, 2] {
        let mut tale = Tale::new();
        tale.at(10).send(1, &id(10, 1)).at(20).stat([ready, 0, 0, 0]).breaks(Rule::I9);
    }
    let (mut tale, a) = leased();
    tale.settle(&a, 1, How::Ack, Settled::Ok).stat([0, 0, 0, 1]).breaks(Rule::I9);
}

#[test]
fn more_than_a_topic_takes_or_hands_out() {
    for (limit, figures) in [((1, 5), [2, 0, 0, 0]), ((10, 1), [0, 0, 2, 0])] {
        let limited = |s: &mut Settings| (s.max_depth, s.max_inflight) = (Some(limit.0), Some(limit.1));
        let mut tale = Tale::new().with(limited);
        let (a, b) = (id(10, 1), id(10, 2));
        tale.at(10).send(1, &a).send(2, &b).at(20);
        if figures[2] > 0 {
            tale.recv(&[(&a, 1, 1, 1), (&b, 2, 1, 1)], 1_000);
        }
        tale.stat(figures).breaks(Rule::Contract);
    }
}

#[test]
fn i10_nothing_comes_or_too_late() {
    let mut tale = Tale::new();
    tale.begin(send_op(1));
    tale.breaks(Rule::I10);
    let mut tale = Tale::new();
    let call = tale.begin(Op::Stat { queue: 0 });
    tale.at(300_001).event(Event::End { call, out: Out::NotFound }).breaks(Rule::I10);
    let (mut tale, a) = leased();
    tale.settle(&a, 1, How::Ack, Settled::Ok).calm().at(5_031).drained(&[]).breaks(Rule::I10);
    let (mut tale, a) = leased();
    tale.settle(&a, 1, How::Ack, Settled::Ok).calm().breaks(Rule::I10);
    let mut tale = Tale::new();
    tale.at(10).send(1, &id(10, 1)).at(20).recv(&[], 1_000).at(30).recv(&[(&id(10, 1), 1, 1, 1)], 1_000);
    tale.breaks(Rule::I10);
}

#[test]
fn i11_what_was_refused_happened() {
    let mut tale = Tale::new();
    tale.at(10).call(send_op(1), Out::Refused("BACKPRESSURE".into()));
    tale.at(20).recv(&[(&id(10, 1), 1, 1, 1)], 1_000).breaks(Rule::I11);
    let (mut tale, a) = leased();
    let held = vec![crate::record::Held { id: a, delivery: 1 }];
    tale.call(Op::Settle { queue: 0, how: How::Ack, held }, Out::Refused("STORAGE".into()));
    tale.calm().drained(&[]).breaks(Rule::I1);
}

#[test]
fn i12_what_was_for_memory_is_on_disk_or_outlives_the_process() {
    let ram = |tale: &mut Tale| {
        let stored = Sent::Stored { id: id(10, 1), ram: true };
        tale.at(10).call(send_op(1), Out::Sent(vec![stored]));
    };
    let mut tale = Tale::new();
    ram(&mut tale);
    tale.event(Event::OnDisk(vec![1])).breaks(Rule::I12);
    let mut tale = Tale::new();
    ram(&mut tale);
    tale.event(Event::Down).at(20).recv(&[(&id(10, 1), 1, 1, 1)], 1_000).breaks(Rule::I12);
    let mut tale = Tale::new();
    ram(&mut tale);
    tale.event(Event::OnDisk(vec![])).event(Event::Down).calm().drained(&[]).is_fine();
    let mut tale = Tale::new();
    tale.at(5).call(send_op(1), Out::Unknown("STORAGE".into()));
    ram(&mut tale);
    tale.event(Event::OnDisk(vec![1])).is_fine(); // by the first try, before memory alone was asked for
}

#[test]
fn the_contract_is_broken() {
    let mut tale = Tale::new();
    let to = Settings { paused: Some(1), ..Settings::default() };
    tale.at(10).send(1, &id(10, 1)).call(Op::Configure { queue: 0, to }, Out::Done(0)).at(20);
    tale.recv(&[(&id(10, 1), 1, 1, 1)], 1_000).breaks(Rule::Contract);
    for op in [Op::Purge { queue: 0 }, Op::Delete { queue: 0 }] {
        let mut tale = Tale::new();
        tale.at(10).send(1, &id(10, 1)).call(op, Out::Done(1)).at(20);
        tale.recv(&[(&id(10, 1), 1, 1, 1)], 1_000).breaks(Rule::Contract);
    }
    let mut tale = Tale::new();
    let (a, b) = (id(10, 1), id(10, 2));
    tale.at(10).send(1, &a).send(2, &b).at(20).recv(&[(&a, 1, 1, 1), (&b, 2, 1, 1)], 1_000);
    for record in &mut tale.records {
        if let Event::Begin { op: op @ Op::Recv { .. }, .. } = &mut record.event {
            *op = recv_op(Some(1_000), Some((1, 1)));
        }
    }
    tale.breaks(Rule::Contract);
    // what was extended is still held
    let (mut tale, a) = leased();
    tale.settle(&a, 1, How::Extend { visibility_ms: 5_000 }, Settled::Ok).send(2, &id(20, 2)).at(1_100);
    tale.recv(&[(&id(20, 2), 2, 1, 1)], 1_000);
    for record in &mut tale.records {
        if let Event::Begin { op: op @ Op::Recv { .. }, .. } = &mut record.event {
            *op = recv_op(Some(1_000), Some((1, 1)));
        }
    }
    tale.breaks(Rule::Contract);
}
