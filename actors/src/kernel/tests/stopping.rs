//! Ordered stops, stuck children, stops in odd moments.

use super::super::child::StopMode;
use super::super::supervisor::{RootEnd, StartError};
use super::*;
use futures::FutureExt;
use ractor::{ActorCell, ActorStatus};
use tokio::time::Instant;

#[tokio::test(start_paused = true)]
async fn children_stop_in_reverse_order_the_dynamic_ones_first() {
    let mut world = World::new();
    let children = ["a", "b", "c"].map(|name| world.fixed(name).0);
    let (root, mut watch) = world.root(children.into()).await;
    root.start_child(world.child(ChildKind::Dynamic, "shard").0).await.unwrap();
    root.start_child(world.fixed("d").0).await.unwrap();
    assert_eq!(world.log.take(), ["start a", "start b", "start c", "start shard", "start d"]);
    root.stop().await;
    assert_eq!(world.log.take(), ["stop shard", "stop d", "stop c", "stop b", "stop a"]);
    assert_eq!(watch.ended().await, RootEnd::Stopped);
    world.no_more_events();
}

#[tokio::test(start_paused = true)]
async fn a_restarted_child_keeps_its_place_in_the_order() {
    let mut world = World::new();
    let (a, handle) = world.fixed("a");
    let (root, _watch) = world.root(vec![a, world.fixed("b").0]).await;
    tell(&handle, Do::Fail);
    world.event().await;
    handle.wait_up(SECOND).await.unwrap();
    world.log.take();
    root.stop().await;
    assert_eq!(world.log.take(), ["stop b", "stop a"]);
}

#[tokio::test(start_paused = true)]
async fn a_stuck_child_is_killed_after_its_timeout_and_the_rest_stop_in_order() {
    let world = World::new();
    let (stuck_spec, stuck) = world.fixed("stuck");
    let children = vec![world.fixed("a").0, stuck_spec.stop_timeout(3 * SECOND), world.fixed("c").0];
    let (root, _watch) = world.root(children).await;
    let (inside, is_inside) = oneshot::channel();
    tell(&stuck, Do::Hang(inside));
    is_inside.await.unwrap();
    world.log.take();
    let asked = Instant::now();
    root.stop().await;
    let took = asked.elapsed();
    assert!(took >= 3 * SECOND && took < 4 * SECOND, "{took:?}");
    assert_eq!(world.log.take(), ["stop c", "stop a"]);
    assert_eq!(world.counts.killed.load(Ordering::SeqCst), 1);
    assert_eq!(world.counts.crashed.load(Ordering::SeqCst), 0);
    assert!(!stuck.is_up());
}

#[tokio::test(start_paused = true)]
async fn stuck_dynamic_children_share_their_timeout() {
    let world = World::new();
    let (root, _watch) = world.root(Vec::new()).await;
    let mut handles = Vec::new();
    for i in 0..40 {
        let (spec, handle) = world.child(ChildKind::Dynamic, format!("shard-{i}").leak());
        root.start_child(spec).await.unwrap();
        let (inside, is_inside) = oneshot::channel();
        tell(&handle, Do::Hang(inside));
        is_inside.await.unwrap();
        handles.push(handle);
    }
    let asked = Instant::now();
    root.stop().await;
    assert!(asked.elapsed() < 6 * SECOND, "{:?}", asked.elapsed());
    assert_eq!(world.counts.killed.load(Ordering::SeqCst), 40);
}

#[tokio::test(start_paused = true)]
async fn draining_handles_what_waits_and_stopping_does_not() {
    for (mode, answered) in [(StopMode::Drain, true), (StopMode::Stop, false)] {
        let world = World::new();
        let (spec, handle) = world.fixed("a");
        let (root, _watch) = world.root(vec![spec.stop_mode(mode)]).await;
        tell(&handle, Do::Work(SECOND));
        let waiting = tokio::spawn(async move { handle.call(|r| Do::Echo(9, r), 60 * SECOND).await });
        tokio::task::yield_now().await;
        assert!(root.stop_child("a").await);
        assert_eq!(waiting.await.unwrap().is_ok(), answered);
        root.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_stop_ends_restarts_starts_and_quarantine() {
    let mut world = World::new();
    let (restarting, handle, fails) = world.flaky(ChildKind::Fixed, "restarting", 0);
    let (root, _watch) = world.root(vec![restarting]).await;
    fails.store(3, Ordering::SeqCst);
    tell(&handle, Do::Fail);
    world.event().await;
    let never = Arc::new(|_: ActorCell| std::future::pending().boxed());
    let slow = ChildSpec::dynamic("slow", ServiceLabel::Shard, never);
    let starting = tokio::spawn({
        let root = root.clone();
        async move { root.start_child(slow).await }
    });
    tokio::task::yield_now().await;
    let asked = Instant::now();
    root.stop().await;
    assert_eq!(starting.await.unwrap(), Err(StartError::Stopping));
    assert!(asked.elapsed() < SECOND, "a pending start is not waited for");
    assert_eq!(root.start_child(world.fixed("x").0).await, Err(StartError::Down));
    world.log.take();
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(
        tokio::runtime::Handle::current().metrics().num_alive_tasks(),
        0,
        "no timer, no spawn is left"
    );
    tokio::time::advance(3600 * SECOND).await;
    assert!(world.log.take().is_empty(), "nothing starts after the stop");
}

#[tokio::test(start_paused = true)]
async fn a_child_crashing_during_the_stop_is_not_restarted() {
    let mut world = World::new();
    let (a, a_handle) = world.fixed("a");
    let (b, b_handle) = world.fixed("b");
    let (root, _watch) = world.root(vec![a, b.stop_mode(StopMode::Drain)]).await;
    tell(&b_handle, Do::Work(SECOND));
    tell(&a_handle, Do::Work(SECOND / 2));
    tell(&a_handle, Do::Fail);
    root.stop().await;
    assert_eq!(world.log.take(), ["start a", "start b", "stop b"]);
    world.no_more_events();
}

#[tokio::test(start_paused = true)]
async fn one_child_is_stopped_alone_and_twice_over() {
    let world = World::new();
    let (spec, handle) = world.fixed("a");
    let (root, _watch) = world.root(vec![spec, world.fixed("b").0]).await;
    let actor = handle.wait_up(SECOND).await.unwrap();
    assert_eq!(futures::join!(root.stop_child("a"), root.stop_child("a")), (true, true));
    assert_eq!(actor.get_status(), ActorStatus::Stopped);
    assert!(!root.stop_child("a").await);
    assert_eq!(root.children().await.len(), 1);
    root.stop().await;
    assert!(!root.stop_child("b").await);
}

#[tokio::test(start_paused = true)]
async fn a_stop_waits_for_a_child_that_is_being_stopped_already() {
    let world = World::new();
    let (spec, handle) = world.fixed("a");
    let (root, _watch) = world.root(vec![spec]).await;
    tell(&handle, Do::Work(2 * SECOND));
    tokio::task::yield_now().await;
    let asked = Instant::now();
    let (stopped, ()) = futures::join!(root.stop_child("a"), root.stop());
    assert!(stopped);
    assert!(asked.elapsed() >= 2 * SECOND - Duration::from_millis(1), "{:?}", asked.elapsed());
    assert_eq!(world.log.take(), ["start a", "stop a"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_child_that_outlives_its_kill_does_not_take_its_successor_along() {
    let mut world = World::new();
    let (root, _watch) = world.root(Vec::new()).await;
    let (spec, handle) = world.child(ChildKind::Dynamic, "a");
    root.start_child(spec.clone().stop_timeout(Duration::from_millis(10))).await.unwrap();
    let old = handle.wait_up(SECOND).await.unwrap();
    let (unblock, until) = std::sync::mpsc::channel();
    let (inside, is_inside) = oneshot::channel();
    tell(&handle, Do::Block(inside, until));
    is_inside.await.unwrap();
    assert!(root.stop_child("a").await);
    assert_ne!(old.get_status(), ActorStatus::Stopped);
    root.start_child(spec).await.unwrap();
    let new = handle.wait_up(SECOND).await.unwrap();
    drop(unblock);
    old.wait(Some(60 * SECOND)).await.unwrap();
    // answered after the news of the old one's end has been read
    assert_eq!(info(&root.children().await, "a").crashes, 0);
    assert_eq!(handle.get().map(|actor| actor.get_id()), Some(new.get_id()));
    assert_eq!(echo(&handle, 1).await, 1);
    root.stop().await;
    world.no_more_events();
}
