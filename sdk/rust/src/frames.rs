//! What was read, as answers: the parts of one put together. Knows no socket.

use crate::error::{Error, Refused};
use bytes::{Buf, Bytes, BytesMut};
use ron_core::oap::{self, COMP, END, EVENT, FRAME_BYTES_MAX, Frame, HEADER_BYTES, Header, START};
use serde::Deserialize;

/// An answer in parts, at most: 256 messages of 1 MiB are more than the node hands out at once.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// What came: an answer or an event, its parts put together.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Of its first frame.
    pub header: Header,
    /// The payload, whole.
    pub payload: Bytes,
}

impl Answer {
    /// Whether a subscription brought it; otherwise it answers a request.
    #[must_use]
    pub const fn is_event(&self) -> bool {
        self.header.has(EVENT)
    }

    /// Reads the payload.
    ///
    /// # Errors
    /// [`Error::Refused`] if the node refused the request; [`Error::Protocol`] if the payload is something else.
    pub fn read<'a, T: Deserialize<'a>>(&'a self) -> Result<T, Error> {
        self.accepted()?;
        match postcard::take_from_bytes(&self.payload) {
            Ok((value, [])) => Ok(value),
            Ok(_) | Err(_) => Err(Error::Protocol("a payload that is not what was asked for")),
        }
    }

    /// Whether the request was carried out.
    ///
    /// # Errors
    /// As [`Answer::read`].
    pub fn accepted(&self) -> Result<(), Error> {
        if self.is_event() || self.header.code == 200 {
            return Ok(());
        }
        match postcard::from_bytes::<oap::Error>(&self.payload) {
            Ok(error) => Err(Refused::new(self.header.code, error).into()),
            Err(_) => Err(Error::Protocol("a refusal that does not say why")),
        }
    }
}

/// Bytes as they come, and the answers in them.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    /// What was read and not taken out yet; whoever reads appends to it.
    pub(crate) read: BytesMut,
}

impl Frames {
    /// The next that has come already.
    ///
    /// # Errors
    /// [`Error::Protocol`].
    pub(crate) fn next(&mut self) -> Result<Option<Answer>, Error> {
        let Some(frames) = whole(&self.read)? else { return Ok(None) };
        let mut first = self.frame()?;
        if frames == 1 {
            return Ok(Some(Answer { header: first.header, payload: first.payload }));
        }
        let mut payload = BytesMut::from(first.payload.chunk());
        first.payload.clear();
        for _ in 1..frames {
            payload.extend_from_slice(&self.frame()?.payload);
        }
        Ok(Some(Answer { header: first.header, payload: payload.freeze() }))
    }

    fn frame(&mut self) -> Result<Frame, Error> {
        let frame = oap::decode(&mut self.read).map_err(|bad| Error::Protocol(bad.what))?;
        frame.ok_or(Error::Protocol("a frame that is not whole"))
    }
}

/// How many frames at the front are one answer, whole; `None` while it is not.
fn whole(read: &[u8]) -> Result<Option<usize>, Error> {
    let (mut at, mut frames) = (0, 0);
    loop {
        let Some(header) = read.get(at..at + HEADER_BYTES) else { return Ok(None) };
        let len = u32::from_be_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let flags = u16::from_be_bytes([header[6], header[7]]);
        if !(HEADER_BYTES..=FRAME_BYTES_MAX).contains(&len) || flags & COMP != 0 {
            return Err(Error::Protocol("a frame that nobody asked for"));
        }
        at += len;
        frames += 1;
        if read.len() < at {
            return if at > ANSWER_BYTES_MAX {
                Err(Error::Protocol("an answer without end"))
            } else {
                Ok(None)
            };
        }
        let in_parts = frames > 1 || flags & START != 0;
        if !in_parts || flags & END != 0 {
            return Ok(Some(frames));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ron_core::oap::RESP;

    fn frames(flags: &[u16]) -> BytesMut {
        let mut wire = BytesMut::new();
        for &flags in flags {
            let header = Header { flags, corr_id: 7, code: 200, ..Header::default() };
            oap::encode(&header, &[], b"part", &mut wire);
        }
        wire
    }

    #[test]
    fn an_answer_is_whole_with_its_last_part() {
        let of = |flags: &[u16]| whole(&frames(flags)).unwrap();
        assert_eq!(of(&[RESP]), Some(1));
        assert_eq!(of(&[RESP | END]), Some(1), "the end of a subscription");
        assert_eq!(of(&[RESP | START, RESP]), None);
        assert_eq!(of(&[RESP | START, RESP, RESP | END, RESP]), Some(3));
        let wire = frames(&[RESP | START, RESP | END]);
        for len in 0..wire.len() {
            assert_eq!(whole(&wire[..len]).unwrap(), None, "{len}");
        }
        let bad = [&37u32.to_be_bytes()[..], &[0; HEADER_BYTES]].concat();
        assert!(matches!(whole(&bad), Err(Error::Protocol(_))));
    }
}
