//! Messages on their way to a consumer: leased and committed, but not yet written to a connection. If the
//! connection goes away first, they are released at once (SPEC §4.2).

use super::directory::Entry;
use super::messages::ShardMsg;
use ron_core::envelope::Delivered;
use ron_core::shard::{DeliveryRef, Leased};
use ron_core::time::Millis;
use std::sync::Arc;

/// Leases that nobody has taken over yet: dropping them gives the messages back.
#[derive(Debug)]
pub(crate) struct Granted {
    entry: Arc<Entry>,
    messages: Vec<Leased>,
}

impl Granted {
    pub(crate) fn new(entry: Arc<Entry>, messages: Vec<Leased>) -> Granted {
        Granted { entry, messages }
    }

    pub(crate) fn messages(&self) -> &[Leased] {
        &self.messages
    }

    /// The shell has dealt with this one in another way.
    pub(crate) fn drop_message(&mut self, index: usize) {
        self.messages.remove(index);
    }

    pub(crate) fn disarm(mut self) {
        self.messages.clear();
    }
}

impl Drop for Granted {
    fn drop(&mut self) {
        if self.messages.is_empty() {
            return;
        }
        let name = |message: &Leased| DeliveryRef { slot: message.slot, delivery: message.delivery };
        let deliveries = self.messages.iter().map(name).collect();
        // If the actor is down, the lease's own deadline gives them back.
        let _ = self.entry.handle.cast(ShardMsg::Unwanted { deliveries });
    }
}

/// Messages for a caller of `recv`. Dropping it before [`Delivery::written`] releases them.
#[derive(Debug, Default)]
pub struct Delivery {
    /// What goes into the answer.
    pub messages: Vec<Delivered>,
    pub(crate) granted: Option<Granted>,
}

impl Delivery {
    /// Whether messages were leased for it, and all of them ended before they could be read: a commit took longer than
    /// the lease and the messages' time. Then others may be ready.
    pub(crate) fn is_overtaken(&self) -> bool {
        self.granted.is_some() && self.messages.is_empty()
    }

    /// The first message has been handed to the connection: its lease stands, and the others are now first.
    pub fn first_written(&mut self) {
        self.drop_first();
    }

    /// Forgets the first messages as long as their leases have ended by `now`: somebody else may have them.
    pub fn drop_overdue(&mut self, now: Millis) {
        let ended = |granted: &Granted| granted.messages().first().is_some_and(|first| first.deadline <= now);
        while self.granted.as_ref().is_some_and(ended) {
            self.drop_first();
        }
    }

    fn drop_first(&mut self) {
        if let Some(granted) = self.granted.as_mut().filter(|granted| !granted.messages().is_empty()) {
            granted.drop_message(0);
            self.messages.remove(0);
        }
    }

    /// The answer has been handed to the connection: the leases stand.
    pub fn written(mut self) {
        if let Some(granted) = self.granted.take() {
            granted.disarm();
        }
    }
}
