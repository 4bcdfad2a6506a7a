//! What runs for every message, counted in instructions: the frames of OAP/1, capabilities, the queue, chunks,
//! webhooks.
//!
//! Inputs are the same in every run. No clock, no randomness, and no map with a random order: a count that differs
//! comes from code that differs. `.ci/counts` runs them and judges them by `benches/counts.toml`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "an input that does not hold must end the run")]
#![allow(missing_docs, unreachable_pub, unused_qualifications, reason = "what gungraun's macros write")]

mod capabilities;
mod chunks;
mod frames;
mod queues;
mod webhooks;

use capabilities::capability;
use chunks::chunk;
use frames::oap;
use queues::queue;
use webhooks::webhook;

/// Messages that are handled together: what 64 connections with one send each come to.
const BATCH: usize = 64;

/// The payload of message `number`: 256 bytes, none like another.
fn payload(number: usize) -> Vec<u8> {
    let order = format!("{{\"order\":{number:08},\"state\":\"paid\",\"note\":\"");
    let filling = (order.len()..254).map(|at| b'a' + ((at * 7 + number * 13) % 26) as u8);
    let mut payload: Vec<u8> = order.bytes().chain(filling).collect();
    payload.extend_from_slice(b"\"}");
    payload
}

gungraun::main!(library_benchmark_groups = oap, capability, queue, chunk, webhook);
