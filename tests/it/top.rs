//! `ronctl top`, without a terminal: the frame that it draws, and what it says where it cannot.

use crate::harness::{Setup, TestNode};
use crate::mailbox::{enqueue, receipt, recv_one, settle};
use serde_json::json;
use std::process::{Command, Stdio};

fn top(socket: &str, args: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ronctl"));
    let output =
        command.arg("top").args(args).env("RON_SOCKET", socket).stdin(Stdio::null()).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn socket(node: &TestNode) -> String {
    node.ready["socket"].as_str().unwrap().to_owned()
}

#[test]
fn a_frame_has_the_node_and_its_topics_the_fullest_first() {
    let node = Setup::new().start();
    let client = node.mailbox();
    for topic in ["few", "many", "many", "many"] {
        enqueue(&client, topic, b"x", &[]);
    }
    recv_one(&client, "many", 60_000);
    let few = recv_one(&client, "few", 60_000);
    assert_eq!(settle(&client, "few", "ack", &json!({"receipts": [receipt(&few)]})), [json!({"ok": true})]);
    let (code, frame, said) = top(&socket(&node), &["--once", "--every", "100ms"]);
    assert_eq!((code, said.as_str()), (0, ""));
    let lines: Vec<Vec<&str>> = frame.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!((lines[0][0], lines[0][2]), ("ron-node", "ready"), "{frame}");
    let row = |name| lines.iter().position(|line| line.first() == Some(&name)).expect(name);
    let (many, few) = (row("acme/many"), row("acme/few"));
    assert!(many < few, "{frame}");
    // ready, in flight, delayed, dead; nothing happened meanwhile
    assert_eq!(lines[many][1..5], ["2", "1", "0", "0"], "{frame}");
    assert_eq!(lines[few][1..5], ["0", "0", "0", "0"], "{frame}");
    assert_eq!(lines[few][6..], ["0.0", "0.0", "0.0"], "{frame}");
    assert!(!frame.contains('\u{1b}'), "text, not a terminal's commands");
}

#[test]
fn without_a_terminal_it_says_what_to_use_instead() {
    let node = Setup::new().start();
    let (code, out, said) = top(&socket(&node), &[]);
    assert_eq!((code, out.as_str()), (2, ""));
    assert!(said.contains("needs a terminal") && said.contains("ronctl status"), "{said}");
    let (code, _, said) = top(&socket(&node), &["--json", "--once"]);
    assert!(code == 2 && said.contains("status --json"), "{said}");
    let (code, _, said) = top("/nowhere/ronctl.sock", &["--once"]);
    assert!(code == 69 && said.contains("no node answers"), "{said}");
}
