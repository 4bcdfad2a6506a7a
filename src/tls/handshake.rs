//! The handshake of one connection: bounded in time, counted when it fails, and ended with the listener.

use super::identity::Identity;
use crate::http::io::WatchedIo;
use crate::listening::Lifeline;
use crate::metrics::Metrics;
use arc_swap::ArcSwap;
use rustls::{InvalidMessage, ServerConfig};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;

/// A connection as its listener serves it: plain, or what is inside TLS. The socket below TLS gives up on a peer that
/// takes nothing by itself, since what is written above may still be waiting to go out.
pub(crate) type Socket = Either<TcpStream, Box<TlsStream<WatchedIo<TcpStream>>>>;

/// The protocols that a listener offers.
pub(super) type Alpn = &'static [&'static [u8]];

/// How long a peer may keep a listener waiting.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// With its whole handshake.
    pub(crate) handshake: Duration,
    /// With taking anything of what is sent to it.
    pub(crate) write_stall: Duration,
}

/// How a listener shakes hands: with the identity in force when the connection comes.
#[derive(Debug)]
pub struct Handshakes {
    listener: &'static str,
    alpn: Alpn,
    config: ArcSwap<ServerConfig>,
    metrics: Arc<Metrics>,
}

impl Handshakes {
    /// Handshakes of a listener, by its name in the log, that offers these protocols.
    ///
    /// # Errors
    /// As [`Identity::config`].
    pub(super) fn new(
        listener: &'static str,
        alpn: Alpn,
        identity: &Identity,
        metrics: Arc<Metrics>,
    ) -> Result<Handshakes, rustls::Error> {
        let config = ArcSwap::from_pointee(identity.config(alpn)?);
        Ok(Handshakes { listener, alpn, config, metrics })
    }

    /// The identity of all connections from now on; those that are open keep theirs.
    pub(super) fn replace(&self, identity: &Identity) -> Result<(), rustls::Error> {
        self.config.store(Arc::new(identity.config(self.alpn)?));
        Ok(())
    }

    async fn shake(
        &self,
        socket: TcpStream,
        patience: Patience,
    ) -> Option<Box<TlsStream<WatchedIo<TcpStream>>>> {
        let (io, bytes_read) = WatchedIo::new(socket, patience.write_stall);
        let acceptor = TlsAcceptor::from(self.config.load_full());
        let done = timeout(patience.handshake, acceptor.accept(io)).await;
        let why = match done {
            Ok(Ok(stream)) => return Some(Box::new(stream)),
            // whoever looks whether the port is open
            Ok(Err(_)) if bytes_read.load(Ordering::Relaxed) == 0 => return None,
            Ok(Err(error)) if is_plain(&error) => {
                "what came is not TLS: a plain request, or another protocol".to_owned()
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "it took too long".to_owned(),
        };
        self.metrics.mailbox.tls_handshake_failures.increment(1);
        tracing::debug!(listener = self.listener, why, "a TLS handshake failed");
        None
    }
}

/// Whether the first bytes were no record of TLS.
fn is_plain(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(inner, Some(rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType)))
}

/// A connection that may be served: at once where the listener has no TLS, else after its handshake. `None` if that
/// failed, or the listener stops meanwhile.
pub(crate) async fn admit(
    tls: Option<&Handshakes>,
    socket: TcpStream,
    patience: Patience,
    lifeline: &Lifeline,
) -> Option<Socket> {
    let Some(tls) = tls else { return Some(Either::Left(socket)) };
    tokio::select! {
        biased;
        () = lifeline.stop.cancelled() => None,
        stream = tls.shake(socket, patience) => stream.map(Either::Right),
    }
}
