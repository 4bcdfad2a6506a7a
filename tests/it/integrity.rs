//! What has rotted, on the way in or on the disk (SPEC §4.9): it is refused, or ends in the dead letters, and is
//! counted.

use crate::harness::{Setup, TestNode, poll};
use crate::mailbox::{depths, enqueue, receipt, recv, settle};
use serde_json::{Value, json};

fn failures(node: &TestNode, stage: &str) -> u64 {
    let metrics = node.mailbox_admin().get("/metrics");
    let name = format!("integrity_fail_total{{stage=\"{stage}\"}} ");
    let line = metrics.text().lines().find_map(|line| line.strip_prefix(&*name));
    line.unwrap_or_else(|| panic!("no {name}")).parse().unwrap()
}

#[test]
fn a_body_that_is_not_what_its_sender_hashed_is_refused_and_counted() {
    let node = Setup::new().start();
    let client = node.mailbox();
    let send = |body: &[u8]| {
        let hash = format!("b3:{}", blake3::hash(b"as meant").to_hex());
        client.call("POST", "/v1/acme/h/enqueue", &[("X-Payload-Hash", hash.as_bytes())], body)
    };
    assert_eq!((failures(&node, "ingress"), failures(&node, "egress")), (0, 0));
    let text = send(b"as menat").refused(400, "MALFORMED");
    assert!(text.contains("X-Payload-Hash"), "{text}");
    client.get("/v1/acme/h").refused(404, "NOT_FOUND");
    assert_eq!((failures(&node, "ingress"), failures(&node, "egress")), (1, 0));
    send(b"as meant").json(200);
    assert_eq!(depths(&client, "h"), [1, 0, 0, 0]);
    assert_eq!(failures(&node, "ingress"), 1);
}

#[test]
fn a_body_that_rotted_on_the_disk_reaches_no_consumer() {
    // an orderly stop: after a crash the engine itself reads all, and refuses to open what has rotted
    let setup = Setup::new().env("RON_NODE__DRAIN_MS", "50");
    let node = setup.start();
    let bodies: Vec<String> = (0..5).map(|n| format!("body-{n}-{}", "x".repeat(200))).collect();
    let text: [(&str, &[u8]); 1] = [("Content-Type", b"text/plain")];
    let sent: Vec<Value> =
        bodies.iter().map(|body| enqueue(&node.mailbox(), "t", body.as_bytes(), &text)).collect();
    let setup = node.stop();
    let store = setup.data_dir().join("store.redb");
    let mut bytes = std::fs::read(&store).unwrap();
    for name in [b"body-1-", b"body-3-"] {
        // every copy that the engine has of it
        let found = bytes.windows(name.len()).enumerate().filter(|(_, found)| found == name);
        let places: Vec<usize> = found.map(|(at, _)| at).collect();
        assert!(!places.is_empty());
        places.into_iter().for_each(|at| bytes[at + 50] ^= 1);
    }
    std::fs::write(&store, bytes).unwrap();

    let node = setup.start();
    let client = node.operator();
    assert_eq!(depths(&client, "t"), [5, 0, 0, 0], "nobody has looked yet");
    let mut got = Vec::new();
    poll("what is whole", || {
        got.extend(recv(&client, "t", &json!({"max_messages": 9, "visibility_ms": 600_000})));
        (got.len() == 3).then_some(())
    });
    let payloads: Vec<&str> = got.iter().map(|message| message["payload"].as_str().unwrap()).collect();
    assert_eq!(payloads, [&bodies[0], &bodies[2], &bodies[4]]);
    poll("the dead letters", || (depths(&client, "t") == [0, 0, 3, 2]).then_some(()));
    assert_eq!((failures(&node, "egress"), failures(&node, "ingress")), (2, 0));
    let clusters = client.get("/v1/acme/t/dlq").json(200)["clusters"].clone();
    assert_eq!((&clusters[0]["reason"], &clusters[0]["count"]), (&json!("integrity"), &json!(2)));
    // sent again as it is, it would be another message: refused
    let resend = json!({"msg_id": sent[1]["msg_id"]});
    let answer = client.post("/v1/acme/t/dlq/resend", &resend);
    assert!(answer.status >= 400, "{}", answer.text());
    assert_eq!(depths(&client, "t"), [0, 0, 3, 2]);

    let receipts: Vec<&str> = got.iter().map(receipt).collect();
    let acked = settle(&client, "t", "ack", &json!({ "receipts": receipts }));
    assert!(acked.iter().all(|result| *result == json!({"ok": true})), "{acked:?}");
    let node = node.stop().start();
    let client = node.operator();
    assert_eq!(depths(&client, "t"), [0, 0, 0, 2]);
    let path = format!("/v1/acme/t/messages/{}", sent[3]["msg_id"].as_str().unwrap());
    assert_eq!(client.get(&path).json(200)["state"], "dlq");
    assert_eq!(recv(&client, "t", &json!({})), Vec::<Value>::new());
}
