//! Where egress may connect to (server-side request forgery): the form of a URL, and the address behind it.
//!
//! A URL is parsed once, by the WHATWG rules, so that every odd form of an address (`0x7f.1`, `2130706433`, full-width
//! digits, percent-encoding) has become the address before it is judged. A name is judged by its form here, and by
//! *all* addresses it resolves to when it is used: one forbidden address refuses the name. Refusals begin with `SSRF`.

mod address;
mod target;
#[cfg(test)]
mod tests;

pub use address::AddressPolicy;
pub use target::{Host, Target, URL_CHARS_MAX, UrlPolicy};

/// A URL or an address that egress must not connect to. Holds no path or query, which may be secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("SSRF: {0}")]
pub struct Ssrf(pub String);

impl Ssrf {
    /// The code in logs and metrics.
    pub const CODE: &'static str = "SSRF";

    fn new(text: impl Into<String>) -> Ssrf {
        Ssrf(text.into())
    }
}
