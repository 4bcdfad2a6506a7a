//! The mailbox over OAP/1 (SPEC §10): frames on one connection, answered in any order.
//!
//! A connection is one task. It reads what has come, hands every whole frame to a call, and writes what is answered;
//! sends to one topic that were read together become one request to its queue. What is over the window waits unread.

mod answer;
mod calls;
mod conn;
mod listen;
mod puts;
mod sends;
mod session;
mod subscribe;

pub use listen::{OapApp, OapLimits, OapRoutes, serve_oap};

/// Requests outstanding on a connection, at most.
pub const INFLIGHT_MAX: usize = 1_024;
/// Bytes of their frames, at most: while there are fewer, one more is taken, whatever it inflates to.
pub const WINDOW_BYTES: usize = 8 << 20;
/// Objects on their way in at once, of all connections.
pub const UPLOADS_MAX: usize = 32;
