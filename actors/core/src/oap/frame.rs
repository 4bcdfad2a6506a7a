//! Frames: a header of 38 bytes, a capability where one is brought, and a payload.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Bytes of a header.
pub const HEADER_BYTES: usize = 38;
/// Bytes of a whole frame, at most.
pub const FRAME_BYTES_MAX: usize = 1 << 20;
/// The only version.
pub const VERSION: u16 = 1;

/// A request.
pub const REQ: u16 = 1;
/// An answer.
pub const RESP: u16 = 2;
/// Something that a subscription brings.
pub const EVENT: u16 = 4;
/// Brings a capability, or begins a body.
pub const START: u16 = 8;
/// Ends a body, or a subscription.
pub const END: u16 = 16;
/// Asks for an answer; requests are always answered, so it changes nothing.
pub const ACK_REQ: u16 = 32;
/// The payload is compressed with zstd.
pub const COMP: u16 = 64;
/// The payload is encrypted between the applications; the node passes it on as it is.
pub const APP_E2E: u16 = 128;
/// All flags there are.
pub const FLAGS: u16 = REQ | RESP | EVENT | START | END | ACK_REQ | COMP | APP_E2E;

/// What stands before a frame's capability and payload. All numbers are big-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Header {
    /// See [`FLAGS`].
    pub flags: u16,
    /// 0 in requests; the status in answers, as in HTTP.
    pub code: u16,
    /// [`PROTO_HELLO`](super::PROTO_HELLO) or [`PROTO_MAILBOX`](super::PROTO_MAILBOX).
    pub app_proto_id: u16,
    /// 0, or that of the capability's tenant.
    pub tenant_id: u128,
    /// Joins an answer to its request.
    pub corr_id: u64,
}

impl Header {
    /// Whether all these flags are set.
    #[must_use]
    pub const fn has(&self, flags: u16) -> bool {
        self.flags & flags == flags
    }
}

/// A whole frame.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Frame {
    /// Its header.
    pub header: Header,
    /// The capability's text; empty where none is brought.
    pub cap: Bytes,
    /// The payload.
    pub payload: Bytes,
}

impl Frame {
    /// Its length on the wire.
    #[must_use]
    pub fn wire_len(&self) -> usize {
        HEADER_BYTES + self.cap.len() + self.payload.len()
    }
}

/// Bytes that are no frame; what follows them on the connection means nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct BadFrame {
    /// 400 or 413.
    pub code: u16,
    /// Of its header, as far as that came; 0 otherwise.
    pub corr_id: u64,
    /// What is wrong, and what is right.
    pub what: &'static str,
}

/// Takes the next frame off the front of what was read; `None` while it is not whole. A frame that cannot become one
/// is refused as soon as its header says so.
///
/// # Errors
/// [`BadFrame`]; then the connection has to be closed.
pub fn decode(read: &mut BytesMut) -> Result<Option<Frame>, BadFrame> {
    let Some(&len) = read.first_chunk::<4>() else { return Ok(None) };
    let len = u32::from_be_bytes(len) as usize;
    let bad = |code, corr_id, what| Err(BadFrame { code, corr_id, what });
    if len < HEADER_BYTES {
        return bad(400, 0, "len counts the whole frame, so it is at least 38");
    }
    let Some(&header) = read.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
    let mut rest = &header[4..];
    let version = rest.get_u16();
    let (flags, code, app_proto_id) = (rest.get_u16(), rest.get_u16(), rest.get_u16());
    let tenant_id = rest.get_u128();
    let (cap_len, corr_id) = (usize::from(rest.get_u16()), rest.get_u64());
    if version != VERSION {
        return bad(400, corr_id, "ver must be 1");
    }
    if flags & !FLAGS != 0 {
        return bad(400, corr_id, "flags has a bit that OAP/1 does not know");
    }
    if len > FRAME_BYTES_MAX {
        return bad(413, corr_id, "a frame has at most 1048576 bytes");
    }
    if cap_len > 0 && flags & START == 0 {
        return bad(400, corr_id, "cap_len is 0 without START");
    }
    if HEADER_BYTES + cap_len > len {
        return bad(400, corr_id, "cap_len is more than the frame has");
    }
    if read.len() < len {
        return Ok(None);
    }
    let mut body = read.split_to(len).freeze();
    body.advance(HEADER_BYTES);
    let cap = body.split_to(cap_len);
    Ok(Some(Frame { header: Header { flags, code, app_proto_id, tenant_id, corr_id }, cap, payload: body }))
}

/// Writes a frame. Its parts have to fit into [`FRAME_BYTES_MAX`], and the capability into a `u16`.
pub fn encode(header: &Header, cap: &[u8], payload: &[u8], to: &mut BytesMut) {
    let len = HEADER_BYTES + cap.len() + payload.len();
    debug_assert!(len <= FRAME_BYTES_MAX && cap.len() <= usize::from(u16::MAX));
    to.reserve(len);
    to.put_u32(len as u32);
    to.put_u16(VERSION);
    to.put_u16(header.flags);
    to.put_u16(header.code);
    to.put_u16(header.app_proto_id);
    to.put_u128(header.tenant_id);
    to.put_u16(cap.len() as u16);
    to.put_u64(header.corr_id);
    to.put_slice(cap);
    to.put_slice(payload);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header() -> impl Strategy<Value = Header> {
        (any::<u16>(), any::<u16>(), any::<u16>(), any::<u128>(), any::<u64>()).prop_map(
            |(flags, code, app_proto_id, tenant_id, corr_id)| Header {
                flags: (flags & FLAGS) | START,
                code,
                app_proto_id,
                tenant_id,
                corr_id,
            },
        )
    }

    fn some(most: usize) -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(any::<u8>(), 0..most)
    }

    proptest! {
        #[test]
        fn what_was_written_is_read_however_it_comes(
            frames in prop::collection::vec(
                (header(), some(80), some(300)),
                1..5,
            ),
            cuts in prop::collection::vec(1usize..97, 1..20),
        ) {
            let mut wire = BytesMut::new();
            for (header, cap, payload) in &frames {
                encode(header, cap, payload, &mut wire);
            }
            let (mut read, mut found, mut cuts) = (BytesMut::new(), Vec::new(), cuts.into_iter().cycle());
            while !wire.is_empty() {
                let some = cuts.next().unwrap().min(wire.len());
                read.extend_from_slice(&wire.split_to(some));
                while let Some(frame) = decode(&mut read).unwrap() {
                    found.push((frame.header, frame.cap.to_vec(), frame.payload.to_vec()));
                }
            }
            prop_assert_eq!(found, frames);
            prop_assert!(read.is_empty());
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in some(200)) {
            let mut read = BytesMut::from(&bytes[..]);
            while let Ok(Some(frame)) = decode(&mut read) {
                prop_assert!(frame.wire_len() <= bytes.len());
            }
        }
    }

    /// A frame with bytes of its header changed: (offset, bytes).
    fn changed(at: usize, bytes: &[u8]) -> BytesMut {
        let mut wire = BytesMut::new();
        encode(
            &Header { flags: REQ | START, corr_id: 7, ..Header::default() },
            b"cap",
            b"payload",
            &mut wire,
        );
        wire[at..at + bytes.len()].copy_from_slice(bytes);
        wire
    }

    #[test]
    fn each_bad_frame_has_its_code_and_its_corr_id() {
        let refused = |mut wire: BytesMut| decode(&mut wire).unwrap_err();
        let of = |bad: BadFrame| (bad.code, bad.corr_id);
        assert_eq!(of(refused(changed(0, &37u32.to_be_bytes()))), (400, 0));
        assert_eq!(of(refused(changed(0, &0u32.to_be_bytes()))), (400, 0));
        assert_eq!(of(refused(changed(0, &(FRAME_BYTES_MAX as u32 + 1).to_be_bytes()))), (413, 7));
        assert_eq!(of(refused(changed(0, &40u32.to_be_bytes()))), (400, 7), "the capability does not fit");
        for version in [0u16, 2, 0x0100] {
            assert_eq!(of(refused(changed(4, &version.to_be_bytes()))), (400, 7));
        }
        for bit in 8..16 {
            assert_eq!(of(refused(changed(6, &(1u16 << bit | REQ | START).to_be_bytes()))), (400, 7));
        }
        assert_eq!(of(refused(changed(6, &REQ.to_be_bytes()))), (400, 7), "a capability without START");
    }

    #[test]
    fn a_frame_too_long_is_refused_before_it_is_read() {
        let mut wire = changed(0, &u32::MAX.to_be_bytes());
        wire.truncate(HEADER_BYTES);
        assert_eq!(decode(&mut wire).unwrap_err().code, 413);
        let mut whole = BytesMut::new();
        let payload = vec![1; FRAME_BYTES_MAX - HEADER_BYTES];
        encode(&Header { flags: REQ, ..Header::default() }, b"", &payload, &mut whole);
        assert_eq!(decode(&mut whole).unwrap().unwrap().wire_len(), FRAME_BYTES_MAX);
    }
}
