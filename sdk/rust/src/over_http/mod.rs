//! The mailbox over HTTP/1.1: a pool of kept connections, one request outstanding on each.

mod json;
mod wire;

use crate::backoff::pause;
use crate::call::{Call, Outcome};
use crate::entropy;
use crate::error::Error;
use crate::pipeline::Trouble;
use crate::repeat::{self, Fate};
use crate::secret::Secret;
use crate::stream::Endpoint;
use crate::tls::Tls;
use crate::window::Lane;
use ron_core::capability::Token;
use std::sync::PoisonError;
use tokio::sync::{Semaphore, watch};
use tokio::time::sleep;
use wire::{Exchange, Wires};

/// Connections at once, for receives (which may wait) and for all else.
const CONNECTIONS: [usize; 2] = [64, 64];

/// A listener that speaks HTTP.
#[derive(Debug)]
pub(crate) struct Http {
    wires: Wires,
    token: watch::Receiver<Secret>,
    tenant: String,
    rooms: [Semaphore; 2],
    trouble: Trouble,
}

impl Http {
    /// A client of the listener at `url`: `http://HOST[:PORT]`, with TLS `https://…`. Nothing is connected yet.
    ///
    /// # Errors
    /// [`Error::Invalid`] if that is no such URL, or the token none.
    pub(crate) fn new(url: &str, tls: Option<Tls>, token: watch::Receiver<Secret>) -> Result<Http, Error> {
        let endpoint = endpoint(url, tls)?;
        // the paths name the tenant; the capability knows it
        let tenant =
            Token::parse(token.borrow().text()).map_err(|bad| Error::Invalid(bad.to_owned()))?.tenant.clone();
        let rooms = CONNECTIONS.map(Semaphore::new);
        Ok(Http { wires: Wires::new(endpoint), token, tenant, rooms, trouble: Trouble::default() })
    }

    /// Asks until there is an answer. Dropping it closes its connection: what the node would hand out goes back.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::Unknown`], [`Error::Invalid`], [`Error::Protocol`].
    pub(crate) async fn call(&self, call: &Call) -> Result<Outcome, Error> {
        let room = &self.rooms[usize::from(call.lane() != Lane::Recv)];
        let _permit = room.acquire().await.map_err(|_| Error::Closed)?;
        for failures in 0u32.. {
            let token = self.token.borrow().clone();
            let request = json::request(call, &self.tenant, self.wires.host(), token.text())?;
            let handed_over = match self.wires.exchange(request).await {
                Exchange::Answered(status, head, body) => return json::read(call, status, &head, &body),
                Exchange::NotSent(error) => {
                    self.note(&error);
                    false
                }
                Exchange::Broken(error) => {
                    self.note(&error);
                    true
                }
            };
            match repeat::after_break(call.effect(), handed_over) {
                Fate::Again => sleep(pause(failures, entropy::spread())).await,
                Fate::Unknown => return Err(Error::Unknown),
            }
        }
        Err(Error::Closed)
    }

    /// What stood in the way last.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note(&self, error: &std::io::Error) {
        let text = format!("{}: {error}", self.wires.host());
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = Some(text);
    }
}

fn endpoint(url: &str, tls: Option<Tls>) -> Result<Endpoint, Error> {
    let (scheme, port) = if tls.is_some() { ("https", 443) } else { ("http", 80) };
    let bad = || {
        let why = if tls.is_some() { "with" } else { "without" };
        Error::Invalid(format!("url: {scheme}://HOST or {scheme}://HOST:PORT, without a path, {why} TLS"))
    };
    let rest = url.strip_prefix(scheme).and_then(|rest| rest.strip_prefix("://")).ok_or_else(bad)?;
    let authority = rest.trim_end_matches('/');
    let parsed: http::uri::Authority = authority.parse().map_err(|_| bad())?;
    if parsed.as_str().contains('@') || parsed.host().is_empty() {
        return Err(bad());
    }
    let port = if parsed.port().is_some() { String::new() } else { format!(":{port}") };
    Ok(Endpoint::new(&format!("{authority}{port}"), tls))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_a_listener_and_nothing_else() {
        let endpoint = |url| endpoint(url, None);
        assert_eq!(endpoint("http://127.0.0.1:9410").unwrap().address, "127.0.0.1:9410");
        assert_eq!(endpoint("http://mail.example/").unwrap().address, "mail.example:80");
        assert_eq!(endpoint("http://[::1]:9410").unwrap().address, "[::1]:9410");
        for bad in
            ["127.0.0.1:9410", "https://a", "http://", "http://a/b", "http://u@a", "oap://a:1", "http://a b"]
        {
            assert!(matches!(endpoint(bad), Err(Error::Invalid(_))), "{bad}");
        }
    }
}
