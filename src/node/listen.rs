//! A node's listeners: what is served where, and under which limits.

use super::{BootError, Node};
use crate::config::Config;
use crate::desk::Desk;
use crate::gate::Gate;
use crate::http::admin::{AdminOf, admin_router, ctl_metrics_route};
use crate::http::admission::{Budgets, RateLimits};
use crate::http::audit::audit_routes;
use crate::http::auth::{Access, Audience};
use crate::http::ctl::ctl_router;
use crate::http::door::{Door, Meter, Surface};
use crate::http::egress::egress_routes;
use crate::http::faults::fault_routes;
use crate::http::intake::{Pace, Share};
use crate::http::interop::{InteropApp, PublicApi, Version, interop_router};
use crate::http::mailbox::{Durability, MailboxApp, MailboxLimits, mailbox_router};
use crate::http::objects::ObjectsApp;
use crate::http::reload::{Asked, reload_routes};
use crate::http::request::Ids;
use crate::http::serve::{ServeLimits, serve_tcp, serve_unix};
use crate::http::upkeep::upkeep_routes;
use crate::oap::{OapApp, OapLimits, OapRoutes, UPLOADS_MAX, serve_oap};
use crate::observe::Queues;
use crate::socket::SocketPlace;
use arc_swap::ArcSwap;
use axum::Router;
use ron_actors::entropy::{Entropy, OsEntropy};
use ron_actors::mailbox::Mailbox;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::sync::{Semaphore, mpsc};

/// What all listeners share.
struct Shared {
    ids: Arc<Ids>,
    limits: Arc<ArcSwap<MailboxLimits>>,
    budgets: Arc<Budgets>,
}

/// What is served at one address.
struct Place {
    name: &'static str,
    surface: Surface,
    addr: SocketAddr,
    router: Router,
    limits: ServeLimits,
}

impl Node {
    /// Binds everything. The node answers from here on.
    pub(super) async fn listen(&mut self, gate: Gate, asks: mpsc::Sender<Asked>) -> Result<(), BootError> {
        let mut seed = [0; 8];
        OsEntropy.fill(&mut seed).map_err(|_| BootError::Root("no random bytes".into()))?;
        let shared = Shared {
            ids: Arc::new(Ids::new(self.clock.clone(), u64::from_le_bytes(seed))),
            limits: Arc::new(ArcSwap::from_pointee(mailbox_limits(&self.config))),
            budgets: self.budgets.clone(),
        };
        for Place { name, surface, addr, router, limits } in self.places(&shared, gate) {
            let meter = Meter::new(surface, self.metrics.clone());
            let door = Arc::new(Door::new(router, meter, shared.ids.clone()));
            let listening = serve_tcp(addr, door, limits, self.tls.of(name)).await;
            let listening = listening.map_err(|error| BootError::Taken(format!("{name} {addr}: {error}")))?;
            self.addresses.insert(name, listening.addr().unwrap_or(addr));
            self.listeners.push(listening);
        }
        self.listen_oap(&shared).await?;
        self.listen_to_ronctl(&shared, asks)
    }

    async fn listen_oap(&mut self, shared: &Shared) -> Result<(), BootError> {
        let (addr, max_conns) = (self.config.mailbox.oap_listen, self.config.mailbox.max_conns as usize);
        let ServeLimits { header_deadline: handshake, write_stall, .. } = ServeLimits::default();
        let app = OapApp {
            mailbox: self.tree.mailbox.clone(),
            passport: self.passport.clone(),
            policy: self.policy.in_force.clone(),
            readiness: self.readiness.clone(),
            mailbox_limits: shared.limits.clone(),
            meter: Meter::new(Surface::Mailbox, self.metrics.clone()),
            clock: self.clock.clone(),
            limits: OapLimits {
                max_conns,
                handshake,
                write_stall,
                object_max: self.config.interop.object_max.0,
                body_deadline: self.config.interop.limits.body_timeout,
            },
            tls: self.tls.of("oap"),
            routes: OapRoutes::default(),
            audit: self.audit.clone(),
            ids: shared.ids.clone(),
            store: self.tree.store.clone(),
            uploads: Arc::new(Semaphore::new(UPLOADS_MAX)),
        };
        let listening = serve_oap(addr, Arc::new(app)).await;
        let listening = listening.map_err(|error| BootError::Taken(format!("oap {addr}: {error}")))?;
        self.addresses.insert("oap", listening.addr().unwrap_or(addr));
        self.listeners.push(listening);
        Ok(())
    }

    fn places(&self, shared: &Shared, gate: Gate) -> [Place; 4] {
        let (interop, mailbox) = (&self.config.interop, &self.config.mailbox);
        let public = ServeLimits {
            max_conns: interop.limits.max_conns as usize,
            header_deadline: interop.limits.header_timeout,
            head_bytes: PUBLIC_HEAD_BYTES,
            ..ServeLimits::default()
        };
        let inner = ServeLimits { max_conns: mailbox.max_conns as usize, ..ServeLimits::default() };
        let admin = |of| admin_router(of, self.readiness.clone(), self.metrics.clone());
        let to_mailbox = Access::Capability(Arc::new(self.passport.clone()), Audience::Mailbox);
        let mailbox_app = self.mailbox_app(shared, Surface::Mailbox, to_mailbox, None);
        [
            Place {
                name: "interop",
                surface: Surface::Interop,
                addr: interop.bind_addr,
                router: self.interop_router(shared, gate),
                limits: public,
            },
            Place {
                name: "interop_admin",
                surface: Surface::Internal,
                addr: interop.metrics_addr,
                router: admin(AdminOf::Interop),
                limits: inner,
            },
            Place {
                name: "mailbox",
                surface: Surface::Mailbox,
                addr: mailbox.listen,
                router: mailbox_router(mailbox_app, self.config.chaos.enabled),
                limits: inner,
            },
            Place {
                name: "mailbox_admin",
                surface: Surface::Internal,
                addr: mailbox.metrics_addr,
                router: admin(self.admin_of_mailbox()),
                limits: inner,
            },
        ]
    }

    fn admin_of_mailbox(&self) -> AdminOf {
        let (directory, reader) = (self.tree.mailbox.directory().clone(), self.tree.store.reader().clone());
        AdminOf::Mailbox(Arc::new(Queues { directory, reader, clock: self.clock.clone() }))
    }

    fn interop_router(&self, shared: &Shared, gate: Gate) -> Router {
        let limits = &self.config.interop.limits;
        let app = InteropApp {
            gate,
            readiness: self.readiness.clone(),
            unverified: Share::new(limits.max_unverified as usize, limits.unverified_bytes.as_usize()),
            budgets: self.budgets.clone(),
            rate: self.rate.clone(),
            pace: Pace { deadline: limits.body_timeout, rate_min: limits.body_min_rate.as_usize() },
            meter: Meter::new(Surface::Interop, self.metrics.clone()),
            version: Version {
                name: "ron-node",
                version: env!("CARGO_PKG_VERSION"),
                profile: self.config.node.profile.label().to_owned(),
            },
            audit: self.audit.clone(),
        };
        let api = self.config.interop.api.then(|| {
            let access = Access::Capability(Arc::new(self.passport.clone()), Audience::Interop);
            let mailbox = self.mailbox_app(shared, Surface::Interop, access, Some(self.rate.clone()));
            let (store, max) = (self.tree.store.clone(), self.config.interop.object_max.0);
            let objects = ObjectsApp::new(mailbox.clone(), store, max, limits.body_timeout);
            PublicApi { mailbox, objects: Arc::new(objects) }
        });
        interop_router(Arc::new(app), api)
    }

    fn mailbox_app(
        &self,
        shared: &Shared,
        surface: Surface,
        access: Access,
        rate: Option<Arc<RateLimits>>,
    ) -> Arc<MailboxApp<Mailbox>> {
        Arc::new(MailboxApp {
            mailbox: self.tree.mailbox.clone(),
            access,
            readiness: self.readiness.clone(),
            limits: shared.limits.clone(),
            budgets: shared.budgets.clone(),
            meter: Meter::new(surface, self.metrics.clone()),
            clock: self.clock.clone(),
            rate,
            policy: self.policy.in_force.clone(),
            audit: self.audit.clone(),
        })
    }

    fn listen_to_ronctl(&mut self, shared: &Shared, asks: mpsc::Sender<Asked>) -> Result<(), BootError> {
        if self.config.node.amnesia {
            let port = self.addresses.get("mailbox").map_or(0, SocketAddr::port);
            let runtime_dir = std::env::var("XDG_RUNTIME_DIR").ok();
            self.socket = SocketPlace::in_amnesia(runtime_dir.as_deref(), port);
        }
        let desk = Desk {
            readiness: self.readiness.clone(),
            profile: self.config.node.profile.label(),
            amnesia: self.config.node.amnesia,
            data_dir: self.config.node.data_dir.clone(),
            started: self.clock.now(),
            clock: self.clock.clone(),
            addresses: self.addresses.clone(),
            tls: self.tls.clone(),
            directory: self.tree.mailbox.directory().clone(),
            shards: self.tree.shards.clone(),
            verifiers: self.verifiers.clone(),
            bus: self.tree.bus.clone(),
            store: self.store_figures.clone(),
            providers: self.providers.clone(),
            passport: self.passport.clone(),
            policy: self.policy.clone(),
            clock_keeper: self.clock_keeper.clone(),
            audit: self.audit.clone(),
        };
        let taken = |error| BootError::Taken(format!("socket {}: {error}", self.socket));
        let listener = self.socket.bind().map_err(taken)?;
        let mailbox = self.mailbox_app(shared, Surface::Internal, Access::Full, None);
        let meter = Meter::new(Surface::Internal, self.metrics.clone());
        let (readiness, metrics) = (self.readiness.clone(), self.metrics.clone());
        let more = upkeep_routes(self.upkeep.clone())
            .merge(fault_routes(self.faults.clone()))
            .merge(audit_routes(self.audit.clone(), readiness.clone()))
            .merge(egress_routes(self.egress.clone()))
            .merge(reload_routes(asks))
            .merge(ctl_metrics_route(self.admin_of_mailbox(), readiness, metrics));
        let router = ctl_router(Arc::new(desk), mailbox, more);
        let door = Arc::new(Door::new(router, meter, shared.ids.clone()));
        self.listeners.push(serve_unix(listener, door, ServeLimits::default()));
        Ok(())
    }
}

/// Most bytes of a head on the public port: times `max_conns` it is what strangers can make the node hold.
const PUBLIC_HEAD_BYTES: usize = 32 * 1024;

fn mailbox_limits(config: &Config) -> MailboxLimits {
    MailboxLimits {
        durability: if config.node.amnesia { Durability::Ram } else { Durability::Fsync },
        ..MailboxLimits::default()
    }
}
