//! RESP2, the protocol of Redis: commands out, replies in. Replies are told apart and counted; what is in them is
//! copied only when it is asked for.

use bytes::{Buf, Bytes, BytesMut};

/// The longest reply that is read, in parts: what a server may say at once.
const DEPTH_MAX: usize = 8;
const LEN_MAX: usize = 512 << 20;

/// A reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reply {
    /// A word, or a number as text.
    Text(Bytes),
    /// The server said no.
    Error(String),
    /// Bytes; `None` = null.
    Bulk(Option<Bytes>),
    /// A list; `None` = null.
    List(Option<Vec<Reply>>),
}

/// Bytes that are no reply.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NotResp;

impl Reply {
    /// Its text, if it is one.
    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Reply::Text(bytes) | Reply::Bulk(Some(bytes)) => std::str::from_utf8(bytes).ok(),
            Reply::Error(_) | Reply::Bulk(None) | Reply::List(_) => None,
        }
    }

    /// Its entries; none if it is no list.
    pub(super) fn entries(&self) -> &[Reply] {
        match self {
            Reply::List(Some(entries)) => entries,
            Reply::Text(_) | Reply::Error(_) | Reply::Bulk(_) | Reply::List(None) => &[],
        }
    }
}

/// Appends a command.
pub(super) fn command(parts: &[&[u8]], to: &mut BytesMut) {
    to.extend_from_slice(format!("*{}\r\n", parts.len()).as_bytes());
    for part in parts {
        to.extend_from_slice(format!("${}\r\n", part.len()).as_bytes());
        to.extend_from_slice(part);
        to.extend_from_slice(b"\r\n");
    }
}

/// Takes the first reply, if it is whole.
///
/// # Errors
/// [`NotResp`].
pub(super) fn take(read: &mut BytesMut) -> Result<Option<Reply>, NotResp> {
    let Some(end) = whole(read, 0, 0)? else { return Ok(None) };
    let mut bytes = read.split_to(end).freeze();
    parse(&mut bytes).map(Some)
}

/// Takes the first reply, if it is whole and bytes, without looking at them; `false` if it is neither.
///
/// # Errors
/// [`NotResp`].
pub(super) fn skip_bulk(read: &mut BytesMut) -> Result<bool, NotResp> {
    if !read.starts_with(b"$") || read.starts_with(b"$-") {
        return Ok(false);
    }
    let Some(end) = whole(read, 0, 0)? else { return Ok(false) };
    read.advance(end);
    Ok(true)
}

/// Where the reply that begins at `at` ends.
fn whole(read: &[u8], at: usize, depth: usize) -> Result<Option<usize>, NotResp> {
    let Some((&kind, rest)) = read.get(at..).and_then(<[u8]>::split_first) else { return Ok(None) };
    let Some(line) = rest.windows(2).position(|two| two == b"\r\n") else { return Ok(None) };
    let after = at + 1 + line + 2;
    match kind {
        b'+' | b'-' | b':' => Ok(Some(after)),
        b'$' => {
            let end = length(&rest[..line])?.map_or(after, |len| after + len + 2);
            Ok((read.len() >= end).then_some(end))
        }
        b'*' if depth < DEPTH_MAX => {
            let mut end = after;
            for _ in 0..length(&rest[..line])?.unwrap_or(0) {
                match whole(read, end, depth + 1)? {
                    Some(next) => end = next,
                    None => return Ok(None),
                }
            }
            Ok(Some(end))
        }
        _ => Err(NotResp),
    }
}

fn length(text: &[u8]) -> Result<Option<usize>, NotResp> {
    let text = std::str::from_utf8(text).map_err(|_| NotResp)?;
    if text == "-1" {
        return Ok(None);
    }
    text.parse().ok().filter(|len| *len <= LEN_MAX).map(Some).ok_or(NotResp)
}

/// Parses a reply that is whole.
fn parse(bytes: &mut Bytes) -> Result<Reply, NotResp> {
    let line = bytes.windows(2).position(|two| two == b"\r\n").ok_or(NotResp)?;
    let head = bytes.split_to(line);
    bytes.advance(2);
    let (kind, text) = head.split_first().ok_or(NotResp)?;
    match kind {
        b'+' | b':' => Ok(Reply::Text(head.slice(1..))),
        b'-' => Ok(Reply::Error(String::from_utf8_lossy(text).into_owned())),
        b'$' => Ok(Reply::Bulk(length(text)?.map(|len| {
            let bulk = bytes.split_to(len);
            bytes.advance(2);
            bulk
        }))),
        b'*' => match length(text)? {
            None => Ok(Reply::List(None)),
            Some(len) => {
                (0..len).map(|_| parse(bytes)).collect::<Result<_, _>>().map(|list| Reply::List(Some(list)))
            }
        },
        _ => Err(NotResp),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_lists_of_bytes() {
        let mut wire = BytesMut::new();
        command(&[b"XADD", b"", b"a\r\n"], &mut wire);
        assert_eq!(wire, "*3\r\n$4\r\nXADD\r\n$0\r\n\r\n$3\r\na\r\n\r\n");
    }

    #[test]
    fn a_reply_is_taken_when_it_is_whole() {
        let wire = b"*3\r\n$3\r\n1-0\r\n*2\r\n:7\r\n$-1\r\n*-1\r\n+OK\r\n-ERR no\r\n";
        let mut replies = Vec::new();
        let mut read = BytesMut::new();
        for byte in wire {
            read.extend_from_slice(&[*byte]);
            replies.extend(take(&mut read).unwrap());
        }
        let text = |text: &'static str| Bytes::from_static(text.as_bytes());
        let inner = Reply::List(Some(vec![Reply::Text(text("7")), Reply::Bulk(None)]));
        let list = vec![Reply::Bulk(Some(text("1-0"))), inner, Reply::List(None)];
        let expected = [Reply::List(Some(list)), Reply::Text(text("OK")), Reply::Error("ERR no".to_owned())];
        assert_eq!(replies, expected);
        assert!(read.is_empty());
    }

    #[test]
    fn bytes_can_be_skipped_and_nothing_else() {
        let mut read = BytesMut::from("$3\r\n1-0\r\n$-1\r\n");
        assert_eq!(skip_bulk(&mut read), Ok(true));
        assert_eq!((skip_bulk(&mut read), &read[..]), (Ok(false), &b"$-1\r\n"[..]));
        let mut part = BytesMut::from("$3\r\n1-");
        assert_eq!((skip_bulk(&mut part), part.len()), (Ok(false), 6));
    }

    #[test]
    fn what_is_no_reply_is_an_error() {
        for bad in ["HTTP/1.1 400\r\n", "$x\r\n", "$-2\r\n", "*99999999999\r\n"] {
            assert_eq!(take(&mut BytesMut::from(bad)), Err(NotResp), "{bad}");
        }
    }
}
