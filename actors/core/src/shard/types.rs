//! What is asked of a shard, and what it answers.

use super::event::Event;
use super::settings::{Paused, Settings};
use crate::ids::Slot;
use crate::message::{PutOutcome, StateOp};
use crate::reason::{Reason, Refusal};
use crate::time::Millis;

/// Names a receive that waits for messages; given by the shell, unique in the shard's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WaiterId(pub u64);

/// Names a stream; given by the shell, unique in the shard's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u64);

/// Names one commit that the shell owes the shard, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// One delivery of one message, as a verified receipt names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DeliveryRef {
    /// Which message.
    pub slot: Slot,
    /// Which hand-out of it.
    pub delivery: u32,
}

/// How a nack gives a message back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NackMode {
    /// The attempt failed: retry with backoff, or dead-letter after the last one.
    Fail,
    /// Not processed: the attempt is given back, deliver again at once, at its old place.
    Release,
    /// Never retry: dead-letter now.
    Reject,
}

/// What a receive asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Want {
    /// 1..=256.
    pub max_messages: u32,
    /// Payload bytes; at least one message comes when one is ready, whatever this says.
    pub max_bytes: u64,
    /// The lease's length; `None` = the topic's.
    pub visibility_ms: Option<u64>,
}

/// What can be asked of a shard.
#[derive(Debug, Clone)]
pub enum Command {
    /// Reserve room for `count` messages. On success the step has a ticket; the messages become ready (or
    /// delayed) when [`super::Shard::committed`] brings their places.
    Enqueue {
        /// How many.
        count: u32,
    },
    /// Hand out messages, or wait for some until `until`.
    Recv {
        /// The caller's name for this receive.
        waiter: WaiterId,
        /// What it asks for.
        want: Want,
        /// When to answer empty; `now` or earlier = at once.
        until: Millis,
        /// The stream it is for: then it gets no more than that may hold, and waits where others are refused.
        stream: Option<StreamId>,
    },
    /// A consumer wants to receive again and again. Refused if there are too many of them.
    OpenStream {
        /// The caller's name for it.
        stream: StreamId,
        /// Most deliveries it holds unsettled.
        max_inflight: u32,
    },
    /// The stream is over. What it holds stays leased.
    CloseStream {
        /// Which stream.
        stream: StreamId,
    },
    /// The receive's caller went away before it was answered.
    CancelRecv {
        /// Which receive.
        waiter: WaiterId,
    },
    /// Done with these deliveries.
    Ack {
        /// Which, in the order of the request.
        deliveries: Vec<DeliveryRef>,
    },
    /// These deliveries are given back.
    Nack {
        /// Which, in the order of the request.
        deliveries: Vec<DeliveryRef>,
        /// How.
        mode: NackMode,
        /// Delay before the message is ready again, instead of the backoff (`Fail`) or of none (`Release`).
        delay_ms: Option<u64>,
        /// The consumer's error, or with `Reject` the reason of the dead letter.
        note: Option<String>,
        /// Random bits for the backoff's jitter.
        entropy: u64,
    },
    /// These deliveries need more time: `visibility_ms` from now.
    Extend {
        /// Which, in the order of the request.
        deliveries: Vec<DeliveryRef>,
        /// The new lease's length.
        visibility_ms: u64,
    },
    /// The record of this delivery failed its checksum: dead-letter it with reason `integrity`.
    Corrupt {
        /// Which.
        delivery: DeliveryRef,
    },
    /// A scrub found these records damaged: what is ready or delayed is dead-lettered with reason `integrity`. What a
    /// consumer has stays with it, since it has the bytes; if it comes back, the next delivery finds the damage.
    Rotted {
        /// Which messages.
        slots: Vec<Slot>,
    },
    /// The topic's settings and what is paused are now these.
    Configure {
        /// In force from now on, also for what is here already.
        settings: Settings,
        /// What is paused.
        paused: Paused,
    },
    /// End all messages that are ready, delayed or in flight. Not those whose enqueue is still owed a commit, and
    /// not dead letters.
    Purge,
    /// Make these dead letters ready again, in this order, behind all that is there. What is not a dead letter
    /// is passed over.
    Reprocess {
        /// Which.
        slots: Vec<Slot>,
    },
    /// End these dead letters. What is not a dead letter is passed over.
    PurgeDead {
        /// Which.
        slots: Vec<Slot>,
    },
    /// Reserve room for one message that takes the place of this dead letter, which ends in the same commit.
    Replace {
        /// Which.
        slot: Slot,
    },
    /// End everything that is here, dead letters and receives that wait included. The caller sees to it that no
    /// commit is owed, and that nothing comes after.
    Delete,
    /// Time has passed.
    Tick,
}

impl Command {
    /// Whether it may hand out messages, and so has to be told how many may be in flight
    /// ([`super::Shard::allow_in_flight`]). To no other command that may be told: receives that wait would go on
    /// waiting although there is room.
    #[must_use]
    pub const fn hands_out(&self) -> bool {
        !matches!(
            self,
            Command::Enqueue { .. }
                | Command::Replace { .. }
                | Command::CancelRecv { .. }
                | Command::OpenStream { .. }
                | Command::CloseStream { .. }
        )
    }
}

/// A message handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leased {
    /// Which message.
    pub slot: Slot,
    /// Hand-outs that count, this one included.
    pub attempt: u32,
    /// All hand-outs, this one included.
    pub delivery: u32,
    /// When the lease ends.
    pub deadline: Millis,
}

/// Messages for one waiting receive. Answered after the step's commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// Whose they are.
    pub waiter: WaiterId,
    /// At least one.
    pub messages: Vec<Leased>,
}

/// What the command's caller is told (for [`Command::Recv`], see [`Step::grants`] and
/// [`Step::empty_handed`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// Nothing to say (Recv that waits or was granted, CancelRecv, streams, Corrupt, Rotted, Tick).
    None,
    /// Room is reserved: send the messages with the step's ticket.
    Reserved,
    /// One result for each delivery of the request, in order.
    Settled(Vec<Result<(), Reason>>),
    /// How many messages were ended.
    Purged(u64),
    /// What became of a [`Command::Reprocess`].
    Reprocessed {
        /// How many are ready again.
        moved: u64,
        /// How many at the end of the list were not looked at, because the topic is full (`max_depth`).
        left: usize,
    },
    /// Refused as a whole; nothing changed.
    Refused(Refusal),
}

/// Why messages came back to ready or ended, for the metrics (SPEC §8).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Handed out.
    pub delivered: u64,
    /// Acked.
    pub acked: u64,
    /// Deadlines that passed (`visibility_timeouts_total`), whether requeued or dead-lettered.
    pub timeouts: u64,
    /// Back to ready because the deadline passed (`requeued_total{reason="visibility"}`).
    pub requeued_visibility: u64,
    /// Back to ready by nack `release` (`reason="nack"`).
    pub requeued_release: u64,
    /// Back by nack `fail`, with or without a delay (`reason="retry"`).
    pub requeued_retry: u64,
    /// Dead-lettered.
    pub dead: u64,
    /// Ended by their TTL or by the topic's retention, dead letters included.
    pub expired: u64,
    /// Ended by a purge, dead letters included.
    pub purged: u64,
    /// Dead letters that are ready again (`reprocessed_total`).
    pub revived: u64,
    /// Of `dead`: those that had been reprocessed, as far as [`super::Shard::watch_from`] says.
    pub dead_again: u64,
}

/// What one command changed.
#[must_use = "its ops must be committed and its callers answered"]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// To be made durable, in order.
    pub ops: Vec<StateOp>,
    /// Whether the topic's settings must be made durable with them.
    pub configured: bool,
    /// `Some` if the step owes a commit (it has ops, configured, or reserved room): the shell commits and then calls
    /// [`super::Shard::committed`] with it. Tickets come back in the order they were given.
    pub ticket: Option<Ticket>,
    /// For the command's caller. If [`super::Shard::uncommitted`] says so, it rides behind the pending
    /// commits.
    pub reply: Reply,
    /// Receives that got messages; answered after the commit.
    pub grants: Vec<Grant>,
    /// Receives whose time ran out, or that need not wait; answered empty, at once.
    pub empty_handed: Vec<WaiterId>,
    /// For the metrics.
    pub counts: Counts,
    /// For the messages' histories; true when the step is durable.
    pub events: Vec<Event>,
}

/// The figures of a topic (GET on its base). All durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Can be received now.
    pub ready: u64,
    /// Not before their due time.
    pub delayed: u64,
    /// In flight.
    pub vis: u64,
    /// In the dead-letter queue.
    pub dlq: u64,
    /// When the oldest ready message was enqueued, or reprocessed.
    pub oldest_enqueued: Option<Millis>,
    /// Messages held for receives that wait.
    pub waiters: u64,
}

/// Which messages a peek walks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PeekState {
    /// Ready now.
    Ready,
    /// Delayed.
    Delayed,
    /// In flight.
    Vis,
    /// Dead letters.
    Dlq,
}

/// A dead letter, as far as memory knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Buried {
    /// Which message.
    pub slot: Slot,
    /// When it was enqueued.
    pub enqueued: Millis,
    /// When it was dead-lettered.
    pub at: Millis,
}

/// One message of a peek page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peeked {
    /// Which message.
    pub slot: Slot,
    /// Hand-outs that count.
    pub attempt: u32,
    /// All hand-outs.
    pub delivery: u32,
    /// End of the lease, if it is in flight.
    pub deadline: Option<Millis>,
    /// The key to go on after it.
    pub sort_key: (u64, Slot),
}

/// The outcomes of a ticket's puts, as the store reports them.
pub type PutOutcomes<'a> = &'a [PutOutcome];

impl Step {
    pub(super) fn empty() -> Step {
        Step {
            ops: Vec::new(),
            configured: false,
            ticket: None,
            reply: Reply::None,
            grants: Vec::new(),
            empty_handed: Vec::new(),
            counts: Counts::default(),
            events: Vec::new(),
        }
    }
}
