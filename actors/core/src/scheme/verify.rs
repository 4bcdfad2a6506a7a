//! From headers and body to a claim, from a claim to a verified request.

use super::base::Request;
use super::body::Found;
use super::header::{self, ASYMMETRIC_TRIES_MAX, HeaderList, HeaderName, malformed};
use super::spec::{Algorithm, TimeUnit};
use super::template::Part;
use super::{
    FieldPlace, FieldRule, RejectReason, Rejection, Scheme, Secret, Shape, SignaturePlace, TimePlace, Version,
};
use crate::time::Millis;
use std::borrow::Cow;

/// What a request says, before anything is verified.
#[derive(Debug, Default)]
pub(super) struct Claim<'h> {
    /// Readable signatures by their version's place in the scheme.
    pub(super) signatures: Vec<(usize, Vec<Vec<u8>>)>,
    /// How they were made, if the body says so.
    pub(super) algorithm: Option<Algorithm>,
    pub(super) timestamp: Cow<'h, str>,
    /// The time in ms, if it is known before the signature is checked.
    pub(super) at_ms: Option<u64>,
    pub(super) id: Option<&'h str>,
    pub(super) event_type: Option<&'h str>,
    /// Values of the bases' `{header:…}`.
    pub(super) extra: Vec<&'h str>,
    /// The signature's list of signed headers, as sent.
    pub(super) names: &'h str,
    /// Those headers: name in lower case, value.
    pub(super) named: Vec<(String, &'h str)>,
    /// The token, where that is the signature.
    pub(super) token: &'h str,
}

impl Scheme {
    /// Reads every header that the scheme looks at, and nothing else.
    pub(super) fn claim<'h>(&self, headers: &'h HeaderList) -> Result<Claim<'h>, Rejection> {
        let mut claim = Claim::default();
        let signatures = self.signature_headers(headers)?;
        self.required(headers)?;
        if let Some((TimePlace::Header(name), _)) = &self.timestamp {
            claim.timestamp = Cow::Borrowed(headers.needed(name)?);
        }
        claim.id = self.field(headers, self.id.as_ref())?;
        claim.event_type = self.field(headers, self.event_type.as_ref())?;
        for part in &self.base {
            if let Part::Header(name) = part {
                claim.extra.push(headers.signed_id(name)?);
            }
        }
        for (name, text) in signatures {
            match &self.shape {
                Shape::Single { prefix } => self.single(&mut claim, name, text, prefix)?,
                Shape::List { .. } => self.list(&mut claim, headers, name, text)?,
            }
        }
        if let Some((TimePlace::Header(_) | TimePlace::List(_), unit)) = &self.timestamp {
            claim.at_ms = Some(self.time(*unit, &claim.timestamp)?);
        }
        Ok(claim)
    }

    /// The headers that hold signatures: at least one, where they are in headers.
    fn signature_headers<'s, 'h>(
        &'s self,
        headers: &'h HeaderList,
    ) -> Result<Vec<(&'s HeaderName, &'h str)>, Rejection> {
        let SignaturePlace::Headers(names) = &self.signature else { return Ok(Vec::new()) };
        if let [name] = names.as_slice() {
            return Ok(vec![(name, headers.needed(name)?)]);
        }
        let mut sent = Vec::new();
        for name in names {
            if let Some(text) = headers.one(name)? {
                sent.push((name, text));
            }
        }
        if let ([], Some(name)) = (sent.as_slice(), names.first()) {
            headers.needed(name)?;
        }
        Ok(sent)
    }

    fn required(&self, headers: &HeaderList) -> Result<(), Rejection> {
        for (name, allowed) in &self.require {
            let have = headers.needed(name)?;
            if !allowed.iter().any(|text| text.eq_ignore_ascii_case(have)) {
                let text = format!("header `{}` names a version or algorithm not allowed here", name.shown);
                return Err(Rejection::new(RejectReason::UnsupportedAlgorithm, text));
            }
        }
        Ok(())
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
                    FieldPlace::Json { .. } | FieldPlace::Form(_) | FieldPlace::Claim(_) => false,
                });
                let in_base = (is_id && self.base.contains(&Part::Id))
                    || self.base.iter().any(|part| matches!(part, Part::Header(have) if have == name));
                if in_base { headers.signed_id(name).map(Some) } else { headers.hint(name) }
            }
            _ => Ok(None),
        }
    }

    fn single<'h>(
        &self,
        claim: &mut Claim<'h>,
        name: &HeaderName,
        text: &'h str,
        prefix: &str,
    ) -> Result<(), Rejection> {
        let Some(text) = text.strip_prefix(prefix) else {
            let text = format!("header `{}` must begin with `{prefix}`", name.shown);
            return Err(Rejection::new(RejectReason::BadPrefix, text));
        };
        let bytes = match self.algorithm {
            Algorithm::Jwt => {
                claim.token = text;
                return Ok(());
            }
            Algorithm::Token => text.as_bytes().to_vec(),
            _ => header::decode(self.encoding, text).ok_or_else(|| self.bad_encoding())?,
        };
        self.add(claim, name, 0, bytes)
    }

    fn add(
        &self,
        claim: &mut Claim<'_>,
        name: &HeaderName,
        version: usize,
        signature: Vec<u8>,
    ) -> Result<(), Rejection> {
        let count = match claim.signatures.iter_mut().find(|(have, _)| *have == version) {
            Some((_, list)) => {
                list.push(signature);
                list.len()
            }
            None => {
                claim.signatures.push((version, vec![signature]));
                1
            }
        };
        let dear = self.versions.get(version).is_some_and(|version| version.algorithm.is_asymmetric());
        if dear && count > ASYMMETRIC_TRIES_MAX {
            return Err(malformed(name, "has more than 10 public-key signatures"));
        }
        Ok(())
    }

    /// Splits a list. Keys that the scheme does not know are passed over (rotation to a new version), and so
    /// are unreadable signatures beside a readable one.
    fn list<'h>(
        &self,
        claim: &mut Claim<'h>,
        headers: &'h HeaderList,
        name: &HeaderName,
        text: &'h str,
    ) -> Result<(), Rejection> {
        let Shape::List { separator, assign, names } = &self.shape else { return Ok(()) };
        let time_key = match &self.timestamp {
            Some((TimePlace::List(key), _)) => Some(key.as_str()),
            _ => None,
        };
        let (mut stamp, mut listed) = (None, None);
        let mut known = 0;
        for (key, value) in header::list_entries(name, text, separator, assign)? {
            let single = match key {
                _ if Some(key) == time_key => Some(&mut stamp),
                _ if Some(key) == names.as_deref() => Some(&mut listed),
                _ => None,
            };
            if let Some(place) = single {
                if place.replace(value).is_some() {
                    return Err(malformed(name, &format!("has `{key}` twice")));
                }
                continue;
            }
            let Some(version) = self.versions.iter().position(|version| version.key == key) else { continue };
            known += 1;
            if let Some(bytes) = header::decode(self.encoding, value) {
                self.add(claim, name, version, bytes)?;
            }
        }
        if let Some(listed) = listed {
            claim.names = listed;
            claim.named = named(headers, name, listed)?;
        }
        if let Some(key) = time_key {
            match stamp {
                Some(text) if known > 0 => claim.timestamp = Cow::Borrowed(text),
                Some(_) => return Err(malformed(name, "has no signature of a known version")),
                None => return Err(malformed(name, &format!("has no `{key}`"))),
            }
        }
        if known > 0 && claim.signatures.is_empty() {
            return Err(self.bad_encoding());
        }
        Ok(())
    }

    /// Reads what the scheme takes from the body before the signature is checked.
    pub(super) fn claim_body(&self, claim: &mut Claim<'_>, found: &[Found]) -> Result<(), Rejection> {
        let text = |place: usize| found.get(place).and_then(Found::text);
        let missing = |what: &str| {
            let text = format!("the body has no {what} where the provider puts it");
            Rejection::new(RejectReason::MissingField, text)
        };
        if let Some((place, by)) = &self.algorithm_by {
            let value = text(*place).ok_or_else(|| missing("signature version"))?;
            let known = by.iter().find(|(have, _)| *have == value);
            let (_, algorithm) = known.ok_or_else(|| {
                let text = "the body names a signature version not allowed here";
                Rejection::new(RejectReason::UnsupportedAlgorithm, text)
            })?;
            claim.algorithm = Some(*algorithm);
        }
        if let SignaturePlace::Json(place) = &self.signature {
            let value = text(*place).ok_or_else(|| missing("signature"))?;
            let bytes = header::decode(self.encoding, &value).ok_or_else(|| self.bad_encoding())?;
            claim.signatures.push((0, vec![bytes]));
        }
        if let Some((TimePlace::Json(place), unit)) = &self.timestamp
            && self.base.contains(&Part::Timestamp)
        {
            claim.timestamp = Cow::Owned(text(*place).ok_or_else(|| missing("timestamp"))?);
            claim.at_ms = Some(self.time(*unit, &claim.timestamp)?);
        }
        Ok(())
    }

    fn bad_encoding(&self) -> Rejection {
        let text = format!("{} is not a signature in the scheme's encoding", self.signature.shown());
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

    /// The first secret in force that made one of the claim's signatures, and that signature's version.
    pub(super) fn signer<'s>(
        &self,
        claim: &Claim<'_>,
        found: &[Found],
        request: &Request<'_>,
        secrets: &'s [Secret],
        now: Option<Millis>,
    ) -> Result<(&'s Secret, usize), Rejection> {
        let of = |in_force: bool| secrets.iter().filter(move |secret| secret.in_force(now) == in_force);
        if let Some(signer) = self.made_by(claim, found, request, of(true))? {
            return Ok(signer);
        }
        // whose it is when it is nobody's in force: what a sender who was left behind by a rotation must be told
        if let Some((secret, _)) = self.made_by(claim, found, request, of(false))? {
            return Err(Rejection::out_of_time(secret.kid()));
        }
        let text = format!(
            "no configured secret made the signature in {}; check the secret, and that nothing on the \
             way changes the body",
            self.signature.shown()
        );
        Err(Rejection::new(RejectReason::SignatureMismatch, text))
    }

    /// The first of these secrets that made one of the claim's signatures. All are tried, whichever fits.
    fn made_by<'s>(
        &self,
        claim: &Claim<'_>,
        found: &[Found],
        request: &Request<'_>,
        secrets: impl Iterator<Item = &'s Secret> + Clone,
    ) -> Result<Option<(&'s Secret, usize)>, Rejection> {
        let mut signer = None;
        for (version, signatures) in &claim.signatures {
            let Some(Version { algorithm, base, .. }) = self.versions.get(*version) else { continue };
            let algorithm = claim.algorithm.unwrap_or(*algorithm);
            let parts = base.as_ref().unwrap_or(&self.base);
            let bases = self.bases(parts, claim, found, request)?;
            if bases.is_empty() {
                let text = "this provider's `principals` are part of what is signed, and none is configured";
                return Err(Rejection::new(RejectReason::CannotVerify, text));
            }
            for base in bases {
                if self.has_mac_challenge() && super::challenge::may_be_challenge(&base) {
                    // Its MAC can be had for the asking.
                    continue;
                }
                for secret in secrets.clone() {
                    if secret.verifies(algorithm, &base, signatures) && signer.is_none() {
                        signer = Some((secret, *version));
                    }
                }
            }
        }
        Ok(signer)
    }

    /// Whether a header is signed in this request.
    pub(super) fn signs_header(&self, claim: &Claim<'_>, version: usize, name: &HeaderName) -> bool {
        let parts =
            self.versions.get(version).and_then(|version| version.base.as_ref()).unwrap_or(&self.base);
        parts.contains(&Part::NamedValues) && claim.named.iter().any(|(have, _)| *have == name.lower)
    }
}

/// The headers that a signature's list names, separated by spaces.
fn named<'h>(
    headers: &'h HeaderList,
    signature: &HeaderName,
    listed: &str,
) -> Result<Vec<(String, &'h str)>, Rejection> {
    let mut named: Vec<(String, &'h str)> = Vec::new();
    for text in listed.split(' ').filter(|text| !text.is_empty()) {
        let name =
            HeaderName::parse(text, "").map_err(|_| malformed(signature, "names a header that is none"))?;
        if named.len() == 32 || named.iter().any(|(have, _)| *have == name.lower) {
            return Err(malformed(signature, "names a header twice, or more than 32"));
        }
        let value = headers.needed(&name)?;
        named.push((name.lower, value));
    }
    Ok(named)
}
