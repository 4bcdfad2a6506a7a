//! Power failures and failing disks under the real store (SPEC §4.1–4.4, 4.13).

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use ron_chaos::crash::{
    Broken, Case, Imager, Lie, Model, Outcome, Plan, Rng, Summary, World, judge, power_failures, run,
    workload,
};
use ron_chaos::disk::{Fault, LyingDisk, On};
use std::io::ErrorKind;
use std::sync::Arc;

fn plan(seed: u64, images: u64) -> Plan {
    Plan { seed, images, per_workload: 150, rounds: 60, drop_syncs: false }
}

fn assert_held(summary: &Summary) {
    let text: Vec<String> =
        summary.violations.iter().map(|(seed, violation)| format!("seed {seed}: {violation}")).collect();
    assert_eq!(summary.violations(), 0, "{}", text.join("\n"));
}

#[test]
fn nothing_answered_is_lost_torn_or_undone_by_a_power_failure() {
    let summary = run(plan(1, 1_200), &mut |_| ());
    assert_held(&summary);
    assert!(summary.images() >= 1_200 && summary.judged.recoveries >= 400, "{:?}", summary.judged);
    assert!(summary.judged.landed > 0, "some commits in flight land");
    let tally = summary.tally;
    let all = [
        tally.stored,
        tally.large,
        tally.duplicates,
        tally.conflicts,
        tally.delivered,
        tally.acked,
        tally.failed,
        tally.released,
        tally.rejected,
        tally.extended,
        tally.refused,
        tally.timed_out,
        tally.expired,
        summary.tidied,
    ];
    assert!(all.iter().all(|&count| count >= 10), "the workload leaves something out: {tally:?}");
}

#[test]
fn without_sync_data_the_same_judge_finds_answered_messages_lost() {
    let summary = run(Plan { drop_syncs: true, ..plan(1, 150) }, &mut |_| ());
    assert!(summary.violations() * 2 > summary.images(), "{:?}", summary.broken);
    let states = summary.broken.get(&Broken::State).copied().unwrap_or_default();
    assert!(states >= 10, "not only stores that refuse to open: {:?}", summary.broken);
}

#[test]
fn a_power_failure_while_the_store_is_created_leaves_a_store_that_opens() {
    let world = workload(LyingDisk::default(), 7, 0).unwrap();
    let log = world.disk.log();
    let mut rng = Rng::new(7, 9);
    let mut imager = Imager::new(&log, None);
    for at in 0..=log.len() {
        imager.advance(at);
        for _ in 0..5 {
            let case = Case {
                image: imager.image(&mut rng),
                marks: &world.marks[..1],
                seed: rng.bits(),
                again: true,
            };
            judge(case).unwrap_or_else(|violation| panic!("at operation {at}: {violation}"));
        }
    }
}

#[test]
fn the_judge_notices_whatever_is_not_as_it_was_answered() {
    let world = workload(LyingDisk::default(), 11, 60).unwrap();
    let log = world.disk.log();
    let mut imager = Imager::new(&log, None);
    imager.advance(log.len());
    let last = world.marks.last().unwrap();
    let found = |model: Model| {
        let mut mark = last.clone();
        mark.model = Arc::new(model);
        let image = imager.image(&mut Rng::new(1, 1));
        judge(Case { image, marks: &[mark], seed: 5, again: false }).err().map(|violation| violation.broken)
    };
    assert_eq!(found(world.model.clone()), None);
    let lies = [Lie::Lost, Lie::Body, Lie::Attempt, Lie::Delivery, Lie::Deadline, Lie::Letter, Lie::Key];
    for lie in lies {
        let mut model = world.model.clone();
        assert!(model.falsify(lie, world.now()), "the workload has nothing of {lie:?}");
        let kind = if lie == Lie::Key { Broken::Contract } else { Broken::State };
        assert_eq!(found(model), Some(kind), "{lie:?}");
    }
}

/// Lets a world go on until the armed fault has made a commit fail, then has it recover by itself.
fn strike(world: &mut World, fault: Fault) -> bool {
    world.disk.arm(Some(fault));
    for _ in 0..40 {
        let outcome = world.round().unwrap();
        let struck = !world.disk.armed() || !world.cell.healthy();
        if outcome == Outcome::Answered && !struck {
            continue;
        }
        // As long as the disk fails, the store stays closed; then it comes back by itself.
        let mut tries = 0;
        while !world.reload().unwrap() {
            tries += 1;
            if tries > 3 {
                world.disk.arm(None);
            }
        }
        world.disk.arm(None);
        assert_eq!(world.settle_in().unwrap(), Outcome::Answered);
        assert!(world.cell.healthy());
        return outcome != Outcome::Answered;
    }
    world.disk.arm(None);
    false
}

fn faulty_world(seed: u64, on: On, kind: ErrorKind) -> (World, u32) {
    let mut world = workload(LyingDisk::default(), seed, 10).unwrap();
    let mut failures = 0;
    for _ in 0..8 {
        let fault = Fault { on, after: world.rng.between(0, 25), times: world.rng.between(1, 4), kind };
        failures += u32::from(strike(&mut world, fault));
        for _ in 0..3 {
            assert_eq!(world.round().unwrap(), Outcome::Answered, "the store works again");
        }
        world.probe_keys().unwrap();
    }
    (world, failures)
}

#[test]
fn after_a_failed_write_the_store_comes_back_and_nothing_answered_is_lost() {
    for kind in [ErrorKind::Other, ErrorKind::StorageFull] {
        let (world, failures) = faulty_world(21, On::Write, kind);
        assert!(failures >= 4, "{failures} commits failed");
        let mut summary = Summary::default();
        power_failures(&world, 21, 100, plan(21, 0), &mut summary, &mut |_| ());
        assert_held(&summary);
    }
}

#[test]
fn after_a_failed_sync_nothing_is_built_on_what_only_reads_can_see() {
    for seed in 31..34 {
        let (world, failures) = faulty_world(seed, On::Sync, ErrorKind::Other);
        assert!(failures >= 4, "{failures} commits failed");
        let mut summary = Summary::default();
        power_failures(&world, seed, 100, plan(seed, 0), &mut summary, &mut |_| ());
        assert_held(&summary);
    }
}
