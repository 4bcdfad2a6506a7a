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
use tokio::time::{sleep, timeout};

impl Client {
    /// Stores an object of the tenant's (capability `put`) and gives its address, by which messages refer to it:
    /// [`Message::of_object`](crate::Message::of_object). The node keeps it for an hour, and for as long as a
    /// message refers to it. It travels on a connection of its own, and holds up nothing else. Putting it again
    /// changes nothing, so it is repeated after what passes, as long as there is patience.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::Io`]; [`Error::Timeout`] when the patience ends; [`Error::Invalid`] over HTTP,
    /// where objects are put with `POST /put` of the public port.
    pub async fn put(&self, object: impl Into<Bytes>) -> Result<ContentHash, Error> {
        let (endpoint, token) = self.way_of_objects()?;
        let object = object.into();
        let (address, after) = (ContentHash::of(&object), self.patience());
        let mut last = None;
        let stored = async {
            for failures in 0u32.. {
                let put = attempt(&endpoint, &token.borrow().clone(), address, &object).await;
                let Err(error) = put else { return Ok(address) };
                let Some(pass) = passes_in(&error) else { return Err(error) };
                last = Some(error);
                sleep(pass + pause(failures, entropy::spread())).await;
            }
            Err(Error::Closed)
        };
        match timeout(after, stored).await {
            Ok(done) => done,
            Err(_) => Err(last.unwrap_or(Error::Timeout { after, trouble: None })),
        }
    }
}

/// When what went wrong may have passed; `None` = it stays.
fn passes_in(error: &Error) -> Option<Duration> {
    match error {
        Error::Io(_) => Some(Duration::ZERO),
        Error::Refused(refused) => repeat::after_refusal(Effect::Same, refused),
        _ => None,
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
