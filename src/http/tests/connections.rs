//! Connections: limits, deadlines, smuggling, keep-alive, the end.

use super::*;
use std::sync::atomic::Ordering;

const GET: &[u8] = b"GET /v1/acme/orders HTTP/1.1\r\nhost: x\r\nauthorization: Bearer good\r\n\r\n";

async fn ends(socket: &mut TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    tokio::time::timeout(Duration::from_secs(5), socket.read_to_end(&mut rest))
        .await
        .expect("the connection ends")
        .ok();
    rest
}

#[tokio::test]
async fn content_length_with_transfer_encoding_ends_the_connection() {
    let net = Net::new();
    let (addr, _listening) = net.serve_mailbox().await;
    let head = "POST /v1/acme/orders/enqueue HTTP/1.1\r\nhost: x\r\nauthorization: Bearer good\r\n";
    for (framing, body) in [
        ("content-length: 5\r\ntransfer-encoding: chunked\r\n", "0\r\n\r\n"),
        ("transfer-encoding: chunked\r\ncontent-length: 5\r\n", "0\r\n\r\n"),
        ("content-length: 5\r\ncontent-length: 6\r\n", "hello"),
        ("transfer-encoding: chunked, identity\r\n", "0\r\n\r\n"),
    ] {
        let mut socket = TcpStream::connect(addr).await.unwrap();
        // what follows must never be taken for a second request
        let smuggled = "GET /v1/acme/orders HTTP/1.1\r\nhost: x\r\nauthorization: Bearer good\r\n\r\n";
        socket.write_all(format!("{head}{framing}\r\n{body}{smuggled}").as_bytes()).await.unwrap();
        let answers = String::from_utf8(ends(&mut socket).await).unwrap();
        assert_eq!(answers.matches("HTTP/1.1 ").count(), 1, "{framing:?}: {answers}");
        assert!(answers.contains("connection: close"), "{framing:?}: {answers}");
        assert!(!answers.contains("\"ready\""), "{framing:?}: {answers}");
    }
}

#[tokio::test]
async fn what_is_not_http_is_refused() {
    let net = Net::new();
    let (addr, _listening) = net.serve_mailbox().await;
    let long = format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(100_000));
    for (raw, status) in [("BAD\r\n\r\n", "400"), (long.as_str(), "431")] {
        let mut socket = TcpStream::connect(addr).await.unwrap();
        let _ = socket.write_all(raw.as_bytes()).await;
        let reply = read_reply(&mut socket).await.expect("an answer");
        assert_eq!(reply.status.to_string(), status);
        assert!(reply.body.is_empty());
    }
}

#[tokio::test]
async fn slow_heads_and_silent_connections_end() {
    let mut net = Net::new();
    net.serve.header_deadline = Duration::from_millis(100);
    let (addr, _listening) = net.serve_mailbox().await;
    for start in
        ["", "P", "PRI * HTTP/2.0\r\n\r\nSM", "POST /v1/acme/orders/enqueue HTTP/1.1\r\nhost: x\r\nx-a"]
    {
        let mut socket = TcpStream::connect(addr).await.unwrap();
        socket.write_all(start.as_bytes()).await.unwrap();
        let said = String::from_utf8(ends(&mut socket).await).unwrap();
        assert!(!said.contains(" 200 "), "{start:?}: {said}");
    }
}

#[tokio::test]
async fn connections_over_the_limit_are_told_so() {
    let mut net = Net::new();
    net.serve.max_conns = 1;
    let (addr, _listening) = net.serve_interop(FakeGate::default(), false).await;
    let version = raw_request("GET", "/version", "", b"");
    let mut first = TcpStream::connect(addr).await.unwrap();
    let webhook = raw_request("POST", "/webhooks/github", "", b"ok");
    assert_eq!(exchange_on(&mut first, webhook).await.unwrap().status, 202, "no stranger any more");
    let mut second = TcpStream::connect(addr).await.unwrap();
    let reply = exchange_on(&mut second, &version).await.unwrap();
    assert_eq!(reply.refused(503, "BACKPRESSURE").headers["connection"], "close");
    assert!(ends(&mut second).await.is_empty());
    assert_eq!(net.interop_metric("svc_interop_busy_rejections_total{endpoint=\"connection\"}"), Some(1.0));
    assert_eq!(exchange_on(&mut first, &version).await.unwrap().status, 200, "the first is not disturbed");
    drop(first);
    let mut served = false;
    for _ in 0..200 {
        let mut again = TcpStream::connect(addr).await.unwrap();
        served = exchange_on(&mut again, &version).await.is_some_and(|reply| reply.status == 200);
        if served {
            break;
        }
    }
    assert!(served, "its place is free again");
}

#[tokio::test]
async fn a_connection_carries_many_requests_refused_ones_too() {
    let net = Net::new();
    let (addr, _listening) = net.serve_mailbox().await;
    let mut socket = TcpStream::connect(addr).await.unwrap();
    for round in 0..50 {
        let path = "/v1/acme/orders/enqueue";
        let good = exchange_on(&mut socket, request("POST", path, "", b"x")).await.unwrap();
        assert_eq!(good.status, 200, "round {round}");
        let raw = raw_request("POST", path, "", &vec![b'y'; 100_000]);
        exchange_on(&mut socket, raw).await.unwrap().refused(401, "UNAUTH");
    }
    assert_eq!(
        net.mailbox_metric("requests_total{route=\"/enqueue\",method=\"POST\",code=\"401\"}"),
        Some(50.0)
    );
}

#[tokio::test]
async fn expect_continue_is_refused_before_the_body_is_asked_for() {
    let net = Net::new();
    let (addr, _listening) = net.serve_mailbox().await;
    let mut socket = TcpStream::connect(addr).await.unwrap();
    let raw = b"POST /v1/acme/orders/enqueue HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\n\
        content-length: 9\r\n\r\n";
    exchange_on(&mut socket, raw).await.unwrap().refused(401, "UNAUTH");
}

#[tokio::test]
async fn shutdown_lets_requests_finish_and_closes_idle_connections() {
    let net = Net::new();
    let (addr, listening) = net.serve_mailbox().await;
    let mut idle = TcpStream::connect(addr).await.unwrap();
    assert_eq!(exchange_on(&mut idle, GET).await.unwrap().status, 200);
    let raw = request("POST", "/v1/acme/orders/recv", "", br#"{"wait_ms":20000}"#);
    let busy = tokio::spawn(exchange(addr, raw));
    eventually("waits", || net.mailbox.waiting.load(Ordering::SeqCst) == 1).await;
    let ending = tokio::spawn(listening.shutdown(Duration::from_secs(20)));
    assert!(ends(&mut idle).await.is_empty());
    net.mailbox.arrived.notify_one();
    assert_eq!(busy.await.unwrap().status, 200);
    ending.await.unwrap();
    assert!(TcpStream::connect(addr).await.is_err(), "nobody listens");
}

#[tokio::test]
async fn shutdown_does_not_wait_for_ever() {
    let net = Net::new();
    let (addr, listening) = net.serve_mailbox().await;
    let mut socket = TcpStream::connect(addr).await.unwrap();
    let raw = request("POST", "/v1/acme/orders/recv", "", br#"{"wait_ms":20000}"#);
    socket.write_all(&raw).await.unwrap();
    eventually("waits", || net.mailbox.waiting.load(Ordering::SeqCst) == 1).await;
    listening.shutdown(Duration::from_millis(10)).await;
    assert_eq!(net.mailbox.waiting.load(Ordering::SeqCst), 0);
    assert!(ends(&mut socket).await.is_empty());
}

#[tokio::test]
async fn an_address_in_use_is_an_error() {
    let net = Net::new();
    let (addr, _listening) = net.serve_mailbox().await;
    let door = net.door(Surface::Internal, Router::new());
    let error = serve_tcp(addr, door, net.serve, None).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
}

#[tokio::test]
async fn http2_without_tls_works() {
    use http_body_util::{BodyExt, Full};
    let net = Net::new();
    let (addr, _listening) = net.serve_mailbox().await;
    let socket = hyper_util::rt::TokioIo::new(TcpStream::connect(addr).await.unwrap());
    let executor = hyper_util::rt::TokioExecutor::new();
    let (mut client, conn) = hyper::client::conn::http2::handshake(executor, socket).await.unwrap();
    tokio::spawn(conn);
    for (token, status) in [("good", 200), ("bad", 401)] {
        let request = http::Request::post(format!("http://{addr}/v1/acme/orders/enqueue"))
            .header("authorization", format!("Bearer {token}"))
            .body(Full::new(bytes::Bytes::from_static(b"hello")))
            .unwrap();
        let response = client.send_request(request).await.unwrap();
        assert_eq!(response.status(), status);
        assert!(response.headers().contains_key("x-corr-id"));
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert!(serde_json::from_slice::<serde_json::Value>(&body).unwrap()["corr_id"].is_string());
    }
}
