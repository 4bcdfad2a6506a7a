//! The end of a run: everything open is resolved, everything ready is received and acked, and what is left is
//! written down for the checker.

use super::plan::{FIFO, all_topics};
use super::session::Session;
use super::{Shared, producer};
use crate::clock::Micros;
use crate::history::How;
use std::sync::Arc;

/// Clients that drain one topic together; one alone where the order counts.
const PER_TOPIC: u64 = 3;

/// Resolves, drains and records; the node must be up and the load stopped. Gives up after `limit`
/// microseconds: the checker then says what is left.
pub fn drain(shared: &Arc<Shared>, limit: Micros) {
    let until = shared.clock.now().saturating_add(limit);
    let mut resolver = Session::new(shared, 1);
    producer::resolve_all(&mut resolver);
    let mut threads = Vec::new();
    for (place, topic) in (0u64..).zip(all_topics()) {
        for nth in 0..if topic == FIFO { 1 } else { PER_TOPIC } {
            let mut session = Session::new(shared, 200_000 + place * 10 + nth);
            threads.push(std::thread::spawn(move || empty(&mut session, topic, until)));
        }
    }
    for thread in threads {
        let _ = thread.join();
    }
    record(shared);
}

/// Receives and acks until the topic is empty, waiting for leases, delays and backoffs.
fn empty(session: &mut Session, topic: &str, until: Micros) {
    while session.shared.clock.now() < until {
        let Some(messages) = session.recv(topic, 30_000, 256, 500) else { return };
        if !messages.is_empty() {
            let receipts: Vec<_> = messages.into_iter().map(|got| got.receipt).collect();
            session.settle(topic, &How::Ack, &receipts);
            continue;
        }
        let Some(depths) = session.stat(topic) else { continue };
        if (depths.ready, depths.delayed, depths.vis) == (0, 0, 0) {
            return;
        }
    }
}

/// Looks at every topic once more: one receive that must be empty, the dead letters and the figures.
pub fn record(shared: &Arc<Shared>) {
    let mut session = Session::new(shared, 2);
    for topic in all_topics() {
        if let Some(messages) = session.recv(topic, 30_000, 256, 0).filter(|messages| !messages.is_empty()) {
            let receipts: Vec<_> = messages.into_iter().map(|got| got.receipt).collect();
            session.settle(topic, &How::Ack, &receipts);
        }
        session.walk_dlq(topic);
        session.stat(topic);
    }
}
