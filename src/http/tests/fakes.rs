//! What stands in for the mailbox, the passport, the verifiers and the node.

use crate::http::auth::{Ask, Authority, Authorizer, Held, Verdict};
use crate::http::mailbox::{HandedOut, HandsOut, MailboxService};
use bytes::Bytes;
use ron_actors::audit::{Audit, AuditArgs, AuditLimits, AuditObserver};
use ron_actors::entropy::SeededEntropy;
use ron_actors::kernel::bus::{Bus, BusLimits};
use ron_actors::kernel::child::{Observer, ServiceLabel};
use ron_actors::kernel::handle::HandlePublisher;
use ron_actors::kernel::supervisor::{SupervisorOptions, start_root};
use ron_actors::mailbox::{Enqueued, PeekPage, Settle, TopicRow, TopicStat};
use ron_actors::mailbox::{Fate, MessageHistory, TopicInForce};
use ron_actors::store::{EngineCell, RamMedium, Store, StoreConfig, StoreObserver};
use ron_core::audit::Who;
use ron_core::capability::CapId;
use ron_core::envelope::{Delivered, Envelope};
use ron_core::ids::{ContentHash, CorrId, Incarnation, Kid, MessageId, QueueKey, Slot, Tenant, Topic};
use ron_core::message::{MessageMeta, NewMessage, StoredMessage};
use ron_core::reason::{Reason, Refusal};
use ron_core::receipt::Receipt;
use ron_core::restart::RestartPolicy;
use ron_core::shard::{Paused, PeekState, Settings, Stats, TopicChange, Want, What};
use ron_core::time::{Clock, Millis};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Notify;

#[derive(Debug)]
pub(super) struct FixedClock;

impl Clock for FixedClock {
    fn now(&self) -> Millis {
        Millis(1_700_000_000_000)
    }

    fn wall(&self) -> Millis {
        Millis(1_700_000_000_000)
    }
}

pub(super) fn id(n: u64) -> MessageId {
    MessageId::new(Millis(1_700_000_000_000), Incarnation(7), Slot(n))
}

/// Tokens: `good`, `expired`, `scoped`, `limited`, `small` (4 bytes), `fading` (allowed, but not for long),
/// `down`; anything else does not verify.
#[derive(Debug)]
pub(super) struct FakeAuth;

#[derive(Debug)]
struct FakeHeld {
    max_bytes: Option<u64>,
    fading: bool,
}

impl Held for FakeHeld {
    fn who(&self) -> Who {
        Who::Cap(CapId::of(&[1; 16]), Kid::parse("fake").unwrap())
    }

    fn topics_allowed(&self, topic: &Topic) -> bool {
        topic.as_str() != "hidden"
    }

    fn allows(&self, _: &Ask<'_>) -> Result<(), Refusal> {
        Ok(())
    }

    fn message_bytes_max(&self) -> Option<u64> {
        self.max_bytes
    }

    fn still_holds(&self, _: u64) -> Result<(), Refusal> {
        match self.fading {
            true => Err(Refusal::new(Reason::ExpiredToken, "capability: expired")),
            false => Ok(()),
        }
    }
}

impl Authorizer for FakeAuth {
    fn may_be_one(&self, token: &str) -> Result<(), Refusal> {
        match token {
            "no-token" => Err(Refusal::new(Reason::Unauth, "by the fake")),
            _ => Ok(()),
        }
    }

    /// Half of the tokens are judged at once, the others later.
    fn authorize<'a>(&'a self, token: &'a str, ask: &'a Ask<'a>) -> Verdict<'a> {
        match token.len().is_multiple_of(2) {
            true => Verdict::Now(FakeAuth::judge(token, ask)),
            false => Verdict::Later(Box::pin(async move { FakeAuth::judge(token, ask) })),
        }
    }
}

impl FakeAuth {
    fn judge(token: &str, ask: &Ask<'_>) -> Result<Authority, Refusal> {
        assert_eq!(ask.wall_unix_s, 1_700_000_000);
        assert!(ask.peer.is_loopback());
        let refuse = |reason| Err(Refusal::new(reason, "by the fake"));
        let mut held = FakeHeld { max_bytes: None, fading: false };
        match token {
            "good" => {}
            "small" => held.max_bytes = Some(4),
            "fading" => held.fading = true,
            "expired" => return refuse(Reason::ExpiredToken),
            "scoped" => return refuse(Reason::ScopeMismatch),
            "limited" => return refuse(Reason::RateLimit),
            "down" => return refuse(Reason::DownstreamUnavailable),
            _ => return refuse(Reason::Unauth),
        }
        if held.max_bytes.zip(ask.message_bytes).is_some_and(|(max, bytes)| bytes > max) {
            return refuse(Reason::ScopeMismatch);
        }
        Ok(Authority { held: Some(Arc::new(held)), ..Authority::default() })
    }
}

/// What the handlers asked of the mailbox.
#[derive(Debug, Clone)]
pub(super) enum Asked {
    Enqueue(QueueKey, Vec<NewMessage>),
    Recv(Want, Duration),
    Stream(u32),
    Settle(Settle, Vec<String>),
    Peek(PeekState, u32, Option<String>),
    Topics(Option<String>),
    Configure(TopicChange),
    Purge,
    Delete,
}

#[derive(Debug, Default)]
pub(super) struct FakeMailbox {
    pub(super) asked: Mutex<Vec<Asked>>,
    /// What every call is refused with.
    pub(super) refuse: Mutex<Option<Refusal>>,
    /// What each message of an enqueue, or each receipt, is refused with.
    pub(super) refuse_item: Mutex<Option<Reason>>,
    /// Handed out by the next receives; a waiting one ends when `arrived` says so.
    pub(super) ready: Mutex<Vec<Delivered>>,
    pub(super) arrived: Notify,
    pub(super) written: Arc<AtomicUsize>,
    pub(super) given_back: Arc<AtomicUsize>,
    pub(super) waiting: Arc<AtomicUsize>,
}

impl FakeMailbox {
    pub(super) fn last(&self) -> Asked {
        self.asked.lock().unwrap().last().cloned().expect("the mailbox was asked")
    }

    pub(super) fn never_asked(&self) -> bool {
        self.asked.lock().unwrap().is_empty()
    }

    fn ask(&self, asked: Asked) -> Result<(), Refusal> {
        self.asked.lock().unwrap().push(asked);
        self.refuse.lock().unwrap().clone().map_or(Ok(()), Err)
    }
}

pub(super) fn delivered(payload: &'static str) -> Delivered {
    let queue = QueueKey { tenant: Tenant::parse("acme").unwrap(), topic: Topic::parse("orders").unwrap() };
    let message = StoredMessage {
        slot: Slot(1),
        enqueued: Millis(1_700_000_000_000),
        payload: Bytes::from_static(payload.as_bytes()),
        payload_hash: ContentHash::of(payload.as_bytes()),
        meta: MessageMeta {
            content_type: "text/plain".into(),
            attrs: Vec::new(),
            idempotency_key: None,
            corr_id: "corr-0001".into(),
            source_msg_id: None,
            body_ref: None,
        },
        copied_from: None,
    };
    Delivered {
        queue,
        msg_id: id(1),
        receipt: Receipt::from_bytes([1; 28]),
        attempt: 1,
        delivery: 1,
        deadline: Millis(1_700_000_030_000),
        copied_from: None,
        restored_at: None,
        message,
    }
}

/// Counts whether it was written or given back.
#[derive(Debug)]
pub(super) struct FakeDelivery {
    messages: Vec<Delivered>,
    written: Arc<AtomicUsize>,
    given_back: Arc<AtomicUsize>,
}

impl FakeDelivery {
    pub(super) fn new(messages: Vec<Delivered>, mailbox: &FakeMailbox) -> FakeDelivery {
        let (written, given_back) = (Arc::clone(&mailbox.written), Arc::clone(&mailbox.given_back));
        FakeDelivery { messages, written, given_back }
    }
}

impl HandedOut for FakeDelivery {
    fn messages(&self) -> &[Delivered] {
        &self.messages
    }

    fn written(mut self) {
        self.written.fetch_add(self.messages.len(), Ordering::SeqCst);
        self.messages.clear();
    }

    fn first_written(&mut self) {
        self.written.fetch_add(1, Ordering::SeqCst);
        self.messages.remove(0);
    }

    fn drop_overdue(&mut self, now: Millis) {
        assert_eq!(now, FixedClock.now());
    }
}

/// Hands out what the mailbox has ready.
#[derive(Debug)]
pub(super) struct FakeStream(Arc<FakeMailbox>);

impl HandsOut for FakeStream {
    type Delivery = FakeDelivery;

    async fn next(&mut self, want: Want, wait: Duration) -> Result<FakeDelivery, Refusal> {
        self.0.next(want, wait).await
    }
}

impl Drop for FakeDelivery {
    fn drop(&mut self) {
        self.given_back.fetch_add(self.messages.len(), Ordering::SeqCst);
    }
}

struct Waiting(Arc<AtomicUsize>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl FakeMailbox {
    async fn next(self: &Arc<Self>, want: Want, wait: Duration) -> Result<FakeDelivery, Refusal> {
        self.ask(Asked::Recv(want, wait))?;
        if self.ready.lock().unwrap().is_empty() && !wait.is_zero() {
            self.waiting.fetch_add(1, Ordering::SeqCst);
            let _waiting = Waiting(Arc::clone(&self.waiting));
            self.arrived.notified().await;
        }
        let messages = std::mem::take(&mut *self.ready.lock().unwrap());
        Ok(FakeDelivery::new(messages, self))
    }
}

impl MailboxService for Arc<FakeMailbox> {
    type Delivery = FakeDelivery;
    type Stream = FakeStream;

    async fn open_stream(&self, _: &QueueKey, max_inflight: u32) -> Result<FakeStream, Refusal> {
        self.ask(Asked::Stream(max_inflight))?;
        Ok(FakeStream(Arc::clone(self)))
    }

    async fn enqueue(
        &self,
        queue: &QueueKey,
        messages: Vec<NewMessage>,
    ) -> Result<Vec<Result<Enqueued, Reason>>, Refusal> {
        if messages.iter().any(|message| message.meta.content_type == "test/panic") {
            panic!("s3cr3t");
        }
        let count = messages.len() as u64;
        self.ask(Asked::Enqueue(queue.clone(), messages))?;
        let refused = *self.refuse_item.lock().unwrap();
        let done = |n| Enqueued { msg_id: id(n), duplicate: n == 1, other_body: false };
        Ok((0..count).map(|n| refused.map_or(Ok(done(n)), Err)).collect())
    }

    async fn recv(
        &self,
        _: &QueueKey,
        want: Want,
        wait: Duration,
        _: &CorrId,
    ) -> Result<FakeDelivery, Refusal> {
        self.next(want, wait).await
    }

    async fn settle(
        &self,
        _: &QueueKey,
        how: Settle,
        receipts: Vec<String>,
    ) -> Result<Vec<Result<(), Reason>>, Refusal> {
        let results = receipts
            .iter()
            .map(|receipt| match receipt.as_str() {
                "stale" => Err(Reason::StaleReceipt),
                "bad" => Err(Reason::Malformed),
                _ => Ok(()),
            })
            .collect();
        self.ask(Asked::Settle(how, receipts))?;
        Ok(results)
    }

    async fn stat(&self, queue: &QueueKey) -> Result<TopicStat, Refusal> {
        if queue.topic.as_str() == "nowhere" {
            return Err(Refusal::new(Reason::NotFound, "no such topic"));
        }
        let stats = Stats { ready: 1, delayed: 2, vis: 3, dlq: 4, oldest_enqueued: None, waiters: 5 };
        Ok(TopicStat {
            stats,
            dedup_keys: 6,
            oldest_age_ms: 7,
            settings: Settings { dedup_window_ms: 8, ..Settings::default() },
            paused: Paused { recv: true, enqueue: false },
        })
    }

    async fn peek(
        &self,
        _: &QueueKey,
        state: PeekState,
        limit: u32,
        cursor: Option<&str>,
    ) -> Result<PeekPage, Refusal> {
        self.ask(Asked::Peek(state, limit, cursor.map(str::to_owned)))?;
        let messages = vec![Envelope { receipt: None, ..Envelope::from(&delivered("peeked")) }];
        Ok(PeekPage { messages, cursor: Some("next".into()) })
    }

    async fn message(&self, _: &QueueKey, id: MessageId) -> Result<MessageHistory, Refusal> {
        let (fate, history) = (Fate::Ended(What::Acked), Vec::new());
        let found = MessageHistory { fate, attempts: 2, last_error: None, history, truncated: true };
        let known = id.slot() == Slot(1);
        known.then_some(found).ok_or_else(|| Refusal::new(Reason::NotFound, "no such message"))
    }

    async fn configure(&self, _: &QueueKey, change: TopicChange) -> Result<TopicInForce, Refusal> {
        self.ask(Asked::Configure(change))?;
        let settings = Settings { max_attempts: 9, ..Settings::default() };
        Ok(TopicInForce { settings, paused: Paused { recv: false, enqueue: true } })
    }

    async fn delete(&self, _: &QueueKey) -> Result<u64, Refusal> {
        self.ask(Asked::Delete)?;
        Ok(4)
    }

    async fn purge(&self, _: &QueueKey) -> Result<u64, Refusal> {
        self.ask(Asked::Purge)?;
        Ok(3)
    }

    async fn topics(
        &self,
        _: &Tenant,
        cursor: Option<&str>,
        _: u32,
    ) -> Result<(Vec<TopicRow>, Option<String>), Refusal> {
        self.ask(Asked::Topics(cursor.map(str::to_owned)))?;
        let row = |topic| TopicRow {
            topic: Topic::parse(topic).unwrap(),
            stats: Stats { ready: 9, ..Stats::default() },
        };
        Ok((vec![row("hidden"), row("orders")], None))
    }
}

#[derive(Debug)]
struct Deaf;

impl AuditObserver for Deaf {
    fn recorded(&self, _: u64) {}
    fn dropped(&self, _: u64) {}
    fn failing(&self, _: Option<String>) {}
}

impl Observer for Deaf {
    fn crashed(&self, _: ServiceLabel) {}
}

/// A log in memory, with its actor, as long as the test runs.
pub(super) fn running_audit() -> Audit {
    let clock: Arc<dyn Clock> = Arc::new(FixedClock);
    let limits = AuditLimits { queue: 1_000, uses: 1_000, ring_bytes: 1 << 20, file_bytes: 1 << 20, keep: 2 };
    let (observer, entropy) = (Arc::new(Deaf), Arc::new(SeededEntropy::new(1)));
    let args = AuditArgs { dir: None, limits, clock: clock.clone(), entropy, observer };
    let audit = Audit::open(args).unwrap();
    let options = SupervisorOptions {
        bus: Bus::new(clock.clone(), BusLimits::default()),
        clock,
        observer: Arc::new(Deaf),
        policy: RestartPolicy::default(),
        seed: 1,
    };
    let spec = audit.child_spec();
    tokio::spawn(async move {
        let _running = start_root(options, vec![spec]).await.unwrap();
        std::future::pending::<()>().await;
    });
    audit
}

/// A store whose actor is not up: what its routes look like can be seen, and whatever they want done is refused.
pub(super) fn store_that_is_down() -> Store {
    #[derive(Debug)]
    struct Quiet;
    impl StoreObserver for Quiet {
        fn committed(&self, _: f64, _: usize) {}
        fn failed(&self) {}
    }
    let clock = |_| Arc::new(FixedClock) as Arc<dyn Clock>;
    let (medium, config) = (Arc::new(RamMedium::default()), StoreConfig::default());
    let opened = EngineCell::open(medium, config, &clock, [1; 40], Arc::new(Quiet)).unwrap();
    Store::new(HandlePublisher::new().handle(), opened.cell)
}
