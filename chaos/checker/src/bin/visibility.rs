//! The visibility drill: messages whose leases run out come back soon after their deadline and never before it,
//! while the node is stopped, killed and started, and its wall clock is stepped by ten minutes.
#![allow(clippy::print_stdout)] // its output is its product

use anyhow::{Context, Result, anyhow, ensure};
use clap::Parser;
use ron_checker::api::{Api, percentile, ronctl, text};
use ron_checker::clock::{self, Clock, Micros};
use ron_checker::lease::load::{self, Shared};
use ron_checker::lease::{Outage, Round};
use ron_checker::node::{Node, Setup, TENANT};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const READY_LIMIT: Duration = Duration::from_secs(60);
/// How long a stopped node is stopped.
const STOPPED: Duration = Duration::from_millis(400);
/// Steps of the wall clock, seconds.
const STEP_S: i64 = 600;
/// A client that wakes up later than this cannot see what is asked of the node, µs.
const OWN_LATENESS_MAX: u64 = 3_000;
/// Exit code of a drill that could not be carried out, so that nobody takes that for a finding.
const NOT_DONE: u8 = 77;

/// Lets leases run out and sees when their messages come back. Exit 1 if one came early, or the p99 late; 77 if the
/// drill could not be carried out, or the machine was too busy to tell.
#[derive(Parser, Debug)]
#[command(name = "visibility")]
struct Args {
    /// The ron-node binary.
    #[arg(long)]
    node: PathBuf,
    /// The ronctl binary.
    #[arg(long)]
    ronctl: PathBuf,
    /// A new directory for the node's data and its log.
    #[arg(long)]
    dir: PathBuf,
    /// Leases of each of the three rounds.
    #[arg(long, default_value_t = 2_000)]
    leases: usize,
    /// Topics they are spread over; each has a client that waits.
    #[arg(long, default_value_t = 4)]
    topics: usize,
    /// Seconds over which deadlines are spread.
    #[arg(long, default_value_t = 10)]
    window_s: u64,
    /// Seconds before the first deadline in which the leases are taken.
    #[arg(long, default_value_t = 6)]
    take_s: u64,
    /// Most that the p99 may be late, ms.
    #[arg(long, default_value_t = 50)]
    late_ms: u64,
    /// Rounds tried until one keeps that: a neighbour on the machine can spoil one. All are printed.
    #[arg(long, default_value_t = 3)]
    tries: u64,
    /// The library that steps the node's wall clock.
    #[arg(long, default_value = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1")]
    faketime: PathBuf,
    /// The control: judges by deadlines this much later than they are, ms.
    #[arg(long, default_value_t = 0)]
    judge_later_ms: u64,
}

/// What is done to the node while leases run out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    /// SIGKILL, and a start with the wall clock ten minutes ahead; once more, with it ten minutes back.
    Restarts,
    /// The wall clock steps ten minutes ahead, and twenty back; between, SIGSTOP and SIGCONT.
    Steps,
    /// Nothing.
    None,
}

fn main() -> ExitCode {
    let args = Args::parse();
    match Drill::start(&args).and_then(|mut drill| drill.run()) {
        Ok((faults, busy)) if faults.is_empty() && !busy => ExitCode::SUCCESS,
        Ok((faults, _)) if faults.is_empty() => {
            println!("visibility: NOT DONE: the machine is too busy to see how late messages come back");
            NOT_DONE.into()
        }
        Ok((faults, _)) => {
            faults.iter().for_each(|fault| println!("  {fault}"));
            println!("FAILED: {} faults", faults.len());
            ExitCode::FAILURE
        }
        Err(error) => {
            println!("visibility: NOT DONE: {error:#}");
            NOT_DONE.into()
        }
    }
}

/// What a round found.
struct Found {
    /// Nothing excuses these.
    broken: Vec<String>,
    /// Too late: of the node, or of a machine that does something else.
    late: Option<String>,
    /// How late the client itself wakes up, µs.
    own: u64,
}

struct Drill<'a> {
    args: &'a Args,
    setup: Setup,
    node: Node,
    shared: Arc<Shared>,
    outages: Vec<Outage>,
}

impl Drill<'_> {
    fn start(args: &Args) -> Result<Drill<'_>> {
        ensure!(args.faketime.is_file(), "{}: libfaketime is not installed", args.faketime.display());
        fs::create_dir_all(&args.dir)?;
        let setup = Setup {
            node: fs::canonicalize(&args.node).context("--node")?,
            ronctl: fs::canonicalize(&args.ronctl).context("--ronctl")?,
            dir: fs::canonicalize(&args.dir)?,
            amnesia: false,
            dedup_window_ms: 300_000,
        };
        ensure!(!setup.data_dir().exists(), "{} holds the data of another run", args.dir.display());
        setup.write()?;
        let config = fs::read_to_string(setup.config())?;
        let config = config.replacen("[mailbox]\n", "[mailbox]\nmax_inflight = 1000000\n", 1);
        fs::write(setup.config(), config)?;
        let clock = Clock::start();
        let (node, mailbox) = started(args, &setup, clock, 0, 0)?;
        let shared = Arc::new(Shared::new(clock, setup.mint()?, mailbox));
        load::probe(&shared)?;
        Ok(Drill { args, setup, node, shared, outages: Vec::new() })
    }

    /// Faults, and whether the machine was too busy to judge lateness.
    fn run(&mut self) -> Result<(Vec<String>, bool)> {
        let (mut faults, mut busy, mut number) = (Vec::new(), false, 0);
        for trouble in [Trouble::Restarts, Trouble::Steps, Trouble::None] {
            for left in (0..self.args.tries.max(1)).rev() {
                number += 1;
                let Found { broken, late, own } = self.round(number, trouble)?;
                faults.extend(broken.into_iter().map(|fault| format!("{trouble:?}: {fault}")));
                let Some(late) = late else { break };
                if left > 0 {
                    println!("  once more: {late}");
                } else if own > OWN_LATENESS_MAX {
                    busy = true;
                } else {
                    faults.push(format!("{trouble:?}: {late}"));
                }
            }
        }
        self.node.kill()?;
        Ok((faults, busy))
    }

    fn round(&mut self, number: usize, trouble: Trouble) -> Result<Found> {
        self.outages.clear();
        let (topics, each) = (self.args.topics, self.args.leases / self.args.topics);
        let topic = move |n: usize| format!("r{number}-t{n}");
        join((0..topics).map(|n| {
            let shared = self.shared.clone();
            std::thread::spawn(move || load::send(&shared, &topic(n), each))
        }))?;
        let take = Duration::from_secs(self.args.take_s);
        let first = self.shared.clock.now() + u64::try_from(take.as_micros())?;
        let window = Duration::from_secs(self.args.window_s);
        let taken = join((0..topics).map(|n| {
            let (shared, seed) = (self.shared.clone(), (number * 1_000 + n) as u64);
            std::thread::spawn(move || load::take(&shared, &topic(n), each, first, window, seed))
        }))?;
        let took = self.shared.clock.now() + u64::try_from(take.as_micros())? - first;
        let over = Arc::new(AtomicBool::new(false));
        let waiting: Vec<_> = (0..topics)
            .map(|n| {
                let (shared, over) = (self.shared.clone(), over.clone());
                std::thread::spawn(move || load::wait(&shared, &topic(n), each, &over))
            })
            .collect();
        let (clock, ends) = (self.shared.clock, over.clone());
        let own = std::thread::spawn(move || load::own_lateness(clock, &ends));
        self.make(trouble, first)?;
        // What a killed node had handed out in an answer that nobody read comes again when that lease has run out.
        let end = first + u64::try_from((window + load::KEPT + Duration::from_secs(40)).as_micros())?;
        let left = Duration::from_micros(end.saturating_sub(self.shared.clock.now()));
        clock::poll(left, Duration::from_millis(50), || {
            waiting.iter().all(|one| one.is_finished()).then_some(())
        });
        over.store(true, Ordering::SeqCst);
        let returns = join(waiting.into_iter())?;
        let own = own.join().map_err(|_| anyhow!("a client panicked"))?;
        let mut round = Round {
            leases: taken.into_iter().flatten().collect(),
            returns: returns.into_iter().flatten().collect(),
            outages: self.outages.clone(),
            catch_up: 1_000_000,
            kept: u64::try_from(load::KEPT.as_micros())?,
        };
        for lease in round.leases.values_mut() {
            lease.deadline_ms += self.args.judge_later_ms;
        }
        Ok(self.judge(&round, trouble, took, own))
    }

    fn judge(&self, round: &Round, trouble: Trouble, took: Micros, own: u64) -> Found {
        let offsets = self.shared.offsets();
        let mut judgement = round.judge(&offsets);
        let widest = offsets.iter().map(|offset| offset.width()).filter(|width| *width < i64::MAX / 2).max();
        let late = [50.0, 99.0, 100.0].map(|at| percentile(&mut judgement.late, at) as f64 / 1e3);
        println!(
            "{trouble:?}: {} leases taken in {:.1} s, {} came back; {} over an outage; the other {} late by p50 {:.1} \
             ms, p99 {:.1} ms, at most {:.1} ms; clocks known to {} µs; this client itself wakes up late by p99 {:.1} ms",
            round.leases.len(),
            took as f64 / 1e6,
            round.returns.len(),
            judgement.touched,
            judgement.late.len(),
            late[0],
            late[1],
            late[2],
            widest.unwrap_or_default(),
            own as f64 / 1e3,
        );
        let too_late = !judgement.late.is_empty() && late[1] > self.args.late_ms as f64;
        let text = || format!("the p99 is {:.1} ms late, {} are allowed", late[1], self.args.late_ms);
        Found { broken: judgement.faults, late: too_late.then(text), own }
    }

    /// Makes trouble at set points of the window that begins at `first`.
    fn make(&mut self, trouble: Trouble, first: Micros) -> Result<()> {
        let window = self.args.window_s * 1_000_000;
        match trouble {
            Trouble::None => Ok(()),
            Trouble::Restarts => {
                self.restart(STEP_S)?;
                self.until(first + window * 3 / 10);
                self.restart(-STEP_S)
            }
            Trouble::Steps => {
                self.until(first + window / 10);
                self.step(STEP_S)?;
                self.until(first + window * 3 / 10);
                self.stop()?;
                self.until(first + window / 2);
                self.step(-STEP_S)?;
                self.until(first + window * 7 / 10);
                self.stop()?;
                self.until(first + window * 17 / 20);
                self.step(0)
            }
        }
    }

    fn until(&self, at: Micros) {
        clock::sleep(Duration::from_micros(at.saturating_sub(self.shared.clock.now())));
    }

    fn restart(&mut self, step_s: i64) -> Result<()> {
        let from = self.shared.clock.now();
        self.node.kill()?;
        let life = self.shared.lives();
        let (node, mailbox) = started(self.args, &self.setup, self.shared.clock, life, step_s)?;
        self.node = node;
        self.outages.push(Outage { from, to: self.shared.clock.now(), restart: true });
        self.shared.restarted(mailbox);
        load::probe(&self.shared)?;
        println!("  killed, and started with the wall clock at {step_s:+} s");
        self.shows(step_s)
    }

    fn step(&self, step_s: i64) -> Result<()> {
        set(&self.setup, step_s)?;
        // the library looks about once a second
        let shown =
            clock::poll(Duration::from_secs(5), Duration::from_millis(200), || self.shows(step_s).ok());
        println!("  the wall clock stepped to {step_s:+} s");
        if shown.is_some() { Ok(()) } else { self.shows(step_s) }
    }

    fn stop(&mut self) -> Result<()> {
        let pid = i32::try_from(self.node.pid()).ok().and_then(Pid::from_raw).context("no process id")?;
        let from = self.shared.clock.now();
        kill_process(pid, Signal::STOP).context("SIGSTOP")?;
        clock::sleep(STOPPED);
        kill_process(pid, Signal::CONT).context("SIGCONT")?;
        self.outages.push(Outage { from, to: self.shared.clock.now(), restart: false });
        println!("  stopped for {STOPPED:?}");
        Ok(())
    }

    /// Whether the step reached the node, or it would prove nothing: a token that is good for another five minutes
    /// is not when it is ten minutes later, and one that is good since five minutes is not ten minutes earlier.
    fn shows(&self, step_s: i64) -> Result<()> {
        let ring = self.setup.data_dir().join("keyring");
        let ring = ring.to_str().context("the keyring's path")?;
        let minted = ["--tenant", TENANT, "--topic", "*", "--op", "stat", "--ttl", "5m", "--keyring", ring];
        let minted = ronctl(&self.setup, &[&["cap", "mint"][..], &minted].concat())?;
        let short = text(&minted, "token");
        let caveat = format!("nbf = {}", self.shared.clock.now() / 1_000_000 - 300);
        let later = ronctl(&self.setup, &["cap", "attenuate", short, "--caveat", &caveat])?;
        let refused = [short, text(&later, "token")].map(|token| {
            let answer = Api::new(self.shared.mailbox(), token).try_call("GET", "probe", &[], b"");
            answer.map(|answer| answer.status == 401).map_err(|failure| anyhow!("{failure:?}"))
        });
        let [short, later] = refused;
        let right = match step_s.signum() {
            1 => [true, true], // what has expired has expired, whatever else it says
            -1 => [false, true],
            _ => [false, false],
        };
        let shown = [short?, later?];
        ensure!(shown == right, "the node's wall clock does not show {step_s:+} s: {shown:?}");
        Ok(())
    }
}

/// The offset of the node's wall clock, where the library reads it.
fn set(setup: &Setup, step_s: i64) -> Result<()> {
    let (path, draft) = (setup.data_dir().join("wall-clock"), setup.data_dir().join("wall-clock.new"));
    fs::create_dir_all(setup.data_dir())?;
    fs::write(&draft, format!("{step_s:+}\n"))?;
    fs::rename(draft, path).context("step the wall clock")
}

/// Starts the node's next life, on a loopback address of its own: a port that was free could be that of an earlier
/// life, and a client that has not noticed the end of that one would take what this one says for its word.
fn started(args: &Args, setup: &Setup, clock: Clock, life: usize, step_s: i64) -> Result<(Node, SocketAddr)> {
    set(setup, step_s)?;
    let mut command = setup.command();
    command
        .env("LD_PRELOAD", &args.faketime)
        .env("FAKETIME_TIMESTAMP_FILE", setup.data_dir().join("wall-clock"))
        .env("FAKETIME_CACHE_DURATION", "1")
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .env("MAILBOX_LISTEN", format!("127.0.0.{}:0", life + 1));
    let mut node = Node::start(command, &setup.log(), &clock)?;
    let mailbox = node.wait_ready(READY_LIMIT)?.mailbox;
    Ok((node, mailbox))
}

fn join<T>(threads: impl Iterator<Item = std::thread::JoinHandle<Result<T>>>) -> Result<Vec<T>> {
    let all: Vec<_> = threads.collect();
    all.into_iter().map(|thread| thread.join().map_err(|_| anyhow!("a client panicked"))?).collect()
}
