//! What a minter writes into a token: the caveats of a request to mint, and of a verified webhook.

use super::caveat::TopicPattern;
use super::{Audience, Caveat, Op};
use crate::ids::{Tenant, Topic};
use crate::reason::{Reason, Refusal};
use serde::{Deserialize, Deserializer, Serialize};

/// How long the capability of a verified webhook lives, in seconds.
pub const WEBHOOK_TTL_S: u64 = 60;

/// A request to mint; also the body of the control socket's mint call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MintRequest {
    /// Whose token.
    pub tenant: Tenant,
    /// A topic, or the start of one followed by `*`.
    pub topic: String,
    /// What it may do; at least one.
    pub ops: Vec<Op>,
    /// Its life in ms; `None` (an explicit `null`) = it never expires.
    #[serde(deserialize_with = "present")]
    pub ttl_ms: Option<u64>,
    /// The only listener it works on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aud: Option<Audience>,
    /// The only peers it works from, as a CIDR or one address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip: Option<String>,
    /// Largest message, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<u64>,
    /// Requests a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rps: Option<u64>,
}

/// A missing field must not mean "never expires"; only a written `null` does.
fn present<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    Option::deserialize(from)
}

impl MintRequest {
    /// The caveats of the token, `exp` first.
    ///
    /// # Errors
    /// MALFORMED, naming the field.
    pub fn caveats(&self, wall_unix_s: u64, ttl_max_ms: u64) -> Result<Vec<String>, Refusal> {
        let bad = |text: String| Refusal::new(Reason::Malformed, text);
        let exp = match self.ttl_ms {
            None => "exp = never".to_owned(),
            Some(ms) if (1..=ttl_max_ms).contains(&ms) => {
                format!("exp = {}", wall_unix_s.saturating_add(ms.div_ceil(1000)))
            }
            Some(_) => return Err(bad(format!("ttl must be 1 ms to {ttl_max_ms} ms (auth.max_ttl)"))),
        };
        if TopicPattern::parse(&self.topic).is_none() {
            return Err(bad("topic must be a topic's name, or the start of one followed by `*`".into()));
        }
        if self.ops.is_empty() {
            return Err(bad("ops must name at least one operation".into()));
        }
        let mut words: Vec<&str> = Vec::new();
        for op in &self.ops {
            if !words.contains(&op.word()) {
                words.push(op.word());
            }
        }
        let mut caveats = vec![exp, format!("op = {}", words.join(",")), format!("topic = {}", self.topic)];
        caveats.extend(self.aud.map(|aud| format!("aud = {}", aud.word())));
        caveats.extend(self.ip.as_deref().map(with_prefix_length));
        caveats.extend(self.max_bytes.map(|max| format!("max_bytes = {max}")));
        caveats.extend(self.rps.map(|rps| format!("rps = {rps}")));
        for (at, caveat) in caveats.iter().enumerate() {
            if Caveat::parse(caveat, at).is_none() {
                let field = caveat.split(' ').next().unwrap_or_default();
                return Err(bad(format!("{field} is out of range or not well formed")));
            }
        }
        Ok(caveats)
    }
}

fn with_prefix_length(ip: &str) -> String {
    match ip.parse() {
        Ok(std::net::IpAddr::V4(addr)) => format!("ip = {addr}/32"),
        Ok(std::net::IpAddr::V6(addr)) => format!("ip = {addr}/128"),
        Err(_) => format!("ip = {ip}"),
    }
}

/// The caveats of the capability that a verified webhook gets (SPEC §5): the mailbox, enqueue, one topic.
#[must_use]
pub fn webhook_caveats(topic: &Topic, max_bytes: u64, wall_unix_s: u64) -> Vec<String> {
    vec![
        format!("exp = {}", wall_unix_s.saturating_add(WEBHOOK_TTL_S)),
        "aud = mailbox".to_owned(),
        "op = enqueue".to_owned(),
        format!("topic = {topic}"),
        format!("max_bytes = {max_bytes}"),
    ]
}

/// The caveats of the capability that an egress takes messages with: the mailbox, one topic, receiving and settling.
#[must_use]
pub fn egress_caveats(topic: &Topic, wall_unix_s: u64) -> Vec<String> {
    vec![
        format!("exp = {}", wall_unix_s.saturating_add(WEBHOOK_TTL_S)),
        "aud = mailbox".to_owned(),
        "op = recv,ack,nack".to_owned(),
        format!("topic = {topic}"),
    ]
}
