//! How messages and figures look to a person.

use crate::output::printable;
use data_encoding::BASE64;
use serde_json::Value;

/// A JSON value without the quotes of a string, `-` for nothing.
#[must_use]
pub(super) fn plain(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => printable(text),
        other => other.to_string(),
    }
}

/// Fields that people look for first, in that order; all others follow by name.
const FIRST: [&str; 12] = [
    "msg_id",
    "receipt",
    "duplicate",
    "durability",
    "attempt",
    "enqueued_at",
    "deadline",
    "ready",
    "delayed",
    "vis",
    "dlq",
    "oldest_age_ms",
];

/// The fields of an object, those of inner objects as `outer=inner …` on one line.
#[must_use]
pub(super) fn flat(object: &Value) -> Vec<(&str, String)> {
    let mut fields: Vec<(&String, &Value)> = object.as_object().into_iter().flatten().collect();
    fields.sort_by_key(|(name, _)| FIRST.iter().position(|first| first == name).unwrap_or(FIRST.len()));
    fields
        .into_iter()
        .map(|(name, value)| {
            let text = match value.as_object() {
                None => plain(value),
                Some(inner) => inner
                    .iter()
                    .map(|(name, value)| format!("{}={}", printable(name), plain(value)))
                    .collect::<Vec<_>>()
                    .join(" "),
            };
            (name.as_str(), text)
        })
        .collect()
}

/// An Envelope: its fields one a line, then the payload. Nothing in it can command the terminal.
#[must_use]
pub(super) fn envelope(message: &Value) -> String {
    let mut fields = flat(message);
    fields.retain(|(name, _)| !matches!(*name, "payload" | "payload_b64" | "tenant" | "topic" | "delivery"));
    for (name, text) in &mut fields {
        if *name == "attempt" {
            *text = format!("{text} (delivery {})", plain(&message["delivery"]));
        }
    }
    fields.insert(0, ("queue", format!("{}/{}", plain(&message["tenant"]), plain(&message["topic"]))));
    let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let lines: Vec<String> = fields.iter().map(|(name, text)| format!("{name:width$}  {text}")).collect();
    format!("{}\n{}", lines.join("\n"), payload(message))
}

/// The payload as text where it is text, in base64 where it is not.
fn payload(message: &Value) -> String {
    if let Some(text) = message["payload"].as_str() {
        return format!("payload ({} bytes)\n{}", text.len(), printable(text));
    }
    let base64 = message["payload_b64"].as_str().unwrap_or_default();
    let bytes = BASE64.decode(base64.as_bytes()).unwrap_or_default();
    match std::str::from_utf8(&bytes) {
        Ok(text) if !text.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\r' | '\t')) => {
            format!("payload ({} bytes)\n{}", bytes.len(), printable(text))
        }
        _ => format!("payload ({} bytes, base64)\n{}", bytes.len(), printable(base64)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_envelope_is_shown_with_its_payload() {
        let message = json!({
            "msg_id": "01J", "receipt": "r1", "tenant": "acme", "topic": "orders",
            "attempt": 1, "delivery": 2, "content_type": "text/plain", "attrs": {"a": "1", "b": "2"},
            "payload": "hi\u{1b}[2J"
        });
        let text = envelope(&message);
        assert!(text.starts_with("queue         acme/orders\n"), "{text}");
        assert!(text.contains("attempt       1 (delivery 2)\n"), "{text}");
        assert!(text.contains("attrs         a=1 b=2\n"), "{text}");
        assert!(text.ends_with("payload (6 bytes)\nhi\\u{1b}[2J"), "{text}");
    }

    #[test]
    fn bytes_are_text_if_they_read_as_text() {
        assert_eq!(payload(&json!({"payload_b64": "YT0xJmI9Mg=="})), "payload (7 bytes)\na=1&b=2");
        assert_eq!(payload(&json!({"payload_b64": "AAEC"})), "payload (3 bytes, base64)\nAAEC");
    }
}
