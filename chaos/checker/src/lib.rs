//! A client and a history checker that share no code with ron-node: they know the formats of its contract and
//! nothing else, so that a bug on one side can't hide itself on the other.
//!
//! [`load`] drives a real node ([`node`]) over [`http`] and writes everything down ([`journal`]); [`check`]
//! judges the [`history`] afterwards. [`trace`] judges what strace saw of a node with amnesia on.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod admission;
pub mod api;
pub mod check;
pub mod clock;
pub mod cut;
pub mod drill;
pub mod history;
pub mod hooks;
pub mod http;
pub mod journal;
pub mod lease;
pub mod load;
pub mod node;
pub mod oap;
pub mod rng;
pub mod sign;
pub mod trace;
