//! A node's passport: its keyring, what is revoked, and its limits.

use super::{BootError, REVOKED_FILE};
use crate::config::{Config, KeyringAt};
use ron_actors::entropy::OsEntropy;
use ron_actors::kernel::bus::Bus;
use ron_actors::passport::{KeyringPlace, Passport, PassportArgs, PassportLimits};
use ron_core::capability::Revoked;
use ron_core::time::Clock;
use std::sync::Arc;
use std::time::Duration;

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
