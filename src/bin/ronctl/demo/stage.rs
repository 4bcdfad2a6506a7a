//! What the demo's steps share: the node, a capability, the providers, and the consumer's calls.

use super::sender::{Kind, Sender};
use crate::client::{Answer, Call, Client, Door};
use crate::control;
use crate::failure::{Failure, failed};
use crate::own_node::OwnNode;
use data_encoding::BASE64;
use ron_core::capability::Op;
use serde::Deserialize;
use serde_json::{Value, json};
use std::time::Duration;

/// The tenant of everything in the demo.
pub(super) const TENANT: &str = "demo";

/// Hand-outs before a message is dead-lettered, as the demo configures it.
pub(super) const ATTEMPTS_MAX: u64 = 3;

/// The node, a capability for it, and the providers that it knows.
pub(super) struct Stage {
    /// The node.
    pub(super) node: OwnNode,
    /// A capability for all topics of [`TENANT`].
    token: String,
    senders: Vec<Sender>,
}

/// The answer to an accepted send or webhook.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Accepted {
    /// The message.
    pub(super) msg_id: String,
    /// Whether it was known.
    pub(super) duplicate: bool,
    /// What a send's answer says of it; a webhook's answer says nothing.
    #[serde(default)]
    pub(super) durability: Option<String>,
}

/// A delivery, as far as the demo looks at it.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Delivered {
    /// The message.
    pub(super) msg_id: String,
    /// Names this delivery.
    pub(super) receipt: String,
    /// Which hand-out this is.
    pub(super) attempt: u64,
    /// Attributes; what the verifier found out.
    pub(super) attrs: std::collections::BTreeMap<String, String>,
    #[serde(default)]
    payload: Option<String>,
    #[serde(default)]
    payload_b64: Option<String>,
}

impl Delivered {
    /// The message's bytes.
    ///
    /// # Errors
    /// If they are not base64 where they should be.
    pub(super) fn bytes(&self) -> Result<Vec<u8>, Failure> {
        match (&self.payload, &self.payload_b64) {
            (Some(text), None) => Ok(text.clone().into_bytes()),
            (None, Some(base64)) => BASE64
                .decode(base64.as_bytes())
                .map_err(|err| failed(format!("the payload of {}: {err}", self.msg_id))),
            _ => Err(failed(format!("{} has not exactly one payload", self.msg_id))),
        }
    }
}

impl Stage {
    /// A node with all providers configured; not started yet.
    ///
    /// # Errors
    /// If its files cannot be written.
    pub(super) fn prepare() -> Result<Stage, Failure> {
        let node = OwnNode::prepare(None)?;
        let senders = Kind::ALL.into_iter().map(Sender::new).collect::<Result<Vec<Sender>, Failure>>()?;
        let mut providers = String::new();
        for sender in &senders {
            let name = sender.kind.name();
            let file = node.write(&format!("{name}.secret"), sender.node_secret().as_bytes())?;
            providers += &format!(
                "[interop.providers.{name}]\nscheme = \"{name}\"\ntenant = \"{TENANT}\"\ntopic = \"{name}\"\n\
                 enabled = true\nsecrets = [{{ kid = \"demo-1\", file = {:?} }}]\n\n",
                file.display().to_string(),
            );
        }
        let limits = "limits = { max_rps = 100000, burst_rps = 100000 }";
        node.configure(limits, &format!("max_attempts = {ATTEMPTS_MAX}"), &providers)?;
        Ok(Stage { node, token: String::new(), senders })
    }

    /// Has the node mint a capability for the demo's topics; its id.
    ///
    /// # Errors
    /// If it refuses.
    pub(super) async fn mint(&mut self) -> Result<String, Failure> {
        let ops = [Op::Enqueue, Op::Recv, Op::Ack, Op::Nack, Op::Stat, Op::Peek];
        let minted = control::mint_for(&mut self.node.control(), TENANT, &ops, 600_000).await?;
        self.token = minted.token;
        Ok(minted.cap_id)
    }

    /// The provider of this kind.
    ///
    /// # Errors
    /// Never; all kinds are there.
    pub(super) fn sender(&self, kind: Kind) -> Result<&Sender, Failure> {
        self.senders.iter().find(|sender| sender.kind == kind).ok_or_else(|| failed("no such provider"))
    }

    /// A client of the webhook listener.
    ///
    /// # Errors
    /// If the node is not running.
    pub(super) fn interop(&self) -> Result<Client, Failure> {
        Ok(Client::new(Door::Tcp(self.node.address("interop")?)))
    }

    /// A client of the mailbox listener, with the capability.
    ///
    /// # Errors
    /// If the node is not running.
    pub(super) fn mailbox(&self) -> Result<Client, Failure> {
        Ok(Client::new(Door::Tcp(self.node.address("mailbox")?)).with_token(&self.token))
    }
}

/// A path of a topic of the demo.
#[must_use]
pub(super) fn path(topic: &str, what: &str) -> String {
    format!("/v1/{TENANT}/{topic}{what}")
}

/// Receives up to `max` messages, waiting for the first.
///
/// # Errors
/// The node's refusal.
pub(super) async fn recv(
    mailbox: &mut Client,
    topic: &str,
    max: usize,
    wait: Duration,
    visibility: Duration,
) -> Result<Vec<Delivered>, Failure> {
    #[derive(Deserialize)]
    struct Received {
        messages: Vec<Delivered>,
    }
    let want = json!({
        "max_messages": max,
        "wait_ms": wait.as_millis() as u64,
        "visibility_ms": visibility.as_millis() as u64,
    });
    let received: Received = mailbox.read(Call::json(path(topic, "/recv"), &want)).await?;
    Ok(received.messages)
}

/// Settles deliveries with `what` (`/ack`, `/nack`); `more` goes into the request beside the receipts.
///
/// # Errors
/// The node's refusal, of all or of one.
pub(super) async fn settle(
    mailbox: &mut Client,
    topic: &str,
    what: &str,
    deliveries: &[Delivered],
    more: Value,
) -> Result<(), Failure> {
    let mut body = more;
    body["receipts"] = deliveries.iter().map(|delivered| delivered.receipt.as_str()).collect();
    let answer: Value = mailbox.read(Call::json(path(topic, what), &body)).await?;
    let results = answer["results"].as_array().cloned().unwrap_or_default();
    let ok = results.iter().filter(|result| result["ok"] == true).count();
    ensure(ok == deliveries.len(), || format!("{what} of {} deliveries: {answer}", deliveries.len()))
}

/// The topic's figures.
///
/// # Errors
/// The node's refusal.
pub(super) async fn stat(mailbox: &mut Client, topic: &str) -> Result<Value, Failure> {
    mailbox.read(Call::get(path(topic, ""))).await
}

/// Checks that an answer is the refusal that it should be; its text.
///
/// # Errors
/// If it is not.
pub(super) fn expect_refusal(answer: &Answer, status: u16, reason: &str) -> Result<String, Failure> {
    let refused = answer.refused();
    let as_expected = answer.status.as_u16() == status && refused.reason == reason;
    let got = || format!("expected {status} {reason}, got {} {refused}", answer.status.as_u16());
    ensure(as_expected, got)?;
    Ok(String::from_utf8_lossy(&answer.body).into_owned())
}

/// Fails with a text unless `holds`.
///
/// # Errors
/// That text.
pub(super) fn ensure(holds: bool, text: impl FnOnce() -> String) -> Result<(), Failure> {
    if holds { Ok(()) } else { Err(failed(text())) }
}
