//! The list of one topic: who is on it, how far each has come, and what is still to be brought.

use super::{Advance, Filter, PAGE_PLACES, Subscription};
use crate::ids::{QueueKey, Slot, Topic};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A subscription and its cursor.
#[derive(Debug)]
struct Place {
    subscription: Arc<Subscription>,
    next: Slot,
}

impl Place {
    fn end(&self) -> Slot {
        self.subscription.until.unwrap_or(Slot(u64::MAX))
    }
}

/// A backlog, so that what is behind a cursor can be counted without walking it.
struct Sums(Vec<(u64, u16, u64)>, u64);

impl Sums {
    fn of(backlog: &BTreeMap<u64, (u16, u16)>) -> Sums {
        let mut before = 0;
        let of = |(chunk, (first, count)): (&u64, &(u16, u16))| {
            let row = (*chunk, *first, before);
            before += u64::from(*count);
            row
        };
        let rows = backlog.iter().map(of).collect();
        Sums(rows, before)
    }

    /// Messages before a place.
    fn before(&self, slot: Slot) -> u64 {
        let at = self.0.partition_point(|(chunk, _, _)| *chunk < slot.chunk());
        let until = |i: usize| self.0.get(i).map_or(self.1, |(_, _, before)| *before);
        match self.0.get(at) {
            Some((chunk, first, before)) if *chunk == slot.chunk() => {
                (before + u64::from(slot.idx().saturating_sub(*first))).min(until(at + 1))
            }
            Some(_) | None => until(at),
        }
    }

    fn lag(&self, place: &Place) -> u64 {
        self.before(place.end()).saturating_sub(self.before(place.next))
    }
}

/// Messages that a subscriber has not got yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    /// Its number on the list.
    pub number: u32,
    /// Who, and what it wants.
    pub subscription: Arc<Subscription>,
    /// Its cursor.
    pub from: Slot,
}

/// What is next for subscribers whose cursors are at one place.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    /// Those who are there.
    pub due: Vec<Due>,
    /// The chunks that hold messages to be brought, ascending: the chunk, the first place, how many.
    pub chunks: Vec<(u64, u16, u16)>,
}

/// One row of a list, for whoever looks at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Who.
    pub topic: Topic,
    /// What it wants.
    pub filter: Filter,
    /// Messages it has not got yet.
    pub lag: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Fan {
    source: QueueKey,
    pub(super) version: u64,
    /// The topic is deleted: nothing comes any more.
    pub(super) over: bool,
    places: BTreeMap<u32, Place>,
    /// The numbers of each topic, oldest first; only the last can be on the list.
    by_topic: BTreeMap<Topic, Vec<u32>>,
    /// Of `by_topic`, how many are on the list.
    on: u64,
    /// Where the cursors are, and how many there.
    cursors: BTreeMap<Slot, u32>,
    /// Chunks with messages that are not brought to all: the first place, and how many.
    backlog: BTreeMap<u64, (u16, u16)>,
    joined: Vec<QueueKey>,
    left: Vec<QueueKey>,
    added: usize,
    dropped: usize,
}

impl Fan {
    pub(super) fn new(source: QueueKey, version: u64) -> Fan {
        Fan {
            source,
            version,
            over: false,
            places: BTreeMap::new(),
            by_topic: BTreeMap::new(),
            on: 0,
            cursors: BTreeMap::new(),
            backlog: BTreeMap::new(),
            joined: Vec::new(),
            left: Vec::new(),
            added: 0,
            dropped: 0,
        }
    }

    /// Whose list it is.
    #[must_use]
    pub fn source(&self) -> &QueueKey {
        &self.source
    }

    /// Counts its changes.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Subscribers on it.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.on
    }

    /// Whether there are subscriptions, removed ones that are not through included.
    #[must_use]
    pub fn has_places(&self) -> bool {
        !self.places.is_empty()
    }

    pub(super) fn places(&self) -> usize {
        self.places.len()
    }

    pub(super) fn is_on(&self, topic: &Topic) -> bool {
        self.current(topic).is_some()
    }

    /// The number of a topic that is on the list.
    fn current(&self, topic: &Topic) -> Option<u32> {
        let number = *self.by_topic.get(topic)?.last()?;
        self.places.get(&number).filter(|place| place.subscription.until.is_none()).map(|_| number)
    }

    /// A subscription, by number.
    #[must_use]
    pub fn subscription(&self, number: u32) -> Option<&Arc<Subscription>> {
        self.places.get(&number).map(|place| &place.subscription)
    }

    /// The cursors of a page as runs of (how many, where); a number that nobody has counts as place 0.
    #[must_use]
    pub fn page(&self, page: u32) -> Vec<(u32, Slot)> {
        let first = page * PAGE_PLACES;
        let mut runs: Vec<(u32, Slot)> = Vec::new();
        let mut put = |slot: Slot, count: u32| match runs.last_mut() {
            Some((run, at)) if *at == slot => *run += count,
            Some(_) | None => runs.push((count, slot)),
        };
        let mut next = first;
        for (number, place) in self.places.range(first..first + PAGE_PLACES) {
            if *number > next {
                put(Slot(0), number - next);
            }
            put(place.next, 1);
            next = number + 1;
        }
        runs
    }

    /// What the rows of [`Fan::page`] say of each number of the page.
    pub fn cursors(page: u32, runs: &[(u32, Slot)]) -> impl Iterator<Item = (u32, Slot)> {
        let all = runs.iter().flat_map(|(count, slot)| (0..(*count).min(PAGE_PLACES)).map(|_| *slot));
        all.take(PAGE_PLACES as usize).enumerate().map(move |(i, slot)| (page * PAGE_PLACES + i as u32, slot))
    }

    /// Subscribers on the list, in the order of their names, after `after`, at most `limit`.
    #[must_use]
    pub fn listed(&self, after: Option<&Topic>, limit: usize) -> Vec<Listed> {
        let (mut rows, sums) = (Vec::new(), Sums::of(&self.backlog));
        let from = after.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        for topic in
            self.by_topic.range::<Topic, _>((from, std::ops::Bound::Unbounded)).map(|(topic, _)| topic)
        {
            let place = self.current(topic).and_then(|number| self.places.get(&number));
            let Some(place) = place else { continue };
            if rows.len() == limit {
                break;
            }
            let (topic, filter) = (topic.clone(), place.subscription.filter.clone());
            rows.push(Listed { topic, filter, lag: sums.lag(place) });
        }
        rows
    }

    /// How many messages each subscriber that is behind has not got yet.
    pub fn lags(&self) -> impl Iterator<Item = (&QueueKey, u64)> {
        let sums = Sums::of(&self.backlog);
        self.places
            .values()
            .map(move |place| (&place.subscription.queue, sums.lag(place)))
            .filter(|(_, lag)| *lag > 0)
    }

    /// Everybody who has messages to come, in the order of their numbers. Of a topic that was removed and added
    /// again only the older subscription, until that is through.
    pub fn due(&self) -> impl Iterator<Item = Due> {
        let end = self.backlog.last_key_value().map(|(chunk, _)| *chunk);
        let behind = move |place: &Place| end.is_some_and(|end| place.next.chunk() <= end);
        let is_due = move |(number, place): &(&u32, &Place)| behind(place) && self.is_due(**number, place);
        self.places.iter().filter(is_due).filter_map(|(number, _)| self.due_of(*number))
    }

    fn is_due(&self, number: u32, place: &Place) -> bool {
        let first = self.by_topic.get(&place.subscription.queue.topic).and_then(|numbers| numbers.first());
        first == Some(&number) && !self.is_through(place)
    }

    /// What is next for those of `numbers` whose cursors are at `from`, out of at most `limit` chunks. The
    /// subscriptions and the chunks are of one moment: of a message that came after a removal, whoever read the
    /// subscription before the chunks would not know that it is no longer the subscriber's.
    #[must_use]
    pub fn batch(&self, from: Slot, numbers: &[u32], limit: usize) -> Batch {
        let is_there = |number: &&u32| {
            self.places.get(number).is_some_and(|place| place.next == from && self.is_due(**number, place))
        };
        let due = numbers.iter().filter(is_there).filter_map(|number| self.due_of(*number));
        let chunks = self.backlog.range(from.chunk()..).take(limit);
        let chunks = chunks.map(|(chunk, (first, count))| (*chunk, *first, *count)).collect();
        Batch { due: due.collect(), chunks }
    }

    fn due_of(&self, number: u32) -> Option<Due> {
        let place = self.places.get(&number)?;
        Some(Due { number, subscription: place.subscription.clone(), from: place.next })
    }

    // --- changes ---

    pub(super) fn add(&mut self, topic: &Topic, filter: &Filter, boundary: Slot) -> Vec<u32> {
        let mut numbers = Vec::new();
        if let Some(number) = self.current(topic) {
            if self.places.get(&number).is_some_and(|place| place.subscription.filter == *filter) {
                return numbers;
            }
            numbers.extend(self.remove(topic, boundary));
        }
        // the lowest number that is free, so that cursors stay close together
        let free = (0..).zip(self.places.keys()).find(|(i, number)| *i != **number).map(|(i, _)| i);
        let number = free.unwrap_or(self.places.len() as u32);
        let queue = QueueKey { tenant: self.source.tenant.clone(), topic: topic.clone() };
        let subscription =
            Subscription { queue: queue.clone(), filter: filter.clone(), since: boundary, until: None };
        self.restore(number, subscription, boundary);
        self.joined.push(queue);
        self.added += 1;
        numbers.push(number);
        numbers
    }

    pub(super) fn restore(&mut self, number: u32, subscription: Subscription, next: Slot) {
        self.on += u64::from(subscription.until.is_none());
        let numbers = self.by_topic.entry(subscription.queue.topic.clone()).or_default();
        let at = numbers.iter().take_while(|other| {
            self.places.get(other).is_some_and(|place| place.subscription.since <= subscription.since)
        });
        let at = at.count();
        numbers.insert(at, number);
        let next = next.max(subscription.since);
        *self.cursors.entry(next).or_default() += 1;
        self.places.insert(number, Place { subscription: Arc::new(subscription), next });
    }

    pub(super) fn remove(&mut self, topic: &Topic, boundary: Slot) -> Option<u32> {
        let number = self.current(topic)?;
        self.end_place(number, boundary);
        Some(number)
    }

    fn end_place(&mut self, number: u32, boundary: Slot) {
        if let Some(place) = self.places.get_mut(&number).filter(|place| place.subscription.until.is_none()) {
            let ended = Subscription { until: Some(boundary), ..place.subscription.as_ref().clone() };
            place.subscription = Arc::new(ended);
            self.on -= 1;
        }
    }

    /// Nothing comes any more from `boundary` on.
    pub(super) fn end(&mut self, boundary: Slot) -> Vec<u32> {
        self.over = true;
        let numbers: Vec<u32> = self.places.keys().copied().collect();
        numbers.iter().for_each(|number| self.end_place(*number, boundary));
        numbers
    }

    /// Drops all subscriptions of a topic, through or not.
    pub(super) fn forget(&mut self, topic: &Topic) -> Vec<u32> {
        let numbers = self.by_topic.get(topic).cloned().unwrap_or_default();
        if self.current(topic).is_some() {
            self.version += 1;
        }
        numbers.iter().for_each(|number| self.drop_place(*number));
        numbers
    }

    fn drop_place(&mut self, number: u32) {
        let Some(place) = self.places.remove(&number) else { return };
        self.on -= u64::from(place.subscription.until.is_none());
        self.leave_cursor(place.next);
        self.dropped += 1;
        let queue = &place.subscription.queue;
        if let Some(numbers) = self.by_topic.get_mut(&queue.topic) {
            numbers.retain(|other| *other != number);
            if numbers.is_empty() {
                self.by_topic.remove(&queue.topic);
                self.left.push(queue.clone());
            }
        }
    }

    fn leave_cursor(&mut self, at: Slot) {
        if let Some(count) = self.cursors.get_mut(&at) {
            *count -= 1;
            if *count == 0 {
                self.cursors.remove(&at);
            }
        }
    }

    /// Takes in messages; false if nobody wants them.
    pub(super) fn sent(&mut self, chunk: u64, first: u16, count: u16) -> bool {
        let wanted = |place: &Place| place.next.chunk() <= chunk && chunk < place.end().chunk();
        let wanted = match self.on {
            0 => self.places.values().any(wanted),
            // whoever is on the list wants all from its place on, and none of those is above a new message
            _ => self.cursors.first_key_value().is_some_and(|(first, _)| first.chunk() <= chunk),
        };
        wanted && self.backlog.insert(chunk, (first, count)).is_none()
    }

    pub(super) fn advance(&mut self, step: &Advance) -> bool {
        let Some(place) = self.places.get_mut(&step.number) else { return false };
        let is_it = place.subscription.since == step.since && place.next == step.from;
        if !is_it || step.to <= step.from {
            return false;
        }
        place.next = step.to;
        self.leave_cursor(step.from);
        *self.cursors.entry(step.to).or_default() += 1;
        true
    }

    /// Whether nothing is to come for it, for now.
    fn is_through(&self, place: &Place) -> bool {
        let mut chunks =
            self.backlog.range(place.next.chunk()..).take_while(|(chunk, _)| **chunk < place.end().chunk());
        let passed = |chunk: u64, end: u16| chunk == place.next.chunk() && place.next.idx() >= end;
        chunks.all(|(chunk, (first, count))| passed(*chunk, first + count))
    }

    /// Drops the subscriptions that were removed and have got all that was theirs, of all or of one number.
    pub(super) fn drop_finished(&mut self, only: Option<u32>) -> Vec<u32> {
        let ended = |number: &u32| {
            let place = self.places.get(number).filter(|place| place.subscription.until.is_some());
            place.is_some_and(|place| self.is_through(place))
        };
        let done: Vec<u32> = match only {
            Some(number) => Some(number).filter(ended).into_iter().collect(),
            None if self.on == self.places.len() as u64 => Vec::new(),
            None => self.places.keys().copied().filter(ended).collect(),
        };
        done.iter().for_each(|number| self.drop_place(*number));
        done
    }

    /// The chunks that everybody is past.
    pub(super) fn let_go(&mut self) -> Vec<u64> {
        let floor = self.cursors.first_key_value().map_or(u64::MAX, |(slot, _)| slot.chunk());
        let mut gone = Vec::new();
        while let Some(entry) = self.backlog.first_entry().filter(|entry| *entry.key() < floor) {
            gone.push(entry.remove_entry().0);
        }
        gone
    }

    pub(super) fn take_joined(&mut self) -> Vec<QueueKey> {
        std::mem::take(&mut self.joined)
    }

    pub(super) fn take_left(&mut self) -> Vec<QueueKey> {
        std::mem::take(&mut self.left)
    }

    pub(super) fn take_added(&mut self) -> usize {
        std::mem::take(&mut self.added)
    }

    pub(super) fn take_dropped(&mut self) -> usize {
        std::mem::take(&mut self.dropped)
    }
}
