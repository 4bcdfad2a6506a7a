//! What happened to messages lately: one ring for all queues, in RAM, bounded by bytes and by age. Ends with the
//! process, and is never what anything is decided by.

use ron_core::ids::{ShardId, Slot};
use ron_core::shard::{Event, What};
use ron_core::time::Millis;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// One thing that happened to one message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Happened {
    /// When.
    pub at: Millis,
    /// What.
    pub what: What,
    /// Hand-outs that counted then.
    pub attempt: u32,
    /// When the message was enqueued; 0 = not known.
    pub enqueued: Millis,
    /// The consumer's words, or why it is a dead letter.
    pub reason: Option<Box<str>>,
}

/// What is kept: an event of a shard.
#[derive(Debug, Clone)]
struct Record {
    at: Millis,
    shard: ShardId,
    event: Event,
}

impl Record {
    fn bytes(&self) -> usize {
        size_of::<Record>() + self.event.reason.as_ref().map_or(0, |reason| reason.len() + 16)
    }

    /// Takes in an event of the next slots, if it is the same otherwise.
    fn extends_to(&mut self, at: Millis, shard: ShardId, next: &Event) -> bool {
        let mine = &mut self.event;
        let alike = (self.at, self.shard, mine.what, mine.attempt, mine.enqueued)
            == (at, shard, next.what, next.attempt, next.enqueued);
        let joins = mine.first.0 + u64::from(mine.count) == next.first.0 && mine.reason == next.reason;
        match mine.count.checked_add(next.count).filter(|_| alike && joins) {
            Some(count) => mine.count = count,
            None => return false,
        }
        true
    }

    fn is_of(&self, shard: ShardId, slot: Slot) -> bool {
        let first = self.event.first.0;
        self.shard == shard && (first..first + u64::from(self.event.count)).contains(&slot.0)
    }
}

/// A stretch of the ring that is not written any more.
#[derive(Debug)]
struct Segment {
    records: Vec<Record>,
    bytes: usize,
    newest: Millis,
}

#[derive(Debug, Default)]
struct Ring {
    closed: VecDeque<Arc<Segment>>,
    open: Vec<Record>,
    open_bytes: usize,
    closed_bytes: usize,
}

/// See the module.
#[derive(Debug)]
pub struct History {
    ring: Mutex<Ring>,
    keep_ms: u64,
    segment_bytes: usize,
    bytes_max: usize,
}

/// The ring is dropped in this many parts.
const SEGMENTS: usize = 64;

impl History {
    /// A history of at most `bytes_max` bytes, nothing in it older than `keep_ms`; none at all if that is 0.
    #[must_use]
    pub fn new(keep_ms: u64, bytes_max: usize) -> History {
        let segment_bytes = (bytes_max / SEGMENTS).min(256 * 1024);
        History { ring: Mutex::default(), keep_ms, segment_bytes, bytes_max }
    }

    fn lock(&self) -> MutexGuard<'_, Ring> {
        // A panic while it was held loses at most one record.
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers what happened at `now`.
    pub(crate) fn record(&self, now: Millis, shard: ShardId, events: Vec<Event>) {
        if events.is_empty() || self.keep_ms == 0 {
            return;
        }
        let mut ring = self.lock();
        for event in events {
            if ring.open.last_mut().is_some_and(|last| last.extends_to(now, shard, &event)) {
                continue;
            }
            let record = Record { at: now, shard, event };
            if ring.open.capacity() == 0 {
                // One that grew by doubling would take up to twice what it counts for.
                ring.open.reserve_exact(self.segment_bytes.div_ceil(size_of::<Record>()));
            }
            ring.open_bytes += record.bytes();
            ring.open.push(record);
            if ring.open_bytes >= self.segment_bytes {
                ring.close(now);
            }
        }
        let oldest = now.0.saturating_sub(self.keep_ms);
        while ring.closed.front().is_some_and(|first| {
            first.newest.0 < oldest || ring.closed_bytes + ring.open_bytes > self.bytes_max
        }) {
            if let Some(first) = ring.closed.pop_front() {
                ring.closed_bytes -= first.bytes;
            }
        }
    }

    /// What is remembered of a message at `now`, in the order it happened. Walks all of it: not for an async worker.
    pub(crate) fn of(&self, now: Millis, shard: ShardId, slot: Slot) -> Vec<Happened> {
        let oldest = Millis(now.0.saturating_sub(self.keep_ms));
        let of_it = |record: &&Record| record.is_of(shard, slot) && record.at >= oldest;
        let (closed, newest): (Vec<Arc<Segment>>, Vec<Record>) = {
            let ring = self.lock();
            (ring.closed.iter().cloned().collect(), ring.open.iter().filter(of_it).cloned().collect())
        };
        let older = closed.iter().flat_map(|segment| &segment.records).filter(of_it).cloned();
        let mut found: Vec<Happened> = older.chain(newest).map(Happened::from).collect();
        // What needed no commit was recorded before what waited for one.
        found.sort_by_key(|happened| happened.at);
        found
    }

    /// Bytes in use.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let ring = self.lock();
        ring.closed_bytes + ring.open_bytes
    }
}

impl Ring {
    fn close(&mut self, newest: Millis) {
        let bytes = std::mem::take(&mut self.open_bytes);
        let mut records = std::mem::take(&mut self.open);
        records.shrink_to_fit(); // texts fill it with fewer
        self.closed_bytes += bytes;
        self.closed.push_back(Arc::new(Segment { records, bytes, newest }));
    }
}

impl From<Record> for Happened {
    fn from(Record { at, event, .. }: Record) -> Happened {
        let Event { what, attempt, enqueued, reason, .. } = event;
        let at = if what == What::Enqueued { enqueued } else { at };
        Happened { at, what, attempt, enqueued, reason }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(slot: u64, what: What) -> Event {
        Event { first: Slot(slot), count: 1, what, attempt: 1, enqueued: Millis(5), reason: None }
    }

    #[test]
    fn a_message_is_found_in_a_run_of_neighbours_and_only_in_its_own_shard() {
        let history = History::new(1_000, 1 << 20);
        history.record(Millis(10), ShardId(1), (0..100).map(|slot| event(slot, What::Delivered)).collect());
        history.record(Millis(11), ShardId(2), vec![event(7, What::Acked)]);
        assert_eq!(history.bytes(), 2 * size_of::<Record>(), "a hundred neighbours are one record");
        let found = history.of(Millis(12), ShardId(1), Slot(7));
        assert_eq!(found.iter().map(|h| (h.at, h.what)).collect::<Vec<_>>(), [(Millis(10), What::Delivered)]);
        assert!(history.of(Millis(12), ShardId(1), Slot(100)).is_empty());
        assert!(history.of(Millis(1_011), ShardId(1), Slot(7)).is_empty(), "its time is over");
    }

    #[test]
    fn it_is_bounded_by_bytes_and_forgets_the_oldest() {
        let bytes_max = 64 * 1024;
        let history = History::new(1_000_000, bytes_max);
        for n in 0..10_000u64 {
            let failed = Event { reason: Some("broken".into()), ..event(n * 2, What::Failed) };
            history.record(Millis(n), ShardId(1), vec![failed]);
            assert!(history.bytes() <= bytes_max + history.segment_bytes);
        }
        assert!(history.of(Millis(10_000), ShardId(1), Slot(0)).is_empty());
        let newest = history.of(Millis(10_000), ShardId(1), Slot(19_998));
        assert_eq!(newest[0].reason.as_deref(), Some("broken"));
    }

    #[test]
    fn it_takes_no_more_room_than_it_counts() {
        let (bytes_max, reasons) = (64 * 1024, [None, Some("a reason of some length".repeat(9))]);
        for reason in reasons {
            let history = History::new(1_000_000, bytes_max);
            for n in 0..10_000u64 {
                let failed = Event { reason: reason.clone().map(Into::into), ..event(n * 2, What::Failed) };
                history.record(Millis(n), ShardId(1), vec![failed]);
            }
            let ring = history.lock();
            let places: usize = ring.closed.iter().map(|segment| segment.records.capacity()).sum();
            let counted = ring.closed_bytes;
            assert!(
                places * size_of::<Record>() <= counted && counted > bytes_max / 2,
                "{places}, {counted}"
            );
            assert!(ring.open.capacity() * size_of::<Record>() < history.segment_bytes + size_of::<Record>());
        }
    }

    #[test]
    fn none_is_kept_if_none_is_wanted() {
        let history = History::new(0, 1 << 20);
        history.record(Millis(1), ShardId(1), vec![event(1, What::Acked)]);
        assert_eq!(history.bytes(), 0);
    }
}
