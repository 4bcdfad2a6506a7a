//! Copies for subscribers: who gets what, what a subscriber that takes nothing keeps, and what the list refuses.

use crate::harness::{Setup, TestNode, poll, ronctl};
use crate::http::{Answer, Client};
use crate::mailbox::{depths, enqueue, peek, receipt, recv, settle, stat};
use crate::snapshot::restore;
use serde_json::{Value, json};

fn node() -> (TestNode, Client) {
    let node = Setup::new().start();
    let client = node.operator();
    (node, client)
}

fn put(client: &Client, topic: &str, call: &str, body: &Value) -> Answer {
    let headers: &[(&str, &[u8])] = &[("Content-Type", b"application/json")];
    client.call("PUT", &format!("/v1/acme/{topic}/{call}"), headers, body.to_string().as_bytes())
}

fn add(client: &Client, topic: &str, subscribers: &[&str]) -> Value {
    let add: Vec<Value> = subscribers.iter().map(|topic| json!({ "topic": topic })).collect();
    put(client, topic, "subscribers", &json!({ "add": add })).json(200)
}

fn list(client: &Client, topic: &str) -> Value {
    client.get(&format!("/v1/acme/{topic}/subscribers")).json(200)
}

/// Payloads of what is ready, once there are `n`, and no more come.
fn copies(client: &Client, topic: &str, n: usize) -> Vec<String> {
    poll(&format!("{n} copies in {topic}"), || {
        let page = client.get(&format!("/v1/acme/{topic}/peek?limit=100"));
        let page = (page.status == 200).then(|| page.json(200))?;
        let messages = page["messages"].as_array().unwrap();
        let texts = messages.iter().map(|message| message["payload"].as_str().unwrap().to_owned());
        (messages.len() == n).then(|| texts.collect())
    })
}

fn send(client: &Client, topic: &str, body: &str, attr: Option<(&str, &str)>) -> Value {
    let name = attr.map(|(name, _)| format!("X-Attr-{name}"));
    let mut headers: Vec<(&str, &[u8])> = vec![("Content-Type", b"text/plain".as_slice())];
    headers.extend(name.as_deref().zip(attr).map(|(name, (_, value))| (name, value.as_bytes())));
    enqueue(client, topic, body.as_bytes(), &headers)
}

fn lag(client: &Client, topic: &str, subscriber: &str) -> u64 {
    let page = list(client, topic);
    let rows = page["subscribers"].as_array().unwrap().clone();
    let row = rows.iter().find(|row| row["topic"] == subscriber).unwrap();
    row["lag"].as_u64().unwrap()
}

pub(crate) fn metric(node: &TestNode, line: &str) -> Option<u64> {
    let answer = node.mailbox_admin().get("/metrics");
    answer.text().lines().find_map(|found| found.strip_prefix(line)?.trim().parse().ok())
}

#[test]
fn each_subscriber_gets_a_message_of_its_own_and_the_list_survives_a_sigkill() {
    let (node, client) = node();
    assert_eq!(add(&client, "news", &["a", "b"]), json!({"version": 1, "count": 2}));
    let sent = send(&client, "news", "first", None);
    for topic in ["a", "b"] {
        assert_eq!(copies(&client, topic, 1), ["first"]);
        let copy = peek(&client, topic, "state=ready")["messages"][0].clone();
        assert_eq!((&copy["source_msg_id"], &copy["topic"]), (&sent["msg_id"], &json!(topic)));
        assert_ne!(copy["msg_id"], sent["msg_id"]);
    }
    // attempts, dead letters and acks are its own
    let got = recv(&client, "a", &json!({}));
    settle(&client, "a", "nack", &json!({"receipts": [receipt(&got[0])], "mode": "reject", "reason": "no"}));
    let got = recv(&client, "b", &json!({}));
    assert_eq!(got[0]["attempt"], 1);
    settle(&client, "b", "ack", &json!({"receipts": [receipt(&got[0])]}));
    assert_eq!((depths(&client, "a"), depths(&client, "b")), ([0, 0, 0, 1], [0, 0, 0, 0]));
    assert_eq!(depths(&client, "news"), [1, 0, 0, 0], "and the source keeps its own");

    let node = node.kill_and_restart();
    let client = node.operator();
    let page = list(&client, "news");
    assert_eq!((&page["version"], &page["count"], &page["cursor"]), (&json!(1), &json!(2), &json!(null)));
    assert_eq!(page["subscribers"][0], json!({"topic": "a", "filter": {"attr": {}}, "lag": 0}));
    send(&client, "news", "second", None);
    assert_eq!(copies(&client, "a", 1), ["second"]);
    assert_eq!(copies(&client, "b", 1), ["second"]);
    let dead = peek(&client, "a", "state=dlq")["messages"][0].clone();
    assert_eq!((&dead["payload"], &dead["dead_letter"]["reason"]), (&json!("first"), &json!("no")));
    assert_eq!(dead["source_msg_id"], sent["msg_id"]);
    // the key of a copy is its source's: a client of the subscriber may use it for something else
    let key: &[(&str, &[u8])] = &[("Idempotency-Key", b"k"), ("Content-Type", b"text/plain")];
    enqueue(&client, "news", b"keyed", key);
    copies(&client, "a", 2);
    assert_eq!(enqueue(&client, "a", b"other", key)["duplicate"], json!(false));
}

#[test]
fn what_is_sent_goes_to_the_list_of_its_time_and_only_what_a_filter_wants() {
    let (node, client) = node();
    add(&client, "news", &["all"]);
    send(&client, "news", "before", None);
    let filtered = json!({"add": [{"topic": "eu", "filter": {"attr": {"region": "eu"}}}], "remove": ["all"]});
    assert_eq!(put(&client, "news", "subscribers", &filtered).json(200), json!({"version": 2, "count": 1}));
    send(&client, "news", "us", Some(("region", "us")));
    send(&client, "news", "eu", Some(("region", "eu")));
    assert_eq!(copies(&client, "eu", 1), ["eu"]);
    assert_eq!(copies(&client, "all", 1), ["before"]);
    assert_eq!(lag(&client, "news", "eu"), 0, "what it does not want is passed");
    // the same again changes nothing; leaving twice is no error
    assert_eq!(put(&client, "news", "subscribers", &filtered).json(200), json!({"version": 2, "count": 1}));
    let shown = node.ronctl_json(&["topic", "subscribers", "acme/news"]);
    assert_eq!(shown["subscribers"][0]["filter"], json!({"attr": {"region": "eu"}}));
    let left = node.ronctl_json(&["topic", "subscribers", "acme/news", "--remove", "eu", "--add", "us"]);
    assert_eq!(left, json!({"version": 3, "count": 1}));
}

#[test]
fn who_is_full_or_paused_keeps_its_place_holds_up_nobody_and_goes_on_by_itself() {
    let (node, client) = node();
    put(&client, "full", "settings", &json!({"max_depth": 2})).json(200);
    put(&client, "idle", "settings", &json!({})).json(200);
    client.post("/v1/acme/idle/pause", &json!({"what": "enqueue"})).json(200);
    add(&client, "news", &["full", "idle", "well"]);
    let bodies: Vec<String> = (0..7).map(|n| format!("m{n}")).collect();
    for body in &bodies {
        send(&client, "news", body, None);
    }
    assert_eq!(copies(&client, "well", 7), bodies);
    assert_eq!(copies(&client, "full", 2), bodies[..2]);
    assert_eq!(depths(&client, "idle"), [0, 0, 0, 0]);
    assert_eq!((lag(&client, "news", "full"), lag(&client, "news", "idle")), (5, 7));
    assert_eq!(metric(&node, "fanout_lag{queue=\"acme/idle\"}"), Some(7));
    // the source lets go of all of it, in every way there is
    let got = recv(&client, "news", &json!({"max_messages": 3}));
    let receipts: Vec<&str> = got.iter().map(receipt).collect();
    settle(&client, "news", "ack", &json!({ "receipts": receipts }));
    client.post("/v1/acme/news/purge", &json!({"confirm": "news"})).json(200);

    let node = node.kill_and_restart();
    let client = node.operator();
    assert_eq!((lag(&client, "news", "full"), lag(&client, "news", "idle")), (5, 7));
    client
        .call("DELETE", "/v1/acme/news", &[("Content-Type", b"application/json")], br#"{"confirm":"news"}"#)
        .json(200);
    client.post("/v1/acme/idle/resume", &json!({"what": "enqueue"})).json(200);
    assert_eq!(copies(&client, "idle", 7), bodies);
    let mut seen = Vec::new();
    while seen.len() < 7 {
        let got =
            poll("room was made", || Some(recv(&client, "full", &json!({}))).filter(|got| !got.is_empty()));
        seen.push(got[0]["payload"].as_str().unwrap().to_owned());
        settle(&client, "full", "ack", &json!({"receipts": [receipt(&got[0])]}));
    }
    assert_eq!(seen, bodies, "in order, each once");
    assert_eq!(metric(&node, "fanout_lag{queue=\"acme/full\"}"), Some(0));
    // nothing is left of it: acked everywhere, no record stays
    for topic in ["idle", "well"] {
        client.post(&format!("/v1/acme/{topic}/purge"), &json!({"confirm": topic})).json(200);
    }
    let setup = node.stop();
    let (code, out, err) = ronctl(&setup, &["--json", "store", "stats"]);
    assert_eq!(code, 0, "{err}");
    let stats: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&stats["messages"], &stats["chunks"]), (&json!(0), &json!(0)), "{stats}");
}

#[test]
fn a_deleted_subscriber_is_off_the_list_and_a_delay_or_a_ttl_holds_for_copies_too() {
    let (_node, client) = node();
    add(&client, "news", &["a", "b"]);
    send(&client, "news", "x", None);
    copies(&client, "a", 1);
    client
        .call("DELETE", "/v1/acme/a", &[("Content-Type", b"application/json")], br#"{"confirm":"a"}"#)
        .json(200);
    let page = list(&client, "news");
    assert_eq!((&page["count"], &page["version"]), (&json!(1), &json!(2)));
    enqueue(&client, "news", b"later", &[("X-Delay-Ms", b"600000"), ("Content-Type", b"text/plain")]);
    enqueue(&client, "news", b"brief", &[("X-Ttl-Ms", b"400"), ("Content-Type", b"text/plain")]);
    poll("the delayed copy", || (depths(&client, "b")[1] == 1).then_some(()));
    poll("the end of the brief one", || (depths(&client, "b") == [1, 1, 0, 0]).then_some(()));
    client.get("/v1/acme/a").refused(404, "NOT_FOUND");
}

#[test]
fn what_cannot_be_on_a_list_is_refused_by_name_and_changes_nothing() {
    let (node, client) = node();
    add(&client, "news", &["a"]);
    let before = list(&client, "news");
    let many: Vec<Value> = (0..1_001).map(|n| json!({"topic": format!("t{n}")})).collect();
    for (topic, body, named) in [
        ("news", json!({"add": [{"topic": "news"}]}), "to itself"),
        ("a", json!({"add": [{"topic": "b"}]}), "a is a subscriber itself"),
        ("top", json!({"add": [{"topic": "news"}]}), "news has subscribers itself"),
        ("news", json!({"add": [{"topic": "b"}], "remove": ["b"]}), "named twice"),
        ("news", json!({"add": [{"topic": "B"}]}), "add[].topic"),
        ("news", json!({"remove": ["B"]}), "remove[]"),
        ("news", json!({}), "1 to 1000"),
        ("news", json!({"add": many}), "at most 1000"),
        ("news", json!({"add": [{"topic": "b", "filter": {"attr": {"X": "y"}}}]}), "filter.attr"),
        ("news", json!({"add": [{"topic": "b", "filter": {"prefix": "x"}}]}), "prefix"),
        ("news", json!({"drop": ["a"]}), "drop"),
    ] {
        let told = put(&client, topic, "subscribers", &body).refused(400, "MALFORMED");
        assert!(told.contains(named), "{body}: {told}");
    }
    assert_eq!(list(&client, "news"), before);
    client.get("/v1/acme/top").refused(404, "NOT_FOUND");
    client.get("/v1/acme/nowhere/subscribers").refused(404, "NOT_FOUND");
    client.get("/v1/acme/news/subscribers?limit=0").refused(400, "MALFORMED");
    put(&client, "nowhere", "subscribers", &json!({"remove": ["a"]})).refused(404, "NOT_FOUND");
    // admin here, enqueue there
    let one = json!({"add": [{"topic": "other"}]});
    let here = client.with(&node.mint(&json!({"topic": "news", "ops": ["admin", "enqueue"]})));
    let told = put(&here, "news", "subscribers", &one).refused(403, "SCOPE_MISMATCH");
    assert!(told.contains("add: other"), "{told}");
    let no_admin = client.with(&node.mint(&json!({"topic": "*", "ops": ["enqueue", "stat"]})));
    put(&no_admin, "news", "subscribers", &one).refused(403, "SCOPE_MISMATCH");
    no_admin.get("/v1/acme/news/subscribers").refused(403, "SCOPE_MISMATCH");
    assert_eq!(list(&client, "news"), before);
    assert_eq!(put(&here, "news", "subscribers", &json!({"remove": ["a"]})).json(200)["count"], 0);
}

#[test]
fn a_list_has_ten_thousand_places() {
    let (_node, client) = node();
    for from in (0..10_000).step_by(1_000) {
        let some: Vec<String> = (from..from + 1_000).map(|n| format!("s{n}")).collect();
        let listed = add(&client, "news", &some.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(listed["count"], from + 1_000);
    }
    let one_more = json!({"add": [{"topic": "t"}]});
    let told = put(&client, "news", "subscribers", &one_more).refused(400, "MALFORMED");
    assert!(told.contains("10000"), "{told}");
    let changed = json!({"add": [{"topic": "t"}], "remove": ["s17"]});
    let listed = put(&client, "news", "subscribers", &changed).json(200);
    assert_eq!(listed["count"], 10_000, "one goes, one comes");
    assert_eq!(list(&client, "news")["count"], 10_000);
}

/// The lag of every subscriber, from all pages of the list.
fn lags(client: &Client, topic: &str) -> Vec<u64> {
    let (mut lags, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = client.get(&format!("/v1/acme/{topic}/subscribers?limit=700{cursor}")).json(200);
        let rows = page["subscribers"].as_array().unwrap();
        lags.extend(rows.iter().map(|row| row["lag"].as_u64().unwrap()));
        match page["cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return lags,
        }
    }
}

#[test]
fn the_body_of_two_thousand_copies_is_stored_once_and_pages_show_them_all() {
    let (node, client) = node();
    let names: Vec<String> = (0..2_000).map(|n| format!("s{n:04}")).collect();
    for some in names.chunks(1_000) {
        add(&client, "news", &some.iter().map(String::as_str).collect::<Vec<_>>());
    }
    let body = "x".repeat(900_000);
    send(&client, "news", &body, None);
    let seen = poll("all copies", || {
        let lags = lags(&client, "news");
        lags.iter().all(|lag| *lag == 0).then_some(lags.len())
    });
    assert_eq!(seen, 2_000);
    assert_eq!(recv(&client, "s1234", &json!({}))[0]["payload"].as_str().unwrap().len(), body.len());
    assert_eq!(stat(&client, "s0007")["ready"], 1);
    let setup = node.stop();
    let (code, out, err) = ronctl(&setup, &["--json", "store", "stats"]);
    assert_eq!(code, 0, "{err}");
    let stats: Value = serde_json::from_str(&out).unwrap();
    let tables = stats["tables"].as_array().unwrap();
    let bodies = tables.iter().find(|table| table["table"] == "body").unwrap();
    assert!(bodies["stored_bytes"].as_u64().unwrap() < 1_000_000, "2,000 copies of 900 KB: {bodies}");
    assert_eq!(stats["messages"], 2_001);
}

#[test]
fn a_snapshot_brings_back_lists_cursors_and_what_was_still_to_come() {
    let (node, client) = node();
    put(&client, "idle", "settings", &json!({})).json(200);
    client.post("/v1/acme/idle/pause", &json!({"what": "enqueue"})).json(200);
    add(&client, "news", &["well", "idle"]);
    let sent = send(&client, "news", "kept", None);
    copies(&client, "well", 1);
    client.post("/v1/acme/news/purge", &json!({"confirm": "news"})).json(200);
    let taken = node.ronctl_json(&["snapshot", "create"]);
    let file = taken["name"].as_str().unwrap().to_owned();
    let setup = node.stop();
    restore(&setup, &file);
    let (code, out, err) = ronctl(&setup, &["--json", "store", "check"]);
    assert_eq!(code, 0, "{out} {err}");
    let node = setup.start();
    let client = node.operator();
    assert_eq!(copies(&client, "well", 1), ["kept"]);
    assert_eq!(lag(&client, "news", "idle"), 1);
    client.post("/v1/acme/idle/resume", &json!({"what": "enqueue"})).json(200);
    assert_eq!(copies(&client, "idle", 1), ["kept"]);
    let copy = peek(&client, "idle", "state=ready")["messages"][0].clone();
    assert_eq!(copy["source_msg_id"], sent["msg_id"], "ids stay");
}

#[test]
fn a_node_in_memory_copies_too_and_ram_does_not_hold_for_a_topic_with_subscribers() {
    let (_durable, client) = node();
    put(&client, "news", "settings", &json!({"durability": "ram"})).json(200);
    assert_eq!(send(&client, "news", "gone", None)["durability"], "ram");
    add(&client, "news", &["a"]);
    assert_eq!(send(&client, "news", "kept", None)["durability"], "fsync", "a copy stands for its record");
    assert_eq!(copies(&client, "a", 1), ["kept"]);
    let node = Setup::new().env("AMNESIA", "on").start();
    let client = node.operator();
    add(&client, "news", &["a"]);
    assert_eq!(send(&client, "news", "short", None)["durability"], "ram");
    assert_eq!(copies(&client, "a", 1), ["short"]);
    put(&client, "a", "subscribers", &json!({"add": [{"topic": "b"}]})).refused(400, "MALFORMED");
}
