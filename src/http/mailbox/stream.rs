//! POST /recv/stream: Envelopes, a line each, as they come, until the consumer goes away or may no longer have them.
//!
//! The answer is made as hyper takes it, so nothing is buffered for a consumer that does not read but what was taken
//! out of the store at once. A message's lease stands when hyper has taken its whole line; what it has not is given
//! back when the connection ends.

use super::{Answer, App, HandedOut, HandsOut, MailboxApp, MailboxService, RECHECK, Want, answers};
use crate::http::auth::{Authority, Op};
use crate::http::dto;
use crate::http::error;
use crate::http::request::{Call, Path, queue_of};
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use bytes::Bytes;
use http::HeaderValue;
use http::header::CONTENT_TYPE;
use ron_core::ids::CorrId;
use ron_core::reason::Refusal;
use ron_core::shard;
use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;

/// A stream that has nothing to say says so this often, so that nobody on the way takes it for dead.
const QUIET: Duration = Duration::from_secs(10);
/// A line goes to hyper in pieces of this size, so that it takes no more than the socket does.
const FRAME_BYTES: usize = 32 * 1024;

pub(super) async fn recv_stream<M: MailboxService>(
    State(app): App<M>,
    path: Path,
    request: Request,
) -> Answer {
    let (parts, body) = request.into_parts();
    let call = Call::of(&parts)?;
    let queue = queue_of(&path)?;
    let authority = app.allow(&parts, call, Want::on(Op::Recv, &queue)).await?;
    app.readiness.admit_recv()?;
    let body = app.settling_body(&parts, body).await?;
    let request: dto::StreamRequest = dto::json_or_default(&body)?;
    let (want, max_inflight) = request.check()?;
    authority.still_holds(app.wall_s())?;
    let source = app.mailbox.open_stream(&queue, max_inflight).await?;
    let corr = call.corr.clone();
    let (line, handed, state) = (Bytes::new(), None, Phase::Open);
    let lines = Lines::<M> { app, source, authority, corr, want, handed, line, state };
    let frames = futures::stream::unfold(lines, |mut lines| async move {
        let frame = lines.frame().await?;
        Some((Ok::<Bytes, Infallible>(frame), lines))
    });
    let mut response = Response::new(Body::from_stream(frames));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    Ok(response)
}

/// What a stream's line under way is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nothing of a message.
    Open,
    /// Part of the first message's line.
    Message,
    /// The last line.
    Last,
}

struct Lines<M: MailboxService> {
    app: Arc<MailboxApp<M>>,
    source: M::Stream,
    authority: Authority,
    corr: CorrId,
    want: shard::Want,
    handed: Option<M::Delivery>,
    /// What hyper has not taken of the line under way.
    line: Bytes,
    state: Phase,
}

/// What came of waiting.
enum Came<D> {
    Messages(D),
    Nothing,
    End,
}

impl<M: MailboxService> Lines<M> {
    /// The next piece of the answer; `None` = it is over.
    async fn frame(&mut self) -> Option<Bytes> {
        loop {
            if !self.line.is_empty() {
                return Some(self.piece());
            }
            if self.state == Phase::Last || self.app.readiness.draining().is_cancelled() {
                return None;
            }
            match self.next_line().await {
                Ok(Some(line)) => self.line = line,
                Ok(None) => return None,
                Err(refusal) => {
                    self.app.meter.refused(error::RouteKind::Api, refusal.reason);
                    tracing::info!(corr_id = %self.corr, reason = refusal.reason.code(), "a stream ended");
                    self.handed = None;
                    self.state = Phase::Last;
                    self.line = error::line(&refusal, &self.corr).into();
                }
            }
        }
    }

    fn piece(&mut self) -> Bytes {
        if self.line.len() > FRAME_BYTES {
            return self.line.split_to(FRAME_BYTES);
        }
        if self.state == Phase::Message {
            self.state = Phase::Open;
            if let Some(handed) = &mut self.handed {
                handed.first_written();
            }
        }
        std::mem::take(&mut self.line)
    }

    /// The line of the next message, or an empty one if none came for a while; `None` = the node drains.
    async fn next_line(&mut self) -> Result<Option<Bytes>, Refusal> {
        loop {
            self.authority.still_holds(self.app.wall_s())?;
            if let Some(handed) = &mut self.handed {
                handed.drop_overdue(self.app.clock.now());
                if let Some(first) = handed.messages().first() {
                    let line = answers::line(first)?;
                    self.state = Phase::Message;
                    return Ok(Some(line.into()));
                }
                self.handed = None;
            }
            match self.wait().await? {
                Came::Messages(handed) => self.handed = Some(handed),
                Came::Nothing => return Ok(Some(Bytes::from_static(b"\n"))),
                Came::End => return Ok(None),
            }
        }
    }

    async fn wait(&mut self) -> Result<Came<M::Delivery>, Refusal> {
        let Lines { app, source, authority, want, .. } = self;
        let mut next = pin!(source.next(*want, QUIET));
        let handed = loop {
            tokio::select! {
                biased;
                () = app.readiness.draining().cancelled() => return Ok(Came::End),
                handed = &mut next => break handed?,
                () = sleep(RECHECK) => authority.still_holds(app.wall_s())?,
            }
        };
        Ok(if handed.messages().is_empty() { Came::Nothing } else { Came::Messages(handed) })
    }
}
