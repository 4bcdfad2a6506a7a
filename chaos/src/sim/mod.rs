//! The simulator: the node's own tree (root, store over real redb, router, shards) on one thread under a paused clock,
//! virtual clients and operators, and faults. What the clients see is recorded and judged by `ron_history`, which
//! shares no code with the node.
//!
//! Everything follows from the seed. Every answered call, commit and fault is a line of a running BLAKE3, the
//! *event hash*: the same seed gives the same hash in every process and beside any number of other runs. What
//! could break that, and is kept out: the blocking pool (`Blocking::Paced` instead), the order of hash maps, random
//! `select!` branches (ractor's are biased), the kill of a whole supervisor (ractor ends its children in the
//! order of a hash map), and every clock but the runtime's.

mod client;
mod life;
mod log;
mod medium;
mod operate;
mod ops;
mod plan;
mod receive;
mod restore;
mod rng;
mod settle;
mod trouble;
mod world;

pub use medium::{Fault, On};

use life::End;
use plan::Plan;
use rng::Rng;
use ron_core::planted::{self, Bug};
use ron_core::time::Millis;
use ron_history::Violation;
use ron_history::record::Record;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use world::World;

/// Node time when a simulation begins.
const EPOCH_MS: u64 = 1_800_000_000_000;
/// Records shown of the messages that a broken promise names.
const SHOWN_MAX: usize = 60;
/// Characters shown of one.
const SHOWN_CHARS: usize = 600;

/// What to simulate.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Everything follows from it.
    pub seed: u64,
    /// Operations of the clients, all lives together.
    pub steps: u64,
    /// Keep every line of the log, and not only the last.
    pub trace: bool,
    /// A bug to plant.
    pub bug: Option<Bug>,
    /// Faults at chosen operations of the disk, counted from when the node is up, and none that the seed would draw.
    pub faults: Option<Vec<Fault>>,
}

/// A simulation that ended well.
#[derive(Debug, Clone)]
pub struct Report {
    /// Its seed.
    pub seed: u64,
    /// The event hash, in hex.
    pub hash: String,
    /// Lines in it.
    pub events: u64,
    /// Node time that passed, ms.
    pub node_ms: u64,
    /// How often each kind of event and outcome was reached.
    pub counts: BTreeMap<String, u64>,
    /// The log, if it was asked for.
    pub lines: String,
    /// What the clients saw.
    pub history: Vec<Record>,
    /// Operations of the disk in the last life with clients until its faults ended, and how many of them failed.
    pub disk_ops: (u64, u64),
}

/// A broken promise, and how to see it again.
#[derive(Debug, Clone)]
pub struct Failure {
    /// The seed that shows it.
    pub seed: u64,
    /// Steps of the run.
    pub steps: u64,
    /// What was broken.
    pub complaint: String,
    /// What led to it.
    pub lines: String,
    /// What the clients saw.
    pub history: Vec<Record>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Failure { seed, steps, complaint, lines, .. } = self;
        write!(f, "{lines}seed={seed} FAILED: {complaint}\nreplay: sim --seed {seed} --steps {steps} --trace")
    }
}

impl std::error::Error for Failure {}

/// Runs one simulation and judges it.
///
/// # Errors
/// The first promise that was broken.
pub fn run(options: &Options) -> Result<Report, Box<Failure>> {
    planted::plant(options.bug);
    let ran = run_planted(options);
    planted::plant(None);
    ran
}

fn run_planted(options: &Options) -> Result<Report, Box<Failure>> {
    let Options { seed, steps, trace, .. } = *options;
    let failed = |complaint, lines, history| Box::new(Failure { seed, steps, complaint, lines, history });
    let plan = if options.faults.is_some() { Plan::script(seed, steps) } else { Plan::of(seed, steps) };
    let faults = options.faults.clone().unwrap_or_default();
    let world = World::new(plan, trace, faults).map_err(|bad| failed(bad, String::new(), Vec::new()))?;
    let world = Arc::new(world);
    let lived = live_all(&world);
    let inner = world.lock();
    let history = inner.log.history().to_vec();
    let lived = lived.map_err(|complaint| failed(complaint, inner.log.lines(), history.clone()))?;
    if let Some(first) = ron_history::judge(&history).first() {
        let lines = if trace { inner.log.lines() } else { shown(&history, first) };
        return Err(failed(first.to_string(), lines, history));
    }
    Ok(Report {
        seed,
        hash: inner.log.hash(),
        events: inner.log.events(),
        node_ms: lived.since(Millis(EPOCH_MS)),
        counts: inner.log.counts(),
        lines: if trace { inner.log.lines() } else { String::new() },
        history,
        disk_ops: inner.disk_ops,
    })
}

/// The records that tell of the messages that a violation names, and what happened to the node.
fn shown(history: &[Record], violation: &Violation) -> String {
    let is_id = |word: &&str| word.len() == 26;
    let ids: BTreeSet<&str> =
        violation.text.split(|c: char| !c.is_ascii_alphanumeric()).filter(is_id).collect();
    let mut lines = Vec::new();
    for (number, record) in history.iter().enumerate() {
        let text = format!("{:?}", record.event);
        let about_node = !text.starts_with("Begin") && !text.starts_with("End");
        if number == violation.record || about_node || ids.iter().any(|id| text.contains(id)) {
            let text: String = text.chars().take(SHOWN_CHARS).collect();
            lines.push(format!("{number:>6} {:>9} {text}\n", record.ms.saturating_sub(EPOCH_MS)));
        }
    }
    lines.drain(..lines.len().saturating_sub(SHOWN_MAX));
    lines.concat()
}

fn live_all(world: &Arc<World>) -> Result<Millis, String> {
    let Plan { seed, steps, lives, wall_steps, restores, .. } = world.plan;
    let mut rng = Rng::new(seed, 3);
    let mut wall = Millis(EPOCH_MS);
    for life in 1..=lives {
        let last = life == lives;
        let end = match last {
            true => End::Drain,
            false if rng.chance(70) => End::PowerCut,
            false => End::Stop,
        };
        world.lock().life_ends = steps * life / lives;
        wall = life::live(world, wall, end)?;
        // For a while there is no node.
        wall = wall.plus(rng.pick(&[0, 1, 100, 3_000, 40_000]));
        if wall_steps && !last && rng.chance(50) {
            let step = rng.below(1_200_001) as i64 - 600_000;
            wall = Millis(wall.0.saturating_add_signed(step));
        }
        if restores && !last && rng.chance(60) {
            restore::restore(world, &mut rng, wall)?;
        }
    }
    life::live(world, wall, End::Look)
}
