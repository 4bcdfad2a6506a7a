//! The supervision tree, put together: root → store, mailbox tree → router and shards, and whatever else the node
//! hands in. The process, the tests and the simulator all start this one.

use crate::kernel::bus::{Bus, BusLimits};
use crate::kernel::child::{ChildKind, ChildSpec, Observer, ServiceLabel, StopMode};
use crate::kernel::handle::HandlePublisher;
use crate::kernel::supervisor::{RootWatch, SupervisorOptions, SupervisorRef, start_root, tree};
use crate::mailbox::{Directory, Fanout, Mailbox, MailboxConfig, MailboxObserver, Router, RouterArgs};
use crate::store::{
    ClockFrom, EngineCell, Medium, Store, StoreActor, StoreArgs, StoreConfig, StoreError, StoreObserver,
};
use ractor::SpawnErr;
use ron_core::restart::RestartPolicy;
use ron_core::time::Clock;
use std::sync::Arc;
use std::time::Duration;

/// What a tree is built from.
pub struct TreeArgs {
    /// Where the store keeps its bytes.
    pub medium: Arc<dyn Medium>,
    /// How the store is run.
    pub store: StoreConfig,
    /// How the mailbox is run.
    pub mailbox: MailboxConfig,
    /// Random bits for a new store's incarnation and receipt key.
    pub entropy: [u8; 40],
    /// Seed of the restart jitter.
    pub seed: u64,
    /// Budget of every child.
    pub restarts: RestartPolicy,
    /// Bounds of the bus.
    pub bus: BusLimits,
    /// Told of commits.
    pub store_observer: Arc<dyn StoreObserver>,
    /// Told of crashes.
    pub kernel_observer: Arc<dyn Observer>,
}

/// An open store with a bus, before any actor runs.
#[derive(Debug)]
pub struct Foundation {
    /// The store.
    pub cell: Arc<EngineCell>,
    /// Node time, floored at what the store had seen.
    pub clock: Arc<dyn Clock>,
    /// The bus.
    pub bus: Bus,
    /// All queues.
    pub directory: Arc<Directory>,
    options: SupervisorOptions,
    mailbox: Arc<MailboxConfig>,
}

impl Foundation {
    /// Opens the store. Blocks; reads no bodies.
    ///
    /// # Errors
    /// The store's: the node ends with exit code 74, or 75 if it is locked.
    pub fn lay(args: TreeArgs, clock_from: ClockFrom<'_>) -> Result<Foundation, StoreError> {
        let opened =
            EngineCell::open(args.medium, args.store, clock_from, args.entropy, args.store_observer)?;
        let bus = Bus::new(opened.clock.clone(), args.bus);
        let options = SupervisorOptions {
            clock: opened.clock.clone(),
            bus: bus.clone(),
            observer: args.kernel_observer,
            policy: args.restarts,
            seed: args.seed,
        };
        let mailbox = Arc::new(args.mailbox);
        let directory = Arc::new(Directory::new(opened.topics, opened.next_shard, mailbox.as_ref().clone()));
        Ok(Foundation { cell: opened.cell, clock: opened.clock, bus, directory, options, mailbox })
    }

    /// Starts the actors. `others` get the mailbox and become the root's last children.
    ///
    /// # Errors
    /// Only if the root itself does not start.
    pub async fn raise(
        self,
        observer: Arc<dyn MailboxObserver>,
        others: impl FnOnce(&Mailbox, &SupervisorOptions) -> Vec<ChildSpec>,
    ) -> Result<Tree, SpawnErr> {
        let store_actor = HandlePublisher::new();
        let store = Store::new(store_actor.handle(), self.cell.clone());
        let store_args = StoreArgs { cell: self.cell.clone() };
        let make = move || (StoreActor, store_args.clone());
        let store_spec = ChildSpec::actor(ChildKind::Fixed, "store", ServiceLabel::Store, &store_actor, make)
            .critical()
            .stop_mode(StopMode::Drain);

        let (router_actor, fanout_actor) = (HandlePublisher::new(), HandlePublisher::new());
        let mailbox = Mailbox::new(
            self.directory.clone(),
            router_actor.handle(),
            store.clone(),
            self.clock.clone(),
            observer.clone(),
        );
        let (shards_of_tree, shards) = tokio::sync::watch::channel(None);
        let router_args = {
            let (directory, store, clock, config) =
                (self.directory.clone(), store.clone(), self.clock.clone(), self.mailbox.clone());
            move |shards: SupervisorRef| RouterArgs {
                directory: directory.clone(),
                shards,
                store: store.clone(),
                clock: clock.clone(),
                config: config.clone(),
                observer: observer.clone(),
            }
        };
        let brings = mailbox.clone();
        let children = move || {
            let (shards, router_args, brings) = (shards.clone(), router_args.clone(), brings.clone());
            let make = move || {
                let supervisor: Option<SupervisorRef> = shards.borrow().clone();
                (Router, supervisor.map(&router_args))
            };
            let router =
                ChildSpec::actor(ChildKind::Fixed, "router", ServiceLabel::Mailbox, &router_actor, make);
            let make = move || (Fanout, brings.clone());
            let fanout =
                ChildSpec::actor(ChildKind::Fixed, "fanout", ServiceLabel::Mailbox, &fanout_actor, make);
            vec![router.critical(), fanout]
        };
        let (mailbox_spec, mailbox_tree) =
            tree("mailbox", ServiceLabel::Mailbox, self.options.clone(), children);
        shards_of_tree.send_replace(Some(mailbox_tree.clone()));

        let mut specs = vec![store_spec, mailbox_spec.critical().stop_timeout(Duration::from_secs(30))];
        specs.extend(others(&mailbox, &self.options));
        let (root, watch) = start_root(self.options, specs).await?;
        // If it is down already, its restarts will say so.
        let _ = mailbox_tree.booted().await;
        Ok(Tree { root, watch, shards: mailbox_tree, store, mailbox, cell: self.cell, bus: self.bus })
    }
}

/// A running tree.
#[derive(Debug)]
pub struct Tree {
    /// The root.
    pub root: SupervisorRef,
    /// Tells of the root's end.
    pub watch: RootWatch,
    /// The supervisor of the router and the shards.
    pub shards: SupervisorRef,
    /// The store.
    pub store: Store,
    /// The mailbox.
    pub mailbox: Mailbox,
    /// The engine behind the store.
    pub cell: Arc<EngineCell>,
    /// The bus.
    pub bus: Bus,
}

impl Tree {
    /// Stops all actors in order and closes the store.
    pub async fn stop(self) {
        self.root.stop().await;
        self.cell.close_down().await;
    }
}
