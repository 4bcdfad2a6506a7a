//! An endpoint as the rest of the node sees it: its settings, its breaker, and what happened last. Outlives its actor.

use super::actor::{Egress, EgressMsg};
use super::book::Book;
use super::carrier::Carrier;
use super::{Attempted, EgressObserver, Transport};
use crate::entropy::Entropy;
use crate::kernel::bus::Bus;
use crate::kernel::child::{ChildKind, ChildSpec, ServiceLabel};
use crate::kernel::event::Event;
use crate::kernel::handle::{Handle, HandlePublisher};
use crate::mailbox::Mailbox;
use crate::passport::Passport;
use crate::policy::InForce;
use ron_core::egress::{Admit, Breaker, BreakerRules, BreakerState, DisabledWhy, Outcome, Schedule, Signer};
use ron_core::ids::{MessageId, QueueKey};
use ron_core::limit::Rate;
use ron_core::time::{Clock, Millis};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// A probe that is not heard of for this long beyond the time of an attempt is given up, ms.
const PROBE_MARGIN_MS: u64 = 60_000;

/// How an endpoint is served.
#[derive(Debug, Clone)]
pub struct EndpointSpec {
    /// Its name in the configuration.
    pub name: Arc<str>,
    /// Whose messages it gets.
    pub queue: QueueKey,
    /// Signs them.
    pub signer: Signer,
    /// When what failed is tried again.
    pub schedule: Schedule,
    /// Statuses after which nothing is tried again.
    pub terminal: Vec<u16>,
    /// Attempts under way at once.
    pub concurrency: u32,
    /// Attempts a second; `None` = as many as there are.
    pub rate: Option<Rate>,
    /// Longest time of one attempt.
    pub timeout: Duration,
    /// When it is left alone.
    pub breaker: BreakerRules,
    /// Names what it was configured with, for the log of attempts.
    pub config_version: String,
    /// What the node gives a topic that nobody set attempts for: only such a topic gets the schedule's.
    pub default_attempts: u32,
}

/// What an endpoint works with.
#[derive(Debug, Clone)]
pub struct EndpointParts {
    /// Where messages are.
    pub mailbox: Mailbox,
    /// Makes and checks the capability.
    pub passport: Passport,
    /// Judged like a client's.
    pub policy: InForce,
    /// Node time and the wall clock.
    pub clock: Arc<dyn Clock>,
    /// For jitter.
    pub entropy: Arc<dyn Entropy>,
    /// Tells of changes.
    pub bus: Bus,
}

/// What became of the newest attempt.
#[derive(Debug, Clone)]
pub struct LastAttempt {
    /// When it ended, wall clock.
    pub at: Millis,
    /// Of which message.
    pub msg_id: MessageId,
    /// How.
    pub outcome: Outcome,
}

/// An endpoint, for operators.
#[derive(Debug, Clone)]
pub struct EndpointStatus {
    /// Its breaker.
    pub state: BreakerState,
    /// Since when (node time) it fails without a success.
    pub failing_since: Option<Millis>,
    /// Attempts since the start.
    pub attempts: u64,
    /// Of those, delivered.
    pub delivered: u64,
    /// Attempts under way.
    pub under_way: u32,
    /// The newest.
    pub last: Option<LastAttempt>,
}

/// See the module.
#[derive(Debug)]
pub struct Endpoint {
    spec: EndpointSpec,
    transport: Arc<dyn Transport>,
    observer: Arc<dyn EgressObserver>,
    book: Arc<Book>,
    breaker: Mutex<Breaker>,
    /// Held while the book is written.
    saving: Mutex<()>,
    last: Mutex<Option<LastAttempt>>,
    attempts: AtomicU64,
    delivered: AtomicU64,
    pub(super) under_way: AtomicU32,
    open: AtomicBool,
    /// Something that the loop waits for may have changed.
    pub(super) changed: Notify,
    publisher: HandlePublisher<EgressMsg>,
    handle: Handle<EgressMsg>,
}

impl Endpoint {
    /// An endpoint whose actor is not up yet, with what `book` knows of it. Takes nothing before [`Endpoint::begin`].
    #[must_use]
    pub fn new(
        spec: EndpointSpec,
        transport: Arc<dyn Transport>,
        observer: Arc<dyn EgressObserver>,
        book: Arc<Book>,
    ) -> Endpoint {
        let publisher = HandlePublisher::new();
        let breaker = Breaker::new(spec.breaker, book.of(&spec.name));
        observer.state(breaker.state());
        Endpoint {
            breaker: Mutex::new(breaker),
            spec,
            transport,
            observer,
            book,
            saving: Mutex::default(),
            last: Mutex::default(),
            attempts: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            under_way: AtomicU32::new(0),
            open: AtomicBool::new(false),
            changed: Notify::new(),
            handle: publisher.handle(),
            publisher,
        }
    }

    /// Its actor, for the interop tree.
    #[must_use]
    pub fn child_spec(self: &Arc<Endpoint>, parts: &EndpointParts) -> ChildSpec {
        let carrier = Carrier { endpoint: self.clone(), parts: parts.clone() };
        let make = move || (Egress, carrier.clone());
        ChildSpec::actor(ChildKind::Fixed, self.child_name(), ServiceLabel::Egress, &self.publisher, make)
    }

    /// The name of its actor among its siblings.
    #[must_use]
    pub fn child_name(&self) -> String {
        format!("egress:{}", self.spec.name)
    }

    /// How it is served.
    #[must_use]
    pub fn spec(&self) -> &EndpointSpec {
        &self.spec
    }

    pub(super) fn transport(&self) -> &dyn Transport {
        &*self.transport
    }

    /// Whether its actor failed too often and waits for an operator.
    #[must_use]
    pub fn is_quarantined(&self) -> bool {
        self.handle.is_quarantined()
    }

    /// Makes its actor fail: for drills.
    pub fn crash(&self) {
        let _ = self.handle.cast(EgressMsg::Crash);
    }

    /// How it is.
    #[must_use]
    pub fn status(&self) -> EndpointStatus {
        let breaker = self.breaker();
        EndpointStatus {
            state: breaker.state(),
            failing_since: breaker.failing_since(),
            attempts: self.attempts.load(Ordering::Relaxed),
            delivered: self.delivered.load(Ordering::Relaxed),
            under_way: self.under_way.load(Ordering::Relaxed),
            last: self.last.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }

    /// From now on nothing is sent until [`Endpoint::enable`], after a restart neither; attempts under way end as
    /// they end. `false` if nothing was sent before. Blocks.
    ///
    /// # Errors
    /// The system's: it is disabled, but may not be after a restart.
    pub fn disable(&self, parts: &EndpointParts) -> io::Result<bool> {
        let now = parts.clock.now();
        let new = self.change(&parts.bus, |breaker| breaker.disable(now, DisabledWhy::Operator));
        self.save().map(|()| new)
    }

    /// Lets messages flow again, whatever stopped them. `false` if nothing had. Blocks.
    ///
    /// # Errors
    /// As [`Endpoint::disable`].
    pub fn enable(&self, parts: &EndpointParts) -> io::Result<bool> {
        let was = self.change(&parts.bus, Breaker::enable);
        self.save().map(|()| was)
    }

    /// Takes messages from now on: the node knows where it listens, and so what is itself.
    pub fn begin(&self) {
        self.open.store(true, Ordering::Release);
        self.changed.notify_waiters();
    }

    /// Takes no more messages: the node drains.
    pub fn drain(&self) {
        self.open.store(false, Ordering::Release);
        self.changed.notify_waiters();
    }

    pub(super) fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }

    fn breaker(&self) -> MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the breaker, and tells whom it concerns.
    fn change<T>(&self, bus: &Bus, change: impl FnOnce(&mut Breaker) -> T) -> T {
        let (done, before, after) = {
            let mut breaker = self.breaker();
            let before = breaker.state();
            (change(&mut breaker), before, breaker.state())
        };
        if before != after {
            self.observer.state(after);
            let why = match after {
                BreakerState::Disabled(why) => Some(why.label()),
                BreakerState::Closed | BreakerState::HalfOpen | BreakerState::Open => None,
            };
            tracing::warn!(egress = %self.spec.name, from = before.label(), to = after.label(), why, "egress state");
            bus.publish(Event::EgressState { endpoint: self.spec.name.clone(), state: after.label(), why });
            self.changed.notify_waiters();
        }
        done
    }

    /// Keeps the breaker as it is when the file is written, not as whoever asks for it saw it: so an operator's word is
    /// never written over by an attempt that ended before. Blocks.
    fn save(&self) -> io::Result<()> {
        let _turn = self.saving.lock().unwrap_or_else(PoisonError::into_inner);
        let saved = self.breaker().saved();
        self.book.put(&self.spec.name, saved)
    }

    pub(super) fn state(&self) -> BreakerState {
        self.breaker().state()
    }

    pub(super) fn admit(&self, now: Millis) -> Admit {
        self.breaker().admit(now)
    }

    /// A message to probe with is there. `false` if it must not be sent any more.
    pub(super) fn begin_probe(&self, bus: &Bus, now: Millis) -> bool {
        let timeout_ms = u64::try_from(self.spec.timeout.as_millis()).unwrap_or(u64::MAX);
        self.change(bus, |breaker| breaker.begin_probe(now, timeout_ms.saturating_add(PROBE_MARGIN_MS)))
    }

    /// Books the end of an attempt.
    pub(super) fn ended(
        &self,
        parts: &EndpointParts,
        msg_id: MessageId,
        outcome: Outcome,
        attempted: &Attempted,
    ) {
        let took = attempted.took;
        let ms: u64 = [took.dns_ms, took.tcp_ms, took.tls_ms, took.http_ms].into_iter().flatten().sum();
        self.observer.attempted(outcome, ms as f64 / 1e3);
        self.attempts.fetch_add(1, Ordering::Relaxed);
        self.delivered.fetch_add(u64::from(outcome == Outcome::Delivered), Ordering::Relaxed);
        let last = LastAttempt { at: parts.clock.wall(), msg_id, outcome };
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(last);
        let now = parts.clock.now();
        let change = |breaker: &mut Breaker| match (outcome, outcome.endpoint_failed()) {
            (Outcome::Gone, _) => {
                breaker.disable(now, DisabledWhy::Gone);
            }
            (_, Some(false)) => breaker.succeeded(),
            (_, Some(true)) => {
                breaker.failed(now);
            }
            (_, None) => breaker.answered(),
        };
        self.change(&parts.bus, change);
    }

    /// Keeps what is to be kept of the breaker, if that has changed.
    pub(super) async fn keep(self: &Arc<Endpoint>) {
        if self.book.of(&self.spec.name) == self.breaker().saved() {
            return;
        }
        let endpoint = self.clone();
        if let Ok(Err(error)) = tokio::task::spawn_blocking(move || endpoint.save()).await {
            tracing::warn!(egress = %self.spec.name, %error, "the state is not kept over a restart");
        }
    }
}
