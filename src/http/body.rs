//! Bodies: read within a limit and a deadline, drained after a refusal, and written so that a delivery that
//! never reached its connection is given back.

use crate::http::mailbox::HandedOut;
use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;
use ron_core::reason::{Reason, Refusal};
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// The declared length of a body; `None` when it is chunked.
pub(super) fn declared_len(body: &Body) -> Option<u64> {
    body.size_hint().exact()
}

/// Refuses a declared length over `limit` before a byte is read. Returns what to reserve.
pub(super) fn within_limit(declared: Option<u64>, limit: usize) -> Result<usize, Refusal> {
    match declared {
        None => Ok(limit),
        Some(len) => usize::try_from(len).ok().filter(|len| *len <= limit).ok_or_else(|| over(limit)),
    }
}

pub(super) fn over(limit: usize) -> Refusal {
    Refusal::new(Reason::BodyLimit, format!("the body is over the limit of {limit} bytes"))
}

/// Reads a whole body.
///
/// # Errors
/// BODY_LIMIT over `limit` bytes, TIMEOUT if it is not here `deadline` after now, MALFORMED if it breaks off.
pub(super) async fn read(mut body: Body, limit: usize, deadline: Duration) -> Result<Bytes, Refusal> {
    let until = Instant::now() + deadline;
    let Some(first) = next_data(&mut body, until).await? else {
        return Ok(Bytes::new());
    };
    if first.len() > limit {
        return Err(over(limit));
    }
    let Some(second) = next_data(&mut body, until).await? else {
        return Ok(first); // one frame: no copy
    };
    let expected = declared_len(&body).map_or(0, |rest| usize::try_from(rest).unwrap_or(limit));
    let room = (first.len() + second.len()).saturating_add(expected).min(limit);
    let mut whole = BytesMut::with_capacity(room);
    whole.extend_from_slice(&first);
    let mut next = Some(second);
    while let Some(data) = next {
        if whole.len() + data.len() > limit {
            return Err(over(limit));
        }
        whole.extend_from_slice(&data);
        next = next_data(&mut body, until).await?;
    }
    Ok(whole.freeze())
}

/// The next piece of a body; `None` at its end.
///
/// # Errors
/// TIMEOUT after `until`, MALFORMED if it breaks off.
pub(super) async fn next_data(body: &mut Body, until: Instant) -> Result<Option<Bytes>, Refusal> {
    loop {
        if body.is_end_stream() {
            return Ok(None);
        }
        let frame = timeout_at(until, body.frame())
            .await
            .map_err(|_| Refusal::new(Reason::Timeout, "the body did not arrive in time"))?;
        match frame {
            None => return Ok(None),
            Some(Err(_)) => {
                return Err(Refusal::new(Reason::Malformed, "the body broke off or is badly framed"));
            }
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) if !data.is_empty() => return Ok(Some(data)),
                _ => {} // trailers mean nothing here
            },
        }
    }
}

/// Bytes that must come within each deadline of a [`Paced`] body.
const PACE_BYTES: u64 = 1 << 20;

/// A large body on its way in: each [`PACE_BYTES`] of it have the time that a small one has. What its reader does
/// between two pieces does not count.
#[derive(Debug)]
pub(super) struct Paced {
    body: Body,
    deadline: Duration,
    until: Instant,
    /// When the reader was given the last piece.
    given: Instant,
    /// Bytes since the deadline was set.
    since: u64,
    len: u64,
}

impl Paced {
    pub(super) fn new(body: Body, deadline: Duration) -> Paced {
        let given = Instant::now();
        Paced { body, deadline, until: given + deadline, given, since: 0, len: 0 }
    }

    /// Bytes so far.
    pub(super) const fn len(&self) -> u64 {
        self.len
    }

    /// The next bytes; `None` at its end.
    ///
    /// # Errors
    /// TIMEOUT if it is too slow, MALFORMED if it breaks off.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Refusal> {
        self.until += self.given.elapsed();
        let data = next_data(&mut self.body, self.until).await?;
        self.given = Instant::now();
        let more = data.as_ref().map_or(0, |data| data.len() as u64);
        self.len += more;
        self.since += more;
        if self.since >= PACE_BYTES {
            (self.since, self.until) = (0, self.given + self.deadline);
        }
        Ok(data)
    }
}

/// A request body that comes back if its handler did not read it to the end. A refusal is then sent only
/// after what the client is still sending was read away (within bounds): closing on unread bytes would reset
/// the connection, and the client would never see why it was refused.
#[derive(Debug)]
pub(super) struct Returning {
    body: Option<hyper::body::Incoming>,
    back: Leftover,
}

/// Where an unread body comes back to.
#[derive(Debug, Clone, Default)]
pub(super) struct Leftover(Arc<Mutex<Option<hyper::body::Incoming>>>);

/// Most bytes read away, and how long that may take.
const DRAIN_BYTES_MAX: usize = 8 * 1024 * 1024;
const DRAIN_TIME_MAX: Duration = Duration::from_secs(2);

impl Returning {
    pub(super) fn new(body: hyper::body::Incoming) -> (Returning, Leftover) {
        let back = Leftover::default();
        (Returning { body: Some(body), back: back.clone() }, back)
    }
}

impl Drop for Returning {
    fn drop(&mut self) {
        if let Some(body) = self.body.take().filter(|body| !body.is_end_stream()) {
            *self.back.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(body);
        }
    }
}

impl HttpBody for Returning {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.body.as_mut() {
            Some(body) => Pin::new(body).poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), HttpBody::size_hint)
    }
}

impl Leftover {
    /// Reads away what came back. False if it was too much or too slow: the connection must end.
    pub(super) async fn drain(&self) -> bool {
        let Some(mut body) = self.0.lock().unwrap_or_else(PoisonError::into_inner).take() else {
            return true;
        };
        if body.size_hint().lower() > DRAIN_BYTES_MAX as u64 {
            return false;
        }
        let until = Instant::now() + DRAIN_TIME_MAX;
        let mut drained = 0;
        while !body.is_end_stream() {
            match timeout_at(until, body.frame()).await {
                Ok(Some(Ok(frame))) => drained += frame.data_ref().map_or(0, Bytes::len),
                Ok(None) => break,
                Ok(Some(Err(_))) | Err(_) => return false,
            }
            if drained > DRAIN_BYTES_MAX {
                return false;
            }
        }
        true
    }
}

/// An answer to a receive goes to hyper in pieces of this size: it takes the next one when the socket has taken
/// most of those before, so a large answer counts as written only when all but the last few are.
const DELIVERY_FRAME_BYTES: usize = 32 * 1024;

/// What was received for an answer that is still being put together. Dropped, it gives the messages back.
#[derive(Clone, Default)]
pub(super) struct Keeper(Arc<Mutex<Vec<Written>>>);

/// Says that a delivery is written.
type Written = Box<dyn FnOnce() + Send>;

impl Keeper {
    /// Keeps a delivery until the answer is written.
    pub(super) fn keep(&self, delivery: impl HandedOut) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.push(Box::new(move || delivery.written()));
    }

    fn written(&self) {
        let kept = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        kept.into_iter().for_each(|written| written());
    }
}

/// The answer to a receive. The leases stand once hyper has taken the last bytes to write them; if the
/// connection closes before, dropping what it keeps gives the messages back.
pub(super) struct DeliveryBody {
    bytes: Option<Bytes>,
    kept: Keeper,
}

impl DeliveryBody {
    pub(super) fn new(bytes: Vec<u8>, delivery: impl HandedOut) -> DeliveryBody {
        let kept = Keeper::default();
        kept.keep(delivery);
        DeliveryBody::keeping(bytes.into(), kept)
    }

    /// With all that was received for it.
    pub(super) const fn keeping(bytes: Bytes, kept: Keeper) -> DeliveryBody {
        DeliveryBody { bytes: Some(bytes), kept }
    }
}

impl HttpBody for DeliveryBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Some(bytes) = &mut self.bytes else {
            return Poll::Ready(None);
        };
        if bytes.len() > DELIVERY_FRAME_BYTES {
            let part = bytes.split_to(DELIVERY_FRAME_BYTES);
            return Poll::Ready(Some(Ok(Frame::data(part))));
        }
        let last = std::mem::take(bytes);
        self.bytes = None;
        self.kept.written();
        Poll::Ready(Some(Ok(Frame::data(last))))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
    }
}
