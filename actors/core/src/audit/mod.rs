//! The audit log (SPEC §7 "Audit"): what was decided, by whom and why, as lines of JSON in a BLAKE3 hash chain.
//!
//! ```text
//! Entry --Chain::append--> line of JSON --Verifier::line--> Fault, or nothing
//! ```
//!
//! The format is the contract of docs/AUDIT.md. What holds here: a record names ids, key ids and keyed hashes, never a
//! secret, a token, a MAC, a payload or its hash; whatever of a chain is changed, removed, doubled or moved is found
//! by who reads it, and whatever is cut off its end by who has noted a [`Head`]. No clock, no file.

mod chain;
mod entry;
mod fold;
mod tally;
#[cfg(test)]
mod tests;
mod verify;

pub use chain::{Chain, Head, LINE_BYTES_MAX};
pub use entry::{DETAIL_CHARS_MAX, Decision, Entry, Kind, More, cut};
pub use fold::{Fold, Folder};
pub use tally::{Spent, Tally, Usage, Who};
pub use verify::{Fault, Place, Summary, Verifier, What};

/// `reason` of a decision that refused nothing.
pub const OK: &str = "OK";
/// `reason` of an operator's act that is written down before it is done.
pub const INTENT: &str = "INTENT";

/// What a body is called in the log: its BLAKE3 under a key of the node, so that who reads the log cannot tell which
/// body it was by guessing. Written `b3k:` and 64 hex digits.
#[must_use]
pub fn content(key: &[u8; 32], body: &[u8]) -> [u8; 32] {
    *blake3::keyed_hash(key, body).as_bytes()
}
