//! Sends on their way to their queues. Those to one topic that were read together become one request to its queue;
//! while a queue's actor is being started, further ones wait, so that a queue gets them in the order of their frames.

use super::answer::{self, malformed};
use super::calls::{Done, Next, used};
use super::conn::Conn;
use super::listen::{OapApp, corr_text};
use super::session::Session;
use crate::http::auth::{Authority, Op};
use crate::http::draft::{Draft, FieldNames};
use crate::http::error::RouteKind;
use crate::http::mailbox::{BATCH_BYTES_MAX, item_refused};
use bytes::{Bytes, BytesMut};
use futures::FutureExt;
use ron_actors::mailbox::{Enqueued, Submitted};
use ron_core::ids::{ContentHash, QueueKey, Topic};
use ron_core::message::{NewMessage, PAYLOAD_BYTES_MAX};
use ron_core::oap::{self, BatchOutcome, Frame, Header, PROTO_MAILBOX, Request};
use ron_core::reason::{Reason, Refusal};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};

/// Messages that become one request to their queue.
const GROUP_MAX: usize = 1_024;
/// Their payload bytes.
const GROUP_BYTES_MAX: usize = 1 << 20;

/// Messages for one queue, of one or several requests.
struct Group {
    queue: QueueKey,
    requests: Vec<Sent>,
    messages: Vec<NewMessage>,
    bytes: u64,
    /// What all single sends of it may do; `None` = each has to be judged by itself.
    authority: Option<Authority>,
    /// Single sends that were not judged by themselves.
    more: u64,
}

impl Group {
    fn new(queue: QueueKey) -> Group {
        Group { queue, requests: Vec::new(), messages: Vec::new(), bytes: 0, authority: None, more: 0 }
    }

    fn fits(&self, messages: usize, bytes: usize) -> bool {
        self.messages.len() + messages <= GROUP_MAX && self.bytes as usize + bytes <= GROUP_BYTES_MAX
    }
}

/// A request of a [`Group`].
enum Sent {
    /// One message.
    One(u64),
    /// Messages, of which some may have been refused already.
    Batch(u64, Vec<Result<(), Reason>>),
}

impl Sent {
    fn corr_id(&self) -> u64 {
        match self {
            Sent::One(corr_id) | Sent::Batch(corr_id, _) => *corr_id,
        }
    }
}

/// See the module.
#[derive(Default)]
pub(super) struct Outbox {
    /// What the frames that were read together bring.
    gathered: BTreeMap<Topic, Group>,
    /// Queues that are being brought something, and what is to follow.
    lanes: BTreeMap<QueueKey, VecDeque<Group>>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Conn<S> {
    /// Takes a send that is like others that were read with it, without asking for them all anew. Whether it did;
    /// whatever is unusual about it is for [`Conn::call`].
    pub(super) fn one_more(&mut self, frame: &Frame) -> bool {
        let header = frame.header;
        let plain = Header {
            flags: oap::REQ,
            app_proto_id: PROTO_MAILBOX,
            tenant_id: header.tenant_id,
            corr_id: header.corr_id,
            ..Header::default()
        };
        let allowed = |session: &Arc<Session>| session.check_tenant(header.tenant_id).is_ok();
        if header != plain
            || !self.session.as_ref().is_some_and(allowed)
            || self.outbox.gathered.is_empty()
            || self.outstanding.contains_key(&header.corr_id)
        {
            return false;
        }
        let Ok(Request::Enqueue { topic, message }) = oap::read(&frame.payload) else { return false };
        let bytes = message.payload.0.len();
        let Some(group) = self.outbox.gathered.get_mut(topic).filter(|group| group.fits(1, bytes)) else {
            return false;
        };
        if group.authority.as_ref().is_none_or(|authority| authority.check_bytes(bytes).is_err()) {
            return false;
        }
        let corr = corr_text(self.number, header.corr_id);
        let Ok(message) = drafted(message, &frame.payload, corr) else { return false };
        group.messages.push(message);
        group.requests.push(Sent::One(header.corr_id));
        group.bytes += bytes as u64;
        group.more += 1;
        self.begins(header.corr_id, frame.wire_len(), Some(0));
        true
    }

    pub(super) async fn enqueue(
        &mut self,
        session: &Session,
        corr_id: u64,
        topic: &str,
        message: oap::Draft<'_>,
        frame: &Bytes,
    ) -> Result<(), Refusal> {
        let queue = session.queue(topic)?;
        let bytes = message.payload.0.len();
        let judged =
            self.allow(session, corr_id, Op::Enqueue, Some(&queue.topic), Some(bytes as u64)).await?;
        self.app.readiness.admit_send()?;
        let message = drafted(message, frame, corr_text(self.number, corr_id))?;
        let group = self.gather(queue, Sent::One(corr_id), vec![message], bytes);
        group.authority = (!judged.metered).then_some(judged.authority);
        Ok(())
    }

    pub(super) async fn enqueue_batch(
        &mut self,
        session: &Session,
        corr_id: u64,
        topic: &str,
        drafts: Vec<oap::Draft<'_>>,
        frame: &Bytes,
    ) -> Result<(), Refusal> {
        let queue = session.queue(topic)?;
        if drafts.iter().map(|draft| draft.payload.0.len()).sum::<usize>() > BATCH_BYTES_MAX {
            return Err(Refusal::new(Reason::BodyLimit, "the payloads of a batch may have 4 MiB together"));
        }
        let authority = self.allow(session, corr_id, Op::Enqueue, Some(&queue.topic), None).await?.authority;
        self.app.readiness.admit_send()?;
        let corr = corr_text(self.number, corr_id);
        let mut messages = Vec::with_capacity(drafts.len());
        let mut bytes = 0;
        let drafted: Vec<Result<(), Reason>> = drafts
            .into_iter()
            .map(|draft| {
                let len = draft.payload.0.len();
                let message = authority.check_bytes(len).and_then(|()| drafted(draft, frame, corr.clone()));
                let message = message.map_err(|refusal| refusal.reason)?;
                bytes += len;
                messages.push(message);
                Ok(())
            })
            .collect();
        self.gather(queue, Sent::Batch(corr_id, drafted), messages, bytes);
        Ok(())
    }

    fn gather(&mut self, queue: QueueKey, sent: Sent, messages: Vec<NewMessage>, bytes: usize) -> &mut Group {
        let full = |group: &Group| !group.fits(messages.len(), bytes);
        if self.outbox.gathered.get(&queue.topic).is_some_and(full)
            && let Some(group) = self.outbox.gathered.remove(&queue.topic)
        {
            self.bring(group);
        }
        let topic = queue.topic.clone();
        let group = self.outbox.gathered.entry(topic).or_insert_with(|| Group::new(queue));
        group.requests.push(sent);
        group.messages.extend(messages);
        group.bytes += bytes as u64;
        group
    }

    /// Brings what was gathered to its queues.
    pub(super) fn send_off(&mut self) {
        while let Some((_, group)) = self.outbox.gathered.pop_first() {
            self.bring(group);
        }
    }

    fn bring(&mut self, mut group: Group) {
        if let (Some(authority), more @ 1..) = (&group.authority, std::mem::take(&mut group.more)) {
            let QueueKey { tenant, topic } = &group.queue;
            used(&self.app, authority, Op::Enqueue, (tenant, Some(topic)), more, |_| {});
        }
        if let Some(lane) = self.outbox.lanes.get_mut(&group.queue) {
            return lane.push_back(group);
        }
        let queue = group.queue.clone();
        let mut call = submit(self.app.clone(), group).boxed();
        match call.as_mut().now_or_never() {
            Some(done) => self.done(done),
            None => {
                self.outbox.lanes.insert(queue, VecDeque::new());
                self.calls.push(call);
            }
        }
    }

    /// What was being brought to a queue is there, or was refused: the next may follow.
    pub(super) fn arrived(&mut self, queue: &QueueKey) {
        for group in self.outbox.lanes.remove(queue).unwrap_or_default() {
            self.bring(group);
        }
    }
}

/// A draft as a message, checked.
fn drafted(draft: oap::Draft<'_>, frame: &Bytes, corr: String) -> Result<NewMessage, Refusal> {
    let payload = frame.slice_ref(draft.payload.0);
    if payload.len() > PAYLOAD_BYTES_MAX {
        return Err(Refusal::new(Reason::BodyLimit, "a payload may have 1 MiB"));
    }
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    let attrs: Vec<(String, String)> = draft.attrs.0.iter().map(owned).collect();
    let twice =
        |(n, (name, _)): (usize, &(String, String))| attrs[..n].iter().any(|(other, _)| other == name);
    if attrs.iter().enumerate().any(twice) {
        return Err(malformed("attrs must not have a name twice"));
    }
    let checked = Draft {
        content_type: draft.content_type.map(str::to_owned),
        idempotency_key: draft.idempotency_key.map(str::to_owned),
        delay_ms: draft.delay_ms,
        ttl_ms: draft.ttl_ms,
        payload_hash: draft.payload_hash.map(ContentHash),
        body_ref: draft.body_ref.map(ContentHash),
        attrs,
    };
    checked.check(FieldNames::BODY)?;
    checked.check_payload(payload.len())?;
    let hash = ContentHash::of(&payload);
    if checked.payload_hash.is_some_and(|claimed| claimed != hash) {
        return Err(malformed("payload_hash is not the BLAKE3 of the payload that arrived"));
    }
    Ok(checked.into_message(payload, hash, corr))
}

/// Brings a group to its queue, at its tenant's charge; what follows waits for the commit.
async fn submit(app: Arc<OapApp>, group: Group) -> Done {
    let Group { queue, requests, messages, bytes, authority: _, more: _ } = group;
    let submitted = match messages.is_empty() {
        true => Ok(None),
        false => match app.policy.charge_bytes(&queue.tenant, &*app.clock, bytes) {
            Ok(()) => app.mailbox.submit(&queue, messages).await.map(Some).inspect_err(|refusal| {
                app.policy.give_back(&queue.tenant, bytes, refusal);
            }),
            Err(refusal) => Err(refusal),
        },
    };
    let arrived = Some(queue.clone());
    match submitted {
        Ok(submitted) => {
            let next = Some(Next::Always(stored(app, queue, requests, bytes, submitted).boxed()));
            Done { arrived, next, ..Done::default() }
        }
        Err(refusal) => Done { arrived, ..answered(&app, &requests, &Err(refusal)) },
    }
}

async fn stored(
    app: Arc<OapApp>,
    queue: QueueKey,
    requests: Vec<Sent>,
    bytes: u64,
    submitted: Option<Submitted>,
) -> Done {
    let stored = match submitted {
        Some(submitted) => submitted.stored().await,
        None => Ok(Vec::new()),
    };
    if let Err(refusal) = &stored {
        app.policy.give_back(&queue.tenant, bytes, refusal);
    }
    answered(&app, &requests, &stored)
}

/// The answers to the requests of a group.
fn answered(
    app: &OapApp,
    requests: &[Sent],
    stored: &Result<Vec<Result<Enqueued, Reason>>, Refusal>,
) -> Done {
    let mut frames = BytesMut::with_capacity(requests.len() * 64);
    let mut codes = Vec::with_capacity(requests.len());
    let mut next = stored.as_deref().unwrap_or_default().iter().copied();
    let mut next = || next.next().unwrap_or(Err(Reason::Internal));
    for request in requests {
        let corr_id = request.corr_id();
        let code = match (request, stored) {
            (Sent::One(_), Ok(_)) => answered_one(app, corr_id, next(), &mut frames),
            (Sent::Batch(_, drafted), Ok(_)) => {
                let batch = batch(app, drafted, &mut next);
                answer::ok(corr_id, &batch, &mut frames);
                200
            }
            (_, Err(refusal)) => app.answer_refusal((PROTO_MAILBOX, corr_id), refusal, 0, &mut frames),
        };
        codes.push((corr_id, code));
    }
    Done { answered: codes, frames, ..Done::default() }
}

fn answered_one(app: &OapApp, corr_id: u64, done: Result<Enqueued, Reason>, to: &mut BytesMut) -> u16 {
    match done {
        Ok(done) => {
            let (msg_id, durability) = (answer::id(done.msg_id), durability(app, &done));
            answer::ok(corr_id, &oap::Enqueued { msg_id, duplicate: done.duplicate, durability }, to);
            200
        }
        Err(reason) => app.answer_refusal((PROTO_MAILBOX, corr_id), &item_refused(reason), 0, to),
    }
}

fn batch(
    app: &OapApp,
    drafted: &[Result<(), Reason>],
    mut next: impl FnMut() -> Result<Enqueued, Reason>,
) -> oap::EnqueuedBatch {
    let mut safe = oap::Durability::Fsync;
    let results = drafted.iter().map(|one| match one.and_then(|()| next()) {
        Ok(done) => {
            if durability(app, &done) == oap::Durability::Ram {
                safe = oap::Durability::Ram;
            }
            let id = answer::id(done.msg_id);
            if done.duplicate { BatchOutcome::Duplicate(id) } else { BatchOutcome::Stored(id) }
        }
        Err(reason) => {
            app.meter.refused(RouteKind::Api, reason);
            BatchOutcome::Refused(reason.code().to_owned())
        }
    });
    let results = results.collect();
    oap::EnqueuedBatch { durability: safe, results }
}

fn durability(app: &OapApp, done: &Enqueued) -> oap::Durability {
    if done.msg_id.slot().is_ram() { oap::Durability::Ram } else { app.durability() }
}
