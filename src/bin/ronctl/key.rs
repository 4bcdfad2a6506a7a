//! `ronctl key rotate|list` and `ronctl cap revoke`: what ends capabilities, and what makes new ones.

use crate::client::Client;
use crate::control;
use crate::failure::Failure;
use crate::output::{Output, warn};
use clap::{Args, Subcommand};
use ron_core::capability::RevokeRequest;
use serde::{Deserialize, Serialize};

/// What to do with the keys.
#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// Make a new key: it makes all capabilities from now on, and the old ones check theirs for twice auth.max_ttl
    Rotate,
    /// List the keys: their ids and times, never the keys
    List,
}

/// What to revoke.
#[derive(Debug, Args)]
pub(crate) struct RevokeArgs {
    /// Ids of capabilities, 16 hex digits each, as `cap inspect` prints them; what was attenuated from one goes with it
    #[arg(value_name = "ID", required_unless_present = "kids")]
    cap_ids: Vec<String>,
    /// All capabilities that this key has made; can be repeated
    #[arg(long = "kid", value_name = "KID")]
    kids: Vec<String>,
}

/// A key as the node lists it.
#[derive(Debug, Serialize, Deserialize)]
struct Key {
    kid: String,
    created: String,
    not_after: Option<String>,
    minting: bool,
    revoked: bool,
}

/// The node's keys.
#[derive(Debug, Serialize, Deserialize)]
struct Keys {
    keys: Vec<Key>,
}

/// A key that was rotated out.
#[derive(Debug, Serialize, Deserialize)]
struct Retired {
    kid: String,
    not_after: String,
}

/// The answer to a rotation.
#[derive(Debug, Serialize, Deserialize)]
struct Rotated {
    kid: String,
    retired: Vec<Retired>,
    dropped: Vec<String>,
}

/// One thing that is revoked now.
#[derive(Debug, Serialize, Deserialize)]
struct Revoked {
    #[serde(skip_serializing_if = "Option::is_none")]
    cap_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kid: Option<String>,
    already: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    known: Option<bool>,
}

/// The answer to a revocation.
#[derive(Debug, Serialize, Deserialize)]
struct RevokedAll {
    revoked: Vec<Revoked>,
}

/// Runs `ronctl key`.
///
/// # Errors
/// The node's refusal, or [`Failure::Unreachable`].
pub(crate) async fn run(command: KeyCommand, mut node: Client, out: Output) -> Result<(), Failure> {
    match command {
        KeyCommand::List => list(&control::keys(&mut node).await?, out),
        KeyCommand::Rotate => rotated(&control::rotate(&mut node).await?, out),
    }
}

fn list(keys: &Keys, out: Output) -> Result<(), Failure> {
    if out.json {
        return out.value(keys);
    }
    let row = |key: &Key| {
        let state = match (key.revoked, key.minting) {
            (true, _) => "revoked",
            (false, true) => "minting",
            (false, false) => "checks only",
        };
        let not_after = key.not_after.clone().unwrap_or_else(|| "-".to_owned());
        vec![key.kid.clone(), key.created.clone(), not_after, state.to_owned()]
    };
    out.table(&["kid", "created", "not after", "state"], keys.keys.iter().map(row).collect())
}

fn rotated(rotated: &Rotated, out: Output) -> Result<(), Failure> {
    if out.json {
        return out.value(rotated);
    }
    out.line(format!("{}  makes all capabilities from now on", rotated.kid))?;
    for Retired { kid, not_after } in &rotated.retired {
        out.line(format!("{kid}  checks the ones it made until {not_after}"))?;
    }
    for kid in &rotated.dropped {
        out.line(format!("{kid}  had ended and is forgotten"))?;
    }
    Ok(())
}

/// Runs `ronctl cap revoke`.
///
/// # Errors
/// An id is not one, the node's refusal, or [`Failure::Unreachable`].
pub(crate) async fn revoke(
    args: RevokeArgs,
    node: impl FnOnce() -> Result<Client, Failure>,
    out: Output,
) -> Result<(), Failure> {
    let want = RevokeRequest { cap_ids: args.cap_ids, kids: args.kids };
    want.check().map_err(|refusal| Failure::Usage(refusal.text.into_owned()))?;
    let done: RevokedAll = control::revoke(&mut node()?, &want).await?;
    if out.json {
        return out.value(&done);
    }
    for one in &done.revoked {
        let name = one.cap_id.as_ref().or(one.kid.as_ref()).map_or("", |name| name);
        out.line(format!("{name}  {}", if one.already { "was revoked already" } else { "revoked" }))?;
        if one.known == Some(false) {
            warn(&format!("no key of this node is called {name}"));
        }
    }
    Ok(())
}
