//! What is recorded: calls with their beginnings and ends, and what happened to the node meanwhile. One JSON line each.
//! The order of the records is the order of real time; `ms` is node time, which stored deadlines are in.

use serde::{Deserialize, Serialize};

/// A topic, by a number of the recorder's.
pub type Queue = u32;
/// A payload, by a number of the recorder's: two sends have the same number if their bytes are the same.
pub type Content = u64;

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Node time.
    pub ms: u64,
    /// What.
    pub event: Event,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// The settings of topics that have none of their own. Before all calls.
    Defaults(Settings),
    /// A client begins a call.
    Begin {
        /// Its number, used once.
        call: u64,
        /// What it asks for.
        op: Op,
    },
    /// It has its answer. A call without one was open when the node went down.
    End {
        /// Which call.
        call: u64,
        /// The answer.
        out: Out,
    },
    /// The process is gone, and what it kept in memory alone with it.
    Down,
    /// Nothing may expire from here on (`true`), or things do again.
    Held(bool),
    /// While the node was down its store was replaced by a snapshot.
    Restored {
        /// The call that took it.
        snapshot: u64,
    },
    /// No more faults: every topic is to be emptied, dead letters apart, within so many ms.
    Calm {
        /// From this record on.
        within_ms: u64,
    },
    /// Nothing is ready, delayed or in flight any more.
    Drained {
        /// Where.
        queue: Queue,
        /// All its dead letters.
        dead: Vec<String>,
    },
    /// Payloads of which bytes were found on the disk.
    OnDisk(Vec<Content>),
}

/// What a topic's settings are, or a change of them (`None` = as before). Times in ms.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Default lease.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub visibility_ms: Option<u64>,
    /// Hand-outs that count.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub max_attempts: Option<u64>,
    /// Hand-outs of any kind.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub max_deliveries: Option<u64>,
    /// How long a message may be ready.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub retention_ms: Option<u64>,
    /// How long a dead letter is kept.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub dlq_retention_ms: Option<u64>,
    /// How long a key is remembered.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub dedup_window_ms: Option<u64>,
    /// Strict order, 1 or 0.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub fifo: Option<u64>,
    /// Messages kept in memory alone, 1 or 0.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ram: Option<u64>,
    /// Most that may be ready, delayed and in flight.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub max_depth: Option<u64>,
    /// Most that may be in flight.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub max_inflight: Option<u64>,
    /// Receives find nothing, 1 or 0.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub paused: Option<u64>,
}

/// One message of a send.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// Its payload.
    pub content: Content,
    /// Of its bytes.
    pub hash: u64,
    /// Its idempotency key.
    pub key: Option<String>,
    /// Whose key that is; `None` = of the API.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub origin: Option<String>,
    /// How long it is remembered; `None` = as the topic's settings say.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub window_ms: Option<u64>,
    /// Its delay.
    pub delay_ms: u64,
    /// Its time to live.
    pub ttl_ms: Option<u64>,
    /// Its group.
    pub group: Option<String>,
}

/// One delivery, as its receipt names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// The message.
    pub id: String,
    /// Which hand-out.
    pub delivery: u64,
}

/// How deliveries are settled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// Done.
    Ack,
    /// The attempt failed; ready again after `delay_ms`, or after a backoff.
    Fail {
        /// Asked for.
        delay_ms: Option<u64>,
    },
    /// Given back.
    Release {
        /// Asked for.
        delay_ms: Option<u64>,
    },
    /// Never again.
    Reject {
        /// What the dead letter must say.
        reason: String,
    },
    /// So much from now.
    Extend {
        /// The new lease.
        visibility_ms: u64,
    },
}

/// Where a message is seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Can be received.
    Ready,
    /// Not yet.
    Delayed,
    /// Leased.
    Vis,
    /// A dead letter.
    Dlq,
    /// Of [`Op::Look`]: it has ended.
    Ended,
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Op {
    /// Messages in one batch.
    Send {
        /// Where.
        queue: Queue,
        /// Which.
        items: Vec<Item>,
    },
    /// Deliveries.
    Recv {
        /// Where.
        queue: Queue,
        /// The lease; `None` = the topic's.
        visibility_ms: Option<u64>,
        /// How long to wait for some.
        wait_ms: u64,
        /// Most messages.
        most: u64,
        /// The connection breaks before the answer is written.
        dropped: bool,
        /// The stream it is for, and how many that may hold.
        stream: Option<(u64, u64)>,
    },
    /// Ack, nack, extend.
    Settle {
        /// Where.
        queue: Queue,
        /// How.
        how: How,
        /// What.
        held: Vec<Held>,
    },
    /// Receipts of other topics, and at the end one that is none.
    Foreign {
        /// Where.
        queue: Queue,
        /// How many, that one included.
        receipts: u64,
    },
    /// Figures.
    Stat {
        /// Of which.
        queue: Queue,
    },
    /// A page, or a walk.
    Peek {
        /// Of which.
        queue: Queue,
        /// What is walked.
        state: State,
    },
    /// One message.
    Look {
        /// Of which topic.
        queue: Queue,
        /// Which.
        id: String,
    },
    /// End all but dead letters.
    Purge {
        /// Where.
        queue: Queue,
    },
    /// End dead letters.
    PurgeDead {
        /// Where.
        queue: Queue,
        /// These alone.
        ids: Option<Vec<String>>,
    },
    /// Store a message, and end a dead letter with it.
    Replace {
        /// Where.
        queue: Queue,
        /// Which.
        id: String,
        /// By what.
        item: Item,
    },
    /// End the topic.
    Delete {
        /// Which.
        queue: Queue,
    },
    /// Bring dead letters back, in a task.
    Reprocess {
        /// Where.
        queue: Queue,
        /// These alone.
        ids: Option<Vec<String>>,
    },
    /// End the task.
    Cancel {
        /// Where.
        queue: Queue,
    },
    /// Change settings, pause, resume.
    Configure {
        /// Of which.
        queue: Queue,
        /// To what.
        to: Settings,
    },
    /// Take a snapshot.
    Snapshot,
}

/// What became of one message of a send.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sent {
    /// Stored.
    Stored {
        /// As.
        id: String,
        /// In memory alone.
        ram: bool,
    },
    /// Its key was known.
    Duplicate {
        /// Of which.
        id: String,
    },
    /// Its key was known, with other bytes.
    Conflict,
    /// Refused.
    Full,
}

/// One delivery.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivered {
    /// The message.
    pub id: String,
    /// Its payload; `None` = nothing that anybody sent.
    pub content: Option<Content>,
    /// Of its bytes.
    pub hash: u64,
    /// Its key.
    pub key: Option<String>,
    /// When it was enqueued.
    pub enqueued: u64,
    /// Hand-outs that count.
    pub attempt: u64,
    /// All hand-outs.
    pub delivery: u64,
    /// End of the lease.
    pub deadline: u64,
}

/// A dead letter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Letter {
    /// Why.
    pub reason: String,
    /// When.
    pub at: u64,
}

/// One message of a page.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// The message.
    pub id: String,
    /// Its payload.
    pub content: Option<Content>,
    /// Of its bytes.
    pub hash: u64,
    /// When it was enqueued.
    pub enqueued: u64,
    /// Hand-outs that count.
    pub attempt: u64,
    /// All hand-outs; `None` where the answer does not say.
    pub delivery: Option<u64>,
    /// If it is dead.
    pub letter: Option<Letter>,
}

/// What became of one receipt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Settled {
    /// Done.
    Ok,
    /// Not yours any more.
    Stale,
    /// Not a receipt.
    Malformed,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Out {
    /// Of a send or a replacement: one a message.
    Sent(Vec<Sent>),
    /// Of a receive.
    Received(Vec<Delivered>),
    /// Of a settling: one a receipt.
    Settled(Vec<Settled>),
    /// Of a stat.
    Figures {
        /// Can be received.
        ready: u64,
        /// Not yet.
        delayed: u64,
        /// Leased.
        vis: u64,
        /// Dead letters.
        dlq: u64,
    },
    /// Of a peek.
    Page(Vec<Seen>),
    /// Of a look.
    Looked {
        /// Where it is.
        state: State,
        /// Hand-outs that count.
        attempt: u64,
    },
    /// There is no such topic or message.
    NotFound,
    /// Done, with how many messages that was.
    Done(u64),
    /// Refused, without effect.
    Refused(String),
    /// It may have been done, or may be done yet.
    Unknown(String),
}
