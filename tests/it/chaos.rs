//! Faults injected on purpose, and that the node keeps its promises under them (SPEC §9, RUNBOOK "Drills").

use crate::harness::{Provider, Setup, TestNode, poll, ronctl, timed};
use crate::http::Client;
use crate::mailbox::{enqueue, receipt, recv_one, settle, stat};
use serde_json::{Value, json};
use std::time::Duration;

const ALLOWED: &str = "[chaos]\nenabled = true\n";

fn inject(node: &TestNode, order: &Value) -> Value {
    node.control().post("/ctl/chaos/inject", order).json(200)
}

fn send(client: &Client, body: &[u8]) -> (u16, Value) {
    let answer = client.call("POST", "/v1/acme/c/enqueue", &[], body);
    (answer.status, answer.json(answer.status))
}

#[test]
fn a_slow_store_sheds_new_messages_alone_until_it_is_well_again() {
    let setup = Setup::new().toml(ALLOWED).toml("[interop.brownout]\nupstream_p95_ms = 200\n");
    let node = setup.start();
    let client = node.operator();
    enqueue(&client, "c", b"before", &[]);
    let slow = json!({"target": "svc-mailbox", "fault": "latency", "ms": 700, "duration_ms": 300_000});
    let injected = inject(&node, &slow);
    assert_eq!((&injected["fault"], &injected["ms"]), (&json!("latency"), &json!(700)));
    let ready = node.mailbox_admin().get("/readyz");
    assert!(ready.json(200)["warn"].to_string().contains("on purpose"), "{}", ready.text());

    let mut stored = 1;
    let refused = poll("new messages are shed", || {
        let (answer, took) = timed(|| send(&client, b"slow"));
        if answer.0 == 200 {
            assert!(took >= Duration::from_millis(700), "answered before its sync: {took:?}");
            stored += 1;
            return None;
        }
        Some(answer)
    });
    assert_eq!((refused.0, &refused.1["reason"]), (503, &json!("DEGRADED")));
    let ready = node.mailbox_admin().get("/readyz?for=reads").json(200);
    assert!(ready["warn"].to_string().contains("on purpose"), "as long as it is in force: {ready}");
    let message = recv_one(&client, "c", 60_000);
    assert_eq!(settle(&client, "c", "ack", &json!({"receipts": [receipt(&message)]})), [json!({"ok": true})]);

    let (code, printed, _) = ronctl(&setup, &["chaos", "list"]);
    assert!(code == 0 && printed.contains("+700 ms"), "{printed}");
    assert_eq!(ronctl(&setup, &["chaos", "clear"]), (0, "1 cleared\n".to_owned(), String::new()));
    poll("new messages are accepted again", || (send(&client, b"after").0 == 200).then_some(()));
    let ready = node.mailbox_admin().get("/readyz").json(200);
    assert!(!ready.to_string().contains("on purpose"), "{ready}");
    // what was refused had no effect
    assert_eq!(stat(&client, "c")["ready"], json!(stored));
}

#[test]
fn a_store_whose_syncs_fail_loses_nothing_and_recovers_by_itself() {
    let setup = Setup::new().toml(ALLOWED);
    let node = setup.start();
    let client = node.operator();
    enqueue(&client, "c", b"before", &[]);
    inject(&node, &json!({"target": "svc-interop", "fault": "error", "percent": 100, "duration_ms": 1500}));
    let (status, refused) = send(&client, b"during");
    assert_eq!((status, &refused["reason"]), (503, &json!("STORAGE")), "{refused}");
    // "unknown" if its own commit failed, nothing if one of the background did just before
    assert!(refused["effect"].is_null() || refused["effect"] == "unknown", "{refused}");
    poll("it takes messages again", || (send(&client, b"after").0 == 200).then_some(()));
    assert_eq!(node.control().get("/ctl/chaos").json(200), json!({"enabled": true, "faults": []}));
    // the bus hears of each change of the store's health, once
    let (_, events, _) =
        ronctl(&setup, &["tail", "--since", "15m", "--no-follow", "--topic", "kernel.health", "--json"]);
    let events: Vec<Value> = events.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let ok: Vec<&Value> = events.iter().map(|event| &event["ok"]).collect();
    assert!(!ok.is_empty() && ok.len().is_multiple_of(2), "{events:?}");
    assert!(ok.chunks(2).all(|pair| *pair == [&json!(false), &json!(true)]), "{events:?}");
    let node = node.kill_and_restart();
    let client = node.operator();
    let first = recv_one(&client, "c", 60_000);
    assert_eq!(first["payload"].as_str().or(first["payload_b64"].as_str()), Some("YmVmb3Jl"));
    let left = stat(&client, "c");
    // the one in between may have been stored: that is what "unknown" means
    assert!((1..=2).contains(&left["ready"].as_u64().unwrap()), "{left}");
}

#[test]
fn what_a_failed_commit_had_reserved_of_a_quota_is_given_back() {
    let setup = Setup::new().toml(ALLOWED);
    let rules = "version = 1\ndefault = \"allow\"\n[tenant.acme]\nmax_depth = 4\nmax_topics = 2\n";
    std::fs::write(setup.dir().join("policy.toml"), rules).unwrap();
    let node = setup.start();
    let client = node.operator();
    enqueue(&client, "c", b"before", &[]);
    let held = recv_one(&client, "c", 600_000);
    let fault = json!({"target": "svc-mailbox", "fault": "error", "percent": 100, "duration_ms": 60_000});
    inject(&node, &fault);
    let batch = json!({"messages": [{"payload": "1"}, {"payload": "2"}, {"payload": "3"}]});
    client.post("/v1/acme/c/enqueue/batch", &batch).refused(503, "STORAGE");
    // settling is tried, and what it did not do is not said to be done
    let ack = json!({"receipts": [receipt(&held)]});
    client.post("/v1/acme/c/ack", &ack).refused(503, "STORAGE");
    client.post("/v1/acme/other/enqueue/batch", &batch).refused(503, "STORAGE");
    node.control().post("/ctl/chaos/clear", &json!({})).json(200);
    let all = |client: &Client| {
        let listed = client.get("/v1/acme").json(200)["topics"].as_array().unwrap().clone();
        ["ready", "vis"].map(|state| listed.iter().map(|row| row[state].as_u64().unwrap()).sum::<u64>())
    };
    poll("the queue is back", || (client.get("/v1/acme/c").status == 200).then_some(()));
    let room = 4 - all(&client).iter().sum::<u64>();
    let mut sent = 0;
    let refused = poll("the quota is used up", || match send(&client, b"after") {
        (200, _) => {
            sent += 1;
            None
        }
        (_, refused) => Some(refused["reason"].clone()).filter(|reason| *reason != "STORAGE"),
    });
    assert_eq!((refused, sent), (json!("BACKPRESSURE"), room), "as many as are not there, and no fewer");
    let [ready, vis] = poll("nothing is owed", || {
        stat(&client, "c");
        Some(all(&client)).filter(|[ready, vis]| ready + vis == 4)
    });
    let acked = settle(&client, "c", "ack", &ack).remove(0);
    assert_eq!(acked, json!({"ok": true}), "{ready} ready, {vis} in flight");
    let node = node.kill_and_restart();
    assert_eq!(all(&node.operator()), [ready, 0]);
}

#[test]
fn a_killed_actor_is_back_and_one_that_is_not_there_is_told() {
    let hooks = Provider::new("hooks", "github");
    let setup = hooks.add_to(Setup::new().toml(ALLOWED), "github", "");
    let node = setup.start();
    let client = node.operator();
    enqueue(&client, "c", b"kept", &[]);
    for (target, child) in [("svc-mailbox", "acme/c"), ("svc-mailbox", "store"), ("svc-interop", "hooks")] {
        let order = json!({"target": target, "fault": "kill", "child": child});
        assert_eq!(inject(&node, &order), json!({"killed": child}));
        poll("sends are answered", || (send(&client, child.as_bytes()).0 == 200).then_some(()));
    }
    let (_, events, _) = ronctl(&setup, &["tail", "--since", "15m", "--no-follow", "--topic", "kernel"]);
    assert!(events.matches("ServiceCrashed").count() >= 3, "{events}");
    assert_eq!(stat(&client, "c")["ready"], json!(4));
    let gone = json!({"target": "svc-mailbox", "fault": "kill", "child": "acme/nothing"});
    node.control().post("/ctl/chaos/inject", &gone).refused(404, "NOT_FOUND");
}

#[test]
fn faults_are_refused_unless_they_are_allowed_and_make_sense() {
    let node = Setup::new().start();
    let latency = json!({"target": "svc-mailbox", "fault": "latency"});
    node.control().post("/ctl/chaos/inject", &latency).refused(403, "POLICY_BLOCKED");
    assert_eq!(node.control().get("/ctl/chaos").json(200), json!({"enabled": false, "faults": []}));
    let (sent, took) = timed(|| send(&node.operator(), b"x").0);
    assert!(sent == 200 && took < Duration::from_millis(300), "{took:?}");

    let node = Setup::new().toml(ALLOWED).env("AMNESIA", "on").start();
    node.control().post("/ctl/chaos/inject", &latency).refused(400, "MALFORMED");
    for (order, named) in [
        (json!({"target": "svc-mailbox", "fault": "cpu", "percent": 0}), "percent"),
        (json!({"target": "svc-mailbox", "fault": "cpu", "ms": 1}), "ms"),
        (json!({"target": "svc-mailbox", "fault": "smoke"}), "fault:"),
        (json!({"target": "svc-nothing", "fault": "cpu"}), "target:"),
        (json!({"target": "svc-mailbox", "fault": "cpu", "percent": 5, "seconds": 1}), "seconds"),
    ] {
        let error = node.control().post("/ctl/chaos/inject", &order).refused(400, "MALFORMED");
        assert!(error.contains(named), "{error}");
    }
    node.control().post("/ctl/chaos/clear", &json!({"id": 7})).refused(404, "NOT_FOUND");
    let busy =
        inject(&node, &json!({"target": "svc-mailbox", "fault": "cpu", "percent": 20, "duration_ms": 500}));
    assert_eq!(busy["percent"], json!(20));
    poll("it ends by itself", || {
        (node.control().get("/ctl/chaos").json(200)["faults"] == json!([])).then_some(())
    });
}
