//! Every decision of ron-node as pure code.
//!
//! Nothing here reads a clock, a disk, a socket or a random source: time and entropy come in as arguments,
//! and what should happen comes out as a value. The crate's dependency list is what enforces it.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod audit;
pub mod brownout;
pub mod capability;
pub mod crowd;
pub mod dedup;
pub mod disk;
pub mod drr;
pub mod egress;
pub mod envelope;
pub mod fanout;
pub mod fault;
pub mod ids;
pub mod inflate;
pub mod limit;
pub mod message;
pub mod oap;
pub mod objects;
#[cfg(feature = "planted-bugs")]
pub mod planted;
pub mod policy;
pub mod reason;
pub mod receipt;
pub mod reprocess;
pub mod restart;
pub mod rotation;
pub mod scheme;
pub mod shard;
pub mod time;

/// Whether this bug is planted: `planted!(AckForgotten)`. Always `false`, and no code at all, without the feature
/// `planted-bugs`.
#[cfg(feature = "planted-bugs")]
#[macro_export]
macro_rules! planted {
    ($bug:ident) => {
        $crate::planted::is($crate::planted::Bug::$bug)
    };
}

/// Whether a bug is planted: never, in this build.
#[cfg(not(feature = "planted-bugs"))]
#[macro_export]
macro_rules! planted {
    ($bug:ident) => {
        false
    };
}
