//! How a request proves what it may do: one `Authorization: Bearer` header, judged by an [`Authorizer`].

use crate::http::headers::only_text;
use futures::FutureExt;
use futures::future::BoxFuture;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use ron_actors::passport::{Grant, Passport};
use ron_core::audit::Who;
use ron_core::ids::Topic;
use ron_core::policy::Allowed;
use ron_core::reason::{Reason, Refusal};
use std::sync::Arc;

use ron_core::capability::Token;
pub use ron_core::capability::{Ask, Audience, Op};

/// A verified capability that is asked again after the request was allowed.
pub trait Held: Send + Sync + std::fmt::Debug {
    /// Its name in the audit log.
    fn who(&self) -> Who;

    /// Whether its topic caveats let this topic be seen.
    fn topics_allowed(&self, topic: &Topic) -> bool;

    /// Whether it allows something more than what it was shown for; charges nothing.
    ///
    /// # Errors
    /// SCOPE_MISMATCH.
    fn allows(&self, ask: &Ask<'_>) -> Result<(), Refusal>;

    /// Payload bytes of one message; `None` = as many as the route takes.
    fn message_bytes_max(&self) -> Option<u64>;

    /// Whether it still holds, for a call that waits; charges nothing.
    ///
    /// # Errors
    /// EXPIRED_TOKEN, or UNAUTH once it is revoked.
    fn still_holds(&self, wall_unix_s: u64) -> Result<(), Refusal>;
}

/// Who a request acts for.
#[derive(Debug, Clone, Default)]
pub struct Authority {
    /// `None` = everything (the Unix socket).
    pub held: Option<Arc<dyn Held>>,
    /// What the policy left of it.
    pub allowed: Allowed,
}

impl Authority {
    /// Refuses a message that is too long for this capability, or for the policy.
    ///
    /// # Errors
    /// SCOPE_MISMATCH, POLICY_BLOCKED.
    pub fn check_bytes(&self, bytes: usize) -> Result<(), Refusal> {
        let max = self.held.as_ref().and_then(|held| held.message_bytes_max());
        match max {
            Some(max) if bytes as u64 > max => Err(Refusal::new(
                Reason::ScopeMismatch,
                "the payload is longer than the capability's max_bytes",
            )),
            _ => self.allowed.check_bytes(bytes as u64),
        }
    }

    /// Whether it allows something more, in the same request.
    ///
    /// # Errors
    /// As [`Held::allows`].
    pub fn allows(&self, ask: &Ask<'_>) -> Result<(), Refusal> {
        self.held.as_ref().map_or(Ok(()), |held| held.allows(ask))
    }

    /// Whether `topic` may be seen.
    #[must_use]
    pub fn allows_topic(&self, topic: &Topic) -> bool {
        self.held.as_ref().is_none_or(|held| held.topics_allowed(topic))
    }

    /// Whether a waiting call may go on.
    ///
    /// # Errors
    /// As [`Held::still_holds`].
    pub fn still_holds(&self, wall_unix_s: u64) -> Result<(), Refusal> {
        self.held.as_ref().map_or(Ok(()), |held| held.still_holds(wall_unix_s))
    }
}

/// What an [`Authorizer`] answers: mostly at once, and only then without an allocation.
pub enum Verdict<'a> {
    /// The token is known.
    Now(Result<Authority, Refusal>),
    /// It has to be checked first.
    Later(BoxFuture<'a, Result<Authority, Refusal>>),
}

impl std::fmt::Debug for Verdict<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Verdict::Now(judged) => f.debug_tuple("Now").field(judged).finish(),
            Verdict::Later(_) => f.write_str("Later"),
        }
    }
}

impl Verdict<'_> {
    /// The answer.
    ///
    /// # Errors
    /// As [`Authorizer::authorize`].
    pub async fn given(self) -> Result<Authority, Refusal> {
        match self {
            Verdict::Now(judged) => judged,
            Verdict::Later(judging) => judging.await,
        }
    }
}

/// Judges capabilities.
pub trait Authorizer: Send + Sync {
    /// Whether `token` has the form of one, for a request that says only later what it wants.
    ///
    /// # Errors
    /// UNAUTH.
    fn may_be_one(&self, token: &str) -> Result<(), Refusal>;

    /// Whether `token` allows what is asked. Charges the token's rates, except for settling. Refused with UNAUTH,
    /// EXPIRED_TOKEN, SCOPE_MISMATCH or RATE_LIMIT; a token that is not known also with BACKPRESSURE, or
    /// DOWNSTREAM_UNAVAILABLE while none can be checked.
    fn authorize<'a>(&'a self, token: &'a str, ask: &'a Ask<'a>) -> Verdict<'a>;
}

/// Who may call a router's mailbox routes.
#[derive(Clone)]
pub enum Access {
    /// Whoever brings a capability for this listener.
    Capability(Arc<dyn Authorizer>, Audience),
    /// Whoever got this far: the Unix socket checks the peer's uid.
    Full,
}

impl Access {
    /// Whether a request brings what may be a capability, if one is wanted.
    ///
    /// # Errors
    /// As [`bearer`], and UNAUTH.
    pub fn may_come(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        match self {
            Access::Capability(authorizer, _) => authorizer.may_be_one(bearer(headers)?),
            Access::Full => Ok(()),
        }
    }
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Access::Capability(_, audience) => write!(f, "Capability({audience:?})"),
            Access::Full => f.write_str("Full"),
        }
    }
}

/// The token of the one `Authorization: Bearer` header.
///
/// # Errors
/// MALFORMED for a repeated or unreadable header, UNAUTH for a missing one or another scheme.
pub fn bearer(headers: &HeaderMap) -> Result<&str, Refusal> {
    let value = only_text(headers, &AUTHORIZATION)?;
    let value =
        value.ok_or_else(|| Refusal::new(Reason::Unauth, "send Authorization: Bearer with a capability"))?;
    let token = match value.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => token,
        _ => "",
    };
    if token.is_empty() {
        return Err(Refusal::new(Reason::Unauth, "Authorization must be: Bearer and a capability"));
    }
    Ok(token)
}

impl Held for Grant {
    fn who(&self) -> Who {
        Who::Cap(self.capability.cap_id, self.capability.kid.clone())
    }

    fn topics_allowed(&self, topic: &Topic) -> bool {
        self.capability.topics_allowed(topic)
    }

    fn allows(&self, ask: &Ask<'_>) -> Result<(), Refusal> {
        self.capability.allows(ask).map(drop)
    }

    fn message_bytes_max(&self) -> Option<u64> {
        self.capability.message_bytes_max()
    }

    fn still_holds(&self, wall_unix_s: u64) -> Result<(), Refusal> {
        Grant::still_holds(self, wall_unix_s)
    }
}

impl Authorizer for Passport {
    fn may_be_one(&self, token: &str) -> Result<(), Refusal> {
        Token::parse(token).map(drop).map_err(|why| Refusal::new(Reason::Unauth, why))
    }

    fn authorize<'a>(&'a self, token: &'a str, ask: &'a Ask<'a>) -> Verdict<'a> {
        let authority = |grant: Arc<Grant>| Authority { held: Some(grant), ..Authority::default() };
        match self.authorize_known(token, ask) {
            Some(judged) => Verdict::Now(judged.map(authority)),
            None => Verdict::Later(
                async move { Passport::authorize(self, token, ask).await.map(authority) }.boxed(),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn headers(values: &[&'static [u8]]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(AUTHORIZATION, HeaderValue::from_bytes(value).unwrap());
        }
        headers
    }

    #[test]
    fn exactly_one_bearer_header() {
        assert_eq!(bearer(&headers(&[b"Bearer ron1_x"])).unwrap(), "ron1_x");
        assert_eq!(bearer(&headers(&[b"bearer ron1_x"])).unwrap(), "ron1_x");
        for (bad, reason) in [
            (&[][..], Reason::Unauth),
            (&[b"Basic abc".as_slice()], Reason::Unauth),
            (&[b"Bearer ".as_slice()], Reason::Unauth),
            (&[b"Bearer".as_slice()], Reason::Unauth),
            (&[b"ron1_x".as_slice()], Reason::Unauth),
            (&[b"Bearer a".as_slice(), b"Bearer a".as_slice()], Reason::Malformed),
            (&[b"Bearer \xff".as_slice()], Reason::Malformed),
        ] {
            assert_eq!(bearer(&headers(bad)).unwrap_err().reason, reason, "{bad:?}");
        }
    }
}
