//! `Shard::apply` and `Shard::committed` on a queue that holds messages already.

use crate::BATCH;
use gungraun::{library_benchmark, library_benchmark_group};
use ron_core::ids::Slot;
use ron_core::message::{PutOutcome, StoredAt};
use ron_core::shard::{Command, DeliveryRef, NackMode, Reply, Settings, Shard, Step, WaiterId, Want};
use ron_core::time::Millis;

/// Messages that are ready before a count begins.
const READY: u16 = 10_000;
const NOW: Millis = Millis(1_795_366_065_000);

/// What the store says of the messages of one commit.
fn stored(chunk: u64, count: u16) -> Vec<PutOutcome> {
    let at = |idx| StoredAt {
        slot: Slot::new(chunk, idx),
        enqueued: NOW,
        len: 256,
        due: None,
        expires: None,
        group: 0,
    };
    (0..count).map(|idx| PutOutcome::Stored(at(idx))).collect()
}

fn enqueue(shard: &mut Shard, outcomes: &[PutOutcome]) -> Step {
    let reserved = shard.apply(NOW, Command::Enqueue { count: outcomes.len() as u32 });
    shard.committed(NOW, reserved.ticket.unwrap(), outcomes)
}

fn receive(shard: &mut Shard, waiter: u64) -> Vec<DeliveryRef> {
    let want = Want { max_messages: BATCH as u32, max_bytes: 4 << 20, visibility_ms: None };
    let recv = Command::Recv { waiter: WaiterId(waiter), want, until: NOW, stream: None };
    let step = shard.apply(NOW, recv);
    let handed = step.grants.iter().flat_map(|grant| &grant.messages);
    let handed: Vec<_> = handed.map(|one| DeliveryRef { slot: one.slot, delivery: one.delivery }).collect();
    assert_eq!(handed.len(), BATCH);
    let told = shard.committed(NOW, step.ticket.unwrap(), &[]);
    assert!(told.ops.is_empty());
    handed
}

fn settle(shard: &mut Shard, command: Command) -> Step {
    let step = shard.apply(NOW, command);
    let Reply::Settled(results) = &step.reply else { panic!() };
    assert!(results.iter().all(Result::is_ok));
    let _ = shard.committed(NOW, step.ticket.unwrap(), &[]);
    step
}

/// A queue with messages that wait, and as many in flight as sixteen consumers hold.
fn busy() -> (Shard, Vec<DeliveryRef>) {
    let mut shard = Shard::new(Settings::default());
    let _ = enqueue(&mut shard, &stored(2, READY));
    let mut held = Vec::new();
    for waiter in 0..16 {
        held = receive(&mut shard, waiter);
    }
    (shard, held)
}

#[library_benchmark]
#[bench::of_64(busy(), stored(4, BATCH as u16))]
fn enqueues(
    (mut shard, _): (Shard, Vec<DeliveryRef>),
    outcomes: Vec<PutOutcome>,
) -> (Shard, Vec<PutOutcome>, Step) {
    let step = enqueue(&mut shard, &outcomes);
    (shard, outcomes, step)
}

#[library_benchmark]
#[bench::of_64(busy())]
fn receives((mut shard, _): (Shard, Vec<DeliveryRef>)) -> (Shard, Vec<DeliveryRef>) {
    let handed = receive(&mut shard, 99);
    (shard, handed)
}

#[library_benchmark]
#[bench::of_64(busy())]
fn acks((mut shard, deliveries): (Shard, Vec<DeliveryRef>)) -> (Shard, Step) {
    let step = settle(&mut shard, Command::Ack { deliveries });
    (shard, step)
}

#[library_benchmark]
#[bench::of_64(busy())]
fn nacks((mut shard, deliveries): (Shard, Vec<DeliveryRef>)) -> (Shard, Step) {
    let note = Some("the payment provider answered 503".to_owned());
    let nack = Command::Nack { deliveries, mode: NackMode::Fail, delay_ms: None, note, entropy: 0x5eed };
    let step = settle(&mut shard, nack);
    (shard, step)
}

#[library_benchmark]
#[bench::of_1024_leases(busy())]
fn timeouts((mut shard, _): (Shard, Vec<DeliveryRef>)) -> (Shard, Step) {
    let step = shard.apply(NOW.plus(Settings::default().visibility_ms), Command::Tick);
    assert_eq!(step.counts.timeouts, 16 * BATCH as u64);
    (shard, step)
}

library_benchmark_group!(name = queue, benchmarks = [enqueues, receives, acks, nacks, timeouts]);
