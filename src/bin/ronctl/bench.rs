//! `ronctl bench`: how many durable sends, or whole cycles, a node answers a second, and how fast.
//!
//! A closed loop unless `--rate` is given: each connection keeps so many operations outstanding, so latency and rate
//! belong together. With a rate the operations begin when their time has come, and latencies count from then. A send
//! counts only if its answer says `fsync`, and the store's commits a second are shown beside the rate.

use crate::args;
use crate::client::Client;
use crate::failure::Failure;
use crate::output::{Output, watched};
use clap::{Args, Subcommand};
use fanout::FanoutArgs;
use indicatif::{ProgressBar, ProgressStyle};
use load::{Load, Work};
use lone::LoneArgs;
use neighbours::Crowd;
use parked::Many;
use peers::PeersArgs;
use report::{Comparison, Run};
use site::{Proto, Site, Spent, Tables};
use std::cell::Cell;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

mod fanout;
mod load;
mod lone;
mod memory;
mod neighbours;
mod oap;
mod open;
mod pace;
mod parked;
mod peers;
mod report;
mod site;
mod webhooks;
mod wire;

/// The tenant whose topics are used.
const TENANT: &str = "bench";

/// Bytes of a message, unless told.
const SIZE: u32 = 256;

/// Connections, unless told.
const CONNECTIONS: u16 = 64;

/// How long the minted capability lives.
const TOKEN_TTL_MS: u64 = 3_600_000;

/// What to measure.
#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Durable sends
    Enqueue(Paced),
    /// Durable send, receive and ack of one message; with --rate, how long messages take from the send to the receive
    Cycle(Paced),
    /// Sends against a route of the same server without a store, and against a bare 204; medians of
    /// interleaved runs
    Compare {
        #[command(flatten)]
        setup: Setup,
        /// How many runs of each
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..=101))]
        runs: u8,
    },
    /// Sends to many topics against sends to one; medians of interleaved runs
    Topics {
        #[command(flatten)]
        setup: Setup,
        /// How many runs of each
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..=101))]
        runs: u8,
    },
    /// Sends to some of very many topics that hold messages against sends to one, the node's memory meanwhile, and
    /// whether the topics that sleep still know their keys
    Parked {
        #[command(flatten)]
        setup: Setup,
        /// How many of them are sent to
        #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=99_000))]
        hit: u32,
        /// How many runs of each
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..=101))]
        runs: u8,
    },
    /// A provider's webhooks, verified and fsynced, against a route of the same server without a store, and against a
    /// bare 204; medians of interleaved runs; needs --spawn
    Webhooks {
        #[command(flatten)]
        setup: Setup,
        /// How many runs of each
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..=101))]
        runs: u8,
    },
    /// What a producer waits who has one send outstanding, beside a bare fdatasync on the same disk; on nodes of its
    /// own
    Lone(LoneArgs),
    /// What a noisy tenant does to its neighbours on a busy store: equal tenants, then one of them with many times its
    /// connections, then the same load as one tenant's; needs --spawn
    Neighbours {
        #[command(flatten)]
        setup: Setup,
        /// How many runs of each
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..=101))]
        runs: u8,
        /// How many tenants
        #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(2..=100))]
        tenants: u16,
        /// How many times its connections the noisy tenant has
        #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=100))]
        factor: u16,
    },
    /// How long it takes until the last of a topic's subscribers has its copy; on a node of its own
    Fanout(FanoutArgs),
    /// The same work on the node and on other queues that run already: sends, and whole cycles; medians of interleaved
    /// runs
    Peers(PeersArgs),
}

/// How to measure, and whether on a schedule.
#[derive(Debug, Clone, Args)]
pub(crate) struct Paced {
    #[command(flatten)]
    setup: Setup,
    /// An open loop: so many messages a second begin on a fixed schedule, whatever the node does, and latencies count
    /// from when they should have begun
    #[arg(long, value_name = "PER_SECOND", conflicts_with = "outstanding", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    rate: Option<u32>,
}

/// How to measure.
#[derive(Debug, Clone, Args)]
pub(crate) struct Setup {
    /// Connections, each with one operation outstanding [default: 64; `bench neighbours`: 8 a tenant]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    connections: Option<u16>,
    /// The way in [default: http; `bench peers`: oap]
    #[arg(long, value_enum)]
    proto: Option<Proto>,
    /// Operations that each connection keeps outstanding; more than one needs `--proto oap`
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    outstanding: u16,
    /// How long each run counts
    #[arg(long, default_value = "10s", value_parser = args::duration)]
    duration: Duration,
    /// How long each run goes before it counts
    #[arg(long, default_value = "1s", value_parser = args::duration)]
    warmup: Duration,
    /// Bytes of a message [default: 256; `bench neighbours`: 65536]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    size: Option<u32>,
    /// Topics that the sends go round [default: 1; `bench topics`: 1000]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    topics: Option<u32>,
    /// Measure the listener at this URL (http:// or oap://, as --proto) instead of the node found by its socket
    #[arg(long, requires = "token", conflicts_with = "spawn")]
    url: Option<String>,
    /// The capability for --url: tenant `bench`, any topic, ops enqueue, recv and ack
    #[arg(long, requires = "url", env = "RONCTL_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// With --url oap://: TLS, and trust in the authorities of this file, PEM
    #[arg(long, requires = "url", value_name = "FILE")]
    cacert: Option<PathBuf>,
    /// With --url: the mailbox's admin address, to count commits
    #[arg(long, requires = "url", value_name = "HOST:PORT")]
    admin: Option<String>,
    /// Measure a node of our own, in a temporary directory; what `compare` needs
    #[arg(long)]
    spawn: bool,
    /// Where --spawn makes that directory, so that the figures are of that disk [default: the temporary
    /// directory]
    #[arg(long, requires = "spawn", value_name = "DIR")]
    dir: Option<PathBuf>,
}

impl Setup {
    /// One connection with one send outstanding.
    fn of_one(duration: Duration, size: u32) -> Setup {
        Setup {
            connections: Some(1),
            proto: None,
            outstanding: 1,
            duration,
            warmup: Duration::from_millis(500),
            size: Some(size),
            topics: None,
            url: None,
            token: None,
            cacert: None,
            admin: None,
            spawn: true,
            dir: None,
        }
    }
}

/// Runs `ronctl bench`; `node` makes a client of the node that the command line names.
///
/// # Errors
/// If no node answers, or a run had answers that do not count.
pub(crate) async fn run(
    command: BenchCommand,
    node: impl FnOnce() -> Result<Client, Failure>,
    out: Output,
) -> Result<(), Failure> {
    let (setup, plan) = match command {
        BenchCommand::Enqueue(Paced { setup, rate }) => (setup, Plan::Single(Work::Enqueue, rate)),
        BenchCommand::Cycle(Paced { setup, rate }) => (setup, Plan::Single(Work::Cycle, rate)),
        BenchCommand::Compare { setup, runs } => (setup, Plan::Compare(runs)),
        BenchCommand::Topics { setup, runs } => (setup, Plan::Topics(runs)),
        BenchCommand::Neighbours { setup, runs, tenants, factor } => {
            (setup, Plan::Neighbours(Crowd { tenants, factor, runs }))
        }
        BenchCommand::Parked { setup, hit, runs } => {
            let topics = setup.topics.unwrap_or(parked::TOPICS);
            (setup, Plan::Parked(Many { topics, hit, runs }))
        }
        BenchCommand::Webhooks { setup, runs } => (setup, Plan::Webhooks(runs)),
        BenchCommand::Lone(args) => return lone::run(args, out).await,
        BenchCommand::Fanout(args) => return fanout::run(args, out).await,
        BenchCommand::Peers(PeersArgs { setup, peers }) => (setup, Plan::Peers(peers)),
    };
    let binary = matches!(plan, Plan::Peers(_) | Plan::Parked(_));
    let default = if binary { Proto::Oap } else { Proto::Http };
    let proto = setup.proto.unwrap_or(default);
    check(&setup, proto, &plan)?;
    let tables = match plan {
        Plan::Parked(_) => Tables { mailbox: parked::MAILBOX, ..Tables::default() },
        _ => Tables::default(),
    };
    let site = Site::find(&setup, proto, tables, node).await?;
    let bench = Bench { setup, proto, site, out };
    match plan {
        Plan::Single(work, rate) => bench.single(work, rate).await,
        Plan::Compare(runs) => bench.compare(runs).await,
        Plan::Topics(runs) => bench.topics(runs).await,
        Plan::Neighbours(crowd) => bench.neighbours(crowd).await,
        Plan::Peers(peers) => bench.peers(&peers).await,
        Plan::Parked(many) => bench.parked(many).await,
        Plan::Webhooks(runs) => bench.webhooks(runs).await,
    }
}

/// Whether what is asked goes together.
fn check(setup: &Setup, proto: Proto, plan: &Plan) -> Result<(), Failure> {
    let usage = |text: &str| Err(Failure::Usage(text.to_owned()));
    if setup.duration.is_zero() {
        return usage("--duration must be longer than 0");
    }
    if setup.cacert.is_some() && proto == Proto::Http {
        return usage("--cacert needs --proto oap");
    }
    if setup.outstanding > 1 && proto == Proto::Http {
        return usage("--outstanding needs --proto oap");
    }
    if proto == Proto::Oap && matches!(plan, Plan::Compare(_) | Plan::Neighbours(_) | Plan::Webhooks(_)) {
        return usage("--proto oap is for `bench enqueue`, `cycle`, `topics`, `parked` and `peers`");
    }
    if let Plan::Parked(many) = plan {
        many.check(setup.spawn, proto)?;
    }
    if let Plan::Peers(peers) = plan {
        peers.check(setup)?;
    }
    let paced = matches!(plan, Plan::Single(Work::Cycle, Some(_)));
    if paced && setup.topics.is_some_and(|topics| topics > open::TOPICS_MAX) {
        return Err(Failure::Usage(format!(
            "with --rate, `bench cycle` takes {} topics at most",
            open::TOPICS_MAX
        )));
    }
    Ok(())
}

#[derive(Debug, Clone)]
enum Plan {
    Single(Work, Option<u32>),
    Compare(u8),
    Topics(u8),
    Neighbours(Crowd),
    Peers(peers::Peers),
    Parked(Many),
    Webhooks(u8),
}

struct Bench {
    setup: Setup,
    proto: Proto,
    site: Site,
    out: Output,
}

impl Bench {
    async fn single(&self, work: Work, rate: Option<u32>) -> Result<(), Failure> {
        let topics = self.setup.topics.unwrap_or(1);
        let run = match rate {
            None => self.measure(work, &self.load(topics), work.name()).await?,
            Some(rate) => self.measure_paced(work, &self.load(topics), rate).await?,
        };
        if self.out.json {
            self.out.value(&run)?
        } else {
            self.out.pairs(&run.pairs())?
        }
        run.verdict()
    }

    /// `runs` rounds, each one run of every kind, so that a drift of the machine falls on all alike.
    async fn compare(&self, runs: u8) -> Result<(), Failure> {
        let topics = self.setup.topics.unwrap_or(1);
        let mut comparison = Comparison::new(Work::Enqueue.name());
        for round in 1..=runs {
            for work in [Work::Enqueue, Work::Discard, Work::Empty] {
                let label = format!("{} {round}/{runs}", work.name());
                comparison.add(work.name(), self.measure(work, &self.load(topics), &label).await?)?;
            }
        }
        self.present(&comparison)
    }

    async fn topics(&self, runs: u8) -> Result<(), Failure> {
        let many = self.setup.topics.unwrap_or(1000);
        let names = [(many, format!("{many} topics")), (1, "1 topic".to_owned())];
        let mut comparison = Comparison::new(&names[0].1);
        for round in 1..=runs {
            for (topics, name) in &names {
                let label = format!("{name} {round}/{runs}");
                comparison.add(name, self.measure(Work::Enqueue, &self.load(*topics), &label).await?)?;
            }
        }
        self.present(&comparison)
    }

    fn present(&self, comparison: &Comparison) -> Result<(), Failure> {
        if self.out.json {
            self.out.value(&comparison.to_json())?;
        } else {
            let (header, rows) = comparison.table();
            self.out.table(&header.iter().map(String::as_str).collect::<Vec<_>>(), rows)?;
            self.out.line(format!("\n{}", comparison.summary().join("\n")))?;
        }
        comparison.verdict()
    }

    fn load(&self, topics: u32) -> Load {
        Load {
            address: self.site.address.clone(),
            token: self.site.token.clone(),
            tls: self.site.tls.clone(),
            tenant: TENANT.to_owned(),
            sender: None,
            prefix: "t".to_owned(),
            topics: topics as usize,
            size: self.setup.size.unwrap_or(SIZE) as usize,
            connections: self.setup.connections.unwrap_or(CONNECTIONS).into(),
            outstanding: self.setup.outstanding.into(),
            warmup: self.setup.warmup,
            duration: self.setup.duration,
        }
    }

    /// One run of one tenant.
    async fn measure(&self, work: Work, load: &Load, label: &str) -> Result<Run, Failure> {
        let done = Rc::new(Cell::new(0));
        let spent = || self.site.spent();
        let pid = self.site.pid;
        let (tally, spent) = match self.proto {
            Proto::Http => {
                self.watched(label, load::run(load, work, Rc::clone(&done)), spent, pid, &done).await?
            }
            Proto::Oap => {
                self.watched(label, oap::run(load, work, Rc::clone(&done)), spent, pid, &done).await?
            }
        };
        Ok(Run::new(work, load, tally, spent))
    }

    /// One run on a schedule.
    async fn measure_paced(&self, work: Work, load: &Load, rate: u32) -> Result<Run, Failure> {
        let done = Rc::new(Cell::new(0));
        let running = open::run(load, work, self.proto, rate, Rc::clone(&done));
        let spent = || self.site.spent();
        let (tally, spent) = self.watched(work.name(), running, spent, self.site.pid, &done).await?;
        Ok(Run::new(work, load, tally, spent).paced(rate))
    }

    /// What `running` gives, with a progress bar for who watches, and what the server spent in the counted time, which
    /// `spent` says, and its memory, if it is a process of this machine.
    async fn watched<T, S: Future<Output = Result<Spent, Failure>>>(
        &self,
        label: &str,
        running: impl Future<Output = Result<T, Failure>>,
        spent: impl Fn() -> S,
        pid: Option<u32>,
        done: &Cell<u64>,
    ) -> Result<(T, Spent), Failure> {
        let Setup { warmup, duration, .. } = self.setup;
        let counting = async {
            tokio::time::sleep(warmup).await;
            let before = spent().await?;
            let memory = memory::watch(pid, duration).await;
            Ok::<_, Failure>(Spent { memory, ..spent().await?.since(before) })
        };
        tokio::select! {
            both = async { tokio::try_join!(running, counting) } => both,
            never = watch(label, warmup, duration, done) => match never {},
        }
    }
}

/// Moves a bar on stderr for ever; cleared when dropped.
async fn watch(
    label: &str,
    warmup: Duration,
    duration: Duration,
    done: &Cell<u64>,
) -> std::convert::Infallible {
    let whole = warmup + duration;
    let bar = if watched() { ProgressBar::new(whole.as_millis() as u64) } else { ProgressBar::hidden() };
    if let Ok(style) = ProgressStyle::with_template("{prefix:18} {bar:40} {elapsed}  {msg}") {
        bar.set_style(style);
    }
    bar.set_prefix(label.to_owned());
    let _clear = ClearOnDrop(bar.clone());
    let mut ticks = tokio::time::interval(Duration::from_millis(200));
    loop {
        ticks.tick().await;
        let elapsed = bar.elapsed();
        bar.set_position(elapsed.as_millis() as u64);
        let counted = elapsed.saturating_sub(warmup).as_secs_f64();
        if counted > 0.0 {
            bar.set_message(format!("{:.0}/s", done.get() as f64 / counted));
        }
    }
}

struct ClearOnDrop(ProgressBar);

impl Drop for ClearOnDrop {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
