//! `[interop.egress.NAME]`, or `[egress.NAME]`: which topic's messages go out, where to, and how they are signed.

use super::provider::{ProviderReader, Secret, secrets};
use super::read::Section;
use super::units::ByteSize;
use crate::schemes::Catalogue;
use crate::tls::ClientTls;
use ipnet::IpNet;
use ron_core::egress::{
    AddressPolicy, BreakerRules, Host, Schedule, Signer, Signing, Target, UrlPolicy, headers,
};
use ron_core::ids::{ProviderName, QueueKey, Tenant, Topic};
use secrecy::{ExposeSecret, SecretString};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// The scheme that egress signs by, and every ingress of it verifies.
const SCHEME: &str = "standard_webhooks";
/// Most headers of one's own.
const HEADERS_MAX: usize = 32;

/// An endpoint that messages are delivered to.
#[derive(Debug, Clone)]
pub struct Egress {
    /// Whose messages, and which.
    pub queue: QueueKey,
    /// Where to.
    pub target: Target,
    /// Whether it is served.
    pub enabled: bool,
    /// Signs; `None` only if it is not enabled.
    pub signer: Option<Signer>,
    /// Attempts a second; `None` = as many as there are.
    pub rate: Option<u32>,
    /// Attempts under way at once.
    pub concurrency: u32,
    /// One attempt, the answer's body included.
    pub timeout: Duration,
    /// Resolving; and again connecting with the handshake.
    pub connect_timeout: Duration,
    /// Bytes read of an answer's body.
    pub response_limit: ByteSize,
    /// Addresses that are allowed although they are not public.
    pub allow_cidrs: Vec<IpNet>,
    /// Headers of one's own; a value may be a secret.
    pub headers: Vec<(String, SecretString)>,
    /// Statuses after which nothing is tried again.
    pub terminal_statuses: Vec<u16>,
    /// When what failed is tried again.
    pub schedule: Schedule,
    /// Whom it trusts instead of the system's authorities, PEM.
    pub ca_file: Option<PathBuf>,
    /// When the endpoint is left alone.
    pub breaker: BreakerRules,
}

impl Egress {
    /// Reads one endpoint; `None` if something that has no stand-in is wrong.
    pub(super) fn read(s: &Section<'_, '_>, reader: &ProviderReader<'_>) -> Option<Egress> {
        let enabled = s.boolean_or("enabled", true);
        let secrets = secrets(s, reader, enabled);
        let tenant = s.parsed("tenant", "a tenant, [a-z0-9][a-z0-9-]{0,62}", |text| Tenant::parse(text).ok());
        let topic = s.parsed("topic", "a topic, [a-z0-9][a-z0-9._-]{0,127}", |text| Topic::parse(text).ok());
        let allow_cidrs = allow_cidrs(s);
        let target = target(s, &allow_cidrs);
        let signing = s.parsed_opt("signing", "\"v1\", \"v1a\" or \"both\"", signing);
        let second = Duration::from_secs(1);
        let timeout = s.duration_opt("timeout", &(Duration::from_millis(100)..=300 * second));
        let connect = s.duration_opt("connect_timeout", &(Duration::from_millis(50)..=60 * second));
        let schedule = s.whole_numbers("schedule_ms", "milliseconds");
        let schedule = schedule.map(|delays| {
            Schedule::new(delays).unwrap_or_else(|what| {
                s.problem("schedule_ms", what, None);
                Schedule::default()
            })
        });
        let ca_file = s.path_opt("ca_file");
        if let Some(Err(bad)) = ca_file.as_deref().map(ClientTls::trusting) {
            s.problem(bad.key, bad.text, bad.hint);
        }
        let signer = match (&secrets, enabled) {
            (Some(secrets), true) => signer(s, signing.unwrap_or(Signing::V1), secrets),
            (Some(_) | None, _) => None,
        };
        Some(Egress {
            enabled,
            signer,
            rate: s.integer_opt("rate", &(1..=100_000)),
            concurrency: s.integer_opt("concurrency", &(1..=256)).unwrap_or(8),
            timeout: timeout.unwrap_or(15 * second),
            connect_timeout: connect.unwrap_or(5 * second),
            response_limit: s.size_opt("response_limit", &(0..=1 << 20)).unwrap_or(ByteSize(16 << 10)),
            headers: own_headers(s),
            terminal_statuses: terminal_statuses(s),
            schedule: schedule.unwrap_or_default(),
            breaker: s.table("breaker", breaker),
            ca_file,
            allow_cidrs,
            queue: QueueKey { tenant: tenant?, topic: topic? },
            target: target?,
        })
    }
}

/// Both spellings in one map; the same name in both is a problem.
pub(super) fn merge(
    s: &Section<'_, '_>,
    inner: BTreeMap<ProviderName, Egress>,
    outer: BTreeMap<ProviderName, Egress>,
) -> BTreeMap<ProviderName, Egress> {
    for name in outer.keys().chain(inner.keys()) {
        let written = |path: &[&str]| s.origin_at(path).is_some();
        if written(&["egress", name.as_str()]) && written(&["interop", "egress", name.as_str()]) {
            let text = format!("is also [interop.egress.{name}]: write it once");
            s.problem_at(&["egress", name.as_str()], text, None);
        }
    }
    let all: BTreeMap<ProviderName, Egress> = outer.into_iter().chain(inner).collect();
    let mut served: BTreeMap<&QueueKey, &ProviderName> = BTreeMap::new();
    for (name, egress) in all.iter().filter(|(_, egress)| egress.enabled) {
        if let Some(other) = served.insert(&egress.queue, name) {
            let text = format!("is the topic of egress {other}, too: each message would go to one of them");
            let hint = format!("give each a topic of its own, and subscribe it to {}", egress.queue);
            let place = ["interop", "egress", name.as_str(), "topic"];
            let place = if s.origin_at(&place).is_some() { &place[..] } else { &place[1..] };
            s.problem_at(place, text, Some(hint));
        }
    }
    all
}

/// All endpoints of the table `egress` of this section.
pub(super) fn endpoints(s: &Section<'_, '_>, reader: &ProviderReader<'_>) -> BTreeMap<ProviderName, Egress> {
    let read = |name: &str, s: &Section<'_, '_>| {
        let name = ProviderName::parse(name);
        if let Err(bad) = &name {
            s.problem_here(format!("must be named by {}", bad.rule));
        }
        let egress = Egress::read(s, reader)?;
        Some((name.ok()?, egress))
    };
    s.tables("egress", read).into_iter().flatten().collect()
}

fn signing(text: &str) -> Option<Signing> {
    match text {
        "v1" => Some(Signing::V1),
        "v1a" => Some(Signing::V1a),
        "both" => Some(Signing::Both),
        _ => None,
    }
}

fn signer(s: &Section<'_, '_>, signing: Signing, secrets: &[Secret]) -> Option<Signer> {
    let scheme = Catalogue::scheme(SCHEME, &toml::Table::new());
    if secrets.iter().any(|secret| secret.not_before_unix_s.is_some()) {
        let hint = "list it when the endpoint accepts it: all that are listed sign".to_owned();
        s.problem("secrets", "have no not_before: it is for what providers sign with", Some(hint));
    }
    let secret = |secret: &Secret| {
        let end = secret.window().not_after;
        (secret.kid.clone(), secret.value.expose_secret().to_owned(), end)
    };
    let secrets: Vec<_> = secrets.iter().map(secret).collect();
    let borrowed: Vec<_> =
        secrets.iter().map(|(kid, text, not_after)| (kid.clone(), text.as_str(), *not_after)).collect();
    let made =
        scheme.and_then(|scheme| Signer::new(scheme, signing, &borrowed).map_err(|bad| bad.to_string()));
    made.map_err(|what| s.problem("secrets", what, None)).ok()
}

/// Addresses that are allowed although they are not public.
pub(super) fn allow_cidrs(s: &Section<'_, '_>) -> Vec<IpNet> {
    let net = |text: &str| text.parse().ok().or_else(|| text.parse().ok().map(|addr: IpAddr| addr.into()));
    s.parsed_list("allow_cidrs", "CIDRs, as \"10.1.0.0/16\"", net)
}

/// The URL, and the address if it is a literal one: what a name means is judged when it is used.
fn target(s: &Section<'_, '_>, allow: &[IpNet]) -> Option<Target> {
    let allow_http = s.boolean_or("allow_http", false);
    let ports = s.whole_numbers("allow_ports", "ports, 1 to 65535").unwrap_or_default();
    let port = |port: u64| u16::try_from(port).ok().filter(|port| *port > 0);
    let allow_ports: Option<Vec<u16>> = ports.into_iter().map(port).collect();
    if allow_ports.is_none() {
        s.problem("allow_ports", "must be a list of ports, 1 to 65535", None);
    }
    s.require("url");
    let text = s.text_opt("url")?;
    let policy = UrlPolicy { allow_http, allow_ports: allow_ports.unwrap_or_default() };
    let judged = Target::parse(&text, &policy).and_then(|target| {
        if let Host::Ip(ip) = target.host() {
            let addresses = AddressPolicy { allow: allow.to_vec(), own: Vec::new() };
            addresses.judge(SocketAddr::new(*ip, target.port()))?;
        }
        Ok(target)
    });
    judged
        .map_err(|refused| {
            let hint = "a public https address; allow_cidrs, allow_ports and allow_http allow more";
            s.problem("url", refused.to_string(), Some(hint.into()));
        })
        .ok()
}

fn own_headers(s: &Section<'_, '_>) -> Vec<(String, SecretString)> {
    let mut own = Vec::new();
    for (name, value) in s.raw("headers") {
        match value.as_str().map(|value| (headers::check_own(&name, value), value)) {
            Some((Ok(()), value)) => own.push((name, SecretString::from(value))),
            Some((Err(what), _)) => s.problem_at(&["headers", &name], what, None),
            None => s.problem_at(&["headers", &name], "must be text", None),
        }
    }
    if own.len() > HEADERS_MAX {
        s.problem("headers", format!("must be at most {HEADERS_MAX}"), None);
    }
    own
}

fn terminal_statuses(s: &Section<'_, '_>) -> Vec<u16> {
    let rule = "statuses, 300 to 599 but for 410, which disables the endpoint";
    let status = |status: u64| u16::try_from(status).ok().filter(|n| (300..600).contains(n) && *n != 410);
    let listed = s.whole_numbers("terminal_statuses", rule).unwrap_or_default();
    let parsed: Option<Vec<u16>> = listed.into_iter().map(status).collect();
    parsed.unwrap_or_else(|| {
        s.problem("terminal_statuses", format!("must be a list of {rule}"), None);
        Vec::new()
    })
}

fn breaker(s: &Section<'_, '_>) -> BreakerRules {
    let usual = BreakerRules::default();
    let day = 86_400_000;
    BreakerRules {
        trip_after: s.integer_opt("failures", &(1..=1_000)).unwrap_or(usual.trip_after),
        pause_ms: s.integer_opt("pause_ms", &(1..=day)).unwrap_or(usual.pause_ms),
        pause_ms_max: s.integer_opt("pause_max_ms", &(1..=day)).unwrap_or(usual.pause_ms_max),
        disable_after_ms: s
            .integer_opt("disable_after_ms", &(1..=365 * day))
            .unwrap_or(usual.disable_after_ms),
    }
}
