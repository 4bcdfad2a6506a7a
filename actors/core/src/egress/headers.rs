//! Headers of an operator's own, and what of a message becomes one.

use crate::envelope::Delivered;

/// Longest value of a header of one's own, bytes.
pub const VALUE_BYTES_MAX: usize = 4096;
/// Headers that are the connection's, the signature's or the message's own business.
const NOT_ONES_OWN: [&str; 16] = [
    "host",
    "content-length",
    "content-type",
    "content-encoding",
    "transfer-encoding",
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authorization",
    "te",
    "trailer",
    "upgrade",
    "expect",
    "accept-encoding",
    "traceparent",
    "tracestate",
];

/// Longest id that is passed on, bytes.
const ID_BYTES_MAX: usize = 256;

/// Checks one header of an operator's own.
///
/// # Errors
/// What is wrong with it, without its value.
pub fn check_own(name: &str, value: &str) -> Result<(), &'static str> {
    let lower = name.to_ascii_lowercase();
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if lower.is_empty() || lower.len() > 128 || !lower.bytes().all(token) {
        return Err("is no name of a header");
    }
    if lower.starts_with("webhook-") || lower.starts_with("svix-") || NOT_ONES_OWN.contains(&lower.as_str()) {
        return Err("is a header that the node sets itself");
    }
    if value.len() > VALUE_BYTES_MAX {
        return Err("has a value of more than 4096 bytes");
    }
    // CR and LF would begin another header
    if !value.bytes().all(|b| (0x20..=0x7e).contains(&b) || b == b'\t') {
        return Err("has a value that is not printable ASCII");
    }
    Ok(())
}

/// The `webhook-id` of a message, the same over all its attempts: the id that its provider signed, or else its own.
/// An edited copy of a dead letter is a message of its own. An id that an ingress would refuse, since it could be
/// mistaken for the start of a body, is not passed on.
#[must_use]
pub fn webhook_id(message: &Delivered) -> String {
    let meta = &message.message.meta;
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.:~+/=@|#$%&*!,;".contains(&b);
    let fits = |id: &str| (1..=ID_BYTES_MAX).contains(&id.len()) && id.bytes().all(plain);
    let inbound = attr(message, "webhook-id").filter(|id| meta.source_msg_id.is_none() && fits(id));
    inbound.map_or_else(|| message.msg_id.to_string(), str::to_owned)
}

/// The `Content-Type` of a message; one that cannot be a header's value is told as bytes, rather than never delivered.
#[must_use]
pub fn content_type(message: &Delivered) -> &str {
    let text = message.message.meta.content_type.as_str();
    let printable = !text.is_empty() && text.bytes().all(|b| (0x20..=0x7e).contains(&b));
    if printable { text } else { "application/octet-stream" }
}

/// The W3C trace context that was kept with a message (`traceparent`, and `tracestate` beside it), to be sent on.
#[must_use]
pub fn trace_context(message: &Delivered) -> Vec<(&'static str, String)> {
    let Some(parent) = attr(message, "traceparent").filter(|text| is_traceparent(text)) else {
        return Vec::new();
    };
    let printable = |text: &&str| text.len() <= 512 && text.bytes().all(|b| (0x20..=0x7e).contains(&b));
    let state = attr(message, "tracestate").filter(printable);
    let state = state.map(|text| ("tracestate", text.to_owned()));
    [("traceparent", parent.to_owned())].into_iter().chain(state).collect()
}

/// Whether a text is a `traceparent` of version 00 (W3C Trace Context §3.2): ids in lower-case hex, neither all zeros.
#[must_use]
pub fn is_traceparent(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let hex = |part: &str, length: usize| {
        part.len() == length && part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    let some = |part: &str| part.bytes().any(|b| b != b'0');
    matches!(parts[..], ["00", trace, parent, flags]
        if hex(trace, 32) && some(trace) && hex(parent, 16) && some(parent) && hex(flags, 2))
}

fn attr<'m>(message: &'m Delivered, name: &str) -> Option<&'m str> {
    let found = message.message.meta.attrs.iter().find(|(known, _)| known == name);
    found.map(|(_, value)| value.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{ContentHash, Incarnation, MessageId, QueueKey, Slot, Tenant, Topic};
    use crate::message::{MessageMeta, StoredMessage};
    use crate::receipt::{Receipt, ReceiptKey};
    use crate::shard::DeliveryRef;
    use crate::time::Millis;
    use bytes::Bytes;
    use proptest::prelude::*;

    #[test]
    fn what_the_node_sets_itself_cannot_be_set() {
        for name in [
            "Host",
            "content-LENGTH",
            "Transfer-Encoding",
            "Connection",
            "webhook-id",
            "Webhook-Signature",
            "svix-id",
            "Content-Type",
            "Expect",
            "traceparent",
        ] {
            assert!(check_own(name, "x").unwrap_err().contains("sets itself"), "{name}");
        }
        for name in ["", "a b", "a:b", "ä", "a\r\nb"] {
            assert!(check_own(name, "x").unwrap_err().contains("no name"), "{name:?}");
        }
        for value in ["a\r\nX-More: 1", "a\n", "\0", "ä", "\x7f"] {
            assert!(check_own("X-Key", value).unwrap_err().contains("printable"), "{value:?}");
        }
        assert!(check_own("X-Key", &"x".repeat(4097)).is_err());
        assert_eq!(check_own("Authorization", "Bearer abc"), Ok(()));
    }

    fn delivered(attrs: &[(&str, &str)], source: Option<&str>) -> Delivered {
        let queue =
            QueueKey { tenant: Tenant::parse("acme").unwrap(), topic: Topic::parse("orders").unwrap() };
        let (incarnation, slot) = (Incarnation(7), Slot(9));
        let delivery = DeliveryRef { slot, delivery: 1 };
        let meta = MessageMeta {
            attrs: attrs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            source_msg_id: source.map(str::to_owned),
            body_ref: None,
            ..MessageMeta::default()
        };
        Delivered {
            receipt: Receipt::issue(&ReceiptKey::new([0; 32]), incarnation, &queue, delivery),
            msg_id: MessageId::new(Millis(1), incarnation, slot),
            queue,
            attempt: 1,
            delivery: 1,
            deadline: Millis(2),
            copied_from: None,
            restored_at: None,
            message: StoredMessage {
                slot,
                enqueued: Millis(1),
                payload: Bytes::new(),
                payload_hash: ContentHash::of(b""),
                meta,
                copied_from: None,
            },
        }
    }

    #[test]
    fn a_signed_id_goes_on_and_any_other_message_has_its_own() {
        let own = delivered(&[], None).msg_id.to_string();
        let id = |value: &str, source| webhook_id(&delivered(&[("webhook-id", value)], source));
        assert_eq!(id("evt_1.a", None), "evt_1.a");
        for odd in ["", "a b", "a\"b", "{", "ü", &"x".repeat(257)] {
            assert_eq!(id(odd, None), own, "{odd}");
        }
        assert_eq!(id("evt_1", Some("01ABC")), own, "an edited copy is another event");
        assert_eq!(webhook_id(&delivered(&[("webhook-unsigned-id", "x")], None)), own);
    }

    #[test]
    fn a_content_type_that_is_no_header_does_not_hold_up_its_message() {
        let mut message = delivered(&[], None);
        for (text, sent) in [
            ("text/plain; charset=utf-8", "text/plain; charset=utf-8"),
            ("text/ü", "application/octet-stream"),
            ("", "application/octet-stream"),
        ] {
            message.message.meta.content_type = text.to_owned();
            assert_eq!(content_type(&message), sent);
        }
    }

    #[test]
    fn a_trace_goes_on_if_it_is_one() {
        let parent = ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
        let sent = |attrs: &[(&str, &str)]| trace_context(&delivered(attrs, None));
        assert_eq!(sent(&[parent]), [("traceparent", parent.1.to_owned())]);
        assert_eq!(sent(&[("tracestate", "a=1"), parent]).len(), 2);
        assert_eq!(sent(&[("tracestate", "a=\r\n"), parent]).len(), 1);
        assert!(sent(&[("tracestate", "a=1")]).is_empty() && sent(&[("traceparent", "x")]).is_empty());
    }

    #[test]
    fn only_a_whole_traceparent_is_one() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert!(is_traceparent(good));
        for bad in [
            "",
            "00",
            &good.to_uppercase(),
            &good[..54],
            &format!("{good}-x"),
            &good.replacen("00-", "ff-", 1),
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
        ] {
            assert!(!is_traceparent(bad), "{bad}");
        }
    }

    proptest! {
        /// No header that passes can end its line.
        #[test]
        fn no_line_is_broken(name in "\\PC{0,20}|[a-z\\r\\n:-]{0,20}", value in "[ -~\\r\\n\\t\\x00]{0,40}") {
            if check_own(&name, &value).is_ok() {
                let line = name + &value;
                prop_assert!(!line.contains(['\r', '\n', '\0']));
            }
        }
    }
}
