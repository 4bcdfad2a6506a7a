//! Ready messages that were never handed out and have no TTL: runs of neighbours, 16 bytes a run
//! and 4 bytes a message (its length, because a receive bounds bytes). They leave at the front, but for a damaged one.

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

    /// Takes out one, wherever it stands; walks the runs before it.
    pub(super) fn take(&mut self, slot: Slot) -> Option<Front> {
        let i = self.runs.partition_point(|run| run.end() <= slot.0);
        let run = self.runs.get(i).copied().filter(|run| run.first <= slot)?;
        let before = (slot.0 - run.first.0) as u16;
        let place =
            self.runs.range(..i).map(|run| usize::from(run.len())).sum::<usize>() + usize::from(before);
        let len = self.lens.remove(place)?;
        let part = |first, count: u16| Run { first, packed: (run.enqueued().0 << 16) | u64::from(count) };
        let after = part(slot.forward(1), run.len() - before - 1);
        self.runs.remove(i);
        for part in [after, part(run.first, before)] {
            if part.len() > 0 {
                self.runs.insert(i, part);
            }
        }
        Some(Front { slot, enqueued: run.enqueued(), len })
    }

    /// Takes out all whose enqueue time is not after `until`, as runs of neighbours in one chunk: (first, how
    /// many).
    pub(super) fn take_until(&mut self, until: Millis) -> Vec<(Slot, u16)> {
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
    pub(super) fn take_all(&mut self) -> Vec<(Slot, u16)> {
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
fn split_at_chunks(run: Run, into: &mut Vec<(Slot, u16)>) {
    let (mut first, mut left) = (run.first, run.len());
    while left > 0 {
        let in_chunk = u32::from(u16::MAX - first.idx()) + 1;
        let count = left.min(u16::try_from(in_chunk).unwrap_or(u16::MAX));
        into.push((first, count));
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
