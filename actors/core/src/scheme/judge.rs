//! The verdict on one request to one provider: who signed it, what it is, and how a duplicate is known.

use super::body::{self, Found};
use super::compile::DEDUP_TTL_S_MAX;
use super::spec::Coverage;
use super::verify::Claim;
use super::{
    AcceptReply, Answer, Condition, FieldPlace, FieldRule, HeaderList, RejectReason, Rejection, Scheme,
    SchemeError, Secret, TOLERANCE_S_MAX, Test, TimePlace,
};
use crate::ids::{ContentHash, Kid, ProviderName};
use crate::message::{DedupClaim, Origin, OtherBody};
use crate::time::Millis;

/// How long a duplicate is remembered where requests carry no signed time, in seconds: it is the only defence
/// against a replay there.
pub const DEDUP_TTL_UNTIMED_S: u64 = 86_400;
/// Longest challenge that is sent back, in bytes.
pub const CHALLENGE_BYTES_MAX: usize = 512;

/// A request as it came: the body undecoded and whole.
#[derive(Debug, Clone, Copy)]
pub struct InboundRequest<'a> {
    /// `POST`.
    pub method: &'a str,
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
    /// Which secret made the signature.
    pub kid: Kid,
    /// 200–299.
    pub status: u16,
    /// None if the body is empty.
    pub content_type: Option<String>,
    /// The body.
    pub body: String,
    /// Further headers.
    pub headers: &'static [(&'static str, &'static str)],
}

const POST_ONLY: &str = "this provider sends its webhooks with POST";

/// Nothing that a provider had us say is to be taken for a page.
const HANDSHAKE_HEADERS: &[(&str, &str)] = &[("x-content-type-options", "nosniff")];

/// A request whose signature holds.
pub(super) struct Checked<'s, 'h> {
    pub(super) secret: &'s Secret,
    claim: Claim<'h>,
    fields: Vec<Found>,
    skew_ms: Option<i64>,
}

impl Scheme {
    /// Verifies a request. Without `now` the time is not looked at (vectors that name none).
    pub(super) fn check<'s, 'h>(
        &self,
        headers: &'h HeaderList,
        body: &[u8],
        secrets: &'s [Secret],
        tolerance_s: u64,
        now: Option<Millis>,
    ) -> Result<Checked<'s, 'h>, Rejection> {
        let claim = self.claim(headers)?;
        let within = |at_ms: Option<u64>| match (at_ms, now) {
            (Some(at_ms), Some(now)) => self.in_window(at_ms, now, tolerance_s).map(Some),
            _ => Ok(None),
        };
        let mut skew_ms = within(claim.at_ms)?;
        let secret = self.signer(&claim, secrets, body, now)?;
        let fields = body::read(body, &self.paths, self.form_field.as_deref());
        if let Some((TimePlace::Json(place), unit)) = self.timestamp {
            let text = fields.get(place).and_then(Found::text).unwrap_or_default();
            skew_ms = within(Some(self.time(unit, &text)?))?;
        }
        Ok(Checked { secret, claim, fields, skew_ms })
    }

    fn handshake(&self, checked: &Checked<'_, '_>) -> Option<Result<Handshake, Rejection>> {
        let (_, answer) = self.handshakes.iter().find(|(when, _)| all_hold(when, &checked.fields))?;
        let reply = |status, content_type, body| Handshake {
            kid: checked.secret.kid().clone(),
            status,
            content_type,
            body,
            headers: HANDSHAKE_HEADERS,
        };
        Some(match answer {
            Answer::Fixed(fixed) => {
                let (content_type, body) = fixed.body.clone().unwrap_or_default();
                Ok(reply(fixed.status, content_type, body))
            }
            Answer::Echo(place) => match checked.fields.get(*place) {
                Some(Found::Text(text)) if is_challenge(text) => {
                    Ok(reply(200, Some("text/plain".to_owned()), text.clone()))
                }
                _ => Err(Rejection::new(
                    RejectReason::BadChallenge,
                    "the challenge must be a text of 1 to 512 printable ASCII bytes",
                )),
            },
        })
    }

    fn reply(&self, fields: &[Found]) -> AcceptReply {
        let special = self.accept_when.iter().find(|(when, _)| all_hold(when, fields));
        special.map_or(&self.accept, |(_, reply)| reply).clone()
    }
}

impl ProviderRules {
    /// Checks a provider and makes its rules.
    ///
    /// # Errors
    /// Every problem found, each by its key relative to the provider.
    pub fn new(spec: ProviderSpec) -> Result<ProviderRules, Vec<SchemeError>> {
        let ProviderSpec { name, scheme, secrets, tolerance_s, dedup_ttl_ms, signed_only } = spec;
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
            Ok(ProviderRules { name, scheme, secrets, tolerance_s, dedup_ttl_ms, signed_only })
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

    /// How long a duplicate is remembered, in ms.
    #[must_use]
    pub fn dedup_ttl_ms(&self) -> u64 {
        self.dedup_ttl_ms
    }

    /// What can be said before the body is read: the headers' syntax and the time window. What passes is not
    /// verified. `now` is the wall clock.
    ///
    /// # Errors
    /// The rejection that [`ProviderRules::judge`] would come to.
    pub fn precheck(&self, method: &str, headers: &HeaderList, now: Millis) -> Result<(), Rejection> {
        if method != "POST" {
            return Err(Rejection::new(RejectReason::BadMethod, POST_ONLY));
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
        if request.method != "POST" {
            return Verdict::Refuse(Rejection::new(RejectReason::BadMethod, POST_ONLY));
        }
        let InboundRequest { headers, body, .. } = *request;
        let checked = match self.scheme.check(headers, body, &self.secrets, self.tolerance_s, Some(now)) {
            Ok(checked) => checked,
            Err(rejection) => return Verdict::Refuse(rejection),
        };
        match self.scheme.handshake(&checked) {
            Some(Ok(handshake)) => Verdict::Handshake(handshake),
            Some(Err(rejection)) => Verdict::Refuse(rejection),
            None => Verdict::Accept(Box::new(self.accept(&checked, body))),
        }
    }

    fn accept(&self, checked: &Checked<'_, '_>, body: &[u8]) -> Accepted {
        let scheme = &self.scheme;
        let claim = &checked.claim;
        let id = value(scheme.id.as_ref(), claim.id, &checked.fields);
        let event_type = value(scheme.event_type.as_ref(), claim.event_type, &checked.fields);
        let (dedup, unsigned_decided) = self.dedup(id.as_ref(), claim, body);
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
    fn dedup(&self, id: Option<&Field>, claim: &Claim<'_>, body: &[u8]) -> (Dedup, bool) {
        let scheme = &self.scheme;
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
            _ => (key(b's', hashed(&scheme.signed_bytes(claim)).as_bytes()), false),
        };
        let same_key_other_body =
            if body_signed && !unsigned { OtherBody::Duplicate } else { OtherBody::Conflict };
        (Dedup { key, ttl_ms: self.dedup_ttl_ms, same_key_other_body }, unsigned)
    }
}

fn value(rule: Option<&FieldRule>, header: Option<&str>, fields: &[Found]) -> Option<Field> {
    let FieldRule { place, signed, .. } = rule?;
    let text = match place {
        FieldPlace::Header(_) => header.map(str::to_owned),
        FieldPlace::Json(places) => places.iter().find_map(|place| fields.get(*place)?.text()),
    };
    text.map(|text| Field { text, signed: *signed })
}

fn fits_attr(text: &str) -> bool {
    (1..=super::FIELD_BYTES_MAX).contains(&text.len()) && text.bytes().all(|b| (0x20..=0x7e).contains(&b))
}

fn is_challenge(text: &str) -> bool {
    (1..=CHALLENGE_BYTES_MAX).contains(&text.len()) && text.bytes().all(|b| (0x20..=0x7e).contains(&b))
}

fn all_hold(when: &[Condition], fields: &[Found]) -> bool {
    when.iter().all(|Condition { path, test }| {
        let found = fields.get(*path).unwrap_or(&Found::Absent);
        match test {
            Test::Present => found.present(),
            Test::Absent => !found.present(),
            Test::Equals(literal) => found.is(literal),
        }
    })
}
