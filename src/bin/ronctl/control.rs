//! The control socket's own calls, beside the mailbox's routes that it also serves.

use crate::client::{Call, Client};
use crate::failure::{Failure, failed};
use ron_core::capability::{MintRequest, Op, RevokeRequest};
use ron_core::ids::Tenant;
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// A capability that the node made.
#[derive(Deserialize)]
pub(crate) struct Minted {
    /// The bearer token.
    pub(crate) token: String,
    /// Its public name.
    pub(crate) cap_id: String,
}

/// Has the node mint a capability.
///
/// # Errors
/// Its refusal, or that no node answers.
pub(crate) async fn mint(node: &mut Client, want: &MintRequest) -> Result<Minted, Failure> {
    let want = serde_json::to_value(want).map_err(|err| failed(format!("writing JSON: {err}")))?;
    node.read(Call::json("/ctl/cap/mint", &want)).await
}

/// Has the node mint a capability for all topics of a tenant that ends by itself.
///
/// # Errors
/// As [`mint`].
pub(crate) async fn mint_for(
    node: &mut Client,
    tenant: &str,
    ops: &[Op],
    ttl_ms: u64,
) -> Result<Minted, Failure> {
    let tenant = Tenant::parse(tenant).map_err(|err| failed(err.to_string()))?;
    let (topic, ops, ttl_ms) = ("*".to_owned(), ops.to_vec(), Some(ttl_ms));
    let want = MintRequest { tenant, topic, ops, ttl_ms, aud: None, ip: None, max_bytes: None, rps: None };
    mint(node, &want).await
}

/// What the node says of itself.
///
/// # Errors
/// That no node answers.
pub(crate) async fn status<T: DeserializeOwned>(node: &mut Client) -> Result<T, Failure> {
    node.read(Call::get("/ctl/status")).await
}

/// The configured providers.
///
/// # Errors
/// No node, or its refusal.
pub(crate) async fn providers<T: DeserializeOwned>(node: &mut Client) -> Result<T, Failure> {
    node.read(Call::get("/ctl/providers")).await
}

/// Has the node revoke capabilities and keys; durable when it answers.
///
/// # Errors
/// Its refusal, or that no node answers.
pub(crate) async fn revoke<T: DeserializeOwned>(
    node: &mut Client,
    want: &RevokeRequest,
) -> Result<T, Failure> {
    let want = serde_json::to_value(want).map_err(|err| failed(format!("writing JSON: {err}")))?;
    node.read(Call::json("/ctl/cap/revoke", &want)).await
}

/// The node's keys, without the keys.
///
/// # Errors
/// That no node answers.
pub(crate) async fn keys<T: DeserializeOwned>(node: &mut Client) -> Result<T, Failure> {
    node.read(Call::get("/ctl/keys")).await
}

/// Has the node make a new key.
///
/// # Errors
/// Its refusal, or that no node answers.
pub(crate) async fn rotate<T: DeserializeOwned>(node: &mut Client) -> Result<T, Failure> {
    node.read(Call::post("/ctl/key/rotate", "")).await
}
