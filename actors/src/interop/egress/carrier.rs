//! The loop of one endpoint: takes as many messages as its breaker, its rate and its slots allow. The way of one of
//! them is in `flight.rs`.

use super::endpoint::{Endpoint, EndpointParts};
use ron_core::capability::{Ask, Audience, Op};
use ron_core::egress::{Admit, BreakerState};
use ron_core::envelope::Delivered;
use ron_core::ids::QueueKey;
use ron_core::limit::{Bucket, Rate};
use ron_core::policy;
use ron_core::reason::{Reason, Refusal};
use ron_core::shard::{SettingsPatch, TopicChange, Want};
use ron_core::time::Millis;
use std::net::{IpAddr, Ipv4Addr};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;

/// A receive waits so long for a message before the loop looks around.
const POLL: Duration = Duration::from_secs(20);
/// A receive that comes back empty sooner than this would not have waited, ms.
const SPIN_MS: u64 = 100;
/// What cannot be done now is tried again after this.
pub(super) const REST: Duration = Duration::from_secs(1);
/// Longest sleep without a look around.
const NAP: Duration = Duration::from_secs(60);
/// Payload bytes taken at once.
const BYTES_MAX: u64 = 4 << 20;
/// A lease is longer than an attempt by this, for commits and a stalled machine, ms.
const LEASE_MARGIN_MS: u64 = 5_000;
/// A capability is used for half of its life, ms.
const TOKEN_MS: u64 = 30_000;
/// How often the topic's attempts are compared with the schedule, ms.
const LOOK_AT_TOPIC_MS: u64 = 60_000;

/// What the loop works with. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Carrier {
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) parts: EndpointParts,
}

/// What the loop remembers.
struct Round {
    token: Option<(String, Millis)>,
    bucket: Option<(Rate, Bucket)>,
    topic_looked_at: Option<Millis>,
    /// The topic's `max_attempts`, as far as known.
    topic_attempts: Arc<AtomicU32>,
    /// What was complained of last, to say it once.
    complaint: Option<String>,
}

impl Carrier {
    pub(super) fn queue(&self) -> &QueueKey {
        &self.endpoint.spec().queue
    }

    pub(super) fn name(&self) -> &str {
        &self.endpoint.spec().name
    }

    pub(super) fn now(&self) -> Millis {
        self.parts.clock.now()
    }

    /// Goes on until something panics; says what.
    pub(super) async fn run(self) -> &'static str {
        let rate = self.endpoint.spec().rate;
        let mut round = Round {
            token: None,
            bucket: rate.map(|rate| (rate, Bucket::full(rate, self.now()))),
            topic_looked_at: None,
            topic_attempts: Arc::new(AtomicU32::new(self.endpoint.spec().schedule.attempts())),
            complaint: None,
        };
        let mut flights = JoinSet::new();
        loop {
            while let Some(landed) = flights.try_join_next() {
                if landed.is_err_and(|error| error.is_panic()) {
                    return "an attempt panicked";
                }
            }
            let room = self.endpoint.spec().concurrency.saturating_sub(count(flights.len()));
            if room == 0 {
                if flights.join_next().await.is_some_and(|landed| landed.is_err_and(|e| e.is_panic())) {
                    return "an attempt panicked";
                }
                continue;
            }
            for message in self.next(&mut round, room).await {
                let (carrier, attempts) = (self.clone(), round.topic_attempts.clone());
                flights.spawn(async move { carrier.carry(message, &attempts).await });
            }
        }
    }

    /// The next messages to be delivered; empty after a wait.
    async fn next(&self, round: &mut Round, room: u32) -> Vec<Delivered> {
        let changed = self.endpoint.changed.notified();
        let mut changed = pin!(changed);
        // from here on no change is missed
        changed.as_mut().enable();
        let nap = |ms: u64| tokio::time::sleep(Duration::from_millis(ms).min(NAP));
        if !self.endpoint.is_open() {
            changed.await;
            return Vec::new();
        }
        if let Err(refusal) = self.prepare(round).await {
            self.complain(round, Some(refusal.to_string()));
            tokio::time::sleep(REST).await;
            return Vec::new();
        }
        let (wanted, probes) = match self.endpoint.admit(self.now()) {
            Admit::Go => (room, false),
            Admit::Probe => (1, true),
            Admit::Wait(ms) => {
                tokio::select! { () = nap(ms) => {}, () = changed => {} }
                return Vec::new();
            }
            Admit::Never(_) => {
                tokio::select! { () = tokio::time::sleep(NAP) => {}, () = changed => {} }
                return Vec::new();
            }
        };
        let wanted = match self.take_tokens(round, wanted) {
            Ok(wanted) => wanted,
            Err(ms) => {
                tokio::select! { () = nap(ms.max(1)) => {}, () = changed => {} }
                return Vec::new();
            }
        };
        let asked = self.now();
        let received = tokio::select! {
            received = self.receive(wanted, probes) => received,
            () = changed => return self.give_back(round, wanted, Vec::new()),
        };
        let messages = match received {
            Ok(messages) => {
                self.complain(round, None);
                if messages.is_empty() && self.now().since(asked) < SPIN_MS {
                    // it was not worth waiting for: the node drains, or knows no more topics
                    tokio::time::sleep(REST).await;
                }
                messages
            }
            Err(refusal) => {
                self.complain(round, Some(refusal.to_string()));
                tokio::time::sleep(REST).await;
                Vec::new()
            }
        };
        self.give_back(round, wanted, messages)
    }

    /// Tokens for which no message came are nobody's.
    fn give_back(&self, round: &mut Round, wanted: u32, messages: Vec<Delivered>) -> Vec<Delivered> {
        if let Some((rate, bucket)) = &mut round.bucket {
            bucket.give_back(*rate, u64::from(wanted.saturating_sub(count(messages.len()))));
        }
        messages
    }

    /// Says once what keeps messages from being taken, and once that it is over.
    fn complain(&self, round: &mut Round, what: Option<String>) {
        if round.complaint == what {
            return;
        }
        match &what {
            Some(what) => tracing::warn!(egress = self.name(), what, "egress takes no messages"),
            None => tracing::info!(egress = self.name(), "egress takes messages again"),
        }
        round.complaint = what;
    }

    /// As many tokens of the rate as there are, up to `wanted`.
    fn take_tokens(&self, round: &mut Round, wanted: u32) -> Result<u32, u64> {
        let Some((rate, bucket)) = &mut round.bucket else { return Ok(wanted) };
        let now = self.now();
        bucket.take(*rate, now, 1)?;
        let mut taken = 1;
        while taken < wanted && bucket.take(*rate, now, 1).is_ok() {
            taken += 1;
        }
        Ok(taken)
    }

    /// What must hold before a message is taken: a capability, a key to sign with, and the topic's attempts.
    async fn prepare(&self, round: &mut Round) -> Result<(), Refusal> {
        let (wall, now) = (self.parts.clock.wall(), self.now());
        if !self.endpoint.spec().signer.has_key_at(wall) {
            let text = "no secret of the endpoint is in force: all have ended (not_after)";
            return Err(Refusal::new(Reason::Unauth, text));
        }
        if round.token.as_ref().is_none_or(|(_, made)| now.since(*made) >= TOKEN_MS) {
            let QueueKey { tenant, topic } = self.queue();
            round.token = Some((self.parts.passport.mint_egress(tenant, topic, wall)?, now));
        }
        let token = round.token.as_ref().map_or("", |(token, _)| token.as_str());
        // who may receive but not settle would only make dead letters
        for op in [Op::Recv, Op::Ack, Op::Nack] {
            self.enter(token, op).await?;
        }
        if round.topic_looked_at.is_none_or(|at| now.since(at) >= LOOK_AT_TOPIC_MS) {
            let attempts = self.look_at_topic(round.topic_looked_at.is_none()).await?;
            round.topic_attempts.store(attempts, Ordering::Relaxed);
            round.topic_looked_at = Some(now);
        }
        Ok(())
    }

    /// The mailbox is not entered without a capability that holds, and a policy that allows it.
    pub(super) async fn enter(&self, token: &str, op: Op) -> Result<(), Refusal> {
        let QueueKey { tenant, topic } = self.queue();
        let ask = Ask {
            op,
            tenant,
            topic: Some(topic),
            audience: Audience::Mailbox,
            peer: IpAddr::V4(Ipv4Addr::LOCALHOST),
            message_bytes: None,
            wall_unix_s: self.parts.clock.wall().0 / 1000,
        };
        self.parts.passport.authorize_once(token, &ask).await?;
        let request = policy::Request { op, tenant, topic: Some(topic), provider: None };
        self.parts.policy.peek().policy.judge(&request).map(drop)
    }

    /// A topic for which nobody set attempts gets as many as the schedule has; what an operator set stands. Returns
    /// what is in force.
    async fn look_at_topic(&self, first: bool) -> Result<u32, Refusal> {
        let spec = self.endpoint.spec();
        let wanted = spec.schedule.attempts();
        let (attempts, deliveries) = match self.parts.mailbox.stat(&spec.queue).await {
            Ok(stat) => (stat.settings.max_attempts, stat.settings.max_deliveries),
            Err(refusal) if refusal.reason == Reason::NotFound => (spec.default_attempts, 0),
            Err(refusal) => return Err(refusal),
        };
        if attempts != spec.default_attempts || attempts >= wanted {
            if attempts < wanted && first {
                tracing::warn!(
                    egress = self.name(),
                    max_attempts = attempts,
                    schedule = wanted,
                    "the topic's max_attempts ends deliveries before the schedule does"
                );
            }
            return Ok(attempts);
        }
        // releases (a breaker that opened meanwhile) are deliveries, too
        let max_deliveries = Some(deliveries.max(wanted.saturating_mul(10)));
        let patch = SettingsPatch { max_attempts: Some(wanted), max_deliveries, ..SettingsPatch::default() };
        let change = TopicChange::Settings(patch);
        let in_force = self.parts.mailbox.configure(&spec.queue, change).await?;
        tracing::info!(
            egress = self.name(),
            max_attempts = wanted,
            "the topic's attempts are the schedule's"
        );
        Ok(in_force.settings.max_attempts)
    }

    pub(super) fn lease_ms(&self) -> u64 {
        let timeout = u64::try_from(self.endpoint.spec().timeout.as_millis()).unwrap_or(u64::MAX);
        timeout.saturating_add(LEASE_MARGIN_MS)
    }

    async fn receive(&self, wanted: u32, probes: bool) -> Result<Vec<Delivered>, Refusal> {
        let want = Want {
            max_messages: wanted.min(256),
            max_bytes: BYTES_MAX,
            visibility_ms: Some(self.lease_ms()),
        };
        let mut delivery = self.parts.mailbox.recv(self.queue(), want, POLL).await?;
        if delivery.messages.is_empty() {
            return Ok(Vec::new());
        }
        let may_go = match probes {
            true => self.endpoint.begin_probe(&self.parts.bus, self.now()),
            false => self.endpoint.state() == BreakerState::Closed,
        };
        if !may_go || !self.endpoint.is_open() {
            // dropped, they are released, and lose no attempt
            return Ok(Vec::new());
        }
        let messages = std::mem::take(&mut delivery.messages);
        delivery.written();
        Ok(messages)
    }
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
