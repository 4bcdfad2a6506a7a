//! Reprocessing, spelled out: what a message keeps, where it stands, and what a restart leaves of that.

use super::disk::Disk;
use crate::ids::Slot;
use crate::message::{PutOutcome, Recovered, StoredAt};
use crate::reason::Reason;
use crate::shard::{
    Command, DeliveryRef, Event, NackMode, Paused, Recovery, Reply, Settings, Shard, Step, StreamId,
    WaiterId, Want, What,
};
use crate::time::Millis;

struct World {
    shard: Shard,
    disk: Disk,
    now: u64,
    settings: Settings,
}

impl World {
    fn new(settings: Settings) -> World {
        World { shard: Shard::new(settings), disk: Disk::default(), now: 1_000, settings }
    }

    fn put(&mut self, slot: u64, ttl: Option<u64>) {
        self.put_in(slot, ttl, 0);
    }

    fn put_in(&mut self, slot: u64, ttl: Option<u64>, group: u64) {
        let enqueued = Millis(self.now);
        let expires = ttl.map(|ms| enqueued.plus(ms));
        let stored = StoredAt { slot: Slot(slot), enqueued, len: 1, due: None, expires, group };
        let step = self.shard.apply(enqueued, Command::Enqueue { count: 1 });
        self.disk.rows.insert(Slot(slot), Recovered { stored, state: None });
        let _ = self.shard.committed(enqueued, step.ticket.unwrap(), &[PutOutcome::Stored(stored)]);
    }

    fn apply(&mut self, command: Command) -> Step {
        let step = self.shard.apply(Millis(self.now), command);
        step.ops.iter().for_each(|op| self.disk.write(op));
        if let Some(ticket) = step.ticket {
            let _ = self.shard.committed(Millis(self.now), ticket, &[]);
        }
        self.shard.check().unwrap();
        step
    }

    fn recv(&mut self, max_messages: u32) -> Vec<DeliveryRef> {
        let want = Want { max_messages, max_bytes: 1 << 20, visibility_ms: None };
        let step = self.apply(Command::Recv { waiter: WaiterId(1), want, until: Millis(0), stream: None });
        let messages = step.grants.iter().flat_map(|grant| &grant.messages);
        messages.map(|leased| DeliveryRef { slot: leased.slot, delivery: leased.delivery }).collect()
    }

    fn nack(&mut self, delivery: DeliveryRef, mode: NackMode) -> Result<(), Reason> {
        self.nack_for(delivery, mode, None)
    }

    fn nack_for(
        &mut self,
        delivery: DeliveryRef,
        mode: NackMode,
        delay_ms: Option<u64>,
    ) -> Result<(), Reason> {
        let (deliveries, note) = (vec![delivery], Some("why".to_owned()));
        let command = Command::Nack { deliveries, mode, delay_ms, note, entropy: 0 };
        match self.apply(command).reply {
            Reply::Settled(results) => results[0],
            other => panic!("{other:?}"),
        }
    }

    fn reprocess(&mut self, slots: &[u64]) -> Reply {
        self.apply(Command::Reprocess { slots: slots.iter().map(|&slot| Slot(slot)).collect() }).reply
    }

    fn restart(&mut self) {
        let mut recovery = Recovery::new(self.settings, Paused::default(), Millis(self.now), 0);
        self.disk.rows.values().for_each(|row| recovery.push(*row));
        self.shard = recovery.finish();
        self.shard.check().unwrap();
    }

    /// The ids of what is ready, in the order they are served.
    fn served(&mut self) -> Vec<u64> {
        let held = self.recv(100);
        held.iter().for_each(|&delivery| self.nack(delivery, NackMode::Release).unwrap());
        held.iter().map(|delivery| delivery.slot.0).collect()
    }
}

const DONE: fn(u64) -> Reply = |moved| Reply::Reprocessed { moved, left: 0 };

#[test]
fn a_reprocessed_message_stands_at_the_tail_before_and_after_a_restart() {
    let mut world = World::new(Settings::default());
    (1..=4).for_each(|slot| world.put(slot, None));
    for delivery in world.recv(2) {
        world.nack(delivery, NackMode::Reject).unwrap();
    }
    assert_eq!(world.reprocess(&[2, 1]), DONE(2));
    world.put(5, None);
    assert_eq!(world.served(), [3, 4, 2, 1, 5], "behind what was there, before what came later");
    world.restart();
    assert_eq!(world.served(), [3, 4, 2, 1, 5]);
    for delivery in world.recv(3) {
        world.nack(delivery, NackMode::Reject).unwrap();
    }
    world.restart();
    assert_eq!(world.reprocess(&[3]), DONE(1));
    assert_eq!(world.served(), [1, 5, 3], "a restart does not lose the tail");
}

#[test]
fn no_receipt_of_before_counts_and_deliveries_go_on() {
    let mut world = World::new(Settings { max_deliveries: 5, ..Settings::default() });
    world.put(1, None);
    let first = world.recv(1)[0];
    world.nack(first, NackMode::Reject).unwrap();
    assert_eq!(world.nack(first, NackMode::Reject), Ok(()), "repeated");
    assert_eq!(world.reprocess(&[1]), DONE(1));
    for restarted in [false, true] {
        if restarted {
            world.restart();
        }
        assert_eq!(world.nack(first, NackMode::Reject), Err(Reason::StaleReceipt));
        assert_eq!(world.nack(first, NackMode::Release), Err(Reason::StaleReceipt));
        let step = world.apply(Command::Ack { deliveries: vec![first] });
        assert_eq!(step.reply, Reply::Settled(vec![Err(Reason::StaleReceipt)]));
    }
    for delivery in 2..=6 {
        let held = world.recv(1)[0];
        assert_eq!(held.delivery, delivery, "never falls; five more are allowed");
        world.nack(held, NackMode::Release).unwrap();
    }
    assert_eq!((world.recv(1), world.shard.stats().dlq), (Vec::new(), 1));
    assert_eq!(world.disk.letters[&Slot(1)].reason, "max_deliveries");
}

#[test]
fn ttl_and_retention_run_again_from_the_reprocessing() {
    let mut world = World::new(Settings { retention_ms: 10_000, ..Settings::default() });
    world.put(1, Some(3_000));
    world.put(2, None);
    for delivery in world.recv(2) {
        world.nack(delivery, NackMode::Reject).unwrap();
    }
    world.now = 50_000;
    assert_eq!(world.reprocess(&[1, 2]), DONE(2));
    for restarted in [false, true] {
        if restarted {
            world.restart();
        }
        world.now += 1_000;
        let _ = world.apply(Command::Tick);
        assert_eq!(world.shard.stats().ready, 2);
        assert_eq!(world.shard.stats().oldest_enqueued, Some(Millis(50_000)));
    }
    world.now = 53_000;
    assert_eq!(world.apply(Command::Tick).counts.expired, 1);
    world.now = 59_999;
    assert_eq!(world.apply(Command::Tick).counts.expired, 0);
    world.now = 60_000;
    assert_eq!(world.apply(Command::Tick).counts.expired, 1);
    assert!(world.disk.rows.is_empty());
}

#[test]
fn a_full_topic_takes_back_no_more_than_it_may_hold() {
    let mut world = World::new(Settings { max_depth: 3, ..Settings::default() });
    (1..=3).for_each(|slot| world.put(slot, None));
    for delivery in world.recv(3) {
        world.nack(delivery, NackMode::Reject).unwrap();
    }
    world.put(4, None);
    assert_eq!(world.reprocess(&[9, 1, 2, 3]), Reply::Reprocessed { moved: 2, left: 1 });
    assert_eq!((world.shard.stats().ready, world.shard.stats().dlq), (3, 1));
    let step = world.apply(Command::PurgeDead { slots: vec![Slot(1), Slot(3)] });
    assert_eq!(step.reply, Reply::Purged(1), "the one that lives again is none of its business");
    assert_eq!(world.served(), [4, 1, 2]);
}

#[test]
fn in_strict_order_it_is_the_last_of_its_group_and_waits_for_all_the_others() {
    let mut world = World::new(Settings { fifo: true, ..Settings::default() });
    (1..=3).for_each(|slot| world.put_in(slot, None, 7));
    let first = world.recv(9);
    assert_eq!(first.len(), 1, "one of the group at a time");
    world.nack(first[0], NackMode::Reject).unwrap();
    assert_eq!(world.reprocess(&[1]), DONE(1));
    world.put_in(4, None, 9);
    for restarted in [false, true] {
        if restarted {
            world.restart();
        }
        let held = world.recv(9);
        assert_eq!(held.iter().map(|d| d.slot.0).collect::<Vec<_>>(), [2, 4], "another group does not wait");
        assert!(world.recv(9).is_empty(), "while 2 is in flight");
        for delivery in held {
            world.nack(delivery, NackMode::Release).unwrap();
        }
    }
    let held = world.recv(1)[0];
    world.nack_for(held, NackMode::Fail, Some(50)).unwrap();
    assert_eq!(world.recv(9).iter().map(|d| d.slot.0).collect::<Vec<_>>(), [4], "while 2 is delayed");
    world.now += 50;
    for slot in [2, 3, 1] {
        let held = world.recv(9);
        assert_eq!(held.iter().map(|d| d.slot.0).collect::<Vec<_>>(), [slot]);
        let _ = world.apply(Command::Ack { deliveries: held });
    }
}

#[test]
fn what_becomes_of_dead_letters_is_told_with_their_attempts() {
    let mut world = World::new(Settings::default());
    (1..=4).for_each(|slot| world.put(slot, None));
    for delivery in world.recv(4) {
        world.nack(delivery, NackMode::Reject).unwrap();
    }
    let told = |step: &Step| -> Vec<(u64, What, u32, u64)> {
        let of = |event: &Event| (event.first.0, event.what, event.attempt, event.enqueued.0);
        step.events.iter().map(of).collect()
    };
    let step = world.apply(Command::Reprocess { slots: vec![Slot(1), Slot(9)] });
    assert_eq!(told(&step), [(1, What::Reprocessed, 0, 1_000)]);
    let step = world.apply(Command::PurgeDead { slots: vec![Slot(2), Slot(1)] });
    assert_eq!(told(&step), [(2, What::Purged, 1, 1_000)]);
    let step = world.apply(Command::Replace { slot: Slot(3) });
    assert_eq!(told(&step), [(3, What::Purged, 1, 1_000)]);
    world.now += Settings::default().dlq_retention_ms - 1;
    assert_eq!(told(&world.apply(Command::Tick)), [(1, What::Expired, 0, 1_000)], "ready too long");
    world.now += 1;
    assert_eq!(told(&world.apply(Command::Tick)), [(4, What::Expired, 1, 1_000)]);
}

#[test]
fn a_deletion_ends_streams_with_what_they_hold_and_wait_for() {
    let mut world = World::new(Settings::default());
    let (stream, waiter) = (StreamId(7), WaiterId(3));
    let _ = world.apply(Command::OpenStream { stream, max_inflight: 2 });
    let want = Want { max_messages: 2, max_bytes: 1 << 20, visibility_ms: None };
    let next = Command::Recv { waiter, want, until: Millis(90_000), stream: Some(stream) };
    world.put(1, None);
    let step = world.apply(next.clone());
    assert_eq!(step.grants.len(), 1);
    world.put(2, None);
    for delivery in world.recv(1) {
        world.nack(delivery, NackMode::Reject).unwrap();
    }
    assert!(world.apply(next.clone()).empty_handed.is_empty());
    let step = world.apply(Command::Delete);
    assert_eq!((step.reply, step.empty_handed), (Reply::Purged(2), vec![waiter]));
    assert!(world.disk.rows.is_empty() && world.shard.idle());
    let Reply::Refused(refusal) = world.apply(next).reply else { panic!("the stream is still known") };
    assert_eq!(refusal.reason, Reason::DownstreamUnavailable);
}
