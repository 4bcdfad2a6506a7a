//! The form of an egress URL.

use super::Ssrf;
use std::net::{IpAddr, SocketAddr};
use url::Url;

/// Longest URL, in characters.
pub const URL_CHARS_MAX: usize = 2048;
/// Ports that need no permission.
const PORTS: [u16; 2] = [443, 8443];
/// Last labels of names that mean something only inside a network.
const INNER: [&str; 5] = ["localhost", "local", "internal", "localdomain", "home.arpa"];

/// What an operator allows beyond https on the usual ports.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UrlPolicy {
    /// Whether `http://` is allowed, and with it port 80.
    pub allow_http: bool,
    /// More ports.
    pub allow_ports: Vec<u16>,
}

/// The host of a URL, normalised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// An address, whatever its form was. IPv4 in the clothes of IPv6 stays IPv6 here.
    Ip(IpAddr),
    /// A name in ASCII (IDNA), lower case, without a final dot.
    Name(String),
}

/// Where an endpoint is: a URL that passed [`UrlPolicy`].
#[derive(Clone, PartialEq, Eq)]
pub struct Target {
    tls: bool,
    host: Host,
    port: u16,
    path: String,
}

/// Without path and query: they may be the endpoint's secret.
impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Target({})", self.origin())
    }
}

impl Target {
    /// Reads a URL. The address of a literal host is not judged yet: see [`super::AddressPolicy::judge`].
    ///
    /// # Errors
    /// [`Ssrf`], saying what is wrong with its form.
    pub fn parse(text: &str, policy: &UrlPolicy) -> Result<Target, Ssrf> {
        if text.chars().count() > URL_CHARS_MAX {
            return Err(Ssrf::new(format!("the URL is longer than {URL_CHARS_MAX} characters")));
        }
        // The parser would drop or turn these silently.
        if text.chars().any(|c| c.is_control() || c.is_whitespace() || c == '\\') {
            return Err(Ssrf::new("the URL holds white space, a control character or a backslash"));
        }
        let url = Url::parse(text).map_err(|error| Ssrf::new(format!("not a URL: {error}")))?;
        let tls = match url.scheme() {
            "https" => true,
            "http" if policy.allow_http => false,
            "http" => return Err(Ssrf::new("http is not encrypted: use https, or set allow_http")),
            _ => return Err(Ssrf::new("the URL must begin with https://")),
        };
        if authority(text).contains('@') {
            return Err(Ssrf::new("the URL holds a user name or password; send a header instead"));
        }
        if url.fragment().is_some() {
            return Err(Ssrf::new("the URL holds a fragment (#), which is never sent"));
        }
        let port = url.port_or_known_default().unwrap_or_default();
        let allowed = PORTS.contains(&port) || policy.allow_ports.contains(&port) || (!tls && port == 80);
        if !allowed {
            let text = format!("port {port} is none of 443 and 8443; list it in allow_ports if it is meant");
            return Err(Ssrf::new(text));
        }
        let host = match url.host() {
            Some(url::Host::Ipv4(ip)) => Host::Ip(ip.into()),
            Some(url::Host::Ipv6(ip)) => Host::Ip(ip.into()),
            Some(url::Host::Domain(name)) => Host::Name(inner_name(name)?),
            None => return Err(Ssrf::new("the URL has no host")),
        };
        let query = url.query().map(|query| format!("?{query}")).unwrap_or_default();
        Ok(Target { tls, host, port, path: format!("{}{query}", url.path()) })
    }

    /// Whether it is https.
    #[must_use]
    pub fn tls(&self) -> bool {
        self.tls
    }

    /// Its host.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Path and query, as they stand in a request. May hold a secret.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// What the `Host` header says: without the scheme's own port.
    #[must_use]
    pub fn authority(&self) -> String {
        let usual = if self.tls { 443 } else { 80 };
        match (&self.host, self.port == usual) {
            (Host::Ip(IpAddr::V6(ip)), true) => format!("[{ip}]"),
            (Host::Ip(ip), true) => ip.to_string(),
            (Host::Ip(ip), false) => SocketAddr::new(*ip, self.port).to_string(),
            (Host::Name(name), true) => name.clone(),
            (Host::Name(name), false) => format!("{name}:{}", self.port),
        }
    }

    /// Scheme, host and port, for logs.
    #[must_use]
    pub fn origin(&self) -> String {
        format!("{}://{}", if self.tls { "https" } else { "http" }, self.authority())
    }
}

/// What stands between `//` and the path as written: an empty user name is gone once it is parsed.
fn authority(text: &str) -> &str {
    let rest = text.split_once(':').map_or("", |(_, rest)| rest).trim_start_matches('/');
    rest.split(['/', '?', '#']).next().unwrap_or_default()
}

/// A name that means the same everywhere.
fn inner_name(name: &str) -> Result<String, Ssrf> {
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    let ends = |suffix: &&&str| {
        name.strip_suffix(**suffix).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    if name.is_empty() || name.split('.').any(str::is_empty) {
        return Err(Ssrf::new("the host has an empty label"));
    }
    if let Some(suffix) = INNER.iter().find(ends) {
        return Err(Ssrf::new(format!("names under `{suffix}` are not public")));
    }
    if !name.contains('.') {
        return Err(Ssrf::new("a host of one label is not public"));
    }
    Ok(name)
}
