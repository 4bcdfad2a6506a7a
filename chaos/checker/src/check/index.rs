//! A history turned around: by message instead of by request.

use super::{Findings, Invariant};
use crate::clock::Micros;
use crate::history::{Call, Dead, Depths, Got, History, How, Limits, Outcome, Route, SendResult, Sent};
use std::collections::{BTreeMap, HashMap};

/// One request for one message.
#[derive(Debug)]
pub(super) struct SendTry<'a> {
    pub(super) op: u64,
    pub(super) invoked: Micros,
    pub(super) done: Micros,
    pub(super) sent: &'a Sent,
    pub(super) api: bool,
    /// Whether an acceptance says what hash the payload has.
    pub(super) names_hash: bool,
    pub(super) result: TryResult<'a>,
}

#[derive(Debug)]
pub(super) enum TryResult<'a> {
    Accepted {
        msg_id: &'a str,
        duplicate: bool,
        durability: Option<&'a str>,
        hash: Option<&'a str>,
    },
    /// Refused; nothing may have happened.
    Refused(&'a str),
    NotSent,
    /// May have happened.
    Unknown,
}

/// A message as its sender knows it: all tries for it.
#[derive(Debug)]
pub(super) struct SendStory<'a> {
    pub(super) topic: &'a str,
    pub(super) tries: Vec<SendTry<'a>>,
    /// The ids under which it came out.
    pub(super) seen_as: Vec<&'a str>,
}

impl<'a> SendStory<'a> {
    /// The message itself; every try carries the same one.
    pub(super) fn sent(&self) -> Option<&'a Sent> {
        self.tries.first().map(|first| first.sent)
    }

    /// The tries that were accepted, with the ids that they were told.
    pub(super) fn accepted(&self) -> impl Iterator<Item = (&SendTry<'a>, &'a str)> {
        self.tries.iter().filter_map(|one| match one.result {
            TryResult::Accepted { msg_id, .. } => Some((one, msg_id)),
            _ => None,
        })
    }
}

/// One hand-out that a client saw.
#[derive(Debug)]
pub(super) struct Delivery<'a> {
    pub(super) op: u64,
    pub(super) invoked: Micros,
    pub(super) done: Micros,
    /// The place in its answer.
    pub(super) place: usize,
    pub(super) visibility_ms: u64,
    pub(super) got: &'a Got,
    /// In the order of invocation.
    pub(super) settles: Vec<Settling<'a>>,
}

/// One try to settle a delivery.
#[derive(Debug)]
pub(super) struct Settling<'a> {
    pub(super) op: u64,
    pub(super) invoked: Micros,
    pub(super) done: Micros,
    pub(super) how: &'a How,
    pub(super) result: SettleResult<'a>,
}

#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub(super) enum SettleResult<'a> {
    Ok,
    Refused(&'a str),
    Unknown,
}

/// A message as consumers know it.
#[derive(Debug, Default)]
pub(super) struct MessageStory<'a> {
    pub(super) topic: &'a str,
    /// By `delivery`, equal ones by time.
    pub(super) deliveries: Vec<Delivery<'a>>,
    /// Its entries in the last walk over the dead letters.
    pub(super) dead: Vec<(u64, &'a Dead)>,
    /// Which send it is, if it was recognised.
    pub(super) send: Option<u64>,
}

/// Receives of one topic that may have handed something out unseen.
#[derive(Debug, Default)]
pub(super) struct Unseen {
    invoked: Vec<Micros>,
    done: Vec<Micros>,
}

impl Unseen {
    /// How many such receives overlap `from..to`: at most so often a message was handed out unseen.
    pub(super) fn between(&self, from: Micros, to: Micros) -> u64 {
        let begun = self.invoked.partition_point(|&at| at < to);
        let over = self.done.partition_point(|&at| at <= from);
        u64::try_from(begun.saturating_sub(over)).unwrap_or(u64::MAX)
    }
}

/// The whole history by message.
#[derive(Debug)]
pub(super) struct Index<'a> {
    pub(super) limits: &'a Limits,
    pub(super) sends: BTreeMap<u64, SendStory<'a>>,
    pub(super) messages: BTreeMap<&'a str, MessageStory<'a>>,
    pub(super) unseen: HashMap<&'a str, Unseen>,
    /// The last figures of each topic that was ever named, with their request.
    pub(super) figures: BTreeMap<&'a str, Option<(u64, Depths)>>,
    /// Topics whose dead letters were walked, with the request.
    pub(super) walked: BTreeMap<&'a str, (u64, usize)>,
}

impl<'a> Index<'a> {
    pub(super) fn of(history: &'a History, findings: &mut Findings) -> Index<'a> {
        let mut index = Index {
            limits: &history.limits,
            sends: BTreeMap::new(),
            messages: BTreeMap::new(),
            unseen: HashMap::new(),
            figures: BTreeMap::new(),
            walked: BTreeMap::new(),
        };
        let mut last_walk: BTreeMap<&str, (u64, &[Dead])> = BTreeMap::new();
        for operation in &history.operations {
            let topic = operation.call.topic();
            index.figures.entry(topic).or_default();
            match (&operation.call, &operation.outcome) {
                (Call::Send { .. }, _) => index.add_sends(operation),
                (Call::Recv { .. }, Outcome::Got(_)) => index.add_deliveries(operation),
                (Call::Recv { .. }, outcome) if outcome.is_unknown() => {
                    let unseen = index.unseen.entry(topic).or_default();
                    unseen.invoked.push(operation.invoked);
                    unseen.done.push(operation.done);
                }
                (Call::WalkDlq { .. }, Outcome::Dead(dead)) => {
                    last_walk.insert(topic, (operation.op, dead));
                }
                (Call::Stat { .. }, Outcome::Figures(depths)) => {
                    index.figures.insert(topic, Some((operation.op, *depths)));
                }
                _ => {}
            }
        }
        for unseen in index.unseen.values_mut() {
            unseen.invoked.sort_unstable();
            unseen.done.sort_unstable();
        }
        for (topic, (op, dead)) in last_walk {
            index.walked.insert(topic, (op, dead.len()));
            for letter in dead {
                let message = index.messages.entry(&letter.msg_id).or_default();
                message.topic = topic;
                message.dead.push((op, letter));
            }
        }
        index.add_settles(history, findings);
        for message in index.messages.values_mut() {
            message.deliveries.sort_by_key(|one| (one.got.delivery, one.done));
        }
        index.recognise(findings);
        index
    }

    fn add_sends(&mut self, operation: &'a crate::history::Operation) {
        let Call::Send { topic, route, sends } = &operation.call else { return };
        for (place, sent) in sends.iter().enumerate() {
            let result = match &operation.outcome {
                Outcome::Sent(results) => match results.get(place) {
                    Some(SendResult::Accepted { msg_id, duplicate, durability, hash }) => {
                        TryResult::Accepted {
                            msg_id,
                            duplicate: *duplicate,
                            durability: durability.as_deref(),
                            hash: hash.as_deref(),
                        }
                    }
                    Some(SendResult::Refused(reason)) if effect_is_unknown(reason) => TryResult::Unknown,
                    Some(SendResult::Refused(reason)) => TryResult::Refused(reason),
                    None => TryResult::Unknown,
                },
                Outcome::NotSent => TryResult::NotSent,
                Outcome::Refused { reason, effect, .. } if effect == "none" => TryResult::Refused(reason),
                _ => TryResult::Unknown,
            };
            let story = self.sends.entry(sent.send).or_insert_with(|| SendStory {
                topic,
                tries: Vec::new(),
                seen_as: Vec::new(),
            });
            let api = !matches!(route, Route::Webhook(_));
            let names_hash = matches!(route, Route::Single | Route::Batch);
            let (op, invoked, done) = (operation.op, operation.invoked, operation.done);
            story.tries.push(SendTry { op, invoked, done, sent, api, names_hash, result });
        }
    }

    fn add_deliveries(&mut self, operation: &'a crate::history::Operation) {
        let (Call::Recv { topic, visibility_ms, .. }, Outcome::Got(messages)) =
            (&operation.call, &operation.outcome)
        else {
            return;
        };
        for (place, got) in messages.iter().enumerate() {
            let message = self.messages.entry(&got.msg_id).or_default();
            message.topic = topic;
            message.deliveries.push(Delivery {
                op: operation.op,
                invoked: operation.invoked,
                done: operation.done,
                place,
                visibility_ms: *visibility_ms,
                got,
                settles: Vec::new(),
            });
        }
    }

    /// Joins settlings to the deliveries that their receipts name.
    fn add_settles(&mut self, history: &'a History, findings: &mut Findings) {
        let mut by_receipt: HashMap<&'a str, (&'a str, usize)> = HashMap::new();
        for (id, message) in &self.messages {
            for (place, delivery) in message.deliveries.iter().enumerate() {
                if let Some((other, _)) = by_receipt.insert(&delivery.got.receipt, (id, place)) {
                    let text = format!("one receipt names a delivery of {id} and one of {other}");
                    findings.add(Invariant::Receipts, [delivery.op], text);
                }
            }
        }
        for operation in &history.operations {
            let Call::Settle { how, receipts, .. } = &operation.call else { continue };
            for (place, receipt) in receipts.iter().enumerate() {
                let result = match &operation.outcome {
                    Outcome::Settled(results) => match results.get(place) {
                        Some(None) => SettleResult::Ok,
                        Some(Some(reason)) if effect_is_unknown(reason) => SettleResult::Unknown,
                        Some(Some(reason)) => SettleResult::Refused(reason),
                        None => SettleResult::Unknown,
                    },
                    Outcome::NotSent => continue,
                    Outcome::Refused { reason, effect, .. } if effect == "none" => {
                        SettleResult::Refused(reason)
                    }
                    _ => SettleResult::Unknown,
                };
                let Some(&(id, at)) = by_receipt.get(receipt.as_str()) else { continue };
                let delivery = self.messages.get_mut(id).and_then(|message| message.deliveries.get_mut(at));
                if let Some(delivery) = delivery {
                    let (op, invoked, done) = (operation.op, operation.invoked, operation.done);
                    delivery.settles.push(Settling { op, invoked, done, how, result });
                }
            }
        }
    }

    /// Finds out which send each message is: by the `cid` attribute that every API send carries, else by
    /// topic and body.
    fn recognise(&mut self, findings: &mut Findings) {
        let mut by_body: HashMap<(&str, &str), u64> = HashMap::new();
        for (&send, story) in &self.sends {
            if let Some(sent) = story.sent().filter(|sent| !sent.attrs.contains_key("cid")) {
                by_body.insert((story.topic, sent.hash.as_str()), send);
            }
        }
        let told: HashMap<&str, u64> = self
            .sends
            .iter()
            .flat_map(|(&send, story)| story.accepted().map(move |(_, id)| (id, send)))
            .collect();
        for (&id, message) in &mut self.messages {
            let seen = message.deliveries.iter().map(|one| (&one.got.attrs, &one.got.hash, one.op));
            let dead = message.dead.iter().map(|(op, dead)| (&dead.attrs, &dead.hash, *op));
            let Some((attrs, hash, op)) = seen.chain(dead).next() else { continue };
            let by_cid = attrs.get("cid").and_then(|cid| u64::from_str_radix(cid, 16).ok());
            let found = by_cid
                .filter(|send| self.sends.contains_key(send))
                .or_else(|| by_body.get(&(message.topic, hash.as_str())).copied())
                // the bytes may be wrong: then the id that the sender was told still names it
                .or_else(|| told.get(id).copied());
            match found.and_then(|send| Some((send, self.sends.get_mut(&send)?))) {
                Some((send, story)) => {
                    message.send = Some(send);
                    story.seen_as.push(id);
                }
                None => {
                    let text = format!("{id} came out of {} and was never sent", message.topic);
                    findings.add(Invariant::Attempted, [op], text);
                }
            }
        }
    }
}

/// The reasons that leave open whether something happened (SPEC §3).
fn effect_is_unknown(reason: &str) -> bool {
    matches!(reason, "STORAGE" | "DOWNSTREAM_UNAVAILABLE" | "INTERNAL")
}
