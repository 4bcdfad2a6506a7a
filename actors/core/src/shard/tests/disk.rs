//! The store that the property test plays: applies ops, and refuses those that make no sense.

use crate::ids::Slot;
use crate::message::{DeadLetter, Phase, Recovered, StateOp};
use crate::shard::{Paused, Settings};
use std::collections::{BTreeMap, BTreeSet};

/// What the store holds.
#[derive(Debug, Default)]
pub(super) struct Disk {
    pub(super) rows: BTreeMap<Slot, Recovered>,
    pub(super) letters: BTreeMap<Slot, DeadLetter>,
    pub(super) notes: BTreeSet<Slot>,
    pub(super) config: (Settings, Paused),
}

impl Disk {
    pub(super) fn write(&mut self, op: &StateOp) {
        match op {
            StateOp::Set { slot, state, note } => {
                self.rows.get_mut(slot).expect("a row to set").state = Some(*state);
                if note.is_some() {
                    self.notes.insert(*slot);
                }
                assert_eq!(state.noted, self.notes.contains(slot), "{op:?}");
                assert_ne!(state.phase, Phase::Dead, "{op:?}");
            }
            StateOp::Dead { slot, state, letter } => {
                self.rows.get_mut(slot).expect("a row to bury").state = Some(*state);
                assert_eq!((state.phase, state.at), (Phase::Dead, letter.at), "{op:?}");
                let before = self.letters.insert(*slot, letter.clone());
                assert_eq!(before, None, "dead-lettered twice: {op:?}");
            }
            StateOp::Gone { slot, noted } => {
                assert!(self.rows.remove(slot).is_some(), "gone twice: {op:?}");
                assert_eq!(*noted, self.notes.remove(slot), "{op:?}");
                assert!(!self.letters.contains_key(slot), "a dead letter is gone: {op:?}");
            }
            StateOp::GoneRun { first, count } => {
                for slot in (0..*count).map(|n| first.forward(n)) {
                    let row = self.rows.remove(&slot).expect("a row of the run");
                    assert_eq!((row.state, slot.chunk()), (None, first.chunk()), "{op:?}");
                }
            }
            StateOp::Revived { slot, state } => {
                self.rows.get_mut(slot).expect("a row to revive").state = Some(*state);
                assert_eq!((state.phase, state.noted), (Phase::Ready, false), "{op:?}");
                assert!(self.letters.remove(slot).is_some(), "no dead letter: {op:?}");
                self.notes.remove(slot);
            }
            StateOp::DeadGone { slot } => {
                assert!(self.rows.remove(slot).is_some(), "gone twice: {op:?}");
                assert!(self.letters.remove(slot).is_some(), "no dead letter: {op:?}");
                self.notes.remove(slot);
            }
        }
    }
}
