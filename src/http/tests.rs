//! The network side over real sockets, with a mailbox, an authorizer and a webhook gate of the tests' own.

mod bad_input;
mod calls;
mod connections;
mod fake_desk;
mod fake_gate;
mod fakes;
mod graphql;
mod intake;
mod openapi;
mod webhooks;

use crate::http::admin::{AdminOf, admin_router};
use crate::http::admission::{Budgets, RateLimits};
use crate::http::auth::{Access, Audience};
use crate::http::ctl::ctl_router;
use crate::http::door::{Door, Meter, Surface};
use crate::http::intake::{Pace, Share};
use crate::http::interop::{InteropApp, PublicApi, Version, interop_router};
use crate::http::mailbox::{MailboxApp, MailboxLimits, mailbox_router};
use crate::http::objects::ObjectsApp;
use crate::http::readiness::{Part, Readiness};
use crate::http::request::Ids;
use crate::http::serve::{ServeLimits, serve_tcp, serve_unix};
use crate::listening::Listening;
use crate::metrics::{Metrics, MetricsOptions, NoQueues};
use arc_swap::ArcSwap;
use axum::Router;
use fake_desk::FakeDesk;
use fake_gate::FakeGate;
use fakes::{FakeAuth, FakeMailbox, FixedClock, running_audit};
use ron_actors::audit::Audit;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

/// A node's network side around fakes.
struct Net {
    policy: ron_actors::policy::InForce,
    mailbox: Arc<FakeMailbox>,
    readiness: Arc<Readiness>,
    metrics: Arc<Metrics>,
    limits: Arc<ArcSwap<MailboxLimits>>,
    budgets: Arc<Budgets>,
    audit: Audit,
    rate: Arc<RateLimits>,
    ids: Arc<Ids>,
    body_deadline: Duration,
    /// Bytes a second that a webhook's body must come at.
    rate_min: usize,
    /// What webhooks may hold, all of them.
    webhook_bytes: usize,
    serve: ServeLimits,
}

impl Net {
    fn new() -> Net {
        let readiness = Readiness::booting();
        for part in Part::ALL {
            readiness.set(part, true);
        }
        let options = MetricsOptions { max_queues: 10, amnesia: false, version: "0", started_unix_s: 0.0 };
        let two = NonZeroU32::new(2).unwrap();
        let hourly = governor::Quota::with_period(Duration::from_secs(3600)).unwrap();
        Net {
            mailbox: Arc::default(),
            policy: ron_actors::policy::InForce::default(),
            readiness: Arc::new(readiness),
            metrics: Arc::new(Metrics::new(options).unwrap()),
            limits: Arc::default(),
            budgets: Arc::new(Budgets::new(64 << 20, 1 << 20)),
            audit: running_audit(),
            // two requests, and then none for an hour
            rate: Arc::new(RateLimits::of(hourly.allow_burst(two))),
            body_deadline: Duration::from_secs(60),
            rate_min: 1,
            webhook_bytes: 64 << 20,
            ids: Arc::new(Ids::new(Arc::new(FixedClock), 1)),
            serve: ServeLimits { header_deadline: Duration::from_secs(60), ..ServeLimits::default() },
        }
    }

    fn app(&self, surface: Surface, access: Access) -> Arc<MailboxApp<Arc<FakeMailbox>>> {
        Arc::new(MailboxApp {
            mailbox: Arc::clone(&self.mailbox),
            access,
            readiness: Arc::clone(&self.readiness),
            limits: Arc::clone(&self.limits),
            budgets: Arc::clone(&self.budgets),
            meter: Meter::new(surface, Arc::clone(&self.metrics)),
            clock: Arc::new(FixedClock),
            rate: (surface == Surface::Interop).then(|| Arc::clone(&self.rate)),
            policy: self.policy.clone(),
            audit: self.audit.clone(),
        })
    }

    fn door(&self, surface: Surface, router: Router) -> Arc<Door> {
        let meter = Meter::new(surface, Arc::clone(&self.metrics));
        Arc::new(Door::new(router, meter, Arc::clone(&self.ids)))
    }

    async fn serve(&self, surface: Surface, router: Router) -> (SocketAddr, Listening) {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let listening = serve_tcp(any, self.door(surface, router), self.serve, None).await.unwrap();
        (listening.addr().unwrap(), listening)
    }

    async fn serve_mailbox(&self) -> (SocketAddr, Listening) {
        let access = Access::Capability(Arc::new(FakeAuth), Audience::Mailbox);
        self.serve(Surface::Mailbox, mailbox_router(self.app(Surface::Mailbox, access), true)).await
    }

    fn interop_app(&self, gate: FakeGate) -> Arc<InteropApp<FakeGate>> {
        Arc::new(InteropApp {
            gate,
            readiness: Arc::clone(&self.readiness),
            unverified: Share::new(2, self.webhook_bytes),
            budgets: Arc::clone(&self.budgets),
            rate: Arc::clone(&self.rate),
            pace: Pace { deadline: self.body_deadline, rate_min: self.rate_min },
            meter: Meter::new(Surface::Interop, Arc::clone(&self.metrics)),
            version: Version { name: "ron-node", version: "0.1.0", profile: "macronode".into() },
            audit: self.audit.clone(),
        })
    }

    fn public_api(&self, access: Access) -> PublicApi<Arc<FakeMailbox>> {
        let mailbox = self.app(Surface::Interop, access);
        let objects =
            ObjectsApp::new(mailbox.clone(), fakes::store_that_is_down(), 1 << 30, self.body_deadline);
        PublicApi { mailbox, objects: Arc::new(objects) }
    }

    async fn serve_interop(&self, gate: FakeGate, api: bool) -> (SocketAddr, Listening) {
        let app = self.interop_app(gate);
        let access = Access::Capability(Arc::new(FakeAuth), Audience::Interop);
        let api = api.then(|| self.public_api(access));
        self.serve(Surface::Interop, interop_router(app, api)).await
    }

    async fn serve_admin(&self, of: AdminOf) -> (SocketAddr, Listening) {
        let router = admin_router(of, Arc::clone(&self.readiness), Arc::clone(&self.metrics));
        self.serve(Surface::Internal, router).await
    }

    fn mailbox_metric(&self, series: &str) -> Option<f64> {
        metric(&self.metrics.render_mailbox(&NoQueues), series)
    }

    fn interop_metric(&self, series: &str) -> Option<f64> {
        metric(&self.metrics.render_interop(), series)
    }
}

fn metric(text: &str, series: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
}

/// An answer as it came over the wire.
#[derive(Debug)]
struct Reply {
    status: u16,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

impl Reply {
    fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// Checks the whole envelope of a refusal (SPEC §3).
    #[track_caller]
    fn refused(&self, status: u16, reason: &str) -> &Reply {
        assert_eq!(self.status, status, "{self:?}");
        let json = self.json();
        let object = json.as_object().unwrap();
        let mut keys: Vec<_> = object.keys().map(String::as_str).collect();
        keys.sort_unstable();
        assert_eq!(keys, ["corr_id", "error", "reason"]);
        assert_eq!(json["reason"], reason, "{json}");
        assert!(!json["error"].as_str().unwrap().is_empty());
        assert_eq!(json["corr_id"].as_str(), self.headers.get("x-corr-id").map(String::as_str));
        assert_eq!(self.headers["content-type"], "application/json");
        let retryable = [429, 503].contains(&status);
        assert_eq!(self.headers.contains_key("retry-after"), retryable, "{self:?}");
        if retryable {
            assert!(self.headers["retry-after"].parse::<u64>().unwrap() >= 1);
        }
        let unknown = ["STORAGE", "DOWNSTREAM_UNAVAILABLE", "INTERNAL"].contains(&reason);
        assert_eq!(self.headers["x-effect"], if unknown { "unknown" } else { "none" });
        self
    }

    fn error(&self) -> String {
        self.json()["error"].as_str().unwrap().to_owned()
    }
}

/// Sends `raw` on a connection of its own and reads one answer.
async fn exchange(addr: SocketAddr, raw: impl AsRef<[u8]>) -> Reply {
    let mut socket = TcpStream::connect(addr).await.unwrap();
    exchange_on(&mut socket, raw).await.expect("an answer")
}

/// Sends `raw` and reads one answer; `None` if the connection ended before one.
async fn exchange_on<S: AsyncRead + AsyncWrite + Unpin>(
    socket: &mut S,
    raw: impl AsRef<[u8]>,
) -> Option<Reply> {
    // the peer may have answered and closed already
    let _ = socket.write_all(raw.as_ref()).await;
    read_reply(socket).await
}

async fn read_reply<S: AsyncRead + Unpin>(socket: &mut S) -> Option<Reply> {
    let mut bytes = Vec::new();
    let head_end = loop {
        if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break at;
        }
        if socket.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let mut body = bytes.split_off(head_end + 4);
    let head = String::from_utf8(bytes).unwrap();
    let mut lines = head.trim_end().split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().unwrap();
    let headers: BTreeMap<String, String> = lines
        .map(|line| line.split_once(':').unwrap())
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let len: usize = headers.get("content-length").map_or(0, |len| len.parse().unwrap());
    while body.len() < len {
        assert!(socket.read_buf(&mut body).await.unwrap() > 0, "the body broke off");
    }
    if headers.contains_key("transfer-encoding") {
        while !body.ends_with(b"\r\n0\r\n\r\n") {
            assert!(socket.read_buf(&mut body).await.unwrap() > 0, "the body broke off");
        }
        body = unchunked(&body);
    }
    Some(Reply { status, headers, body })
}

fn unchunked(mut chunked: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(at) = chunked.windows(2).position(|two| two == b"\r\n") {
        let len = usize::from_str_radix(std::str::from_utf8(&chunked[..at]).unwrap(), 16).unwrap();
        body.extend_from_slice(&chunked[at + 2..at + 2 + len]);
        chunked = &chunked[at + 2 + len + 2..];
    }
    body
}

/// A request with a good capability.
fn request(method: &str, path: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    raw_request(method, path, &format!("authorization: Bearer good\r\n{headers}"), body)
}

fn raw_request(method: &str, path: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let len = body.len();
    let mut raw = format!("{method} {path} HTTP/1.1\r\nhost: test\r\ncontent-length: {len}\r\n{headers}\r\n")
        .into_bytes();
    raw.extend_from_slice(body);
    raw
}

/// Polls until `true`; the bound only ends a broken test.
async fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    for _ in 0..500 {
        if check() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never: {what}");
}
