//! Who may do what (SPEC §5), against the running node.

use crate::harness::{Setup, TENANT};
use crate::http::Header;
use crate::mailbox::{depths, enqueue, stat};
use crate::stream::Stream;
use ron_core::capability::attenuate;
use serde_json::{Value, json};

/// Every call on the mailbox's port, with the op that it needs; `id` is a message of topic `t`.
fn every_call(id: &str) -> Vec<(&'static str, &'static str, String, Value)> {
    let receipts = json!({"receipts": ["A"]});
    let message = format!("t/messages/{id}");
    let calls = [
        ("enqueue", "POST", "t/enqueue", json!("x")),
        ("enqueue", "POST", "t/enqueue/batch", json!({"messages": [{"payload": "x"}]})),
        ("recv", "POST", "t/recv", json!({"visibility_ms": 600_000})),
        ("recv", "POST", "t/extend", json!({"receipts": ["A"], "visibility_ms": 1000})),
        ("ack", "POST", "t/ack", receipts.clone()),
        ("nack", "POST", "t/nack", receipts),
        ("peek", "GET", "t/peek", Value::Null),
        ("peek", "GET", &message, Value::Null),
        ("peek", "GET", "t/dlq", Value::Null),
        ("stat", "GET", "t", Value::Null),
        ("stat", "GET", "", Value::Null),
        ("admin", "PUT", "t/settings", json!({"max_attempts": 3})),
        ("admin", "POST", "t/pause", json!({"what": "both"})),
        ("admin", "POST", "t/resume", json!({"what": "recv"})),
        ("admin", "POST", "t/dlq/reprocess", json!({"dry_run": true})),
        ("admin", "GET", "t/dlq/tasks", Value::Null),
        ("admin", "POST", "t/dlq/purge", json!({"filter": {}})),
        ("admin", "PUT", "t/subscribers", json!({"remove": ["copy"]})),
        ("admin", "GET", "t/subscribers", Value::Null),
        ("admin", "POST", "purged/purge", json!({"confirm": "purged"})),
        ("admin", "DELETE", "deleted", json!({"confirm": "deleted"})),
    ];
    let whole = |path: &str| format!("/v1/{TENANT}/{path}").trim_end_matches('/').to_owned();
    calls.into_iter().map(|(op, method, path, body)| (op, method, whole(path), body)).collect()
}

#[test]
fn the_matrix_of_operations() {
    let node = Setup::new().start();
    let all = node.operator();
    let id = enqueue(&all, "t", b"x", &[])["msg_id"].as_str().unwrap().to_owned();
    for topic in ["purged", "deleted", "streamed"] {
        enqueue(&all, topic, b"x", &[]);
    }
    let calls = every_call(&id);
    // the one that may change most comes last: what the others were refused has left no trace before it
    let ops = ["enqueue", "recv", "ack", "nack", "peek", "stat", "put", "get", "introspect", "admin"];
    for op in ops {
        if op == "admin" {
            assert_eq!(depths(&all, "t"), [2, 0, 1, 0], "two were sent, and one was received");
            let state = stat(&all, "t");
            assert_eq!((&state["settings"]["max_attempts"], &state["paused"]), (&json!(5), &Value::Null));
            assert_eq!(depths(&all, "purged"), [1, 0, 0, 0]);
            assert_eq!((depths(&all, "deleted"), depths(&all, "streamed")), ([1, 0, 0, 0], [0, 0, 1, 0]));
        }
        let client = node.bare().with(&node.mint(&json!({"ops": [op]})));
        for (needs, method, path, body) in &calls {
            let body = if body.is_null() { String::new() } else { body.to_string() };
            let answer = client.call(method, path, &[("Content-Type", b"application/json")], body.as_bytes());
            match op == *needs {
                true => drop(answer.json(200)),
                false => drop(answer.refused(403, "SCOPE_MISMATCH")),
            }
        }
        let streamed = json!({"visibility_ms": 600_000});
        match op {
            "recv" => assert_eq!(Stream::open(&client, "streamed", &streamed).next()["delivery"], 1),
            _ => drop(client.post("/v1/acme/streamed/recv/stream", &streamed).refused(403, "SCOPE_MISMATCH")),
        }
    }
    assert_eq!(depths(&all, "t"), [2, 0, 1, 0]);
    let state = stat(&all, "t");
    assert_eq!((&state["settings"]["max_attempts"], &state["paused"]), (&json!(3), &json!("enqueue")));
    assert_eq!(depths(&all, "purged"), [0, 0, 0, 0]);
    all.get("/v1/acme/deleted").refused(404, "NOT_FOUND");
}

#[test]
fn tokens_that_do_not_count() {
    let node = Setup::new().start();
    let good = node.token();
    let path = "/v1/acme/t/enqueue";
    let refused = |headers: &[Header<'_>], status: u16, reason: &str| {
        let answer = node.bare().call("POST", path, headers, b"x");
        answer.refused(status, reason);
        if reason == "UNAUTH" {
            assert!(answer.header("www-authenticate").is_some());
        }
    };
    let bearer = |token: &str| format!("Bearer {token}").into_bytes();
    refused(&[], 401, "UNAUTH");
    refused(&[("Authorization", b"")], 401, "UNAUTH");
    refused(&[("Authorization", b"Bearer ")], 401, "UNAUTH");
    refused(&[("Authorization", b"Basic dXNlcjpwYXNz")], 401, "UNAUTH");
    refused(&[("Authorization", good.as_bytes())], 401, "UNAUTH");
    refused(&[("Authorization", &bearer("ron1_"))], 401, "UNAUTH");
    refused(&[("Authorization", &bearer("nonsense"))], 401, "UNAUTH");
    refused(&[("Authorization", &bearer(&good.replace("ron1_", "ron2_")))], 401, "UNAUTH");
    refused(&[("Authorization", &bearer(&format!("{good}A")))], 401, "UNAUTH");
    refused(&[("Authorization", &bearer(&"A".repeat(5000)))], 401, "UNAUTH");
    refused(&[("Authorization", &bearer(&good)), ("Authorization", &bearer(&good))], 400, "MALFORMED");
    refused(&[("Authorization", b"Bearer \xff\xfe")], 400, "MALFORMED");
    refused(&[("Cookie", &[b"token=", good.as_bytes()].concat())], 401, "UNAUTH");
    // flip every tenth character: never accepted
    for at in (5..good.len()).step_by(10) {
        let mut flipped = good.clone().into_bytes();
        flipped[at] = if flipped[at] == b'A' { b'B' } else { b'A' };
        refused(&[("Authorization", &bearer(std::str::from_utf8(&flipped).unwrap()))], 401, "UNAUTH");
    }
    // another node's keys
    let other = Setup::new().start().token();
    refused(&[("Authorization", &bearer(&other))], 401, "UNAUTH");
    // a token in the query is ignored
    let answer = node.bare().call("POST", &format!("{path}?access_token={good}"), &[], b"x");
    answer.refused(401, "UNAUTH");
    node.bare().with(&good).call("POST", path, &[], b"x").json(200);
}

#[test]
fn caveats_narrow() {
    let node = Setup::new().env("RON_INTEROP__API", "true").start();
    let all = node.token();
    let send = |token: &str, path: &str, body: &[u8]| node.bare().with(token).call("POST", path, &[], body);
    let with = |caveat: &str| attenuate(&all, &[caveat.to_owned()]).unwrap();
    let enqueue = "/v1/acme/orders/enqueue";

    send(&with("exp = 1"), enqueue, b"x").refused(401, "EXPIRED_TOKEN");
    send(&with("nbf = 9999999999"), enqueue, b"x").refused(401, "EXPIRED_TOKEN");
    send(&all, "/v1/other/orders/enqueue", b"x").refused(403, "SCOPE_MISMATCH");
    for (caveat, fits) in [
        ("topic = orders", true),
        ("topic = ord*", true),
        ("topic = *", true),
        ("topic = order", false),
        ("topic = orders2", false),
        ("op = enqueue", true),
        ("op = recv,ack", false),
        ("aud = mailbox", true),
        ("aud = interop", false),
        ("ip = 127.0.0.0/8", true),
        ("ip = 10.0.0.0/8", false),
        ("max_bytes = 3", true),
        ("max_bytes = 2", false),
        ("unknown = x", false),
        ("exp = never", false),
        ("topic=orders", false),
    ] {
        let answer = send(&with(caveat), enqueue, b"abc");
        match fits {
            true => drop(answer.json(200)),
            false => drop(answer.refused(403, "SCOPE_MISMATCH")),
        }
    }
    // both must hold
    let twice = attenuate(&all, &["topic = orders".into(), "topic = other".into()]).unwrap();
    send(&twice, enqueue, b"x").refused(403, "SCOPE_MISMATCH");
    // in a batch the item alone is refused
    let batch = json!({"messages": [{"payload": "ab"}, {"payload": "abc"}]});
    let answer =
        node.bare().with(&with("max_bytes = 2")).post("/v1/acme/orders/enqueue/batch", &batch).json(200);
    assert_eq!(answer["results"][1]["reason"], "SCOPE_MISMATCH");
    assert_eq!(answer["results"][0]["duplicate"], false);
    // the public port is another audience
    let public = |token: &str| node.interop().with(token).call("POST", enqueue, &[], b"x");
    public(&with("aud = interop")).json(200);
    public(&with("aud = mailbox")).refused(403, "SCOPE_MISMATCH");
    // a rate, shared by all that descend from it
    let slow = with("rps = 1");
    let answers: Vec<u16> = (0..4).map(|_| send(&slow, enqueue, b"x").status).collect();
    assert_eq!(answers[0], 200);
    assert!(answers.contains(&429), "{answers:?}");
    let child = attenuate(&slow, &["topic = orders".into()]).unwrap();
    let limited = (0..20).map(|_| send(&child, enqueue, b"x")).find(|answer| answer.status == 429);
    limited.unwrap().refused(429, "RATE_LIMIT");
}

#[test]
fn what_is_minted_over_the_socket() {
    let setup = Setup::new();
    let node = setup.start();
    let control = node.control();
    for bad in [
        json!({"tenant": TENANT, "topic": "*", "ops": ["enqueue"]}),
        json!({"tenant": TENANT, "topic": "*", "ops": [], "ttl_ms": 1000}),
        json!({"tenant": TENANT, "topic": "*", "ops": ["fly"], "ttl_ms": 1000}),
        json!({"tenant": "ACME", "topic": "*", "ops": ["recv"], "ttl_ms": 1000}),
        json!({"tenant": TENANT, "topic": "a*b", "ops": ["recv"], "ttl_ms": 1000}),
        json!({"tenant": TENANT, "topic": "*", "ops": ["recv"], "ttl_ms": 0}),
        json!({"tenant": TENANT, "topic": "*", "ops": ["recv"], "ttl_ms": 31_u64 * 86_400_000}),
        json!({"tenant": TENANT, "topic": "*", "ops": ["recv"], "ttl_ms": 1000, "nope": 1}),
    ] {
        control.post("/ctl/cap/mint", &bad).refused(400, "MALFORMED");
    }
    // a token outlives a restart: the ring is a file of its own, closed to others
    let token = node.mint(&json!({"ops": ["enqueue"], "ttl_ms": null}));
    use std::os::unix::fs::PermissionsExt;
    for name in ["keyring", "store.redb", "ronctl.sock"] {
        let mode = std::fs::metadata(setup.data_dir().join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{name} is open to others: {mode:o}");
    }
    let node = node.kill_and_restart();
    node.bare().with(&token).call("POST", "/v1/acme/t/enqueue", &[], b"x").json(200);
    // whoever reaches the socket holds full authority, without a token
    let got = node.control().post("/v1/acme/t/recv", &json!({})).json(200);
    assert_eq!(got["messages"].as_array().unwrap().len(), 1);
    assert!(!node.log().contains(&token));
}
