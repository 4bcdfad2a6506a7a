//! How bodies of strangers are read: compressed ones, slow ones, more than there is room for.

use super::*;
use crate::http::intake::{Allowance, AllowanceLimits, Intake};
use axum::body::Body;
use bytes::Bytes;
use futures::stream::{self, StreamExt};
use http_body_util::{BodyExt, Full};
use ron_core::inflate::{Bounds, Coding};
use ron_core::reason::{Reason, Refusal};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

fn hook(provider: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    raw_request("POST", &format!("/webhooks/{provider}"), headers, body)
}

fn unhex(hex: &str) -> Vec<u8> {
    data_encoding::HEXLOWER.decode(hex.as_bytes()).unwrap()
}

/// `ok`, and 128 KiB of zeros.
const OK_GZIP: &str = "1f8b08000000000002ffcbcf060047dddc7902000000";
const OK_ZSTD: &str = "28b52ffd20021100006f6b";
fn bomb() -> Vec<u8> {
    let zeros = "00".repeat(126);
    unhex(&format!("1f8b08000000000002ffedc13101000000c2a0f54fed610da0{zeros}6ecdcde87e00000200"))
}

/// What a provider of the fake gate may send.
impl FakeGate {
    pub(super) fn allowance(
        slots: usize,
        bytes: usize,
        body_limit: usize,
        codings: &[Coding],
    ) -> Arc<Allowance> {
        Arc::new(Allowance::new(AllowanceLimits {
            body_limit,
            codings: codings.to_vec(),
            bounds: Bounds { max_ratio: 10, bytes_max: body_limit },
            slots,
            bytes,
            rate: None,
        }))
    }
}

const GZIP: &str = "content-encoding: gzip\r\n";

#[tokio::test]
async fn compressed_webhooks_are_inflated_where_that_is_allowed() {
    let net = Net::new();
    let (addr, _listening) = net.serve_interop(FakeGate::default(), false).await;
    assert_eq!(exchange(addr, hook("other", GZIP, &unhex(OK_GZIP))).await.status, 202);
    let headers = "content-encoding: identity\r\ncontent-encoding: zstd\r\n";
    assert_eq!(exchange(addr, hook("other", headers, &unhex(OK_ZSTD))).await.status, 202);
    exchange(addr, hook("github", GZIP, &unhex(OK_GZIP))).await.refused(415, "UNSUPPORTED_ENCODING");
}

#[tokio::test]
async fn other_codings_and_stacked_ones_are_refused() {
    let net = Net::new();
    let (addr, _listening) = net.serve_interop(FakeGate::default(), false).await;
    for headers in [
        "content-encoding: br\r\n",
        "content-encoding: deflate\r\n",
        "content-encoding: gzip, gzip\r\n",
        "content-encoding: gzip\r\ncontent-encoding: gzip\r\n",
        "content-encoding: gzip, identity\r\n",
        "content-encoding:\r\n",
    ] {
        let reply = exchange(addr, hook("other", headers, &unhex(OK_GZIP))).await;
        let reply = reply.refused(415, "UNSUPPORTED_ENCODING");
        assert!(reply.error().ends_with("one of: gzip, zstd"), "{headers:?}: {}", reply.error());
    }
}

#[tokio::test]
async fn bombs_and_broken_streams_are_refused() {
    let net = Net::new();
    let (addr, _listening) = net.serve_interop(FakeGate::default(), false).await;
    let ok = unhex(OK_GZIP);
    let chunked = |body: &[u8]| {
        let head = "POST /webhooks/other HTTP/1.1\r\nhost: x\r\ncontent-encoding: gzip\r\n";
        let mut raw = format!("{head}transfer-encoding: chunked\r\n\r\n").into_bytes();
        for byte in body {
            raw.extend_from_slice(&[b'1', b'\r', b'\n', *byte, b'\r', b'\n']);
        }
        raw.extend_from_slice(b"0\r\n\r\n");
        raw
    };
    for (raw, status, reason) in [
        (hook("other", GZIP, &bomb()), 400, "DECOMP_LIMIT"),
        (chunked(&bomb()), 400, "DECOMP_LIMIT"),
        (hook("other", GZIP, &ok[..20]), 400, "MALFORMED"),
        (hook("other", GZIP, &[&ok[..], b"x"].concat()), 400, "MALFORMED"),
        (hook("other", GZIP, &[&ok[..], &ok].concat()), 400, "MALFORMED"),
        (hook("other", GZIP, b""), 400, "MALFORMED"),
        (hook("other", "content-encoding: zstd\r\n", &ok), 400, "MALFORMED"),
        (hook("other", GZIP, &vec![0; (1 << 20) + 1]), 413, "BODY_LIMIT"),
    ] {
        exchange(addr, raw).await.refused(status, reason);
    }
    assert_eq!(exchange(addr, chunked(&ok)).await.status, 202);
    let free = net.interop_metric("svc_interop_inflight{route=\"/webhooks/{provider}\"}");
    assert_eq!(free, Some(0.0));
}

/// One byte at a time, with a pause before each.
fn dripping(bytes: usize, pause: Duration) -> Body {
    let drops = stream::unfold(0, move |at| async move {
        if at == bytes {
            return None;
        }
        sleep(pause).await;
        Some((Ok::<_, std::io::Error>(Bytes::from_static(b"x")), at + 1))
    });
    Body::from_stream(drops)
}

async fn read(
    all: &Share,
    own: &Allowance,
    body: Body,
    pace: Pace,
) -> (Result<usize, Refusal>, Option<&'static str>) {
    let mut step = None;
    let intake = Intake::new(all, own.terms(), None, None);
    let taken = intake.read(body, None, pace, None, &mut step).await;
    (taken.map(|taken| taken.body.len()), step)
}

fn plain(slots: usize, bytes: usize) -> Arc<Allowance> {
    FakeGate::allowance(slots, bytes, 1 << 20, &[])
}

const PACE: Pace = Pace { deadline: Duration::from_secs(10), rate_min: 1024 };

#[tokio::test(start_paused = true)]
async fn slow_bodies_are_cut_off() {
    let (all, own) = (Share::new(9, 1 << 20), plain(9, 1 << 20));
    for (bytes, pause_ms, ends_ms, whole) in [
        (60, 1_000, 3_000..=3_200, false), // a byte a second
        (20_000, 1, 0..=30_000, false),    // fast enough, but not done after ten seconds
        (9_000, 1, 8_000..=10_000, true),  // a little less than that
        (2, 1_400, 2_700..=2_900, true),   // small, in time
    ] {
        let began = Instant::now();
        let (read, _) = read(&all, &own, dripping(bytes, Duration::from_millis(pause_ms)), PACE).await;
        match whole {
            true => assert_eq!(read, Ok(bytes)),
            false => assert_eq!(read.unwrap_err().reason, Reason::Timeout),
        }
        let ms = began.elapsed().as_millis();
        assert!(ends_ms.contains(&ms), "{bytes} bytes: {ms} ms");
    }
    assert!(all.slot().await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn promised_bytes_take_no_room_and_slow_readers_give_theirs() {
    const KIB: usize = 1024;
    let (all, own) = (Arc::new(Share::new(99, 256 * KIB)), Arc::new(plain(99, 256 * KIB)));
    let quick = || Body::from(vec![1; 200 * KIB]);
    let begun = |kib: usize| {
        let (all, own) = (all.clone(), own.clone());
        let first = stream::iter([Ok::<_, std::io::Error>(Bytes::from(vec![0; kib * KIB]))]);
        let body = Body::from_stream(first.chain(stream::pending()));
        tokio::spawn(async move { read(&all, &own, body, PACE).await })
    };
    // what they sent so far goes with their slots
    let small: Vec<_> = (0..50).map(|_| begun(30)).collect();
    sleep(Duration::from_millis(1)).await;
    assert_eq!(read(&all, &own, quick(), PACE).await.0, Ok(200 * KIB), "there is room");
    small.iter().for_each(JoinHandle::abort);
    // 68 KiB each beside what goes with a slot
    let slow: Vec<_> = (0..3).map(|_| begun(100)).collect();
    sleep(Duration::from_millis(1)).await;
    let (refused, step) = read(&all, &own, quick(), PACE).await;
    assert_eq!((refused.unwrap_err().reason, step), (Reason::Backpressure, Some("BYTES")), "they just came");
    sleep(Duration::from_millis(100)).await;
    assert_eq!(read(&all, &own, quick(), PACE).await.0, Ok(200 * KIB), "they had their time");
    let mut gone = 0;
    for one in slow {
        let (read, step) = one.await.unwrap();
        gone += u32::from(step == Some("GAVE_WAY"));
        let reason = if step == Some("GAVE_WAY") { Reason::Backpressure } else { Reason::Timeout };
        assert_eq!(read.unwrap_err().reason, reason);
    }
    assert_eq!(gone, 2, "168 KiB more are needed, and 52 were free");
    let none = read(&all, &plain(9, 100 * KIB), quick(), PACE).await.0.unwrap_err();
    assert_eq!(none.reason, Reason::Backpressure, "more than there ever is");
}

/// A webhook of which all but the last byte is sent.
async fn unfinished(addr: SocketAddr, provider: &str) -> TcpStream {
    let mut socket = TcpStream::connect(addr).await.unwrap();
    let raw = hook(provider, "", b"ok");
    socket.write_all(&raw[..raw.len() - 1]).await.unwrap();
    socket
}

async fn inflight(net: &Net, n: f64) {
    let series = "svc_interop_inflight{route=\"/webhooks/{provider}\"}";
    eventually("they are read", || net.interop_metric(series) == Some(n)).await;
}

#[tokio::test]
async fn a_slow_sender_gives_way_to_a_newcomer() {
    let net = Net::new();
    let (addr, _listening) = net.serve_interop(FakeGate::default(), false).await;
    let mut first = unfinished(addr, "github").await;
    inflight(&net, 1.0).await;
    let mut second = unfinished(addr, "other").await;
    inflight(&net, 2.0).await;
    let mut status = exchange(addr, hook("other", "", b"ok")).await.status;
    while status == 503 {
        status = exchange(addr, hook("other", "", b"ok")).await.status;
    }
    assert_eq!(status, 202);
    read_reply(&mut first).await.unwrap().refused(503, "BACKPRESSURE");
    second.write_all(b"k").await.unwrap();
    assert_eq!(read_reply(&mut second).await.unwrap().status, 202, "only the oldest had to go");
    assert_eq!(net.interop_metric("svc_interop_gave_way_total{endpoint=\"webhooks\"}"), Some(1.0));
}

#[tokio::test]
async fn a_flood_at_one_provider_leaves_the_others_alone() {
    let net = Net::new();
    let gate = FakeGate { github: FakeGate::allowance(1, 1 << 20, 64, &[]), ..FakeGate::default() };
    let (addr, _listening) = net.serve_interop(gate, false).await;
    // there are two slots in all
    let mut flood = Vec::new();
    for _ in 0..2 {
        for _ in 0..10 {
            flood.push(unfinished(addr, "github").await);
        }
        assert_eq!(exchange(addr, hook("other", "", b"ok")).await.status, 202);
    }
}

#[tokio::test]
async fn a_silent_connection_gives_way_to_a_newcomer_and_a_proven_one_does_not() {
    let mut net = Net::new();
    net.serve.max_conns = 2;
    let (addr, _listening) = net.serve_interop(FakeGate::default(), false).await;
    let mut proven = TcpStream::connect(addr).await.unwrap();
    assert_eq!(exchange_on(&mut proven, hook("github", "", b"ok")).await.unwrap().status, 202);
    let mut stranger = TcpStream::connect(addr).await.unwrap();
    let version = raw_request("GET", "/version", "", b"");
    assert_eq!(exchange_on(&mut stranger, &version).await.unwrap().status, 200);
    let mut served = None;
    while served.is_none() {
        let mut newcomer = TcpStream::connect(addr).await.unwrap();
        let reply = exchange_on(&mut newcomer, &version).await;
        served = reply.filter(|reply| reply.status == 200).map(|_| newcomer);
    }
    assert!(exchange_on(&mut stranger, &version).await.is_none(), "it had to go");
    assert_eq!(exchange_on(&mut proven, &version).await.unwrap().status, 200);
    assert_eq!(net.interop_metric("svc_interop_gave_way_total{endpoint=\"connection\"}"), Some(1.0));
}

#[tokio::test]
async fn a_connection_whose_request_is_worked_on_does_not_give_way() {
    let mut net = Net::new();
    net.serve.max_conns = 1;
    let gate = FakeGate { hold: true, ..FakeGate::default() };
    let (held, receiving) = (Arc::clone(&gate.held), Arc::clone(&gate.receiving));
    let (addr, _listening) = net.serve_interop(gate, false).await;
    let busy = tokio::spawn(exchange(addr, hook("github", "", b"ok")));
    let count = || receiving.load(std::sync::atomic::Ordering::SeqCst) == 1;
    eventually("it is held", count).await;
    sleep(Duration::from_millis(100)).await;
    let refused = exchange(addr, raw_request("GET", "/version", "", b"")).await;
    refused.refused(503, "BACKPRESSURE");
    held.notify_waiters();
    assert_eq!(busy.await.unwrap().status, 202);
}

#[tokio::test]
async fn webhooks_over_http2() {
    let net = Net::new();
    let (addr, _listening) = net.serve_interop(FakeGate::default(), false).await;
    let socket = hyper_util::rt::TokioIo::new(TcpStream::connect(addr).await.unwrap());
    let executor = hyper_util::rt::TokioExecutor::new();
    let (mut client, conn) = hyper::client::conn::http2::handshake(executor, socket).await.unwrap();
    tokio::spawn(conn);
    for (coding, body, status) in
        [(None, b"ok".to_vec(), 202), (Some("gzip"), unhex(OK_GZIP), 202), (Some("gzip"), bomb(), 400)]
    {
        let mut request = http::Request::post(format!("http://{addr}/webhooks/other"));
        if let Some(coding) = coding {
            request = request.header("content-encoding", coding);
        }
        let response =
            client.send_request(request.body(Full::new(Bytes::from(body))).unwrap()).await.unwrap();
        assert_eq!(response.status(), status);
        response.into_body().collect().await.unwrap();
    }
}
