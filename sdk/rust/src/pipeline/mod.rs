//! The mailbox over OAP/1: requests of all callers, pipelined over a few connections, each driven by a task of its own.

mod driver;
mod pending;

use crate::call::{Call, Outcome};
use crate::connection::fits;
use crate::error::Error;
use crate::frames::Answer;
use crate::secret::Secret;
use crate::stream::Endpoint;
use crate::window::Lane;
use driver::Driver;
use pending::{Pending, Queues};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{mpsc, oneshot, watch};

/// Requests that wait for a connection's task, of each lane; further callers wait with theirs.
const QUEUE: usize = 256;

/// What stood in the way last, for who runs out of patience.
pub(crate) type Trouble = Arc<Mutex<Option<String>>>;

/// Connections to one listener.
#[derive(Debug)]
pub(crate) struct Pool {
    endpoint: Endpoint,
    connections: Vec<[mpsc::Sender<Pending>; 3]>,
    trouble: Trouble,
}

impl Pool {
    /// Connects once, so that a wrong address or capability is told at once, and starts the tasks.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Refused`].
    pub(crate) async fn connect(
        endpoint: Endpoint,
        token: &watch::Receiver<Secret>,
        connections: usize,
    ) -> Result<Pool, Error> {
        let trouble = Trouble::default();
        let mut pool =
            Pool { endpoint: endpoint.clone(), connections: Vec::new(), trouble: Arc::clone(&trouble) };
        for _ in 0..connections {
            let (senders, queues) = queues();
            let mut driver = Driver::new(endpoint.clone(), token.clone(), queues, Arc::clone(&trouble));
            let open = driver.open().await?;
            tokio::spawn(driver.run(open));
            pool.connections.push(senders);
        }
        Ok(pool)
    }

    /// Where it connects to.
    pub(crate) const fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Asks, and waits for the answer, over as many connections as it takes. Dropping it gives up: what is handed out
    /// to it nevertheless is released.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::Unknown`], [`Error::Invalid`], [`Error::Protocol`].
    pub(crate) async fn call(&self, call: &Call) -> Result<Outcome, Error> {
        let payload = call.to_payload();
        fits(&payload)?;
        let (reply, answered) = oneshot::channel();
        let topic = (call.lane() == Lane::Recv).then(|| call.topic.clone());
        let pending = Pending {
            lane: call.lane(),
            effect: call.effect(),
            topic,
            payload: payload.into(),
            reply: Some(reply),
        };
        let lanes = self.connections.get(place(&call.topic, self.connections.len())).ok_or(Error::Closed)?;
        lanes[call.lane().index()].send(pending).await.map_err(|_| Error::Closed)?;
        let answer: Answer = answered.await.map_err(|_| Error::Closed)??;
        call.read(&answer)
    }

    /// What stood in the way last.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// All of a topic goes over one connection, which keeps its sends in order.
fn place(topic: &str, connections: usize) -> usize {
    let fnv = |hash: u32, byte: u8| (hash ^ u32::from(byte)).wrapping_mul(16_777_619);
    topic.bytes().fold(2_166_136_261, fnv) as usize % connections.max(1)
}

fn queues() -> ([mpsc::Sender<Pending>; 3], Queues) {
    let [(a, settles), (b, sends), (c, receives)] = Lane::ALL.map(|_| mpsc::channel(QUEUE));
    ([a, b, c], Queues::new([settles, sends, receives]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_are_spread_and_stay_where_they_are() {
        let mut used = [0; 4];
        for n in 0..1_000 {
            let topic = format!("topic-{n}");
            used[place(&topic, 4)] += 1;
            assert_eq!(place(&topic, 4), place(&topic, 4));
        }
        assert!(used.iter().all(|count| *count > 150), "{used:?}");
        assert_eq!(place("any", 1), 0);
    }
}
