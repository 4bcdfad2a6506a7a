//! Crash images: the real store on a [`LyingDisk`](crate::disk::LyingDisk), power failures at any of its
//! disk operations, and a judge that compares what the node then recovers with what clients had been told.
//!
//! The method is that of a probe which explored redb alone; here the store's own recovery, the shards' and the
//! dedup memory are under it. `cargo run --release -p ron-chaos --bin crash -- --images 20000`.

mod image;
mod judge;
mod lie;
mod load;
mod model;
pub(crate) mod rng;
mod run;
mod seen;
mod told;
mod world;

pub use image::Imager;
pub use judge::{Case, Judged, judge};
pub use lie::Lie;
pub use model::Model;
pub use rng::Rng;
pub use run::{Plan, Summary, power_failures, run, workload};
pub use told::Tally;
pub use world::{Mark, Outcome, World};

use std::fmt;

/// What kind of promise was broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Broken {
    /// The store, or a shard, does not come back.
    Refused,
    /// Something panicked.
    Panicked,
    /// What came back is not what clients were told.
    State,
    /// An answer given afterwards is not true.
    Contract,
}

/// A broken promise.
#[derive(Debug, Clone)]
pub struct Violation {
    /// Which kind.
    pub broken: Broken,
    /// What was found.
    pub text: String,
}

impl Violation {
    pub(crate) fn refused(text: String) -> Violation {
        Violation { broken: Broken::Refused, text }
    }

    pub(crate) fn state(text: String) -> Violation {
        Violation { broken: Broken::State, text }
    }

    pub(crate) fn contract(text: String) -> Violation {
        Violation { broken: Broken::Contract, text }
    }

    pub(crate) fn is_refusal(&self) -> bool {
        self.broken == Broken::Refused
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.broken, self.text)
    }
}

impl std::error::Error for Violation {}
