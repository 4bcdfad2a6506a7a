//! Capabilities: bearer tokens that anyone can narrow and nobody can widen (SPEC §5).
//!
//! A token is a macaroon over keyed BLAKE3: a root MAC over key id, tenant and nonce, and one more MAC a
//! caveat. [`verify`] proves who made it; [`Capability::allows`] judges one request by every caveat. Nothing
//! here ever puts a token or a key into an error.

mod caveat;
mod keyring;
mod mint;
mod revocation;
mod token;

pub use caveat::{Ask, Audience, Caveat, Op, RateLimit, SKEW_S, TopicPattern};
pub use keyring::{KEYS_MAX, KeyEntry, Keyring, RootKey, Rotated, TooManyKeys};
pub use mint::{MintRequest, WEBHOOK_TTL_S, egress_caveats, webhook_caveats};
pub use revocation::{
    REVOCATIONS_MAX, REVOCATIONS_PER_CALL_MAX, Revocation, RevokeRequest, Revoked, TooMany,
};
pub use token::{CAVEATS_MAX, PREFIX, TEXT_BYTES_MAX, Token, attenuate, make, mint};

use crate::ids::{Kid, Tenant, Topic};
use crate::reason::{Reason, Refusal};
use std::net::IpAddr;

/// A token's public name in logs, metrics and audit: the first 16 hex digits of `blake3("cap-id" ‖ nonce)`. A
/// token and everything attenuated from it share one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CapId([u8; 8]);

impl CapId {
    /// The id of tokens with this nonce.
    #[must_use]
    pub fn of(nonce: &[u8; 16]) -> CapId {
        let hash = blake3::Hasher::new().update(b"cap-id").update(nonce).finalize();
        let mut id = [0; 8];
        id.copy_from_slice(&hash.as_bytes()[..8]);
        CapId(id)
    }

    /// A number below `n` that spreads ids evenly: which of `n` parts of a table an id belongs to.
    #[must_use]
    pub const fn spread(self, n: usize) -> usize {
        self.0[0] as usize % n
    }

    /// Reads an id: exactly 16 lowercase hex digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<CapId> {
        let bytes = data_encoding::HEXLOWER.decode(text.as_bytes()).ok()?;
        <[u8; 8]>::try_from(bytes).ok().map(CapId)
    }
}

impl std::fmt::Display for CapId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

/// A token whose MAC held: who it is for, and what narrows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capability {
    /// Its public name.
    pub cap_id: CapId,
    /// The key it was made with.
    pub kid: Kid,
    /// The tenant it belongs to.
    pub tenant: Tenant,
    links: Vec<Link>,
}

/// A caveat and the MAC just after it. `None` = unknown or unparsable: it denies everything.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Link {
    caveat: Option<Caveat>,
    mac: [u8; 32],
}

/// The public name of a token and of its key, as the text claims: nothing is checked but the form. For the audit of
/// what was refused.
#[must_use]
pub fn claimed(text: &str) -> Option<(CapId, Kid)> {
    let token = Token::parse(text).ok()?;
    Some((CapId::of(&token.nonce), Kid::parse(&token.kid).ok()?))
}

/// Checks a token's form and MAC, and that it starts with an expiry. Says nothing yet about what it allows.
///
/// # Errors
/// UNAUTH. The text says what is wrong with the form, and never holds any of the token.
pub fn verify(text: &str, keyring: &Keyring, wall_unix_s: u64) -> Result<Capability, Refusal> {
    let unauth = |why: &'static str| Refusal::new(Reason::Unauth, why);
    if text.starts_with("ron2_") {
        return Err(unauth("capability: the prefix ron2_ is reserved and not accepted yet"));
    }
    verify_token(&Token::parse(text).map_err(unauth)?, keyring, wall_unix_s)
}

/// [`verify`] for a token that was not read from its text.
///
/// # Errors
/// As there.
pub fn verify_token(token: &Token, keyring: &Keyring, wall_unix_s: u64) -> Result<Capability, Refusal> {
    let unauth = |why: &'static str| Refusal::new(Reason::Unauth, why);
    // an unknown key and a wrong MAC read the same, so that nobody can probe for key ids
    let wrong = || unauth("capability: does not verify");
    let kid = Kid::parse(&token.kid).map_err(|_| wrong())?;
    let tenant = Tenant::parse(&token.tenant).map_err(|_| wrong())?;
    let key = keyring.key(&kid, wall_unix_s).ok_or_else(wrong)?;
    let macs = token.chain(key);
    if !token.mac_is(&macs) {
        return Err(wrong());
    }
    if !token.caveats.first().is_some_and(|first| first.starts_with("exp = ")) {
        return Err(unauth("capability: the first caveat is not `exp`"));
    }
    let links = token.caveats.iter().zip(macs.into_iter().skip(1)).enumerate();
    let links = links.map(|(at, (text, mac))| Link { caveat: Caveat::parse(text, at), mac }).collect();
    Ok(Capability { cap_id: CapId::of(&token.nonce), kid, tenant, links })
}

impl Capability {
    /// Judges one request by every caveat. What it returns must still be charged: one token of each bucket.
    ///
    /// # Errors
    /// EXPIRED_TOKEN outside of `nbf..exp` (30 s of skew allowed), else SCOPE_MISMATCH naming the caveat's
    /// key.
    pub fn allows(&self, ask: &Ask<'_>) -> Result<Vec<RateLimit>, Refusal> {
        self.in_time(ask.wall_unix_s)?;
        if self.tenant != *ask.tenant {
            return Err(mismatch("capability: belongs to another tenant"));
        }
        let mut limits = Vec::new();
        for link in &self.links {
            let Some(caveat) = &link.caveat else {
                return Err(mismatch("capability: has a caveat that is unknown or cannot be read"));
            };
            if let Some(why) = caveat.denies(ask) {
                return Err(mismatch(why));
            }
            if let (Caveat::Rps(per_second), false) = (caveat, ask.op.settles()) {
                limits.push(RateLimit { mac: link.mac, per_second: *per_second });
            }
        }
        Ok(limits)
    }

    /// Whether requests are charged to a rate: then each of them has to be judged by itself.
    #[must_use]
    pub fn is_metered(&self) -> bool {
        self.links.iter().any(|link| matches!(link.caveat, Some(Caveat::Rps(_))))
    }

    /// Whether the token is in its time; what a long poll or a stream asks again while it waits.
    ///
    /// # Errors
    /// EXPIRED_TOKEN.
    pub fn in_time(&self, wall_unix_s: u64) -> Result<(), Refusal> {
        for link in &self.links {
            match link.caveat {
                Some(Caveat::Exp(at)) if wall_unix_s >= at.saturating_add(SKEW_S) => {
                    return Err(Refusal::new(Reason::ExpiredToken, "capability: expired (`exp`)"));
                }
                Some(Caveat::Nbf(at)) if wall_unix_s.saturating_add(SKEW_S) < at => {
                    return Err(Refusal::new(Reason::ExpiredToken, "capability: not valid yet (`nbf`)"));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Whether the `topic` caveats let this topic be seen, for lists that show only what a token allows.
    #[must_use]
    pub fn topics_allowed(&self, topic: &Topic) -> bool {
        self.caveats().all(|caveat| match caveat {
            Caveat::Topic(pattern) => pattern.matches(topic),
            _ => true,
        })
    }

    /// The first second at which the token is no longer accepted, skew included; `None` = never.
    #[must_use]
    pub fn ends_unix_s(&self) -> Option<u64> {
        let exp = |caveat: &Caveat| if let Caveat::Exp(at) = caveat { Some(*at) } else { None };
        self.caveats().filter_map(exp).min().map(|at| at.saturating_add(SKEW_S))
    }

    /// The largest message the token may enqueue, in bytes; `None` = as large as the route allows.
    #[must_use]
    pub fn message_bytes_max(&self) -> Option<u64> {
        let bytes = |caveat: &Caveat| if let Caveat::MaxBytes(max) = caveat { Some(*max) } else { None };
        self.caveats().filter_map(bytes).min()
    }

    fn caveats(&self) -> impl Iterator<Item = &Caveat> {
        self.links.iter().filter_map(|link| link.caveat.as_ref())
    }
}

fn mismatch(why: &'static str) -> Refusal {
    Refusal::new(Reason::ScopeMismatch, why)
}

/// The peer as caveats see it: an IPv4 address that came in over an IPv6 socket counts as IPv4.
fn canonical(peer: IpAddr) -> IpAddr {
    peer.to_canonical()
}

#[cfg(test)]
mod tests;
