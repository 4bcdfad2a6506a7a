//! The contract's JSON, read strictly: what an answer lacks or says wrongly is a finding, not a default.

use super::plan::Plan;
use crate::clock::{Micros, parse_rfc3339};
use crate::history::{Dead, Depths, Got, Outcome, SendResult};
use crate::http::Answer;
use crate::node::TENANT;
use crate::sign;
use data_encoding::BASE64;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::BTreeMap;

fn json<T: DeserializeOwned>(answer: &Answer) -> Result<T, String> {
    let kind = answer.header("content-type").unwrap_or_default();
    if !kind.starts_with("application/json") {
        return Err(format!("status {} with content type {kind:?}", answer.status));
    }
    if answer.header("x-corr-id").is_none_or(str::is_empty) {
        return Err(format!("status {} without X-Corr-Id", answer.status));
    }
    serde_json::from_slice(&answer.body).map_err(|error| format!("status {}: {error}", answer.status))
}

fn exactly(answer: &Answer, status: u16) -> Result<(), String> {
    if answer.status == status { Ok(()) } else { Err(format!("status {} for {status}", answer.status)) }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ErrorBody {
    error: String,
    reason: String,
    corr_id: String,
}

/// An error answer, and what is wrong with its form (SPEC §3).
pub(super) fn refusal(answer: &Answer) -> Outcome {
    let (status, effect) = (answer.status, answer.header("x-effect").unwrap_or_default().to_owned());
    let (reason, mut fault) = match json::<ErrorBody>(answer) {
        Ok(body) if body.error.is_empty() => (body.reason, Some("an empty error text".to_owned())),
        Ok(body) if Some(body.corr_id.as_str()) != answer.header("x-corr-id") => {
            (body.reason, Some("corr_id and X-Corr-Id differ".to_owned()))
        }
        Ok(body) => (body.reason, None),
        Err(fault) => (String::new(), Some(fault)),
    };
    if !matches!(effect.as_str(), "none" | "unknown") {
        fault = fault.or_else(|| Some(format!("{status} {reason} with X-Effect {effect:?}")));
    }
    if status < 500 && effect == "unknown" {
        fault = fault.or_else(|| Some(format!("{status} {reason} says that its effect is unknown")));
    }
    if matches!(status, 429 | 503) && answer.header("retry-after").is_none_or(|s| s.parse::<u32>().is_err()) {
        fault = fault.or_else(|| Some(format!("{status} {reason} without Retry-After in seconds")));
    }
    Outcome::Refused { status, reason, effect, fault }
}

#[derive(Deserialize)]
struct Accepted {
    msg_id: String,
    duplicate: bool,
    payload_hash: String,
    durability: String,
    corr_id: String,
}

/// The answer to `/enqueue`.
pub(super) fn accepted(answer: &Answer) -> Result<SendResult, String> {
    exactly(answer, 200)?;
    let body: Accepted = json(answer)?;
    if Some(body.corr_id.as_str()) != answer.header("x-corr-id") {
        return Err("corr_id and X-Corr-Id differ".to_owned());
    }
    let msg_id = message_id(body.msg_id)?;
    let (durability, hash) = (Some(body.durability), Some(body.payload_hash));
    Ok(SendResult::Accepted { msg_id, duplicate: body.duplicate, durability, hash })
}

/// The answer to a webhook.
pub(super) fn webhook_accepted(answer: &Answer) -> Result<SendResult, String> {
    #[derive(Deserialize)]
    struct Body {
        accepted: bool,
        msg_id: String,
        duplicate: bool,
        corr_id: String,
    }
    exactly(answer, 202)?;
    let body: Body = json(answer)?;
    if !body.accepted || Some(body.corr_id.as_str()) != answer.header("x-corr-id") {
        return Err("accepted is false, or corr_id and X-Corr-Id differ".to_owned());
    }
    let msg_id = message_id(body.msg_id)?;
    Ok(SendResult::Accepted { msg_id, duplicate: body.duplicate, durability: None, hash: None })
}

/// One message of a batch.
pub(super) fn batch_item(plan: &Plan, body: &[u8]) -> Value {
    let mut item = serde_json::json!({ "attrs": { "cid": format!("{:x}", plan.send) } });
    match std::str::from_utf8(body) {
        Ok(text) => item["payload"] = text.into(),
        Err(_) => item["payload_b64"] = BASE64.encode(body).into(),
    }
    if let Some(kind) = plan.content_type() {
        item["content_type"] = kind.into();
    } else {
        // text without a content type is text: say what it is, so that both sides agree
        item["content_type"] = "application/octet-stream".into();
    }
    if let Some(key) = &plan.key {
        item["idempotency_key"] = key.as_str().into();
    }
    if plan.delay_ms > 0 {
        item["delay_ms"] = plan.delay_ms.into();
    }
    item
}

/// The answer to `/enqueue/batch`.
pub(super) fn batch_results(answer: &Answer, count: usize) -> Result<Vec<SendResult>, String> {
    #[derive(Deserialize)]
    struct Item {
        msg_id: Option<String>,
        duplicate: Option<bool>,
        durability: Option<String>,
        payload_hash: Option<String>,
        reason: Option<String>,
        error: Option<String>,
    }
    #[derive(Deserialize)]
    struct Body {
        results: Vec<Item>,
    }
    exactly(answer, 200)?;
    let body: Body = json(answer)?;
    if body.results.len() != count {
        return Err(format!("{} results for {count} messages", body.results.len()));
    }
    let item = |item: Item| match item {
        Item { msg_id: Some(msg_id), duplicate: Some(duplicate), reason: None, error: None, .. } => {
            let (durability, hash) = (item.durability, item.payload_hash);
            Ok(SendResult::Accepted { msg_id: message_id(msg_id)?, duplicate, durability, hash })
        }
        Item { msg_id: None, reason: Some(reason), error: Some(_), .. } => Ok(SendResult::Refused(reason)),
        _ => Err("a result is neither accepted nor refused".to_owned()),
    };
    body.results.into_iter().map(item).collect()
}

/// The answer to ack, nack and extend.
pub(super) fn settled(answer: &Answer, count: usize) -> Result<Vec<Option<String>>, String> {
    #[derive(Deserialize)]
    struct Item {
        ok: bool,
        reason: Option<String>,
    }
    #[derive(Deserialize)]
    struct Body {
        results: Vec<Item>,
    }
    exactly(answer, 200)?;
    let body: Body = json(answer)?;
    if body.results.len() != count {
        return Err(format!("{} results for {count} receipts", body.results.len()));
    }
    let item = |item: Item| match (item.ok, item.reason) {
        (true, None) => Ok(None),
        (false, Some(reason)) => Ok(Some(reason)),
        _ => Err("a result is neither ok nor has a reason".to_owned()),
    };
    body.results.into_iter().map(item).collect()
}

#[derive(Deserialize)]
struct Envelope {
    msg_id: String,
    receipt: Option<String>,
    tenant: String,
    topic: String,
    enqueued_at: String,
    attempt: u32,
    delivery: u32,
    content_type: String,
    attrs: BTreeMap<String, String>,
    payload_hash: String,
    payload: Option<String>,
    payload_b64: Option<String>,
    corr_id: String,
    deadline: Option<String>,
    dead_letter: Option<DeadLetter>,
}

#[derive(Deserialize)]
struct DeadLetter {
    reason: String,
    attempts: u32,
    at: String,
}

fn message_id(text: String) -> Result<String, String> {
    let crockford = |b: u8| b.is_ascii_digit() || (b.is_ascii_uppercase() && !b"ILOU".contains(&b));
    if text.len() == 26 && text.bytes().all(crockford) {
        Ok(text)
    } else {
        Err(format!("{text:?} is no ULID"))
    }
}

fn time(text: &str) -> Result<Micros, String> {
    parse_rfc3339(text).ok_or_else(|| format!("{text:?} is no RFC 3339 time in UTC"))
}

impl Envelope {
    /// The payload's bytes; text must be given as text, everything else in base64.
    fn bytes(&self) -> Result<Vec<u8>, String> {
        let essence = self.content_type.split(';').next().unwrap_or_default().trim();
        let textual =
            essence.starts_with("text/") || essence == "application/json" || essence.ends_with("+json");
        let bytes = match (&self.payload, &self.payload_b64) {
            (Some(text), None) if textual => return Ok(text.clone().into_bytes()),
            (None, Some(base64)) => BASE64.decode(base64.as_bytes()).map_err(|error| error.to_string())?,
            _ => return Err(format!("{}: the payload is not given in the one right form", self.msg_id)),
        };
        if textual && std::str::from_utf8(&bytes).is_ok() {
            return Err(format!("{}: text is given in base64", self.msg_id));
        }
        Ok(bytes)
    }

    fn belongs(&self, topic: &str) -> Result<(), String> {
        time(&self.enqueued_at)?;
        if self.tenant != TENANT || self.topic != topic || self.corr_id.is_empty() {
            return Err(format!("{} says that it is of {}/{}", self.msg_id, self.tenant, self.topic));
        }
        Ok(())
    }
}

/// The answer to `/recv`.
pub(super) fn envelopes(answer: &Answer, topic: &str) -> Result<Vec<Got>, String> {
    #[derive(Deserialize)]
    struct Body {
        messages: Vec<Envelope>,
    }
    exactly(answer, 200)?;
    let body: Body = json(answer)?;
    let got = |envelope: Envelope| {
        let bytes = envelope.bytes()?;
        envelope.belongs(topic)?;
        let receipt = envelope.receipt.filter(|receipt| {
            let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
            (1..=200).contains(&receipt.len()) && receipt.bytes().all(plain)
        });
        Ok(Got {
            msg_id: message_id(envelope.msg_id)?,
            receipt: receipt.ok_or("a delivery without a well-formed receipt")?,
            delivery: envelope.delivery,
            attempt: envelope.attempt,
            deadline: time(&envelope.deadline.ok_or("a delivery without a deadline")?)?,
            hash: sign::content_address(&bytes),
            stated_hash: envelope.payload_hash,
            len: u64::try_from(bytes.len()).unwrap_or(u64::MAX),
            content_type: envelope.content_type,
            attrs: envelope.attrs,
        })
    };
    body.messages.into_iter().map(got).collect()
}

/// A page of `/peek?state=dlq`, and the cursor of the next one.
pub(super) fn dead_page(answer: &Answer, topic: &str) -> Result<(Vec<Dead>, Option<String>), String> {
    #[derive(Deserialize)]
    struct Body {
        messages: Vec<Envelope>,
        cursor: Option<String>,
    }
    exactly(answer, 200)?;
    let body: Body = json(answer)?;
    let dead = |envelope: Envelope| {
        let bytes = envelope.bytes()?;
        envelope.belongs(topic)?;
        if envelope.receipt.is_some() {
            return Err(format!("{}: a peek gives a receipt", envelope.msg_id));
        }
        let letter = envelope.dead_letter.ok_or("a dead letter without dead_letter")?;
        time(&letter.at)?;
        Ok(Dead {
            msg_id: message_id(envelope.msg_id)?,
            hash: sign::content_address(&bytes),
            len: u64::try_from(bytes.len()).unwrap_or(u64::MAX),
            content_type: envelope.content_type,
            attrs: envelope.attrs,
            reason: letter.reason,
            attempts: letter.attempts,
            delivery: envelope.delivery,
        })
    };
    Ok((body.messages.into_iter().map(dead).collect::<Result<_, _>>()?, body.cursor))
}

/// The answer to a GET of the topic.
pub(super) fn depths(answer: &Answer) -> Result<Depths, String> {
    exactly(answer, 200)?;
    json(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, headers: &[(&str, &str)], body: &str) -> Answer {
        let base = [("content-type", "application/json"), ("x-corr-id", "corr-0001")];
        let headers = base.iter().chain(headers).map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Answer { status, headers, body: body.as_bytes().to_vec() }
    }

    #[test]
    fn a_refusal_has_one_form() {
        let body = r#"{"error":"x","reason":"RATE_LIMIT","corr_id":"corr-0001"}"#;
        let fault = |outcome| match outcome {
            Outcome::Refused { fault, .. } => fault,
            other => panic!("{other:?}"),
        };
        let right = [("x-effect", "none"), ("retry-after", "1")];
        assert_eq!(fault(refusal(&answer(429, &right, body))), None);
        for (headers, body) in [
            (&right[..1], body),
            (&right[1..], body),
            (&right[..], r#"{"error":"x","reason":"RATE_LIMIT","corr_id":"another"}"#),
            (&right[..], r#"{"error":"x","reason":"RATE_LIMIT","corr_id":"corr-0001","more":1}"#),
            (&right[..], "<html>"),
        ] {
            assert!(fault(refusal(&answer(429, headers, body))).is_some(), "{headers:?} {body}");
        }
        assert!(fault(refusal(&answer(409, &[("x-effect", "unknown")], body))).is_some());
    }

    #[test]
    fn an_envelope_is_read_to_the_byte() {
        let envelope = |payload: &str| {
            format!(
                r#"{{"messages":[{{"msg_id":"01ARZ3NDEKTSV4RRFFQ69G5FAV","receipt":"abc_-1","tenant":"acme",
                "topic":"t","enqueued_at":"2026-11-21T10:00:00.000Z","attempt":1,"delivery":2,
                "content_type":"text/plain","attrs":{{}},"payload_hash":"b3:x",{payload},"corr_id":"c",
                "deadline":"2026-11-21T10:00:05.000Z"}}]}}"#
            )
        };
        let read = |payload| envelopes(&answer(200, &[], &envelope(payload)), "t");
        let got = &read(r#""payload":"h\u0000é""#).unwrap()[0];
        assert_eq!((got.len, got.delivery), (4, 2));
        assert_eq!(got.hash, sign::content_address("h\0é".as_bytes()));
        assert_eq!(read(r#""payload_b64":"/8A=""#).unwrap()[0].hash, sign::content_address(b"\xff\xc0"));
        for bad in [r#""payload_b64":"aGk=""#, r#""payload":"a","payload_b64":"aGk=""#, r#""x":1"#] {
            assert!(read(bad).is_err(), "{bad}");
        }
        assert!(envelopes(&answer(200, &[], &envelope(r#""payload":"a""#)), "other").is_err());
    }
}
