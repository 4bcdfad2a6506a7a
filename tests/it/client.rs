//! `ron-client` against the real node: each promise of its documents, over OAP/1 and over HTTP.

use crate::fanout::metric;
use crate::harness::{SOON, Setup, TENANT, TestNode, poll, unread_bytes};
use crate::http::Client as Raw;
use crate::mailbox::{depths, peek, recv, stat};
use futures::future::join_all;
use ron_client::{Client, Delivery, Durability, Error, Message, Nack, Receipt, Want};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::{Arc, atomic::AtomicUsize, atomic::Ordering};
use std::time::Duration;
use tokio::time::timeout;

/// What a client travels over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Oap,
    Http,
}

const WAYS: [Way; 2] = [Way::Oap, Way::Http];
const SHORT: Duration = Duration::from_millis(600);

fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async { timeout(2 * SOON, test).await.expect("a test that comes to its end") })
}

async fn client_with(node: &TestNode, way: Way, token: &str, builder: ron_client::Builder) -> Client {
    match way {
        Way::Oap => builder.connect(&node.oap().to_string(), token).await.unwrap(),
        Way::Http => builder.http(&format!("http://{}", node.bare().addr()), token).unwrap(),
    }
}

async fn client(node: &TestNode, way: Way) -> Client {
    client_with(node, way, &node.token(), Client::builder()).await
}

/// A node that keeps its ports when it is started again.
fn staying(setup: &Setup) -> TestNode {
    let node = setup.start();
    let (oap, mailbox) = (node.oap().to_string(), node.bare().addr().to_string());
    node.kill().env("RON_MAILBOX__OAP_LISTEN", oap).env("RON_MAILBOX__LISTEN", mailbox).start()
}

fn reason<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
    match result {
        Err(Error::Refused(refused)) => refused.reason,
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn a_message_goes_through_all_its_states_over_both_ways() {
    let node = Setup::new().start();
    for way in WAYS {
        run(async {
            let client = client(&node, way).await;
            let topic = format!("states-{way:?}").to_lowercase();
            let message = Message::new("hello").content_type("text/plain").key("k1").attr("zone", "eu");
            let message = message.ttl(Duration::from_secs(3_600));
            let sent = client.send(&topic, message.clone()).await.unwrap();
            assert_eq!((sent.duplicate, sent.durability), (false, Durability::Fsync));
            let again = client.send(&topic, message.clone()).await.unwrap();
            assert_eq!((again.msg_id, again.duplicate), (sent.msg_id, true));
            let later = Message::new(vec![0, 159, 146, 150]).delay(Duration::from_secs(3_600));
            client.send(&topic, later).await.unwrap();
            assert_eq!(depths(&node.mailbox(), &topic), [1, 1, 0, 0]);
            let want = Want::up_to(10).visibility(Duration::from_secs(60)).wait(SHORT);
            let got = client.recv(&topic, want).await.unwrap();
            let [one] = &got[..] else { panic!("{got:?}") };
            assert_eq!(
                (one.msg_id, &one.payload[..], one.attr("zone")),
                (sent.msg_id, &b"hello"[..], Some("eu"))
            );
            assert_eq!(
                (one.content_type.as_str(), one.idempotency_key.as_deref()),
                ("text/plain", Some("k1"))
            );
            assert_eq!((one.attempt, one.delivery), (1, 1));
            assert!(one.deadline_ms > one.enqueued_ms + 50_000 && one.corr_id.len() >= 8);
            let held = client.extend(&topic, &[one.receipt], Duration::from_secs(120)).await.unwrap();
            assert_eq!(held, [Ok(())]);
            assert_eq!(client.nack(&topic, &[one.receipt], Nack::release()).await.unwrap(), [Ok(())]);
            let second = client.recv(&topic, want).await.unwrap().remove(0);
            assert_eq!((second.attempt, second.delivery), (1, 2));
            let settled = client.ack(&topic, &[second.receipt, Receipt::from_bytes([1; 28])]).await.unwrap();
            assert!(settled[0].is_ok());
            let stale = settled[1].as_ref().unwrap_err();
            assert_eq!((stale.reason.as_str(), stale.code), ("STALE_RECEIPT", 409));
            assert_eq!(depths(&node.mailbox(), &topic), [0, 1, 0, 0]);
            // what is refused leaves nothing behind
            assert_eq!(
                reason(client.send(&topic, Message::new("other").key("k1")).await),
                "IDEMPOTENCY_CONFLICT"
            );
            let late = Message::new("x").ttl(Duration::from_secs(60)).delay(Duration::from_secs(60));
            assert_eq!(reason(client.send(&topic, late).await), "MALFORMED");
            assert!(matches!(client.send("no/topic", message).await, Err(Error::Invalid(_))));
            assert_eq!(depths(&node.mailbox(), &topic), [0, 1, 0, 0]);
        });
    }
}

#[test]
fn batches_of_any_length_say_what_became_of_each() {
    let node = Setup::new().start();
    for way in WAYS {
        run(async {
            // a topic stays on one of several connections, and so in order
            let client = client_with(&node, way, &node.token(), Client::builder().connections(3)).await;
            let topic = format!("batch-{way:?}").to_lowercase();
            let mut messages: Vec<Message> = (0..600).map(|n| Message::new(format!("m{n}"))).collect();
            messages[300] = Message::new("bad").ttl(Duration::from_millis(1));
            messages[500] = Message::new(vec![b'x'; 900_000]);
            let results = client.send_all(&topic, messages).await;
            assert_eq!(results.len(), 600);
            let mut failed = results.iter().enumerate().filter(|(_, one)| one.is_err());
            let (at, refused) = failed.next().expect("one is out of range");
            assert!(matches!(refused, Err(Error::Refused(r)) if r.reason == "MALFORMED"), "{refused:?}");
            assert_eq!((at, failed.count()), (300, 0));
            assert_eq!(depths(&node.mailbox(), &topic), [599, 0, 0, 0]);
            let want = Want::up_to(256).visibility(Duration::from_secs(60));
            let mut got = Vec::new();
            while got.len() < 599 {
                got.extend(client.recv(&topic, want).await.unwrap());
            }
            assert_eq!(
                (&got[0].payload[..], &got[300].payload[..]),
                (&b"m0"[..], &b"m301"[..]),
                "in their order"
            );
            let receipts: Vec<Receipt> = got.iter().map(|one| one.receipt).collect();
            let acked = client.ack(&topic, &receipts).await.unwrap();
            assert!(acked.len() == 599 && acked.iter().all(Result::is_ok));
            assert_eq!(depths(&node.mailbox(), &topic), [0, 0, 0, 0]);
        });
    }
}

#[test]
fn callers_wait_for_room_and_none_fails() {
    let node = Setup::new().start();
    run(async {
        let client = client(&node, Way::Oap).await;
        // more receives that wait than the node lets wait at once
        let waiting: Vec<_> = (0..1_500)
            .map(|_| {
                let client = client.clone();
                tokio::spawn(async move {
                    client.recv("nothing", Want::up_to(1).wait(Duration::from_secs(20))).await
                })
            })
            .collect();
        // and more sends than may be outstanding, nevertheless
        let sends = (0..4_000).map(|n| {
            let client = client.clone();
            tokio::spawn(async move { client.send("crowd", Message::new(format!("m{n}"))).await })
        });
        for sent in timeout(SOON, join_all(sends)).await.expect("sends that do not wait for receives") {
            sent.unwrap().unwrap();
        }
        assert_eq!(depths(&node.mailbox(), "crowd"), [4_000, 0, 0, 0]);
        let got = client.recv("crowd", Want::up_to(1).visibility(SOON)).await;
        drop(got); // it waits behind the others; settling does not
        waiting.iter().for_each(tokio::task::JoinHandle::abort);
    });
    assert!(stat(&node.mailbox(), "crowd")["ready"].as_u64().unwrap() >= 3_999);
}

/// Sends from many callers; the node is killed in the middle and started again.
async fn sent_over_a_kill(
    client: &Client,
    node: TestNode,
    topic: &str,
) -> (TestNode, Vec<Result<bool, Error>>) {
    let answered = Arc::new(AtomicUsize::new(0));
    let callers: Vec<_> = (0..32)
        .map(|caller| {
            let (client, topic, answered) = (client.clone(), topic.to_owned(), Arc::clone(&answered));
            tokio::spawn(async move {
                let mut results = Vec::new();
                for n in 0..40 {
                    let message = Message::new(format!("{caller}-{n}"));
                    results.push(client.send(&topic, message).await.map(|sent| sent.duplicate));
                    answered.fetch_add(1, Ordering::Relaxed);
                }
                results
            })
        })
        .collect();
    let node = tokio::task::spawn_blocking(move || {
        poll("half of the answers", || (answered.load(Ordering::Relaxed) >= 600).then_some(()));
        node.kill_and_restart()
    });
    let node = node.await.unwrap();
    let results = join_all(callers).await.into_iter().flat_map(Result::unwrap).collect();
    (node, results)
}

fn payloads(raw: &Raw, topic: &str) -> Vec<String> {
    let mut all = Vec::new();
    loop {
        let page = recv(raw, topic, &json!({"max_messages": 256, "visibility_ms": 60_000}));
        if page.is_empty() {
            return all;
        }
        let bytes = |message: &Value| {
            data_encoding::BASE64.decode(message["payload_b64"].as_str().unwrap().as_bytes())
        };
        all.extend(page.iter().map(|message| String::from_utf8(bytes(message).unwrap()).unwrap()));
    }
}

#[test]
fn with_keys_a_killed_node_loses_nothing_and_doubles_nothing() {
    for way in WAYS {
        let node = staying(&Setup::new());
        run(async {
            let client = client_with(&node, way, &node.token(), Client::builder().make_keys()).await;
            let (node, results) = sent_over_a_kill(&client, node, "keyed").await;
            let failed: Vec<_> = results.iter().filter(|one| one.is_err()).collect();
            assert!(results.len() == 1_280 && failed.is_empty(), "{way:?}: {failed:?}");
            let stored = payloads(&node.mailbox(), "keyed");
            assert_eq!(stored.len(), 1_280, "{way:?}: each once");
            assert_eq!(stored.into_iter().collect::<BTreeSet<_>>().len(), 1_280);
        });
    }
}

#[test]
fn without_keys_nobody_is_told_what_is_not_known() {
    for way in WAYS {
        let node = staying(&Setup::new());
        run(async {
            let client = client(&node, way).await;
            client.send("bare", Message::new("first")).await.unwrap();
            // what is sent now reaches the node's socket and no further
            node.signal(Signal::STOP);
            let sends: Vec<_> = (0..8)
                .map(|n| {
                    let client = client.clone();
                    let message = Message::new(format!("m{n}").repeat(1_000));
                    tokio::spawn(async move { client.send("bare", message).await })
                })
                .collect();
            let listener = if way == Way::Oap { node.oap() } else { node.bare().addr() };
            poll("all in the socket", || (unread_bytes(listener) > 8 * 2_000).then_some(()));
            let node = tokio::task::spawn_blocking(|| node.kill_and_restart()).await.unwrap();
            for sent in join_all(sends).await {
                let error = sent.unwrap().unwrap_err();
                assert!(matches!(error, Error::Unknown), "{way:?}: {error:?}");
                assert!(error.to_string().contains("idempotency key"), "{error}");
            }
            assert_eq!(depths(&node.mailbox(), "bare"), [1, 0, 0, 0]);
            client.send("bare", Message::new("next")).await.expect("it is connected again");
            assert_eq!(depths(&node.mailbox(), "bare"), [2, 0, 0, 0]);
        });
    }
}

#[test]
fn a_receipt_is_settled_over_a_kill() {
    let node = staying(&Setup::new());
    run(async {
        let client = client(&node, Way::Oap).await;
        client.send("t", Message::new("x")).await.unwrap();
        let got = client.recv("t", Want::up_to(1).visibility(Duration::from_secs(600))).await.unwrap();
        node.signal(Signal::STOP);
        let acking = {
            let (client, receipt) = (client.clone(), got[0].receipt);
            tokio::spawn(async move { client.ack("t", &[receipt]).await })
        };
        poll("the ack in the socket", || (unread_bytes(node.oap()) > 0).then_some(()));
        let node = tokio::task::spawn_blocking(|| node.kill_and_restart()).await.unwrap();
        assert_eq!(acking.await.unwrap().unwrap(), [Ok(())]);
        assert_eq!(depths(&node.mailbox(), "t"), [0, 0, 0, 0]);
    });
}

#[test]
fn a_node_that_is_gone_ends_the_patience_and_says_so() {
    for way in WAYS {
        let node = Setup::new().start();
        run(async {
            let client = client_with(&node, way, &node.token(), Client::builder().patience(SHORT)).await;
            drop(tokio::task::spawn_blocking(|| node.kill()).await.unwrap());
            let error = client.send("t", Message::new("x").key("k")).await.unwrap_err();
            let text = error.to_string();
            assert!(matches!(error, Error::Timeout { .. }), "{error:?}");
            assert!(text.contains("600 ms") && text.contains("127.0.0.1"), "{way:?}: {text}");
        });
    }
    run(async {
        let nobody = Client::connect("127.0.0.1:1", "ron1_x").await;
        assert!(matches!(nobody, Err(Error::Io(_))), "{nobody:?}");
    });
}

#[test]
fn a_refused_capability_is_told_and_another_one_goes_on() {
    let node = Setup::new().start();
    run(async {
        let unknown = Client::connect(&node.oap().to_string(), "ron1_nothing").await;
        assert!(
            matches!(&unknown, Err(Error::Refused(refused)) if refused.reason == "UNAUTH"),
            "{unknown:?}"
        );
        assert!(matches!(Client::http("http://127.0.0.1:1", "ron1_nothing"), Err(Error::Invalid(_))));
    });
    for way in WAYS {
        run(async {
            let reader = node.mint(&json!({"ops": ["recv"]}));
            let client = client_with(&node, way, &reader, Client::builder()).await;
            let refused = client.send("t", Message::new("x").key("k")).await;
            assert!(!format!("{client:?}{refused:?}").contains(&reader), "no text shows the capability");
            assert_eq!(reason(refused), "SCOPE_MISMATCH");
            node.mailbox().get("/v1/acme/t").refused(404, "NOT_FOUND");
            client.set_token(&node.token());
            // the connection shows it before it sends what comes next, or soon
            let mut sent = client.send("s", Message::new("x").key("k")).await;
            while sent.is_err() {
                sent = client.send("s", Message::new("x").key("k")).await;
            }
        });
    }
    assert_eq!(depths(&node.mailbox(), "s"), [1, 0, 0, 0]);
}

#[test]
fn a_refusal_that_passes_is_waited_for() {
    let node = Setup::new().start();
    for way in WAYS {
        run(async {
            let topic = format!("paused-{way:?}").to_lowercase();
            let client = client(&node, way).await;
            client.send(&topic, Message::new("one")).await.unwrap();
            let what = json!({"what": "enqueue"});
            node.operator().post(&format!("/v1/{TENANT}/{topic}/pause"), &what).json(200);
            let hasty = client_with(&node, way, &node.token(), Client::builder().patience(SHORT)).await;
            assert_eq!(reason(hasty.send(&topic, Message::new("two")).await), "DEGRADED");
            let sending = {
                let (client, topic) = (client.clone(), topic.clone());
                tokio::spawn(async move { client.send(&topic, Message::new("three")).await })
            };
            let refusals = || metric(&node, "rejected_total{reason=\"degraded\"}");
            let more = refusals().expect("the hasty one was refused") + 2;
            poll("it to be refused again and again", || (refusals() >= Some(more)).then_some(()));
            assert!(!sending.is_finished());
            node.operator().post(&format!("/v1/{TENANT}/{topic}/resume"), &what).json(200);
            sending.await.unwrap().unwrap();
            assert_eq!(depths(&node.mailbox(), &topic), [2, 0, 0, 0]);
        });
    }
}

#[test]
fn heartbeats_hold_a_lease_for_longer_than_it_lasts() {
    let node = Setup::new().start();
    for way in WAYS {
        run(async {
            let topic = format!("held-{way:?}").to_lowercase();
            let client = client(&node, way).await;
            client.send(&topic, Message::new("long work")).await.unwrap();
            let mut consumer = client.consumer(&topic).visibility(SHORT).start().unwrap();
            let held = consumer.next().await.unwrap().unwrap();
            // somebody else waits for four times the lease
            let other = client.recv(&topic, Want::up_to(1).wait(4 * SHORT)).await.unwrap();
            assert!(other.is_empty() && !held.is_lost(), "{way:?}: {other:?}");
            assert_eq!(depths(&node.mailbox(), &topic), [0, 0, 1, 0]);
            held.ack().await.unwrap();
            assert_eq!(depths(&node.mailbox(), &topic), [0, 0, 0, 0]);
            consumer.close().await;
            // one that is held for too long is let go
            client.send(&topic, Message::new("stuck")).await.unwrap();
            let consumer = client.consumer(&topic).visibility(SHORT).max_in_flight(1).max_hold(SHORT);
            let mut consumer = consumer.start().unwrap();
            let stuck = consumer.next().await.unwrap().unwrap();
            let other = client.recv(&topic, Want::up_to(1).wait(20 * SHORT)).await.unwrap();
            assert_eq!((other.len(), other[0].attempt), (1, 2), "{way:?}");
            assert!(stuck.is_lost());
            assert_eq!(reason(stuck.ack().await), "STALE_RECEIPT");
        });
    }
}

#[test]
fn what_a_consumer_does_not_settle_comes_again_at_once() {
    let node = Setup::new().start();
    for way in WAYS {
        run(async {
            let topic = format!("dropped-{way:?}").to_lowercase();
            let client = client(&node, way).await;
            for n in 0..5 {
                client.send(&topic, Message::new(format!("m{n}"))).await.unwrap();
            }
            let mut consumer = client.consumer(&topic).max_in_flight(3).start().unwrap();
            let first = consumer.next().await.unwrap().unwrap();
            poll("the credit is used, and no more", || {
                (depths(&node.mailbox(), &topic) == [2, 0, 3, 0]).then_some(())
            });
            drop(first);
            let next = consumer.next().await.unwrap().unwrap();
            next.ack().await.unwrap();
            let stopper = consumer.stopper();
            stopper.stop();
            assert!(consumer.next().await.is_none(), "nothing after a stop");
            consumer.close().await;
            poll("all is ready again", || (depths(&node.mailbox(), &topic) == [4, 0, 0, 0]).then_some(()));
            let got = client.recv(&topic, Want::up_to(10)).await.unwrap();
            assert!(got.iter().all(|one| one.attempt == 1), "releases do not count: {got:?}");
            let bad = client.consumer(&topic).visibility(Duration::from_millis(1)).start();
            assert!(matches!(bad, Err(Error::Invalid(_))));
        });
    }
}

#[test]
fn handlers_errors_and_panics_lead_to_the_dead_letters() {
    let node = Setup::new().toml("max_attempts = 2\n").start();
    for way in WAYS {
        run(async {
            let topic = format!("work-{way:?}").to_lowercase();
            let client = client(&node, way).await;
            for text in ["fine", "bad", "worse", "never", "fine too"] {
                client.send(&topic, Message::new(text)).await.unwrap();
            }
            let consumer = client.consumer(&topic).start().unwrap();
            let stopper = consumer.stopper();
            let handler = |delivery: Delivery| async move {
                match &delivery.payload[..] {
                    b"bad" => Err(Nack::from("cannot parse")),
                    b"worse" => panic!("a handler's bug"),
                    b"never" => Err(Nack::reject("not ours")),
                    _ => Ok(()),
                }
            };
            let working = tokio::spawn(consumer.run(2, handler));
            let raw = node.mailbox();
            let settled = {
                let topic = topic.clone();
                tokio::task::spawn_blocking(move || {
                    poll("three dead letters", || (depths(&raw, &topic) == [0, 0, 0, 3]).then_some(()));
                })
            };
            settled.await.unwrap();
            stopper.stop();
            let worked = working.await.unwrap().unwrap();
            assert_eq!((worked.acked, worked.nacked, worked.unsettled), (2, 5, 0), "{way:?}");
            let letters = peek(&node.mailbox(), &topic, "state=dlq")["messages"].clone();
            let mut why: Vec<(String, String)> = letters
                .as_array()
                .unwrap()
                .iter()
                .map(|one| &one["dead_letter"])
                .map(|letter| (letter["reason"].to_string(), letter["last_error"].to_string()))
                .collect();
            why.sort();
            assert_eq!(why[0], ("\"max_attempts\"".to_owned(), "\"cannot parse\"".to_owned()));
            assert_eq!(why[1], ("\"max_attempts\"".to_owned(), "\"the handler panicked\"".to_owned()));
            assert_eq!(why[2].0, "\"not ours\"", "{why:?}");
        });
    }
}

#[test]
fn a_consumer_goes_on_after_a_kill_and_ends_with_its_capability() {
    for way in WAYS {
        let node = staying(&Setup::new());
        run(async {
            let client = client(&node, way).await;
            let consumer = client.consumer("t").visibility(Duration::from_secs(5)).start().unwrap();
            let seen = Arc::new(AtomicUsize::new(0));
            let working = {
                let seen = Arc::clone(&seen);
                let handler = move |_: Delivery| {
                    seen.fetch_add(1, Ordering::Relaxed);
                    async { Ok::<(), Nack>(()) }
                };
                tokio::spawn(consumer.run(4, handler))
            };
            client.send("t", Message::new("before").key("1")).await.unwrap();
            let node = tokio::task::spawn_blocking(|| node.kill_and_restart()).await.unwrap();
            client.send("t", Message::new("after").key("2")).await.unwrap();
            let raw = node.mailbox();
            let done = tokio::task::spawn_blocking(move || {
                poll("both are worked on", || (depths(&raw, "t") == [0, 0, 0, 0]).then_some(()));
            });
            done.await.unwrap();
            assert!(seen.load(Ordering::Relaxed) >= 2);
            let reader = node.mint(&json!({"ops": ["enqueue"]}));
            client.set_token(&reader);
            client.send("t", Message::new("wakes the poll").key("3")).await.unwrap();
            assert_eq!(reason(working.await.unwrap()), "SCOPE_MISMATCH", "{way:?}");
        });
    }
}
