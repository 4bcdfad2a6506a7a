//! Receives, streams and looks, as a client does them.

use super::client::{Client, read_time};
use super::ops::{Get, How};
use super::world::{Complaint, Held};
use ron_actors::mailbox::{Delivery, Fate};
use ron_core::envelope::Envelope;
use ron_core::ids::MessageId;
use ron_core::message::Phase;
use ron_core::reason::{Reason, Refusal};
use ron_core::shard::PeekState;
use ron_history::record::{Delivered, Letter, Op, Out, Seen, State};
use std::time::Duration;

/// Receipts that a client keeps.
const HELD_MAX: usize = 100;

fn state_of(state: PeekState) -> State {
    match state {
        PeekState::Ready => State::Ready,
        PeekState::Delayed => State::Delayed,
        PeekState::Vis => State::Vis,
        PeekState::Dlq => State::Dlq,
    }
}

impl Client {
    fn begin_recv(&self, queue: usize, get: &Get, stream: Option<(u64, u64)>) -> u64 {
        let op = Op::Recv {
            queue: queue as u32,
            visibility_ms: get.want.visibility_ms,
            wait_ms: get.wait_ms,
            most: u64::from(get.want.max_messages),
            dropped: get.dropped,
            stream,
        };
        self.begin(op)
    }

    pub(super) async fn recv(&self, queue: usize, get: Get) -> Result<(), Complaint> {
        let call = self.begin_recv(queue, &get, None);
        let key = &self.world.queues[queue];
        let receive = self.mailbox.recv(key, get.want, Duration::from_millis(get.wait_ms));
        let answer = match get.cancel_ms {
            None => receive.await,
            Some(ms) => match tokio::time::timeout(Duration::from_millis(ms), receive).await {
                Ok(answer) => answer,
                Err(_) => {
                    self.end(call, "recv-cancelled", Out::Unknown("cancelled".to_owned()));
                    return Ok(());
                }
            },
        };
        self.received(call, queue, &get, answer).map(|_| ())
    }

    /// Records what a receive was answered; how many messages it was.
    fn received(
        &self,
        call: u64,
        queue: usize,
        get: &Get,
        answer: Result<Delivery, Refusal>,
    ) -> Result<Vec<Held>, Complaint> {
        let delivery = match answer {
            Ok(delivery) => delivery,
            Err(refusal) => return self.refused(call, "recv", &refusal).map(|()| Vec::new()),
        };
        let what = match (delivery.messages.is_empty(), get.dropped) {
            (true, _) => "recv-empty",
            (false, true) => "recv-dropped",
            (false, false) => "received",
        };
        let mut all = Vec::new();
        let mut held = Vec::new();
        for envelope in delivery.messages.iter().map(Envelope::from) {
            let envelope = &envelope;
            let sight = self.sight(queue, envelope)?;
            let deadline = envelope.deadline.as_deref().and_then(read_time).ok_or("no deadline")?;
            let receipt = envelope.receipt.clone().ok_or("no receipt")?;
            self.count(if envelope.delivery > 1 { "message redelivered" } else { "message delivered" });
            let msg_id = envelope.msg_id.clone();
            held.push(Held { queue, msg_id, delivery: envelope.delivery, receipt });
            all.push(Delivered {
                id: envelope.msg_id.clone(),
                content: sight.content,
                hash: sight.hash,
                key: envelope.idempotency_key.clone(),
                enqueued: sight.enqueued,
                attempt: u64::from(envelope.attempt),
                delivery: u64::from(envelope.delivery),
                deadline: deadline.0,
            });
        }
        self.end(call, what, Out::Received(all));
        if get.dropped {
            return Ok(Vec::new());
        }
        {
            let mut inner = self.world.lock();
            let kept = &mut inner.clients[self.me].held;
            held.iter().for_each(|one| {
                if kept.len() < HELD_MAX {
                    kept.push(one.clone());
                }
            });
        }
        delivery.written();
        Ok(held)
    }

    /// Opens a stream, takes some of it, settles some of that, and closes it.
    pub(super) async fn stream(
        &self,
        queue: usize,
        max_inflight: u32,
        rounds: u64,
        get: Get,
    ) -> Result<(), Complaint> {
        let mut stream = match self.mailbox.open_stream(&self.world.queues[queue], max_inflight).await {
            Ok(stream) => stream,
            // an opening that is refused has no effect that anybody could see
            Err(refusal) if refusal.reason == Reason::Backpressure => return Ok(()),
            Err(_) if !self.world.plan.calm() || self.world.lock().stopping => return Ok(()),
            Err(_) if self.world.plan.weights.end > 0 => return Ok(()),
            Err(refusal) => return Err(format!("no stream: {refusal:?}")),
        };
        self.count("stream");
        let number = self.world.lock().log.next_call();
        let get = Get { cancel_ms: None, dropped: false, ..get };
        for _ in 0..rounds {
            let call = self.begin_recv(queue, &get, Some((number, u64::from(max_inflight))));
            let answer = stream.next(get.want, Duration::from_millis(get.wait_ms)).await;
            let over = answer.is_err();
            let held = self.received(call, queue, &get, answer)?;
            if over {
                return Ok(());
            }
            let some: Vec<Held> = {
                let mut inner = self.world.lock();
                let rng = &mut inner.clients[self.me].rng;
                held.into_iter().filter(|_| rng.chance(60)).collect()
            };
            let (acked, extended): (Vec<Held>, Vec<Held>) = {
                let mut inner = self.world.lock();
                let rng = &mut inner.clients[self.me].rng;
                some.into_iter().partition(|_| rng.chance(60))
            };
            if !acked.is_empty() {
                self.settle(queue, How::Ack, acked).await?;
            }
            if !extended.is_empty() {
                self.settle(queue, How::Extend(60_000), extended).await?;
            }
        }
        Ok(())
    }

    pub(super) async fn stat(&self, queue: usize) -> Result<(), Complaint> {
        let call = self.begin(Op::Stat { queue: queue as u32 });
        match self.mailbox.stat(&self.world.queues[queue]).await {
            Ok(stat) => {
                let s = stat.stats;
                let out = Out::Figures { ready: s.ready, delayed: s.delayed, vis: s.vis, dlq: s.dlq };
                self.end(call, "stat", out);
            }
            Err(refusal) => return self.refused(call, "stat", &refusal),
        }
        self.mailbox.check(&self.world.queues[queue]).await.map_err(|violation| violation.to_string())
    }

    /// A page of the first `limit` messages in a state.
    pub(super) async fn peek(
        &self,
        queue: usize,
        state: PeekState,
        limit: u32,
    ) -> Result<Vec<String>, Complaint> {
        let call = self.begin(Op::Peek { queue: queue as u32, state: state_of(state) });
        let page = match self.mailbox.peek(&self.world.queues[queue], state, limit, None).await {
            Ok(page) => page,
            Err(refusal) => return self.refused(call, "peek", &refusal).map(|()| Vec::new()),
        };
        let mut all = Vec::new();
        for envelope in &page.messages {
            let sight = self.sight(queue, envelope)?;
            let letter = envelope.dead_letter.as_ref().map(|letter| Letter {
                reason: letter.reason.clone(),
                at: read_time(&letter.at).map_or(0, |at| at.0),
            });
            if (state == PeekState::Vis) != envelope.deadline.is_some() || envelope.receipt.is_some() {
                return Err(format!("{}: a peek of {state:?} shows {envelope:?}", envelope.msg_id));
            }
            all.push(Seen {
                id: envelope.msg_id.clone(),
                content: sight.content,
                hash: sight.hash,
                enqueued: sight.enqueued,
                attempt: u64::from(envelope.attempt),
                delivery: Some(u64::from(envelope.delivery)),
                letter,
            });
        }
        let ids: Vec<String> = all.iter().map(|seen| seen.id.clone()).collect();
        if state == PeekState::Dlq {
            self.world.lock().known[queue].dead.clone_from(&ids);
        }
        self.end(call, &format!("peek {state:?}"), Out::Page(all));
        Ok(ids)
    }

    pub(super) async fn look(&self, queue: usize, id: String) -> Result<(), Complaint> {
        let parsed = MessageId::parse(&id).map_err(|bad| bad.to_string())?;
        let call = self.begin(Op::Look { queue: queue as u32, id });
        match self.mailbox.message(&self.world.queues[queue], parsed).await {
            Ok(found) => {
                let state = match found.fate {
                    Fate::Live(Phase::Ready) => State::Ready,
                    Fate::Live(Phase::Delayed) => State::Delayed,
                    Fate::Live(Phase::Leased) => State::Vis,
                    Fate::Live(Phase::Dead) => State::Dlq,
                    Fate::Ended(_) => State::Ended,
                };
                let out = Out::Looked { state, attempt: u64::from(found.attempts) };
                self.end(call, &format!("look {state:?}"), out);
                Ok(())
            }
            Err(refusal) => self.refused(call, "look", &refusal),
        }
    }
}
