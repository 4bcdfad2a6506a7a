//! The router: starts the actor of a queue at its first use. Callers find a running one through the directory
//! and never come here.

use super::directory::{Directory, Entry};
use super::messages::ShardMsg;
use super::shard::{ShardActor, ShardArgs};
use super::{MailboxConfig, MailboxObserver};
use crate::kernel::child::{ChildKind, ChildSpec, ChildStatus, ServiceLabel};
use crate::kernel::supervisor::{StartError, SupervisorRef};
use crate::store::Store;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use ron_core::shard::park_after;
use ron_core::time::Clock;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// The address of the router.
pub type RouterRef = ActorRef<RouterMsg>;

/// What the router is told.
#[derive(Debug)]
pub enum RouterMsg {
    /// Start the queue's actor, if it has none. Answered when it is up, or has failed its first start.
    Wake(Arc<Entry>, oneshot::Sender<()>),
    /// Start the actors of all queues that have leases, delays or tasks: their clocks run.
    WakeAllWithTimers,
    /// Bring the queues to memory that time has something to do to.
    Sweep,
    /// Look whether too many queues are awake.
    Crowd,
    /// The node drains: long polls end, empty.
    EndWaits,
}

/// What the router needs.
#[derive(Debug, Clone)]
pub struct RouterArgs {
    /// All queues.
    pub directory: Arc<Directory>,
    /// Under whom shards run.
    pub shards: SupervisorRef,
    /// Where they commit.
    pub store: Store,
    /// Node time.
    pub clock: Arc<dyn Clock>,
    /// Limits and settings.
    pub config: Arc<MailboxConfig>,
    /// Who is told.
    pub observer: Arc<dyn MailboxObserver>,
}

/// How often queues that are not in memory are looked at for what TTLs and retention end.
const SWEEP_EVERY: Duration = Duration::from_secs(5);
/// How often it is looked whether too many queues are awake.
const CROWD_EVERY: Duration = Duration::from_secs(1);
/// Queues brought to memory by one look.
const SWEPT_MAX: usize = 256;
/// How often, and how soon, to look again whether an actor has ended: that of a deleted topic of the same name, or the
/// queue's own, which was idle.
const NAMESAKE_LOOKS: u32 = 20;
const NAMESAKE_ENDS: Duration = Duration::from_millis(10);
/// Longer than a supervisor takes to start its other children.
const SUPERVISOR_WITHIN: Duration = Duration::from_secs(60);

/// See the module.
#[derive(Debug, Default)]
pub struct Router;

impl Actor for Router {
    type Msg = RouterMsg;
    type State = RouterArgs;
    type Arguments = Option<RouterArgs>;

    async fn pre_start(
        &self,
        myself: RouterRef,
        args: Option<RouterArgs>,
    ) -> Result<RouterArgs, ActorProcessingErr> {
        let args = args.ok_or("the router's supervisor is not known yet")?;
        myself.cast(RouterMsg::WakeAllWithTimers)?;
        myself.send_after(SWEEP_EVERY, || RouterMsg::Sweep);
        myself.send_after(CROWD_EVERY, || RouterMsg::Crowd);
        Ok(args)
    }

    async fn handle(
        &self,
        myself: RouterRef,
        message: RouterMsg,
        state: &mut RouterArgs,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            RouterMsg::Wake(entry, reply) => {
                let router = state.clone();
                tokio::spawn(async move {
                    router.start(&entry).await;
                    // Nobody waits any more: the actor is up all the same.
                    let _ = reply.send(());
                });
            }
            RouterMsg::WakeAllWithTimers => {
                let router = state.clone();
                tokio::spawn(async move {
                    // It started this router before anybody could call it; its failure restarts this router.
                    let Ok(()) = router.shards.wait_up(SUPERVISOR_WITHIN).await else { return };
                    for entry in router.directory.all() {
                        if entry.must_run() {
                            router.start(&entry).await;
                        }
                    }
                });
            }
            RouterMsg::Sweep => {
                let now = state.clock.now();
                for entry in state.directory.due(now, SWEPT_MAX) {
                    if entry.handle.cast(ShardMsg::Wake).is_err() {
                        // It has no actor yet; a new one looks for itself what is due.
                        let router = state.clone();
                        tokio::spawn(async move { router.start(&entry).await });
                    }
                }
                myself.send_after(SWEEP_EVERY, || RouterMsg::Sweep);
            }
            RouterMsg::Crowd => {
                let configured = state.config.park_after_ms;
                let idle_ms = park_after(configured, state.directory.awake());
                if idle_ms < configured {
                    for entry in state.directory.all() {
                        // Without an actor there is nobody to end.
                        let _ = entry.handle.cast(ShardMsg::LeaveIfIdle(idle_ms));
                    }
                }
                myself.send_after(CROWD_EVERY, || RouterMsg::Crowd);
            }
            RouterMsg::EndWaits => {
                for entry in state.directory.all() {
                    // A queue without an actor has nobody waiting.
                    let _ = entry.handle.cast(ShardMsg::EndWaits);
                }
            }
        }
        Ok(())
    }
}

impl RouterArgs {
    async fn start(&self, entry: &Arc<Entry>) {
        if entry.is_gone() {
            return;
        }
        for _ in 0..NAMESAKE_LOOKS {
            match self.shards.start_child(self.spec(entry)).await {
                // Another caller was faster, or it is being restarted; or an idle actor, or that of a topic of this
                // name that was deleted, is still ending.
                Err(StartError::Exists) if !entry.handle.is_up() => tokio::time::sleep(NAMESAKE_ENDS).await,
                Ok(()) | Err(StartError::Exists) => return,
                Err(error) => {
                    tracing::warn!(%error, queue = %entry.key, "a queue's actor did not start");
                    return;
                }
            }
        }
    }

    fn spec(&self, entry: &Arc<Entry>) -> ChildSpec {
        let args = ShardArgs {
            entry: entry.clone(),
            directory: self.directory.clone(),
            store: self.store.clone(),
            clock: self.clock.clone(),
            config: self.config.clone(),
            observer: self.observer.clone(),
        };
        let (clock, stilled, store) = (self.clock.clone(), entry.clone(), self.store.clone());
        let make = move || (ShardActor, args.clone());
        ChildSpec::actor(ChildKind::Dynamic, entry.child_name(), ServiceLabel::Shard, &entry.publisher, make)
            .on_status(Arc::new(move |status| match status {
                // Nobody can ack while it is down: lease clocks stand still.
                ChildStatus::Restarting { .. } | ChildStatus::Quarantined => {
                    stilled.stands_still_from(clock.now(), &store);
                }
                ChildStatus::Starting | ChildStatus::Up | ChildStatus::Stopping | ChildStatus::Stopped => {}
            }))
    }
}
