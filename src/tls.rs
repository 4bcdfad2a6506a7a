//! TLS of the listeners: who the node says it is, the handshake before a connection counts, and other certificates
//! without a restart. And of egress, which is a client (`client.rs`).
//!
//! What serves a connection does not know of it: it gets a socket either way. One provider, ring, and nothing that is
//! resumed: each connection is judged by what is in force when it comes, and no session outlives it in memory. Nothing
//! of a private key goes to a log, an error or a metric.

mod client;
mod handshake;
mod identity;
mod keeper;

pub use client::ClientTls;
pub use handshake::Handshakes;
pub(crate) use handshake::{Patience, admit};
pub use identity::{BadTls, Identity};
pub use keeper::TlsKeeper;
