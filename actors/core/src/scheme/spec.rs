//! A scheme as it is written: in `config/schemes/NAME.toml`, and in the node's own configuration under
//! `[interop.schemes.NAME]` (SPEC §7). Nothing is judged here; [`SchemeSpec::compile`] does that.

use super::spec_answers::{
    AcceptWhenSpec, AlgorithmBySpec, ChallengeSpec, HandshakeSpec, JwtSpec, KeyUrlSpec, PlaceSpec, ReplySpec,
    RequireSpec,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One provider's signature scheme as data. Every field but `algorithm` and one that says where the signature is
/// has a default.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SchemeSpec {
    /// How the signature is made.
    pub algorithm: Algorithm,
    /// The header that carries it, in the vendor's spelling, or several, each of which may. `{prefix}` in a name
    /// stands for `header_prefix`, `{n}` for 1 to 100.
    pub header: Option<OneOrMany>,
    /// The path of the signature, where it is in the body instead (Mailgun, Amazon SNS).
    pub signature_json: Option<String>,
    /// What `{prefix}` in a header name stands for: `webhook-` or `svix-`, say.
    #[serde(default)]
    pub header_prefix: String,
    /// Text before the signature in its header: `sha256=`. Not for lists.
    #[serde(default)]
    pub prefix: String,
    /// How the signature is written. Needed by every algorithm but `token` and `jwt`.
    pub encoding: Option<Encoding>,
    /// What is signed: literals and variables; `{{` is a brace. Default `{body}`. The variables:
    ///
    /// * `{timestamp}`, `{id}`, `{header:NAME}`, `{body}` as sent; `{method}`;
    /// * `{url}`, our URL as the provider knows it (`public_url` and the query as sent), `{url_base}` without the
    ///   query, `{url_unescaped}` with the escapes undone that HubSpot undoes;
    /// * `{form}`, the form's fields sorted, name and value one after the other (Twilio); `{query_sorted}`;
    /// * `{body_sha256}` in hex, `{body_sha256_raw}` as bytes, `{body_crc32}` in digits;
    /// * `{json:PATH}`, a value of the body that holds none of the base's literals; `{text:PATH}`, any value;
    ///   either may end in `?`, then it may be missing;
    /// * `{lines:A,B*,C?}`, name and value on a line each: `*` may hold line ends, `?` may be missing;
    /// * `{principal}`, one of the provider's `principals`;
    /// * `{names}` and `{named_values}`, the headers that the signature's list names (`list.names`), and their
    ///   values with `.` between.
    pub base: Option<String>,
    /// Try `{url}` with its port left out, and with the usual one written out, as well (Twilio).
    #[serde(default)]
    pub url_ports: bool,
    /// The query parameter that, if sent, holds the body's SHA-256 in hex, and stands in for `{form}` (Twilio).
    pub query_hash: Option<String>,
    /// Where the signed time is, if there is one.
    pub timestamp: Option<TimestampSpec>,
    /// Set if the header holds several signatures, or a signature among other values.
    pub list: Option<ListSpec>,
    /// How the configured secret is written. Default `utf8`; public keys need another one.
    pub key_format: Option<KeyFormat>,
    /// Headers or values of the body that must say what is given here, or the request is not understood.
    #[serde(default)]
    pub require: Vec<RequireSpec>,
    /// The value of the body that chooses the algorithm among those given here (Amazon SNS).
    pub algorithm_by: Option<AlgorithmBySpec>,
    /// Where the request names the signer's certificate, and which hosts it may be on.
    pub key_url: Option<KeyUrlSpec>,
    /// The value that must be one of the provider's `principals`, for signers that all of a provider's customers
    /// share.
    pub principal: Option<PlaceSpec>,
    /// What a token must say, with `algorithm = "jwt"`.
    pub jwt: Option<JwtSpec>,
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
    /// GET requests that are answered; they are not signed.
    #[serde(default)]
    pub challenge: Vec<ChallengeSpec>,
    /// Default of the provider's `tolerance_s`, in seconds either way. 300 if unset.
    pub tolerance_s: Option<u64>,
    /// Default of the provider's `dedup_ttl`, in seconds: at least as long as the vendor retries.
    pub dedup_ttl_s: Option<u64>,
    /// Which providers' entries of the vector file prove this scheme: `provider`, or `provider/scheme` (or
    /// `/profile`).
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
    /// HMAC with SHA-384.
    HmacSha384,
    /// HMAC with SHA-512.
    HmacSha512,
    /// SHA-256 of the secret and then the base. Open to length extension; for old providers only.
    #[serde(rename = "sha256")]
    SecretDigest,
    /// Ed25519 (RFC 8032), verified strictly.
    Ed25519,
    /// ECDSA on P-256 with SHA-256, the signature in ASN.1.
    EcdsaP256Sha256,
    /// RSA (PKCS #1 v1.5) with SHA-256, keys of 2048 bits and more.
    RsaSha256,
    /// The same with SHA-1, for Amazon SNS.
    RsaSha1,
    /// A JSON Web Token (RFC 7519), judged by `jwt`.
    Jwt,
    /// No signature: the header holds the shared secret itself. Covers nothing.
    Token,
}

impl Algorithm {
    /// Whether checking it is dear, and its key public.
    pub(super) fn is_asymmetric(self) -> bool {
        matches!(
            self,
            Algorithm::Ed25519 | Algorithm::EcdsaP256Sha256 | Algorithm::RsaSha256 | Algorithm::RsaSha1
        )
    }
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
    /// A public key (SubjectPublicKeyInfo, DER) in base64.
    Spki,
    /// A public key or an X.509 certificate in PEM. A certificate's dates count.
    Pem,
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
    /// A path in the body: Linear's `webhookTimestamp`.
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
    /// Keys whose signatures are over another base.
    #[serde(default)]
    pub bases: BTreeMap<String, String>,
    /// The key that names the signed headers, with spaces between (Hook0).
    pub names: Option<String>,
}

/// Where an id or type is. Exactly one of `header`, `json`, `form` and `claim`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FieldSpec {
    /// A header.
    pub header: Option<String>,
    /// A path in the body (`event.type`), or several of which the first present one counts.
    pub json: Option<OneOrMany>,
    /// Take all of the paths, with this between them, instead of the first present one.
    pub join: Option<String>,
    /// A field of a form, or several of which the first present one counts.
    pub form: Option<OneOrMany>,
    /// A claim of the token.
    pub claim: Option<String>,
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
