//! Pages of a topic's messages and of a tenant's topics.

use super::api::{Mailbox, received, unreadable};
use super::cursor::{read_cursor, write_cursor};
use super::directory::Entry;
use super::messages::ShardMsg;
use crate::store::ReadFailure;
use ron_core::envelope::{DeliveryView, Envelope};
use ron_core::ids::{QueueKey, Slot, Tenant, Topic};
use ron_core::reason::{Reason, Refusal};
use ron_core::shard::{PeekState, Peeked, Stats};
use std::sync::Arc;
use tokio::sync::oneshot;

/// A page of a peek.
#[derive(Debug, Default)]
pub struct PeekPage {
    /// Envelopes without receipts.
    pub messages: Vec<Envelope>,
    /// Opaque; `None` at the end.
    pub cursor: Option<String>,
}

/// One row of a tenant's topic list.
#[derive(Debug, Clone)]
pub struct TopicRow {
    /// Its name.
    pub topic: Topic,
    /// Its depths.
    pub stats: Stats,
}

impl Mailbox {
    /// A page of messages without leasing them.
    ///
    /// # Errors
    /// NOT_FOUND for a topic never used, MALFORMED for a cursor that is not ours.
    pub async fn peek(
        &self,
        queue: &QueueKey,
        state: PeekState,
        limit: u32,
        cursor: Option<&str>,
    ) -> Result<PeekPage, Refusal> {
        let entry = self.existing(queue)?;
        let after = cursor.map(|text| read_cursor(state, text)).transpose()?;
        let (reply, answer) = oneshot::channel();
        let limit = limit as usize;
        self.send(&entry, ShardMsg::Peek(state, after, limit, reply)).await?;
        let page: Vec<Peeked> = received(answer.await)?;
        let cursor =
            page.last().filter(|_| page.len() == limit).map(|last| write_cursor(state, last.sort_key));
        let slots: Vec<Slot> = page.iter().map(|seen| seen.slot).collect();
        let letters = match state {
            PeekState::Dlq => {
                let read = self.inner.store.reader().letters(entry.shard, slots.clone()).await;
                read.map_err(|_| unreadable())?
            }
            PeekState::Ready | PeekState::Delayed | PeekState::Vis => vec![None; slots.len()],
        };
        let bodies = self.inner.store.reader().fetch(slots).await;
        let mut messages = Vec::with_capacity(page.len());
        for ((seen, letter), body) in page.into_iter().zip(letters).zip(bodies) {
            if state == PeekState::Dlq && letter.is_none() {
                continue; // brought back since the page was taken
            }
            let view = DeliveryView {
                receipt: None,
                attempt: seen.attempt,
                delivery: seen.delivery,
                deadline: seen.deadline,
                dead_letter: letter,
            };
            match body {
                Ok(message) => messages.push(self.envelope(&entry.key, &message, view)),
                // Gone since the page was taken, or damaged: a peek shows what it can vouch for.
                Err(ReadFailure::Gone | ReadFailure::Damaged) => {}
                Err(ReadFailure::Store) => return Err(unreadable()),
            }
        }
        Ok(PeekPage { messages, cursor })
    }

    /// The tenant's topics after `cursor`, in name order, at most `limit`.
    ///
    /// # Errors
    /// MALFORMED for a cursor that is not a topic's name.
    pub fn topics(
        &self,
        tenant: &Tenant,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<(Vec<TopicRow>, Option<String>), Refusal> {
        let after = match cursor {
            None => None,
            Some(text) => {
                let topic = Topic::parse(text)
                    .map_err(|_| Refusal::new(Reason::Malformed, "cursor: not one of this listing"))?;
                Some(QueueKey { tenant: tenant.clone(), topic })
            }
        };
        let entries = self.inner.directory.of_tenant(tenant, after.as_ref(), limit);
        let next = entries.last().filter(|_| entries.len() == limit).map(|entry| entry.key.topic.to_string());
        let row =
            |entry: Arc<Entry>| TopicRow { topic: entry.key.topic.clone(), stats: entry.figures.stats() };
        Ok((entries.into_iter().map(row).collect(), next))
    }
}
