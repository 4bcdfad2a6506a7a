//! Fanout: which topics get copies of a topic's messages, how far each has come, and what must be kept for those
//! that have not come so far (SPEC §4.14).
//!
//! A list has no versions that are stored: each subscription says from which place on, and up to which, messages
//! are its own, and both are the place of the commit that changed the list. So a message goes to the list that was
//! in force at its own commit, however late a subscriber takes it. Each subscription has a cursor: all before it is
//! done with. Nothing here reads or writes; the store calls it at each commit, and the couriers ask it what is due.

mod edit;
mod list;
#[cfg(test)]
mod tests;

pub use edit::{Addition, Edit};
pub use list::{Batch, Due, Fan, Listed};

use crate::ids::{QueueKey, ShardId, Slot, Topic};
use crate::message::MessageMeta;
use crate::reason::{Reason, Refusal};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Most subscribers of one topic.
pub const SUBSCRIBERS_MAX: usize = 10_000;
/// Most subscribers that one call adds and removes, together.
pub const EDIT_MAX: usize = 1_000;
/// Most subscriptions of one topic, those that are removed and still get what was sent before included.
pub const PLACES_MAX: usize = 2 * SUBSCRIBERS_MAX;
/// Most subscriptions of a node.
pub const SUBSCRIPTIONS_MAX: usize = 1_000_000;
/// Subscriptions whose cursors share a row.
pub const PAGE_PLACES: u32 = 512;
/// Most messages that are copied to one subscriber by one command.
pub const COPIES_MAX: usize = 256;

/// Which messages a subscriber wants: all that is given must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filter {
    /// Attributes of the message, by lower-case name.
    pub attrs: BTreeMap<String, String>,
}

impl Filter {
    /// Whether it lets every message through, so that none must be read.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.attrs.is_empty()
    }

    /// Whether the message has all attributes that are wanted.
    #[must_use]
    pub fn wants(&self, meta: &MessageMeta) -> bool {
        let has = |(name, value): (&String, &String)| meta.attrs.iter().any(|(n, v)| n == name && v == value);
        self.attrs.iter().all(has)
    }
}

/// One topic's place on the list of another. Stored as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subscription {
    /// Who gets copies.
    pub queue: QueueKey,
    /// Of which messages.
    pub filter: Filter,
    /// The first place whose message is its own.
    pub since: Slot,
    /// The first place whose message is not its own any more; `None` = it is on the list.
    pub until: Option<Slot>,
}

/// What the store must write after a change. Rows that are named and no longer there are to be removed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// Lists: their version.
    pub lists: BTreeSet<ShardId>,
    /// Subscriptions, by list and number.
    pub places: BTreeSet<(ShardId, u32)>,
    /// Pages of cursors, by list and page.
    pub pages: BTreeSet<(ShardId, u32)>,
}

impl Touched {
    /// Whether nothing has to be written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lists.is_empty() && self.places.is_empty() && self.pages.is_empty()
    }

    pub(crate) fn place(&mut self, list: ShardId, number: u32) {
        self.places.insert((list, number));
        self.pages.insert((list, number / PAGE_PLACES));
    }
}

/// What a call that changes a list is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListInForce {
    /// Counts the changes.
    pub version: u64,
    /// Subscribers on it.
    pub count: u64,
}

/// One step of one subscriber: the messages before `to` are done with, those before `from` were before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Advance {
    /// Whose list.
    pub list: ShardId,
    /// Which subscription, by number.
    pub number: u32,
    /// Which one of that number: its [`Subscription::since`].
    pub since: Slot,
    /// Where its cursor must be.
    pub from: Slot,
    /// Where it is then.
    pub to: Slot,
}

/// All lists of a node.
#[derive(Debug, Default)]
pub struct Fans {
    lists: BTreeMap<ShardId, Fan>,
    /// The lists of topics that exist.
    sources: BTreeMap<QueueKey, ShardId>,
    /// Who is on which lists, removed ones that are not through included.
    subscribed: BTreeMap<QueueKey, BTreeSet<ShardId>>,
    /// Chunks that hold messages somebody still waits for, and on how many lists.
    held: BTreeMap<u64, u32>,
    /// Chunks that were held and are no longer.
    released: Vec<u64>,
    places: usize,
}

impl Fans {
    /// A list, if the topic ever had one.
    #[must_use]
    pub fn list(&self, list: ShardId) -> Option<&Fan> {
        self.lists.get(&list)
    }

    /// All lists.
    pub fn lists(&self) -> impl Iterator<Item = (ShardId, &Fan)> {
        self.lists.iter().map(|(shard, fan)| (*shard, fan))
    }

    /// Whether somebody is on the topic's list.
    #[must_use]
    pub fn is_source(&self, shard: ShardId) -> bool {
        self.lists.get(&shard).is_some_and(|fan| fan.count() > 0)
    }

    /// Whether a topic is on the list of another that exists.
    #[must_use]
    pub fn is_on(&self, source: &QueueKey, topic: &Topic) -> bool {
        let list = self.sources.get(source).and_then(|shard| self.lists.get(shard));
        list.is_some_and(|fan| fan.is_on(topic))
    }

    /// Whether somebody still waits for messages of this chunk.
    #[must_use]
    pub fn holds(&self, chunk: u64) -> bool {
        self.held.contains_key(&chunk)
    }

    /// The chunks that nobody waits for any more, once each.
    pub fn take_released(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.released)
    }

    /// Whether [`Fans::take_released`] has something to give.
    #[must_use]
    pub fn has_released(&self) -> bool {
        !self.released.is_empty()
    }

    /// How many messages wait for each subscriber, over all lists it is on; of those that wait for none, nothing.
    #[must_use]
    pub fn lags(&self) -> BTreeMap<&QueueKey, u64> {
        let mut lags = BTreeMap::new();
        for (queue, lag) in self.lists.values().flat_map(Fan::lags) {
            *lags.entry(queue).or_default() += lag;
        }
        lags
    }

    /// Judges a change of the list of `source`, without making it.
    ///
    /// # Errors
    /// MALFORMED, naming the topic that cannot subscribe, or the limit; BACKPRESSURE if the node has as many
    /// subscriptions as it may.
    pub fn judge(&self, shard: ShardId, source: &QueueKey, edit: &Edit) -> Result<(), Refusal> {
        let malformed = |text: String| Err(Refusal::new(Reason::Malformed, text));
        if !edit.add.is_empty() && self.subscribed.contains_key(source) {
            return malformed(format!(
                "add: {} is a subscriber itself: its copies go no further",
                source.topic
            ));
        }
        let current = self.lists.get(&shard);
        let mut count = current.map_or(0, Fan::count) as usize;
        for addition in &edit.add {
            let queue = QueueKey { tenant: source.tenant.clone(), topic: addition.topic.clone() };
            if queue == *source {
                return malformed(format!("add: {} cannot subscribe to itself", source.topic));
            }
            let of_its_own = self.sources.get(&queue).and_then(|shard| self.lists.get(shard));
            if of_its_own.is_some_and(Fan::has_places) {
                let topic = &queue.topic;
                return malformed(format!("add: {topic} has subscribers itself: copies go no further"));
            }
            count += usize::from(current.is_none_or(|fan| !fan.is_on(&addition.topic)));
        }
        let leaving = |topic: &&Topic| current.is_some_and(|fan| fan.is_on(topic));
        count = count.saturating_sub(edit.remove.iter().filter(leaving).count());
        if count > SUBSCRIBERS_MAX {
            return malformed(format!("add: a topic has at most {SUBSCRIBERS_MAX} subscribers"));
        }
        let more = edit.add.len();
        if current.map_or(0, Fan::places) + more > PLACES_MAX || self.places + more > SUBSCRIPTIONS_MAX {
            let text = "too many subscriptions: removed ones still get what was sent before; retry later";
            return Err(Refusal::new(Reason::Backpressure, text));
        }
        Ok(())
    }

    /// Changes the list of `source` from `boundary` on: what is there already, or is given a lower place, goes to
    /// the list as it was.
    ///
    /// # Errors
    /// As [`Fans::judge`]; then nothing has changed.
    pub fn edit(
        &mut self,
        shard: ShardId,
        source: &QueueKey,
        boundary: Slot,
        edit: &Edit,
        touched: &mut Touched,
    ) -> Result<ListInForce, Refusal> {
        self.judge(shard, source, edit)?;
        let fan = self.lists.entry(shard).or_insert_with(|| Fan::new(source.clone(), 0));
        self.sources.insert(source.clone(), shard);
        let mut numbers = Vec::new();
        for topic in &edit.remove {
            numbers.extend(fan.remove(topic, boundary));
        }
        for Addition { topic, filter } in &edit.add {
            numbers.extend(fan.add(topic, filter, boundary));
        }
        if !numbers.is_empty() {
            fan.version += 1;
        }
        let in_force = ListInForce { version: fan.version, count: fan.count() };
        touched.lists.insert(shard);
        numbers.into_iter().for_each(|number| touched.place(shard, number));
        self.look_after(shard, None, touched);
        Ok(in_force)
    }

    /// A topic is deleted by the commit whose first place is `boundary`: its list is over, but what was sent before
    /// still goes to those on it; and it is on no list any more.
    pub fn delete(&mut self, shard: ShardId, queue: &QueueKey, boundary: Slot, touched: &mut Touched) {
        if let Some(fan) = self.lists.get_mut(&shard) {
            let ended = fan.end(boundary);
            self.sources.remove(queue);
            touched.lists.insert(shard);
            ended.into_iter().for_each(|number| touched.place(shard, number));
            self.look_after(shard, None, touched);
        }
        for list in self.subscribed.remove(queue).unwrap_or_default() {
            let Some(fan) = self.lists.get_mut(&list) else { continue };
            let dropped = fan.forget(&queue.topic);
            touched.lists.insert(list);
            dropped.into_iter().for_each(|number| touched.place(list, number));
            self.look_after(list, None, touched);
        }
    }

    /// Messages of `shard` are durable: `count` places of `chunk` from `first` on.
    pub fn sent(&mut self, shard: ShardId, chunk: u64, first: u16, count: u16) -> bool {
        let Some(fan) = self.lists.get_mut(&shard) else { return false };
        let wanted = fan.sent(chunk, first, count);
        if wanted {
            *self.held.entry(chunk).or_default() += 1;
        }
        wanted
    }

    /// Moves a cursor. Returns whether it was where the step begins; if not, nothing has changed, and what the step
    /// brings has been brought before.
    pub fn advance(&mut self, step: &Advance, touched: &mut Touched) -> bool {
        let Some(fan) = self.lists.get_mut(&step.list) else { return false };
        if !fan.advance(step) {
            return false;
        }
        touched.place(step.list, step.number);
        self.look_after(step.list, Some(step.number), touched);
        true
    }

    /// A list as it was stored; subscriptions and cursors follow.
    pub fn restore_list(&mut self, shard: ShardId, source: QueueKey, version: u64, exists: bool) {
        if exists {
            self.sources.insert(source.clone(), shard);
        }
        let mut fan = Fan::new(source, version);
        fan.over = !exists;
        self.lists.insert(shard, fan);
    }

    /// A subscription as it was stored, with its cursor.
    pub fn restore_place(&mut self, shard: ShardId, number: u32, subscription: Subscription, next: Slot) {
        if let Some(fan) = self.lists.get_mut(&shard) {
            self.subscribed.entry(subscription.queue.clone()).or_default().insert(shard);
            fan.restore(number, subscription, next);
            self.places += 1;
        }
    }

    /// Once all is restored: drops what is through.
    pub fn settle(&mut self, touched: &mut Touched) {
        let all: Vec<ShardId> = self.lists.keys().copied().collect();
        all.into_iter().for_each(|shard| self.look_after(shard, None, touched));
    }

    /// Drops the subscriptions of a list that are through, lets go of what nobody waits for, and of the list itself
    /// if its topic is gone and nobody is left. `only`: nobody else's cursor has moved.
    fn look_after(&mut self, shard: ShardId, only: Option<u32>, touched: &mut Touched) {
        let Some(fan) = self.lists.get_mut(&shard) else { return };
        let (held, released) = (&mut self.held, &mut self.released);
        for number in fan.drop_finished(only) {
            touched.place(shard, number);
        }
        for chunk in fan.let_go() {
            if let Some(lists) = held.get_mut(&chunk) {
                *lists -= 1;
                if *lists == 0 {
                    held.remove(&chunk);
                    released.push(chunk);
                }
            }
        }
        for queue in fan.take_left() {
            if let Some(lists) = self.subscribed.get_mut(&queue) {
                lists.remove(&shard);
                if lists.is_empty() {
                    self.subscribed.remove(&queue);
                }
            }
        }
        for queue in fan.take_joined() {
            self.subscribed.entry(queue).or_default().insert(shard);
        }
        let fan_is_over = fan.over && !fan.has_places();
        self.places = (self.places + fan.take_added()).saturating_sub(fan.take_dropped());
        if fan_is_over {
            self.lists.remove(&shard);
            touched.lists.insert(shard);
        }
    }
}
