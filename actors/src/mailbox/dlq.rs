//! The workbench of a topic's dead letters, as the network side sees it.

use super::api::{Enqueued, Mailbox, admit, enqueued, received, unreadable};
use super::directory::Entry;
use super::messages::ShardMsg;
use super::reprocessor::{PAGE, pick};
use super::tasks::{Answer, DlqMsg, no_such_task};
use crate::store::ReadFailure;
use ron_core::ids::{MessageId, QueueKey, Slot};
use ron_core::message::{NewMessage, StoredMessage};
use ron_core::reason::{Reason, Refusal};
use ron_core::reprocess::{DeadFilter, Draft, Task};
use ron_core::shard::{Buried, no_such_letter};
use ron_core::time::Millis;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::oneshot;

/// Reasons that are told apart in one answer; consumers choose their texts.
const CLUSTERS_MAX: usize = 100;
/// Ids shown of each.
const SAMPLES: usize = 5;

/// Dead letters of one reason.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// The reason; `None` = all those beyond the first 100 reasons.
    pub reason: Option<String>,
    /// How many.
    pub count: u64,
    /// When the first of them died.
    pub oldest: Millis,
    /// When the last of them died.
    pub newest: Millis,
    /// Some of them, lowest ids first.
    pub sample: Vec<MessageId>,
}

impl Mailbox {
    /// How many dead letters `filter` means, and the moment that this is about. Reads only what the filter needs.
    ///
    /// # Errors
    /// NOT_FOUND for a topic never used; otherwise as for [`Mailbox::recv`].
    pub async fn count_dead(&self, queue: &QueueKey, filter: &DeadFilter) -> Result<(u64, Millis), Refusal> {
        let (entry, as_of) = (self.existing(queue)?, self.inner.clock.now());
        let mut matched = 0;
        let mut after = None;
        while let Some((page, slots)) = self.next_page(&entry, filter, as_of, after).await? {
            matched += slots.len() as u64;
            after = page.last().map(|buried| buried.slot);
        }
        Ok((matched, as_of))
    }

    /// The slots that `ids` lead to, if they are dead letters of the topic: for [`DeadFilter::slots`].
    ///
    /// # Errors
    /// As for [`Mailbox::count_dead`].
    pub async fn dead_slots(&self, queue: &QueueKey, ids: &[MessageId]) -> Result<Vec<Slot>, Refusal> {
        let entry = self.existing(queue)?;
        let mut only: Vec<Slot> = ids.iter().map(|id| id.slot()).collect();
        only.sort_unstable();
        only.dedup();
        let limit = only.len();
        let found =
            self.ask_dlq(&entry, |reply| DlqMsg::Page { after: None, limit, only: Some(only), reply });
        let identity = self.inner.store.identity();
        let meant = |buried: &Buried| ids.contains(&identity.message_id(buried.enqueued, buried.slot));
        Ok(found.await?.iter().filter(|buried| meant(buried)).map(|buried| buried.slot).collect())
    }

    /// Begins to bring dead letters back; answers when the task is durable.
    ///
    /// # Errors
    /// CONFLICT while another task of the topic runs; otherwise as for [`Mailbox::count_dead`].
    pub async fn reprocess(
        &self,
        queue: &QueueKey,
        draft: Draft,
        (matched, started): (u64, Millis),
    ) -> Result<Task, Refusal> {
        let entry = self.existing(queue)?;
        let permit = admit(&entry.requests, 0)?;
        let draft = Box::new(draft);
        self.ask_dlq(&entry, |reply| DlqMsg::Begin { draft, matched, started, reply, permit }).await
    }

    /// The topic's newest tasks, oldest first.
    ///
    /// # Errors
    /// As for [`Mailbox::count_dead`].
    pub async fn tasks(&self, queue: &QueueKey) -> Result<Vec<Task>, Refusal> {
        let entry = self.existing(queue)?;
        self.ask_dlq(&entry, DlqMsg::Tasks).await
    }

    /// One task.
    ///
    /// # Errors
    /// NOT_FOUND if it is not among the newest; otherwise as for [`Mailbox::count_dead`].
    pub async fn task(&self, queue: &QueueKey, number: u64) -> Result<Task, Refusal> {
        let tasks = self.tasks(queue).await?;
        tasks.into_iter().find(|task| task.number == number).ok_or_else(no_such_task)
    }

    /// Ends a task, if it runs; what it moved stays moved.
    ///
    /// # Errors
    /// As for [`Mailbox::task`].
    pub async fn cancel_task(&self, queue: &QueueKey, number: u64) -> Result<Task, Refusal> {
        let entry = self.existing(queue)?;
        let permit = admit(&entry.requests, 0)?;
        self.ask_dlq(&entry, |reply| DlqMsg::Cancel(number, reply, permit)).await
    }

    /// Ends the dead letters that `filter` means, a batch a commit; returns how many.
    ///
    /// # Errors
    /// As for [`Mailbox::count_dead`]; some may have ended then.
    pub async fn purge_dead(&self, queue: &QueueKey, filter: &DeadFilter) -> Result<u64, Refusal> {
        let (entry, as_of) = (self.existing(queue)?, self.inner.clock.now());
        let mut purged = 0;
        let mut after = None;
        while let Some((page, slots)) = self.next_page(&entry, filter, as_of, after).await? {
            if !slots.is_empty() {
                let permit = admit(&entry.requests, 0)?;
                purged += self.ask_dlq(&entry, |reply| DlqMsg::Purge(slots, reply, permit)).await?;
            }
            after = page.last().map(|buried| buried.slot);
        }
        Ok(purged)
    }

    /// The dead letters by their reasons, the largest cluster first.
    ///
    /// # Errors
    /// As for [`Mailbox::count_dead`].
    pub async fn clusters(&self, queue: &QueueKey) -> Result<Vec<Cluster>, Refusal> {
        let entry = self.existing(queue)?;
        let identity = self.inner.store.identity();
        let mut found: BTreeMap<Option<String>, Cluster> = BTreeMap::new();
        let mut after = None;
        while let Some((page, slots)) =
            self.next_page(&entry, &DeadFilter::default(), Millis::NEVER, after).await?
        {
            let letters = self.inner.store.reader().letters(entry.shard, slots).await;
            for (buried, letter) in page.iter().zip(letters.map_err(|_| unreadable())?) {
                let Some(letter) = letter else { continue };
                let mut reason = Some(letter.reason);
                if !found.contains_key(&reason) && found.len() >= CLUSTERS_MAX {
                    reason = None;
                }
                let cluster = found.entry(reason.clone()).or_insert_with(|| Cluster {
                    reason,
                    count: 0,
                    oldest: Millis::NEVER,
                    newest: Millis(0),
                    sample: Vec::new(),
                });
                cluster.count += 1;
                cluster.oldest = cluster.oldest.min(letter.at);
                cluster.newest = cluster.newest.max(letter.at);
                if cluster.sample.len() < SAMPLES {
                    cluster.sample.push(identity.message_id(buried.enqueued, buried.slot));
                }
            }
            after = page.last().map(|buried| buried.slot);
        }
        let mut clusters: Vec<Cluster> = found.into_values().collect();
        clusters.sort_by_key(|cluster| std::cmp::Reverse(cluster.count));
        Ok(clusters)
    }

    /// One dead letter's message, and its place; `None` = its record is damaged.
    ///
    /// # Errors
    /// NOT_FOUND if no dead letter of the topic has this id; otherwise as for [`Mailbox::count_dead`].
    pub async fn dead_message(
        &self,
        queue: &QueueKey,
        id: MessageId,
    ) -> Result<(Slot, Option<StoredMessage>), Refusal> {
        let slots = self.dead_slots(queue, &[id]).await?;
        let slot = slots.first().copied().ok_or_else(no_such_letter)?;
        match self.inner.store.reader().fetch(vec![slot]).await.pop() {
            Some(Ok(message)) => Ok((slot, Some(message))),
            Some(Err(ReadFailure::Damaged)) => Ok((slot, None)),
            Some(Err(ReadFailure::Gone)) | None => Err(no_such_letter()),
            Some(Err(ReadFailure::Store)) => Err(unreadable()),
        }
    }

    /// Stores `message`, which claims no idempotency, and ends the dead letter in `slot` by the same commit.
    ///
    /// # Errors
    /// NOT_FOUND if it is none any more; otherwise as for [`Mailbox::enqueue`].
    pub async fn replace_dead(
        &self,
        queue: &QueueKey,
        message: NewMessage,
        slot: Slot,
    ) -> Result<Enqueued, Refusal> {
        let entry = self.existing(queue)?;
        let permit = admit(&entry.requests, message.payload.len())?;
        let message = Box::new(message);
        let outcomes = self.ask_dlq(&entry, |reply| DlqMsg::Replace(message, slot, reply, permit)).await?;
        let identity = self.inner.store.identity();
        let stored = outcomes.into_iter().next().map(|outcome| enqueued(identity, outcome));
        let none = || Refusal::new(Reason::Internal, "the store gave no result");
        stored.and_then(Result::ok).ok_or_else(none)
    }

    /// The next page behind `after`, and what of it the filter means; `None` at the end.
    async fn next_page(
        &self,
        entry: &Arc<Entry>,
        filter: &DeadFilter,
        as_of: Millis,
        after: Option<Slot>,
    ) -> Result<Option<(Vec<Buried>, Vec<Slot>)>, Refusal> {
        let only = filter.slots.clone();
        let page = self.ask_dlq(entry, |reply| DlqMsg::Page { after, limit: PAGE, only, reply }).await?;
        if page.is_empty() {
            return Ok(None);
        }
        let reader = self.inner.store.reader();
        let slots = pick(reader, entry.shard, filter, as_of, &page).await.map_err(|_| unreadable())?;
        Ok(Some((page, slots)))
    }

    async fn ask_dlq<T>(
        &self,
        entry: &Arc<Entry>,
        message: impl FnOnce(Answer<T>) -> DlqMsg,
    ) -> Result<T, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.send(entry, ShardMsg::Dlq(message(reply))).await?;
        received(answer.await)
    }
}
