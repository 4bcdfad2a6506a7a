//! What a check of a store finds, and how it is told.

use ron_core::ids::{QueueKey, Slot};
use std::fmt;

/// How many damages are named; the others are counted.
const NAMED_MAX: usize = 100;
/// Something that is not as it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Damage {
    /// A row, or what it says of others.
    Row {
        /// Which table.
        table: &'static str,
        /// Which row.
        key: String,
        /// What did not hold.
        why: String,
    },
    /// One message's record. The message is lost, and nothing else.
    Record {
        /// Whose.
        queue: Option<QueueKey>,
        /// Where.
        slot: Slot,
        /// What did not hold.
        why: &'static str,
    },
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Damage::Row { table, key, why } => write!(f, "row {key} of table `{table}`: {why}"),
            Damage::Record { queue, slot, why } => {
                let (chunk, idx) = (slot.chunk(), slot.idx());
                match queue {
                    Some(queue) => write!(f, "message {idx} of chunk {chunk}, of {queue}: {why}"),
                    None => write!(f, "message {idx} of chunk {chunk}: {why}"),
                }
            }
        }
    }
}

/// What a check has found so far.
#[derive(Debug, Clone, Default)]
pub struct Findings {
    /// Rows looked at.
    pub rows: u64,
    /// Live messages whose records were read.
    pub messages: u64,
    /// Bytes of all that was read.
    pub bytes: u64,
    /// Damages found.
    pub damages: u64,
    /// The first of them.
    pub named: Vec<Damage>,
    names_all: bool,
}

impl Findings {
    /// Whether all is as it must be.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.damages == 0
    }

    pub(crate) fn naming_all() -> Findings {
        Findings { names_all: true, ..Findings::default() }
    }

    pub(crate) fn take_named(&mut self) -> Vec<Damage> {
        std::mem::take(&mut self.named)
    }

    pub(crate) fn add(&mut self, damage: Damage) {
        self.damages += 1;
        if self.names_all || self.named.len() < NAMED_MAX {
            self.named.push(damage);
        }
    }

    pub(crate) fn row(&mut self, table: &'static str, key: impl fmt::Display, why: impl Into<String>) {
        self.add(Damage::Row { table, key: key.to_string(), why: why.into() });
    }
}
