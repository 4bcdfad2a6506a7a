//! A hundred actors killed, one after another, each at most once a minute: so its restart is due within the
//! first step of the backoff (100 ms), and none is near its budget.
//!
//! A kill is *aboard* when requests are in the actor's hands and their commit cannot be over: a sync of the
//! store is being held up from before they were sent until the kill has landed.

use super::house::House;
use super::ledger::{Balance, Ledger};
use super::load::{self, Done, Held, LONG_LEASE_MS, Numbers, Witness};
use super::until;
use anyhow::{Context, Result, anyhow, bail};
use ron_actors::kernel::supervisor::SupervisorRef;
use ron_core::ids::{QueueKey, Tenant, Topic};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// A child that ran this long without failing starts again at the first step of its backoff.
const CALM: Duration = Duration::from_secs(61);
const WITHIN: Duration = Duration::from_secs(20);
/// Sends aboard a shard when it is killed; an ack comes on top.
const SENDS_ABOARD: usize = 3;
/// Bystanders; each has a topic of its own.
const BYSTANDERS: usize = 6;

/// How many of what are killed.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Shards with requests aboard.
    pub shards_aboard: usize,
    /// Idle shards.
    pub shards_idle: usize,
    /// Verifiers whose webhooks wait for their commit.
    pub verifiers_busy: usize,
    /// Idle verifiers.
    pub verifiers_idle: usize,
    /// Times the store is killed, always with requests aboard. More than one make the drill last a minute
    /// longer each: there is one store, and it must have been calm before.
    pub store: usize,
    /// Whether the passport is killed once, right after the first kill of the store.
    pub passport: bool,
    /// Longest time from a kill to the killed actor's first answer.
    pub back_within: Duration,
}

impl Plan {
    /// A hundred kills, more than half aboard.
    #[must_use]
    pub fn hundred(store: usize) -> Plan {
        let store = store.clamp(1, 20);
        Plan {
            shards_aboard: 54,
            shards_idle: 16 - store.min(16),
            verifiers_busy: 15,
            verifiers_idle: 14 - store.saturating_sub(16),
            store,
            passport: true,
            back_within: Duration::from_millis(200),
        }
    }

    fn total(&self) -> usize {
        self.shards() + self.verifiers() + self.store + usize::from(self.passport)
    }

    fn shards(&self) -> usize {
        self.shards_aboard + self.shards_idle
    }

    fn verifiers(&self) -> usize {
        self.verifiers_busy + self.verifiers_idle
    }
}

/// One kill.
#[derive(Debug, Clone, Serialize)]
pub struct Kill {
    /// Which child.
    pub child: String,
    /// Requests in the killed actor's hands, uncommitted.
    pub aboard: usize,
    /// From the kill to its first answer, ms.
    pub back_ms: f64,
    /// How requests aboard were refused before they were repeated, by `status REASON`.
    pub refused: BTreeMap<String, usize>,
}

/// What the drill found.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Every kill in order.
    pub kills: Vec<Kill>,
    /// Kills with uncommitted requests aboard.
    pub aboard: usize,
    /// The slowest return, ms.
    pub slowest_back_ms: f64,
    /// What was answered against what came out.
    pub balance: Balance,
    /// Calls of bystanders: how many, and their median, p99 and worst latency in ms.
    pub bystanders: (usize, f64, f64, f64),
    /// The same near kills of the store and the passport.
    pub bystanders_near_store_kills: (usize, f64, f64, f64),
    /// Refusals of bystanders near kills of the store and the passport, all repeated with success.
    pub refused_near_store_kills: u64,
    /// Children that were not back in time: the node's doing, or that of a machine that did something else.
    pub late: Vec<String>,
    /// Everything else that must not be.
    pub faults: Vec<String>,
}

/// Runs the drill in `dir`; `tell` hears of each kill.
///
/// # Errors
/// If the node does not answer as it should in between; faults that it survives are in the report.
pub async fn run(dir: &Path, plan: Plan, mut tell: impl FnMut(&Kill)) -> Result<Report> {
    // two providers more than are killed: the bystanders'
    let house = Arc::new(House::boot(dir, plan.verifiers() + 2).await?);
    let (ledger, witness) = (Arc::new(Ledger::default()), Arc::new(Witness::default()));
    let numbers = Arc::new(Numbers::default());
    let drill = Drill { house: house.clone(), ledger: ledger.clone(), numbers: numbers.clone() };
    let stock = drill.stock(plan.shards()).await?;
    let bystanders: Vec<_> = (0..BYSTANDERS)
        .map(|n| {
            let sender = (n < 2).then_some(n);
            let (house, ledger, witness) = (house.clone(), ledger.clone(), witness.clone());
            let (numbers, topic) = (numbers.clone(), format!("by-{n}"));
            tokio::spawn(load::bystander(house, ledger, witness, numbers, topic, sender))
        })
        .collect();
    let killed = drill.kill_all(&plan, &stock, &witness, &mut tell).await;
    witness.stop();
    house.gate.release();
    let mut stopped = Vec::new();
    for bystander in bystanders {
        stopped.push(bystander.await.context("a bystander panicked")?);
    }
    let kills = killed?;
    let mut faults: Vec<String> =
        stopped.into_iter().filter_map(Result::err).map(|error| format!("a bystander: {error:#}")).collect();
    drill.settle_stock(&stock).await?;
    drill.drain_all(plan.shards(), plan.verifiers() + 2).await?;
    let balance = ledger.balance();
    judge(&plan, &kills, &balance, &witness, &mut faults);
    let [bystanders, near] = witness.latencies();
    drop(drill);
    Arc::try_unwrap(house).map_err(|_| anyhow!("the node is still in use"))?.shut().await?;
    Ok(Report {
        aboard: kills.iter().filter(|kill| kill.aboard > 0).count(),
        late: late(&plan, &kills),
        slowest_back_ms: kills.iter().map(|kill| kill.back_ms).fold(0.0, f64::max),
        kills,
        balance,
        bystanders,
        bystanders_near_store_kills: near,
        refused_near_store_kills: witness.store_refusals(),
        faults,
    })
}

fn late(plan: &Plan, kills: &[Kill]) -> Vec<String> {
    let limit_ms = plan.back_within.as_secs_f64() * 1e3;
    let late = kills.iter().filter(|kill| kill.back_ms > limit_ms);
    late.map(|kill| format!("{} was back after {:.0} ms", kill.child, kill.back_ms)).collect()
}

fn judge(plan: &Plan, kills: &[Kill], balance: &Balance, witness: &Witness, faults: &mut Vec<String>) {
    let aboard = kills.iter().filter(|kill| kill.aboard > 0).count();
    if kills.len() != plan.total() || aboard < plan.shards_aboard + plan.store {
        faults.push(format!("{} kills, {aboard} of them aboard: not what was planned", kills.len()));
    }
    let lost: usize = balance.lost.values().map(Vec::len).sum();
    if lost > 0 {
        faults.push(format!("{lost} answered messages are lost: {:?}", balance.lost));
    }
    faults.extend(balance.broken.iter().cloned());
    faults.extend(witness.refusals().into_iter().map(|what| format!("a bystander was refused: {what}")));
}

/// What is in a shard before it is killed.
struct Stock {
    topic: String,
    /// Acked while the shard is killed.
    to_ack: Held,
    /// Held over the kill, and acked at the end with the old receipt.
    kept: Held,
}

struct Drill {
    house: Arc<House>,
    ledger: Arc<Ledger>,
    numbers: Arc<Numbers>,
}

/// A child that may be killed.
enum Victim<'s> {
    Shard(&'s Stock, bool),
    Verifier(usize, bool),
    Store,
    Passport,
}

impl Drill {
    /// Puts messages into every shard that will be killed, and takes two of them out.
    async fn stock(&self, shards: usize) -> Result<Vec<Stock>> {
        let mut client = self.house.mailbox();
        let mut stock = Vec::with_capacity(shards);
        for n in 0..shards {
            let topic = format!("shard-{n:02}");
            for _ in 0..4 {
                load::send(&mut client, &self.ledger, &topic, self.numbers.next()).await?;
            }
            let (mut held, _) = load::recv(&mut client, &self.ledger, &topic, 2, LONG_LEASE_MS).await?;
            let (Some(kept), Some(to_ack)) = (held.pop(), held.pop()) else {
                bail!("{topic} did not hand out what it has");
            };
            stock.push(Stock { topic, to_ack, kept });
        }
        Ok(stock)
    }

    async fn kill_all(
        &self,
        plan: &Plan,
        stock: &[Stock],
        witness: &Witness,
        tell: &mut impl FnMut(&Kill),
    ) -> Result<Vec<Kill>> {
        let shards = stock.iter().enumerate().map(|(n, stock)| Victim::Shard(stock, n < plan.shards_aboard));
        let verifiers = (0..plan.verifiers()).map(|n| Victim::Verifier(n + 2, n < plan.verifiers_busy));
        let (mut shards, mut verifiers) = (shards.fuse(), verifiers.fuse());
        let mut kills = Vec::with_capacity(plan.total());
        let mut calm_at = Instant::now();
        for n in 0..plan.store {
            // the others are spread over the time between two kills of the store
            let share = |all: usize| all * (n + 1) / plan.store - all * n / plan.store;
            let mut others = Vec::new();
            for _ in 0..share(plan.verifiers()).max(share(plan.shards())) {
                others.extend(shards.next());
                others.extend(verifiers.next());
            }
            sleep_until(calm_at).await;
            calm_at = Instant::now() + CALM;
            witness.store_down.store(true, Ordering::SeqCst);
            let mut needed_by_all = vec![self.kill(&Victim::Store).await?];
            if n == 0 && plan.passport {
                needed_by_all.push(self.kill(&Victim::Passport).await?);
            }
            witness.store_down.store(false, Ordering::SeqCst);
            needed_by_all.iter().for_each(&mut *tell);
            kills.extend(needed_by_all);
            for victim in others {
                let kill = self.kill(&victim).await?;
                tell(&kill);
                kills.push(kill);
            }
        }
        for victim in shards.chain(verifiers) {
            let kill = self.kill(&victim).await?;
            tell(&kill);
            kills.push(kill);
        }
        Ok(kills)
    }

    async fn kill(&self, victim: &Victim<'_>) -> Result<Kill> {
        match victim {
            Victim::Shard(stock, aboard) => self.kill_shard(stock, *aboard).await,
            Victim::Verifier(sender, busy) => self.kill_verifier(*sender, *busy).await,
            Victim::Store => self.kill_store().await,
            Victim::Passport => self.kill_passport().await,
        }
    }

    /// Waits until `count` requests are in the hands of `topic`'s shard and a sync is held up.
    async fn aboard(&self, topic: &str, count: usize) -> Result<usize> {
        let tenant = Tenant::parse(super::house::TENANT).map_err(|bad| anyhow!("{bad}"))?;
        let key = QueueKey { tenant, topic: Topic::parse(topic).map_err(|bad| anyhow!("{bad}"))? };
        let directory = self.house.node.mailbox().directory();
        until(&format!("{count} requests aboard {topic}"), WITHIN, || async {
            let under_way = directory.get(&key).map_or(0, |entry| entry.under_way());
            (under_way >= count && self.house.gate.waiting() > 0).then_some(under_way)
        })
        .await
    }

    async fn kill_shard(&self, stock: &Stock, aboard: bool) -> Result<Kill> {
        let Stock { topic, to_ack, .. } = stock;
        let mut under_way = Vec::new();
        let mut count = 0;
        if aboard {
            self.house.gate.hold();
            for _ in 0..SENDS_ABOARD {
                under_way.push(self.spawn_send(topic));
            }
            let (mut client, ledger) = (self.house.mailbox(), self.ledger.clone());
            let (topic, held) = (topic.clone(), to_ack.clone());
            under_way
                .push(tokio::spawn(async move { load::ack(&mut client, &ledger, &topic, &[held]).await }));
            count = self.aboard(&stock.topic, SENDS_ABOARD + 1).await?;
        }
        let child = format!("shard:{}/{topic}", super::house::TENANT);
        let at = self.strike(&self.house.node.tree().shards, &child).await?;
        let probe = self.send(topic).await?;
        let refused = refusals(under_way).await?;
        if !aboard {
            let mut client = self.house.mailbox();
            load::ack(&mut client, &self.ledger, topic, std::slice::from_ref(to_ack)).await?;
        }
        Ok(Kill { child, aboard: count, back_ms: ms(at, probe.at), refused })
    }

    async fn kill_store(&self) -> Result<Kill> {
        let topics: Vec<String> = (0..BYSTANDERS).map(|n| format!("store-{n}")).collect();
        for topic in &topics {
            self.send(topic).await?;
        }
        self.house.gate.hold();
        let mut under_way = Vec::new();
        for topic in &topics {
            for _ in 0..SENDS_ABOARD {
                under_way.push(self.spawn_send(topic));
            }
        }
        let mut count = 0;
        for topic in &topics {
            count += self.aboard(topic, SENDS_ABOARD).await?;
        }
        let at = self.strike(&self.house.node.tree().root, "store").await?;
        let probe = self.send("store-probe").await?;
        let refused = refusals(under_way).await?;
        Ok(Kill { child: "store".into(), aboard: count, back_ms: ms(at, probe.at), refused })
    }

    /// A verifier hands on what it has judged, so a webhook that waits for its commit is not aboard it; it must
    /// not notice.
    async fn kill_verifier(&self, sender: usize, busy: bool) -> Result<Kill> {
        let name = self.house.senders[sender].name.clone();
        let mut under_way = Vec::new();
        if busy {
            self.house.gate.hold();
            for _ in 0..2 {
                let (house, ledger, n) = (self.house.clone(), self.ledger.clone(), self.numbers.next());
                let post = async move { load::webhook(&house, &ledger, sender, n).await };
                under_way.push(tokio::spawn(post));
            }
            self.aboard(&name, 2).await?;
        }
        let child = format!("verifier:{name}");
        let at = self.strike(self.house.node.verifiers(), &child).await?;
        let probe = load::webhook(&self.house, &self.ledger, sender, self.numbers.next()).await?;
        let refused = refusals(under_way).await?;
        if !refused.is_empty() {
            self.ledger.broken(format!("{child}: webhooks that it had judged were refused: {refused:?}"));
        }
        Ok(Kill { child, aboard: 0, back_ms: ms(at, probe.at), refused })
    }

    /// Whatever is not remembered has to be checked, and so every webhook: it is back when one is taken.
    async fn kill_passport(&self) -> Result<Kill> {
        let at = self.strike(&self.house.node.tree().root, "passport").await?;
        let probe = load::webhook(&self.house, &self.ledger, 0, self.numbers.next()).await?;
        let refused = probe.refused.into_iter().fold(BTreeMap::new(), |mut counted, what| {
            *counted.entry(what).or_default() += 1;
            counted
        });
        Ok(Kill { child: "passport".into(), aboard: 0, back_ms: ms(at, probe.at), refused })
    }

    /// Kills a child, and lets syncs go on once it is dead. Returns when that began.
    async fn strike(&self, supervisor: &SupervisorRef, child: &str) -> Result<Instant> {
        let crashes = async || {
            let children = supervisor.children().await;
            children.iter().find(|info| &*info.name == child).map(|info| info.crashes)
        };
        let before = crashes().await.with_context(|| format!("no child {child}"))?;
        let at = Instant::now();
        if !supervisor.kill_child(child).await {
            bail!("{child} was not there to be killed");
        }
        // the supervisor knows: whatever answers from now on is not the one that was killed
        let what = format!("the death of {child}");
        let dead = until(&what, WITHIN, || async { crashes().await.filter(|now| *now > before) }).await;
        self.house.gate.release();
        dead.map(|_| at)
    }

    async fn send(&self, topic: &str) -> Result<Done> {
        load::send(&mut self.house.mailbox(), &self.ledger, topic, self.numbers.next()).await
    }

    fn spawn_send(&self, topic: &str) -> tokio::task::JoinHandle<Result<Done>> {
        let (mut client, ledger) = (self.house.mailbox(), self.ledger.clone());
        let (topic, n) = (topic.to_owned(), self.numbers.next());
        tokio::spawn(async move { load::send(&mut client, &ledger, &topic, n).await })
    }

    /// The leases from before the kills still hold.
    async fn settle_stock(&self, stock: &[Stock]) -> Result<()> {
        let mut client = self.house.mailbox();
        for Stock { topic, kept, .. } in stock {
            load::ack(&mut client, &self.ledger, topic, std::slice::from_ref(kept)).await?;
        }
        Ok(())
    }

    async fn drain_all(&self, shards: usize, senders: usize) -> Result<()> {
        let mut client = self.house.mailbox();
        let shards = (0..shards).map(|n| format!("shard-{n:02}"));
        let hooks = (0..senders).map(|n| format!("wh-{n:02}"));
        let own = (0..BYSTANDERS).flat_map(|n| [format!("by-{n}"), format!("store-{n}")]);
        for topic in shards.chain(hooks).chain(own).chain(["store-probe".into()]) {
            if client.get(&format!("/v1/{}/{topic}", super::house::TENANT)).await?.status == 404 {
                continue;
            }
            load::drain(&mut client, &self.ledger, &topic).await?;
        }
        Ok(())
    }
}

/// Waits for calls that were aboard, and counts how they were refused before they succeeded.
async fn refusals(calls: Vec<tokio::task::JoinHandle<Result<Done>>>) -> Result<BTreeMap<String, usize>> {
    let mut refused = BTreeMap::new();
    for call in calls {
        for what in call.await.context("a client panicked")??.refused {
            *refused.entry(what).or_default() += 1;
        }
    }
    Ok(refused)
}

fn ms(from: Instant, to: Instant) -> f64 {
    to.saturating_duration_since(from).as_secs_f64() * 1e3
}
