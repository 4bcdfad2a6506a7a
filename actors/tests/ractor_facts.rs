//! What the tree is built on and ractor does not promise: a canary for upgrades of the pinned version.
//!
//! Each test states one fact about ractor, and what follows from it. When one fails after an upgrade, the
//! code that relies on it is to be looked at, not the test.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use ractor::rpc::CallResult;
use ractor::{
    Actor, ActorProcessingErr, ActorRef, ActorStatus, MessagingErr, OutputPort, RpcReplyPort, SpawnErr,
    SupervisionEvent,
};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc as std_mpsc};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

const SECOND: Duration = Duration::from_secs(1);

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    fn add(&self, line: impl Into<String>) {
        self.0.lock().unwrap().push(line.into());
    }

    fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

/// Runs something when the actor's State is dropped.
struct OnDrop(Option<Box<dyn FnOnce() + Send>>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        if let Some(run) = self.0.take() {
            run();
        }
    }
}

struct Child;

enum Do {
    Fail,
    Panic,
    Work(Duration),
    Hang(oneshot::Sender<()>),
    Echo(u64, RpcReplyPort<u64>),
    CastToSelf(RpcReplyPort<bool>),
    Block(std_mpsc::Receiver<()>, oneshot::Sender<()>, oneshot::Sender<()>),
    Tick,
}

struct ChildState {
    name: &'static str,
    log: Log,
    ticks: Arc<AtomicUsize>,
    _on_drop: OnDrop,
}

fn child(name: &'static str, log: &Log) -> ChildState {
    ChildState { name, log: log.clone(), ticks: Arc::default(), _on_drop: OnDrop(None) }
}

impl Actor for Child {
    type Msg = Do;
    type State = ChildState;
    type Arguments = ChildState;

    async fn pre_start(&self, _me: ActorRef<Do>, args: ChildState) -> Result<ChildState, ActorProcessingErr> {
        match args.name {
            "fails" => Err("cannot start".into()),
            "panics" => panic!("cannot start"),
            "hangs" => std::future::pending().await,
            _ => Ok(args),
        }
    }

    async fn post_stop(&self, _me: ActorRef<Do>, state: &mut ChildState) -> Result<(), ActorProcessingErr> {
        state.log.add(format!("post_stop {}", state.name));
        Ok(())
    }

    async fn handle(
        &self,
        me: ActorRef<Do>,
        what: Do,
        state: &mut ChildState,
    ) -> Result<(), ActorProcessingErr> {
        match what {
            Do::Fail => return Err("boom".into()),
            Do::Panic => panic!("kaboom"),
            Do::Work(time) => tokio::time::sleep(time).await,
            Do::Hang(inside) => {
                let _ = inside.send(());
                std::future::pending::<()>().await;
            }
            Do::Echo(value, reply) => {
                state.log.add(format!("echo {value} closed={}", reply.is_closed()));
                let _ = reply.send(value);
            }
            Do::CastToSelf(reply) => {
                let _ = reply.send(me.cast(Do::Tick).is_ok());
            }
            Do::Block(go, inside, done) => {
                tokio::task::spawn_blocking(move || {
                    let _ = inside.send(());
                    let _ = go.recv();
                    let _ = done.send(());
                })
                .await?;
            }
            Do::Tick => {
                state.ticks.fetch_add(1, Ordering::SeqCst);
            }
        }
        Ok(())
    }
}

/// Tells of every event, and keeps going.
struct Watcher;

enum Ask {
    Wait(oneshot::Receiver<()>),
    Note(&'static str),
}

struct WatcherState {
    seen: mpsc::UnboundedSender<String>,
    on_event: Option<Box<dyn Fn() + Send>>,
}

impl Actor for Watcher {
    type Msg = Ask;
    type State = WatcherState;
    type Arguments = WatcherState;

    async fn pre_start(
        &self,
        _me: ActorRef<Ask>,
        state: WatcherState,
    ) -> Result<WatcherState, ActorProcessingErr> {
        Ok(state)
    }

    async fn handle(
        &self,
        _me: ActorRef<Ask>,
        what: Ask,
        state: &mut WatcherState,
    ) -> Result<(), ActorProcessingErr> {
        match what {
            Ask::Wait(go) => {
                let _ = go.await;
            }
            Ask::Note(text) => {
                let _ = state.seen.send(text.to_owned());
            }
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _me: ActorRef<Ask>,
        event: SupervisionEvent,
        state: &mut WatcherState,
    ) -> Result<(), ActorProcessingErr> {
        let line = match &event {
            SupervisionEvent::ActorTerminated(_, held, reason) => {
                format!("terminated state={} {}", held.is_some(), reason.as_deref().unwrap_or("-"))
            }
            SupervisionEvent::ActorFailed(_, error) => format!("failed {error}"),
            SupervisionEvent::ActorStarted(_) | SupervisionEvent::ProcessGroupChanged(_) => return Ok(()),
        };
        if let Some(on_event) = &state.on_event {
            on_event();
        }
        let _ = state.seen.send(line);
        Ok(())
    }
}

async fn watcher() -> (ActorRef<Ask>, mpsc::UnboundedReceiver<String>) {
    let (seen, events) = mpsc::unbounded_channel();
    (Actor::spawn(None, Watcher, WatcherState { seen, on_event: None }).await.unwrap().0, events)
}

async fn linked(name: &'static str, log: &Log, parent: &ActorRef<Ask>) -> Result<ActorRef<Do>, SpawnErr> {
    Ok(Actor::spawn_linked(None, Child, child(name, log), parent.get_cell()).await?.0)
}

async fn alone(log: &Log) -> ActorRef<Do> {
    Actor::spawn(None, Child, child("a", log)).await.unwrap().0
}

async fn hang(actor: &ActorRef<Do>) {
    let (inside, is_inside) = oneshot::channel();
    actor.cast(Do::Hang(inside)).unwrap();
    is_inside.await.unwrap();
}

/// So: a permit in front of every mailbox.
#[tokio::test]
async fn a_mailbox_takes_any_number_of_messages() {
    let actor = alone(&Log::default()).await;
    hang(&actor).await;
    assert!((0..100_000).all(|_| actor.cast(Do::Tick).is_ok()));
    actor.kill_and_wait(None).await.unwrap();
}

/// So: every supervisor overrides `handle_supervisor_evt`.
#[tokio::test]
async fn by_default_any_exit_of_a_child_stops_the_parent() {
    let log = Log::default();
    for clean in [true, false] {
        let parent = alone(&log).await;
        let (kid, _) = Actor::spawn_linked(None, Child, child("kid", &log), parent.get_cell()).await.unwrap();
        if clean {
            kid.stop(None);
        } else {
            kid.cast(Do::Fail).unwrap();
        }
        parent.wait(Some(60 * SECOND)).await.unwrap();
        assert_eq!(parent.get_status(), ActorStatus::Stopped);
    }
}

/// So: children are stopped one by one before their parent, or from its `post_stop`.
#[tokio::test]
async fn the_exit_of_a_parent_kills_its_children_without_post_stop() {
    let (log, (parent, _events)) = (Log::default(), watcher().await);
    let kid = linked("kid", &log, &parent).await.unwrap();
    parent.stop_and_wait(None, None).await.unwrap();
    kid.wait(Some(60 * SECOND)).await.unwrap();
    assert!(log.lines().is_empty());
}

/// So: after a first `stop` use `wait`; `kill` only after that.
#[tokio::test(start_paused = true)]
async fn a_second_stop_and_wait_returns_at_once_while_the_actor_runs() {
    let actor = alone(&Log::default()).await;
    actor.cast(Do::Work(SECOND)).unwrap();
    tokio::task::yield_now().await;
    actor.stop(None);
    assert!(actor.stop_and_wait(None, Some(60 * SECOND)).await.is_err());
    assert_ne!(actor.get_status(), ActorStatus::Stopped);
    assert!(actor.wait(Some(SECOND / 2)).await.is_err());
    actor.wait(Some(SECOND)).await.unwrap();
    assert_eq!(actor.get_status(), ActorStatus::Stopped);
}

/// So: a failed spawn is a failure with backoff, judged where the spawn was asked for.
#[tokio::test]
async fn a_failing_pre_start_is_an_error_to_the_caller_and_no_event() {
    let (log, (parent, mut events)) = (Log::default(), watcher().await);
    for name in ["fails", "panics"] {
        let Err(SpawnErr::StartupFailed(error)) = linked(name, &log, &parent).await else {
            panic!("it started")
        };
        assert!(error.to_string().contains("cannot start"));
    }
    parent.stop_and_wait(None, None).await.unwrap();
    assert_eq!(events.recv().await, None);
}

/// So: a spawn can be given a timeout.
#[tokio::test(start_paused = true)]
async fn a_spawn_that_is_dropped_in_pre_start_leaves_nothing() {
    let (log, (parent, _events)) = (Log::default(), watcher().await);
    assert!(tokio::time::timeout(SECOND, linked("hangs", &log, &parent)).await.is_err());
    assert!(parent.get_children().is_empty());
    parent.stop_and_wait(None, None).await.unwrap();
}

/// So: a clean stop has a State and another reason than "killed", and its event is dropped before a respawn.
#[tokio::test]
async fn a_stop_and_a_kill_hand_the_state_to_the_event_and_a_failure_does_not() {
    let (log, (parent, mut events)) = (Log::default(), watcher().await);
    type End = fn(&ActorRef<Do>);
    let ends: [(bool, End, &str); 5] = [
        (true, |kid| kid.stop(Some("bye".to_owned())), "terminated state=true bye"),
        (true, |kid| kid.kill(), "terminated state=true killed"),
        // before it has run at all
        (false, |kid| kid.kill(), "terminated state=false killed"),
        (true, |kid| kid.cast(Do::Fail).unwrap(), "failed boom"),
        (true, |kid| kid.cast(Do::Panic).unwrap(), "failed kaboom"),
    ];
    for (running, end, told) in ends {
        let kid = linked("kid", &log, &parent).await.unwrap();
        if running {
            kid.call(|reply| Do::Echo(0, reply), None).await.unwrap();
        }
        end(&kid);
        assert_eq!(events.recv().await.as_deref(), Some(told));
    }
    // and only the stop has run `post_stop`: what must be released is released in `Drop`
    assert_eq!(log.lines().iter().filter(|line| line.starts_with("post_stop")).count(), 1);
    parent.stop_and_wait(None, None).await.unwrap();
}

/// So: a restarted actor must not need anything that its predecessor's State still holds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_state_of_a_failed_actor_may_outlive_the_news_of_its_failure() {
    let (seen, mut events) = mpsc::unbounded_channel();
    let (told, is_told) = std_mpsc::channel();
    let on_event: Option<Box<dyn Fn() + Send>> = Some(Box::new(move || {
        let _ = told.send(());
    }));
    let (parent, _) = Actor::spawn(None, Watcher, WatcherState { seen, on_event }).await.unwrap();
    let (dropped, is_dropped) = oneshot::channel();
    let on_drop = move || {
        // lets another worker have the parent, which this one has just woken
        let wait = || is_told.recv_timeout(10 * SECOND).is_ok();
        let event_came_first = tokio::task::block_in_place(wait);
        let _ = dropped.send(event_came_first);
    };
    let args = ChildState { _on_drop: OnDrop(Some(Box::new(on_drop))), ..child("kid", &Log::default()) };
    let (kid, _) = Actor::spawn_linked(None, Child, args, parent.get_cell()).await.unwrap();
    kid.cast(Do::Fail).unwrap();
    assert_eq!(events.recv().await.as_deref(), Some("failed boom"));
    assert!(is_dropped.await.unwrap());
    parent.stop_and_wait(None, None).await.unwrap();
}

/// So: whoever waited for a child's end finds that its supervisor has been told.
#[tokio::test]
async fn the_event_of_an_exit_is_sent_before_waiting_for_it_ends() {
    let (log, (parent, mut events)) = (Log::default(), watcher().await);
    let (go, wait) = oneshot::channel();
    parent.cast(Ask::Wait(wait)).unwrap();
    parent.cast(Ask::Note("a message from before")).unwrap();
    let kid = linked("kid", &log, &parent).await.unwrap();
    kid.stop_and_wait(None, None).await.unwrap();
    go.send(()).unwrap();
    // events overtake messages
    assert_eq!(events.recv().await.as_deref(), Some("terminated state=true -"));
    assert_eq!(events.recv().await.as_deref(), Some("a message from before"));
    parent.stop_and_wait(None, None).await.unwrap();
}

/// So: accepted means committed, and a handle finds the new mailbox.
#[tokio::test]
async fn a_dead_actor_takes_its_mailbox_with_it() {
    let (log, actor) = (Log::default(), alone(&Log::default()).await);
    hang(&actor).await;
    let pending = tokio::spawn({
        let actor = actor.clone();
        async move { actor.call(|reply| Do::Echo(1, reply), None).await }
    });
    tokio::task::yield_now().await;
    actor.kill_and_wait(None).await.unwrap();
    assert!(matches!(pending.await.unwrap(), Ok(CallResult::SenderError)));
    assert!(matches!(actor.cast(Do::Tick), Err(MessagingErr::SendErr(Do::Tick))));
    assert!(log.lines().is_empty());
}

/// So: a request carries a deadline, and the handler looks at `is_closed` before it acts.
#[tokio::test(start_paused = true)]
async fn a_call_that_timed_out_still_runs() {
    let log = Log::default();
    let actor = alone(&log).await;
    actor.cast(Do::Work(SECOND)).unwrap();
    let answer = actor.call(|reply| Do::Echo(7, reply), Some(SECOND / 2)).await;
    assert!(matches!(answer, Ok(CallResult::Timeout)));
    actor.drain_and_wait(None).await.unwrap();
    assert_eq!(log.lines()[0], "echo 7 closed=true");
}

/// So: the store refuses the commits of an older epoch.
#[tokio::test]
async fn a_kill_does_not_end_blocking_work() {
    let actor = alone(&Log::default()).await;
    let ((go, wait), (inside, is_inside), (done, is_done)) =
        (std_mpsc::channel(), oneshot::channel(), oneshot::channel());
    actor.cast(Do::Block(wait, inside, done)).unwrap();
    is_inside.await.unwrap();
    actor.kill_and_wait(None).await.unwrap();
    go.send(()).unwrap();
    is_done.await.unwrap();
}

/// So: periodic work re-arms `send_after` from its handler.
#[tokio::test(start_paused = true)]
async fn an_interval_bursts_after_a_stall() {
    let args = child("a", &Log::default());
    let ticks = Arc::clone(&args.ticks);
    let (actor, _) = Actor::spawn(None, Child, args).await.unwrap();
    let interval = actor.send_interval(Duration::from_millis(10), || Do::Tick);
    actor.cast(Do::Work(SECOND)).unwrap();
    // answered after everything that was sent during the stall
    tokio::time::sleep(SECOND - Duration::from_millis(1)).await;
    assert_eq!(ticks.load(Ordering::SeqCst), 0);
    actor.call(|reply| Do::Echo(0, reply), None).await.unwrap();
    assert!(ticks.load(Ordering::SeqCst) >= 99);
    interval.abort();
    actor.stop_and_wait(None, None).await.unwrap();
}

/// So: no names in library code, and many nodes run in one test process.
#[tokio::test]
async fn names_are_global_to_the_process() {
    let log = Log::default();
    let spawn = || Actor::spawn(Some("ractor-facts".to_owned()), Child, child("a", &log));
    let (first, _) = spawn().await.unwrap();
    assert!(matches!(spawn().await, Err(SpawnErr::ActorAlreadyRegistered(_))));
    first.stop_and_wait(None, None).await.unwrap();
    assert!(spawn().await.is_ok());
}

/// So: leaves may drain, supervisors stop; and an actor that casts to itself does not drain.
#[tokio::test(start_paused = true)]
async fn a_stop_drops_the_queue_and_a_drain_handles_it_but_refuses_new_messages() {
    for drain in [true, false] {
        let args = child("a", &Log::default());
        let ticks = Arc::clone(&args.ticks);
        let (actor, _) = Actor::spawn(None, Child, args).await.unwrap();
        actor.cast(Do::Work(SECOND)).unwrap();
        (0..10).for_each(|_| actor.cast(Do::Tick).unwrap());
        let (reply, to_self) = oneshot::channel();
        actor.cast(Do::CastToSelf(reply.into())).unwrap();
        tokio::task::yield_now().await;
        if drain {
            actor.drain().unwrap();
            assert!(actor.cast(Do::Tick).is_err());
            actor.wait(None).await.unwrap();
            assert_eq!(to_self.await, Ok(false));
            assert_eq!(ticks.load(Ordering::SeqCst), 10);
        } else {
            actor.stop_and_wait(None, None).await.unwrap();
            assert_eq!(ticks.load(Ordering::SeqCst), 0);
        }
    }
}

/// So: nothing can be started below a supervisor that is on its way out.
#[tokio::test]
async fn a_draining_parent_takes_no_children() {
    let (log, (parent, _events)) = (Log::default(), watcher().await);
    let (go, wait) = oneshot::channel();
    parent.cast(Ask::Wait(wait)).unwrap();
    parent.drain().unwrap();
    assert!(matches!(linked("kid", &log, &parent).await, Err(SpawnErr::StartupFailed(_))));
    go.send(()).unwrap();
    parent.wait(None).await.unwrap();
}

/// So: `OutputPort` is not used; the bus counts what is lost.
#[tokio::test]
async fn an_output_port_loses_messages_silently() {
    let args = child("a", &Log::default());
    let ticks = Arc::clone(&args.ticks);
    let (actor, _) = Actor::spawn(None, Child, args).await.unwrap();
    let port = OutputPort::<u64>::default();
    port.subscribe(actor.clone(), |_| Some(Do::Tick));
    (0..1000).for_each(|i| port.send(i));
    drop(port);
    tokio::task::yield_now().await;
    actor.drain_and_wait(None).await.unwrap();
    assert!(ticks.load(Ordering::SeqCst) < 1000);
}

/// So: the store commits with `spawn_blocking`, and a test's paused clock waits for it.
#[tokio::test(start_paused = true)]
async fn a_paused_clock_waits_for_blocking_work_and_not_for_a_thread() {
    let (go, wait) = std_mpsc::channel::<()>();
    let (reply, answer) = oneshot::channel::<()>();
    std::thread::spawn(move || {
        let _ = wait.recv();
        let _ = reply.send(());
    });
    assert!(tokio::time::timeout(60 * SECOND, answer).await.is_err(), "a virtual minute passed at once");
    drop(go);
    let working = tokio::task::spawn_blocking(|| {
        let (_keep, never) = std_mpsc::channel::<()>();
        let _ = never.recv_timeout(Duration::from_millis(20));
    });
    assert!(tokio::time::timeout(Duration::from_millis(1), working).await.is_ok());
}

/// So: `panic = "abort"` must never be set.
const _: () = assert!(cfg!(panic = "unwind"));
