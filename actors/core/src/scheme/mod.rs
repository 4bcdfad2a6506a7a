//! Provider signatures (SPEC §7): a scheme is data, compiled once, then asked for a verdict on each request.
//!
//! ```text
//! SchemeSpec (TOML) --compile--> Scheme --with secrets--> ProviderRules --judge(request, now)--> Verdict
//! ```
//!
//! What holds here: raw bytes are verified before anything in them is parsed; which scheme applies is never
//! taken from the request; comparisons take constant time; a header that is read is printable and sent once;
//! what the signature does not cover decides nothing. No clock, no I/O, no logging, no secret in any error.

mod base;
mod body;
mod challenge;
mod checked;
mod compile;
mod compile_answers;
mod header;
mod judge;
mod jwt;
mod key;
mod private;
mod provider;
mod public;
mod reject;
mod sign;
mod spec;
mod spec_answers;
mod template;
#[cfg(test)]
mod tests;
pub mod vectors;
mod verify;

pub use base::Known;
pub use challenge::{CHALLENGE_BYTES_MAX, MAC_CHALLENGE_BYTES_MAX};
pub use header::{ASYMMETRIC_TRIES_MAX, FIELD_BYTES_MAX, HeaderList, LIST_ENTRIES_MAX};
pub use judge::{Accepted, Dedup, Field, Handshake, InboundRequest, Verdict};
pub use key::{SECRET_BYTES_MAX, SamplePair, Secret, SecretError, SigningKey};
pub use provider::{DEDUP_TTL_UNTIMED_S, ProviderRules, ProviderSpec};
pub use reject::{RejectReason, Rejection};
pub use sign::{SignError, Signed, ToSign};
pub use spec::{
    Algorithm, Coverage, Encoding, FieldSpec, KeyFormat, ListSpec, OneOrMany, SchemeSpec, TimeUnit,
    TimestampSpec,
};
pub use spec_answers::{
    AcceptWhenSpec, AlgorithmBySpec, ChallengeSpec, ConditionSpec, ConfirmSpec, HandshakeSpec, JwtSpec,
    KeyUrlSpec, Literal, PlaceSpec, ReplySpec, RequireSpec,
};

use crate::ids::Kid;
use body::Path;
use challenge::GetChallenge;
use header::HeaderName;
use jwt::{JwtAlgorithm, JwtRules};
use key::Uses;
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

/// A compiled scheme. Made by [`SchemeSpec::compile`].
#[derive(Debug, Clone)]
pub struct Scheme {
    name: String,
    signature: SignaturePlace,
    shape: Shape,
    algorithm: Algorithm,
    /// Which kinds of signature count; the scheme's own first.
    versions: Vec<Version>,
    algorithm_by: Option<(usize, Vec<(String, Algorithm)>)>,
    encoding: Encoding,
    base: Vec<Part>,
    url_ports: bool,
    query_hash: Option<String>,
    timestamp: Option<(TimePlace, TimeUnit)>,
    key_format: KeyFormat,
    require: Vec<(HeaderName, Vec<String>)>,
    key_url: Option<KeyUrl>,
    principal: Option<ValuePlace>,
    jwt: Option<JwtRules>,
    id: Option<FieldRule>,
    event_type: Option<FieldRule>,
    coverage: Coverage,
    /// Every path of the body that is read; rules hold places in this list.
    paths: Vec<Path>,
    form_field: Option<String>,
    accept: AcceptReply,
    accept_when: Vec<(Vec<Condition>, AcceptReply)>,
    handshakes: Vec<(Vec<Condition>, Answer)>,
    challenges: Vec<GetChallenge>,
    tolerance_s: u64,
    dedup_ttl_s: Option<u64>,
    vectors: Vec<String>,
}

/// Where the signature is.
#[derive(Debug, Clone)]
enum SignaturePlace {
    /// In one of these headers, or several.
    Headers(Vec<HeaderName>),
    /// A place in `Scheme::paths`.
    Json(usize),
}

impl SignaturePlace {
    fn shown(&self) -> String {
        match self {
            SignaturePlace::Headers(names) => match names.first() {
                Some(name) => format!("header `{}`", name.shown),
                None => "the header".to_owned(),
            },
            SignaturePlace::Json(_) => "the body".to_owned(),
        }
    }
}

/// A kind of signature.
#[derive(Debug, Clone)]
struct Version {
    /// Its key in a list.
    key: String,
    algorithm: Algorithm,
    /// What it is over, if not over the scheme's base.
    base: Option<Vec<Part>>,
}

/// Where the request says whose certificate signed it, and where such may be.
#[derive(Debug, Clone)]
struct KeyUrl {
    place: ValuePlace,
    hosts: Vec<String>,
    suffix: String,
}

/// Where a value of a request is.
#[derive(Debug, Clone)]
enum ValuePlace {
    Header(HeaderName),
    /// A place in `Scheme::paths`.
    Json(usize),
}

/// How signatures stand in their header.
#[derive(Debug, Clone)]
enum Shape {
    /// One, after a prefix.
    Single { prefix: String },
    /// Entries of (key, value); `names` is the key that lists the signed headers.
    List { separator: String, assign: String, names: Option<String> },
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
    /// Places in `Scheme::paths`: the first present one counts, or all with a text between.
    Json {
        places: Vec<usize>,
        join: Option<String>,
    },
    /// Fields of a form, the first present one counts.
    Form(Vec<String>),
    /// A claim of the token.
    Claim(String),
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
    /// Answer with the text at this place in `Scheme::paths`.
    Echo {
        place: usize,
        mac: Option<(Algorithm, Encoding)>,
        reply: AcceptReply,
    },
    /// Visit the URL at this place, if it is on one of these hosts.
    Confirm {
        place: usize,
        hosts: Vec<String>,
        reply: AcceptReply,
    },
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

    /// Whether our URL is signed, so that a provider needs a `public_url`.
    #[must_use]
    pub fn needs_public_url(&self) -> bool {
        self.parts().any(|part| matches!(part, Part::Url(_)))
            || self.jwt.as_ref().is_some_and(|jwt| jwt.url_hash.is_some())
    }

    /// Whether its signer is the same for all of the vendor's customers, so that a provider needs `principals`.
    #[must_use]
    pub fn needs_principals(&self) -> bool {
        self.principal.is_some()
            || self.jwt.as_ref().is_some_and(|jwt| jwt.principal.is_some())
            || self.parts().any(|part| *part == Part::Principal)
    }

    /// Whether its tokens name an audience.
    #[must_use]
    pub fn needs_audience(&self) -> bool {
        self.jwt.as_ref().is_some_and(|jwt| jwt.audience)
    }

    /// Whether duplicates are known by an id that is signed and unique.
    #[must_use]
    pub fn knows_by_id(&self) -> bool {
        self.id.as_ref().is_some_and(|id| id.signed && id.unique)
    }

    /// Whether GET requests are answered.
    #[must_use]
    pub fn has_challenges(&self) -> bool {
        !self.challenges.is_empty()
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

    /// Whether this header may hold its signature (in lower case).
    #[must_use]
    pub fn signs_in(&self, header: &str) -> bool {
        match &self.signature {
            SignaturePlace::Headers(names) => names.iter().any(|name| name.lower == header),
            SignaturePlace::Json(_) => false,
        }
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

    /// A throw-away secret made of 32 random bytes; `None` for schemes with RSA or ECDSA keys.
    #[must_use]
    pub fn sample_pair(&self, entropy: &[u8; 32]) -> Option<SamplePair> {
        SamplePair::from_entropy(entropy, self.key_format, self.uses())
    }

    fn parts(&self) -> impl Iterator<Item = &Part> {
        self.versions.iter().filter_map(|version| version.base.as_ref()).flatten().chain(&self.base)
    }

    /// Whether values of the body are needed before its signature can be checked.
    fn reads_body_first(&self) -> bool {
        matches!(self.signature, SignaturePlace::Json(_))
            || self.algorithm_by.is_some()
            || self.key_url.as_ref().is_some_and(|url| matches!(url.place, ValuePlace::Json(_)))
            || self.parts().any(|part| part.places().next().is_some())
            || (matches!(self.timestamp, Some((TimePlace::Json(_), _)))
                && self.base.contains(&Part::Timestamp))
    }

    fn has_mac_challenge(&self) -> bool {
        self.challenges.iter().any(|challenge| challenge.mac.is_some())
            || self.handshakes.iter().any(|(_, answer)| matches!(answer, Answer::Echo { mac: Some(_), .. }))
    }

    fn algorithms(&self) -> impl Iterator<Item = Algorithm> {
        let by = self.algorithm_by.iter().flat_map(|(_, by)| by.iter().map(|(_, algorithm)| *algorithm));
        self.versions.iter().map(|version| version.algorithm).chain(by)
    }

    fn uses(&self) -> Uses {
        let mut uses = Uses::default();
        for algorithm in self.algorithms() {
            match algorithm {
                Algorithm::Ed25519 => uses.ed25519 = true,
                Algorithm::EcdsaP256Sha256 => uses.p256 = true,
                Algorithm::RsaSha256 | Algorithm::RsaSha1 => uses.rsa = true,
                Algorithm::Jwt => {}
                _ => uses.shared = true,
            }
        }
        for (_, algorithm) in self.jwt.iter().flat_map(|jwt| &jwt.algorithms) {
            match algorithm {
                JwtAlgorithm::Hs(_) => uses.shared = true,
                JwtAlgorithm::Rs256 => uses.rsa = true,
                JwtAlgorithm::Es256 => uses.p256 = true,
            }
        }
        uses
    }
}
