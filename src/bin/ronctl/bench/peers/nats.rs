//! NATS JetStream: publishes with acks, one pull of as many as are outstanding, and acks that are answered, on one
//! stream on files, which keeps messages until they are acked; pipelined by hand. A run may not be longer than some
//! minutes: the server ends connections that do not answer its pings.

use super::super::load::{Load, Miss, Requests, Tally, Work};
use super::super::site::Spent;
use super::pipeline::{self, Dialect, Pipeline};
use super::{Promise, unlike};
use crate::ambient;
use crate::failure::{Failure, failed};
use bytes::{Buf, Bytes, BytesMut};
use data_encoding::HEXLOWER;
use serde_json::{Value, json};
use std::cell::Cell;
use std::rc::Rc;
use tokio::sync::Mutex;

/// The pull consumer of a stream.
const CONSUMER: &str = "ronctl";
/// What every connection says first.
const CONNECT: &str = r#"CONNECT {"verbose":false,"pedantic":false,"headers":true,"no_responders":true}"#;

/// A server.
pub(super) struct Nats {
    address: String,
    version: String,
    inbox: String,
    /// For all that is not load.
    asking: Mutex<Pipeline>,
}

impl Nats {
    /// The server at `HOST:PORT`.
    ///
    /// # Errors
    /// [`Failure::Unreachable`].
    pub(super) async fn new(address: &str) -> Result<Nats, Failure> {
        let opened = Pipeline::open(address).await;
        let mut asking =
            opened.map_err(|err| Failure::Unreachable(format!("no NATS answers at {address}: {err}")))?;
        let inbox = format!("_INBOX.{}", HEXLOWER.encode(&ambient::random::<8>()?));
        asking.unsent.extend_from_slice(format!("{CONNECT}\r\nSUB {inbox} 1\r\nPING\r\n").as_bytes());
        asking.flush().await?;
        let info = match asking.next(|read| take(address, read)).await? {
            Said::Info(info) => info,
            _ => return Err(unlike(address, "no INFO")),
        };
        while !matches!(asking.next(|read| take(address, read)).await?, Said::Pong) {}
        if info["jetstream"] != true {
            return Err(failed(format!("the NATS at {address} has no JetStream: start it with -js")));
        }
        let version = info["version"].as_str().unwrap_or("?").to_owned();
        Ok(Nats { address: address.to_owned(), version, inbox, asking: Mutex::new(asking) })
    }

    /// How it keeps what it accepts. How often it syncs it does not say to clients.
    pub(super) fn persistence(&self) -> (String, Promise) {
        let text = "JetStream on files; it does not say how often it syncs, by default every two minutes: \
                    only with `sync_interval: always` (2.10 and newer) it does the same work";
        (format!("{}, {text}", self.version), Promise::Unsaid)
    }

    /// What it has done so far: its clients are not told.
    pub(super) fn spent() -> Spent {
        Spent::default()
    }

    /// Runs the load on a stream of its own.
    ///
    /// # Errors
    /// As [`pipeline::run`].
    pub(super) async fn run(&self, load: &Load, work: Work, done: Rc<Cell<u64>>) -> Result<Tally, Failure> {
        let stream = format!("ronctl-{}", load.topic(0));
        let create = json!({
            "name": stream, "subjects": [stream], "retention": "workqueue", "storage": "file", "num_replicas": 1
        });
        self.ask(&format!("STREAM.CREATE.{stream}"), &create).await?;
        let config = json!({
            "durable_name": CONSUMER, "ack_policy": "explicit", "deliver_policy": "all",
            "ack_wait": 60_000_000_000_u64, "max_ack_pending": -1, "max_waiting": 100_000
        });
        let consumer = json!({ "stream_name": stream, "config": config });
        self.ask(&format!("CONSUMER.DURABLE.CREATE.{stream}.{CONSUMER}"), &consumer).await?;
        let js = Stream {
            address: self.address.clone(),
            stream: stream.clone(),
            inbox: self.inbox.clone(),
            body: [&Requests::payload(load)?[..], b"\r\n"].concat(),
        };
        let tally = pipeline::run(&self.address, load, work, &js, done).await;
        self.ask(&format!("STREAM.DELETE.{stream}"), &json!({})).await?;
        tally
    }

    async fn ask(&self, what: &str, body: &Value) -> Result<(), Failure> {
        let (mut asking, body) = (self.asking.lock().await, body.to_string());
        let request = format!("PUB $JS.API.{what} {} {}\r\n{body}\r\n", self.inbox, body.len());
        asking.unsent.extend_from_slice(request.as_bytes());
        asking.flush().await?;
        loop {
            if let Said::Message { body, .. } = asking.next(|read| take(&self.address, read)).await? {
                let answer: Value = serde_json::from_slice(&body).unwrap_or_default();
                return match answer["error"]["description"].as_str() {
                    None => Ok(()),
                    Some(text) => Err(failed(format!("NATS at {}: {what}: {text}", self.address))),
                };
            }
        }
    }
}

/// What a server says.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    Info(Value),
    Pong,
    /// A ping, or that all is well.
    Nothing,
    /// A message, or a status without a body.
    Message {
        reply: Option<Bytes>,
        body: Bytes,
    },
}

fn take(address: &str, read: &mut BytesMut) -> Result<Option<Said>, Failure> {
    let Some(line) = read.windows(2).position(|two| two == b"\r\n") else { return Ok(None) };
    let text = std::str::from_utf8(&read[..line]).map_err(|_| unlike(address, "no text"))?;
    let mut words = text.split(' ');
    let (kind, rest) = (words.next().unwrap_or_default(), words.collect::<Vec<_>>());
    let said = match kind {
        "INFO" => Said::Info(serde_json::from_str(&text[5..]).map_err(|_| unlike(address, "INFO"))?),
        "PONG" => Said::Pong,
        "PING" | "+OK" => Said::Nothing,
        "MSG" | "HMSG" => {
            let lengths = if kind == "MSG" { 1 } else { 2 };
            let number = |back: usize| {
                let word = rest.len().checked_sub(back).and_then(|at| rest.get(at));
                word.and_then(|len| len.parse::<usize>().ok()).ok_or_else(|| unlike(address, kind))
            };
            let (len, head) = (number(1)?, if lengths == 2 { number(2)? } else { 0 });
            // subject, subscription, reply if there is one, lengths
            let reply = (rest.len() == 3 + lengths).then(|| Bytes::copy_from_slice(rest[2].as_bytes()));
            if read.len() < line + 2 + len + 2 {
                return Ok(None);
            }
            read.advance(line + 2);
            let mut body = read.split_to(len).freeze();
            body.advance(head.min(len));
            read.advance(2);
            return Ok(Some(Said::Message { reply, body }));
        }
        _ => return Err(unlike(address, text)),
    };
    read.advance(line + 2);
    Ok(Some(said))
}

/// The load's commands.
#[derive(Clone)]
struct Stream {
    address: String,
    stream: String,
    inbox: String,
    body: Vec<u8>,
}

impl Stream {
    /// The next message; what else comes is passed over.
    fn message(&self, read: &mut BytesMut) -> Result<Option<(Option<Bytes>, Bytes)>, Failure> {
        loop {
            match take(&self.address, read)? {
                None => return Ok(None),
                Some(Said::Message { reply, body }) => return Ok(Some((reply, body))),
                Some(Said::Info(_) | Said::Pong | Said::Nothing) => {}
            }
        }
    }
}

impl Dialect for Stream {
    const ONE_REPLY: bool = false;

    async fn greet(&mut self, who: usize, connection: &mut Pipeline) -> Result<(), Failure> {
        let hello = format!("{CONNECT}\r\nSUB {}.{who} 1\r\nPING\r\n", self.inbox);
        connection.unsent.extend_from_slice(hello.as_bytes());
        connection.flush().await?;
        while !matches!(connection.next(|read| take(&self.address, read)).await?, Said::Pong) {}
        Ok(())
    }

    fn send(&mut self, who: usize, to: &mut BytesMut) {
        let head = format!("PUB {} {}.{who} {}\r\n", self.stream, self.inbox, self.body.len() - 2);
        to.extend_from_slice(head.as_bytes());
        to.extend_from_slice(&self.body);
    }

    fn take_sent(&mut self, read: &mut BytesMut) -> Result<Option<Result<(), Miss>>, Failure> {
        let Some((_, body)) = self.message(read)? else { return Ok(None) };
        // {"stream":"…","seq":1}, or {"error":{…}}, or a status that nobody keeps the stream
        let stored = body.starts_with(b"{\"stream\"");
        let text = || format!("no ack: {}", String::from_utf8_lossy(&body));
        Ok(Some(if stored { Ok(()) } else { Err(Miss(text())) }))
    }

    fn receive(&mut self, who: usize, count: usize, to: &mut BytesMut) {
        let ask = format!("{{\"batch\":{count},\"expires\":5000000000}}");
        let (stream, inbox) = (&self.stream, &self.inbox);
        let head =
            format!("PUB $JS.API.CONSUMER.MSG.NEXT.{stream}.{CONSUMER} {inbox}.{who} {}\r\n", ask.len());
        to.extend_from_slice(head.as_bytes());
        to.extend_from_slice(ask.as_bytes());
        to.extend_from_slice(b"\r\n");
    }

    fn take_received(&mut self, read: &mut BytesMut) -> Result<Option<Vec<Bytes>>, Failure> {
        // where the ack goes is the delivery's name; a status has none
        Ok(self.message(read)?.map(|(reply, _)| reply.into_iter().collect()))
    }

    fn settle(&mut self, who: usize, names: &[Bytes], to: &mut BytesMut) {
        for name in names {
            to.extend_from_slice(b"PUB ");
            to.extend_from_slice(name);
            to.extend_from_slice(format!(" {}.{who} 4\r\n+ACK\r\n", self.inbox).as_bytes());
        }
    }

    fn take_settled(&mut self, read: &mut BytesMut) -> Result<Option<Result<usize, Miss>>, Failure> {
        Ok(self.message(read)?.map(|_| Ok(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_says_is_taken_when_it_is_whole() {
        let wire = "INFO {\"jetstream\":true}\r\nPING\r\nMSG orders 1 $JS.ACK.x 3\r\na\r\n\r\nHMSG i 1 4 4\r\nNATS\r\nPONG\r\n";
        let (mut read, mut said) = (BytesMut::new(), Vec::new());
        for byte in wire.bytes() {
            read.extend_from_slice(&[byte]);
            said.extend(take("a", &mut read).unwrap());
        }
        let reply = Some(Bytes::from_static(b"$JS.ACK.x"));
        let expected = [
            Said::Info(json!({ "jetstream": true })),
            Said::Nothing,
            Said::Message { reply, body: Bytes::from_static(b"a\r\n") },
            Said::Message { reply: None, body: Bytes::new() },
            Said::Pong,
        ];
        assert_eq!(said, expected);
        assert!(take("a", &mut BytesMut::from("-ERR 'no'\r\n")).is_err());
    }
}
