//! What good requests ask of the mailbox, and the exact shape of their answers.

use super::fakes::{Asked, FakeDelivery, delivered, id};
use super::*;
use ron_actors::mailbox::api::Settle;
use ron_core::ids::ContentHash;
use ron_core::message::{DedupClaim, Origin};
use ron_core::reason::{Reason, Refusal};
use ron_core::receipt::Receipt;
use ron_core::shard::{NackMode, Paused, PeekState, SettingsPatch, TopicChange, Want};
use std::sync::atomic::Ordering;

fn keys(json: &serde_json::Value) -> Vec<&str> {
    let mut keys: Vec<_> = json.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

fn post(call: &str, body: &str) -> Vec<u8> {
    request("POST", &format!("/v1/acme/orders/{call}"), "", body.as_bytes())
}

#[tokio::test]
async fn enqueue_carries_everything_and_answers_exactly() {
    let net = Net::new();
    let (addr, _listening) = net.serve_mailbox().await;
    let hash = ContentHash::of(b"hello");
    let headers = format!(
        "Content-Type: text/plain\r\nIdempotency-Key: k1\r\nX-Delay-Ms: 5\r\nX-Ttl-Ms: 1000\r\n\
         X-Payload-Hash: {hash}\r\nX-Attr-Zone: eu\r\nX-Corr-Id: corr-0042\r\n"
    );
    let reply = exchange(addr, request("POST", "/v1/acme/orders/enqueue", &headers, b"hello")).await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.headers["content-type"], "application/json");
    assert_eq!(reply.headers["x-corr-id"], "corr-0042");
    assert_eq!(
        String::from_utf8(reply.body).unwrap(),
        format!(
            r#"{{"msg_id":"{}","duplicate":false,"payload_hash":"{hash}",{}}}"#,
            id(0),
            r#""durability":"fsync","corr_id":"corr-0042""#
        )
    );
    let Asked::Enqueue(queue, messages) = net.mailbox.last() else { panic!("an enqueue") };
    assert_eq!(queue.to_string(), "acme/orders");
    let message = &messages[0];
    assert_eq!(&message.payload[..], b"hello");
    assert_eq!(message.payload_hash, hash);
    assert_eq!((message.delay_ms, message.ttl_ms), (5, Some(1000)));
    assert_eq!(message.meta.content_type, "text/plain");
    assert_eq!(message.meta.corr_id, "corr-0042");
    assert_eq!(message.meta.attrs, [("zone".to_owned(), "eu".to_owned())]);
    assert_eq!(message.dedup, Some(DedupClaim::new(&Origin::Api, b"k1", &hash, 0)));
    let series = "requests_total{route=\"/enqueue\",method=\"POST\",code=\"200\"}";
    assert_eq!(net.mailbox_metric(series), Some(1.0));
}

#[tokio::test]
async fn an_empty_message_and_a_large_one_arrive_whole() {
    let net = Net::new();
    let (addr, _listening) = net.serve_mailbox().await;
    let large: Vec<u8> = (0..1u32 << 20).map(|n| (n % 251) as u8).collect();
    for body in [&b""[..], &large] {
        let reply = exchange(addr, request("POST", "/v1/acme/orders/enqueue", "", body)).await;
        assert_eq!(reply.status, 200);
        let Asked::Enqueue(_, messages) = net.mailbox.last() else { panic!("an enqueue") };
        assert!(messages[0].payload == body, "{} bytes arrived", messages[0].payload.len());
        assert_eq!(messages[0].meta.content_type, "application/octet-stream");
        assert_eq!(messages[0].dedup, None);
    }
}

#[tokio::test]
async fn a_stream_writes_lines_and_says_why_it_ends() {
    let net = Net::new();
    let (addr, _listening) = net.serve_mailbox().await;
    net.mailbox.ready.lock().unwrap().extend([delivered("one"), delivered("two")]);
    let body = r#"{"max_inflight":3,"max_bytes":16777216,"visibility_ms":900}"#;
    let reading = tokio::spawn(exchange(addr, post("recv/stream", body)));
    eventually("waits for more", || net.mailbox.waiting.load(Ordering::SeqCst) == 1).await;
    assert_eq!(net.mailbox.written.load(Ordering::SeqCst), 2);
    *net.mailbox.refuse.lock().unwrap() = Some(Refusal::new(Reason::Storage, "gone"));
    net.mailbox.ready.lock().unwrap().push(delivered("three"));
    net.mailbox.arrived.notify_one();
    let reply = reading.await.unwrap();
    assert_eq!((reply.status, &*reply.headers["content-type"]), (200, "application/x-ndjson"));
    let text = String::from_utf8(reply.body).unwrap();
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let payloads: Vec<_> = lines.iter().filter_map(|line| line["payload"].as_str()).collect();
    assert_eq!(payloads, ["one", "two", "three"]);
    assert_eq!(keys(&lines[3]), ["corr_id", "error", "reason"]);
    assert_eq!((&lines[3]["reason"], lines.len()), (&serde_json::json!("STORAGE"), 4));
    let asked = net.mailbox.asked.lock().unwrap().clone();
    assert!(matches!(asked[0], Asked::Stream(3)), "{asked:?}");
    let want = Want { max_messages: 256, max_bytes: 1 << 20, visibility_ms: Some(900) };
    assert!(matches!(asked[1], Asked::Recv(asked, wait) if asked == want && wait.as_secs() == 10));
    assert_eq!(net.mailbox.given_back.load(Ordering::SeqCst), 0);
    exchange(addr, post("recv/stream", r#"{"max_inflight":0}"#)).await.refused(400, "MALFORMED");
}

#[tokio::test]
async fn ram_answers_say_so() {
    let net = Net::new();
    net.limits.store(Arc::new(MailboxLimits {
        durability: crate::http::mailbox::Durability::Ram,
        ..MailboxLimits::default()
    }));
    let (addr, _listening) = net.serve_mailbox().await;
    let raw = request("POST", "/v1/acme/orders/enqueue", "", b"x");
    assert_eq!(exchange(addr, raw).await.json()["durability"], "ram");
}

#[tokio::test]
async fn topic_calls_bring_what_is_asked_and_show_what_is_in_force() {
    let net = Net::new();
    let (addr, _listening) = net.serve_mailbox().await;
    let put = |body: &str| request("PUT", "/v1/acme/orders/settings", "", body.as_bytes());
    let reply = exchange(addr, put(r#"{"max_attempts":9,"durability":"fsync","fifo":false}"#)).await;
    assert_eq!((reply.status, &reply.json()["max_attempts"]), (200, &9.into()));
    let Asked::Configure(TopicChange::Settings(patch)) = net.mailbox.last() else { panic!("settings") };
    assert_eq!(
        patch,
        SettingsPatch {
            max_attempts: Some(9),
            ram: Some(false),
            fifo: Some(false),
            ..SettingsPatch::default()
        }
    );
    let reply = exchange(addr, post("resume", r#"{"what":"recv"}"#)).await;
    assert_eq!(reply.json()["paused"], "enqueue");
    let Asked::Configure(TopicChange::Pause { what, paused: false }) = net.mailbox.last() else {
        panic!("a resume")
    };
    assert_eq!(what, Paused { recv: true, enqueue: false });
    assert_eq!(exchange(addr, post("purge", r#"{"confirm":"orders"}"#)).await.json()["purged"], 3);
    assert!(matches!(net.mailbox.last(), Asked::Purge));
    let delete = |body: &str| request("DELETE", "/v1/acme/orders", "", body.as_bytes());
    assert_eq!(exchange(addr, delete(r#"{"confirm":"orders"}"#)).await.json()["purged"], 4);
    assert!(matches!(net.mailbox.last(), Asked::Delete));
    let asked = net.mailbox.asked.lock().unwrap().len();
    for (call, body) in [("purge", r#"{"confirm":"order"}"#), ("pause", r#"{"what":"all"}"#), ("pause", "{}")]
    {
        assert_eq!(exchange(addr, post(call, body)).await.status, 400, "{call} {body}");
    }
    assert_eq!(net.mailbox.asked.lock().unwrap().len(), asked, "nothing was asked of the mailbox");
}

#[tokio::test]
async fn batch_results_stay_in_order() {
    let net = Net::new();
    let (addr, _listening) = net.serve_mailbox().await;
    let body =
        r#"{"messages":[{"payload":"a"},{"payload":"b","delay_ms":9,"ttl_ms":9},{},{"payload_b64":"AAE="}]}"#;
    let reply = exchange(addr, post("enqueue/batch", body)).await;
    assert_eq!(reply.status, 200);
    let json = reply.json();
    assert_eq!(keys(&json), ["results"]);
    let results = json["results"].as_array().unwrap();
    assert_eq!(results.len(), 4);
    assert_eq!(keys(&results[0]), ["duplicate", "durability", "msg_id", "payload_hash"]);
    assert_eq!(results[0]["msg_id"], id(0).to_string());
    assert_eq!(results[0]["payload_hash"], ContentHash::of(b"a").to_string());
    for bad in &results[1..3] {
        assert_eq!(keys(bad), ["error", "reason"]);
        assert_eq!(bad["reason"], "MALFORMED");
    }
    assert_eq!(results[3]["msg_id"], id(1).to_string());
    assert_eq!(results[3]["duplicate"], true);
    let Asked::Enqueue(_, messages) = net.mailbox.last() else { panic!("an enqueue") };
    assert_eq!(messages.len(), 2, "one commit of what is accepted");

    *net.mailbox.refuse_item.lock().unwrap() = Some(Reason::Backpressure);
    let reply = exchange(addr, post("enqueue/batch", r#"{"messages":[{"payload":"a"}]}"#)).await;
    assert_eq!((reply.status, reply.json()["results"][0]["reason"].as_str()), (200, Some("BACKPRESSURE")));
    assert_eq!(net.mailbox_metric("rejected_total{reason=\"quota\"}"), Some(1.0));
}

#[tokio::test]
async fn a_batch_item_over_the_capability_is_refused_alone() {
    let net = Net::new();
    let (addr, _listening) = net.serve_mailbox().await;
    let body = br#"{"messages":[{"payload":"1234"},{"payload":"12345"}]}"#;
    let raw = raw_request("POST", "/v1/acme/orders/enqueue/batch", "authorization: Bearer small\r\n", body);
    let json = exchange(addr, raw).await.json();
    assert!(json["results"][0]["msg_id"].is_string());
    assert_eq!(json["results"][1]["reason"], "SCOPE_MISMATCH");
    assert_eq!(net.mailbox_metric("rejected_total{reason=\"auth\"}"), Some(1.0));
}

#[tokio::test]
async fn recv_hands_out_and_the_leases_stand_once_written() {
    let net = Net::new();
    let (addr, _listening) = net.serve_mailbox().await;
    let reply = exchange(addr, post("recv", "")).await;
    assert_eq!((reply.status, &reply.body[..]), (200, &b"{\"messages\":[]}"[..]));
    let Asked::Recv(want, wait) = net.mailbox.last() else { panic!("a recv") };
    assert_eq!(want, Want { max_messages: 1, max_bytes: 4 << 20, visibility_ms: None });
    assert_eq!(wait, Duration::ZERO);

    net.mailbox.ready.lock().unwrap().push(delivered("hello"));
    let body = r#"{"max_messages":2,"max_bytes":10,"visibility_ms":250,"wait_ms":20000}"#;
    let reply = exchange(addr, post("recv", body)).await;
    let json = reply.json();
    assert_eq!(keys(&json), ["messages"]);
    assert_eq!(json["messages"][0]["payload"], "hello");
    assert_eq!(json["messages"][0]["receipt"], Receipt::from_bytes([1; 28]).to_string());
    let Asked::Recv(want, wait) = net.mailbox.last() else { panic!("a recv") };
    assert_eq!(want, Want { max_messages: 2, max_bytes: 10, visibility_ms: Some(250) });
    assert_eq!(wait, Duration::from_secs(20));
    eventually("written", || net.mailbox.written.load(Ordering::SeqCst) == 1).await;
    assert_eq!(net.mailbox.given_back.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_consumer_that_goes_away_gets_nothing() {
    let net = Net::new();
    let (addr, _listening) = net.serve_mailbox().await;
    let mut socket = TcpStream::connect(addr).await.unwrap();
    socket.write_all(&post("recv", r#"{"wait_ms":20000}"#)).await.unwrap();
    eventually("waits", || net.mailbox.waiting.load(Ordering::SeqCst) == 1).await;
    drop(socket);
    eventually("gives up", || net.mailbox.waiting.load(Ordering::SeqCst) == 0).await;
    assert_eq!(net.mailbox_metric("inflight_requests{route=\"/recv\"}"), Some(0.0));
}

#[tokio::test]
async fn an_answer_that_is_never_written_gives_back() {
    use crate::http::body::DeliveryBody;
    use http_body_util::BodyExt;
    let mailbox = FakeMailbox::default();
    let body = || DeliveryBody::new(b"{}".to_vec(), FakeDelivery::new(vec![delivered("x")], &mailbox));
    drop(body());
    let counts = || (mailbox.written.load(Ordering::SeqCst), mailbox.given_back.load(Ordering::SeqCst));
    assert_eq!(counts(), (0, 1));
    assert_eq!(body().collect().await.unwrap().to_bytes(), "{}");
    assert_eq!(counts(), (1, 1));
}

#[tokio::test]
async fn a_wait_ends_with_its_capability() {
    let net = Net::new();
    let (addr, _listening) = net.serve_mailbox().await;
    let headers = "authorization: Bearer fading\r\n";
    let raw = raw_request("POST", "/v1/acme/orders/recv", headers, br#"{"wait_ms":20000}"#);
    exchange(addr, raw).await.refused(401, "EXPIRED_TOKEN");
}

#[tokio::test]
async fn settling_passes_modes_and_answers_in_order() {
    let net = Net::new();
    let (addr, _listening) = net.serve_mailbox().await;
    let reply = exchange(addr, post("ack", r#"{"receipts":["a","stale","bad"]}"#)).await;
    assert_eq!(
        String::from_utf8(reply.body).unwrap(),
        r#"{"results":[{"ok":true},{"ok":false,"reason":"STALE_RECEIPT"},{"ok":false,"reason":"MALFORMED"}]}"#
    );
    let Asked::Settle(Settle::Ack, receipts) = net.mailbox.last() else { panic!("an ack") };
    assert_eq!(receipts, ["a", "stale", "bad"]);

    let body = r#"{"receipts":["a"],"mode":"release","delay_ms":7,"reason":"busy"}"#;
    assert_eq!(exchange(addr, post("nack", body)).await.status, 200);
    let Asked::Settle(Settle::Nack { mode, delay_ms, note }, _) = net.mailbox.last() else {
        panic!("a nack")
    };
    assert_eq!((mode, delay_ms, note.as_deref()), (NackMode::Release, Some(7), Some("busy")));

    let body = r#"{"receipts":["a"],"visibility_ms":30000}"#;
    assert_eq!(exchange(addr, post("extend", body)).await.status, 200);
    let Asked::Settle(Settle::Extend { visibility_ms: 30_000 }, _) = net.mailbox.last() else {
        panic!("an extend")
    };
}

#[tokio::test]
async fn stat_peek_and_topics() {
    let net = Net::new();
    let (addr, _listening) = net.serve_mailbox().await;
    let json = exchange(addr, request("GET", "/v1/acme/orders", "", b"")).await.json();
    for (field, value) in
        [("ready", 1), ("delayed", 2), ("vis", 3), ("dlq", 4), ("dedup_keys", 6), ("oldest_age_ms", 7)]
    {
        assert_eq!(json[field], value, "{field}");
    }
    assert_eq!(json["paused"], "recv");
    let mut settings = keys(&json["settings"]);
    settings.sort_unstable();
    let mut put = [
        "visibility_ms",
        "max_attempts",
        "max_deliveries",
        "backoff_base_ms",
        "backoff_max_ms",
        "retention_ms",
        "dlq_retention_ms",
        "dedup_window_ms",
        "max_dedup_keys",
        "durability",
        "max_depth",
        "fifo",
    ];
    put.sort_unstable();
    assert_eq!(settings, put);
    assert_eq!(json["settings"]["dedup_window_ms"], 8);

    let raw = request("GET", "/v1/acme/orders/peek?state=dlq&limit=3&cursor=abc", "", b"");
    let json = exchange(addr, raw).await.json();
    assert_eq!(json["cursor"], "next");
    assert!(json["messages"][0].get("receipt").is_none());
    let Asked::Peek(PeekState::Dlq, 3, Some(cursor)) = net.mailbox.last() else { panic!("a peek") };
    assert_eq!(cursor, "abc");

    let json = exchange(addr, request("GET", "/v1/acme?cursor=c", "", b"")).await.json();
    assert_eq!(
        json,
        serde_json::json!({
            "topics": [{"topic": "orders", "ready": 9, "delayed": 0, "vis": 0, "dlq": 0}],
            "cursor": null
        }),
        "only what the caveats allow"
    );
    let Asked::Topics(Some(cursor)) = net.mailbox.last() else { panic!("a list") };
    assert_eq!(cursor, "c");
}

#[tokio::test]
async fn head_has_no_body() {
    let net = Net::new();
    let (addr, _listening) = net.serve_mailbox().await;
    let mut socket = TcpStream::connect(addr).await.unwrap();
    let raw = request("HEAD", "/v1/acme/nowhere", "connection: close\r\n", b"");
    socket.write_all(&raw).await.unwrap();
    let mut all = String::new();
    socket.read_to_string(&mut all).await.unwrap();
    assert!(all.starts_with("HTTP/1.1 404") && all.ends_with("\r\n\r\n"), "{all}");
}

#[tokio::test]
async fn drain_refuses_sends_ends_waits_and_lets_settling_through() {
    let net = Net::new();
    let (addr, _listening) = net.serve_mailbox().await;
    let waiting = tokio::spawn(exchange(addr, post("recv", r#"{"wait_ms":20000}"#)));
    eventually("waits", || net.mailbox.waiting.load(Ordering::SeqCst) == 1).await;
    net.readiness.start_drain();
    let reply = waiting.await.unwrap();
    assert_eq!((reply.status, &reply.body[..]), (200, &b"{\"messages\":[]}"[..]));
    for (call, body) in
        [("enqueue", "x"), ("enqueue/batch", r#"{"messages":[{"payload":"x"}]}"#), ("recv", "")]
    {
        exchange(addr, post(call, body)).await.refused(503, "DEGRADED");
    }
    for (call, body) in [
        ("ack", r#"{"receipts":["a"]}"#),
        ("nack", r#"{"receipts":["a"]}"#),
        ("extend", r#"{"receipts":["a"],"visibility_ms":250}"#),
    ] {
        assert_eq!(exchange(addr, post(call, body)).await.status, 200, "{call}");
    }
    for path in ["/v1/acme/orders", "/v1/acme/orders/peek", "/v1/acme"] {
        assert_eq!(exchange(addr, request("GET", path, "", b"")).await.status, 200, "{path}");
    }
    assert_eq!(net.mailbox_metric("rejected_total{reason=\"degraded\"}"), Some(3.0));
}

#[tokio::test]
async fn the_benchmark_routes_store_nothing() {
    let net = Net::new();
    let (addr, _listening) = net.serve_mailbox().await;
    let path = "/bench/discard/acme/orders";
    let json = exchange(addr, request("POST", path, "", b"hello")).await.json();
    assert_eq!(keys(&json), ["corr_id", "duplicate", "durability", "msg_id", "payload_hash"]);
    exchange(addr, raw_request("POST", path, "", b"hello")).await.refused(401, "UNAUTH");
    assert_eq!(exchange(addr, raw_request("POST", "/bench/empty", "", b"")).await.status, 204);
    assert!(net.mailbox.never_asked());
}
