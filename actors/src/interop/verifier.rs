//! The verifier of one provider: judges its webhooks one by one, and mints the capability with which a verified
//! one may be enqueued. It never enqueues itself, so a slow store does not hold up the next signature.

use crate::kernel::admission::{Admission, Permit};
use crate::kernel::handle::{CastError, Handle, HandlePublisher};
use crate::passport::{Grant, Passport};
use bytes::Bytes;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use ron_core::ids::QueueKey;
use ron_core::message::PAYLOAD_BYTES_MAX;
use ron_core::reason::{Reason, Refusal};
use ron_core::scheme::{Accepted, Handshake, HeaderList, InboundRequest, ProviderRules, Rejection, Verdict};
use ron_core::time::Millis;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// How long a webhook waits for a verifier that is being restarted, and for its verdict.
const VERDICT_WITHIN: Duration = Duration::from_secs(2);

/// The address of a verifier.
pub type VerifierRef = ActorRef<VerifierMsg>;

/// What a verifier makes of a webhook.
#[derive(Debug)]
pub enum Judged {
    /// Verified: the event, and the capability that its enqueue needs.
    Accepted(Box<Accepted>, Arc<Grant>),
    /// A challenge, answered.
    Handshake(Handshake),
    /// Refused.
    Refused(Rejection),
}

/// A webhook, and the rules by which it is judged: those that were in force when it came. They ride along, so that
/// others put in force meanwhile change nothing for it, and no verifier is restarted for them.
#[derive(Debug)]
pub struct Case {
    /// The provider, its scheme and secrets.
    pub rules: Arc<ProviderRules>,
    /// Where its event goes.
    pub queue: QueueKey,
    /// `POST` or `GET`.
    pub method: String,
    /// As sent, without the `?`.
    pub query: String,
    /// All headers as sent.
    pub headers: HeaderList,
    /// The raw bytes.
    pub body: Bytes,
    /// Wall clock of its arrival.
    pub wall: Millis,
}

/// What a verifier is told.
pub enum VerifierMsg {
    /// Judge this webhook.
    Judge {
        /// The webhook.
        case: Box<Case>,
        /// Where the verdict goes.
        reply: oneshot::Sender<Result<Judged, Refusal>>,
        /// Rides along until then.
        permit: Permit,
    },
    /// Fail: a drill wants to see the restart.
    Crash,
}

/// What a verifier needs.
#[derive(Debug, Clone)]
pub struct VerifierArgs {
    /// Makes the capability.
    pub passport: Passport,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Verifier;

impl Actor for Verifier {
    type Msg = VerifierMsg;
    type State = VerifierArgs;
    type Arguments = VerifierArgs;

    async fn pre_start(
        &self,
        _: VerifierRef,
        args: VerifierArgs,
    ) -> Result<VerifierArgs, ActorProcessingErr> {
        Ok(args)
    }

    async fn handle(
        &self,
        _: VerifierRef,
        message: VerifierMsg,
        state: &mut VerifierArgs,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            VerifierMsg::Judge { case, reply, permit } => {
                // Its sender may have gone: nothing has happened, so nothing is owed.
                let _ = reply.send(state.judge(&case));
                drop(permit);
                Ok(())
            }
            VerifierMsg::Crash => Err("killed by a drill".into()),
        }
    }
}

impl VerifierArgs {
    fn judge(&self, case: &Case) -> Result<Judged, Refusal> {
        let Case { rules, queue, method, query, headers, body, wall } = case;
        match rules.judge(&InboundRequest { method, query, headers, body }, *wall) {
            Verdict::Refuse(rejection) => Ok(Judged::Refused(rejection)),
            Verdict::Handshake(handshake) => Ok(Judged::Handshake(handshake)),
            Verdict::Accept(accepted) => {
                let QueueKey { tenant, topic } = queue;
                let grant = self.passport.mint_webhook(tenant, topic, PAYLOAD_BYTES_MAX as u64, *wall)?;
                Ok(Judged::Accepted(accepted, grant))
            }
        }
    }
}

/// The address of a verifier, with its admission. Cheap to clone.
#[derive(Debug, Clone)]
pub struct VerifierHandle {
    publisher: HandlePublisher<VerifierMsg>,
    handle: Handle<VerifierMsg>,
    admission: Admission,
}

impl VerifierHandle {
    /// The handle of a verifier that is not up yet, with room for this many webhooks and bytes.
    #[must_use]
    pub fn new(count_max: usize, bytes_max: usize) -> VerifierHandle {
        let publisher = HandlePublisher::new();
        let admission = Admission::new(count_max, bytes_max);
        VerifierHandle { handle: publisher.handle(), publisher, admission }
    }

    /// What its child spec publishes to.
    #[must_use]
    pub fn publisher(&self) -> &HandlePublisher<VerifierMsg> {
        &self.publisher
    }

    /// Whether it failed too often and waits for an operator.
    #[must_use]
    pub fn is_quarantined(&self) -> bool {
        self.handle.is_quarantined()
    }

    /// Has a webhook judged.
    ///
    /// # Errors
    /// BACKPRESSURE, or DOWNSTREAM_UNAVAILABLE while it is down. Nothing has happened then.
    pub async fn judge(&self, case: Case) -> Result<Judged, Refusal> {
        let full =
            |_| Refusal::new(Reason::Backpressure, "too many webhooks wait for this provider's verifier");
        let permit = self.admission.try_acquire(case.body.len()).map_err(full)?;
        let (reply, verdict) = oneshot::channel();
        let message = VerifierMsg::Judge { case: Box::new(case), reply, permit };
        match self.handle.cast(message) {
            Ok(()) => {}
            Err(CastError::Quarantined(_)) => {
                return Err(down("is quarantined; an operator must release it"));
            }
            Err(CastError::Down(message)) => {
                let up = self.handle.wait_up(VERDICT_WITHIN).await;
                let actor = up.map_err(|_| down("is restarting; retry"))?;
                actor.cast(message).map_err(|_| down("is restarting; retry"))?;
            }
        }
        match tokio::time::timeout(VERDICT_WITHIN, verdict).await {
            Ok(Ok(judged)) => judged,
            Ok(Err(_)) | Err(_) => Err(down("failed while it had the request; retry")),
        }
    }

    /// Makes it fail: for drills.
    pub fn crash(&self) {
        let _ = self.handle.cast(VerifierMsg::Crash);
    }
}

fn down(what: &str) -> Refusal {
    // A verdict alone changes nothing: the enqueue comes after it.
    Refusal::new(Reason::DownstreamUnavailable, format!("this provider's verifier {what}")).without_effect()
}
