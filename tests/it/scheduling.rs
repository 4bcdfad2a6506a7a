//! The node's threads run in batches (`SCHED_BATCH`, sched(7)).

use crate::harness::Setup;
use crate::mailbox::enqueue;
use std::fs;
use thread_priority::{
    NormalThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy, set_thread_priority_and_policy,
    thread_native_id,
};

const OTHER: u32 = 0;
const BATCH: u32 = 3;

/// Whether this kernel has it: not every sandbox of containers does.
fn kernel_has_it() -> bool {
    let batch = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Batch);
    let set = move || set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Min, batch);
    std::thread::spawn(set).join().unwrap().is_ok()
}

/// Of each of a process's threads: its name and its policy, field 41 of its `stat` (proc(5)).
fn policies(pid: u32) -> Vec<(String, u32)> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let stat = |thread: fs::DirEntry| fs::read_to_string(thread.path().join("stat")).ok();
    let of = |stat: String| {
        let (before, after) = stat.rsplit_once(") ").unwrap();
        let name = before.split_once('(').unwrap().1;
        (name.to_owned(), after.split(' ').nth(41 - 3).unwrap().parse().unwrap())
    };
    threads.filter_map(|thread| stat(thread.unwrap())).map(of).collect()
}

#[test]
fn workers_and_the_committing_thread_run_in_batches() {
    let node = Setup::new().start();
    enqueue(&node.mailbox(), "t", b"x", &[]); // a commit has been made
    let threads = policies(node.pid());
    let wanted = if kernel_has_it() { BATCH } else { OTHER };
    let others: Vec<_> = threads.iter().filter(|(_, policy)| *policy != wanted).collect();
    assert!(others.is_empty(), "{others:?}");
    let runtime = threads.iter().filter(|(name, _)| name.starts_with("tokio-rt-worker"));
    assert!(runtime.count() >= 2, "{threads:?}");
}
