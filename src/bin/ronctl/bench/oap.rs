//! The load over OAP/1: connections that each keep several requests outstanding (a closed loop).

use super::load::{Load, Miss, Requests, Tally, Work, opened, total};
use crate::ambient;
use crate::failure::{Failure, failed};
use futures::future::join_all;
use ron_client::oap::{Bounded, Delivered, Draft, Durability, Enqueued, Raw, Receipt, Request, Settled};
use ron_client::{Answer, Connection, Error};
use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// How long a receive waits, ms.
const WAIT_MS: u64 = 5_000;

/// Runs the load and counts. `done` is raised as operations end, for whoever watches.
///
/// # Errors
/// If a connection cannot be opened at the start, or the node stops answering.
pub(super) async fn run(load: &Load, work: Work, done: Rc<Cell<u64>>) -> Result<Tally, Failure> {
    let connections = open(load).await?;
    let payload = Requests::payload(load)?;
    let topics: Vec<String> = (0..load.topics).map(|topic| load.topic(topic)).collect();
    let starts = ambient::now() + load.warmup;
    let span = Span { starts, ends: starts + load.duration };
    let workers = connections.into_iter().enumerate().map(|(topic, connection)| {
        let (topics, payload, done) = (&topics, &payload, Rc::clone(&done));
        Worker { load, work, span, topics, payload, connection, topic, done }.run()
    });
    total(load, Tally::new(work)?, workers).await
}

/// The load's connections, each with the capability shown.
///
/// # Errors
/// If one cannot be opened.
pub(super) async fn open(load: &Load) -> Result<Vec<Connection>, Failure> {
    let one = async || {
        let mut connection = match &load.tls {
            None => Connection::open(&load.address).await?,
            Some(tls) => Connection::open_tls(&load.address, tls).await?,
        };
        connection.authorize(&load.token).await?;
        Ok::<_, Error>(connection)
    };
    opened(&load.address, join_all((0..load.connections).map(|_| one())).await)
}

/// What is counted of the time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    pub(super) starts: Instant,
    pub(super) ends: Instant,
}

impl Span {
    pub(super) fn counts(&self, finished: Instant) -> bool {
        (self.starts..self.ends).contains(&finished)
    }
}

/// One connection's loop.
struct Worker<'a> {
    load: &'a Load,
    work: Work,
    span: Span,
    topics: &'a [String],
    payload: &'a [u8],
    connection: Connection,
    topic: usize,
    done: Rc<Cell<u64>>,
}

impl Worker<'_> {
    async fn run(mut self) -> Result<Tally, Failure> {
        let mut tally = Tally::new(self.work)?;
        let ran = match self.work {
            Work::Cycle => self.cycles(&mut tally).await,
            Work::Enqueue | Work::Discard | Work::Empty | Work::Webhook => self.sends(&mut tally).await,
        };
        match ran {
            Ok(()) => Ok(tally),
            Err(error) => Err(failed(format!("a connection ended: {error}"))),
        }
    }

    /// As many sends outstanding as told, all the time.
    async fn sends(&mut self, tally: &mut Tally) -> Result<(), Error> {
        // answers to sends of one topic come in the order of the requests
        let mut under_way = Outstanding::default();
        loop {
            let now = ambient::now();
            if now >= self.span.ends && under_way.0.is_empty() {
                return Ok(());
            }
            let room = if now < self.span.ends { self.load.outstanding - under_way.0.len() } else { 0 };
            for _ in 0..room {
                let topic = self.topic % self.topics.len();
                self.topic = self.topic.wrapping_add(self.load.connections); // all topics in turn
                let corr_id = self.send(topic)?;
                under_way.0.push_back((corr_id, now));
            }
            self.connection.flush().await?;
            let mut answer = Some(self.connection.next().await?);
            let finished = ambient::now();
            while let Some(one) = answer {
                let began = under_way.take(one.header.corr_id)?;
                self.count(tally, finished, stored(&one), &[finished - began]);
                answer = self.connection.buffered()?;
            }
        }
    }

    /// Sends as many as may be outstanding, receives as many, acks them with one request.
    async fn cycles(&mut self, tally: &mut Tally) -> Result<(), Error> {
        loop {
            let began = ambient::now();
            if began >= self.span.ends {
                return Ok(());
            }
            let topic = self.topic % self.topics.len();
            self.topic = self.topic.wrapping_add(self.load.connections);
            for _ in 0..self.load.outstanding {
                self.send(topic)?;
            }
            self.connection.flush().await?;
            let mut results = Vec::with_capacity(self.load.outstanding);
            while results.len() < self.load.outstanding {
                results.push(stored(&self.connection.next().await?));
            }
            let sent = ambient::now();
            let held = self.receive(topic).await?;
            let received = ambient::now();
            let settled = self.ack(topic, &held).await?;
            let finished = ambient::now();
            let steps = [sent - began, received - sent, finished - received, finished - began];
            for result in results.into_iter().zip(settled).map(|(sent, acked)| sent.and(acked)) {
                self.count(tally, finished, result, &steps);
            }
        }
    }

    fn send(&mut self, topic: usize) -> Result<u64, Error> {
        let message = Draft { payload: Raw(self.payload), ..Draft::default() };
        self.connection.write(&Request::Enqueue { topic: &self.topics[topic], message })
    }

    async fn receive(&mut self, topic: usize) -> Result<Vec<Receipt>, Error> {
        let mut held = Vec::with_capacity(self.load.outstanding);
        while held.len() < self.load.outstanding {
            let asked = Request::Recv {
                topic: &self.topics[topic],
                max_messages: (self.load.outstanding - held.len()).min(256) as u32,
                max_bytes: None,
                visibility_ms: Some(60_000),
                wait_ms: WAIT_MS,
            };
            let answer = self.connection.call(&asked).await?;
            let messages: Vec<Delivered<'_>> = answer.read()?;
            if messages.is_empty() {
                return Err(Error::Protocol("a receive brought nothing although something was sent"));
            }
            held.extend(messages.iter().map(|message| message.receipt));
        }
        Ok(held)
    }

    async fn ack(&mut self, topic: usize, held: &[Receipt]) -> Result<Vec<Result<(), Miss>>, Error> {
        let mut settled = Vec::with_capacity(held.len());
        for some in held.chunks(256) {
            let receipts = Bounded(some.to_vec());
            let asked = Request::Ack { topic: &self.topics[topic], receipts };
            let answer = self.connection.call(&asked).await?;
            let results = answer.read::<Settled>()?.results;
            settled.extend(results.into_iter().map(|one| one.map_or(Ok(()), |reason| Err(Miss(reason)))));
        }
        Ok(settled)
    }

    fn count(&self, tally: &mut Tally, finished: Instant, result: Result<(), Miss>, steps: &[Duration]) {
        if self.span.counts(finished) {
            if result.is_ok() {
                self.done.set(self.done.get() + 1);
            }
            tally.count(result, steps);
        }
    }
}

/// Requests that are not answered, and when they began.
#[derive(Default)]
pub(super) struct Outstanding(pub(super) VecDeque<(u64, Instant)>);

impl Outstanding {
    /// The one with this name; nearly always the first.
    pub(super) fn take(&mut self, corr_id: u64) -> Result<Instant, Error> {
        let at = self.0.iter().position(|(known, _)| *known == corr_id);
        let found = at.and_then(|at| self.0.remove(at));
        found.map(|(_, began)| began).ok_or(Error::Protocol("an answer to nothing that was asked"))
    }
}

/// Whether a send was stored. It counts only if the answer says that it was fsynced.
pub(super) fn stored(answer: &Answer) -> Result<(), Miss> {
    match answer.read::<Enqueued>() {
        Ok(Enqueued { durability: Durability::Fsync, .. }) => Ok(()),
        Ok(_) => Err(Miss("NOT_DURABLE (ram)".to_owned())),
        Err(Error::Refused(refused)) => Err(Miss(refused.reason)),
        Err(error) => Err(Miss(error.to_string())),
    }
}
