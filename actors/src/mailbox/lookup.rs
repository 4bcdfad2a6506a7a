//! One message by its id: where it is, and what happened to it.

use super::api::{Mailbox, received, unreadable};
use super::directory::Entry;
use super::history::Happened;
use super::messages::ShardMsg;
use crate::blocking::Job;
use ron_core::ids::{MessageId, QueueKey};
use ron_core::message::{MsgState, Phase};
use ron_core::reason::{Reason, Refusal};
use ron_core::shard::What;
use ron_core::time::Millis;
use std::sync::Arc;
use tokio::sync::oneshot;

/// Where a message is, or how it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It exists.
    Live(Phase),
    /// It ended by this.
    Ended(What),
}

/// One message.
#[derive(Debug, Clone)]
pub struct MessageHistory {
    /// Where it is. Exact.
    pub fate: Fate,
    /// Hand-outs that count. Exact while it exists.
    pub attempts: u32,
    /// The last error a consumer gave, while it exists. Exact.
    pub last_error: Option<String>,
    /// What is remembered, in its order.
    pub history: Vec<Happened>,
    /// Whether some of it is forgotten already.
    pub truncated: bool,
}

impl Mailbox {
    /// Where the message is and what happened to it. One that ended is known as long as that is remembered.
    ///
    /// # Errors
    /// NOT_FOUND for an id that this topic has no message of; otherwise as for [`Mailbox::recv`].
    pub async fn message(&self, queue: &QueueKey, id: MessageId) -> Result<MessageHistory, Refusal> {
        let entry = self.existing(queue)?;
        let (reply, answer) = oneshot::channel();
        self.send(&entry, ShardMsg::Look(id.slot(), reply)).await?;
        let state: Option<MsgState> = received(answer.await)?;
        let history = self.remembered(&entry, id).await?;
        let unknown = || Refusal::new(Reason::NotFound, "the topic has no message of this id");
        let identity = self.inner.store.identity();
        let first = history.first().map(|first| first.what);
        let truncated = first != Some(What::Enqueued);
        let Some(state) = state else {
            let is_its = |happened: &&Happened| id == identity.message_id(happened.enqueued, id.slot());
            let ended = |what| matches!(what, What::Acked | What::Expired | What::Purged);
            let last = history.last().filter(|last| ended(last.what) && history.iter().any(|h| is_its(&h)));
            let (fate, attempts) =
                last.map(|last| (Fate::Ended(last.what), last.attempt)).ok_or_else(unknown)?;
            return Ok(MessageHistory { fate, attempts, last_error: None, history, truncated });
        };
        let reader = self.inner.store.reader();
        let enqueued = reader.enqueued(id.slot()).await.map_err(|failure| match failure {
            crate::store::ReadFailure::Gone => unknown(),
            _ => unreadable(),
        })?;
        if id != identity.message_id(enqueued, id.slot()) {
            return Err(unknown());
        }
        let last_error = match state.phase {
            Phase::Dead => {
                let read = reader.letters(entry.shard, vec![id.slot()]).await;
                let letter = read.map_err(|_| unreadable())?.pop().flatten();
                letter.and_then(|letter| letter.last_error)
            }
            _ if state.noted => reader.note(id.slot()).await,
            _ => None,
        };
        let (fate, attempts) = (Fate::Live(state.phase), state.attempt);
        Ok(MessageHistory { fate, attempts, last_error, history, truncated })
    }

    async fn remembered(&self, entry: &Arc<Entry>, id: MessageId) -> Result<Vec<Happened>, Refusal> {
        let (kept, now): (_, Millis) = (entry.clone(), self.inner.clock.now());
        let walk = move || kept.history.of(now, kept.shard, id.slot());
        let lost = || Refusal::new(Reason::Internal, "the history could not be read");
        self.inner.store.blocking().run(Job::Read, walk).await.ok_or_else(lost)
    }
}
