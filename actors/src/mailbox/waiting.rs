//! Receives that wait for an answer, as the shard's actor keeps them.

use super::delivery::Granted;
use super::directory::Entry;
use crate::kernel::admission::Permit;
use ron_core::reason::Refusal;
use ron_core::shard::{Grant, WaiterId};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::oneshot;

/// Where a receive's answer goes: messages, or `None` when there are none.
pub type RecvReply = oneshot::Sender<Result<Option<GrantedBox>, Refusal>>;

/// Leases that travel to a caller; released if they do not arrive.
#[derive(Debug)]
pub struct GrantedBox(pub(crate) Granted);

impl GrantedBox {
    /// The leases never became durable: there is nothing to release.
    pub(crate) fn void(self) {
        self.0.disarm();
    }
}

/// The receives that have not been answered, in the order they came: so they are refused in it too.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    receives: BTreeMap<WaiterId, (RecvReply, Option<Permit>)>,
}

impl Waiting {
    pub(crate) fn insert(&mut self, waiter: WaiterId, reply: RecvReply, permit: Option<Permit>) {
        self.receives.insert(waiter, (reply, permit));
    }

    pub(crate) fn remove(&mut self, waiter: WaiterId) -> Option<RecvReply> {
        self.receives.remove(&waiter).map(|(reply, _)| reply)
    }

    /// Answers those whose time ran out.
    pub(crate) fn answer_empty(&mut self, waiters: &[WaiterId]) {
        for waiter in waiters {
            if let Some(reply) = self.remove(*waiter) {
                let _ = reply.send(Ok(None));
            }
        }
    }

    /// Answers all of them with a refusal.
    pub(crate) fn refuse_all(&mut self, refusal: &Refusal) {
        for (_, (reply, _)) in std::mem::take(&mut self.receives) {
            let _ = reply.send(Err(refusal.clone()));
        }
    }

    /// Their names.
    pub(crate) fn all(&mut self) -> Vec<WaiterId> {
        self.receives.keys().copied().collect()
    }

    /// Pairs grants with their receives, to be answered after the commit. One whose caller has gone comes
    /// without a receive: it too is released only when it is durable, or a release could meet a later delivery
    /// of the same number.
    pub(crate) fn match_grants(
        &mut self,
        entry: &Arc<Entry>,
        grants: Vec<Grant>,
    ) -> Vec<(Option<RecvReply>, GrantedBox)> {
        let pair = |grant: Grant| {
            let granted = GrantedBox(Granted::new(entry.clone(), grant.messages));
            (self.remove(grant.waiter), granted)
        };
        grants.into_iter().map(pair).collect()
    }
}
