//! The invariants, each on its own.

mod deliveries;
mod end;
mod figures;
mod order;
mod sends;
mod settles;
mod sights;

use crate::index::Index;
use crate::{Rule, Violation};

/// Where violations go.
pub(crate) struct Found<'f>(&'f mut Vec<Violation>);

impl Found<'_> {
    /// Takes note unless it holds.
    pub(crate) fn ensure(&mut self, holds: bool, rule: Rule, record: usize, text: impl FnOnce() -> String) {
        if !holds {
            self.0.push(Violation { rule, record, text: text() });
        }
    }
}

/// Checks everything.
pub(crate) fn all(index: &Index<'_>, found: &mut Vec<Violation>) {
    let found = &mut Found(found);
    sends::check(index, found);
    deliveries::check(index, found);
    settles::check(index, found);
    sights::check(index, found);
    order::check(index, found);
    figures::check(index, found);
    end::check(index, found);
}
