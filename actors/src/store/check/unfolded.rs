//! The state changes that no state row has yet.

use crate::store::codec::{Delta, open_value};
use crate::store::error::StoreError;
use crate::store::findings::Findings;
use crate::store::schema::DELTA;
use redb::{ReadTransaction, ReadableTable};
use ron_core::message::MsgState;
use std::collections::BTreeMap;

/// A change: the row that tells it, and the state; `None` = gone.
type Change = (u64, Option<MsgState>);

/// What the rows of changes say, kept from step to step: rows come at the end and go, once they are folded, at the
/// beginning, so a step has to read those alone that came since the last one.
#[derive(Debug, Default)]
pub(super) struct Unfolded {
    /// The newest change of each message, by chunk and place.
    changes: BTreeMap<u64, BTreeMap<u16, Change>>,
    /// Rows below this one are folded.
    first: u64,
    /// The first row that was not read yet.
    next: u64,
}

impl Unfolded {
    /// Brings it to what `txn` sees, which is no older than what the last one saw. Each row is read once, and
    /// named if it is damaged.
    pub(super) fn follow(
        &mut self,
        txn: &ReadTransaction,
        findings: &mut Findings,
    ) -> Result<(), StoreError> {
        let rows = txn.open_table(DELTA)?;
        let first = rows.first()?.map_or(u64::MAX, |(key, _)| key.value());
        if first > self.first {
            self.first = first.min(self.next); // an empty table says no more than that all is folded
            let since = self.first;
            self.changes.retain(|_, changes| {
                changes.retain(|_, (row, _)| *row >= since);
                !changes.is_empty()
            });
        }
        for row in rows.range(self.next..)? {
            let (key, value) = row?;
            let key = key.value();
            self.next = key + 1;
            let delta: Delta = match open_value(value.value()) {
                Ok(delta) => delta,
                Err(why) => {
                    findings.row("delta", key, why);
                    continue;
                }
            };
            findings.rows += 1;
            findings.bytes += value.value().len() as u64;
            for run in delta.runs {
                let idx = run.first.idx();
                let Some(end) = idx.checked_add(run.count).filter(|_| run.count > 0) else {
                    findings.row("delta", key, "a run leaves its chunk");
                    continue;
                };
                let changes = (idx..end).map(|idx| (idx, (key, run.state)));
                self.changes.entry(run.first.chunk()).or_default().extend(changes);
            }
        }
        Ok(())
    }

    /// The changes of a chunk, by place.
    pub(super) fn of(&self, chunk: u64) -> impl Iterator<Item = (u16, Option<MsgState>)> {
        self.changes.get(&chunk).into_iter().flatten().map(|(idx, (_, state))| (*idx, *state))
    }

    /// The change of one message, if there is one.
    pub(super) fn get(&self, chunk: u64, idx: u16) -> Option<Option<MsgState>> {
        self.changes.get(&chunk)?.get(&idx).map(|(_, state)| *state)
    }
}
