//! Handles, admission and timers around real actors.

use super::super::admission::{Admission, Full, Load, Permit};
use super::super::handle::{CallError, CastError, NotUp};
use super::super::timer::Timer;
use super::*;
use tokio::sync::mpsc;
use tokio::time::Instant;

#[tokio::test(start_paused = true)]
async fn requests_lost_with_a_dead_actor_are_told_so() {
    let world = World::new();
    let (spec, handle) = world.fixed("a");
    let (root, _watch) = world.root(vec![spec]).await;
    let call = |value, timeout| {
        let handle = handle.clone();
        tokio::spawn(async move { handle.call(|reply| Do::Echo(value, reply), timeout).await })
    };
    tell(&handle, Do::Work(SECOND));
    tell(&handle, Do::Fail);
    let (lost, late) = (call(1, 60 * SECOND), call(2, SECOND / 2));
    tokio::task::yield_now().await;
    assert_eq!(late.await.unwrap(), Err(CallError::Timeout));
    assert_eq!(lost.await.unwrap(), Err(CallError::Lost));

    let old = handle.wait_up(SECOND).await.unwrap();
    old.kill();
    old.wait(None).await.unwrap();
    // the supervisor may not have read of it yet
    let Err(CastError::Down(Do::Work(time))) = handle.cast(Do::Work(SECOND)) else { panic!("dead") };
    assert_eq!(time, SECOND);
    assert_eq!(call(3, SECOND).await.unwrap(), Err(CallError::Down));
    handle.wait_up(SECOND).await.unwrap();
    assert_eq!(echo(&handle, 4).await, 4);
    root.stop().await;
    assert_eq!(handle.wait_up(SECOND).await.unwrap_err(), NotUp::Down);
    assert_eq!(handle.call(|reply| Do::Echo(5, reply), SECOND).await, Err(CallError::Down));
}

#[tokio::test(start_paused = true)]
async fn waiting_for_a_handle_ends_when_it_is_up_when_time_is_up_or_when_nobody_is_left() {
    let publisher = HandlePublisher::<Do>::new();
    let handle = publisher.handle();
    let asked = Instant::now();
    assert_eq!(handle.wait_up(SECOND).await.unwrap_err(), NotUp::Down);
    assert_eq!(asked.elapsed(), SECOND);
    let args = || ProbeArgs { name: "a", log: Log::default(), fail_starts: Arc::default() };
    let (first, _) = Actor::spawn(None, Probe, args()).await.unwrap();
    first.stop_and_wait(None, None).await.unwrap();
    publisher.publish(first);
    assert!(!handle.is_up(), "published, but dead");
    let waiting = tokio::spawn({
        let handle = handle.clone();
        async move { handle.wait_up(60 * SECOND).await }
    });
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    let (second, _) = Actor::spawn(None, Probe, args()).await.unwrap();
    publisher.publish(second.clone());
    assert_eq!(waiting.await.unwrap().unwrap().get_id(), second.get_id());
    publisher.down();
    drop(publisher);
    let asked = Instant::now();
    assert_eq!(handle.wait_up(SECOND).await.unwrap_err(), NotUp::Down);
    assert_eq!(asked.elapsed(), Duration::ZERO);
    second.stop_and_wait(None, None).await.unwrap();
}

struct Carrier;

impl Actor for Carrier {
    type Msg = (Permit, RpcReplyPort<()>);
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _me: ActorRef<Self::Msg>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn handle(
        &self,
        _me: ActorRef<Self::Msg>,
        (permit, reply): Self::Msg,
        (): &mut (),
    ) -> Result<(), ActorProcessingErr> {
        tokio::time::sleep(SECOND).await;
        drop(permit);
        let _ = reply.send(());
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn permits_come_back_when_handled_and_when_the_actor_dies() {
    let door = Admission::new(3, 1000);
    let (actor, _) = Actor::spawn(None, Carrier, ()).await.unwrap();
    let send = || {
        let (permit, actor) = (door.try_acquire(10), actor.clone());
        permit.map(|permit| tokio::spawn(async move { actor.call(|reply| (permit, reply), None).await }))
    };
    let first = send().unwrap();
    let _second = send().unwrap();
    let third = send().unwrap();
    assert_eq!(send().unwrap_err(), Full::Count);
    assert!(first.await.unwrap().unwrap().is_success());
    assert_eq!(door.in_use(), Load { count: 2, bytes: 20 });
    actor.kill_and_wait(None).await.unwrap();
    assert!(!third.await.unwrap().unwrap().is_success());
    assert_eq!(door.in_use(), Load::default());
}

/// Has one timer.
struct Clockwork;

enum Wind {
    ArmBy(u64),
    Cancel,
    /// Keeps the actor busy, so that ticks pile up behind.
    Busy(u64),
    Tick(u64),
}

struct ClockworkState {
    timer: Timer,
    clock: TokioClock,
    ticks: mpsc::UnboundedSender<(u64, bool)>,
}

impl Actor for Clockwork {
    type Msg = Wind;
    type State = ClockworkState;
    type Arguments = ClockworkState;

    async fn pre_start(
        &self,
        _me: ActorRef<Wind>,
        state: ClockworkState,
    ) -> Result<ClockworkState, ActorProcessingErr> {
        Ok(state)
    }

    async fn handle(
        &self,
        me: ActorRef<Wind>,
        message: Wind,
        state: &mut ClockworkState,
    ) -> Result<(), ActorProcessingErr> {
        use ron_core::time::Clock;
        let now = state.clock.now();
        match message {
            Wind::ArmBy(at) => state.timer.arm_by(now, Millis(at), &me, Wind::Tick),
            Wind::Cancel => state.timer.cancel(),
            Wind::Busy(ms) => tokio::time::sleep(Duration::from_millis(ms)).await,
            Wind::Tick(tick) => {
                let counts = state.timer.accept(tick);
                assert!(!state.timer.accept(tick), "a tick counts once");
                let _ = state.ticks.send((now.0, counts));
            }
        }
        Ok(())
    }
}

async fn clockwork() -> (ActorRef<Wind>, mpsc::UnboundedReceiver<(u64, bool)>) {
    let (ticks, heard) = mpsc::unbounded_channel();
    let state = ClockworkState { timer: Timer::default(), clock: TokioClock::new(Millis(0)), ticks };
    (Actor::spawn(None, Clockwork, state).await.unwrap().0, heard)
}

#[tokio::test(start_paused = true)]
async fn a_timer_fires_once_at_the_earliest_time_it_was_asked_for() {
    let (actor, mut ticks) = clockwork().await;
    for at in [500, 200, 300] {
        actor.cast(Wind::ArmBy(at)).unwrap();
    }
    assert_eq!(ticks.recv().await, Some((200, true)));
    // a past moment fires at once
    actor.cast(Wind::ArmBy(1)).unwrap();
    assert!(matches!(ticks.recv().await, Some((200..=201, true))));
    actor.cast(Wind::ArmBy(5000)).unwrap();
    actor.cast(Wind::Cancel).unwrap();
    actor.cast(Wind::ArmBy(9000)).unwrap();
    assert_eq!(ticks.recv().await, Some((9000, true)));
    actor.stop_and_wait(None, None).await.unwrap();
    assert_eq!(ticks.recv().await, None);
}

#[tokio::test(start_paused = true)]
async fn a_tick_that_was_overtaken_in_the_mailbox_does_not_count() {
    let (actor, mut ticks) = clockwork().await;
    actor.cast(Wind::ArmBy(100)).unwrap();
    actor.cast(Wind::Busy(1000)).unwrap();
    // handled before the tick, which is sent meanwhile
    actor.cast(Wind::Cancel).unwrap();
    actor.cast(Wind::ArmBy(2000)).unwrap();
    assert_eq!(ticks.recv().await, Some((1000, false)));
    assert_eq!(ticks.recv().await, Some((2000, true)));
    actor.stop_and_wait(None, None).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_an_ended_actor_had_in_its_timer_does_not_outlive_it() {
    let (actor, ticks) = clockwork().await;
    actor.cast(Wind::ArmBy(60_000)).unwrap();
    let alive = async || {
        tokio::time::sleep(Duration::from_millis(5)).await;
        tokio::runtime::Handle::current().metrics().num_alive_tasks()
    };
    let before = alive().await;
    actor.stop_and_wait(None, None).await.unwrap();
    assert_eq!(before - alive().await, 2, "the actor's own task, and the timer's");
    drop((actor, ticks));
}
