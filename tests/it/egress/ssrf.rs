//! What egress must never connect to: the real transport with a resolver of the test's own, and listeners that count
//! who comes.

use super::receiver::{Receiver, Reply};
use arc_swap::ArcSwap;
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use ron_actors::interop::egress::{Attempted, Ended, Outbound, Transport};
use ron_actors::kernel::clock::SystemClock;
use ron_core::egress::{Failure, Target, UrlPolicy};
use ron_core::time::Millis;
use ron_node::egress::{HttpTransport, Resolve, TransportLimits, TransportParts};
use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Answers what it is told, an answer a question, the last again and again; and counts the questions.
#[derive(Debug)]
struct Told {
    answers: Mutex<VecDeque<Vec<IpAddr>>>,
    asked: Mutex<Vec<String>>,
}

impl Told {
    fn new(answers: &[&[&str]]) -> Arc<Told> {
        let parsed = |ips: &&[&str]| ips.iter().map(|ip| ip.parse().unwrap()).collect();
        Arc::new(Told { answers: Mutex::new(answers.iter().map(parsed).collect()), asked: Mutex::default() })
    }
}

impl Resolve for Told {
    fn resolve<'a>(&'a self, name: &'a str, port: u16) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        self.asked.lock().unwrap().push(name.to_owned());
        let mut answers = self.answers.lock().unwrap();
        let answer = if answers.len() > 1 { answers.pop_front() } else { answers.front().cloned() };
        async move { Ok(answer.unwrap().into_iter().map(|ip| SocketAddr::new(ip, port)).collect()) }.boxed()
    }
}

fn transport(
    url: &str,
    port: u16,
    resolver: Arc<Told>,
    own: Vec<SocketAddr>,
) -> Result<HttpTransport, String> {
    let policy = UrlPolicy { allow_http: true, allow_ports: vec![port] };
    let target = Target::parse(url, &policy).map_err(|refused| refused.to_string())?;
    Ok(HttpTransport::new(TransportParts {
        target,
        method: http::Method::POST,
        allow: vec!["127.0.0.2/32".parse().unwrap()],
        own: Arc::new(ArcSwap::from_pointee(own)),
        resolver,
        tls: None,
        headers: http::HeaderMap::new(),
        limits: TransportLimits {
            total: Duration::from_secs(5),
            connect: Duration::from_secs(2),
            response_bytes: 1024,
            idle: 4,
        },
        clock: Arc::new(SystemClock::starting_from(Millis(0))),
    }))
}

fn deliver(transport: &HttpTransport) -> Attempted {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let request = Outbound { headers: Vec::new(), body: Bytes::from_static(b"{}") };
    runtime.block_on(transport.deliver(request))
}

#[track_caller]
fn refused(what: &str, attempted: &Attempted) {
    assert_eq!(attempted.ended, Ended::Failed(Failure::Ssrf), "{what}: {attempted:?}");
    let detail = attempted.detail.as_deref().unwrap_or_default();
    assert!(detail.starts_with("SSRF: ") && attempted.peer.is_none(), "{what}: {attempted:?}");
}

/// Hosts of URLs, in every form that an address can be written in.
fn hosts() -> impl Iterator<Item = &'static str> {
    let text = include_str!("../../fixtures/egress/refused-hosts.txt");
    text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'))
}

/// Addresses that a name may resolve to and that must not be connected to.
const INNER: [&str; 44] = [
    "0.0.0.0",
    "10.0.0.1",
    "10.255.255.255",
    "100.64.0.1",
    "100.100.100.200",
    "127.0.0.1",
    "127.0.0.3",
    "127.255.255.255",
    "168.63.129.16",
    "169.254.169.254",
    "169.254.170.2",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.1",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.1.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::7f00:1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:169.254.169.254",
    "::ffff:0:7f00:1",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::1",
    "100::1",
    "2001::1",
    "2001:db8::1",
    "2002:7f00:1::1",
    "2002:a9fe:a9fe::1",
    "3fff::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fec0::1",
    "ff02::1",
];

#[test]
fn no_form_reaches_the_canary_and_the_allowed_one_is_reached() {
    let canary = Receiver::start("127.0.0.1:0", None, &[Reply::Status(200, "")]);
    let port = canary.addr.port();
    let allowed = Receiver::start(&format!("127.0.0.2:{port}"), None, &[Reply::Status(200, "")]);
    let nobody = Told::new(&[&["127.0.0.1"]]);
    let mut forms = 0;
    for host in hosts() {
        forms += 1;
        match transport(&format!("http://{host}:{port}/"), port, nobody.clone(), Vec::new()) {
            Err(text) => assert!(text.starts_with("SSRF: "), "{host}: {text}"),
            Ok(transport) => refused(host, &deliver(&transport)),
        }
    }
    assert!(nobody.asked.lock().unwrap().is_empty(), "a literal address is nobody's to resolve");
    let url = format!("http://hooks.example:{port}/");
    for ip in INNER {
        // alone, and behind or before one that would be allowed
        for answer in [vec![ip], vec!["127.0.0.2", ip], vec![ip, "127.0.0.2"]] {
            forms += 1;
            let told = Told::new(&[&answer]);
            let transport = transport(&url, port, told.clone(), Vec::new()).unwrap();
            refused(&format!("{answer:?}"), &deliver(&transport));
            assert_eq!(*told.asked.lock().unwrap(), ["hooks.example"]);
        }
    }
    assert!(forms >= 200, "{forms}");
    let transport = transport(&url, port, Told::new(&[&["127.0.0.2"]]), Vec::new()).unwrap();
    let reached = deliver(&transport);
    let answered = Ended::Answered { status: 200, retry_after: None, cut: false };
    assert_eq!((reached.ended, reached.peer), (answered, Some(allowed.addr)));
    assert_eq!((canary.connections(), allowed.connections(), allowed.got().len()), (0, 1, 1));
}

#[test]
fn a_name_that_means_something_else_the_second_time_is_refused() {
    let canary = Receiver::start("127.0.0.1:0", None, &[Reply::Status(200, "")]);
    let port = canary.addr.port();
    // it closes its connections, so that each attempt resolves
    let allowed =
        Receiver::start(&format!("127.0.0.2:{port}"), None, &[Reply::Status(200, "Connection: close\r\n")]);
    let told = Told::new(&[&["127.0.0.2"], &["127.0.0.1"]]);
    let transport =
        transport(&format!("http://rebound.example:{port}/"), port, told.clone(), Vec::new()).unwrap();
    assert!(matches!(deliver(&transport).ended, Ended::Answered { status: 200, .. }));
    assert_eq!(
        told.asked.lock().unwrap().len(),
        1,
        "once an attempt: what was judged is what is connected to"
    );
    refused("rebound", &deliver(&transport));
    assert_eq!((canary.connections(), allowed.got().len()), (0, 1));
}

#[test]
fn the_node_itself_is_refused_whatever_is_allowed() {
    let itself = Receiver::start("127.0.0.2:0", None, &[Reply::Status(200, "")]);
    let port = itself.addr.port();
    let url = format!("http://127.0.0.2:{port}/");
    for own in [itself.addr, SocketAddr::new("0.0.0.0".parse().unwrap(), port)] {
        let transport = transport(&url, port, Told::new(&[&[]]), vec![own]).unwrap();
        refused(&own.to_string(), &deliver(&transport));
    }
    assert_eq!(itself.connections(), 0);
    let transport = transport(&url, port, Told::new(&[&[]]), Vec::new()).unwrap();
    assert!(matches!(deliver(&transport).ended, Ended::Answered { .. }));
}
