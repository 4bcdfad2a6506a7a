//! The process of ron-node: what an operator starts and what the network sees.
//!
//! Configuration, telemetry, listeners and the wiring of the actor tree. Decisions are `ron-core`'s; what lasts
//! is `ron-actors`'.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod amnesia;
pub mod audit;
pub mod clock;
pub mod config;
pub mod desk;
pub mod egress;
pub mod faults;
pub mod gate;
pub mod http;
pub mod listening;
pub mod metrics;
pub mod node;
pub mod oap;
mod objects;
pub mod observe;
pub mod policy;
pub mod process;
pub mod providers;
mod reload;
pub mod rotations;
pub mod run;
pub mod sandbox;
pub mod scheduling;
pub mod schemes;
pub mod seal;
pub mod self_test;
pub mod sentinel;
pub mod socket;
pub mod telemetry;
pub mod tls;
pub mod upkeep;
pub mod watched;
