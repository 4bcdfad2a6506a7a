//! What may be asked a second time without doing it twice (SPEC §4.4, §4.7). Pure.

use crate::error::Refused;
use std::time::Duration;

/// Refusals without a time of their own are repeated after this.
const RETRY_AFTER: Duration = Duration::from_millis(200);

/// What repeating a request would do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    /// The same as once: keys, receipts, and receives of which nothing came.
    Same,
    /// Perhaps a second message.
    Twice,
}

/// What becomes of a request when its connection breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It goes out again on the next connection.
    Again,
    /// Nobody can say whether it took effect.
    Unknown,
}

/// After a break. `handed_over` = all of its bytes were taken by the socket: before that the node has no whole request,
/// and so does nothing.
pub(crate) const fn after_break(effect: Effect, handed_over: bool) -> Fate {
    match (effect, handed_over) {
        (Effect::Same, _) | (Effect::Twice, false) => Fate::Again,
        (Effect::Twice, true) => Fate::Unknown,
    }
}

/// After a refusal: in which time it may be asked again; `None` if the answer would be the same, or the effect double.
pub(crate) fn after_refusal(effect: Effect, refused: &Refused) -> Option<Duration> {
    if !matches!(refused.code, 429 | 503) || (refused.effect_unknown && effect == Effect::Twice) {
        return None;
    }
    Some(refused.retry_after_ms.map_or(RETRY_AFTER, Duration::from_millis))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: u16, effect_unknown: bool, retry_after_ms: Option<u64>) -> Refused {
        Refused {
            code,
            reason: "X".to_owned(),
            text: String::new(),
            effect_unknown,
            retry_after_ms,
            corr_id: None,
        }
    }

    #[test]
    fn only_a_send_without_a_key_that_went_out_is_not_repeated() {
        assert_eq!(after_break(Effect::Same, true), Fate::Again);
        assert_eq!(after_break(Effect::Same, false), Fate::Again);
        assert_eq!(after_break(Effect::Twice, false), Fate::Again);
        assert_eq!(after_break(Effect::Twice, true), Fate::Unknown);
    }

    #[test]
    fn refusals_that_pass_are_repeated_in_their_time() {
        let after = |effect, refusal| after_refusal(effect, &refusal);
        assert_eq!(after(Effect::Twice, refused(429, false, Some(70))), Some(Duration::from_millis(70)));
        assert_eq!(after(Effect::Same, refused(503, true, Some(70))), Some(Duration::from_millis(70)));
        assert_eq!(after(Effect::Same, refused(503, true, None)), Some(RETRY_AFTER));
    }

    #[test]
    fn others_are_not_nor_what_may_have_been_stored() {
        for code in [400, 401, 403, 404, 409, 413, 500] {
            assert_eq!(after_refusal(Effect::Same, &refused(code, false, Some(1))), None, "{code}");
        }
        assert_eq!(after_refusal(Effect::Twice, &refused(503, true, Some(1))), None);
    }
}
