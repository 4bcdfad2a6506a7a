//! An endpoint of the other side: a server of its own, inside TLS or not, that notes what it gets and answers what it
//! is told.

use crate::harness::poll;
use crate::pki::Pair;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How a request is answered.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    /// A status, and more header lines.
    Status(u16, &'static str),
    /// A redirect to there.
    To(String),
    /// 200, a body of declared length that never comes whole, and the connection stays open.
    Slow,
    /// 200, and a body that goes on until the other side has enough.
    Endless,
}

/// What came.
#[derive(Debug, Clone)]
pub(crate) struct Got {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Got {
    pub(crate) fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(known, _)| known == name);
        &found.unwrap_or_else(|| panic!("no {name} in {:?}", self.headers)).1
    }
}

#[derive(Debug, Default)]
struct Shared {
    /// The last one again and again.
    replies: Mutex<VecDeque<Reply>>,
    got: Mutex<Vec<Got>>,
    connections: AtomicUsize,
    /// Bytes of an endless body that were taken.
    taken: AtomicUsize,
}

/// See the module. Its threads end with the process.
#[derive(Debug)]
pub(crate) struct Receiver {
    pub(crate) addr: SocketAddr,
    shared: Arc<Shared>,
}

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

impl Receiver {
    /// At an address of its own; with a certificate inside TLS.
    pub(crate) fn start(at: &str, pair: Option<&Pair>, replies: &[Reply]) -> Receiver {
        let listener = TcpListener::bind(at).unwrap();
        let addr = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        shared.replies.lock().unwrap().extend(replies.iter().cloned());
        let (config, kept) = (pair.map(server_config), shared.clone());
        std::thread::spawn(move || {
            for socket in listener.incoming() {
                let (config, shared) = (config.clone(), kept.clone());
                shared.connections.fetch_add(1, Ordering::SeqCst);
                std::thread::spawn(move || serve(socket.unwrap(), config, &shared));
            }
        });
        Receiver { addr, shared }
    }

    /// What came, once it is so much.
    pub(crate) fn wait_for(&self, n: usize) -> Vec<Got> {
        poll(&format!("{n} requests"), || Some(self.got()).filter(|got| got.len() >= n))
    }

    pub(crate) fn got(&self) -> Vec<Got> {
        self.shared.got.lock().unwrap().clone()
    }

    /// How often it was connected to.
    pub(crate) fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Bytes of endless bodies that were taken.
    pub(crate) fn taken(&self) -> usize {
        self.shared.taken.load(Ordering::SeqCst)
    }
}

fn server_config(pair: &Pair) -> Arc<ServerConfig> {
    let chain = CertificateDer::pem_slice_iter(pair.cert.as_bytes()).map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    Arc::new(builder.with_single_cert(chain, key).unwrap())
}

fn serve(socket: TcpStream, config: Option<Arc<ServerConfig>>, shared: &Shared) {
    socket.set_read_timeout(Some(Duration::from_secs(40))).unwrap();
    let stream: Box<dyn Stream> = match config {
        None => Box::new(socket),
        Some(config) => Box::new(StreamOwned::new(ServerConnection::new(config).unwrap(), socket)),
    };
    let mut stream = BufReader::new(stream);
    // a client that goes away, or whose handshake fails, is no failure of the test
    while let Ok(Some(got)) = request(&mut stream) {
        shared.got.lock().unwrap().push(got);
        let reply = {
            let mut replies = shared.replies.lock().unwrap();
            if replies.len() > 1 { replies.pop_front() } else { replies.front().cloned() }
        };
        if answer(stream.get_mut(), &reply.unwrap(), shared).is_err() {
            return;
        }
    }
}

fn request(stream: &mut impl BufRead) -> std::io::Result<Option<Got>> {
    let (mut line, mut headers) = (String::new(), Vec::new());
    if stream.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split(' ').map(str::to_owned);
    let (method, path) = (words.next().unwrap(), words.next().unwrap_or_default());
    loop {
        let mut field = String::new();
        stream.read_line(&mut field)?;
        let Some((name, value)) = field.trim_end().split_once(':') else { break };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let length =
        headers.iter().find(|(name, _)| name == "content-length").map(|(_, value)| value.parse().unwrap());
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body)?;
    Ok(Some(Got { method, path, headers, body }))
}

fn answer(stream: &mut Box<dyn Stream>, reply: &Reply, shared: &Shared) -> std::io::Result<()> {
    match reply {
        Reply::Status(status, more) => {
            write!(stream, "HTTP/1.1 {status} X\r\nContent-Length: 2\r\n{more}\r\nok")?;
        }
        Reply::To(url) => {
            write!(stream, "HTTP/1.1 307 X\r\nLocation: {url}\r\nContent-Length: 0\r\n\r\n")?;
        }
        Reply::Slow => write!(stream, "HTTP/1.1 200 X\r\nContent-Length: 100\r\n\r\nnot yet")?,
        Reply::Endless => {
            write!(stream, "HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n")?;
            let chunk = [b"400\r\n".as_slice(), &[b'x'; 1024], b"\r\n"].concat();
            loop {
                stream.write_all(&chunk)?;
                stream.flush()?;
                shared.taken.fetch_add(1024, Ordering::SeqCst);
            }
        }
    }
    stream.flush()
}
