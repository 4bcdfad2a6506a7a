//! What ends capabilities before their time, and what makes them (SPEC §5): revocation, rotation, and a passport that
//! is down.

use crate::harness::{Setup, TENANT, TestNode, poll, timed};
use crate::http::{Answer, Client, Door, read_answer};
use crate::mailbox::{depths, enqueue, recv_one, stat};
use ron_core::capability::{CapId, MintRequest, Token, attenuate};
use ron_node::config::{Config, Sources};
use ron_node::node::{Node, medium_of};
use ron_node::schemes::Catalogue;
use serde_json::{Value, json};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

fn cap_id(token: &str) -> String {
    CapId::of(&Token::parse(token).unwrap().nonce).to_string()
}

fn kid(token: &str) -> String {
    Token::parse(token).unwrap().kid.clone()
}

fn ronctl(node: &TestNode, args: &[&str]) -> (i32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ronctl"));
    let output = command.args(args).arg("--socket").arg(node.ready["socket"].as_str().unwrap());
    let output = output.env_remove("RON_SOCKET").output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code().unwrap(), text(&output.stdout) + &text(&output.stderr))
}

fn keys(node: &TestNode) -> Vec<Value> {
    node.control().get("/ctl/keys").json(200)["keys"].as_array().unwrap().clone()
}

fn send(node: &TestNode, token: &str) -> Answer {
    node.bare().with(token).call("POST", "/v1/acme/t/enqueue", &[], b"x")
}

#[test]
fn a_revoked_capability_is_refused_at_once_and_ever_after() {
    let node = Setup::new().start();
    let (one, other) = (node.token(), node.token());
    let child = attenuate(&one, &["topic = t".into()]).unwrap();
    for token in [&one, &child, &other] {
        send(&node, token).json(200); // from here on each is remembered
    }
    let revoked = node.control().post("/ctl/cap/revoke", &json!({"cap_ids": [cap_id(&one)]})).json(200);
    assert_eq!(revoked, json!({"revoked": [{"cap_id": cap_id(&one), "already": false}]}));
    for token in [&one, &child] {
        let answer = send(&node, token);
        assert!(answer.header("www-authenticate").is_some());
        assert!(answer.refused(401, "UNAUTH").contains("revoked"));
        node.bare().with(token).get("/v1/acme").refused(401, "UNAUTH");
    }
    send(&node, &other).json(200);
    assert_eq!(depths(&node.bare().with(&other), "t"), [4, 0, 0, 0], "what was refused has no effect");

    let node = node.kill_and_restart();
    send(&node, &one).refused(401, "UNAUTH");
    send(&node, &child).refused(401, "UNAUTH");
    send(&node, &other).json(200);
    let path = node.setup.data_dir().join("revoked");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
    let (code, text) = ronctl(&node, &["cap", "revoke", &cap_id(&one)]);
    assert_eq!((code, text.trim()), (0, &*format!("{}  was revoked already", cap_id(&one))));
    let (code, text) = ronctl(&node, &["cap", "revoke", &other]);
    assert!(code == 2 && text.contains("16 lowercase hex digits") && !text.contains(&other), "{text}");
    for bad in [json!({}), json!({"cap_ids": ["x"]}), json!({"kids": ["K"]}), json!({"cap_id": "x"})] {
        node.control().post("/ctl/cap/revoke", &bad).refused(400, "MALFORMED");
    }
    assert!(!std::fs::read_to_string(&path).unwrap().contains(&one[5..40]));
    assert!(node.log().contains(&format!("cap {}", cap_id(&one))), "who revoked what is in the log");
}

#[test]
fn a_key_is_rotated_and_then_revoked() {
    let node = Setup::new().start();
    let old = node.mint(&json!({"ops": ["enqueue", "stat"], "ttl_ms": null}));
    send(&node, &old).json(200);
    let old_kid = kid(&old);
    let only = json!({"kids": [old_kid]});
    let text = node.control().post("/ctl/cap/revoke", &only).refused(400, "MALFORMED");
    assert!(text.contains("ronctl key rotate"), "{text}");

    let (code, text) = ronctl(&node, &["key", "rotate", "--json"]);
    let rotated: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, &rotated["retired"][0]["kid"]), (0, &json!(old_kid)));
    let new = node.token();
    assert_eq!(kid(&new), rotated["kid"].as_str().unwrap());
    assert_ne!(kid(&new), old_kid);
    let in_force = |node: &TestNode| {
        send(node, &old).json(200);
        send(node, &new).json(200);
        assert_eq!(kid(&node.token()), kid(&new));
        let [was, is] = &keys(node)[..] else { panic!("two keys") };
        assert_eq!((&was["kid"], &was["minting"]), (&json!(old_kid), &json!(false)));
        assert_eq!(was["not_after"], rotated["retired"][0]["not_after"]);
        assert_eq!(
            (&is["kid"], &is["minting"], &is["not_after"]),
            (&rotated["kid"], &json!(true), &Value::Null)
        );
    };
    in_force(&node);
    let node = node.kill_and_restart();
    in_force(&node);
    let ring = node.setup.data_dir().join("keyring");
    assert_eq!(std::fs::metadata(&ring).unwrap().permissions().mode() & 0o7777, 0o600);

    let (code, text) = ronctl(&node, &["cap", "revoke", "--kid", &old_kid]);
    assert_eq!((code, text.trim()), (0, &*format!("{old_kid}  revoked")));
    send(&node, &old).refused(401, "UNAUTH");
    send(&node, &new).json(200);
    let node = node.kill_and_restart();
    send(&node, &old).refused(401, "UNAUTH");
    send(&node, &new).json(200);
    let (code, text) = ronctl(&node, &["key", "list"]);
    assert!(code == 0 && text.contains("revoked") && text.contains("minting"), "{text}");
    // no key is ever shown
    let file = std::fs::read_to_string(&ring).unwrap();
    let secrets = file.lines().filter_map(|line| line.strip_prefix("key = \"")?.strip_suffix('"'));
    let shown = keys(&node).iter().map(Value::to_string).collect::<String>() + &text + &node.log();
    assert_eq!(secrets.inspect(|secret| assert!(!shown.contains(secret))).count(), 2);
}

#[test]
fn a_waiting_receive_ends_with_its_capability() {
    let node = Setup::new().start();
    let other = node.mailbox();
    enqueue(&other, "w", b"first", &[]);
    recv_one(&other, "w", 60_000);
    let waiting = |token: &str| {
        let client = node.bare().with(token);
        let request = client.request("POST", "/v1/acme/w/recv", &[], br#"{"wait_ms":20000}"#);
        let stream = client.begin(&request);
        poll("a waiting receive", || (stat(&other, "w")["waiters"] == 1).then_some(()));
        (stream, request)
    };
    let revoke = |token: &str| {
        node.control().post("/ctl/cap/revoke", &json!({"cap_ids": [cap_id(token)]})).json(200);
    };
    let token = node.token();
    let (mut stream, request) = waiting(&token);
    revoke(&token);
    let (answer, took) = timed(|| read_answer(&mut stream, &request).unwrap());
    answer.refused(401, "UNAUTH");
    assert!(took < Duration::from_secs(1), "{took:?} after the revocation");

    // a message that comes before the waiter has noticed is not handed to it
    let token = node.token();
    let (mut stream, request) = waiting(&token);
    revoke(&token);
    let sent = enqueue(&other, "w", b"second", &[]);
    read_answer(&mut stream, &request).unwrap().refused(401, "UNAUTH");
    poll("the message given back", || (depths(&other, "w") == [1, 0, 1, 0]).then_some(()));
    assert_eq!(recv_one(&other, "w", 60_000)["msg_id"], sent["msg_id"]);
}

#[test]
fn a_body_that_takes_its_time_ends_with_its_capability() {
    let node = Setup::new().start();
    let other = node.mailbox();
    enqueue(&other, "slow", b"first", &[]);
    let batch = br#"{"messages":[{"payload":"x"}]}"#;
    for (call, body) in [("enqueue", &b"second"[..]), ("enqueue/batch", batch)] {
        let token = node.token();
        let path = format!("/v1/acme/slow/{call}");
        let request = node.bare().with(&token).request("POST", &path, &[], body);
        let (begun, rest) = request.split_at(request.len() - 3);
        let mut stream = node.bare().begin(begun);
        let in_flight = format!(r#"inflight_requests{{route="/{call}"}} 1"#);
        let metrics = || node.mailbox_admin().get("/metrics").text().to_owned();
        poll("the request's head read", || metrics().lines().any(|line| line == in_flight).then_some(()));
        node.control().post("/ctl/cap/revoke", &json!({"cap_ids": [cap_id(&token)]})).json(200);
        stream.write_all(rest).unwrap();
        read_answer(&mut stream, &request).unwrap().refused(401, "UNAUTH");
    }
    assert_eq!(depths(&other, "slow"), [1, 0, 0, 0]);
}

#[test]
fn damaged_revocations_stop_the_start() {
    let setup = Setup::new();
    let node = setup.start();
    let token = node.token();
    node.control().post("/ctl/cap/revoke", &json!({"cap_ids": [cap_id(&token)]})).json(200);
    let path = setup.data_dir().join("revoked");
    let whole = std::fs::read(&path).unwrap();
    drop(node);
    let mut flipped = whole.clone();
    flipped[20] ^= 1;
    for damaged in [&flipped[..], &whole[..whole.len() - 1], b""] {
        std::fs::write(&path, damaged).unwrap();
        let (code, log) = setup.run_to_end();
        assert!(code == 74 && log.contains(path.to_str().unwrap()), "{code}: {log}");
        assert_eq!(std::fs::read(&path).unwrap(), damaged, "it is kept as it is");
    }
    std::fs::write(&path, &whole).unwrap();
    send(&setup.start(), &token).refused(401, "UNAUTH");
}

#[test]
fn a_mounted_ring_is_never_rotated_and_one_in_memory_leaves_nothing() {
    let setup = Setup::new();
    drop(setup.start());
    let ring = setup.dir().join("ring");
    std::fs::copy(setup.data_dir().join("keyring"), &ring).unwrap();
    let before = std::fs::read(&ring).unwrap();
    let node = setup.clone().env("RON_KEYRING", ring.to_str().unwrap()).start();
    let text = node.control().call("POST", "/ctl/key/rotate", &[], b"").refused(403, "POLICY_BLOCKED");
    assert!(text.contains("RON_KEYRING"), "{text}");
    assert_eq!((keys(&node).len(), std::fs::read(&ring).unwrap()), (1, before));
    let (code, text) = ronctl(&node, &["key", "rotate"]);
    assert!(code == 1 && text.contains("POLICY_BLOCKED"), "{text}");
    drop(node);

    let setup = Setup::new().env("AMNESIA", "on");
    let node = setup.start();
    let (old, revoked) = (node.token(), node.token());
    node.control().call("POST", "/ctl/key/rotate", &[], b"").json(200);
    node.control().post("/ctl/cap/revoke", &json!({"cap_ids": [cap_id(&revoked)]})).json(200);
    send(&node, &old).json(200);
    send(&node, &revoked).refused(401, "UNAUTH");
    assert_ne!(kid(&node.token()), kid(&old));
    assert!(!setup.data_dir().exists());
}

/// A node in this process, so that its actors can be killed.
struct Inside {
    runtime: tokio::runtime::Runtime,
    node: Option<Node>,
    _setup: Setup,
}

impl Inside {
    fn start() -> Inside {
        let setup = Setup::new();
        drop(setup.command()); // writes the configuration
        let sources = Sources { file: Some(setup.config_file()), ..Sources::default() };
        let config = Config::load(&sources, &Catalogue).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let medium = medium_of(&config);
        let node = runtime.block_on(Box::pin(Node::boot_on(config, medium))).unwrap();
        Inside { runtime, node: Some(node), _setup: setup }
    }

    fn node(&self) -> &Node {
        self.node.as_ref().unwrap()
    }

    fn tokens(&self, count: usize) -> Vec<String> {
        let request = json!({
            "tenant": TENANT, "topic": "*", "ttl_ms": 3_600_000, "ops": ["enqueue", "stat"],
        });
        let request: MintRequest = serde_json::from_value(request).unwrap();
        (0..count).map(|_| self.node().passport().mint(&request).unwrap().token).collect()
    }

    fn at(&self, listener: &str) -> Client {
        Client::new(Door::Tcp(self.node().addresses()[listener]))
    }

    fn send(&self, token: &str) -> Answer {
        self.at("mailbox").with(token).call("POST", "/v1/acme/t/enqueue", &[], b"x")
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        if let Some(node) = self.node.take() {
            self.runtime.block_on(node.shut());
        }
    }
}

#[test]
fn while_the_passport_is_down_only_remembered_tokens_count() {
    let inside = Inside::start();
    let (known, mut unseen) = (inside.tokens(1).remove(0), inside.tokens(400));
    inside.send(&known).json(200);
    let mut stored = 1;
    // it comes back within 100, 200, 400, 800 ms, drawn at random: one of these is long enough to look at it
    let mut try_unseen = || {
        let answer = inside.send(&unseen.pop().unwrap());
        stored += u64::from(answer.status == 200);
        (answer.status == 503).then_some(answer)
    };
    let mut seen_down = false;
    let mut known_sent = 0;
    for _ in 0..4 {
        let killed = inside.node().tree().root.kill_child("passport");
        assert!(inside.runtime.block_on(killed));
        let Some(before) = (0..20).find_map(|_| try_unseen()) else { continue };
        inside.send(&known).json(200);
        known_sent += 1;
        let after = try_unseen();
        poll("the passport back", || inside.node().passport().is_up().then_some(()));
        if let Some(after) = after {
            for refused in [before, after] {
                refused.refused(503, "DOWNSTREAM_UNAVAILABLE");
                assert_eq!(refused.header("x-effect"), Some("none"));
            }
            seen_down = true;
            break;
        }
    }
    assert!(seen_down, "it was never down for long enough to be seen");
    poll("an unknown token accepted", || try_unseen().is_none().then_some(()));
    let fresh = inside.tokens(1).remove(0);
    let stat = inside.at("mailbox").with(&fresh).get("/v1/acme/t").json(200);
    assert_eq!(stat["ready"], stored + known_sent, "what was refused has no effect");
    let metrics = inside.at("mailbox_admin").get("/metrics");
    let restarts = r#"service_restarts_total{service="passport"} "#;
    let line = metrics.text().lines().find_map(|line| line.strip_prefix(restarts)).unwrap();
    assert!(line.parse::<u64>().unwrap() >= 1, "{line}");
}
