//! The end of a topic: its actor takes nothing new, waits for the commits it owes, and ends all that is left by one
//! more. Then the topic's place in the directory is free, and the actor is gone. A topic of the same name that comes
//! later is another one, with a number of its own.

use super::api::Settle;
use super::loading::Phase;
use super::messages::{ShardMsg, refusal, refuse};
use super::shard::{ShardRef, ShardState};
use crate::kernel::admission::Permit;
use crate::store::{UnitFailure, UnitResult};
use ron_core::reason::{Reason, Refusal};
use ron_core::shard::{Command, Reply};
use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use tokio::sync::oneshot;

/// How many messages ended with the topic, dead letters included.
pub type DeleteReply = oneshot::Sender<Result<u64, Refusal>>;

/// A topic that is being deleted.
pub(super) struct Closing {
    reply: DeleteReply,
    _permit: Permit,
    /// What came since, in order.
    held: VecDeque<ShardMsg>,
    /// The last commit has been handed in.
    last: bool,
}

impl ShardState {
    /// Begins to delete the topic.
    pub(super) fn close(&mut self, myself: &ShardRef, reply: DeleteReply, permit: Permit) {
        let Phase::Ready(loaded) = &self.phase else { return };
        if loaded.topic.is_none() && !loaded.shard.uncommitted() {
            let text = "nothing was ever sent to this topic";
            return drop(reply.send(Err(Refusal::new(Reason::NotFound, text))));
        }
        self.end_waits(myself);
        self.closing = Some(Closing { reply, _permit: permit, held: VecDeque::new(), last: false });
        self.close_if_quiet(myself);
    }

    /// Keeps a command back while the topic is being deleted; gives it back if it is not.
    pub(super) fn hold(&mut self, message: ShardMsg) -> Option<ShardMsg> {
        let passes = matches!(
            message,
            ShardMsg::Committed(..) | ShardMsg::Closed(..) | ShardMsg::EndWaits | ShardMsg::CancelRecv(_)
        );
        match &mut self.closing {
            Some(closing) if !passes => {
                closing.held.push_back(message);
                None
            }
            Some(_) | None => Some(message),
        }
    }

    /// Ends what is left, once no commit is owed.
    pub(super) fn close_if_quiet(&mut self, myself: &ShardRef) {
        let Phase::Ready(loaded) = &mut self.phase else { return };
        let Some(closing) = self.closing.as_mut().filter(|closing| !closing.last) else { return };
        if loaded.shard.uncommitted() {
            return;
        }
        closing.last = true;
        loaded.deletes = true;
        let Some(step) = self.apply(Command::Delete) else { return };
        let Reply::Purged(ended) = step.reply else { return };
        let actor = myself.clone();
        let done = move |result: UnitResult<'_>| {
            // An actor that is gone has dropped its caller; its successor finds the topic gone, or whole.
            let _ = actor.cast(ShardMsg::Closed(result.map(|_| ended)));
        };
        self.carry(myself, step, Vec::new(), Some(Box::new(done)));
    }

    /// A commit was lost that the deletion waited for.
    pub(super) fn close_no_more(&mut self, myself: &ShardRef, failure: UnitFailure) {
        if self.closing.as_ref().is_some_and(|closing| !closing.last) {
            self.closed(myself, Err(failure));
        }
    }

    /// The last commit is done, or lost.
    pub(super) fn closed(&mut self, myself: &ShardRef, result: Result<u64, UnitFailure>) {
        let Some(closing) = self.closing.take() else { return };
        match result {
            Ok(ended) => {
                self.leave(myself, closing.held);
                let _ = closing.reply.send(Ok(ended));
            }
            Err(failure) => {
                let _ = closing.reply.send(Err(refusal(failure)));
                closing.held.into_iter().for_each(|message| self.command(myself, message));
                self.arm(myself);
            }
        }
    }

    /// Gives up the topic's place, and ends the actor.
    pub(super) fn leave(&mut self, myself: &ShardRef, held: VecDeque<ShardMsg>) {
        let entry = &self.args.entry;
        entry.gone.store(true, Ordering::Release);
        entry.exists.store(false, Ordering::Release);
        entry.task_runs.store(false, Ordering::Release);
        entry.parts.book(0, 0, false);
        self.args.directory.remove(entry);
        self.phase = Phase::Gone;
        self.waiting.refuse_all(&deleted());
        held.into_iter().for_each(|message| refuse(message, &deleted()));
        myself.stop(None);
    }
}

/// What those are told who came while the topic was deleted: a retry finds another one.
pub(super) fn deleted() -> Refusal {
    Refusal::new(Reason::DownstreamUnavailable, "the topic was deleted just now; retry").without_effect()
}

/// What becomes of receipts of a topic that was deleted: its messages no longer exist, so an ack is done already and
/// nothing else can be (SPEC §4.7).
pub(super) fn settled_when_deleted(how: &Settle, receipts: usize) -> Vec<Result<(), Reason>> {
    let one = if matches!(how, Settle::Ack) { Ok(()) } else { Err(Reason::StaleReceipt) };
    vec![one; receipts]
}
