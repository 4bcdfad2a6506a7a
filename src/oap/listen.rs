//! The listener: bounded connections, and an end that waits.

use super::answer;
use super::conn::Conn;
use crate::http::door::Meter;
use crate::http::error::RouteKind;
use crate::http::mailbox::{self, MailboxLimits};
use crate::http::readiness::Readiness;
use crate::http::request::{Call, Ids, Peer};
use crate::listening::{Lifeline, Listening, next};
use crate::metrics::{MethodLabel, mailbox_call};
use crate::tls::{Handshakes, Patience, admit};
use arc_swap::ArcSwap;
use bytes::BytesMut;
use ron_actors::audit::Audit;
use ron_actors::mailbox::Mailbox;
use ron_actors::passport::Passport;
use ron_actors::policy::InForce;
use ron_actors::store::Store;
use ron_core::ids::CorrId;
use ron_core::oap::Durability;
use ron_core::reason::Refusal;
use ron_core::time::Clock;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// Limits of the listener's connections.
#[derive(Debug, Clone, Copy)]
pub struct OapLimits {
    /// Most connections at once; further ones are closed.
    pub max_conns: usize,
    /// How long a handshake of TLS may take.
    pub handshake: Duration,
    /// How long a peer may take nothing of what is sent to it.
    pub write_stall: Duration,
    /// Bytes of an object, at most.
    pub object_max: u64,
    /// How long 1 MiB of an object may take to come.
    pub body_deadline: Duration,
}

/// What the listener works with.
#[derive(Debug)]
pub struct OapApp {
    /// The mailbox.
    pub mailbox: Mailbox,
    /// Who may call.
    pub passport: Passport,
    /// What is judged after the capability.
    pub policy: InForce,
    /// Whether sends and receives are let in.
    pub readiness: Arc<Readiness>,
    /// From the configuration.
    pub mailbox_limits: Arc<ArcSwap<MailboxLimits>>,
    /// Counts.
    pub meter: Meter,
    /// Node time and the wall clock.
    pub clock: Arc<dyn Clock>,
    /// Of its connections.
    pub limits: OapLimits,
    /// How it shakes hands; `None` = plain TCP.
    pub tls: Option<Arc<Handshakes>>,
    /// Where requests are counted.
    pub routes: OapRoutes,
    /// Is told who was allowed what.
    pub audit: Audit,
    /// For the names of requests there.
    pub ids: Arc<Ids>,
    /// Where objects go.
    pub store: Store,
    /// Objects on their way in at once: each holds up to 1 MiB, beside what waits in its connection's window.
    pub uploads: Arc<Semaphore>,
}

/// Where requests are counted: the routes of the same calls over HTTP, in the order of the ops.
#[derive(Debug)]
pub struct OapRoutes([usize; 9]);

impl Default for OapRoutes {
    fn default() -> OapRoutes {
        let calls = [
            "/enqueue",
            "/enqueue/batch",
            "/recv",
            "/recv/stream",
            "other",
            "/ack",
            "/nack",
            "/extend",
            "other",
        ];
        OapRoutes(calls.map(mailbox_call))
    }
}

impl OapApp {
    /// Writes the answer to a request (its `app_proto_id` and `corr_id`) that is refused, and counts the refusal.
    /// `more` = further flags. Returns the answer's code.
    pub(super) fn answer_refusal(
        &self,
        (proto, corr_id): (u16, u64),
        refusal: &Refusal,
        more: u16,
        to: &mut BytesMut,
    ) -> u16 {
        self.meter.refused(RouteKind::Api, refusal.reason);
        answer::refused(proto, corr_id, refusal, more, to);
        refusal.reason.status()
    }

    /// Counts answers to `count` requests that came together; `op` = that of the requests.
    pub(super) fn answered(&self, op: Option<u8>, code: u16, took: Duration, count: usize) {
        let route = op.and_then(|op| self.routes.0.get(usize::from(op)).copied());
        let route = route.unwrap_or_else(|| mailbox_call("other"));
        let requests = &self.meter.metrics().mailbox.requests;
        requests.answered_many(route, MethodLabel::Oap, code, took, count);
    }

    /// What a request is called in the audit log.
    pub(super) fn named(&self, peer: SocketAddr, connection: u64, corr_id: u64) -> Call {
        let corr = CorrId::parse(&corr_text(connection, corr_id)).unwrap_or_else(|| self.ids.corr_id());
        Call { corr, req_id: self.ids.req_id(), peer: Peer::Tcp(peer) }
    }

    /// As safe as what it stores is, unless a topic is in memory alone.
    pub(super) fn durability(&self) -> Durability {
        match self.mailbox_limits.load().durability {
            mailbox::Durability::Fsync => Durability::Fsync,
            mailbox::Durability::Ram => Durability::Ram,
        }
    }

    pub(super) fn wall_s(&self) -> u64 {
        self.clock.wall().0 / 1000
    }
}

/// The correlation id of a request in logs and messages: `oap-<connection>-<corr_id as 16 hex digits>`. Every message
/// has one, so it is written without the formatting machinery.
pub(super) fn corr_text(connection: u64, corr_id: u64) -> String {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(44);
    text.push_str("oap-");
    let mut power = 1;
    while connection / power >= 10 {
        power *= 10;
    }
    while power > 0 {
        text.push(char::from(HEX[(connection / power % 10) as usize]));
        power /= 10;
    }
    text.push('-');
    for digit in (0..16).rev() {
        text.push(char::from(HEX[(corr_id >> (4 * digit)) as usize & 15]));
    }
    text
}

/// Binds `addr` (port 0 = any) and serves OAP/1 on it.
///
/// # Errors
/// What binding says, e.g. [`io::ErrorKind::AddrInUse`].
pub async fn serve_oap(addr: SocketAddr, app: Arc<OapApp>) -> io::Result<Listening> {
    let listener = TcpListener::bind(addr).await?;
    let (listening, lifeline) = Listening::new(Some(listener.local_addr()?));
    lifeline.tasks.clone().spawn(accept(listener, app, lifeline));
    Ok(listening)
}

async fn accept(listener: TcpListener, app: Arc<OapApp>, lifeline: Lifeline) {
    let conns = Arc::new(Semaphore::new(app.limits.max_conns));
    let numbers = AtomicU64::new(1);
    let OapLimits { handshake, write_stall, .. } = app.limits;
    let patience = Patience { handshake, write_stall };
    while let Some((socket, peer)) = next(&lifeline.stop, |cx| listener.poll_accept(cx)).await {
        // answers are small and must not wait for an ack
        let _ = socket.set_nodelay(true);
        let Ok(permit) = Arc::clone(&conns).try_acquire_owned() else {
            app.meter.connection_refused();
            continue;
        };
        let (app, lifeline) = (app.clone(), lifeline.clone());
        let number = numbers.fetch_add(1, Ordering::Relaxed);
        lifeline.tasks.clone().spawn(async move {
            if let Some(socket) = admit(app.tls.as_deref(), socket, patience, &lifeline).await {
                Conn::new(app, socket, peer, number).serve(&lifeline.stop, &lifeline.kill).await;
            }
            drop(permit);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::corr_text;

    #[test]
    fn a_correlation_id_names_the_connection_and_the_request() {
        for (connection, corr_id) in [(0, 0), (1, 7), (10, 255), (99, 1 << 40), (u64::MAX, u64::MAX)] {
            let text = corr_text(connection, corr_id);
            assert_eq!(text, format!("oap-{connection}-{corr_id:016x}"));
            assert!(ron_core::ids::CorrId::parse(&text).is_some());
        }
    }
}
