//! The public port, the admin ports and the Unix socket.

use super::fakes::id;
use super::*;
use std::sync::atomic::Ordering;
use tokio::net::{UnixListener, UnixStream};

fn hook(provider: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    raw_request("POST", &format!("/webhooks/{provider}"), headers, body)
}

#[tokio::test]
async fn a_webhook_is_accepted_after_its_commit() {
    let net = Net::new();
    let (addr, _listening) = net.serve_interop(FakeGate::default(), false).await;
    let reply = exchange(addr, hook("github", "x-corr-id: corr-0007\r\n", b"ok")).await;
    assert_eq!(reply.status, 202);
    let body = format!(r#"{{"accepted":true,"msg_id":"{}","duplicate":false,"corr_id":"corr-0007"}}"#, id(1));
    assert_eq!(String::from_utf8(reply.body).unwrap(), body);
    assert_eq!(exchange(addr, hook("github", "", b"known")).await.json()["duplicate"], true);
    let series = "svc_interop_requests_total{route=\"/webhooks/{provider}\",method=\"POST\",code=\"202\"}";
    assert_eq!(net.interop_metric(series), Some(2.0));
}

#[tokio::test]
async fn a_scheme_may_name_its_own_answer() {
    let net = Net::new();
    let (addr, _listening) = net.serve_interop(FakeGate::default(), false).await;
    let reply = exchange(addr, hook("github", "", b"custom")).await;
    assert_eq!((reply.status, reply.headers["x-extra"].as_str()), (204, "1"));
    for raw in [hook("github", "", b"challenge"), raw_request("GET", "/webhooks/github?c=1", "", b"")] {
        let reply = exchange(addr, raw).await;
        assert_eq!((reply.status, reply.headers["content-type"].as_str()), (200, "text/plain"));
        assert_eq!(reply.headers["x-content-type-options"], "nosniff");
        assert!(reply.headers.contains_key("x-corr-id"));
    }
}

#[tokio::test]
async fn refused_webhooks() {
    let net = Net::new();
    let (addr, _listening) = net.serve_interop(FakeGate::default(), false).await;
    for (raw, status, reason) in [
        (hook("nobody", "", b"ok"), 403, "POLICY_BLOCKED"),
        (hook("NoBody", "", b"ok"), 403, "POLICY_BLOCKED"),
        (hook("%ff", "", b"ok"), 400, "MALFORMED"),
        (hook("down", "", b"ok"), 503, "DOWNSTREAM_UNAVAILABLE"),
        (hook("github", "x-late: 1\r\n", b"ok"), 401, "REPLAY_WINDOW"),
        (hook("github", "", &[b'x'; 65]), 413, "BODY_LIMIT"),
        (hook("github", "content-encoding: gzip\r\n", b"ok"), 415, "UNSUPPORTED_ENCODING"),
        (hook("github", "", b"forged"), 401, "SIGNATURE_INVALID"),
        (hook("github", "", b"full"), 503, "BACKPRESSURE"),
        (raw_request("PUT", "/webhooks/github", "", b""), 405, "METHOD_NOT_ALLOWED"),
        (raw_request("POST", "/webhooks/", "", b""), 404, "NOT_FOUND"),
        (raw_request("POST", "/v1/acme/orders/enqueue", "", b"x"), 404, "NOT_FOUND"),
    ] {
        exchange(addr, raw).await.refused(status, reason);
        let series = format!("svc_interop_rejected_total{{reason=\"{reason}\"}}");
        assert!(net.interop_metric(&series).unwrap() >= 1.0, "{series}");
    }
    assert_eq!(net.interop_metric("svc_interop_busy_rejections_total{endpoint=\"webhooks\"}"), Some(1.0));
}

#[tokio::test]
async fn a_slow_webhook_times_out() {
    let net = Net { body_deadline: Duration::from_millis(100), ..Net::new() };
    let (addr, _listening) = net.serve_interop(FakeGate::default(), false).await;
    let raw = b"POST /webhooks/github HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\no";
    exchange(addr, raw).await.refused(408, "TIMEOUT");
}

#[tokio::test]
async fn strangers_cannot_spend_the_rate() {
    let net = Net::new();
    let (addr, _listening) = net.serve_interop(FakeGate::default(), false).await;
    for _ in 0..10 {
        exchange(addr, hook("github", "", b"forged")).await.refused(401, "SIGNATURE_INVALID");
    }
    assert_eq!(exchange(addr, hook("github", "", b"ok")).await.status, 202);
    assert_eq!(exchange(addr, hook("github", "", b"ok")).await.status, 202);
    exchange(addr, hook("github", "", b"ok")).await.refused(429, "RATE_LIMIT");
    assert_eq!(net.interop_metric("svc_interop_quota_exhaustions_total"), Some(1.0));
}

#[tokio::test]
async fn unverified_webhooks_have_few_slots() {
    let net = Net::new();
    let gate = FakeGate { hold: true, ..FakeGate::default() };
    let (held, receiving) = (Arc::clone(&gate.held), Arc::clone(&gate.receiving));
    let (addr, _listening) = net.serve_interop(gate, false).await;
    let first = tokio::spawn(exchange(addr, hook("github", "", b"ok")));
    let second = tokio::spawn(exchange(addr, hook("github", "", b"ok")));
    eventually("two are held", || receiving.load(Ordering::SeqCst) == 2).await;
    exchange(addr, hook("github", "", b"ok")).await.refused(503, "BACKPRESSURE");
    held.notify_waiters();
    assert_eq!((first.await.unwrap().status, second.await.unwrap().status), (202, 202));
}

#[tokio::test]
async fn shedding_refuses_messages_but_answers_handshakes() {
    let net = Net::new();
    let (addr, _listening) = net.serve_interop(FakeGate::default(), false).await;
    net.readiness.set(Part::Brownout, false);
    exchange(addr, hook("github", "", b"ok")).await.refused(503, "DEGRADED");
    assert_eq!(exchange(addr, hook("github", "", b"challenge")).await.status, 200);
}

#[tokio::test]
async fn the_api_on_the_public_port() {
    let net = Net::new();
    let (addr, _listening) = net.serve_interop(FakeGate::default(), true).await;
    let enqueue = request("POST", "/v1/acme/orders/enqueue", "", b"x");
    assert_eq!(exchange(addr, &enqueue).await.status, 200);
    assert_eq!(exchange(addr, &enqueue).await.status, 200);
    exchange(addr, &enqueue).await.refused(429, "RATE_LIMIT");
    let ack = request("POST", "/v1/acme/orders/ack", "", b"{\"receipts\":[\"r\"]}");
    assert_eq!(exchange(addr, &ack).await.status, 200, "settling is never charged");
    assert_eq!(exchange(addr, hook("github", "", b"ok")).await.status, 202, "webhooks have their own");
    *net.mailbox.refuse.lock().unwrap() =
        Some(ron_core::reason::Refusal::new(ron_core::reason::Reason::Backpressure, "full"));
    exchange(addr, &ack).await.refused(429, "BACKPRESSURE");
    let version = exchange(addr, raw_request("GET", "/version", "", b"")).await.json();
    assert_eq!(version, serde_json::json!({"name":"ron-node","version":"0.1.0","profile":"macronode"}));
}

#[tokio::test]
async fn admin_ports() {
    let net = Net::new();
    let (interop, _a) = net.serve_admin(AdminOf::Interop).await;
    let (mailbox, _b) = net.serve_admin(AdminOf::Mailbox(Arc::new(NoQueues))).await;
    let fetch = |addr, path: &'static str| exchange(addr, raw_request("GET", path, "", b""));
    for addr in [interop, mailbox] {
        assert_eq!(fetch(addr, "/healthz").await.status, 200);
        let ready = fetch(addr, "/readyz").await;
        assert_eq!((ready.status, &ready.body[..]), (200, &b"{\"ready\":true,\"warn\":[]}"[..]));
        fetch(addr, "/nothing").await.refused(404, "NOT_FOUND");
        exchange(addr, raw_request("POST", "/readyz", "", b"")).await.refused(405, "METHOD_NOT_ALLOWED");
    }
    net.readiness.start_drain();
    let reply = fetch(mailbox, "/readyz").await;
    assert_eq!((reply.status, reply.headers["retry-after"].as_str()), (503, "1"));
    assert_eq!(
        String::from_utf8(reply.body).unwrap(),
        r#"{"ready":false,"degraded":true,"missing":["drain"],"shed_writes":true,"retry_after_ms":1000}"#
    );
    assert_eq!(fetch(mailbox, "/readyz?for=reads").await.status, 200);
    assert_eq!(fetch(mailbox, "/healthz").await.status, 200);

    let (mailbox, interop) = (fetch(mailbox, "/metrics").await, fetch(interop, "/metrics").await);
    assert_eq!(mailbox.headers["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    let mailbox = String::from_utf8(mailbox.body).unwrap();
    let interop = String::from_utf8(interop.body).unwrap();
    assert!(mailbox.contains("# TYPE request_latency_seconds histogram"));
    assert!(!mailbox.contains("svc_interop_"));
    assert!(interop.contains("# TYPE svc_interop_latency_seconds histogram"));
    assert!(interop.lines().all(|line| line.is_empty() || line.contains("svc_interop_")));
}

#[tokio::test]
async fn the_unix_socket_needs_no_token() {
    let net = Net::new();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ronctl.sock");
    let router = ctl_router(Arc::new(FakeDesk), net.app(Surface::Internal, Access::Full));
    let listener = UnixListener::bind(&path).unwrap();
    let listening = serve_unix(listener, net.door(Surface::Internal, router), net.serve);
    let mut socket = UnixStream::connect(&path).await.unwrap();
    let mut ask = async |raw: Vec<u8>| exchange_on(&mut socket, raw).await.unwrap();
    assert_eq!(ask(raw_request("GET", "/ctl/status", "", b"")).await.json()["ready"], true);
    assert_eq!(ask(raw_request("GET", "/ctl/providers", "", b"")).await.json()[0]["name"], "github");
    let minted = ask(raw_request("POST", "/ctl/cap/mint", "", b"{\"tenant\":\"acme\"}")).await.json();
    assert_eq!(minted, serde_json::json!({"token":"ron1_acme","cap_id":"0123456789abcdef"}));
    ask(raw_request("POST", "/ctl/cap/mint", "", b"{\"tenants\":1}")).await.refused(400, "MALFORMED");
    assert_eq!(ask(raw_request("POST", "/v1/acme/orders/enqueue", "", b"x")).await.status, 200);
    assert_eq!(ask(raw_request("GET", "/v1/acme", "", b"")).await.json()["topics"][0]["topic"], "hidden");
    let revoke = br#"{"cap_ids":["0123456789abcdef"],"kids":["2026-11"]}"#;
    assert_eq!(ask(raw_request("POST", "/ctl/cap/revoke", "", revoke)).await.json()["revoked"], 2);
    for bad in [&b"{\"cap_ids\":[\"x\"]}"[..], b"{}", b"{\"cap\":[]}"] {
        ask(raw_request("POST", "/ctl/cap/revoke", "", bad)).await.refused(400, "MALFORMED");
    }
    assert!(ask(raw_request("GET", "/ctl/keys", "", b"")).await.json()["keys"].is_array());
    ask(raw_request("POST", "/ctl/key/rotate", "", b"")).await.refused(403, "POLICY_BLOCKED");
    assert!(ask(raw_request("GET", "/ctl/amnesia", "", b"")).await.json()["items"].is_array());
    assert!(ask(raw_request("GET", "/ctl/quarantine", "", b"")).await.json()["quarantined"].is_array());
    let release = ask(raw_request("POST", "/ctl/quarantine/release", "", b"{\"name\":\"acme/jobs\"}")).await;
    release.refused(404, "NOT_FOUND");
    let tail = ask(raw_request("GET", "/ctl/tail?topic=mailbox&since_ms=900000&follow=true", "", b"")).await;
    assert_eq!(tail.body, b"mailbox 900000 true\n");
    ask(raw_request("GET", "/ctl/tail?sinse_ms=1", "", b"")).await.refused(400, "MALFORMED");
    ask(raw_request("GET", "/ctl/nothing", "", b"")).await.refused(404, "NOT_FOUND");
    listening.shutdown(Duration::from_secs(5)).await;
}
