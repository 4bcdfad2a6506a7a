//! The token's wire form: `ron1_` and base64url (no padding) of postcard, one text a token (SPEC §5).

use super::RootKey;
use crate::ids::{Kid, Tenant};
use data_encoding::BASE64URL_NOPAD;
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;
use zeroize::Zeroize;

/// What every token's text starts with.
pub const PREFIX: &str = "ron1_";
/// Longest text of a token, in bytes, prefix included.
pub const TEXT_BYTES_MAX: usize = 4096;
/// Most caveats of a token.
pub const CAVEATS_MAX: usize = 32;

/// A token as it travels. Not yet believed: see [`super::verify`].
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// The key it claims to be made with.
    pub kid: String,
    /// The tenant it claims to be for.
    pub tenant: String,
    /// Random; names the token and all that are attenuated from it.
    pub nonce: [u8; 16],
    /// What narrows it, in order.
    pub caveats: Vec<String>,
    mac: [u8; 32],
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token").field("kid", &self.kid).field("tenant", &self.tenant).finish_non_exhaustive()
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        self.mac.zeroize();
    }
}

impl Token {
    /// Decodes a token's text. The MAC is not checked.
    ///
    /// # Errors
    /// What is wrong with the form, without any of the text.
    pub fn parse(text: &str) -> Result<Token, &'static str> {
        if text.len() > TEXT_BYTES_MAX {
            return Err("capability: longer than 4096 bytes");
        }
        let body = text.strip_prefix(PREFIX).ok_or("capability: does not start with ron1_")?;
        let bytes = BASE64URL_NOPAD.decode(body.as_bytes()).map_err(|_| "capability: not base64url")?;
        let token: Token = postcard::from_bytes(&bytes).map_err(|_| "capability: not a token")?;
        if token.caveats.len() > CAVEATS_MAX {
            return Err("capability: more than 32 caveats");
        }
        // one token, one text: long varints and trailing bytes would else make many
        if token.encode()? != text {
            return Err("capability: not in canonical form");
        }
        Ok(token)
    }

    fn encode(&self) -> Result<String, &'static str> {
        let bytes = postcard::to_stdvec(self).map_err(|_| "capability: cannot be encoded")?;
        let text = format!("{PREFIX}{}", BASE64URL_NOPAD.encode(&bytes));
        if text.len() > TEXT_BYTES_MAX { Err("capability: longer than 4096 bytes") } else { Ok(text) }
    }

    /// All MACs of the chain under `key`: the root's, then the one after each caveat.
    pub(super) fn chain(&self, key: &RootKey) -> Vec<[u8; 32]> {
        let mut macs = vec![root_mac(key, &self.kid, &self.tenant, &self.nonce)];
        for (at, caveat) in self.caveats.iter().enumerate() {
            macs.push(link_mac(&macs[at], caveat));
        }
        macs
    }

    /// Whether the token's own MAC is the last of `macs`, in constant time.
    pub(super) fn mac_is(&self, macs: &[[u8; 32]]) -> bool {
        macs.last().is_some_and(|last| last.ct_eq(&self.mac).into())
    }

    fn append(&mut self, caveats: &[String]) -> Result<(), &'static str> {
        if self.caveats.len() + caveats.len() > CAVEATS_MAX {
            return Err("capability: more than 32 caveats");
        }
        for caveat in caveats {
            self.mac = link_mac(&self.mac, caveat);
            self.caveats.push(caveat.clone());
        }
        Ok(())
    }
}

fn root_mac(key: &RootKey, kid: &str, tenant: &str, nonce: &[u8; 16]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_keyed(key.bytes());
    hasher.update(b"ron-cap/v1\0").update(kid.as_bytes()).update(b"\0");
    hasher.update(tenant.as_bytes()).update(b"\0").update(nonce);
    *hasher.finalize().as_bytes()
}

fn link_mac(mac: &[u8; 32], caveat: &str) -> [u8; 32] {
    *blake3::keyed_hash(mac, caveat.as_bytes()).as_bytes()
}

/// Makes a token. Whether the caveats make sense is the caller's business (see [`super::MintRequest`]).
///
/// # Errors
/// Too many caveats, or too long a text.
pub fn mint(
    key: &RootKey,
    kid: &Kid,
    tenant: &Tenant,
    nonce: [u8; 16],
    caveats: &[String],
) -> Result<String, &'static str> {
    make(key, kid, tenant, nonce, caveats)?.encode()
}

/// [`mint`] for a token that never leaves the process, and so needs no text.
///
/// # Errors
/// Too many caveats.
pub fn make(
    key: &RootKey,
    kid: &Kid,
    tenant: &Tenant,
    nonce: [u8; 16],
    caveats: &[String],
) -> Result<Token, &'static str> {
    let mac = root_mac(key, kid.as_str(), tenant.as_str(), &nonce);
    let (kid, tenant) = (kid.to_string(), tenant.to_string());
    let mut token = Token { kid, tenant, nonce, caveats: Vec::with_capacity(caveats.len()), mac };
    token.append(caveats)?;
    Ok(token)
}

/// Narrows a token by more caveats. Needs no key; a caveat that cannot be read makes a token that allows
/// nothing.
///
/// # Errors
/// The text is not a token, or the result has too many caveats or too long a text.
pub fn attenuate(text: &str, caveats: &[String]) -> Result<String, &'static str> {
    let mut token = Token::parse(text)?;
    token.append(caveats)?;
    token.encode()
}
