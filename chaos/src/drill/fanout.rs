//! A node that is killed again and again while messages are copied to subscribers, while the list of subscribers
//! changes, the source's messages are acked, purged or go with their topic, and some subscribers are full or
//! paused. At the end each subscriber must have had each message of its time once, and no record may be left
//! behind.
//!
//! The node runs in this process, on a real file. It is killed between two commits, which the store's observer
//! holds up: nothing that runs outlives that. What a kill inside a commit leaves is the crash images' business.

use super::tap::Tap;
use anyhow::{Context, Result, anyhow};
use bytes::Bytes;
use ron_actors::kernel::bus::BusLimits;
use ron_actors::kernel::child::NoObserver;
use ron_actors::kernel::clock::SystemClock;
use ron_actors::mailbox::{Mailbox, MailboxConfig, Settle};
use ron_actors::store::{EngineCell, FileMedium, StoreConfig, StoreError, offline};
use ron_actors::tree::{Foundation, Tree, TreeArgs};
use ron_core::envelope::Envelope;
use ron_core::fanout::{Addition, Edit, Filter};
use ron_core::ids::{ContentHash, QueueKey, Tenant, Topic};
use ron_core::message::{MessageMeta, NewMessage};
use ron_core::restart::RestartPolicy;
use ron_core::shard::{Paused, SettingsPatch, TopicChange, Want};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::time::timeout;

/// How large a drill is.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Topics that subscribe, at one time or another.
    pub subscribers: usize,
    /// Kills of the whole node.
    pub kills: usize,
    /// What differs from run to run.
    pub seed: u64,
}

/// What the drill found.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// Kills of the whole node.
    pub kills: usize,
    /// Of those, with some but not all subscribers committed, full and paused ones not counted.
    pub inside: usize,
    /// Of those inside, with a change of the list that came after the message.
    pub edited: usize,
    /// Kills of the actor that brings copies, and of the store's.
    pub actors: usize,
    /// Messages that were sent.
    pub sent: usize,
    /// Copies that came out.
    pub copies: usize,
    /// Everything that must not be. Empty = the drill passed.
    pub faults: Vec<String>,
}

const ANSWERED_WITHIN: Duration = Duration::from_secs(10);
/// Looks, a millisecond each, until what a killed node left running has ended.
const LETS_GO_MS: u32 = 20_000;
const INSIDE_WITHIN: Duration = Duration::from_secs(1);
/// Most messages sent for one kill.
const MESSAGES_MAX: usize = 20;
const DRAINED_WITHIN: Duration = Duration::from_secs(120);
const ALL: Want = Want { max_messages: 256, max_bytes: 16 << 20, visibility_ms: Some(60_000) };

type List = BTreeSet<usize>;

/// What one subscriber got: by body, under which ids.
type Got = BTreeMap<String, BTreeSet<String>>;

struct Drill {
    plan: Plan,
    random: u64,
    list: List,
    /// Of those on it, who had got all before this life's messages were sent.
    watched: List,
    /// The list if the change that was under way at the kill took place.
    changed: Option<List>,
    /// Each body, and the lists of which one must have got it.
    sent: BTreeMap<String, Vec<List>>,
    report: Report,
}

/// Runs the drill on a store in `dir`. Blocks.
///
/// # Errors
/// If the node does not start or answer as it should in between; what it loses is in the report.
pub fn run(dir: &Path, plan: Plan) -> Result<Report> {
    let path = dir.join("store.redb");
    let (list, sent) = (List::new(), BTreeMap::new());
    let mut drill = Drill {
        plan,
        random: plan.seed | 1,
        list,
        watched: List::new(),
        changed: None,
        sent,
        report: Report::default(),
    };
    for n in 0..plan.kills {
        drill.live(&path, Some(n)).with_context(|| format!("life {n}"))?;
    }
    drill.live(&path, None).context("the last life")?;
    let findings = offline::check(&path).map_err(|error| anyhow!("{error}"))?;
    drill.report.faults.extend(findings.named.iter().map(ToString::to_string));
    Ok(drill.report)
}

fn queue(topic: &str) -> Result<QueueKey> {
    let name = |bad: ron_core::ids::BadName| anyhow!("{bad}");
    Ok(QueueKey { tenant: Tenant::parse("drill").map_err(name)?, topic: Topic::parse(topic).map_err(name)? })
}

fn subscriber(n: usize) -> Result<QueueKey> {
    queue(&format!("sub-{n:03}"))
}

/// Full or paused until the last life.
fn is_slow(n: usize) -> bool {
    n % 10 < 2
}

fn message(body: &str) -> NewMessage {
    let payload = Bytes::from(body.to_owned());
    let meta =
        MessageMeta { content_type: "text/plain".into(), corr_id: "drill-0001".into(), ..Default::default() };
    let payload_hash = ContentHash::of(&payload);
    NewMessage { payload, payload_hash, meta, delay_ms: 0, ttl_ms: None, dedup: None }
}

fn edit_of(from: &List, to: &List) -> Result<Edit> {
    let mut edit = Edit::default();
    for n in to.difference(from) {
        edit.add.push(Addition { topic: subscriber(*n)?.topic, filter: Filter::default() });
    }
    for n in from.difference(to) {
        edit.remove.push(subscriber(*n)?.topic);
    }
    Ok(edit)
}

impl Drill {
    fn dice(&mut self, below: usize) -> usize {
        self.random =
            self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) as usize % below.max(1)
    }

    /// One life; the `n`th kill ends it, or, without, everything is drained and compared.
    fn live(&mut self, path: &Path, n: Option<usize>) -> Result<()> {
        let runtime = Runtime::new()?;
        let tap = Arc::new(Tap::default());
        let foundation = lay(path, &tap)?;
        let cell = foundation.cell.clone();
        self.look_back(&cell)?;
        let tree = runtime.block_on(foundation.raise(tap.clone(), |_, _| Vec::new()))?;
        match n {
            Some(n) => runtime.block_on(self.work(&tree, &tap, n))?,
            None => {
                runtime.block_on(self.drain(&tree))?;
                runtime.block_on(tree.stop());
                return Ok(());
            }
        }
        self.report.kills += 1;
        runtime.shutdown_background();
        tap.kill();
        drop(tree);
        // Its threads end at their next breath.
        for _ in 0..LETS_GO_MS {
            if Arc::strong_count(&cell) == 1 {
                return Ok(());
            }
            std::thread::park_timeout(Duration::from_millis(1));
        }
        Err(anyhow!("something of a killed node lives on"))
    }

    /// What the kill before this life left: whether it was inside.
    fn look_back(&mut self, cell: &EngineCell) -> Result<()> {
        let lags = cell.reader().fans().lags();
        let news = queue("news")?;
        // A change that was under way is in force, or it is not.
        let on = |n: &usize| -> Result<bool> {
            let name = subscriber(*n)?.topic;
            Ok(cell.reader().fans().is_on(&news, &name))
        };
        let mut now = List::new();
        for n in 0..self.plan.subscribers {
            if on(&n)? {
                now.insert(n);
            }
        }
        let changed = self.changed.take();
        if now != self.list && changed.as_ref() != Some(&now) {
            let text =
                format!("the list is neither what it was nor what it was to be: {now:?}, {:?}", self.list);
            self.report.faults.push(text);
        }
        // They had got the same when the last life's messages were sent: where they differ now, it was inside.
        let mut behind = BTreeSet::new();
        for n in std::mem::take(&mut self.watched).intersection(&now) {
            behind.insert(lags.get(&subscriber(*n)?).copied().unwrap_or(0));
        }
        let inside = behind.len() > 1;
        self.report.inside += usize::from(inside);
        self.report.edited += usize::from(inside && changed.as_ref() == Some(&now));
        self.list = now;
        Ok(())
    }

    async fn work(&mut self, tree: &Tree, tap: &Arc<Tap>, n: usize) -> Result<()> {
        let (mailbox, news) = (&tree.mailbox, queue("news")?);
        if n == 0 {
            self.begin(mailbox, &news).await?;
        }
        self.wait_for_prompt(tree).await?;
        for i in 0..3 {
            self.send(mailbox, &news, &format!("m-{n}-{i}")).await?;
        }
        // The source lets go of its messages, in one way or another, before all have them.
        match n % 4 {
            0 => take_all(mailbox, &news, &mut Got::new()).await?,
            1 => drop(answered(mailbox.purge(&news)).await?),
            2 if n % 8 == 2 => {
                answered(mailbox.delete(&news)).await?;
                let edit = edit_of(&List::new(), &self.list)?;
                answered(mailbox.subscribe(&news, edit)).await?;
            }
            _ => {}
        }
        if n % 3 == 1 {
            self.report.actors += usize::from(tree.shards.kill_child("fanout").await);
        }
        if n % 5 == 2 {
            self.report.actors += usize::from(tree.root.kill_child("store").await);
        }
        let mut to = self.list.clone();
        for _ in 0..1 + self.plan.subscribers / 10 {
            let one = self.dice(self.plan.subscribers);
            if !to.remove(&one) {
                to.insert(one);
            }
        }
        // One after the other, and the change among them, until some have what others have not.
        let bodies: Vec<String> = (0..MESSAGES_MAX).map(|i| format!("u-{n}-{i}")).collect();
        tap.arm(self.is_inside(tree, &to, n.is_multiple_of(2))?);
        let change = edit_of(&self.list, &to)?;
        let (sender, editor) = (mailbox.clone(), mailbox.clone());
        let (to_send, to_edit) = (news.clone(), news);
        let under_way = !change.add.is_empty() || !change.remove.is_empty();
        let messages: Vec<NewMessage> = bodies.iter().map(|body| message(body)).collect();
        let sending = tokio::spawn(async move {
            let edited = async {
                if under_way {
                    let _ = editor.subscribe(&to_edit, change).await;
                }
            };
            let sent = async {
                for message in messages {
                    let _ = sender.enqueue(&to_send, vec![message]).await;
                }
            };
            tokio::join!(sent, edited)
        });
        tap.reached(INSIDE_WITHIN).await;
        sending.abort();
        // Nobody knows whether they were sent, and before which of the two lists.
        self.report.sent += bodies.len();
        let lists = vec![List::new(), self.list.clone(), to.clone()];
        self.sent.extend(bodies.into_iter().map(|body| (body, lists.clone())));
        self.changed = Some(to);
        Ok(())
    }

    /// Waits until everybody on the list who is neither full nor paused has got all.
    async fn wait_for_prompt(&mut self, tree: &Tree) -> Result<()> {
        self.watched = self.list.iter().copied().filter(|n| !is_slow(*n)).collect();
        let names = self.watched.iter().map(|n| subscriber(*n)).collect::<Result<Vec<_>>>()?;
        let reader = tree.store.reader().clone();
        let caught_up = async {
            while names.iter().any(|name| reader.fans().lags().contains_key(name)) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        timeout(DRAINED_WITHIN, caught_up).await.context("subscribers do not catch up")
    }

    /// Says whether some have got what others have not; with `edited`, when the change of the list is in force, too.
    fn is_inside(&self, tree: &Tree, to: &List, edited: bool) -> Result<impl Fn() -> bool + Send + 'static> {
        let reader = tree.store.reader().clone();
        // A change is there once somebody is on the list who was not, or the other way round.
        let sign = to.symmetric_difference(&self.list).next().copied();
        let sign = sign.map(|n| subscriber(n).map(|queue| (queue.topic, to.contains(&n)))).transpose()?;
        let names: Vec<QueueKey> =
            self.watched.intersection(to).map(|n| subscriber(*n)).collect::<Result<_>>()?;
        let news = queue("news")?;
        Ok(move || {
            let changed = |(topic, on): &(Topic, bool)| reader.fans().is_on(&news, topic) == *on;
            if edited && !sign.as_ref().is_none_or(changed) {
                return false;
            }
            let lags = reader.fans().lags();
            let behind: BTreeSet<u64> =
                names.iter().map(|name| lags.get(name).copied().unwrap_or(0)).collect();
            behind.len() > 1
        })
    }

    async fn begin(&mut self, mailbox: &Mailbox, news: &QueueKey) -> Result<()> {
        for n in 0..self.plan.subscribers {
            let change = match n % 10 {
                0 => TopicChange::Settings(SettingsPatch { max_depth: Some(2), ..SettingsPatch::default() }),
                _ => TopicChange::Settings(SettingsPatch::default()),
            };
            answered(mailbox.configure(&subscriber(n)?, change)).await?;
            if n % 10 == 1 {
                let what = Paused { recv: false, enqueue: true };
                answered(mailbox.configure(&subscriber(n)?, TopicChange::Pause { what, paused: true }))
                    .await?;
            }
        }
        let list: List = (0..self.plan.subscribers).filter(|n| n % 3 != 2).collect();
        answered(mailbox.subscribe(news, edit_of(&List::new(), &list)?)).await?;
        self.list = list;
        Ok(())
    }

    /// Sends; without an answer it may have been sent or not.
    async fn send(&mut self, mailbox: &Mailbox, news: &QueueKey, body: &str) -> Result<()> {
        let sent = timeout(ANSWERED_WITHIN, mailbox.enqueue(news, vec![message(body)])).await?;
        let lists = match sent {
            Ok(_) => vec![self.list.clone()],
            Err(_) => vec![List::new(), self.list.clone()],
        };
        self.sent.insert(body.to_owned(), lists);
        self.report.sent += 1;
        Ok(())
    }

    /// Lets everybody catch up, takes everything out, and compares.
    async fn drain(&mut self, tree: &Tree) -> Result<()> {
        let mailbox = &tree.mailbox;
        let mut got: Vec<Got> = Vec::new();
        for n in 0..self.plan.subscribers {
            got.push(Got::new());
            let what = Paused { recv: false, enqueue: true };
            if n % 10 == 0 {
                // They have gone on in steps of two until now.
                let room = SettingsPatch { max_depth: Some(100_000), ..SettingsPatch::default() };
                answered(mailbox.configure(&subscriber(n)?, TopicChange::Settings(room))).await?;
            }
            if n % 10 == 1 {
                answered(mailbox.configure(&subscriber(n)?, TopicChange::Pause { what, paused: false }))
                    .await?;
            }
        }
        let reader = tree.store.reader().clone();
        let drained = async {
            loop {
                let behind = !reader.fans().lags().is_empty();
                for (n, got) in got.iter_mut().enumerate() {
                    take_all(mailbox, &subscriber(n)?, got).await?;
                }
                take_all(mailbox, &queue("news")?, &mut Got::new()).await?;
                if !behind {
                    return anyhow::Ok(());
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(DRAINED_WITHIN, drained).await.context("subscribers do not catch up")??;
        self.judge(&got);
        let empty = async {
            while tree.store.ask(|engine| engine.figures().chunks).await != Ok(0) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        if timeout(DRAINED_WITHIN, empty).await.is_err() {
            self.report.faults.push("records are left that nobody needs".to_owned());
        }
        Ok(())
    }

    fn judge(&mut self, got: &[Got]) {
        let mut who: BTreeMap<&str, List> = BTreeMap::new();
        for (n, got) in got.iter().enumerate() {
            for (body, ids) in got {
                self.report.copies += ids.len();
                if ids.len() > 1 {
                    self.report.faults.push(format!("sub-{n:03} got {body} {} times", ids.len()));
                }
                who.entry(body.as_str()).or_default().insert(n);
            }
        }
        for (body, lists) in &self.sent {
            let got = who.remove(body.as_str()).unwrap_or_default();
            if !lists.contains(&got) {
                let nearest = lists.last().cloned().unwrap_or_default();
                let missed: Vec<&usize> = nearest.difference(&got).collect();
                let more: Vec<&usize> = got.difference(&nearest).collect();
                self.report
                    .faults
                    .push(format!("{body}: missed by {missed:?}, and {more:?} got it all the same"));
            }
        }
        self.report.faults.extend(who.keys().map(|body| format!("{body} was never sent")));
    }
}

/// Opens the store, once the last thread of the life before has let go of it.
fn lay(path: &Path, tap: &Arc<Tap>) -> Result<Foundation> {
    for _ in 0..LETS_GO_MS {
        let args = TreeArgs {
            medium: Arc::new(FileMedium::new(path, 0)),
            store: StoreConfig::default(),
            mailbox: MailboxConfig::default(),
            entropy: [9; 40],
            seed: 1,
            restarts: RestartPolicy::default(),
            bus: BusLimits::default(),
            store_observer: tap.clone(),
            kernel_observer: Arc::new(NoObserver),
        };
        let clock_from = |saved| Arc::new(SystemClock::starting_from(saved)) as _;
        match Foundation::lay(args, &clock_from) {
            Err(StoreError::Locked) => std::thread::park_timeout(Duration::from_millis(1)),
            laid => return laid.map_err(|error| anyhow!("{error}")),
        }
    }
    Err(anyhow!("a killed node keeps its store open"))
}

async fn answered<T>(call: impl Future<Output = Result<T, ron_core::reason::Refusal>>) -> Result<T> {
    timeout(ANSWERED_WITHIN, call).await?.map_err(|refusal| anyhow!("{refusal}"))
}

/// Receives and acks until nothing is ready.
async fn take_all(mailbox: &Mailbox, queue: &QueueKey, got: &mut Got) -> Result<()> {
    loop {
        let delivery = answered(mailbox.recv(queue, ALL, Duration::ZERO)).await?;
        let mut receipts = Vec::new();
        for message in delivery.messages.iter().map(Envelope::from) {
            let body = message.payload.clone().unwrap_or_default();
            got.entry(body).or_default().insert(message.msg_id.clone());
            receipts.extend(message.receipt.clone());
        }
        delivery.written();
        if receipts.is_empty() {
            return Ok(());
        }
        answered(mailbox.settle(queue, Settle::Ack, receipts)).await?;
    }
}
