//! What operators see of a running node: its events, its quarantine, and whether amnesia holds (SPEC §2, §4.11, §9).

use crate::harness::{Setup, TestNode, poll};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::Duration;

fn ronctl(node: &TestNode, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ronctl"));
    command.args(args).arg("--socket").arg(node.ready["socket"].as_str().unwrap()).env_remove("RON_SOCKET");
    command
}

/// Exit code, and what was printed.
fn run(node: &TestNode, args: &[&str]) -> (i32, String) {
    let output = ronctl(node, args).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code().unwrap(), text(&output.stdout) + &text(&output.stderr))
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn events_are_told_back_and_then_as_they_come() {
    let mut node = Setup::new().start();
    let mut tail =
        ronctl(&node, &["tail", "--topic", "kernel", "--json"]).stdout(Stdio::piped()).spawn().unwrap();
    let (tell, live) = std::sync::mpsc::channel();
    let printed = BufReader::new(tail.stdout.take().unwrap());
    std::thread::spawn(move || printed.lines().map_while(Result::ok).try_for_each(|line| tell.send(line)));
    node.signal(Signal::HUP);
    let reloaded = poll("the reload is told back", || {
        let (code, text) =
            run(&node, &["tail", "--since", "15m", "--no-follow", "--topic", "kernel", "--json"]);
        assert_eq!(code, 0, "{text}");
        lines(&text).into_iter().find(|event| event["event"] == "ConfigUpdated")
    });
    assert_eq!(reloaded["topic"], "kernel.config_updated");
    assert!(reloaded["ts"].as_str().unwrap().ends_with('Z') && reloaded["version"].is_u64(), "{reloaded}");
    // when the tail begins to see things is its own luck; what comes then it must see
    let mut number = 0;
    let revoked = poll("a revocation is told as it comes", || {
        number += 1;
        let id = format!("{number:016x}");
        let done = node.control().post("/ctl/cap/revoke", &json!({ "cap_ids": [id] })).json(200);
        assert_eq!(done["revoked"][0]["already"], false);
        let line = live.recv_timeout(Duration::from_millis(200)).ok()?;
        line.contains("CapRevoked").then_some(line)
    });
    let revoked: Value = serde_json::from_str(&revoked).unwrap();
    assert!(revoked["cap_id"].as_str().unwrap().starts_with("0000000000"), "{revoked}");

    let (code, text) = run(&node, &["tail", "--since", "15m", "--no-follow", "--topic", "mailbox"]);
    assert_eq!((code, text.as_str()), (0, ""), "nothing under another topic");
    let (code, text) = run(&node, &["tail", "--topic", "a b"]);
    assert!(code == 1 && text.contains("--topic"), "{text}");
    node.control().get("/ctl/tail?sinse_ms=1").refused(400, "MALFORMED");

    node.signal(Signal::TERM);
    assert!(node.wait_exit().success(), "a tail does not hold up the end");
    assert!(tail.wait().unwrap().success());
}

/// ronctl takes a node for dead that says nothing for 30 s.
#[test]
fn a_tail_that_has_nothing_to_say_says_so() {
    let node = Setup::new().start();
    let mut socket = UnixStream::connect(node.ready["socket"].as_str().unwrap()).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    socket.write_all(b"GET /ctl/tail?topic=nothing&follow=true HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n1\r\n\n\r\n") {
        let mut some = [0; 1_024];
        let n = socket.read(&mut some).unwrap();
        assert!(n > 0, "{}", String::from_utf8_lossy(&answer));
        answer.extend_from_slice(&some[..n]);
    }
}

#[test]
fn nothing_is_released_that_is_not_in_quarantine() {
    let node = Setup::new().start();
    assert_eq!(run(&node, &["quarantine", "list"]), (0, "nothing is in quarantine\n".to_owned()));
    let nothing = (0, "nothing is in quarantine\n".to_owned());
    assert_eq!(run(&node, &["quarantine", "release", "--all"]), nothing);
    for name in ["acme/nothing", "github"] {
        let (code, text) = run(&node, &["quarantine", "release", name]);
        assert!(code == 1 && text.contains("NOT_FOUND") && text.contains(name), "{text}");
    }
    assert_eq!(run(&node, &["quarantine", "release"]).0, 2);
    node.control().post("/ctl/quarantine/release", &json!({"nam": "x"})).refused(400, "MALFORMED");
}

#[test]
fn amnesia_is_verified_item_by_item_and_a_durable_node_is_exposed() {
    let durable = Setup::new().start();
    let (code, text) = run(&durable, &["amnesia", "verify", "--json"]);
    let found = &lines(text.lines().next().unwrap())[0];
    let state = |found: &Value, name: &str| {
        let items = found["items"].as_array().unwrap();
        items.iter().find(|item| item["item"] == name).unwrap()["state"].clone()
    };
    assert_eq!(code, 1);
    for exposed in ["amnesia", "data-dir", "open-files", "core-dumps"] {
        assert_eq!(state(found, exposed), "exposed", "{found}");
    }

    let node = Setup::new().env("AMNESIA", "on").start();
    node.mailbox().call("POST", "/v1/acme/t/enqueue", &[], b"canary").json(200);
    let (code, text) = run(&node, &["amnesia", "verify", "--json"]);
    let found = &lines(text.lines().next().unwrap())[0];
    for fine in ["amnesia", "data-dir", "open-files", "mappings", "core-dumps"] {
        assert_eq!(state(found, fine), "ok", "{found}");
    }
    let all = found["items"].as_array().unwrap().iter().all(|item| item["state"] == "ok");
    assert_eq!(code, i32::from(!all), "{text}");
}
