//! What strangers are refused can be as much as they like: past a few a second it is only counted.

use super::entry::Kind;
use crate::time::Millis;

/// Refusals of strangers that are not recorded one by one: one kind, one reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fold {
    /// What they asked for.
    pub kind: Kind,
    /// Why they were refused.
    pub reason: &'static str,
    /// How many.
    pub count: u64,
    /// When the first one was, wall clock.
    pub since: Millis,
}

/// Lets the first refusals of each second be recorded and counts the rest. Bounded by the number of kinds and reasons.
#[derive(Debug)]
pub struct Folder {
    per_s: u32,
    /// Seconds of node time.
    second: u64,
    taken: u32,
    folded: Vec<Fold>,
}

impl Folder {
    /// Beyond `per_s` a second they are counted.
    #[must_use]
    pub const fn new(per_s: u32) -> Folder {
        Folder { per_s, second: 0, taken: 0, folded: Vec::new() }
    }

    /// A stranger is refused at `now` (node time), `wall`. Whether it is to be recorded; it is counted otherwise.
    pub fn take(&mut self, now: Millis, wall: Millis, kind: Kind, reason: &'static str) -> bool {
        let second = now.0 / 1000;
        if second != self.second {
            (self.second, self.taken) = (second, 0);
        }
        if self.taken < self.per_s {
            self.taken += 1;
            return true;
        }
        match self.folded.iter_mut().find(|fold| (fold.kind, fold.reason) == (kind, reason)) {
            Some(fold) => fold.count += 1,
            None => self.folded.push(Fold { kind, reason, count: 1, since: wall }),
        }
        false
    }

    /// What was counted and is to be recorded now. Asked once a second.
    pub fn due(&mut self) -> Vec<Fold> {
        std::mem::take(&mut self.folded)
    }
}
