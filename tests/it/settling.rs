//! Settling always gets through (SPEC §4.8): whatever refuses messages and receives, ack, nack and extend are answered,
//! and count.

use crate::harness::{Setup, poll};
use crate::http::Client;
use crate::mailbox::{depths, enqueue, peek, receipt, recv, recv_raw, settle, stat};
use ron_core::capability::attenuate;
use rustix::process::Signal;
use serde_json::{Value, json};

/// As many messages, and all of them in flight.
fn hold(client: &Client, topic: &str, n: usize) -> Vec<Value> {
    (0..n).for_each(|_| drop(enqueue(client, topic, b"x", &[])));
    let held = recv(client, topic, &json!({"max_messages": n, "visibility_ms": 600_000}));
    assert_eq!(held.len(), n);
    held
}

fn ok(client: &Client, topic: &str, call: &str, message: &Value, more: &Value) {
    let mut body = json!({"receipts": [receipt(message)]});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    assert_eq!(settle(client, topic, call, &body), [json!({"ok": true})], "{call} {more}");
}

/// Each way of settling, once: of five held ones one is acked, one fails, one is released, one rejected, one held.
fn settle_each(client: &Client, topic: &str, held: &[Value]) {
    ok(client, topic, "extend", &held[0], &json!({"visibility_ms": 600_000}));
    ok(client, topic, "ack", &held[1], &json!({}));
    ok(client, topic, "nack", &held[2], &json!({"delay_ms": 600_000}));
    ok(client, topic, "nack", &held[3], &json!({"mode": "release"}));
    ok(client, topic, "nack", &held[4], &json!({"mode": "reject"}));
}

#[test]
fn no_bound_of_a_topic_no_quota_no_rate_and_no_pause_refuses_it() {
    let setup = Setup::new().env("RON_MAILBOX__MAX_INFLIGHT", "5").env("RON_MAILBOX__MAX_DEPTH", "5");
    let rules = "version = 1\ndefault = \"allow\"\n[tenant.acme]\nmax_inflight = 5\n";
    std::fs::write(setup.dir().join("policy.toml"), rules).unwrap();
    let node = setup.start();
    let client = node.operator();
    let held = hold(&client, "b", 5);
    client.call("POST", "/v1/acme/b/enqueue", &[], b"x").refused(429, "BACKPRESSURE");
    recv_raw(&client, "b", &json!({})).refused(429, "BACKPRESSURE");
    client.post("/v1/acme/b/pause", &json!({"what": "both"})).json(200);
    client.call("POST", "/v1/acme/b/enqueue", &[], b"x").refused(503, "DEGRADED");
    assert_eq!(depths(&client, "b"), [0, 0, 5, 0], "what was refused is not there");
    // a capability whose rate is used up
    let slow = attenuate(&node.token(), &["rps = 1".to_owned()]).unwrap();
    let slow = node.bare().with(&slow);
    poll("its rate is used up", || {
        let answer = recv_raw(&slow, "b", &json!({}));
        (answer.json(answer.status)["reason"] == "RATE_LIMIT").then_some(())
    });
    for message in &held {
        for _ in 0..4 {
            ok(&slow, "b", "extend", message, &json!({"visibility_ms": 600_000}));
        }
    }
    let receipts: Vec<&str> = held.iter().map(receipt).collect();
    let extended = settle(&slow, "b", "extend", &json!({"receipts": receipts, "visibility_ms": 600_000}));
    assert!(extended.iter().all(|result| result["ok"] == true), "{extended:?}");
    settle_each(&slow, "b", &held);
    assert_eq!(depths(&client, "b"), [1, 1, 1, 1]);
    assert_eq!(stat(&client, "b")["paused"], "both");
}

#[test]
fn below_the_disk_reserve_sends_alone_are_refused() {
    let node = Setup::new().start();
    let client = node.operator();
    let held = hold(&client, "d", 5);
    enqueue(&client, "more", b"kept", &[("Idempotency-Key", b"k")]);
    // no disk has as much free
    let setup = node.stop().env("RON_STORE__RESERVE", "1048576GiB");
    let node = setup.start();
    let client = node.operator();
    let missing = poll("the full disk", || {
        let ready = node.mailbox_admin().get("/readyz");
        (ready.status == 503).then(|| ready.json(503)["missing"].clone())
    });
    assert_eq!(missing, json!(["disk"]));
    assert_eq!(node.mailbox_admin().get("/readyz?for=reads").status, 200);
    let refused = client.call("POST", "/v1/acme/more/enqueue", &[], b"x");
    refused.refused(503, "STORAGE");
    assert_eq!(refused.header("x-effect"), Some("none"));
    let batch = json!({"messages": [{"payload": "x"}]});
    client.post("/v1/acme/new/enqueue/batch", &batch).refused(503, "STORAGE");
    client.get("/v1/acme/new").refused(404, "NOT_FOUND");
    settle_each(&client, "d", &held);
    assert_eq!(depths(&client, "d"), [1, 1, 1, 1]);
    let got = recv(&client, "more", &json!({"max_messages": 9, "visibility_ms": 600_000}));
    assert_eq!(got.len(), 1);
    ok(&client, "more", "ack", &got[0], &json!({}));
    assert_eq!(peek(&client, "d", "state=dlq")["messages"][0]["msg_id"], held[4]["msg_id"]);

    // with room again all of it is as it was left
    let node = node.stop().env("RON_STORE__RESERVE", "0B").start();
    let client = node.operator();
    assert_eq!((depths(&client, "d"), depths(&client, "more")), ([1, 1, 1, 1], [0, 0, 0, 0]));
    let again = enqueue(&client, "more", b"kept", &[("Idempotency-Key", b"k")]);
    assert_eq!((&again["duplicate"], &again["msg_id"]), (&json!(true), &got[0]["msg_id"]));
}

#[test]
fn a_drain_waits_for_the_leases_and_ends_with_the_last_of_them() {
    let mut node = Setup::new().env("RON_NODE__DRAIN_MS", "600000").start();
    let client = node.operator();
    let held = hold(&client, "t", 5);
    node.signal(Signal::TERM);
    poll("the drain", || (node.mailbox_admin().get("/readyz").status == 503).then_some(()));
    client.call("POST", "/v1/acme/t/enqueue", &[], b"x").refused(503, "DEGRADED");
    recv_raw(&client, "t", &json!({})).refused(503, "DEGRADED");
    settle_each(&client, "t", &held);
    assert_eq!(depths(&client, "t"), [1, 1, 1, 1]);
    // nothing waits for it any more once it is settled
    let last = client.request(
        "POST",
        "/v1/acme/t/ack",
        &[],
        json!({"receipts": [receipt(&held[0])]}).to_string().as_bytes(),
    );
    assert_eq!(client.raw(&last).json(200)["results"], json!([{"ok": true}]));
    assert_eq!(node.wait_exit().code(), Some(0));
    let node = node.setup.clone().start();
    assert_eq!(depths(&node.operator(), "t"), [1, 1, 0, 1]);
}
