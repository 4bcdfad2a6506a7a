//! A small certificate authority, and the client side of TLS.

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// What a client trusts, and shows.
pub(crate) type Trust = Arc<ClientConfig>;
/// A connection inside TLS.
pub(crate) type Stream = StreamOwned<ClientConnection, TcpStream>;

pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate and its key, PEM.
#[derive(Debug, Clone)]
pub(crate) struct Pair {
    pub(crate) cert: String,
    pub(crate) key: String,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        Authority { issuer }
    }

    pub(crate) fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// For 127.0.0.1, by servers and clients.
    pub(crate) fn issue(&self) -> Pair {
        self.issue_until(2040)
    }

    /// Valid from 2000 to the end of the year before.
    pub(crate) fn issue_until(&self, year: i32) -> Pair {
        self.issue_for("127.0.0.1", year)
    }

    /// The same for another host.
    pub(crate) fn issue_for(&self, host: &str, year: i32) -> Pair {
        let mut params = CertificateParams::new(vec![host.to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2000, 1, 1);
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        Pair { cert: cert.pem(), key: key.serialize_pem() }
    }

    /// A client's trust in this authority alone; it shows `pair`, and offers `protocols`.
    pub(crate) fn trust(&self, pair: Option<&Pair>, protocols: &[&[u8]]) -> Trust {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let builder = builder.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots);
        let mut config = match pair {
            None => builder.with_no_client_auth(),
            Some(Pair { cert, key }) => {
                let chain = CertificateDer::pem_slice_iter(cert.as_bytes()).map(Result::unwrap).collect();
                builder
                    .with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap())
                    .unwrap()
            }
        };
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        Arc::new(config)
    }
}

/// A connection that has shaken hands.
pub(crate) fn connect(addr: SocketAddr, trust: &Trust) -> io::Result<Stream> {
    let mut socket = TcpStream::connect(addr)?;
    socket.set_read_timeout(Some(Duration::from_secs(40)))?;
    let mut session = ClientConnection::new(trust.clone(), addr.ip().into()).map_err(io::Error::other)?;
    while session.is_handshaking() {
        session.complete_io(&mut socket)?;
    }
    Ok(StreamOwned::new(session, socket))
}

/// Writes a file that only its owner may read, whole, by a rename.
pub(crate) fn put(file: &Path, text: &str) {
    let new = file.with_extension("new");
    let mut options = std::fs::OpenOptions::new();
    let mut opened = options.write(true).create(true).truncate(true).mode(0o600).open(&new).unwrap();
    io::Write::write_all(&mut opened, text.as_bytes()).unwrap();
    std::fs::rename(new, file).unwrap();
}
