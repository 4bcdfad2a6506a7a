//! `lying_node`: all of ron-node, with its store on a disk whose un-synced writes die with the process, so that
//! whoever kills it sees what a power cut would leave.
//!
//! `LYING_DISK=omit-sync` makes the disk answer syncs that it does not do: the control that must lose something.
//! `LYING_DISK_SEED` fixes what reaches the file early.

use ron_actors::entropy::{Entropy, OsEntropy};
use ron_chaos::lying::{Manner, Syncs, medium};
use ron_node::node::{STORE_FILE, medium_of};
use std::process::ExitCode;

/// Exit code of a bad configuration (EX_CONFIG), as the node's.
const BAD_CONFIG: u8 = 78;

fn main() -> ExitCode {
    let manner = match manner() {
        Ok(manner) => manner,
        Err(problem) => {
            eprintln!("lying_node: {problem}");
            return BAD_CONFIG.into();
        }
    };
    ron_node::process::main(|config| match config.node.amnesia {
        true => medium_of(config),
        false => medium(config.node.data_dir.join(STORE_FILE), manner),
    })
}

fn manner() -> Result<Manner, String> {
    let syncs = match std::env::var("LYING_DISK").as_deref() {
        Err(_) | Ok("") => Syncs::Kept,
        Ok("omit-sync") => Syncs::Omitted,
        Ok(other) => return Err(format!("LYING_DISK is {other:?}; it may be \"omit-sync\"")),
    };
    let seed = match std::env::var("LYING_DISK_SEED") {
        Ok(text) => text.parse().map_err(|_| format!("LYING_DISK_SEED is no number: {text:?}"))?,
        Err(_) => {
            let mut bytes = [0; 8];
            OsEntropy.fill(&mut bytes).map_err(|error| error.to_string())?;
            u64::from_le_bytes(bytes)
        }
    };
    eprintln!("lying_node: syncs {syncs:?}, LYING_DISK_SEED={seed}");
    #[allow(clippy::disallowed_methods, reason = "a disk that takes its time holds up a thread")]
    Ok(Manner { syncs, seed, pause: std::thread::sleep })
}
