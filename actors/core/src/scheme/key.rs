//! Secrets and the arithmetic on them. Nothing here prints a key.

use super::spec::{Algorithm, KeyFormat};
use crate::ids::Kid;
use crate::time::Millis;
use data_encoding::{BASE64, HEXLOWER, HEXLOWER_PERMISSIVE};
use ed25519_dalek::{Signature, Signer, VerifyingKey};
use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;
use sha2::{Sha256, Sha512};
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
}

/// One configured secret of a provider, ready to verify with. Erased when dropped.
#[derive(Clone)]
pub struct Secret {
    kid: Kid,
    key: Key,
    not_after: Option<Millis>,
}

#[derive(Clone)]
pub(super) enum Key {
    /// The key of an HMAC, or a shared token.
    Bytes(Zeroizing<Vec<u8>>),
    Public(Box<VerifyingKey>),
}

impl Secret {
    /// The secret's name in logs, metrics and audit.
    #[must_use]
    pub fn kid(&self) -> &Kid {
        &self.kid
    }

    /// The same secret, no longer tried after `end` (wall clock).
    #[must_use]
    pub fn until(mut self, end: Millis) -> Secret {
        self.not_after = Some(end);
        self
    }

    pub(super) fn in_force(&self, now: Option<Millis>) -> bool {
        match (now, self.not_after) {
            (Some(now), Some(end)) => now <= end,
            _ => true,
        }
    }

    pub(super) fn parse(kid: Kid, text: &str, format: KeyFormat, uses: Uses) -> Result<Secret, SecretError> {
        let bytes = secret_bytes(text, format)?;
        let key = match (bytes, uses) {
            (Decoded::Public(_), Uses { public: false, .. }) => {
                return Err(SecretError::WrongHalf(
                    "a public key, but the scheme signs with a shared secret",
                ));
            }
            (Decoded::Private(_), _) => {
                return Err(SecretError::WrongHalf("the sender's private key; configure its public key"));
            }
            (Decoded::Public(bytes), _) | (Decoded::Plain(bytes), Uses { shared: false, .. }) => {
                public(&bytes)?
            }
            (Decoded::Plain(bytes), _) => Key::Bytes(bytes),
        };
        Ok(Secret { kid, key, not_after: None })
    }

    /// Whether one of `signatures` by `algorithm` is this secret's over the concatenated `base`.
    pub(super) fn verifies(&self, algorithm: Algorithm, base: &[&[u8]], signatures: &[Vec<u8>]) -> bool {
        if signatures.is_empty() {
            return false;
        }
        match (&self.key, algorithm) {
            (Key::Public(key), Algorithm::Ed25519) => {
                let message = base.concat();
                signatures.iter().any(|bytes| {
                    Signature::from_slice(bytes).is_ok_and(|sig| key.verify_strict(&message, &sig).is_ok())
                })
            }
            (Key::Bytes(key), Algorithm::Token) => any_equal(key, signatures),
            (Key::Bytes(key), _) => mac(algorithm, key, base).is_some_and(|mac| any_equal(&mac, signatures)),
            (Key::Public(_), _) => false,
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({})", self.kid)
    }
}

/// Which kinds of key a scheme can verify with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Uses {
    pub(super) shared: bool,
    pub(super) public: bool,
}

enum Decoded {
    Plain(Zeroizing<Vec<u8>>),
    Public(Zeroizing<Vec<u8>>),
    Private(Zeroizing<Vec<u8>>),
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

fn public(bytes: &[u8]) -> Result<Key, SecretError> {
    let format = SecretError::Format("a 32-byte Ed25519 public key");
    let bytes: &[u8; 32] = bytes.try_into().map_err(|_| format)?;
    let key = VerifyingKey::from_bytes(bytes).map_err(|_| format)?;
    if key.is_weak() { Err(SecretError::WeakKey) } else { Ok(Key::Public(Box::new(key))) }
}

fn any_equal(wanted: &[u8], have: &[Vec<u8>]) -> bool {
    // All are compared, so that the time says nothing about which one fits.
    have.iter().fold(false, |any, bytes| any | bool::from(bytes.as_slice().ct_eq(wanted)))
}

fn mac(algorithm: Algorithm, key: &[u8], base: &[&[u8]]) -> Option<Zeroizing<Vec<u8>>> {
    match algorithm {
        Algorithm::HmacSha256 => mac_with::<Hmac<Sha256>>(key, base),
        Algorithm::HmacSha1 => mac_with::<Hmac<Sha1>>(key, base),
        Algorithm::HmacSha512 => mac_with::<Hmac<Sha512>>(key, base),
        Algorithm::Ed25519 | Algorithm::Token => None,
    }
}

fn mac_with<M: Mac + KeyInit>(key: &[u8], base: &[&[u8]]) -> Option<Zeroizing<Vec<u8>>> {
    let mut mac = <M as KeyInit>::new_from_slice(key).ok()?;
    for part in base {
        mac.update(part);
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
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey")
    }
}

impl SigningKey {
    pub(super) fn parse(text: &str, format: KeyFormat, uses: Uses) -> Result<SigningKey, SecretError> {
        let signing = match (secret_bytes(text, format)?, uses) {
            (Decoded::Public(_), _) => {
                return Err(SecretError::WrongHalf("a public key; signing needs the private one"));
            }
            (Decoded::Private(_), Uses { public: false, .. }) => {
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
        matches!(self.0, Signing::Private(_)) == (algorithm == Algorithm::Ed25519)
    }

    pub(super) fn sign(&self, algorithm: Algorithm, base: &[&[u8]]) -> Option<Vec<u8>> {
        match (&self.0, algorithm) {
            (Signing::Private(key), Algorithm::Ed25519) => Some(key.sign(&base.concat()).to_bytes().to_vec()),
            (Signing::Bytes(key), Algorithm::Token) => Some(key.to_vec()),
            (Signing::Bytes(key), _) => mac(algorithm, key, base).map(|mac| mac.to_vec()),
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
    pub(super) fn from_entropy(entropy: &[u8; 32], format: KeyFormat, uses: Uses) -> SamplePair {
        let same = |text: String| {
            let text = Zeroizing::new(text);
            SamplePair { signing: text.clone(), verifying: text }
        };
        if uses.shared {
            return same(match format {
                KeyFormat::Utf8 | KeyFormat::Hex => HEXLOWER.encode(entropy),
                KeyFormat::Base64 => BASE64.encode(entropy),
                KeyFormat::Whsec => format!("whsec_{}", BASE64.encode(entropy)),
            });
        }
        let public = ed25519_dalek::SigningKey::from_bytes(entropy).verifying_key().to_bytes();
        let (signing, verifying) = match format {
            KeyFormat::Utf8 | KeyFormat::Hex => (HEXLOWER.encode(entropy), HEXLOWER.encode(&public)),
            KeyFormat::Base64 => (BASE64.encode(entropy), BASE64.encode(&public)),
            KeyFormat::Whsec => {
                (format!("whsk_{}", BASE64.encode(entropy)), format!("whpk_{}", BASE64.encode(&public)))
            }
        };
        SamplePair { signing: Zeroizing::new(signing), verifying: Zeroizing::new(verifying) }
    }
}
