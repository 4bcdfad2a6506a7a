//! Counters of a message (SPEC §4.3): what a failure, a release and a rejection cost, when it is tried again, and what
//! ends in the dead letters with which reason.

use crate::harness::{Setup, TestNode, poll};
use crate::http::Client;
use crate::mailbox::{depths, enqueue, peek, receipt, recv, recv_one, settle};
use serde_json::{Value, json};

fn node() -> (TestNode, Client) {
    let node = Setup::new().start();
    let client = node.operator();
    (node, client)
}

fn set(client: &Client, topic: &str, settings: &Value) {
    let json_type: [(&str, &[u8]); 1] = [("Content-Type", b"application/json")];
    let path = format!("/v1/acme/{topic}/settings");
    client.call("PUT", &path, &json_type, settings.to_string().as_bytes()).json(200);
}

fn nack(client: &Client, topic: &str, message: &Value, more: &Value) -> Value {
    let mut body = json!({"receipts": [receipt(message)]});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    settle(client, topic, "nack", &body).remove(0)
}

fn counters(message: &Value) -> (u64, u64) {
    (message["attempt"].as_u64().unwrap(), message["delivery"].as_u64().unwrap())
}

#[test]
fn failures_use_up_the_attempts_also_over_a_sigkill() {
    let (node, client) = node();
    set(&client, "f", &json!({"max_attempts": 3}));
    enqueue(&client, "f", b"x", &[]);
    let fail = |n: u32| json!({"delay_ms": 0, "reason": format!("failure {n}")});
    let first = recv_one(&client, "f", 60_000);
    assert_eq!(nack(&client, "f", &first, &fail(1)), json!({"ok": true}));
    let released = recv_one(&client, "f", 60_000);
    assert_eq!(nack(&client, "f", &released, &json!({"mode": "release"})), json!({"ok": true}));

    let node = node.kill_and_restart();
    let client = node.operator();
    let second = recv_one(&client, "f", 60_000);
    assert_eq!(counters(&second), (2, 3), "the released one gave its attempt back, and no delivery");
    assert_eq!(nack(&client, "f", &second, &fail(2)), json!({"ok": true}));
    assert_eq!(depths(&client, "f"), [1, 0, 0, 0]);
    let third = recv_one(&client, "f", 60_000);
    assert_eq!(counters(&third), (3, 4));
    assert_eq!(nack(&client, "f", &third, &fail(3)), json!({"ok": true}));
    assert_eq!(depths(&client, "f"), [0, 0, 0, 1]);
    assert_eq!(nack(&client, "f", &third, &fail(3)), json!({"ok": true}), "a repetition of the last one");

    let stale = json!({"ok": false, "reason": "STALE_RECEIPT"});
    for old in [&first, &released, &second] {
        assert_eq!(nack(&client, "f", old, &fail(4)), stale, "a delivery of before counts nothing");
    }
    assert_eq!(depths(&client, "f"), [0, 0, 0, 1]);
    let node = node.kill_and_restart();
    let client = node.operator();
    let dead = peek(&client, "f", "state=dlq")["messages"][0].clone();
    assert_eq!((counters(&dead), &dead["msg_id"]), ((3, 4), &first["msg_id"]));
    let letter = &dead["dead_letter"];
    assert_eq!((&letter["reason"], &letter["attempts"]), (&json!("max_attempts"), &json!(3)));
    assert_eq!(letter["last_error"], "failure 3");
    assert_eq!(recv(&client, "f", &json!({})), Vec::<Value>::new());
}

#[test]
fn a_delivery_that_nobody_settles_counts_like_a_failure() {
    let (_node, client) = node();
    set(
        &client,
        "v",
        &json!({"max_attempts": 2, "backoff_base_ms": 86_400_000, "backoff_max_ms": 86_400_000}),
    );
    enqueue(&client, "v", b"x", &[]);
    recv_one(&client, "v", 250);
    // it is ready at once: the delay of a failure does not hold
    let again = recv_one(&client, "v", 250);
    assert_eq!(counters(&again), (2, 2));
    poll("the dead letter", || (depths(&client, "v") == [0, 0, 0, 1]).then_some(()));
    let letter = peek(&client, "v", "state=dlq")["messages"][0]["dead_letter"].clone();
    assert_eq!((&letter["reason"], &letter["last_error"]), (&json!("max_attempts"), &Value::Null));
    assert_eq!(nack(&client, "v", &again, &json!({}))["reason"], "STALE_RECEIPT");
    assert_eq!(depths(&client, "v"), [0, 0, 0, 1]);
}

#[test]
fn a_message_that_is_released_for_ever_ends_by_max_deliveries() {
    let (node, client) = node();
    set(&client, "r", &json!({"max_attempts": 2, "max_deliveries": 3}));
    enqueue(&client, "r", b"x", &[]);
    enqueue(&client, "r", b"y", &[]);
    let release = json!({"mode": "release"});
    for delivery in 1..=2 {
        let got = recv_one(&client, "r", 60_000);
        assert_eq!(counters(&got), (1, delivery));
        assert_eq!(nack(&client, "r", &got, &release), json!({"ok": true}));
        assert_eq!(depths(&client, "r"), [2, 0, 0, 0], "again at once");
    }
    let node = node.kill_and_restart();
    let client = node.operator();
    let last = recv_one(&client, "r", 60_000);
    assert_eq!(counters(&last), (1, 3), "it stands before the other, and no counter fell");
    let bad = json!({"receipts": [receipt(&last)], "mode": "release", "delay_ms": 2_592_000_001_u64});
    client.post("/v1/acme/r/nack", &bad).refused(400, "MALFORMED");
    assert_eq!(depths(&client, "r"), [1, 0, 1, 0]);
    assert_eq!(nack(&client, "r", &last, &release), json!({"ok": true}));
    assert_eq!(depths(&client, "r"), [1, 0, 0, 1]);
    let dead = peek(&client, "r", "state=dlq")["messages"][0].clone();
    assert_eq!(
        (&dead["msg_id"], &dead["dead_letter"]["reason"]),
        (&last["msg_id"], &json!("max_deliveries"))
    );
    // brought back it has as many again
    client.post("/v1/acme/r/dlq/reprocess", &json!({})).json(200);
    poll("the letter to come back", || (depths(&client, "r") == [2, 0, 0, 0]).then_some(()));
    let other = recv_one(&client, "r", 60_000);
    assert_ne!(other["msg_id"], last["msg_id"]);
    let back = recv_one(&client, "r", 60_000);
    assert_eq!((counters(&back), &back["msg_id"]), ((1, 4), &last["msg_id"]));
    assert_eq!(nack(&client, "r", &back, &release), json!({"ok": true}));
    assert_eq!(depths(&client, "r"), [1, 0, 1, 0]);
}

#[test]
fn a_failure_is_tried_again_after_a_time_that_is_drawn_by_lot() {
    let (_node, client) = node();
    let fail_all = |topic: &str| {
        let got =
            recv(&client, topic, &json!({"max_messages": 20, "visibility_ms": 60_000, "wait_ms": 5_000}));
        let receipts: Vec<&str> = got.iter().map(receipt).collect();
        assert!(!receipts.is_empty());
        let results = settle(&client, topic, "nack", &json!({ "receipts": receipts }));
        assert!(results.iter().all(|result| *result == json!({"ok": true})), "{results:?}");
        got.len()
    };
    let send = |topic: &str, n: usize| {
        let messages: Vec<Value> = (0..n).map(|n| json!({"payload": n.to_string()})).collect();
        client.post(&format!("/v1/acme/{topic}/enqueue/batch"), &json!({ "messages": messages })).json(200);
    };
    // from nothing to a day: that five of them are tried again within seconds is as good as impossible
    set(&client, "late", &json!({"backoff_base_ms": 86_400_000, "backoff_max_ms": 86_400_000}));
    send("late", 5);
    assert_eq!(fail_all("late"), 5);
    assert_eq!(depths(&client, "late"), [0, 5, 0, 0]);
    // the cap holds for what has failed often
    set(
        &client,
        "capped",
        &json!({"max_attempts": 1_000, "max_deliveries": 1_000, "backoff_base_ms": 1,
        "backoff_max_ms": 1}),
    );
    send("capped", 1);
    for attempt in 1..=12 {
        let got = recv_one(&client, "capped", 60_000);
        assert_eq!(counters(&got), (attempt, attempt));
        assert_eq!(nack(&client, "capped", &got, &json!({})), json!({"ok": true}));
    }
    // and they do not all come back at one moment; should nobody have looked in time, they fail once more
    set(
        &client,
        "spread",
        &json!({"max_attempts": 1_000, "max_deliveries": 1_000, "backoff_base_ms": 2_000,
        "backoff_max_ms": 2_000}),
    );
    send("spread", 20);
    assert_eq!(fail_all("spread"), 20);
    poll("some of them before the others", || {
        let [ready, delayed, _, dead] = depths(&client, "spread");
        assert_eq!((ready + delayed, dead), (20, 0));
        if delayed == 0 {
            fail_all("spread");
        }
        (ready > 0 && delayed > 0).then_some(())
    });
    let bad = json!({"receipts": ["A"], "mode": "later"});
    client.post("/v1/acme/late/nack", &bad).refused(400, "MALFORMED");
    assert_eq!(depths(&client, "late"), [0, 5, 0, 0]);
}
