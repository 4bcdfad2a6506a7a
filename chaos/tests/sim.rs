//! A seed replays: in one process, in two, and beside other simulations on other threads.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use ron_chaos::sim::{Options, run};
use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

fn options(seed: u64, steps: u64) -> Options {
    Options { seed, steps, trace: false }
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
fn twenty_seeds_keep_every_promise_and_reach_what_they_should() {
    let mut counts = BTreeMap::<String, u64>::new();
    for seed in 1..=20 {
        let report = run(&options(seed, 300)).unwrap_or_else(|failure| panic!("{failure}"));
        report.counts.into_iter().for_each(|(what, n)| *counts.entry(what).or_default() += n);
    }
    let reached = [
        "message stored",
        "message duplicate",
        "message conflict",
        "message redelivered",
        "recv-empty",
        "recv-dropped",
        "ack ok",
        "ack STALE_RECEIPT",
        "nack ok",
        "extend ok",
        "foreign",
        "dead",
        "requeued",
        "peek",
        "stat",
        "kill-shard",
        "kill-store",
        "kill-router",
        "fail-sync",
        "store-failed",
        "slow",
        "power-cut",
        "stopped",
        "drained",
        "looked",
    ];
    let missed: Vec<_> = reached.iter().filter(|what| !counts.contains_key(**what)).collect();
    assert!(missed.is_empty(), "never reached: {missed:?} of {counts:#?}");
}
