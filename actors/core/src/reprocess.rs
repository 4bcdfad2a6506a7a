//! Bringing dead letters back in bulk: which ones, how many, how fast, and when to stop (SPEC §4, POST
//! /dlq/reprocess). A [`Task`] is a row of the store, written in the commit of what it moves, so that a crash
//! neither repeats nor forgets a message. Reads nothing itself.

use crate::ids::Slot;
use crate::message::{DeadLetter, MessageMeta};
use crate::shard::Buried;
use crate::time::Millis;
use serde::{Deserialize, Serialize};

/// Moved messages before [`Draft::stop_permille`] is judged.
const JUDGED_FROM: u64 = 20;
/// Of 1000 messages moved, how many may come back dead before a task stops by itself, if it does not say.
pub const STOP_PERMILLE: u32 = 500;
/// Tasks kept of a topic, the running one included.
pub const TASKS_KEPT: usize = 16;
/// Most messages moved by one commit.
pub const BATCH_MAX: usize = 256;

/// Which dead letters are meant: all that is given must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadFilter {
    /// The dead letter's reason.
    pub reason: Option<String>,
    /// Attributes of the message, by lower-case name.
    pub attrs: Vec<(String, String)>,
    /// Dead for at least this long, ms.
    pub older_than_ms: Option<u64>,
    /// Only these, ascending; `None` = any.
    pub slots: Option<Vec<Slot>>,
}

impl DeadFilter {
    /// What can be said without reading: whether it was dead at `as_of`, for long enough, and is named.
    #[must_use]
    pub fn wants(&self, buried: &Buried, as_of: Millis) -> bool {
        let named = self.slots.as_ref().is_none_or(|slots| slots.binary_search(&buried.slot).is_ok());
        let since = as_of.0.checked_sub(self.older_than_ms.unwrap_or(0));
        named && since.is_some_and(|since| buried.at.0 <= since)
    }

    /// Whether the dead letter's row must be read.
    #[must_use]
    pub fn reads_letters(&self) -> bool {
        self.reason.is_some()
    }

    /// Whether the message must be read.
    #[must_use]
    pub fn reads_messages(&self) -> bool {
        !self.attrs.is_empty()
    }

    /// Whether its reason is the one that is meant.
    #[must_use]
    pub fn wants_letter(&self, letter: &DeadLetter) -> bool {
        self.reason.as_ref().is_none_or(|reason| *reason == letter.reason)
    }

    /// Whether the message has all attributes that are meant.
    #[must_use]
    pub fn wants_message(&self, meta: &MessageMeta) -> bool {
        self.attrs.iter().all(|wanted| meta.attrs.contains(wanted))
    }
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Draft {
    /// Which dead letters.
    pub filter: DeadFilter,
    /// Most messages to move.
    pub limit: Option<u64>,
    /// Messages a second, at most.
    pub rate_per_s: Option<u32>,
    /// Stop when more than this many of 1000 that were moved are dead again.
    pub stop_permille: u32,
}

/// Where a task is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TaskState {
    /// It moves messages.
    Running,
    /// All that matched, or the limit, has been moved.
    Done,
    /// An operator ended it.
    Cancelled,
    /// Too many came back dead.
    Stopped,
}

/// One reprocessing, under way or over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// Its number in its topic, from 1.
    pub number: u64,
    /// What was asked for.
    pub draft: Draft,
    /// Where it is.
    pub state: TaskState,
    /// Dead letters that matched when it began; the limit does not count.
    pub matched: u64,
    /// Messages moved.
    pub moved: u64,
    /// Of those, how many died again: counted until the topic's next task begins.
    pub returned: u64,
    /// When it began: what died later is not its business.
    pub started: Millis,
    /// When it ended.
    pub ended: Option<Millis>,
    /// All dead letters up to here have been looked at.
    pub cursor: Option<Slot>,
    /// The last place of the topic when it began: who stands behind it was moved by it.
    pub from: (Slot, u32),
}

impl Task {
    /// A task that begins.
    #[must_use]
    pub fn begin(number: u64, draft: Draft, matched: u64, started: Millis, from: (Slot, u32)) -> Task {
        let state = TaskState::Running;
        Task {
            number,
            draft,
            state,
            matched,
            moved: 0,
            returned: 0,
            started,
            ended: None,
            cursor: None,
            from,
        }
    }

    /// Whether it goes on.
    #[must_use]
    pub fn runs(&self) -> bool {
        self.state == TaskState::Running
    }

    /// How many it may still move.
    #[must_use]
    pub fn room(&self) -> u64 {
        self.draft.limit.map_or(u64::MAX, |limit| limit.saturating_sub(self.moved))
    }

    /// Messages of one commit, and how long to wait after it, ms: the rate, cut into quarter seconds.
    #[must_use]
    pub fn pace(&self) -> (usize, u64) {
        let Some(rate) = self.draft.rate_per_s.map(|rate| u64::from(rate.max(1))) else {
            return (BATCH_MAX, 0);
        };
        let batch = (rate / 4).clamp(1, BATCH_MAX as u64);
        (batch as usize, (batch * 1_000).div_ceil(rate))
    }

    /// A commit moved `moved` messages, and all up to `cursor` have been looked at; `last` = there are no more.
    pub fn moved(&mut self, now: Millis, moved: u64, cursor: Option<Slot>, last: bool) {
        self.moved += moved;
        self.cursor = cursor.or(self.cursor);
        if last || self.room() == 0 {
            self.end(now, TaskState::Done);
        }
        self.judge(now);
    }

    /// `n` of those it moved are dead again.
    pub fn returned(&mut self, now: Millis, n: u64) {
        self.returned += n;
        self.judge(now);
    }

    /// Ends it, if it runs.
    pub fn end(&mut self, now: Millis, state: TaskState) {
        if self.runs() {
            (self.state, self.ended) = (state, Some(now));
        }
    }

    fn judge(&mut self, now: Millis) {
        let too_many = self.returned * 1_000 > self.moved * u64::from(self.draft.stop_permille);
        if self.moved >= JUDGED_FROM && too_many {
            self.end(now, TaskState::Stopped);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(limit: Option<u64>, rate_per_s: Option<u32>) -> Task {
        let draft = Draft { filter: DeadFilter::default(), limit, rate_per_s, stop_permille: STOP_PERMILLE };
        Task::begin(1, draft, 100, Millis(1_000), (Slot(9), 0))
    }

    #[test]
    fn all_that_is_given_must_hold() {
        let buried = Buried { slot: Slot(5), enqueued: Millis(1), at: Millis(400) };
        let wants = |older_than_ms, slots: Option<Vec<Slot>>| {
            DeadFilter { older_than_ms, slots, ..DeadFilter::default() }.wants(&buried, Millis(1_000))
        };
        assert!(wants(None, None) && wants(Some(600), Some(vec![Slot(1), Slot(5)])));
        assert!(!wants(Some(601), None) && !wants(Some(2_000), None) && !wants(None, Some(vec![Slot(4)])));
        let late = Buried { at: Millis(1_001), ..buried };
        assert!(!DeadFilter::default().wants(&late, Millis(1_000)), "it died after the task began");

        let attrs = vec![("k".to_owned(), "v".to_owned())];
        let filter = DeadFilter { reason: Some("boom".into()), attrs, ..DeadFilter::default() };
        let letter =
            |reason: &str| DeadLetter { reason: reason.into(), attempts: 1, last_error: None, at: Millis(1) };
        assert!(filter.wants_letter(&letter("boom")) && !filter.wants_letter(&letter("boo")));
        let meta = |value: &str| MessageMeta {
            attrs: vec![("a".into(), "b".into()), ("k".into(), value.into())],
            ..MessageMeta::default()
        };
        assert!(filter.wants_message(&meta("v")) && !filter.wants_message(&meta("w")));
    }

    #[test]
    fn it_ends_at_the_limit_or_when_nothing_is_left() {
        let mut limited = task(Some(5), None);
        limited.moved(Millis(2), 3, Some(Slot(3)), false);
        assert_eq!((limited.runs(), limited.room(), limited.cursor), (true, 2, Some(Slot(3))));
        limited.moved(Millis(3), 2, Some(Slot(5)), false);
        assert_eq!((limited.state, limited.ended), (TaskState::Done, Some(Millis(3))));
        limited.end(Millis(4), TaskState::Cancelled);
        assert_eq!(limited.state, TaskState::Done, "what is over stays as it ended");
        let mut all = task(None, None);
        all.moved(Millis(2), 0, None, true);
        assert_eq!(all.state, TaskState::Done);
    }

    #[test]
    fn it_stops_when_more_than_the_share_comes_back_but_not_before_twenty() {
        let mut few = task(None, None);
        few.moved(Millis(2), 19, None, false);
        few.returned(Millis(3), 19);
        assert!(few.runs());
        let mut half = task(None, None);
        half.moved(Millis(2), 20, None, false);
        half.returned(Millis(3), 10);
        assert!(half.runs(), "half is not more than half");
        half.returned(Millis(4), 1);
        assert_eq!((half.state, half.ended), (TaskState::Stopped, Some(Millis(4))));
        let mut never = task(None, None);
        never.draft.stop_permille = 1_000;
        never.moved(Millis(2), 20, None, false);
        never.returned(Millis(3), 20);
        assert!(never.runs());
    }

    #[test]
    fn a_rate_is_kept_over_a_second() {
        for rate in [1, 2, 3, 4, 7, 100, 1_000] {
            let (batch, wait_ms) = task(None, Some(rate)).pace();
            let a_second = batch as u64 * 1_000 / wait_ms;
            assert!(a_second <= u64::from(rate) && a_second * 3 >= u64::from(rate) * 2, "{rate}: {a_second}");
        }
        assert_eq!(task(None, None).pace(), (BATCH_MAX, 0));
    }
}
