//! One connection: frames out, frames in, nothing else. What is written goes out with [`Connection::flush`], or when a
//! buffer's worth has come together.

use crate::error::Error;
use crate::frames::{Answer, Frames};
use crate::stream::{Endpoint, Stream};
use crate::tls::Tls;
use bytes::BytesMut;
use ron_core::ids::ContentHash;
use ron_core::oap::{
    self, DATA_BYTES_MAX, END, FRAME_BYTES_MAX, HEADER_BYTES, Header, PROTO_HELLO, PROTO_MAILBOX, REQ, RESP,
    Request, START, Stored,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use zeroize::Zeroize;

/// Read at once.
pub(crate) const BUFFER_BYTES: usize = 64 * 1024;

/// See the module.
#[derive(Debug)]
pub struct Connection {
    socket: Box<dyn Stream>,
    frames: Frames,
    unsent: BytesMut,
    next_corr_id: u64,
}

impl Connection {
    /// Connects to `HOST:PORT`. Nothing is asked yet, and nobody is known: see [`Connection::authorize`].
    ///
    /// # Errors
    /// Whatever the connect says.
    pub async fn open(addr: &str) -> Result<Connection, Error> {
        Connection::at(&Endpoint::new(addr, None)).await
    }

    /// As [`Connection::open`], over TLS.
    ///
    /// # Errors
    /// Whatever the connect or the handshake says.
    pub async fn open_tls(addr: &str, tls: &Tls) -> Result<Connection, Error> {
        Connection::at(&Endpoint::new(addr, Some(tls.clone()))).await
    }

    pub(crate) async fn at(endpoint: &Endpoint) -> Result<Connection, Error> {
        let socket = endpoint.open().await?;
        Ok(Connection { socket, frames: Frames::default(), unsent: BytesMut::new(), next_corr_id: 1 })
    }

    /// Connects, and shows a capability.
    ///
    /// # Errors
    /// As [`Connection::open`] and [`Connection::authorize`].
    pub async fn open_as(addr: &str, token: &str) -> Result<Connection, Error> {
        let mut connection = Connection::open(addr).await?;
        connection.authorize(token).await?;
        Ok(connection)
    }

    /// Shows a capability, which counts for all that is asked from then on. Nothing may be outstanding.
    ///
    /// # Errors
    /// [`Error::Refused`] with UNAUTH or EXPIRED_TOKEN.
    pub async fn authorize(&mut self, token: &str) -> Result<(), Error> {
        let corr_id = self.corr_id();
        self.flush().await?;
        let mut frame = BytesMut::new();
        encode_capability(corr_id, token, &mut frame)?;
        let written = self.socket.write_all(&frame).await;
        frame.as_mut().zeroize();
        written?;
        self.socket.flush().await?;
        self.answer_to(corr_id).await?.accepted()
    }

    /// Asks for the node's limits. Nothing may be outstanding.
    ///
    /// # Errors
    /// As for any request.
    pub async fn hello(&mut self, ua: &str) -> Result<Answer, Error> {
        let corr_id = self.corr_id();
        let hello = oap::Hello { ua: Some(ua.to_owned()) };
        oap::encode(&request(PROTO_HELLO, corr_id), &[], &hello.to_json(), &mut self.unsent);
        self.flush().await?;
        self.answer_to(corr_id).await
    }

    /// Writes a request and returns its `corr_id`. It goes out with the next [`Connection::flush`].
    ///
    /// # Errors
    /// [`Error::Invalid`] if it does not fit into a frame.
    pub fn write(&mut self, asked: &Request<'_>) -> Result<u64, Error> {
        let payload = asked.to_vec();
        fits(&payload)?;
        let corr_id = self.corr_id();
        encode_request(corr_id, &payload, &mut self.unsent);
        Ok(corr_id)
    }

    /// Sends what was written.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub async fn flush(&mut self) -> Result<(), Error> {
        self.socket.write_all(&self.unsent).await?;
        self.unsent.clear();
        Ok(self.socket.flush().await?)
    }

    /// The next that comes. Cancel-safe: nothing is lost if this is dropped.
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::Protocol`]; then the connection is of no use any more.
    pub async fn next(&mut self) -> Result<Answer, Error> {
        loop {
            if let Some(answer) = self.buffered()? {
                return Ok(answer);
            }
            self.frames.read.reserve(BUFFER_BYTES);
            if self.socket.read_buf(&mut self.frames.read).await? == 0 {
                return Err(Error::Io(std::io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }

    /// The next that has come already.
    ///
    /// # Errors
    /// [`Error::Protocol`].
    pub fn buffered(&mut self) -> Result<Option<Answer>, Error> {
        self.frames.next()
    }

    /// Sends a request and waits for its answer. Nothing else may be outstanding, no subscription either.
    ///
    /// # Errors
    /// As [`Connection::next`].
    pub async fn call(&mut self, asked: &Request<'_>) -> Result<Answer, Error> {
        let corr_id = self.write(asked)?;
        self.flush().await?;
        self.answer_to(corr_id).await
    }

    /// Stores an object with this address, and waits until that is done. Nothing else may be outstanding.
    ///
    /// # Errors
    /// As for any request; MALFORMED if the bytes have another address.
    pub async fn put(&mut self, address: ContentHash, object: &[u8]) -> Result<(), Error> {
        let corr_id = self.corr_id();
        let header = request(PROTO_MAILBOX, corr_id);
        let with = |flags: u16| Header { flags: header.flags | flags, ..header };
        let put = Request::Put { object: address.0, len: object.len() as u64 };
        oap::encode(&with(START), &[], &put.to_vec(), &mut self.unsent);
        let (whole, last) = object.split_at(object.len().saturating_sub(1) / DATA_BYTES_MAX * DATA_BYTES_MAX);
        for piece in whole.chunks(DATA_BYTES_MAX) {
            oap::encode(&header, &[], piece, &mut self.unsent);
            self.flush().await?;
        }
        oap::encode(&with(END), &[], last, &mut self.unsent);
        self.flush().await?;
        let stored: Stored = self.answer_to(corr_id).await?.read()?;
        if stored.object == address.0 { Ok(()) } else { Err(Error::Protocol("another object was stored")) }
    }

    /// The socket, what was read of it, and the next free `corr_id`. Nothing may be outstanding.
    pub(crate) fn into_parts(self) -> (Box<dyn Stream>, Frames, u64) {
        (self.socket, self.frames, self.next_corr_id + 1)
    }

    async fn answer_to(&mut self, corr_id: u64) -> Result<Answer, Error> {
        let answer = self.next().await?;
        if answer.header.corr_id == corr_id && answer.header.has(RESP) {
            return Ok(answer);
        }
        // a bad frame is answered before the connection is closed, with the corr_id as far as that was read
        answer.accepted()?;
        Err(Error::Protocol("an answer to nothing that was asked"))
    }

    fn corr_id(&mut self) -> u64 {
        self.next_corr_id += 1;
        self.next_corr_id
    }
}

/// Writes the frame of a request.
pub(crate) fn encode_request(corr_id: u64, payload: &[u8], to: &mut BytesMut) {
    oap::encode(&request(PROTO_MAILBOX, corr_id), &[], payload, to);
}

/// Writes the frame that shows a capability.
///
/// # Errors
/// [`Error::Invalid`].
pub(crate) fn encode_capability(corr_id: u64, token: &str, to: &mut BytesMut) -> Result<(), Error> {
    if token.len() > usize::from(u16::MAX) {
        return Err(Error::Invalid("a capability is not that long".to_owned()));
    }
    let header = Header { flags: REQ | START, ..request(PROTO_MAILBOX, corr_id) };
    oap::encode(&header, token.as_bytes(), &[], to);
    Ok(())
}

/// Whether a request's payload fits into a frame.
///
/// # Errors
/// [`Error::Invalid`].
pub(crate) fn fits(payload: &[u8]) -> Result<(), Error> {
    if payload.len() <= FRAME_BYTES_MAX - HEADER_BYTES {
        return Ok(());
    }
    let text = "over OAP/1 a request has at most 1048576 bytes with its header; send the longest over HTTP";
    Err(Error::Invalid(text.to_owned()))
}

const fn request(app_proto_id: u16, corr_id: u64) -> Header {
    Header { flags: REQ, code: 0, app_proto_id, tenant_id: 0, corr_id }
}
