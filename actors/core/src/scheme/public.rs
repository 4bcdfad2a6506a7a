//! Public keys of providers: Ed25519 by `ed25519-dalek`, ECDSA and RSA by `ring`.

use super::SecretError;
use super::spec::Algorithm;
use crate::time::Millis;
use data_encoding::BASE64;
use ed25519_dalek::{Signature, VerifyingKey};
use ring::signature::{
    ECDSA_P256_SHA256_ASN1, RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY, RSA_PKCS1_2048_8192_SHA256,
    UnparsedPublicKey, VerificationAlgorithm,
};
use x509_parser::prelude::{FromDer, SubjectPublicKeyInfo, X509Certificate};
use x509_parser::public_key::PublicKey as Parsed;

/// The key that a provider's signatures are checked with.
#[derive(Clone)]
pub(super) enum PublicKey {
    Ed25519(Box<VerifyingKey>),
    /// An uncompressed point (SEC 1).
    P256(Vec<u8>),
    /// An `RSAPublicKey` (RFC 8017) of 2048 bits or more.
    Rsa(Vec<u8>),
}

impl PublicKey {
    pub(super) fn ed25519(bytes: &[u8]) -> Result<PublicKey, SecretError> {
        let format = SecretError::Format("a 32-byte Ed25519 public key");
        let bytes: &[u8; 32] = bytes.try_into().map_err(|_| format)?;
        let key = VerifyingKey::from_bytes(bytes).map_err(|_| format)?;
        if key.is_weak() { Err(SecretError::WeakKey) } else { Ok(PublicKey::Ed25519(Box::new(key))) }
    }

    /// Reads a `SubjectPublicKeyInfo` (RFC 5280 §4.1.2.7).
    pub(super) fn from_spki(der: &[u8]) -> Result<PublicKey, SecretError> {
        let format = SecretError::Format("a public key (SubjectPublicKeyInfo)");
        let (rest, info) = SubjectPublicKeyInfo::from_der(der).map_err(|_| format)?;
        if !rest.is_empty() {
            return Err(format);
        }
        let raw = info.subject_public_key.data.to_vec();
        let oid = info.algorithm.algorithm.to_id_string();
        match (oid.as_str(), info.parsed()) {
            ("1.3.101.112", _) => PublicKey::ed25519(&raw),
            (_, Ok(Parsed::EC(point))) if is_p256(&info) && point.data().len() == 65 => {
                Ok(PublicKey::P256(raw))
            }
            (_, Ok(Parsed::EC(_))) => Err(SecretError::Format("an ECDSA key on P-256")),
            (_, Ok(Parsed::RSA(rsa))) if rsa.key_size() >= 2048 => Ok(PublicKey::Rsa(raw)),
            (_, Ok(Parsed::RSA(_))) => Err(SecretError::Format("an RSA key of 2048 bits or more")),
            _ => Err(SecretError::Format("an RSA, P-256 or Ed25519 public key")),
        }
    }

    pub(super) fn verifies(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        let check = |how: &'static dyn VerificationAlgorithm, key: &[u8]| {
            UnparsedPublicKey::new(how, key).verify(message, signature).is_ok()
        };
        match (self, algorithm) {
            (PublicKey::Ed25519(key), Algorithm::Ed25519) => {
                Signature::from_slice(signature).is_ok_and(|sig| key.verify_strict(message, &sig).is_ok())
            }
            (PublicKey::P256(key), Algorithm::EcdsaP256Sha256) => check(&ECDSA_P256_SHA256_ASN1, key),
            (PublicKey::Rsa(key), Algorithm::RsaSha256) => check(&RSA_PKCS1_2048_8192_SHA256, key),
            (PublicKey::Rsa(key), Algorithm::RsaSha1) => {
                check(&RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY, key)
            }
            _ => false,
        }
    }

    /// For ES256 in tokens, which write the two numbers one after the other.
    pub(super) fn verifies_fixed(&self, message: &[u8], signature: &[u8]) -> bool {
        match self {
            PublicKey::P256(key) => {
                let how = &ring::signature::ECDSA_P256_SHA256_FIXED;
                UnparsedPublicKey::new(how, key).verify(message, signature).is_ok()
            }
            PublicKey::Ed25519(_) | PublicKey::Rsa(_) => false,
        }
    }
}

fn is_p256(info: &SubjectPublicKeyInfo<'_>) -> bool {
    let curve = info.algorithm.parameters.as_ref().and_then(|any| any.as_oid().ok());
    curve.is_some_and(|oid| oid.to_id_string() == "1.2.840.10045.3.1.7")
}

/// The `SubjectPublicKeyInfo` of a public key or certificate in PEM (RFC 7468), and when the certificate ends.
pub(super) fn from_pem(text: &str) -> Result<(Vec<u8>, Option<Millis>), SecretError> {
    let format = SecretError::Format("one public key or certificate in PEM");
    let (label, der) = pem_block(text).ok_or(format)?;
    match label {
        "PUBLIC KEY" => Ok((der, None)),
        "CERTIFICATE" => {
            let (rest, certificate) = X509Certificate::from_der(&der).map_err(|_| format)?;
            let end = u64::try_from(certificate.validity().not_after.timestamp()).map_err(|_| format)?;
            let info = certificate.public_key().raw.to_vec();
            if rest.is_empty() { Ok((info, Some(Millis(end.saturating_mul(1000))))) } else { Err(format) }
        }
        _ => Err(format),
    }
}

pub(super) fn pem_block(text: &str) -> Option<(&str, Vec<u8>)> {
    let rest = text.trim().strip_prefix("-----BEGIN ")?;
    let (label, rest) = rest.split_once("-----")?;
    let inner = rest.strip_suffix(&format!("-----END {label}-----"))?;
    let lines: String = inner.split_ascii_whitespace().collect();
    Some((label, BASE64.decode(lines.as_bytes()).ok()?))
}
