//! One message, as far as the history tells of it: what was seen, what was done to it, and what may have become of it.

use crate::index::{At, Index, is_ack};
use crate::record::{Content, Delivered, How, Op, Queue, Seen, Settled, State};

/// A delivery.
#[derive(Debug)]
pub(crate) struct Got<'h> {
    pub(crate) begin: At,
    pub(crate) end: At,
    pub(crate) seen: &'h Delivered,
    /// The lease's length, as far as is known.
    pub(crate) lengths: Vec<u64>,
    pub(crate) dropped: bool,
    pub(crate) stream: Option<(u64, u64)>,
    pub(crate) era: usize,
}

impl Got<'_> {
    /// When it was leased at the earliest, and at the latest.
    pub(crate) fn leased(&self) -> (u64, u64) {
        let longest = self.lengths.iter().max().copied().unwrap_or(0);
        let shortest = self.lengths.iter().min().copied().unwrap_or(0);
        let earliest = self.seen.deadline.saturating_sub(longest).max(self.begin.ms);
        (earliest, self.seen.deadline.saturating_sub(shortest).min(self.end.ms))
    }
}

/// A try to settle a delivery.
#[derive(Debug)]
pub(crate) struct Try<'h> {
    pub(crate) begin: At,
    pub(crate) end: At,
    pub(crate) latest: usize,
    pub(crate) era: usize,
    pub(crate) how: &'h How,
    pub(crate) delivery: u64,
    /// `None` = not answered.
    pub(crate) result: Option<Settled>,
    pub(crate) refused: bool,
}

impl Try<'_> {
    pub(crate) fn may_act(&self) -> bool {
        !self.refused && matches!(self.result, None | Some(Settled::Ok))
    }

    pub(crate) fn is_ok(&self) -> bool {
        self.result == Some(Settled::Ok)
    }

    pub(crate) fn gives_back(&self) -> bool {
        matches!(self.how, How::Fail { .. } | How::Release { .. } | How::Reject { .. })
    }
}

/// Somebody looked.
#[derive(Debug)]
pub(crate) struct Sight<'h> {
    pub(crate) begin: At,
    pub(crate) end: At,
    pub(crate) era: usize,
    pub(crate) state: State,
    pub(crate) attempt: u64,
    pub(crate) delivery: Option<u64>,
    pub(crate) seen: Option<&'h Seen>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Life<'h> {
    pub(crate) id: &'h str,
    /// The id's: when it was enqueued, ms, and its place among all that were given.
    pub(crate) enqueued: u64,
    pub(crate) place: u64,
    pub(crate) queue: Queue,
    pub(crate) content: Option<Content>,
    /// It cannot have been stored before this record.
    pub(crate) from: usize,
    /// It was stored by then.
    pub(crate) known: At,
    /// The call that said that it stored it.
    pub(crate) stored: Option<(At, At)>,
    pub(crate) ram: bool,
    /// By era and delivery.
    pub(crate) gots: Vec<Got<'h>>,
    pub(crate) tries: Vec<Try<'h>>,
    pub(crate) sights: Vec<Sight<'h>>,
}

/// The first ten digits of an id: when it was enqueued, ms.
pub(crate) fn enqueued_of(id: &str) -> u64 {
    const DIGITS: &str = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";
    let digit = |c: char| DIGITS.find(c).unwrap_or(0) as u64;
    id.chars().take(10).fold(0, |time, c| (time << 5) | digit(c))
}

/// The last 64 bits of an id: its place among all that the store, and those before it, gave.
fn place_of(id: &str) -> u64 {
    const DIGITS: &str = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";
    let digit = |c: char| DIGITS.find(c).unwrap_or(0) as u64;
    id.chars().fold(0, |place, c| (place << 5) | digit(c))
}

impl<'h> Life<'h> {
    pub(crate) fn new(
        id: &'h str,
        queue: Queue,
        content: Option<Content>,
        from: usize,
        known: At,
    ) -> Life<'h> {
        Life {
            id,
            enqueued: enqueued_of(id),
            place: place_of(id),
            queue,
            content,
            from,
            known,
            stored: None,
            ram: false,
            gots: Vec::new(),
            tries: Vec::new(),
            sights: Vec::new(),
        }
    }

    /// Tries that may have acted on this delivery.
    pub(crate) fn tries_of(&self, era: usize, delivery: u64) -> impl Iterator<Item = &Try<'h>> {
        self.tries.iter().filter(move |one| one.delivery == delivery && one.era == era && one.may_act())
    }

    /// A later delivery than this one was in a client's hands before record `idx`.
    pub(crate) fn superseded(&self, era: usize, delivery: u64, idx: usize) -> bool {
        let later = |got: &Got<'_>| got.era == era && got.seen.delivery > delivery && got.end.idx < idx;
        self.gots.iter().any(later)
    }

    /// Not before this is the lease over by itself, for a reader at record `by`.
    pub(crate) fn floor(&self, got: &Got<'h>, by: usize) -> u64 {
        let mut floor = got.seen.deadline;
        let mut extends: Vec<&Try<'_>> = self.tries_of(got.era, got.seen.delivery).collect();
        extends.sort_by_key(|one| one.end.idx);
        for one in extends {
            let How::Extend { visibility_ms } = one.how else { continue };
            let new = one.begin.ms.saturating_add(*visibility_ms);
            if one.is_ok() && one.end.idx < by {
                // others that overlap with it may have been the last
                let overlaps = |other: &&Try<'_>| {
                    matches!(other.how, How::Extend { .. })
                        && other.begin.idx < one.end.idx
                        && other.latest > one.begin.idx
                };
                let alone = self.tries_of(got.era, got.seen.delivery).filter(overlaps).count() == 1;
                floor = if alone { new } else { floor.min(new) };
            } else if one.begin.idx < by {
                floor = floor.min(new);
            }
        }
        floor
    }

    /// Whether a nack, or the loss of its connection, may have given the delivery back before record `by`.
    pub(crate) fn may_be_given_back(&self, got: &Got<'h>, by: usize) -> bool {
        let given_back = |one: &Try<'_>| one.gives_back() && one.begin.idx < by;
        got.dropped || self.tries_of(got.era, got.seen.delivery).any(given_back)
    }

    /// Whether it may have been brought back from the dead between these records.
    pub(crate) fn may_be_revived(&self, index: &Index<'h>, from: usize, to: usize) -> bool {
        index.reprocessings(self.queue).any(|call| match call.op {
            Op::Reprocess { ids, .. } => {
                let named = ids.as_ref().is_none_or(|ids| ids.iter().any(|id| id == self.id));
                // a task goes on after its answer
                named && call.may_act() && call.begin.idx < to && (from == 0 || call.task_until(index) > from)
            }
            _ => false,
        })
    }

    /// Whether the ack may be what ended it.
    fn ends_it(&self, one: &Try<'h>) -> bool {
        let settled = |other: &Try<'_>| other.gives_back() && other.is_ok() && other.end.idx < one.begin.idx;
        is_ack(one.how)
            && one.may_act()
            && !self.superseded(one.era, one.delivery, one.begin.idx)
            && !self.tries_of(one.era, one.delivery).any(settled)
    }

    /// Whether it may be gone at a reader's record `by`.
    pub(crate) fn may_have_ended(&self, index: &Index<'h>, by: At) -> bool {
        self.tries.iter().any(|one| one.begin.idx < by.idx && self.ends_it(one))
            || self.may_be_removed(index, by)
            || self.may_be_expired(index, by)
    }

    /// Whether an operator, or the end of the process, may have ended it by then.
    pub(crate) fn may_be_removed(&self, index: &Index<'h>, by: At) -> bool {
        let by_operator = index.removals(self.queue).any(|call| {
            let hits = match call.op {
                Op::Purge { .. } | Op::Delete { .. } => true,
                Op::PurgeDead { ids, .. } => {
                    self.may_be_dead(index, call.latest)
                        && ids.as_ref().is_none_or(|ids| ids.iter().any(|id| id == self.id))
                }
                Op::Replace { id, .. } => id == self.id,
                _ => false,
            };
            hits && call.may_act() && call.begin.idx < by.idx && call.latest > self.from
        });
        let may_be_ram = self.ram || self.stored.is_none() && index.settings[&self.queue].ever(|s| s.ram);
        let with_process = may_be_ram && index.downs.iter().any(|down| *down < by.idx && *down > self.from);
        // stored after the snapshot that was put in place
        let before_it = |one: &crate::index::Restore| one.at.idx < by.idx && self.known.idx > one.from;
        by_operator || with_process || index.restores.iter().any(before_it)
    }

    fn may_be_expired(&self, index: &Index<'h>, by: At) -> bool {
        let item = self.content.and_then(|content| index.sendings.get(&content)).map(|one| one.item);
        let enqueued = self.enqueued;
        let ttl = item.and_then(|item| item.ttl_ms).is_some_and(|ttl| by.ms >= enqueued + ttl);
        let past = &index.settings[&self.queue];
        if ttl || by.ms < enqueued.saturating_add(past.least_retention) {
            return ttl;
        }
        let shortest = |field| past.least(field, self.from, by.idx);
        let retention = shortest(|s| s.retention_ms);
        let dead = shortest(|s| s.dlq_retention_ms);
        // ready retention counts from the end of the delay
        let ready = enqueued.saturating_add(item.map_or(0, |item| item.delay_ms));
        by.ms >= ready.saturating_add(retention)
            || by.ms >= enqueued.saturating_add(dead) && self.may_be_dead(index, by.idx)
    }

    /// Whether it may be a dead letter at record `by`.
    pub(crate) fn may_be_dead(&self, index: &Index<'h>, by: usize) -> bool {
        let handed_out = self.gots.iter().any(|got| got.begin.idx < by);
        handed_out || index.lost_receives(self.queue).any(|call| call.may_act() && call.begin.idx < by)
    }

    /// The first record by which it was certainly gone, and when: an ack of it was answered ok, or its topic was
    /// deleted.
    pub(crate) fn gone(&self, index: &Index<'h>) -> Option<At> {
        let acked = self.tries.iter().filter(|one| is_ack(one.how) && one.is_ok()).map(|one| one.end);
        let deleted = index.removals(self.queue).filter(|call| {
            matches!(call.op, Op::Delete { .. }) && call.is_done() && self.known.idx < call.begin.idx
        });
        acked.chain(deleted.map(|call| call.end)).min_by_key(|at| at.idx)
    }
}
