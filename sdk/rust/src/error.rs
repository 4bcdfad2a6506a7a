//! What can go wrong with a request.

use ron_core::oap;
use ron_core::reason::Reason;
use std::io;
use std::time::Duration;

/// Why a request was not answered as asked. No text of it holds a capability or a payload.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The connection could not be made, or broke: what was outstanding may have taken effect. Of a [`Client`] only the
    /// first connect fails so; afterwards it connects anew.
    ///
    /// [`Client`]: crate::Client
    #[error("the connection: {0}")]
    Io(#[from] io::Error),
    /// The node said no.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// What came is not what the protocol says.
    #[error("the peer does not speak the protocol: {0}")]
    Protocol(&'static str),
    /// The request makes no sense, and was not sent; the text names the field and the fix.
    #[error("{0}")]
    Invalid(String),
    /// The connection broke before the answer, and the send could not be repeated without risking a second message.
    #[error(
        "the connection broke before the answer came: unknown whether the message was stored; \
         give an idempotency key, or let the client make keys, and such sends are repeated"
    )]
    Unknown,
    /// No answer in the time that the caller has patience for. It may have taken effect, or may do so yet.
    #[error("no answer within {} ms{}", after.as_millis(), trouble.as_ref().map(|why| format!(" ({why})")).unwrap_or_default())]
    Timeout {
        /// The time.
        after: Duration,
        /// What stood in the way, if that is known.
        trouble: Option<String>,
    },
    /// The client has ended.
    #[error("the client has ended")]
    Closed,
}

/// A refusal (SPEC §3).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {text}{}", corr_id.as_ref().map(|id| format!(" (corr_id {id})")).unwrap_or_default())]
pub struct Refused {
    /// The status, as in HTTP.
    pub code: u16,
    /// The stable code, such as `BACKPRESSURE`.
    pub reason: String,
    /// A sentence that names the field and the fix.
    pub text: String,
    /// Whether it may have taken effect nevertheless.
    pub effect_unknown: bool,
    /// When a retry makes sense, ms.
    pub retry_after_ms: Option<u64>,
    /// Finds the request in the node's log; over OAP/1 the answer does not say it.
    pub corr_id: Option<String>,
}

impl Refused {
    pub(crate) fn new(code: u16, error: oap::Error) -> Refused {
        let oap::Error { reason, text, effect, retry_after_ms } = error;
        Refused { code, reason, text, effect_unknown: effect == "unknown", retry_after_ms, corr_id: None }
    }

    /// The refusal of one entry of a list, of which only the code is known.
    pub(crate) fn of_entry(reason: &str) -> Refused {
        let known = Reason::ALL.into_iter().find(|known| known.code() == reason);
        Refused {
            code: known.map_or(0, Reason::status),
            reason: reason.to_owned(),
            text: "this entry of the list was refused".to_owned(),
            effect_unknown: known.is_some_and(|known| known.effect().label() == "unknown"),
            retry_after_ms: None,
            corr_id: None,
        }
    }
}

impl Error {
    /// The same for another entry of the list that failed as a whole.
    pub(crate) fn same(&self) -> Error {
        match self {
            Error::Io(error) => Error::Io(error.kind().into()),
            Error::Refused(refused) => Error::Refused(refused.clone()),
            Error::Protocol(what) => Error::Protocol(what),
            Error::Invalid(text) => Error::Invalid(text.clone()),
            Error::Unknown => Error::Unknown,
            Error::Timeout { after, trouble } => Error::Timeout { after: *after, trouble: trouble.clone() },
            Error::Closed => Error::Closed,
        }
    }
}
