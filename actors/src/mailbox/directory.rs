//! Where every queue is found: its number, its handle, its admission and its figures. Read on every request,
//! written when a topic is first used.

use super::MailboxConfig;
use super::figures::QueueFigures;
use super::history::History;
use super::messages::ShardMsg;
use super::tenants::{Parts, TOPICS_FULL, TenantUse};
use crate::kernel::admission::Admission;
use crate::kernel::handle::{Handle, HandlePublisher};
use crate::store::{BootCounts, Store, TopicRow};
use ron_core::ids::{QueueKey, ShardId, Slot, Tenant};
use ron_core::reason::{Reason, Refusal};
use ron_core::shard::Stats;
use ron_core::time::Millis;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

/// One queue.
#[derive(Debug)]
pub struct Entry {
    /// Its number in the store.
    pub shard: ShardId,
    /// Its name.
    pub key: QueueKey,
    /// Its figures.
    pub figures: QueueFigures,
    pub(crate) publisher: HandlePublisher<ShardMsg>,
    pub(crate) handle: Handle<ShardMsg>,
    pub(crate) requests: Admission,
    pub(crate) settles: Admission,
    /// Whether the store has its row: a topic exists from its first enqueue.
    pub(crate) exists: AtomicBool,
    /// Milliseconds its lease clocks stood still and that is not yet written into its leases.
    pub(crate) stood_still_ms: AtomicU64,
    /// Node time since when it cannot commit; 0 = it can.
    pub(crate) down_since: AtomicU64,
    in_doubt: Mutex<Option<MovesInDoubt>>,
    /// What it uses of its tenant's quotas.
    pub(crate) parts: Parts,
    /// Whether the topic was deleted: this is nobody's entry any more, and no actor may be started for it.
    pub(crate) gone: AtomicBool,
    /// Whether a task of it runs: then its actor must, too.
    pub(crate) task_runs: AtomicBool,
    /// What happened to messages, all queues together.
    pub(crate) history: Arc<History>,
    next_waiter: AtomicU64,
}

impl Entry {
    fn new(
        shard: ShardId,
        key: QueueKey,
        tenant: Arc<TenantUse>,
        config: &MailboxConfig,
        history: &Arc<History>,
    ) -> Entry {
        let publisher = HandlePublisher::new();
        Entry {
            shard,
            key,
            figures: QueueFigures::default(),
            handle: publisher.handle(),
            publisher,
            requests: Admission::new(config.shard_requests_max, config.shard_bytes_max),
            settles: Admission::new(config.shard_settles_max, usize::MAX),
            exists: AtomicBool::new(false),
            stood_still_ms: AtomicU64::new(0),
            down_since: AtomicU64::new(0),
            in_doubt: Mutex::default(),
            parts: Parts::new(tenant),
            gone: AtomicBool::new(false),
            task_runs: AtomicBool::new(false),
            history: Arc::clone(history),
            next_waiter: AtomicU64::new(0),
        }
    }

    /// Whether the topic exists in the store.
    #[must_use]
    pub fn exists(&self) -> bool {
        self.exists.load(Ordering::Acquire)
    }

    /// Whether the topic was deleted, and this is nobody's entry any more.
    pub(crate) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    /// Whether its actor failed too often and waits for an operator.
    #[must_use]
    pub fn is_quarantined(&self) -> bool {
        self.handle.is_quarantined()
    }

    /// Requests that are in its actor's mailbox, or wait for their commit.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.requests.in_use().count + self.settles.in_use().count
    }

    /// Whether its actor must run although nobody calls: clocks run, or a task does.
    pub(crate) fn must_run(&self) -> bool {
        let stats = self.figures.applied();
        stats.vis > 0 || stats.delayed > 0 || self.task_runs.load(Ordering::Acquire)
    }

    /// The name of its actor among its siblings.
    #[must_use]
    pub fn child_name(&self) -> String {
        format!("shard:{}", self.key)
    }

    pub(crate) fn next_waiter(&self) -> u64 {
        self.next_waiter.fetch_add(1, Ordering::Relaxed)
    }

    /// Its lease clocks stand still from `now` on, unless they do already. The store hears of it.
    pub(crate) fn stands_still_from(&self, now: Millis, store: &Store) {
        if self.down_since.compare_exchange(0, now.0, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            store.stands_still(self.shard, now);
        }
    }

    /// The clocks go on at `now`. Returns how long they stood still in all since that was last written down;
    /// `None` = they did not.
    pub(crate) fn goes_on_at(&self, now: Millis) -> Option<u64> {
        let since = self.down_since.swap(0, Ordering::AcqRel);
        let ms = if since == 0 { 0 } else { now.since(Millis(since)) };
        let unwritten = self.stood_still_ms.fetch_add(ms, Ordering::AcqRel) + ms;
        (since > 0 || unwritten > 0).then_some(unwritten)
    }

    /// Since when its lease clocks stand still, if they do.
    pub(crate) fn down_since(&self) -> Option<Millis> {
        Some(Millis(self.down_since.load(Ordering::Acquire))).filter(|since| since.0 > 0)
    }

    /// Nobody knows whether moved deadlines are in the store, or that is known now.
    pub(crate) fn moves_in_doubt(&self, doubt: Option<MovesInDoubt>) {
        *self.in_doubt.lock().unwrap_or_else(PoisonError::into_inner) = doubt;
    }

    /// Moved deadlines of which nobody knows whether they are in the store.
    pub(crate) fn doubt(&self) -> Option<MovesInDoubt> {
        *self.in_doubt.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The moved deadlines are in the store.
    pub(crate) fn stillness_written(&self, ms: u64) {
        self.stood_still_ms.fetch_sub(ms, Ordering::AcqRel);
    }
}

/// Moved deadlines whose commit may have landed or not.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MovesInDoubt {
    /// When the clocks were to go on.
    pub(crate) over: Millis,
    /// How long they had stood still.
    pub(crate) lasted_ms: u64,
    /// One of the leases, and its deadline before.
    pub(crate) lease: (Slot, Millis),
}

/// The tenants that have topics.
#[derive(Debug, Default)]
struct Tenants {
    by_name: BTreeMap<Tenant, Arc<TenantUse>>,
    given: u32,
}

/// Tenants whose topics are all gone are forgotten when there is one more than this, and at each doubling.
const TENANTS_KEPT: usize = 1_024;

impl Tenants {
    fn of(&mut self, name: &Tenant, config: &MailboxConfig) -> Arc<TenantUse> {
        if let Some(tenant) = self.by_name.get(name) {
            return tenant.clone();
        }
        if self.by_name.len() > TENANTS_KEPT && self.by_name.len().is_power_of_two() {
            self.by_name.retain(|_, tenant| Arc::strong_count(tenant) > 1);
        }
        self.given = self.given.wrapping_add(1);
        let tenant = Arc::new(TenantUse::new(self.given, name, &config.policy));
        self.by_name.insert(name.clone(), tenant.clone());
        tenant
    }
}

/// One queue whose actor runs; it is counted as long as this lives.
pub(super) struct Awake(Arc<AtomicUsize>);

impl Drop for Awake {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// All queues of a node.
#[derive(Debug)]
pub struct Directory {
    entries: RwLock<BTreeMap<QueueKey, Arc<Entry>>>,
    /// Locked after `entries`, if both are.
    tenants: Mutex<Tenants>,
    next_shard: AtomicU64,
    history: Arc<History>,
    awake: Arc<AtomicUsize>,
    config: MailboxConfig,
}

impl Directory {
    /// The directory of what a store held when it was opened; no new topic gets a number below `next_shard`.
    #[must_use]
    pub fn new(
        topics: Vec<(ShardId, TopicRow, BootCounts)>,
        next_shard: u32,
        config: MailboxConfig,
    ) -> Directory {
        let above = topics.iter().map(|(shard, _, _)| u64::from(shard.0) + 1).max().unwrap_or(0);
        let next_shard = above.max(u64::from(next_shard));
        let mut entries = BTreeMap::new();
        let mut tenants = Tenants::default();
        let history = Arc::new(History::new(config.history_ms, config.history_bytes_max));
        for (shard, TopicRow { key, state }, counts) in topics {
            let entry = Entry::new(shard, key.clone(), tenants.of(&key.tenant, &config), &config, &history);
            entry.parts.book(counts.ready + counts.delayed + counts.vis, counts.vis, true);
            entry.exists.store(true, Ordering::Release);
            entry.down_since.store(counts.still_since.map_or(0, |since| since.0), Ordering::Release);
            entry.task_runs.store(counts.task_runs, Ordering::Release);
            let stats = Stats {
                ready: counts.ready,
                delayed: counts.delayed,
                vis: counts.vis,
                dlq: counts.dlq,
                oldest_enqueued: counts.oldest_enqueued,
                waiters: 0,
            };
            entry.figures.set_committed(&stats);
            entry.figures.set_applied(&stats);
            entry.figures.set_due(counts.first_end(&state.patch.over(&config.settings)));
            entries.insert(key, Arc::new(entry));
        }
        let (entries, tenants) = (RwLock::new(entries), Mutex::new(tenants));
        let (next_shard, awake) = (AtomicU64::new(next_shard), Arc::default());
        Directory { entries, tenants, next_shard, history, awake, config }
    }

    /// Queues whose actors run.
    #[must_use]
    pub fn awake(&self) -> usize {
        self.awake.load(Ordering::Relaxed)
    }

    /// One more of them.
    pub(super) fn one_awake(&self) -> Awake {
        self.awake.fetch_add(1, Ordering::Relaxed);
        Awake(self.awake.clone())
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, BTreeMap<QueueKey, Arc<Entry>>> {
        self.entries.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The queue's entry, if it was ever used.
    #[must_use]
    pub fn get(&self, key: &QueueKey) -> Option<Arc<Entry>> {
        self.read().get(key).cloned()
    }

    /// The queue's entry, made now if it was never used.
    ///
    /// # Errors
    /// BACKPRESSURE: the node or the tenant has as many topics as it may, and nothing was made.
    pub(crate) fn get_or_create(&self, key: &QueueKey) -> Result<Arc<Entry>, Refusal> {
        if let Some(entry) = self.get(key) {
            return Ok(entry);
        }
        let full = |text| Err(Refusal::new(Reason::Backpressure, text));
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = entries.get(key) {
            return Ok(entry.clone());
        }
        let node_full = "the node holds as many topics as it may (mailbox.max_topics)";
        if entries.len() >= self.config.topics_max {
            return full(node_full);
        }
        let tenant = self.tenants().of(&key.tenant, &self.config);
        if !tenant.may_grow() {
            return full(TOPICS_FULL);
        }
        let Ok(shard) = u32::try_from(self.next_shard.fetch_add(1, Ordering::Relaxed)) else {
            return full(node_full);
        };
        let entry = Entry::new(ShardId(shard), key.clone(), tenant, &self.config, &self.history);
        let entry = Arc::new(entry);
        entries.insert(key.clone(), entry.clone());
        Ok(entry)
    }

    /// Takes out an entry whose topic was deleted: the next use of its name makes another one.
    pub(crate) fn remove(&self, entry: &Arc<Entry>) {
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        if entries.get(&entry.key).is_some_and(|known| Arc::ptr_eq(known, entry)) {
            entries.remove(&entry.key);
        }
    }

    /// The policy has changed: every tenant gets the quotas that are in force now.
    pub fn refresh_quotas(&self) {
        let current = self.config.policy.current();
        for (tenant, used) in &self.tenants().by_name {
            used.set(&current.quotas(tenant));
        }
    }

    fn tenants(&self) -> MutexGuard<'_, Tenants> {
        self.tenants.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All entries, in the order of their names.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Entry>> {
        self.read().values().cloned().collect()
    }

    /// All queues that hold something are looked at by the next sweeps for what has ended by `now`.
    pub fn look_for_ends(&self, now: Millis) {
        let holds = |entry: &&Arc<Entry>| {
            let stats = entry.figures.applied();
            stats.ready + stats.delayed + stats.vis + stats.dlq > 0
        };
        self.read().values().filter(holds).for_each(|entry| entry.figures.set_due(Some(now)));
    }

    /// Queues not in memory that time has something to do to by `now`, at most `limit`.
    pub(crate) fn due(&self, now: Millis, limit: usize) -> Vec<Arc<Entry>> {
        let entries = self.read();
        entries.values().filter(|entry| entry.figures.is_due(now)).take(limit).cloned().collect()
    }

    /// A tenant's topics after `after`, at most `limit`.
    #[must_use]
    pub fn of_tenant(&self, tenant: &Tenant, after: Option<&QueueKey>, limit: usize) -> Vec<Arc<Entry>> {
        let entries = self.read();
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let range = entries.range((from, Bound::Unbounded));
        let of_tenant = range.skip_while(|(key, _)| key.tenant < *tenant);
        let of_tenant = of_tenant.take_while(|(key, _)| key.tenant == *tenant);
        of_tenant.filter(|(_, entry)| entry.exists()).take(limit).map(|(_, entry)| entry.clone()).collect()
    }

    /// How many topics exist.
    #[must_use]
    pub fn len(&self) -> usize {
        self.read().values().filter(|entry| entry.exists()).count()
    }

    /// Whether no topic exists.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
