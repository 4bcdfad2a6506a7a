//! What is sent: bodies, names and attributes, all out of the seed, so that a retry needs no copy of the
//! body.

use crate::history::Sent;
use crate::node::{GITHUB_TOPIC, KID, STRIPE_TOPIC};
use crate::rng::Rng;
use crate::sign;
use std::collections::BTreeMap;

/// The topics of the load, beside those of the webhooks.
pub const TOPICS: [&str; 6] = ["orders", "mail", "images", "a.b_c-d", "0", "audit.events"];
/// The topic with one sender and one consumer.
pub const FIFO: &str = "in-order";
/// The topic whose consumers fail most messages.
pub const FAILING: &str = "failing";

/// The largest body that the node takes.
const BODY_MAX: usize = 1024 * 1024;
/// What a body has around its filler, at most.
const FRAME_MAX: usize = 128;

/// Every topic of a run.
#[must_use]
pub fn all_topics() -> Vec<&'static str> {
    TOPICS.into_iter().chain([FIFO, FAILING, GITHUB_TOPIC, STRIPE_TOPIC]).collect()
}

/// Who the message comes from and what it looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Any bytes, without a content type.
    Bytes,
    /// JSON, which comes back as text.
    Json,
    /// Text with characters that JSON must escape.
    Text,
    /// Called text, but not UTF-8: comes back in base64.
    BrokenText,
    /// A GitHub webhook.
    Github,
    /// A Stripe webhook.
    Stripe,
}

/// A planned message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Its number in the run.
    pub send: u64,
    /// Its topic.
    pub topic: &'static str,
    /// Its look.
    pub kind: Kind,
    /// About how long the body is.
    pub size: usize,
    /// The idempotency key.
    pub key: Option<String>,
    /// The delay, ms.
    pub delay_ms: u64,
    /// Signed with a wrong secret.
    pub forged: bool,
    /// Mixed into the body: another salt is another body under the same key.
    pub salt: u64,
}

fn size(rng: &mut Rng) -> usize {
    let bytes = match rng.between(0, 999) {
        0..50 => rng.between(1, 16),
        50..700 => rng.between(16, 512),
        700..950 => rng.between(512, 4096),
        950..997 => rng.between(4096, 65_536),
        _ => return BODY_MAX,
    };
    usize::try_from(bytes).unwrap_or(1)
}

impl Plan {
    /// Draws the next message of `topic`.
    pub fn draw(rng: &mut Rng, send: u64, topic: &'static str) -> Plan {
        let kind = match topic {
            GITHUB_TOPIC => Kind::Github,
            STRIPE_TOPIC => Kind::Stripe,
            _ => match rng.between(0, 9) {
                0..4 => Kind::Bytes,
                4..7 => Kind::Json,
                7..9 => Kind::Text,
                _ => Kind::BrokenText,
            },
        };
        let webhook = matches!(kind, Kind::Github | Kind::Stripe);
        let plain = webhook || topic == FIFO;
        let size = match kind {
            Kind::Bytes => size(rng),
            Kind::Json | Kind::Text | Kind::BrokenText => size(rng).min(BODY_MAX - FRAME_MAX),
            Kind::Github | Kind::Stripe => size(rng).min(65_536),
        };
        Plan {
            send,
            topic,
            kind,
            size,
            key: (!webhook && (topic == FIFO || rng.percent(60)))
                .then(|| format!("key-{send:x}!{}", rng.next() % 10)),
            delay_ms: if !plain && rng.percent(8) { rng.between(1, 3000) } else { 0 },
            forged: webhook && rng.percent(4),
            salt: 0,
        }
    }

    /// The body, always the same one.
    #[must_use]
    pub fn body(&self, seed: u64) -> Vec<u8> {
        let mut rng = Rng::new(seed ^ self.salt, self.send);
        let mut filler = |alphabet: &[char]| -> String {
            let mut text = String::with_capacity(self.size + 4);
            while text.len() < self.size {
                text.push(*rng.pick(alphabet).unwrap_or(&'x'));
            }
            text
        };
        let (send, salt) = (self.send, self.salt);
        match self.kind {
            Kind::Bytes => {
                let mut bytes = vec![0; self.size];
                rng.fill(&mut bytes);
                bytes
            }
            Kind::Json => {
                format!("{{\"send\":{send},\"salt\":{salt},\"pad\":\"{}\"}}", filler(&PLAIN)).into_bytes()
            }
            Kind::Text => filler(&AWKWARD).into_bytes(),
            Kind::BrokenText => [filler(&AWKWARD).as_bytes(), b"\xff\xc0"].concat(),
            Kind::Github => {
                let pad = filler(&PLAIN);
                format!("{{\"action\":\"opened\",\"number\":{send},\"salt\":{salt},\"pad\":\"{pad}\"}}")
                    .into_bytes()
            }
            Kind::Stripe => {
                let (id, pad) = (self.event_id(), filler(&PLAIN));
                format!(
                    "{{\"id\":\"{id}\",\"object\":\"event\",\"type\":\"charge.succeeded\",\"pad\":\"{pad}\"}}"
                )
                .into_bytes()
            }
        }
    }

    /// The provider's id of the event.
    #[must_use]
    pub fn event_id(&self) -> String {
        format!("evt_drill{:x}", self.send)
    }

    /// GitHub's delivery id.
    #[must_use]
    pub fn delivery_id(&self) -> String {
        format!("00000000-0000-4000-8000-{:012x}", self.send)
    }

    /// The `Content-Type` header, if there is one.
    #[must_use]
    pub fn content_type(&self) -> Option<&'static str> {
        match self.kind {
            Kind::Bytes => None,
            Kind::Json | Kind::Github => Some("application/json"),
            Kind::Text | Kind::BrokenText => Some("text/plain"),
            Kind::Stripe => Some("application/json; charset=utf-8"),
        }
    }

    /// What the journal says of it.
    #[must_use]
    pub fn sent(&self, body: &[u8]) -> Sent {
        let attr = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let hash = sign::content_address(body);
        let (attrs, key) = match self.kind {
            Kind::Github => {
                let attrs = [
                    attr("webhook-provider", "github"),
                    attr("webhook-kid", KID),
                    attr("webhook-unsigned-id", &self.delivery_id()),
                    attr("webhook-unsigned-type", "pull_request"),
                ];
                (BTreeMap::from(attrs), Some(hash.clone()))
            }
            Kind::Stripe => {
                let attrs = [
                    attr("webhook-provider", "stripe"),
                    attr("webhook-kid", KID),
                    attr("webhook-id", &self.event_id()),
                    attr("webhook-type", "charge.succeeded"),
                ];
                (BTreeMap::from(attrs), Some(self.event_id()))
            }
            Kind::Bytes | Kind::Json | Kind::Text | Kind::BrokenText => {
                (BTreeMap::from([attr("cid", &format!("{:x}", self.send))]), self.key.clone())
            }
        };
        Sent {
            send: self.send,
            key,
            hash,
            len: u64::try_from(body.len()).unwrap_or(u64::MAX),
            content_type: self.content_type().unwrap_or("application/octet-stream").to_owned(),
            attrs,
            delay_ms: self.delay_ms,
            forged: self.forged,
        }
    }
}

const PLAIN: [char; 16] = ['a', 'b', 'c', 'd', 'e', 'f', '0', '1', '2', '3', ' ', '-', '_', 'X', 'Y', 'Z'];
const AWKWARD: [char; 16] =
    ['"', '\\', '\n', '\r', '\t', '\0', '\u{7f}', '/', 'é', '♥', '𝄞', '\u{2028}', '\u{feff}', '<', 'z', ' '];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_has_one_body_and_another_salt_another() {
        let mut rng = Rng::new(3, 1);
        for (send, topic) in all_topics().into_iter().cycle().take(200).enumerate() {
            let plan = Plan::draw(&mut rng, u64::try_from(send).unwrap() + 1, topic);
            let body = plan.body(9);
            assert_eq!(body, plan.body(9));
            assert!(!body.is_empty() && body.len() <= BODY_MAX, "{plan:?}");
            let salted = Plan { salt: 1, ..plan.clone() };
            if plan.size > 8 && plan.kind != Kind::Stripe {
                assert_ne!(body, salted.body(9), "{plan:?}");
            }
            if plan.kind != Kind::Bytes {
                assert_eq!(std::str::from_utf8(&body).is_ok(), plan.kind != Kind::BrokenText, "{plan:?}");
            }
        }
    }
}
