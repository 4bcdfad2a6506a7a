//! A node that holds messages in very many topics, most of which nobody uses: what its memory is, how much slower
//! sends to some of them are than sends to one, and whether the topics that sleep still know the keys of what was sent
//! to them.

use super::Bench;
use super::load::{Load, Requests, Work};
use super::memory::resident;
use super::oap;
use super::report::Comparison;
use super::site::Proto;
use crate::failure::{Failure, failed};
use crate::own_node::OwnNode;
use futures::future::try_join_all;
use ron_client::oap::{Draft, Durability, Enqueued, Raw, Request};
use ron_client::{Answer, Connection, Error};
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Duration;

/// Topics that are filled, unless told: one less than a node may have, for the one that is compared with.
pub(super) const TOPICS: u32 = 99_999;

/// Sends that each connection keeps outstanding while it fills.
const WINDOW: usize = 64;
/// Topics that are asked whether they still know their keys.
const ASKED: usize = 1_000;
/// What the node of our own is told: idle topics sleep soon, so that nobody waits a minute for it.
pub(super) const MAILBOX: &str = "park_after = \"1s\"\n";
/// After so long all of them sleep.
const ASLEEP_AFTER: Duration = Duration::from_secs(5);

/// A message's id.
type MsgId = [u8; 16];

/// How many.
#[derive(Debug, Clone, Copy)]
pub(super) struct Many {
    /// Topics that hold a message.
    pub(super) topics: u32,
    /// Of those, how many are sent to, in turn.
    pub(super) hit: u32,
    /// Rounds.
    pub(super) runs: u8,
}

impl Many {
    /// Whether it makes sense.
    ///
    /// # Errors
    /// [`Failure::Usage`].
    pub(super) fn check(&self, spawn: bool, proto: Proto) -> Result<(), Failure> {
        let usage = |text: String| Err(Failure::Usage(text));
        if !spawn || proto != Proto::Oap {
            return usage("`bench parked` needs --spawn, and OAP/1".to_owned());
        }
        match self.hit <= self.topics && self.topics <= TOPICS {
            true => Ok(()),
            false => usage(format!("--hit must be at most --topics, and --topics at most {TOPICS}")),
        }
    }
}

impl Bench {
    /// Fills all topics, lets them sleep, asks some for their keys, and compares the rates.
    pub(super) async fn parked(&self, many: Many) -> Result<(), Failure> {
        let load = Load { prefix: "p".to_owned(), ..self.load(many.topics) };
        let filling = Fill { load: &load, payload: Requests::payload(&load)? };
        let ids = filling.all(many.topics as usize).await?;
        let pid = self.site.own.as_ref().and_then(OwnNode::pid);
        let full = pid.and_then(resident);
        tokio::time::sleep(ASLEEP_AFTER).await;
        let asleep = pid.and_then(resident);
        let asked = filling.ask_again(&ids).await?;
        let mut comparison = Comparison::new("some");
        for round in 1..=many.runs {
            let label = |what: &str| format!("{what} {round}/{}", many.runs);
            let some = Load { topics: many.hit as usize, ..load.clone() };
            comparison.add("some", self.measure(Work::Enqueue, &some, &label("some")).await?)?;
            comparison.add("1 topic", self.measure(Work::Enqueue, &self.load(1), &label("one")).await?)?;
        }
        let mib = |bytes: Option<u64>| bytes.map(|bytes| bytes >> 20);
        if self.out.json {
            self.out.value(&json!({
                "topics": many.topics, "hit": many.hit, "keys_asked": asked,
                "resident_filled_mib": mib(full), "resident_asleep_mib": mib(asleep),
                "comparison": comparison.to_json(),
            }))?;
            return comparison.verdict();
        }
        let text = |bytes| mib(bytes).map_or_else(|| "not known".to_owned(), |mib| format!("{mib} MiB"));
        self.out.pairs(&[
            ("topics", format!("{} with a message each; sent to: {}", many.topics, many.hit)),
            ("memory", format!("{} when they were filled, {} when they slept", text(full), text(asleep))),
            (
                "keys",
                format!("{asked} topics were asked again after their sleep, and each knew its message's key"),
            ),
        ])?;
        self.out.line("")?;
        self.present(&comparison)
    }
}

/// What is sent to each topic, once and again: the same bytes under the same key.
struct Fill<'a> {
    load: &'a Load,
    payload: Vec<u8>,
}

impl Fill<'_> {
    /// Sends a message with a key to each topic; the ids, with their topics.
    async fn all(&self, topics: usize) -> Result<Vec<(usize, MsgId)>, Failure> {
        let connections = oap::open(self.load).await?;
        let each = topics.div_ceil(connections.len()).max(1);
        let parts = connections.into_iter().enumerate().map(async |(n, connection)| {
            let part = (n * each).min(topics)..((n + 1) * each).min(topics);
            self.part(connection, part).await.map_err(ended)
        });
        Ok(try_join_all(parts).await?.concat())
    }

    async fn part(
        &self,
        mut connection: Connection,
        topics: std::ops::Range<usize>,
    ) -> Result<Vec<(usize, MsgId)>, Error> {
        let mut ids = Vec::with_capacity(topics.len());
        let mut under_way = BTreeMap::new(); // answers come in any order, for the topics differ
        let mut left = topics;
        loop {
            while under_way.len() < WINDOW
                && let Some(topic) = left.next()
            {
                under_way.insert(self.write(&mut connection, topic, &self.payload)?, topic);
            }
            if under_way.is_empty() {
                return Ok(ids);
            }
            connection.flush().await?;
            let mut came = Some(connection.next().await?);
            while let Some(answer) = came {
                let topic = under_way.remove(&answer.header.corr_id);
                let topic = topic.ok_or(Error::Protocol("an answer to nothing that was asked"))?;
                let stored: Enqueued = answer.read()?;
                if stored.duplicate || stored.durability != Durability::Fsync {
                    return Err(Error::Protocol("the topics must be new, and their messages fsynced"));
                }
                ids.push((topic, stored.msg_id));
                came = connection.buffered()?;
            }
        }
    }

    fn write(&self, connection: &mut Connection, topic: usize, payload: &[u8]) -> Result<u64, Error> {
        let (topic, key) = (self.load.topic(topic), format!("filled-{topic}"));
        let message = Draft { payload: Raw(payload), idempotency_key: Some(&key), ..Draft::default() };
        connection.write(&Request::Enqueue { topic: &topic, message })
    }

    /// Sends to some topics what they have already, and something else under the same key; how many were asked.
    async fn ask_again(&self, ids: &[(usize, MsgId)]) -> Result<usize, Failure> {
        let one = Load { connections: 1, ..self.load.clone() };
        let mut connections = oap::open(&one).await?;
        let connection = connections.first_mut().ok_or_else(|| failed("no connection"))?;
        let mut other = self.payload.clone();
        other.iter_mut().take(1).for_each(|byte| *byte = !*byte);
        let asked: Vec<_> = ids.iter().step_by((ids.len() / ASKED).max(1)).collect();
        for (topic, id) in &asked {
            self.write(connection, *topic, &self.payload).map_err(ended)?;
            let again = answer(connection).await.map_err(ended)?.read::<Enqueued>();
            self.write(connection, *topic, &other).map_err(ended)?;
            let changed = answer(connection).await.map_err(ended)?.read::<Enqueued>();
            let is_known = matches!(&again, Ok(again) if again.duplicate && again.msg_id == *id);
            let is_refused =
                matches!(&changed, Err(Error::Refused(refused)) if refused.reason == "IDEMPOTENCY_CONFLICT");
            if !(is_known && is_refused) {
                return Err(failed(format!(
                    "topic {} does not know its key any more: the same again gave {again:?}, another body {changed:?}",
                    self.load.topic(*topic)
                )));
            }
        }
        Ok(asked.len())
    }
}

async fn answer(connection: &mut Connection) -> Result<Answer, Error> {
    connection.flush().await?;
    connection.next().await
}

fn ended(error: Error) -> Failure {
    failed(format!("filling topics: {error}"))
}
