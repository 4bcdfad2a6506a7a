//! Falsifying what a model says was answered: a judge that does not notice is worth nothing.

use super::model::{Model, Msg, Place};
use super::told::Draft;
use bytes::Bytes;
use ron_core::time::Millis;
use std::sync::Arc;

/// A thing that can be falsified in a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lie {
    /// A message that was never acked is taken for acked: then the store brings back an acked one.
    Lost,
    /// Other bytes.
    Body,
    /// Another count of attempts.
    Attempt,
    /// Another count of deliveries.
    Delivery,
    /// Another end of a lease.
    Deadline,
    /// Another reason of a dead letter.
    Letter,
    /// Another first message of a key.
    Key,
}

impl Model {
    /// Falsifies one thing that was answered, to see that the judge notices; `false` if there is none of it.
    pub fn falsify(&mut self, what: Lie, now: Millis) -> bool {
        if what == Lie::Key {
            let live = self.keys.values_mut().find(|known| known.expires > now.plus(120_000));
            return live.map(|known| known.slot.0 += 1).is_some();
        }
        let fits = |msg: &Msg| match what {
            Lie::Lost | Lie::Body => true,
            Lie::Attempt | Lie::Delivery => msg.delivery > 0,
            Lie::Deadline => matches!(msg.place, Place::Leased(_)),
            Lie::Letter => matches!(msg.place, Place::Dead(_)),
            Lie::Key => false,
        };
        for all in self.shards.values_mut() {
            let Some(slot) = all.iter().find(|(_, msg)| fits(msg)).map(|(slot, _)| *slot) else { continue };
            if what == Lie::Lost {
                return all.remove(&slot).is_some();
            }
            let Some(msg) = all.get_mut(&slot).map(Arc::make_mut) else { continue };
            match (what, &mut msg.place) {
                (Lie::Attempt, _) => msg.attempt += 1,
                (Lie::Delivery, _) => msg.delivery += 1,
                (Lie::Deadline, Place::Leased(at)) => at.0 += 1,
                (Lie::Letter, Place::Dead(letter)) => letter.reason.push('x'),
                (_, _) => {
                    let (payload, meta) = (Bytes::from_static(b"another"), msg.draft.meta.clone());
                    let draft = Draft { payload, meta, delay_ms: 0, ttl_ms: None, claim: None };
                    msg.draft = Arc::new(draft);
                }
            }
            return true;
        }
        false
    }
}
