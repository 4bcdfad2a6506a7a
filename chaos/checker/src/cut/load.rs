//! The load under which snapshots are taken: senders at a steady pace, whose waiting is measured, and consumers that
//! ack, reject and keep what they get.

use super::{Event, What};
use crate::api::{Api, sequence, text};
use crate::clock::{self, Clock, Micros};
use crate::rng::Rng;
use crate::sign;
use anyhow::{Context, Result, anyhow, ensure};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Topics of the load.
pub const TOPICS: u64 = 4;
/// What is sent before the load, so that a snapshot takes its time.
pub const BALLAST: &str = "ballast";
/// Leases outlive the drill.
const VISIBILITY_MS: u64 = 6 * 3_600_000;

/// How much load.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// Senders.
    pub senders: u64,
    /// Consumers.
    pub consumers: u64,
    /// Between two sends of one sender.
    pub pace: Duration,
    /// Decides payloads and what consumers do.
    pub seed: u64,
}

/// The load while it runs.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    workers: Vec<JoinHandle<Result<Did>>>,
}

/// What a client did, or all of them.
#[derive(Debug, Default)]
pub struct Did {
    /// Everything answered.
    pub events: Vec<Event>,
    /// When each send was due, and when it was answered.
    pub sends: Vec<(Micros, Micros)>,
    /// Receipts that were kept, with their topic.
    pub kept: Vec<(String, String)>,
    /// Keyed sends: topic, key, body and the id they got.
    pub keyed: Vec<[String; 4]>,
}

impl Did {
    /// Adds what another did.
    pub fn add(&mut self, other: Did) {
        self.events.extend(other.events);
        self.sends.extend(other.sends);
        self.kept.extend(other.kept);
        self.keyed.extend(other.keyed);
    }
}

/// The topic number `n`.
#[must_use]
pub fn topic(n: u64) -> String {
    format!("t{}", n % TOPICS)
}

impl Load {
    /// Starts it.
    #[must_use]
    pub fn start(clock: Clock, mailbox: SocketAddr, token: &str, size: Size) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let workers = (0..size.senders + size.consumers)
            .map(|n| {
                let worker = Worker {
                    clock,
                    api: Api::new(mailbox, token),
                    rng: Rng::new(size.seed, n),
                    topic: topic(n),
                    seed: size.seed,
                    did: Did::default(),
                };
                let stop = stop.clone();
                std::thread::spawn(move || match n < size.senders {
                    true => worker.sender(n, size.pace, &stop),
                    false => worker.consumer(&stop),
                })
            })
            .collect();
        Load { stop, workers }
    }

    /// Ends it in order: each client has read its last answer.
    ///
    /// # Errors
    /// A call was refused or not answered, which nothing here excuses.
    pub fn stop(self) -> Result<Did> {
        self.stop.store(true, Ordering::SeqCst);
        let mut all = Did::default();
        for worker in self.workers {
            all.add(worker.join().map_err(|_| anyhow!("a client panicked"))??);
        }
        Ok(all)
    }
}

/// Sends `mib` MiB of messages before the load.
///
/// # Errors
/// A send is refused.
pub fn ballast(clock: Clock, mailbox: SocketAddr, token: &str, mib: u64, seed: u64) -> Result<Did> {
    let mut rng = Rng::new(seed, u64::MAX);
    let mut api = Api::new(mailbox, token);
    let mut did = Did::default();
    for n in 0..mib * 8 {
        let begun = clock.now();
        let bodies: Vec<String> =
            (0..4).map(|part| body(&mut rng, &format!("b{n}-{part}"), 32_000)).collect();
        let messages: Vec<Value> =
            bodies.iter().map(|body| json!({"payload": body, "content_type": "text/plain"})).collect();
        let batch = json!({ "messages": messages });
        let sent = api.done("POST", &format!("{BALLAST}/enqueue/batch"), &batch)?;
        let answered = clock.now();
        for (body, result) in bodies.iter().zip(sent["results"].as_array().into_iter().flatten()) {
            let what = What::Sent { topic: BALLAST.to_owned(), hash: sign::content_address(body.as_bytes()) };
            did.events.push(event(begun, answered, text(result, "msg_id"), what)?);
        }
    }
    ensure!(u64::try_from(did.events.len())? == mib * 32, "a batch was not accepted whole");
    Ok(did)
}

/// Text that starts with `name` and that nothing compresses.
fn body(rng: &mut Rng, name: &str, bytes: usize) -> String {
    let mut noise = vec![0; bytes / 2];
    rng.fill(&mut noise);
    format!("{name} {}", data_encoding::HEXLOWER.encode(&noise))
}

fn event(begun: Micros, answered: Micros, msg_id: &str, what: What) -> Result<Event> {
    let sequence = sequence(msg_id).with_context(|| format!("{msg_id:?} is no message id"))?;
    Ok(Event { begun, answered, msg_id: msg_id.to_owned(), sequence, what })
}

struct Worker {
    clock: Clock,
    api: Api,
    rng: Rng,
    topic: String,
    seed: u64,
    did: Did,
}

impl Worker {
    fn sender(mut self, number: u64, pace: Duration, stop: &AtomicBool) -> Result<Did> {
        let pace = u64::try_from(pace.as_micros())?;
        let mut due = self.clock.now() + self.rng.between(0, pace);
        for n in 0_u64.. {
            if stop.load(Ordering::SeqCst) {
                break;
            }
            clock::sleep(Duration::from_micros(due.saturating_sub(self.clock.now())));
            let (key, bytes) =
                (format!("k{}-{number}-{n}", self.seed), usize::try_from(self.rng.between(100, 2_000))?);
            let body = body(&mut self.rng, &key, bytes);
            let begun = self.clock.now();
            let sent = self.api.send(&self.topic, Some(&key), &body)?;
            let answered = self.clock.now();
            let hash = sign::content_address(body.as_bytes());
            let what = What::Sent { topic: self.topic.clone(), hash };
            let id = text(&sent, "msg_id");
            self.did.events.push(event(begun, answered, id, what)?);
            self.did.sends.push((due, answered));
            if n % 50 == 0 {
                self.did.keyed.push([self.topic.clone(), key, body, id.to_owned()]);
            }
            // A stall holds up each sender once. What it would have sent meanwhile is not caught up with: on a busy
            // machine the backlog would be all that is measured.
            due = (due + pace).max(answered);
        }
        Ok(self.did)
    }

    fn consumer(mut self, stop: &AtomicBool) -> Result<Did> {
        let ask = json!({"max_messages": 10, "visibility_ms": VISIBILITY_MS, "wait_ms": 100});
        while !stop.load(Ordering::SeqCst) {
            let begun = self.clock.now();
            let got = self.api.recv(&self.topic, &ask)?;
            let answered = self.clock.now();
            let (mut ack, mut reject) = (Vec::new(), Vec::new());
            for message in &got {
                self.did.events.push(event(begun, answered, text(message, "msg_id"), What::Received)?);
                match self.rng.between(1, 10) {
                    1..=6 => ack.push(message),
                    7 => reject.push(message),
                    _ => self.did.kept.push((self.topic.clone(), text(message, "receipt").to_owned())),
                }
            }
            self.settle("ack", &ack, &json!({}), &What::Acked)?;
            self.settle("nack", &reject, &json!({"mode": "reject", "reason": "drill"}), &What::Rejected)?;
        }
        Ok(self.did)
    }

    fn settle(&mut self, call: &str, messages: &[&Value], more: &Value, what: &What) -> Result<()> {
        if messages.is_empty() {
            return Ok(());
        }
        let receipts: Vec<&str> = messages.iter().map(|message| text(message, "receipt")).collect();
        let begun = self.clock.now();
        let results = self.api.settle(&self.topic, call, &receipts, more)?;
        let answered = self.clock.now();
        for (message, result) in messages.iter().zip(&results) {
            ensure!(result["ok"] == true, "{call} of {}: {result}", text(message, "msg_id"));
            self.did.events.push(event(begun, answered, text(message, "msg_id"), what.clone())?);
        }
        Ok(())
    }
}
