//! A configuration as text: what is in force, and whether it can be used.

use super::provider::SchemeCheck;
use super::{Config, Sources, report};

/// Names of values that are never printed, wherever they stand.
const SECRET_NAMES: [&str; 5] = ["secret", "password", "token", "private_key", "signing_key"];

impl Config {
    /// Everything in force, as one TOML text that loads to the same. Of secrets it has only where they are
    /// kept.
    #[must_use]
    pub fn effective_toml(&self) -> String {
        // integers beyond i64 cannot come out of TOML, so this cannot fail
        toml::to_string(&self.effective).unwrap_or_default()
    }
}

/// Takes out of a tree what may be a secret.
pub(super) fn redact_all(table: &mut toml::Table) {
    table.iter_mut().for_each(|(_, value)| redact(value));
}

fn redact(value: &mut toml::Value) {
    match value {
        toml::Value::Table(table) => {
            for (key, value) in table.iter_mut() {
                if key == "headers" {
                    // of an egress: a value may be what the endpoint knows the node by
                    value
                        .as_table_mut()
                        .into_iter()
                        .flatten()
                        .for_each(|(_, value)| *value = "<redacted>".into());
                } else if SECRET_NAMES.contains(&key.as_str()) && value.is_str() {
                    *value = "<redacted>".into();
                } else {
                    redact(value);
                }
            }
        }
        toml::Value::Array(values) => values.iter_mut().for_each(redact),
        _ => {}
    }
}

/// What `ronctl config check` says.
///
/// # Errors
/// The report of every problem.
pub fn check_report(sources: &Sources, schemes: &dyn SchemeCheck) -> Result<String, String> {
    let config = Config::load(sources, schemes).map_err(|problems| report(&problems))?;
    let from = sources.file().map_or("built-in defaults".to_owned(), |path| path.display().to_string());
    let interop = &config.interop;
    let served = interop.providers.values().filter(|provider| provider.enabled).count();
    let delivered = interop.egress.values().filter(|egress| egress.enabled).count();
    let egress = match interop.egress.len() {
        0 => String::new(),
        all => format!(", {delivered} of {all} egress endpoints enabled"),
    };
    Ok(format!(
        "configuration ok: {from}, profile {}, amnesia {}, {served} of {} providers enabled{egress}\n",
        config.node.profile.label(),
        if config.node.amnesia { "on" } else { "off" },
        interop.providers.len(),
    ))
}
