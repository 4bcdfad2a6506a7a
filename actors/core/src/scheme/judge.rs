//! The verdict on one request to one provider: who signed it, what it is, and how a duplicate is known.

use super::base::Request;
use super::challenge::Answering;
use super::checked::Checked;
use super::provider::ProviderRules;
use super::spec::Coverage;
use super::{AcceptReply, HeaderList, RejectReason, Rejection};
use crate::ids::{ContentHash, Kid, ProviderName};
use crate::message::{DedupClaim, Origin, OtherBody};
use crate::time::Millis;

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

fn fits_attr(text: &str) -> bool {
    (1..=super::FIELD_BYTES_MAX).contains(&text.len()) && text.bytes().all(|b| (0x20..=0x7e).contains(&b))
}
