//! The demo's main step: many senders at work, the node killed with SIGKILL in the middle, restarted, and
//! every message that was answered is received once, with its bytes. Senders do what real ones do: they retry
//! what was not answered, under the same key.

use super::stage::{self, Accepted, Stage, ensure, path};
use crate::ambient::{self, unix_seconds};
use crate::client::{Call, Client};
use crate::failure::{Failure, failed};
use crate::sender::{Kind, Sender};
use data_encoding::HEXLOWER;
use futures::future::join_all;
use hdrhistogram::Histogram;
use ron_client::Delivery;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::Notify;

/// Where API clients send to; webhooks go to their provider's topic.
const TOPIC: &str = "orders";

/// The provider whose webhooks are half of the load: its ids are signed, so retries are recognised by them.
const PROVIDER: Kind = Kind::StandardWebhooks;

/// Which way in a message takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Api,
    Webhook,
}

/// A message of the load and what became of it.
struct Parcel {
    way: Way,
    key: String,
    body: Vec<u8>,
    /// Whether it was sent at least once.
    sent: Cell<bool>,
    /// The answer, once there is one.
    answered: RefCell<Option<Accepted>>,
}

/// The load, shared by its senders.
pub(super) struct Load {
    parcels: Vec<Parcel>,
    connections: usize,
    in_flight: Cell<usize>,
    done: Cell<usize>,
    half: Notify,
    latency: RefCell<Histogram<u64>>,
}

/// What the senders saw before the node was killed.
pub(super) struct Before {
    /// Answered 2xx.
    pub(super) answered: usize,
    /// Sent and not answered when the node died.
    pub(super) in_flight: usize,
}

/// What the senders saw after the node was back.
pub(super) struct After {
    /// Retried because no answer had come.
    pub(super) retried: usize,
    /// Of these, stored before the kill and recognised.
    pub(super) recognised: usize,
    /// Median and 99th percentile of all answers, ms.
    pub(super) p50_ms: f64,
    /// See `p50_ms`.
    pub(super) p99_ms: f64,
    /// Answers a second after the restart.
    pub(super) rate_per_s: f64,
}

impl Load {
    /// `messages` different messages for `connections` senders, half of them API sends, half webhooks.
    ///
    /// # Errors
    /// If the system gives no random bytes.
    pub(super) fn new(messages: usize, connections: usize) -> Result<Load, Failure> {
        let parcel = |n: usize| {
            let key = HEXLOWER.encode(&ambient::random::<12>()?);
            let way = if n.is_multiple_of(2) { Way::Api } else { Way::Webhook };
            let body = match way {
                Way::Api => [&ambient::random::<192>()?[..], key.as_bytes()].concat(),
                Way::Webhook => PROVIDER.event(&key),
            };
            Ok(Parcel { way, key, body, sent: Cell::new(false), answered: RefCell::new(None) })
        };
        let latency = Histogram::new_with_bounds(1, 60_000_000, 3);
        Ok(Load {
            parcels: (0..messages).map(parcel).collect::<Result<_, Failure>>()?,
            connections,
            in_flight: Cell::new(0),
            done: Cell::new(0),
            half: Notify::new(),
            latency: RefCell::new(latency.map_err(|err| failed(format!("a histogram: {err}")))?),
        })
    }

    /// Sends until half is answered, and kills the node then, in the middle of the rest.
    ///
    /// # Errors
    /// If the node refuses a message, or was killed with nothing in flight.
    pub(super) async fn until_killed(&self, stage: &mut Stage) -> Result<Before, Failure> {
        let lanes = self.lanes(stage)?;
        let sending = join_all(lanes);
        tokio::pin!(sending);
        tokio::select! {
            () = self.half.notified() => {}
            ended = &mut sending => {
                first_error(ended)?;
                return Err(failed("all messages were answered before the kill"));
            }
        }
        let (answered, in_flight) = (self.done.get(), self.in_flight.get());
        stage.node.kill()?;
        // answers that had already left may still be read; every other call breaks
        let ended = tokio::time::timeout(Duration::from_secs(10), sending).await;
        first_error(ended.map_err(|_| failed("a sender did not notice that the node is gone"))?)?;
        ensure(in_flight > 0, || "the node was killed with nothing in flight".to_owned())?;
        Ok(Before { answered: answered.max(self.done.get()), in_flight })
    }

    /// Sends again what was not answered, under the same keys, until all is.
    ///
    /// # Errors
    /// If a message is refused.
    pub(super) async fn retry(&self, stage: &Stage) -> Result<After, Failure> {
        let open: Vec<bool> = self.parcels.iter().map(|parcel| parcel.answered.borrow().is_none()).collect();
        let retried =
            self.parcels.iter().zip(&open).filter(|(parcel, open)| **open && parcel.sent.get()).count();
        let began = ambient::now();
        first_error(join_all(self.lanes(stage)?).await)?;
        let took = began.elapsed().as_secs_f64();
        let recognised =
            self.parcels.iter().zip(&open).filter(|(parcel, open)| **open && parcel.is_duplicate());
        let latency = self.latency.borrow();
        let at = |quantile| latency.value_at_quantile(quantile) as f64 / 1e3;
        Ok(After {
            retried,
            recognised: recognised.count(),
            p50_ms: at(0.5),
            p99_ms: at(0.99),
            rate_per_s: open.iter().filter(|open| **open).count() as f64 / took,
        })
    }

    /// Receives and acks all there is; every answered message must be there once, with its bytes, and nothing
    /// else.
    ///
    /// # Errors
    /// What is missing, doubled, changed or unknown.
    pub(super) async fn all_there(&self, stage: &Stage) -> Result<usize, Failure> {
        let mut expected = BTreeMap::new();
        for parcel in &self.parcels {
            if let Some(accepted) = &*parcel.answered.borrow() {
                expected.insert(accepted.msg_id.clone(), parcel.body.as_slice());
            }
        }
        ensure(expected.len() == self.parcels.len(), || "two messages have one msg_id".to_owned())?;
        let consumer = stage.consumer()?;
        let mut received = 0;
        for topic in [TOPIC, PROVIDER.name()] {
            loop {
                let deliveries = drain(&consumer, topic).await?;
                if deliveries.is_empty() {
                    break;
                }
                for delivered in &deliveries {
                    let id = &delivered.msg_id.to_string();
                    let body =
                        expected.remove(id).ok_or_else(|| failed(format!("{id} came twice, or unasked")))?;
                    ensure(delivered.payload == body, || format!("{id} came out with other bytes"))?;
                    received += 1;
                }
                stage::ack(&consumer, topic, &deliveries).await?;
            }
        }
        ensure(expected.is_empty(), || format!("{} answered messages are lost", expected.len()))?;
        Ok(received)
    }

    /// The senders: each has a connection and every n-th message that is not answered yet.
    fn lanes(
        &self,
        stage: &Stage,
    ) -> Result<Vec<impl Future<Output = Result<(), Failure>> + use<'_>>, Failure> {
        let mut lanes = Vec::new();
        for lane in 0..self.connections {
            let doors = (stage.mailbox()?, stage.interop()?);
            lanes.push(self.lane(lane, stage.sender(PROVIDER)?.clone(), doors));
        }
        Ok(lanes)
    }

    async fn lane(&self, lane: usize, sender: Sender, doors: (Client, Client)) -> Result<(), Failure> {
        let (mut mailbox, mut interop) = doors;
        for parcel in self.parcels.iter().skip(lane).step_by(self.connections) {
            if parcel.answered.borrow().is_some() {
                continue;
            }
            let began = ambient::now();
            parcel.sent.set(true);
            self.in_flight.set(self.in_flight.get() + 1);
            let answer = match parcel.way {
                Way::Api => mailbox.call(parcel.enqueue()).await,
                Way::Webhook => interop.call(sender.webhook(&parcel.key, unix_seconds(), &parcel.body)).await,
            };
            self.in_flight.set(self.in_flight.get() - 1);
            // the connection broke: the node is dead, and whether this one is stored will be seen
            let Ok(answer) = answer else { return Ok(()) };
            let accepted: Accepted = answer.read()?;
            let durable = parcel.way == Way::Webhook || accepted.durability.as_deref() == Some("fsync");
            ensure(durable, || format!("a send was answered {accepted:?}, not `fsync`"))?;
            self.latency.borrow_mut().saturating_record(began.elapsed().as_micros() as u64);
            *parcel.answered.borrow_mut() = Some(accepted);
            self.done.set(self.done.get() + 1);
            if self.done.get() == self.parcels.len() / 2 {
                self.half.notify_one();
            }
        }
        Ok(())
    }
}

impl Parcel {
    fn enqueue(&self) -> Call {
        Call::post(path(TOPIC, "/enqueue"), self.body.clone()).header("idempotency-key", self.key.as_str())
    }

    fn is_duplicate(&self) -> bool {
        self.answered.borrow().as_ref().is_some_and(|accepted| accepted.duplicate)
    }
}

async fn drain(consumer: &ron_client::Client, topic: &str) -> Result<Vec<Delivery>, Failure> {
    stage::recv(consumer, topic, 256, Duration::ZERO, Duration::from_secs(60)).await
}

fn first_error(results: Vec<Result<(), Failure>>) -> Result<(), Failure> {
    results.into_iter().collect()
}
