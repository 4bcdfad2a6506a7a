//! beanstalkd: put, reserve and delete on one tube, pipelined by hand.

use super::super::load::{Load, Miss, Requests, Tally, Work};
use super::super::site::Spent;
use super::pipeline::{self, Dialect, Pipeline};
use super::{Promise, unlike, written_here};
use crate::failure::Failure;
use bytes::{Buf, Bytes, BytesMut};
use std::cell::Cell;
use std::rc::Rc;
use tokio::sync::Mutex;

/// A server.
pub(super) struct Beanstalkd {
    address: String,
    /// For all that is not load.
    asking: Mutex<Pipeline>,
}

impl Beanstalkd {
    /// The server at `HOST:PORT`.
    ///
    /// # Errors
    /// [`Failure::Unreachable`].
    pub(super) async fn new(address: &str) -> Result<Beanstalkd, Failure> {
        let opened = Pipeline::open(address).await;
        let asking = opened
            .map_err(|err| Failure::Unreachable(format!("no beanstalkd answers at {address}: {err}")))?;
        Ok(Beanstalkd { address: address.to_owned(), asking: Mutex::new(asking) })
    }

    /// What the server says of how it keeps what it accepts. How often it syncs it does not say.
    ///
    /// # Errors
    /// If it stops answering.
    pub(super) async fn persistence(&self) -> Result<(String, Promise), Failure> {
        let version = self.stat("version").await?.unwrap_or_else(|| "?".to_owned());
        // 0 without a binlog, else the number of its newest file
        let binlog = self.stat("binlog-current-index").await?.is_some_and(|index| index != "0");
        if binlog {
            let text = "with a binlog; it does not say how often it syncs: only started with -f0 it does the same work";
            return Ok((format!("{version}, {text}"), Promise::Unsaid));
        }
        Ok((
            format!("{version}, without a binlog: in memory alone (start it with -b DIR -f0)"),
            Promise::Less,
        ))
    }

    /// What it has done so far.
    ///
    /// # Errors
    /// If it stops answering.
    pub(super) async fn spent(&self) -> Result<Spent, Failure> {
        let pid = self.stat("pid").await?.and_then(|pid| pid.parse().ok());
        Ok(Spent { written: written_here(&self.address, pid, "beanstalkd"), ..Spent::default() })
    }

    /// Runs the load on the default tube.
    ///
    /// # Errors
    /// As [`pipeline::run`].
    pub(super) async fn run(&self, load: &Load, work: Work, done: Rc<Cell<u64>>) -> Result<Tally, Failure> {
        let body = Requests::payload(load)?;
        let head = format!("put 0 0 60 {}\r\n", body.len());
        let mut jobs =
            Jobs { put: [head.as_bytes(), &body, b"\r\n"].concat().into(), address: self.address.clone() };
        let tally = pipeline::run(&self.address, load, work, &jobs, done).await?;
        if work != Work::Cycle {
            self.drain(&mut jobs).await?;
        }
        Ok(tally)
    }

    /// Ends what a run of sends left, so that runs do not pile up.
    async fn drain(&self, jobs: &mut Jobs) -> Result<(), Failure> {
        const AT_ONCE: usize = 1_000;
        let mut asking = self.asking.lock().await;
        loop {
            for _ in 0..AT_ONCE {
                asking.unsent.extend_from_slice(b"reserve-with-timeout 0\r\n");
            }
            asking.flush().await?;
            let mut names = Vec::new();
            for _ in 0..AT_ONCE {
                names.extend(asking.next(|read| jobs.take_received(read)).await?);
            }
            if names.is_empty() {
                return Ok(());
            }
            jobs.settle(0, &names, &mut asking.unsent);
            asking.flush().await?;
            for _ in &names {
                asking.next(|read| jobs.take_settled(read)).await?.ok();
            }
        }
    }

    async fn stat(&self, name: &str) -> Result<Option<String>, Failure> {
        let mut asking = self.asking.lock().await;
        asking.unsent.extend_from_slice(b"stats\r\n");
        asking.flush().await?;
        let body = asking.next(|read| take(&self.address, read)).await?.1;
        let text = String::from_utf8_lossy(&body).into_owned();
        let value = |line: &str| {
            Some(line.strip_prefix(name)?.strip_prefix(':')?.trim().trim_matches('"').to_owned())
        };
        Ok(text.lines().find_map(value))
    }
}

/// A reply: its words, and the body of those that have one.
type Reply = (Vec<String>, Bytes);

fn take(address: &str, read: &mut BytesMut) -> Result<Option<Reply>, Failure> {
    let Some(line) = read.windows(2).position(|two| two == b"\r\n") else { return Ok(None) };
    let text = std::str::from_utf8(&read[..line]).map_err(|_| unlike(address, "no text"))?;
    let words: Vec<String> = text.split(' ').map(str::to_owned).collect();
    // the last word of these is how long a body follows
    let len = match words[0].as_str() {
        "RESERVED" | "OK" => {
            let len = words.last().and_then(|len| len.parse::<usize>().ok());
            Some(len.ok_or_else(|| unlike(address, &words[0]))?)
        }
        _ => None,
    };
    let Some(len) = len else {
        read.advance(line + 2);
        return Ok(Some((words, Bytes::new())));
    };
    if read.len() < line + 2 + len + 2 {
        return Ok(None);
    }
    read.advance(line + 2);
    let body = read.split_to(len).freeze();
    read.advance(2);
    Ok(Some((words, body)))
}

/// The load's commands.
#[derive(Clone)]
struct Jobs {
    address: String,
    put: Bytes,
}

impl Dialect for Jobs {
    const ONE_REPLY: bool = false;

    fn send(&mut self, _who: usize, to: &mut BytesMut) {
        to.extend_from_slice(&self.put);
    }

    fn take_sent(&mut self, read: &mut BytesMut) -> Result<Option<Result<(), Miss>>, Failure> {
        let reply = take(&self.address, read)?;
        Ok(reply.map(|(words, _)| if words[0] == "INSERTED" { Ok(()) } else { Err(Miss(words.join(" "))) }))
    }

    fn receive(&mut self, _who: usize, count: usize, to: &mut BytesMut) {
        for _ in 0..count {
            to.extend_from_slice(b"reserve-with-timeout 5\r\n");
        }
    }

    fn take_received(&mut self, read: &mut BytesMut) -> Result<Option<Vec<Bytes>>, Failure> {
        let Some((mut words, _)) = take(&self.address, read)? else { return Ok(None) };
        match (words[0].as_str(), words.len()) {
            ("RESERVED", 3) => Ok(Some(vec![words.swap_remove(1).into()])),
            ("TIMED_OUT" | "DEADLINE_SOON", _) => Ok(Some(Vec::new())),
            _ => Err(unlike(&self.address, &words.join(" "))),
        }
    }

    fn settle(&mut self, _who: usize, names: &[Bytes], to: &mut BytesMut) {
        for name in names {
            to.extend_from_slice(b"delete ");
            to.extend_from_slice(name);
            to.extend_from_slice(b"\r\n");
        }
    }

    fn take_settled(&mut self, read: &mut BytesMut) -> Result<Option<Result<usize, Miss>>, Failure> {
        let reply = take(&self.address, read)?;
        Ok(reply.map(|(words, _)| if words[0] == "DELETED" { Ok(1) } else { Err(Miss(words.join(" "))) }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_taken_when_they_are_whole() {
        let mut read = BytesMut::new();
        let mut replies = Vec::new();
        for byte in b"INSERTED 7\r\nRESERVED 7 3\r\n\r\nx\r\nTIMED_OUT\r\n" {
            read.extend_from_slice(&[*byte]);
            replies.extend(take("a", &mut read).unwrap());
        }
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let expected = [
            (words("INSERTED 7"), Bytes::new()),
            (words("RESERVED 7 3"), Bytes::from_static(b"\r\nx")),
            (words("TIMED_OUT"), Bytes::new()),
        ];
        assert_eq!(replies, expected);
        assert!(take("a", &mut BytesMut::from("RESERVED x y\r\n")).is_err());
    }
}
