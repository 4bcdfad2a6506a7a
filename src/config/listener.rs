//! What listeners have in common.

use super::read::Section;
use crate::tls::Identity;
use ipnet::IpNet;
use std::path::PathBuf;

/// `tls = { cert, key, client_ca? }`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// The certificate chain, PEM.
    pub cert: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
    /// Whose client certificates are demanded, PEM.
    pub client_ca: Option<PathBuf>,
}

impl Tls {
    /// Reads the table `name`, and its files as the boot will: what they hold is a problem like any other.
    pub(super) fn read(s: &Section<'_, '_>, name: &str) -> Option<Tls> {
        s.table(name, |s| {
            let (cert, key, client_ca) = (s.path_opt("cert"), s.path_opt("key"), s.path_opt("client_ca"));
            let tls = match (cert, key, client_ca) {
                (Some(cert), Some(key), client_ca) => Tls { cert, key, client_ca },
                (None, None, None) => return None,
                (cert, ..) => {
                    let missing = if cert.is_some() { "key" } else { "cert" };
                    s.problem(missing, "is missing: cert and key go together", None);
                    return None;
                }
            };
            if let Err(bad) = Identity::load(&tls) {
                s.problem(bad.key, bad.text, bad.hint);
            }
            Some(tls)
        })
    }
}

/// Reads `trusted_proxies`: CIDRs or single addresses.
pub(super) fn trusted_proxies(s: &Section<'_, '_>) -> Vec<IpNet> {
    let net = |text: &str| {
        text.parse().ok().or_else(|| text.parse().ok().map(|addr: std::net::IpAddr| addr.into()))
    };
    s.parsed_list("trusted_proxies", "CIDRs, as \"10.0.0.0/8\"", net)
}
