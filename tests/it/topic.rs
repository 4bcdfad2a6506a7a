//! Calls that change a topic as a whole: settings, pause, purge, retention. Each with the state that it leaves, and
//! with what it refuses.

use crate::harness::{Setup, TestNode, poll};
use crate::http::{Answer, Client};
use crate::mailbox::{depths, enqueue, peek, receipt, recv, recv_one, settle, stat};
use serde_json::{Value, json};

fn node() -> (TestNode, Client) {
    let node = Setup::new().start();
    let client = node.operator();
    (node, client)
}

fn put(client: &Client, topic: &str, settings: &Value) -> Answer {
    let body = serde_json::to_vec(settings).unwrap();
    client.call("PUT", &format!("/v1/acme/{topic}/settings"), &[("Content-Type", b"application/json")], &body)
}

fn call(client: &Client, topic: &str, call: &str, body: &Value) -> Answer {
    client.post(&format!("/v1/acme/{topic}/{call}"), body)
}

#[test]
fn settings_are_in_force_at_once_and_after_a_sigkill() {
    let (node, client) = node();
    let wanted = json!({"max_attempts": 1, "visibility_ms": 300, "dedup_window_ms": 0});
    let in_force = put(&client, "s", &wanted).json(200);
    assert_eq!((&in_force["max_attempts"], &in_force["max_deliveries"]), (&json!(1), &json!(50)));
    assert_eq!(stat(&client, "s")["settings"], in_force, "the topic exists, and shows them");
    // keys mean nothing now
    for _ in 0..2 {
        assert_eq!(enqueue(&client, "s", b"x", &[("Idempotency-Key", b"k")])["duplicate"], json!(false));
    }
    put(&client, "s", &json!({"max_depth": 2})).json(200);
    put(&client, "k", &json!({"max_dedup_keys": 1})).json(200);
    let keyed = |client: &Client, key: &[u8]| {
        client.call("POST", "/v1/acme/k/enqueue", &[("Idempotency-Key", key)], b"x")
    };
    keyed(&client, b"one").json(200);
    keyed(&client, b"two").refused(429, "BACKPRESSURE");

    let node = node.kill_and_restart();
    let client = node.operator();
    let after = stat(&client, "s");
    assert_eq!((&after["settings"]["max_attempts"], &after["settings"]["max_depth"]), (&json!(1), &json!(2)));
    client.call("POST", "/v1/acme/s/enqueue", &[], b"third").refused(429, "BACKPRESSURE");
    keyed(&client, b"two").refused(429, "BACKPRESSURE");
    assert_eq!(keyed(&client, b"one").json(200)["duplicate"], true);
    assert_eq!((depths(&client, "k"), &stat(&client, "k")["dedup_keys"]), ([1, 0, 0, 0], &json!(1)));
    // one attempt, 300 ms of visibility: then it is a dead letter
    assert_eq!(recv(&client, "s", &json!({})).len(), 1);
    poll("the dead letter", || (depths(&client, "s") == [1, 0, 0, 1]).then_some(()));
}

#[test]
fn settings_out_of_range_are_named_and_change_nothing() {
    let (node, client) = node();
    put(&client, "s", &json!({"max_attempts": 4})).json(200);
    let before = stat(&client, "s");
    for (bad, named) in [
        (json!({"visibility_ms": 249}), "visibility_ms"),
        (json!({"max_attempts": 0}), "max_attempts"),
        (json!({"max_deliveries": 3}), "max_deliveries"),
        (json!({"backoff_max_ms": 100}), "backoff_max_ms"),
        (json!({"retention_ms": 10}), "retention_ms"),
        (json!({"dedup_window_ms": 2_592_000_001_u64}), "dedup_window_ms"),
        (json!({"durability": "disk"}), "durability"),
        (json!({"fifo": "yes"}), "fifo"),
        (json!({"max_attempt": 3}), "max_attempt"),
        (json!({"max_attempts": "3"}), "max_attempts"),
    ] {
        let text = put(&client, "s", &bad).refused(400, "MALFORMED");
        assert!(text.contains(named), "{bad}: {text}");
    }
    assert_eq!(stat(&client, "s"), before);
    let token = node.mint(&json!({"ops": ["enqueue", "recv", "ack", "nack", "stat", "peek"]}));
    let refused = put(&client.with(&token), "s", &json!({"max_attempts": 2}));
    refused.refused(403, "SCOPE_MISMATCH");
    assert_eq!(stat(&client, "s"), before);
}

#[test]
fn messages_of_a_ram_topic_say_so_for_life_and_end_with_the_process() {
    let (node, client) = node();
    let key: &[(&str, &[u8])] = &[("Idempotency-Key", b"k")];
    let first = enqueue(&client, "v", b"first", &[]);
    assert_eq!(put(&client, "v", &json!({"durability": "ram"})).json(200)["durability"], "ram");
    let second = enqueue(&client, "v", b"second", key);
    assert_eq!((&first["durability"], &second["durability"]), (&json!("fsync"), &json!("ram")));
    assert_eq!(put(&client, "v", &json!({"durability": "fsync"})).json(200)["durability"], "fsync");
    let again = enqueue(&client, "v", b"second", key);
    assert_eq!((&again["duplicate"], &again["durability"]), (&json!(true), &json!("ram")), "{again}");
    assert_eq!(enqueue(&client, "v", b"third", &[])["durability"], "fsync");
    put(&client, "v", &json!({"durability": "ram"})).json(200);
    enqueue(&client, "v", b"dead", &[]);

    // one order for both kinds, and all that can be done with the others
    let wanted = json!({"max_messages": 9, "visibility_ms": 60_000});
    let got = recv(&client, "v", &wanted);
    let payloads: Vec<&str> = got.iter().map(|message| message["payload_b64"].as_str().unwrap()).collect();
    assert_eq!(payloads, ["Zmlyc3Q=", "c2Vjb25k", "dGhpcmQ=", "ZGVhZA=="]);
    let reject = json!({"receipts": [receipt(&got[3])], "mode": "reject", "reason": "bad"});
    assert_eq!(settle(&client, "v", "nack", &reject), [json!({"ok": true})]);
    let seen = peek(&client, "v", "state=dlq");
    assert_eq!(seen["messages"][0]["dead_letter"]["reason"], "bad");
    for message in &got[..3] {
        let release = json!({"receipts": [receipt(message)], "mode": "release"});
        assert_eq!(settle(&client, "v", "nack", &release), [json!({"ok": true})]);
    }
    assert_eq!(depths(&client, "v"), [3, 0, 0, 1]);

    let node = node.kill_and_restart();
    let client = node.operator();
    assert_eq!(stat(&client, "v")["settings"]["durability"], "ram", "the setting is not of memory alone");
    assert_eq!(depths(&client, "v"), [2, 0, 0, 0]);
    let old = |message: &Value| json!({"receipts": [receipt(message)]});
    assert_eq!(settle(&client, "v", "ack", &old(&got[1])), [json!({"ok": true})], "it no longer exists");
    let after = enqueue(&client, "v", b"fourth", key);
    assert_eq!(after["duplicate"], json!(false), "the key went with its message");
    assert!(after["msg_id"].as_str().unwrap()[10..] > second["msg_id"].as_str().unwrap()[10..]);
    assert_eq!(depths(&client, "v"), [3, 0, 0, 0]);
}

#[test]
fn a_fifo_topic_hands_out_one_message_a_group_and_keeps_its_order() {
    let (node, client) = node();
    assert_eq!(put(&client, "o", &json!({"fifo": true})).json(200)["fifo"], true);
    for (group, text) in [("a", "a1"), ("a", "a2"), ("b", "b1"), ("", "n1"), ("", "n2"), ("b", "b2")] {
        let group: &[(&str, &[u8])] = &[("X-Attr-Group", group.as_bytes()), ("Content-Type", b"text/plain")];
        let headers = if group[0].1.is_empty() { &group[1..] } else { group };
        enqueue(&client, "o", text.as_bytes(), headers);
    }
    let wanted = json!({"max_messages": 9, "visibility_ms": 60_000});
    let next = |client: &Client| -> Vec<(String, Value)> {
        let payload = |message: Value| (message["payload"].as_str().unwrap().to_owned(), message);
        recv(client, "o", &wanted).into_iter().map(payload).collect()
    };
    let texts = |got: &[(String, Value)]| got.iter().map(|(text, _)| text.clone()).collect::<Vec<_>>();
    let first = next(&client);
    assert_eq!(texts(&first), ["a1", "b1", "n1"], "one of each group, and those without one are one");
    assert_eq!(texts(&next(&client)), [""; 0], "each waits for its head");
    let of = |(_, message): &(String, Value)| json!({"receipts": [receipt(message)]});
    assert_eq!(settle(&client, "o", "ack", &of(&first[1])), [json!({"ok": true})]);
    // a head that is delayed holds its group up, too
    let mut later = of(&first[0]);
    later["delay_ms"] = json!(2_000);
    settle(&client, "o", "nack", &later);
    assert_eq!(texts(&next(&client)), ["b2"]);
    assert_eq!(depths(&client, "o"), [2, 1, 2, 0]);

    let node = node.kill_and_restart();
    let client = node.operator();
    assert_eq!(texts(&next(&client)), [""; 0], "the order is kept without reading bodies");
    let a1 = poll("the end of the delay", || next(&client).pop());
    assert_eq!((a1.0.as_str(), &a1.1["attempt"]), ("a1", &json!(2)));
    let mut reject = of(&a1);
    reject["mode"] = json!("reject");
    settle(&client, "o", "nack", &reject);
    assert_eq!(texts(&next(&client)), ["a2"], "a dead letter holds nobody up");
    assert_eq!(put(&client, "o", &json!({"fifo": false})).json(200)["fifo"], false);
    assert_eq!(texts(&next(&client)), ["n2"], "no order any more");
    assert_eq!(depths(&client, "o"), [0, 0, 4, 1]);
}

#[test]
fn memory_for_ram_messages_is_bounded() {
    let node = Setup::new().toml("[store]\nram_bytes = \"100KiB\"\n").start();
    let client = node.operator();
    put(&client, "b", &json!({"durability": "ram"})).json(200);
    let body = vec![b'x'; 60_000];
    enqueue(&client, "b", &body, &[]);
    client.call("POST", "/v1/acme/b/enqueue", &[], &body).refused(429, "BACKPRESSURE");
    let held = recv_one(&client, "b", 60_000);
    settle(&client, "b", "ack", &json!({"receipts": [receipt(&held)]}));
    enqueue(&client, "b", &body, &[]);
    assert_eq!(enqueue(&client, "durable", &body, &[])["durability"], "fsync");
    assert_eq!(depths(&client, "b"), [1, 0, 0, 0]);
}

#[test]
fn fsync_cannot_be_had_in_amnesia() {
    let node = Setup::new().env("AMNESIA", "on").start();
    let client = node.operator();
    let text = put(&client, "a", &json!({"durability": "fsync"})).refused(400, "MALFORMED");
    assert!(text.contains("durability") && text.contains("amnesia"), "{text}");
    client.get("/v1/acme/a").refused(404, "NOT_FOUND");
    assert_eq!(put(&client, "a", &json!({"durability": "ram"})).json(200)["durability"], "ram");
    assert_eq!(enqueue(&client, "a", b"x", &[])["durability"], "ram");
}

#[test]
fn a_paused_topic_hands_out_nothing_takes_nothing_and_settles() {
    let (node, client) = node();
    call(&client, "p", "pause", &json!({"what": "both"})).refused(404, "NOT_FOUND");
    enqueue(&client, "p", b"one", &[]);
    enqueue(&client, "p", b"two", &[]);
    let held = recv_one(&client, "p", 60_000);
    assert_eq!(call(&client, "p", "pause", &json!({"what": "recv"})).json(200), json!({"paused": "recv"}));
    assert_eq!(recv(&client, "p", &json!({})), Vec::<Value>::new());
    enqueue(&client, "p", b"three", &[]);
    assert_eq!(call(&client, "p", "pause", &json!({"what": "enqueue"})).json(200), json!({"paused": "both"}));
    let refused = client.call("POST", "/v1/acme/p/enqueue", &[], b"four");
    refused.refused(503, "DEGRADED");
    assert_eq!(refused.header("x-effect"), Some("none"));
    assert_eq!(settle(&client, "p", "ack", &json!({"receipts": [receipt(&held)]})), [json!({"ok": true})]);
    call(&client, "p", "pause", &json!({"what": "all"})).refused(400, "MALFORMED");

    let node = node.kill_and_restart();
    let client = node.operator();
    assert_eq!(stat(&client, "p")["paused"], json!("both"), "still paused");
    assert_eq!(recv(&client, "p", &json!({})), Vec::<Value>::new());
    assert_eq!(
        call(&client, "p", "resume", &json!({"what": "recv"})).json(200),
        json!({"paused": "enqueue"})
    );
    assert_eq!(recv(&client, "p", &json!({"max_messages": 9})).len(), 2);
    assert_eq!(call(&client, "p", "resume", &json!({"what": "both"})).json(200), json!({"paused": null}));
    enqueue(&client, "p", b"four", &[]);
    assert_eq!(depths(&client, "p"), [1, 0, 2, 0]);
}

#[test]
fn the_clocks_of_a_paused_topic_run_on() {
    let (_node, client) = node();
    put(&client, "c", &json!({"max_attempts": 1})).json(200);
    for _ in 0..2 {
        enqueue(&client, "c", b"x", &[]);
    }
    let brief = recv_one(&client, "c", 700);
    let held = recv_one(&client, "c", 60_000);
    enqueue(&client, "c", b"later", &[("X-Delay-Ms", b"700")]);
    enqueue(&client, "c", b"mortal", &[("X-Ttl-Ms", b"700")]);
    call(&client, "c", "pause", &json!({"what": "both"})).json(200);
    call(&client, "c", "pause", &json!({"what": "clocks"})).refused(400, "MALFORMED");
    // the delay and the TTL end; so does the lease, and with it the only attempt
    poll("the ends", || (depths(&client, "c") == [1, 0, 1, 1]).then_some(()));
    assert_eq!(recv(&client, "c", &json!({})), Vec::<Value>::new());
    let of = |message: &Value| json!({"receipts": [receipt(message)]});
    assert_eq!(settle(&client, "c", "ack", &of(&brief))[0]["reason"], "STALE_RECEIPT");
    assert_eq!(settle(&client, "c", "ack", &of(&held)), [json!({"ok": true})]);
    call(&client, "c", "resume", &json!({"what": "both"})).json(200);
    assert_eq!(recv_one(&client, "c", 60_000)["payload_b64"], "bGF0ZXI=");
    assert_eq!(depths(&client, "c"), [0, 0, 1, 1]);
}

#[test]
fn resuming_serves_the_receive_that_waits() {
    let (_node, client) = node();
    enqueue(&client, "w", b"one", &[]);
    call(&client, "w", "pause", &json!({"what": "recv"})).json(200);
    let waiting = {
        let client = client.clone();
        std::thread::spawn(move || recv(&client, "w", &json!({"wait_ms": 20_000})))
    };
    poll("a waiting receive", || (stat(&client, "w")["waiters"] == 1).then_some(()));
    call(&client, "w", "resume", &json!({"what": "recv"})).json(200);
    assert_eq!(waiting.join().unwrap().len(), 1);
}

#[test]
fn a_purge_ends_all_but_dead_letters_and_keys() {
    let (node, client) = node();
    call(&client, "g", "purge", &json!({"confirm": "g"})).refused(404, "NOT_FOUND");
    for body in [b"first".as_slice(), b"second", b"third"] {
        enqueue(&client, "g", body, &[("Idempotency-Key", body)]);
    }
    enqueue(&client, "g", b"delayed", &[("X-Delay-Ms", b"60000")]);
    let got = recv(&client, "g", &json!({"max_messages": 2, "visibility_ms": 60_000}));
    let reject = json!({"receipts": [receipt(&got[1])], "mode": "reject"});
    settle(&client, "g", "nack", &reject);
    assert_eq!(depths(&client, "g"), [1, 1, 1, 1]);
    let text = call(&client, "g", "purge", &json!({"confirm": "h"})).refused(400, "MALFORMED");
    assert!(text.contains("confirm"), "{text}");
    assert_eq!(depths(&client, "g"), [1, 1, 1, 1]);

    assert_eq!(call(&client, "g", "purge", &json!({"confirm": "g"})).json(200), json!({"purged": 3}));
    assert_eq!(depths(&client, "g"), [0, 0, 0, 1]);
    // what was in flight is gone: its ack finds nothing to do, its extend nothing to extend
    let of = |receipt: &str| json!({"receipts": [receipt]});
    assert_eq!(settle(&client, "g", "ack", &of(receipt(&got[0]))), [json!({"ok": true})]);
    let again = enqueue(&client, "g", b"third", &[("Idempotency-Key", b"third")]);
    assert_eq!(again["duplicate"], json!(true), "keys are kept");

    let node = node.kill_and_restart();
    assert_eq!(depths(&node.operator(), "g"), [0, 0, 0, 1]);
    assert_eq!(recv(&node.operator(), "g", &json!({})), Vec::<Value>::new());
}

#[test]
fn retention_ends_what_is_ready_or_dead_and_nothing_else() {
    let (node, client) = node();
    put(&client, "r", &json!({"retention_ms": 1_000, "dlq_retention_ms": 1_500})).json(200);
    enqueue(&client, "r", b"dead", &[]);
    let dead = recv_one(&client, "r", 60_000);
    settle(&client, "r", "nack", &json!({"receipts": [receipt(&dead)], "mode": "reject"}));
    enqueue(&client, "r", b"held", &[]);
    let held = recv_one(&client, "r", 60_000);
    enqueue(&client, "r", b"later", &[("X-Delay-Ms", b"30000")]);
    enqueue(&client, "r", b"ready", &[]);
    assert_eq!(depths(&client, "r"), [1, 1, 1, 1]);
    poll("the ends", || (depths(&client, "r") == [0, 1, 1, 0]).then_some(()));
    // it was in flight and not ended; when it comes back its time is over
    let release = json!({"receipts": [receipt(&held)], "mode": "release"});
    assert_eq!(settle(&client, "r", "nack", &release), [json!({"ok": true})]);
    assert_eq!(depths(&client, "r"), [0, 1, 0, 0]);
    let node = node.kill_and_restart();
    assert_eq!(depths(&node.operator(), "r"), [0, 1, 0, 0]);
}

#[test]
fn retention_ends_messages_of_a_topic_that_nobody_touches() {
    let (node, client) = node();
    put(&client, "q", &json!({"retention_ms": 2_000})).json(200);
    enqueue(&client, "q", b"forgotten", &[]);
    let node = node.kill_and_restart();
    // the tenant's list wakes no queue
    poll("the end", || {
        let listed = node.operator().get("/v1/acme").json(200);
        (listed["topics"][0]["ready"] == 0).then_some(())
    });
}

#[test]
fn ronctl_sets_pauses_and_purges() {
    let (node, client) = node();
    enqueue(&client, "c", b"one", &[]);
    let said = node.ronctl_json(&["topic", "set", "acme/c", "max_attempts=2", "retention_ms=1h"]);
    assert_eq!((&said["max_attempts"], &said["retention_ms"]), (&json!(2), &json!(3_600_000)));
    assert_eq!(node.ronctl_json(&["topic", "pause", "acme/c", "both"]), json!({"paused": "both"}));
    assert_eq!(stat(&client, "c")["paused"], json!("both"));
    assert_eq!(node.ronctl_json(&["topic", "resume", "acme/c", "both"]), json!({"paused": null}));
    assert_eq!(node.ronctl_json(&["topic", "purge", "acme/c", "--yes"]), json!({"purged": 1}));
    assert_eq!(depths(&client, "c"), [0, 0, 0, 0]);
}
