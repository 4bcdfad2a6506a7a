//! What a scrub that finds damage does to the model.

use super::{Expect, Model, Place};
use crate::ids::Slot;

impl Model {
    pub(in crate::shard::tests) fn rotted(&mut self, now: u64, slot: Slot) -> Expect {
        let mut out = Expect::default();
        let waits = self.live.get(&slot.0).is_some_and(|m| match m.place {
            Place::Ready | Place::Delayed => true,
            Place::Leased => m.timed_out,
            Place::Dead => false,
        });
        if waits {
            self.die(now, slot.0, "integrity", None, &mut out);
        }
        self.pass_time(now, &mut out);
        out
    }
}
