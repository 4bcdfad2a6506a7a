//! Ready messages that were never handed out and have no TTL: runs of neighbours, 16 bytes a run
//! and 4 bytes a message (its length, because a receive bounds bytes). They only leave at the front.

use crate::ids::Slot;
use crate::time::Millis;
use std::collections::VecDeque;

/// Neighbours that were enqueued at one time; nearly always of one chunk.
#[derive(Debug, Clone, Copy)]
struct Run {
    first: Slot,
    /// Enqueue time (48 bit, ms) and number of messages (16 bit).
    packed: u64,
}

impl Run {
    fn new(first: Slot, enqueued: Millis) -> Run {
        Run { first, packed: (enqueued.0 << 16) | 1 }
    }

    fn len(self) -> u16 {
        (self.packed & 0xffff) as u16
    }

    fn enqueued(self) -> Millis {
        Millis(self.packed >> 16)
    }

    /// The slot after the last one.
    fn end(self) -> u64 {
        self.first.0 + u64::from(self.len())
    }
}

/// The first of the fresh messages.
#[derive(Debug, Clone, Copy)]
pub(super) struct Front {
    pub(super) slot: Slot,
    pub(super) enqueued: Millis,
    pub(super) len: u32,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Fresh {
    runs: VecDeque<Run>,
    lens: VecDeque<u32>,
}

impl Fresh {
    pub(super) fn len(&self) -> usize {
        self.lens.len()
    }

    /// Adds a message behind all others. `false`, and nothing is changed, if its place is not there.
    pub(super) fn push(&mut self, slot: Slot, enqueued: Millis, len: u32) -> bool {
        match self.runs.back_mut() {
            Some(last) if slot.0 < last.end() => return false,
            Some(last) if slot.0 == last.end() && enqueued == last.enqueued() && last.len() < u16::MAX => {
                last.packed += 1;
            }
            _ => self.runs.push_back(Run::new(slot, enqueued)),
        }
        self.lens.push_back(len);
        true
    }

    pub(super) fn front(&self) -> Option<Front> {
        let run = self.runs.front()?;
        Some(Front { slot: run.first, enqueued: run.enqueued(), len: *self.lens.front()? })
    }

    pub(super) fn pop_front(&mut self) -> Option<Front> {
        let front = self.front()?;
        self.lens.pop_front();
        if let Some(run) = self.runs.front_mut() {
            run.first = run.first.forward(1);
            run.packed -= 1;
            if run.len() == 0 {
                self.runs.pop_front();
            }
        }
        give_back(&mut self.lens);
        give_back(&mut self.runs);
        Some(front)
    }

    /// Takes out all whose enqueue time is not after `until`, as runs of neighbours in one chunk: (first, how
    /// many, enqueued when).
    pub(super) fn take_until(&mut self, until: Millis) -> Vec<(Slot, u16, Millis)> {
        let mut taken = Vec::new();
        while let Some(run) = self.runs.front().copied().filter(|run| run.enqueued() <= until) {
            self.runs.pop_front();
            self.lens.drain(..usize::from(run.len()));
            split_at_chunks(run, &mut taken);
        }
        give_back(&mut self.lens);
        give_back(&mut self.runs);
        taken
    }

    /// Takes out all.
    pub(super) fn take_all(&mut self) -> Vec<(Slot, u16, Millis)> {
        self.take_until(Millis::NEVER)
    }

    pub(super) fn contains(&self, slot: Slot) -> bool {
        let i = self.runs.partition_point(|run| run.end() <= slot.0);
        self.runs.get(i).is_some_and(|run| run.first <= slot)
    }

    /// The slots from `from` on, rising.
    pub(super) fn from(&self, from: Slot) -> impl Iterator<Item = Slot> {
        let i = self.runs.partition_point(|run| run.end() <= from.0);
        let runs = self.runs.range(i..);
        runs.flat_map(move |run| (run.first.0.max(from.0)..run.end()).map(Slot))
    }

    /// Bytes on the heap.
    #[cfg(test)]
    pub(super) fn heap_bytes(&self) -> usize {
        self.runs.capacity() * size_of::<Run>() + self.lens.capacity() * size_of::<u32>()
    }

    /// Whether the runs rise, do not touch, and have a length for each message.
    pub(super) fn consistent(&self) -> bool {
        let rising = self.runs.iter().zip(self.runs.iter().skip(1)).all(|(a, b)| a.end() <= b.first.0);
        let counted: usize = self.runs.iter().map(|run| usize::from(run.len())).sum();
        rising && counted == self.lens.len() && self.runs.iter().all(|run| run.len() > 0)
    }
}

/// A run may lead over the end of a chunk; what is written of it may not.
fn split_at_chunks(run: Run, into: &mut Vec<(Slot, u16, Millis)>) {
    let (mut first, mut left) = (run.first, run.len());
    while left > 0 {
        let in_chunk = u32::from(u16::MAX - first.idx()) + 1;
        let count = left.min(u16::try_from(in_chunk).unwrap_or(u16::MAX));
        into.push((first, count, run.enqueued()));
        first = first.forward(count);
        left -= count;
    }
}

/// Returns memory of a queue that has shrunk to a quarter; amortised over the removals before it.
fn give_back<T>(queue: &mut VecDeque<T>) {
    if queue.capacity() > 1024 && queue.len() * 4 < queue.capacity() {
        queue.shrink_to(queue.len() * 2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fresh(runs: &[(u64, u64)]) -> Fresh {
        let mut fresh = Fresh::default();
        for &(slot, enqueued) in runs {
            assert!(fresh.push(Slot(slot), Millis(enqueued), 1));
        }
        fresh
    }

    #[test]
    fn neighbours_of_one_time_are_one_run_and_a_place_that_is_taken_or_passed_is_refused() {
        let mut all = fresh(&[(5, 1), (6, 1), (7, 2), (9, 2)]);
        let runs: Vec<_> = all.runs.iter().map(|run| (run.first.0, run.len(), run.enqueued().0)).collect();
        assert_eq!(runs, [(5, 2, 1), (7, 1, 2), (9, 1, 2)]);
        for taken in [9, 8, 5, 0] {
            assert!(!all.push(Slot(taken), Millis(3), 1), "{taken}");
        }
        assert_eq!((all.len(), all.consistent()), (4, true));
        assert!(all.push(Slot(10), Millis(3), 1), "the very next place, later");
        assert_eq!((all.runs.len(), all.consistent()), (4, true));
    }

    #[test]
    fn what_leaves_together_is_split_where_a_chunk_ends() {
        let last = Slot::new(3, u16::MAX).0;
        let mut all = fresh(&[(last - 1, 1), (last, 1), (last + 1, 1), (last + 2, 1)]);
        assert_eq!(all.runs.len(), 1);
        assert_eq!(
            all.take_until(Millis(1)),
            [(Slot(last - 1), 2, Millis(1)), (Slot::new(4, 0), 2, Millis(1))]
        );
        let mut whole = Vec::new();
        let most = Run { first: Slot::new(5, 1), packed: (1 << 16) | u64::from(u16::MAX) };
        split_at_chunks(most, &mut whole);
        assert_eq!(whole, [(Slot::new(5, 1), u16::MAX, Millis(1))]);
        let (mut at_start, first) = (Vec::new(), Slot::new(5, 0));
        split_at_chunks(Run { first, ..most }, &mut at_start);
        assert_eq!(at_start, [(first, u16::MAX, Millis(1))], "one place of the chunk is left");
    }

    #[test]
    fn a_queue_that_has_shrunk_to_a_quarter_gives_half_of_that_back_and_small_ones_nothing() {
        let shrunk = |capacity: usize, len: usize| {
            let mut queue = VecDeque::with_capacity(capacity);
            queue.extend(std::iter::repeat_n(0_u8, len));
            give_back(&mut queue);
            queue.capacity()
        };
        assert_eq!(shrunk(4_096, 1_024), 4_096, "a quarter is not below a quarter");
        assert_eq!(shrunk(4_096, 1_023), 2_046);
        assert_eq!(shrunk(4_096, 2), 4);
        assert_eq!(shrunk(1_025, 0), 0);
        assert_eq!(shrunk(1_024, 0), 1_024);
    }

    #[test]
    fn runs_that_do_not_rise_or_have_no_lengths_are_noticed() {
        let good = || fresh(&[(5, 1), (6, 1), (9, 2)]);
        assert!(good().consistent());
        let broken: [fn(&mut Fresh); 4] = [
            |all| all.lens.truncate(2),
            |all| all.runs.swap(0, 1),
            |all| all.runs[1].first = Slot(6),
            |all| {
                all.runs[0].packed -= 2;
                all.lens.truncate(1);
            },
        ];
        for (i, spoil) in broken.into_iter().enumerate() {
            let mut all = good();
            spoil(&mut all);
            assert!(!all.consistent(), "{i}");
        }
    }
}
