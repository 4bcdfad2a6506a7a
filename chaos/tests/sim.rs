//! A seed replays: in one process, in two, and beside other simulations on other threads.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use ron_chaos::sim::{Fault, Options, run};
use ron_core::planted::Bug;
use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::process::Command;

fn options(seed: u64, steps: u64) -> Options {
    Options { seed, steps, ..Options::default() }
}

/// Hashes by seed, as another process prints them.
fn in_a_process(first: u64, seeds: u64, threads: u64, workers: &str) -> BTreeMap<u64, String> {
    let output = Command::new(env!("CARGO_BIN_EXE_sim"))
        .args(["--seed", &first.to_string(), "--seeds", &seeds.to_string()])
        .args(["--steps", "200", "--threads", &threads.to_string(), "--print-hash"])
        .env("TOKIO_WORKER_THREADS", workers)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    let line = |line: &str| {
        let (seed, hash) = line.split_once(' ').unwrap();
        (seed.parse().unwrap(), hash.to_owned())
    };
    text.lines().map(line).collect()
}

#[test]
fn a_seed_replays_to_the_same_hash_in_two_processes_and_under_two_thread_counts() {
    let alone = in_a_process(100, 6, 1, "1");
    assert_eq!(alone, in_a_process(100, 6, 3, "8"));
    for (seed, hash) in &alone {
        let here = run(&options(*seed, 200)).unwrap_or_else(|failure| panic!("{failure}"));
        assert_eq!(here.hash, *hash, "seed {seed}");
    }
    let different: BTreeSet<&String> = alone.values().collect();
    assert_eq!(different.len(), 6, "every seed has a hash of its own");
}

#[test]
fn thirty_seeds_keep_every_promise_and_reach_what_they_should() {
    let mut counts = BTreeMap::<String, u64>::new();
    for seed in 61..=90 {
        let report = run(&options(seed, 300)).unwrap_or_else(|failure| panic!("{failure}"));
        let reached = ron_history::reached(&report.history);
        let all = report.counts.into_iter().chain(reached);
        all.for_each(|(what, n)| *counts.entry(what).or_default() += n);
    }
    let reached = [
        "message stored",
        "message in ram",
        "message duplicate",
        "message conflict",
        "message redelivered",
        "recv-empty",
        "recv-dropped",
        "recv-cancelled",
        "stream",
        "ack × in-flight → ok",
        "ack × gone → ok",
        "ack × superseded → stale",
        "fail × in-flight → ok",
        "release × in-flight → ok",
        "reject × in-flight → ok",
        "extend × in-flight → ok",
        "seen × Ready",
        "seen × Delayed",
        "seen × Vis",
        "seen × Dlq",
        "foreign",
        "dead",
        "requeued",
        "stat",
        "configure",
        "pause",
        "resume",
        "purge",
        "purge-dead",
        "delete",
        "reprocess",
        "cancel",
        "clusters",
        "snapshot",
        "scrub",
        "kill-shard",
        "kill-store",
        "kill-router",
        "fail-sync",
        "fail-write",
        "fail-write-full",
        "fail-read",
        "store-failed",
        "slow",
        "wall-step",
        "clock-held",
        "policy",
        "power-cut",
        "stopped",
        "drained",
        "looked",
    ];
    let missed: Vec<_> = reached.iter().filter(|what| !counts.contains_key(**what)).collect();
    assert!(missed.is_empty(), "never reached: {missed:?} of {counts:#?}");
}

#[test]
fn the_examples_among_the_planted_bugs_are_found() {
    for bug in [Bug::AckForgotten, Bug::ExtendIgnored, Bug::DeadTooLate] {
        let found = (1..=12).find_map(|seed| run(&Options { bug: Some(bug), ..options(seed, 400) }).err());
        assert!(found.is_some(), "{bug} was not found by twelve seeds");
    }
}

#[test]
fn one_failed_operation_of_the_disk_is_survived_without_a_restart() {
    let clean = run(&Options { faults: Some(Vec::new()), ..options(1, 100) });
    let (ops, _) = clean.unwrap_or_else(|failure| panic!("{failure}")).disk_ops;
    let mut struck = 0;
    for after in (0..ops).step_by((ops as usize / 20).max(1)) {
        let fault = Fault { on: None, after, times: 1, kind: ErrorKind::Other, kept: false };
        let report = run(&Options { faults: Some(vec![fault]), ..options(1, 100) });
        struck += report.unwrap_or_else(|failure| panic!("{failure}\n{fault:?}")).disk_ops.1;
    }
    assert!(struck >= 10, "{struck}");
}
