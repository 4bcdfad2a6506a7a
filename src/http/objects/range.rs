//! Conditional and partial requests for an object (RFC 9110 §13, §14). Its entity tag is its address, and its bytes
//! never change.

use crate::http::headers::only_text;
use http::HeaderMap;
use http::header::{IF_NONE_MATCH, IF_RANGE, RANGE};
use ron_core::ids::ContentHash;
use ron_core::reason::Refusal;
use std::ops::Range;

/// Whether the client says that it has the object (`If-None-Match`).
///
/// # Errors
/// MALFORMED if the header is repeated or unreadable.
pub(super) fn known(headers: &HeaderMap, address: &ContentHash) -> Result<bool, Refusal> {
    let Some(tags) = only_text(headers, &IF_NONE_MATCH)? else { return Ok(false) };
    let quoted = format!("\"{address}\"");
    // compared weakly, as this header is
    let fits = |tag: &str| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == quoted;
    Ok(tags.split(',').map(str::trim).any(fits))
}

/// The one range that is wanted; anything else that `Range` may say is not served in part.
pub(super) fn wanted(headers: &HeaderMap, address: &ContentHash, len: u64) -> Option<Range<u64>> {
    let text = only_text(headers, &RANGE).ok()??;
    let still = only_text(headers, &IF_RANGE).ok()?;
    if still.is_some_and(|tag| tag != format!("\"{address}\"")) {
        return None;
    }
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    let number = |text: &str| -> Option<u64> {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if digits { text.parse().ok() } else { None }
    };
    let range = match (first, last) {
        ("", last) => len.saturating_sub(number(last)?)..len,
        (first, "") => number(first)?..len,
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            if last < first {
                return None;
            }
            first..last.saturating_add(1).min(len)
        }
    };
    (range.start < range.end).then_some(range)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderName, HeaderValue};

    fn headers(pairs: &[(HeaderName, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap())).collect()
    }

    #[test]
    fn a_client_that_has_it_says_so_by_its_address() {
        let address = ContentHash::of(b"x");
        let (own, other) = (format!("\"{address}\""), format!("\"{}\"", ContentHash::of(b"y")));
        let weak = format!("{other}, W/{own}");
        for (said, known_then) in [
            (own.as_str(), true),
            (&weak, true),
            ("*", true),
            (&other, false),
            (&address.to_string(), false),
            ("", false),
        ] {
            assert_eq!(known(&headers(&[(IF_NONE_MATCH, said)]), &address), Ok(known_then), "{said}");
        }
        assert_eq!(known(&HeaderMap::new(), &address), Ok(false));
    }

    #[test]
    fn one_range_is_served_and_nothing_else() {
        let address = ContentHash::of(b"x");
        for (said, range) in [
            ("bytes=0-0", Some(0..1)),
            ("bytes=10-19", Some(10..20)),
            ("bytes=90-", Some(90..100)),
            ("bytes=90-500", Some(90..100)),
            ("bytes=-30", Some(70..100)),
            ("bytes=-500", Some(0..100)),
            ("bytes=100-", None),
            ("bytes=-0", None),
            ("bytes=5-4", None),
            ("bytes=0-1,5-6", None),
            ("bytes=+1-2", None),
            ("bytes=a-b", None),
            ("bytes=-", None),
            ("lines=1-2", None),
        ] {
            assert_eq!(wanted(&headers(&[(RANGE, said)]), &address, 100), range, "{said}");
        }
        let if_range = |tag: &str| headers(&[(RANGE, "bytes=0-9"), (IF_RANGE, tag)]);
        assert_eq!(wanted(&if_range(&format!("\"{address}\"")), &address, 100), Some(0..10));
        assert_eq!(wanted(&if_range("\"another\""), &address, 100), None);
        assert_eq!(wanted(&headers(&[(RANGE, "bytes=0-9")]), &address, 0), None);
    }
}
