//! The kernel: supervision, bounded admission, restart-proof handles, timers, the bus and the clock.
//!
//! Nothing here knows of queues or webhooks; the other rooms are built from these parts.

mod halt;
mod life;
mod roster;

pub mod admission;
pub mod bus;
pub mod child;
pub mod clock;
pub mod event;
pub mod handle;
pub mod supervisor;
pub mod timer;

#[cfg(test)]
mod tests;
