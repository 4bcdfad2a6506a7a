//! The mailbox's calls, each with the state that it leaves.

use crate::harness::{Setup, TENANT, TestNode, poll, timed};
use crate::http::{Answer, Client, read_answer};
use serde_json::{Value, json};
use std::time::Duration;

pub(crate) fn enqueue(client: &Client, topic: &str, body: &[u8], headers: &[(&str, &[u8])]) -> Value {
    client.call("POST", &format!("/v1/{TENANT}/{topic}/enqueue"), headers, body).json(200)
}

pub(crate) fn recv_raw(client: &Client, topic: &str, body: &Value) -> Answer {
    client.post(&format!("/v1/{TENANT}/{topic}/recv"), body)
}

pub(crate) fn recv(client: &Client, topic: &str, body: &Value) -> Vec<Value> {
    recv_raw(client, topic, body).json(200)["messages"].as_array().unwrap().clone()
}

/// Receives until there is a message.
pub(crate) fn recv_one(client: &Client, topic: &str, visibility_ms: u64) -> Value {
    let mut got = recv(client, topic, &json!({"visibility_ms": visibility_ms, "wait_ms": 20_000}));
    assert_eq!(got.len(), 1, "{topic}: {got:?}");
    got.remove(0)
}

pub(crate) fn settle(client: &Client, topic: &str, call: &str, body: &Value) -> Vec<Value> {
    let answer = client.post(&format!("/v1/{TENANT}/{topic}/{call}"), body).json(200);
    answer["results"].as_array().unwrap().clone()
}

pub(crate) fn receipt(message: &Value) -> &str {
    message["receipt"].as_str().unwrap()
}

pub(crate) fn stat(client: &Client, topic: &str) -> Value {
    client.get(&format!("/v1/{TENANT}/{topic}")).json(200)
}

/// Depths: ready, delayed, vis, dlq.
pub(crate) fn depths(client: &Client, topic: &str) -> [u64; 4] {
    let stat = stat(client, topic);
    ["ready", "delayed", "vis", "dlq"].map(|state| stat[state].as_u64().unwrap())
}

pub(crate) fn peek(client: &Client, topic: &str, query: &str) -> Value {
    client.get(&format!("/v1/{TENANT}/{topic}/peek?{query}")).json(200)
}

fn node() -> (TestNode, Client) {
    let node = Setup::new().start();
    let client = node.mailbox();
    (node, client)
}

#[test]
fn a_message_goes_through_all_its_states() {
    let (_node, client) = node();
    assert_eq!(recv(&client, "orders", &json!({})), Vec::<Value>::new(), "a topic that does not exist yet");
    client.get("/v1/acme/orders").refused(404, "NOT_FOUND");

    let hash = format!("b3:{}", blake3::hash(b"{\"n\":1}").to_hex());
    let headers: [(&str, &[u8]); 6] = [
        ("Content-Type", b"application/json; charset=utf-8"),
        ("Idempotency-Key", b"order-1"),
        ("X-Payload-Hash", hash.as_bytes()),
        ("X-Attr-Zone", b"eu"),
        ("X-ATTR-N_1", "é".as_bytes()),
        ("X-Corr-Id", b"corr-from-client"),
    ];
    let sent = enqueue(&client, "orders", b"{\"n\":1}", &headers);
    let msg_id = sent["msg_id"].as_str().unwrap().to_owned();
    let expected = json!({"msg_id": msg_id, "duplicate": false, "payload_hash": hash, "durability": "fsync",
        "corr_id": "corr-from-client"});
    assert_eq!(sent, expected);
    assert!(msg_id.len() == 26 && msg_id.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_uppercase()));
    assert_eq!(depths(&client, "orders"), [1, 0, 0, 0]);
    let state = stat(&client, "orders");
    assert_eq!((&state["dedup_keys"], &state["paused"]), (&json!(1), &Value::Null));
    assert_eq!(state["settings"]["max_attempts"], 5);
    let first = state["oldest_age_ms"].as_u64();
    poll("it to grow older", || {
        Some(stat(&client, "orders")["oldest_age_ms"].as_u64()).filter(|age| *age > first)
    });

    let seen = peek(&client, "orders", "state=ready")["messages"][0].clone();
    assert_eq!((&seen["msg_id"], seen.get("receipt"), &seen["delivery"]), (&json!(msg_id), None, &json!(0)));

    let got = recv_one(&client, "orders", 60_000);
    for (field, value) in [
        ("msg_id", json!(msg_id)),
        ("tenant", json!(TENANT)),
        ("topic", json!("orders")),
        ("attempt", json!(1)),
        ("delivery", json!(1)),
        ("idempotency_key", json!("order-1")),
        ("content_type", json!("application/json; charset=utf-8")),
        ("attrs", json!({"zone": "eu", "n_1": "é"})),
        ("payload_hash", json!(hash)),
        ("payload", json!("{\"n\":1}")),
        ("corr_id", json!("corr-from-client")),
    ] {
        assert_eq!(got[field], value, "{field}");
    }
    assert_eq!(got.get("payload_b64"), None);
    assert!(receipt(&got).len() <= 200);
    assert!(got["enqueued_at"].as_str().unwrap().ends_with('Z') && got["deadline"].is_string());
    assert_eq!(depths(&client, "orders"), [0, 0, 1, 0]);
    assert_eq!(stat(&client, "orders")["oldest_age_ms"], 0, "of what is ready");
    assert_eq!(peek(&client, "orders", "state=vis")["messages"][0]["delivery"], 1);
    assert_eq!(recv(&client, "orders", &json!({})), Vec::<Value>::new(), "it is leased");
    released_failed_and_rejected(&client, &msg_id, got);
}

fn released_failed_and_rejected(client: &Client, msg_id: &str, got: Value) {
    // released: the attempt is taken back, the delivery is not
    let released = json!({"receipts": [receipt(&got)], "mode": "release"});
    assert_eq!(settle(client, "orders", "nack", &released), [json!({"ok": true})]);
    assert_eq!(depths(client, "orders"), [1, 0, 0, 0]);
    let got = recv_one(client, "orders", 60_000);
    assert_eq!((&got["attempt"], &got["delivery"]), (&json!(1), &json!(2)));

    // failed with a delay: delayed, then ready by itself
    let failed = json!({"receipts": [receipt(&got)], "delay_ms": 300, "reason": "no luck"});
    assert_eq!(settle(client, "orders", "nack", &failed), [json!({"ok": true})]);
    assert_eq!(depths(client, "orders"), [0, 1, 0, 0]);
    let got = recv_one(client, "orders", 60_000);
    assert_eq!((&got["attempt"], &got["delivery"]), (&json!(2), &json!(3)));

    // rejected: dead at once
    let rejected = json!({"receipts": [receipt(&got)], "mode": "reject", "reason": "poison"});
    assert_eq!(settle(client, "orders", "nack", &rejected), [json!({"ok": true})]);
    assert_eq!(depths(client, "orders"), [0, 0, 0, 1]);
    let dead = peek(client, "orders", "state=dlq")["messages"][0].clone();
    assert_eq!(dead["msg_id"], json!(msg_id));
    assert_eq!(dead["dead_letter"]["reason"], "poison", "the given reason");
    assert_eq!(dead["dead_letter"]["last_error"], "no luck");
    assert_eq!((&dead["dead_letter"]["attempts"], &dead["payload"]), (&json!(2), &json!("{\"n\":1}")));
    assert!(dead["dead_letter"]["at"].is_string());
}

#[test]
fn bodies_come_back_byte_for_byte() {
    let (_node, client) = node();
    let all_bytes: Vec<u8> = (0..=255).collect();
    let large: Vec<u8> = (0..1024 * 1024_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    for (topic, body) in [("empty", Vec::new()), ("bytes", all_bytes), ("large", large)] {
        let sent = enqueue(&client, topic, &body, &[]);
        assert_eq!(sent["payload_hash"], format!("b3:{}", blake3::hash(&body).to_hex()));
        let got = recv_one(&client, topic, 60_000);
        assert_eq!(got["content_type"], "application/octet-stream");
        let back = data_encoding::BASE64.decode(got["payload_b64"].as_str().unwrap().as_bytes()).unwrap();
        assert!(back == body, "{topic}: {} bytes for {}", back.len(), body.len());
        assert_eq!(
            settle(&client, topic, "ack", &json!({"receipts": [receipt(&got)]})),
            [json!({"ok": true})]
        );
        assert_eq!(depths(&client, topic), [0, 0, 0, 0]);
    }
    // text that is no UTF-8 travels as base64 and not mangled
    enqueue(&client, "text", b"\xff\xfe", &[("Content-Type", b"text/plain")]);
    assert_eq!(recv_one(&client, "text", 60_000)["payload_b64"], "//4=");
}

#[test]
fn receives_keep_order_and_bounds() {
    let (_node, client) = node();
    for n in 0..10 {
        enqueue(&client, "q", format!("{n}").as_bytes(), &[("Content-Type", b"text/plain")]);
    }
    let texts =
        |got: &[Value]| got.iter().map(|m| m["payload"].as_str().unwrap().to_owned()).collect::<Vec<_>>();
    let first = recv(&client, "q", &json!({"max_messages": 4, "visibility_ms": 60_000}));
    assert_eq!(texts(&first), ["0", "1", "2", "3"]);
    let small = recv(&client, "q", &json!({"max_messages": 10, "max_bytes": 2, "visibility_ms": 60_000}));
    assert_eq!(texts(&small), ["4", "5"]);
    // at least one, whatever max_bytes
    enqueue(&client, "big", &[b'x'; 5000], &[("Content-Type", b"text/plain")]);
    assert_eq!(recv(&client, "big", &json!({"max_bytes": 1})).len(), 1);
    // an empty body is the defaults: one message
    let answer = client.call("POST", "/v1/acme/q/recv", &[], b"").json(200);
    assert_eq!(texts(answer["messages"].as_array().unwrap()), ["6"]);
    // a page of a peek, and the next one
    let page = peek(&client, "q", "state=vis&limit=3");
    assert_eq!(page["messages"].as_array().unwrap().len(), 3);
    let rest =
        peek(&client, "q", &format!("state=vis&limit=100&cursor={}", page["cursor"].as_str().unwrap()));
    assert_eq!((rest["messages"].as_array().unwrap().len(), &rest["cursor"]), (4, &Value::Null));
    let list = client.get("/v1/acme").json(200);
    let names: Vec<&str> =
        list["topics"].as_array().unwrap().iter().map(|t| t["topic"].as_str().unwrap()).collect();
    assert_eq!(names, ["big", "q"]);
}

#[test]
fn a_batch_answers_in_order_and_each_for_itself() {
    let (_node, client) = node();
    let batch = json!({"messages": [
        {"payload": "one", "content_type": "text/plain", "idempotency_key": "k", "attrs": {"a": "1"}},
        {"payload_b64": "AP8="},
        {"payload": "one", "content_type": "text/plain", "idempotency_key": "k"},
        {"payload": "other", "idempotency_key": "k"},
        {"payload": "x", "payload_b64": "AA=="},
        {"payload": "late", "delay_ms": 60_000},
        {"payload": "x", "delay_ms": 100, "ttl_ms": 100},
        {"payload_b64": "not base64"},
        {"payload": "x", "attrs": {"Upper": "case"}},
    ]});
    let answer = client.post("/v1/acme/b/enqueue/batch", &batch).json(200);
    let results = answer["results"].as_array().unwrap();
    let reasons: Vec<&str> = results.iter().map(|r| r["reason"].as_str().unwrap_or("ok")).collect();
    let (conflict, malformed) = ("IDEMPOTENCY_CONFLICT", "MALFORMED");
    assert_eq!(
        reasons,
        ["ok", "ok", "ok", conflict, malformed, "ok", malformed, malformed, malformed],
        "{answer}"
    );
    assert!(results.iter().all(|r| r.get("reason").is_none() || r["error"].is_string()));
    assert_eq!((&results[2]["duplicate"], &results[2]["msg_id"]), (&json!(true), &results[0]["msg_id"]));
    assert_eq!((&results[0]["duplicate"], &results[0]["durability"]), (&json!(false), &json!("fsync")));
    assert_eq!(depths(&client, "b"), [2, 1, 0, 0]);
    let got = recv(&client, "b", &json!({"max_messages": 10}));
    assert_eq!((&got[0]["payload"], &got[0]["attrs"]), (&json!("one"), &json!({"a": "1"})));
    assert_eq!(got[1]["payload_b64"], "AP8=");
}

#[test]
fn keys_are_known_across_a_sigkill() {
    let (node, client) = node();
    let keyed = |client: &Client, body: &[u8]| enqueue(client, "k", body, &[("Idempotency-Key", b"key-1")]);
    let first = keyed(&client, b"body");
    let again = keyed(&client, b"body");
    assert_eq!((&again["duplicate"], &again["msg_id"]), (&json!(true), &first["msg_id"]));
    let other = client.call("POST", "/v1/acme/k/enqueue", &[("Idempotency-Key", b"key-1")], b"other");
    other.refused(409, "IDEMPOTENCY_CONFLICT");
    // the key outlives its message
    let got = recv_one(&client, "k", 60_000);
    assert_eq!(settle(&client, "k", "ack", &json!({"receipts": [receipt(&got)]})), [json!({"ok": true})]);

    let node = node.kill_and_restart();
    let client = node.mailbox();
    let after = keyed(&client, b"body");
    assert_eq!((&after["duplicate"], &after["msg_id"]), (&json!(true), &first["msg_id"]));
    let other = client.call("POST", "/v1/acme/k/enqueue", &[("Idempotency-Key", b"key-1")], b"other");
    other.refused(409, "IDEMPOTENCY_CONFLICT");
    assert_eq!(depths(&client, "k"), [0, 0, 0, 0]);
    // keys are a topic's own
    let elsewhere = enqueue(&client, "k2", b"other", &[("Idempotency-Key", b"key-1")]);
    assert_eq!(elsewhere["duplicate"], json!(false));
}

#[test]
fn of_two_sends_with_one_key_the_payloads_alone_are_compared() {
    let (_node, client) = node();
    let key: (&str, &[u8]) = ("Idempotency-Key", b"k");
    let first = enqueue(&client, "c", b"{}", &[key, ("Content-Type", b"text/plain"), ("X-Attr-A", b"1")]);
    let others: [&[(&str, &[u8])]; 4] = [
        &[key],
        &[key, ("Content-Type", b"application/json"), ("X-Attr-A", b"2"), ("X-Attr-B", b"3")],
        &[key, ("X-Delay-Ms", b"60000")],
        &[key, ("X-Ttl-Ms", b"100")],
    ];
    for headers in others {
        let again = enqueue(&client, "c", b"{}", headers);
        assert_eq!((&again["duplicate"], &again["msg_id"]), (&json!(true), &first["msg_id"]), "{headers:?}");
    }
    let refused = client.call("POST", "/v1/acme/c/enqueue", &[key], b"{ }");
    refused.refused(409, "IDEMPOTENCY_CONFLICT");
    assert!(!refused.text().contains(first["msg_id"].as_str().unwrap()), "it names no id");
    assert_eq!((depths(&client, "c"), &stat(&client, "c")["dedup_keys"]), ([1, 0, 0, 0], &json!(1)));
    let got = recv_one(&client, "c", 60_000);
    assert_eq!(
        (&got["content_type"], &got["attrs"]),
        (&json!("text/plain"), &json!({"a": "1"})),
        "the first"
    );
}

#[test]
fn a_key_is_forgotten_after_its_window() {
    let node = Setup::new().env("RON_MAILBOX__DEDUP_WINDOW_MS", "300").start();
    let client = node.mailbox();
    let send = || client.call("POST", "/v1/acme/k/enqueue", &[("Idempotency-Key", b"k")], b"x").json(200);
    let (first, took) = timed(send);
    if took < Duration::from_millis(200) {
        assert_eq!(send()["msg_id"], first["msg_id"]);
    }
    let other = poll("a key past its window", || Some(send()).filter(|sent| sent["duplicate"] == false));
    assert_ne!(other["msg_id"], first["msg_id"]);
}

#[test]
fn delays_and_lives_run() {
    let (_node, client) = node();
    let (_, took) = timed(|| {
        enqueue(&client, "later", b"x", &[("X-Delay-Ms", b"700")]);
        assert_eq!(recv(&client, "later", &json!({})), Vec::<Value>::new());
        assert_eq!(depths(&client, "later"), [0, 1, 0, 0]);
        recv_one(&client, "later", 60_000)
    });
    assert!(took >= Duration::from_millis(700), "handed out after {took:?}");

    enqueue(&client, "brief", b"x", &[("X-Ttl-Ms", b"100")]);
    poll("the end of its life", || (depths(&client, "brief") == [0, 0, 0, 0]).then_some(()));
    assert_eq!(recv(&client, "brief", &json!({})), Vec::<Value>::new());
    // a life does not end in flight
    enqueue(&client, "held", b"x", &[("X-Ttl-Ms", b"600")]);
    let held = recv_one(&client, "held", 60_000);
    enqueue(&client, "clock", b"x", &[("X-Delay-Ms", b"700")]);
    recv_one(&client, "clock", 60_000);
    assert_eq!(depths(&client, "held"), [0, 0, 1, 0]);
    assert_eq!(settle(&client, "held", "ack", &json!({"receipts": [receipt(&held)]})), [json!({"ok": true})]);
}

#[test]
fn an_unacked_message_comes_back_and_ends_in_the_dlq() {
    let node = Setup::new().env("RON_MAILBOX__MAX_ATTEMPTS", "2").start();
    let client = node.mailbox();
    enqueue(&client, "t", b"x", &[("Content-Type", b"text/plain")]);
    let (first, _) = timed(|| recv_one(&client, "t", 400));
    let (second, took) = timed(|| recv_one(&client, "t", 400));
    assert!(took >= Duration::from_millis(300), "handed out again after {took:?}");
    assert_eq!((&second["attempt"], &second["delivery"]), (&json!(2), &json!(2)));
    assert_eq!(first["msg_id"], second["msg_id"]);
    poll("the dead letter", || (depths(&client, "t") == [0, 0, 0, 1]).then_some(()));
    let dead = peek(&client, "t", "state=dlq")["messages"][0].clone();
    assert_eq!((&dead["msg_id"], &dead["dead_letter"]["attempts"]), (&first["msg_id"], &json!(2)));
    let stale = settle(&client, "t", "ack", &json!({"receipts": [receipt(&second)]}));
    assert_eq!(stale, [json!({"ok": false, "reason": "STALE_RECEIPT"})]);
}

#[test]
fn delays_and_leases_end_after_a_sigkill_though_nobody_calls() {
    let (node, client) = node();
    for topic in ["w1", "w2", "w3"] {
        enqueue(&client, topic, b"leased", &[]);
        recv(&client, topic, &json!({"visibility_ms": 400}));
        enqueue(&client, topic, b"delayed", &[("X-Delay-Ms", b"300")]);
    }
    let node = node.kill_and_restart();
    let client = node.mailbox();
    // The tenant's list wakes no queue.
    poll("the ends of delays and leases", || {
        let listed = client.get("/v1/acme").json(200);
        let rows = listed["topics"].as_array().unwrap().clone();
        (rows.len() == 3 && rows.iter().all(|row| row["ready"] == 2)).then_some(())
    });
}

#[test]
fn a_lease_survives_a_sigkill_and_does_not_end_early() {
    let (node, client) = node();
    for body in [b"one", b"two"] {
        enqueue(&client, "l", body, &[("Content-Type", b"text/plain")]);
    }
    let (got, _) = timed(|| recv(&client, "l", &json!({"max_messages": 2, "visibility_ms": 2_500})));
    let ((node, client), down) = timed(|| {
        let node = node.kill_and_restart();
        let client = node.mailbox();
        (node, client)
    });
    assert_eq!(depths(&client, "l"), [0, 0, 2, 0]);
    assert_eq!(recv(&client, "l", &json!({})), Vec::<Value>::new());
    // the receipt from before still acks
    assert_eq!(settle(&client, "l", "ack", &json!({"receipts": [receipt(&got[0])]})), [json!({"ok": true})]);
    let (again, took) = timed(|| recv_one(&client, "l", 60_000));
    assert_eq!((&again["msg_id"], &again["attempt"]), (&got[1]["msg_id"], &json!(2)));
    let since = down + took;
    assert!(since >= Duration::from_millis(2_400), "handed out again after {since:?}");
    assert_eq!(depths(&client, "l"), [0, 0, 1, 0]);
    drop(node);
}

#[test]
fn a_long_poll_is_served_and_one_whose_client_went_away_takes_nothing() {
    let (_node, client) = node();
    enqueue(&client, "p", b"warm", &[]);
    recv_one(&client, "p", 60_000);
    let path = "/v1/acme/p/recv";
    let waiting = |client: &Client| {
        let request = client.request("POST", path, &[], br#"{"wait_ms":20000,"visibility_ms":60000}"#);
        let stream = client.begin(&request);
        (stream, request)
    };
    let waiters = |n: u64| poll("waiters", || (stat(&client, "p")["waiters"] == n).then_some(()));
    let (mut served, request) = waiting(&client);
    waiters(1);
    enqueue(&client, "p", b"served", &[("Content-Type", b"text/plain")]);
    let answer = read_answer(&mut served, &request).unwrap().json(200);
    assert_eq!(answer["messages"][0]["payload"], "served");

    let (gone, _) = waiting(&client);
    waiters(1);
    drop(gone);
    waiters(0);
    enqueue(&client, "p", b"mine", &[("Content-Type", b"text/plain")]);
    let got = recv_one(&client, "p", 60_000);
    assert_eq!((&got["payload"], &got["delivery"]), (&json!("mine"), &json!(1)));
    // an empty wait is an empty 200, no sooner than asked
    let (empty, took) = timed(|| recv(&client, "p", &json!({"wait_ms": 300})));
    assert_eq!(empty, Vec::<Value>::new());
    assert!(took >= Duration::from_millis(300), "{took:?}");
}

#[test]
fn bounds_refuse_with_backpressure_and_settling_goes_on() {
    let node = Setup::new()
        .env("RON_MAILBOX__MAX_INFLIGHT", "2")
        .env("RON_MAILBOX__MAX_DEPTH", "4")
        .env("RON_MAILBOX__MAX_DEDUP_KEYS", "1")
        .start();
    let client = node.mailbox();
    enqueue(&client, "b", b"x", &[("Idempotency-Key", b"one")]);
    let full = client.call("POST", "/v1/acme/b/enqueue", &[("Idempotency-Key", b"two")], b"x");
    full.refused(429, "BACKPRESSURE");
    for _ in 0..3 {
        enqueue(&client, "b", b"x", &[]);
    }
    client.call("POST", "/v1/acme/b/enqueue", &[], b"x").refused(429, "BACKPRESSURE");
    let got = recv(&client, "b", &json!({"max_messages": 10, "visibility_ms": 60_000}));
    assert_eq!(got.len(), 2);
    recv_raw(&client, "b", &json!({})).refused(429, "BACKPRESSURE");
    let receipts: Vec<&str> = got.iter().map(receipt).collect();
    assert_eq!(
        settle(&client, "b", "ack", &json!({"receipts": receipts})),
        [json!({"ok": true}), json!({"ok": true})]
    );
    enqueue(&client, "b", b"x", &[]);
    assert_eq!(recv(&client, "b", &json!({"max_messages": 10})).len(), 2);
}
