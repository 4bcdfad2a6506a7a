//! Headers of a request, read without side effects: each at most once, in UTF-8, named when it is wrong.

use crate::http::draft::{DELAY_MS_MAX, Draft, FieldNames, TTL_MS_MIN, malformed};
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue};
use ron_core::ids::ContentHash;
use ron_core::reason::{Reason, Refusal};

const PAYLOAD_HASH: &str = "X-Payload-Hash";
const BODY_REF: &str = "X-Body-Ref";

const NAMES: FieldNames = FieldNames {
    content_type: "Content-Type",
    key: "Idempotency-Key",
    delay: "X-Delay-Ms",
    ttl: "X-Ttl-Ms",
    attr: "X-Attr headers",
};

/// The value of `name` if it is there exactly once and is UTF-8; `None` if it is absent.
pub(super) fn only_text<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Result<Option<&'h str>, Refusal> {
    let mut all = headers.get_all(name).iter();
    match (all.next(), all.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => text(name.as_str(), value).map(Some),
        (Some(_), Some(_)) => Err(repeated(name.as_str())),
    }
}

fn text<'h>(name: &str, value: &'h HeaderValue) -> Result<&'h str, Refusal> {
    std::str::from_utf8(value.as_bytes()).map_err(|_| malformed(format!("header {name} is not UTF-8")))
}

fn repeated(name: &str) -> Refusal {
    malformed(format!("header {name} is repeated"))
}

/// Sets `slot` once.
fn once<T>(slot: &mut Option<T>, name: &str, value: T) -> Result<(), Refusal> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(repeated(name)),
    }
}

fn number(name: &'static str, value: &str, min: u64, max: u64) -> Result<u64, Refusal> {
    let digits = value.bytes().all(|b| b.is_ascii_digit());
    let parsed = if digits { value.parse().ok() } else { None };
    parsed
        .filter(|n| (min..=max).contains(n))
        .ok_or_else(|| malformed(format!("header {name} must be a whole number, {min} to {max}")))
}

fn address(name: &'static str, value: &str) -> Result<ContentHash, Refusal> {
    let bad = |_| malformed(format!("header {name} must be b3: and 64 lower-case hex digits"));
    ContentHash::parse(value).map_err(bad)
}

/// What the sender says the body's hash is.
pub(super) fn payload_hash(headers: &HeaderMap) -> Result<Option<ContentHash>, Refusal> {
    let value = only_text(headers, &HeaderName::from_static("x-payload-hash"))?;
    value.map(|value| address(PAYLOAD_HASH, value)).transpose()
}

/// What an enqueue's headers say about its message (SPEC §4). One walk over the headers.
pub(super) fn enqueue_draft(headers: &HeaderMap) -> Result<Draft, Refusal> {
    let mut draft = Draft::default();
    let mut delay_ms = None;
    for (name, value) in headers {
        match name.as_str() {
            "content-type" => {
                let value = text(NAMES.content_type, value)?.to_owned();
                once(&mut draft.content_type, NAMES.content_type, value)?;
            }
            "idempotency-key" => {
                let value = text(NAMES.key, value)?.to_owned();
                once(&mut draft.idempotency_key, NAMES.key, value)?;
            }
            "x-delay-ms" => {
                let ms = number(NAMES.delay, text(NAMES.delay, value)?, 0, DELAY_MS_MAX)?;
                once(&mut delay_ms, NAMES.delay, ms)?;
            }
            "x-ttl-ms" => {
                let ms = number(NAMES.ttl, text(NAMES.ttl, value)?, TTL_MS_MIN, DELAY_MS_MAX)?;
                once(&mut draft.ttl_ms, NAMES.ttl, ms)?;
            }
            "x-payload-hash" => {
                once(
                    &mut draft.payload_hash,
                    PAYLOAD_HASH,
                    address(PAYLOAD_HASH, text(PAYLOAD_HASH, value)?)?,
                )?;
            }
            "x-body-ref" => {
                once(&mut draft.body_ref, BODY_REF, address(BODY_REF, text(BODY_REF, value)?)?)?;
            }
            other => {
                if let Some(attr) = other.strip_prefix("x-attr-") {
                    if draft.attrs.iter().any(|(known, _)| known == attr) {
                        return Err(repeated(other));
                    }
                    draft.attrs.push((attr.to_owned(), text(other, value)?.to_owned()));
                }
            }
        }
    }
    draft.delay_ms = delay_ms.unwrap_or(0);
    draft.check(NAMES)?;
    Ok(draft)
}

/// Refuses any content coding.
pub(super) fn plain_body(headers: &HeaderMap) -> Result<(), Refusal> {
    if headers.contains_key(CONTENT_ENCODING) {
        return Err(Refusal::new(Reason::UnsupportedEncoding, "send the body without Content-Encoding"));
    }
    Ok(())
}

/// Accepts JSON: no content coding, and `application/json` or no content type.
pub(super) fn json_body(headers: &HeaderMap) -> Result<(), Refusal> {
    plain_body(headers)?;
    let Some(content_type) = only_text(headers, &CONTENT_TYPE)? else {
        return Ok(());
    };
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    Err(Refusal::new(Reason::UnsupportedEncoding, "Content-Type must be application/json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &[u8])]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_bytes(value).unwrap(),
            );
        }
        headers
    }

    #[test]
    fn an_enqueue_with_everything() {
        let hash = ContentHash::of(b"x");
        let draft = enqueue_draft(&map(&[
            ("Content-Type", b"text/plain; charset=utf-8"),
            ("Idempotency-Key", b"order-1"),
            ("X-Delay-Ms", b"10"),
            ("X-Ttl-Ms", b"1000"),
            ("X-Payload-Hash", hash.to_string().as_bytes()),
            ("X-Attr-Zone", "é".as_bytes()),
            ("X-ATTR-a_b", b""),
            ("User-Agent", b"\xff"),
        ]))
        .unwrap();
        let expected = Draft {
            content_type: Some("text/plain; charset=utf-8".into()),
            idempotency_key: Some("order-1".into()),
            delay_ms: 10,
            ttl_ms: Some(1000),
            payload_hash: Some(hash),
            body_ref: None,
            attrs: vec![("zone".into(), "é".into()), ("a_b".into(), String::new())],
        };
        assert_eq!(draft, expected);
        assert_eq!(enqueue_draft(&HeaderMap::new()).unwrap(), Draft::default());
    }

    const A_HASH: &[u8] = b"b3:af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";

    #[test]
    fn bad_headers_are_named() {
        type Pairs = [(&'static str, &'static [u8])];
        let bad: &[(&Pairs, &str)] = &[
            (&[("X-Delay-Ms", b"-1")], "X-Delay-Ms"),
            (&[("X-Delay-Ms", b"+1")], "X-Delay-Ms"),
            (&[("X-Delay-Ms", b"1.5")], "X-Delay-Ms"),
            (&[("X-Delay-Ms", b"")], "X-Delay-Ms"),
            (&[("X-Delay-Ms", b"99999999999999999999")], "X-Delay-Ms"),
            (&[("X-Delay-Ms", b"2592000001")], "X-Delay-Ms"),
            (&[("X-Delay-Ms", b"1"), ("X-Delay-Ms", b"1")], "X-Delay-Ms is repeated"),
            (&[("X-Ttl-Ms", b"99")], "X-Ttl-Ms"),
            (&[("X-Ttl-Ms", b"2592000001")], "X-Ttl-Ms"),
            (&[("X-Ttl-Ms", b"500"), ("X-Delay-Ms", b"500")], "X-Delay-Ms must be less than X-Ttl-Ms"),
            (&[("Idempotency-Key", b"")], "Idempotency-Key"),
            (&[("Idempotency-Key", b"a b")], "Idempotency-Key"),
            (&[("Idempotency-Key", b"a"), ("Idempotency-Key", b"a")], "Idempotency-Key is repeated"),
            (&[("Idempotency-Key", b"\xff")], "Idempotency-Key is not UTF-8"),
            (&[("Content-Type", b"\xff\xfe")], "Content-Type is not UTF-8"),
            (&[("Content-Type", b"a/b"), ("Content-Type", b"a/b")], "Content-Type is repeated"),
            (&[("X-Payload-Hash", b"b3:00")], "X-Payload-Hash"),
            (&[("X-Body-Ref", b"b3:00")], "X-Body-Ref"),
            (&[("X-Body-Ref", A_HASH), ("X-Body-Ref", A_HASH)], "X-Body-Ref is repeated"),
            (&[("X-Attr-a.b", b"x")], "X-Attr"),
            (&[("X-Attr-", b"x")], "X-Attr"),
            (&[("X-Attr-z", b"\xc3\x28")], "x-attr-z is not UTF-8"),
            (&[("X-Attr-z", b"1"), ("x-attr-Z", b"2")], "x-attr-z is repeated"),
        ];
        for (pairs, name) in bad {
            let refusal = enqueue_draft(&map(pairs)).unwrap_err();
            assert_eq!(refusal.reason, Reason::Malformed, "{pairs:?}");
            assert!(refusal.text.contains(name), "{:?} should name {name}", refusal.text);
        }
    }

    #[test]
    fn json_bodies_are_plain_json() {
        for good in [&[][..], &[("Content-Type", b"Application/JSON ; charset=utf-8".as_slice())]] {
            assert_eq!(json_body(&map(good)), Ok(()));
        }
        for (bad, reason) in [
            (&[("Content-Type", b"text/plain".as_slice())][..], Reason::UnsupportedEncoding),
            (&[("Content-Type", b"application/jsonx")], Reason::UnsupportedEncoding),
            (&[("Content-Encoding", b"gzip")], Reason::UnsupportedEncoding),
            (&[("Content-Encoding", b"identity")], Reason::UnsupportedEncoding),
            (&[("Content-Type", b"\xff")], Reason::Malformed),
        ] {
            assert_eq!(json_body(&map(bad)).unwrap_err().reason, reason, "{bad:?}");
        }
    }
}
