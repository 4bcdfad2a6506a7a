//! The process: what an operator starts and what the network sees.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod config;
pub mod http;
pub mod metrics;
pub mod telemetry;
//! The process of ron-node: what an operator starts and what the network sees.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

