//! What clients did and saw: the vocabulary of the journal and the input of the checker.
//!
//! An operation is one HTTP request. It is *ok* if its whole answer was read and says so, *refused* if the
//! answer is an error, *unknown* if the answer was not read to its end.

use crate::clock::Micros;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{self, BufRead};

/// The limits that the node was configured with, which the checker judges by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// The run's seed.
    pub seed: u64,
    /// Hand-outs that count before a message is dead-lettered.
    pub max_attempts: u32,
    /// Hand-outs of any kind before a message is dead-lettered.
    pub max_deliveries: u32,
    /// How long a key is remembered, ms.
    pub dedup_window_ms: u64,
    /// What every accepted send must say: `fsync` or `ram`.
    pub durability: String,
    /// Topics with one sequential sender and one sequential consumer that never gives a message back.
    pub fifo_topics: Vec<String>,
}

/// How a message was sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Route {
    /// `POST /enqueue`.
    Single,
    /// `POST /enqueue/batch`.
    Batch,
    /// Over OAP/1, alone or with others. The answer names no payload hash.
    Oap,
    /// `POST /webhooks/{provider}`.
    Webhook(String),
}

/// One message as the sender made it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    /// Names the message among all of the run; a retry keeps it, a conflicting send has its own.
    pub send: u64,
    /// What duplicates are recognised by, if anything: the idempotency key, the provider's id or the body.
    pub key: Option<String>,
    /// `b3:…` of the body.
    pub hash: String,
    /// The body's length.
    pub len: u64,
    /// As it must come out again.
    pub content_type: String,
    /// Attributes that must come out again.
    pub attrs: BTreeMap<String, String>,
    /// Delay asked for, ms.
    pub delay_ms: u64,
    /// Signed with a wrong secret: must never be accepted.
    pub forged: bool,
}

/// What is done with receipts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// Done.
    Ack,
    /// Given back.
    Nack {
        /// `fail`, `release` or `reject`.
        mode: String,
        /// Instead of the backoff, ms.
        delay_ms: Option<u64>,
        /// The consumer's error.
        reason: Option<String>,
    },
    /// More time, from now.
    Extend {
        /// How much, ms.
        visibility_ms: u64,
    },
}

/// What was asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "call")]
pub enum Call {
    /// One or more messages to one topic.
    Send {
        /// To where.
        topic: String,
        /// By which route.
        route: Route,
        /// The messages.
        sends: Vec<Sent>,
    },
    /// A receive.
    Recv {
        /// From where.
        topic: String,
        /// The lease asked for, ms.
        visibility_ms: u64,
        /// Most messages.
        max: u32,
        /// The long poll's length, ms.
        wait_ms: u64,
    },
    /// ack, nack or extend.
    Settle {
        /// Where.
        topic: String,
        /// What.
        how: How,
        /// Which deliveries.
        receipts: Vec<String>,
    },
    /// A complete walk over the dead letters.
    WalkDlq {
        /// Of which topic.
        topic: String,
    },
    /// The topic's figures.
    Stat {
        /// Of which topic.
        topic: String,
    },
}

impl Call {
    /// The topic it is about.
    #[must_use]
    pub fn topic(&self) -> &str {
        match self {
            Call::Send { topic, .. }
            | Call::Recv { topic, .. }
            | Call::Settle { topic, .. }
            | Call::WalkDlq { topic }
            | Call::Stat { topic } => topic,
        }
    }
}

/// The answer to one message of a send.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SendResult {
    /// Taken.
    Accepted {
        /// Its id.
        msg_id: String,
        /// Whether it was known.
        duplicate: bool,
        /// What the answer says of durability; webhooks say nothing.
        durability: Option<String>,
        /// The answer's payload hash; webhooks have none.
        hash: Option<String>,
    },
    /// Refused, with the reason's code.
    Refused(String),
}

/// One Envelope.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Got {
    /// The message.
    pub msg_id: String,
    /// This delivery.
    pub receipt: String,
    /// All hand-outs.
    pub delivery: u32,
    /// Hand-outs that count.
    pub attempt: u32,
    /// End of the lease.
    pub deadline: Micros,
    /// `b3:…` of the payload as it came.
    pub hash: String,
    /// What the Envelope says the hash is.
    pub stated_hash: String,
    /// The payload's length.
    pub len: u64,
    /// As it came.
    pub content_type: String,
    /// As they came.
    pub attrs: BTreeMap<String, String>,
}

/// One dead letter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dead {
    /// The message.
    pub msg_id: String,
    /// Hash, length, content type and attributes as they came.
    pub hash: String,
    /// The payload's length.
    pub len: u64,
    /// As it came.
    pub content_type: String,
    /// As they came.
    pub attrs: BTreeMap<String, String>,
    /// `dead_letter.reason`.
    pub reason: String,
    /// `dead_letter.attempts`.
    pub attempts: u32,
    /// Hand-outs of any kind.
    pub delivery: u32,
}

/// The figures of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Depths {
    /// Ready.
    pub ready: u64,
    /// Delayed.
    pub delayed: u64,
    /// In flight.
    pub vis: u64,
    /// Dead letters.
    pub dlq: u64,
    /// Live idempotency keys.
    pub dedup_keys: u64,
}

/// What came of an operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "outcome", content = "of")]
pub enum Outcome {
    /// A send's answers, in order.
    Sent(Vec<SendResult>),
    /// A receive's messages, in order.
    Got(Vec<Got>),
    /// A settling's answers, in order: `None` is ok, else the reason's code.
    Settled(Vec<Option<String>>),
    /// The dead letters, in order.
    Dead(Vec<Dead>),
    /// The figures.
    Figures(Depths),
    /// An error answer.
    Refused {
        /// Its status.
        status: u16,
        /// Its reason code.
        reason: String,
        /// Its `X-Effect`.
        effect: String,
        /// What is wrong with the error's form, if anything.
        fault: Option<String>,
    },
    /// A success that does not have the form that the contract names.
    Misformed(String),
    /// No connection: nothing was sent.
    NotSent,
    /// The answer was not read to its end.
    Unknown(String),
}

impl Outcome {
    /// Whether the request may or may not have taken effect.
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        match self {
            Outcome::Unknown(_) | Outcome::Misformed(_) => true,
            Outcome::Refused { effect, .. } => effect != "none",
            _ => false,
        }
    }
}

/// One request and what came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// Its number, in the order of invocation.
    pub op: u64,
    /// Just before its first byte was written.
    pub invoked: Micros,
    /// Just after its last byte was read, or when it was given up.
    pub done: Micros,
    /// What was asked.
    pub call: Call,
    /// What came of it.
    pub outcome: Outcome,
}

/// One line of the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "line")]
pub enum Line {
    /// The first line.
    Start(Limits),
    /// A request is about to be written.
    Invoke {
        /// Its number.
        op: u64,
        /// When.
        at: Micros,
        /// What.
        #[serde(flatten)]
        call: Call,
    },
    /// A request ended.
    Done {
        /// Its number.
        op: u64,
        /// When.
        at: Micros,
        /// How.
        #[serde(flatten)]
        outcome: Outcome,
    },
    /// The node was killed.
    Killed {
        /// When.
        at: Micros,
        /// Requests in flight.
        in_flight: u64,
        /// Those of them that are no receives.
        writes_in_flight: u64,
    },
    /// The node was ready.
    Ready {
        /// When.
        at: Micros,
        /// After its start, in microseconds.
        after: Micros,
    },
}

/// Everything that happened in a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    /// What the node promised.
    pub limits: Limits,
    /// All requests.
    pub operations: Vec<Operation>,
    /// When the node was killed.
    pub kills: Vec<Micros>,
}

/// Builds a [`History`] out of journal lines.
#[derive(Debug, Default)]
pub struct Gather {
    limits: Option<Limits>,
    open: BTreeMap<u64, (Micros, Call)>,
    operations: Vec<Operation>,
    kills: Vec<Micros>,
}

impl Gather {
    /// Takes the next line.
    pub fn line(&mut self, line: Line) {
        match line {
            Line::Start(limits) => self.limits = Some(limits),
            Line::Invoke { op, at, call } => {
                self.open.insert(op, (at, call));
            }
            Line::Done { op, at, outcome } => {
                if let Some((invoked, call)) = self.open.remove(&op) {
                    self.operations.push(Operation { op, invoked, done: at, call, outcome });
                }
            }
            Line::Killed { at, .. } => self.kills.push(at),
            Line::Ready { .. } => {}
        }
    }

    /// The history; `None` without a first line. A request that never ended is unknown for ever.
    #[must_use]
    pub fn finish(mut self) -> Option<History> {
        for (op, (invoked, call)) in std::mem::take(&mut self.open) {
            let outcome = Outcome::Unknown("never ended".to_owned());
            self.operations.push(Operation { op, invoked, done: Micros::MAX, call, outcome });
        }
        self.operations.sort_by_key(|operation| operation.op);
        Some(History { limits: self.limits?, operations: self.operations, kills: self.kills })
    }
}

/// Reads a journal file.
///
/// # Errors
/// I/O, and a line that is no journal line; a torn last line is one too.
pub fn read_journal(from: impl BufRead) -> io::Result<History> {
    let mut gather = Gather::default();
    for (number, line) in from.lines().enumerate() {
        let parsed = serde_json::from_str(&line?).map_err(|error| {
            io::Error::new(io::ErrorKind::InvalidData, format!("journal line {}: {error}", number + 1))
        })?;
        gather.line(parsed);
    }
    gather.finish().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the journal has no first line"))
}
