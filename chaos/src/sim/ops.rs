//! What a client does next, drawn from its own stream of random numbers.

use super::model::Content;
use super::plan::Plan;
use super::world::{Held, Inner};
use ron_core::shard::{NackMode, PeekState};
use std::collections::BTreeSet;

/// One operation, with all that it needs.
#[derive(Debug)]
pub(super) enum Op {
    /// Send these contents to a queue in one batch.
    Send { queue: usize, contents: Vec<u64> },
    /// Receive.
    Recv {
        queue: usize,
        max_messages: u32,
        max_bytes: u64,
        visibility_ms: Option<u64>,
        wait_ms: u64,
        /// The client gives up after this.
        cancel_ms: Option<u64>,
        /// The connection breaks before the answer is written.
        dropped: bool,
    },
    /// Settle deliveries of one queue.
    Settle { queue: usize, how: How, held: Vec<Held> },
    /// Present receipts to a queue that they are not of, and one that is none.
    Foreign { queue: usize, how: How, receipts: Vec<String> },
    /// Figures.
    Stat { queue: usize },
    /// A page.
    Peek { queue: usize, state: PeekState, limit: u32 },
    /// Nothing this time.
    Rest,
}

/// How deliveries are settled.
#[derive(Debug, Clone, Copy)]
pub(super) enum How {
    Ack,
    Nack(NackMode, Option<u64>),
    Extend(u64),
}

/// Draws the next operation of client `me`.
pub(super) fn next(plan: &Plan, inner: &mut Inner, me: usize) -> Op {
    let rng = &mut inner.clients[me].rng;
    let queue = rng.below(plan.queues) as usize;
    let w = plan.weights;
    let all = [w.send, w.recv, w.ack, w.nack, w.extend, w.stat, w.peek, w.foreign];
    let mut drawn = rng.below(all.iter().sum());
    let mut which = 0;
    while drawn >= all[which] {
        drawn -= all[which];
        which += 1;
    }
    match which {
        0 => send(plan, inner, me, queue),
        1 => recv(plan, inner, me, queue),
        2 => settle(inner, me, How::Ack),
        3 => {
            let mode = rng.pick(&[NackMode::Fail, NackMode::Fail, NackMode::Release, NackMode::Reject]);
            let delay_ms = rng.chance(40).then(|| rng.below(plan.delay_max_ms));
            settle(inner, me, How::Nack(mode, delay_ms.filter(|_| mode != NackMode::Reject)))
        }
        4 => {
            let visibility_ms = rng.range(250, plan.visibility_max_ms);
            settle(inner, me, How::Extend(visibility_ms))
        }
        5 => Op::Stat { queue },
        6 => {
            let state = rng.pick(&[PeekState::Ready, PeekState::Delayed, PeekState::Vis, PeekState::Dlq]);
            Op::Peek { queue, state, limit: rng.range(1, 30) as u32 }
        }
        _ => foreign(inner, me, queue),
    }
}

fn send(plan: &Plan, inner: &mut Inner, me: usize, queue: usize) -> Op {
    let Inner { clients, model, .. } = inner;
    let memory = &mut clients[me];
    let count = memory.rng.range(1, plan.batch_max);
    let mut contents = Vec::new();
    for _ in 0..count {
        let rng = &mut memory.rng;
        let again = rng.chance(15).then(|| rng.below(memory.keyed.len() as u64) as usize);
        let again = again.and_then(|place| memory.keyed.get(place).copied());
        // The same content twice in one batch is a fine thing to try, and so it is not avoided.
        if let Some(old) = again.filter(|old| model.contents[*old as usize].queue == queue) {
            contents.push(old);
            continue;
        }
        let key = rng.chance(40).then(|| rng.below(plan.keys));
        let delay_ms = if rng.chance(20) { rng.below(plan.delay_max_ms) } else { 0 };
        let ttl_ms = rng.chance(15).then(|| delay_ms + rng.range(1, plan.delay_max_ms));
        let content = Content { queue, key, delay_ms, ttl_ms, open: 0, ids: BTreeSet::new() };
        let number = model.new_content(content);
        if key.is_some() {
            memory.keyed.push(number);
        }
        contents.push(number);
    }
    Op::Send { queue, contents }
}

fn recv(plan: &Plan, inner: &mut Inner, me: usize, queue: usize) -> Op {
    let rng = &mut inner.clients[me].rng;
    let wait_ms = if rng.chance(50) { rng.range(1, 5_000) } else { 0 };
    Op::Recv {
        queue,
        max_messages: rng.pick(&[1, 1, 3, 10, 256]),
        max_bytes: rng.pick(&[1, 2_000, 4 << 20]),
        visibility_ms: rng.chance(60).then(|| rng.range(250, plan.visibility_max_ms)),
        wait_ms,
        cancel_ms: rng.chance(8).then(|| rng.below(wait_ms + 5)),
        dropped: rng.chance(5),
    }
}

fn settle(inner: &mut Inner, me: usize, how: How) -> Op {
    let memory = &mut inner.clients[me];
    let rng = &mut memory.rng;
    if memory.held.is_empty() {
        return Op::Rest;
    }
    let first = rng.below(memory.held.len() as u64) as usize;
    let queue = memory.held[first].queue;
    let most = rng.pick(&[1, 1, 3, 20]);
    // A kept receipt is presented again some time: it must be judged right then too.
    let keep = rng.chance(15) || matches!(how, How::Extend(_));
    let mut held: Vec<Held> = Vec::new();
    let mut place = first;
    while held.len() < most && place < memory.held.len() {
        if memory.held[place].queue != queue {
            place += 1;
        } else if keep {
            held.push(memory.held[place].clone());
            place += 1;
        } else {
            held.push(memory.held.remove(place));
        }
    }
    Op::Settle { queue, how, held }
}

fn foreign(inner: &mut Inner, me: usize, queue: usize) -> Op {
    let memory = &inner.clients[me];
    let others = memory.held.iter().filter(|held| held.queue != queue);
    let mut receipts: Vec<String> = others.take(3).map(|held| held.receipt.clone()).collect();
    receipts.push("this-is-no-receipt".to_owned());
    Op::Foreign { queue, how: How::Ack, receipts }
}
