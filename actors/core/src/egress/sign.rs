//! Signing as Standard Webhooks: `v1` with every shared secret in force, `v1a` with every private key.
//!
//! The arithmetic is the scheme's ([`crate::scheme`]); what egress signs is what ingress of the same scheme verifies.

use crate::ids::Kid;
use crate::scheme::{Scheme, SigningKey, ToSign};
use crate::time::Millis;
use data_encoding::BASE64;

/// Most secrets of one endpoint: those in force all sign, and receivers bound the list.
pub const KEYS_MAX: usize = 10;
/// Bytes of a shared secret (Standard Webhooks: 24 to 64).
const SHARED_BYTES: std::ops::RangeInclusive<usize> = 24..=64;
/// The header that lists signatures.
const SIGNATURE: &str = "webhook-signature";

/// Which signatures a message gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signing {
    /// HMAC-SHA256 with `whsec_` secrets.
    V1,
    /// Ed25519 with `whsk_` private keys.
    V1a,
    /// Both.
    Both,
}

/// A secret that cannot sign; never holds it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadKey(pub String);

/// Signs for one endpoint.
#[derive(Debug, Clone)]
pub struct Signer {
    scheme: Scheme,
    keys: Vec<Key>,
}

#[derive(Debug, Clone)]
struct Key {
    kid: Kid,
    key: SigningKey,
    not_after: Option<Millis>,
}

impl Key {
    fn in_force(&self, wall: Millis) -> bool {
        self.not_after.is_none_or(|end| wall <= end)
    }
}

/// The headers of one attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    /// Id, time and signatures.
    pub headers: Vec<(String, String)>,
    /// Who signed, in the order of the signatures.
    pub kids: Vec<Kid>,
}

impl Signer {
    /// A signer by `scheme`, which must be Standard Webhooks; the secrets as text, each with the end of its time on
    /// the wall clock.
    ///
    /// # Errors
    /// [`BadKey`], naming the KID.
    pub fn new(
        scheme: Scheme,
        signing: Signing,
        secrets: &[(Kid, &str, Option<Millis>)],
    ) -> Result<Signer, BadKey> {
        if secrets.len() > KEYS_MAX {
            return Err(BadKey(format!("must hold at most {KEYS_MAX}: all in force sign every message")));
        }
        let mut keys = Vec::with_capacity(secrets.len());
        let (mut shared, mut private) = (false, false);
        for (kid, text, not_after) in secrets {
            let bad = |what: String| BadKey(format!("kid {kid}: {what}"));
            let is_private = text.starts_with("whsk_");
            match (is_private, signing) {
                (true, Signing::V1) => return Err(bad("is a private key, which signs v1a only".into())),
                (false, Signing::V1a) => {
                    return Err(bad("is no private key (whsk_), which v1a needs".into()));
                }
                (true, Signing::V1a | Signing::Both) => private = true,
                (false, Signing::V1 | Signing::Both) => {
                    check_length(text).map_err(bad)?;
                    shared = true;
                }
            }
            let key = scheme.signing_key(text).map_err(|error| bad(error.to_string()))?;
            keys.push(Key { kid: kid.clone(), key, not_after: *not_after });
        }
        let missing = match signing {
            Signing::V1 | Signing::Both if !shared => Some("a shared secret (whsec_)"),
            Signing::V1a | Signing::Both if !private => Some("a private key (whsk_)"),
            Signing::V1 | Signing::V1a | Signing::Both => None,
        };
        match missing {
            Some(what) => Err(BadKey(format!("must hold {what}"))),
            None => Ok(Signer { scheme, keys }),
        }
    }

    /// The names of all keys.
    pub fn kids(&self) -> impl Iterator<Item = &Kid> {
        self.keys.iter().map(|key| &key.kid)
    }

    /// Whether a key is in force at `wall`.
    #[must_use]
    pub fn has_key_at(&self, wall: Millis) -> bool {
        self.keys.iter().any(|key| key.in_force(wall))
    }

    /// Signs one attempt with all keys in force at `wall`. `id` is [`super::headers::webhook_id`]'s.
    ///
    /// # Errors
    /// [`BadKey`] if none is in force.
    pub fn sign(&self, id: &str, wall: Millis, body: &[u8]) -> Result<Signed, BadKey> {
        let request = ToSign { id: Some(id), ..ToSign::new(wall, body) };
        let mut signed = Signed { headers: Vec::new(), kids: Vec::new() };
        for key in self.keys.iter().filter(|key| key.in_force(wall)) {
            let bad = |what: crate::scheme::SignError| BadKey(format!("kid {}: {what}", key.kid));
            let headers = self.scheme.sign(&key.key, &request).map_err(bad)?.headers;
            signed.kids.push(key.kid.clone());
            if signed.headers.is_empty() {
                signed.headers = headers;
                continue;
            }
            let new = headers.into_iter().find(|(name, _)| name.eq_ignore_ascii_case(SIGNATURE));
            let list = signed.headers.iter_mut().find(|(name, _)| name.eq_ignore_ascii_case(SIGNATURE));
            if let (Some((_, list)), Some((_, new))) = (list, new) {
                list.push(' ');
                list.push_str(&new);
            }
        }
        match signed.kids.is_empty() {
            true => Err(BadKey("no secret is in force: all have ended (not_after)".into())),
            false => Ok(signed),
        }
    }
}

fn check_length(text: &str) -> Result<(), String> {
    let encoded = text.strip_prefix("whsec_").unwrap_or(text);
    // what is no base64 is told by who parses it
    match BASE64.decode(encoded.as_bytes()) {
        Ok(bytes) if !SHARED_BYTES.contains(&bytes.len()) => {
            Err(format!("holds {} bytes; Standard Webhooks wants 24 to 64", bytes.len()))
        }
        Ok(_) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::ProviderName;
    use crate::scheme::{HeaderList, InboundRequest, ProviderRules, ProviderSpec, SchemeSpec, Verdict};
    use bytes::Bytes;
    use proptest::prelude::*;

    const WALL: Millis = Millis(1_614_265_330_000);
    /// The published pair of Standard Webhooks.
    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    fn scheme() -> Scheme {
        let text = include_str!("../../../../config/schemes/standard_webhooks.toml");
        toml::from_str::<SchemeSpec>(text).unwrap().compile("standard_webhooks").unwrap()
    }

    fn kid(name: &str) -> Kid {
        Kid::parse(name).unwrap()
    }

    fn header<'s>(signed: &'s Signed, name: &str) -> &'s str {
        &signed.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).unwrap().1
    }

    /// What an ingress with this secret makes of it.
    fn verdict(secret: &str, signed: &Signed, body: &[u8], wall: Millis) -> Verdict {
        let scheme = scheme();
        let secrets = vec![scheme.parse_secret(kid("theirs"), secret).unwrap()];
        let name = ProviderName::parse("upstream").unwrap();
        let (tolerance_s, dedup_ttl_ms) = (None, None);
        let spec = ProviderSpec { tolerance_s, dedup_ttl_ms, ..ProviderSpec::new(name, scheme, secrets) };
        let headers: HeaderList = signed
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), Bytes::copy_from_slice(value.as_bytes())))
            .collect();
        let request = InboundRequest { method: "POST", query: "", headers: &headers, body };
        ProviderRules::new(spec).unwrap().judge(&request, wall)
    }

    #[test]
    fn signs_the_published_vector() {
        let signer = Signer::new(scheme(), Signing::V1, &[(kid("a"), SECRET, None)]).unwrap();
        let id = "msg_p5jXN8AQM9LWM0D4loKWxJek";
        let signed = signer.sign(id, WALL, br#"{"test": 2432232314}"#).unwrap();
        assert_eq!(header(&signed, SIGNATURE), "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        assert_eq!((header(&signed, "webhook-id"), header(&signed, "webhook-timestamp")), (id, "1614265330"));
    }

    #[test]
    fn all_keys_in_force_sign_and_each_is_enough() {
        let other = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
        let pair = |n: u8| {
            let seed = [n; 32];
            let public = ed25519_dalek::SigningKey::from_bytes(&seed).verifying_key().to_bytes();
            (format!("whsk_{}", BASE64.encode(&seed)), format!("whpk_{}", BASE64.encode(&public)))
        };
        let (private, public) = pair(9);
        let secrets = [
            (kid("old"), SECRET, Some(WALL)),
            (kid("new"), other, None),
            (kid("ed"), private.as_str(), None),
        ];
        let signer = Signer::new(scheme(), Signing::Both, &secrets).unwrap();
        let body = b"{\"type\":\"order.paid\"}";
        let signed = signer.sign("msg-1", WALL, body).unwrap();
        assert_eq!(signed.kids, [kid("old"), kid("new"), kid("ed")]);
        assert_eq!(header(&signed, SIGNATURE).split(' ').count(), 3);
        for theirs in [SECRET, other, &public] {
            assert!(matches!(verdict(theirs, &signed, body, WALL), Verdict::Accept(_)));
        }
        let later = signer.sign("msg-1", WALL.plus(1), body).unwrap();
        assert_eq!(later.kids, [kid("new"), kid("ed")], "the overlap is over");
        assert!(matches!(verdict(SECRET, &later, body, WALL), Verdict::Refuse(_)));
        let (_, stranger) = pair(8);
        assert!(matches!(verdict(&stranger, &signed, body, WALL), Verdict::Refuse(_)));
        let ended = Signer::new(scheme(), Signing::V1, &[(kid("a"), SECRET, Some(WALL))]).unwrap();
        assert!(ended.sign("x", WALL.plus(1), b"").is_err(), "nothing unsigned is ever sent");
    }

    #[test]
    fn keys_that_do_not_fit_are_refused_without_being_told() {
        let private = format!("whsk_{}", BASE64.encode(&[7; 32]));
        let short = format!("whsec_{}", BASE64.encode(&[7; 23]));
        let long = format!("whsec_{}", BASE64.encode(&[7; 65]));
        let public = format!("whpk_{}", BASE64.encode(&[7; 32]));
        for (signing, text, says) in [
            (Signing::V1, private.as_str(), "signs v1a only"),
            (Signing::V1a, SECRET, "which v1a needs"),
            (Signing::Both, SECRET, "must hold a private key"),
            (Signing::Both, &private, "must hold a shared secret"),
            (Signing::V1, &short, "23 bytes"),
            (Signing::V1, &long, "65 bytes"),
            (Signing::V1, "whsec_hunter2", "base64"),
            (Signing::V1, &public, "public key"),
            (Signing::V1a, "whsk_hunter2", "base64"),
        ] {
            let bad = Signer::new(scheme(), signing, &[(kid("k"), text, None)]).unwrap_err().to_string();
            assert!(bad.contains(says) && !bad.contains(&text[6..]), "{text}: {bad}");
        }
        assert!(Signer::new(scheme(), Signing::V1, &[]).is_err());
        let many: Vec<_> = (0..11).map(|n| (kid(&format!("k{n}")), SECRET, None)).collect();
        assert!(Signer::new(scheme(), Signing::V1, &many).is_err());
    }

    proptest! {
        /// Ingress accepts what egress signs, byte for byte, and nothing that differs in one bit of body, id or time.
        #[test]
        fn what_is_signed_is_accepted_and_nothing_else(
            body in prop::collection::vec(any::<u8>(), 1..300), id in "[A-Za-z0-9_.:~+/=@|#$%&*!,;-]{1,64}", seed in any::<[u8; 32]>(),
            bit in any::<prop::sample::Index>(), ed in any::<bool>(),
        ) {
            let (signing, ours, theirs) = match ed {
                true => {
                    let public = ed25519_dalek::SigningKey::from_bytes(&seed).verifying_key().to_bytes();
                    (Signing::V1a, format!("whsk_{}", BASE64.encode(&seed)), format!("whpk_{}", BASE64.encode(&public)))
                }
                false => {
                    let text = format!("whsec_{}", BASE64.encode(&seed));
                    (Signing::V1, text.clone(), text)
                }
            };
            let signer = Signer::new(scheme(), signing, &[(kid("k"), ours.as_str(), None)]).unwrap();
            let signed = signer.sign(&id, WALL, &body).unwrap();
            match verdict(&theirs, &signed, &body, WALL) {
                Verdict::Accept(accepted) => {
                    prop_assert!(accepted.attrs.contains(&("webhook-id".to_owned(), id.clone())));
                }
                other => prop_assert!(false, "{:?}", other),
            }
            let mut flipped = body.clone();
            let at = bit.index(body.len() * 8);
            flipped[at / 8] ^= 1 << (at % 8);
            prop_assert!(matches!(verdict(&theirs, &signed, &flipped, WALL), Verdict::Refuse(_)));
            let mut renamed = signed.clone();
            renamed.headers[0].1.push('x');
            prop_assert!(matches!(verdict(&theirs, &renamed, &body, WALL), Verdict::Refuse(_)));
        }
    }
}
