//! The open loop: operations begin on a schedule, over either way in. For `enqueue` each is a send; for `cycle` senders
//! keep to the schedule while consumers beside them receive and ack, and what counts is how long a message takes from
//! when it should have been sent until a consumer has it.

use super::load::{Load, Miss, Requests, Tally, Work, expect, expect_ok, opened, total};
use super::oap::{self, Outstanding, Span, stored};
use super::pace::{Alarm, Arrival, Arrivals};
use super::site::Proto;
use super::wire::{Wire, field, post};
use crate::ambient;
use crate::failure::{Failure, failed};
use data_encoding::BASE64;
use futures::future::{Either, join_all};
use ron_client::oap::{Bounded, Delivered, Draft, END, Raw, Receipt, Request, Settled};
use ron_client::{Answer, Connection, Error};
use serde::Deserialize;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Instant;
use tokio::sync::watch;

/// Topics of a cycle, at most: each has a consumer of its own.
pub(super) const TOPICS_MAX: u32 = 64;
/// Requests outstanding on a connection, at most: half of what the node lets in.
const WINDOW: usize = 512;
/// Deliveries of a consumer, at most.
const CREDIT: u32 = 256;
/// Consumers, unless there are more topics.
const CONSUMERS: usize = 8;
/// The steps of a message: until its send is answered, and until a consumer has it.
const STEPS: [&str; 2] = ["enqueue", "delivery"];

/// Runs the load and counts. `done` is raised as operations end, for whoever watches.
///
/// # Errors
/// If a connection cannot be opened at the start, or the node stops answering.
pub(super) async fn run(
    load: &Load,
    work: Work,
    proto: Proto,
    per_s: u32,
    done: Rc<Cell<u64>>,
) -> Result<Tally, Failure> {
    let consumers = if work == Work::Cycle { CONSUMERS.max(load.topics) } else { 0 };
    let size = load.size.max(Tag::BYTES);
    let load = Load { size, connections: load.connections + consumers, ..load.clone() };
    let mut ways = open(&load, proto).await?;
    let began = ambient::now();
    let span = Span { starts: began + load.warmup, ends: began + load.warmup + load.duration };
    let (all, _) = watch::channel(false);
    let course = Course {
        work,
        span,
        arrivals: Arrivals::new(began, span, per_s),
        tag: Tag(u64::from_be_bytes(ambient::random()?)),
        body: Requests::payload(&load)?,
        topics: (0..load.topics).map(|topic| load.topic(topic)).collect(),
        done,
        sending: Cell::new(ways.len() - consumers),
        accepted: Cell::new(0),
        received: Cell::new(0),
        all,
    };
    let (course, load) = (&course, &load);
    let receiving = ways.split_off(ways.len() - consumers).into_iter().enumerate();
    let receivers = receiving.map(|(n, way)| Either::Left(consume(course, load, way, n % load.topics)));
    let senders = ways.into_iter().map(|way| Either::Right(send(course, load, way)));
    let steps = if work == Work::Cycle { &STEPS[..] } else { &STEPS[..1] };
    total(load, Tally::of(steps)?, senders.chain(receivers)).await
}

/// A connection of either kind.
enum Way {
    Http(Box<Wire>),
    Oap(Box<Connection>),
}

async fn open(load: &Load, proto: Proto) -> Result<Vec<Way>, Failure> {
    match proto {
        Proto::Http => {
            let mut wires: Vec<Wire> = (0..load.connections).map(|_| Wire::new(&load.address)).collect();
            opened(&load.address, join_all(wires.iter_mut().map(Wire::open)).await)?;
            Ok(wires.into_iter().map(|wire| Way::Http(Box::new(wire))).collect())
        }
        Proto::Oap => Ok(oap::open(load).await?.into_iter().map(|one| Way::Oap(Box::new(one))).collect()),
    }
}

/// What all connections of a run share.
struct Course {
    work: Work,
    span: Span,
    arrivals: Arrivals,
    tag: Tag,
    body: Vec<u8>,
    topics: Vec<String>,
    done: Rc<Cell<u64>>,
    /// Senders that are not at their end.
    sending: Cell<usize>,
    /// Sends that were stored, and of those how many were received.
    accepted: Cell<u64>,
    received: Cell<u64>,
    /// Told when all is received that was sent.
    all: watch::Sender<bool>,
}

/// Names the run in each message, before its number, so that what others left in a topic does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Tag(u64);

impl Tag {
    const BYTES: usize = 16;

    fn write(self, number: u64, body: &mut [u8]) {
        if let Some((tag, rest)) = body.split_first_chunk_mut::<8>() {
            *tag = self.0.to_be_bytes();
            if let Some(place) = rest.first_chunk_mut::<8>() {
                *place = number.to_be_bytes();
            }
        }
    }

    fn read(self, body: &[u8]) -> Option<u64> {
        let (tag, rest) = body.split_first_chunk::<8>()?;
        (u64::from_be_bytes(*tag) == self.0).then(|| rest.first_chunk().map(|n| u64::from_be_bytes(*n)))?
    }
}

impl Course {
    fn body(&self, arrival: Arrival) -> Vec<u8> {
        let mut body = self.body.clone();
        self.tag.write(arrival.number, &mut body);
        body
    }

    fn topic(&self, arrival: Arrival) -> &str {
        &self.topics[(arrival.number % self.topics.len() as u64) as usize]
    }

    /// A send was answered.
    fn sent(&self, tally: &mut Tally, due: Instant, result: Result<(), Miss>) {
        let counts = self.span.counts(due);
        match result {
            Ok(()) => {
                self.accepted.set(self.accepted.get() + 1);
                let now = ambient::now();
                if counts {
                    tally.record(0, now - due);
                }
                if self.work != Work::Cycle {
                    self.ended(tally, counts, now);
                }
            }
            Err(miss) if counts => tally.miss(miss),
            Err(_) => {}
        }
    }

    /// A message was received.
    fn got(&self, tally: &mut Tally, payload: &[u8]) {
        let Some(number) = self.tag.read(payload) else { return };
        self.received.set(self.received.get() + 1);
        let (due, now) = (self.arrivals.due(number), ambient::now());
        let counts = self.span.counts(due);
        if counts {
            tally.record(1, now - due);
        }
        self.ended(tally, counts, now);
    }

    fn ended(&self, tally: &mut Tally, counts: bool, now: Instant) {
        if counts {
            tally.done += 1;
        }
        if self.span.counts(now) {
            *tally.ended.get_or_insert(0) += 1;
            self.done.set(self.done.get() + 1);
        }
    }

    fn sender_ended(&self) {
        self.sending.set(self.sending.get() - 1);
        self.look();
    }

    /// Tells the consumers when nothing more will come.
    fn look(&self) {
        if self.sending.get() == 0 && self.received.get() >= self.accepted.get() {
            self.all.send_replace(true);
        }
    }
}

async fn send(course: &Course, load: &Load, way: Way) -> Result<Tally, Failure> {
    let mut tally = Tally::of(if course.work == Work::Cycle { &STEPS } else { &STEPS[..1] })?;
    let alarm = Alarm::new()?;
    match way {
        Way::Http(wire) => send_http(course, load, *wire, &alarm, &mut tally).await?,
        Way::Oap(connection) => {
            let sent = send_oap(course, *connection, &alarm, &mut tally).await;
            sent.map_err(|error| failed(format!("a connection ended: {error}")))?;
        }
    }
    course.sender_ended();
    Ok(tally)
}

async fn send_http(
    course: &Course,
    load: &Load,
    mut wire: Wire,
    alarm: &Alarm,
    tally: &mut Tally,
) -> Result<(), Failure> {
    while let Some(arrival) = course.arrivals.take() {
        alarm.until(arrival.due).await.map_err(|err| failed(format!("a timer: {err}")))?;
        let path = format!("/v1/{}/{}/enqueue", load.tenant, course.topic(arrival));
        let body = course.body(arrival);
        let request = post(&load.address, &path, Some(&load.token), "application/octet-stream", &body);
        let result = match wire.exchange(&request).await {
            Ok(reply) => expect(Work::Enqueue, reply.status, reply.body),
            Err(error) => Err(error.into()),
        };
        course.sent(tally, arrival.due, result);
    }
    Ok(())
}

async fn send_oap(
    course: &Course,
    mut connection: Connection,
    alarm: &Alarm,
    tally: &mut Tally,
) -> Result<(), Error> {
    let mut under_way = Outstanding::default();
    let mut next = course.arrivals.take();
    while next.is_some() || !under_way.0.is_empty() {
        let now = ambient::now();
        while let Some(arrival) = next.filter(|arrival| arrival.due <= now && under_way.0.len() < WINDOW) {
            let body = course.body(arrival);
            let message = Draft { payload: Raw(&body), ..Draft::default() };
            let corr_id = connection.write(&Request::Enqueue { topic: course.topic(arrival), message })?;
            under_way.0.push_back((corr_id, arrival.due));
            next = course.arrivals.take();
        }
        connection.flush().await?;
        let due = next.filter(|_| under_way.0.len() < WINDOW).map(|arrival| arrival.due);
        let answer = tokio::select! {
            answer = connection.next(), if !under_way.0.is_empty() => Some(answer?),
            rung = alarm.until(due.unwrap_or(now)), if due.is_some() => {
                rung?;
                None
            }
        };
        let mut answer = answer;
        while let Some(one) = answer {
            let due = under_way.take(one.header.corr_id)?;
            course.sent(tally, due, stored(&one));
            answer = connection.buffered()?;
        }
    }
    Ok(())
}

async fn consume(course: &Course, load: &Load, way: Way, topic: usize) -> Result<Tally, Failure> {
    let mut tally = Tally::of(&STEPS)?;
    let mut all = course.all.subscribe();
    let consuming = async {
        match way {
            Way::Http(wire) => consume_http(course, load, *wire, topic, &mut tally).await,
            Way::Oap(connection) => {
                let consumed = consume_oap(course, *connection, topic, &mut tally).await;
                consumed.map_err(|error| failed(format!("a connection ended: {error}")))
            }
        }
    };
    tokio::select! {
        biased;
        ended = consuming => ended?,
        _ = all.wait_for(|all| *all) => {}
    }
    Ok(tally)
}

async fn consume_oap(
    course: &Course,
    mut connection: Connection,
    topic: usize,
    tally: &mut Tally,
) -> Result<(), Error> {
    let topic = course.topics[topic].as_str();
    let asked = Request::Subscribe { topic, credit: CREDIT, visibility_ms: Some(60_000) };
    let subscription = connection.write(&asked)?;
    loop {
        connection.flush().await?;
        let mut came = Some(connection.next().await?);
        while let Some(one) = came {
            if one.is_event() {
                let held = delivered(course, &one, tally)?;
                connection.write(&Request::Ack { topic, receipts: Bounded(held) })?;
            } else if one.header.corr_id == subscription {
                one.accepted()?;
                if one.header.has(END) {
                    return Err(Error::Protocol("the node ended a subscription"));
                }
            } else {
                let refused = one.read::<Settled>()?.results.into_iter().flatten();
                refused.for_each(|reason| tally.miss(Miss(reason)));
                course.look();
            }
            came = connection.buffered()?;
        }
    }
}

fn delivered(course: &Course, event: &Answer, tally: &mut Tally) -> Result<Vec<Receipt>, Error> {
    let messages: Vec<Delivered<'_>> = event.read()?;
    messages.iter().for_each(|message| course.got(tally, message.payload.0));
    Ok(messages.iter().map(|message| message.receipt).collect())
}

async fn consume_http(
    course: &Course,
    load: &Load,
    mut wire: Wire,
    topic: usize,
    tally: &mut Tally,
) -> Result<(), Failure> {
    #[derive(Deserialize)]
    struct Received {
        messages: Vec<BTreeMap<String, serde_json::Value>>,
    }
    let call = |what: &str, body: String| {
        let path = format!("{}/{what}", load.path(topic));
        post(&load.address, &path, Some(&load.token), "application/json", body.as_bytes())
    };
    // as many as fit into an answer that is read
    let most = (1_000_000 / (2 * load.size + 1_000)).clamp(1, CREDIT as usize);
    let recv = call("recv", format!("{{\"max_messages\":{most},\"wait_ms\":5000,\"visibility_ms\":60000}}"));
    loop {
        let broken = |err: std::io::Error| failed(format!("a connection ended: {err}"));
        let reply = wire.exchange(&recv).await.map_err(broken)?;
        if let Err(miss) = expect_ok(reply.status, reply.body) {
            return Err(failed(format!("a receive was refused: {}", miss.0)));
        }
        let received: Received =
            serde_json::from_slice(reply.body).map_err(|err| failed(format!("a receive's answer: {err}")))?;
        let text = |message: &BTreeMap<_, serde_json::Value>, name: &str| {
            message.get(name).and_then(|value| value.as_str()).unwrap_or_default().to_owned()
        };
        for message in &received.messages {
            let payload = BASE64.decode(text(message, "payload_b64").as_bytes()).unwrap_or_default();
            course.got(tally, &payload);
        }
        if received.messages.is_empty() {
            continue;
        }
        let receipts: Vec<String> =
            received.messages.iter().map(|message| text(message, "receipt")).collect();
        let ack = call("ack", serde_json::json!({ "receipts": receipts }).to_string());
        let reply = wire.exchange(&ack).await.map_err(broken)?;
        let refused = expect_ok(reply.status, reply.body).err();
        let reason = field(reply.body, b"\"reason\"").map(|reason| Miss(reason.to_owned()));
        if let Some(miss) = refused.or(reason) {
            tally.miss(miss);
        }
        course.look();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_names_its_run_and_its_number() {
        let (tag, mut body) = (Tag(7), vec![0xff; 20]);
        tag.write(300, &mut body);
        assert_eq!(tag.read(&body), Some(300));
        assert_eq!(Tag(8).read(&body), None, "of another run");
        assert_eq!(tag.read(&body[..15]), None, "too short to be one");
        assert_eq!(body[16..], [0xff; 4]);
    }
}
