//! What another configuration changes: which of it a running node can put in force, and which needs a restart.

use super::Config;
use std::collections::BTreeMap;
use toml::{Table, Value};

/// What a reload puts in force; a table stands for all that is in it. Secrets, the policy and the certificates are read
/// again, too, from wherever the configuration in force says they are.
const RELOADED: [&[&str]; 6] = [
    &["log", "level"],
    &["interop", "limits", "max_rps"],
    &["interop", "limits", "burst_rps"],
    &["interop", "limits", "body_limit"],
    &["interop", "providers"],
    &["interop", "schemes"],
];

/// The keys that another configuration changes, by their full names, sorted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// What a reload puts in force.
    pub applied: Vec<String>,
    /// What needs a restart, and is as it was until then.
    pub restart: Vec<String>,
}

impl Config {
    /// What `new` changes.
    #[must_use]
    pub fn changes(&self, new: &Config) -> Changes {
        let (old, new) = (leaves(&self.effective), leaves(&new.effective));
        let mut changes = Changes::default();
        let mut paths: Vec<&Vec<String>> = old.keys().chain(new.keys()).collect();
        paths.sort_unstable();
        paths.dedup();
        for path in paths.into_iter().filter(|path| old.get(*path) != new.get(*path)) {
            let list = if is_reloaded(path) { &mut changes.applied } else { &mut changes.restart };
            list.push(path.join("."));
        }
        changes
    }

    /// Takes over from `new` what a reload puts in force.
    pub fn adopt(&mut self, new: &Config) {
        self.log.level.clone_from(&new.log.level);
        let (limits, other) = (&mut self.interop.limits, &new.interop.limits);
        (limits.max_rps, limits.burst_rps, limits.body_limit) =
            (other.max_rps, other.burst_rps, other.body_limit);
        self.interop.providers.clone_from(&new.interop.providers);
        self.interop.schemes.clone_from(&new.interop.schemes);
        for path in RELOADED {
            let value = path.split_first().and_then(|(first, rest)| {
                rest.iter().try_fold(new.effective.get(*first)?, |value, key| value.get(key))
            });
            put(&mut self.effective, path, value.cloned());
        }
    }
}

fn is_reloaded(path: &[String]) -> bool {
    let begins = |prefix: &&[&str]| {
        prefix.len() <= path.len() && prefix.iter().zip(path).all(|(wanted, have)| wanted == have)
    };
    RELOADED.iter().any(begins)
}

/// All values below a table, by their paths. A list is one value.
fn leaves(table: &Table) -> BTreeMap<Vec<String>, &Value> {
    let mut all = BTreeMap::new();
    for (key, value) in table {
        match value {
            Value::Table(inner) => {
                for (mut path, value) in leaves(inner) {
                    path.insert(0, key.clone());
                    all.insert(path, value);
                }
            }
            value => {
                all.insert(vec![key.clone()], value);
            }
        }
    }
    all
}

fn put(table: &mut Table, path: &[&str], value: Option<Value>) {
    match (path, value) {
        ([], _) => {}
        ([last], Some(value)) => {
            table.insert((*last).to_owned(), value);
        }
        ([last], None) => {
            table.remove(*last);
        }
        ([first, rest @ ..], value) => {
            let inner = table.entry((*first).to_owned()).or_insert_with(|| Value::Table(Table::new()));
            if let Value::Table(inner) = inner {
                put(inner, rest, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{Config, NamesOnly, Sources};

    fn load(text: &str) -> Config {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ron.toml");
        std::fs::write(&file, text).unwrap();
        let env = [("S".to_owned(), "s".to_owned())].into();
        Config::load(&Sources { file: Some(file), env, ..Sources::default() }, &NamesOnly).unwrap()
    }

    const PROVIDER: &str = "[interop.providers.hub]\nscheme = \"github\"\ntenant = \"a\"\ntopic = \"t\"\n\
                            secrets = [{ kid = \"k1\", env = \"S\" }]\n";

    #[test]
    fn what_is_put_in_force_is_told_apart_from_what_needs_a_restart() {
        let mut old = load("[mailbox]\nmax_attempts = 3\n");
        let new = load(&format!(
            "[log]\nlevel = \"debug\"\nformat = \"pretty\"\n[interop.limits]\nmax_rps = 7\nmax_conns = 9\n\
             [mailbox]\nmax_attempts = 4\n{PROVIDER}"
        ));
        let changes = old.changes(&new);
        let of_hub =
            ["scheme", "secrets", "tenant", "topic"].map(|key| format!("interop.providers.hub.{key}"));
        let applied =
            ["interop.limits.max_rps".to_owned()].into_iter().chain(of_hub).chain(["log.level".into()]);
        assert_eq!(changes.applied, applied.collect::<Vec<_>>());
        assert_eq!(changes.restart, ["interop.limits.max_conns", "log.format", "mailbox.max_attempts"]);
        old.adopt(&new);
        assert_eq!((old.log.level.as_str(), old.interop.limits.max_rps), ("debug", 7));
        assert!(old.interop.limits.max_conns != 9 && old.interop.providers.len() == 1);
        // what was put in force is no change any more, and what was not still is one
        let again = old.changes(&new);
        assert!(again.applied.is_empty() && again.restart.len() == 3, "{again:?}");
        // a provider that is gone leaves nothing behind
        let bare =
            load("[mailbox]\nmax_attempts = 3\n[log]\nlevel = \"debug\"\n[interop.limits]\nmax_rps = 7\n");
        assert_eq!(old.changes(&bare).applied.len(), 4);
        old.adopt(&bare);
        assert_eq!(old.changes(&bare), super::Changes::default());
    }
}
