//! Egress over a real store in RAM, with a transport that answers what the test says: what becomes of messages.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use ron_actors::blocking::Blocking;
use ron_actors::entropy::SeededEntropy;
use ron_actors::interop::egress::{
    Attempted, Book, EgressObserver, Ended, Endpoint, EndpointParts, EndpointSpec, Outbound, Took, Transport,
};
use ron_actors::kernel::bus::BusLimits;
use ron_actors::kernel::child::{NoObserver, ServiceLabel};
use ron_actors::kernel::clock::SystemClock;
use ron_actors::kernel::supervisor::{SupervisorRef, tree};
use ron_actors::keyring_file::in_memory;
use ron_actors::mailbox::{Mailbox, MailboxConfig, MailboxObserver};
use ron_actors::passport::{KeyringPlace, Passport, PassportArgs, PassportLimits};
use ron_actors::policy::InForce;
use ron_actors::store::{RamMedium, StoreConfig, StoreObserver};
use ron_actors::tree::{Foundation, Tree, TreeArgs};
use ron_core::capability::Revoked;
use ron_core::egress::{
    BreakerRules, BreakerState, DisabledWhy, Failure, Outcome, Phase, Schedule, Signer, Signing,
};
use ron_core::ids::{ContentHash, Kid, QueueKey, Tenant, Topic};
use ron_core::limit::Rate;
use ron_core::message::{MessageMeta, NewMessage};
use ron_core::policy::Policy;
use ron_core::restart::RestartPolicy;
use ron_core::scheme::SchemeSpec;
use ron_core::shard::{PeekState, SettingsPatch, TopicChange};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{Notify, mpsc};

#[derive(Debug)]
struct Nobody;

impl MailboxObserver for Nobody {
    fn delivered(&self, _: f64) {}
    fn integrity_failed(&self) {}
    fn dead_lettered(&self, _: &QueueKey, _: u64) {}
    fn requeued(&self, _: &QueueKey, _: u64) {}
}

impl StoreObserver for Nobody {
    fn committed(&self, _: f64, _: usize) {}
    fn failed(&self) {}
}

/// Answers by a script, its last line again and again; tells what it was asked.
#[derive(Debug)]
struct Scripted {
    script: Mutex<VecDeque<Ended>>,
    asked: mpsc::UnboundedSender<Outbound>,
    /// With it, attempts wait until it is rung.
    held: Option<Arc<Notify>>,
}

fn status(status: u16) -> Ended {
    Ended::Answered { status, retry_after: None, cut: false }
}

impl Transport for Scripted {
    fn deliver(&self, request: Outbound) -> BoxFuture<'_, Attempted> {
        async move {
            let ended = {
                let mut script = self.script.lock().unwrap();
                if script.len() > 1 { script.pop_front() } else { script.front().cloned() }
            };
            self.asked.send(request).unwrap();
            if let Some(held) = &self.held {
                held.notified().await;
            }
            Attempted { ended: ended.unwrap(), peer: None, took: Took::default(), detail: None }
        }
        .boxed()
    }
}

#[derive(Debug, Default)]
struct Seen(Mutex<Vec<&'static str>>);

impl EgressObserver for Seen {
    fn attempted(&self, outcome: Outcome, _: f64) {
        self.0.lock().unwrap().push(outcome.label());
    }

    fn state(&self, _: BreakerState) {}
}

struct Bench {
    tree: Tree,
    interop: SupervisorRef,
    endpoint: Arc<Endpoint>,
    parts: EndpointParts,
    seen: Arc<Seen>,
    asked: mpsc::UnboundedReceiver<Outbound>,
    held: Option<Arc<Notify>>,
    book: Arc<Book>,
}

struct Wanted {
    rate: Option<Rate>,
    script: Vec<Ended>,
    schedule: Vec<u64>,
    breaker: BreakerRules,
    hold: bool,
}

impl Default for Wanted {
    fn default() -> Wanted {
        let breaker = BreakerRules { trip_after: 100, ..BreakerRules::default() };
        Wanted { rate: None, script: vec![status(200)], schedule: vec![20, 20], breaker, hold: false }
    }
}

fn queue() -> QueueKey {
    QueueKey { tenant: Tenant::parse("acme").unwrap(), topic: Topic::parse("orders").unwrap() }
}

fn spec(wanted: &Wanted) -> EndpointSpec {
    let scheme = include_str!("../../config/schemes/standard_webhooks.toml");
    let scheme = toml::from_str::<SchemeSpec>(scheme).unwrap().compile("standard_webhooks").unwrap();
    let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let secrets = [(Kid::parse("k1").unwrap(), secret, None)];
    EndpointSpec {
        name: "billing".into(),
        queue: queue(),
        signer: Signer::new(scheme, Signing::V1, &secrets).unwrap(),
        schedule: Schedule::new(wanted.schedule.clone()).unwrap(),
        terminal: vec![422],
        concurrency: 4,
        rate: wanted.rate,
        timeout: Duration::from_secs(2),
        breaker: wanted.breaker,
        config_version: "test".into(),
        default_attempts: 5,
    }
}

async fn start(wanted: Wanted) -> Bench {
    let args = TreeArgs {
        medium: Arc::new(RamMedium::default()),
        store: StoreConfig { blocking: Blocking::Pool, ..StoreConfig::default() },
        mailbox: MailboxConfig::default(),
        entropy: [7; 40],
        seed: 1,
        restarts: RestartPolicy::default(),
        bus: BusLimits::default(),
        store_observer: Arc::new(Nobody),
        kernel_observer: Arc::new(NoObserver),
    };
    let foundation =
        Foundation::lay(args, &|saved| Arc::new(SystemClock::starting_from(saved)) as _).unwrap();
    let (clock, bus) = (foundation.clock.clone(), foundation.bus.clone());
    let entropy = Arc::new(SeededEntropy::new(7));
    let passport = Passport::new(PassportArgs {
        keyring: in_memory(clock.wall(), entropy.as_ref()).unwrap(),
        keyring_place: KeyringPlace::Memory,
        revoked: Revoked::default(),
        revoked_file: None,
        clock: clock.clone(),
        entropy: entropy.clone(),
        bus: bus.clone(),
        limits: PassportLimits { ttl_max_ms: 86_400_000, cache_ttl_ms: 30_000 },
    })
    .unwrap();
    let (sender, asked) = mpsc::unbounded_channel();
    let held = wanted.hold.then(|| Arc::new(Notify::new()));
    let spec = spec(&wanted);
    let transport = Scripted { script: Mutex::new(wanted.script.into()), asked: sender, held: held.clone() };
    let (seen, book) = (Arc::new(Seen::default()), Arc::new(Book::load(None).unwrap()));
    let endpoint = Arc::new(Endpoint::new(spec, Arc::new(transport), seen.clone(), book.clone()));
    let (mut parts, mut interop) = (None, None);
    let tree = {
        let (endpoint, parts, interop) = (endpoint.clone(), &mut parts, &mut interop);
        let others = move |mailbox: &Mailbox, options: &ron_actors::kernel::supervisor::SupervisorOptions| {
            let passport_spec = passport.child_spec();
            let with = EndpointParts {
                mailbox: mailbox.clone(),
                passport,
                policy: InForce::default(),
                clock,
                entropy,
                bus,
            };
            *parts = Some(with.clone());
            let children = move || vec![endpoint.child_spec(&with)];
            let (spec, supervisor) = tree("interop", ServiceLabel::Interop, options.clone(), children);
            *interop = Some(supervisor);
            vec![passport_spec, spec]
        };
        foundation.raise(Arc::new(Nobody), others).await.unwrap()
    };
    let (parts, interop) = (parts.unwrap(), interop.unwrap());
    Bench { tree, interop, endpoint, parts, seen, asked, held, book }
}

impl Bench {
    async fn send(&self, payload: &'static str, attrs: &[(&str, &str)]) {
        let payload = Bytes::from_static(payload.as_bytes());
        let meta = MessageMeta {
            content_type: "application/json".into(),
            attrs: attrs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            corr_id: "corr-0001".into(),
            ..MessageMeta::default()
        };
        let payload_hash = ContentHash::of(&payload);
        let message = NewMessage { payload, payload_hash, meta, delay_ms: 0, ttl_ms: None, dedup: None };
        self.tree.mailbox.enqueue(&queue(), vec![message]).await.unwrap().pop().unwrap().unwrap();
    }

    /// ready, delayed, in flight, dead.
    async fn depths(&self) -> [u64; 4] {
        let stats = self.tree.mailbox.stat(&queue()).await.unwrap().stats;
        [stats.ready, stats.delayed, stats.vis, stats.dlq]
    }

    async fn settles_at(&self, depths: [u64; 4]) {
        let settled = async {
            while self.depths().await != depths {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        if tokio::time::timeout(Duration::from_secs(20), settled).await.is_err() {
            panic!("{:?} instead of {depths:?}; {:?}", self.depths().await, self.endpoint.status());
        }
    }

    async fn attempt(&mut self) -> Outbound {
        tokio::time::timeout(Duration::from_secs(20), self.asked.recv()).await.expect("an attempt").unwrap()
    }

    async fn dead(&self) -> (String, u32, Option<String>) {
        let page = self.tree.mailbox.peek(&queue(), PeekState::Dlq, 10, None).await.unwrap();
        let letter = page.messages[0].dead_letter.as_ref().unwrap();
        (letter.reason.clone(), letter.attempts, letter.last_error.clone())
    }
}

fn header<'o>(sent: &'o Outbound, name: &str) -> &'o str {
    &sent.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).unwrap().1
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_goes_out_once_as_it_came_in() {
    let mut bench = start(Wanted::default()).await;
    bench.send("{\"n\": 1}", &[("webhook-id", "evt-1")]).await;
    assert_eq!(bench.depths().await, [1, 0, 0, 0], "nothing goes out before the node is up");
    bench.endpoint.begin();
    let sent = bench.attempt().await;
    assert_eq!((&sent.body[..], header(&sent, "content-type")), (&b"{\"n\": 1}"[..], "application/json"));
    assert_eq!(header(&sent, "webhook-id"), "evt-1");
    assert!(header(&sent, "webhook-signature").starts_with("v1,"));
    bench.settles_at([0, 0, 0, 0]).await;
    assert_eq!(*bench.seen.0.lock().unwrap(), ["delivered"]);
    let status = bench.endpoint.status();
    assert_eq!((status.attempts, status.delivered), (1, 1));
    let landed = async {
        while bench.endpoint.status().under_way > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), landed).await.expect("nothing is under way any more");
    bench.endpoint.drain();
    bench.send("{}", &[]).await;
    let taken = tokio::time::timeout(Duration::from_millis(100), bench.asked.recv()).await;
    assert!(taken.is_err(), "a draining node takes nothing");
    assert_eq!(bench.depths().await, [1, 0, 0, 0], "it stays with its queue");
    bench.tree.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fails_is_tried_by_the_schedule_with_the_same_id_and_then_it_is_dead() {
    let down = Ended::Failed(Failure::Broken(Phase::Tcp));
    let mut bench = start(Wanted { script: vec![status(500), down, status(503)], ..Wanted::default() }).await;
    bench.endpoint.begin();
    bench.send("{}", &[]).await;
    let (first, second, third) = (bench.attempt().await, bench.attempt().await, bench.attempt().await);
    assert_eq!(header(&first, "webhook-id").len(), 26);
    assert_eq!(header(&first, "webhook-id"), header(&second, "webhook-id"));
    assert_eq!(header(&first, "webhook-id"), header(&third, "webhook-id"));
    bench.settles_at([0, 0, 0, 1]).await;
    // the topic would allow five attempts; what is kept is the error before the last
    let last_error = Some("tcp failed".to_owned());
    assert_eq!(bench.dead().await, ("egress_exhausted".to_owned(), 3, last_error));
    assert_eq!(*bench.seen.0.lock().unwrap(), ["status_5xx", "tcp", "status_5xx"]);
    bench.tree.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_gets_the_attempts_of_the_schedule_unless_an_operator_set_them() {
    let long = || Wanted { script: vec![status(500)], schedule: vec![5; 6], ..Wanted::default() };
    let bench = start(long()).await;
    bench.endpoint.begin();
    bench.send("{}", &[]).await;
    bench.settles_at([0, 0, 0, 1]).await;
    let settings = bench.tree.mailbox.stat(&queue()).await.unwrap().settings;
    assert_eq!((settings.max_attempts, settings.max_deliveries), (7, 70));
    let (reason, attempts, last_error) = bench.dead().await;
    assert_eq!((reason.as_str(), attempts, last_error.as_deref()), ("max_attempts", 7, Some("status 500")));
    bench.tree.stop().await;

    let bench = start(long()).await;
    let two = SettingsPatch { max_attempts: Some(2), ..SettingsPatch::default() };
    bench.tree.mailbox.configure(&queue(), TopicChange::Settings(two)).await.unwrap();
    bench.endpoint.begin();
    bench.send("{}", &[]).await;
    bench.settles_at([0, 0, 0, 1]).await;
    assert_eq!(bench.dead().await.1, 2);
    assert_eq!(bench.tree.mailbox.stat(&queue()).await.unwrap().settings.max_attempts, 2);
    bench.tree.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gone_disables_and_the_message_stays_until_an_operator_enables() {
    let mut bench = start(Wanted { script: vec![status(410), status(200)], ..Wanted::default() }).await;
    bench.endpoint.begin();
    bench.send("{}", &[]).await;
    bench.attempt().await;
    bench.settles_at([1, 0, 0, 0]).await;
    assert_eq!(bench.endpoint.status().state, BreakerState::Disabled(DisabledWhy::Gone));
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(bench.asked.try_recv().is_err(), "nothing more goes there");
    assert!(bench.endpoint.enable(&bench.parts).unwrap());
    bench.attempt().await;
    bench.settles_at([0, 0, 0, 0]).await;
    assert!(bench.endpoint.disable(&bench.parts).unwrap());
    assert!(!bench.endpoint.disable(&bench.parts).unwrap());
    bench.send("{}", &[]).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(bench.depths().await, [1, 0, 0, 0]);
    bench.tree.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_final_status_is_not_tried_again() {
    let bench = start(Wanted { script: vec![status(422)], ..Wanted::default() }).await;
    bench.endpoint.begin();
    bench.send("{}", &[]).await;
    bench.settles_at([0, 0, 0, 1]).await;
    assert_eq!(bench.dead().await, ("egress_status_422".to_owned(), 1, None));
    assert_eq!(bench.endpoint.status().state, BreakerState::Closed);
    bench.tree.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_breaker_costs_no_attempts_and_a_probe_closes_it() {
    let breaker =
        BreakerRules { trip_after: 2, pause_ms: 400, pause_ms_max: 400, disable_after_ms: u64::MAX };
    let script = vec![status(500), status(500), status(200)];
    let wanted = Wanted { script, schedule: vec![5; 10], breaker, ..Wanted::default() };
    let mut bench = start(wanted).await;
    bench.endpoint.begin();
    bench.send("{\"n\":1}", &[]).await;
    bench.attempt().await;
    bench.attempt().await;
    // it opens with the second failure; what comes now stays where it is
    bench.settles_at([1, 0, 0, 0]).await;
    assert_eq!(bench.endpoint.status().state, BreakerState::Open);
    for _ in 0..9 {
        bench.send("{}", &[]).await;
    }
    assert!(bench.asked.try_recv().is_err());
    bench.attempt().await;
    bench.settles_at([0, 0, 0, 0]).await;
    assert_eq!(bench.endpoint.status().state, BreakerState::Closed);
    let status = bench.endpoint.status();
    assert_eq!((status.attempts, status.delivered), (12, 10), "two failures, and each message once");
    bench.tree.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_egress_comes_back_and_the_message_with_it() {
    let mut bench = start(Wanted { hold: true, ..Wanted::default() }).await;
    bench.endpoint.begin();
    bench.send("{}", &[]).await;
    let first = bench.attempt().await;
    assert_eq!(bench.depths().await, [0, 0, 1, 0]);
    assert!(bench.interop.kill_child("egress:billing").await);
    // its lease is given up with it only when it ends, so another message shows that it is back
    bench.send("{\"n\":2}", &[]).await;
    let second = bench.attempt().await;
    assert_eq!(bench.endpoint.status().under_way, 1, "what the killed one had under way is not");
    assert_ne!(header(&first, "webhook-id"), header(&second, "webhook-id"));
    assert_eq!(&second.body[..], b"{\"n\":2}");
    bench.held.as_ref().unwrap().notify_one();
    bench.settles_at([0, 0, 1, 0]).await;
    assert_eq!(bench.endpoint.status().delivered, 1);
    bench.tree.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slots_bound_what_is_under_way() {
    let mut bench = start(Wanted { hold: true, ..Wanted::default() }).await;
    bench.endpoint.begin();
    for _ in 0..7 {
        bench.send("{}", &[]).await;
    }
    for _ in 0..4 {
        bench.attempt().await;
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(bench.asked.try_recv().is_err(), "four slots");
    assert_eq!(bench.depths().await, [3, 0, 4, 0], "what has no slot is not leased");
    for _ in 0..7 {
        bench.held.as_ref().unwrap().notify_one();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    bench.settles_at([0, 0, 0, 0]).await;
    bench.tree.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rate_bounds_attempts_and_leases_nothing_ahead_of_it() {
    let rate = Some(Rate { per_second: 10, burst: 2 });
    let mut bench = start(Wanted { rate, ..Wanted::default() }).await;
    for _ in 0..6 {
        bench.send("{}", &[]).await;
    }
    let began = bench.parts.clock.now();
    bench.endpoint.begin();
    bench.attempt().await;
    bench.attempt().await;
    let [ready, _, vis, _] = bench.depths().await;
    assert!(ready >= 3 && vis <= 3, "{ready} {vis}");
    for _ in 0..4 {
        bench.attempt().await;
    }
    let took = bench.parts.clock.now().since(began);
    assert!(took >= 390, "four more at ten a second, in {took} ms");
    bench.settles_at([0, 0, 0, 0]).await;
    bench.tree.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_policy_denies_is_not_taken_until_it_allows() {
    let mut bench = start(Wanted::default()).await;
    let policy = |text: &str| Policy::parse(text).unwrap();
    let acks =
        "version = 1\ndefault = \"allow\"\n[[rule]]\nop = [\"ack\"]\naction = \"deny\"\nreason = \"no\"\n";
    bench.parts.policy.replace(policy(acks), "one".into());
    bench.send("{}", &[]).await;
    bench.endpoint.begin();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(bench.asked.try_recv().is_err(), "what could not be acked is not sent");
    assert_eq!(bench.depths().await, [1, 0, 0, 0]);
    bench.parts.policy.replace(policy("version = 1\ndefault = \"allow\"\n"), "two".into());
    bench.attempt().await;
    bench.settles_at([0, 0, 0, 0]).await;
    bench.tree.stop().await;
}

/// The file says what the breaker is when it is written: an attempt that ended before does not overrule an operator.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operators_word_is_kept_whatever_ends_meanwhile() {
    let breaker = BreakerRules { trip_after: 1, pause_ms: 1, pause_ms_max: 1, disable_after_ms: u64::MAX };
    let wanted = Wanted { script: vec![status(500)], schedule: vec![1; 19], breaker, ..Wanted::default() };
    let bench = start(wanted).await;
    bench.endpoint.begin();
    for _ in 0..50 {
        bench.send("{}", &[]).await;
    }
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        bench.endpoint.disable(&bench.parts).unwrap();
        tokio::time::sleep(Duration::from_millis(10)).await;
        let disabled = bench.book.of("billing").disabled.map(|(why, _)| why);
        assert_eq!(disabled, Some(DisabledWhy::Operator));
        bench.endpoint.enable(&bench.parts).unwrap();
    }
    bench.tree.stop().await;
}
