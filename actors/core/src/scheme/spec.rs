//! A scheme as it is written: in `config/schemes/NAME.toml`, and in the node's own configuration under
//! `[interop.schemes.NAME]` (SPEC §7). Nothing is judged here; [`SchemeSpec::compile`] does that.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One provider's signature scheme as data. Every field but `algorithm` and `header` has a default.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SchemeSpec {
    /// How the signature is made.
    pub algorithm: Algorithm,
    /// The header that carries it, in the vendor's spelling. May contain `{prefix}`.
    pub header: String,
    /// What `{prefix}` in a header name stands for: `webhook-` or `svix-`, say.
    #[serde(default)]
    pub header_prefix: String,
    /// Text before the signature in its header: `sha256=`. Not for lists.
    #[serde(default)]
    pub prefix: String,
    /// How the signature is written. Needed by every algorithm but `token`.
    pub encoding: Option<Encoding>,
    /// What is signed: literals and `{timestamp}`, `{id}`, `{body}`, `{header:NAME}`; `{{` is a brace.
    /// Default `{body}`.
    pub base: Option<String>,
    /// Where the signed time is, if there is one.
    pub timestamp: Option<TimestampSpec>,
    /// Set if the header holds several signatures, or a signature among other values.
    pub list: Option<ListSpec>,
    /// How the configured secret is written. Default `utf8`; ed25519 needs `hex`, `base64` or `whsec`.
    pub key_format: Option<KeyFormat>,
    /// The event's id.
    pub id: Option<FieldSpec>,
    /// The event's type.
    #[serde(rename = "type")]
    pub event_type: Option<FieldSpec>,
    /// How much of the body the signature covers. Default `full`.
    #[serde(default)]
    pub body_coverage: Coverage,
    /// The form field that holds the JSON when the body is a form (GitHub and Slack: `payload`).
    pub form_field: Option<String>,
    /// The answer to an accepted event, where the provider is particular. Default: the node's own 202.
    pub accept: Option<ReplySpec>,
    /// Other answers for events whose signed body looks a certain way; the first that fits counts.
    #[serde(default)]
    pub accept_when: Vec<AcceptWhenSpec>,
    /// Signed requests that are answered and not enqueued; the first that fits counts.
    #[serde(default)]
    pub handshake: Vec<HandshakeSpec>,
    /// Default of the provider's `tolerance_s`, in seconds either way. 300 if unset.
    pub tolerance_s: Option<u64>,
    /// Default of the provider's `dedup_ttl`, in seconds: at least as long as the vendor retries.
    pub dedup_ttl_s: Option<u64>,
    /// Which providers' entries of the vector file prove this scheme.
    #[serde(default)]
    pub vectors: Vec<String>,
}

/// How a signature is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Algorithm {
    /// HMAC with SHA-256.
    HmacSha256,
    /// HMAC with SHA-1, for providers that still use it.
    HmacSha1,
    /// HMAC with SHA-512.
    HmacSha512,
    /// Ed25519 (RFC 8032), verified strictly.
    Ed25519,
    /// No signature: the header holds the shared secret itself. Covers nothing.
    Token,
}

/// How signature bytes are written in a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Encoding {
    /// Lower-case hex.
    Hex,
    /// Hex in either case.
    HexAnyCase,
    /// Base64 with canonical padding.
    Base64,
}

/// How a secret is written in the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeyFormat {
    /// The text itself is the key.
    Utf8,
    /// Hex in either case.
    Hex,
    /// Base64 with padding.
    Base64,
    /// Standard Webhooks: `whsec_` and base64 (the prefix may be left out), or `whpk_` and a public key.
    Whsec,
}

/// How much of the body a signature covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Coverage {
    /// All of it: the base contains `{body}`.
    #[default]
    Full,
    /// Only what the base names.
    Partial,
    /// Nothing of it.
    None,
}

/// Where the time of the signature is. Exactly one of `header`, `key` and `json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TimestampSpec {
    /// A header of its own.
    pub header: Option<String>,
    /// A key of the signature's list: Stripe's `t`.
    pub key: Option<String>,
    /// A path in the signed body: Linear's `webhookTimestamp`.
    pub json: Option<String>,
    /// Default `s`.
    #[serde(default)]
    pub unit: TimeUnit,
}

/// How a time is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum TimeUnit {
    /// Seconds since the Unix epoch, ASCII digits only.
    #[default]
    #[serde(rename = "s")]
    Seconds,
    /// Milliseconds since the Unix epoch, ASCII digits only.
    #[serde(rename = "ms")]
    Millis,
    /// RFC 3339.
    #[serde(rename = "rfc3339")]
    Rfc3339,
}

/// A header that holds a list: `t=1,v1=aa,v1=bb` or `v1,aa v1a,bb`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListSpec {
    /// What stands between entries.
    pub separator: String,
    /// The key of entries that hold a signature. `v1=` is the same as `v1` with `assign = "="`.
    pub key: String,
    /// What stands between key and value. Default `=`.
    pub assign: Option<String>,
    /// Keys of signatures made by another algorithm: `{ v1a = "ed25519" }`.
    #[serde(default)]
    pub also: BTreeMap<String, Algorithm>,
}

/// Where a value is. Exactly one of `header` and `json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FieldSpec {
    /// A header.
    pub header: Option<String>,
    /// A path in the body (`event.type`), or several of which the first present one counts.
    pub json: Option<OneOrMany>,
    /// Whether the signature covers it. Found out from `base` if left out, checked against it if not.
    pub signed: Option<bool>,
    /// Whether it names one event and no other. Only a signed, unique id recognises duplicates.
    #[serde(default)]
    pub unique: bool,
}

/// A text or a list of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum OneOrMany {
    /// One.
    One(String),
    /// Several, in order of preference.
    Many(Vec<String>),
}

impl OneOrMany {
    /// All of them.
    #[must_use]
    pub fn as_slice(&self) -> &[String] {
        match self {
            OneOrMany::One(one) => std::slice::from_ref(one),
            OneOrMany::Many(many) => many,
        }
    }
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
    /// The path of a challenge to send back as text: ≤512 printable bytes, never sniffed.
    pub echo: Option<String>,
    /// The fixed answer, if nothing is echoed.
    pub reply: Option<ReplySpec>,
}
