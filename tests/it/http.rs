//! A client that sends what it is told, byte for byte, and reads the answer. A connection a call.

use crate::pki::{self, Trust};
use serde_json::Value;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::UnixStream;
use std::time::Duration;

const ANSWER_WITHIN: Duration = Duration::from_secs(40);

/// Where a client connects to.
#[derive(Debug, Clone)]
pub(crate) enum Door {
    Tcp(SocketAddr),
    Tls(SocketAddr, Trust),
    Unix(String),
}

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

#[derive(Debug, Clone)]
pub(crate) struct Client {
    door: Door,
    token: Option<String>,
}

#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// What was asked, for messages of failing tests.
    asked: String,
}

pub(crate) type Header<'h> = (&'h str, &'h [u8]);

impl Client {
    pub(crate) fn new(door: Door) -> Client {
        Client { door, token: None }
    }

    pub(crate) fn with(&self, token: &str) -> Client {
        Client { door: self.door.clone(), token: Some(token.to_owned()) }
    }

    /// The same without a capability.
    pub(crate) fn bare(&self) -> Client {
        Client::new(self.door.clone())
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        match &self.door {
            Door::Tcp(addr) | Door::Tls(addr, _) => *addr,
            Door::Unix(path) => panic!("{path} is a socket"),
        }
    }

    fn connect(&self) -> Box<dyn Stream> {
        match &self.door {
            Door::Tcp(addr) => {
                let stream = TcpStream::connect(addr).unwrap();
                stream.set_read_timeout(Some(ANSWER_WITHIN)).unwrap();
                Box::new(stream)
            }
            Door::Tls(addr, trust) => Box::new(pki::connect(*addr, trust).unwrap()),
            Door::Unix(path) => {
                let stream = match path.strip_prefix('@') {
                    Some(name) => {
                        let addr = std::os::unix::net::SocketAddr::from_abstract_name(name).unwrap();
                        UnixStream::connect_addr(&addr).unwrap()
                    }
                    None => UnixStream::connect(path).unwrap(),
                };
                stream.set_read_timeout(Some(ANSWER_WITHIN)).unwrap();
                Box::new(stream)
            }
        }
    }

    /// The bytes of a request with a body of declared length.
    pub(crate) fn request(&self, method: &str, path: &str, headers: &[Header<'_>], body: &[u8]) -> Vec<u8> {
        let mut bytes = format!("{method} {path} HTTP/1.1\r\nHost: it\r\nConnection: close\r\n").into_bytes();
        if let Some(token) = &self.token {
            bytes.extend_from_slice(format!("Authorization: Bearer {token}\r\n").as_bytes());
        }
        for (name, value) in headers {
            bytes.extend_from_slice(name.as_bytes());
            bytes.extend_from_slice(b": ");
            bytes.extend_from_slice(value);
            bytes.extend_from_slice(b"\r\n");
        }
        if method != "GET" && method != "HEAD" {
            bytes.extend_from_slice(format!("Content-Length: {}\r\n", body.len()).as_bytes());
        }
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(body);
        bytes
    }

    pub(crate) fn call(&self, method: &str, path: &str, headers: &[Header<'_>], body: &[u8]) -> Answer {
        self.raw(&self.request(method, path, headers, body))
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.call("GET", path, &[], b"")
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Answer {
        self.call("POST", path, &[("Content-Type", b"application/json")], body.to_string().as_bytes())
    }

    /// Sends bytes as they are and reads one answer.
    pub(crate) fn raw(&self, request: &[u8]) -> Answer {
        self.try_raw(request).unwrap_or_else(|what| panic!("{}: {what}", asked(request)))
    }

    /// As [`Client::raw`], for a node that may be gone.
    pub(crate) fn try_raw(&self, request: &[u8]) -> Result<Answer, String> {
        let mut stream = self.connect();
        // refused before it is read whole: the answer is there all the same
        match stream.write_all(request).and_then(|()| stream.flush()) {
            Err(error) if !matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {
                Err(error.to_string())
            }
            _ => read_answer(&mut *stream, request),
        }
    }

    /// Sends a request and does not wait for the answer.
    pub(crate) fn begin(&self, request: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(self.addr()).unwrap();
        stream.set_read_timeout(Some(ANSWER_WITHIN)).unwrap();
        stream.write_all(request).unwrap();
        stream
    }
}

fn asked(request: &[u8]) -> String {
    String::from_utf8_lossy(request).lines().next().unwrap_or_default().chars().take(120).collect()
}

pub(crate) fn read_answer(stream: &mut (impl Read + ?Sized), request: &[u8]) -> Result<Answer, String> {
    let (mut bytes, mut buffer) = (Vec::new(), [0; 16 * 1024]);
    loop {
        if let Some(answer) = parse(&bytes, false, request) {
            return Ok(answer);
        }
        match stream.read(&mut buffer) {
            Ok(0) => {
                return parse(&bytes, true, request)
                    .ok_or_else(|| format!("no whole answer: {:?}", String::from_utf8_lossy(&bytes)));
            }
            Ok(n) => bytes.extend_from_slice(&buffer[..n]),
            Err(error) => return parse(&bytes, true, request).ok_or_else(|| error.to_string()),
        }
    }
}

fn parse(bytes: &[u8], at_end: bool, request: &[u8]) -> Option<Answer> {
    let end = bytes.windows(4).position(|w| w == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let mut lines = head.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let header =
        |name: &str| headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
    let rest = &bytes[end + 4..];
    let body = if request.starts_with(b"HEAD") || status == 204 {
        Vec::new()
    } else if header("transfer-encoding") == Some("chunked") {
        unchunk(rest)?
    } else if let Some(length) = header("content-length") {
        let length: usize = length.parse().ok()?;
        rest.get(..length)?.to_vec()
    } else if at_end {
        rest.to_vec()
    } else {
        return None;
    };
    Some(Answer { status, headers, body, asked: asked(request) })
}

fn unchunk(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = rest.windows(2).position(|w| w == b"\r\n")?;
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..line]).ok()?.trim(), 16).ok()?;
        if size == 0 {
            return Some(body);
        }
        body.extend_from_slice(rest.get(line + 2..line + 2 + size)?);
        rest = rest.get(line + 2 + size + 2..)?;
    }
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// The JSON of an answer with this status.
    #[track_caller]
    pub(crate) fn json(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}: {}", self.asked, String::from_utf8_lossy(&self.body));
        assert_eq!(self.header("content-type"), Some("application/json"), "{}", self.asked);
        let corr = self.header("x-corr-id").unwrap_or_default();
        assert!((8..=64).contains(&corr.len()), "{}: X-Corr-Id {corr:?}", self.asked);
        serde_json::from_slice(&self.body).unwrap()
    }

    /// Checks the whole error envelope of SPEC §3, and returns its text.
    #[track_caller]
    pub(crate) fn refused(&self, status: u16, reason: &str) -> String {
        let json = self.json(status);
        let asked = &self.asked;
        let object = json.as_object().unwrap();
        let mut keys: Vec<&str> = object.keys().map(String::as_str).collect();
        keys.sort_unstable();
        assert_eq!(keys, ["corr_id", "error", "reason"], "{asked}");
        assert_eq!(json["reason"], reason, "{asked}: {json}");
        assert_eq!(json["corr_id"], self.header("x-corr-id").unwrap(), "{asked}");
        let text = json["error"].as_str().unwrap();
        assert!(!text.is_empty(), "{asked}");
        let effect = self.header("x-effect").unwrap_or_else(|| panic!("{asked}: no X-Effect"));
        let may_be_unknown = matches!(reason, "STORAGE" | "DOWNSTREAM_UNAVAILABLE" | "INTERNAL");
        assert!(effect == "none" || (effect == "unknown" && may_be_unknown), "{asked}: X-Effect {effect}");
        let retry = self.header("retry-after").map(|value| value.parse::<u64>().unwrap());
        match status {
            429 | 503 => assert!(retry.is_some_and(|s| s >= 1), "{asked}: Retry-After {retry:?}"),
            _ => assert_eq!(retry, None, "{asked}"),
        }
        text.to_owned()
    }
}
