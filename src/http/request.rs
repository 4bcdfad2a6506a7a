//! What every request carries beside its own bytes: who sent it, its correlation id, our request id.

use crate::http::error::{Failure, X_CORR_ID};
use axum::extract::RawPathParams;
use axum::extract::rejection::RawPathParamsRejection;
use http::HeaderMap;
use http::request::Parts;
use ron_core::audit::Entry;
use ron_core::ids::{CorrId, QueueKey, Tenant, Topic};
use ron_core::reason::{Reason, Refusal};
use ron_core::time::Clock;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Who is at the other end of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// A TCP peer.
    Tcp(SocketAddr),
    /// A process on this machine, by the kernel's word.
    Unix {
        /// Its user.
        uid: u32,
        /// Its process, if the kernel said.
        pid: Option<i32>,
    },
}

impl Peer {
    /// The peer's address, for `ip` caveats; loopback for a local process.
    #[must_use]
    pub const fn ip(self) -> IpAddr {
        match self {
            Peer::Tcp(addr) => addr.ip().to_canonical(),
            Peer::Unix { .. } => IpAddr::V4(Ipv4Addr::LOCALHOST),
        }
    }
}

/// One request's identity, in its extensions.
#[derive(Debug, Clone)]
pub struct Call {
    /// Joins it to the caller's own records.
    pub corr: CorrId,
    /// Ours; what audit keys on.
    pub req_id: u128,
    /// Who sent it.
    pub peer: Peer,
}

impl Call {
    /// The identity that the door gave to this request.
    ///
    /// # Errors
    /// INTERNAL if the router is served without a door, which would be a bug.
    pub fn of(parts: &Parts) -> Result<&Call, Failure> {
        let missing = || Failure(Refusal::new(Reason::Internal, "the request has no identity"));
        parts.extensions.get::<Call>().ok_or_else(missing)
    }

    /// Says in the audit log which request it was, and who sent it.
    pub fn name(&self, entry: &mut Entry) {
        (entry.corr_id, entry.req_id) = (Some(self.corr.clone()), Some(self.req_id));
        match self.peer {
            Peer::Tcp(_) => entry.more.ip = Some(self.peer.ip()),
            Peer::Unix { uid, pid } => (entry.more.uid, entry.more.pid) = (Some(uid), pid),
        }
    }
}

/// Gives out ids: unique in this process, and with 64 random bits of seed in practice everywhere. They are
/// labels, not secrets.
#[derive(Debug)]
pub struct Ids {
    clock: Arc<dyn Clock>,
    seed: u64,
    given: AtomicU64,
}

impl Ids {
    /// Ids from this clock and a random seed.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, seed: u64) -> Ids {
        Ids { clock, seed, given: AtomicU64::new(0) }
    }

    /// A fresh correlation id.
    #[must_use]
    pub fn corr_id(&self) -> CorrId {
        CorrId::generate(self.clock.wall(), self.random())
    }

    /// The caller's correlation id if it sent exactly one well-formed one, else a fresh one.
    #[must_use]
    pub fn corr_id_of(&self, headers: &HeaderMap) -> CorrId {
        let mut sent = headers.get_all(&X_CORR_ID).iter();
        let first = sent.next().and_then(|value| CorrId::parse(value.to_str().ok()?));
        match (first, sent.next()) {
            (Some(corr), None) => corr,
            _ => self.corr_id(),
        }
    }

    /// A fresh request id: the time in ms and 80 random bits, as in a ULID.
    #[must_use]
    pub fn req_id(&self) -> u128 {
        (u128::from(self.clock.wall().0 & 0xffff_ffff_ffff) << 80) | (self.random() & ((1 << 80) - 1))
    }

    fn random(&self) -> u128 {
        let n = self.given.fetch_add(2, Ordering::Relaxed);
        let half =
            |n: u64| u128::from(split_mix(self.seed.wrapping_add(n.wrapping_mul(0x9e37_79b9_7f4a_7c15))));
        (half(n) << 64) | half(n.wrapping_add(1))
    }
}

/// The finaliser of SplitMix64 (Steele, Lea, Flood 2014): a bijection, so distinct inputs stay distinct.
const fn split_mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The path's parameters, or why they could not be read.
pub(super) type Path = Result<RawPathParams, RawPathParamsRejection>;

fn malformed_path() -> Refusal {
    Refusal::new(Reason::Malformed, "the path is not UTF-8")
}

/// The parameter `name` of the path.
pub(super) fn path_part<'p>(path: &'p Path, name: &str) -> Result<&'p str, Refusal> {
    let params = path.as_ref().map_err(|_| malformed_path())?;
    params.iter().find(|(key, _)| *key == name).map(|(_, value)| value).ok_or_else(malformed_path)
}

/// The tenant of the path.
pub(super) fn tenant_of(path: &Path) -> Result<Tenant, Refusal> {
    Tenant::parse(path_part(path, "tenant")?).map_err(|bad| Refusal::new(Reason::Malformed, bad.to_string()))
}

/// The tenant and topic of the path.
pub(super) fn queue_of(path: &Path) -> Result<QueueKey, Refusal> {
    let tenant = tenant_of(path)?;
    let topic = Topic::parse(path_part(path, "topic")?)
        .map_err(|bad| Refusal::new(Reason::Malformed, bad.to_string()))?;
    Ok(QueueKey { tenant, topic })
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use ron_core::time::Millis;
    use std::collections::HashSet;

    #[derive(Debug)]
    struct Stopped;

    impl Clock for Stopped {
        fn now(&self) -> Millis {
            Millis(5)
        }

        fn wall(&self) -> Millis {
            Millis(1_700_000_000_000)
        }
    }

    #[test]
    fn ids_differ_under_a_stopped_clock() {
        let ids = Ids::new(Arc::new(Stopped), 7);
        let corr: HashSet<String> = (0..10_000).map(|_| ids.corr_id().to_string()).collect();
        let req: HashSet<u128> = (0..10_000).map(|_| ids.req_id()).collect();
        assert_eq!((corr.len(), req.len()), (10_000, 10_000));
        assert!(corr.iter().all(|id| CorrId::parse(id).is_some()));
    }

    #[test]
    fn a_well_formed_corr_id_is_kept() {
        let ids = Ids::new(Arc::new(Stopped), 7);
        let of = |values: &[&[u8]]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(X_CORR_ID, HeaderValue::from_bytes(value).unwrap());
            }
            ids.corr_id_of(&headers).to_string()
        };
        assert_eq!(of(&[b"abc_DEF-123"]), "abc_DEF-123");
        for other in
            [&[][..], &[b"short".as_slice()], &[b"has space"], &[b"\xff\xff\xff\xff\xff\xff\xff\xff"]]
        {
            assert_eq!(of(other).len(), 26, "{other:?}");
        }
        assert_eq!(of(&[b"abcdefgh", b"abcdefgh"]).len(), 26, "two are none");
    }

    #[test]
    fn a_mapped_address_is_the_v4_one() {
        let peer = Peer::Tcp("[::ffff:10.1.2.3]:80".parse().unwrap());
        assert_eq!(peer.ip().to_string(), "10.1.2.3");
    }
}
