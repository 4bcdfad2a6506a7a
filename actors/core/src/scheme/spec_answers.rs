//! The parts of a scheme as written that name requirements, tokens, answers and challenges.

use super::spec::{Algorithm, Encoding, OneOrMany};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Where one value is. Exactly one of them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlaceSpec {
    /// A header.
    pub header: Option<String>,
    /// A path in the body.
    pub json: Option<String>,
    /// A claim of the token.
    pub claim: Option<String>,
    /// A parameter of the query.
    pub query: Option<String>,
}

/// See [`super::SchemeSpec::require`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RequireSpec {
    /// The header.
    pub header: String,
    /// What it must be, letter case aside; one of these.
    pub equals: OneOrMany,
}

/// See [`super::SchemeSpec::algorithm_by`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AlgorithmBySpec {
    /// The path in the body.
    pub json: String,
    /// Which algorithm each of its values stands for. Others are refused.
    pub values: BTreeMap<String, Algorithm>,
}

/// See [`super::SchemeSpec::key_url`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyUrlSpec {
    /// The header that holds the URL.
    pub header: Option<String>,
    /// The path in the body that holds it.
    pub json: Option<String>,
    /// The hosts it may be on; `*` stands for one label of at least three letters, digits and `-`.
    pub hosts: Vec<String>,
    /// What its path must end in.
    #[serde(default)]
    pub suffix: String,
}

/// See [`super::SchemeSpec::jwt`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JwtSpec {
    /// `HS256`, `HS384`, `HS512`, `RS256` and `ES256`, as many of them as the vendor uses. Never taken from the
    /// token alone.
    pub algorithms: Vec<String>,
    /// Who may have issued it; any, if empty.
    #[serde(default)]
    pub issuers: Vec<String>,
    /// Whether `aud` must be the provider's `audience`.
    #[serde(default)]
    pub audience: bool,
    /// The claim that holds the SHA-256 of the URL in hex.
    pub url_hash: Option<String>,
    /// The claim that holds the SHA-256 of the body.
    pub body_hash: Option<String>,
    /// How `body_hash` is written. Default `hex`.
    pub body_hash_encoding: Option<Encoding>,
    /// Whether `exp` may be missing (FusionAuth).
    #[serde(default)]
    pub timeless: bool,
    /// Claims that must be true: `email_verified`.
    #[serde(default)]
    pub is_true: Vec<String>,
}

/// A fixed answer.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplySpec {
    /// 200–299.
    pub status: Option<u16>,
    /// The body's type.
    pub content_type: Option<String>,
    /// The body. For `accept`, none means the node's own JSON (and nothing at all with 204).
    pub body: Option<String>,
}

/// See [`SchemeSpec::accept_when`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AcceptWhenSpec {
    /// All must hold.
    pub when: Vec<ConditionSpec>,
    /// The answer.
    pub reply: ReplySpec,
}

/// A test on the signed body.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConditionSpec {
    /// The path looked at.
    pub json: String,
    /// What it must be. Without it, it only has to be there.
    pub equals: Option<Literal>,
    /// It must not be there.
    #[serde(default)]
    pub absent: bool,
}

/// A value to compare with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Literal {
    /// `true` or `false`.
    Bool(bool),
    /// An integer.
    Int(i64),
    /// A text.
    Text(String),
}

/// A request that is answered at once: a challenge or a ping.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HandshakeSpec {
    /// All must hold; they read the signed body only.
    pub when: Vec<ConditionSpec>,
    /// The path of a challenge to send back: ≤512 printable bytes, never sniffed. Alone it is the answer's text.
    pub echo: Option<String>,
    /// How the challenge's MAC is written, where one is wanted: then it is ≤128 characters of
    /// `[A-Za-z0-9+/=_-]`, so that nothing a scheme signs can be had this way.
    pub mac: Option<Encoding>,
    /// The answer, if it is more than the challenge: `{challenge}` and `{mac}` stand for those.
    pub reply: Option<ReplySpec>,
    /// The path of a URL that is to be visited to confirm a subscription.
    pub confirm: Option<ConfirmSpec>,
}

/// See [`HandshakeSpec::confirm`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfirmSpec {
    /// The path in the signed body.
    pub json: String,
    /// As [`KeyUrlSpec::hosts`].
    pub hosts: Vec<String>,
}

/// A GET request that is answered though nothing signs it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChallengeSpec {
    /// Query parameters that must be this: `{ "hub.mode" = "subscribe" }`.
    #[serde(default)]
    pub query: BTreeMap<String, String>,
    /// The query parameter that must be one of the provider's `verify_tokens` (or `secrets`, without those).
    pub token: Option<String>,
    /// Where the challenge is: `query` or `header`.
    pub from: PlaceSpec,
    /// As [`HandshakeSpec::mac`].
    pub mac: Option<Encoding>,
    /// As [`HandshakeSpec::reply`].
    pub reply: Option<ReplySpec>,
}
