//! A reload: reads everything again, and puts in force what can be without a restart, all of it or nothing.
//!
//! What is wrong is found before anything is changed: the configuration, the certificates, the policy's file, and
//! secrets whose change would have requests refused that were signed in good faith.

use crate::audit::Act;
use crate::config::{Changes, Config, Provider, Sources};
use crate::http::reload::{Ask, Asked};
use crate::node::Node;
use crate::policy::read_policy;
use crate::providers::{Moved, Ready, ready, replaced};
use crate::schemes::Catalogue;
use crate::telemetry::LogLevel;
use ron_actors::kernel::event::Event;
use ron_core::audit::{Decision, Kind, OK};
use ron_core::ids::{Kid, ProviderName};
use ron_core::reason::{Reason, Refusal};
use ron_core::rotation::Listed;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::num::NonZeroU32;

/// What a reload needs beside the node.
#[derive(Debug)]
pub(crate) struct Reloading {
    sources: Sources,
    log: LogLevel,
    version: u64,
}

/// What became of one secret.
struct Secret {
    provider: ProviderName,
    kid: Kid,
    op: &'static str,
}

impl Reloading {
    /// Reads from where the node was started from; the configuration of the start is version 1.
    pub(crate) fn new(sources: Sources, log: LogLevel) -> Reloading {
        Reloading { sources, log, version: 1 }
    }

    /// By SIGHUP: an act like an operator's others, although the signal does not say whose.
    pub(crate) async fn by_signal(&mut self, node: &mut Node) {
        let version = self.version + 1;
        let mut entry = node.audit.entry(Kind::Config, Decision::Allow, OK).detail("SIGHUP");
        (entry.more.op, entry.more.version) = (Some("config.reload".into()), Some(version));
        let act = match Act::begin(&node.audit, entry).await {
            Ok(act) => act,
            Err(refusal) => return tracing::error!(%refusal, "nothing is reloaded"),
        };
        let reloaded = self.reload(node, Ask::default()).await;
        if let Err(refusal) = act.end(reloaded).await {
            tracing::warn!(%refusal, "reload");
        }
    }

    /// By `ronctl`; whoever serves its socket writes it down.
    pub(crate) async fn by_operator(&mut self, node: &mut Node, asked: Asked) {
        let Asked { ask, peer, reply } = asked;
        tracing::info!(?peer, force = ask.force, "reload asked for");
        // who asked may be gone: it is done all the same, and in the log
        let _ = reply.send(self.reload(node, ask).await);
    }

    async fn reload(&mut self, node: &mut Node, ask: Ask) -> Result<Value, Refusal> {
        let result = self.apply(node, ask).await;
        if let Err(refusal) = &result {
            tracing::error!(problems = &*refusal.text, "configuration not reloaded: it has problems");
        }
        // each looks after itself: its broken files change nothing, and stay a warning
        if result.is_ok() {
            node.policy.reload_by_signal();
        }
        node.tls.reload();
        result
    }

    /// Finds what is wrong, then puts in force what can be.
    async fn apply(&mut self, node: &mut Node, Ask { force }: Ask) -> Result<Value, Refusal> {
        let new = Config::load(&self.sources, &Catalogue)
            .map_err(|problems| refused(problems.iter().map(ToString::to_string).collect()))?;
        let ready = ready(&new).map_err(|error| refused(vec![error.to_string()]))?;
        let replaced = replaced_by(&node.config, &new);
        let mut problems = policy_problems(node);
        let lost = review(node, &ready, &replaced);
        if !force {
            problems.extend(lost.iter().cloned());
        }
        if !problems.is_empty() {
            return Err(refused(problems));
        }
        let changes = node.config.changes(&new);
        let secrets = secrets_of(node, &ready, &replaced);
        let of = |n: u32| NonZeroU32::new(n).unwrap_or(NonZeroU32::MIN);
        let (limits, old) = (new.interop.limits, node.config.interop.limits);
        if (limits.max_rps, limits.burst_rps) != (old.max_rps, old.burst_rps) {
            node.rate.reload(of(limits.max_rps), of(limits.burst_rps));
        }
        if let Err(error) = self.log.set(&new.log.level) {
            tracing::warn!(error, "log.level not changed");
        }
        let wall = node.clock.wall();
        let with = (node.verifiers(), &node.passport);
        let gone: Vec<&Secret> = secrets.iter().filter(|secret| secret.op == "secret.removed").collect();
        for Secret { provider, kid, .. } in gone {
            if let Some(served) = node.providers.get(provider.as_str()) {
                served.metrics.secret_removed(kid.as_str());
            }
        }
        let moved = node.providers.put(&new, &node.metrics, ready, &replaced, with, wall).await;
        node.config.adopt(&new);
        self.version += 1;
        node.tree.bus.publish(Event::ConfigUpdated { version: self.version });
        for Secret { provider, kid, op } in &secrets {
            node.rotations.record(provider, kid, op, Some(self.version));
        }
        for (names, op) in [(&moved.added, "provider.added"), (&moved.removed, "provider.removed")] {
            for name in names {
                let mut entry = node.audit.entry(Kind::Config, Decision::Done, OK);
                entry.provider = ProviderName::parse(name).ok();
                (entry.more.op, entry.more.version) = (Some(op.into()), Some(self.version));
                node.audit.record(entry);
            }
        }
        self.say(&changes, &moved, &secrets, &lost);
        let forced = if force { lost } else { Vec::new() };
        Ok(report(self.version, &changes, &moved, &secrets, &forced))
    }

    fn say(&self, changes: &Changes, moved: &Moved, secrets: &[Secret], lost: &[String]) {
        if !lost.is_empty() {
            tracing::warn!(lost = lost.join("; "), "reloaded by force: requests may be refused for it");
        }
        let none = |list: &[String]| if list.is_empty() { "nothing".to_owned() } else { list.join(", ") };
        let secrets: Vec<String> =
            secrets.iter().map(|Secret { provider, kid, op }| format!("{provider}/{kid} {op}")).collect();
        tracing::info!(
            version = self.version,
            applied = none(&changes.applied),
            restart = none(&changes.restart),
            providers_added = none(&moved.added),
            providers_removed = none(&moved.removed),
            secrets = none(&secrets),
            "configuration reloaded"
        );
        if !moved.down.is_empty() {
            tracing::warn!(providers = moved.down.join(", "), "verifiers that did not start are tried again");
        }
    }
}

fn refused(problems: Vec<String>) -> Refusal {
    Refusal::new(Reason::Malformed, problems.join("\n")).without_effect()
}

/// What is wrong with the policy's file, if there is one.
fn policy_problems(node: &Node) -> Vec<String> {
    let file = node.policy.file.as_ref().filter(|file| file.exists());
    file.and_then(|file| read_policy(file).err()).map(|bad| bad.to_string()).into_iter().collect()
}

fn replaced_by(old: &Config, new: &Config) -> BTreeMap<String, Vec<Kid>> {
    let of = |(name, provider): (&ProviderName, &Provider)| {
        let before = old.interop.providers.get(name)?;
        Some((name.to_string(), replaced(before, provider))).filter(|(_, kids)| !kids.is_empty())
    };
    new.interop.providers.iter().filter_map(of).collect()
}

/// The requests that would be lost by what changes of the secrets. A provider that is taken out is meant to be.
fn review(node: &Node, ready: &[Ready], replaced: &BTreeMap<String, Vec<Kid>>) -> Vec<String> {
    let wall = node.clock.wall();
    let mut lost = Vec::new();
    for new in ready {
        let Some(served) = node.providers.get(new.name.as_str()) else { continue };
        let replaced = replaced.get(new.name.as_str()).map_or(&[][..], Vec::as_slice);
        let findings = served.rotation().review(&new.listed(), replaced, new.rules.signed_ttl_ms(), wall);
        let text = |text: String| {
            format!("interop.providers.{}.secrets: {text}; --force does it all the same", new.name)
        };
        lost.extend(findings.into_iter().map(|finding| text(finding.text)));
    }
    lost
}

/// What becomes of the secrets of the providers that are served before and after.
fn secrets_of(node: &Node, ready: &[Ready], replaced: &BTreeMap<String, Vec<Kid>>) -> Vec<Secret> {
    let mut secrets = Vec::new();
    for new in ready {
        let served = node.providers.get(new.name.as_str());
        let old: Vec<Listed> = served.map(|served| served.rules.listed().collect()).unwrap_or_default();
        let list = new.listed();
        let mut tell = |kid: &Kid, op| {
            secrets.push(Secret { provider: new.name.clone(), kid: kid.clone(), op });
        };
        for Listed { kid, window } in &list {
            let is_replaced = replaced.get(new.name.as_str()).is_some_and(|kids| kids.contains(kid));
            match old.iter().find(|listed| listed.kid == *kid) {
                None => tell(kid, "secret.listed"),
                Some(_) if is_replaced => tell(kid, "secret.replaced"),
                Some(before) if before.window != *window => tell(kid, "secret.changed"),
                Some(_) => {}
            }
        }
        for Listed { kid, .. } in old.iter().filter(|old| !list.iter().any(|new| new.kid == old.kid)) {
            tell(kid, "secret.removed");
        }
    }
    secrets
}

fn report(version: u64, changes: &Changes, moved: &Moved, secrets: &[Secret], forced: &[String]) -> Value {
    let secret = |Secret { provider, kid, op }: &Secret| {
        let what = op.strip_prefix("secret.").unwrap_or(op);
        json!({ "provider": provider, "kid": kid, "what": what })
    };
    json!({
        "version": version,
        "applied": changes.applied,
        "restart": changes.restart,
        "providers": { "added": moved.added, "removed": moved.removed, "down": moved.down },
        "secrets": secrets.iter().map(secret).collect::<Vec<_>>(),
        "forced": forced,
    })
}
