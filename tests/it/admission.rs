//! What strangers may send and hold: compressed bodies, a provider's own limits, slow senders, both versions of HTTP.

use crate::harness::{Provider, Setup, borrowed, ronctl, wall};
use crate::http::Answer;
use crate::mailbox::{depths, recv_one};
use crate::pki::Authority;
use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use std::net::SocketAddr;
use tokio_rustls::TlsConnector;

/// As RFC 1952 has it, bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    let mut sum = u32::MAX;
    for byte in bytes {
        sum ^= u32::from(*byte);
        for _ in 0..8 {
            sum = if sum & 1 == 1 { sum >> 1 ^ 0xedb8_8320 } else { sum >> 1 };
        }
    }
    !sum
}

/// A gzip member around one stored block.
fn gzip(plain: &[u8]) -> Vec<u8> {
    let len = u16::try_from(plain.len()).unwrap();
    let mut out = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255, 1];
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(&(!len).to_le_bytes());
    out.extend_from_slice(plain);
    out.extend_from_slice(&crc32(plain).to_le_bytes());
    out.extend_from_slice(&u32::from(len).to_le_bytes());
    out
}

#[test]
fn a_signature_covers_what_was_compressed() {
    let github = Provider::new("github", "github");
    let node = github.add_to(Setup::new(), "github", "encodings = [\"gzip\"]").start();
    let (interop, mailbox) = (node.interop(), node.mailbox());
    let body = br#"{"action":"opened","number":1}"#;
    let post = |coding: &str, body: &[u8], sent: &[u8]| -> Answer {
        let mut headers = github.sign("1", wall(), body);
        headers.push(("Content-Encoding".into(), coding.into()));
        interop.call("POST", "/webhooks/github", &borrowed(&headers), sent)
    };
    let accepted = post("gzip", body, &gzip(body)).json(202);
    let plain = post("identity", body, body).json(202);
    assert_eq!((&plain["duplicate"], &plain["msg_id"]), (&json!(true), &accepted["msg_id"]), "one event");
    let got = recv_one(&mailbox, "github", 60_000);
    assert_eq!(got["payload"].as_str().unwrap().as_bytes(), body, "stored as the receiver reads it");
    assert_eq!(got["content_type"], "application/json");
    assert!(!got.to_string().contains("gzip"));

    let compressed = gzip(body);
    post("gzip", &compressed, &compressed).refused(401, "SIGNATURE_INVALID");
    let mut changed = body.to_vec();
    changed[2] = b'A';
    post("gzip", body, &gzip(&changed)).refused(401, "SIGNATURE_INVALID");
    post("gzip", body, &[&compressed[..], &compressed].concat()).refused(400, "MALFORMED");
    post("zstd", body, &compressed).refused(415, "UNSUPPORTED_ENCODING");
    post("gzip, gzip", body, &gzip(&compressed)).refused(415, "UNSUPPORTED_ENCODING");
    assert_eq!(depths(&mailbox, "github"), [0, 0, 1, 0]);
}

#[test]
fn a_provider_has_limits_of_its_own() {
    let (github, other) = (Provider::new("github", "github"), Provider::new("other", "github"));
    let limits = "limits = { max_rps = 1, burst_rps = 40 }";
    let setup = github.add_to(Setup::new(), "github", limits);
    let node = other.add_to(setup, "github", "").start();
    let interop = node.interop();
    let post = |provider: &Provider, n: u32| -> Answer {
        let body = format!("{{\"n\":{n}}}");
        let headers = provider.sign("1", wall(), body.as_bytes());
        interop.call("POST", &provider.path(), &borrowed(&headers), body.as_bytes())
    };
    let used_up = |from: u32, n: u32| (from..from + n).find(|n| post(&github, *n).status != 202);
    let limited = used_up(0, 100).unwrap();
    post(&github, limited).refused(429, "RATE_LIMIT");
    post(&other, 0).json(202);

    // a reload that leaves its limits alone gives it nothing
    let (code, _, said) = ronctl(&node.setup, &["config", "reload"]);
    assert_eq!(code, 0, "{said}");
    assert!(used_up(1000, 30).is_some(), "its burst was filled up by a reload");
}

async fn posted(sender: &mut SendRequest<Full<Bytes>>, at: SocketAddr, provider: &Provider, n: u32) -> u16 {
    let body = format!("{{\"over\":\"h2\",\"n\":{n}}}");
    let mut request = hyper::Request::post(format!("http://{at}{}", provider.path()));
    for (name, value) in provider.sign("1", wall(), body.as_bytes()) {
        request = request.header(name, value);
    }
    sender.send_request(request.body(Full::new(Bytes::from(body))).unwrap()).await.unwrap().status().as_u16()
}

#[test]
fn signed_webhooks_over_both_versions_of_http() {
    let github = Provider::new("github", "github");
    let authority = Authority::new("one");
    for tls in [false, true] {
        let mut setup = github.add_to(Setup::new(), "github", "");
        if tls {
            setup = setup.toml("[interop.tls]\ncert = \"tls/cert.pem\"\nkey = \"tls/key.pem\"\n");
            crate::tls::files(&setup, &authority.issue());
        }
        let node = setup.start();
        let at = node.interop().addr();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let socket = tokio::net::TcpStream::connect(at).await.unwrap();
            let mut sender = if tls {
                let connector = TlsConnector::from(authority.trust(None, &[b"h2"]));
                let stream = connector.connect(at.ip().into(), socket).await.unwrap();
                let (sender, connection) =
                    http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
                tokio::spawn(connection);
                sender
            } else {
                // prior knowledge
                let (sender, connection) =
                    http2::handshake(TokioExecutor::new(), TokioIo::new(socket)).await.unwrap();
                tokio::spawn(connection);
                sender
            };
            for n in 0..3 {
                assert_eq!(posted(&mut sender, at, &github, n).await, 202, "tls: {tls}");
            }
        });
        if !tls {
            let body = b"{\"over\":\"http/1.1\"}";
            let headers = github.sign("1", wall(), body);
            node.interop().call("POST", "/webhooks/github", &borrowed(&headers), body).json(202);
        }
        assert_eq!(depths(&node.mailbox(), "github"), [3 + u64::from(!tls), 0, 0, 0]);
    }
}
