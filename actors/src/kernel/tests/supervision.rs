//! Restarts, budgets and quarantine.

use super::super::child::ChildStatus;
use super::super::handle::{CastError, NotUp};
use super::super::supervisor::{RootEnd, StartError};
use super::*;
use futures::FutureExt;
use ractor::ActorCell;
use tokio::time::Instant;

/// Fails a child and waits until that is known.
async fn fail(world: &mut World, name: &str, handle: &Handle<Do>) {
    handle.wait_up(60 * SECOND).await.unwrap();
    tell(handle, Do::Fail);
    assert_eq!(world.event().await, crash(name, "told to fail"));
}

#[tokio::test(start_paused = true)]
async fn a_child_that_failed_panicked_or_was_killed_is_back_within_200_ms() {
    let mut world = World::new();
    let (spec, handle) = world.fixed("a");
    let (root, _watch) = world.root(vec![spec]).await;
    for round in 0..3 {
        let reason = match round {
            0 => {
                tell(&handle, Do::Fail);
                "told to fail"
            }
            1 => {
                tell(&handle, Do::Panic);
                "told to panic"
            }
            _ => {
                assert!(root.kill_child("a").await);
                "killed"
            }
        };
        assert_eq!(world.event().await, crash("a", reason));
        assert!(!handle.is_up(), "the handle flips before the crash is told");
        let fell = Instant::now();
        handle.wait_up(60 * SECOND).await.unwrap();
        let limit = [100, 200, 400][round];
        assert!(fell.elapsed() <= Duration::from_millis(limit + 1), "{round}: {:?}", fell.elapsed());
        assert_eq!(echo(&handle, 7).await, 7);
    }
    assert_eq!(world.counts.crashed.load(Ordering::SeqCst), 3);
    let children = root.children().await;
    assert_eq!((info(&children, "a").status, info(&children, "a").crashes), (ChildStatus::Up, 3));
    root.stop().await;
    world.no_more_events();
}

#[tokio::test(start_paused = true)]
async fn a_killed_dynamic_child_has_not_left_but_crashed() {
    let mut world = World::new();
    let (root, _watch) = world.root(Vec::new()).await;
    let (spec, handle) = world.child(ChildKind::Dynamic, "a");
    root.start_child(spec).await.unwrap();
    for running in [false, true] {
        if running {
            echo(&handle, 1).await;
        }
        assert!(root.kill_child("a").await);
        assert_eq!(world.event().await, crash("a", "killed"));
        handle.wait_up(SECOND).await.unwrap();
    }
    root.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_first_restart_takes_at_most_100_ms_whatever_the_seed() {
    for seed in 0..50 {
        let mut world = World::new();
        world.options.seed = seed;
        let (spec, handle) = world.fixed("a");
        let (root, _watch) = world.root(vec![spec]).await;
        fail(&mut world, "a", &handle).await;
        assert!(handle.wait_up(Duration::from_millis(101)).await.is_ok());
        root.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_busy_sibling_neither_delays_a_restart_nor_notices_it() {
    let mut world = World::new();
    let (busy_spec, busy) = world.fixed("busy");
    let (spec, handle) = world.fixed("a");
    let (root, _watch) = world.root(vec![busy_spec, spec]).await;
    tell(&busy, Do::Work(10 * SECOND));
    let answer = tokio::spawn({
        let busy = busy.clone();
        async move { echo(&busy, 1).await }
    });
    fail(&mut world, "a", &handle).await;
    assert!(handle.wait_up(Duration::from_millis(101)).await.is_ok());
    assert_eq!(answer.await.unwrap(), 1);
    assert_eq!(info(&root.children().await, "busy").crashes, 0);
    root.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_sixth_crash_in_a_minute_quarantines_that_child_only_until_it_is_released() {
    let mut world = World::new();
    let (spec, handle) = world.fixed("a");
    let (other_spec, other) = world.fixed("b");
    let (root, _watch) = world.root(vec![spec, other_spec]).await;
    for _ in 0..6 {
        fail(&mut world, "a", &handle).await;
    }
    assert_eq!(world.event().await, Event::Quarantined { service: ServiceLabel::Shard, child: "a".into() });
    assert!(matches!(handle.cast(Do::Quit), Err(CastError::Quarantined(Do::Quit))));
    assert_eq!(handle.wait_up(3600 * SECOND).await.unwrap_err(), NotUp::Quarantined);
    assert_eq!(info(&root.children().await, "a").status, ChildStatus::Quarantined);
    assert_eq!(world.counts.quarantined.load(Ordering::SeqCst), 1);
    assert_eq!(echo(&other, 3).await, 3);

    // it stays there
    tokio::time::advance(3600 * SECOND).await;
    assert!(handle.is_quarantined());
    let (again, _) = world.fixed("a");
    assert_eq!(root.start_child(again).await, Err(StartError::Exists));

    assert!(!root.release("b").await, "not in quarantine");
    assert!(!root.release("nobody").await);
    assert!(root.release("a").await);
    assert_eq!(world.event().await, Event::Released { service: ServiceLabel::Shard, child: "a".into() });
    handle.wait_up(SECOND).await.unwrap();
    // with its whole budget
    for _ in 0..5 {
        fail(&mut world, "a", &handle).await;
    }
    handle.wait_up(60 * SECOND).await.unwrap();
    root.stop().await;
    world.no_more_events();
}

#[tokio::test(start_paused = true)]
async fn crashes_far_apart_never_quarantine() {
    let mut world = World::new();
    let (spec, handle) = world.fixed("a");
    let (root, _watch) = world.root(vec![spec]).await;
    for _ in 0..20 {
        fail(&mut world, "a", &handle).await;
        tokio::time::advance(61 * SECOND).await;
    }
    handle.wait_up(SECOND).await.unwrap();
    root.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_critical_child_past_its_budget_ends_the_tree() {
    let mut world = World::new();
    let (critical, handle) = world.fixed("store");
    let (other_spec, other) = world.fixed("b");
    let (root, mut watch) = world.root(vec![critical.critical(), other_spec]).await;
    for _ in 0..6 {
        assert_eq!(watch.ended().now_or_never(), None);
        fail(&mut world, "store", &handle).await;
    }
    let RootEnd::Failed(failed) = watch.ended().await else { panic!("it should have failed") };
    assert_eq!((&*failed.child, &*failed.reason), ("store", "told to fail"));
    assert!(!other.is_up());
    assert!(matches!(other.cast(Do::Quit), Err(CastError::Down(_))));
    assert!(root.children().await.is_empty());
    root.stop().await;
    let (spec, _) = world.fixed("c");
    assert_eq!(root.start_child(spec).await, Err(StartError::Down));
    assert!(world.log.take().iter().all(|line| line.starts_with("start")), "crash-only: nobody stops nicely");
}

#[tokio::test(start_paused = true)]
async fn a_child_that_does_not_start_is_tried_again_under_its_budget() {
    let mut world = World::new();
    let (root, _watch) = world.root(Vec::new()).await;
    let (spec, handle, _) = world.flaky(ChildKind::Dynamic, "a", 2);
    assert_eq!(root.start_child(spec).await, Err(StartError::NotUp("cannot start".into())));
    handle.wait_up(SECOND).await.unwrap();
    assert_eq!(world.event().await, crash("a", "cannot start"));
    assert_eq!(world.event().await, crash("a", "cannot start"));
    root.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_start_that_fails_six_times_is_quarantined_and_boot_goes_on_past_it() {
    let mut world = World::new();
    let (bad, bad_handle, _) = world.flaky(ChildKind::Fixed, "bad", 6);
    let (good, good_handle) = world.fixed("good");
    let (root, _watch) = world.root(vec![bad, good]).await;
    assert!(good_handle.is_up());
    for _ in 0..6 {
        assert_eq!(world.event().await, crash("bad", "cannot start"));
    }
    assert_eq!(world.event().await, Event::Quarantined { service: ServiceLabel::Shard, child: "bad".into() });
    assert!(bad_handle.is_quarantined());
    assert!(root.release("bad").await);
    bad_handle.wait_up(SECOND).await.unwrap();
    root.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_dynamic_child_may_leave_and_a_fixed_one_may_not() {
    let mut world = World::new();
    let (fixed, fixed_handle) = world.fixed("fixed");
    let (root, _watch) = world.root(vec![fixed]).await;
    let (parks, handle) = world.child(ChildKind::Dynamic, "shard");
    root.start_child(parks.clone()).await.unwrap();
    tell(&handle, Do::Quit);
    tell(&fixed_handle, Do::Quit);
    assert_eq!(world.event().await, crash("fixed", "stopped by itself"));
    fixed_handle.wait_up(SECOND).await.unwrap();
    assert_eq!(handle.wait_up(SECOND).await.unwrap_err(), NotUp::Down);
    assert_eq!(root.children().await.len(), 1);
    // and come back under its name
    root.start_child(parks).await.unwrap();
    assert_eq!(echo(&handle, 5).await, 5);
    root.stop().await;
    world.no_more_events();
}

#[tokio::test(start_paused = true)]
async fn a_child_that_is_leaving_makes_room_for_one_of_its_name() {
    let world = World::new();
    let (root, _watch) = world.root(Vec::new()).await;
    let (spec, handle) = world.child(ChildKind::Dynamic, "shard");
    for round in 0..50 {
        root.start_child(spec.clone()).await.unwrap();
        let old = handle.wait_up(SECOND).await.unwrap();
        let starting = root.start_child(spec.clone());
        if round % 2 == 0 {
            tell(&handle, Do::Quit);
            // dead, perhaps before the supervisor has read of it
            old.wait(None).await.unwrap();
            starting.await.unwrap();
        } else {
            let (stopped, started) = futures::join!(root.stop_child("shard"), starting);
            assert!(stopped);
            started.unwrap();
        }
        assert_eq!(echo(&handle, round).await, round);
        assert!(root.stop_child("shard").await);
    }
    root.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_slow_start_holds_up_nobody_and_ends_at_its_timeout() {
    let mut world = World::new();
    let (root, _watch) = world.root(Vec::new()).await;
    let never = Arc::new(|_: ActorCell| std::future::pending().boxed());
    let slow = ChildSpec::dynamic("slow", ServiceLabel::Shard, never).spawn_timeout(5 * SECOND);
    let starting = tokio::spawn({
        let root = root.clone();
        async move { root.start_child(slow).await }
    });
    let (spec, handle) = world.child(ChildKind::Dynamic, "a");
    root.start_child(spec).await.unwrap();
    fail(&mut world, "a", &handle).await;
    handle.wait_up(SECOND).await.unwrap();
    assert!(!starting.is_finished());
    assert_eq!(starting.await.unwrap(), Err(StartError::NotUp("not started within 5000 ms".into())));
    assert_eq!(world.event().await, crash("slow", "not started within 5000 ms"));
    // stopped between two attempts
    assert!(root.stop_child("slow").await);
    assert_eq!(root.children().await.len(), 1);
    root.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_spawn_function_that_panics_is_a_failed_start() {
    let mut world = World::new();
    let (root, _watch) = world.root(Vec::new()).await;
    let spec = ChildSpec::dynamic(
        "a",
        ServiceLabel::Shard,
        Arc::new(|_: ActorCell| panic!("in the spawn function")),
    );
    assert!(matches!(root.start_child(spec).await, Err(StartError::NotUp(_))));
    assert_eq!(world.event().await, crash("a", "the spawn function panicked"));
    root.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_child_that_dies_at_once_is_not_missed() {
    let mut world = World::new();
    let (root, _watch) = world.root(Vec::new()).await;
    let publisher = HandlePublisher::<Do>::new();
    let spawn = publisher.spawn_fn({
        let log = world.log.clone();
        move || (Probe, ProbeArgs { name: "a", log: log.clone(), fail_starts: Arc::default() })
    });
    // fails it before the supervisor hears that it is up
    let spawn = Arc::new(move |parent: ActorCell| {
        let spawned = spawn(parent);
        async move {
            let cell = spawned.await?;
            let _ = cell.send_message(Do::Fail);
            let _ = cell.wait(None).await;
            Ok(cell)
        }
        .boxed()
    });
    root.start_child(ChildSpec::dynamic("a", ServiceLabel::Shard, spawn)).await.unwrap();
    for _ in 0..6 {
        assert_eq!(world.event().await, crash("a", "told to fail"));
    }
    assert!(matches!(world.event().await, Event::Quarantined { .. }));
    root.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_thousand_children_start_and_stop() {
    let world = World::new();
    let (root, _watch) = world.root(Vec::new()).await;
    let names: Vec<&'static str> = (0..1000).map(|i| &*format!("shard-{i}").leak()).collect();
    let (specs, handles): (Vec<_>, Vec<_>) =
        names.iter().map(|name| world.child(ChildKind::Dynamic, name)).unzip();
    let started = futures::future::join_all(specs.into_iter().map(|spec| root.start_child(spec))).await;
    assert!(started.iter().all(Result::is_ok));
    assert_eq!(root.children().await.len(), 1000);
    assert!(handles.iter().all(Handle::is_up));
    let stopped = futures::future::join_all(names[..500].iter().map(|name| root.stop_child(name))).await;
    assert!(stopped.iter().all(|gone| *gone));
    assert_eq!(root.children().await.len(), 500);
    root.stop().await;
    assert!(!handles.iter().any(Handle::is_up));
    let lines = world.log.take();
    assert_eq!(lines.iter().filter(|line| line.starts_with("stop ")).count(), 1000);
}

/// On real threads and in real time, for the races that a single-threaded clock never shows.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_storm_of_kills_and_failures_loses_no_child() {
    let mut world = World::new();
    world.options.policy = RestartPolicy { base_ms: 1, cap_ms: 2, intensity: 1000, window_ms: 60_000 };
    let (root, _watch) = world.root(Vec::new()).await;
    let mut tasks = tokio::task::JoinSet::new();
    for i in 0..40 {
        let name: &'static str = format!("shard-{i}").leak();
        let (spec, handle) = world.child(ChildKind::Dynamic, name);
        root.start_child(spec).await.unwrap();
        let root = root.clone();
        tasks.spawn(async move {
            for round in 0..25 {
                let old = handle.wait_up(60 * SECOND).await.unwrap();
                match round % 3 {
                    0 => old.kill(),
                    1 => tell(&handle, Do::Fail),
                    _ => assert!(root.kill_child(name).await),
                }
                old.wait(Some(60 * SECOND)).await.unwrap();
            }
            let last = handle.wait_up(60 * SECOND).await.unwrap();
            assert!(last.call(|reply| Do::Echo(1, reply), None).await.unwrap().is_success());
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    assert_eq!(world.counts.crashed.load(Ordering::SeqCst), 40 * 25);
    assert!(root.children().await.iter().all(|child| child.crashes == 25));
    root.stop().await;
}
