//! RabbitMQ: publishes with confirms, one consumer a connection with as many deliveries as are outstanding, and acks,
//! on one durable quorum queue; AMQP 0-9-1 by hand, pipelined.
//!
//! `basic.get` would ask as the other peers are asked, but a quorum queue writes each to its log, and a channel does
//! one after the other: half as many cycles. Acks have no answer: behind each batch's ack the queue itself is asked
//! something, so that what counts was taken by the queue, though nobody says that it was synced.

use super::super::load::{Load, Miss, Requests, Tally, Work};
use super::super::site::Spent;
use super::amqp::{self, Said, requests};
use super::pipeline::{self, Dialect, Pipeline};
use super::{Promise, unlike};
use crate::failure::{Failure, failed};
use bytes::{Bytes, BytesMut};
use std::cell::Cell;
use std::collections::{BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::timeout;

/// AMQP's port.
const PORT: u16 = 5672;
/// How long it may take until a channel is open: other servers may wait for more than a client of AMQP says.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where a server is, and who asks; no `Debug`, for the password.
pub(super) struct Target {
    address: String,
    user: String,
    password: String,
    vhost: String,
}

impl Target {
    /// Of `HOST:PORT` or `amqp://USER:PASSWORD@HOST:PORT/VHOST`, of which all but the host may be left out.
    ///
    /// # Errors
    /// [`Failure::Usage`], which does not repeat the password.
    pub(super) fn parse(url: &str) -> Result<Target, Failure> {
        let bad = || {
            let text = "--rabbitmq: write HOST:PORT or amqp://USER:PASSWORD@HOST:PORT/VHOST (no TLS)";
            Failure::Usage(text.to_owned())
        };
        let rest = match url.split_once("://") {
            Some(("amqp", rest)) => rest,
            Some(_) => return Err(bad()),
            None => url,
        };
        let (authority, vhost) = rest.split_once('/').unwrap_or((rest, ""));
        let (login, place) = authority.rsplit_once('@').unwrap_or(("guest:guest", authority));
        let (user, password) = login.split_once(':').ok_or_else(bad)?;
        let text = |text: &str| decoded(text).filter(|text| text.len() <= 255).ok_or_else(bad);
        let uri: http::uri::Authority = place.parse().map_err(|_| bad())?;
        let vhost = if vhost.is_empty() { "/".to_owned() } else { text(vhost)? };
        let port = if uri.host() == place { Some(PORT) } else { uri.port_u16() };
        let address = format!("{}:{}", uri.host(), port.ok_or_else(bad)?);
        Ok(Target { address, user: text(user)?, password: text(password)?, vhost })
    }
}

/// Text of a URL; `None` if a `%` begins no octet, or something of a URL follows that is not known here.
fn decoded(text: &str) -> Option<String> {
    if text.contains(['/', '?', '#']) {
        return None;
    }
    let mut parts = text.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let (hex, rest) = part.split_at_checked(2)?;
        bytes.push(u8::from_str_radix(hex, 16).ok().filter(|_| !hex.starts_with('+'))?);
        bytes.extend_from_slice(rest.as_bytes());
    }
    String::from_utf8(bytes).ok()
}

/// A server.
pub(super) struct RabbitMq {
    target: Rc<Target>,
    hello: Hello,
    /// For all that is not load.
    asking: Mutex<Pipeline>,
}

impl RabbitMq {
    /// The server at [`Target`]'s form of an address.
    ///
    /// # Errors
    /// [`Failure::Unreachable`]; or if it refuses the login.
    pub(super) async fn new(url: &str) -> Result<RabbitMq, Failure> {
        let target = Rc::new(Target::parse(url)?);
        let address = &target.address;
        let opened = Pipeline::open(address).await;
        let mut asking =
            opened.map_err(|err| Failure::Unreachable(format!("no RabbitMQ answers at {address}: {err}")))?;
        let silent = |_| failed(format!("what answers at {address} says nothing: is it RabbitMQ?"));
        let hello = timeout(PATIENCE, greet(&target, &mut asking)).await.map_err(silent)??;
        Ok(RabbitMq { target, hello, asking: Mutex::new(asking) })
    }

    /// How it keeps what it accepts. That is how quorum queues are made; a server does not say it.
    pub(super) fn persistence(&self) -> (String, Promise) {
        let Hello { product, version, .. } = &self.hello;
        if product != "RabbitMQ" {
            return (format!("{product} {version}: how it syncs is not known"), Promise::Unsaid);
        }
        let text = "a durable quorum queue, which syncs its log once for all publishes that wait and then confirms them; \
                    acks are not answered: a cycle counts when the queue has taken its ack, synced or not";
        (format!("{product} {version}, {text}"), Promise::Less)
    }

    /// What it has done so far: its clients are not told.
    pub(super) fn spent() -> Spent {
        Spent::default()
    }

    /// Runs the load on a queue of its own.
    ///
    /// # Errors
    /// As [`pipeline::run`].
    pub(super) async fn run(&self, load: &Load, work: Work, done: Rc<Cell<u64>>) -> Result<Tally, Failure> {
        let queue = format!("ronctl-{}", load.topic(0));
        self.ask("queue.declare-ok", |to| requests::declare_quorum(&queue, to)).await?;
        let mut publish = BytesMut::new();
        requests::publish(&queue, &Requests::payload(load)?, self.hello.frame_max, &mut publish);
        // what a connection may hold is what it has sent: nobody waits for what another one keeps
        let prefetch = u16::try_from(load.outstanding).unwrap_or(u16::MAX);
        let channel = Channel {
            target: Rc::clone(&self.target),
            queue: queue.clone(),
            publish: publish.freeze(),
            prefetch: (work == Work::Cycle).then_some(prefetch),
            confirms: Confirms::default(),
            confirmed: 0,
            coming: None,
            held: VecDeque::new(),
            settling: 0,
            answered: false,
        };
        let tally = pipeline::run(&self.target.address, load, work, &channel, done).await;
        self.ask("queue.delete-ok", |to| requests::delete(&queue, to)).await?;
        tally
    }

    async fn ask(&self, answer: &str, write: impl FnOnce(&mut BytesMut)) -> Result<(), Failure> {
        ask(&self.target.address, &mut *self.asking.lock().await, answer, write).await
    }
}

/// What a server says of itself at the start.
struct Hello {
    product: String,
    version: String,
    /// The longest frame, whole.
    frame_max: u32,
}

/// Opens a channel that confirms.
async fn greet(target: &Target, link: &mut Pipeline) -> Result<Hello, Failure> {
    let address = &target.address;
    link.unsent.extend_from_slice(amqp::HEADER);
    link.flush().await?;
    let (properties, mechanisms) = match next(address, link).await? {
        Said::Start { properties, mechanisms } => (properties, mechanisms),
        other => return Err(unlike(address, &format!("{other:?}"))),
    };
    if !mechanisms.split(' ').any(|name| name == "PLAIN") {
        return Err(failed(format!("RabbitMQ at {address} takes no password, but {mechanisms}")));
    }
    requests::start_ok(&target.user, &target.password, &mut link.unsent);
    link.flush().await?;
    let (channels_max, frame_max) = match next(address, link).await? {
        Said::Tune { channels_max, frame_max } => (channels_max, frame_max),
        other => return Err(unlike(address, &format!("{other:?}"))),
    };
    let frame_max = if frame_max == 0 { amqp::FRAME_MAX } else { frame_max.min(amqp::FRAME_MAX) };
    requests::tune_ok(channels_max, frame_max, &mut link.unsent);
    ask(address, link, "connection.open-ok", |to| requests::open(&target.vhost, to)).await?;
    ask(address, link, "channel.open-ok", requests::channel_open).await?;
    ask(address, link, "confirm.select-ok", requests::confirm_select).await?;
    let property = |name: &str| {
        let found = properties.iter().find(|(known, _)| known == name);
        found.map_or_else(|| "?".to_owned(), |(_, value)| value.clone())
    };
    Ok(Hello { product: property("product"), version: property("version"), frame_max })
}

/// Asks what has an answer of that name.
async fn ask(
    address: &str,
    link: &mut Pipeline,
    answer: &str,
    write: impl FnOnce(&mut BytesMut),
) -> Result<(), Failure> {
    write(&mut link.unsent);
    link.flush().await?;
    match next(address, link).await? {
        Said::Done(name) if name == answer => Ok(()),
        other => Err(unlike(address, &format!("{other:?} instead of {answer}"))),
    }
}

async fn next(address: &str, link: &mut Pipeline) -> Result<Said, Failure> {
    link.next(|read| take(address, read)).await
}

/// The next that is said; that the connection lives is nothing.
fn take(address: &str, read: &mut BytesMut) -> Result<Option<Said>, Failure> {
    loop {
        match amqp::take(read).map_err(|amqp::Wrong(what)| unlike(address, &what))? {
            Some(Said::Heartbeat | Said::Done("connection.unblocked")) => {}
            Some(Said::Refused(why)) => return Err(failed(format!("RabbitMQ at {address}: {why}"))),
            other => return Ok(other),
        }
    }
}

/// Publishes that are not confirmed yet; they are numbered from 1.
#[derive(Debug, Clone, Default)]
struct Confirms {
    sent: u64,
    /// All up to here are confirmed.
    all_to: u64,
    /// Confirmed beyond that: a server may confirm in any order.
    ahead: BTreeSet<u64>,
}

impl Confirms {
    /// How many publishes an ack confirms that were not; `None` if it names one that is none of these.
    fn confirm(&mut self, tag: u64, multiple: bool) -> Option<usize> {
        let before = self.count();
        if tag > self.sent {
            return None;
        }
        if multiple {
            let tag = if tag == 0 { self.sent } else { tag }; // 0: all there are
            self.ahead = self.ahead.split_off(&(tag + 1));
            self.all_to = self.all_to.max(tag);
        } else if tag <= self.all_to || !self.ahead.insert(tag) {
            return None;
        }
        while self.ahead.remove(&(self.all_to + 1)) {
            self.all_to += 1;
        }
        Some(self.count() - before)
    }

    fn count(&self) -> usize {
        self.all_to as usize + self.ahead.len()
    }
}

/// The load's channel of a connection.
#[derive(Clone)]
struct Channel {
    target: Rc<Target>,
    queue: String,
    /// A publish, whole.
    publish: Bytes,
    /// How many deliveries it may hold, if it consumes.
    prefetch: Option<u16>,
    confirms: Confirms,
    /// Publishes that were confirmed and not reported yet; the longest outstanding are reported first.
    confirmed: usize,
    /// The delivery whose body is not there yet, and how much of that is missing, if that is known.
    coming: Option<(u64, Option<u64>)>,
    /// Deliveries that nobody asked for yet.
    held: VecDeque<u64>,
    /// Messages whose ack is on its way.
    settling: usize,
    /// Whether what was asked behind that ack has its answer.
    answered: bool,
}

impl Channel {
    /// Takes what came, if something whole came.
    fn hear(&mut self, read: &mut BytesMut) -> Result<bool, Failure> {
        let address = &self.target.address;
        let Some(said) = take(address, read)? else { return Ok(false) };
        let stray = || unlike(address, &format!("{said:?}, which nothing led to"));
        match (&said, self.coming) {
            (Said::Confirmed { tag, multiple }, None) => {
                self.confirmed += self.confirms.confirm(*tag, *multiple).ok_or_else(stray)?;
            }
            (Said::Delivered { tag }, None) => self.coming = Some((*tag, None)),
            (Said::Content { len }, Some((tag, None))) => self.coming = Some((tag, Some(*len))),
            (Said::Body { len }, Some((tag, Some(missing)))) => {
                let left = missing.checked_sub(*len).ok_or_else(stray)?;
                self.coming = Some((tag, Some(left)));
            }
            (Said::Done("queue.declare-ok"), None) if self.settling > 0 => self.answered = true,
            _ => return Err(stray()),
        }
        if let Some((tag, Some(0))) = self.coming {
            self.held.push_back(tag);
            self.coming = None;
        }
        Ok(true)
    }
}

impl Dialect for Channel {
    const ONE_REPLY: bool = true;

    async fn greet(&mut self, _who: usize, connection: &mut Pipeline) -> Result<(), Failure> {
        let target = &self.target;
        greet(target, connection).await?;
        if let Some(prefetch) = self.prefetch {
            ask(&target.address, connection, "basic.qos-ok", |to| requests::qos(prefetch, to)).await?;
            ask(&target.address, connection, "basic.consume-ok", |to| requests::consume(&self.queue, to))
                .await?;
        }
        Ok(())
    }

    fn send(&mut self, _who: usize, to: &mut BytesMut) {
        self.confirms.sent += 1;
        to.extend_from_slice(&self.publish);
    }

    fn take_sent(&mut self, read: &mut BytesMut) -> Result<Option<Result<(), Miss>>, Failure> {
        while self.confirmed == 0 {
            if !self.hear(read)? {
                return Ok(None);
            }
        }
        self.confirmed -= 1;
        Ok(Some(Ok(())))
    }

    /// Nothing is asked: deliveries come.
    fn receive(&mut self, _who: usize, _count: usize, _to: &mut BytesMut) {}

    fn take_received(&mut self, read: &mut BytesMut) -> Result<Option<Vec<Bytes>>, Failure> {
        while self.hear(read)? {}
        let names = self.held.drain(..).map(|tag| Bytes::copy_from_slice(&tag.to_be_bytes()));
        let names: Vec<Bytes> = names.collect();
        Ok(Some(names).filter(|names| !names.is_empty()))
    }

    /// The last one's ack is the ack of all before it, too.
    fn settle(&mut self, _who: usize, names: &[Bytes], to: &mut BytesMut) {
        let last = names.last().and_then(|name| name.first_chunk()).map_or(0, |tag| u64::from_be_bytes(*tag));
        requests::ack_up_to(last, to);
        requests::declare_passive(&self.queue, to);
        (self.settling, self.answered) = (names.len(), false);
    }

    fn take_settled(&mut self, read: &mut BytesMut) -> Result<Option<Result<usize, Miss>>, Failure> {
        while !self.answered {
            if !self.hear(read)? {
                return Ok(None);
            }
        }
        self.answered = false;
        Ok(Some(Ok(std::mem::take(&mut self.settling))))
    }

    /// What it still holds is others' again when the server has answered; and the server's log has no alarms.
    async fn part(&mut self, connection: &mut Pipeline) -> Result<(), Failure> {
        requests::close(&mut connection.unsent);
        connection.flush().await?;
        while next(&self.target.address, connection).await? != Said::Done("connection.close-ok") {}
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_may_be_a_url() {
        let of = |url| match Target::parse(url) {
            Ok(target) => Ok([target.address, target.user, target.password, target.vhost]),
            Err(failure) => Err((failure.code(), failure.to_string())),
        };
        let is = |parts: [&str; 4]| Ok(parts.map(str::to_owned));
        assert_eq!(of("h:1"), is(["h:1", "guest", "guest", "/"]));
        assert_eq!(of("amqp://[::1]/"), is(["[::1]:5672", "guest", "guest", "/"]));
        assert_eq!(of("amqp://me:a%40b:c@h:1/%2fx"), is(["h:1", "me", "a@b:c", "/x"]));
        for bad in [
            "",
            "amqps://h",
            "amqp://u@h",
            "amqp://u:p@h/a/b",
            "amqp://u:p@h/a?x",
            "h:x",
            "u:%zz@h",
            "u:%2@h",
        ] {
            let (code, text) = of(bad).unwrap_err();
            assert!(code == 2 && !text.contains("%"), "{bad}: {text}");
        }
        assert!(of(&format!("amqp://h/{}", "v".repeat(256))).is_err(), "no short string");
    }

    #[test]
    fn confirms_come_in_any_order_and_each_counts_once() {
        let mut confirms = Confirms { sent: 9, ..Confirms::default() };
        assert_eq!(confirms.confirm(3, false), Some(1));
        assert_eq!(confirms.confirm(1, false), Some(1));
        assert_eq!(confirms.confirm(3, false), None, "once");
        assert_eq!(confirms.confirm(5, true), Some(3), "2, 4 and 5");
        assert_eq!(confirms.confirm(5, true), Some(0));
        assert_eq!(confirms.confirm(2, false), None, "it was");
        assert_eq!(confirms.confirm(7, false), Some(1));
        assert_eq!((confirms.confirm(10, false), confirms.confirm(10, true)), (None, None), "never sent");
        assert_eq!(confirms.confirm(0, false), None);
        assert_eq!(confirms.confirm(0, true), Some(3), "6, 8 and 9");
        assert_eq!((confirms.all_to, confirms.ahead.len()), (9, 0));
    }

    fn channel(sent: u64) -> Channel {
        let target = Target::parse("h:1").ok().map(Rc::new).unwrap();
        Channel {
            target,
            queue: "q1".to_owned(),
            publish: Bytes::new(),
            prefetch: Some(2),
            confirms: Confirms { sent, ..Confirms::default() },
            confirmed: 0,
            coming: None,
            held: VecDeque::new(),
            settling: 0,
            answered: false,
        }
    }

    const DELIVER: &[u8] = b"\x01\0\x01\0\0\0\x13\0\x3c\0\x3c\x01c\0\0\0\0\0\0\0\x02\0\0\x02q1\xce";
    const CONTENT: &[u8] = b"\x02\0\x01\0\0\0\x0f\0\x3c\0\0\0\0\0\0\0\0\0\x03\x10\0\x02\xce";
    const ACK: &[u8] = b"\x01\0\x01\0\0\0\x0d\0\x3c\0\x50\0\0\0\0\0\0\0\x02\x01\xce";

    #[test]
    fn a_delivery_among_confirms_is_kept_until_it_is_asked_for() {
        let body: &[u8] = b"\x03\0\x01\0\0\0\x01a\xce\x03\0\x01\0\0\0\x02bc\xce";
        let mut read = BytesMut::from(&[DELIVER, CONTENT, body, ACK].concat()[..]);
        let mut channel = channel(2);
        for _ in 0..2 {
            assert!(matches!(channel.take_sent(&mut read), Ok(Some(Ok(())))));
        }
        assert!(matches!(channel.take_sent(&mut read), Ok(None)));
        let names = channel.take_received(&mut read).ok().flatten().unwrap();
        assert_eq!(names, [&[0, 0, 0, 0, 0, 0, 0, 2][..]]);
        assert!(matches!(channel.take_received(&mut read), Ok(None)));
        let mut to = BytesMut::new();
        channel.settle(0, &names, &mut to);
        assert!(to.starts_with(ACK));
        assert!(matches!(channel.take_settled(&mut read), Ok(None)), "the ack has no answer");
        read.extend_from_slice(b"\x01\0\x01\0\0\0\x0f\0\x32\0\x0b\x02q1\0\0\0\0\0\0\0\x01\xce");
        assert!(matches!(channel.take_settled(&mut read), Ok(Some(Ok(1)))));
    }

    #[test]
    fn what_nothing_led_to_is_named() {
        let heard = |wire: &[&[u8]]| {
            let mut read = BytesMut::from(&wire.concat()[..]);
            let mut channel = channel(1);
            while channel.hear(&mut read).map_err(|failure| failure.to_string())? {}
            Ok::<_, String>(channel.held.len())
        };
        assert_eq!(heard(&[DELIVER, CONTENT, b"\x03\0\x01\0\0\0\x03abc\xce"]), Ok(1));
        let wrong = |wire: &[&[u8]], what: &str| {
            let text = heard(wire).unwrap_err();
            assert!(text.contains("h:1") && text.contains(what), "{text}");
        };
        wrong(&[ACK], "Confirmed { tag: 2");
        wrong(&[CONTENT], "Content { len: 3 }");
        wrong(&[DELIVER, DELIVER], "Delivered { tag: 2 }");
        wrong(&[DELIVER, CONTENT, b"\x03\0\x01\0\0\0\x04abcd\xce"], "Body { len: 4 }");
        wrong(&[b"\x01\0\x01\0\0\0\x04\0\x55\0\x0b\xce"], "confirm.select-ok");
        wrong(&[b"\x01\0\x01\0\0\0\x0d\0\x3c\0\x78\0\0\0\0\0\0\0\x01\0\xce"], "basic.nack");
    }
}
