//! Looks after the rotation of providers' secrets while the node lives: brings their states up to date, tells of those
//! that changed, and remembers what was seen over a restart.

use crate::config::Config;
use crate::providers::Providers;
use crate::schemes::Catalogue;
use ron_actors::audit::Audit;
use ron_actors::rotation_file::{self, Remembered};
use ron_core::audit::{Decision, Kind, OK};
use ron_core::ids::{Kid, ProviderName};
use ron_core::rotation::{Listed, Rotation, State, Window};
use ron_core::time::{Clock, Millis};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// The file of what was seen of secrets, in the data directory.
pub const ROTATIONS_FILE: &str = "rotations";

/// How often the last time at which a secret signed is written down, ms. Everything else is at once.
const MATCHES_EVERY_MS: u64 = 60_000;

/// See the module.
#[derive(Debug)]
pub struct Rotations {
    providers: Arc<Providers>,
    file: Option<PathBuf>,
    audit: Audit,
    clock: Arc<dyn Clock>,
    saved: Mutex<Saved>,
}

#[derive(Debug, Default)]
struct Saved {
    seen: Remembered,
    at: Millis,
    failing: bool,
}

/// What an earlier life of the process saw of secrets. A file that cannot be read is told of in `warnings`.
pub(crate) fn recall(file: Option<&Path>, warnings: &mut Vec<String>) -> Remembered {
    let Some(file) = file else { return Remembered::new() };
    rotation_file::load(file).unwrap_or_else(|error| {
        let what = format!("{}: {error}; since when secrets are listed is not known", file.display());
        tracing::warn!("{what}");
        warnings.push(what);
        Remembered::new()
    })
}

impl Rotations {
    /// Looks after these providers; `file` is `None` in amnesia.
    #[must_use]
    pub fn new(
        providers: Arc<Providers>,
        file: Option<PathBuf>,
        audit: Audit,
        clock: Arc<dyn Clock>,
    ) -> Arc<Rotations> {
        Arc::new(Rotations { providers, file, audit, clock, saved: Mutex::default() })
    }

    /// Brings all states up to date; what operators should know at once.
    pub fn tick(&self) -> Vec<String> {
        let wall = self.clock.wall();
        let mut urgent = Vec::new();
        let mut table: Vec<_> = self.providers.all().values().cloned().collect();
        table.sort_by(|a, b| a.rules.name().cmp(b.rules.name()));
        for served in table {
            let (changed, notices) = {
                let mut rotation = served.rotation();
                rotation.tick(wall);
                served.metrics.secrets(rotation.secrets());
                (rotation.changed(), rotation.notices(wall))
            };
            let name = served.rules.name();
            for (kid, state) in changed {
                tracing::info!(provider = %name, %kid, state = state.label(), "secret");
                self.record(name, &kid, op_of(state), None);
            }
            let notices = notices.into_iter().filter(|notice| notice.urgent);
            urgent.extend(notices.map(|notice| format!("provider {name}: {}", notice.text)));
        }
        urgent
    }

    /// Says in the audit log what became of a secret.
    pub(crate) fn record(&self, provider: &ProviderName, kid: &Kid, op: &'static str, version: Option<u64>) {
        let mut entry = self.audit.entry(Kind::Rotation, Decision::Done, OK);
        (entry.provider, entry.kid) = (Some(provider.clone()), Some(kid.clone()));
        (entry.more.op, entry.more.version) = (Some(op.into()), version);
        self.audit.record(entry);
    }

    /// Writes down what was seen, if it is time to. Blocks.
    pub fn save_if_due(&self) {
        self.save(false);
    }

    /// Writes down what was seen. Blocks.
    pub fn save_all(&self) {
        self.save(true);
    }

    fn save(&self, all: bool) {
        let Some(file) = &self.file else { return };
        let mut seen = Remembered::new();
        for (name, served) in self.providers.all().iter() {
            let of = served.rotation().seen().map(|(kid, seen)| (kid.to_string(), seen)).collect();
            seen.insert(name.clone(), of);
        }
        let now = self.clock.now();
        let mut saved = self.saved.lock().unwrap_or_else(PoisonError::into_inner);
        let due = all || now.since(saved.at) >= MATCHES_EVERY_MS;
        let same = match due {
            true => saved.seen == seen,
            false => without_last(&saved.seen) == without_last(&seen),
        };
        if same || (saved.failing && !due) {
            return;
        }
        saved.at = now;
        match rotation_file::save(file, &seen) {
            Ok(()) => (saved.seen, saved.failing) = (seen, false),
            Err(error) => {
                saved.failing = true;
                tracing::warn!(%error, file = %file.display(), "what was seen of secrets is not written down");
            }
        }
    }
}

/// All but what changes with every request.
fn without_last(seen: &Remembered) -> Remembered {
    let mut seen = seen.clone();
    seen.values_mut().flat_map(|kids| kids.values_mut()).for_each(|seen| seen.last_match = None);
    seen
}

const fn op_of(state: State) -> &'static str {
    match state {
        State::Pending => "secret.pending",
        State::Active => "secret.active",
        State::Dual => "secret.dual",
        State::Cutover => "secret.cutover",
        State::Retired => "secret.retired",
    }
}

/// What a start with this configuration would find: what operators should know of its secrets, and which requests the
/// changes since the last life of the process may lose. A reload would refuse those. Blocks.
#[must_use]
pub fn foresee(config: &Config, wall: Millis) -> Vec<String> {
    let file = (!config.node.amnesia).then(|| config.node.data_dir.join(ROTATIONS_FILE));
    let remembered = file.and_then(|file| rotation_file::load(&file).ok()).unwrap_or_default();
    let mut found = Vec::new();
    for (name, provider) in config.interop.providers.iter().filter(|(_, provider)| provider.enabled) {
        let Ok(rules) = Catalogue::rules(name, provider, &config.interop.schemes) else { continue };
        let (list, ttl_ms): (Vec<Listed>, _) = (rules.listed().collect(), rules.signed_ttl_ms());
        let known = remembered.get(name.as_str());
        let now = Rotation::begin(list.clone(), ttl_ms, known, wall);
        let notices = now.notices(wall).into_iter().map(|notice| notice.text);
        // of those that were listed only the names are known: that they were accepted is assumed
        let kids = known.into_iter().flat_map(|known| known.keys().filter_map(|kid| Kid::parse(kid).ok()));
        let window = |kid: &Kid| list.iter().find(|listed| listed.kid == *kid).map(|listed| listed.window);
        let before = kids.map(|kid| Listed { window: window(&kid).unwrap_or(Window::ALWAYS), kid });
        let before = Rotation::begin(before.collect(), ttl_ms, known, wall);
        let lost = before.review(&list, &[], ttl_ms, wall).into_iter().map(|finding| finding.text);
        found.extend(lost.chain(notices).map(|text| format!("provider {name}: {text}")));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Sources;
    use ron_core::rotation::Seen;
    use std::collections::BTreeMap;

    #[test]
    fn a_start_is_told_what_a_reload_would_refuse() {
        let dir = tempfile::tempdir().unwrap();
        let wall = Millis(1_795_000_000_000);
        let load = |secrets: &str| {
            let text = format!(
                "[node]\ndata_dir = {:?}\n[interop.providers.hub]\nscheme = \"stripe\"\ntenant = \"a\"\n\
                 topic = \"t\"\nsecrets = [{secrets}]\n",
                dir.path().display().to_string()
            );
            let file = dir.path().join("ron.toml");
            std::fs::write(&file, text).unwrap();
            let env = [("S".to_owned(), "whsec_c29tZXRoaW5n".to_owned())].into();
            Config::load(&Sources { file: Some(file), env, ..Sources::default() }, &Catalogue).unwrap()
        };
        let both = load("{ kid = \"old\", env = \"S\" }, { kid = \"new\", env = \"S\" }");
        let only_new = load("{ kid = \"new\", env = \"S\" }");
        assert_eq!(foresee(&only_new, wall), [""; 0], "what nobody saw nobody misses");
        let old = Seen { last_match: Some(wall), first_match: Some(wall), ..Seen::default() };
        let new = Seen { first_listed: Some(wall), ..Seen::default() };
        let kids = BTreeMap::from([("old".to_owned(), old), ("new".to_owned(), new)]);
        let file = dir.path().join(ROTATIONS_FILE);
        rotation_file::save(&file, &Remembered::from([("hub".to_owned(), kids)])).unwrap();
        let found = foresee(&only_new, wall.plus(1));
        assert!(found[0].contains("provider hub: kid old would be gone now"), "{found:?}");
        assert_eq!(foresee(&both, wall.plus(1)), [""; 0]);
        let over = load("{ kid = \"new\", env = \"S\", not_after = \"2020-01-01T00:00:00Z\" }");
        let found = foresee(&over, wall).join("; ");
        assert!(
            found.contains("no secret would be accepted") && found.contains("no secret is accepted"),
            "{found}"
        );
    }
}
