//! The dead letters' workbench: reprocessing, its tasks, purge, clusters, resend. Each with the state that it leaves,
//! and with what it refuses.

use crate::harness::{Setup, TestNode, poll};
use crate::http::{Answer, Client};
use crate::mailbox::{depths, enqueue, peek, receipt, recv, recv_one, settle};
use serde_json::{Value, json};

fn node() -> (TestNode, Client) {
    let node = Setup::new().start();
    let client = node.operator();
    (node, client)
}

fn dlq(client: &Client, topic: &str, call: &str, body: &Value) -> Answer {
    client.post(&format!("/v1/acme/{topic}/dlq/{call}"), body)
}

fn task(client: &Client, topic: &str, id: &str) -> Value {
    client.get(&format!("/v1/acme/{topic}/dlq/tasks/{id}")).json(200)
}

fn cancel(client: &Client, topic: &str, id: &str) -> Answer {
    client.call("DELETE", &format!("/v1/acme/{topic}/dlq/tasks/{id}"), &[], b"")
}

/// Waits until the task is in this state.
fn ends(client: &Client, topic: &str, id: &str, state: &str) -> Value {
    poll(state, || Some(task(client, topic, id)).filter(|task| task["state"] == state))
}

fn begun(answer: &Answer) -> String {
    answer.json(200)["task_id"].as_str().unwrap().to_owned()
}

/// Sends and rejects a message; returns it as it was received.
fn bury(client: &Client, topic: &str, body: &str, kind: &str, reason: &str) -> Value {
    enqueue(
        client,
        topic,
        body.as_bytes(),
        &[("X-Attr-Kind", kind.as_bytes()), ("Content-Type", b"text/plain")],
    );
    let got = recv_one(client, topic, 60_000);
    assert_eq!(got["payload"], body);
    let reject = json!({"receipts": [receipt(&got)], "mode": "reject", "reason": reason});
    assert_eq!(settle(client, topic, "nack", &reject), [json!({"ok": true})]);
    got
}

/// Sends `n` messages and rejects them, many at once.
fn bury_many(client: &Client, topic: &str, n: usize, reason: &str) {
    for from in (0..n).step_by(250) {
        let some = 250.min(n - from);
        let messages: Vec<Value> = (0..some)
            .map(|i| json!({"payload": format!("{reason} {}", from + i), "content_type": "text/plain"}))
            .collect();
        client.post(&format!("/v1/acme/{topic}/enqueue/batch"), &json!({"messages": messages})).json(200);
        reject_all(client, topic, some, reason);
    }
}

fn reject_all(client: &Client, topic: &str, n: usize, reason: &str) {
    let mut left = n;
    while left > 0 {
        let got =
            recv(client, topic, &json!({"max_messages": 250, "visibility_ms": 60_000, "wait_ms": 5_000}));
        assert!(!got.is_empty());
        left -= got.len();
        let receipts: Vec<&str> = got.iter().map(receipt).collect();
        settle(client, topic, "nack", &json!({"receipts": receipts, "mode": "reject", "reason": reason}));
    }
}

fn payloads(messages: &[Value]) -> Vec<&str> {
    messages.iter().map(|message| message["payload"].as_str().unwrap()).collect()
}

#[test]
fn reprocessing_keeps_the_id_goes_to_the_tail_and_makes_old_receipts_stale() {
    let (node, client) = node();
    let one = bury(&client, "t", "one", "a", "boom");
    enqueue(&client, "t", b"two", &[("Content-Type", b"text/plain")]);
    let dry = dlq(&client, "t", "reprocess", &json!({"dry_run": true})).json(200);
    assert_eq!(dry, json!({"task_id": null, "matched": 1}));
    assert_eq!(depths(&client, "t"), [1, 0, 0, 1], "a dry run moves nothing");

    let answer = dlq(&client, "t", "reprocess", &json!({"filter": {"reason": "boom"}}));
    let id = begun(&answer);
    let done = ends(&client, "t", &id, "done");
    assert_eq!((&done["matched"], &done["moved"], &done["returned"]), (&json!(1), &json!(1), &json!(0)));
    assert!(done["started_at"].is_string() && done["ended_at"].is_string());
    assert_eq!(depths(&client, "t"), [2, 0, 0, 0]);
    assert_eq!(peek(&client, "t", "state=ready")["messages"][0].get("dead_letter"), None);
    for call in ["ack", "nack", "extend"] {
        let mut body = json!({"receipts": [receipt(&one)]});
        if call == "extend" {
            body["visibility_ms"] = json!(1_000);
        }
        let stale = [json!({"ok": false, "reason": "STALE_RECEIPT"})];
        assert_eq!(settle(&client, "t", call, &body), stale, "{call}");
    }

    let node = node.kill_and_restart();
    let client = node.operator();
    enqueue(&client, "t", b"three", &[("Content-Type", b"text/plain")]);
    let got = recv(&client, "t", &json!({"max_messages": 9, "visibility_ms": 60_000}));
    assert_eq!(payloads(&got), ["two", "one", "three"], "its place outlives the process");
    assert_eq!((&got[1]["msg_id"], &got[1]["enqueued_at"]), (&one["msg_id"], &one["enqueued_at"]));
    assert_eq!((&got[1]["attempt"], &got[1]["delivery"]), (&json!(1), &json!(2)));
    assert_eq!(task(&client, "t", &id), done, "and so does the task");
    assert_eq!(client.get("/v1/acme/t/dlq/tasks").json(200)["tasks"], json!([done]));
}

#[test]
fn only_what_all_of_the_filter_means_is_moved() {
    let (_node, client) = node();
    let mut ids = Vec::new();
    for (body, kind, reason) in [("1", "a", "x"), ("2", "a", "y"), ("3", "b", "x"), ("4", "b", "y")] {
        ids.push(bury(&client, "f", body, kind, reason)["msg_id"].clone());
    }
    let matched = |filter: Value| {
        dlq(&client, "f", "reprocess", &json!({"filter": filter, "dry_run": true})).json(200)["matched"]
            .clone()
    };
    assert_eq!(matched(json!({})), 4);
    assert_eq!(matched(json!({"reason": "x"})), 2);
    assert_eq!(matched(json!({"attr": {"kind": "b"}})), 2);
    assert_eq!(matched(json!({"attr": {"kind": "b", "other": "z"}})), 0);
    assert_eq!(matched(json!({"reason": "x", "attr": {"kind": "b"}})), 1);
    assert_eq!(matched(json!({"ids": [ids[0], ids[3]]})), 2);
    assert_eq!(matched(json!({"ids": [ids[0], ids[3]], "reason": "y"})), 1);
    assert_eq!(matched(json!({"ids": ["01ARZ3NDEKTSV4RRFFQ69G5FAV"]})), 0);
    assert_eq!(matched(json!({"older_than_ms": 3_600_000})), 0);
    assert_eq!(depths(&client, "f"), [0, 0, 0, 4]);

    let wanted = json!({"filter": {"reason": "x", "attr": {"kind": "b"}}});
    ends(&client, "f", &begun(&dlq(&client, "f", "reprocess", &wanted)), "done");
    assert_eq!(payloads(&recv(&client, "f", &json!({"max_messages": 9}))), ["3"]);
    let limited = ends(&client, "f", &begun(&dlq(&client, "f", "reprocess", &json!({"limit": 1}))), "done");
    assert_eq!(
        (&limited["matched"], &limited["moved"], &limited["limit"]),
        (&json!(3), &json!(1), &json!(1))
    );
    assert_eq!(payloads(&recv(&client, "f", &json!({"max_messages": 9}))), ["1"], "the oldest first");
}

#[test]
fn a_reprocessing_that_makes_no_sense_is_refused_and_moves_nothing() {
    let (node, client) = node();
    dlq(&client, "b", "reprocess", &json!({})).refused(404, "NOT_FOUND");
    client.get("/v1/acme/b/dlq/tasks").refused(404, "NOT_FOUND");
    let id = bury(&client, "b", "x", "a", "boom")["msg_id"].clone();
    for (bad, named) in [
        (json!({"limit": 0}), "limit"),
        (json!({"rate_per_s": 0}), "rate_per_s"),
        (json!({"stop_if_returned": 1.1}), "stop_if_returned"),
        (json!({"filter": {"ids": ["nonsense"]}}), "ids"),
        (json!({"filter": {"ids": []}}), "at least one"),
        (json!({"filter": {"cause": "x"}}), "cause"),
        (json!({"filter": {"older_than_ms": -1}}), "older_than_ms"),
    ] {
        let text = dlq(&client, "b", "reprocess", &bad).refused(400, "MALFORMED");
        assert!(text.contains(named), "{bad}: {text}");
    }
    dlq(&client, "b", "purge", &json!({})).refused(400, "MALFORMED");
    let token = node.mint(&json!({"ops": ["enqueue", "recv", "ack", "nack", "stat", "peek"]}));
    let stranger = client.with(&token);
    for (call, body) in
        [("reprocess", json!({})), ("purge", json!({"filter": {}})), ("resend", json!({"msg_id": id}))]
    {
        dlq(&stranger, "b", call, &body).refused(403, "SCOPE_MISMATCH");
    }
    cancel(&stranger, "b", "t1-1").refused(403, "SCOPE_MISMATCH");
    assert_eq!(stranger.get("/v1/acme/b/dlq").json(200)["dlq"], 1, "looking needs peek alone");
    client.get("/v1/acme/b/dlq/tasks/t1-1").refused(404, "NOT_FOUND");
    cancel(&client, "b", "t1-1").refused(404, "NOT_FOUND");
    assert_eq!(depths(&client, "b"), [0, 0, 0, 1]);
}

#[test]
fn one_task_a_topic_runs_and_can_be_cancelled() {
    let (_node, client) = node();
    bury_many(&client, "c", 60, "boom");
    let id = begun(&dlq(&client, "c", "reprocess", &json!({"rate_per_s": 8})));
    dlq(&client, "c", "reprocess", &json!({})).refused(409, "CONFLICT");
    poll("some moved", || (task(&client, "c", &id)["moved"].as_u64().unwrap() >= 4).then_some(()));
    let ended = cancel(&client, "c", &id).json(200);
    assert_eq!(ended["state"], "cancelled");
    let [ready, _, _, dead] = depths(&client, "c");
    assert_eq!((ready + dead, ended["moved"].as_u64().unwrap()), (60, ready));
    assert!(ready < 60, "{ready} moved at 8 a second");
    assert_eq!(cancel(&client, "c", &id).json(200), ended, "again is the same");
    let next = begun(&dlq(&client, "c", "reprocess", &json!({})));
    ends(&client, "c", &next, "done");
    assert_eq!(depths(&client, "c"), [60, 0, 0, 0]);
}

#[test]
fn a_task_goes_on_after_sigkills_and_moves_each_message_once() {
    const N: usize = 700;
    let (node, client) = node();
    bury_many(&client, "k", N, "boom");
    let id = begun(&dlq(&client, "k", "reprocess", &json!({"rate_per_s": 400})));
    let mut node = node;
    let mut seen = 0;
    for _ in 0..3 {
        let before = seen;
        seen = poll("progress", || {
            let moved = task(&node.operator(), "k", &id)["moved"].as_u64().unwrap();
            (moved > before).then_some(moved)
        });
        node = node.kill_and_restart();
        let after = task(&node.operator(), "k", &id);
        assert!(after["moved"].as_u64().unwrap() >= seen, "{after}, but {seen} were told of");
    }
    let client = node.operator();
    let done = ends(&client, "k", &id, "done");
    assert_eq!((&done["matched"], &done["moved"]), (&json!(N), &json!(N)));
    assert_eq!(depths(&client, "k"), [N as u64, 0, 0, 0]);
    let mut got = Vec::new();
    while got.len() < N {
        let some = recv(&client, "k", &json!({"max_messages": 250, "visibility_ms": 600_000}));
        assert!(!some.is_empty(), "{} of {N}", got.len());
        got.extend(some);
    }
    assert!(got.iter().all(|message| message["delivery"] == 2), "moved once, handed out once more");
    let expected: Vec<String> = (0..N).map(|i| format!("boom {i}")).collect();
    assert_eq!(payloads(&got), expected, "in their order");
    assert_eq!(recv(&client, "k", &json!({})), Vec::<Value>::new());
}

#[test]
fn a_task_stops_when_too_many_come_back_dead() {
    let (node, client) = node();
    bury_many(&client, "s", 120, "boom");
    let id = begun(&dlq(&client, "s", "reprocess", &json!({"rate_per_s": 40, "stop_if_returned": 0.25})));
    reject_all(&client, "s", 20, "still");
    let stopped = ends(&client, "s", &id, "stopped");
    let (moved, returned) = (stopped["moved"].as_u64().unwrap(), stopped["returned"].as_u64().unwrap());
    assert!((20..120).contains(&moved) && returned * 4 > moved, "{stopped}");
    assert_eq!(stopped["stop_if_returned"], 0.25);
    let [ready, _, vis, dead] = depths(&client, "s");
    assert_eq!((ready + vis + dead, ready + vis + returned), (120, moved));
    let node = node.kill_and_restart();
    assert_eq!(task(&node.operator(), "s", &id), stopped);
    assert_eq!(depths(&node.operator(), "s")[3], dead, "nothing goes on");
}

#[test]
fn a_full_topic_is_filled_as_room_is_made() {
    let (_node, client) = node();
    bury_many(&client, "full", 6, "boom");
    let json_type: [(&str, &[u8]); 1] = [("Content-Type", b"application/json")];
    client.call("PUT", "/v1/acme/full/settings", &json_type, b"{\"max_depth\": 4}").json(200);
    let id = begun(&dlq(&client, "full", "reprocess", &json!({})));
    poll("the topic is full", || (depths(&client, "full") == [4, 0, 0, 2]).then_some(()));
    assert_eq!(task(&client, "full", &id)["state"], "running");
    let got = recv(&client, "full", &json!({"max_messages": 3}));
    let receipts: Vec<&str> = got.iter().map(receipt).collect();
    settle(&client, "full", "ack", &json!({"receipts": receipts}));
    assert_eq!(ends(&client, "full", &id, "done")["moved"], 6);
    assert_eq!(depths(&client, "full"), [3, 0, 0, 0]);
}

#[test]
fn a_purge_ends_the_dead_letters_that_are_meant() {
    let (node, client) = node();
    dlq(&client, "p", "purge", &json!({"filter": {}})).refused(404, "NOT_FOUND");
    bury_many(&client, "p", 300, "old");
    let kept = bury(&client, "p", "new", "a", "young");
    enqueue(&client, "p", b"ready", &[]);
    assert_eq!(
        dlq(&client, "p", "purge", &json!({"filter": {"reason": "old"}})).json(200),
        json!({"purged": 300})
    );
    assert_eq!(depths(&client, "p"), [1, 0, 0, 1]);
    let node = node.kill_and_restart();
    let client = node.operator();
    assert_eq!(peek(&client, "p", "state=dlq")["messages"][0]["msg_id"], kept["msg_id"]);
    assert_eq!(dlq(&client, "p", "purge", &json!({"filter": {}})).json(200), json!({"purged": 1}));
    assert_eq!(depths(&client, "p"), [1, 0, 0, 0]);
}

#[test]
fn dead_letters_are_listed_by_reason() {
    let (_node, client) = node();
    client.get("/v1/acme/l/dlq").refused(404, "NOT_FOUND");
    bury_many(&client, "l", 7, "many");
    let one = bury(&client, "l", "x", "a", "few");
    let listed = client.get("/v1/acme/l/dlq").json(200);
    assert_eq!(listed["dlq"], 8);
    let clusters = listed["clusters"].as_array().unwrap();
    let told: Vec<_> = clusters.iter().map(|c| (c["reason"].clone(), c["count"].clone())).collect();
    assert_eq!(told, [(json!("many"), json!(7)), (json!("few"), json!(1))]);
    assert_eq!(clusters[0]["sample"].as_array().unwrap().len(), 5);
    assert_eq!(clusters[1]["sample"], json!([one["msg_id"]]));
    assert!(clusters[0]["oldest_at"].as_str() <= clusters[0]["newest_at"].as_str());
    let dead = peek(&client, "l", "state=dlq&limit=1")["messages"][0]["dead_letter"]["at"].clone();
    assert_eq!(clusters[0]["oldest_at"], dead);
}

#[test]
fn a_dead_letter_is_edited_and_sent_again_as_a_message_of_its_own() {
    let (node, client) = node();
    let old = bury(&client, "e", "typo", "a", "boom");
    let body = json!({"msg_id": old["msg_id"], "payload": "fixed", "idempotency_key": "again"});
    let sent = dlq(&client, "e", "resend", &body).json(200);
    assert_eq!((&sent["source_msg_id"], &sent["removed"]), (&old["msg_id"], &json!(false)));
    assert_eq!((&sent["duplicate"], &sent["durability"]), (&json!(false), &json!("fsync")));
    let again = dlq(&client, "e", "resend", &body).json(200);
    assert_eq!((&again["msg_id"], &again["duplicate"]), (&sent["msg_id"], &json!(true)));
    assert_eq!(depths(&client, "e"), [1, 0, 0, 1], "the old one stays dead");
    let got = recv_one(&client, "e", 60_000);
    for (field, value) in [
        ("msg_id", &sent["msg_id"]),
        ("source_msg_id", &old["msg_id"]),
        ("payload", &json!("fixed")),
        ("content_type", &json!("text/plain")),
        ("attrs", &json!({"kind": "a"})),
        ("delivery", &json!(1)),
    ] {
        assert_eq!(&got[field], value, "{field}");
    }

    let both = json!({"msg_id": old["msg_id"], "remove": true, "idempotency_key": "k"});
    dlq(&client, "e", "resend", &both).refused(400, "MALFORMED");
    dlq(&client, "e", "resend", &json!({"msg_id": sent["msg_id"]})).refused(404, "NOT_FOUND");
    assert_eq!(depths(&client, "e"), [0, 0, 1, 1]);
    let moved = json!({"msg_id": old["msg_id"], "remove": true, "attrs": {"kind": "b"}});
    assert_eq!(dlq(&client, "e", "resend", &moved).json(200)["removed"], true);
    dlq(&client, "e", "resend", &moved).refused(404, "NOT_FOUND");
    let node = node.kill_and_restart();
    let client = node.operator();
    assert_eq!(depths(&client, "e"), [1, 0, 1, 0]);
    let last = recv_one(&client, "e", 60_000);
    assert_eq!((&last["payload"], &last["attrs"]), (&json!("typo"), &json!({"kind": "b"})));
    assert_eq!(last["source_msg_id"], old["msg_id"]);
}
