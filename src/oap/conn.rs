//! One connection: what is read becomes calls, what is answered is written, and nothing is kept for a peer that takes
//! nothing.

use super::calls::{Call, Done, Next};
use super::listen::{OapApp, corr_text};
use super::puts::Begun;
use super::sends::Outbox;
use super::session::Session;
use super::{INFLIGHT_MAX, WINDOW_BYTES, answer};
use crate::http::io::WatchedIo;
use bytes::{Buf, BytesMut};
use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use hashbrown::HashMap;
use ron_actors::mailbox::api::Delivery;
use ron_core::oap::{self, BadFrame, Frame, HEADER_BYTES, PROTO_MAILBOX, RESP};
use ron_core::reason::{Reason, Refusal};
use std::collections::VecDeque;
use std::fmt::Display;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, sleep};
use tokio_util::io::poll_read_buf;
use tokio_util::sync::CancellationToken;

/// Read at once, at most.
const READ_BYTES: usize = 64 * 1024;
/// What is left of a buffer is filled as long as it is at least this; payloads keep their buffer until they are stored.
const READ_BYTES_MIN: usize = 8 * 1024;
/// Answers that wait to be taken by the peer; beyond it nothing more is read, and no subscription goes on.
const UNSENT_BYTES_MAX: usize = 4 << 20;
/// The longest frame of a connection that has shown no capability.
const STRANGERS_FRAME_MAX: usize = 16 * 1024;
/// Seconds that a frame may take to arrive, and a connection until it shows a capability.
const SLOW_TICKS_MAX: u32 = 10;
const TICK: Duration = Duration::from_secs(1);

/// A request that is not answered.
#[derive(Debug, Clone)]
pub(super) struct Outstanding {
    /// Its frame's length, inflated.
    bytes: usize,
    /// The op of its payload, once that is read.
    op: Option<u8>,
    began: Instant,
    /// Ends it, if it is a subscription.
    pub(super) subscription: Option<CancellationToken>,
}

/// What requests have in common that are counted together.
#[derive(PartialEq, Eq)]
struct Alike {
    op: Option<u8>,
    code: u16,
    began: Instant,
}

/// See the module.
pub(super) struct Conn<S> {
    pub(super) app: Arc<OapApp>,
    pub(super) peer: SocketAddr,
    /// Names it in the log.
    pub(super) number: u64,
    pub(super) session: Option<Arc<Session>>,
    socket: WatchedIo<S>,
    read: BytesMut,
    unsent: BytesMut,
    sent: u64,
    /// How much of that is with the system; the rest waits in TLS.
    flushed: u64,
    pub(super) calls: FuturesUnordered<Call>,
    /// Subscriptions that wait until the peer has taken what was sent.
    held_up: Vec<Call>,
    pub(super) outstanding: HashMap<u64, Outstanding>,
    window: usize,
    pub(super) outbox: Outbox,
    pub(super) begun: Begun,
    /// Leases by the place in all that is sent at which their frame ends.
    leases: VecDeque<(u64, Delivery)>,
    /// Nothing more is read.
    ended: bool,
    /// The peer sends nothing more: nobody waits any longer, and what is handed out goes back.
    pub(super) over: CancellationToken,
    /// When what is being worked on was read.
    read_at: Instant,
    slow_ticks: u32,
}

/// What happened in a turn.
enum Turn {
    Moved,
    Ended,
    Rare(Rare),
}

/// What seldom happens.
enum Rare {
    /// Time to look whether the peer is slow.
    Tick,
    /// The node drains.
    Stop,
    /// The node's drain is over.
    Kill,
}

type RareOnes<'a> = FuturesUnordered<BoxFuture<'a, Rare>>;

fn tick<'a>() -> BoxFuture<'a, Rare> {
    sleep(TICK).map(|()| Rare::Tick).boxed()
}

impl<S: AsyncRead + AsyncWrite + Unpin> Conn<S> {
    pub(super) fn new(app: Arc<OapApp>, socket: S, peer: SocketAddr, number: u64) -> Conn<S> {
        let (socket, _) = WatchedIo::new(socket, app.limits.write_stall);
        Conn {
            app,
            peer,
            number,
            session: None,
            socket,
            read: BytesMut::new(),
            unsent: BytesMut::new(),
            sent: 0,
            flushed: 0,
            calls: FuturesUnordered::new(),
            held_up: Vec::new(),
            outstanding: HashMap::new(),
            window: 0,
            outbox: Outbox::default(),
            begun: Begun::default(),
            leases: VecDeque::new(),
            ended: false,
            over: CancellationToken::new(),
            read_at: Instant::now(),
            slow_ticks: 0,
        }
    }

    /// Serves the connection to its end: until the peer goes, sends what is no frame, or `stop` says so.
    pub(super) async fn serve(mut self, stop: &CancellationToken, kill: &CancellationToken) {
        // Asked only when one of them has happened, which is next to never: each would cost every turn otherwise.
        let mut rare = FuturesUnordered::from_iter([
            stop.cancelled().map(|()| Rare::Stop).boxed(),
            kill.cancelled().map(|()| Rare::Kill).boxed(),
            tick(),
        ]);
        loop {
            self.take_frames().await;
            if self.ended && self.calls.is_empty() && self.unsent.is_empty() && self.flushed == self.sent {
                // TLS says that this is the end; whoever does not take it sees it all the same
                let _ = self.socket.shutdown().now_or_never();
                return;
            }
            match poll_fn(|cx| self.turn(cx, &mut rare)).await {
                Ok(Turn::Moved) => {}
                Ok(Turn::Rare(Rare::Tick)) if self.is_slow() => {
                    return self.log_end("it kept the node waiting");
                }
                Ok(Turn::Rare(Rare::Tick)) => rare.push(tick()),
                Ok(Turn::Rare(Rare::Stop)) => self.end(),
                Ok(Turn::Rare(Rare::Kill)) => return,
                Ok(Turn::Ended) => {
                    self.over.cancel();
                    self.end();
                }
                Err(error) => return self.log_end(&error),
            }
        }
    }

    fn log_end(&self, why: &(impl Display + ?Sized)) {
        tracing::debug!(%why, connection = self.number, "an OAP connection ended");
    }

    /// Reads no more, and ends what would go on for ever.
    pub(super) fn end(&mut self) {
        self.ended = true;
        self.read.clear();
        self.held_up.clear();
        self.begun.end();
        let subscriptions = self.outstanding.values().filter_map(|one| one.subscription.as_ref());
        subscriptions.for_each(CancellationToken::cancel);
    }

    /// Everything that can go on does.
    fn turn(&mut self, cx: &mut Context<'_>, rare: &mut RareOnes<'_>) -> Poll<io::Result<Turn>> {
        if let Poll::Ready(Some(rare)) = rare.poll_next_unpin(cx) {
            return Poll::Ready(Ok(Turn::Rare(rare)));
        }
        let mut moved = false;
        while let Poll::Ready(Some(done)) = self.calls.poll_next_unpin(cx) {
            self.done(done);
            moved = true;
        }
        while !self.unsent.is_empty() {
            match Pin::new(&mut self.socket).poll_write(cx, &self.unsent) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(n)) => {
                    self.written(n);
                    moved = true;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => break,
            }
        }
        if self.flushed < self.sent {
            match Pin::new(&mut self.socket).poll_flush(cx) {
                Poll::Ready(Ok(())) => {
                    self.flushed();
                    moved = true;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {}
            }
        }
        if self.may_read() {
            if self.read.capacity() - self.read.len() < READ_BYTES_MIN {
                self.read.reserve(READ_BYTES);
            }
            match poll_read_buf(Pin::new(&mut self.socket), cx, &mut self.read) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Ok(Turn::Ended)),
                Poll::Ready(Ok(_)) => moved = true,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {}
            }
        }
        if moved { Poll::Ready(Ok(Turn::Moved)) } else { Poll::Pending }
    }

    fn may_read(&self) -> bool {
        !self.ended && self.unsent.len() < UNSENT_BYTES_MAX && self.window_is_open()
    }

    fn window_is_open(&self) -> bool {
        self.outstanding.len() < INFLIGHT_MAX && self.window < WINDOW_BYTES
    }

    /// Whether the peer has kept us waiting for too long. Asked once a second.
    fn is_slow(&mut self) -> bool {
        let waits = self.session.is_none() || !self.read.is_empty() && self.may_read();
        self.slow_ticks = if waits { self.slow_ticks + 1 } else { 0 };
        self.slow_ticks > SLOW_TICKS_MAX
    }

    fn written(&mut self, n: usize) {
        self.unsent.advance(n);
        self.sent += n as u64;
        if self.unsent.len() < UNSENT_BYTES_MAX {
            self.resume();
        }
    }

    fn flushed(&mut self) {
        self.flushed = self.sent;
        while self.leases.front().is_some_and(|(end, _)| *end <= self.flushed) {
            if let Some((_, delivery)) = self.leases.pop_front() {
                delivery.written();
            }
        }
    }

    /// What waited for the peer goes on.
    pub(super) fn resume(&mut self) {
        self.calls.extend(self.held_up.drain(..));
    }

    pub(super) fn done(&mut self, done: Done) {
        if let Some((corr_id, bytes)) = done.let_go {
            self.shrinks(corr_id, bytes);
        }
        self.all_answered(&done.answered);
        // what nobody is there for goes back, rather than into a socket that nobody reads
        if done.delivery.is_none() || !self.over.is_cancelled() {
            self.unsent.extend_from_slice(&done.frames);
            if let Some(delivery) = done.delivery {
                self.leases.push_back((self.sent + self.unsent.len() as u64, delivery));
            }
        }
        match done.next {
            Some(Next::Always(call)) => self.calls.push(call),
            Some(Next::WhenTaken(call)) if self.unsent.len() < UNSENT_BYTES_MAX => self.calls.push(call),
            Some(Next::WhenTaken(call)) if !self.ended => self.held_up.push(call),
            Some(Next::WhenTaken(_)) | None => {}
        }
        if let Some(queue) = done.arrived {
            self.arrived(&queue);
        }
    }

    /// Hands every whole frame that was read to its call.
    async fn take_frames(&mut self) {
        self.read_at = Instant::now();
        while !self.ended && self.window_is_open() {
            let stranger = self.session.is_none();
            match oap::decode(&mut self.read) {
                Ok(Some(frame)) => {
                    self.slow_ticks = 0;
                    if !self.one_more(&frame) {
                        self.frame(frame).await;
                    }
                }
                Ok(None) if stranger && longer_than(&self.read, STRANGERS_FRAME_MAX) => {
                    let refusal = Refusal::new(Reason::Unauth, "a long frame needs a capability before it");
                    self.refuse(PROTO_MAILBOX, 0, &refusal);
                    self.end();
                }
                Ok(None) => break,
                Err(bad) => {
                    self.bad(&bad);
                    self.end();
                }
            }
        }
        self.send_off();
    }

    async fn frame(&mut self, frame: Frame) {
        let corr_id = frame.header.corr_id;
        if frame.header.has(RESP) || frame.header.has(oap::EVENT) {
            self.bad(&BadFrame { code: 400, corr_id, what: "a client's frames are REQ" });
            return self.end();
        }
        if self.begun.has(corr_id) {
            return self.piece(frame);
        }
        if self.outstanding.contains_key(&corr_id) {
            let refusal = answer::malformed("corr_id is that of a request that is not answered yet");
            return self.refuse(frame.header.app_proto_id, corr_id, &refusal);
        }
        let (proto, bytes) = (frame.header.app_proto_id, frame.wire_len());
        self.begins(corr_id, bytes, None);
        if let Err(refusal) = self.call(frame).await {
            self.answered(corr_id, refusal.reason.status());
            self.refuse(proto, corr_id, &refusal);
        }
    }

    /// A request is answered.
    pub(super) fn answered(&mut self, corr_id: u64, code: u16) {
        self.all_answered(&[(corr_id, code)]);
    }

    /// Requests are answered. Those that were read together and are answered alike are counted together.
    fn all_answered(&mut self, answered: &[(u64, u16)]) {
        let now = Instant::now();
        let mut alike: Option<(Alike, usize)> = None;
        for &(corr_id, code) in answered {
            let Some(outstanding) = self.outstanding.remove(&corr_id) else { continue };
            self.window -= outstanding.bytes;
            let kind = Alike { op: outstanding.op, code, began: outstanding.began };
            match &mut alike {
                Some((known, count)) if *known == kind => *count += 1,
                _ => {
                    if let Some((others, count)) = alike.replace((kind, 1)) {
                        self.app.answered(others.op, others.code, now - others.began, count);
                    }
                }
            }
        }
        if let Some((kind, count)) = alike {
            self.app.answered(kind.op, kind.code, now - kind.began, count);
        }
    }

    /// A request with this name begins.
    pub(super) fn begins(&mut self, corr_id: u64, bytes: usize, op: Option<u8>) {
        let outstanding = Outstanding { bytes, op, began: self.read_at, subscription: None };
        self.outstanding.insert(corr_id, outstanding);
        self.window += bytes;
    }

    /// What a request holds is known now: it counts against the window until it is answered.
    pub(super) fn weighs(&mut self, corr_id: u64, bytes: usize) {
        if let Some(outstanding) = self.outstanding.get_mut(&corr_id) {
            self.window = self.window - outstanding.bytes + bytes;
            outstanding.bytes = bytes;
        }
    }

    /// A request holds more, which counts against the window until it is let go or the request answered.
    pub(super) fn grows(&mut self, corr_id: u64, bytes: usize) {
        if let Some(outstanding) = self.outstanding.get_mut(&corr_id) {
            outstanding.bytes += bytes;
            self.window += bytes;
        }
    }

    fn shrinks(&mut self, corr_id: u64, bytes: usize) {
        if let Some(outstanding) = self.outstanding.get_mut(&corr_id) {
            outstanding.bytes -= bytes;
            self.window -= bytes;
        }
    }

    /// What a request asks for is known now.
    pub(super) fn is_for(&mut self, corr_id: u64, op: u8) {
        if let Some(outstanding) = self.outstanding.get_mut(&corr_id) {
            outstanding.op = Some(op);
        }
    }

    /// Writes an answer.
    pub(super) fn reply(&mut self, write: impl FnOnce(&mut BytesMut)) {
        write(&mut self.unsent);
    }

    fn refuse(&mut self, proto: u16, corr_id: u64, refusal: &Refusal) {
        tracing::debug!(
            corr_id = %corr_text(self.number, corr_id),
            reason = refusal.reason.code(),
            "an OAP request was refused"
        );
        self.app.answer_refusal((proto, corr_id), refusal, 0, &mut self.unsent);
    }

    fn bad(&mut self, bad: &BadFrame) {
        let reason = if bad.code == 413 { Reason::BodyLimit } else { Reason::Malformed };
        self.refuse(PROTO_MAILBOX, bad.corr_id, &Refusal::new(reason, bad.what));
    }
}

/// Whether the frame at the front says that it is longer than that.
fn longer_than(read: &BytesMut, most: usize) -> bool {
    let len = read.first_chunk::<4>().map(|len| u32::from_be_bytes(*len) as usize);
    read.len() >= HEADER_BYTES && len.is_some_and(|len| len > most)
}
