//! Names and identifiers: parsed at the edge, carried as types everywhere else (SPEC §1).

use crate::time::Millis;
use serde::{Deserialize, Serialize};
use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;
use ulid::Ulid;

/// Why a name or an id was not accepted. Holds the rule, never the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what} must match {rule}")]
pub struct BadName {
    /// What was being parsed.
    pub what: &'static str,
    /// The rule it broke.
    pub rule: &'static str,
}

fn well_formed(text: &str, len_max: usize, also: &[u8]) -> bool {
    let bytes = text.as_bytes();
    let lower_or_digit = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    (1..=len_max).contains(&bytes.len())
        && lower_or_digit(bytes[0])
        && bytes.iter().all(|&b| lower_or_digit(b) || also.contains(&b))
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $what:literal, $rule:literal, $len:literal, $also:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Parses the name.
            ///
            /// # Errors
            /// [`BadName`] with the rule that it breaks.
            pub fn parse(text: &str) -> Result<Self, BadName> {
                if well_formed(text, $len, $also) {
                    Ok(Self(text.into()))
                } else {
                    Err(BadName { what: $what, rule: $rule })
                }
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        // Hash and order are those of the text, so that a map of names can be asked with a text.
        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let text = String::deserialize(from)?;
                Self::parse(&text).map_err(serde::de::Error::custom)
            }
        }
    };
}

name_type!(
    /// A tenant: `[a-z0-9][a-z0-9-]{0,62}`.
    Tenant,
    "tenant",
    "[a-z0-9][a-z0-9-]{0,62}",
    63,
    b"-"
);
name_type!(
    /// A topic: `[a-z0-9][a-z0-9._-]{0,127}`.
    Topic,
    "topic",
    "[a-z0-9][a-z0-9._-]{0,127}",
    128,
    b"._-"
);
name_type!(
    /// The id of a key or secret: `[a-z0-9][a-z0-9._-]{0,62}`. Safe to log.
    Kid,
    "kid",
    "[a-z0-9][a-z0-9._-]{0,62}",
    63,
    b"._-"
);
name_type!(
    /// A webhook provider's name in the configuration: `[a-z0-9][a-z0-9._-]{0,62}`.
    ProviderName,
    "provider",
    "[a-z0-9][a-z0-9._-]{0,62}",
    63,
    b"._-"
);

/// One queue: a topic of a tenant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct QueueKey {
    /// Whose it is.
    pub tenant: Tenant,
    /// Which of the tenant's topics.
    pub topic: Topic,
}

impl fmt::Display for QueueKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.tenant, self.topic)
    }
}

/// The number of a shard in its store; given at a topic's first use, never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ShardId(pub u32);

/// Where a record lives for ever: chunk number (48 bit) and place in the chunk (16 bit). Given by the store when
/// it cuts a commit, never used twice. Slots of one store rise in the order of commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Slot(pub u64);

impl Slot {
    /// The slot of record `idx` of `chunk`.
    #[must_use]
    pub const fn new(chunk: u64, idx: u16) -> Slot {
        Slot((chunk << 16) | idx as u64)
    }

    /// The chunk's number.
    #[must_use]
    pub const fn chunk(self) -> u64 {
        self.0 >> 16
    }

    /// The record's place in its chunk.
    #[must_use]
    pub const fn idx(self) -> u16 {
        (self.0 & 0xffff) as u16
    }

    /// Whether its message is kept in memory alone, for life: the store gives such chunks odd numbers.
    #[must_use]
    pub const fn is_ram(self) -> bool {
        self.chunk() & 1 == 1
    }

    /// The slot `n` places further in the same chunk.
    #[must_use]
    pub const fn forward(self, n: u16) -> Slot {
        Slot(self.0 + n as u64)
    }
}

/// Random 64 bits of a store: new at creation, at restore, and at every start in RAM mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Incarnation(pub u64);

/// A message's public id: a ULID of 48 bits of time, 16 bits of the store's incarnation and the 64-bit slot.
/// It leads to the record without an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId(u128);

impl MessageId {
    /// The id of the message that `incarnation`'s store put into `slot` at `enqueued`.
    #[must_use]
    pub fn new(enqueued: Millis, incarnation: Incarnation, slot: Slot) -> MessageId {
        let ms = u128::from(enqueued.0 & 0xffff_ffff_ffff);
        MessageId((ms << 80) | (u128::from(incarnation.0 & 0xffff) << 64) | u128::from(slot.0))
    }

    /// Parses the canonical 26-character text.
    ///
    /// # Errors
    /// [`BadName`] for anything that is not exactly what [`fmt::Display`] writes.
    pub fn parse(text: &str) -> Result<MessageId, BadName> {
        let bad = BadName { what: "msg_id", rule: "a 26-character ULID in upper case" };
        let id = MessageId(Ulid::from_string(text).map_err(|_| bad)?.0);
        if id.to_string() == text { Ok(id) } else { Err(bad) }
    }

    /// Its 16 bytes, as OAP/1 has them.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// Where the record would be, if this id is of this store.
    #[must_use]
    pub const fn slot(self) -> Slot {
        Slot(self.0 as u64)
    }

    /// Whether this is the id of the record in its slot, enqueued at `enqueued` in `incarnation`.
    #[must_use]
    pub fn is(self, enqueued: Millis, incarnation: Incarnation) -> bool {
        self == MessageId::new(enqueued, incarnation, self.slot())
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Ulid(self.0).array_to_str(&mut [0; 26]))
    }
}

impl Serialize for MessageId {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

/// Joins the log lines, answers and records of one request: 8–64 of `[A-Za-z0-9_-]`.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CorrId(Arc<str>);

impl CorrId {
    /// The caller's own id, if it is well formed.
    #[must_use]
    pub fn parse(text: &str) -> Option<CorrId> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
        ((8..=64).contains(&text.len()) && text.bytes().all(plain)).then(|| CorrId(text.into()))
    }

    /// A new id from a wall-clock time and 80 random bits.
    #[must_use]
    pub fn generate(wall: Millis, random: u128) -> CorrId {
        CorrId(Ulid::from_parts(wall.0, random).to_string().into())
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for CorrId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for CorrId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A content address: BLAKE3-256 of the bytes, written `b3:` and 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ContentHash(pub [u8; 32]);

impl ContentHash {
    /// The address of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> ContentHash {
        ContentHash(*blake3::hash(bytes).as_bytes())
    }

    /// Parses `b3:<64 lower-case hex>`.
    ///
    /// # Errors
    /// [`BadName`] for anything else.
    pub fn parse(text: &str) -> Result<ContentHash, BadName> {
        let bad = BadName { what: "content address", rule: "b3: and 64 lower-case hex digits" };
        let hex = text.strip_prefix("b3:").ok_or(bad)?;
        let bytes = data_encoding::HEXLOWER.decode(hex.as_bytes()).map_err(|_| bad)?;
        Ok(ContentHash(bytes.try_into().map_err(|_| bad)?))
    }
}

impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "b3:{}", data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_their_rules() {
        for good in ["a", "0", "acme", "a-b", &"x".repeat(63)] {
            assert!(Tenant::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "A", "a.b", "a_b", "é", "a b", &"x".repeat(64)] {
            assert!(Tenant::parse(bad).is_err(), "{bad}");
        }
        assert!(Topic::parse("orders.eu_west-1").is_ok());
        assert!(Topic::parse(".orders").is_err());
        assert!(Topic::parse(&"x".repeat(129)).is_err());
    }

    #[test]
    fn message_id_carries_time_incarnation_and_slot() {
        let inc = Incarnation(0xdead_beef_0123_4567);
        let id = MessageId::new(Millis(1_700_000_000_123), inc, Slot::new(77, 3));
        let text = id.to_string();
        assert_eq!(text.len(), 26);
        assert_eq!(MessageId::parse(&text), Ok(id));
        assert!(MessageId::parse(&text.to_lowercase()).is_err());
        assert_eq!(id.slot(), Slot::new(77, 3));
        assert!(id.is(Millis(1_700_000_000_123), inc));
        assert!(!id.is(Millis(1_700_000_000_124), inc));
        assert!(!id.is(Millis(1_700_000_000_123), Incarnation(inc.0 ^ 1)));
    }

    #[test]
    fn content_hash_round_trips() {
        let hash = ContentHash::of(b"hello");
        assert_eq!(ContentHash::parse(&hash.to_string()), Ok(hash));
        assert!(ContentHash::parse(&hash.to_string().to_uppercase()).is_err());
    }
}
