//! What the public listeners have in common.

use super::read::Section;
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
    /// Reads `tls`. Until this node can serve TLS, asking for it is a problem: plain text must not be the
    /// answer.
    pub(super) fn read(s: &Section<'_, '_>) -> Option<Tls> {
        let tls = s.table("tls", |s| {
            let (cert, key, client_ca) = (s.path_opt("cert"), s.path_opt("key"), s.path_opt("client_ca"));
            match (cert, key, client_ca) {
                (Some(cert), Some(key), client_ca) => Some(Tls { cert, key, client_ca }),
                (None, None, None) => None,
                _ => {
                    s.problem("cert", "and key must both be given", None);
                    None
                }
            }
        });
        if tls.is_some() {
            let hint = "put a TLS proxy in front, and name it in trusted_proxies";
            s.problem("tls", "is not available in this version", Some(hint.into()));
        }
        tls
    }
}

/// Reads `trusted_proxies`: CIDRs or single addresses.
pub(super) fn trusted_proxies(s: &Section<'_, '_>) -> Vec<IpNet> {
    let net = |text: &str| {
        text.parse().ok().or_else(|| text.parse().ok().map(|addr: std::net::IpAddr| addr.into()))
    };
    s.parsed_list("trusted_proxies", "CIDRs, as \"10.0.0.0/8\"", net)
}
