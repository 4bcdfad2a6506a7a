//! Seeded simulation and fault drills against ron-node. Never a dependency of the node.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod sim;
