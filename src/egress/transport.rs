//! How one attempt travels: resolve once, judge every address, connect to one of those, shake hands, ask, read a
//! little of the answer.
//!
//! What is not here cannot be switched on: no redirects, no proxies of the environment, no decompression, no cookies.
//! A literal address takes the same way as a name's, so nothing is connected to that was not judged. Connections are
//! kept for the next message, each endpoint its own.

use crate::egress::resolver::Resolve;
use crate::tls::ClientTls;
use arc_swap::ArcSwap;
use bytes::Bytes;
use futures::future::BoxFuture;
use http::header::{ACCEPT, ACCEPT_ENCODING, HOST, HeaderName, HeaderValue, RETRY_AFTER, USER_AGENT};
use http::{HeaderMap, Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::rt::{Read, Write};
use hyper_util::rt::TokioIo;
use ipnet::IpNet;
use ron_actors::interop::egress::{Attempted, Ended, Outbound, Took, Transport};
use ron_core::egress::{AddressPolicy, Failure, Host, Phase, Target};
use ron_core::time::{Clock, Millis};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::TcpStream;

/// A connection that nothing was sent on for this long is not used again, ms.
const IDLE_MS_MAX: u64 = 30_000;
/// One that was made this long ago is not, either: the name may mean other addresses now, ms.
const AGE_MS_MAX: u64 = 300_000;
/// Addresses of a name that are tried.
const ADDRESSES_TRIED: usize = 4;
/// Header fields of an answer, and bytes of its head.
const ANSWER_HEADERS_MAX: usize = 100;
const ANSWER_HEAD_BYTES_MAX: usize = 64 * 1024;
/// How much of an error's text is told.
const DETAIL_CHARS_MAX: usize = 200;

/// Limits of one attempt.
#[derive(Debug, Clone, Copy)]
pub struct TransportLimits {
    /// All of it, the answer's body included.
    pub total: Duration,
    /// Resolving; and again connecting with the handshake.
    pub connect: Duration,
    /// Bytes read of the answer's body; the rest is cut off.
    pub response_bytes: usize,
    /// Connections kept.
    pub idle: usize,
}

/// What a transport is made of.
#[derive(Debug)]
pub struct TransportParts {
    /// Where to.
    pub target: Target,
    /// How.
    pub method: Method,
    /// What an operator allows although it is not public.
    pub allow: Vec<IpNet>,
    /// Where the node itself listens.
    pub own: Arc<ArcSwap<Vec<SocketAddr>>>,
    /// Names to addresses.
    pub resolver: Arc<dyn Resolve>,
    /// Whom it trusts; `None` for plain http.
    pub tls: Option<ClientTls>,
    /// Headers of the operator's own.
    pub headers: HeaderMap,
    /// Its limits.
    pub limits: TransportLimits,
    /// Measures the phases.
    pub clock: Arc<dyn Clock>,
}

/// See the module.
#[derive(Debug)]
pub struct HttpTransport {
    parts: TransportParts,
    idle: Mutex<Vec<Connection>>,
}

type Sender = SendRequest<Full<Bytes>>;

/// A connection to a vetted address.
#[derive(Debug)]
struct Connection {
    sender: Sender,
    peer: SocketAddr,
    made: Millis,
    used: Millis,
}

/// How far an attempt is: outlives its future, which a timeout drops.
#[derive(Debug)]
struct Progress {
    phase: Phase,
    since: Millis,
    took: Took,
    peer: Option<SocketAddr>,
}

/// Why an attempt ended without an answer.
#[derive(Debug)]
struct Broken {
    failure: Failure,
    detail: String,
}

impl HttpTransport {
    /// A transport without connections.
    #[must_use]
    pub fn new(parts: TransportParts) -> HttpTransport {
        HttpTransport { parts, idle: Mutex::default() }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection from before that is still good.
    fn kept(&self) -> Option<Connection> {
        let now = self.parts.clock.now();
        let mut idle = self.idle();
        while let Some(connection) = idle.pop() {
            let fresh = now.since(connection.used) < IDLE_MS_MAX && now.since(connection.made) < AGE_MS_MAX;
            if fresh && connection.sender.is_ready() {
                return Some(connection);
            }
        }
        None
    }

    fn keep(&self, mut connection: Connection) {
        connection.used = self.parts.clock.now();
        let mut idle = self.idle();
        if idle.len() < self.parts.limits.idle && !connection.sender.is_closed() {
            idle.push(connection);
        }
    }

    fn enter(&self, progress: &Mutex<Progress>, phase: Phase) {
        let mut progress = progress.lock().unwrap_or_else(PoisonError::into_inner);
        progress.leave(self.parts.clock.now());
        progress.phase = phase;
    }

    async fn attempt(&self, request: Outbound, progress: &Mutex<Progress>) -> Result<Ended, Broken> {
        if let Some(mut kept) = self.kept() {
            reached(progress, kept.peer, Phase::Http);
            match kept.sender.send_request(self.request(&request)?).await {
                Ok(answer) => return self.read(answer, kept).await,
                // closed by the other side meanwhile: this says nothing of the endpoint
                Err(error) if error.is_canceled() || error.is_closed() || error.is_incomplete_message() => {
                    self.enter(progress, Phase::Dns);
                }
                Err(error) => return Err(broken(Phase::Http, &error)),
            }
        }
        let mut connection = self.connect(progress).await?;
        self.enter(progress, Phase::Http);
        let answer = connection.sender.send_request(self.request(&request)?).await;
        self.read(answer.map_err(|error| broken(Phase::Http, &error))?, connection).await
    }

    async fn connect(&self, progress: &Mutex<Progress>) -> Result<Connection, Broken> {
        let within = self.parts.limits.connect;
        self.enter(progress, Phase::Dns);
        let addrs = in_time(Phase::Dns, within, self.resolve()).await?;
        let policy =
            AddressPolicy { allow: self.parts.allow.clone(), own: self.parts.own.load().as_ref().clone() };
        let refused =
            |ssrf: ron_core::egress::Ssrf| Broken { failure: Failure::Ssrf, detail: ssrf.to_string() };
        policy.judge_all(&addrs).map_err(refused)?;
        self.enter(progress, Phase::Tcp);
        let stream = in_time(Phase::Tcp, within, connect_to_one(&addrs, within)).await?;
        let failed = |error: io::Error| broken(Phase::Tcp, &error);
        let (peer, local) = (stream.peer_addr().map_err(failed)?, stream.local_addr().map_err(failed)?);
        policy.judge_connected(peer, local).map_err(refused)?;
        // a request is written at once; waiting for more of it only delays
        let _ = stream.set_nodelay(true);
        reached(progress, peer, Phase::Tcp);
        let sender = match &self.parts.tls {
            None => handshake(stream).await?,
            Some(tls) => {
                self.enter(progress, Phase::Tls);
                let stream =
                    in_time(Phase::Tls, within, tls.connect(self.parts.target.host(), stream)).await?;
                handshake(stream).await?
            }
        };
        let made = self.parts.clock.now();
        Ok(Connection { sender, peer, made, used: made })
    }

    /// The addresses to judge: of a literal, itself.
    async fn resolve(&self) -> io::Result<Vec<SocketAddr>> {
        let port = self.parts.target.port();
        match self.parts.target.host() {
            Host::Ip(ip) => Ok(vec![SocketAddr::new(*ip, port)]),
            Host::Name(name) => self.parts.resolver.resolve(name, port).await,
        }
    }

    fn request(&self, outbound: &Outbound) -> Result<Request<Full<Bytes>>, Broken> {
        let target = &self.parts.target;
        let bad = |detail: String| Broken { failure: Failure::Broken(Phase::Http), detail };
        let mut request = Request::new(Full::new(outbound.body.clone()));
        *request.method_mut() = self.parts.method.clone();
        *request.uri_mut() = target.path().parse().map_err(|_| bad("the path is no URI".into()))?;
        let headers = request.headers_mut();
        headers.extend(self.parts.headers.iter().map(|(name, value)| (name.clone(), value.clone())));
        for (name, value) in &outbound.headers {
            let known = || bad(format!("the message's {name:.40} cannot be sent as a header"));
            let header = HeaderName::try_from(name.to_ascii_lowercase()).map_err(|_| known())?;
            headers.insert(header, HeaderValue::try_from(value.as_str()).map_err(|_| known())?);
        }
        let host =
            HeaderValue::try_from(target.authority()).map_err(|_| bad("the host is no header".into()))?;
        headers.insert(HOST, host);
        headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        headers.insert(USER_AGENT, HeaderValue::from_static(concat!("ron-node/", env!("CARGO_PKG_VERSION"))));
        Ok(request)
    }

    /// Reads the answer up to the limit. A connection is kept only behind a whole answer.
    async fn read(&self, answer: Response<Incoming>, connection: Connection) -> Result<Ended, Broken> {
        let (head, mut body) = answer.into_parts();
        let (mut seen, mut cut) = (0, false);
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| broken(Phase::Http, &error))?;
            seen += frame.data_ref().map_or(0, Bytes::len);
            if seen > self.parts.limits.response_bytes {
                cut = true;
                break;
            }
        }
        if !cut {
            self.keep(connection);
        }
        let retry_after = head.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        let retry_after = retry_after.map(str::to_owned);
        Ok(Ended::Answered { status: head.status.as_u16(), retry_after, cut })
    }
}

impl Transport for HttpTransport {
    fn deliver(&self, request: Outbound) -> BoxFuture<'_, Attempted> {
        Box::pin(async move {
            let since = self.parts.clock.now();
            let (took, peer) = (Took::default(), None);
            let progress = Mutex::new(Progress { phase: Phase::Dns, since, took, peer });
            let done = tokio::time::timeout(self.parts.limits.total, self.attempt(request, &progress)).await;
            let mut progress = progress.into_inner().unwrap_or_else(PoisonError::into_inner);
            progress.leave(self.parts.clock.now());
            let (ended, detail) = match done {
                Ok(Ok(ended)) => (ended, None),
                Ok(Err(Broken { failure, detail })) => (Ended::Failed(failure), Some(detail)),
                Err(_) => (Ended::Failed(Failure::Timeout(progress.phase)), None),
            };
            Attempted { ended, peer: progress.peer, took: progress.took, detail }
        })
    }
}

impl Progress {
    fn leave(&mut self, now: Millis) {
        let ms = now.since(self.since);
        let place = match self.phase {
            Phase::Dns => &mut self.took.dns_ms,
            Phase::Tcp => &mut self.took.tcp_ms,
            Phase::Tls => &mut self.took.tls_ms,
            Phase::Http => &mut self.took.http_ms,
        };
        *place = Some(place.unwrap_or(0) + ms);
        self.since = now;
    }
}

fn reached(progress: &Mutex<Progress>, peer: SocketAddr, phase: Phase) {
    let mut progress = progress.lock().unwrap_or_else(PoisonError::into_inner);
    (progress.peer, progress.phase) = (Some(peer), phase);
}

/// The first of the vetted addresses that answers; one that does not leaves time for the others.
async fn connect_to_one(addrs: &[SocketAddr], within: Duration) -> io::Result<TcpStream> {
    let tried = &addrs[..addrs.len().min(ADDRESSES_TRIED)];
    let each = within / u32::try_from(tried.len().max(1)).unwrap_or(1);
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for addr in tried {
        match tokio::time::timeout(each, TcpStream::connect(addr)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => last = error,
            Err(_) => last = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(last)
}

/// HTTP/1.1 over a connection; it is driven until both sides are done with it.
async fn handshake<S>(stream: S) -> Result<Sender, Broken>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
    TokioIo<S>: Read + Write,
{
    let mut builder = http1::Builder::new();
    builder.max_headers(ANSWER_HEADERS_MAX).max_buf_size(ANSWER_HEAD_BYTES_MAX);
    let shaken = builder.handshake(TokioIo::new(stream)).await;
    let (sender, connection) = shaken.map_err(|error| broken(Phase::Http, &error))?;
    tokio::spawn(async move {
        // what went wrong is told to whoever waits for the answer
        let _ = connection.await;
    });
    Ok(sender)
}

async fn in_time<T>(
    phase: Phase,
    within: Duration,
    work: impl Future<Output = io::Result<T>>,
) -> Result<T, Broken> {
    match tokio::time::timeout(within, work).await {
        Ok(Err(error)) if error.kind() == io::ErrorKind::TimedOut => {
            Err(Broken { failure: Failure::Timeout(phase), detail: error.to_string() })
        }
        Ok(done) => done.map_err(|error| broken(phase, &error)),
        Err(_) => {
            let detail = format!("not within {} ms", within.as_millis());
            Err(Broken { failure: Failure::Timeout(phase), detail })
        }
    }
}

fn broken(phase: Phase, error: &dyn std::error::Error) -> Broken {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let more = inner.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = inner.source();
    }
    Broken { failure: Failure::Broken(phase), detail: text.chars().take(DETAIL_CHARS_MAX).collect() }
}
