//! AMQP 0-9-1, as much of it as one channel needs that publishes with confirms, consumes and acks: frames out, frames
//! in. What cannot be understood, and what ends the work, is named by the protocol's own words; bodies are passed over.

use crate::output::printable;
use bytes::{Buf, BytesMut};

pub(super) mod requests;

/// What a client says first; a server that speaks another version answers with its own.
pub(super) const HEADER: &[u8] = b"AMQP\x00\x00\x09\x01";
/// The longest frame that is read, without its head and end; RabbitMQ's own default.
pub(super) const FRAME_MAX: u32 = 131_072;
/// Around what is in a frame: kind, channel and length before it, an octet behind it.
const HEAD_LEN: usize = 7;
const END: u8 = 0xce;

/// A method's class and number in it.
type Id = (u16, u16);

/// The methods that a server may send to such a client.
const METHODS: [(Id, &str); 21] = [
    ((10, 10), "connection.start"),
    ((10, 20), "connection.secure"),
    ((10, 30), "connection.tune"),
    ((10, 41), "connection.open-ok"),
    ((10, 50), "connection.close"),
    ((10, 51), "connection.close-ok"),
    ((10, 60), "connection.blocked"),
    ((10, 61), "connection.unblocked"),
    ((20, 11), "channel.open-ok"),
    ((20, 20), "channel.flow"),
    ((20, 40), "channel.close"),
    ((50, 11), "queue.declare-ok"),
    ((50, 41), "queue.delete-ok"),
    ((60, 11), "basic.qos-ok"),
    ((60, 21), "basic.consume-ok"),
    ((60, 30), "basic.cancel"),
    ((60, 50), "basic.return"),
    ((60, 60), "basic.deliver"),
    ((60, 80), "basic.ack"),
    ((60, 120), "basic.nack"),
    ((85, 11), "confirm.select-ok"),
];

/// What a server says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// `connection.start`: the texts among its properties, and how one may log in.
    Start {
        properties: Vec<(String, String)>,
        mechanisms: String,
    },
    /// `connection.tune`: the longest frame, whole; 0 = any.
    Tune {
        channels_max: u16,
        frame_max: u32,
    },
    /// A request was carried out: the name of the answer.
    Done(&'static str),
    /// `basic.ack`
    Confirmed {
        tag: u64,
        multiple: bool,
    },
    /// `basic.deliver`; how long the message is and its body follow.
    Delivered {
        tag: u64,
    },
    Content {
        len: u64,
    },
    Body {
        len: u64,
    },
    Heartbeat,
    /// A refusal, or that the connection or the channel ends: its name and the server's reason.
    Refused(String),
}

/// What came and is no AMQP 0-9-1 that belongs here.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wrong(pub(super) String);

/// Takes the first frame, if it is whole.
///
/// # Errors
/// [`Wrong`].
pub(super) fn take(read: &mut BytesMut) -> Result<Option<Said>, Wrong> {
    if read.starts_with(b"AMQP") {
        if read.len() < HEADER.len() {
            return Ok(None);
        }
        return Err(Wrong(format!("it speaks no AMQP 0-9-1, but {:?}", &read[4..HEADER.len()])));
    }
    let Some(head) = read.first_chunk::<HEAD_LEN>() else { return Ok(None) };
    let [kind, _, _, len @ ..] = *head;
    let len = u32::from_be_bytes(len);
    // the kind first: the length of what is no frame says nothing
    if !matches!(kind, 1 | 2 | 3 | 8) {
        return Err(Wrong(format!("a frame of kind {kind}")));
    }
    if len > FRAME_MAX {
        return Err(Wrong(format!("a frame of {len} bytes")));
    }
    let end = HEAD_LEN + len as usize;
    let Some(&last) = read.get(end) else { return Ok(None) };
    if last != END {
        return Err(Wrong(format!("a frame that ends in {last:#04x}")));
    }
    let said = said(kind, &read[HEAD_LEN..end])?;
    read.advance(end + 1);
    Ok(Some(said))
}

fn said(kind: u8, payload: &[u8]) -> Result<Said, Wrong> {
    let mut fields = Fields { what: "a frame", rest: payload };
    match kind {
        1 => told(fields),
        2 => {
            fields.what = "a content header";
            fields.skip(4)?; // class and weight
            Ok(Said::Content { len: fields.u64()? })
        }
        3 => Ok(Said::Body { len: payload.len() as u64 }),
        _ => Ok(Said::Heartbeat),
    }
}

fn told(mut fields: Fields<'_>) -> Result<Said, Wrong> {
    let id = (fields.u16()?, fields.u16()?);
    let Some(&(_, name)) = METHODS.iter().find(|(known, _)| *known == id) else {
        return Err(Wrong(format!("method {}.{}", id.0, id.1)));
    };
    fields.what = name;
    Ok(match name {
        "connection.start" => {
            fields.skip(2)?; // the version
            let properties = texts(fields.long()?)?;
            Said::Start { properties, mechanisms: text(fields.long()?) }
        }
        "connection.tune" => Said::Tune { channels_max: fields.u16()?, frame_max: fields.u32()? },
        "basic.ack" => Said::Confirmed { tag: fields.u64()?, multiple: fields.u8()? & 1 == 1 },
        "basic.deliver" => {
            fields.short()?; // whose
            Said::Delivered { tag: fields.u64()? }
        }
        "connection.close" | "channel.close" | "basic.return" => {
            let (code, why) = (fields.u16()?, text(fields.short()?));
            Said::Refused(format!("{name}: {code} {why}"))
        }
        "connection.blocked" | "basic.cancel" => Said::Refused(format!("{name}: {}", text(fields.short()?))),
        "basic.nack" | "connection.secure" | "channel.flow" => Said::Refused(name.to_owned()),
        _ => Said::Done(name),
    })
}

/// The text fields of a table.
fn texts(table: &[u8]) -> Result<Vec<(String, String)>, Wrong> {
    let mut fields = Fields { what: "a table", rest: table };
    let mut texts = Vec::new();
    while !fields.rest.is_empty() {
        let name = text(fields.short()?);
        match fields.u8()? {
            b'S' => texts.push((name, text(fields.long()?))),
            b'F' | b'A' | b'x' => drop(fields.long()?),
            b'V' => {}
            b't' | b'b' | b'B' => fields.skip(1)?,
            b's' | b'u' => fields.skip(2)?,
            b'I' | b'i' | b'f' => fields.skip(4)?,
            b'D' => fields.skip(5)?,
            b'l' | b'd' | b'T' => fields.skip(8)?,
            kind => return Err(Wrong(format!("a table with a field of kind {kind:#04x}"))),
        }
    }
    Ok(texts)
}

fn text(bytes: &[u8]) -> String {
    printable(&String::from_utf8_lossy(bytes))
}

/// What of a frame is not read yet.
struct Fields<'a> {
    /// For errors.
    what: &'static str,
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], Wrong> {
        let cut = || Wrong(format!("{} that is cut off", self.what));
        let (taken, rest) = self.rest.split_at_checked(len).ok_or_else(cut)?;
        self.rest = rest;
        Ok(taken)
    }

    fn skip(&mut self, len: usize) -> Result<(), Wrong> {
        self.take(len).map(drop)
    }

    fn u8(&mut self) -> Result<u8, Wrong> {
        self.take(1).map(|mut bytes| bytes.get_u8())
    }

    fn u16(&mut self) -> Result<u16, Wrong> {
        self.take(2).map(|mut bytes| bytes.get_u16())
    }

    fn u32(&mut self) -> Result<u32, Wrong> {
        self.take(4).map(|mut bytes| bytes.get_u32())
    }

    fn u64(&mut self) -> Result<u64, Wrong> {
        self.take(8).map(|mut bytes| bytes.get_u64())
    }

    /// A short string.
    fn short(&mut self) -> Result<&'a [u8], Wrong> {
        let len = self.u8()?;
        self.take(usize::from(len))
    }

    /// A long string, a table or an array.
    fn long(&mut self) -> Result<&'a [u8], Wrong> {
        let len = self.u32()?;
        self.take(len as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use data_encoding::HEXLOWER;

    /// What RabbitMQ 3.10.8 said, but for the licence and the like.
    const START: &str = "0100000000006c000a000a000900000047\
        0c6361706162696c6974696573460000000d0a62617369632e6e61636b7401\
        0770726f6475637453000000085261626269744d510776657273696f6e5300000006332e31302e38\
        0000000e414d51504c41494e20504c41494e00000005656e5f5553ce";
    const DELIVER: &str = "01000100000013003c003c016300000000000000020000027131ce";
    const CONTENT: &str = "0200010000000f003c00000000000000000003100002ce";

    fn hex(text: &str) -> BytesMut {
        BytesMut::from(&HEXLOWER.decode(text.as_bytes()).unwrap()[..])
    }

    #[test]
    fn what_a_server_says_is_taken_when_it_is_whole() {
        let wire = [
            START,
            "0100000000000c000a001e07ff00020000003cce",
            "010001000000040055000bce",
            "0100010000000d003c0050000000000000000301ce",
            DELIVER,
            CONTENT,
            "03000100000003616263ce",
            "0100010000000f0032000b0271310000000000000001ce",
            "08000000000000ce",
        ];
        let (mut read, mut all) = (BytesMut::new(), Vec::new());
        for byte in hex(&wire.concat()) {
            read.extend_from_slice(&[byte]);
            all.extend(take(&mut read).unwrap());
        }
        let owned = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let properties = vec![owned("product", "RabbitMQ"), owned("version", "3.10.8")];
        let expected = [
            Said::Start { properties, mechanisms: "AMQPLAIN PLAIN".to_owned() },
            Said::Tune { channels_max: 2047, frame_max: 131_072 },
            Said::Done("confirm.select-ok"),
            Said::Confirmed { tag: 3, multiple: true },
            Said::Delivered { tag: 2 },
            Said::Content { len: 3 },
            Said::Body { len: 3 },
            Said::Done("queue.declare-ok"),
            Said::Heartbeat,
        ];
        assert_eq!(all, expected);
        assert!(read.is_empty());
    }

    #[test]
    fn refusals_have_their_names_and_reasons() {
        let refused = |wire: &str| match take(&mut hex(wire)) {
            Ok(Some(Said::Refused(text))) => text,
            other => panic!("{other:?}"),
        };
        let back = "01000100000018003c00320138084e4f5f524f55544500076e6f7768657265ce";
        assert_eq!(refused(back), "basic.return: 312 NO_ROUTE");
        let close = "01000100000031001400280194264e4f545f464f554e44202d206e6f207175657565202771312720696e\
                     2076686f737420272f270032000ace";
        assert_eq!(refused(close), "channel.close: 404 NOT_FOUND - no queue 'q1' in vhost '/'");
        assert_eq!(refused("01000000000008000a003c036c6f77ce"), "connection.blocked: low");
        assert_eq!(refused("0100010000000d003c0078000000000000000100ce"), "basic.nack");
    }

    #[test]
    fn what_is_no_amqp_is_named() {
        let wrong = |wire: &[u8]| take(&mut BytesMut::from(wire)).unwrap_err().0;
        assert_eq!(wrong(b"AMQP\0\x01\0\0"), "it speaks no AMQP 0-9-1, but [0, 1, 0, 0]");
        assert_eq!(wrong(b"HTTP/1.1 400"), "a frame of kind 72");
        assert_eq!(wrong(b"\x01\0\0\xff\xff\xff\xff"), "a frame of 4294967295 bytes");
        assert_eq!(wrong(b"\x08\0\0\0\0\0\0\0"), "a frame that ends in 0x00");
        assert_eq!(wrong(b"\x01\0\0\0\0\0\x04\0\x3c\0\x48\xce"), "method 60.72");
        assert_eq!(wrong(b"\x01\0\0\0\0\0\x04\0\x3c\0\x50\xce"), "basic.ack that is cut off");
        assert_eq!(wrong(b"\x02\0\0\0\0\0\0\xce"), "a content header that is cut off");
        // 5 bytes of a table whose second field is of no kind
        let table = b"\x01\0\0\0\0\0\x0f\0\x0a\0\x0a\0\x09\0\0\0\x05\x01at\x01\x00\xce";
        assert_eq!(wrong(table), "a table that is cut off");
        let mut start = hex(START);
        let at = start.iter().position(|&byte| byte == b'F').unwrap();
        start[at] = b'?';
        assert_eq!(take(&mut start), Err(Wrong("a table with a field of kind 0x3f".to_owned())));
    }

    #[test]
    fn no_damage_is_more_than_an_error() {
        let whole = hex(START);
        for at in 0..whole.len() {
            for byte in [0, 0x7f, 0xff] {
                let mut damaged = whole.clone();
                damaged[at] = byte;
                let len = damaged.len();
                if matches!(take(&mut damaged), Ok(Some(_))) {
                    assert!(damaged.len() < len, "a frame was taken and is still there");
                }
            }
        }
    }
}
