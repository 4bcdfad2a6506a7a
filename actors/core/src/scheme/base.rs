//! Filling a base string with one request.

use super::body::{self, Found};
use super::header::HeaderList;
use super::key::sha256;
use super::template::{JsonPart, Part, UrlForm};
use super::verify::Claim;
use super::{RejectReason, Rejection, Scheme};
use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

/// Longest value of the body that is signed on its own, in bytes.
const VALUE_BYTES_MAX: usize = 256 * 1024;

/// A request beside what its provider knows of this node.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request<'a> {
    pub(super) method: &'a str,
    /// As sent, without the `?`.
    pub(super) query: &'a str,
    pub(super) headers: &'a HeaderList,
    pub(super) body: &'a [u8],
    pub(super) known: &'a Known,
}

/// What an operator has told the provider, or the provider the operator.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// Our URL as the provider knows it, without a query.
    pub public_url: Option<String>,
    /// Whose events count: topic ARNs, e-mail addresses, webhook ids.
    pub principals: Vec<String>,
    /// What a token's `aud` must be.
    pub audience: Option<String>,
}

/// The pieces of a base string.
pub(super) type Base<'a> = Vec<Cow<'a, [u8]>>;

impl<'a> Request<'a> {
    /// The URL with its query.
    pub(super) fn url(&self) -> String {
        with_query(self.known.public_url.as_deref().unwrap_or_default(), self.query)
    }

    fn body_hash(&self) -> [u8; 32] {
        sha256(self.body)
    }
}

fn with_query(base: &str, query: &str) -> String {
    if query.is_empty() { base.to_owned() } else { format!("{base}?{query}") }
}

impl Scheme {
    /// The base strings that may have been signed: one, unless ports or principals leave a choice.
    pub(super) fn bases<'a>(
        &'a self,
        parts: &'a [Part],
        claim: &'a Claim<'a>,
        found: &[Found],
        request: &Request<'a>,
    ) -> Result<Vec<Base<'a>>, Rejection> {
        let hashed_query = self.hashed_query(request)?;
        let url = request.known.public_url.as_deref().unwrap_or_default();
        let urls = if self.url_ports { port_forms(url) } else { vec![url.to_owned()] };
        let anyone = [String::new()];
        let asks = parts.contains(&Part::Principal);
        let principals = if asks { &request.known.principals[..] } else { &anyone[..] };
        let mut bases = Vec::with_capacity(urls.len() * principals.len());
        for url in &urls {
            for principal in principals {
                let filler = Filler { claim, found, request, url, principal, hashed_query };
                bases.push(filler.fill(parts)?);
            }
        }
        Ok(bases)
    }

    /// Whether the query holds the body's hash, which stands in for the form then.
    fn hashed_query(&self, request: &Request<'_>) -> Result<bool, Rejection> {
        let Some(name) = &self.query_hash else { return Ok(false) };
        let Some(hash) = query_value(request.query, name)? else { return Ok(false) };
        let right = HEXLOWER_PERMISSIVE.decode(&hash).is_ok_and(|hash| hash == request.body_hash());
        match right {
            true => Ok(true),
            false => Err(Rejection::new(
                RejectReason::BodyHashMismatch,
                format!("the query's `{name}` is not the body's SHA-256"),
            )),
        }
    }
}

struct Filler<'a, 'f> {
    claim: &'a Claim<'a>,
    found: &'f [Found],
    request: &'f Request<'a>,
    url: &'f str,
    principal: &'f str,
    hashed_query: bool,
}

impl<'a> Filler<'a, '_> {
    fn fill(&self, parts: &'a [Part]) -> Result<Base<'a>, Rejection> {
        let mut headers = self.claim.extra.iter();
        let mut base = Vec::with_capacity(parts.len());
        let owned = |text: String| Cow::Owned(text.into_bytes());
        for part in parts {
            base.push(match part {
                Part::Literal(text) => Cow::Borrowed(text.as_bytes()),
                Part::Timestamp => Cow::Borrowed(self.claim.timestamp.as_bytes()),
                Part::Id => Cow::Borrowed(self.claim.id.unwrap_or_default().as_bytes()),
                Part::Body => Cow::Borrowed(self.request.body),
                Part::Header(_) => Cow::Borrowed(headers.next().map_or(&[][..], |value| value.as_bytes())),
                Part::Json(part) => owned(self.value(part, parts)?.unwrap_or_default()),
                Part::Lines(lines) => Cow::Owned(self.lines(lines)?),
                Part::Method => owned(self.request.method.to_owned()),
                Part::Url(form) => owned(self.url(*form)),
                Part::Form if self.hashed_query => Cow::Borrowed(&[][..]),
                Part::Form => Cow::Owned(sorted_form(self.request.body)),
                Part::QuerySorted => owned(sorted_query(self.request.query)),
                Part::BodySha256 => owned(HEXLOWER.encode(&self.request.body_hash())),
                Part::BodySha256Raw => Cow::Owned(self.request.body_hash().to_vec()),
                Part::BodyCrc32 => owned(crc32fast::hash(self.request.body).to_string()),
                Part::Principal => owned(self.principal.to_owned()),
                Part::Names => Cow::Borrowed(self.claim.names.as_bytes()),
                Part::NamedValues => {
                    let values: Vec<&str> = self.claim.named.iter().map(|(_, value)| *value).collect();
                    owned(values.join("."))
                }
            });
        }
        Ok(base)
    }

    fn url(&self, form: UrlForm) -> String {
        match form {
            UrlForm::Base => self.url.to_owned(),
            UrlForm::Whole => with_query(self.url, self.request.query),
            UrlForm::Unescaped => unescaped(&with_query(self.url, self.request.query)),
        }
    }

    /// A value of the body. One that is not `free` holds no literal of its base, so that a sender cannot shift
    /// the borders between values.
    fn value(&self, part: &JsonPart, parts: &[Part]) -> Result<Option<String>, Rejection> {
        let Some(text) = self.text(part)? else { return Ok(None) };
        let splits = |part: &Part| match part {
            Part::Literal(literal) => text.contains(literal.as_str()),
            _ => false,
        };
        if !part.free && parts.iter().any(splits) {
            return Err(malformed("a signed value of the body holds what separates the values"));
        }
        Ok(Some(text))
    }

    fn text(&self, part: &JsonPart) -> Result<Option<String>, Rejection> {
        match self.found.get(part.place) {
            Some(Found::Text(text)) if text.len() > VALUE_BYTES_MAX => {
                Err(malformed("a signed value of the body is too long"))
            }
            Some(Found::Text(text)) => Ok(Some(text.clone())),
            Some(Found::Int(number)) => Ok(Some(number.to_string())),
            Some(Found::Bool(value)) => Ok(Some(value.to_string())),
            Some(Found::Absent | Found::Null) | None if part.optional => Ok(None),
            Some(Found::Absent | Found::Null | Found::Other) | None => Err(Rejection::new(
                RejectReason::MissingField,
                "a value of the body that the provider signs is missing, repeated or no text",
            )),
        }
    }

    fn lines(&self, lines: &[(String, JsonPart)]) -> Result<Vec<u8>, Rejection> {
        let mut text = Vec::new();
        for (name, part) in lines {
            let Some(value) = self.text(part)? else { continue };
            if !part.free && value.contains(['\n', '\r']) {
                return Err(malformed("a signed value of the body holds a line end"));
            }
            for piece in [name.as_str(), "\n", &value, "\n"] {
                text.extend_from_slice(piece.as_bytes());
            }
        }
        Ok(text)
    }
}

fn malformed(text: &'static str) -> Rejection {
    Rejection::new(RejectReason::MissingField, text)
}

/// The only value of a query parameter, decoded.
pub(super) fn query_value(query: &str, name: &str) -> Result<Option<Vec<u8>>, Rejection> {
    let mut values = body::form_pairs(query.as_bytes()).filter(|(have, _)| *have == name.as_bytes());
    let value = values.next();
    if values.next().is_some() {
        let text = format!("the query's `{name}` is repeated; send it once");
        return Err(Rejection::new(RejectReason::MalformedHeader, text));
    }
    Ok(value.map(|(_, value)| value))
}

/// Twilio: names in order, and for each its different values in order; name and value without anything between.
/// <https://www.twilio.com/docs/usage/security#validating-requests>
fn sorted_form(body: &[u8]) -> Vec<u8> {
    let mut fields: BTreeMap<Vec<u8>, BTreeSet<Vec<u8>>> = BTreeMap::new();
    for (name, value) in body::form_pairs(body) {
        fields.entry(name).or_default().insert(value);
    }
    let mut text = Vec::with_capacity(body.len());
    for (name, values) in &fields {
        for value in values {
            text.extend_from_slice(name);
            text.extend_from_slice(value);
        }
    }
    text
}

fn sorted_query(query: &str) -> String {
    let mut pairs: Vec<&str> = query.split('&').filter(|pair| !pair.is_empty()).collect();
    pairs.sort_by_key(|pair| pair.split('=').next());
    pairs.join("&")
}

/// The URL as it is, and without its port or with the usual one: senders differ.
fn port_forms(url: &str) -> Vec<String> {
    let mut forms = vec![url.to_owned()];
    let Some((scheme, rest)) = url.split_once("://") else { return forms };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let port = authority.rsplit_once(':').filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()));
    forms.push(match port {
        Some((host, _)) => format!("{scheme}://{host}{path}"),
        None => format!("{scheme}://{authority}:{}{path}", if scheme == "http" { 80 } else { 443 }),
    });
    forms
}

/// HubSpot signs the URL with these escapes undone:
/// <https://developers.hubspot.com/docs/apps/developer-platform/build-apps/authentication/request-validation>
fn unescaped(url: &str) -> String {
    const UNDONE: &[(&str, &str)] = &[
        ("3A", ":"),
        ("2F", "/"),
        ("3F", "?"),
        ("40", "@"),
        ("21", "!"),
        ("24", "$"),
        ("27", "'"),
        ("28", "("),
        ("29", ")"),
        ("2A", "*"),
        ("2C", ","),
        ("3B", ";"),
    ];
    let mut pieces = url.split('%');
    let mut text = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let undone = UNDONE
            .iter()
            .find(|(code, _)| piece.get(..2).is_some_and(|have| have.eq_ignore_ascii_case(code)));
        match undone {
            Some((_, plain)) => {
                text.push_str(plain);
                text.push_str(&piece[2..]);
            }
            None => {
                text.push('%');
                text.push_str(piece);
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_have_two_forms() {
        let forms = |url| port_forms(url);
        assert_eq!(forms("https://a.b/c"), ["https://a.b/c", "https://a.b:443/c"]);
        assert_eq!(forms("http://a.b"), ["http://a.b", "http://a.b:80"]);
        assert_eq!(forms("https://a.b:1234/c:d"), ["https://a.b:1234/c:d", "https://a.b/c:d"]);
        assert_eq!(forms("nonsense"), ["nonsense"]);
    }

    #[test]
    fn only_hubspots_escapes_are_undone() {
        assert_eq!(unescaped("https://a/b%2fc%3Ad%20e%4%e4ö%"), "https://a/b/c:d%20e%4%e4ö%");
    }

    #[test]
    fn forms_are_sorted_and_values_counted_once() {
        assert_eq!(sorted_form(b"b=2&a=3&b=1&b=2&c=%2B+&a"), b"aa3b1b2c+ ");
        assert_eq!(sorted_query("b=2&a=1&&c"), "a=1&b=2&c");
    }

    #[test]
    fn query_values_are_decoded_and_single() {
        assert_eq!(query_value("a=1%202&b=3", "a").unwrap(), Some(b"1 2".to_vec()));
        assert_eq!(query_value("a=1", "b").unwrap(), None);
        assert_eq!(query_value("a=1&a=1", "a").unwrap_err().why, RejectReason::MalformedHeader);
    }
}
