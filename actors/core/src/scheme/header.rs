//! Reading headers strictly: one value each, printable, signatures and times exactly as the scheme writes
//! them. Nothing here has been verified yet.

use super::spec::{Encoding, TimeUnit};
use super::{RejectReason, Rejection};
use bytes::Bytes;
use data_encoding::{BASE64, HEXLOWER, HEXLOWER_PERMISSIVE};
use std::fmt;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Most entries of a signature list; more is refused, so that a request cannot buy work with a long header.
pub const LIST_ENTRIES_MAX: usize = 100;
/// Most public-key signatures tried in one request, for the same reason.
pub const ASYMMETRIC_TRIES_MAX: usize = 10;
/// Longest id or type taken from a request, in bytes.
pub const FIELD_BYTES_MAX: usize = 256;

/// The headers of a request in the order sent, repeated ones included. Names are lower case.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct HeaderList(Vec<(String, Bytes)>);

impl fmt::Debug for HeaderList {
    /// Without values: some are secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

impl HeaderList {
    /// No headers.
    #[must_use]
    pub fn new() -> HeaderList {
        HeaderList::default()
    }

    /// Adds a header; its name is folded to lower case.
    pub fn push(&mut self, name: &str, value: impl Into<Bytes>) {
        self.0.push((name.to_ascii_lowercase(), value.into()));
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_ref()))
    }

    /// The only value of a header, as text; `None` if it was not sent.
    pub(super) fn one(&self, name: &HeaderName) -> Result<Option<&str>, Rejection> {
        let mut values = self.0.iter().filter(|(have, _)| *have == name.lower);
        let Some((_, value)) = values.next() else { return Ok(None) };
        if values.next().is_some() {
            return Err(Rejection::new(
                RejectReason::MalformedHeader,
                format!("header `{}` is repeated; send it once", name.shown),
            ));
        }
        match std::str::from_utf8(value) {
            Ok(text) if text.bytes().all(|b| (0x20..=0x7e).contains(&b)) => Ok(Some(text)),
            _ => Err(malformed(name, "holds bytes that are not printable ASCII")),
        }
    }

    /// As [`HeaderList::one`], where the scheme cannot do without it.
    pub(super) fn needed(&self, name: &HeaderName) -> Result<&str, Rejection> {
        self.one(name)?.ok_or_else(|| {
            let text = format!("header `{}` is missing; the provider's scheme signs with it", name.shown);
            Rejection::new(RejectReason::MissingHeader, text)
        })
    }

    /// An id or type that the signature does not cover: at most [`FIELD_BYTES_MAX`].
    pub(super) fn hint(&self, name: &HeaderName) -> Result<Option<&str>, Rejection> {
        match self.one(name)? {
            Some(text) if text.len() > FIELD_BYTES_MAX => Err(malformed(name, "is longer than 256 bytes")),
            other => Ok(other.filter(|text| !text.is_empty())),
        }
    }

    /// A value that is signed next to the body. In a base such as `{id}.{timestamp}.{body}` a sender could
    /// otherwise shift the borders and have the start of one signed body pass as the id of another event: no
    /// body that is JSON starts without a character that is refused here.
    pub(super) fn signed_id(&self, name: &HeaderName) -> Result<&str, Rejection> {
        let text = self.needed(name)?;
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.:~+/=@|#$%&*!,;".contains(&b);
        if !(1..=FIELD_BYTES_MAX).contains(&text.len()) || !text.bytes().all(plain) {
            return Err(malformed(name, "must be 1-256 characters without spaces, quotes or brackets"));
        }
        Ok(text)
    }
}

impl<N: AsRef<str>, V: Into<Bytes>> FromIterator<(N, V)> for HeaderList {
    fn from_iter<T: IntoIterator<Item = (N, V)>>(from: T) -> Self {
        let mut list = HeaderList::new();
        for (name, value) in from {
            list.push(name.as_ref(), value);
        }
        list
    }
}

/// A header's name: as the vendor writes it, and as requests are searched for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HeaderName {
    pub(super) shown: String,
    pub(super) lower: String,
}

impl HeaderName {
    /// Parses a name that may contain `{prefix}`.
    pub(super) fn parse(text: &str, prefix: &str) -> Result<HeaderName, String> {
        let shown = text.replace("{prefix}", prefix);
        let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        if shown.is_empty() || !shown.bytes().all(token) {
            return Err(format!("must be a header name such as `X-Signature`, not `{shown}`"));
        }
        let lower = shown.to_ascii_lowercase();
        Ok(HeaderName { shown, lower })
    }
}

/// A malformed header, named, with what is wrong with it.
pub(super) fn malformed(name: &HeaderName, what: &str) -> Rejection {
    Rejection::new(RejectReason::MalformedHeader, format!("header `{}` {what}", name.shown))
}

/// Entries of a list header, as (key, value).
pub(super) fn list_entries<'h>(
    name: &HeaderName,
    text: &'h str,
    separator: &str,
    assign: &str,
) -> Result<Vec<(&'h str, &'h str)>, Rejection> {
    let mut entries = Vec::new();
    for entry in text.split(separator) {
        if entries.len() == LIST_ENTRIES_MAX {
            return Err(malformed(name, "has more than 100 entries"));
        }
        let Some(pair) = entry.split_once(assign) else {
            return Err(malformed(name, &format!("has an entry without `{assign}`")));
        };
        entries.push(pair);
    }
    Ok(entries)
}

/// Decodes a signature; `None` if it is not exactly in this encoding.
pub(super) fn decode(encoding: Encoding, text: &str) -> Option<Vec<u8>> {
    match encoding {
        Encoding::Hex => HEXLOWER.decode(text.as_bytes()).ok(),
        Encoding::HexAnyCase => HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok(),
        Encoding::Base64 => BASE64.decode(text.as_bytes()).ok(),
    }
}

/// Writes a signature.
pub(super) fn encode(encoding: Encoding, bytes: &[u8]) -> String {
    match encoding {
        Encoding::Hex | Encoding::HexAnyCase => HEXLOWER.encode(bytes),
        Encoding::Base64 => BASE64.encode(bytes),
    }
}

/// Parses a time to milliseconds since the Unix epoch: ASCII digits only, no sign, no space, no exponent.
pub(super) fn parse_time(unit: TimeUnit, text: &str) -> Option<u64> {
    let digits = || {
        let plain = (1..=15).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
        if plain { text.parse::<u64>().ok() } else { None }
    };
    match unit {
        TimeUnit::Seconds => digits()?.checked_mul(1000),
        TimeUnit::Millis => digits(),
        TimeUnit::Rfc3339 => {
            let at = OffsetDateTime::parse(text, &Rfc3339).ok()?;
            u64::try_from(at.unix_timestamp_nanos() / 1_000_000).ok()
        }
    }
}

/// Writes a time.
pub(super) fn write_time(unit: TimeUnit, at_ms: u64) -> String {
    match unit {
        TimeUnit::Seconds => (at_ms / 1000).to_string(),
        TimeUnit::Millis => at_ms.to_string(),
        TimeUnit::Rfc3339 => crate::time::Millis(at_ms).rfc3339(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_plain_digits() {
        assert_eq!(parse_time(TimeUnit::Seconds, "1700000000"), Some(1_700_000_000_000));
        assert_eq!(parse_time(TimeUnit::Millis, "1700000000123"), Some(1_700_000_000_123));
        for bad in ["", " 1", "1 ", "+1", "-1", "1e9", "1.0", "Infinity", "0x1", "١", "1234567890123456"] {
            assert_eq!(parse_time(TimeUnit::Seconds, bad), None, "{bad}");
        }
        let rfc = parse_time(TimeUnit::Rfc3339, "2020-01-01T00:00:00-07:00");
        assert_eq!(rfc, Some(1_577_862_000_000));
        assert_eq!(parse_time(TimeUnit::Rfc3339, "1969-01-01T00:00:00Z"), None);
    }

    #[test]
    fn encodings_are_canonical() {
        assert_eq!(decode(Encoding::Hex, "0aff"), Some(vec![10, 255]));
        assert_eq!(decode(Encoding::Hex, "0AFF"), None);
        assert_eq!(decode(Encoding::HexAnyCase, "0AFF"), Some(vec![10, 255]));
        assert_eq!(decode(Encoding::Base64, "aGk="), Some(b"hi".to_vec()));
        for bad in ["aGk", "aGl=", "aGk=\n", "a_k=", "aGk=="] {
            assert_eq!(decode(Encoding::Base64, bad), None, "{bad}");
        }
    }

    #[test]
    fn lists_are_capped() {
        let name = HeaderName::parse("X", "").unwrap();
        let long = vec!["v1=aa"; LIST_ENTRIES_MAX + 1].join(",");
        let entries = list_entries(&name, &long, ",", "=");
        assert_eq!(entries.unwrap_err().why, RejectReason::MalformedHeader);
        let fits = vec!["v1=aa"; LIST_ENTRIES_MAX].join(",");
        assert_eq!(list_entries(&name, &fits, ",", "=").unwrap().len(), LIST_ENTRIES_MAX);
    }
}
