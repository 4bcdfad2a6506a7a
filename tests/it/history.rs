//! One message by its id: where it is, what happened to it, and what is refused.

use crate::harness::{Setup, TestNode, poll};
use crate::http::Client;
use crate::mailbox::{enqueue, receipt, recv_one, settle};
use serde_json::{Value, json};

fn node() -> (TestNode, Client) {
    let node = Setup::new().start();
    let client = node.operator();
    (node, client)
}

fn look(client: &Client, topic: &str, id: &str) -> Value {
    client.get(&format!("/v1/acme/{topic}/messages/{id}")).json(200)
}

fn events(found: &Value) -> Vec<(&str, u64, Option<&str>)> {
    let history = found["history"].as_array().unwrap();
    history
        .iter()
        .map(|e| (e["event"].as_str().unwrap(), e["attempt"].as_u64().unwrap(), e["reason"].as_str()))
        .collect()
}

/// The id with another character there.
fn with_another(id: &str, at: usize) -> String {
    let other = if &id[at..=at] == "7" { "8" } else { "7" };
    format!("{}{other}{}", &id[..at], &id[at + 1..])
}

fn id_of(sent: &Value) -> String {
    sent["msg_id"].as_str().unwrap().to_owned()
}

#[test]
fn a_message_tells_its_life_until_its_ack() {
    let (_node, client) = node();
    let id = id_of(&enqueue(&client, "h", b"x", &[]));
    let found = look(&client, "h", &id);
    assert_eq!(
        (&found["msg_id"], &found["state"], &found["attempts"]),
        (&json!(id), &json!("ready"), &json!(0))
    );
    assert_eq!((events(&found), &found["truncated"]), (vec![("enqueued", 0, None)], &json!(false)));
    let settled = |call: &str, message: &Value, more: Value| {
        let mut body = json!({"receipts": [receipt(message)]});
        for (key, value) in more.as_object().unwrap() {
            body[key] = value.clone();
        }
        assert_eq!(settle(&client, "h", call, &body), [json!({"ok": true})]);
    };
    let first = recv_one(&client, "h", 60_000);
    assert_eq!(look(&client, "h", &id)["state"], "vis");
    settled("nack", &first, json!({"reason": "disk on fire", "delay_ms": 60_000}));
    let found = look(&client, "h", &id);
    assert_eq!((&found["state"], &found["last_error"]), (&json!("delayed"), &json!("disk on fire")));
    let other = id_of(&enqueue(&client, "h", b"y", &[]));
    let second = recv_one(&client, "h", 60_000);
    settled("extend", &second, json!({"visibility_ms": 30_000}));
    settled("nack", &second, json!({"mode": "release"}));
    let third = recv_one(&client, "h", 300);
    assert_eq!(third["attempt"], 1);
    let fourth = recv_one(&client, "h", 60_000);
    settled("ack", &fourth, json!({}));
    let found = look(&client, "h", &other);
    let expected = [
        ("enqueued", 0, None),
        ("delivered", 1, None),
        ("extended", 1, None),
        ("released", 1, None),
        ("delivered", 1, None),
        ("timed_out", 1, None),
        ("delivered", 2, None),
        ("acked", 2, None),
    ];
    assert_eq!((events(&found), &found["state"]), (expected.to_vec(), &json!("acked")));
    assert_eq!((&found["attempts"], &found["truncated"]), (&json!(2), &json!(false)));
    let found = look(&client, "h", &id);
    let expected = [("enqueued", 0, None), ("delivered", 1, None), ("failed", 1, Some("disk on fire"))];
    assert_eq!(events(&found), expected);
}

#[test]
fn a_dead_letter_says_why_also_after_a_restart() {
    let (node, client) = node();
    let id = id_of(&enqueue(&client, "d", b"x", &[]));
    let gone = id_of(&enqueue(&client, "d", b"y", &[]));
    let held = recv_one(&client, "d", 60_000);
    let fail = json!({"receipts": [receipt(&held)], "reason": "first words", "delay_ms": 0});
    settle(&client, "d", "nack", &fail);
    let held = recv_one(&client, "d", 60_000);
    settle(
        &client,
        "d",
        "nack",
        &json!({"receipts": [receipt(&held)], "mode": "reject", "reason": "poison"}),
    );
    client.post("/v1/acme/d/purge", &json!({"confirm": "d"})).json(200);
    let found = look(&client, "d", &id);
    assert_eq!(events(&found).last(), Some(&("dead_lettered", 2, Some("poison"))));
    assert_eq!(look(&client, "d", &gone)["state"], "purged");

    let node = node.kill_and_restart();
    let client = node.operator();
    let found = look(&client, "d", &id);
    assert_eq!((&found["state"], &found["attempts"]), (&json!("dlq"), &json!(2)), "exact without a history");
    assert_eq!((&found["last_error"], &found["truncated"]), (&json!("first words"), &json!(true)));
    client.get(&format!("/v1/acme/d/messages/{gone}")).refused(404, "NOT_FOUND");
}

#[test]
fn foreign_unknown_and_unreadable_ids_are_refused() {
    let (node, client) = node();
    let id = id_of(&enqueue(&client, "a", b"x", &[]));
    enqueue(&client, "b", b"y", &[]);
    for path in [
        format!("/v1/acme/b/messages/{id}"),
        format!("/v1/acme/none/messages/{id}"),
        // another millisecond, and another place
        format!("/v1/acme/a/messages/{}", with_another(&id, 9)),
        format!("/v1/acme/a/messages/{}", with_another(&id, 25)),
    ] {
        client.get(&path).refused(404, "NOT_FOUND");
    }
    for bad in ["short", &id.to_lowercase()] {
        let text = client.get(&format!("/v1/acme/a/messages/{bad}")).refused(400, "MALFORMED");
        assert!(text.contains("msg_id"), "{text}");
    }
    let path = format!("/v1/acme/a/messages/{id}");
    client.post(&path, &json!({})).refused(405, "METHOD_NOT_ALLOWED");
    let narrow = node.bare().with(&node.mint(&json!({"ops": ["stat"]})));
    narrow.get(&path).refused(403, "SCOPE_MISMATCH");
    assert_eq!(look(&client, "a", &id)["state"], "ready");
    assert_eq!(node.ronctl_json(&["topic", "show", "acme/a", &id]), look(&client, "a", &id));
}

#[test]
fn what_is_old_is_forgotten_but_not_where_a_message_is() {
    let node = Setup::new().toml("history_ms = 1000\n").start();
    let client = node.operator();
    let id = id_of(&enqueue(&client, "o", b"x", &[]));
    assert_eq!(look(&client, "o", &id)["truncated"], false);
    poll("forgetting", || (look(&client, "o", &id)["truncated"] == true).then_some(()));
    let found = look(&client, "o", &id);
    assert_eq!((&found["history"], &found["state"]), (&json!([]), &json!("ready")));
}

#[test]
fn a_dead_letter_tells_that_it_came_back_and_that_it_was_purged() {
    let (_node, client) = node();
    let json_type: &[(&str, &[u8])] = &[("Content-Type", b"application/json")];
    let dlq = |call: &str, body: Value| {
        client.call("POST", &format!("/v1/acme/d/dlq/{call}"), json_type, body.to_string().as_bytes())
    };
    let id = id_of(&enqueue(&client, "d", b"x", &[]));
    let reject = || {
        let held = recv_one(&client, "d", 60_000);
        let body = json!({"receipts": [receipt(&held)], "mode": "reject", "reason": "boom"});
        assert_eq!(settle(&client, "d", "nack", &body), [json!({"ok": true})]);
    };
    reject();
    assert_eq!(look(&client, "d", &id)["state"], "dlq");
    dlq("reprocess", json!({"filter": {"ids": ["no id"]}})).refused(400, "MALFORMED");
    dlq("reprocess", json!({}));
    poll("the letter to come back", || (look(&client, "d", &id)["state"] == "ready").then_some(()));
    let found = look(&client, "d", &id);
    assert_eq!((&found["attempts"], &found["last_error"]), (&json!(0), &Value::Null));
    reject();
    assert_eq!(dlq("purge", json!({"filter": {"reason": "boom"}})).json(200)["purged"], 1);
    let found = look(&client, "d", &id);
    let expected = [
        ("enqueued", 0, None),
        ("delivered", 1, None),
        ("dead_lettered", 1, Some("boom")),
        ("reprocessed", 0, None),
        ("delivered", 1, None),
        ("dead_lettered", 1, Some("boom")),
        ("purged", 1, None),
    ];
    assert_eq!((events(&found), &found["state"]), (expected.to_vec(), &json!("purged")));
}
