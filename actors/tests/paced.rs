//! The tree on a single thread under a paused clock, with a store that takes its time.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use bytes::Bytes;
use ron_actors::blocking::{Blocking, Job, Pace};
use ron_actors::kernel::bus::BusLimits;
use ron_actors::kernel::child::NoObserver;
use ron_actors::kernel::clock::TokioClock;
use ron_actors::mailbox::{Mailbox, MailboxConfig, MailboxObserver};
use ron_actors::store::{Medium, RamBackend, RamMedium, StoreConfig, StoreError, StoreObserver, Volume};
use ron_actors::tree::{Foundation, Tree, TreeArgs};
use ron_core::ids::{ContentHash, QueueKey, Tenant, Topic};
use ron_core::message::{MessageMeta, NewMessage};
use ron_core::reason::Reason;
use ron_core::restart::RestartPolicy;
use ron_core::shard::{Paused, PeekState, SettingsPatch, TopicChange, Want};
use ron_core::time::Millis;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
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

/// Every turn of the store takes this long.
#[derive(Debug)]
struct Turns(Duration);

impl Pace for Turns {
    fn pause(&self, job: Job) -> Duration {
        if job == Job::Turn { self.0 } else { Duration::ZERO }
    }
}

/// RAM whose next write fails when it is told so, and every write after that until it is opened again; or a sync,
/// after which what was written is there all the same.
#[derive(Debug, Clone, Default)]
struct Fallible {
    blocks: RamBackend,
    broken: Arc<AtomicBool>,
    /// The sync that fails, counted from now; 0 = none.
    failing_sync: Arc<AtomicU64>,
    opened: Arc<AtomicU64>,
}

impl Medium for Fallible {
    fn open(&self, builder: &mut redb::Builder, journal_bytes: u64) -> Result<Volume, StoreError> {
        self.broken.store(false, Ordering::SeqCst);
        let volume = Volume::open(self.clone(), builder, journal_bytes)?;
        self.opened.fetch_add(1, Ordering::SeqCst);
        Ok(volume)
    }

    fn durable(&self) -> bool {
        true
    }
}

impl redb::StorageBackend for Fallible {
    fn len(&self) -> Result<u64, io::Error> {
        self.blocks.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        self.blocks.read(offset, out)
    }
    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        self.blocks.set_len(len)
    }
    fn sync_data(&self) -> Result<(), io::Error> {
        let counted =
            self.failing_sync.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
        match counted {
            Ok(1) => Err(io::Error::other("not synced, on purpose")),
            Ok(_) | Err(_) => self.blocks.sync_data(),
        }
    }
    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        if self.broken.load(Ordering::SeqCst) {
            return Err(io::Error::other("broken on purpose"));
        }
        self.blocks.write(offset, data)
    }
}

async fn start(medium: Arc<dyn Medium>, turns: Duration) -> Tree {
    let args = TreeArgs {
        medium,
        store: StoreConfig { blocking: Blocking::Paced(Arc::new(Turns(turns))), ..StoreConfig::default() },
        mailbox: MailboxConfig { park_after_ms: 100, ..MailboxConfig::default() },
        entropy: [7; 40],
        seed: 1,
        restarts: RestartPolicy { base_ms: 0, ..RestartPolicy::default() },
        bus: BusLimits::default(),
        store_observer: Arc::new(Nobody),
        kernel_observer: Arc::new(NoObserver),
    };
    let clock_from = |_| Arc::new(TokioClock::new(Millis(1_000_000))) as _;
    let foundation = Foundation::lay(args, &clock_from).unwrap();
    foundation.raise(Arc::new(Nobody), |_, _| Vec::new()).await.unwrap()
}

fn queue() -> QueueKey {
    QueueKey { tenant: Tenant::parse("acme").unwrap(), topic: Topic::parse("slow").unwrap() }
}

async fn send_one(mailbox: &Mailbox) {
    mailbox.enqueue(&queue(), vec![message()]).await.unwrap()[0].as_ref().unwrap();
}

fn message() -> NewMessage {
    let payload = Bytes::from_static(b"one");
    let meta = MessageMeta {
        content_type: "text/plain".into(),
        attrs: Vec::new(),
        idempotency_key: None,
        corr_id: "corr-0001".into(),
        source_msg_id: None,
        body_ref: None,
    };
    let payload_hash = ContentHash::of(&payload);
    NewMessage { payload, payload_hash, meta, delay_ms: 0, ttl_ms: None, dedup: None }
}

/// The actor of a queue once fired its parking timer over and over while a commit was owed: under a paused clock
/// that never ends, on a node it is a core gone for as long as the disk is stuck.
#[test]
fn a_commit_that_outlasts_the_parking_time_leaves_the_queue_asleep() {
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        let took = runtime.unwrap().block_on(async {
            let tree = start(Arc::new(RamMedium::default()), Duration::from_secs(10)).await;
            let begun = tokio::time::Instant::now();
            send_one(&tree.mailbox).await;
            begun.elapsed()
        });
        tell.send(took).unwrap();
    });
    // a turn for the load, and one for the send
    assert_eq!(told.recv_timeout(Duration::from_secs(60)), Ok(Duration::from_secs(20)));
}

/// The end of an empty topic owes its actor nothing, so that it looked idle, and fired its parking timer over and over
/// while that commit was under way.
#[test]
fn the_end_of_an_empty_topic_outlasts_the_parking_time() {
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        let ended = runtime.unwrap().block_on(async {
            let tree = start(Arc::new(RamMedium::default()), Duration::from_secs(10)).await;
            let change = TopicChange::Settings(SettingsPatch::default());
            tree.mailbox.configure(&queue(), change).await.unwrap();
            tree.mailbox.delete(&queue()).await.unwrap()
        });
        tell.send(ended).unwrap();
    });
    assert_eq!(told.recv_timeout(Duration::from_secs(60)), Ok(0));
}

/// The lease of a queue that was killed failed to commit, and its drop once released the delivery of the same
/// number that the queue's next actor had given to somebody else.
#[tokio::test(start_paused = true)]
async fn a_lease_that_failed_to_commit_does_not_release_a_later_one() {
    const TURN: Duration = Duration::from_millis(1_000);
    let medium = Fallible::default();
    let tree = start(Arc::new(medium.clone()), TURN).await;
    let mailbox = tree.mailbox.clone();
    send_one(&mailbox).await;
    let want = Want { max_messages: 1, max_bytes: 1 << 20, visibility_ms: Some(60_000) };
    let recv = |wait: Duration| {
        let mailbox = mailbox.clone();
        tokio::spawn(async move { mailbox.recv(&queue(), want, wait).await })
    };
    let first = recv(Duration::ZERO);
    tokio::time::sleep(TURN / 10).await;
    medium.broken.store(true, Ordering::SeqCst);
    assert!(tree.shards.kill_child("shard:acme/slow").await);
    tokio::time::sleep(TURN / 10).await;
    let second = recv(Duration::ZERO);
    assert_eq!(first.await.unwrap().unwrap_err().reason, Reason::Storage);
    let delivery = second.await.unwrap().unwrap();
    assert_eq!((delivery.messages.len(), delivery.messages[0].delivery), (1, 1));
    delivery.written();
    let third = recv(Duration::from_secs(20)).await.unwrap().unwrap();
    assert!(third.messages.is_empty(), "redelivered early: {:?}", third.messages);
}

/// A commit that moves leases may land although the store says that it failed. Each time it did, the leases were moved
/// once more by all the time that their clocks had stood still.
#[tokio::test(start_paused = true)]
async fn what_landed_although_it_failed_moves_no_lease_twice() {
    const TURN: Duration = Duration::from_millis(1_000);
    const SOON: Duration = Duration::from_secs(300);
    const ALL: Paused = Paused { recv: true, enqueue: true };
    let medium = Fallible::default();
    let tree = start(Arc::new(medium.clone()), TURN).await;
    let mailbox = tree.mailbox.clone();
    send_one(&mailbox).await;
    let want = Want { max_messages: 1, max_bytes: 1 << 20, visibility_ms: Some(60_000) };
    let delivery = mailbox.recv(&queue(), want, Duration::ZERO).await.unwrap();
    let deadline = delivery.messages[0].deadline.rfc3339();
    delivery.written();
    let begun = tokio::time::Instant::now();
    // the sync of its entry in the journal: all of it is written by then
    medium.failing_sync.store(1, Ordering::SeqCst);
    let lost = mailbox.configure(&queue(), TopicChange::Pause { what: ALL, paused: false }).await;
    assert_eq!(lost.unwrap_err().reason, Reason::Storage);
    for _ in 0..6 {
        // the next commit is the one that moves the lease
        let opened = medium.opened.load(Ordering::SeqCst);
        let again = async {
            while medium.opened.load(Ordering::SeqCst) == opened {
                tokio::time::sleep(TURN / 20).await;
            }
        };
        tokio::time::timeout(SOON, again).await.expect("the store is opened again");
        medium.failing_sync.store(1, Ordering::SeqCst);
    }
    medium.failing_sync.store(0, Ordering::SeqCst);
    let seen = async {
        loop {
            tokio::time::sleep(TURN).await;
            let page = mailbox.peek(&queue(), PeekState::Vis, 10, None).await;
            let one = page.map(|page| page.messages.first().and_then(|one| one.deadline.clone()));
            if let Ok(Some(moved)) = one {
                break moved;
            }
        }
    };
    let moved = tokio::time::timeout(SOON, seen).await.expect("the lease is shown");
    let most = Millis(1_000_000 + 60_000).plus(begun.elapsed().as_millis() as u64 + 5_000).rfc3339();
    assert!(moved > deadline && moved <= most, "{deadline} became {moved}, which may be {most} at most");
}

/// The first send to a topic whose commit was lost after its writing was answered STORAGE, and then, for as long as the
/// store was being opened again, the topic with the message in it was said not to exist.
#[tokio::test(start_paused = true)]
async fn a_topic_whose_first_send_is_in_doubt_is_not_said_to_be_missing() {
    let medium = Fallible::default();
    let tree = start(Arc::new(medium.clone()), Duration::from_millis(1_000)).await;
    let mailbox = tree.mailbox.clone();
    assert_eq!(mailbox.stat(&queue()).await.unwrap_err().reason, Reason::NotFound, "before");
    medium.failing_sync.store(1, Ordering::SeqCst); // all of it is written by then
    assert_eq!(mailbox.enqueue(&queue(), vec![message()]).await.unwrap_err().reason, Reason::Storage);
    let ready = async {
        loop {
            match mailbox.stat(&queue()).await {
                Ok(stat) => break stat.stats.ready,
                Err(refusal) => assert_ne!(refusal.reason, Reason::NotFound),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let ready = tokio::time::timeout(Duration::from_secs(60), ready).await.expect("the queue is loaded");
    assert_eq!(ready, 1, "it had landed");
}

/// An actor that ends because nobody uses it must not take with it what comes at that very moment.
#[tokio::test(start_paused = true)]
async fn an_idle_queue_has_no_actor_and_what_comes_as_it_ends_is_not_lost() {
    const SENDS: usize = 210;
    let tree = start(Arc::new(RamMedium::default()), Duration::from_millis(1)).await;
    let directory = tree.mailbox.directory().clone();
    let mailbox = tree.mailbox.clone();
    let sender = tokio::spawn(async move {
        // around the 100 ms after which it parks, and two at a time
        for gap in (90..=119).cycle().take(SENDS / 2) {
            tokio::join!(send_one(&mailbox), send_one(&mailbox));
            tokio::time::sleep(Duration::from_millis(gap)).await;
        }
    });
    let mut asleep = 0;
    while !sender.is_finished() {
        tokio::time::sleep(Duration::from_millis(1)).await;
        asleep += usize::from(directory.awake() == 0);
    }
    sender.await.unwrap();
    assert!(asleep > SENDS, "it ended again and again: {asleep} ms in all");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(directory.awake(), 0, "nobody uses it");
    assert_eq!(tree.mailbox.stat(&queue()).await.unwrap().stats.ready, SENDS as u64);
    tree.stop().await;
}
