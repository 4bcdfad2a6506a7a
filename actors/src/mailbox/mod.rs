//! The mailbox service: one shard actor per (tenant, topic), found through a directory.

pub mod api;
