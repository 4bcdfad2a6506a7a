//! Challenges: the answers by which a provider makes sure that the URL is ours. An answer that holds a MAC must
//! never be of use as a signature: only short texts without the characters of an event or of any base string are
//! answered, and an event that is such a text is not taken from a provider with such challenges.

use super::base::query_value;
use super::header::{HeaderList, HeaderName, encode};
use super::spec::{Algorithm, Encoding};
use super::{AcceptReply, Handshake, RejectReason, Rejection, Secret};
use crate::ids::Kid;
use crate::time::Millis;
use subtle::ConstantTimeEq;

/// Longest challenge that is sent back, in bytes.
pub const CHALLENGE_BYTES_MAX: usize = 512;
/// Longest challenge whose MAC is sent back, in bytes.
pub const MAC_CHALLENGE_BYTES_MAX: usize = 128;

/// Nothing that a provider had us say is to be taken for a page.
const HANDSHAKE_HEADERS: &[(&str, &str)] = &[("x-content-type-options", "nosniff")];

/// A challenge that comes by GET.
#[derive(Debug, Clone)]
pub(super) struct GetChallenge {
    pub(super) query: Vec<(String, String)>,
    pub(super) token: Option<String>,
    pub(super) from: ChallengePlace,
    pub(super) mac: Option<(Algorithm, Encoding)>,
    pub(super) reply: AcceptReply,
}

#[derive(Debug, Clone)]
pub(super) enum ChallengePlace {
    Query(String),
    Header(HeaderName),
}

/// What a challenge is answered from.
pub(super) struct Answering<'a> {
    pub(super) secrets: &'a [Secret],
    pub(super) verify_tokens: &'a [String],
    pub(super) now: Option<Millis>,
}

impl GetChallenge {
    /// The answer; `None` if the request is not this challenge.
    pub(super) fn answer(
        &self,
        query: &str,
        headers: &HeaderList,
        with: &Answering<'_>,
    ) -> Option<Result<Handshake, Rejection>> {
        let challenge = match &self.from {
            ChallengePlace::Query(name) => match query_value(query, name) {
                Ok(found) => found.map(|bytes| String::from_utf8(bytes).unwrap_or_default())?,
                Err(rejection) => return Some(Err(rejection)),
            },
            ChallengePlace::Header(name) => match headers.one(name) {
                Ok(found) => found?.to_owned(),
                Err(rejection) => return Some(Err(rejection)),
            },
        };
        Some(self.allowed(query, with).and_then(|kid| {
            let secret = with.secrets.iter().find(|secret| secret.in_force(with.now));
            let mac = self.mac.zip(secret);
            let kid = kid.or_else(|| mac.map(|(_, secret)| secret.kid().clone()));
            answer(&challenge, mac, &self.reply, kid)
        }))
    }

    /// Whether its fixed parameters and its token are right.
    fn allowed(&self, query: &str, with: &Answering<'_>) -> Result<Option<Kid>, Rejection> {
        let denied = |text: &'static str| Rejection::new(RejectReason::ChallengeDenied, text);
        for (name, wanted) in &self.query {
            if query_value(query, name)?.as_deref() != Some(wanted.as_bytes()) {
                return Err(denied("the query is not that of this provider's challenge"));
            }
        }
        let Some(name) = &self.token else { return Ok(None) };
        let wrong = || denied("the verify token is not one that is configured");
        let sent = query_value(query, name)?.ok_or_else(wrong)?;
        let sent = String::from_utf8(sent).map_err(|_| wrong())?;
        if with.verify_tokens.is_empty() {
            let known = with.secrets.iter().filter(|secret| secret.in_force(with.now));
            let known = known.fold(None, |any, secret| if secret.is(&sent) { Some(secret) } else { any });
            return known.map(|secret| Some(secret.kid().clone())).ok_or_else(wrong);
        }
        let same = |any, token: &String| any | bool::from(token.as_bytes().ct_eq(sent.as_bytes()));
        if with.verify_tokens.iter().fold(false, same) { Ok(None) } else { Err(wrong()) }
    }
}

/// Answers one challenge.
pub(super) fn answer(
    challenge: &str,
    mac: Option<((Algorithm, Encoding), &Secret)>,
    reply: &AcceptReply,
    kid: Option<Kid>,
) -> Result<Handshake, Rejection> {
    let (longest, what) = match mac {
        Some(_) => (MAC_CHALLENGE_BYTES_MAX, "1 to 128 characters of `A-Za-z0-9+/=_-`"),
        None => (CHALLENGE_BYTES_MAX, "a text of 1 to 512 printable ASCII bytes"),
    };
    let fits = |b: u8| if mac.is_some() { is_mac_character(b) } else { (0x20..=0x7e).contains(&b) };
    if !(1..=longest).contains(&challenge.len()) || !challenge.bytes().all(fits) {
        return Err(Rejection::new(RejectReason::BadChallenge, format!("the challenge must be {what}")));
    }
    let mac = match mac {
        Some(((algorithm, encoding), secret)) => match secret.mac_of(algorithm, challenge) {
            Some(mac) => encode(encoding, &mac),
            None => return Err(Rejection::new(RejectReason::CannotVerify, "the secret makes no MAC")),
        },
        None => String::new(),
    };
    let (content_type, body) = match reply.body.clone() {
        Some((content_type, body)) => (content_type, body),
        None => (Some("text/plain".to_owned()), "{challenge}".to_owned()),
    };
    let json = content_type.as_deref().is_some_and(|kind| kind.starts_with("application/json"));
    let shown = if json { escaped(challenge) } else { challenge.to_owned() };
    let body = body.replace("{mac}", &mac).replace("{challenge}", &shown);
    Ok(handshake(kid, reply.status, content_type, body))
}

/// Inside a JSON string. The text is printable ASCII.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"")
}

pub(super) fn handshake(
    kid: Option<Kid>,
    status: u16,
    content_type: Option<String>,
    body: String,
) -> Handshake {
    Handshake { kid, status, content_type, body, headers: HANDSHAKE_HEADERS, confirm: None }
}

fn is_mac_character(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"+/=_-".contains(&b)
}

/// Whether a base string could be had signed by asking for it as a challenge.
pub(super) fn may_be_challenge<B: AsRef<[u8]>>(base: &[B]) -> bool {
    let mut bytes = 0;
    base.iter().all(|piece| {
        bytes += piece.as_ref().len();
        bytes <= MAC_CHALLENGE_BYTES_MAX && piece.as_ref().iter().all(|b| is_mac_character(*b))
    })
}

/// A host that may be visited: `*` in a pattern is one label of three or more letters, digits and `-`.
pub(super) fn host_allowed(host: &str, patterns: &[String]) -> bool {
    let label = |text: &str| text.len() >= 3 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    patterns.iter().any(|pattern| {
        let (have, want): (Vec<&str>, Vec<&str>) = (host.split('.').collect(), pattern.split('.').collect());
        have.len() == want.len()
            && have.iter().zip(&want).all(|(have, want)| match *want {
                "*" => label(have),
                want => have.eq_ignore_ascii_case(want),
            })
    })
}

/// An https URL on one of these hosts, without port, user or fragment, whose path ends as it must.
pub(super) fn url_allowed(url: &str, hosts: &[String], suffix: &str) -> bool {
    let Some(rest) = url.strip_prefix("https://") else { return false };
    let (host, path) = rest.split_at(rest.find(['/', '?', '#', '\\']).unwrap_or(rest.len()));
    url.len() <= 2048
        && url.bytes().all(|b| b.is_ascii_graphic() && b != b'\\' && b != b'#')
        && host_allowed(host, hosts)
        && path.split('?').next().unwrap_or_default().ends_with(suffix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_on_the_vendors_hosts() {
        let hosts = ["sns.*.amazonaws.com".to_owned(), "sns.*.amazonaws.com.cn".to_owned()];
        let good = |url: &str| url_allowed(url, &hosts, ".pem");
        assert!(good("https://sns.us-west-2.amazonaws.com/a.pem"));
        assert!(good("https://SNS.cn-north-1.amazonaws.com.cn/a.pem"));
        for bad in [
            "http://sns.us-west-2.amazonaws.com/a.pem",
            "https://sns.us-west-2.amazonaws.com/a.pem.txt",
            "https://sns.us-west-2.amazonaws.com.evil.example/a.pem",
            "https://sns.us-west-2.amazonaws.com:444/a.pem",
            "https://sns.us-west-2.amazonaws.com@evil.example/a.pem",
            "https://u@sns.us-west-2.amazonaws.com/a.pem",
            "https://sns.us-west-2.amazonaws.com#/a.pem",
            "https://sns.us-west-2.amazonaws.com\\.evil.example/a.pem",
            "https://sns.x.amazonaws.com/a.pem",
            "https://sns.a.b.amazonaws.com/a.pem",
            "https://evil.example/sns.us-west-2.amazonaws.com/a.pem",
            "https://sns.us-west-2.amazonaws.com",
            "https:///a.pem",
        ] {
            assert!(!good(bad), "{bad}");
        }
    }

    #[test]
    fn a_base_string_is_no_challenge_unless_it_looks_like_one() {
        assert!(may_be_challenge(&["abc", "DEF=="]));
        assert!(may_be_challenge::<&str>(&[]));
        assert!(!may_be_challenge(&["v0:", "1"]));
        assert!(!may_be_challenge(&["{}"]));
        assert!(!may_be_challenge(&["a".repeat(100), "a".repeat(29)]));
    }
}
