//! [`Consumer`]: messages as they come, each leased for as long as it is worked on.
//!
//! It asks by long polls for as many messages as it has room for: that goes over both transports, needs no state of
//! the connection, so that a broken one is nothing but a poll that is asked again, and never brings more than was
//! asked for.

mod held;
mod lease;
mod work;

pub use held::Held;
pub use work::Worked;

use crate::backoff::pause;
use crate::client::Client;
use crate::entropy;
use crate::error::Error;
use crate::message::{Nack, Want, whole_ms};
use lease::Leases;
use ron_core::ids::Topic;
use ron_core::receipt::Receipt;
use std::pin::pin;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

/// How long a poll waits.
const POLL: Duration = Duration::from_secs(20);
/// A stopped consumer waits so long for the answer to its last poll.
const LAST_POLL: Duration = Duration::from_millis(100);
/// Messages of one poll, at most.
const POLL_MAX: usize = 256;

/// How a [`Consumer`] is to behave.
#[derive(Debug, Clone)]
pub struct ConsumerBuilder {
    client: Client,
    topic: String,
    max_in_flight: usize,
    visibility: Duration,
    max_hold: Duration,
}

impl ConsumerBuilder {
    pub(crate) fn new(client: Client, topic: &str) -> ConsumerBuilder {
        let (visibility, max_hold) = (Duration::from_secs(30), Duration::from_secs(3_600));
        ConsumerBuilder { client, topic: topic.to_owned(), max_in_flight: 32, visibility, max_hold }
    }

    /// Deliveries held at once, those that wait for [`Consumer::next`] included: 1 to 4096; 32 unless told.
    #[must_use]
    pub fn max_in_flight(mut self, max_in_flight: usize) -> ConsumerBuilder {
        self.max_in_flight = max_in_flight.clamp(1, 4_096);
        self
    }

    /// The lease: 250 ms to 12 h; 30 s unless told. It is extended every third of it, so this is how soon others get
    /// the messages of a consumer that dies.
    #[must_use]
    pub fn visibility(mut self, visibility: Duration) -> ConsumerBuilder {
        self.visibility = visibility;
        self
    }

    /// How long one delivery is held at most; 1 h unless told. After that its lease is extended no more, and the
    /// message comes again, counted as an attempt.
    #[must_use]
    pub fn max_hold(mut self, max_hold: Duration) -> ConsumerBuilder {
        self.max_hold = max_hold;
        self
    }

    /// Starts it. Needs a capability for recv, ack and nack.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a bad topic or visibility. What the node refuses [`Consumer::next`] says.
    pub fn start(self) -> Result<Consumer, Error> {
        let bad = |text: String| Err(Error::Invalid(text));
        if let Err(error) = Topic::parse(&self.topic) {
            return bad(error.to_string());
        }
        if !(250..=43_200_000).contains(&whole_ms(self.visibility)) {
            return bad("visibility is 250 ms to 12 h".to_owned());
        }
        let beat = self.visibility / 3;
        let beats = u32::try_from(self.max_hold.as_nanos() / beat.as_nanos().max(1)).unwrap_or(u32::MAX);
        let (stop, stopped) = watch::channel(false);
        let (release, given_back) = mpsc::channel(self.max_in_flight);
        let room = Arc::new(Semaphore::new(self.max_in_flight));
        let shared = Arc::new(Shared {
            client: self.client.clone(),
            topic: self.topic.clone(),
            visibility: self.visibility,
            leases: Leases::new(beats),
            room: Arc::clone(&room),
            release,
        });
        // one more for the error that ends it
        let (hand, came) = mpsc::channel(self.max_in_flight + 1);
        tokio::spawn(give_back(self.client, self.topic, given_back));
        tokio::spawn(keep(Arc::downgrade(&shared), beat));
        tokio::spawn(Arc::clone(&shared).fetch(hand, stopped));
        Ok(Consumer { came, stop: Stopper(Arc::new(stop)), room, max_in_flight: self.max_in_flight as u32 })
    }
}

/// Messages of a topic as they come. Dropped, it gives back what it has not handed out.
#[derive(Debug)]
pub struct Consumer {
    came: mpsc::Receiver<Result<Held, Error>>,
    stop: Stopper,
    room: Arc<Semaphore>,
    max_in_flight: u32,
}

/// Stops a [`Consumer`] from elsewhere.
#[derive(Debug, Clone)]
pub struct Stopper(Arc<watch::Sender<bool>>);

impl Stopper {
    /// No further messages: [`Consumer::next`] ends, [`Consumer::run`] when its handlers have.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }
}

impl Consumer {
    /// The next message, when it comes; `None` after a stop. Cancel-safe. An error is the last that comes: the node
    /// refuses, and would again.
    pub async fn next(&mut self) -> Option<Result<Held, Error>> {
        let mut stopped = self.stop.0.subscribe();
        tokio::select! {
            biased;
            _ = stopped.wait_for(|stopped| *stopped) => None,
            came = self.came.recv() => came,
        }
    }

    /// What stops it from elsewhere.
    #[must_use]
    pub fn stopper(&self) -> Stopper {
        self.stop.clone()
    }

    /// Stops, gives back what was not handed out, and waits until all that was handed out is settled or dropped.
    pub async fn close(mut self) {
        self.stop.stop();
        self.came.close();
        while self.came.recv().await.is_some() {}
        let _ = self.room.acquire_many(self.max_in_flight).await;
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.stop.stop();
    }
}

/// What the deliveries of a consumer share with it.
#[derive(Debug)]
struct Shared {
    client: Client,
    topic: String,
    visibility: Duration,
    leases: Leases,
    room: Arc<Semaphore>,
    /// A permit travels with each, so there is always room.
    release: mpsc::Sender<(Receipt, OwnedSemaphorePermit)>,
}

impl Shared {
    /// Asks for as many as there is room for, again and again.
    async fn fetch(
        self: Arc<Self>,
        hand: mpsc::Sender<Result<Held, Error>>,
        mut stopped: watch::Receiver<bool>,
    ) {
        let no_more = stopped.clone();
        let polling = async {
            let mut failures = 0;
            while !*no_more.borrow() && !hand.is_closed() {
                let Some(permits) = self.permits().await else { return };
                let want = Want::up_to(permits.len() as u32).wait(POLL).visibility(self.visibility);
                match self.client.recv(&self.topic, want).await {
                    Ok(list) => {
                        failures = 0;
                        // all of them held before the first is handed on: whatever is dropped then is given back
                        let held = list.into_iter().zip(permits);
                        let held: Vec<Held> = held
                            .map(|(delivery, permit)| Held::new(Arc::clone(&self), delivery, permit))
                            .collect();
                        for held in held {
                            if hand.send(Ok(held)).await.is_err() {
                                return;
                            }
                        }
                    }
                    Err(error) if passes(&error) => {
                        drop(permits);
                        failures += 1;
                        sleep(pause(failures, entropy::spread())).await;
                    }
                    Err(error) => {
                        let _ = hand.send(Err(error)).await; // nobody listens any more: fine
                        return;
                    }
                }
            }
        };
        let mut polling = pin!(polling);
        tokio::select! {
            () = &mut polling => return,
            () = hand.closed() => {}
            _ = stopped.wait_for(|stopped| *stopped) => {}
        }
        // What is being answered right now would be nobody's until its lease ends; a poll that waits is given up.
        let _ = timeout(LAST_POLL, polling).await;
    }

    /// Room for one message at least.
    async fn permits(&self) -> Option<Vec<OwnedSemaphorePermit>> {
        let mut permits = vec![Arc::clone(&self.room).acquire_owned().await.ok()?];
        while permits.len() < POLL_MAX {
            match Arc::clone(&self.room).try_acquire_owned() {
                Ok(permit) => permits.push(permit),
                Err(_) => break,
            }
        }
        Some(permits)
    }
}

/// Whether the next poll may go well.
fn passes(error: &Error) -> bool {
    match error {
        Error::Timeout { .. } | Error::Io(_) | Error::Unknown => true,
        Error::Refused(refused) => matches!(refused.code, 429 | 500..),
        Error::Protocol(_) | Error::Invalid(_) | Error::Closed => false,
    }
}

/// Extends the leases of all that is held, until the last of it is gone.
async fn keep(shared: Weak<Shared>, beat: Duration) {
    let mut beats = interval(beat);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    beats.tick().await; // the first is at once
    loop {
        beats.tick().await;
        let Some(shared) = shared.upgrade() else { return };
        let due = shared.leases.due();
        let receipts: Vec<Receipt> = due.iter().map(|(_, receipt)| *receipt).collect();
        if receipts.is_empty() {
            continue;
        }
        let extending = shared.client.extend(&shared.topic, &receipts, shared.visibility);
        if let Ok(Ok(results)) = timeout(shared.visibility, extending).await {
            for ((serial, _), result) in due.into_iter().zip(results) {
                if result.is_err() {
                    shared.leases.lost(serial);
                }
            }
        }
    }
}

/// Releases what was dropped unsettled; those that come together in one request.
async fn give_back(
    client: Client,
    topic: String,
    mut given_back: mpsc::Receiver<(Receipt, OwnedSemaphorePermit)>,
) {
    let mut some = Vec::new();
    while given_back.recv_many(&mut some, POLL_MAX).await > 0 {
        let (receipts, permits): (Vec<Receipt>, Vec<_>) = some.drain(..).unzip();
        // what the node never hears of comes again when the lease ends
        let _ = client.nack(&topic, &receipts, Nack::release()).await;
        drop(permits);
    }
}
