//! Secrets and the arithmetic on them. Nothing here prints a key.

use super::private::PrivateKey;
use super::public::{self, PublicKey};
use super::spec::{Algorithm, KeyFormat};
use crate::ids::Kid;
use crate::rotation::{Listed, Window};
use crate::time::Millis;
use data_encoding::{BASE64, HEXLOWER, HEXLOWER_PERMISSIVE};
use ed25519_dalek::Signer;
use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;
use sha2::{Digest, Sha256, Sha384, Sha512};
use std::fmt;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// Longest secret text accepted, in bytes.
pub const SECRET_BYTES_MAX: usize = 4096;

/// Why a secret was not accepted. Never holds the secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// Nothing in it.
    #[error("the secret is empty or unset; set its variable or file")]
    Empty,
    /// More than [`SECRET_BYTES_MAX`].
    #[error("the secret is longer than 4096 bytes")]
    TooLong,
    /// Not in the scheme's `key_format`.
    #[error("the secret is not {0}")]
    Format(&'static str),
    /// A private key where the public one belongs, or the reverse.
    #[error("this is {0}")]
    WrongHalf(&'static str),
    /// A public key with which anything can be signed.
    #[error("the public key is a weak Ed25519 point; copy it again from the provider")]
    WeakKey,
    /// A key of another kind than the scheme's.
    #[error("the key is {0}, which the scheme does not sign with")]
    OtherKind(&'static str),
}

/// One configured secret of a provider, ready to verify with. Erased when dropped.
#[derive(Clone)]
pub struct Secret {
    kid: Kid,
    key: Key,
    window: Window,
}

#[derive(Clone)]
pub(super) enum Key {
    /// The key of an HMAC, or a shared token.
    Bytes(Zeroizing<Vec<u8>>),
    Public(PublicKey),
}

impl Secret {
    /// The secret's name in logs, metrics and audit.
    #[must_use]
    pub fn kid(&self) -> &Kid {
        &self.kid
    }

    /// The same secret, accepted within this window alone; where its certificate ends sooner, only as long.
    #[must_use]
    pub fn within(mut self, window: Window) -> Secret {
        let ends = [self.window.not_after, window.not_after];
        self.window = Window { not_after: ends.into_iter().flatten().min(), ..window };
        self
    }

    /// Its name, and when it is accepted.
    #[must_use]
    pub fn listed(&self) -> Listed {
        Listed { kid: self.kid.clone(), window: self.window }
    }

    pub(super) fn key(&self) -> &Key {
        &self.key
    }

    pub(super) fn in_force(&self, now: Option<Millis>) -> bool {
        now.is_none_or(|now| self.window.holds(now))
    }

    pub(super) fn parse(kid: Kid, text: &str, format: KeyFormat, uses: Uses) -> Result<Secret, SecretError> {
        let (key, not_after) = match secret_bytes(text, format)? {
            Decoded::Private(_) => {
                return Err(SecretError::WrongHalf("the sender's private key; configure its public key"));
            }
            Decoded::Public(_) if !uses.ed25519 => {
                return Err(SecretError::WrongHalf(
                    "a public key, but the scheme signs with a shared secret",
                ));
            }
            Decoded::Public(bytes) => (Key::Public(PublicKey::ed25519(&bytes)?), None),
            Decoded::Plain(bytes) if uses.shared => (Key::Bytes(bytes), None),
            Decoded::Plain(bytes) => (Key::Public(PublicKey::ed25519(&bytes)?), None),
            Decoded::Spki(der, not_after) => {
                let key = PublicKey::from_spki(&der)?;
                uses.allows(&key)?;
                (Key::Public(key), not_after)
            }
        };
        Ok(Secret { kid, key, window: Window { not_after, ..Window::ALWAYS } })
    }

    /// Whether one of `signatures` by `algorithm` is this secret's over the concatenated `base`.
    pub(super) fn verifies<B: AsRef<[u8]>>(
        &self,
        algorithm: Algorithm,
        base: &[B],
        signatures: &[Vec<u8>],
    ) -> bool {
        if signatures.is_empty() {
            return false;
        }
        match (&self.key, algorithm) {
            (Key::Public(key), _) => {
                let message = base.concat_bytes();
                signatures.iter().any(|signature| key.verifies(algorithm, &message, signature))
            }
            (Key::Bytes(key), Algorithm::Token) => any_equal(key, signatures),
            (Key::Bytes(key), _) => mac(algorithm, key, base).is_some_and(|mac| any_equal(&mac, signatures)),
        }
    }

    /// The MAC of a challenge. Its caller has made sure that `text` can be no event.
    pub(super) fn mac_of(&self, algorithm: Algorithm, text: &str) -> Option<Zeroizing<Vec<u8>>> {
        match &self.key {
            Key::Bytes(key) => mac(algorithm, key, &[text]),
            Key::Public(_) => None,
        }
    }

    /// Whether this is the secret's own text, in constant time.
    pub(super) fn is(&self, text: &str) -> bool {
        match &self.key {
            Key::Bytes(key) => any_equal(key, &[text.as_bytes().to_vec()]),
            Key::Public(_) => false,
        }
    }
}

trait ConcatBytes {
    fn concat_bytes(&self) -> Vec<u8>;
}

impl<B: AsRef<[u8]>> ConcatBytes for [B] {
    fn concat_bytes(&self) -> Vec<u8> {
        let mut all = Vec::with_capacity(self.iter().map(|piece| piece.as_ref().len()).sum());
        for piece in self {
            all.extend_from_slice(piece.as_ref());
        }
        all
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({})", self.kid)
    }
}

/// Which kinds of key a scheme can verify with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Uses {
    pub(super) shared: bool,
    pub(super) ed25519: bool,
    pub(super) p256: bool,
    pub(super) rsa: bool,
}

impl Uses {
    fn allows(self, key: &PublicKey) -> Result<(), SecretError> {
        let (allowed, what) = match key {
            PublicKey::Ed25519(_) => (self.ed25519, "an Ed25519 key"),
            PublicKey::P256(_) => (self.p256, "an ECDSA key"),
            PublicKey::Rsa(_) => (self.rsa, "an RSA key"),
        };
        if allowed { Ok(()) } else { Err(SecretError::OtherKind(what)) }
    }
}

enum Decoded {
    Plain(Zeroizing<Vec<u8>>),
    Public(Zeroizing<Vec<u8>>),
    Private(Zeroizing<Vec<u8>>),
    /// SubjectPublicKeyInfo, and when its certificate ends.
    Spki(Vec<u8>, Option<Millis>),
}

fn secret_bytes(text: &str, format: KeyFormat) -> Result<Decoded, SecretError> {
    if text.is_empty() {
        return Err(SecretError::Empty);
    }
    if text.len() > SECRET_BYTES_MAX {
        return Err(SecretError::TooLong);
    }
    let base64 = |text: &str, what| match BASE64.decode(text.as_bytes()) {
        Ok(bytes) if !bytes.is_empty() => Ok(Zeroizing::new(bytes)),
        Ok(_) => Err(SecretError::Empty),
        Err(_) => Err(SecretError::Format(what)),
    };
    match format {
        KeyFormat::Utf8 => Ok(Decoded::Plain(Zeroizing::new(text.as_bytes().to_vec()))),
        KeyFormat::Hex => match HEXLOWER_PERMISSIVE.decode(text.as_bytes()) {
            Ok(bytes) => Ok(Decoded::Plain(Zeroizing::new(bytes))),
            Err(_) => Err(SecretError::Format("an even number of hex digits")),
        },
        KeyFormat::Base64 => base64(text, "base64 with padding").map(Decoded::Plain),
        KeyFormat::Spki => {
            let bytes = base64(text.trim(), "a public key (SubjectPublicKeyInfo) in base64")?;
            Ok(Decoded::Spki(bytes.to_vec(), None))
        }
        KeyFormat::Pem if text.contains("PRIVATE KEY") => Ok(Decoded::Private(Zeroizing::new(Vec::new()))),
        KeyFormat::Pem => public::from_pem(text).map(|(der, end)| Decoded::Spki(der, end)),
        KeyFormat::Whsec => {
            if let Some(rest) = text.strip_prefix("whpk_") {
                base64(rest, "`whpk_` and base64").map(Decoded::Public)
            } else if let Some(rest) = text.strip_prefix("whsk_") {
                base64(rest, "`whsk_` and base64").map(Decoded::Private)
            } else {
                let rest = text.strip_prefix("whsec_").unwrap_or(text);
                base64(rest, "`whsec_` and base64 (`whpk_` for a public key)").map(Decoded::Plain)
            }
        }
    }
}

fn any_equal(wanted: &[u8], have: &[Vec<u8>]) -> bool {
    // All are compared, so that the time says nothing about which one fits.
    have.iter().fold(false, |any, bytes| any | bool::from(bytes.as_slice().ct_eq(wanted)))
}

/// SHA-256, where a provider signs the body's hash.
pub(super) fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

pub(super) fn mac<B: AsRef<[u8]>>(
    algorithm: Algorithm,
    key: &[u8],
    base: &[B],
) -> Option<Zeroizing<Vec<u8>>> {
    match algorithm {
        Algorithm::HmacSha256 => mac_with::<Hmac<Sha256>, B>(key, base),
        Algorithm::HmacSha1 => mac_with::<Hmac<Sha1>, B>(key, base),
        Algorithm::HmacSha384 => mac_with::<Hmac<Sha384>, B>(key, base),
        Algorithm::HmacSha512 => mac_with::<Hmac<Sha512>, B>(key, base),
        Algorithm::SecretDigest => {
            let mut hash = Sha256::new_with_prefix(key);
            base.iter().for_each(|piece| hash.update(piece));
            Some(Zeroizing::new(hash.finalize().to_vec()))
        }
        Algorithm::Ed25519
        | Algorithm::EcdsaP256Sha256
        | Algorithm::RsaSha256
        | Algorithm::RsaSha1
        | Algorithm::Jwt
        | Algorithm::Token => None,
    }
}

fn mac_with<M: Mac + KeyInit, B: AsRef<[u8]>>(key: &[u8], base: &[B]) -> Option<Zeroizing<Vec<u8>>> {
    let mut mac = <M as KeyInit>::new_from_slice(key).ok()?;
    for part in base {
        mac.update(part.as_ref());
    }
    Some(Zeroizing::new(mac.finalize().into_bytes().to_vec()))
}

/// What a sender signs with: for samples, demonstrations and tests.
#[derive(Clone)]
pub struct SigningKey(Signing);

#[derive(Clone)]
enum Signing {
    Bytes(Zeroizing<Vec<u8>>),
    Private(Box<ed25519_dalek::SigningKey>),
    /// An ECDSA or RSA key (PKCS #8).
    Pkcs8(PrivateKey),
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey")
    }
}

impl SigningKey {
    pub(super) fn parse(text: &str, format: KeyFormat, uses: Uses) -> Result<SigningKey, SecretError> {
        if matches!(format, KeyFormat::Pem | KeyFormat::Spki) {
            let key = PrivateKey::parse(text, format, uses)?;
            return Ok(SigningKey(Signing::Pkcs8(key)));
        }
        let signing = match (secret_bytes(text, format)?, uses) {
            (Decoded::Public(_) | Decoded::Spki(..), _) => {
                return Err(SecretError::WrongHalf("a public key; signing needs the private one"));
            }
            (Decoded::Private(_), uses) if !uses.ed25519 => {
                return Err(SecretError::WrongHalf(
                    "a private key, but the scheme signs with a shared secret",
                ));
            }
            (Decoded::Private(bytes), _) | (Decoded::Plain(bytes), Uses { shared: false, .. }) => {
                private(&bytes)?
            }
            (Decoded::Plain(bytes), _) => Signing::Bytes(bytes),
        };
        Ok(SigningKey(signing))
    }

    pub(super) fn can(&self, algorithm: Algorithm) -> bool {
        match &self.0 {
            Signing::Bytes(_) => !algorithm.is_asymmetric(),
            Signing::Private(_) => algorithm == Algorithm::Ed25519,
            Signing::Pkcs8(key) => key.can(algorithm),
        }
    }

    pub(super) fn sign<B: AsRef<[u8]>>(&self, algorithm: Algorithm, base: &[B]) -> Option<Vec<u8>> {
        match (&self.0, algorithm) {
            (Signing::Private(key), Algorithm::Ed25519) => {
                Some(key.sign(&base.concat_bytes()).to_bytes().to_vec())
            }
            (Signing::Bytes(key), Algorithm::Token) => Some(key.to_vec()),
            (Signing::Bytes(key), _) => mac(algorithm, key, base).map(|mac| mac.to_vec()),
            (Signing::Pkcs8(key), _) => key.sign(algorithm, &base.concat_bytes()),
            (Signing::Private(_), _) => None,
        }
    }
}

/// 32 bytes of seed, with or without the 32 bytes of public key after them (as Svix writes `whsk_`).
fn private(bytes: &[u8]) -> Result<Signing, SecretError> {
    let format = SecretError::Format("a 32-byte Ed25519 seed (or seed and public key, 64 bytes)");
    let key = match <&[u8; 64]>::try_from(bytes) {
        Ok(pair) => ed25519_dalek::SigningKey::from_keypair_bytes(pair).map_err(|_| format)?,
        Err(_) => ed25519_dalek::SigningKey::from_bytes(bytes.try_into().map_err(|_| format)?),
    };
    Ok(Signing::Private(Box::new(key)))
}

/// A throw-away pair of secret texts: what a sender signs with, and what goes into `secrets`. The same text
/// for a shared secret.
#[derive(Clone)]
pub struct SamplePair {
    /// For [`super::Scheme::signing_key`].
    pub signing: Zeroizing<String>,
    /// For [`super::Scheme::parse_secret`].
    pub verifying: Zeroizing<String>,
}

impl fmt::Debug for SamplePair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SamplePair")
    }
}

impl SamplePair {
    /// None for kinds of key that cannot be made of so little.
    pub(super) fn from_entropy(entropy: &[u8; 32], format: KeyFormat, uses: Uses) -> Option<SamplePair> {
        let same = |text: String| {
            let text = Zeroizing::new(text);
            Some(SamplePair { signing: text.clone(), verifying: text })
        };
        if uses.shared {
            return same(match format {
                KeyFormat::Utf8 | KeyFormat::Hex | KeyFormat::Spki | KeyFormat::Pem => {
                    HEXLOWER.encode(entropy)
                }
                KeyFormat::Base64 => BASE64.encode(entropy),
                KeyFormat::Whsec => format!("whsec_{}", BASE64.encode(entropy)),
            });
        }
        if !uses.ed25519 || matches!(format, KeyFormat::Spki | KeyFormat::Pem) {
            return None;
        }
        let public = ed25519_dalek::SigningKey::from_bytes(entropy).verifying_key().to_bytes();
        let (signing, verifying) = match format {
            KeyFormat::Utf8 | KeyFormat::Hex | KeyFormat::Spki | KeyFormat::Pem => {
                (HEXLOWER.encode(entropy), HEXLOWER.encode(&public))
            }
            KeyFormat::Base64 => (BASE64.encode(entropy), BASE64.encode(&public)),
            KeyFormat::Whsec => {
                (format!("whsk_{}", BASE64.encode(entropy)), format!("whpk_{}", BASE64.encode(&public)))
            }
        };
        Some(SamplePair { signing: Zeroizing::new(signing), verifying: Zeroizing::new(verifying) })
    }
}
