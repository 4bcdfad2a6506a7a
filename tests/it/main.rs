//! The real binary from outside: each test starts nodes of its own in a temporary directory, on free ports, and
//! knows only what a client knows.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod admission;
mod attempts;
mod audit;
mod audit_counts;
mod bad_input;
mod bench;
mod brownout;
mod capabilities;
mod catalogue;
mod chaos;
mod client;
mod client_tls;
mod clock;
mod config;
mod crowd;
mod deletion;
mod dlq;
mod egress;
mod fake_rabbitmq;
mod fake_redis;
mod fanout;
mod graphql;
mod harness;
mod history;
mod http;
mod integrity;
mod interop;
mod leases;
mod lifecycle;
mod limits;
mod lives;
mod logs;
mod mailbox;
mod metrics;
mod oap;
mod oap_comp;
mod oap_wire;
mod openapi;
mod pki;
mod policy;
mod receipts;
mod restored;
mod revocation;
mod sandbox;
mod settling;
mod snapshot;
mod stream;
mod synced;
mod tls;
mod top;
mod topic;
mod watch;
