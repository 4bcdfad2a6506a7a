//! What a restore means to topics in memory alone, to histories, to streams and to strict order.

use crate::harness::{Setup, TestNode, ronctl};
use crate::http::Client;
use crate::mailbox::{depths, enqueue, receipt, recv, recv_one, settle};
use crate::snapshot::{restore, sequence};
use crate::stream::Stream;
use serde_json::{Value, json};

fn node() -> (TestNode, Client) {
    let node = Setup::new().start();
    let client = node.operator();
    (node, client)
}

fn put(client: &Client, topic: &str, settings: &Value) {
    let json: &[(&str, &[u8])] = &[("Content-Type", b"application/json")];
    client
        .call("PUT", &format!("/v1/acme/{topic}/settings"), json, settings.to_string().as_bytes())
        .json(200);
}

fn id_of(message: &Value) -> &str {
    message["msg_id"].as_str().unwrap()
}

fn path(topic: &str, id: &str) -> String {
    format!("/v1/acme/{topic}/messages/{id}")
}

#[test]
fn messages_in_memory_alone_are_left_out_and_their_ids_and_keys_are_not_reused() {
    let (node, client) = node();
    let key: &[(&str, &[u8])] = &[("Idempotency-Key", b"k")];
    let kept = enqueue(&client, "v", b"kept", &[]);
    put(&client, "v", &json!({"durability": "ram"}));
    let lost = enqueue(&client, "v", b"lost", key);
    assert_eq!(lost["durability"], "ram");
    let taken = node.ronctl_json(&["snapshot", "create"]);
    assert_eq!((&taken["messages"], &taken["ram_messages_left_out"]), (&json!(1), &json!(1)), "{taken}");
    assert_eq!((&taken["topics"], &taken["dedup_keys"]), (&json!(1), &json!(0)));
    let since = enqueue(&client, "v", b"since", &[]);
    let setup = node.kill();
    let name = taken["name"].as_str().unwrap();
    let (code, out, err) = ronctl(&setup, &["snapshot", "restore", name]);
    assert_eq!(code, 2, "nothing is done unless it is said: {err}");
    assert!(out.contains("1 messages that were in memory alone"), "{out}");
    let said = restore(&setup, name);
    assert_eq!((&said["come_back"], &said["ram_messages_left_out"]), (&json!(1), &json!(1)), "{said}");

    let node = setup.start();
    let client = node.operator();
    assert_eq!(depths(&client, "v"), [1, 0, 0, 0]);
    let found = client.get(&path("v", id_of(&kept))).json(200);
    assert_eq!((&found["state"], &found["msg_id"]), (&json!("ready"), &kept["msg_id"]));
    assert_eq!((&found["history"], &found["truncated"]), (&json!([]), &json!(true)), "it began anew");
    for gone in [&lost, &since] {
        client.get(&path("v", id_of(gone))).refused(404, "NOT_FOUND");
    }
    let anew = enqueue(&client, "v", b"lost", key);
    assert_eq!((&anew["duplicate"], &anew["durability"]), (&json!(false), &json!("ram")));
    assert!(sequence(id_of(&anew)) >= said["next_sequence"].as_u64().unwrap());

    // a stream hands both out, under the ids they have
    let mut stream = Stream::open(&client, "v", &json!({"max_inflight": 5, "visibility_ms": 600_000}));
    for expected in [&kept, &anew] {
        let got = stream.next();
        assert_eq!(got["msg_id"], expected["msg_id"]);
        assert_eq!(got["restored_at"].is_string(), expected == &kept);
        let done = settle(&client, "v", "ack", &json!({"receipts": [receipt(&got)]}));
        assert_eq!(done, [json!({"ok": true})]);
    }
    drop(stream);
    // what has ended is known by the same id
    let found = client.get(&path("v", id_of(&kept))).json(200);
    assert_eq!((&found["state"], &found["history"][1]["event"]), (&json!("acked"), &json!("acked")));
    let (code, out, err) = ronctl(&node.stop(), &["store", "check"]);
    assert_eq!(code, 0, "{out}{err}");
}

#[test]
fn a_strict_topic_keeps_its_order_through_a_restore() {
    let (node, client) = node();
    put(&client, "o", &json!({"fifo": true}));
    for (group, text) in [("a", "a1"), ("a", "a2"), ("b", "b1")] {
        let headers: &[(&str, &[u8])] =
            &[("X-Attr-Group", group.as_bytes()), ("Content-Type", b"text/plain")];
        enqueue(&client, "o", text.as_bytes(), headers);
    }
    assert_eq!(recv_one(&client, "o", 600_000)["payload"], "a1");
    let taken = node.ronctl_json(&["snapshot", "create"]);
    let setup = node.kill();
    let said = restore(&setup, taken["name"].as_str().unwrap());
    assert_eq!((&said["come_back"], &said["in_flight"]), (&json!(3), &json!(1)));

    let node = setup.start();
    let client = node.operator();
    let wanted = json!({"max_messages": 9, "visibility_ms": 600_000});
    let texts = |got: &[Value]| got.iter().map(|message| message["payload"].clone()).collect::<Vec<_>>();
    let got = recv(&client, "o", &wanted);
    assert_eq!(
        texts(&got),
        ["a1", "b1"],
        "one of each group, the one that was in flight before its follower"
    );
    assert_eq!(depths(&client, "o"), [1, 0, 2, 0]);
    assert!(recv(&client, "o", &wanted).is_empty());
    let done = settle(&client, "o", "ack", &json!({"receipts": [receipt(&got[0])]}));
    assert_eq!(done, [json!({"ok": true})]);
    assert_eq!(texts(&recv(&client, "o", &wanted)), ["a2"]);
}
