//! What an operator does to a topic as a whole, as the network side sees it.

use super::api::{Mailbox, admit, received};
use super::messages::{ShardMsg, TopicInForce};
use ron_core::ids::QueueKey;
use ron_core::reason::Refusal;
use ron_core::shard::TopicChange;
use tokio::sync::oneshot;

impl Mailbox {
    /// Changes a topic's settings, or pauses or resumes it; answers after the commit. Setting something makes the
    /// topic exist.
    ///
    /// # Errors
    /// MALFORMED naming the field, NOT_FOUND if a topic never used is to be paused; otherwise as for
    /// [`Mailbox::recv`].
    pub async fn configure(&self, queue: &QueueKey, change: TopicChange) -> Result<TopicInForce, Refusal> {
        let entry = match change {
            TopicChange::Settings(_) => self.inner.directory.get_or_create(queue)?,
            TopicChange::Pause { .. } => self.existing(queue)?,
        };
        let permit = admit(&entry.requests, 0)?;
        let (reply, answer) = oneshot::channel();
        self.send(&entry, ShardMsg::Configure(change, reply, permit)).await?;
        received(answer.await)
    }

    /// Deletes the topic with all that it holds, by one commit. Returns how many messages ended.
    ///
    /// # Errors
    /// NOT_FOUND for a topic never used; otherwise as for [`Mailbox::recv`].
    pub async fn delete(&self, queue: &QueueKey) -> Result<u64, Refusal> {
        let entry = self.existing(queue)?;
        let permit = admit(&entry.requests, 0)?;
        let (reply, answer) = oneshot::channel();
        self.send(&entry, ShardMsg::Delete(reply, permit)).await?;
        received(answer.await)
    }

    /// Ends all messages of the topic but its dead letters, by one commit. Returns how many.
    ///
    /// # Errors
    /// NOT_FOUND for a topic never used; otherwise as for [`Mailbox::recv`].
    pub async fn purge(&self, queue: &QueueKey) -> Result<u64, Refusal> {
        let entry = self.existing(queue)?;
        let permit = admit(&entry.requests, 0)?;
        let (reply, answer) = oneshot::channel();
        self.send(&entry, ShardMsg::Purge(reply, permit)).await?;
        received(answer.await)
    }
}
