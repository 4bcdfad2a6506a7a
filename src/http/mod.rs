//! What the network sees: listeners, routes, and the one place where a refusal becomes an HTTP answer.
//!
//! A request passes `serve` (connection limits) → `door` (ids, metrics, panics, the error envelope) → a
//! router of `mailbox`, `interop`, `admin` or `ctl` → a thin handler. Parsing is pure (`headers`, `dto`); no
//! handler knows the store.

mod acts;
pub mod admin;
pub mod admission;
pub mod audit;
pub mod auth;
mod body;
pub mod ctl;
pub mod door;
pub(crate) mod draft;
pub(crate) mod dto;
pub mod egress;
pub mod error;
pub mod faults;
pub mod graphql;
mod headers;
pub mod intake;
pub mod interop;
pub(crate) mod io;
pub mod mailbox;
pub mod objects;
pub mod openapi;
mod passed;
pub mod readiness;
pub mod reload;
pub mod request;
pub mod serve;
mod strangers;
pub mod upkeep;
pub mod webhooks;

#[cfg(test)]
mod tests;
