//! The process: what an operator starts and what the network sees.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod config;
pub mod telemetry;
