//! What stands in for the node behind the control socket.

use crate::http::ctl::{ControlDesk, MintedToken};
use crate::http::request::Peer;
use bytes::Bytes;
use futures::Stream;
use ron_core::capability::RevokeRequest;
use ron_core::reason::{Reason, Refusal};
use serde::Deserialize;
use std::time::Duration;

#[derive(Debug)]
pub(super) struct FakeDesk;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FakeMint {
    tenant: String,
}

impl ControlDesk for FakeDesk {
    type Mint = FakeMint;

    fn status(&self) -> serde_json::Value {
        serde_json::json!({"ready": true})
    }

    fn providers(&self) -> serde_json::Value {
        serde_json::json!([{"name": "github"}])
    }

    async fn amnesia(&self) -> serde_json::Value {
        serde_json::json!({"items": []})
    }

    fn quarantined(&self) -> serde_json::Value {
        serde_json::json!({"quarantined": []})
    }

    async fn release(&self, name: &str, _: Peer) -> Result<serde_json::Value, Refusal> {
        Err(Refusal::new(Reason::NotFound, format!("{name} is not in quarantine")))
    }

    async fn accept_clock(&self, _: Peer) -> Result<serde_json::Value, Refusal> {
        Err(Refusal::new(Reason::NotFound, "there is nothing to accept"))
    }

    fn events(&self, topic: &str, since: Duration, follow: bool) -> impl Stream<Item = Bytes> + 'static {
        let line = format!("{topic} {} {follow}\n", since.as_millis());
        futures::stream::iter([Bytes::from(line)])
    }

    fn policy(&self) -> serde_json::Value {
        serde_json::json!({"version": 1})
    }

    fn reload_policy(&self, _: Peer) -> Result<serde_json::Value, Refusal> {
        Err(Refusal::new(Reason::Malformed, "policy.toml:3: rule.1.topik: unknown key"))
    }

    fn apply_preset(&self, preset: &str, ttl_ms: u64, _: Peer) -> Result<serde_json::Value, Refusal> {
        Ok(serde_json::json!({"preset": preset, "ttl_ms": ttl_ms}))
    }

    fn mint(&self, request: FakeMint, peer: Peer) -> Result<MintedToken, Refusal> {
        assert!(matches!(peer, Peer::Unix { .. }));
        Ok(MintedToken { token: format!("ron1_{}", request.tenant), cap_id: "0123456789abcdef".into() })
    }

    async fn revoke(&self, request: RevokeRequest, _: Peer) -> Result<serde_json::Value, Refusal> {
        Ok(serde_json::json!({ "revoked": request.check()?.len() }))
    }

    fn keys(&self) -> serde_json::Value {
        serde_json::json!({"keys": []})
    }

    async fn rotate(&self, peer: Peer) -> Result<serde_json::Value, Refusal> {
        assert!(matches!(peer, Peer::Unix { .. }));
        Err(Refusal::new(Reason::PolicyBlocked, "the keyring is a mount"))
    }
}
