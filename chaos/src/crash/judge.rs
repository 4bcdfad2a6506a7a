//! Boots a node on the disk that a power failure left, and compares it with what its clients had been told.

use super::image::Imager;
use super::rng::Rng;
use super::world::{Mark, Outcome, World};
use super::{Broken, Violation};
use crate::disk::LyingDisk;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// A disk after a power failure.
#[derive(Debug)]
pub struct Case<'a> {
    /// The store's file.
    pub image: Option<Vec<u8>>,
    /// What clients had been told, and what they would have been told next: the commit in flight may have
    /// landed, as a whole.
    pub marks: &'a [Mark],
    /// What to do with it.
    pub seed: u64,
    /// Whether the power fails again during the recovery.
    pub again: bool,
}

/// What was found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Judged {
    /// Images built and judged.
    pub images: u64,
    /// Of them, those that crashed a recovery.
    pub recoveries: u64,
    /// Those in which the commit in flight had landed.
    pub landed: u64,
    /// Live messages compared.
    pub messages: u64,
}

impl Judged {
    /// Both together.
    pub fn add(&mut self, other: Judged) {
        self.images += other.images;
        self.recoveries += other.recoveries;
        self.landed += other.landed;
        self.messages += other.messages;
    }
}

/// Judges one disk.
///
/// # Errors
/// The first promise found broken.
pub fn judge(case: Case<'_>) -> Result<Judged, Violation> {
    // redb may panic on what it has not written, and so may we: that is a finding, not the end of the run.
    catch_unwind(AssertUnwindSafe(|| judge_inner(case))).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(Violation { broken: Broken::Panicked, text: text.unwrap_or_default() })
    })
}

fn judge_inner(case: Case<'_>) -> Result<Judged, Violation> {
    let mut rng = Rng::new(case.seed, 2);
    let down_ms = if rng.chance(50) { rng.between(0, 100) } else { rng.between(100, 40_000) };
    let latest = case.marks.iter().map(|mark| mark.now).max().unwrap_or_default();
    let image = case.image;
    let disk = LyingDisk::holding(image.clone());
    let (mut world, seen, last_alive) = World::boot(disk, latest.plus(down_ms), case.seed)?;
    let mut judged = Judged { images: 1, ..Judged::default() };

    let differences: Vec<Option<String>> = case.marks.iter().map(|mark| seen.differs(&mark.model)).collect();
    // A commit of background work changes no more than the time: then the later mark is the one that landed.
    let landed = |(at, difference): (usize, &Option<String>)| {
        difference.is_none() && (last_alive <= case.marks[at].now || at + 1 == case.marks.len())
    };
    let Some(which) = differences.iter().enumerate().position(landed) else {
        let text: Vec<String> = differences.into_iter().flatten().collect();
        return Err(Violation::state(text.join(" | nor the next: ")));
    };
    let mark = &case.marks[which];
    judged.landed += u64::from(which > 0);
    if mark.incarnation.is_some_and(|is| is != world.cell.identity().incarnation) {
        return Err(Violation::state("another incarnation: every receipt has become stale".to_owned()));
    }
    if last_alive > mark.now {
        let text = format!("alive at {last_alive:?}, but the last commit was at {:?}", mark.now);
        return Err(Violation::state(text));
    }
    let mut model = (*mark.model).clone();
    let still = model.power_fails(last_alive);
    if *still != world.still {
        let text = format!("lease clocks stand still since {:?}, expected {still:?}", world.still);
        return Err(Violation::state(text));
    }
    world.adopt(model);
    judged.messages += (1..=super::world::SHARDS).map(|shard| world.model.live(shard) as u64).sum::<u64>();
    answered(world.settle_in()?)?;
    let recovered = world.disk.ops();
    answered(world.probe_keys()?)?;
    if rng.chance(10) {
        for _ in 0..3 {
            answered(world.round()?)?;
        }
    }
    if case.again {
        let at = rng.index(recovered + 1);
        let log = world.disk.log();
        let mut imager = Imager::new(&log, image);
        imager.advance(at);
        let image = imager.image(&mut rng);
        let marks = marks_at(&world.marks, at);
        let mut second = judge(Case { image, marks, seed: rng.bits(), again: false })?;
        second.recoveries = 1;
        judged.add(second);
    }
    Ok(judged)
}

/// The last mark that had been given when the disk had seen `ops` operations, and the next.
pub(super) fn marks_at(marks: &[Mark], ops: usize) -> &[Mark] {
    let given = marks.partition_point(|mark| mark.ops <= ops).max(1);
    &marks[given - 1..marks.len().min(given + 1)]
}

fn answered(outcome: Outcome) -> Result<(), Violation> {
    match outcome {
        Outcome::Answered => Ok(()),
        Outcome::Failed(failure) => Err(Violation::contract(format!("a commit failed: {failure:?}"))),
    }
}
