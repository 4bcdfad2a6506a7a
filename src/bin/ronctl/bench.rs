//! `ronctl bench`: how many durable sends, or whole cycles, a node answers a second, and how fast.
//!
//! A closed loop: each connection keeps one operation outstanding, so latency and rate belong together. A
//! send counts only if its answer says `fsync`, and the store's commits a second are shown beside the rate.

use crate::args;
use crate::client::{Call, Client, Door};
use crate::control;
use crate::failure::{Failure, failed};
use crate::output::{Output, warn, watched};
use crate::own_node::OwnNode;
use crate::status::Status;
use clap::{Args, Subcommand};
use fanout::FanoutArgs;
use indicatif::{ProgressBar, ProgressStyle};
use load::{Load, Work};
use neighbours::Crowd;
use report::{Comparison, Run};
use ron_core::capability::Op;
use std::cell::Cell;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

mod fanout;
mod load;
mod neighbours;
mod report;
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
    Enqueue(Setup),
    /// Durable send, receive and ack of one message
    Cycle(Setup),
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
}

/// How to measure.
#[derive(Debug, Clone, Args)]
pub(crate) struct Setup {
    /// Connections, each with one operation outstanding [default: 64; `bench neighbours`: 8 a tenant]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    connections: Option<u16>,
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
    /// Measure the mailbox listener at this URL instead of the node found by its socket
    #[arg(long, requires = "token", conflicts_with = "spawn")]
    url: Option<String>,
    /// The capability for --url: tenant `bench`, any topic, ops enqueue, recv and ack
    #[arg(long, requires = "url", env = "RONCTL_TOKEN", hide_env_values = true)]
    token: Option<String>,
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
        BenchCommand::Enqueue(setup) => (setup, Plan::Single(Work::Enqueue)),
        BenchCommand::Cycle(setup) => (setup, Plan::Single(Work::Cycle)),
        BenchCommand::Compare { setup, runs } => (setup, Plan::Compare(runs)),
        BenchCommand::Topics { setup, runs } => (setup, Plan::Topics(runs)),
        BenchCommand::Neighbours { setup, runs, tenants, factor } => {
            (setup, Plan::Neighbours(Crowd { tenants, factor, runs }))
        }
        BenchCommand::Fanout(args) => return fanout::run(args, out).await,
    };
    if setup.duration.is_zero() {
        return Err(Failure::Usage("--duration must be longer than 0".to_owned()));
    }
    let site = Site::find(&setup, node).await?;
    let bench = Bench { setup, site, out };
    match plan {
        Plan::Single(work) => bench.single(work).await,
        Plan::Compare(runs) => bench.compare(runs).await,
        Plan::Topics(runs) => bench.topics(runs).await,
        Plan::Neighbours(crowd) => bench.neighbours(crowd).await,
    }
}

#[derive(Debug, Clone, Copy)]
enum Plan {
    Single(Work),
    Compare(u8),
    Topics(u8),
    Neighbours(Crowd),
}

/// The node that is measured.
struct Site {
    address: String,
    admin: Option<String>,
    token: String,
    // kept until the end: dropping it ends the node
    own: Option<OwnNode>,
}

impl Site {
    async fn find(setup: &Setup, node: impl FnOnce() -> Result<Client, Failure>) -> Result<Site, Failure> {
        if let (Some(url), Some(token)) = (&setup.url, &setup.token) {
            let address = address_of(url)?;
            return Ok(Site { address, admin: setup.admin.clone(), token: token.clone(), own: None });
        }
        if !setup.spawn {
            let mut node = node()?;
            let status: Status = control::status(&mut node).await?;
            let named = |name: &str| status.address(name).map(str::to_owned);
            let address = named("mailbox").ok_or_else(|| failed("the node serves no mailbox listener"))?;
            let token = mint(&mut node).await?;
            return Ok(Site { address, admin: named("mailbox_admin"), token, own: None });
        }
        let mut own = OwnNode::prepare(setup.dir.as_deref())?;
        own.configure("", "", "[chaos]\nenabled = true\n")?;
        own.start().await?;
        if own.in_memory() {
            warn("the node's directory is on tmpfs, where fsync costs nothing: name a disk with --dir");
        }
        let token = mint(&mut own.control()).await?;
        let (address, admin) = (own.address("mailbox")?, Some(own.address("mailbox_admin")?));
        Ok(Site { address, admin, token, own: Some(own) })
    }

    /// The store's commits so far, and the seconds they took; `None` where there is no admin port to ask.
    async fn commits(&self) -> Result<Option<Commits>, Failure> {
        let Some(admin) = &self.admin else { return Ok(None) };
        commits(&mut Client::new(Door::Tcp(admin.clone()))).await.map(Some)
    }
}

/// A number of commits, and the seconds they took.
type Commits = (u64, f64);

/// The store's so far.
async fn commits(admin: &mut Client) -> Result<Commits, Failure> {
    let answer = admin.call(Call::get("/metrics")).await?;
    let text = String::from_utf8_lossy(&answer.body);
    let of = |name| report::counter(&text, name);
    Ok((of("store_commit_seconds_count") as u64, of("store_commit_seconds_sum")))
}

async fn mint(node: &mut Client) -> Result<String, Failure> {
    let ops = [Op::Enqueue, Op::Recv, Op::Ack];
    Ok(control::mint_for(node, TENANT, &ops, TOKEN_TTL_MS).await?.token)
}

struct Bench {
    setup: Setup,
    site: Site,
    out: Output,
}

impl Bench {
    async fn single(&self, work: Work) -> Result<(), Failure> {
        let run = self.measure(work, self.setup.topics.unwrap_or(1), work.name()).await?;
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
                comparison.add(work.name(), self.measure(work, topics, &label).await?)?;
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
                comparison.add(name, self.measure(Work::Enqueue, *topics, &label).await?)?;
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
            tenant: TENANT.to_owned(),
            prefix: "t".to_owned(),
            topics: topics as usize,
            size: self.setup.size.unwrap_or(SIZE) as usize,
            connections: self.setup.connections.unwrap_or(CONNECTIONS).into(),
            warmup: self.setup.warmup,
            duration: self.setup.duration,
        }
    }

    /// One run of one tenant.
    async fn measure(&self, work: Work, topics: u32, label: &str) -> Result<Run, Failure> {
        let load = self.load(topics);
        let done = Rc::new(Cell::new(0));
        let running = load::run(&load, work, Rc::clone(&done));
        let (tally, commits) = self.watched(label, running, &done).await?;
        Ok(Run::new(work, &load, tally, commits.map(|(commits, _)| commits)))
    }

    /// What `running` gives, with a progress bar for who watches, and the store's commits in the counted time with the
    /// seconds they took.
    async fn watched<T>(
        &self,
        label: &str,
        running: impl Future<Output = Result<T, Failure>>,
        done: &Cell<u64>,
    ) -> Result<(T, Option<Commits>), Failure> {
        let Setup { warmup, duration, .. } = self.setup;
        let counting = async {
            tokio::time::sleep(warmup).await;
            let before = self.site.commits().await?;
            tokio::time::sleep(duration).await;
            let after = self.site.commits().await?;
            let since =
                |(before, after): (Commits, Commits)| (after.0.saturating_sub(before.0), after.1 - before.1);
            Ok::<_, Failure>(before.zip(after).map(since))
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

/// `HOST:PORT` of an http URL.
fn address_of(url: &str) -> Result<String, Failure> {
    let bad = || Failure::Usage(format!("--url {url}: write http://HOST:PORT"));
    let uri: http::Uri = url.parse().map_err(|_| bad())?;
    let authority = uri.authority().ok_or_else(bad)?;
    let plain = matches!(uri.scheme_str(), None | Some("http")) && !authority.as_str().contains('@');
    let whole = matches!(uri.path(), "" | "/") && uri.query().is_none();
    if !plain || !whole {
        return Err(bad());
    }
    Ok(format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(80)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_plain_http_and_no_more() {
        let of = |url| address_of(url).map_err(|err| err.code());
        assert_eq!(of("http://127.0.0.1:9410"), Ok("127.0.0.1:9410".to_owned()));
        assert_eq!(of("http://localhost/"), Ok("localhost:80".to_owned()));
        assert_eq!(of("http://[::1]:9410"), Ok("[::1]:9410".to_owned()));
        for bad in ["https://a", "http://a/v1", "http://u:p@a", "http://a?x", "", "http://"] {
            assert_eq!(of(bad), Err(2), "{bad}");
        }
    }
}
