//! The load generator's HTTP: requests are built once, answers are read with the least work, since every
//! microsecond spent here is taken from the node on the same processors.

use crate::client::Call;
use std::io;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The largest answer head and body that are read: a message of 1 MiB in base64, and what stands around it.
const ANSWER_MAX: usize = 2 << 20;

/// The bytes of a POST.
#[must_use]
pub(super) fn post(
    address: &str,
    path: &str,
    token: Option<&str>,
    content_type: &str,
    body: &[u8],
) -> Vec<u8> {
    let auth = token.map(|token| format!("authorization: Bearer {token}\r\n")).unwrap_or_default();
    let kind = if body.is_empty() { String::new() } else { format!("content-type: {content_type}\r\n") };
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: {address}\r\n{auth}{kind}content-length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// The bytes of a provider's webhook.
#[must_use]
pub(super) fn signed(address: &str, call: &Call) -> Vec<u8> {
    let mut head = format!("POST {} HTTP/1.1\r\nhost: {address}\r\n", call.path);
    for (name, value) in &call.headers {
        head += &format!("{name}: {value}\r\n");
    }
    head += &format!("content-length: {}\r\n\r\n", call.body.len());
    [head.as_bytes(), &call.body].concat()
}

/// Status and lengths of an answer's head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Head {
    status: u16,
    head_len: usize,
    body_len: usize,
    closes: bool,
}

/// An answer, as far as the generator looks at it.
#[derive(Debug)]
pub(super) struct Reply<'a> {
    /// The status.
    pub(super) status: u16,
    /// The body.
    pub(super) body: &'a [u8],
}

/// One kept connection.
#[derive(Debug)]
pub(super) struct Wire {
    address: String,
    stream: Option<TcpStream>,
    buffer: Vec<u8>,
}

impl Wire {
    /// A connection to `address`; opened at the first exchange, and anew after one that failed.
    #[must_use]
    pub(super) fn new(address: &str) -> Wire {
        Wire { address: address.to_owned(), stream: None, buffer: Vec::with_capacity(4096) }
    }

    /// Opens the connection, so that the first exchange does not pay for it.
    ///
    /// # Errors
    /// Whatever the connect says.
    pub(super) async fn open(&mut self) -> io::Result<()> {
        let stream = TcpStream::connect(&self.address).await?;
        stream.set_nodelay(true)?;
        self.stream = Some(stream);
        Ok(())
    }

    /// Sends a request and reads its answer.
    ///
    /// # Errors
    /// If the connection breaks, or the answer is none that the node gives.
    pub(super) async fn exchange(&mut self, request: &[u8]) -> io::Result<Reply<'_>> {
        if self.stream.is_none() {
            self.open().await?;
        }
        // kept only if the exchange comes to its end
        let mut stream = self.stream.take().ok_or(io::ErrorKind::NotConnected)?;
        stream.write_all(request).await?;
        self.buffer.clear();
        let head = loop {
            if stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            match parse_head(&self.buffer)? {
                Some(head) => break head,
                None if self.buffer.len() > ANSWER_MAX => return Err(io::ErrorKind::InvalidData.into()),
                None => {}
            }
        };
        let end = head.head_len + head.body_len;
        while self.buffer.len() < end {
            if stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        if !head.closes {
            self.stream = Some(stream);
        }
        let body = self.buffer.get(head.head_len..end).unwrap_or_default();
        Ok(Reply { status: head.status, body })
    }
}

/// The head at the start of `bytes`; `None` if it is not complete yet.
fn parse_head(bytes: &[u8]) -> io::Result<Option<Head>> {
    let Some(end) = find(bytes, b"\r\n\r\n") else { return Ok(None) };
    let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let head = std::str::from_utf8(&bytes[..end]).map_err(|_| bad("a head that is not text"))?;
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 ")).and_then(|rest| rest.get(..3));
    let status = status.and_then(|code| code.parse().ok()).ok_or_else(|| bad("no HTTP/1.1 status"))?;
    let (mut body_len, mut closes) = (0, false);
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        if name.eq_ignore_ascii_case("content-length") {
            body_len = value.trim().parse().map_err(|_| bad("a content-length that is no number"))?;
        } else if name.eq_ignore_ascii_case("connection") {
            closes = value.trim().eq_ignore_ascii_case("close");
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            return Err(bad("a chunked answer"));
        }
    }
    if body_len > ANSWER_MAX {
        return Err(bad("an answer far larger than any of the node's"));
    }
    Ok(Some(Head { status, head_len: end + 4, body_len, closes }))
}

/// The text of a JSON string field, found by its quoted name without parsing the rest; right for names that
/// stand nowhere else and values without escapes.
#[must_use]
pub(super) fn field<'a>(body: &'a [u8], quoted_name: &[u8]) -> Option<&'a str> {
    let rest = body.get(find(body, quoted_name)? + quoted_name.len()..)?.trim_ascii_start();
    let rest = rest.strip_prefix(b":")?.trim_ascii_start().strip_prefix(b"\"")?;
    let end = rest.iter().position(|&byte| byte == b'"')?;
    std::str::from_utf8(&rest[..end]).ok()
}

/// Where `needle` first stands in `bytes`.
fn find(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    let first = *needle.first()?;
    let mut from = 0;
    while let Some(at) = bytes.get(from..)?.iter().position(|&byte| byte == first) {
        if bytes[from + at..].starts_with(needle) {
            return Some(from + at);
        }
        from += at + 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_read_when_complete() {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\nx: y\r\n\r\n{\"a\":\"b\"}";
        let head = Head { status: 200, head_len: 45, body_len: 12, closes: false };
        assert_eq!(parse_head(answer).unwrap(), Some(head));
        assert_eq!(parse_head(&answer[..30]).unwrap(), None);
        let empty = parse_head(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n").unwrap().unwrap();
        assert_eq!((empty.status, empty.body_len, empty.closes), (204, 0, true));
    }

    #[test]
    fn what_the_node_never_sends_is_an_error() {
        for bad in [
            "SSH-2.0-x\r\n\r\n",
            "HTTP/1.1 abc\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 99999999\r\n\r\n",
        ] {
            assert!(parse_head(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn fields_are_found_without_parsing() {
        let body = br#"{"msg_id":"01J","durability": "fsync","results":[{"receipt":"r_1-x"}]}"#;
        assert_eq!(field(body, b"\"durability\""), Some("fsync"));
        assert_eq!(field(body, b"\"receipt\""), Some("r_1-x"));
        assert_eq!(field(body, b"\"reason\""), None);
        assert_eq!(find(b"aab", b"ab"), Some(1));
    }
}
