//! Sends events at their appointed times over many connections, and again until they are accepted; an event's own
//! time counts, not when a connection was free for it.

use crate::clock::{self, Clock, Micros};
use crate::hooks::event::Event;
use crate::http::{Answer, Client, Failure, Request, Target};
use crate::rng::Rng;
use serde_json::Value;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A silent node is given up after this; what it did is unknown then.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The first pause after a failed attempt is up to twice this, µs, and each further one up to twice as long.
const PAUSE: Micros = 100_000;
/// Pauses grow no longer than this, µs.
const PAUSE_MAX: Micros = 2_000_000;

/// What a sender was told about one attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// 202.
    Accepted {
        /// Of the message.
        msg_id: String,
        /// It was known already.
        duplicate: bool,
    },
    /// Another complete answer.
    Refused {
        /// Its status.
        status: u16,
        /// Its `reason`; empty if it has none.
        reason: String,
        /// Its header `X-Effect` is `none`.
        no_effect: bool,
        /// It says when to come again.
        retry_after: bool,
    },
    /// No connection: nothing can have happened.
    NotSent,
    /// Sent, and no complete answer came.
    Unknown,
}

/// One attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// When it was to be sent.
    pub due: Micros,
    /// When its answer was complete, or there was to be none.
    pub ended: Micros,
    /// What was said.
    pub told: Told,
}

/// What is sent, and when.
#[derive(Debug)]
pub struct Plan {
    /// When an event is due, in order.
    pub times: Vec<Micros>,
    /// The events' run.
    pub run: u64,
    /// The number of the first.
    pub first: usize,
    /// Refused and unknown ones are sent again until they are accepted.
    pub retries: bool,
    /// Each n-th accepted one is sent once more, as providers do; 0 = none.
    pub repeat_every: usize,
    /// Connections.
    pub connections: usize,
}

/// What is sent to whom, shared by the connections and by whoever disturbs them.
#[derive(Debug)]
pub struct Sending {
    plan: Plan,
    clock: Clock,
    target: Mutex<SocketAddr>,
    state: Mutex<State>,
    under_way: AtomicUsize,
}

#[derive(Debug, Default)]
struct State {
    /// Events from here on were not tried yet.
    next: usize,
    /// Due again.
    again: BinaryHeap<Reverse<(Micros, usize)>>,
    /// Being tried.
    taken: usize,
    told: Vec<Vec<Attempt>>,
    stopped: bool,
}

/// What a connection is to do next.
enum Turn {
    Send(Micros, usize),
    /// Nothing now, but what others have under way may come back.
    Wait,
    Over,
}

impl Sending {
    /// Nothing is sent before [`Sending::run`].
    #[must_use]
    pub fn new(plan: Plan, clock: Clock, target: SocketAddr) -> Sending {
        let told = vec![Vec::new(); plan.times.len()];
        let state = Mutex::new(State { told, ..State::default() });
        Sending { plan, clock, target: Mutex::new(target), state, under_way: AtomicUsize::new(0) }
    }

    /// The node has moved.
    pub fn move_to(&self, target: SocketAddr) {
        *lock(&self.target) = target;
    }

    /// Requests that wait for their answers now.
    pub fn under_way(&self) -> usize {
        self.under_way.load(Ordering::SeqCst)
    }

    /// Nothing is sent from now on; what is not accepted by then stays so.
    pub fn stop(&self) {
        lock(&self.state).stopped = true;
    }

    /// Sends everything; returns when all is accepted, or nothing is to be sent again.
    pub fn run(&self) {
        std::thread::scope(|scope| {
            for n in 0..self.plan.connections {
                scope.spawn(move || self.connection(n));
            }
        });
    }

    /// The events that were tried, and what was told about each.
    #[must_use]
    pub fn into_told(self) -> Vec<(Event, Vec<Attempt>)> {
        let Plan { run, first, .. } = self.plan;
        let told = self.state.into_inner().unwrap_or_else(PoisonError::into_inner).told;
        let tried = told.into_iter().enumerate().filter(|(_, attempts)| !attempts.is_empty());
        tried.map(|(n, attempts)| (Event::new(run, first + n), attempts)).collect()
    }

    fn turn(&self) -> Turn {
        let mut state = lock(&self.state);
        let fresh = self.plan.times.get(state.next).copied();
        let again = state.again.peek().map(|Reverse((at, _))| *at);
        let first_is_fresh = fresh.is_some_and(|at| again.is_none_or(|again| at <= again));
        let turn = if state.stopped {
            Turn::Over
        } else if first_is_fresh && let Some(at) = fresh {
            state.next += 1;
            Turn::Send(at, state.next - 1)
        } else if let Some(Reverse((at, n))) = state.again.pop() {
            Turn::Send(at, n)
        } else if state.taken > 0 {
            Turn::Wait
        } else {
            Turn::Over
        };
        if matches!(turn, Turn::Send(..)) {
            state.taken += 1;
        }
        turn
    }

    fn connection(&self, number: usize) {
        let mut rng = Rng::new(u64::try_from(number).unwrap_or_default(), 77);
        let mut client = Client::new(Target::Tcp(*lock(&self.target)), TIMEOUT);
        loop {
            match self.turn() {
                Turn::Over => return,
                Turn::Wait => clock::sleep(Duration::from_millis(5)),
                Turn::Send(due, n) => {
                    clock::sleep(Duration::from_micros(due.saturating_sub(self.clock.now())));
                    let target = Target::Tcp(*lock(&self.target));
                    if *client.target() != target {
                        client = Client::new(target, TIMEOUT);
                    }
                    let told = self.send(&mut client, n);
                    self.ended(n, due, told, &mut rng);
                }
            }
        }
    }

    fn send(&self, client: &mut Client, n: usize) -> Told {
        let event = Event::new(self.plan.run, self.plan.first + n);
        let (name, value) = event.signature(self.clock.now() / 1_000_000);
        let headers = [(name, value.as_str()), ("Content-Type", "application/json")];
        let request =
            Request { method: "POST", path: event.provider.path(), headers: &headers, body: &event.body };
        self.under_way.fetch_add(1, Ordering::SeqCst);
        let answer = client.call(&request);
        self.under_way.fetch_sub(1, Ordering::SeqCst);
        match answer {
            Ok(answer) => read(&answer),
            Err(Failure::NotSent(_)) => Told::NotSent,
            Err(Failure::Unknown(_)) => Told::Unknown,
        }
    }

    fn ended(&self, n: usize, due: Micros, told: Told, rng: &mut Rng) {
        let now = self.clock.now();
        let mut state = lock(&self.state);
        state.taken -= 1;
        let State { told: all, again, .. } = &mut *state;
        let Some(attempts) = all.get_mut(n) else { return };
        let is_accepted = |attempt: &Attempt| matches!(attempt.told, Told::Accepted { .. });
        let known = attempts.iter().any(is_accepted);
        let attempt = Attempt { due, ended: now, told };
        let pause = PAUSE << attempts.len().min(8);
        if is_accepted(&attempt) {
            if !known && self.plan.repeat_every > 0 && n.is_multiple_of(self.plan.repeat_every) {
                again.push(Reverse((now + rng.between(PAUSE, 10 * PAUSE), n)));
            }
        } else if self.plan.retries {
            again.push(Reverse((now + rng.between(PAUSE / 2, 2 * pause.min(PAUSE_MAX / 2)), n)));
        }
        attempts.push(attempt);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read(answer: &Answer) -> Told {
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    if answer.status == 202 && body["accepted"] == true {
        let msg_id = body["msg_id"].as_str().unwrap_or_default().to_owned();
        return Told::Accepted { msg_id, duplicate: body["duplicate"] == true };
    }
    Told::Refused {
        status: answer.status,
        reason: body["reason"].as_str().unwrap_or_default().to_owned(),
        no_effect: answer.header("x-effect") == Some("none"),
        retry_after: answer.header("retry-after").is_some(),
    }
}
