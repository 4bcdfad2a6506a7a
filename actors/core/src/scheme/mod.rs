//! Provider signatures (SPEC §7): a scheme is data, compiled once, then asked for a verdict on each request.
//!
//! ```text
//! SchemeSpec (TOML) --compile--> Scheme --with secrets--> ProviderRules --judge(request, now)--> Verdict
//! ```
//!
//! What holds here: raw bytes are verified before anything in them is parsed; which scheme applies is never
//! taken from the request; comparisons take constant time; a header that is read is printable and sent once;
//! what the signature does not cover decides nothing. No clock, no I/O, no logging, no secret in any error.

mod body;
mod compile;
mod header;
mod judge;
mod key;
mod sign;
mod spec;
mod template;
#[cfg(test)]
mod tests;
pub mod vectors;
mod verify;

pub use header::{ASYMMETRIC_TRIES_MAX, FIELD_BYTES_MAX, HeaderList, LIST_ENTRIES_MAX};
pub use judge::{
    Accepted, CHALLENGE_BYTES_MAX, DEDUP_TTL_UNTIMED_S, Dedup, Field, Handshake, InboundRequest,
    ProviderRules, ProviderSpec, Verdict,
};
pub use key::{SECRET_BYTES_MAX, SamplePair, Secret, SecretError, SigningKey};
pub use sign::{SignError, ToSign};
pub use spec::{
    AcceptWhenSpec, Algorithm, ConditionSpec, Coverage, Encoding, FieldSpec, HandshakeSpec, KeyFormat,
    ListSpec, Literal, OneOrMany, ReplySpec, SchemeSpec, TimeUnit, TimestampSpec,
};

use crate::ids::Kid;
use crate::reason::{Reason, Refusal};
use body::Path;
use header::HeaderName;
use key::Uses;
use std::borrow::Cow;
use template::Part;

/// Default tolerance of a signed time, in seconds either way, inclusive.
pub const TOLERANCE_S: u64 = 300;
/// Largest tolerance that may be configured, in seconds.
pub const TOLERANCE_S_MAX: u64 = 86_400;

/// One thing wrong with a scheme or a provider, by its key in the configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {text}")]
pub struct SchemeError {
    /// The key, relative to the scheme or provider: `timestamp.unit`.
    pub path: String,
    /// What is wrong and how to put it right.
    pub text: String,
}

impl SchemeError {
    pub(super) fn new(path: impl Into<String>, text: impl Into<String>) -> SchemeError {
        SchemeError { path: path.into(), text: text.into() }
    }
}

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
    /// A signed challenge that is not safe to send back.
    BadChallenge,
    /// Not a method that this provider uses.
    BadMethod,
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
            RejectReason::BadChallenge => "BAD_CHALLENGE",
            RejectReason::BadMethod => "BAD_METHOD",
        }
    }

    /// What the client is told.
    #[must_use]
    pub const fn reason(self) -> Reason {
        match self {
            RejectReason::Stale => Reason::ReplayWindow,
            RejectReason::BadChallenge => Reason::Malformed,
            RejectReason::BadMethod => Reason::MethodNotAllowed,
            RejectReason::MissingHeader
            | RejectReason::BadPrefix
            | RejectReason::BadEncoding
            | RejectReason::MalformedHeader
            | RejectReason::BadTimestamp
            | RejectReason::SignatureMismatch => Reason::SignatureInvalid,
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
}

impl Rejection {
    pub(super) fn new(why: RejectReason, text: impl Into<Cow<'static, str>>) -> Rejection {
        Rejection { why, refusal: Refusal::new(why.reason(), text) }
    }
}

/// A compiled scheme. Made by [`SchemeSpec::compile`].
#[derive(Debug, Clone)]
pub struct Scheme {
    name: String,
    signature: HeaderName,
    shape: Shape,
    algorithm: Algorithm,
    encoding: Encoding,
    base: Vec<Part>,
    timestamp: Option<(TimePlace, TimeUnit)>,
    key_format: KeyFormat,
    id: Option<FieldRule>,
    event_type: Option<FieldRule>,
    coverage: Coverage,
    /// Every path of the body that is read; rules hold places in this list.
    paths: Vec<Path>,
    form_field: Option<String>,
    accept: AcceptReply,
    accept_when: Vec<(Vec<Condition>, AcceptReply)>,
    handshakes: Vec<(Vec<Condition>, Answer)>,
    tolerance_s: u64,
    dedup_ttl_s: Option<u64>,
    vectors: Vec<String>,
}

/// How signatures stand in their header.
#[derive(Debug, Clone)]
enum Shape {
    /// One, after a prefix.
    Single { prefix: String },
    /// Entries of (key, value); `versions` are the keys that hold signatures, the scheme's own first.
    List { separator: String, assign: String, versions: Vec<(String, Algorithm)> },
}

#[derive(Debug, Clone)]
enum TimePlace {
    Header(HeaderName),
    /// A key of the signature's list.
    List(String),
    /// A place in `Scheme::paths`.
    Json(usize),
}

#[derive(Debug, Clone)]
struct FieldRule {
    place: FieldPlace,
    signed: bool,
    unique: bool,
}

#[derive(Debug, Clone)]
enum FieldPlace {
    Header(HeaderName),
    /// Places in `Scheme::paths`, the first present one counts.
    Json(Vec<usize>),
}

#[derive(Debug, Clone)]
struct Condition {
    path: usize,
    test: Test,
}

#[derive(Debug, Clone)]
enum Test {
    Present,
    Absent,
    Equals(Literal),
}

#[derive(Debug, Clone)]
enum Answer {
    Fixed(AcceptReply),
    /// Send back the text at this place in `Scheme::paths`.
    Echo(usize),
}

/// An answer with a status of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcceptReply {
    /// 200–299.
    pub status: u16,
    /// `Content-Type` and body, in place of the node's own JSON. An empty body has no type.
    pub body: Option<(Option<String>, String)>,
}

impl Scheme {
    /// The name it was compiled under.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How its secrets are written.
    #[must_use]
    pub fn key_format(&self) -> KeyFormat {
        self.key_format
    }

    /// Whether requests carry a time that the signature covers.
    #[must_use]
    pub fn has_signed_time(&self) -> bool {
        self.timestamp.is_some()
    }

    /// Default tolerance in seconds.
    #[must_use]
    pub fn tolerance_s(&self) -> u64 {
        self.tolerance_s
    }

    /// The providers whose vectors prove this scheme.
    #[must_use]
    pub fn vector_providers(&self) -> &[String] {
        &self.vectors
    }

    /// Parses one secret in the scheme's `key_format`.
    ///
    /// # Errors
    /// [`SecretError`], which never holds the secret.
    pub fn parse_secret(&self, kid: Kid, text: &str) -> Result<Secret, SecretError> {
        Secret::parse(kid, text, self.key_format, self.uses())
    }

    /// Parses what a sender signs with: the secret itself, or for ed25519 the private seed, in the same
    /// `key_format`.
    ///
    /// # Errors
    /// [`SecretError`], which never holds the secret.
    pub fn signing_key(&self, text: &str) -> Result<SigningKey, SecretError> {
        SigningKey::parse(text, self.key_format, self.uses())
    }

    /// A throw-away secret made of 32 random bytes.
    #[must_use]
    pub fn sample_pair(&self, entropy: &[u8; 32]) -> SamplePair {
        SamplePair::from_entropy(entropy, self.key_format, self.uses())
    }

    /// Whether the scheme looks at the header of this name (lower case). A caller need hand over no others.
    #[must_use]
    pub fn reads(&self, header: &str) -> bool {
        let time = match &self.timestamp {
            Some((TimePlace::Header(name), _)) => Some(name),
            _ => None,
        };
        let field = |rule: &Option<FieldRule>| match rule {
            Some(FieldRule { place: FieldPlace::Header(name), .. }) => name.lower == header,
            _ => false,
        };
        self.signature.lower == header
            || time.is_some_and(|name| name.lower == header)
            || field(&self.id)
            || field(&self.event_type)
            || self.base.iter().any(|part| matches!(part, Part::Header(name) if name.lower == header))
    }

    fn algorithms(&self) -> impl Iterator<Item = Algorithm> {
        let listed = match &self.shape {
            Shape::Single { .. } => &[][..],
            Shape::List { versions, .. } => versions,
        };
        std::iter::once(self.algorithm).chain(listed.iter().map(|(_, algorithm)| *algorithm))
    }

    fn uses(&self) -> Uses {
        Uses {
            shared: self.algorithms().any(|algorithm| algorithm != Algorithm::Ed25519),
            public: self.algorithms().any(|algorithm| algorithm == Algorithm::Ed25519),
        }
    }
}
