//! How a node starts, drains, ends, and what it leaves.

use crate::harness::{Provider, Setup, TestNode, borrowed, poll, wall};
use crate::http::read_answer;
use crate::mailbox::{depths, enqueue, receipt, recv, recv_one, settle, stat};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::process::Command;

fn ready(node: &TestNode) -> Value {
    node.mailbox_admin().get("/readyz").json(200)
}

#[test]
fn sigterm_drains() {
    let slack = Provider::new("slack", "slack");
    let setup = slack.add_to(Setup::new().env("RON_NODE__DRAIN_MS", "20000"), "slack", "");
    let mut node = setup.start();
    let client = node.mailbox();
    for _ in 0..2 {
        enqueue(&client, "d", b"x", &[]);
    }
    let held = recv_one(&client, "d", 60_000);
    enqueue(&client, "wait", b"x", &[]);
    recv_one(&client, "wait", 60_000);
    let request = client.request("POST", "/v1/acme/wait/recv", &[], br#"{"wait_ms":20000}"#);
    let mut waiting = client.begin(&request);
    poll("a waiting receive", || (stat(&client, "wait")["waiters"] == 1).then_some(()));

    node.signal(Signal::TERM);
    let empty = read_answer(&mut waiting, &request).unwrap().json(200);
    assert_eq!(empty, json!({"messages": []}), "a waiting receive ends at once, empty");
    for admin in [node.mailbox_admin(), node.interop_admin()] {
        let answer = admin.get("/readyz");
        assert!(answer.header("retry-after").is_some());
        let state = answer.json(503);
        let missing = state["missing"].as_array().unwrap();
        assert!(missing.contains(&json!("drain")), "{state}");
        assert_eq!((&state["ready"], &state["degraded"]), (&json!(false), &json!(true)));
        assert_eq!(state["shed_writes"], true);
        assert!(state["retry_after_ms"].as_u64().is_some());
        assert_eq!(admin.get("/readyz?for=reads").status, 200);
        assert_eq!(admin.get("/healthz").status, 200);
    }
    client.call("POST", "/v1/acme/d/enqueue", &[], b"x").refused(503, "DEGRADED");
    client
        .post("/v1/acme/d/enqueue/batch", &json!({"messages": [{"payload": "x"}]}))
        .refused(503, "DEGRADED");
    client.post("/v1/acme/d/recv", &json!({})).refused(503, "DEGRADED");
    let webhook = |body: &[u8]| {
        let headers = slack.sign("E1", wall(), body);
        node.interop().call("POST", "/webhooks/slack", &borrowed(&headers), body)
    };
    webhook(br#"{"event_id":"E1","type":"event_callback"}"#).refused(503, "DEGRADED");
    let shaken = webhook(br#"{"challenge":"c-1","type":"url_verification"}"#);
    assert_eq!((shaken.status, shaken.text()), (200, "c-1"), "handshakes are answered");
    assert_eq!(depths(&client, "d"), [1, 0, 1, 0], "stat goes on");
    assert_eq!(client.get("/v1/acme/d/peek").status, 200);
    let extended =
        settle(&client, "d", "extend", &json!({"receipts": [receipt(&held)], "visibility_ms": 60_000}));
    assert_eq!(extended, [json!({"ok": true})]);
    assert_eq!(settle(&client, "d", "ack", &json!({"receipts": [receipt(&held)]})), [json!({"ok": true})]);
    let rest = client.get("/v1/acme/wait/peek?state=vis").json(200);
    assert_eq!(rest["messages"].as_array().unwrap().len(), 1);
    // one lease is still out; a second signal ends at once
    node.signal(Signal::INT);
    assert_eq!(node.wait_exit().code(), Some(130));

    let mut node = setup.start();
    let client = node.mailbox();
    assert_eq!(depths(&client, "d"), [1, 0, 0, 0]);
    assert_eq!(depths(&client, "wait"), [0, 0, 1, 0]);
    node.signal(Signal::TERM);
    poll("the drain", || (node.mailbox_admin().get("/readyz").status == 503).then_some(()));
    node.signal(Signal::TERM);
    assert_eq!(node.wait_exit().code(), Some(143));
}

#[test]
fn a_drained_node_ends_with_0_and_starts_again() {
    let setup = Setup::new();
    let mut node = setup.start();
    let client = node.mailbox();
    enqueue(&client, "q", b"kept", &[("Content-Type", b"text/plain")]);
    let socket = setup.data_dir().join("ronctl.sock");
    assert!(socket.exists());
    node.signal(Signal::INT);
    assert_eq!(node.wait_exit().code(), Some(0));
    poll("the log's last line", || node.log().contains("\"msg\":\"stopped\",\"code\":0").then_some(()));
    assert!(!socket.exists(), "the socket is removed");
    let node = setup.start();
    assert_eq!(recv(&node.mailbox(), "q", &json!({}))[0]["payload"], "kept");
}

#[test]
fn every_state_survives_a_sigkill() {
    let node = Setup::new().start();
    let client = node.mailbox();
    let text: [(&str, &[u8]); 1] = [("Content-Type", b"text/plain")];
    let send = |topic: &str, body: &str| enqueue(&client, topic, body.as_bytes(), &text);
    let nack = |topic: &str, message: &Value, more: Value| {
        let mut body = json!({"receipts": [receipt(message)]});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        assert_eq!(settle(&client, topic, "nack", &body), [json!({"ok": true})]);
    };
    // acked, in flight on its second attempt, delayed by a failure, dead, ready: one of each in one queue
    for body in ["acked", "held", "failed", "dead", "ready"] {
        send("all", body);
    }
    let acked = recv_one(&client, "all", 60_000);
    assert_eq!(settle(&client, "all", "ack", &json!({"receipts": [receipt(&acked)]})), [json!({"ok": true})]);
    let held = recv_one(&client, "all", 60_000);
    nack("all", &held, json!({"mode": "fail", "delay_ms": 0}));
    let mut three = recv(&client, "all", &json!({"max_messages": 3, "visibility_ms": 60_000}));
    three.sort_by_key(|message| message["payload"].to_string());
    let [dead, failed, held] = <[Value; 3]>::try_from(three).unwrap_or_else(|got| panic!("{got:?}"));
    assert_eq!((&held["payload"], &held["attempt"]), (&json!("held"), &json!(2)));
    nack("all", &failed, json!({"mode": "fail", "delay_ms": 60_000, "reason": "later"}));
    nack("all", &dead, json!({"mode": "reject", "reason": "poison"}));
    enqueue(&client, "soon", b"x", &[("X-Delay-Ms", b"300")]);
    enqueue(&client, "brief", b"x", &[("X-Ttl-Ms", b"300")]);
    let before = stat(&client, "all");
    assert_eq!(depths(&client, "all"), [1, 1, 1, 1]);
    let walk = |client: &crate::http::Client| {
        ["ready", "delayed", "vis", "dlq"].map(|state| {
            let mut page = client.get(&format!("/v1/acme/all/peek?state={state}")).json(200);
            let message = page["messages"][0].take();
            // deadlines of leases move by what the node was down
            let fields =
                ["msg_id", "payload", "attempt", "delivery", "enqueued_at", "dead_letter", "corr_id"];
            fields.map(|field| message[field].clone())
        })
    };
    let seen = walk(&client);

    let node = node.kill_and_restart();
    let client = node.mailbox();
    assert_eq!(walk(&client), seen);
    let after = stat(&client, "all");
    for field in ["ready", "delayed", "vis", "dlq", "dedup_keys", "settings"] {
        assert_eq!(after[field], before[field], "{field}");
    }
    // receipts from before: the one in flight settles, the others are what they were
    let receipts = [&held, &acked, &failed, &dead].map(receipt);
    let outcomes = settle(&client, "all", "ack", &json!({ "receipts": receipts }));
    let stale = json!({"ok": false, "reason": "STALE_RECEIPT"});
    assert_eq!(outcomes, [json!({"ok": true}), json!({"ok": true}), stale.clone(), stale]);
    assert_eq!(recv_one(&client, "all", 60_000)["payload"], "ready");
    // delays and lives go on while nobody runs
    recv_one(&client, "soon", 60_000);
    poll("the end of its life", || (depths(&client, "brief") == [0, 0, 0, 0]).then_some(()));
}

#[test]
fn a_drain_does_not_wait_for_ever() {
    let mut node = Setup::new().env("RON_NODE__DRAIN_MS", "200").start();
    let client = node.mailbox();
    enqueue(&client, "q", b"x", &[]);
    recv_one(&client, "q", 60_000);
    node.signal(Signal::TERM);
    assert_eq!(node.wait_exit().code(), Some(0));
}

#[test]
fn a_data_dir_or_a_port_has_one_node() {
    let setup = Setup::new();
    let node = setup.start();
    let (code, said) = setup.run_to_end();
    assert_eq!(code, 75, "{said}");
    assert!(said.contains("data_dir") && !said.contains("panicked"), "{said}");
    let port = node.bare().addr().to_string();
    let (code, said) = Setup::new().env("MAILBOX_LISTEN", port.clone()).run_to_end();
    assert_eq!(code, 75, "{said}");
    assert!(said.contains(&port), "{said}");
    // the first one took no harm: its socket answers
    assert_eq!(node.control().get("/ctl/status").json(200)["ready"], true);
    enqueue(&node.mailbox(), "q", b"x", &[]);
}

#[test]
fn a_store_that_is_none_is_74() {
    let setup = Setup::new();
    std::fs::create_dir_all(setup.data_dir()).unwrap();
    std::fs::write(setup.data_dir().join("store.redb"), vec![b'?'; 100_000]).unwrap();
    let (code, said) = setup.run_to_end();
    assert_eq!(code, 74, "{said}");
    assert!(said.contains("store") && !said.contains("panicked"), "{said}");
    assert_eq!(
        std::fs::read(setup.data_dir().join("store.redb")).unwrap(),
        vec![b'?'; 100_000],
        "left as it was"
    );
}

#[test]
fn readiness_and_status_say_what_there_is() {
    let setup = Setup::new();
    let node = setup.start();
    assert_eq!(ready(&node), json!({"ready": true, "warn": []}));
    assert_eq!(node.interop_admin().get("/readyz").json(200), json!({"ready": true, "warn": []}));
    for admin in [node.mailbox_admin(), node.interop_admin()] {
        assert_eq!(admin.get("/healthz").status, 200);
        assert_eq!(admin.call("HEAD", "/healthz", &[], b"").status, 200);
        assert_eq!(admin.raw(b"GET /healthz HTTP/1.0\r\n\r\n").status, 200);
    }
    let version = node.interop().get("/version").json(200);
    assert_eq!((&version["name"], &version["profile"]), (&json!("ron-node"), &json!("macronode")));
    enqueue(&node.mailbox(), "q", b"x", &[]);

    let check = |status: &Value| {
        assert_eq!((&status["ready"], &status["degraded"]), (&json!(true), &json!(false)), "{status}");
        assert_eq!((&status["missing"], &status["quarantined"]), (&json!([]), &json!([])));
        assert_eq!((&status["profile"], &status["amnesia"]), (&json!("macronode"), &json!(false)));
        assert_eq!((&status["pid"], &status["topics"]), (&json!(node.pid()), &json!(1)));
        assert!(status["uptime_ms"].is_u64() && status["version"].is_string() && status["store"].is_object());
        for name in ["interop", "interop_admin", "mailbox", "mailbox_admin"] {
            assert_eq!(status["addresses"][name], node.ready[name], "{name}");
        }
    };
    check(&node.control().get("/ctl/status").json(200));
    let ronctl = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ronctl"));
        let output = command.env_clear().current_dir(setup.dir()).args(args).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let socket = setup.data_dir().join("ronctl.sock").display().to_string();
    for at in [&["--socket", &socket][..], &["--config", &setup.config_file().display().to_string()], &[]] {
        let (code, out) = ronctl(&[&["status", "--json"], at].concat());
        assert_eq!(code, Some(0), "{out}");
        check(&serde_json::from_str(&out).unwrap());
    }
    let (code, _) = ronctl(&["status", "--socket", "/nonexistent/ronctl.sock"]);
    assert_eq!(code, Some(69));
}

#[test]
fn amnesia_keeps_nothing() {
    let setup = Setup::new().env("AMNESIA", "on");
    let node = setup.start();
    assert!(!setup.data_dir().exists(), "no directory is made");
    let client = node.mailbox();
    let sent = enqueue(&client, "q", b"x", &[("Idempotency-Key", b"k")]);
    assert_eq!(sent["durability"], "ram");
    assert_eq!(enqueue(&client, "q", b"x", &[("Idempotency-Key", b"k")])["duplicate"], true);
    let got = recv_one(&client, "q", 60_000);
    assert_eq!(settle(&client, "q", "ack", &json!({"receipts": [receipt(&got)]})), [json!({"ok": true})]);
    let status = node.control().get("/ctl/status").json(200);
    assert_eq!((&status["amnesia"], &status["profile"]), (&json!(true), &json!("macronode")));
    let metrics = node.mailbox_admin().get("/metrics");
    assert!(metrics.text().lines().any(|line| line == "amnesia_mode 1"), "{}", metrics.text());

    enqueue(&client, "q", b"gone", &[]);
    let token = node.token();
    let node = node.kill_and_restart();
    node.mailbox().get("/v1/acme/q").refused(404, "NOT_FOUND");
    node.bare().with(&token).get("/v1/acme/q").refused(401, "UNAUTH");
    // a micronode is amnesia by profile
    let micro = Setup::new().arg("--profile").arg("micronode").start();
    let status = micro.control().get("/ctl/status").json(200);
    assert_eq!((&status["amnesia"], &status["profile"]), (&json!(true), &json!("micronode")));
}

#[test]
fn memory_is_taken_in_small_pages() {
    let small = |node: &TestNode| {
        let status = std::fs::read_to_string(format!("/proc/{}/status", node.pid())).unwrap();
        // a kernel before 5.0 does not tell
        let line = status.lines().find_map(|line| line.strip_prefix("THP_enabled:"))?;
        Some(line.trim() == "0")
    };
    let own = std::fs::read_to_string("/proc/self/status").unwrap().contains("THP_enabled:");
    let micro = Setup::new().arg("--profile").arg("micronode").start();
    assert_eq!(small(&micro), own.then_some(true));
    assert_eq!(enqueue(&micro.mailbox(), "q", b"x", &[])["durability"], "ram");
    assert_eq!(small(&Setup::new().start()), own.then_some(true));
}

#[test]
fn amnesia_does_not_sit_on_a_durable_nodes_files() {
    let setup = Setup::new();
    enqueue(&setup.start().mailbox(), "q", b"x", &[]);
    let (code, said) = setup.clone().env("AMNESIA", "on").run_to_end();
    assert_eq!(code, 78, "{said}");
    assert!(said.contains("data_dir"), "{said}");
    // nor does it take what it would have to write to
    for (text, named) in
        [("[auth]\nkeyring = \"ring\"\n", "keyring"), ("[store]\nsnapshot_dir = \"s\"\n", "snapshot_dir")]
    {
        let other = Setup::new().env("AMNESIA", "on").toml(text);
        let (code, said) = other.run_to_end();
        assert!(code == 78 && said.contains(named), "{code}: {said}");
        assert!(!other.data_dir().exists() && !other.dir().join("ring").exists(), "nothing was made");
    }
    assert_eq!(recv(&setup.start().mailbox(), "q", &json!({})).len(), 1);
}

#[test]
fn dev_works_as_printed() {
    // --dev keeps its data in a directory of its own and prints what can be pasted
    let setup = Setup::new();
    let mut command = Command::new(env!("CARGO_BIN_EXE_ron-node"));
    command.env_clear().env("TMPDIR", setup.dir()).current_dir(setup.dir()).arg("--dev");
    for name in ["INTEROP__BIND_ADDR", "INTEROP__METRICS_ADDR", "MAILBOX__LISTEN", "MAILBOX__METRICS_ADDR"] {
        command.env(format!("RON_{name}"), "127.0.0.1:0");
    }
    command.env("RON_MAILBOX__OAP_LISTEN", "127.0.0.1:0").env("RON_LOG__FORMAT", "json");
    let mut node = crate::harness::start_command(&setup, command);
    let banner = node.log();
    let curl = banner.lines().find(|line| line.contains("/webhooks/github")).unwrap();
    let mut parts = curl.split('\'');
    let mut headers = Vec::new();
    let mut body = "";
    while let (Some(flag), Some(value)) = (parts.next(), parts.next()) {
        match flag.trim().rsplit(' ').next() {
            Some("-H") => headers.extend(value.split_once(": ").map(|(n, v)| (n.to_owned(), v.to_owned()))),
            Some("-d") => body = value,
            _ => panic!("{flag}"),
        }
    }
    let headers = borrowed(&headers);
    node.interop().call("POST", "/webhooks/github", &headers, body.as_bytes()).json(202);
    let token = banner.lines().find_map(|line| line.trim().strip_prefix("export TOKEN=")).unwrap();
    let client = node.bare().with(token);
    let got = client.post("/v1/dev/github/recv", &json!({})).json(200);
    assert_eq!(got["messages"][0]["payload"], body);
    assert!(!setup.dir().join("data").exists());
    let left =
        || std::fs::read_dir(setup.dir()).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    assert_eq!(left().len(), 1, "{:?}", left());
    node.signal(Signal::TERM);
    assert_eq!(node.wait_exit().code(), Some(0));
    assert_eq!(left().len(), 0, "{:?} is left", left());
}
