//! The tree on a single thread under a paused clock, with a store that takes its time.

use bytes::Bytes;
use ron_actors::blocking::{Blocking, Job, Pace};
use ron_actors::kernel::bus::BusLimits;
use ron_actors::kernel::child::NoObserver;
use ron_actors::kernel::clock::TokioClock;
use ron_actors::mailbox::{MailboxConfig, MailboxObserver};
use ron_actors::store::{RamMedium, StoreConfig, StoreObserver};
use ron_actors::tree::{Foundation, TreeArgs};
use ron_core::ids::{ContentHash, QueueKey, Tenant, Topic};
use ron_core::message::{MessageMeta, NewMessage};
use ron_core::restart::RestartPolicy;
use ron_core::time::Millis;
use std::sync::Arc;
use std::time::Duration;

#[derive(Debug)]
struct Nobody;

impl MailboxObserver for Nobody {
    fn delivered(&self, _: f64) {}
    fn integrity_failed(&self) {}
    fn dead_lettered(&self, _: &QueueKey, _: u64) {}
    fn requeued(&self, _: &QueueKey, _: u64) {}
}

impl StoreObserver for Nobody {
    fn committed(&self, _: f64, _: usize) {}
    fn failed(&self) {}
}

#[derive(Debug)]
struct Slow;

impl Pace for Slow {
    fn pause(&self, job: Job) -> Duration {
        if job == Job::Turn { Duration::from_secs(10) } else { Duration::ZERO }
    }
}

/// The actor of a queue once fired its parking timer over and over while a commit was owed: under a paused clock
/// that never ends, on a node it is a core gone for as long as the disk is stuck.
#[test]
fn a_commit_that_outlasts_the_parking_time_leaves_the_queue_asleep() {
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_time().start_paused(true).build().unwrap();
        tell.send(runtime.block_on(send_one())).unwrap();
    });
    assert_eq!(told.recv_timeout(Duration::from_secs(60)), Ok(Duration::from_secs(20)));
}

/// How long one send took, its queue's load included.
async fn send_one() -> Duration {
    let args = TreeArgs {
        medium: Arc::new(RamMedium::default()),
        store: StoreConfig { blocking: Blocking::Paced(Arc::new(Slow)), ..StoreConfig::default() },
        mailbox: MailboxConfig { park_after_ms: 100, ..MailboxConfig::default() },
        entropy: [7; 40],
        seed: 1,
        restarts: RestartPolicy::default(),
        bus: BusLimits::default(),
        store_observer: Arc::new(Nobody),
        kernel_observer: Arc::new(NoObserver),
    };
    let clock_from = |_| Arc::new(TokioClock::new(Millis(1_000_000))) as _;
    let foundation = Foundation::lay(args, &clock_from).unwrap();
    let tree = foundation.raise(Arc::new(Nobody), |_, _| Vec::new()).await.unwrap();
    let queue = QueueKey { tenant: Tenant::parse("acme").unwrap(), topic: Topic::parse("slow").unwrap() };
    let payload = Bytes::from_static(b"one");
    let meta = MessageMeta {
        content_type: "text/plain".into(),
        attrs: Vec::new(),
        idempotency_key: None,
        corr_id: "corr-0001".into(),
    };
    let payload_hash = ContentHash::of(&payload);
    let message = NewMessage { payload, payload_hash, meta, delay_ms: 0, ttl_ms: None, dedup: None };
    let begun = tokio::time::Instant::now();
    tree.mailbox.enqueue(&queue, vec![message]).await.unwrap()[0].as_ref().unwrap();
    begun.elapsed()
}
