//! The kernel at work, under a paused clock. No test sleeps to let something happen: it waits for the event,
//! the reply or the handle that says so.

mod handles;
mod stopping;
mod supervision;
mod trees;

use super::bus::{Bus, BusLimits, Subscription};
use super::child::{ChildInfo, ChildKind, ChildSpec, Observer, ServiceLabel};
use super::clock::TokioClock;
use super::event::Event;
use super::handle::{Handle, HandlePublisher};
use super::supervisor::{RootWatch, SupervisorOptions, SupervisorRef, start_root};
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use ron_core::restart::RestartPolicy;
use ron_core::time::Millis;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::oneshot;

const SECOND: Duration = Duration::from_secs(1);

/// A child that does as it is told.
struct Probe;

enum Do {
    Fail,
    Panic,
    Quit,
    /// Never comes back from its handler; says when it is in it.
    Hang(oneshot::Sender<()>),
    /// Blocks its thread until the sender is dropped, where no kill can reach it; says when it is in it.
    Block(oneshot::Sender<()>, std::sync::mpsc::Receiver<()>),
    Work(Duration),
    Echo(u64, RpcReplyPort<u64>),
}

struct ProbeArgs {
    name: &'static str,
    log: Log,
    fail_starts: Arc<AtomicUsize>,
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    fn add(&self, what: &str, name: &str) {
        self.0.lock().unwrap().push(format!("{what} {name}"));
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

impl Actor for Probe {
    type Msg = Do;
    type State = ProbeArgs;
    type Arguments = ProbeArgs;

    async fn pre_start(&self, _me: ActorRef<Do>, args: ProbeArgs) -> Result<ProbeArgs, ActorProcessingErr> {
        let left =
            args.fail_starts.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if left.is_ok() {
            return Err("cannot start".into());
        }
        args.log.add("start", args.name);
        Ok(args)
    }

    async fn post_stop(&self, _me: ActorRef<Do>, state: &mut ProbeArgs) -> Result<(), ActorProcessingErr> {
        state.log.add("stop", state.name);
        Ok(())
    }

    async fn handle(&self, me: ActorRef<Do>, what: Do, _: &mut ProbeArgs) -> Result<(), ActorProcessingErr> {
        match what {
            Do::Fail => return Err("told to fail".into()),
            Do::Panic => panic!("told to panic"),
            Do::Quit => me.stop(None),
            Do::Hang(inside) => {
                let _ = inside.send(());
                std::future::pending::<()>().await;
            }
            Do::Block(inside, until) => {
                // In place: a worker that just blocked would keep what it was about to wake, and nobody can steal that.
                tokio::task::block_in_place(|| {
                    let _ = inside.send(());
                    let _ = until.recv();
                });
            }
            Do::Work(time) => tokio::time::sleep(time).await,
            Do::Echo(value, reply) => {
                let _ = reply.send(value);
            }
        }
        Ok(())
    }
}

#[derive(Default)]
struct Counts {
    crashed: AtomicU64,
    quarantined: AtomicU64,
    killed: AtomicU64,
}

impl Observer for Counts {
    fn crashed(&self, _: ServiceLabel) {
        self.crashed.fetch_add(1, Ordering::SeqCst);
    }
    fn quarantined(&self, _: ServiceLabel) {
        self.quarantined.fetch_add(1, Ordering::SeqCst);
    }
    fn killed(&self, _: ServiceLabel) {
        self.killed.fetch_add(1, Ordering::SeqCst);
    }
}

/// A supervisor's surroundings.
struct World {
    options: SupervisorOptions,
    events: Subscription,
    counts: Arc<Counts>,
    log: Log,
}

impl World {
    fn new() -> Self {
        let clock = Arc::new(TokioClock::new(Millis(1_000_000)));
        let bus = Bus::new(clock.clone(), BusLimits::default());
        let events = bus.subscribe("test", "");
        let counts = Arc::new(Counts::default());
        let options = SupervisorOptions {
            clock,
            bus,
            observer: counts.clone(),
            policy: RestartPolicy::DEFAULT,
            seed: 1,
        };
        Self { options, events, counts, log: Log::default() }
    }

    async fn root(&self, children: Vec<ChildSpec>) -> (SupervisorRef, RootWatch) {
        start_root(self.options.clone(), children).await.unwrap()
    }

    fn child(&self, kind: ChildKind, name: &'static str) -> (ChildSpec, Handle<Do>) {
        let (spec, handle, _) = self.flaky(kind, name, 0);
        (spec, handle)
    }

    fn fixed(&self, name: &'static str) -> (ChildSpec, Handle<Do>) {
        self.child(ChildKind::Fixed, name)
    }

    /// A child whose next starts fail, as many as the counter says.
    fn flaky(
        &self,
        kind: ChildKind,
        name: &'static str,
        fails: usize,
    ) -> (ChildSpec, Handle<Do>, Arc<AtomicUsize>) {
        let publisher = HandlePublisher::new();
        let handle = publisher.handle();
        let (log, fail_starts) = (self.log.clone(), Arc::new(AtomicUsize::new(fails)));
        let left = fail_starts.clone();
        let make = move || (Probe, ProbeArgs { name, log: log.clone(), fail_starts: left.clone() });
        (ChildSpec::actor(kind, name, ServiceLabel::Shard, &publisher, make), handle, fail_starts)
    }

    /// The next event; panics if there is none for an hour.
    async fn event(&mut self) -> Event {
        let record = tokio::time::timeout(3600 * SECOND, self.events.recv()).await.expect("an event");
        record.unwrap().event.clone()
    }

    fn no_more_events(&mut self) {
        assert_eq!(self.events.try_recv().map(|record| record.event.clone()), None);
    }
}

fn crash(child: &str, reason: &str) -> Event {
    Event::ServiceCrashed { service: ServiceLabel::Shard, child: child.into(), reason: reason.into() }
}

fn info<'a>(children: &'a [ChildInfo], name: &str) -> &'a ChildInfo {
    children.iter().find(|child| &*child.name == name).expect("a child of that name")
}

async fn echo(handle: &Handle<Do>, value: u64) -> u64 {
    handle.call(|reply| Do::Echo(value, reply), 60 * SECOND).await.unwrap()
}

fn tell(handle: &Handle<Do>, what: Do) {
    assert!(handle.cast(what).is_ok(), "the child is down");
}
