//! What operators see of a running node: its events, its quarantine, and whether amnesia holds (SPEC §2, §4.11, §9).

use crate::harness::{Setup, TestNode, poll};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

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
    let mut live = BufReader::new(tail.stdout.take().unwrap());
    node.signal(Signal::HUP);
    let reloaded = poll("the reload is told back", || {
        let (code, text) =
            run(&node, &["tail", "--since", "15m", "--no-follow", "--topic", "kernel", "--json"]);
        assert_eq!(code, 0, "{text}");
        lines(&text).into_iter().find(|event| event["event"] == "ConfigUpdated")
    });
    assert_eq!(reloaded["topic"], "kernel.config_updated");
    assert!(reloaded["ts"].as_str().unwrap().ends_with('Z') && reloaded["version"].is_u64(), "{reloaded}");
    let mut next = || {
        let mut line = String::new();
        live.read_line(&mut line).unwrap();
        line
    };
    // whether the tail was there before the reload is its own luck; what comes next it must see
    let id = node.control().post("/ctl/cap/revoke", &json!({"cap_ids": ["00112233aabbccdd"]})).json(200);
    assert_eq!(id["revoked"][0]["already"], false);
    let revoked = std::iter::repeat_with(&mut next).find(|line| line.contains("CapRevoked")).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&revoked).unwrap()["cap_id"], "00112233aabbccdd");

    let (code, text) = run(&node, &["tail", "--since", "15m", "--no-follow", "--topic", "mailbox"]);
    assert_eq!((code, text.as_str()), (0, ""), "nothing under another topic");
    let (code, text) = run(&node, &["tail", "--topic", "a b"]);
    assert!(code == 1 && text.contains("--topic"), "{text}");
    node.control().get("/ctl/tail?sinse_ms=1").refused(400, "MALFORMED");

    node.signal(Signal::TERM);
    assert!(node.wait_exit().success(), "a tail does not hold up the end");
    assert!(tail.wait().unwrap().success());
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
