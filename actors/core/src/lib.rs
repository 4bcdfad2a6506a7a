//! Every decision of ron-node as pure code.
//!
//! Nothing here reads a clock, a disk, a socket or a random source: time and entropy come in as arguments,
//! and what should happen comes out as a value. The crate's dependency list is what enforces it.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod brownout;
pub mod capability;
pub mod dedup;
pub mod disk;
pub mod drr;
pub mod envelope;
pub mod fanout;
pub mod ids;
pub mod limit;
pub mod message;
pub mod policy;
pub mod reason;
pub mod receipt;
pub mod reprocess;
pub mod restart;
pub mod scheme;
pub mod shard;
pub mod time;
