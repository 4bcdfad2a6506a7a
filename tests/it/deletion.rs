//! DELETE of a topic: what is gone, what is as before, and what a topic of the same name has of the old one.

use crate::harness::{Setup, TestNode, poll};
use crate::http::{Answer, Client};
use crate::mailbox::{depths, enqueue, receipt, recv, recv_one, settle, stat};
use crate::stream::Stream;
use serde_json::{Value, json};

fn node() -> (TestNode, Client) {
    let node = Setup::new().start();
    let client = node.operator();
    (node, client)
}

fn delete(client: &Client, topic: &str, confirm: &str) -> Answer {
    let body = json!({"confirm": confirm}).to_string();
    let json_type: [(&str, &[u8]); 1] = [("Content-Type", b"application/json")];
    client.call("DELETE", &format!("/v1/acme/{topic}"), &json_type, body.as_bytes())
}

fn listed(client: &Client) -> Vec<String> {
    let topics = client.get("/v1/acme").json(200);
    topics["topics"].as_array().unwrap().iter().map(|t| t["topic"].as_str().unwrap().to_owned()).collect()
}

/// One message in each state.
fn fill(client: &Client, topic: &str) -> (Value, Value) {
    enqueue(client, topic, b"dead", &[("Idempotency-Key", b"k1")]);
    let dead = recv_one(client, topic, 60_000);
    settle(client, topic, "nack", &json!({"receipts": [receipt(&dead)], "mode": "reject"}));
    enqueue(client, topic, b"held", &[]);
    let held = recv_one(client, topic, 600_000);
    enqueue(client, topic, b"delayed", &[("X-Delay-Ms", b"600000")]);
    enqueue(client, topic, b"ready", &[]);
    assert_eq!(depths(client, topic), [1, 1, 1, 1]);
    (dead, held)
}

#[test]
fn a_deleted_topic_is_gone_with_all_it_held_and_comes_back_as_another_one() {
    let (node, client) = node();
    delete(&client, "t", "t").refused(404, "NOT_FOUND");
    enqueue(&client, "other", b"stays", &[]);
    let (_, held) = fill(&client, "t");
    client.call(
        "PUT",
        "/v1/acme/t/settings",
        &[("Content-Type", b"application/json")],
        b"{\"max_attempts\": 1}",
    );
    let text = delete(&client, "t", "u").refused(400, "MALFORMED");
    assert!(text.contains("confirm"), "{text}");
    let token = node.mint(&json!({"ops": ["enqueue", "recv", "ack", "nack", "stat", "peek"]}));
    delete(&client.with(&token), "t", "t").refused(403, "SCOPE_MISMATCH");
    assert_eq!(depths(&client, "t"), [1, 1, 1, 1], "nothing was refused by half");

    assert_eq!(delete(&client, "t", "t").json(200), json!({"deleted": true, "purged": 4}));
    client.get("/v1/acme/t").refused(404, "NOT_FOUND");
    client.get("/v1/acme/t/peek?state=dlq").refused(404, "NOT_FOUND");
    client.get("/v1/acme/t/dlq/tasks").refused(404, "NOT_FOUND");
    delete(&client, "t", "t").refused(404, "NOT_FOUND");
    assert_eq!(recv(&client, "t", &json!({})), Vec::<Value>::new());
    assert_eq!(listed(&client), ["other"]);
    let metrics = node.mailbox_admin().get("/metrics");
    assert!(!metrics.text().contains("acme/t\""), "its series are gone");

    let new = enqueue(&client, "t", b"dead", &[("Idempotency-Key", b"k1")]);
    assert_eq!(new["duplicate"], false, "it knows none of the old keys");
    for (call, more) in [("nack", json!({})), ("extend", json!({"visibility_ms": 1_000}))] {
        let mut body = json!({"receipts": [receipt(&held)]});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        assert_eq!(settle(&client, "t", call, &body), [json!({"ok": false, "reason": "STALE_RECEIPT"})]);
    }
    let after = stat(&client, "t");
    assert_eq!((&after["ready"], &after["settings"]["max_attempts"]), (&json!(1), &json!(5)));
    assert!(new["msg_id"].as_str() > held["msg_id"].as_str(), "ids go on");

    let node = node.kill_and_restart();
    let client = node.operator();
    assert_eq!((depths(&client, "t"), depths(&client, "other")), ([1, 0, 0, 0], [1, 0, 0, 0]));
    let again = enqueue(&client, "t", b"dead", &[("Idempotency-Key", b"k1")]);
    assert_eq!((&again["duplicate"], &again["msg_id"]), (&json!(true), &new["msg_id"]));
    assert_eq!(recv_one(&client, "t", 60_000)["msg_id"], new["msg_id"]);
}

#[test]
fn a_deletion_outlives_the_process_and_no_old_key_comes_back() {
    let (node, client) = node();
    fill(&client, "last");
    delete(&client, "last", "last").json(200);
    let node = node.kill_and_restart();
    let client = node.operator();
    assert_eq!(listed(&client), Vec::<String>::new());
    client.get("/v1/acme/last").refused(404, "NOT_FOUND");
    assert_eq!(enqueue(&client, "last", b"dead", &[("Idempotency-Key", b"k1")])["duplicate"], false);
    let node = node.kill_and_restart();
    assert_eq!(depths(&node.operator(), "last"), [1, 0, 0, 0]);
}

#[test]
fn receives_that_wait_end_and_a_running_task_too() {
    let (_node, client) = node();
    let (dead, _) = fill(&client, "w");
    client.post("/v1/acme/w/pause", &json!({"what": "recv"})).json(200);
    let waiting = {
        let client = client.clone();
        std::thread::spawn(move || recv(&client, "w", &json!({"wait_ms": 20_000})))
    };
    poll("a waiting receive", || (stat(&client, "w")["waiters"] == 1).then_some(()));
    let full: [(&str, &[u8]); 1] = [("Content-Type", b"application/json")];
    client.call("PUT", "/v1/acme/w/settings", &full, b"{\"max_depth\": 3}").json(200);
    let begun =
        client.post("/v1/acme/w/dlq/reprocess", &json!({"filter": {"ids": [dead["msg_id"]]}})).json(200);
    let task = format!("/v1/acme/w/dlq/tasks/{}", begun["task_id"].as_str().unwrap());
    assert_eq!(client.get(&task).json(200)["state"], "running", "it waits for room");
    assert_eq!(delete(&client, "w", "w").json(200)["purged"], 4);
    assert_eq!(waiting.join().unwrap(), Vec::<Value>::new());
    enqueue(&client, "w", b"new", &[]);
    client.get(&task).refused(404, "NOT_FOUND");
    assert_eq!(client.get("/v1/acme/w/dlq/tasks").json(200), json!({"tasks": []}));
    assert_eq!(recv(&client, "w", &json!({})).len(), 1, "nor is it paused");
}

#[test]
fn a_tenant_may_use_the_place_again() {
    let setup = Setup::new();
    let policy = setup.dir().join("policy.toml");
    let rules =
        "version = 1\ndefault = \"deny\"\n[[rule]]\naction = \"allow\"\n[tenant.acme]\nmax_topics = 2\n";
    std::fs::write(&policy, rules).unwrap();
    let node = setup.toml(&format!("[policy]\nfile = \"{}\"\n", policy.display())).start();
    let client = node.operator();
    for round in 0..150 {
        let topic = format!("t{round}");
        enqueue(&client, &topic, b"x", &[]);
        enqueue(&client, "same", b"x", &[]);
        let third = client.call("POST", "/v1/acme/third/enqueue", &[], b"x");
        third.refused(429, "BACKPRESSURE");
        delete(&client, &topic, &topic).json(200);
        delete(&client, "same", "same").json(200);
    }
    assert_eq!(listed(&client), Vec::<String>::new());
}

#[test]
fn senders_that_race_with_a_deletion_lose_nothing_that_came_after_it() {
    let (node, client) = node();
    enqueue(&client, "r", b"first", &[]);
    let sender = {
        let client = client.clone();
        std::thread::spawn(move || {
            let send = |n: u32| client.call("POST", "/v1/acme/r/enqueue", &[], n.to_string().as_bytes());
            (0..300).filter(|n| send(*n).status == 200).count()
        })
    };
    let mut ended = 0;
    for _ in 0..5 {
        let answer = delete(&client, "r", "r");
        if answer.status == 200 {
            ended += answer.json(200)["purged"].as_u64().unwrap();
        }
        std::thread::yield_now();
    }
    let sent = sender.join().unwrap() as u64 + 1;
    enqueue(&client, "r", b"last", &[]);
    assert_eq!(depths(&client, "r"), [sent + 1 - ended, 0, 0, 0], "each message was deleted or is here");
    let node = node.kill_and_restart();
    assert_eq!(depths(&node.operator(), "r"), [sent + 1 - ended, 0, 0, 0]);
}

#[test]
fn ronctl_deletes_topics_and_works_on_dead_letters() {
    let (node, client) = node();
    let (dead, _) = fill(&client, "c");
    let id = dead["msg_id"].as_str().unwrap();
    assert_eq!(node.ronctl_json(&["dlq", "list", "acme/c"])["messages"][0]["msg_id"], dead["msg_id"]);
    assert_eq!(node.ronctl_json(&["dlq", "clusters", "acme/c"])["clusters"][0]["reason"], "rejected");
    assert_eq!(node.ronctl_json(&["dlq", "show", "acme/c", id])["dead_letter"]["attempts"], 1);
    let sent = node.ronctl_json(&["dlq", "resend", "acme/c", id, "--body", "mended"]);
    assert_eq!(sent["source_msg_id"], dead["msg_id"]);
    let dry = node.ronctl_json(&["dlq", "reprocess", "acme/c", "--reason", "rejected", "--dry-run"]);
    assert_eq!(dry, json!({"task_id": null, "matched": 1}));
    let done = node.ronctl_json(&["dlq", "reprocess", "acme/c", "--id", id]);
    assert_eq!((&done["state"], &done["moved"]), (&json!("done"), &json!(1)));
    let task = done["task_id"].as_str().unwrap();
    assert_eq!(node.ronctl_json(&["dlq", "task", "acme/c", task]), done);
    assert_eq!(node.ronctl_json(&["dlq", "cancel", "acme/c", task]), done, "it is over");
    assert_eq!(node.ronctl_json(&["dlq", "task", "acme/c"])["tasks"], json!([done]));
    assert_eq!(node.ronctl_json(&["dlq", "purge", "acme/c", "--yes"]), json!({"purged": 0}));
    assert_eq!(depths(&client, "c"), [3, 1, 1, 0]);
    assert_eq!(node.ronctl_json(&["topic", "delete", "acme/c", "--yes"])["purged"], 5);
    client.get("/v1/acme/c").refused(404, "NOT_FOUND");
}

#[test]
fn a_sigkill_during_a_deletion_leaves_all_or_nothing() {
    const N: u64 = 1_000;
    let (mut node, mut client) = node();
    for round in 0..6 {
        let topic = format!("k{round}");
        let messages: Vec<Value> = (0..250).map(|n| json!({"payload": n.to_string()})).collect();
        for _ in 0..N / 250 {
            client.post(&format!("/v1/acme/{topic}/enqueue/batch"), &json!({"messages": messages})).json(200);
        }
        let body = json!({"confirm": topic}).to_string();
        let json_type: [(&str, &[u8]); 1] = [("Content-Type", b"application/json")];
        let request = client.request("DELETE", &format!("/v1/acme/{topic}"), &json_type, body.as_bytes());
        let _under_way = client.begin(&request);
        // a little further in each round
        for _ in 0..round {
            client.get("/v1/acme").json(200);
        }
        node = node.kill_and_restart();
        client = node.operator();
        let answer = client.get(&format!("/v1/acme/{topic}"));
        if answer.status == 200 {
            assert_eq!(depths(&client, &topic), [N, 0, 0, 0], "nothing was ended");
            assert_eq!(delete(&client, &topic, &topic).json(200)["purged"], N);
        }
        client.get(&format!("/v1/acme/{topic}")).refused(404, "NOT_FOUND");
        assert_eq!(recv(&client, &topic, &json!({})), Vec::<Value>::new());
    }
}

#[test]
fn a_stream_ends_with_its_topic_and_says_why() {
    let (_node, client) = node();
    enqueue(&client, "s", b"one", &[("Content-Type", b"text/plain")]);
    let mut stream = Stream::open(&client, "s", &json!({"max_inflight": 1}));
    assert_eq!(stream.next()["payload"], "one");
    delete(&client, "s", "other").refused(400, "MALFORMED");
    assert_eq!(depths(&client, "s"), [0, 0, 1, 0], "nothing has ended");
    assert_eq!(delete(&client, "s", "s").json(200)["purged"], 1);
    assert_eq!(stream.next()["reason"], "DOWNSTREAM_UNAVAILABLE");
    enqueue(&client, "s", b"two", &[("Content-Type", b"text/plain")]);
    let mut again = Stream::open(&client, "s", &json!({}));
    assert_eq!(again.next()["payload"], "two", "the topic that comes after has streams of its own");
}
