//! A node: boot order, what runs while it lives, and drain order.

use crate::audit;
use crate::clock::{CLOCK_GAP_FILE, ClockKeeper, ClockMade, ClockMaker};
use crate::config::{Config, DevSecret};
use crate::egress::{EGRESS_FILE, EgressDesk, Egresses};
use crate::faults::{FaultDesk, Victims};
use crate::gate::{Gate, Served};
use crate::http::admission::{Budgets, RateLimits};
use crate::http::readiness::{Part, Readiness};
use crate::http::reload::{Asked, reloads};
use crate::listening::Listening;
use crate::metrics::Metrics;
use crate::observe::Watch;
use crate::policy::{PolicyKeeper, no_policy, read_policy};
use crate::providers::Providers;
use crate::rotations::{ROTATIONS_FILE, Rotations};
use crate::sentinel::NodeSensors;
use crate::socket::{SocketPlace, make_data_dir};
use crate::tls::TlsKeeper;
use crate::upkeep::Upkeep;
use crate::watched::FileWatch;
use arc_swap::ArcSwap;
use ron_actors::audit::Audit;
use ron_actors::blocking::Blocking;
use ron_actors::entropy::{Entropy, OsEntropy};
use ron_actors::interop::egress::EndpointParts;
use ron_actors::kernel::bus::BusLimits;
use ron_actors::kernel::child::ServiceLabel;
use ron_actors::kernel::event::Event;
use ron_actors::kernel::supervisor::{SupervisorOptions, SupervisorRef, tree};
use ron_actors::mailbox::{Mailbox, MailboxConfig};
use ron_actors::passport::Passport;
use ron_actors::policy::InForce;
use ron_actors::sentinel::SentinelArgs;
use ron_actors::store::{DeviceFaults, FileMedium, Medium, RamMedium, StoreConfig, StoreError, StoreFigures};
use ron_actors::tree::{Foundation, Tree, TreeArgs};
use ron_core::brownout::Thresholds;
use ron_core::restart::RestartPolicy;
use ron_core::time::Clock;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

mod listen;
mod parts;

use parts::{keeper_of, metrics_of, passport_of, providers_of};

/// The store's file in the data directory.
pub const STORE_FILE: &str = "store.redb";
/// The file of the revocations there.
pub const REVOKED_FILE: &str = "revoked";

/// Room that settling has beside the budget of the sends, bytes.
const SETTLE_BYTES: usize = 16 << 20;

/// Why a node did not start. Each has an exit code of its own (DETAILS).
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// 78: something in the configuration that only shows when it is used.
    #[error("{0}")]
    Config(String),
    /// 75: the data directory or an address is taken.
    #[error("{0}")]
    Taken(String),
    /// 74: the store.
    #[error("the store cannot be opened: {0}")]
    Store(StoreError),
    /// 74: a file that the node must be able to rely on.
    #[error("{0}")]
    Damaged(String),
    /// 70: the root of the tree did not start.
    #[error("the supervision tree did not start: {0}")]
    Root(String),
}

impl BootError {
    /// The process's exit code.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            BootError::Config(_) => 78,
            BootError::Taken(_) => 75,
            BootError::Store(_) | BootError::Damaged(_) => 74,
            BootError::Root(_) => 70,
        }
    }
}

/// A node that serves.
#[derive(Debug)]
pub struct Node {
    pub(crate) config: Config,
    pub(crate) tree: Tree,
    pub(crate) readiness: Arc<Readiness>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) budgets: Arc<Budgets>,
    pub(crate) rate: Arc<RateLimits>,
    pub(crate) passport: Passport,
    pub(crate) policy: Arc<PolicyKeeper>,
    pub(crate) providers: Arc<Providers>,
    pub(crate) rotations: Arc<Rotations>,
    pub(crate) reloads: mpsc::Receiver<Asked>,
    pub(crate) store_figures: Arc<ArcSwap<StoreFigures>>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) clock_keeper: Arc<ClockKeeper>,
    pub(crate) addresses: BTreeMap<&'static str, SocketAddr>,
    pub(crate) socket: SocketPlace,
    pub(crate) upkeep: Arc<Upkeep>,
    pub(crate) faults: Arc<FaultDesk>,
    pub(crate) tls: Arc<TlsKeeper>,
    pub(crate) audit: Audit,
    pub(crate) egress: Arc<EgressDesk>,
    verifiers: SupervisorRef,
    listeners: Vec<Listening>,
    watches: Vec<FileWatch>,
}

impl Node {
    /// Boots a node: store, tree, listeners. Ready when it returns. The store's bytes are on `medium`, which is
    /// [`medium_of`] the configuration but for drills that hold up or break its device.
    ///
    /// # Errors
    /// [`BootError`].
    pub async fn boot_on(mut config: Config, medium: Arc<dyn Medium>) -> Result<Node, BootError> {
        let mut warnings = prepare(&config)?;
        let (policy, device) = (policy_of(&config, &mut warnings)?, medium.faults());
        let metrics = Arc::new(metrics_of(&config)?);
        let tls = Arc::new(TlsKeeper::load(&config, &metrics).map_err(BootError::Config)?);
        let watch = Arc::new(Watch::new(metrics.clone()));
        let (foundation, clock_made) = lay(&config, medium, &watch, policy.clone())?;
        watch.tell(&foundation.bus);
        let (clock, bus) = (foundation.clock.clone(), foundation.bus.clone());
        let passport = passport_of(&config, &clock, &bus)?;
        let (providers, rotations_file) = providers_of(&config, &metrics, &clock, &mut warnings)?;
        let egresses = Arc::new(Egresses::of(&config, &metrics, &clock)?);
        let readiness = Arc::new(Readiness::booting());
        warnings.into_iter().for_each(|warning| readiness.warn(warning));
        let audit = audit::open(&config, &clock, &metrics, &readiness)?;
        let (asks, reloads) = reloads();
        let budgets = Arc::new(Budgets::new(config.mailbox.admission.bytes.as_usize(), SETTLE_BYTES));
        let sensors = NodeSensors::new(&budgets, &readiness, &metrics, &bus, &audit);
        let sentinel = (Arc::new(sensors), config.interop.brownout.thresholds());
        let (served, vouching) = ((providers.clone(), egresses.clone(), policy.clone()), (&passport, &audit));
        let (tree, verifiers, parts) = raise(foundation, watch, served, vouching, sentinel).await?;
        let gate = Gate {
            providers: providers.clone(),
            mailbox: tree.mailbox.clone(),
            passport: passport.clone(),
            bus: bus.clone(),
            clock: clock.clone(),
            policy: policy.clone(),
            visitor: egresses.visitor(&clock),
        };
        let policy = keeper_of(&config, policy, &tree, &metrics, &clock, &readiness, &audit);
        config.wants_temporary_data_dir = false;
        let upkeep = Arc::new(upkeep_of(&config, &tree, &metrics, &clock));
        let faults = faults_of(&config, device, victims_of(&tree, &verifiers), &readiness, &clock);
        let directory = tree.mailbox.directory().clone();
        let clock_keeper = Arc::new(ClockKeeper::new(clock_made, readiness.clone(), directory));
        let mut node = Node {
            rate: Arc::new(rate_of(&config)),
            upkeep,
            faults,
            tree,
            readiness,
            clock_keeper,
            budgets,
            metrics,
            passport,
            watches: watches_of(&policy, &tls),
            tls,
            egress: Arc::new(EgressDesk::new(&config, egresses, parts)),
            policy,
            rotations: Rotations::new(providers.clone(), rotations_file, audit.clone(), clock.clone()),
            providers,
            reloads,
            store_figures: Arc::new(ArcSwap::from_pointee(StoreFigures::default())),
            clock,
            addresses: BTreeMap::new(),
            socket: SocketPlace::in_data_dir(&config.node.data_dir),
            audit,
            verifiers,
            listeners: Vec::new(),
            config,
        };
        node.listen(gate, asks).await?;
        for part in Part::ALL {
            node.readiness.set(part, true);
        }
        node.upkeep.begin();
        node.egress.egresses.begin(node.addresses.values().copied().collect());
        Ok(node)
    }

    /// Where each listener is.
    #[must_use]
    pub fn addresses(&self) -> &BTreeMap<&'static str, SocketAddr> {
        &self.addresses
    }

    /// The mailbox, for what runs in this process.
    #[must_use]
    pub fn mailbox(&self) -> &Mailbox {
        &self.tree.mailbox
    }

    /// The tree, for drills.
    #[must_use]
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// The supervisor of the providers' verifiers, for drills.
    #[must_use]
    pub fn verifiers(&self) -> &SupervisorRef {
        &self.verifiers
    }

    /// Node time and the wall clock.
    #[must_use]
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// Mints capabilities.
    #[must_use]
    pub fn passport(&self) -> &Passport {
        &self.passport
    }

    /// The provider that serves a sample's webhooks.
    #[must_use]
    pub fn provider(&self, secret: &DevSecret) -> Option<Arc<Served>> {
        self.providers.get(secret.provider)
    }

    /// The audit log, for drills.
    #[must_use]
    pub fn audit(&self) -> &Audit {
        &self.audit
    }

    /// Drains and stops: new sends are shed, long polls end, requests in flight finish, leases settle up to
    /// `node.drain_ms`; then listeners close, actors stop in order and the store is closed.
    pub async fn shut(self) {
        self.readiness.start_drain();
        self.egress.egresses.drain();
        self.tree.mailbox.end_waits();
        self.upkeep.stop().await;
        self.leases_settled().await;
        drop(self.watches);
        self.tree.bus.publish(Event::Shutdown);
        let grace = Duration::from_secs(1);
        futures::future::join_all(self.listeners.into_iter().map(|listening| listening.shutdown(grace)))
            .await;
        self.rotations.save_all();
        self.audit.close(audit::mark(&self.audit, "stop")).await;
        self.tree.stop().await;
        self.socket.remove();
    }

    async fn leases_settled(&self) {
        const LOOK_EVERY: Duration = Duration::from_millis(50);
        let in_flight = || {
            let entries = self.tree.mailbox.directory().all();
            entries.iter().any(|entry| entry.figures.applied().vis > 0)
        };
        let settled = async {
            while in_flight() {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        // What is still out then keeps its lease: the next start knows it.
        let _ = tokio::time::timeout(self.config.node.drain, settled).await;
    }
}

/// What the configuration asks of the process and of the disk; returns what could not be had.
fn prepare(config: &Config) -> Result<Vec<String>, BootError> {
    if config.node.amnesia {
        refuse_leftovers(config)?;
        let missing = crate::seal::seal();
        let warning = || format!("not available here: {}", missing.join(", "));
        return Ok((!missing.is_empty()).then(warning).into_iter().collect());
    }
    let dir = &config.node.data_dir;
    make_data_dir(dir)
        .map_err(|error| BootError::Config(format!("node.data_dir {}: {error}", dir.display())))?;
    Ok(Vec::new())
}

/// The policy of the configured file. No file is no policy; one with a problem stops the boot.
fn policy_of(config: &Config, warnings: &mut Vec<String>) -> Result<InForce, BootError> {
    let Some(file) = &config.policy.file else { return Ok(InForce::default()) };
    if !file.exists() {
        if config.policy.named {
            let what = no_policy(file);
            tracing::warn!("{what}");
            warnings.push(what);
        }
        return Ok(InForce::default());
    }
    let read = read_policy(file).map_err(|bad| BootError::Config(format!("policy: {bad}")))?;
    Ok(InForce::new(read.0, read.1))
}

/// What is read again when it changes.
fn watches_of(policy: &Arc<PolicyKeeper>, tls: &Arc<TlsKeeper>) -> Vec<FileWatch> {
    let files: Vec<_> = policy.file.iter().cloned().collect();
    let policy = policy.clone();
    let of_policy = FileWatch::begin("policy.file", &files, move || policy.reload_if_changed());
    let (files, tls) = (tls.files(), tls.clone());
    let of_tls = FileWatch::begin("the files of tls", &files, move || tls.reload());
    of_policy.into_iter().chain(of_tls).collect()
}

fn faults_of(
    config: &Config,
    device: Option<Arc<DeviceFaults>>,
    victims: Victims,
    readiness: &Arc<Readiness>,
    clock: &Arc<dyn Clock>,
) -> Arc<FaultDesk> {
    Arc::new(FaultDesk::new(config.chaos.enabled, device, victims, readiness.clone(), clock.clone()))
}

fn victims_of(tree: &Tree, verifiers: &SupervisorRef) -> Victims {
    Victims {
        root: tree.root.clone(),
        shards: tree.shards.clone(),
        verifiers: verifiers.clone(),
        directory: tree.mailbox.directory().clone(),
    }
}

fn rate_of(config: &Config) -> RateLimits {
    let of = |n: u32| NonZeroU32::new(n).unwrap_or(NonZeroU32::MIN);
    let limits = &config.interop.limits;
    RateLimits::new(of(limits.max_rps), of(limits.burst_rps))
}

fn upkeep_of(config: &Config, tree: &Tree, metrics: &Arc<Metrics>, clock: &Arc<dyn Clock>) -> Upkeep {
    let file = config.node.data_dir.join(STORE_FILE);
    Upkeep::new(config, file, tree.store.clone(), tree.mailbox.clone(), metrics.clone(), clock.clone())
}

/// Starts all actors; beside the tree, the supervisor of verifiers and egress, and what egress works with.
async fn raise(
    foundation: Foundation,
    watch: Arc<Watch>,
    (providers, egresses, policy): (Arc<Providers>, Arc<Egresses>, InForce),
    (passport, audit): (&Passport, &Audit),
    (sensors, limits): (Arc<NodeSensors>, Thresholds),
) -> Result<(Tree, SupervisorRef, EndpointParts), BootError> {
    let mut interop = None;
    let (clock, bus) = (foundation.clock.clone(), foundation.bus.clone());
    let specs = {
        let (passport, audit, interop) = (passport.clone(), audit.clone(), &mut interop);
        let critical = passport.child_spec();
        move |mailbox: &Mailbox, options: &SupervisorOptions| {
            let mailbox = mailbox.clone();
            let entropy = Arc::new(OsEntropy);
            let parts = EndpointParts {
                mailbox: mailbox.clone(),
                passport: passport.clone(),
                policy,
                clock,
                entropy,
                bus,
            };
            let of_egress = parts.clone();
            // the audit log first, so that it stops last
            let children = move || {
                let verifiers = providers.child_specs(&passport).into_iter();
                let endpoints = egresses.child_specs(&of_egress);
                std::iter::once(audit.child_spec()).chain(verifiers).chain(endpoints).collect()
            };
            let (spec, supervisor) = tree("interop", ServiceLabel::Interop, options.clone(), children);
            *interop = Some((supervisor, parts));
            vec![critical, spec, SentinelArgs { mailbox, sensors, limits }.child_spec()]
        }
    };
    let tree = foundation.raise(watch, specs).await.map_err(|error| BootError::Root(error.to_string()))?;
    let (verifiers, parts) = interop.ok_or_else(|| BootError::Root("no interop tree".into()))?;
    Ok((tree, verifiers, parts))
}

/// Where the product keeps the store's bytes.
#[must_use]
pub fn medium_of(config: &Config) -> Arc<dyn Medium> {
    match config.node.amnesia {
        true => Arc::new(RamMedium::default()),
        false => Arc::new(FileMedium::new(config.node.data_dir.join(STORE_FILE), config.store.ballast.0)),
    }
}

/// A node in amnesia must not sit on files that a durable one left: they would seem to be gone, and are not.
/// What a durable node keeps in its data directory and amnesia must not find there.
pub(crate) const OUR_FILES: [&str; 6] =
    [STORE_FILE, "keyring", REVOKED_FILE, ron_actors::audit::files::DIR, EGRESS_FILE, ROTATIONS_FILE];

fn refuse_leftovers(config: &Config) -> Result<(), BootError> {
    let dir = &config.node.data_dir;
    let ours = OUR_FILES.into_iter().find(|name| dir.join(name).exists());
    match ours {
        Some(name) => Err(BootError::Config(format!(
            "node.data_dir: {} holds {name} of a durable node; remove it or give amnesia another directory",
            dir.display()
        ))),
        None => Ok(()),
    }
}

fn lay(
    config: &Config,
    medium: Arc<dyn Medium>,
    watch: &Arc<Watch>,
    policy: InForce,
) -> Result<(Foundation, ClockMade), BootError> {
    let (mut bits, mut seed) = ([0; 40], [0; 8]);
    let filled = OsEntropy.fill(&mut bits).and_then(|()| OsEntropy.fill(&mut seed));
    filled.map_err(|_| BootError::Root("no random bytes".into()))?;
    let mailbox = &config.mailbox;
    let cache = config.store.cache.as_usize();
    let args = TreeArgs {
        medium,
        store: StoreConfig {
            cache_bytes: cache,
            body_cache_bytes: cache,
            two_phase_commit: config.store.two_phase_commit,
            journal_bytes: config.store.journal.0,
            dedup_keys_max: usize::try_from(config.store.max_dedup_keys).unwrap_or(usize::MAX),
            dedup_keys_topic_max: usize::try_from(mailbox.settings.max_dedup_keys).unwrap_or(usize::MAX),
            compact_free_bytes: config.store.compact_free.0,
            ram_bytes_max: config.store.ram_bytes.as_usize(),
            objects: config.store.objects,
            blocking: Blocking::Pool,
            ..StoreConfig::default()
        },
        mailbox: MailboxConfig {
            settings: mailbox.settings,
            shard_requests_max: mailbox.admission.requests as usize,
            shard_bytes_max: mailbox.admission.bytes.as_usize(),
            shard_settles_max: mailbox.admission.requests as usize,
            park_after_ms: u64::try_from(mailbox.park_after.as_millis()).unwrap_or(u64::MAX),
            topics_max: mailbox.max_topics as usize,
            history_ms: mailbox.history_ms,
            history_bytes_max: mailbox.history_max_bytes.as_usize(),
            policy,
        },
        entropy: bits,
        seed: u64::from_le_bytes(seed),
        restarts: RestartPolicy::default(),
        bus: BusLimits::default(),
        store_observer: watch.clone(),
        kernel_observer: watch.clone(),
    };
    let gap_file = (!config.node.amnesia).then(|| config.node.data_dir.join(CLOCK_GAP_FILE));
    let ahead_max_ms = u64::try_from(config.clock.max_gap.as_millis()).unwrap_or(u64::MAX);
    let maker = ClockMaker::new(gap_file, ahead_max_ms);
    let foundation = Foundation::lay(args, &|saved| maker.make(saved)).map_err(|error| match error {
        StoreError::Locked => BootError::Taken(format!(
            "node.data_dir: {} is in use by another process",
            config.node.data_dir.display()
        )),
        other => BootError::Store(other),
    })?;
    let made = maker.made().map_err(|error| BootError::Damaged(format!("{CLOCK_GAP_FILE}: {error}")))?;
    let made = made.ok_or_else(|| BootError::Root("the store was opened without a clock".into()))?;
    Ok((foundation, made))
}
