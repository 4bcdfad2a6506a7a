//! The load: connections that each keep one operation outstanding (a closed loop), for a time.

use super::wire::{Wire, field, post, signed};
use crate::ambient;
use crate::failure::{Failure, failed};
use crate::sender::Sender;
use clap::ValueEnum;
use data_encoding::HEXLOWER;
use futures::future::join_all;
use hdrhistogram::Histogram;
use ron_client::Tls;
use serde::Serialize;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::time::timeout;

/// The slowest operation that the histograms can hold, in microseconds.
const SLOWEST_US: u64 = 60_000_000;

/// How long the last answers may take after the time is over.
const GRACE: Duration = Duration::from_secs(30);

/// What one operation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(super) enum Work {
    /// A durable send.
    Enqueue,
    /// A durable send, a receive, and an ack.
    Cycle,
    /// The node's route with the same middleware, checks and sizes as a send, but no store.
    Discard,
    /// The node's bare 204.
    Empty,
    /// A provider's signed webhook, verified and stored.
    Webhook,
}

impl Work {
    /// Its name in reports.
    #[must_use]
    pub(super) fn name(self) -> &'static str {
        match self {
            Work::Enqueue => "enqueue",
            Work::Cycle => "cycle",
            Work::Discard => "discard",
            Work::Empty => "empty",
            Work::Webhook => "webhook",
        }
    }
}

/// What to do, where, and for how long.
#[derive(Debug, Clone)]
pub(super) struct Load {
    /// `IP:PORT` of the mailbox listener.
    pub(super) address: String,
    /// A capability for the topics.
    pub(super) token: String,
    /// How it is spoken to in TLS, if it is; over OAP/1.
    pub(super) tls: Option<Tls>,
    /// Whose topics.
    pub(super) tenant: String,
    /// Who signs webhooks, for [`Work::Webhook`].
    pub(super) sender: Option<Sender>,
    /// Starts the topics' names.
    pub(super) prefix: String,
    /// How many topics the operations go round.
    pub(super) topics: usize,
    /// Bytes of a message.
    pub(super) size: usize,
    /// How many connections.
    pub(super) connections: usize,
    /// Operations that each of them keeps outstanding.
    pub(super) outstanding: usize,
    /// Runs before anything is counted.
    pub(super) warmup: Duration,
    /// What is counted.
    pub(super) duration: Duration,
}

/// What a run counted.
#[derive(Debug)]
pub(super) struct Tally {
    /// Operations that were answered as they should be, within the time.
    pub(super) done: u64,
    /// Latencies in microseconds by step; the last is the whole operation.
    pub(super) steps: Vec<(&'static str, Histogram<u64>)>,
    /// Operations that were not, by reason.
    pub(super) errors: BTreeMap<String, u64>,
    /// Processor time that this program used for all of it, warm-up included; what the node could not have.
    pub(super) own_cpu: Duration,
    /// Operations that ended within the time, whenever they should have begun; only of an open loop, which may be late.
    pub(super) ended: Option<u64>,
}

impl Tally {
    pub(super) fn new(work: Work) -> Result<Tally, Failure> {
        match work {
            Work::Cycle => Tally::of(&["enqueue", "recv", "ack", "cycle"]),
            Work::Enqueue | Work::Discard | Work::Empty | Work::Webhook => Tally::of(&[work.name()]),
        }
    }

    /// Nothing yet, of these steps.
    pub(super) fn of(names: &[&'static str]) -> Result<Tally, Failure> {
        let histogram = || Histogram::new_with_bounds(1, SLOWEST_US, 3);
        let steps = names.iter().map(|&name| Ok((name, histogram()?))).collect::<Result<_, _>>();
        let steps =
            steps.map_err(|err: hdrhistogram::CreationError| failed(format!("a histogram: {err}")))?;
        Ok(Tally { done: 0, steps, errors: BTreeMap::new(), own_cpu: Duration::ZERO, ended: None })
    }

    /// Counts an operation that ended, and how long its steps took.
    pub(super) fn count(&mut self, result: Result<(), Miss>, steps: &[Duration]) {
        match result {
            Ok(()) => {
                self.done += 1;
                for (step, took) in steps.iter().enumerate() {
                    self.record(step, *took);
                }
            }
            Err(miss) => self.miss(miss),
        }
    }

    /// How long a step took.
    pub(super) fn record(&mut self, step: usize, took: Duration) {
        if let Some((_, histogram)) = self.steps.get_mut(step) {
            histogram.saturating_record(u64::try_from(took.as_micros()).unwrap_or(SLOWEST_US));
        }
    }

    /// Counts an operation that does not count.
    pub(super) fn miss(&mut self, Miss(reason): Miss) {
        *self.errors.entry(reason).or_default() += 1;
    }

    pub(super) fn merge(&mut self, other: &Tally) -> Result<(), Failure> {
        self.done += other.done;
        if let Some(ended) = other.ended {
            *self.ended.get_or_insert(0) += ended;
        }
        for ((_, mine), (_, theirs)) in self.steps.iter_mut().zip(&other.steps) {
            mine.add(theirs).map_err(|err| failed(format!("adding histograms: {err}")))?;
        }
        for (reason, n) in &other.errors {
            *self.errors.entry(reason.clone()).or_default() += n;
        }
        Ok(())
    }
}

/// The requests of a run, built once and shared by its connections.
#[derive(Debug)]
pub(super) struct Requests {
    /// One a topic; one in all where the work has no topics.
    first: Vec<Vec<u8>>,
    /// One a topic, for [`Work::Cycle`].
    recv: Vec<Vec<u8>>,
}

impl Requests {
    /// The bytes of every message.
    ///
    /// # Errors
    /// If there is nothing random.
    pub(super) fn payload(load: &Load) -> Result<Vec<u8>, Failure> {
        Ok(ambient::random::<64>()?.iter().copied().cycle().take(load.size).collect())
    }

    fn new(load: &Load, work: Work) -> Result<Requests, Failure> {
        let body = Requests::payload(load)?;
        let binary = "application/octet-stream";
        let post_to = |path: &str, body: &[u8]| post(&load.address, path, Some(&load.token), binary, body);
        let each_topic = |what: fn(&Load, usize) -> String, body: &[u8]| -> Vec<Vec<u8>> {
            (0..load.topics).map(|topic| post_to(&what(load, topic), body)).collect()
        };
        let enqueue = |load: &Load, topic| format!("{}/enqueue", load.path(topic));
        Ok(match work {
            Work::Empty => Requests {
                first: vec![post(&load.address, "/bench/empty", None, binary, &[])],
                recv: Vec::new(),
            },
            Work::Discard => {
                let discard = |load: &Load, topic| format!("/bench/discard/{}", load.queue(topic));
                Requests { first: each_topic(discard, &body), recv: Vec::new() }
            }
            // each is signed for itself; this fills it up
            Work::Webhook => Requests { first: vec![HEXLOWER.encode(&body).into_bytes()], recv: Vec::new() },
            Work::Enqueue => Requests { first: each_topic(enqueue, &body), recv: Vec::new() },
            Work::Cycle => {
                let want = br#"{"max_messages":1,"wait_ms":5000,"visibility_ms":60000}"#;
                let recv = |topic| {
                    let path = format!("{}/recv", load.path(topic));
                    post(&load.address, &path, Some(&load.token), "application/json", want)
                };
                Requests { first: each_topic(enqueue, &body), recv: (0..load.topics).map(recv).collect() }
            }
        })
    }
}

impl Load {
    pub(super) fn path(&self, topic: usize) -> String {
        format!("/v1/{}", self.queue(topic))
    }

    fn queue(&self, topic: usize) -> String {
        format!("{}/{}", self.tenant, self.topic(topic))
    }

    /// A topic's name.
    #[must_use]
    pub(super) fn topic(&self, topic: usize) -> String {
        format!("{}{topic}", self.prefix)
    }
}

/// What was opened, if all could be.
///
/// # Errors
/// [`Failure::Unreachable`].
pub(super) fn opened<T, E: std::fmt::Display>(
    address: &str,
    all: Vec<Result<T, E>>,
) -> Result<Vec<T>, Failure> {
    let unreachable = |err: E| Failure::Unreachable(format!("no node answers at {address}: {err}"));
    all.into_iter().map(|one| one.map_err(unreachable)).collect()
}

/// Runs the load and counts. `done` is raised as operations end, for whoever watches.
///
/// # Errors
/// If a connection cannot be opened at the start, or the node stops answering.
pub(super) async fn run(load: &Load, work: Work, done: Rc<Cell<u64>>) -> Result<Tally, Failure> {
    let mut wires: Vec<Wire> = (0..load.connections).map(|_| Wire::new(&load.address)).collect();
    opened(&load.address, join_all(wires.iter_mut().map(Wire::open)).await)?;
    let requests = Requests::new(load, work)?;
    let starts = ambient::now() + load.warmup;
    let ends = starts + load.duration;
    let workers = wires.into_iter().enumerate().map(|(first_topic, wire)| {
        let mut worker =
            Worker { load, work, requests: &requests, wire, topic: first_topic, done: Rc::clone(&done) };
        async move { worker.run(starts, ends).await }
    });
    total(load, Tally::new(work)?, workers).await
}

/// What all workers of a run counted, together.
///
/// # Errors
/// If one of them failed, or the node stops answering.
pub(super) async fn total<W>(load: &Load, nothing: Tally, workers: W) -> Result<Tally, Failure>
where
    W: Iterator<Item: Future<Output = Result<Tally, Failure>>>,
{
    let cpu_before = ambient::own_cpu();
    let tallies = timeout(load.warmup + load.duration + GRACE, join_all(workers)).await;
    let tallies = tallies.map_err(|_| failed("the node stopped answering"))?;
    let mut total = nothing;
    for tally in tallies {
        total.merge(&tally?)?;
    }
    total.own_cpu = ambient::own_cpu().saturating_sub(cpu_before);
    Ok(total)
}

/// One connection's loop.
struct Worker<'a> {
    load: &'a Load,
    work: Work,
    requests: &'a Requests,
    wire: Wire,
    topic: usize,
    done: Rc<Cell<u64>>,
}

impl Worker<'_> {
    async fn run(&mut self, starts: Instant, ends: Instant) -> Result<Tally, Failure> {
        let mut tally = Tally::new(self.work)?;
        loop {
            let began = ambient::now();
            if began >= ends {
                return Ok(tally);
            }
            let outcome = self.operation(began).await;
            let finished = ambient::now();
            if finished < starts || finished >= ends {
                continue;
            }
            if outcome.is_ok() {
                self.done.set(self.done.get() + 1);
            }
            let whole = finished - began;
            let steps = outcome.as_ref().map_or([None; 3], |steps| *steps);
            let steps: Vec<Duration> = steps.into_iter().flatten().chain([whole]).collect();
            tally.count(outcome.map(drop), &steps);
        }
    }

    /// One operation; for a cycle, how long its three steps took.
    async fn operation(&mut self, began: Instant) -> Result<[Option<Duration>; 3], Miss> {
        let topic = self.topic % self.requests.first.len();
        self.topic += self.load.connections; // all topics in turn, each connection at another one
        let signed = match (&self.load.sender, self.work) {
            (Some(sender), Work::Webhook) => Some(self.webhook(sender)),
            _ => None,
        };
        let request = signed.as_ref().unwrap_or(&self.requests.first[topic]);
        let sent = self.wire.exchange(request).await?;
        expect(self.work, sent.status, sent.body)?;
        if self.work != Work::Cycle {
            return Ok([None; 3]);
        }
        let enqueued = ambient::now();
        let received = self.wire.exchange(&self.requests.recv[topic]).await?;
        expect_ok(received.status, received.body)?;
        let receipt = field(received.body, b"\"receipt\"").ok_or_else(|| Miss("EMPTY_RECV".to_owned()))?;
        let body = format!("{{\"receipts\":[\"{receipt}\"]}}");
        let leased = ambient::now();
        let path = format!("{}/ack", self.load.path(topic));
        let ack =
            post(&self.load.address, &path, Some(&self.load.token), "application/json", body.as_bytes());
        let acked = self.wire.exchange(&ack).await?;
        expect_ok(acked.status, acked.body)?;
        if let Some(reason) = field(acked.body, b"\"reason\"") {
            return Err(Miss(reason.to_owned()));
        }
        Ok([enqueued - began, leased - enqueued, ambient::now() - leased].map(Some))
    }
}

impl Worker<'_> {
    /// A webhook that nobody has sent before.
    fn webhook(&self, sender: &Sender) -> Vec<u8> {
        let id = format!("{}-{}", self.load.prefix, self.topic);
        let mut body = format!("{{\"after\":\"{id}\",\"note\":\"").into_bytes();
        let room = self.load.size.saturating_sub(body.len() + 2);
        body.extend(self.requests.first.iter().flatten().take(room));
        body.extend_from_slice(b"\"}");
        signed(&self.load.address, &sender.webhook(&id, ambient::unix_seconds(), &body))
    }
}

/// An operation that does not count, and the reason.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Miss(pub(super) String);

impl From<io::Error> for Miss {
    fn from(error: io::Error) -> Miss {
        Miss(format!("CONNECTION ({})", error.kind()))
    }
}

/// Whether an answer is what the work should bring. A send counts only if it says that it was fsynced.
pub(super) fn expect(work: Work, status: u16, body: &[u8]) -> Result<(), Miss> {
    expect_ok(status, body)?;
    match work {
        Work::Webhook if status == 202 => Ok(()),
        Work::Webhook => Err(Miss(format!("HTTP {status}, not 202"))),
        Work::Enqueue | Work::Cycle => match field(body, b"\"durability\"") {
            Some("fsync") => Ok(()),
            other => Err(Miss(format!("NOT_DURABLE ({})", other.unwrap_or("unsaid")))),
        },
        Work::Discard | Work::Empty => Ok(()),
    }
}

pub(super) fn expect_ok(status: u16, body: &[u8]) -> Result<(), Miss> {
    match status {
        200 | 202 | 204 => Ok(()),
        _ => Err(Miss(field(body, b"\"reason\"").map_or_else(|| format!("HTTP {status}"), str::to_owned))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_send_counts_only_when_fsynced() {
        let fsync = br#"{"durability":"fsync"}"#;
        assert_eq!(expect(Work::Enqueue, 200, fsync), Ok(()));
        assert_eq!(
            expect(Work::Enqueue, 200, br#"{"durability":"ram"}"#),
            Err(Miss("NOT_DURABLE (ram)".into()))
        );
        assert_eq!(expect(Work::Cycle, 200, b"{}"), Err(Miss("NOT_DURABLE (unsaid)".into())));
        assert_eq!(expect(Work::Empty, 204, b""), Ok(()));
        assert_eq!(
            expect(Work::Enqueue, 429, br#"{"reason":"BACKPRESSURE"}"#),
            Err(Miss("BACKPRESSURE".into()))
        );
        assert_eq!(expect(Work::Discard, 502, b"oops"), Err(Miss("HTTP 502".into())));
    }

    #[test]
    fn tallies_add_up() {
        let mut total = Tally::new(Work::Cycle).unwrap();
        for us in [10, 20] {
            let mut one = Tally::new(Work::Cycle).unwrap();
            one.done = 1;
            one.steps[3].1.record(us).unwrap();
            one.errors.insert("RATE_LIMIT".to_owned(), us);
            total.merge(&one).unwrap();
        }
        assert_eq!(total.done, 2);
        assert_eq!(total.steps[3].1.len(), 2);
        assert_eq!(total.errors["RATE_LIMIT"], 30);
    }
}
