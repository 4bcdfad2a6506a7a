//! Objects on their way in: a frame that begins one, its bytes in frames of the same `corr_id`, one that ends it.

use super::answer::{self, malformed};
use super::calls::{Call, Done, Next};
use super::conn::Conn;
use super::listen::OapApp;
use crate::http::auth::{Authority, Op};
use crate::metrics::Stage;
use crate::objects::Taken;
use bytes::{Bytes, BytesMut};
use futures::FutureExt;
use hashbrown::HashMap;
use ron_core::ids::{ContentHash, Tenant};
use ron_core::oap::{self, COMP, DATA_BYTES_MAX, END, Frame, REQ, Request, START};
use ron_core::reason::{Reason, Refusal};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{Instant, timeout};

/// Objects of a connection that have begun and not ended, those included that were refused meanwhile.
const BEGUN_MAX: usize = 64;
/// Bytes that must come within each [`OapLimits::body_deadline`](super::OapLimits::body_deadline).
const PACE_BYTES: u64 = 1 << 20;

/// What a piece weighs in the connection's window, at least: the window bounds their number, too.
const PIECE_WEIGHT_MIN: usize = 1024;

/// Where the bytes of an object go that is on its way in. The window of the connection bounds what waits there.
type Pieces = UnboundedSender<Result<Piece, Refusal>>;

/// Objects of a connection that have begun, by `corr_id`. One that was refused stays until its END, so that what was
/// sent of it meanwhile is taken for nothing else.
#[derive(Debug, Default)]
pub(super) struct Begun(HashMap<u64, Pieces>);

impl Begun {
    /// Whether a frame of this `corr_id` is a piece of an object.
    pub(super) fn has(&self, corr_id: u64) -> bool {
        !self.0.is_empty() && self.0.contains_key(&corr_id)
    }

    /// All are cut off.
    pub(super) fn end(&mut self) {
        self.0.clear();
    }
}

/// Bytes of an object.
#[derive(Debug)]
struct Piece {
    bytes: Bytes,
    /// Of the window.
    weight: usize,
    last: bool,
}

/// An object that is being taken.
struct Put {
    app: Arc<OapApp>,
    authority: Authority,
    tenant: Tenant,
    corr_id: u64,
    claimed: ContentHash,
    /// Bytes that are still to come.
    left: u64,
    len: u64,
    pieces: UnboundedReceiver<Result<Piece, Refusal>>,
    taken: Taken,
    /// How long the next bytes may take to come, and how many of them there are.
    patience: Duration,
    paced: u64,
    _slot: OwnedSemaphorePermit,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Conn<S> {
    /// Begins an object.
    ///
    /// # Errors
    /// What it is refused with at once; what follows of it is ignored.
    pub(super) async fn put(&mut self, frame: &Frame) -> Result<(), Refusal> {
        let corr_id = frame.header.corr_id;
        let read = oap::read(&frame.payload).map_err(|bad| malformed(bad.to_string()));
        let Ok(Request::Put { object, len }) = read else {
            return read.and_then(|_| {
                Err(malformed("START brings a capability in cap, or begins an object with put"))
            });
        };
        if self.begun.0.len() >= BEGUN_MAX {
            self.end();
            let text = format!("{BEGUN_MAX} objects have begun and not ended: end them, refused ones too");
            return Err(malformed(text));
        }
        let (pieces, coming) = unbounded_channel();
        self.begun.0.insert(corr_id, pieces);
        let session = self.asker(&frame.header)?;
        self.is_for(corr_id, 8);
        let authority = self.allow(&session, corr_id, Op::Put, None, Some(len)).await?.authority;
        self.app.readiness.admit_send()?;
        if len > self.app.limits.object_max {
            let text =
                format!("an object may have {} bytes (interop.object_max)", self.app.limits.object_max);
            return Err(Refusal::new(Reason::BodyLimit, text));
        }
        let full = |_| Refusal::new(Reason::Backpressure, "too many objects are under way; retry later");
        let slot = self.app.uploads.clone().try_acquire_owned().map_err(full)?;
        let tenant = session.tenant().clone();
        let put = Put {
            taken: Taken::new(self.app.store.clone(), tenant.clone()),
            patience: self.app.limits.body_deadline,
            app: self.app.clone(),
            claimed: ContentHash(object),
            left: len,
            pieces: coming,
            paced: 0,
            _slot: slot,
            authority,
            tenant,
            corr_id,
            len,
        };
        self.calls.push(put.next());
        Ok(())
    }

    /// Takes a frame with bytes of an object that has begun.
    pub(super) fn piece(&mut self, frame: Frame) {
        let (header, corr_id) = (frame.header, frame.header.corr_id);
        let (weight, last) = (frame.wire_len().max(PIECE_WEIGHT_MIN), header.has(END));
        let unusual = header.flags & (START | COMP) != 0 || !header.has(REQ) || header.code != 0;
        if unusual || frame.payload.len() > DATA_BYTES_MAX {
            let text = "the bytes of an object come in frames REQ of at most 65536 bytes, the last with END";
            // it may have been refused already
            let _ = self.begun.0.get(&corr_id).map(|pieces| pieces.send(Err(malformed(text))));
            return self.end();
        }
        let Some(pieces) = self.begun.0.get(&corr_id) else { return };
        let bytes = frame.payload;
        if pieces.send(Ok(Piece { bytes, weight, last })).is_ok() {
            self.grows(corr_id, weight);
        }
        if last {
            self.begun.0.remove(&corr_id);
        }
    }
}

impl Put {
    /// Takes the next bytes; what follows is taken when the window knows that these are gone.
    fn next(mut self) -> Call {
        async move {
            match self.take().await {
                Ok((weight, false)) => {
                    let (let_go, next) = (Some((self.corr_id, weight)), Some(Next::Always(self.next())));
                    Done { let_go, next, ..Done::default() }
                }
                Ok((_, true)) => Box::pin(self.end()).await,
                Err(refusal) => Done::refused(&self.app, self.corr_id, &refusal, 0),
            }
        }
        .boxed()
    }

    async fn end(self) -> Done {
        let (app, corr_id) = (self.app.clone(), self.corr_id);
        match self.store().await {
            Ok(stored) => {
                let mut frames = BytesMut::new();
                answer::ok(corr_id, &stored, &mut frames);
                Done::of(corr_id, frames)
            }
            Err(refusal) => Done::refused(&app, corr_id, &refusal, 0),
        }
    }

    /// What the next piece weighed, and whether it was the last.
    async fn take(&mut self) -> Result<(usize, bool), Refusal> {
        let since = Instant::now();
        let piece = timeout(self.patience, self.pieces.recv()).await;
        let late = |_| Refusal::new(Reason::Timeout, "the object did not arrive in time").without_effect();
        let Some(piece) = piece.map_err(late)? else {
            self.app.readiness.admit_send()?; // by a drain, if it says so
            return Err(malformed("the object was cut off"));
        };
        let piece = piece?;
        self.patience = self.patience.saturating_sub(since.elapsed());
        let more = piece.bytes.len() as u64;
        self.paced += more;
        if self.paced >= PACE_BYTES {
            (self.paced, self.patience) = (0, self.app.limits.body_deadline);
        }
        // it may take its time; its authority may have ended meanwhile
        self.authority.still_holds(self.app.wall_s())?;
        let left = self.left.checked_sub(more);
        self.left = left.ok_or_else(|| malformed("more bytes came than the object was said to have"))?;
        if piece.last && self.left > 0 {
            return Err(malformed(format!("{} bytes of the object did not come", self.left)));
        }
        self.taken.take(&piece.bytes).await?;
        Ok((piece.weight, piece.last))
    }

    async fn store(self) -> Result<oap::Stored, Refusal> {
        let (app, len) = (self.app, self.len);
        if self.taken.hash() != self.claimed {
            app.meter.metrics().mailbox.integrity_fail(Stage::Ingress);
            return Err(malformed("object is not the BLAKE3 of the bytes that arrived"));
        }
        app.policy.charge_bytes(&self.tenant, &*app.clock, len)?;
        let stored = self.taken.store().await;
        let address = stored.inspect_err(|refusal| app.policy.give_back(&self.tenant, len, refusal))?;
        Ok(oap::Stored { object: address.0, durability: app.durability() })
    }
}
