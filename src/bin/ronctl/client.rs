//! A small HTTP/1.1 client over TCP and Unix sockets: one kept connection a [`Client`], every call bounded in
//! time.

use crate::failure::{Failure, failed};
use crate::locate;
use bytes::{Bytes, BytesMut};
use http::header::{AUTHORIZATION, HOST, HeaderMap};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use ron_node::socket::SocketPlace;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::io;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long a call may take unless the caller says otherwise.
const TIMEOUT: Duration = Duration::from_secs(30);

/// How long a connect may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The door of a node.
#[derive(Debug, Clone)]
pub(crate) enum Door {
    /// `HOST:PORT` of a listener.
    Tcp(String),
    /// The control socket.
    Unix(SocketPlace),
}

impl std::fmt::Display for Door {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Door::Tcp(address) => write!(f, "http://{address}"),
            Door::Unix(place) => write!(f, "{place}"),
        }
    }
}

/// Why a call brought no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// Nothing was sent.
    #[error("{door}: {source}")]
    Connect {
        /// Where.
        door: Door,
        /// Why.
        source: io::Error,
    },
    /// The request may have taken effect.
    #[error("{door}: the connection broke: {why}")]
    Broken {
        /// Where.
        door: Door,
        /// Why.
        why: String,
    },
    /// The request may have taken effect.
    #[error("{door}: no answer within {} s", after.as_secs())]
    Timeout {
        /// Where.
        door: Door,
        /// The limit.
        after: Duration,
    },
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Failure {
        match error {
            CallError::Connect { door: Door::Unix(place), source }
                if source.kind() == io::ErrorKind::PermissionDenied =>
            {
                Failure::Unreachable(format!(
                    "the node at {place} is not for this user: {source}\n  \
                     run ronctl as the user that the node runs as, such as `runuser -u ron -- ronctl status`"
                ))
            }
            CallError::Connect { door: Door::Unix(place), source } => Failure::Unreachable(format!(
                "no node answers at {place}: {source}\n  \
                 start one with `ron-node --config FILE` (or `ron-node --dev`), \
                 or say where it is with --socket PATH, --config FILE, RON_SOCKET or RON_CONFIG"
            )),
            CallError::Connect { .. } => Failure::Unreachable(error.to_string()),
            CallError::Broken { .. } | CallError::Timeout { .. } => Failure::Failed(error.to_string()),
        }
    }
}

/// The error envelope of SPEC §3.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Refused {
    /// For a person.
    pub(crate) error: String,
    /// The stable code.
    pub(crate) reason: String,
    /// Finds the request in the node's log.
    pub(crate) corr_id: String,
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {} (corr_id {})", self.reason, self.error, self.corr_id)
    }
}

/// One request.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    /// GET, POST, …
    pub(crate) method: Method,
    /// Path and query.
    pub(crate) path: String,
    /// Headers beside `Host` and `Authorization`.
    pub(crate) headers: Vec<(String, String)>,
    /// The body.
    pub(crate) body: Bytes,
    /// How long to wait for the answer.
    pub(crate) timeout: Duration,
}

impl Call {
    /// A GET.
    #[must_use]
    pub(crate) fn get(path: impl Into<String>) -> Call {
        Call {
            method: Method::GET,
            path: path.into(),
            headers: Vec::new(),
            body: Bytes::new(),
            timeout: TIMEOUT,
        }
    }

    /// A POST of bytes.
    #[must_use]
    pub(crate) fn post(path: impl Into<String>, body: impl Into<Bytes>) -> Call {
        Call { method: Method::POST, body: body.into(), ..Call::get(path) }
    }

    /// A POST of JSON.
    #[must_use]
    pub(crate) fn json(path: impl Into<String>, body: &serde_json::Value) -> Call {
        Call::post(path, body.to_string()).header("content-type", "application/json")
    }

    /// A PUT of JSON.
    #[must_use]
    pub(crate) fn put_json(path: impl Into<String>, body: &serde_json::Value) -> Call {
        Call { method: Method::PUT, ..Call::json(path, body) }
    }

    /// A DELETE.
    #[must_use]
    pub(crate) fn delete(path: impl Into<String>) -> Call {
        Call { method: Method::DELETE, ..Call::get(path) }
    }

    /// A DELETE with JSON.
    #[must_use]
    pub(crate) fn delete_json(path: impl Into<String>, body: &serde_json::Value) -> Call {
        Call { method: Method::DELETE, ..Call::json(path, body) }
    }

    /// The same call with one more header.
    #[must_use]
    pub(crate) fn header(mut self, name: &str, value: impl Into<String>) -> Call {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// The same call with a longer wait for its answer.
    #[must_use]
    pub(crate) fn and_wait(mut self, more: Duration) -> Call {
        self.timeout += more;
        self
    }
}

/// An answer, read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The status.
    pub(crate) status: StatusCode,
    /// The headers.
    pub(crate) headers: HeaderMap,
    /// The body.
    pub(crate) body: Bytes,
}

impl Answer {
    /// The refusal that this answer is, with a stand-in where a proxy's answer has no envelope.
    #[must_use]
    pub(crate) fn refused(&self) -> Refused {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| Refused {
            error: "the answer is not an error envelope".to_owned(),
            reason: format!("HTTP {}", self.status.as_u16()),
            corr_id: self.header("x-corr-id").unwrap_or("-").to_owned(),
        })
    }

    /// The body of a success as JSON.
    ///
    /// # Errors
    /// [`Failure::Failed`] with the node's own words if it refused.
    pub(crate) fn read<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        if !self.status.is_success() {
            return Err(failed(self.refused().to_string()));
        }
        serde_json::from_slice(&self.body)
            .map_err(|err| failed(format!("the node's answer is not what was expected: {err}")))
    }

    /// A header's text.
    #[must_use]
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// A client with one kept connection; calls follow one another.
#[derive(Debug)]
pub(crate) struct Client {
    door: Door,
    bearer: Option<String>,
    open: Option<SendRequest<Full<Bytes>>>,
}

impl Client {
    /// A client of `door`; connects at the first call.
    #[must_use]
    pub(crate) fn new(door: Door) -> Client {
        Client { door, bearer: None, open: None }
    }

    /// The same client, showing a capability with every call.
    #[must_use]
    pub(crate) fn with_token(mut self, token: &str) -> Client {
        self.bearer = Some(format!("Bearer {token}"));
        self
    }

    /// Sends a call and reads its whole answer. A kept connection that the node has closed meanwhile is
    /// opened anew, if nothing of the call was sent.
    ///
    /// # Errors
    /// [`CallError`]; refusals of the node are answers, not errors.
    pub(crate) async fn call(&mut self, call: Call) -> Result<Answer, CallError> {
        let limit = call.timeout;
        match timeout(limit, self.exchange(call)).await {
            Ok(done) => done,
            Err(_) => {
                self.open = None; // its answer could come yet and be taken for the next call's
                Err(CallError::Timeout { door: self.door.clone(), after: limit })
            }
        }
    }

    /// [`Client::call`] and [`Answer::read`] in one.
    ///
    /// # Errors
    /// As both.
    pub(crate) async fn read<T: DeserializeOwned>(&mut self, call: Call) -> Result<T, Failure> {
        self.call(call).await?.read()
    }

    /// Sends a call whose answer is read line by line, on a connection of its own.
    ///
    /// # Errors
    /// [`CallError`], or the node's refusal.
    pub(crate) async fn lines(&mut self, call: Call) -> Result<Lines, Failure> {
        let (limit, door) = (call.timeout, self.door.clone());
        let request = self.request(call)?;
        let late = |_| CallError::Timeout { door: door.clone(), after: limit };
        let mut sender = self.connect().await?;
        let sent = timeout(limit, sender.send_request(request)).await.map_err(late)?;
        let response = sent.map_err(|err| self.broken(&err))?;
        if !response.status().is_success() {
            let refused = timeout(limit, self.read_answer(sender, response)).await.map_err(late)??;
            return Err(failed(refused.refused().to_string()));
        }
        Ok(Lines { body: response.into_body(), text: BytesMut::new(), door, _open: sender })
    }

    async fn exchange(&mut self, call: Call) -> Result<Answer, CallError> {
        let mut request = self.request(call)?;
        if let Some(mut kept) = self.open.take()
            && kept.ready().await.is_ok()
        {
            match kept.try_send_request(request).await {
                Ok(response) => return self.read_answer(kept, response).await,
                // given back unsent: the node had closed the connection
                Err(mut error) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(self.broken(error.error())),
                },
            }
        }
        let mut fresh = self.connect().await?;
        let response = fresh.send_request(request).await.map_err(|err| self.broken(&err))?;
        self.read_answer(fresh, response).await
    }

    async fn read_answer(
        &mut self,
        sender: SendRequest<Full<Bytes>>,
        response: Response<Incoming>,
    ) -> Result<Answer, CallError> {
        let (head, body) = response.into_parts();
        let body = body.collect().await.map_err(|err| self.broken(&err))?.to_bytes();
        self.open = Some(sender);
        Ok(Answer { status: head.status, headers: head.headers, body })
    }

    fn request(&self, call: Call) -> Result<Request<Full<Bytes>>, CallError> {
        let host = match &self.door {
            Door::Tcp(address) => address.as_str(),
            Door::Unix(_) => "ronctl",
        };
        let mut request = Request::builder().method(call.method).uri(call.path).header(HOST, host);
        if let Some(bearer) = &self.bearer {
            request = request.header(AUTHORIZATION, bearer);
        }
        for (name, value) in &call.headers {
            request = request.header(name, value);
        }
        request.body(Full::new(call.body)).map_err(|err| {
            let source = io::Error::new(io::ErrorKind::InvalidInput, err);
            CallError::Connect { door: self.door.clone(), source }
        })
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, CallError> {
        let opened = timeout(CONNECT_TIMEOUT, self.open_stream()).await;
        let opened = opened.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        opened.map_err(|source| CallError::Connect { door: self.door.clone(), source })
    }

    async fn open_stream(&self) -> io::Result<SendRequest<Full<Bytes>>> {
        match &self.door {
            Door::Tcp(address) => {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                handshake(stream).await
            }
            Door::Unix(place) => handshake(locate::connect(place).await?).await,
        }
    }

    fn broken(&self, error: &hyper::Error) -> CallError {
        CallError::Broken { door: self.door.clone(), why: error.to_string() }
    }
}

/// An answer that comes line by line.
#[derive(Debug)]
pub(crate) struct Lines {
    body: Incoming,
    text: BytesMut,
    door: Door,
    _open: SendRequest<Full<Bytes>>,
}

/// How long a stream may be silent: the node says at least every 10 s that it is there.
const SILENT_MAX: Duration = Duration::from_secs(30);
/// The longest line: 1 MiB of control characters in JSON's long form, and what stands beside them.
const LINE_BYTES_MAX: usize = 8 * 1024 * 1024;

impl Lines {
    /// The next line without its end; `None` when the answer is over.
    ///
    /// # Errors
    /// [`CallError::Broken`] if the connection breaks or a line has no end, [`CallError::Timeout`] if nothing comes.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, CallError> {
        let broken = |door: &Door, why: String| CallError::Broken { door: door.clone(), why };
        let mut searched = 0;
        loop {
            if let Some(at) = self.text[searched..].iter().position(|byte| *byte == b'\n') {
                let mut line = self.text.split_to(searched + at + 1);
                line.truncate(searched + at);
                return Ok(Some(line.freeze()));
            }
            searched = self.text.len();
            if searched > LINE_BYTES_MAX {
                return Err(broken(&self.door, "a line without an end".to_owned()));
            }
            let frame = timeout(SILENT_MAX, self.body.frame()).await;
            let frame =
                frame.map_err(|_| CallError::Timeout { door: self.door.clone(), after: SILENT_MAX })?;
            match frame {
                None => return Ok(None),
                Some(Err(err)) => return Err(broken(&self.door, err.to_string())),
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        self.text.extend_from_slice(data);
                    }
                }
            }
        }
    }
}

async fn handshake<S>(stream: S) -> io::Result<SendRequest<Full<Bytes>>>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    tokio::spawn(connection); // ends with the sender; its error reaches the call in flight
    Ok(sender)
}

#[cfg(test)]
mod tests;
