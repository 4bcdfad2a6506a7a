//! Why a request was refused.

use crate::ids::Kid;
use crate::reason::{Reason, Refusal};
use std::borrow::Cow;

/// Why a request was refused, for audit, metrics and the test vectors. Clients see the [`Reason`] only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RejectReason {
    /// A header that the scheme needs was not sent.
    MissingHeader,
    /// The signature does not begin as the scheme says.
    BadPrefix,
    /// The signature is not in the scheme's encoding.
    BadEncoding,
    /// A header is repeated, unprintable, or not in the scheme's syntax.
    MalformedHeader,
    /// The time is not written as the scheme says.
    BadTimestamp,
    /// The time is outside the tolerance.
    Stale,
    /// No configured secret made this signature.
    SignatureMismatch,
    /// A configured secret made this signature, outside the time in which it is accepted.
    SecretOutOfTime,
    /// A signed challenge that is not safe to send back.
    BadChallenge,
    /// A challenge by GET that is not this provider's, or with the wrong token.
    ChallengeDenied,
    /// Not a method that this provider uses.
    BadMethod,
    /// A signed value of the body is missing, repeated, or holds what it must not.
    MissingField,
    /// A version or algorithm that the scheme does not allow.
    UnsupportedAlgorithm,
    /// The signer's certificate is said to be where the vendor has none.
    CertUrlDenied,
    /// Signed by the vendor, for a customer that is not one of the configured.
    BadPrincipal,
    /// A token for somebody else.
    BadAudience,
    /// Signed for another URL.
    UrlMismatch,
    /// Signed for another body.
    BodyHashMismatch,
    /// Nothing says which body was signed.
    BodyHashMissing,
    /// Key material that would be needed is not there.
    CannotVerify,
}

impl RejectReason {
    /// The name as audit records and vector files have it.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            RejectReason::MissingHeader => "MISSING_HEADER",
            RejectReason::BadPrefix => "BAD_PREFIX",
            RejectReason::BadEncoding => "BAD_ENCODING",
            RejectReason::MalformedHeader => "MALFORMED_HEADER",
            RejectReason::BadTimestamp => "BAD_TIMESTAMP",
            RejectReason::Stale => "STALE",
            RejectReason::SignatureMismatch => "SIGNATURE_MISMATCH",
            RejectReason::SecretOutOfTime => "SECRET_OUT_OF_TIME",
            RejectReason::BadChallenge => "BAD_CHALLENGE",
            RejectReason::ChallengeDenied => "CHALLENGE_DENIED",
            RejectReason::BadMethod => "BAD_METHOD",
            RejectReason::MissingField => "MISSING_FIELD",
            RejectReason::UnsupportedAlgorithm => "UNSUPPORTED_ALG",
            RejectReason::CertUrlDenied => "CERT_URL_DENIED",
            RejectReason::BadPrincipal => "BAD_PRINCIPAL",
            RejectReason::BadAudience => "BAD_AUDIENCE",
            RejectReason::UrlMismatch => "URL_MISMATCH",
            RejectReason::BodyHashMismatch => "BODY_HASH_MISMATCH",
            RejectReason::BodyHashMissing => "BODY_HASH_MISSING",
            RejectReason::CannotVerify => "CANNOT_VERIFY",
        }
    }

    /// What the client is told.
    #[must_use]
    pub const fn reason(self) -> Reason {
        match self {
            RejectReason::Stale => Reason::ReplayWindow,
            RejectReason::BadChallenge => Reason::Malformed,
            RejectReason::ChallengeDenied => Reason::PolicyBlocked,
            RejectReason::BadMethod => Reason::MethodNotAllowed,
            RejectReason::MissingHeader
            | RejectReason::BadPrefix
            | RejectReason::BadEncoding
            | RejectReason::MalformedHeader
            | RejectReason::BadTimestamp
            | RejectReason::SignatureMismatch
            | RejectReason::SecretOutOfTime
            | RejectReason::MissingField
            | RejectReason::UnsupportedAlgorithm
            | RejectReason::CertUrlDenied
            | RejectReason::BadPrincipal
            | RejectReason::BadAudience
            | RejectReason::UrlMismatch
            | RejectReason::BodyHashMismatch
            | RejectReason::BodyHashMissing
            | RejectReason::CannotVerify => Reason::SignatureInvalid,
        }
    }
}

/// A refused request: the failing step for audit, and the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// The failing step.
    pub why: RejectReason,
    /// What the client gets.
    pub refusal: Refusal,
    /// The configured secret that made the signature, if one did: for audit, never for the client.
    pub signer: Option<Kid>,
}

impl Rejection {
    pub(super) fn new(why: RejectReason, text: impl Into<Cow<'static, str>>) -> Rejection {
        Rejection { why, refusal: Refusal::new(why.reason(), text), signer: None }
    }

    /// Signed by a secret that is over, or has not begun.
    pub(super) fn out_of_time(kid: &Kid) -> Rejection {
        let text =
            "the signature is by a secret that is not accepted at this time; sign with the one in force";
        Rejection { signer: Some(kid.clone()), ..Rejection::new(RejectReason::SecretOutOfTime, text) }
    }
}
