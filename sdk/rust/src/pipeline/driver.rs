//! The task of one connection: writes what waits as far as the window goes, hands answers to who waits for them, and
//! connects anew when it breaks. It never drops a request without an answer but for those that were given up.

use super::Trouble;
use super::pending::{Outstanding, Pending, Queues};
use crate::backoff::pause;
use crate::call::{Ask, Call, Settle, delivered};
use crate::connection::{BUFFER_BYTES, Connection, encode_capability, encode_request};
use crate::entropy;
use crate::error::{Error, Refused};
use crate::frames::{Answer, Frames};
use crate::message::Nack;
use crate::secret::Secret;
use crate::stream::{Endpoint, Stream};
use crate::window::Window;
use bytes::BytesMut;
use ron_core::oap::HelloAnswer;
use std::io;
use std::sync::PoisonError;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

/// What the node's log calls the client.
const USER_AGENT: &str = concat!("ron-client/", env!("CARGO_PKG_VERSION"));
/// How long the node may take to know the capability and say its limits.
const GREETING: Duration = Duration::from_secs(10);
/// How often silence is looked for, and how often it may be found: the longest wait that the node grants is 20 s.
const SILENCE: (Duration, u32) = (Duration::from_secs(10), 4);

/// An open connection, and the node's limits.
pub(super) struct Open {
    connection: Connection,
    window: Window,
}

/// See the module.
pub(super) struct Driver {
    endpoint: Endpoint,
    token: watch::Receiver<Secret>,
    queues: Queues,
    outstanding: Outstanding,
    trouble: Trouble,
}

/// Nobody is left who could ask.
struct AllGone;

impl Driver {
    pub(super) fn new(
        endpoint: Endpoint,
        token: watch::Receiver<Secret>,
        queues: Queues,
        trouble: Trouble,
    ) -> Driver {
        Driver { endpoint, token, queues, outstanding: Outstanding::default(), trouble }
    }

    /// Connects, shows the capability, asks for the limits.
    ///
    /// # Errors
    /// As for any request.
    pub(super) async fn open(&mut self) -> Result<Open, Error> {
        let token = self.token.borrow_and_update().clone();
        let greeting = async {
            let mut connection = Connection::at(&self.endpoint).await?;
            connection.authorize(token.text()).await?;
            let hello = connection.hello(USER_AGENT).await?;
            hello.accepted()?;
            let limits: HelloAnswer = serde_json::from_slice(&hello.payload)
                .map_err(|_| Error::Protocol("an answer to HELLO that does not say the limits"))?;
            Ok(Open { connection, window: Window::new(&limits) })
        };
        match timeout(GREETING, greeting).await {
            Ok(opened) => opened,
            Err(_) => Err(Error::Io(io::ErrorKind::TimedOut.into())),
        }
    }

    /// Goes on until all clients are dropped.
    pub(super) async fn run(mut self, first: Open) {
        let mut open = first;
        loop {
            let mut served = Served::new(open);
            let ended = served.serve(&mut self).await;
            let again = self.outstanding.broken(served.written);
            self.queues.put_back(again);
            if let Err(error) = ended {
                self.note(&error);
            } else {
                return;
            }
            open = match self.reopen().await {
                Ok(open) => open,
                Err(AllGone) => return,
            };
        }
    }

    async fn reopen(&mut self) -> Result<Open, AllGone> {
        for failures in 0u32.. {
            // a node that restarts is not met by all its clients at once
            let wait = sleep(pause(failures, entropy::spread()));
            tokio::select! {
                () = wait => {}
                gone = Driver::all_gone(&mut self.token) => return Err(gone),
            }
            let error = match self.open().await {
                Ok(open) => {
                    *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = None;
                    return Ok(open);
                }
                Err(error) => error,
            };
            self.note(&error);
            if let Error::Refused(refused) = error
                && matches!(refused.code, 401 | 403)
            {
                self.refused(refused).await?;
            }
        }
        Err(AllGone)
    }

    /// The capability does not count any more: all that waits is answered so, until there is another one, or somebody
    /// asks again.
    async fn refused(&mut self, refused: Refused) -> Result<(), AllGone> {
        self.queues.fail_all(|| Error::Refused(refused.clone()));
        tokio::select! {
            changed = self.token.changed() => changed.map_err(|_| AllGone),
            () = self.queues.more() => Ok(()),
        }
    }

    /// Ready once all clients are gone; another capability is read with the next connect.
    async fn all_gone(token: &mut watch::Receiver<Secret>) -> AllGone {
        while token.changed().await.is_ok() {}
        AllGone
    }

    fn note(&self, error: &Error) {
        let text = format!("{}: {error}", self.endpoint.address);
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = Some(text);
    }
}

/// A connection in use.
struct Served {
    reader: ReadHalf<Box<dyn Stream>>,
    writer: WriteHalf<Box<dyn Stream>>,
    frames: Frames,
    unsent: BytesMut,
    /// Whether what was written may still be waiting inside of the stream, as TLS lets it.
    unflushed: bool,
    /// Bytes that were given to the connection, sent or not.
    given: u64,
    /// Bytes that the socket took.
    written: u64,
    next_corr_id: u64,
    /// The request that shows another capability.
    shown: Option<u64>,
    window: Window,
    silent: u32,
}

impl Served {
    fn new(Open { connection, window }: Open) -> Served {
        let (socket, frames, next_corr_id) = connection.into_parts();
        let (reader, writer) = tokio::io::split(socket);
        Served {
            reader,
            writer,
            frames,
            unsent: BytesMut::with_capacity(BUFFER_BYTES),
            unflushed: false,
            given: 0,
            written: 0,
            next_corr_id,
            shown: None,
            window,
            silent: 0,
        }
    }

    /// Serves callers until the connection breaks, or (Ok) nobody is left.
    async fn serve(&mut self, driver: &mut Driver) -> Result<(), Error> {
        let mut ticks = interval(SILENCE.0);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            while let Some(pending) = driver.queues.next(&self.window) {
                self.write(pending, &mut driver.outstanding);
            }
            self.frames.read.reserve(BUFFER_BYTES);
            let pushes = self.unflushed || !self.unsent.is_empty();
            // reading never waits for writing: the node takes nothing while its answers are not taken
            tokio::select! {
                read = self.reader.read_buf(&mut self.frames.read) => {
                    if read? == 0 {
                        return Err(Error::Io(io::ErrorKind::UnexpectedEof.into()));
                    }
                    self.silent = 0;
                    self.answers(driver)?;
                }
                pushed = push(&mut self.writer, &mut self.unsent), if pushes => {
                    let taken = pushed?;
                    self.unflushed = taken > 0;
                    self.written += taken as u64;
                }
                () = driver.queues.more() => {}
                changed = driver.token.changed() => match changed {
                    Ok(()) => self.show(driver)?,
                    // what nobody waits for any more still goes out: releases
                    Err(_) => {
                        self.writer.write_all(&self.unsent).await?;
                        return Ok(self.writer.flush().await?);
                    }
                },
                _ = ticks.tick() => {
                    self.silent = if self.window.is_empty() { 0 } else { self.silent + 1 };
                    if self.silent > SILENCE.1 {
                        return Err(Error::Io(io::ErrorKind::TimedOut.into()));
                    }
                }
            }
        }
    }

    fn write(&mut self, pending: Pending, outstanding: &mut Outstanding) {
        let corr_id = self.corr_id();
        let before = self.unsent.len();
        encode_request(corr_id, &pending.payload, &mut self.unsent);
        self.given += (self.unsent.len() - before) as u64;
        self.window.enter(pending.lane, pending.payload.len());
        outstanding.add(corr_id, pending, self.given);
    }

    /// Shows the capability that replaces the one before.
    fn show(&mut self, driver: &mut Driver) -> Result<(), Error> {
        let token = driver.token.borrow_and_update().clone();
        let corr_id = self.corr_id();
        let before = self.unsent.len();
        encode_capability(corr_id, token.text(), &mut self.unsent)?;
        self.given += (self.unsent.len() - before) as u64;
        self.shown = Some(corr_id);
        Ok(())
    }

    fn corr_id(&mut self) -> u64 {
        self.next_corr_id += 1;
        self.next_corr_id
    }

    fn answers(&mut self, driver: &mut Driver) -> Result<(), Error> {
        while let Some(answer) = self.frames.next()? {
            let corr_id = answer.header.corr_id;
            if self.shown == Some(corr_id) {
                self.shown = None;
                // a capability that does not count leaves the one before in force, until that ends
                if let Err(error) = answer.accepted() {
                    driver.note(&error);
                }
                continue;
            }
            let Some(pending) = driver.outstanding.take(corr_id) else {
                // a bad frame is answered before the connection is closed
                answer.accepted()?;
                return Err(Error::Protocol("an answer to nothing that was asked"));
            };
            self.window.leave(pending.lane, pending.payload.len());
            self.hand_over(pending, answer, driver);
        }
        Ok(())
    }

    /// To whoever waits; deliveries that nobody waits for any more are released, or they would be hidden from others
    /// until their leases end.
    fn hand_over(&mut self, pending: Pending, answer: Answer, driver: &mut Driver) {
        let Some(reply) = pending.reply else { return };
        let (Err(Ok(unwanted)), Some(topic)) = (reply.send(Ok(answer)), pending.topic) else { return };
        let receipts: Vec<_> =
            delivered(&unwanted).unwrap_or_default().iter().map(|delivery| delivery.receipt).collect();
        if !receipts.is_empty() {
            let call = Call { topic, ask: Ask::Settle(receipts, Settle::Nack(Nack::release())) };
            let (lane, effect) = (call.lane(), call.effect());
            let payload = call.to_payload().into();
            driver.queues.put_back(vec![Pending { lane, effect, topic: None, payload, reply: None }]);
        }
    }
}

/// Writes some of what is to be sent, or (0) sees to it that all that was written goes out. Cancel-safe.
async fn push(writer: &mut WriteHalf<Box<dyn Stream>>, unsent: &mut BytesMut) -> io::Result<usize> {
    if unsent.is_empty() {
        return writer.flush().await.map(|()| 0);
    }
    match writer.write_buf(unsent).await? {
        0 => Err(io::ErrorKind::WriteZero.into()),
        taken => Ok(taken),
    }
}
