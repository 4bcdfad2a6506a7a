//! Supervisors below supervisors.

use super::super::child::ChildStatus;
use super::super::supervisor::{RootEnd, tree};
use super::*;

struct Wood {
    world: World,
    root: SupervisorRef,
    watch: RootWatch,
    branch: SupervisorRef,
    inner: Handle<Do>,
    leaf: Handle<Do>,
}

/// A root with `store` and a branch that has `inner` (critical) and `leaf`.
async fn wood(branch_is_critical: bool) -> Wood {
    let world = World::new();
    let (inner_spec, inner) = world.fixed("inner");
    let (leaf_spec, leaf) = world.fixed("leaf");
    let make = move || vec![inner_spec.clone().critical(), leaf_spec.clone()];
    let (mut spec, branch) = tree("branch", ServiceLabel::Mailbox, world.options.clone(), make);
    if branch_is_critical {
        spec = spec.critical();
    }
    let (root, watch) = world.root(vec![world.fixed("store").0, spec]).await;
    branch.booted().await.unwrap();
    Wood { world, root, watch, branch, inner, leaf }
}

async fn spend_budget(wood: &mut Wood) {
    for _ in 0..6 {
        wood.inner.wait_up(60 * SECOND).await.unwrap();
        tell(&wood.inner, Do::Fail);
        assert_eq!(wood.world.event().await, crash("inner", "told to fail"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_tree_stops_from_the_leaves_to_the_root() {
    let wood = wood(false).await;
    assert_eq!(wood.world.log.take(), ["start store", "start inner", "start leaf"]);
    wood.root.stop().await;
    assert_eq!(wood.world.log.take(), ["stop leaf", "stop inner", "stop store"]);
}

#[tokio::test(start_paused = true)]
async fn a_branch_stopped_from_outside_still_stops_in_order() {
    let wood = wood(false).await;
    wood.world.log.take();
    let inner = wood.inner.get().unwrap();
    let cell = inner.get_cell().try_get_supervisor().unwrap();
    cell.stop_and_wait(None, None).await.unwrap();
    assert_eq!(wood.world.log.take(), ["stop leaf", "stop inner"]);
    wood.root.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_branch_that_fails_is_restarted_with_its_children_by_the_root() {
    let mut wood = wood(false).await;
    spend_budget(&mut wood).await;
    let reason = "critical child inner failed too often: told to fail";
    let event = wood.world.event().await;
    let failed = Event::ServiceCrashed {
        service: ServiceLabel::Mailbox,
        child: "branch".into(),
        reason: reason.into(),
    };
    assert_eq!(event, failed);
    wood.inner.wait_up(SECOND).await.unwrap();
    wood.leaf.wait_up(SECOND).await.unwrap();
    assert_eq!((echo(&wood.inner, 1).await, echo(&wood.leaf, 2).await), (1, 2));
    wood.branch.booted().await.unwrap();
    assert_eq!(wood.branch.children().await.len(), 2);
    assert_eq!(info(&wood.root.children().await, "store").crashes, 0);
    wood.root.stop().await;
    wood.world.no_more_events();
}

#[tokio::test(start_paused = true)]
async fn a_branch_that_keeps_failing_is_quarantined_or_ends_the_root() {
    for critical in [false, true] {
        let mut wood = wood(critical).await;
        for round in 0..6 {
            assert!(wood.root.kill_child("branch").await, "round {round}");
            assert!(matches!(wood.world.event().await, Event::ServiceCrashed { .. }));
            if round < 5 {
                wood.inner.wait_up(60 * SECOND).await.unwrap();
                wood.branch.booted().await.unwrap();
            }
        }
        if critical {
            assert!(
                matches!(wood.watch.ended().await, RootEnd::Failed(failed) if &*failed.child == "branch")
            );
        } else {
            assert!(matches!(wood.world.event().await, Event::Quarantined { .. }));
            assert_eq!(info(&wood.root.children().await, "branch").status, ChildStatus::Quarantined);
            assert!(!wood.inner.is_up() && !wood.leaf.is_up());
            assert!(wood.branch.children().await.is_empty());
        }
        wood.root.stop().await;
    }
}
