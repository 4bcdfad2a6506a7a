//! The supervision tree of ron-node: kernel, store, mailbox and interop actors.
//!
//! Actors carry; every decision is `ron-core`'s. Only [`store`] names redb. Mailbox and interop know each other
//! only through what they are handed in their `Args`.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod audit;
pub mod blocking;
pub mod clock_gap_file;
mod durable_file;
pub mod entropy;
pub mod interop;
pub mod kernel;
pub mod keyring_file;
pub mod mailbox;
pub mod passport;
pub mod policy;
pub mod revoked_file;
pub mod rotation_file;
pub mod sentinel;
pub mod store;
pub mod tree;
