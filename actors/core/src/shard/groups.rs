//! Strict order by group (SPEC §4.5): of each group only the first message may be handed out, and while that one is
//! in flight or delayed the others wait. Kept only for topics that are set so; costs an entry a message.

use super::{Msg, Shard};
use crate::ids::Slot;
use std::collections::{BTreeMap, BTreeSet};

/// The messages of one group that are not dead, and whether each is ready.
type Members = BTreeMap<Slot, bool>;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Groups {
    members: BTreeMap<u64, Members>,
    /// The first of each group, where it is ready.
    heads: BTreeSet<Slot>,
}

fn ready_head(members: &Members) -> Option<Slot> {
    members.first_key_value().filter(|(_, ready)| **ready).map(|(&slot, _)| slot)
}

impl Groups {
    pub(super) fn insert(&mut self, group: u64, slot: Slot, ready: bool) {
        self.change(group, |members| {
            members.insert(slot, ready);
        });
    }

    pub(super) fn remove(&mut self, group: u64, slot: Slot) {
        self.change(group, |members| {
            members.remove(&slot);
        });
    }

    /// The lowest slot that may be handed out.
    pub(super) fn first_ready(&self) -> Option<Slot> {
        self.heads.first().copied()
    }

    fn change(&mut self, group: u64, how: impl FnOnce(&mut Members)) {
        let members = self.members.entry(group).or_default();
        let before = ready_head(members);
        how(members);
        let (after, empty) = (ready_head(members), members.is_empty());
        if before != after {
            if let Some(slot) = before {
                self.heads.remove(&slot);
            }
            self.heads.extend(after);
        }
        if empty {
            self.members.remove(&group);
        }
    }
}

impl Shard {
    /// A message was put where it is ready, or not.
    pub(super) fn joined(&mut self, slot: Slot, group: u64, ready: bool) {
        if self.settings.fifo {
            self.groups.insert(group, slot, ready);
        }
    }

    /// A message was taken from where it was.
    pub(super) fn left(&mut self, slot: Slot, group: u64) {
        if self.settings.fifo {
            self.groups.remove(group, slot);
        }
    }

    /// The setting has changed: every message finds its place, or none is kept.
    pub(super) fn regroup(&mut self) {
        self.groups = Groups::default();
        if !self.settings.fifo {
            return;
        }
        while let Some(front) = self.fresh.pop_front() {
            let msg = Msg::fresh(&front, self.fresh_groups.remove(&front.slot).unwrap_or(0));
            self.expiring.insert((self.end_of(&msg), front.slot));
            self.returned.insert(front.slot, msg);
        }
        self.groups = self.grouped();
    }

    /// The groups as the messages say.
    fn grouped(&self) -> Groups {
        let mut groups = Groups::default();
        for (map, ready) in [(&self.returned, true), (&self.leased, false), (&self.delayed, false)] {
            map.iter().for_each(|(&slot, msg)| groups.insert(msg.group, slot, ready));
        }
        groups
    }

    /// Whether the groups are what the messages say, and groups of fresh messages are those of fresh messages.
    pub(super) fn groups_consistent(&self) -> bool {
        let expected = if self.settings.fifo { self.grouped() } else { Groups::default() };
        let fresh = self.fresh_groups.keys().all(|slot| self.fresh.contains(*slot));
        let as_expected = self.groups.members == expected.members && self.groups.heads == expected.heads;
        as_expected && fresh && (!self.settings.fifo || self.fresh.len() == 0)
    }
}
