//! The passport's actor: checks the MAC chain of tokens that are not remembered. One at a time, behind bounded
//! admission, so that strangers with made-up tokens hold up nobody whose token is known.

use super::book::{Book, Grant};
use crate::kernel::admission::Permit;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use ron_core::capability;
use ron_core::reason::Refusal;
use std::sync::Arc;
use tokio::sync::oneshot;
use zeroize::Zeroizing;

/// The address of a passport.
pub type PassportRef = ActorRef<PassportMsg>;

/// What a passport is told.
pub enum PassportMsg {
    /// Check who made this token.
    Check {
        /// The token's text.
        token: Zeroizing<String>,
        /// Wall clock, Unix seconds.
        wall_unix_s: u64,
        /// Where the answer goes.
        reply: oneshot::Sender<Result<Arc<Grant>, Refusal>>,
        /// Rides along until then.
        permit: Permit,
    },
    /// Fail: a drill wants to see the restart.
    Crash,
}

/// See the module.
#[derive(Debug, Default)]
pub struct PassportActor;

impl Actor for PassportActor {
    type Msg = PassportMsg;
    type State = Arc<Book>;
    type Arguments = Arc<Book>;

    async fn pre_start(&self, _: PassportRef, book: Arc<Book>) -> Result<Arc<Book>, ActorProcessingErr> {
        Ok(book)
    }

    async fn handle(
        &self,
        _: PassportRef,
        message: PassportMsg,
        book: &mut Arc<Book>,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            PassportMsg::Check { token, wall_unix_s, reply, permit } => {
                if !reply.is_closed() {
                    let checked = capability::verify(&token, &book.keys(), wall_unix_s);
                    let grant = checked.map(|capability| Arc::new(Grant::new(capability, book.clone())));
                    // Its sender may have gone meanwhile: nothing has happened, so nothing is owed.
                    let _ = reply.send(grant);
                }
                drop(permit);
                Ok(())
            }
            PassportMsg::Crash => Err("killed by a drill".into()),
        }
    }
}
