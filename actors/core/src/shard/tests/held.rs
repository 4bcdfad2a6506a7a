//! Ends that are held because the node's clock is in doubt.

use super::cases::{commit, delivery, nack, put, recv, slots, stored};
use crate::message::StoredAt;
use crate::shard::{Command, NackMode, Settings, Shard};
use crate::time::Millis;

const LATE: u64 = 1_000_000_000;

fn settings() -> Settings {
    Settings { retention_ms: 5_000, dlq_retention_ms: 5_000, max_attempts: 1, ..Settings::default() }
}

#[test]
fn nothing_ends_while_ends_are_held_and_everything_after() {
    let mut shard = Shard::new(settings());
    let mortal = StoredAt { expires: Some(Millis(50)), ..stored(2) };
    let _ = put(&mut shard, 10, &[stored(1), mortal, stored(3)]);
    let taken = recv(&mut shard, 11, 1, 11);
    assert_eq!(slots(&taken), [1, 2, 3]);
    let _ = commit(&mut shard, 11, &taken);
    let release = |shard: &mut Shard, slot| {
        let step = nack(shard, 12, delivery(slot, 1), NackMode::Release, Some(0));
        let _ = commit(shard, 12, &step);
    };
    release(&mut shard, 1);
    let dead = nack(&mut shard, 12, delivery(3, 1), NackMode::Fail, Some(0));
    let _ = commit(&mut shard, 12, &dead);
    shard.hold_ends(true);
    // its TTL is over before it comes back
    let late = nack(&mut shard, LATE, delivery(2, 1), NackMode::Release, Some(0));
    let _ = commit(&mut shard, LATE, &late);
    let _ = put(&mut shard, LATE, &[stored(4)]);
    let stats = shard.stats();
    assert_eq!((stats.ready, stats.vis, stats.dlq), (3, 0, 1));
    assert_eq!(shard.wake_at(), None, "a timer for what is held would fire for ever");
    shard.check().unwrap();

    shard.hold_ends(false);
    assert!(shard.wake_at().is_some_and(|at| at < Millis(LATE)));
    let step = shard.apply(Millis(LATE), Command::Tick);
    assert_eq!(step.counts.expired, 4);
    let stats = shard.stats();
    assert_eq!((stats.ready, stats.dlq), (0, 0));
    shard.check().unwrap();
}

#[test]
fn leases_and_delays_run_on_while_ends_are_held() {
    let mut shard = Shard::new(Settings { max_attempts: 5, ..settings() });
    shard.hold_ends(true);
    let delayed = StoredAt { due: Some(Millis(1_000)), ..stored(2) };
    let _ = put(&mut shard, 10, &[stored(1), delayed]);
    let taken = recv(&mut shard, 11, 1, 11);
    let _ = commit(&mut shard, 11, &taken);
    assert_eq!(shard.wake_at(), Some(Millis(1_000)));
    let step = shard.apply(Millis(LATE), Command::Tick);
    assert_eq!((step.counts.timeouts, step.counts.expired), (1, 0));
    let stats = shard.stats();
    assert_eq!((stats.ready, stats.vis, stats.delayed), (2, 0, 0));
    shard.check().unwrap();
}
