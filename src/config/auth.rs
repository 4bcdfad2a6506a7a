//! `[auth]`: capabilities and the keys that make them.

use super::read::Section;
use std::path::PathBuf;
use std::time::Duration;

/// `[auth]`.
#[derive(Debug, Clone)]
pub struct AuthConfig {
    /// How long a checked capability is remembered.
    pub cap_cache_ttl: Duration,
    /// Longest life of a capability that is minted.
    pub max_ttl: Duration,
    /// Where the root keys are.
    pub keyring: KeyringAt,
}

/// Where the root keys are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyringAt {
    /// In this file, made at the first start.
    File(PathBuf),
    /// In this file, which somebody else made (`RON_KEYRING`): never written.
    Mount(PathBuf),
    /// In memory, new at every start.
    Memory,
}

impl AuthConfig {
    /// Reads the section. `keyring` stands for the default until the data directory is known.
    pub(super) fn read(s: &Section<'_, '_>, amnesia: bool) -> AuthConfig {
        let day = Duration::from_secs(86_400);
        let mount = s.origin_at(&["keyring"]).as_deref() == Some("variable RON_KEYRING");
        let keyring = match s.path_opt("keyring") {
            Some(path) if mount => KeyringAt::Mount(path),
            Some(_) if amnesia => {
                let hint = "leave it out, or name a keyring that exists with RON_KEYRING";
                s.problem("keyring", "cannot be a file with node.amnesia", Some(hint.into()));
                KeyringAt::Memory
            }
            Some(path) => KeyringAt::File(path),
            None => KeyringAt::Memory,
        };
        AuthConfig {
            cap_cache_ttl: s.duration("cap_cache_ttl", Duration::ZERO..=Duration::from_secs(30)),
            max_ttl: s.duration("max_ttl", Duration::from_secs(1)..=30 * day),
            keyring,
        }
    }
}
