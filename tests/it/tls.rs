//! TLS on a real node: who is let in, what a broken handshake harms, and another certificate without a restart.

use crate::harness::{Setup, TENANT, TestNode, poll, ronctl, timed};
use crate::http::{Client, Door, read_answer};
use crate::mailbox::{depths, enqueue, receipt, recv_one, settle};
use crate::oap_wire::Oap;
use crate::pki::{Authority, Pair, Stream, Trust, connect, put};
use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use ron_core::oap::{self, Draft, Enqueued, Raw};
use rustix::process::Signal;
use rustls::HandshakeKind;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;
use tokio_rustls::TlsConnector;

const MAILBOX: &str = "[mailbox.tls]\ncert = \"tls/cert.pem\"\nkey = \"tls/key.pem\"\n";

pub(crate) fn files(setup: &Setup, pair: &Pair) {
    let dir = setup.dir().join("tls");
    std::fs::create_dir_all(&dir).unwrap();
    put(&dir.join("cert.pem"), &pair.cert);
    put(&dir.join("key.pem"), &pair.key);
}

/// A node whose mailbox has a certificate of `authority`.
fn node_of(authority: &Authority) -> TestNode {
    let setup = Setup::new().toml(MAILBOX);
    files(&setup, &authority.issue());
    setup.start()
}

fn client(node: &TestNode, trust: &Trust) -> Client {
    Client::new(Door::Tls(node.bare().addr(), trust.clone())).with(&node.token())
}

fn failures(node: &TestNode) -> u64 {
    let text = node.mailbox_admin().get("/metrics");
    let line = text.text().lines().find_map(|line| line.strip_prefix("tls_handshake_failures_total "));
    line.unwrap().parse().unwrap()
}

fn warnings(node: &TestNode) -> Vec<Value> {
    node.mailbox_admin().get("/readyz").json(200)["warn"].as_array().unwrap().clone()
}

fn wait_warned(node: &TestNode, what: &str) -> String {
    poll(what, || warnings(node).into_iter().map(|said| said.to_string()).find(|said| said.contains(what)))
}

/// The certificate that a new connection is shown.
fn shown(node: &TestNode, trust: &Trust) -> Vec<u8> {
    let stream = connect(node.bare().addr(), trust).unwrap();
    stream.conn.peer_certificates().unwrap()[0].to_vec()
}

/// A request on a connection that stays open; the status of its answer.
fn keeps_talking(stream: &mut Stream) -> u16 {
    let request = b"GET /nowhere HTTP/1.1\r\nHost: it\r\n\r\n";
    stream.write_all(request).unwrap();
    read_answer(stream, request).unwrap().status
}

#[test]
fn everything_is_as_it_is_in_plain_text() {
    let authority = Authority::new("one");
    let node = node_of(&authority);
    let mailbox = client(&node, &authority.trust(None, &[b"http/1.1"]));
    enqueue(&mailbox, "t", b"inside", &[]);
    let message = recv_one(&mailbox, "t", 60_000);
    assert_eq!(message["payload_b64"], "aW5zaWRl");
    assert_eq!(
        settle(&mailbox, "t", "ack", &json!({"receipts": [receipt(&message)]})),
        [json!({"ok": true})]
    );
    assert_eq!(depths(&mailbox, "t"), [0, 0, 0, 0]);
    let big = vec![7; 1 << 20];
    enqueue(&mailbox, "big", &big, &[]);
    recv_one(&mailbox, "big", 60_000);
    mailbox.bare().get("/v1/acme/t").refused(401, "UNAUTH");

    assert_eq!(failures(&node), 0);
    assert_eq!(node.ronctl_json(&["status"])["tls"], json!(["mailbox", "oap"]));
    let setup = node.stop();
    assert!(!setup.start().log().contains("PRIVATE KEY"));
}

#[test]
fn protocols_are_agreed_on_and_nothing_is_resumed() {
    let authority = Authority::new("one");
    let node = node_of(&authority);
    let at = node.bare().addr();
    let agreed = |protocols: &[&[u8]]| {
        let stream = connect(at, &authority.trust(None, protocols)).unwrap();
        stream.conn.alpn_protocol().map(<[u8]>::to_vec)
    };
    assert_eq!(agreed(&[b"h2", b"http/1.1"]), Some(b"h2".to_vec()));
    assert_eq!(agreed(&[b"http/1.1"]), Some(b"http/1.1".to_vec()));
    assert_eq!(agreed(&[]), None);
    assert!(connect(at, &authority.trust(None, &[b"gopher"])).is_err());

    let trust = authority.trust(None, &[]);
    for _ in 0..2 {
        let mut stream = connect(at, &trust).unwrap();
        assert_eq!(keeps_talking(&mut stream), 404);
        assert_eq!(stream.conn.handshake_kind(), Some(HandshakeKind::Full));
    }
}

#[test]
fn http2_is_served_inside() {
    let authority = Authority::new("one");
    let node = node_of(&authority);
    let (at, token) = (node.bare().addr(), node.token());
    let connector = TlsConnector::from(authority.trust(None, &[b"h2"]));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let socket = tokio::net::TcpStream::connect(at).await.unwrap();
        let stream = connector.connect(at.ip().into(), socket).await.unwrap();
        let opened = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
        let (mut sender, connection) = opened.unwrap();
        tokio::spawn(connection);
        // both at once, on one connection
        let mut send = |token: &str| {
            let request = Request::post(format!("https://{at}/v1/acme/t/enqueue"));
            let request = request.header("authorization", format!("Bearer {token}"));
            sender.send_request(request.body(Full::new(Bytes::from_static(b"x"))).unwrap())
        };
        let (known, stranger) = (send(&token), send("ron1_x"));
        let (stored, refused) = tokio::join!(known, stranger);
        assert_eq!((stored.unwrap().status().as_u16(), refused.unwrap().status().as_u16()), (200, 401));
    });
    assert_eq!(depths(&client(&node, &authority.trust(None, &[])), "t"), [1, 0, 0, 0]);
}

#[test]
fn oap_is_spoken_inside_too() {
    let authority = Authority::new("one");
    let node = node_of(&authority);
    let trust = authority.trust(None, &[]);
    let mut oap = Oap::over(connect(node.oap(), &trust).unwrap());
    assert_eq!(oap.hello()["transports"], json!(["tcp+tls"]));
    assert_eq!(oap.start(&node.token()).header.code, 200);
    // more than TLS keeps back: all of it has to be flushed
    let payload = vec![1; 900_000];
    let message = Draft { payload: Raw(&payload), ..Draft::default() };
    for _ in 0..4 {
        let request = oap::Request::Enqueue { topic: "t", message: message.clone() };
        let came = oap.call(&request);
        assert!(!came.read::<Enqueued>().duplicate);
    }
    let recv =
        oap::Request::Recv { topic: "t", max_messages: 4, max_bytes: None, visibility_ms: None, wait_ms: 0 };
    assert!(oap.call(&recv).payload.len() > 4 * payload.len());
    assert_eq!(depths(&client(&node, &trust), "t"), [0, 0, 4, 0]);

    // a peer that has shut down its side is answered, and told of the end
    oap.ask(&oap::Request::Enqueue { topic: "t", message });
    oap.socket.conn.send_close_notify();
    oap.socket.flush().unwrap();
    oap.socket.sock.shutdown(Shutdown::Write).unwrap();
    assert_eq!(oap.came().header.code, 200);
    assert!(oap.is_closed());
}

#[test]
fn another_authority_is_refused_by_the_client_and_counted() {
    let (authority, other) = (Authority::new("one"), Authority::new("other"));
    let node = node_of(&authority);
    let refused = connect(node.bare().addr(), &other.trust(None, &[])).unwrap_err();
    assert!(refused.to_string().contains("UnknownIssuer"), "{refused}");
    poll("the failure counted", || (failures(&node) == 1).then_some(()));
    enqueue(&client(&node, &authority.trust(None, &[])), "t", b"x", &[]);
}

#[test]
fn a_clients_certificate_is_demanded_where_its_authority_is_named() {
    let (authority, clients) = (Authority::new("one"), Authority::new("clients"));
    let setup = Setup::new().toml(MAILBOX).toml("client_ca = \"tls/ca.pem\"\n");
    files(&setup, &authority.issue());
    put(&setup.dir().join("tls/ca.pem"), &clients.pem());
    let node = setup.start();
    let shows = |pair: Option<&Pair>| {
        let request = b"GET /nowhere HTTP/1.1\r\nHost: it\r\n\r\n";
        let mut stream = connect(node.bare().addr(), &authority.trust(pair, &[]))?;
        stream.write_all(request)?;
        read_answer(&mut stream, request).map(|answer| answer.status).map_err(std::io::Error::other)
    };
    assert_eq!(shows(Some(&clients.issue())).unwrap(), 404);
    assert!(shows(None).unwrap_err().to_string().contains("CertificateRequired"));
    let foreign = shows(Some(&authority.issue())).unwrap_err().to_string();
    assert!(foreign.contains("UnknownCA"), "{foreign}");
    assert_eq!(failures(&node), 2);

    let trust = authority.trust(Some(&clients.issue()), &[]);
    let mut oap = Oap::over(connect(node.oap(), &trust).unwrap());
    assert_eq!(oap.start(&node.token()).header.code, 200, "the capability is still asked for");
    enqueue(&client(&node, &trust), "t", b"x", &[]);
}

#[test]
fn a_new_pair_is_used_from_the_next_connection_on() {
    let (authority, next) = (Authority::new("one"), Authority::new("next"));
    let node = node_of(&authority);
    let trust = authority.trust(None, &[]);
    let mut old = connect(node.bare().addr(), &trust).unwrap();
    assert_eq!(keeps_talking(&mut old), 404);

    files(&node.setup, &next.issue());
    let renewed = next.trust(None, &[]);
    poll("the new certificate", || connect(node.bare().addr(), &renewed).ok());
    assert!(connect(node.bare().addr(), &trust).is_err());
    assert!(connect(node.oap(), &renewed).is_ok());
    assert_eq!(keeps_talking(&mut old), 404, "what is open goes on");
    enqueue(&client(&node, &renewed), "t", b"x", &[]);
    poll("no warning", || warnings(&node).is_empty().then_some(()));
}

#[test]
fn files_that_are_not_watched_are_read_again_by_a_signal() {
    let authority = Authority::new("one");
    let setup = Setup::new().toml(MAILBOX);
    files(&setup, &authority.issue());
    // the names are links, and what they lead to changes: nothing happens in their directory
    let (named, real) = (setup.dir().join("tls"), setup.dir().join("real"));
    std::fs::rename(&named, &real).unwrap();
    std::fs::create_dir(&named).unwrap();
    for name in ["cert.pem", "key.pem"] {
        std::os::unix::fs::symlink(real.join(name), named.join(name)).unwrap();
    }
    let node = setup.start();
    let trust = authority.trust(None, &[]);
    let before = shown(&node, &trust);
    let next = authority.issue();
    put(&real.join("key.pem"), &next.key);
    put(&real.join("cert.pem"), &next.cert);
    assert_eq!(shown(&node, &trust), before);
    node.signal(Signal::HUP);
    poll("the new certificate", || (shown(&node, &trust) != before).then_some(()));
    assert_eq!(node.log().matches("certificate in force").count(), 2);
}

#[test]
fn a_broken_pair_changes_nothing_and_is_told_of_until_it_is_right() {
    let authority = Authority::new("one");
    let node = node_of(&authority);
    let trust = authority.trust(None, &[]);
    let before = shown(&node, &trust);

    let (one, other) = (authority.issue(), authority.issue());
    files(&node.setup, &Pair { cert: one.cert.clone(), key: other.key });
    let said = wait_warned(&node, "mailbox.tls.key");
    assert!(said.contains("is not the key of the first certificate"), "{said}");
    assert_eq!(shown(&node, &trust), before);
    for times in 1..=2 {
        node.signal(Signal::HUP);
        // the configuration names these files, so it is not put in force either
        let heeded = || node.log().matches("configuration not reloaded").count() == times;
        poll("the signal heeded", || heeded().then_some(()));
    }
    put(&node.setup.dir().join("tls/key.pem"), "-----BEGIN PRIVATE KEY-----\nno base64!\n");
    wait_warned(&node, "holds no private key");
    assert_eq!(shown(&node, &trust), before);
    assert_eq!(node.log().matches("certificate not reloaded").count(), 2, "each problem is logged once");
    assert!(!node.log().contains("base64!"));
    enqueue(&client(&node, &trust), "t", b"x", &[]);

    put(&node.setup.dir().join("tls/key.pem"), &one.key);
    poll("the new certificate", || (shown(&node, &trust) != before).then_some(()));
    poll("no warning", || warnings(&node).is_empty().then_some(()));
}

#[test]
fn a_stalled_handshake_is_ended_and_holds_up_nobody() {
    let authority = Authority::new("one");
    let setup = Setup::new().toml("[interop.tls]\ncert = \"tls/cert.pem\"\nkey = \"tls/key.pem\"\n");
    let setup = setup.toml("[interop.limits]\nheader_timeout = \"2s\"\nmax_conns = 2\n");
    files(&setup, &authority.issue());
    let node = setup.start();
    let at = node.interop().addr();
    let trust = authority.trust(None, &[]);
    let stalled = || {
        let mut socket = TcpStream::connect(at).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(40))).unwrap();
        // the head of a record whose rest never comes; it may be closed already
        let _ = socket.write_all(&[0x16, 3, 1, 1, 0]);
        socket
    };
    let mut first = stalled();
    let interop = Client::new(Door::Tls(at, trust.clone()));
    assert_eq!(interop.get("/version").status, 200, "others are served meanwhile");

    // they count against max_conns: whoever comes then is just closed
    let mut more = Vec::new();
    poll("a connection refused", || {
        more.push(stalled());
        connect(at, &trust).is_err().then_some(())
    });
    let ((), took) = timed(|| assert_eq!(first.read(&mut [0; 64]).unwrap_or(0), 0));
    assert!(took < Duration::from_secs(20), "{took:?}");
    drop(more);
    poll("both counted", || (failures(&node) >= 2).then_some(()));
    poll("room again", || connect(at, &trust).ok());
    assert_eq!(interop.get("/version").status, 200);
}

#[test]
fn a_plain_request_is_closed_and_counted() {
    let authority = Authority::new("one");
    let setup = Setup::new().toml(MAILBOX).toml("[log]\nlevel = \"info,ron_node::tls=debug\"\n");
    files(&setup, &authority.issue());
    let node = setup.start();
    for (at, said) in
        [(node.bare().addr(), &b"GET / HTTP/1.1\r\nHost: it\r\n\r\n"[..]), (node.oap(), &[0; 64])]
    {
        let mut socket = TcpStream::connect(at).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(40))).unwrap();
        socket.write_all(said).unwrap();
        let mut answer = Vec::new();
        // an alert of TLS at most
        let _ = socket.read_to_end(&mut answer);
        assert!(answer.len() < 16 && !answer.starts_with(b"HTTP"), "{answer:?}");
    }
    poll("both counted", || (failures(&node) == 2).then_some(()));
    assert_eq!(node.log().matches("what came is not TLS").count(), 2);
    // whoever only looks whether the port is open is no failure
    drop(TcpStream::connect(node.bare().addr()).unwrap());
    enqueue(&client(&node, &authority.trust(None, &[])), "t", b"x", &[]);
    assert_eq!(failures(&node), 2);
}

#[test]
fn admin_ports_have_certificates_of_their_own_and_ronctl_needs_none() {
    let authority = Authority::new("one");
    let table = "{ cert = \"tls/cert.pem\", key = \"tls/key.pem\" }";
    let setup = Setup::new()
        .env("RON_INTEROP__METRICS_TLS__CERT", "tls/cert.pem")
        .env("RON_INTEROP__METRICS_TLS__KEY", "tls/key.pem")
        .toml(&format!("metrics_tls = {table}\n"));
    files(&setup, &authority.issue());
    let node = setup.start();
    let trust = authority.trust(None, &[]);
    for admin in [node.mailbox_admin(), node.interop_admin()] {
        let inside = Client::new(Door::Tls(admin.addr(), trust.clone()));
        assert_eq!(inside.get("/readyz").json(200)["ready"], true);
        assert!(admin.try_raw(&admin.request("GET", "/healthz", &[], b"")).is_err());
    }
    enqueue(&node.mailbox(), "t", b"x", &[]);
    let (code, frame, said) = ronctl(&node.setup, &["top", "--once", "--every", "100ms"]);
    assert!(code == 0 && frame.contains("acme/t"), "{frame}{said}");
}

#[test]
fn what_is_wrong_with_the_files_stops_the_start() {
    let authority = Authority::new("one");
    let pair = authority.issue();
    let said = |change: &dyn Fn(&Setup)| {
        let setup = Setup::new().toml(MAILBOX);
        files(&setup, &pair);
        change(&setup);
        let (code, said) = setup.run_to_end();
        assert_eq!(code, 78, "{said}");
        assert!(!said.contains(pair.key.lines().nth(1).unwrap()), "{said}");
        said
    };
    let key = |setup: &Setup| setup.dir().join("tls/key.pem");
    let missing = said(&|setup| std::fs::remove_file(key(setup)).unwrap());
    assert!(missing.contains("mailbox.tls.key: cannot read tls/key.pem"), "{missing}");
    let foreign = said(&|setup| put(&key(setup), &authority.issue().key));
    assert!(foreign.contains("mailbox.tls.key: is not the key of the first certificate"), "{foreign}");
    let open = said(&|setup| {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        std::fs::set_permissions(key(setup), mode).unwrap();
    });
    assert!(open.contains("is open to others (mode 0644)") && open.contains("chmod 600"), "{open}");
    let empty = said(&|setup| put(&setup.dir().join("tls/cert.pem"), "nothing"));
    assert!(empty.contains("mailbox.tls.cert: tls/cert.pem holds no certificate"), "{empty}");
}

#[test]
fn a_certificate_that_ends_is_told_of() {
    let authority = Authority::new("one");
    let setup = Setup::new().toml(MAILBOX);
    files(&setup, &authority.issue_until(2001));
    let node = setup.start();
    let said = wait_warned(&node, "mailbox.tls.cert");
    assert!(said.contains("ended at 2001-01-01T00:00:00.000Z: clients refuse it"), "{said}");
    let ends = |listener: &str| {
        let text = node.mailbox_admin().get("/metrics").text().to_owned();
        let name = format!("tls_certificate_end_timestamp_seconds{{listener=\"{listener}\"}} ");
        let value = text.lines().find_map(|line| line.strip_prefix(&name)).unwrap().to_owned();
        value.parse::<f64>().unwrap()
    };
    assert!(ends("mailbox") == 978_307_200.0 && ends("interop") == 0.0);
    assert!(connect(node.bare().addr(), &authority.trust(None, &[])).is_err());
    files(&node.setup, &authority.issue());
    poll("no warning", || warnings(&node).is_empty().then_some(()));
    assert!(ends("mailbox") > 2e9);
}

#[test]
fn a_drain_ends_handshakes_and_lets_requests_finish() {
    let authority = Authority::new("one");
    let setup = Setup::new().toml(MAILBOX).env("RON_NODE__DRAIN_MS", "30000");
    files(&setup, &authority.issue());
    let mut node = setup.start();
    let mailbox = client(&node, &authority.trust(None, &[]));
    enqueue(&mailbox, "t", b"x", &[]);
    let message = recv_one(&mailbox, "t", 60_000);
    let mut half = TcpStream::connect(node.bare().addr()).unwrap();
    half.write_all(&[0x16, 3, 1, 1, 0]).unwrap();
    node.signal(Signal::TERM);
    poll("the drain", || {
        let path = format!("/v1/{TENANT}/t/enqueue");
        let request = mailbox.request("POST", &path, &[], b"x");
        (mailbox.try_raw(&request).ok()?.status == 503).then_some(())
    });
    let settled = settle(&mailbox, "t", "ack", &json!({"receipts": [receipt(&message)]}));
    assert_eq!(settled, [json!({"ok": true})]);
    assert!(node.wait_exit().success());
    assert_eq!(half.read(&mut [0; 64]).unwrap_or(0), 0);
    assert_eq!(depths(&client(&setup.start(), &authority.trust(None, &[])), "t"), [0, 0, 0, 0]);
}
