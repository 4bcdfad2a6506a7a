//! Drills: a whole node in this process, on a real file, under load over HTTP, while its actors are killed.
//!
//! [`kills::run`] kills a hundred actors, each at most once a minute, half of them with requests aboard that are
//! not committed; [`quarantine::run`] kills one shard past its budget; [`fanout::run`] kills
//! the node while messages are copied. The first two keep a [`ledger::Ledger`] of what was
//! answered and compare it with what the node has at the end.

pub mod client;
pub mod fanout;
pub mod gate;
pub mod house;
pub mod kills;
pub mod ledger;
pub mod load;
pub mod quarantine;
pub mod tap;

use std::future::Future;
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// Polls until `probe` has something.
///
/// # Errors
/// Names `what` if there is nothing after `limit`.
pub async fn until<T, F: Future<Output = Option<T>>>(
    what: &str,
    limit: Duration,
    mut probe: impl FnMut() -> F,
) -> anyhow::Result<T> {
    const EVERY: Duration = Duration::from_millis(1);
    let polled = async {
        loop {
            if let Some(found) = probe().await {
                return found;
            }
            sleep(EVERY).await;
        }
    };
    timeout(limit, polled).await.map_err(|_| anyhow::anyhow!("{what}: not within {limit:?}"))
}
