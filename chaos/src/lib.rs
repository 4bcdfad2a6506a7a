//! Drills and simulations against ron-node; never a dependency of the node.

pub mod drill;
