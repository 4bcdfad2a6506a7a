//! Parts of a node that are made from its configuration alone, or nearly.

use super::{BootError, REVOKED_FILE};
use crate::config::{Config, KeyringAt};
use crate::http::readiness::Readiness;
use crate::metrics::{Metrics, MetricsOptions};
use crate::policy::PolicyKeeper;
use crate::providers::Providers;
use crate::rotations::{ROTATIONS_FILE, foresee, recall};
use ron_actors::audit::Audit;
use ron_actors::entropy::OsEntropy;
use ron_actors::kernel::bus::Bus;
use ron_actors::kernel::clock::SystemClock;
use ron_actors::passport::{KeyringPlace, Passport, PassportArgs, PassportLimits};
use ron_actors::policy::InForce;
use ron_actors::tree::Tree;
use ron_core::capability::Revoked;
use ron_core::time::Clock;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub(super) fn metrics_of(config: &Config) -> Result<Metrics, BootError> {
    let wall = SystemClock::starting_from(ron_core::time::Millis(0)).wall();
    let metrics = Metrics::new(MetricsOptions {
        max_queues: config.metrics.max_queues as usize,
        amnesia: config.node.amnesia,
        version: env!("CARGO_PKG_VERSION"),
        started_unix_s: wall.0 as f64 / 1e3,
    });
    metrics.map_err(|error| BootError::Root(error.to_string()))
}

pub(super) fn passport_of(config: &Config, clock: &Arc<dyn Clock>, bus: &Bus) -> Result<Passport, BootError> {
    let (ring, keyring_place) = match &config.auth.keyring {
        KeyringAt::File(path) => {
            let ring = ron_actors::keyring_file::load_or_create(path, clock.wall(), &OsEntropy);
            (ring, KeyringPlace::File(path.clone()))
        }
        KeyringAt::Mount(path) => (ron_actors::keyring_file::load(path), KeyringPlace::Mount(path.clone())),
        KeyringAt::Memory => {
            (ron_actors::keyring_file::in_memory(clock.wall(), &OsEntropy), KeyringPlace::Memory)
        }
    };
    let keyring = ring.map_err(|error| BootError::Config(format!("auth.keyring: {error}")))?;
    let revoked_file = (!config.node.amnesia).then(|| config.node.data_dir.join(REVOKED_FILE));
    let revoked = revoked_file.as_deref().map_or(Ok(Revoked::default()), ron_actors::revoked_file::load);
    let revoked = revoked.map_err(|error| BootError::Damaged(error.to_string()))?;
    if revoked.kid(&keyring.minting().kid) {
        tracing::warn!(kid = %keyring.minting().kid, "the key that makes capabilities is revoked: rotate it");
    }
    let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let (ttl_max_ms, cache_ttl_ms) = (ms(config.auth.max_ttl), ms(config.auth.cap_cache_ttl));
    let args = PassportArgs {
        keyring,
        keyring_place,
        revoked,
        revoked_file,
        clock: clock.clone(),
        entropy: Arc::new(OsEntropy),
        bus: bus.clone(),
        limits: PassportLimits { ttl_max_ms, cache_ttl_ms },
    };
    Passport::new(args).map_err(|error| BootError::Root(error.to_string()))
}

/// The providers, and where it is kept what was seen of their secrets. What a reload would refuse, a start only tells:
/// who starts a node must get it.
pub(super) fn providers_of(
    config: &Config,
    metrics: &Metrics,
    clock: &Arc<dyn Clock>,
    warnings: &mut Vec<String>,
) -> Result<(Arc<Providers>, Option<PathBuf>), BootError> {
    let file = (!config.node.amnesia).then(|| config.node.data_dir.join(ROTATIONS_FILE));
    let remembered = recall(file.as_deref(), warnings);
    foresee(config, clock.wall()).iter().for_each(|text| tracing::warn!("{text}"));
    Ok((Arc::new(Providers::of(config, metrics, &remembered, clock.wall())?), file))
}

pub(super) fn keeper_of(
    config: &Config,
    in_force: InForce,
    tree: &Tree,
    metrics: &Arc<Metrics>,
    clock: &Arc<dyn Clock>,
    readiness: &Arc<Readiness>,
    audit: &Audit,
) -> Arc<PolicyKeeper> {
    let keeper = PolicyKeeper {
        in_force,
        file: config.policy.file.clone(),
        directory: tree.mailbox.directory().clone(),
        bus: tree.bus.clone(),
        metrics: metrics.clone(),
        clock: clock.clone(),
        readiness: readiness.clone(),
        audit: audit.clone(),
    };
    keeper.announce(&keeper.in_force.current());
    Arc::new(keeper)
}
