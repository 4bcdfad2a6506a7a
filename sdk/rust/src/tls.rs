//! TLS: whom a client trusts, and who it says that it is. What is trusted is given, never the system's.

use crate::error::Error;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use std::fmt;
use std::sync::Arc;

/// How a client speaks TLS. A node's name in its certificate must be the host that is connected to.
#[derive(Clone)]
pub struct Tls(pub(crate) Arc<ClientConfig>);

impl Tls {
    /// Trusts the nodes whose certificates one of these authorities signed; PEM.
    ///
    /// # Errors
    /// [`Error::Invalid`] if there is no certificate in it, or one that is none.
    pub fn trusting(authorities: &[u8]) -> Result<Tls, Error> {
        Ok(Tls(Arc::new(trusting(authorities)?.with_no_client_auth())))
    }

    /// The same, and shows a certificate to nodes that ask for one: the chain and its key, PEM.
    ///
    /// # Errors
    /// [`Error::Invalid`] also if chain and key do not go together.
    pub fn trusting_as(authorities: &[u8], chain: &[u8], key: &[u8]) -> Result<Tls, Error> {
        let chain = certificates("the chain", chain)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| bad("the key: no private key in PEM"))?;
        let config = trusting(authorities)?.with_client_auth_cert(chain, key);
        Ok(Tls(Arc::new(config.map_err(|_| bad("the key: not that of the chain's first certificate"))?)))
    }
}

type Trusting = rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>;

fn trusting(authorities: &[u8]) -> Result<Trusting, Error> {
    let mut roots = RootCertStore::empty();
    for authority in certificates("the authorities", authorities)? {
        roots.add(authority).map_err(|_| bad("the authorities: a certificate that can be no authority's"))?;
    }
    let versions = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|_| bad("no version of TLS is left"))?;
    Ok(versions.with_root_certificates(roots))
}

fn certificates(what: &str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Error> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match read {
        Ok(list) if !list.is_empty() => Ok(list),
        Ok(_) | Err(_) => Err(bad(&format!("{what}: no certificate in PEM"))),
    }
}

fn bad(text: &str) -> Error {
    Error::Invalid(text.to_owned())
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_certificate_is_named() {
        let text = Tls::trusting(b"-----BEGIN NOTHING-----").unwrap_err().to_string();
        assert_eq!(text, "the authorities: no certificate in PEM");
        assert!(Tls::trusting_as(b"", b"", b"").unwrap_err().to_string().contains("the chain"));
    }
}
