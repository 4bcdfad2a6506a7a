//! Requests and answers as HTTP and JSON have them (SPEC §4). Pure.

use crate::call::Settle;
use crate::call::{Ask, Call, Each, Outcome, all};
use crate::error::{Error, Refused};
use crate::message::{Delivery, Durability, Message, Mode, Nack, Sent, Want};
use bytes::Bytes;
use data_encoding::BASE64;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderMap, HeaderValue, RETRY_AFTER};
use http::{Request, StatusCode};
use http_body_util::Full;
use ron_core::ids::{ContentHash, MessageId};
use ron_core::receipt::Receipt;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// The request of a call.
///
/// # Errors
/// [`Error::Invalid`] if something cannot be a header.
pub(super) fn request(
    call: &Call,
    tenant: &str,
    host: &str,
    token: &str,
) -> Result<Request<Full<Bytes>>, Error> {
    let (what, body) = match &call.ask {
        Ask::Send(message) => ("enqueue", message.payload.clone()),
        Ask::SendAll(messages) => {
            let messages: Vec<Value> = messages.iter().map(item).collect();
            ("enqueue/batch", json!({ "messages": messages }).to_string().into())
        }
        Ask::Recv(want) => ("recv", wanted(want).to_string().into()),
        Ask::Settle(receipts, how) => {
            let receipts: Vec<String> = receipts.iter().map(Receipt::to_string).collect();
            let (what, mut body) = settled(how);
            body["receipts"] = json!(receipts);
            (what, body.to_string().into())
        }
    };
    let mut bearer = HeaderValue::try_from(format!("Bearer {token}"))
        .map_err(|_| Error::Invalid("a capability is printable ASCII".to_owned()))?;
    bearer.set_sensitive(true);
    let mut request = Request::post(format!("/v1/{tenant}/{}/{what}", call.topic))
        .header(HOST, host)
        .header(AUTHORIZATION, bearer);
    match &call.ask {
        Ask::Send(message) => {
            for (name, value) in headers(message) {
                request = request.header(name, value);
            }
        }
        Ask::SendAll(_) | Ask::Recv(_) | Ask::Settle(..) => {
            request = request.header(CONTENT_TYPE, "application/json");
        }
    }
    request.body(Full::new(body)).map_err(|_| {
        Error::Invalid(
            "content type, key and attributes are printable, names of attributes [a-z0-9_-]".to_owned(),
        )
    })
}

fn headers(message: &Message) -> Vec<(String, String)> {
    let mut headers = Vec::new();
    let mut add = |name: &str, value: Option<String>| {
        headers.extend(value.map(|value| (name.to_owned(), value)));
    };
    add("content-type", message.content_type.clone());
    add("idempotency-key", message.idempotency_key.clone());
    add("x-delay-ms", (message.delay_ms > 0).then(|| message.delay_ms.to_string()));
    add("x-ttl-ms", message.ttl_ms.map(|ms| ms.to_string()));
    add("x-body-ref", message.body_ref.map(|address| address.to_string()));
    headers.extend(message.attrs.iter().map(|(name, value)| (format!("x-attr-{name}"), value.clone())));
    headers
}

fn item(message: &Message) -> Value {
    let mut item = Map::new();
    match message.body_ref {
        Some(address) => item.insert("body_ref".to_owned(), address.to_string().into()),
        None => item.insert("payload_b64".to_owned(), BASE64.encode(&message.payload).into()),
    };
    let mut add = |name: &str, value: Option<Value>| {
        item.extend(value.map(|value| (name.to_owned(), value)));
    };
    add("content_type", message.content_type.clone().map(Value::from));
    add("idempotency_key", message.idempotency_key.clone().map(Value::from));
    add("delay_ms", (message.delay_ms > 0).then(|| message.delay_ms.into()));
    add("ttl_ms", message.ttl_ms.map(Value::from));
    let attrs: Map<String, Value> =
        message.attrs.iter().map(|(name, value)| (name.clone(), value.clone().into())).collect();
    add("attrs", (!attrs.is_empty()).then_some(Value::Object(attrs)));
    Value::Object(item)
}

fn wanted(want: &Want) -> Value {
    let Want { max_messages, max_bytes, visibility_ms, wait_ms } = want;
    let mut body = json!({ "max_messages": max_messages, "wait_ms": wait_ms });
    if let Some(bytes) = max_bytes {
        body["max_bytes"] = json!(bytes);
    }
    if let Some(ms) = visibility_ms {
        body["visibility_ms"] = json!(ms);
    }
    body
}

fn settled(how: &Settle) -> (&'static str, Value) {
    match how {
        Settle::Ack => ("ack", json!({})),
        Settle::Extend(visibility_ms) => ("extend", json!({ "visibility_ms": visibility_ms })),
        Settle::Nack(Nack { mode, delay_ms, reason }) => {
            let mode = match mode {
                Mode::Fail => "fail",
                Mode::Release => "release",
                Mode::Reject => "reject",
            };
            let mut body = json!({ "mode": mode });
            if let Some(ms) = delay_ms {
                body["delay_ms"] = json!(ms);
            }
            if let Some(reason) = reason {
                body["reason"] = json!(reason);
            }
            ("nack", body)
        }
    }
}

/// Reads the answer to a call.
///
/// # Errors
/// [`Error::Refused`], or [`Error::Protocol`] if it is not an answer of a node.
pub(super) fn read(call: &Call, status: StatusCode, head: &HeaderMap, body: &[u8]) -> Result<Outcome, Error> {
    if status != StatusCode::OK {
        return Err(refused(status, head, body).into());
    }
    match &call.ask {
        Ask::Send(_) => Ok(Outcome::Sent(vec![Ok(parse::<Stored>(body)?.sent()?)])),
        Ask::SendAll(messages) => {
            let results = parse::<Results<Item>>(body)?.results;
            all(results.len(), messages.len())?;
            let sent: Result<Each<Sent>, Error> = results.into_iter().map(Item::sent).collect();
            Ok(Outcome::Sent(sent?))
        }
        Ask::Recv(_) => {
            let received: Received = parse(body)?;
            Ok(Outcome::Delivered(
                received.messages.into_iter().map(Envelope::delivery).collect::<Result<_, _>>()?,
            ))
        }
        Ask::Settle(receipts, _) => {
            let results = parse::<Results<Fate>>(body)?.results;
            all(results.len(), receipts.len())?;
            Ok(Outcome::Settled(results.into_iter().map(Fate::result).collect()))
        }
    }
}

const UNLIKE: Error = Error::Protocol("an answer that is not what was asked for");

fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Error> {
    serde_json::from_slice(body).map_err(|_| UNLIKE)
}

fn refused(status: StatusCode, head: &HeaderMap, body: &[u8]) -> Refused {
    #[derive(Deserialize)]
    struct Said {
        error: String,
        reason: String,
        corr_id: Option<String>,
    }
    let text = |name: &str| head.get(name)?.to_str().ok();
    // a proxy's answer has no such body
    let said = serde_json::from_slice(body).unwrap_or_else(|_| Said {
        error: "the answer does not say why".to_owned(),
        reason: format!("HTTP {}", status.as_u16()),
        corr_id: text("x-corr-id").map(str::to_owned),
    });
    let seconds = text(RETRY_AFTER.as_str()).and_then(|text| text.parse::<u64>().ok());
    Refused {
        code: status.as_u16(),
        reason: said.reason,
        text: said.error,
        effect_unknown: text("x-effect") != Some("none") && !(400..500).contains(&status.as_u16()),
        retry_after_ms: seconds.map(|seconds| seconds.saturating_mul(1_000)),
        corr_id: said.corr_id,
    }
}

#[derive(Deserialize)]
struct Results<T> {
    results: Vec<T>,
}

#[derive(Deserialize)]
struct Stored {
    msg_id: String,
    duplicate: bool,
    durability: String,
}

impl Stored {
    fn sent(&self) -> Result<Sent, Error> {
        let durability = match self.durability.as_str() {
            "fsync" => Durability::Fsync,
            "ram" => Durability::Ram,
            _ => return Err(UNLIKE),
        };
        let msg_id = MessageId::parse(&self.msg_id).map_err(|_| UNLIKE)?;
        Ok(Sent { msg_id, duplicate: self.duplicate, durability })
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Item {
    Stored(Stored),
    Refused { error: String, reason: String },
}

impl Item {
    fn sent(self) -> Result<Result<Sent, Refused>, Error> {
        match self {
            Item::Stored(stored) => stored.sent().map(Ok),
            Item::Refused { error, reason } => Ok(Err(Refused { text: error, ..Refused::of_entry(&reason) })),
        }
    }
}

#[derive(Deserialize)]
struct Fate {
    ok: bool,
    reason: Option<String>,
}

impl Fate {
    fn result(self) -> Result<(), Refused> {
        if self.ok { Ok(()) } else { Err(Refused::of_entry(&self.reason.unwrap_or_default())) }
    }
}

#[derive(Deserialize)]
struct Received {
    messages: Vec<Envelope>,
}

#[derive(Deserialize)]
struct Envelope {
    msg_id: String,
    receipt: String,
    enqueued_at: String,
    attempt: u32,
    delivery: u32,
    idempotency_key: Option<String>,
    content_type: String,
    attrs: BTreeMap<String, String>,
    payload: Option<String>,
    payload_b64: Option<String>,
    body_ref: Option<String>,
    corr_id: String,
    deadline: String,
    source_msg_id: Option<String>,
    restored_at: Option<String>,
}

impl Envelope {
    fn delivery(self) -> Result<Delivery, Error> {
        let payload = match (self.payload, self.payload_b64) {
            (Some(text), None) => Bytes::from(text),
            (None, Some(text)) => BASE64.decode(text.as_bytes()).map_err(|_| UNLIKE)?.into(),
            _ => return Err(UNLIKE),
        };
        Ok(Delivery {
            msg_id: MessageId::parse(&self.msg_id).map_err(|_| UNLIKE)?,
            receipt: Receipt::parse(&self.receipt).map_err(|_| UNLIKE)?,
            enqueued_ms: unix_ms(&self.enqueued_at)?,
            deadline_ms: unix_ms(&self.deadline)?,
            attempt: self.attempt,
            delivery: self.delivery,
            idempotency_key: self.idempotency_key,
            content_type: self.content_type,
            attrs: self.attrs.into_iter().collect(),
            payload,
            corr_id: self.corr_id,
            source_msg_id: self.source_msg_id,
            restored_ms: self.restored_at.as_deref().map(unix_ms).transpose()?,
            body_ref: self.body_ref.as_deref().map(ContentHash::parse).transpose().map_err(|_| UNLIKE)?,
        })
    }
}

fn unix_ms(text: &str) -> Result<u64, Error> {
    let at = OffsetDateTime::parse(text, &Rfc3339).map_err(|_| UNLIKE)?;
    u64::try_from(at.unix_timestamp_nanos() / 1_000_000).map_err(|_| UNLIKE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn call(ask: Ask) -> Call {
        Call { topic: "orders".to_owned(), ask }
    }

    #[test]
    fn a_send_is_a_body_with_headers() {
        let message = Message::new("hi")
            .key("k1")
            .content_type("text/plain")
            .ttl(Duration::from_secs(60))
            .attr("a", "b");
        let request = request(&call(Ask::Send(message)), "acme", "h:1", "ron1_x").unwrap();
        assert_eq!(request.uri().path(), "/v1/acme/orders/enqueue");
        let header = |name: &str| request.headers().get(name).map(|value| value.to_str().unwrap());
        assert_eq!(header("idempotency-key"), Some("k1"));
        assert_eq!((header("x-ttl-ms"), header("x-delay-ms")), (Some("60000"), None));
        assert_eq!((header("x-attr-a"), header("content-type")), (Some("b"), Some("text/plain")));
        assert_eq!(header("authorization"), Some("Bearer ron1_x"));
        assert!(!format!("{request:?}").contains("ron1_x"), "what is logged has no capability");
    }

    #[test]
    fn what_cannot_be_a_header_is_refused_before_it_is_sent() {
        for message in [Message::new("x").key("a\nb"), Message::new("x").attr("a b", "c")] {
            let refused = request(&call(Ask::Send(message)), "acme", "h:1", "ron1_x");
            assert!(matches!(refused, Err(Error::Invalid(_))));
        }
    }

    #[test]
    fn an_envelope_is_a_delivery() {
        let receipt = Receipt::from_bytes([7; 28]);
        let body = json!({"messages": [{
            "msg_id": "01M800JC6WWWS0000000000000", "receipt": receipt.to_string(), "tenant": "acme",
            "topic": "orders", "enqueued_at": "2023-11-14T22:13:20.007Z", "attempt": 1, "delivery": 2,
            "content_type": "application/octet-stream", "attrs": {"a": "b"}, "payload_hash": "b3:00",
            "payload_b64": "aGk=", "corr_id": "c", "deadline": "2023-11-14T22:13:25.007Z",
        }]});
        let want = call(Ask::Recv(Want::up_to(1)));
        let read = read(&want, StatusCode::OK, &HeaderMap::new(), body.to_string().as_bytes()).unwrap();
        let Outcome::Delivered(list) = read else { panic!("{read:?}") };
        assert_eq!(list[0].payload, "hi");
        assert_eq!((list[0].enqueued_ms, list[0].deadline_ms), (1_700_000_000_007, 1_700_000_005_007));
        assert_eq!((list[0].receipt, list[0].attr("a")), (receipt, Some("b")));
    }

    #[test]
    fn refusals_say_when_to_come_again_and_what_is_not_known() {
        let mut head = HeaderMap::new();
        head.insert("retry-after", HeaderValue::from_static("2"));
        head.insert("x-effect", HeaderValue::from_static("unknown"));
        let body = br#"{"error":"the store is full","reason":"STORAGE","corr_id":"c"}"#;
        let storage = refused(StatusCode::SERVICE_UNAVAILABLE, &head, body);
        assert_eq!((storage.reason.as_str(), storage.retry_after_ms), ("STORAGE", Some(2_000)));
        assert!(storage.effect_unknown);
        assert_eq!(storage.to_string(), "STORAGE: the store is full (corr_id c)");
        let proxy = refused(StatusCode::BAD_GATEWAY, &HeaderMap::new(), b"<html>");
        assert!(proxy.effect_unknown && proxy.reason == "HTTP 502");
        assert!(!refused(StatusCode::FORBIDDEN, &HeaderMap::new(), b"").effect_unknown);
    }

    #[test]
    fn each_of_a_batch_has_its_own_result() {
        let body =
            br#"{"results":[{"msg_id":"01M800JC6WWWS0000000000000","duplicate":true,"durability":"fsync"},
            {"error":"too long","reason":"BODY_LIMIT"}]}"#;
        let batch = call(Ask::SendAll(vec![Message::new("a"), Message::new("b")]));
        let Outcome::Sent(results) = read(&batch, StatusCode::OK, &HeaderMap::new(), body).unwrap() else {
            panic!()
        };
        assert!(results[0].as_ref().unwrap().duplicate);
        let refused = results[1].as_ref().unwrap_err();
        assert_eq!((refused.code, refused.text.as_str()), (413, "too long"));
    }
}
