//! The brownout sentinel: looks once a second at how the store keeps up, and says when new messages are to be shed.
//! What decides is [`Brownout`]; who sheds is whoever hands in the [`Sensors`]. It holds up nothing itself.

use crate::kernel::child::{ChildKind, ChildSpec, ServiceLabel};
use crate::kernel::handle::HandlePublisher;
use crate::mailbox::Mailbox;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use ron_core::brownout::{Brownout, Second, Switch, Thresholds};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const EVERY: Duration = Duration::from_secs(1);

/// What the sentinel sees and moves outside the store.
pub trait Sensors: Send + Sync + fmt::Debug {
    /// How much of the budget of sends is in use, %.
    fn budget_percent(&self) -> u8;

    /// New messages are shed from now on, or accepted again.
    fn switched(&self, switch: Switch);

    /// The sentinel begins: whatever it said before is taken back.
    fn began(&self);
}

/// What it needs.
#[derive(Debug, Clone)]
pub struct SentinelArgs {
    /// Whose commits and answers it watches.
    pub mailbox: Mailbox,
    /// The rest.
    pub sensors: Arc<dyn Sensors>,
    /// When it sheds.
    pub limits: Thresholds,
}

impl SentinelArgs {
    /// The sentinel as a child. A killed one forgets what it saw, and its successor sheds nothing until it sees it
    /// again.
    #[must_use]
    pub fn child_spec(self) -> ChildSpec {
        let make = move || (Sentinel, self.clone());
        ChildSpec::actor(ChildKind::Fixed, "sentinel", ServiceLabel::Sentinel, &HandlePublisher::new(), make)
    }
}

/// The timer.
#[derive(Debug)]
pub struct Look;

/// See the module.
#[derive(Debug, Default)]
pub struct Sentinel;

/// Its memory.
#[derive(Debug)]
pub struct Watching {
    args: SentinelArgs,
    brownout: Brownout,
    probing: Arc<AtomicBool>,
    /// A probe has failed since the last look.
    probe_failed: Arc<AtomicBool>,
}

impl Actor for Sentinel {
    type Msg = Look;
    type State = Watching;
    type Arguments = SentinelArgs;

    async fn pre_start(
        &self,
        myself: ActorRef<Look>,
        args: SentinelArgs,
    ) -> Result<Watching, ActorProcessingErr> {
        args.sensors.began();
        myself.send_after(EVERY, || Look);
        let brownout = Brownout::new(args.limits);
        Ok(Watching { args, brownout, probing: Arc::default(), probe_failed: Arc::default() })
    }

    async fn handle(
        &self,
        myself: ActorRef<Look>,
        Look: Look,
        state: &mut Watching,
    ) -> Result<(), ActorProcessingErr> {
        myself.send_after(EVERY, || Look);
        let SentinelArgs { mailbox, sensors, .. } = &state.args;
        let (answered, failed) = mailbox.outcomes().take();
        let second = Second {
            commit_ms: mailbox.store().pace(),
            budget_percent: sensors.budget_percent(),
            answered,
            failed,
            probe_failed: state.probe_failed.swap(false, Ordering::AcqRel),
        };
        if let Some(switch) = state.brownout.look(second) {
            state.args.sensors.switched(switch);
        }
        // Nobody sends while new messages are shed: whether the store is well again has to be tried.
        if state.brownout.sheds() && !state.probing.swap(true, Ordering::AcqRel) {
            let (store, probing) = (state.args.mailbox.store().clone(), state.probing.clone());
            let probe_failed = state.probe_failed.clone();
            tokio::spawn(async move {
                if !store.probe().await {
                    probe_failed.store(true, Ordering::Release);
                }
                probing.store(false, Ordering::Release);
            });
        }
        Ok(())
    }
}
