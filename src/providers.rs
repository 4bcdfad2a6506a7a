//! The providers that are served: their rules, their verifiers, how far their secrets are, and how `ronctl` shows them.
//!
//! All of them are swapped at once by a reload. A request takes what is in force when it comes and is judged by that to
//! its end, so it never meets half of a change.

use crate::config::{ByteSize, Config, InteropConfig, Provider};
use crate::gate::Served;
use crate::http::intake::{Allowance, AllowanceLimits};
use crate::metrics::Metrics;
use crate::node::BootError;
use crate::schemes::Catalogue;
use crate::self_test;
use arc_swap::ArcSwap;
use ron_actors::interop::{Verifier, VerifierArgs, VerifierHandle};
use ron_actors::kernel::child::{ChildKind, ChildSpec, ServiceLabel};
use ron_actors::kernel::supervisor::{StartError, SupervisorRef};
use ron_actors::passport::Passport;
use ron_actors::rotation_file::Remembered;
use ron_core::ids::{Kid, ProviderName, QueueKey};
use ron_core::inflate::Bounds;
use ron_core::rotation::{Listed, Rotation};
use ron_core::scheme::ProviderRules;
use ron_core::time::Millis;
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Mutex as TurnMutex;

/// The providers that are served, by name.
pub type Table = HashMap<String, Arc<Served>>;

/// How often it is looked whether the last request of a provider that is gone is answered.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long that is waited for, at most: longer than any request lives.
const LOOKS_MAX: u32 = 20 * 60;

/// See the module.
#[derive(Debug)]
pub struct Providers {
    table: ArcSwap<Table>,
    configured: ArcSwap<BTreeMap<ProviderName, Configured>>,
    /// The verifiers that run, those of providers included whose last requests are under way.
    running: TurnMutex<HashMap<String, VerifierHandle>>,
}

/// What `ronctl` shows of a provider, enabled or not.
#[derive(Debug)]
struct Configured {
    scheme: String,
    enabled: bool,
    enforce: bool,
    queue: QueueKey,
    kids: Vec<Kid>,
}

/// What a provider's webhooks are judged by, checked but not in force yet.
#[derive(Debug)]
pub(crate) struct Ready {
    pub(crate) name: ProviderName,
    pub(crate) rules: ProviderRules,
}

impl Ready {
    /// Its secrets, without the secrets.
    pub(crate) fn listed(&self) -> Vec<Listed> {
        self.rules.listed().collect()
    }
}

/// Compiles the rules of all providers that are to be served, and proves their schemes.
///
/// # Errors
/// What is wrong, with the whole name of the key.
pub(crate) fn ready(config: &Config) -> Result<Vec<Ready>, BootError> {
    prove_schemes(config)?;
    let enabled = config.interop.providers.iter().filter(|(_, provider)| provider.enabled);
    let rules = |(name, provider): (&ProviderName, &Provider)| {
        let rules = Catalogue::rules(name, provider, &config.interop.schemes);
        let bad = |(key, what)| BootError::Config(format!("interop.providers.{name}.{key}: {what}"));
        Ok(Ready { name: name.clone(), rules: rules.map_err(bad)? })
    };
    enabled.map(rules).collect()
}

/// What a provider may send and hold. Without a share of its own it gets half of the node's, so that whoever floods one
/// provider leaves room for the others.
fn allowance(provider: &Provider, interop: &InteropConfig) -> AllowanceLimits {
    let (node, own, inflate) = (&interop.limits, &provider.limits, interop.decompression);
    let body_limit = provider.body_limit.unwrap_or(node.body_limit).as_usize();
    let slots = own.max_unverified.unwrap_or(node.max_unverified.div_ceil(2)).min(node.max_unverified);
    // with room for one body at least, compressed and not
    let half = (node.unverified_bytes.as_usize() / 2).max(2 * body_limit);
    let bytes = own.unverified_bytes.map_or(half, ByteSize::as_usize);
    AllowanceLimits {
        body_limit,
        codings: provider.encodings.clone(),
        bounds: Bounds {
            max_ratio: inflate.max_ratio,
            bytes_max: body_limit.min(inflate.max_bytes.as_usize()),
        },
        slots: slots as usize,
        bytes: bytes.min(node.unverified_bytes.as_usize()),
        rate: own.rate,
    }
}

/// Runs the test vectors of the shipped schemes that are used.
fn prove_schemes(config: &Config) -> Result<(), BootError> {
    let own = &config.interop.schemes;
    let used = config.interop.providers.values().filter(|provider| provider.enabled);
    let mut names: Vec<&str> = used.map(|provider| provider.scheme.as_str()).collect();
    names.retain(|name| !own.contains_key(*name));
    names.iter_mut().for_each(|name| *name = Catalogue::shipped_name(name));
    names.sort_unstable();
    names.dedup();
    if names.is_empty() {
        return Ok(());
    }
    let run = self_test::prove(&names).map_err(BootError::Config)?;
    tracing::info!(
        schemes = names.len(),
        vectors = run,
        "the schemes in use judge their test vectors rightly"
    );
    Ok(())
}

/// What another list of providers changes, by name.
#[derive(Debug, Default)]
pub(crate) struct Moved {
    pub(crate) added: Vec<String>,
    pub(crate) removed: Vec<String>,
    /// Whose verifiers did not start; they are tried again.
    pub(crate) down: Vec<String>,
}

impl Providers {
    /// The providers of a configuration, not served yet. `remembered` is what an earlier life of the process saw of
    /// their secrets.
    ///
    /// # Errors
    /// [`BootError::Config`].
    pub(crate) fn of(
        config: &Config,
        metrics: &Metrics,
        remembered: &Remembered,
        wall: Millis,
    ) -> Result<Providers, BootError> {
        let (mut table, mut running) = (Table::new(), HashMap::new());
        for Ready { name, rules } in ready(config)? {
            let (list, known) = (rules.listed().collect(), remembered.get(name.as_str()));
            let rotation = Rotation::begin(list, rules.signed_ttl_ms(), known, wall);
            let (rotation, verifier) = (Arc::new(Mutex::new(rotation)), new_verifier(config));
            running.insert(name.to_string(), verifier.clone());
            if let Some(served) = served((config, metrics), &name, None, rules, verifier, rotation) {
                table.insert(name.to_string(), Arc::new(served));
            }
        }
        Ok(Providers {
            table: ArcSwap::from_pointee(table),
            configured: ArcSwap::from_pointee(configured(config)),
            running: TurnMutex::new(running),
        })
    }

    /// All that are served.
    #[must_use]
    pub fn all(&self) -> Arc<Table> {
        self.table.load_full()
    }

    /// One that is served.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Arc<Served>> {
        self.table.load().get(name).cloned()
    }

    /// The actors of those that are served now.
    pub(crate) fn child_specs(&self, passport: &Passport) -> Vec<ChildSpec> {
        self.all().iter().map(|(name, served)| verifier_spec(name, &served.verifier, passport)).collect()
    }

    /// Puts other providers in force, all at once: first those that are new are up, then each request gets the new
    /// ones, and what came before is judged to its end by the old ones. `replaced` are KIDs whose secret is another.
    pub(crate) async fn put(
        self: &Arc<Self>,
        config: &Config,
        metrics: &Metrics,
        ready: Vec<Ready>,
        replaced: &BTreeMap<String, Vec<Kid>>,
        (verifiers, passport): (&SupervisorRef, &Passport),
        wall: Millis,
    ) -> Moved {
        let mut running = self.running.lock().await;
        let (old, mut table, mut moved) = (self.all(), Table::new(), Moved::default());
        for Ready { name, rules } in ready {
            let before = old.get(name.as_str());
            let verifier = match running.get(name.as_str()) {
                Some(verifier) => verifier.clone(),
                None => {
                    let verifier = new_verifier(config);
                    let started =
                        verifiers.start_child(verifier_spec(name.as_str(), &verifier, passport)).await;
                    if !matches!(started, Ok(()) | Err(StartError::Exists)) {
                        moved.down.push(name.to_string());
                    }
                    running.insert(name.to_string(), verifier.clone());
                    verifier
                }
            };
            let (list, ttl_ms) = (rules.listed().collect(), rules.signed_ttl_ms());
            let rotation = match before {
                Some(served) => {
                    let replaced = replaced.get(name.as_str()).map_or(&[][..], Vec::as_slice);
                    served.rotation().reload(list, replaced, ttl_ms, wall);
                    served.rotation.clone()
                }
                None => {
                    moved.added.push(name.to_string());
                    Arc::new(Mutex::new(Rotation::begin(list, ttl_ms, None, wall)))
                }
            };
            if let Some(served) = served((config, metrics), &name, before, rules, verifier, rotation) {
                served.metrics.secrets(served.rotation().secrets());
                table.insert(name.to_string(), Arc::new(served));
            }
        }
        let gone = old.iter().filter(|(name, _)| !table.contains_key(*name));
        let gone: Vec<(String, Arc<Served>)> =
            gone.map(|(name, served)| (name.clone(), served.clone())).collect();
        self.table.store(Arc::new(table));
        self.configured.store(Arc::new(configured(config)));
        drop(old);
        for (name, served) in gone {
            moved.removed.push(name.clone());
            tokio::spawn(self.clone().let_go(name, served, verifiers.clone()));
        }
        moved
    }

    /// Ends the verifier of a provider that is not served any more, after its last request.
    async fn let_go(self: Arc<Self>, name: String, served: Arc<Served>, verifiers: SupervisorRef) {
        for _ in 0..LOOKS_MAX {
            if Arc::strong_count(&served) == 1 {
                break;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        let mut running = self.running.lock().await;
        // It may be back.
        if self.get(&name).is_none() && running.remove(&name).is_some() {
            verifiers.stop_child(&verifier_name(&name)).await;
        }
    }

    /// All that are configured, without their secrets, as `ronctl interop providers` shows them.
    #[must_use]
    pub fn show(&self, wall: Millis) -> Value {
        let table = self.all();
        let show = |(name, configured): (&ProviderName, &Configured)| {
            let mut shown = json!({
                "name": name.as_str(),
                "scheme": configured.scheme,
                "enabled": configured.enabled,
                "enforce": configured.enforce,
                "tenant": configured.queue.tenant.as_str(),
                "topic": configured.queue.topic.as_str(),
                "kids": configured.kids,
            });
            if let Some(served) = table.get(name.as_str()) {
                let mut rotation = served.rotation();
                rotation.tick(wall);
                show_rotation(&rotation, &mut shown, wall);
            }
            shown
        };
        self.configured.load().iter().map(show).collect()
    }
}

fn show_rotation(rotation: &Rotation, shown: &mut Value, wall: Millis) {
    let time = |at: Option<Millis>| at.map(Millis::rfc3339);
    let secrets = rotation.secrets().iter().map(|secret| {
        let (window, seen) = (secret.listed.window, secret.seen);
        json!({
            "kid": secret.listed.kid,
            "state": secret.state().label(),
            "accepted": window.holds(wall),
            "since": time(secret.since()),
            "not_before": time(window.not_before),
            "not_after": time(window.not_after),
            "first_match": time(seen.first_match),
            "last_match": time(seen.last_match),
            "cutover": time(seen.cutover),
        })
    });
    shown["secrets"] = secrets.collect();
    shown["rotation"] = json!(rotation.phase().map(|phase| phase.label()));
    shown["overlap_ms"] = json!(rotation.overlap_ms());
    let notices = rotation.notices(wall).into_iter().map(|notice| notice.text);
    shown["warnings"] = notices.collect();
}

fn configured(config: &Config) -> BTreeMap<ProviderName, Configured> {
    let of = |(name, provider): (&ProviderName, &Provider)| {
        let configured = Configured {
            scheme: provider.scheme.clone(),
            enabled: provider.enabled,
            enforce: provider.enforce,
            queue: QueueKey { tenant: provider.tenant.clone(), topic: provider.topic.clone() },
            kids: provider.secrets.iter().map(|secret| secret.kid.clone()).collect(),
        };
        (name.clone(), configured)
    };
    config.interop.providers.iter().map(of).collect()
}

fn served(
    (config, metrics): (&Config, &Metrics),
    name: &ProviderName,
    before: Option<&Arc<Served>>,
    rules: ProviderRules,
    verifier: VerifierHandle,
    rotation: Arc<Mutex<Rotation>>,
) -> Option<Served> {
    let provider = config.interop.providers.get(name)?;
    let limits = allowance(provider, &config.interop);
    // a reload gives nobody a full bucket, nor more room than there is
    let allowance = match before.filter(|served| served.allowance.limits == limits) {
        Some(served) => served.allowance.clone(),
        None => Arc::new(Allowance::new(limits)),
    };
    let kids: Vec<String> = rules.kids().map(ToString::to_string).collect();
    let of_provider = metrics.interop.provider(name.as_str(), kids.iter().map(String::as_str));
    Some(Served {
        rules: Arc::new(rules),
        verifier,
        queue: QueueKey { tenant: provider.tenant.clone(), topic: provider.topic.clone() },
        allowance,
        metrics: of_provider,
        shadow: (!provider.enforce).then(|| metrics.interop.shadow(name.as_str())),
        rotation,
        confirm: provider.confirm.clone(),
    })
}

fn new_verifier(config: &Config) -> VerifierHandle {
    let limits = &config.interop.limits;
    VerifierHandle::new(limits.max_unverified as usize, limits.unverified_bytes.as_usize())
}

fn verifier_spec(name: &str, verifier: &VerifierHandle, passport: &Passport) -> ChildSpec {
    let args = VerifierArgs { passport: passport.clone() };
    let make = move || (Verifier, args.clone());
    ChildSpec::actor(
        ChildKind::Fixed,
        verifier_name(name),
        ServiceLabel::Verifier,
        verifier.publisher(),
        make,
    )
}

/// The name of a provider's actor among its siblings.
pub(crate) fn verifier_name(provider: &str) -> String {
    format!("verifier:{provider}")
}

impl Served {
    /// How far its secrets are.
    pub fn rotation(&self) -> MutexGuard<'_, Rotation> {
        // nothing between its assignments can fail
        self.rotation.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The KIDs that stay while the secret behind them is another.
pub(crate) fn replaced(old: &Provider, new: &Provider) -> Vec<Kid> {
    let other = |(kid, value): (&Kid, &str)| {
        let before = old.secrets.iter().find(|secret| secret.kid == *kid);
        before.is_some_and(|before| before.value.expose_secret() != value)
    };
    let all = new.secrets.iter().map(|secret| (&secret.kid, secret.value.expose_secret()));
    all.filter(|secret| other(*secret)).map(|(kid, _)| kid.clone()).collect()
}
