//! The mailbox over a real store in RAM: what a caller sees.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use bytes::Bytes;
use futures::FutureExt;
use ron_actors::kernel::bus::BusLimits;
use ron_actors::kernel::child::NoObserver;
use ron_actors::kernel::clock::SystemClock;
use ron_actors::mailbox::{Mailbox, MailboxConfig, MailboxObserver, Settle};
use ron_actors::store::{DeviceFaults, FileMedium, Medium, RamMedium, StoreConfig, StoreObserver};
use ron_actors::tree::{Foundation, Tree, TreeArgs};
use ron_core::envelope::Envelope;
use ron_core::fault::Sum;
use ron_core::ids::{ContentHash, QueueKey, Tenant, Topic};
use ron_core::message::{DedupClaim, MessageMeta, NewMessage, Origin};
use ron_core::reason::Reason;
use ron_core::restart::RestartPolicy;
use ron_core::shard::{NackMode, PeekState, SettingsPatch, TopicChange, Want};
use std::pin::pin;
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

async fn start(medium: Arc<RamMedium>) -> Tree {
    start_on(medium, Arc::new(Nobody)).await
}

async fn start_on(medium: Arc<dyn Medium>, store_observer: Arc<dyn StoreObserver>) -> Tree {
    start_with(medium, store_observer, StoreConfig::default(), MailboxConfig::default()).await
}

async fn start_with(
    medium: Arc<dyn Medium>,
    store_observer: Arc<dyn StoreObserver>,
    store: StoreConfig,
    mailbox: MailboxConfig,
) -> Tree {
    let args = TreeArgs {
        medium,
        store,
        mailbox,
        entropy: [7; 40],
        seed: 1,
        restarts: RestartPolicy::default(),
        bus: BusLimits::default(),
        store_observer,
        kernel_observer: Arc::new(NoObserver),
    };
    let clock_from = |saved| Arc::new(SystemClock::starting_from(saved)) as _;
    let foundation = Foundation::lay(args, &clock_from).unwrap();
    foundation.raise(Arc::new(Nobody), |_, _| Vec::new()).await.unwrap()
}

fn queue(topic: &str) -> QueueKey {
    QueueKey { tenant: Tenant::parse("acme").unwrap(), topic: Topic::parse(topic).unwrap() }
}

fn message(text: &str) -> NewMessage {
    let payload = Bytes::from(text.to_owned());
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

fn keyed(text: &str, key: &str) -> NewMessage {
    let message = message(text);
    let dedup = DedupClaim::new(&Origin::Api, key.as_bytes(), &message.payload_hash, 300_000);
    NewMessage { dedup: Some(dedup), ..message }
}

const MANY: Want = Want { max_messages: 256, max_bytes: 4 << 20, visibility_ms: None };

async fn take(mailbox: &Mailbox, queue: &QueueKey, wait: Duration) -> Vec<(String, String)> {
    let delivery = mailbox.recv(queue, MANY, wait).await.unwrap();
    let seen = delivery.messages.iter().map(Envelope::from);
    let seen = seen.map(|m| (m.payload.clone().unwrap(), m.receipt.clone().unwrap())).collect();
    delivery.written();
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_is_sent_received_and_acked() {
    let tree = start(Arc::new(RamMedium::default())).await;
    let (mailbox, orders) = (&tree.mailbox, queue("orders"));
    assert_eq!(mailbox.stat(&orders).await.unwrap_err().reason, Reason::NotFound);
    let sent = mailbox.enqueue(&orders, vec![message("one"), message("two")]).await.unwrap();
    assert!(sent.iter().all(|result| result.as_ref().is_ok_and(|enqueued| !enqueued.duplicate)));
    let got = take(mailbox, &orders, Duration::ZERO).await;
    assert_eq!(got.iter().map(|(text, _)| text.as_str()).collect::<Vec<_>>(), ["one", "two"]);
    assert_eq!(mailbox.stat(&orders).await.unwrap().stats.vis, 2);
    let receipts = got.into_iter().map(|(_, receipt)| receipt).collect::<Vec<_>>();
    let settled = mailbox.settle(&orders, Settle::Ack, receipts.clone()).await.unwrap();
    assert_eq!(settled, vec![Ok(()), Ok(())]);
    let stats = mailbox.stat(&orders).await.unwrap().stats;
    assert_eq!((stats.ready, stats.vis, stats.dlq), (0, 0, 0));
    // gone is gone: an ack of a vanished message is ok, a nack of it is stale
    assert_eq!(mailbox.settle(&orders, Settle::Ack, receipts.clone()).await.unwrap(), vec![Ok(()), Ok(())]);
    let nack = Settle::Nack { mode: NackMode::Fail, delay_ms: None, note: None };
    let stale = mailbox.settle(&orders, nack, receipts).await.unwrap();
    assert_eq!(stale, vec![Err(Reason::StaleReceipt); 2]);
    tree.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_remembered_and_waiting_receives_are_served() {
    let tree = start(Arc::new(RamMedium::default())).await;
    let (mailbox, jobs) = (tree.mailbox.clone(), queue("jobs"));
    let waiting = {
        let (mailbox, jobs) = (mailbox.clone(), jobs.clone());
        tokio::spawn(async move { take(&mailbox, &jobs, Duration::from_secs(10)).await })
    };
    while mailbox.directory().get(&jobs).is_none_or(|entry| entry.figures.stats().waiters == 0) {
        tokio::task::yield_now().await;
    }
    let first =
        mailbox.enqueue(&jobs, vec![keyed("a", "k"), keyed("a", "k"), keyed("b", "k")]).await.unwrap();
    let id = first[0].as_ref().unwrap().msg_id;
    assert_eq!(first[1].as_ref().map(|e| (e.msg_id, e.duplicate)), Ok((id, true)));
    assert_eq!(first[2], Err(Reason::IdempotencyConflict));
    assert_eq!(waiting.await.unwrap().len(), 1);
    let again = mailbox.enqueue(&jobs, vec![keyed("a", "k")]).await.unwrap();
    assert_eq!(again[0].as_ref().map(|e| (e.msg_id, e.duplicate)), Ok((id, true)));
    tree.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_shard_and_a_killed_store_come_back_with_everything() {
    let medium = Arc::new(RamMedium::default());
    let tree = start(medium.clone()).await;
    let (mailbox, orders) = (&tree.mailbox, queue("orders"));
    for i in 0..20 {
        mailbox.enqueue(&orders, vec![message(&format!("{i}"))]).await.unwrap()[0].as_ref().unwrap();
    }
    assert!(tree.shards.kill_child("shard:acme/orders").await);
    assert!(tree.root.kill_child("store").await);
    let mut sent = 20;
    for _ in 0..200 {
        match mailbox.enqueue(&orders, vec![message(&format!("{sent}"))]).await {
            Ok(_) => sent += 1,
            Err(refusal) => eprintln!("{refusal}"),
        }
        if sent == 25 {
            break;
        }
    }
    assert_eq!(sent, 25);
    let got = take(mailbox, &orders, Duration::from_secs(5)).await;
    let texts: Vec<String> = got.into_iter().map(|(text, _)| text).collect();
    assert_eq!(texts, (0..25).map(|i| i.to_string()).collect::<Vec<_>>());
    tree.stop().await;
    // the blocks outlive the tree: a second one finds the leases, and peeks at them
    let tree = start(medium).await;
    let page = tree.mailbox.peek(&orders, PeekState::Vis, 100, None).await.unwrap();
    assert_eq!(page.messages.len(), 25);
    tree.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retention_ends_messages_of_a_killed_shard_that_nobody_calls() {
    let tree = start(Arc::new(RamMedium::default())).await;
    let (mailbox, orders) = (&tree.mailbox, queue("orders"));
    let patch = SettingsPatch { retention_ms: Some(1_000), ..SettingsPatch::default() };
    mailbox.configure(&orders, TopicChange::Settings(patch)).await.unwrap();
    mailbox.enqueue(&orders, vec![message("forgotten")]).await.unwrap()[0].as_ref().unwrap();
    assert!(tree.shards.kill_child("shard:acme/orders").await);
    let entry = mailbox.directory().get(&orders).unwrap();
    // The actor may have died before it wrote any figure: the next one has to look all the same.
    let ended = async {
        // counted when it is decided, and gone from the depths when that is committed
        while entry.figures.counters().counts.expired == 0 || entry.figures.stats().ready > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(15), ended).await.unwrap();
    assert_eq!((entry.figures.stats().ready, entry.figures.counters().counts.expired), (0, 1));
    tree.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn receipts_of_a_deleted_topic_are_judged_as_those_of_messages_that_are_gone() {
    let tree = start(Arc::new(RamMedium::default())).await;
    let (mailbox, orders) = (&tree.mailbox, queue("orders"));
    mailbox.enqueue(&orders, vec![message("gone")]).await.unwrap()[0].as_ref().unwrap();
    let (_, receipt) = take(mailbox, &orders, Duration::from_secs(5)).await.remove(0);
    assert_eq!(mailbox.delete(&orders).await.unwrap(), 1);
    let receipts = vec![receipt, "no-receipt".to_owned()];
    let acked = mailbox.settle(&orders, Settle::Ack, receipts.clone()).await.unwrap();
    assert_eq!(acked, [Ok(()), Err(Reason::Malformed)]);
    let how = Settle::Nack { mode: NackMode::Fail, delay_ms: None, note: None };
    let nacked = mailbox.settle(&orders, how, receipts).await.unwrap();
    assert_eq!(nacked, [Err(Reason::StaleReceipt), Err(Reason::Malformed)]);
    tree.stop().await;
}

/// Ends the device's faults with the first commit that failed.
#[derive(Debug)]
struct UntilFailed(Arc<DeviceFaults>);

impl StoreObserver for UntilFailed {
    fn committed(&self, _: f64, _: usize) {}
    fn failed(&self) {
        self.0.set(Sum::default());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn figures_do_not_show_what_a_commit_under_way_then_loses() {
    let dir = tempfile::tempdir().unwrap();
    let medium = Arc::new(FileMedium::new(dir.path().join("store.redb"), 0));
    let faults = medium.faults().unwrap();
    // Without a journal what is not synced is lost for sure.
    let store = StoreConfig { journal_bytes: 0, ..StoreConfig::default() };
    let observer = Arc::new(UntilFailed(faults.clone()));
    let tree = start_with(medium, observer, store, MailboxConfig::default()).await;
    let (mailbox, orders) = (&tree.mailbox.clone(), queue("orders"));
    mailbox.enqueue(&orders, vec![message("one")]).await.unwrap().remove(0).unwrap();
    let receipts: Vec<String> =
        take(mailbox, &orders, Duration::ZERO).await.into_iter().map(|(_, receipt)| receipt).collect();
    faults.set(Sum { latency_ms: 600_000, ..Sum::default() });
    let _ = tree.store.pace(); // of the commits before
    let ack = tokio::spawn({
        let (mailbox, orders) = (mailbox.clone(), orders.clone());
        async move { mailbox.settle(&orders, Settle::Ack, receipts).await }
    });
    let waits = async {
        while tree.store.pace().is_none() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), waits).await.expect("its commit waits for the device");
    let mut stat = pin!(mailbox.stat(&orders));
    let mut vis = pin!(mailbox.peek(&orders, PeekState::Vis, 9, None));
    assert!(stat.as_mut().now_or_never().is_none() && vis.as_mut().now_or_never().is_none());
    // what the queue answers at once says that it has seen what was asked before
    assert!(take(mailbox, &orders, Duration::ZERO).await.is_empty());
    faults.set(Sum { error_percent: 100, ..Sum::default() });
    assert_eq!(ack.await.unwrap().unwrap_err().reason, Reason::Storage);
    let (stat, vis) = (stat.await, vis.await);
    let lost = |reason| matches!(reason, Reason::Storage | Reason::DownstreamUnavailable);
    assert!(stat.is_err_and(|refusal| lost(refusal.reason)), "the figures rested on the ack");
    assert!(vis.is_err_and(|refusal| lost(refusal.reason)), "and so did the page");
    assert_eq!(mailbox.stat(&orders).await.unwrap().stats.vis, 1, "the ack did not land");
    tree.stop().await;
}

/// The same with threads, where a message may come at any point of an actor's end.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn queues_that_end_all_the_time_lose_nothing_and_refuse_nothing() {
    const TOPICS: usize = 8;
    const SENDS: usize = 400;
    let config = MailboxConfig { park_after_ms: 1, ..MailboxConfig::default() };
    let tree =
        start_with(Arc::new(RamMedium::default()), Arc::new(Nobody), StoreConfig::default(), config).await;
    let senders = (0..2 * TOPICS).map(|n| {
        let (mailbox, topic) = (tree.mailbox.clone(), queue(&format!("t{}", n % TOPICS)));
        tokio::spawn(async move {
            for i in 0..SENDS {
                mailbox.enqueue(&topic, vec![message("m")]).await.unwrap()[0].as_ref().unwrap();
                // about as long as it takes until the queue may end
                tokio::time::sleep(Duration::from_micros(((i * 37 + n * 101) % 2_500) as u64)).await;
            }
        })
    });
    for sender in senders.collect::<Vec<_>>() {
        sender.await.unwrap();
    }
    for n in 0..TOPICS {
        let stats = tree.mailbox.stat(&queue(&format!("t{n}"))).await.unwrap().stats;
        assert_eq!(stats.ready, 2 * SENDS as u64);
    }
    tree.stop().await;
}
