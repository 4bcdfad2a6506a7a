//! HTTP/1.1 exchanges over kept connections. A request goes over a kept one only if that is alive; one that was closed
//! meanwhile, with nothing of the request sent, is replaced.

use crate::stream::Endpoint;
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use std::io;
use std::sync::{Mutex, PoisonError};

/// Kept connections that are not in use, at most.
const KEPT_MAX: usize = 32;
/// The largest answer: what a receive may bring (16 MiB of payload) in the longest form that JSON has for it.
const ANSWER_BYTES_MAX: usize = 128 << 20;

/// Connections to one listener.
#[derive(Debug)]
pub(super) struct Wires {
    endpoint: Endpoint,
    kept: Mutex<Vec<SendRequest<Full<Bytes>>>>,
}

/// What came of a request.
pub(super) enum Exchange {
    /// A whole answer.
    Answered(StatusCode, HeaderMap, Bytes),
    /// Nothing of it was sent.
    NotSent(io::Error),
    /// It may have taken effect.
    Broken(io::Error),
}

impl Wires {
    pub(super) fn new(endpoint: Endpoint) -> Wires {
        Wires { endpoint, kept: Mutex::new(Vec::new()) }
    }

    /// `HOST:PORT`.
    pub(super) fn host(&self) -> &str {
        &self.endpoint.address
    }

    /// Sends a request and reads its answer to the end.
    pub(super) async fn exchange(&self, mut request: Request<Full<Bytes>>) -> Exchange {
        while let Some(mut kept) = self.take_kept() {
            if kept.ready().await.is_err() {
                continue;
            }
            match kept.try_send_request(request).await {
                Ok(response) => return self.read(kept, response).await,
                Err(mut error) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Exchange::Broken(io::Error::other(error.into_error())),
                },
            }
        }
        let mut fresh = match self.open().await {
            Ok(fresh) => fresh,
            Err(error) => return Exchange::NotSent(error),
        };
        match fresh.send_request(request).await {
            Ok(response) => self.read(fresh, response).await,
            Err(error) => Exchange::Broken(io::Error::other(error)),
        }
    }

    async fn open(&self) -> io::Result<SendRequest<Full<Bytes>>> {
        let stream = self.endpoint.open().await?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        tokio::spawn(connection); // ends with its sender, which hears of its errors
        Ok(sender)
    }

    async fn read(
        &self,
        sender: SendRequest<Full<Bytes>>,
        response: http::Response<hyper::body::Incoming>,
    ) -> Exchange {
        let (head, body) = response.into_parts();
        match Limited::new(body, ANSWER_BYTES_MAX).collect().await {
            Ok(body) => {
                let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
                if kept.len() < KEPT_MAX {
                    kept.push(sender);
                }
                Exchange::Answered(head.status, head.headers, body.to_bytes())
            }
            Err(error) => Exchange::Broken(io::Error::other(error)),
        }
    }

    fn take_kept(&self) -> Option<SendRequest<Full<Bytes>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }
}
