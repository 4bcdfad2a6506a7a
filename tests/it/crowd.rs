//! Many clients at once, and queues that sleep.

use crate::harness::{Provider, Setup, borrowed, poll, timed, wall};
use crate::http::Client;
use crate::mailbox::{depths, enqueue, receipt, recv, recv_one, settle, stat};
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

#[test]
fn one_key_sent_by_many_at_once_is_one_message() {
    let node = Setup::new().start();
    let client = node.mailbox();
    for round in 0..5 {
        let key = format!("key-{round}");
        let send = || enqueue(&client, "once", key.as_bytes(), &[("Idempotency-Key", key.as_bytes())]);
        let sent: Vec<Value> = thread::scope(|scope| {
            let all: Vec<_> = (0..12).map(|_| scope.spawn(send)).collect();
            all.into_iter().map(|one| one.join().unwrap()).collect()
        });
        let ids: HashSet<&str> = sent.iter().map(|answer| answer["msg_id"].as_str().unwrap()).collect();
        assert_eq!(ids.len(), 1, "{sent:?}");
        assert_eq!(sent.iter().filter(|answer| answer["duplicate"] == false).count(), 1, "{sent:?}");
    }
    assert_eq!(depths(&client, "once"), [5, 0, 0, 0]);
}

#[test]
fn one_event_posted_by_many_at_once_is_one_message() {
    let stripe = Provider::new("stripe", "stripe");
    let node = stripe.add_to(Setup::new(), "stripe", "").start();
    let (interop, mailbox) = (node.interop(), node.mailbox());
    // an API client cannot occupy a provider's ids
    enqueue(&mailbox, "stripe", b"x", &[("Idempotency-Key", b"evt_1")]);
    let post = |pending: usize| {
        // Stripe changes this from one retry to the next
        let body = json!({"id": "evt_1", "type": "charge", "pending_webhooks": pending}).to_string();
        let headers = stripe.sign("evt_1", wall(), body.as_bytes());
        interop.call("POST", "/webhooks/stripe", &borrowed(&headers), body.as_bytes()).json(202)
    };
    let post = &post;
    let sent: Vec<Value> = thread::scope(|scope| {
        let all: Vec<_> = (0..12).map(|pending| scope.spawn(move || post(pending))).collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    });
    let ids: HashSet<&str> = sent.iter().map(|answer| answer["msg_id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), 1, "{sent:?}");
    assert_eq!(sent.iter().filter(|answer| answer["duplicate"] == false).count(), 1, "{sent:?}");
    assert_eq!(depths(&mailbox, "stripe"), [2, 0, 0, 0]);
}

#[test]
fn consumers_share_a_queue_without_seeing_a_message_twice() {
    const MESSAGES: usize = 120;
    let node = Setup::new().start();
    let client = node.mailbox();
    let seen = Mutex::new(HashMap::<String, usize>::new());
    let acked = AtomicUsize::new(0);
    let consume = |client: &Client| {
        while acked.load(Ordering::SeqCst) < MESSAGES {
            let got =
                recv(client, "shared", &json!({"max_messages": 7, "visibility_ms": 60_000, "wait_ms": 200}));
            for message in &got {
                *seen.lock().unwrap().entry(message["msg_id"].as_str().unwrap().into()).or_default() += 1;
            }
            let receipts: Vec<&str> = got.iter().map(receipt).collect();
            if !receipts.is_empty() {
                let results = settle(client, "shared", "ack", &json!({"receipts": receipts}));
                assert!(results.iter().all(|result| *result == json!({"ok": true})), "{results:?}");
                acked.fetch_add(results.len(), Ordering::SeqCst);
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| consume(&client));
        }
        for sender in 0..4 {
            let client = &client;
            scope.spawn(move || {
                for n in 0..MESSAGES / 4 {
                    enqueue(client, "shared", format!("{sender}-{n}").as_bytes(), &[]);
                }
            });
        }
    });
    let seen = seen.into_inner().unwrap();
    assert_eq!(seen.len(), MESSAGES);
    assert!(seen.values().all(|times| *times == 1), "{seen:?}");
    assert_eq!(depths(&client, "shared"), [0, 0, 0, 0]);
}

#[test]
fn waiting_receives_are_served_in_the_order_they_came() {
    let node = Setup::new().start();
    let client = node.mailbox();
    enqueue(&client, "line", b"warm", &[]);
    recv_one(&client, "line", 60_000);
    let request =
        client.request("POST", "/v1/acme/line/recv", &[], br#"{"wait_ms":20000,"visibility_ms":60000}"#);
    let mut waiting = Vec::new();
    for n in 1..=3 {
        waiting.push(client.begin(&request));
        poll("a waiter", || (stat(&client, "line")["waiters"] == n).then_some(()));
    }
    for n in 0..3 {
        enqueue(&client, "line", format!("{n}").as_bytes(), &[("Content-Type", b"text/plain")]);
    }
    for (n, stream) in waiting.iter_mut().enumerate() {
        let got = crate::http::read_answer(stream, &request).unwrap().json(200);
        assert_eq!(got["messages"][0]["payload"], format!("{n}"));
    }
}

#[test]
fn a_queue_that_sleeps_wakes_with_all_it_had() {
    let node = Setup::new().env("RON_MAILBOX__PARK_AFTER", "50ms").start();
    let client = node.mailbox();
    enqueue(&client, "sleepy", b"one", &[("Content-Type", b"text/plain"), ("Idempotency-Key", b"k")]);
    let held = {
        enqueue(&client, "busy", b"x", &[]);
        recv_one(&client, "busy", 1_500)
    };
    enqueue(&client, "later", b"x", &[("X-Delay-Ms", b"400")]);
    // long enough for all of them to be idle: the delayed one is due at last
    recv_one(&client, "later", 60_000);
    assert_eq!(depths(&client, "sleepy"), [1, 0, 0, 0]);
    let again =
        enqueue(&client, "sleepy", b"one", &[("Content-Type", b"text/plain"), ("Idempotency-Key", b"k")]);
    assert_eq!(again["duplicate"], true);
    let got = recv_one(&client, "sleepy", 60_000);
    assert_eq!((&got["payload"], &got["attempt"]), (&json!("one"), &json!(1)));
    // a lease runs out although nobody asks
    let next = recv_one(&client, "busy", 60_000);
    assert_eq!((&next["msg_id"], &next["attempt"]), (&held["msg_id"], &json!(2)));
}

#[test]
fn what_a_consumer_never_took_is_given_back_at_once() {
    let node = Setup::new().start();
    let client = node.mailbox();
    for n in 0..6_u8 {
        enqueue(&client, "heavy", &vec![n; 1024 * 1024], &[]);
    }
    // an answer of 8 MiB does not fit into the sockets' buffers; this client reads nothing of it and leaves
    let body = br#"{"max_messages":6,"max_bytes":16777216,"visibility_ms":600000}"#;
    let stream = client.begin(&client.request("POST", "/v1/acme/heavy/recv", &[], body));
    poll("the leases", || (depths(&client, "heavy") == [0, 0, 6, 0]).then_some(()));
    drop(stream);
    let (_, took) =
        timed(|| poll("their return", || (depths(&client, "heavy") == [6, 0, 0, 0]).then_some(())));
    assert!(took.as_secs() < 20, "{took:?}");
    let again = recv_one(&client, "heavy", 60_000);
    // given back, not failed: the attempt does not count, the delivery does
    assert_eq!((&again["attempt"], &again["delivery"]), (&json!(1), &json!(2)));
}

#[test]
fn a_walk_through_the_dlq_sees_each_letter_once() {
    let node = Setup::new().start();
    let client = node.mailbox();
    let batch: Vec<Value> = (0..25).map(|n| json!({"payload": format!("{n}")})).collect();
    client.post("/v1/acme/dead/enqueue/batch", &json!({"messages": batch})).json(200);
    let got = recv(&client, "dead", &json!({"max_messages": 25, "visibility_ms": 60_000}));
    let receipts: Vec<&str> = got.iter().map(receipt).collect();
    settle(&client, "dead", "nack", &json!({"receipts": receipts, "mode": "reject"}));
    let (mut seen, mut cursor, mut pages) = (Vec::new(), String::new(), 0);
    loop {
        let page = crate::mailbox::peek(&client, "dead", &format!("state=dlq&limit=10{cursor}"));
        pages += 1;
        for letter in page["messages"].as_array().unwrap() {
            assert_eq!(letter["dead_letter"]["reason"], "rejected");
            seen.push(letter["msg_id"].as_str().unwrap().to_owned());
        }
        // what dies meanwhile does not upset the walk
        enqueue(&client, "dead", b"late", &[]);
        let late = recv_one(&client, "dead", 60_000);
        if pages < 3 {
            settle(&client, "dead", "nack", &json!({"receipts": [receipt(&late)], "mode": "reject"}));
        }
        match page["cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    let walked: HashSet<&String> = seen.iter().collect();
    assert_eq!(walked.len(), seen.len(), "{seen:?}");
    assert!(got.iter().all(|m| seen.iter().any(|id| m["msg_id"] == *id)), "{seen:?}");
}
