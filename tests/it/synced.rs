//! Answered = synced (SPEC §4.1): while the device stands still nothing is answered, nothing is shown, and nothing has
//! happened; and what is accepted together is one commit.

use crate::harness::{Setup, TestNode, timed, wall};
use crate::http::{Answer, Client, read_answer};
use crate::mailbox::{depths, enqueue, peek, receipt, recv, recv_one, settle};
use crate::stream::Stream;
use serde_json::{Value, json};
use std::net::TcpStream;
use std::time::Duration;

const ALLOWED: &str = "[chaos]\nenabled = true\n";
const JSON: &[(&str, &[u8])] = &[("Content-Type", b"application/json")];

/// Each sync takes so much longer; what is injected more than once adds up.
fn slow_syncs(node: &TestNode, ms: u64) {
    let order = json!({"target": "svc-mailbox", "fault": "latency", "ms": ms});
    node.control().post("/ctl/chaos/inject", &order).json(200);
}

fn request(client: &Client, method: &str, path: &str, body: &Value) -> Vec<u8> {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    client.request(method, &format!("/v1/acme/{path}"), JSON, body.as_bytes())
}

/// Whether nothing was answered, `within` more time.
fn is_silent(stream: &TcpStream, within: Duration) -> bool {
    stream.set_read_timeout(Some(within)).unwrap();
    stream.peek(&mut [0]).is_err()
}

/// One change of each kind, each of a topic that is named like it and holds one message.
fn changes(client: &Client) -> Vec<Vec<u8>> {
    let held = |topic: &str| json!({"receipts": [receipt(&recv_one(client, topic, 60_000))]});
    let (acked, mut nacked, mut extended) = (held("ack"), held("nack"), held("extend"));
    nacked["mode"] = json!("reject");
    extended["visibility_ms"] = json!(43_200_000);
    let all = [
        ("POST", "send/enqueue", json!("after")),
        ("POST", "recv/recv", json!({"visibility_ms": 60_000})),
        ("POST", "ack/ack", acked),
        ("POST", "nack/nack", nacked),
        ("POST", "extend/extend", extended),
        ("POST", "purge/purge", json!({"confirm": "purge"})),
        ("POST", "pause/pause", json!({"what": "both"})),
        ("PUT", "set/settings", json!({"max_attempts": 2})),
        ("PUT", "subs/subscribers", json!({"add": [{"topic": "copy"}]})),
        ("DELETE", "delete", json!({"confirm": "delete"})),
        ("POST", "new/enqueue", json!("after")),
        // nor do they find what is on its way
        ("POST", "new/recv", json!({"wait_ms": 20_000})),
        ("POST", "send/recv", json!({"wait_ms": 20_000, "max_messages": 9})),
    ];
    all.iter().map(|(method, path, body)| request(client, method, path, body)).collect()
}

/// What can be looked at of `topic`: status and body, without what differs from one look to the next.
fn looks(
    client: &Client,
    topics: &[&str],
    ask: impl Fn(&[u8]) -> Option<Answer>,
) -> Vec<Option<(u16, Value)>> {
    let paths = |topic: &&str| {
        ["", "/peek?state=ready", "/peek?state=dlq", "/dlq", "/subscribers"]
            .map(|path| format!("{topic}{path}"))
    };
    let looked = |path: String| {
        let answer = ask(&request(client, "GET", &path, &Value::Null))?;
        let mut body = answer.json(answer.status);
        body["oldest_age_ms"] = Value::Null;
        body["corr_id"] = Value::Null;
        Some((answer.status, body))
    };
    topics.iter().flat_map(paths).map(looked).collect()
}

/// What is under way with a journal is in the file when the process is killed, and is done by the next one, as a whole;
/// without one it is lost.
#[test]
fn what_is_not_synced_is_neither_answered_nor_seen() {
    for journal in ["4MiB", "0B"] {
        not_synced(journal);
    }
}

fn not_synced(journal: &str) {
    let node = Setup::new().toml(ALLOWED).env("RON_STORE__JOURNAL", journal).start();
    let client = node.operator();
    let topics =
        ["ack", "delete", "extend", "nack", "pause", "purge", "recv", "send", "set", "stream", "subs"];
    topics.iter().for_each(|topic| drop(enqueue(&client, topic, b"before", &[])));
    let copied = json!({"add": [{"topic": "copied"}]});
    client.raw(&request(&client, "PUT", "send/subscribers", &copied)).json(200);
    let changes = changes(&client);
    let looked = [&topics[..], &["new", "copied", "copy"]].concat();
    let listed = client.get("/v1/acme").json(200);
    let seen = looks(&client, &looked, |request| Some(client.raw(request)));

    (0..3).for_each(|_| slow_syncs(&node, 10_000));
    let under_way: Vec<TcpStream> = changes.iter().map(|change| client.begin(change)).collect();
    let all_silent = || {
        for (stream, change) in under_way.iter().zip(&changes) {
            let silent = is_silent(stream, Duration::from_millis(1));
            assert!(silent, "answered before its sync: {}", String::from_utf8_lossy(change));
        }
    };
    let mut stream = Stream::open(&client, "stream", &json!({"visibility_ms": 60_000}));
    assert!(stream.is_silent(), "handed out before its lease was synced");
    all_silent();
    assert_eq!(client.get("/v1/acme").json(200), listed, "what is owed to the disk is not listed");
    // who looks at a topic that owes something waits with it, or sees it as it was
    let now = looks(&client, &looked, |request| {
        let mut stream = client.begin(request);
        let silent = is_silent(&stream, Duration::from_millis(10));
        (!silent).then(|| read_answer(&mut stream, request).unwrap())
    });
    for (now, seen) in now.iter().zip(&seen) {
        assert!(now.is_none() || now == seen, "{now:?} was {seen:?}");
    }
    // what needs no commit is answered all the same: the refusals
    let narrow = client.with(&node.mint(&json!({"ops": ["peek"]})));
    narrow.call("POST", "/v1/acme/send/enqueue", &[], b"x").refused(403, "SCOPE_MISMATCH");
    client.post("/v1/acme/ack/ack", &json!({"receipts": []})).refused(400, "MALFORMED");
    all_silent();

    let node = node.kill_and_restart();
    let client = node.operator();
    if journal != "0B" {
        return;
    }
    assert_eq!(looks(&client, &looked, |request| Some(client.raw(request))), seen);
    assert_eq!(client.get("/v1/acme").json(200), listed);
    let extended = peek(&client, "extend", "state=vis")["messages"][0].clone();
    assert!(
        extended["deadline"].as_str().unwrap() < &*wall().plus(3_600_000).rfc3339(),
        "12 h were asked for"
    );
    assert_eq!(recv_one(&client, "recv", 60_000)["delivery"], 1, "it was never handed out");
}

#[test]
fn what_comes_together_is_one_commit() {
    let node = Setup::new().toml(ALLOWED).start();
    let client = node.operator();
    enqueue(&client, "b", b"first", &[]);
    slow_syncs(&node, 200);
    let mut messages: Vec<Value> = (0..256).map(|n| json!({"payload": n.to_string()})).collect();
    messages[7] = json!({"payload": "x", "delay_ms": -1});
    client.post("/v1/acme/b/enqueue/batch", &json!({"messages": messages})).refused(400, "MALFORMED");
    assert_eq!(depths(&client, "b"), [1, 0, 0, 0], "it does not parse: none of it was taken");
    messages[7] = json!({"payload": "x", "delay_ms": 5, "ttl_ms": 4});
    let send = || client.post("/v1/acme/b/enqueue/batch", &json!({"messages": messages})).json(200);
    let (answer, took) = timed(send);
    let results = answer["results"].as_array().unwrap();
    assert_eq!(results.iter().filter(|result| result["msg_id"].is_string()).count(), 255);
    assert_eq!(results[7]["reason"], "MALFORMED");
    // one by one they would take a minute
    assert!(took >= Duration::from_millis(200) && took < Duration::from_secs(30), "{took:?}");
    assert_eq!(depths(&client, "b"), [256, 0, 0, 0]);
    // and so is a receive of all of them, and their acks
    let wanted = json!({"max_messages": 256, "visibility_ms": 600_000});
    let (got, took) = timed(|| recv(&client, "b", &wanted));
    assert!(got.len() == 256 && took < Duration::from_secs(30), "{} after {took:?}", got.len());
    let receipts: Vec<&str> = got.iter().map(receipt).collect();
    let (results, took) = timed(|| settle(&client, "b", "ack", &json!({ "receipts": receipts })));
    assert!(results.iter().all(|result| *result == json!({"ok": true})), "{results:?}");
    assert!(took < Duration::from_secs(30), "{took:?}");
    assert_eq!(depths(&client, "b"), [0, 0, 0, 0]);
}
