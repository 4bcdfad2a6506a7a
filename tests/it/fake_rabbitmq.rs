//! A server that speaks as much of RabbitMQ as the benchmark needs: quorum queues, confirms in an odd order, consumers
//! that get no more than they may hold. It remembers what it was asked.

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};

/// The least that AMQP allows: messages of more are cut, whoever sends them.
const FRAME_MAX: u32 = 4096;

/// What it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Temper {
    Good,
    /// Has no room: refuses every message.
    Full,
    /// Sends every message back, as if the queue were gone.
    Forgetful,
}

/// What it was asked so far.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    pub(crate) published: u64,
    pub(crate) payload_bytes: u64,
    pub(crate) delivered: u64,
    /// Deliveries whose consumer went before it acked them.
    pub(crate) returned: u64,
    pub(crate) acked: u64,
    /// Questions to a queue.
    pub(crate) asked: u64,
    /// Queues that are there.
    pub(crate) queues: usize,
}

/// Messages are told apart by nothing but how long they are.
#[derive(Debug)]
struct Consumer {
    connection: usize,
    socket: TcpStream,
    prefetch: usize,
    delivered: u64,
    unacked: VecDeque<(u64, usize)>,
}

#[derive(Debug, Default)]
struct Queue {
    ready: VecDeque<usize>,
    consumers: VecDeque<Consumer>,
}

#[derive(Debug, Default)]
struct State {
    seen: Seen,
    queues: BTreeMap<String, Queue>,
}

#[derive(Debug)]
pub(crate) struct FakeRabbitMq {
    port: u16,
    state: Arc<Mutex<State>>,
}

impl FakeRabbitMq {
    pub(crate) fn start(temper: Temper) -> FakeRabbitMq {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::<Mutex<State>>::default();
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for (id, socket) in listener.incoming().map_while(Result::ok).enumerate() {
                socket.set_nodelay(true).unwrap();
                let state = Arc::clone(&shared);
                let mut connection =
                    Connection { id, socket, temper, state, prefetch: 0, published: 0, confirmed: 0 };
                std::thread::spawn(move || {
                    connection.serve();
                    connection.gone();
                });
            }
        });
        FakeRabbitMq { port, state }
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub(crate) fn seen(&self) -> Seen {
        let state = self.state.lock().unwrap();
        Seen { queues: state.queues.len(), ..state.seen.clone() }
    }
}

#[derive(Debug)]
struct Connection {
    id: usize,
    /// Written to while the state is locked, since other connections write deliveries.
    socket: TcpStream,
    temper: Temper,
    state: Arc<Mutex<State>>,
    prefetch: usize,
    published: u64,
    confirmed: u64,
}

impl Connection {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Until the client goes, or is refused.
    fn serve(&mut self) {
        let mut reader = BufReader::new(self.socket.try_clone().unwrap());
        let mut header = [0; 8];
        if reader.read_exact(&mut header).is_err() {
            return;
        }
        assert_eq!(&header, b"AMQP\0\0\x09\x01");
        let properties = [short("product"), field("RabbitMQ"), short("version"), field("3.fake")].concat();
        let hello = [vec![0, 9], long(&properties), long(b"AMQPLAIN PLAIN"), long(b"en_US")].concat();
        self.say(&method(0, (10, 10), &hello));
        while let Some((kind, payload)) = frame(&mut reader) {
            assert_eq!(kind, 1, "a method");
            let id = (u16::from(payload[1]), u16::from(payload[3]));
            let went_well = if id == (60, 40) {
                self.publish(&payload[4..], &mut reader)
            } else {
                self.answer(id, &payload[4..])
            };
            if !went_well {
                return;
            }
            if reader.buffer().is_empty() {
                self.confirm();
            }
        }
    }

    fn say(&mut self, bytes: &[u8]) {
        let state = Arc::clone(&self.state);
        let _alone = state.lock().unwrap();
        let _ = self.socket.write_all(bytes); // it may be gone
    }

    fn answer(&mut self, id: (u16, u16), fields: &[u8]) -> bool {
        let said = match id {
            (10, 11) if !fields.windows(12).any(|some| some == b"\0guest\0guest") => {
                let why = [&403_u16.to_be_bytes()[..], &short("ACCESS_REFUSED - no"), &[0; 4]].concat();
                self.say(&method(0, (10, 50), &why));
                return false;
            }
            (10, 11) => {
                let limits = [&7_u16.to_be_bytes()[..], &FRAME_MAX.to_be_bytes(), &60_u16.to_be_bytes()];
                method(0, (10, 30), &limits.concat())
            }
            (10, 31) => {
                assert_eq!(fields, [0, 7, 0, 0, 16, 0, 0, 0], "as offered, without heartbeats");
                vec![8, 0, 0, 0, 0, 0, 0, 0xce] // one all the same
            }
            (10, 50) => {
                self.gone();
                self.say(&method(0, (10, 51), &[]));
                return false;
            }
            (10, 40) => method(0, (10, 41), &[0]),
            (20, 10) => method(1, (20, 11), &[0; 4]),
            (85, 10) => method(1, (85, 11), &[]),
            (60, 10) => {
                self.prefetch = usize::from(u16::from_be_bytes([fields[4], fields[5]]));
                method(1, (60, 11), &[])
            }
            (50, 10) => self.declare(fields),
            (50, 40) => {
                assert!(self.lock().queues.remove(&name(&fields[2..])).is_some());
                method(1, (50, 41), &[0; 4])
            }
            (60, 20) => {
                self.say(&method(1, (60, 21), &short("ronctl")));
                self.consume(&name(&fields[2..]));
                return true;
            }
            (60, 80) => {
                self.ack(u64::from_be_bytes(fields[..8].try_into().unwrap()), fields[8]);
                return true;
            }
            other => panic!("{other:?}"),
        };
        self.say(&said);
        true
    }

    fn declare(&self, fields: &[u8]) -> Vec<u8> {
        let mut state = self.lock();
        let queue = name(&fields[2..]);
        if fields[3 + queue.len()] & 1 == 1 {
            assert!(state.queues.contains_key(&queue));
            state.seen.asked += 1;
        } else {
            assert_eq!(fields[3 + queue.len()], 2, "durable, and no more");
            assert!(fields.windows(6).any(|some| some == b"quorum"));
            state.queues.insert(queue.clone(), Queue::default());
        }
        method(1, (50, 11), &[short(&queue), vec![0; 8]].concat())
    }

    fn consume(&self, queue: &str) {
        let mut state = self.lock();
        let socket = self.socket.try_clone().unwrap();
        let consumer = Consumer {
            connection: self.id,
            socket,
            prefetch: self.prefetch,
            delivered: 0,
            unacked: VecDeque::new(),
        };
        let State { seen, queues } = &mut *state;
        let queue = queues.get_mut(queue).unwrap();
        queue.consumers.push_back(consumer);
        deliver(queue, seen);
    }

    fn publish(&mut self, fields: &[u8], reader: &mut impl Read) -> bool {
        let queue = name(&fields[3..]);
        assert_eq!((fields[2], fields[fields.len() - 1]), (0, 1), "the default exchange, mandatory");
        let (kind, content) = frame(reader).unwrap();
        assert_eq!((kind, &content[12..]), (2, &[0x10, 0, 2][..]), "persistent, and nothing else");
        let len = u64::from_be_bytes(content[4..12].try_into().unwrap()) as usize;
        let mut come = 0;
        while come < len {
            let (kind, body) = frame(reader).unwrap();
            assert!(kind == 3 && body.len() + 8 <= FRAME_MAX as usize);
            come += body.len();
        }
        assert_eq!(come, len);
        self.published += 1;
        if self.temper == Temper::Full {
            self.say(&method(1, (60, 120), &[&self.published.to_be_bytes()[..], &[0]].concat()));
            return true;
        }
        if self.temper == Temper::Forgetful {
            let why = [&312_u16.to_be_bytes()[..], &short("NO_ROUTE"), &short(""), &short(&queue)].concat();
            self.say(&[method(1, (60, 50), &why), message(len)].concat());
            return true;
        }
        let mut state = self.lock();
        let State { seen, queues } = &mut *state;
        seen.published += 1;
        seen.payload_bytes += len as u64;
        let queue = queues.get_mut(&queue).unwrap();
        queue.ready.push_back(len);
        deliver(queue, seen);
        true
    }

    /// The last publish first, and then all before it at once.
    fn confirm(&mut self) {
        if self.temper != Temper::Good || self.published == self.confirmed {
            return;
        }
        let ack = |tag: u64, multiple| method(1, (60, 80), &[&tag.to_be_bytes()[..], &[multiple]].concat());
        let mut said = ack(self.published, 0);
        if self.published > self.confirmed + 1 {
            said.extend(ack(self.published - 1, 1));
        }
        self.say(&said);
        self.confirmed = self.published;
    }

    fn ack(&self, tag: u64, multiple: u8) {
        let mut state = self.lock();
        let State { seen, queues } = &mut *state;
        for queue in queues.values_mut() {
            for consumer in queue.consumers.iter_mut().filter(|one| one.connection == self.id) {
                let before = consumer.unacked.len();
                consumer.unacked.retain(|(held, _)| if multiple == 1 { *held > tag } else { *held != tag });
                seen.acked += (before - consumer.unacked.len()) as u64;
            }
            deliver(queue, seen);
        }
    }

    /// What the client held goes to others.
    fn gone(&self) {
        let mut state = self.lock();
        let State { seen, queues } = &mut *state;
        for queue in queues.values_mut() {
            for consumer in queue.consumers.iter().filter(|one| one.connection == self.id) {
                seen.returned += consumer.unacked.len() as u64;
                queue.ready.extend(consumer.unacked.iter().map(|(_, len)| *len));
            }
            queue.consumers.retain(|one| one.connection != self.id);
            deliver(queue, seen);
        }
    }
}

/// Gives what is ready to consumers that may hold more, in turn.
fn deliver(queue: &mut Queue, seen: &mut Seen) {
    while let Some(len) = queue.ready.front().copied() {
        let free = queue.consumers.iter().position(|one| one.unacked.len() < one.prefetch);
        let Some(mut consumer) = free.and_then(|at| queue.consumers.remove(at)) else { return };
        queue.ready.pop_front();
        consumer.delivered += 1;
        let tag = consumer.delivered.to_be_bytes();
        let head = [&short("ronctl")[..], &tag, &[0], &short(""), &short("q")].concat();
        let _ = consumer.socket.write_all(&[method(1, (60, 60), &head), message(len)].concat());
        consumer.unacked.push_back((consumer.delivered, len));
        seen.delivered += 1;
        queue.consumers.push_back(consumer);
    }
}

/// A message's header and body.
fn message(len: usize) -> Vec<u8> {
    let mut payload = vec![0, 60, 0, 0];
    payload.extend((len as u64).to_be_bytes());
    payload.extend([0x10, 0, 2]);
    let body = vec![b'x'; len];
    let parts = body.chunks(FRAME_MAX as usize - 8).flat_map(|part| framed(3, 1, part));
    framed(2, 1, &payload).into_iter().chain(parts).collect()
}

fn frame(reader: &mut impl Read) -> Option<(u8, Vec<u8>)> {
    let mut head = [0; 7];
    reader.read_exact(&mut head).ok()?;
    let len = u32::from_be_bytes(head[3..].try_into().unwrap());
    let mut payload = vec![0; len as usize + 1];
    reader.read_exact(&mut payload).ok()?;
    assert_eq!(payload.pop(), Some(0xce));
    Some((head[0], payload))
}

fn framed(kind: u8, channel: u8, payload: &[u8]) -> Vec<u8> {
    [&[kind, 0, channel][..], &long(payload), &[0xce]].concat()
}

fn method(channel: u8, id: (u16, u16), fields: &[u8]) -> Vec<u8> {
    framed(1, channel, &[&id.0.to_be_bytes()[..], &id.1.to_be_bytes(), fields].concat())
}

fn short(text: &str) -> Vec<u8> {
    [&[text.len() as u8][..], text.as_bytes()].concat()
}

fn long(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u32).to_be_bytes()[..], bytes].concat()
}

/// A text in a table.
fn field(text: &str) -> Vec<u8> {
    [b"S", &long(text.as_bytes())[..]].concat()
}

/// The short string that these begin with.
fn name(fields: &[u8]) -> String {
    String::from_utf8(fields[1..=usize::from(fields[0])].to_vec()).unwrap()
}
