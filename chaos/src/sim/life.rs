//! One life of the node: from the opening of its store to the loss of its power, or to its end in good order. Each
//! has a runtime of its own, on one thread and under a paused clock, which is dropped with all that runs in it.

use super::client::Client;
use super::medium::Unsynced;
use super::model::Complaint;
use super::rng::Rng;
use super::world::{Ear, World, WorldPace};
use ron_actors::blocking::Blocking;
use ron_actors::kernel::bus::BusLimits;
use ron_actors::kernel::child::NoObserver;
use ron_actors::kernel::clock::TokioClock;
use ron_actors::kernel::supervisor::SupervisorRef;
use ron_actors::store::StoreConfig;
use ron_actors::tree::{Foundation, Tree, TreeArgs};
use ron_core::reason::Reason;
use ron_core::restart::RestartPolicy;
use ron_core::shard::{PeekState, Stats, Want};
use ron_core::time::{Clock, Millis};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// How a life ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The power goes in the middle of the work.
    PowerCut,
    /// The node is stopped in good order, in the middle of the work.
    Stop,
    /// The clients finish, the faults end, everything is drained; then the power goes.
    Drain,
    /// Nobody works: what was drained before is still so.
    Look,
}

/// Node time within which stopping and draining are over.
const OVER_WITHIN: Duration = Duration::from_secs(3_600);

/// Lives one life from `base` on. Returns when it ended.
pub(super) fn live(world: &Arc<World>, base: Millis, end: End) -> Result<Millis, Complaint> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.map_err(|error| format!("no runtime: {error}"))?;
    let ended = runtime.block_on(async {
        let clock = Arc::new(TokioClock::new(base));
        let life = Life { world: world.clone(), clock };
        let lived = life.run(end).await;
        // Before the runtime is dropped: what its tasks write from here on is lost.
        world.medium.cut_power();
        lived.map(|()| life.clock.now())
    });
    drop(runtime);
    match world.lock().failure.clone() {
        Some(complaint) => Err(complaint),
        None => ended,
    }
}

struct Life {
    world: Arc<World>,
    clock: Arc<TokioClock>,
}

impl Life {
    async fn run(&self, end: End) -> Result<(), Complaint> {
        self.world.event(self.clock.as_ref(), "boot", format_args!("{end:?}"));
        let tree = self.start().await?;
        if end == End::Look {
            return self.look(&tree).await;
        }
        let plan = &self.world.plan;
        let mut clients = tokio::task::JoinSet::new();
        for me in 0..plan.clients as usize {
            clients.spawn(self.client(&tree, me).work());
        }
        let faults = Trouble {
            world: self.world.clone(),
            clock: self.clock.clone(),
            root: tree.root.clone(),
            shards: tree.shards.clone(),
            rng: Rng::new(plan.seed, 10_000 + self.world.lock().steps),
        };
        let faults = tokio::spawn(faults.make());
        self.until_over().await;
        match end {
            End::PowerCut => {
                self.world.event(self.clock.as_ref(), "power-cut", format_args!(""));
                Ok(())
            }
            End::Stop => {
                faults.abort();
                self.stop(tree, clients).await
            }
            End::Drain | End::Look => {
                clients.join_all().await;
                faults.abort();
                self.drain(&tree).await
            }
        }
    }

    fn client(&self, tree: &Tree, me: usize) -> Client {
        Client { world: self.world.clone(), mailbox: tree.mailbox.clone(), clock: self.clock.clone(), me }
    }

    async fn start(&self) -> Result<Tree, Complaint> {
        let plan = &self.world.plan;
        let ear = Arc::new(Ear { world: self.world.clone(), clock: self.clock.clone() });
        let mut entropy = [0; 40];
        let mut rng = Rng::new(plan.seed, 1);
        entropy.iter_mut().for_each(|byte| *byte = rng.next() as u8);
        let args = TreeArgs {
            medium: Arc::new(self.world.medium.clone()),
            store: StoreConfig {
                cache_bytes: 1 << 20,
                body_cache_bytes: plan.body_cache_bytes,
                dedup_keys_topic_max: plan.dedup_keys_topic_max,
                blocking: Blocking::Paced(Arc::new(WorldPace(self.world.clone()))),
                ..StoreConfig::default()
            },
            mailbox: plan.mailbox(),
            entropy,
            seed: rng.next(),
            restarts: RestartPolicy {
                base_ms: plan.restart_base_ms,
                cap_ms: 2_000,
                intensity: 1_000_000,
                window_ms: 10_000,
            },
            bus: BusLimits::default(),
            store_observer: ear.clone(),
            kernel_observer: Arc::new(NoObserver),
        };
        let clock = self.clock.clone();
        let clock_from = move |_| clock.clone() as Arc<dyn Clock>;
        let foundation = Foundation::lay(args, &clock_from).map_err(|error| format!("boot: {error}"))?;
        foundation.raise(ear, |_, _| Vec::new()).await.map_err(|error| format!("boot: {error}"))
    }

    /// Waits until the clients have used up the life's operations, or something is broken.
    async fn until_over(&self) {
        loop {
            let over = self.world.over.notified();
            {
                let inner = self.world.lock();
                if inner.failure.is_some() || inner.steps >= inner.life_ends {
                    return;
                }
            }
            over.await;
        }
    }

    async fn stop(&self, tree: Tree, clients: tokio::task::JoinSet<()>) -> Result<(), Complaint> {
        self.world.lock().stopping = true;
        self.world.event(self.clock.as_ref(), "stop", format_args!(""));
        tokio::time::timeout(OVER_WITHIN, tree.stop()).await.map_err(|_| "the node does not stop")?;
        let waiting = tokio::time::timeout(OVER_WITHIN, clients.join_all());
        waiting.await.map_err(|_| "a call outlives the node, unanswered")?;
        self.world.event(self.clock.as_ref(), "stopped", format_args!(""));
        self.world.lock().stopping = false;
        Ok(())
    }

    /// With no more faults, everything becomes ready, is received and acked, or is dead.
    async fn drain(&self, tree: &Tree) -> Result<(), Complaint> {
        self.world.medium.heal();
        self.world.lock().slow_ms = 2;
        self.world.event(self.clock.as_ref(), "drain", format_args!(""));
        let client = self.client(tree, 0);
        let mut dead = BTreeSet::new();
        for queue in 0..self.world.queues.len() {
            let emptied = tokio::time::timeout(OVER_WITHIN, self.empty(&client, queue)).await;
            let stats = emptied.map_err(|_| format!("q{queue} does not drain"))??;
            let letters = client.peek(queue, PeekState::Dlq, 1_000_000).await?;
            if letters.len() as u64 != stats.dlq {
                return Err(format!("{} dead letters in q{queue} instead of {}", letters.len(), stats.dlq));
            }
            dead.extend(letters);
        }
        self.world.event(self.clock.as_ref(), "drained", format_args!("{} dead", dead.len()));
        self.world.lock().model.settle_accounts(&dead)
    }

    async fn empty(&self, client: &Client, queue: usize) -> Result<Stats, Complaint> {
        let want = Want { max_messages: 50, max_bytes: 4 << 20, visibility_ms: None };
        loop {
            self.world.lock().clients[0].held.clear();
            client.recv(queue, want, 1_000, None, false).await?;
            let held = self.world.lock().clients[0].held.clone();
            if !held.is_empty() {
                client.settle(queue, super::ops::How::Ack, held).await?;
                continue;
            }
            match client.mailbox.stat(&self.world.queues[queue]).await {
                Ok(stat) if stat.stats.ready + stat.stats.delayed + stat.stats.vis == 0 => {
                    return Ok(stat.stats);
                }
                Err(refusal) if refusal.reason == Reason::NotFound => return Ok(Stats::default()),
                // Not yet.
                Ok(_) | Err(_) => tokio::time::sleep(Duration::from_millis(500)).await,
            }
        }
    }

    async fn look(&self, tree: &Tree) -> Result<(), Complaint> {
        let client = self.client(tree, 0);
        let mut dead = BTreeSet::new();
        for queue in 0..self.world.queues.len() {
            let stats = match tree.mailbox.stat(&self.world.queues[queue]).await {
                Ok(stat) => stat.stats,
                Err(refusal) if refusal.reason == Reason::NotFound => continue,
                Err(refusal) => return Err(format!("q{queue} after a restart: {refusal:?}")),
            };
            if stats.ready + stats.delayed + stats.vis > 0 {
                return Err(format!("q{queue} was empty, and after a restart it is not: {stats:?}"));
            }
            dead.extend(client.peek(queue, PeekState::Dlq, 1_000_000).await?);
        }
        self.world.event(self.clock.as_ref(), "looked", format_args!("{} dead", dead.len()));
        self.world.lock().model.settle_accounts(&dead)
    }
}

/// Makes trouble until it is aborted.
struct Trouble {
    world: Arc<World>,
    clock: Arc<TokioClock>,
    root: SupervisorRef,
    shards: SupervisorRef,
    rng: Rng,
}

impl Trouble {
    async fn make(mut self) {
        let faults = self.world.plan.faults;
        if faults.every_ms == 0 {
            return;
        }
        loop {
            let pause = self.rng.range(1, faults.every_ms);
            tokio::time::sleep(Duration::from_millis(pause)).await;
            if self.rng.chance(50) {
                self.world.lock().slow_ms = 2;
            }
            let [shard, store, router, sync] =
                [faults.kill_shard, faults.kill_store, faults.kill_router, faults.fail_sync];
            let drawn = self.rng.below(shard + store + router + sync + faults.slow);
            if drawn < shard {
                let name = format!("shard:{}", self.world.queues[self.rng.below(self.queues()) as usize]);
                let hit = self.shards.kill_child(&name).await;
                self.event("kill-shard", &format!("{name} {hit}"));
            } else if drawn < shard + store {
                let hit = self.root.kill_child("store").await;
                self.event("kill-store", &hit.to_string());
            } else if drawn < shard + store + router {
                let hit = self.shards.kill_child("router").await;
                self.event("kill-router", &hit.to_string());
            } else if drawn < shard + store + router + sync {
                let unsynced = self.rng.pick(&[Unsynced::Kept, Unsynced::Lost]);
                let (syncs, refused) = (self.rng.below(4), self.rng.pick(&[0, 0, 1, 3]));
                self.world.medium.fail_sync(syncs, unsynced, refused);
                self.event("fail-sync", &format!("{syncs} {unsynced:?} {refused}"));
            } else {
                let slow_ms = self.rng.pick(&[20, 200, 1_500]);
                self.world.lock().slow_ms = slow_ms;
                self.event("slow", &slow_ms.to_string());
            }
        }
    }

    fn queues(&self) -> u64 {
        self.world.plan.queues
    }

    fn event(&self, what: &str, text: &str) {
        self.world.event(self.clock.as_ref(), what, format_args!("{text}"));
    }
}
