//! [`Consumer::run`]: a handler for every message, several at once, each settled by what the handler says.

use super::{Consumer, Held};
use crate::error::Error;
use crate::message::{Delivery, Nack};
use futures::FutureExt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// What [`Consumer::run`] did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Worked {
    /// Deliveries whose handler succeeded, acked.
    pub acked: u64,
    /// Deliveries whose handler failed or panicked, given back.
    pub nacked: u64,
    /// Deliveries that could not be settled: their leases were lost, or the node did not answer. They come again.
    pub unsettled: u64,
}

impl Worked {
    fn add(&mut self, other: Worked) {
        self.acked += other.acked;
        self.nacked += other.nacked;
        self.unsettled += other.unsettled;
    }
}

impl Consumer {
    /// Calls `handler` for every message, for at most `concurrency` at once: `Ok` acks, `Err` gives back as the
    /// [`Nack`] that it is (anything that can be printed is a failure with that text as its reason), a panic fails.
    /// Ends after [`Stopper::stop`](super::Stopper::stop), when the running handlers have ended; what was not begun
    /// is given back. Dropping it cuts the handlers off and gives all back.
    ///
    /// # Errors
    /// The refusal that ended it, after the running handlers have ended.
    pub async fn run<H, F, E>(mut self, concurrency: usize, handler: H) -> Result<Worked, Error>
    where
        H: Fn(Delivery) -> F + Send + Sync + 'static,
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<Nack> + Send + 'static,
    {
        let (handler, room) = (Arc::new(handler), Arc::new(Semaphore::new(concurrency.max(1))));
        let (mut handlers, mut worked) = (JoinSet::new(), Worked::default());
        let ended = loop {
            let Ok(permit) = Arc::clone(&room).acquire_owned().await else { break Ok(()) };
            let held = match self.next().await {
                None => break Ok(()),
                Some(Err(error)) => break Err(error),
                Some(Ok(held)) => held,
            };
            let handler = Arc::clone(&handler);
            handlers.spawn(async move {
                let worked = work(held, &*handler).await;
                drop(permit);
                worked
            });
            while let Some(one) = handlers.try_join_next() {
                worked.add(one.unwrap_or_default());
            }
        };
        while let Some(one) = handlers.join_next().await {
            worked.add(one.unwrap_or_default());
        }
        self.close().await;
        ended.map(|()| worked)
    }
}

async fn work<H, F, E>(held: Held, handler: &H) -> Worked
where
    H: Fn(Delivery) -> F,
    F: Future<Output = Result<(), E>>,
    E: Into<Nack>,
{
    let delivery = Delivery::clone(&held);
    // the state of a handler that panicked is not used again
    let said = AssertUnwindSafe(async { handler(delivery).await }).catch_unwind().await;
    let (settled, worked) = match said {
        Ok(Ok(())) => (held.ack().await, Worked { acked: 1, ..Worked::default() }),
        Ok(Err(error)) => (held.nack(error.into()).await, Worked { nacked: 1, ..Worked::default() }),
        Err(_) => {
            let nack = Nack::fail("the handler panicked");
            (held.nack(nack).await, Worked { nacked: 1, ..Worked::default() })
        }
    };
    if settled.is_ok() { worked } else { Worked { unsettled: 1, ..Worked::default() } }
}
