//! The clients of a drill: sends that are repeated under one key until they are answered, receives, acks, and
//! the bystanders whose topics are never killed.

use super::client::Client;
use super::house::{House, TENANT};
use super::ledger::Ledger;
use anyhow::{Result, bail};
use http::Method;
use serde_json::{Value, json};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long a client goes on repeating.
const PATIENCE: Duration = Duration::from_secs(20);

/// What became of one call and its repetitions.
#[derive(Debug, Clone)]
pub struct Done {
    /// When it was answered 2xx.
    pub at: Instant,
    /// The refusals before that, as `status REASON`.
    pub refused: Vec<String>,
    /// The 2xx.
    pub json: Value,
}

/// Calls until it is answered 2xx.
///
/// # Errors
/// None in [`PATIENCE`], or a refusal that is not a 503.
async fn persist(client: &mut Client, path: &str, headers: &[(String, String)], body: &str) -> Result<Done> {
    let (started, mut refused) = (Instant::now(), Vec::new());
    loop {
        let answer = client.call(Method::POST, path, headers, body.to_owned()).await?;
        if (200..300).contains(&answer.status) {
            return Ok(Done { at: Instant::now(), refused, json: answer.json });
        }
        if answer.status != 503 || started.elapsed() > PATIENCE {
            bail!("POST {path}: {} {}", answer.status, answer.json);
        }
        refused.push(format!("{} {}", answer.status, answer.reason()));
        sleep(Duration::from_millis(2)).await;
    }
}

/// The numbers of a drill: each message is another one.
#[derive(Debug, Default)]
pub struct Numbers(AtomicU64);

impl Numbers {
    /// One never given before.
    pub fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}

/// Sends one message, keyed, until it is answered, and books it.
///
/// # Errors
/// As [`persist`].
pub async fn send(client: &mut Client, ledger: &Ledger, topic: &str, n: u64) -> Result<Done> {
    let body = format!("message {n} to {topic}, {}", "x".repeat((n % 97) as usize));
    let headers = [
        ("Content-Type".to_owned(), "text/plain".to_owned()),
        ("Idempotency-Key".to_owned(), format!("n-{n}")),
    ];
    let done = persist(client, &format!("/v1/{TENANT}/{topic}/enqueue"), &headers, &body).await?;
    ledger.answered(topic, done.json["msg_id"].as_str().unwrap_or_default(), &body);
    Ok(done)
}

/// Posts one signed event until it is answered, and books it.
///
/// # Errors
/// As [`persist`].
pub async fn webhook(house: &House, ledger: &Ledger, sender: usize, n: u64) -> Result<Done> {
    let sender = &house.senders[sender];
    let (headers, body) = sender.event(n, house.clock.as_ref())?;
    let path = format!("/webhooks/{}", sender.name);
    let (started, mut refused) = (Instant::now(), Vec::new());
    let mut client = house.interop();
    let answer = loop {
        let answer = client.call(Method::POST, &path, &headers, body.clone()).await?;
        if (200..300).contains(&answer.status) {
            break answer;
        }
        if answer.status != 503 || started.elapsed() > PATIENCE {
            bail!("POST {path}: {} {}", answer.status, answer.json);
        }
        refused.push(format!("{} {}", answer.status, answer.reason()));
        sleep(Duration::from_millis(2)).await;
    };
    let done = Done { at: Instant::now(), refused, json: answer.json };
    // Discord's events are answered 204: their id is only known from the queue
    if let Some(msg_id) = done.json["msg_id"].as_str() {
        ledger.answered(&sender.name, msg_id, &body);
    } else {
        let id = find(&mut house.mailbox(), &sender.name, &body).await?;
        ledger.answered(&sender.name, &id, &body);
    }
    Ok(done)
}

async fn find(client: &mut Client, topic: &str, body: &str) -> Result<String> {
    let mut cursor = String::new();
    loop {
        let page = client.get(&format!("/v1/{TENANT}/{topic}/peek?limit=100{cursor}")).await?.ok()?;
        let found = page["messages"].as_array().into_iter().flatten().find(|m| m["payload"] == body);
        if let Some(message) = found {
            return Ok(message["msg_id"].as_str().unwrap_or_default().to_owned());
        }
        match page["cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => bail!("an event answered 2xx is not in {topic}"),
        }
    }
}

/// A delivery.
#[derive(Debug, Clone)]
pub struct Held {
    /// The message.
    pub msg_id: String,
    /// What to settle it with.
    pub receipt: String,
}

/// A lease that outlasts any drill.
pub const LONG_LEASE_MS: u64 = 600_000;
/// A lease that ends soon if its receive was answered by nobody.
const SHORT_LEASE_MS: u64 = 3_000;

/// Receives up to `max` under leases of `lease_ms`, and books them.
///
/// # Errors
/// As [`persist`].
pub async fn recv(
    client: &mut Client,
    ledger: &Ledger,
    topic: &str,
    max: u32,
    lease_ms: u64,
) -> Result<(Vec<Held>, Done)> {
    let body = json!({"max_messages": max, "visibility_ms": lease_ms}).to_string();
    let done = persist(client, &format!("/v1/{TENANT}/{topic}/recv"), &[], &body).await?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut held = Vec::new();
    for message in done.json["messages"].as_array().into_iter().flatten() {
        let msg_id = text(&message["msg_id"]);
        ledger.delivered(topic, &msg_id, &text(&message["payload"]));
        held.push(Held { msg_id, receipt: text(&message["receipt"]) });
    }
    Ok((held, done))
}

/// Acks until it is answered, and books it. A receipt that does not hold is booked as broken.
///
/// # Errors
/// As [`persist`].
pub async fn ack(client: &mut Client, ledger: &Ledger, topic: &str, held: &[Held]) -> Result<Done> {
    let receipts: Vec<&str> = held.iter().map(|held| held.receipt.as_str()).collect();
    let body = json!({ "receipts": receipts }).to_string();
    let done = persist(client, &format!("/v1/{TENANT}/{topic}/ack"), &[], &body).await?;
    let results = done.json["results"].as_array().cloned().unwrap_or_default();
    for (held, result) in held.iter().zip(&results) {
        match result["ok"] == true {
            true => ledger.acked(&held.msg_id),
            false => ledger.broken(format!("{topic}/{}: ack refused: {result}", held.msg_id)),
        }
    }
    Ok(done)
}

/// Receives and acks all that `topic` has, until it says itself that it has nothing.
///
/// # Errors
/// As [`persist`], and if it still has something after [`PATIENCE`].
pub async fn drain(client: &mut Client, ledger: &Ledger, topic: &str) -> Result<()> {
    let started = Instant::now();
    loop {
        let (held, _) = recv(client, ledger, topic, 256, SHORT_LEASE_MS).await?;
        if !held.is_empty() {
            ack(client, ledger, topic, &held).await?;
            continue;
        }
        let stat = client.get(&format!("/v1/{TENANT}/{topic}")).await?.ok()?;
        if ["ready", "delayed", "vis", "dlq"].iter().all(|state| stat[state] == 0) {
            return Ok(());
        }
        if started.elapsed() > PATIENCE {
            bail!("{topic} cannot be emptied: {stat}");
        }
        sleep(Duration::from_millis(50)).await;
    }
}

/// What the bystanders saw.
#[derive(Debug, Default)]
pub struct Witness {
    /// While the store or the passport is being killed, which all need, refusals are allowed.
    pub store_down: AtomicBool,
    latencies_us: Mutex<Vec<u64>>,
    store_latencies_us: Mutex<Vec<u64>>,
    refusals: Mutex<Vec<String>>,
    store_refusals: AtomicU64,
    stop: AtomicBool,
}

impl Witness {
    fn saw(&self, what: &str, started: Instant, store_was_down: bool, done: &Done) {
        let in_window = store_was_down || self.store_down.load(Ordering::SeqCst);
        let us = u64::try_from((done.at - started).as_micros()).unwrap_or(u64::MAX);
        let into = if in_window { &self.store_latencies_us } else { &self.latencies_us };
        into.lock().unwrap_or_else(PoisonError::into_inner).push(us);
        for refused in &done.refused {
            let of_store = in_window && (refused.ends_with("STORAGE") || refused.ends_with("UNAVAILABLE"));
            if of_store {
                self.store_refusals.fetch_add(1, Ordering::Relaxed);
            } else {
                let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
                refusals.push(format!("{what}: {refused}"));
            }
        }
    }

    /// Ends the bystanders.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
    }

    /// Refusals that had no business being there.
    #[must_use]
    pub fn refusals(&self) -> Vec<String> {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Refusals while a store was being killed.
    #[must_use]
    pub fn store_refusals(&self) -> u64 {
        self.store_refusals.load(Ordering::Relaxed)
    }

    /// Latencies away from store kills, and near them: calls, median, p99 and worst in ms.
    #[must_use]
    pub fn latencies(&self) -> [(usize, f64, f64, f64); 2] {
        [&self.latencies_us, &self.store_latencies_us].map(|list| {
            let mut list = list.lock().unwrap_or_else(PoisonError::into_inner).clone();
            list.sort_unstable();
            let at = |share: f64| {
                let index = ((list.len() as f64 * share) as usize).min(list.len().saturating_sub(1));
                list.get(index).map_or(0.0, |us| *us as f64 / 1e3)
            };
            (list.len(), at(0.5), at(0.99), at(1.0))
        })
    }
}

/// One bystander: sends to its own topic, receives and acks, until it is told to stop. The last of `webhooks`
/// senders posts events, too.
///
/// # Errors
/// As [`persist`].
pub async fn bystander(
    house: Arc<House>,
    ledger: Arc<Ledger>,
    witness: Arc<Witness>,
    numbers: Arc<Numbers>,
    topic: String,
    sender: Option<usize>,
) -> Result<()> {
    let mut client = house.mailbox();
    while !witness.stop.load(Ordering::SeqCst) {
        let down = || witness.store_down.load(Ordering::SeqCst);
        let (started, was) = (Instant::now(), down());
        let done = send(&mut client, &ledger, &topic, numbers.next()).await?;
        witness.saw("send", started, was, &done);
        if let Some(sender) = sender {
            let (started, was) = (Instant::now(), down());
            let done = webhook(&house, &ledger, sender, numbers.next()).await?;
            witness.saw("webhook", started, was, &done);
        }
        let (started, was) = (Instant::now(), down());
        let (held, done) = recv(&mut client, &ledger, &topic, 1, SHORT_LEASE_MS).await?;
        witness.saw("recv", started, was, &done);
        if held.is_empty() {
            // its own message was answered: somebody must have it, and it can only be this consumer
            let stat = client.get(&format!("/v1/{TENANT}/{topic}")).await?.json;
            if stat["ready"] != 0 && !down() {
                ledger.broken(format!("{topic}: ready messages are not handed out: {stat}"));
            }
            continue;
        }
        let (started, was) = (Instant::now(), down());
        let done = ack(&mut client, &ledger, &topic, &held).await?;
        witness.saw("ack", started, was, &done);
        sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}
