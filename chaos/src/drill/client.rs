//! One kept HTTP/1.1 connection to the node, and what its answers say.

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;

const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// An answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// The JSON body; `Null` if there is none.
    pub json: Value,
}

impl Answer {
    /// The code of a refusal, or nothing.
    #[must_use]
    pub fn reason(&self) -> &str {
        self.json["reason"].as_str().unwrap_or_default()
    }

    /// The answer as JSON if it is a 2xx.
    ///
    /// # Errors
    /// The refusal.
    pub fn ok(self) -> Result<Value> {
        if !(200..300).contains(&self.status) {
            bail!("{} {}", self.status, self.json);
        }
        Ok(self.json)
    }
}

/// A client; calls follow one another.
#[derive(Debug)]
pub struct Client {
    addr: SocketAddr,
    token: Option<String>,
    open: Option<SendRequest<Full<Bytes>>>,
}

impl Client {
    /// A client of the listener at `addr`, with a capability if it needs one.
    #[must_use]
    pub fn new(addr: SocketAddr, token: Option<&str>) -> Client {
        Client { addr, token: token.map(|token| format!("Bearer {token}")), open: None }
    }

    /// Calls.
    ///
    /// # Errors
    /// A connection that breaks, or no answer in 30 s: the node lives in this process, so neither may happen.
    pub async fn call(
        &mut self,
        method: Method,
        path: &str,
        headers: &[(String, String)],
        body: impl Into<Bytes>,
    ) -> Result<Answer> {
        let mut request = Request::builder().method(method).uri(path).header("host", "drill");
        if let Some(token) = &self.token {
            request = request.header("authorization", token);
        }
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let request = request.body(Full::new(body.into()))?;
        timeout(ANSWER_WITHIN, self.exchange(request)).await.with_context(|| format!("{path}: no answer"))?
    }

    /// POSTs JSON.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn post(&mut self, path: &str, body: &Value) -> Result<Answer> {
        let json = ("content-type".to_owned(), "application/json".to_owned());
        self.call(Method::POST, path, &[json], body.to_string()).await
    }

    /// GETs.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn get(&mut self, path: &str) -> Result<Answer> {
        self.call(Method::GET, path, &[], Bytes::new()).await
    }

    async fn exchange(&mut self, request: Request<Full<Bytes>>) -> Result<Answer> {
        let kept = match self.open.take() {
            Some(mut kept) => kept.ready().await.is_ok().then_some(kept),
            None => None,
        };
        let mut sender = match kept {
            Some(kept) => kept,
            None => self.connect().await?,
        };
        let (head, body) = sender.send_request(request).await?.into_parts();
        let body = body.collect().await?.to_bytes();
        self.open = Some(sender);
        Ok(Answer {
            status: head.status.as_u16(),
            json: serde_json::from_slice(&body).unwrap_or(Value::Null),
        })
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>> {
        let stream = TcpStream::connect(self.addr).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(sender)
    }
}
