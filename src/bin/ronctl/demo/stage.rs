//! What the demo's steps share: the node, a capability, the providers, and the consumer's calls.

use crate::client::{Answer, Call, Client, Door};
use crate::control;
use crate::failure::{Failure, failed};
use crate::own_node::OwnNode;
use crate::sender::{Kind, Sender};
use ron_client::{Delivery, Receipt, Refused, Want};
use ron_core::capability::Op;
use serde::Deserialize;
use serde_json::Value;
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
            providers += &sender.configuration(&node, TENANT)?;
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

    /// What consumers use: a client of the mailbox listener, with the capability.
    ///
    /// # Errors
    /// If the node is not running.
    pub(super) fn consumer(&self) -> Result<ron_client::Client, Failure> {
        let url = format!("http://{}", self.node.address("mailbox")?);
        Ok(ron_client::Client::http(&url, &self.token)?)
    }

    /// The mailbox listener for single calls, with the capability.
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
    consumer: &ron_client::Client,
    topic: &str,
    max: u32,
    wait: Duration,
    visibility: Duration,
) -> Result<Vec<Delivery>, Failure> {
    Ok(consumer.recv(topic, Want::up_to(max).wait(wait).visibility(visibility)).await?)
}

/// Acks deliveries.
///
/// # Errors
/// The node's refusal, of all or of one.
pub(super) async fn ack(
    consumer: &ron_client::Client,
    topic: &str,
    deliveries: &[Delivery],
) -> Result<(), Failure> {
    let receipts: Vec<Receipt> = deliveries.iter().map(|delivery| delivery.receipt).collect();
    settled(consumer.ack(topic, &receipts).await?)
}

/// Whether all were settled.
///
/// # Errors
/// The first refusal.
pub(super) fn settled(results: Vec<Result<(), Refused>>) -> Result<(), Failure> {
    results.into_iter().try_for_each(|result| result.map_err(|refused| failed(refused.to_string())))
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
