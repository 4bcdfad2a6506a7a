//! A blocking HTTP/1.1 client over plain sockets that is honest about what it does not know: an answer that
//! was not read to its last byte is *unknown*, never "failed".

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

/// Longest status line or header line accepted.
const LINE_MAX: u64 = 64 * 1024;
/// Longest body accepted: a receive of 16 MiB of payloads, in base64, and its Envelopes.
const BODY_MAX: u64 = 64 * 1024 * 1024;

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// TCP.
    Tcp(SocketAddr),
    /// A Unix socket in the file system.
    UnixPath(PathBuf),
    /// An abstract Unix socket, its name without the leading `@`.
    UnixAbstract(String),
}

/// Why there is no answer.
#[derive(Debug)]
pub enum Failure {
    /// No connection could be made: the request was not sent, nothing can have happened.
    NotSent(io::Error),
    /// The request, or part of it, was sent and its answer not read completely: it may have taken effect.
    Unknown(io::Error),
}

/// One request.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// `GET`, `POST`, …
    pub method: &'a str,
    /// Path and query.
    pub path: &'a str,
    /// Header lines beside Host and Content-Length.
    pub headers: &'a [(&'a str, &'a str)],
    /// The body; sent with its length, also if empty.
    pub body: &'a [u8],
}

/// One complete answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// Header lines in order, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body, complete.
    pub body: Vec<u8>,
}

impl Answer {
    /// The first header of that (lower-case) name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

#[derive(Debug)]
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(tcp) => tcp.read(buf),
            Stream::Unix(unix) => unix.read(buf),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(tcp) => tcp.write(buf),
            Stream::Unix(unix) => unix.write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A client with at most one kept-alive connection.
#[derive(Debug)]
pub struct Client {
    target: Target,
    connection: Option<BufReader<Stream>>,
    timeout: Duration,
}

impl Client {
    /// A client of `target` that gives up on a silent server after `timeout`.
    #[must_use]
    pub fn new(target: Target, timeout: Duration) -> Client {
        Client { target, connection: None, timeout }
    }

    /// Where it connects to.
    #[must_use]
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Connects unless it is connected.
    ///
    /// # Errors
    /// What connecting failed with.
    pub fn connect(&mut self) -> io::Result<()> {
        if self.connection.is_some() {
            return Ok(());
        }
        let stream = match &self.target {
            Target::Tcp(addr) => {
                let tcp = TcpStream::connect_timeout(addr, self.timeout)?;
                tcp.set_nodelay(true)?;
                tcp.set_read_timeout(Some(self.timeout))?;
                tcp.set_write_timeout(Some(self.timeout))?;
                Stream::Tcp(tcp)
            }
            Target::UnixPath(path) => Stream::Unix(self.limited(UnixStream::connect(path)?)?),
            Target::UnixAbstract(name) => {
                let addr = std::os::unix::net::SocketAddr::from_abstract_name(name.as_bytes())?;
                Stream::Unix(self.limited(UnixStream::connect_addr(&addr)?)?)
            }
        };
        self.connection = Some(BufReader::with_capacity(16 * 1024, stream));
        Ok(())
    }

    fn limited(&self, unix: UnixStream) -> io::Result<UnixStream> {
        unix.set_read_timeout(Some(self.timeout))?;
        unix.set_write_timeout(Some(self.timeout))?;
        Ok(unix)
    }

    /// Sends a request and reads its whole answer. After a failure the connection is gone.
    ///
    /// # Errors
    /// [`Failure::NotSent`] if there was no connection, [`Failure::Unknown`] for everything else.
    pub fn call(&mut self, request: &Request<'_>) -> Result<Answer, Failure> {
        self.connect().map_err(Failure::NotSent)?;
        let Some(mut connection) = self.connection.take() else {
            return Err(Failure::NotSent(io::ErrorKind::NotConnected.into()));
        };
        // A server may refuse before it has read the whole body: its answer counts even if writing failed.
        let written = connection.get_mut().write_all(&encode(request));
        let (answer, keep) = match read_answer(&mut connection, request.method == "HEAD") {
            Ok(read) => read,
            Err(error) => return Err(Failure::Unknown(written.err().unwrap_or(error))),
        };
        if keep && written.is_ok() {
            self.connection = Some(connection);
        }
        Ok(answer)
    }

    /// Writes `bytes` as they are and reads one answer, for requests that no client should send. The
    /// connection is closed afterwards.
    ///
    /// # Errors
    /// As for [`Client::call`].
    pub fn raw(&mut self, bytes: &[u8]) -> Result<Answer, Failure> {
        self.connect().map_err(Failure::NotSent)?;
        let Some(mut connection) = self.connection.take() else {
            return Err(Failure::NotSent(io::ErrorKind::NotConnected.into()));
        };
        let written = connection.get_mut().write_all(bytes);
        match read_answer(&mut connection, false) {
            Ok((answer, _)) => Ok(answer),
            Err(error) => Err(Failure::Unknown(written.err().unwrap_or(error))),
        }
    }
}

fn encode(request: &Request<'_>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(request.body.len() + 512);
    let Request { method, path, .. } = request;
    bytes.extend_from_slice(format!("{method} {path} HTTP/1.1\r\nHost: node\r\n").as_bytes());
    for (name, value) in request.headers {
        bytes.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
    }
    bytes.extend_from_slice(format!("Content-Length: {}\r\n\r\n", request.body.len()).as_bytes());
    bytes.extend_from_slice(request.body);
    bytes
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn read_line(from: &mut impl BufRead) -> io::Result<String> {
    let mut line = Vec::new();
    from.take(LINE_MAX).read_until(b'\n', &mut line)?;
    if line.pop() != Some(b'\n') {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    String::from_utf8(line).map_err(|_| bad("a header line is not UTF-8"))
}

/// Reads one answer; the flag says whether the connection can be used again.
fn read_answer(from: &mut impl BufRead, head: bool) -> io::Result<(Answer, bool)> {
    loop {
        let line = read_line(from)?;
        let status = line.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse::<u16>().ok());
        let status = status.ok_or_else(|| bad("not an HTTP/1.1 status line"))?;
        let mut headers = Vec::new();
        loop {
            let line = read_line(from)?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').ok_or_else(|| bad("a header line without a colon"))?;
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        if (100..200).contains(&status) {
            continue;
        }
        let mut answer = Answer { status, headers, body: Vec::new() };
        let bodiless = head || status == 204 || status == 304;
        let delimited = bodiless || read_body(from, &mut answer)?;
        let close = answer.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
        return Ok((answer, delimited && !close));
    }
}

/// Reads the body; false if only the end of the connection ended it.
fn read_body(from: &mut impl BufRead, answer: &mut Answer) -> io::Result<bool> {
    if answer.header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
        loop {
            let line = read_line(from)?;
            let digits = line.split(';').next().unwrap_or_default().trim();
            let size = u64::from_str_radix(digits, 16).map_err(|_| bad("a chunk without a size"))?;
            read_exactly(from, size, &mut answer.body)?;
            let end = read_line(from)?;
            if !end.is_empty() {
                return Err(bad("a chunk is longer than it says"));
            }
            if size == 0 {
                return Ok(true);
            }
        }
    }
    if let Some(length) = answer.header("content-length") {
        let length = length.parse::<u64>().map_err(|_| bad("Content-Length is not a number"))?;
        read_exactly(from, length, &mut answer.body)?;
        return Ok(true);
    }
    from.take(BODY_MAX).read_to_end(&mut answer.body)?;
    Ok(false)
}

fn read_exactly(from: &mut impl BufRead, size: u64, into: &mut Vec<u8>) -> io::Result<()> {
    if size > BODY_MAX {
        return Err(bad("a body is larger than any answer can be"));
    }
    let read = from.take(size).read_to_end(into)?;
    if u64::try_from(read).ok() == Some(size) { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

#[cfg(test)]
mod tests;
