//! OAP/1 over a socket: what a client of `docs/OAP.md` may rely on, and what becomes of one that does not keep to it.

use crate::harness::{Setup, TestNode};
use crate::mailbox::{depths, enqueue, recv_one};
use crate::oap_wire::{Oap, header};
use bytes::BytesMut;
use ron_core::ids::Tenant;
use ron_core::oap::{
    self, Bounded, Delivered, Draft, Durability, END, EVENT, Enqueued, EnqueuedBatch, HEADER_BYTES, Header,
    Mode, PROTO_HELLO, RESP, Raw, Receipt, Request, Settled,
};
use serde_json::{Value, json};
use std::io::Write;
use std::time::Duration;

fn draft(payload: &[u8]) -> Draft<'_> {
    Draft { payload: Raw(payload), ..Draft::default() }
}

fn send<'a>(topic: &'a str, payload: &'a [u8]) -> Request<'a> {
    Request::Enqueue { topic, message: draft(payload) }
}

fn recv(topic: &str, max_messages: u32, wait_ms: u64) -> Request<'_> {
    Request::Recv { topic, max_messages, max_bytes: None, visibility_ms: Some(60_000), wait_ms }
}

fn ack<'a>(topic: &'a str, receipts: &[Receipt]) -> Request<'a> {
    Request::Ack { topic, receipts: Bounded(receipts.to_vec()) }
}

fn node() -> TestNode {
    Setup::new().start()
}

#[test]
fn a_hello_is_answered_with_the_limits() {
    let node = node();
    let mut oap = Oap::connect(&node);
    // {"ua":null} as docs/OAP.md has it in hex, byte for byte
    let hello = "0000003100010001000000000000000000000000000000000000000000000000000000000007\
                 7b227561223a6e756c6c7d";
    let bytes: Vec<u8> = data_encoding::HEXLOWER.decode(hello.as_bytes()).unwrap();
    assert_eq!(bytes.len(), 0x31);
    oap.socket.write_all(&bytes).unwrap();
    let answer = oap.came();
    assert_eq!(
        answer.header,
        Header { flags: RESP, code: 200, app_proto_id: PROTO_HELLO, tenant_id: 0, corr_id: 7 }
    );
    let limits: Value = serde_json::from_slice(&answer.payload).unwrap();
    assert_eq!(limits["max_frame"], 1_048_576);
    assert_eq!(limits["versions"], json!([1]));
    assert!(limits["max_inflight"].as_u64().unwrap() >= 64 && limits["max_bytes"].as_u64().unwrap() > 0);
    let bad = Header { app_proto_id: PROTO_HELLO, ..header(8) };
    oap.send(&bad, &[], br#"{"ua":1}"#);
    assert!(oap.came().refused(400, "MALFORMED").contains("ua"));
}

#[test]
fn nothing_is_done_without_a_capability_that_allows_it() {
    let node = node();
    let mut oap = Oap::connect(&node);
    let text = oap.call(&send("orders", b"x")).refused(401, "UNAUTH");
    assert!(text.contains("START"), "{text}");
    oap.start("ron1_nothing").refused(401, "UNAUTH");
    let reader = node.mint(&json!({"ops": ["recv", "ack"]}));
    assert_eq!(oap.start(&reader).header.code, 200);
    oap.call(&send("orders", b"x")).refused(403, "SCOPE_MISMATCH");
    let tenant_id = oap::tenant_id(&Tenant::parse("other").unwrap());
    let corr_id = oap.corr_id();
    oap.send(&Header { tenant_id, ..header(corr_id) }, &[], &recv("orders", 1, 0).to_vec());
    oap.came().refused(403, "SCOPE_MISMATCH");
    // one that replaces it counts from then on
    assert_eq!(oap.start(&node.token()).header.code, 200);
    let tenant_id = oap::tenant_id(&Tenant::parse("acme").unwrap());
    let corr_id = oap.corr_id();
    oap.send(&Header { tenant_id, ..header(corr_id) }, &[], &send("orders", b"x").to_vec());
    let sent: Enqueued = oap.came().read();
    assert_eq!((sent.duplicate, sent.durability), (false, Durability::Fsync));
    assert_eq!(depths(&node.mailbox(), "orders"), [1, 0, 0, 0], "and nothing of what was refused");
    let message = recv_one(&node.mailbox(), "orders", 1_000);
    let id = u128::from_be_bytes(sent.msg_id);
    assert_eq!(message["msg_id"], ulid::Ulid(id).to_string());
    assert_eq!(message["payload_b64"], "eA==");
}

#[test]
fn sends_that_are_piled_up_are_all_answered_and_stay_in_order() {
    let node = node();
    let mut oap = Oap::open(&node, &node.token());
    let mut frames = BytesMut::new();
    for n in 0..3_000u64 {
        let payload = n.to_be_bytes();
        oap::encode(&header(10_000 + n), &[], &send("piled", &payload).to_vec(), &mut frames);
    }
    let mut writer = oap.socket.try_clone().unwrap();
    let writing = std::thread::spawn(move || writer.write_all(&frames).unwrap());
    let mut answered: Vec<u64> = (0..3_000)
        .map(|_| {
            let came = oap.came();
            let _: Enqueued = came.read();
            came.header.corr_id - 10_000
        })
        .collect();
    writing.join().unwrap();
    answered.sort_unstable();
    assert!(answered.into_iter().eq(0..3_000));
    let mut next = 0u64;
    while next < 3_000 {
        let came = oap.call(&recv("piled", 256, 0));
        for message in came.read::<Vec<Delivered<'_>>>() {
            assert_eq!(message.payload.0, next.to_be_bytes());
            next += 1;
        }
    }
    assert_eq!(depths(&node.mailbox(), "piled"), [0, 0, 3_000, 0]);
}

#[test]
fn keys_delays_hashes_and_attributes_mean_what_they_mean_over_http() {
    let node = node();
    let mut oap = Oap::open(&node, &node.token());
    let keyed = Draft {
        idempotency_key: Some("k1"),
        content_type: Some("text/plain"),
        attrs: Bounded(vec![("zone", "eu")]),
        payload_hash: Some(*blake3::hash(b"one").as_bytes()),
        ..draft(b"one")
    };
    let enqueue = |message| Request::Enqueue { topic: "t", message };
    let first: Enqueued = oap.call(&enqueue(keyed.clone())).read();
    let again: Enqueued = oap.call(&enqueue(keyed.clone())).read();
    assert_eq!((again.msg_id, again.duplicate), (first.msg_id, true));
    let other = Draft { payload: Raw(b"two"), payload_hash: None, ..keyed.clone() };
    oap.call(&enqueue(other)).refused(409, "IDEMPOTENCY_CONFLICT");
    let wrong = Draft { payload: Raw(b"two"), idempotency_key: None, ..keyed.clone() };
    assert!(oap.call(&enqueue(wrong)).refused(400, "MALFORMED").contains("payload_hash"));
    let twice = Draft { attrs: Bounded(vec![("a", "1"), ("a", "2")]), ..draft(b"x") };
    assert!(oap.call(&enqueue(twice)).refused(400, "MALFORMED").contains("attrs"));
    let late = Draft { delay_ms: 60_000, ttl_ms: Some(60_000), ..draft(b"x") };
    assert!(oap.call(&enqueue(late)).refused(400, "MALFORMED").contains("delay_ms"));
    oap.call(&Request::Enqueue { topic: "no/topic", message: draft(b"x") }).refused(400, "MALFORMED");
    let delayed = Draft { delay_ms: 60_000, ..draft(b"later") };
    let _: Enqueued = oap.call(&enqueue(delayed)).read();
    assert_eq!(depths(&node.mailbox(), "t"), [1, 1, 0, 0]);
    let came = oap.call(&recv("t", 10, 0));
    let got: Vec<Delivered<'_>> = came.read();
    let one = &got[0];
    assert_eq!((got.len(), one.payload.0, one.content_type), (1, &b"one"[..], "text/plain"));
    assert_eq!((one.idempotency_key, one.attrs.as_slice()), (Some("k1"), &[("zone", "eu")][..]));
    assert_eq!((one.msg_id, one.payload_hash), (first.msg_id, *blake3::hash(b"one").as_bytes()));
    assert_eq!((one.attempt, one.delivery), (1, 1));
    assert!(one.corr_id.starts_with("oap-") && one.deadline_ms > one.enqueued_ms + 50_000);
}

#[test]
fn a_batch_says_what_became_of_each() {
    let node = node();
    let mut oap = Oap::open(&node, &node.token());
    let key = |payload| Draft { idempotency_key: Some("k"), ..draft(payload) };
    let messages =
        vec![key(b"a"), key(b"a"), key(b"b"), draft(b"c"), Draft { ttl_ms: Some(1), ..draft(b"d") }];
    let batch = Request::EnqueueBatch { topic: "t", messages: Bounded(messages) };
    let came = oap.call(&batch);
    let done: EnqueuedBatch = came.read();
    use oap::BatchOutcome::{Duplicate, Refused, Stored};
    let [Stored(first), Duplicate(same), Refused(conflict), Stored(_), Refused(malformed)] =
        &done.results[..]
    else {
        panic!("{done:?}")
    };
    assert_eq!(first, same);
    assert_eq!((conflict.as_str(), malformed.as_str()), ("IDEMPOTENCY_CONFLICT", "MALFORMED"));
    assert_eq!((done.durability, depths(&node.mailbox(), "t")), (Durability::Fsync, [2, 0, 0, 0]));
}

#[test]
fn deliveries_are_settled_by_their_receipts() {
    let node = node();
    let mut oap = Oap::open(&node, &node.token());
    for payload in [b"a", b"b", b"c"] {
        let _: Enqueued = oap.call(&send("t", payload)).read();
    }
    let came = oap.call(&recv("t", 3, 0));
    let receipts: Vec<Receipt> = came.read::<Vec<Delivered<'_>>>().iter().map(|one| one.receipt).collect();
    let none: Settled = oap.call(&ack("t", &receipts[..1])).read();
    assert_eq!(none.results, [None]);
    let extended = Request::Extend {
        topic: "t",
        receipts: Bounded(vec![receipts[0], receipts[1], Receipt([1; 28])]),
        visibility_ms: 120_000,
    };
    let extended: Settled = oap.call(&extended).read();
    let stale = || Some("STALE_RECEIPT".to_owned());
    assert_eq!(extended.results, [stale(), None, stale()]);
    let nack = |mode, delay_ms, reason| Request::Nack {
        topic: "t",
        receipts: Bounded(vec![receipts[2]]),
        mode,
        delay_ms,
        reason,
    };
    assert!(oap.call(&nack(Mode::Reject, Some(5), None)).refused(400, "MALFORMED").contains("delay_ms"));
    let rejected: Settled = oap.call(&nack(Mode::Reject, None, Some("bad"))).read();
    assert_eq!(rejected.results, [None]);
    assert_eq!(depths(&node.mailbox(), "t"), [0, 0, 1, 1]);
    // the same receipt as text, over the other way in
    let text = data_encoding::BASE64URL_NOPAD.encode(&receipts[1].0);
    let acked = node.mailbox().post("/v1/acme/t/ack", &json!({"receipts": [text]})).json(200);
    assert_eq!(acked["results"][0]["ok"], true, "{acked}");
    assert_eq!(depths(&node.mailbox(), "t"), [0, 0, 0, 1]);
}

#[test]
fn who_waits_gets_what_comes_and_loses_it_with_the_connection() {
    let node = node();
    let mut waits = Oap::open(&node, &node.token());
    let corr_id = waits.ask(&recv("t", 1, 20_000));
    // the connection does other things meanwhile
    let _: Enqueued = waits.call(&send("elsewhere", b"x")).read();
    enqueue(&node.mailbox(), "t", b"hello", &[]);
    let came = waits.came();
    assert_eq!(came.header.corr_id, corr_id);
    assert_eq!(came.read::<Vec<Delivered<'_>>>()[0].payload.0, b"hello");
    assert_eq!(depths(&node.mailbox(), "t"), [0, 0, 1, 0], "what was written is held");
    let empty = waits.call(&recv("nothing", 1, 1));
    assert!(empty.read::<Vec<Delivered<'_>>>().is_empty());
    waits.ask(&recv("late", 1, 20_000));
    drop(waits);
    enqueue(&node.mailbox(), "late", b"nobody waits", &[("Content-Type", b"text/plain")]);
    let again = recv_one(&node.mailbox(), "late", 5_000);
    assert_eq!(again["payload"], "nobody waits");
}

#[test]
fn a_subscription_brings_as_much_as_there_is_credit_for() {
    let node = node();
    let mut oap = Oap::open(&node, &node.token());
    for n in 0..5 {
        enqueue(&node.mailbox(), "t", format!("m{n}").as_bytes(), &[]);
    }
    let subscribe = Request::Subscribe { topic: "t", credit: 2, visibility_ms: Some(60_000) };
    let subscription = oap.ask(&subscribe);
    assert_eq!(oap.came().payload.len(), 0, "it is open");
    let mut receipts = Vec::new();
    while receipts.len() < 2 {
        let came = oap.event();
        assert_eq!((came.header.flags & EVENT, came.header.corr_id), (EVENT, subscription));
        receipts.extend(came.read::<Vec<Delivered<'_>>>().iter().map(|one| one.receipt));
    }
    assert_eq!((receipts.len(), depths(&node.mailbox(), "t")), (2, [3, 0, 2, 0]));
    let corr_id = oap.corr_id();
    oap.send(&header(subscription), &[], &recv("t", 1, 0).to_vec());
    assert!(oap.came().refused(400, "MALFORMED").contains("corr_id"), "it goes on, so its corr_id is taken");
    let _: Settled = oap.call(&ack("t", &receipts[..1])).read();
    let third = oap.event();
    assert_eq!(third.read::<Vec<Delivered<'_>>>()[0].payload.0, b"m2");
    oap.send(&header(corr_id), &[], &Request::Unsubscribe { subscription }.to_vec());
    let (a, b) = (oap.came(), oap.came());
    let ended = [&a, &b].into_iter().find(|came| came.header.corr_id == subscription).unwrap();
    assert!(ended.header.has(RESP | END) && ended.header.code == 200, "{ended:?}");
    oap.call(&Request::Unsubscribe { subscription }).refused(400, "MALFORMED");
    assert_eq!(depths(&node.mailbox(), "t"), [2, 0, 2, 0], "what was brought is still held");
}

#[test]
fn what_is_longer_than_a_frame_comes_in_parts() {
    let node = node();
    let body = "x".repeat(1_048_576);
    enqueue(&node.mailbox(), "t", body.as_bytes(), &[]);
    let mut oap = Oap::open(&node, &node.token());
    let came = oap.call(&recv("t", 1, 0));
    assert_eq!(came.read::<Vec<Delivered<'_>>>()[0].payload.0, body.as_bytes());
}

#[test]
fn a_bad_frame_ends_its_connection_and_no_other() {
    let node = node();
    let mut other = Oap::open(&node, &node.token());
    let mut whole = BytesMut::new();
    oap::encode(&header(7), &[], &send("t", b"x").to_vec(), &mut whole);
    let len = whole.len() as u32;
    let bad: [(usize, Vec<u8>, u16, &str); 7] = [
        (4, vec![0, 2], 400, "ver"),
        (6, vec![1, 1], 400, "flags"),
        (6, vec![0, 2], 400, "REQ"),
        (28, vec![0, 9], 400, "cap_len"),
        (0, 37u32.to_be_bytes().to_vec(), 400, "len"),
        (0, 1_048_577u32.to_be_bytes().to_vec(), 413, "1048576"),
        (0, u32::MAX.to_be_bytes().to_vec(), 413, "1048576"),
    ];
    for (at, bytes, code, names) in bad {
        let mut oap = Oap::open(&node, &node.token());
        let mut frame = whole.to_vec();
        frame[at..at + bytes.len()].copy_from_slice(&bytes);
        oap.socket.write_all(&frame).unwrap();
        let came = oap.came();
        let reason = if code == 413 { "BODY_LIMIT" } else { "MALFORMED" };
        assert!(came.refused(code, reason).contains(names), "{at}: {came:?}");
        assert!(oap.is_closed());
    }
    // a frame that is cut off is no request
    let mut cut = Oap::open(&node, &node.token());
    cut.socket.write_all(&whole[..len as usize - 1]).unwrap();
    cut.socket.shutdown(std::net::Shutdown::Write).unwrap();
    assert!(cut.is_closed());
    let mut stranger = Oap::connect(&node);
    let long = [&20_000u32.to_be_bytes()[..], &whole[4..HEADER_BYTES]].concat();
    stranger.socket.write_all(&long).unwrap();
    stranger.came().refused(401, "UNAUTH");
    assert!(stranger.is_closed());
    let _: Enqueued = other.call(&send("t", b"fine")).read();
    assert_eq!(depths(&node.mailbox(), "t"), [1, 0, 0, 0]);
}

#[test]
fn a_bad_request_is_refused_and_the_connection_goes_on() {
    let node = node();
    let mut oap = Oap::open(&node, &node.token());
    let good = send("t", b"x").to_vec();
    let bad: [(Header, Vec<u8>, u16, &str); 6] = [
        (header(100), Vec::new(), 400, "MALFORMED"),
        (header(101), vec![99], 400, "MALFORMED"),
        (header(102), good[..good.len() - 1].to_vec(), 400, "MALFORMED"),
        (header(103), [&good[..], &[0]].concat(), 400, "MALFORMED"),
        (Header { code: 200, ..header(104) }, good.clone(), 400, "MALFORMED"),
        (Header { app_proto_id: 9, ..header(105) }, good.clone(), 404, "NOT_FOUND"),
    ];
    for (header, payload, code, reason) in bad {
        oap.send(&header, &[], &payload);
        let came = oap.came();
        assert_eq!(came.header.corr_id, header.corr_id);
        came.refused(code, reason);
    }
    oap.call(&recv("t", 257, 0)).refused(400, "MALFORMED");
    oap.call(&recv("t", 1, 20_001)).refused(400, "MALFORMED");
    let _: Enqueued = oap.call(&send("t", b"fine")).read();
    assert_eq!(depths(&node.mailbox(), "t"), [1, 0, 0, 0]);
}

#[test]
fn a_drain_ends_what_waits_and_sheds_sends() {
    let mut node = node();
    let mut held = Oap::open(&node, &node.token());
    let _: Enqueued = held.call(&send("held", b"x")).read();
    let came = held.call(&recv("held", 1, 0));
    let receipt = came.read::<Vec<Delivered<'_>>>()[0].receipt;
    let mut waits = Oap::open(&node, &node.token());
    let long_poll = waits.ask(&recv("t", 1, 20_000));
    let subscription = waits.ask(&Request::Subscribe { topic: "t", credit: 1, visibility_ms: None });
    assert_eq!(waits.came().header.corr_id, subscription);
    node.signal(rustix::process::Signal::TERM);
    let (a, b) = (waits.came(), waits.came());
    let ended = |corr_id| [&a, &b].into_iter().find(|came| came.header.corr_id == corr_id).unwrap();
    assert!(ended(long_poll).read::<Vec<Delivered<'_>>>().is_empty());
    assert!(ended(subscription).header.has(RESP | END));
    let error = held.call(&send("t", b"x"));
    assert!(!error.refused(503, "DEGRADED").is_empty());
    let acked: Settled = held.call(&ack("held", &[receipt])).read();
    assert_eq!(acked.results, [None], "settling gets through");
    assert_eq!(node.wait_exit().code(), Some(0));
    assert!(held.is_closed());
}

#[test]
fn requests_count_under_the_routes_of_the_same_calls() {
    let node = node();
    let mut oap = Oap::open(&node, &node.token());
    let _: Enqueued = oap.call(&send("t", b"x")).read();
    let text = node.mailbox_admin().get("/metrics").text().to_owned();
    let series = r#"mailbox_requests_total{route="/enqueue",method="OAP",code="200"} 1"#;
    let found =
        text.lines().any(|line| line.contains("OAP") && line.contains("/enqueue") && line.ends_with(" 1"));
    assert!(found, "no {series} in\n{text}");
}

#[test]
fn an_idle_stranger_is_sent_away() {
    let node = node();
    let mut idle = Oap::connect(&node);
    idle.socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    assert!(idle.is_closed());
}
