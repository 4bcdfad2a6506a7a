//! What outlives the node in a simulation: the plan, the disk, the model, the log, and the clients' memory.

use super::log::EventLog;
use super::medium::SimMedium;
use super::model::{Complaint, Model};
use super::plan::Plan;
use super::rng::Rng;
use ron_actors::blocking::{Job, Pace};
use ron_actors::mailbox::MailboxObserver;
use ron_actors::store::StoreObserver;
use ron_core::ids::{QueueKey, Tenant, Topic};
use ron_core::time::{Clock, Millis};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

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
}

/// The part that changes.
#[derive(Debug)]
pub(super) struct Inner {
    pub(super) log: EventLog,
    pub(super) model: Model,
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
}

/// See the module.
pub(super) struct World {
    pub(super) plan: Plan,
    pub(super) queues: Vec<QueueKey>,
    pub(super) medium: SimMedium,
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
    pub(super) fn new(plan: Plan, trace: bool) -> Result<World, Complaint> {
        let queue = |number| {
            let tenant = Tenant::parse("sim").map_err(|bad| bad.to_string())?;
            let topic = Topic::parse(&format!("q{number}")).map_err(|bad| bad.to_string())?;
            Ok(QueueKey { tenant, topic })
        };
        let queues = (0..plan.queues).map(queue).collect::<Result<_, Complaint>>()?;
        let memory =
            |client| Memory { rng: Rng::new(plan.seed, 1000 + client), held: Vec::new(), keyed: Vec::new() };
        let inner = Inner {
            log: EventLog::new(trace),
            model: Model::new(&plan),
            clients: (0..plan.clients).map(memory).collect(),
            steps: 0,
            life_ends: 0,
            stopping: false,
            failure: None,
            slow_ms: 2,
            pace: Rng::new(plan.seed, 2),
            now: Millis(super::EPOCH_MS),
        };
        let inner = Mutex::new(inner);
        Ok(World { plan, queues, medium: SimMedium::default(), inner, over: Notify::new() })
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

    /// Takes note of a promise kept or broken.
    pub(super) fn judge(&self, verdict: Result<(), Complaint>) {
        if let Err(complaint) = verdict {
            self.lock().failure.get_or_insert(complaint);
            self.over.notify_one();
        }
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
