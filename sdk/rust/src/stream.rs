//! How a node is reached: what makes a byte stream of an address. Whoever speaks over it does not know what it is
//! made of.

use crate::tls::Tls;
use rustls::pki_types::ServerName;
use std::fmt::Debug;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// How long a connect may take, handshake included.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// Bytes in both directions.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Debug + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Debug + Send + Unpin> Stream for T {}

/// A listener, and how it is spoken to.
#[derive(Debug, Clone)]
pub(crate) struct Endpoint {
    /// `HOST:PORT`.
    pub(crate) address: String,
    tls: Option<Tls>,
}

impl Endpoint {
    /// `None` = as it is, without TLS.
    pub(crate) fn new(address: &str, tls: Option<Tls>) -> Endpoint {
        Endpoint { address: address.to_owned(), tls }
    }

    /// Connects.
    ///
    /// # Errors
    /// Whatever the connect or the handshake says, or that they take too long.
    pub(crate) async fn open(&self) -> io::Result<Box<dyn Stream>> {
        let opened = timeout(CONNECT_WITHIN, self.connect()).await;
        opened.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    async fn connect(&self) -> io::Result<Box<dyn Stream>> {
        let socket = TcpStream::connect(&self.address).await?;
        socket.set_nodelay(true)?; // requests are small and must not wait for an ack
        let Some(Tls(config)) = &self.tls else { return Ok(Box::new(socket)) };
        let name = ServerName::try_from(self.host().to_owned()).map_err(io::Error::other)?;
        Ok(Box::new(TlsConnector::from(Arc::clone(config)).connect(name, socket).await?))
    }

    /// The address without its port, and an IPv6 one without its brackets.
    fn host(&self) -> &str {
        let host = self.address.rsplit_once(':').map_or(self.address.as_str(), |(host, _)| host);
        host.trim_start_matches('[').trim_end_matches(']')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_that_is_checked_is_the_host() {
        let host = |address| Endpoint::new(address, None).host().to_owned();
        assert_eq!((host("a.example:9411"), host("[::1]:9411")), ("a.example".to_owned(), "::1".to_owned()));
    }
}
