//! Private ECDSA and RSA keys, for samples and smoke tests only: a provider's own key is never here.

use super::SecretError;
use super::key::Uses;
use super::public::pem_block;
use super::spec::{Algorithm, KeyFormat};
use data_encoding::BASE64;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, RSA_PKCS1_SHA256, RsaKeyPair};
use std::sync::Arc;

/// A key in PKCS #8 (RFC 5958).
#[derive(Clone)]
pub(super) enum PrivateKey {
    P256(Arc<EcdsaKeyPair>),
    Rsa(Arc<RsaKeyPair>),
}

impl PrivateKey {
    pub(super) fn parse(text: &str, format: KeyFormat, uses: Uses) -> Result<PrivateKey, SecretError> {
        let wanted = SecretError::Format("a private key (PKCS #8) that fits the scheme");
        let der = match format {
            KeyFormat::Pem => match pem_block(text) {
                Some(("PRIVATE KEY", der)) => der,
                Some(_) | None => return Err(wanted),
            },
            _ => BASE64.decode(text.trim().as_bytes()).map_err(|_| wanted)?,
        };
        if uses.p256 {
            let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &der, &SystemRandom::new());
            return pair.map(|pair| PrivateKey::P256(Arc::new(pair))).map_err(|_| wanted);
        }
        RsaKeyPair::from_pkcs8(&der).map(|pair| PrivateKey::Rsa(Arc::new(pair))).map_err(|_| wanted)
    }

    pub(super) fn can(&self, algorithm: Algorithm) -> bool {
        match self {
            PrivateKey::P256(_) => algorithm == Algorithm::EcdsaP256Sha256,
            PrivateKey::Rsa(_) => algorithm == Algorithm::RsaSha256,
        }
    }

    /// The random numbers are the library's own affair: they blind the key, or make ECDSA's nonce.
    pub(super) fn sign(&self, algorithm: Algorithm, message: &[u8]) -> Option<Vec<u8>> {
        match (self, algorithm) {
            (PrivateKey::P256(key), Algorithm::EcdsaP256Sha256) => {
                key.sign(&SystemRandom::new(), message).ok().map(|signature| signature.as_ref().to_vec())
            }
            (PrivateKey::Rsa(key), Algorithm::RsaSha256) => {
                let mut signature = vec![0; key.public().modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature).ok()?;
                Some(signature)
            }
            _ => None,
        }
    }
}
