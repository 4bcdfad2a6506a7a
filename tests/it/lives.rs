//! The clocks of a message (SPEC §4.6): its TTL and its topic's retention, from when they run, and whom they never end.

use crate::harness::{Setup, TestNode, poll, timed};
use crate::http::Client;
use crate::mailbox::{depths, enqueue, receipt, recv, recv_one, settle};
use serde_json::{Value, json};
use std::time::Duration;

const TTL_MS: u64 = 1_500;

fn node() -> (TestNode, Client) {
    let node = Setup::new().start();
    let client = node.operator();
    (node, client)
}

/// What happened to the message so far, and where it is.
fn life(client: &Client, topic: &str, message: &Value) -> (Vec<String>, String) {
    let id = message["msg_id"].as_str().unwrap();
    let found = client.get(&format!("/v1/acme/{topic}/messages/{id}")).json(200);
    let events = found["history"].as_array().unwrap().iter();
    let events = events.map(|event| event["event"].as_str().unwrap().to_owned()).collect();
    (events, found["state"].as_str().unwrap().to_owned())
}

fn nack(client: &Client, topic: &str, message: &Value, more: &Value) {
    let mut body = json!({"receipts": [receipt(message)]});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    assert_eq!(settle(client, topic, "nack", &body), [json!({"ok": true})]);
}

fn reprocess(client: &Client, topic: &str) {
    let begun = client.post(&format!("/v1/acme/{topic}/dlq/reprocess"), &json!({})).json(200);
    let task = format!("/v1/acme/{topic}/dlq/tasks/{}", begun["task_id"].as_str().unwrap());
    poll("the reprocessing", || (client.get(&task).json(200)["state"] == "done").then_some(()));
}

#[test]
fn a_ttl_ends_what_is_ready_and_waits_for_all_else() {
    let (_node, client) = node();
    let mortal = |body: &str| json!({"payload": body, "ttl_ms": TTL_MS, "content_type": "text/plain"});
    let messages = ["held", "late", "soon", "dead"].map(mortal);
    client.post("/v1/acme/l/enqueue/batch", &json!({ "messages": messages })).json(200);
    let got = recv(&client, "l", &json!({"max_messages": 4, "visibility_ms": 600_000}));
    let [held, late, soon, dead] = <[Value; 4]>::try_from(got).unwrap();
    nack(&client, "l", &late, &json!({"delay_ms": 600_000}));
    nack(&client, "l", &soon, &json!({"delay_ms": TTL_MS + 1_000}));
    nack(&client, "l", &dead, &json!({"mode": "reject"}));
    for ttl in [b"300".as_slice(), b"99"] {
        let headers: [(&str, &[u8]); 2] = [("X-Delay-Ms", b"300"), ("X-Ttl-Ms", ttl)];
        client.call("POST", "/v1/acme/l/enqueue", &headers, b"x").refused(400, "MALFORMED");
    }
    // one that is ready ends, and it was the last of them to be sent
    enqueue(&client, "witness", b"x", &[("X-Ttl-Ms", TTL_MS.to_string().as_bytes())]);
    poll("the end of a ready one", || (depths(&client, "witness") == [0, 0, 0, 0]).then_some(()));
    let [ready, delayed, vis, dlq] = depths(&client, "l");
    assert!(delayed >= 1 && [ready, vis, dlq] == [0, 1, 1], "{ready} {delayed} {vis} {dlq}");
    // the one that would be ready next ends then, without being handed out
    poll("the end of a delay", || (depths(&client, "l") == [0, 1, 1, 1]).then_some(()));
    let ended = |events: &[&str]| (events.iter().map(ToString::to_string).collect(), "expired".to_owned());
    assert_eq!(life(&client, "l", &soon), ended(&["enqueued", "delivered", "failed", "expired"]));
    nack(&client, "l", &held, &json!({"mode": "release"}));
    assert_eq!(depths(&client, "l"), [0, 1, 0, 1]);
    assert_eq!(life(&client, "l", &held), ended(&["enqueued", "delivered", "released", "expired"]));
    // a reprocessing gives the whole time again
    let (_, took) = timed(|| {
        reprocess(&client, "l");
        poll("its second end", || (depths(&client, "l") == [0, 1, 0, 0]).then_some(()));
    });
    assert!(took >= Duration::from_millis(TTL_MS), "{took:?}");
    let expected = ["enqueued", "delivered", "dead_lettered", "reprocessed", "expired"];
    assert_eq!(life(&client, "l", &dead), ended(&expected));
    assert_eq!(life(&client, "l", &late).1, "delayed");
}

#[test]
fn ready_retention_runs_from_the_end_of_a_delay_and_anew_after_a_reprocessing() {
    let (_node, client) = node();
    let json_type: [(&str, &[u8]); 1] = [("Content-Type", b"application/json")];
    let set = |body: &[u8]| client.call("PUT", "/v1/acme/r/settings", &json_type, body);
    set(b"{\"retention_ms\": 1000}").json(200);
    set(b"{\"retention_ms\": 999}").refused(400, "MALFORMED");
    let sent = enqueue(&client, "r", b"dead", &[]);
    let dead = recv_one(&client, "r", 60_000);
    assert_eq!(dead["msg_id"], sent["msg_id"]);
    nack(&client, "r", &dead, &json!({"mode": "reject"}));
    let (later, took) = timed(|| {
        let later = enqueue(&client, "r", b"later", &[("X-Delay-Ms", b"1200")]);
        assert_eq!(depths(&client, "r"), [0, 1, 0, 1]);
        poll("its end", || (depths(&client, "r") == [0, 0, 0, 1]).then_some(later.clone()))
    });
    assert!(took >= Duration::from_millis(2_200), "{took:?}: 1.2 s of delay and 1 s of being ready");
    assert_eq!(life(&client, "r", &later), (vec!["enqueued".to_owned(), "expired".into()], "expired".into()));
    // dead for longer than a ready one is kept
    let (_, took) = timed(|| {
        reprocess(&client, "r");
        poll("its end", || (depths(&client, "r") == [0, 0, 0, 0]).then_some(()));
    });
    assert!(took >= Duration::from_millis(1_000), "{took:?}");
    assert_eq!(life(&client, "r", &dead).1, "expired");
}
