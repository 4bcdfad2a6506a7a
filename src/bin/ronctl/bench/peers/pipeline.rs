//! The load on a peer: connections that each keep as many operations outstanding as told, as the node's load does.
//! What a request and a reply look like each protocol says.

use super::super::load::{Load, Miss, Tally, Work, opened, total};
use super::super::oap::Span;
use crate::ambient;
use crate::failure::{Failure, failed};
use bytes::{Bytes, BytesMut};
use futures::future::join_all;
use std::cell::Cell;
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::time::Instant;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Read at once.
const BUFFER_BYTES: usize = 64 * 1024;

/// A peer's protocol, of which each connection has its own. Replies come in the order of the requests; `take_…`
/// gives `None` until one is whole.
pub(super) trait Dialect: Clone {
    /// What a new connection says first, and hears; `who` numbers the connection, here and below.
    async fn greet(&mut self, _who: usize, _connection: &mut Pipeline) -> Result<(), Failure> {
        Ok(())
    }

    /// Writes a send.
    fn send(&mut self, who: usize, to: &mut BytesMut);

    /// Takes the reply to a send.
    fn take_sent(&mut self, read: &mut BytesMut) -> Result<Option<Result<(), Miss>>, Failure>;

    /// Asks for up to that many messages, and waits for them.
    fn receive(&mut self, who: usize, count: usize, to: &mut BytesMut);

    /// Takes a reply to that: the names of one or more messages.
    fn take_received(&mut self, read: &mut BytesMut) -> Result<Option<Vec<Bytes>>, Failure>;

    /// Whether one reply answers for all messages that were asked for; else each has its own.
    const ONE_REPLY: bool;

    /// Ends messages.
    fn settle(&mut self, who: usize, names: &[Bytes], to: &mut BytesMut);

    /// Takes a reply to that; how many messages it ends.
    fn take_settled(&mut self, read: &mut BytesMut) -> Result<Option<Result<usize, Miss>>, Failure>;

    /// What a connection says last, after its time.
    async fn part(&mut self, _connection: &mut Pipeline) -> Result<(), Failure> {
        Ok(())
    }
}

/// One connection: bytes out, bytes in.
#[derive(Debug)]
pub(super) struct Pipeline {
    socket: TcpStream,
    /// What was read and not taken out yet.
    pub(super) read: BytesMut,
    /// What goes out with the next flush.
    pub(super) unsent: BytesMut,
}

impl Pipeline {
    /// Connects.
    ///
    /// # Errors
    /// Whatever the connect says.
    pub(super) async fn open(address: &str) -> io::Result<Pipeline> {
        let socket = TcpStream::connect(address).await?;
        socket.set_nodelay(true)?;
        Ok(Pipeline { socket, read: BytesMut::new(), unsent: BytesMut::new() })
    }

    /// Sends what was written.
    ///
    /// # Errors
    /// If the connection is gone.
    pub(super) async fn flush(&mut self) -> Result<(), Failure> {
        self.socket.write_all(&self.unsent).await.map_err(|err| broken(&err))?;
        self.unsent.clear();
        Ok(())
    }

    /// The next that `take` finds.
    ///
    /// # Errors
    /// If the connection is gone, or as `take`.
    pub(super) async fn next<T>(
        &mut self,
        mut take: impl FnMut(&mut BytesMut) -> Result<Option<T>, Failure>,
    ) -> Result<T, Failure> {
        loop {
            if let Some(taken) = take(&mut self.read)? {
                return Ok(taken);
            }
            self.read.reserve(BUFFER_BYTES);
            match self.socket.read_buf(&mut self.read).await {
                Ok(0) => return Err(broken(&io::ErrorKind::UnexpectedEof.into())),
                Ok(_) => {}
                Err(err) => return Err(broken(&err)),
            }
        }
    }
}

fn broken(error: &io::Error) -> Failure {
    failed(format!("a connection to a peer ended: {error}"))
}

/// Runs the load and counts. `done` is raised as operations end, for whoever watches.
///
/// # Errors
/// If a connection cannot be opened at the start, or the peer stops answering.
pub(super) async fn run<D: Dialect>(
    address: &str,
    load: &Load,
    work: Work,
    dialect: &D,
    done: Rc<Cell<u64>>,
) -> Result<Tally, Failure> {
    let opening = (0..load.connections).map(|_| Pipeline::open(address));
    let mut connections = Vec::with_capacity(load.connections);
    for (who, mut connection) in opened(address, join_all(opening).await)?.into_iter().enumerate() {
        let mut dialect = dialect.clone();
        dialect.greet(who, &mut connection).await?;
        connections.push((dialect, connection));
    }
    let starts = ambient::now() + load.warmup;
    let span = Span { starts, ends: starts + load.duration };
    let workers = connections.into_iter().enumerate().map(|(who, (dialect, connection))| {
        let done = Rc::clone(&done);
        Worker { dialect, who, outstanding: load.outstanding, span, connection, done }.run(work)
    });
    total(load, Tally::new(work)?, workers).await
}

/// One connection's loop; the node's is in `bench/oap.rs`, step by step the same.
struct Worker<D> {
    dialect: D,
    who: usize,
    outstanding: usize,
    span: Span,
    connection: Pipeline,
    done: Rc<Cell<u64>>,
}

impl<D: Dialect> Worker<D> {
    async fn run(mut self, work: Work) -> Result<Tally, Failure> {
        let mut tally = Tally::new(work)?;
        match work {
            Work::Cycle => self.cycles(&mut tally).await?,
            Work::Enqueue | Work::Discard | Work::Empty | Work::Webhook => self.sends(&mut tally).await?,
        }
        self.dialect.part(&mut self.connection).await?;
        Ok(tally)
    }

    async fn sends(&mut self, tally: &mut Tally) -> Result<(), Failure> {
        let mut under_way = VecDeque::with_capacity(self.outstanding);
        loop {
            let now = ambient::now();
            if now >= self.span.ends && under_way.is_empty() {
                return Ok(());
            }
            if now < self.span.ends {
                for _ in under_way.len()..self.outstanding {
                    self.dialect.send(self.who, &mut self.connection.unsent);
                    under_way.push_back(now);
                }
            }
            self.connection.flush().await?;
            let mut sent = Some(self.connection.next(|read| self.dialect.take_sent(read)).await?);
            let finished = ambient::now();
            while let Some(result) = sent {
                let began =
                    under_way.pop_front().ok_or_else(|| failed("a reply to nothing that was asked"))?;
                self.count(tally, finished, result, &[finished - began]);
                sent = self.dialect.take_sent(&mut self.connection.read)?;
            }
        }
    }

    /// Sends as many as may be outstanding, receives as many, ends them together.
    async fn cycles(&mut self, tally: &mut Tally) -> Result<(), Failure> {
        loop {
            let began = ambient::now();
            if began >= self.span.ends {
                return Ok(());
            }
            for _ in 0..self.outstanding {
                self.dialect.send(self.who, &mut self.connection.unsent);
            }
            self.connection.flush().await?;
            let mut results = Vec::with_capacity(self.outstanding);
            while results.len() < self.outstanding {
                results.push(self.connection.next(|read| self.dialect.take_sent(read)).await?);
            }
            let sent = ambient::now();
            let names = self.receive().await?;
            let received = ambient::now();
            self.dialect.settle(self.who, &names, &mut self.connection.unsent);
            self.connection.flush().await?;
            let mut settled = 0;
            while settled < names.len() {
                match self.connection.next(|read| self.dialect.take_settled(read)).await? {
                    Ok(count) => settled += count,
                    Err(Miss(reason)) => {
                        return Err(failed(format!("a peer refused to end messages: {reason}")));
                    }
                }
            }
            let finished = ambient::now();
            let steps = [sent - began, received - sent, finished - received, finished - began];
            for result in results {
                self.count(tally, finished, result, &steps);
            }
        }
    }

    async fn receive(&mut self) -> Result<Vec<Bytes>, Failure> {
        let mut names = Vec::with_capacity(self.outstanding);
        while names.len() < self.outstanding {
            let want = self.outstanding - names.len();
            self.dialect.receive(self.who, want, &mut self.connection.unsent);
            self.connection.flush().await?;
            let replies = if D::ONE_REPLY { 1 } else { want };
            for _ in 0..replies {
                let some = self.connection.next(|read| self.dialect.take_received(read)).await?;
                if some.is_empty() {
                    return Err(failed("a receive brought nothing although something was sent"));
                }
                names.extend(some);
            }
        }
        Ok(names)
    }

    fn count(
        &self,
        tally: &mut Tally,
        finished: Instant,
        result: Result<(), Miss>,
        steps: &[std::time::Duration],
    ) {
        if self.span.counts(finished) {
            if result.is_ok() {
                self.done.set(self.done.get() + 1);
            }
            tally.count(result, steps);
        }
    }
}
