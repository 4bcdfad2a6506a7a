//! A blocking OAP/1 client over a plain socket, written from `docs/OAP.md` and not from the node. Like [`crate::http`] it is
//! honest about what it does not know: an answer that was not read to its last byte is *unknown*.

use crate::http::Failure;
use std::collections::HashMap;
use std::io::{self, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

const HEADER: usize = 38;
/// A whole frame, header included.
pub const FRAME_MAX: usize = 1024 * 1024;
const MAILBOX: u16 = 0x0201;
const REQ: u16 = 1;
const RESP: u16 = 2;
const START: u16 = 8;
const END: u16 = 16;
/// Longest answer, all its parts together.
const ANSWER_MAX: usize = 64 * 1024 * 1024;

/// One complete answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub code: u16,
    /// The payload, its parts together.
    pub payload: Vec<u8>,
}

/// One connection that has shown a capability.
#[derive(Debug)]
pub struct Connection {
    stream: BufReader<TcpStream>,
    next: u64,
}

impl Connection {
    /// Connects and shows a capability.
    ///
    /// # Errors
    /// What connecting failed with, or that the capability was refused.
    pub fn open(addr: SocketAddr, token: &str, timeout: Duration) -> io::Result<Connection> {
        let tcp = TcpStream::connect_timeout(&addr, timeout)?;
        tcp.set_nodelay(true)?;
        tcp.set_read_timeout(Some(timeout))?;
        tcp.set_write_timeout(Some(timeout))?;
        let mut connection = Connection { stream: BufReader::with_capacity(64 * 1024, tcp), next: 1 };
        let hello = frame(REQ | START, 1, token.as_bytes(), &[])?;
        connection.stream.get_mut().write_all(&hello)?;
        let (corr_id, answer) = connection.read()?;
        if (corr_id, answer.code) != (1, 200) {
            return Err(bad(&format!("the capability was answered with {}", answer.code)));
        }
        Ok(connection)
    }

    /// Sends all requests at once and reads all answers, in whatever order they come; gives them in the order of the
    /// requests. What was not answered when the connection broke is unknown.
    pub fn call_all(&mut self, requests: &[Vec<u8>]) -> Vec<Result<Answer, Failure>> {
        let first = self.next + 1;
        self.next += requests.len() as u64;
        let mut answers: HashMap<u64, Answer> = HashMap::new();
        let broke = self.exchange(requests, first, &mut answers).err();
        let lost = |broke: &Option<io::Error>| {
            broke
                .as_ref()
                .map_or_else(|| bad("no answer"), |error| io::Error::new(error.kind(), error.to_string()))
        };
        let answer = |corr_id| answers.remove(&corr_id).ok_or_else(|| Failure::Unknown(lost(&broke)));
        (first..=self.next).map(answer).collect()
    }

    fn exchange(
        &mut self,
        requests: &[Vec<u8>],
        first: u64,
        answers: &mut HashMap<u64, Answer>,
    ) -> io::Result<()> {
        let mut all = Vec::new();
        for (corr_id, request) in (first..).zip(requests) {
            all.extend(frame(REQ, corr_id, &[], request)?);
        }
        self.stream.get_mut().write_all(&all)?;
        while answers.len() < requests.len() {
            let (corr_id, answer) = self.read()?;
            let asked = (first..=self.next).contains(&corr_id);
            if !asked || answers.insert(corr_id, answer).is_some() {
                return Err(bad("an answer to nothing that was asked"));
            }
        }
        Ok(())
    }

    fn read(&mut self) -> io::Result<(u64, Answer)> {
        let mut whole: Option<(u64, Answer)> = None;
        loop {
            let mut header = [0; HEADER];
            self.stream.read_exact(&mut header)?;
            let (flags, code) = (u16_at(&header, 6), u16_at(&header, 8));
            let len = u32::from_be_bytes([header[0], header[1], header[2], header[3]]) as usize;
            let corr_id = u64::from_be_bytes(std::array::from_fn(|at| header[30 + at]));
            let right = (HEADER..=FRAME_MAX).contains(&len)
                && u16_at(&header, 4) == 1
                && flags & !(START | END) == RESP
                && u16_at(&header, 28) == 0;
            if !right {
                return Err(bad("a frame that is no answer"));
            }
            let (of, mut answer) = whole.take().unwrap_or((corr_id, Answer { code, payload: Vec::new() }));
            let begun = answer.payload.len();
            if of != corr_id || begun + len > ANSWER_MAX {
                return Err(bad("the parts of an answer do not belong together"));
            }
            answer.payload.resize(begun + len - HEADER, 0);
            self.stream.read_exact(&mut answer.payload[begun..])?;
            // in parts from START to END; everything else is whole
            if flags & START == 0 && begun == 0 || flags & END != 0 {
                return Ok((of, answer));
            }
            whole = Some((of, answer));
        }
    }
}

fn u16_at(header: &[u8; HEADER], at: usize) -> u16 {
    u16::from_be_bytes([header[at], header[at + 1]])
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn frame(flags: u16, corr_id: u64, cap: &[u8], payload: &[u8]) -> io::Result<Vec<u8>> {
    let len = HEADER + cap.len() + payload.len();
    let fits = u32::try_from(len).ok().filter(|_| len <= FRAME_MAX).zip(u16::try_from(cap.len()).ok());
    let (len, cap_len) = fits.ok_or_else(|| bad("too long for a frame"))?;
    let mut bytes = Vec::with_capacity(HEADER + cap.len() + payload.len());
    bytes.extend(len.to_be_bytes());
    for number in [1, flags, 0, MAILBOX] {
        bytes.extend(number.to_be_bytes());
    }
    bytes.extend([0; 16]);
    bytes.extend(cap_len.to_be_bytes());
    bytes.extend(corr_id.to_be_bytes());
    bytes.extend(cap);
    bytes.extend(payload);
    Ok(bytes)
}

/// Writes postcard.
#[derive(Debug, Default)]
pub struct Writer(pub Vec<u8>);

impl Writer {
    /// An unsigned integer.
    pub fn number(&mut self, mut number: u64) -> &mut Writer {
        while number >= 0x80 {
            self.0.push((number & 0x7f) as u8 | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
        self
    }

    /// Bytes or text, with their length.
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Writer {
        self.number(bytes.len() as u64);
        self.0.extend(bytes);
        self
    }

    /// Bytes of a known length.
    pub fn array(&mut self, bytes: &[u8]) -> &mut Writer {
        self.0.extend(bytes);
        self
    }

    /// An option, its value written by `write`.
    pub fn option<T>(
        &mut self,
        value: Option<T>,
        write: impl for<'w> FnOnce(&'w mut Writer, T) -> &'w mut Writer,
    ) -> &mut Writer {
        self.0.push(u8::from(value.is_some()));
        if let Some(value) = value {
            write(self, value);
        }
        self
    }
}

/// Reads postcard. What does not fit is a fault of whoever wrote it.
#[derive(Debug)]
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    /// So many bytes.
    ///
    /// # Errors
    /// There are not as many.
    pub fn array(&mut self, len: usize) -> Result<&'a [u8], String> {
        let (head, rest) = self.0.split_at_checked(len).ok_or("an answer that ends too early")?;
        self.0 = rest;
        Ok(head)
    }

    /// An unsigned integer.
    ///
    /// # Errors
    /// It ends too early or is too long.
    pub fn number(&mut self) -> Result<u64, String> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.array(1)?[0];
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err("a number that is too long".to_owned())
    }

    /// A number that fits into 32 bits.
    ///
    /// # Errors
    /// As [`Reader::number`].
    pub fn small(&mut self) -> Result<u32, String> {
        u32::try_from(self.number()?).map_err(|error| error.to_string())
    }

    /// Bytes with their length.
    ///
    /// # Errors
    /// As [`Reader::array`].
    pub fn bytes(&mut self) -> Result<&'a [u8], String> {
        let len = self.small()? as usize;
        self.array(len)
    }

    /// Text.
    ///
    /// # Errors
    /// As [`Reader::bytes`], and it is not UTF-8.
    pub fn text(&mut self) -> Result<String, String> {
        String::from_utf8(self.bytes()?.to_vec()).map_err(|error| error.to_string())
    }

    /// An option, its value read by `read`.
    ///
    /// # Errors
    /// Neither 0 nor 1, or as `read`.
    pub fn option<T>(
        &mut self,
        read: impl FnOnce(&mut Reader<'a>) -> Result<T, String>,
    ) -> Result<Option<T>, String> {
        match self.array(1)?[0] {
            0 => Ok(None),
            1 => read(self).map(Some),
            other => Err(format!("an option that begins with {other}")),
        }
    }

    /// A list, its entries read by `read`.
    ///
    /// # Errors
    /// As `read`.
    pub fn list<T>(
        &mut self,
        mut read: impl FnMut(&mut Reader<'a>) -> Result<T, String>,
    ) -> Result<Vec<T>, String> {
        let len = self.small()?;
        (0..len).map(|_| read(self)).collect()
    }

    /// Whether all was read.
    ///
    /// # Errors
    /// Something is left.
    pub fn end(&self) -> Result<(), String> {
        if self.0.is_empty() { Ok(()) } else { Err(format!("{} bytes too many", self.0.len())) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_what_the_page_says() {
        for (number, bytes) in [(0, &[0][..]), (127, &[127]), (128, &[0x80, 1]), (20_000, &[0xa0, 0x9c, 1])] {
            assert_eq!(Writer::default().number(number).0, bytes);
            let mut reader = Reader(bytes);
            assert_eq!((reader.number(), reader.end()), (Ok(number), Ok(())));
        }
        assert_eq!(Reader(&[0xff; 10]).number(), Err("a number that is too long".to_owned()));
        assert!(Reader(&[0x80]).number().is_err() && Reader(&[2, 1]).bytes().is_err());
        assert!(Reader(&[2]).option(Reader::number).is_err());
    }

    #[test]
    fn a_frame_is_what_the_page_shows() {
        // "a capability" of docs/OAP.md
        let hex = "00000032000100090000020100000000000000000000000000000000000c0000000000000002726f6e315f6578616d706c65";
        let frame = frame(REQ | START, 2, b"ron1_example", &[]).unwrap();
        assert_eq!(data_encoding::HEXLOWER.encode(&frame), hex);
        assert!(super::frame(REQ, 1, &[], &vec![0; FRAME_MAX]).is_err());
    }
}
