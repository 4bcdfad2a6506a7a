//! The load: many clients that send, receive and settle in every way, across the kills of the node.

mod binary;
mod consumer;
pub mod drain;
pub mod plan;
mod producer;
pub mod session;
mod wire;

use crate::clock::{Clock, Micros};
use crate::history::Got;
use crate::journal::Journal;
use crate::node::Addresses;
use plan::Plan;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// Accepted keyed sends that are kept to be sent again.
const KNOWN_MAX: usize = 4096;
/// Deliveries whose receipts are kept to be tried when superseded.
const OLD_RECEIPTS_MAX: usize = 100_000;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // a client that panicked leaves plain data behind, which stays usable
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Which node is up, if any.
#[derive(Debug, Default)]
pub struct Cluster {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    generation: u64,
    up: Option<Addresses>,
    over: bool,
    first_recv: Option<Micros>,
}

impl Cluster {
    /// A node is up at these addresses.
    pub fn up(&self, addresses: Addresses) {
        let mut state = lock(&self.state);
        state.generation += 1;
        state.up = Some(addresses);
        state.first_recv = None;
        self.changed.notify_all();
    }

    /// No node is up.
    pub fn down(&self) {
        lock(&self.state).up = None;
    }

    /// No request may start any more.
    pub fn over(&self) {
        lock(&self.state).over = true;
        self.changed.notify_all();
    }

    /// Waits for a node; `None` when the run is over.
    fn wait_up(&self) -> Option<(u64, Addresses)> {
        let mut state = lock(&self.state);
        loop {
            if state.over {
                return None;
            }
            if let Some(addresses) = state.up {
                return Some((state.generation, addresses));
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn first_recv_answered(&self, at: Micros) {
        let mut state = lock(&self.state);
        if state.first_recv.is_none() {
            state.first_recv = Some(at);
            self.changed.notify_all();
        }
    }

    /// When the present node answered its first receive.
    #[must_use]
    pub fn first_recv(&self) -> Option<Micros> {
        lock(&self.state).first_recv
    }
}

/// What all clients of a run share.
#[derive(Debug)]
pub struct Shared {
    /// The run's seed.
    pub seed: u64,
    /// The run's time line.
    pub clock: Clock,
    /// Where everything is written down.
    pub journal: Journal,
    /// Which node is up.
    pub cluster: Cluster,
    /// The capability of all clients.
    pub token: String,
    /// Sends and settlings written whose answers are not read.
    pub writes_in_flight: AtomicU64,
    /// Receives written whose answers are not read.
    pub recvs_in_flight: AtomicU64,
    next_send: AtomicU64,
    stopping: AtomicBool,
    known: Mutex<VecDeque<Plan>>,
    open: Mutex<Vec<Plan>>,
    old_receipts: Mutex<HashMap<String, Got>>,
}

impl Shared {
    /// A run without clients yet.
    #[must_use]
    pub fn new(seed: u64, clock: Clock, journal: Journal, token: String) -> Shared {
        Shared {
            seed,
            clock,
            journal,
            cluster: Cluster::default(),
            token,
            writes_in_flight: AtomicU64::new(0),
            recvs_in_flight: AtomicU64::new(0),
            next_send: AtomicU64::new(1),
            stopping: AtomicBool::new(false),
            known: Mutex::default(),
            open: Mutex::default(),
            old_receipts: Mutex::default(),
        }
    }

    fn next_send(&self) -> u64 {
        self.next_send.fetch_add(1, Ordering::Relaxed)
    }

    fn stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// Keeps an accepted keyed send, to be sent again some time.
    fn remember(&self, plan: &Plan) {
        let mut known = lock(&self.known);
        if known.len() >= KNOWN_MAX {
            known.pop_front();
        }
        known.push_back(plan.clone());
    }

    /// Notes a delivery and gives the receipt that it supersedes, if that is still known.
    fn supersede(&self, got: &Got) -> Option<Got> {
        let mut old = lock(&self.old_receipts);
        if old.len() >= OLD_RECEIPTS_MAX {
            old.clear();
        }
        old.insert(got.msg_id.clone(), got.clone()).filter(|before| before.delivery < got.delivery)
    }
}

/// The clients of a run.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// How many clients of each kind a run has.
#[derive(Debug, Clone, Copy)]
pub struct Clients {
    /// Clients that send.
    pub producers: u64,
    /// Clients that receive and settle.
    pub consumers: u64,
    /// Percent of either that do so over OAP/1.
    pub over_oap: u64,
}

impl Load {
    /// Starts the clients; they wait until a node is up.
    #[must_use]
    pub fn start(shared: &Arc<Shared>, clients: Clients) -> Load {
        let mut threads = Vec::new();
        for number in 0..clients.producers {
            let binary = number * 37 % 100 < clients.over_oap;
            let session = session::Session::new(shared, 1_000 + number).over_oap(binary);
            threads.push(std::thread::spawn(move || producer::run(session, number)));
        }
        for number in 0..clients.consumers {
            // the other way round, so that what came in one way goes out the other, too
            let binary = (number * 37 + 50) % 100 < clients.over_oap;
            let session = session::Session::new(shared, 100_000 + number).over_oap(binary);
            threads.push(std::thread::spawn(move || consumer::run(session, number)));
        }
        Load { shared: Arc::clone(shared), threads }
    }

    /// Lets every client finish what it is doing; the node must be up.
    pub fn stop(self) {
        self.shared.stopping.store(true, Ordering::Relaxed);
        for thread in self.threads {
            let _ = thread.join();
        }
    }
}
