//! Requests that a stranger sends: well formed, in time, and signed wrongly, so that only the verification can tell.

use crate::clock::{self, Clock};
use crate::hooks::event::Event;
use crate::http::{Client, Request, Target};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// A silent node is given up after this.
const TIMEOUT: Duration = Duration::from_secs(10);

/// How much.
#[derive(Debug, Clone, Copy)]
pub struct Flood {
    /// Forged requests a second, all connections.
    pub rate: u64,
    /// Connections.
    pub connections: u64,
    /// Makes the bodies unlike those of others.
    pub seed: u64,
}

impl Flood {
    /// Sends at its pace until `over`; the answers by what they said, `401 SIGNATURE_INVALID` or else.
    pub fn run(&self, clock: Clock, target: SocketAddr, over: &AtomicBool) -> BTreeMap<String, u64> {
        let began = clock.now();
        std::thread::scope(|scope| {
            let connection =
                |number| scope.spawn(move || self.connection(clock, began, number, target, over));
            let running: Vec<_> = (0..self.connections).map(connection).collect();
            let mut all = BTreeMap::new();
            for one in running {
                for (said, count) in one.join().unwrap_or_default() {
                    *all.entry(said).or_default() += count;
                }
            }
            all
        })
    }

    fn connection(
        &self,
        clock: Clock,
        began: u64,
        number: u64,
        target: SocketAddr,
        over: &AtomicBool,
    ) -> BTreeMap<String, u64> {
        let mut client = Client::new(Target::Tcp(target), TIMEOUT);
        let mut said = BTreeMap::new();
        let mut n = number;
        while !over.load(Ordering::SeqCst) {
            let due = began + n * 1_000_000 / self.rate;
            clock::sleep(Duration::from_micros(due.saturating_sub(clock.now())));
            let event = Event::new(self.seed, usize::try_from(n).unwrap_or_default());
            *said.entry(forged(&mut client, &event, clock)).or_default() += 1;
            n += self.connections;
        }
        said
    }
}

fn forged(client: &mut Client, event: &Event, clock: Clock) -> String {
    let (name, value) = event.forged(clock.now() / 1_000_000);
    let headers = [(name, value.as_str()), ("Content-Type", "application/json")];
    let request =
        Request { method: "POST", path: event.provider.path(), headers: &headers, body: &event.body };
    match client.call(&request) {
        Ok(answer) => {
            let body: serde_json::Value = serde_json::from_slice(&answer.body).unwrap_or_default();
            format!("{} {}", answer.status, body["reason"].as_str().unwrap_or_default())
        }
        Err(_) => "no answer".to_owned(),
    }
}
