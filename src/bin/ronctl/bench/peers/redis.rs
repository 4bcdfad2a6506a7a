//! Redis: XADD, XREADGROUP, XACK and XDEL on one stream, pipelined by hand; redis-benchmark does no less for each.

use super::super::load::{Load, Miss, Requests, Tally, Work};
use super::super::site::Spent;
use super::pipeline::{self, Dialect, Pipeline};
use super::resp::{self, Reply, command};
use super::{Promise, unlike, written_here};
use crate::failure::{Failure, failed};
use bytes::{Bytes, BytesMut};
use std::cell::Cell;
use std::rc::Rc;
use tokio::sync::Mutex;

/// The consumer group.
const GROUP: &[u8] = b"ronctl";

/// A server.
pub(super) struct Redis {
    address: String,
    /// For all that is not load.
    asking: Mutex<Pipeline>,
}

impl Redis {
    /// The server at `HOST:PORT`.
    ///
    /// # Errors
    /// [`Failure::Unreachable`].
    pub(super) async fn new(address: &str) -> Result<Redis, Failure> {
        let opened = Pipeline::open(address).await;
        let asking =
            opened.map_err(|err| Failure::Unreachable(format!("no Redis answers at {address}: {err}")))?;
        Ok(Redis { address: address.to_owned(), asking: Mutex::new(asking) })
    }

    /// What the server says of how it keeps what it accepts; whether each reply comes after a sync.
    ///
    /// # Errors
    /// If it stops answering.
    pub(super) async fn persistence(&self) -> Result<(String, Promise), Failure> {
        let appendonly = self.setting("appendonly").await?;
        let appendfsync = self.setting("appendfsync").await?;
        let version = self.info("server", "redis_version").await?.unwrap_or_else(|| "?".to_owned());
        let text = format!("{version}, appendonly {appendonly}, appendfsync {appendfsync}");
        if appendonly == "yes" && appendfsync == "always" {
            return Ok((text, Promise::Same));
        }
        Ok((format!("{text}: it answers before it has synced"), Promise::Less))
    }

    /// What it has done so far.
    ///
    /// # Errors
    /// If it stops answering.
    pub(super) async fn spent(&self) -> Result<Spent, Failure> {
        let number = |text: Option<String>| text?.parse::<u64>().ok();
        let log = number(self.info("persistence", "aof_current_size").await?);
        let pid = number(self.info("server", "process_id").await?).and_then(|pid| u32::try_from(pid).ok());
        Ok(Spent { written: written_here(&self.address, pid, "redis"), log, ..Spent::default() })
    }

    /// Runs the load on a stream of its own.
    ///
    /// # Errors
    /// As [`pipeline::run`].
    pub(super) async fn run(&self, load: &Load, work: Work, done: Rc<Cell<u64>>) -> Result<Tally, Failure> {
        let key = format!("ronctl-bench:{}", load.topic(0));
        self.ask(&[b"XGROUP", b"CREATE", key.as_bytes(), GROUP, b"$", b"MKSTREAM"]).await?;
        let mut send = BytesMut::new();
        command(&[b"XADD", key.as_bytes(), b"*", b"m", &Requests::payload(load)?], &mut send);
        let streams =
            Streams { key: key.clone().into_bytes(), send: send.freeze(), address: self.address.clone() };
        let tally = pipeline::run(&self.address, load, work, &streams, done).await;
        self.ask(&[b"UNLINK", key.as_bytes()]).await?;
        tally
    }

    async fn setting(&self, name: &str) -> Result<String, Failure> {
        match self.ask(&[b"CONFIG", b"GET", name.as_bytes()]).await {
            Ok(reply) => Ok(reply.entries().get(1).and_then(Reply::text).unwrap_or("unknown").to_owned()),
            Err(Failure::Failed(_)) => Ok("unknown".to_owned()), // CONFIG may be forbidden
            Err(other) => Err(other),
        }
    }

    async fn info(&self, section: &str, field: &str) -> Result<Option<String>, Failure> {
        let reply = self.ask(&[b"INFO", section.as_bytes()]).await?;
        let text = reply.text().unwrap_or_default();
        let value = |line: &str| Some(line.strip_prefix(field)?.strip_prefix(':')?.trim().to_owned());
        Ok(text.lines().find_map(value))
    }

    async fn ask(&self, parts: &[&[u8]]) -> Result<Reply, Failure> {
        let mut asking = self.asking.lock().await;
        command(parts, &mut asking.unsent);
        asking.flush().await?;
        match asking.next(|read| take(&self.address, read)).await? {
            Reply::Error(text) => Err(failed(format!("Redis at {}: {text}", self.address))),
            reply => Ok(reply),
        }
    }
}

fn take(address: &str, read: &mut BytesMut) -> Result<Option<Reply>, Failure> {
    resp::take(read).map_err(|_| unlike(address, "no RESP"))
}

/// The load's commands.
#[derive(Clone)]
struct Streams {
    address: String,
    key: Vec<u8>,
    send: Bytes,
}

impl Dialect for Streams {
    const ONE_REPLY: bool = true;

    fn send(&mut self, _who: usize, to: &mut BytesMut) {
        to.extend_from_slice(&self.send);
    }

    fn take_sent(&mut self, read: &mut BytesMut) -> Result<Option<Result<(), Miss>>, Failure> {
        if resp::skip_bulk(read).map_err(|_| unlike(&self.address, "no RESP"))? {
            return Ok(Some(Ok(()))); // the id
        }
        Ok(take(&self.address, read)?.map(|reply| match reply {
            Reply::Error(text) => Err(Miss(text)),
            Reply::Text(_) | Reply::Bulk(_) | Reply::List(_) => Err(Miss("XADD without an id".to_owned())),
        }))
    }

    fn receive(&mut self, who: usize, count: usize, to: &mut BytesMut) {
        let (who, count) = (who.to_string(), count.to_string());
        let group: [&[u8]; 4] = [b"XREADGROUP", b"GROUP", GROUP, who.as_bytes()];
        let what: [&[u8]; 7] = [b"COUNT", count.as_bytes(), b"BLOCK", b"5000", b"STREAMS", &self.key, b">"];
        command(&[&group[..], &what[..]].concat(), to);
    }

    fn take_received(&mut self, read: &mut BytesMut) -> Result<Option<Vec<Bytes>>, Failure> {
        let Some(reply) = take(&self.address, read)? else { return Ok(None) };
        if let Reply::Error(text) = &reply {
            return Err(failed(format!("Redis at {}: {text}", self.address)));
        }
        // [[key, [[id, [field, value]], …]]]
        let messages = reply.entries().first().and_then(|stream| stream.entries().get(1));
        let name = |message: &Reply| match message.entries().first() {
            Some(Reply::Bulk(Some(id))) => Some(id.clone()),
            _ => None,
        };
        Ok(Some(messages.into_iter().flat_map(|list| list.entries()).filter_map(name).collect()))
    }

    fn settle(&mut self, _who: usize, names: &[Bytes], to: &mut BytesMut) {
        let ids = || names.iter().map(|id| &id[..]);
        let ack: [&[u8]; 3] = [b"XACK", &self.key, GROUP];
        command(&ack.into_iter().chain(ids()).collect::<Vec<_>>(), to);
        let del: [&[u8]; 2] = [b"XDEL", &self.key];
        command(&del.into_iter().chain(ids()).collect::<Vec<_>>(), to);
    }

    /// The reply to XACK, and to XDEL after it.
    fn take_settled(&mut self, read: &mut BytesMut) -> Result<Option<Result<usize, Miss>>, Failure> {
        let mut ahead = read.clone();
        let (Some(acked), Some(deleted)) =
            (take(&self.address, &mut ahead)?, take(&self.address, &mut ahead)?)
        else {
            return Ok(None);
        };
        *read = ahead;
        let count = |reply: &Reply| reply.text().and_then(|text| text.parse::<usize>().ok());
        Ok(Some(match (count(&acked), count(&deleted)) {
            (Some(acked), Some(deleted)) if acked == deleted && acked > 0 => Ok(acked),
            _ => Err(Miss(format!("XACK {acked:?}, XDEL {deleted:?}"))),
        }))
    }
}
