//! A request whose signature holds, and what may be read of it then.

use super::base::Request;
use super::body::{self, Found};
use super::challenge;
use super::judge::{Field, Handshake};
use super::jwt::{Claims, claim_text};
use super::spec::Algorithm;
use super::verify::Claim;
use super::{
    AcceptReply, Answer, Condition, FieldPlace, FieldRule, RejectReason, Rejection, Scheme, Secret, Test,
    TimePlace, ValuePlace,
};
use crate::time::Millis;

/// A request whose signature holds.
pub(super) struct Checked<'s, 'h> {
    pub(super) secret: &'s Secret,
    pub(super) claim: Claim<'h>,
    /// The version of the signature that held.
    version: usize,
    pub(super) fields: Vec<Found>,
    claims: Claims,
    pub(super) skew_ms: Option<i64>,
}

impl Scheme {
    /// Verifies a request. Without `now` the time is not looked at (vectors that name none).
    pub(super) fn check<'s, 'h>(
        &self,
        request: &Request<'h>,
        secrets: &'s [Secret],
        tolerance_s: u64,
        now: Option<Millis>,
    ) -> Result<Checked<'s, 'h>, Rejection> {
        let mut claim = self.claim(request.headers)?;
        let within = |at_ms: Option<u64>| match (at_ms, now) {
            (Some(at_ms), Some(now)) => self.in_window(at_ms, now, tolerance_s).map(Some),
            _ => Ok(None),
        };
        let mut skew_ms = within(claim.at_ms)?;
        let read = || body::read(request.body, &self.paths, self.form_field.as_deref());
        let mut fields = Vec::new();
        if self.reads_body_first() {
            fields = read();
            self.claim_body(&mut claim, &fields)?;
            skew_ms = within(claim.at_ms)?;
        }
        self.may_be_vendors(request, &fields)?;
        if let (Algorithm::Jwt, Some(jwt)) = (self.algorithm, &self.jwt) {
            let (secret, claims) = jwt.verify(claim.token, request, secrets, tolerance_s, now)?;
            return Ok(Checked { secret, claim, version: 0, fields: read(), claims, skew_ms });
        }
        let (secret, version) = self.signer(&claim, &fields, request, secrets, now)?;
        if fields.is_empty() {
            fields = read();
        }
        if let Some((TimePlace::Json(place), unit)) = self.timestamp
            && claim.at_ms.is_none()
        {
            let text = fields.get(place).and_then(Found::text).unwrap_or_default();
            skew_ms = within(Some(self.time(unit, &text)?))?;
        }
        self.principal(request, &fields)?;
        Ok(Checked { secret, claim, version, fields, claims: Claims::new(), skew_ms })
    }

    /// Whether the certificate is said to be where the vendor keeps such.
    fn may_be_vendors(&self, request: &Request<'_>, fields: &[Found]) -> Result<(), Rejection> {
        let Some(rule) = &self.key_url else { return Ok(()) };
        let url = match &rule.place {
            ValuePlace::Header(name) => Some(request.headers.needed(name)?.to_owned()),
            ValuePlace::Json(place) => fields.get(*place).and_then(Found::text),
        };
        if url.is_some_and(|url| challenge::url_allowed(&url, &rule.hosts, &rule.suffix)) {
            return Ok(());
        }
        let text = "the certificate's URL is not one of the provider's own";
        Err(Rejection::new(RejectReason::CertUrlDenied, text))
    }

    /// Whether the event is one of the provider's `principals`. Vectors name none, and are not asked.
    fn principal(&self, request: &Request<'_>, fields: &[Found]) -> Result<(), Rejection> {
        let Some(place) = &self.principal else { return Ok(()) };
        let who = match place {
            ValuePlace::Header(name) => request.headers.one(name)?.map(str::to_owned),
            ValuePlace::Json(place) => fields.get(*place).and_then(Found::text),
        };
        let allowed = &request.known.principals;
        if allowed.is_empty() || who.is_some_and(|who| allowed.contains(&who)) {
            return Ok(());
        }
        let text = "the event is signed by the vendor, but its source is not in `principals`";
        Err(Rejection::new(RejectReason::BadPrincipal, text))
    }

    pub(super) fn handshake(&self, checked: &Checked<'_, '_>) -> Option<Result<Handshake, Rejection>> {
        let (_, answer) = self.handshakes.iter().find(|(when, _)| all_hold(when, &checked.fields))?;
        let kid = Some(checked.secret.kid().clone());
        let text = |place: usize| match checked.fields.get(place) {
            Some(Found::Text(text)) => text.as_str(),
            _ => "",
        };
        let fixed = |fixed: &AcceptReply| {
            let (content_type, body) = fixed.body.clone().unwrap_or_default();
            challenge::handshake(kid.clone(), fixed.status, content_type, body)
        };
        Some(match answer {
            Answer::Fixed(reply) => Ok(fixed(reply)),
            Answer::Echo { place, mac, reply } => {
                let mac = mac.map(|how| (how, checked.secret));
                challenge::answer(text(*place), mac, reply, kid)
            }
            Answer::Confirm { place, hosts, reply } if challenge::url_allowed(text(*place), hosts, "") => {
                Ok(Handshake { confirm: Some(text(*place).to_owned()), ..fixed(reply) })
            }
            Answer::Confirm { .. } => Err(Rejection::new(
                RejectReason::BadChallenge,
                "the URL that is to be visited is not one of the provider's own",
            )),
        })
    }

    pub(super) fn reply(&self, fields: &[Found]) -> AcceptReply {
        let special = self.accept_when.iter().find(|(when, _)| all_hold(when, fields));
        special.map_or(&self.accept, |(_, reply)| reply).clone()
    }
}

impl Checked<'_, '_> {
    pub(super) fn value(
        &self,
        scheme: &Scheme,
        rule: Option<&FieldRule>,
        header: Option<&str>,
        body: &[u8],
    ) -> Option<Field> {
        let FieldRule { place, signed, .. } = rule?;
        let at = |place: &usize| self.fields.get(*place).and_then(Found::text);
        let (text, signed) = match place {
            FieldPlace::Header(name) => {
                let signed = *signed || scheme.signs_header(&self.claim, self.version, name);
                (header.map(str::to_owned), signed)
            }
            FieldPlace::Json { places, join: None } => (places.iter().find_map(at), *signed),
            FieldPlace::Json { places, join: Some(between) } => {
                let all: Option<Vec<String>> = places.iter().map(at).collect();
                (all.map(|all| all.join(between)), *signed)
            }
            FieldPlace::Form(names) => {
                let field = |name: &String| String::from_utf8(body::form_value(body, name)?).ok();
                (names.iter().find_map(field), *signed)
            }
            FieldPlace::Claim(name) => (claim_text(&self.claims, name), *signed),
        };
        text.map(|text| Field { text, signed })
    }

    /// The signed bytes, to recognise a request whose body is covered in part.
    pub(super) fn signed_bytes(&self, scheme: &Scheme, request: &Request<'_>) -> Vec<u8> {
        let bases = scheme.bases(&scheme.base, &self.claim, &self.fields, request);
        bases.ok().and_then(|bases| bases.into_iter().next()).unwrap_or_default().concat()
    }
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
