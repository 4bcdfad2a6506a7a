//! Requests as calls on the mailbox: what SPEC §4 says of each holds here, too.

use super::answer::{self, malformed};
use super::conn::Conn;
use super::listen::OapApp;
use super::session::{Judged, Session};
use crate::http::auth::{Authority, Op};
use crate::http::dto::{self, RecvRequest};
use crate::http::mailbox::refused;
use bytes::{Bytes, BytesMut};
use futures::FutureExt;
use futures::future::BoxFuture;
use ron_actors::mailbox::api::{Delivery, Settle};
use ron_core::audit::{Entry, Usage};
use ron_core::ids::{QueueKey, Tenant, Topic};
use ron_core::oap::{
    self, BadComp, Frame, Header, INFLATED_BYTES_MAX, Mode, PROTO_HELLO, PROTO_MAILBOX, Receipt, Request,
};
use ron_core::reason::{Reason, Refusal};
use ron_core::receipt;
use ron_core::shard::{NackMode, Want};
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// A request under way.
pub(super) type Call = BoxFuture<'static, Done>;

/// What follows a call.
pub(super) enum Next {
    /// Whatever the peer does.
    Always(Call),
    /// When the peer takes what it is sent.
    WhenTaken(Call),
}

/// What came of a call.
#[derive(Default)]
pub(super) struct Done {
    /// Requests that are answered with it, and the answers' codes.
    pub(super) answered: Vec<(u64, u16)>,
    /// What goes to the peer.
    pub(super) frames: BytesMut,
    /// Leases that stand once that is sent.
    pub(super) delivery: Option<Delivery>,
    /// What follows.
    pub(super) next: Option<Next>,
    /// A queue that has what was being brought to it, or refused it.
    pub(super) arrived: Option<QueueKey>,
    /// A request of which so many bytes are held no more.
    pub(super) let_go: Option<(u64, usize)>,
}

impl Done {
    /// A request is answered with 200.
    pub(super) fn of(corr_id: u64, frames: BytesMut) -> Done {
        Done { answered: vec![(corr_id, 200)], frames, ..Done::default() }
    }

    /// A request is refused. `more` = further flags of the answer.
    pub(super) fn refused(app: &OapApp, corr_id: u64, refusal: &Refusal, more: u16) -> Done {
        let mut frames = BytesMut::new();
        let code = app.answer_refusal((PROTO_MAILBOX, corr_id), refusal, more, &mut frames);
        Done { answered: vec![(corr_id, code)], frames, ..Done::default() }
    }
}

/// How often what waits asks whether its capability still holds; SPEC §5 allows 1 s.
pub(super) const RECHECK: Duration = Duration::from_millis(500);

impl<S: AsyncRead + AsyncWrite + Unpin> Conn<S> {
    /// Begins the call that a frame asks for.
    ///
    /// # Errors
    /// What it is refused with at once.
    pub(super) async fn call(&mut self, frame: Frame) -> Result<(), Refusal> {
        let header = frame.header;
        if header.code != 0 {
            return Err(malformed("code is 0 in requests"));
        }
        if !header.has(oap::REQ) {
            return Err(malformed("a request has the flag REQ"));
        }
        if header.has(oap::COMP) && (header.app_proto_id != PROTO_MAILBOX || header.has(oap::START)) {
            let text = "only requests to the mailbox are compressed, and only after a capability";
            return Err(Refusal::new(Reason::UnsupportedEncoding, text));
        }
        match header.app_proto_id {
            PROTO_HELLO => self.hello(&frame),
            PROTO_MAILBOX if header.has(oap::START) && !header.has(oap::END) && frame.cap.is_empty() => {
                self.put(&frame).await
            }
            PROTO_MAILBOX if header.has(oap::START) || header.has(oap::END) => {
                let opened = self.start(&frame).await;
                let token = str::from_utf8(&frame.cap).ok();
                opened.inspect_err(|refusal| self.not_let_in(header.corr_id, token, refusal))
            }
            PROTO_MAILBOX => self.request(frame).await,
            _ => Err(Refusal::new(Reason::NotFound, "app_proto_id is 0 (HELLO) or 0x0201 (mailbox)")),
        }
    }

    fn hello(&mut self, frame: &Frame) -> Result<(), Refusal> {
        if frame.header.has(oap::START) || frame.header.has(oap::END) {
            return Err(malformed("HELLO is one frame without START or END"));
        }
        let hello: oap::Hello = serde_json::from_slice(&frame.payload)
            .map_err(|_| malformed("the payload of HELLO is JSON: {\"ua\": text or null}"))?;
        if hello.ua.is_some_and(|ua| ua.len() > 256) {
            return Err(malformed("ua has at most 256 bytes"));
        }
        let answer = oap::HelloAnswer {
            max_frame: oap::FRAME_BYTES_MAX as u32,
            max_inflight: super::INFLIGHT_MAX as u32,
            max_bytes: super::WINDOW_BYTES as u32,
            flags_supported: oap::FLAGS,
            versions: vec![oap::VERSION],
            transports: vec![if self.app.tls.is_some() { "tcp+tls" } else { "tcp" }.to_owned()],
        };
        // numbers and texts always serialise
        let answer = serde_json::to_vec(&answer).unwrap_or_default();
        let corr_id = frame.header.corr_id;
        self.answered(corr_id, 200);
        self.reply(|to| answer::frames(answer::header(PROTO_HELLO, corr_id, 200), &answer, to));
        Ok(())
    }

    /// A frame with a capability opens the session, or replaces it.
    async fn start(&mut self, frame: &Frame) -> Result<(), Refusal> {
        if frame.cap.is_empty() || frame.header.has(oap::END) {
            return Err(malformed(
                "START brings a capability or begins an object, and END ends one that was begun",
            ));
        }
        if !frame.payload.is_empty() {
            return Err(malformed("a frame that brings a capability has no payload"));
        }
        // what was read before is judged by the capability before
        self.send_off();
        let session = Session::open(&self.app.passport, &frame.cap, self.app.wall_s()).await?;
        session.check_tenant(frame.header.tenant_id)?;
        self.session = Some(Arc::new(session));
        let corr_id = frame.header.corr_id;
        self.answered(corr_id, 200);
        self.reply(|to| answer::empty(corr_id, to));
        Ok(())
    }

    /// Who asks.
    ///
    /// # Errors
    /// UNAUTH, SCOPE_MISMATCH; the audit log hears of it.
    pub(super) fn asker(&self, header: &Header) -> Result<Arc<Session>, Refusal> {
        let Some(session) = self.session.clone() else {
            let refusal = Refusal::new(Reason::Unauth, "send a capability first, in a frame REQ|START");
            self.not_let_in(header.corr_id, None, &refusal);
            return Err(refusal);
        };
        let ours = session.check_tenant(header.tenant_id);
        ours.inspect_err(|refusal| self.not_let_in(header.corr_id, Some(session.token()), refusal))?;
        Ok(session)
    }

    async fn request(&mut self, mut frame: Frame) -> Result<(), Refusal> {
        let corr_id = frame.header.corr_id;
        let session = self.asker(&frame.header)?;
        if frame.header.has(oap::COMP) {
            frame.payload = self.inflated(frame.payload).await?;
            self.weighs(corr_id, frame.wire_len());
        }
        let request = oap::read(&frame.payload).map_err(|bad| malformed(bad.to_string()))?;
        self.is_for(corr_id, request.op());
        if !matches!(request, Request::Enqueue { .. } | Request::EnqueueBatch { .. }) {
            self.send_off();
        }
        match request {
            Request::Enqueue { topic, message } => {
                self.enqueue(&session, corr_id, topic, message, &frame.payload).await
            }
            Request::EnqueueBatch { topic, messages } => {
                self.enqueue_batch(&session, corr_id, topic, messages.0, &frame.payload).await
            }
            Request::Recv { topic, max_messages, max_bytes, visibility_ms, wait_ms } => {
                let asked = RecvRequest::of(max_messages.into(), max_bytes, visibility_ms, wait_ms);
                let queue = session.queue(topic)?;
                let authority =
                    self.allow(&session, corr_id, Op::Recv, Some(&queue.topic), None).await?.authority;
                self.app.readiness.admit_recv()?;
                let (want, wait) = asked.check()?;
                let call =
                    receive(self.app.clone(), authority, queue, (want, wait), self.over.clone(), corr_id);
                self.begin(call);
                Ok(())
            }
            Request::Subscribe { topic, credit, visibility_ms } => {
                self.subscribe(&session, corr_id, topic, credit, visibility_ms).await
            }
            Request::Unsubscribe { subscription } => self.unsubscribe(corr_id, subscription),
            Request::Ack { topic, receipts } => {
                self.settle(&session, corr_id, topic, Settle::Ack, Op::Ack, &receipts.0).await
            }
            Request::Nack { topic, receipts, mode, delay_ms, reason } => {
                let how = nack(mode, delay_ms, reason)?;
                self.settle(&session, corr_id, topic, how, Op::Nack, &receipts.0).await
            }
            Request::Extend { topic, receipts, visibility_ms } => {
                let how = dto::extend(visibility_ms)?;
                self.settle(&session, corr_id, topic, how, Op::Recv, &receipts.0).await
            }
            Request::Put { .. } => {
                Err(malformed("an object begins in a frame REQ|START without a capability"))
            }
        }
    }

    /// The payload that a compressed one stands for. One that would be too long ends the connection.
    async fn inflated(&mut self, payload: Bytes) -> Result<Bytes, Refusal> {
        // 1 MiB can take tens of milliseconds, which other connections of this worker must not wait
        let inflated = spawn_blocking(move || oap::inflate(&payload, INFLATED_BYTES_MAX)).await;
        match inflated {
            Ok(Ok(inflated)) => Ok(inflated.into()),
            Ok(Err(bad @ BadComp::Broken)) => Err(malformed(bad.to_string())),
            Ok(Err(bad @ BadComp::TooLong)) => {
                self.end();
                Err(Refusal::new(Reason::BodyLimit, bad.to_string()))
            }
            Err(_) => Err(Refusal::new(Reason::Internal, "inflating the payload failed").without_effect()),
        }
    }

    /// What a request may do. The audit log hears of it either way.
    pub(super) fn allow<'a>(
        &self,
        session: &'a Session,
        corr_id: u64,
        op: Op,
        topic: Option<&'a Topic>,
        bytes: Option<u64>,
    ) -> impl Future<Output = Result<Judged, Refusal>> + Send + use<'a, S> {
        let (app, peer, number) = (self.app.clone(), self.peer, self.number);
        async move {
            let ip: IpAddr = peer.ip().to_canonical();
            let judged = session.allow(&app, op, topic, bytes, (ip, app.wall_s())).await;
            let (call, tenant) = (|| app.named(peer, number, corr_id), session.tenant());
            match &judged {
                Ok(judged) => {
                    used(&app, &judged.authority, op, (tenant, topic), 1, |entry| call().name(entry));
                }
                Err(refusal) => {
                    let asked = (op.word(), Some(tenant), topic);
                    refused(&app.audit, asked, Some(session.token()), refusal, &call());
                }
            }
            judged
        }
    }

    /// Records that somebody was refused before it was asked what he wants.
    pub(super) fn not_let_in(&self, corr_id: u64, token: Option<&str>, refusal: &Refusal) {
        let call = self.app.named(self.peer, self.number, corr_id);
        refused(&self.app.audit, ("open", None, None), token, refusal, &call);
    }

    async fn settle(
        &mut self,
        session: &Session,
        corr_id: u64,
        topic: &str,
        how: Settle,
        op: Op,
        receipts: &[Receipt],
    ) -> Result<(), Refusal> {
        let queue = session.queue(topic)?;
        self.allow(session, corr_id, op, Some(&queue.topic), None).await?;
        let receipts = receipts.iter().map(|one| Ok(receipt::Receipt::from_bytes(one.0))).collect();
        self.begin(settled(self.app.clone(), queue, how, receipts, corr_id));
        Ok(())
    }

    /// Lets a call go as far as it gets at once, so that calls reach their queues in the order of their frames.
    pub(super) fn begin(&mut self, call: impl Future<Output = Done> + Send + 'static) {
        let mut call = call.boxed();
        match call.as_mut().now_or_never() {
            Some(done) => self.done(done),
            None => self.calls.push(call),
        }
    }
}

/// Records that requests were allowed; `with` says which the first one was.
pub(super) fn used(
    app: &OapApp,
    authority: &Authority,
    op: Op,
    (tenant, topic): (&Tenant, Option<&Topic>),
    n: u64,
    with: impl FnOnce(&mut Entry),
) {
    let Some(held) = &authority.held else { return };
    let (tenant, topic) = (Some(tenant.clone()), topic.cloned());
    let usage = Usage { who: held.who(), op: op.word(), tenant, topic, refused: None };
    app.audit.usage(&usage, n, with);
}

fn nack(mode: Mode, delay_ms: Option<u64>, reason: Option<&str>) -> Result<Settle, Refusal> {
    let mode = match mode {
        Mode::Fail => NackMode::Fail,
        Mode::Release => NackMode::Release,
        Mode::Reject => NackMode::Reject,
    };
    dto::nack(mode, delay_ms, reason.map(str::to_owned))
}

async fn receive(
    app: Arc<OapApp>,
    authority: Authority,
    queue: QueueKey,
    (want, wait): (Want, Duration),
    over: CancellationToken,
    corr_id: u64,
) -> Done {
    let handed = {
        let mut handed = pin!(app.mailbox.recv(&queue, want, wait));
        loop {
            tokio::select! {
                biased;
                handed = &mut handed => break handed,
                () = app.readiness.draining().cancelled() => break Ok(Delivery::default()),
                () = over.cancelled() => break Ok(Delivery::default()),
                () = sleep(RECHECK), if !wait.is_zero() => {
                    if let Err(refusal) = authority.still_holds(app.wall_s()) {
                        break Err(refusal);
                    }
                }
            }
        }
    };
    // what it waited for goes back at once if it may no longer have it
    let handed = handed.and_then(|delivery| authority.still_holds(app.wall_s()).map(|()| delivery));
    match handed {
        Ok(delivery) => {
            let mut frames = BytesMut::new();
            let payload = answer::messages(&delivery.messages);
            answer::frames(answer::header(PROTO_MAILBOX, corr_id, 200), &payload, &mut frames);
            Done { delivery: Some(delivery), ..Done::of(corr_id, frames) }
        }
        Err(refusal) => Done::refused(&app, corr_id, &refusal, 0),
    }
}

async fn settled(
    app: Arc<OapApp>,
    queue: QueueKey,
    how: Settle,
    receipts: Vec<Result<receipt::Receipt, receipt::ReceiptError>>,
    corr_id: u64,
) -> Done {
    match app.mailbox.settle_receipts(&queue, how, receipts).await {
        Ok(results) => {
            let reason = |one: Result<(), Reason>| one.err().map(|reason| reason.code().to_owned());
            let results = results.into_iter().map(reason).collect();
            let mut frames = BytesMut::new();
            answer::ok(corr_id, &oap::Settled { results }, &mut frames);
            Done::of(corr_id, frames)
        }
        Err(refusal) => Done::refused(&app, corr_id, &refusal, 0),
    }
}
