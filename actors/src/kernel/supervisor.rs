//! A one-for-one supervisor: keeps each child running within its restart budget, and stops them all in order.
//!
//! The actor itself only keeps the books. Spawning and stopping a child may take a while, so each runs in a
//! task of its own that reports back by message; a slow child never holds up another's restart. What is to be
//! done about an exit is [`ron_core::restart`]'s decision. It never waits for a child inside a handler, so a
//! child may call its supervisor, except from `pre_start`.

use super::bus::Bus;
use super::child::{ChildInfo, ChildKind, ChildSpec, Observer, ServiceLabel, SpawnFn, StopMode};
use super::halt::{self, Halting};
use super::handle::{Handle, HandlePublisher, NotUp};
use super::life::Exit;
use super::roster::State;
use futures::FutureExt;
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, RpcReplyPort, SpawnErr, SupervisionEvent};
use ron_core::restart::{ExitKind, RestartPolicy};
use ron_core::time::Clock;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// What a supervisor is given. Cheap to clone.
#[derive(Clone)]
pub struct SupervisorOptions {
    /// Node time, for the restart budget.
    pub clock: Arc<dyn Clock>,
    /// Where crashes are told.
    pub bus: Bus,
    /// Where they are counted.
    pub observer: Arc<dyn Observer>,
    /// The budget of each child.
    pub policy: RestartPolicy,
    /// Seed of the restart jitter; another one for each node and supervisor.
    pub seed: u64,
}

impl fmt::Debug for SupervisorOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SupervisorOptions").field("policy", &self.policy).finish_non_exhaustive()
    }
}

/// A critical child passed its budget: the tree cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("critical child {child} failed too often: {reason}")]
pub struct RootFailed {
    /// Which child; `root` if it was the supervisor itself.
    pub child: Arc<str>,
    /// Its last error.
    pub reason: Arc<str>,
}

/// Why a child was not started.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    /// A child of that name exists: up, restarting or quarantined.
    #[error("a child of that name exists")]
    Exists,
    /// The first attempt failed. The child is kept and tried again under its budget.
    #[error("the child did not start: {0}")]
    NotUp(Arc<str>),
    /// The supervisor is stopping.
    #[error("the supervisor is stopping")]
    Stopping,
    /// The supervisor is down.
    #[error("the supervisor is down")]
    Down,
}

/// How a root supervisor ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RootEnd {
    /// By [`SupervisorRef::stop`].
    Stopped,
    /// By a failure: the process exits with code 70.
    Failed(RootFailed),
}

/// Waits for the end of a root supervisor.
#[derive(Debug)]
pub struct RootWatch {
    end: watch::Receiver<Option<RootEnd>>,
}

impl RootWatch {
    /// The root's end. Safe to cancel and to ask again.
    pub async fn ended(&mut self) -> RootEnd {
        match self.end.wait_for(Option::is_some).await.map(|end| end.clone()) {
            Ok(Some(end)) => end,
            Ok(None) | Err(_) => RootEnd::Failed(RootFailed {
                child: "root".into(),
                reason: "the root supervisor failed".into(),
            }),
        }
    }
}

/// Starts the root of a tree. Returns when each of `children`, in order, has come up or failed its first
/// attempt (see [`SupervisorRef::children`]).
///
/// # Errors
/// Only if the supervisor itself does not start.
pub async fn start_root(
    options: SupervisorOptions,
    children: Vec<ChildSpec>,
) -> Result<(SupervisorRef, RootWatch), SpawnErr> {
    let (end, ended) = watch::channel(None);
    let args = Args { options, children, end: Some(end) };
    let (actor, _) = Actor::spawn(None, Supervisor, args).await?;
    let publisher = HandlePublisher::new();
    publisher.publish(actor.clone());
    let root = SupervisorRef { handle: publisher.handle() };
    let _ = root.booted().await;
    Ok((root, RootWatch { end: ended }))
}

/// The spec of a supervisor below another one, and its address. `make_children` gives the fixed children of
/// each (re)start. Give it a `stop_timeout` no shorter than its children's together.
pub fn tree<F>(
    name: &str,
    service: ServiceLabel,
    options: SupervisorOptions,
    make_children: F,
) -> (ChildSpec, SupervisorRef)
where
    F: Fn() -> Vec<ChildSpec> + Send + Sync + 'static,
{
    let publisher = HandlePublisher::new();
    let make = move || (Supervisor, Args { options: options.clone(), children: make_children(), end: None });
    let ask = |cell: &ActorCell| {
        let _ = cell.send_message(Msg::Stop);
    };
    let spec = ChildSpec::actor(ChildKind::Fixed, name, service, &publisher, make)
        .stop_mode(StopMode::Ask(Arc::new(ask)))
        .stop_timeout(Duration::from_secs(30));
    (spec, SupervisorRef { handle: publisher.handle() })
}

/// The address of a supervisor; survives its restarts. Cheap to clone.
#[derive(Debug, Clone)]
pub struct SupervisorRef {
    handle: Handle<Msg>,
}

/// The reason that ractor gives for a kill.
const KILLED: &str = "killed";

/// The supervisor answers from memory; if it does not, it is stuck, and that is a bug.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

impl SupervisorRef {
    /// Waits until its address is known: a supervisor's children run before that, when it is started.
    ///
    /// # Errors
    /// Still down after `timeout`, or never up again.
    pub async fn wait_up(&self, timeout: Duration) -> Result<(), NotUp> {
        self.handle.wait_up(timeout).await.map(|_| ())
    }

    /// Adds a child and waits for its first start.
    ///
    /// # Errors
    /// [`StartError`]; after `NotUp` the child exists and is being restarted. A start that takes longer than
    /// the spec's spawn timeout is `NotUp`.
    pub async fn start_child(&self, spec: ChildSpec) -> Result<(), StartError> {
        let timeout = CALL_TIMEOUT + spec.spawn_timeout + spec.stop_timeout;
        let started = self.handle.call(|reply| Msg::Start(Box::new(spec), reply), timeout).await;
        started.unwrap_or(Err(StartError::Down))
    }

    /// Stops a child and forgets it. Returns when it is gone; false if there is none of that name.
    pub async fn stop_child(&self, name: &str) -> bool {
        let Some(actor) = self.handle.get() else { return false };
        let called = actor.call(|reply| Msg::StopChild(name.into(), reply), None).await;
        matches!(called, Ok(ractor::rpc::CallResult::Success(true)))
    }

    /// Kills a child as a fault would, for drills: it is restarted under its budget. One that is being
    /// started is killed once it is up. False if there is nothing to kill.
    pub async fn kill_child(&self, name: &str) -> bool {
        let killed = self.handle.call(|reply| Msg::KillChild(name.into(), reply), CALL_TIMEOUT).await;
        killed.unwrap_or(false)
    }

    /// Lets a child out of quarantine with its whole budget. False if it is not in quarantine.
    pub async fn release(&self, name: &str) -> bool {
        let released = self.handle.call(|reply| Msg::Release(name.into(), reply), CALL_TIMEOUT).await;
        released.unwrap_or(false)
    }

    /// Its children in order of start; none if the supervisor is down.
    pub async fn children(&self) -> Vec<ChildInfo> {
        self.handle.call(Msg::Children, CALL_TIMEOUT).await.unwrap_or_default()
    }

    /// Waits until each of the children that it was started with has come up or failed its first attempt.
    ///
    /// # Errors
    /// [`StartError::Down`] if the supervisor fails or stops before that.
    pub async fn booted(&self) -> Result<(), StartError> {
        let actor = self.handle.get().ok_or(StartError::Down)?;
        match actor.call(Msg::Booted, None).await {
            Ok(ractor::rpc::CallResult::Success(())) => Ok(()),
            _ => Err(StartError::Down),
        }
    }

    /// Stops all children, dynamic ones first and together, then fixed ones in reverse order of start, each
    /// within its own timeout, and then the supervisor. Returns when it is gone.
    pub async fn stop(&self) {
        let Some(actor) = self.handle.get() else { return };
        let _ = actor.cast(Msg::Stop);
        let _ = actor.wait(None).await;
    }
}

pub(super) enum Msg {
    Start(Box<ChildSpec>, RpcReplyPort<Result<(), StartError>>),
    StopChild(Arc<str>, RpcReplyPort<bool>),
    KillChild(Arc<str>, RpcReplyPort<bool>),
    Release(Arc<str>, RpcReplyPort<bool>),
    Children(RpcReplyPort<Vec<ChildInfo>>),
    Booted(RpcReplyPort<()>),
    Stop,
    /// The next of the children it was started with.
    Boot,
    /// A spawn task is done.
    Spawned {
        name: Arc<str>,
        generation: u64,
        result: Result<ActorCell, String>,
    },
    /// A restart is due.
    Respawn {
        name: Arc<str>,
        generation: u64,
    },
    /// A child that was asked to stop is gone.
    Halted {
        name: Arc<str>,
        generation: u64,
        how: halt::Outcome,
    },
    /// All are gone.
    AllHalted,
}

pub(super) struct Supervisor;

pub(super) struct Args {
    pub(super) options: SupervisorOptions,
    pub(super) children: Vec<ChildSpec>,
    pub(super) end: Option<watch::Sender<Option<RootEnd>>>,
}

impl Actor for Supervisor {
    type Msg = Msg;
    type State = State;
    type Arguments = Args;

    async fn pre_start(&self, me: ActorRef<Msg>, args: Args) -> Result<State, ActorProcessingErr> {
        me.cast(Msg::Boot)?;
        Ok(State::new(me, args))
    }

    async fn handle(
        &self,
        _me: ActorRef<Msg>,
        message: Msg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Msg::Start(spec, reply) => state.start(*spec, reply),
            Msg::StopChild(name, reply) => state.stop_child(&name, reply),
            Msg::KillChild(name, reply) => answer(reply, state.kill_child(&name)),
            Msg::Release(name, reply) => answer(reply, state.release(&name)),
            Msg::Children(reply) => answer(reply, state.infos()),
            Msg::Booted(reply) => state.tell_booted(reply),
            Msg::Stop => state.stop_all(),
            Msg::Boot => state.boot_next(),
            Msg::Spawned { name, generation, result } => {
                return fail_if(state.spawned(&name, generation, result), state).await;
            }
            Msg::Respawn { name, generation } => state.respawn(&name, generation),
            Msg::Halted { name, generation, how } => state.halted(&name, generation, how),
            Msg::AllHalted => state.finish(),
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _me: ActorRef<Msg>,
        event: SupervisionEvent,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let (cell, exit) = match &event {
            SupervisionEvent::ActorTerminated(cell, held, reason) => {
                let reason = reason.as_deref();
                // a kill looks like a stop but for its reason, or has no State if it came early
                let stopped = held.is_some() && reason != Some(KILLED);
                let kind = if stopped { ExitKind::Clean } else { ExitKind::Failed };
                (cell.clone(), Exit::new(kind, reason.unwrap_or("stopped by itself")))
            }
            SupervisionEvent::ActorFailed(cell, error) => {
                (cell.clone(), Exit::new(ExitKind::Failed, &error.to_string()))
            }
            SupervisionEvent::ActorStarted(_) | SupervisionEvent::ProcessGroupChanged(_) => return Ok(()),
        };
        // the event holds the old State; let go of it before there is a new one
        drop(event);
        fail_if(state.exited(cell.get_id(), exit), state).await
    }

    /// Stopped from outside (by a parent that is not ours): still in order. After [`Msg::Stop`] nobody is
    /// left.
    async fn post_stop(&self, _me: ActorRef<Msg>, state: &mut State) -> Result<(), ActorProcessingErr> {
        let rest = state.give_up_all();
        halt::in_order(rest, |_, _| ()).await;
        state.forget_all();
        state.end(RootEnd::Stopped);
        Ok(())
    }
}

fn answer<T>(reply: RpcReplyPort<T>, with: T) {
    // the caller may have gone
    let _ = reply.send(with);
}

/// A critical child is past its budget: ends the others at once and fails, which is the parent's business
/// then, or the node's.
async fn fail_if(failed: Option<RootFailed>, state: &mut State) -> Result<(), ActorProcessingErr> {
    let Some(failed) = failed else { return Ok(()) };
    let RootFailed { child, reason } = &failed;
    tracing::error!(%child, %reason, "critical child is past its restart budget");
    let rest = state.give_up_all();
    // gone before a restarted tree makes new ones
    halt::kill_all(rest.into_iter().map(|halting: Halting| halting.cell)).await;
    state.forget_all();
    state.end(RootEnd::Failed(failed.clone()));
    Err(failed.into())
}

/// Spawns in a task of its own; any outcome, a panic and a timeout included, comes back as [`Msg::Spawned`].
pub(super) async fn attempt(
    spawn: SpawnFn,
    parent: ActorCell,
    timeout: Duration,
) -> Result<ActorCell, String> {
    let spawning = std::panic::AssertUnwindSafe(async move { spawn(parent).await }).catch_unwind();
    match tokio::time::timeout(timeout, spawning).await {
        Ok(Ok(Ok(cell))) => Ok(cell),
        Ok(Ok(Err(SpawnErr::StartupFailed(error)))) => Err(error.to_string()),
        Ok(Ok(Err(error @ (SpawnErr::ActorAlreadyStarted | SpawnErr::ActorAlreadyRegistered(_))))) => {
            Err(error.to_string())
        }
        Ok(Err(_)) => Err("the spawn function panicked".to_owned()),
        Err(_) => Err(format!("not started within {} ms", timeout.as_millis())),
    }
}
