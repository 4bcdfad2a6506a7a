//! Leases with deadlines spread over a window, and clients that wait for what comes back, over restarts of the node.

use super::{Lease, Offset, Return};
use crate::api::{Api, text};
use crate::clock::{self, Clock, Micros, parse_rfc3339};
use crate::rng::Rng;
use anyhow::{Context, Result, anyhow, ensure};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Messages in one receive: they share a deadline.
const TOGETHER: usize = 10;
/// What comes back is kept this long, so that it does not come again; over a restart an answer can be lost, and the
/// message comes once more.
pub const KEPT: Duration = Duration::from_secs(60);
const KEPT_MS: u64 = 60_000;

/// What all clients of a run share.
#[derive(Debug)]
pub struct Shared {
    /// The run's time line.
    pub clock: Clock,
    token: String,
    /// The node that is up: which of its lives, and where.
    up: Mutex<(usize, SocketAddr)>,
    /// Of each life.
    offsets: Mutex<Vec<Offset>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// With the first node.
    #[must_use]
    pub fn new(clock: Clock, token: String, mailbox: SocketAddr) -> Shared {
        let (up, offsets) = (Mutex::new((0, mailbox)), Mutex::new(vec![Offset::default()]));
        Shared { clock, token, up, offsets }
    }

    /// The next life of the node.
    pub fn restarted(&self, mailbox: SocketAddr) {
        lock(&self.offsets).push(Offset::default());
        let mut up = lock(&self.up);
        *up = (up.0 + 1, mailbox);
    }

    /// Of each life so far.
    #[must_use]
    pub fn offsets(&self) -> Vec<Offset> {
        lock(&self.offsets).clone()
    }

    /// How many there were.
    #[must_use]
    pub fn lives(&self) -> usize {
        lock(&self.offsets).len()
    }

    /// A client of the node that is up, and which life that is.
    #[must_use]
    pub fn api(&self) -> (usize, Api) {
        let (life, mailbox) = *lock(&self.up);
        (life, Api::new(mailbox, &self.token))
    }

    /// Where the node is.
    #[must_use]
    pub fn mailbox(&self) -> SocketAddr {
        lock(&self.up).1
    }

    fn life(&self) -> usize {
        lock(&self.up).0
    }

    /// An Envelope's deadline, ms of node time, and the node's time when it was handed out.
    fn deadline(
        &self,
        life: usize,
        at: (Micros, Micros),
        message: &Value,
        visibility_ms: u64,
    ) -> Result<(u64, u64)> {
        let stated = text(message, "deadline");
        let deadline = parse_rfc3339(stated).with_context(|| format!("no deadline: {message}"))? / 1000;
        let node_ms = deadline.saturating_sub(visibility_ms);
        if let Some(offset) = lock(&self.offsets).get_mut(life) {
            offset.narrow(at.0, at.1, node_ms);
        }
        Ok((deadline, node_ms))
    }
}

/// Sends `count` messages to `topic`.
///
/// # Errors
/// A send is refused.
pub fn send(shared: &Shared, topic: &str, count: usize) -> Result<()> {
    let mut api = shared.api().1;
    for from in (0..count).step_by(250) {
        let messages: Vec<Value> = (from..count.min(from + 250))
            .map(|n| json!({"payload": format!("{topic} {n}"), "content_type": "text/plain"}))
            .collect();
        let sent = api.done("POST", &format!("{topic}/enqueue/batch"), &json!({ "messages": messages }))?;
        let all =
            sent["results"].as_array().is_some_and(|all| all.iter().all(|one| one["msg_id"].is_string()));
        ensure!(all, "a batch was not accepted whole: {sent}");
    }
    Ok(())
}

/// Takes all `count` messages of `topic`, with deadlines spread over `window` from `first` on, in no order.
///
/// # Errors
/// A receive is refused or empty, or the leases were not taken in time.
pub fn take(
    shared: &Shared,
    topic: &str,
    count: usize,
    first: Micros,
    window: Duration,
    seed: u64,
) -> Result<BTreeMap<String, Lease>> {
    let (life, mut api) = shared.api();
    let mut rng = Rng::new(seed, 0);
    let window = u64::try_from(window.as_micros())?;
    let mut leases = BTreeMap::new();
    while leases.len() < count {
        let due = first + rng.between(0, window);
        let begun = shared.clock.now();
        let visibility_ms = due.saturating_sub(begun) / 1000;
        ensure!(visibility_ms >= 250, "the leases were not taken in time: give more time to take them");
        let ask = json!({"max_messages": TOGETHER.min(count - leases.len()), "visibility_ms": visibility_ms});
        let got = api.recv(topic, &ask)?;
        let at = (begun, shared.clock.now());
        ensure!(!got.is_empty(), "{topic}: nothing came after {} of {count}", leases.len());
        for message in &got {
            let (deadline_ms, _) = shared.deadline(life, at, message, visibility_ms)?;
            let lease = Lease { life, begun, deadline_ms, visibility_ms };
            let twice = leases.insert(text(message, "msg_id").to_owned(), lease);
            ensure!(twice.is_none(), "{topic}: {} came while it was in flight", text(message, "msg_id"));
        }
    }
    Ok(leases)
}

/// Short exchanges with the node that is up, which tell its time closely.
///
/// # Errors
/// A call is refused.
pub fn probe(shared: &Shared) -> Result<()> {
    const VISIBILITY_MS: u64 = 3_600_000;
    let (life, mut api) = shared.api();
    for _ in 0..50 {
        api.send("probe", None, "probe")?;
        let begun = shared.clock.now();
        let got = api.recv("probe", &json!({"visibility_ms": VISIBILITY_MS}))?;
        let at = (begun, shared.clock.now());
        shared.deadline(life, at, got.first().context("a probe did not come")?, VISIBILITY_MS)?;
    }
    Ok(())
}

/// Waits for what comes back to `topic`, until all of `count` did or `over` is set. The first return of each.
///
/// # Errors
/// An answer that is neither messages nor the end of a node.
pub fn wait(
    shared: &Shared,
    topic: &str,
    count: usize,
    over: &AtomicBool,
) -> Result<BTreeMap<String, Return>> {
    let ask = json!({"max_messages": 256, "visibility_ms": KEPT_MS, "wait_ms": 2_000});
    let body = ask.to_string();
    let path = format!("{topic}/recv");
    let (mut life, mut api) = shared.api();
    let mut returns = BTreeMap::new();
    while returns.len() < count && !over.load(Ordering::SeqCst) {
        let begun = shared.clock.now();
        let answer = api.try_call("POST", &path, &[("Content-Type", "application/json")], body.as_bytes());
        let answered = shared.clock.now();
        let Ok(answer) = answer else {
            clock::sleep(Duration::from_millis(2)); // killed: there will be another
            if shared.life() != life {
                (life, api) = shared.api();
            }
            continue;
        };
        let mut said: Value = serde_json::from_slice(&answer.body)?;
        ensure!(answer.status == 200, "{path}: {} {said}", answer.status);
        let Value::Array(messages) = said["messages"].take() else { return Err(anyhow!("{path}: {said}")) };
        for message in &messages {
            let (_, node_ms) = shared.deadline(life, (begun, answered), message, KEPT_MS)?;
            let delivery = message["delivery"].as_u64().context("no delivery")?;
            let id = text(message, "msg_id").to_owned();
            returns.entry(id).or_insert(Return { life, answered, node_ms, delivery });
        }
    }
    Ok(returns)
}

/// How late this process itself wakes up: what a client on this machine cannot see any finer. Sleeps for a
/// millisecond again and again until `over`, and gives the p99 of the excess, µs.
#[must_use]
pub fn own_lateness(clock: Clock, over: &AtomicBool) -> u64 {
    let mut excess = Vec::new();
    while !over.load(Ordering::SeqCst) {
        let begun = clock.now();
        clock::sleep(Duration::from_millis(1));
        excess.push(clock.now().saturating_sub(begun + 1_000));
    }
    crate::api::percentile(&mut excess, 99.0)
}
