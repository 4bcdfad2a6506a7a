//! The stable reason codes of every refusal (SPEC §3), and nothing about HTTP but the number they map to.

use serde::Serialize;
use std::borrow::Cow;

/// Why a request was refused. The list only grows; codes are never renamed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Reason {
    /// Does not parse, unknown field, bad, repeated or missing header, out of range.
    Malformed,
    /// Decompression ratio or size over the cap.
    DecompLimit,
    /// No capability, or it does not verify, or it is revoked.
    Unauth,
    /// Capability out of its time.
    ExpiredToken,
    /// Provider signature missing or wrong.
    SignatureInvalid,
    /// Timestamp outside the tolerance, or a known id with another body where the body is not signed.
    ReplayWindow,
    /// Capability valid, but not for this op, tenant, topic, size, address.
    ScopeMismatch,
    /// Policy denies; provider unknown or not enabled.
    PolicyBlocked,
    /// No such route, object or message.
    NotFound,
    /// The route exists, but not with this method.
    MethodNotAllowed,
    /// The body did not arrive in time.
    Timeout,
    /// The delivery is no longer the caller's.
    StaleReceipt,
    /// Same key, other body, inside the window.
    IdempotencyConflict,
    /// What is asked for cannot be while something else is under way, such as a second task of a topic.
    Conflict,
    /// Body over the limit (never truncated).
    BodyLimit,
    /// Content coding or type not allowed here.
    UnsupportedEncoding,
    /// Requests per second or quota.
    RateLimit,
    /// A bounded queue is full.
    Backpressure,
    /// Brownout, drain or pause sheds this write.
    Degraded,
    /// The store failed or is full.
    Storage,
    /// An actor or dependency this needs is down.
    DownstreamUnavailable,
    /// A bug; logged with the corr_id.
    Internal,
}

/// Whether a refused request may have taken effect (`X-Effect`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    /// Nothing happened.
    None,
    /// It may have happened: retry with the same idempotency key.
    Unknown,
}

impl Effect {
    /// The header's value.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Effect::None => "none",
            Effect::Unknown => "unknown",
        }
    }
}

impl Reason {
    /// Every reason, in the order of SPEC §3.
    pub const ALL: [Reason; 22] = [
        Reason::Malformed,
        Reason::DecompLimit,
        Reason::Unauth,
        Reason::ExpiredToken,
        Reason::SignatureInvalid,
        Reason::ReplayWindow,
        Reason::ScopeMismatch,
        Reason::PolicyBlocked,
        Reason::NotFound,
        Reason::MethodNotAllowed,
        Reason::Timeout,
        Reason::StaleReceipt,
        Reason::IdempotencyConflict,
        Reason::Conflict,
        Reason::BodyLimit,
        Reason::UnsupportedEncoding,
        Reason::RateLimit,
        Reason::Backpressure,
        Reason::Degraded,
        Reason::Storage,
        Reason::DownstreamUnavailable,
        Reason::Internal,
    ];

    /// The code as clients see it.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Reason::Malformed => "MALFORMED",
            Reason::DecompLimit => "DECOMP_LIMIT",
            Reason::Unauth => "UNAUTH",
            Reason::ExpiredToken => "EXPIRED_TOKEN",
            Reason::SignatureInvalid => "SIGNATURE_INVALID",
            Reason::ReplayWindow => "REPLAY_WINDOW",
            Reason::ScopeMismatch => "SCOPE_MISMATCH",
            Reason::PolicyBlocked => "POLICY_BLOCKED",
            Reason::NotFound => "NOT_FOUND",
            Reason::MethodNotAllowed => "METHOD_NOT_ALLOWED",
            Reason::Timeout => "TIMEOUT",
            Reason::StaleReceipt => "STALE_RECEIPT",
            Reason::IdempotencyConflict => "IDEMPOTENCY_CONFLICT",
            Reason::Conflict => "CONFLICT",
            Reason::BodyLimit => "BODY_LIMIT",
            Reason::UnsupportedEncoding => "UNSUPPORTED_ENCODING",
            Reason::RateLimit => "RATE_LIMIT",
            Reason::Backpressure => "BACKPRESSURE",
            Reason::Degraded => "DEGRADED",
            Reason::Storage => "STORAGE",
            Reason::DownstreamUnavailable => "DOWNSTREAM_UNAVAILABLE",
            Reason::Internal => "INTERNAL",
        }
    }

    /// The HTTP status. `BACKPRESSURE` on a webhook route is 503 instead (see `src/http/error.rs`).
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Reason::Malformed | Reason::DecompLimit => 400,
            Reason::Unauth | Reason::ExpiredToken | Reason::SignatureInvalid | Reason::ReplayWindow => 401,
            Reason::ScopeMismatch | Reason::PolicyBlocked => 403,
            Reason::NotFound => 404,
            Reason::MethodNotAllowed => 405,
            Reason::Timeout => 408,
            Reason::StaleReceipt | Reason::IdempotencyConflict | Reason::Conflict => 409,
            Reason::BodyLimit => 413,
            Reason::UnsupportedEncoding => 415,
            Reason::RateLimit | Reason::Backpressure => 429,
            Reason::Internal => 500,
            Reason::Degraded | Reason::Storage | Reason::DownstreamUnavailable => 503,
        }
    }

    /// The mailbox's `rejected_total{reason}` label; `None` where the reason is not counted there.
    #[must_use]
    pub const fn rejected_label(self) -> Option<&'static str> {
        match self {
            Reason::Unauth | Reason::ExpiredToken | Reason::ScopeMismatch | Reason::PolicyBlocked => {
                Some("auth")
            }
            Reason::RateLimit | Reason::Backpressure => Some("quota"),
            Reason::Degraded | Reason::DownstreamUnavailable => Some("degraded"),
            Reason::Storage => Some("storage"),
            Reason::Malformed
            | Reason::DecompLimit
            | Reason::SignatureInvalid
            | Reason::ReplayWindow
            | Reason::NotFound
            | Reason::MethodNotAllowed
            | Reason::Timeout
            | Reason::StaleReceipt
            | Reason::IdempotencyConflict
            | Reason::Conflict
            | Reason::BodyLimit
            | Reason::UnsupportedEncoding
            | Reason::Internal => None,
        }
    }

    /// Whether the request may have taken effect, when the node knows no better.
    #[must_use]
    pub const fn effect(self) -> Effect {
        match self {
            Reason::Storage | Reason::DownstreamUnavailable | Reason::Internal => Effect::Unknown,
            Reason::Malformed
            | Reason::DecompLimit
            | Reason::Unauth
            | Reason::ExpiredToken
            | Reason::SignatureInvalid
            | Reason::ReplayWindow
            | Reason::ScopeMismatch
            | Reason::PolicyBlocked
            | Reason::NotFound
            | Reason::MethodNotAllowed
            | Reason::Timeout
            | Reason::StaleReceipt
            | Reason::IdempotencyConflict
            | Reason::Conflict
            | Reason::BodyLimit
            | Reason::UnsupportedEncoding
            | Reason::RateLimit
            | Reason::Backpressure
            | Reason::Degraded => Effect::None,
        }
    }

    /// Whether the same request can succeed later; such answers carry `Retry-After`.
    #[must_use]
    pub const fn retryable(self) -> bool {
        matches!(self.status(), 429 | 503)
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.code())
    }
}

/// A refusal: the reason, a sentence for a person, and what a client may do next. It never holds a secret, a
/// token or a payload.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {text}")]
pub struct Refusal {
    /// The stable code.
    pub reason: Reason,
    /// A sentence that names the field and the fix.
    pub text: Cow<'static, str>,
    /// Milliseconds after which a retry makes sense; only for retryable reasons.
    pub retry_after_ms: Option<u64>,
    /// Whether the request may have taken effect.
    pub effect: Effect,
}

impl Refusal {
    /// A refusal with the reason's own effect, and a second's wait where a retry can help.
    pub fn new(reason: Reason, text: impl Into<Cow<'static, str>>) -> Refusal {
        let retry_after_ms = reason.retryable().then_some(1000);
        Refusal { reason, text: text.into(), retry_after_ms, effect: reason.effect() }
    }

    /// The same refusal, when the node knows that nothing happened.
    #[must_use]
    pub fn without_effect(mut self) -> Refusal {
        self.effect = Effect::None;
        self
    }

    /// The same refusal, asking for another wait.
    #[must_use]
    pub fn retry_after(mut self, ms: u64) -> Refusal {
        self.retry_after_ms = Some(ms);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serialises_as_its_code() {
        for reason in Reason::ALL {
            assert_eq!(serde_json::to_string(&reason).unwrap(), format!("\"{}\"", reason.code()));
        }
    }

    #[test]
    fn client_errors_never_have_an_effect() {
        for reason in Reason::ALL {
            if reason.status() < 500 {
                assert_eq!(reason.effect(), Effect::None, "{reason}");
            }
        }
    }
}
