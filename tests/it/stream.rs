//! Receiving by stream: credit, what ends it, and what becomes of messages that did not get through.

use crate::harness::{Setup, TestNode, poll, timed};
use crate::http::Client;
use crate::mailbox::{depths, enqueue, receipt, recv, recv_one, settle, stat};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::Duration;

/// A stream's answer, read line by line.
pub(crate) struct Stream {
    from: BufReader<TcpStream>,
    text: Vec<u8>,
    over: bool,
}

impl Stream {
    /// Opens a stream that must not be refused.
    pub(crate) fn open(client: &Client, topic: &str, wanted: &Value) -> Stream {
        let body = wanted.to_string();
        let json: &[(&str, &[u8])] = &[("Content-Type", b"application/json")];
        let path = format!("/v1/acme/{topic}/recv/stream");
        let socket = client.begin(&client.request("POST", &path, json, body.as_bytes()));
        let mut from = BufReader::new(socket);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(from.read_line(&mut head).unwrap() > 0, "{head}");
        }
        let head = head.to_ascii_lowercase();
        assert!(head.starts_with("http/1.1 200 "), "{head}");
        assert!(head.contains("content-type: application/x-ndjson\r\n"), "{head}");
        assert!(head.contains("x-corr-id: "), "{head}");
        Stream { from, text: Vec::new(), over: false }
    }

    /// The next line, empty ones included; `None` = the stream has ended in good order.
    fn line(&mut self) -> Option<String> {
        loop {
            if let Some(at) = self.text.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.text.drain(..=at).collect();
                return Some(String::from_utf8(line).unwrap().trim_end().to_owned());
            }
            if self.over {
                assert!(self.text.is_empty(), "half a line");
                return None;
            }
            let mut size = String::new();
            self.from.read_line(&mut size).unwrap();
            let size = usize::from_str_radix(size.trim(), 16).unwrap_or_else(|_| panic!("{size:?}"));
            let mut chunk = vec![0; size + 2];
            self.from.read_exact(&mut chunk).unwrap();
            self.text.extend_from_slice(&chunk[..size]);
            self.over = size == 0;
        }
    }

    /// The next Envelope, or the line that ends the stream.
    pub(crate) fn next(&mut self) -> Value {
        loop {
            let line = self.line().expect("a line, not the end");
            if !line.is_empty() {
                return serde_json::from_str(&line).unwrap();
            }
        }
    }

    fn payload(&mut self) -> String {
        self.next()["payload"].as_str().unwrap().to_owned()
    }

    /// Whether nothing comes for a while.
    pub(crate) fn is_silent(&mut self) -> bool {
        assert!(self.text.is_empty());
        self.from.get_ref().set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        let silent = self.from.fill_buf().is_err();
        self.from.get_ref().set_read_timeout(Some(Duration::from_secs(40))).unwrap();
        silent
    }
}

fn node() -> (TestNode, Client) {
    let node = Setup::new().start();
    let client = node.operator();
    (node, client)
}

fn send(client: &Client, topic: &str, text: &str) {
    enqueue(client, topic, text.as_bytes(), &[("Content-Type", b"text/plain")]);
}

fn of(message: &Value) -> Value {
    json!({"receipts": [receipt(message)]})
}

#[test]
fn credit_comes_back_with_every_end_of_a_delivery() {
    let (_node, client) = node();
    // of a topic that does not exist yet
    let mut stream = Stream::open(&client, "c", &json!({"max_inflight": 2, "visibility_ms": 60_000}));
    for text in ["a", "b", "c", "d", "e"] {
        send(&client, "c", text);
    }
    let (a, b) = (stream.next(), stream.next());
    assert_eq!((&a["payload"], &b["payload"], &a["attempt"]), (&json!("a"), &json!("b"), &json!(1)));
    assert!(a["deadline"].is_string() && a["receipt"].is_string());
    assert!(stream.is_silent(), "two are unsettled");
    assert_eq!(depths(&client, "c"), [3, 0, 2, 0]);
    assert_eq!(settle(&client, "c", "ack", &of(&a)), [json!({"ok": true})]);
    let c = stream.next();
    assert_eq!(c["payload"], "c");
    let mut later = of(&b);
    later["delay_ms"] = json!(60_000);
    settle(&client, "c", "nack", &later);
    let d = stream.next();
    assert_eq!(d["payload"], "d");
    let mut reject = of(&c);
    reject["mode"] = json!("reject");
    settle(&client, "c", "nack", &reject);
    assert_eq!(stream.payload(), "e");
    assert_eq!(depths(&client, "c"), [0, 1, 2, 1]);
    client.post("/v1/acme/c/purge", &json!({"confirm": "c"})).json(200);
    send(&client, "c", "f");
    send(&client, "c", "g");
    assert_eq!((stream.payload(), stream.payload()), ("f".into(), "g".into()));
    drop(stream);
    // what was written stays leased until its own deadline
    poll("the stream's end", || (stat(&client, "c")["waiters"] == 0).then_some(()));
    assert_eq!(depths(&client, "c"), [0, 0, 2, 1]);
}

#[test]
fn a_delivery_that_times_out_comes_again_on_the_same_stream() {
    let (_node, client) = node();
    send(&client, "t", "once");
    let mut stream = Stream::open(&client, "t", &json!({"max_inflight": 1, "visibility_ms": 400}));
    let first = stream.next();
    let second = stream.next();
    assert_eq!((&first["msg_id"], &second["attempt"]), (&second["msg_id"], &json!(2)));
    assert_eq!(settle(&client, "t", "ack", &of(&first)), [json!({"ok": false, "reason": "STALE_RECEIPT"})]);
    assert_eq!(settle(&client, "t", "ack", &of(&second)), [json!({"ok": true})]);
    assert_eq!(depths(&client, "t"), [0, 0, 0, 0]);
}

#[test]
fn bad_requests_are_refused_and_open_nothing() {
    let (node, client) = node();
    send(&client, "r", "kept");
    for (bad, named) in [
        (json!({"max_inflight": 0}), "max_inflight"),
        (json!({"max_inflight": 257}), "max_inflight"),
        (json!({"max_inflight": "2"}), "max_inflight"),
        (json!({"max_messages": 300}), "max_messages"),
        (json!({"wait_ms": 20_001}), "wait_ms"),
        (json!({"credit": 3}), "credit"),
    ] {
        let text = client.post("/v1/acme/r/recv/stream", &bad).refused(400, "MALFORMED");
        assert!(text.contains(named), "{bad}: {text}");
    }
    client.get("/v1/acme/r/recv/stream").refused(405, "METHOD_NOT_ALLOWED");
    node.bare().post("/v1/acme/r/recv/stream", &json!({})).refused(401, "UNAUTH");
    let narrow = node.bare().with(&node.mint(&json!({"ops": ["enqueue", "ack", "stat"]})));
    narrow.post("/v1/acme/r/recv/stream", &json!({})).refused(403, "SCOPE_MISMATCH");
    assert_eq!(depths(&client, "r"), [1, 0, 0, 0]);
    assert_eq!(stat(&client, "r")["waiters"], 0);
}

#[test]
fn a_stream_waits_at_max_inflight_and_while_the_topic_is_paused() {
    let node = Setup::new().toml("max_inflight = 1\n").start();
    let client = node.operator();
    send(&client, "w", "one");
    send(&client, "w", "two");
    let held = recv_one(&client, "w", 60_000);
    client.post("/v1/acme/w/recv", &json!({})).refused(429, "BACKPRESSURE");
    let mut stream = Stream::open(&client, "w", &json!({}));
    assert!(stream.is_silent());
    settle(&client, "w", "ack", &of(&held));
    let two = stream.next();
    assert_eq!(two["payload"], "two");
    client.post("/v1/acme/w/pause", &json!({"what": "recv"})).json(200);
    settle(&client, "w", "ack", &of(&two));
    send(&client, "w", "three");
    assert!(stream.is_silent());
    client.post("/v1/acme/w/resume", &json!({"what": "recv"})).json(200);
    assert_eq!(stream.payload(), "three");
}

#[test]
fn a_stream_ends_with_its_capability() {
    let (node, client) = node();
    send(&client, "x", "one");
    let long = node.mint(&json!({"ops": ["recv"]}));
    let cap = node.ronctl_json(&["cap", "inspect", &long])["cap_id"].as_str().unwrap().to_owned();
    let mut revoked = Stream::open(&node.bare().with(&long), "x", &json!({"visibility_ms": 60_000}));
    assert_eq!(revoked.payload(), "one");
    node.ronctl_json(&["cap", "revoke", &cap]);
    let (last, took) = timed(|| revoked.next());
    assert_eq!((&last["reason"], last["corr_id"].is_string()), (&json!("UNAUTH"), true), "{last}");
    assert!(took < Duration::from_secs(2), "{took:?}");
    assert_eq!(revoked.line(), None);
    send(&client, "x", "two");
    assert_eq!(depths(&client, "x"), [1, 0, 1, 0], "nobody receives any more");
    node.bare().with(&long).post("/v1/acme/x/recv/stream", &json!({})).refused(401, "UNAUTH");
}

#[test]
fn an_idle_stream_says_so_and_ends_when_the_node_drains() {
    let (mut node, client) = node();
    let mut stream = Stream::open(&client, "i", &json!({}));
    let (line, took) = timed(|| stream.line());
    assert_eq!(line.as_deref(), Some(""), "an empty line for proxies");
    assert!(took > Duration::from_secs(8) && took < Duration::from_secs(14), "{took:?}");
    node.signal(Signal::TERM);
    assert_eq!(stream.line(), None);
    assert_eq!(node.wait_exit().code(), Some(0));
}

#[test]
fn ronctl_follows_a_topic() {
    let (mut node, client) = node();
    send(&client, "f", "one");
    let mut command = Command::new(env!("CARGO_BIN_EXE_ronctl"));
    command.args(["--json", "topic", "recv", "acme/f", "--follow", "--ack"]);
    command.env("RON_SOCKET", node.ready["socket"].as_str().unwrap()).stdout(Stdio::piped());
    let mut ronctl = command.spawn().unwrap();
    let mut lines = BufReader::new(ronctl.stdout.take().unwrap()).lines();
    let mut payload = || -> Value {
        let message: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        message["payload"].clone()
    };
    assert_eq!(payload(), "one");
    send(&client, "f", "two");
    assert_eq!(payload(), "two");
    poll("the acks", || (depths(&client, "f") == [0, 0, 0, 0]).then_some(()));
    node.signal(Signal::TERM);
    assert_eq!(ronctl.wait().unwrap().code(), Some(0), "the node ended it");
    assert_eq!(node.wait_exit().code(), Some(0));
}

#[test]
fn what_was_not_written_is_released_when_the_connection_dies() {
    let (_node, client) = node();
    let large = vec![b'x'; 1024 * 1024];
    for _ in 0..24 {
        enqueue(&client, "d", &large, &[]);
    }
    let wanted = json!({"max_inflight": 24, "visibility_ms": 600_000});
    let mut stream = Stream::open(&client, "d", &wanted);
    let first = stream.next();
    // the consumer reads no more: the sockets fill, and the rest waits in the node
    let full = poll("full sockets", || {
        let before = depths(&client, "d");
        std::thread::park_timeout(Duration::from_millis(300));
        (depths(&client, "d") == before).then_some(before)
    });
    assert!(full[0] > 0 && full[2] < 24, "{full:?}: it takes out no more than it can write");
    drop(stream);
    poll("the release", || (depths(&client, "d") == [full[0] + 1, 0, full[2] - 1, 0]).then_some(()));
    let again = recv(&client, "d", &json!({"max_bytes": 1}));
    assert_eq!(
        (&again[0]["attempt"], &again[0]["delivery"]),
        (&json!(1), &json!(2)),
        "handed back, not failed"
    );
    assert_eq!(settle(&client, "d", "ack", &of(&first)), [json!({"ok": true})], "what was written stands");
}
