//! Faults that `ronctl chaos` injects into a node that allows it (`chaos.enabled`): a slow or failing device under the
//! store, busy processors, killed actors. All but a kill end by themselves. While one is in force, `/readyz` warns.

use crate::http::readiness::Readiness;
use crate::http::request::Peer;
use crate::providers::verifier_name;
use ron_actors::kernel::supervisor::SupervisorRef;
use ron_actors::mailbox::Directory;
use ron_actors::store::DeviceFaults;
use ron_core::fault::{Fault, Faults, InjectRequest, Injected, Order, Sum, Target};
use ron_core::reason::{Reason, Refusal};
use ron_core::time::{Clock, Millis};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

const WARNING: &str = "faults are injected on purpose: `ronctl chaos list`";

/// Whom a kill can hit.
#[derive(Debug)]
pub struct Victims {
    /// The root supervisor, which has the store.
    pub root: SupervisorRef,
    /// The supervisor of the queues' actors.
    pub shards: SupervisorRef,
    /// The supervisor of the verifiers.
    pub verifiers: SupervisorRef,
    /// All queues.
    pub directory: Arc<Directory>,
}

/// See the module.
#[derive(Debug)]
pub struct FaultDesk {
    enabled: bool,
    device: Option<Arc<DeviceFaults>>,
    faults: Mutex<Faults>,
    burner: Arc<Burner>,
    victims: Victims,
    readiness: Arc<Readiness>,
    clock: Arc<dyn Clock>,
}

impl FaultDesk {
    /// Nothing is in force. `device` is the store's, if it has one that can be slow.
    #[must_use]
    pub fn new(
        enabled: bool,
        device: Option<Arc<DeviceFaults>>,
        victims: Victims,
        readiness: Arc<Readiness>,
        clock: Arc<dyn Clock>,
    ) -> FaultDesk {
        let (faults, burner) = (Mutex::default(), Arc::default());
        FaultDesk { enabled, device, faults, burner, victims, readiness, clock }
    }

    fn faults(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a fault in force, or kills.
    ///
    /// # Errors
    /// POLICY_BLOCKED unless the configuration allows it; MALFORMED, naming the field; NOT_FOUND for an actor that
    /// there is none of; BACKPRESSURE when too many are in force.
    pub async fn inject(self: &Arc<Self>, request: InjectRequest, peer: Peer) -> Result<Value, Refusal> {
        if !self.enabled {
            let text = "this node takes no faults: set `chaos.enabled = true` and restart it";
            return Err(Refusal::new(Reason::PolicyBlocked, text));
        }
        let (target, fault, lasts_ms) = match request.order()? {
            (target, Order::Kill { child }) => return self.kill(target, &child, peer).await,
            (target, Order::Inject { fault, lasts_ms }) => (target, fault, lasts_ms),
        };
        if self.device.is_none() && !matches!(fault, Fault::Cpu { .. }) {
            let text =
                "fault: a store in memory has no device that could be slow or fail; `cpu` and `kill` work";
            return Err(Refusal::new(Reason::Malformed, text));
        }
        let injected = self.faults().inject(self.clock.now(), target, fault, lasts_ms)?;
        tracing::warn!(?injected, ?peer, "a fault is injected on purpose");
        self.put_in_force();
        let desk = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(lasts_ms)).await;
            desk.put_in_force();
        });
        Ok(shown(&injected, self.clock.now()))
    }

    /// Those in force.
    #[must_use]
    pub fn list(&self) -> Value {
        let now = self.clock.now();
        let mut faults = self.faults();
        faults.end(now);
        json!({ "enabled": self.enabled, "faults": faults.all().iter().map(|one| shown(one, now)).collect::<Vec<_>>() })
    }

    /// Ends one, or all.
    ///
    /// # Errors
    /// NOT_FOUND for one that is not in force.
    pub fn clear(&self, id: Option<u32>, peer: Peer) -> Result<Value, Refusal> {
        let cleared = self.faults().clear(id);
        self.put_in_force();
        if let (0, Some(id)) = (cleared, id) {
            let text = format!("no fault {id} is in force: see `ronctl chaos list`");
            return Err(Refusal::new(Reason::NotFound, text));
        }
        tracing::warn!(cleared, ?peer, "injected faults are cleared");
        Ok(json!({ "cleared": cleared }))
    }

    async fn kill(&self, target: Target, child: &str, peer: Peer) -> Result<Value, Refusal> {
        let victims = &self.victims;
        let killed = match target {
            Target::SvcInterop if child.starts_with("egress:") => victims.verifiers.kill_child(child).await,
            Target::SvcInterop => victims.verifiers.kill_child(&verifier_name(child)).await,
            Target::SvcMailbox if child == "store" => victims.root.kill_child("store").await,
            Target::SvcMailbox => {
                let queue = victims.directory.all().into_iter().find(|entry| entry.key.to_string() == child);
                match queue {
                    Some(entry) => victims.shards.kill_child(&entry.child_name()).await,
                    None => false,
                }
            }
        };
        if !killed {
            let text =
                format!("child: no actor {child:.200} runs there: TENANT/TOPIC, `store`, or a provider");
            return Err(Refusal::new(Reason::NotFound, text));
        }
        tracing::warn!(child, ?peer, "an actor was killed on purpose");
        Ok(json!({ "killed": child }))
    }

    /// Makes what is in force now felt.
    fn put_in_force(&self) {
        let mut faults = self.faults();
        faults.end(self.clock.now());
        let sum = faults.sum();
        if let Some(device) = &self.device {
            device.set(sum);
        }
        self.burner.burn(sum.cpu_percent, &self.clock);
        self.readiness.withdraw_warning(WARNING);
        if sum != Sum::default() {
            self.readiness.warn(WARNING.to_owned());
        }
    }
}

fn shown(injected: &Injected, now: Millis) -> Value {
    let Injected { id, target, fault, until } = injected;
    let mut shown = json!(fault);
    shown["id"] = json!(id);
    shown["target"] = json!(target);
    shown["left_ms"] = json!(until.since(now));
    shown
}

/// Keeps the processors busy for a part of the time.
#[derive(Debug, Default)]
struct Burner {
    percent: AtomicU8,
    threads: Mutex<usize>,
    pause: Condvar,
}

impl Burner {
    /// Of every twenty milliseconds, so much is used up.
    const SLICE_MS: u64 = 20;

    fn burn(self: &Arc<Self>, percent: u8, clock: &Arc<dyn Clock>) {
        self.percent.store(percent, Ordering::Release);
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = match percent {
            0 => 0,
            _ => std::thread::available_parallelism().map_or(1, usize::from),
        };
        while *threads < wanted {
            let (burner, clock) = (self.clone(), clock.clone());
            let started =
                std::thread::Builder::new().name("chaos-cpu".to_owned()).spawn(move || burner.run(&*clock));
            if let Err(error) = started {
                tracing::warn!(%error, "a thread that would use up a processor did not start");
                return;
            }
            *threads += 1;
        }
    }

    fn run(&self, clock: &dyn Clock) {
        loop {
            let percent = u64::from(self.percent.load(Ordering::Acquire));
            let busy_until = clock.now().plus(Self::SLICE_MS * percent / 100);
            while clock.now() < busy_until {
                std::hint::spin_loop();
            }
            let idle = Duration::from_millis(Self::SLICE_MS - Self::SLICE_MS * percent / 100);
            let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
            if self.percent.load(Ordering::Acquire) == 0 {
                *threads -= 1;
                return;
            }
            // Nobody rings: it is the time alone that counts.
            drop(self.pause.wait_timeout(threads, idle));
        }
    }
}
