//! What a shard's actor is told, and how it says no.

use super::closing::DeleteReply;
use super::fanout::{Brought, CopiesReply, SubscribeReply};
use super::loading::Loaded;
use super::tasks::DlqMsg;
use super::waiting::RecvReply;
use crate::kernel::admission::Permit;
use crate::store::{Copies, StoreError, UnitFailure};
use ron_core::fanout::Edit;
use ron_core::ids::Slot;
use ron_core::message::{MsgState, NewMessage, PutOutcome};
use ron_core::reason::{Effect, Reason, Refusal};
use ron_core::shard::{
    Command, DeliveryRef, Paused, PeekState, Peeked, Settings, Stats, StreamId, Ticket, TopicChange,
    Violation, WaiterId, Want,
};
use tokio::sync::oneshot;

/// What was done with an enqueue: one outcome a message.
pub type EnqueueReply = oneshot::Sender<Result<Vec<PutOutcome>, Refusal>>;
/// One result a delivery.
pub type SettleReply = oneshot::Sender<Result<Vec<Result<(), Reason>>, Refusal>>;
/// Depths, live idempotency keys, settings, what is paused.
pub type StatReply = oneshot::Sender<Result<(Stats, u64, Settings, Paused), Refusal>>;
/// Whether the stream is open.
pub type StreamReply = oneshot::Sender<Result<(), Refusal>>;
/// What is in force after a change.
pub type ConfigureReply = oneshot::Sender<Result<TopicInForce, Refusal>>;
/// How many messages were ended.
pub type PurgeReply = oneshot::Sender<Result<u64, Refusal>>;

/// What an operator's changes come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TopicInForce {
    /// The settings.
    pub settings: Settings,
    /// What is paused.
    pub paused: Paused,
}
/// One message's state, if it exists.
pub type LookReply = oneshot::Sender<Result<Option<MsgState>, Refusal>>;
/// One page.
pub type PeekReply = oneshot::Sender<Result<Vec<Peeked>, Refusal>>;

/// What a shard's actor is told.
pub enum ShardMsg {
    /// Store messages.
    Enqueue(Vec<NewMessage>, EnqueueReply, Permit),
    /// Hand out messages, or wait `wait_ms` for some.
    Recv {
        /// Unique in the entry's life.
        waiter: WaiterId,
        /// What is asked for.
        want: Want,
        /// How long to wait.
        wait_ms: u64,
        /// The stream it is for.
        stream: Option<StreamId>,
        /// Where they go.
        reply: RecvReply,
        /// Rides along until the answer; a stream keeps its own.
        permit: Option<Permit>,
    },
    /// A waiting receive's caller is gone.
    CancelRecv(WaiterId),
    /// A consumer wants to receive again and again, and to hold so many deliveries unsettled.
    OpenStream(StreamId, u32, StreamReply),
    /// That consumer is gone.
    CloseStream(StreamId),
    /// Settle deliveries: an Ack, Nack or Extend command.
    Settle(Command, SettleReply, Permit),
    /// Deliveries that never reached their consumer: released.
    Unwanted {
        /// Which.
        deliveries: Vec<DeliveryRef>,
    },
    /// Change the topic's settings, or pause it.
    Configure(TopicChange, ConfigureReply, Permit),
    /// End all messages that are not dead letters.
    Purge(PurgeReply, Permit),
    /// Something about its dead letters.
    Dlq(DlqMsg),
    /// Change the list of its subscribers.
    Subscribe(Edit, SubscribeReply, Permit),
    /// Take copies of another topic's messages.
    Copies(Box<Copies>, CopiesReply, Permit),
    /// Delete the topic.
    Delete(DeleteReply, Permit),
    /// The deletion's commit is done.
    Closed(Result<u64, UnitFailure>),
    /// Time has something to do here: be in memory.
    Wake,
    /// A record that failed its checksum.
    Corrupt(DeliveryRef),
    /// Records that a scrub found damaged.
    Rotted(Vec<Slot>),
    /// The figures.
    Stat(StatReply),
    /// A page of messages.
    Peek(PeekState, Option<(u64, Slot)>, usize, PeekReply),
    /// Where one message is.
    Look(Slot, LookReply),
    /// The store committed a ticket.
    Committed(Ticket, Vec<PutOutcome>),
    /// The store lost a ticket: load anew.
    Failed(UnitFailure),
    /// A load of this generation is done.
    Loaded(u64, Box<Result<Loaded, StoreError>>),
    /// Try to load again.
    Reload(u64),
    /// Time for the state machine; stale unless of this generation.
    Tick(u64),
    /// End, if nobody has used it for so many milliseconds: too many queues are awake.
    LeaveIfIdle(u64),
    /// Its own last message: everything that was sent to its address lies before it.
    Leave,
    /// Long polls end now, empty: the node drains.
    EndWaits,
    /// Check the invariants of the state machine, if it is in memory.
    Check(oneshot::Sender<Result<(), Violation>>),
    /// Fail: a drill wants to see the restart.
    Crash,
}

/// Refuses a command that cannot be served now.
pub(super) fn refuse(message: ShardMsg, refusal: &Refusal) {
    let refusal = refusal.clone();
    debug_assert_eq!(refusal.effect, Effect::None);
    match message {
        ShardMsg::Enqueue(_, reply, _) => drop(reply.send(Err(refusal))),
        ShardMsg::Recv { reply, .. } => drop(reply.send(Err(refusal))),
        ShardMsg::Settle(_, reply, _) => drop(reply.send(Err(refusal))),
        ShardMsg::OpenStream(_, _, reply) => drop(reply.send(Err(refusal))),
        ShardMsg::Configure(_, reply, _) => drop(reply.send(Err(refusal))),
        ShardMsg::Purge(reply, _) => drop(reply.send(Err(refusal))),
        ShardMsg::Delete(reply, _) => drop(reply.send(Err(refusal))),
        ShardMsg::Stat(reply) => drop(reply.send(Err(refusal))),
        ShardMsg::Peek(_, _, _, reply) => drop(reply.send(Err(refusal))),
        ShardMsg::Dlq(message) => message.refuse(refusal),
        ShardMsg::Subscribe(_, reply, _) => drop(reply.send(Err(refusal))),
        ShardMsg::Copies(_, reply, _) => reply.send(Brought::Not(refusal.reason)),
        ShardMsg::Look(_, reply) => drop(reply.send(Err(refusal))),
        ShardMsg::CancelRecv(_)
        | ShardMsg::CloseStream(_)
        | ShardMsg::Check(_)
        | ShardMsg::Unwanted { .. }
        | ShardMsg::Corrupt(_)
        | ShardMsg::Rotted(_)
        | ShardMsg::Closed(_)
        | ShardMsg::Committed(..)
        | ShardMsg::Failed(_)
        | ShardMsg::Loaded(..)
        | ShardMsg::Reload(_)
        | ShardMsg::Tick(_)
        | ShardMsg::LeaveIfIdle(_)
        | ShardMsg::Leave
        | ShardMsg::Wake
        | ShardMsg::EndWaits
        | ShardMsg::Crash => {}
    }
}

/// What a caller is told when the store did not commit.
pub(super) fn refusal(failure: UnitFailure) -> Refusal {
    let storage = Refusal::new(Reason::Storage, "the store failed; retry with the same idempotency key");
    match failure {
        UnitFailure::Indeterminate => storage,
        UnitFailure::NotTried => storage.without_effect(),
        UnitFailure::StaleEpoch => {
            Refusal::new(Reason::DownstreamUnavailable, "the queue is restarting; retry").without_effect()
        }
    }
}
