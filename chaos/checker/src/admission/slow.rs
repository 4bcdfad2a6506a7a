//! Connections that never get anywhere, many of them in one thread: each does the least that keeps it alive,
//! and comes again when it is cut.

use crate::clock;
use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// How a connection wastes its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Opens, and says nothing.
    Silent,
    /// A head, a byte a second.
    Head,
    /// A head of 30 KiB at once, then a byte a second.
    LongHead,
    /// A body, a byte a second.
    Body,
    /// Says that 1 MiB comes, and sends nothing.
    Promise,
    /// Sends all of 1 MiB but its end, then a byte a second.
    Heavy,
    /// The beginning of a gzip body whose end never comes.
    Gzip,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 7] =
        [Kind::Silent, Kind::Head, Kind::LongHead, Kind::Body, Kind::Promise, Kind::Heavy, Kind::Gzip];

    /// What it sends at first.
    fn opening(self) -> Vec<u8> {
        let head = |more: &str| {
            format!(
                "POST /webhooks/github HTTP/1.1\r\nHost: node\r\nX-GitHub-Event: push\r\n\
                 X-GitHub-Delivery: 1\r\nX-Hub-Signature-256: sha256={}\r\n{more}",
                "0".repeat(64)
            )
            .into_bytes()
        };
        match self {
            Kind::Silent => Vec::new(),
            Kind::Head => head("X-Drip: "),
            Kind::LongHead => head(&format!("X-Long: {}\r\nX-Drip: ", "y".repeat(30_000))),
            Kind::Body => head("Content-Length: 1000\r\n\r\n{"),
            Kind::Promise => head("Content-Length: 1048576\r\n\r\n"),
            Kind::Heavy => {
                let mut bytes = head("Content-Length: 1048576\r\n\r\n");
                bytes.resize(bytes.len() + (1 << 20) - 100, b'x');
                bytes
            }
            Kind::Gzip => {
                let mut bytes = head("Content-Encoding: gzip\r\nContent-Length: 100000\r\n\r\n");
                bytes.extend_from_slice(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255, 0]);
                bytes
            }
        }
    }

    /// Whether it goes on with a byte a second.
    fn drips(self) -> bool {
        !matches!(self, Kind::Silent | Kind::Promise)
    }
}

/// What became of them.
#[derive(Debug, Default, Clone)]
pub struct Ends {
    /// Connections opened.
    pub opened: u64,
    /// By kind and status, 0 for a connection that was closed without an answer.
    pub ends: BTreeMap<(Kind, u16), u64>,
    /// Connections that could not be opened.
    pub not_opened: u64,
}

struct Slow {
    kind: Kind,
    socket: Option<TcpStream>,
    unsent: Vec<u8>,
}

/// Keeps `count` slow connections to `addr` until `over`; `alive` is how many are open now.
#[must_use]
pub fn waste(addr: SocketAddr, count: usize, over: &Arc<AtomicBool>, alive: &Arc<AtomicU64>) -> Ends {
    const STEPS: usize = 20; // a second has so many steps; in each every 20th connection has its turn
    let kinds = Kind::ALL.iter().cycle().copied().take(count);
    let mut all: Vec<Slow> = kinds.map(|kind| Slow { kind, socket: None, unsent: Vec::new() }).collect();
    let mut ends = Ends::default();
    let mut step = 0;
    while !over.load(Ordering::SeqCst) {
        for slow in all.iter_mut().skip(step % STEPS).step_by(STEPS) {
            slow.turn(addr, &mut ends);
        }
        // what a socket did not take at once is sent on sooner
        all.iter_mut().filter(|slow| slow.unsent.len() > 1).for_each(Slow::send);
        let open = all.iter().filter(|slow| slow.socket.is_some()).count();
        alive.store(open as u64, Ordering::SeqCst);
        step += 1;
        clock::sleep(Duration::from_millis(1_000 / STEPS as u64));
    }
    ends
}

impl Slow {
    fn turn(&mut self, addr: SocketAddr, ends: &mut Ends) {
        if let Some(status) = self.ended() {
            *ends.ends.entry((self.kind, status)).or_default() += 1;
            self.socket = None;
        }
        if self.socket.is_some() {
            if self.kind.drips() && self.unsent.is_empty() {
                self.unsent.push(b'x');
            }
            return self.send();
        }
        let connected = TcpStream::connect_timeout(&addr, Duration::from_millis(500));
        match connected.and_then(|socket| socket.set_nonblocking(true).map(|()| socket)) {
            Ok(socket) => {
                ends.opened += 1;
                (self.socket, self.unsent) = (Some(socket), self.kind.opening());
                self.send();
            }
            Err(_) => ends.not_opened += 1,
        }
    }

    /// The status of the answer that ended it, 0 without one; `None` if it goes on.
    fn ended(&mut self) -> Option<u16> {
        let socket = self.socket.as_mut()?;
        let mut answer = [0; 512];
        match socket.read(&mut answer) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            Err(_) | Ok(0) => Some(0),
            Ok(read) => {
                let text = String::from_utf8_lossy(&answer[..read]).into_owned();
                Some(text.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0))
            }
        }
    }

    fn send(&mut self) {
        let Some(socket) = &mut self.socket else { return };
        // whether it is closed the next read will tell
        if let Ok(written) = socket.write(&self.unsent) {
            self.unsent.drain(..written);
        }
    }
}
