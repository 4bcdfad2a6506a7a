//! The simulator, first form: the node's own tree (root, store over real redb, router, shards) on one thread
//! under a paused clock, virtual clients, faults, and a model that knows what was promised to the clients.
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
mod model;
mod ops;
mod plan;
mod rng;
mod settle;
mod world;

use life::End;
use plan::Plan;
use rng::Rng;
use ron_core::time::Millis;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use world::World;

/// Node time when a simulation begins.
const EPOCH_MS: u64 = 1_800_000_000_000;

/// What to simulate.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Everything follows from it.
    pub seed: u64,
    /// Operations of the clients, all lives together.
    pub steps: u64,
    /// Keep every line of the log, and not only the last.
    pub trace: bool,
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
    /// The last lines of the log.
    pub lines: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Failure { seed, steps, complaint, lines } = self;
        write!(f, "{lines}seed={seed} FAILED: {complaint}\nreplay: sim --seed {seed} --steps {steps} --trace")
    }
}

impl std::error::Error for Failure {}

/// Runs one simulation.
///
/// # Errors
/// The first promise that was broken.
pub fn run(options: &Options) -> Result<Report, Box<Failure>> {
    let Options { seed, steps, trace } = *options;
    let failed = |complaint, lines| Box::new(Failure { seed, steps, complaint, lines });
    let world = World::new(Plan::of(seed, steps), trace).map_err(|bad| failed(bad, String::new()))?;
    let world = Arc::new(world);
    let lived = live_all(&world).map_err(|complaint| failed(complaint, world.lock().log.lines()))?;
    let inner = world.lock();
    Ok(Report {
        seed,
        hash: inner.log.hash(),
        events: inner.log.events(),
        node_ms: lived.since(Millis(EPOCH_MS)),
        counts: inner.log.counts(),
        lines: if trace { inner.log.lines() } else { String::new() },
    })
}

fn live_all(world: &Arc<World>) -> Result<Millis, String> {
    let Plan { seed, steps, lives, .. } = world.plan;
    let mut rng = Rng::new(seed, 3);
    let mut now = Millis(EPOCH_MS);
    for life in 1..=lives {
        let last = life == lives;
        let end = match last {
            true => End::Drain,
            false if rng.chance(70) => End::PowerCut,
            false => End::Stop,
        };
        world.lock().life_ends = steps * life / lives;
        now = life::live(world, now, end)?;
        // For a while there is no node.
        now = now.plus(rng.pick(&[0, 1, 100, 3_000, 40_000]));
    }
    life::live(world, now, End::Look)
}
