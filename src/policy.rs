//! The policy's file: read at boot, on SIGHUP, for `ronctl policy reload`, and when its directory says that it changed.
//!
//! A file with a problem changes nothing and is told with its lines. Nothing is written, and no request waits for any
//! of it: what is in force is swapped whole.

use crate::http::readiness::Readiness;
use crate::metrics::Metrics;
use ron_actors::audit::Audit;
use ron_actors::kernel::bus::Bus;
use ron_actors::kernel::event::Event;
use ron_actors::mailbox::Directory;
use ron_actors::policy::{Current, InForce};
use ron_core::audit::{Decision, Kind, OK};
use ron_core::ids::ContentHash;
use ron_core::policy::{Action, PRESET_TTL_MS_MAX, Policy, Problem, Quotas, TEXT_BYTES_MAX, UNLIMITED};
use ron_core::reason::{Reason, Refusal};
use ron_core::time::Clock;
use serde_json::{Value, json};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const WARNING: &str = "policy.file: the policy in force is an older one, see `ronctl policy check`";

/// The warning of a node whose policy's file is named, and not there at boot.
#[must_use]
pub fn no_policy(file: &Path) -> String {
    format!("policy.file: there is no {}; capabilities alone decide", file.display())
}

/// Why a policy's file is not put in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadPolicy {
    /// The file.
    pub file: PathBuf,
    /// Everything that is wrong.
    pub problems: Vec<Problem>,
}

impl std::fmt::Display for BadPolicy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let file = self.file.display();
        let line = |problem: &Problem| match problem.line {
            0 => format!("{file}: {}", problem.text),
            _ => format!("{file}:{problem}"),
        };
        f.write_str(&self.problems.iter().map(line).collect::<Vec<_>>().join("; "))
    }
}

impl std::error::Error for BadPolicy {}

/// A policy and the content address of its text.
pub type Checked = (Policy, Arc<str>);

/// Reads and checks a policy's file.
///
/// # Errors
/// Every problem, with its line; line 0 if the file cannot be read.
pub fn read_policy(file: &Path) -> Result<Checked, BadPolicy> {
    let bad = |problems| BadPolicy { file: file.to_owned(), problems };
    let unreadable = |error: std::io::Error| {
        let text = format!("cannot be read: {error}");
        bad(vec![Problem { line: 0, key: String::new(), text, hint: None }])
    };
    let mut text = String::new();
    // One byte more than allowed shows that it is too long.
    let most = TEXT_BYTES_MAX as u64 + 1;
    let opened = std::fs::File::open(file).map_err(unreadable)?;
    opened.take(most).read_to_string(&mut text).map_err(unreadable)?;
    let id = ContentHash::of(text.as_bytes()).to_string();
    Ok((Policy::parse(&text).map_err(bad)?, id.into()))
}

/// Keeps the policy in force as its file says.
#[derive(Debug)]
pub struct PolicyKeeper {
    /// What is in force.
    pub in_force: InForce,
    /// Where it is read from.
    pub file: Option<PathBuf>,
    /// Whose tenants' quotas change with it.
    pub directory: Arc<Directory>,
    /// Is told.
    pub bus: Bus,
    /// Counts the version.
    pub metrics: Arc<Metrics>,
    /// Node time.
    pub clock: Arc<dyn Clock>,
    /// Warns while the file is not what is in force.
    pub readiness: Arc<Readiness>,
    /// Is told what is in force, and which files were refused.
    pub audit: Audit,
}

impl PolicyKeeper {
    /// Reads the file again and puts it in force, changed or not.
    ///
    /// # Errors
    /// MALFORMED with every problem; the old policy stays.
    pub fn reload(&self) -> Result<Arc<Current>, Refusal> {
        self.read(true).map(|_| self.in_force.current())
    }

    /// As [`PolicyKeeper::reload`], if the text is another one.
    pub fn reload_if_changed(&self) {
        // What is wrong has been logged, and there is nobody else to tell.
        let _ = self.read(false);
    }

    /// As [`PolicyKeeper::reload`], unless there has never been a file.
    pub fn reload_by_signal(&self) {
        let had_one = self.in_force.peek().policy.revision() > 0;
        if had_one || self.file.as_ref().is_some_and(|file| file.exists()) {
            // What is wrong has been logged, and the old one stays.
            let _ = self.read(true);
        }
    }

    fn read(&self, always: bool) -> Result<(), Refusal> {
        let Some(file) = &self.file else {
            return Err(Refusal::new(Reason::Malformed, "policy.file: none is configured"));
        };
        let read = read_policy(file);
        self.readiness.withdraw_warning(WARNING);
        let (policy, id) = read.map_err(|bad| {
            tracing::error!(problems = %bad, "policy not reloaded: the old one stays in force");
            let entry = self.audit.entry(Kind::Policy, Decision::Failed, Reason::Malformed.code());
            self.audit.record(entry.detail(&bad.to_string()));
            if self.in_force.peek().policy.revision() > 0 || file.exists() {
                self.readiness.warn(WARNING.to_owned());
            }
            Refusal::new(Reason::Malformed, bad.to_string())
        })?;
        self.readiness.withdraw_warning(&no_policy(file));
        if always || id != self.in_force.peek().id {
            self.announce(&self.in_force.replace(policy, id));
        }
        Ok(())
    }

    /// Relaxes the policy by a preset.
    ///
    /// # Errors
    /// NOT_FOUND for an unknown preset, MALFORMED for a time out of range.
    pub fn apply(&self, preset: &str, ttl_ms: u64) -> Result<Arc<Current>, Refusal> {
        if !(1..=PRESET_TTL_MS_MAX).contains(&ttl_ms) {
            return Err(Refusal::new(Reason::Malformed, "ttl_ms: must be 1 to 86400000 (24h)"));
        }
        let current = self.in_force.apply(preset, self.clock.now().plus(ttl_ms))?;
        self.announce(&current);
        Ok(current)
    }

    /// Ends a preset whose time is over.
    pub fn expire(&self) {
        if let Some(current) = self.in_force.expire(self.clock.now()) {
            self.announce(&current);
        }
    }

    /// Tells everyone what is in force.
    pub fn announce(&self, current: &Current) {
        self.directory.refresh_quotas();
        self.metrics.mailbox.policy_version.set(current.version as f64);
        self.bus.publish(Event::PolicyChanged { version: current.version, id: current.id.clone() });
        let preset = current.preset.as_ref().map(|applied| &*applied.name);
        let mut entry = self.audit.entry(Kind::Policy, Decision::Done, OK);
        entry.more.version = Some(current.version);
        let relaxed = preset.map(|preset| format!(", relaxed by {preset}")).unwrap_or_default();
        self.audit.record(entry.detail(&format!("{}{relaxed}", current.id)));
        tracing::info!(version = current.version, id = &*current.id, preset, "policy in force");
    }

    /// As `ronctl policy show` prints it.
    #[must_use]
    pub fn show(&self) -> Value {
        let current = self.in_force.current();
        let policy = &current.policy;
        let now = self.clock.now();
        let preset = current.preset.as_ref();
        let tenant = |(tenant, _): (&ron_core::ids::Tenant, Quotas)| {
            (tenant.to_string(), show_quotas(&current.quotas(tenant)))
        };
        json!({
            "version": current.version,
            "id": &*current.id,
            "file": self.file.as_ref().map(|file| file.display().to_string()),
            "revision": policy.revision(),
            "default": match policy.default_action() { Action::Allow => "allow", Action::Deny => "deny" },
            "rules": policy.rules(),
            "preset": preset.map(|applied| json!({
                "name": &*applied.name, "ends_in_ms": applied.until.since(now),
            })),
            "presets": policy.presets().map(|(name, _)| name).collect::<Vec<_>>(),
            "tenants": policy.tenants().map(tenant).collect::<serde_json::Map<_, _>>(),
        })
    }
}

/// `null` = no limit.
fn show_quotas(quotas: &Quotas) -> Value {
    let limit = |most: u64| (most != UNLIMITED).then_some(most);
    json!({
        "rps": limit(quotas.rps),
        "burst": limit(quotas.burst),
        "bytes_per_s": limit(quotas.bytes_per_s),
        "max_inflight": limit(quotas.max_inflight),
        "max_depth": limit(quotas.max_depth),
        "max_topics": limit(quotas.max_topics),
        "weight": quotas.weight,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_named_with_all_its_lines() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("policy.toml");
        let gone = read_policy(&file).unwrap_err().to_string();
        assert!(gone.contains("policy.toml: cannot be read"), "{gone}");
        std::fs::write(&file, "version = 1\nfoo = 1\n[tenant.a]\nrps = 0\n").unwrap();
        let bad = read_policy(&file).unwrap_err().to_string();
        assert!(
            bad.contains("policy.toml:2: foo: unknown key") && bad.contains("policy.toml:4: tenant.a.rps")
        );
        std::fs::write(&file, "version = 3\n").unwrap();
        let (policy, id) = read_policy(&file).unwrap();
        assert!(policy.revision() == 3 && id.starts_with("b3:"));
    }
}
