//! The opaque cursors of peek: the state that is walked and the last sort key, so that they survive any change.

use ron_core::ids::Slot;
use ron_core::reason::{Reason, Refusal};
use ron_core::shard::PeekState;

const fn state_tag(state: PeekState) -> char {
    match state {
        PeekState::Ready => 'r',
        PeekState::Delayed => 'd',
        PeekState::Vis => 'v',
        PeekState::Dlq => 'x',
    }
}

/// The cursor of a walk through `state`, after its entry `(key, slot)`.
pub(super) fn write_cursor(state: PeekState, (key, slot): (u64, Slot)) -> String {
    format!("{}{key:x}-{:x}", state_tag(state), slot.0)
}

/// Where the walk goes on.
///
/// # Errors
/// MALFORMED: not a cursor of a walk through `state`.
pub(super) fn read_cursor(state: PeekState, text: &str) -> Result<(u64, Slot), Refusal> {
    let parse = || {
        let (key, slot) = text.strip_prefix(state_tag(state))?.split_once('-')?;
        Some((u64::from_str_radix(key, 16).ok()?, Slot(u64::from_str_radix(slot, 16).ok()?)))
    };
    parse().ok_or_else(|| Refusal::new(Reason::Malformed, "cursor: not one of this walk"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_round_trip_and_belong_to_their_state() {
        let text = write_cursor(PeekState::Vis, (7, Slot(99)));
        assert_eq!(read_cursor(PeekState::Vis, &text), Ok((7, Slot(99))));
        assert!(read_cursor(PeekState::Dlq, &text).is_err());
        assert!(read_cursor(PeekState::Vis, "vzz").is_err());
    }
}
