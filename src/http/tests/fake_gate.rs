//! What stands in for the verifiers.

use super::fakes::id;
use crate::http::intake::Allowance;
use crate::http::interop::{CustomAnswer, WebhookAnswer, WebhookCall, WebhookGate};
use crate::http::webhooks::Trace;
use bytes::Bytes;
use http::{HeaderMap, Method};
use ron_core::inflate::Coding;
use ron_core::reason::{Reason, Refusal};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::Notify;

/// Accepts bodies `ok` and `known`, answers `challenge`, and refuses the rest as badly signed.
#[derive(Debug)]
pub(super) struct FakeGate {
    /// Of the provider `github`; `other` has no limits of its own, and takes gzip.
    pub(super) github: Arc<Allowance>,
    pub(super) other: Arc<Allowance>,
    /// Webhooks wait here, once `hold` is set.
    pub(super) held: Arc<Notify>,
    pub(super) hold: bool,
    pub(super) receiving: Arc<AtomicUsize>,
}

impl Default for FakeGate {
    fn default() -> FakeGate {
        FakeGate {
            github: FakeGate::allowance(9, 1 << 20, 64, &[]),
            other: FakeGate::allowance(9, 32 << 20, 1 << 20, &Coding::ALL),
            held: Arc::default(),
            hold: false,
            receiving: Arc::default(),
        }
    }
}

impl WebhookGate for FakeGate {
    fn precheck(
        &self,
        provider: &str,
        _: &Method,
        headers: &HeaderMap,
        _: &mut Trace,
    ) -> Result<Arc<Allowance>, Refusal> {
        let allowance = match provider {
            "github" => &self.github,
            "other" => &self.other,
            "down" => return Err(Refusal::new(Reason::DownstreamUnavailable, "quarantined")),
            _ => return Err(Refusal::new(Reason::PolicyBlocked, "no such provider is enabled")),
        };
        match headers.contains_key("x-late") {
            true => Err(Refusal::new(Reason::ReplayWindow, "the timestamp is outside the tolerance")),
            false => Ok(Arc::clone(allowance)),
        }
    }

    async fn receive(&self, call: WebhookCall<'_>, _: &mut Trace) -> Result<WebhookAnswer, Refusal> {
        self.receiving.fetch_add(1, Ordering::SeqCst);
        if self.hold {
            self.held.notified().await;
        }
        let custom = |status, body: &'static str| CustomAnswer {
            status,
            content_type: Some("text/plain".into()),
            body: Bytes::from_static(body.as_bytes()),
            headers: vec![("X-Extra".into(), "1".into())],
        };
        let accepted = |duplicate, custom| Ok(WebhookAnswer::Accepted { msg_id: id(1), duplicate, custom });
        match (call.method, &call.body[..]) {
            (&Method::GET, _) => Ok(WebhookAnswer::Handshake(custom(200, "hello"))),
            (_, b"challenge") => Ok(WebhookAnswer::Handshake(custom(200, "echo"))),
            (_, b"ok" | b"known" | b"custom") => {
                call.rate.charge_webhook()?;
                call.admitted?;
                match &call.body[..] {
                    b"custom" => accepted(false, Some(custom(204, ""))),
                    body => accepted(body == b"known", None),
                }
            }
            (_, b"full") => Err(Refusal::new(Reason::Backpressure, "the topic is full")),
            _ => Err(Refusal::new(Reason::SignatureInvalid, "no secret matches")),
        }
    }
}
