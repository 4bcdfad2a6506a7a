//! A node: boot order, what runs while it lives, and drain order.

use crate::config::{Config, DevSecret, KeyringAt};
use crate::desk::Desk;
use crate::gate::{Gate, Served};
use crate::http::admin::{AdminOf, admin_router};
use crate::http::admission::{Budgets, RateLimits};
use crate::http::auth::{Access, Audience};
use crate::http::ctl::ctl_router;
use crate::http::door::{Door, Meter, Surface};
use crate::http::interop::{InteropApp, Version, interop_router};
use crate::http::mailbox::{Durability, MailboxApp, MailboxLimits, mailbox_router};
use crate::http::readiness::{Part, Readiness};
use crate::http::request::Ids;
use crate::http::serve::{Listening, ServeLimits, serve_tcp, serve_unix};
use crate::metrics::{Metrics, MetricsOptions};
use crate::observe::{Queues, Watch};
use crate::providers::{serve_providers, shown_providers, verifier_specs};
use crate::socket::{SocketPlace, make_data_dir};
use arc_swap::ArcSwap;
use axum::Router;
use ron_actors::entropy::{Entropy, OsEntropy};
use ron_actors::kernel::bus::BusLimits;
use ron_actors::kernel::child::ServiceLabel;
use ron_actors::kernel::clock::SystemClock;
use ron_actors::kernel::event::Event;
use ron_actors::kernel::supervisor::{SupervisorRef, tree};
use ron_actors::mailbox::{Mailbox, MailboxConfig};
use ron_actors::passport::Passport;
use ron_actors::store::{FileMedium, Medium, RamMedium, StoreConfig, StoreError, StoreFigures};
use ron_actors::tree::{Foundation, Tree, TreeArgs};
use ron_core::restart::RestartPolicy;
use ron_core::time::Clock;
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// The store's file in the data directory.
pub const STORE_FILE: &str = "store.redb";

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
            BootError::Store(_) => 74,
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
    pub(crate) rate: Arc<RateLimits>,
    pub(crate) passport: Passport,
    pub(crate) providers: Arc<HashMap<String, Served>>,
    pub(crate) store_figures: Arc<ArcSwap<StoreFigures>>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) addresses: BTreeMap<&'static str, SocketAddr>,
    pub(crate) socket: SocketPlace,
    verifiers: SupervisorRef,
    listeners: Vec<Listening>,
}

struct Common {
    readiness: Arc<Readiness>,
    metrics: Arc<Metrics>,
    ids: Arc<Ids>,
    rate: Arc<RateLimits>,
    limits: Arc<ArcSwap<MailboxLimits>>,
    clock: Arc<dyn Clock>,
    mailbox: Mailbox,
    budgets: Arc<Budgets>,
}

impl Node {
    /// Boots a node: store, tree, listeners. Ready when it returns.
    ///
    /// # Errors
    /// [`BootError`].
    pub async fn boot(config: Config) -> Result<Node, BootError> {
        let medium: Arc<dyn Medium> = match config.node.amnesia {
            true => Arc::new(RamMedium::default()),
            false => Arc::new(FileMedium::new(config.node.data_dir.join(STORE_FILE))),
        };
        Node::boot_on(config, medium).await
    }

    /// As [`Node::boot`], with the store's bytes on `medium`: for drills that hold up or break its device.
    ///
    /// # Errors
    /// [`BootError`].
    pub async fn boot_on(mut config: Config, medium: Arc<dyn Medium>) -> Result<Node, BootError> {
        let mut warnings = Vec::new();
        if config.node.amnesia {
            refuse_leftovers(&config)?;
            let missing = crate::seal::seal();
            warnings
                .extend((!missing.is_empty()).then(|| format!("not available here: {}", missing.join(", "))));
        } else {
            let dir = &config.node.data_dir;
            make_data_dir(dir)
                .map_err(|error| BootError::Config(format!("node.data_dir {}: {error}", dir.display())))?;
        }
        let entropy = OsEntropy;
        let wall = SystemClock::starting_from(ron_core::time::Millis(0)).wall();
        let metrics = Metrics::new(MetricsOptions {
            max_queues: config.metrics.max_queues as usize,
            amnesia: config.node.amnesia,
            version: env!("CARGO_PKG_VERSION"),
            started_unix_s: wall.0 as f64 / 1e3,
        });
        let metrics = Arc::new(metrics.map_err(|error| BootError::Root(error.to_string()))?);
        let watch = Arc::new(Watch::new(metrics.clone()));
        let foundation = lay(&config, medium, &watch, &entropy)?;
        watch.tell(&foundation.bus);
        let (clock, bus) = (foundation.clock.clone(), foundation.bus.clone());
        let ring = match &config.auth.keyring {
            KeyringAt::File(path) => ron_actors::keyring_file::load_or_create(path, clock.wall(), &entropy),
            KeyringAt::Mount(path) => ron_actors::keyring_file::load(path),
            KeyringAt::Memory => ron_actors::keyring_file::in_memory(clock.wall(), &entropy),
        };
        let ring = ring.map_err(|error| BootError::Config(format!("auth.keyring: {error}")))?;
        let max_ttl = u64::try_from(config.auth.max_ttl.as_millis()).unwrap_or(u64::MAX);
        let passport = Passport::new(ring, clock.clone(), Arc::new(entropy), max_ttl);
        let readiness = Arc::new(Readiness::booting());
        let providers = Arc::new(serve_providers(&config, &metrics)?);
        let mut interop = None;
        let specs = {
            let (providers, passport, interop) = (providers.clone(), passport.clone(), &mut interop);
            move |_: &Mailbox, options: &ron_actors::kernel::supervisor::SupervisorOptions| {
                let children = move || verifier_specs(&providers, &passport);
                let (spec, supervisor) = tree("interop", ServiceLabel::Interop, options.clone(), children);
                *interop = Some(supervisor);
                vec![spec]
            }
        };
        let tree =
            foundation.raise(watch, specs).await.map_err(|error| BootError::Root(error.to_string()))?;
        let verifiers = interop.ok_or_else(|| BootError::Root("no interop tree".into()))?;
        let rate = {
            let of = |n: u32| NonZeroU32::new(n).unwrap_or(NonZeroU32::MIN);
            Arc::new(RateLimits::new(of(config.interop.limits.max_rps), of(config.interop.limits.burst_rps)))
        };
        let mut seed = [0; 8];
        entropy.fill(&mut seed).map_err(|_| BootError::Root("no random bytes".into()))?;
        let common = Common {
            readiness: readiness.clone(),
            metrics: metrics.clone(),
            ids: Arc::new(Ids::new(clock.clone(), u64::from_le_bytes(seed))),
            rate: rate.clone(),
            limits: Arc::new(ArcSwap::from_pointee(mailbox_limits(&config))),
            clock: clock.clone(),
            mailbox: tree.mailbox.clone(),
            budgets: Arc::new(Budgets::new(config.mailbox.admission.bytes.as_usize(), 16 << 20)),
        };
        let gate = Gate {
            providers: providers.clone(),
            mailbox: tree.mailbox.clone(),
            passport: passport.clone(),
            bus,
            clock: clock.clone(),
        };
        let store_figures = Arc::new(ArcSwap::from_pointee(StoreFigures::default()));
        let mut node = Node {
            tree,
            readiness,
            metrics,
            rate,
            passport,
            providers,
            store_figures,
            clock,
            addresses: BTreeMap::new(),
            socket: SocketPlace::in_data_dir(&config.node.data_dir),
            verifiers,
            listeners: Vec::new(),
            config: {
                config.wants_temporary_data_dir = false;
                config
            },
        };
        node.listen(&common, gate).await?;
        node.readiness.set_warnings(warnings);
        for part in Part::ALL {
            node.readiness.set(part, true);
        }
        Ok(node)
    }

    async fn listen(&mut self, common: &Common, gate: Gate) -> Result<(), BootError> {
        let config = self.config.clone();
        let app = |surface, access, rate| {
            Arc::new(MailboxApp {
                mailbox: common.mailbox.clone(),
                access,
                readiness: common.readiness.clone(),
                limits: common.limits.clone(),
                budgets: common.budgets.clone(),
                meter: Meter::new(surface, common.metrics.clone()),
                clock: common.clock.clone(),
                rate,
            })
        };
        let passport = || Arc::new(self.passport.clone());
        let limits = &config.interop.limits;
        let interop = Arc::new(InteropApp {
            gate,
            readiness: common.readiness.clone(),
            unverified: Semaphore::new(limits.max_unverified as usize),
            budgets: Arc::new(Budgets::new(limits.unverified_bytes.as_usize(), 0)),
            rate: common.rate.clone(),
            body_deadline: limits.body_timeout,
            version: Version {
                name: "ron-node",
                version: env!("CARGO_PKG_VERSION"),
                profile: config.node.profile.label().to_owned(),
            },
        });
        let api = config.interop.api.then(|| {
            let access = Access::Capability(passport(), Audience::Interop);
            app(Surface::Interop, access, Some(common.rate.clone()))
        });
        let to_mailbox = Access::Capability(passport(), Audience::Mailbox);
        let queues =
            Arc::new(Queues { directory: common.mailbox.directory().clone(), clock: common.clock.clone() });
        let admin = |of| admin_router(of, common.readiness.clone(), common.metrics.clone());
        let mailbox_app = app(Surface::Mailbox, to_mailbox, None);
        let public = ServeLimits {
            max_conns: limits.max_conns as usize,
            header_deadline: limits.header_timeout,
            ..ServeLimits::default()
        };
        let inner = ServeLimits { max_conns: config.mailbox.max_conns as usize, ..ServeLimits::default() };
        let surfaces: [(&'static str, Surface, SocketAddr, Router, ServeLimits); 4] = [
            ("interop", Surface::Interop, config.interop.bind_addr, interop_router(interop, api), public),
            ("interop_admin", Surface::Internal, config.interop.metrics_addr, admin(AdminOf::Interop), inner),
            (
                "mailbox",
                Surface::Mailbox,
                config.mailbox.listen,
                mailbox_router(mailbox_app, config.chaos.enabled),
                inner,
            ),
            (
                "mailbox_admin",
                Surface::Internal,
                config.mailbox.metrics_addr,
                admin(AdminOf::Mailbox(queues)),
                inner,
            ),
        ];
        for (name, surface, addr, router, limits) in surfaces {
            let meter = Meter::new(surface, common.metrics.clone());
            let door = Arc::new(Door::new(router, meter, common.ids.clone()));
            let listening = serve_tcp(addr, door, limits).await;
            let listening = listening.map_err(|error| BootError::Taken(format!("{name} {addr}: {error}")))?;
            self.addresses.insert(name, listening.addr().unwrap_or(addr));
            self.listeners.push(listening);
        }
        self.listen_to_ronctl(common, app(Surface::Internal, Access::Full, None))
    }

    fn listen_to_ronctl(
        &mut self,
        common: &Common,
        mailbox: Arc<MailboxApp<Mailbox>>,
    ) -> Result<(), BootError> {
        if self.config.node.amnesia {
            let port = self.addresses.get("mailbox").map_or(0, SocketAddr::port);
            let runtime_dir = std::env::var("XDG_RUNTIME_DIR").ok();
            self.socket = SocketPlace::in_amnesia(runtime_dir.as_deref(), port);
        }
        let desk = Desk {
            readiness: common.readiness.clone(),
            profile: self.config.node.profile.label(),
            amnesia: self.config.node.amnesia,
            started: common.clock.now(),
            clock: common.clock.clone(),
            addresses: self.addresses.clone(),
            directory: common.mailbox.directory().clone(),
            store: self.store_figures.clone(),
            providers: shown_providers(&self.config),
            passport: self.passport.clone(),
        };
        let taken = |error| BootError::Taken(format!("socket {}: {error}", self.socket));
        let listener = self.socket.bind().map_err(taken)?;
        let meter = Meter::new(Surface::Internal, common.metrics.clone());
        let router = ctl_router(Arc::new(desk), mailbox);
        let door = Arc::new(Door::new(router, meter, common.ids.clone()));
        self.listeners.push(serve_unix(listener, door, ServeLimits::default()));
        Ok(())
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
    pub fn provider(&self, secret: &DevSecret) -> Option<&Served> {
        self.providers.get(secret.provider)
    }

    /// Drains and stops: new sends are shed, long polls end, requests in flight finish, leases settle up to
    /// `node.drain_ms`; then listeners close, actors stop in order and the store is closed.
    pub async fn shut(self) {
        self.readiness.start_drain();
        self.tree.mailbox.end_waits();
        self.leases_settled().await;
        self.tree.bus.publish(Event::Shutdown);
        let grace = Duration::from_secs(1);
        futures::future::join_all(self.listeners.into_iter().map(|listening| listening.shutdown(grace)))
            .await;
        self.tree.stop().await;
        self.socket.remove();
    }

    async fn leases_settled(&self) {
        const LOOK_EVERY: Duration = Duration::from_millis(50);
        let in_flight = || {
            let entries = self.tree.mailbox.directory().all();
            entries.iter().any(|entry| entry.figures.stats().vis > 0)
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

/// A node in amnesia must not sit on files that a durable one left: they would seem to be gone, and are not.
fn refuse_leftovers(config: &Config) -> Result<(), BootError> {
    let dir = &config.node.data_dir;
    let ours = [STORE_FILE, "keyring"].into_iter().find(|name| dir.join(name).exists());
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
    entropy: &OsEntropy,
) -> Result<Foundation, BootError> {
    let (mut bits, mut seed) = ([0; 40], [0; 8]);
    let filled = entropy.fill(&mut bits).and_then(|()| entropy.fill(&mut seed));
    filled.map_err(|_| BootError::Root("no random bytes".into()))?;
    let mailbox = &config.mailbox;
    let cache = config.store.cache.as_usize();
    let args = TreeArgs {
        medium,
        store: StoreConfig {
            cache_bytes: cache,
            body_cache_bytes: cache,
            two_phase_commit: config.store.two_phase_commit,
            dedup_keys_max: usize::try_from(config.store.max_dedup_keys).unwrap_or(usize::MAX),
            dedup_keys_topic_max: usize::try_from(mailbox.max_dedup_keys).unwrap_or(usize::MAX),
            inline: false,
        },
        mailbox: MailboxConfig {
            settings: mailbox.settings,
            dedup_window_ms: mailbox.dedup_window_ms,
            shard_requests_max: mailbox.admission.requests as usize,
            shard_bytes_max: mailbox.admission.bytes.as_usize(),
            shard_settles_max: mailbox.admission.requests as usize,
            park_after_ms: u64::try_from(mailbox.park_after.as_millis()).unwrap_or(u64::MAX),
            topics_max: mailbox.max_topics as usize,
        },
        entropy: bits,
        seed: u64::from_le_bytes(seed),
        restarts: RestartPolicy::default(),
        bus: BusLimits::default(),
        store_observer: watch.clone(),
        kernel_observer: watch.clone(),
    };
    let clock_from = |saved| Arc::new(SystemClock::starting_from(saved)) as Arc<dyn Clock>;
    Foundation::lay(args, &clock_from).map_err(|error| match error {
        StoreError::Locked => BootError::Taken(format!(
            "node.data_dir: {} is in use by another process",
            config.node.data_dir.display()
        )),
        other => BootError::Store(other),
    })
}

fn mailbox_limits(config: &Config) -> MailboxLimits {
    MailboxLimits {
        dedup_window_ms: config.mailbox.dedup_window_ms,
        max_dedup_keys: config.mailbox.max_dedup_keys,
        retention_ms: config.mailbox.retention_ms,
        dlq_retention_ms: config.mailbox.dlq_retention_ms,
        durability: if config.node.amnesia { Durability::Ram } else { Durability::Fsync },
        ..MailboxLimits::default()
    }
}
