//! `ronctl bench` on a schedule, and against a peer: what it counts must be what happened.

use crate::fake_rabbitmq::{FakeRabbitMq, Temper};
use crate::fake_redis::{FakeRedis, Persistence};
use crate::harness::{Setup, TENANT, TestNode, ronctl};
use crate::http::Client;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

const BENCH: &str = "bench";

fn node() -> TestNode {
    Setup::new().toml("[chaos]\nenabled = true\n").start()
}

fn bench(node: &TestNode, arguments: &str) -> Value {
    let (code, out, said) = ronctl(&node.setup, &arguments.split(' ').collect::<Vec<_>>());
    assert_eq!(code, 0, "{arguments}: {said}{out}");
    serde_json::from_str(&out).unwrap()
}

/// A client of the benchmarks' tenant.
fn looker(node: &TestNode) -> Client {
    node.bare().with(&node.mint(&json!({"tenant": BENCH, "ops": ["stat"]})))
}

fn depths(node: &TestNode, topic: &str) -> [u64; 3] {
    let stat = looker(node).get(&format!("/v1/{BENCH}/{topic}")).json(200);
    ["ready", "vis", "dlq"].map(|state| stat[state].as_u64().unwrap())
}

fn latency<'a>(run: &'a Value, step: &str) -> &'a Value {
    let steps = run["latency"].as_array().unwrap();
    steps.iter().find(|one| one["step"] == step).unwrap_or_else(|| panic!("no {step} in {run}"))
}

fn figure(run: &Value, step: &str, name: &str) -> f64 {
    latency(run, step)[name].as_f64().unwrap()
}

#[test]
fn a_schedule_is_kept_to_the_message() {
    let node = node();
    for (proto, sent) in [("oap", 120), ("http", 240)] {
        let run = bench(
            &node,
            &format!(
                "--json bench enqueue --proto {proto} --rate 100 --connections 4 --duration 1s --warmup 200ms"
            ),
        );
        assert_eq!((&run["done"], &run["offered_per_s"]), (&json!(100), &json!(100)), "{run}");
        assert!(run["errors"].as_object().unwrap().is_empty() && run["durability"] == "fsync", "{run}");
        let quantiles = ["p50_ms", "p90_ms", "p95_ms", "p99_ms", "p999_ms", "max_ms"];
        let figures = quantiles.map(|name| figure(&run, "enqueue", name));
        assert!(figures.is_sorted() && figures[0] > 0.0, "{run}");
        assert!(run["written_per_op"].as_f64().unwrap() > 256.0, "a message is written: {run}");
        assert_eq!(depths(&node, "t0"), [sent, 0, 0], "the warm-up's messages are stored, too");
    }
    let (code, _, said) = ronctl(&node.setup, &["bench", "enqueue", "--rate", "10", "--outstanding", "2"]);
    assert!(code == 2 && said.contains("--outstanding"), "{said}");
    assert_eq!(depths(&node, "t0"), [240, 0, 0]);
}

#[test]
fn a_message_is_followed_from_its_send_to_its_receive() {
    let node = node();
    for proto in ["oap", "http"] {
        let run = bench(
            &node,
            &format!(
                "--json bench cycle --proto {proto} --rate 100 --connections 4 --topics 3 --duration 1s --warmup 200ms"
            ),
        );
        assert_eq!(run["done"], 100, "{run}");
        assert_eq!(latency(&run, "delivery")["step"], "delivery");
        assert!(figure(&run, "delivery", "max_ms") >= figure(&run, "enqueue", "p50_ms") / 10.0, "{run}");
        for topic in ["t0", "t1", "t2"] {
            assert_eq!(depths(&node, topic)[0], 0, "{proto}: all were received");
        }
    }
    let (code, _, said) = ronctl(&node.setup, &["bench", "cycle", "--rate", "10", "--topics", "65"]);
    assert!(code == 2 && said.contains("64 topics"), "{said}");
}

/// A generator that waits for the node before it begins the next operation leaves out what users would wait.
#[test]
fn a_schedule_shows_the_wait_that_a_closed_loop_leaves_out() {
    let node = node();
    let slow = json!({"target": "svc-mailbox", "fault": "latency", "ms": 100, "duration_ms": 60_000});
    node.control().post("/ctl/chaos/inject", &slow).json(200);
    let common = "--connections 1 --duration 2s --warmup 100ms";
    let closed = bench(&node, &format!("--json bench enqueue {common}"));
    let open = bench(&node, &format!("--json bench enqueue --rate 30 {common}"));
    let p95 = |run| figure(run, "enqueue", "p95_ms");
    assert!(p95(&closed) >= 100.0, "{closed}");
    assert!(p95(&open) > 4.0 * p95(&closed), "closed {closed}\nopen {open}");
    let (rate, done) = (open["rate_per_s"].as_f64().unwrap(), open["done"].as_u64().unwrap());
    assert!(done == 60 && (1.0..15.0).contains(&rate), "what is late counts as late: {open}");
}

#[test]
fn a_peer_does_the_same_work_and_every_message_of_it_is_counted() {
    let node = node();
    let peer = FakeRedis::start(Persistence::Always);
    let address = peer.address();
    let load = "--connections 3 --outstanding 7 --size 100 --duration 300ms --warmup 100ms --runs 2";
    let report = bench(&node, &format!("--json bench peers --redis {address} {load}"));
    let seen = peer.seen();
    let done = |work: &str, who: &str| -> u64 {
        let runs = report[work]["runs"][who].as_array().unwrap();
        assert_eq!(runs.len(), 2, "{report}");
        assert!(
            runs.iter().all(|run| run["connections"] == 3 && run["outstanding"] == 7 && run["size"] == 100)
        );
        runs.iter().map(|run| run["done"].as_u64().unwrap()).sum()
    };
    for work in ["enqueue", "cycle"] {
        for who in ["ron-node", "redis"] {
            assert!(done(work, who) > 0, "{work} {who}: {report}");
        }
        assert!(report[work]["ratio_to"]["redis"].as_f64().unwrap() > 0.0);
    }
    let counted = done("enqueue", "redis") + done("cycle", "redis");
    assert!(seen.added >= counted, "{} were added, {counted} counted", seen.added);
    assert!(seen.payload_bytes == 100 * seen.added, "each of 100 bytes: {seen:?}");
    assert!(seen.acked >= done("cycle", "redis") && seen.acked == seen.delivered, "{seen:?}");
    assert_eq!((seen.deleted, seen.streams), (seen.acked, 0), "nothing is left behind: {seen:?}");
    assert!(report["persistence"]["redis"].as_str().unwrap().contains("appendfsync always"));
    let topics = node.bare().with(&node.mint(&json!({"tenant": BENCH, "ops": ["stat"]})));
    let left = topics.get(&format!("/v1/{BENCH}")).json(200);
    assert_eq!(left["topics"], json!([]), "nor on the node");
    assert_ne!(TENANT, BENCH);
}

#[test]
fn a_peer_that_does_less_is_named_and_one_that_refuses_fails() {
    let node = node();
    let load = "--connections 2 --duration 500ms --warmup 50ms --runs 1";
    let run = |address: &str| {
        let arguments = format!("bench peers --redis {address} {load}");
        ronctl(&node.setup, &arguments.split(' ').collect::<Vec<_>>())
    };
    let lazy = FakeRedis::start(Persistence::EverySecond);
    let (code, out, said) = run(&lazy.address());
    assert!(code == 0 && said.contains("does less work"), "{said}");
    assert!(out.contains("appendfsync everysec") && out.contains("% of redis"), "{out}");
    let full = FakeRedis::start(Persistence::Full);
    let (code, out, said) = run(&full.address());
    assert!(code == 1 && said.contains("OOM"), "{code} {out} {said}");
    assert_eq!(full.seen().added, 0);
    let (code, _, said) = run("127.0.0.1:1");
    assert!(code == 69 && said.contains("no Redis answers"), "{said}");
    let (code, _, said) = ronctl(&node.setup, &["bench", "peers"]);
    assert!(code == 2 && said.contains("--redis"), "{said}");
}

/// A server whose every connection is served by `serve`, with what all of them count and hold together.
fn fake(
    serve: impl Fn(&TcpStream, &Mutex<[u64; 3]>, &Mutex<VecDeque<u64>>) + Copy + Send + 'static,
) -> (String, Arc<Mutex<[u64; 3]>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let counts = Arc::new(Mutex::new([0; 3]));
    let shared = Arc::clone(&counts);
    let ready = Arc::new(Mutex::new(VecDeque::new()));
    std::thread::spawn(move || {
        for socket in listener.incoming().map_while(Result::ok) {
            let (counts, ready) = (Arc::clone(&shared), Arc::clone(&ready));
            std::thread::spawn(move || serve(&socket, &counts, &ready));
        }
    });
    (address, counts)
}

/// As much of beanstalkd as is asked for: puts, reserves and deletes of one tube, each answered in its order.
fn fake_beanstalkd() -> (String, Arc<Mutex<[u64; 3]>>) {
    fake(tube)
}

fn tube(socket: &TcpStream, counts: &Mutex<[u64; 3]>, ready: &Mutex<VecDeque<u64>>) {
    socket.set_nodelay(true).unwrap();
    let (mut reader, mut writer) = (BufReader::new(socket), socket);
    let mut line = String::new();
    while reader.read_line(&mut line).is_ok_and(|len| len > 0) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let reply = match words[0] {
            "stats" => {
                let stats = "---\npid: 1\nversion: \"1.13\"\nbinlog-current-index: 2\n";
                format!("OK {}\r\n{stats}\r\n", stats.len())
            }
            "put" => {
                let mut body = vec![0; words[4].parse::<usize>().unwrap() + 2];
                reader.read_exact(&mut body).unwrap();
                let mut counts = counts.lock().unwrap();
                counts[0] += 1;
                ready.lock().unwrap().push_back(counts[0]);
                format!("INSERTED {}\r\n", counts[0])
            }
            "reserve-with-timeout" => match ready.lock().unwrap().pop_front() {
                Some(id) => {
                    counts.lock().unwrap()[1] += 1;
                    format!("RESERVED {id} 4\r\na\r\nb\r\n")
                }
                None => "TIMED_OUT\r\n".to_owned(),
            },
            "delete" => {
                counts.lock().unwrap()[2] += 1;
                "DELETED\r\n".to_owned()
            }
            other => panic!("{other}"),
        };
        writer.write_all(reply.as_bytes()).unwrap();
        line.clear();
    }
}

#[test]
fn a_tube_is_used_and_left_empty() {
    let node = node();
    let (address, counts) = fake_beanstalkd();
    // one connection: the fake does not wait for messages that others take
    let load = "--connections 1 --outstanding 5 --duration 300ms --warmup 50ms --runs 1";
    let report = bench(&node, &format!("--json bench peers --beanstalkd {address} {load}"));
    let [put, reserved, deleted] = *counts.lock().unwrap();
    let done = |work: &str| report[work]["runs"]["beanstalkd"][0]["done"].as_u64().unwrap();
    assert!(done("enqueue") > 0 && done("cycle") > 0, "{report}");
    assert!(put >= done("enqueue") + done("cycle") && put == reserved && put == deleted);
    assert!(report["persistence"]["beanstalkd"].as_str().unwrap().contains("-f0"), "{report}");
}

/// As much of NATS as is asked for: one stream whose messages are published, pulled and acked.
fn fake_nats() -> (String, Arc<Mutex<[u64; 3]>>) {
    fake(stream)
}

fn stream(socket: &TcpStream, counts: &Mutex<[u64; 3]>, ready: &Mutex<VecDeque<u64>>) {
    socket.set_nodelay(true).unwrap();
    let (mut reader, mut writer) = (BufReader::new(socket), socket);
    writer.write_all(b"INFO {\"jetstream\":true,\"version\":\"2.fake\"}\r\n").unwrap();
    let mut line = String::new();
    while reader.read_line(&mut line).is_ok_and(|len| len > 0) {
        let words: Vec<&str> = line.split_whitespace().collect();
        if words[0] == "PING" {
            writer.write_all(b"PING\r\nPONG\r\n").unwrap();
        } else if words[0] == "PUB" {
            let mut body = vec![0; words[3].parse::<usize>().unwrap() + 2];
            reader.read_exact(&mut body).unwrap();
            let message = |text: &str| format!("MSG {} 1 {}\r\n{text}\r\n", words[2], text.len());
            let mut counts = counts.lock().unwrap();
            let said = if words[1].starts_with("$JS.API.CONSUMER.MSG.NEXT.") {
                let asked: Value = serde_json::from_slice(&body[..body.len() - 2]).unwrap();
                let mut ready = ready.lock().unwrap();
                let count = ready.len().min(asked["batch"].as_u64().unwrap() as usize);
                counts[1] += count as u64;
                ready.drain(..count).map(|id| format!("MSG s 1 $JS.ACK.{id} 1\r\nx\r\n")).collect()
            } else if words[1].starts_with("$JS.API.") {
                if words[1].starts_with("$JS.API.STREAM.DELETE.") {
                    ready.lock().unwrap().clear();
                }
                message("{}")
            } else if words[1].starts_with("$JS.ACK.") {
                counts[2] += 1;
                message("")
            } else {
                counts[0] += 1;
                ready.lock().unwrap().push_back(counts[0]);
                message(&format!("{{\"stream\":\"s\",\"seq\":{}}}", counts[0]))
            };
            writer.write_all(said.as_bytes()).unwrap();
        }
        line.clear();
    }
}

#[test]
fn a_stream_is_published_to_pulled_from_and_acked() {
    let node = node();
    let (address, counts) = fake_nats();
    // one connection: the fake does not wait for messages that others take
    let load = "--connections 1 --outstanding 5 --duration 300ms --warmup 50ms --runs 1";
    let report = bench(&node, &format!("--json bench peers --nats {address} {load}"));
    let [published, pulled, acked] = *counts.lock().unwrap();
    let done = |work: &str| report[work]["runs"]["nats"][0]["done"].as_u64().unwrap();
    assert!(done("enqueue") > 0 && done("cycle") > 0, "{report}");
    assert!(published >= done("enqueue") + done("cycle") && pulled == acked, "{published} {pulled} {acked}");
    assert!(acked >= done("cycle") && acked < published, "what was only published was never pulled");
    assert!(report["persistence"]["nats"].as_str().unwrap().contains("sync_interval"), "{report}");
}

#[test]
fn a_quorum_queue_is_published_to_consumed_and_acked_and_each_ack_is_asked_after() {
    let node = node();
    let peer = FakeRabbitMq::start(Temper::Good);
    // 5,000 bytes: more than the server's longest frame
    let load = "--connections 3 --outstanding 7 --size 5000 --duration 300ms --warmup 100ms --runs 2";
    let report = bench(&node, &format!("--json bench peers --rabbitmq {} {load}", peer.address()));
    let done = |work: &str| -> u64 {
        let runs = report[work]["runs"]["rabbitmq"].as_array().unwrap();
        assert!(runs.len() == 2 && runs.iter().all(|run| run["outstanding"] == 7 && run["size"] == 5000));
        runs.iter().map(|run| run["done"].as_u64().unwrap()).sum()
    };
    let (sends, cycles, seen) = (done("enqueue"), done("cycle"), peer.seen());
    assert!(sends > 0 && cycles > 0, "{report}");
    assert!(seen.published >= sends + cycles && seen.payload_bytes == 5000 * seen.published, "{seen:?}");
    assert!(seen.acked >= cycles && seen.acked + seen.returned == seen.delivered, "{seen:?}");
    assert_eq!(
        (seen.asked * 7, seen.queues),
        (seen.acked, 0),
        "a question a batch, nothing is left: {seen:?}"
    );
    let said = report["persistence"]["rabbitmq"].as_str().unwrap();
    assert!(said.contains("RabbitMQ 3.fake") && said.contains("acks are not answered"), "{said}");
}

#[test]
fn what_rabbitmq_refuses_is_named() {
    let node = node();
    let load = "--connections 2 --duration 300ms --warmup 50ms --runs 1";
    let run = |url: &str| {
        let arguments = format!("bench peers --rabbitmq {url} {load}");
        ronctl(&node.setup, &arguments.split(' ').collect::<Vec<_>>())
    };
    let good = FakeRabbitMq::start(Temper::Good).address();
    let (code, out, said) = run(&format!("amqp://guest:guest@{good}/%2f"));
    assert!(code == 0 && said.contains("rabbitmq does less work") && out.contains("% of rabbitmq"), "{said}");
    let (code, _, said) = run(&format!("amqp://guest:secret@{good}"));
    assert!(code == 1 && said.contains("403 ACCESS_REFUSED") && !said.contains("secret"), "{said}");
    for (temper, why) in [(Temper::Full, "basic.nack"), (Temper::Forgetful, "basic.return: 312 NO_ROUTE")] {
        let peer = FakeRabbitMq::start(temper);
        let (code, _, said) = run(&peer.address());
        assert!(code == 1 && said.contains(why), "{code} {said}");
        assert_eq!(peer.seen().queues, 0, "the queue is deleted all the same");
    }
    let (mail, _) = fake(|mut socket, _, _| {
        socket.read_exact(&mut [0; 8]).unwrap();
        socket.write_all(b"220 ready\r\n").unwrap();
    });
    let (code, _, said) = run(&mail);
    assert!(code == 1 && said.contains("a frame of kind 50"), "{code} {said}");
    assert_eq!(run("127.0.0.1:1").0, 69);
    assert_eq!(run("amqps://127.0.0.1:1").0, 2);
}
