//! `ronctl status`: what the node says of itself.

use crate::client::Client;
use crate::control;
use crate::failure::Failure;
use crate::output::Output;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// The node's own account (`GET /ctl/status`), as far as ronctl reads it; `--json` passes the whole of it on.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Status {
    /// Whether every listener and service works.
    pub(crate) ready: bool,
    /// What is not there, by name.
    #[serde(default)]
    pub(crate) missing: Vec<String>,
    /// Topics and providers that crashed too often.
    #[serde(default)]
    pub(crate) quarantined: Vec<Value>,
    /// What an operator should know of, though it is ready.
    #[serde(default)]
    pub(crate) warn: Vec<String>,
    /// Build.
    pub(crate) version: String,
    /// `macronode` or `micronode`.
    #[serde(default)]
    pub(crate) profile: String,
    /// RAM only.
    #[serde(default)]
    pub(crate) amnesia: bool,
    /// The process.
    pub(crate) pid: u32,
    /// Since its start.
    pub(crate) uptime_ms: u64,
    /// Listener → `IP:PORT`.
    pub(crate) addresses: BTreeMap<String, Option<String>>,
    /// How many topics it keeps.
    #[serde(default)]
    pub(crate) topics: Value,
    /// The store's figures.
    #[serde(default)]
    pub(crate) store: BTreeMap<String, Value>,
}

impl Status {
    /// The address of a listener, if it is served.
    #[must_use]
    pub(crate) fn address(&self, listener: &str) -> Option<&str> {
        self.addresses.get(listener)?.as_deref()
    }
}

/// Runs `ronctl status`.
///
/// # Errors
/// [`Failure::Unreachable`] if no node answers. A node that answers but is not ready is no error.
pub(crate) async fn run(mut client: Client, out: Output) -> Result<(), Failure> {
    if out.json {
        return out.value(&control::status::<Value>(&mut client).await?);
    }
    let status: Status = control::status(&mut client).await?;
    let yes_no = |yes: bool| if yes { "yes" } else { "no" }.to_owned();
    let mut pairs = vec![
        ("ready", yes_no(status.ready)),
        ("version", status.version.clone()),
        ("profile", status.profile.clone()),
        ("amnesia", yes_no(status.amnesia)),
        ("pid", status.pid.to_string()),
        ("up", uptime(status.uptime_ms)),
        ("topics", plain(&status.topics)),
    ];
    if !status.missing.is_empty() {
        pairs.insert(1, ("missing", status.missing.join(", ")));
    }
    pairs.extend(status.warn.iter().map(|warning| ("warning", warning.clone())));
    if !status.quarantined.is_empty() {
        let names: Vec<String> = status.quarantined.iter().map(plain).collect();
        pairs.push(("quarantined", names.join(", ")));
    }
    let addresses = status.addresses.iter().map(|(name, at)| (name.as_str(), at.as_deref().unwrap_or("-")));
    pairs.extend(addresses.map(|(name, at)| (name, at.to_owned())));
    let store: Vec<String> =
        status.store.iter().map(|(name, value)| format!("{name}={}", plain(value))).collect();
    pairs.push(("store", store.join(" ")));
    out.pairs(&pairs)
}

/// A JSON value without the quotes of a string.
fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// `3d 4h`, `4h 5m`, `5m 6s` or `6s`.
pub(crate) fn uptime(ms: u64) -> String {
    let seconds = ms / 1000;
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m {}s", seconds % 60),
        (0, _, _) => format!("{hours}h {minutes}m"),
        _ => format!("{days}d {hours}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uptime_has_two_units_at_most() {
        let cases = [(999, "0s"), (61_000, "1m 1s"), (3_600_000, "1h 0m"), (90_061_000, "1d 1h")];
        for (ms, text) in cases {
            assert_eq!(uptime(ms), text);
        }
    }
}
