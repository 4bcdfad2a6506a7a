//! What the listeners of a node have in common: an accept loop that survives, and an end that waits.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A listener at work.
#[derive(Debug)]
pub struct Listening {
    addr: Option<SocketAddr>,
    lifeline: Lifeline,
}

/// What a listener's tasks hold on to.
#[derive(Debug, Clone, Default)]
pub struct Lifeline {
    /// Accept nothing more; finish what is under way.
    pub stop: CancellationToken,
    /// End now.
    pub kill: CancellationToken,
    /// All tasks of the listener.
    pub tasks: TaskTracker,
}

impl Listening {
    /// A listener at `addr`; `None` for a Unix socket.
    #[must_use]
    pub fn new(addr: Option<SocketAddr>) -> (Listening, Lifeline) {
        let lifeline = Lifeline::default();
        (Listening { addr, lifeline: lifeline.clone() }, lifeline)
    }

    /// The address it is bound to; `None` for a Unix socket.
    #[must_use]
    pub const fn addr(&self) -> Option<SocketAddr> {
        self.addr
    }

    /// Stops accepting, lets requests under way finish for `grace`, then closes what is left.
    pub async fn shutdown(self, grace: Duration) {
        let Lifeline { stop, kill, tasks } = self.lifeline;
        stop.cancel();
        tasks.close();
        if timeout(grace, tasks.wait()).await.is_err() {
            kill.cancel();
            tasks.wait().await;
        }
    }
}

/// The next connection, or `None` when the listener stops. Survives what accept can fail with (a peer that is
/// gone already, no descriptors left).
pub(crate) async fn next<S, P>(stop: &CancellationToken, mut accept: P) -> Option<S>
where
    P: FnMut(&mut Context<'_>) -> Poll<io::Result<S>>,
{
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => return None,
            accepted = poll_fn(&mut accept) => accepted,
        };
        match accepted {
            Ok(socket) => return Some(socket),
            Err(error) => {
                tracing::warn!(%error, "accept failed");
                // out of descriptors: connections must end first, so do not spin
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
}
