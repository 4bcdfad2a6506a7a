//! Strict order by group (SPEC §4.5): of each group only the first message may be handed out, and while that one is
//! in flight or delayed the others wait. First is who has the lowest place, so one that was reprocessed is the
//! last of its group. Kept only for topics that are set so; costs an entry a message.

use super::Shard;
use super::kept::{Msg, Place};
use crate::ids::Slot;
use std::collections::BTreeMap;

/// The messages of one group that are not dead, by their places, and whether each is ready.
type Members = BTreeMap<Place, (Slot, bool)>;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Groups {
    members: BTreeMap<u64, Members>,
    /// The first of each group, where it is ready.
    heads: BTreeMap<Place, Slot>,
}

fn ready_head(members: &Members) -> Option<(Place, Slot)> {
    let (&place, &(slot, ready)) = members.first_key_value()?;
    ready.then_some((place, slot))
}

impl Groups {
    pub(super) fn insert(&mut self, slot: Slot, msg: &Msg, ready: bool) {
        self.change(msg.group, |members| {
            members.insert(msg.place(), (slot, ready));
        });
    }

    pub(super) fn remove(&mut self, msg: &Msg) {
        self.change(msg.group, |members| {
            members.remove(&msg.place());
        });
    }

    /// Of those that may be handed out, the one that stands first.
    pub(super) fn first_ready(&self) -> Option<Slot> {
        self.heads.first_key_value().map(|(_, &slot)| slot)
    }

    fn change(&mut self, group: u64, how: impl FnOnce(&mut Members)) {
        let members = self.members.entry(group).or_default();
        let before = ready_head(members);
        how(members);
        let (after, empty) = (ready_head(members), members.is_empty());
        if before != after {
            if let Some((place, _)) = before {
                self.heads.remove(&place);
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
    pub(super) fn joined(&mut self, slot: Slot, msg: &Msg, ready: bool) {
        if self.settings.fifo {
            self.groups.insert(slot, msg, ready);
        }
    }

    /// A message was taken from where it was.
    pub(super) fn left(&mut self, msg: &Msg) {
        if self.settings.fifo {
            self.groups.remove(msg);
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
        let maps =
            [(&self.returned, true), (&self.revived, true), (&self.leased, false), (&self.delayed, false)];
        for (map, ready) in maps {
            map.iter().for_each(|(&slot, msg)| groups.insert(slot, msg, ready));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{PutOutcome, StoredAt};
    use crate::shard::{Command, Settings};
    use crate::time::Millis;

    /// A strict topic with two ready messages of different groups.
    fn strict() -> Shard {
        let mut shard = Shard::new(Settings { fifo: true, ..Settings::default() });
        let enqueued = Millis(10);
        let of =
            |slot| StoredAt { slot: Slot(slot), enqueued, len: 1, due: None, expires: None, group: slot };
        let step = shard.apply(enqueued, Command::Enqueue { count: 2 });
        let stored = [of(1), of(2)].map(PutOutcome::Stored);
        let _ = shard.committed(enqueued, step.ticket.unwrap(), &stored);
        assert!(shard.groups_consistent());
        shard
    }

    #[test]
    fn members_and_heads_must_both_be_what_the_messages_say() {
        let mut shard = strict();
        shard.groups.heads.clear();
        assert!(!shard.groups_consistent(), "no heads");
        let mut shard = strict();
        shard.groups.members.clear();
        assert!(!shard.groups_consistent(), "no members");
    }
}
