//! A message before it has its bytes: what headers or a batch item say about it, checked against SPEC §4.

use bytes::Bytes;
use ron_core::ids::ContentHash;
use ron_core::message::{ATTR_BYTES_MAX, ATTRS_MAX, DedupClaim, MessageMeta, NewMessage, Origin};
use ron_core::reason::{Reason, Refusal};

/// Longest delay and life of a message: 30 days.
pub(crate) const DELAY_MS_MAX: u64 = 2_592_000_000;
/// Shortest life of a message.
pub(crate) const TTL_MS_MIN: u64 = 100;
const CONTENT_TYPE_BYTES_MAX: usize = 1024;
const KEY_BYTES_MAX: usize = 256;
const ATTR_NAME_BYTES_MAX: usize = 64;

/// What a sender says about a message.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Draft {
    /// `None` = `application/octet-stream`.
    pub(crate) content_type: Option<String>,
    pub(crate) idempotency_key: Option<String>,
    pub(crate) delay_ms: u64,
    pub(crate) ttl_ms: Option<u64>,
    /// What the sender says the payload's hash is.
    pub(crate) payload_hash: Option<ContentHash>,
    /// The object that is its body; then it has no payload.
    pub(crate) body_ref: Option<ContentHash>,
    /// In the order sent.
    pub(crate) attrs: Vec<(String, String)>,
}

/// How the sender's field is called, where headers and JSON differ.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FieldNames {
    pub(crate) content_type: &'static str,
    pub(crate) key: &'static str,
    pub(crate) delay: &'static str,
    pub(crate) ttl: &'static str,
    pub(crate) attr: &'static str,
}

impl FieldNames {
    /// As fields of a JSON body, or of OAP/1, are called.
    pub(crate) const BODY: FieldNames = FieldNames {
        content_type: "content_type",
        key: "idempotency_key",
        delay: "delay_ms",
        ttl: "ttl_ms",
        attr: "attrs",
    };
}

pub(crate) fn malformed(text: impl Into<std::borrow::Cow<'static, str>>) -> Refusal {
    Refusal::new(Reason::Malformed, text)
}

impl Draft {
    /// Checks every rule but the payload's.
    pub(crate) fn check(&self, names: FieldNames) -> Result<(), Refusal> {
        if let Some(content_type) = &self.content_type
            && (content_type.len() > CONTENT_TYPE_BYTES_MAX || content_type.chars().any(char::is_control))
        {
            return Err(malformed(format!(
                "{} must be ≤{CONTENT_TYPE_BYTES_MAX} bytes of text",
                names.content_type
            )));
        }
        if let Some(key) = &self.idempotency_key
            && !((1..=KEY_BYTES_MAX).contains(&key.len()) && key.bytes().all(|b| (0x21..=0x7e).contains(&b)))
        {
            return Err(malformed(format!("{} must be 1 to 256 bytes of 0x21-0x7E", names.key)));
        }
        if self.delay_ms > DELAY_MS_MAX {
            return Err(malformed(format!("{} must be 0 to {DELAY_MS_MAX}", names.delay)));
        }
        if let Some(ttl_ms) = self.ttl_ms {
            if !(TTL_MS_MIN..=DELAY_MS_MAX).contains(&ttl_ms) {
                return Err(malformed(format!("{} must be {TTL_MS_MIN} to {DELAY_MS_MAX}", names.ttl)));
            }
            if self.delay_ms >= ttl_ms {
                return Err(malformed(format!("{} must be less than {}", names.delay, names.ttl)));
            }
        }
        self.check_attrs(names.attr)
    }

    fn check_attrs(&self, field: &'static str) -> Result<(), Refusal> {
        if self.attrs.len() > ATTRS_MAX {
            return Err(malformed(format!("at most {ATTRS_MAX} {field} are allowed")));
        }
        let bytes: usize = self.attrs.iter().map(|(name, value)| name.len() + value.len()).sum();
        if bytes > ATTR_BYTES_MAX {
            return Err(malformed(format!("{field} must be ≤{ATTR_BYTES_MAX} bytes together")));
        }
        for (name, _) in &self.attrs {
            if !is_attr_name(name) {
                return Err(malformed(format!("names of {field} must match [a-z0-9][a-z0-9_-]{{0,63}}")));
            }
        }
        Ok(())
    }

    /// Whether it may have a payload of so many bytes.
    pub(crate) fn check_payload(&self, len: usize) -> Result<(), Refusal> {
        match self.body_ref {
            Some(_) if len > 0 => Err(malformed("a message whose body is an object has no payload")),
            _ => Ok(()),
        }
    }

    /// The message with these bytes; how long its key is remembered is for the topic to say.
    pub(crate) fn into_message(
        self,
        payload: Bytes,
        payload_hash: ContentHash,
        corr_id: String,
    ) -> NewMessage {
        // the same key with another object is another body
        let body = self.body_ref.unwrap_or(payload_hash);
        let claim = |key: &String| DedupClaim::new(&Origin::Api, key.as_bytes(), &body, 0);
        let dedup = self.idempotency_key.as_ref().map(claim);
        let content_type = self.content_type.unwrap_or_else(|| "application/octet-stream".to_owned());
        let meta = MessageMeta {
            content_type,
            attrs: self.attrs,
            idempotency_key: self.idempotency_key,
            corr_id,
            source_msg_id: None,
            body_ref: self.body_ref,
        };
        NewMessage { payload, payload_hash, meta, delay_ms: self.delay_ms, ttl_ms: self.ttl_ms, dedup }
    }
}

pub(crate) fn is_attr_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let mut bytes = name.bytes();
    name.len() <= ATTR_NAME_BYTES_MAX
        && bytes.next().is_some_and(plain)
        && bytes.all(|b| plain(b) || b == b'_' || b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;
    use ron_core::shard::Settings;

    const NAMES: FieldNames =
        FieldNames { content_type: "ct", key: "key", delay: "delay", ttl: "ttl", attr: "attrs" };

    fn attrs(count: usize, value_len: usize) -> Vec<(String, String)> {
        (0..count).map(|n| (format!("a{n:02}"), "v".repeat(value_len))).collect()
    }

    #[test]
    fn the_edges_of_every_rule() {
        let draft = Draft::default;
        let good = [
            Draft { idempotency_key: Some("!".into()), ..draft() },
            Draft { idempotency_key: Some("~".repeat(256)), ..draft() },
            Draft { delay_ms: DELAY_MS_MAX, ..draft() },
            Draft { ttl_ms: Some(100), delay_ms: 99, ..draft() },
            Draft { ttl_ms: Some(DELAY_MS_MAX), ..draft() },
            Draft { attrs: attrs(16, 253), ..draft() },
            Draft { attrs: vec![("0_-".into(), String::new()), ("x".repeat(64), "é".into())], ..draft() },
        ];
        for draft in &good {
            assert_eq!(draft.check(NAMES), Ok(()), "{draft:?}");
        }
        let bad = [
            (Draft { idempotency_key: Some(String::new()), ..draft() }, "key"),
            (Draft { idempotency_key: Some("x".repeat(257)), ..draft() }, "key"),
            (Draft { idempotency_key: Some("a b".into()), ..draft() }, "key"),
            (Draft { idempotency_key: Some("é".into()), ..draft() }, "key"),
            (Draft { delay_ms: DELAY_MS_MAX + 1, ..draft() }, "delay"),
            (Draft { ttl_ms: Some(99), ..draft() }, "ttl"),
            (Draft { ttl_ms: Some(DELAY_MS_MAX + 1), ..draft() }, "ttl"),
            (Draft { ttl_ms: Some(100), delay_ms: 100, ..draft() }, "delay must be less than ttl"),
            (Draft { attrs: attrs(17, 1), ..draft() }, "attrs"),
            (Draft { attrs: attrs(16, 254), ..draft() }, "attrs"),
            (Draft { attrs: vec![("-x".into(), String::new())], ..draft() }, "attrs"),
            (Draft { attrs: vec![("X".into(), String::new())], ..draft() }, "attrs"),
            (Draft { attrs: vec![("x".repeat(65), String::new())], ..draft() }, "attrs"),
            (Draft { attrs: vec![(String::new(), String::new())], ..draft() }, "attrs"),
            (Draft { content_type: Some("x".repeat(1025)), ..draft() }, "ct"),
            (Draft { content_type: Some("a\nb".into()), ..draft() }, "ct"),
        ];
        for (draft, names) in &bad {
            let refusal = draft.check(NAMES).unwrap_err();
            assert_eq!(refusal.reason, Reason::Malformed);
            assert!(refusal.text.contains(names), "{} should name {names}", refusal.text);
        }
    }

    #[test]
    fn a_key_claims_for_as_long_as_the_topic_says() {
        let message = |window_ms| {
            let draft = Draft { idempotency_key: Some("k".into()), ..Draft::default() };
            let mut message =
                draft.into_message(Bytes::from_static(b"x"), ContentHash::of(b"x"), "corr-0001".into());
            message.settle_claim(&Settings { dedup_window_ms: window_ms, ..Settings::default() });
            message
        };
        assert_eq!(message(5).dedup.unwrap().window_ms, 5);
        let off = message(0);
        assert_eq!(off.dedup, None);
        assert_eq!(off.meta.idempotency_key.as_deref(), Some("k"), "still shown to consumers");
        assert_eq!(off.meta.content_type, "application/octet-stream");
    }
}
