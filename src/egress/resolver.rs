//! Names to addresses: asked once an attempt that connects, and what comes back is all that is connected to.

use futures::future::BoxFuture;
use std::fmt;
use std::io;
use std::net::SocketAddr;

/// Most addresses of a name that are looked at.
const ADDRESSES_MAX: usize = 32;

/// Resolves names.
pub trait Resolve: Send + Sync + fmt::Debug {
    /// All addresses of a name, with this port.
    fn resolve<'a>(&'a self, name: &'a str, port: u16) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>>;
}

/// The system's resolver.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemResolver;

impl Resolve for SystemResolver {
    fn resolve<'a>(&'a self, name: &'a str, port: u16) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name, port)).await?;
            Ok(found.take(ADDRESSES_MAX).collect())
        })
    }
}
