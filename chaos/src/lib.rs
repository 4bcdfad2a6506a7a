//! Faults on purpose: what the node must survive, made cheap enough to happen thousands of times. Nothing of
//! the node depends on this crate.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod crash;
pub mod disk;
pub mod drill;
pub mod lying;
pub mod sim;
