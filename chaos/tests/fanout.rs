//! A node is killed while messages are copied to subscribers: nobody misses one, nobody gets one twice.

use ron_chaos::drill::fanout::{Plan, run};

#[test]
fn nobody_misses_a_copy_or_gets_it_twice_though_the_node_is_killed_fifty_times() {
    let dir = tempfile::tempdir().unwrap();
    let report = run(dir.path(), Plan { subscribers: 60, kills: 50, seed: 7 }).unwrap();
    assert!(report.faults.is_empty(), "{:#?}", report.faults);
    assert_eq!(report.kills, 50);
    assert!(report.inside >= 30, "{report:?}");
    assert!(report.edited >= 10, "{report:?}");
    assert!(report.actors >= 20, "{report:?}");
    assert!(report.copies > 4_000, "{report:?}");
}
