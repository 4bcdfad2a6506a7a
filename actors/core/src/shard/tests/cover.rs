//! Counts how often each command met a message in each state, and demands that it happened often enough.

use super::msg::{M, NEVER, Place};
use crate::message::Settled;
use std::collections::BTreeMap;

/// Fewest times for a pair.
const ENOUGH: u64 = 100;

/// What a command finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum State {
    Absent,
    Gone,
    Fresh,
    FreshWithTtl,
    /// Never handed out, and another of its group stands before it.
    Behind,
    TimedOut,
    Failed,
    Released,
    Revived,
    DelayedFresh,
    DelayedFailed,
    DelayedReleased,
    Leased,
    /// Past its deadline, but no time has passed in the machine yet.
    Overdue,
    LeasedUncommitted,
    DeadUnsettled,
    DeadFailed,
    DeadReleased,
    DeadRejected,
}

const STATES: [State; 19] = [
    State::Absent,
    State::Gone,
    State::Fresh,
    State::FreshWithTtl,
    State::Behind,
    State::TimedOut,
    State::Failed,
    State::Released,
    State::Revived,
    State::DelayedFresh,
    State::DelayedFailed,
    State::DelayedReleased,
    State::Leased,
    State::Overdue,
    State::LeasedUncommitted,
    State::DeadUnsettled,
    State::DeadFailed,
    State::DeadReleased,
    State::DeadRejected,
];

/// Commands that name a delivery; each comes with the newest one and with another.
pub(super) const AIMED: [&str; 7] = ["ack", "fail", "release", "reject", "extend", "corrupt", "rotted"];
/// Commands that name messages.
pub(super) const NAMED: [&str; 3] = ["reprocess", "purge_dead", "replace"];
/// Commands that meet whatever is there.
const BROAD: [&str; 12] = [
    "recv",
    "stream",
    "open",
    "close",
    "tick",
    "enqueue",
    "cancel",
    "committed",
    "crash",
    "configure",
    "purge",
    "delete",
];

impl State {
    pub(super) fn of(m: &M, now: u64, uncommitted: bool, may_go: bool) -> State {
        match (m.place, m.settled) {
            (Place::Ready, Settled::No) if m.delivery == 0 && !may_go => State::Behind,
            (Place::Leased, _) if m.timed_out => State::TimedOut,
            (Place::Leased, _) if m.at <= now => State::Overdue,
            (Place::Leased, _) if uncommitted => State::LeasedUncommitted,
            (Place::Leased, _) => State::Leased,
            (Place::Ready, Settled::Failed) => State::Failed,
            (Place::Ready, Settled::Released) => State::Released,
            (Place::Ready, Settled::Revived) => State::Revived,
            (Place::Ready, _) if m.expires != NEVER => State::FreshWithTtl,
            (Place::Ready, _) => State::Fresh,
            (Place::Delayed, Settled::Failed) => State::DelayedFailed,
            (Place::Delayed, Settled::Released) => State::DelayedReleased,
            (Place::Delayed, _) => State::DelayedFresh,
            // a reprocessed message is handed out before it can die again
            (Place::Dead, Settled::No | Settled::Revived) => State::DeadUnsettled,
            (Place::Dead, Settled::Failed) => State::DeadFailed,
            (Place::Dead, Settled::Released) => State::DeadReleased,
            (Place::Dead, Settled::Rejected) => State::DeadRejected,
        }
    }

    /// Messages that were never handed out have no newest delivery, and one that never was meets nothing.
    fn can_meet(self, command: &str, newest: bool) -> bool {
        let never_out = matches!(
            self,
            State::Absent | State::Fresh | State::FreshWithTtl | State::Behind | State::DelayedFresh
        );
        let aimed = AIMED.contains(&command);
        let broad = BROAD.contains(&command);
        !(aimed && newest && never_out || broad && self == State::Absent)
    }
}

#[derive(Debug, Default)]
pub(super) struct Coverage {
    counts: BTreeMap<(State, &'static str, bool), u64>,
}

impl Coverage {
    pub(super) fn meet(&mut self, state: State, command: &'static str, newest: bool) {
        *self.counts.entry((state, command, newest)).or_default() += 1;
    }

    /// # Panics
    /// If a pair that can be met was met too rarely, or one that cannot was met; prints the table.
    pub(super) fn assert_complete(&self) {
        let mut table = String::new();
        let mut wrong = 0;
        for state in STATES {
            table += &format!("\n{:18}", format!("{state:?}"));
            let aimed = AIMED.iter().flat_map(|&command| [(command, true), (command, false)]);
            let others = NAMED.iter().chain(&BROAD).map(|&command| (command, true));
            for (command, newest) in aimed.chain(others) {
                let count = self.counts.get(&(state, command, newest)).copied().unwrap_or(0);
                let fine = if state.can_meet(command, newest) { count >= ENOUGH } else { count == 0 };
                wrong += u64::from(!fine);
                let mark = if fine { "" } else { "!" };
                let kind = if AIMED.contains(&command) && !newest { "/other" } else { "" };
                table += &format!(" {command}{kind}={mark}{count}");
            }
        }
        assert_eq!(wrong, 0, "pairs met too rarely (or impossible ones met):{table}");
    }
}
