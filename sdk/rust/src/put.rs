//! Objects: bodies that are too long for a message.

use crate::backoff::pause;
use crate::client::Client;
use crate::connection::Connection;
use crate::entropy;
use crate::error::Error;
use crate::repeat::{self, Effect};
use crate::secret::Secret;
use crate::stream::Endpoint;
use bytes::Bytes;
use ron_core::ids::ContentHash;
use std::time::Duration;
use tokio::time::{Instant, sleep};

impl Client {
    /// Stores an object of the tenant's (capability `put`) and gives its address, by which messages refer to it:
    /// [`Message::of_object`](crate::Message::of_object). The node keeps it for an hour, and for as long as a message
    /// refers to it. It travels on a connection of its own, and holds up nothing else. Putting it again changes nothing,
    /// so it is repeated after what passes, as long as there is patience; the last of these attempts is waited for.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::Io`]; [`Error::Invalid`] over HTTP, where objects are put with `POST /put` of the
    /// public port.
    pub async fn put(&self, object: impl Into<Bytes>) -> Result<ContentHash, Error> {
        let (endpoint, token) = self.way_of_objects()?;
        let (object, until) = (object.into(), Instant::now() + self.patience());
        let address = ContentHash::of(&object);
        for failures in 0u32.. {
            let error = match attempt(&endpoint, &token.borrow().clone(), address, &object).await {
                Ok(()) => return Ok(address),
                Err(error) => error,
            };
            let after = match &error {
                Error::Io(_) => Some(Duration::ZERO),
                Error::Refused(refused) => repeat::after_refusal(Effect::Same, refused),
                _ => None,
            };
            let after = after.map(|after| after + pause(failures, entropy::spread()));
            match after.filter(|after| Instant::now() + *after < until) {
                Some(after) => sleep(after).await,
                None => return Err(error),
            }
        }
        Err(Error::Closed)
    }
}

async fn attempt(
    endpoint: &Endpoint,
    token: &Secret,
    address: ContentHash,
    object: &[u8],
) -> Result<(), Error> {
    let mut connection = Connection::at(endpoint).await?;
    connection.authorize(token.text()).await?;
    connection.put(address, object).await
}
