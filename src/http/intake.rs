//! How the bodies of webhooks are read, whose senders nobody knows yet: in slots and bytes that are few, of
//! all providers together and of each, within a deadline and at a least rate, inflated under bounds.
//!
//! Bytes are reserved as they come, not as they are promised. When there is no room, whoever has been sending
//! longest gives way ([`ron_core::crowd`]).

use crate::http::admission::{ByteBudget, OwnRate, Reserved};
use crate::http::body::{declared_len, next_data, over, within_limit};
use crate::http::passed::Passed;
use crate::http::strangers::Standing;
use axum::body::Body;
use bytes::Bytes;
use http_body::Body as _;
use ron_core::crowd::{Crowd, Place};
use ron_core::inflate::{Bounds, Coding, Inflate};
use ron_core::reason::{Reason, Refusal};
use std::num::NonZeroU32;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// How long who was told to give way may take to be gone, before the next one is told.
const GONE_WITHIN: Duration = Duration::from_millis(100);
/// How long a body may come at any rate: a lost packet is no slow sender.
const GRACE: Duration = Duration::from_secs(3);
/// So much of a body goes with its slot, as what inflates it does: small webhooks do not wait behind large ones.
const FIRST_BYTES: usize = 32 * 1024;

/// What webhooks may hold that are not verified yet: all of them, or those of one provider.
#[derive(Debug)]
pub struct Share {
    slots: Semaphore,
    slots_max: usize,
    bytes: ByteBudget,
    readers: Mutex<Crowd<Held>>,
    passed: Passed,
}

impl Share {
    /// Room for so many webhooks at once, and for so many bytes of their bodies.
    #[must_use]
    pub fn new(slots: usize, bytes: usize) -> Share {
        Share {
            slots: Semaphore::new(slots),
            slots_max: slots,
            bytes: ByteBudget::new(bytes),
            readers: Mutex::default(),
            passed: Passed::default(),
        }
    }

    /// How many slots are free.
    #[must_use]
    pub fn slots_free(&self) -> usize {
        self.slots.available_permits()
    }

    fn readers(&self) -> MutexGuard<'_, Crowd<Held>> {
        self.readers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a slot.
    ///
    /// # Errors
    /// BACKPRESSURE when none is free, and nobody who has one sends slowly.
    pub(super) async fn slot(&self) -> Result<SemaphorePermit<'_>, Refusal> {
        let busy = || Refusal::new(Reason::Backpressure, "too many webhooks are being verified; retry later");
        self.room(&self.slots, 1, self.slots_max, |_| 1).await.ok_or_else(busy)
    }

    /// Takes room for `bytes` more.
    async fn reserve(&self, bytes: usize) -> Result<Reserved<'_>, Refusal> {
        let (kib, of, max) = self.bytes.ask(bytes);
        self.room(of, kib, max, |held| held.kib.load(Ordering::Relaxed))
            .await
            .map(Reserved::new)
            .ok_or_else(ByteBudget::full)
    }

    /// Takes `n` of `of`, which holds at most `max`. While there are too few, the oldest readers have to go, as many as
    /// `frees` says are needed.
    async fn room<'s>(
        &self,
        of: &'s Semaphore,
        n: u32,
        max: usize,
        frees: impl Fn(&Held) -> usize,
    ) -> Option<SemaphorePermit<'s>> {
        if let Ok(permit) = of.try_acquire_many(n) {
            return Some(permit);
        }
        let needed = n as usize;
        if needed > max {
            return None;
        }
        let mut soon = of.available_permits();
        let mut room = pin!(of.acquire_many(n));
        // in the queue before anybody goes, or another newcomer would take what is freed
        if let Poll::Ready(permit) = futures::poll!(room.as_mut()) {
            return permit.ok();
        }
        loop {
            loop {
                let oldest = self.readers().give_way_of(self.passed.now(), |held| frees(held) > 0)?;
                oldest.gone.cancel();
                soon += frees(&oldest);
                if soon >= needed {
                    break;
                }
            }
            if let Ok(permit) = timeout(GONE_WITHIN, &mut room).await {
                return permit.ok();
            }
        }
    }
}

/// What a reader has, and how it is told to give it up.
#[derive(Debug, Clone, Default)]
struct Held {
    gone: CancellationToken,
    kib: Arc<AtomicUsize>,
}

/// One who reads, in the crowds of both shares.
#[derive(Debug)]
struct Reader<'s> {
    places: [(&'s Share, Place); 2],
}

impl<'s> Reader<'s> {
    fn join(shares: [&'s Share; 2], held: &Held) -> Reader<'s> {
        Reader { places: shares.map(|share| (share, share.readers().join(share.passed.now(), held.clone()))) }
    }
}

impl Drop for Reader<'_> {
    fn drop(&mut self) {
        for (share, place) in self.places {
            share.readers().leave(place);
        }
    }
}

/// What a webhook may send, as its provider has it.
#[derive(Debug, Clone, Copy)]
pub struct Terms<'g> {
    /// Largest body, bytes, as sent and inflated.
    pub body_limit: usize,
    /// Codings that its bodies may come in.
    pub codings: &'g [Coding],
    /// How far they may inflate.
    pub bounds: Bounds,
    /// What all its webhooks may hold together.
    pub share: &'g Share,
}

/// What one provider may send and hold, as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowanceLimits {
    /// Largest body, bytes.
    pub body_limit: usize,
    /// Codings that its bodies may come in.
    pub codings: Vec<Coding>,
    /// How far they may inflate.
    pub bounds: Bounds,
    /// Webhooks at once that are not verified yet.
    pub slots: usize,
    /// Bytes of them.
    pub bytes: usize,
    /// Verified ones a second, and what is saved up on top of that; `None` = as the node.
    pub rate: Option<(NonZeroU32, NonZeroU32)>,
}

/// What one provider may send and hold. Outlives a reload that leaves its limits as they are.
#[derive(Debug)]
pub struct Allowance {
    /// As configured.
    pub limits: AllowanceLimits,
    /// What its webhooks may hold together, unverified.
    pub share: Share,
    /// Verified ones a second.
    pub rate: OwnRate,
}

impl Allowance {
    /// Nothing of it is in use.
    #[must_use]
    pub fn new(limits: AllowanceLimits) -> Allowance {
        let rate = limits.rate.map_or_else(OwnRate::default, |(rps, burst)| OwnRate::new(rps, burst));
        Allowance { share: Share::new(limits.slots, limits.bytes), rate, limits }
    }

    /// What a webhook is told of it.
    #[must_use]
    pub fn terms(&self) -> Terms<'_> {
        let AllowanceLimits { body_limit, codings, bounds, .. } = &self.limits;
        Terms { body_limit: *body_limit, codings, bounds: *bounds, share: &self.share }
    }
}

/// How fast a body must come.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// For all of it.
    pub deadline: Duration,
    /// Bytes a second, past the first three seconds.
    pub rate_min: usize,
}

/// A body that was read, and the room it takes.
#[derive(Debug)]
pub(super) struct Taken<'s> {
    pub(super) body: Bytes,
    _room: Vec<Reserved<'s>>,
}

/// What a webhook holds while its sender is not known: slots in both shares, and the room of its body. Given back when
/// dropped.
#[derive(Debug)]
pub struct Unverified<'s> {
    _slots: [SemaphorePermit<'s>; 2],
    _taken: Taken<'s>,
}

impl<'s> Unverified<'s> {
    pub(super) fn new(slots: [SemaphorePermit<'s>; 2], taken: Taken<'s>) -> Unverified<'s> {
        Unverified { _slots: slots, _taken: taken }
    }
}

/// What the head says of the body's length.
///
/// # Errors
/// BODY_LIMIT of the declared length.
pub(super) fn declared(body: &Body, terms: &Terms<'_>) -> Result<Option<usize>, Refusal> {
    let declared = declared_len(body);
    within_limit(declared, terms.body_limit)?;
    Ok(declared.and_then(|len| usize::try_from(len).ok()))
}

/// Reads bodies in the shares of all and of one provider.
#[derive(Debug)]
pub(super) struct Intake<'s> {
    shares: [&'s Share; 2],
    terms: Terms<'s>,
    room: Vec<Reserved<'s>>,
    held: Held,
    /// What of it is for `whole`, bytes.
    reserved: usize,
    /// How long `whole` may become.
    most: usize,
    whole: Vec<u8>,
}

impl<'s> Intake<'s> {
    /// A reader that has a slot in both shares.
    pub(super) fn new(
        all: &'s Share,
        terms: Terms<'s>,
        declared: Option<usize>,
        coding: Option<Coding>,
    ) -> Intake<'s> {
        let most = match coding {
            None => declared.unwrap_or(terms.body_limit),
            Some(_) => terms.bounds.bytes_max,
        };
        let (room, held, whole) = (Vec::new(), Held::default(), Vec::new());
        let (shares, reserved) = ([terms.share, all], most.min(FIRST_BYTES));
        Intake { shares, terms, room, held, reserved, most, whole }
    }

    async fn reserve(&mut self, bytes: usize) -> Result<(), Refusal> {
        if bytes == 0 {
            return Ok(());
        }
        for share in self.shares {
            let reserved = share.reserve(bytes).await?;
            self.room.push(reserved);
        }
        self.held.kib.fetch_add(bytes.div_ceil(1024), Ordering::Relaxed);
        Ok(())
    }

    /// Reads all of `body`.
    ///
    /// # Errors
    /// BODY_LIMIT over the limit, TIMEOUT if it is too slow, BACKPRESSURE if it has to give way, MALFORMED if
    /// it breaks off or is badly compressed, DECOMP_LIMIT if it inflates too far. Which step it was is left
    /// in `step`.
    pub(super) async fn read(
        mut self,
        body: Body,
        coding: Option<Coding>,
        pace: Pace,
        standing: Option<&Standing>,
        step: &mut Option<&'static str>,
    ) -> Result<Taken<'s>, Refusal> {
        *step = Some("BODY");
        if body.is_end_stream() && coding.is_none() {
            return Ok(Taken { body: Bytes::new(), _room: self.room });
        }
        let reader = Reader::join(self.shares, &self.held);
        let waiting = standing.map(Standing::waiting);
        let gone = self.held.gone.clone();
        let body = tokio::select! {
            biased;
            body = self.read_all(body, coding, pace, step) => body.inspect_err(|refusal| {
                if refusal.reason == Reason::Backpressure {
                    *step = Some("BYTES");
                }
            })?,
            () = gone.cancelled() => {
                *step = Some("GAVE_WAY");
                let text = "the body came too slowly while others waited for its place; retry later";
                return Err(Refusal::new(Reason::Backpressure, text));
            }
        };
        drop((reader, waiting));
        Ok(Taken { body, _room: self.room })
    }

    async fn read_all(
        &mut self,
        mut body: Body,
        coding: Option<Coding>,
        pace: Pace,
        step: &mut Option<&'static str>,
    ) -> Result<Bytes, Refusal> {
        let (began, limit) = (Passed::default(), self.terms.body_limit);
        let mut inflate = coding.map(|coding| Inflate::new(coding, self.terms.bounds));
        let mut wire = 0;
        loop {
            let earned = Duration::from_millis((wire as u64 * 1000).div_ceil(pace.rate_min.max(1) as u64));
            let until = began.moment(pace.deadline.min(GRACE + earned));
            let Some(data) = next_data(&mut body, until).await? else { break };
            wire += data.len();
            if wire > limit {
                return Err(over(limit));
            }
            match &mut inflate {
                None if wire == data.len() && body.is_end_stream() => {
                    self.make_room(wire).await?;
                    return Ok(data); // one frame: no copy
                }
                None => self.push(&data).await?,
                Some(inflate) => {
                    *step = Some("INFLATE");
                    if coding == Some(Coding::Zstd) && wire > FIRST_BYTES {
                        // its wire bytes are kept until the end
                        self.reserve(data.len()).await?;
                    }
                    self.inflated(inflate, &data).await?;
                    *step = Some("BODY");
                }
            }
        }
        if let Some(inflate) = &mut inflate {
            *step = Some("INFLATE");
            self.reserve(inflate.end_bytes().saturating_sub(FIRST_BYTES)).await?;
            let rest = inflate.end()?;
            self.push(rest).await?;
        }
        Ok(std::mem::take(&mut self.whole).into())
    }

    async fn inflated(&mut self, inflate: &mut Inflate, mut data: &[u8]) -> Result<(), Refusal> {
        loop {
            let made = inflate.take(&mut data)?;
            if made.is_empty() {
                return Ok(());
            }
            self.push(made).await?;
        }
    }

    /// Keeps a piece of the body. Where it needs a larger place, room for that is taken first.
    async fn push(&mut self, piece: &[u8]) -> Result<(), Refusal> {
        let (len, place) = (self.whole.len() + piece.len(), self.whole.capacity());
        if len > place {
            let larger = len.max(place * 2).max(self.reserved).min(self.most.max(len));
            self.make_room(larger).await?;
            self.whole.reserve_exact(larger - self.whole.len());
        }
        self.whole.extend_from_slice(piece);
        Ok(())
    }

    /// Takes room for a body of so many bytes, beside what was taken.
    async fn make_room(&mut self, bytes: usize) -> Result<(), Refusal> {
        if bytes > self.reserved {
            self.reserve(bytes - self.reserved).await?;
            self.reserved = bytes;
        }
        Ok(())
    }
}
