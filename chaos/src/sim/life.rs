//! One life of the node: from the opening of its store to the loss of its power, or to its end in good order. Each
//! has a runtime of its own, on one thread and under a paused clock, which is dropped with all that runs in it.

use super::client::{CANARY, CANARY_DIGITS, Client};
use super::ops::{Get, How};
use super::rng::Rng;
use super::trouble::{Trouble, accept_clock, set_policy};
use super::world::{Complaint, Ear, SimClock, World, WorldPace};
use ron_actors::blocking::Blocking;
use ron_actors::kernel::bus::BusLimits;
use ron_actors::kernel::child::NoObserver;
use ron_actors::store::StoreConfig;
use ron_actors::tree::{Foundation, Tree, TreeArgs};
use ron_core::reason::Reason;
use ron_core::restart::RestartPolicy;
use ron_core::shard::{Paused, PeekState, Stats, TopicChange, Want};
use ron_core::time::{Clock, ClockGap, Millis};
use ron_history::record::{Event, Op, Out, Settings};
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
/// How far ahead of the saved time a wall clock may be at a start.
const GAP_AHEAD_MAX_MS: u64 = 7 * 86_400_000;

/// Lives one life, begun when the wall clock shows `wall`. Returns the wall clock at its end.
pub(super) fn live(world: &Arc<World>, wall: Millis, end: End) -> Result<Millis, Complaint> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.map_err(|error| format!("no runtime: {error}"))?;
    let ended = runtime.block_on(async {
        let born = Born { world: world.clone(), wall };
        let ended = Box::pin(born.live(end)).await;
        // Before the runtime is dropped: what its tasks write from here on is lost.
        let mut rng = Rng::new(world.plan.seed, 20_000 + world.lock().steps);
        let some = rng.chance(50);
        world.disk.cut_power(some.then_some(&mut rng));
        ended
    });
    drop(runtime);
    {
        let mut inner = world.lock();
        let now = inner.now;
        inner.log.record(now, Event::Down);
    }
    match world.lock().failure.clone() {
        Some(complaint) => Err(complaint),
        None => ended,
    }
}

/// A life before its store is open.
struct Born {
    world: Arc<World>,
    wall: Millis,
}

struct Life {
    world: Arc<World>,
    clock: Arc<dyn Clock>,
}

impl Born {
    async fn live(self, end: End) -> Result<Millis, Complaint> {
        let world = self.world.clone();
        let (life, tree) = self.start().await?;
        world.event(life.clock.as_ref(), "boot", format_args!("{end:?}"));
        let lived = if end == End::Look { life.look(&tree).await } else { life.run(end, tree).await };
        lived.map(|()| life.clock.wall())
    }

    fn args(&self, ear: Arc<Ear>) -> TreeArgs {
        let plan = &self.world.plan;
        let mut entropy = [0; 40];
        let mut rng = Rng::new(plan.seed, 1);
        entropy.iter_mut().for_each(|byte| *byte = rng.next() as u8);
        TreeArgs {
            medium: Arc::new(self.world.disk.medium()),
            store: StoreConfig {
                cache_bytes: 1 << 20,
                body_cache_bytes: plan.body_cache_bytes,
                journal_bytes: plan.journal_bytes,
                // Simulated queues are small: half of the worlds load them as large ones.
                load_cost_max: if plan.seed.is_multiple_of(2) {
                    0
                } else {
                    StoreConfig::default().load_cost_max
                },
                blocking: Blocking::Paced(Arc::new(WorldPace(self.world.clone()))),
                ..StoreConfig::default()
            },
            mailbox: plan.mailbox(),
            entropy,
            seed: rng.next(),
            restarts: RestartPolicy {
                base_ms: plan.restart_base_ms,
                cap_ms: 2_000,
                intensity: plan.intensity,
                window_ms: 60_000,
            },
            bus: BusLimits::default(),
            store_observer: ear,
            kernel_observer: Arc::new(NoObserver),
        }
    }

    async fn start(self) -> Result<(Life, Tree), Complaint> {
        let (world, wall) = (self.world.clone(), self.wall);
        let origin = tokio::time::Instant::now();
        // before the store is open: for what the store says meanwhile
        let base = world.lock().now;
        let first = Arc::new(SimClock { world: world.clone(), base, origin });
        let ear = Arc::new(Ear { world: world.clone(), clock: first.clone() });
        let clock_from = |saved: Millis| {
            let base = wall.max(saved);
            let mut inner = world.lock();
            inner.wall_off = wall.0 as i64 - base.0 as i64;
            inner.now = base;
            if ClockGap::between(saved, wall, GAP_AHEAD_MAX_MS).is_some() {
                inner.held = true;
                inner.log.record(base, Event::Held(true));
                inner.log.count("clock-held");
            }
            drop(inner);
            Arc::new(SimClock { world: world.clone(), base, origin }) as Arc<dyn Clock>
        };
        // whether anything is held is for this start's clock alone to say
        accept_clock(&world, first.as_ref());
        let foundation =
            Foundation::lay(self.args(ear), &clock_from).map_err(|error| format!("boot: {error}"))?;
        let clock = foundation.clock.clone();
        let ear = Arc::new(Ear { world: world.clone(), clock: clock.clone() });
        let tree =
            foundation.raise(ear, |_, _| Vec::new()).await.map_err(|error| format!("boot: {error}"))?;
        Ok((Life { world, clock }, tree))
    }
}

impl Life {
    async fn run(&self, end: End, tree: Tree) -> Result<(), Complaint> {
        let plan = &self.world.plan;
        self.world.disk.count_anew();
        self.world.faults.iter().for_each(|fault| self.world.disk.arm(*fault));
        let mut clients = tokio::task::JoinSet::new();
        for me in 0..plan.clients as usize {
            clients.spawn(self.client(&tree, me).work());
        }
        let trouble = Trouble {
            world: self.world.clone(),
            clock: self.clock.clone(),
            root: tree.root.clone(),
            shards: tree.shards.clone(),
            mailbox: tree.mailbox.clone(),
            rng: Rng::new(plan.seed, 10_000 + self.world.lock().steps),
        };
        let trouble = tokio::spawn(trouble.make());
        self.until_over().await;
        match end {
            End::PowerCut => {
                self.event("power-cut", "");
                Ok(())
            }
            End::Stop => {
                trouble.abort();
                self.stop(tree, clients).await
            }
            End::Drain | End::Look => {
                clients.join_all().await;
                trouble.abort();
                self.drain(&tree).await
            }
        }
    }

    fn client(&self, tree: &Tree, me: usize) -> Client {
        Client {
            world: self.world.clone(),
            mailbox: tree.mailbox.clone(),
            store: tree.store.clone(),
            clock: self.clock.clone(),
            me,
        }
    }

    fn event(&self, what: &str, text: &str) {
        self.world.event(self.clock.as_ref(), what, format_args!("{text}"));
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
        self.event("stop", "");
        tree.mailbox.end_waits();
        tokio::time::timeout(OVER_WITHIN, tree.stop()).await.map_err(|_| "the node does not stop")?;
        let waiting = tokio::time::timeout(OVER_WITHIN, clients.join_all());
        waiting.await.map_err(|_| "a call outlives the node, unanswered")?;
        self.event("stopped", "");
        self.world.lock().stopping = false;
        Ok(())
    }

    /// Ends all that keeps messages: faults, pauses, tasks, quotas, a clock that is not accepted.
    async fn calm(&self, tree: &Tree, client: &Client) {
        let ops = self.world.disk.figures();
        self.world.lock().disk_ops = ops;
        self.world.disk.heal();
        self.world.lock().slow_ms = 2;
        set_policy(&self.world, &tree.mailbox, "");
        accept_clock(&self.world, self.clock.as_ref());
        let within_ms = self.world.plan.calm_within_ms();
        self.world.record(self.clock.as_ref(), Event::Calm { within_ms });
        for queue in 0..self.world.queues.len() {
            let what = Paused { recv: true, enqueue: true };
            let to = Settings { paused: Some(0), ..Settings::default() };
            // a topic that is not there is not paused; one that is being restarted is there soon
            for _ in 0..100 {
                let call = client.begin(Op::Configure { queue: queue as u32, to });
                let change = TopicChange::Pause { what, paused: false };
                let answer = tree.mailbox.configure(&self.world.queues[queue], change).await;
                let cancelled = client.cancel(queue).await;
                match answer {
                    Ok(_) => client.end(call, "resume", Out::Done(0)),
                    Err(refusal) if refusal.reason == Reason::NotFound => {
                        client.end(call, "resume", Out::NotFound)
                    }
                    Err(refusal) => {
                        client.end(call, "resume", Out::Unknown(refusal.reason.code().to_owned()));
                        tokio::time::sleep(Duration::from_millis(200)).await;
                        continue;
                    }
                }
                self.world.judge(cancelled);
                break;
            }
        }
    }

    /// With no more faults, everything becomes ready, is received and acked, or is dead.
    async fn drain(&self, tree: &Tree) -> Result<(), Complaint> {
        self.event("drain", "");
        let client = self.client(tree, 0);
        self.calm(tree, &client).await;
        for queue in 0..self.world.queues.len() {
            let emptied = tokio::time::timeout(OVER_WITHIN, self.empty(&client, queue)).await;
            let stats = emptied.map_err(|_| format!("q{queue} does not drain"))??;
            self.drained(&client, queue, stats).await?;
        }
        self.event("drained", "");
        if self.world.plan.armed && tree.mailbox.directory().all().iter().any(|entry| entry.is_quarantined())
        {
            return Err("a queue is quarantined".to_owned());
        }
        self.search_disk();
        Ok(())
    }

    async fn drained(&self, client: &Client, queue: usize, stats: Stats) -> Result<(), Complaint> {
        let dead = client.peek(queue, PeekState::Dlq, 1_000_000).await?;
        // nothing dies any more, but what is dead may reach the end of its retention meanwhile
        let after = match client.mailbox.stat(&self.world.queues[queue]).await {
            Ok(stat) => stat.stats.dlq,
            Err(refusal) if refusal.reason == Reason::NotFound => 0,
            Err(refusal) => return Err(format!("q{queue} when it had drained: {refusal:?}")),
        };
        if !(after..=stats.dlq).contains(&(dead.len() as u64)) {
            return Err(format!("{} dead letters in q{queue} instead of {}", dead.len(), stats.dlq));
        }
        self.world.record(self.clock.as_ref(), Event::Drained { queue: queue as u32, dead });
        Ok(())
    }

    /// Looks for payloads in the bytes of the store.
    fn search_disk(&self) {
        let bytes = self.world.disk.bytes();
        let mut found = BTreeSet::new();
        let mut at = 0;
        while let Some(next) = bytes[at..].windows(CANARY.len()).position(|window| window == CANARY) {
            at += next + CANARY.len();
            let digits =
                bytes.get(at..at + CANARY_DIGITS).and_then(|digits| std::str::from_utf8(digits).ok());
            found.extend(digits.and_then(|digits| digits.parse::<u64>().ok()));
        }
        self.world.record(self.clock.as_ref(), Event::OnDisk(found.into_iter().collect()));
    }

    async fn empty(&self, client: &Client, queue: usize) -> Result<Stats, Complaint> {
        let want = Want { max_messages: 50, max_bytes: 4 << 20, visibility_ms: None };
        let get = Get { want, wait_ms: 1_000, cancel_ms: None, dropped: false };
        loop {
            self.world.lock().clients[0].held.clear();
            client.recv(queue, get).await?;
            let held = self.world.lock().clients[0].held.clone();
            if !held.is_empty() {
                client.settle(queue, How::Ack, held).await?;
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
        accept_clock(&self.world, self.clock.as_ref());
        for queue in 0..self.world.queues.len() {
            let stats = match tree.mailbox.stat(&self.world.queues[queue]).await {
                Ok(stat) => stat.stats,
                Err(refusal) if refusal.reason == Reason::NotFound => Stats::default(),
                Err(refusal) => return Err(format!("q{queue} after a restart: {refusal:?}")),
            };
            if stats.ready + stats.delayed + stats.vis > 0 {
                return Err(format!("q{queue} was empty, and after a restart it is not: {stats:?}"));
            }
            self.drained(&client, queue, stats).await?;
        }
        self.event("looked", "");
        Ok(())
    }
}
