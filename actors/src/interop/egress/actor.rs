//! The actor of one endpoint: keeps its loop running, and fails with it, so that its supervisor starts both anew.

use super::carrier::Carrier;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::task::AbortHandle;

/// The address of an egress.
pub type EgressRef = ActorRef<EgressMsg>;

/// What an egress is told.
#[derive(Debug)]
pub enum EgressMsg {
    /// Its loop ended, which it never should.
    Ended(String),
    /// Fail: a drill wants to see the restart.
    Crash,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Egress;

/// Ends the loop with the actor; attempts under way are broken off, and their leases bring the messages back.
#[derive(Debug)]
pub struct Running(AbortHandle);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Actor for Egress {
    type Msg = EgressMsg;
    type State = Running;
    type Arguments = Carrier;

    async fn pre_start(&self, myself: EgressRef, carrier: Carrier) -> Result<Running, ActorProcessingErr> {
        let running = tokio::spawn(carrier.run());
        let abort = running.abort_handle();
        tokio::spawn(async move {
            let why = match running.await {
                Ok(why) => why.to_owned(),
                Err(error) => error.to_string(),
            };
            // after an abort there is nobody to tell
            let _ = myself.cast(EgressMsg::Ended(why));
        });
        Ok(Running(abort))
    }

    async fn handle(
        &self,
        _: EgressRef,
        message: EgressMsg,
        _: &mut Running,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            EgressMsg::Ended(why) => Err(why.into()),
            EgressMsg::Crash => Err("killed by a drill".into()),
        }
    }
}
