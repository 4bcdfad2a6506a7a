//! Which records live copies stand for: a copy has a place and a state of its own, but its record is its source's.
//! In memory only; rebuilt from the chunks' heads when the store is opened.

use super::codec::Head;
use ron_core::ids::Slot;
use std::collections::HashMap;

/// Copies of one chunk that lie next to each other and stand for one record.
#[derive(Debug, Clone, Copy)]
struct Run {
    first: u16,
    count: u16,
    /// In [`Copies::sources`].
    source: u16,
}

/// The copies of one chunk.
#[derive(Debug, Default)]
struct Copies {
    sources: Vec<Slot>,
    runs: Vec<Run>,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct References {
    /// Live copies of each record.
    by_source: HashMap<Slot, u32>,
    /// Records of each chunk that have live copies.
    by_chunk: HashMap<u64, u32>,
    copies: HashMap<u64, Copies>,
}

impl References {
    /// A copy lives. Copies of one chunk come in the order of their places.
    pub(crate) fn add(&mut self, copy: Slot, source: Slot) {
        let copies = self.copies.entry(copy.chunk()).or_default();
        let known = copies.sources.iter().rposition(|known| *known == source);
        let number = known.unwrap_or_else(|| {
            copies.sources.push(source);
            copies.sources.len() - 1
        });
        let (idx, number) = (copy.idx(), number as u16);
        match copies.runs.last_mut() {
            Some(run) if run.source == number && run.first + run.count == idx => run.count += 1,
            Some(_) | None => copies.runs.push(Run { first: idx, count: 1, source: number }),
        }
        let count = self.by_source.entry(source).or_default();
        *count += 1;
        if *count == 1 {
            *self.by_chunk.entry(source.chunk()).or_default() += 1;
        }
    }

    /// What is in `slot` is gone. Returns the chunk of its record, if it was a copy and the last one of that.
    pub(crate) fn gone(&mut self, slot: Slot) -> Option<u64> {
        let source = self.source(slot)?;
        let count = self.by_source.get_mut(&source)?;
        *count -= 1;
        if *count > 0 {
            return None;
        }
        self.by_source.remove(&source);
        let chunk = source.chunk();
        let records = self.by_chunk.get_mut(&chunk)?;
        *records -= 1;
        if *records == 0 {
            self.by_chunk.remove(&chunk);
        }
        Some(chunk)
    }

    fn source(&self, slot: Slot) -> Option<Slot> {
        let copies = self.copies.get(&slot.chunk())?;
        let at = copies.runs.partition_point(|run| run.first <= slot.idx()).checked_sub(1)?;
        let run = copies.runs.get(at).filter(|run| slot.idx() - run.first < run.count)?;
        copies.sources.get(usize::from(run.source)).copied()
    }

    /// The chunk is removed.
    pub(crate) fn forget(&mut self, chunk: u64) {
        self.copies.remove(&chunk);
    }

    /// Records of a chunk that live copies stand for.
    pub(crate) fn records(&self, chunk: u64) -> u32 {
        self.by_chunk.get(&chunk).copied().unwrap_or(0)
    }

    /// Whether live copies stand for this record.
    pub(crate) fn needs(&self, record: Slot) -> bool {
        self.by_source.contains_key(&record)
    }

    /// Whether the chunk has copies of other chunks' messages.
    #[cfg(test)]
    pub(crate) fn has_copies(&self, chunk: u64) -> bool {
        self.copies.contains_key(&chunk)
    }
}

/// The places of a chunk that are copies, with what they stand for, ascending.
pub(crate) fn copies_of(head: &Head) -> Vec<(u16, Slot)> {
    let entries = head.entries.iter().enumerate();
    entries.filter_map(|(idx, entry)| Some((idx as u16, entry.source.filter(|_| entry.len > 0)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_needed_until_its_last_copy_is_gone() {
        let (record, other) = (Slot::new(2, 3), Slot::new(2, 4));
        let mut refs = References::default();
        // 0 and 5 are messages, the rest copies of two records in turn
        for (idx, source) in [(1, record), (2, record), (3, other), (4, record), (6, record)] {
            refs.add(Slot::new(8, idx), source);
        }
        assert_eq!((refs.records(2), refs.needs(record), refs.needs(Slot::new(2, 5))), (2, true, false));
        for no_copy in [0, 5, 7] {
            assert_eq!(refs.gone(Slot::new(8, no_copy)), None, "{no_copy}");
        }
        assert_eq!(refs.gone(Slot::new(8, 3)), Some(2));
        assert_eq!((refs.records(2), refs.needs(other)), (1, false));
        for copy in [6, 1, 2] {
            assert_eq!(refs.gone(Slot::new(8, copy)), None, "{copy}");
        }
        assert_eq!((refs.gone(Slot::new(8, 4)), refs.records(2)), (Some(2), 0));
        assert!(refs.has_copies(8));
        refs.forget(8);
        assert!(!refs.has_copies(8));
    }
}
