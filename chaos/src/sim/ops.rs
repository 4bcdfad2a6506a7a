//! What a client does next, drawn from its own stream of random numbers.

use super::plan::Plan;
use super::rng::Rng;
use super::world::{Content, Held, Inner};
use ron_core::shard::{NackMode, Paused, PeekState, SettingsPatch, TopicChange, Want};

/// One operation, with all that it needs.
#[derive(Debug)]
pub(super) enum Op {
    /// Send these contents to a queue in one batch.
    Send { queue: usize, contents: Vec<u64>, twice: bool },
    /// Receive.
    Recv { queue: usize, get: Get },
    /// Receive again and again through a stream, and settle some of it.
    Stream { queue: usize, max_inflight: u32, rounds: u64, get: Get },
    /// Settle deliveries of one queue.
    Settle { queue: usize, how: How, held: Vec<Held>, twice: bool },
    /// Present receipts to a queue that they are not of, and one that is none.
    Foreign { queue: usize, how: How, receipts: Vec<String> },
    /// Figures.
    Stat { queue: usize },
    /// A page.
    Peek { queue: usize, state: PeekState, limit: u32 },
    /// One message.
    Look { queue: usize, id: String },
    /// What operators do with a topic.
    Operate { queue: usize, how: Operation },
    /// A snapshot, or a scrub.
    Upkeep { scrub: bool },
    /// Nothing this time.
    Rest,
}

/// What is received, and how.
#[derive(Debug, Clone, Copy)]
pub(super) struct Get {
    pub(super) want: Want,
    pub(super) wait_ms: u64,
    /// The client gives up after this.
    pub(super) cancel_ms: Option<u64>,
    /// The connection breaks before the answer is written.
    pub(super) dropped: bool,
}

/// How deliveries are settled.
#[derive(Debug, Clone, Copy)]
pub(super) enum How {
    Ack,
    Nack(NackMode, Option<u64>),
    Extend(u64),
}

/// What operators do.
#[derive(Debug, Clone)]
pub(super) enum Operation {
    Configure(TopicChange),
    Purge,
    Delete,
    PurgeDead(Option<Vec<String>>),
    Replace(String, u64),
    Reprocess { ids: Option<Vec<String>>, limit: Option<u64>, rate: Option<u32>, stop_permille: u32 },
    Cancel,
    Tasks,
    Clusters,
}

/// Draws the next operation of client `me`.
pub(super) fn next(plan: &Plan, inner: &mut Inner, me: usize) -> Op {
    let rng = &mut inner.clients[me].rng;
    let queue = rng.below(plan.queues) as usize;
    let w = plan.weights;
    let all = [
        w.send,
        w.recv,
        w.stream,
        w.ack,
        w.nack,
        w.extend,
        w.stat,
        w.peek,
        w.look,
        w.foreign,
        w.dlq,
        w.configure,
        w.end,
        w.upkeep,
    ];
    let mut drawn = rng.below(all.iter().sum());
    let mut which = 0;
    while drawn >= all[which] {
        drawn -= all[which];
        which += 1;
    }
    match which {
        0 => send(plan, inner, me, queue),
        1 => Op::Recv { queue, get: get(plan, rng) },
        2 => {
            let (max_inflight, rounds) = (rng.pick(&[1, 3, 32]), rng.range(1, 6));
            Op::Stream { queue, max_inflight, rounds, get: get(plan, rng) }
        }
        3 => settle(plan, inner, me, How::Ack),
        4 => {
            let mode = rng.pick(&[NackMode::Fail, NackMode::Fail, NackMode::Release, NackMode::Reject]);
            let delay_ms = rng.chance(40).then(|| rng.below(plan.delay_max_ms));
            settle(plan, inner, me, How::Nack(mode, delay_ms.filter(|_| mode != NackMode::Reject)))
        }
        5 => {
            let visibility_ms = rng.range(250, plan.visibility_max_ms);
            settle(plan, inner, me, How::Extend(visibility_ms))
        }
        6 => Op::Stat { queue },
        7 => {
            let states =
                [PeekState::Ready, PeekState::Delayed, PeekState::Vis, PeekState::Dlq, PeekState::Dlq];
            Op::Peek { queue, state: rng.pick(&states), limit: rng.range(1, 30) as u32 }
        }
        8 => look(inner, me, queue),
        9 => foreign(inner, me, queue),
        10 => Op::Operate { queue, how: dead_letters(plan, inner, me, queue) },
        11 => Op::Operate { queue, how: Operation::Configure(change(plan, rng)) },
        12 => {
            let how = if rng.chance(60) { Operation::Purge } else { Operation::Delete };
            Op::Operate { queue, how }
        }
        _ => Op::Upkeep { scrub: rng.chance(50) },
    }
}

/// A new content for `queue`.
fn content(plan: &Plan, rng: &mut Rng, queue: usize) -> Content {
    let key = rng.chance(40).then(|| rng.below(plan.keys));
    let provider = plan.replay_ms > 0 && rng.chance(30);
    let delay_ms = if rng.chance(20) { rng.below(plan.delay_max_ms) } else { 0 };
    let ttl_ms = rng.chance(15).then(|| delay_ms + rng.range(1, plan.delay_max_ms));
    let group = (plan.groups > 0 && rng.chance(70)).then(|| rng.below(plan.groups));
    Content { queue, key, provider, delay_ms, ttl_ms, group }
}

fn send(plan: &Plan, inner: &mut Inner, me: usize, queue: usize) -> Op {
    let Inner { clients, contents: all, .. } = inner;
    let memory = &mut clients[me];
    let twice = memory.rng.chance(plan.twice);
    if memory.rng.chance(70)
        && let Some((queue, contents)) = memory.again.pop_front()
    {
        return Op::Send { queue, contents, twice };
    }
    let count = memory.rng.range(1, plan.batch_max);
    let mut contents = Vec::new();
    for _ in 0..count {
        let rng = &mut memory.rng;
        let again = rng.chance(15).then(|| rng.below(memory.keyed.len() as u64) as usize);
        let again = again.and_then(|place| memory.keyed.get(place).copied());
        // The same content twice in one batch is a fine thing to try, and so it is not avoided.
        if let Some(old) = again.filter(|old| all[*old as usize].queue == queue) {
            contents.push(old);
            continue;
        }
        let number = all.len() as u64;
        all.push(content(plan, rng, queue));
        if all[number as usize].key.is_some() {
            memory.keyed.push(number);
        }
        contents.push(number);
    }
    Op::Send { queue, contents, twice }
}

fn get(plan: &Plan, rng: &mut Rng) -> Get {
    let wait_ms = if rng.chance(50) { rng.range(1, 5_000) } else { 0 };
    let want = Want {
        max_messages: rng.pick(&[1, 1, 3, 10, 256]),
        max_bytes: rng.pick(&[1, 2_000, 4 << 20]),
        visibility_ms: rng.chance(60).then(|| rng.range(250, plan.visibility_max_ms)),
    };
    let cancel_ms = rng.chance(8).then(|| rng.below(wait_ms + 5));
    Get { want, wait_ms, cancel_ms, dropped: rng.chance(5) }
}

fn settle(plan: &Plan, inner: &mut Inner, me: usize, how: How) -> Op {
    let memory = &mut inner.clients[me];
    let rng = &mut memory.rng;
    if memory.held.is_empty() {
        return Op::Rest;
    }
    let first = rng.below(memory.held.len() as u64) as usize;
    let queue = memory.held[first].queue;
    let most = rng.pick(&[1, 1, 3, 20]);
    let twice = rng.chance(plan.twice);
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
    Op::Settle { queue, how, held, twice }
}

fn foreign(inner: &mut Inner, me: usize, queue: usize) -> Op {
    let memory = &inner.clients[me];
    let others = memory.held.iter().filter(|held| held.queue != queue);
    let mut receipts: Vec<String> = others.take(3).map(|held| held.receipt.clone()).collect();
    receipts.push("this-is-no-receipt".to_owned());
    Op::Foreign { queue, how: How::Ack, receipts }
}

fn look(inner: &mut Inner, me: usize, queue: usize) -> Op {
    let Inner { clients, known, .. } = inner;
    let ids = &known[queue].ids;
    let place = clients[me].rng.below(ids.len() as u64) as usize;
    ids.get(place).map_or(Op::Rest, |id| Op::Look { queue, id: id.clone() })
}

fn dead_letters(plan: &Plan, inner: &mut Inner, me: usize, queue: usize) -> Operation {
    let Inner { clients, known, contents, .. } = inner;
    let (rng, dead) = (&mut clients[me].rng, &known[queue].dead);
    let some: Vec<String> = dead.iter().filter(|_| rng.chance(40)).cloned().collect();
    let ids = (rng.chance(50) && !some.is_empty()).then(|| some.clone());
    match rng.below(100) {
        0..50 => Operation::Reprocess {
            ids,
            limit: rng.chance(30).then(|| rng.range(1, 20)),
            rate: rng.chance(40).then(|| rng.range(1, 50) as u32),
            stop_permille: rng.pick(&[100, 500, 1_000]),
        },
        50..62 => Operation::PurgeDead(ids),
        62..75 => match some.first() {
            None => Operation::Clusters,
            Some(id) => {
                let number = contents.len() as u64;
                // an edited message claims no key
                contents.push(Content { key: None, ..content(plan, rng, queue) });
                Operation::Replace(id.clone(), number)
            }
        },
        75..85 => Operation::Cancel,
        85..93 => Operation::Tasks,
        _ => Operation::Clusters,
    }
}

fn change(plan: &Plan, rng: &mut Rng) -> TopicChange {
    if rng.chance(50) {
        let what = rng.pick(&[(true, false), (false, true), (true, true)]);
        let what = Paused { recv: what.0, enqueue: what.1 };
        // resumed twice as often as paused
        return TopicChange::Pause { what, paused: rng.chance(33) };
    }
    let mut patch = SettingsPatch::default();
    match rng.below(8) {
        0 => patch.visibility_ms = Some(rng.range(250, plan.visibility_max_ms)),
        1 => patch.max_attempts = Some(rng.range(1, 6) as u32),
        2 => patch.max_deliveries = Some(rng.pick(&[5, 8, 50])),
        3 => patch.dedup_window_ms = Some(rng.pick(&[0, 500, 10_000, 300_000])),
        4 => patch.max_depth = Some(rng.pick(&[30, 200, u64::MAX])),
        5 if plan.fifo => patch.fifo = Some(rng.chance(60)),
        6 if plan.ram => patch.ram = Some(rng.chance(50)),
        7 if plan.retention_min_ms > 0 => {
            let ms = Some(plan.retention_min_ms * rng.range(1, 10));
            if rng.chance(50) { patch.retention_ms = ms } else { patch.dlq_retention_ms = ms }
        }
        _ => patch.backoff_base_ms = Some(rng.pick(&[1, 50, 200])),
    }
    TopicChange::Settings(patch)
}
