//! Caveats: their grammar, and what each lets through (SPEC §5).

use super::canonical;
use crate::ids::{Tenant, Topic};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// How far the issuer's clock and ours may be apart, in seconds.
pub const SKEW_S: u64 = 30;

/// What a request wants to do. No op implies another, except that `recv` is what extends a lease, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Op {
    /// Send messages.
    Enqueue,
    /// Receive messages.
    Recv,
    /// Extend a lease: granted by the word `recv`, but settles.
    Extend,
    /// Acknowledge.
    Ack,
    /// Give back or reject.
    Nack,
    /// Look at messages without receiving them.
    Peek,
    /// Read figures, list topics.
    Stat,
    /// Settings, pause, purge, DLQ, subscribers, delete.
    Admin,
    /// Upload an object.
    Put,
    /// Download an object.
    Get,
    /// Ask the node about itself or a token.
    Introspect,
}

impl Op {
    /// Every op that has a word of its own, in the order of SPEC §5.
    pub const WORDS: [Op; 10] = [
        Op::Enqueue,
        Op::Recv,
        Op::Ack,
        Op::Nack,
        Op::Peek,
        Op::Stat,
        Op::Admin,
        Op::Put,
        Op::Get,
        Op::Introspect,
    ];

    /// The word of an `op` caveat that grants it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Op::Enqueue => "enqueue",
            Op::Recv | Op::Extend => "recv",
            Op::Ack => "ack",
            Op::Nack => "nack",
            Op::Peek => "peek",
            Op::Stat => "stat",
            Op::Admin => "admin",
            Op::Put => "put",
            Op::Get => "get",
            Op::Introspect => "introspect",
        }
    }

    /// The op of a word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Op> {
        Op::WORDS.into_iter().find(|op| op.word() == word)
    }

    /// Whether it settles a delivery: such requests always get through, so no rate counts them.
    #[must_use]
    pub const fn settles(self) -> bool {
        matches!(self, Op::Ack | Op::Nack | Op::Extend)
    }
}

impl Serialize for Op {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.word())
    }
}

impl<'de> Deserialize<'de> for Op {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Op, D::Error> {
        let word = String::deserialize(from)?;
        let known = "enqueue, recv, ack, nack, peek, stat, admin, put, get or introspect";
        Op::parse(&word).ok_or_else(|| serde::de::Error::custom(format!("an op is one of {known}")))
    }
}

/// Which listener a request came in on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Audience {
    /// The mailbox's own ports (9410, 9411).
    Mailbox,
    /// The public port (8080).
    Interop,
}

impl Audience {
    /// The word of an `aud` caveat.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Audience::Mailbox => "mailbox",
            Audience::Interop => "interop",
        }
    }

    /// The audience of a word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Audience> {
        [Audience::Mailbox, Audience::Interop].into_iter().find(|aud| aud.word() == word)
    }
}

/// One request, as capabilities see it.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    /// What it wants to do.
    pub op: Op,
    /// The tenant of its path.
    pub tenant: &'a Tenant,
    /// The topic of its path. `None` for a request about a whole tenant: of a token narrowed to topics that
    /// is allowed for `stat` alone, whose list shows only what [`super::Capability::topics_allowed`] lets
    /// through.
    pub topic: Option<&'a Topic>,
    /// The listener it came in on.
    pub audience: Audience,
    /// The TCP peer, or who a trusted proxy says it is.
    pub peer: IpAddr,
    /// Bytes of the largest message it sends; `None` if it sends none, or that is not known yet.
    pub message_bytes: Option<u64>,
    /// Wall clock, Unix seconds.
    pub wall_unix_s: u64,
}

/// A rate that must be charged before the request is served: one bucket a caveat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RateLimit {
    /// The bucket's key: the MAC just after the caveat, so that attenuated tokens share their ancestor's
    /// bucket.
    pub mac: [u8; 32],
    /// Requests a second.
    pub per_second: u64,
}

/// Topics that a caveat lets through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicPattern {
    text: String,
    prefix: bool,
}

impl TopicPattern {
    /// Reads a topic's name, or the start of one followed by `*`.
    #[must_use]
    pub fn parse(text: &str) -> Option<TopicPattern> {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b);
        match text.strip_suffix('*') {
            Some(start) if start.len() <= 128 && start.bytes().all(plain) => {
                Some(TopicPattern { text: start.to_owned(), prefix: true })
            }
            Some(_) => None,
            None => Topic::parse(text).ok().map(|_| TopicPattern { text: text.to_owned(), prefix: false }),
        }
    }

    /// Whether it lets every topic through.
    #[must_use]
    pub fn is_all(&self) -> bool {
        self.prefix && self.text.is_empty()
    }

    /// Whether it lets `topic` through.
    #[must_use]
    pub fn matches(&self, topic: &Topic) -> bool {
        if self.prefix { topic.as_str().starts_with(&self.text) } else { topic.as_str() == self.text }
    }
}

/// A caveat that could be read. All of a token's must hold, repeated ones too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caveat {
    /// `op`: any of these.
    Op(Vec<Op>),
    /// `topic`: this one, or all with this prefix.
    Topic(TopicPattern),
    /// `exp`: not from this Unix second on.
    Exp(u64),
    /// `exp = never`, which only a minter can write.
    ExpNever,
    /// `nbf`: not before this Unix second.
    Nbf(u64),
    /// `aud`: only on this listener.
    Aud(Audience),
    /// `ip`: only from these peers.
    Ip(IpNet),
    /// `max_bytes`: of one message.
    MaxBytes(u64),
    /// `rps`: requests a second.
    Rps(u64),
}

impl Caveat {
    /// Reads the caveat at place `at` of its token; `None` if it is unknown or cannot be read, which denies.
    #[must_use]
    pub fn parse(text: &str, at: usize) -> Option<Caveat> {
        let (key, value) = text.split_once(" = ")?;
        let key_ok = !key.is_empty() && key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
        let value_ok = !value.is_empty() && value.bytes().all(|b| (0x21..=0x7e).contains(&b));
        if !key_ok || !value_ok {
            return None;
        }
        match key {
            "op" => value.split(',').map(Op::parse).collect::<Option<Vec<_>>>().map(Caveat::Op),
            "topic" => TopicPattern::parse(value).map(Caveat::Topic),
            "exp" if value == "never" => (at == 0).then_some(Caveat::ExpNever),
            "exp" => integer(value).map(Caveat::Exp),
            "nbf" => integer(value).map(Caveat::Nbf),
            "aud" => Audience::parse(value).map(Caveat::Aud),
            "ip" => cidr(value).map(Caveat::Ip),
            "max_bytes" => integer(value).map(Caveat::MaxBytes),
            "rps" => integer(value).map(Caveat::Rps),
            _ => None,
        }
    }

    /// Why the caveat denies this request, if it does. Time is judged apart, since it has a reason of its
    /// own; so are rates, since they have a memory.
    pub(super) fn denies(&self, ask: &Ask<'_>) -> Option<&'static str> {
        let (holds, why) = match self {
            Caveat::Exp(_) | Caveat::ExpNever | Caveat::Nbf(_) | Caveat::Rps(_) => return None,
            Caveat::Op(ops) => {
                let granted = ops.iter().any(|op| op.word() == ask.op.word());
                (granted, "capability: not for this operation (`op`)")
            }
            Caveat::Topic(pattern) => {
                // a tenant's list, and the API's own schema, are of no one topic; objects are of all the tenant's, so
                // whoever is held to some of its topics has none of them
                let of_none = match ask.op {
                    Op::Stat | Op::Introspect => true,
                    Op::Put | Op::Get => pattern.is_all(),
                    _ => false,
                };
                let seen = ask.topic.map_or(of_none, |topic| pattern.matches(topic));
                (seen, "capability: not for this topic (`topic`)")
            }
            Caveat::Aud(aud) => (*aud == ask.audience, "capability: not for this listener (`aud`)"),
            Caveat::Ip(net) => {
                (net.contains(&canonical(ask.peer)), "capability: not from this address (`ip`)")
            }
            Caveat::MaxBytes(max) => {
                let fits = ask.message_bytes.is_none_or(|bytes| bytes <= *max);
                (fits, "capability: not for messages this large (`max_bytes`)")
            }
        };
        (!holds).then_some(why)
    }
}

/// `0|[1-9][0-9]{0,15}`.
fn integer(text: &str) -> Option<u64> {
    let digits = text.len() <= 16 && text.bytes().all(|b| b.is_ascii_digit());
    let plain = text == "0" || !text.starts_with('0');
    if digits && plain { text.parse().ok() } else { None }
}

fn cidr(text: &str) -> Option<IpNet> {
    let (addr, len) = text.split_once('/')?;
    let addr: IpAddr = addr.parse().ok()?;
    IpNet::new(addr, u8::try_from(integer(len)?).ok()?).ok()
}
