//! The forms in which an attacker writes an address that must not be reached, and what must stay reachable.

use super::*;
use proptest::prelude::*;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Hosts of URLs that must be refused before anything is resolved: by their form, or by the address they are.
fn refused_hosts() -> impl Iterator<Item = &'static str> {
    let text = include_str!("../../../../../tests/fixtures/egress/refused-hosts.txt");
    text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'))
}

/// Names, and URLs as a whole, that must be refused by their form.
const REFUSED_URLS: [&str; 34] = [
    "https://LOCALHOST/",
    "https://foo.localhost/",
    "https://foo.localhost./",
    "https://printer.local/",
    "https://metadata.google.internal/",
    "https://metadata/",
    "https://kubernetes/",
    "https://box.home.arpa/",
    "https://a.localdomain/",
    "https://ｌｏｃａｌｈｏｓｔ/",
    "https://loc%61lhost/",
    "https://lo\u{ad}calhost/",
    "http://example.com/",
    "ftp://example.com/",
    "file:///etc/passwd",
    "gopher://example.com:70/",
    "https://example.com:22/",
    "https://example.com:80/",
    "https://example.com:6379/",
    "https://example.com:0/",
    "https://user@example.com/",
    "https://user:pass@example.com/",
    "https://@example.com/",
    "https://example.com@127.0.0.1/",
    "https://example.com/#a",
    "https://example.com\\@127.0.0.1/",
    "https://exam\tple.com/",
    "https://example.com/ x",
    " https://example.com/",
    "https://",
    "https:///",
    "example.com",
    "https://a..b.example/",
    "https://256.256.256.256/",
];

fn refusal(url: &str) -> Option<String> {
    let refused = Target::parse(url, &UrlPolicy::default()).and_then(|target| match target.host() {
        Host::Ip(ip) => AddressPolicy::default().judge(SocketAddr::new(*ip, target.port())),
        Host::Name(_) => Ok(()),
    });
    refused.err().map(|refused| refused.to_string())
}

#[test]
fn over_a_hundred_forms_are_refused_with_the_code() {
    let hosts = refused_hosts().map(|host| format!("https://{host}/hook"));
    let forms: Vec<String> = hosts.chain(REFUSED_URLS.map(str::to_owned)).collect();
    assert!(forms.len() >= 110);
    for url in forms {
        let text = refusal(&url).unwrap_or_else(|| panic!("{url} is not refused"));
        assert!(text.starts_with("SSRF: "), "{url}: {text}");
    }
    let long = format!("https://example.com/{}", "a".repeat(2048));
    assert!(refusal(&long).is_some_and(|text| text.contains("2048")));
}

#[test]
fn what_is_public_is_reachable() {
    for (url, authority, path) in [
        ("https://example.com/hook", "example.com", "/hook"),
        ("https://EXAMPLE.com:443", "example.com", "/"),
        ("https://example.com:8443/a?b=c", "example.com:8443", "/a?b=c"),
        ("https://example.com./", "example.com", "/"),
        ("https://bücher.example/ü", "xn--bcher-kva.example", "/%C3%BC"),
        ("https://93.184.216.34/", "93.184.216.34", "/"),
        ("https://1.1/", "1.0.0.1", "/"),
        ("https://[2606:4700::1111]/", "[2606:4700::1111]", "/"),
        ("https://[2606:4700::1111]:8443/", "[2606:4700::1111]:8443", "/"),
        ("https://[64:ff9b::101:101]/", "[64:ff9b::101:101]", "/"),
        ("https://[2002:101:101::1]/", "[2002:101:101::1]", "/"),
        ("https://100.63.255.255/", "100.63.255.255", "/"),
        ("https://100.128.0.0/", "100.128.0.0", "/"),
        ("https://172.32.0.0/", "172.32.0.0", "/"),
        ("https://local.example.com/", "local.example.com", "/"),
        ("https://notlocalhost.example/", "notlocalhost.example", "/"),
    ] {
        assert_eq!(refusal(url), None, "{url}");
        let target = Target::parse(url, &UrlPolicy::default()).unwrap();
        assert_eq!((target.authority().as_str(), target.path()), (authority, path), "{url}");
        assert!(target.tls());
    }
    let shown = format!("{:?}", Target::parse("https://h.example/s3cret?t=s3cret", &UrlPolicy::default()));
    assert!(shown.contains("h.example") && !shown.contains("s3cret"), "{shown}");
}

#[test]
fn an_operator_allows_http_ports_and_nets() {
    let policy = UrlPolicy { allow_http: true, allow_ports: vec![9000] };
    let target = Target::parse("http://hooks.example:9000/x", &policy).unwrap();
    assert!(!target.tls() && target.origin() == "http://hooks.example:9000");
    assert!(Target::parse("http://hooks.example/", &policy).is_ok());
    assert!(Target::parse("https://hooks.example:80/", &policy).is_err());
    assert!(Target::parse("http://hooks.example:22/", &policy).is_err());

    let nets = ["10.1.0.0/16", "fd00::/8", "127.0.0.1/32"].map(|net| net.parse().unwrap());
    let policy = AddressPolicy { allow: nets.to_vec(), own: Vec::new() };
    let judge = |ip: &str| policy.judge(SocketAddr::new(ip.parse().unwrap(), 443));
    for ip in ["10.1.2.3", "fd00::1", "127.0.0.1", "::ffff:10.1.2.3", "64:ff9b::a01:203", "1.1.1.1"] {
        assert_eq!(judge(ip), Ok(()), "{ip}");
    }
    for ip in ["10.2.0.0", "127.0.0.2", "fe80::1", "::ffff:127.0.0.2", "::127.0.0.1"] {
        assert!(judge(ip).is_err(), "{ip}");
    }
}

#[test]
fn the_node_itself_is_never_allowed() {
    let own = ["127.0.0.1:9410", "0.0.0.0:8080", "[::1]:9411"].map(|addr| addr.parse().unwrap()).to_vec();
    let allow = ["0.0.0.0/0", "::/0"].map(|net| net.parse().unwrap()).to_vec();
    let policy = AddressPolicy { allow, own };
    for addr in
        ["127.0.0.1:9410", "127.0.0.1:8080", "127.9.9.9:8080", "[::ffff:127.0.0.1]:9410", "[::1]:9411"]
    {
        let refused = policy.judge(addr.parse().unwrap()).unwrap_err().to_string();
        assert!(refused.contains("itself listens"), "{addr}: {refused}");
    }
    for addr in ["127.0.0.1:9411", "127.0.0.2:9410", "192.0.2.1:8080"] {
        assert_eq!(policy.judge(addr.parse().unwrap()), Ok(()), "{addr}");
    }
    let (here, there) = ("192.0.2.1:8080".parse().unwrap(), "192.0.2.2:8080".parse().unwrap());
    assert!(policy.judge_connected(here, "192.0.2.1:40000".parse().unwrap()).is_err());
    assert!(policy.judge_connected(there, "192.0.2.1:40000".parse().unwrap()).is_ok());
}

#[test]
fn one_forbidden_address_refuses_the_name() {
    let addrs = |ips: &[&str]| -> Vec<SocketAddr> {
        ips.iter().map(|ip| SocketAddr::new(ip.parse().unwrap(), 443)).collect()
    };
    let policy = AddressPolicy::default();
    assert!(policy.judge_all(&addrs(&["1.1.1.1", "2606:4700::1111"])).is_ok());
    assert!(policy.judge_all(&addrs(&["1.1.1.1", "10.0.0.1"])).is_err());
    assert!(policy.judge_all(&addrs(&["::1", "1.1.1.1"])).is_err());
    assert!(policy.judge_all(&[]).is_err());
}

/// The standard library's own idea of what is not public, as far as it has one.
fn known_inner(ip: Ipv4Addr) -> bool {
    ip.is_loopback()
        || ip.is_private()
        || ip.is_link_local()
        || ip.is_multicast()
        || ip.is_broadcast()
        || ip.is_documentation()
        || ip.is_unspecified()
}

proptest! {
    #[test]
    fn what_std_calls_inner_is_refused_in_every_dress(bits in prop_oneof![
        any::<u32>(), 0x7f00_0000_u32..0x8000_0000, 0x0a00_0000_u32..0x0b00_0000,
        0xa9fe_0000_u32..0xaa00_0000, 0xac00_0000_u32..0xad00_0000, 0xc0a0_0000_u32..0xc0b0_0000,
        0xe000_0000_u32..=0xffff_ffff,
    ]) {
        let ip = Ipv4Addr::from_bits(bits);
        let policy = AddressPolicy::default();
        let plain = policy.judge(SocketAddr::new(ip.into(), 443));
        if known_inner(ip) {
            prop_assert!(plain.is_err(), "{}", ip);
        }
        let [a, b] = [(bits >> 16) as u16, bits as u16];
        let dresses = [
            ip.to_ipv6_mapped(),
            Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, a, b),
            Ipv6Addr::new(0x2002, a, b, 0, 0, 0, 0, 1),
        ];
        for dress in dresses {
            let judged = policy.judge(SocketAddr::new(IpAddr::V6(dress), 443));
            prop_assert_eq!(judged.is_err(), plain.is_err(), "{} in {}", ip, dress);
        }
        let compatible = Ipv6Addr::new(0, 0, 0, 0, 0, 0, a, b);
        prop_assert!(policy.judge(SocketAddr::new(compatible.into(), 443)).is_err());
        // the same address, however a URL writes it
        for host in [format!("{bits}"), format!("0x{bits:x}"), format!("0{bits:o}"), format!("[{}]", dresses[0])] {
            prop_assert_eq!(refusal(&format!("https://{host}/")).is_some(), plain.is_err(), "{} as {}", ip, host);
        }
    }

    #[test]
    fn only_global_unicast_v6_passes(bits in any::<u128>()) {
        let ip = Ipv6Addr::from_bits(bits);
        if AddressPolicy::default().judge(SocketAddr::new(ip.into(), 443)).is_ok() {
            let [first, second, ..] = ip.segments();
            let nat64 = (first, second) == (0x64, 0xff9b);
            prop_assert!(first >> 13 == 1 || nat64 || ip.to_ipv4_mapped().is_some());
        }
    }

    #[test]
    fn no_text_is_too_odd(text in "\\PC{0,80}|https?://[-a-z0-9.:@\\[\\]%/\\\\#?]{0,60}") {
        if let Ok(target) = Target::parse(&text, &UrlPolicy::default()) {
            prop_assert!(target.tls() && [443, 8443].contains(&target.port()));
            // what was understood is understood the same again
            let again = Target::parse(&format!("{}{}", target.origin(), target.path()), &UrlPolicy::default());
            prop_assert_eq!(again, Ok(target));
        }
    }
}
