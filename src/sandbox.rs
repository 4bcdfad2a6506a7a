//! What a node forbids itself (Landlock): to write anywhere but below its data. Whoever breaks into the process can
//! then change no other file. Reading, sockets and what is open already are not touched; what cannot be had here is
//! logged and nothing else.

use crate::config::{Config, KeyringAt};
use crate::socket::{is_tmpfs, make_data_dir};
use landlock::{
    ABI, AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus,
};
use std::path::{Path, PathBuf};

/// What of the rights to write is asked for: truncating included. Older kernels give what they know.
const RIGHTS: ABI = ABI::V3;

/// Puts the calling thread, and all that it starts from now on, under the rule. To be called before any other thread
/// runs. Never fails: a node without it works as well.
pub fn enter(config: &Config) {
    if !config.node.sandbox {
        tracing::info!("sandbox: switched off (node.sandbox)");
        return;
    }
    let places = writable(config);
    let dirs: Vec<String> = places.iter().map(|(dir, _)| dir.display().to_string()).collect();
    match restrict(&places) {
        Ok(RulesetStatus::FullyEnforced) => {
            tracing::info!(writable = dirs.join(", "), "sandbox: in force");
        }
        Ok(RulesetStatus::PartiallyEnforced) => {
            tracing::info!(writable = dirs.join(", "), "sandbox: in force, as far as this kernel has it");
        }
        Ok(RulesetStatus::NotEnforced) => tracing::info!("sandbox: not available in this kernel"),
        Err(error) => tracing::warn!(%error, "sandbox: not in force"),
    }
}

/// Where the node writes, and how.
fn writable(config: &Config) -> Vec<(PathBuf, BitFlags<AccessFs>)> {
    let all = AccessFs::from_write(RIGHTS);
    if config.node.amnesia {
        // The socket's name is all it ever makes, and only where no disk is behind it.
        let socket = AccessFs::MakeSock | AccessFs::RemoveFile;
        let runtime_dir = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
        let runtime_dir = runtime_dir.filter(|dir| is_tmpfs(dir));
        return runtime_dir.into_iter().map(|dir| (dir, socket)).collect();
    }
    let mut dirs = vec![config.node.data_dir.clone()];
    dirs.extend(config.store.snapshot_dir.clone());
    if let KeyringAt::File(path) = &config.auth.keyring {
        dirs.extend(
            path.parent().map(Path::to_path_buf).filter(|dir| !dir.starts_with(&config.node.data_dir)),
        );
    }
    for dir in &dirs {
        // A rule needs a directory. One that cannot be made is the boot's to complain of.
        let _ = make_data_dir_if_missing(dir);
    }
    dirs.into_iter().map(|dir| (dir, all)).collect()
}

fn make_data_dir_if_missing(dir: &Path) -> std::io::Result<()> {
    if dir.as_os_str().is_empty() || dir.exists() { Ok(()) } else { make_data_dir(dir) }
}

fn restrict(places: &[(PathBuf, BitFlags<AccessFs>)]) -> Result<RulesetStatus, RulesetError> {
    let ruleset = Ruleset::default().set_compatibility(CompatLevel::BestEffort);
    let mut rules = ruleset.handle_access(AccessFs::from_write(RIGHTS))?.create()?;
    for (dir, rights) in places {
        let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
        // What is not there cannot be written to either.
        let Ok(open) = PathFd::new(dir) else { continue };
        rules = rules.add_rule(PathBeneath::new(open, *rights))?;
    }
    Ok(rules.restrict_self()?.ruleset)
}
