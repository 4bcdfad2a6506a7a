//! The providers' side, for the demo and the benchmarks: webhooks signed as each vendor's documents say. It shares no
//! code with the node's verifier, so that what that accepts is what a vendor sends.

use crate::ambient;
use crate::client::Call;
use crate::failure::Failure;
use crate::own_node::OwnNode;
use data_encoding::{BASE64, HEXLOWER};
use ed25519_dalek::{Signer, SigningKey};
use hmac::{Hmac, KeyInit, Mac};
use serde_json::json;
use sha2::Sha256;
use std::fmt;

/// A provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// <https://docs.github.com/webhooks/using-webhooks/validating-webhook-deliveries>
    Github,
    /// <https://docs.stripe.com/webhooks#verify-manually>
    Stripe,
    /// <https://docs.slack.dev/authentication/verifying-requests-from-slack>
    Slack,
    /// <https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>
    StandardWebhooks,
    /// <https://shopify.dev/docs/apps/build/webhooks/subscribe/https>
    Shopify,
    /// <https://discord.com/developers/docs/interactions/overview#setting-up-an-endpoint>
    Discord,
}

impl Kind {
    /// Every provider.
    pub(crate) const ALL: [Kind; 6] =
        [Kind::Github, Kind::Stripe, Kind::Slack, Kind::StandardWebhooks, Kind::Shopify, Kind::Discord];

    /// The name of its scheme; also of the provider and of its topic.
    #[must_use]
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Github => "github",
            Kind::Stripe => "stripe",
            Kind::Slack => "slack",
            Kind::StandardWebhooks => "standard_webhooks",
            Kind::Shopify => "shopify",
            Kind::Discord => "discord",
        }
    }

    /// An event of the kind that the vendor sends, different for every `id`.
    #[must_use]
    pub(crate) fn event(self, id: &str) -> Vec<u8> {
        let event = match self {
            Kind::Github => json!({
                "ref": "refs/heads/main", "after": id, "repository": {"full_name": "acme/site"}
            }),
            Kind::Stripe => json!({
                "id": format!("evt_{id}"), "object": "event", "type": "invoice.paid",
                "data": {"object": {"amount_paid": 4200}}
            }),
            Kind::Slack => json!({
                "type": "event_callback", "event_id": format!("Ev{id}"), "team_id": "T024BE7LD",
                "event": {"type": "app_mention", "text": "hello"}
            }),
            Kind::StandardWebhooks => json!({ "type": "contact.created", "data": {"contact": id} }),
            Kind::Shopify => json!({ "id": 820_982_911, "name": id, "total_price": "42.00" }),
            Kind::Discord => json!({
                "version": 1, "application_id": "1234567890", "type": 1,
                "event": {"type": "APPLICATION_AUTHORIZED", "data": {"note": id}}
            }),
        };
        event.to_string().into_bytes()
    }
}

/// A provider with its secret.
#[derive(Clone)]
pub(crate) struct Sender {
    /// Which one.
    pub(crate) kind: Kind,
    seed: [u8; 32],
}

impl fmt::Debug for Sender {
    /// Without the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").field("kind", &self.kind).finish_non_exhaustive()
    }
}

impl Sender {
    /// A provider with a fresh secret.
    ///
    /// # Errors
    /// If the system gives no random bytes.
    pub(crate) fn new(kind: Kind) -> Result<Sender, Failure> {
        Ok(Sender { kind, seed: ambient::random()? })
    }

    /// What the node is given to verify with: the shared secret, or the public key.
    #[must_use]
    fn node_secret(&self) -> String {
        match self.kind {
            Kind::Github | Kind::Slack | Kind::Shopify => HEXLOWER.encode(&self.seed),
            Kind::Stripe => format!("whsec_{}", HEXLOWER.encode(&self.seed)),
            Kind::StandardWebhooks => format!("whsec_{}", BASE64.encode(&self.seed)),
            Kind::Discord => HEXLOWER.encode(SigningKey::from_bytes(&self.seed).verifying_key().as_bytes()),
        }
    }

    /// The table of a node's configuration that has it take this provider's webhooks for `tenant`, into the topic of
    /// the provider's name.
    ///
    /// # Errors
    /// If the file of the secret cannot be written.
    pub(crate) fn configuration(&self, node: &OwnNode, tenant: &str) -> Result<String, Failure> {
        let name = self.kind.name();
        let file = node.write(&format!("{name}.secret"), self.node_secret().as_bytes())?;
        Ok(format!(
            "[interop.providers.{name}]\nscheme = \"{name}\"\ntenant = \"{tenant}\"\ntopic = \"{name}\"\n\
             enabled = true\nsecrets = [{{ kid = \"own-1\", file = {:?} }}]\n\n",
            file.display().to_string(),
        ))
    }

    /// A webhook with this body, signed at `at` (Unix seconds); `id` names the event where the vendor has a
    /// header for that.
    #[must_use]
    pub(crate) fn webhook(&self, id: &str, at: i64, body: &[u8]) -> Call {
        let call = Call::post(format!("/webhooks/{}", self.kind.name()), body.to_vec());
        let call = call.header("content-type", "application/json");
        // all but two vendors use the secret's text as the key
        let text_key = || self.node_secret().into_bytes();
        let before_body = |before: String| [before.as_bytes(), body].concat();
        match self.kind {
            Kind::Github => call.header("x-github-event", "push").header("x-github-delivery", id).header(
                "x-hub-signature-256",
                format!("sha256={}", HEXLOWER.encode(&mac(&text_key(), body))),
            ),
            Kind::Stripe => {
                let mac = HEXLOWER.encode(&mac(&text_key(), &before_body(format!("{at}."))));
                call.header("stripe-signature", format!("t={at},v1={mac}"))
            }
            Kind::Slack => {
                let mac = HEXLOWER.encode(&mac(&text_key(), &before_body(format!("v0:{at}:"))));
                call.header("x-slack-request-timestamp", at.to_string())
                    .header("x-slack-signature", format!("v0={mac}"))
            }
            Kind::StandardWebhooks => {
                let mac = BASE64.encode(&mac(&self.seed, &before_body(format!("{id}.{at}."))));
                call.header("webhook-id", id)
                    .header("webhook-timestamp", at.to_string())
                    .header("webhook-signature", format!("v1,{mac}"))
            }
            Kind::Shopify => call
                .header("x-shopify-topic", "orders/paid")
                .header("x-shopify-webhook-id", id)
                .header("x-shopify-hmac-sha256", BASE64.encode(&mac(&text_key(), body))),
            Kind::Discord => {
                let signed = SigningKey::from_bytes(&self.seed).sign(&before_body(at.to_string()));
                call.header("x-signature-timestamp", at.to_string())
                    .header("x-signature-ed25519", HEXLOWER.encode(&signed.to_bytes()))
            }
        }
    }
}

/// HMAC-SHA-256.
fn mac(key: &[u8], message: &[u8]) -> [u8; 32] {
    // an HMAC takes keys of every length
    let Ok(mac) = Hmac::<Sha256>::new_from_slice(key) else { return [0; 32] };
    mac.chain_update(message).finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_githubs_own_example() {
        let mac = mac(b"It's a Secret to Everybody", b"Hello, World!");
        let expected = "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
        assert_eq!(HEXLOWER.encode(&mac), expected);
    }

    #[test]
    fn signs_the_example_of_the_standard_webhooks_documents() {
        let message = br#"msg_p5jXN8AQM9LWM0D4loKWxJek.1614265330.{"test": 2432232314}"#;
        let key = BASE64.decode(b"MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        assert_eq!(BASE64.encode(&mac(&key, message)), "g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn every_event_is_its_own() {
        for kind in Kind::ALL {
            assert_ne!(kind.event("a"), kind.event("b"), "{}", kind.name());
        }
    }
}
