//! Subscriptions: messages that are brought as they come, as long as the peer takes them.

use super::answer::{self, malformed};
use super::calls::{Call, Done, Next, RECHECK};
use super::conn::Conn;
use super::listen::OapApp;
use super::session::Session;
use crate::http::auth::{Authority, Op};
use crate::http::dto::StreamRequest;
use bytes::BytesMut;
use futures::FutureExt;
use ron_actors::mailbox::{Delivery, DeliveryStream};
use ron_core::ids::QueueKey;
use ron_core::oap::{self, END, PROTO_MAILBOX};
use ron_core::reason::{Reason, Refusal};
use ron_core::shard::Want;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// A subscription looks this often whether it should end.
const QUIET: Duration = Duration::from_secs(10);
/// Subscriptions of one connection.
const SUBSCRIPTIONS_MAX: usize = 64;

impl<S: AsyncRead + AsyncWrite + Unpin> Conn<S> {
    pub(super) async fn subscribe(
        &mut self,
        session: &Session,
        corr_id: u64,
        topic: &str,
        credit: u32,
        visibility_ms: Option<u64>,
    ) -> Result<(), Refusal> {
        let queue = session.queue(topic)?;
        let authority = self.allow(session, corr_id, Op::Recv, Some(&queue.topic), None).await?.authority;
        self.app.readiness.admit_recv()?;
        let (want, credit) = StreamRequest::of(credit.into(), visibility_ms).check()?;
        let subscriptions = self.outstanding.values().filter(|one| one.subscription.is_some()).count();
        if subscriptions >= SUBSCRIPTIONS_MAX {
            return Err(Refusal::new(Reason::Backpressure, "a connection has at most 64 subscriptions"));
        }
        let over = CancellationToken::new();
        if let Some(outstanding) = self.outstanding.get_mut(&corr_id) {
            outstanding.subscription = Some(over.clone());
        }
        self.begin(open(self.app.clone(), authority, queue, (want, credit), over, corr_id));
        Ok(())
    }

    pub(super) fn unsubscribe(&mut self, corr_id: u64, subscription: u64) -> Result<(), Refusal> {
        let found = self.outstanding.get(&subscription).and_then(|one| one.subscription.as_ref());
        let over = found.ok_or_else(|| malformed("subscription is the corr_id of one that goes on here"))?;
        over.cancel();
        // one that waits for the peer to take what it got ends as well
        self.resume();
        self.answered(corr_id, 200);
        self.reply(|to| answer::empty(corr_id, to));
        Ok(())
    }
}

async fn open(
    app: Arc<OapApp>,
    authority: Authority,
    queue: QueueKey,
    (want, credit): (Want, u32),
    over: CancellationToken,
    corr_id: u64,
) -> Done {
    let stream = match app.mailbox.open_stream(&queue, credit).await {
        Ok(stream) => stream,
        Err(refusal) => return Done::refused(&app, corr_id, &refusal, END),
    };
    let mut frames = BytesMut::new();
    answer::empty(corr_id, &mut frames);
    let subscription = Subscription { app, authority, stream, want, over, corr_id };
    Done { frames, next: Some(Next::WhenTaken(subscription.next())), ..Done::default() }
}

/// Messages that are brought as they come.
struct Subscription {
    app: Arc<OapApp>,
    authority: Authority,
    stream: DeliveryStream,
    want: Want,
    over: CancellationToken,
    corr_id: u64,
}

impl Subscription {
    /// The next messages as an EVENT, and what follows; or its end.
    fn next(mut self) -> Call {
        async move {
            match self.wait().await {
                Ok(Some(delivery)) => {
                    let header = answer::header(PROTO_MAILBOX, self.corr_id, 0);
                    let header = oap::Header { flags: oap::EVENT, ..header };
                    let mut frames = BytesMut::new();
                    answer::frames(header, &answer::messages(&delivery.messages), &mut frames);
                    let next = Some(Next::WhenTaken(self.next()));
                    Done { frames, delivery: Some(delivery), next, ..Done::default() }
                }
                Ok(None) => {
                    let mut frames = BytesMut::new();
                    let header = answer::header(PROTO_MAILBOX, self.corr_id, 200);
                    let header = oap::Header { flags: header.flags | END, ..header };
                    oap::encode(&header, &[], &[], &mut frames);
                    Done::of(self.corr_id, frames)
                }
                Err(refusal) => Done::refused(&self.app, self.corr_id, &refusal, END),
            }
        }
        .boxed()
    }

    /// `None` = it was ended, or the node drains.
    async fn wait(&mut self) -> Result<Option<Delivery>, Refusal> {
        let Subscription { app, authority, stream, want, over, .. } = self;
        loop {
            if over.is_cancelled() || app.readiness.draining().is_cancelled() {
                return Ok(None);
            }
            authority.still_holds(app.wall_s())?;
            let mut next = pin!(stream.next(*want, QUIET));
            let delivery = loop {
                tokio::select! {
                    biased;
                    () = over.cancelled() => return Ok(None),
                    () = app.readiness.draining().cancelled() => return Ok(None),
                    delivery = &mut next => break delivery?,
                    () = sleep(RECHECK) => authority.still_holds(app.wall_s())?,
                }
            };
            if !delivery.messages.is_empty() {
                return Ok(Some(delivery));
            }
        }
    }
}
