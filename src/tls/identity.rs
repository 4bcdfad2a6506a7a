//! Who a listener says it is: a certificate chain, its key, and whose client certificates it demands, from PEM files.
//!
//! Whatever is wrong with them is told by the key of the configuration that names the file, in words of our own: a
//! parser's would quote what it read.

use crate::config::Tls;
use ron_core::ids::ContentHash;
use ron_core::time::Millis;
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{CertificateError, InconsistentKeys, RootCertStore, ServerConfig};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use zeroize::{Zeroize, Zeroizing};

/// Most bytes of a file.
const FILE_BYTES_MAX: u64 = 1024 * 1024;
/// A certificate that ends sooner is warned of, unless it was made for a short life.
const WARNED_BEFORE: Duration = Duration::from_secs(14 * 86_400);

/// What is wrong with the files of a `tls` table.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {text}{}", .hint.as_deref().map(|hint| format!("; {hint}")).unwrap_or_default())]
pub struct BadTls {
    /// The key of the table that names the file.
    pub key: &'static str,
    /// What is wrong.
    pub text: String,
    /// What to do about it.
    pub hint: Option<String>,
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Identity {
    certified: CertifiedKey,
    clients: Arc<dyn ClientCertVerifier>,
    /// Of all certificates: another one is another identity.
    pub(super) id: ContentHash,
    /// When the certificate begins and ends to be valid; `None` where it does not say so.
    pub(super) valid: Option<(Millis, Millis)>,
}

impl Identity {
    /// Reads and checks the files of a table.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn load(files: &Tls) -> Result<Identity, BadTls> {
        let chain = certificates("cert", &files.cert)?;
        let key = private_key(&files.key)?;
        let certified = CertifiedKey::new(chain, key);
        match certified.keys_match() {
            Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => {}
            Err(rustls::Error::InconsistentKeys(_)) => {
                let hint = "put the certificate of the server first, and name the key that it was made with";
                let text = format!("is not the key of the first certificate in {}", files.cert.display());
                return Err(bad("key", text, Some(hint)));
            }
            Err(_) => return Err(bad("cert", "begins with what is no X.509 certificate".into(), None)),
        }
        let mut hashed = certified.cert.iter().map(|cert| cert.to_vec()).collect::<Vec<_>>().concat();
        let clients = match &files.client_ca {
            None => WebPkiClientVerifier::no_client_auth(),
            Some(file) => {
                let roots = certificates("client_ca", file)?;
                hashed.extend_from_slice(b"client_ca");
                roots.iter().for_each(|root| hashed.extend_from_slice(root));
                demands(roots)?
            }
        };
        let valid = certified.end_entity_cert().ok().and_then(validity);
        Ok(Identity { certified, clients, id: ContentHash::of(&hashed), valid })
    }

    /// How a listener with this identity and these protocols shakes hands.
    ///
    /// # Errors
    /// What rustls says; not for what [`Identity::load`] gives.
    pub(super) fn config(&self, alpn: &[&[u8]]) -> Result<ServerConfig, rustls::Error> {
        let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let builder = builder.with_safe_default_protocol_versions()?;
        let builder = builder.with_client_cert_verifier(self.clients.clone());
        let resolver = SingleCertAndKey::from(self.certified.clone());
        let mut config = builder.with_cert_resolver(Arc::new(resolver));
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(config)
    }

    /// What an operator should know of the certificate's time, if anything. A certificate for a short life is warned
    /// of in its last quarter.
    pub(super) fn warning(&self, wall: Millis) -> Option<String> {
        let (from, until) = self.valid?;
        let lead = (until.since(from) / 4).min(u64::try_from(WARNED_BEFORE.as_millis()).unwrap_or(u64::MAX));
        if wall < from {
            Some(format!("is not valid before {}: clients refuse it", from.rfc3339()))
        } else if wall > until {
            Some(format!("ended at {}: clients refuse it", until.rfc3339()))
        } else if until.since(wall) < lead {
            Some(format!("ends at {}: put a new one in its place", until.rfc3339()))
        } else {
            None
        }
    }
}

fn bad(key: &'static str, text: String, hint: Option<&str>) -> BadTls {
    BadTls { key, text, hint: hint.map(str::to_owned) }
}

/// A file's bytes, at most [`FILE_BYTES_MAX`], and its permission bits.
fn read(key: &'static str, path: &Path) -> Result<(Zeroizing<Vec<u8>>, u32), BadTls> {
    let unreadable = |error: std::io::Error| {
        let hint = "name a PEM file that the node's user may read";
        bad(key, format!("cannot read {}: {error}", path.display()), Some(hint))
    };
    let file = File::open(path).map_err(unreadable)?;
    let found = file.metadata().map_err(unreadable)?;
    if found.len() > FILE_BYTES_MAX {
        return Err(bad(key, format!("{} is larger than 1 MiB", path.display()), None));
    }
    // in one piece: a buffer that grows leaves copies behind
    let mut bytes = Zeroizing::new(Vec::with_capacity(found.len() as usize + 1));
    file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).map_err(unreadable)?;
    Ok((bytes, found.permissions().mode()))
}

pub(super) fn certificates(key: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, BadTls> {
    let (text, _) = read(key, path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match found {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) | Err(_) => {
            let hint = "it must hold PEM sections, each from BEGIN CERTIFICATE to END CERTIFICATE";
            Err(bad(key, format!("{} holds no certificate, or a broken one", path.display()), Some(hint)))
        }
    }
}

fn private_key(path: &Path) -> Result<Arc<dyn rustls::sign::SigningKey>, BadTls> {
    let (text, mode) = read("key", path)?;
    // a group may read it, as the mounts of Kubernetes and Debian's ssl-cert have it
    if mode & 0o027 != 0 {
        let text = format!("{} is open to others (mode {:04o})", path.display(), mode & 0o7777);
        return Err(bad("key", text, Some(&format!("run: chmod 600 {}", path.display()))));
    }
    let found = PrivateKeyDer::from_pem_slice(&text);
    let mut der = found.map_err(|_| {
        let hint =
            "it must hold one PEM section, PRIVATE KEY, RSA PRIVATE KEY or EC PRIVATE KEY, not encrypted";
        bad("key", format!("{} holds no private key", path.display()), Some(hint))
    })?;
    let key = ring::sign::any_supported_type(&der);
    der.zeroize();
    key.map_err(|_| {
        let hint = "RSA from 2048 bits, ECDSA on P-256 or P-384, and Ed25519 are";
        bad("key", format!("{} is of no kind that is served", path.display()), Some(hint))
    })
}

/// Demands certificates that come from these.
fn demands(roots: Vec<CertificateDer<'static>>) -> Result<Arc<dyn ClientCertVerifier>, BadTls> {
    let broken = || bad("client_ca", "holds a certificate that cannot be a root".into(), None);
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(root).map_err(|_| broken())?;
    }
    let provider = Arc::new(ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(store), provider).build();
    verifier.map_err(|_| broken())
}

/// From when until when a certificate is valid. Asked by verifying it at the ends of all time, whose refusals name
/// both: rustls shows them nowhere else, and they are judged before any issuer is looked for.
fn validity(cert: &CertificateDer<'_>) -> Option<(Millis, Millis)> {
    let parsed = ParsedCertificate::try_from(cert).ok()?;
    let refused_at = |seconds| {
        let at = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let verdict =
            verify_server_cert_signed_by_trust_anchor(&parsed, &RootCertStore::empty(), &[], at, &[]);
        match verdict {
            Err(rustls::Error::InvalidCertificate(refused)) => Some(refused),
            Ok(()) | Err(_) => None,
        }
    };
    let millis = |time: UnixTime| Millis(time.as_secs().saturating_mul(1000));
    let from = match refused_at(0)? {
        CertificateError::NotValidYetContext { not_before, .. } => millis(not_before),
        _ => Millis(0),
    };
    match refused_at(u64::MAX)? {
        CertificateError::ExpiredContext { not_after, .. } => Some((from, millis(not_after))),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
