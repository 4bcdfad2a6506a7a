//! A change of a list of subscribers, as a caller asks for it.

use super::{EDIT_MAX, Filter};
use crate::ids::{QueueKey, Topic};
use crate::message::{ATTR_BYTES_MAX, ATTRS_MAX};
use crate::reason::{Reason, Refusal};
use std::collections::BTreeSet;

/// A subscriber to add, or whose filter is to be another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addition {
    /// Which topic of the same tenant.
    pub topic: Topic,
    /// What it wants.
    pub filter: Filter,
}

/// What to change. Who is on the list with the same filter stays, who is not on it need not be removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Edit {
    /// Who joins.
    pub add: Vec<Addition>,
    /// Who leaves.
    pub remove: Vec<Topic>,
}

impl Edit {
    /// Checks what can be said without knowing the list.
    ///
    /// # Errors
    /// MALFORMED, naming the field.
    pub fn check(&self, source: &QueueKey) -> Result<(), Refusal> {
        let malformed = |text: String| Err(Refusal::new(Reason::Malformed, text));
        let len = self.add.len() + self.remove.len();
        if len == 0 || len > EDIT_MAX {
            return malformed(format!("add, remove: 1 to {EDIT_MAX} subscribers a call, both together"));
        }
        let mut named = BTreeSet::new();
        for topic in self.add.iter().map(|addition| &addition.topic).chain(&self.remove) {
            if !named.insert(topic) {
                return malformed(format!("add, remove: {topic} is named twice"));
            }
        }
        for Addition { topic, filter } in &self.add {
            if *topic == source.topic {
                return malformed(format!("add: {topic} cannot subscribe to itself"));
            }
            let bytes: usize = filter.attrs.iter().map(|(name, value)| name.len() + value.len()).sum();
            if filter.attrs.len() > ATTRS_MAX || bytes > ATTR_BYTES_MAX {
                return malformed(format!(
                    "add[].filter.attr: at most {ATTRS_MAX} attributes, {ATTR_BYTES_MAX} bytes together"
                ));
            }
        }
        Ok(())
    }
}
