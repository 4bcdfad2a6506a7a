//! JSON Web Tokens (RFC 7519, RFC 7515) where a provider signs with one. Which algorithms count comes from the
//! scheme, never from the token alone (RFC 8725 §3.1).

use super::base::Request;
use super::key::{self, Key, sha256};
use super::spec::Algorithm;
use super::spec::Encoding;
use super::{RejectReason, Rejection, Secret, SigningKey, header};
use crate::time::Millis;
use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use serde_json::{Map, Value};
use subtle::ConstantTimeEq;

/// Longest token, in bytes.
const TOKEN_BYTES_MAX: usize = 8192;

/// How a token's signature is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum JwtAlgorithm {
    Hs(Algorithm),
    Rs256,
    Es256,
}

impl JwtAlgorithm {
    pub(super) fn parse(text: &str) -> Option<JwtAlgorithm> {
        Some(match text {
            "HS256" => JwtAlgorithm::Hs(Algorithm::HmacSha256),
            "HS384" => JwtAlgorithm::Hs(Algorithm::HmacSha384),
            "HS512" => JwtAlgorithm::Hs(Algorithm::HmacSha512),
            "RS256" => JwtAlgorithm::Rs256,
            "ES256" => JwtAlgorithm::Es256,
            _ => return None,
        })
    }
}

/// What a scheme wants of a token.
#[derive(Debug, Clone)]
pub(super) struct JwtRules {
    pub(super) algorithms: Vec<(String, JwtAlgorithm)>,
    pub(super) issuers: Vec<String>,
    pub(super) audience: bool,
    pub(super) url_hash: Option<String>,
    pub(super) body_hash: Option<(String, Encoding)>,
    pub(super) timeless: bool,
    pub(super) is_true: Vec<String>,
    /// The claim that must be one of the provider's principals.
    pub(super) principal: Option<String>,
}

/// What a verified token says.
pub(super) type Claims = Map<String, Value>;

/// The only text of a claim.
pub(super) fn claim_text(claims: &Claims, name: &str) -> Option<String> {
    match claims.get(name)? {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

impl JwtRules {
    /// Verifies a token and what it says of the request.
    pub(super) fn verify<'s>(
        &self,
        token: &str,
        request: &Request<'_>,
        secrets: &'s [Secret],
        tolerance_s: u64,
        now: Option<Millis>,
    ) -> Result<(&'s Secret, Claims), Rejection> {
        let syntax = || reject(RejectReason::BadEncoding, "is not three parts of base64url");
        let (signed, signature) = token.rsplit_once('.').ok_or_else(syntax)?;
        let (head, payload) = signed.split_once('.').ok_or_else(syntax)?;
        if token.len() > TOKEN_BYTES_MAX {
            return Err(reject(RejectReason::MalformedHeader, "is longer than 8192 bytes"));
        }
        let decode = |part: &str| BASE64URL_NOPAD.decode(part.as_bytes()).map_err(|_| syntax());
        let (head, payload, signature) = (decode(head)?, decode(payload)?, decode(signature)?);
        let algorithm = self.algorithm(&head)?;
        let made = |secret: &&Secret| signs(secret, algorithm, signed.as_bytes(), &signature);
        let signer = secrets.iter().filter(|secret| secret.in_force(now)).find(made);
        let signer = signer.ok_or_else(|| match secrets.iter().find(made) {
            Some(late) => Rejection::out_of_time(late.kid()),
            None => reject(RejectReason::SignatureMismatch, "was made by no configured key"),
        })?;
        let claims: Claims = serde_json::from_slice(&payload)
            .map_err(|_| reject(RejectReason::BadEncoding, "does not hold a JSON object"))?;
        self.in_time(&claims, tolerance_s, now)?;
        self.says(&claims, request)?;
        Ok((signer, claims))
    }

    fn algorithm(&self, head: &[u8]) -> Result<JwtAlgorithm, Rejection> {
        let head: Claims = serde_json::from_slice(head)
            .map_err(|_| reject(RejectReason::BadEncoding, "has a header that is no JSON object"))?;
        let unsupported =
            || reject(RejectReason::UnsupportedAlgorithm, "is signed in a way not allowed here");
        if head.contains_key("crit") {
            return Err(unsupported());
        }
        let name = head.get("alg").and_then(Value::as_str).ok_or_else(unsupported)?;
        let known = self.algorithms.iter().find(|(have, _)| have == name);
        known.map(|(_, algorithm)| *algorithm).ok_or_else(unsupported)
    }

    fn in_time(&self, claims: &Claims, tolerance_s: u64, now: Option<Millis>) -> Result<(), Rejection> {
        let Some(now) = now else { return Ok(()) };
        let now_s = now.0 / 1000;
        let at = |name: &str| claims.get(name).map(|value| value.as_f64().filter(|s| *s >= 0.0));
        let bad = |name| reject(RejectReason::BadTimestamp, format!("has an `{name}` that is no time"));
        // Seconds fit a double exactly for the next hundred million years.
        #[expect(clippy::cast_precision_loss, reason = "see above")]
        let (now_f, latest) = (now_s as f64, now_s.saturating_add(tolerance_s) as f64);
        match at("exp") {
            Some(end) if end.ok_or_else(|| bad("exp"))? > now_f => {}
            None if self.timeless => {}
            Some(_) => return Err(reject(RejectReason::Stale, "has expired by this node's clock")),
            None => return Err(bad("exp")),
        }
        for name in ["nbf", "iat"] {
            if let Some(start) = at(name)
                && start.ok_or_else(|| bad(name))? > latest
            {
                return Err(reject(RejectReason::Stale, "is not yet valid by this node's clock"));
            }
        }
        Ok(())
    }

    fn says(&self, claims: &Claims, request: &Request<'_>) -> Result<(), Rejection> {
        let text = |name: &str| claims.get(name).and_then(Value::as_str);
        if !self.issuers.is_empty()
            && !text("iss").is_some_and(|iss| self.issuers.iter().any(|have| have == iss))
        {
            return Err(reject(RejectReason::BadPrincipal, "was issued by someone else"));
        }
        if self.audience && !audience_is(claims.get("aud"), request.known.audience.as_deref()) {
            return Err(reject(RejectReason::BadAudience, "is meant for another audience"));
        }
        if self.is_true.iter().any(|name| claims.get(name) != Some(&Value::Bool(true))) {
            return Err(reject(RejectReason::BadPrincipal, "does not vouch for its sender"));
        }
        if let Some(name) = &self.principal
            && !text(name).is_some_and(|who| request.known.principals.iter().any(|have| have == who))
        {
            return Err(reject(RejectReason::BadPrincipal, "is of a sender that is not in `principals`"));
        }
        if let Some(name) = &self.url_hash
            && !text(name).is_some_and(|hash| same(hash, &HEXLOWER.encode(&sha256(request.url().as_bytes()))))
        {
            return Err(reject(RejectReason::UrlMismatch, "is for another URL; check `public_url`"));
        }
        match &self.body_hash {
            Some((name, encoding)) => body_is(text(name), *encoding, request.body),
            None => Ok(()),
        }
    }
}

fn body_is(hash: Option<&str>, encoding: Encoding, body: &[u8]) -> Result<(), Rejection> {
    match hash {
        Some(hash) if same(hash, &header::encode(encoding, &sha256(body))) => Ok(()),
        Some(_) => Err(reject(RejectReason::BodyHashMismatch, "is for another body")),
        None if body.is_empty() => Ok(()),
        None => Err(reject(RejectReason::BodyHashMissing, "says nothing of the body")),
    }
}

fn audience_is(claim: Option<&Value>, wanted: Option<&str>) -> bool {
    let is = |value: &Value| value.as_str().is_some() && value.as_str() == wanted;
    match claim {
        Some(Value::Array(several)) => several.iter().any(is),
        Some(one) => is(one),
        None => false,
    }
}

fn same(a: &str, b: &str) -> bool {
    a.as_bytes().ct_eq(b.as_bytes()).into()
}

fn signs(secret: &Secret, algorithm: JwtAlgorithm, signed: &[u8], signature: &[u8]) -> bool {
    match (secret.key(), algorithm) {
        (Key::Bytes(bytes), JwtAlgorithm::Hs(algorithm)) => {
            key::mac(algorithm, bytes, &[signed]).is_some_and(|mac| mac.as_slice().ct_eq(signature).into())
        }
        (Key::Public(public), JwtAlgorithm::Rs256) => {
            public.verifies(Algorithm::RsaSha256, signed, signature)
        }
        (Key::Public(public), JwtAlgorithm::Es256) => public.verifies_fixed(signed, signature),
        _ => false,
    }
}

fn reject(why: RejectReason, what: impl std::fmt::Display) -> Rejection {
    Rejection::new(why, format!("the token {what}"))
}

/// A token that [`JwtRules::verify`] would take, made with the first of the scheme's algorithms.
pub(super) fn make(
    rules: &JwtRules,
    key: &SigningKey,
    request: &Request<'_>,
    at: Millis,
    id: Option<(&str, &str)>,
) -> Option<String> {
    let (name, algorithm) = rules.algorithms.first()?;
    let now_s = at.0 / 1000;
    let mut claims = Claims::new();
    let mut put = |name: &str, value: Value| claims.insert(name.to_owned(), value);
    put("iat", now_s.into());
    put("exp", (now_s + 60).into());
    for (name, text) in id.into_iter().chain(rules.issuers.first().map(|iss| ("iss", iss.as_str()))) {
        put(name, text.into());
    }
    if let (true, Some(audience)) = (rules.audience, &request.known.audience) {
        put("aud", audience.as_str().into());
    }
    for name in &rules.is_true {
        put(name, true.into());
    }
    if let (Some(name), Some(who)) = (&rules.principal, request.known.principals.first()) {
        put(name, who.as_str().into());
    }
    if let Some(name) = &rules.url_hash {
        put(name, HEXLOWER.encode(&sha256(request.url().as_bytes())).into());
    }
    if let (Some((name, encoding)), false) = (&rules.body_hash, request.body.is_empty()) {
        put(name, header::encode(*encoding, &sha256(request.body)).into());
    }
    let part = |value: String| BASE64URL_NOPAD.encode(value.as_bytes());
    let head = part(serde_json::json!({ "alg": name, "typ": "JWT" }).to_string());
    let signed = format!("{head}.{}", part(Value::Object(claims).to_string()));
    let signature = match algorithm {
        JwtAlgorithm::Hs(algorithm) => key.sign(*algorithm, &[&signed])?,
        JwtAlgorithm::Rs256 => key.sign(Algorithm::RsaSha256, &[&signed])?,
        JwtAlgorithm::Es256 => return None,
    };
    Some(format!("{signed}.{}", BASE64URL_NOPAD.encode(&signature)))
}
