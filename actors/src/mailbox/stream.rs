//! A consumer that receives again and again, and says how many deliveries it will hold unsettled.

use super::api::{Delivery, Mailbox, admit, received};
use super::directory::Entry;
use super::messages::ShardMsg;
use crate::kernel::admission::Permit;
use ron_core::ids::QueueKey;
use ron_core::reason::Refusal;
use ron_core::shard::{StreamId, Want};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// An open stream. Dropping it closes it; what was delivered stays leased until it is settled or its time is up.
#[derive(Debug)]
pub struct DeliveryStream {
    mailbox: Mailbox,
    entry: Arc<Entry>,
    stream: StreamId,
    /// Its place among the queue's requests, for as long as it lives.
    _permit: Permit,
}

impl Mailbox {
    /// Opens a stream that never holds more than `max_inflight` unsettled deliveries.
    ///
    /// # Errors
    /// BACKPRESSURE: too many streams, requests or topics; otherwise as for [`Mailbox::recv`].
    pub async fn open_stream(&self, queue: &QueueKey, max_inflight: u32) -> Result<DeliveryStream, Refusal> {
        let entry = self.directory().get_or_create(queue)?;
        let permit = admit(&entry.requests, 0)?;
        let stream = StreamId(entry.next_waiter());
        // Made before it is asked for: a caller that goes away meanwhile leaves no stream behind.
        let made = DeliveryStream { mailbox: self.clone(), entry, stream, _permit: permit };
        let (reply, answer) = oneshot::channel();
        self.send(&made.entry, ShardMsg::OpenStream(stream, max_inflight, reply)).await?;
        received(answer.await)?;
        Ok(made)
    }
}

impl DeliveryStream {
    /// The next messages, no more than the stream may still hold; empty if there are none within `wait`. Waits also
    /// where [`Mailbox::recv`] is refused because too much is in flight.
    ///
    /// # Errors
    /// The stream is over: the queue was loaded anew or cannot be reached.
    pub async fn next(&mut self, want: Want, wait: Duration) -> Result<Delivery, Refusal> {
        self.mailbox.recv_at(&self.entry, want, wait, Some(self.stream), None).await
    }
}

impl Drop for DeliveryStream {
    fn drop(&mut self) {
        // An actor that is down has forgotten its streams.
        let _ = self.entry.handle.cast(ShardMsg::CloseStream(self.stream));
    }
}
