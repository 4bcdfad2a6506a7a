//! The bus: who wants to know is told what happens, and nobody who publishes ever waits.
//!
//! A bounded broadcast: a subscriber that is too slow loses the oldest events, and each lost one is counted
//! under its topic. Beside it, a bounded memory of the last minutes for whoever comes later.

use super::event::{Event, Record, topic_matches};
use ron_core::ids::CorrId;
use ron_core::time::Clock;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};

/// The bus's bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BusLimits {
    /// Events a subscriber may be behind before it loses the oldest; rounded up to a power of two.
    pub capacity: usize,
    /// Events remembered for [`Bus::recent`].
    pub recent_max: usize,
    /// How long they are remembered, ms.
    pub recent_ms: u64,
}

impl Default for BusLimits {
    fn default() -> Self {
        Self { capacity: 4096, recent_max: 10_000, recent_ms: 15 * 60_000 }
    }
}

/// What one subscriber lost of one topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LagCount {
    /// The name it subscribed under.
    pub subscriber: &'static str,
    /// One of [`Event::TOPICS`], or `other` for events no longer remembered when the loss was noticed.
    pub topic: &'static str,
    /// How often it fell behind: `bus_lagged_total{topic}`.
    pub lagged: u64,
    /// Events it lost: `bus_overflow_dropped_total{topic}`.
    pub dropped: u64,
}

/// The publishing end. Cheap to clone; the bus closes with the last clone.
#[derive(Debug, Clone)]
pub struct Bus {
    sender: broadcast::Sender<Arc<Record>>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    clock: Arc<dyn Clock>,
    limits: BusLimits,
    recent: Mutex<Recent>,
    lag: Mutex<BTreeMap<LagKey, Lag>>,
}

/// Subscriber and topic.
type LagKey = (&'static str, &'static str);

#[derive(Debug, Clone, Copy, Default)]
struct Lag {
    lagged: u64,
    dropped: u64,
}

/// The remembered events, without gaps in `seq`.
#[derive(Debug, Default)]
struct Recent {
    next_seq: u64,
    records: VecDeque<Arc<Record>>,
}

impl Recent {
    fn by_seq(&self, seq: u64) -> Option<&Arc<Record>> {
        let first = self.records.front()?.seq;
        self.records.get(usize::try_from(seq.checked_sub(first)?).ok()?)
    }
}

impl Bus {
    /// A bus with no subscribers.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, limits: BusLimits) -> Self {
        let sender = broadcast::Sender::new(limits.capacity.max(1));
        Self {
            sender,
            shared: Arc::new(Shared { clock, limits, recent: Mutex::default(), lag: Mutex::default() }),
        }
    }

    /// Tells everyone. Never waits for a subscriber.
    pub fn publish(&self, event: Event) {
        self.publish_for(event, None);
    }

    /// Tells everyone, naming the request that caused it.
    pub fn publish_for(&self, event: Event, corr_id: Option<CorrId>) {
        let Shared { clock, limits, recent, .. } = &*self.shared;
        let (ts, at) = (clock.wall(), clock.now());
        let mut recent = lock(recent);
        let record = Arc::new(Record { seq: recent.next_seq, ts, at, corr_id, event });
        recent.next_seq += 1;
        recent.records.push_back(Arc::clone(&record));
        let over = |old: &Arc<Record>| at.since(old.at) > limits.recent_ms;
        while recent.records.len() > limits.recent_max || recent.records.front().is_some_and(over) {
            recent.records.pop_front();
        }
        // under the lock, so that subscribers see the order of `seq`; an error only says that there are none
        let _ = self.sender.send(record);
    }

    /// Listens from now on to the topics under `prefix` (see [`topic_matches`]; empty = all). The name
    /// stands in the lag counters, so it is one of a few, fixed in the code.
    #[must_use]
    pub fn subscribe(&self, name: &'static str, prefix: &str) -> Subscription {
        let recent = lock(&self.shared.recent);
        Subscription {
            name,
            prefix: prefix.to_owned(),
            next_seq: recent.next_seq,
            receiver: self.sender.subscribe(),
            shared: Arc::clone(&self.shared),
        }
    }

    /// The remembered events under `prefix` that are at most `max_age` old, oldest first.
    #[must_use]
    pub fn recent(&self, max_age: Duration, prefix: &str) -> Vec<Arc<Record>> {
        let now = self.shared.clock.now();
        let max_age_ms =
            u64::try_from(max_age.as_millis()).unwrap_or(u64::MAX).min(self.shared.limits.recent_ms);
        let wanted =
            |r: &&Arc<Record>| now.since(r.at) <= max_age_ms && topic_matches(prefix, r.event.topic());
        lock(&self.shared.recent).records.iter().filter(wanted).cloned().collect()
    }

    /// What subscribers lost since the start, by subscriber and topic.
    #[must_use]
    pub fn lag_counters(&self) -> Vec<LagCount> {
        let row = |(&(subscriber, topic), &Lag { lagged, dropped }): (&LagKey, &Lag)| LagCount {
            subscriber,
            topic,
            lagged,
            dropped,
        };
        lock(&self.shared.lag).iter().map(row).collect()
    }
}

/// A poisoned lock guards plain data that no panic can leave half-written.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The listening end.
#[derive(Debug)]
pub struct Subscription {
    name: &'static str,
    prefix: String,
    next_seq: u64,
    receiver: broadcast::Receiver<Arc<Record>>,
    shared: Arc<Shared>,
}

impl Subscription {
    /// The next event. After a lag it goes on with the oldest one that is left, and the lost ones are
    /// counted. `None` when the bus is closed. Safe to cancel.
    pub async fn recv(&mut self) -> Option<Arc<Record>> {
        loop {
            match self.receiver.recv().await {
                Ok(record) => {
                    if let Some(record) = self.take(record) {
                        return Some(record);
                    }
                }
                Err(RecvError::Lagged(lost)) => self.count_lost(lost),
                Err(RecvError::Closed) => return None,
            }
        }
    }

    /// The next event if one waits.
    pub fn try_recv(&mut self) -> Option<Arc<Record>> {
        loop {
            match self.receiver.try_recv() {
                Ok(record) => {
                    if let Some(record) = self.take(record) {
                        return Some(record);
                    }
                }
                Err(TryRecvError::Lagged(lost)) => self.count_lost(lost),
                Err(TryRecvError::Empty | TryRecvError::Closed) => return None,
            }
        }
    }

    fn take(&mut self, record: Arc<Record>) -> Option<Arc<Record>> {
        self.next_seq = record.seq + 1;
        topic_matches(&self.prefix, record.event.topic()).then_some(record)
    }

    fn count_lost(&mut self, lost: u64) {
        let mut by_topic: BTreeMap<&'static str, u64> = BTreeMap::new();
        let recent = lock(&self.shared.recent);
        for seq in self.next_seq..self.next_seq + lost {
            let topic = recent.by_seq(seq).map_or("other", |record| record.event.topic());
            if topic == "other" || topic_matches(&self.prefix, topic) {
                *by_topic.entry(topic).or_default() += 1;
            }
        }
        drop(recent);
        self.next_seq += lost;
        let mut counters = lock(&self.shared.lag);
        for (topic, dropped) in by_topic {
            let count = counters.entry((self.name, topic)).or_default();
            count.lagged += 1;
            count.dropped += dropped;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::clock::ManualClock;
    use ron_core::time::Millis;

    fn bus(capacity: usize, recent_max: usize) -> (Bus, ManualClock) {
        let clock = ManualClock::new(Millis(1_000_000));
        let limits = BusLimits { capacity, recent_max, ..BusLimits::default() };
        (Bus::new(Arc::new(clock.clone()), limits), clock)
    }

    fn version(record: &Record) -> u64 {
        match record.event {
            Event::ConfigUpdated { version } => version,
            ref other => panic!("unexpected {other:?}"),
        }
    }

    #[tokio::test]
    async fn every_subscriber_sees_every_event_in_order() {
        let (bus, clock) = bus(16, 100);
        let mut all = bus.subscribe("all", "");
        let mut kernel = bus.subscribe("kernel", "kernel");
        bus.publish(Event::Brownout { active: true });
        clock.set_wall(Millis(7));
        bus.publish_for(Event::Shutdown, CorrId::parse("corr-id-1"));
        assert_eq!(all.recv().await.unwrap().event, Event::Brownout { active: true });
        let last = kernel.recv().await.unwrap();
        assert_eq!((last.seq, last.ts, last.at), (1, Millis(7), Millis(1_000_000)));
        assert_eq!(last.corr_id.as_ref().map(CorrId::as_str), Some("corr-id-1"));
        assert_eq!(all.recv().await.unwrap(), last);
        assert!(all.try_recv().is_none());
        drop(bus);
        assert!(all.recv().await.is_none());
    }

    #[tokio::test]
    async fn a_slow_subscriber_loses_the_oldest_and_is_counted_by_topic() {
        let (bus, _) = bus(4, 100);
        let mut slow = bus.subscribe("slow", "");
        let mut picky = bus.subscribe("picky", "kernel");
        bus.publish(Event::Brownout { active: true });
        for version in 0..7 {
            bus.publish(Event::ConfigUpdated { version });
        }
        // eight events, room for four: the brownout and three updates are gone
        assert_eq!(version(&slow.recv().await.unwrap()), 3);
        assert_eq!(version(&picky.recv().await.unwrap()), 3);
        let row = |subscriber, topic, dropped| LagCount { subscriber, topic, lagged: 1, dropped };
        assert_eq!(
            bus.lag_counters(),
            [
                row("picky", "kernel.config_updated", 3),
                row("slow", "interop.bridge.brownout", 1),
                row("slow", "kernel.config_updated", 3),
            ]
        );
        for expected in 4..7 {
            assert_eq!(version(&slow.recv().await.unwrap()), expected);
        }
    }

    #[tokio::test]
    async fn what_is_lost_and_forgotten_still_counts() {
        let (bus, _) = bus(2, 2);
        let mut slow = bus.subscribe("slow", "interop");
        for version in 0..5 {
            bus.publish(Event::ConfigUpdated { version });
        }
        assert!(slow.try_recv().is_none());
        let counters = bus.lag_counters();
        assert_eq!(counters, [LagCount { subscriber: "slow", topic: "other", lagged: 1, dropped: 3 }]);
    }

    #[test]
    fn the_recent_past_is_bounded_by_count_and_age() {
        let (bus, clock) = bus(4, 3);
        for version in 0..5 {
            bus.publish(Event::ConfigUpdated { version });
            clock.advance(60_000);
        }
        let versions = |age: u64| -> Vec<u64> {
            bus.recent(Duration::from_secs(age), "kernel").iter().map(|r| version(r)).collect()
        };
        assert_eq!(versions(u64::MAX), [2, 3, 4]);
        assert_eq!(versions(120), [3, 4]);
        assert!(bus.recent(Duration::MAX, "mailbox").is_empty());
        clock.advance(14 * 60_000);
        assert_eq!(versions(u64::MAX), [4]);
        clock.advance(60_000);
        assert!(versions(u64::MAX).is_empty());
    }
}
