//! The policy on a real node: what it denies and what tenants may use, and that it changes without a restart.

use crate::harness::{Provider, Setup, TENANT, TestNode, borrowed, poll, wall};
use crate::http::{Answer, Client};
use crate::mailbox::{depths, enqueue, receipt, recv, recv_raw, settle, stat};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::process::Command;

fn put_policy(setup: &Setup, text: &str) {
    // as an editor does it: whole, by a rename
    let new = setup.dir().join("policy.toml.new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, setup.dir().join("policy.toml")).unwrap();
}

fn with_policy(text: &str) -> Setup {
    let setup = Setup::new();
    put_policy(&setup, text);
    setup
}

fn send(client: &Client, topic: &str, body: &[u8]) -> Answer {
    client.call("POST", &format!("/v1/{TENANT}/{topic}/enqueue"), &[], body)
}

fn shown(node: &TestNode) -> Value {
    node.control().get("/ctl/policy").json(200)
}

fn wait_version(node: &TestNode, version: u64) -> Value {
    poll("another version of the policy", || {
        Some(shown(node)).filter(|shown| shown["version"].as_u64().unwrap() >= version)
    })
}

/// Exit code, stdout, stderr.
fn ronctl(node: &TestNode, args: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ronctl"));
    command.env_clear().current_dir(node.setup.dir());
    let output =
        command.args(["--socket", node.ready["socket"].as_str().unwrap()]).args(args).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

const OPEN: &str = "version = 1\ndefault = \"allow\"\n";

#[test]
fn a_denied_call_leaves_nothing_and_is_counted() {
    let node = with_policy(
        "version = 1\n\
         [[rule]]\ntopic = \"secret*\"\naction = \"deny\"\nreason = \"not over this port\"\n\
         [[rule]]\ntenant = \"acme\"\nop = [\"enqueue\", \"recv\", \"ack\", \"stat\"]\nmax_body_bytes = 8\n\
         action = \"allow\"\n",
    )
    .start();
    let client = node.mailbox();
    assert_eq!(send(&client, "secrets", b"x").refused(403, "POLICY_BLOCKED"), "not over this port");
    send(&client, "orders", b"ninebytes").refused(403, "POLICY_BLOCKED");
    enqueue(&client, "orders", b"8 bytes.", &[]);
    let batch = json!({"messages": [{"payload": "short"}, {"payload": "much longer"}]});
    let results = client.post("/v1/acme/orders/enqueue/batch", &batch).json(200)["results"].clone();
    assert!(results[0]["msg_id"].is_string() && results[1]["reason"] == "POLICY_BLOCKED", "{results}");
    assert_eq!(depths(&client, "orders"), [2, 0, 0, 0]);
    client.get("/v1/acme/orders/peek").refused(403, "POLICY_BLOCKED");
    // the capability is judged first, and over the control socket nothing is
    node.bare().get("/v1/acme/secrets").refused(401, "UNAUTH");
    assert_eq!(node.control().get("/v1/acme/secrets").status, 404, "it was never made");
    let metrics = node.mailbox_admin().get("/metrics");
    let denied = metrics.text().lines().find(|line| line.starts_with("rejected_total{reason=\"auth\"}"));
    let denied: f64 = denied.unwrap().rsplit(' ').next().unwrap().parse().unwrap();
    assert!(denied >= 5.0, "{denied}");
    assert!(metrics.text().contains("policy_version 1\n"), "{}", metrics.text());
}

#[test]
fn a_denied_provider_is_refused_before_its_signature() {
    let github = Provider::new("github", "github");
    let setup =
        with_policy("version = 1\ndefault = \"allow\"\n[[rule]]\nprovider = \"git*\"\naction = \"deny\"\n");
    let node = github.add_to(setup, "github", "").start();
    let body = b"{\"a\":1}";
    let headers = github.sign("1", wall(), body);
    let post = || node.interop().call("POST", &github.path(), &borrowed(&headers), body);
    post().refused(403, "POLICY_BLOCKED");
    node.mailbox().get("/v1/acme/github").refused(404, "NOT_FOUND");
    put_policy(&node.setup, OPEN);
    wait_version(&node, 2);
    post().json(202);
    assert_eq!(depths(&node.mailbox(), "github"), [1, 0, 0, 0]);
}

#[test]
fn a_rate_limits_requests_and_bytes_but_never_settling() {
    let rates = "version = 1\ndefault = \"allow\"\n[tenant.acme]\nrps = 1\nburst = 3\n\
                 [tenant.bulk]\nbytes_per_s = 1000\n";
    let node = with_policy(rates).start();
    let client = node.mailbox();
    enqueue(&client, "orders", b"x", &[]);
    let message = recv(&client, "orders", &json!({"visibility_ms": 60_000})).remove(0);
    let limited = (0..10).map(|_| send(&client, "orders", b"y")).find(|answer| answer.status != 200).unwrap();
    limited.refused(429, "RATE_LIMIT");
    // many more than the rate allows
    for _ in 0..10 {
        let extend = json!({"receipts": [receipt(&message)], "visibility_ms": 60_000});
        assert_eq!(settle(&client, "orders", "extend", &extend), [json!({"ok": true})]);
    }
    let ack = json!({"receipts": [receipt(&message)]});
    assert_eq!(settle(&client, "orders", "ack", &ack), [json!({"ok": true})]);

    let token = node.mint(&json!({"tenant": "bulk", "ops": ["enqueue", "stat"]}));
    let bulk = node.bare().with(&token);
    let send = |bytes| bulk.call("POST", "/v1/bulk/orders/enqueue", &[], &vec![b'x'; bytes]);
    send(100_000).json(200);
    let refused = send(10);
    refused.refused(429, "RATE_LIMIT");
    let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((90..=100).contains(&wait), "{wait} s: the first one is paid for");
    assert_eq!(bulk.get("/v1/bulk/orders").json(200)["ready"], 1);
}

#[test]
fn depth_and_topics_of_a_tenant_are_bounded_over_all_its_topics() {
    let node = with_policy(&format!("{OPEN}[tenant.acme]\nmax_depth = 3\nmax_topics = 2\n")).start();
    let client = node.mailbox();
    enqueue(&client, "a", b"1", &[]);
    enqueue(&client, "b", b"2", &[]);
    let text = send(&client, "c", b"x").refused(429, "BACKPRESSURE");
    assert!(text.contains("max_topics"), "{text}");
    let listed = client.get("/v1/acme").json(200)["topics"].as_array().unwrap().len();
    assert_eq!(listed, 2, "the third was not made");
    let two = json!({"messages": [{"payload": "3"}, {"payload": "4"}]});
    let text = client.post("/v1/acme/a/enqueue/batch", &two).refused(429, "BACKPRESSURE");
    assert!(text.contains("max_depth"), "{text}");
    enqueue(&client, "b", b"3", &[]);
    send(&client, "a", b"4").refused(429, "BACKPRESSURE");
    assert_eq!((depths(&client, "a"), depths(&client, "b")), ([1, 0, 0, 0], [2, 0, 0, 0]));
    // room is made by another topic, and what was there counts after a restart
    let message = recv(&client, "b", &json!({})).remove(0);
    settle(&client, "b", "ack", &json!({"receipts": [receipt(&message)]}));
    poll("room", || (send(&client, "a", b"4").status == 200).then_some(()));
    let node = node.kill_and_restart();
    let client = node.mailbox();
    send(&client, "a", b"5").refused(429, "BACKPRESSURE");
    send(&client, "c", b"x").refused(429, "BACKPRESSURE");
}

#[test]
fn a_duplicate_gives_back_what_it_reserved() {
    let node = with_policy(&format!("{OPEN}[tenant.acme]\nmax_depth = 2\n")).start();
    let client = node.mailbox();
    for _ in 0..20 {
        enqueue(&client, "a", b"same", &[("Idempotency-Key", b"k")]);
    }
    enqueue(&client, "a", b"other", &[]);
    send(&client, "a", b"third").refused(429, "BACKPRESSURE");
    assert_eq!(depths(&client, "a"), [2, 0, 0, 0]);
}

#[test]
fn deliveries_of_a_tenant_are_bounded_over_all_its_topics_and_a_waiting_receive_gets_the_room() {
    let node = with_policy(&format!("{OPEN}[tenant.acme]\nmax_inflight = 3\n")).start();
    let client = node.mailbox();
    for topic in ["a", "b"] {
        for _ in 0..3 {
            enqueue(&client, topic, b"x", &[]);
        }
    }
    let long = |n: u32| json!({"max_messages": n, "visibility_ms": 60_000});
    let first = recv(&client, "a", &long(2));
    assert_eq!((first.len(), recv(&client, "b", &long(10)).len()), (2, 1), "as many as there is room for");
    recv_raw(&client, "b", &long(1)).refused(429, "BACKPRESSURE");
    assert_eq!((depths(&client, "a"), depths(&client, "b")), ([1, 0, 2, 0], [2, 0, 1, 0]));
    // one waits at an empty topic while there is room; its message comes when there is none, and waits for some
    let settle_one = |topic: &str, message: &Value| {
        settle(&client, topic, "ack", &json!({"receipts": [receipt(message)]}));
    };
    settle_one("a", &first[0]);
    enqueue(&client, "c", b"x", &[]);
    settle_one("c", &recv(&client, "c", &long(1))[0]);
    let wait = json!({"visibility_ms": 60_000, "wait_ms": 20_000});
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| recv(&client, "c", &wait));
        poll("the waiting receive", || (stat(&client, "c")["waiters"] == 1).then_some(()));
        assert_eq!(recv(&client, "a", &long(1)).len(), 1, "the room is taken again");
        enqueue(&client, "c", b"y", &[]);
        assert_eq!(depths(&client, "c"), [1, 0, 0, 0], "it waits, and so does the receive");
        assert_eq!(stat(&client, "c")["waiters"], 1);
        settle_one("a", &first[1]);
        assert_eq!(waiting.join().unwrap().len(), 1);
    });
    assert_eq!(depths(&client, "c"), [0, 0, 1, 0]);
}

#[test]
fn senders_that_race_never_exceed_a_quota() {
    let node = with_policy(&format!("{OPEN}[tenant.acme]\nmax_depth = 10\nmax_topics = 3\n")).start();
    let client = node.mailbox();
    let client = &client;
    let statuses: Vec<(usize, u16)> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..5)
            .map(|n| {
                let one = move |_| (n, send(client, &format!("t{n}"), b"x").status);
                scope.spawn(move || (0..8).map(one).collect::<Vec<_>>())
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    assert!(statuses.iter().all(|(_, status)| [200, 429].contains(status)), "{statuses:?}");
    assert_eq!(statuses.iter().filter(|(_, status)| *status == 200).count(), 10, "{statuses:?}");
    let topics = client.get("/v1/acme").json(200)["topics"].as_array().unwrap().clone();
    let ready: u64 = topics.iter().map(|topic| topic["ready"].as_u64().unwrap()).sum();
    assert_eq!(ready, 10);
    assert!(topics.len() <= 3, "{topics:?}");
}

#[test]
fn a_change_comes_into_force_by_file_signal_and_command_and_a_bad_one_does_not() {
    let node = with_policy(OPEN).start();
    let client = node.mailbox();
    let deny = "version = 2\n[[rule]]\nop = \"stat\"\naction = \"allow\"\n";
    send(&client, "orders", b"x").json(200);
    assert_eq!((&shown(&node)["version"], &shown(&node)["revision"]), (&json!(1), &json!(1)));

    put_policy(&node.setup, deny);
    let seen = wait_version(&node, 2);
    assert_eq!((&seen["revision"], &seen["default"]), (&json!(2), &json!("deny")));
    send(&client, "orders", b"x").refused(403, "POLICY_BLOCKED");

    // rejected, with its line, and the old one stays
    put_policy(&node.setup, "version = 3\ndefault = \"allow\"\n[[rule]]\nactoin = \"allow\"\n");
    let (code, _, said) = ronctl(&node, &["policy", "reload"]);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("policy.toml:4: rule.1.actoin: unknown key") && said.contains("action"), "{said}");
    let (code, _, said) = ronctl(&node, &["policy", "check", "policy.toml"]);
    assert!(code == 78 && said.contains("policy.toml:4"), "{code} {said}");
    assert_eq!(shown(&node)["revision"], 2);
    send(&client, "orders", b"x").refused(403, "POLICY_BLOCKED");
    let warned = |node: &TestNode| node.mailbox_admin().get("/readyz").json(200)["warn"].to_string();
    assert!(warned(&node).contains("policy.file: the policy in force is an older one"), "{}", warned(&node));

    put_policy(&node.setup, OPEN);
    let before = shown(&node)["version"].as_u64().unwrap();
    let (code, out, said) = ronctl(&node, &["policy", "reload", "--json"]);
    assert_eq!(code, 0, "{said}");
    let now: Value = serde_json::from_str(&out).unwrap();
    assert!(now["version"].as_u64().unwrap() > before && now["default"] == "allow", "{now}");
    assert_eq!(warned(&node), "[]");
    send(&client, "orders", b"x").json(200);

    // unchanged, but asked for: a version more
    node.signal(Signal::HUP);
    wait_version(&node, now["version"].as_u64().unwrap() + 1);
    assert_eq!(depths(&client, "orders"), [2, 0, 0, 0]);
    assert!(node.log().contains("policy not reloaded"));
}

#[test]
fn a_preset_ends_by_itself() {
    let node = with_policy(&format!("{OPEN}[tenant.acme]\nrps = 1\nburst = 10\nweight = 3\n")).start();
    let (code, out, said) = ronctl(&node, &["policy", "apply", "brownout-1", "--ttl", "2s"]);
    assert_eq!(code, 0, "{said}");
    assert!(out.contains("brownout-1"), "{out}");
    let relaxed = shown(&node);
    let acme = |shown: &Value| {
        (shown["tenants"]["acme"]["burst"].clone(), shown["tenants"]["acme"]["weight"].clone())
    };
    assert_eq!(acme(&relaxed), (json!(20), json!(12)));
    let over = wait_version(&node, relaxed["version"].as_u64().unwrap() + 1);
    assert_eq!((over["preset"].clone(), acme(&over)), (Value::Null, (json!(10), json!(3))));
    for (args, part) in [(["calm", "1h"], "preset"), (["brownout-1", "25h"], "24h")] {
        let (code, _, said) = ronctl(&node, &["policy", "apply", args[0], "--ttl", args[1]]);
        assert!(code == 1 && said.contains(part), "{code} {said}");
    }
    assert_eq!(shown(&node)["preset"], Value::Null);
}

#[test]
fn a_bad_policy_stops_the_boot_and_a_missing_one_is_told() {
    let (code, said) = with_policy("version = 1\nfoo = 1\n[tenant.a]\nweight = 0\n").run_to_end();
    assert_eq!(code, 78, "{said}");
    assert!(said.contains("policy.toml:2: foo") && said.contains("policy.toml:4: tenant.a.weight"), "{said}");
    let node = Setup::new().toml("[policy]\nfile = \"rules.toml\"\n").start();
    let ready = node.mailbox_admin().get("/readyz");
    let ready: Value = serde_json::from_slice(&ready.body).unwrap();
    assert!(ready["warn"].to_string().contains("rules.toml"), "{ready}");
    send(&node.mailbox(), "orders", b"x").json(200);
    // it comes into force as soon as there is one
    std::fs::write(node.setup.dir().join("rules.toml"), "version = 1\n").unwrap();
    wait_version(&node, 2);
    send(&node.mailbox(), "orders", b"x").refused(403, "POLICY_BLOCKED");
    assert_eq!(node.mailbox_admin().get("/readyz").json(200)["warn"], json!([]));
    // a file that is gone has no lines
    std::fs::remove_file(node.setup.dir().join("rules.toml")).unwrap();
    let (code, _, said) = ronctl(&node, &["policy", "reload"]);
    assert!(code == 1 && said.contains("rules.toml: cannot be read"), "{code} {said}");
    send(&node.mailbox(), "orders", b"x").refused(403, "POLICY_BLOCKED");
    assert!(node.mailbox_admin().get("/readyz").text().contains("an older one"));
}
