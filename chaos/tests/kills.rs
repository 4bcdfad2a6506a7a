//! Actors are killed while a whole node serves: on a real file, over real sockets, on several threads.

use ron_chaos::drill::kills::{Plan, run};
use ron_chaos::drill::quarantine;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_hundred_killed_actors_are_back_soon_and_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    // one store kill: a second would need a minute of calm; 200 ms is what an idle machine is held to by `drill`
    let plan = Plan { back_within: Duration::from_millis(2_000), ..Plan::hundred(1) };
    let report = Box::pin(run(dir.path(), plan, |_| {})).await.unwrap();
    assert!(report.faults.is_empty() && report.late.is_empty(), "{:#?} {:#?}", report.faults, report.late);
    assert_eq!(report.kills.len(), 100);
    assert_eq!(report.kills.iter().filter(|kill| kill.child == "passport").count(), 1);
    assert!(report.aboard >= 50, "{} aboard", report.aboard);
    assert!(report.balance.holds() && report.balance.answered > 400, "{:?}", report.balance);
    let soon = report.kills.iter().filter(|kill| kill.back_ms <= 200.0).count();
    assert!(soon >= 90, "only {soon} of 100 were back within 200 ms");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_shard_and_a_verifier_past_their_budgets_are_quarantined_alone_and_released() {
    let dir = tempfile::tempdir().unwrap();
    let report = Box::pin(quarantine::run(dir.path())).await.unwrap();
    assert!(report.faults.is_empty(), "{:#?}", report.faults);
    assert_eq!(report.kills, [6, 6]);
    assert!(report.bystanders.0 > 10);
}
