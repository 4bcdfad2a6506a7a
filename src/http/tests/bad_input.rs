//! Every way to ask wrongly gets its reason, in the whole envelope (SPEC §3, "Bad input").

use super::*;
use ron_core::reason::{Reason, Refusal};

const ENQUEUE: &str = "/v1/acme/orders/enqueue";

/// Sends each raw request; expects status, reason, and a word of the text.
async fn all_refused(cases: &[(Vec<u8>, u16, &str, &str)]) {
    let net = Net::new();
    let (addr, _listening) = net.serve_mailbox().await;
    for (raw, status, reason, word) in cases {
        let reply = exchange(addr, raw).await;
        let shown = String::from_utf8_lossy(&raw[..raw.len().min(200)]).into_owned();
        assert_eq!(reply.status, *status, "{shown} got {reply:?}");
        reply.refused(*status, reason);
        assert!(reply.error().contains(word), "{shown}: {} should say {word}", reply.error());
    }
    assert!(net.mailbox.never_asked(), "nothing refused may reach the mailbox");
}

#[tokio::test]
async fn routes_methods_and_names() {
    let post = |path: &str| request("POST", path, "", b"x");
    all_refused(&[
        (request("GET", "/", "", b""), 404, "NOT_FOUND", "route"),
        (post("/v1/acme/orders/nonsense"), 404, "NOT_FOUND", "route"),
        (post("/v1/acme/orders/enqueue/"), 404, "NOT_FOUND", "route"),
        (post("/v2/acme/orders/enqueue"), 404, "NOT_FOUND", "route"),
        (post("/v1/ACME/orders/enqueue"), 400, "MALFORMED", "tenant"),
        (post("/v1/acme/Orders/enqueue"), 400, "MALFORMED", "topic"),
        (post("/v1/acme/%ff/enqueue"), 400, "MALFORMED", "UTF-8"),
        (post("/v1/acme/..%2f/enqueue"), 400, "MALFORMED", "topic"),
        (request("GET", "/v1/UP", "", b""), 400, "MALFORMED", "tenant"),
    ])
    .await;
}

#[tokio::test]
async fn a_wrong_method_names_the_right_ones() {
    let net = Net::new();
    let (addr, _listening) = net.serve_mailbox().await;
    for (method, path, allow) in [
        ("GET", ENQUEUE, "POST"),
        ("DELETE", "/v1/acme/orders/recv", "POST"),
        ("POST", "/v1/acme/orders/peek", "GET,HEAD"),
        ("BREW", "/v1/acme", "GET,HEAD"),
    ] {
        let reply = exchange(addr, request(method, path, "", b"")).await;
        reply.refused(405, "METHOD_NOT_ALLOWED");
        assert_eq!(reply.headers["allow"], allow);
    }
}

#[tokio::test]
async fn capabilities() {
    let with = |headers: &str| raw_request("POST", ENQUEUE, headers, b"12345");
    all_refused(&[
        (with(""), 401, "UNAUTH", "Authorization"),
        (with("authorization: Basic x\r\n"), 401, "UNAUTH", "Bearer"),
        (with("authorization: Bearer unknown\r\n"), 401, "UNAUTH", ""),
        (
            with("authorization: Bearer good\r\nauthorization: Bearer good\r\n"),
            400,
            "MALFORMED",
            "authorization",
        ),
        (with("authorization: Bearer expired\r\n"), 401, "EXPIRED_TOKEN", ""),
        (with("authorization: Bearer scoped\r\n"), 403, "SCOPE_MISMATCH", ""),
        (with("authorization: Bearer small\r\n"), 403, "SCOPE_MISMATCH", ""),
        (with("authorization: Bearer limited\r\n"), 429, "RATE_LIMIT", ""),
        (with("authorization: Bearer down\r\n"), 503, "DOWNSTREAM_UNAVAILABLE", ""),
        (with("x-capability: good\r\n"), 401, "UNAUTH", "Authorization"),
        (raw_request("POST", &format!("{ENQUEUE}?token=good"), "", b""), 401, "UNAUTH", "Authorization"),
        (
            raw_request("POST", "/v1/acme/orders/recv", "authorization: Bearer \u{e9}\r\n", b""),
            401,
            "UNAUTH",
            "",
        ),
    ])
    .await;
}

#[tokio::test]
async fn a_401_says_how_to_authenticate() {
    let net = Net::new();
    let (addr, _listening) = net.serve_mailbox().await;
    let reply = exchange(addr, raw_request("POST", ENQUEUE, "", b"")).await;
    assert_eq!(reply.refused(401, "UNAUTH").headers["www-authenticate"], "Bearer");
    assert_eq!(net.mailbox_metric("rejected_total{reason=\"auth\"}"), Some(1.0));
}

#[tokio::test]
async fn headers_of_an_enqueue() {
    let bytes = |headers: &[u8]| {
        let mut raw = b"POST /v1/acme/orders/enqueue HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n".to_vec();
        raw.extend_from_slice(b"authorization: Bearer good\r\n");
        raw.extend_from_slice(headers);
        raw.extend_from_slice(b"\r\nx");
        raw
    };
    let wrong = format!("x-payload-hash: b3:{}\r\n", "0".repeat(64));
    all_refused(&[
        (bytes(b"idempotency-key: \xff\xfe\r\n"), 400, "MALFORMED", "Idempotency-Key"),
        (bytes(b"content-type: \xff\r\n"), 400, "MALFORMED", "Content-Type"),
        (bytes(b"x-attr-zone: \xc3\x28\r\n"), 400, "MALFORMED", "x-attr-zone"),
        (bytes(b"x-delay-ms: soon\r\n"), 400, "MALFORMED", "X-Delay-Ms"),
        (bytes(b"x-delay-ms: 1\r\nx-delay-ms: 2\r\n"), 400, "MALFORMED", "repeated"),
        (bytes(b"x-ttl-ms: 100\r\nx-delay-ms: 100\r\n"), 400, "MALFORMED", "X-Ttl-Ms"),
        (bytes(wrong.as_bytes()), 400, "MALFORMED", "X-Payload-Hash"),
        (bytes(b"content-encoding: gzip\r\n"), 415, "UNSUPPORTED_ENCODING", "Content-Encoding"),
    ])
    .await;
}

#[tokio::test]
async fn a_wrong_payload_hash_is_counted() {
    let net = Net::new();
    let (addr, _listening) = net.serve_mailbox().await;
    let header = format!("x-payload-hash: b3:{}\r\n", "0".repeat(64));
    exchange(addr, request("POST", ENQUEUE, &header, b"x")).await.refused(400, "MALFORMED");
    assert_eq!(net.mailbox_metric("integrity_fail_total{stage=\"ingress\"}"), Some(1.0));
}

#[tokio::test]
async fn json_bodies() {
    let post = |call: &str, headers: &str, body: &[u8]| {
        request("POST", &format!("/v1/acme/orders/{call}"), headers, body)
    };
    all_refused(&[
        (post("recv", "", b"{"), 400, "MALFORMED", "line 1 column 1"),
        (post("recv", "", b"{\"wait_ms\":\"s3cr3t\"}"), 400, "MALFORMED", "wait_ms: expected u64"),
        (post("recv", "", b"{\"nope\":1}"), 400, "MALFORMED", "unknown field `nope`"),
        (post("recv", "", b"{\"wait_ms\":1,\"wait_ms\":1}"), 400, "MALFORMED", "duplicate field"),
        (post("recv", "", b"{\"max_messages\":257}"), 400, "MALFORMED", "max_messages"),
        (post("recv", "", b"\xff"), 400, "MALFORMED", "line 1"),
        (post("recv", "content-type: text/plain\r\n", b"{}"), 415, "UNSUPPORTED_ENCODING", "json"),
        (post("recv", "content-encoding: br\r\n", b"{}"), 415, "UNSUPPORTED_ENCODING", ""),
        (post("ack", "", b""), 400, "MALFORMED", "line 1"),
        (post("ack", "", b"{\"receipts\":[]}"), 400, "MALFORMED", "at least one"),
        (post("ack", "", b"{\"receipts\":\"x\"}"), 400, "MALFORMED", "receipts"),
        (post("nack", "", b"{\"receipts\":[\"r\"],\"mode\":\"x\"}"), 400, "MALFORMED", "mode"),
        (
            post("nack", "", b"{\"receipts\":[\"r\"],\"mode\":\"reject\",\"delay_ms\":1}"),
            400,
            "MALFORMED",
            "delay_ms",
        ),
        (post("extend", "", b"{\"receipts\":[\"r\"]}"), 400, "MALFORMED", "visibility_ms"),
        (
            post("extend", "", b"{\"receipts\":[\"r\"],\"visibility_ms\":1}"),
            400,
            "MALFORMED",
            "visibility_ms",
        ),
        (post("enqueue/batch", "", b"{\"messages\":[]}"), 400, "MALFORMED", "at least one"),
        (
            post(
                "enqueue/batch",
                "",
                b"{\"messages\":[{\"payload\":\"x\",\"attrs\":{\"a\":\"1\",\"a\":\"2\"}}]}",
            ),
            400,
            "MALFORMED",
            "twice",
        ),
        (request("GET", "/v1/acme/orders/peek?state=x", "", b""), 400, "MALFORMED", "state"),
        (request("GET", "/v1/acme/orders/peek?limit=0", "", b""), 400, "MALFORMED", "limit"),
        (request("GET", "/v1/acme/orders/peek?a=b", "", b""), 400, "MALFORMED", "query"),
        (request("GET", "/v1/acme?a=b", "", b""), 400, "MALFORMED", "query"),
    ])
    .await;
}

#[tokio::test]
async fn no_refusal_quotes_what_was_sent() {
    let net = Net::new();
    let (addr, _listening) = net.serve_mailbox().await;
    for (call, body) in [
        ("recv", r#"{"wait_ms":"s3cr3t"}"#),
        ("recv", r#"{"s3cr3t !":1}"#),
        ("ack", r#"{"receipts":[{"s3cr3t":1}]}"#),
        ("nack", r#"{"receipts":["r"],"mode":"s3cr3t"}"#),
        ("enqueue/batch", r#"{"messages":["s3cr3t, expected s3cr3t"]}"#),
        ("recv", r#""s3cr3t""#),
    ] {
        let raw = request("POST", &format!("/v1/acme/orders/{call}"), "", body.as_bytes());
        let reply = exchange(addr, raw).await;
        reply.refused(400, "MALFORMED");
        assert!(!reply.error().contains("s3cr3t"), "{call} {body}: {}", reply.error());
    }
}

#[tokio::test]
async fn bodies_over_the_limit() {
    let big = vec![b'x'; (1 << 20) + 1];
    let mut chunked = b"POST /v1/acme/orders/enqueue HTTP/1.1\r\nhost: x\r\nauthorization: Bearer good\r\n\
        transfer-encoding: chunked\r\n\r\n100001\r\n"
        .to_vec();
    chunked.extend_from_slice(&big);
    chunked.extend_from_slice(b"\r\n0\r\n\r\n");
    all_refused(&[
        (request("POST", ENQUEUE, "", &big), 413, "BODY_LIMIT", "1048576"),
        (chunked, 413, "BODY_LIMIT", "1048576"),
        (request("POST", "/v1/acme/orders/ack", "", &vec![b' '; 200_000]), 413, "BODY_LIMIT", ""),
        (
            request("POST", "/v1/acme/orders/enqueue/batch", "", &vec![b' '; (4 << 20) + 1]),
            413,
            "BODY_LIMIT",
            "4194304",
        ),
    ])
    .await;
}

#[tokio::test]
async fn a_capability_bounds_chunked_messages_too() {
    all_refused(&[(
        b"POST /v1/acme/orders/enqueue HTTP/1.1\r\nhost: x\r\nauthorization: Bearer small\r\n\
          transfer-encoding: chunked\r\n\r\n5\r\n12345\r\n0\r\n\r\n"
            .to_vec(),
        403,
        "SCOPE_MISMATCH",
        "max_bytes",
    )])
    .await;
}

#[tokio::test]
async fn a_slow_body_is_a_timeout() {
    let net = Net::new();
    net.limits.store(Arc::new(MailboxLimits {
        body_deadline: Duration::from_millis(100),
        ..MailboxLimits::default()
    }));
    let (addr, _listening) = net.serve_mailbox().await;
    let mut socket = TcpStream::connect(addr).await.unwrap();
    let head = b"POST /v1/acme/orders/enqueue HTTP/1.1\r\nhost: x\r\nauthorization: Bearer good\r\n\
        content-length: 10\r\n\r\nhalf";
    let reply = exchange_on(&mut socket, head).await.unwrap();
    assert_eq!(reply.refused(408, "TIMEOUT").headers["connection"], "close");
    assert_eq!(socket.read(&mut [0; 16]).await.unwrap(), 0, "the connection ends");
    assert!(net.mailbox.never_asked());
}

#[tokio::test]
async fn what_the_mailbox_refuses() {
    let net = Net::new();
    let (addr, _listening) = net.serve_mailbox().await;
    for (reason, status) in [
        (Reason::Backpressure, 429),
        (Reason::Degraded, 503),
        (Reason::Storage, 503),
        (Reason::DownstreamUnavailable, 503),
        (Reason::Internal, 500),
    ] {
        *net.mailbox.refuse.lock().unwrap() = Some(Refusal::new(reason, "by the fake").retry_after(2500));
        let reply = exchange(addr, request("POST", ENQUEUE, "", b"x")).await;
        reply.refused(status, reason.code());
        if status != 500 {
            assert_eq!(reply.headers["retry-after"], "3");
        }
        exchange(addr, request("POST", "/v1/acme/orders/recv", "", b"")).await.refused(status, reason.code());
    }
    *net.mailbox.refuse.lock().unwrap() = Some(Refusal::new(Reason::Storage, "full").without_effect());
    let reply = exchange(addr, request("POST", ENQUEUE, "", b"x")).await;
    assert_eq!(reply.headers["x-effect"], "none", "the node knows better: {reply:?}");
    *net.mailbox.refuse.lock().unwrap() = None;
    *net.mailbox.refuse_item.lock().unwrap() = Some(Reason::IdempotencyConflict);
    exchange(addr, request("POST", ENQUEUE, "", b"x")).await.refused(409, "IDEMPOTENCY_CONFLICT");
    exchange(addr, request("GET", "/v1/acme/nowhere", "", b"")).await.refused(404, "NOT_FOUND");
    assert_eq!(net.mailbox_metric("rejected_total{reason=\"storage\"}"), Some(3.0));
    assert_eq!(net.mailbox_metric("rejected_total{reason=\"quota\"}"), Some(2.0));
    assert_eq!(net.mailbox_metric("rejected_total{reason=\"degraded\"}"), Some(4.0));
}

#[tokio::test]
async fn a_panic_is_an_internal_error_and_the_connection_lives() {
    let net = Net::new();
    let (addr, _listening) = net.serve_mailbox().await;
    let mut socket = TcpStream::connect(addr).await.unwrap();
    let raw = request("POST", ENQUEUE, "content-type: test/panic\r\nx-corr-id: corr-1234\r\n", b"x");
    let reply = exchange_on(&mut socket, raw).await.unwrap();
    reply.refused(500, "INTERNAL");
    assert_eq!(reply.headers["x-corr-id"], "corr-1234");
    assert!(!reply.error().contains("s3cr3t"));
    let again = exchange_on(&mut socket, request("POST", ENQUEUE, "", b"x")).await.unwrap();
    assert_eq!(again.status, 200);
    assert_eq!(net.mailbox_metric("inflight_requests{route=\"/enqueue\"}"), Some(0.0));
}

#[tokio::test]
async fn bytes_under_way_are_bounded_and_settling_has_its_own() {
    let mut net = Net::new();
    net.budgets = Arc::new(Budgets::new(1024, 256 * 1024));
    let (addr, _listening) = net.serve_mailbox().await;
    exchange(addr, request("POST", ENQUEUE, "", &[0; 4096])).await.refused(429, "BACKPRESSURE");
    let ack = request("POST", "/v1/acme/orders/ack", "", b"{\"receipts\":[\"r\"]}");
    assert_eq!(exchange(addr, ack).await.status, 200);
    assert_eq!(exchange(addr, request("POST", ENQUEUE, "", &[0; 512])).await.status, 200);
}
