//! The sender's side of a scheme: a correct request for a sample, a demonstration, a smoke test.

use super::base::{Known, Request};
use super::body;
use super::header::{self, HeaderList, HeaderName};
use super::jwt;
use super::key::sha256;
use super::template::Part;
use super::verify::Claim;
use super::{
    Algorithm, FieldPlace, FieldRule, Rejection, Scheme, Shape, SignaturePlace, SigningKey, TimePlace,
    ValuePlace, Version,
};
use crate::time::Millis;
use data_encoding::HEXLOWER;
use serde_json::Value;
use std::borrow::Cow;

/// A request to be signed.
#[derive(Debug, Clone)]
pub struct ToSign<'a> {
    /// The event's id, where the scheme sends one in a header. Needed if it is signed.
    pub id: Option<&'a str>,
    /// The event's type, where the scheme sends it in a header.
    pub event_type: Option<&'a str>,
    /// The wall clock.
    pub at: Millis,
    /// The raw body.
    pub body: &'a [u8],
    /// The receiver's URL and whom the event is for, where the scheme signs them.
    pub known: Known,
    /// The query of the URL, without the `?`.
    pub query: &'a str,
    /// Other headers that the scheme signs.
    pub headers: &'a [(String, String)],
}

impl<'a> ToSign<'a> {
    /// A body and the time, and nothing else.
    #[must_use]
    pub fn new(at: Millis, body: &'a [u8]) -> ToSign<'a> {
        ToSign { id: None, event_type: None, at, body, known: Known::default(), query: "", headers: &[] }
    }
}

/// A request as the provider would send it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    /// Headers in the vendor's spelling.
    pub headers: Vec<(String, String)>,
    /// The query without the `?`; a few schemes add to it.
    pub query: String,
    /// The body; a few schemes put their signature into it.
    pub body: Vec<u8>,
}

/// Why nothing was signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// The scheme signs an id, and none was given.
    #[error("this scheme signs the event's id; give one")]
    NeedsId,
    /// The scheme signs a header that was not given.
    #[error("this scheme signs the header `{0}`; give it")]
    NeedsHeader(String),
    /// A key of another kind.
    #[error("the key does not fit the scheme's algorithm")]
    WrongKey,
    /// The signature goes into a JSON body, and this is none.
    #[error("this scheme puts its signature into the body, which must be a JSON object for that")]
    NeedsJson,
    /// What is to be signed is not in the request.
    #[error("{0}")]
    Missing(String),
}

impl From<Rejection> for SignError {
    fn from(rejection: Rejection) -> SignError {
        SignError::Missing(rejection.refusal.text.into_owned())
    }
}

impl Scheme {
    /// The request that the provider would send with this body.
    ///
    /// # Errors
    /// See [`SignError`].
    pub fn sign(&self, key: &SigningKey, request: &ToSign<'_>) -> Result<Signed, SignError> {
        if self.base.contains(&Part::Id) && request.id.is_none_or(str::is_empty) {
            return Err(SignError::NeedsId);
        }
        let stamp = match &self.timestamp {
            Some((_, unit)) => header::write_time(*unit, request.at.0),
            None => String::new(),
        };
        let mut signed = Signed {
            headers: self.plain_headers(request, &stamp),
            query: self.query(request),
            body: self.stamped(request, &stamp)?,
        };
        let version = self.versions.iter().find(|version| match version.algorithm {
            Algorithm::Jwt => true,
            algorithm => key.can(algorithm),
        });
        let version = version.ok_or(SignError::WrongKey)?;
        if version.algorithm == Algorithm::Jwt {
            let token = self.token(key, request, &signed)?;
            self.put_header(&mut signed, &token);
            return Ok(signed);
        }
        let signature = self.signature(key, version, request, &signed, &stamp)?;
        match &self.signature {
            SignaturePlace::Json(place) => {
                let mut value: Value =
                    serde_json::from_slice(&signed.body).map_err(|_| SignError::NeedsJson)?;
                self.paths[*place].set(&mut value, Value::String(signature)).ok_or(SignError::NeedsJson)?;
                signed.body = value.to_string().into_bytes();
            }
            SignaturePlace::Headers(_) => {
                let text = self.in_shape(version, &signature, &stamp, request);
                self.put_header(&mut signed, &text);
            }
        }
        Ok(signed)
    }

    fn put_header(&self, signed: &mut Signed, text: &str) {
        let SignaturePlace::Headers(names) = &self.signature else { return };
        let prefix = match &self.shape {
            Shape::Single { prefix } => prefix.as_str(),
            Shape::List { .. } => "",
        };
        if let Some(name) = names.first() {
            add(&mut signed.headers, name, format!("{prefix}{text}"));
        }
    }

    /// Every header but the signature's.
    fn plain_headers(&self, request: &ToSign<'_>, stamp: &str) -> Vec<(String, String)> {
        let mut headers = Vec::new();
        for (rule, text) in [(&self.id, request.id), (&self.event_type, request.event_type)] {
            if let (Some(FieldRule { place: FieldPlace::Header(name), .. }), Some(text)) = (rule, text) {
                add(&mut headers, name, text.to_owned());
            }
        }
        if let Some((TimePlace::Header(name), _)) = &self.timestamp {
            add(&mut headers, name, stamp.to_owned());
        }
        for (name, allowed) in &self.require {
            if let Some(value) = allowed.first() {
                add(&mut headers, name, value.clone());
            }
        }
        if let Some(ValuePlace::Header(name)) = self.key_url.as_ref().map(|rule| &rule.place) {
            add(&mut headers, name, self.sample_key_url());
        }
        for (name, value) in request.headers {
            if !headers.iter().any(|(have, _)| have.eq_ignore_ascii_case(name)) {
                headers.push((name.clone(), value.clone()));
            }
        }
        headers
    }

    fn sample_key_url(&self) -> String {
        let Some(rule) = &self.key_url else { return String::new() };
        let host = rule.hosts.first().map(|host| host.replace('*', "api")).unwrap_or_default();
        format!("https://{host}/certs/sample{}", rule.suffix)
    }

    fn query(&self, request: &ToSign<'_>) -> String {
        let json = matches!(request.body.first(), Some(b'{' | b'['));
        let Some(name) = self.query_hash.as_ref().filter(|_| json) else { return request.query.to_owned() };
        let hash = HEXLOWER.encode(&sha256(request.body));
        let between = if request.query.is_empty() { "" } else { "&" };
        format!("{}{between}{name}={hash}", request.query)
    }

    /// The body, with the values in it that belong to the signature.
    fn stamped(&self, request: &ToSign<'_>, stamp: &str) -> Result<Vec<u8>, SignError> {
        let time = match &self.timestamp {
            Some((TimePlace::Json(place), _)) if self.base.contains(&Part::Timestamp) => Some(*place),
            _ => None,
        };
        let url = match self.key_url.as_ref().map(|rule| &rule.place) {
            Some(ValuePlace::Json(place)) => Some(*place),
            _ => None,
        };
        let version = self.algorithm_by.as_ref().and_then(|(place, by)| {
            let (value, _) = by.iter().find(|(_, algorithm)| *algorithm == self.algorithm)?;
            Some((*place, value.clone()))
        });
        let wanted =
            [time.map(|place| (place, stamp.to_owned())), url.map(|place| (place, self.sample_key_url()))];
        let wanted: Vec<_> = wanted.into_iter().flatten().chain(version).collect();
        if wanted.is_empty() {
            return Ok(request.body.to_vec());
        }
        let mut value: Value = serde_json::from_slice(request.body).map_err(|_| SignError::NeedsJson)?;
        for (place, text) in wanted {
            self.paths[place].set(&mut value, Value::String(text)).ok_or(SignError::NeedsJson)?;
        }
        Ok(value.to_string().into_bytes())
    }

    fn signature(
        &self,
        key: &SigningKey,
        version: &Version,
        request: &ToSign<'_>,
        signed: &Signed,
        stamp: &str,
    ) -> Result<String, SignError> {
        let sent: HeaderList = signed.headers.iter().map(|(name, value)| (name, value.clone())).collect();
        let parts = version.base.as_ref().unwrap_or(&self.base);
        let names = self.named(request);
        let mut claim =
            Claim { id: request.id, timestamp: Cow::Borrowed(stamp), names: &names, ..Claim::default() };
        for part in parts {
            if let Part::Header(name) = part {
                let value = sent.one(name)?.ok_or_else(|| SignError::NeedsHeader(name.shown.clone()))?;
                claim.extra.push(value);
            }
        }
        for name in names.split(' ').filter(|name| !name.is_empty()) {
            let name = HeaderName::parse(name, "").map_err(SignError::Missing)?;
            let value = sent.one(&name)?.unwrap_or_default();
            claim.named.push((name.lower, value));
        }
        let found = body::read(&signed.body, &self.paths, self.form_field.as_deref());
        let whole = Request {
            method: "POST",
            query: &signed.query,
            headers: &sent,
            body: &signed.body,
            known: &request.known,
        };
        let base = self.bases(parts, &claim, &found, &whole)?.into_iter().next();
        let base =
            base.ok_or_else(|| SignError::Missing("this scheme signs a principal; give one".to_owned()))?;
        let bytes = key.sign(version.algorithm, &base).ok_or(SignError::WrongKey)?;
        match version.algorithm {
            Algorithm::Token => String::from_utf8(bytes).map_err(|_| SignError::WrongKey),
            _ => Ok(header::encode(self.encoding, &bytes)),
        }
    }

    /// The headers that are signed by name, where the scheme does so.
    fn named(&self, request: &ToSign<'_>) -> String {
        if !matches!(&self.shape, Shape::List { names: Some(_), .. }) {
            return String::new();
        }
        let fields = [(&self.id, request.id), (&self.event_type, request.event_type)];
        let names = fields.into_iter().filter_map(|(rule, text)| match (rule, text) {
            (Some(FieldRule { place: FieldPlace::Header(name), .. }), Some(_)) => Some(name.lower.as_str()),
            _ => None,
        });
        names.collect::<Vec<_>>().join(" ")
    }

    fn in_shape(&self, version: &Version, signature: &str, stamp: &str, request: &ToSign<'_>) -> String {
        let Shape::List { separator, assign, names } = &self.shape else { return signature.to_owned() };
        let mut entries = Vec::new();
        if let Some((TimePlace::List(key), _)) = &self.timestamp {
            entries.push(format!("{key}{assign}{stamp}"));
        }
        if let Some(key) = names {
            entries.push(format!("{key}{assign}{}", self.named(request)));
        }
        entries.push(format!("{}{assign}{signature}", version.key));
        entries.join(separator)
    }

    fn token(&self, key: &SigningKey, request: &ToSign<'_>, signed: &Signed) -> Result<String, SignError> {
        let rules = self.jwt.as_ref().ok_or(SignError::WrongKey)?;
        let headers = HeaderList::new();
        let whole = Request {
            method: "POST",
            query: &signed.query,
            headers: &headers,
            body: &signed.body,
            known: &request.known,
        };
        let id = match &self.id {
            Some(FieldRule { place: FieldPlace::Claim(name), .. }) => {
                request.id.map(|id| (name.as_str(), id))
            }
            _ => None,
        };
        jwt::make(rules, key, &whole, request.at, id).ok_or(SignError::WrongKey)
    }
}

fn add(headers: &mut Vec<(String, String)>, name: &HeaderName, value: String) {
    headers.push((name.shown.clone(), value));
}
