//! [`Client`]: the mailbox for any number of callers at once.

use crate::backoff::pause;
use crate::call::{Ask, Call, Each, LIST_MAX, Outcome, Settle};
use crate::consumer::ConsumerBuilder;
use crate::entropy;
use crate::error::{Error, Refused};
use crate::message::{Delivery, Message, Nack, Sent, Want, whole_ms};
use crate::over_http::Http;
use crate::pipeline::Pool;
use crate::repeat;
use crate::secret::Secret;
use crate::stream::Endpoint;
use crate::tls::Tls;
use data_encoding::BASE64URL_NOPAD;
use ron_core::ids::Topic;
use ron_core::receipt::Receipt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

/// How long a call may take in all, unless told.
const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes of a batch, at most: with what stands around the payloads it fits into a frame.
const BATCH_BYTES: usize = 1_000_000;
/// What stands around a payload, at most, beside its texts.
const AROUND: usize = 64;

/// How a [`Client`] behaves.
#[derive(Debug, Clone)]
pub struct Builder {
    patience: Duration,
    make_keys: bool,
    connections: usize,
    tls: Option<Tls>,
}

impl Default for Builder {
    fn default() -> Builder {
        Builder { patience: PATIENCE, make_keys: false, connections: 1, tls: None }
    }
}

impl Builder {
    /// How long a call may take in all, repetitions after broken connections and refusals included, beside what a
    /// receive waits; 30 s unless told.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Builder {
        self.patience = patience;
        self
    }

    /// Gives every message without an idempotency key a random one, so that every send may be repeated. The node keeps
    /// keys for the topic's `dedup_window_ms`, in bounded number.
    #[must_use]
    pub fn make_keys(mut self) -> Builder {
        self.make_keys = true;
        self
    }

    /// OAP/1 connections, 1 to 64; 1 unless told. All that concerns a topic goes over one of them.
    #[must_use]
    pub fn connections(mut self, connections: usize) -> Builder {
        self.connections = connections.clamp(1, 64);
        self
    }

    /// Speaks TLS, over OAP/1 and HTTP; unencrypted otherwise.
    #[must_use]
    pub fn tls(mut self, tls: Tls) -> Builder {
        self.tls = Some(tls);
        self
    }

    /// A client over OAP/1 of the listener at `HOST:PORT`, with a capability. It connects at once, and again when a
    /// connection breaks, for as long as it lives.
    ///
    /// # Errors
    /// [`Error::Io`] if nobody answers, [`Error::Refused`] if the capability does not count.
    pub async fn connect(self, address: &str, token: &str) -> Result<Client, Error> {
        let (shown, token) = watch::channel(Secret::new(token));
        let pool = Pool::connect(Endpoint::new(address, self.tls.clone()), &token, self.connections).await?;
        Ok(self.client(Way::Oap(pool), shown))
    }

    /// A client over HTTP of the listener at `http://HOST:PORT`, or `https://HOST:PORT` with
    /// [`Builder::tls`], with a capability. It connects when it is used.
    ///
    /// # Errors
    /// [`Error::Invalid`] if that is no such URL, or the text no capability.
    pub fn http(self, url: &str, token: &str) -> Result<Client, Error> {
        let (shown, token) = watch::channel(Secret::new(token));
        let http = Http::new(url, self.tls.clone(), token)?;
        Ok(self.client(Way::Http(http), shown))
    }

    fn client(self, way: Way, token: watch::Sender<Secret>) -> Client {
        Client { inner: Arc::new(Inner { way, token, options: self }) }
    }
}

/// A client of a node's mailbox: cheap to clone, for any number of callers at once. Callers wait while as much is
/// outstanding as the node allows; none fails because of it.
///
/// What a broken connection interrupts is repeated on the next one: settling, receives, and sends with an idempotency
/// key. A send without a key that may have arrived is answered with [`Error::Unknown`]. Refusals that pass (429, 503)
/// are repeated in the time that the node says, as long as the caller has patience.
#[derive(Debug, Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    way: Way,
    token: watch::Sender<Secret>,
    options: Builder,
}

#[derive(Debug)]
enum Way {
    Oap(Pool),
    Http(Http),
}

impl Client {
    /// How a client is to behave.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// As [`Builder::connect`], with defaults.
    ///
    /// # Errors
    /// See there.
    pub async fn connect(address: &str, token: &str) -> Result<Client, Error> {
        Builder::default().connect(address, token).await
    }

    /// As [`Builder::http`], with defaults.
    ///
    /// # Errors
    /// See there.
    pub fn http(url: &str, token: &str) -> Result<Client, Error> {
        Builder::default().http(url, token)
    }

    /// Shows another capability of the same tenant from now on, such as one that lives longer.
    pub fn set_token(&self, token: &str) {
        self.inner.token.send_replace(Secret::new(token));
    }

    /// Stores a message. When this returns it is as safe as [`Sent::durability`] says.
    ///
    /// # Errors
    /// [`Error::Refused`]; [`Error::Unknown`] for a message without a key; [`Error::Timeout`] when the patience ends;
    /// [`Error::Invalid`].
    pub async fn send(&self, topic: &str, message: Message) -> Result<Sent, Error> {
        let ask = Ask::Send(self.keyed(message)?);
        let sent = self.sent(topic, ask).await?.pop().ok_or(Error::Protocol("a send without a result"))?;
        Ok(sent?)
    }

    /// Stores messages, in as few requests as it takes; one result each, in order. Those of one request are one commit.
    pub async fn send_all(&self, topic: &str, messages: Vec<Message>) -> Vec<Result<Sent, Error>> {
        let mut results = Vec::with_capacity(messages.len());
        for mut batch in batches(messages) {
            let count = batch.len();
            let keyed: Result<Vec<Message>, Error> = batch.drain(..).map(|one| self.keyed(one)).collect();
            let sent = match keyed {
                Ok(mut one) if count == 1 => match one.pop() {
                    Some(message) => self.sent(topic, Ask::Send(message)).await,
                    None => continue,
                },
                Ok(many) => self.sent(topic, Ask::SendAll(many)).await,
                Err(error) => Err(error),
            };
            match sent {
                Ok(each) => results.extend(each.into_iter().map(|one| one.map_err(Error::from))),
                Err(error) => results.extend((0..count).map(|_| Err(error.same()))),
            }
        }
        results
    }

    /// Receives messages. Dropping this is safe: what is handed out nevertheless is released, as far as it is noticed
    /// before the answer is here, else hidden until its lease ends.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::Timeout`], [`Error::Invalid`].
    pub async fn recv(&self, topic: &str, want: Want) -> Result<Vec<Delivery>, Error> {
        match self.call(topic, Ask::Recv(want)).await? {
            Outcome::Delivered(list) => Ok(list),
            Outcome::Sent(_) | Outcome::Settled(_) => Err(Error::Protocol("a receive without messages")),
        }
    }

    /// The deliveries' messages are done. One result each, in order: `Err` with STALE_RECEIPT if a delivery is no
    /// longer this consumer's.
    ///
    /// # Errors
    /// [`Error::Refused`] for the request as a whole, [`Error::Timeout`], [`Error::Invalid`].
    pub async fn ack(&self, topic: &str, receipts: &[Receipt]) -> Result<Each<()>, Error> {
        self.settle(topic, receipts, Settle::Ack).await
    }

    /// Gives deliveries back.
    ///
    /// # Errors
    /// As [`Client::ack`].
    pub async fn nack(&self, topic: &str, receipts: &[Receipt], nack: Nack) -> Result<Each<()>, Error> {
        self.settle(topic, receipts, Settle::Nack(nack)).await
    }

    /// More time for deliveries: from now, whole ms, 250 ms to 12 h.
    ///
    /// # Errors
    /// As [`Client::ack`].
    pub async fn extend(
        &self,
        topic: &str,
        receipts: &[Receipt],
        visibility: Duration,
    ) -> Result<Each<()>, Error> {
        self.settle(topic, receipts, Settle::Extend(whole_ms(visibility))).await
    }

    /// A consumer of a topic, which holds leases for as long as its messages are worked on.
    #[must_use]
    pub fn consumer(&self, topic: &str) -> ConsumerBuilder {
        ConsumerBuilder::new(self.clone(), topic)
    }

    /// Where objects go, and who puts them.
    pub(crate) fn way_of_objects(&self) -> Result<(Endpoint, watch::Receiver<Secret>), Error> {
        match &self.inner.way {
            Way::Oap(pool) => Ok((pool.endpoint().clone(), self.inner.token.subscribe())),
            Way::Http(_) => {
                let text = "objects are put over OAP/1, or with POST /put of the node's public port";
                Err(Error::Invalid(text.to_owned()))
            }
        }
    }

    /// How long a call may take in all.
    pub(crate) fn patience(&self) -> Duration {
        self.inner.options.patience
    }

    async fn settle(&self, topic: &str, receipts: &[Receipt], how: Settle) -> Result<Each<()>, Error> {
        let mut results = Vec::with_capacity(receipts.len());
        for some in receipts.chunks(LIST_MAX) {
            match self.call(topic, Ask::Settle(some.to_vec(), how.clone())).await? {
                Outcome::Settled(each) => results.extend(each),
                Outcome::Sent(_) | Outcome::Delivered(_) => {
                    return Err(Error::Protocol("settling without results"));
                }
            }
        }
        Ok(results)
    }

    async fn sent(&self, topic: &str, ask: Ask) -> Result<Each<Sent>, Error> {
        match self.call(topic, ask).await? {
            Outcome::Sent(each) => Ok(each),
            Outcome::Delivered(_) | Outcome::Settled(_) => Err(Error::Protocol("a send without results")),
        }
    }

    /// Asks until there is an answer that stands, or the patience ends.
    async fn call(&self, topic: &str, ask: Ask) -> Result<Outcome, Error> {
        let topic = Topic::parse(topic).map_err(|bad| Error::Invalid(bad.to_string()))?;
        let call = Call { topic: topic.as_str().to_owned(), ask };
        let limit = self.inner.options.patience + Duration::from_millis(call.wait_ms());
        let last = Mutex::new(None);
        match timeout(limit, self.until_answered(&call, &last)).await {
            Ok(done) => done,
            Err(_) => {
                Err(self.out_of_patience(limit, last.into_inner().unwrap_or_else(PoisonError::into_inner)))
            }
        }
    }

    fn out_of_patience(&self, after: Duration, last: Option<Refused>) -> Error {
        let trouble = match &self.inner.way {
            Way::Oap(pool) => pool.trouble(),
            Way::Http(http) => http.trouble(),
        };
        match last {
            Some(refused) => refused.into(),
            None => Error::Timeout { after, trouble },
        }
    }

    async fn until_answered(&self, call: &Call, last: &Mutex<Option<Refused>>) -> Result<Outcome, Error> {
        for failures in 0u32.. {
            let asked = match &self.inner.way {
                Way::Oap(pool) => pool.call(call).await,
                Way::Http(http) => http.call(call).await,
            };
            let Err(Error::Refused(refused)) = asked else { return asked };
            let Some(after) = repeat::after_refusal(call.effect(), &refused) else {
                return Err(refused.into());
            };
            *last.lock().unwrap_or_else(PoisonError::into_inner) = Some(refused);
            sleep(after + pause(failures, entropy::spread())).await;
        }
        Err(Error::Closed)
    }

    fn keyed(&self, message: Message) -> Result<Message, Error> {
        if !self.inner.options.make_keys || message.idempotency_key.is_some() {
            return Ok(message);
        }
        Ok(message.key(BASE64URL_NOPAD.encode(&entropy::random::<16>()?)))
    }
}

/// Messages by the request: as many as may be in one, and no more bytes than fit.
fn batches(messages: Vec<Message>) -> Vec<Vec<Message>> {
    let mut batches: Vec<Vec<Message>> = Vec::new();
    let mut bytes = 0;
    for message in messages {
        let texts = message.content_type.as_ref().map_or(0, String::len)
            + message.idempotency_key.as_ref().map_or(0, String::len)
            + message.attrs.iter().map(|(name, value)| name.len() + value.len() + 4).sum::<usize>();
        let size = message.payload.len() + texts + AROUND;
        match batches.last_mut() {
            Some(batch) if batch.len() < LIST_MAX && bytes + size <= BATCH_BYTES => {
                bytes += size;
                batch.push(message);
            }
            _ => {
                bytes = size;
                batches.push(vec![message]);
            }
        }
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_bounded_by_count_and_bytes_and_keep_the_order() {
        let sizes =
            |messages: Vec<Message>| -> Vec<usize> { batches(messages).iter().map(Vec::len).collect() };
        assert_eq!(sizes(vec![Message::new("x"); 600]), [256, 256, 88]);
        assert_eq!(sizes(vec![Message::new(vec![0; 400_000]); 5]), [2, 2, 1]);
        let long = Message::new(vec![0; 1_040_000]);
        assert_eq!(sizes(vec![Message::new("a"), long, Message::new("b")]), [1, 1, 1]);
        let texts = Message::new("").attr("a", "x".repeat(4_000));
        assert!(sizes(vec![texts; 256]).len() > 1, "attributes count, too");
        assert!(sizes(Vec::new()).is_empty());
    }
}
