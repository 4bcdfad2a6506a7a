//! What the model says a command should do.

use crate::shard::{Counts, Leased, NackMode};
use std::collections::{BTreeMap, BTreeSet};

/// What a step should have done.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Expect {
    pub(super) results: Vec<bool>,
    pub(super) refused: bool,
    pub(super) purged: Option<u64>,
    pub(super) reprocessed: Option<(u64, usize)>,
    pub(super) grants: Vec<(u64, Vec<Leased>)>,
    pub(super) empty: BTreeSet<u64>,
    pub(super) counts: Counts,
}

pub(super) struct NackArgs<'a> {
    pub(super) mode: NackMode,
    pub(super) delay: Option<u64>,
    pub(super) note: Option<&'a str>,
    /// The end of the delay that the machine drew for a message.
    pub(super) drawn: &'a BTreeMap<u64, u64>,
}
