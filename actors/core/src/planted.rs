//! Bugs that are planted on purpose, so that the simulation and its checkers can be checked themselves. Only in builds
//! with the feature `planted-bugs`, which the crate of the drills alone asks for: a release build of the node has
//! neither this module nor the branches. Off until a thread switches one on, for itself.

use std::cell::Cell;
use std::fmt;

/// In every binary that has planted bugs in it: what `.ci/no-planted-bugs` looks for.
const MARKER: &str = "this build has planted bugs in it; it is for drills only";

macro_rules! bugs {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What can be planted. One line each; the branch that it takes is where its name is used.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Bug {
            $($(#[$doc])* $name,)*
        }

        impl Bug {
            /// All of them.
            pub const ALL: &[Bug] = &[$(Bug::$name,)*];
        }
    };
}

bugs! {
    /// An ack is answered ok and never written: the message is back after a restart.
    AckForgotten,
    /// An extend is answered ok and moves no deadline.
    ExtendIgnored,
    /// A message is handed out once more than `max_attempts` allows.
    DeadTooLate,
    /// Only the first delivery of a batch ack is acked, the others are answered ok and come back (§4.2: acked = over).
    BatchAckTakesFirst,
    /// A receipt of an earlier delivery settles the newest one (§4.7: superseded = STALE_RECEIPT).
    StaleReceiptSettles,
    /// A nack repeated in another mode is answered ok (§4.7: only the same mode is).
    NackRepeatedInAnyMode,
    /// A nack that comes after its deadline counts the failure again (§4.7: no second failure counted).
    LateNackCountsTwice,
    /// A released message does not get its attempt back (§4.3).
    ReleaseCountsAttempt,
    /// A rejected message is dead with reason `rejected`, not with the one that its consumer gave (§4.3).
    RejectReasonLost,
    /// An extend gives the topic's visibility, not the one asked for: back too early or too late (§4.2, extend).
    ExtendUsesTopicVisibility,
    /// An extend is not written: after a restart its message is handed out at the deadline before (§4.1, §4.2).
    ExtendNotWritten,
    /// What a stream has extended no longer counts against its `max_inflight` (recv/stream: credit).
    StreamForgetsExtended,
    /// An entry of the journal is not synced: what was answered is lost with the power (§4.1).
    JournalNotSynced,
    /// After a crash the newest entry of the journal is passed over: what was answered is lost (§4.1).
    JournalEndsEarly,
    /// A purge of neighbours is written for the first of them: after a restart the others are back (§4.1, purge).
    PurgeWritesFirstOfRun,
    /// Sends at the same time do not see each other's room: more than `max_depth` messages (§4.10: no race).
    DepthForgetsReserved,
    /// A strict group hands out the next message while its head is in flight (§4.5).
    StrictGroupForgetsInFlight,
    /// A strict group hands out the next message while its head is delayed (§4.5).
    GroupPassesDelayedHead,
    /// A receive of many takes more than the room that is left: more than `max_inflight` in flight (§4.10).
    BatchPassesMaxInflight,
    /// A lease is over when the message's TTL is, before the deadline in the Envelope, and the message with it (§4.6).
    TtlEndsInFlight,
    /// A receive that waits is handed messages of a topic whose recv is paused (pause: answers empty).
    PauseIgnoredByWaiters,
    /// Messages without a TTL are handed out before older ones that have one (§4.5: FIFO).
    TtlMessageOvertaken,
    /// What was nacked and then found by recovery starts with no attempts again (§4.3: no counter falls).
    AttemptLostInCrash,
    /// Recovery takes the attempts for the hand-outs: after a release `delivery` falls, receipts repeat (§4.3, §4.7).
    DeliveryRebuiltFromAttempt,
    /// What was in flight is ready after a restart, before its deadline (§4.2: early, also across restarts).
    LeaseLostInCrash,
    /// What was nacked with a delay is ready after a restart, before the delay is over (§4.3).
    RetryDelayLostInCrash,
    /// Ready retention counts from the enqueue, not from the end of the delay: it eats delayed messages (§4.6).
    RetentionEatsDelayed,
    /// A reprocessing is not written: after a restart the message is dead again, and the task done (§4.1).
    ReprocessNotWritten,
    /// The same key with another payload is answered as a duplicate (§4.4: 409).
    OtherBodyIsDuplicate,
    /// A key of a provider is the same as one of the API: the second sender's message is not stored (§4.4: origin).
    OriginsShareKeys,
    /// A claim's own window is ignored for the topic's: dedup shorter than a provider's replay span (§4.4).
    ReplaySpanIgnored,
    /// A receipt of another topic of the tenant is taken: its ack is answered ok (§4.7: foreign = STALE_RECEIPT).
    ForeignReceiptTaken,
    /// A delay is cut to whole seconds: its message is ready too early (X-Delay-Ms).
    DelayInWholeSeconds,
    /// A retry after a failed commit is answered as the duplicate of a message that was never stored (§4.4, §4.13).
    DuplicateOfUncommitted,
    /// A start drops the keys of the current ten minutes: a retry after a restart is stored again (§4.4).
    DedupSweptTooFar,
    /// A key is forgotten with its message: a retry after the ack is stored again (§4.4: also after it was acked).
    DedupEndsWithMessage,
    /// A fold keeps the state of before: acks and attempts since the last fold are lost with a restart (§4.1, §4.3).
    FoldKeepsOlder,
    /// Making a chunk small drops what was never handed out, such as delayed messages (§4.2: nothing else ends it).
    RewriteDropsUndelivered,
    /// Recovery passes over one delta row: what one commit settled is not settled after a restart (§4.1).
    OldestDeltaSkipped,
    /// Places of messages that are gone are given again after a restart: an old receipt settles a new message (§4.7).
    PlacesGivenAgain,
    /// A commit whose transaction failed counts as done: what was answered 2xx is lost (§4.13).
    CommitErrorIgnored,
    /// A commit without new messages is not synced: acks and leases are lost when the power fails (§4.1).
    SettlesNotSynced,
    /// A deleted topic is back after a restart, with its settings and its keys (DELETE: the topic is gone).
    DeletedTopicReturns,
    /// An indeterminate commit is told as one without effect, though it may be there (§4.13: never "failed").
    IndeterminateSaidFailed,
    /// A settling that changes nothing is answered before the commit that it rests on, as a repeated ack (§4.1).
    RepeatAnsweredBeforeCommit,
    /// A message leaves by recv although the commit of its delivery failed: two have the same delivery (§4.1).
    DeliveredWithoutCommit,
    /// A topic that is loaded anew, after a restart or when parked, has the configured settings (PUT /settings, §4.1).
    SettingsLostOnLoad,
}

thread_local! {
    static ACTIVE: Cell<Option<Bug>> = const { Cell::new(None) };
}

impl Bug {
    /// The bug of this name, as [`fmt::Display`] writes it.
    #[must_use]
    pub fn parse(name: &str) -> Option<Bug> {
        Bug::ALL.iter().copied().find(|bug| bug.to_string() == name)
    }
}

impl fmt::Display for Bug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// Switches a bug on for all that this thread does from now on, and the one before it off.
pub fn plant(bug: Option<Bug>) {
    ACTIVE.set(bug);
}

/// Whether this thread has switched this bug on. Asked through [`crate::planted!`].
#[must_use]
pub fn is(bug: Bug) -> bool {
    std::hint::black_box(MARKER);
    ACTIVE.get() == Some(bug)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bug_at_a_time_and_in_one_thread() {
        assert!(!crate::planted!(AckForgotten));
        plant(Some(Bug::AckForgotten));
        assert!(crate::planted!(AckForgotten) && !crate::planted!(DeadTooLate));
        assert!(!std::thread::spawn(|| crate::planted!(AckForgotten)).join().unwrap());
        plant(None);
        assert!(!crate::planted!(AckForgotten));
        assert!(Bug::ALL.iter().all(|bug| Bug::parse(&bug.to_string()) == Some(*bug)));
    }
}
