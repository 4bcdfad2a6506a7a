//! Names to addresses: asked once an attempt that connects, and what comes back is all that is connected to.

use futures::future::BoxFuture;
use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use tokio::sync::Semaphore;

/// Most addresses of a name that are looked at.
const ADDRESSES_MAX: usize = 32;

/// Resolves names.
pub trait Resolve: Send + Sync + fmt::Debug {
    /// All addresses of a name, with this port.
    fn resolve<'a>(&'a self, name: &'a str, port: u16) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>>;
}

/// Lookups at once, of all endpoints. One that hangs keeps its thread, and commits need threads of the same pool.
const LOOKUPS_MAX: usize = 16;

/// The system's resolver.
#[derive(Debug, Clone)]
pub struct SystemResolver(Arc<Semaphore>);

impl Default for SystemResolver {
    fn default() -> SystemResolver {
        SystemResolver(Arc::new(Semaphore::new(LOOKUPS_MAX)))
    }
}

impl Resolve for SystemResolver {
    fn resolve<'a>(&'a self, name: &'a str, port: u16) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        Box::pin(async move {
            let turn = self.0.clone().acquire_owned().await.map_err(io::Error::other)?;
            let name = name.to_owned();
            let look_up = move || {
                let found =
                    (name.as_str(), port).to_socket_addrs().map(|all| all.take(ADDRESSES_MAX).collect());
                // given back when the lookup really ends, which may be after its caller has gone
                drop(turn);
                found
            };
            tokio::task::spawn_blocking(look_up).await.map_err(io::Error::other)?
        })
    }
}
