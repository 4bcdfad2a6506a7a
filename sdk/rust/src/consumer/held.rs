//! [`Held`]: a delivery whose lease is kept for as long as the value lives.

use super::Shared;
use crate::error::{Error, Refused};
use crate::message::{Delivery, Nack};
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::OwnedSemaphorePermit;

/// A delivery of a [`Consumer`](crate::Consumer). Its lease is extended until it is settled or dropped; dropped
/// unsettled it is released, and comes again without counting as an attempt.
#[derive(Debug)]
pub struct Held {
    delivery: Delivery,
    shared: Arc<Shared>,
    serial: u64,
    lost: Arc<AtomicBool>,
    /// Taken when it is settled.
    permit: Option<OwnedSemaphorePermit>,
}

impl Held {
    pub(super) fn new(shared: Arc<Shared>, delivery: Delivery, permit: OwnedSemaphorePermit) -> Held {
        let (serial, lost) = shared.leases.add(delivery.receipt);
        Held { delivery, shared, serial, lost, permit: Some(permit) }
    }

    /// Whether its lease was lost: to an operator, to a purge, or because it was held too long. What is done from
    /// then on somebody else may be doing, too.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Acquire)
    }

    /// The message is done.
    ///
    /// # Errors
    /// [`Error::Refused`] with STALE_RECEIPT if the delivery is no longer this consumer's; else as
    /// [`crate::Client::ack`].
    pub async fn ack(mut self) -> Result<(), Error> {
        let settled = self.shared.client.ack(&self.shared.topic, &[self.delivery.receipt]).await;
        self.settled(settled)
    }

    /// Gives it back.
    ///
    /// # Errors
    /// As [`Held::ack`].
    pub async fn nack(mut self, nack: Nack) -> Result<(), Error> {
        let settled = self.shared.client.nack(&self.shared.topic, &[self.delivery.receipt], nack).await;
        self.settled(settled)
    }

    /// After an answer nothing is left to give back; without one the release is tried once more when this is dropped.
    fn settled(&mut self, settled: Result<Vec<Result<(), Refused>>, Error>) -> Result<(), Error> {
        let result = settled?.pop().ok_or(Error::Protocol("settling without results"))?;
        self.permit = None;
        Ok(result?)
    }
}

impl Deref for Held {
    type Target = Delivery;

    fn deref(&self) -> &Delivery {
        &self.delivery
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.shared.leases.end(self.serial);
        if let Some(permit) = self.permit.take() {
            // the permit keeps a place in the channel
            let _ = self.shared.release.try_send((self.delivery.receipt, permit));
        }
    }
}
