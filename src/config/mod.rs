//! The configuration: built-in defaults, then a file, then the environment (SPEC §2).
//!
//! [`Config::load`] finds every problem, not just the first, and says where each comes from. Boot and
//! `ronctl config check` call the same function. Secrets are fetched here and shown nowhere.

mod audit;
mod auth;
mod changes;
mod chaos;
mod dev;
mod egress;
mod interop;
mod layers;
mod listener;
mod log;
mod mailbox;
mod metrics;
mod node;
mod policy;
mod print;
mod problem;
mod provider;
mod read;
mod store;
mod units;

pub use self::metrics::MetricsConfig;
pub use audit::AuditConfig;
pub use auth::{AuthConfig, KeyringAt};
pub use changes::Changes;
pub use chaos::ChaosConfig;
pub use dev::{DevSecret, add_dev_secrets};
pub use egress::Egress;
pub use interop::{Brownout, Decompression, InteropConfig, Limits};
pub use layers::{DEFAULT, Sources};
pub use listener::Tls;
pub use log::{LogConfig, LogFormat};
pub use mailbox::{Admission, MailboxConfig};
pub use node::{ClockConfig, NodeConfig, Profile};
pub use policy::PolicyConfig;
pub use print::check_report;
pub use problem::{Problem, report};
pub use provider::{NamesOnly, Provider, ProviderLimits, SchemeCheck, Secret};
pub use store::StoreConfig;
pub use units::{ByteSize, parse_duration, show_duration};

use layers::Layers;
use provider::ProviderReader;
use read::{Reading, Section, to_toml};
use std::net::SocketAddr;
use std::path::PathBuf;

/// A whole configuration without problems.
#[derive(Debug, Clone)]
pub struct Config {
    /// `[node]`.
    pub node: NodeConfig,
    /// `[clock]`.
    pub clock: ClockConfig,
    /// `[interop]`.
    pub interop: InteropConfig,
    /// `[mailbox]`.
    pub mailbox: MailboxConfig,
    /// `[auth]`.
    pub auth: AuthConfig,
    /// `[policy]`.
    pub policy: PolicyConfig,
    /// `[log]`.
    pub log: LogConfig,
    /// `[store]`.
    pub store: StoreConfig,
    /// `[metrics]`.
    pub metrics: MetricsConfig,
    /// `[audit]`.
    pub audit: AuditConfig,
    /// `[chaos]`.
    pub chaos: ChaosConfig,
    /// Whether `--dev` was given and nobody said where the data should be: the shell then makes a fresh
    /// temporary directory and calls [`Config::set_data_dir`].
    pub wants_temporary_data_dir: bool,
    effective: toml::Table,
}

impl Config {
    /// Reads and checks everything, secrets included.
    ///
    /// # Errors
    /// Every problem there is.
    pub fn load(sources: &Sources, schemes: &dyn SchemeCheck) -> Result<Config, Vec<Problem>> {
        let mut problems = Vec::new();
        let layers = Layers::read(sources, &mut problems);
        let root = layers.root();
        let own_schemes = root.get("interop").and_then(|value| value.find_ref("schemes")).map(to_toml);
        let own_schemes = own_schemes.and_then(|value| value.as_table().cloned()).unwrap_or_default();
        let reader = ProviderReader { env: &sources.env, check: schemes, own_schemes: &own_schemes };

        let reading = Reading::new(&layers, problems);
        let mut config = reading.root(&root, |s| {
            let mut config = read(s, &reader);
            check_whole(s, sources, &config, schemes);
            let built_in =
                s.origin_at(&["node", "data_dir"]).is_some_and(|place| place.starts_with("built-in"));
            config.wants_temporary_data_dir = sources.dev && built_in && !config.node.amnesia;
            config
        });
        if let toml::Value::Table(mut table) = to_toml(&root.clone().into()) {
            reading.put_types(&mut table);
            print::redact_all(&mut table);
            config.effective = table;
        }
        let problems = reading.finish();
        if problems.is_empty() { Ok(config) } else { Err(problems) }
    }

    /// Puts the data somewhere else than the configuration says.
    pub fn set_data_dir(&mut self, dir: PathBuf) {
        let old = self.node.data_dir.join("keyring");
        if self.auth.keyring == KeyringAt::File(old) {
            self.auth.keyring = KeyringAt::File(dir.join("keyring"));
        }
        self.node.data_dir = dir;
        self.wants_temporary_data_dir = false;
    }
}

fn read(s: &Section<'_, '_>, reader: &ProviderReader<'_>) -> Config {
    let node = s.table("node", NodeConfig::read);
    let mut auth = s.table("auth", |s| AuthConfig::read(s, node.amnesia));
    if auth.keyring == KeyringAt::Memory && !node.amnesia {
        auth.keyring = KeyringAt::File(node.data_dir.join("keyring"));
    }
    let store = s.table("store", |s| StoreConfig::read(s, node.amnesia));
    let mut interop = s.table("interop", |s| InteropConfig::read(s, reader));
    interop.egress = egress::merge(s, std::mem::take(&mut interop.egress), egress::endpoints(s, reader));
    Config {
        node,
        clock: s.table("clock", ClockConfig::read),
        interop,
        mailbox: s.table("mailbox", MailboxConfig::read),
        auth,
        policy: s.table("policy", PolicyConfig::read),
        log: s.table("log", LogConfig::read),
        store,
        metrics: s.table("metrics", MetricsConfig::read),
        audit: s.table("audit", AuditConfig::read),
        chaos: s.table("chaos", ChaosConfig::read),
        wants_temporary_data_dir: false,
        effective: toml::Table::new(),
    }
}

/// What no section can judge alone.
fn check_whole(s: &Section<'_, '_>, sources: &Sources, config: &Config, schemes: &dyn SchemeCheck) {
    for (name, text) in &config.interop.schemes {
        if let Err(what) = schemes.scheme(name, text) {
            s.problem_at(&["interop", "schemes", name], what, None);
        }
    }
    let listeners = [
        (["interop", "bind_addr"], config.interop.bind_addr),
        (["interop", "metrics_addr"], config.interop.metrics_addr),
        (["mailbox", "listen"], config.mailbox.listen),
        (["mailbox", "oap_listen"], config.mailbox.oap_listen),
        (["mailbox", "metrics_addr"], config.mailbox.metrics_addr),
    ];
    for (at, (path, addr)) in listeners.iter().enumerate() {
        if sources.dev && !addr.ip().is_loopback() {
            let hint = "use 127.0.0.1 or [::1]".to_owned();
            s.problem_at(path, "must be a loopback address with --dev", Some(hint));
        }
        let taken = listeners[..at].iter().find(|(_, other)| clash(*addr, *other));
        if let Some((other, _)) = taken {
            s.problem_at(path, format!("takes the port of {}", other.join(".")), None);
        }
    }
}

fn clash(one: SocketAddr, other: SocketAddr) -> bool {
    let overlap = one.ip() == other.ip() || one.ip().is_unspecified() || other.ip().is_unspecified();
    // 0 = any free port
    one.port() != 0 && one.port() == other.port() && overlap
}

#[cfg(test)]
mod tests;
