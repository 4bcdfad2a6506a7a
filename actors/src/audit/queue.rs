//! What was said and is not written yet. Outlives the actor.

use ron_core::audit::Entry;
use std::collections::VecDeque;
use tokio::sync::oneshot;

/// Told when it is on the device, or why it is not.
pub(super) type Told = oneshot::Sender<Result<(), String>>;

/// Something that waits to be written.
#[derive(Debug)]
pub(super) struct Queued {
    /// `None` = only what is before it has to be.
    pub(super) entry: Option<Entry>,
    /// How many were dropped before it.
    pub(super) dropped: u64,
    /// Whoever waits for it.
    pub(super) told: Option<Told>,
    /// It is left out if nobody waits for it any more: then the act was not done.
    pub(super) intent: bool,
}

impl Queued {
    pub(super) fn act(entry: Entry, intent: bool, told: Told) -> Queued {
        Queued { entry: Some(entry), dropped: 0, told: Some(told), intent }
    }

    pub(super) fn flush(told: Told) -> Queued {
        Queued { entry: None, dropped: 0, told: Some(told), intent: false }
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Queue {
    waiting: VecDeque<Queued>,
    /// How many of them are no acts.
    plain: usize,
    plain_max: usize,
    dropped: u64,
}

impl Queue {
    pub(super) fn new(plain_max: usize) -> Queue {
        Queue { waiting: VecDeque::new(), plain: 0, plain_max, dropped: 0 }
    }

    /// Whether there was room.
    pub(super) fn push(&mut self, entry: Entry) -> bool {
        if self.plain >= self.plain_max {
            self.dropped += 1;
            return false;
        }
        self.plain += 1;
        let dropped = std::mem::take(&mut self.dropped);
        self.waiting.push_back(Queued { entry: Some(entry), dropped, told: None, intent: false });
        true
    }

    /// For what is never dropped: whoever sends it waits for it, so there are no more of them than connections.
    pub(super) fn push_act(&mut self, mut act: Queued) {
        if act.entry.is_some() {
            act.dropped = std::mem::take(&mut self.dropped);
        }
        self.waiting.push_back(act);
    }

    /// The oldest, at most so many.
    pub(super) fn take(&mut self, most: usize) -> Vec<Queued> {
        let n = self.waiting.len().min(most);
        let taken: Vec<Queued> = self.waiting.drain(..n).collect();
        self.plain -= taken.iter().filter(|queued| queued.told.is_none()).count();
        taken
    }
}
