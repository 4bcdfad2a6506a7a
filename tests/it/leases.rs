//! The deadline of a delivery (SPEC §4.2): what moves it, and that it stands still while nobody could ack.

use crate::harness::{Setup, poll, timed, wall};
use crate::http::Client;
use crate::mailbox::{depths, enqueue, peek, receipt, recv, recv_one, settle};
use serde_json::{Value, json};
use std::time::Duration;

const OK: &str = r#"{"ok":true}"#;
/// How far the node's clock and ours may be apart, ms: a step of the wall clock moves ours alone.
const APART_MS: u64 = 5_000;

fn extend(client: &Client, topic: &str, message: &Value, visibility_ms: u64) -> String {
    let body = json!({"receipts": [receipt(message)], "visibility_ms": visibility_ms});
    settle(client, topic, "extend", &body).remove(0).to_string()
}

fn deadlines(client: &Client, topic: &str) -> Vec<Value> {
    let page = peek(client, topic, "state=vis");
    page["messages"].as_array().unwrap().iter().map(|message| message["deadline"].clone()).collect()
}

#[test]
fn an_extension_counts_from_now_and_may_shorten() {
    let node = Setup::new().start();
    let client = node.mailbox();
    enqueue(&client, "x", b"long", &[]);
    enqueue(&client, "x", b"brief", &[]);
    let long = recv_one(&client, "x", 600_000);
    let brief = recv_one(&client, "x", 700);
    let before = wall();
    assert_eq!(extend(&client, "x", &brief, 60_000), OK);
    let at = deadlines(&client, "x")[1].as_str().unwrap().to_owned();
    let (least, most) = (before.plus(60_000 - APART_MS), wall().plus(60_000 + APART_MS));
    assert!(*least.rfc3339() < *at && *at < *most.rfc3339(), "{at}");

    let set = deadlines(&client, "x");
    for bad in [249, 43_200_001] {
        let body = json!({"receipts": [receipt(&long)], "visibility_ms": bad});
        let text = client.post("/v1/acme/x/extend", &body).refused(400, "MALFORMED");
        assert!(text.contains("visibility_ms"), "{text}");
    }
    let settles = node.bare().with(&node.mint(&json!({"ops": ["ack", "nack"]})));
    let body = json!({"receipts": [receipt(&long)], "visibility_ms": 250});
    settles.post("/v1/acme/x/extend", &body).refused(403, "SCOPE_MISMATCH");
    assert_eq!(deadlines(&client, "x"), set, "what is refused moves nothing");

    let (again, took) = timed(|| {
        assert_eq!(extend(&client, "x", &long, 300), OK);
        recv_one(&client, "x", 600_000)
    });
    assert_eq!((&again["msg_id"], &again["attempt"]), (&long["msg_id"], &json!(2)));
    assert!(took >= Duration::from_millis(300), "{took:?}");
    // long after the deadline that the other one had at first
    poll("its first deadline", || (*wall().rfc3339() > *brief["deadline"].as_str().unwrap()).then_some(()));
    assert_eq!(depths(&client, "x"), [0, 0, 2, 0]);
    assert_eq!(settle(&client, "x", "ack", &json!({"receipts": [receipt(&brief)]})), [json!({"ok": true})]);
    assert!(extend(&client, "x", &long, 60_000).contains("STALE_RECEIPT"), "another one has it");
    assert_eq!(depths(&client, "x"), [0, 0, 1, 0]);
}

#[test]
fn leases_stand_still_while_the_node_is_down_and_have_time_left_when_it_is_back() {
    let node = Setup::new().env("RON_MAILBOX__VISIBILITY_MS", "1000").start();
    let client = node.mailbox();
    enqueue(&client, "s", b"one", &[]);
    enqueue(&client, "s", b"two", &[]);
    let got = recv(&client, "s", &json!({"max_messages": 2}));
    assert_eq!(depths(&client, "s"), [0, 0, 2, 0]);
    let setup = node.kill();
    let last = got[1]["deadline"].as_str().unwrap();
    poll("a time past both deadlines", || (*wall().rfc3339() > *last).then_some(()));
    let before = wall();
    let node = setup.start();
    let client = node.mailbox();
    // each has at least its topic's visibility left, counted from when the node is back
    let (seen, took) = timed(|| {
        let seen = deadlines(&client, "s");
        // on a machine that sleeps here for longer than a lease there is nothing more to see
        (seen, settle(&client, "s", "ack", &json!({"receipts": [receipt(&got[0])]})))
    });
    if took < Duration::from_millis(500) {
        assert_eq!(seen.0.len(), 2, "{seen:?}");
        let least = before.plus(1_000).rfc3339();
        assert!(seen.0.iter().all(|at| at.as_str().unwrap() >= &*least), "{seen:?}, started {before:?}");
    }
    assert_eq!(seen.1, [json!({"ok": true})], "a receipt from before settles");
    let again = recv_one(&client, "s", 60_000);
    assert_eq!((&again["msg_id"], &again["attempt"]), (&got[1]["msg_id"], &json!(2)));
    let stale = settle(&client, "s", "ack", &json!({"receipts": [receipt(&got[1])]}));
    assert_eq!(stale, [json!({"ok": false, "reason": "STALE_RECEIPT"})]);
    assert_eq!(depths(&client, "s"), [0, 0, 1, 0]);
}

/// The deadline of the one message in flight, once the queue answers.
fn deadline_when_back(client: &Client, topic: &str) -> String {
    let path = format!("/v1/acme/{topic}/peek?state=vis");
    let page = poll("the queue is back", || Some(client.get(&path)).filter(|answer| answer.status == 200));
    let messages = page.json(200)["messages"].as_array().unwrap().clone();
    assert_eq!(messages.len(), 1, "{messages:?}");
    messages[0]["deadline"].as_str().unwrap().to_owned()
}

fn long_after(deadline: &Value) {
    poll("a time past the deadline", || (*wall().rfc3339() > *deadline.as_str().unwrap()).then_some(()));
}

#[test]
fn leases_stand_still_while_the_store_recovers_or_the_queue_is_in_quarantine() {
    let setup = Setup::new().toml("[chaos]\nenabled = true\n");
    let node = setup.start();
    let client = node.operator();
    let inject = |order: Value| node.control().post("/ctl/chaos/inject", &order);
    for topic in ["s", "other"] {
        enqueue(&client, topic, b"x", &[]);
    }
    let got = recv_one(&client, "s", 2_000);
    let ack = json!({"receipts": [receipt(&got)]});
    inject(json!({"target": "svc-mailbox", "fault": "error", "percent": 100})).json(200);
    // It may have landed all the same: then the lease is as long as it was, but from now on.
    let longer = json!({"receipts": [receipt(&got)], "visibility_ms": 2_000});
    client.post("/v1/acme/s/extend", &longer).refused(503, "STORAGE");
    long_after(&json!(wall().plus(2_000).rfc3339()));
    let before = wall();
    node.control().post("/ctl/chaos/clear", &json!({})).json(200);
    let deadline = deadline_when_back(&client, "s");
    assert!(*deadline >= *before.plus(2_000).rfc3339(), "{deadline}, well since {}", before.rfc3339());

    assert_eq!(settle(&client, "s", "extend", &longer), [json!({"ok": true})]);
    let deadline = json!(deadline_when_back(&client, "s"));
    let kill = json!({"target": "svc-mailbox", "fault": "kill", "child": "acme/s"});
    poll("the quarantine", || {
        inject(kill.clone());
        let listed = node.control().get("/ctl/status").json(200)["quarantined"].clone();
        (listed == json!(["acme/s"])).then_some(())
    });
    client.post("/v1/acme/s/ack", &ack).refused(503, "DOWNSTREAM_UNAVAILABLE");
    client.call("POST", "/v1/acme/s/enqueue", &[], b"x").refused(503, "DOWNSTREAM_UNAVAILABLE");
    assert_eq!(depths(&client, "other"), [1, 0, 0, 0], "the rest carries on");
    long_after(&deadline);
    let before = wall();
    node.ronctl_json(&["quarantine", "release", "acme/s"]);
    let deadline = deadline_when_back(&client, "s");
    assert!(*deadline >= *before.plus(2_000).rfc3339(), "{deadline}, released at {}", before.rfc3339());
    assert_eq!(settle(&client, "s", "ack", &ack), [json!({"ok": true})], "it was never handed out again");
    assert_eq!(depths(&client, "s"), [0, 0, 0, 0]);
}
