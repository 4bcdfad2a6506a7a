//! What a supervisor is told about a child, and what it tells others.

use super::handle::HandlePublisher;
use futures::future::BoxFuture;
use ractor::{Actor, ActorCell, SpawnErr};
use ron_core::time::Millis;
use serde::{Serialize, Serializer};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// The kind of a service: the `service` label of metrics and events (DETAILS "Finding and reading the node").
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ServiceLabel {
    /// The mailbox tree.
    Mailbox,
    /// One queue.
    Shard,
    /// The durable store.
    Store,
    /// The interop tree.
    Interop,
    /// One provider's verifier.
    Verifier,
    /// The brownout sentinel.
    Sentinel,
    /// The audit log.
    Audit,
    /// Outward delivery.
    Egress,
    /// Capabilities.
    Passport,
    /// Policy.
    Policy,
    /// The bus.
    Bus,
}

impl ServiceLabel {
    /// Every label, for counters that must exist at 0.
    pub const ALL: [ServiceLabel; 11] = [
        Self::Mailbox,
        Self::Shard,
        Self::Store,
        Self::Interop,
        Self::Verifier,
        Self::Sentinel,
        Self::Audit,
        Self::Egress,
        Self::Passport,
        Self::Policy,
        Self::Bus,
    ];

    /// The label's text.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Mailbox => "mailbox",
            Self::Shard => "shard",
            Self::Store => "store",
            Self::Interop => "interop",
            Self::Verifier => "verifier",
            Self::Sentinel => "sentinel",
            Self::Audit => "audit",
            Self::Egress => "egress",
            Self::Passport => "passport",
            Self::Policy => "policy",
            Self::Bus => "bus",
        }
    }
}

impl fmt::Display for ServiceLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for ServiceLabel {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.as_str())
    }
}

/// Starts a child linked to the given supervisor and returns as soon as it runs. A future that is dropped
/// half-way (spawn timeout, shutdown) must leave no actor behind, so nothing may be awaited after the spawn
/// itself.
pub type SpawnFn = Arc<dyn Fn(ActorCell) -> BoxFuture<'static, Result<ActorCell, SpawnErr>> + Send + Sync>;

/// Called by the supervisor at each change of a child's status. Must neither block nor panic.
pub type StatusHook = Arc<dyn Fn(ChildStatus) + Send + Sync>;

/// Asks a child to end in its own way, by a message.
pub type AskToStop = Arc<dyn Fn(&ActorCell) + Send + Sync>;

/// What a child is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChildStatus {
    /// Being spawned.
    Starting,
    /// Running.
    Up,
    /// Failed; comes back at this node time.
    Restarting {
        /// When.
        at: Millis,
    },
    /// Failed too often; waits for an operator.
    Quarantined,
    /// Asked to stop.
    Stopping,
    /// Gone, and no longer a child.
    Stopped,
}

/// Whether a child may end by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChildKind {
    /// Runs as long as its supervisor; ending by itself is a failure. Stopped in reverse order of start.
    Fixed,
    /// Comes and goes, like a shard: a clean exit removes it. Stopped before all fixed ones, many at a time.
    Dynamic,
}

/// How a child is asked to stop. After `stop_timeout` it is killed.
#[derive(Clone)]
pub enum StopMode {
    /// After the message at hand; what waits in the mailbox is dropped.
    Stop,
    /// After all that waits in the mailbox; new messages are refused, those to itself too.
    Drain,
    /// By a message of its own.
    Ask(AskToStop),
}

/// A child and how to keep it running.
#[derive(Clone)]
pub struct ChildSpec {
    pub(super) name: Arc<str>,
    pub(super) service: ServiceLabel,
    pub(super) kind: ChildKind,
    pub(super) critical: bool,
    pub(super) stop: StopMode,
    pub(super) stop_timeout: Duration,
    pub(super) spawn_timeout: Duration,
    pub(super) spawn: SpawnFn,
    pub(super) hooks: Vec<StatusHook>,
}

impl fmt::Debug for ChildSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChildSpec")
            .field("name", &self.name)
            .field("service", &self.service)
            .finish_non_exhaustive()
    }
}

impl ChildSpec {
    /// A child that runs as long as its supervisor. Not critical, 5 s to stop, 10 s to start.
    #[must_use]
    pub fn fixed(name: impl Into<Arc<str>>, service: ServiceLabel, spawn: SpawnFn) -> Self {
        Self {
            name: name.into(),
            service,
            kind: ChildKind::Fixed,
            critical: false,
            stop: StopMode::Stop,
            stop_timeout: Duration::from_secs(5),
            spawn_timeout: Duration::from_secs(10),
            spawn,
            hooks: Vec::new(),
        }
    }

    /// A child that may stop by itself, and is then forgotten. Defaults as for [`ChildSpec::fixed`].
    #[must_use]
    pub fn dynamic(name: impl Into<Arc<str>>, service: ServiceLabel, spawn: SpawnFn) -> Self {
        Self { kind: ChildKind::Dynamic, ..Self::fixed(name, service, spawn) }
    }

    /// A child of either kind from an actor without a name: `make` gives a fresh actor and arguments for each
    /// (re)start, and the handles of `publisher` follow it.
    #[must_use]
    pub fn actor<A, F>(
        kind: ChildKind,
        name: impl Into<Arc<str>>,
        service: ServiceLabel,
        publisher: &HandlePublisher<A::Msg>,
        make: F,
    ) -> Self
    where
        A: Actor,
        F: Fn() -> (A, A::Arguments) + Send + Sync + 'static,
    {
        let spec = Self { kind, ..Self::fixed(name, service, publisher.spawn_fn(make)) };
        spec.on_status(publisher.status_hook())
    }

    /// Without it the node cannot work: past its restart budget the supervisor fails.
    #[must_use]
    pub fn critical(mut self) -> Self {
        self.critical = true;
        self
    }

    /// How it is asked to stop.
    #[must_use]
    pub fn stop_mode(mut self, stop: StopMode) -> Self {
        self.stop = stop;
        self
    }

    /// How long a stop may take before the child is killed.
    #[must_use]
    pub fn stop_timeout(mut self, timeout: Duration) -> Self {
        self.stop_timeout = timeout;
        self
    }

    /// How long a start may take before it counts as failed.
    #[must_use]
    pub fn spawn_timeout(mut self, timeout: Duration) -> Self {
        self.spawn_timeout = timeout;
        self
    }

    /// Adds a hook that is told of each change of status.
    #[must_use]
    pub fn on_status(mut self, hook: StatusHook) -> Self {
        self.hooks.push(hook);
        self
    }

    pub(super) fn tell(&self, status: ChildStatus) {
        for hook in &self.hooks {
            hook(status);
        }
    }
}

/// A child as its supervisor sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChildInfo {
    /// Its name, unique among its siblings.
    pub name: Arc<str>,
    /// Its kind of service.
    pub service: ServiceLabel,
    /// Whether the node can do without it.
    pub critical: bool,
    /// What it is doing.
    pub status: ChildStatus,
    /// Crashes since it was added.
    pub crashes: u64,
}

/// Where the kernel counts. The names of metrics are the node's business.
pub trait Observer: Send + Sync + 'static {
    /// A child crashed (or did not start): `service_restarts_total{service}`. It will be restarted or
    /// quarantined.
    fn crashed(&self, _service: ServiceLabel) {}
    /// A child spent its budget.
    fn quarantined(&self, _service: ServiceLabel) {}
    /// A child did not stop in time and was killed.
    fn killed(&self, _service: ServiceLabel) {}
}

/// Counts nothing.
#[derive(Debug, Clone, Copy)]
pub struct NoObserver;

impl Observer for NoObserver {}
