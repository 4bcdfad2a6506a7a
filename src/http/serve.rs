//! The accept loop: bounded connections, header and idle deadlines, HTTP/2 limits, and an end that waits.
//!
//! `axum::serve` arms no timers, so this is ours: hyper's automatic HTTP/1 and 2 server with a timer.

use crate::http::door::Door;
use crate::http::error::RouteKind;
use crate::http::io::WatchedIo;
use crate::http::request::Peer;
use crate::http::strangers::{Standing, Strangers};
use crate::listening::{Lifeline, Listening, next};
use crate::tls::{Handshakes, Patience, admit};
use futures::FutureExt;
use futures::stream::{FuturesUnordered, StreamExt};
use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};

/// Limits of a listener's connections.
#[derive(Debug, Clone, Copy)]
pub struct ServeLimits {
    /// Most connections at once.
    pub max_conns: usize,
    /// How long a request's head may take, and how long a connection may idle; a handshake before it has as long.
    pub header_deadline: Duration,
    /// How long a peer may take nothing of an answer.
    pub write_stall: Duration,
    /// Most HTTP/2 requests at once on one connection.
    pub h2_streams: u32,
    /// Most bytes of a request's head, which is also what is read ahead of a body.
    pub head_bytes: usize,
}

impl Default for ServeLimits {
    fn default() -> ServeLimits {
        ServeLimits {
            max_conns: 512,
            header_deadline: Duration::from_secs(5),
            write_stall: Duration::from_secs(10),
            h2_streams: 128,
            head_bytes: 64 * 1024,
        }
    }
}

/// Bytes of the HTTP/2 preface: with fewer hyper does not know the version yet, and arms no timer.
const PREFACE_BYTES: u64 = 24;
const HEADERS_MAX: usize = 100;
const H2_STREAM_WINDOW: u32 = 256 * 1024;
const H2_CONNECTION_WINDOW: u32 = 512 * 1024;
/// How long a newcomer waits for the place of the connection that gives way to it.
const GONE_WITHIN: Duration = Duration::from_millis(500);
/// Most connections being told that there are too many.
const TURNED_AWAY_MAX: usize = 64;
const TURN_AWAY_DEADLINE: Duration = Duration::from_millis(500);

/// Binds `addr` (port 0 = any) and serves `door` on it, inside TLS where there are handshakes.
///
/// # Errors
/// What binding says, e.g. [`io::ErrorKind::AddrInUse`].
pub async fn serve_tcp(
    addr: SocketAddr,
    door: Arc<Door>,
    limits: ServeLimits,
    tls: Option<Arc<Handshakes>>,
) -> io::Result<Listening> {
    let listener = TcpListener::bind(addr).await?;
    let (listening, lifeline) = Listening::new(Some(listener.local_addr()?));
    lifeline.tasks.clone().spawn(accept_tcp(listener, Server::new(door, limits, lifeline), tls));
    Ok(listening)
}

/// Serves `door` on a bound Unix socket, to this process's own user and root only.
#[must_use]
pub fn serve_unix(listener: UnixListener, door: Arc<Door>, limits: ServeLimits) -> Listening {
    let (listening, lifeline) = Listening::new(None);
    lifeline.tasks.clone().spawn(accept_unix(listener, Server::new(door, limits, lifeline)));
    listening
}

/// What the accept loop and its connections share.
#[derive(Debug, Clone)]
struct Server {
    door: Arc<Door>,
    limits: ServeLimits,
    conns: Arc<Semaphore>,
    turned_away: Arc<Semaphore>,
    /// Of a public listener only: elsewhere everybody is known.
    strangers: Option<Arc<Strangers>>,
    lifeline: Lifeline,
}

impl Server {
    fn new(door: Arc<Door>, limits: ServeLimits, lifeline: Lifeline) -> Server {
        let (conns, turned_away) = (Semaphore::new(limits.max_conns), Semaphore::new(TURNED_AWAY_MAX));
        let (conns, turned_away) = (Arc::new(conns), Arc::new(turned_away));
        let strangers = door.meter().is_public().then(Arc::default);
        Server { door, limits, conns, turned_away, strangers, lifeline }
    }

    /// A place for a newcomer that found none: that of the oldest stranger, as soon as it has gone.
    async fn place_of_another(&self) -> Option<OwnedSemaphorePermit> {
        let place = Arc::clone(&self.conns).acquire_owned();
        timeout(GONE_WITHIN, place).await.ok()?.ok()
    }

    /// Whether somebody goes to make room for a newcomer.
    fn makes_room(&self) -> bool {
        let gave_way = self.strangers.as_ref().is_some_and(|strangers| strangers.give_way());
        if gave_way {
            self.door.meter().gave_way(RouteKind::Api);
        }
        gave_way
    }
}

async fn accept_tcp(listener: TcpListener, server: Server, tls: Option<Arc<Handshakes>>) {
    let ServeLimits { header_deadline: handshake, write_stall, .. } = server.limits;
    let patience = Patience { handshake, write_stall };
    while let Some((socket, addr)) = next(&server.lifeline.stop, |cx| listener.poll_accept(cx)).await {
        // answers are small and must not wait for an ack
        let _ = socket.set_nodelay(true);
        let place = Arc::clone(&server.conns).try_acquire_owned().ok();
        if place.is_none() && !server.makes_room() {
            refuse(socket, tls.is_some(), &server);
            continue;
        }
        let (server, tls) = (server.clone(), tls.clone());
        server.lifeline.tasks.clone().spawn(async move {
            let place = match place {
                Some(place) => Some(place),
                None => server.place_of_another().await,
            };
            let Some(place) = place else { return refuse(socket, tls.is_some(), &server) };
            let standing = server.strangers.as_ref().map(Strangers::join);
            let admitted = admit(tls.as_deref(), socket, patience, &server.lifeline);
            let socket = match &standing {
                None => admitted.await,
                Some(standing) => tokio::select! {
                    socket = admitted => socket,
                    () = standing.gone().cancelled() => None,
                },
            };
            if let Some(socket) = socket {
                connection(socket, Peer::Tcp(addr), standing, server, place).await;
            }
        });
    }
}

/// There is no place for a connection.
fn refuse(socket: TcpStream, tls: bool, server: &Server) {
    match tls {
        // a handshake to be told so would cost what there is too much of
        true => server.door.meter().connection_refused(),
        false => turn_away(socket, server),
    }
}

async fn accept_unix(listener: UnixListener, server: Server) {
    let own = rustix::process::geteuid().as_raw();
    while let Some((socket, _)) = next(&server.lifeline.stop, |cx| listener.poll_accept(cx)).await {
        let Some(peer) = local_peer(&socket, own) else {
            continue;
        };
        if let Ok(permit) = Arc::clone(&server.conns).try_acquire_owned() {
            server.lifeline.tasks.spawn(connection(socket, peer, None, server.clone(), permit));
        }
    }
}

/// The peer's user and process by SO_PEERCRED, if it is us or root.
fn local_peer(socket: &UnixStream, own: u32) -> Option<Peer> {
    match socket.peer_cred() {
        Ok(cred) if cred.uid() == own || cred.uid() == 0 => {
            Some(Peer::Unix { uid: cred.uid(), pid: cred.pid() })
        }
        Ok(cred) => {
            tracing::warn!(uid = cred.uid(), "another user on the control socket was turned away");
            None
        }
        Err(error) => {
            tracing::warn!(%error, "no credentials on the control socket");
            None
        }
    }
}

/// Serves one connection to its end.
async fn connection<S>(
    socket: S,
    peer: Peer,
    standing: Option<Standing>,
    server: Server,
    permit: OwnedSemaphorePermit,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let limits = server.limits;
    let (io, bytes_read) = WatchedIo::new(socket, limits.write_stall);
    let door = Arc::clone(&server.door);
    let gone = standing.as_ref().map(|standing| standing.gone().clone()).unwrap_or_default();
    let service = service_fn(move |mut request: Request<Incoming>| {
        let (door, standing) = (Arc::clone(&door), standing.clone());
        async move {
            let working = standing.as_ref().map(Standing::working);
            if let Some(standing) = standing {
                request.extensions_mut().insert(standing);
            }
            let answer = door.answer(request, peer).await;
            drop(working);
            Ok::<_, Infallible>(answer)
        }
    });
    let builder = builder(&limits);
    let mut conn = pin!(builder.serve_connection(TokioIo::new(io), service));
    // Asked only when one of them has happened: each would cost every turn otherwise, and a request has several.
    let mut rare = FuturesUnordered::from_iter([
        server.lifeline.kill.cancelled().map(|()| Rare::Kill).boxed(),
        gone.cancelled().map(|()| Rare::Kill).boxed(),
        server.lifeline.stop.cancelled().map(|()| Rare::Stop).boxed(),
        sleep(limits.header_deadline).map(|()| Rare::Undecided).boxed(),
    ]);
    loop {
        tokio::select! {
            biased;
            ended = conn.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "connection ended");
                }
                break;
            }
            Some(rare) = rare.next() => match rare {
                Rare::Kill => break,
                Rare::Stop => conn.as_mut().graceful_shutdown(),
                Rare::Undecided if bytes_read.load(Ordering::Relaxed) < PREFACE_BYTES => break,
                Rare::Undecided => {}
            }
        }
    }
    drop(permit);
}

/// What happens to a connection once in its life, if at all.
enum Rare {
    /// It ends now: the drain is over, or it gave way.
    Kill,
    /// It ends when what it has begun is answered.
    Stop,
    /// By now it must have said which version it speaks.
    Undecided,
}

fn builder(limits: &ServeLimits) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_deadline)
        .max_headers(HEADERS_MAX)
        .max_buf_size(limits.head_bytes);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.h2_streams)
        .max_header_list_size(u32::try_from(limits.head_bytes).unwrap_or(u32::MAX))
        // what a peer may send before it is read
        .initial_stream_window_size(H2_STREAM_WINDOW)
        .initial_connection_window_size(H2_CONNECTION_WINDOW)
        .max_pending_accept_reset_streams(20)
        .max_local_error_reset_streams(128)
        .max_send_buf_size(256 * 1024)
        .keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(10));
    builder
}

/// Tells a connection over the limit so and closes it; past a bound of such conversations it is just closed.
fn turn_away(mut socket: TcpStream, server: &Server) {
    server.door.meter().connection_refused();
    let Ok(permit) = Arc::clone(&server.turned_away).try_acquire_owned() else {
        return;
    };
    let answer = server.door.too_many_connections();
    server.lifeline.tasks.spawn(async move {
        // after the request's first bytes, and reading on until the peer closes: an answer before a request,
        // or a close on unread bytes, is an answer lost
        let told = async {
            let mut scrap = [0; 4096];
            if socket.read(&mut scrap).await? == 0 {
                return Ok(());
            }
            socket.write_all(&answer).await?;
            socket.shutdown().await?;
            while socket.read(&mut scrap).await? > 0 {}
            io::Result::Ok(())
        };
        let _ = timeout(TURN_AWAY_DEADLINE, told).await;
        drop(permit);
    });
}
