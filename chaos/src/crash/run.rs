//! Many workloads, many power failures in each.

use super::image::Imager;
use super::judge::{Case, Judged, judge, marks_at};
use super::model::Model;
use super::rng::Rng;
use super::told::Tally;
use super::world::{Outcome, World};
use super::{Broken, Violation};
use crate::disk::LyingDisk;
use ron_core::time::Millis;
use std::collections::BTreeMap;

/// When the clocks of all workloads start.
const START: Millis = Millis(1_700_000_000_000);
/// What the kernel leaves un-synced by itself, in operations, when syncs are dropped.
const WRITE_BACK: usize = 60;

/// What to run.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// First seed; each workload has the next.
    pub seed: u64,
    /// Power failures in all, those during recoveries included.
    pub images: u64,
    /// Power failures in one workload.
    pub per_workload: u64,
    /// Rounds of a workload.
    pub rounds: u32,
    /// Leave `sync_data` out.
    pub drop_syncs: bool,
}

/// What was found.
#[derive(Debug, Clone, Default)]
pub struct Summary {
    /// What was judged and found right.
    pub judged: Judged,
    /// Commits of the workloads.
    pub commits: u64,
    /// Disk operations of the workloads.
    pub ops: u64,
    /// Workloads run.
    pub workloads: u64,
    /// What they brought about.
    pub tally: Tally,
    /// Their commits of background work.
    pub tidied: u64,
    /// Images of each kind of violation.
    pub broken: BTreeMap<Broken, u64>,
    /// The first few of them, with the seed of the workload.
    pub violations: Vec<(u64, Violation)>,
}

impl Summary {
    /// Images judged in all.
    #[must_use]
    pub fn images(&self) -> u64 {
        self.judged.images + self.violations()
    }

    /// Images in which a promise was broken.
    #[must_use]
    pub fn violations(&self) -> u64 {
        self.broken.values().sum()
    }

    fn note(&mut self, seed: u64, violation: Violation) {
        *self.broken.entry(violation.broken).or_default() += 1;
        if self.violations.len() < 20 {
            self.violations.push((seed, violation));
        }
    }
}

/// A workload of `rounds` on a new disk.
///
/// # Errors
/// A promise broken before any power failed.
pub fn workload(disk: LyingDisk, seed: u64, rounds: u32) -> Result<World, Violation> {
    let (mut world, seen, _) = World::boot(disk, START, seed)?;
    world.adopt(Model::default());
    if let Some(difference) = seen.differs(&world.model) {
        return Err(Violation::state(difference));
    }
    // From here on the store has been seen by somebody.
    world.adopt(Model::default());
    for _ in 0..rounds {
        if let Outcome::Failed(failure) = world.round()? {
            return Err(Violation::contract(format!("a commit failed: {failure:?}")));
        }
    }
    Ok(world)
}

/// Runs the plan; `progress` is told how many images are done.
pub fn run(plan: Plan, progress: &mut dyn FnMut(u64)) -> Summary {
    let mut summary = Summary::default();
    let mut seed = plan.seed;
    while summary.images() < plan.images {
        let left = plan.images - summary.images();
        // Half of them are followed by a second one.
        let points = left.min(plan.per_workload).div_ceil(3) * 2;
        let disk = LyingDisk::default();
        let disk = if plan.drop_syncs { disk.dropping_syncs() } else { disk };
        match workload(disk, seed, plan.rounds) {
            Ok(world) => power_failures(&world, seed, points, plan, &mut summary, progress),
            Err(violation) => summary.note(seed, violation),
        }
        summary.workloads += 1;
        seed += 1;
    }
    summary
}

/// Lets the power fail `points` times while `world` was what it became, and judges each; half of them fail
/// again during the recovery.
pub fn power_failures(
    world: &World,
    seed: u64,
    points: u64,
    plan: Plan,
    summary: &mut Summary,
    progress: &mut dyn FnMut(u64),
) {
    let mut rng = Rng::new(seed, 3);
    let log = world.disk.log();
    summary.commits += world.marks.len() as u64;
    summary.ops += log.len() as u64;
    summary.tally.add(&world.model.tally);
    summary.tidied += world.tidied;
    let mut at: Vec<usize> = (0..points).map(|_| rng.index(log.len() + 1)).collect();
    at.sort_unstable();
    let mut imager = Imager::new(&log, None);
    if plan.drop_syncs {
        imager = imager.writing_back(WRITE_BACK);
    }
    for (i, at) in at.into_iter().enumerate() {
        imager.advance(at);
        let case = Case {
            image: imager.image(&mut rng),
            marks: marks_at(&world.marks, at),
            seed: rng.bits(),
            again: i % 2 == 0,
        };
        match judge(case) {
            Ok(judged) => summary.judged.add(judged),
            Err(violation) => summary.note(seed, violation),
        }
        progress(summary.images());
    }
}
