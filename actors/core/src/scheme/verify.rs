//! From headers to a claim, from a claim and the raw body to a verified request.

use super::header::{self, ASYMMETRIC_TRIES_MAX, HeaderList, malformed};
use super::spec::{Algorithm, TimeUnit};
use super::template::{self, Part, Values};
use super::{FieldPlace, FieldRule, RejectReason, Rejection, Scheme, Secret, Shape, TimePlace};
use crate::time::Millis;

/// What the headers say, before anything is verified.
#[derive(Debug, Default)]
pub(super) struct Claim<'h> {
    /// Readable signatures by algorithm.
    signatures: Vec<(Algorithm, Vec<Vec<u8>>)>,
    timestamp: &'h str,
    /// The time in ms, if it is in the headers.
    pub(super) at_ms: Option<u64>,
    pub(super) id: Option<&'h str>,
    pub(super) event_type: Option<&'h str>,
    /// Values of the base's `{header:…}`.
    extra: Vec<&'h str>,
}

impl<'h> Claim<'h> {
    fn values(&self, body: &'h [u8]) -> Values<'h> {
        Values {
            timestamp: self.timestamp,
            id: self.id.unwrap_or_default(),
            headers: self.extra.clone(),
            body,
        }
    }
}

impl Scheme {
    /// Reads every header that the scheme looks at, and nothing else.
    pub(super) fn claim<'h>(&self, headers: &'h HeaderList) -> Result<Claim<'h>, Rejection> {
        let mut claim = Claim::default();
        let signature = headers.needed(&self.signature)?;
        if let Some((TimePlace::Header(name), _)) = &self.timestamp {
            claim.timestamp = headers.needed(name)?;
        }
        claim.id = self.field(headers, self.id.as_ref())?;
        claim.event_type = self.field(headers, self.event_type.as_ref())?;
        for part in &self.base {
            if let Part::Header(name) = part {
                claim.extra.push(headers.signed_id(name)?);
            }
        }
        match &self.shape {
            Shape::Single { prefix } => self.single(&mut claim, signature, prefix)?,
            Shape::List { .. } => self.list(&mut claim, signature)?,
        }
        if let Some((TimePlace::Header(_) | TimePlace::List(_), unit)) = &self.timestamp {
            claim.at_ms = Some(self.time(*unit, claim.timestamp)?);
        }
        Ok(claim)
    }

    fn field<'h>(
        &self,
        headers: &'h HeaderList,
        rule: Option<&FieldRule>,
    ) -> Result<Option<&'h str>, Rejection> {
        match rule {
            Some(FieldRule { place: FieldPlace::Header(name), .. }) => {
                let is_id = self.id.as_ref().is_some_and(|id| match &id.place {
                    FieldPlace::Header(have) => have == name,
                    FieldPlace::Json(_) => false,
                });
                let in_base = (is_id && self.base.contains(&Part::Id))
                    || self.base.iter().any(|part| matches!(part, Part::Header(have) if have == name));
                if in_base { headers.signed_id(name).map(Some) } else { headers.hint(name) }
            }
            Some(FieldRule { place: FieldPlace::Json(_), .. }) | None => Ok(None),
        }
    }

    fn single<'h>(&self, claim: &mut Claim<'h>, text: &'h str, prefix: &str) -> Result<(), Rejection> {
        let Some(text) = text.strip_prefix(prefix) else {
            let text = format!("header `{}` must begin with `{prefix}`", self.signature.shown);
            return Err(Rejection::new(RejectReason::BadPrefix, text));
        };
        let bytes = match self.algorithm {
            Algorithm::Token => text.as_bytes().to_vec(),
            _ => header::decode(self.encoding, text).ok_or_else(|| self.bad_encoding())?,
        };
        claim.signatures.push((self.algorithm, vec![bytes]));
        Ok(())
    }

    /// Splits a list. Keys that the scheme does not know are passed over (rotation to a new version), and so
    /// are unreadable signatures beside a readable one.
    fn list<'h>(&self, claim: &mut Claim<'h>, text: &'h str) -> Result<(), Rejection> {
        let Shape::List { separator, assign, versions } = &self.shape else { return Ok(()) };
        let name = &self.signature;
        let time_key = match &self.timestamp {
            Some((TimePlace::List(key), _)) => Some(key.as_str()),
            _ => None,
        };
        let mut stamp = None;
        let mut known = 0;
        for (key, value) in header::list_entries(name, text, separator, assign)? {
            if Some(key) == time_key {
                if stamp.replace(value).is_some() {
                    return Err(malformed(name, &format!("has `{key}` twice")));
                }
                continue;
            }
            let Some((_, algorithm)) = versions.iter().find(|(have, _)| have == key) else { continue };
            known += 1;
            let Some(bytes) = header::decode(self.encoding, value) else { continue };
            match claim.signatures.iter_mut().find(|(have, _)| have == algorithm) {
                Some((_, list)) => list.push(bytes),
                None => claim.signatures.push((*algorithm, vec![bytes])),
            }
        }
        for (algorithm, list) in &claim.signatures {
            if *algorithm == Algorithm::Ed25519 && list.len() > ASYMMETRIC_TRIES_MAX {
                return Err(malformed(name, "has more than 10 public-key signatures"));
            }
        }
        if let Some(key) = time_key {
            match stamp {
                Some(text) if known > 0 => claim.timestamp = text,
                Some(_) => return Err(malformed(name, "has no signature of a known version")),
                None => return Err(malformed(name, &format!("has no `{key}`"))),
            }
        }
        if known > 0 && claim.signatures.is_empty() {
            return Err(self.bad_encoding());
        }
        Ok(())
    }

    fn bad_encoding(&self) -> Rejection {
        let text = format!("header `{}` is not a signature in the scheme's encoding", self.signature.shown);
        Rejection::new(RejectReason::BadEncoding, text)
    }

    pub(super) fn time(&self, unit: TimeUnit, text: &str) -> Result<u64, Rejection> {
        header::parse_time(unit, text).ok_or_else(|| {
            let form = match unit {
                TimeUnit::Seconds => "seconds since the Unix epoch in digits",
                TimeUnit::Millis => "milliseconds since the Unix epoch in digits",
                TimeUnit::Rfc3339 => "an RFC 3339 time",
            };
            Rejection::new(RejectReason::BadTimestamp, format!("the request's timestamp must be {form}"))
        })
    }

    /// The window: symmetric, inclusive, in the unit that the provider writes. Gives the sender's clock minus
    /// ours.
    pub(super) fn in_window(&self, at_ms: u64, now: Millis, tolerance_s: u64) -> Result<i64, Rejection> {
        let now_ms = match self.timestamp {
            Some((_, TimeUnit::Seconds)) => now.0 / 1000 * 1000,
            _ => now.0,
        };
        if at_ms.abs_diff(now_ms) > tolerance_s.saturating_mul(1000) {
            let (off, way) = (at_ms.abs_diff(now_ms) / 1000, if at_ms < now_ms { "before" } else { "after" });
            let text = format!(
                "the request's timestamp is {off} s {way} this node's clock; {tolerance_s} s are allowed \
                 either way"
            );
            return Err(Rejection::new(RejectReason::Stale, text));
        }
        let skew = i128::from(at_ms) - i128::from(now.0);
        Ok(i64::try_from(skew).unwrap_or(0))
    }

    /// The first secret in force that made one of the claim's signatures.
    pub(super) fn signer<'s>(
        &self,
        claim: &Claim<'_>,
        secrets: &'s [Secret],
        body: &[u8],
        now: Option<Millis>,
    ) -> Result<&'s Secret, Rejection> {
        let values = claim.values(body);
        let base = template::fill(&self.base, &values);
        let mut found = None;
        for secret in secrets.iter().filter(|secret| secret.in_force(now)) {
            let made =
                |(algorithm, list): &(Algorithm, Vec<Vec<u8>>)| secret.verifies(*algorithm, &base, list);
            if claim.signatures.iter().any(made) && found.is_none() {
                found = Some(secret);
            }
        }
        found.ok_or_else(|| {
            let text = format!(
                "no configured secret made the signature in `{}`; check the secret, and that nothing on the \
                 way changes the body",
                self.signature.shown
            );
            Rejection::new(RejectReason::SignatureMismatch, text)
        })
    }

    /// The signed bytes that are not the body, to recognise a request whose body is not covered.
    pub(super) fn signed_bytes<'a>(&'a self, claim: &Claim<'a>) -> Vec<u8> {
        let values = claim.values(&[]);
        template::fill(&self.base, &values).concat()
    }
}
