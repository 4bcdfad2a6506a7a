//! Keeps the listeners' identities as their files say: when a directory says that one changed, and on SIGHUP.
//!
//! A pair that is broken changes nothing: the old one stays in force, is warned of once in the log, and in readiness
//! until the files are right again.

use super::handshake::{Alpn, Handshakes};
use super::identity::{BadTls, Identity};
use crate::config::{Config, Tls};
use crate::metrics::Metrics;
use ron_core::time::Millis;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What HTTP listeners offer; OAP/1 has no name of its own and offers none.
const HTTP: Alpn = &[b"h2", b"http/1.1"];

/// Listeners by name, and what each offers.
type Listeners = &'static [(&'static str, Alpn)];

/// See the module.
#[derive(Debug)]
pub struct TlsKeeper {
    tables: Vec<Table>,
    metrics: Arc<Metrics>,
}

/// A `tls` table of the configuration, and who serves by it.
#[derive(Debug)]
struct Table {
    name: &'static str,
    files: Tls,
    doors: BTreeMap<&'static str, Arc<Handshakes>>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    in_force: Identity,
    /// Why the files are not in force.
    broken: Option<BadTls>,
}

impl TlsKeeper {
    /// The identities of all listeners that are to have one.
    ///
    /// # Errors
    /// What is wrong, with the whole name of the key.
    pub fn load(config: &Config, metrics: &Arc<Metrics>) -> Result<TlsKeeper, String> {
        let (interop, mailbox) = (&config.interop, &config.mailbox);
        let tables: [(&'static str, &Option<Tls>, Listeners); 4] = [
            ("interop.tls", &interop.tls, &[("interop", HTTP)]),
            ("interop.metrics_tls", &interop.metrics_tls, &[("interop_admin", HTTP)]),
            ("mailbox.tls", &mailbox.tls, &[("mailbox", HTTP), ("oap", &[])]),
            ("mailbox.metrics_tls", &mailbox.metrics_tls, &[("mailbox_admin", HTTP)]),
        ];
        let mut loaded = Vec::new();
        for (name, files, listeners) in tables {
            let Some(files) = files else { continue };
            let in_force = Identity::load(files).map_err(|bad| format!("{name}.{bad}"))?;
            let mut doors = BTreeMap::new();
            for &(listener, alpn) in listeners {
                let door = Handshakes::new(listener, alpn, &in_force, metrics.clone());
                doors.insert(listener, Arc::new(door.map_err(|error| format!("{name}: {error}"))?));
            }
            say(name, &in_force, metrics);
            let state = Mutex::new(State { in_force, broken: None });
            loaded.push(Table { name, files: files.clone(), doors, state });
        }
        Ok(TlsKeeper { tables: loaded, metrics: metrics.clone() })
    }

    /// How a listener shakes hands; `None` if it is served in plain text.
    #[must_use]
    pub fn of(&self, listener: &str) -> Option<Arc<Handshakes>> {
        self.tables.iter().find_map(|table| table.doors.get(listener)).cloned()
    }

    /// The listeners that are served inside TLS, sorted.
    #[must_use]
    pub fn listeners(&self) -> Vec<&'static str> {
        let mut all: Vec<_> = self.tables.iter().flat_map(|table| table.doors.keys().copied()).collect();
        all.sort_unstable();
        all
    }

    /// All files, to be watched.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        let of = |table: &Table| {
            let Tls { cert, key, client_ca } = table.files.clone();
            [Some(cert), Some(key), client_ca].into_iter().flatten().collect::<Vec<_>>()
        };
        self.tables.iter().flat_map(of).collect()
    }

    /// Reads all files again; what has changed is in force for all connections that come afterwards.
    pub fn reload(&self) {
        self.tables.iter().for_each(|table| table.reload(&self.metrics));
    }

    /// What an operator should know: files that are not in force, and certificates that end.
    #[must_use]
    pub fn findings(&self, wall: Millis) -> Vec<String> {
        self.tables.iter().flat_map(|table| table.findings(wall)).collect()
    }
}

impl Table {
    fn state(&self) -> MutexGuard<'_, State> {
        // it is written by single assignments alone
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reload(&self, metrics: &Metrics) {
        let mut state = self.state();
        let loaded = Identity::load(&self.files).and_then(|new| {
            if new.id != state.in_force.id {
                self.put_in_force(&new)?;
            }
            Ok(new)
        });
        match loaded {
            Ok(new) => {
                let changed = new.id != state.in_force.id;
                if changed || state.broken.take().is_some() {
                    say(self.name, &new, metrics);
                }
                *state = State { in_force: new, broken: None };
            }
            Err(bad) if state.broken.as_ref() == Some(&bad) => {}
            Err(bad) => {
                tracing::warn!(
                    problem = format!("{}.{bad}", self.name),
                    "certificate not reloaded: the old one stays in force"
                );
                state.broken = Some(bad);
            }
        }
    }

    fn put_in_force(&self, new: &Identity) -> Result<(), BadTls> {
        let refused = |error: rustls::Error| BadTls { key: "cert", text: error.to_string(), hint: None };
        self.doors.values().try_for_each(|door| door.replace(new)).map_err(refused)
    }

    fn findings(&self, wall: Millis) -> Vec<String> {
        let state = self.state();
        let broken = state.broken.as_ref();
        let broken =
            broken.map(|bad| format!("{}.{bad}; the certificate in force is an older one", self.name));
        let ends = state.in_force.warning(wall).map(|what| format!("{}.cert: {what}", self.name));
        broken.into_iter().chain(ends).collect()
    }
}

fn say(table: &str, identity: &Identity, metrics: &Metrics) {
    let until = identity.valid.map(|(_, until)| until);
    metrics.mailbox.certificate_ends(table, until.map_or(0, |until| until.0 / 1000));
    let until = until.map(Millis::rfc3339);
    tracing::info!(table, until, "certificate in force");
}
