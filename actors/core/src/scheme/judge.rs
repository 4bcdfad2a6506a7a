//! The verdict on one request to one provider: who signed it, what it is, and how a duplicate is known.

use super::base::{Known, Request};
use super::challenge::Answering;
use super::checked::Checked;
use super::compile::DEDUP_TTL_S_MAX;
use super::spec::Coverage;
use super::{AcceptReply, HeaderList, RejectReason, Rejection, Scheme, SchemeError, Secret, TOLERANCE_S_MAX};
use crate::ids::{ContentHash, Kid, ProviderName};
use crate::message::{DedupClaim, Origin, OtherBody};
use crate::rotation::Listed;
use crate::time::Millis;

/// How long a duplicate is remembered where requests carry no signed time, in seconds: it is the only defence
/// against a replay there.
pub const DEDUP_TTL_UNTIMED_S: u64 = 86_400;

/// A request as it came: the body undecoded and whole.
#[derive(Debug, Clone, Copy)]
pub struct InboundRequest<'a> {
    /// `POST`, or `GET` for a challenge.
    pub method: &'a str,
    /// The query as sent, without the `?`.
    pub query: &'a str,
    /// All headers, repeated ones included.
    pub headers: &'a HeaderList,
    /// The raw bytes.
    pub body: &'a [u8],
}

/// One provider as configured.
#[derive(Debug, Clone)]
pub struct ProviderSpec {
    /// Its name in the configuration.
    pub name: ProviderName,
    /// Its scheme.
    pub scheme: Scheme,
    /// The secrets in use; several during a rotation.
    pub secrets: Vec<Secret>,
    /// Seconds a signed time may differ from the wall clock, either way, inclusive. None: the scheme's.
    pub tolerance_s: Option<u64>,
    /// How long a duplicate is remembered, in ms. None: the scheme's.
    pub dedup_ttl_ms: Option<u64>,
    /// Whether bytes that are not signed may decide nothing. True unless the operator says otherwise.
    pub signed_only: bool,
    /// What it and this node know of each other.
    pub known: Known,
    /// What the verify token of a challenge may be; without any, one of the secrets.
    pub verify_tokens: Vec<String>,
}

impl ProviderSpec {
    /// A provider with the scheme's defaults.
    #[must_use]
    pub fn new(name: ProviderName, scheme: Scheme, secrets: Vec<Secret>) -> ProviderSpec {
        ProviderSpec {
            name,
            scheme,
            secrets,
            tolerance_s: None,
            dedup_ttl_ms: None,
            signed_only: true,
            known: Known::default(),
            verify_tokens: Vec::new(),
        }
    }
}

/// A provider's rules, checked and ready.
#[derive(Debug, Clone)]
pub struct ProviderRules {
    name: ProviderName,
    scheme: Scheme,
    secrets: Vec<Secret>,
    tolerance_s: u64,
    dedup_ttl_ms: u64,
    signed_only: bool,
    known: Known,
    verify_tokens: Vec<String>,
}

/// What to do with a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Enqueue it, then answer.
    Accept(Box<Accepted>),
    /// Answer it at once; nothing is enqueued.
    Handshake(Handshake),
    /// Refuse it.
    Refuse(Rejection),
}

/// A verified event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// Which secret made the signature.
    pub kid: Kid,
    /// The event's id, if it has one of 1–256 printable characters.
    pub id: Option<Field>,
    /// The event's type, likewise.
    pub event_type: Option<Field>,
    /// Attributes of the message: `webhook-provider`, `webhook-kid`, and id and type under names that say
    /// whether they are signed.
    pub attrs: Vec<(String, String)>,
    /// How a duplicate is known.
    pub dedup: Dedup,
    /// The answer once it is durable.
    pub reply: AcceptReply,
    /// The sender's clock minus ours in ms, from the signed time.
    pub skew_ms: Option<i64>,
    /// An unsigned value took part in the decision (only with `signed_only = false`); worth an audit record.
    pub unsigned_decided: bool,
}

/// A value of the request and whether the signature covers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// The value.
    pub text: String,
    /// Covered by the signature.
    pub signed: bool,
}

/// The idempotency of one event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dedup {
    /// What is the same for a duplicate, and for nothing else of this provider.
    pub key: Vec<u8>,
    /// How long it is remembered, in ms.
    pub ttl_ms: u64,
    /// What the same key with another body is: where the body is signed, the provider's own retry
    /// ([`OtherBody::Duplicate`]), else a replay ([`OtherBody::Conflict`], to be answered REPLAY_WINDOW).
    pub same_key_other_body: OtherBody,
}

impl Dedup {
    /// The claim that goes into the message's own commit.
    #[must_use]
    pub fn claim(&self, provider: &ProviderName, payload: &ContentHash) -> DedupClaim {
        let origin = Origin::Provider(provider.as_str().to_owned());
        let claim = DedupClaim::new(&origin, &self.key, payload, self.ttl_ms);
        DedupClaim { same_key_other_body: self.same_key_other_body, ..claim }
    }
}

/// An answer to a challenge or ping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handshake {
    /// Which secret made the signature, or the answer's; none where nothing is secret.
    pub kid: Option<Kid>,
    /// 200–299.
    pub status: u16,
    /// None if the body is empty.
    pub content_type: Option<String>,
    /// The body.
    pub body: String,
    /// Further headers.
    pub headers: &'static [(&'static str, &'static str)],
    /// A URL of the provider's that must be visited before the answer is given.
    pub confirm: Option<String>,
}

const POST_ONLY: &str = "this provider sends its webhooks with POST";

impl ProviderRules {
    /// Checks a provider and makes its rules.
    ///
    /// # Errors
    /// Every problem found, each by its key relative to the provider.
    pub fn new(spec: ProviderSpec) -> Result<ProviderRules, Vec<SchemeError>> {
        let ProviderSpec {
            name,
            scheme,
            secrets,
            tolerance_s,
            dedup_ttl_ms,
            signed_only,
            known,
            verify_tokens,
        } = spec;
        let mut problems = Vec::new();
        let mut wrong = |path: &str, text: String| problems.push(SchemeError::new(path, text));
        if secrets.is_empty() {
            wrong("secrets", "is empty; a provider needs at least one secret".to_owned());
        }
        for (place, secret) in secrets.iter().enumerate() {
            if secrets.iter().take(place).any(|other| other.kid() == secret.kid()) {
                wrong("secrets", format!("has the kid `{}` twice; give each its own", secret.kid()));
            }
        }
        for (key, text) in missing(&scheme, &known) {
            wrong(key, text.to_owned());
        }
        if tolerance_s.is_some_and(|s| !(1..=TOLERANCE_S_MAX).contains(&s)) {
            wrong("tolerance_s", format!("must be 1 to {TOLERANCE_S_MAX}"));
        }
        let tolerance_s = tolerance_s.unwrap_or(scheme.tolerance_s);
        let floor_s =
            if scheme.has_signed_time() { tolerance_s.saturating_mul(2).saturating_add(60) } else { 1 };
        let scheme_s = scheme.dedup_ttl_s.unwrap_or(match scheme.has_signed_time() {
            true => floor_s,
            false => DEDUP_TTL_UNTIMED_S,
        });
        let floor_ms = floor_s.saturating_mul(1000);
        let dedup_ttl_ms = dedup_ttl_ms.unwrap_or(scheme_s.saturating_mul(1000).max(floor_ms));
        if !(floor_ms..=DEDUP_TTL_S_MAX * 1000).contains(&dedup_ttl_ms) {
            let why = if scheme.has_signed_time() { " (2 × tolerance + 60 s)" } else { "" };
            wrong("dedup_ttl", format!("must be {floor_s} s{why} to 30 d"));
        }
        if problems.is_empty() {
            let known = Known {
                public_url: known.public_url.map(|url| url.split('?').next().unwrap_or_default().to_owned()),
                ..known
            };
            Ok(ProviderRules {
                name,
                scheme,
                secrets,
                tolerance_s,
                dedup_ttl_ms,
                signed_only,
                known,
                verify_tokens,
            })
        } else {
            Err(problems)
        }
    }

    /// The provider's name.
    #[must_use]
    pub fn name(&self) -> &ProviderName {
        &self.name
    }

    /// The provider's scheme.
    #[must_use]
    pub fn scheme(&self) -> &Scheme {
        &self.scheme
    }

    /// The kids of its secrets.
    pub fn kids(&self) -> impl Iterator<Item = &Kid> {
        self.secrets.iter().map(Secret::kid)
    }

    /// Its secrets without the secrets: names, and when each is accepted.
    pub fn listed(&self) -> impl Iterator<Item = Listed> {
        self.secrets.iter().map(Secret::listed)
    }

    /// How long a duplicate is remembered, in ms.
    #[must_use]
    pub fn dedup_ttl_ms(&self) -> u64 {
        self.dedup_ttl_ms
    }

    /// How long after it was signed a request may still come, ms: the tolerance, where a time is signed; else as long
    /// as duplicates are remembered, for nothing else bounds the life of such a signature.
    #[must_use]
    pub fn signed_ttl_ms(&self) -> u64 {
        match self.scheme.has_signed_time() {
            true => self.tolerance_s.saturating_mul(1000),
            false => self.dedup_ttl_ms,
        }
    }

    /// The answer to an event that nothing special holds for.
    #[must_use]
    pub fn usual_reply(&self) -> &AcceptReply {
        &self.scheme.accept
    }

    /// What can be said before the body is read: the headers' syntax and the time window. What passes is not
    /// verified. `now` is the wall clock.
    ///
    /// # Errors
    /// The rejection that [`ProviderRules::judge`] would come to.
    pub fn precheck(&self, method: &str, headers: &HeaderList, now: Millis) -> Result<(), Rejection> {
        match method {
            "POST" => {}
            "GET" if self.scheme.has_challenges() => return Ok(()),
            _ => return Err(Rejection::new(RejectReason::BadMethod, POST_ONLY)),
        }
        let claim = self.scheme.claim(headers)?;
        match claim.at_ms {
            Some(at_ms) => self.scheme.in_window(at_ms, now, self.tolerance_s).map(|_| ()),
            None => Ok(()),
        }
    }

    /// The verdict. `now` is the wall clock.
    #[must_use]
    pub fn judge(&self, request: &InboundRequest<'_>, now: Millis) -> Verdict {
        let InboundRequest { method, query, headers, body } = *request;
        if method == "GET" && self.scheme.has_challenges() {
            return self.challenge(query, headers, now);
        }
        if method != "POST" {
            return Verdict::Refuse(Rejection::new(RejectReason::BadMethod, POST_ONLY));
        }
        let request = Request { method, query, headers, body, known: &self.known };
        let checked = match self.scheme.check(&request, &self.secrets, self.tolerance_s, Some(now)) {
            Ok(checked) => checked,
            Err(rejection) => return Verdict::Refuse(rejection),
        };
        match self.scheme.handshake(&checked) {
            Some(Ok(handshake)) => Verdict::Handshake(handshake),
            Some(Err(rejection)) => Verdict::Refuse(rejection),
            None => Verdict::Accept(Box::new(self.accept(&checked, &request))),
        }
    }

    /// Answers a challenge by GET, the first that the request is one of.
    fn challenge(&self, query: &str, headers: &HeaderList, now: Millis) -> Verdict {
        let (secrets, verify_tokens) = (self.secrets.as_slice(), self.verify_tokens.as_slice());
        let with = Answering { secrets, verify_tokens, now: Some(now) };
        let mut answers = self.scheme.challenges.iter();
        match answers.find_map(|challenge| challenge.answer(query, headers, &with)) {
            Some(Ok(handshake)) => Verdict::Handshake(handshake),
            Some(Err(rejection)) => Verdict::Refuse(rejection),
            None => {
                let text = "a GET here is for the provider's challenge, and this is none";
                Verdict::Refuse(Rejection::new(RejectReason::BadChallenge, text))
            }
        }
    }

    fn accept(&self, checked: &Checked<'_, '_>, request: &Request<'_>) -> Accepted {
        let scheme = &self.scheme;
        let id = checked.value(scheme, scheme.id.as_ref(), checked.claim.id, request.body);
        let event_type =
            checked.value(scheme, scheme.event_type.as_ref(), checked.claim.event_type, request.body);
        let (dedup, unsigned_decided) = self.dedup(id.as_ref(), checked, request);
        let kid = checked.secret.kid().clone();
        let id = id.filter(|field| fits_attr(&field.text));
        let event_type = event_type.filter(|field| fits_attr(&field.text));
        let mut attrs = vec![
            ("webhook-provider".to_owned(), self.name.to_string()),
            ("webhook-kid".to_owned(), kid.to_string()),
        ];
        for (what, field) in [("id", &id), ("type", &event_type)] {
            if let Some(Field { text, signed }) = field {
                let name = if *signed { "webhook" } else { "webhook-unsigned" };
                attrs.push((format!("{name}-{what}"), text.clone()));
            }
        }
        Accepted {
            kid,
            id,
            event_type,
            attrs,
            dedup,
            reply: scheme.reply(&checked.fields),
            skew_ms: checked.skew_ms,
            unsigned_decided,
        }
    }

    /// SPEC §7: a signed and unique id; else the body, or what is signed where the body is not. The first
    /// byte keeps the kinds of key apart.
    fn dedup(&self, id: Option<&Field>, checked: &Checked<'_, '_>, request: &Request<'_>) -> (Dedup, bool) {
        let (scheme, body) = (&self.scheme, request.body);
        let body_signed = scheme.coverage == Coverage::Full;
        let unique = scheme.id.as_ref().is_some_and(|rule| rule.unique);
        let hashed = |bytes: &[u8]| {
            let mut hasher = blake3::Hasher::new();
            hasher.update(b"ron-wh/v1\0").update(self.name.as_str().as_bytes()).update(b"\0").update(bytes);
            hasher.finalize()
        };
        let key = |kind: u8, bytes: &[u8]| [&[kind], bytes].concat();
        let (key, unsigned) = match id {
            Some(field) if unique && (field.signed || !self.signed_only) => {
                (key(b'i', field.text.as_bytes()), !field.signed)
            }
            _ if body_signed || scheme.base.is_empty() => (key(b'b', hashed(body).as_bytes()), false),
            _ => (key(b's', hashed(&checked.signed_bytes(scheme, request)).as_bytes()), false),
        };
        let same_key_other_body =
            if body_signed && !unsigned { OtherBody::Duplicate } else { OtherBody::Conflict };
        (Dedup { key, ttl_ms: self.dedup_ttl_ms, same_key_other_body }, unsigned)
    }
}

/// What the scheme needs and is not there: keys of the provider, and what they are for.
fn missing(scheme: &Scheme, known: &Known) -> Vec<(&'static str, &'static str)> {
    let mut missing = Vec::new();
    if scheme.needs_public_url() && known.public_url.is_none() {
        let text = "is missing; the provider signs our URL: set it to the one that it is configured with";
        missing.push(("public_url", text));
    }
    if scheme.needs_principals() && known.principals.is_empty() {
        let text = "is empty; one signer serves all of the vendor's customers: list whose events are yours";
        missing.push(("principals", text));
    }
    if scheme.needs_audience() && known.audience.is_none() {
        let text = "is missing; set it (or `public_url`) to what the provider's tokens are made out to";
        missing.push(("audience", text));
    }
    missing
}

fn fits_attr(text: &str) -> bool {
    (1..=super::FIELD_BYTES_MAX).contains(&text.len()) && text.bytes().all(|b| (0x20..=0x7e).contains(&b))
}
