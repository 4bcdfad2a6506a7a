//! The same work on the node and on other queues: the same payload, connections and operations outstanding, for the
//! same time, round after round, so that a drift of the machine falls on all alike. The peers run already; this asks
//! how they keep what they accept, and says so, for a peer that does not sync before it answers does other work.
//!
//! No peer is slowed down by its client: each is spoken to in its own protocol by writers that send what was built
//! before and readers that look at no more than they must, as the node is.

use super::load::{Load, Tally, Work};
use super::report::{Comparison, Run};
use super::site::{Spent, written_by};
use super::{Bench, Setup};
use crate::ambient;
use crate::failure::{Failure, failed};
use crate::output::warn;
use beanstalkd::Beanstalkd;
use clap::Args;
use data_encoding::HEXLOWER;
use nats::Nats;
use rabbitmq::{RabbitMq, Target};
use redis::Redis;
use serde_json::{Map, Value};
use std::cell::Cell;
use std::rc::Rc;

mod amqp;
mod beanstalkd;
mod nats;
mod pipeline;
mod rabbitmq;
mod redis;
mod resp;

/// The node's name in tables.
const NODE: &str = "ron-node";

/// What `bench peers` takes.
#[derive(Debug, Args)]
pub(crate) struct PeersArgs {
    #[command(flatten)]
    pub(super) setup: Setup,
    #[command(flatten)]
    pub(super) peers: Peers,
}

/// Whom to compare with.
#[derive(Debug, Clone, Args)]
pub(super) struct Peers {
    /// A Redis server: its streams, one consumer group
    #[arg(long, value_name = "HOST:PORT")]
    redis: Option<String>,
    /// A beanstalkd server: one tube
    #[arg(long, value_name = "HOST:PORT")]
    beanstalkd: Option<String>,
    /// A NATS server with JetStream: one stream on files, one pull consumer
    #[arg(long, value_name = "HOST:PORT")]
    nats: Option<String>,
    /// A RabbitMQ server: one quorum queue, one consumer a connection; as guest on the vhost / unless the URL says more
    #[arg(long, value_name = "HOST:PORT | amqp://USER:PASSWORD@HOST:PORT/VHOST")]
    rabbitmq: Option<String>,
    /// How many rounds of each
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..=101))]
    runs: u8,
}

impl Peers {
    /// Whether it makes sense.
    ///
    /// # Errors
    /// [`Failure::Usage`].
    pub(super) fn check(&self, setup: &Setup) -> Result<(), Failure> {
        let usage = |text: &str| Err(Failure::Usage(text.to_owned()));
        if [&self.redis, &self.beanstalkd, &self.nats, &self.rabbitmq].into_iter().all(Option::is_none) {
            return usage("name a peer: --redis, --beanstalkd, --nats or --rabbitmq, each with HOST:PORT");
        }
        if let Some(url) = &self.rabbitmq {
            Target::parse(url)?;
        }
        if setup.topics.is_some_and(|topics| topics > 1) {
            return usage("`bench peers` uses one topic");
        }
        Ok(())
    }
}

/// Whether a server answers a send after it is synced to disk, as the node does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Promise {
    Same,
    Less,
    /// It does not say.
    Unsaid,
}

/// A server that is compared with.
enum Peer {
    Redis(Redis),
    Beanstalkd(Beanstalkd),
    Nats(Nats),
    RabbitMq(RabbitMq),
}

impl Peer {
    fn name(&self) -> &'static str {
        match self {
            Peer::Redis(_) => "redis",
            Peer::Beanstalkd(_) => "beanstalkd",
            Peer::Nats(_) => "nats",
            Peer::RabbitMq(_) => "rabbitmq",
        }
    }

    /// How it keeps what it accepts.
    async fn persistence(&self) -> Result<(String, Promise), Failure> {
        match self {
            Peer::Redis(redis) => redis.persistence().await,
            Peer::Beanstalkd(beanstalkd) => beanstalkd.persistence().await,
            Peer::Nats(nats) => Ok(nats.persistence()),
            Peer::RabbitMq(rabbitmq) => Ok(rabbitmq.persistence()),
        }
    }

    async fn spent(&self) -> Result<Spent, Failure> {
        match self {
            Peer::Redis(redis) => redis.spent().await,
            Peer::Beanstalkd(beanstalkd) => beanstalkd.spent().await,
            Peer::Nats(_) => Ok(Nats::spent()),
            Peer::RabbitMq(_) => Ok(RabbitMq::spent()),
        }
    }

    async fn run(&self, load: &Load, work: Work, done: Rc<Cell<u64>>) -> Result<Tally, Failure> {
        match self {
            Peer::Redis(redis) => redis.run(load, work, done).await,
            Peer::Beanstalkd(beanstalkd) => beanstalkd.run(load, work, done).await,
            Peer::Nats(nats) => nats.run(load, work, done).await,
            Peer::RabbitMq(rabbitmq) => rabbitmq.run(load, work, done).await,
        }
    }
}

impl Bench {
    /// `peers.runs` rounds of sends and then of cycles, the node and its peers in turn.
    pub(super) async fn peers(&self, peers: &Peers) -> Result<(), Failure> {
        let mut all = Vec::new();
        if let Some(address) = &peers.redis {
            all.push(Peer::Redis(Redis::new(address).await?));
        }
        if let Some(address) = &peers.beanstalkd {
            all.push(Peer::Beanstalkd(Beanstalkd::new(address).await?));
        }
        if let Some(address) = &peers.nats {
            all.push(Peer::Nats(Nats::new(address).await?));
        }
        if let Some(url) = &peers.rabbitmq {
            all.push(Peer::RabbitMq(RabbitMq::new(url).await?));
        }
        let mut notes = Vec::new();
        for peer in &all {
            let (text, promise) = peer.persistence().await?;
            match promise {
                Promise::Same => {}
                Promise::Less => warn(&format!("{} does less work: {text}", peer.name())),
                Promise::Unsaid => warn(&format!("{} may do less work: {text}", peer.name())),
            }
            notes.push((peer.name(), text));
        }
        let mut report = Map::new();
        for work in [Work::Enqueue, Work::Cycle] {
            let comparison = self.rounds(&all, work, peers.runs).await?;
            if self.out.json {
                report.insert(work.name().to_owned(), comparison.to_json());
                continue;
            }
            let title = if work == Work::Cycle { "send, receive and ack" } else { "sends" };
            self.out.line(format!("{title}:"))?;
            let (header, rows) = comparison.table();
            self.out.table(&header.iter().map(String::as_str).collect::<Vec<_>>(), rows)?;
            self.out.line(format!("{}\n", comparison.summary().join("\n")))?;
        }
        if self.out.json {
            let notes = notes.into_iter().map(|(name, text)| (name.to_owned(), Value::from(text))).collect();
            report.insert("persistence".to_owned(), Value::Object(notes));
            return self.out.value(&report);
        }
        self.out.pairs(&notes)
    }

    async fn rounds(&self, peers: &[Peer], work: Work, runs: u8) -> Result<Comparison, Failure> {
        let mut comparison = Comparison::new(NODE);
        for round in 1..=runs {
            // a topic a run: what one leaves behind is not the next one's work
            let name = HEXLOWER.encode(&ambient::random::<6>()?);
            let load = Load { prefix: format!("peers-{name}-"), ..self.load(1) };
            let label = |who: &str| format!("{} {who} {round}/{runs}", work.name());
            comparison.add(NODE, self.measure(work, &load, &label(NODE)).await?)?;
            self.site.forget(&load.topic(0)).await?;
            for peer in peers {
                let done = Rc::new(Cell::new(0));
                let running = peer.run(&load, work, Rc::clone(&done));
                let (tally, spent) =
                    self.watched(&label(peer.name()), running, || peer.spent(), None, &done).await?;
                comparison.add(peer.name(), Run::new(work, &load, tally, spent).of_peer())?;
            }
        }
        comparison.verdict()?;
        Ok(comparison)
    }
}

/// What a process of this machine wrote, if the server at `address` is here and is called `name`.
fn written_here(address: &str, pid: Option<u32>, name: &str) -> Option<u64> {
    let here = ["127.", "[::1]", "localhost"].iter().any(|start| address.starts_with(start));
    let pid = pid.filter(|_| here)?;
    // a container's server counts its processes differently
    let comm = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    if comm.starts_with(name) { written_by(pid) } else { None }
}

/// The text of a peer's answer that is none that was expected.
fn unlike(address: &str, what: &str) -> Failure {
    failed(format!("the server at {address} answers otherwise than expected: {what}"))
}
