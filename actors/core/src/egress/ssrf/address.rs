//! Which addresses may be connected to.

use super::Ssrf;
use ipnet::IpNet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// IPv4 that is not public: IANA's special-purpose registry, and one public address that every Azure machine reaches
/// its platform's services by.
const DENIED_V4: [(Ipv4Addr, u8, &str); 16] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8, "this network"),
    (Ipv4Addr::new(10, 0, 0, 0), 8, "private"),
    (Ipv4Addr::new(100, 64, 0, 0), 10, "carrier-grade NAT"),
    (Ipv4Addr::new(127, 0, 0, 0), 8, "loopback"),
    (Ipv4Addr::new(168, 63, 129, 16), 32, "a cloud's platform service"),
    (Ipv4Addr::new(169, 254, 0, 0), 16, "link-local, cloud metadata"),
    (Ipv4Addr::new(172, 16, 0, 0), 12, "private"),
    (Ipv4Addr::new(192, 0, 0, 0), 24, "protocol assignments"),
    (Ipv4Addr::new(192, 0, 2, 0), 24, "documentation"),
    (Ipv4Addr::new(192, 88, 99, 0), 24, "6to4 relay"),
    (Ipv4Addr::new(192, 168, 0, 0), 16, "private"),
    (Ipv4Addr::new(198, 18, 0, 0), 15, "benchmarking"),
    (Ipv4Addr::new(198, 51, 100, 0), 24, "documentation"),
    (Ipv4Addr::new(203, 0, 113, 0), 24, "documentation"),
    (Ipv4Addr::new(224, 0, 0, 0), 4, "multicast"),
    (Ipv4Addr::new(240, 0, 0, 0), 4, "reserved, broadcast"),
];

/// IPv6 inside the public 2000::/3 that is not public.
const DENIED_V6: [(Ipv6Addr, u8, &str); 3] = [
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23, "protocol assignments, Teredo"),
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32, "documentation"),
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20, "documentation"),
];

/// What of the rest is named in a refusal; everything outside 2000::/3 is refused, named or not.
const NAMED_V6: [(Ipv6Addr, u8, &str); 9] = [
    (Ipv6Addr::LOCALHOST, 128, "loopback"),
    (Ipv6Addr::UNSPECIFIED, 8, "reserved, IPv4-compatible"),
    (Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, 0, 0), 48, "local-use translation"),
    (Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 0), 64, "discard"),
    (Ipv6Addr::new(0x5f00, 0, 0, 0, 0, 0, 0, 0), 16, "segment routing"),
    (Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7, "unique local, cloud metadata"),
    (Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10, "link-local"),
    (Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 0), 10, "site-local"),
    (Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8, "multicast"),
];

/// Which addresses egress may connect to.
#[derive(Debug, Clone, Default)]
pub struct AddressPolicy {
    /// What an operator allows although it is not public.
    pub allow: Vec<IpNet>,
    /// Where the node itself listens: never allowed.
    pub own: Vec<SocketAddr>,
}

impl AddressPolicy {
    /// Judges one address. An IPv4 address in the clothes of IPv6 (mapped, NAT64, 6to4) is judged as what it is.
    ///
    /// # Errors
    /// [`Ssrf`], naming the address and why.
    pub fn judge(&self, addr: SocketAddr) -> Result<(), Ssrf> {
        let ip = addr.ip().to_canonical();
        if self.own.iter().any(|own| is_own(*own, ip, addr.port())) {
            return Err(Ssrf::new(format!("{ip} port {} is where this node itself listens", addr.port())));
        }
        if self.allow.iter().any(|net| net.contains(&ip)) {
            return Ok(());
        }
        let (why, meant) = match ip {
            IpAddr::V4(v4) => (denied_v4(v4), ip),
            IpAddr::V6(v6) => match embedded(v6) {
                Some(v4) if self.allow.iter().any(|net| net.contains(&IpAddr::V4(v4))) => return Ok(()),
                Some(v4) => (denied_v4(v4), IpAddr::V4(v4)),
                None => (denied_v6(v6), ip),
            },
        };
        let Some(why) = why else { return Ok(()) };
        let shown = if meant == ip { ip.to_string() } else { format!("{ip} (that is {meant})") };
        Err(Ssrf::new(format!("{shown} is {why}")))
    }

    /// Judges all addresses of a name: one that is forbidden refuses the name.
    ///
    /// # Errors
    /// [`Ssrf`]; also for a name without an address.
    pub fn judge_all(&self, addrs: &[SocketAddr]) -> Result<(), Ssrf> {
        if addrs.is_empty() {
            return Err(Ssrf::new("no address to connect to"));
        }
        addrs.iter().try_for_each(|addr| self.judge(*addr))
    }

    /// Judges a connection that was made, before anything is sent: one whose two ends are the same machine, at a port
    /// where this node listens on all addresses, is to itself.
    ///
    /// # Errors
    /// [`Ssrf`].
    pub fn judge_connected(&self, peer: SocketAddr, local: SocketAddr) -> Result<(), Ssrf> {
        let same = peer.ip().to_canonical() == local.ip().to_canonical();
        if same && self.own.iter().any(|own| own.ip().is_unspecified() && own.port() == peer.port()) {
            return Err(Ssrf::new(format!("{peer} is where this node itself listens")));
        }
        Ok(())
    }
}

fn is_own(own: SocketAddr, ip: IpAddr, port: u16) -> bool {
    let here = own.ip().to_canonical() == ip;
    let any = own.ip().is_unspecified() && (ip.is_loopback() || ip.is_unspecified());
    own.port() == port && (here || any)
}

fn denied_v4(ip: Ipv4Addr) -> Option<&'static str> {
    let within = |net: Ipv4Addr, length: u8| (ip.to_bits() ^ net.to_bits()) >> (32 - u32::from(length)) == 0;
    DENIED_V4.iter().find(|(net, length, _)| within(*net, *length)).map(|(_, _, why)| *why)
}

fn denied_v6(ip: Ipv6Addr) -> Option<&'static str> {
    let within = |net: Ipv6Addr, length: u8| (ip.to_bits() ^ net.to_bits()) >> (128 - u32::from(length)) == 0;
    let named = DENIED_V6.iter().chain(&NAMED_V6).find(|(net, length, _)| within(*net, *length));
    match named {
        Some((_, _, why)) => Some(why),
        None if !within(Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3) => Some("not public"),
        None => None,
    }
}

/// The IPv4 address that packets to this one end at: NAT64 (RFC 6052) and 6to4 (RFC 3056). Mapped ones are canonical
/// IPv4 already; compatible ones (RFC 4291, deprecated) and Teredo are refused whole.
fn embedded(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    let [a, b, c, d, e, f, g, h] = ip.segments();
    let join = |high: u16, low: u16| Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low));
    match (a, b, c, d, e, f) {
        (0x64, 0xff9b, 0, 0, 0, 0) => Some(join(g, h)),
        (0x2002, ..) => Some(join(b, c)),
        _ => None,
    }
}
