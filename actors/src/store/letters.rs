//! The rows beside a message's state: what its consumers said, and why it is dead.

use super::codec::{open, open_value, seal, seal_value};
use super::error::StoreError;
use super::schema::{DLQ, NOTE};
use super::txn::Txn;
use redb::ReadableTable;
use ron_core::ids::{ShardId, Slot};
use ron_core::message::{DeadLetter, StateOp};

/// The rows beside the delta: last errors and dead letters. Those of messages in memory alone are there too.
pub(super) fn write_letters(txn: &Txn, shard: ShardId, ops: &[StateOp]) -> Result<(), StoreError> {
    for op in ops.iter().filter(|op| !op.slot().is_ram()) {
        match op {
            StateOp::Set { slot, note: Some(note), .. } => {
                txn.open_table(NOTE)?.insert(slot.0, &seal(note.as_bytes()))?;
            }
            StateOp::Set { note: None, .. }
            | StateOp::Gone { noted: false, .. }
            | StateOp::GoneRun { .. } => {}
            StateOp::Dead { slot, state, letter } => {
                let mut letter = letter.clone();
                if letter.last_error.is_none() && state.noted {
                    letter.last_error = read_note(txn, *slot)?;
                }
                txn.open_table(DLQ)?.insert((shard.0, slot.0), &seal_value(&letter))?;
            }
            StateOp::Gone { slot, noted: true } => {
                txn.open_table(NOTE)?.remove(slot.0)?;
            }
            StateOp::DeadGone { slot } | StateOp::Revived { slot, .. } => {
                txn.open_table(NOTE)?.remove(slot.0)?;
                txn.open_table(DLQ)?.remove((shard.0, slot.0))?;
            }
        }
    }
    Ok(())
}

fn read_note(txn: &Txn, slot: Slot) -> Result<Option<String>, StoreError> {
    let notes = txn.open_table(NOTE)?;
    let Some(row) = notes.get(slot.0)? else { return Ok(None) };
    // A rotted note is no reason to keep a message out of the DLQ.
    Ok(open(row.value()).ok().map(|text| String::from_utf8_lossy(text).into_owned()))
}

/// Reads a dead letter's row.
pub(crate) fn dead_letter(row: &[u8]) -> Option<DeadLetter> {
    open_value(row).ok()
}
