//! What outlives the node in a simulation: the plan, the disk, the history, and the clients' memory.

use super::log::EventLog;
use super::medium::{Fault, SimDisk};
use super::plan::Plan;
use super::rng::Rng;
use ron_actors::blocking::{Job, Pace};
use ron_actors::mailbox::MailboxObserver;
use ron_actors::store::StoreObserver;
use ron_core::ids::{QueueKey, Tenant, Topic};
use ron_core::time::{Clock, Millis};
use ron_history::record::{Event, Settings};
use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// A promise that was broken where no history is needed to see it.
pub(super) type Complaint = String;

/// Ids that are remembered of each queue, to look at.
const IDS_MAX: usize = 50;

/// A receipt that a client has kept.
#[derive(Debug, Clone)]
pub(super) struct Held {
    pub(super) queue: usize,
    pub(super) msg_id: String,
    pub(super) delivery: u32,
    pub(super) receipt: String,
}

/// What a client remembers.
#[derive(Debug)]
pub(super) struct Memory {
    pub(super) rng: Rng,
    pub(super) held: Vec<Held>,
    /// Contents with a key that it may send again.
    pub(super) keyed: Vec<u64>,
    /// Sends that were refused, or not answered.
    pub(super) again: VecDeque<(usize, Vec<u64>)>,
}

/// What a client meant to send.
#[derive(Debug, Clone)]
pub(super) struct Content {
    pub(super) queue: usize,
    pub(super) key: Option<u64>,
    /// The key is a provider's.
    pub(super) provider: bool,
    pub(super) delay_ms: u64,
    pub(super) ttl_ms: Option<u64>,
    pub(super) group: Option<u64>,
}

/// What all clients know of a queue.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) ids: VecDeque<String>,
    /// Dead letters, as they were last listed.
    pub(super) dead: Vec<String>,
}

impl Known {
    pub(super) fn learn(&mut self, id: &str) {
        if self.ids.len() == IDS_MAX {
            self.ids.pop_front();
        }
        self.ids.push_back(id.to_owned());
    }
}

/// The part that changes.
#[derive(Debug)]
pub(super) struct Inner {
    pub(super) log: EventLog,
    pub(super) contents: Vec<Content>,
    pub(super) known: Vec<Known>,
    pub(super) clients: Vec<Memory>,
    /// Operations begun, in all lives.
    pub(super) steps: u64,
    /// Operations after which this life ends.
    pub(super) life_ends: u64,
    /// The node is being stopped: refusals are in order.
    pub(super) stopping: bool,
    /// The first broken promise.
    pub(super) failure: Option<Complaint>,
    /// How slow blocking work is: longest pause of a turn, ms.
    pub(super) slow_ms: u64,
    pace: Rng,
    pub(super) now: Millis,
    /// How far the wall clock is from node time, ms.
    pub(super) wall_off: i64,
    /// A start met a wall clock that does not go with the saved time: nothing expires.
    pub(super) held: bool,
    /// The newest snapshot: its call, and its bytes.
    pub(super) snapshot: Option<(u64, Vec<u8>)>,
    /// Operations of the disk until the faults ended, and how many of them failed.
    pub(super) disk_ops: (u64, u64),
}

/// See the module.
pub(super) struct World {
    pub(super) plan: Plan,
    pub(super) queues: Vec<QueueKey>,
    pub(super) disk: SimDisk,
    /// To be armed as soon as the node is up.
    pub(super) faults: Vec<Fault>,
    inner: Mutex<Inner>,
    /// The life is over, or something is broken.
    pub(super) over: Notify,
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World").field("plan", &self.plan).finish_non_exhaustive()
    }
}

impl World {
    /// The world before anything happened.
    ///
    /// # Errors
    /// Never: the names are well formed.
    pub(super) fn new(plan: Plan, trace: bool, faults: Vec<Fault>) -> Result<World, Complaint> {
        let queue = |number| {
            let tenant = Tenant::parse("sim").map_err(|bad| bad.to_string())?;
            let topic = Topic::parse(&format!("q{number}")).map_err(|bad| bad.to_string())?;
            Ok(QueueKey { tenant, topic })
        };
        let queues = (0..plan.queues).map(queue).collect::<Result<Vec<_>, Complaint>>()?;
        let memory = |client| Memory {
            rng: Rng::new(plan.seed, 1000 + client),
            held: Vec::new(),
            keyed: Vec::new(),
            again: VecDeque::new(),
        };
        let now = Millis(super::EPOCH_MS);
        let mut log = EventLog::new(trace);
        log.record(now, Event::Defaults(defaults(&plan)));
        let inner = Inner {
            log,
            contents: Vec::new(),
            known: (0..plan.queues).map(|_| Known::default()).collect(),
            clients: (0..plan.clients).map(memory).collect(),
            steps: 0,
            life_ends: 0,
            stopping: false,
            failure: None,
            slow_ms: 2,
            pace: Rng::new(plan.seed, 2),
            now,
            wall_off: 0,
            held: false,
            snapshot: None,
            disk_ops: (0, 0),
        };
        let inner = Mutex::new(inner);
        Ok(World { plan, queues, disk: SimDisk::default(), faults, inner, over: Notify::new() })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Logs one event.
    pub(super) fn event(&self, clock: &dyn Clock, what: &str, text: fmt::Arguments<'_>) {
        let mut inner = self.lock();
        inner.now = clock.now();
        let now = inner.now;
        inner.log.event(now, what, text);
    }

    /// Takes one record of the history.
    pub(super) fn record(&self, clock: &dyn Clock, event: Event) {
        let mut inner = self.lock();
        inner.now = clock.now();
        let now = inner.now;
        inner.log.record(now, event);
    }

    /// Takes note of a promise kept or broken.
    pub(super) fn judge(&self, verdict: Result<(), Complaint>) {
        if let Err(complaint) = verdict {
            self.lock().failure.get_or_insert(complaint);
            self.over.notify_one();
        }
    }
}

fn defaults(plan: &Plan) -> Settings {
    let s = plan.settings;
    Settings {
        visibility_ms: Some(s.visibility_ms),
        max_attempts: Some(s.max_attempts.into()),
        max_deliveries: Some(s.max_deliveries.into()),
        retention_ms: Some(s.retention_ms),
        dlq_retention_ms: Some(s.dlq_retention_ms),
        dedup_window_ms: Some(s.dedup_window_ms),
        fifo: Some(s.fifo.into()),
        ram: Some(s.ram.into()),
        max_depth: Some(s.max_depth),
        max_inflight: Some(s.max_inflight.into()),
        paused: Some(0),
    }
}

/// The clock of one life: node time follows the runtime's timer, the wall clock steps.
#[derive(Debug)]
pub(super) struct SimClock {
    pub(super) world: Arc<World>,
    pub(super) base: Millis,
    pub(super) origin: tokio::time::Instant,
}

impl Clock for SimClock {
    fn now(&self) -> Millis {
        self.base.plus(u64::try_from(self.origin.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    fn wall(&self) -> Millis {
        let off = self.world.lock().wall_off;
        Millis(self.now().0.saturating_add_signed(off))
    }

    fn may_expire(&self) -> bool {
        !self.world.lock().held
    }
}

/// How long blocking work takes in this world.
#[derive(Debug)]
pub(super) struct WorldPace(pub(super) Arc<World>);

impl Pace for WorldPace {
    fn pause(&self, job: Job) -> Duration {
        let mut inner = self.0.lock();
        let most = match job {
            Job::Turn => inner.slow_ms,
            Job::Load => inner.slow_ms.min(300),
            Job::Read => inner.slow_ms.min(600),
        };
        let quick = inner.pace.chance(40);
        let ms = inner.pace.below(most + 1);
        Duration::from_millis(if quick { 0 } else { ms })
    }
}

/// Logs what the node says of itself.
#[derive(Debug)]
pub(super) struct Ear {
    pub(super) world: Arc<World>,
    pub(super) clock: Arc<dyn Clock>,
}

impl StoreObserver for Ear {
    fn committed(&self, _: f64, size: usize) {
        self.world.event(self.clock.as_ref(), "commit", format_args!("of {size}"));
    }

    fn failed(&self) {
        self.world.event(self.clock.as_ref(), "store-failed", format_args!(""));
    }
}

impl MailboxObserver for Ear {
    fn delivered(&self, _: f64) {}

    fn integrity_failed(&self) {
        self.world.judge(Err("a record failed its checksum on a disk that flips no bits".to_owned()));
    }

    fn dead_lettered(&self, queue: &QueueKey, n: u64) {
        self.world.event(self.clock.as_ref(), "dead", format_args!("{queue} {n}"));
    }

    fn requeued(&self, queue: &QueueKey, n: u64) {
        self.world.event(self.clock.as_ref(), "requeued", format_args!("{queue} {n}"));
    }
}
