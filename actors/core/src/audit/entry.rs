//! What a record says, before it has its place in the chain.

use crate::capability::CapId;
use crate::ids::{CorrId, Kid, MessageId, ProviderName, Tenant, Topic};
use crate::time::Millis;
use serde::Serialize;
use std::borrow::Cow;
use std::net::IpAddr;

/// Longest `detail`, in characters; what is longer is cut.
pub const DETAIL_CHARS_MAX: usize = 256;

/// What a record is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A webhook.
    Webhook,
    /// A request to the mailbox, over HTTP, OAP/1 or the control socket.
    Api,
    /// An act that changes how the node works, by an operator or under the op `admin`.
    Operator,
    /// A policy was put in force, or refused.
    Policy,
    /// A capability or a key was revoked.
    Revocation,
    /// A key was made that makes all capabilities from then on.
    Rotation,
    /// A configuration was put in force, or refused.
    Config,
    /// New messages are shed, or accepted again.
    Brownout,
    /// The log itself: where a process began or ended it, and what was wrong with its file.
    Audit,
}

/// What was decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// It may be.
    Allow,
    /// It may not be, and was not.
    Deny,
    /// It was done.
    Done,
    /// It was tried, or was to be, and did not come about; `reason` says whether it may have in part.
    Failed,
    /// Whoever asked went away before it was decided, or before it was known: it may have been done.
    Unknown,
}

/// What a producer says of a decision. The chain adds number, link and hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Wall clock.
    pub at: Millis,
    /// Joins it to the caller's own records; `None` = no request caused it.
    pub corr_id: Option<CorrId>,
    /// The request.
    pub req_id: Option<u128>,
    /// What it is about.
    pub kind: Kind,
    /// A configured provider; never a name that a stranger sent.
    pub provider: Option<ProviderName>,
    /// Whose affair it is.
    pub tenant: Option<Tenant>,
    /// The capability that was shown. If `reason` is UNAUTH, only what it claims to be.
    pub cap_id: Option<CapId>,
    /// The key or secret that was used.
    pub kid: Option<Kid>,
    /// What [`super::content`] calls the body.
    pub content: Option<[u8; 32]>,
    /// What was decided.
    pub decision: Decision,
    /// A stable code: of [`crate::reason::Reason`], or one that docs/AUDIT.md lists.
    pub reason: &'static str,
    /// What only some records have.
    pub more: More,
}

/// What only some records say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct More {
    /// The step that refused it.
    pub step: Option<&'static str>,
    /// What was asked for.
    pub op: Option<Cow<'static, str>>,
    /// The topic.
    pub topic: Option<Topic>,
    /// The message that it became, or that it is a duplicate of.
    pub msg_id: Option<MessageId>,
    /// The sender's clock minus ours, ms.
    pub skew_ms: Option<i64>,
    /// An unsigned value took part in the decision.
    pub unsigned_decided: bool,
    /// A known event came with another signed body.
    pub id_conflict: bool,
    /// The provider is in shadow mode: the verdict had no effect.
    pub shadow: bool,
    /// Number of the policy or configuration.
    pub version: Option<u64>,
    /// How many decisions this record stands for; `None` = 1.
    pub count: Option<u64>,
    /// When the first of them was made, wall clock.
    pub since: Option<Millis>,
    /// The user at the other end of the control socket.
    pub uid: Option<u32>,
    /// The process there.
    pub pid: Option<i32>,
    /// The TCP peer.
    pub ip: Option<IpAddr>,
    /// A few words, at most [`DETAIL_CHARS_MAX`] characters; never of a payload.
    pub detail: Option<String>,
}

impl Entry {
    /// An entry about nobody yet.
    #[must_use]
    pub fn new(at: Millis, kind: Kind, decision: Decision, reason: &'static str) -> Entry {
        Entry {
            at,
            corr_id: None,
            req_id: None,
            kind,
            provider: None,
            tenant: None,
            cap_id: None,
            kid: None,
            content: None,
            decision,
            reason,
            more: More::default(),
        }
    }

    /// The same with a few words, cut to what a record may have.
    #[must_use]
    pub fn detail(mut self, text: &str) -> Entry {
        self.more.detail = Some(cut(text));
        self
    }
}

/// The first [`DETAIL_CHARS_MAX`] characters, control characters made visible.
#[must_use]
pub fn cut(text: &str) -> String {
    text.chars().take(DETAIL_CHARS_MAX).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
