//! The node as a client: whom it trusts when it connects outward. Certificates are always verified.

use super::identity::{BadTls, certificates};
use ron_core::egress::Host;
use rustls::client::Resumption;
use rustls::crypto::ring;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use std::io;
use std::path::Path;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Whom an endpoint's certificate must be of. Cheap to clone.
#[derive(Clone)]
pub struct ClientTls(Arc<ClientConfig>);

impl std::fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClientTls(..)")
    }
}

impl ClientTls {
    /// Trusts the authorities that the system trusts.
    ///
    /// # Errors
    /// There are none.
    pub fn system() -> Result<ClientTls, String> {
        let found = rustls_native_certs::load_native_certs();
        let mut roots = RootCertStore::empty();
        let (added, _) = roots.add_parsable_certificates(found.certs);
        if added == 0 {
            return Err(
                "the system trusts no certificate authority: install ca-certificates, or set ca_file".into(),
            );
        }
        ClientTls::of(roots).map_err(|error| error.to_string())
    }

    /// Trusts the authorities of a PEM file alone.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub fn trusting(file: &Path) -> Result<ClientTls, BadTls> {
        let bad = |text: String| BadTls { key: "ca_file", text, hint: None };
        let mut roots = RootCertStore::empty();
        for root in certificates("ca_file", file)? {
            roots.add(root).map_err(|_| bad("holds a certificate that can be no authority's".into()))?;
        }
        ClientTls::of(roots).map_err(|error| bad(error.to_string()))
    }

    fn of(roots: RootCertStore) -> Result<ClientTls, rustls::Error> {
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let builder = builder.with_safe_default_protocol_versions()?;
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.resumption = Resumption::disabled();
        Ok(ClientTls(Arc::new(config)))
    }

    /// Shakes hands; the certificate must be `host`'s.
    ///
    /// # Errors
    /// What rustls says of the certificate or the handshake.
    pub async fn connect(&self, host: &Host, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let name = match host {
            Host::Ip(ip) => ServerName::from(*ip),
            Host::Name(name) => ServerName::try_from(name.clone()).map_err(io::Error::other)?,
        };
        TlsConnector::from(self.0.clone()).connect(name, stream).await
    }
}
